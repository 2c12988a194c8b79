"""threshold lab: the log of changes, and selections"""

import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')


def upgrade() -> None:
    op.create_table('change',
    sa.Column('id', ID, nullable=False),
    sa.Column('dataset_id', ID, nullable=False),
    sa.Column('low', ID, nullable=False),
    sa.Column('high', ID, nullable=False),
    sa.ForeignKeyConstraint(['dataset_id'], ['dataset.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id'),
    sqlite_autoincrement=True
    )
    op.create_index('change_dataset', 'change', ['dataset_id', 'id'], unique=False)
    op.create_table('selection',
    sa.Column('token', sa.Text(), nullable=False),
    sa.Column('candidate_id', ID, nullable=False),
    sa.ForeignKeyConstraint(['candidate_id'], ['candidate.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('token', 'candidate_id'),
    sqlite_with_rowid=False
    )
    op.create_index('selection_candidate', 'selection', ['candidate_id'], unique=False)


def downgrade() -> None:
    op.drop_table('selection')
    op.drop_table('change')

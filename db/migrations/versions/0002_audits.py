"""audits: random samples of what a policy accepted, in a fixed order"""

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')


def upgrade() -> None:
    op.create_table('audit',
    sa.Column('id', ID, nullable=False),
    sa.Column('dataset_id', ID, nullable=False),
    sa.Column('policy_id', ID, nullable=False),
    sa.Column('run_id', ID, nullable=True),
    sa.Column('design', sa.Text(), nullable=False),
    sa.Column('size', sa.Integer(), nullable=False),
    sa.Column('population', sa.Integer(), nullable=False),
    sa.Column('seed', ID, nullable=False),
    sa.Column('hide', sa.Boolean(), nullable=False),
    sa.Column('after_verdict', ID, nullable=False),
    sa.Column('strata', sa.LargeBinary(), nullable=False),
    sa.Column('ids', sa.LargeBinary(), nullable=False),
    sa.Column('codes', sa.LargeBinary(), nullable=False),
    sa.Column('created_at', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['dataset_id'], ['dataset.id'], ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['policy_id'], ['policy.id'], ),
    sa.ForeignKeyConstraint(['run_id'], ['run.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('audit_dataset', 'audit', ['dataset_id', 'id'], unique=False)
    op.create_table('audit_item',
    sa.Column('audit_id', ID, nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('candidate_id', ID, nullable=False),
    sa.Column('stratum', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['audit_id'], ['audit.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('audit_id', 'position'),
    sqlite_with_rowid=False
    )
    op.create_index('audit_item_candidate', 'audit_item', ['audit_id', 'candidate_id'], unique=True)


def downgrade() -> None:
    op.drop_table('audit_item')
    op.drop_table('audit')

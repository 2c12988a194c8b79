"""image edits: corrected annotations of images, version by version"""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')


def upgrade() -> None:
    op.create_table('image_edit',
    sa.Column('id', ID, nullable=False),
    sa.Column('op_id', sa.Text(), nullable=False),
    sa.Column('image_id', ID, nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('reviewer', sa.Text(), nullable=False),
    sa.Column('annotations', sa.LargeBinary(), nullable=False),
    sa.Column('at', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['image_id'], ['image.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('image_id', 'number', name='image_edit_number'),
    sa.UniqueConstraint('op_id')
    )


def downgrade() -> None:
    op.drop_table('image_edit')

"""boxes by class and image, which counts the classes of a data set without a look at its boxes"""

from alembic import op

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index('box_category', table_name='box')
    op.create_index('box_category', 'box', ['category_id', 'image_id'], unique=False)


def downgrade() -> None:
    op.drop_index('box_category', table_name='box')
    op.create_index('box_category', 'box', ['category_id'], unique=False)

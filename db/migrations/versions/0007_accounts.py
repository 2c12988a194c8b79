"""accounts, sessions, and the trail of what people did"""

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0005'
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')


def upgrade() -> None:
    op.create_table('account',
    sa.Column('id', ID, nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('role', sa.Text(), nullable=False),
    sa.Column('password', sa.Text(), nullable=False),
    sa.Column('one_time', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.Float(), nullable=False),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('name')
    )
    op.create_table('session',
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('account_id', ID, nullable=False),
    sa.Column('created_at', sa.Float(), nullable=False),
    sa.Column('until', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('digest')
    )
    op.create_index('session_account', 'session', ['account_id'], unique=False)
    op.create_table('trail',
    sa.Column('id', ID, nullable=False),
    sa.Column('at', sa.Float(), nullable=False),
    sa.Column('actor', sa.Text(), nullable=False),
    sa.Column('action', sa.Text(), nullable=False),
    sa.Column('status', sa.Integer(), nullable=False),
    sa.Column('request', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('trail_actor', 'trail', ['actor', 'id'], unique=False)
    if op.get_bind().dialect.name == 'sqlite':
        for verb in ('UPDATE', 'DELETE'):
            op.execute(f"CREATE TRIGGER trail_no_{verb.lower()} BEFORE {verb} ON trail BEGIN "
                       "SELECT RAISE(ABORT, 'the trail is never changed'); END")


def downgrade() -> None:
    for table in ('trail', 'session', 'account'):
        op.drop_table(table)

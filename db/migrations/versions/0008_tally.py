"""how many candidates there are of each data set, run, kind, class and human state, kept by triggers"""

import sqlalchemy as sa
from alembic import op

from db.postgres import TALLY

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
WORDS = sa.Text().with_variant(sa.VARCHAR(collation='C'), 'postgresql')
COLUMNS = 'dataset_id, run_id, kind, category_id, human'
OF = "{0}.dataset_id, {0}.run_id, {0}.kind, coalesce({0}.category_id, -1), coalesce({0}.human, '')"
NEW, OLD = OF.format('new'), OF.format('old')
ONE_MORE = f"INSERT INTO tally VALUES ({NEW}, 1) ON CONFLICT ({COLUMNS}) DO UPDATE SET n = n + 1;"
ONE_LESS = f"""UPDATE tally SET n = n - 1 WHERE ({COLUMNS}) = ({OLD});
        DELETE FROM tally WHERE ({COLUMNS}) = ({OLD}) AND n = 0;"""
TRIGGERS = (
    f"CREATE TRIGGER tally_insert AFTER INSERT ON candidate BEGIN {ONE_MORE} END",
    f"CREATE TRIGGER tally_delete AFTER DELETE ON candidate BEGIN {ONE_LESS} END",
    f"""CREATE TRIGGER tally_update AFTER UPDATE OF {COLUMNS} ON candidate WHEN ({OLD}) != ({NEW})
        BEGIN {ONE_LESS} {ONE_MORE} END""",
)
FILL = f"INSERT INTO tally SELECT {OF.format('candidate')}, count(*) FROM candidate GROUP BY 1, 2, 3, 4, 5"


def upgrade() -> None:
    op.create_table('tally',
    sa.Column('dataset_id', ID, nullable=False),
    sa.Column('run_id', ID, nullable=False),
    sa.Column('kind', WORDS, nullable=False),
    sa.Column('category_id', ID, nullable=False),
    sa.Column('human', WORDS, nullable=False),
    sa.Column('n', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('dataset_id', 'run_id', 'kind', 'category_id', 'human'),
    sqlite_with_rowid=False
    )
    for statement in TRIGGERS if op.get_bind().dialect.name == 'sqlite' else TALLY:
        op.execute(statement)
    op.execute(FILL)


def downgrade() -> None:
    sqlite = op.get_bind().dialect.name == 'sqlite'
    for verb in ('insert', 'delete', 'update'):
        op.execute(f"DROP TRIGGER tally_{verb}" + ("" if sqlite else " ON candidate"))
    if not sqlite:
        op.execute("DROP FUNCTION winnow_tally")
    op.drop_table('tally')

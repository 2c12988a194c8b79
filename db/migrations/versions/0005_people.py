"""acts, leases, second looks, disputes, saved views, and search in the texts"""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
SEARCH = (
    """CREATE VIRTUAL TABLE candidate_text USING fts5(
        text_before, text_after, content='candidate', content_rowid='id', tokenize="unicode61 remove_diacritics 2")""",
    """CREATE TRIGGER candidate_text_insert AFTER INSERT ON candidate
        WHEN new.text_before IS NOT NULL OR new.text_after IS NOT NULL BEGIN
        INSERT INTO candidate_text (rowid, text_before, text_after) VALUES (new.id, new.text_before, new.text_after); END""",
    """CREATE TRIGGER candidate_text_delete AFTER DELETE ON candidate
        WHEN old.text_before IS NOT NULL OR old.text_after IS NOT NULL BEGIN
        INSERT INTO candidate_text (candidate_text, rowid, text_before, text_after)
        VALUES ('delete', old.id, old.text_before, old.text_after); END""",
    "INSERT INTO candidate_text (candidate_text) VALUES ('rebuild')",
)

DISPUTES = """
    WITH latest AS (
        SELECT candidate_id, reviewer, decision, max(id) FROM verdict
        WHERE decision != 'undo' AND NOT EXISTS (
            SELECT 1 FROM verdict AS u WHERE u.undoes = verdict.op_id AND u.candidate_id = verdict.candidate_id)
        GROUP BY candidate_id, reviewer)
    INSERT INTO dispute (candidate_id, dataset_id)
    SELECT candidate_id, dataset_id FROM latest JOIN candidate ON candidate.id = candidate_id
    WHERE decision IN ('accept', 'edit', 'reject') GROUP BY candidate_id
    HAVING count(*) > 1 AND sum(CASE decision WHEN 'reject' THEN -1 ELSE 1 END) = 0"""


def upgrade() -> None:
    op.add_column('candidate', sa.Column('strategy', sa.Text(), nullable=True))
    op.execute("UPDATE candidate SET strategy = json_extract(CAST(detail AS TEXT), '$.strategy') WHERE detail IS NOT NULL")
    op.create_index('candidate_strategy', 'candidate', ['dataset_id', 'strategy', 'id'], unique=False)
    op.add_column('verdict', sa.Column('act', sa.Text(), nullable=True))
    op.create_index('verdict_act', 'verdict', ['act', 'id'], unique=False)
    op.create_index('verdict_reviewer', 'verdict', ['reviewer', 'id'], unique=False)
    op.create_table('lease',
    sa.Column('candidate_id', ID, nullable=False),
    sa.Column('reviewer', sa.Text(), nullable=False),
    sa.Column('until', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['candidate_id'], ['candidate.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('candidate_id')
    )
    op.create_index('lease_until', 'lease', ['until'], unique=False)
    op.create_table('second_look',
    sa.Column('candidate_id', ID, nullable=False),
    sa.Column('dataset_id', ID, nullable=False),
    sa.Column('reviewer', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['candidate_id'], ['candidate.id'], ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['dataset_id'], ['dataset.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('candidate_id')
    )
    op.create_index('second_look_dataset', 'second_look', ['dataset_id', 'candidate_id'], unique=False)
    op.create_table('dispute',
    sa.Column('candidate_id', ID, nullable=False),
    sa.Column('dataset_id', ID, nullable=False),
    sa.ForeignKeyConstraint(['candidate_id'], ['candidate.id'], ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['dataset_id'], ['dataset.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('candidate_id')
    )
    op.create_index('dispute_dataset', 'dispute', ['dataset_id', 'candidate_id'], unique=False)
    op.create_table('review_setting',
    sa.Column('dataset_id', ID, nullable=False),
    sa.Column('double_share', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['dataset_id'], ['dataset.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('dataset_id')
    )
    op.create_table('saved_view',
    sa.Column('id', ID, nullable=False),
    sa.Column('dataset_id', ID, nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('query', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['dataset_id'], ['dataset.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('dataset_id', 'name', name='saved_view_name')
    )
    for statement in (*SEARCH, DISPUTES):
        op.execute(statement)


def downgrade() -> None:
    for name in ('insert', 'delete'):
        op.execute(f'DROP TRIGGER candidate_text_{name}')
    op.execute('DROP TABLE candidate_text')
    for table in ('saved_view', 'review_setting', 'dispute', 'second_look', 'lease'):
        op.drop_table(table)
    op.drop_index('verdict_reviewer', 'verdict')
    op.drop_index('verdict_act', 'verdict')
    op.drop_column('verdict', 'act')
    op.drop_index('candidate_strategy', 'candidate')
    op.drop_column('candidate', 'strategy')

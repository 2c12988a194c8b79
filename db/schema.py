"""The tables. Migrations build them; a test asserts that migrating an empty file gives exactly this.

JSON lives in BLOB columns as UTF-8 bytes (written and read by msgspec), times are POSIX seconds, source ids are JSON
scalars in text so that 7 and "7" stay apart. PostgreSQL gets the same tables (`db/postgres.py`).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
)

from db.dialects import Words

metadata = MetaData()
Id = BigInteger().with_variant(Integer, "sqlite")


def _id() -> Column[int]:
    return Column("id", Id, primary_key=True)


def _ref(name: str, target: str, *, nullable: bool = False, cascade: bool = True) -> Column[int]:
    return Column(name, Id, ForeignKey(target, ondelete="CASCADE" if cascade else None), nullable=nullable)


def _json(name: str, *, nullable: bool = True) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=nullable)


dataset = Table(
    "dataset",
    metadata,
    _id(),
    Column("name", Words, nullable=False, unique=True),
    Column("format", Words, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("images", Integer, nullable=False),
    Column("boxes", Integer, nullable=False),
    Column("phrases", Integer, nullable=False),
    _json("info"),
)

quarantine = Table(
    "quarantine",
    metadata,
    _id(),
    _ref("dataset_id", "dataset.id"),
    Column("file", Words, nullable=False),
    Column("item", Words, nullable=False),
    Column("seen", Words, nullable=False),
    Column("expected", Words, nullable=False),
    Index("quarantine_dataset", "dataset_id"),
)

image = Table(
    "image",
    metadata,
    _id(),
    _ref("dataset_id", "dataset.id"),
    Column("split", Words, nullable=False),
    Column("source_id", Words),
    Column("file_name", Words, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("digest", Words),
    _json("extra"),
    Index("image_dataset", "dataset_id", "split", "id"),
)

category = Table(
    "category",
    metadata,
    _id(),
    _ref("dataset_id", "dataset.id"),
    Column("source_id", Words),
    Column("name", Words, nullable=False),
    Column("frequency", Words),
    _json("extra"),
    Index("category_dataset", "dataset_id", "id"),
)

box = Table(
    "box",
    metadata,
    _id(),
    _ref("image_id", "image.id"),
    _ref("category_id", "category.id", nullable=True),
    Column("source_id", Words),
    *(Column(name, Float, nullable=False) for name in ("x1", "y1", "x2", "y2")),
    *(Column(name, Float) for name in ("w", "h", "area")),
    Column("crowd", Boolean, nullable=False),
    _json("segmentation"),
    _json("extra"),
    Index("box_image", "image_id"),
    Index("box_category", "category_id", "image_id"),
)

phrase = Table(
    "phrase",
    metadata,
    _id(),
    _ref("image_id", "image.id"),
    _ref("parent_id", "phrase.id", nullable=True),
    Column("text", Words, nullable=False),
    Column("holds", Boolean, nullable=False),
    _json("spans"),
    _json("extra"),
    Index("phrase_image", "image_id"),
    Index("phrase_parent", "parent_id"),
)

phrase_box = Table(
    "phrase_box",
    metadata,
    Column("phrase_id", Id, ForeignKey("phrase.id", ondelete="CASCADE"), primary_key=True),
    Column("box_id", Id, ForeignKey("box.id", ondelete="CASCADE"), primary_key=True),
    Index("phrase_box_box", "box_id"),
    sqlite_with_rowid=False,
)

policy = Table(
    "policy",
    metadata,
    _id(),
    Column("name", Words, nullable=False),
    Column("version", Integer, nullable=False),
    _json("rules", nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("name", "version", name="policy_name_version"),
)

run = Table(
    "run",
    metadata,
    _id(),
    Column("kind", Words, nullable=False),
    Column("title", Words, nullable=False),
    Column("state", Words, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("seed", Id, nullable=False),
    _ref("dataset_id", "dataset.id", nullable=True),
    _ref("after_id", "run.id", nullable=True, cascade=False),
    Column("recipe", Words, nullable=False),
    _json("options", nullable=False),
    _json("versions", nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("pause_requested", Boolean, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    _json("result", nullable=False),
    Column("error", Words),
    Index("run_state", "state", "id"),
)

shard = Table(
    "shard",
    metadata,
    _id(),
    _ref("run_id", "run.id"),
    Column("number", Integer, nullable=False),
    Column("state", Words, nullable=False),
    _json("payload", nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("lease_owner", Words),
    Column("lease_until", Float),
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("error", Words),
    UniqueConstraint("run_id", "number", name="shard_run_number"),
    Index("shard_state", "state", "lease_until"),
)

log = Table(
    "log",
    metadata,
    _id(),
    _ref("run_id", "run.id"),
    Column("at", Float, nullable=False),
    Column("level", Words, nullable=False),
    Column("text", Words, nullable=False),
    Column("shard", Integer),
    Index("log_run", "run_id", "id"),
)

worker = Table(
    "worker",
    metadata,
    Column("name", Words, primary_key=True),
    Column("seen_at", Float, nullable=False),
    _ref("run_id", "run.id", nullable=True),
)

metric = Table(
    "metric",
    metadata,
    Column("run_id", Id, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Words, primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("value", Float, nullable=False),
    Column("at", Float, nullable=False),
    sqlite_with_rowid=False,
)

candidate = Table(
    "candidate",
    metadata,
    _id(),
    _ref("run_id", "run.id"),
    _ref("dataset_id", "dataset.id"),
    _ref("image_id", "image.id"),
    Column("target", Words, nullable=False),
    Column("variant", Integer, nullable=False),
    Column("kind", Words, nullable=False),
    Column("seed", Id, nullable=False),
    _ref("category_id", "category.id", nullable=True),
    _ref("box_id", "box.id", nullable=True),
    _ref("phrase_id", "phrase.id", nullable=True),
    *(Column(name, Float) for name in ("x1", "y1", "x2", "y2")),
    Column("text_before", Words),
    Column("text_after", Words),
    Column("digest", Words),
    _json("detail"),
    Column("created_at", Float, nullable=False),
    Column("shuffle", Float, nullable=False),  # a fixed pseudo-random rank, for the random order of review
    Column("human", Words),  # projection of the verdict log: the standing human decision
    Column("strategy", Words),  # how the writer was told to go about it; from `detail`, to be searched by
    UniqueConstraint("run_id", "target", "variant", name="candidate_key"),
    Index("candidate_queue", "dataset_id", "human", "id"),
    Index("candidate_random", "dataset_id", "human", "shuffle", "id"),
    Index("candidate_class", "dataset_id", "human", "category_id", "id"),
    Index("candidate_strategy", "dataset_id", "strategy", "id"),
    Index("candidate_image", "image_id"),
    Index("candidate_box", "box_id"),
    Index("candidate_phrase", "phrase_id"),
)

tally = Table(  # how many candidates there are of each: triggers keep it, on every path that touches a candidate
    "tally",
    metadata,
    Column("dataset_id", Id, primary_key=True, autoincrement=False),
    Column("run_id", Id, primary_key=True, autoincrement=False),
    Column("kind", Words, primary_key=True),
    Column("category_id", Id, primary_key=True, autoincrement=False),  # -1 for those of no class
    Column("human", Words, primary_key=True),  # "" for what nobody has decided
    Column("n", Integer, nullable=False),  # never 0: the last one takes the row with it
    sqlite_with_rowid=False,
)

score = Table(
    "score",
    metadata,
    Column("candidate_id", Id, ForeignKey("candidate.id", ondelete="CASCADE"), primary_key=True),
    Column("filter", Words, primary_key=True),
    Column("value", Float),
    Column("reason", Words, nullable=False),
    Index("score_value", "filter", "value", "candidate_id"),
    sqlite_with_rowid=False,
)

verdict = Table(
    "verdict",
    metadata,
    _id(),
    Column("op_id", Words, nullable=False, unique=True),
    _ref("candidate_id", "candidate.id"),
    Column("decision", Words, nullable=False),
    Column("reviewer", Words, nullable=False),
    Column("reason", Words),
    _json("edit"),
    Column("undoes", Words),
    Column("at", Float, nullable=False),
    Column("act", Words),  # verdicts given together: one act, taken back as one
    Index("verdict_candidate", "candidate_id", "id"),
    Index("verdict_undoes", "undoes"),
    Index("verdict_act", "act", "id"),
    Index("verdict_reviewer", "reviewer", "id"),
)

change = Table(  # which candidates a transaction touched, for what is kept in memory (`db/columns.py`)
    "change",
    metadata,
    _id(),
    _ref("dataset_id", "dataset.id"),
    Column("low", Id, nullable=False),
    Column("high", Id, nullable=False),
    Index("change_dataset", "dataset_id", "id"),
    sqlite_autoincrement=True,  # ids that are never given twice: a reader remembers the last one it has seen
)

selection = Table(  # candidates that somebody picked out, to look at them in Review
    "selection",
    metadata,
    Column("token", Words, primary_key=True),
    Column("candidate_id", Id, ForeignKey("candidate.id", ondelete="CASCADE"), primary_key=True),
    Index("selection_candidate", "candidate_id"),
    sqlite_with_rowid=False,
)

audit = Table(
    "audit",
    metadata,
    _id(),
    _ref("dataset_id", "dataset.id"),
    _ref("policy_id", "policy.id", cascade=False),
    _ref("run_id", "run.id", nullable=True),
    Column("design", Words, nullable=False),
    Column("size", Integer, nullable=False),
    Column("population", Integer, nullable=False),
    Column("seed", Id, nullable=False),
    Column("hide", Boolean, nullable=False),
    Column("after_verdict", Id, nullable=False),  # the last verdict before it began: later ones are its looks
    _json("strata", nullable=False),
    Column("ids", LargeBinary, nullable=False),  # all that was accepted, and the stratum of each: see `db/audits.py`
    Column("codes", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("audit_dataset", "dataset_id", "id"),
)

audit_item = Table(
    "audit_item",
    metadata,
    Column("audit_id", Id, ForeignKey("audit.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("candidate_id", Id, nullable=False),  # no foreign key: a deleted candidate keeps its place in the sample
    Column("stratum", Integer, nullable=False),
    Index("audit_item_candidate", "audit_id", "candidate_id", unique=True),
    sqlite_with_rowid=False,
)

image_edit = Table(  # what people corrected in the annotations of an image: whole versions (`db/edits.py`)
    "image_edit",
    metadata,
    _id(),
    Column("op_id", Words, nullable=False, unique=True),
    _ref("image_id", "image.id"),
    Column("number", Integer, nullable=False),
    Column("reviewer", Words, nullable=False),
    _json("annotations", nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("image_id", "number", name="image_edit_number"),
)

snapshot = Table(
    "snapshot",
    metadata,
    _id(),
    Column("name", Words, nullable=False, unique=True),
    _ref("dataset_id", "dataset.id"),
    _ref("policy_id", "policy.id", nullable=True, cascade=False),
    Column("digest", Words, nullable=False),
    _json("counts", nullable=False),
    Column("created_at", Float, nullable=False),
)

lease = Table(  # who has a candidate on the screen, and until when nobody else is given it
    "lease",
    metadata,
    Column("candidate_id", Id, ForeignKey("candidate.id", ondelete="CASCADE"), primary_key=True),
    Column("reviewer", Words, nullable=False),
    Column("until", Float, nullable=False),
    Index("lease_until", "until"),
)

second_look = (
    Table(  # projection of the verdict log: decided by `reviewer` alone, and somebody else is to decide unseen
        "second_look",
        metadata,
        Column("candidate_id", Id, ForeignKey("candidate.id", ondelete="CASCADE"), primary_key=True),
        _ref("dataset_id", "dataset.id"),
        Column("reviewer", Words, nullable=False),
        Index("second_look_dataset", "dataset_id", "candidate_id"),
    )
)

dispute = Table(  # projection of the verdict log: as many people for as against
    "dispute",
    metadata,
    Column("candidate_id", Id, ForeignKey("candidate.id", ondelete="CASCADE"), primary_key=True),
    _ref("dataset_id", "dataset.id"),
    Index("dispute_dataset", "dataset_id", "candidate_id"),
)

review_setting = Table(
    "review_setting",
    metadata,
    Column("dataset_id", Id, ForeignKey("dataset.id", ondelete="CASCADE"), primary_key=True),
    Column("double_share", Float, nullable=False),  # of the candidates two people decide, neither knowing of the other
)

saved_view = Table(
    "saved_view",
    metadata,
    _id(),
    _ref("dataset_id", "dataset.id"),
    Column("name", Words, nullable=False),
    Column("query", Words, nullable=False),  # as it stands in the address of the page
    Column("created_at", Float, nullable=False),
    UniqueConstraint("dataset_id", "name", name="saved_view_name"),
)

account = Table(
    "account",
    metadata,
    _id(),
    Column("name", Words, nullable=False, unique=True),
    Column("role", Words, nullable=False),
    Column("password", Words, nullable=False),  # a scrypt hash with its salt: see `db/users.py`
    Column("one_time", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
)

session = Table(
    "session",
    metadata,
    Column("digest", Words, primary_key=True),  # of the token that the browser has
    _ref("account_id", "account.id"),
    Column("created_at", Float, nullable=False),
    Column("until", Float, nullable=False),
    Index("session_account", "account_id"),
)

trail = Table(  # who did what; triggers refuse every change of a line
    "trail",
    metadata,
    _id(),
    Column("at", Float, nullable=False),
    Column("actor", Words, nullable=False),
    Column("action", Words, nullable=False),
    Column("status", Integer, nullable=False),
    Column("request", Words, nullable=False),
    Index("trail_actor", "actor", "id"),
)

# `candidate_text`, the search index of both texts, is a table of SQLite's own (FTS5) kept up by triggers: see migration 0005.

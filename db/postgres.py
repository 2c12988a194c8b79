"""PostgreSQL: one database for several machines. How it is reached, what is locked, and what only it has.

Writers take turns, on all machines together: each write transaction first takes one advisory lock of the database. So
everything that holds of SQLite's one writer holds here: a claim sees every claim before it, and ids are given in the order in
which transactions become visible (`db/columns.py`, audits and leases rely on that). It costs one round trip for each
write, and no two commits overlap; while a data set is imported, other writers wait as they do with a file. Readers wait
for nobody.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, event, exc, make_url, text

from db.errors import Busy, DiskFull, Unreachable, WinnowError

LOCK = 0x57494E4E4F57  # of all writers of a database: "WINNOW" in ASCII
LOCK_SECONDS, IDLE_SECONDS, CONNECT_SECONDS = 10, 60, 5
READ_SECONDS = 120  # of one question; writers, who import and migrate, may take longer
CONNECTIONS = 10  # kept for each of readers and writers; as many again when they are needed
LIBRARY = "PostgreSQL needs a library that is not installed: pip install 'winnow[cluster]'"


def url_of(place: str) -> URL:
    """The URL of a PostgreSQL database. Raises WinnowError, without repeating a password, for anything else."""
    try:
        url = make_url(place)
    except exc.ArgumentError:
        url = None
    if url is None or url.get_backend_name() not in ("postgresql", "postgres"):
        seen = "no URL at all" if url is None else f"one of {url.drivername}"
        raise WinnowError(f"The setting database_url is {seen}; right is postgresql://USER:PASSWORD@HOST/DATABASE.")
    return url.set(drivername="postgresql+psycopg")


def shown(place: str) -> str:
    """The URL as people may see it."""
    return url_of(place).set(drivername="postgresql").render_as_string(hide_password=True)


def engine(place: str, *, read_only: bool = False, lock_seconds: int = LOCK_SECONDS) -> Engine:
    """Connections for readers, who see one moment for the length of a transaction, or for writers, who take turns.

    A frozen process loses its transaction, and with it the lock, after a minute.
    """
    options = {
        "lock_timeout": f"{lock_seconds}s",
        "statement_timeout": f"{READ_SECONDS}s" if read_only else "0",
        "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
        "default_transaction_read_only": "on" if read_only else "off",
        "client_encoding": "UTF8",
    }
    try:
        made = create_engine(
            url_of(place),
            # whoever waited for the lock must see what came meanwhile
            isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
            pool_size=CONNECTIONS,
            max_overflow=CONNECTIONS,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "application_name": "winnow",
                "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            },
        )
    except ModuleNotFoundError as error:
        raise WinnowError(LIBRARY) from error
    if not read_only:
        event.listen(made, "begin", _take_turns)
    return made


def _take_turns(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")


def in_words(error: exc.DBAPIError, place: str) -> WinnowError | None:
    """What an error of the driver means to a person; None when it is a bug."""
    state = getattr(error.orig, "sqlstate", None)
    if state == "53100":
        return DiskFull("The disk of the database is full: nothing was saved. Free some space and try again.")
    if state == "55P03":
        return Busy(f"Another process kept the database locked for {LOCK_SECONDS} s: nothing was saved. Try again.")
    lost = isinstance(error, exc.OperationalError | exc.InterfaceError) and state is None
    if lost or error.connection_invalidated or (state or "")[:2] in ("08", "53", "57") or state == "25P03":
        why = (str(error.orig).strip().splitlines() or ["no reason given"])[0]
        return Unreachable(f"The database {shown(place)} cannot be used now: {why}. Nothing was saved; try again.")
    return None


def copy_rows(connection: Connection, into: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert tuples into `TABLE (COLUMNS)` by COPY."""
    import psycopg

    cursor: Any = connection.connection.cursor()
    try:
        with cursor.copy(f"COPY {into} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.OperationalError as error:
        raise exc.OperationalError(f"COPY {into}", None, error) from error
    except psycopg.DataError as error:
        raise WinnowError(f"The database refuses a row for {into}: {error}") from error
    finally:
        cursor.close()


# The schema. Tables come from `db/schema.py`; the rest is what SQLite has in its migrations.

# Words as FTS5's unicode61 sees them: letters and digits, without marks and capitals. "|" is no word, and keeps a phrase from
# reaching from one text into the other.
_PLAIN = r"""to_tsvector('pg_catalog.simple', regexp_replace(regexp_replace(
        normalize(lower(coalesce({0}, '') COLLATE pg_catalog."und-x-icu"), NFKD), '[\u0300-\u036f]', '', 'g'),
        '[^[:alnum:]]+', ' ', 'g'))"""
INDEXED = f"""
CREATE FUNCTION winnow_words(before text, after text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT {_PLAIN.format("before")} || '''|'':1'::tsvector || {_PLAIN.format("after")}
$$"""
INDEX = """
CREATE INDEX candidate_words ON candidate USING gin (winnow_words(text_before, text_after))
    WHERE text_before IS NOT NULL OR text_after IS NOT NULL"""
REFUSE = """
CREATE FUNCTION winnow_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the trail is never changed'; END
$$"""
TRAIL = "CREATE TRIGGER trail_never BEFORE UPDATE OR DELETE OR TRUNCATE ON trail EXECUTE FUNCTION winnow_refuse()"
# A part may come before its whole.
LATER = "ALTER TABLE phrase ALTER CONSTRAINT phrase_parent_id_fkey DEFERRABLE INITIALLY DEFERRED"
# The tally is kept by statement, not by row: a transaction that rewrites one row a million times passes all its dead versions
# each time. Migration 0008 runs these too: a change of them is a migration of its own.
_OF = "dataset_id, run_id, kind, coalesce(category_id, -1) AS category_id, coalesce(human, '') AS human"
_KEY = "dataset_id, run_id, kind, category_id, human"
_COUNTED = f"SELECT {_OF}, count(*) AS n FROM {{0}} GROUP BY 1, 2, 3, 4, 5"
_SAME = " AND ".join(f"tally.{name} = fewer.{name}" for name in _KEY.split(", "))
TALLY = (
    f"""
CREATE FUNCTION winnow_tally() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP != 'DELETE' THEN
            INSERT INTO tally AS kept {_COUNTED.format("added")}
                ON CONFLICT ({_KEY}) DO UPDATE SET n = kept.n + excluded.n;
        END IF;
        IF TG_OP != 'INSERT' THEN
            UPDATE tally SET n = tally.n - fewer.n FROM ({_COUNTED.format("gone")}) AS fewer WHERE {_SAME};
            DELETE FROM tally USING (SELECT DISTINCT {_OF} FROM gone) AS fewer WHERE {_SAME} AND n = 0;
        END IF;
        RETURN NULL;
    END
$$""",
    *(
        f"CREATE TRIGGER tally_{verb} AFTER {verb} ON candidate REFERENCING {rows} EXECUTE FUNCTION winnow_tally()"
        for verb, rows in (
            ("insert", "NEW TABLE AS added"),
            ("delete", "OLD TABLE AS gone"),
            ("update", "NEW TABLE AS added OLD TABLE AS gone"),
        )
    ),
)
OWN = (INDEXED, INDEX, REFUSE, TRAIL, LATER, *TALLY)


def phrase(text: str, *, goes_on: bool) -> str:
    """What `winnow_words` makes of a text, as a condition of a tsquery: these words in this order, of which the last may go on.
    "" for a text without words."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", text.lower()) if not "\u0300" <= one <= "\u036f")
    words = "".join(one if one.isalnum() else " " for one in plain).split()
    return "(" + " <-> ".join(words) + (":*)" if goes_on else ")") if words else ""


def create(connection: Connection, metadata: MetaData) -> None:
    """All tables in an empty database. Raises WinnowError when it holds others, or lacks what is needed."""
    if connection.execute(text("SELECT getdatabaseencoding()")).scalar_one() != "UTF8":
        raise WinnowError(
            "Winnow needs a PostgreSQL database with the encoding UTF8 (CREATE DATABASE ... ENCODING 'UTF8')."
        )
    try:
        metadata.create_all(connection, checkfirst=False)
        for statement in OWN:
            connection.exec_driver_sql(statement)
    except exc.ProgrammingError as error:
        raise WinnowError(
            f"Winnow cannot make its tables: {error.orig}. Give it a PostgreSQL database of its own, and the right to create in it."
        ) from error

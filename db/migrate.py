"""Bring a database to the current schema, a file after a backup, or refuse it and leave it untouched.

PostgreSQL came when the schema had its seventh revision: a new database there gets the tables of `db/schema.py` at once, and
every later revision runs on both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, exc

from db import postgres
from db.database import copy_database, sqlite_module
from db.errors import WinnowError
from db.schema import metadata

WAIT_SECONDS = 600  # for another process that migrates the same database


def migrate(place: Path | str) -> None:
    """Create or upgrade a SQLite file or the PostgreSQL database of a URL. An existing file is first copied to
    `NAME.before-REVISION`; a server has backups of its own.

    All steps are one transaction: killed half-way, the database is as it was. Of two processes that start at once the second
    waits and finds it done. Raises WinnowError, with nothing changed, when it is no database of Winnow, was written by a newer
    one, or cannot be reached.
    """
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if _is_there(place) and schema_of(place) == head:
        return
    with _alone(place) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == head:
            return
        config = _config()
        config.attributes["connection"] = connection
        if current is None and isinstance(place, str):
            postgres.create(connection, metadata)
            command.stamp(config, "head")
            return
        if current and isinstance(place, Path):
            copy_database(place, place.with_name(f"{place.name}.before-{head}"))
        command.upgrade(config, "head")


def schema_of(place: Path | str) -> str:
    """The revision of the schema of a database, "" when it has none yet. Raises WinnowError when it is no database, was written
    by a newer Winnow, or cannot be reached."""
    engine = _engine(place)
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    except exc.DBAPIError as error:
        said = postgres.in_words(error, place) if isinstance(place, str) else _no_database(place, error)
        raise said or error from error
    finally:
        engine.dispose()
    scripts = ScriptDirectory.from_config(_config())
    if current and current not in {script.revision for script in scripts.walk_revisions()}:
        what, newest = _shown(place), scripts.get_current_head()
        raise WinnowError(
            f"{what} was written by a newer Winnow (schema {current}, this one knows {newest}). Update Winnow."
        )
    return current or ""


def _no_database(path: Path, error: Exception) -> WinnowError:
    return WinnowError(f"{path} is not a Winnow database ({error}). Move it away or restore a backup.")


def _is_there(place: Path | str) -> bool:
    return isinstance(place, str) or (place.exists() and place.stat().st_size > 0)


def _shown(place: Path | str) -> str:
    return postgres.shown(place) if isinstance(place, str) else str(place)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _engine(place: Path | str) -> Engine:
    if isinstance(place, str):
        return postgres.engine(place, read_only=True)
    return create_engine(f"sqlite:///{place}", module=sqlite_module())


@contextmanager
def _alone(place: Path | str) -> Iterator[Connection]:
    """A transaction that nobody else can write beside."""
    engine = postgres.engine(place, lock_seconds=WAIT_SECONDS) if isinstance(place, str) else _file(place)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _file(path: Path) -> Engine:
    """SQLite's driver would begin a transaction for rows only, and leave every CREATE and ALTER one of its own."""
    engine = create_engine(f"sqlite:///{path}", module=sqlite_module(), connect_args={"timeout": WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=OFF")  # tables are rebuilt under rows that point to them

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine

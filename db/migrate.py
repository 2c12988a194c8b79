"""Bring a database file to the current schema, after a backup, or refuse it and leave it untouched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event

from db.database import copy_database, sqlite_module
from db.errors import WinnowError

WAIT_SECONDS = 600.0  # for another process that migrates the same file


def migrate(path: Path) -> None:
    """Create or upgrade the database at `path`. An existing file is first copied to `NAME.before-REVISION`.

    All steps are one transaction: killed half-way, the file is as it was. Of two processes that start at once the second
    waits and finds it done. Raises WinnowError, with the file unchanged, when it is no database or was written by a newer
    Winnow.
    """
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if path.exists() and path.stat().st_size and schema_of(path) == head:
        return
    with _alone(path) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == head:
            return
        if current:
            copy_database(path, path.with_name(f"{path.name}.before-{head}"))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def schema_of(path: Path) -> str:
    """The revision of the schema of a database file, "" when it has none yet. Raises WinnowError when it is no database or
    was written by a newer Winnow."""
    engine = create_engine(f"sqlite:///{path}", module=sqlite_module())
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    except Exception as error:
        raise WinnowError(f"{path} is not a Winnow database ({error}). Move it away or restore a backup.") from error
    finally:
        engine.dispose()
    scripts = ScriptDirectory.from_config(_config())
    if current and current not in {script.revision for script in scripts.walk_revisions()}:
        newest = scripts.get_current_head()
        raise WinnowError(
            f"{path} was written by a newer Winnow (schema {current}, this one knows {newest}). Update Winnow."
        )
    return current or ""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


@contextmanager
def _alone(path: Path) -> Iterator[Connection]:
    """A transaction that nobody else can write beside. SQLite's driver would begin one for rows only, and leave every CREATE
    and ALTER a transaction of its own."""
    engine = create_engine(f"sqlite:///{path}", module=sqlite_module(), connect_args={"timeout": WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=OFF")  # tables are rebuilt under rows that point to them

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()

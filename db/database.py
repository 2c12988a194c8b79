"""Connections: SQLite in WAL with synchronous FULL, one writer at a time in this process, readers beside it; or PostgreSQL, where
several machines share a database (`db/postgres.py`).

Why each choice: every write transaction begins IMMEDIATE because a deferred one that read first fails at once with
"database is locked" when another commits; FULL because an acknowledged decision must survive a power cut; WAL only
on libraries without the WAL-reset bug (SQLite before 3.51.3, except 3.50.7), else a rollback journal.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc

from db import postgres
from db.errors import Busy, DiskFull, WinnowError

try:  # the wheel carries a current SQLite; the interpreter's own may be years old
    import pysqlite3.dbapi2 as sqlite
except ImportError:
    import sqlite3 as sqlite

# The driver looks for an adapter of each of these at every value that it binds; to find none takes longer than all the rest.
# Each of these gives back what it gets, without a step in Python.
sqlite.register_adapter(bytes, bytes)
sqlite.register_adapter(memoryview, memoryview)
sqlite.register_adapter(type(None), {}.get)

logger = logging.getLogger(__name__)

PRAGMAS = {
    "synchronous": "FULL",
    "foreign_keys": "ON",
    "busy_timeout": "10000",
    "trusted_schema": "OFF",
    "temp_store": "MEMORY",
    "journal_size_limit": str(64 * 2**20),
    "cache_size": "-16000",
}
BULK_PRAGMAS = {"foreign_keys": "OFF", "cache_size": "-64000"}  # KiB, negative as SQLite wants it
WAL_SAFE_FROM = (3, 51, 3)
WAL_SAFE_BACKPORT = (3, 50, 7)


def journal_mode(version: tuple[int, ...]) -> str:
    """WAL where the library is free of the WAL-reset bug, else TRUNCATE (slower, as safe)."""
    return "WAL" if version >= WAL_SAFE_FROM or version == WAL_SAFE_BACKPORT else "TRUNCATE"


def sqlite_module() -> ModuleType:
    """The one SQLite driver that every process of Winnow uses: two libraries on one live file can corrupt it."""
    return sqlite


class Database:
    """Read and write transactions on one SQLite file, or on the PostgreSQL database of a URL."""

    def __init__(self, place: Path | str) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._writer, self._reader = _engine(place), _engine(place, read_only=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view for the length of the block. Never hold it across a network write or a generator.

        Raises Unwritable when the database cannot be used now.
        """
        with self._in_words(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """The one write transaction of this process; commits at the end of the block or changes nothing.

        Raises Unwritable when the disk is full, another process keeps the database locked for ten seconds, or its server does
        not answer.
        """
        with self._lock, self._in_words(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def bulk(self) -> Iterator[Connection]:
        """As `write`, for the rows of a whole data set: with room for their pages, which would otherwise be written out
        and read again to build the indexes, and without a look at foreign keys row by row: whoever writes checks them.
        """
        with self._lock, self._in_words(), self._writer.connect() as connection, _roomy(connection), connection.begin():
            yield connection

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            said = postgres.in_words(error, self.place) if isinstance(self.place, str) else _for_people(error)
            raise said or error from error

    def close(self) -> None:
        self._writer.dispose()
        self._reader.dispose()


def _engine(place: Path | str, *, read_only: bool = False) -> Engine:
    if isinstance(place, str):
        return postgres.engine(place, read_only=read_only)
    return _file(place, begin="BEGIN" if read_only else "BEGIN IMMEDIATE", read_only=read_only)


def _file(path: Path, *, begin: str, read_only: bool) -> Engine:
    mode = journal_mode(tuple(sqlite.sqlite_version_info))
    if mode != "WAL" and not read_only:
        logger.warning("SQLite %s has the WAL-reset bug: using a rollback journal", sqlite.sqlite_version)
    engine = create_engine(f"sqlite:///{path}", module=sqlite)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA journal_mode={mode}")
        for name, value in PRAGMAS.items():
            connection.execute(f"PRAGMA {name}={value}")
        if read_only:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@contextmanager
def _roomy(connection: Connection) -> Iterator[None]:
    """The settings of SQLite for many rows. PostgreSQL checks foreign keys at the end of each statement, and needs none."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    for name, value in BULK_PRAGMAS.items():  # before the transaction, within which they would be ignored
        driver.execute(f"PRAGMA {name}={value}")
    try:
        yield
    finally:
        for name in BULK_PRAGMAS:
            driver.execute(f"PRAGMA {name}={PRAGMAS[name]}")


def copy_database(source: Path, target: Path) -> None:
    """Copy a database that others may be writing to, as it is at one moment. Copying the file would miss what is still in
    the write-ahead log. Raises WinnowError, and leaves no half copy behind, when the disk is full."""
    draft = target.with_name(f".{target.name}.draft")
    draft.unlink(missing_ok=True)
    origin: Any = sqlite.connect(source)
    copy: Any = sqlite.connect(draft)
    try:
        origin.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
    except sqlite.OperationalError as error:
        raise WinnowError(f"{source} could not be copied to {target.parent}: {error}.") from error
    finally:
        copy.close()
        origin.close()
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(draft, target)


def _for_people(error: exc.DBAPIError) -> WinnowError | None:
    text = str(error.orig)
    if any(sign in text for sign in ("malformed", "not a database", "Could not decode")):
        return WinnowError(
            f"The database is damaged ({text}). Stop the studio and restore the newest backup; `winnow doctor` says more."
        )
    if not isinstance(error, exc.OperationalError):
        return None
    if "full" in text or "disk I/O" in text:
        return DiskFull("The disk is full: nothing was saved. Free some space and try again.")
    if "locked" in text:
        return Busy("The database stayed locked for 10 s by another process: nothing was saved. Try again.")
    return None

"""What SQLite and PostgreSQL spell differently, behind one name each."""

from __future__ import annotations

from itertools import chain
from typing import Any

from sqlalchemy import Connection, Dialect, Float, Integer, Table, Text, TypeDecorator, exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeEngine

from db import postgres
from db.errors import WinnowError

VALUES = 900  # of a statement: old SQLite libraries take 999
insert = postgresql.insert  # the compiler of SQLite reads its `on_conflict_...` as well


def is_postgres(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


class BadText(WinnowError, exc.DontWrapMixin):
    """A text that no database keeps as it is."""


class Words(TypeDecorator[str]):
    """Text that compares by its bytes in UTF-8, whatever the locale of the server: targets and names are cut into ranges."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        own = postgresql.TEXT(collation="C") if dialect.name == "postgresql" else Text()
        return dialect.type_descriptor(own)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Raises BadText for a NUL character: PostgreSQL cannot store it, and SQLite's own functions end the text there."""
        if value is not None and "\0" in value:
            raise BadText(f"{value!r:.80} holds a NUL character, which no text may. Take it out.")
        return value


class seconds_now(GenericFunction[float]):
    """POSIX seconds by the clock of the database."""

    type = Float()
    inherit_cache = True


@compiles(seconds_now, "sqlite")
def _julian(element: Any, compiler: Any, **how: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(seconds_now, "postgresql")
def _epoch(element: Any, compiler: Any, **how: Any) -> str:
    """Not `now()`, which stands still for the length of a transaction."""
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


class whole(GenericFunction[int]):
    """A number of at least 0 without what comes after its point; a plain cast would round it on PostgreSQL."""

    type = Integer()
    inherit_cache = True


@compiles(whole, "sqlite")
def _cast(element: Any, compiler: Any, **how: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **how)} AS INTEGER)"


@compiles(whole, "postgresql")
def _floor(element: Any, compiler: Any, **how: Any) -> str:
    return f"floor({compiler.process(element.clauses, **how)})"


def write_rows(connection: Connection, table: Table, rows: list[tuple[Any, ...]]) -> None:
    """Insert tuples in the order of the table's columns, as fast as the driver can."""
    into = f"{table.name} ({', '.join(column.name for column in table.columns)})"
    if is_postgres(connection):
        postgres.copy_rows(connection, into, rows)
        return
    together = VALUES // len(table.columns)  # rows for each statement, which saves a quarter of the time
    whole = len(rows) - len(rows) % together
    joined = [tuple(chain.from_iterable(rows[at : at + together])) for at in range(0, whole, together)]
    for count, values in ((together, joined), (1, rows[whole:])):
        if values:
            marks = ", ".join([f"({', '.join('?' * len(table.columns))})"] * count)
            connection.exec_driver_sql(f"INSERT INTO {into} VALUES {marks}", values)

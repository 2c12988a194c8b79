"""How much there is of everything, and what waits: for those who watch over the studio."""

from __future__ import annotations

import time

from sqlalchemy import Connection, Table, exc, func, select

from db import schema
from db.database import Database
from db.errors import WinnowError
from db.records import Record

LATEST = 20_000  # verdicts looked at for the last minute's: ids follow the time, and there is no index on it


class Figures(Record, frozen=True, kw_only=True):
    """Counts at one moment. Runs and shards by state; `worker_seconds` is how long ago the latest worker was heard of."""

    runs: dict[str, int]
    shards: dict[str, int]
    images: int
    candidates: int
    verdicts: int
    verdicts_last_minute: int
    workers: int
    worker_seconds: float | None


def figures(database: Database) -> Figures:
    """Count. A look at the smallest index of the large tables: some ten milliseconds for each million rows.

    Raises WinnowError when the database cannot be read.
    """
    try:
        with database.read() as connection:
            return _counted(connection, time.time())
    except exc.DBAPIError as error:
        raise WinnowError(f"The database cannot be read: {error.orig}") from error


def _by_state(connection: Connection, table: Table) -> dict[str, int]:
    query = select(table.c.state, func.count()).group_by(table.c.state)
    return {state: int(n) for state, n in map(tuple, connection.execute(query))}


def _counted(connection: Connection, now: float) -> Figures:
    verdict, worker = schema.verdict.c, schema.worker.c
    newest = select(verdict.at).order_by(verdict.id.desc()).limit(LATEST).subquery()
    runs, shards = _by_state(connection, schema.run), _by_state(connection, schema.shard)
    images, candidates, verdicts = (
        connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in (schema.image, schema.candidate, schema.verdict)
    )
    workers, seen = connection.execute(select(func.count(), func.max(worker.seen_at))).one()
    return Figures(
        runs=runs,
        shards=shards,
        images=images,
        candidates=candidates,
        verdicts=verdicts,
        verdicts_last_minute=connection.execute(select(func.count()).where(newest.c.at >= now - 60)).scalar_one(),
        workers=workers,
        worker_seconds=None if seen is None else max(now - seen, 0.0),
    )

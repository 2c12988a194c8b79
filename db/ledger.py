"""Runs and their shards: who works on what, how far it got, and what came out.

The queue outside only rings a bell; this ledger is the truth about work. A shard is claimed by lease. Every claim raises
its fence, and output carries the fence it was made under, so that a worker that was given up cannot write any more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from db import schema
from db.codec import pack, unpack
from db.database import Database
from db.errors import LostLease, NotFound, WinnowError
from db.records import LogLine, Metric, Run, RunKind, Shard, State, Worker

ATTEMPTS = 3
r, s = schema.run.c, schema.shard.c
EMPTY = b"{}"
ENDED = (State.DONE, State.FAILED, State.CANCELLED)


def check_fence(connection: Connection, shard: Shard) -> None:
    """Call inside the transaction that stores a shard's output. Raises LostLease when the shard was claimed anew."""
    fence = connection.execute(select(s.fence).where(s.id == shard.id)).scalar_one_or_none()
    if fence != shard.fence:
        raise LostLease(f"Shard {shard.number} of run {shard.run_id} was given to another worker; this output is discarded.")


class Ledger:
    """`clock` gives POSIX seconds; leases compare only its values with each other."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._db, self._now = database, clock

    # Runs

    def create_run(
        self,
        kind: RunKind,
        title: str,
        *,
        dataset_id: int | None,
        recipe: str,
        options: dict[str, Any],
        seed: int,
        versions: dict[str, str],
        after_id: int | None = None,
    ) -> Run:
        """A queued run without shards yet; with `after_id` it waits until that run is done."""
        values = {
            "kind": str(kind),
            "title": title,
            "state": str(State.QUEUED),
            "created_at": self._now(),
            "seed": seed,
            "dataset_id": dataset_id,
            "after_id": after_id,
            "recipe": recipe,
            "options": pack(options) or EMPTY,
            "versions": pack(versions) or EMPTY,
            "result": EMPTY,
            "cancel_requested": False,
            "pause_requested": False,
            "done": 0,
            "total": 0,
        }
        with self._db.write() as connection:
            key = connection.execute(schema.run.insert().values(values)).inserted_primary_key
        return self.run(key[0])

    def plan(self, run_id: int, payloads: Sequence[tuple[dict[str, Any], int]]) -> None:
        """Write the run's shards, `(payload, number of items)` each. A second plan of the same run changes nothing."""
        rows = [
            {
                "run_id": run_id,
                "number": number,
                "state": str(State.QUEUED),
                "payload": pack(payload) or EMPTY,
                "total": total,
                "attempt": 0,
                "fence": 0,
                "done": 0,
            }
            for number, (payload, total) in enumerate(payloads)
        ]
        with self._db.write() as connection:
            if rows and connection.execute(select(s.id).where(s.run_id == run_id)).first() is None:
                connection.execute(insert(schema.shard), rows)
                connection.execute(update(schema.run).where(r.id == run_id).values(total=sum(total for _, total in payloads)))

    def run(self, run_id: int) -> Run:
        with self._db.read() as connection:
            return _require(connection, run_id)

    def runs(
        self,
        *,
        kind: RunKind | None = None,
        state: State | None = None,
        dataset_id: int | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> list[Run]:
        """Newest first; `before` is the id of the last run of the page before."""
        query = select(schema.run).order_by(r.id.desc()).limit(limit)
        for column, value in ((r.kind, kind), (r.state, state), (r.dataset_id, dataset_id)):
            if value is not None:
                query = query.where(column == value)
        if before is not None:
            query = query.where(r.id < before)
        with self._db.read() as connection:
            return [_run(row) for row in connection.execute(query)]

    def followers(self, run_id: int) -> list[Run]:
        """The runs that wait, or waited, for this one."""
        with self._db.read() as connection:
            return [_run(row) for row in connection.execute(select(schema.run).where(r.after_id == run_id).order_by(r.id))]

    def shards(self, run_id: int) -> list[Shard]:
        with self._db.read() as connection:
            return [_shard(row) for row in connection.execute(select(schema.shard).where(s.run_id == run_id).order_by(s.number))]

    def set_result(self, run_id: int, result: Mapping[str, Any]) -> None:
        """Merge into the run's result."""
        with self._db.write() as connection:
            merged = _require(connection, run_id).result | dict(result)
            connection.execute(update(schema.run).where(r.id == run_id).values(result=pack(merged) or EMPTY))

    # Claiming work

    def claim(self, run_id: int, owner: str, lease_seconds: float = 60) -> Shard | None:
        """The next shard of the run, leased to `owner`; None when there is nothing to do now.

        Queued shards come first, then those whose lease ran out. A shard that was tried three times becomes failed
        instead.
        """
        now = self._now()
        with self._db.write() as connection:
            run = _require(connection, run_id)
            if run.state.ended or run.cancel_requested or run.pause_requested or _waits(connection, run):
                return None
            open_ = or_(s.state == State.QUEUED, and_(s.state == State.RUNNING, s.lease_until < now))
            rows = connection.execute(select(schema.shard).where(s.run_id == run_id, open_).order_by(s.state, s.number))
            for row in rows.all():
                if row.attempt < ATTEMPTS:
                    return self._lease(connection, run, row, owner, now + lease_seconds)
                lost = row.error or "The worker was lost while it worked on this shard."
                connection.execute(update(schema.shard).where(s.id == row.id).values(state=str(State.FAILED), error=lost))
            self._settle(connection, run_id)
            return None

    def _lease(self, connection: Connection, run: Run, row: Row[Any], owner: str, until: float) -> Shard:
        values = {
            "state": str(State.RUNNING),
            "attempt": row.attempt + 1,
            "fence": row.fence + 1,
            "lease_owner": owner,
            "lease_until": until,
        }
        connection.execute(update(schema.shard).where(s.id == row.id).values(values))
        started = run.started_at if run.started_at is not None else self._now()
        connection.execute(update(schema.run).where(r.id == run.id).values(state=str(State.RUNNING), started_at=started))
        return _shard(connection.execute(select(schema.shard).where(s.id == row.id)).one())

    def heartbeat(self, shard: Shard, lease_seconds: float = 60) -> None:
        """Extend the lease. Raises LostLease when it was taken over."""
        self._change(shard, lease_until=self._now() + lease_seconds)

    def advance(self, shard: Shard, done: int, total: int | None = None) -> None:
        """Record how many items of the shard are done."""
        self._change(shard, done=done, **({} if total is None else {"total": total}))

    def finish_shard(self, shard: Shard) -> None:
        self._change(shard, state=str(State.DONE), done=s.total, error=None)

    def fail_shard(self, shard: Shard, error: str) -> None:
        """Back to the queue, or failed for good after the third attempt. What it stored stays."""
        state = State.QUEUED if shard.attempt < ATTEMPTS else State.FAILED
        self._change(shard, state=str(state), error=error)

    def release_shard(self, shard: Shard) -> None:
        """Back to the queue without counting the attempt: the worker stopped on purpose."""
        self._change(shard, state=str(State.QUEUED), attempt=shard.attempt - 1)

    def _change(self, shard: Shard, **values: Any) -> None:
        if "state" in values:
            values |= {"lease_owner": None, "lease_until": None}
        with self._db.write() as connection:
            check_fence(connection, shard)
            connection.execute(update(schema.shard).where(s.id == shard.id).values(values))
            self._settle(connection, shard.run_id)

    def release_owner(self, owner: str) -> list[int]:
        """Give back everything a worker that is known to be dead had leased. Returns the runs concerned."""
        held = and_(s.state == State.RUNNING, s.lease_owner == owner)
        with self._db.write() as connection:
            runs = list(connection.execute(select(s.run_id).where(held).distinct()).scalars())
            connection.execute(update(schema.shard).where(held).values(lease_until=0.0))
        return runs

    def waiting(self) -> list[Run]:
        """Runs that a worker could go on with now: not ended, not held back, with work nobody has leased."""
        now = self._now()
        open_ = or_(s.state == State.QUEUED, and_(s.state == State.RUNNING, s.lease_until < now))
        todo = select(s.id).where(s.run_id == r.id, open_).exists()
        planned = select(s.id).where(s.run_id == r.id).exists()
        unfinished = select(s.id).where(s.run_id == r.id, s.state.not_in(ENDED)).exists()
        query = select(schema.run).where(
            r.state.in_((State.QUEUED, State.RUNNING)), ~r.cancel_requested, ~r.pause_requested, or_(todo, ~planned, ~unfinished)
        )
        with self._db.read() as connection:
            return [run for run in map(_run, connection.execute(query.order_by(r.id)).all()) if not _waits(connection, run)]

    # The wishes of people

    def request_cancel(self, run_id: int) -> None:
        """End the run; what it made stays. Raises WinnowError when it has ended already."""
        with self._db.write() as connection:
            run = self._going(connection, run_id, "cancel")
            connection.execute(update(schema.run).where(r.id == run.id).values(cancel_requested=True, pause_requested=False))
            idle = or_(s.state == State.QUEUED, s.lease_until < self._now())
            connection.execute(update(schema.shard).where(s.run_id == run_id, s.state.not_in(ENDED), idle).values(state=str(State.CANCELLED)))
            self._settle(connection, run_id)

    def cancelled_shard(self, shard: Shard) -> None:
        """The worker's answer to a cancel request: the shard is over."""
        self._change(shard, state=str(State.CANCELLED))

    def request_pause(self, run_id: int) -> None:
        with self._db.write() as connection:
            self._going(connection, run_id, "pause")
            connection.execute(update(schema.run).where(r.id == run_id).values(pause_requested=True))
            self._settle(connection, run_id)

    def request_resume(self, run_id: int) -> None:
        """Go on with a paused run."""
        with self._db.write() as connection:
            run = _require(connection, run_id)
            if not run.pause_requested:
                raise WinnowError(f"Run {run_id} is {run.state}, not paused; there is nothing to resume.")
            connection.execute(update(schema.run).where(r.id == run_id).values(pause_requested=False, state=str(State.QUEUED)))

    def request_retry(self, run_id: int) -> None:
        """Queue what failed or was cancelled again, and the runs that were cancelled because of it."""
        with self._db.write() as connection:
            run = _require(connection, run_id)
            if run.state not in (State.FAILED, State.CANCELLED):
                raise WinnowError(f"Run {run_id} is {run.state}; only failed and cancelled runs can be tried again.")
            again = {"state": str(State.QUEUED), "error": None, "ended_at": None, "cancel_requested": False, "pause_requested": False}
            followers = and_(r.after_id == run_id, r.state == State.CANCELLED)
            connection.execute(update(schema.run).where(or_(r.id == run_id, followers)).values(again))
            stuck = and_(s.run_id == run_id, s.state.in_((State.FAILED, State.CANCELLED)))
            connection.execute(update(schema.shard).where(stuck).values(state=str(State.QUEUED), attempt=0, error=None))

    def _going(self, connection: Connection, run_id: int, verb: str) -> Run:
        run = _require(connection, run_id)
        if run.state.ended:
            raise WinnowError(f"Run {run_id} is {run.state} already; there is nothing to {verb}.")
        return run

    # State

    def conclude(self, run_id: int) -> None:
        """Mark a run done whose shards are all done and whose summary is written."""
        with self._db.write() as connection:
            values = {"state": str(State.DONE), "ended_at": self._now(), "error": None}
            connection.execute(update(schema.run).where(r.id == run_id, r.state.not_in(ENDED)).values(values))

    def fail_run(self, run_id: int, error: str) -> None:
        """A failure outside the shards (planning, summing up). Runs that wait for this one are cancelled."""
        with self._db.write() as connection:
            self._end(connection, run_id, State.FAILED, error)

    def _settle(self, connection: Connection, run_id: int) -> None:
        """Derive the run's progress and state from its shards. A run whose shards are all done is still running until it
        is concluded."""
        counted = select(s.state, func.count(), func.sum(s.done), func.sum(s.total)).where(s.run_id == run_id).group_by(s.state)
        rows = connection.execute(counted).all()
        states = {State(state): n for state, n, *_ in rows}
        done, total = sum(row[2] for row in rows), sum(row[3] for row in rows)
        connection.execute(update(schema.run).where(r.id == run_id).values(done=done, total=total))
        run = _require(connection, run_id)
        open_ = sum(n for state, n in states.items() if not state.ended)
        if run.cancel_requested and not open_:
            self._end(connection, run_id, State.CANCELLED, None)
        elif run.pause_requested and State.RUNNING not in states and open_:
            connection.execute(update(schema.run).where(r.id == run_id).values(state=str(State.PAUSED)))
        elif states and not open_ and State.FAILED in states:
            first = select(s.number, s.error).where(s.run_id == run_id, s.state == State.FAILED).order_by(s.number)
            number, error = connection.execute(first).first() or (0, "")
            last_line = (error or "").strip().splitlines()[-1:] or [""]
            summary = f"{states[State.FAILED]} of {sum(states.values())} shards failed; shard {number}: {last_line[0]}"
            self._end(connection, run_id, State.FAILED, summary)

    def _end(self, connection: Connection, run_id: int, state: State, error: str | None) -> None:
        values = {"state": str(state), "error": error, "ended_at": self._now()}
        connection.execute(update(schema.run).where(r.id == run_id).values(values))
        for follower in connection.execute(select(r.id).where(r.after_id == run_id, r.state.not_in(ENDED))).scalars().all():
            self._end(connection, follower, State.CANCELLED, f"Run {run_id}, which this one waited for, is {state}.")

    # Logs, curves, workers

    def log(self, run_id: int, text: str, level: str = "info", shard: int | None = None) -> None:
        values = {"run_id": run_id, "at": self._now(), "level": level, "text": text, "shard": shard}
        with self._db.write() as connection:
            connection.execute(schema.log.insert().values(values))

    def logs(self, run_id: int, after: int = 0, limit: int = 200) -> list[LogLine]:
        """Oldest first, from the line after id `after`."""
        table = schema.log
        query = select(table).where(table.c.run_id == run_id, table.c.id > after).order_by(table.c.id).limit(limit)
        with self._db.read() as connection:
            return [LogLine(**row._mapping) for row in connection.execute(query)]

    def add_metrics(self, run_id: int, step: int, values: Mapping[str, float]) -> None:
        """Points of the run's curves. A step repeated after a resume replaces the old point. Raises WinnowError for a
        value that is not finite."""
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if bad:
            raise WinnowError(f"Run {run_id}, step {step}: {bad} is not finite.")
        now = self._now()
        rows = [{"run_id": run_id, "step": step, "name": name, "value": value, "at": now} for name, value in values.items()]
        statement = insert(schema.metric)
        replace = statement.on_conflict_do_update(
            index_elements=["run_id", "name", "step"], set_={"value": statement.excluded.value, "at": statement.excluded.at}
        )
        if rows:
            with self._db.write() as connection:
                connection.execute(replace, rows)

    def metrics(self, run_id: int, names: Sequence[str] | None = None) -> list[Metric]:
        """The points of the named curves, or of all, by name and step."""
        table = schema.metric
        query = select(table).where(table.c.run_id == run_id).order_by(table.c.name, table.c.step)
        if names is not None:
            query = query.where(table.c.name.in_(names))
        with self._db.read() as connection:
            return [Metric(**row._mapping) for row in connection.execute(query)]

    def present(self, worker: str, run_id: int | None = None) -> None:
        """A worker says that it is alive and what it works on."""
        statement = insert(schema.worker).values(name=worker, seen_at=self._now(), run_id=run_id)
        replace = statement.on_conflict_do_update(
            index_elements=["name"], set_={"seen_at": statement.excluded.seen_at, "run_id": statement.excluded.run_id}
        )
        with self._db.write() as connection:
            connection.execute(replace)

    def gone(self, worker: str) -> None:
        with self._db.write() as connection:
            connection.execute(schema.worker.delete().where(schema.worker.c.name == worker))

    def workers(self) -> list[Worker]:
        """Those last heard of first."""
        table = schema.worker
        with self._db.read() as connection:
            return [Worker(**row._mapping) for row in connection.execute(select(table).order_by(table.c.seen_at.desc()))]


def _require(connection: Connection, run_id: int) -> Run:
    row = connection.execute(select(schema.run).where(r.id == run_id)).one_or_none()
    if row is None:
        raise NotFound("run", run_id)
    return _run(row)


def _waits(connection: Connection, run: Run) -> bool:
    if run.after_id is None:
        return False
    return connection.execute(select(r.state).where(r.id == run.after_id)).scalar_one() != State.DONE


def _run(row: Row[Any]) -> Run:
    values = dict(row._mapping)
    values |= {name: unpack(values[name], {}) for name in ("options", "versions", "result")}
    return Run(**{**values, "kind": RunKind(values["kind"]), "state": State(values["state"])})


def _shard(row: Row[Any]) -> Shard:
    values = dict(row._mapping)
    return Shard(**{**values, "state": State(values["state"]), "payload": unpack(values["payload"], {})})

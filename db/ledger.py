"""Runs and their shards: who works on what, how far it got, and what came out.

The queue outside only rings a bell; this ledger is the truth about work. A shard is claimed by lease. Every claim
raises its fence, and output carries the fence it was made under, so that a worker that was given up cannot write any
more.

The state of a run follows from its shards and from what people asked for (`_settle`): queued while nobody works on it,
running while a shard is leased or only the summing up is left, paused, or ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select, update

from db import schema
from db.codec import pack, unpack
from db.database import Database
from db.dialects import insert, seconds_now
from db.errors import LostLease, NotFound, WinnowError
from db.records import LogLine, Metric, Run, RunKind, Shard, State, Worker

ATTEMPTS = 3
LOST = "The worker was lost while it worked on this shard."
r, s = schema.run.c, schema.shard.c
EMPTY = b"{}"
ENDED = (State.DONE, State.FAILED, State.CANCELLED)
NO_LEASE = {"lease_owner": None, "lease_until": None}


def database_clock(connection: Connection) -> float:
    """POSIX seconds by the clock of the database, the only one that leases are measured with."""
    return connection.execute(select(seconds_now())).scalar_one()


def check_fence(connection: Connection, shard: Shard) -> None:
    """Call inside the transaction that stores a shard's output. Raises LostLease when the shard was claimed anew, given
    back or ended since."""
    now = connection.execute(select(s.fence, s.state).where(s.id == shard.id)).one_or_none()
    if now is None or now.fence != shard.fence or now.state != State.RUNNING:
        what = f"Shard {shard.number} of run {shard.run_id}"
        raise LostLease(f"{what} was taken from this worker; what it makes of it now is discarded.")


class Ledger:
    """`clock` gives POSIX seconds, inside the transaction that uses them."""

    def __init__(self, database: Database, clock: Callable[[Connection], float] = database_clock) -> None:
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
        """A queued run without shards yet. With `after_id` it waits until that run is done, and is cancelled when that
        one fails, is cancelled, or has been already. Raises NotFound when there is no such run to wait for."""
        values = {
            "kind": str(kind),
            "title": title,
            "state": str(State.QUEUED),
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
            leader = None if after_id is None else _require(connection, after_id)
            made = schema.run.insert().values(**values, created_at=self._now(connection)).returning(r.id)
            run_id = connection.execute(made).scalar_one()
            if leader is not None and leader.state in (State.FAILED, State.CANCELLED):
                self._end(connection, run_id, State.CANCELLED, _in_vain(leader.id, leader.state))
            return _require(connection, run_id)

    def plan(self, run_id: int, payloads: Sequence[tuple[dict[str, Any], int]]) -> None:
        """Write the run's shards, `(payload, number of items)` each. A second plan of the same run, or one that comes
        after its end, changes nothing."""
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
            planned = connection.execute(select(s.id).where(s.run_id == run_id)).first()
            if rows and planned is None and not _require(connection, run_id).state.ended:
                connection.execute(insert(schema.shard), rows)
                self._settle(connection, run_id)

    def run(self, run_id: int) -> Run:
        """Raises NotFound."""
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
        query = select(schema.run).where(r.after_id == run_id).order_by(r.id)
        with self._db.read() as connection:
            return [_run(row) for row in connection.execute(query)]

    def shards(self, run_id: int) -> list[Shard]:
        """By number; none while the run is not planned."""
        query = select(schema.shard).where(s.run_id == run_id).order_by(s.number)
        with self._db.read() as connection:
            return [_shard(row) for row in connection.execute(query)]

    def set_result(self, run_id: int, result: Mapping[str, Any]) -> None:
        """Merge into the run's result."""
        with self._db.write() as connection:
            merged = _require(connection, run_id).result | dict(result)
            connection.execute(update(schema.run).where(r.id == run_id).values(result=pack(merged) or EMPTY))

    # Claiming work

    def waiting_runs(self, limit: int = 50) -> list[Run]:
        """The oldest runs that a worker could go on with now: neither held back nor waiting for another run, and with
        a shard to claim, or to be planned, or with nothing left but the summing up."""
        leader = schema.run.alias()
        followed = select(leader.c.id).where(leader.c.id == r.after_id, leader.c.state == State.DONE).exists()
        open_ = select(s.id).where(s.run_id == r.id, s.state.not_in(ENDED)).exists()
        going = and_(r.state.in_((State.QUEUED, State.RUNNING)), ~r.cancel_requested)
        with self._db.read() as connection:
            claimable = or_(s.state == State.QUEUED, self._late(connection))
            todo = and_(~r.pause_requested, select(s.id).where(s.run_id == r.id, claimable).exists())
            query = select(schema.run).where(going, or_(r.after_id.is_(None), followed), or_(todo, ~open_))
            return [_run(row) for row in connection.execute(query.order_by(r.id).limit(limit))]

    def claim(self, run_id: int, owner: str, lease_seconds: float = 60) -> Shard | None:
        """The lowest queued shard of the run, leased to `owner`; None when there is nothing to do now.

        A shard whose lease ran out counts as queued; one that was tried three times becomes failed instead.
        """
        with self._db.write() as connection:
            run = _require(connection, run_id)
            if run.state.ended or run.cancel_requested or run.pause_requested or _waits(connection, run):
                return None
            self._expire(connection, s.run_id == run_id)
            queued = select(schema.shard).where(s.run_id == run_id, s.state == State.QUEUED).order_by(s.number).limit(1)
            row = connection.execute(queued).one_or_none()
            return None if row is None else self._lease(connection, row, owner, lease_seconds)

    def _lease(self, connection: Connection, row: Row[Any], owner: str, lease_seconds: float) -> Shard:
        now = self._now(connection)
        values = {
            "state": str(State.RUNNING),
            "attempt": row.attempt + 1,
            "fence": row.fence + 1,
            "lease_owner": owner,
            "lease_until": now + lease_seconds,
        }
        connection.execute(update(schema.shard).where(s.id == row.id).values(values))
        started = func.coalesce(r.started_at, now)
        connection.execute(update(schema.run).where(r.id == row.run_id).values(started_at=started))
        self._settle(connection, row.run_id)
        return _shard(connection.execute(select(schema.shard).where(s.id == row.id)).one())

    def heartbeat(self, shard: Shard, lease_seconds: float = 60) -> None:
        """Extend the lease. Raises LostLease when it was taken over."""
        with self._db.write() as connection:
            check_fence(connection, shard)
            until = self._now(connection) + lease_seconds
            connection.execute(update(schema.shard).where(s.id == shard.id).values(lease_until=until))

    def advance(self, shard: Shard, done: int, total: int | None = None) -> None:
        """Record how many items of the shard are done. Raises LostLease."""
        self._change(shard, done=done, **({} if total is None else {"total": total}))

    def finish_shard(self, shard: Shard) -> None:
        """All items are done and stored. Raises LostLease."""
        self._change(shard, state=str(State.DONE), done=s.total, error=None, **NO_LEASE)

    def fail_shard(self, shard: Shard, error: str) -> None:
        """Back to the queue, or failed for good after the third attempt. What it stored stays. Raises LostLease."""
        state = State.QUEUED if shard.attempt < ATTEMPTS else State.FAILED
        self._change(shard, state=str(state), error=error, **NO_LEASE)

    def release_shard(self, shard: Shard) -> None:
        """Back to the queue without counting the attempt: the worker stopped on purpose. Raises LostLease."""
        self._change(shard, state=str(State.QUEUED), attempt=shard.attempt - 1, **NO_LEASE)

    def _change(self, shard: Shard, **values: Any) -> None:
        with self._db.write() as connection:
            check_fence(connection, shard)
            connection.execute(update(schema.shard).where(s.id == shard.id).values(values))
            self._settle(connection, shard.run_id)

    def expire_leases(self, dead_owner: str | None = None) -> list[int]:
        """Queue, or fail after the third attempt, every shard whose lease ran out, and those of a worker that is known
        to be dead. Returns the runs concerned."""
        with self._db.write() as connection:
            if dead_owner is not None:
                held = and_(s.state == State.RUNNING, s.lease_owner == dead_owner)
                connection.execute(update(schema.shard).where(held).values(lease_until=0.0))
            return self._expire(connection)

    def _late(self, connection: Connection) -> ColumnElement[bool]:
        return and_(s.state == State.RUNNING, s.lease_until < self._now(connection))

    def _expire(self, connection: Connection, *where: ColumnElement[bool]) -> list[int]:
        late = and_(self._late(connection), *where)
        runs = list(connection.execute(select(s.run_id).where(late).distinct()).scalars())
        if runs:
            lost = {"state": str(State.FAILED), "error": func.coalesce(s.error, LOST)}
            connection.execute(update(schema.shard).where(late, s.attempt >= ATTEMPTS).values(**lost, **NO_LEASE))
            connection.execute(update(schema.shard).where(late).values(state=str(State.QUEUED), **NO_LEASE))
        for run_id in runs:
            self._settle(connection, run_id)
        return runs

    # The wishes of people

    def request_cancel(self, run_id: int) -> None:
        """End the run, once the worker that is at it has let go; what it made stays. Raises WinnowError when it has
        ended already."""
        self._wish(run_id, "cancel", lambda run: True, cancel_requested=True, pause_requested=False)

    def request_pause(self, run_id: int) -> None:
        """Hold the run back after the item at hand. Raises WinnowError when it has ended or is held back already."""
        self._wish(run_id, "pause", lambda run: not (run.cancel_requested or run.pause_requested), pause_requested=True)

    def request_resume(self, run_id: int) -> None:
        """Go on with a paused run. Raises WinnowError when it is not paused."""
        self._wish(run_id, "resume", lambda run: run.pause_requested, pause_requested=False)

    def _wish(self, run_id: int, verb: str, possible: Callable[[Run], bool], **flags: bool) -> None:
        with self._db.write() as connection:
            run = _require(connection, run_id)
            if run.state.ended or not possible(run):
                raise WinnowError(f"Run {run_id} is {_described(run)}; you cannot {verb} it.")
            connection.execute(update(schema.run).where(r.id == run_id).values(flags))
            self._expire(connection, s.run_id == run_id)
            self._settle(connection, run_id)

    def request_retry(self, run_id: int) -> None:
        """Queue what failed or was cancelled again, with three new attempts, and the runs that were cancelled because
        of it. Raises WinnowError when the run has not failed, or waits for one that has."""
        with self._db.write() as connection:
            run = _require(connection, run_id)
            if run.state not in (State.FAILED, State.CANCELLED):
                raise WinnowError(f"Run {run_id} is {run.state}; only failed and cancelled runs can be tried again.")
            leader = None if run.after_id is None else _require(connection, run.after_id)
            if leader is not None and leader.state in (State.FAILED, State.CANCELLED):
                raise WinnowError(f"{_in_vain(leader.id, leader.state)} Try run {leader.id} again; this one follows.")
            self._reopen(connection, run_id)

    def _reopen(self, connection: Connection, run_id: int) -> None:
        again = {"state": str(State.QUEUED), "error": None, "ended_at": None}
        flags = {"cancel_requested": False, "pause_requested": False}
        connection.execute(update(schema.run).where(r.id == run_id).values(**again, **flags))
        stuck = and_(s.run_id == run_id, s.state.in_((State.FAILED, State.CANCELLED)))
        fresh = {"state": str(State.QUEUED), "attempt": 0, "done": 0, "error": None}
        connection.execute(update(schema.shard).where(stuck).values(fresh))
        self._settle(connection, run_id)
        in_vain = and_(r.after_id == run_id, r.state == State.CANCELLED, ~r.cancel_requested)
        for follower in connection.execute(select(r.id).where(in_vain)).scalars().all():
            self._reopen(connection, follower)

    # State

    def settle(self, run_id: int) -> Run:
        """Derive the run's progress and state from its shards again."""
        with self._db.write() as connection:
            self._settle(connection, run_id)
            return _require(connection, run_id)

    def conclude(self, run_id: int) -> None:
        """Mark a run done whose shards are all done and whose summary is written; one that has ended stays as it is."""
        with self._db.write() as connection:
            if not _require(connection, run_id).state.ended:
                self._end(connection, run_id, State.DONE, None)

    def fail_run(self, run_id: int, error: str) -> None:
        """A failure outside the shards (planning, summing up). Runs that wait for this one are cancelled."""
        with self._db.write() as connection:
            if not _require(connection, run_id).state.ended:
                self._end(connection, run_id, State.FAILED, error)

    def _settle(self, connection: Connection, run_id: int) -> None:
        run = _require(connection, run_id)
        if run.cancel_requested:
            self._cancel_queued(connection, run_id)
        counted = select(s.state, func.count(), func.sum(s.done), func.sum(s.total)).where(s.run_id == run_id)
        rows = connection.execute(counted.group_by(s.state)).all()
        count = {State(state): number for state, number, *_ in rows}
        state = run.state if run.state.ended else _derived(run, count)
        values = {"state": str(state), "done": sum(row[2] for row in rows), "total": sum(row[3] for row in rows)}
        connection.execute(update(schema.run).where(r.id == run_id).values(values))
        if state.ended and not run.state.ended:
            self._end(connection, run_id, state, _summary(connection, run_id, count) if state is State.FAILED else None)

    def _cancel_queued(self, connection: Connection, run_id: int) -> None:
        queued = and_(s.run_id == run_id, s.state == State.QUEUED)
        connection.execute(update(schema.shard).where(queued).values(state=str(State.CANCELLED)))

    def _end(self, connection: Connection, run_id: int, state: State, error: str | None) -> None:
        values = {"state": str(state), "error": error, "ended_at": self._now(connection), "pause_requested": False}
        connection.execute(update(schema.run).where(r.id == run_id).values(values))
        if state is State.DONE:
            return
        self._cancel_queued(connection, run_id)
        waiting = and_(r.after_id == run_id, r.state.not_in(ENDED))
        for follower in connection.execute(select(r.id).where(waiting)).scalars().all():
            self._end(connection, follower, State.CANCELLED, _in_vain(run_id, state))

    # Logs, curves, workers

    def log(self, run_id: int, text: str, level: str = "info", shard: int | None = None) -> None:
        """Append a line to the run's log."""
        values = {"run_id": run_id, "level": level, "text": text, "shard": shard}
        with self._db.write() as connection:
            connection.execute(schema.log.insert().values(**values, at=self._now(connection)))

    def logs(self, run_id: int, after: int = 0, limit: int = 200, level: str | None = None) -> list[LogLine]:
        """Oldest first, from the line after id `after`; of a level only, where one is named."""
        table = schema.log
        query = select(table).where(table.c.run_id == run_id, table.c.id > after).order_by(table.c.id).limit(limit)
        if level is not None:
            query = query.where(table.c.level == level)
        with self._db.read() as connection:
            return [LogLine(**row._mapping) for row in connection.execute(query)]

    def add_metrics(self, run_id: int, step: int, values: Mapping[str, float]) -> None:
        """Points of the run's curves. A step repeated after a resume replaces the old point. Raises WinnowError for a
        value that is not finite."""
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if bad:
            raise WinnowError(f"Run {run_id}, step {step}: {bad} is not finite.")
        if not values:
            return
        statement = insert(schema.metric)
        newer = {"value": statement.excluded.value, "at": statement.excluded.at}
        replace = statement.on_conflict_do_update(index_elements=["run_id", "name", "step"], set_=newer)
        with self._db.write() as connection:
            point = {"run_id": run_id, "step": step, "at": self._now(connection)}
            connection.execute(replace, [{**point, "name": name, "value": value} for name, value in values.items()])

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
        statement = insert(schema.worker)
        seen = {"seen_at": statement.excluded.seen_at, "run_id": statement.excluded.run_id}
        replace = statement.on_conflict_do_update(index_elements=["name"], set_=seen)
        with self._db.write() as connection:
            connection.execute(replace, {"name": worker, "seen_at": self._now(connection), "run_id": run_id})

    def gone(self, worker: str) -> None:
        """A worker has ended, or was found dead."""
        with self._db.write() as connection:
            connection.execute(schema.worker.delete().where(schema.worker.c.name == worker))

    def workers(self) -> list[Worker]:
        """Those last heard of first."""
        query = select(schema.worker).order_by(schema.worker.c.seen_at.desc())
        with self._db.read() as connection:
            return [Worker(**row._mapping) for row in connection.execute(query)]


def _require(connection: Connection, run_id: int) -> Run:
    row = connection.execute(select(schema.run).where(r.id == run_id)).one_or_none()
    if row is None:
        raise NotFound("run", run_id)
    return _run(row)


def _waits(connection: Connection, run: Run) -> bool:
    if run.after_id is None:
        return False
    return connection.execute(select(r.state).where(r.id == run.after_id)).scalar_one() != State.DONE


def _derived(run: Run, count: Mapping[State, int]) -> State:
    """What the shards of a run that has not ended, counted by state, and people's wishes make of it."""
    if State.RUNNING in count:
        return State.RUNNING
    if run.cancel_requested:
        return State.CANCELLED
    if State.QUEUED in count or not count:
        return State.PAUSED if run.pause_requested else State.QUEUED
    return State.FAILED if State.FAILED in count else State.RUNNING  # all done: only the summing up is left


def _described(run: Run) -> str:
    if run.state.ended:
        return f"{run.state} already"
    return "being cancelled" if run.cancel_requested else "held back already" if run.pause_requested else str(run.state)


def _in_vain(leader_id: int, state: State) -> str:
    return f"Run {leader_id}, which this one waited for, is {state}."


def _summary(connection: Connection, run_id: int, count: Mapping[State, int]) -> str:
    failed = select(s.number, s.error).where(s.run_id == run_id, s.state == State.FAILED).order_by(s.number).limit(1)
    number, error = connection.execute(failed).one()
    lines = error.strip().splitlines() or [""]
    said = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    return f"{count[State.FAILED]} of {sum(count.values())} shards failed; shard {number}: {said}"


def _run(row: Row[Any]) -> Run:
    values = dict(row._mapping)
    values |= {name: unpack(values[name], {}) for name in ("options", "versions", "result")}
    return Run(**{**values, "kind": RunKind(values["kind"]), "state": State(values["state"])})


def _shard(row: Row[Any]) -> Shard:
    values = dict(row._mapping)
    return Shard(**{**values, "state": State(values["state"]), "payload": unpack(values["payload"], {})})

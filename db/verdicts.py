"""The log of verdicts: appended to, never changed.

What it says of a candidate (`candidate.human`, disputes, second looks) is a projection of it, rewritten in the same transaction.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Text, cast, exists, literal, select

from db import schema
from db.codec import pack
from db.columns import log_changes
from db.dialects import insert
from db.people import double_share, is_double, project, record, standing
from db.records import Decision, NewVerdict, Record, Verdict

c = schema.candidate.c


class Theirs(Record, frozen=True, kw_only=True):
    """What somebody else decided after a person had the candidate before them."""

    reviewer: str
    decision: Decision
    at: float
    version: int
    reason: str | None = None
    edit: dict[str, Any] | None = None


class Saved(Record, frozen=True, kw_only=True):
    """What became of a delivered verdict: saved, repeated (already there), refused, or in conflict with what somebody else
    decided meanwhile (`theirs`); `message` says why. `version` is that of the candidate now."""

    op_id: str
    status: str
    message: str = ""
    version: int = 0
    theirs: Theirs | None = None


class Together(Record, frozen=True, kw_only=True):
    """A verdict on many candidates at once. `act` names it; two acts never share a name."""

    act: str
    decision: Decision
    reviewer: str
    reason: str | None = None


class Act(Record, frozen=True, kw_only=True):
    """Verdicts given together: how many there are, and how many of them were not taken back."""

    act: str
    decision: Decision
    reviewer: str
    at: float
    verdicts: int
    standing: int


def append_all(connection: Connection, verdicts: Sequence[NewVerdict]) -> list[Saved]:
    """Append verdicts; returns what became of each. One that is there already changes nothing."""
    shares: dict[int, float] = {}
    saved = [_append(connection, verdict, shares) for verdict in verdicts]
    log_changes(connection, [v.candidate_id for v, s in zip(verdicts, saved, strict=True) if s.status == "saved"])
    return saved


def _append(connection: Connection, verdict: NewVerdict, shares: dict[int, float]) -> Saved:
    """`shares`: data set -> share of double review, as far as it was read in this transaction."""
    known = select(schema.verdict.c.id).where(schema.verdict.c.op_id == verdict.op_id)
    if connection.execute(known).first():
        return Saved(op_id=verdict.op_id, status="repeated")
    row = connection.execute(select(c.id, c.dataset_id, c.shuffle).where(c.id == verdict.candidate_id)).one_or_none()
    if row is None:
        message = f"Candidate {verdict.candidate_id} no longer exists; the verdict was not needed."
        return Saved(op_id=verdict.op_id, status="refused", message=message)
    if row.dataset_id not in shares:
        shares[row.dataset_id] = double_share(connection, row.dataset_id)
    double = is_double(row.shuffle, shares[row.dataset_id])
    log = log_of(connection, row.id)
    refused = _refused(verdict, log, double)
    if refused is not None:
        return refused
    new = _insert(connection, verdict)
    stands = standing([new, *log])
    human = str(stands[0].decision) if stands else None
    connection.execute(schema.candidate.update().where(c.id == row.id).values(human=human))
    connection.execute(schema.lease.delete().where(schema.lease.c.candidate_id == row.id))
    if double or any(one.reviewer != verdict.reviewer for one in log):
        project(connection, row.id, row.dataset_id, stands, double)
    return Saved(op_id=verdict.op_id, status="saved", version=new.id)


def log_of(connection: Connection, candidate_id: int) -> list[Verdict]:
    """All verdicts on a candidate, newest first."""
    table = schema.verdict
    query = select(table).where(table.c.candidate_id == candidate_id).order_by(table.c.id.desc())
    return [record(row) for row in connection.execute(query)]


def _refused(verdict: NewVerdict, log: Sequence[Verdict], double: bool) -> Saved | None:
    """Why the verdict cannot be taken, None when it can."""
    if verdict.decision is Decision.UNDO and not any(one.op_id == verdict.undoes for one in log):
        message = f"There is no verdict {verdict.undoes!r} on candidate {verdict.candidate_id} to undo."
        return Saved(op_id=verdict.op_id, status="refused", message=message)
    if verdict.seen is None or double:  # of two who are to decide unseen, each follows upon the other
        return None
    theirs = next((one for one in log if one.id > (verdict.seen or 0) and one.reviewer != verdict.reviewer), None)
    return None if theirs is None else _conflict(verdict, theirs)


def _conflict(verdict: NewVerdict, theirs: Verdict) -> Saved:
    done = "took a verdict back on" if theirs.decision is Decision.UNDO else f"decided {theirs.decision} on"
    return Saved(
        op_id=verdict.op_id,
        status="conflict",
        message=f"{theirs.reviewer} {done} candidate {verdict.candidate_id} after it was shown to you. Look at it again.",
        version=theirs.id,
        theirs=Theirs(
            reviewer=theirs.reviewer,
            decision=theirs.decision,
            at=theirs.at,
            version=theirs.id,
            reason=theirs.reason,
            edit=theirs.edit,
        ),
    )


def _insert(connection: Connection, verdict: NewVerdict) -> Verdict:
    copied = ("op_id", "candidate_id", "reviewer", "reason", "undoes", "act")
    row = {name: getattr(verdict, name) for name in copied}
    row |= {"decision": str(verdict.decision), "edit": pack(verdict.edit), "at": time.time()}
    made = connection.execute(schema.verdict.insert().returning(schema.verdict).values(row)).one()
    return record(made)


def append_many(connection: Connection, ids: Sequence[int], verdict: Together) -> list[int]:
    """Append a verdict on many candidates. Returns those that got it: those that are there and did not have it from this act already."""
    op_id = literal(f"{verdict.act}/") + cast(c.id, Text)
    known = exists().where(schema.verdict.c.op_id == op_id)
    values = {
        "decision": str(verdict.decision),
        "reviewer": verdict.reviewer,
        "reason": verdict.reason,
        "act": verdict.act,
        "at": time.time(),
    }
    given = select(op_id, c.id, *map(literal, values.values())).where(c.id.in_(ids), ~known).order_by(c.id)
    columns = ["op_id", "candidate_id", *values]
    statement = insert(schema.verdict).from_select(columns, given).returning(schema.verdict.c.candidate_id)
    made = list(connection.execute(statement).scalars())
    connection.execute(schema.candidate.update().where(c.id.in_(made)).values(human=str(verdict.decision)))
    connection.execute(schema.lease.delete().where(schema.lease.c.candidate_id.in_(made)))
    _project_many(connection, made, verdict.reviewer)
    log_changes(connection, made)
    return made


def undo_many(connection: Connection, ids: Sequence[int], act: str, reviewer: str) -> list[int]:
    """Take these verdicts back, except those that were already. Returns the candidates they were on."""
    v, undo = schema.verdict.c, schema.verdict.alias()
    undone = exists().where(undo.c.undoes == v.op_id, undo.c.candidate_id == v.candidate_id)
    op_id = literal("undo/") + v.op_id
    values = {"decision": "undo", "reviewer": reviewer, "act": f"undo/{act}", "at": time.time()}
    given = select(op_id, v.candidate_id, v.op_id, *map(literal, values.values())).where(v.id.in_(ids), ~undone)
    columns = ["op_id", "candidate_id", "undoes", *values]
    statement = insert(schema.verdict).from_select(columns, given).returning(v.candidate_id)
    moved = list(connection.execute(statement).scalars())
    other = schema.verdict.alias()
    taken = exists().where(undo.c.undoes == other.c.op_id, undo.c.candidate_id == other.c.candidate_id)
    latest = select(other.c.decision).where(other.c.candidate_id == c.id, other.c.decision != "undo", ~taken)
    human = latest.order_by(other.c.id.desc()).limit(1).scalar_subquery()
    connection.execute(schema.candidate.update().where(c.id.in_(moved)).values(human=human))
    _project_many(connection, moved, reviewer)
    log_changes(connection, moved)
    return moved


def _project_many(connection: Connection, ids: Sequence[int], reviewer: str) -> None:
    """Disputes and second looks of candidates that this person has decided on."""
    v = schema.verdict.c
    others = exists().where(v.candidate_id == c.id, v.reviewer != reviewer)
    query = select(c.id, c.dataset_id, c.shuffle, others.label("several")).where(c.id.in_(ids))
    rows = connection.execute(query).all()
    shares = {dataset: double_share(connection, dataset) for dataset in {row.dataset_id for row in rows}}
    for row in rows:
        double = is_double(row.shuffle, shares[row.dataset_id])
        if double or row.several:
            project(connection, row.id, row.dataset_id, standing(log_of(connection, row.id)), double)

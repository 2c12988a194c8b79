"""Several people at one queue: who has what on the screen, second looks, disputes, and who decided what when.

Second looks and disputes are projections of the verdict log, rewritten in the transaction of the verdict (`project`).
A person is a name; names are compared as they are written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, Select, and_, delete, exists, func, literal, select

from db import schema
from db.codec import unpack
from db.database import Database
from db.dialects import insert, whole
from db.errors import WinnowError
from db.records import Decision, Verdict

c, v, lease, second, dispute = (
    table.c for table in (schema.candidate, schema.verdict, schema.lease, schema.second_look, schema.dispute)
)
LEASE = 120.0  # seconds; a page that is open renews it every third of that
UNDECIDED = ("skip", "flag")  # decisions for neither side
SIDES = {"accept": 1, "edit": 1, "reject": -1}
FOLDS = 4096  # of the rank in [0, 1): what is left over is as random as the rank, and independent of its order
FRACTION = c.shuffle * FOLDS - whole(c.shuffle * FOLDS)


@dataclass(frozen=True, eq=False)
class Opinions:
    """The standing decisions on a data set, one for each candidate and person. `at` counts seconds; `alone` is False for
    decisions that were given as part of an act on many. All arrays have the same length, ascending by verdict."""

    names: tuple[str, ...]
    candidate: NDArray[np.int64]
    person: NDArray[np.int64]  # index into `names`
    side: NDArray[np.int64]  # 1 for, -1 against, 0 skipped
    at: NDArray[np.float64]
    alone: NDArray[np.bool_]


class People:
    def __init__(self, database: Database) -> None:
        self._db = database

    # Leases

    def take(self, ids: Sequence[int], reviewer: str, seconds: float = LEASE) -> set[int]:
        """Those of the candidates that are now this person's for so long: all but those that somebody else holds."""
        if not ids:
            return set()
        now = time.time()
        statement = insert(schema.lease)
        taking = statement.on_conflict_do_update(
            index_elements=["candidate_id"],
            set_={"reviewer": reviewer, "until": now + seconds},
            where=(lease.until < now) | (lease.reviewer == reviewer),
        ).returning(lease.candidate_id)
        rows = select(c.id, literal(reviewer), literal(now + seconds)).where(c.id.in_(ids))
        with self._db.write() as connection:
            connection.execute(delete(schema.lease).where(lease.until < now - seconds))
            return set(connection.execute(taking.from_select(["candidate_id", "reviewer", "until"], rows)).scalars())

    def leave(self, reviewer: str, ids: Sequence[int]) -> None:
        """Give candidates back before their time."""
        with self._db.write() as connection:
            connection.execute(delete(schema.lease).where(lease.reviewer == reviewer, lease.candidate_id.in_(ids)))

    def holders(self, ids: Sequence[int], but: str) -> dict[int, str]:
        """Candidate -> who has it on the screen now, other than `but`."""
        query = select(lease.candidate_id, lease.reviewer).where(
            lease.candidate_id.in_(ids), lease.until >= time.time(), lease.reviewer != but
        )
        with self._db.read() as connection:
            return {row.candidate_id: row.reviewer for row in connection.execute(query)}

    # Second looks

    def double_share(self, dataset_id: int) -> float:
        """The share of candidates that two people decide, from 0 to 1."""
        with self._db.read() as connection:
            return double_share(connection, dataset_id)

    def set_double_share(self, dataset_id: int, share: float) -> int:
        """Have so many of the candidates decided by two people, those with one decision already among them. Returns how many
        wait for their second one now. Raises WinnowError for a share outside 0 to 1."""
        if not 0 <= share <= 1:
            raise WinnowError(f"The share of candidates to be looked at twice is {share:g}; it lies between 0 and 1.")
        setting = insert(schema.review_setting).values(dataset_id=dataset_id, double_share=share)
        with self._db.write() as connection:
            connection.execute(
                setting.on_conflict_do_update(index_elements=["dataset_id"], set_={"double_share": share})
            )
            connection.execute(delete(schema.second_look).where(second.dataset_id == dataset_id))
            latest = _latest(dataset_id).subquery()
            once = (
                select(latest.c.candidate_id, func.min(c.dataset_id), func.min(latest.c.reviewer))
                .join(schema.candidate, c.id == latest.c.candidate_id)
                .where(latest.c.decision.in_(SIDES), FRACTION < share)
                .group_by(latest.c.candidate_id)
                .having(func.count() == 1)
            )
            columns = ["candidate_id", "dataset_id", "reviewer"]
            connection.execute(insert(schema.second_look).from_select(columns, once))
            return connection.execute(select(func.count()).where(second.dataset_id == dataset_id)).scalar_one()

    def second_looks(self, dataset_id: int, reviewer: str, limit: int) -> list[int]:
        """Candidates that somebody else decided, that this person is to decide without knowing how, and that nobody has on the
        screen, ascending id."""
        mine = exists().where(v.candidate_id == second.candidate_id, v.reviewer == reviewer, v.decision.in_(UNDECIDED))
        held = exists().where(lease.candidate_id == second.candidate_id, lease.until >= time.time())
        query = select(second.candidate_id).where(
            second.dataset_id == dataset_id, second.reviewer != reviewer, ~mine, ~held
        )
        with self._db.read() as connection:
            return list(connection.execute(query.order_by(second.candidate_id).limit(limit)).scalars())

    def unseen(self, ids: Sequence[int], reviewer: str) -> set[int]:
        """Those of the candidates whose decision this person must not know yet: they are to be the second to decide."""
        query = select(second.candidate_id).where(second.candidate_id.in_(ids), second.reviewer != reviewer)
        with self._db.read() as connection:
            return set(connection.execute(query).scalars())

    def waiting(self, dataset_id: int) -> tuple[int, int]:
        """How many candidates wait for a second look, and how many are in dispute."""
        looks = select(func.count()).where(second.dataset_id == dataset_id)
        disputes = select(func.count()).where(dispute.dataset_id == dataset_id)
        with self._db.read() as connection:
            return connection.execute(looks).scalar_one(), connection.execute(disputes).scalar_one()

    # Versions

    def versions(self, ids: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Candidate -> (id of its latest verdict, who gave it), for those that have any."""
        latest = select(func.max(v.id)).where(v.candidate_id.in_(ids)).group_by(v.candidate_id)
        with self._db.read() as connection:
            rows = connection.execute(select(v.candidate_id, v.id, v.reviewer).where(v.id.in_(latest)))
            return {candidate: (number, name) for candidate, number, name in rows}

    def votes(self, ids: Sequence[int]) -> dict[int, dict[str, str]]:
        """Candidate -> person -> standing decision."""
        query = select(schema.verdict).where(v.candidate_id.in_(ids)).order_by(v.id.desc())
        logs: dict[int, list[Verdict]] = {i: [] for i in ids}
        with self._db.read() as connection:
            for row in connection.execute(query):
                logs[row.candidate_id].append(record(row))
        return {i: {one.reviewer: str(one.decision) for one in reversed(standing(log))} for i, log in logs.items()}

    # Who decided what when

    def opinions(self, dataset_id: int) -> Opinions:
        """The standing decision of each person on each candidate of the data set."""
        latest = _latest(dataset_id).subquery()
        order = latest.c.id
        with self._db.read() as connection:
            rows = connection.execute(select(latest).order_by(order)).all()
        names = sorted({row.reviewer for row in rows})
        number = {name: i for i, name in enumerate(names)}
        return Opinions(
            names=tuple(names),
            candidate=np.array([row.candidate_id for row in rows], np.int64),
            person=np.array([number[row.reviewer] for row in rows], np.int64),
            side=np.array([SIDES.get(row.decision, 0) for row in rows], np.int64),
            at=np.array([row.at for row in rows], np.float64),
            alone=np.array([row.act is None for row in rows], bool),
        )

    def trail(self, dataset_id: int, *, before: int | None = None, limit: int = 1000) -> list[Verdict]:
        """The log of a data set, newest first; `before` is the id of the last one seen."""
        here = exists().where(
            c.id == v.candidate_id, c.dataset_id == dataset_id
        )  # a join would begin with all candidates
        query = select(schema.verdict).where(here).order_by(v.id.desc()).limit(limit)
        with self._db.read() as connection:
            rows = connection.execute(query if before is None else query.where(v.id < before)).all()
        return [record(row) for row in rows]

    def whole_trail(self, dataset_id: int) -> Iterator[Verdict]:
        """All of it, newest first, read a piece at a time."""
        before: int | None = None
        while part := self.trail(dataset_id, before=before):
            yield from part
            before = part[-1].id


def record(row: Row[Any]) -> Verdict:
    """A row of the log as a record."""
    values = dict(row._mapping)
    values["decision"] = Decision(values["decision"])
    values["edit"] = unpack(values["edit"], None)
    return Verdict(**values)


def standing(log: Sequence[Verdict]) -> list[Verdict]:
    """Of the verdicts on one candidate, newest first, those that nobody took back."""
    undone = {verdict.undoes for verdict in log}
    return [one for one in log if one.decision is not Decision.UNDO and one.op_id not in undone]


def _latest(dataset_id: int) -> Select[Any]:
    """The standing decision of each person on each candidate: (candidate_id, reviewer, decision, at, act, id)."""
    undo = schema.verdict.alias()
    undone = exists().where(undo.c.undoes == v.op_id, undo.c.candidate_id == v.candidate_id)
    # what nobody has decided has no standing decision, and an index leaves it out
    mine = and_(c.id == v.candidate_id, c.dataset_id == dataset_id, c.human.is_not(None))
    last = select(func.max(v.id)).join(schema.candidate, mine).where(v.decision != "undo", ~undone)
    columns = (v.candidate_id, v.reviewer, v.decision, v.at, v.act, v.id)
    return select(*columns).where(v.id.in_(last.group_by(v.candidate_id, v.reviewer)))


# Projections


def double_share(connection: Connection, dataset_id: int) -> float:
    setting = schema.review_setting.c
    query = select(setting.double_share).where(setting.dataset_id == dataset_id)
    return connection.execute(query).scalar_one_or_none() or 0.0


def is_double(shuffle: float, share: float) -> bool:
    """Whether a candidate of this rank is among the share that two people decide."""
    return shuffle * FOLDS % 1 < share


def project(
    connection: Connection, candidate_id: int, dataset_id: int, standing: Sequence[Verdict], double: bool
) -> None:
    """Write down whether a candidate is in dispute, and whether it waits for a second look. `standing`: newest first."""
    decisions = {verdict.reviewer: verdict.decision for verdict in reversed(standing)}
    sides = {name: SIDES[decision] for name, decision in decisions.items() if decision in SIDES}
    here = {"candidate_id": candidate_id, "dataset_id": dataset_id}
    connection.execute(delete(schema.dispute).where(dispute.candidate_id == candidate_id))
    connection.execute(delete(schema.second_look).where(second.candidate_id == candidate_id))
    if len(sides) > 1 and sum(sides.values()) == 0:
        connection.execute(insert(schema.dispute).values(here))
    if double and len(sides) == 1:
        connection.execute(insert(schema.second_look).values({**here, "reviewer": next(iter(sides))}))

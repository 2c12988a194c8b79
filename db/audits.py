"""Audits: random samples of what a policy accepted at one moment, in a fixed order, and the looks people gave them.

An audit never changes: its population, its strata and its order are written down when it begins. Whatever the policy accepts
later is not part of it. What may be concluded from the looks is computed in `engine/bound.py`.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, func, select

from db import schema
from db.codec import pack
from db.database import Database
from db.errors import NotFound, WinnowError
from db.records import Decision, Record

Int = NDArray[np.int64]

DESIGNS = {
    "simple": "every accepted candidate has the same chance, whatever it is",
    "class": "each class gets its share of the looks",
    "run": "each run gets its share of the looks",
    "kind": "each kind of candidate gets its share of the looks",
}
FEW = 10  # looks; strata that would get fewer are put together into one
POOLED = "all others"
WHOLE = "all"

a, t, v = schema.audit.c, schema.audit_item.c, schema.verdict.c


class AuditStratum(Record, frozen=True, kw_only=True):
    """A part of the population that gets its share of the looks. `size` items of `population` are in the audit."""

    name: str
    population: int
    size: int


class Audit(Record, frozen=True, kw_only=True):
    """`population` candidates were accepted when it began; `size` of them, at random, are to be looked at, in the order of
    their positions. `hide`: what filters and policy say is not shown meanwhile."""

    id: int
    dataset_id: int
    policy_id: int
    design: str
    size: int
    population: int
    seed: int
    hide: bool
    created_at: float
    strata: tuple[AuditStratum, ...]
    run_id: int | None = None


class AuditItem(Record, frozen=True, kw_only=True):
    """`stratum` is an index into `Audit.strata`."""

    candidate_id: int
    position: int
    stratum: int


class Looked(AuditItem, frozen=True, kw_only=True):
    """`verdicts`: reviewer -> standing decision, of those given after the audit began. `gone`: the candidate was deleted."""

    verdicts: dict[str, Decision] = msgspec.field(default_factory=dict)
    gone: bool = False


@dataclass(frozen=True, eq=False)
class Population:
    """All candidates an audit speaks of, ascending id, and the stratum of each (index into `Audit.strata`)."""

    ids: Int
    strata: Int


class Audits:
    def __init__(self, database: Database) -> None:
        self._db = database

    def create(
        self,
        dataset_id: int,
        policy_id: int,
        run_id: int | None,
        design: str,
        size: int,
        seed: int,
        hide: bool,
        *,
        ids: Int,
        strata: Int | None = None,
        names: Mapping[int, str] | None = None,
    ) -> Audit:
        """Draw an audit of `size` out of `ids`, the candidates that the policy accepts now.

        `strata` gives a code per id (class, run or kind; left out for a simple audit), `names` what to call the codes.
        Strata too small for `FEW` looks are put together. Raises WinnowError when nothing is accepted or the size does not fit.
        """
        population = _population(ids, strata, design)
        _check_size(size, len(population.ids))
        codes, listed = _pooled(population.strata, size, names or {})
        chosen = in_order(codes, seed)[:size]
        counts = zip(listed, np.bincount(codes), np.bincount(codes[chosen], minlength=len(listed)), strict=True)
        kept = [AuditStratum(name=name, population=int(n), size=int(m)) for name, n, m in counts]
        values = {
            "dataset_id": dataset_id,
            "policy_id": policy_id,
            "run_id": run_id,
            "design": design,
            "size": size,
            "population": len(codes),
            "seed": seed,
            "hide": hide,
            "created_at": time.time(),
            "strata": pack(kept),
            "ids": _squeezed(population.ids),
            "codes": _squeezed(codes),
        }
        rows = zip(population.ids[chosen].tolist(), range(size), codes[chosen].tolist(), strict=True)
        with self._db.write() as connection:
            audit_id = _insert(connection, values)
            items = [{"audit_id": audit_id, "candidate_id": i, "position": p, "stratum": h} for i, p, h in rows]
            connection.execute(schema.audit_item.insert(), items)
        return self.audit(audit_id)

    def audit(self, audit_id: int) -> Audit:
        """Raises NotFound."""
        with self._db.read() as connection:
            row = connection.execute(select(schema.audit).where(a.id == audit_id)).one_or_none()
            known = () if row else connection.execute(select(a.id).order_by(a.id)).scalars().all()
        if row is None:
            raise NotFound("audit", audit_id, known)
        return _audit(row)

    def audits(self, dataset_id: int) -> list[Audit]:
        """Newest first."""
        query = select(schema.audit).where(a.dataset_id == dataset_id).order_by(a.id.desc())
        with self._db.read() as connection:
            return [_audit(row) for row in connection.execute(query)]

    def items(self, audit_id: int) -> list[AuditItem]:
        """In the order in which they are to be looked at."""
        query = select(t.candidate_id, t.position, t.stratum).where(t.audit_id == audit_id).order_by(t.position)
        with self._db.read() as connection:
            return [AuditItem(**row._mapping) for row in connection.execute(query)]

    def looked(self, audit_id: int) -> list[Looked]:
        """The items in their order, each with the standing decision of every reviewer who decided after the audit began."""
        with self._db.read() as connection:
            decisions = _standing(connection, audit_id)
            there = set(
                connection.execute(_mine(select(schema.candidate.c.id), schema.candidate.c.id, audit_id)).scalars()
            )
        return [
            Looked(
                candidate_id=item.candidate_id,
                position=item.position,
                stratum=item.stratum,
                verdicts=decisions.get(item.candidate_id, {}),
                gone=item.candidate_id not in there,
            )
            for item in self.items(audit_id)
        ]

    def population(self, audit_id: int) -> Population:
        """Everything the policy accepted when the audit began. Raises NotFound."""
        self.audit(audit_id)
        with self._db.read() as connection:
            row = connection.execute(select(a.ids, a.codes).where(a.id == audit_id)).one()
        return Population(ids=_unsqueezed(row.ids), strata=_unsqueezed(row.codes))


def in_order(codes: Int, seed: int) -> Int:
    """The order of an audit: all rows, shuffled by `seed`, strata interleaved in proportion to their sizes.

    Within each stratum (equal `codes`) every order is equally likely, so that any beginning of the list is a random sample
    without replacement of each stratum.
    """
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    by_stratum = shuffled[np.argsort(codes[shuffled], kind="stable")]
    sizes = np.bincount(codes)
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    due = (rank + 0.5) / np.repeat(sizes, sizes)
    return by_stratum[np.argsort(due, kind="stable")]


def _population(ids: Int, strata: Int | None, design: str) -> Population:
    if design not in DESIGNS:
        raise WinnowError(f"There is no audit design {design!r}. Known: {', '.join(DESIGNS)}.")
    if (strata is None) != (design == "simple"):
        raise WinnowError(f"A {design!r} audit {'has no' if design == 'simple' else 'needs a'} stratum per candidate.")
    ids = np.asarray(ids, np.int64)
    codes = np.zeros(len(ids), np.int64) if strata is None else np.asarray(strata, np.int64)
    if codes.shape != ids.shape or len(np.unique(ids)) != len(ids):
        raise WinnowError(f"{len(ids)} candidates with {len(codes)} strata: each must be given once, with one stratum.")
    order = np.argsort(ids)
    return Population(ids=ids[order], strata=codes[order])


def _check_size(size: int, population: int) -> None:
    if not population:
        raise WinnowError(
            "The policy accepts nothing here, so there is nothing to audit. Loosen it or choose another run."
        )
    if not 1 <= size <= population:
        raise WinnowError(
            f"An audit of {size} does not fit {population} accepted candidates: choose 1 to {population}."
        )


def _pooled(codes: Int, size: int, names: Mapping[int, str]) -> tuple[Int, list[str]]:
    """Codes 0, 1, ... and their names; strata that would get fewer than `FEW` of the looks share the last code."""
    found, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    small = np.isin(found, found[_smallest(counts, size)])
    to = np.where(small, int((~small).sum()), np.cumsum(~small) - 1)
    listed = [names.get(int(code), str(code)) for code in found[~small]]
    rest = [POOLED if listed else WHOLE] * bool(small.any())
    return to[inverse].astype(np.int64), listed + rest


def _smallest(counts: Int, size: int) -> Int:
    """Which strata to put together: all that get fewer than `FEW` looks, and with them as many as it takes to get so many."""
    order = np.argsort(counts, kind="stable")
    if len(order) == 1:
        return order
    looks = counts[order] * size / counts.sum()
    few = int((looks < FEW).sum())
    while 0 < few < len(order) and (few == 1 or looks[:few].sum() < FEW):
        few += 1
    return order[:few]


def _squeezed(values: Int) -> bytes:
    """Differences, deflated: a million ascending ids take some kilobytes."""
    return zlib.compress(np.diff(values, prepend=0).astype("<i8").tobytes())


def _unsqueezed(data: bytes) -> Int:
    return np.cumsum(np.frombuffer(zlib.decompress(data), "<i8"), dtype=np.int64)


def _insert(connection: Connection, values: dict[str, Any]) -> int:
    last = connection.execute(select(func.coalesce(func.max(v.id), 0))).scalar_one()
    return connection.execute(schema.audit.insert().returning(a.id).values(**values, after_verdict=last)).scalar_one()


def _mine(query: Any, column: Any, audit_id: int) -> Any:
    return query.where(column.in_(select(t.candidate_id).where(t.audit_id == audit_id)))


def _standing(connection: Connection, audit_id: int) -> dict[int, dict[str, Decision]]:
    """Candidate id -> reviewer -> the latest decision nobody took back, of those given since the audit began."""
    since = select(a.after_verdict).where(a.id == audit_id).scalar_subquery()
    query = select(v.candidate_id, v.op_id, v.reviewer, v.decision, v.undoes).where(v.id > since).order_by(v.id)
    rows = connection.execute(_mine(query, v.candidate_id, audit_id)).all()
    undone = {row.undoes for row in rows}
    found: dict[int, dict[str, Decision]] = {}
    for row in rows:
        if row.decision != Decision.UNDO and row.op_id not in undone:
            found.setdefault(row.candidate_id, {})[row.reviewer] = Decision(row.decision)
    return found


def _audit(row: Row[Any]) -> Audit:
    values = {name: value for name, value in row._mapping.items() if name not in ("ids", "codes", "after_verdict")}
    values["strata"] = msgspec.json.decode(row.strata, type=tuple[AuditStratum, ...])
    return Audit(**values)

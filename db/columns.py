"""The candidates of a data set as columns in memory, brought up to date whenever they are asked for.

They cannot be stale: every transaction that makes candidates, scores them or moves a standing verdict also writes the ids it
touched to the log `change` (`log_changes`), and whoever asks for columns reads that log and the touched rows in one
transaction. Ids of the log are never given twice, so "after the last one I have seen" misses nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, case, func, insert, select

from db import schema
from db.bulk import batched
from db.database import Database
from db.errors import NotFound
from db.records import Kind, Policy, Rule, Term

KINDS = tuple(Kind)
UNSEEN, ACCEPTED, REJECTED, SKIPPED = range(4)  # of `Table.human`
PENDING, ACCEPT, REJECT = range(3)  # what a policy says
MOST = 4  # data sets kept at a time
GAP = 16  # ids; touched ones nearer than that are read together
MANY = 50_000  # ids; the scores of a longer range are read filter by filter

Int = NDArray[np.int64]
Int8 = NDArray[np.int8]
Float = NDArray[np.floating[Any]]
Rows = slice | Int
Range = tuple[int, int]

c, s, h = schema.candidate.c, schema.score.c, schema.change.c
CODES = {"accept": ACCEPTED, "edit": ACCEPTED, "reject": REJECTED, "skip": SKIPPED, "flag": SKIPPED}
_READ = np.dtype(
    [("dataset", "i8"), ("id", "i8"), ("run", "i8"), ("kind", "i1"), ("category", "i8"), ("human", "i1")]
    + [("shuffle", "f8")]
)
_PAIR = np.dtype([("id", "i8"), ("value", "f8")])


PLAIN = ("ids", "run", "kind", "category", "human", "shuffle")


@dataclass(frozen=True, eq=False)
class Table:
    """n candidates, ascending id; nobody writes to the arrays. `scores` holds a column for every filter that has scored
    anything here; NaN where it has not, or could not judge. They are as exact as in the database, so that a threshold says
    the same here and there."""

    ids: Int
    run: Int
    kind: Int8  # index into KINDS
    category: Int  # -1 for none
    human: Int8  # UNSEEN, ACCEPTED (also edited), REJECTED, SKIPPED
    shuffle: NDArray[np.float32]  # a fixed random rank in [0, 1)
    scores: Mapping[str, Float]
    names: Mapping[int, str]  # category id -> name

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Any) -> Table:
        """The rows that a mask, a slice or ascending positions select."""
        plain = {name: getattr(self, name)[rows] for name in PLAIN}
        return Table(**plain, scores={name: v[rows] for name, v in self.scores.items()}, names=self.names)

    def where(self, run: int | None = None, kind: Kind | str | None = None, category: int | None = None) -> Table:
        """The candidates of a run, a kind and a class (by id), as far as they are named."""
        everything = run is None and kind is None and category is None
        return self if everything else self.take(self.mask(run, kind, category))

    def mask(self, run: int | None, kind: Kind | str | None, category: int | None) -> NDArray[np.bool_]:
        """bool[n]: the rows that `where` takes."""
        code = None if kind is None else KINDS.index(Kind(kind))
        found = np.ones(len(self), bool)
        for column, value in ((self.run, run), (self.kind, code), (self.category, category)):
            found &= column == value if value is not None else True
        return found

    def values(self, name: str) -> Float:
        """The scores of a filter; all NaN when it has scored nothing here."""
        found = self.scores.get(name)
        return np.full(len(self), np.nan) if found is None else found


# What policies say


def decide(table: Table, policy: Policy) -> Int8:
    """int8[n]: ACCEPT, REJECT or PENDING, the same as `Policy.decide` says of each candidate."""
    said = np.full(len(table), PENDING, np.int8)
    for rows, terms in parts(table, policy):
        said[rows] = _SAID[_all(table, rows, terms)]
    return said


def automatic(table: Table, policies: Mapping[int, Policy]) -> Int8:
    """int8[n]: what the policy of the run says; PENDING for a run without one."""
    said = np.full(len(table), PENDING, np.int8)
    for policy, rows in by_policy(table, policies):
        said[rows] = decide(table.take(rows), policy)
    return said


def effective(table: Table, policies: Mapping[int, Policy]) -> Int8:
    """int8[n]: the word of a person where there is one, else that of the policy of the run."""
    said = automatic(table, policies)
    return np.where(table.human == ACCEPTED, ACCEPT, np.where(table.human == REJECTED, REJECT, said)).astype(np.int8)


def by_policy(table: Table, policies: Mapping[int, Policy]) -> Iterator[tuple[Policy, Rows]]:
    """Each policy with the rows of the runs that it judges."""
    runs: dict[int, list[int]] = {}
    for run, policy in policies.items():
        runs.setdefault(policy.id, []).append(run)
    known = {policy.id: policy for policy in policies.values()}
    for policy_id, those in runs.items():
        yield known[policy_id], _where(np.isin(table.run, those))


def parts(table: Table, policy: Policy) -> Iterator[tuple[Rows, tuple[Term, ...]]]:
    """The rows for which the same terms speak, kind by kind and class by class; none for which no rule speaks."""
    for code in np.flatnonzero(np.bincount(table.kind, minlength=len(KINDS))):
        rows = _where(table.kind == code)
        for some, terms in _classes(table, rows, policy, KINDS[code]):
            if terms:
                yield some, terms


def _classes(table: Table, rows: Rows, policy: Policy, kind: Kind) -> Iterator[tuple[Rows, tuple[Term, ...]]]:
    own = policy.special(kind)
    if not own:
        yield rows, policy.terms(kind)
        return
    number = {name: i for i, names in enumerate(own.values(), 1) for name in names}
    known = np.array(sorted(table.names), np.int64)
    codes = np.array([number.get(table.names[i], 0) for i in known] + [0])
    category = table.category[rows]
    at = np.searchsorted(known, category)
    group = np.where(category < 0, 0, codes[at])
    order = np.argsort(group, kind="stable")
    positions = order if isinstance(rows, slice) else rows[order]
    ends = np.searchsorted(group[order], np.arange(len(own) + 2))
    for i, terms in enumerate((policy.terms(kind), *own)):
        yield positions[ends[i] : ends[i + 1]], terms


def _where(mask: NDArray[np.bool_]) -> Rows:
    """All rows as a slice, which copies nothing."""
    return slice(None) if mask.all() else np.flatnonzero(mask)


# Outcomes in Kleene's three-valued logic: `and` is the smaller one, `or` the greater one.
_FAILS, _UNKNOWN, _PASSES = range(3)
_SAID = np.array([REJECT, PENDING, ACCEPT], np.int8)


def _all(table: Table, rows: Rows, terms: Sequence[Term]) -> Int8:
    return np.minimum.reduce([_any(table, rows, term) for term in terms])


def _any(table: Table, rows: Rows, term: Term) -> Int8:
    return np.maximum.reduce([outcome(table, rows, rule) for rule in term])


def outcome(table: Table, rows: Rows, rule: Rule) -> Int8:
    """int8 of each row: 0 the rule fails, 1 there is no value, 2 it passes."""
    values = table.values(rule.filter)[rows]
    passes = ~np.isnan(values)
    found = np.where(passes, np.int8(_FAILS), np.int8(_UNKNOWN))
    passes &= values >= rule.at_least if rule.at_least is not None else True
    passes &= values <= rule.at_most if rule.at_most is not None else True
    found[passes] = _PASSES
    return found


# The log of changes


def log_changes(connection: Connection, candidate_ids: Sequence[int]) -> None:
    """Say that these candidates were made, scored or decided upon. Call inside the transaction that does it."""
    found: dict[int, list[int]] = {}
    for part in batched(sorted(set(candidate_ids)), 10_000):
        query = select(c.id, c.dataset_id).where(c.id.in_(part)).order_by(c.id)
        for candidate, dataset in connection.execute(query):
            found.setdefault(dataset, []).append(candidate)
    rows = [
        {"dataset_id": dataset, "low": low, "high": high}
        for dataset, ids in found.items()
        for low, high in _joined([(i, i) for i in ids])
    ]
    if rows:
        connection.execute(insert(schema.change), rows)


def _joined(ranges: Sequence[Range]) -> list[Range]:
    """Few ranges that cover the given ones, which ascend by their beginning."""
    joined: list[Range] = []
    for low, high in ranges:
        if joined and low <= joined[-1][1] + GAP:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return joined


# Reading


@dataclass(frozen=True)
class _Kept:
    table: Table
    stamp: float  # when the data set was made: ids of deleted ones are given again
    mark: int  # the last entry of the log that the table knows of


class Columns:
    """The tables of the data sets looked at last. Safe to use from several threads: a table that was handed out never changes."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._guard = threading.Lock()
        self._locks: dict[int, threading.Lock] = {}
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    def table(self, dataset_id: int) -> Table:
        """The candidates as they stand now. Raises NotFound for an unknown data set."""
        with self._guard:
            lock = self._locks.setdefault(dataset_id, threading.Lock())
        with lock:
            with self._db.read() as connection:
                kept = _current(connection, dataset_id, self._kept.get(dataset_id))
            with self._guard:
                self._kept[dataset_id] = kept
                self._kept.move_to_end(dataset_id)
                while len(self._kept) > MOST:
                    self._kept.popitem(last=False)
        return kept.table


def _current(connection: Connection, dataset_id: int, kept: _Kept | None) -> _Kept:
    made = select(schema.dataset.c.created_at).where(schema.dataset.c.id == dataset_id)
    stamp = connection.execute(made).scalar_one_or_none()
    if stamp is None:
        raise NotFound("data set", dataset_id)
    last = connection.execute(select(func.max(h.id)).where(h.dataset_id == dataset_id)).scalar_one() or 0
    if kept is None or kept.stamp != stamp:
        return _Kept(_loaded(connection, dataset_id), stamp, last)
    if kept.mark == last:
        return kept
    touched = select(h.low, h.high).where(h.dataset_id == dataset_id, h.id > kept.mark).order_by(h.low)
    ranges = _joined([(low, high) for low, high in connection.execute(touched)])
    return _Kept(_updated(connection, dataset_id, kept.table, ranges), stamp, last)


def _loaded(connection: Connection, dataset_id: int) -> Table:
    category = schema.category.c
    named = select(category.id, category.name).where(category.dataset_id == dataset_id)
    names = {i: name for i, name in connection.execute(named)}
    ends = connection.execute(select(func.min(c.id), func.max(c.id)).where(c.dataset_id == dataset_id)).one()
    empty = _table(np.empty(0, _READ), names)
    return empty if ends[0] is None else _updated(connection, dataset_id, empty, [tuple(ends)])


def _updated(connection: Connection, dataset_id: int, table: Table, ranges: Sequence[Range]) -> Table:
    """The table with the rows of these ids read again; new ids come after the known ones, as the database gives them. Columns
    that stay the same are shared with the old table."""
    read = np.concatenate([_candidates(connection, low, high) for low, high in ranges])
    read = read[read["dataset"] == dataset_id]
    table = _appended(table, read[read["id"] > (table.ids[-1] if len(table) else -1)])
    touched = np.searchsorted(table.ids, read["id"])
    found = _scores(connection, ranges)
    names = dict.fromkeys((*table.scores, *found))
    scores = {name: _written(table, name, touched, found.get(name)) for name in names}
    human = table.human.copy()
    human[touched] = read["human"]
    human.setflags(write=False)
    for column in scores.values():
        column.setflags(write=False)
    measured = {name: column for name, column in scores.items() if name in table.scores or not np.isnan(column).all()}
    return replace(table, human=human, scores=measured)


def _written(table: Table, name: str, touched: Int, pairs: NDArray[Any] | None) -> Float:
    """The column of a filter with the touched rows as they were read; the old one when nothing is new."""
    fresh = np.full(len(touched), np.nan)
    if pairs is not None and len(touched):
        ids = table.ids[touched]
        at = _places(ids, pairs["id"])
        ours = ids[at] == pairs["id"]  # the others belong to another data set
        fresh[at[ours]] = pairs["value"][ours]
    old = table.values(name)
    if np.array_equal(old[touched], fresh, equal_nan=True):
        return old
    column = old.copy()
    column[touched] = fresh
    return column


def _places(ids: Int, wanted: Int) -> Int:
    """Where in ascending ids the wanted ones are; any place for what is not there. Without gaps there is nothing to search."""
    gapless = ids[-1] - ids[0] == len(ids) - 1
    at = wanted - ids[0] if gapless else np.searchsorted(ids, wanted)
    return np.clip(at, 0, len(ids) - 1)


def _table(read: NDArray[Any], names: Mapping[int, str]) -> Table:
    return Table(
        ids=read["id"].copy(),
        run=read["run"].copy(),
        kind=read["kind"].copy(),
        category=read["category"].copy(),
        human=read["human"].copy(),
        shuffle=read["shuffle"].astype(np.float32),
        scores={},
        names=names,
    )


def _appended(table: Table, read: NDArray[Any]) -> Table:
    if not len(read):
        return table
    new = _table(read, {})
    grown = {name: np.concatenate([getattr(table, name), getattr(new, name)]) for name in PLAIN}
    scores = {name: np.concatenate([values, np.full(len(new), np.nan)]) for name, values in table.scores.items()}
    for column in grown.values():
        column.setflags(write=False)
    return Table(**grown, scores=scores, names=table.names)


def _candidates(connection: Connection, low: int, high: int) -> NDArray[Any]:
    """All candidates of a range of ids, whatever their data set: the range alone leads SQLite to the rows in their order."""
    kind = case({str(kind): i for i, kind in enumerate(KINDS)}, value=c.kind)
    human = case(CODES, value=c.human, else_=UNSEEN)
    query = select(c.dataset_id, c.id, c.run_id, kind, func.coalesce(c.category_id, -1), human, c.shuffle)
    return _raw(connection, query.where(c.id.between(low, high)).order_by(c.id), _READ)


def _raw(connection: Connection, query: Select[Any], dtype: Any) -> NDArray[Any]:
    """The rows as a structured array, straight from the driver's tuples: a row object each would cost more than the query. All are
    numbers, and ids far below 2**53, so that one plain array takes them."""
    cursor: Any = connection.execute(query).cursor
    found = np.fromiter(chain.from_iterable(cursor), np.float64).reshape(-1, len(dtype))
    rows = np.empty(len(found), dtype)
    for place, name in enumerate(dtype.names):
        rows[name] = found[:, place]
    return rows


def _scores(connection: Connection, ranges: Sequence[Range]) -> dict[str, NDArray[Any]]:
    """Filter -> the (id, value) pairs of all candidates in the ranges."""
    found: dict[str, list[NDArray[Any]]] = {}
    for low, high in ranges:
        read = _filter_by_filter if high - low > MANY else _at_once
        for name, pairs in read(connection, low, high):
            found.setdefault(name, []).append(pairs)
    return {name: np.concatenate(pairs) for name, pairs in found.items()}


def _at_once(connection: Connection, low: int, high: int) -> Iterator[tuple[str, NDArray[Any]]]:
    query = select(s.filter, s.candidate_id, s.value).where(s.candidate_id.between(low, high), s.value.is_not(None))
    found: dict[str, list[tuple[int, float]]] = {}
    for name, candidate, value in connection.execute(query):
        found.setdefault(name, []).append((candidate, value))
    yield from ((name, np.array(pairs, _PAIR)) for name, pairs in found.items())


def _filter_by_filter(connection: Connection, low: int, high: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """The name of the filter in millions of rows would take longer to read than the numbers."""
    for name in _filters(connection):
        query = select(s.candidate_id, s.value).where(s.filter == name, s.value.is_not(None))
        yield name, _raw(connection, query.where(s.candidate_id.between(low, high)), _PAIR)


def _filters(connection: Connection) -> Iterator[str]:
    """The names of all filters that have scored anything: each is a jump in the index."""
    name: str | None = ""
    while (name := connection.execute(select(func.min(s.filter)).where(s.filter > name)).scalar_one()) is not None:
        yield name

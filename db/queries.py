"""The queue of candidates as SQL: keyset pages in any order, and what the policies say.

A page never skips rows by OFFSET: the cursor holds the keys of the last row seen, so page one thousand costs what
page one costs.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy import text as sql_text
from sqlalchemy.dialects import postgresql

from db import schema
from db.dialects import is_postgres
from db.errors import WinnowError
from db.postgres import phrase
from db.records import Kind, Policy, Record, Rule, Term

c = schema.candidate.c
s = schema.score.c
picked = schema.selection.c
Policies = Mapping[int, Policy]  # run id -> the policy its candidates are judged by
Page = tuple[list[Row[Any]], list[Any] | None]

ORDERS = {
    "oldest": "in the order they were made",
    "random": "in a fixed random order: what you see is a fair sample",
    "class": "one class after the other",
    "score:FILTER": "lowest score of a filter first",
    "-score:FILTER": "highest score of a filter first",
    "uncertain:FILTER:THRESHOLD": "nearest to the threshold first: where a look changes most",
    "disagree": "filters disagree: the share of the policy's rules that pass is nearest to one half",
    "quota": "the class of which people have accepted fewest first, then the classes in turn",
    "value": "highest expected value of a look: uncertain ones first that stand for many undecided ones of their class",
}


class Span(Record, frozen=True, kw_only=True):
    """Candidates with a score of `filter` from `low` to `high`, both included; either may be open."""

    filter: str
    low: float | None = None
    high: float | None = None


class Queue(Record, frozen=True, kw_only=True):
    """Which candidates, in which order (see `ORDERS`). `human` is a decision, "undecided", "any", or "disputed" (as many people
    for it as against it). Candidates without the key of the order (no score, no class) come last.

    `spans` all hold. `text`: words that both texts together hold, each from its beginning; "quoted words" as they stand.
    `says` is what the policy of the run says: accept, reject or pending. `strategy` is that of the writer. With `free_for`, a
    person's name, what others have on the screen is left out.
    `selection` is the token of candidates that somebody picked out. `audit` is the id of an audit: its sample in the order in
    which it was drawn, whatever `order` says, because only a beginning of that order says anything about the rest."""

    dataset_id: int | None = None
    run_id: int | None = None
    kind: Kind | None = None
    category_id: int | None = None
    human: str = "undecided"
    order: str = "oldest"
    selection: str | None = None
    audit: int | None = None
    strategy: str | None = None
    spans: tuple[Span, ...] = ()
    text: str = ""
    says: str | None = None
    free_for: str | None = None

    @property
    def weighed(self) -> bool:
        """Whether it takes the columns in memory to find these candidates."""
        return bool(self.spans or self.text or self.says)


def matching(queue: Queue, *, human: bool = True) -> list[ColumnElement[bool]]:
    """The conditions of the queue; without the one on the human decision when `human` is False."""
    wanted: list[ColumnElement[bool]] = [true()]
    listed = human and queue.human == "disputed"  # disputes name their data set: SQLite would go through all of it
    for column, value in (
        (c.dataset_id, None if listed else queue.dataset_id),
        (c.run_id, queue.run_id),
        (c.category_id, queue.category_id),
        (c.strategy, queue.strategy),
    ):
        if value is not None:
            wanted.append(column == value)
    if queue.kind is not None:
        wanted.append(c.kind == str(queue.kind))
    if queue.selection is not None:
        wanted.append(c.id.in_(select(picked.candidate_id).where(picked.token == queue.selection)))
    if queue.audit is not None:
        drawn = schema.audit_item.c
        wanted.append(c.id.in_(select(drawn.candidate_id).where(drawn.audit_id == queue.audit)))
    if queue.free_for is not None:
        lease = schema.lease.c
        held = (lease.candidate_id == c.id, lease.until >= time.time(), lease.reviewer != queue.free_for)
        wanted.append(~exists().where(*held))
    if human:
        wanted += _decided(queue)
    return wanted


def _decided(queue: Queue) -> list[ColumnElement[bool]]:
    if queue.human == "any":
        return []
    if queue.human == "disputed":
        disputed = schema.dispute.c
        here = true() if queue.dataset_id is None else disputed.dataset_id == queue.dataset_id
        return [c.id.in_(select(disputed.candidate_id).where(here))]
    return [_open(queue) if queue.human == "undecided" else c.human == queue.human]


def _open(queue: Queue) -> ColumnElement[bool]:
    """Nobody has decided; in an audit, nobody since it began: what was decided before is no look of the audit."""
    if queue.audit is None:
        return c.human.is_(None)
    v, a, undo = schema.verdict.c, schema.audit.c, schema.verdict.alias()
    began = select(a.after_verdict).where(a.id == queue.audit).scalar_subquery()
    undone = exists().where(undo.c.undoes == v.op_id, undo.c.candidate_id == v.candidate_id)
    return ~exists().where(v.candidate_id == c.id, v.id > began, v.decision != "undo", ~undone)


def page(connection: Connection, queue: Queue, cursor: Sequence[Any], limit: int) -> Page:
    """Up to `limit` candidate rows after `cursor`, and the next cursor, None at the end.

    Raises WinnowError for an unknown order, or a cursor of another one.
    """
    _check(cursor)
    order, _, argument = queue.order.partition(":")
    base = select(schema.candidate).where(*matching(queue))
    if queue.audit is not None:
        drawn = schema.audit_item.c
        item = base.add_columns(drawn.position).join(schema.audit_item, drawn.candidate_id == c.id)
        return _keyed(connection, item.where(drawn.audit_id == queue.audit), (drawn.position,), cursor, limit)
    if order == "oldest":
        return _keyed(connection, base, (c.id,), cursor, limit)
    if order == "random":
        return _keyed(connection, base, (c.shuffle, c.id), cursor, limit)
    if order == "class":
        keyed = base.where(c.category_id.is_not(None))
        return _keyed_then_rest(
            connection, keyed, (c.category_id, c.id), base.where(c.category_id.is_(None)), cursor, limit
        )
    name, _, threshold = argument.partition(":")
    scored = (
        base.add_columns(s.value)
        .join(schema.score, s.candidate_id == c.id)
        .where(s.filter == name, s.value.is_not(None))
    )
    has_score = exists().where(s.candidate_id == c.id, s.filter == name, s.value.is_not(None))
    rest = base.add_columns(literal(None).label("value")).where(~has_score)
    if order == "score":
        return _keyed_then_rest(connection, scored, (s.value, s.candidate_id), rest, cursor, limit)
    if order == "-score":
        return _keyed_then_rest(connection, scored, (s.value, s.candidate_id), rest, cursor, limit, descending=True)
    if order == "uncertain":
        return _nearest(connection, scored, rest, edge(queue.order, threshold), cursor, limit)
    raise WinnowError(f"Unknown order {queue.order!r}; known: {', '.join(ORDERS)}.")


def these(connection: Connection, queue: Queue, ids: Sequence[int]) -> list[Row[Any]]:
    """The candidate rows with these ids that the queue shows, in the order of the ids."""
    if not ids:
        return []  # SQLite would look through the whole queue for none
    rows = connection.execute(select(schema.candidate).where(c.id.in_(ids), *matching(queue)))
    found = {row.id: row for row in rows}
    return [found[i] for i in ids if i in found]


def _check(cursor: Sequence[Any]) -> None:
    """A cursor comes back from outside: numbers, and perhaps "rest" before them."""
    numbers = cursor[1:] if cursor and cursor[0] == "rest" else cursor
    if not all(isinstance(n, int | float) and abs(n) < 2**63 for n in numbers):
        raise _foreign(cursor)


def _foreign(cursor: Sequence[Any]) -> WinnowError:
    return WinnowError(f"The cursor {list(cursor)!r:.200} is none of this order; start again without one.")


def edge(order: str, text: str) -> float:
    """The threshold that an order names. Raises WinnowError when it is no finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise WinnowError(
            f"The order {order!r} names no threshold; expected uncertain:FILTER:THRESHOLD, such as uncertain:seam:3."
        )
    return value


Keys = tuple[ColumnElement[Any], ...]


def _keyed(
    connection: Connection,
    query: Select[Any],
    keys: Keys,
    cursor: Sequence[Any],
    limit: int,
    *,
    descending: bool = False,
) -> Page:
    if cursor and len(cursor) != len(keys):
        raise _foreign(cursor)
    key, bound = tuple_(*keys), tuple_(*(literal(value) for value in cursor))
    if cursor:
        query = query.where(key < bound if descending else key > bound)
    ordered = query.order_by(*(k.desc() for k in keys) if descending else keys).limit(limit)
    rows = list(connection.execute(ordered))
    full = len(rows) == limit
    return rows, [_value(rows[-1], k) for k in keys] if full else None


def _value(row: Row[Any], key: Any) -> Any:
    return row.id if key.name == "candidate_id" else getattr(row, key.name)


def _keyed_then_rest(
    connection: Connection,
    keyed: Select[Any],
    keys: Keys,
    rest: Select[Any],
    cursor: Sequence[Any],
    limit: int,
    *,
    descending: bool = False,
) -> Page:
    """First the rows that have the key, then the others by id. A cursor into the others is ["rest", id]."""
    rows: list[Row[Any]] = []
    if not cursor or cursor[0] != "rest":
        rows, following = _keyed(connection, keyed, keys, cursor, limit, descending=descending)
        if following is not None:
            return rows, following
        cursor = ("rest", 0)
    others, following = _keyed(connection, rest, (c.id,), cursor[1:], limit - len(rows))
    return rows + others, None if following is None else ["rest", *following]


def _nearest(
    connection: Connection, scored: Select[Any], rest: Select[Any], threshold: float, cursor: Sequence[Any], limit: int
) -> Page:
    """Merges the scores above the threshold, ascending, with those below, descending. Cursor: [above, id, below, id]."""
    if cursor and cursor[0] == "rest":
        return _keyed_then_rest(connection, scored, (s.value, s.candidate_id), rest, cursor, limit)
    if cursor and len(cursor) != 4:
        raise _foreign(cursor)
    edge = list(cursor) or [threshold, 0, threshold, 0]
    above, _ = _keyed(connection, scored, (s.value, s.candidate_id), edge[:2], limit)
    below, _ = _keyed(connection, scored, (s.value, s.candidate_id), edge[2:], limit, descending=True)
    rows = sorted((*above, *below), key=lambda row: abs(row.value - threshold))[:limit]
    taken = {row.id for row in rows}
    for side, position in ((above, 0), (below, 2)):
        last = next((row for row in reversed(side) if row.id in taken), None)
        if last is not None:
            edge[position : position + 2] = [last.value, last.id]
    if len(rows) == limit:
        return rows, edge
    others, following = _keyed(connection, rest, (c.id,), (0,), limit - len(rows))
    return rows + others, None if following is None else ["rest", *following]


def automatic(policies: Policies) -> ColumnElement[str]:
    """What the policies say: accept, reject or pending."""
    runs: dict[int, list[int]] = {}
    for run_id, policy in policies.items():
        runs.setdefault(policy.id, []).append(run_id)
    by_id = {policy.id: policy for policy in policies.values()}
    branches = [(c.run_id.in_(ids), _says(by_id[policy_id])) for policy_id, ids in runs.items()]
    return case(*branches, else_="pending") if branches else literal("pending")


def effective(policies: Policies) -> ColumnElement[str]:
    """The human verdict where there is one (an edit is an accept), else what the policies say."""
    return case((c.human.in_(("accept", "edit")), "accept"), (c.human == "reject", "reject"), else_=automatic(policies))


def _says(policy: Policy) -> ColumnElement[str]:
    branches = []
    for kind in Kind:
        special = [(c.category_id.in_(_named(names)), _verdict(terms)) for terms, names in policy.special(kind).items()]
        general = _verdict(policy.terms(kind))
        branches.append((c.kind == str(kind), case(*special, else_=general) if special else general))
    return case(*branches, else_="pending")


def _named(names: Sequence[str]) -> Select[Any]:
    """Ids of the categories with these names, of whatever data set: a candidate's is one of its own."""
    return select(schema.category.c.id).where(schema.category.c.name.in_(names))


def _verdict(terms: Sequence[Term]) -> ColumnElement[str]:
    """SQL's three-valued logic does the work: an unknown score makes its rule unknown, so `and` is true only when all
    terms pass and false as soon as one fails."""
    if not terms:
        return literal("pending")
    passes = [or_(*map(_passes, term)) for term in terms]
    return case((or_(*(not_(term) for term in passes)), "reject"), (and_(*passes), "accept"), else_="pending")


def _passes(rule: Rule) -> ColumnElement[bool]:
    value = select(s.value).where(s.candidate_id == c.id, s.filter == rule.filter).scalar_subquery()
    bounds = [value >= rule.at_least] if rule.at_least is not None else []
    bounds += [value <= rule.at_most] if rule.at_most is not None else []
    return and_(*bounds) if bounds else value >= literal(-math.inf)


def search(connection: Connection, text: str) -> Select[Any] | None:
    """A query of the ids of all candidates whose texts hold the words, None when no word is asked for.

    Every word may go on; what stands in double quotes is looked for as it stands. Marks and capitals make no difference.
    """
    wanted = [term for term in _TERMS.findall(text) if _LETTER.search("".join(term))]
    if not wanted:
        return None
    return _in_postgres(wanted) if is_postgres(connection) else _in_sqlite(wanted)


_TERMS = re.compile(r'"([^"]*)"?|([^\s"]+)')  # (quoted, "") or ("", word)
_LETTER = re.compile(r"\w")


def _in_sqlite(terms: Sequence[tuple[str, str]]) -> Select[Any]:
    words = " ".join(f'"{quoted}"' if quoted else f'"{word}"*' for quoted, word in terms)
    found = sql_text("SELECT rowid AS id FROM candidate_text WHERE candidate_text MATCH :words").bindparams(words=words)
    return select(found.columns(id=Integer).subquery().c.id)


def _in_postgres(terms: Sequence[tuple[str, str]]) -> Select[Any]:
    words = [phrase(quoted or word, goes_on=not quoted) for quoted, word in terms]
    asked = cast(" & ".join(word for word in words if word), postgresql.TSQUERY)
    indexed = or_(c.text_before.is_not(None), c.text_after.is_not(None))
    return select(c.id).where(indexed, func.winnow_words(c.text_before, c.text_after).op("@@")(asked))

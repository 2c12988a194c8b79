"""Candidates, scores, verdicts, policies, and the queue in which people meet them.

Verdicts are only ever added (`db/verdicts.py`). What a policy says is computed from the scores whenever it is asked for: moving
a threshold is a query.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    true,
)

from db import schema
from db.bulk import batched
from db.codec import pack, unpack
from db.columns import ACCEPT, PENDING, REJECT, UNSEEN, Columns, Table, log_changes
from db.columns import automatic as automatic_of
from db.database import Database
from db.dialects import insert
from db.errors import NotFound, WinnowError
from db.ledger import check_fence, database_clock
from db.people import record, standing
from db.queries import Policies, Queue, Span, automatic, effective, matching, page, search, these
from db.ranking import COMPUTED, Rankings, rank
from db.records import (
    WHOLE,
    Candidate,
    Decision,
    Kind,
    NewCandidate,
    NewVerdict,
    Policy,
    Rule,
    Score,
    Shard,
    Verdict,
)
from db.verdicts import Act, Saved, Together, append_all, append_many, log_of, undo_many
from db.writer import GroupWriter

c, t = schema.candidate.c, schema.tally.c
TALLIED = {"any": None, "undecided": "", **{str(decision): str(decision) for decision in Decision}}  # as it says it
COLUMNS = set(c.keys()) - {"shuffle", "strategy"}
SAYS = {"accept": ACCEPT, "reject": REJECT, "pending": PENDING}
PIECE = 5000  # candidates of an act decided in one transaction; others wait no longer than for one


class Review:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._writer = GroupWriter(database)
        self._columns = Columns(database)
        self._rankings = Rankings()

    # Candidates and scores

    def add_candidates(self, shard: Shard, candidates: Sequence[NewCandidate], dataset_id: int) -> int:
        """Store what a worker made; one already there (same run, target, variant) is left as it is.

        Returns how many were new. Raises LostLease when the shard belongs to another worker by now.
        """
        rows = [_candidate_row(item, shard.run_id, dataset_id) for item in candidates]
        with self._db.write() as connection:
            check_fence(connection, shard)
            statement = insert(schema.candidate).on_conflict_do_nothing().returning(c.id)
            made = [i for row in rows for i in connection.execute(statement, row).scalars()]
            log_changes(connection, made)
        return len(made)

    def add_scores(self, shard: Shard, scores: Sequence[Score]) -> None:
        """Store raw filter values; a new value of the same filter replaces the old one."""
        rows = [
            {"candidate_id": s.candidate_id, "filter": s.filter, "value": s.value, "reason": s.reason} for s in scores
        ]
        if not rows:
            return
        statement = insert(schema.score)
        replace = statement.on_conflict_do_update(
            index_elements=["candidate_id", "filter"],
            set_={"value": statement.excluded.value, "reason": statement.excluded.reason},
        )
        with self._db.write() as connection:
            check_fence(connection, shard)
            connection.execute(replace, rows)
            log_changes(connection, [score.candidate_id for score in scores])

    def candidate(self, candidate_id: int) -> Candidate:
        with self._db.read() as connection:
            row = connection.execute(select(schema.candidate).where(c.id == candidate_id)).one_or_none()
        if row is None:
            raise NotFound("candidate", candidate_id)
        return _candidate(row)

    def candidates(self, ids: Sequence[int]) -> list[Candidate]:
        """In the order of `ids`; those that are gone are left out."""
        with self._db.read() as connection:
            rows = connection.execute(select(schema.candidate).where(c.id.in_(ids)))
            found = {row.id: _candidate(row) for row in rows}
        return [found[i] for i in ids if i in found]

    def first_of(self, image_ids: Sequence[int]) -> dict[int, Candidate]:
        """Of each image the first candidate that was made for it; images without one are left out."""
        first = select(func.min(c.id)).where(c.image_id.in_(image_ids)).group_by(c.image_id)
        with self._db.read() as connection:
            rows = connection.execute(select(schema.candidate).where(c.id.in_(first)))
            return {row.image_id: _candidate(row) for row in rows}

    def candidate_ids(self, run_id: int) -> list[int]:
        with self._db.read() as connection:
            return list(connection.execute(select(c.id).where(c.run_id == run_id).order_by(c.id)).scalars())

    def made_for(self, run_id: int, targets: Sequence[str]) -> list[Candidate]:
        """The candidates that a run has made for these targets, ascending id."""
        below = or_(*(and_(c.target > f"{target}/", c.target < f"{target}0") for target in targets))  # "0" follows "/"
        query = select(schema.candidate).where(c.run_id == run_id, below).order_by(c.id)
        with self._db.read() as connection:
            return [_candidate(row) for row in connection.execute(query)] if targets else []

    def siblings(self, candidate: Candidate) -> list[Candidate]:
        """All candidates of the same target, of whatever run, the candidate itself among them, ascending id."""
        query = select(schema.candidate).where(c.image_id == candidate.image_id, c.target == candidate.target)
        with self._db.read() as connection:
            return [_candidate(row) for row in connection.execute(query.order_by(c.id))]

    def scores_of(self, ids: Sequence[int]) -> dict[int, list[Score]]:
        """Scores by candidate id; an id without scores has an empty list."""
        table = schema.score
        found: dict[int, list[Score]] = {i: [] for i in ids}
        with self._db.read() as connection:
            for row in connection.execute(select(table).where(table.c.candidate_id.in_(ids))):
                found[row.candidate_id].append(Score(**row._mapping))
        return found

    def columns(self, dataset_id: int) -> Table:
        """The candidates of a data set as they stand now, as columns in memory. Raises NotFound."""
        return self._columns.table(dataset_id)

    # The queue

    def page(
        self,
        queue: Queue,
        *,
        cursor: Sequence[Any] = (),
        limit: int = 32,
        settle: Callable[[], NDArray[np.int64]] | None = None,
    ) -> tuple[list[Candidate], list[Any] | None]:
        """The next candidates and the cursor of the page after them (None at the end). Never uses OFFSET. `settle` gives the ids
        in an order that is not one of ours, such as by likeness; what the queue does not show is left out.

        Raises WinnowError for an unknown order or selection, or a cursor of another order.
        """
        if settle is not None or (queue.audit is None and (queue.weighed or queue.order in COMPUTED)):
            return self._ranked(queue, cursor, limit, settle or (lambda: self.find(queue)))
        with self._db.read() as connection:
            _require_selection(connection, queue)
            rows, following = page(connection, queue, cursor, limit)
        return [_candidate(row) for row in rows], following

    def _ranked(
        self, queue: Queue, cursor: Sequence[Any], limit: int, settle: Callable[[], NDArray[np.int64]]
    ) -> tuple[list[Candidate], list[Any] | None]:
        """A page of an order that was settled. Cursor: [number of the ranking, how many of it were passed]."""
        if cursor and not (len(cursor) == 2 and all(type(n) is int and 0 <= n < 2**63 for n in cursor)):
            raise WinnowError(f"The cursor {list(cursor)!r:.200} is none of this order; start again without one.")
        number, at = cursor or (0, 0)
        ids = self._rankings.get(number) if cursor else None
        if ids is None:
            ids, at = settle(), 0
            number = self._rankings.keep(ids)
        rows: list[Row[Any]] = []
        with self._db.read() as connection:
            while at < len(ids) and len(rows) < limit:
                part = ids[at : at + limit - len(rows)].tolist()
                rows += these(connection, queue, part)
                at += len(part)
        return [_candidate(row) for row in rows], [number, at] if len(rows) == limit else None

    def shown(self, queue: Queue, ids: Sequence[int]) -> list[Candidate]:
        """Those of the candidates that the queue shows, in the order of `ids`; what only the columns can tell is not asked."""
        with self._db.read() as connection:
            return [_candidate(row) for row in these(connection, queue, ids)]

    def find(self, queue: Queue) -> NDArray[np.int64]:
        """The ids of all candidates of the queue, in its order. Raises WinnowError for an unknown order, selection or score."""
        dataset_id = self._dataset_of(queue)
        table = self.columns(dataset_id)
        return rank(table, self.policies(dataset_id), queue.order, self.mask(queue, table))

    def mask(self, queue: Queue, table: Table) -> NDArray[np.bool_]:
        """bool[n]: which rows of the table the queue shows, whatever its order. Raises WinnowError as `find` does."""
        shown = table.mask(queue.run_id, queue.kind, queue.category_id)
        for span in queue.spans:
            shown &= _within(table, span)
        if _fresh(queue):
            shown &= table.human == UNSEEN
        if queue.says is not None:
            shown &= automatic_of(table, self.policies(self._dataset_of(queue))) == SAYS[queue.says]
        with self._db.read() as connection:
            _require_selection(connection, queue)
            for query in _listed(connection, queue):
                shown &= among(table.ids, _ids(connection, query))
        return shown

    def _dataset_of(self, queue: Queue) -> int:
        if queue.dataset_id is not None:
            return queue.dataset_id
        query = select(schema.run.c.dataset_id).where(schema.run.c.id == queue.run_id)
        with self._db.read() as connection:
            found = connection.execute(query).scalar_one_or_none()
        if found is None:
            raise WinnowError(
                f"The order {queue.order!r} weighs the candidates of one data set: name it, or one of its runs."
            )
        return found

    def strategies(self, dataset_id: int) -> dict[str | None, NDArray[np.int64]]:
        """Strategy of the writer -> the candidates made with it, ascending id; None for those without."""
        names = (None, *self.strategy_names(dataset_id))
        with self._db.read() as connection:
            found = {name: _ids(connection, _with_strategy(dataset_id, name)) for name in names}
        return {name: ids for name, ids in found.items() if len(ids)}

    def strategy_names(self, dataset_id: int) -> list[str]:
        """The strategies there are, sorted, each found by one step through the index."""
        names: list[str] = []
        with self._db.read() as connection:
            while True:
                beyond = [c.strategy > names[-1]] if names else []
                query = select(func.min(c.strategy)).where(c.dataset_id == dataset_id, *beyond)
                following = connection.execute(query).scalar_one()
                if following is None:
                    return names
                names.append(following)

    def places(self, dataset_id: int) -> list[Row[Any]]:
        """(id, digest, x1, y1, x2, y2, width, height) of the picture that each candidate is seen in, ascending id; the box is
        its own or that which it names, None without one."""
        i, b = schema.image.c, schema.box.c
        corners = [func.coalesce(c[name], b[name]).label(name) for name in ("x1", "y1", "x2", "y2")]
        query = select(c.id, func.coalesce(c.digest, i.digest).label("digest"), *corners, i.width, i.height)
        joined = query.join(schema.image, i.id == c.image_id).outerjoin(schema.box, b.id == c.box_id)
        with self._db.read() as connection:
            return list(connection.execute(joined.where(c.dataset_id == dataset_id).order_by(c.id)))

    def keep_selection(self, dataset_id: int, ids: Iterable[int]) -> str:
        """Keep candidates that somebody picked out and return their token, the same for the same ones.

        Raises WinnowError when there are none, or some do not belong to the data set.
        """
        wanted = np.unique(np.fromiter(ids, np.int64))
        if not len(wanted):
            raise WinnowError("Nothing is selected: there is no candidate to keep.")
        token = hashlib.blake2b(f"{dataset_id}/".encode() + wanted.tobytes(), digest_size=12).hexdigest()
        own = select(literal(token), c.id).where(c.id == bindparam("one"), c.dataset_id == dataset_id)
        keep = insert(schema.selection).from_select(["token", "candidate_id"], own).on_conflict_do_nothing()
        with self._db.write() as connection:
            connection.execute(keep, [{"one": one} for one in wanted.tolist()])
            query = select(func.count()).select_from(schema.selection).where(schema.selection.c.token == token)
            kept = connection.execute(query).scalar_one()
            if kept != len(wanted):
                raise WinnowError(
                    f"{len(wanted) - kept} of the {len(wanted)} selected are no candidates of data set {dataset_id}."
                )
        return token

    def size(self, queue: Queue) -> int:
        """How many candidates a queue shows that is not `weighed`. Raises WinnowError for an unknown selection."""
        with self._db.read() as connection:
            _require_selection(connection, queue)
            kept = _tallied(queue)
            counted = select(func.count()).select_from(schema.candidate).where(*matching(queue))
            return int(connection.execute(counted if kept is None else select(_kept()).where(*kept)).scalar_one())

    def counts(self, queue: Queue, policies: Policies) -> dict[str, dict[str, int]]:
        """`{"human": {decision or "undecided": n}, "automatic": {accept, reject, pending: n}, "effective": ...}` over
        all candidates the queue speaks of, whatever has been decided about them. Raises WinnowError for an unknown selection."""
        with self._db.read() as connection:
            _require_selection(connection, queue)
            rows = connection.execute(_states(queue, policies)).all()
        tally: dict[str, dict[str, int]] = {"human": {}, "automatic": {}, "effective": {}}
        for human, says, n in rows:
            decided = {"accept": "accept", "edit": "accept", "reject": "reject"}.get(human, says)
            for name, state in zip(tally, (human or "undecided", says, decided), strict=True):
                tally[name][state] = tally[name].get(state, 0) + n
        return tally

    def accepted(self, dataset_id: int, policies: Policies) -> Iterator[Candidate]:
        """Candidates whose effective state is accept, ascending id: the human verdict if there is one, else the policy."""
        last = 0
        while True:
            query = (
                select(schema.candidate)
                .where(c.dataset_id == dataset_id, c.id > last, effective(policies) == "accept")
                .order_by(c.id)
                .limit(1000)
            )
            with self._db.read() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            yield from map(_candidate, rows)
            last = rows[-1].id

    def images_judged(self, dataset_id: int) -> set[int]:
        """The images of the data set that are themselves candidates: see `WHOLE`."""
        query = (
            select(c.image_id)
            .distinct()
            .where(c.dataset_id == dataset_id, c.kind.in_(sorted(WHOLE)), c.digest.is_(None))
        )
        with self._db.read() as connection:
            return set(connection.execute(query).scalars())

    # Verdicts

    def decide(self, verdicts: Sequence[NewVerdict]) -> list[Saved]:
        """Append verdicts, all or none of them. A repeated `op_id` changes nothing, so delivery may be retried."""
        return self._writer.run(lambda connection: append_all(connection, verdicts))

    def decide_all(self, ids: Iterable[int], verdict: Together) -> int:
        """Give the same verdict on many candidates as one act; returns how many got it.

        Each verdict has the op_id `ACT/CANDIDATE`, so that a repeated act goes on where the first one ended. It is done in
        pieces, and others may decide between them.
        """
        return sum(self._decide_piece(piece, verdict) for piece in batched(ids, PIECE))

    def _decide_piece(self, ids: Sequence[int], verdict: Together) -> int:
        with self._db.write() as connection:
            return len(append_many(connection, ids, verdict))

    def take_back(self, act: str, reviewer: str) -> int:
        """Undo all verdicts of an act that still stand; returns how many that were. Raises WinnowError for an unknown act."""
        table = schema.verdict.c
        with self._db.read() as connection:
            ids = connection.execute(select(table.id).where(table.act == act, table.decision != "undo")).scalars().all()
        if not ids:
            raise WinnowError(f"There is no act {act!r:.100} to take back.")
        return sum(self._undo_piece(piece, act, reviewer) for piece in batched(ids, PIECE))

    def _undo_piece(self, ids: Sequence[int], act: str, reviewer: str) -> int:
        with self._db.write() as connection:
            return len(undo_many(connection, ids, act, reviewer))

    def act_size(self, act: str) -> int:
        """How many verdicts were given by an act so far."""
        table = schema.verdict.c
        query = select(func.count()).where(table.act == act, table.decision != "undo")
        with self._db.read() as connection:
            return connection.execute(query).scalar_one()

    def givers(self, names: Sequence[str]) -> dict[str, str]:
        """Who gave the verdicts (`op_id`) and acts of these names, of those that are there."""
        table = schema.verdict.c
        ways = [select(name, func.min(table.reviewer)).where(name.in_(names)) for name in (table.op_id, table.act)]
        with self._db.read() as connection:
            return {
                name: giver for way in ways for name, giver in connection.execute(way.group_by(way.selected_columns[0]))
            }

    def acts(self, dataset_id: int, reviewer: str, *, limit: int = 20) -> list[Act]:
        """A person's latest acts on a data set, newest first."""
        table, undo = schema.verdict.c, schema.verdict.alias()
        undone = exists().where(undo.c.undoes == table.op_id, undo.c.candidate_id == table.candidate_id)
        mine = (
            table.act.is_not(None),
            table.reviewer == reviewer,
            table.decision != "undo",
            c.dataset_id == dataset_id,
        )
        newest = func.max(table.id)
        same = (func.min(column).label(column.name) for column in (table.decision, table.reviewer))  # in all of an act
        columns = (table.act, *same, func.max(table.at).label("at"))
        counts = (func.count().label("verdicts"), func.count(case((~undone, 1))).label("standing"))
        query = select(*columns, *counts).join(schema.candidate, c.id == table.candidate_id).where(*mine)
        with self._db.read() as connection:
            rows = connection.execute(query.group_by(table.act).order_by(newest.desc()).limit(limit)).all()
        return [Act(**{**row._mapping, "decision": Decision(row.decision)}) for row in rows]

    def verdicts(
        self, candidate_id: int | None = None, *, reviewer: str | None = None, limit: int = 50
    ) -> list[Verdict]:
        """The log, newest first."""
        table = schema.verdict
        query = select(table).order_by(table.c.id.desc()).limit(limit)
        if candidate_id is not None:
            query = query.where(table.c.candidate_id == candidate_id)
        if reviewer is not None:
            query = query.where(table.c.reviewer == reviewer)
        with self._db.read() as connection:
            return [record(row) for row in connection.execute(query)]

    def latest(self, dataset_id: int, reviewer: str, *, before: int | None = None, limit: int = 20) -> list[Verdict]:
        """A person's verdicts on a data set that nobody took back, newest first; from those older than the verdict `before`.
        Those of an act are not among them: they are taken back together."""
        table, undo = schema.verdict.c, schema.verdict.alias()
        undone = exists().where(undo.c.undoes == table.op_id, undo.c.candidate_id == table.candidate_id)
        mine = (table.reviewer == reviewer, table.decision != "undo", table.act.is_(None), ~undone)
        query = select(schema.verdict).join(schema.candidate, c.id == table.candidate_id)
        query = query.where(c.dataset_id == dataset_id, *mine).order_by(table.id.desc()).limit(limit)
        if before is not None:
            query = query.where(table.id < before)
        with self._db.read() as connection:
            return [record(row) for row in connection.execute(query)]

    def corrections(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What the standing verdicts on these candidates changed in them; nothing of those without a correction."""
        table = schema.verdict
        query = select(table).where(table.c.candidate_id.in_(ids)).order_by(table.c.id.desc())
        logs: dict[int, list[Verdict]] = {}
        with self._db.read() as connection:
            for row in connection.execute(query):
                logs.setdefault(row.candidate_id, []).append(record(row))
        found = {i: next(iter(standing(log)), None) for i, log in logs.items()}
        return {i: verdict.edit for i, verdict in found.items() if verdict is not None and verdict.edit}

    def standing(self, candidate_id: int) -> Verdict | None:
        """The verdict that counts: the latest one nobody took back."""
        with self._db.read() as connection:
            return next(iter(standing(log_of(connection, candidate_id))), None)

    # Policies

    def save_policy(self, name: str, rules: Sequence[Rule]) -> Policy:
        """A new version of the named policy, or the newest one when its rules are the same.

        Raises WinnowError for a policy without name, and for bounds that are no finite numbers or leave nothing between them.
        """
        faults = [] if name.strip() else ["it has no name"]
        faults += [fault for rule in rules for fault in _faults(rule)]
        if faults:
            raise WinnowError(f"The policy {name!r} cannot be saved: {'; '.join(faults)}.")
        table = schema.policy
        with self._db.write() as connection:
            newest = connection.execute(
                select(table).where(table.c.name == name).order_by(table.c.version.desc())
            ).first()
            if newest is not None and _policy(newest).rules == tuple(rules):
                return _policy(newest)
            version = 1 if newest is None else newest.version + 1
            values = {"name": name, "version": version, "rules": pack(list(rules)) or b"[]", "created_at": time.time()}
            made = connection.execute(table.insert().returning(table).values(values)).one()
        return _policy(made)

    def policy(self, policy_id: int) -> Policy:
        with self._db.read() as connection:
            row = connection.execute(select(schema.policy).where(schema.policy.c.id == policy_id)).one_or_none()
        if row is None:
            raise NotFound("policy", policy_id)
        return _policy(row)

    def policies_named(self, name: str | None = None) -> list[Policy]:
        """All versions of all policies, or of one, by name, the newest version first. None is ever taken away."""
        table = schema.policy
        query = select(table).order_by(table.c.name, table.c.version.desc())
        with self._db.read() as connection:
            return [
                _policy(row) for row in connection.execute(query if name is None else query.where(table.c.name == name))
            ]

    def give_policy(self, run_ids: Sequence[int], policy_id: int) -> None:
        """Judge the candidates of these runs by this policy from now on, an old one or a new one. No score is touched. The run's
        option `policies` keeps the ids of all it was judged by, and its log says when.

        Raises NotFound, and then changes nothing.
        """
        policy = self.policy(policy_id)
        with self._db.write() as connection:
            for run_id in run_ids:
                _give(connection, run_id, policy)

    def policies(self, dataset_id: int, runs: Sequence[int] | None = None) -> dict[int, Policy]:
        """Run id -> policy, for every run of the data set that was given one; of `runs` only, where these are named."""
        table = schema.run.c
        query = select(table.id, table.options).where(table.dataset_id == dataset_id)
        with self._db.read() as connection:
            rows = connection.execute(query if runs is None else query.where(table.id.in_(runs))).all()
            ids = {row.id: unpack(row.options, dict[str, Any]()).get("policy_id") for row in rows}
            known = {row.id: _policy(row) for row in connection.execute(select(schema.policy))}
        return {run: known[policy] for run, policy in ids.items() if policy in known}


def _faults(rule: Rule) -> Iterator[str]:
    bounds = {"at_least": rule.at_least, "at_most": rule.at_most}
    for name, bound in bounds.items():
        if bound is not None and not math.isfinite(bound):
            yield f"{name} of {rule.filter} is {bound}, which is no finite number"
    if rule.at_least is not None and rule.at_most is not None and rule.at_least > rule.at_most:
        yield f"nothing is both at least {rule.at_least:g} and at most {rule.at_most:g}, as {rule.filter} is asked to be"


def _give(connection: Connection, run_id: int, policy: Policy) -> None:
    table = schema.run.c
    row = connection.execute(select(table.options).where(table.id == run_id)).one_or_none()
    if row is None:
        raise NotFound("run", run_id)
    options = unpack(row.options, dict[str, Any]())
    before = options.get("policy_id")
    if before == policy.id:
        return
    past = options.get("policies", [before] if before is not None else [])
    options |= {"policy_id": policy.id, "policies": [*past, policy.id]}
    connection.execute(schema.run.update().where(table.id == run_id).values(options=pack(options)))
    said = f"Judged by policy {policy.name} v{policy.version} from now on."
    line = {"run_id": run_id, "level": "info", "text": said, "at": database_clock(connection)}
    connection.execute(schema.log.insert().values(line))


def _within(table: Table, span: Span) -> NDArray[np.bool_]:
    if span.filter not in table.scores:
        known = ", ".join(sorted(table.scores)) or "none yet"
        raise WinnowError(f"Nothing here has a score of {span.filter!r:.100}; scored: {known}.")
    values = table.scores[span.filter]
    low, high = (-math.inf if span.low is None else span.low), (math.inf if span.high is None else span.high)
    return (values >= low) & (values <= high)


def _listed(connection: Connection, queue: Queue) -> Iterator[Select[Any]]:
    """Queries of ids that the candidates must all be among: for what is not in the columns."""
    if queue.text and (found := search(connection, queue.text)) is not None:
        yield found
    beyond = any(one is not None for one in (queue.selection, queue.strategy, queue.audit))
    if beyond or (queue.human != "any" and not _fresh(queue)):
        yield select(c.id).where(*matching(queue))


def _states(queue: Queue, policies: Policies) -> Select[Any]:
    """(what people say, what the policies say, how many)."""
    kept = None if policies else _tallied(queue, human=False)
    if kept is not None:
        return select(t.human, literal("pending"), _kept()).where(*kept).group_by(t.human)
    states = (c.human, automatic(policies)) if policies else (c.human,)
    shown = states if policies else (c.human, literal("pending"))
    return select(*shown, func.count()).where(*matching(queue, human=False)).group_by(*states)


def _tallied(queue: Queue, *, human: bool = True) -> list[ColumnElement[bool]] | None:
    """What `matching` asks of a candidate, asked of the tally; None when only the candidates themselves can say."""
    beyond = any(one is not None for one in (queue.selection, queue.audit, queue.strategy))
    if beyond or queue.weighed or (human and queue.human not in TALLIED):
        return None
    wanted = {
        t.dataset_id: queue.dataset_id,
        t.run_id: queue.run_id,
        t.kind: queue.kind and str(queue.kind),
        t.category_id: queue.category_id,
        t.human: TALLIED[queue.human] if human else None,
    }
    return [true(), *(column == value for column, value in wanted.items() if value is not None)]


def _kept() -> ColumnElement[int]:
    """How many candidates some rows of the tally count together; PostgreSQL adds up to a decimal number."""
    return cast(func.coalesce(func.sum(t.n), 0), BigInteger)


def _ids(connection: Connection, query: Select[Any]) -> NDArray[np.int64]:
    cursor: Any = connection.execute(query).cursor
    return np.fromiter(cursor, [("id", "i8")])["id"]


def _with_strategy(dataset_id: int, name: str | None) -> Select[Any]:
    return select(c.id).where(c.dataset_id == dataset_id, c.strategy == name).order_by(c.id)


def _fresh(queue: Queue) -> bool:
    """Whether it shows what nobody has decided, which the columns know without asking the database."""
    return queue.human == "undecided" and queue.audit is None


def among(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool[n]: which of the ascending ids are wanted."""
    found = np.zeros(len(ids), bool)
    at = np.searchsorted(ids, wanted)
    inside = at < len(ids)
    at = at[inside]
    found[at[ids[at] == wanted[inside]]] = True
    return found


def _require_selection(connection: Connection, queue: Queue) -> None:
    if queue.selection is None:
        return
    token = schema.selection.c.token
    if connection.execute(select(token).where(token == queue.selection).limit(1)).first() is None:
        raise WinnowError(f"There is no selection {queue.selection!r:.100}; pick the candidates out again.")


# Rows to records and back


def _candidate_row(item: NewCandidate, run_id: int, dataset_id: int) -> dict[str, Any]:
    rank = hashlib.blake2b(f"{run_id}/{item.target}/{item.variant}".encode(), digest_size=6).digest()
    box = dict(zip(("x1", "y1", "x2", "y2"), item.xyxy or (None,) * 4, strict=True))
    copied = (
        "target",
        "variant",
        "image_id",
        "seed",
        "category_id",
        "box_id",
        "phrase_id",
        "text_before",
        "text_after",
        "digest",
    )
    return {
        **{name: getattr(item, name) for name in copied},
        **box,
        "kind": str(item.kind),
        "run_id": run_id,
        "dataset_id": dataset_id,
        "detail": pack(item.detail),
        "created_at": time.time(),
        "shuffle": int.from_bytes(rank) / 2**48,
        "strategy": item.detail.get("strategy"),
    }


def _candidate(row: Row[Any]) -> Candidate:
    values = {name: value for name, value in row._mapping.items() if name in COLUMNS}
    corners = tuple(values.pop(name) for name in ("x1", "y1", "x2", "y2"))
    values["xyxy"] = None if corners[0] is None else corners
    values["kind"] = Kind(values["kind"])
    values["detail"] = unpack(values["detail"], {})
    return Candidate(**values)


def _policy(row: Row[Any]) -> Policy:
    rules = msgspec.json.decode(row.rules, type=tuple[Rule, ...])
    return Policy(id=row.id, name=row.name, version=row.version, rules=rules, created_at=row.created_at)

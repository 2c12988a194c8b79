"""Candidates, scores, verdicts, policies, and the queue in which people meet them.

Verdicts are only ever added. `candidate.human` is a projection of them, rewritten in the same transaction. What a
policy says is computed from the scores whenever it is asked for: moving a threshold is a query.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, and_, bindparam, func, literal, or_, select
from sqlalchemy.dialects.sqlite import insert

from db import schema
from db.codec import pack, unpack
from db.columns import CODES, UNSEEN, Columns, Table, log_changes
from db.database import Database
from db.errors import NotFound, WinnowError
from db.ledger import check_fence, database_clock
from db.queries import Policies, Queue, automatic, effective, matching, page, these
from db.ranking import COMPUTED, Rankings, rank
from db.records import Candidate, Decision, Kind, NewCandidate, NewVerdict, Policy, Record, Rule, Score, Shard, Verdict

c = schema.candidate.c
COLUMNS = set(c.keys())


class Saved(Record, frozen=True, kw_only=True):
    """What became of a delivered verdict: saved, repeated (already there) or refused, with the reason."""

    op_id: str
    status: str
    message: str = ""


class Review:
    def __init__(self, database: Database) -> None:
        self._db = database
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
        self, queue: Queue, *, cursor: Sequence[Any] = (), limit: int = 32
    ) -> tuple[list[Candidate], list[Any] | None]:
        """The next candidates and the cursor of the page after them (None at the end). Never uses OFFSET.

        Raises WinnowError for an unknown order or selection, or a cursor of another order.
        """
        if queue.audit is None and queue.order in COMPUTED:
            return self._ranked(queue, cursor, limit)
        with self._db.read() as connection:
            _require_selection(connection, queue)
            rows, following = page(connection, queue, cursor, limit)
        return [_candidate(row) for row in rows], following

    def _ranked(self, queue: Queue, cursor: Sequence[Any], limit: int) -> tuple[list[Candidate], list[Any] | None]:
        """A page of a computed order. Cursor: [number of the ranking, how many of it were passed]."""
        if cursor and not (len(cursor) == 2 and all(type(n) is int and 0 <= n < 2**63 for n in cursor)):
            raise WinnowError(f"The cursor {list(cursor)!r:.200} is none of this order; start again without one.")
        number, at = cursor or (0, 0)
        ids = self._rankings.get(number) if cursor else None
        if ids is None:
            ids, at = self._rank(queue), 0
            number = self._rankings.keep(ids)
        rows: list[Row[Any]] = []
        with self._db.read() as connection:
            while at < len(ids) and len(rows) < limit:
                part = ids[at : at + limit - len(rows)].tolist()
                rows += these(connection, queue, part)
                at += len(part)
        return [_candidate(row) for row in rows], [number, at] if len(rows) == limit else None

    def _rank(self, queue: Queue) -> NDArray[np.int64]:
        dataset_id = self._dataset_of(queue)
        table = self.columns(dataset_id)
        shown = table.mask(queue.run_id, queue.kind, queue.category_id)
        if queue.human != "any":
            shown &= table.human == CODES.get(queue.human, UNSEEN)
        if queue.selection is not None:
            token = schema.selection.c.token == queue.selection
            with self._db.read() as connection:
                _require_selection(connection, queue)
                chosen = connection.execute(select(schema.selection.c.candidate_id).where(token)).scalars().all()
            shown &= np.isin(table.ids, chosen)
        return rank(table, self.policies(dataset_id), queue.order, shown)

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

    def counts(self, queue: Queue, policies: Policies) -> dict[str, dict[str, int]]:
        """`{"human": {decision or "undecided": n}, "automatic": {accept, reject, pending: n}, "effective": ...}` over
        all candidates the queue speaks of, whatever has been decided about them. Raises WinnowError for an unknown selection."""
        human = func.coalesce(c.human, "undecided").label("human")
        states = (human, automatic(policies).label("automatic"), effective(policies).label("effective"))
        query = select(*states, func.count()).where(*matching(queue, human=False)).group_by(*states)
        tally: dict[str, dict[str, int]] = {"human": {}, "automatic": {}, "effective": {}}
        with self._db.read() as connection:
            _require_selection(connection, queue)
            for *values, n in connection.execute(query):
                for name, state in zip(tally, values, strict=True):
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

    # Verdicts

    def decide(self, verdicts: Sequence[NewVerdict]) -> list[Saved]:
        """Append verdicts, all in one transaction. A repeated `op_id` changes nothing, so delivery may be retried."""
        with self._db.write() as connection:
            saved = [_append(connection, verdict) for verdict in verdicts]
            moved = [v.candidate_id for v, s in zip(verdicts, saved, strict=True) if s.status == "saved"]
            log_changes(connection, moved)
        return saved

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
            return [_verdict(row) for row in connection.execute(query)]

    def standing(self, candidate_id: int) -> Verdict | None:
        """The verdict that counts: the latest one nobody took back."""
        with self._db.read() as connection:
            return _standing(connection, candidate_id)

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

    def policies(self, dataset_id: int) -> dict[int, Policy]:
        """Run id -> policy, for every run of the data set that was given one."""
        table = schema.run.c
        with self._db.read() as connection:
            rows = connection.execute(select(table.id, table.options).where(table.dataset_id == dataset_id)).all()
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
    }


def _candidate(row: Row[Any]) -> Candidate:
    values = {name: value for name, value in row._mapping.items() if name in COLUMNS}
    corners = tuple(values.pop(name) for name in ("x1", "y1", "x2", "y2"))
    values.pop("shuffle")
    values["xyxy"] = None if corners[0] is None else corners
    values["kind"] = Kind(values["kind"])
    values["detail"] = unpack(values["detail"], {})
    return Candidate(**values)


def _policy(row: Row[Any]) -> Policy:
    rules = msgspec.json.decode(row.rules, type=tuple[Rule, ...])
    return Policy(id=row.id, name=row.name, version=row.version, rules=rules, created_at=row.created_at)


def _verdict(row: Row[Any]) -> Verdict:
    values = dict(row._mapping)
    values["decision"] = Decision(values["decision"])
    values["edit"] = unpack(values["edit"], None)
    return Verdict(**values)


# Verdicts


def _append(connection: Connection, verdict: NewVerdict) -> Saved:
    known = select(schema.verdict.c.id).where(schema.verdict.c.op_id == verdict.op_id)
    if connection.execute(known).first():
        return Saved(op_id=verdict.op_id, status="repeated")
    problem = _problem(connection, verdict)
    if problem:
        return Saved(op_id=verdict.op_id, status="refused", message=problem)
    row = {name: getattr(verdict, name) for name in ("op_id", "candidate_id", "reviewer", "reason", "undoes")}
    row |= {"decision": str(verdict.decision), "edit": pack(verdict.edit), "at": time.time()}
    connection.execute(schema.verdict.insert().values(row))
    standing = _standing(connection, verdict.candidate_id)
    human = None if standing is None else str(standing.decision)
    connection.execute(schema.candidate.update().where(c.id == verdict.candidate_id).values(human=human))
    return Saved(op_id=verdict.op_id, status="saved")


def _problem(connection: Connection, verdict: NewVerdict) -> str | None:
    if connection.execute(select(c.id).where(c.id == verdict.candidate_id)).first() is None:
        return f"Candidate {verdict.candidate_id} no longer exists; the verdict was not needed."
    if verdict.decision is not Decision.UNDO:
        return None
    table = schema.verdict.c
    undone = select(table.id).where(table.op_id == verdict.undoes, table.candidate_id == verdict.candidate_id)
    if connection.execute(undone).first() is None:
        return f"There is no verdict {verdict.undoes!r} on candidate {verdict.candidate_id} to undo."
    return None


def _standing(connection: Connection, candidate_id: int) -> Verdict | None:
    rows = connection.execute(
        select(schema.verdict).where(schema.verdict.c.candidate_id == candidate_id).order_by(schema.verdict.c.id.desc())
    )
    verdicts = [_verdict(row) for row in rows]
    undone = {verdict.undoes for verdict in verdicts}
    return next((v for v in verdicts if v.decision is not Decision.UNDO and v.op_id not in undone), None)

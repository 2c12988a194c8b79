"""The routes of the threshold lab, `/api/lab/...`: what the filters measured, and what other rules would make of it.

Every question carries the place it is about (data set, run, kind, class) and is answered from the columns in memory, so
that nothing is computed anew by moving a threshold. Refusals are JSON, `{"error": sentence}`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from db.columns import ACCEPT, PENDING, REJECT, Table
from db.errors import WinnowError
from db.records import Candidate, Kind, Policy, Rule, RunKind
from db.store import Store
from engine import thresholds
from engine.filters import FILTERS
from studio import views
from studio.api import Route, RowId, answer, chosen_dataset, from_our_pages

STATES = {"accept": ACCEPT, "reject": REJECT, "pending": PENDING}
Name = Annotated[str, Field(min_length=1, max_length=80)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RuleGiven(Body):
    """A rule as the page sends it."""

    filter: Name
    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None
    kinds: tuple[Kind, ...] = ()
    group: str = Field("", max_length=40)
    classes: tuple[str, ...] = ()

    def rule(self) -> Rule:
        return Rule(**self.model_dump())


Rules = Annotated[list[RuleGiven], Field(max_length=200)]


class Place(Body):
    """The candidates that are looked at."""

    dataset: RowId
    run: RowId | None = None
    kind: Kind | None = None
    category: RowId | None = None


class Change(Place):
    before: Rules
    after: Rules


class Flipped(Change):
    to: Literal["accept", "reject", "pending"]


class Plane(Place):
    x: Name
    y: Name


class Lasso(Plane):
    polygon: Annotated[list[tuple[FiniteFloat, FiniteFloat]], Field(min_length=3, max_length=5000)]


class These(Place):
    ids: Annotated[list[RowId], Field(min_length=1, max_length=5000)]


class Saved(Body):
    """Rules to keep under a name, and the runs that are to be judged by them from now on."""

    dataset: RowId
    name: Name
    rules: Annotated[Rules, Field(min_length=1)]
    runs: list[RowId] = []


def router(store: Store) -> APIRouter:
    """All routes of the lab. Include them before Gradio is mounted at "/", which swallows what comes later."""
    routes = APIRouter(prefix="/api/lab", route_class=Route)
    _add_looking(routes, store)
    _add_keeping(routes, store)
    return routes


def _add_looking(routes: APIRouter, store: Store) -> None:
    @routes.get("/setup")
    def setup(dataset: Annotated[RowId | None, Query()] = None) -> Response:
        """What can be chosen, for the named data set or the one worked on last."""
        return answer(_setup(store, dataset))

    @routes.post("/histograms")
    def histograms(place: Place) -> Response:
        """A histogram of every filter that has measured something here, split by verdict."""
        table = _table(store, place)
        measured = [name for name in sorted(table.scores, key=_order) if not np.isnan(table.scores[name]).all()]
        found = [{"filter": name, **msgspec.structs.asdict(thresholds.histogram(table, name))} for name in measured]
        return answer({"total": len(table), "histograms": found})

    @routes.post("/ask")
    def ask(change: Change) -> Response:
        """How many are accepted, rejected and pending before and after, what changes sides, and how the rules after
        agree with the verdicts."""
        return answer(_asked(store, _table(store, change), change))

    @routes.post("/scatter")
    def scatter(plane: Plane) -> Response:
        """Two filters against each other; a fair sample when there are many."""
        table = _table(store, plane)
        points = thresholds.scatter(table, plane.x, plane.y)
        rows = {"x": _short(points.x), "y": _short(points.y), "human": points.human.tolist()}
        return answer(rows | {"note": points.note})


def _add_keeping(routes: APIRouter, store: Store) -> None:
    ours = [Depends(from_our_pages)]

    @routes.post("/inside", dependencies=ours)
    def inside(lasso: Lasso) -> Response:
        """Keep what lies within a polygon, to open it in Review."""
        table = _table(store, lasso)
        return _kept(store, lasso.dataset, thresholds.inside(table, lasso.x, lasso.y, lasso.polygon))

    @routes.post("/flipped", dependencies=ours)
    def flipped(change: Flipped) -> Response:
        """Keep all that would change to the named side, to open it in Review."""
        table = _table(store, change)
        was, now = thresholds.decide(table, _policy(change.before)), thresholds.decide(table, _policy(change.after))
        return _kept(store, change.dataset, table.ids[(was != now) & (now == STATES[change.to])])

    @routes.post("/these", dependencies=ours)
    def these(chosen: These) -> Response:
        """Keep the named candidates, to open them in Review."""
        return _kept(store, chosen.dataset, np.asarray(chosen.ids, np.int64))

    @routes.post("/policies", dependencies=ours)
    def policies(saved: Saved) -> Response:
        """Save rules as the next version of a policy, and judge the named runs by it. No score is computed anew."""
        policy = _save(store, saved)
        return answer({"id": policy.id, "name": policy.name, "version": policy.version})


# What can be chosen


def _setup(store: Store, dataset: int | None) -> dict[str, Any]:
    datasets = store.datasets.list()
    chosen = chosen_dataset(store, datasets, dataset)
    table = store.review.columns(chosen) if chosen else None
    return {
        "dataset": chosen,
        "datasets": [{"value": one.id, "title": one.name} for one in datasets],
        "candidates": 0 if table is None else len(table.ids),
        "kinds": _kinds(table),
        "categories": _categories(table),
        "filters": _filters(table),
        "runs": _runs(store, chosen) if chosen else [],
        "policies": _policies(store, chosen) if chosen else [],
    }


def _kinds(table: Table | None) -> list[dict[str, Any]]:
    there = set() if table is None else set(np.unique(table.kind).tolist())
    return [{"value": str(kind), "title": views.KINDS[kind][0]} for i, kind in enumerate(Kind) if i in there]


def _categories(table: Table | None) -> list[dict[str, Any]]:
    if table is None:
        return []
    ids, counts = np.unique(table.category[table.category >= 0], return_counts=True)
    found = [
        {"value": int(i), "name": table.names[int(i)], "title": f"{table.names[int(i)]} ({n:,})"}
        for i, n in zip(ids, counts, strict=True)
    ]
    return sorted(found, key=lambda one: one["name"])


def _filters(table: Table | None) -> list[dict[str, Any]]:
    """Every filter that is known or has measured something; `scored` is the number of its values."""
    scores: Mapping[str, Any] = {} if table is None else table.scores
    return [_filter(name, scores.get(name)) for name in sorted({*FILTERS, *scores}, key=_order)]


def _filter(name: str, values: Any) -> dict[str, Any]:
    known = FILTERS.get(name)
    return {
        "name": name,
        "title": known.title if known else name,
        "help": known.help if known else "",
        "better": known.better if known else "higher",
        "scored": 0 if values is None else int(np.count_nonzero(~np.isnan(values))),
    }


def _order(name: str) -> tuple[int, str]:
    """Filters in the order of the registry, others after them by name."""
    known = list(FILTERS)
    return (known.index(name), "") if name in FILTERS else (len(known), name)


def _runs(store: Store, dataset: int) -> list[dict[str, Any]]:
    given = store.review.policies(dataset)
    runs = store.ledger.runs(kind=RunKind.GENERATE, dataset_id=dataset, limit=1000)
    return [
        {"value": run.id, "title": f"{run.id} · {run.title}", "policy": given[run.id].id if run.id in given else None}
        for run in runs
    ]


def _policies(store: Store, dataset: int) -> list[dict[str, Any]]:
    """All versions of all policies, newest first, with the runs of the data set that are judged by them."""
    users: dict[int, list[int]] = {}
    for run, policy in store.review.policies(dataset).items():
        users.setdefault(policy.id, []).append(run)
    known = sorted(store.review.policies_named(), key=lambda policy: -policy.id)
    return [
        {
            "id": policy.id,
            "name": policy.name,
            "version": policy.version,
            "rules": [_rule(rule) for rule in policy.rules],
            "runs": users.get(policy.id, []),
        }
        for policy in known
    ]


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "filter": rule.filter,
        "at_least": rule.at_least,
        "at_most": rule.at_most,
        "kinds": [str(kind) for kind in rule.kinds],
        "group": rule.group,
        "classes": list(rule.classes),
    }


# Looking


def _table(store: Store, place: Place) -> Table:
    store.datasets.get(place.dataset)
    return store.review.columns(place.dataset).where(run=place.run, kind=place.kind, category=place.category)


def _asked(store: Store, table: Table, change: Change) -> dict[str, Any]:
    before, after = _policy(change.before), _policy(change.after)
    decided = thresholds.decide(table, after)
    flips = thresholds.flips(table, before, after)
    agreement = thresholds.against(table, decided)
    sides = {
        "accept": (flips.to_accept, flips.first_accept),
        "reject": (flips.to_reject, flips.first_reject),
        "pending": (flips.to_pending, flips.first_pending),
    }
    shown = _examples(store, [i for _, ids in sides.values() for i in ids])
    return {
        "before": _tally(thresholds.decide(table, before)),
        "after": _tally(decided),
        "flips": {
            side: {"count": count, "cards": [shown[i] for i in ids if i in shown]}
            for side, (count, ids) in sides.items()
        },
        "agreement": agreement,
    }


def _policy(rules: Sequence[RuleGiven]) -> Policy:
    """Rules on trial as a policy that is stored nowhere."""
    return Policy(id=0, name="on trial", version=0, rules=tuple(one.rule() for one in rules), created_at=time.time())


def _tally(decided: np.ndarray) -> dict[str, int]:
    counts = np.bincount(decided, minlength=len(STATES)).tolist()
    return {name: counts[code] for name, code in STATES.items()}


def _examples(store: Store, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    found = store.review.candidates([int(i) for i in ids])
    images = {image_id: store.datasets.image(image_id) for image_id in {one.image_id for one in found}}
    boxes = store.datasets.boxes_of(list(images))
    return {
        one.id: _example(one, images[one.image_id], {box.id: box for box in boxes[one.image_id]}.get(one.box_id or 0))
        for one in found
    }


def _example(candidate: Candidate, image: Any, box: Any) -> dict[str, Any]:
    """A thumbnail: of the new image with its box, or of the source with the box that the text is about."""
    digest = candidate.digest or image.digest
    xyxy = candidate.xyxy if candidate.xyxy else box.xyxy if box else None
    return {
        "id": candidate.id,
        "thumb": f"/media/thumb/{digest}" if digest else None,
        "size": [image.width, image.height],
        "xyxy": xyxy,
        "text": candidate.text_after or views.KINDS[candidate.kind][0],
        "human": candidate.human,
    }


def _short(values: Any) -> list[float]:
    """Five digits: more than a screen has pixels, and a quarter of the bytes."""
    array = np.asarray(values, np.float64)
    scale = 10.0 ** (4 - np.floor(np.log10(np.abs(array), where=array != 0, out=np.zeros_like(array))))
    return [float(f"{value:.5g}") for value in (np.round(array * scale) / scale).tolist()]


# Keeping


def _kept(store: Store, dataset: int, ids: np.ndarray) -> Response:
    """How many they are and the token under which Review shows them, None when there are none."""
    token = store.review.keep_selection(dataset, [int(i) for i in ids]) if len(ids) else None
    return answer({"count": len(ids), "selection": token})


def _save(store: Store, saved: Saved) -> Policy:
    """Raises WinnowError for an unknown filter, class or run, and for bounds that let nothing pass."""
    table = store.review.columns(saved.dataset)
    rules = [one.rule() for one in saved.rules]
    classes = {category.name for category in store.datasets.categories(saved.dataset)}
    thresholds.refuse_unknown(rules, {*FILTERS, *table.scores}, classes)
    known = {run["value"] for run in _runs(store, saved.dataset)}
    foreign = sorted(set(saved.runs) - known)
    if foreign:
        raise WinnowError(f"Data set {saved.dataset} has no run {', '.join(map(str, foreign))}; nothing was saved.")
    policy = store.review.save_policy(saved.name, rules)
    if saved.runs:
        store.review.give_policy(saved.runs, policy.id)
    return policy

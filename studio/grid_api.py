"""The routes of the grid, `/api/grid/...`: many candidates at once, what they may be narrowed by, and acts on many.

A place in the grid is a queue as it stands in a URL (`studio/api.py`), the same that Review takes. Refusals are JSON,
`{"error": sentence}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from db.columns import ACCEPT, PENDING, REJECT, Table, automatic
from db.errors import Unwritable, WinnowError
from db.records import WHOLE, Box, Candidate, Decision, Image, Policy, Record, RunKind, Score
from db.store import Store
from db.verdicts import Together
from engine.filters import FILTERS
from studio import views
from studio.api import Route, RowId, Wanted, answer, chosen_dataset, cursor_of, from_our_pages, of_others
from studio.finding import Finder, groups

BINS = 40
CLUSTERS = 12
POLICY = {"accept": ACCEPT, "reject": REJECT, "pending": PENDING}
SAID = {"accept": "accepted by the policy", "reject": "rejected by the policy", "pending": "left open by the policy"}
Ids = NDArray[np.int64]
ActId = Annotated[str, Field(min_length=8, max_length=80, pattern=r"^[\w-]+$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Seen(Wanted):
    cursor: str = Field("", max_length=400)
    limit: int = Field(100, ge=1, le=200)
    reviewer: str = Field("local", max_length=200)


class Grouped(Wanted):
    by: Literal["category", "run", "strategy", "says", "cluster"]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Deed(Body):
    """An act on many, `op_id` its name: the same verdict on the candidates in `ids`, or on all that the place shows when there are
    none; or the taking back of the act `undoes`. `expected` is how many the person was told of."""

    op_id: ActId
    reviewer: Name = "local"
    undoes: ActId | None = None
    place: Wanted | None = None
    decision: Literal["accept", "reject", "skip"] | None = None
    reason: Name | None = None
    ids: Annotated[list[RowId], Field(min_length=1, max_length=10_000)] | None = None
    expected: int | None = None


Deeds = Annotated[list[Deed], Field(max_length=100)]


class Done(Record, frozen=True, kw_only=True):
    """What became of an act: saved, with the number of verdicts it gave or took back now, or refused."""

    op_id: str
    status: str
    count: int = 0
    message: str = ""


class Kept(Body):
    dataset: RowId
    name: Annotated[str, Field(min_length=1, max_length=80)]
    query: str = Field(max_length=4000)


def router(store: Store) -> APIRouter:
    """All routes of the grid. Include them before Gradio is mounted at "/", which swallows what comes later."""
    routes = APIRouter(prefix="/api/grid", route_class=Route)
    finder = Finder(store)
    _add_looking(routes, store, finder)
    _add_acting(routes, store, finder)
    _add_keeping(routes, store)
    return routes


def _add_looking(routes: APIRouter, store: Store, finder: Finder) -> None:
    @routes.get("/setup")
    def setup(dataset: Annotated[RowId | None, Query()] = None) -> Response:
        """What can be chosen, for the named data set or the one worked on last."""
        return answer(_setup(store, dataset))

    @routes.get("/scales")
    def scales(dataset: Annotated[RowId, Query()]) -> Response:
        """Of every filter the smallest and largest value, and how the values lie between them: what the sliders need."""
        return answer(_scales(store.review.columns(dataset)))

    @routes.get("/page")
    def page(seen: Annotated[Seen, Query()]) -> Response:
        """Tiles, and the cursor of the page after them."""
        store.datasets.get(seen.dataset)
        found, cursor = finder.page(seen.queue(), cursor=cursor_of(seen.cursor), limit=seen.limit, cluster=seen.cluster)
        following = None if cursor is None else msgspec.json.encode(cursor).decode()
        tiles = _tiles(store, found, seen.reviewer)
        if seen.human == "disputed":  # nobody is still to decide these unseen
            votes = store.people.votes([one.id for one in found])
            tiles = [tile | {"votes": votes[tile["id"]]} for tile in tiles]
        return answer({"tiles": tiles, "next": following})

    @routes.get("/count")
    def count(wanted: Annotated[Wanted, Query()]) -> Response:
        """How many there are."""
        queue = wanted.queue()
        if queue.weighed or wanted.cluster is not None:
            return answer({"count": len(finder.ids(queue, wanted.cluster))})
        return answer({"count": store.review.size(queue)})

    @routes.get("/groups")
    def grouped(wanted: Annotated[Grouped, Query()]) -> Response:
        """The groups that the place falls into, each with its size and what to add to the place to see it alone."""
        return answer(_groups(store, finder, wanted))


def _add_acting(routes: APIRouter, store: Store, finder: Finder) -> None:
    ours = [Depends(from_our_pages)]

    @routes.post("/acts", dependencies=ours)
    def decide(deeds: Deeds, request: Request) -> Response:
        """Do acts, in order, each as a whole; one sent again goes on where it ended. Answers what became of each."""
        theirs = of_others(store, request, [deed.undoes for deed in deeds if deed.undoes is not None])
        refused = {deed.op_id: theirs[deed.undoes] for deed in deeds if deed.undoes in theirs}
        return answer([_done(store, finder, deed, refused.get(deed.op_id)) for deed in deeds])

    @routes.get("/acts")
    def acts(dataset: Annotated[RowId, Query()], reviewer: Annotated[Name, Query()] = "local") -> Response:
        """A person's latest acts, newest first; what undo takes back, also after the page was closed."""
        return answer(store.review.acts(dataset, reviewer))


def _add_keeping(routes: APIRouter, store: Store) -> None:
    ours = [Depends(from_our_pages)]

    @routes.get("/views")
    def listed(dataset: Annotated[RowId, Query()]) -> Response:
        return answer(store.views.listed(dataset))

    @routes.post("/views", dependencies=ours)
    def keep(kept: Kept) -> Response:
        """Keep a place under a name."""
        return answer(store.views.save(store.datasets.get(kept.dataset).id, kept.name, kept.query))

    @routes.post("/views/{view}/remove", dependencies=ours)
    def remove(view: RowId) -> Response:
        store.views.remove(view)
        return answer({})


# What can be chosen


def _setup(store: Store, dataset: int | None) -> dict[str, Any]:
    datasets = store.datasets.list()
    chosen = chosen_dataset(store, datasets, dataset)
    runs = store.ledger.runs(kind=RunKind.GENERATE, dataset_id=chosen, limit=200) if chosen else []
    policies = list(store.review.policies(chosen).values()) if chosen else []
    return {
        "dataset": chosen,
        "datasets": [_option(one.id, one.name) for one in datasets],
        "runs": [_option(run.id, f"{run.id} · {run.title}") for run in runs],
        "kinds": [_option(str(kind), title) for kind, (title, _) in views.KINDS.items()],
        "categories": _categories(store, chosen) if chosen else [],
        "strategies": [_option(name, name) for name in store.review.strategy_names(chosen)] if chosen else [],
        "orders": views.orders(policies),
        "views": store.views.listed(chosen) if chosen else [],
    }


def _option(value: Any, title: str) -> dict[str, Any]:
    return {"value": value, "title": title}


def _categories(store: Store, dataset: int) -> list[dict[str, Any]]:
    known = sorted(store.datasets.categories(dataset), key=lambda one: one.name)
    return [_option(one.id, one.name) for one in known]


def _scales(table: Table) -> list[dict[str, Any]]:
    order = [*(name for name in FILTERS if name in table.scores), *(n for n in table.scores if n not in FILTERS)]
    return [_scale(name, table.scores[name][~np.isnan(table.scores[name])]) for name in order]


def _scale(name: str, values: NDArray[Any]) -> dict[str, Any]:
    counts, edges = np.histogram(values, BINS)
    title = FILTERS[name].title if name in FILTERS else name
    ends = {"low": float(edges[0]), "high": float(edges[-1])}
    return {"filter": name, "title": title, "scored": len(values), **ends, "bins": counts.tolist()}


# Tiles


def _tiles(store: Store, found: Sequence[Candidate], reviewer: str) -> list[dict[str, Any]]:
    """What is seen of each: a thumbnail with its box, a text, what people and policy say, and who has it on the screen."""
    if not found:
        return []
    ids, dataset = [one.id for one in found], found[0].dataset_id
    images = store.datasets.images_of(list({one.image_id for one in found}))
    boxes = {box.id: box for own in store.datasets.boxes_of(list(images)).values() for box in own}
    names = {category.id: category.name for category in store.datasets.categories(dataset)}
    policies = store.review.policies(dataset, list({one.run_id for one in found}))
    scores = store.review.scores_of(ids)
    held, unseen = store.people.holders(ids, reviewer), store.people.unseen(ids, reviewer)
    tiles = []
    for one in found:
        box, name = boxes.get(one.box_id or 0), names.get(one.category_id or 0, "")
        says = _says(policies.get(one.run_id), one, scores[one.id], name)
        human = None if one.id in unseen else one.human
        tiles.append(
            _tile(one, images[one.image_id], box, name) | {"says": says, "human": human, "held": held.get(one.id)}
        )
    return tiles


def _tile(one: Candidate, image: Image, box: Box | None, name: str) -> dict[str, Any]:
    whole = one.content if one.kind in WHOLE else None
    return {
        "id": one.id,
        "digest": one.digest or image.digest,
        "size": [whole.width, whole.height] if whole else [image.width, image.height],
        "xyxy": None if whole else one.xyxy or (box.xyxy if box else None),
        "text": (whole and whole.caption) or one.text_after or name or views.KINDS[one.kind][0],
        "before": one.text_before,
    }


def _says(policy: Policy | None, one: Candidate, scores: Sequence[Score], name: str) -> str:
    values = {score.filter: score.value for score in scores}
    says = policy.decide(one.kind, values, name) if policy else None
    return {True: "accept", False: "reject", None: "pending"}[says]


# Groups


def _groups(store: Store, finder: Finder, wanted: Grouped) -> list[dict[str, Any]]:
    """Largest first."""
    place = Wanted(**wanted.model_dump(exclude={"by", wanted.by}))
    ids = finder.ids(place.queue(), place.cluster)
    sized = sorted(groups(ids, _members(store, finder, wanted)), key=lambda one: -one[1])
    title = _titles(store, wanted)
    return [{"value": value, "title": title(value), "count": n} for value, n in sized]


def _members(store: Store, finder: Finder, wanted: Grouped) -> dict[Any, Ids]:
    table = store.review.columns(wanted.dataset)
    if wanted.by == "cluster":
        ids, codes = finder.likeness.clusters(wanted.dataset, CLUSTERS)
        return {f"{code}:{CLUSTERS}": ids[codes == code] for code in range(CLUSTERS)}
    if wanted.by == "strategy":
        return dict(store.review.strategies(wanted.dataset))
    if wanted.by == "says":
        said = automatic(table, store.review.policies(wanted.dataset))
        return {name: table.ids[said == code] for name, code in POLICY.items()}
    return _split(table.ids, table.category if wanted.by == "category" else table.run)


def _split(ids: Ids, codes: Ids) -> dict[int, Ids]:
    order = np.argsort(codes, kind="stable")
    found, starts = np.unique(codes[order], return_index=True)
    return {int(code): part for code, part in zip(found, np.split(ids[order], starts[1:]), strict=True)}


def _titles(store: Store, wanted: Grouped) -> Any:
    """From the value of a group to what it is called; None where it cannot be chosen alone."""
    if wanted.by == "says":
        return SAID.get
    if wanted.by == "cluster":
        return lambda value: f"Cluster {int(value.partition(':')[0]) + 1}"
    if wanted.by == "strategy":
        return lambda value: value or "no strategy"
    if wanted.by == "run":
        return lambda value: f"{value} · {store.ledger.run(value).title}"
    names: Mapping[int, str] = store.review.columns(wanted.dataset).names
    return lambda value: names.get(value, "no class")


# Acting


def _done(store: Store, finder: Finder, deed: Deed, refused: str | None) -> Done:
    """`refused` says why the person may not. Raises Unwritable when the store cannot be written now: that is worth another
    try, unlike what cannot be done."""
    try:
        if refused is not None:
            raise WinnowError(refused)
        return Done(op_id=deed.op_id, status="saved", count=_work(store, finder, deed)())
    except Unwritable:
        raise
    except WinnowError as error:
        return Done(op_id=deed.op_id, status="refused", message=str(error))


def _work(store: Store, finder: Finder, deed: Deed) -> Callable[[], int]:
    """The work of an act, once it is known that it can be done."""
    if deed.undoes is not None:
        act = deed.undoes
        if not store.review.act_size(act):
            raise WinnowError(f"There is no act {act!r:.100} to take back.")
        return lambda: store.review.take_back(act, deed.reviewer)
    if deed.place is None or deed.decision is None:
        raise WinnowError("An act needs a place and a decision, or the act that it takes back.")
    ids = deed.ids if deed.ids is not None else _matching(store, finder, deed, deed.place)
    verdict = Together(act=deed.op_id, decision=Decision(deed.decision), reviewer=deed.reviewer, reason=deed.reason)
    return lambda: store.review.decide_all(ids, verdict)


def _matching(store: Store, finder: Finder, deed: Deed, place: Wanted) -> list[int]:
    """All that the place shows; on a repeated act what is left of it. Raises WinnowError when it is not what was told."""
    found = finder.ids(place.queue(), place.cluster)
    begun = store.review.act_size(deed.op_id) > 0
    if not begun and deed.expected is not None and len(found) != deed.expected:
        raise WinnowError(
            f"{len(found):,} match now, not {deed.expected:,}: somebody decided meanwhile. Nothing was changed; look again."
        )
    if not begun and not len(found):
        raise WinnowError("Nothing matches, so there is nothing to decide.")
    return found.tolist()

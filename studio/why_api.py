"""Why is this in my training set? Answers as JSON-ready values, for the page, the command line and `/api/why/...`.

Back: from a box of an export, or from the AP of a class, to candidates, with their scores, verdicts, policy, recipe, prompt,
seed and model. Forward: from a candidate to every snapshot, training and evaluation that used it.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query, Response

from db import lineage
from db.errors import WinnowError
from db.records import Candidate, Image, Run, RunKind, Snapshot, State
from db.store import Store
from engine.ablation import ablation_of
from studio import views
from studio.api import Route, RowId, answer
from studio.views import Json

MODEL_FACTS = ("pack", "backend", "model", "pipeline", "steps", "guidance", "strength", "prompt", "strategy")


def router(store: Store) -> APIRouter:
    """All routes. Include them before Gradio is mounted at "/", which swallows what comes later."""
    routes = APIRouter(prefix="/api/why", route_class=Route)

    @routes.get("/candidate/{candidate_id}")
    def of_candidate(candidate_id: RowId) -> Response:
        return answer(candidate(store, candidate_id))

    @routes.get("/box/{snapshot}/{annotation}")
    def of_box(snapshot: str, annotation: str, split: Annotated[str | None, Query(max_length=80)] = None) -> Response:
        return answer(box(store, snapshot, annotation, split))

    @routes.get("/evaluation/{evaluation}")
    def of_evaluation(
        evaluation: RowId,
        category: Annotated[str | None, Query(max_length=500)] = None,
        against: Annotated[RowId | None, Query()] = None,
    ) -> Response:
        return answer(change(store, evaluation, category, against))

    return routes


def candidate(store: Store, candidate_id: int) -> Json:
    """Everything that led to a candidate, and all that used it. Raises NotFound."""
    one = store.review.candidate(candidate_id)
    run = store.ledger.run(one.run_id)
    policy = store.review.policies(one.dataset_id, [run.id]).get(run.id)
    verdicts = store.review.verdicts(candidate_id, limit=200)
    return {
        "card": views.cards(store, [one])[0],
        "verdicts": [
            {"decision": str(v.decision), "reviewer": v.reviewer, "reason": v.reason, "edit": v.edit, "at": v.at}
            for v in verdicts
        ],
        "policy": None if policy is None else {"name": policy.name, "version": policy.version, "id": policy.id},
        "made_by": _made_by(one, run),
        "used_by": [_use(store, use) for use in lineage.uses(store, candidate_id)],
    }


def _made_by(one: Candidate, run: Run) -> Json:
    told = {name: one.detail[name] for name in MODEL_FACTS if name in one.detail}
    written = {f"writer's {name.replace('_', ' ')}": value for name, value in one.detail.get("writer", {}).items()}
    return {
        "run": run.id,
        "title": run.title,
        "recipe": run.options.get("recipe", run.title),
        "recipe_text": run.recipe,
        "target": one.target,
        "variant": one.variant,
        "seed": str(one.seed),
        "run_seed": str(run.seed),
        "model": told | written,
        "detail": {name: value for name, value in one.detail.items() if name not in told and name != "writer"},
        "prompts": run.options.get("prompts", {}),
        "versions": run.versions,
    }


def _use(store: Store, use: lineage.Use) -> Json:
    return {
        **_snapshot(use.snapshot),
        "image": use.image.file_name,
        "split": use.image.split,
        "box": None if use.box is None else list(use.box.xyxy),
        "texts": list(use.texts),
        "trainings": [_training(store, run) for run in lineage.trainings_on(store, use.snapshot)],
    }


def _snapshot(one: Snapshot) -> Json:
    return {"snapshot": one.name, "snapshot_id": one.id, "digest": one.digest}


def _training(store: Store, run: Run) -> Json:
    return {
        "run": run.id,
        "title": run.title,
        "state": str(run.state),
        "seed": str(run.seed),
        "preset": run.options.get("preset"),
        "ablation": ablation_of(run),
        "evaluations": [_evaluation(one) for one in lineage.evaluations_of(store, run)],
    }


def _evaluation(run: Run) -> Json:
    return {
        "run": run.id,
        "title": run.title,
        "state": str(run.state),
        "split": run.options.get("split"),
        "mAP": run.result.get("mAP"),
    }


def box(store: Store, snapshot: str | int, annotation: int | str, split: str | None = None) -> Json:
    """Where an annotation of an export comes from; with all of its candidate when one painted it. Raises NotFound."""
    found = lineage.origin(store, store.snapshots.get(snapshot), annotation, split)
    source = found.image.extra.get("source_image") if found.image.extra.get("synthetic") else None
    return {
        **_snapshot(found.snapshot),
        "annotation": str(annotation),
        "image": _picture(found.image),
        "generated": source is not None,
        "source_image": None if source is None else store.datasets.image(source).file_name,
        "xyxy": list(found.box.xyxy),
        "class": _names(store, found.snapshot).get(found.box.category_id or 0, ""),
        "beside": list(found.beside),
        "candidate": None if found.candidate_id is None else candidate(store, found.candidate_id),
    }


def _picture(image: Image) -> Json:
    return {
        "file": image.file_name,
        "split": image.split,
        "digest": image.digest,
        "size": [image.width, image.height],
    }


def _names(store: Store, snapshot: Snapshot) -> dict[int, str]:
    return {category.id: category.name for category in store.datasets.categories(snapshot.dataset_id)}


def change(store: Store, evaluation: int, category: str | None = None, against: int | None = None) -> Json:
    """What an AP, of a class or of all, rests on: the generated data of the training behind it. With `against`, another
    evaluation, what the training of this one had more than that of the other, and less.

    Raises NotFound, and WinnowError for a run that is no finished evaluation, or for an unknown class.
    """
    run = _finished(store, evaluation)
    known = _names(store, store.snapshots.get(int(run.options["snapshot_id"])))
    category_id = _category(known, category)
    told = {
        "evaluation": evaluation,
        "class": category,
        "ap": _ap(run, category),
        **_behind(store, run, category_id),
    }
    if against is None:
        return told
    other = _finished(store, against)
    before = _behind(store, other, category_id)
    mine, theirs = set(told["candidates"]), set(before["candidates"])
    return {
        **told,
        "against": {"evaluation": against, "ap": _ap(other, category), **before},
        "more": sorted(mine - theirs),
        "less": sorted(theirs - mine),
    }


def _finished(store: Store, run_id: int) -> Run:
    run = store.ledger.run(run_id)
    if run.kind is not RunKind.EVALUATE or run.state is not State.DONE:
        raise WinnowError(f"Run {run_id} is no finished evaluation ({run.kind}, {run.state}).")
    return run


def _category(known: dict[int, str], name: str | None) -> int | None:
    if name is None:
        return None
    found = next((key for key, value in known.items() if value == name), None)
    if found is None:
        raise WinnowError(f"No class {name!r} here. Known: {', '.join(list(known.values())[:20])}.")
    return found


def _ap(run: Run, category: str | None) -> float | None:
    value = run.result.get("mAP", -1.0) if category is None else run.result.get("per_class", {}).get(category, -1.0)
    return value if value >= 0 else None


def _behind(store: Store, evaluation: Run, category_id: int | None) -> Json:
    """The training of an evaluation, its snapshot, and the candidates in that, by the run that made them."""
    training = store.ledger.run(evaluation.options["train_run_id"])
    snapshot = store.snapshots.get(int(training.options["snapshot_id"]))
    found = store.review.candidates(lineage.candidates_in(store, snapshot))
    mine = [one for one in found if category_id is None or one.category_id == category_id]
    return {
        "training": training.id,
        "seed": str(training.seed),
        "preset": training.options.get("preset"),
        **_snapshot(snapshot),
        "candidates": [one.id for one in mine],
        "sources": _sources(store, mine),
    }


def _sources(store: Store, found: list[Candidate]) -> list[Json]:
    """How many candidates of which run and kind, and how many of them a person decided on."""
    counted = Counter((one.run_id, str(one.kind)) for one in found)
    decided = Counter((one.run_id, str(one.kind)) for one in found if one.human in ("accept", "edit"))
    return [
        {
            "run": run_id,
            "title": store.ledger.run(run_id).title,
            "kind": kind,
            "candidates": count,
            "by_people": decided[run_id, kind],
        }
        for (run_id, kind), count in counted.most_common()
    ]

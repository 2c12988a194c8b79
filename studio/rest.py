"""The actions as JSON routes, for scripts: what the buttons and the command line do, under `/api`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from engine.diversity import of_run
from engine.evaluation.d3 import Prompting, Scenario
from engine.packs import DEFAULT_PACK
from studio import actions
from studio.context import Studio


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Import(Body):
    path: str
    name: str
    format: str | None = None
    annotations_only: bool = False
    skip_bad: bool = False


class Generate(Body):
    dataset: str | int
    recipe: str
    pack: str = DEFAULT_PACK
    amount: int | None = None
    seed: int = 0
    preview: bool = False
    quota: dict[str, Any] | None = None


class Again(Body):
    candidate: int
    wording: str | None = None
    amount: int = Field(1, ge=1, le=64)


class Freeze(Body):
    dataset: str | int
    name: str
    accepted: bool = True


class Export(Body):
    snapshot: str | int
    folder: str
    format: str = "coco"


class Train(Body):
    snapshot: str | int
    preset: str = "tiny_atss"
    options: dict[str, Any] = {}
    seed: int = 0


class Evaluate(Body):
    train_run: int
    snapshot: str | int
    split: str = "test"
    scenario: Scenario = "intra"
    prompting: Prompting = "parallel"


def router(studio: Studio) -> APIRouter:
    """Answers are the records of the store as JSON. A refusal is `{"error": sentence}`: 404 for what is not there, 507 without
    room on the disk, 503 while the database is held (both say after how long to try again), else 400."""
    routes = APIRouter(prefix="/api")

    @routes.get("/datasets")
    def datasets() -> Response:
        return _json(studio.store.datasets.list())

    @routes.post("/datasets")
    def import_dataset(body: Import) -> Response:
        """Import from a path of this machine; answers when it is done."""
        return _json(
            actions.import_dataset(
                studio,
                Path(body.path),
                body.name,
                format=body.format,
                annotations_only=body.annotations_only,
                skip_bad=body.skip_bad,
            )
        )

    @routes.get("/runs")
    def runs(limit: int = 50) -> Response:
        return _json(studio.store.ledger.runs(limit=min(limit, 500)))

    @routes.get("/runs/{run_id}")
    def run(run_id: int) -> Response:
        """The run, with the ids of those that follow it."""
        followers = [follower.id for follower in studio.store.ledger.followers(run_id)]
        return _json({"run": studio.store.ledger.run(run_id), "followers": followers})

    @routes.get("/runs/{run_id}/diversity")
    def diversity(run_id: int) -> Response:
        """How varied the negative texts of a run are, and what was accepted of each sort."""
        return _json(of_run(studio.store, run_id))

    @routes.post("/runs/{run_id}/{wish}")
    def wish(run_id: int, wish: str) -> Response:
        """`cancel`, `pause`, `resume` or `retry`."""
        if wish not in actions.WISHES:
            return Response(
                b'{"error": "known wishes: cancel, pause, resume, retry"}', 404, media_type="application/json"
            )
        actions.WISHES[wish](studio, run_id)
        return _json(studio.store.ledger.run(run_id))

    @routes.post("/generate")
    def generate(body: Generate) -> Response:
        return _json(actions.start_recipe(studio, **body.model_dump()))

    @routes.post("/again")
    def again(body: Again) -> Response:
        """More variants of a candidate's target."""
        return _json(actions.start_again(studio, **body.model_dump()))

    @routes.get("/snapshots")
    def snapshots() -> Response:
        return _json(studio.store.snapshots.list())

    @routes.post("/snapshots")
    def freeze(body: Freeze) -> Response:
        return _json(actions.freeze(studio, **body.model_dump()))

    @routes.post("/export")
    def export(body: Export) -> Response:
        """Answers with what the format cannot hold."""
        lost = actions.export(studio, snapshot=body.snapshot, folder=Path(body.folder), format=body.format)
        return _json({"folder": body.folder, "losses": lost})

    @routes.post("/train")
    def train(body: Train) -> Response:
        return _json(actions.start_training(studio, **body.model_dump()))

    @routes.post("/evaluate")
    def evaluate(body: Evaluate) -> Response:
        return _json(actions.start_evaluation(studio, **body.model_dump()))

    return routes


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), headers={"Cache-Control": "no-store"}, media_type="application/json")

"""The demo: a Tabletop data set, and recipes on it so that there is something to review."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from db.records import Dataset, Run, RunKind
from db.store import Store
from engine.recipe import load
from engine.runs import start_generate
from engine.tabletop import build
from engine.tabletop.document import document

NAME = "tabletop"
SCENES = {"train": 200, "val": 50, "test": 100}
RECIPES = (("gen2det", 120), ("enhanced_negatives", 60))


def load_demo(store: Store, progress: Callable[[int, int], None] | None = None, *, scenes: dict[str, int] = SCENES) -> Dataset:
    """The demo data set, painted and imported when it is not there yet. `progress(done, total)` counts scenes."""
    known = next((dataset for dataset in store.datasets.list() if dataset.name == NAME), None)
    if known is not None:
        return known
    with tempfile.TemporaryDirectory(prefix="winnow-tabletop-") as folder:
        build(folder, "standard", scenes, seed=0, workers=min(os.cpu_count() or 1, 8), progress=progress)
        return store.datasets.import_document(document(Path(folder)), NAME)


def fill_queue(store: Store, dataset: Dataset) -> list[Run]:
    """Queue the demo recipes with the classic pack; those that already ran are not queued again."""
    runs = store.ledger.runs(kind=RunKind.GENERATE, dataset_id=dataset.id, limit=1000)
    there = {run.options["recipe"] for run in runs if not run.options["preview"]}
    return [
        start_generate(store, dataset_id=dataset.id, recipe=load(name), pack="classic", amount=amount)
        for name, amount in RECIPES
        if name not in there
    ]

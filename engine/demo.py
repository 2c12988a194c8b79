"""The demo: a Tabletop data set, and recipes on it so that there is something to review."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from db.records import Dataset, Run, RunKind
from db.store import Store
from engine.packs import DEFAULT_PACK
from engine.recipe import load
from engine.runs import start_generate
from engine.tabletop import build
from engine.tabletop.document import document

NAME = "tabletop"
Progress = Callable[[int, int], None]
SCENES = {"train": 200, "val": 50, "test": 100}
RECIPES = (("enhanced_negatives", 60), ("gen2det", 60))


def load_demo(store: Store, progress: Progress | None = None) -> Dataset:
    """The demo data set, painted and imported when it is not there yet. `progress(done, total)` counts scenes."""
    known = next((dataset for dataset in store.datasets.list() if dataset.name == NAME), None)
    return known or paint_dataset(store, NAME, SCENES, progress=progress)


def paint_dataset(
    store: Store,
    name: str,
    counts: dict[str, int],
    *,
    difficulty: str = "standard",
    seed: int = 0,
    folder: Path | None = None,
    descriptions: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Paint Tabletop scenes and import them, masks, captions, phrases and all. With `folder`, the files stay there, and
    with them the exact truth of every scene and, with `descriptions`, a mini-OmniLabel and a mini-D3 of each split."""
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    with tempfile.TemporaryDirectory(prefix="winnow-tabletop-") as temporary:
        place = folder or Path(temporary)
        build(place, difficulty, counts, seed=seed, workers=workers, progress=progress, descriptions=descriptions)
        return store.datasets.import_document(document(place), name)


def fill_queue(store: Store, dataset: Dataset) -> list[Run]:
    """Queue the demo recipes with the default pack; those that already ran are not queued again."""
    runs = store.ledger.runs(kind=RunKind.GENERATE, dataset_id=dataset.id, limit=1000)
    there = {run.options["recipe"] for run in runs if not run.options["preview"]}
    return [
        start_generate(store, dataset_id=dataset.id, recipe=load(name), pack=DEFAULT_PACK, amount=amount)
        for name, amount in RECIPES
        if name not in there
    ]

"""What a click or a command does. The same functions serve the pages and the command line; none knows of either."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from db import formats
from db.errors import WinnowError
from db.records import Dataset, Run, Snapshot
from engine import class_folders, demo, runs
from engine.alignments import Ask
from engine.class_folders import Added
from engine.evaluation.d3 import Prompting, Scenario
from engine.packs import DEFAULT_PACK
from engine.preflight import Preflight
from engine.preflight import preflight as try_out
from engine.quota import quota_of
from engine.recipe import load
from studio.context import Studio

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
FOLLOW_SECONDS = 0.3


# Data sets


def import_dataset(
    studio: Studio,
    path: Path,
    name: str,
    *,
    format: str | None = None,
    images: Path | None = None,
    annotations_only: bool = False,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Read a data set and store it under a name. Raises BadDataset with all faults, unless `skip_bad`. `progress` counts
    the images twice: while they are checked, and while they are stored."""
    path, images = studio.roots.admit(path), images and studio.roots.admit(images)
    document = formats.read(path, format=format, images=images, annotations_only=annotations_only, progress=progress)
    document = studio.roots.admit_document(document)
    return studio.store.datasets.import_document(document, name, skip_bad=skip_bad, progress=progress)


def add_class_images(
    studio: Studio,
    path: Path,
    *,
    dataset: str | int,
    pack: str = DEFAULT_PACK,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Added:
    """Add the images of a folder of classes to a data set as candidates. Raises BadDataset with all faults, unless
    `skip_bad`."""
    chosen = studio.store.datasets.get(dataset)
    document = studio.roots.admit_document(
        formats.read(studio.roots.admit(path), format="classfolder", progress=progress)
    )
    added = class_folders.add_class_images(
        studio.store, document, chosen.id, pack=pack, seed=seed, skip_bad=skip_bad, progress=progress
    )
    _ring(studio, added.run)
    return added


def load_demo(studio: Studio, progress: Progress | None = None) -> Dataset:
    """The demo data set, with its recipes queued."""
    dataset = demo.load_demo(studio.store, progress)
    for run in demo.fill_queue(studio.store, dataset):
        _ring(studio, run)
    return dataset


def paint_tabletop(
    studio: Studio,
    name: str,
    counts: dict[str, int],
    *,
    difficulty: str = "standard",
    seed: int = 0,
    folder: Path | None = None,
    descriptions: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Paint Tabletop scenes as a data set; their files, with the exact truth and perhaps descriptions to look for, stay in
    `folder` if one is named."""
    if descriptions and folder is None:
        raise WinnowError("Descriptions are files: name the folder in which they should stay.")
    if any(dataset.name == name for dataset in studio.store.datasets.list()):
        raise WinnowError(f"A data set named {name!r} exists already. Choose another name.")
    if folder is not None:
        folder = studio.roots.admit(folder)
    wanted = {split: n for split, n in counts.items() if n}
    return demo.paint_dataset(
        studio.store,
        name,
        wanted,
        difficulty=difficulty,
        seed=seed,
        folder=folder,
        descriptions=descriptions,
        progress=progress,
    )


# Recipes


def start_recipe(
    studio: Studio,
    *,
    dataset: str | int,
    recipe: str,
    pack: str = DEFAULT_PACK,
    amount: int | None = None,
    seed: int = 0,
    preview: bool = False,
    quota: dict[str, Any] | None = None,
) -> Run:
    """Queue a recipe: a generate run, and the filter run that follows it. Returns the first. `quota` holds the fields of
    `engine.quota.Quota`. Raises WinnowError with each fault of it."""
    if recipe.endswith((".yaml", ".yml")):
        studio.roots.admit(Path(recipe))
    chosen = studio.store.datasets.get(dataset)
    run = runs.start_generate(
        studio.store,
        dataset_id=chosen.id,
        recipe=load(recipe),
        pack=pack,
        amount=amount,
        seed=seed,
        preview=preview,
        quota=quota_of(quota) if quota else None,
    )
    return _ring(studio, run)


def start_again(studio: Studio, candidate: int, *, wording: str | None = None, amount: int = 1) -> Run:
    """Queue more variants of a candidate's target, with other seeds or in your own words."""
    wording = (wording or "").strip() or None
    return _ring(studio, runs.start_again(studio.store, candidate, wording=wording, amount=amount))


def rerun(studio: Studio, run_id: int) -> Run:
    """Make the candidates of a run once more."""
    return _ring(studio, runs.rerun(studio.store, run_id))


# Snapshots


def freeze(studio: Studio, *, dataset: str | int, name: str, accepted: bool = True) -> Snapshot:
    """Freeze a data set under a name, with its accepted candidates or the real data only."""
    if not name.strip():
        raise WinnowError("A snapshot needs a name, so that trainings can refer to it.")
    chosen = studio.store.datasets.get(dataset)
    policies = studio.store.review.policies(chosen.id) if accepted else None
    return studio.store.snapshots.freeze(name.strip(), chosen.id, policies)


def export(studio: Studio, *, snapshot: str | int, folder: Path, format: str = "coco") -> list[str]:
    """Write a snapshot with its images into a new folder. Returns what the format cannot hold."""
    folder = studio.roots.admit(folder)
    document = studio.store.snapshots.document(studio.store.snapshots.get(snapshot))
    return formats.write(document, folder, format)


# Training and evaluation


def preflight(
    studio: Studio,
    *,
    snapshot: str | int,
    preset: str = "tiny_atss",
    options: dict[str, Any] | None = None,
    seed: int = 0,
) -> Preflight:
    """What a training would need, from its data and twenty of its steps, done now in a process of their own."""
    studio.roots.admit_options(options or {})
    chosen = studio.store.snapshots.get(snapshot)
    return try_out(studio.store, snapshot_id=chosen.id, preset=preset, options=options, seed=seed)


def start_training(
    studio: Studio,
    *,
    snapshot: str | int,
    preset: str = "tiny_atss",
    options: dict[str, Any] | None = None,
    seed: int = 0,
) -> Run:
    """Queue the training of a preset on a snapshot."""
    studio.roots.admit_options(options or {})
    chosen = studio.store.snapshots.get(snapshot)
    return _ring(
        studio, runs.start_train(studio.store, snapshot_id=chosen.id, preset=preset, options=options, seed=seed)
    )


def start_evaluation(
    studio: Studio,
    *,
    train_run: int,
    snapshot: str | int,
    split: str,
    scenario: Scenario = "intra",
    prompting: Prompting = "parallel",
    vocabulary: dict[str, str] | None = None,
) -> Run:
    """Queue the evaluation of a finished training on one split of a snapshot; with a `vocabulary`, what it names is looked for
    and nothing is measured."""
    run = runs.start_evaluate(
        studio.store,
        train_run_id=train_run,
        snapshot_id=studio.store.snapshots.get(snapshot).id,
        split=split,
        scenario=scenario,
        prompting=prompting,
        vocabulary=vocabulary,
    )
    return _ring(studio, run)


def start_align(studio: Studio, *, train_run: int, snapshot: str | int, image_id: int, caption: str) -> Run:
    """Queue one look: where a detector that learnt from pairs sees the phrases of a caption on an image."""
    asks = [Ask(image_id, caption)]
    found = studio.store.snapshots.get(snapshot)
    return _ring(studio, runs.start_align(studio.store, train_run_id=train_run, snapshot_id=found.id, asks=asks))


def start_attend(studio: Studio, *, train_run: int, snapshot: str | int, image_id: int, text: str) -> Run:
    """Queue one question: where a model that was taught where to look sees a phrase on an image."""
    chosen = studio.store.snapshots.get(snapshot)
    return _ring(
        studio,
        runs.start_attend(studio.store, train_run_id=train_run, snapshot_id=chosen.id, image_id=image_id, text=text),
    )


# Runs


def cancel(studio: Studio, run_id: int) -> None:
    studio.store.ledger.request_cancel(run_id)


def pause(studio: Studio, run_id: int) -> None:
    studio.store.ledger.request_pause(run_id)


def resume(studio: Studio, run_id: int) -> None:
    studio.store.ledger.request_resume(run_id)
    _ring(studio, studio.store.ledger.run(run_id))


def retry(studio: Studio, run_id: int) -> None:
    studio.store.ledger.request_retry(run_id)
    _ring(studio, studio.store.ledger.run(run_id))


def follow(studio: Studio, run_id: int, progress: Progress | None = None) -> list[Run]:
    """Wait until a run and those that wait for it have ended, and return them. Without a living worker, one is started in
    a process of its own for the time being."""
    from studio.serve import beside

    if has_worker(studio):
        return _until_ended(studio, run_id, progress)
    with beside(studio.settings):
        return _until_ended(studio, run_id, progress)


def has_worker(studio: Studio) -> bool:
    """Whether a worker was heard of within a minute."""
    return any(time.time() - worker.seen_at < 60 for worker in studio.store.ledger.workers())


def _until_ended(studio: Studio, run_id: int, progress: Progress | None) -> list[Run]:
    ledger = studio.store.ledger
    followed = [run_id, *(run.id for run in ledger.followers(run_id))]
    while True:
        now = [ledger.run(one) for one in followed]
        if progress is not None:
            progress(sum(run.done for run in now), sum(run.total for run in now))
        if all(run.state.ended for run in now):
            return now
        time.sleep(FOLLOW_SECONDS)


def _ring(studio: Studio, run: Run) -> Run:
    logger.info("queued: %s", run.title, extra={"run": run.id})
    if studio.doorbell is not None:
        studio.doorbell.ring(run.id)
    return run


WISHES = {"cancel": cancel, "pause": pause, "resume": resume, "retry": retry}

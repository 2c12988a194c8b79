"""Runs: how each kind is started, planned into shards, executed and concluded.

The web process and the command line start runs; a worker plans, executes and concludes them. Model libraries are
imported only while a shard executes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from db.errors import NotFound, WinnowError
from db.records import Run, RunKind, Shard, State
from db.store import Store
from engine.control import Control, Stopped
from engine.filters import FILTERS
from engine.generate import Generator
from engine.packs import load_pack
from engine.presets import PRESETS, TrainOptions
from engine.provenance import versions
from engine.recipe import Recipe, parse
from engine.roles import Context
from engine.score import score
from engine.targets import choose

TARGETS_PER_SHARD = 32
CANDIDATES_PER_SHARD = 128
PREVIEW = 4

# Starting


def start_generate(
    store: Store,
    *,
    dataset_id: int,
    recipe: Recipe,
    pack: str,
    amount: int | None = None,
    seed: int = 0,
    preview: bool = False,
) -> Run:
    """Queue a recipe on a data set: a generate run, and the filter run that follows it. Returns the first.

    `amount` bounds the targets; a preview takes the first few of the same order. Raises WinnowError, before anything is
    queued, when the pack lacks a role that the recipe needs or no target qualifies.
    """
    chosen = load_pack(pack)
    for needed, role in ((recipe.writes, "writer"), (recipe.paints, "painter")):
        if needed and getattr(chosen, role) is None:
            raise WinnowError(f"Recipe {recipe.name!r} needs a {role}, which the pack {pack!r} does not have.")
    amount = PREVIEW if preview else amount
    targets = choose(store, dataset_id, recipe.targets, seed=seed, amount=amount)
    if not targets:
        raise WinnowError(
            f"No target of data set {store.datasets.get(dataset_id).name!r} qualifies for recipe {recipe.name!r}: it has no image "
            f"files, or no {recipe.targets.of} within the limits of `targets`."
        )
    policy = store.review.save_policy(recipe.name, recipe.rules())
    options = {"recipe": recipe.name, "pack": pack, "amount": amount, "preview": preview, "policy_id": policy.id}
    title = f"{'Preview of ' if preview else ''}{recipe.title}"
    made = store.ledger.create_run(
        RunKind.GENERATE,
        title,
        dataset_id=dataset_id,
        recipe=recipe.text,
        options=options,
        seed=seed,
        versions=versions(),
    )
    size = 1 if preview else TARGETS_PER_SHARD
    store.ledger.plan(made.id, [({"targets": part}, len(part)) for part in _parts(targets, size)])
    start_filter(store, dataset_id=dataset_id, filters=recipe.filters, of_run=made)
    return store.ledger.run(made.id)


def start_filter(store: Store, *, dataset_id: int, filters: Sequence[str], of_run: Run) -> Run:
    """Queue the scoring of a run's candidates; waits for that run. Scores of the same filters are replaced."""
    unknown = [name for name in filters if name not in FILTERS]
    if unknown:
        raise NotFound("filter", unknown[0], list(FILTERS))
    options = {"filters": list(filters), "of_run": of_run.id}
    return store.ledger.create_run(
        RunKind.FILTER,
        f"Scores for run {of_run.id}",
        dataset_id=dataset_id,
        recipe="",
        options=options,
        seed=0,
        versions=versions(),
        after_id=of_run.id,
    )


def start_train(
    store: Store, *, snapshot_id: int, preset: str, options: dict[str, Any] | None = None, seed: int = 0
) -> Run:
    """Queue the training of a preset on a snapshot. Raises NotFound, or WinnowError naming each bad option."""
    if preset not in PRESETS:
        raise NotFound("detector preset", preset, list(PRESETS))
    snapshot = store.snapshots.get(snapshot_id)
    chosen = _train_options(preset, options or {})
    run = store.ledger.create_run(
        RunKind.TRAIN,
        f"{PRESETS[preset].title} on {snapshot.name}",
        dataset_id=snapshot.dataset_id,
        recipe="",
        options={"snapshot_id": snapshot.id, "preset": preset, "train": chosen.model_dump(mode="json")},
        seed=seed,
        versions=versions(),
    )
    store.ledger.plan(run.id, [({}, chosen.iterations)])
    return store.ledger.run(run.id)


def start_evaluate(store: Store, *, train_run_id: int, snapshot_id: int, split: str) -> Run:
    """Queue the evaluation of a trained detector on one split of a snapshot. Raises WinnowError when there is no such
    model or split."""
    trained = store.ledger.run(train_run_id)
    if trained.kind is not RunKind.TRAIN or trained.state is not State.DONE:
        raise WinnowError(f"Run {train_run_id} is no finished training ({trained.kind}, {trained.state}).")
    snapshot = store.snapshots.get(snapshot_id)
    run = store.ledger.create_run(
        RunKind.EVALUATE,
        f"Run {train_run_id} on {snapshot.name}, {split}",
        dataset_id=snapshot.dataset_id,
        recipe="",
        options={"train_run_id": train_run_id, "snapshot_id": snapshot.id, "split": split},
        seed=trained.seed,
        versions=versions(),
    )
    store.ledger.plan(run.id, [({}, 1)])
    return store.ledger.run(run.id)


def rerun(store: Store, run_id: int) -> Run:
    """Queue a generate run once more, with the recipe text, options and seed on record."""
    run = store.ledger.run(run_id)
    if run.kind is not RunKind.GENERATE or run.dataset_id is None:
        raise WinnowError(f"Run {run_id} is a {run.kind} run; only generate runs can be run again.")
    return start_generate(
        store,
        dataset_id=run.dataset_id,
        recipe=parse(run.recipe, f"the recipe of run {run_id}"),
        pack=run.options["pack"],
        amount=run.options["amount"],
        seed=run.seed,
        preview=run.options["preview"],
    )


def _train_options(preset: str, options: dict[str, Any]) -> TrainOptions:
    from pydantic import ValidationError

    try:
        return TrainOptions.model_validate({**PRESETS[preset].defaults.model_dump(), **options})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise WinnowError(f"Training options: {faults}") from error


def _parts(items: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


# Working


def plan(store: Store, run: Run) -> list[tuple[dict[str, Any], int]]:
    """The shards of a run that could not be planned when it was queued: a filter run, whose candidates were not made yet."""
    ids = store.review.candidate_ids(run.options["of_run"])
    return [({"candidates": part}, len(part)) for part in _parts(ids, CANDIDATES_PER_SHARD)]


def execute(store: Store, run: Run, shard: Shard, control: Control) -> None:
    """Do the work of one shard. Raises Stopped when asked to stop; what was stored until then stays."""
    EXECUTORS[run.kind](store, run, shard, control)


def conclude(store: Store, run: Run) -> None:
    """After the last shard: put a summary of a generate run on record."""
    if run.kind is RunKind.GENERATE:
        store.ledger.set_result(run.id, {"candidates": len(store.review.candidate_ids(run.id))})


def _generate(store: Store, run: Run, shard: Shard, control: Control) -> None:
    assert run.dataset_id is not None
    recipe = parse(run.recipe, f"the recipe of run {run.id}")
    generator = Generator(Context(store, run.dataset_id), recipe, load_pack(run.options["pack"]), seed=run.seed)
    for number, target in enumerate(shard.payload["targets"], 1):
        if control.stop_requested():
            raise Stopped
        candidates, failures = generator.make(target)
        store.review.add_candidates(shard, candidates, run.dataset_id)
        for sentence in failures:
            control.log(sentence, "warning")
        control.progress(number)


def _filter(store: Store, run: Run, shard: Shard, control: Control) -> None:
    assert run.dataset_id is not None
    context = Context(store, run.dataset_id)
    done = 0
    for part in _parts(shard.payload["candidates"], 16):
        if control.stop_requested():
            raise Stopped
        store.review.add_scores(shard, score(context, part, run.options["filters"]))
        done += len(part)
        control.progress(done)


def _train(store: Store, run: Run, shard: Shard, control: Control) -> None:
    from engine.training.run import train

    train(store, run, control)


def _evaluate(store: Store, run: Run, shard: Shard, control: Control) -> None:
    from engine.training.run import evaluate

    evaluate(store, run, control)


EXECUTORS = {RunKind.GENERATE: _generate, RunKind.FILTER: _filter, RunKind.TRAIN: _train, RunKind.EVALUATE: _evaluate}

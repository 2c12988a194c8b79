"""Runs: how each kind is started, planned into shards, executed and concluded.

The web process and the command line start runs; a worker plans, executes and concludes them. Model libraries are
imported only while a shard executes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from msgspec import convert, to_builtins

from db.errors import NotFound, WinnowError
from db.records import Candidate, Run, RunKind, Shard, State
from db.store import Store
from engine import class_images
from engine.alignments import Ask
from engine.control import Control, Stopped
from engine.evaluation.d3 import Prompting, Scenario
from engine.examples import accepted_pairs
from engine.filters import FILTERS
from engine.generate import Generator
from engine.maker import Made, Maker
from engine.packs import Pack, load_pack, prompt_digests
from engine.presets import PRESETS, train_options
from engine.prompts import Pair
from engine.prompts import load as load_prompt
from engine.provenance import versions
from engine.quota import Quota, Tally, attempts, wanted_classes
from engine.recipe import Recipe, parse
from engine.roles import Context
from engine.score import score
from engine.spending import Estimate, estimate, measured, note, spent
from engine.targets import choose, choose_by_class
from engine.thresholds import refuse_unknown
from engine.whole import WholeImages, refusal
from engine.whole import prompts_of as whole_prompts

TARGETS_PER_SHARD = 32
AT_ONCE = 8  # targets made together, so that models can batch; what is made is stored after each such part
CANDIDATES_PER_SHARD = 128
SCORED_AT_ONCE = 64  # candidates
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
    quota: Quota | None = None,
) -> Run:
    """Queue a recipe on a data set: a generate run, and the filter run that follows it. Returns the first.

    `amount` bounds the targets; a preview takes the first few of the same order, and every run begins with them. With a
    `quota` the run scores what it makes and goes on until enough is accepted. Raises WinnowError, before anything is
    queued or loaded, when the pack lacks something that the recipe needs or no target qualifies.
    """
    chosen = load_pack(pack, store.home)
    _check(recipe, chosen)
    recipe = recipe.fitted(chosen.roles)
    refuse_unknown(recipe.rules(), FILTERS, {category.name for category in store.datasets.categories(dataset_id)})
    amount = PREVIEW if preview else amount
    policy = store.review.save_policy(recipe.name, recipe.rules())
    options: dict[str, Any] = {"pack": pack, "amount": amount, "preview": preview, "policy_id": policy.id}
    options |= _writing(store, dataset_id, recipe, chosen)
    if quota is None:
        targets = choose(store, dataset_id, recipe.targets, seed=seed, amount=amount, boxed=chosen.draws_from_data)
        shards: list[dict[str, Any]] = [{"targets": part} for part in _first_a_few(targets)]
    else:
        classes = _of_quota(store, dataset_id, recipe, quota, seed)
        options["quota"] = quota.model_dump(exclude_none=True)
        shards = [{"classes": classes}] if any(classes.values()) else []
    if not shards:
        raise WinnowError(_no_target(store, dataset_id, recipe))
    title = f"{'Preview of ' if preview else ''}{recipe.title}"
    run = _create(store, title, dataset_id, recipe, seed, options)
    store.ledger.plan(run.id, [(payload, _size(payload)) for payload in shards])
    if quota is None:
        start_filter(store, dataset_id=dataset_id, filters=recipe.filters, of_run=run)
    return store.ledger.run(run.id)


def start_again(store: Store, candidate_id: int, *, wording: str | None = None, amount: int = 1) -> Run:
    """Queue more variants of a candidate's target, with other seeds; `wording` is what to paint, or the negative text
    itself, in your own words. The reasons for which its siblings were rejected are told to the models."""
    candidate = store.review.candidate(candidate_id)
    origin = store.ledger.run(candidate.run_id)
    recipe = parse(origin.recipe, f"the recipe of run {origin.id}").fitted(_pack_of(store, origin).roles)
    if recipe.images is not None and recipe.images.describe == "as_is":
        raise WinnowError(f"Candidate {candidate_id} is an image of the data set itself: it cannot be made again.")
    siblings = store.review.siblings(candidate)
    first = max(one.variant for one in siblings) + 1
    options = {
        **{name: origin.options[name] for name in ("pack", "policy_id")},
        **_writing(store, candidate.dataset_id, recipe, _pack_of(store, origin)),
        "amount": amount,
        "preview": False,
        "again_of": candidate.id,
        "wording": wording,
    }
    run = _create(store, f"Again: candidate {candidate.id}", candidate.dataset_id, recipe, origin.seed, options)
    payload = {"again_of": candidate.id, "wording": wording, "first": first, "amount": amount}
    store.ledger.plan(run.id, [({**payload, "avoid": _rejections(store, siblings)}, 1)])
    start_filter(store, dataset_id=candidate.dataset_id, filters=recipe.filters, of_run=run)
    return store.ledger.run(run.id)


def _writing(store: Store, dataset_id: int, recipe: Recipe, pack: Pack) -> dict[str, Any]:
    """What the writer of a run is to use to the end, whatever is edited or accepted meanwhile: prompts and pairs."""
    if recipe.images is not None:
        return {"prompts": {name: load_prompt(name, store.home).digest for name in whole_prompts(recipe, pack)}}
    if not recipe.writes:
        return {}
    digests = prompt_digests(pack, store.home)
    shown = any(load_prompt(name, store.home).shows_pairs for name in digests)
    return {"prompts": digests, "pairs": to_builtins(accepted_pairs(store, dataset_id)) if shown else []}


def _pack_of(store: Store, run: Run) -> Pack:
    return load_pack(run.options["pack"], store.home)


def _check(recipe: Recipe, pack: Pack) -> None:
    """Raises WinnowError when this pack cannot do this recipe."""
    for role in recipe.roles:
        if getattr(pack, role) is None:
            raise WinnowError(f"Recipe {recipe.name!r} needs a {role}, which the pack {pack.name!r} does not have.")
    unknown = [name for name in recipe.strategies if name not in pack.strategies]
    if unknown:
        raise WinnowError(
            f"Recipe {recipe.name!r} asks for the strategies {unknown}; the writer of the pack {pack.name!r} has "
            f"{', '.join(pack.strategies) or 'none'}."
        )
    lacks = pack.lacks()
    if lacks:
        raise WinnowError(f"The pack {pack.name!r} cannot run here: {'; '.join(lacks)}.")
    if recipe.images is not None and (why := refusal(recipe.images, pack)):
        raise WinnowError(why)


def _create(store: Store, title: str, dataset_id: int, recipe: Recipe, seed: int, options: dict[str, Any]) -> Run:
    return store.ledger.create_run(
        RunKind.GENERATE,
        title,
        dataset_id=dataset_id,
        recipe=recipe.text,
        options={"recipe": recipe.name, **options},
        seed=seed,
        versions=versions(),
    )


def _first_a_few(targets: list[str]) -> list[list[str]]:
    """Shards of targets, the first of preview size, so that there is soon something to look at and to estimate by."""
    return [part for part in (targets[:PREVIEW], *_parts(targets[PREVIEW:], TARGETS_PER_SHARD)) if part]


def _of_quota(store: Store, dataset_id: int, recipe: Recipe, quota: Quota, seed: int) -> dict[str, list[str]]:
    if recipe.targets.of not in ("boxes", "phrases", "classes"):
        raise WinnowError(
            f"A quota counts candidates by class; it needs targets of `boxes`, `phrases` or `classes`, not `{recipe.targets.of}`."
        )
    classes = wanted_classes(store, dataset_id, quota)
    return choose_by_class(store, dataset_id, recipe.targets, seed=seed, classes=classes)


def _size(payload: dict[str, Any]) -> int:
    return len(payload["targets"]) if "targets" in payload else 1


def _no_target(store: Store, dataset_id: int, recipe: Recipe) -> str:
    return (
        f"No target of data set {store.datasets.get(dataset_id).name!r} qualifies for recipe {recipe.name!r}: it has no "
        f"image files, or no {recipe.targets.of} within the limits of `targets`."
    )


def _rejections(store: Store, siblings: Sequence[Candidate]) -> list[str]:
    """What was the matter with earlier attempts, each once."""
    standing = [(one, store.review.standing(one.id)) for one in siblings if one.human == "reject"]
    said = [
        f"{one.text_after or 'the picture'}: {verdict.reason}"
        for one, verdict in standing
        if verdict and verdict.reason
    ]
    return list(dict.fromkeys(said))


def start_filter(store: Store, *, dataset_id: int, filters: Sequence[str], of_run: Run) -> Run:
    """Queue the scoring of a run's candidates; waits for that run. Scores of the same filters are replaced."""
    unknown = [name for name in filters if name not in FILTERS]
    if unknown:
        raise NotFound("filter", unknown[0], list(FILTERS))
    options = {"filters": list(filters), "of_run": of_run.id, "pack": of_run.options.get("pack")}
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
    store: Store,
    *,
    snapshot_id: int,
    preset: str,
    options: dict[str, Any] | None = None,
    seed: int = 0,
    ablation: dict[str, Any] | None = None,
) -> Run:
    """Queue the training of a preset on a snapshot. `ablation` says what it is a part of (`engine.ablation`). Raises
    NotFound, or WinnowError naming each bad option."""
    snapshot = store.snapshots.get(snapshot_id)
    chosen = train_options(preset, options or {})
    run = store.ledger.create_run(
        RunKind.TRAIN,
        f"{PRESETS[preset].title} on {snapshot.name}",
        dataset_id=snapshot.dataset_id,
        recipe="",
        options={
            "snapshot_id": snapshot.id,
            "preset": preset,
            "train": chosen.model_dump(mode="json"),
            **({} if ablation is None else {"ablation": ablation}),
        },
        seed=seed,
        versions=versions(),
    )
    store.ledger.plan(run.id, [({}, chosen.iterations)])
    return store.ledger.run(run.id)


def start_align(store: Store, *, train_run_id: int, snapshot_id: int, asks: Sequence[Ask]) -> Run:
    """Queue a look: where a detector that learnt from pairs sees the phrases of captions on images of a snapshot. Raises
    WinnowError for a training of another kind, and for a caption without words."""
    trained, snapshot = store.ledger.run(train_run_id), store.snapshots.get(snapshot_id)
    if trained.kind is not RunKind.TRAIN or trained.state is not State.DONE:
        raise WinnowError(f"Run {train_run_id} is no finished training ({trained.kind}, {trained.state}).")
    if not PRESETS[trained.options["preset"]].pairs:
        able = ", ".join(name for name, preset in PRESETS.items() if preset.pairs)
        raise WinnowError(f"Run {train_run_id} trained a detector that compares no words with regions. Train {able}.")
    if not asks or not all(ask.caption.strip() for ask in asks):
        raise WinnowError("Say which caption to look for, such as: a red mug on a table.")
    run = store.ledger.create_run(
        RunKind.EVALUATE,
        f"Where run {train_run_id} sees {asks[0].caption!r:.60}",
        dataset_id=snapshot.dataset_id,
        recipe="",
        options={
            "train_run_id": train_run_id,
            "snapshot_id": snapshot.id,
            "split": "",
            "align": [to_builtins(ask) for ask in asks],
        },
        seed=trained.seed,
        versions=versions(),
    )
    store.ledger.plan(run.id, [({}, 1)])
    return store.ledger.run(run.id)


def start_attend(store: Store, *, train_run_id: int, snapshot_id: int, image_id: int, text: str) -> Run:
    """Queue one question: where a model that was taught where to look sees a phrase on an image of a snapshot. Raises
    WinnowError for a training of another kind, and for a phrase without words."""
    trained, snapshot = store.ledger.run(train_run_id), store.snapshots.get(snapshot_id)
    if trained.kind is not RunKind.TRAIN or trained.state is not State.DONE:
        raise WinnowError(f"Run {train_run_id} is no finished training ({trained.kind}, {trained.state}).")
    if PRESETS[trained.options["preset"]].kind != "attention":
        raise WinnowError(
            f"Run {train_run_id} trained a detector, which has no map to show. Train tiny_blip or blip_itm_base."
        )
    if not text.strip():
        raise WinnowError("Say what to look for, such as: a red mug.")
    asks = [{"image_id": image_id, "text": text.strip()}]
    run = store.ledger.create_run(
        RunKind.EVALUATE,
        f"Where run {train_run_id} looks for {text.strip()!r}",
        dataset_id=snapshot.dataset_id,
        recipe="",
        options={"train_run_id": train_run_id, "snapshot_id": snapshot.id, "split": "", "asks": asks},
        seed=trained.seed,
        versions=versions(),
    )
    store.ledger.plan(run.id, [({}, 1)])
    return store.ledger.run(run.id)


def start_evaluate(
    store: Store,
    *,
    train_run_id: int,
    snapshot_id: int,
    split: str,
    scenario: Scenario = "intra",
    prompting: Prompting = "parallel",
    vocabulary: dict[str, str] | None = None,
    wait: bool = False,
) -> Run:
    """Queue the evaluation of a trained detector on one split of a snapshot; with `wait`, after a training that has not
    ended yet. Scenario and prompting are those of D3. With a `vocabulary` (name -> text to look for) the detector looks for
    that instead of the data set's classes, and nothing is measured. Raises WinnowError when there is no such model or split,
    and for a vocabulary of a detector that does not read."""
    trained = store.ledger.run(train_run_id)
    if vocabulary and PRESETS[trained.options["preset"]].kind != "grounding":
        raise WinnowError(f"Run {train_run_id} trained a detector of fixed classes; it cannot look for a vocabulary.")
    if trained.kind is not RunKind.TRAIN or not (trained.state is State.DONE or (wait and not trained.state.ended)):
        raise WinnowError(f"Run {train_run_id} is no finished training ({trained.kind}, {trained.state}).")
    snapshot = store.snapshots.get(snapshot_id)
    run = store.ledger.create_run(
        RunKind.EVALUATE,
        f"Run {train_run_id} on {snapshot.name}, {split}",
        dataset_id=snapshot.dataset_id,
        recipe="",
        options={
            "train_run_id": train_run_id,
            "snapshot_id": snapshot.id,
            "split": split,
            "scenario": scenario,
            "prompting": prompting,
            **({"vocabulary": vocabulary} if vocabulary else {}),
        },
        seed=trained.seed,
        versions=versions(),
        after_id=trained.id if wait else None,
    )
    store.ledger.plan(run.id, [({}, 1)])
    return store.ledger.run(run.id)


def rerun(store: Store, run_id: int) -> Run:
    """Queue a generate run once more, with the recipe text, options and seed on record."""
    run = store.ledger.run(run_id)
    if run.kind is not RunKind.GENERATE or run.dataset_id is None:
        raise WinnowError(f"Run {run_id} is a {run.kind} run; only generate runs can be run again.")
    if "again_of" in run.options:
        return start_again(store, run.options["again_of"], wording=run.options["wording"], amount=run.options["amount"])
    quota = run.options.get("quota")
    return start_generate(
        store,
        dataset_id=run.dataset_id,
        recipe=parse(run.recipe, f"the recipe of run {run_id}"),
        pack=run.options["pack"],
        amount=run.options["amount"],
        seed=run.seed,
        preview=run.options["preview"],
        quota=Quota.model_validate(quota) if quota else None,
    )


def _parts(items: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def outlook(store: Store, run: Run, amount: int | None = None) -> Estimate | None:
    """What `amount` targets of a run's recipe (None: all that qualify) will take, by what the run has done so far."""
    assert run.dataset_id is not None
    recipe, boxed = parse(run.recipe, f"the recipe of run {run.id}"), _pack_of(store, run).draws_from_data
    there = len(choose(store, run.dataset_id, recipe.targets, seed=run.seed, amount=amount, boxed=boxed))
    return estimate(store, run, there)


# Working


def plan(store: Store, run: Run) -> list[tuple[dict[str, Any], int]]:
    """The shards of a run that could not be planned when it was queued: a filter run, whose candidates were not made yet."""
    ids = store.review.candidate_ids(run.options["of_run"])
    return [({"candidates": part}, len(part)) for part in _parts(ids, CANDIDATES_PER_SHARD)]


def execute(store: Store, run: Run, shard: Shard, control: Control) -> None:
    """Do the work of one shard. Raises Stopped when asked to stop; what was stored until then stays."""
    EXECUTORS[run.kind](store, run, shard, control)


def conclude(store: Store, run: Run) -> None:
    """After the last shard: put a summary of what was made and spent on record."""
    if run.kind is RunKind.GENERATE:
        made = {"candidates": len(store.review.candidate_ids(run.id))}
        store.ledger.set_result(run.id, {**run.result, **made, **spent(store, run.id)})
    elif run.kind is RunKind.FILTER:
        store.ledger.set_result(run.id, spent(store, run.id))


def _generate(store: Store, run: Run, shard: Shard, control: Control) -> None:
    generator = _generator(store, run)
    if "classes" in shard.payload:
        _fill_quota(store, run, shard, control, generator)
    elif "again_of" in shard.payload:
        _make_again(store, run, shard, control, generator)
    elif "class_images" in shard.payload:
        files = convert(shard.payload["class_images"], list[class_images.Given])
        _keep(store, run, shard, control, [class_images.given(generator.context, files, run.seed)])
    else:
        _make_targets(store, run, shard, control, generator)


def _generator(store: Store, run: Run) -> Maker:
    assert run.dataset_id is not None
    options, pack = run.options, _pack_of(store, run)
    recipe = parse(run.recipe, f"the recipe of run {run.id}").fitted(pack.roles)
    context = Context(store, run.dataset_id, prompts=tuple(options.get("prompts", {}).items()), pack=pack.name)
    if recipe.images is not None:
        return WholeImages(context, recipe, pack, seed=run.seed)
    pairs = convert(options.get("pairs", []), tuple[Pair, ...])
    return Generator(context, recipe, pack, seed=run.seed, pairs=pairs)


def _make_targets(store: Store, run: Run, shard: Shard, control: Control, generator: Maker) -> None:
    done = 0
    for number, part in enumerate(_parts(shard.payload["targets"], AT_ONCE)):
        if control.stop_requested():
            raise Stopped
        with measured(store, run.id, shard, number, generator) as made:
            made += generator.make(part)
        _keep(store, run, shard, control, made)
        done += len(part)
        control.progress(done)


def _make_again(store: Store, run: Run, shard: Shard, control: Control, generator: Maker) -> None:
    wish = dict(shard.payload)
    candidate = store.review.candidate(wish.pop("again_of"))
    with measured(store, run.id, shard, 0, generator) as made:
        made.append(generator.again(candidate, **wish))
    _keep(store, run, shard, control, made)


def _keep(store: Store, run: Run, shard: Shard, control: Control, made: Sequence[Made]) -> None:
    """Store what was made, and log what could not be."""
    assert run.dataset_id is not None
    for one in made:
        store.review.add_candidates(shard, one.candidates, run.dataset_id)
        for sentence in one.failures:
            control.log(sentence, "warning")


def _fill_quota(store: Store, run: Run, shard: Shard, control: Control, generator: Maker) -> None:
    """Make, score and count until the quota is filled or the budget spent. What an interrupted run has made already is
    only counted again, so that it goes on where it was."""
    assert run.dataset_id is not None
    classes: dict[str, list[str]] = shard.payload["classes"]
    policy = store.review.policy(run.options["policy_id"])
    names = {category.id: category.name for category in store.datasets.categories(run.dataset_id)}
    tally = Tally(Quota.model_validate(run.options["quota"]), list(classes), policy, names)
    variants = sum(step.variants for step in generator.recipe.steps)
    for number, (attempt, part) in enumerate(attempts(classes, tally, AT_ONCE)):
        if control.stop_requested():
            raise Stopped
        if tally.stopped_by(run):
            break
        wanted = {target: name for name, target in part}
        there = _made_for(store, run.id, wanted, attempt * variants, variants)
        missing = [target for target in wanted if target not in there]
        with measured(store, run.id, shard, number, generator) as made:
            made += generator.make(missing, attempt * variants) if missing else []
        _keep(store, run, shard, control, made)
        found = _made_for(store, run.id, wanted, attempt * variants, variants)
        _score_and_count(
            store, run, shard, generator, tally, [(wanted[t], c) for t, some in found.items() for c in some]
        )
        tally.cost = spent(store, run.id)["usage"]["cost"]
        control.progress(
            sum(min(c.accepted, c.wanted) for c in tally.classes.values()),
            sum(c.wanted for c in tally.classes.values()),
        )
    report = {name: each.model_dump() for name, each in tally.classes.items()}
    why = tally.stopped_by(run) or "no target is left to try"
    store.ledger.set_result(run.id, {"quota": report, "stopped_by": why})


def _made_for(
    store: Store, run_id: int, wanted: dict[str, str], first: int, variants: int
) -> dict[str, list[Candidate]]:
    """The run's candidates of these targets, of the variants of one round."""
    found: dict[str, list[Candidate]] = {}
    for candidate in store.review.made_for(run_id, list(wanted)):
        if first <= candidate.variant < first + variants:
            found.setdefault(candidate.target.rpartition("/")[0], []).append(candidate)
    return found


def _score_and_count(
    store: Store, run: Run, shard: Shard, generator: Maker, tally: Tally, made: Sequence[tuple[str, Candidate]]
) -> None:
    ids = [candidate.id for _, candidate in made]
    known = store.review.scores_of(ids)
    fresh = [i for i in ids if not known[i]]
    store.review.add_scores(shard, score(generator.context, fresh, generator.recipe.filters))
    scores = store.review.scores_of(ids)
    for name, candidate in made:
        tally.add(name, candidate, scores[candidate.id])


def _filter(store: Store, run: Run, shard: Shard, control: Control) -> None:
    assert run.dataset_id is not None
    context = Context(store, run.dataset_id, pack=run.options.get("pack"))
    done = 0
    for number, part in enumerate(_parts(shard.payload["candidates"], SCORED_AT_ONCE)):
        if control.stop_requested():
            raise Stopped
        begun = time.monotonic()
        store.review.add_scores(shard, score(context, part, run.options["filters"]))
        note(store, run.id, shard, number, seconds=time.monotonic() - begun, items=len(part))
        done += len(part)
        control.progress(done)


def _train(store: Store, run: Run, shard: Shard, control: Control) -> None:
    from engine.training.run import train

    train(store, run, control)


def _evaluate(store: Store, run: Run, shard: Shard, control: Control) -> None:
    from engine.training.run import evaluate

    evaluate(store, run, control)


EXECUTORS = {RunKind.GENERATE: _generate, RunKind.FILTER: _filter, RunKind.TRAIN: _train, RunKind.EVALUATE: _evaluate}

"""Commands that train, evaluate and look at what a model sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from db.errors import WinnowError
from db.records import Run
from engine.evaluation.d3 import Prompting, Scenario
from engine.evaluation.suite import numbers
from engine.presets import TrainOptions
from studio import actions, aligning, attending
from studio.commands.common import (
    Home,
    Json,
    More,
    Seed,
    Wait,
    bar,
    chosen,
    follow,
    show,
    studio_at,
)

app = typer.Typer()


def _help(option: str) -> str:
    """The sentence that the Train page shows too."""
    return TrainOptions.model_fields[option].description or option


@app.command()
def train(
    snapshot: Annotated[str, typer.Argument(help="name of the snapshot")],
    preset: Annotated[str, typer.Option(help="detector preset")] = "tiny_atss",
    iterations: Annotated[int | None, typer.Option(min=1, help="optimizer steps (default: the preset's)")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="images a step (default: the preset's)")] = None,
    image_size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT the images are fitted into")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    eval_interval: Annotated[int | None, typer.Option(min=1, help=_help("eval_interval"))] = None,
    weights: Annotated[Path | None, typer.Option(help=_help("weights"))] = None,
    config: Annotated[str | None, typer.Option(help=_help("config"))] = None,
    generated_probability: Annotated[
        float | None, typer.Option(min=0, max=1, help=_help("generated_probability"))
    ] = None,
    ignore_background: Annotated[bool | None, typer.Option(help=_help("ignore_background"))] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help=_help("accumulate"))] = None,
    ema: Annotated[bool | None, typer.Option(help=_help("ema"))] = None,
    amp: Annotated[bool | None, typer.Option(help=_help("amp"))] = None,
    gradient_checkpointing: Annotated[bool | None, typer.Option(help=_help("gradient_checkpointing"))] = None,
    patience: Annotated[int | None, typer.Option(min=1, help=_help("patience"))] = None,
    processes: Annotated[int | None, typer.Option(min=1, help=_help("processes"))] = None,
    option: More = None,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="only look at the data, try twenty steps, and say what it would take")
    ] = False,
    seed: Seed = 0,
    wait: Wait = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train a detector on a snapshot. Stopping keeps a checkpoint: `winnow resume RUN` goes on from there.

    Example: `winnow train with-synthetic --generated-probability 0.2 --ignore-background` and, for a detector that reads,
    `winnow train with-negatives --preset tiny_grounding --option language.negative_text=0.5 --option
    language.per_caption=[1,3]`
    """
    given = {
        "iterations": iterations,
        "batch_size": batch_size,
        "image_size": image_size.lower().split("x") if image_size else None,
        "lr": lr,
        "eval_interval": eval_interval,
        "weights": str(weights.expanduser().resolve()) if weights else None,
        "config": config,
        "generated_probability": generated_probability,
        "ignore_background": ignore_background,
        "accumulate": accumulate,
        "ema": ema,
        "amp": amp,
        "gradient_checkpointing": gradient_checkpointing,
        "patience": patience,
        "processes": processes,
    }
    options = chosen(given, option)
    with studio_at(home) as studio:
        if preflight:
            found = actions.preflight(studio, snapshot=snapshot, preset=preset, options=options, seed=seed)
            show(found, as_json, "\n".join(found.lines()))
            raise typer.Exit(1 if found.faults() else 0)
        run = actions.start_training(studio, snapshot=snapshot, preset=preset, options=options, seed=seed)
        follow(studio, run, wait)
        finished = studio.store.ledger.run(run.id)
    show(finished, as_json, _metrics(finished))


@app.command()
def evaluate(
    train_run: Annotated[int, typer.Argument(help="id of a finished training")],
    snapshot: Annotated[str, typer.Argument(help="name of the snapshot that holds the split")],
    split: Annotated[str, typer.Option(help="split to evaluate on")] = "test",
    scenario: Annotated[
        Scenario, typer.Option(help="of D3: an image is asked for the sentences of its group, or all")
    ] = "intra",
    prompting: Annotated[
        Prompting, typer.Option(help="of D3: one sentence in each prompt, or as many as fit")
    ] = "parallel",
    wait: Wait = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Evaluate a trained detector with the official metrics: COCO's, those of LVIS where the data set has what they need,
    and for a detector that reads those of OmniLabel, and of D3, RefCOCO or Flickr30k Entities for data sets of these formats."""
    with studio_at(home) as studio:
        run = actions.start_evaluation(
            studio, train_run=train_run, snapshot=snapshot, split=split, scenario=scenario, prompting=prompting
        )
        follow(studio, run, wait)
        finished = studio.store.ledger.run(run.id)
    show(finished, as_json, _metrics(finished))


@app.command()
def align(
    train_run: Annotated[int, typer.Argument(help="id of a finished training of tiny_detclip or detclip_...")],
    snapshot: Annotated[str, typer.Argument(help="name of the snapshot that holds the image")],
    image: Annotated[str, typer.Argument(help="file name of the image in the data set")],
    out: Annotated[Path, typer.Option(help="PNG file to write")],
    caption: Annotated[str | None, typer.Option(help="what to look for; the image's own caption if not given")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write where a detector sees each phrase of a caption: the image with the region that fits each phrase best.

    Example: `winnow align 7 with-pairs images/test_000003.jpg --caption "a red mug near a bottle" --out mug.png`
    """
    with studio_at(home) as studio:
        look = aligning.align(studio, train_run=train_run, snapshot=snapshot, file_name=image, caption=caption)
        follow(studio, look, wait=True)
        found = aligning.written(studio, studio.store.ledger.run(look.id), out)
    told = {**msgspec.to_builtins(found), "run": look.id, "file": str(out)}
    lines = [f"{word.best:+.2f}  {word.text}" for word in found.words]
    show(told, as_json, "\n".join([*lines, f"Wrote {out}."]))


@app.command()
def attend(
    train_run: Annotated[int, typer.Argument(help="id of a finished training of tiny_blip or blip_itm_base")],
    snapshot: Annotated[str, typer.Argument(help="name of the snapshot that holds the image")],
    image: Annotated[str, typer.Argument(help="file name of the image in the data set")],
    phrase: Annotated[str, typer.Argument(help="what to look for")],
    out: Annotated[Path, typer.Option(help="PNG file to write")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write where a model looks for a phrase: the image with its heat map, the strongest point, and the boxes, if known.

    Example: `winnow attend 7 with-triplets images/test_000003.jpg "a red mug" --out mug.png`
    """
    with studio_at(home) as studio:
        look = attending.attend(studio, train_run=train_run, snapshot=snapshot, file_name=image, text=phrase)
        follow(studio, look, wait=True)
        asked = attending.written(studio, studio.store.ledger.run(look.id), out)
    x, y = asked.point
    found = {"run": look.id, "point": asked.point, "hit": asked.hit, "file": str(out)}
    show(found, as_json, f"It points to {x:.0f}, {y:.0f}: {attending.outcome(asked)}. Wrote {out}.")


@app.command()
def predict(
    train_run: Annotated[int, typer.Argument(help="id of a finished training")],
    snapshot: Annotated[str, typer.Argument(help="name of the snapshot that holds the split")],
    out: Annotated[Path, typer.Option(help="file to write")],
    split: Annotated[str, typer.Option(help="split to predict on")] = "test",
    vocabulary: Annotated[
        Path | None, typer.Option(help="text file of what to look for: `name` or `name, definition` a line")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write what a trained detector finds as COCO results, with the ids that a COCO export of the snapshot has.

    It is evaluated on the way, so that Compare shows these predictions over their images. With a vocabulary, a detector that
    reads looks for that instead, and the file is a whole COCO document whose boxes have scores.
    """
    from engine.concepts import read_vocabulary
    from engine.predictions import coco_results, found_document

    if vocabulary is not None:
        asked = read_vocabulary(vocabulary)
        with studio_at(home) as studio:
            run = actions.start_evaluation(
                studio, train_run=train_run, snapshot=snapshot, split=split, vocabulary=asked
            )
            follow(studio, run, wait=True)
            document = found_document(studio.store, studio.store.ledger.run(run.id))
        out.write_bytes(msgspec.json.encode(document))
        boxes = len(document["annotations"])
        show({"run": run.id, "boxes": boxes, "file": str(out)}, as_json, f"Wrote {boxes} boxes to {out}.")
        return
    with studio_at(home) as studio:
        run = actions.start_evaluation(studio, train_run=train_run, snapshot=snapshot, split=split)
        follow(studio, run, wait=True)
        rows = coco_results(studio.store, studio.store.ledger.run(run.id))
    out.write_bytes(msgspec.json.encode(rows))
    show({"run": run.id, "boxes": len(rows), "file": str(out)}, as_json, f"Wrote {len(rows)} boxes to {out}.")


@app.command("evaluate-file")
def evaluate_file(
    results: Annotated[Path, typer.Argument(help="COCO results: a list of image_id, category_id, bbox and score")],
    snapshot: Annotated[str, typer.Argument(help="name of the snapshot that holds the split")],
    split: Annotated[str, typer.Option(help="split to evaluate on")] = "test",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Evaluate predictions made elsewhere with the official COCO metrics."""
    from engine.predictions import judge

    with studio_at(home) as studio:
        found = judge(studio.store, studio.store.snapshots.get(snapshot).id, split, results)
    show(found, as_json, f"mAP {found.mAP:.3f}, AP50 {found.AP50:.3f}, AP75 {found.AP75:.3f}.")


@app.command()
def score(
    protocol: Annotated[str, typer.Argument(help="coco, lvis, omnilabel, d3, refcoco, flickr30k or pointing")],
    truth: Annotated[Path, typer.Argument(help="JSON of what is there, as the protocol has it")],
    results: Annotated[Path, typer.Argument(help="JSON list of what was found")],
    as_json: Json = False,
) -> None:
    """Score a file of predictions against a file of truth with the official metrics of a protocol.

    Example: `winnow score omnilabel bench/omnilabel_test.json results.json`
    """
    from engine.evaluation import suite

    found = suite.evaluate(protocol, _json_of(truth, dict), _json_of(results, list))
    show(found, as_json, "\n".join(_named(found)) or "There was nothing to find.")


@app.command()
def ablate(
    without: Annotated[str, typer.Argument(help="name of the snapshot without the slice")],
    with_: Annotated[str, typer.Argument(metavar="WITH", help="name of the snapshot with it")],
    seeds: Annotated[int, typer.Option(min=1, help="paired seeds; an interval needs at least 2")] = 5,
    preset: Annotated[str, typer.Option(help="detector preset")] = "tiny_atss",
    iterations: Annotated[int | None, typer.Option(min=1, help="optimizer steps (default: the preset's)")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="images a step (default: the preset's)")] = None,
    split: Annotated[str | None, typer.Option(help="split to judge on (default: test, else val)")] = None,
    option: More = None,
    wait: Wait = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Say what a slice of the data is worth: train with and without it over the same seeds, and compare in pairs.

    Interrupted, the same command goes on; with more seeds it adds them. Example: `winnow ablate real both --seeds 5`
    """
    from studio import ablating, comparing

    options = chosen({"iterations": iterations, "batch_size": batch_size}, option)
    with studio_at(home) as studio:
        found = ablating.start(
            studio, without=without, with_=with_, seeds=seeds, preset=preset, options=options, split=split
        )
        if wait:
            with bar(f"{with_} against {without}") as progress:
                found = ablating.follow(studio, found.key, progress)
    effects = [f"{name}: {comparing.difference(effect)}" for name, effect in found.metrics.items()]
    failed = [f"Run {run.id} is {run.state}: {run.error}" for run in found.runs if run.state.ended and run.error]
    lead = f"{with_} against {without}, {found.preset} on {found.split}: {found.pairs} of {len(found.legs)} seeds done."
    show(found.as_dict(), as_json, "\n".join([lead, *effects, *failed]))


def _metrics(run: Run) -> str:
    """All numbers of a training or an evaluation, those aside for which there was nothing to find."""
    found = [f"{name} {value:.3f}" for name, value in numbers(run.result).items() if value >= 0]
    return f"Run {run.id}: {', '.join(found) or run.state}."


def _json_of(path: Path, kind: type) -> Any:
    """What a file of JSON holds. Raises WinnowError for one that cannot be read, or that holds something else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WinnowError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, kind):
        raise WinnowError(f"{path} holds a {type(found).__name__} at the top; it should be a {kind.__name__}.")
    return found


def _named(result: dict[str, Any], group: str = "") -> Iterator[str]:
    """All numbers of a result, a line each, those within others after their name; -1 says that there was nothing to find."""
    for name, value in result.items():
        if isinstance(value, dict):
            yield from _named(value, f"{group}{name} ")
        elif isinstance(value, float) and value >= 0:
            yield f"{group}{name} {value:.3f}"

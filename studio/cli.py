"""The command line: the same functions as the buttons of the studio."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from db.errors import WinnowError
from db.records import Kind, Run, State
from db.store import Store
from db.users import Role, one_time_password
from engine.evaluation.d3 import Prompting, Scenario
from engine.evaluation.suite import numbers
from engine.packs import DEFAULT_PACK
from engine.presets import TrainOptions
from studio import actions, aligning, attending, logs
from studio.context import Studio, open_studio
from studio.settings import settings

app = typer.Typer(
    help="Generate training data for object detectors, winnow it, train on what you kept, measure what it was worth.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(stderr=True)

Home = Annotated[Path | None, typer.Option(help="data folder (default: $WINNOW_HOME or ~/.local/share/winnow)")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead of text")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="follow the run to its end, doing the work here if no worker does")
]
Seed = Annotated[int, typer.Option(help="same seed, same result")]
More = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="any option of the Train page, such as language.absent=10"),
]


def _help(option: str) -> str:
    """The sentence that the Train page shows too."""
    return TrainOptions.model_fields[option].description or option


def main() -> None:
    """Entry point: errors for people become one line and exit code 1, bugs keep their traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except WinnowError as error:
        console.print(f"[red]winnow:[/] {error}", highlight=False, markup=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def demo(home: Home = None, host: str | None = None, port: int | None = None) -> None:
    """Load the demo data set, fill the review queue, and open the studio with a worker beside it."""
    from studio.serve import serve_demo

    serve_demo(settings({"home": home, "host": host, "port": port}))


@app.command()
def serve(
    home: Home = None,
    host: str | None = None,
    port: int | None = None,
    worker: Annotated[bool, typer.Option(help="also start one worker on this machine")] = True,
) -> None:
    """Start the studio (and a worker). Stop with Ctrl-C."""
    from studio.serve import serve as run_server

    run_server(settings({"home": home, "host": host, "port": port}), worker=worker)


@app.command()
def worker(home: Home = None) -> None:
    """Start a worker: it generates, filters, trains and evaluates what the studio queues."""
    from engine.jobs import run_worker

    chosen = settings({"home": home})
    logs.set_up(chosen["log"])
    run_worker(Path(chosen["home"]), queue_url=chosen["queue_url"], lease_seconds=chosen["lease_seconds"])


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="a COCO or ODVG file, or a folder with a COCO, VOC or ODVG data set")],
    name: Annotated[str | None, typer.Option(help="name in Winnow (default: the folder's)")] = None,
    format: Annotated[str | None, typer.Option(help="coco, voc or odvg (default: found out)")] = None,
    images: Annotated[Path | None, typer.Option(help="folder of the image files, when they lie elsewhere")] = None,
    annotations_only: Annotated[bool, typer.Option(help="do not look for image files")] = False,
    skip_bad: Annotated[
        bool, typer.Option(help="import the good items, put the bad ones on the quarantine list")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Import a data set. All faults are listed together, and nothing is half-imported.

    Example: `winnow import ~/data/bccd --name bccd`
    """
    with studio_at(home) as studio, bar("Importing") as progress:
        dataset = actions.import_dataset(
            studio, path, name or path.resolve().stem, format=format, images=images,
            annotations_only=annotations_only, skip_bad=skip_bad, progress=progress,
        )  # fmt: skip
    show(
        dataset,
        as_json,
        f"Imported {dataset.name}: {dataset.images} images, {dataset.boxes} boxes, {dataset.phrases} phrases.",
    )


@app.command()
def tabletop(
    name: Annotated[str, typer.Argument(help="name of the data set to make")],
    difficulty: Annotated[str, typer.Option(help="easy, standard or hard")] = "standard",
    train: Annotated[int, typer.Option(min=0, help="scenes of the split")] = 200,
    val: Annotated[int, typer.Option(min=0, help="scenes of the split")] = 50,
    test: Annotated[int, typer.Option(min=0, help="scenes of the split")] = 100,
    folder: Annotated[Path | None, typer.Option(help="also keep the files (COCO, ODVG, exact truth) here")] = None,
    descriptions: Annotated[
        bool, typer.Option("--descriptions", help="with --folder: a mini-OmniLabel and a mini-D3 of each split too")
    ] = False,
    seed: Seed = 0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Paint Tabletop scenes, the demo world whose truth is known exactly, as a data set.

    Example: `winnow tabletop bench --folder bench --descriptions`, then
    `winnow import bench/omnilabel_test.json --name bench-omnilabel`
    """
    with studio_at(home) as studio, bar("Painting scenes") as progress:
        counts = {"train": train, "val": val, "test": test}
        made = actions.paint_tabletop(
            studio, name, counts, difficulty=difficulty, seed=seed, folder=folder, descriptions=descriptions,
            progress=progress,
        )  # fmt: skip
    show(made, as_json, f"Painted {made.name}: {made.images} images, {made.boxes} boxes, {made.phrases} texts.")


@app.command("datasets")
def datasets(home: Home = None, as_json: Json = False) -> None:
    """List the data sets."""
    with studio_at(home) as studio:
        found = studio.store.datasets.list()
    table(found, ("id", "name", "format", "images", "boxes", "phrases"), as_json)


@app.command("class-images")
def class_images(
    path: Annotated[
        Path, typer.Argument(help="a folder of images for each class, perhaps with classes.csv beside them")
    ],
    dataset: Annotated[str, typer.Option(help="name of the data set that the images are for")],
    pack: Annotated[str, typer.Option(help="model pack whose embedder looks at them")] = DEFAULT_PACK,
    skip_bad: Annotated[bool, typer.Option(help="take the good images, list what is wrong with the others")] = False,
    seed: Seed = 0,
    wait: Wait = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add images of single classes (RichSem) to a data set, as candidates to be reviewed. The data set itself is not changed.

    The folders are called like the classes of the data set, or `classes.csv` beside them says so (`n02124075,cat`).

    Example: `winnow class-images ~/data/imagenet-rare --dataset lvis --pack modern --skip-bad`
    """
    with studio_at(home) as studio:
        with bar("Storing") as progress:
            added = actions.add_class_images(
                studio, path, dataset=dataset, pack=pack, seed=seed, skip_bad=skip_bad, progress=progress
            )
        for fault in added.faults:
            print(f"left out: {fault}", file=sys.stderr)
        follow(studio, added.run, wait)
        finished = studio.store.ledger.run(added.run.id)
        show(finished, as_json, told(studio.store, finished))


@app.command("run")
def run_recipe(
    recipe: Annotated[
        str, typer.Argument(help="a shipped recipe (gen2det, enhanced_negatives) or a .yaml file of yours")
    ],
    dataset: Annotated[str, typer.Option(help="name of the data set")],
    pack: Annotated[str, typer.Option(help="model pack; `winnow doctor` says which can run here")] = DEFAULT_PACK,
    amount: Annotated[int | None, typer.Option(min=1, help="how many targets (default: all)")] = None,
    preview: Annotated[bool, typer.Option(help="only the first four, and what the whole would take")] = False,
    accept: Annotated[int | None, typer.Option(min=1, help="go on until so many are accepted of each class")] = None,
    classes: Annotated[str, typer.Option(help="classes of --accept, with commas (default: the rare ones)")] = "",
    max_candidates: Annotated[int | None, typer.Option(min=1, help="budget of --accept")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="budget of --accept")] = None,
    max_cost: Annotated[float | None, typer.Option(help="budget of --accept, by the prices of the endpoint")] = None,
    seed: Seed = 0,
    wait: Wait = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Generate candidates with a recipe and score them with its filters.

    Example: `winnow run gen2det --dataset bccd --pack classic --amount 200`, or, for rare classes,
    `winnow run gen2det --dataset bccd --pack classic --accept 20 --classes Platelets --max-candidates 100`
    """
    names = [name.strip() for name in classes.split(",") if name.strip()]
    budget = {"candidates": max_candidates, "minutes": max_minutes, "cost": max_cost}
    if accept is None and (names or any(budget.values())):
        raise WinnowError("--classes and the --max options belong to --accept; name how many you want accepted.")
    quota = {"accepted": accept, "classes": names, **budget} if accept is not None else None
    with studio_at(home) as studio:
        run = actions.start_recipe(
            studio, dataset=dataset, recipe=recipe, pack=pack, amount=amount, seed=seed, preview=preview, quota=quota
        )
        follow(studio, run, wait)
        finished = studio.store.ledger.run(run.id)
        show(finished, as_json, told(studio.store, finished))


@app.command()
def again(
    candidate: Annotated[int, typer.Argument(help="id of a candidate, as Review shows it")],
    wording: Annotated[str | None, typer.Option(help="what to paint, or the negative text, in your own words")] = None,
    amount: Annotated[int, typer.Option(min=1, max=64, help="how many more")] = 1,
    wait: Wait = True,
    home: Home = None,
) -> None:
    """Make a candidate once more, with another seed or wording, as a new variant of the same target."""
    with studio_at(home) as studio:
        run = actions.start_again(studio, candidate, wording=wording, amount=amount)
        follow(studio, run, wait)
        console.print(told(studio.store, studio.store.ledger.run(run.id)), highlight=False, markup=False)


@app.command()
def report(
    run: Annotated[int, typer.Argument(help="id of a generate run")], home: Home = None, as_json: Json = False
) -> None:
    """What policy and people accepted, where they differ, what it cost, and how varied the negative texts are."""
    from engine import run_report
    from engine.diversity import of_run
    from studio.views import variety

    with studio_at(home) as studio:
        found, texts = run_report.report(studio.store, run), of_run(studio.store, run)
    told = [*run_report.lines(found), *(variety(texts) if texts.negatives else [])]
    show({"report": found, "texts": texts}, as_json, "\n".join(told))


@app.command()
def learn(
    dataset: str,
    kind: Annotated[Kind, typer.Option(help="which candidates")] = Kind.INSTANCE,
    seed: Seed = 0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Fit the learned filter on the verdicts given so far, and say whether it beats the best single filter."""
    from engine import learned
    from engine.filters import FILTERS

    with studio_at(home) as studio:
        chosen = studio.store.datasets.get(dataset)
        rules = [one.default for one in FILTERS.values()]
        report = learned.learn(studio.store, chosen.id, kind, rules=rules, seed=seed).report
    show(report, as_json, report.says)


@app.command()
def rerun(
    run: Annotated[int, typer.Argument(help="id of a generate run")], wait: Wait = True, home: Home = None
) -> None:
    """Make the candidates of a run once more, from the recipe, seed and options on record."""
    with studio_at(home) as studio:
        again = actions.rerun(studio, run)
        follow(studio, again, wait)
        console.print(f"Run {again.id} repeats run {run}.")


@app.command()
def freeze(
    dataset: Annotated[str, typer.Argument(help="name of the data set")],
    name: Annotated[str, typer.Argument(help="name of the snapshot")],
    accepted: Annotated[bool, typer.Option(help="with the accepted candidates, or the real data only")] = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Freeze a snapshot: the selection that export, training and evaluation use.

    Example: `winnow freeze bccd with-synthetic` and `winnow freeze bccd real --no-accepted`
    """
    with studio_at(home) as studio:
        snapshot = actions.freeze(studio, dataset=dataset, name=name, accepted=accepted)
    shown = ", ".join(f"{n} {what}" for what, n in snapshot.counts.items())
    show(snapshot, as_json, f"Snapshot {snapshot.name}: {shown}. sha256 {snapshot.digest[:12]}")


@app.command()
def export(
    snapshot: Annotated[str, typer.Argument(help="name of the snapshot")],
    folder: Annotated[Path, typer.Argument(help="folder to write; must be empty or new")],
    format: Annotated[str, typer.Option(help="coco, voc or odvg")] = "coco",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a snapshot with its images. Says what the format cannot hold."""
    with studio_at(home) as studio:
        losses = actions.export(studio, snapshot=snapshot, folder=folder, format=format)
    told = [f"Wrote {snapshot} as {format} to {folder}.", *(f"Not held by {format}: {loss}" for loss in losses)]
    show({"folder": str(folder), "format": format, "losses": losses}, as_json, "\n".join(told))


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
    options = _chosen(given, option)
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

    options = _chosen({"iterations": iterations, "batch_size": batch_size}, option)
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


class CandidateByNumber(TyperGroup):
    """`why 12` is `why candidate 12`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, ["candidate", *args] if args[0].isdecimal() else args)


why = typer.Typer(
    cls=CandidateByNumber,
    help="Why is this in my training set? `winnow why 12` goes back to the making of candidate 12, and forward to all "
    "that used it.",
    no_args_is_help=True,
)
app.add_typer(why, name="why")


@why.command("candidate")
def why_candidate(
    candidate: Annotated[int, typer.Argument(help="id of a candidate, as Review shows it")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """What led to a candidate (scores, verdicts, policy, recipe, prompt, seed, model), and what used it."""
    from studio import why_api, why_lines

    with studio_at(home) as studio:
        told = why_api.candidate(studio.store, candidate)
    show(told, as_json, "\n".join(why_lines.candidate(told)))


@why.command("box")
def why_box(
    snapshot: Annotated[str, typer.Argument(help="name of the snapshot that was exported")],
    annotation: Annotated[str, typer.Argument(help="id of the annotation in the exported COCO or LVIS file")],
    split: Annotated[str | None, typer.Option(help="split, where an id is in several")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Where a box of an export comes from."""
    from studio import why_api, why_lines

    with studio_at(home) as studio:
        told = why_api.box(studio.store, snapshot, annotation, split)
    show(told, as_json, "\n".join(why_lines.box(told)))


@why.command("ap")
def why_ap(
    evaluation: Annotated[int, typer.Argument(help="id of a finished evaluation")],
    category: Annotated[str | None, typer.Option("--class", help="name of a class (default: all)")] = None,
    against: Annotated[int | None, typer.Option(help="another evaluation, to say what differs")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """What an AP, or a change of it, rests on: the generated data of the training behind it."""
    from studio import why_api, why_lines

    with studio_at(home) as studio:
        told = why_api.change(studio.store, evaluation, category, against)
    show(told, as_json, "\n".join(why_lines.change(told)))


@app.command()
def jobs(home: Home = None, as_json: Json = False, limit: int = 20) -> None:
    """List the latest runs with their progress."""
    with studio_at(home) as studio:
        found = studio.store.ledger.runs(limit=limit)
    table(found, ("id", "kind", "title", "state", "done", "total", "error"), as_json)


def _control(verb: str, sentence: str) -> Callable[..., None]:
    def command(run: Annotated[int, typer.Argument(help="id of the run")], home: Home = None) -> None:
        with studio_at(home) as studio:
            getattr(actions, verb)(studio, run)
        console.print(f"Run {run}: {sentence.lower()}")

    command.__doc__ = sentence
    return command


for _verb, _sentence in (
    ("cancel", "Cancel: a running child is ended within seconds; what it made so far stays."),
    ("pause", "Pause: stop at the next item, or the next checkpoint of a training."),
    ("resume", "Resume: go on where it was paused."),
    ("retry", "Retry: queue the failed shards again."),
):
    app.command(_verb, help=_sentence)(_control(_verb, _sentence))


@app.command()
def doctor(home: Home = None, as_json: Json = False) -> None:
    """Check this machine and say what is missing and what to do about it."""
    from studio.doctor import checkup

    found = checkup(settings({"home": home}))
    if as_json:
        print(json.dumps([finding.__dict__ for finding in found]))
    else:
        for finding in found:
            console.print(f"{'[green]ok  [/]' if finding.ok else '[red]bad [/]'} {finding.what}: {finding.seen}")
            if not finding.ok:
                console.print(f"       {finding.cure}")
    raise typer.Exit(0 if all(finding.ok for finding in found) else 1)


@app.command("backup")
def backup_(
    file: Annotated[Path, typer.Argument(help="new file for the backup; nothing is replaced")],
    even_damaged: Annotated[bool, typer.Option(help="leave out files that are damaged instead of refusing")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Back everything up into one file while the studio works, and check it.

    Example: `winnow backup ~/winnow-monday.zip`
    """
    from db.backup import backup

    made = backup(Path(settings({"home": home})["home"]), file, even_damaged=even_damaged)
    left_out = "".join(f"\nLeft out: {fault}" for fault in made.left_out)
    show(made, as_json, f"{file}: {made.files} files, {made.bytes / 2**20:.1f} MiB, every one checked.{left_out}")


@app.command("restore")
def restore_(
    file: Annotated[Path, typer.Argument(help="a backup")],
    home: Annotated[Path, typer.Option(help="data folder to restore into; new, or empty")],
    as_json: Json = False,
) -> None:
    """Restore a backup into a new data folder, after every file of it was checked.

    Example: `winnow restore ~/winnow-monday.zip --home ~/restored`
    """
    from db.backup import restore

    found = restore(file, home)
    show(found, as_json, f"{home}: {found.files} files, {found.bytes / 2**20:.1f} MiB, every one checked.")


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="import, review, paint, filter, lab or train")],
    scale: Annotated[float, typer.Option(min=0.0001, help="1 is the full size")] = 1.0,
    model: Annotated[
        str | None, typer.Option(help="for paint and filter: a folder or hub id instead of their own model")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="for review: so many candidates instead of 100,000 and 1,000,000")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure Winnow on this machine, as ratios to a named baseline of the same run."""
    from studio.benches import BENCHES

    result = BENCHES.get(name)
    if result is None:
        raise WinnowError(f"No bench named {name!r}. Known: {', '.join(BENCHES)}.")
    if size is not None and name != "review":
        raise WinnowError("--size is for the bench `review`; the others take --scale.")
    choice = size if model is None else model
    with redirect_stdout(sys.stderr):  # libraries that print must not stand before the JSON
        figures = result(scale) if choice is None else result(scale, choice)
    if as_json:
        print(json.dumps(figures))
    else:
        for key, value in figures["figures"].items():
            console.print(f"{key:>28}  {value:.4g}")
        console.print(f"against {figures['baseline']}, n = {figures['n']}")


@app.command()
def lab(
    name: Annotated[str, typer.Argument(help="a lab; an unknown name lists those there are")],
    quick: Annotated[
        bool, typer.Option(help="a tiny version, to see that everything works; its figures mean little")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="paired seeds (default: 5, quick: 2)")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the result (default: in the data folder)")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Measure a whole method on Tabletop, arm against arm over paired seeds. Interrupted, the same command goes on.

    Example: `winnow lab gen2det --quick`
    """
    from engine.labs import lab as lab_of
    from engine.labs import paired, report

    place = Path(settings({"home": home})["home"]) / "labs" / (f"{name}-quick" if quick else name)
    folder, wanted = out or place / "result", seeds or (2 if quick else 5)
    study = lab_of(name).study(quick, place / "work")
    command = f"winnow lab {name}{' --quick' if quick else ''} --seeds {wanted}"
    try:
        with redirect_stdout(sys.stderr):  # libraries that print must not stand before the JSON
            result = paired.run(study, wanted, folder, lambda line: console.out(line, highlight=False), command)
    except KeyboardInterrupt:
        console.print(f"Interrupted. What was measured is kept in {folder}; the same command goes on.", highlight=False)
        raise typer.Exit(130) from None
    report.write(result, folder)
    if as_json:
        print(msgspec.json.encode(result).decode())
        return
    for rows in report.tables(result):
        shown = Table(*rows[0])
        for row in rows[1:]:
            shown.add_row(*row)
        Console().print(shown)
    console.print(f"Written to {folder}: {report.RESULTS}, {report.TABLE}, {report.PLOT}.", highlight=False)


pocket = typer.Typer(
    help="Train the small models of the pocket pack, and look at what they make.", no_args_is_help=True
)
app.add_typer(pocket, name="pocket")


@pocket.command("train")
def pocket_train(
    role: Annotated[str, typer.Argument(help="writer, painter, embedder or aesthetic")],
    folder: Annotated[Path, typer.Option(help="where training keeps its data and checkpoints, and goes on from")],
    out: Annotated[Path, typer.Option(help="folder of the finished model")],
    seed: Seed = 0,
) -> None:
    """Train a model of the pocket pack on Tabletop. May be interrupted: the same command goes on.

    Example: `winnow pocket train painter --folder work/painter --out assets/pocket/painter`
    """
    from engine.training.pocket.roles import train

    train(role, folder, out, seed=seed, progress=lambda stage, step, loss: console.print(f"{stage} {step}: {loss:.4f}"))


@pocket.command("sheet")
def pocket_sheet(
    out: Annotated[Path, typer.Argument(help="PNG to write")],
    count: Annotated[int, typer.Option(min=8, help="pictures to paint")] = 64,
    painter: Annotated[str, typer.Option(help="folder of the painter")] = "assets/pocket/painter",
    embedder: Annotated[str, typer.Option(help="folder of the embedder that looks at them")] = "assets/pocket/embedder",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Paint random things into unseen scenes, and say how often the pocket embedder recognises them."""
    from engine.training.pocket.sheet import sheet

    figures = sheet(out, count=count, painter=painter, embedder=embedder, seed=seed)
    if as_json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            console.print(f"{key:>28}  {value:.4g}")


user = typer.Typer(help="Who may sign in where the studio asks, and what they did there.", no_args_is_help=True)
app.add_typer(user, name="user")
Name = Annotated[str, typer.Argument(help="name of the user")]
AsRole = Annotated[
    Role, typer.Argument(help="reviewer looks and judges; curator also makes and trains; admin also keeps the users")
]


@user.command("add")
def user_add(name: Name, role: AsRole = Role.REVIEWER, home: Home = None) -> None:
    """Add a user, and print the password for their first sign-in.

    Example: `winnow user add ada curator`
    """
    password = one_time_password()
    with studio_at(home) as studio:
        added = studio.store.users.add(name, password, role, one_time=True)
    show(added, False, f"{added.name}, {added.role}, signs in with {password} and then chooses a password.")


@user.command("list")
def user_list(home: Home = None, as_json: Json = False) -> None:
    """List the users."""
    with studio_at(home) as studio:
        found = studio.store.users.everybody()
    table(found, ("name", "role", "one_time"), as_json)


@user.command("remove")
def user_remove(name: Name, home: Home = None) -> None:
    """Remove a user; what they decided stays."""
    with studio_at(home) as studio:
        studio.store.users.remove(name)


@user.command("role")
def user_role(name: Name, role: AsRole, home: Home = None) -> None:
    """Give a user another role. They have to sign in again."""
    with studio_at(home) as studio:
        studio.store.users.set_role(name, role)


@user.command("password")
def user_password(name: Name, home: Home = None) -> None:
    """Give a user a new password for one sign-in, and end all their sessions."""
    password = one_time_password()
    with studio_at(home) as studio:
        studio.store.users.set_password(name, password, one_time=True)
    show(None, False, f"{name} signs in with {password} and then chooses a password.")


@user.command("trail")
def user_trail(
    name: Annotated[str | None, typer.Argument(help="one user's only")] = None,
    home: Home = None,
    as_json: Json = False,
    limit: int = 50,
) -> None:
    """What people did, newest first; verdicts are in the log of Review."""
    with studio_at(home) as studio:
        found = studio.store.users.trail(actor=name, limit=limit)
    table(found, ("at", "actor", "action", "status", "request"), as_json)


measure = typer.Typer(help="Measure filters and bounds where the truth is known exactly.", no_args_is_help=True)
app.add_typer(measure, name="measure")
Study = Annotated[Path, typer.Option(help="folder of the study: painted, trained and scored once, gone on with later")]
Share = Annotated[float, typer.Option(min=0.005, max=1.0, help="of the full size, when the study is new")]


@measure.command("filters")
def measure_filters(
    folder: Study,
    out: Annotated[Path, typer.Option(help="folder of the figures")],
    share: Share = 1.0,
    as_json: Json = False,
) -> None:
    """What each filter is worth: AUC, precision and recall on about 5,000 Tabletop candidates with exact truth.

    Example: `winnow measure filters --folder work/study --out assets/lab/filters`
    """
    from studio.measure import filters

    _measured("filters", filters.run, filters.page, folder, out, share, as_json)


@measure.command("bound")
def measure_bound(
    folder: Study,
    out: Annotated[Path, typer.Option(help="folder of the figures")],
    share: Share = 1.0,
    as_json: Json = False,
) -> None:
    """How often the bounds of an audit hold, over 2,000 simulated audits of each construction.

    Example: `winnow measure bound --folder work/study --out assets/lab/bound`
    """
    from studio.measure import bound

    _measured("bound", bound.run, bound.page, folder, out, share, as_json)


def _measured(
    name: str,
    run: Callable[..., dict[str, Any]],
    page: Callable[[dict[str, Any], str], str],
    folder: Path,
    out: Path,
    share: float,
    as_json: bool,
) -> None:
    """Take the figures, write them as `NAME.json` and `table.md`, and print one of them."""
    from studio.measure.world import world

    def told(what: str, done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            console.print(f"{what}: {done} of {total}", highlight=False)

    with world(folder, told, share=share) as study:
        figures = run(study)
    text = page(figures, f"winnow measure {name}")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1))
    (out / "table.md").write_text(text, encoding="utf-8")
    print(msgspec.json.encode(figures).decode() if as_json else text)


# Shared by the commands


@contextmanager
def studio_at(home: Path | None) -> Iterator[Studio]:
    chosen = settings({"home": home})
    studio = open_studio(Path(chosen["home"]), queue_url=chosen["queue_url"])
    try:
        yield studio
    finally:
        studio.store.close()


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def follow(studio: Studio, run: Run, wait: bool) -> None:
    """Wait for a run and those that follow it, working here when nobody else does. Raises WinnowError when it failed."""
    if not wait:
        return
    with bar(run.title) as progress:
        ended = actions.follow(studio, run.id, progress)
    failed = [one for one in ended if one.state is not State.DONE]
    if failed:
        raise WinnowError(f"Run {failed[0].id} is {failed[0].state}: {failed[0].error or 'see `winnow jobs`'}")


def show(value: Any, as_json: bool, text: str) -> None:
    if as_json:
        print(msgspec.json.encode(value).decode())
    else:
        console.print(text, highlight=False, markup=False)


def table(records: list[Any], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(records).decode())
        return
    shown = Table(*columns)
    for record in records:
        shown.add_row(
            *(str(getattr(record, column) if getattr(record, column) is not None else "") for column in columns)
        )
    Console().print(shown)


def told(store: Store, run: Run) -> str:
    """What became of a generate run, in a few sentences."""
    from studio.views import outcome

    return " ".join(outcome(store, run))


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


def _chosen(given: dict[str, Any], more: list[str] | None) -> dict[str, Any]:
    """The options that were given as flags, and those given as NAME=VALUE, where `language.absent=10` is an option within
    `language`. A value is JSON, else text. Raises WinnowError for one without a value."""
    chosen = {name: value for name, value in given.items() if value is not None}
    for one in more or ():
        name, equals, text = one.partition("=")
        if not name or not equals:
            raise WinnowError(f"--option wants NAME=VALUE, such as language.absent=10, not {one!r}.")
        group, dot, inner = name.partition(".")
        held = chosen.setdefault(group, {}) if dot else chosen
        if not isinstance(held, dict):
            raise WinnowError(f"--option {group} is given as a value and as a group of options; right is one of them.")
        held[inner or name] = _value(text)
    return chosen


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()

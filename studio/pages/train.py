"""Train: freeze a snapshot, train a detector on it, watch, evaluate, export."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from pydantic import BaseModel

from db.errors import WinnowError
from db.formats import FORMATS
from db.queries import Queue
from db.records import Run, RunKind, State
from engine.evaluation.suite import numbers
from engine.presets import PRESETS, Preset, TrainOptions
from studio import actions, plots, tables
from studio.context import Studio
from studio.markup import Html, empty, join, section, tag
from studio.pages.common import (
    LOUD,
    QUIET,
    asked,
    asked_number,
    bound,
    dataset_choice,
    heading,
    html,
    on_load,
    required_dataset,
)

title, path = "Train", "train"
CURVES = 6  # loss parts in one plot; detectors with many layers have dozens
PACE = {"lr": "Learning rate", "images_per_s": "Images a second", "gpu_memory_gb": "GPU memory, GB"}
QUALITY = ("mAP", "AP50", "AP", "AP_categ", "AP_descr", "pointing")  # of any kind of model
FIRST = next(iter(PRESETS.values()))
NARROW = 400  # pixels that a plot has here
NESTED: dict[str, type[BaseModel]] = {
    name: type(field.default)
    for name, field in TrainOptions.model_fields.items()
    if isinstance(field.default, BaseModel)
}  # options that are many options of one method
FIELDS = {name: field for name, field in TrainOptions.model_fields.items() if name not in NESTED} | {
    f"{part}.{name}": field for part, options in NESTED.items() for name, field in options.model_fields.items()
}
Applies = Callable[[Preset], bool]
PARTS: dict[str, tuple[str, Applies]] = {
    "language": ("Prompts of detectors that read", lambda preset: preset.kind == "grounding"),
    "pairs": ("Captions without boxes (DetCLIPv2)", lambda preset: preset.pairs),
    "semantic": ("CLIP and images of whole classes (RichSem)", lambda preset: preset.kind == "closed"),
    "attention": ("Where a model looks (SynGround)", lambda preset: preset.kind == "attention"),
}
"""For the nested options: the title of their group, and which presets they say anything about."""
GENERATED = "Generated images (Gen2Det)"
GROUPS = {
    GENERATED: ("generated_probability", "ignore_background"),
    "Start from": ("weights", "config"),
    **{title: tuple(name for name in FIELDS if name.startswith(f"{part}.")) for part, (title, _) in PARTS.items()},
}
SIMPLE = ("iterations", "batch_size")  # the options everybody wants to see
MORE = tuple(name for name in FIELDS if name not in (*SIMPLE, *(n for names in GROUPS.values() for n in names)))
ORDER = (*SIMPLE, *MORE, *(name for names in GROUPS.values() for name in names))
RUNS = 100  # trainings to choose from
LOOK = 2.0  # seconds between two looks at a running training


def page(studio: Studio) -> None:
    """The four steps at the left, the training they lead to at the right."""
    heading(
        "Train",
        "Freeze what you have, train a detector on it, and see what it finds on images it never saw.",
        help="train",
    )
    with gr.Row():
        with gr.Column(scale=4, min_width=380):
            with gr.Accordion("1. Freeze a snapshot"):
                dataset = gr.Dropdown(label="Data set", choices=[], interactive=True)
                accepted = gr.Checkbox(True, label="With the accepted candidates")
                counts = html()
                with gr.Row(elem_classes="w-line"):
                    name = gr.Textbox(label="Name of the snapshot", placeholder="real+accepted", scale=3, min_width=140)
                    freeze = gr.Button("Freeze", scale=1, min_width=90)
                frozen = html()
            with gr.Accordion("2. Train a detector on it"):
                snapshot = gr.Dropdown(label="Snapshot", choices=[], interactive=True)
                preset = gr.Dropdown(
                    [(p.title, p.name) for p in PRESETS.values()], value=FIRST.name, label="Detector", interactive=True
                )
                summary = html(tables.preset(FIRST))
                with gr.Row():
                    options = {name: _field(name) for name in SIMPLE}
                    seed = gr.Number(0, label="seed", precision=0, minimum=0, min_width=80)
                with gr.Accordion("More options", open=False):
                    options |= {name: _field(name) for name in MORE}
                groups = {}
                for group, names in GROUPS.items():
                    with gr.Accordion(group, open=False, visible=_applies(group, FIRST)) as groups[group]:
                        options |= {name: _field(name) for name in names}
                with gr.Row(elem_classes="w-line"):
                    launch = gr.Button("Train", variant="primary", scale=2, min_width=110)
                    trial = gr.Button("What would it take?", scale=3, min_width=190)
                needs = html()
            with gr.Accordion("3. Evaluate it on images it never saw", open=False):
                judge = gr.Dropdown(label="Snapshot", choices=[], interactive=True)
                with gr.Row(elem_classes="w-line"):
                    split = gr.Dropdown(label="Split", choices=[], interactive=True, scale=3, min_width=140)
                    evaluate = gr.Button("Evaluate", scale=1, min_width=90)
                evaluated = html()
            with gr.Accordion("4. Export the snapshot", open=False):
                folder = gr.Textbox(label="New folder on this machine", placeholder="/data/exported")
                with gr.Row(elem_classes="w-line"):
                    format = gr.Dropdown(list(FORMATS), value="coco", label="Format", scale=3, min_width=140)
                    export = gr.Button("Export", scale=1, min_width=90)
                exported = html()
        with gr.Column(scale=8):
            with gr.Row(elem_classes="w-line"):
                run = gr.Dropdown(label="Training", choices=[], interactive=True, scale=6)
                stop = gr.Button("Stop", scale=1, min_width=90)
                resume = gr.Button("Resume", scale=1, min_width=90)
            status = html()
            with gr.Row():
                losses, quality = html(), html()
            result = html()
    timer = gr.Timer(LOOK, active=False)

    def do(action: Any) -> Any:
        return bound(studio, action)

    watched = [status, losses, quality, result, stop, resume, timer]
    for change in (dataset.change, accepted.change):
        change(do(counted), [dataset, accepted], [counts], **QUIET)
    freeze.click(do(freeze_one), [dataset, accepted, name], [snapshot, judge, frozen], **LOUD)
    preset.change(do(described), [preset], [summary, *groups.values(), *options.values()], **QUIET)
    trial.click(do(tried), [snapshot, preset, seed, *options.values()], [needs], **LOUD)
    launch.click(do(start), [snapshot, preset, seed, *options.values()], [run], **LOUD)
    stop.click(do(pause_one), [run], watched, **LOUD)
    resume.click(do(resume_one), [run], watched, **LOUD)
    run.change(do(watch), [run], watched, **QUIET)
    timer.tick(do(watch), [run], watched, **QUIET)
    judge.change(do(splits), [judge], [split], **QUIET)
    evaluate.click(do(evaluate_one), [run, judge, split], [evaluated], **LOUD)
    export.click(do(export_one), [snapshot, folder, format], [exported], **LOUD)
    on_load(studio, opened, [dataset, snapshot, judge, run, *watched])


def _field(name: str) -> gr.components.Component:
    """The field of a training option; its help is the description of the option."""
    value, label = _default(FIRST, name), FIELDS[name].description or name
    kind = FIELDS[name].annotation
    if isinstance(value, bool):
        return gr.Checkbox(value, label=label)
    if get_origin(kind) is Literal:
        return gr.Dropdown(list(get_args(kind)), value=value, label=label, interactive=True, min_width=160)
    if "tuple" in str(kind) or "str" in str(kind):
        return gr.Textbox(_shown(value), label=label, min_width=160)
    return gr.Number(value, label=label, precision=None if "float" in str(kind) else 0, min_width=100)


def _default(preset: Preset, name: str) -> Any:
    """The preset's own value of an option."""
    value: Any = preset.defaults
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _shown(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return (" | " if _is_text(value) else " x ").join(map(str, value))


def _is_text(value: tuple[Any, ...]) -> bool:
    return any(isinstance(part, str) for part in value)


def _read(name: str, value: Any) -> Any:
    """What a field says, as the options want it; the options themselves judge it."""
    default = _default(FIRST, name)
    if value in ("", None):
        return None
    if isinstance(default, tuple) and _is_text(default):
        return [part.strip() for part in str(value).split("|")]
    if "tuple" in str(FIELDS[name].annotation):
        return str(value).lower().replace("x", " ").split()
    return value


def _applies(group: str, preset: Preset) -> bool:
    """Whether a group of options says anything about this detector."""
    applies: dict[str, Applies] = {**dict(PARTS.values()), GENERATED: lambda one: one.kind != "grounding"}
    return group not in applies or applies[group](preset)


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page as it is opened, on the data set and the training named in the address (`?dataset=`, `?run=`)."""
    run_id = _chosen(studio.store.ledger.runs(kind=RunKind.TRAIN, limit=RUNS), asked_number(request, "run"))
    lists = (_snapshots(studio), _snapshots(studio), _runs(studio, run_id))
    return dataset_choice(studio, asked(request, "dataset")), *lists, *watch(studio, run_id)


def _snapshots(studio: Studio, chosen: int | None = None) -> Any:
    found = studio.store.snapshots.list()
    choices = [(tables.snapshot(one), one.id) for one in found]
    return gr.Dropdown(choices=choices, value=chosen or (found[0].id if found else None))


def _runs(studio: Studio, wanted: int | None = None) -> Any:
    found = studio.store.ledger.runs(kind=RunKind.TRAIN, limit=RUNS)
    choices = [(f"run {run.id}: {run.title}, seed {run.seed}", run.id) for run in found]
    return gr.Dropdown(choices=choices, value=_chosen(found, wanted))


def _chosen(found: Sequence[Run], wanted: int | None) -> int | None:
    """The wanted training, else the one that runs, else the newest."""
    ids = [run.id for run in found]
    running = [run.id for run in found if run.state is State.RUNNING]
    return wanted if wanted in ids else next(iter([*running, *ids]), None)


def counted(studio: Studio, dataset: str | None, accepted: bool) -> Html:
    """What would be frozen, before it is."""
    if not dataset:
        return empty("No data set yet", "Import one, or load the demo, on the Datasets page.")
    found = studio.store.datasets.get(dataset)
    counts = studio.store.review.counts(Queue(dataset_id=found.id), studio.store.review.policies(found.id))
    return tables.tally(found, counts, accepted)


def freeze_one(studio: Studio, dataset: str | None, accepted: bool, name: str) -> tuple[Any, Any, Html]:
    made = actions.freeze(studio, dataset=required_dataset(dataset), name=name, accepted=accepted)
    return _snapshots(studio, made.id), _snapshots(studio, made.id), tables.frozen(made)


def described(studio: Studio, preset: str) -> list[Any]:
    """What a detector is, and its own values for the options."""
    chosen = PRESETS[preset]
    groups = [gr.Accordion(visible=_applies(group, chosen)) for group in GROUPS]
    return [tables.preset(chosen), *groups, *(_shown(_default(chosen, name)) for name in ORDER)]


def start(studio: Studio, snapshot: int | None, preset: str, seed: int, *values: Any) -> Any:
    made = actions.start_training(
        studio, snapshot=_required(snapshot), preset=preset, options=_options(values), seed=int(seed or 0)
    )
    return _runs(studio, made.id)


def tried(studio: Studio, snapshot: int | None, preset: str, seed: int, *values: Any) -> Html:
    """What the training would need, after twenty of its steps."""
    found = actions.preflight(
        studio, snapshot=_required(snapshot), preset=preset, options=_options(values), seed=int(seed or 0)
    )
    lines = tag("ul", [tag("li", line) for line in found.lines()])
    return tag("div", lines, class_=f"w-banner {'bad' if found.faults() else 'good'}")


def _options(values: Sequence[Any]) -> dict[str, Any]:
    """The options that the fields say, those of a method in their own dict."""
    options: dict[str, Any] = {part: {} for part in NESTED}
    for name, value in zip(ORDER, values, strict=True):
        part, _, inner = name.rpartition(".")
        (options[part] if part else options)[inner] = _read(name, value)
    return options


def _required(snapshot: int | None) -> int:
    if not snapshot:
        raise WinnowError("Freeze a snapshot first: it is what a training works on, and it never changes.")
    return int(snapshot)


def watch(studio: Studio, run_id: int | None) -> tuple[Any, ...]:
    """A training as far as it is; the timer goes on while it has not ended."""
    if not run_id:
        nothing = empty("No training yet", "Freeze a snapshot and press Train.")
        return nothing, "", "", "", *_buttons(None), gr.Timer(active=False)
    run = studio.store.ledger.run(int(run_id))
    waiting = run.state is State.QUEUED
    banner = tables.presence(studio.store.ledger.workers(), 1, time.time()) if waiting else None
    curves = _curves(studio, run.id)
    status = join(banner, tables.training(run, {name: curve[-1][1] for name, curve in curves.items()}, time.time()))
    result = join(_result(run), _pace(run, curves))
    return status, *_plots(run, curves), result, *_buttons(run), gr.Timer(active=not run.state.ended)


def _curves(studio: Studio, run_id: int) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in studio.store.ledger.metrics(run_id):
        curves.setdefault(point.name, []).append((point.step, point.value))
    return curves


def _plots(run: Run, curves: dict[str, list[tuple[float, float]]]) -> tuple[Html, Html]:
    parts = sorted((name for name in curves if "loss" in name), key=lambda name: (name != "loss", "." in name, name))
    losses = {name: curves[name] for name in parts[:CURVES]}
    quality = {name: curves[name] for name in QUALITY if name in curves}
    return (
        plots.lines("Loss", losses, smooth=True, x_end=run.total, width=NARROW),
        plots.lines("On the validation images", quality, y_range=(0.0, 1.0), x_end=run.total, width=NARROW),
    )


def _pace(run: Run, curves: dict[str, list[tuple[float, float]]]) -> Html:
    """Small plots of what drives and slows a training."""
    known = [(name, title) for name, title in PACE.items() if len(curves.get(name, ())) > 1]
    plotted = [plots.lines(title, {name: curves[name]}, x_end=run.total, width=NARROW) for name, title in known]
    return join(*plotted)


def _result(run: Run) -> Html | str:
    if not numbers(run.result):
        return ""
    links = [tag("a", "Compare it with others", href=f"/compare?runs={run.id}")]
    if run.kind is RunKind.TRAIN and run.state is State.DONE and PRESETS[run.options["preset"]].pairs:
        links.append(tag("a", "See where it finds the words of captions", href=f"/alignment?run={run.id}"))
    return section("On the validation images", tables.result(run), tag("p", [join(link, " ") for link in links]))


def _buttons(run: Run | None) -> tuple[Any, Any]:
    paused = run is not None and run.pause_requested
    going = run is not None and not run.state.ended
    return gr.Button(interactive=going and not paused), gr.Button(interactive=going and paused)


def pause_one(studio: Studio, run_id: int | None) -> tuple[Any, ...]:
    return _wish(studio, actions.pause, run_id)


def resume_one(studio: Studio, run_id: int | None) -> tuple[Any, ...]:
    return _wish(studio, actions.resume, run_id)


def _wish(studio: Studio, wish: Callable[[Studio, int], None], run_id: int | None) -> tuple[Any, ...]:
    if not run_id:
        raise WinnowError("Choose a training first.")
    wish(studio, int(run_id))
    return watch(studio, run_id)


def splits(studio: Studio, snapshot: int | None) -> Any:
    """The splits that a detector can be judged on; test is the natural one."""
    if not snapshot:
        return gr.Dropdown(choices=[], value=None)
    dataset_id = studio.store.snapshots.get(int(snapshot)).dataset_id
    known = [split for split in studio.store.datasets.splits(dataset_id) if split]
    return gr.Dropdown(choices=known, value="test" if "test" in known else known[-1] if known else None)


def evaluate_one(studio: Studio, run_id: int | None, snapshot: int | None, split: str | None) -> Html:
    if not run_id or not snapshot or not split:
        raise WinnowError("Choose a finished training in step 3, and a snapshot and one of its splits here.")
    made = actions.start_evaluation(studio, train_run=int(run_id), snapshot=int(snapshot), split=split)
    link = tag("a", "Compare will show it", href=f"/compare?runs={made.id}")
    return tag("div", f"Run {made.id} evaluates it. ", link, " when it is done.", class_="w-banner good")


def export_one(studio: Studio, snapshot: int | None, folder: str, format: str) -> Html:
    if not folder.strip():
        raise WinnowError("Name a new folder on this machine, such as /data/exported.")
    where = Path(folder.strip()).expanduser()
    return tables.losses(
        where, actions.export(studio, snapshot=_required(snapshot), folder=where, format=format), format
    )

"""Train: freeze a snapshot, train a detector on it, watch, evaluate, export."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from db.errors import WinnowError
from db.formats import FORMATS
from db.queries import Queue
from db.records import Run, RunKind, State
from engine.presets import PRESETS
from studio import actions
from studio.context import Studio
from studio.pages.common import LOUD, QUIET, empty, heading, on_load, progress_bar, state, table, told

title, path = "Train", "train"
LOSSES = ("loss", "loss_cls", "loss_bbox", "loss_centerness")
POINTS = 300  # of a curve; more cannot be seen


def page(studio: Studio) -> None:
    heading("Train", "Freeze what you have, train a detector on it, see what it finds on images it never saw.")
    with gr.Row():
        with gr.Column():
            gr.Markdown("### 1. Freeze a snapshot")
            dataset = gr.Dropdown(label="Data set", choices=[], interactive=True)
            accepted = gr.Checkbox(True, label="With the accepted candidates")
            counts = gr.HTML()
            with gr.Row():
                name = gr.Textbox(label="Name", placeholder="real+accepted", scale=2)
                freeze = gr.Button("Freeze")
        with gr.Column():
            gr.Markdown("### 2. Train")
            snapshot = gr.Dropdown(label="Snapshot", choices=[], interactive=True)
            preset = gr.Dropdown([(p.title, p.name) for p in PRESETS.values()], value="tiny_atss", label="Detector preset", interactive=True)
            with gr.Row():
                iterations = gr.Number(PRESETS["tiny_atss"].defaults.iterations, label="Steps", precision=0, minimum=1)
                batch = gr.Number(PRESETS["tiny_atss"].defaults.batch_size, label="Images a step", precision=0, minimum=1)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            launch = gr.Button("Train", variant="primary")
    gr.Markdown("### 3. Watch")
    with gr.Row():
        run = gr.Dropdown(label="Training", choices=[], interactive=True, scale=3)
        stop = gr.Button("Stop", size="sm")
        resume = gr.Button("Resume", size="sm")
    status = gr.HTML()
    with gr.Row():
        losses = gr.LinePlot(x="step", y="value", color="curve", title="Loss", height=260)
        scores = gr.LinePlot(x="step", y="value", color="curve", title="AP on the validation images", height=260, y_lim=[0, 1])
    result = gr.HTML()
    with gr.Accordion("Evaluate on a split, or export a snapshot", open=False):
        with gr.Row():
            split = gr.Textbox("test", label="Split of the snapshot above")
            evaluate = gr.Button("Evaluate the training above")
        with gr.Row():
            folder = gr.Textbox(label="New folder on this machine", placeholder="/data/exported")
            format = gr.Dropdown(list(FORMATS), value="coco", label="Format")
            export = gr.Button("Export the snapshot above")
        said = gr.HTML()
    timer = gr.Timer(2.0)

    def opened() -> tuple[Any, Any, Any]:
        known = [d.name for d in studio.store.datasets.list()]
        return gr.Dropdown(choices=known, value=known[-1] if known else None), _snapshots(studio), _runs(studio)

    def do_freeze(dataset: str | None, accepted: bool, name: str) -> tuple[Any, str]:
        if not dataset:
            raise WinnowError("There is no data set yet. Import one, or load the demo, on the Datasets page.")
        made = actions.freeze(studio, dataset=dataset, name=name, accepted=accepted)
        shown = ", ".join(f"{count} {what}" for what, count in made.counts.items())
        return _snapshots(studio, made.id), f"<p>Frozen <b>{escape(made.name)}</b>: {shown}. sha256 {made.digest[:12]}</p>"

    def do_train(snapshot: int | None, preset: str, iterations: int, batch: int, seed: int) -> Any:
        if not snapshot:
            raise WinnowError("Freeze a snapshot first: it is what a training works on.")
        options = {"iterations": int(iterations), "batch_size": int(batch)}
        made = actions.start_training(studio, snapshot=int(snapshot), preset=preset, options=options, seed=int(seed))
        return _runs(studio, made.id)

    def do_evaluate(run: int | None, snapshot: int | None, split: str) -> str:
        if not run or not snapshot:
            raise WinnowError("Choose a finished training and a snapshot above.")
        made = actions.start_evaluation(studio, train_run=int(run), snapshot=int(snapshot), split=split.strip())
        return f"<p>Run {made.id} evaluates it; <a href='/compare'>Compare</a> will show it.</p>"

    def do_export(snapshot: int | None, folder: str, format: str) -> str:
        if not snapshot or not folder.strip():
            raise WinnowError("Choose a snapshot above and name a new folder.")
        lost = actions.export(studio, snapshot=int(snapshot), folder=Path(folder.strip()), format=format)
        told_of = "".join(f"<li>not held by {format}: {escape(loss)}</li>" for loss in lost)
        return f"<p>Written to {escape(folder)}.</p><ul>{told_of}</ul>"

    def watch(run: int | None) -> tuple[str, pd.DataFrame, pd.DataFrame, str]:
        return _watched(studio, int(run) if run else None)

    def wish(verb: str, run: int | None) -> tuple[str, pd.DataFrame, pd.DataFrame, str]:
        if run:
            getattr(actions, verb)(studio, int(run))
        return watch(run)

    watched = [status, losses, scores, result]
    for trigger in (dataset.change, accepted.change):
        trigger(lambda d, a: _counts(studio, d, a), [dataset, accepted], [counts], **QUIET)
    freeze.click(told(do_freeze), [dataset, accepted, name], [snapshot, said], **LOUD)
    launch.click(told(do_train), [snapshot, preset, iterations, batch, seed], [run], **LOUD)
    evaluate.click(told(do_evaluate), [run, snapshot, split], [said], **LOUD)
    export.click(told(do_export), [snapshot, folder, format], [said], **LOUD)
    stop.click(told(lambda run: wish("pause", run)), [run], watched, **LOUD)
    resume.click(told(lambda run: wish("resume", run)), [run], watched, **LOUD)
    run.change(watch, [run], watched, **QUIET)
    timer.tick(watch, [run], watched, **QUIET)
    on_load(opened, [dataset, snapshot, run])


def _snapshots(studio: Studio, chosen: int | None = None) -> Any:
    found = studio.store.snapshots.list()
    choices = [(f"{s.name}: {s.counts['images']} images, {s.counts['synthetic']} of them generated", s.id) for s in found]
    return gr.Dropdown(choices=choices, value=chosen or (found[0].id if found else None))


def _runs(studio: Studio, chosen: int | None = None) -> Any:
    found = studio.store.ledger.runs(kind=RunKind.TRAIN, limit=100)
    choices = [(f"{run.id}: {run.title}, seed {run.seed}", run.id) for run in found]
    return gr.Dropdown(choices=choices, value=chosen or (found[0].id if found else None))


def _counts(studio: Studio, dataset: str | None, accepted: bool) -> str:
    """What would be frozen, before it is."""
    if not dataset:
        return empty("No data set yet.")
    found = studio.store.datasets.get(dataset)
    real = f"{found.images} real images with {found.boxes} boxes"
    if not accepted:
        return f"<p>{real}.</p>"
    tally = studio.store.review.counts(Queue(dataset_id=found.id), studio.store.review.policies(found.id))
    people = ", ".join(f"{count} {what}" for what, count in tally["human"].items()) or "none"
    return f"<p>{real}, and {tally['effective'].get('accept', 0)} accepted candidates (people: {people}; the rest by policy).</p>"


def _watched(studio: Studio, run_id: int | None) -> tuple[str, pd.DataFrame, pd.DataFrame, str]:
    if run_id is None:
        blank = pd.DataFrame({"step": [], "value": [], "curve": []})
        return empty("No training yet. Freeze a snapshot and press Train."), blank, blank, ""
    run = studio.store.ledger.run(run_id)
    return _status(studio, run), _curves(studio, run_id, LOSSES), _curves(studio, run_id, ("mAP", "AP50")), _result(run)


def _status(studio: Studio, run: Run) -> str:
    latest = {metric.name: metric.value for metric in studio.store.ledger.metrics(run.id, ("images_per_s", "lr"))}
    speed = f"{latest['images_per_s']:.1f} images/s" if "images_per_s" in latest else ""
    return table(("State", "", "Steps", "Speed", "Left"), [(state(run), progress_bar(run), f"{run.done} / {run.total}", speed, _left(run, studio))])


def _left(run: Run, studio: Studio) -> str:
    if run.state is State.QUEUED:
        return "waiting for its turn" if actions.has_worker(studio) else "waiting for a worker: `winnow worker`"
    if run.state is not State.RUNNING or not run.done or run.started_at is None:
        return run.error or ""
    seconds = (time.time() - run.started_at) / run.done * (run.total - run.done)
    return f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {seconds:.0f} s"


def _curves(studio: Studio, run_id: int, names: tuple[str, ...]) -> pd.DataFrame:
    points = studio.store.ledger.metrics(run_id, names)
    thinned = points[:: max(1, len(points) // (POINTS * len(names)))]
    rows = [{"step": p.step, "value": p.value, "curve": p.name} for p in thinned]
    return pd.DataFrame(rows, columns=["step", "value", "curve"])


def _result(run: Run) -> str:
    if "mAP" not in run.result:
        return ""
    result = run.result
    whole = table(("mAP", "AP50", "AP75", "small", "medium", "large"), [[result[k] for k in ("mAP", "AP50", "AP75", "AP_s", "AP_m", "AP_l")]])
    classes = sorted(result["per_class"].items(), key=lambda entry: -entry[1])
    return f"<h3>On the validation images</h3>{whole}<h3>AP by class</h3>" + table(("Class", "AP"), classes)

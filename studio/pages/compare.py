"""Compare: trainings and evaluations side by side, and what differed between them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from db.records import Run, RunKind, State
from studio import plots, tables
from studio.context import Studio
from studio.markup import Html, empty, join, section
from studio.pages.common import QUIET, asked, bound, heading, html, on_load

title, path = "Compare", "compare"
CURVES = {"mAP": "mAP on the validation images while training", "loss": "Loss while training"}


def page(studio: Studio) -> None:
    """The runs to compare at the top; below them their metrics, classes and curves, and what differed."""
    heading(
        "Compare",
        "Two runs or more, side by side. Differences are against the first; choose them in the order you want.",
    )
    chosen = gr.Dropdown(label="Runs", choices=[], multiselect=True, interactive=True)
    metrics = html()
    with gr.Row():
        with gr.Column():
            classes = html()
        with gr.Column():
            differences = html()
    with gr.Row():
        quality, losses = html(), html()
    outputs = [metrics, classes, differences, quality, losses]
    chosen.input(bound(studio, compared), [chosen], outputs, **QUIET)
    on_load(studio, opened, [chosen, *outputs])


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page as it is opened: the runs named in the address (`?runs=3,4`), else the two latest evaluations, else the
    two latest trainings."""
    found = finished(studio)
    named = [int(part) for part in (asked(request, "runs") or "").split(",") if part.isascii() and part.isdigit()]
    wanted = [one for one in named if one in {run.id for run in found}] or latest(found)
    choices = [(f"run {run.id}: {run.title}", run.id) for run in found]
    return gr.Dropdown(choices=choices, value=wanted), *compared(studio, wanted)


def finished(studio: Studio) -> list[Run]:
    """Evaluations first, then trainings, newest first: everything that has a result."""
    ledger = studio.store.ledger
    found = [
        run for kind in (RunKind.EVALUATE, RunKind.TRAIN) for run in ledger.runs(kind=kind, state=State.DONE, limit=100)
    ]
    return [run for run in found if "mAP" in run.result]


def latest(found: list[Run]) -> list[int]:
    """The two newest evaluations, or trainings when there are no two evaluations; the older one first."""
    evaluations = [run.id for run in found if run.kind is RunKind.EVALUATE]
    chosen = (
        evaluations if len(evaluations) > 1 else [run.id for run in found if run.kind is RunKind.TRAIN] or evaluations
    )
    return sorted(chosen[:2])


def compared(studio: Studio, ids: list[int] | None) -> tuple[Html | str, ...]:
    """Metrics, classes, what differed, and the two curves."""
    runs = [studio.store.ledger.run(int(one)) for one in ids or []]
    if not runs:
        nothing = "Train a detector, evaluate it on the test split, and choose the runs here."
        return empty("Nothing is chosen" if finished(studio) else "Nothing was trained yet", nothing), "", "", "", ""
    told = [facts_of(studio, run) for run in runs]
    labels = [f"run {run.id}: {known['trained on']}" for run, known in zip(runs, told, strict=True)]
    differences = section("What differed" if len(runs) > 1 else "How it came about", tables.differences(labels, told))
    curves = (_curves(studio, runs, name, text) for name, text in CURVES.items())
    return section("Metrics", tables.metrics(runs, labels)), _classes(runs, labels), differences, *curves


def _classes(runs: list[Run], labels: list[str]) -> Html:
    rows = tables.by_class(runs)
    shown = rows[: plots.LABELS]
    series = {label: [aps[i] for _, aps in shown] for i, label in enumerate(labels)}
    more = f", {len(shown)} of {len(rows)}" if len(rows) > len(shown) else ""
    what = "AP by class, largest change first" if len(runs) > 1 else "AP by class"
    return join(plots.grouped(f"{what}{more}", [name for name, _ in shown], series), tables.class_changes(runs, labels))


def trained(studio: Studio, run: Run) -> Run:
    """The training behind an evaluation; a training is its own."""
    return studio.store.ledger.run(run.options["train_run_id"]) if run.kind is RunKind.EVALUATE else run


def _curves(studio: Studio, runs: list[Run], name: str, text: str) -> Html:
    curves = {
        f"training {one}": [(point.step, point.value) for point in studio.store.ledger.metrics(one, (name,))]
        for one in dict.fromkeys(trained(studio, run).id for run in runs)
    }
    return plots.lines(text, curves, y_range=(0.0, 1.0) if name == "mAP" else None, smooth=name == "loss")


def facts_of(studio: Studio, run: Run) -> dict[str, str]:
    """Everything that may explain why two runs differ."""
    training = trained(studio, run)
    snapshot = studio.store.snapshots.get(int(training.options["snapshot_id"]))
    return {
        "what": run.title,
        "trained on": snapshot.name,
        "real images": f"{snapshot.counts['images'] - snapshot.counts['synthetic']:,}",
        "generated images": f"{snapshot.counts['synthetic']:,}",
        "judged on": _judged_on(studio, run),
        "training": f"run {training.id}",
        "detector": training.options["preset"],
        "seed": str(training.seed),
        **{name.replace("_", " "): str(value) for name, value in training.options["train"].items()},
    }


def _judged_on(studio: Studio, run: Run) -> str:
    if run.kind is not RunKind.EVALUATE:
        return "validation images"
    snapshot = studio.store.snapshots.get(int(run.options["snapshot_id"]))
    return f"{run.options['split']} of {snapshot.name}, {run.result.get('images', '?')} images"

"""Compare: trainings and evaluations side by side, and what differed between them."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
import pandas as pd

from db.records import Run, RunKind, State
from studio.context import Studio
from studio.pages.common import QUIET, empty, heading, on_load, table

title, path = "Compare", "compare"
METRICS = ("mAP", "AP50", "AP75", "AP_s", "AP_m", "AP_l", "AR100")


def page(studio: Studio) -> None:
    heading("Compare", "Two runs or more, side by side. The last column is the difference between the last and the first.")
    chosen = gr.Dropdown(label="Runs", choices=[], multiselect=True, interactive=True)
    summary = gr.HTML()
    classes = gr.BarPlot(x="class", y="AP", color="run", title="AP by class", height=320)
    curves = gr.LinePlot(x="step", y="mAP", color="run", title="mAP on the validation images while training", height=260, y_lim=[0, 1])

    def opened() -> Any:
        found = _finished(studio)
        evaluations = [run.id for run in found if run.kind is RunKind.EVALUATE] or [run.id for run in found]
        choices = [(_label(run), run.id) for run in found]
        return gr.Dropdown(choices=choices, value=sorted(evaluations[:2]))

    def compare(ids: list[int] | None) -> tuple[str, pd.DataFrame, pd.DataFrame]:
        runs = [studio.store.ledger.run(int(one)) for one in ids or []]
        return _summary(studio, runs), _by_class(runs), _curves(studio, runs)

    chosen.change(compare, [chosen], [summary, classes, curves], **QUIET)
    on_load(opened, [chosen])


def _finished(studio: Studio) -> list[Run]:
    ledger = studio.store.ledger
    found = [*ledger.runs(kind=RunKind.EVALUATE, state=State.DONE, limit=100), *ledger.runs(kind=RunKind.TRAIN, state=State.DONE, limit=100)]
    return [run for run in found if "mAP" in run.result]


def _label(run: Run) -> str:
    return f"{run.id}: {run.title}"


def _summary(studio: Studio, runs: list[Run]) -> str:
    if not runs:
        return empty("Nothing to compare yet. Train a detector and evaluate it on the test split; then choose the runs here.")
    heads = ("", *(f"run {run.id}" for run in runs), *(("difference",) if len(runs) > 1 else ()))
    rows = [_with_difference(name, [run.result[name] for run in runs]) for name in METRICS]
    shades = ["good" if row[-1] > 0 else "poor" if row[-1] < 0 else "" for row in rows] if len(runs) > 1 else []
    names = sorted(set().union(*(run.result["per_class"] for run in runs)))
    per_class = [_with_difference(name, [run.result["per_class"].get(name, -1.0) for run in runs]) for name in names]
    differences = table(("", *(f"run {run.id}" for run in runs)), _what_differs(studio, runs))
    return (
        f"<h3>What was compared</h3>{differences}<h3>Metrics</h3>{table(heads, rows, classes=shades)}"
        f"<details><summary>AP of all {len(names)} classes</summary>{table(heads, per_class)}</details>"
    )


def _with_difference(name: str, values: list[float]) -> list[Any]:
    return [name, *values, *([values[-1] - values[0]] if len(values) > 1 else [])]


def _what_differs(studio: Studio, runs: list[Run]) -> list[tuple[str, ...]]:
    """The facts of every run; those that are the same everywhere come last."""
    facts = [_facts(studio, run) for run in runs]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    rows = [(name, *(fact.get(name, "") for fact in facts)) for name in names]
    return sorted(rows, key=lambda row: len(set(row[1:])) == 1)


def _facts(studio: Studio, run: Run) -> dict[str, str]:
    trained = studio.store.ledger.run(run.options["train_run_id"]) if run.kind is RunKind.EVALUATE else run
    snapshot = studio.store.snapshots.get(int(trained.options["snapshot_id"]))
    judged = f"{run.options['split']} ({run.result.get('images', '?')} images)" if run.kind is RunKind.EVALUATE else "validation"
    return {
        "what": run.title,
        "trained on": snapshot.name,
        "real images": str(snapshot.counts["images"] - snapshot.counts["synthetic"]),
        "generated images": str(snapshot.counts["synthetic"]),
        "judged on": judged,
        "preset": trained.options["preset"],
        "seed": str(trained.seed),
        **{f"option {key}": escape(str(value)) for key, value in trained.options["train"].items()},
    }


def _by_class(runs: list[Run]) -> pd.DataFrame:
    rows = [
        {"class": name, "AP": value, "run": f"run {run.id}"} for run in runs for name, value in run.result["per_class"].items() if value >= 0
    ]
    return pd.DataFrame(rows, columns=["class", "AP", "run"])


def _curves(studio: Studio, runs: list[Run]) -> pd.DataFrame:
    trained = {run.options["train_run_id"] if run.kind is RunKind.EVALUATE else run.id for run in runs}
    rows = [
        {"step": p.step, "mAP": p.value, "run": f"training {run_id}"}
        for run_id in sorted(trained)
        for p in studio.store.ledger.metrics(run_id, ("mAP",))
    ]
    return pd.DataFrame(rows, columns=["step", "mAP", "run"])

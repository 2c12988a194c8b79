"""Compare: trainings and evaluations side by side, by class and by slice, box by box, and over paired seeds."""

from __future__ import annotations

from typing import Any

import gradio as gr

from db.errors import WinnowError
from db.records import Run, RunKind
from engine import ablation
from engine.presets import PRESETS
from studio import ablating, tables
from studio.compare_views import ABLATIONS, METRICS, VIEWS, ablations
from studio.compare_views.asked import EVERY, THRESHOLD, Asked, finished, judged_of
from studio.components.compare import STYLE
from studio.components.grid import grid
from studio.context import Studio
from studio.markup import Html, empty
from studio.pages.common import LOUD, QUIET, asked, bound, heading, on_load

title, path = "Compare", "compare"
LOOK = 3.0  # seconds between two looks at an ablation that goes on
CHOOSE = "Choose evaluations above: they alone have boxes on record. Train's third step makes one."


def page(studio: Studio) -> None:
    """What to compare at the top; below it one view, and below that the boxes of what was chosen in it."""
    lead = "Two runs or more, side by side. Differences are against the first; choose them in the order you want."
    heading("Compare", lead, help="train", style=STYLE)
    chosen = gr.Dropdown(label="Runs", choices=[], multiselect=True, interactive=True)
    view = gr.Radio(list(VIEWS), value=METRICS.name, show_label=False, container=False)
    with gr.Row(visible=False) as controls:
        threshold = gr.Slider(0, 1, THRESHOLD, step=0.01, label="Score from", scale=3, min_width=220)
        category = gr.Dropdown(label="Class", choices=[EVERY], value=EVERY, interactive=True, scale=2, min_width=180)
    with gr.Accordion("Start a paired ablation", open=False, visible=False) as form:
        gr.Markdown(
            "Trains on both snapshots with the same seeds, evaluates each, and says how much the difference is, with its "
            "95 % interval. Starting the same again goes on where it was; more seeds are added to those there."
        )
        with gr.Row():
            without = gr.Dropdown(label="Without the slice", choices=[], interactive=True)
            with_ = gr.Dropdown(label="With it", choices=[], interactive=True)
            preset = gr.Dropdown([(p.title, p.name) for p in PRESETS.values()], label="Detector", interactive=True)
            seeds = gr.Number(5, label="Seeds", precision=0, minimum=1, maximum=ablation.MOST_SEEDS, min_width=80)
            iterations = gr.Number(None, label="Iterations (empty: the preset's)", precision=0, min_width=120)
        start = gr.Button("Train and compare", variant="primary")
    sheet = grid("Comparison")
    detail = grid("Boxes")
    cancel = gr.Button("Cancel what is left", visible=False, size="sm")
    picked, timer = gr.Textbox(visible=False), gr.Timer(LOOK, active=False)

    def do(action: Any) -> Any:
        return bound(studio, action)

    asking = [chosen, view, threshold, category]
    shown = [sheet, detail, picked]
    frames = [controls, form, cancel, timer]
    chosen.input(do(run_changed), asking, [category, *shown, *frames], **QUIET)
    view.input(do(view_changed), asking, [*shown, *frames], **QUIET)
    for control in (threshold, category):
        control.change(do(looked), [*asking, picked], shown, trigger_mode="always_last", **QUIET)
    sheet.pick(do(chose), asking, [detail, picked, cancel, timer], **QUIET)
    sheet.turn(do(turned_sheet), asking, [sheet], **QUIET)
    detail.turn(do(turned_detail), [*asking, picked], [detail], **QUIET)
    timer.tick(do(ticked), [*asking, picked], [sheet, detail, cancel, timer], **QUIET)
    start.click(do(started), [without, with_, preset, seeds, iterations, *asking], [*shown, *frames], **LOUD)
    cancel.click(do(cancelled), [*asking, picked], [*shown, *frames], **LOUD)
    on_load(studio, opened, [chosen, view, category, *shown, *frames, without, with_])


# Which runs


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page as it is opened: the runs named in the address (`?runs=3,4`), else the two latest evaluations, else the
    two latest trainings; on the view of the address (`?view=confusion`) or the ablation (`?ablation=KEY`)."""
    found = finished(studio)
    named = [int(part) for part in (asked(request, "runs") or "").split(",") if part.isascii() and part.isdigit()]
    wanted = [one for one in named if one in {run.id for run in found}] or latest(found)
    choices = [(f"run {run.id}: {run.title}", run.id) for run in found]
    key = asked(request, "ablation")
    view = next((v for v in VIEWS if v.lower() == (asked(request, "view") or "").lower()), METRICS.name)
    told = Asked(wanted, ABLATIONS.name if key else view)
    snapshots = [(tables.snapshot(one), one.id) for one in studio.store.snapshots.list()]
    older, newer = (snapshots[-1][1], snapshots[0][1]) if snapshots else (None, None)
    return (
        gr.Dropdown(choices=choices, value=wanted),
        told.view,
        _classes_of(studio, told),
        *_view(studio, told, key or ""),
        *_frames(studio, told, key or ""),
        gr.Dropdown(choices=snapshots, value=older),
        gr.Dropdown(choices=snapshots, value=newer),
    )


def latest(found: list[Run]) -> list[int]:
    """The two newest evaluations, or trainings when there are no two evaluations; the older one first."""
    evaluations = [run.id for run in found if run.kind is RunKind.EVALUATE]
    chosen = (
        evaluations if len(evaluations) > 1 else [run.id for run in found if run.kind is RunKind.TRAIN] or evaluations
    )
    return sorted(chosen[:2])


def _classes_of(studio: Studio, told: Asked) -> Any:
    names = {name for run in judged_of(studio, told) for name in run.result.get("per_class", {})}
    choices = [EVERY, *sorted(names)]
    return gr.Dropdown(choices=choices, value=told.category if told.category in choices else EVERY)


# What a click does


def _told(runs: list[int] | None, view: str, threshold: float, category: str | None) -> Asked:
    return Asked([int(one) for one in runs or []], view, float(threshold), category or EVERY)


def run_changed(studio: Studio, runs: Any, view: str, threshold: float, category: str | None) -> tuple[Any, ...]:
    told = _told(runs, view, threshold, category)
    classes = _classes_of(studio, told)
    told = told._replace(category=classes.value)
    return classes, *_view(studio, told, ""), *_frames(studio, told, "")


def view_changed(studio: Studio, runs: Any, view: str, threshold: float, category: str | None) -> tuple[Any, ...]:
    told = _told(runs, view, threshold, category)
    return *_view(studio, told, ""), *_frames(studio, told, "")


def looked(studio: Studio, runs: Any, view: str, threshold: float, category: str | None, pick: str) -> tuple[Any, ...]:
    """The view again, at another score or for another class; what was chosen in it stays chosen."""
    return _view(studio, _told(runs, view, threshold, category), pick)


def chose(
    studio: Studio, runs: Any, view: str, threshold: float, category: str | None, event: gr.EventData
) -> tuple[Any, ...]:
    told, pick = _told(runs, view, threshold, category), str(event._data["id"])
    return _detail(studio, told, pick, 1), pick, *_frames(studio, told, pick)[2:]


def turned_sheet(
    studio: Studio, runs: Any, view: str, threshold: float, category: str | None, event: gr.EventData
) -> Html:
    return VIEWS[view].sheet(studio, _told(runs, view, threshold, category), "", int(event._data["trail"]))


def turned_detail(
    studio: Studio, runs: Any, view: str, threshold: float, category: str | None, pick: str, event: gr.EventData
) -> Html | str:
    return _detail(studio, _told(runs, view, threshold, category), pick, int(event._data["trail"]))


def ticked(studio: Studio, runs: Any, view: str, threshold: float, category: str | None, pick: str) -> tuple[Any, ...]:
    told = _told(runs, view, threshold, category)
    sheet, detail, pick = _view(studio, told, pick)
    return sheet, detail, *_frames(studio, told, pick)[2:]


def started(
    studio: Studio,
    without: int | None,
    with_: int | None,
    preset: str,
    seeds: float,
    iterations: float | None,
    *controls: Any,
) -> tuple[Any, ...]:
    if not without or not with_:
        raise WinnowError("Freeze two snapshots on Train first: one without the slice, one with it.")
    options = {"iterations": int(iterations)} if iterations else {}
    made = ablating.start(
        studio, without=int(without), with_=int(with_), seeds=int(seeds or 0), preset=preset, options=options
    )
    told = _told(*controls)
    return *_view(studio, told, made.key), *_frames(studio, told, made.key)


def cancelled(
    studio: Studio, runs: Any, view: str, threshold: float, category: str | None, pick: str
) -> tuple[Any, ...]:
    ablation.cancel(studio.store, pick)
    told = _told(runs, view, threshold, category)
    return *_view(studio, told, pick), *_frames(studio, told, pick)


def _frames(studio: Studio, told: Asked, pick: str) -> tuple[Any, ...]:
    """Controls, form, cancel button and timer, as the view needs them."""
    on_ablations = told.view == ABLATIONS.name
    found = ablations.named(studio, pick) if on_ablations else None
    going = found is not None and not found.ended
    return (
        gr.Row(visible=VIEWS[told.view].by_box),
        gr.Accordion(visible=on_ablations),
        gr.Button(visible=going),
        gr.Timer(active=going),
    )


# The view that was chosen


def _view(studio: Studio, told: Asked, pick: str) -> tuple[Html, Html | str, str]:
    """The view, the boxes of what is chosen in it (`pick`, or what it opens with), and that choice."""
    view = VIEWS[told.view]
    if view.by_box and not judged_of(studio, told):
        return empty("No boxes to show", CHOOSE), "", ""
    pick = view.first(studio, told, pick) if view.first else ""
    return view.sheet(studio, told, pick, 1), _detail(studio, told, pick, 1), pick


def _detail(studio: Studio, told: Asked, pick: str, page: int) -> Html | str:
    shown = VIEWS[told.view].detail
    return shown(studio, told, pick, page) if shown and pick else ""

"""Compare: trainings and evaluations side by side, by class and by slice, box by box, and over paired seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from db.errors import WinnowError
from db.records import Run, RunKind, State
from engine import ablation, comparison
from engine.evaluation.suite import numbers
from engine.presets import PRESETS
from studio import ablating, comparing, plots, tables
from studio.comparing import Mark, Shot
from studio.components.compare import STYLE
from studio.components.grid import grid
from studio.context import Studio
from studio.markup import Html, empty, join, section, table, tag
from studio.pages.common import LOUD, QUIET, asked, bound, heading, on_load
from studio.pages.why import address as why

title, path = "Compare", "compare"
QUALITY = ("mAP", "AP", "pointing")  # of a detector of fixed classes, of one that reads, of a model that points
CURVES = {QUALITY: "On the validation images while training", ("loss",): "Loss while training"}
METRICS, PLOTS, CONFUSION, CHANGES, IMAGES, ABLATIONS = VIEWS = (
    "Metrics",
    "Curves",
    "Confusion",
    "What changed",
    "Images",
    "Ablations",
)
BOXES = (PLOTS, CONFUSION, CHANGES, IMAGES)  # views of evaluations box by box
EVERY = "all classes"
THRESHOLD = 0.3
CELLS, THUMBNAILS = 12, 18  # a page
LOOK = 3.0  # seconds between two looks at an ablation that goes on
CHOOSE = "Choose evaluations above: they alone have boxes on record. Train's third step makes one."


class Asked(NamedTuple):
    """What the controls say."""

    runs: list[int]
    view: str = METRICS
    threshold: float = THRESHOLD
    category: str = EVERY


def page(studio: Studio) -> None:
    """What to compare at the top; below it one view, and below that the boxes of what was chosen in it."""
    lead = "Two runs or more, side by side. Differences are against the first; choose them in the order you want."
    heading("Compare", lead, help="train", style=STYLE)
    chosen = gr.Dropdown(label="Runs", choices=[], multiselect=True, interactive=True)
    view = gr.Radio(list(VIEWS), value=METRICS, show_label=False, container=False)
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
    view = next((v for v in VIEWS if v.lower() == (asked(request, "view") or "").lower()), METRICS)
    told = Asked(wanted, ABLATIONS if key else view)
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


def finished(studio: Studio) -> list[Run]:
    """Evaluations first, then trainings, newest first: everything that has a result."""
    ledger = studio.store.ledger
    found = [
        run for kind in (RunKind.EVALUATE, RunKind.TRAIN) for run in ledger.runs(kind=kind, state=State.DONE, limit=100)
    ]
    return [run for run in found if numbers(run.result)]


def latest(found: list[Run]) -> list[int]:
    """The two newest evaluations, or trainings when there are no two evaluations; the older one first."""
    evaluations = [run.id for run in found if run.kind is RunKind.EVALUATE]
    chosen = (
        evaluations if len(evaluations) > 1 else [run.id for run in found if run.kind is RunKind.TRAIN] or evaluations
    )
    return sorted(chosen[:2])


def trained(studio: Studio, run: Run) -> Run:
    """The training behind an evaluation; a training is its own."""
    return studio.store.ledger.run(run.options["train_run_id"]) if run.kind is RunKind.EVALUATE else run


def _runs(studio: Studio, told: Asked) -> list[Run]:
    return [studio.store.ledger.run(int(one)) for one in told.runs]


def _judged(studio: Studio, told: Asked) -> list[Run]:
    """The chosen runs that have boxes on record."""
    return [run for run in _runs(studio, told) if run.kind is RunKind.EVALUATE and "predictions" in run.result]


def _label(studio: Studio, run: Run) -> str:
    snapshot = studio.store.snapshots.get(int(trained(studio, run).options["snapshot_id"]))
    return f"run {run.id}: {snapshot.name}"


def _names(studio: Studio, run: Run) -> dict[int, str]:
    """Category id -> name."""
    assert run.dataset_id is not None
    return {category.id: category.name for category in studio.store.datasets.categories(run.dataset_id)}


def _classes_of(studio: Studio, told: Asked) -> Any:
    names = {name for run in _judged(studio, told) for name in run.result.get("per_class", {})}
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
    return _sheet(studio, _told(runs, view, threshold, category), "", int(event._data["trail"]))


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
    on_ablations = told.view == ABLATIONS
    found = _ablation(studio, pick) if on_ablations else None
    going = found is not None and not found.ended
    return (
        gr.Row(visible=told.view in BOXES),
        gr.Accordion(visible=on_ablations),
        gr.Button(visible=going),
        gr.Timer(active=going),
    )


# Views


def _view(studio: Studio, told: Asked, pick: str) -> tuple[Html, Html | str, str]:
    """The view, the boxes of what is chosen in it (`pick`, or what it opens with), and that choice."""
    if told.view in BOXES and not _judged(studio, told):
        return empty("No boxes to show", CHOOSE), "", ""
    pick = _valid(studio, told, pick)
    return _sheet(studio, told, pick, 1), _detail(studio, told, pick, 1), pick


def _valid(studio: Studio, told: Asked, pick: str) -> str:
    """The choice if it is one of this view, else what the view opens with."""
    first = FIRST.get(told.view)
    return first(studio, told, pick) if first else ""


def _sheet(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    return SHEETS[told.view](studio, told, pick, page)


def _detail(studio: Studio, told: Asked, pick: str, page: int) -> Html | str:
    shown = DETAILS.get(told.view)
    return shown(studio, told, pick, page) if shown and pick else ""


# Metrics


def _metrics(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    runs = _runs(studio, told)
    if not runs:
        nothing = "Train a detector, evaluate it on the test split, and choose the runs here."
        return empty("Nothing is chosen" if finished(studio) else "Nothing was trained yet", nothing)
    facts = [facts_of(studio, run) for run in runs]
    labels = [f"run {run.id}: {known['trained on']}" for run, known in zip(runs, facts, strict=True)]
    differences = section("What differed" if len(runs) > 1 else "How it came about", tables.differences(labels, facts))
    curves = tag("div", [_training_curve(studio, runs, names, text) for names, text in CURVES.items()], class_="w-two")
    with_boxes = [run for run in runs if "mAP" in run.result]
    return join(
        section("Metrics", tables.metrics(runs, labels)) if with_boxes else None,
        _heatmaps(runs),
        _other_numbers(runs, labels),
        tag("div", _classes(runs, labels), differences, class_="w-two"),
        comparing.slices(labels, [comparison.slices(studio.store, run) for run in runs]),
        curves,
    )


def _heatmaps(runs: list[Run]) -> Html | None:
    """The way to where the models look, for those that show it."""
    links = [tag("a", f"run {run.id}", href=f"/attention?run={run.id}") for run in runs if "heatmaps" in run.result]
    return tag("p", "See where they look: ", [join(link, " ") for link in links]) if links else None


def _other_numbers(runs: list[Run], labels: list[str]) -> Html | None:
    """The numbers of the protocols besides COCO, such as those of LVIS."""
    found = [numbers(run.result) for run in runs]
    names = [name for name in dict.fromkeys(n for known in found for n in known) if name not in COCO]
    shown = [name for name in names if any(known.get(name, -1.0) >= 0 for known in found)]
    if not shown:
        return None
    note = tag("p", "fixed_AP and LVIS AP are different measures, not to be compared.", class_="w-quiet")
    lvis = any(name.startswith("fixed_AP") for name in shown)
    return section(
        "By other protocols",
        note if lvis else None,
        tag("div", comparing.by_run(shown, labels, found), class_="w-scroll"),
    )


def _classes(runs: list[Run], labels: list[str]) -> Html:
    rows = tables.by_class(runs) if all("per_class" in run.result for run in runs) else []
    if not rows:
        return join()
    shown = rows[: plots.LABELS]
    series = {label: [aps[i] for _, aps in shown] for i, label in enumerate(labels)}
    more = f", {len(shown)} of {len(rows)}" if len(rows) > len(shown) else ""
    what = "AP by class, largest change first" if len(runs) > 1 else "AP by class"
    plot = plots.grouped(f"{what}{more}", [name for name, _ in shown], series)
    return tag("div", plot, _class_table(runs, labels, rows))


def _class_table(runs: list[Run], labels: list[str], rows: list[tuple[str, list[float | None]]]) -> Html:
    """AP by class with the differences from the first run; the class leads to Why where a run is an evaluation."""
    judged = [run.id for run in runs if run.kind is RunKind.EVALUATE]
    against = judged[0] if len(judged) > 1 else None

    def named(name: str) -> Html | str:
        return tag("a", name, href=why(judged[-1], name, against), title="Why?") if judged else name

    def changes(aps: list[float | None]) -> list[Html | str]:
        known = [-1.0 if ap is None else ap for ap in aps]
        return [tables.with_change(ap, known[0], at == 0) for at, ap in enumerate(known)]

    return tag(
        "div", table(("Class", *labels), [(named(name), *changes(aps)) for name, aps in rows]), class_="w-scroll"
    )


def _training_curve(studio: Studio, runs: list[Run], names: tuple[str, ...], text: str) -> Html:
    curves = {
        f"training {one}": [(point.step, point.value) for point in studio.store.ledger.metrics(one, names)]
        for one in dict.fromkeys(trained(studio, run).id for run in runs)
    }
    quality = names == QUALITY
    return plots.lines(text, curves, y_range=(0.0, 1.0) if quality else None, smooth=not quality)


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
        **tables.flat(tables.training_options(training)),
    }


def _judged_on(studio: Studio, run: Run) -> str:
    if run.kind is not RunKind.EVALUATE:
        return "validation images"
    snapshot = studio.store.snapshots.get(int(run.options["snapshot_id"]))
    return f"{run.options['split']} of {snapshot.name}, {run.result.get('images', '?')} images"


# Curves


def _plots(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    runs = _judged(studio, told)
    labels = [_label(studio, run) for run in runs]
    found = [comparison.judged(studio.store, run) for run in runs]
    places = [_place(studio, run, judged, told.category) for run, judged in zip(runs, found, strict=True)]
    both = list(zip(labels, found, places, strict=True))
    curves = {label: comparison.precision_at_recalls(judged, place) for label, judged, place in both}
    histograms = [
        comparing.scores(f"Scores, {label}", *comparison.score_histogram(judged, place), told.threshold)
        for label, judged, place in both
    ]
    tallies = [comparison.tally(judged, told.threshold, place) for _, judged, place in both]
    return join(
        section(f"Boxes with a score from {told.threshold:.2f}, {told.category}", comparing.tallies(labels, tallies)),
        tag("div", comparing.precision_recall(told.category, curves), histograms, class_="w-two"),
    )


def _place(studio: Studio, run: Run, judged: comparison.Judged, category: str) -> int | None:
    """Where a class stands among the labels of an evaluation; None for all classes."""
    if category == EVERY:
        return None
    named = [_names(studio, run).get(int(label)) for label in judged.labels]
    if category not in named:
        raise WinnowError(f"Run {run.id} does not know the class {category!r}.")
    return named.index(category)


# Confusion


def _first_cell(studio: Studio, told: Asked, pick: str) -> str:
    """The most frequent case of one class taken for another, or else of one not found, in the last of the runs."""
    runs = _judged(studio, told)
    if pick.split(":")[0] in {str(run.id) for run in runs} and pick.count(":") == 2:
        return pick
    counts = comparison.confusion(comparison.judged(studio.store, runs[-1]), told.threshold).counts
    errors = counts - np.diag(np.diag(counts))
    named = errors[:-1, :-1] if errors[:-1, :-1].any() else errors
    row, column = np.unravel_index(int(named.argmax()), named.shape)
    return f"{runs[-1].id}:{row}:{column}" if named.any() else ""


def _confusion(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    parts = []
    for run in _judged(studio, told):
        judged = comparison.judged(studio.store, run)
        names = _label_names(studio, run, judged)
        found = comparison.confusion(judged, told.threshold)
        label = _label(studio, run)
        most = tag("div", tag("h2", "Taken for another"), comparing.confusions(run.id, found, names, pick))
        matrix = comparing.matrix(label, run.id, found, names, pick)
        parts.append(tag("div", matrix, most, class_="w-confusion"))
    lead = tag("p", "Boxes from the score above; choose a cell to see its boxes.", class_="w-quiet")
    return join(lead, parts)


def _label_names(studio: Studio, run: Run, judged: comparison.Judged) -> list[str]:
    known = _names(studio, run)
    return [known[int(label)] for label in judged.labels]


def _cell(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    run_id, row, column = map(int, pick.split(":"))
    run = studio.store.ledger.run(run_id)
    judged = comparison.judged(studio.store, run)
    names = _label_names(studio, run, judged)
    boxes, found = comparison.confusion(judged, told.threshold).at(row, column)
    both = list(zip(boxes.tolist(), found.tolist(), strict=True))
    part, pages = _paged(both, page)
    kind = "right" if row == column else "wrong"
    made = [_pair(studio, run, judged, names, box, prediction, kind) for box, prediction in part]
    title = f"{comparing.described(row, column, names)}, {_label(studio, run)}: {len(both):,}"
    return section(title, comparing.keys("truth", kind, "missed"), comparing.shots(made), comparing.turn(page, pages))


def _paged(items: list[Any], page: int, size: int = CELLS) -> tuple[list[Any], int]:
    """The items of a page, and how many pages there are."""
    return items[(page - 1) * size : page * size], max(1, -(-len(items) // size))


def _pair(
    studio: Studio,
    run: Run,
    judged: comparison.Judged,
    names: list[str],
    box: int,
    prediction: int,
    kind: str,
) -> Shot:
    """A true box, a prediction, or both, on their image."""
    marks, said = [], []
    if box >= 0:
        name = names[int(judged.label(judged.box_pair[box]))]
        marks.append(Mark(judged.box_xywh[box].tolist(), "truth" if prediction >= 0 else "missed", name))
        said.append(f"there: {name}")
    if prediction >= 0:
        name = names[int(judged.label(judged.pair[prediction]))]
        marks.append(Mark(judged.xywh[prediction].tolist(), kind, name))
        said.append(f"said: {name} {judged.score[prediction]:.2f}")
    pair = judged.pair[prediction] if prediction >= 0 else judged.box_pair[box]
    return _shot(studio, run, judged, int(judged.image(pair)), marks, ", ".join(said))


def _shot(studio: Studio, run: Run, judged: comparison.Judged, image_at: int, marks: list[Mark], caption: str) -> Shot:
    image = studio.store.datasets.image(int(judged.images[image_at]))
    name = marks[-1].label
    link = tag("a", "why?", href=why(run.id, name)) if name else None
    told = join(tag("b", caption), " ", link, tag("div", image.file_name))
    return Shot(image.digest or "", image.width, image.height, marks, told, focus=marks[-1].xywh)


# What changed


SIDES = ("won", "lost", "came", "went")


def _first_side(studio: Studio, told: Asked, pick: str) -> str:
    return pick if pick in SIDES else "won"


def _ends(studio: Studio, told: Asked) -> tuple[Run, Run] | None:
    """The first and the last of the evaluations."""
    runs = _judged(studio, told)
    return (runs[0], runs[-1]) if len(runs) > 1 else None


def _changes(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    ends = _ends(studio, told)
    if ends is None:
        return empty("One evaluation alone has not changed", "Choose a second one above.")
    found = _sides(studio, told, *ends)
    before, after = (_label(studio, run) for run in ends)
    words = {
        "won": "boxes won",
        "lost": "boxes lost",
        "came": "wrong boxes that came",
        "went": "wrong boxes that went",
    }
    lead = f"From {before} to {after}, with boxes from a score of {told.threshold:.2f}, {told.category}."
    return join(
        tag("p", lead, class_="w-quiet"),
        comparing.picks([(side, len(found[side]), word) for side, word in words.items()], pick),
    )


def _sides(studio: Studio, told: Asked, first: Run, second: Run) -> dict[str, np.ndarray]:
    """Places of true boxes (of the first and the second run) or of predictions, by side; of the chosen class."""
    before, after = (comparison.judged(studio.store, run) for run in (first, second))
    found = comparison.changes(before, after, told.threshold)
    label = _place(studio, first, before, told.category)

    def mine(pairs: np.ndarray, judged: comparison.Judged, places: np.ndarray) -> np.ndarray:
        return places if label is None else places[judged.label(pairs) == label]

    return {
        "won": mine(before.box_pair[found.won[:, 0]], before, found.won),
        "lost": mine(before.box_pair[found.lost[:, 0]], before, found.lost),
        "came": mine(after.pair[found.came], after, found.came),
        "went": mine(before.pair[found.went], before, found.went),
    }


def _changed_boxes(studio: Studio, told: Asked, pick: str, page: int) -> Html | str:
    ends = _ends(studio, told)
    if ends is None:
        return ""
    first, second = ends
    places = _sides(studio, told, first, second)[pick]
    if not len(places):
        return empty("None", "At this score, for this class, there is none.")
    part, pages = _paged(list(places), page)
    run = second if pick in ("won", "came") else first
    judged = comparison.judged(studio.store, run)
    names = _label_names(studio, run, judged)
    made = [_changed(studio, told, run, judged, names, place, pick) for place in part]
    kinds = ("truth", "right") if pick in ("won", "lost") else ("wrong",)
    where = f"as {_label(studio, run)} has them"
    return join(tag("h2", where), comparing.keys(*kinds), comparing.shots(made), comparing.turn(page, pages))


def _changed(
    studio: Studio, told: Asked, run: Run, judged: comparison.Judged, names: list[str], place: Any, side: str
) -> Shot:
    if side in ("came", "went"):
        return _pair(studio, run, judged, names, -1, int(place), "wrong")
    box = int(place[1] if side == "won" else place[0])
    finder = comparison.finder_of(judged, box, told.threshold)
    return _pair(studio, run, judged, names, box, -1 if finder is None else finder, "right")


# Images


def _first_image(studio: Studio, told: Asked, pick: str) -> str:
    judged = comparison.judged(studio.store, _judged(studio, told)[0])
    return pick if pick.isdigit() and int(pick) < len(judged.images) else "0"


def _images(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    """Thumbnails with the boxes of the last run."""
    run = _judged(studio, told)[-1]
    judged = comparison.judged(studio.store, run)
    part, pages = _paged(list(range(len(judged.images))), page, THUMBNAILS)
    found = [_image(studio, told, run, at, f"{at}", large=False) for at in part]
    lead = tag("p", f"Boxes of {_label(studio, run)}; choose an image to see it large.", class_="w-quiet")
    kinds = comparing.keys("right", "wrong", "missed")
    return join(lead, kinds, comparing.shots(found), comparing.turn(page, pages))


def _image(studio: Studio, told: Asked, run: Run, at: int, pick: str | None, *, large: bool) -> Shot:
    """One image with what the run found in it from the threshold on, and what it did not find."""
    judged = comparison.judged(studio.store, run)
    names = _label_names(studio, run, judged)
    image = studio.store.datasets.image(int(judged.images[at]))
    known, found = comparison.on_image(judged, at, told.threshold)
    verdict = judged.verdict[found]
    hit = set(judged.partner[found[verdict == comparison.HIT]].tolist())
    marks = [
        Mark(judged.box_xywh[box].tolist(), "missed", names[int(judged.label(judged.box_pair[box]))])
        for box in known.tolist()
        if box not in hit and not judged.ignored[box]
    ]
    marks += [
        Mark(
            judged.xywh[one].tolist(),
            "right" if what == comparison.HIT else "wrong",
            f"{names[int(judged.label(judged.pair[one]))]} {judged.score[one]:.2f}",
        )
        for one, what in zip(found.tolist(), verdict.tolist(), strict=True)
        if what != comparison.IGNORED
    ]
    counts = {kind: sum(mark.kind == kind for mark in marks) for kind in ("right", "wrong", "missed")}
    said = f"{counts['right']} found, {counts['wrong']} wrong, {counts['missed']} not found"
    caption = join(tag("b", _label(studio, run) if large else image.file_name), tag("div", said))
    return Shot(image.digest or "", image.width, image.height, marks, caption, pick=pick)


def _one_image(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    runs = _judged(studio, told)
    known = [comparison.judged(studio.store, run).images for run in runs]
    image_id = known[0][int(pick)]
    shown = [
        _image(studio, told, run, int(np.searchsorted(images, image_id)), None, large=True)
        for run, images in zip(runs, known, strict=True)
        if image_id in images
    ]
    name = studio.store.datasets.image(int(image_id)).file_name
    return section(name, comparing.shots(shown, large=True))


# Ablations


def _first_ablation(studio: Studio, told: Asked, pick: str) -> str:
    found = [one.key for one in ablation.ablations(studio.store)]
    return pick if pick in found else next(iter(found), "")


def _ablation(studio: Studio, key: str) -> ablation.Ablation | None:
    return next((one for one in ablation.ablations(studio.store) if one.key == key), None)


def _ablations(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    found = ablation.ablations(studio.store)
    if not found:
        return empty(
            "No ablation yet",
            "Freeze a snapshot without a slice and one with it on Train, then start an ablation above: the same detector "
            "is trained on both with the same seeds, and the differences say what the slice was worth.",
        )
    return comparing.ablations(found, pick)


def _one_ablation(studio: Studio, told: Asked, pick: str, page: int) -> Html | str:
    found = _ablation(studio, pick)
    if found is None:
        return ""
    without, with_ = found.without.name, found.with_.name
    done, whole = sum(run.state is State.DONE for run in found.runs), len(found.runs)
    waiting = (
        None if found.ended else tag("p", f"{done} of {whole} runs are done; this page follows.", class_="w-banner")
    )
    few = (
        tag("p", "One seed has no interval: whether it was luck cannot be said.", class_="w-quiet")
        if found.pairs == 1
        else None
    )
    return join(
        waiting,
        tag(
            "div",
            section(
                "What it was worth",
                few,
                tag("div", comparing.effects(found.metrics, without, with_), class_="w-scroll"),
            ),
            comparing.intervals("Change of the AP by class, with its 95 % interval", found.per_class),
            class_="w-two",
        )
        if found.metrics
        else None,
        section("By class", tag("div", comparing.effects(found.per_class, without, with_), class_="w-scroll"))
        if found.per_class
        else None,
        section("Its runs", comparing.legs(found)),
    )


Part = Callable[[Studio, Asked, str, int], Any]
SHEETS: dict[str, Part] = {
    METRICS: _metrics,
    PLOTS: _plots,
    CONFUSION: _confusion,
    CHANGES: _changes,
    IMAGES: _images,
    ABLATIONS: _ablations,
}
DETAILS: dict[str, Part] = {CONFUSION: _cell, CHANGES: _changed_boxes, IMAGES: _one_image, ABLATIONS: _one_ablation}
FIRST: dict[str, Callable[[Studio, Asked, str], str]] = {
    CONFUSION: _first_cell,
    CHANGES: _first_side,
    IMAGES: _first_image,
    ABLATIONS: _first_ablation,
}
COCO = {"mAP", "AP50", "AP75", "AP_s", "AP_m", "AP_l", "AR1", "AR10", "AR100", "AR_s", "AR_m", "AR_l"}

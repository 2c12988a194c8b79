"""Metrics, AP by class and by slice, and what differed between the runs."""

from __future__ import annotations

from db.records import Run, RunKind
from engine import comparison
from engine.evaluation.suite import numbers
from studio import comparing, plots, tables
from studio.compare_views.asked import Asked, View, finished, runs_of, trained
from studio.context import Studio
from studio.markup import Html, empty, join, section, table, tag
from studio.pages.why import address as why

QUALITY = ("mAP", "AP", "pointing")  # of a detector of fixed classes, of one that reads, of a model that points
CURVES = {QUALITY: "On the validation images while training", ("loss",): "Loss while training"}
COCO = {"mAP", "AP50", "AP75", "AP_s", "AP_m", "AP_l", "AR1", "AR10", "AR100", "AR_s", "AR_m", "AR_l"}


def _metrics(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    runs = runs_of(studio, told)
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


METRICS = View("Metrics", _metrics)

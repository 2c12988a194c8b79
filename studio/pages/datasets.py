"""Datasets: import, browse, count."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from db.errors import BadDataset
from db.formats import FORMATS
from db.records import Box, Dataset
from studio import actions
from studio.context import Studio
from studio.pages.common import COLOURS, LOUD, QUIET, empty, figure, heading, on_load, table, told

title, path = "Datasets", ""
PAGE = 24
ALL = "all"


def page(studio: Studio) -> None:
    heading("Datasets", "What you train on. Import your own, look at it, or load the demo.")
    listing = gr.HTML()
    with gr.Row():
        demo = gr.Button("Load the demo data set", size="sm")
    with gr.Accordion("Import a data set", open=False):
        with gr.Row():
            folder = gr.Textbox(label="File or folder on this machine", placeholder="/data/bccd", scale=3)
            name = gr.Textbox(label="Name in Winnow", placeholder="bccd")
            format = gr.Dropdown(["find out", *FORMATS], value="find out", label="Format")
            skip = gr.Checkbox(label="Import the good items even if some are bad", value=False)
        submit = gr.Button("Import", variant="primary")
        report = gr.HTML()
    with gr.Row():
        chosen = gr.Dropdown(label="Data set", choices=[], interactive=True)
        split = gr.Dropdown(label="Split", choices=[ALL], value=ALL, interactive=True)
        category = gr.Dropdown(label="With a box of", choices=[ALL], value=ALL, interactive=True)
    with gr.Row():
        grid = gr.HTML()
    with gr.Row():
        first = gr.Button("First page", size="sm")
        following = gr.Button("Next page", size="sm")
        after = gr.Number(0, visible=False, precision=0)
    histogram = gr.BarPlot(x="class", y="boxes", color="group", title="Boxes per class", sort="-y", height=260)
    quarantine = gr.HTML()

    def names() -> Any:
        known = studio.store.datasets.list()
        return gr.Dropdown(choices=[d.name for d in known], value=known[-1].name if known else None)

    def about(dataset: str | None) -> tuple[Any, Any, pd.DataFrame, str]:
        if not dataset:
            nothing = pd.DataFrame({"class": [], "boxes": [], "group": []})
            return gr.Dropdown(choices=[ALL], value=ALL), gr.Dropdown(choices=[ALL], value=ALL), nothing, ""
        found = studio.store.datasets.get(dataset)
        splits = [s for s in studio.store.datasets.splits(found.id) if s]
        classes = [c.name for c in studio.store.datasets.categories(found.id)]
        choices = (gr.Dropdown(choices=[ALL, *splits], value=ALL), gr.Dropdown(choices=[ALL, *classes], value=ALL))
        return *choices, _histogram(studio, found), _quarantine(studio, found)

    def show(dataset: str | None, split: str, category: str, after: int) -> tuple[str, int]:
        return _grid(studio, dataset, split, category, int(after or 0))

    def do_import(folder: str, name: str, format: str, skip: bool, progress: gr.Progress = gr.Progress()) -> tuple[str, str, Any]:  # noqa: B008
        where = Path(folder.strip())
        try:
            made = actions.import_dataset(
                studio,
                where,
                name.strip() or where.name,
                format=None if format == "find out" else format,
                skip_bad=skip,
                progress=lambda done, total: progress((done, total), desc="Checking images"),
            )
        except BadDataset as error:
            return _faults(error), _listing(studio), gr.Dropdown()
        return f"<p>Imported <b>{escape(made.name)}</b>: {made.images} images, {made.boxes} boxes.</p>", _listing(studio), names()

    def do_demo(progress: gr.Progress = gr.Progress()) -> tuple[str, Any]:  # noqa: B008
        actions.load_demo(studio, lambda done, total: progress((done, total), desc="Painting scenes"))
        return _listing(studio), names()

    submit.click(told(do_import), [folder, name, format, skip], [report, listing, chosen], **LOUD)
    demo.click(told(do_demo), None, [listing, chosen], **LOUD)
    chosen.change(about, [chosen], [split, category, histogram, quarantine], **QUIET)
    for trigger in (chosen.change, split.change, category.change, first.click):
        trigger(lambda d, s, c: show(d, s, c, 0), [chosen, split, category], [grid, after], **QUIET)
    following.click(show, [chosen, split, category, after], [grid, after], **QUIET)
    on_load(lambda: (_listing(studio), names()), [listing, chosen])


def _listing(studio: Studio) -> str:
    known = studio.store.datasets.list()
    if not known:
        return empty("No data set yet. Load the demo data set, or import a COCO, VOC or ODVG one below.")
    rows = [(d.name, d.format, d.images, d.boxes, d.phrases, _splits(studio, d)) for d in known]
    return table(("Name", "Format", "Images", "Boxes", "Texts", "Splits"), rows)


def _splits(studio: Studio, dataset: Dataset) -> str:
    return ", ".join(f"{split or 'no split'} {count}" for split, count in studio.store.datasets.splits(dataset.id).items())


def _grid(studio: Studio, dataset: str | None, split: str, category: str, after: int) -> tuple[str, int]:
    if not dataset:
        return "", 0
    store, found = studio.store.datasets, studio.store.datasets.get(dataset)
    classes = {c.name: c.id for c in store.categories(found.id)}
    wanted = {"split": None if split == ALL else split, "category_id": classes.get(category)}
    images = store.images(found.id, **wanted, after=after, limit=PAGE)
    if not images:
        return empty("No images here." if not after else "That was the last page."), after
    boxes = store.boxes_of([image.id for image in images])
    texts = store.phrases_of([image.id for image in images])
    order = {category_id: number for number, category_id in enumerate(classes.values())}

    def colour(box: Box) -> str:
        return COLOURS[order.get(box.category_id or 0, 0) % len(COLOURS)]

    figures = [figure(i, boxes[i.id], colour, next((p.text for p in texts[i.id]), i.file_name)) for i in images]
    return f'<div class="winnow-grid">{"".join(figures)}</div>', images[-1].id


def _histogram(studio: Studio, dataset: Dataset) -> pd.DataFrame:
    groups = {"f": "frequent", "c": "common", "r": "rare", None: "class"}
    counted = studio.store.datasets.class_histogram(dataset.id)[:60]
    return pd.DataFrame([{"class": c.name, "boxes": n, "group": groups.get(c.frequency, "class")} for c, n, _ in counted])


def _quarantine(studio: Studio, dataset: Dataset) -> str:
    faults = studio.store.datasets.faults(dataset.id)
    if not faults:
        return ""
    rows = [(f.item, f.seen, f.expected) for f in faults[:200]]
    return f"<h3>Quarantine: {len(faults)} items were not imported</h3>" + table(("Item", "Seen", "Expected"), rows)


def _faults(error: BadDataset) -> str:
    rows = [(Path(f.file).name, f.item, f.seen, f.expected) for f in error.faults[:500]]
    shown = table(("File", "Item", "Seen", "Expected"), rows)
    return f'<p><b>{len(error.faults)} fault(s); nothing was imported.</b></p><div class="faults">{shown}</div>'

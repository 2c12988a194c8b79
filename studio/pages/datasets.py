"""Datasets: import, browse, count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from db.errors import BadDataset, WinnowError
from db.formats import FORMATS
from db.records import Dataset
from studio import actions, pictures, plots, tables
from studio.components.grid import grid
from studio.context import Studio
from studio.markup import Html, empty, tag
from studio.pages.common import LOUD, QUIET, asked, bound, chosen_dataset, heading, html, on_load

title, path = "Datasets", ""
PAGE = 20
ALL = "all"
GUESS = "find out"
EVERYTHING = 11  # places that a new data set changes
PROGRESS = gr.Progress()


def page(studio: Studio) -> None:
    """A list of data sets, the import, and a look into one of them."""
    heading("Datasets", "What you train on: import your own, look at it closely, or load the demo.", help="formats")
    with gr.Column(visible=False) as start:
        html(empty("No data set yet", "Load the demo (350 painted scenes, half a minute), or import your own below."))
        demo = gr.Button("Load the demo data set", variant="primary")
        painting = html()
    listing = grid("Data sets")
    with gr.Accordion("Import a data set", open=False):
        with gr.Row(elem_classes="w-line"):
            folder = gr.Textbox(label="File or folder on this machine", placeholder="/data/bccd", scale=4)
            name = gr.Textbox(label="Name in Winnow", placeholder="as the folder", scale=2)
            format = gr.Dropdown([GUESS, *FORMATS], value=GUESS, label="Format", scale=1, min_width=110)
            submit = gr.Button("Import", variant="primary", scale=1, min_width=100)
        skip = gr.Checkbox(
            label="Import the good items even if some are bad; the bad ones go to a quarantine list", value=False
        )
        report = html()
    with gr.Column(visible=False) as browser:
        with gr.Row():
            chosen = gr.Dropdown(label="Data set", choices=[], interactive=True)
            split = gr.Dropdown(label="Split", choices=[ALL], value=ALL, interactive=True)
            category = gr.Dropdown(label="With a box of", choices=[ALL], value=ALL, interactive=True)
        with gr.Tabs():
            with gr.Tab("Images"), gr.Row():
                with gr.Column(scale=7):
                    images = grid("Images")
                with gr.Column(scale=4, min_width=340, elem_classes="w-side"):
                    detail = grid("The chosen image")
            with gr.Tab("Classes"), gr.Row():
                with gr.Column(scale=7):
                    histogram = html()
                with gr.Column(scale=5):
                    classes = html()
            with gr.Tab("Not imported"):
                quarantine = html()

    def do(action: Any) -> Any:
        return bound(studio, action)

    filters, shown = [chosen, split, category], [images, detail]
    look = [split, category, quarantine, histogram, classes, *shown]
    everything = [start, browser, listing, chosen, *look]
    on_load(studio, opened, everything)
    submit.click(do(import_one), [folder, name, format, skip], [report, *everything], show_progress_on=[report], **LOUD)
    demo.click(do(load_demo), None, everything, show_progress_on=[painting], **LOUD)
    listing.pick(do(picked), None, [chosen, *look], **QUIET)
    chosen.input(do(described), [chosen], look, **QUIET)
    split.input(do(counted), [chosen, split], [histogram, classes], **QUIET)
    for change in (split.input, category.input):
        change(do(first_page), filters, shown, **QUIET)
    images.turn(do(turned), filters, shown, **QUIET)
    images.pick(do(looked_at), None, [detail], **QUIET)


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page as it is opened, on the data set named in the address (`?dataset=`)."""
    return overview(studio, asked(request, "dataset"))


def overview(studio: Studio, wanted: str | None = None) -> tuple[Any, ...]:
    known = studio.store.datasets.list()
    chosen = chosen_dataset(studio, known, wanted)
    choice = gr.Dropdown(choices=[one.name for one in known], value=chosen)
    picked = next((one.id for one in known if one.name == chosen), None)
    listing = (
        tables.datasets(known, {one.id: studio.store.datasets.splits(one.id) for one in known}, picked) if known else ""
    )
    return gr.Column(visible=not known), gr.Column(visible=bool(known)), listing, choice, *described(studio, chosen)


def import_one(
    studio: Studio, folder: str, name: str, format: str, skip: bool, progress: gr.Progress = PROGRESS
) -> tuple[Any, ...]:
    """Import what the form says. All faults are shown together; with `skip` the good items come in all the same."""
    if not folder.strip():
        raise WinnowError("Name a file or folder on this machine, such as /data/bccd or /data/coco/instances_val.json.")
    where = Path(folder.strip()).expanduser()
    try:
        made = actions.import_dataset(
            studio,
            where,
            name.strip() or (where.stem if where.is_file() else where.name),
            format=None if format == GUESS else format,
            skip_bad=skip,
            progress=lambda done, total: progress((done, total), desc="Reading images"),
        )
    except BadDataset as error:
        number = len(error.faults)
        shown = tables.faults(
            error.faults,
            f"{number:,} {'fault' if number == 1 else 'faults'}, nothing was imported.",
            f"Seen in {where}.",
        )
        return shown, *[gr.skip()] * EVERYTHING
    return _imported(made), *overview(studio, made.name)


def _imported(made: Dataset) -> Html:
    counts = f"{made.images:,} images, {made.boxes:,} boxes, {made.phrases:,} texts"
    return tag("div", "Imported ", tag("b", made.name), f": {counts}.", class_="w-banner good")


def load_demo(studio: Studio, progress: gr.Progress = PROGRESS) -> tuple[Any, ...]:
    """Paint and import the demo, and queue its recipes."""
    made = actions.load_demo(studio, lambda done, total: progress((done, total), desc="Painting scenes"))
    return overview(studio, made.name)


def picked(studio: Studio, event: gr.EventData) -> tuple[Any, ...]:
    """The data set whose row was chosen."""
    name = studio.store.datasets.get(int(event._data["id"])).name
    return name, *described(studio, name)


def described(studio: Studio, dataset: str | None) -> tuple[Any, ...]:
    """The filters that fit the data set, what was left out of it, its classes and its first images."""
    found = studio.store.datasets.get(dataset) if dataset else None
    splits = [split for split in splits_of(studio, found) if split] if found else []
    names = [category.name for category in studio.store.datasets.categories(found.id)] if found else []
    choices = (gr.Dropdown(choices=[ALL, *splits], value=ALL), gr.Dropdown(choices=[ALL, *names], value=ALL))
    left_out = _quarantine(studio, found) if found else ""
    return *choices, left_out, *counted(studio, dataset, ALL), *first_page(studio, dataset, ALL, ALL)


def _quarantine(studio: Studio, dataset: Dataset) -> Html:
    faults = studio.store.datasets.faults(dataset.id)
    if not faults:
        return empty("Everything was imported", "Nothing of this data set had to be left out.")
    return tables.faults(faults, f"{len(faults):,} items were left out", "when the data set was imported.")


def counted(studio: Studio, dataset: str | None, split: str) -> tuple[Html | str, Html | str]:
    """How many boxes of each class, as a plot and as a table."""
    if not dataset:
        return "", ""
    found = studio.store.datasets.get(dataset)
    known = splits_of(studio, found)
    histogram = studio.store.datasets.class_histogram(found.id, split if split in known else None)
    return plots.histogram("Boxes per class", tables.bars(histogram)), tables.classes(histogram)


def splits_of(studio: Studio, dataset: Dataset) -> list[str]:
    return list(studio.store.datasets.splits(dataset.id))


def first_page(studio: Studio, dataset: str | None, split: str, category: str) -> tuple[Html | str, Html | str]:
    return _images(studio, dataset, split, category, [0])


def turned(
    studio: Studio, dataset: str | None, split: str, category: str, event: gr.EventData
) -> tuple[Html | str, Html | str]:
    """The page that the pressed button leads to."""
    return _images(studio, dataset, split, category, [int(part) for part in event._data["trail"].split(",")])


def _images(
    studio: Studio, dataset: str | None, split: str, category: str, trail: list[int]
) -> tuple[Html | str, Html | str]:
    """A page of thumbnails, and the first of them in full."""
    if not dataset:
        return "", ""
    store, found = studio.store.datasets, studio.store.datasets.get(dataset)
    names = {one.id: one.name for one in store.categories(found.id)}
    named = split if split in splits_of(studio, found) else None
    images = store.images(found.id, split=named, category_id=_key(names, category), after=trail[-1], limit=PAGE + 1)
    if not images:
        return empty(
            "No images here", "No image of this data set fits both filters; choose another split or class."
        ), ""
    shown = images[:PAGE]
    ids = [image.id for image in shown]
    page = pictures.grid(shown, store.boxes_of(ids), store.phrases_of(ids), names, trail=trail, more=len(images) > PAGE)
    return page, _detail(studio, ids[0])


def _key(names: dict[int, str], name: str) -> int | None:
    return next((key for key, known in names.items() if known == name), None)


def looked_at(studio: Studio, event: gr.EventData) -> Html:
    """The image that was chosen, in full."""
    return _detail(studio, int(event._data["id"]))


def _detail(studio: Studio, image_id: int) -> Html:
    store = studio.store.datasets
    image = store.image(image_id)
    names = {one.id: one.name for one in store.categories(image.dataset_id)}
    return pictures.detail(image, store.boxes_of([image_id])[image_id], store.phrases_of([image_id])[image_id], names)

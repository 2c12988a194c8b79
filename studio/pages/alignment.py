"""Alignment: where a detector that learnt from captions sees each phrase of a caption."""

from __future__ import annotations

from typing import Any

import gradio as gr

from db.errors import WinnowError
from db.records import Run, State
from engine import alignments
from studio import aligning
from studio.components.compare import STYLE
from studio.components.grid import grid
from studio.context import Studio
from studio.markup import Html, empty, tag
from studio.pages.common import LOUD, QUIET, asked_number, bound, heading, on_load

title, path = "Alignment", "alignment"
FILES = 300  # images to choose from
LOOK = 1.5  # seconds between two looks at a question
NONE_YET = "Train the preset tiny_detclip (or detclip_swin_t) on a snapshot: the Train page does it. Images with captions help."


def page(studio: Studio) -> None:
    """Which detector, image and caption at the top; below, the image with the regions of the phrases."""
    lead = "Where a detector sees the phrases of a caption: of each, the region that fits it best, and how well."
    heading("Alignment", lead, help="train", style=STYLE)
    with gr.Row(elem_classes="w-line"):
        trained = gr.Dropdown(label="Detector", choices=[], interactive=True, scale=3)
        image = gr.Dropdown(label="Image", choices=[], interactive=True, scale=3)
    with gr.Row(elem_classes="w-line"):
        caption = gr.Dropdown(label="Caption", choices=[], interactive=True, allow_custom_value=True, scale=5)
        ask = gr.Button("Align", variant="primary", scale=1, min_width=90)
    asked, answer, timer = gr.Textbox(visible=False), grid("The answer"), gr.Timer(LOOK, active=False)

    def do(action: Any) -> Any:
        return bound(studio, action)

    trained.change(do(images), [trained], [image, caption], **QUIET)
    image.change(do(captions), [trained, image], [caption], **QUIET)
    ask.click(do(question), [trained, image, caption], [asked, answer, timer], **LOUD)
    timer.tick(do(ticked), [asked], [answer, timer], **QUIET)
    on_load(studio, opened, [trained, image, caption, answer])


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page as it is opened: on the training named in the address (`?run=`), else on the newest that can align."""
    runs = alignments.aligners(studio.store)
    wanted = asked_number(request, "run")
    ids = [run.id for run in runs]
    start = wanted if wanted in ids else next(iter(ids), None)
    choices = [(f"run {run.id}: {run.title}", run.id) for run in runs]
    blank = "" if runs else empty("No detector can align yet", NONE_YET)
    return gr.Dropdown(choices=choices, value=start), *images(studio, start), blank


def images(studio: Studio, train_run: int | None) -> tuple[Any, Any]:
    """The images of the snapshot that the detector was trained on, those with a caption first."""
    if not train_run:
        return gr.Dropdown(choices=[], value=None), gr.Dropdown(choices=[], value=None)
    snapshot = studio.store.snapshots.get(_snapshot(studio, int(train_run)))
    _, samples = studio.store.snapshots.samples(snapshot)
    there = [sample for sample in samples if sample.image.digest]
    there.sort(key=lambda sample: not any(one.parent_id is None and one.holds for one in sample.phrases))
    names = [sample.image.file_name for sample in there[:FILES]]
    first = next(iter(names), None)
    return gr.Dropdown(choices=names, value=first), captions(studio, train_run, first)


def captions(studio: Studio, train_run: int | None, name: str | None) -> Any:
    """What is said of an image; other words may be typed."""
    if not train_run or not name:
        return gr.Dropdown(choices=[], value=None)
    _, said = aligning.captions_of(studio, _snapshot(studio, int(train_run)), name)
    return gr.Dropdown(choices=said, value=next(iter(said), None))


def _snapshot(studio: Studio, train_run: int) -> int:
    return int(studio.store.ledger.run(train_run).options["snapshot_id"])


def question(studio: Studio, train_run: int | None, name: str | None, caption: str | None) -> tuple[Any, ...]:
    """Ask; what was asked before is shown at once, else a worker answers."""
    if not train_run or not name:
        raise WinnowError("Choose a detector and an image first.")
    snapshot = _snapshot(studio, int(train_run))
    run = aligning.align(studio, train_run=int(train_run), snapshot=snapshot, file_name=name, caption=caption)
    return str(run.id), *ticked(studio, str(run.id))


def ticked(studio: Studio, asked: str) -> tuple[Any, Any]:
    """The answer as far as it is there."""
    run = studio.store.ledger.run(int(asked))
    return _told(studio, run), gr.Timer(active=not run.state.ended)


def _told(studio: Studio, run: Run) -> Html:
    if run.error:
        return tag("div", str(run.error).strip().rsplit("\n", 1)[-1], class_="w-banner bad")
    if run.state is not State.DONE:
        return tag("p", "A worker is looking…", class_="w-quiet")
    return aligning.picture(alignments.kept(studio.store, run)[0])

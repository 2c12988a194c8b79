"""Attention: where a model looks for a phrase, before and after it was taught to."""

from __future__ import annotations

from typing import Any

import gradio as gr

from db.errors import WinnowError
from db.records import Run, RunKind, State
from engine import heatmaps
from engine.heatmaps import Heatmaps
from studio import actions, attending, comparing
from studio.components.compare import STYLE
from studio.components.grid import grid
from studio.context import Studio
from studio.markup import Html, empty, join, section, tag
from studio.pages.common import LOUD, QUIET, asked_number, bound, heading, on_load

title, path = "Attention", "attention"
SHOWN = 24  # phrases a page
CHOOSE = tag("p", "Choose a phrase to see it large, and to look for other words on its image.", class_="w-quiet")
RUNS = 100  # evaluations to choose from
LOOK = 1.5  # seconds between two looks at a question
NONE_YET = "Train the preset tiny_blip (or blip_itm_base, albef) on a snapshot with phrases, then evaluate it on a split: the Train page does both."


def page(studio: Studio) -> None:
    """Which runs and which of their phrases at the top; the phrases; beside them one in full, and a question of one's own."""
    lead = "Where a model looks to find that a phrase matches an image: light is where it looks, the mark is its strongest point."
    heading("Attention", lead, help="train", style=STYLE)
    with gr.Row(elem_classes="w-line"):
        first = gr.Dropdown(label="Evaluation", choices=[], interactive=True, scale=3)
        second = gr.Dropdown(label="Beside it, of the same split", choices=[], interactive=True, scale=3)
        which = gr.Dropdown(label="Phrases", choices=[], interactive=True, scale=2, min_width=160)
        words = gr.Textbox(label="With the words", scale=2, min_width=120)
    picked, asked, timer = gr.Textbox(visible=False), gr.Textbox(visible=False), gr.Timer(LOOK, active=False)
    with gr.Row():
        with gr.Column(scale=6):
            sheet = grid("Phrases")
        with gr.Column(scale=5, min_width=340, elem_classes="w-side"):
            detail = grid("The phrase in full")
            with gr.Row(elem_classes="w-line", visible=False) as form:
                text = gr.Textbox(label="Look for something else on this image", placeholder="the blue bowl", scale=5)
                ask = gr.Button("Look", variant="primary", scale=1, min_width=90)
            answer = grid("The answer")

    def do(action: Any) -> Any:
        return bound(studio, action)

    told = [first, second, which, words]
    shown = [sheet, detail, picked, form]
    first.change(do(chosen), [first, second, words], [second, which, *shown], **QUIET)
    second.change(do(chosen), [first, second, words], [second, which, *shown], **QUIET)
    for control in (which, words):
        control.change(do(sought), told, shown, trigger_mode="always_last", **QUIET)
    sheet.pick(do(picked_one), [first, second], [detail, picked, form, asked, answer], **QUIET)
    sheet.turn(do(turned), told, [sheet], **QUIET)
    ask.click(do(question), [first, second, picked, text], [asked, answer, timer], **LOUD)
    text.submit(do(question), [first, second, picked, text], [asked, answer, timer], **LOUD)
    timer.tick(do(ticked), [asked], [answer, timer], **QUIET)
    on_load(studio, opened, [first, second, which, *shown])


def with_maps(studio: Studio) -> list[Run]:
    """The finished evaluations that have heat maps of a whole split, newest first."""
    runs = studio.store.ledger.runs(kind=RunKind.EVALUATE, state=State.DONE, limit=RUNS)
    return [run for run in runs if "heatmaps" in run.result and "pointing" in run.result]


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page as it is opened: on the evaluation named in the address (`?run=`), else on the newest."""
    runs = with_maps(studio)
    wanted = asked_number(request, "run")
    ids = [run.id for run in runs]
    start = wanted if wanted in ids else next(iter(ids), None)
    choices = [(_named(studio, run), run.id) for run in runs]
    return gr.Dropdown(choices=choices, value=start), *chosen(studio, start, None, "")


def _named(studio: Studio, run: Run) -> str:
    training = studio.store.ledger.run(int(run.options["train_run_id"]))
    snapshot = studio.store.snapshots.get(int(training.options["snapshot_id"]))
    return f"run {run.id}: trained on {snapshot.name}, {run.options['split']}, pointing {run.result['pointing']:.3f}"


def chosen(studio: Studio, first: int | None, second: int | None, words: str) -> tuple[Any, ...]:
    """The runs that can stand beside the first, the cuts of their phrases, and the phrases of the first cut."""
    if not first:
        return gr.Dropdown(choices=[]), gr.Dropdown(choices=[]), *_sheet(studio, None, None, "", words)
    beside = [run for run in with_maps(studio) if run.id != int(first) and _same(studio, int(first), run)]
    other = int(second) if second in [run.id for run in beside] else None
    cuts = _cuts(studio, int(first), other)
    choices = [(f"{name} ({len(places)})", name) for name, places in cuts.items()]
    which = next(name for name, places in cuts.items() if places or name == next(reversed(cuts)))
    return (
        gr.Dropdown(choices=[("nothing", 0), *((_named(studio, run), run.id) for run in beside)], value=other or 0),
        gr.Dropdown(choices=choices, value=which),
        *_sheet(studio, int(first), other, which, words),
    )


def _same(studio: Studio, first: int, other: Run) -> bool:
    """Whether both were asked the same."""
    run = studio.store.ledger.run(first)
    return all(run.options[name] == other.options[name] for name in ("snapshot_id", "split"))


def _maps(studio: Studio, run_id: int) -> Heatmaps:
    return heatmaps.kept(studio.store, studio.store.ledger.run(run_id))


def _cuts(studio: Studio, first: int, second: int | None) -> dict[str, list[int]]:
    maps = _maps(studio, first)
    found = attending.changed(maps, _maps(studio, second)) if second else attending.alone(maps)
    return {"all": list(range(len(maps.asked))), **found}


def sought(studio: Studio, first: int | None, second: int | None, which: str | None, words: str) -> tuple[Any, ...]:
    return _sheet(studio, first, second or None, which or "all", words)


def turned(studio: Studio, first: int, second: int | None, which: str | None, words: str, event: gr.EventData) -> Html:
    return _page(studio, first, second or None, which or "all", words, int(event._data["trail"]))


def _sheet(studio: Studio, first: int | None, second: int | None, which: str, words: str) -> tuple[Any, ...]:
    """The phrases, and nothing in full yet."""
    if not first:
        return empty("No heat maps yet", NONE_YET), "", "", gr.Row(visible=False)
    return _page(studio, first, second, which, words, 1), CHOOSE, "", gr.Row(visible=False)


def _page(studio: Studio, first: int, second: int | None, which: str, words: str, page: int) -> Html:
    maps = _maps(studio, second or first)
    asked = words.strip().lower()
    places = [place for place in _cuts(studio, first, second).get(which, []) if asked in maps.asked[place].text.lower()]
    if not places:
        return empty("No such phrase", "Choose others above, or ask for fewer words.")
    part = places[(page - 1) * SHOWN : page * SHOWN]
    label = f"run {second or first}"
    shown = attending.thumbnails([(place, attending.look(label, maps, place)) for place in part])
    return join(shown, comparing.turn(page, -(-len(places) // SHOWN)))


def picked_one(studio: Studio, first: int, second: int | None, event: gr.EventData) -> tuple[Any, ...]:
    """The phrase in full; what was asked about another one goes."""
    place = int(event._data["id"])
    return _large(studio, first, second or None, place), str(place), gr.Row(visible=True), "", ""


def _large(studio: Studio, first: int, second: int | None, place: int) -> Html:
    runs = [int(one) for one in (first, second) if one]
    looks = [attending.look(f"run {one}", _maps(studio, one), place) for one in runs]
    return section(looks[0].asked.text, attending.side_by_side(looks))


# Questions


def question(studio: Studio, first: int | None, second: int | None, picked: str, text: str) -> tuple[Any, ...]:
    """Ask the models of the chosen runs where they see something on the picked image; a worker answers."""
    if not first or not picked:
        raise WinnowError("Choose a phrase above first: its image is the one that is looked at.")
    image = _maps(studio, int(first)).asked[int(picked)].image_id
    evaluations = [studio.store.ledger.run(int(one)) for one in (first, second) if one]
    made = [
        actions.start_attend(
            studio,
            train_run=int(run.options["train_run_id"]),
            snapshot=int(run.options["snapshot_id"]),
            image_id=image,
            text=text,
        )
        for run in evaluations
    ]
    return ",".join(str(run.id) for run in made), *ticked(studio, ",".join(str(run.id) for run in made))


def ticked(studio: Studio, asked: str) -> tuple[Any, Any]:
    """The answers as far as they are there."""
    runs = [studio.store.ledger.run(int(one)) for one in asked.split(",") if one]
    wrong = [run for run in runs if run.error]
    if wrong:
        return tag("div", str(wrong[0].error).strip().rsplit("\n", 1)[-1], class_="w-banner bad"), gr.Timer(
            active=False
        )
    if not all(run.state.ended for run in runs):
        return tag("p", "A worker is looking…", class_="w-quiet"), gr.Timer(active=True)
    looks = [attending.look(_of(run), heatmaps.kept(studio.store, run), 0) for run in runs if run.state is State.DONE]
    return attending.side_by_side(looks), gr.Timer(active=False)


def _of(run: Run) -> str:
    return f"the model of run {run.options['train_run_id']}"

"""Jobs: what runs, what ran, what went wrong, and the buttons for it."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from db.errors import WinnowError
from db.records import LogLine, Run, RunKind, State
from engine.ablation import ablation_of
from studio import actions, tables
from studio.components.grid import grid
from studio.context import Studio
from studio.markup import Html, empty, join, section, tag
from studio.pages.common import LOUD, QUIET, asked_number, bound, heading, html, on_load

title, path = "Jobs", "jobs"
RUNS = 60
LOG_LINES = 200
BUSY, IDLE = 1.5, 6.0  # seconds between two looks
NEXT_PAGE = {
    RunKind.GENERATE: "/review?dataset={dataset}&run={run}",
    RunKind.TRAIN: "/train?run={run}",
    RunKind.EVALUATE: "/compare?runs={run}",
}
NEXT_WORD = {
    RunKind.GENERATE: "Review its candidates",
    RunKind.TRAIN: "Watch it on Train",
    RunKind.EVALUATE: "See it on Compare",
}


def page(studio: Studio) -> None:
    """All runs, newest first; the chosen one with its shards, log and buttons below."""
    heading(
        "Jobs", "Everything that was started here, newest first. A run survives a restart: it goes on where it was."
    )
    presence = html()
    listing = grid("Runs", max_height=330)
    chosen = gr.Number(visible=False, precision=0)
    with gr.Row(elem_classes="w-line") as controls:
        with gr.Column(scale=9):
            about = html()
        buttons = {
            verb: gr.Button(verb.capitalize(), scale=1, min_width=86) for verb in ("pause", "resume", "cancel", "retry")
        }
    with gr.Row():
        with gr.Column(scale=8):
            detail = html()
        with gr.Column(scale=4, min_width=320):
            started = html()
    timer = gr.Timer(BUSY)

    def do(action: Any) -> Any:
        return bound(studio, action)

    shown = [presence, listing, controls, about, *buttons.values(), detail, started, timer]
    for verb, button in buttons.items():
        button.click(do(ACTS[verb]), [chosen], shown, **LOUD)
    listing.pick(do(picked), None, [chosen, *shown], **QUIET)
    timer.tick(do(refresh), [chosen], shown, **QUIET)
    on_load(studio, opened, [chosen, *shown])


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page as it is opened: the run named in the address (`?run=`), or the newest."""
    newest = studio.store.ledger.runs(limit=1)
    chosen = asked_number(request, "run") or (newest[0].id if newest else None)
    return chosen, *refresh(studio, chosen)


def picked(studio: Studio, event: gr.EventData) -> tuple[Any, ...]:
    chosen = int(event._data["id"])
    return chosen, *refresh(studio, chosen)


def refresh(studio: Studio, chosen: int | None) -> tuple[Any, ...]:
    """The whole page, on the chosen run; looks again soon while something moves, and now and then otherwise."""
    runs = studio.store.ledger.runs(limit=RUNS)
    waiting = sum(run.state is State.QUEUED for run in runs)
    moving = any(not run.state.ended for run in runs)
    presence = tables.presence(studio.store.ledger.workers(), waiting, time.time())
    timer = gr.Timer(BUSY if moving else IDLE)
    if not runs:
        nothing = empty("Nothing was started yet", "Choose a recipe on Generate, or train on a snapshot on Train.")
        return presence, nothing, gr.Row(visible=False), "", *[gr.Button()] * len(ACTS), "", "", timer
    run = studio.store.ledger.run(int(chosen or runs[0].id))
    return (
        presence,
        tables.runs(runs, time.time(), run.id),
        gr.Row(visible=True),
        _about(run),
        *_buttons(run),
        *_detail(studio, run),
        timer,
    )


def _about(run: Run) -> Html:
    links = [[" · " if at else None, tag("a", word, href=to)] for at, (word, to) in enumerate(_onward(run))]
    return join(tag("h2", f"Run {run.id}: {run.title}"), tag("p", links) if links else None)


def _onward(run: Run) -> list[tuple[str, str]]:
    """Where there is more about a run: (words, address)."""
    address = NEXT_PAGE.get(run.kind, "").format(dataset=run.dataset_id, run=run.id)
    found = [(NEXT_WORD[run.kind], address)] if address else []
    if run.kind is RunKind.EVALUATE and run.state is State.DONE:
        found.append(("Why: what its AP rests on", f"/why?evaluation={run.id}"))
    key = ablation_of(run)
    return [*found, ("The ablation it is a part of", f"/compare?ablation={key}")] if key else found


def _buttons(run: Run) -> list[Any]:
    """Only what can be done to the run in its state can be pressed."""
    return [gr.Button(interactive=verb in possible(run)) for verb in ACTS]


def possible(run: Run) -> set[str]:
    """What a person may do to a run now."""
    if run.state.ended:
        return {"retry"} if run.state in (State.FAILED, State.CANCELLED) else set()
    if run.cancel_requested:
        return set()
    return {"cancel", "resume" if run.pause_requested else "pause"}


def _detail(studio: Studio, run: Run) -> tuple[Html, Html]:
    ledger = studio.store.ledger
    shards = ledger.shards(run.id)
    error = tag("div", run.error, class_="w-banner bad") if run.error else None
    dataset = next((one.name for one in studio.store.datasets.list() if one.id == run.dataset_id), "")
    parts = (
        section("Shards", tables.shards(shards)) if len(shards) > 1 or any(shard.error for shard in shards) else None
    )
    log = section("Log", tables.log(_tail(studio, run.id)))
    return join(error, parts, log), section("Started with", tables.settings(run, dataset))


def _tail(studio: Studio, run_id: int) -> list[LogLine]:
    """The last lines of the log."""
    after = 0
    lines: list[LogLine] = []
    while part := studio.store.ledger.logs(run_id, after=after, limit=1000):
        lines, after = [*lines, *part][-LOG_LINES:], part[-1].id
    return lines


def _act(verb: str) -> Any:
    def act(studio: Studio, chosen: int | None) -> tuple[Any, ...]:
        if not chosen:
            raise WinnowError("Choose a run in the list first.")
        getattr(actions, verb)(studio, int(chosen))
        return refresh(studio, chosen)

    return act


ACTS = {verb: _act(verb) for verb in ("pause", "resume", "cancel", "retry")}

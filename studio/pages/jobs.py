"""Jobs: what runs, what ran, what went wrong, and the buttons for it."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr

from db.records import Run, State
from studio import actions
from studio.context import Studio
from studio.pages.common import LOUD, QUIET, Html, empty, heading, on_load, progress_bar, state, table, told

title, path = "Jobs", "jobs"
LOG_LINES = 200


def page(studio: Studio) -> None:
    heading("Jobs", "Everything that was started here, newest first.")
    presence, listing = gr.HTML(), gr.HTML()
    with gr.Row():
        chosen = gr.Dropdown(label="Run", choices=[], interactive=True, scale=3)
        buttons = {verb: gr.Button(verb.capitalize(), size="sm") for verb in ("pause", "resume", "cancel", "retry")}
    detail = gr.HTML()
    timer = gr.Timer(1.5)

    def refresh(selected: int | None) -> tuple[str, str, Any, str]:
        runs = studio.store.ledger.runs(limit=50)
        choices = [(f"{run.id}: {run.title} ({run.state})", run.id) for run in runs]
        picked = selected if any(run.id == selected for run in runs) else (runs[0].id if runs else None)
        return _presence(studio), _listing(runs), gr.Dropdown(choices=choices, value=picked), _detail(studio, picked)

    outputs = [presence, listing, chosen, detail]
    for verb, button in buttons.items():
        action = getattr(actions, verb)

        def act(selected: int | None, action: Any = action) -> tuple[str, str, Any, str]:
            if selected:
                action(studio, int(selected))
            return refresh(selected)

        button.click(told(act), [chosen], outputs, **LOUD)
    chosen.input(lambda selected: _detail(studio, selected), [chosen], [detail], **QUIET)
    timer.tick(refresh, [chosen], outputs, **QUIET)
    on_load(lambda: refresh(None), outputs)


def _presence(studio: Studio) -> str:
    workers = studio.store.ledger.workers()
    if not workers:
        return "<p>No worker is running, so nothing moves: start one with <code>winnow worker</code>.</p>"
    ago = time.time() - workers[0].seen_at
    busy = sum(worker.run_id is not None for worker in workers)
    if ago > 60:
        return f"<p>Waiting for a worker: none was seen for {ago / 60:.0f} minutes. Start one with <code>winnow worker</code>.</p>"
    return f"<p>{len(workers)} worker(s), {busy} busy; last heard of {max(0, ago):.0f} s ago.</p>"


def _listing(runs: list[Run]) -> str:
    if not runs:
        return empty("Nothing was started yet. Choose a recipe on Generate, or a snapshot on Train.")
    rows = [(r.id, r.kind, r.title, state(r), progress_bar(r), f"{r.done} / {r.total}", _took(r)) for r in runs]
    return table(("Run", "Kind", "What", "State", "", "Done", "Time"), rows)


def _took(run: Run) -> str:
    """How long it took, or how long it may still take at its pace so far."""
    if run.started_at is None:
        return ""
    spent = (run.ended_at or time.time()) - run.started_at
    if run.state is State.RUNNING and 0 < run.done < run.total:
        return f"{_clock(spent)}, about {_clock(spent / run.done * (run.total - run.done))} left"
    return _clock(spent)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _detail(studio: Studio, run_id: int | None) -> str:
    if not run_id:
        return ""
    ledger = studio.store.ledger
    run = ledger.run(int(run_id))
    shards = [(s.number, s.state, s.attempt, f"{s.done} / {s.total}", (s.error or "").strip().split("\n")[-1]) for s in ledger.shards(run.id)]
    lines = ledger.logs(run.id, limit=10_000)[-LOG_LINES:]
    log = "\n".join(f"{time.strftime('%H:%M:%S', time.localtime(line.at))} {line.level:7} {line.text}" for line in lines)
    error = f"<p><b>{escape(run.error)}</b></p>" if run.error else ""
    settings = ", ".join(f"{key} {value}" for key, value in run.options.items() if value is not None)
    told_of = f"<p>seed {run.seed}; {escape(settings)}</p>"
    table_of = table(("Shard", "State", "Attempt", "Done", "Error"), shards) if len(shards) > 1 or error else ""
    return Html(f'<h3>Run {run.id}: {escape(run.title)}</h3>{error}{told_of}{table_of}<pre class="log">{escape(log) or "No log lines."}</pre>')

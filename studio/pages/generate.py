"""Generate: choose a recipe, look at a preview, queue the whole."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from db.errors import WinnowError
from db.records import Candidate, Run, RunKind, Score
from engine.packs import packs
from engine.recipe import load, recipes
from engine.runs import PREVIEW
from studio import actions
from studio.context import Studio
from studio.pages.common import LOUD, QUIET, Html, empty, heading, on_load, progress_bar, state, table, told

title, path = "Generate", "generate"


def page(studio: Studio) -> None:
    heading("Generate", "A recipe makes candidates: texts that are almost true, images with new instances. You judge them on Review.")
    names = [recipe.name for recipe in recipes()]
    with gr.Row():
        with gr.Column(scale=2):
            dataset = gr.Dropdown(label="Data set", choices=[], interactive=True)
            recipe = gr.Dropdown(names, value="gen2det", label="Recipe", interactive=True)
            pack = gr.Dropdown([(p.title, p.name) for p in packs()], value="classic", label="Model pack", interactive=True)
            with gr.Row():
                amount = gr.Number(100, label="Targets (0: all)", precision=0, minimum=0)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            with gr.Row():
                preview = gr.Button(f"Preview {PREVIEW}")
                queue = gr.Button("Queue all", variant="primary")
        with gr.Column(scale=3):
            about = gr.HTML()
            with gr.Accordion("The recipe file", open=False):
                text = gr.Code(language="yaml", interactive=False)
    said = gr.HTML()
    run_id = gr.Number(visible=False, precision=0)
    shown = gr.HTML()
    timer = gr.Timer(1.0, active=False)

    def opened() -> Any:
        known = [d.name for d in studio.store.datasets.list()]
        return gr.Dropdown(choices=known, value=known[-1] if known else None)

    def described(name: str) -> tuple[str, str]:
        chosen = load(name)
        rows = [("Makes", chosen.summary), ("Needs", chosen.needs), ("Costs", chosen.cost), ("Scores", ", ".join(chosen.filters))]
        return f"<h3>{escape(chosen.title)}</h3>" + table(("", ""), rows), chosen.text

    def start(dataset: str | None, recipe: str, pack: str, amount: int, seed: int, preview: bool) -> tuple[str, int, str, Any]:
        if not dataset:
            raise WinnowError("There is no data set yet. Import one, or load the demo, on the Datasets page.")
        run = actions.start_recipe(
            studio, dataset=dataset, recipe=recipe, pack=pack, amount=int(amount) or None, seed=int(seed), preview=preview
        )
        waiting = "" if actions.has_worker(studio) else " No worker is running: start one with <code>winnow worker</code>."
        link = f'<a href="/review?dataset={run.dataset_id}&run={run.id}">Review its candidates</a>'
        return f"<p>Run {run.id} is queued.{waiting} {link}</p>", run.id, "", gr.Timer(active=True)

    def watch(run_id: int | None) -> tuple[str, Any]:
        if not run_id:
            return "", gr.Timer(active=False)
        run = studio.store.ledger.run(int(run_id))
        followers = studio.store.ledger.followers(run.id)
        over = all(one.state.ended for one in (run, *followers))
        return _progress([run, *followers]) + _preview(studio, run), gr.Timer(active=not over)

    recipe.change(described, [recipe], [about, text], **QUIET)
    inputs, outputs = [dataset, recipe, pack, amount, seed], [said, run_id, shown, timer]
    preview.click(told(lambda *v: start(*v, preview=True)), inputs, outputs, **LOUD)
    queue.click(told(lambda *v: start(*v, preview=False)), inputs, outputs, **LOUD)
    timer.tick(watch, [run_id], [shown, timer], **QUIET)
    on_load(lambda: (opened(), *described("gen2det")), [dataset, about, text])


def _progress(runs: list[Run]) -> str:
    rows = [(run.title, state(run), progress_bar(run), f"{run.done} / {run.total}", run.error or "") for run in runs]
    return table(("Run", "State", "", "Done", ""), rows)


def _preview(studio: Studio, run: Run) -> str:
    """The first candidates of the run: before and after side by side, texts, scores with the policy's word."""
    ids = studio.store.review.candidate_ids(run.id)[: 2 * PREVIEW]
    if not ids:
        ended = run.kind is RunKind.GENERATE and run.state.ended
        return empty("The run made no candidate; its log on the Jobs page says why.") if ended else ""
    scores = studio.store.review.scores_of(ids)
    policies = studio.store.review.policies(run.dataset_id or 0)
    cards = [_card(studio, one, scores[one.id], policies) for one in studio.store.review.candidates(ids)]
    return f'<h3>First candidates</h3><div class="winnow-grid">{"".join(cards)}</div>'


def _card(studio: Studio, candidate: Candidate, scores: list[Score], policies: Any) -> str:
    policy = policies.get(candidate.run_id)
    values = {score.filter: score.value for score in scores}
    said = policy.decide(candidate.kind, values) if policy else None
    word = {True: "policy accepts", False: "policy rejects", None: "not decided"}[said]
    before = studio.store.datasets.image(candidate.image_id)
    digests = [digest for digest in (before.digest, candidate.digest) if digest]
    images = "".join(f'<img src="/media/thumb/{digest}?size=320" alt="">' for digest in digests)
    texts = f"{escape(candidate.text_before or '')} &rarr; <b>{escape(candidate.text_after)}</b>" if candidate.text_after else ""
    told_scores = ", ".join(f"{name} {value:.2f}" if value is not None else f"{name} ?" for name, value in values.items())
    pair = Html(f'<div class="winnow-pair">{images}</div>')
    return f'<figure>{pair}<figcaption style="white-space:normal">{texts}<br>{word}<br><small>{escape(told_scores)}</small></figcaption></figure>'

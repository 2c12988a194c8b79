"""Generate: choose a recipe, look at a preview, queue the whole."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from db.records import Run, RunKind
from engine.diversity import of_run
from engine.packs import DEFAULT_PACK, load_pack, packs
from engine.recipe import load, recipes
from engine.runs import PREVIEW, outlook
from studio import actions, pictures, tables, views
from studio.context import Studio
from studio.markup import Html, empty, join, section, table, tag
from studio.pages.common import LOUD, QUIET, asked, bound, dataset_choice, heading, html, on_load, required_dataset

title, path = "Generate", "generate"
AMOUNT = 100
HINT = empty(
    "Look before you queue",
    f"Preview makes the candidates of {PREVIEW} targets and scores them, in seconds; Queue all makes the rest in the background.",
)


def page(studio: Studio) -> None:
    """A form and what the recipe says at the top; below them the run that was started last."""
    heading(
        "Generate",
        "A recipe makes candidates: texts that are almost true, images with new instances. Nothing is used until it is accepted.",
    )
    known, known_packs = recipes(), packs(studio.home)
    with gr.Row():
        with gr.Column(scale=5):
            dataset = gr.Dropdown(label="Data set", choices=[], interactive=True)
            recipe = gr.Dropdown(
                [(r.title, r.name) for r in known], value=known[0].name, label="Recipe", interactive=True
            )
            pack = gr.Dropdown(
                [(p.title, p.name) for p in known_packs],
                value=known_packs[0].name,
                label="Model pack",
                interactive=True,
            )
            with gr.Row():
                amount = gr.Number(AMOUNT, label="Targets (0: all)", precision=0, minimum=0, min_width=120)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120)
            with gr.Accordion("Until enough is accepted", open=False):
                accepted = gr.Number(0, label="Accepted of each class (0: off)", precision=0, minimum=0)
                classes = gr.Textbox("", label="Classes, with commas (empty: the rare ones)", max_lines=1)
                with gr.Row():
                    candidates = gr.Number(500, label="At most candidates", precision=0, minimum=1, min_width=120)
                    minutes = gr.Number(60, label="At most minutes", minimum=0, min_width=120)
            with gr.Row():
                preview = gr.Button(f"Preview {PREVIEW}", min_width=120)
                everything = gr.Button("Queue all", variant="primary", min_width=120)
        with gr.Column(scale=7):
            about = html()
            with gr.Accordion("The recipe file", open=False):
                text = gr.Code(language="yaml", interactive=False, show_label=False)
    run_id = gr.Number(visible=False, precision=0)
    shown = html(HINT)
    timer = gr.Timer(1.0, active=False)

    def do(action: Any) -> Any:
        return bound(studio, action)

    form, watched = [dataset, recipe, pack, amount, seed], [shown, timer]
    quota = [accepted, classes, candidates, minutes]
    for change in (recipe.change, pack.change):
        change(do(described), [recipe, pack], [about, text], **QUIET)
    preview.click(do(start_preview), form, [run_id, *watched], **LOUD)
    everything.click(do(start_all), [*form, *quota], [run_id, *watched], **LOUD)
    timer.tick(do(watch), [run_id, amount], watched, **QUIET)
    on_load(studio, opened, [dataset, recipe, about, text])


def opened(studio: Studio, request: gr.Request) -> tuple[Any, Any, Html, str]:
    """The data set and the recipe that the address names (`/generate?recipe=synground`), else the first."""
    known, wanted = [one.name for one in recipes()], asked(request, "recipe")
    chosen = wanted if wanted in known else known[0]
    dataset = dataset_choice(studio, asked(request, "dataset"))
    return dataset, gr.Dropdown(value=chosen), *described(studio, chosen, DEFAULT_PACK)


def described(studio: Studio, recipe: str, pack: str) -> tuple[Html, str]:
    """What the recipe makes, needs and costs, and its file."""
    chosen = load(recipe)
    return tables.recipe(chosen, load_pack(pack, studio.home)), chosen.text


def start_preview(
    studio: Studio, dataset: str | None, recipe: str, pack: str, amount: int, seed: int
) -> tuple[int, Html | str, Any]:
    """Make the first few candidates of what the form says."""
    return _start(studio, dataset, recipe, pack, None, seed, preview=True)


def start_all(
    studio: Studio,
    dataset: str | None,
    recipe: str,
    pack: str,
    amount: int,
    seed: int,
    accepted: int = 0,
    classes: str = "",
    candidates: int = 0,
    minutes: float = 0,
) -> tuple[int, Html | str, Any]:
    """Queue everything that the form says."""
    quota = None
    if accepted:
        names = [name.strip() for name in classes.split(",") if name.strip()]
        budget = {"candidates": int(candidates or 0) or None, "minutes": float(minutes or 0) or None}
        quota = {"accepted": int(accepted), "classes": names, **budget}
    return _start(studio, dataset, recipe, pack, int(amount or 0) or None, seed, preview=False, quota=quota)


def _start(
    studio: Studio,
    dataset: str | None,
    recipe: str,
    pack: str,
    amount: int | None,
    seed: int,
    *,
    preview: bool,
    quota: dict[str, Any] | None = None,
) -> tuple[int, Html | str, Any]:
    run = actions.start_recipe(
        studio,
        dataset=required_dataset(dataset),
        recipe=recipe,
        pack=pack,
        amount=amount,
        seed=int(seed or 0),
        preview=preview,
        quota=quota,
    )
    return run.id, *watch(studio, run.id, amount)


def watch(studio: Studio, run_id: int | None, amount: int | None = None) -> tuple[Html | str, Any]:
    """The run with its scoring, how far they are, and its first candidates; the timer stops when both have ended."""
    if not run_id:
        return "", gr.Timer(active=False)
    run = studio.store.ledger.run(int(run_id))
    stages = [run, *studio.store.ledger.followers(run.id)]
    over = all(one.state.ended for one in stages)
    waiting = not over and not actions.has_worker(studio)
    banner = tables.presence(studio.store.ledger.workers(), 1, time.time()) if waiting else None
    figures = _figures(studio, run, amount if over else None)
    return join(banner, _stages(run, stages), figures, _candidates(studio, run)), gr.Timer(active=not over)


def _figures(studio: Studio, run: Run, amount: int | None) -> Html | None:
    """What was made and spent, and what the whole would take: of all targets, or of as many as the form says."""
    if "candidates" not in run.result:
        return None
    told = views.outcome(studio.store, run)
    if run.options.get("preview") and amount and (guess := outlook(studio.store, run, int(amount))):
        told = [*told[:-1], views.forecast(guess).replace("All ", "The ", 1)]
    found = of_run(studio.store, run.id)
    lines = [tag("p", " ".join(told)), *([tag("p", " ".join(views.variety(found)))] if found.negatives else [])]
    return section("What came of it", *lines)


def _stages(run: Run, stages: list[Run]) -> Html:
    rows = [
        (one.title, tables.state(one), tables.bar(one), f"{one.done:,} / {one.total:,}", one.error or "")
        for one in stages
    ]
    links = tag(
        "p",
        tag("a", "Review its candidates", href=f"/review?dataset={run.dataset_id}&run={run.id}"),
        " or ",
        tag("a", f"look at run {run.id} in Jobs", href=f"/jobs?run={run.id}"),
    )
    return section(f"Run {run.id}", table(("Stage", "State", "Progress", "Done", ""), rows), links)


def _candidates(studio: Studio, run: Run) -> Html | None:
    """The first candidates, in small."""
    ids = studio.store.review.candidate_ids(run.id)[: 2 * PREVIEW]
    if not ids:
        failed = run.kind is RunKind.GENERATE and run.state.ended
        return (
            empty("The run made no candidate", f"The log of run {run.id} on the Jobs page says why.")
            if failed
            else None
        )
    cards = views.cards(studio.store, studio.store.review.candidates(ids))
    return section("First candidates", tag("div", [pictures.candidate(card) for card in cards], class_="w-cards"))

"""Commands that generate candidates and tell what became of them."""

from __future__ import annotations

from typing import Annotated

import typer

from db.errors import WinnowError
from db.records import Kind
from engine.packs import DEFAULT_PACK
from engine.recipe import names as recipe_names
from studio import actions
from studio.commands.common import (
    Home,
    Json,
    Seed,
    Wait,
    console,
    follow,
    show,
    studio_at,
    told,
)

app = typer.Typer()


@app.command("run")
def run_recipe(
    recipe: Annotated[
        str, typer.Argument(help=f"a shipped recipe ({', '.join(recipe_names())}) or a .yaml file of yours")
    ],
    dataset: Annotated[str, typer.Option(help="name of the data set")],
    pack: Annotated[str, typer.Option(help="model pack; `winnow doctor` says which can run here")] = DEFAULT_PACK,
    amount: Annotated[int | None, typer.Option(min=1, help="how many targets (default: all)")] = None,
    preview: Annotated[bool, typer.Option(help="only the first four, and what the whole would take")] = False,
    accept: Annotated[int | None, typer.Option(min=1, help="go on until so many are accepted of each class")] = None,
    classes: Annotated[str, typer.Option(help="classes of --accept, with commas (default: the rare ones)")] = "",
    max_candidates: Annotated[int | None, typer.Option(min=1, help="budget of --accept")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="budget of --accept")] = None,
    max_cost: Annotated[float | None, typer.Option(help="budget of --accept, by the prices of the endpoint")] = None,
    seed: Seed = 0,
    wait: Wait = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Generate candidates with a recipe and score them with its filters.

    Example: `winnow run gen2det --dataset bccd --pack classic --amount 200`, or, for rare classes,
    `winnow run gen2det --dataset bccd --pack classic --accept 20 --classes Platelets --max-candidates 100`
    """
    names = [name.strip() for name in classes.split(",") if name.strip()]
    budget = {"candidates": max_candidates, "minutes": max_minutes, "cost": max_cost}
    if accept is None and (names or any(budget.values())):
        raise WinnowError("--classes and the --max options belong to --accept; name how many you want accepted.")
    quota = {"accepted": accept, "classes": names, **budget} if accept is not None else None
    with studio_at(home) as studio:
        run = actions.start_recipe(
            studio, dataset=dataset, recipe=recipe, pack=pack, amount=amount, seed=seed, preview=preview, quota=quota
        )
        follow(studio, run, wait)
        finished = studio.store.ledger.run(run.id)
        show(finished, as_json, told(studio.store, finished))


@app.command()
def again(
    candidate: Annotated[int, typer.Argument(help="id of a candidate, as Review shows it")],
    wording: Annotated[str | None, typer.Option(help="what to paint, or the negative text, in your own words")] = None,
    amount: Annotated[int, typer.Option(min=1, max=64, help="how many more")] = 1,
    wait: Wait = True,
    home: Home = None,
) -> None:
    """Make a candidate once more, with another seed or wording, as a new variant of the same target."""
    with studio_at(home) as studio:
        run = actions.start_again(studio, candidate, wording=wording, amount=amount)
        follow(studio, run, wait)
        console.print(told(studio.store, studio.store.ledger.run(run.id)), highlight=False, markup=False)


@app.command()
def report(
    run: Annotated[int, typer.Argument(help="id of a generate run")], home: Home = None, as_json: Json = False
) -> None:
    """What policy and people accepted, where they differ, what it cost, and how varied the negative texts are."""
    from engine import run_report
    from engine.diversity import of_run
    from studio.views import variety

    with studio_at(home) as studio:
        found, texts = run_report.report(studio.store, run), of_run(studio.store, run)
    told = [*run_report.lines(found), *(variety(texts) if texts.negatives else [])]
    show({"report": found, "texts": texts}, as_json, "\n".join(told))


@app.command()
def learn(
    dataset: str,
    kind: Annotated[Kind, typer.Option(help="which candidates")] = Kind.INSTANCE,
    seed: Seed = 0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Fit the learned filter on the verdicts given so far, and say whether it beats the best single filter."""
    from engine import learned
    from engine.filters import FILTERS

    with studio_at(home) as studio:
        chosen = studio.store.datasets.get(dataset)
        rules = [one.default for one in FILTERS.values()]
        report = learned.learn(studio.store, chosen.id, kind, rules=rules, seed=seed).report
    show(report, as_json, report.says)


@app.command()
def rerun(
    run: Annotated[int, typer.Argument(help="id of a generate run")], wait: Wait = True, home: Home = None
) -> None:
    """Make the candidates of a run once more, from the recipe, seed and options on record."""
    with studio_at(home) as studio:
        again = actions.rerun(studio, run)
        follow(studio, again, wait)
        console.print(f"Run {again.id} repeats run {run}.")

"""People: who decided what when, how fast, how often against the policy, and how far they agree."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr
import numpy as np

from db.columns import ACCEPT, REJECT, Table, automatic
from db.people import Opinions
from db.records import Dataset, Verdict
from engine import agreement
from studio.context import Studio
from studio.markup import Html, empty, facts, join, table, tag
from studio.pages.common import (
    FIRST_STEP,
    LOUD,
    QUIET,
    asked,
    bound,
    chosen_dataset,
    heading,
    html,
    on_load,
    required_dataset,
)

title, path = "People", "people"
AWAY = 60.0  # seconds between two decisions after which a person was away
LATEST = 50
WORDS = {
    "accept": "accepted",
    "edit": "accepted with changes",
    "reject": "rejected",
    "skip": "skipped",
    "flag": "flagged",
    "undo": "took back",
}


def page(studio: Studio) -> None:
    """Figures at the left, the trail below them, and at the right how many candidates two people are to decide."""
    heading(
        "People",
        "Everybody who reviews under a name of their own (the Grid has a field for it, Review has it under ?) is told apart here: nobody is given what "
        "another has on the screen, and a share may be decided twice, neither knowing of the other.",
        help="review",
    )
    with gr.Row():
        with gr.Column(scale=7):
            dataset = gr.Dropdown(label="Data set", choices=[], interactive=True)
            shown = html()
        with gr.Column(scale=3, min_width=280):
            html(tag("div", tag("h2", "Decide twice"), class_="w-title"))
            share = gr.Slider(0, 100, value=0, step=1, label="Share of the candidates, %")
            save = gr.Button("Save", variant="primary")
            waiting = html()
    trail = html()

    def do(action: Any) -> Any:
        return bound(studio, action)

    everything = [dataset, shown, share, waiting, trail]
    dataset.input(do(chosen), dataset, everything, **QUIET)
    save.click(do(saved), [dataset, share], waiting, **LOUD)
    on_load(studio, opened, everything)


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page for the data set in the address (`?dataset=`), else that worked on last."""
    known = studio.store.datasets.list()
    return chosen(studio, chosen_dataset(studio, known, asked(request, "dataset")))


def chosen(studio: Studio, name: str | None) -> tuple[Any, ...]:
    """Everything on the page, for one data set."""
    choices = gr.Dropdown(choices=[one.name for one in studio.store.datasets.list()], value=name)
    if not name:
        return choices, empty("There is no data set yet", FIRST_STEP), 0, "", ""
    dataset = studio.store.datasets.get(name)
    people = studio.store.people
    share = round(100 * people.double_share(dataset.id))
    latest = people.trail(dataset.id, limit=LATEST)
    return choices, _figures(studio, dataset), share, _waiting(studio, dataset), _trail(dataset, latest)


def saved(studio: Studio, name: str | None, share: float) -> Html:
    """Have so many percent decided by two people from now on."""
    dataset = studio.store.datasets.get(required_dataset(name))
    studio.store.people.set_double_share(dataset.id, share / 100)
    return _waiting(studio, dataset)


def _waiting(studio: Studio, dataset: Dataset) -> Html:
    looks, disputes = studio.store.people.waiting(dataset.id)
    queue = f"/review?dataset={dataset.id}&human=disputed"
    grid = f"/grid?dataset={dataset.id}&human=disputed"
    rows: list[tuple[str, Any]] = [
        ("Wait for a second look", f"{looks:,}"),
        ("In dispute", f"{disputes:,}"),
    ]
    settle = join(
        "Settle them in ",
        tag("a", "Review", href=queue),
        " or the ",
        tag("a", "Grid", href=grid),
        ": a third voice decides.",
    )
    more = "Second looks are mixed into everybody's queue of undecided ones; what the first person said is not shown."
    return join(facts(rows), tag("p", settle if disputes else more, class_="w-quiet"))


# Figures


def _figures(studio: Studio, dataset: Dataset) -> Html:
    given = studio.store.people.opinions(dataset.id)
    if not given.names:
        return empty(
            "Nobody has decided anything yet",
            join("Begin in ", tag("a", "Review", href=f"/review?dataset={dataset.id}"), "."),
        )
    said = _policy_says(studio, dataset, given)
    return join(
        tag("h2", "Each person"),
        _persons(given, said),
        tag("h2", "Agreement"),
        _agreement(given),
    )


def _policy_says(studio: Studio, dataset: Dataset, given: Opinions) -> np.ndarray:
    """int[n]: what the policy says now of the candidate of each opinion: 1, -1, or 0 when it leaves it open."""
    known: Table = studio.store.review.columns(dataset.id)
    said = automatic(known, studio.store.review.policies(dataset.id))
    sides = np.where(said == ACCEPT, 1, np.where(said == REJECT, -1, 0))
    return sides[np.searchsorted(known.ids, given.candidate)]


def _persons(given: Opinions, said: np.ndarray) -> Html:
    columns = ("Person", "Decided", "Accepted", "Rejected", "Skipped", "Seconds for each", "Against the policy")
    rows = [_person(given, said, number) for number in range(len(given.names))]
    note = (
        "Seconds for each: the median between two decisions by key, pauses of more than a minute left out. Against the policy: of "
        "those that it accepts or rejects now."
    )
    return join(table(columns, rows), tag("p", note, class_="w-quiet"))


def _person(given: Opinions, said: np.ndarray, number: int) -> tuple[Any, ...]:
    mine = given.person == number
    side, policy = given.side[mine], said[mine]
    both = (side != 0) & (policy != 0)
    against = int((side != policy)[both].sum())
    overrode = f"{against / both.sum():.0%} of {both.sum():,}" if both.any() else "–"
    counts = [int((side == value).sum()) for value in (1, -1, 0)]
    return given.names[number], len(side), *counts, _seconds(given.at[mine & given.alone]), overrode


def _seconds(at: np.ndarray) -> str:
    steps = np.diff(np.sort(at))
    steps = steps[steps < AWAY]
    return f"{np.median(steps):.1f}" if len(steps) else "–"


def _agreement(given: Opinions) -> Html:
    ratings: dict[int, dict[str, str]] = {}
    decided = given.side != 0
    several = np.unique(given.candidate[decided], return_counts=True)
    shared = decided & np.isin(given.candidate, several[0][several[1] > 1])
    for candidate, person, side in zip(given.candidate[shared], given.person[shared], given.side[shared], strict=True):
        ratings.setdefault(int(candidate), {})[given.names[person]] = "for" if side > 0 else "against"
    if not ratings:
        return tag("p", "No candidate was decided by two people yet.", class_="w-quiet")
    found = agreement.pairwise(ratings)
    rows = [
        (
            f"{pair.one} and {pair.other}",
            pair.items,
            f"{pair.same:.0%} ({pair.same_low:.0%} to {pair.same_high:.0%})",
            _kappa(pair.kappa),
        )
        for pair in found
    ]
    note = "Cohen's kappa: 1 is full agreement, 0 what chance would give; with 95 % intervals."
    return join(table(("Pair", "Both decided", "The same", "Kappa"), rows), tag("p", note, class_="w-quiet"))


def _kappa(found: agreement.Estimate) -> str:
    if found.value is None:
        return "– (all alike)"
    ends = "" if found.low is None or found.high is None else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{found.value:.2f}{ends}"


# The trail


def _trail(dataset: Dataset, latest: list[Verdict]) -> Html:
    if not latest:
        return Html("")
    rows = [
        (
            _moment(one.at),
            one.reviewer,
            one.candidate_id,
            WORDS[one.decision],
            one.reason or "",
            "together" if one.act else "",
        )
        for one in latest
    ]
    whole = join(
        "The latest; the whole trail as ",
        tag("a", "CSV", href=f"/api/people/trail.csv?dataset={dataset.id}"),
        " or ",
        tag("a", "JSON", href=f"/api/people/trail.json?dataset={dataset.id}"),
        ".",
    )
    return join(
        tag("h2", "Who decided what when"),
        tag("p", whole),
        tag("div", table(("When", "Who", "Candidate", "What", "Why", ""), rows), class_="w-scroll"),
    )


def _moment(at: float) -> str:
    return time.strftime("%d %b %Y, %H:%M:%S", time.localtime(at))

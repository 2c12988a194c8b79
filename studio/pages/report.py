"""Report: what a policy and people made of a run, how far they agree, and what an accepted candidate cost."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from db.columns import KINDS
from db.errors import WinnowError
from db.records import Kind, RunKind
from engine import coverage, learned, run_report
from engine.agreement import Agreement, Estimate
from engine.filters import FILTERS
from engine.run_report import Part, Price, RunReport, Share
from studio import plots, views
from studio.context import Studio
from studio.markup import Html, empty, facts, join, section, table, tag
from studio.pages.common import LOUD, QUIET, asked_number, bound, heading, html, on_load

title, path = "Report", "report"
SHOWN = 40  # classes
PEOPLE = ("accept", "reject", "skip", "undecided")
POLICY = ("accept", "reject", "pending")


def page(studio: Studio) -> None:
    """A run's report; below it what could be learned from its verdicts."""
    heading(
        "Report",
        "What the policy and people made of a run, where they differ, how far reviewers agree, and what an accepted "
        "candidate cost.",
        help="learned",
    )
    run = gr.Dropdown(label="Run", choices=[], interactive=True)
    shown = html()
    with gr.Row(elem_classes=["w-line"]):
        html(tag("div", tag("h2", "A filter learned from the verdicts"), class_="w-title"))
        fit = gr.Button("Learn and check", min_width=130, scale=0)
    calibration = html()
    run.input(bound(studio, reported), run, [shown, calibration], **QUIET)
    fit.click(bound(studio, fitted), run, calibration, **LOUD)
    on_load(studio, opened, [run, shown, calibration])


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page as it is opened: the run named in the address (`?run=`), else the newest."""
    runs = studio.store.ledger.runs(kind=RunKind.GENERATE, limit=500)
    wanted = asked_number(request, "run")
    chosen = wanted if wanted in [run.id for run in runs] else runs[0].id if runs else None
    choices = [(f"{run.id}: {run.title}", run.id) for run in runs]
    return gr.Dropdown(choices=choices, value=chosen), *reported(studio, chosen)


def reported(studio: Studio, run: int | None) -> tuple[Html, str]:
    """The report of a run; what was learned from another one is taken away."""
    if not run:
        return empty("No run yet", "Choose a recipe on Generate; its candidates are reported on here."), ""
    found = run_report.report(studio.store, int(run))
    return join(_summary(found), _coverage(found), _differences(found), _parts(found), _reviewers(found.agreement)), ""


def _summary(found: RunReport) -> Html:
    whole = found.whole
    pairs = [
        (f"{whole.candidates:,}", "candidates"),
        (f"{whole.accepted:,}", "accepted as it stands"),
        (_rate(found.precision), "of the policy's accepted, people accept"),
        (_rate(found.recall), "of what people accept, the policy accepts"),
        (_priced(whole.price) if whole.price else "–", "for an accepted one"),
    ]
    figures = tag("div", [tag("div", tag("b", value), tag("span", name)) for value, name in pairs], class_="w-figures")
    return join(figures, facts([("Policy", found.policy or "none"), ("Spent", _priced(found.spent))]))


def _coverage(found: RunReport) -> Html | None:
    """Of whole images: phrases without a box and boxes without a phrase, and how much is synthetic."""
    told = coverage.lines(found.coverage, found.purity)
    return section("Whole images", [tag("p", line) for line in told]) if told else None


def _rate(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "–"
    return f"{share.value:.1%} ({share.low:.1%} – {share.high:.1%})"


def _priced(price: Price) -> str:
    told = [views.span(price.seconds)]
    told += [f"{price.tokens:,.0f} tokens"] if price.tokens else []
    told += [f"{price.money:.3g} in money"] if price.money else []
    return ", ".join(told)


def _differences(found: RunReport) -> Html:
    cells = {(policy, people): n for policy, people, n in found.confusion}
    rows = [(f"policy: {policy}", *(cells[policy, people] for people in PEOPLE)) for policy in POLICY]
    return section("Policy against people", table(("", *(f"people: {word}" for word in PEOPLE)), rows))


def _parts(found: RunReport) -> Html:
    kinds = [(views.KINDS[kind][0], part) for part in found.kinds for kind in views.KINDS if str(kind) == part.name]
    classes = [(part.name, part) for part in found.classes]
    more = f", {SHOWN} of {len(classes)}" if len(classes) > SHOWN else ""
    shown = [section("By kind", _counts(kinds))] if len(kinds) > 1 else []
    return join(*shown, section(f"By class{more}", _counts(classes[:SHOWN])))


def _counts(parts: list[tuple[str, Part]]) -> Html:
    columns = ("", "Made", *(f"Policy: {w}" for w in POLICY), *(f"People: {w}" for w in PEOPLE[:2]), "Accepted", "Each")
    rows = [
        (
            name,
            part.candidates,
            *(part.policy[word] for word in POLICY),
            *(part.people[word] for word in PEOPLE[:2]),
            part.accepted,
            _priced(part.price) if part.price else "–",
        )
        for name, part in parts
    ]
    return table(columns, rows)


def _reviewers(found: Agreement) -> Html:
    if not found.items:
        text = "No candidate was decided by two reviewers, so how far they agree is not known."
        return section("Reviewers", tag("p", text, class_="w-quiet"))
    said = f"Krippendorff's alpha {_estimated(found.alpha)}, over {found.items:,} candidates decided by two or more."
    rows = [(f"{pair.one} and {pair.other}", pair.items, pair.same, _estimated(pair.kappa)) for pair in found.pairs]
    columns = ("Reviewers", "In common", "Share alike", "Cohen's kappa")
    return section("Reviewers", tag("p", said), table(columns, rows))


def _estimated(estimate: Estimate) -> str:
    if estimate.value is None:
        return "unknown, since all decisions are the same"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}, too few for an interval"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


# The learned filter


def fitted(studio: Studio, run: int | None) -> Html:
    """Learn a filter anew from the verdicts on the run's data set, kind by kind, and show what it is worth."""
    if not run:
        raise WinnowError("Choose a run first.")
    dataset = studio.store.ledger.run(int(run)).dataset_id
    if dataset is None:
        raise WinnowError(f"Run {run} has no data set, so it has no candidates to learn from.")
    there = np.unique(studio.store.review.columns(dataset).where(run=int(run)).kind)
    return join(*(section(views.KINDS[KINDS[code]][0], _learned(studio, dataset, KINDS[code])) for code in there))


def _learned(studio: Studio, dataset: int, kind: Kind) -> Html:
    try:
        found = learned.learn(studio.store, dataset, kind, rules=[known.default for known in FILTERS.values()]).report
    except learned.TooFew as lack:
        return empty("Too few verdicts", str(lack))
    return _calibration(found)


def _calibration(found: learned.Report) -> Html:
    points = [(one.predicted, one.observed) for one in found.bins]
    curves = {"observed": points, "perfectly calibrated": [(0.0, 0.0), (1.0, 1.0)]}
    drawn = plots.lines("Accepted by people, against the predicted probability", curves, y_range=(0.0, 1.0), x_end=1.0)
    rows = [
        (f"{one.predicted:.2f}", f"{one.observed:.2f} ({one.low:.2f} to {one.high:.2f})", one.n) for one in found.bins
    ]
    gain = f"{found.gain:+.3f} ({found.gain_low:+.3f} to {found.gain_high:+.3f}) over the best single filter"
    told = [
        ("AUC", f"{found.auc:.3f}; {gain}"),
        ("Brier score", f"{found.brier:.3f}; {found.base_brier:.3f} for always saying the same"),
        ("Error", f"{found.ece:.3f} on average between predicted and observed"),
    ]
    singles = [(_title(one.filter), one.auc) for one in found.singles]
    columns = ("Predicted", "Observed, with its 95 % interval", "Candidates")
    return join(
        tag("div", tag("p", found.says), class_="w-banner good" if found.on else "w-banner"),
        facts(told),
        drawn,
        tag("details", tag("summary", "The points of the plot"), table(columns, rows)),
        tag("details", tag("summary", "Single filters"), table(("Filter", "AUC"), singles)),
    )


def _title(name: str) -> str:
    return FILTERS[name].title if name in FILTERS else name

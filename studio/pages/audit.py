"""Audit: how many of the accepted are bad, stated with a confidence that looking at it early does not break."""

from __future__ import annotations

import math
import secrets
from typing import Any

import gradio as gr
import numpy as np

from db.audits import DESIGNS, Audit
from db.columns import ACCEPT, KINDS, Table
from db.errors import WinnowError
from db.records import Dataset, RunKind
from engine import bound as bounds
from engine import thresholds
from engine.families import Member, audited, family
from engine.filters import FILTERS
from studio import views
from studio.context import Studio
from studio.markup import Html, empty, facts, join, table, tag
from studio.pages.common import FIRST_STEP, LOUD, QUIET, asked, bound, chosen_dataset, heading, html, on_load

title, path = "Audit", "audit"
EVERY = 3.0  # seconds between two looks at the verdicts
ANY_RUN = 0
DEFAULT_TARGET, DEFAULT_CONFIDENCE = 5.0, 95.0  # percent
AGREE = [("bad when anyone says so", "any"), ("the majority", "majority")]
DESIGN_TITLES = {"simple": "all alike", "class": "by class", "run": "by run", "kind": "by kind"}


def page(studio: Studio) -> None:
    """The audit at the left, with what it shows so far; at the right what it is to show, and a new one."""
    heading(
        "Audit",
        "How many of the candidates that a policy accepts are bad? Look at a random sample of them: after every look "
        "the studio says what may be concluded, and when to stop.",
        help="trust",
    )
    with gr.Row():
        dataset = gr.Dropdown(label="Data set", choices=[], interactive=True)
        audit = gr.Dropdown(label="Audit", choices=[], interactive=True)
        target = gr.Number(DEFAULT_TARGET, label="Bad ones put up with, %", minimum=0, maximum=100)
        confidence = gr.Number(DEFAULT_CONFIDENCE, label="Confidence, %", minimum=50, maximum=99.99)
    with gr.Row():
        with gr.Column(scale=7):
            shown = html()
            with gr.Accordion("When several people look, or people err", open=False), gr.Row():
                agree = gr.Dropdown(AGREE, value="any", label="When they disagree")
                each = gr.Number(1, label="Reviewers for each", precision=0, minimum=1, maximum=20)
                misses = gr.Number(0.0, label="Bad ones they miss at most, %", minimum=0, maximum=99)
            html(tag("div", tag("h2", "The loosest threshold that meets the target"), class_="w-title"))
            with gr.Row(elem_classes=["w-line"]):
                filter_name = gr.Dropdown(label="Thresholds of", choices=[], interactive=True, scale=3)
                propose = gr.Button("Propose", min_width=110, scale=1)
                save = gr.Button("Save it as policy", min_width=150, scale=1)
            proposal = html()
        with gr.Column(scale=4, min_width=330):
            html(tag("div", tag("h2", "Start an audit"), class_="w-title"))
            policy = gr.Dropdown(label="Policy", choices=[], interactive=True)
            run = gr.Dropdown(label="Run", choices=[], interactive=True)
            design = gr.Radio([(name, key) for key, name in DESIGN_TITLES.items()], value="simple", label="Sample")
            hide = gr.Checkbox(True, label="Hide what filters and policy say while people look")
            looks = gr.Number(label="Looks", precision=0, minimum=1)
            plan = html()
            start = gr.Button("Start the audit", variant="primary")
    timer = gr.Timer(EVERY)

    def do(action: Any) -> Any:
        return bound(studio, action)

    terms: list[Any] = [audit, target, confidence, agree, each, misses]
    planned: list[Any] = [dataset, policy, run, target, confidence]
    everything = [dataset, audit, policy, run, filter_name, looks, plan, shown, proposal]
    dataset.input(do(chosen), [dataset, target, confidence], everything, **QUIET)
    for part in terms:
        part.input(do(state), terms, shown, trigger_mode="always_last", **QUIET)
    propose.click(do(proposed), [*terms, filter_name], proposal, **LOUD)
    for part in planned[1:]:
        part.input(do(plans), planned, [looks, plan], trigger_mode="always_last", **QUIET)
    start.click(do(started), [*planned, design, hide, looks], [audit, shown, proposal], **LOUD)
    save.click(do(saved), [*terms, filter_name], [policy], **LOUD)
    timer.tick(do(state), terms, shown, **QUIET)
    on_load(studio, opened, everything)


# Choosing


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page as it is opened: the data set named in the address (`?dataset=`), else that worked on last."""
    known = studio.store.datasets.list()
    return chosen(studio, chosen_dataset(studio, known, asked(request, "dataset")), DEFAULT_TARGET, DEFAULT_CONFIDENCE)


def chosen(studio: Studio, name: str | None, target: float | None, confidence: float | None) -> tuple[Any, ...]:
    """Everything on the page, for one data set."""
    datasets = gr.Dropdown(choices=[one.name for one in studio.store.datasets.list()], value=name)
    if not name:
        nothing = [gr.Dropdown(choices=[], value=None)] * 4
        return datasets, *nothing, None, "", empty("There is no data set yet", FIRST_STEP), ""
    dataset = studio.store.datasets.get(name)
    audits = _audit_choices(studio, dataset)
    newest = audits[0][1] if audits else None
    policies = _policy_choices(studio)
    in_use = next(iter(studio.store.review.policies(dataset.id).values()), None)
    policy = in_use.id if in_use else None
    filters = _filter_choices(studio, dataset)
    terms = (newest, target, confidence, "any", 1, 0.0)
    return (
        datasets,
        gr.Dropdown(choices=audits, value=newest),
        gr.Dropdown(choices=policies, value=policy),
        gr.Dropdown(choices=_run_choices(studio, dataset), value=ANY_RUN),
        gr.Dropdown(choices=filters, value=filters[0][1] if filters else None),
        *plans(studio, name, policy, ANY_RUN, target, confidence),
        state(studio, *terms),
        "",
    )


def _audit_choices(studio: Studio, dataset: Dataset) -> list[tuple[str, int]]:
    return [(_name(studio, one), one.id) for one in studio.store.audits.audits(dataset.id)]


def _name(studio: Studio, audit: Audit) -> str:
    policy = studio.store.review.policy(audit.policy_id)
    where = f", run {audit.run_id}" if audit.run_id else ""
    return f"{audit.id}: {policy.name} v{policy.version}{where}, {audit.size:,} looks"


def _policy_choices(studio: Studio) -> list[tuple[str, int]]:
    return [(f"{one.name} v{one.version}", one.id) for one in studio.store.review.policies_named()]


def _run_choices(studio: Studio, dataset: Dataset) -> list[tuple[str, int]]:
    runs = studio.store.ledger.runs(kind=RunKind.GENERATE, dataset_id=dataset.id, limit=1000)
    return [("all runs", ANY_RUN), *((f"{run.id}: {run.title}", run.id) for run in runs)]


def _filter_choices(studio: Studio, dataset: Dataset) -> list[tuple[str, str]]:
    scores = studio.store.review.columns(dataset.id).scores
    return [(title_of(name), name) for name, values in sorted(scores.items()) if not np.isnan(values).all()]


def title_of(name: str) -> str:
    return FILTERS[name].title if name in FILTERS else name


# Starting


def plans(
    studio: Studio,
    name: str | None,
    policy: int | None,
    run: int | None,
    target: float | None,
    confidence: float | None,
) -> tuple[Any, Html | str]:
    """How many looks to plan, and what that depends on."""
    if not name or not policy:
        return None, tag("p", "No run of this data set has a policy yet. Save one on ", _link("/lab", "Lab"), ".")
    accepted = len(_accepted(studio, name, policy, run))
    if not accepted:
        return None, tag("p", "This policy accepts nothing here.", class_="w-quiet")
    alpha, delta = _goal(target, confidence)
    rates = {
        "none is bad": 0.0,
        f"{100 * alpha / 4:.3g} % are bad": alpha / 4,
        f"{50 * alpha:.3g} % are bad": alpha / 2,
    }
    whole = [bounds.Stratum(accepted, 0, 0)]
    needed = {text: bounds.looks_needed(alpha, delta, rate, whole) for text, rate in rates.items()}
    rows = [(text, f"{n:,} looks" if n is not None else "cannot be shown") for text, n in needed.items()]
    advised = next((n for n in list(needed.values())[1:] if n), None) or accepted
    return advised, join(
        tag("p", f"The policy accepts {accepted:,} candidates here. To show the target one needs, if so many are bad:"),
        table(("", ""), rows),
    )


def _accepted(studio: Studio, name: str, policy: int, run: int | None) -> Table:
    """What the policy accepts now."""
    dataset = studio.store.datasets.get(name)
    known = studio.store.review.columns(dataset.id).where(run=run or None)
    return known.take(thresholds.decide(known, studio.store.review.policy(policy)) == ACCEPT)


def started(
    studio: Studio,
    name: str | None,
    policy: int | None,
    run: int | None,
    target: float | None,
    confidence: float | None,
    design: str,
    hide: bool,
    looks: int | None,
) -> tuple[Any, Html, str]:
    """Draw the sample and show the new audit."""
    if not name or not policy:
        raise WinnowError("Choose a data set and a policy first; policies are saved on the Lab page.")
    if not looks:
        raise WinnowError("Say how many looks the audit is to have; 1 or more.")
    dataset, accepted = studio.store.datasets.get(name), _accepted(studio, name, policy, run)
    strata, names = _strata(accepted, design)
    audit = studio.store.audits.create(
        dataset.id,
        policy,
        run or None,
        design,
        int(looks),
        secrets.randbits(31),
        hide,
        ids=accepted.ids,
        strata=strata,
        names=names,
    )
    choices = gr.Dropdown(choices=_audit_choices(studio, dataset), value=audit.id)
    return choices, state(studio, audit.id, target, confidence, "any", 1, 0.0), ""


def _strata(accepted: Table, design: str) -> tuple[Any, dict[int, str]]:
    """A code for each candidate and the names of the codes; no codes for a simple sample."""
    if design == "class":
        return accepted.category, {-1: "no class", **accepted.names}
    if design == "run":
        return accepted.run, {int(run): f"run {run}" for run in np.unique(accepted.run)}
    if design == "kind":
        return accepted.kind.astype(np.int64), {i: views.KINDS[kind][0] for i, kind in enumerate(KINDS)}
    return None, {}


def _goal(target: float | None, confidence: float | None) -> tuple[float, float]:
    """The share of bad ones put up with, and the chance of being wrong. Raises WinnowError for what is no percentage."""
    if target is None or not 0 <= target < 100:
        raise WinnowError(f"The bad ones put up with are 0 to 100 percent, not {target}.")
    if confidence is None or not 50 <= confidence < 100:
        raise WinnowError(f"A confidence is 50 to 99.99 percent, not {confidence}.")
    return target / 100, 1 - confidence / 100


# What an audit shows

Terms = tuple[int | None, float | None, float | None, str, int | None, float | None]


def state(studio: Studio, *terms: Any) -> Html:
    """The statement, what stands behind it, and where to go on. `terms`: see `Terms`."""
    audit_id, target, confidence, agree, each, misses = terms
    if not audit_id:
        return empty(
            "No audit yet",
            "Choose a policy at the right and start one: people look at a random sample of what it accepts.",
        )
    audit, items = studio.store.audits.audit(int(audit_id)), studio.store.audits.looked(int(audit_id))
    alpha, delta = _goal(target, confidence)
    found = bounds.state(audit, items, alpha, delta, agree=agree, each=int(each or 1), misses=(misses or 0.0) / 100)
    met = found.upper <= alpha * found.population
    mood = "good" if met else "bad" if found.stop else ""
    said = tag("div", tag("p", tag("b", found.sentence)), tag("p", _advice(found)), class_=f"w-banner {mood}".strip())
    return join(said, _figures(audit, found), _onward(audit, found), _sample(studio, audit, items, found))


def _advice(found: bounds.AuditState) -> str:
    if found.stop:
        return f"You may stop: {found.why}."
    if found.needed is None:
        return "Go on; at the present rate of bad ones the target would not be reached."
    return f"Go on: about {found.needed:,} more looks are needed if bad ones go on turning up at the same rate."


def _figures(audit: Audit, found: bounds.AuditState) -> Html:
    low = math.floor(1000 * found.lower / found.population) / 10
    high = math.ceil(1000 * found.upper / found.population - 1e-9) / 10
    pairs = [
        (f"{found.looked:,} of {audit.size:,}", "looked at in turn"),
        (f"{found.bad:,}", "of them bad"),
        (f"{low:g} – {high:g} %", "of all accepted are bad"),
        ("yes" if found.stop else "not yet", "may one stop?"),
    ]
    return tag("div", [tag("div", tag("b", value), tag("span", name)) for value, name in pairs], class_="w-figures")


def _onward(audit: Audit, found: bounds.AuditState) -> Html | None:
    if found.looked >= audit.size:
        return None
    return tag(
        "p", _link(f"/review?dataset={audit.dataset_id}&audit={audit.id}&human=any", "Look at the next ones in Review")
    )


def _sample(studio: Studio, audit: Audit, items: Any, found: bounds.AuditState) -> Html:
    policy = studio.store.review.policy(audit.policy_id)
    notes = [
        f"{found.skipped:,} skipped or deleted ones count as bad." if found.skipped else None,
        f"{found.beyond:,} were looked at out of turn; they count once those before them are looked at."
        if found.beyond
        else None,
        "Looking at the result as often as you like does no harm: the statement holds at all looks at once.",
    ]
    about = facts(
        [
            ("Policy", f"{policy.name} v{policy.version}"),
            ("Sample", f"{DESIGNS[audit.design]} (seed {audit.seed})"),
            ("While looking", "filters and policy are hidden" if audit.hide else "filters and policy are shown"),
        ]
    )
    rows = zip(audit.strata, bounds.known(audit, items), strict=True)
    strata = [(one.name, one.population, one.size, known.looked, known.bad) for one, known in rows]
    parts = table(("Part", "Accepted", "In the audit", "Looked at", "Bad"), strata) if len(strata) > 1 else None
    return join([tag("p", note, class_="w-quiet") for note in notes if note], about, parts)


# The loosest threshold


def proposed(studio: Studio, *given: Any) -> Html:
    """The family of thresholds, what the audit says of each, and the loosest that meets the target."""
    *terms, name = given
    proposal = _proposal(studio, tuple(terms), name)[2]
    lead = (
        f"The loosest that meets the target: {title_of(name)} {proposal.name}."
        if proposal.name
        else "None is shown to meet the target yet: more looks, a larger target, or another filter."
    )
    rows = [
        (
            test.name,
            *(sum(getattr(s, part) for s in test.strata) for part in ("population", "looked", "bad")),
            _p(test.p),
            test.why,
        )
        for test in proposal.tests
    ]
    marks = ["" if test.p is not None else "same" for test in proposal.tests]
    columns = (title_of(name), "Accepted", "Looked at", "Bad", "p", "Result")
    note = "Tested from strict to loose until one fails, so that trying many costs no confidence."
    return join(tag("p", tag("b", lead)), table(columns, rows, classes=marks), tag("p", note, class_="w-quiet"))


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if value >= 1e-4 else "< 0.0001"


def _proposal(studio: Studio, terms: Terms, name: str | None) -> tuple[Audit, list[Member], bounds.Proposal]:
    audit_id, target, confidence, agree, each, misses = terms
    if not audit_id or not name:
        raise WinnowError("Choose an audit and a filter first.")
    alpha, delta = _goal(target, confidence)
    store = studio.store
    audit, items = store.audits.audit(int(audit_id)), store.audits.looked(int(audit_id))
    known, population = store.review.columns(audit.dataset_id), store.audits.population(audit.id)
    members = family(known, population, store.review.policy(audit.policy_id), name)
    count = {"planned": audit.size, "each": int(each or 1)}
    proposal = audited(
        known, population, members, items, alpha, delta, agree=agree, misses=(misses or 0.0) / 100, **count
    )
    return audit, members, proposal


def saved(studio: Studio, *given: Any) -> Any:
    """Keep the proposed policy as the next version of the audited one; no run is given it yet."""
    *terms, name = given
    audit, members, proposal = _proposal(studio, tuple(terms), name)
    member = next((one for one in members if one.name == proposal.name), None)
    if member is None:
        raise WinnowError("No threshold of this family is shown to meet the target yet, so there is nothing to save.")
    if member.threshold is None:
        raise WinnowError("The audited policy itself meets the target; there is nothing to change.")
    policy = studio.store.review.save_policy(studio.store.review.policy(audit.policy_id).name, member.rules)
    gr.Info(f"Saved as {policy.name} v{policy.version}. Give it to runs on the Lab page.")
    return gr.Dropdown(choices=_policy_choices(studio), value=policy.id)


def _link(address: str, text: str) -> Html:
    return tag("a", text, href=address)

"""The audit and report pages, by calling the functions behind them."""

import gradio as gr
import numpy as np
import pytest
from conftest import candidates, leased

import studio.app  # noqa: F401  keeps gradio from looking up its servers
from db.errors import WinnowError
from db.records import Dataset, Decision, NewVerdict, Policy, Rule, Score
from db.store import Store
from engine.families import audited, family
from studio.context import Studio
from studio.pages import audit, report

# Said of choices that are given together with the value.
pytestmark = pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")
COUNT = 200
GOAL = (5.0, 95.0)
ALONE = ("any", 1, 0.0)  # one reviewer, who does not err


@pytest.fixture
def filled(store: Store) -> Studio:
    return Studio(store=store, home=store.home)


@pytest.fixture
def policy(store: Store, dataset: Dataset) -> Policy:
    """A policy that accepts 200 of 220 candidates: seams of 0 to 4 pass."""
    made = store.review.save_policy("demo", [Rule(filter="seam", at_most=4.0)])
    shard = leased(store, dataset.id, policy_id=made.id)
    ids = candidates(store, dataset.id, shard, COUNT + 20)
    seams = [*np.linspace(0, 4, COUNT), *[9.0] * 20]
    scores = [Score(candidate_id=i, filter="seam", value=float(v)) for i, v in zip(ids, seams, strict=True)]
    store.review.add_scores(shard, scores)
    return made


def look(store: Store, audit_id: int, count: int, bad_from: float = 9.0) -> None:
    """Somebody looks at the next items in their order; what has a seam from `bad_from` on is bad."""
    verdicts = []
    for item in store.audits.looked(audit_id):
        if not item.verdicts and len(verdicts) < count:
            (score,) = store.review.scores_of([item.candidate_id])[item.candidate_id]
            good = score.value is not None and score.value < bad_from
            decision = Decision.ACCEPT if good else Decision.REJECT
            op_id = f"audit-{audit_id}-{item.position}"
            verdicts.append(NewVerdict(op_id=op_id, candidate_id=item.candidate_id, decision=decision))
    store.review.decide(verdicts)


def begin(studio: Studio, policy: Policy, looks: int, design: str = "simple") -> int:
    choice, _, _ = audit.started(studio, "small", policy.id, audit.ANY_RUN, *GOAL, design, True, looks)
    assert isinstance(choice, gr.Dropdown)
    return int(choice.value)  # type: ignore[arg-type]


def test_planning_says_how_many_looks(filled: Studio, policy: Policy) -> None:
    looks, told = audit.plans(filled, "small", policy.id, audit.ANY_RUN, *GOAL)
    assert "accepts 200 candidates" in told
    assert 0 < looks <= COUNT


def test_the_statement_follows_the_looks(filled: Studio, policy: Policy) -> None:
    started = begin(filled, policy, 150)
    assert "at most 100 % (200) of the 200 accepted are bad" in audit.state(filled, started, *GOAL, *ALONE)
    look(filled.store, started, 150)
    shown = audit.state(filled, started, *GOAL, *ALONE)
    assert "You may stop" in shown and "w-banner good" in shown
    assert "150 of 150" in shown and "Review" not in shown


def test_the_audit_goes_on_in_review(filled: Studio, policy: Policy) -> None:
    started = begin(filled, policy, 150, design="class")
    look(filled.store, started, 3)
    assert f"audit={started}&amp;human=any" in audit.state(filled, started, *GOAL, *ALONE)


def test_the_loosest_threshold_is_proposed_and_saved(filled: Studio, policy: Policy) -> None:
    started = begin(filled, policy, COUNT)
    look(filled.store, started, COUNT, bad_from=3.0)
    assert "The loosest that meets the target: Seam ≤ " in audit.proposed(filled, started, *GOAL, *ALONE, "seam")
    audit.saved(filled, started, *GOAL, *ALONE, "seam")
    newest = filled.store.review.policies_named("demo")[0]
    assert newest.version == 2
    assert newest.rules[0].at_most is not None and 2.5 < newest.rules[0].at_most < 3.2


def test_a_family_ends_with_the_audited_policy(filled: Studio, dataset: Dataset, policy: Policy) -> None:
    started = begin(filled, policy, 150)
    known, population = filled.store.review.columns(dataset.id), filled.store.audits.population(started)
    members = family(known, population, policy, "seam")
    bounds = [member.rules[0].at_most for member in members]
    assert bounds == sorted(bounds) and members[-1].rules == policy.rules
    items = filled.store.audits.looked(started)
    proposal = audited(known, population, members, items, 0.05, 0.05, planned=150)
    assert proposal.name is None
    assert proposal.tests[-1].strata[0].population == COUNT


def test_wrong_requests_are_refused(filled: Studio, policy: Policy) -> None:
    with pytest.raises(WinnowError, match="does not fit"):
        begin(filled, policy, COUNT + 1)
    with pytest.raises(WinnowError, match="how many looks"):
        begin(filled, policy, 0)
    with pytest.raises(WinnowError, match="percent"):
        audit.plans(filled, "small", policy.id, audit.ANY_RUN, 5.0, 100.0)
    with pytest.raises(WinnowError, match="no value"):
        audit.proposed(filled, begin(filled, policy, 10), *GOAL, *ALONE, "overlap")


def test_pages_without_anything_say_what_to_do(filled: Studio) -> None:
    assert "There is no data set yet" in audit.chosen(filled, None, *GOAL)[-2]
    assert "No run yet" in report.reported(filled, None)[0]


def test_a_report_counts_policy_and_people(filled: Studio, policy: Policy) -> None:
    run = filled.store.ledger.runs()[0]
    look(filled.store, begin(filled, policy, 50), 50, bad_from=2.0)
    shown, _ = report.reported(filled, run.id)
    assert "220" in shown and "demo v1" in shown and "Policy against people" in shown
    assert "Too few verdicts" in report.fitted(filled, run.id)

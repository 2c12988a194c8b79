"""The report of a run: policy against people, agreement of reviewers from the log, prices and classes."""

import msgspec
import pytest

from db.errors import NotFound, WinnowError
from db.records import Dataset, Decision, Kind, NewCandidate, NewVerdict, Rule, RunKind, Score
from db.store import Store
from engine.run_report import RunReport, lines, report
from engine.spending import note
from tests.conftest import leased

SCORES = (1.0, 2.0, 4.0, 5.0, None, 1.0)  # the policy accepts up to 3: accept, accept, reject, reject, pending, accept


def verdict(candidate: int, decision: Decision, reviewer: str = "ann", undoes: str | None = None) -> NewVerdict:
    return NewVerdict(
        op_id=f"{reviewer}{candidate}{decision}",
        candidate_id=candidate,
        decision=decision,
        reviewer=reviewer,
        undoes=undoes,
    )


@pytest.fixture
def run(store: Store, dataset: Dataset) -> int:
    """Six instances, four of the first class and two of the second; a run that took 12 s, 600 tokens and 3 in money."""
    policy = store.review.save_policy("seams", [Rule(filter="seam", at_most=3)])
    shard = leased(store, dataset.id, policy_id=policy.id)
    image = store.datasets.images(dataset.id)[0]
    classes = [category.id for category in store.datasets.categories(dataset.id)]
    made = [
        NewCandidate(
            target=f"box:{i}", variant=0, kind=Kind.INSTANCE, image_id=image.id, seed=i, category_id=classes[i // 4]
        )
        for i in range(6)
    ]
    store.review.add_candidates(shard, made, dataset.id)
    ids = store.review.candidate_ids(shard.run_id)
    store.review.add_scores(
        shard, [Score(candidate_id=i, filter="seam", value=value) for i, value in zip(ids, SCORES, strict=True)]
    )
    note(store, shard.run_id, shard, 0, seconds=12.0, tokens_in=500, tokens_out=100, cost=3.0)
    return shard.run_id


def decide(store: Store, run: int, *verdicts: NewVerdict) -> RunReport:
    saved = store.review.decide(verdicts)
    assert {one.status for one in saved} <= {"saved"}
    return report(store, run)


def test_before_anyone_has_looked(store: Store, run: int) -> None:
    found = report(store, run)
    assert found.policy == "seams v1"
    assert found.whole.policy == {"accept": 3, "reject": 2, "pending": 1}
    assert found.whole.people == {"accept": 0, "reject": 0, "skip": 0, "undecided": 6}
    assert (found.whole.accepted, found.precision.value, found.recall.value, found.agreement.items) == (
        3,
        None,
        None,
        0,
    )
    assert found.whole.price is not None
    assert (found.whole.price.seconds, found.whole.price.tokens, found.whole.price.money) == (4, 200, 1)
    told = "\n".join(lines(found))
    assert "People have decided nothing yet" in told and "an accepted one took 4 s, 200 tokens, 1 in money" in told


def test_policy_against_people(store: Store, run: int) -> None:
    a, b, c, d, e, f = store.review.candidate_ids(run)
    found = decide(
        store,
        run,
        verdict(a, Decision.ACCEPT),
        verdict(b, Decision.REJECT),
        verdict(c, Decision.EDIT),
        verdict(d, Decision.REJECT),
        verdict(e, Decision.ACCEPT),
        verdict(f, Decision.SKIP),
    )
    cells = {(policy, people): n for policy, people, n in found.confusion if n}
    assert cells == {
        ("accept", "accept"): 1,
        ("accept", "reject"): 1,
        ("reject", "accept"): 1,
        ("reject", "reject"): 1,
        ("pending", "accept"): 1,
        ("accept", "skip"): 1,
    }
    assert sum(n for *_, n in found.confusion) == 6
    assert (found.precision.hits, found.precision.of, found.recall.hits, found.recall.of) == (1, 2, 1, 3)
    assert found.whole.accepted == 4  # a, c, e by people; f, which was skipped, by the policy
    told = "\n".join(lines(found))
    assert "accepts what people reject 1 times and rejects what they accept 1 times" in told
    assert msgspec.json.decode(msgspec.json.encode(found), type=RunReport) == found


def test_per_class(store: Store, run: int) -> None:
    mug, ball = report(store, run).classes
    assert (mug.name, mug.candidates, mug.accepted, mug.policy["reject"]) == ("mug", 4, 2, 2)
    assert (ball.name, ball.candidates, ball.accepted, ball.policy["pending"]) == ("ball", 2, 1, 1)
    assert mug.price is not None and mug.price.seconds == pytest.approx(12 * 4 / 6 / 2)


def test_reviewers_are_compared_by_what_they_say_now(store: Store, run: int) -> None:
    a, b, c, d, *_ = store.review.candidate_ids(run)
    found = decide(
        store,
        run,
        verdict(a, Decision.ACCEPT),
        verdict(a, Decision.REJECT),  # ann changes her mind
        verdict(a, Decision.REJECT, "bob"),
        verdict(b, Decision.ACCEPT),
        verdict(b, Decision.EDIT, "bob"),
        verdict(c, Decision.ACCEPT),
        verdict(c, Decision.REJECT, "bob"),
        verdict(c, Decision.UNDO, "bob", undoes=f"bob{c}reject"),
        verdict(d, Decision.ACCEPT),
        verdict(d, Decision.SKIP, "bob"),
    )
    assert found.agreement.items == 2
    (pair,) = found.agreement.pairs
    assert (pair.one, pair.other, pair.table) == ("ann", "bob", (("accept", "accept", 1), ("reject", "reject", 1)))
    assert pair.kappa.value == found.agreement.alpha.value == 1
    assert any("Krippendorff's alpha 1.00" in line for line in lines(found))


def test_verdicts_on_other_runs_do_not_count(store: Store, dataset: Dataset, run: int) -> None:
    shard = leased(store, dataset.id)
    image = store.datasets.images(dataset.id)[0]
    made = [NewCandidate(target="box:9", variant=0, kind=Kind.INSTANCE, image_id=image.id, seed=0)]
    store.review.add_candidates(shard, made, dataset.id)
    (other,) = store.review.candidate_ids(shard.run_id)
    found = decide(store, run, verdict(other, Decision.ACCEPT), verdict(other, Decision.REJECT, "bob"))
    assert found.agreement.items == 0
    alone = report(store, shard.run_id)
    assert alone.agreement.items == 1 and alone.policy == "" and alone.classes[0].name == "(none)"
    assert alone.whole.policy["pending"] == 1


def test_scoring_is_part_of_the_price(store: Store, dataset: Dataset, run: int) -> None:
    scoring = store.ledger.create_run(
        RunKind.FILTER, "s", dataset_id=dataset.id, recipe="", options={}, seed=0, versions={}, after_id=run
    )
    store.ledger.add_metrics(scoring.id, 0, {"seconds": 6.0})
    assert report(store, run).spent.seconds == 18


def test_nothing_accepted_has_no_price(store: Store, run: int) -> None:
    found = decide(store, run, *(verdict(i, Decision.REJECT) for i in store.review.candidate_ids(run)))
    assert found.whole.price is None
    assert any("there is no price" in line for line in lines(found))


def test_only_generate_runs_have_a_report(store: Store, dataset: Dataset) -> None:
    training = store.ledger.create_run(
        RunKind.TRAIN, "t", dataset_id=dataset.id, recipe="", options={}, seed=0, versions={}
    )
    with pytest.raises(WinnowError, match="makes no candidates"):
        report(store, training.id)
    with pytest.raises(NotFound):
        report(store, 99)

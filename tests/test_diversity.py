"""The diversity report: figures known by hand, bounds, and the same numbers as the store's own."""

import math
import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.errors import NotFound
from db.queries import Queue
from db.records import Dataset, Decision, Kind, NewCandidate, NewVerdict, Rule, Score
from db.store import Store
from engine.diversity import SAMPLE, Diversity, Negative, distinct, of_run, report, self_bleu, wilson
from tests.conftest import leased

WORDS = st.lists(st.sampled_from(["a", "red", "blue", "mug", "ball", "left", "of", "the"]), min_size=1, max_size=8).map(
    " ".join
)


def negative(after: str = "a blue mug", **values: object) -> Negative:
    return Negative(text_before="a red mug", text_after=after, **values)  # type: ignore[arg-type]


def test_distinct_counts_ngrams_by_hand() -> None:
    texts = ["a red mug", "a blue mug"]  # 6 words, 4 different; 4 pairs, all different
    assert distinct(texts, 1) == pytest.approx(4 / 6)
    assert distinct(texts, 2) == 1
    assert distinct(texts, 4) is None


def test_self_bleu_by_hand() -> None:
    """Of "a b c d e" against "a b c x y": matches 3/5, 2/4, 1/3 and 0.1/2 by smoothing; equal lengths, no penalty."""
    expected = math.exp(sum(map(math.log, (3 / 5, 2 / 4, 1 / 3, 0.1 / 2))) / 4)
    assert self_bleu(["a b c d e", "a b c x y"]) == pytest.approx(expected)


def test_self_bleu_punishes_brevity_and_clips() -> None:
    """ "a a" against "a b c": one of two words, no pair; length 2 against 3. "a b c" against "a a": 1/3, 0.1/2, 0.1/1."""
    short = math.exp((math.log(1 / 2) + math.log(0.1)) / 2 + 1 - 3 / 2)
    long = math.exp((math.log(1 / 3) + math.log(0.1 / 2) + math.log(0.1)) / 3)
    assert self_bleu(["a a", "a b c"]) == pytest.approx((short + long) / 2)


def test_self_bleu_of_repetition_and_of_nothing() -> None:
    assert self_bleu(["a red mug"] * 5) == pytest.approx(1)
    assert self_bleu(["a red mug"]) is self_bleu([]) is self_bleu(["a mug", "..."]) is None


def test_more_repetition_is_less_diverse() -> None:
    varied = [f"{a} {b} near {c}" for a in ("red", "blue") for b in ("mug", "ball") for c in ("lamps", "books")]
    same = [*varied[:2], *(varied[:1] * 6)]
    assert (self_bleu(same) or 0) > (self_bleu(varied) or 1)
    assert (distinct(same, 2) or 1) < (distinct(varied, 2) or 0)


def test_self_bleu_draws_the_same_sample_again() -> None:
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices(["a", "red", "blue", "mug", "ball", "left", "of", "the"], k=6)) for _ in range(3 * SAMPLE)
    ]
    assert self_bleu(texts, seed=1) == self_bleu(texts, seed=1) != self_bleu(texts, seed=2)


@given(st.lists(WORDS, min_size=2, max_size=8))
def test_shares_of_ngrams_are_shares(texts: list[str]) -> None:
    bleu, first = self_bleu(texts), distinct(texts, 1)
    assert bleu is not None and 0 < bleu <= 1 + 1e-9
    assert first is not None and 0 < first <= 1
    assert self_bleu(texts[::-1]) == pytest.approx(bleu)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"), [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilson_intervals_of_the_tables(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] + 1e-12 and counts[0] / counts[1] - 1e-12 <= high <= 1


def test_a_report() -> None:
    made = [
        negative(
            edit_type="colour", strategy="rules", changed_from="Red", changed_to="blue", decision="accept", cost=1
        ),
        negative(
            edit_type="colour", strategy="rules", changed_from="red", changed_to="blue", decision="reject", cost=1
        ),
        negative("a red ball", edit_type="object", strategy="n1", changed_from="mug", changed_to="ball", tokens=7),
        negative("a red cup", edit_type="object", strategy="n1", decision="accept", seconds=3, cost=2),
    ]
    made_of = report(made)
    assert (made_of.negatives, made_of.distinct_texts, made_of.concepts) == (4, 3, 4)
    assert [(one.name, one.times) for one in made_of.changed_from] == [("red", 2), ("mug", 1)]
    rules, n1 = sorted(made_of.strategies, key=lambda share: share.rate or 0)
    assert (rules.name, rules.made, rules.decided, rules.accepted, rules.rate) == ("rules", 2, 2, 1, 0.5)
    assert (n1.name, n1.made, n1.decided, n1.accepted, n1.rate) == ("n1", 2, 1, 1, 1)
    assert {share.name: share.made for share in made_of.edit_types} == {"colour": 2, "object": 2}
    assert (made_of.cost_per_accepted, made_of.seconds_per_accepted, made_of.tokens) == (2, 1.5, 7)
    assert made_of.overall.low is not None and made_of.overall.low < 2 / 3 < (made_of.overall.high or 0)


@pytest.mark.parametrize("made", [[], [negative(decision="reject", cost=1)], [negative("...", cost=1)]])
def test_without_an_accepted_one_there_is_no_price(made: Sequence[Negative]) -> None:
    made_of = report(made)
    assert made_of.negatives == len(made)
    assert made_of.cost_per_accepted is made_of.seconds_per_accepted is made_of.self_bleu is None


def test_a_report_is_json() -> None:
    made_of = report([negative(strategy="rules", decision="accept"), negative("a red ball")])
    assert msgspec.json.decode(msgspec.json.encode(made_of), type=Diversity) == made_of


# Of a run

RULES = [Rule(filter="still_true", at_most=0.5, kinds=(Kind.NEGATIVE_TEXT,)), Rule(filter="seam", at_most=3)]


def made_in(store: Store, dataset: Dataset) -> tuple[int, list[int]]:
    """A run with a policy, six negative texts scored from 0 to 1 (the last not at all), and one image."""
    policy = store.review.save_policy("text", RULES[:1])
    shard = leased(store, dataset.id, policy_id=policy.id)
    image = store.datasets.images(dataset.id)[0]
    kinds = [Kind.NEGATIVE_TEXT] * 6 + [Kind.NEGATIVE_IMAGE]
    detail = {"edit_type": "colour", "strategy": "rules", "changed_from": "red", "changed_to": "blue"}
    made = [
        NewCandidate(
            target=f"phrase:{i}",
            variant=0,
            kind=kind,
            image_id=image.id,
            seed=i,
            text_before="a red mug",
            text_after=f"a blue mug {i}",
            detail=detail,
        )
        for i, kind in enumerate(kinds)
    ]
    store.review.add_candidates(shard, made, dataset.id)
    ids = store.review.candidate_ids(shard.run_id)
    store.review.add_scores(
        shard, [Score(candidate_id=one, filter="still_true", value=i / 4) for i, one in enumerate(ids[:5])]
    )
    values = {"seconds": 14.0, "items": 1, "tokens_in": 50, "tokens_out": 10, "cost": 3.0}
    store.ledger.add_metrics(shard.run_id, 0, values)
    return shard.run_id, ids


def test_a_run_is_judged_by_its_policy_and_by_people(store: Store, dataset: Dataset) -> None:
    run_id, ids = made_in(store, dataset)
    before = of_run(store, run_id)
    assert (before.negatives, before.overall.accepted, before.overall.decided) == (6, 3, 5)
    assert (before.cost, before.tokens, before.cost_per_accepted) == (pytest.approx(3), 60, pytest.approx(1))
    assert before.seconds == pytest.approx(12)  # the image has its share
    decisions = [(ids[0], Decision.REJECT), (ids[4], Decision.EDIT), (ids[5], Decision.ACCEPT), (ids[1], Decision.SKIP)]
    store.review.decide([NewVerdict(op_id=f"op{i}", candidate_id=i, decision=decision) for i, decision in decisions])
    after = of_run(store, run_id)
    assert (after.overall.accepted, after.overall.decided) == (4, 6)
    counts = store.review.counts(Queue(run_id=run_id, kind=Kind.NEGATIVE_TEXT), store.review.policies(dataset.id))
    assert counts["effective"] == {"accept": 4, "reject": 2}
    assert [share.name for share in after.strategies] == ["rules"] and after.concepts == 2


def test_without_a_policy_only_people_decide(store: Store, dataset: Dataset) -> None:
    run_id, _ = made_in(store, dataset)
    made_of = of_run(store, run_id, policies={})
    assert made_of.overall.decided == 0 and made_of.overall.rate is None and made_of.negatives == 6


def test_an_unknown_run_is_an_error(store: Store) -> None:
    with pytest.raises(NotFound):
        of_run(store, 99)


def test_a_run_without_negatives_has_an_empty_report(store: Store, dataset: Dataset) -> None:
    assert of_run(store, leased(store, dataset.id).run_id).negatives == 0

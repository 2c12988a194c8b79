"""Candidates, verdicts, policies and the order in which people meet candidates."""

import math
from collections.abc import Sequence

import pytest
from conftest import candidates, leased
from hypothesis import given
from hypothesis import strategies as st

from db.errors import LostLease, NotFound, WinnowError
from db.queries import Queue
from db.records import Candidate, Dataset, Decision, Kind, NewVerdict, Policy, Rule, Score
from db.store import Store


def verdict(candidate_id: int, decision: Decision, op: str, **more: object) -> NewVerdict:
    return NewVerdict(op_id=op, candidate_id=candidate_id, decision=decision, **more)


def walk(store: Store, queue: Queue, limit: int) -> list[Candidate]:
    """All pages of a queue, one after the other."""
    found: list[Candidate] = []
    cursor: Sequence[object] | None = ()
    while cursor is not None:
        page, cursor = store.review.page(queue, cursor=cursor, limit=limit)
        found += page
    return found


def scored(store: Store, dataset: Dataset, values: Sequence[float | None], **options: object) -> list[int]:
    shard = leased(store, dataset.id, **options)
    ids = candidates(store, dataset.id, shard, len(values))
    known = [(i, v) for i, v in zip(ids, values, strict=True) if v is not None]
    store.review.add_scores(shard, [Score(candidate_id=i, filter="seam", value=v) for i, v in known])
    return ids


def test_making_a_candidate_twice_stores_it_once(store: Store, dataset: Dataset) -> None:
    shard = leased(store, dataset.id)
    first = candidates(store, dataset.id, shard, 3)
    assert candidates(store, dataset.id, shard, 3) == first


def test_output_under_an_old_lease_is_refused(store: Store, dataset: Dataset) -> None:
    shard = leased(store, dataset.id)
    store.ledger.release_shard(shard)
    newer = store.ledger.claim(shard.run_id, "another")
    assert newer is not None and newer.fence > shard.fence
    with pytest.raises(LostLease):
        candidates(store, dataset.id, shard, 1)
    assert store.review.candidate_ids(shard.run_id) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
@pytest.mark.parametrize("order", ["oldest", "random", "class", "score:seam", "-score:seam", "uncertain:seam:0.5"])
def test_every_order_shows_each_candidate_once(store: Store, dataset: Dataset, order: str, limit: int) -> None:
    ids = scored(store, dataset, [0.9, None, 0.1, 0.5, 0.5, None, 0.4, 0.0])
    seen = walk(store, Queue(dataset_id=dataset.id, order=order), limit)
    assert sorted(candidate.id for candidate in seen) == ids


def test_score_orders_put_the_unscored_last(store: Store, dataset: Dataset) -> None:
    ids = scored(store, dataset, [0.9, None, 0.1, 0.5])
    order = {
        name: [ids.index(c.id) for c in walk(store, Queue(order=name), 2)] for name in ("score:seam", "-score:seam")
    }
    assert order == {"score:seam": [2, 3, 0, 1], "-score:seam": [0, 3, 2, 1]}


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_uncertain_goes_outwards_from_the_threshold(store: Store, dataset: Dataset, limit: int) -> None:
    values = [0.95, 0.52, 0.1, 0.45, 0.7, None]
    ids = scored(store, dataset, values)
    order = [ids.index(c.id) for c in walk(store, Queue(order="uncertain:seam:0.5"), limit)]
    assert order == [1, 3, 4, 2, 0, 5]


def test_an_unknown_order_lists_the_known_ones(store: Store, dataset: Dataset) -> None:
    with pytest.raises(WinnowError, match="random"):
        store.review.page(Queue(order="best"))


def test_a_repeated_verdict_counts_once(store: Store, dataset: Dataset) -> None:
    (one,) = scored(store, dataset, [0.5])
    store.review.decide([verdict(one, Decision.ACCEPT, "a")])
    again = store.review.decide([verdict(one, Decision.ACCEPT, "a"), verdict(one, Decision.REJECT, "a")])
    assert [saved.status for saved in again] == ["repeated", "repeated"]
    assert len(store.review.verdicts(one)) == 1
    assert store.review.candidate(one).human == "accept"


def test_undo_brings_back_the_verdict_before(store: Store, dataset: Dataset) -> None:
    (one,) = scored(store, dataset, [0.5])
    steps = [
        (verdict(one, Decision.ACCEPT, "a"), "accept"),
        (verdict(one, Decision.REJECT, "b", reason="bad box"), "reject"),
        (verdict(one, Decision.UNDO, "c", undoes="b"), "accept"),
        (verdict(one, Decision.UNDO, "d", undoes="a"), None),
        (verdict(one, Decision.SKIP, "e"), "skip"),
    ]
    for step, expected in steps:
        store.review.decide([step])
        assert store.review.candidate(one).human == expected
    assert [v.op_id for v in store.review.verdicts(one)] == ["e", "d", "c", "b", "a"]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (verdict(999_999, Decision.ACCEPT, "x"), "no longer exists"),
        (verdict(1, Decision.UNDO, "y", undoes="z"), "to undo"),
    ],
)
def test_an_impossible_verdict_is_refused_and_the_others_kept(
    store: Store, dataset: Dataset, bad: NewVerdict, word: str
) -> None:
    (one,) = scored(store, dataset, [0.5])
    refused, saved = store.review.decide([bad, verdict(one, Decision.ACCEPT, "ok")])
    assert refused.status == "refused" and word in refused.message
    assert saved.status == "saved"


RULES = (Rule(filter="seam", at_most=0.5, kinds=(Kind.INSTANCE,)), Rule(filter="size", at_least=0.2))


@given(
    seam=st.none() | st.floats(-1, 1),
    size=st.none() | st.floats(-1, 1),
    kind=st.sampled_from(Kind),
)
def test_a_policy_never_passes_what_is_missing(seam: float | None, size: float | None, kind: Kind) -> None:
    policy = Policy(id=1, name="p", version=1, rules=RULES, created_at=0)
    said = policy.decide(kind, {"seam": seam, "size": size})
    judged = [size] if kind is not Kind.INSTANCE else [size, seam]
    if said is True:
        assert None not in judged
        assert size is not None and size >= 0.2


def test_sql_and_python_agree_on_what_a_policy_says(store: Store, dataset: Dataset) -> None:
    policy = store.review.save_policy("p", RULES)
    shard = leased(store, dataset.id, policy_id=policy.id)
    grid = [None, 0.0, 0.2, 0.5, 0.9]
    ids = candidates(store, dataset.id, shard, len(grid) ** 2)
    pairs = [(seam, size) for seam in grid for size in grid]
    scores = [
        Score(candidate_id=i, filter=name, value=value)
        for i, pair in zip(ids, pairs, strict=True)
        for name, value in zip(("seam", "size"), pair, strict=True)
        if value is not None
    ]
    store.review.add_scores(shard, scores)
    said = [policy.decide(Kind.INSTANCE, dict(zip(("seam", "size"), pair, strict=True))) for pair in pairs]
    counted = store.review.counts(Queue(dataset_id=dataset.id), store.review.policies(dataset.id))
    assert counted["automatic"] == {
        "accept": said.count(True),
        "reject": said.count(False),
        "pending": said.count(None),
    }
    accepted = [c.id for c in store.review.accepted(dataset.id, store.review.policies(dataset.id))]
    assert accepted == [i for i, outcome in zip(ids, said, strict=True) if outcome]


def test_people_overrule_the_policy_and_an_undo_gives_it_back(store: Store, dataset: Dataset) -> None:
    policy = store.review.save_policy("p", [Rule(filter="seam", at_most=0.5)])
    good, bad = scored(store, dataset, [0.1, 0.9], policy_id=policy.id)
    policies = store.review.policies(dataset.id)
    store.review.decide(
        [verdict(good, Decision.REJECT, "a"), verdict(bad, Decision.EDIT, "b", edit={"text_after": "x"})]
    )
    assert [c.id for c in store.review.accepted(dataset.id, policies)] == [bad]
    store.review.decide([verdict(good, Decision.UNDO, "c", undoes="a"), verdict(bad, Decision.SKIP, "d")])
    assert [c.id for c in store.review.accepted(dataset.id, policies)] == [good]


def test_the_same_rules_are_the_same_policy_version(store: Store) -> None:
    first = store.review.save_policy("p", [Rule(filter="seam", at_most=0.5)])
    assert store.review.save_policy("p", [Rule(filter="seam", at_most=0.5)]) == first
    assert store.review.save_policy("p", [Rule(filter="seam", at_most=0.6)]).version == 2


def test_a_missing_candidate_is_named(store: Store) -> None:
    with pytest.raises(NotFound, match="candidate"):
        store.review.candidate(7)


def test_infinite_pages_do_not_happen(store: Store, dataset: Dataset) -> None:
    scored(store, dataset, [0.5] * 9)
    pages = math.ceil(9 / 3)
    cursor: Sequence[object] | None = ()
    for _ in range(pages):
        assert cursor is not None
        _, cursor = store.review.page(Queue(order="score:seam"), cursor=cursor, limit=3)
    rest, end = store.review.page(Queue(order="score:seam"), cursor=cursor or (), limit=3)
    assert (rest, end) == ([], None)

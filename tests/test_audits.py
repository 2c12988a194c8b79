"""Audits in the database: what is drawn, in which order, and which verdicts count as looks."""

import numpy as np
import pytest
from conftest import candidates, leased

from db import schema
from db.audits import POOLED, Audit, in_order
from db.errors import NotFound, WinnowError
from db.records import Dataset, Decision, NewVerdict
from db.store import Store


def drawn(
    store: Store, dataset: Dataset, ids: list[int], size: int = 4, design: str = "simple", **more: object
) -> Audit:
    policy = store.review.save_policy("p", [])
    return store.audits.create(dataset.id, policy.id, None, design, size, 7, True, ids=np.array(ids), **more)


@pytest.fixture
def ids(store: Store, dataset: Dataset) -> list[int]:
    return candidates(store, dataset.id, leased(store, dataset.id), 12)


def decide(store: Store, candidate_id: int, decision: Decision, op: str, reviewer: str = "ann", **more: object) -> None:
    verdict = NewVerdict(op_id=op, candidate_id=candidate_id, decision=decision, reviewer=reviewer, **more)
    assert [saved.status for saved in store.review.decide([verdict])] == ["saved"]


def test_an_audit_comes_back_as_it_was_drawn(store: Store, dataset: Dataset, ids: list[int]) -> None:
    made = drawn(store, dataset, ids[::-1])
    assert (made.size, made.population, made.hide, made.run_id) == (4, 12, True, None)
    assert [(s.name, s.population, s.size) for s in made.strata] == [("all", 12, 4)]
    assert store.audits.audit(made.id) == made
    items = store.audits.items(made.id)
    assert [item.position for item in items] == [0, 1, 2, 3]
    assert len({item.candidate_id for item in items} & set(ids)) == 4
    again = drawn(store, dataset, ids)
    assert [item.candidate_id for item in store.audits.items(again.id)] == [item.candidate_id for item in items]
    assert [audit.id for audit in store.audits.audits(dataset.id)] == [again.id, made.id]


def test_the_population_is_kept(store: Store, dataset: Dataset, ids: list[int]) -> None:
    codes = [5, 5, 5, 5, 5, 5, 9, 9, 9, 9, 9, 9]
    made = drawn(store, dataset, ids, 12, "class", strata=np.array(codes), names={5: "mug", 9: "ball"})
    kept = store.audits.population(made.id)
    assert kept.ids.tolist() == ids
    assert [s.name for s in made.strata] == ["all"]  # six looks each are too few: put together
    assert kept.strata.tolist() == [0] * 12


def test_small_strata_are_put_together(store: Store, dataset: Dataset) -> None:
    ids = candidates(store, dataset.id, leased(store, dataset.id), 100)
    codes = np.array([3] * 60 + [8] * 34 + [1] * 4 + [2] * 2)
    made = drawn(store, dataset, ids, 50, "class", strata=codes, names={3: "mug", 8: "ball"})
    assert [(s.name, s.population) for s in made.strata] == [("mug", 60), (POOLED, 40)]
    sizes = np.bincount([item.stratum for item in store.audits.items(made.id)])
    assert [s.size for s in made.strata] == sizes.tolist() == [30, 20]
    assert np.bincount(store.audits.population(made.id).strata).tolist() == [60, 40]


def test_every_beginning_is_in_proportion_and_every_row_as_likely() -> None:
    codes = np.array([0] * 60 + [1] * 30 + [2] * 10)
    first = np.array([in_order(codes, seed)[:10] for seed in range(4000)])
    assert {tuple(np.bincount(codes[row], minlength=3)) for row in first} == {(6, 3, 1)}
    seen = np.bincount(first.ravel(), minlength=100) / 4000
    assert np.abs(seen - 0.1).max() < 0.025  # five standard deviations
    assert sorted(in_order(codes, 0)) == list(range(100))


def test_looks_are_standing_verdicts_of_each_reviewer_since_the_audit_began(
    store: Store, dataset: Dataset, ids: list[int]
) -> None:
    for i in ids:
        decide(store, i, Decision.REJECT, f"before{i}")
    made = drawn(store, dataset, ids)
    first, second, third, _ = (item.candidate_id for item in store.audits.items(made.id))
    assert [item.verdicts for item in store.audits.looked(made.id)] == [{}, {}, {}, {}]
    decide(store, first, Decision.ACCEPT, "a")
    decide(store, first, Decision.REJECT, "b")
    decide(store, first, Decision.SKIP, "c", reviewer="ben")
    decide(store, second, Decision.REJECT, "d")
    decide(store, second, Decision.ACCEPT, "e")
    decide(store, second, Decision.UNDO, "f", undoes="e")
    decide(store, third, Decision.ACCEPT, "g")
    decide(store, third, Decision.UNDO, "h", reviewer="ben", undoes="g")
    assert [item.verdicts for item in store.audits.looked(made.id)] == [
        {"ann": Decision.REJECT, "ben": Decision.SKIP},
        {"ann": Decision.REJECT},
        {},
        {},
    ]


def test_a_deleted_candidate_keeps_its_place(store: Store, dataset: Dataset, ids: list[int]) -> None:
    made = drawn(store, dataset, ids)
    second = store.audits.items(made.id)[1].candidate_id
    with store._database.write() as connection:
        connection.execute(schema.candidate.delete().where(schema.candidate.c.id == second))
    assert [item.gone for item in store.audits.looked(made.id)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("count", "more", "words"),
    [
        (0, {}, "accepts nothing"),
        (12, {"size": 13}, "choose 1 to 12"),
        (12, {"size": 0}, "choose 1 to 12"),
        (12, {"design": "odd"}, "Known: simple, class, run, kind"),
        (12, {"design": "class"}, "needs a stratum"),
        (12, {"strata": np.zeros(12)}, "has no stratum"),
        (12, {"design": "class", "strata": np.zeros(5)}, "12 candidates with 5 strata"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    store: Store, dataset: Dataset, ids: list[int], count: int, more: dict[str, object], words: str
) -> None:
    with pytest.raises(WinnowError, match=words):
        drawn(store, dataset, ids[:count], **more)
    assert store.audits.audits(dataset.id) == []


def test_a_candidate_given_twice_is_refused(store: Store, dataset: Dataset, ids: list[int]) -> None:
    with pytest.raises(WinnowError, match="given once"):
        drawn(store, dataset, [*ids, ids[0]])


def test_an_unknown_audit_names_the_known_ones(store: Store, dataset: Dataset, ids: list[int]) -> None:
    made = drawn(store, dataset, ids)
    with pytest.raises(NotFound, match=f"Known: {made.id}"):
        store.audits.population(made.id + 1)

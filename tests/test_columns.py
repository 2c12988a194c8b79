"""Columns in memory: after any sequence of changes they are what a fresh reading gives, and a handed out table never changes.
The orders of review that are computed from them, and selections."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import candidates, leased, small_document
from hypothesis import given, settings
from hypothesis import strategies as st

from db import columns
from db.columns import ACCEPTED, PLAIN, REJECTED, SKIPPED, UNSEEN, Columns, Table
from db.errors import NotFound, WinnowError
from db.queries import ORDERS, Queue
from db.ranking import COMPUTED
from db.records import Candidate, Dataset, Decision, Kind, NewCandidate, NewVerdict, Rule, Score, Shard
from db.store import Store


def fresh(store: Store, dataset_id: int) -> Table:
    return Columns(store._database).table(dataset_id)


def same(one: Table, other: Table) -> bool:
    plain = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in PLAIN)
    filters = {name for table in (one, other) for name in table.scores}
    scores = all(np.array_equal(one.values(name), other.values(name), equal_nan=True) for name in filters)
    return plain and scores and one.names == other.names


def decide(store: Store, candidate_id: int, decision: Decision, op: str, **more: object) -> None:
    (saved,) = store.review.decide([NewVerdict(op_id=op, candidate_id=candidate_id, decision=decision, **more)])
    assert saved.status == "saved"


def give(store: Store, shard: Shard, ids: Sequence[int], name: str, values: Sequence[float | None]) -> None:
    scores = [Score(candidate_id=i, filter=name, value=v) for i, v in zip(ids, values, strict=True)]
    store.review.add_scores(shard, scores)


def test_the_columns_say_what_the_records_say(store: Store, dataset: Dataset) -> None:
    shard = leased(store, dataset.id)
    ids = candidates(store, dataset.id, shard, 5)
    give(store, shard, ids[:3], "seam", [0.1, None, float("nan")])
    for i, decision in enumerate((Decision.ACCEPT, Decision.EDIT, Decision.REJECT, Decision.SKIP)):
        decide(store, ids[i], decision, f"op{i}")
    table = store.review.columns(dataset.id)
    known = store.review.candidates(ids)
    assert table.ids.tolist() == ids and len(table) == 5
    assert table.run.tolist() == [shard.run_id] * 5
    assert [columns.KINDS[k] for k in table.kind] == [c.kind for c in known]
    assert table.category.tolist() == [c.category_id for c in known]
    assert table.human.tolist() == [ACCEPTED, ACCEPTED, REJECTED, SKIPPED, UNSEEN]
    assert np.array_equal(table.values("seam"), [0.1, *[np.nan] * 4], equal_nan=True)
    assert table.values("nowhere").shape == (5,) and np.isnan(table.values("nowhere")).all()
    assert sorted(table.names.values()) == ["ball", "mug"]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(
            st.just("score"), st.sampled_from(["seam", "size"]), st.integers(0, 40), st.none() | st.floats(-1, 1)
        ),
        st.tuples(st.just("decide"), st.integers(0, 40), st.sampled_from(list(Decision)[:4])),
        st.tuples(st.just("undo"), st.integers(0, 40)),
        st.just(("look",)),
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None)
@given(plan=steps)
def test_kept_columns_are_never_stale(tmp_path_factory: pytest.TempPathFactory, plan: list[tuple]) -> None:
    """Two data sets change in turn, their ids interleaved; whenever somebody looks, both are as a fresh reading gives them."""
    folder: Path = tmp_path_factory.mktemp("columns")
    store = Store(folder / "home")
    datasets = [store.datasets.import_document(small_document(folder / "files", images=1), name).id for name in "ab"]
    shards = [leased(store, dataset) for dataset in datasets]
    made: list[tuple[int, int]] = []  # (data set, candidate)
    for number, (what, *how) in enumerate([*plan, ("look",)]):
        if what == "make":
            which, count = how
            image = store.datasets.images(datasets[which])[0].id
            new = [
                NewCandidate(target=f"{number}/{i}", variant=0, kind=Kind.INSTANCE, image_id=image, seed=0)
                for i in range(count)
            ]
            store.review.add_candidates(shards[which], new, datasets[which])
            known = {i for _, i in made}
            made += [(which, i) for i in store.review.candidate_ids(shards[which].run_id) if i not in known]
        elif what == "look":
            assert all(same(store.review.columns(one), fresh(store, one)) for one in datasets)
        elif made and what == "score":
            which, candidate = made[how[1] % len(made)]
            give(store, shards[which], [candidate], how[0], [how[2]])
        elif made and what == "decide":
            decide(store, made[how[0] % len(made)][1], how[1], f"op{number}")
        elif made and (standing := store.review.standing(made[how[0] % len(made)][1])):
            decide(store, standing.candidate_id, Decision.UNDO, f"op{number}", undoes=standing.op_id)
    store.close()


def test_a_table_that_was_handed_out_never_changes(store: Store, dataset: Dataset) -> None:
    shard = leased(store, dataset.id)
    ids = candidates(store, dataset.id, shard, 3)
    give(store, shard, ids, "seam", [0.1, 0.2, 0.3])
    before = store.review.columns(dataset.id)
    decide(store, ids[0], Decision.ACCEPT, "a")
    after = store.review.columns(dataset.id)
    assert before.human.tolist() == [UNSEEN] * 3 and after.human.tolist() == [ACCEPTED, UNSEEN, UNSEEN]
    assert after.scores["seam"] is before.scores["seam"]  # what did not change is shared
    assert store.review.columns(dataset.id) is after  # and nothing is read when nothing happened
    give(store, shard, ids[:1], "seam", [0.9])
    assert after.values("seam")[0] == 0.1 and store.review.columns(dataset.id).values("seam")[0] == 0.9
    with pytest.raises(ValueError, match="read-only"):
        after.human[0] = REJECTED


def test_long_ranges_are_read_filter_by_filter(store: Store, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = leased(store, dataset.id)
    ids = candidates(store, dataset.id, shard, 20)
    give(store, shard, ids[::2], "seam", [0.5] * 10)
    give(store, shard, ids[5:], "size", [0.25] * 15)
    short = fresh(store, dataset.id)
    monkeypatch.setattr(columns, "MANY", 1)
    assert same(fresh(store, dataset.id), short)
    kept = store.review.columns(dataset.id)
    give(store, shard, ids, "seam", [None] * 20)
    assert not np.isnan(kept.values("seam")).all() and same(store.review.columns(dataset.id), fresh(store, dataset.id))


def test_a_new_data_set_under_an_old_id_is_read_anew(store: Store, dataset: Dataset, tmp_path: Path) -> None:
    candidates(store, dataset.id, leased(store, dataset.id), 3)
    assert len(store.review.columns(dataset.id)) == 3
    store.datasets.delete(dataset.id)
    with pytest.raises(NotFound, match="data set"):
        store.review.columns(dataset.id)
    again = store.datasets.import_document(small_document(tmp_path / "again"), "again")
    assert again.id == dataset.id and len(store.review.columns(again.id)) == 0


def test_only_some_data_sets_are_kept(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MOST", 2)
    ids = [store.datasets.import_document(small_document(tmp_path / n, images=1), n).id for n in "abc"]
    tables = {one: store.review.columns(one) for one in ids}
    assert [store.review.columns(one) is tables[one] for one in ids[1:]] == [True, True]
    assert store.review.columns(ids[0]) is not tables[ids[0]]


def test_readers_and_writers_at_once(store: Store, dataset: Dataset) -> None:
    shard = leased(store, dataset.id)
    ids = candidates(store, dataset.id, shard, 40)
    found: list[list[int]] = []

    def look() -> None:
        found.append([int((store.review.columns(dataset.id).human == ACCEPTED).sum()) for _ in range(40)])

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number, one in enumerate(ids):
        decide(store, one, Decision.ACCEPT, f"op{number}")
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(seen == sorted(seen) for seen in found)
    assert (store.review.columns(dataset.id).human == ACCEPTED).all()


def test_where_takes_runs_kinds_and_classes(store: Store, dataset: Dataset) -> None:
    first, second = (leased(store, dataset.id) for _ in range(2))
    a = candidates(store, dataset.id, first, 2)
    b = candidates(store, dataset.id, second, 2, kind=Kind.NEGATIVE_TEXT)
    table = store.review.columns(dataset.id)
    mug = int(table.category[0])
    assert table.where() is table
    assert table.where(run=first.run_id).ids.tolist() == a
    assert table.where(kind="negative_text").ids.tolist() == b
    assert table.where(run=second.run_id, category=mug).ids.tolist() == b
    assert len(table.where(category=mug + 1)) == 0


# Orders


def walk(store: Store, queue: Queue, limit: int = 3) -> list[Candidate]:
    found: list[Candidate] = []
    cursor: Sequence[object] | None = ()
    while cursor is not None:
        page, cursor = store.review.page(queue, cursor=cursor, limit=limit)
        found += page
    return found


RULES = tuple(Rule(filter=name, at_most=0.5) for name in ("seam", "size", "blur", "noise"))


def judged(store: Store, dataset: Dataset, rows: Sequence[Sequence[float | None]]) -> tuple[Shard, list[int]]:
    """Candidates, all of one class, with a score for each rule."""
    shard = leased(store, dataset.id, policy_id=store.review.save_policy("p", RULES).id)
    ids = candidates(store, dataset.id, shard, len(rows))
    for rule, values in zip(RULES, zip(*rows, strict=True), strict=True):
        give(store, shard, ids, rule.filter, values)
    return shard, ids


def test_filters_that_disagree_come_first(store: Store, dataset: Dataset) -> None:
    rows = [(0, 0, 0, 0), (0, 0, 9, 9), (None,) * 4, (0, 9, 9, 9), (9, 9, None, 0)]
    _, ids = judged(store, dataset, rows)
    order = [ids.index(c.id) for c in walk(store, Queue(dataset_id=dataset.id, order="disagree"))]
    assert order == [1, 4, 3, 0, 2]  # 2 of 4 pass, 1 of 3, 1 of 4, all, nobody knows


def test_the_class_with_the_fewest_accepted_comes_first_then_in_turn(store: Store, dataset: Dataset) -> None:
    classes = [category.id for category in store.datasets.categories(dataset.id)]
    shard = leased(store, dataset.id)
    image = store.datasets.images(dataset.id)[0].id
    sorts = [classes[0]] * 6 + [classes[1]] * 3 + [None]
    drafts = [
        NewCandidate(target=str(i), variant=0, kind=Kind.INSTANCE, image_id=image, seed=0, category_id=one)
        for i, one in enumerate(sorts)
    ]
    store.review.add_candidates(shard, drafts, dataset.id)
    ids = store.review.candidate_ids(shard.run_id)
    for one in ids[:2]:
        decide(store, one, Decision.ACCEPT, f"op{one}")
    decide(store, ids[2], Decision.REJECT, "no")
    shown = [c.category_id for c in walk(store, Queue(dataset_id=dataset.id, order="quota"))]
    a, b = classes
    assert shown == [b, b, a, b, a, a, None]


def test_a_look_is_worth_most_where_many_hang_on_an_uncertain_threshold(store: Store, dataset: Dataset) -> None:
    near, far = (0.5, 0.1, 0.1, 0.1), (9.0, 0.1, 0.1, 0.1)
    _, ids = judged(store, dataset, [far, near, near, near, far, far])
    order = [ids.index(c.id) for c in walk(store, Queue(dataset_id=dataset.id, order="value"))]
    assert set(order[:3]) == {1, 2, 3} and set(order[3:]) == {0, 4, 5}


@pytest.mark.parametrize("limit", [1, 3, 50])
@pytest.mark.parametrize("order", COMPUTED)
def test_a_computed_order_shows_each_once_whatever_is_decided_meanwhile(
    store: Store, dataset: Dataset, order: str, limit: int
) -> None:
    shard, ids = judged(store, dataset, [(i / 10, 0.2, 0.9 - i / 10, 0.7) for i in range(9)])
    other = candidates(store, dataset.id, leased(store, dataset.id), 2)  # of a run without a policy
    seen: list[int] = []
    cursor: Sequence[object] | None = ()
    while cursor is not None:
        page, cursor = store.review.page(Queue(dataset_id=dataset.id, order=order), cursor=cursor, limit=limit)
        seen += [one.id for one in page]
        for one in page:
            decide(store, one.id, Decision.REJECT if one.id % 2 else Decision.ACCEPT, f"op{one.id}")
    assert sorted(seen) == ids + other
    assert walk(store, Queue(run_id=shard.run_id, order=order)) == []
    assert len(walk(store, Queue(run_id=shard.run_id, order=order, human="reject"))) == sum(i % 2 for i in ids)


def test_a_ranking_that_is_gone_is_settled_anew(store: Store, dataset: Dataset) -> None:
    _, ids = judged(store, dataset, [(0.1, 0.2, 0.9, 0.7)] * 3)
    page, following = store.review.page(Queue(dataset_id=dataset.id, order="disagree"), cursor=[1, 2], limit=50)
    assert sorted(one.id for one in page) == ids and following is None


def test_every_order_is_explained_in_a_line() -> None:
    assert set(COMPUTED) < set(ORDERS) and all(text and "\n" not in text for text in ORDERS.values())


@pytest.mark.parametrize(
    ("queue", "cursor", "words"),
    [
        (Queue(order="value"), (), "one data set"),
        (Queue(dataset_id=1, order="value"), ("rest", 3), "none of this order"),
        (Queue(dataset_id=1, order="quota"), (1.5, 3), "none of this order"),
    ],
)
def test_what_a_computed_order_cannot_do_is_said(
    store: Store, dataset: Dataset, queue: Queue, cursor: Sequence[object], words: str
) -> None:
    with pytest.raises(WinnowError, match=words):
        store.review.page(queue, cursor=cursor)


# Selections and audits


@pytest.mark.parametrize("order", ["oldest", "random", "score:seam", "disagree"])
def test_a_selection_shows_exactly_what_was_picked(store: Store, dataset: Dataset, order: str) -> None:
    _, ids = judged(store, dataset, [(i / 10, 0.2, 0.9, 0.7) for i in range(8)])
    token = store.review.keep_selection(dataset.id, [ids[5], ids[1], ids[2], ids[1]])
    assert token == store.review.keep_selection(dataset.id, np.array(ids)[[1, 2, 5]])
    queue = Queue(dataset_id=dataset.id, selection=token, order=order)
    assert sorted(c.id for c in walk(store, queue, 2)) == [ids[1], ids[2], ids[5]]
    assert store.review.counts(queue, {})["human"] == {"undecided": 3}
    decide(store, ids[2], Decision.ACCEPT, "a")
    assert sorted(c.id for c in walk(store, queue, 2)) == [ids[1], ids[5]]


def test_a_selection_of_nothing_or_of_strangers_is_refused(store: Store, dataset: Dataset) -> None:
    _, ids = judged(store, dataset, [(0.1, 0.2, 0.9, 0.7)])
    with pytest.raises(WinnowError, match="Nothing is selected"):
        store.review.keep_selection(dataset.id, [])
    with pytest.raises(WinnowError, match="1 of the 2 selected are no candidates"):
        store.review.keep_selection(dataset.id, [ids[0], 999])
    for order in ("oldest", "value"):
        with pytest.raises(WinnowError, match="no selection 'gone'"):
            store.review.page(Queue(dataset_id=dataset.id, selection="gone", order=order))


def test_an_audit_is_shown_in_its_own_order_until_somebody_has_looked(store: Store, dataset: Dataset) -> None:
    _, ids = judged(store, dataset, [(0.1, 0.2, 0.3, 0.4)] * 8)
    decide(store, ids[0], Decision.ACCEPT, "before")
    policy = next(iter(store.review.policies(dataset.id).values()))
    audit = store.audits.create(dataset.id, policy.id, None, "simple", 5, 7, True, ids=np.array(ids))
    drawn = [item.candidate_id for item in store.audits.items(audit.id)]
    queue = Queue(dataset_id=dataset.id, audit=audit.id, order="random")
    assert [c.id for c in walk(store, queue, 2)] == drawn
    decide(store, drawn[1], Decision.REJECT, "look")
    assert [c.id for c in walk(store, queue, 2)] == [drawn[0], *drawn[2:]]
    decide(store, drawn[1], Decision.UNDO, "undo", undoes="look")
    assert [c.id for c in walk(store, queue, 2)] == drawn

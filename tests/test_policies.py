"""Policies: alternatives, rules for single classes, what decided, and that SQL, numpy and Python say the same."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import candidates, leased, small_document
from hypothesis import given, settings
from hypothesis import strategies as st

from db import schema
from db.columns import ACCEPT, PENDING, REJECT, decide, effective
from db.errors import NotFound, WinnowError
from db.queries import Queue
from db.records import Dataset, Decision, Kind, NewCandidate, NewVerdict, Policy, Rule, Score
from db.store import Store
from engine.recipe import load, parse
from studio import views
from studio.tables import recipe as recipe_card

FILTERS = ("seam", "size", "blur")
CLASSES = ("mug", "ball", None)
GRID = (None, 0.0, 0.5, 1.0)


def policy(*rules: Rule) -> Policy:
    return Policy(id=1, name="p", version=1, rules=rules, created_at=0)


LOOSE = Rule(filter="seam", at_most=3, kinds=(Kind.INSTANCE,))
CASES = [
    ("nothing speaks", (), {"seam": 1.0}, None, None, ()),
    ("all pass", (LOOSE, Rule(filter="size", at_least=1)), {"seam": 1, "size": 2}, None, True, ("seam", "size")),
    ("one fails", (LOOSE, Rule(filter="size", at_least=1)), {"seam": 4.2, "size": 2}, None, False, ("seam",)),
    ("failing beats missing", (LOOSE, Rule(filter="size", at_least=1)), {"seam": 4.2}, None, False, ("seam",)),
    ("missing", (LOOSE, Rule(filter="size", at_least=1)), {"seam": 1}, None, None, ("size",)),
    ("NaN is missing", (LOOSE,), {"seam": math.nan}, None, None, ("seam",)),
    ("no bounds still wants a value", (Rule(filter="seam"),), {}, None, None, ("seam",)),
    (
        "one alternative is enough",
        (Rule(filter="seam", at_most=1, group="g"), Rule(filter="size", at_least=1, group="g")),
        {"seam": 4, "size": 2},
        None,
        True,
        ("size",),
    ),
    (
        "a missing alternative may still pass",
        (Rule(filter="seam", at_most=1, group="g"), Rule(filter="size", at_least=1, group="g")),
        {"seam": 4},
        None,
        None,
        ("size",),
    ),
    (
        "all alternatives fail",
        (Rule(filter="seam", at_most=1, group="g"), Rule(filter="size", at_least=1, group="g")),
        {"seam": 4, "size": 0},
        None,
        False,
        ("seam", "size"),
    ),
    (
        "own rule of a class",
        (LOOSE, Rule(filter="seam", at_most=5, classes=("mug",))),
        {"seam": 4},
        "mug",
        True,
        ("seam",),
    ),
    (
        "not of another",
        (LOOSE, Rule(filter="seam", at_most=5, classes=("mug",))),
        {"seam": 4},
        "ball",
        False,
        ("seam",),
    ),
    ("no class at all", (LOOSE, Rule(filter="seam", at_most=5, classes=("mug",))), {"seam": 4}, None, False, ("seam",)),
    ("only for a class", (Rule(filter="seam", at_most=5, classes=("mug",)),), {"seam": 4}, "ball", None, ()),
]


@pytest.mark.parametrize(
    ("rules", "scores", "category", "says", "because"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_what_a_policy_says_and_why(
    rules: tuple[Rule, ...],
    scores: dict[str, float | None],
    category: str | None,
    says: bool | None,
    because: tuple[str, ...],
) -> None:
    found = policy(*rules).explain(Kind.INSTANCE, scores, category)
    assert found.says is says and policy(*rules).decide(Kind.INSTANCE, scores, category) is says
    assert tuple(rule.filter for rule in found.because) == because
    assert found.by == (found.because[0] if because else None)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Store, Dataset, int, list[tuple[int, Kind, str | None, dict]]]]:
    """A store with a candidate for every kind, class and combination of values."""
    folder: Path = tmp_path_factory.mktemp("policies")
    store = Store(folder / "home")
    dataset = store.datasets.import_document(small_document(folder / "files"), "small")
    shard = leased(store, dataset.id, policy_id=store.review.save_policy("none", []).id)
    ids = {category.name: category.id for category in store.datasets.categories(dataset.id)}
    image = store.datasets.images(dataset.id)[0].id
    sorts = list(itertools.product((Kind.INSTANCE, Kind.NEGATIVE_TEXT), CLASSES, itertools.product(GRID, repeat=3)))
    drafts = [
        NewCandidate(target=f"t{i}", variant=0, kind=kind, image_id=image, seed=i, category_id=ids.get(category or ""))
        for i, (kind, category, _) in enumerate(sorts)
    ]
    store.review.add_candidates(shard, drafts, dataset.id)
    made = store.review.candidate_ids(shard.run_id)
    known = [
        (i, kind, category, dict(zip(FILTERS, values, strict=True)))
        for i, (kind, category, values) in zip(made, sorts, strict=True)
    ]
    store.review.add_scores(
        shard, [Score(candidate_id=i, filter=name, value=v) for i, *_, scores in known for name, v in scores.items()]
    )
    yield store, dataset, shard.run_id, known
    store.close()


bounds = st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0])
rules = st.builds(
    Rule,
    filter=st.sampled_from((*FILTERS, "nowhere")),
    at_least=bounds,
    at_most=bounds,
    kinds=st.sampled_from([(), (Kind.INSTANCE,), (Kind.NEGATIVE_TEXT, Kind.INSTANCE)]),
    group=st.sampled_from(["", "", "a", "b"]),
    classes=st.sampled_from([(), (), ("mug",), ("mug", "ball"), ("absent",)]),
)


@settings(max_examples=60, deadline=None)
@given(chosen=st.lists(rules, max_size=6))
def test_sql_numpy_and_python_agree(world, chosen: Sequence[Rule]) -> None:
    store, dataset, run_id, known = world
    one = policy(*chosen)
    said = {i: one.decide(kind, scores, category) for i, kind, category, scores in known}
    accepted = {candidate.id for candidate in store.review.accepted(dataset.id, {run_id: one})}
    assert accepted == {i for i, says in said.items() if says}
    counted = store.review.counts(Queue(dataset_id=dataset.id), {run_id: one})["automatic"]
    outcomes = list(said.values())
    expected = {"accept": outcomes.count(True), "reject": outcomes.count(False), "pending": outcomes.count(None)}
    assert counted == {state: n for state, n in expected.items() if n}
    codes = {True: ACCEPT, False: REJECT, None: PENDING}
    table = store.review.columns(dataset.id)
    assert decide(table, one).tolist() == [codes[said[i]] for i in table.ids.tolist()]
    assert np.array_equal(effective(table, {run_id: one}), decide(table, one))


def test_a_policy_stored_before_groups_and_classes_is_read(store: Store) -> None:
    made = store.review.save_policy("old", [Rule(filter="seam", at_most=3, kinds=(Kind.INSTANCE,))])
    old = b'[{"filter":"seam","at_least":null,"at_most":3.0,"kinds":["instance"]}]'
    with store._database.write() as connection:
        connection.execute(schema.policy.update().where(schema.policy.c.id == made.id).values(rules=old))
    assert store.review.policy(made.id) == made
    assert msgspec.json.decode(old, type=list[Rule]) == list(made.rules)


def test_all_versions_stay_and_can_be_given_back(store: Store, dataset: Dataset) -> None:
    strict = store.review.save_policy("p", [Rule(filter="seam", at_most=1)])
    shard = leased(store, dataset.id, policy_id=strict.id)
    (one,) = candidates(store, dataset.id, shard, 1)
    store.review.add_scores(shard, [Score(candidate_id=one, filter="seam", value=2.0)])
    loose = store.review.save_policy("p", [Rule(filter="seam", at_most=3)])
    assert [p.version for p in store.review.policies_named("p")] == [2, 1]

    def said() -> dict[str, int]:
        return store.review.counts(Queue(dataset_id=dataset.id), store.review.policies(dataset.id))["automatic"]

    assert said() == {"reject": 1}
    store.review.give_policy([shard.run_id], loose.id)
    assert said() == {"accept": 1}
    store.review.give_policy([shard.run_id], loose.id)  # given already
    store.review.give_policy([shard.run_id], strict.id)
    assert said() == {"reject": 1}
    assert store.ledger.run(shard.run_id).options["policies"] == [strict.id, loose.id, strict.id]
    assert [line.text for line in store.ledger.logs(shard.run_id)] == [
        "Judged by policy p v2 from now on.",
        "Judged by policy p v1 from now on.",
    ]


def test_an_unknown_run_or_policy_changes_nothing(store: Store, dataset: Dataset) -> None:
    first, second = (store.review.save_policy(name, []) for name in "ab")
    run_id = leased(store, dataset.id, policy_id=first.id).run_id
    with pytest.raises(NotFound, match="run named 99"):
        store.review.give_policy([run_id, 99], second.id)
    with pytest.raises(NotFound, match="policy named 77"):
        store.review.give_policy([run_id], 77)
    assert store.ledger.run(run_id).options == {"policy_id": first.id}


@pytest.mark.parametrize(
    ("name", "rule", "words"),
    [
        (" ", Rule(filter="seam", at_most=1), "has no name"),
        ("p", Rule(filter="seam", at_most=math.nan), "at_most of seam is nan"),
        ("p", Rule(filter="seam", at_least=math.inf), "at_least of seam is inf"),
        ("p", Rule(filter="seam", at_least=3, at_most=2), "at least 3 and at most 2"),
    ],
)
def test_a_policy_that_means_nothing_is_not_saved(store: Store, name: str, rule: Rule, words: str) -> None:
    with pytest.raises(WinnowError, match=words):
        store.review.save_policy(name, [rule])
    assert store.review.policies_named() == []


SHIPPED = load("gen2det").text


def with_policy(lines: str) -> str:
    return SHIPPED[: SHIPPED.index("\npolicy:")] + "\npolicy:\n" + lines


def test_a_recipe_may_name_alternatives_and_single_classes() -> None:
    text = with_policy(
        "  - {filter: overlap, at_most: 0.5}\n"
        "  - any:\n"
        "      - {filter: seam, at_most: 3}\n"
        "      - {filter: sharpness, at_least: 0.2}\n"
        "  - {filter: overlap, at_most: 0.8, classes: [mug, ball]}\n"
    )
    found = parse(text)
    assert [(rule.filter, rule.group, rule.classes) for rule in found.rules()] == [
        ("overlap", "", ()),
        ("seam", "any 2", ()),
        ("sharpness", "any 2", ()),
        ("overlap", "", ("mug", "ball")),
    ]
    card = str(recipe_card(found, load_pack()))
    assert "Seam ≤ 3 or Sharpness ≥ 0.2" in card and "≤ 0.8 for mug, ball" in card


def load_pack():
    from engine.packs import load_pack as load

    return load("classic")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("  - {filter: beauty, at_most: 1}\n", "unknown filter 'beauty'; known: text_duplicate"),
        (
            "  - any:\n      - {filter: seam, at_most: 1}\n      - {filter: beauty, at_most: 1}\n",
            "unknown filter 'beauty'",
        ),
        ("  - any:\n      - {filter: seam, at_most: 1}\n", "at least 2 items"),
        ("  - any:\n      - {filter: seam, at_most: 1}\n      - {filter: language, at_least: 1}\n", "does not score"),
        ("  - {filter: seam, at_most: .nan}\n", "finite number"),
        ("  - {filter: seam, at_least: 3, at_most: 2}\n", "at least 3 and at most 2"),
        ("  - {filter: seam, at_most: 3, class: mug}\n", "Extra inputs"),
    ],
)
def test_a_recipe_with_an_impossible_policy_is_refused(lines: str, words: str) -> None:
    with pytest.raises(WinnowError, match=words):
        parse(with_policy(lines))


@pytest.mark.parametrize(
    ("rules", "value", "category", "says", "by"),
    [
        ((Rule(filter="seam", at_most=3),), 4.2, None, "reject", "Fails: Seam 4.2 > 3."),
        ((Rule(filter="seam", at_least=5),), 4.2, None, "reject", "Fails: Seam 4.2 < 5."),
        ((Rule(filter="seam", at_most=3),), 1.0, None, "accept", "The one rule passes."),
        ((Rule(filter="seam", at_most=3),), None, None, "pending", "No value for: Seam."),
        (
            (Rule(filter="seam", at_most=3, kinds=(Kind.NEGATIVE_TEXT,)),),
            1.0,
            None,
            "pending",
            "No rule speaks of this kind.",
        ),
        ((Rule(filter="seam", at_most=3, classes=("mug",)),), 4.2, "mug", "reject", "Fails: Seam 4.2 > 3 for mug."),
        (
            (Rule(filter="seam", at_most=3, group="g"), Rule(filter="overlap", at_most=1, group="g")),
            2.0,
            None,
            "accept",
            "Passes: Seam 2, asked ≤ 3.",
        ),
    ],
)
def test_the_card_says_which_rule_decided(
    rules: tuple[Rule, ...], value: float | None, category: str | None, says: str, by: str
) -> None:
    scores = [Score(candidate_id=1, filter="seam", value=value)]
    assert views.decision(Kind.INSTANCE, scores, policy(*rules), category) == {"says": says, "by": by, "name": "p v1"}


def test_a_verdict_of_a_person_stands_above_a_rule_for_its_class(store: Store, dataset: Dataset) -> None:
    made = store.review.save_policy(
        "p", [Rule(filter="seam", at_most=1), Rule(filter="seam", at_most=9, classes=("mug",))]
    )
    shard = leased(store, dataset.id, policy_id=made.id)
    one, two = candidates(store, dataset.id, shard, 2)
    store.review.add_scores(shard, [Score(candidate_id=i, filter="seam", value=5.0) for i in (one, two)])
    store.review.decide([NewVerdict(op_id="a", candidate_id=two, decision=Decision.REJECT)])
    policies = store.review.policies(dataset.id)
    assert [c.id for c in store.review.accepted(dataset.id, policies)] == [one]
    assert effective(store.review.columns(dataset.id), policies).tolist() == [ACCEPT, REJECT]

"""Agreement: the worked examples of the literature, bounds, and intervals that hold what they promise."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.errors import WinnowError
from engine.agreement import Agreement, agreement, cohen, krippendorff, pairwise

LABELS = st.sampled_from(["accept", "reject"])


def spread(table: dict[tuple[str, str], int]) -> tuple[list[str], list[str]]:
    """The labels of two reviewers, from a table of how often each pair occurs."""
    pairs = [pair for pair, times in table.items() for _ in range(times)]
    return [one for one, _ in pairs], [other for _, other in pairs]


COHEN_1960 = {  # agreement 140 of 200; by chance 0.6 * 0.5 + 0.3 * 0.3 + 0.1 * 0.2 = 0.41
    ("1", "1"): 88,
    ("1", "2"): 14,
    ("1", "3"): 18,
    ("2", "1"): 10,
    ("2", "2"): 40,
    ("2", "3"): 10,
    ("3", "1"): 2,
    ("3", "2"): 6,
    ("3", "3"): 12,
}
GRANTS = {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}  # 0.7 seen, 0.5 by chance


@pytest.mark.parametrize(("table", "kappa"), [(COHEN_1960, (0.70 - 0.41) / 0.59), (GRANTS, 0.4)])
def test_kappa_of_worked_examples(table: dict[tuple[str, str], int], kappa: float) -> None:
    found = cohen(*spread(table))
    assert found.value == pytest.approx(kappa)
    assert found.low is not None and found.high is not None and found.low < kappa < found.high
    assert found.items == sum(table.values())


def test_the_interval_of_kappa_is_that_of_its_standard_error() -> None:
    """Fleiss, Cohen and Everitt (1969) for 2 x 2: 0.4 with a standard error of 0.1294 for 50 items."""
    seen, (a, b) = 0.4, ((0.4, 0.1), (0.2, 0.3))
    rows, columns, chance = np.array([0.5, 0.5]), np.array([0.6, 0.4]), 0.5
    table = np.array([a, b])
    diagonal = sum(table[i, i] * (1 - (rows[i] + columns[i]) * (1 - seen)) ** 2 for i in range(2))
    off = (1 - seen) ** 2 * sum(table[i, 1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in range(2))
    error = np.sqrt(diagonal + off - (seen - chance * (1 - seen)) ** 2) / ((1 - chance) * np.sqrt(50))
    found = cohen(*spread(GRANTS))
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def columns(*observers: str) -> list[list[str]]:
    return [[label for label in unit if label != "*"] for unit in zip(*observers, strict=True)]


KRIPPENDORFF_2011 = [  # * is a missing value
    (0.095, ("0100000010", "1110010000")),
    (0.692, ("aabbdcccedda", "babbbccceddd")),
    (0.743, ("123321412***", "1233224125*3", "*3332342251*", "12332441251*")),
]


@pytest.mark.parametrize(("alpha", "observers"), KRIPPENDORFF_2011, ids=["two values", "five values", "values missing"])
def test_alpha_of_worked_examples(alpha: float, observers: tuple[str, ...]) -> None:
    found = krippendorff(columns(*observers))
    assert found.value == pytest.approx(alpha, abs=5e-4)
    assert found.low is not None and found.high is not None and found.low < alpha < found.high


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4), max_size=12))
def test_alpha_is_what_its_definition_says(items: list[list[str]]) -> None:
    """One minus the disagreement within items over the one between any two labels, pair by pair."""
    counted = [labels for labels in items if len(labels) > 1]
    everything = [label for labels in counted for label in labels]
    n = len(everything)
    within = sum(a != b for labels in counted for a in labels for b in labels) if n else 0
    seen = sum(sum(a != b for a in labels for b in labels) / (len(labels) - 1) for labels in counted)
    between = sum(a != b for a in everything for b in everything)
    found = krippendorff(items)
    assert found.items == len(counted)
    if between == 0:
        assert found.value is None and within == 0
    else:
        assert found.value == pytest.approx(1 - seen / n / (between / (n * (n - 1))))


@settings(max_examples=50)
@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30))
def test_kappa_is_symmetric_and_bounded(pairs: list[tuple[str, str]]) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = cohen(one, other), cohen(other, one)
    assert there.value == (None if back.value is None else pytest.approx(back.value))
    if there.value is not None:
        assert -1 - 1e-9 <= there.value <= 1 + 1e-9
        assert (there.value == pytest.approx(1)) is (one == other)


def test_labels_that_never_vary_say_nothing() -> None:
    found = cohen(["accept"] * 9, ["accept"] * 9)
    assert (found.value, found.low, found.high, found.items) == (None, None, None, 9)
    assert krippendorff([["accept", "accept"]] * 9).value is krippendorff([]).value is None


def test_full_agreement_on_few_items_is_not_certain() -> None:
    labels = ["accept", "reject"] * 5
    few, many = cohen(labels, labels), cohen(labels * 50, labels * 50)
    assert few.value == many.value == 1
    assert few.low is not None and few.low < 0.5
    assert many.low is not None and many.low > 0.95


def test_reviewers_must_label_the_same_items() -> None:
    with pytest.raises(WinnowError, match="3 of one reviewer and 2"):
        cohen(["a"] * 3, ["a"] * 2)


def test_more_items_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(1600) < 0.5
    items = [[str(bool(t ^ (rng.random() < 0.1))) for _ in range(3)] for t in truth]
    few, many = krippendorff(items[:100]), krippendorff(items)
    assert None not in (few.low, few.high, many.low, many.high)
    assert few.high - few.low == pytest.approx(4 * (many.high - many.low), rel=0.4)  # type: ignore[operator]
    assert many.value == pytest.approx(0.64, abs=0.05)  # each errs at a rate of 0.1: (1 - 2 * 0.1) ** 2


@pytest.mark.slow
def test_the_interval_of_alpha_covers_the_truth() -> None:
    """Two reviewers who err at rates 0.1 and 0.2 on balanced items agree to (1 - 0.2) * (1 - 0.4) = 0.48."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(400):
        truth = rng.random(150) < 0.5
        labels = [np.where(rng.random(150) < rate, ~truth, truth).astype(str) for rate in (0.1, 0.2)]
        found = krippendorff(list(zip(*labels, strict=True)), seed=trial)
        held += found.low <= 0.48 <= found.high  # type: ignore[operator]
    assert held / 400 >= 0.92


RATINGS = {
    1: {"ann": "accept", "bob": "accept", "eve": "reject"},
    2: {"ann": "accept", "bob": "reject"},
    3: {"ann": "reject", "bob": "reject"},
    4: {"eve": "accept"},
}


def test_a_table_of_reviewers() -> None:
    found = agreement(RATINGS)
    assert found.reviewers == (("ann", 3), ("bob", 3), ("eve", 2)) and found.items == found.alpha.items == 3
    assert [(pair.one, pair.other, pair.items) for pair in found.pairs] == [
        ("ann", "bob", 3),
        ("ann", "eve", 1),
        ("bob", "eve", 1),
    ]
    both = found.pairs[0]
    assert both.table == (("accept", "accept", 1), ("accept", "reject", 1), ("reject", "reject", 1))
    assert both.same == pytest.approx(2 / 3) and both.same_low < 2 / 3 < both.same_high
    assert both.kappa.value == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Agreement) == found


def test_one_reviewer_agrees_with_nobody() -> None:
    found = agreement({1: {"ann": "accept"}, 2: {"ann": "reject"}})
    assert found.items == 0 and found.alpha.value is None and found.pairs == pairwise({}) == ()


def test_the_same_seed_gives_the_same_interval() -> None:
    assert agreement(RATINGS, seed=3) == agreement(RATINGS, seed=3)

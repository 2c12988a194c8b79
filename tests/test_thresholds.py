"""The questions of the threshold lab, against plain loops over the same candidates."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.columns import KINDS, Table
from db.errors import WinnowError
from db.records import Kind, Policy, Rule
from engine import thresholds
from engine.diversity import wilson
from studio.benches.lab import measure

NAN = math.nan


def table(human: Sequence[int] | None = None, **scores: Sequence[float]) -> Table:
    """Instances with these scores; ids 1, 2, ..."""
    n = len(next(iter(scores.values())))
    return Table(
        ids=np.arange(1, n + 1),
        run=np.ones(n, np.int64),
        kind=np.full(n, KINDS.index(Kind.INSTANCE), np.int8),
        category=np.full(n, -1),
        human=np.array(human if human is not None else [0] * n, np.int8),
        shuffle=(np.arange(n) * 0.618034 % 1).astype(np.float32),
        scores={name: np.array(values, float) for name, values in scores.items()},
        names={},
    )


def policy(*rules: Rule) -> Policy:
    return Policy(id=0, name="p", version=1, rules=rules, created_at=0)


@given(
    values=st.lists(st.floats(-1e6, 1e6) | st.just(NAN) | st.sampled_from([0.0, 0.1, 0.3]), min_size=1, max_size=60),
    bins=st.integers(1, 12),
    seed=st.integers(0, 9),
)
def test_every_value_lies_in_its_bin(values: list[float], bins: int, seed: int) -> None:
    human = np.random.default_rng(seed).integers(0, 4, len(values)).tolist()
    found = thresholds.histogram(table(human, seam=values), "seam", bins)
    edges = found.edges
    assert len(edges) == bins + 1 and np.isfinite(edges).all() and sorted(set(edges)) == edges
    assert found.missing == sum(map(math.isnan, values))
    for codes, counts in (((1,), found.accepted), ((2,), found.rejected), ((0, 3), found.unseen)):
        mine = [v for v, h in zip(values, human, strict=True) if h in codes and not math.isnan(v)]
        inside = [sum(low <= v < high for v in mine) for low, high in itertools.pairwise(edges)]
        inside[-1] += sum(v == edges[-1] for v in mine)
        assert counts == inside and sum(counts) == len(mine)


def test_infinite_values_count_in_the_outermost_bins() -> None:
    found = thresholds.histogram(table(seam=[-math.inf, 0, 1, math.inf, NAN]), "seam", 2)
    assert (found.edges, found.unseen, found.missing) == ([0, 0.5, 1], [2, 2], 1)


@pytest.mark.parametrize(
    ("human", "values", "words"),
    [
        ([0, 3], [1, 2], "Nobody has decided"),
        ([1, 0], [NAN, 2], "Nobody has decided"),
        ([1, 1], [1, 2], "only accepted"),
        ([2, 0], [1, 2], "only rejected"),
        ([1, 2], [NAN, NAN], "No candidate here has a value"),
        ([1, 2], [1, 2], ""),
    ],
)
def test_a_histogram_says_what_it_cannot_show(human: list[int], values: list[float], words: str) -> None:
    note = thresholds.histogram(table(human, seam=values), "seam").note
    assert words in note and bool(note) == bool(words)


def test_flips_are_the_difference_between_two_policies() -> None:
    before, after = (
        policy(Rule(filter="seam", at_most=3)),
        policy(Rule(filter="seam", at_most=2), Rule(filter="size", at_least=1)),
    )
    one = table(seam=[1, 2.5, 9, 1, NAN, 1], size=[5, 5, 5, NAN, 5, 0])
    found = thresholds.flips(one, before, after)
    assert thresholds.decide(one, before).tolist() == [1, 1, 2, 1, 0, 1]
    assert thresholds.decide(one, after).tolist() == [1, 2, 2, 0, 0, 2]
    assert (found.accept, found.reject, found.pending) == (1, 3, 2)
    assert (found.to_accept, found.to_reject, found.to_pending) == (0, 2, 1)
    assert (found.first_accept, found.first_reject, found.first_pending) == ([], [2, 6], [4])
    back = thresholds.flips(one, after, before, shown=1)
    assert (back.to_accept, back.first_accept) == (3, [2])


def test_nothing_flips_between_a_policy_and_itself() -> None:
    same = policy(Rule(filter="seam", at_most=3))
    found = thresholds.flips(table(seam=[1, 5, NAN]), same, same)
    assert (found.to_accept, found.to_reject, found.to_pending) == (0, 0, 0)


def test_a_filter_that_nobody_knows_is_named() -> None:
    one = table(seam=[1.0], own=[2.0])
    with pytest.raises(WinnowError, match="unknown filter 'beauty'; known are .*own.*seam"):
        thresholds.decide(one, policy(Rule(filter="beauty", at_least=1)))
    assert thresholds.decide(one, policy(Rule(filter="own", at_least=1))).tolist() == [1]
    assert thresholds.decide(one, policy(Rule(filter="sharpness", at_least=1))).tolist() == [
        0
    ]  # known, but not scored here
    with pytest.raises(WinnowError, match="no class 'cat'"):
        thresholds.refuse_unknown([Rule(filter="seam", at_most=1, classes=("cat", "dog"))], ["seam"], ["dog"])


def test_agreement_is_counted_over_what_people_decided() -> None:
    human = [1, 1, 1, 1, 2, 2, 0, 3]
    decided = np.array([1, 1, 2, 0, 1, 2, 1, 1], np.int8)
    found = thresholds.against(table(human, seam=[0.0] * 8), decided)
    assert (found.tp, found.fp, found.fn, found.tn) == (2, 1, 2, 1)
    assert found.precision == (2 / 3, *wilson(2, 3)) and found.recall == (2 / 4, *wilson(2, 4))
    assert found.f1 is not None and found.f1[0] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert found.f1[1] < found.f1[0] < found.f1[2]


def test_there_is_no_agreement_without_verdicts() -> None:
    found = thresholds.against(table(seam=[0.0] * 3), np.ones(3, np.int8))
    assert (found.tp, found.precision, found.recall, found.f1) == (0, None, None, None)
    nothing_accepted = thresholds.against(table([1, 2, 0], seam=[0.0] * 3), np.full(3, 2, np.int8))
    assert nothing_accepted.precision is None and nothing_accepted.recall is not None


def test_a_scatter_is_a_sample_that_says_so() -> None:
    rng = np.random.default_rng(0)
    one = table(seam=rng.random(500), size=np.where(rng.random(500) < 0.1, NAN, rng.random(500)))
    both = np.flatnonzero(~np.isnan(one.scores["size"]))
    whole = thresholds.scatter(one, "seam", "size")
    assert np.array_equal(whole.ids, one.ids[both]) and whole.note == ""
    some = thresholds.scatter(one, "seam", "size", most=50)
    assert len(some.ids) == 50 and set(some.ids) < set(whole.ids) and f"50 of {len(both)}" in some.note
    assert np.array_equal(some.x, one.scores["seam"][some.ids - 1])


corner = st.tuples(st.floats(-2, 2), st.floats(-2, 2))


@given(polygon=st.lists(corner, min_size=3, max_size=9), seed=st.integers(0, 99))
def test_the_lasso_takes_what_lies_within(polygon: list[tuple[float, float]], seed: int) -> None:
    x, y = np.random.default_rng(seed).uniform(-2, 2, (2, 80))
    x[0] = NAN
    found = set(thresholds.inside(table(seam=x, size=y), "seam", "size", polygon).tolist())
    assert found == {i + 1 for i in range(80) if crossings(x[i], y[i], polygon) % 2}


def crossings(x: float, y: float, polygon: Sequence[tuple[float, float]]) -> int:
    """How often a ray to the right meets the outline."""
    edges = zip(polygon, [*polygon[1:], polygon[0]], strict=True)
    return sum((y < y1) != (y < y2) and x < x1 + (y - y1) * ((x2 - x1) / (y2 - y1)) for (x1, y1), (x2, y2) in edges)


def test_a_known_lasso_of_two_halves() -> None:
    x, y = np.meshgrid(np.arange(5.0), np.arange(5.0))
    one = table(seam=x.ravel(), size=y.ravel())
    square = [(0.5, 0.5), (3.5, 0.5), (3.5, 3.5), (0.5, 3.5)]
    assert thresholds.inside(one, "seam", "size", square).tolist() == [7, 8, 9, 12, 13, 14, 17, 18, 19]


@pytest.mark.parametrize("polygon", [[], [(0, 0), (1, 1)], [(0, 0), (1, 1), (NAN, 0)]])
def test_what_is_no_polygon_is_refused(polygon: list[tuple[float, float]]) -> None:
    with pytest.raises(WinnowError, match="three points or more"):
        thresholds.inside(table(seam=[1.0], size=[1.0]), "seam", "size", polygon)


def test_the_bench_and_sqlite_count_the_same_flips() -> None:
    figures = measure(2000, rounds=1)["figures"]
    wanted = {"histogram_ms", "flips_ms", "against_ms", "load_s", "update_ms", "memory_mib", "flips_ratio_to_sql"}
    assert wanted <= figures.keys() and figures["candidates"] == 2000 and figures["memory_mib"] > 0

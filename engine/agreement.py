"""How far reviewers agree: Cohen's kappa for two, Krippendorff's alpha for any number, each with a bootstrap interval.

Both compare the agreement that was seen with the one expected of reviewers who give their labels at random in the same
proportions: 1 is full agreement, 0 what chance gives, below 0 is worse than chance. Labels are nominal: none is nearer to
another. Neither says anything when all labels are the same one; the result is then None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from db.errors import WinnowError
from db.records import Record

RESAMPLES = 2000
UNDEFINED = 0.05  # share of resamples without a value from which on no interval is given

Ratings = Mapping[int, Mapping[str, str]]  # item -> reviewer -> label
Array = NDArray[np.float64]


class Estimate(Record, frozen=True, kw_only=True):
    """A coefficient with its 95 % interval `low` to `high`, over so many `items`. The value is None when all labels are the
    same, the interval when too many resamples are so."""

    value: float | None
    low: float | None
    high: float | None
    items: int


class Pair(Record, frozen=True, kw_only=True):
    """Two reviewers on the items that both have labelled. `table` counts (label of `one`, label of `other`): times;
    `same` is the share of equal labels with its Wilson interval."""

    one: str
    other: str
    items: int
    same: float
    same_low: float
    same_high: float
    kappa: Estimate
    table: tuple[tuple[str, str, int], ...]


class Agreement(Record, frozen=True, kw_only=True):
    """`items` counts what at least two reviewers have labelled; the rest says nothing about agreement. Reviewers by name, with
    the number of labels each gave; pairs with the most common items first."""

    reviewers: tuple[tuple[str, int], ...]
    items: int
    alpha: Estimate
    pairs: tuple[Pair, ...]


def agreement(ratings: Ratings, *, seed: int = 0) -> Agreement:
    """How far the reviewers of some items agree; a reviewer who has no label for an item is left out there."""
    given: dict[str, int] = {}
    for labels in ratings.values():
        for reviewer in labels:
            given[reviewer] = given.get(reviewer, 0) + 1
    shared = [list(labels.values()) for labels in ratings.values() if len(labels) > 1]
    return Agreement(
        reviewers=tuple(sorted(given.items())),
        items=len(shared),
        alpha=krippendorff(shared, seed=seed),
        pairs=pairwise(ratings, seed=seed),
    )


def pairwise(ratings: Ratings, *, seed: int = 0) -> tuple[Pair, ...]:
    """Every two reviewers with items in common, those with the most items first."""
    met: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for labels in ratings.values():
        for one, other in combinations(sorted(labels), 2):
            met.setdefault((one, other), []).append((labels[one], labels[other]))
    pairs = (_pair(*names, both, seed) for names, both in met.items())
    return tuple(sorted(pairs, key=lambda pair: (-pair.items, pair.one, pair.other)))


def _pair(one: str, other: str, both: list[tuple[str, str]], seed: int) -> Pair:
    same = sum(a == b for a, b in both)
    interval = binomtest(same, len(both)).proportion_ci(method="wilson")
    counted = {labels: both.count(labels) for labels in sorted(set(both))}
    return Pair(
        one=one,
        other=other,
        items=len(both),
        same=same / len(both),
        same_low=float(interval.low),
        same_high=float(interval.high),
        kappa=cohen([a for a, _ in both], [b for _, b in both], seed=seed),
        table=tuple((*labels, times) for labels, times in counted.items()),
    )


def cohen(one: Sequence[str], other: Sequence[str], *, seed: int = 0) -> Estimate:
    """Cohen's kappa of two reviewers' labels for the same items (Cohen 1960, "A Coefficient of Agreement for Nominal Scales").

    Raises WinnowError when they do not label equally many items.
    """
    if len(one) != len(other):
        raise WinnowError(
            f"Kappa compares labels item by item; got {len(one)} of one reviewer and {len(other)} of another."
        )
    names = sorted({*one, *other})
    code = {name: i for i, name in enumerate(names)}
    cells = np.zeros((len(one), len(names) ** 2))
    cells[np.arange(len(one)), [code[a] * len(names) + code[b] for a, b in zip(one, other, strict=True)]] = 1
    return _estimate(cells, lambda sums: _kappa(sums.reshape(-1, len(names), len(names))), seed)


def _kappa(tables: Array) -> tuple[Array, Array]:
    """Of contingency tables [m, k, k]: the disagreement seen and the one expected of independent reviewers."""
    shares = tables / np.maximum(tables.sum((1, 2), keepdims=True), 1)
    seen = 1 - np.trace(shares, axis1=1, axis2=2)
    return seen, 1 - (shares.sum(1) * shares.sum(2)).sum(1)


def krippendorff(items: Sequence[Sequence[str]], *, seed: int = 0) -> Estimate:
    """Krippendorff's alpha for nominal labels (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    Each item is the labels it was given, by however many reviewers; one of fewer than two labels does not count.
    """
    names = sorted({label for labels in items for label in labels})
    code = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(items), len(names)))
    for row, labels in enumerate(items):
        np.add.at(counts[row], [code[label] for label in labels], 1)
    counts = counts[counts.sum(1) > 1]
    given = counts.sum(1)
    equal = (counts * (counts - 1)).sum(1) / np.maximum(given - 1, 1)
    return _estimate(np.column_stack([given, equal, counts]), _alpha, seed)


def _alpha(sums: Array) -> tuple[Array, Array]:
    """Of sums [m, 2 + k] over items (labels, their part in equal pairs, labels of each sort): the disagreement seen and expected."""
    given, equal, counts = np.maximum(sums[:, 0], 2), sums[:, 1], sums[:, 2:]
    seen = np.where(sums[:, 0] > 0, 1 - equal / given, 0.0)
    expected = (given**2 - (counts**2).sum(1)) / (given * (given - 1))
    return seen, np.where(sums[:, 0] > 0, expected, 0.0)


# Intervals

Statistic = Callable[[Array], tuple[Array, Array]]  # sums [m, f] -> (disagreement seen [m], disagreement expected [m])


def _estimate(rows: Array, statistic: Statistic, seed: int) -> Estimate:
    """1 - seen / expected over the items' rows [n, f], which the statistic takes as sums, and its percentile interval over
    resampled items. Equal rows are drawn together, so that a million items cost what their few patterns cost."""
    if not len(rows):
        return Estimate(value=None, low=None, high=None, items=0)
    (seen,), (expected,) = statistic(rows.sum(0, keepdims=True))
    if expected <= 0:
        return Estimate(value=None, low=None, high=None, items=len(rows))
    low, high = _interval(rows, statistic, seed) if seen > 0 else (_unanimous(len(rows), float(expected)), 1.0)
    return Estimate(value=float(1 - seen / expected), low=low, high=high, items=len(rows))


def _interval(rows: Array, statistic: Statistic, seed: int) -> tuple[float | None, float | None]:
    drawn = np.concatenate(list(_resampled(rows, seed)))
    seen, expected = statistic(drawn)
    defined = expected > 0
    if defined.mean() < 1 - UNDEFINED:
        return None, None
    low, high = np.quantile(1 - seen[defined] / expected[defined], [0.025, 0.975])
    return float(low), float(high)


def _resampled(rows: Array, seed: int) -> Iterator[Array]:
    patterns, times = np.unique(rows, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    for _ in range(0, RESAMPLES, 200):
        yield rng.multinomial(len(rows), times / len(rows), size=200) @ patterns


def _unanimous(items: int, expected: float) -> float:
    """A resample cannot disagree where nobody did, and would pretend to be certain. So the lower end is where agreement would be if
    as many items were in dispute as the Wilson interval of "none of so many" allows."""
    disputed = binomtest(0, items).proportion_ci(method="wilson").high
    return float(1 - disputed / expected)

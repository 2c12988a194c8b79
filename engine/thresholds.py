"""The threshold lab: what a policy would do to a million candidates, asked at every move of a threshold.

Pure functions on the columns of a data set (`db.columns.Table`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from db import columns
from db.columns import ACCEPT, ACCEPTED, PENDING, REJECT, REJECTED, SKIPPED, Float, Int, Int8, Table
from db.errors import WinnowError
from db.records import Policy, Record, Rule
from engine.diversity import wilson
from engine.filters import FILTERS

BINS = 50
SHOWN = 12  # examples of each flip
LEVELS = 4096  # of height, that points are sorted into before a polygon is laid over them

LEAST_HEIGHT = 1e-300  # of a polygon with levels; a fraction of less has no room in a float

Estimate = tuple[float, float, float]  # value, and the ends of its 95 % interval
Point = tuple[float, float]


class Histogram(Record, frozen=True, kw_only=True):
    """How many values lie in each bin, by what people said. `edges` are one more than the bins, ascending; a bin holds its lower
    edge, the last one also its upper. `missing` candidates have no value. `note` says what cannot be read off it."""

    edges: list[float]
    accepted: list[int]
    rejected: list[int]
    unseen: list[int]  # also those that somebody skipped
    missing: int
    note: str = ""


class Flips(Record, frozen=True, kw_only=True):
    """What a policy says of how many (`accept`, `reject`, `pending`), how many of them another one said otherwise of, and the first
    of those."""

    accept: int
    reject: int
    pending: int
    to_accept: int
    to_reject: int
    to_pending: int
    first_accept: list[int]
    first_reject: list[int]
    first_pending: list[int]


class Agreement(Record, frozen=True, kw_only=True):
    """A policy against people, over the candidates that people decided: `tp` accepted by both, `fp` by the policy alone, `fn` by
    people alone, `tn` by neither. What the policy leaves pending, it does not accept.

    None where there is nothing to divide by. Intervals are Wilson's; that of F1 follows from it, because F1 = 2 J / (1 + J)
    grows with J = tp / (tp + fp + fn), which is a share.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None


class Scatter(Record, frozen=True, kw_only=True):
    """Two scores against each other, for the candidates that have both. `human` as in `Table`."""

    ids: Int
    x: Float
    y: Float
    human: Int8
    note: str = ""


def histogram(table: Table, filter: str, bins: int = BINS) -> Histogram:
    """The values of a filter in equal bins between the smallest and the largest. Infinite ones count in the outermost bin.

    Raises WinnowError for a filter that is unknown.
    """
    values = _values(table, filter)
    there = ~np.isnan(values)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    edges = np.linspace(low, high, bins + 1) if high > low else _around(low, bins)
    at = _bins(values[there], edges)
    counts = np.bincount(_GROUP[table.human[there]] * bins + at, minlength=3 * bins).reshape(3, bins)
    unseen, accepted, rejected = counts.tolist()
    return Histogram(
        edges=edges.tolist(),
        accepted=accepted,
        rejected=rejected,
        unseen=unseen,
        missing=len(table) - len(at),
        note=_note(len(at), sum(accepted), sum(rejected)),
    )


_GROUP = np.zeros(SKIPPED + 1, np.int32)  # human -> row of the counts
_GROUP[ACCEPTED], _GROUP[REJECTED] = 1, 2


def _bins(values: Float, edges: Float) -> NDArray[np.int32]:
    """The bin of each value, between equally spaced edges."""
    last = len(edges) - 2
    values = np.clip(values, edges[0], edges[-1])
    shares = (values - edges[0]) / (edges[-1] - edges[0])
    at = np.minimum(shares * (last + 1), last).astype(np.int32)
    at -= values < edges[at]  # where rounding put a value beside its bin
    at += (values >= edges[at + 1]) & (at < last)
    return at


def _around(value: float, bins: int) -> Float:
    """Edges where all values are the same."""
    reach = max(abs(value) * 0.01, 0.5)
    return np.linspace(value - reach, value + reach, bins + 1)


def _note(values: int, accepted: int, rejected: int) -> str:
    if not values:
        return "No candidate here has a value of this filter."
    if not accepted + rejected:
        return "Nobody has decided on any of these yet: review some before you trust a threshold."
    if not accepted or not rejected:
        return (
            f"People have only {'rejected' if rejected else 'accepted'} so far: nothing shows yet where the two part."
        )
    return ""


def decide(table: Table, policy: Policy) -> Int8:
    """int8[n]: 1 accept, 2 reject, 0 pending. Raises WinnowError when a rule names a filter that nobody knows."""
    refuse_unknown(policy.rules, [*FILTERS, *table.scores])
    return columns.decide(table, policy)


def refuse_unknown(rules: Sequence[Rule], filters: Collection[str], classes: Collection[str] | None = None) -> None:
    """Raises WinnowError that names each filter and, where `classes` are given, each class of the rules that is none of these."""
    unknown = dict.fromkeys(rule.filter for rule in rules if rule.filter not in filters)
    faults = [f"unknown filter {name!r}" for name in unknown]
    if unknown:
        faults.append(f"known are {', '.join(sorted(set(filters)))}")
    if classes is not None:
        named = dict.fromkeys(name for rule in rules for name in rule.classes if name not in classes)
        faults += [f"the data set has no class {name!r}" for name in named]
    if faults:
        raise WinnowError(f"The policy cannot be used: {'; '.join(faults)}.")


def flips(table: Table, before: Policy, after: Policy, shown: int = SHOWN) -> Flips:
    """What changes sides when `after` judges instead of `before`. Raises WinnowError as `decide` does."""
    was, now = decide(table, before), decide(table, after)
    pair = np.bincount(was * np.int8(3) + now, minlength=9).reshape(3, 3)
    total, moved = pair.sum(0).tolist(), (pair.sum(0) - pair.diagonal()).tolist()

    def first(code: int) -> list[int]:
        return table.ids[np.flatnonzero((now == code) & (was != code))[:shown]].tolist() if moved[code] else []

    return Flips(
        accept=total[ACCEPT],
        reject=total[REJECT],
        pending=total[PENDING],
        to_accept=moved[ACCEPT],
        to_reject=moved[REJECT],
        to_pending=moved[PENDING],
        first_accept=first(ACCEPT),
        first_reject=first(REJECT),
        first_pending=first(PENDING),
    )


def against(table: Table, decided: Int8) -> Agreement:
    """How what a policy decided agrees with what people did."""
    counts = np.bincount(table.human * np.int8(2) + (decided == ACCEPT), minlength=2 * (SKIPPED + 1))
    fn, tp = counts[2 * ACCEPTED : 2 * ACCEPTED + 2].tolist()
    tn, fp = counts[2 * REJECTED : 2 * REJECTED + 2].tolist()
    return Agreement(
        tp=tp,
        fp=fp,
        fn=fn,
        tn=tn,
        precision=_share(tp, tp + fp),
        recall=_share(tp, tp + fn),
        f1=_f1(_share(tp, tp + fp + fn)),
    )


def _share(hits: int, trials: int) -> Estimate | None:
    return (hits / trials, *wilson(hits, trials)) if trials else None


def _f1(jaccard: Estimate | None) -> Estimate | None:
    if jaccard is None:
        return None
    value, low, high = (2 * j / (1 + j) for j in jaccard)
    return value, low, high


def scatter(table: Table, fx: str, fy: str, most: int = 20_000) -> Scatter:
    """Two filters against each other; a random sample when more than `most` candidates have both values. The sample is the same
    every time. Raises WinnowError for a filter that is unknown."""
    x, y = _values(table, fx), _values(table, fy)
    both = np.isfinite(x) & np.isfinite(y)
    count, note = int(both.sum()), ""
    if count > most:
        edge = np.partition(table.shuffle[both], most)[most]
        both &= table.shuffle < edge
        note = f"A random {int(both.sum()):,} of {count:,} are drawn; the lasso takes all."
    return Scatter(ids=table.ids[both], x=x[both], y=y[both], human=table.human[both], note=note)


def inside(table: Table, fx: str, fy: str, polygon: Sequence[Point]) -> Int:
    """The ids of all candidates within a polygon in the plane of two filters, by the even-odd rule.

    Raises WinnowError for an unknown filter, and for a polygon of fewer than three points or with one that is not finite.
    """
    corners = np.array([tuple(point) for point in polygon], float).reshape(-1, 2)
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise WinnowError(f"A polygon has three points or more, all finite; got {list(polygon)!r:.100}.")
    x, y = _values(table, fx), _values(table, fy)
    (left, low), (right, high) = corners.min(0), corners.max(0)
    rows = np.flatnonzero((x >= left) & (x <= right) & (y >= low) & (y <= high))
    return table.ids[rows[_within(x[rows], y[rows], corners)]]


def _within(x: Float, y: Float, corners: Float) -> NDArray[np.bool_]:
    """Even-odd rule: a point is inside when a ray to its right crosses the outline an odd number of times.

    Points are sorted into levels of height first, so that each edge is only held against those beside it.
    """
    low, high = corners[:, 1].min(), corners[:, 1].max()
    scale = (LEVELS - 1) / (high - low) if high - low > LEAST_HEIGHT else 0.0
    level = ((y - low) * scale).astype(np.int16)
    order = np.argsort(level, kind="stable")
    x, y = x[order], y[order]
    starts = np.searchsorted(level[order], np.arange(LEVELS + 1))
    odd = np.zeros(len(x), bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, 0), strict=True):
        if y1 == y2:
            continue
        lowest, highest = sorted((int((y1 - low) * scale), int((y2 - low) * scale)))
        near = slice(starts[lowest], starts[highest + 1])
        crossed = (y[near] < y1) != (y[near] < y2)
        odd[near] ^= crossed & (x[near] < x1 + (y[near] - y1) * ((x2 - x1) / (y2 - y1)))
    found = np.empty_like(odd)
    found[order] = odd
    return found


def _values(table: Table, filter: str) -> Float:
    refuse_unknown([Rule(filter=filter)], [*FILTERS, *table.scores])
    return table.values(filter)

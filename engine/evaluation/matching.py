"""Greedy matching and interpolated precision as in COCO, for all images, labels, thresholds and sizes at once.

Source: the published evaluation of COCO (`pycocotools.cocoeval`), on which LVIS, D3 and OmniLabel build. Within each
(image, label) pair predictions choose in descending order of score; each takes the free true box that it overlaps
most, above the threshold, and an ignored box only where no other is left. Of equal overlaps the later box wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.evaluation.boxes import Predictions, Truth

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)

AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""All, small, medium, large: square pixels, both ends inside, as in COCO and LVIS."""

IGNORED, HIT, FALSE = 0, 1, 2
"""What a prediction counts as, at one threshold and for one range of areas."""

IGNORED_LAST = np.int64(1 << 32)
"""More than any prediction has overlaps, so that a box that counts is always preferred to an ignored one."""

Choices = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Matches:
    """Predictions by pair and then by descending score, with what they count as.

    `pair`, `rank` int64 [n] (rank 0 is the surest of its pair), `score` float64 [n], `verdict` int8 [n,A,T] over area
    ranges and thresholds. `wanted_pair` int64 [m] and `wanted` bool [m,A] say which true boxes there are to find.
    """

    pair: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    verdict: np.ndarray
    wanted_pair: np.ndarray
    wanted: np.ndarray


@dataclass(frozen=True, eq=False)
class Curves:
    """`precision` float64 [G,A,T,101] at the recalls 0, .01 ... 1 and `recall` float64 [G,A,T], of each group; -1 where
    a group has nothing to find."""

    precision: np.ndarray
    recall: np.ndarray

    def __getitem__(self, groups: np.ndarray) -> Curves:
        """The curves of some groups, by boolean mask or index array."""
        return Curves(self.precision[groups], self.recall[groups])

    def ap(self, area: int = 0, iou: float | None = None) -> float:
        """Mean precision over groups, recalls and thresholds (or at one of them), -1 without anything to find."""
        lanes = slice(None) if iou is None else np.isclose(THRESHOLDS, iou)
        return _mean(self.precision[:, area, lanes])

    def ar(self, area: int = 0) -> float:
        """Mean of the highest recall over groups and thresholds, -1 without anything to find."""
        return _mean(self.recall[:, area])

    def per_group(self) -> np.ndarray:
        """float64 [G], the AP of each group over all areas, or -1."""
        return self.precision[:, 0].mean((1, 2))  # a group is -1 throughout or nowhere


def _mean(values: np.ndarray) -> float:
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0


def match(
    truth: Truth,
    predictions: Predictions,
    areas: Sequence[tuple[float, float]],
    *,
    most: int | None = None,
    lenient: np.ndarray | None = None,
) -> Matches:
    """Matches every pair by itself.

    `areas` are inclusive ranges in square pixels; true boxes and unmatched predictions outside are ignored. `most` keeps
    the surest of each pair. Unmatched predictions where `lenient` bool [n] holds are ignored.
    """
    order = np.lexsort((-predictions.score, predictions.pair))
    rank = np.arange(len(order)) - _starts(predictions.pair[order])
    if most is not None:
        order, rank = order[rank < most], rank[rank < most]
    found, known = predictions[order], truth[np.argsort(truth.pair, kind="stable")]
    ignored = known.ignore[:, None] | _outside(known.area, areas)
    pardoned = _outside(found.area, areas)
    if lenient is not None:
        pardoned |= lenient[order, None]
    verdict = np.empty((len(found), len(areas), len(THRESHOLDS)), np.int8)
    verdict[:] = np.where(pardoned, IGNORED, FALSE)[..., None]
    _assign(verdict, known, found, ignored)
    return Matches(found.pair, rank, found.score, verdict, known.pair, ~ignored)


def _outside(area: np.ndarray, ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    low, high = np.array(ranges, np.float64).T
    return (area[:, None] < low) | (area[:, None] > high)


def _starts(keys: np.ndarray) -> np.ndarray:
    """For each place of an ascending array, the first place with the same value."""
    return np.searchsorted(keys, keys, "left")


def overlaps(found: np.ndarray, known: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU float64 [n] of boxes xywh [n,4] with boxes xywh [n,4], one with one; with a crowd, the share of `found` in it.

    The same operations in the same order as `pycocotools.mask.iou`, so that thresholds fall alike.
    """
    low = np.maximum(found[:, :2], known[:, :2])
    size = np.minimum(found[:, :2] + found[:, 2:], known[:, :2] + known[:, 2:]) - low
    shared = np.where((size > 0).all(1), size[:, 0] * size[:, 1], 0.0)
    own, other = found[:, 2] * found[:, 3], known[:, 2] * known[:, 3]
    whole = np.where(crowd, own, own + other - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


def _edges(known: Truth, found: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prediction, true box and overlap of all that overlap enough within a pair, by prediction and ascending overlap."""
    first = np.searchsorted(known.pair, found.pair, "left")
    count = np.searchsorted(known.pair, found.pair, "right") - first
    which = np.repeat(np.arange(len(found)), count)
    box = np.arange(len(which)) - np.repeat(np.cumsum(count) - count - first, count)
    iou = overlaps(found.xywh[which], known.xywh[box], known.crowd[box])
    enough = iou >= THRESHOLDS[0]
    which, box, iou = which[enough], box[enough], iou[enough]
    order = np.lexsort((box, iou, which))
    return which[order], box[order], iou[order]


def _assign(verdict: np.ndarray, known: Truth, found: Predictions, ignored: np.ndarray) -> None:
    """Writes into `verdict` int8 [n,A,T] what the predictions that choose a box count as."""
    for row, area, level, box in _choices(known, found, ignored, THRESHOLDS):
        unmatched = verdict[row, area, level]
        matched = np.where(known.void[box], unmatched, HIT)
        verdict[row, area, level] = np.where(ignored[box, area], IGNORED, matched)


def partners(truth: Truth, predictions: Predictions) -> np.ndarray:
    """int64 [n], the true box that each prediction takes at an IoU of 0.5, -1 for none; the choices of `match`."""
    order, place = np.lexsort((-predictions.score, predictions.pair)), np.argsort(truth.pair, kind="stable")
    known = truth[place]
    chosen = np.full(len(predictions), -1, np.int64)
    for row, _, _, box in _choices(known, predictions[order], known.ignore[:, None], THRESHOLDS[:1]):
        chosen[order[row]] = place[box]
    return chosen


def _choices(known: Truth, found: Predictions, ignored: np.ndarray, levels: np.ndarray) -> Iterator[Choices]:
    """Lets predictions choose, round by round: in each, the next one of every pair that overlaps anything.

    Yields who chooses, for which area range and threshold, and the box: int64 [k] each.
    """
    which, box, iou = _edges(known, found)
    chooser, begin, size = np.unique(which, return_index=True, return_counts=True)
    turn = np.arange(len(chooser)) - _starts(found.pair[chooser])
    taken = np.zeros((*ignored.shape, len(levels)), bool)
    order = np.argsort(turn, kind="stable")
    for now in np.split(order, np.cumsum(np.bincount(turn))[:-1]) if len(order) else ():
        edges = np.repeat(begin[now] - (np.cumsum(size[now]) - size[now]), size[now]) + np.arange(size[now].sum())
        starts = np.cumsum(size[now]) - size[now]
        place = np.arange(len(edges)) - np.repeat(starts, size[now])
        free = ~taken[box[edges]] | known.crowd[box[edges], None, None]
        able = free & (iou[edges, None] >= levels)[:, None]
        worth = place[:, None] + 1 + IGNORED_LAST * ~ignored[box[edges]]
        best = np.maximum.reduceat(np.where(able, worth[..., None], 0), starts)
        row, area, level = np.nonzero(best)
        chosen = box[begin[now][row] + best[row, area, level] % IGNORED_LAST - 1]
        taken[chosen, area, level] = True
        yield chooser[now][row], area, level, chosen


def curves(
    matches: Matches, group: np.ndarray, wanted_group: np.ndarray, groups: int, most: int | None = None
) -> Curves:
    """Precision and recall of each group: its predictions pooled into one list by descending score.

    `group` int64 [n] and `wanted_group` int64 [m] number the group of each prediction and true box, -1 for none. `most`
    counts only the surest of each pair. Equal scores stay in the order of pairs.
    """
    chosen = np.nonzero((group >= 0) & (True if most is None else matches.rank < most))[0]
    chosen = chosen[np.lexsort((-matches.score[chosen], group[chosen]))]
    areas, levels = matches.verdict.shape[1:]
    wanted = np.zeros((groups, areas), np.int64)
    np.add.at(wanted, wanted_group[wanted_group >= 0], matches.wanted[wanted_group >= 0])
    verdict = matches.verdict[chosen].reshape(len(chosen), areas * levels)
    lane, precision = _precision_at_hits(verdict, group[chosen], groups)
    hits = np.bincount(lane, minlength=areas * levels * groups)
    first = (np.cumsum(hits) - hits).reshape(areas, levels, groups).transpose(2, 0, 1)
    hits = hits.reshape(areas, levels, groups).transpose(2, 0, 1)
    return _interpolated(precision, first, hits, wanted)


def _precision_at_hits(verdict: np.ndarray, group: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every hit, in order of (area, threshold, group, descending score): the number of that triple, and the highest
    precision at this hit or any later one of it. Precision rises at hits only, so these are all that matter."""
    false = np.vstack([np.zeros((1, verdict.shape[1]), np.int64), np.cumsum(verdict == FALSE, 0)])
    before = false[np.searchsorted(group, group, "left")]
    column, row = np.nonzero(verdict.T == HIT)
    lane = column * groups + group[row]
    hit = np.arange(len(lane)) - _starts(lane) + 1
    precision = hit / (false[row + 1, column] - before[row, column] + hit + np.spacing(1))
    return lane, _running_maximum_from_the_end(precision, lane)


def _running_maximum_from_the_end(values: np.ndarray, lane: np.ndarray) -> np.ndarray:
    """For each value the greatest at it or after it in its lane, without rounding: it works on ranks."""
    levels, rank = np.unique(values, return_inverse=True)
    floor = (lane.max(initial=0) - lane) * len(levels)
    highest = np.maximum.accumulate((rank + floor)[::-1])[::-1]
    return levels[highest - floor]


def _interpolated(precision: np.ndarray, first: np.ndarray, hits: np.ndarray, wanted: np.ndarray) -> Curves:
    """`precision` of all hits; `first`, `hits` int64 [G,A,T] say which of them are whose; `wanted` int64 [G,A]."""
    needed = _hits_needed(wanted)[:, :, None]
    reached = needed <= hits[..., None]
    at = np.where(reached, first[..., None] + needed - 1, 0)
    values = np.where(reached, np.append(precision, 0.0)[at], 0.0)
    nothing = (wanted == 0)[..., None]
    recall = np.where(nothing, -1.0, hits / np.maximum(wanted, 1)[..., None])
    return Curves(np.where(nothing[..., None], -1.0, values), recall)


def _hits_needed(wanted: np.ndarray) -> np.ndarray:
    """int64 [...,101]: with how many hits a recall is reached, at least 1, comparing hits / wanted as floats."""
    total = np.maximum(wanted, 1)[..., None]
    needed = np.ceil(RECALLS * total).astype(np.int64)
    needed -= (needed - 1) / total >= RECALLS
    needed += needed / total < RECALLS
    return np.maximum(needed, 1)

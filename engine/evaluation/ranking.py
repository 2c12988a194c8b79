"""Whether one of the surest boxes for a phrase hits its target: what RefCOCO and Flickr30k share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from db.errors import WinnowError
from engine.evaluation.boxes import BadBoxes, Row, Space, box_fault, read_predictions
from engine.evaluation.matching import overlaps

IOU = 0.5
KS = (1, 5, 10)

Targets = Mapping[Hashable, Sequence[Sequence[float]]]
"""The true boxes xywh of each phrase, by its id."""


def best_overlaps(targets: Targets, predictions: Sequence[Row], ks: Sequence[int | None] = KS) -> np.ndarray:
    """float64 [phrases, ks], the highest IoU of any of the k surest predictions of a phrase with any of its boxes.

    Predictions are records phrase_id, bbox xywh and score; of equal scores the earlier is surer; a k of None takes all.
    A phrase without predictions gets 0. Raises WinnowError that lists targets and predictions that make no sense.
    """
    _check(targets)
    space = Space([0], targets, "phrase_id")
    read = read_predictions([_with_image(row) for row in predictions], space)
    order = np.lexsort((-read.score, read.pair))
    phrase = read.pair[order]
    rank = np.arange(len(order)) - np.searchsorted(phrase, phrase, "left")
    best = _best(read.xywh[order], phrase, list(targets.values()))
    result = np.zeros((len(targets), len(ks)))
    for column, k in enumerate(ks):
        among = slice(None) if k is None else rank < k
        np.maximum.at(result[:, column], phrase[among], best[among])
    return result


def _with_image(row: Any) -> Any:
    """A phrase belongs to one image, so one image serves for all."""
    return {**row, "image_id": 0} if isinstance(row, Mapping) else row


def _best(xywh: np.ndarray, phrase: np.ndarray, boxes: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """float64 [n], the highest IoU of each prediction with the boxes of its phrase."""
    counts = np.array([len(own) for own in boxes], np.int64)
    flat = np.array([box for own in boxes for box in own], np.float64).reshape(-1, 4)
    repeats = counts[phrase]
    which = np.repeat(np.arange(len(phrase)), repeats)
    first = np.cumsum(counts) - counts
    at = np.arange(len(which)) - np.repeat(np.cumsum(repeats) - repeats - first[phrase], repeats)
    best = np.zeros(len(phrase))
    np.maximum.at(best, which, overlaps(xywh[which], flat[at], np.zeros(len(which), bool)))
    return best


def _check(targets: Targets) -> None:
    if not targets:
        raise WinnowError("There are no phrases to evaluate.")
    faults = [f"Phrase {i!r} has no box" for i, boxes in targets.items() if not len(boxes)]
    faults += [f"Phrase {i!r} {fault}" for i, boxes in targets.items() for box in boxes if (fault := box_fault(box))]
    if faults:
        raise BadBoxes("phrases", faults)

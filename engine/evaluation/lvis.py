"""LVIS box metrics: the official federated AP, and fixed AP, which is another measure and named apart.

Sources: Gupta et al. 2019, "LVIS", and its `lvis.LVISEval`; Dave et al. 2021, "Evaluating Large-Vocabulary Object
Detectors: The Devil is in the Details". The two numbers of one detector are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from db.errors import WinnowError
from engine.evaluation.boxes import Predictions, Row, Space, Truth, read_document, read_predictions, read_truth
from engine.evaluation.matching import AREAS, Curves, curves, match

FREQUENCIES = ("r", "c", "f")
"""Rare: in 1 to 10 training images, common: 11 to 100, frequent: more."""

MOST_PER_IMAGE = 300
MOST_PER_CLASS = 10_000


class LvisResult(msgspec.Struct, frozen=True):
    """The official numbers, in 0..1, or -1 where the truth has nothing to find. `per_class` is AP by class name."""

    AP: float
    AP50: float
    AP75: float
    AP_s: float
    AP_m: float
    AP_l: float
    AP_r: float
    AP_c: float
    AP_f: float
    AR300: float
    AR300_s: float
    AR300_m: float
    AR300_l: float
    per_class: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return msgspec.to_builtins(self)


class FixedResult(msgspec.Struct, frozen=True):
    """Fixed AP, in 0..1 or -1. `short_classes` counts the classes with boxes for which fewer than 10,000 predictions
    came: a detector that returns few boxes gets a lower fixed AP than it could."""

    fixed_AP: float
    fixed_AP50: float
    fixed_AP75: float
    fixed_AP_s: float
    fixed_AP_m: float
    fixed_AP_l: float
    fixed_AP_r: float
    fixed_AP_c: float
    fixed_AP_f: float
    fixed_per_class: dict[str, float]
    short_classes: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return msgspec.to_builtins(self)


class _Document:
    """The ground truth, read and checked: what is to be found, and what is known of each image and class."""

    def __init__(self, source: Row | Path) -> None:
        document = read_document(source, "images", "categories", "annotations")
        self.images, self.classes = document["images"], document["categories"]
        faults = [*_image_faults(self.images), *_class_faults(self.classes)]
        if faults:
            raise WinnowError(f"This is not an LVIS ground truth, {len(faults)} fault(s):\n  " + "\n  ".join(faults))
        self.space = Space((image["id"] for image in self.images), (kind["id"] for kind in self.classes))
        truth = read_truth(document["annotations"], self.space, crowds=False)
        self.truth: Truth = truth[truth.area > 0]  # as the official tool, which loads no box without area

    @property
    def names(self) -> list[str]:
        return [kind["name"] for kind in self.classes]

    def pairs(self, key: str) -> np.ndarray:
        """int64 [n], the pairs of image and class in a list that every image has."""
        listed = [(image["id"], label) for image in self.images for label in image[key]]
        return self.space.pairs([i for i, _ in listed], [k for _, k in listed])

    def of_frequency(self, letter: str) -> np.ndarray:
        """bool [classes]."""
        return np.array([kind["frequency"] == letter for kind in self.classes], bool)


def evaluate(truth: Row | Path, predictions: Sequence[Row]) -> LvisResult:
    """Scores `predictions` (COCO results: image_id, category_id, bbox xywh, score) as `lvis.LVISEval` does.

    The 300 surest predictions of an image count, then those of classes that the image has boxes of or lists in
    `neg_category_ids`; unmatched ones of `not_exhaustive_category_ids` are ignored. Raises WinnowError for a truth
    without these lists or frequencies, and for predictions that make no sense, naming all of them.
    """
    document = _Document(truth)
    read = read_predictions(predictions, document.space)
    found = _curves(document, read[_surest(read.score, read.pair // len(document.classes), MOST_PER_IMAGE)])
    return LvisResult(
        **_precisions(document, found, ""),
        **{f"AR300{size}": found.ar(area) for area, size in enumerate(("", "_s", "_m", "_l"))},
        per_class=_per_class(document, found),
    )


def evaluate_fixed(truth: Row | Path, predictions: Sequence[Row]) -> FixedResult:
    """Fixed AP: the 10,000 surest predictions of each class over all images, and no limit for an image.

    Otherwise as `evaluate`, federated lists included.
    """
    document = _Document(truth)
    read = read_predictions(predictions, document.space)
    label = read.pair % len(document.classes)
    found = _curves(document, read[_surest(read.score, label, MOST_PER_CLASS)])
    counts = np.bincount(label, minlength=len(document.classes))
    wanted = np.unique(document.truth.pair % len(document.classes))
    return FixedResult(
        **_precisions(document, found, "fixed_"),
        fixed_per_class=_per_class(document, found),
        short_classes=int((counts[wanted] < MOST_PER_CLASS).sum()),
    )


def _surest(score: np.ndarray, key: np.ndarray, most: int) -> np.ndarray:
    """bool [n]: whether a prediction is among the `most` surest with its key. Of equal scores the earlier stays."""
    order = np.lexsort((-score, key))
    ascending = key[order]
    chosen = np.zeros(len(score), bool)
    chosen[order] = np.arange(len(score)) - np.searchsorted(ascending, ascending, "left") < most
    return chosen


def _curves(document: _Document, predictions: Predictions) -> Curves:
    present = np.concatenate([document.truth.pair, document.pairs("neg_category_ids")])
    judged = predictions[(predictions.area > 0) & np.isin(predictions.pair, present)]
    lenient = np.isin(judged.pair, document.pairs("not_exhaustive_category_ids"))
    matches = match(document.truth, judged, AREAS, lenient=lenient)
    classes = len(document.classes)
    return curves(matches, matches.pair % classes, matches.wanted_pair % classes, classes)


def _precisions(document: _Document, found: Curves, prefix: str) -> dict[str, float]:
    numbers = {"AP": found.ap(), "AP50": found.ap(iou=0.5), "AP75": found.ap(iou=0.75)}
    numbers |= {f"AP_{size}": found.ap(area) for area, size in enumerate("sml", 1)}
    numbers |= {f"AP_{letter}": found[document.of_frequency(letter)].ap() for letter in FREQUENCIES}
    return {prefix + name: number for name, number in numbers.items()}


def _per_class(document: _Document, found: Curves) -> dict[str, float]:
    return dict(zip(document.names, found.per_group().tolist(), strict=True))


def _image_faults(images: Sequence[Row]) -> list[str]:
    keys = ("neg_category_ids", "not_exhaustive_category_ids")
    return [
        f"Image {image['id']!r} lacks the list {key}"
        for image in images
        for key in keys
        if not isinstance(image.get(key), Sequence)
    ]


def _class_faults(classes: Sequence[Row]) -> list[str]:
    return [
        f"Class {kind['id']!r} has the frequency {kind.get('frequency')!r}; right would be r, c or f"
        for kind in classes
        if kind.get("frequency") not in FREQUENCIES
    ]

"""The official COCO box metrics: twelve numbers and the AP of each class, equal to pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.evaluation.boxes import Row, Space, read_document, read_predictions, read_truth
from engine.evaluation.matching import AREAS, Curves, curves, match

NAMES = ("mAP", "AP50", "AP75", "AP_s", "AP_m", "AP_l", "AR1", "AR10", "AR100", "AR_s", "AR_m", "AR_l")
"""In the order of pycocotools' `stats`."""

MOST = (1, 10, 100)
"""How many of the surest predictions of a class in an image count, for the three recalls; the last for all the rest."""


class CocoResult(msgspec.Struct, frozen=True):
    """Each number is in 0..1, or -1 where the truth has nothing to find. `per_class` is AP@[.5:.95] by class name."""

    mAP: float
    AP50: float
    AP75: float
    AP_s: float
    AP_m: float
    AP_l: float
    AR1: float
    AR10: float
    AR100: float
    AR_s: float
    AR_m: float
    AR_l: float
    per_class: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return msgspec.to_builtins(self)


def evaluate(truth: Row | Path, predictions: Sequence[Row]) -> CocoResult:
    """Scores `predictions` (COCO results: image_id, category_id, bbox xywh, score) against a COCO document or file.

    Raises WinnowError that lists predictions with an unknown image or class, or with numbers that make no sense.
    """
    document = read_document(truth, "images", "categories", "annotations")
    space = Space((i["id"] for i in document["images"]), (c["id"] for c in document["categories"]))
    known = read_truth(document["annotations"], space, crowds=True)
    matches = match(known, read_predictions(predictions, space), AREAS, most=MOST[-1])
    classes = len(space.labels)
    few, some, all_ = (
        curves(matches, matches.pair % classes, matches.wanted_pair % classes, classes, most=most) for most in MOST
    )
    names = [category["name"] for category in document["categories"]]
    return _result(few, some, all_, dict(zip(names, all_.per_group().tolist(), strict=True)))


def _result(few: Curves, some: Curves, all_: Curves, per_class: dict[str, float]) -> CocoResult:
    numbers = (
        *(all_.ap(), all_.ap(iou=0.5), all_.ap(iou=0.75), all_.ap(1), all_.ap(2), all_.ap(3)),
        *(few.ar(), some.ar(), all_.ar(), all_.ar(1), all_.ar(2), all_.ar(3)),
    )
    return CocoResult(**dict(zip(NAMES, numbers, strict=True)), per_class=per_class)

"""The official COCO box metrics: twelve numbers and the AP of each class, equal to pycocotools."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from db.errors import WinnowError

METRICS = ("mAP", "AP50", "AP75", "AP_s", "AP_m", "AP_l", "AR1", "AR10", "AR100", "AR_s", "AR_m", "AR_l")
"""In the order of pycocotools' `stats`."""


class CocoResult(msgspec.Struct, frozen=True):
    """`metrics` by the names in METRICS and `per_class` AP@[.5:.95] by class name, in 0..1; None where nothing was to be found."""

    metrics: dict[str, float | None]
    per_class: dict[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: the twelve numbers at the top, `per_class` below."""
        return {**self.metrics, "per_class": self.per_class}


def evaluate(truth: Mapping[str, Any] | Path, predictions: Sequence[Mapping[str, Any]]) -> CocoResult:
    """Scores `predictions` (COCO results: image_id, category_id, bbox xywh, score) against a COCO document or file.

    Raises WinnowError that lists predictions with an unknown image or class, or with numbers that make no sense.
    """
    document = json.loads(truth.read_bytes()) if isinstance(truth, Path) else truth
    faults = list(_faults(document, predictions))
    if faults:
        shown = "\n  ".join(faults[:20])
        raise WinnowError(f"{len(faults)} of {len(predictions)} predictions cannot be evaluated:\n  {shown}")
    classes = {category["id"]: category["name"] for category in document["categories"]}
    if not predictions or not document["annotations"]:
        return _nothing_matched(document, classes)
    evaluation = _run(document, predictions)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes; all areas, most detections
    per_class = {
        classes[category]: _mean(precision[:, :, index]) for index, category in enumerate(evaluation.params.catIds)
    }
    return CocoResult(dict(zip(METRICS, map(_known, evaluation.stats), strict=False)), per_class)


def _run(document: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_boxes_only(document))
    evaluation = COCOeval_faster(truth, truth.loadRes(deepcopy(list(predictions))), "bbox", print_function=_quiet)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _quiet(*_: object) -> None:
    """The evaluator prints a table; ours is the returned value."""


def _boxes_only(document: Mapping[str, Any]) -> dict[str, Any]:
    """A copy the evaluator may write into; outlines are of no use to it."""
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    annotations = [{key: note[key] for key in keys if key in note} for note in document["annotations"]]
    return {"images": deepcopy(document["images"]), "annotations": annotations, "categories": deepcopy(document["categories"])}


def _nothing_matched(document: Mapping[str, Any], classes: Mapping[int, str]) -> CocoResult:
    """Without predictions (or boxes) everything is 0 where there was something to find, and unknown where there was not."""
    wanted = [note for note in document["annotations"] if not note.get("iscrowd")]
    areas = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}
    # pycocotools takes both ends of an area range as inside it
    sized = {size: any(low <= note["area"] <= high for note in wanted) for size, (low, high) in areas.items()}
    found = {name: sized.get(name.rpartition("_")[2], bool(wanted)) for name in METRICS}
    present = {note["category_id"] for note in wanted}
    return CocoResult(
        {name: 0.0 if known else None for name, known in found.items()},
        {name: 0.0 if category in present else None for category, name in classes.items()},
    )


def _mean(precision: np.ndarray) -> float | None:
    return float(precision.mean()) if (precision > -1).all() else None


def _known(value: float) -> float | None:
    return float(value) if value > -1 else None


def _faults(document: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    images = {image["id"] for image in document["images"]}
    classes = {category["id"] for category in document["categories"]}
    for index, prediction in enumerate(predictions):
        missing = {"image_id", "category_id", "bbox", "score"} - prediction.keys()
        if missing:
            yield f"prediction {index} lacks {', '.join(sorted(missing))}"
        elif prediction["image_id"] not in images:
            yield f"prediction {index}: there is no image {prediction['image_id']!r}"
        elif prediction["category_id"] not in classes:
            yield f"prediction {index}: there is no class {prediction['category_id']!r}; known: {sorted(classes)[:20]}"
        elif not math.isfinite(prediction["score"]):
            yield f"prediction {index}: score is {prediction['score']}, not a number from 0 to 1"
        elif len(prediction["bbox"]) != 4 or not all(map(math.isfinite, prediction["bbox"])):
            yield f"prediction {index}: bbox is {prediction['bbox']}, not four numbers x, y, width, height"
        elif min(prediction["bbox"][2:]) < 0:
            yield f"prediction {index}: bbox {prediction['bbox']} has a negative width or height"

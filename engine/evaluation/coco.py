"""The official COCO box metrics: twelve numbers and the AP of each class, equal to pycocotools."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec

from db.errors import WinnowError

NAMES = ("mAP", "AP50", "AP75", "AP_s", "AP_m", "AP_l", "AR1", "AR10", "AR100", "AR_s", "AR_m", "AR_l")
"""In the order of pycocotools' `stats`."""

SIZES = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""Areas in square pixels; pycocotools counts both ends as inside."""


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


def evaluate(truth: Mapping[str, Any] | Path, predictions: Sequence[Mapping[str, Any]]) -> CocoResult:
    """Scores `predictions` (COCO results: image_id, category_id, bbox xywh, score) against a COCO document or file.

    Raises WinnowError that lists predictions with an unknown image or class, or with numbers that make no sense.
    """
    document = json.loads(truth.read_bytes()) if isinstance(truth, Path) else truth
    faults = list(_faults(document, predictions))
    if faults:
        shown = "\n  ".join(faults[:20])
        raise WinnowError(f"{len(faults)} of {len(predictions)} predictions cannot be evaluated:\n  {shown}")
    if not predictions or not document["annotations"]:
        return _nothing_matched(document)
    names = {category["id"]: category["name"] for category in document["categories"]}
    run = _run(document, predictions)
    precision = run.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes; all areas, most detections
    # a class that is not in the truth is -1 throughout, others nowhere
    per_class = {names[category]: float(precision[:, :, k].mean()) for k, category in enumerate(run.params.catIds)}
    return _result(map(float, run.stats[: len(NAMES)]), per_class)


def _run(document: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_boxes_only(document))
    run = COCOeval_faster(truth, truth.loadRes(deepcopy(list(predictions))), "bbox", print_function=_quiet)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run


def _quiet(*_: object) -> None:
    """The evaluator prints a table; ours is the returned value."""


def _boxes_only(document: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that the evaluator may write into; outlines are of no use to it."""
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    notes = [{key: note[key] for key in keys if key in note} for note in document["annotations"]]
    return {
        "images": deepcopy(document["images"]),
        "annotations": notes,
        "categories": deepcopy(document["categories"]),
    }


def _nothing_matched(document: Mapping[str, Any]) -> CocoResult:
    """0 where there was something to find; the evaluator cannot be asked without predictions or boxes."""
    wanted = [note for note in document["annotations"] if not note.get("iscrowd")]
    kinds = {size: any(low <= note["area"] <= high for note in wanted) for size, (low, high) in SIZES.items()}
    present = {note["category_id"] for note in wanted}
    return _result(
        (0.0 if kinds.get(name.rpartition("_")[2], bool(wanted)) else -1.0 for name in NAMES),
        {c["name"]: 0.0 if c["id"] in present else -1.0 for c in document["categories"]},
    )


def _result(numbers: Iterable[float], per_class: dict[str, float]) -> CocoResult:
    return msgspec.convert({**dict(zip(NAMES, numbers, strict=True)), "per_class": per_class}, CocoResult)


def _faults(document: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    images = {image["id"] for image in document["images"]}
    classes = {category["id"] for category in document["categories"]}
    for index, prediction in enumerate(predictions):
        fault = _fault(prediction, images, classes)
        if fault:
            yield f"Prediction #{index} {fault}"


def _fault(prediction: Mapping[str, Any], images: set[int], classes: set[int]) -> str | None:
    missing = {"image_id", "category_id", "bbox", "score"} - prediction.keys()
    if missing:
        return f"lacks {', '.join(sorted(missing))}"
    if prediction["image_id"] not in images:
        return f"is for image {prediction['image_id']!r}, which the truth does not have"
    if prediction["category_id"] not in classes:
        return f"is of class {prediction['category_id']!r}; the truth has {sorted(classes)[:20]}"
    if not math.isfinite(prediction["score"]):
        return f"has the score {prediction['score']}, which is not finite"
    if len(prediction["bbox"]) != 4 or not all(map(math.isfinite, prediction["bbox"])):
        return f"has the bbox {prediction['bbox']}; right would be four finite numbers x, y, width, height"
    if min(prediction["bbox"][2:]) < 0:
        return f"has the bbox {prediction['bbox']} with a negative width or height"
    return None

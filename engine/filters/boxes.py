"""What the box of a candidate says, compared with the other annotations of the image and of its class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from db.records import XYXY, Box
from engine.filters.judgement import Judgement, readable, xyxy_of
from engine.roles import Context
from engine.subject import Subject

SAMPLE = 300  # images of a class from which its usual boxes are learnt
ENOUGH = 8  # boxes of a class below which nothing is called unusual


def overlap(subject: Subject) -> Judgement:
    """The largest share of another annotation that the box covers (METHODS 1.2, F1)."""
    xyxy = xyxy_of(subject)
    others = [box for box in subject.boxes if box.id != subject.candidate.box_id and not box.crowd]
    value, worst = max(
        ((_covered(box.xyxy, xyxy), box) for box in others), key=lambda pair: pair[0], default=(0.0, None)
    )
    if worst is None or value == 0:
        return Judgement(0.0, "it touches no other annotation")
    return Judgement(value, f"it covers {value:.0%} of a {subject.categories.get(worst.category_id or 0, 'box')}")


def _covered(xyxy: XYXY, by: XYXY) -> float:
    width, height = min(xyxy[2], by[2]) - max(xyxy[0], by[0]), min(xyxy[3], by[3]) - max(xyxy[1], by[1])
    area = (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])
    return max(width, 0.0) * max(height, 0.0) / area if area > 0 else 0.0


def box_drift(subject: Subject) -> Judgement:
    """IoU of the box that was asked for with the one that was fitted to what was painted."""
    asked, xyxy = subject.candidate.detail.get("asked"), xyxy_of(subject)
    if not isinstance(asked, list | tuple) or len(asked) != 4:
        return Judgement(None, "the candidate does not say which box was asked for")
    if subject.candidate.detail.get("refit") == "asked":
        return Judgement(None, "nothing has measured where the painted thing is: no detector has seen it")
    value = float(ious(np.array([asked], np.float64), xyxy)[0])
    return Judgement(value, "the box is where it was asked for" if value == 1 else f"the boxes overlap by {value:.2f}")


def ious(boxes: np.ndarray, xyxy: XYXY) -> np.ndarray:
    """Intersection over union of (n, 4) boxes with one, (n,); 0 for boxes without area."""
    one = np.array(xyxy, np.float64)
    sides = np.clip(np.minimum(boxes[:, 2:], one[2:]) - np.maximum(boxes[:, :2], one[:2]), 0, None)
    shared = sides.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (one[2:] - one[:2]).prod() - shared
    return shared / np.maximum(areas, 1e-9)


def plausible_size(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """How usual area, shape and place of the box are for its class: the least of the three two-sided tail probabilities
    of a normal distribution with the class's median, and on either side of it the class's outermost 2.5 %."""
    wanted = {subject.candidate.category_id for subject in subjects if subject.candidate.category_id is not None}
    usual = {category_id: _features_of_class(context, category_id) for category_id in wanted}
    return [readable(lambda one: _usualness(one, usual), subject) for subject in subjects]


def _features_of_class(context: Context, category_id: int) -> np.ndarray:
    """(n, 4): log area share, log aspect, centre x and y as shares, of a sample of the class's boxes."""
    images = context.store.datasets.images(context.dataset_id, category_id=category_id, limit=SAMPLE)
    boxes = context.store.datasets.boxes_of([image.id for image in images])
    rows = [
        _features(box.xyxy, image.width, image.height)
        for image in images
        for box in boxes[image.id]
        if box.category_id == category_id and _solid(box)
    ]
    return np.array(rows, np.float64).reshape(-1, 4)


def _solid(box: Box) -> bool:
    return not box.crowd and box.xyxy[2] > box.xyxy[0] and box.xyxy[3] > box.xyxy[1]


def _features(xyxy: XYXY, width: int, height: int) -> tuple[float, float, float, float]:
    wide, high = xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]
    area, aspect = math.log(wide * high / (width * height)), math.log(wide / high)
    return area, aspect, (xyxy[0] + xyxy[2]) / 2 / width, (xyxy[1] + xyxy[3]) / 2 / height


_NAMES = ("area", "shape", "place from left to right", "place from top to bottom")
_LEAST_SPREAD = np.array([0.1, 0.1, 0.05, 0.05])  # a class of identical boxes still allows small differences


def _usualness(subject: Subject, usual: dict[int, np.ndarray]) -> Judgement:
    x1, y1, x2, y2 = xyxy_of(subject)
    known = usual.get(subject.candidate.category_id or 0)
    if known is None or len(known) < ENOUGH:
        return Judgement(
            None, f"too few boxes of {subject.category or 'no class'} to know what is usual (at least {ENOUGH})"
        )
    if x2 <= x1 or y2 <= y1:
        return Judgement(0.0, "the box has no area")
    own = np.array(_features((x1, y1, x2, y2), subject.image.width, subject.image.height))
    middle = np.median(known, 0)
    edge = np.where(own > middle, np.quantile(known, 0.975, axis=0), np.quantile(known, 0.025, axis=0))
    deviation = np.abs(own - middle) / np.maximum(np.abs(edge - middle) / 1.96, _LEAST_SPREAD)
    worst = int(deviation.argmax())
    value = math.erfc(float(deviation[worst]) / math.sqrt(2))
    return Judgement(
        value, f"its {_NAMES[worst]} is {deviation[worst]:.1f} deviations from what is usual for {subject.category}"
    )

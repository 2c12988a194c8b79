"""The pointing game: how often the strongest point of a heat map lies in a box of the phrase. Beside it, the other protocol
of AMC's code: how often the box that the map fills most is one of the phrase.

Source: Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop"; as used with attention consistency by
Yang et al. 2023 (AMC): no tolerance around the box, its border is outside, and of equal maxima the first in reading
order counts. For RefCOCO+ a phrase has one box; for Flickr30k any of its boxes does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from engine.evaluation.boxes import BadBoxes, Row, box_fault
from engine.evaluation.ranking import IOU, KS, best_overlaps

WORDS = {"short": 3, "medium": 8}
"""Most words of a phrase of that length, as OmniLabel cuts them; more are long."""


def enlarged(heat: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """A map [rows,columns] at the size of its image, float32 [height,width], bicubic (METHODS 6.4)."""
    return cv2.resize(np.asarray(heat, np.float32), size_wh, interpolation=cv2.INTER_CUBIC)


def peak(heat: np.ndarray) -> tuple[int, int]:
    """The (x, y) of the greatest value of a map [height,width] in image pixels, the first in reading order.

    Raises ValueError for a map that is empty or has NaN.
    """
    if heat.ndim != 2 or not heat.size or np.isnan(heat).any():
        raise ValueError(f"A heat map needs numbers of shape [height,width], not {heat.shape} or NaN.")
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(x), int(y)


def fullest(heat: np.ndarray, boxes: Sequence[Sequence[float]]) -> int:
    """Which of some boxes xywh has the greatest sum of the map [height,width] inside over the root of its area; the first of
    equals."""
    return int(np.argmax([_fill(heat, box) for box in boxes]))


def _fill(heat: np.ndarray, box: Sequence[float]) -> float:
    x, y, width, height = box
    inside = heat[max(round(y), 0) : round(y + height), max(round(x), 0) : round(x + width)]
    return float(inside.sum() / np.sqrt(width * height))


def evaluate(phrases: Sequence[Row], predictions: Sequence[Row]) -> dict[str, Any]:
    """The numbers of the pointing game as plain JSON, in 0..1: `pointing` of all `phrases` (id, boxes xywh, perhaps text and
    split), and the same by words and by split. `predictions` are phrase_id, point [x, y] and perhaps bbox, the box that was chosen; where
    all have one, `pointing_box` is the share of those that overlap a box of their phrase by an IoU of 0.5.

    Raises WinnowError as `accuracy` does.
    """
    points = {row["phrase_id"]: row["point"] for row in predictions}
    found: dict[str, Any] = {"pointing": accuracy(phrases, points), "phrases": len(phrases)}
    cuts = {"words": _by(phrases, lambda row: length(row["text"])), "splits": _by(phrases, lambda row: row["split"])}
    found |= {cut: {k: accuracy(part, _of(part, points)) for k, part in parts.items()} for cut, parts in cuts.items()}
    if predictions and all("bbox" in row for row in predictions):
        targets = {row["id"]: row["boxes"] for row in phrases}
        chosen = [{**row, "score": 1.0} for row in predictions]
        found["pointing_box"] = float((best_overlaps(targets, chosen, KS[:1])[:, 0] >= IOU).mean())
    return found


def length(text: str) -> str:
    """short, medium or long, by the words of a phrase."""
    words = len(text.split())
    return next((name for name, most in WORDS.items() if words <= most), "long")


def _by(phrases: Sequence[Row], name: Any) -> dict[str, list[Row]]:
    """The phrases by what a function says of them; none where it cannot say it of all."""
    parts: dict[str, list[Row]] = defaultdict(list)
    try:
        for row in phrases:
            parts[name(row)].append(row)
    except KeyError:
        return {}
    return dict(sorted(parts.items()))


def _of(phrases: Iterable[Row], points: Mapping[Any, Sequence[float]]) -> dict[Any, Sequence[float]]:
    return {row["id"]: points[row["id"]] for row in phrases}


def accuracy(phrases: Sequence[Row], points: Mapping[Any, Sequence[float]]) -> float:
    """The share, in 0..1, of `phrases` (id, boxes xywh) whose point (x, y) lies strictly inside any of their boxes.

    Raises WinnowError that lists phrases without a box or a point, and boxes and points that make no sense.
    """
    faults = [fault for row in phrases for fault in _faults(row, points)]
    unknown = points.keys() - {row["id"] for row in phrases}
    faults += [f"Point {i!r} is for a phrase that the truth does not have" for i in sorted(unknown, key=str)]
    if faults or not phrases:
        raise BadBoxes("phrases or points", faults or ["There are no phrases"])
    return float(np.mean([inside(points[row["id"]], row["boxes"]) for row in phrases]))


def inside(point: Sequence[float], boxes: Sequence[Sequence[float]]) -> bool:
    """Whether a point (x, y) lies strictly inside any of some boxes xywh."""
    x, y = point
    return any(left < x < left + width and top < y < top + height for left, top, width, height in boxes)


def _faults(row: Row, points: Mapping[Any, Sequence[float]]) -> list[str]:
    faults = [f"Phrase {row['id']!r} {fault}" for box in row["boxes"] if (fault := box_fault(box))]
    if not len(row["boxes"]):
        faults.append(f"Phrase {row['id']!r} has no box")
    point = points.get(row["id"])
    if point is None:
        faults.append(f"Phrase {row['id']!r} has no point")
    elif len(point) != 2 or not np.isfinite(point).all():
        faults.append(f"Phrase {row['id']!r} has the point {point!r}; right would be two finite numbers x, y")
    return faults

"""The pointing game: how often the strongest point of a heat map lies in a box of the phrase.

Source: Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop"; as used with attention consistency by
Yang et al. 2023 (AMC): no tolerance around the box, its border is outside, and of equal maxima the first in reading
order counts. For RefCOCO+ a phrase has one box; for Flickr30k any of its boxes does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.evaluation.boxes import BadBoxes, Row, box_fault


def peak(heat: np.ndarray) -> tuple[int, int]:
    """The (x, y) of the greatest value of a map [height,width] in image pixels, the first in reading order.

    Raises ValueError for a map that is empty or has NaN.
    """
    if heat.ndim != 2 or not heat.size or np.isnan(heat).any():
        raise ValueError(f"A heat map needs numbers of shape [height,width], not {heat.shape} or NaN.")
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(x), int(y)


def accuracy(phrases: Sequence[Row], points: Mapping[Any, Sequence[float]]) -> float:
    """The share, in 0..1, of `phrases` (id, boxes xywh) whose point (x, y) lies strictly inside any of their boxes.

    Raises WinnowError that lists phrases without a box or a point, and boxes and points that make no sense.
    """
    faults = [fault for row in phrases for fault in _faults(row, points)]
    unknown = points.keys() - {row["id"] for row in phrases}
    faults += [f"Point {i!r} is for a phrase that the truth does not have" for i in sorted(unknown, key=str)]
    if faults or not phrases:
        raise BadBoxes("phrases or points", faults or ["There are no phrases"])
    return float(np.mean([_inside(points[row["id"]], row["boxes"]) for row in phrases]))


def _inside(point: Sequence[float], boxes: Sequence[Sequence[float]]) -> bool:
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

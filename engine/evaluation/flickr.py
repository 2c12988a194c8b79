"""Phrase grounding on Flickr30k Entities: recall at 1, 5, 10, by one of two protocols that give different numbers.

Sources: Plummer et al. 2015, "Flickr30k Entities"; both protocols as named by Kamath et al. 2021, "MDETR". ANY-BOX: a
phrase is found when one of the k surest boxes overlaps any of its boxes by an IoU of at least 0.5. MERGED-BOXES: the
boxes of a phrase are first replaced by the smallest box around all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from db.errors import WinnowError
from engine.evaluation.boxes import BadBoxes, Row, box_fault
from engine.evaluation.ranking import IOU, KS, best_overlaps

Protocol = Literal["ANY-BOX", "MERGED-BOXES"]


class FlickrResult(msgspec.Struct, frozen=True):
    """`recall` by k, in 0..1, with the key "all" for any number of boxes; `types` the same by type of phrase, such as
    people. `without_box` counts the phrases that have no box and so are not evaluated."""

    protocol: Protocol
    recall: dict[str, float]
    types: dict[str, dict[str, float]]
    phrases: int
    without_box: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return msgspec.to_builtins(self)


def evaluate(
    phrases: Sequence[Row], predictions: Sequence[Row], protocol: Protocol, ks: Sequence[int] = KS
) -> FlickrResult:
    """Scores `predictions` (phrase_id, bbox xywh, score) for `phrases` (id, boxes xywh, perhaps a list of types).

    `id` is unique over all captions. Predictions for phrases without a box are left out. Raises WinnowError for an id
    given twice, and with a list of all phrases and predictions that make no sense.
    """
    if len({row["id"] for row in phrases}) < len(phrases):
        raise WinnowError("Some phrases have the id of another one; make them unique over all captions.")
    faults = [f"Phrase {row['id']!r} {f}" for row in phrases for box in row["boxes"] if (f := box_fault(box))]
    if faults:
        raise BadBoxes("phrases", faults)
    boxed = [row for row in phrases if len(row["boxes"])]
    idle = {row["id"] for row in phrases if not len(row["boxes"])}
    targets = {row["id"]: _merged(row["boxes"]) if protocol == "MERGED-BOXES" else row["boxes"] for row in boxed}
    judged = [row for row in predictions if row.get("phrase_id") not in idle]
    hits = best_overlaps(targets, judged, [*ks, None]) >= IOU
    kinds = sorted({kind for row in boxed for kind in row.get("types", ())})
    by_kind = {kind: hits[[kind in row.get("types", ()) for row in boxed]] for kind in kinds}
    return FlickrResult(
        protocol=protocol,
        recall=_recall(hits, ks),
        types={kind: _recall(own, ks) for kind, own in by_kind.items()},
        phrases=len(boxed),
        without_box=len(idle),
    )


def _merged(boxes: Sequence[Sequence[float]]) -> list[list[float]]:
    """The smallest box xywh around all."""
    xywh = np.array(boxes, np.float64)
    low, high = xywh[:, :2].min(0), (xywh[:, :2] + xywh[:, 2:]).max(0)
    return [[*low.tolist(), *(high - low).tolist()]]


def _recall(hits: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    return dict(zip([*map(str, ks), "all"], hits.mean(0).tolist(), strict=True))

"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg): precision at k.

Source: Yu et al. 2016, "Modeling Context in Referring Expressions", with the protocol of detectors as in MDETR (Kamath
et al. 2021): an expression is found when one of the k surest boxes overlaps its one box by an IoU of at least 0.5.
Not comparable with the pointing game.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from db.errors import WinnowError
from engine.evaluation.boxes import Row
from engine.evaluation.ranking import IOU, KS, best_overlaps


class RefResult(msgspec.Struct, frozen=True):
    """`P` is the precision by k, over all expressions; `splits` the same by split, such as testA; all in 0..1."""

    P: dict[int, float]
    splits: dict[str, dict[int, float]]
    expressions: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return msgspec.to_builtins(self)


def evaluate(expressions: Sequence[Row], predictions: Sequence[Row], ks: Sequence[int] = KS) -> RefResult:
    """Scores `predictions` (phrase_id, bbox xywh, score) for `expressions` (id, bbox xywh, perhaps split).

    An expression without predictions is missed. Raises WinnowError for an id given twice, and with a list of all
    expressions and predictions that make no sense.
    """
    targets = {row["id"]: [row["bbox"]] for row in expressions}
    if len(targets) < len(expressions):
        raise WinnowError(f"{len(expressions) - len(targets)} expressions have the id of another one.")
    hits = best_overlaps(targets, predictions, ks) >= IOU
    split = np.array([str(row.get("split", "")) for row in expressions])
    by_split = {name: _precision(hits[split == name], ks) for name in np.unique(split).tolist() if name}
    return RefResult(P=_precision(hits, ks), splits=by_split, expressions=len(targets))


def _precision(hits: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    return dict(zip(ks, hits.mean(0).tolist(), strict=True))

"""What the detector that was trained here sees of a candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from db.records import XYXY
from engine.filters.judgement import Judgement, image_of, readable, xyxy_of
from engine.roles import Context
from engine.subject import Subject

MIN_SCORE = 0.1  # of a prediction that counts as agreement (METHODS 5.2)


def detector_agreement(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """Best IoU of a prediction of the candidate's class with its box (Gen2Det's instance filter, METHODS 5.2)."""
    detector = context.detector()
    if detector is None:
        return [Judgement(None, "no detector has been trained here yet: train one on the Train page")] * len(subjects)

    def judge(subject: Subject) -> Judgement:
        xyxy, image = xyxy_of(subject), image_of(subject)
        found = detector.detect([image])[0]
        if subject.category not in found.names:
            return Judgement(None, f"the detector does not know the class {subject.category or '(none)'}")
        mine = (found.labels == found.names.index(subject.category)) & (found.scores >= MIN_SCORE)
        if not mine.any():
            return Judgement(0.0, f"the detector sees no {subject.category} in the image")
        overlaps = _ious(found.xyxy[mine], xyxy)
        best = int(overlaps.argmax())
        return Judgement(
            float(overlaps[best]),
            f"the detector's {subject.category} (score {found.scores[mine][best]:.2f}) overlaps it by {overlaps[best]:.2f}",
        )

    return [readable(judge, subject) for subject in subjects]


def _ious(boxes: np.ndarray, xyxy: XYXY) -> np.ndarray:
    """Intersection over union of (n, 4) boxes with one, (n,)."""
    one = np.array(xyxy, np.float64)
    sides = np.clip(np.minimum(boxes[:, 2:], one[2:]) - np.maximum(boxes[:, :2], one[:2]), 0, None)
    shared = sides.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (one[2:] - one[:2]).prod() - shared
    return shared / np.maximum(areas, 1e-9)

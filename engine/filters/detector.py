"""What a detector sees of a candidate: the one the model pack names, else the newest that was trained here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from db.errors import WinnowError
from db.records import XYXY
from engine.detections import Detections
from engine.filters.boxes import ious
from engine.filters.judgement import Judgement, image_of, readable, xyxy_of
from engine.roles import Context, Detector
from engine.subject import Subject

MIN_SCORE = 0.1  # of a prediction that counts as agreement (METHODS 5.2)
AT_ONCE = 8  # images shown to the detector together


def detector_agreement(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """Best IoU of a prediction of the candidate's class with its box (Gen2Det's instance filter, METHODS 5.2)."""
    try:
        detector = context.detector()
    except WinnowError as error:
        return [Judgement(None, str(error))] * len(subjects)
    if detector is None:
        return [Judgement(None, "no detector has been trained here yet: train one on the Train page")] * len(subjects)
    found: list[Judgement] = []
    for start in range(0, len(subjects), AT_ONCE):
        part = subjects[start : start + AT_ONCE]
        seen = _detected(detector, part)
        found += [readable(partial(_agreement, seen=seen), subject) for subject in part]
    return found


def _detected(detector: Detector, subjects: Sequence[Subject]) -> dict[str, Detections]:
    """What the detector sees in each readable image, once for each."""
    images: dict[str, np.ndarray] = {}
    for subject in subjects:
        try:
            images.setdefault(subject.candidate.digest or "", image_of(subject))
        except WinnowError:
            continue  # `_agreement` meets the same fault and gives it as the reason
    return dict(zip(images, detector.detect(list(images.values())), strict=True)) if images else {}


def _agreement(subject: Subject, seen: dict[str, Detections]) -> Judgement:
    xyxy, name = xyxy_of(subject), subject.category
    image_of(subject)
    found = seen[subject.candidate.digest or ""]
    if name not in found.names:
        return Judgement(None, f"the detector does not know the class {name or '(none)'}")
    sure = found[found.scores >= MIN_SCORE]
    mine = sure[sure.labels == sure.names.index(name)]
    overlaps = ious(mine.xyxy, xyxy)
    if not len(overlaps) or not overlaps.max():
        return Judgement(0.0, f"the detector sees no {name} there{_instead(sure, xyxy)}")
    best = int(overlaps.argmax())
    return Judgement(
        float(overlaps[best]),
        f"the detector's {name} (score {mine.scores[best]:.2f}) overlaps it by {overlaps[best]:.2f}",
    )


def _instead(found: Detections, xyxy: XYXY) -> str:
    """The class that is seen in the box, if one is."""
    overlaps = ious(found.xyxy, xyxy)
    if not len(overlaps) or overlaps.max() < 0.3:
        return ""
    best = int(overlaps.argmax())
    return f" but a {found.names[found.labels[best]]} (score {found.scores[best]:.2f})"

"""Filters: each gives a candidate one number and the sentence that explains it. These need no weights.

A filter's value is raw; what is good enough is said by a policy, and moving its threshold is a query.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

from db.errors import WinnowError
from db.records import XYXY, Box, Kind, Rule
from engine.claims import facts_of, normal, plain_name, still_true, tokens
from engine.pixels import crop, gray, laplacian, rectangle
from engine.roles import Context
from engine.subject import Subject

TEXTS = frozenset((Kind.NEGATIVE_TEXT, Kind.NEGATIVE_IMAGE))
IMAGES = frozenset((Kind.NEGATIVE_IMAGE, Kind.INSTANCE))
MIN_SCORE = 0.1  # of a prediction that counts as agreement (METHODS 5.2)
SAMPLE = 300  # images of a class from which its usual boxes are learnt
RIM = 2  # pixels along the box that say more about its edge than about its inside
ENOUGH = 8  # boxes of a class below which nothing is called unusual


class Judgement(NamedTuple):
    """A value and the reason for it; value None when the filter cannot judge."""

    value: float | None
    reason: str


Score = Callable[[Sequence[Subject], Context], list[Judgement]]


@dataclass(frozen=True)
class Filter:
    """One measure. `help` is a sentence for the UI, `default` the rule of a fresh policy."""

    name: str
    title: str
    help: str
    kinds: frozenset[Kind]
    better: Literal["higher", "lower"]
    default: Rule
    judge: Score

    def score(self, subjects: Sequence[Subject], context: Context) -> list[Judgement]:
        """A judgement for each subject, in order. Raises ValueError when a value is no finite number."""
        judged = self.judge(subjects, context)
        for judgement in judged:
            if judgement.value is not None and not math.isfinite(judgement.value):
                raise ValueError(f"filter {self.name} gave {judgement.value}: {judgement.reason}")
        return judged


def _each(judge: Callable[[Subject], Judgement]) -> Score:
    """A filter that looks at one subject at a time; an unreadable image is a reason, not a failure."""

    def score(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
        return [_readable(judge, subject) for subject in subjects]

    return score


def _readable(judge: Callable[[Subject], Judgement], subject: Subject) -> Judgement:
    try:
        return judge(subject)
    except WinnowError as error:
        return Judgement(None, str(error))


# Texts


def _texts(subject: Subject) -> tuple[str, str] | None:
    before, after = subject.candidate.text_before, subject.candidate.text_after
    return (before, after) if before and after else None


_NO_TEXT = Judgement(None, "the candidate has no text before and after")


def _text_duplicate(subject: Subject) -> Judgement:
    """Likeness to the most similar true text of the image: that of the least similar words."""
    texts = _texts(subject)
    if texts is None:
        return _NO_TEXT
    positives = dict.fromkeys((texts[0], *(phrase.text for phrase in subject.phrases if phrase.holds)))
    value, nearest = max((likeness(texts[1], positive), positive) for positive in positives)
    return Judgement(value, f"{'same words as' if value == 1 else 'nearest to'} “{nearest}” ({value:.2f})")


def likeness(one: str, other: str) -> float:
    """1 for texts of the same words (articles, number, synonyms aside), else the likeness of the words that differ most."""
    a, b = list(normal(one)), list(normal(other))
    changes = [code for code in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes() if code[0] != "equal"]
    pairs = [(" ".join(a[i:j]), " ".join(b[k:m])) for _, i, j, k, m in changes]
    return min((difflib.SequenceMatcher(None, was, now, autojunk=False).ratio() for was, now in pairs), default=1.0)


def _still_true(subject: Subject) -> Judgement:
    texts = _texts(subject)
    if texts is None:
        return _NO_TEXT
    facts = facts_of(subject.boxes, subject.phrases, subject.categories)
    support = still_true(texts[1], texts[0], facts, tuple(subject.categories.values()))
    return Judgement(support.value, support.reason)


def _text_length(subject: Subject) -> Judgement:
    texts = _texts(subject)
    if texts is None:
        return _NO_TEXT
    was, now = (max(len(tokens(plain_name(text))), 1) for text in texts)
    return Judgement(now / was, f"{now} words instead of {was}")


# Pixels


def _outside_change(subject: Subject) -> Judgement:
    """The largest change of a pixel value outside the touched rectangles, 0..255."""
    pair, touched = _pair(subject), subject.touched
    if not touched:
        return Judgement(None, "the candidate does not say which rectangle was touched")
    change = np.abs(pair[0].astype(np.int16) - pair[1]).max(axis=-1)
    for area in touched:
        crop(change, area)[...] = 0
    if not change.any():
        return Judgement(0.0, "no pixel outside the edited rectangle has changed")
    return Judgement(
        float(change.max()), f"{np.count_nonzero(change)} pixels outside the edit differ, by up to {change.max()}"
    )


def _pair(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """The image before and after. Raises WinnowError when they cannot be compared."""
    before, after = subject.before, _after(subject)
    if before.shape != after.shape:
        raise WinnowError(f"the image changed its size from {_size(before)} to {_size(after)}")
    return before, after


def _after(subject: Subject) -> np.ndarray:
    if subject.after is None:
        raise WinnowError("the candidate has no image")
    return subject.after


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _seam(subject: Subject) -> Judgement:
    """Root mean square step across the border between changed and unchanged pixels, over that of all neighbours in the
    image before: 1 is a border like any place of the image."""
    before, after = _pair(subject)
    changed = (before != after).any(axis=-1)
    if not changed.any():
        return Judgement(0.0, "nothing was changed")
    usual = _rms(_steps(before, np.ones_like(changed), across=False))
    border = _steps(after, _whole(changed), across=True)
    if usual == 0 or not len(border):
        return Judgement(None, "the image is of one colour" if usual == 0 else "the whole image was changed")
    value = _rms(border) / usual
    return Judgement(value, f"steps across the edge of the edit are {value:.2f} times the image's own")


def _whole(changed: np.ndarray) -> np.ndarray:
    """The changed region without the holes where old and new pixels happen to be equal."""
    closed = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    rings, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(closed), rings, -1, 1, cv2.FILLED).astype(bool)


def _steps(image: np.ndarray, mask: np.ndarray, *, across: bool) -> np.ndarray:
    """Differences of luma between neighbours: those on both sides of the mask's border, or both inside it."""
    luma = gray(image)
    found = []
    for axis in (0, 1):
        one, other = np.delete(mask, -1, axis), np.delete(mask, 0, axis)
        found.append(np.diff(luma, axis=axis)[(one != other) if across else (one & other)])
    return np.concatenate(found)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if len(values) else 0.0


def _sharpness(subject: Subject) -> Judgement:
    """Variance of the Laplacian in the box over that of the rest of the image."""
    x1, y1, x2, y2 = _area(subject)
    measured = laplacian(_after(subject))
    rest = np.ones(measured.shape, bool)
    rest[max(y1 - RIM, 0) : y2 + RIM, max(x1 - RIM, 0) : x2 + RIM] = False
    around = float(measured[rest].var()) if rest.any() else 0.0
    inner = measured[y1 + RIM : y2 - RIM, x1 + RIM : x2 - RIM]
    if not inner.size:
        return Judgement(None, f"the box is too small to measure: {x2 - x1}x{y2 - y1} pixels")
    if around == 0:
        return Judgement(None, "the rest of the image has no detail to compare with")
    value = float(inner.var()) / around
    return Judgement(value, f"detail in the box is {value:.2f} times that of the rest")


def _exposure(subject: Subject) -> Judgement:
    luma = crop(gray(_after(subject)), _area(subject))
    dark, bright = float((luma <= 2).mean()), float((luma >= 253).mean())
    return Judgement(dark + bright, f"{dark:.0%} of the box is black and {bright:.0%} is white")


def _area(subject: Subject) -> tuple[int, int, int, int]:
    """The candidate's box in whole pixels. Raises WinnowError when it lies outside the image."""
    xyxy = _xyxy(subject)
    area = rectangle(xyxy, (subject.image.height, subject.image.width))
    if area[0] >= area[2] or area[1] >= area[3]:
        raise WinnowError(
            f"the candidate's box {xyxy} lies outside its image of {subject.image.width}x{subject.image.height}"
        )
    return area


def _xyxy(subject: Subject) -> XYXY:
    if subject.candidate.xyxy is None:
        raise WinnowError("the candidate has no box")
    return subject.candidate.xyxy


# Boxes


def _overlap(subject: Subject) -> Judgement:
    """The largest share of another annotation that the box covers (METHODS 1.2, F1)."""
    xyxy = _xyxy(subject)
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


def _plausible_size(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """How usual area, shape and place of the box are for its class: the least of the three two-sided tail probabilities
    of a normal distribution with the class's median, and on either side of it the class's outermost 2.5 %."""
    wanted = {subject.candidate.category_id for subject in subjects if subject.candidate.category_id is not None}
    usual = {category_id: _features_of_class(context, category_id) for category_id in wanted}
    return [_readable(lambda one: _usualness(one, usual), subject) for subject in subjects]


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
    x1, y1, x2, y2 = _xyxy(subject)
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


# Detector


def _detector_agreement(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """Best IoU of a prediction of the candidate's class with its box (Gen2Det's instance filter, METHODS 5.2)."""
    detector = context.detector()
    if detector is None:
        return [Judgement(None, "no detector has been trained here yet: train one on the Train page")] * len(subjects)

    def judge(subject: Subject) -> Judgement:
        xyxy, image = _xyxy(subject), _after(subject)
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

    return [_readable(judge, subject) for subject in subjects]


def _ious(boxes: np.ndarray, xyxy: XYXY) -> np.ndarray:
    """Intersection over union of (n, 4) boxes with one, (n,)."""
    one = np.array(xyxy, np.float64)
    sides = np.clip(np.minimum(boxes[:, 2:], one[2:]) - np.maximum(boxes[:, :2], one[:2]), 0, None)
    shared = sides.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (one[2:] - one[:2]).prod() - shared
    return shared / np.maximum(areas, 1e-9)


FILTERS: dict[str, Filter] = {
    "text_duplicate": Filter(
        name="text_duplicate",
        title="Duplicate text",
        help="Whether the negative says the same as a true text of the image; 1 means the same words.",
        kinds=TEXTS,
        better="lower",
        default=Rule(filter="text_duplicate", at_most=0.95),
        judge=_each(_text_duplicate),
    ),
    "still_true": Filter(
        name="still_true",
        title="May still be true",
        help="How far the other annotations speak for the negative; the reason names the one that does.",
        kinds=TEXTS,
        better="lower",
        default=Rule(filter="still_true", at_most=0.5),
        judge=_each(_still_true),
    ),
    "text_length": Filter(
        name="text_length",
        title="Length ratio",
        help="Words of the negative over words of the true text.",
        kinds=TEXTS,
        better="higher",
        default=Rule(filter="text_length", at_least=0.5, at_most=2.0),
        judge=_each(_text_length),
    ),
    "outside_change": Filter(
        name="outside_change",
        title="Change outside the edit",
        help="The largest change of a pixel outside the edited rectangle; anything but 0 is damage.",
        kinds=IMAGES,
        better="lower",
        default=Rule(filter="outside_change", at_most=0.0),
        judge=_each(_outside_change),
    ),
    "seam": Filter(
        name="seam",
        title="Seam",
        help="How strong the edge around the edit is, in units of the image's own edges; above 3 it shows.",
        kinds=IMAGES,
        better="lower",
        default=Rule(filter="seam", at_most=3.0),
        judge=_each(_seam),
    ),
    "plausible_size": Filter(
        name="plausible_size",
        title="Plausible size and place",
        help="How usual area, shape and place of the box are for its class in this data set; 1 is typical.",
        kinds=IMAGES,
        better="higher",
        default=Rule(filter="plausible_size", at_least=0.02),
        judge=_plausible_size,
    ),
    "sharpness": Filter(
        name="sharpness",
        title="Sharpness",
        help="Fine detail in the box relative to the rest of the image; near 0 is a blur.",
        kinds=IMAGES,
        better="higher",
        default=Rule(filter="sharpness", at_least=0.05),
        judge=_each(_sharpness),
    ),
    "exposure": Filter(
        name="exposure",
        title="Clipped pixels",
        help="Share of the box that is pure black or pure white.",
        kinds=IMAGES,
        better="lower",
        default=Rule(filter="exposure", at_most=0.4),
        judge=_each(_exposure),
    ),
    "overlap": Filter(
        name="overlap",
        title="Covers another annotation",
        help="The largest share of another annotated box that the new one covers.",
        kinds=IMAGES,
        better="lower",
        default=Rule(filter="overlap", at_most=0.5),
        judge=_each(_overlap),
    ),
    "detector_agreement": Filter(
        name="detector_agreement",
        title="Detector agreement",
        help="Best overlap of the box with what the newest detector trained here sees of its class (Gen2Det asks for 0.3).",
        kinds=IMAGES,
        better="higher",
        default=Rule(filter="detector_agreement", at_least=0.3),
        judge=_detector_agreement,
    ),
}
"""Every filter by name, in the order in which they are shown."""

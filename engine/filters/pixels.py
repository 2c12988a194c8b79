"""What the pixels of a candidate say: damage outside the edit, its border, its sharpness and exposure."""

from __future__ import annotations

import cv2
import numpy as np

from db.errors import WinnowError
from engine.filters.judgement import Judgement, image_of, xyxy_of
from engine.pixels import crop, gray, laplacian, rectangle
from engine.subject import Subject

RIM = 2  # pixels along the box that say more about its edge than about its inside


def outside_change(subject: Subject) -> Judgement:
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
    before, after = subject.before, image_of(subject)
    if before.shape != after.shape:
        raise WinnowError(f"the image changed its size from {_size(before)} to {_size(after)}")
    return before, after


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def seam(subject: Subject) -> Judgement:
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


def sharpness(subject: Subject) -> Judgement:
    """Variance of the Laplacian in the box over that of the rest of the image."""
    x1, y1, x2, y2 = _area(subject)
    measured = laplacian(image_of(subject))
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


def exposure(subject: Subject) -> Judgement:
    luma = crop(gray(image_of(subject)), _area(subject))
    dark, bright = float((luma <= 2).mean()), float((luma >= 253).mean())
    return Judgement(dark + bright, f"{dark:.0%} of the box is black and {bright:.0%} is white")


def _area(subject: Subject) -> tuple[int, int, int, int]:
    """The candidate's box in whole pixels. Raises WinnowError when it lies outside the image."""
    xyxy = xyxy_of(subject)
    area = rectangle(xyxy, (subject.image.height, subject.image.width))
    if area[0] >= area[2] or area[1] >= area[3]:
        raise WinnowError(
            f"the candidate's box {xyxy} lies outside its image of {subject.image.width}x{subject.image.height}"
        )
    return area

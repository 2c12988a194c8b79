"""Where to paint and how to put it back: crops, masks, feathered pasting and re-fitted boxes. Pure functions of arrays.

A model paints a square of its own size. A `Plan` cuts that square out of an image around a box, with surroundings for
the model to continue, and pastes the result back so that nothing outside `touched` changes, to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from db.errors import WinnowError
from db.records import XYXY
from engine.detections import Detections
from engine.pixels import Rectangle, crop, lab, rectangle
from engine.targets import iou

LEAST_MARGIN = 2.0  # pixels: the rim of the old object is blurred beyond its box
MAX_ENLARGEMENT = 8.0  # a crop of a few pixels gives a model nothing to continue
LEAST_SHARE = 0.25  # of the box that must remain to be painted between the boxes that are kept
JUST_SEEN = 5.0  # a change in L*a*b* below this is hardly noticed
FILLED, TOO_SMALL = 0.9, 0.2  # of the mask's and the box's area: changes beyond these say nothing about an object
MIN_OVERLAP, MIN_SCORE = 0.3, 0.1  # of a detection that counts as the painted object (METHODS 5.2, step 3)


class Form(NamedTuple):
    """Shares of the box's longer side: surroundings on each side of the box, how far outside it pixels may change, and
    the width of the soft rim inside that."""

    context_share: float = 0.35
    margin: float = 0.08
    feather: float = 0.05


@dataclass(frozen=True, eq=False)
class Plan:
    """One box to paint. `window` is what the model sees, in pixels of the image; of an image that is smaller than it, it
    reaches beyond the border. `mask` (bool, as large as `touched`) is what may change, `alpha` (float32, 0..1, 0 outside
    the mask) how much of the new pixels goes in."""

    window: Rectangle
    touched: Rectangle
    mask: np.ndarray
    alpha: np.ndarray
    size: int

    def crop(self, image: np.ndarray) -> np.ndarray:
        """What the model is shown: size x size x 3 uint8."""
        return _resized(_padded(image, self.window), self.size, self.size)

    def hole(self) -> np.ndarray:
        """What the model repaints: size x size bool, every pixel that the mask reaches into."""
        full = np.zeros(_shape(self.window), np.uint8)
        crop(full, _in(self.window, self.touched))[self.mask] = 255
        flags = cv2.INTER_AREA if max(full.shape) > self.size else cv2.INTER_NEAREST
        return cv2.resize(full, (self.size, self.size), interpolation=flags) > 0

    def paste(self, image: np.ndarray, painted: np.ndarray) -> np.ndarray:
        """A copy of `image` with the painted square (size x size x 3 uint8) in it, blended inside the mask."""
        height, width = _shape(self.window)
        new = crop(_resized(painted, width, height), _in(self.window, self.touched))
        alpha = self.alpha[..., None]
        out = image.copy()
        under = crop(out, self.touched)
        under[:] = np.rint(under * (1 - alpha) + new * alpha).astype(np.uint8)
        return out


def plan(shape: tuple[int, ...], xyxy: XYXY, size: int, form: Form, keep: Sequence[XYXY] = ()) -> Plan:
    """The square around a box in an image of `shape` (h, w, ...) for a model of `size` pixels.

    Boxes in `keep` stay as they are, except those that contain the middle of the box. Raises WinnowError for a box
    outside the image, and for one of which the kept boxes leave too little.
    """
    touched = rectangle(xyxy, shape, margin=max(LEAST_MARGIN, form.margin * _longer(xyxy)))
    mask = _mask(shape, xyxy, touched, keep)
    window = _window(shape, xyxy, touched, size, form.context_share)
    return Plan(window, touched, mask, _feathered(mask, touched, shape, form.feather * _longer(xyxy)), size)


def whole(shape: tuple[int, ...], xyxy: XYXY, size: int, form: Form, keep: Sequence[XYXY] = ()) -> Plan:
    """Like `plan`, for a model that is shown the whole image, squeezed into its square."""
    return replace(plan(shape, xyxy, size, form, keep), window=(0, 0, shape[1], shape[0]))


def overlap(a: Rectangle, b: Rectangle) -> bool:
    """Whether two rectangles share a pixel."""
    return max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])


def _longer(xyxy: XYXY) -> float:
    return max(xyxy[2] - xyxy[0], xyxy[3] - xyxy[1])


def _shape(area: Rectangle) -> tuple[int, int]:
    return area[3] - area[1], area[2] - area[0]


def _in(window: Rectangle, area: Rectangle) -> Rectangle:
    x, y = window[:2]
    return area[0] - x, area[1] - y, area[2] - x, area[3] - y


def _mask(shape: tuple[int, ...], xyxy: XYXY, touched: Rectangle, keep: Sequence[XYXY]) -> np.ndarray:
    inner = rectangle(xyxy, shape)
    if inner[0] >= inner[2] or inner[1] >= inner[3]:
        raise WinnowError(f"The box {_shown(xyxy)} has no pixel in its image of {shape[1]}x{shape[0]}.")
    mask = np.ones(_shape(touched), bool)
    x, y = (xyxy[0] + xyxy[2]) / 2, (xyxy[1] + xyxy[3]) / 2
    for other in keep:
        if not (other[0] <= x <= other[2] and other[1] <= y <= other[3]):
            x1, y1, x2, y2 = _in(touched, rectangle(other, shape))
            mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = False
    free = float(crop(mask, _in(touched, inner)).mean())
    if free < LEAST_SHARE:
        raise WinnowError(f"Other annotations, which must stay, cover {1 - free:.0%} of the box {_shown(xyxy)}.")
    return mask


def _shown(xyxy: XYXY) -> str:
    return "(" + ", ".join(f"{value:g}" for value in xyxy) + ")"


def _window(shape: tuple[int, ...], xyxy: XYXY, touched: Rectangle, size: int, context_share: float) -> Rectangle:
    """A square around `touched`: within the image where that is possible, else centred on it."""
    needed = max(_shape(touched))
    wanted = max(round(_longer(xyxy) * (1 + 2 * context_share)), round(size / MAX_ENLARGEMENT), needed)
    side = min(wanted, max(needed, min(shape[:2])))
    x = _start(touched[0] + touched[2], side, shape[1])
    y = _start(touched[1] + touched[3], side, shape[0])
    return x, y, x + side, y + side


def _start(twice_middle: int, side: int, length: int) -> int:
    """Where an interval of `side` around the middle begins in 0..length; one that does not fit surrounds it."""
    if side > length:
        return (length - side) // 2
    return min(max((twice_middle - side) // 2, 0), length - side)


def _feathered(mask: np.ndarray, touched: Rectangle, shape: tuple[int, ...], width: float) -> np.ndarray:
    """Rises from the mask's edge inwards over `width` pixels. The border of the image is no edge."""
    x1, y1, x2, y2 = touched
    sides = int(y1 > 0), int(y2 < shape[0]), int(x1 > 0), int(x2 < shape[1])
    bordered = cv2.copyMakeBorder(mask.astype(np.uint8), *sides, cv2.BORDER_CONSTANT, value=0)
    inwards = cv2.distanceTransform(bordered, cv2.DIST_L2, 5)[sides[0] :, sides[2] :][: y2 - y1, : x2 - x1]
    return np.clip(inwards / (max(width, 0.0) + 1), 0, 1)


def _padded(image: np.ndarray, window: Rectangle) -> np.ndarray:
    """The pixels of the window, mirrored where it reaches beyond the image."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = window
    inside = crop(image, (max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)))
    sides = max(-y1, 0), max(y2 - height, 0), max(-x1, 0), max(x2 - width, 0)
    return cv2.copyMakeBorder(inside, *sides, cv2.BORDER_REFLECT_101) if any(sides) else inside


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """By area averages when the picture shrinks, by Lanczos when it grows, itself when it stays."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] * image.shape[1] > height * width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)


# Boxes of what was painted


def changed(before: np.ndarray, after: np.ndarray, plan: Plan, xyxy: XYXY) -> XYXY | None:
    """The box of what clearly changed inside the mask: of the largest connected part, after gaps are closed.

    "Clearly" is beyond what a repainted background changes, as seen outside the asked box: median plus three deviations
    (from the median absolute one). None when the change fills the mask or is too small to be an object.
    """
    mask = plan.alpha >= 0.5
    difference = np.linalg.norm(lab(crop(after, plan.touched)) - lab(crop(before, plan.touched)), axis=-1)
    clear = (difference > _threshold(difference, mask, _in(plan.touched, rectangle(xyxy, before.shape)))) & mask
    found = _largest(clear, max(3, round(_longer(xyxy) / 12)))
    if found is None:
        return None
    area = (found[2] - found[0]) * (found[3] - found[1])
    asked = (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])
    if area >= FILLED * mask.size or area < TOO_SMALL * asked:
        return None
    x, y = plan.touched[:2]
    return float(found[0] + x), float(found[1] + y), float(found[2] + x), float(found[3] + y)


def _threshold(difference: np.ndarray, mask: np.ndarray, inner: Rectangle) -> float:
    rim = mask.copy()
    crop(rim, inner)[:] = False
    values = difference[rim]
    if len(values) < 16:
        return JUST_SEEN
    middle = float(np.median(values))
    return max(JUST_SEEN, middle + 3 * 1.4826 * float(np.median(np.abs(values - middle))))


def _largest(mask: np.ndarray, gap: int) -> Rectangle | None:
    side = gap | 1  # an even kernel would move the edges
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    count, _, stats, _ = cv2.connectedComponentsWithStats(closed)
    if count < 2:
        return None
    x, y, width, height, _ = (int(value) for value in max(stats[1:], key=lambda row: row[cv2.CC_STAT_AREA]))
    return x, y, x + width, y + height


def detected(found: Detections, category: str | None, xyxy: XYXY) -> XYXY | None:
    """The surest detection of the class that overlaps the asked box; None when there is none."""
    best, score = None, MIN_SCORE
    for box, value, label in zip(found.xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
        if found.names[label] == category and value >= score and iou(tuple(box), xyxy) >= MIN_OVERLAP:
            best, score = (box[0], box[1], box[2], box[3]), value
    return best

"""The paste painter: puts an instance of the data set itself, or of another one, into a box. No weights; works on any photos."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np

from db.records import XYXY
from engine.backends.cutouts import Cutout, Instances, Source, ellipse, outline, whole_light
from engine.pixels import Rectangle, lab, rectangle
from engine.roles import Context, Painted, PaintTask

MARGIN = 0.2  # of the longer side of the box: how far outside it pixels may change
MAX_ENLARGEMENT = 2.0  # a stronger one shows as blur
MAX_STRETCH = 1.2  # of the aspect ratio, to fill the box
DRAWS = 3  # sources looked at before one with a guessed outline is taken
TILT = 8.0  # degrees either way
TINT_REACH = 40.0  # LAB units; grounds that differ by more are different things, not different light


class _Placed(NamedTuple):
    """A source laid into the working window: pixels, alpha 0..1, where its own ground shows, all window-sized; `light` as
    `whole_light` gives it for the source's image."""

    pixels: np.ndarray
    alpha: np.ndarray
    ground: np.ndarray
    light: np.ndarray
    detail: dict[str, Any]


class PastePainter:
    """Replaces what is in a box by an instance of the task's class, cut from another image of the same split; with `donors`,
    the name of another data set, from its images, where they have a class of that name. Raises NotFound without it."""

    def __init__(self, context: Context, donors: str | None = None) -> None:
        self._context, self._lent = context, None
        if donors is not None:
            self._lent = Instances(context.store, context.store.datasets.get(donors).id)

    @cached_property
    def _instances(self) -> Instances:
        return Instances(self._context.store, self._context.dataset_id)

    def paint(self, tasks: Sequence[PaintTask]) -> list[Painted | str]:
        """One picture per task, or a sentence where the data set has no instance to use."""
        results = [self._paint(task) for task in tasks if task.scene is None]
        scenes = {task.scene: [one for one in tasks if one.scene == task.scene] for task in tasks if task.scene}
        of_scenes = {scene: iter(self._paint_scene(together)) for scene, together in scenes.items()}
        single = iter(results)
        return [next(of_scenes[task.scene]) if task.scene else next(single) for task in tasks]

    def _paint_scene(self, tasks: Sequence[PaintTask]) -> list[Painted | str]:
        """One after another into the same picture; every result then shows all of them."""
        image, results = tasks[0].image, []
        for task in tasks:
            result = self._paint(replace(task, image=image))
            results.append(result)
            image = image if isinstance(result, str) else result.image
        touched = tuple(area for result in results if isinstance(result, Painted) for area in result.touched)
        return [one if isinstance(one, str) else replace(one, image=image, touched=touched) for one in results]

    def _paint(self, task: PaintTask) -> Painted | str:
        if task.category is None:
            return f"nothing to paste for “{task.prompt}”: it names no class of this data set"
        chance = random.Random(task.seed)
        source = self._choose(task, chance)
        if source is None:
            return f"there is no other usable instance of “{task.category}” in this split (not a crowd, not tiny, not mostly hidden)"
        side = max(task.xyxy[2] - task.xyxy[0], task.xyxy[3] - task.xyxy[1])
        window = rectangle(task.xyxy, task.image.shape, margin=max(4.0, MARGIN * side))
        x1, y1, x2, y2 = window
        under = self._cleared(task, window)
        placed = place(self._instances.cutout(source), source, task.xyxy, window, chance)
        if not (placed.alpha > 0.5).any():
            return f"the instance of “{task.category}” chosen from image {source.image.file_name} vanishes at the size of the box"
        image = task.image.copy()
        image[y1:y2, x1:x2] = blend(under, placed, whole_light(task.image))
        detail = {"source_image": source.image.id, "source_box": source.box.id, "blend": "feather", **placed.detail}
        return Painted(image=image, xyxy=extent(placed, window), touched=(window,), detail=detail)

    def _choose(self, task: PaintTask, chance: random.Random) -> Source | None:
        """At random among instances of another annotation; likely one of about the size and shape of the box, and the
        first of a few with a real outline."""
        lent, box_id = (self._instances, task.box_id) if self._lent is None else (self._lent, None)
        found = lent.sources(task.category or "", lent.split_of(box_id))
        others = [source for source in found if source.box.id != task.box_id]
        if not others:
            return None
        weights = [math.exp(-2.0 * _misfit(source, task.xyxy)) + 1e-9 for source in others]
        drawn = chance.choices(others, weights, k=DRAWS)
        return next((source for source in drawn if self._instances.cutout(source).method != "ellipse"), drawn[0])

    def _cleared(self, task: PaintTask, window: Rectangle) -> np.ndarray:
        """The window without the old instance."""
        x1, y1, x2, y2 = window
        under = task.image[y1:y2, x1:x2]
        if task.box_id is None:
            return under
        old = self._instances.source(task.box_id)
        mask, method = outline(task.image, old.box, window, task.keep)
        hole, foreign = mask > 0.5, np.zeros(mask.shape, bool)
        for xyxy in task.keep:
            foreign |= ellipse(_in(window, xyxy), mask.shape) > 0
        if method != "segmentation":  # a guessed outline may miss a rim or a tail
            hole |= (ellipse(_in(window, task.xyxy), mask.shape, 1.02) > 0) & ~foreign
        return fill(under, hole, foreign)


def _misfit(source: Source, xyxy: XYXY) -> float:
    """0 for a source of the size and shape of the box, growing with the logarithm of either's ratio."""
    width, height = source.size
    wide, high = xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]
    return abs(math.log(wide * high / (width * height))) / 2 + 1.5 * abs(math.log(wide * height / (high * width)))


def _in(window: Rectangle, xyxy: XYXY) -> XYXY:
    return xyxy[0] - window[0], xyxy[1] - window[1], xyxy[2] - window[0], xyxy[3] - window[1]


# Filling


def fill(pixels: np.ndarray, hole: np.ndarray, foreign: np.ndarray) -> np.ndarray:
    """The picture with the hole closed from its surroundings, smooth parts with their grain.

    `foreign` are other objects: they are neither changed nor copied from (HxW masks).
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    wide = cv2.dilate(hole.astype(np.uint8), kernel, iterations=2).astype(bool)
    hole = wide & (~foreign | hole)
    known = ~(hole | foreign)
    if known.mean() < 0.02:  # no ground in sight
        known = ~hole
    if not known.any():
        return pixels.copy()
    smooth = _diffuse(pixels, known)
    grain = _grain(pixels, known, hole)
    closed = np.clip(smooth + grain, 0, 255)
    soft = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), 1.2)[..., None] * ~foreign[..., None]
    soft = np.maximum(soft, cv2.erode(hole.astype(np.uint8), kernel)[..., None].astype(np.float32))
    return np.rint(pixels * (1 - soft) + closed * soft).astype(np.uint8)


def _diffuse(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Known pixels spread into the unknown ones, coarse to fine (push-pull, Gortler et al., 1996). float32."""
    weight = known.astype(np.float32)[..., None]
    return _push_pull(pixels.astype(np.float32) * weight, weight)


def _push_pull(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Colours premultiplied by their weight (h, w, 1) in; complete colours out."""
    height, width = colour.shape[:2]
    if min(height, width) <= 2:
        total = weight.sum()
        mean = colour.sum((0, 1)) / total if total else np.zeros(3, np.float32)
        return np.where(weight > 0, colour / np.maximum(weight, 1e-6), mean)
    size = ((width + 1) // 2, (height + 1) // 2)
    half = _push_pull(
        cv2.resize(colour, size, interpolation=cv2.INTER_AREA),
        cv2.resize(weight, size, interpolation=cv2.INTER_AREA)[..., None],
    )
    coarse = cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(weight >= 1, colour, colour + (1 - weight) * coarse)


def _grain(pixels: np.ndarray, known: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fine texture for the hole: that of the known pixels, mirrored in from the nearest side. float32 around 0."""
    fine = pixels.astype(np.float32) - cv2.GaussianBlur(pixels, (0, 0), 2.0).astype(np.float32)
    inner = cv2.erode(known.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    texture = np.zeros_like(fine)
    if inner.any() and hole.any():
        spread = float(np.median(np.abs(fine[inner]))) * 4 + 1.0
        usable = inner & (np.abs(fine).max(-1) <= spread)  # edges are no grain
        _, labels = cv2.distanceTransformWithLabels(
            (~usable).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        place = np.zeros(int(labels.max()) + 1, np.int64)
        place[labels[usable]] = np.flatnonzero(usable)
        texture[hole] = _mirrored(fine, usable, place, labels, hole)
    return texture


def _mirrored(
    fine: np.ndarray, usable: np.ndarray, place: np.ndarray, labels: np.ndarray, hole: np.ndarray
) -> np.ndarray:
    """For each pixel of the hole the grain as far behind its nearest usable pixel as it lies in front of it."""
    height, width = hole.shape
    ys, xs = np.nonzero(hole)
    near = place[labels[ys, xs]]
    y = np.clip(2 * (near // width) - ys, 0, height - 1)
    x = np.clip(2 * (near % width) - xs, 0, width - 1)
    return fine[y, x] * usable[y, x][:, None]


# Placing


def place(cutout: Cutout, source: Source, xyxy: XYXY, window: Rectangle, chance: random.Random) -> _Placed:
    """The cutout laid over the middle of the box, as large as fits, perhaps mirrored and slightly turned."""
    flip, degrees = chance.random() < 0.5, chance.uniform(-TILT, TILT)
    scale_x, scale_y = _scales(source.size, (xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]))
    inner = _in(cutout.area, source.box.xyxy)
    matrix = _matrix(inner, _in(window, xyxy), (-scale_x if flip else scale_x, scale_y), degrees)
    size = (window[2] - window[0], window[3] - window[1])
    shrinking = min(scale_x, scale_y) < 0.7
    image = _softened(cutout.image, min(scale_x, scale_y)) if shrinking else cutout.image
    pixels = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    alpha = cv2.warpAffine(_feathered(cutout.mask), matrix, size, flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(np.ones_like(cutout.mask), matrix, size, flags=cv2.INTER_LINEAR)
    around = cv2.warpAffine(cv2.dilate(cutout.mask, np.ones((9, 9), np.uint8)), matrix, size, flags=cv2.INTER_LINEAR)
    detail = {
        "scale": [round(scale_x, 4), round(scale_y, 4)],
        "flip": flip,
        "degrees": round(degrees, 2),
        "mask": cutout.method,
    }
    return _Placed(pixels, _held_in(alpha), (inside > 0.99) & (around < 0.01), cutout.light, detail)


def _scales(source: tuple[float, float], target: tuple[float, float]) -> tuple[float, float]:
    """Factors in x and y: the box is filled as far as MAX_STRETCH and MAX_ENLARGEMENT allow."""
    x, y = target[0] / source[0], target[1] / source[1]
    least = min(x, y)
    limit = min(least, MAX_ENLARGEMENT)
    return min(x, limit * MAX_STRETCH), min(y, limit * MAX_STRETCH)


def _matrix(source: XYXY, target: XYXY, scale: tuple[float, float], degrees: float) -> np.ndarray:
    """2x3: scale, turn, and bring the middle of `source` to the middle of `target`. Pixel centres are at +0.5."""
    turn = math.radians(degrees)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = rotation @ np.diag(scale)
    a = np.array([source[0] + source[2], source[1] + source[3]]) / 2 - 0.5
    b = np.array([target[0] + target[2], target[1] + target[3]]) / 2 - 0.5
    return np.column_stack([linear, b - linear @ a])


def _softened(image: np.ndarray, scale: float) -> np.ndarray:
    """Blurred as much as shrinking by `scale` needs, so that fine detail does not flicker into false patterns."""
    return cv2.GaussianBlur(image, (0, 0), 0.4 / scale)


def _feathered(mask: np.ndarray) -> np.ndarray:
    """A soft rim, two pixels wide, that lies mostly inside the mask."""
    return np.clip(cv2.GaussianBlur(mask, (0, 0), 1.2) * 1.25 - 0.2, 0, 1)


def _held_in(alpha: np.ndarray) -> np.ndarray:
    """Alpha that runs out before the border of the window, so that no straight edge is left."""
    ramp_x = np.minimum(np.arange(alpha.shape[1]), np.arange(alpha.shape[1])[::-1])
    ramp_y = np.minimum(np.arange(alpha.shape[0]), np.arange(alpha.shape[0])[::-1])
    return alpha * np.clip(np.minimum.outer(ramp_y, ramp_x) / 3.0, 0, 1).astype(np.float32)


# Blending


def blend(under: np.ndarray, placed: _Placed, light: np.ndarray) -> np.ndarray:
    """The pixels under the source, with it over them. `light` is that of the image they are of."""
    alpha = placed.alpha[..., None]
    return np.rint(under * (1 - alpha) + _tinted(under, placed, light) * alpha).clip(0, 255).astype(np.uint8)


def _tinted(under: np.ndarray, placed: _Placed, light: np.ndarray) -> np.ndarray:
    """The source's pixels in the light of the target, moved in LAB (after Reinhard et al., 2001). float32, 0..255.

    The move is what the grounds around the instance and the two whole images agree on, and less of it the further apart
    the grounds are: a red cloth and a white wall say nothing about the light.
    """
    free = placed.alpha < 0.05
    if placed.ground.sum() < 16 or free.sum() < 16:
        return placed.pixels.astype(np.float32)
    source = lab(placed.pixels)
    near = np.median(lab(under)[free], 0) - np.median(source[placed.ground], 0)
    far = light - placed.light
    if placed.detail["mask"] == "ellipse":  # carries its own ground, which must become the one around it
        far = near
    agreed = np.where(near * far > 0, np.sign(near) * np.minimum(np.abs(near), np.abs(far)), 0.0)
    strength = math.exp(-float((near**2).sum()) / TINT_REACH**2)
    moved = source + (strength * agreed).astype(np.float32)
    return cv2.cvtColor(moved, cv2.COLOR_LAB2RGB).clip(0, 1) * 255


def extent(placed: _Placed, window: Rectangle) -> XYXY:
    """The box of what is more than half opaque; of all of a guessed ellipse, which fades inside its annotated box."""
    ys, xs = np.nonzero(placed.alpha > (0.02 if placed.detail["mask"] == "ellipse" else 0.5))
    x, y = window[0], window[1]
    return float(x + xs.min()), float(y + ys.min()), float(x + xs.max() + 1), float(y + ys.max() + 1)

"""Synthetic triplets of the SynGround lab: captions turned into pictures by a generator that is not the world's own.

A picture is a table that was cleared by inpainting, with cut-out instances on it: what the phrases of a caption ask for, but
at times something else, and seldom exactly in the place that a layout would ask for. What was really painted is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np

from engine.evaluation.matching import overlaps
from engine.labs.pasting import Cut, Donors, read
from engine.tabletop import Truth
from engine.tabletop.descriptions import bare
from engine.tabletop.language import Description, parse

XYXY = tuple[float, float, float, float]
TRIES = 20  # places for an instance that overlaps no other
MOST_OVERLAP = 0.1  # IoU


class Part(msgspec.Struct, frozen=True):
    """A phrase of a caption on a collage: the box that a layout asks for, the box of what was painted, and whether that is what
    the phrase says."""

    text: str
    asked: XYXY
    painted: XYXY
    right: bool


class Collage(msgspec.Struct, frozen=True):
    """`source` is the place of the scene whose caption was painted."""

    source: int
    file_name: str
    width: int
    height: int
    parts: list[Part]


def phrases(truth: Truth) -> list[tuple[str, Description, tuple[int, ...]]]:
    """The phrases of a caption, without articles: (text, meaning, the objects it names). Relations stand between them."""
    found = [(bare(part.text.lower()), parse(part.text), part.objects) for part in truth.phrases]
    return [(text, said, objects) for text, said, objects in found if said is not None]


def collage(
    folder: Path,
    truth: Truth,
    source: int,
    variant: int,
    donors: Donors,
    tables: Sequence[Truth],
    wrong: float,
    astray: float,
) -> Collage:
    """A picture of the scene's caption, written to `folder`/collages. The share `wrong` of its instances is something else than
    its phrase says; each lies about `astray` of its side away from where it was asked for."""
    rng = np.random.default_rng([truth.seed, truth.index, variant])
    picture = cleared(folder, tables[int(rng.integers(len(tables)))])
    parts: list[Part] = []
    for text, said, _ in phrases(truth):
        right = bool(rng.random() >= wrong)
        cut = donors.of(msgspec.structs.replace(said, count=None, definite=False), right, rng)
        place = None if cut is None else _place(picture, cut, [part.painted for part in parts], rng)
        if cut is None or place is None:
            continue
        _paint(picture, cut, place)
        parts.append(Part(text, _asked(place, picture, astray, rng), _box(place, cut), right))
    name = f"collages/{source}-{variant}.png"
    (folder / "collages").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / name), picture)
    return Collage(source, name, picture.shape[1], picture.shape[0], parts)


def cleared(folder: Path, truth: Truth) -> np.ndarray:
    """The picture BGR of a scene with everything on the table removed."""
    picture = read(folder / truth.file_name)
    there = np.zeros(picture.shape[:2], np.uint8)
    for thing in truth.objects:
        there |= thing.mask.array().astype(np.uint8)
    return cv2.inpaint(picture, cv2.dilate(there, np.ones((7, 7), np.uint8)), 3, cv2.INPAINT_TELEA)


def _place(
    picture: np.ndarray, cut: Cut, taken: Sequence[XYXY], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Where the instance fits beside the others, as x1, y1, x2, y2; None when no place was found."""
    height, width = cut.mask.shape
    free = picture.shape[1] - width, picture.shape[0] - height
    if min(free) < 0:
        return None
    for _ in range(TRIES):
        x, y = (int(rng.integers(room + 1)) for room in free)
        if all(iou((x, y, x + width, y + height), other) <= MOST_OVERLAP for other in taken):
            return x, y, x + width, y + height
    return None


def _paint(picture: np.ndarray, cut: Cut, place: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = place
    alpha = cv2.GaussianBlur(cut.mask.astype(np.float32), (3, 3), 0)[..., None]
    picture[y1:y2, x1:x2] = (picture[y1:y2, x1:x2] * (1 - alpha) + cut.pixels * alpha + 0.5).astype(np.uint8)


def _box(place: tuple[int, int, int, int], cut: Cut) -> XYXY:
    """The box of the pixels that are the instance's own."""
    ys, xs = np.nonzero(cut.mask)
    return (
        float(place[0] + xs.min()),
        float(place[1] + ys.min()),
        float(place[0] + xs.max() + 1),
        float(place[1] + ys.max() + 1),
    )


def _asked(place: tuple[int, int, int, int], picture: np.ndarray, astray: float, rng: np.random.Generator) -> XYXY:
    """A box of about this place and size, inside of the picture: what a layout asked for, and a generator did not quite do."""
    x1, y1, x2, y2 = place
    width, height = (
        (x2 - x1) * float(np.exp(rng.normal(0, astray / 2))),
        (y2 - y1) * float(np.exp(rng.normal(0, astray / 2))),
    )
    x = (x1 + x2) / 2 + rng.normal(0, astray) * (x2 - x1)
    y = (y1 + y2) / 2 + rng.normal(0, astray) * (y2 - y1)
    left, top = max(x - width / 2, 0.0), max(y - height / 2, 0.0)
    right, bottom = min(x + width / 2, float(picture.shape[1])), min(y + height / 2, float(picture.shape[0]))
    return (left, top, right, bottom) if right - left > 1 and bottom - top > 1 else (x1, y1, x2, y2)


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    boxes = np.array([one, other], np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return float(overlaps(boxes[:1], boxes[1:], np.zeros(1, bool))[0])

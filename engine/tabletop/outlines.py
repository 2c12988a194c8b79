"""Outlines and parts: the vocabulary in which the painters of `tableware`, `grown` and `things` describe an object.

Coordinates have y downwards and any scale: the renderer fits the whole object into the size that is asked for.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float32]  # N x 2, columns x and y
Rgb = tuple[int, int, int]

Chance = Callable[[float, float], float]  # a uniform draw between two numbers

BODY, DARK, PALE, CUT = "body", "dark", "pale", "cut"
STEEL, BRASS, CREAM, LEAF, STEM = (176, 182, 190), (212, 172, 80), (246, 238, 214), (84, 146, 66), (104, 74, 44)
INK, FLAME, TERRACOTTA, WOOD = (44, 42, 46), (255, 196, 70), (188, 104, 70), (196, 150, 98)


class Part(NamedTuple):
    """One painted piece of an object.

    `paint` is BODY (colour, pattern and material of the object), DARK or PALE (shades of its colour), CUT (a hole) or
    a fixed colour. `form` is how it takes light: "puffed" (swells from its edge), "turned" (as if on a lathe) or
    "flat". A `width` above zero makes it a stroke along the outline, otherwise the outline is filled.
    """

    outline: Outline
    paint: str | Rgb = BODY
    form: str = "puffed"
    width: float = 0.0


def vector(*values: float) -> NDArray[np.float32]:
    """The values as one float32 row."""
    return np.asarray(values, np.float32)


def points(*xy: Sequence[float]) -> Outline:
    """A polygon or polyline through the given (x, y) pairs."""
    return np.asarray(xy, np.float32)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Outline:
    """The ellipse about (x, y), or its arc between two angles in degrees (0 = right, 90 = down)."""
    angle = np.radians(np.linspace(start, stop, 40))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1).astype(np.float32)


def rectangle(x1: float, y1: float, x2: float, y2: float, round_by: float = 0.0) -> Outline:
    """A rectangle whose corners are rounded with radius `round_by`."""
    if round_by <= 0:
        return points((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    r = min(round_by, (x2 - x1) / 2, (y2 - y1) / 2)
    corners = ((x2 - r, y1 + r, -90), (x2 - r, y2 - r, 0), (x1 + r, y2 - r, 90), (x1 + r, y1 + r, 180))
    return np.concatenate([ellipse(x, y, r, r, start, start + 90)[::6] for x, y, start in corners])


def smooth(outline: Outline, closed: bool = True, steps: int = 8) -> Outline:
    """A Catmull-Rom spline through the points."""
    p = (
        np.concatenate([outline[-1:], outline, outline[:2]])
        if closed
        else np.concatenate([outline[:1], outline, outline[-1:]])
    )
    t = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[None, :, None]
    a, b, c, d = (p[k : len(p) - 3 + k, None, :] for k in range(4))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, outline[-1:]])


def lathe(*knots: Sequence[float], curved: bool = True) -> Outline:
    """The silhouette of a turned thing, symmetrical about x = 0, from (y, radius) pairs, top to bottom."""
    right = np.asarray([(r, y) for y, r in knots], np.float32)
    right = smooth(right, closed=False) if curved else right
    return np.concatenate([right, right[::-1] * mirrored(-1)])


def turn(outline: Outline, degrees: float, x: float = 0.0, y: float = 0.0) -> Outline:
    """The outline turned clockwise (as seen, y downwards) about (x, y)."""
    a = np.radians(degrees)
    rotation = np.asarray([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]], np.float32)
    pivot = vector(x, y)
    return ((outline - pivot) @ rotation + pivot).astype(np.float32)


def stroke(outline: Outline, width: float, paint: str | Rgb = BODY, form: str = "puffed") -> Part:
    """A part drawn as a line of the given width."""
    return Part(outline, paint, form, width)


def mirrored(side: float) -> NDArray[np.float32]:
    """What to multiply an outline with to face it right (1) or left (-1)."""
    return vector(side, 1)


def either_side(u: Chance) -> int:
    """1 or -1."""
    return 1 if u(-1, 1) > 0 else -1


def rim(y: float, r: float, depth: float) -> list[Part]:
    """The open mouth of a vessel."""
    return [Part(ellipse(0, y, r, depth), PALE, "flat"), Part(ellipse(0, y, r * 0.86, depth * 0.72), DARK, "flat")]

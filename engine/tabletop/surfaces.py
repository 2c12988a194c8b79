"""What the objects stand on, and the stray marks that lie about."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.tabletop.outlines import vector

Image = NDArray[Any]  # float32, H x W or H x W x 3
Rng = np.random.Generator

SURFACES: dict[str, str] = {
    "wood": "a wooden table",
    "cloth": "a checked cloth",
    "tiles": "a tiled floor",
    "wall": "a table by a wall",
    "paper": "a sheet of paper",
    "stone": "a stone counter",
    "grass": "a lawn",
    "felt": "a plain cloth",
}


def surface(name: str, rng: Rng, width: int, height: int) -> tuple[Image, int]:
    """The empty surface, H x W x 3 in 0..1, and the row of its far edge: objects stand below that row."""
    image, horizon = _PAINTERS[name](rng, width, height)
    return np.clip(image, 0, 1).astype(np.float32), horizon


def scatter(image: Image, rng: Rng, count: int, horizon: int) -> None:
    """Draw `count` stains, rings, twigs, scraps and crumbs in place."""
    h, w = image.shape[:2]
    for _ in range(count):
        at = rng.uniform(0, w), rng.uniform(horizon, h)
        shade = np.float32(rng.uniform(0.15, 0.9)) * rng.uniform(0.8, 1.1, 3).astype(np.float32)
        mask = _MARKS[int(rng.integers(len(_MARKS)))](rng, w, h, at)
        x, y, across, down = cv2.boundingRect((mask > 0).astype(np.uint8))
        there = np.s_[max(y - 2, 0) : y + down + 2, max(x - 2, 0) : x + across + 2]
        strength = np.float32(rng.uniform(0.35, 0.9))
        if across and down:
            cover = cv2.GaussianBlur(mask[there], (0, 0), 0.6)[..., None] * strength
            image[there] += cover * (shade - image[there])


def clouds(rng: Rng, width: int, height: int, cells: int) -> Image:
    """Smooth noise in 0..1 with about `cells` blobs along the longer side, H x W."""
    grid = rng.random((max(2, cells * height // width + 1), cells + 1)).astype(np.float32)
    return np.clip(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def _tone(rng: Rng, *rgb: float, spread: float = 0.06) -> Image:
    return np.clip(vector(*rgb) * rng.uniform(0.88, 1.08) + rng.uniform(-spread, spread, 3), 0, 1).astype(np.float32)


def _planks(rng: Rng, w: int, h: int) -> Image:
    base = _tone(rng, *[(0.72, 0.53, 0.35), (0.55, 0.38, 0.25), (0.82, 0.70, 0.54)][int(rng.integers(3))], spread=0.03)
    width = rng.uniform(0.16, 0.3) * h
    ys, xs = np.mgrid[:h, :w].astype(np.float32)
    board = np.floor(ys / width).astype(int)
    tone = rng.uniform(0.9, 1.08, board.max() + 1).astype(np.float32)[board]
    warp = clouds(rng, w, h, 5) * 14
    grain = 0.94 + 0.06 * np.sin(0.9 * ys + warp + 9 * board + 0.02 * xs) * clouds(rng, w, h, 9)
    fine = cv2.resize(rng.normal(1, 0.03, (h, w // 12 + 1)).astype(np.float32), (w, h))
    seam = 1 - 0.4 * (np.mod(ys / width, 1) < 1.4 / width)
    boards: Image = base * (tone * grain * fine * seam)[..., None]
    return boards


def _wood(rng: Rng, w: int, h: int) -> tuple[Image, int]:
    return _planks(rng, w, h), 0


def _cloth(rng: Rng, w: int, h: int) -> tuple[Image, int]:
    a, b = _tone(rng, 0.93, 0.91, 0.87, spread=0.02), rng.uniform(0.35, 0.75, 3).astype(np.float32)
    period = rng.uniform(0.12, 0.22) * h
    ys, xs = np.mgrid[:h, :w].astype(np.float32)
    bars = 0.5 * ((np.mod(xs, period) < period / 2).astype(np.float32) + (np.mod(ys, period) < period / 2))
    weave = 0.97 + 0.03 * np.sin(xs * 2.1) * np.sin(ys * 2.1)
    share = cv2.GaussianBlur(bars, (0, 0), 0.6)[..., None] * rng.uniform(0.45, 0.8)
    return (a * (1 - share) + b * share) * (weave * (0.9 + 0.14 * clouds(rng, w, h, 4)))[..., None], 0


def _tiles(rng: Rng, w: int, h: int) -> tuple[Image, int]:
    base, grout = _tone(rng, 0.74, 0.76, 0.76, spread=0.1), _tone(rng, 0.58, 0.56, 0.53)
    side = rng.uniform(0.2, 0.34) * h
    ys, xs = np.mgrid[:h, :w].astype(np.float32)
    row, column = np.floor(ys / side).astype(int), np.floor(xs / side).astype(int)
    tone = rng.uniform(0.9, 1.08, (row.max() + 1, column.max() + 1)).astype(np.float32)[row, column]
    gap = np.minimum(np.mod(xs, side), np.mod(ys, side)) < 2.2
    tile = base * (tone * (0.95 + 0.1 * clouds(rng, w, h, 11)))[..., None]
    return np.where(gap[..., None], grout, tile), 0


def _wall(rng: Rng, w: int, h: int) -> tuple[Image, int]:
    horizon = int(h * rng.uniform(0.25, 0.42))
    paint = _tone(rng, *rng.uniform(0.55, 0.9, 3))
    fall = np.linspace(rng.uniform(0.82, 1.0), rng.uniform(0.95, 1.08), w, dtype=np.float32)
    image = np.empty((h, w, 3), np.float32)
    image[:horizon] = paint * (fall * np.linspace(1.04, 0.92, horizon, dtype=np.float32)[:, None])[..., None]
    table = (
        _planks(rng, w, h - horizon)
        if rng.random() < 0.6
        else np.broadcast_to(_tone(rng, 0.8, 0.78, 0.74), (h - horizon, w, 3))
    )
    image[horizon:] = table * np.linspace(0.86, 1.05, h - horizon, dtype=np.float32)[:, None, None]
    image[horizon : horizon + 2] *= 0.72
    return image, horizon


def _paper(rng: Rng, w: int, h: int) -> tuple[Image, int]:
    image = (
        np.broadcast_to(_tone(rng, 0.95, 0.94, 0.9, spread=0.025), (h, w, 3))
        * (0.95 + 0.06 * clouds(rng, w, h, 14))[..., None]
    )
    step, ink = rng.uniform(0.07, 0.11) * h, vector(0.62, 0.74, 0.86)
    lines = np.mod(np.arange(h), step) < 1
    image[lines] = 0.5 * image[lines] + 0.5 * ink
    if rng.random() < 0.5:
        lines = np.mod(np.arange(w), step) < 1
        image[:, lines] = 0.5 * image[:, lines] + 0.5 * ink
    return image, 0


def _stone(rng: Rng, w: int, h: int) -> tuple[Image, int]:
    base = _tone(rng, *[(0.78, 0.77, 0.75), (0.42, 0.43, 0.46)][int(rng.integers(2))])
    veins = np.abs(clouds(rng, w, h, 5) + 0.5 * clouds(rng, w, h, 13) - 0.75)
    specks = cv2.GaussianBlur(rng.normal(0, 0.11, (h, w)).astype(np.float32), (0, 0), 0.8)
    return base * (0.86 + 0.16 * np.clip(veins * 4, 0, 1) + specks)[..., None], 0


def _grass(rng: Rng, w: int, h: int) -> tuple[Image, int]:
    base = _tone(rng, 0.42, 0.58, 0.3, spread=0.04)
    blades = cv2.resize(rng.normal(0, 0.2, (h // 3, w)).astype(np.float32), (w, h))
    return base * (0.85 + 0.3 * clouds(rng, w, h, 7) + blades)[..., None], 0


def _felt(rng: Rng, w: int, h: int) -> tuple[Image, int]:
    base = rng.uniform(0.3, 0.85, 3).astype(np.float32)
    weave = cv2.GaussianBlur(rng.normal(0, 0.06, (h, w)).astype(np.float32), (0, 0), 0.7)
    return base * (0.86 + 0.2 * clouds(rng, w, h, 3) + weave)[..., None], 0


_PAINTERS: dict[str, Callable[[Rng, int, int], tuple[Image, int]]] = {
    "wood": _wood,
    "cloth": _cloth,
    "tiles": _tiles,
    "wall": _wall,
    "paper": _paper,
    "stone": _stone,
    "grass": _grass,
    "felt": _felt,
}

Mark = Callable[[Rng, int, int, tuple[float, float]], Image]


def _stain(rng: Rng, w: int, h: int, at: tuple[float, float]) -> Image:
    mask = np.zeros((h, w), np.float32)
    axes = (rng.uniform(0.01, 0.05, 2) * h).astype(int) + 1
    cv2.ellipse(mask, (int(at[0]), int(at[1])), axes.tolist(), rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    return mask


def _ring(rng: Rng, w: int, h: int, at: tuple[float, float]) -> Image:
    mask = np.zeros((h, w), np.float32)
    r = rng.uniform(0.03, 0.09) * h
    cv2.ellipse(
        mask, (int(at[0]), int(at[1])), (int(r), int(r * 0.8)), 0, 0, rng.uniform(150, 360), 0.6, 2, cv2.LINE_AA
    )
    return mask


def _twig(rng: Rng, w: int, h: int, at: tuple[float, float]) -> Image:
    mask = np.zeros((h, w), np.float32)
    steps = np.cumsum(np.concatenate([[at], rng.normal(0, 0.03 * h, (1, 2)) + rng.normal(0, 0.012 * h, (4, 2))]), 0)
    cv2.polylines(mask, [steps.astype(np.int32)], False, 1.0, int(rng.integers(1, 3)), cv2.LINE_AA)
    return mask


def _scrap(rng: Rng, w: int, h: int, at: tuple[float, float]) -> Image:
    mask = np.zeros((h, w), np.float32)
    angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 6))))
    reach = rng.uniform(0.015, 0.05, len(angle)) * h
    corners = np.stack([at[0] + reach * np.cos(angle), at[1] + reach * np.sin(angle)], 1)
    cv2.fillPoly(mask, [corners.astype(np.int32)], 1.0, cv2.LINE_AA)
    return mask


def _crumbs(rng: Rng, w: int, h: int, at: tuple[float, float]) -> Image:
    mask = np.zeros((h, w), np.float32)
    for x, y in rng.normal(at, 0.02 * h, (int(rng.integers(3, 9)), 2)):
        cv2.circle(mask, (int(x), int(y)), int(rng.integers(1, 3)), 1.0, -1, cv2.LINE_AA)
    return mask


_MARKS: tuple[Mark, ...] = (_stain, _ring, _twig, _scrap, _crumbs)

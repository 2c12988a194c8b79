"""Four images of whole classes in one picture (METHODS 3.2.6): each flipped and cropped, then put around a centre.

Tiles touch the centre, so nothing is cut but at the border of the canvas, and a box cut to the canvas is exact. What
stands beside the main object of an image may be cropped away, or all but it: the class may then be wrong, which is
what soft labels are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from engine.training.data import SceneDataset, Split, _tint, fit

GREY = 114
SHORT_SIDES = (400, 500, 600)  # pixels of the shorter side before cropping, of which a crop takes 384 to 600
CROP = (384, 600)


class Tile(NamedTuple):
    """An image HxWx3 with its boxes [n,4] and their labels [n]."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def flipped(tile: Tile) -> Tile:
    """Left for right."""
    width = tile.image.shape[1]
    boxes = tile.boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1]) + np.array([width, 0, width, 0])
    return Tile(np.ascontiguousarray(tile.image[:, ::-1]), boxes, tile.labels)


def cropped(tile: Tile, area: tuple[int, int, int, int]) -> Tile:
    """The rectangle x1, y1, x2, y2 of a tile; boxes are cut to it, those outside it dropped."""
    x1, y1, x2, y2 = area
    inside = _inside(tile.boxes - np.array([x1, y1, x1, y1]), (x2 - x1, y2 - y1))
    return _kept(Tile(tile.image[y1:y2, x1:x2], inside, tile.labels))


def random_crop(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A rectangle of an image: with its shorter side scaled to 400, 500 or 600, one of 384 to 600 pixels each way, as
    far as it goes. The scaling itself is left to the mosaic, which scales anyway."""
    scale = rng.choice(SHORT_SIDES) / min(height, width)
    wide, high = (min(side, max(1, round(rng.integers(*CROP, endpoint=True) / scale))) for side in (width, height))
    left, top = int(rng.integers(width - wide, endpoint=True)), int(rng.integers(height - high, endpoint=True))
    return left, top, left + wide, top + high


def mosaic(tiles: Sequence[Tile], size_wh: tuple[int, int], centre_xy: tuple[int, int]) -> Tile:
    """Four tiles around a centre on a grey canvas of `size_wh`, each fitted into a quarter of it: the first touches the
    centre from the upper left, the others from the upper right, lower left and lower right."""
    width, height = size_wh
    canvas = np.full((height, width, 3), GREY, np.uint8)
    placed = [_place(canvas, tile, number, centre_xy) for number, tile in enumerate(tiles)]
    boxes, labels = (np.concatenate([getattr(one, name) for one in placed]) for name in ("boxes", "labels"))
    return Tile(canvas, boxes, labels)


def _place(canvas: np.ndarray, tile: Tile, number: int, centre_xy: tuple[int, int]) -> Tile:
    """Draws a tile; returns its boxes where they are on the canvas."""
    height, width = canvas.shape[:2]
    image = fit(tile.image, (max(width // 2, 1), max(height // 2, 1)))
    high, wide = image.shape[:2]
    left = centre_xy[0] - (wide if number % 2 == 0 else 0)
    top = centre_xy[1] - (high if number < 2 else 0)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + wide, width), min(top + high, height)
    canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
    sizes = np.array(tile.image.shape[1::-1] * 2)
    moved = tile.boxes * np.array([wide, high] * 2) / sizes + np.array([left, top, left, top])
    return _kept(Tile(image, _inside(moved, (width, height)), tile.labels))


def _inside(boxes: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    return boxes.clip(0, np.array([*size_wh, *size_wh]))


def _kept(tile: Tile) -> Tile:
    """Without the boxes that have no area left, a pixel each way being the least."""
    keep = ((tile.boxes[:, 2:] - tile.boxes[:, :2]) >= 1).all(1)
    return Tile(tile.image, tile.boxes[keep], tile.labels[keep])


class MosaicDataset(SceneDataset):
    """A `SceneDataset` in which an image of a whole class comes as one of four in a mosaic; the other three are drawn
    from all such images. The canvas has the size of the training (RichSem's: 1280 x 1280), its centre is anywhere in
    the middle half each way."""

    def __init__(self, split: Split, size_wh: tuple[int, int], seed: int = 0, masks: bool = False) -> None:
        super().__init__(split, size_wh, augment=True, seed=seed, masks=masks)
        self._whole = [place for place, scene in enumerate(split.scenes) if scene.whole]

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        draw, position = index if isinstance(index, tuple) else (0, index)
        if not self._split.scenes[position].whole:
            return super().__getitem__(index)
        rng = np.random.default_rng((self._seed, 2, draw))
        others = rng.choice(self._whole, 3)
        tiles = [self._tile(int(place), rng) for place in (position, *others)]
        low, high = (np.array(self._size) * share for share in (0.25, 0.75))
        centre = (round(rng.uniform(low[0], high[0])), round(rng.uniform(low[1], high[1])))
        made = mosaic(tiles, self._size, centre)
        scene = msgspec.structs.replace(
            self._split.scenes[position], labels=made.labels, crowd=np.zeros(len(made.labels), bool)
        )
        boxes, keep = made.boxes.astype(np.float32), np.ones(len(made.boxes), bool)
        masks = np.zeros((len(boxes), *made.image.shape[:2]), np.uint8) if self._masks else None
        return self._sample(scene, _tint(made.image, rng), boxes, keep, masks)

    def _tile(self, position: int, rng: np.random.Generator) -> Tile:
        """An image flipped every other time, and cropped every other time."""
        scene, image = self._split.scenes[position], self._image(position)
        scale = np.array([image.shape[1] / scene.width, image.shape[0] / scene.height] * 2)
        tile = Tile(image, scene.boxes * scale, scene.labels)
        if rng.random() < 0.5:
            tile = flipped(tile)
        return cropped(tile, random_crop(image.shape[0], image.shape[1], rng)) if rng.random() < 0.5 else tile

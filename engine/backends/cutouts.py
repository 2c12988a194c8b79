"""Instances of a data set, cut out: which annotations can serve as sources, and which pixels belong to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import msgspec
import numpy as np
from pycocotools import mask as rle

from db.records import XYXY, Box, Image
from db.store import Store
from engine.pixels import Rectangle, decode, lab, rectangle

POOL = 400  # images looked through for sources of a class
STRATA = 8  # places in the data set from which they are taken
MIN_SIDE = 8.0  # pixels; less has no structure
CLEAR = 0.15  # share of a source that other boxes may cover
CLUTTERED = 0.5  # the same where no clear source is found
SOFT_RIM = 0.45  # of an ellipse where no outline was found: its rim is ground, not instance
WORKING_SIDE = 160  # pixels; GrabCut runs on a crop no larger than this


@dataclass(frozen=True, eq=False)  # told apart by identity: the cache of cutouts needs a hash
class Source:
    """An annotation that can be pasted elsewhere. `neighbours` are the other boxes of its image."""

    box: Box
    image: Image
    neighbours: tuple[XYXY, ...]

    @property
    def size(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box.xyxy
        return x2 - x1, y2 - y1


@dataclass(frozen=True, eq=False)
class Cutout:
    """Pixels around a source: `image` (h, w, 3) RGB and `mask` (h, w) in 0..1, 1 on the instance. `area` is where in its
    image they are, `method` how the mask was found, `light` what `whole_light` says of the image."""

    image: np.ndarray
    mask: np.ndarray
    area: Rectangle
    method: str
    light: np.ndarray


class Instances:
    """The annotated instances of one data set, by class name."""

    def __init__(self, store: Store, dataset_id: int) -> None:
        self._store, self._dataset_id = store, dataset_id
        self._sources = lru_cache(maxsize=256)(self._find)
        self._pixels = lru_cache(maxsize=24)(self._decode)
        self.cutout = lru_cache(maxsize=128)(self._cut)

    @cached_property
    def _categories(self) -> dict[str, int]:
        return {category.name: category.id for category in self._store.datasets.categories(self._dataset_id)}

    def sources(self, category: str, split: str) -> list[Source]:
        """Instances of a class in the images of a split, clear ones if there are any. Empty for an unknown class."""
        found = self._sources(category, split)
        return [source for source in found if _clear(source)] or found

    def split_of(self, box_id: int | None) -> str:
        """The split of an annotation's image, else "train" if there is one: pixels never wander between splits."""
        if box_id is not None:
            return self._store.datasets.image(self._store.datasets.box(box_id).image_id).split
        splits = list(self._store.datasets.splits(self._dataset_id))
        return "train" if "train" in splits or not splits else splits[0]

    def source(self, box_id: int) -> Source:
        """An annotation with its image and neighbours, whether or not it can be pasted."""
        box = self._store.datasets.box(box_id)
        image = self._store.datasets.image(box.image_id)
        return _source(box, image, self._store.datasets.boxes_of([image.id])[image.id])

    def _find(self, category: str, split: str) -> list[Source]:
        category_id = self._categories.get(category)
        if category_id is None:
            return []
        images = [image for image in self._images(category_id, split) if image.digest]
        boxes = self._store.datasets.boxes_of([image.id for image in images])
        found = [
            _source(box, image, boxes[image.id])
            for image in images
            for box in boxes[image.id]
            if box.category_id == category_id
        ]
        return [source for source in found if _usable(source)]

    def _images(self, category_id: int, split: str) -> list[Image]:
        """Up to POOL images with the class, from several places of the data set, so that a sorted one is not half seen."""
        datasets = self._store.datasets
        first = next((image.id for image in datasets.images(self._dataset_id, limit=1)), 0)
        step = max(datasets.get(self._dataset_id).images // STRATA, 1)
        found: dict[int, Image] = {}
        for stratum in range(STRATA):
            after = first - 1 + stratum * step
            page = datasets.images(
                self._dataset_id, split=split, category_id=category_id, after=after, limit=POOL // STRATA
            )
            found |= {image.id: image for image in page}
        return list(found.values())

    def _decode(self, digest: str) -> np.ndarray:
        return decode(self._store.blobs.get(digest))

    def _cut(self, source: Source) -> Cutout:
        """Raises WinnowError when the image cannot be read."""
        pixels = self._pixels(source.image.digest or "")
        width, height = source.size
        area = rectangle(source.box.xyxy, pixels.shape, margin=max(4.0, 0.3 * max(width, height)))
        x1, y1, x2, y2 = area
        mask, method = outline(pixels, source.box, area, source.neighbours)
        return Cutout(pixels[y1:y2, x1:x2].copy(), mask, area, method, whole_light(pixels))


def _source(box: Box, image: Image, boxes: Sequence[Box]) -> Source:
    return Source(box, image, tuple(other.xyxy for other in boxes if other.id != box.id))


def _usable(source: Source) -> bool:
    """Not a crowd, not tiny, not the whole image, not hidden to a large part."""
    width, height = source.size
    share = width * height / (source.image.width * source.image.height)
    return not source.box.crowd and min(width, height) >= MIN_SIDE and share <= 0.6 and covered(source) <= CLUTTERED


def _clear(source: Source) -> bool:
    """Free of neighbours and not cut by the border of its image."""
    x1, y1, x2, y2 = source.box.xyxy
    inside = x1 > 1.5 and y1 > 1.5 and x2 < source.image.width - 1.5 and y2 < source.image.height - 1.5
    return inside and covered(source) <= CLEAR


def covered(source: Source) -> float:
    """The largest share of the source's box that one neighbour covers, in [0, 1]."""
    x1, y1, x2, y2 = source.box.xyxy
    shares = [
        max(min(x2, b[2]) - max(x1, b[0]), 0.0) * max(min(y2, b[3]) - max(y1, b[1]), 0.0) for b in source.neighbours
    ]
    return max(shares, default=0.0) / ((x2 - x1) * (y2 - y1))


def whole_light(image: np.ndarray) -> np.ndarray:
    """The mean LAB colour of an image, (3,), L in 0..100: a rough measure of its exposure and white balance."""
    return lab(image[::4, ::4]).mean((0, 1))


# Masks


def outline(pixels: np.ndarray, box: Box, area: Rectangle, neighbours: Sequence[XYXY] = ()) -> tuple[np.ndarray, str]:
    """The instance's mask inside `area`, float32 0..1, and how it was found: "segmentation", "grabcut" or "ellipse"."""
    x1, y1, x2, y2 = area
    if box.segmentation is not None:
        whole = segmentation_mask(box.segmentation, pixels.shape[0], pixels.shape[1])
        if whole is not None and whole[y1:y2, x1:x2].any():
            return whole[y1:y2, x1:x2].astype(np.float32), "segmentation"
    local = _shifted(box.xyxy, area)
    found = _grabcut(pixels[y1:y2, x1:x2], local, [_shifted(other, area) for other in neighbours])
    if found is not None:
        return found, "grabcut"
    return ellipse(local, (y2 - y1, x2 - x1), soft=SOFT_RIM), "ellipse"


def segmentation_mask(raw: bytes, height: int, width: int) -> np.ndarray | None:
    """A COCO segmentation (polygons, compressed or plain RLE) as an HxW boolean mask; None when it is empty."""
    value = msgspec.json.decode(raw)
    if not value:
        return None
    if isinstance(value, list):
        parts = rle.frPyObjects([ring for ring in value if len(ring) >= 6], height, width)
        return rle.decode(rle.merge(parts)).astype(bool) if parts else None
    code = rle.frPyObjects(value, *value["size"]) if isinstance(value["counts"], list) else value
    mask = rle.decode(code).astype(bool)
    return mask if mask.shape == (height, width) else None


def ellipse(xyxy: XYXY, shape: tuple[int, int], scale: float = 1.0, soft: float = 0.0) -> np.ndarray:
    """The ellipse in a box as a float32 mask of shape (h, w); `soft` is the share of the radius over which it fades."""
    x1, y1, x2, y2 = xyxy
    ys, xs = np.ogrid[: shape[0], : shape[1]]
    across = (xs + 0.5 - (x1 + x2) / 2) / max((x2 - x1) / 2 * scale, 0.5)
    down = (ys + 0.5 - (y1 + y2) / 2) / max((y2 - y1) / 2 * scale, 0.5)
    radius = np.sqrt(across**2 + down**2)
    return (np.clip((1 - radius) / soft, 0, 1) if soft else radius <= 1).astype(np.float32)


def _shifted(xyxy: XYXY, area: Rectangle) -> XYXY:
    return xyxy[0] - area[0], xyxy[1] - area[1], xyxy[2] - area[0], xyxy[3] - area[1]


def _grabcut(pixels: np.ndarray, xyxy: XYXY, neighbours: Sequence[XYXY]) -> np.ndarray | None:
    """GrabCut (Rother et al., 2004) seeded by the box: outside it and at the core of neighbours is ground, its own core
    is the instance. None when the result is no plausible instance."""
    scale = min(1.0, WORKING_SIDE / max(pixels.shape[:2]))
    size = (max(math.ceil(pixels.shape[1] * scale), 1), max(math.ceil(pixels.shape[0] * scale), 1))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else np.ascontiguousarray(pixels)
    box = tuple(scale * value for value in xyxy)
    trimap = _trimap(box, [tuple(scale * v for v in other) for other in neighbours], small.shape[:2])
    sure = {cv2.GC_BGD, cv2.GC_FGD} <= set(np.unique(trimap).tolist())
    if not sure or min(box[2] - box[0], box[3] - box[1]) < MIN_SIDE:
        return None
    cv2.setRNGSeed(0)  # its mixture models start at random; one image shall give one mask
    cv2.grabCut(small, trimap, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    mask = _solid((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD))
    if not _plausible(mask, box):
        return None
    full = cv2.resize(mask.astype(np.float32), pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return (full > 0.5).astype(np.float32)


def _trimap(box: XYXY, neighbours: Sequence[XYXY], shape: tuple[int, int]) -> np.ndarray:
    trimap = np.full(shape, cv2.GC_BGD, np.uint8)
    x1, y1, x2, y2 = (round(value) for value in box)
    trimap[max(y1, 0) : y2, max(x1, 0) : x2] = cv2.GC_PR_BGD
    trimap[ellipse(box, shape, 1.0) > 0] = cv2.GC_PR_FGD
    own = ellipse(box, shape, 0.45) > 0
    for other in neighbours:
        trimap[(ellipse(other, shape, 0.95) > 0) & ~own] = cv2.GC_BGD
    trimap[own] = cv2.GC_FGD
    return trimap


def _solid(mask: np.ndarray) -> np.ndarray:
    """The largest piece, without threads and holes."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    rings, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(opened)
    if rings:
        cv2.drawContours(filled, [max(rings, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.astype(bool)


def _plausible(mask: np.ndarray, box: XYXY) -> bool:
    """Fills a fair part of the box and reaches nearly to its sides."""
    ys, xs = np.nonzero(mask)
    width, height = box[2] - box[0], box[3] - box[1]
    if not len(xs) or not 0.3 <= len(xs) / (width * height) <= 0.97:
        return False
    return bool(np.ptp(xs) + 1 >= 0.75 * width and np.ptp(ys) + 1 >= 0.75 * height)

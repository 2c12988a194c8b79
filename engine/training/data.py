"""Training data: a folder with `train.json` and `val.json` (plain COCO), as batches for mmdet models.

Images may be flagged `"synthetic": true`; the flag travels in the sample's metainfo. Boxes with `iscrowd` are ignored
regions. Annotations may hold masks as `segmentation`, polygons or run lengths.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch.utils.data import Dataset

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

from mmdet.structures import DetDataSample  # after the operators are in place
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

MEMORY = 2 << 30
"""Bytes of decoded images a data set keeps; beyond that, images are read again each time."""


class Scene(msgspec.Struct, frozen=True):
    """One image of a split. Boxes are absolute float32 `xyxy` [n,4] in its own pixels; `crowd` [n] marks ignored
    regions; `outlines` [n] are the masks as COCO holds them, None where there is none. `whole`: an image that shows one class
    and is boxed as a whole."""

    id: int
    path: Path
    width: int
    height: int
    synthetic: bool
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    outlines: tuple[Any, ...] = ()
    whole: bool = False


class Split(msgspec.Struct, frozen=True):
    """A COCO file: its scenes, and its categories in the order of the file, which is the order of the labels."""

    path: Path
    scenes: list[Scene]
    categories: dict[int, str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.categories.values())


def read_split(folder: Path, name: str) -> Split:
    """Reads `<folder>/<name>.json`. Raises WinnowError for a missing file or image and for unusable annotations."""
    path = folder / f"{name}.json"
    if not path.is_file():
        raise WinnowError(f"{path} is missing. A training folder holds train.json and val.json in COCO format.")
    try:
        document = json.loads(path.read_bytes())
        split = Split(path, _scenes(folder, document), {c["id"]: c["name"] for c in document["categories"]})
    except (KeyError, TypeError, ValueError) as error:
        raise WinnowError(f"{path} is not a COCO file with images, annotations and categories: {error!r}") from error
    missing = [str(scene.path) for scene in split.scenes if not scene.path.is_file()]
    if missing:
        raise WinnowError(f"{path}: {len(missing)} image files are missing, the first {', '.join(missing[:5])}.")
    return split


def _scenes(folder: Path, document: dict[str, Any]) -> list[Scene]:
    labels = {category["id"]: label for label, category in enumerate(document["categories"])}
    notes = defaultdict(list)
    images = {image["id"] for image in document["images"]}
    for note in document["annotations"]:
        if note["category_id"] not in labels or note["image_id"] not in images:
            where = f"category {note['category_id']}, image {note['image_id']}"
            raise ValueError(f"annotation {note['id']} refers to something that is not listed ({where})")
        notes[note["image_id"]].append(note)
    return [_scene(folder, image, notes[image["id"]], labels) for image in document["images"]]


def _scene(folder: Path, image: dict[str, Any], notes: list[dict[str, Any]], labels: dict[int, int]) -> Scene:
    boxes = np.array([note["bbox"] for note in notes], np.float32).reshape(-1, 4)
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
        raise ValueError(f"image {image['id']} has a box without area among {boxes.tolist()}")
    boxes[:, 2:] += boxes[:, :2]
    return Scene(
        id=image["id"],
        path=folder / image["file_name"],
        width=image["width"],
        height=image["height"],
        synthetic=bool(image.get("synthetic", False)),
        boxes=boxes,
        labels=np.array([labels[note["category_id"]] for note in notes], np.int64),
        crowd=np.array([bool(note.get("iscrowd", 0)) for note in notes], bool),
        outlines=tuple(note.get("segmentation") or None for note in notes),
        whole=bool(image.get("whole_image", False)),
    )


def fit(image: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """The image scaled to fit into `size_wh`, its proportions kept."""
    height, width = image.shape[:2]
    factor = min(size_wh[0] / width, size_wh[1] / height)
    target = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, target, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def as_input(image: np.ndarray) -> torch.Tensor:
    """HxWx3 -> 3xHxW."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


class SceneDataset(Dataset):
    """A split as mmdet samples, scaled into `size_wh`; with `augment`, randomly flipped, scaled, shifted and tinted;
    with `masks`, together with the masks of real images (those of generated ones are empty, and teach nothing).

    An index is either a position, or a pair (draw, position): the draw seeds the randomness, so that a resumed
    training sees what an uninterrupted one would have seen.
    """

    def __init__(
        self, split: Split, size_wh: tuple[int, int], augment: bool = False, seed: int = 0, masks: bool = False
    ) -> None:
        self._split, self._size, self._augment, self._seed, self._masks = split, size_wh, augment, seed, masks
        self._kept: dict[int, np.ndarray] = {}
        self._room = MEMORY
        self.metainfo = {"classes": split.names}

    def __len__(self) -> int:
        return len(self._split.scenes)

    @property
    def synthetic(self) -> list[bool]:
        """Which samples are generated images, for `Gen2DetSampler`."""
        return [scene.synthetic for scene in self._split.scenes]

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        draw, position = index if isinstance(index, tuple) else (0, index)
        scene = self._split.scenes[position]
        image = self._image(position)
        scale = np.array([image.shape[1] / scene.width, image.shape[0] / scene.height])
        boxes = (scene.boxes.reshape(-1, 2, 2) * scale).reshape(-1, 4).astype(np.float32)
        keep = np.ones(len(boxes), bool)
        masks = _drawn(scene, image.shape[:2]) if self._masks else None
        if self._augment:
            rng = np.random.default_rng((self._seed, draw))
            motion = Motion.draw(image.shape[1], image.shape[0], rng)
            boxes, keep = motion.boxes(boxes)
            masks = None if masks is None else motion.masks(masks)
            image = _tint(motion.image(image), rng)
        return self._sample(scene, image, boxes, keep, masks)

    def _image(self, position: int) -> np.ndarray:
        if position in self._kept:
            return self._kept[position]
        image = fit(_read(self._split.scenes[position]), self._size)
        if self._room >= image.nbytes:
            self._kept[position] = image
            self._room -= image.nbytes
        return image

    def _sample(
        self, scene: Scene, image: np.ndarray, boxes: np.ndarray, keep: np.ndarray, masks: np.ndarray | None
    ) -> dict[str, Any]:
        objects, ignored = keep & ~scene.crowd, keep & scene.crowd
        sample = DetDataSample(
            gt_instances=InstanceData(
                bboxes=torch.from_numpy(boxes[objects]), labels=torch.from_numpy(scene.labels[objects])
            ),
            ignored_instances=InstanceData(bboxes=torch.from_numpy(boxes[ignored])),
            metainfo={
                "img_id": scene.id,
                "img_path": str(scene.path),
                "ori_shape": (scene.height, scene.width),
                "img_shape": image.shape[:2],
                "scale_factor": (image.shape[1] / scene.width, image.shape[0] / scene.height),
                "synthetic": scene.synthetic,
                "whole_image": scene.whole,
            },
        )
        if masks is not None:
            sample.gt_instances.masks = BitmapMasks(masks[objects], *image.shape[:2])
        return {"inputs": as_input(image), "data_samples": sample}


def _read(scene: Scene) -> np.ndarray:
    """HxWx3 RGB. Pixels are taken as stored: the annotations were made for them, whatever an orientation tag says."""
    image = cv2.imread(str(scene.path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise WinnowError(f"{scene.path} cannot be read as an image.")
    if image.shape[:2] != (scene.height, scene.width):
        seen, said = f"{image.shape[1]}x{image.shape[0]}", f"{scene.width}x{scene.height}"
        raise WinnowError(f"{scene.path} is {seen} pixels, but the annotations say {said}.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _drawn(scene: Scene, shape: tuple[int, int]) -> np.ndarray:
    """The masks of an image, uint8 [n,height,width] of 0 and 1, scaled to this shape."""
    masks = np.zeros((len(scene.boxes), *shape), np.uint8)
    for mask, outline in zip(masks, scene.outlines, strict=True):
        if outline is not None and not scene.synthetic and not scene.whole:
            mask[:] = cv2.resize(_mask(outline, scene), shape[::-1], interpolation=cv2.INTER_NEAREST)
    return masks


def _mask(outline: Any, scene: Scene) -> np.ndarray:
    """Polygons, or run lengths as numbers or as text, as pixels [height,width]."""
    if isinstance(outline, list):
        runs = coco_mask.merge(coco_mask.frPyObjects(outline, scene.height, scene.width))
    elif isinstance(outline["counts"], list):
        runs = coco_mask.frPyObjects(outline, scene.height, scene.width)
    else:
        runs = outline
    return coco_mask.decode(runs)


class Motion(NamedTuple):
    """A flip, scale and shift of a picture of `size_wh` within its frame: a point p goes to `scale * p + shift`."""

    size_wh: tuple[int, int]
    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def draw(cls, width: int, height: int, rng: np.random.Generator) -> Motion:
        """A scale of 0.75 to 1.33 anywhere in the frame, flipped every other time."""
        zoom = float(np.exp(rng.uniform(np.log(0.75), np.log(1.33))))
        free = np.array([width, height]) * (1 - zoom)
        shift = free * rng.uniform(0, 1, 2)
        scale = np.array([zoom, zoom])
        if rng.random() < 0.5:
            scale[0], shift[0] = -zoom, width - shift[0]
        return cls((width, height), scale, shift)

    def image(self, image: np.ndarray) -> np.ndarray:
        """The picture moved; what is uncovered at the border is grey."""
        return self._warped(image, cv2.INTER_LINEAR, (114, 114, 114))

    def masks(self, masks: np.ndarray) -> np.ndarray:
        """Masks [n,height,width] moved."""
        return np.array([self._warped(mask, cv2.INTER_NEAREST, 0) for mask in masks], np.uint8).reshape(masks.shape)

    def _warped(self, picture: np.ndarray, how: int, border: Any) -> np.ndarray:
        centres = self.shift + 0.5 * self.scale - 0.5  # pixel i covers i to i + 1; warpAffine puts its centre at i
        matrix = np.array([[self.scale[0], 0, centres[0]], [0, self.scale[1], centres[1]]])
        return cv2.warpAffine(picture, matrix, self.size_wh, flags=how, borderValue=border)

    def boxes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(boxes [n,4] moved and cut to the frame, which are still to be seen [n]: those with a third of their area in
        it)."""
        moved = np.sort((boxes.reshape(-1, 2, 2) * self.scale + self.shift), axis=1).reshape(-1, 4)
        inside = moved.clip(0, np.array([*self.size_wh, *self.size_wh]))
        return inside.astype(np.float32), _area(inside) / _area(moved) > 1 / 3


def augment(
    image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image of the same size, boxes [n,4], which boxes are still to be seen [n]) after a random motion and tint."""
    motion = Motion.draw(image.shape[1], image.shape[0], rng)
    return _tint(motion.image(image), rng), *motion.boxes(boxes)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _tint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast and brightness, a little different for each channel, through one look-up table."""
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3)
    table = (np.arange(256)[:, None] - 128) * gain + 128 + rng.uniform(-20, 20)
    return cv2.LUT(image, table.clip(0, 255).astype(np.uint8).reshape(1, 256, 3))

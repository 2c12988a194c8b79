"""Training data of the pocket painter: objects of Tabletop in their surroundings, with the box to repaint and true words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np

from engine.tabletop import Difficulty, Truth, paint
from engine.tabletop.language import Description

WORLD = Difficulty(kinds=40, tail=0.25, hidden=0.2, lookalikes=0.05, sizes=(0.1, 0.45, 0.45), noise=(0.0, 0.012))
CHUNK = 64  # scenes
SIDE = (1.35, 2.1)  # of the crop, over the longer side of the box


class Contexts(NamedTuple):
    """`images` (n, size, size, 3) uint8 RGB, `boxes` (n, 4) float32 xyxy in their pixels, `texts` true of what the box
    shows, several for each."""

    images: np.ndarray
    boxes: np.ndarray
    texts: list[list[str]]


def contexts(folder: Path, *, scenes: int, size: int, seed: int, workers: int = 2) -> Contexts:
    """The objects of the first so many scenes of the world `seed`, kept in `folder` so that they are made once."""
    path = folder / f"contexts_{seed}_{scenes}_{size}.npz"
    if not path.is_file():
        _write(path, _paint(scenes, size, seed, workers))
    with np.load(path) as stored:
        return Contexts(stored["images"], stored["boxes"], msgspec.json.decode(stored["texts"].tobytes()))


def _paint(scenes: int, size: int, seed: int, workers: int) -> Contexts:
    tasks = [(seed, first, min(first + CHUNK, scenes), size) for first in range(0, scenes, CHUNK)]
    with get_context("spawn").Pool(workers, cv2.setNumThreads, (1,)) as pool:
        parts = pool.map(_chunk, tasks, chunksize=1)
    return Contexts(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        [texts for part in parts for texts in part.texts],
    )


def _chunk(task: tuple[int, int, int, int]) -> Contexts:
    seed, first, end, size = task
    found = [one for index in range(first, end) for one in _of_scene(seed, index, size)]
    images, boxes, texts = zip(*found, strict=True)
    return Contexts(np.stack(images), np.array(boxes, np.float32), list(texts))


def _of_scene(seed: int, index: int, size: int) -> Iterator[tuple[np.ndarray, tuple[float, ...], list[str]]]:
    scene, rng = paint(seed, index, WORLD), np.random.default_rng([seed, index, 1])
    for number, thing in enumerate(scene.truth.objects):
        x1, y1, x2, y2 = thing.box
        if thing.hidden > 0.15 or max(x2 - x1, y2 - y1) < 0.3 * size:
            continue
        side = max(x2 - x1, y2 - y1) * rng.uniform(*SIDE)
        left, top = ((a + b) / 2 - side / 2 + rng.normal(0, 0.05 * side) for a, b in ((x1, x2), (y1, y2)))
        image, shift, scale = window(scene.image, left, top, side, size)
        box = tuple((value - at) * scale for value, at in zip(thing.box, shift * 2, strict=True))
        yield image, box, _texts(scene.truth, number, rng)


def window(
    image: np.ndarray, left: float, top: float, side: float, size: int
) -> tuple[np.ndarray, tuple[float, float], float]:
    """A square of the picture, moved inside it where it sticks out, at `size` pixels: (pixels, its corner, scale)."""
    height, width = image.shape[:2]
    side = min(round(side), width, height)
    x, y = round(min(max(left, 0), width - side)), round(min(max(top, 0), height - side))
    way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(image[y : y + side, x : x + side], (size, size), interpolation=way), (x, y), size / side


def _texts(truth: Truth, number: int, rng: np.random.Generator) -> list[str]:
    """A few descriptions of one object: of its look, and those of the scene's true statements that name it alone."""
    thing = truth.objects[number]
    full = {"colour": 0.75, "pattern": 0.5, "material": 0.4, "size": 0.15}
    texts = []
    for _ in range(4):
        said = {slot: getattr(thing, slot) for slot, share in full.items() if rng.random() < share}
        if said.get("pattern") == "plain" and rng.random() < 0.7:
            del said["pattern"]
        text = Description(kind=thing.kind, definite=bool(rng.random() < 0.3), **said).noun_phrase
        texts.append(text.split(" ", 1)[1] if rng.random() < 0.2 else text)
    told = [s.text for s in truth.true if s.objects == (number,) and len(s.text) < 60]
    return [thing.kind, *texts, *(str(told[i]) for i in rng.permutation(len(told))[:2])]


def _write(path: Path, made: Contexts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.npz")
    texts = np.frombuffer(msgspec.json.encode(made.texts), np.uint8)
    np.savez(unfinished, images=made.images, boxes=made.boxes, texts=texts)
    os.replace(unfinished, path)

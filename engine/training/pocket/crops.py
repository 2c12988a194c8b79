"""Objects of Tabletop cut out of their scenes, with the words that are true of them: training data of the embedder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import msgspec
import numpy as np

from db.errors import WinnowError
from engine.tabletop import KINDS, PRESETS, Difficulty, TrueObject, paint
from engine.tabletop.language import ATTRIBUTES, Description

WORDS: dict[str, tuple[str, ...]] = {"kind": tuple(kind.name for kind in KINDS)} | {
    slot: ATTRIBUTES[slot] for slot in ("colour", "pattern", "material")
}
"""Every word that can be true of a crop, by what it says. Sizes are left out: a crop does not show them."""
SAID = {"colour": 0.85, "pattern": 0.5, "material": 0.4}
"""How often a description says it; the kind is always said."""
PART = 2000  # crops in one file of a `dataset`
MOST_HIDDEN = 0.35  # share of an object that may be out of sight


@dataclass(frozen=True, eq=False)
class Crop:
    """One object: `image` (size, size, 3) uint8 RGB, and what is true of it."""

    image: np.ndarray
    kind: str
    colour: str
    pattern: str
    material: str

    @property
    def words(self) -> tuple[str, str, str, str]:
        """Kind, colour, pattern and material, in the order of WORDS."""
        return self.kind, self.colour, self.pattern, self.material

    @property
    def text(self) -> str:
        """The description that says all of them."""
        return describe(*self.words)


@dataclass(frozen=True, eq=False)
class Crops:
    """Many crops as arrays: `images` (n, size, size, 3) uint8 RGB, `labels` (n, 4) places in the lists of WORDS."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Crop:
        said = zip(WORDS.values(), self.labels[place], strict=True)
        return Crop(self.images[place], *(words[label] for words, label in said))


def describe(kind: str, colour: str | None = None, pattern: str | None = None, material: str | None = None) -> str:
    """The words as a noun phrase: "an orange striped wooden boat", "a pair of scissors"."""
    return Description(kind=kind, colour=colour, pattern=pattern, material=material).noun_phrase


def description(crop: Crop, rng: np.random.Generator) -> str:
    """A true description of the crop that says some of its words: always the kind, the others as often as SAID says."""
    return describe(crop.kind, **{slot: getattr(crop, slot) for slot, share in SAID.items() if rng.random() < share})


def crops(
    seed: int,
    count: int,
    size: int = 64,
    context: tuple[float, float] = (0.05, 0.45),
    difficulty: str = "standard",
    *,
    narrowest: float = 1.0,
    first: int = 0,
) -> Iterator[Crop]:
    """`count` crops from the scenes of the world `seed`, beginning with scene `first`; all kinds are about as frequent.

    A crop is a window around the visible box of an object, larger on each side by a share of its longer side that is
    drawn from `context`, moved and flipped at random and resized to `size` pixels. The window is a square; where
    `narrowest` is less than 1, its sides differ by up to that ratio in the direction of the box. `difficulty` is a
    preset's name, or "mixed" for all of them in turn. Raises WinnowError for an unknown one.
    """
    worlds = _worlds(difficulty)
    found = (
        crop
        for index in _count_from(first)
        for crop in _of_scene(seed, index, worlds[index % len(worlds)], size, context, narrowest)
    )
    return islice(found, count)


def dataset(
    folder: Path,
    seed: int,
    count: int,
    size: int = 64,
    context: tuple[float, float] = (0.05, 0.45),
    difficulty: str = "standard",
    *,
    narrowest: float = 1.0,
) -> Crops:
    """The crops of the world `seed`, painted once and kept in `folder` in parts: an interrupted painting goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, count, PART):  # a part takes fewer scenes than it has crops, so that no two parts share one
        found = crops(seed, PART, size, context, difficulty, narrowest=narrowest, first=first)
        name = f"crops_{seed}_{size}_{context[0]:g}-{context[1]:g}_{difficulty}_{narrowest:g}_{first}.npz"
        parts.append(_kept(folder / name, found))
    images = np.concatenate([part.images for part in parts])[:count]
    return Crops(images, np.concatenate([part.labels for part in parts])[:count])


def _kept(path: Path, found: Iterator[Crop]) -> Crops:
    if not path.is_file():
        made = list(found)
        labels = [[words.index(said) for words, said in zip(WORDS.values(), crop.words, strict=True)] for crop in made]
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, images=np.stack([crop.image for crop in made]), labels=np.array(labels, np.uint8))
        os.replace(unfinished, path)
    with np.load(path) as stored:
        return Crops(stored["images"], stored["labels"])


def _worlds(difficulty: str) -> list[Difficulty]:
    """The presets with all kinds, none of them rare."""
    if difficulty != "mixed" and difficulty not in PRESETS:
        raise WinnowError(f"No difficulty of crops named {difficulty!r}. Known: {', '.join(PRESETS)}, mixed.")
    names = list(PRESETS) if difficulty == "mixed" else [difficulty]
    return [msgspec.structs.replace(PRESETS[name], kinds=len(KINDS), tail=0.0) for name in names]


def _count_from(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1


def _of_scene(
    seed: int, index: int, world: Difficulty, size: int, context: tuple[float, float], narrowest: float
) -> Iterator[Crop]:
    scene, rng = paint(seed, index, world), np.random.default_rng([seed, index, 2])
    for thing in scene.truth.objects:
        if thing.hidden < MOST_HIDDEN:
            pixels = _window(scene.image, thing, rng, context, narrowest)
            way = cv2.INTER_AREA if max(pixels.shape) > size else cv2.INTER_LINEAR
            image = cv2.resize(pixels[:, :: rng.choice((-1, 1))], (size, size), interpolation=way)
            yield Crop(image, thing.kind, thing.colour, thing.pattern, thing.material)


def _window(
    image: np.ndarray, thing: TrueObject, rng: np.random.Generator, context: tuple[float, float], narrowest: float
) -> np.ndarray:
    """The pixels around an object. The window is moved inside the picture where it sticks out."""
    x1, y1, x2, y2 = thing.box
    longer, margin = max(x2 - x1, y2 - y1), 2 * rng.uniform(*context)
    least = longer * rng.uniform(narrowest, 1)
    spans = []
    for low, high, limit in ((x1, x2, image.shape[1]), (y1, y2, image.shape[0])):
        side = min(round(max(high - low, least) + margin * longer), limit)
        free = (side - (high - low)) / 2  # between the box and the side of the window
        start = round((low + high) / 2 - side / 2 + rng.uniform(-1, 1) * min(free, margin * longer / 4))
        start = min(max(start, 0), limit - side)
        spans.append(slice(start, start + side))
    return image[spans[1], spans[0]]

"""The illustrator without a model: cut-outs of the data set's own instances, laid out on a background of the data set."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from db.errors import WinnowError
from db.records import XYXY, Box, Image, Phrase
from engine.backends.cutouts import Instances, Source, ellipse, outline, whole_light
from engine.backends.paste import MARGIN, blend, extent, fill, place
from engine.claims import mentions, plain_name
from engine.layout import lay_out, place_said
from engine.lexicon import nouns, singular
from engine.noun_phrases import unmeasured
from engine.phrases import chunks
from engine.pixels import decode, rectangle
from engine.roles import Context, Drawn, DrawTask

BACKGROUNDS = 8  # drawn by chance, of which the emptiest is taken
Slots = frozenset[tuple[str, str]]


class _Wanted(NamedTuple):
    """A class of the data set with the adjectives that a phrase gives it."""

    category: str
    slots: Slots


class CollageIllustrator:
    """Puts an instance of each class that a phrase names where the layout says.

    Where the phrases of the data set tell what its instances look like, an instance must look as the phrase says. Without a
    layout in the task it lays out the noun phrases of the prompt itself.
    """

    heeds_layout = True

    def __init__(self, context: Context, **options: object) -> None:
        if options:
            raise WinnowError(f"The backend 'collage' has no options; got {', '.join(sorted(options))}.")
        self._context = context
        self._found = lru_cache(maxsize=256)(self._find)

    @cached_property
    def size(self) -> tuple[int, int]:
        """That of the first image of the data set."""
        first = next((image for image in self._context.store.datasets.images(self._context.dataset_id, limit=1)), None)
        if first is None:
            raise WinnowError("The data set has no images to make a collage from.")
        return first.width, first.height

    @cached_property
    def _instances(self) -> Instances:
        return Instances(self._context.store, self._context.dataset_id)

    @cached_property
    def _names(self) -> dict[str, str]:
        """The noun of each class in the singular -> its name in the data set."""
        found = self._context.store.datasets.categories(self._context.dataset_id)
        return {_noun(plain_name(category.name).lower()): category.name for category in found}

    def draw(self, tasks: Sequence[DrawTask]) -> list[Drawn | str]:
        """One picture per task; a sentence where none of its phrases names a class of which there is an instance."""
        return [self._draw(task) for task in tasks]

    def _draw(self, task: DrawTask) -> Drawn | str:
        chance = random.Random(task.seed)
        size = task.size or self.size
        layout = task.layout or _own_layout(task.prompt, size, task.seed)
        sources = [self._choose(phrase, task.split, chance) for phrase, _ in layout]
        if not any(sources):
            return f"nothing in “{task.prompt}” names a class of which this split has a usable instance that looks so"
        background = self._background(task.split, chance)
        if background is None:
            return "this split has no image file to serve as a background"
        image = _covering(self._emptied(background), size)
        light = whole_light(image)
        boxes: list[XYXY | None] = []
        for source, (_, xyxy) in zip(sources, layout, strict=True):
            boxes.append(None if source is None else self._put(image, source, xyxy, light, chance))
        detail = {
            "background": background.id,
            "sources": [source.box.id if source else None for source in sources],
            "size": list(size),
        }
        return Drawn(image, tuple(boxes), detail)

    # Instances

    def shows(self, phrase: str, split: str) -> bool:
        """Whether the split has an instance that looks as the phrase says."""
        return bool(self._fitting(phrase, split))

    def _choose(self, phrase: str, split: str, chance: random.Random) -> Source | None:
        pool = self._fitting(phrase, split)
        return chance.choice(pool) if pool else None

    def _fitting(self, phrase: str, split: str) -> list[Source]:
        wanted = self._wanted(phrase)
        known = self._found(wanted.category, split) if wanted else ()
        looks = [(source, slots) for source, slots in known if slots is not None]
        fitting = [source for source, slots in looks if wanted and slots is not None and wanted.slots <= slots]
        return fitting if looks else [source for source, _ in known]

    def _wanted(self, phrase: str) -> _Wanted | None:
        """What the first noun of the phrase asks for, None when it is no class of the data set."""
        said = mentions(unmeasured(phrase), tuple(self._names.values()))
        category = self._names.get(_noun(said[0].noun)) if said else None
        return _Wanted(category, frozenset(said[0].slots)) if category else None

    def _find(self, category: str, split: str) -> tuple[tuple[Source, Slots | None], ...]:
        """The instances of a class with their adjectives, None where no phrase says any."""
        sources = self._instances.sources(category, split)
        phrases = self._context.store.datasets.phrases_of(list({source.image.id for source in sources}))
        names = tuple(self._names.values())
        return tuple((source, _looks(source.box, phrases.get(source.image.id, []), names)) for source in sources)

    # Pixels

    def _background(self, split: str, chance: random.Random) -> Image | None:
        """Of a few images drawn by chance the one of which boxes cover least."""
        datasets = self._context.store.datasets
        ids = datasets.image_ids(self._context.dataset_id, split=split or None)
        drawn = [datasets.image(i) for i in chance.sample(ids, min(BACKGROUNDS, len(ids)))]
        usable = [image for image in drawn if image.digest]
        boxes = datasets.boxes_of([image.id for image in usable])
        return min(usable, key=lambda image: (_covered(image, boxes[image.id]), image.id), default=None)

    def _emptied(self, image: Image) -> np.ndarray:
        """The image with the annotated things taken out, one after another."""
        pixels = decode(self._context.store.blobs.get(image.digest or "")).copy()
        boxes = self._context.store.datasets.boxes_of([image.id])[image.id]
        for number, box in enumerate(boxes):
            _take_out(pixels, box, [other.xyxy for other in boxes[number + 1 :]])
        return pixels

    def _put(
        self, image: np.ndarray, source: Source, xyxy: XYXY, light: np.ndarray, chance: random.Random
    ) -> XYXY | None:
        """Paste the source into the image; its box, None when nothing of it is left at that size."""
        margin = max(4.0, MARGIN * max(xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]))
        window = x1, y1, x2, y2 = rectangle(xyxy, image.shape, margin=margin)
        placed = place(self._instances.cutout(source), source, xyxy, window, chance)
        if not (placed.alpha > 0.5).any():
            return None
        image[y1:y2, x1:x2] = blend(image[y1:y2, x1:x2], placed, light)
        return extent(placed, window)


def _noun(name: str) -> str:
    """A class name or noun as they are compared: in the singular, of synonyms the one that stands for them."""
    words = name.split()
    one = " ".join([*words[:-1], singular(words[-1])]) if words else name
    return nouns()[one].name if one in nouns() else one


def _looks(box: Box, phrases: Sequence[Phrase], names: tuple[str, ...]) -> Slots | None:
    own = [
        mentions(unmeasured(phrase.text), names) for phrase in phrases if phrase.holds and phrase.box_ids == (box.id,)
    ]
    return frozenset(slot for said in own for slot in (said[0].slots if said else ())) if own else None


def _own_layout(prompt: str, size: tuple[int, int], seed: int) -> list[tuple[str, XYXY]]:
    spans = [(named.text, span) for named in chunks(prompt) for span in named.spans]
    ends = [*sorted(start for _, (start, _) in spans), len(prompt)]
    said = [place_said(prompt, end, min(x for x in ends if x >= end)) for _, (_, end) in spans]
    laid = zip(spans, lay_out(said, size, seed), strict=True)
    return [(text, xyxy) for (text, _), xyxy in laid if xyxy is not None]


def _covered(image: Image, boxes: Sequence[Box]) -> float:
    return sum((b.xyxy[2] - b.xyxy[0]) * (b.xyxy[3] - b.xyxy[1]) for b in boxes) / (image.width * image.height)


def _take_out(pixels: np.ndarray, box: Box, others: Sequence[XYXY]) -> None:
    """Close the place of one thing from its surroundings, in place; the others are not copied from."""
    margin = max(4.0, MARGIN * max(box.xyxy[2] - box.xyxy[0], box.xyxy[3] - box.xyxy[1]))
    window = x1, y1, x2, y2 = rectangle(box.xyxy, pixels.shape, margin=margin)
    mask, method = outline(pixels, box, window, others)
    hole, foreign = mask > 0.5, np.zeros(mask.shape, bool)
    for xyxy in others:
        foreign |= ellipse((xyxy[0] - x1, xyxy[1] - y1, xyxy[2] - x1, xyxy[3] - y1), mask.shape) > 0
    if method != "segmentation":  # a guessed outline may miss a rim
        own = (box.xyxy[0] - x1, box.xyxy[1] - y1, box.xyxy[2] - x1, box.xyxy[3] - y1)
        hole |= (ellipse(own, mask.shape, 1.02) > 0) & ~foreign
    pixels[y1:y2, x1:x2] = fill(pixels[y1:y2, x1:x2], hole, foreign)


def _covering(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of the picture in the proportions of `size` (width, height), scaled to it."""
    height, width = pixels.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    wide, high = min(round(size[0] / scale), width), min(round(size[1] / scale), height)
    left, top = (width - wide) // 2, (height - high) // 2
    part = pixels[top : top + high, left : left + wide]
    shrinks = wide * high > size[0] * size[1]
    return (
        part.copy()
        if (wide, high) == size
        else cv2.resize(part, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    )

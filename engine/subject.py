"""What a filter looks at: a candidate with everything that is known of its image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from db.errors import WinnowError
from db.records import Box, Candidate, Image, Phrase
from engine.pixels import Rectangle, decode
from engine.roles import Context


@dataclass(frozen=True, eq=False)
class Subject:
    """A candidate, its image with its annotations, and the class names by id. `load` gives the pixels of a blob."""

    candidate: Candidate
    image: Image
    boxes: tuple[Box, ...]
    phrases: tuple[Phrase, ...]
    categories: Mapping[int, str]
    load: Callable[[str], np.ndarray]

    @cached_property
    def before(self) -> np.ndarray:
        """The image as imported, HxWx3 uint8. Raises WinnowError when it has none or it cannot be read."""
        if self.image.digest is None:
            raise WinnowError(f"image {self.image.file_name} was imported without its file")
        return self.load(self.image.digest)

    @cached_property
    def after(self) -> np.ndarray | None:
        """The image that the candidate proposes, None for a text. Raises WinnowError when it cannot be read."""
        return None if self.candidate.digest is None else self.load(self.candidate.digest)

    @property
    def category(self) -> str | None:
        """The class that the candidate's box shows."""
        return self.categories.get(self.candidate.category_id or 0)

    @property
    def touched(self) -> tuple[Rectangle, ...]:
        """The rectangles outside which no pixel may have changed; empty when the candidate does not say."""
        return tuple(
            (int(x1), int(y1), int(x2), int(y2)) for x1, y1, x2, y2 in self.candidate.detail.get("touched", ())
        )


def subjects(context: Context, candidate_ids: Sequence[int]) -> list[Subject]:
    """The subjects of stored candidates, in order. Images are read when a filter asks for them, shared ones once."""
    datasets = context.store.datasets
    candidates = {candidate.id: candidate for candidate in context.store.review.candidates(candidate_ids)}
    image_ids = sorted({candidate.image_id for candidate in candidates.values()})
    images = {image_id: datasets.image(image_id) for image_id in image_ids}
    boxes, phrases = datasets.boxes_of(image_ids), datasets.phrases_of(image_ids)
    categories = {category.id: category.name for category in datasets.categories(context.dataset_id)}
    load = lru_cache(maxsize=8)(lambda digest: _load(context, digest))
    return [
        Subject(
            candidate=candidates[i],
            image=images[candidates[i].image_id],
            boxes=tuple(boxes[candidates[i].image_id]),
            phrases=tuple(phrases[candidates[i].image_id]),
            categories=categories,
            load=load,
        )
        for i in candidate_ids
    ]


def _load(context: Context, digest: str) -> np.ndarray:
    try:
        return decode(context.store.blobs.get(digest))
    except WinnowError as error:
        raise WinnowError(f"blob {digest[:12]} cannot be read: {error}") from error

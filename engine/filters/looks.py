"""How good a picture looks beside the data set's own: Gen2Det's image filter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from db.errors import WinnowError
from db.records import Image
from engine.embeddings import Embeddings, Load, Region
from engine.filters.embedded import NO_EMBEDDER, embeddings
from engine.filters.judgement import Judgement
from engine.pixels import decode
from engine.roles import Aesthetics, Context
from engine.subject import Subject

SAMPLE = 500  # of the data set's images, evenly spread: their mean is known to about 0.03 of a point
NO_HEAD = "the model pack has no aesthetics: name an aesthetic head in your own pack"


class _Usual(NamedTuple):
    """The mean rating of so many of the data set's own images."""

    mean: float
    images: int


def aesthetic(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """Rating of the whole new image, less the mean of the data set's own images (METHODS 5.2, point 2)."""
    try:
        head, remembered = context.aesthetics(), embeddings(context)
        if head is None or remembered is None:
            raise WinnowError(NO_HEAD if head is None else NO_EMBEDDER)
        created = context.store.datasets.get(context.dataset_id).created_at
        usual = _usual(context, created, remembered, head)
    except WinnowError as error:
        return [Judgement(None, str(error))] * len(subjects)
    regions = [Region(subject.candidate.digest) for subject in subjects if subject.candidate.digest]
    ratings = dict(zip(regions, _ratings(remembered, head, regions, subjects[0].load), strict=True))
    return [_judgement(subject, ratings, usual) for subject in subjects]


def _judgement(subject: Subject, ratings: dict[Region, float | str], usual: _Usual) -> Judgement:
    if subject.candidate.digest is None:
        return Judgement(None, "the candidate has no image")
    rating = ratings[Region(subject.candidate.digest)]
    if isinstance(rating, str):
        return Judgement(None, rating)
    told = f"rated {rating:.2f}; {usual.images} of the data set's own images have a mean of {usual.mean:.2f}"
    return Judgement(rating - usual.mean, told)


@lru_cache(maxsize=16)
def _usual(context: Context, created: float, remembered: Embeddings, head: Aesthetics) -> _Usual:
    """`created` tells data sets apart that had the same id. Raises WinnowError when no image can be read."""
    images = [image for image in _sample(context) if image.digest]

    def load(digest: str) -> np.ndarray:
        return decode(context.store.blobs.get(digest))

    rated = _ratings(remembered, head, [Region(image.digest or "") for image in images], load)
    numbers = [rating for rating in rated if not isinstance(rating, str)]
    if not numbers:
        raise WinnowError("none of the data set's own images can be read, so there is no mean to compare with")
    return _Usual(float(np.mean(numbers)), len(numbers))


def _sample(context: Context) -> list[Image]:
    datasets = context.store.datasets
    ids = datasets.image_ids(context.dataset_id)
    places = np.unique(np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids))).round().astype(int))
    return [datasets.image(ids[place]) for place in places]


def _ratings(remembered: Embeddings, head: Aesthetics, regions: Sequence[Region], load: Load) -> list[float | str]:
    """A rating of each image, or why it has none."""
    vectors = remembered.images(regions, load)
    read = [vector for vector in vectors if not isinstance(vector, str)]
    rated = iter(head.rate(np.array(read)).tolist() if read else ())
    return [vector if isinstance(vector, str) else next(rated) for vector in vectors]

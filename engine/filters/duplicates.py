"""Whether a run has made the same picture before, or a whole image is one of the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from db.errors import WinnowError
from db.records import WHOLE, Candidate, Image, Kind
from engine.embeddings import Load, Pictures, Region
from engine.filters.embedded import embeddings
from engine.filters.judgement import Judgement
from engine.pixels import decode, gray, rectangle
from engine.roles import Context
from engine.subject import Subject

WINDOW = 2000  # earlier candidates of the run that one is compared with
MOST_OWN = 20_000  # images of the data set that a whole image is compared with; of more, some from all of it
SIDE, KEPT = 32, 8  # of the picture that is transformed, and of its lowest frequencies
BOUNDLESS = (1 << 30, 1 << 30)  # the size of an image that is not read yet


class DCTHash:
    """The perceptual hash by discrete cosine transform (Zauner, 2010): which of the 64 lowest frequencies of the luma are above
    their median, as a unit vector of +-1/8, so that (1 + cosine) / 2 is the share of equal bits."""

    name, precision, width, batch_size = "dct-hash", "1", KEPT * KEPT, 256

    def fit(self, image: np.ndarray) -> np.ndarray:
        """(32, 32) float32 luma of an HxWx3 image."""
        return cv2.resize(gray(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(n, 64) float32 of what `fit` gives."""
        low = np.array([cv2.dct(image)[:KEPT, :KEPT].ravel() for image in images])
        return np.where(low > np.median(low, axis=1, keepdims=True), 1 / KEPT, -1 / KEPT).astype(np.float32)


def near_duplicate(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """How like the picture in the box is to one that the same run made earlier for the same class: the largest share of
    equal bits of their perceptual hashes, or cosine of their embeddings when there is an embedder. A whole image is compared
    with those of the data set too, of all splits, by their hashes."""
    hashes = _hashes(context)
    try:
        embedded, how = embeddings(context), "perceptual hash"
    except WinnowError as error:
        embedded, how = None, f"perceptual hash alone, since the embedder cannot be had ({error})"
    earlier = _earlier(subjects, context)
    regions = [_region(one) for some in ([s.candidate for s in subjects], *earlier.values()) for one in some]
    looks: dict[str, tuple[_Vectors, Callable[[float], float]]] = {
        how: (_vectors(hashes, regions, subjects[0].load), lambda cosine: (1 + cosine) / 2)
    }
    if embedded is not None:
        looks["embedding"] = (_vectors(embedded, regions, subjects[0].load), float)
    own = _own(context) if any(subject.candidate.kind in WHOLE for subject in subjects) else _NOTHING
    hashed = looks[how][0]
    return [
        max(
            _judgement(one.candidate, earlier[one.candidate.id], looks),
            _judged_by_own(one.candidate, hashed, own),
            key=lambda judgement: -1.0 if judgement.value is None else judgement.value,
        )
        for one in subjects
    ]


_Vectors = dict[Region | None, np.ndarray | str]


@lru_cache(maxsize=4)
def _hashes(context: Context) -> Pictures:
    return Pictures(context.store.home / "cache" / "embeddings", DCTHash())


class _Own(NamedTuple):
    """Images of the data set, their places by id, and their hashes [n, 64]."""

    images: Sequence[Image]
    places: dict[int, int]
    hashes: np.ndarray


_NOTHING = _Own((), {}, np.empty((0, DCTHash.width), np.float32))


@lru_cache(maxsize=4)
def _own(context: Context) -> _Own:
    """Those that can be read; hashed once, then kept on disk."""
    datasets = context.store.datasets
    ids = datasets.image_ids(context.dataset_id)
    known = datasets.images_of(ids[:: -(-len(ids) // MOST_OWN) or 1])
    images = [image for image in known.values() if image.digest is not None]
    regions = [Region(image.digest or "") for image in images]
    vectors = _hashes(context).images(regions, lambda digest: decode(context.store.blobs.get(digest)))
    read = [(image, row) for image, row in zip(images, vectors, strict=True) if not isinstance(row, str)]
    if not read:
        return _NOTHING
    places = {image.id: place for place, (image, _) in enumerate(read)}
    return _Own([image for image, _ in read], places, np.array([row for _, row in read]))


def _judged_by_own(candidate: Candidate, hashed: _Vectors, own: _Own) -> Judgement:
    """By the images of the data set, less the one that the candidate is itself."""
    vector = hashed.get(_region(candidate))
    if candidate.kind not in WHOLE or vector is None or isinstance(vector, str):
        return Judgement(None, "not compared with the data set")
    alike = (1 + own.hashes @ vector) / 2
    place = own.places.get(candidate.image_id)
    if place is not None and own.images[place].digest == candidate.digest:
        alike[place] = 0
    if not alike.any():
        return Judgement(None, "the data set has no other image")
    worst = int(alike.argmax())
    name = own.images[worst].file_name
    return Judgement(float(alike[worst]), f"{alike[worst]:.2f} like {name} of the data set by perceptual hash")


def _earlier(subjects: Sequence[Subject], context: Context) -> dict[int, list[Candidate]]:
    """For each candidate those of its run with smaller ids, the latest WINDOW of them, that show the same class."""
    review = context.store.review
    of_run = {run_id: review.candidate_ids(run_id) for run_id in {one.candidate.run_id for one in subjects}}
    windows: dict[int, list[int]] = {}
    for subject in subjects:
        ids = np.array(of_run[subject.candidate.run_id], np.int64)
        windows[subject.candidate.id] = ids[ids < subject.candidate.id][-WINDOW:].tolist()
    wanted = sorted({i for ids in windows.values() for i in ids})
    known = {one.id: one for one in review.candidates(wanted)}
    return {
        subject.candidate.id: [
            known[i] for i in windows[subject.candidate.id] if _comparable(known[i], subject.candidate)
        ]
        for subject in subjects
    }


def _comparable(one: Candidate, other: Candidate) -> bool:
    return one.digest is not None and one.kind is not Kind.NEGATIVE_TEXT and one.category_id == other.category_id


def _region(candidate: Candidate) -> Region | None:
    """The candidate's box in its picture; None without a picture."""
    if candidate.digest is None:
        return None
    return Region(candidate.digest, rectangle(candidate.xyxy, BOUNDLESS) if candidate.xyxy else None)


def _vectors(pictures: Pictures, regions: Sequence[Region | None], load: Load) -> _Vectors:
    there = list(dict.fromkeys(region for region in regions if region is not None))
    return dict(zip(there, pictures.images(there, load), strict=True))


def _judgement(
    candidate: Candidate, earlier: Sequence[Candidate], looks: dict[str, tuple[_Vectors, Callable[[float], float]]]
) -> Judgement:
    region = _region(candidate)
    if region is None:
        return Judgement(None, "the candidate has no image")
    found = [(0.0, "", 0)]
    for how, (vectors, likeness) in looks.items():
        own = vectors[region]
        if isinstance(own, str):
            return Judgement(None, own)
        others = [(one.id, vectors[_region(one)]) for one in earlier]
        found += [(max(likeness(float(own @ other)), 0.0), how, i) for i, other in others if not isinstance(other, str)]
    value, how, worst = max(found)
    told = f"{value:.2f} like candidate {worst} of the same run by {how}"
    return Judgement(value, told if how else "the run made none of this class before")

"""How far phrases and boxes of whole images cover each other, and how much of a data set is synthetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np

from db.records import WHOLE, Candidate, Content, Kind, Record
from db.store import Store

CHUNK = 500
EXAMPLES = 12  # phrases that most often lack a box


class Coverage(Record, frozen=True, kw_only=True):
    """Of a run's triplets as people left them: phrases and those without a box, boxes and those that no phrase names, and the
    phrases that most often lack a box."""

    images: int
    phrases: int
    unboxed: int
    boxes: int
    unnamed: int
    missed: tuple[tuple[str, int], ...]


class Purity(Record, frozen=True, kw_only=True):
    """`purity` is the mean share of the parts of a candidate (image, words, boxes) that have no real counterpart. Of the data set with
    the run's accepted images, `synthetic` images are new and `real` ones are not."""

    purity: float
    synthetic: int
    real: int


def coverage(store: Store, run_id: int) -> Coverage | None:
    """None for a run that made no triplets: class images and pairs have no boxes of phrases."""
    contents = [content for candidate, content in _contents(store, run_id) if candidate.kind is Kind.TRIPLET]
    if not contents:
        return None
    phrases = [named for content in contents for named in content.phrases]
    named = [{i for one in content.phrases for i in one.boxes} for content in contents]
    boxes = sum(len(content.boxes) for content in contents)
    missed = Counter(one.text.lower() for one in phrases if not one.boxes)
    return Coverage(
        images=len(contents),
        phrases=len(phrases),
        unboxed=sum(missed.values()),
        boxes=boxes,
        unnamed=boxes - sum(map(len, named)),
        missed=tuple(missed.most_common(EXAMPLES)),
    )


def purity(store: Store, run_id: int, accepted: int) -> Purity | None:
    """None for a run that made no new images. `accepted` is how many of its candidates stand."""
    values = [candidate.detail.get("purity") for candidate, _ in _contents(store, run_id) if candidate.digest]
    known = [value for value in values if value is not None]
    dataset_id = store.ledger.run(run_id).dataset_id
    if not known or dataset_id is None:
        return None
    real = store.datasets.get(dataset_id).images
    return Purity(purity=float(np.mean(known)), synthetic=accepted, real=real)


def _contents(store: Store, run_id: int) -> Iterator[tuple[Candidate, Content]]:
    """The whole images of a run with what is said of them, corrections included."""
    ids = store.review.candidate_ids(run_id)
    for start in range(0, len(ids), CHUNK):
        some = [one for one in store.review.candidates(ids[start : start + CHUNK]) if one.kind in WHOLE]
        edits = store.review.corrections([one.id for one in some if one.human == "edit"])
        for one in some:
            edit = edits.get(one.id, {})
            yield one, msgspec.convert(edit["content"], Content) if "content" in edit else one.content


def lines(covered: Coverage | None, pure: Purity | None) -> list[str]:
    """The figures in sentences."""
    told: list[str] = []
    if covered is not None and covered.phrases:
        often = ", ".join(f"“{text}” ({n:,})" for text, n in covered.missed)
        told.append(
            f"Coverage of {covered.images:,} images: {covered.unboxed:,} of {covered.phrases:,} phrases have no box, "
            f"{covered.unnamed:,} of {covered.boxes:,} boxes are named by no phrase."
        )
        told += [f"Without a box most often: {often}."] if often else []
    if pure is not None:
        total = pure.synthetic + pure.real
        told.append(
            f"Synthetic purity {pure.purity:.0%} (image, words and boxes without a real counterpart); with what is accepted, "
            f"{pure.synthetic:,} of {total:,} images of the data set are synthetic ({pure.synthetic / max(total, 1):.1%})."
        )
    return told

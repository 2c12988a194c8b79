"""From what was exported and trained on back to the candidates it came from, and from a candidate to all that used it.

Snapshots never change, so where their candidates stand in the manifest is looked up once for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec

from db.errors import NotFound, WinnowError
from db.formats.coco import numbered
from db.records import WHOLE, Box, Image, Kind, Record, Run, RunKind, Snapshot
from db.snapshots import Sample
from db.store import Store

ALL = 100_000  # runs
SNAPSHOTS = 64  # whose candidates are remembered
CANDIDATES = re.compile(rb'"candidate_ids":\[([\d,]+)\]\}\s*$')  # the last field of a line


class Use(Record, frozen=True, kw_only=True):
    """A candidate in a snapshot: the image that shows it, and the box or the phrases that it became there."""

    snapshot: Snapshot
    image: Image
    box: Box | None = None
    texts: tuple[str, ...] = ()


class Origin(Record, frozen=True, kw_only=True):
    """Where a box of a snapshot comes from. `candidate_id` painted it; without one it is an annotation of the data set, kept
    as it was. `beside` are the other candidates of its image."""

    snapshot: Snapshot
    image: Image
    box: Box
    candidate_id: int | None
    beside: tuple[int, ...] = ()


# Forward


def uses(store: Store, candidate_id: int) -> list[Use]:
    """Every snapshot that holds a candidate, the newest first. Raises NotFound."""
    candidate = store.review.candidate(candidate_id)
    return [
        _use(snapshot, sample, candidate_id, candidate.kind)
        for snapshot in store.snapshots.list(candidate.dataset_id)
        for sample in _samples_of(store, snapshot, candidate_id)
    ]


def trainings_on(store: Store, snapshot: Snapshot) -> list[Run]:
    """The trainings on a snapshot, the newest first."""
    found = store.ledger.runs(kind=RunKind.TRAIN, dataset_id=snapshot.dataset_id, limit=ALL)
    return [run for run in found if run.options["snapshot_id"] == snapshot.id]


def evaluations_of(store: Store, training: Run) -> list[Run]:
    """The evaluations of a training, the newest first."""
    found = store.ledger.runs(kind=RunKind.EVALUATE, dataset_id=training.dataset_id, limit=ALL)
    return [run for run in found if run.options["train_run_id"] == training.id]


def candidates_in(store: Store, snapshot: Snapshot) -> list[int]:
    """The candidates of a snapshot, ascending."""
    return sorted(_places(store.blobs.path(snapshot.digest)))


def _use(snapshot: Snapshot, sample: Sample, candidate_id: int, kind: Kind) -> Use:
    if kind is Kind.NEGATIVE_TEXT:
        said = tuple(phrase.text for phrase in sample.phrases if phrase.extra.get("candidate") == candidate_id)
        return Use(snapshot=snapshot, image=sample.image, texts=said)
    if kind in WHOLE:
        texts = tuple(phrase.text for phrase in sample.phrases)
        return Use(snapshot=snapshot, image=sample.image, box=next(iter(sample.boxes), None), texts=texts)
    box = sample.boxes[sample.candidate_ids.index(candidate_id)]
    said = tuple(phrase.text for phrase in sample.phrases if box.id in phrase.box_ids)
    return Use(snapshot=snapshot, image=sample.image, box=box, texts=said)


def _samples_of(store: Store, snapshot: Snapshot, candidate_id: int) -> Iterator[Sample]:
    path = store.blobs.path(snapshot.digest)
    places = _places(path).get(candidate_id, ())
    with path.open("rb") as file:
        for start, length in places:
            file.seek(start)
            yield msgspec.json.decode(file.read(length), type=Sample)


@lru_cache(maxsize=SNAPSHOTS)
def _places(manifest: Path) -> dict[int, tuple[tuple[int, int], ...]]:
    """For each candidate the lines (first byte, length) of the manifest that name it."""
    found: dict[int, tuple[tuple[int, int], ...]] = {}
    start = 0
    with manifest.open("rb") as file:
        for line in file:
            named = CANDIDATES.search(line)
            for candidate_id in map(int, named[1].split(b",")) if named else ():
                found[candidate_id] = (*found.get(candidate_id, ()), (start, len(line)))
            start += len(line)
    return found


# Back


def origin(store: Store, snapshot: Snapshot, annotation: int | str, split: str | None = None) -> Origin:
    """Where the annotation of an export of a snapshot comes from. `annotation` is its id in the exported COCO or LVIS file.

    Raises NotFound, and WinnowError when annotations of several splits have this id and `split` does not say which.
    """
    samples = store.snapshots.samples(snapshot)[1]
    numbers = numbered((box.id, box.source_id) for box in _boxes(samples))
    found = [
        (sample, box)
        for sample in samples
        if split is None or sample.image.split == split
        for box in sample.boxes
        if str(numbers[box.id]) == str(annotation)
    ]
    if not found:
        raise NotFound(f"annotation of the snapshot {snapshot.name!r}", annotation, _some(list(numbers.values())))
    if len(found) > 1:
        splits = ", ".join(sorted({repr(sample.image.split) for sample, _ in found}))
        raise WinnowError(
            f"The snapshot {snapshot.name!r} has {len(found)} annotations {annotation}, of the splits {splits}. Say which split."
        )
    return _origin(snapshot, *found[0])


def _boxes(samples: list[Sample]) -> Iterator[Box]:
    """In the order in which they are exported."""
    yield from sorted((box for sample in samples for box in sample.boxes), key=lambda box: box.id)


def _some(ids: list[int | str]) -> list[str]:
    return [str(one) for one in (ids if len(ids) <= 6 else [*ids[:3], "...", *ids[-2:]])]


def _origin(snapshot: Snapshot, sample: Sample, box: Box) -> Origin:
    """The painted boxes of a generated image stand first, in the order of its candidates."""
    synthetic = bool(sample.image.extra.get("synthetic"))
    place = sample.boxes.index(box)
    own = sample.candidate_ids[place] if synthetic and place < len(sample.candidate_ids) else None
    return Origin(
        snapshot=snapshot,
        image=sample.image,
        box=box,
        candidate_id=own,
        beside=tuple(one for one in sample.candidate_ids if one != own),
    )

"""What the writers share: whole files, fields that travel from one format to another, and what gets lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from db.document import Document
from db.records import Box, Image, Phrase

R = TypeVar("R", Image, Box)

BUFFER = 2**20  # bytes of a file that is written

COCO_PRIVATE = {"iscrowd", "area", "segmentation", "file_name"}
PRIVATE = {  # what a format keeps in `extra` for itself; everything else there is a field of the source
    **dict.fromkeys(("coco", "lvis"), COCO_PRIVATE),
    "refcoco": COCO_PRIVATE | {"ref", "sentence"},
    "yolo": {"line", "unlabelled"},
    "omnilabel": {"description", "description_ids", "sized"},
    "d3": {"sentence", "sent_id", "flat", "bare"},
    "flickr30k": {"entity", "types", "names", "tags", "unboxed", "stem"},
    "voc": {"tags", "stem", "attributes"},
    "odvg": {"odvg", "list"},
}


def replaced(path: Path, data: bytes) -> None:
    """Write a whole file under a temporary name and rename it: the file is complete or absent."""
    part = _part(path)
    part.write_bytes(data)
    part.replace(path)


@contextmanager
def side_by_side() -> Iterator[Callable[[Path], IO[bytes]]]:
    """Gives files to write to by their paths, as many as are asked for. All take their names at the end, or none do."""
    files: dict[Path, IO[bytes]] = {}

    def file_of(path: Path) -> IO[bytes]:
        if path not in files:
            files[path] = _part(path).open("wb", BUFFER)
        return files[path]

    try:
        yield file_of
        for path, file in files.items():
            file.close()
            _part(path).replace(path)
    finally:
        for path, file in files.items():
            file.close()
            _part(path).unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def carried(extra: dict[str, Any], source: str, taken: set[str]) -> dict[str, Any]:
    """The unknown fields of a record that came from the format `source`, less those whose names the writer needs."""
    unwanted = taken | PRIVATE.get(source, set())
    return {key: value for key, value in extra.items() if key not in unwanted}


def with_unique_ids(document: Document) -> tuple[Document, list[str]]:
    """The document without the ids that an earlier image or box has already, and how many those are, as losses: two
    splits may each have an image 1, a single file may not."""
    taken = sum(1 for _ in _repeated(document.images())) + sum(1 for _ in _repeated(document.boxes()))
    if not taken:
        return document, []
    unique = replace(document, images=lambda: _once(document.images()), boxes=lambda: _once(document.boxes()))
    return unique, [f"{taken} ids that another split has as well"]


def _repeated(records: Iterable[R]) -> Iterator[R]:
    seen: set[int | str] = set()
    for record in records:
        if record.source_id in seen:
            yield record
        elif record.source_id is not None:
            seen.add(record.source_id)


def _once(records: Iterable[R]) -> Iterator[R]:
    seen: set[int | str] = set()
    for record in records:
        yield msgspec.structs.replace(record, source_id=None) if record.source_id in seen else record
        if record.source_id is not None:
            seen.add(record.source_id)


def is_private(extra: dict[str, Any], source: str) -> bool:
    """Whether a record has something that only its own format can hold."""
    return bool(extra) and not PRIVATE.get(source, set()).isdisjoint(extra)


def _unknown(image: Image, boxes: list[Box], phrases: list[Phrase], source: str) -> int:
    extras = [image.extra, *(box.extra for box in boxes), *(phrase.extra for phrase in phrases)]
    return sum(bool(carried(extra, source, set())) for extra in extras)


def _private(image: Image, boxes: list[Box], phrases: list[Phrase], source: str) -> int:
    extras = [image.extra, *(box.extra for box in boxes), *(phrase.extra for phrase in phrases)]
    return sum(is_private(extra, source) for extra in extras)


def _ids(image: Image, boxes: list[Box], phrases: list[Phrase], source: str) -> int:
    return (image.source_id is not None) + sum(box.source_id is not None for box in boxes)


def _unnamed(image: Image, boxes: list[Box], phrases: list[Phrase], source: str) -> int:
    named = {box_id for phrase in phrases for box_id in phrase.box_ids}
    return sum(box.category_id is None and box.id not in named for box in boxes)


Count = Callable[[Image, list[Box], list[Phrase], str], int]
KINDS: dict[str, Count] = {
    "masks": lambda image, boxes, phrases, source: sum(box.segmentation is not None for box in boxes),
    "crowd flags": lambda image, boxes, phrases, source: sum(box.crowd for box in boxes),
    "areas": lambda image, boxes, phrases, source: sum(box.area is not None for box in boxes),
    "boxes without a category": lambda image, boxes, phrases, source: sum(box.category_id is None for box in boxes),
    "boxes with neither class nor phrase": _unnamed,
    "captions and phrases": lambda image, boxes, phrases, source: len(phrases),
    "ids of images and boxes": _ids,
    "records with unknown fields": _unknown,
    "records with fields of their own format": _private,
}


class Losses:
    """Counts, while images are written, of what a format cannot hold. The kinds are keys of `KINDS`."""

    def __init__(self, *kinds: str) -> None:
        self._counts = dict.fromkeys(kinds, 0)

    def see(self, image: Image, boxes: list[Box], phrases: list[Phrase], source: str) -> None:
        for kind in self._counts:
            self._counts[kind] += KINDS[kind](image, boxes, phrases, source)

    def told(self) -> list[str]:
        """Such as ["3 masks", "12 captions and phrases"]."""
        return [f"{count} {kind}" for kind, count in self._counts.items() if count]

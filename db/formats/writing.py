"""What the writers share: whole files, fields that travel from one format to another, and what gets lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from db.records import Box, Image, Phrase

PRIVATE = {  # what a format keeps in `extra` for itself; everything else there is a field of the source
    "coco": {"iscrowd", "area", "segmentation"},
    "voc": {"tags", "stem", "attributes"},
    "odvg": {"odvg", "list"},
}


def replaced(path: Path, data: bytes) -> None:
    """Write a whole file under a temporary name and rename it: the file is complete or absent."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def carried(extra: dict[str, Any], source: str, taken: set[str]) -> dict[str, Any]:
    """The unknown fields of a record that came from the format `source`, less those whose names the writer needs."""
    unwanted = taken | PRIVATE.get(source, set())
    return {key: value for key, value in extra.items() if key not in unwanted}


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

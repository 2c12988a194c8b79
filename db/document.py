"""A data set outside the store: what a format reads and writes.

Ids in a document that was read are ordinals in file order, starting at 0. The store adds an offset to them on import, so
ascending id is file order for ever, and a writer that walks ids ascending reproduces the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from db.bulk import batched
from db.codec import BoxRow, Firsts, box_of, box_row
from db.records import Box, Category, Fault, Image, Phrase, Record
from db.spool import in_order

Sample = tuple[Image, list[Box], list[Phrase]]
R = TypeVar("R", bound=Record)
Of = Callable[[list[int]], dict[int, list[R]]]
"""The records of some images, by the ids of these: an empty list for an image without any."""

TOGETHER = 500  # images whose boxes and phrases are in memory at once


class Stored(Generic[R]):
    """Records that a store can look up by image (`of`). Called, it gives all of them, in ascending order."""

    def __init__(self, records: Callable[[], Iterable[R]], of: Of[R]) -> None:
        self._records, self.of = records, of

    def __call__(self) -> Iterable[R]:
        return self._records()


class BoxRows:
    """Boxes that are rows of the table already. Called, it gives records; the bulk of an import or an export takes the
    rows as they are, and saves the time of making a record of each."""

    def __init__(self, rows: Callable[[Firsts], Iterator[BoxRow]], of: Of[Box] | None = None) -> None:
        self._rows, self.of = rows, of

    def __call__(self) -> Iterator[Box]:
        return map(box_of, self._rows(Firsts()))

    def rows(self, first: Firsts) -> Iterator[BoxRow]:
        """The rows, with ids from ordinals."""
        return self._rows(first)


def nowhere(image: Image) -> Path | None:
    """Where the pixels of an image are when only its annotations were read."""
    return None


@dataclass(frozen=True)
class Document:
    """Categories in memory; images, boxes and phrases as restartable streams in ascending id."""

    format: str
    categories: list[Category]
    images: Callable[[], Iterable[Image]]
    boxes: Callable[[], Iterable[Box]]
    phrases: Callable[[], Iterable[Phrase]] = lambda: ()
    info: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    file_of: Callable[[Image], Path | None] = nowhere  # where the pixels are

    def box_rows(self, first: Firsts) -> Iterator[BoxRow]:
        """The boxes as rows of their table; `Firsts()` leaves the ids as they are."""
        if isinstance(self.boxes, BoxRows):
            return self.boxes.rows(first)
        return (box_row(box, first) for box in self.boxes())

    def samples(self) -> Iterator[Sample]:
        """Images with what belongs to them, for formats that write image by image. Not all is in memory at once."""
        boxes_of: Of[Box] = _by_image(self.boxes, Box)
        phrases_of: Of[Phrase] = _by_image(self.phrases, Phrase)
        for images in batched(self.images(), TOGETHER):
            ids = [image.id for image in images]
            boxes, phrases = boxes_of(ids), phrases_of(ids)
            yield from ((image, boxes[image.id], phrases[image.id]) for image in images)


def _by_image(stream: Callable[[], Iterable[Any]], kind: type[Any]) -> Of[Any]:
    own = stream.of if isinstance(stream, BoxRows | Stored) else None
    return own or _Groups(stream, kind).of


class _Groups:
    """Records by image, asked for in ascending order of images."""

    def __init__(self, stream: Callable[[], Iterable[Any]], kind: type[Any]) -> None:
        image_id = attrgetter("image_id")
        self._groups = groupby(in_order(stream, kind, image_id), image_id)
        self._image: int | None
        self._records: Iterable[Any]
        self._image, self._records = next(self._groups, (None, ()))

    def of(self, image_ids: list[int]) -> dict[int, list[Any]]:
        """Those of the next images."""
        return {image_id: self._next(image_id) for image_id in image_ids}

    def _next(self, image_id: int) -> list[Any]:
        """Those of one image; those of images before it that nobody asked for are passed over."""
        while self._image is not None and self._image < image_id:
            self._image, self._records = next(self._groups, (None, ()))
        return list(self._records) if self._image == image_id else []

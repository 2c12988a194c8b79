"""A data set outside the store: what a format reads and writes.

Ids in a document that was read are ordinals in file order, starting at 0. The store adds an offset to them on import, so
ascending id is file order for ever, and a writer that walks ids ascending reproduces the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from db.records import Box, Category, Fault, Image, Phrase


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
    file_of: Callable[[Image], Path | None] = lambda image: None  # where the pixels are, None if nowhere

    def samples(self) -> Iterator[tuple[Image, list[Box], list[Phrase]]]:
        """Images with what belongs to them, for formats that write image by image."""
        boxes: dict[int, list[Box]] = {}
        for box in self.boxes():
            boxes.setdefault(box.image_id, []).append(box)
        phrases: dict[int, list[Phrase]] = {}
        for phrase in self.phrases():
            phrases.setdefault(phrase.image_id, []).append(phrase)
        for image in self.images():
            yield image, boxes.get(image.id, []), phrases.get(image.id, [])

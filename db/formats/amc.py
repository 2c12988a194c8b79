"""AMC's list of images, texts and boxes, as visual grounding by attention is trained on (SynGround too): to be read only.

A file is a JSON list of `{"image": path, "caption": text or texts, "bbox": [[x1, y1, x2, y2], ...]}`; several entries may show one
image. Each text of an entry names all of its boxes; without `bbox`, as in ALBEF's own lists, the texts are captions of the image.
Other fields of an entry are kept with its phrases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from db.document import Document
from db.formats.checks import Faults, check_box, check_storable, climbs, is_number, is_text, short
from db.formats.jsonstream import JsonFile
from db.formats.reading import objects, picture_size, without
from db.records import XYXY, Box, Fault, Image, Phrase
from db.spool import Spool, in_order

KEYS = {"image", "caption", "bbox"}
LIST = "a list of objects with image, caption and, where the text names boxes, bbox"
START = b"["


def is_amc(head: bytes) -> bool:
    """Whether the first bytes of a JSON file are those of such a list."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(START) and b'"image"' in head and b'"caption"' in head


def read(files: dict[str, Path], roots: dict[str, list[Path]]) -> Document:
    """The files by split; the size of an image is read from it, in the first of the `roots` of its split that has it. Faults are
    collected, and an entry with one is left out. Raises BadDataset for a file that is no JSON list."""
    reader = Reader()
    for split, path in files.items():
        reader.read(path, split, roots[split])
    numbers = _numbers(reader.mentions)
    return Document(
        format="amc",
        categories=[],
        images=lambda: reader.images,
        boxes=lambda: _boxes(reader.mentions, numbers),
        phrases=lambda: (_of_boxes(phrase, numbers) for phrase in reader.phrases),
        faults=reader.faults,
    )


class Reader:
    """Gathers images, boxes and phrases, entry by entry. A box is among the `mentions`, which the phrases refer to, as often as
    entries of its image name it."""

    def __init__(self) -> None:
        self.images: Spool[Image] = Spool(Image)
        self.mentions: Spool[Box] = Spool(Box)
        self.phrases: Spool[Phrase] = Spool(Phrase)
        self.faults: list[Fault] = []
        self._known: dict[str, Image | None] = {}  # of one file, by name

    def read(self, path: Path, split: str, roots: list[Path]) -> None:
        """A file of one split, whose images lie in one of the `roots`."""
        faults, self._known = Faults(str(path)), {}
        listed = chain.from_iterable(chunk.items for chunk in JsonFile(path, LIST).items(Any))
        for number, raw in objects(faults, listed, "entry"):
            self._entry(faults, f"entry #{number}", raw, split, roots)
        self.faults += faults

    def _entry(self, faults: Faults, item: str, raw: dict[str, Any], split: str, roots: list[Path]) -> None:
        name, said, rest = raw.get("image"), raw.get("caption"), without(raw, KEYS)
        texts: list[Any] = said if isinstance(said, list) else [said]
        if not is_text(name) or climbs(name):
            faults.add(item, f"image {short(name)}", "a path inside the folder of the images")
        elif not texts or not all(is_text(text) and text.strip() for text in texts):
            faults.add(item, f"caption {short(said)}", "a text, or a list of texts")
        elif check_storable(faults, item, rest):
            image = self._image(faults, item, name, split, roots)
            named = None if image is None else self._named(faults, item, raw.get("bbox", []), image)
            if image is not None and named is not None:
                self._say(image.id, texts, named, rest)

    def _say(self, image_id: int, texts: list[str], named: tuple[int, ...], rest: dict[str, Any]) -> None:
        for text in texts:
            phrase = Phrase(id=len(self.phrases), image_id=image_id, text=text.strip(), box_ids=named, extra=rest)
            self.phrases.append(phrase)

    def _image(self, faults: Faults, item: str, name: str, split: str, roots: list[Path]) -> Image | None:
        """The image of an entry, None when its file was not sound: that is told once."""
        if name not in self._known:
            size = picture_size(faults, item, roots, name)
            image = size and Image(id=len(self.images), file_name=name, width=size[0], height=size[1], split=split)
            if image:
                self.images.append(image)
            self._known[name] = image
        return self._known[name]

    def _named(self, faults: Faults, item: str, raw: Any, image: Image) -> tuple[int, ...] | None:
        """The mentions of an entry, None when a box is unsound."""
        corners = [_corners(one) for one in raw] if isinstance(raw, list) else [None]
        if None in corners:
            faults.add(item, f"bbox {short(raw)}", "a list of boxes [x1, y1, x2, y2]")
            return None
        boxes = [one for one in corners if one is not None]
        if not all(check_box(faults, item, one, image) for one in boxes):
            return None
        first = len(self.mentions)
        for number, xyxy in enumerate(boxes, first):
            self.mentions.append(Box(id=number, image_id=image.id, xyxy=xyxy))
        return tuple(range(first, len(self.mentions)))


def _numbers(mentions: Spool[Box]) -> NDArray[np.int64]:
    """By mention, the number of its box among all different ones, in the order of their first mentions."""
    first = np.arange(len(mentions))
    image_id = attrgetter("image_id")
    for _, together in groupby(in_order(lambda: mentions, Box, image_id), image_id):
        seen: dict[XYXY, int] = {}
        for box in together:
            first[box.id] = seen.setdefault(box.xyxy, box.id)
    return (np.cumsum(first == np.arange(len(first))) - 1)[first]


def _boxes(mentions: Iterable[Box], numbers: NDArray[np.int64]) -> Iterator[Box]:
    """The different ones."""
    told = 0
    for box in mentions:
        if numbers[box.id] == told:
            yield msgspec.structs.replace(box, id=told)
            told += 1


def _of_boxes(phrase: Phrase, numbers: NDArray[np.int64]) -> Phrase:
    """The phrase with boxes instead of mentions, each once."""
    return msgspec.structs.replace(phrase, box_ids=tuple(dict.fromkeys(int(numbers[one]) for one in phrase.box_ids)))


def _corners(raw: Any) -> XYXY | None:
    if not isinstance(raw, list) or len(raw) != 4 or not all(map(is_number, raw)):
        return None
    x1, y1, x2, y2 = (float(value) for value in raw)
    return (x1, y1, x2, y2)

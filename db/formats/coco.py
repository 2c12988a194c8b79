"""COCO instances: boxes, polygons, RLE, crowds. Reads and writes without losing an id, a field or a digit.

Polygons are carried as raw JSON and never parsed. The annotations are read chunk by chunk (see `annotations`) and written
page by page: the memory that a large file needs does not grow with them, nor that of any export.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
from msgspec import UNSET

from db.bulk import batched, without_gc
from db.codec import BoxRow, Firsts, source_id_in, unpack
from db.document import BoxRows, Document
from db.formats.annotations import KEYS as ANNOTATION_KEYS
from db.formats.annotations import NO_CROWD, Annotation, Annotations
from db.formats.checks import Faults, check_size, check_storable, climbs, is_text, short
from db.formats.ids import Id, Known, Next, Numbers, is_id, numbered
from db.formats.jsonstream import Chunk, JsonFile
from db.formats.reading import without
from db.formats.writing import carried, is_private
from db.records import Category, Fault, Image
from db.spool import Spool

FAMILY = {"coco", "lvis", "refcoco"}  # formats that keep the same private fields
BUFFER = 2**20  # bytes of a file that is written
PAGE = 2000  # images or annotations that are written at once
KNOWN = ("images", "annotations", "categories")
IMAGE_KEYS = {"id", "file_name", "width", "height"}
CATEGORY_KEYS = {"id", "name", "frequency"}
EXPECTED = "a complete JSON object with the lists images, annotations and categories"


class Split:
    """One COCO file."""

    def __init__(self, path: Path, name: str, faults: Faults) -> None:
        self.name, self.faults = name, faults
        self._file = JsonFile(path, EXPECTED)
        self._images: list[Chunk] = []
        self.annotations = self.make_annotations()
        whole: dict[str, Any] = {}
        for key, value in self._file.scan({"images": msgspec.Raw, "annotations": Annotation}):
            if not isinstance(value, Chunk):
                whole[key] = value
            elif key == "images":
                self._images.append(value._replace(items=[]))
            else:
                self.annotations.add(value)
            whole.setdefault(key, [])
        self.raw_categories = self._lists(whole)
        self.info = whole if check_storable(faults, f"the fields {', '.join(whole)}", whole) else {}

    def make_annotations(self) -> Annotations:
        """What gathers the annotations; a format that builds on this one asks more of them."""
        return Annotations(self._file, self.faults)

    def _lists(self, whole: dict[str, Any]) -> list[Any]:
        """Take the three lists out of the object; returns that of the categories, which may be missing."""
        for key in KNOWN:
            if key not in whole and key != "categories":
                raise self._file.broken(f"no {key}")
            value = whole.pop(key, [])
            if not isinstance(value, list):
                raise self._file.broken(f"{key}: {short(value)}")
        return value

    def categories(self) -> list[Category]:
        found: list[Category] = []
        ids, names = set(), set()
        for number, raw in enumerate(self.raw_categories):
            item = f"category #{number}"
            if not isinstance(raw, dict) or not is_id(raw.get("id")) or not _is_name(raw.get("name")):
                self.faults.add(item, short(raw), "an object with an id and a name")
            elif not check_storable(self.faults, item, raw):
                continue
            elif raw["id"] in ids:
                self.faults.add(item, f"id {raw['id']!r} a second time", "every category id once")
            elif raw["name"] in names:
                self.faults.add(item, f"name {raw['name']!r} a second time", "every category name once")
            else:
                ids.add(raw["id"])
                names.add(raw["name"])
                found.append(_category(len(found), raw))
        return found

    def images(self, into: Spool[Image]) -> Known:
        """Add the sound images and return what is known of them; the others become faults."""
        known = Known(len(into))
        number = 0
        for chunk in self._images:
            for raw in self._file.again(chunk.start, chunk.end, Any):
                image = self._image(number, raw, known.images.ordinal, len(into))
                if image is not None and self.sound_image(image):
                    known.add(image)
                    into.append(image)
                number += 1
        return known

    def file_name(self, raw: dict[str, Any]) -> Any:
        """The file name an image entry gives, None when it gives none."""
        return raw.get("file_name")

    def sound_image(self, image: Image) -> bool:
        """What a format that builds on this one asks of an image besides; a fault when it is not so."""
        return True

    def _image(self, number: int, raw: Any, ids: dict[Id, int], ordinal: int) -> Image | None:
        item = f"image #{number}"
        name = self.file_name(raw) if isinstance(raw, dict) else None
        if not isinstance(raw, dict) or not is_id(raw.get("id")) or not isinstance(name, str):
            self.faults.add(item, short(raw), "an object with id, file_name, width and height")
            return None
        item = f"image id {raw['id']!r:.40} (#{number})"
        if raw["id"] in ids:
            self.faults.add(item, "the id a second time", "every image id once")
            return None
        if climbs(name) or not is_text(name):
            self.faults.add(item, f"file name {short(name)}", "a path inside the folder of the images")
            return None
        if not check_size(self.faults, item, raw.get("width"), raw.get("height")):
            return None
        extra = without(raw, IMAGE_KEYS)
        if "file_name" not in raw:
            extra["file_name"] = None
        if not check_storable(self.faults, item, extra):
            return None
        return Image(
            id=ordinal,
            file_name=name,
            width=raw["width"],
            height=raw["height"],
            split=self.name,
            source_id=raw["id"],
            extra=extra,
        )


def read(files: dict[str, Path], *, format: str = "coco", kind: type[Split] = Split) -> Document:
    """One document from `{split: file}`. What is wrong is in `faults`; the document holds the rest.

    `kind` reads one file; a format that builds on COCO gives its own. Raises BadDataset when a file cannot be read at
    all.
    """
    with without_gc():
        return _read(files, format, kind)


def _read(files: dict[str, Path], format: str, kind: type[Split]) -> Document:
    faults: list[Fault] = []
    categories: list[Category] = []
    images: Spool[Image] = Spool(Image)
    parts: list[tuple[Annotations, int]] = []  # and how many sound ones they have
    info: dict[str, Any] = {}
    for name, path in files.items():
        split = kind(path, name, Faults(str(path)))
        own = split.categories()
        if not categories:
            categories = own
        elif own != categories:  # its class ids mean something else: none of it can be used
            expected = f"the {len(categories)} categories of {next(iter(files.values())).name}, in the same order"
            split.faults.add("categories", f"{len(own)} other categories", expected)
            faults += split.faults
            continue
        known = split.images(images)
        for category in categories:
            assert category.source_id is not None
            known.categories.add(category.source_id, category.id)
        parts.append((split.annotations, split.annotations.check(known)))
        info[name] = split.info
        faults += split.faults
    return Document(
        format=format,
        categories=categories,
        info={"splits": info},
        images=lambda: images,
        boxes=BoxRows(lambda first: chain.from_iterable(_rows(parts, first))),
        faults=faults,
    )


def _rows(parts: list[tuple[Annotations, int]], first: Firsts) -> Iterator[Iterator[BoxRow]]:
    for part, count in parts:
        yield part.rows(first)
        first = first._replace(box=first.box + count)


class Ids:
    """Ids as the source gave them; what has none gets the numbers after the largest."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.categories = numbered((c.id, c.source_id) for c in document.categories)

    def passing(self) -> Iterator[Image]:
        """The images, of each of which the id is known from then on: for who goes through them once anyway."""
        self.images = Numbers(Next(lambda: (image.source_id for image in self._document.images())))
        for image in self._document.images():
            self.images.append(image.id, image.source_id)
            yield image

    @cached_property
    def images(self) -> Numbers:
        for _ in self.passing():
            pass
        return self.images

    @cached_property
    def _boxes(self) -> Numbers:  # for formats that ask in no order; it grows with the boxes
        found = Numbers(Next(lambda: (box.source_id for box in self._document.boxes())))
        for box in self._document.boxes():
            found.append(box.id, box.source_id)
        return found

    def image(self, ordinal: int) -> Id:
        return self.images[ordinal]

    def box(self, ordinal: int) -> Id:
        return self._boxes[ordinal]

    def category(self, ordinal: int) -> Id:
        return self.categories[ordinal]


def image_out(image: Image, ids: Ids, source: str) -> dict[str, Any]:
    """The entry of an image. `source`: the format its unknown fields come from."""
    named = {} if source in FAMILY and "file_name" in image.extra else {"file_name": image.file_name}
    size = {"width": image.width, "height": image.height}
    return {"id": ids.image(image.id), **named, **size, **carried(image.extra, source, IMAGE_KEYS)}


def category_out(category: Category, ids: Ids) -> dict[str, Any]:
    """The entry of a category."""
    frequency = {} if category.frequency is None else {"frequency": category.frequency}
    return {"id": ids.category(category.id), "name": category.name, **frequency, **category.extra}


@dataclass(frozen=True)
class Dialect:
    """How images and categories are written, and in which file a split is."""

    image: Callable[[Image, Ids, str], dict[str, Any]] = image_out
    category: Callable[[Category, Ids], dict[str, Any]] = category_out
    file: Callable[[str], str] = lambda split: f"{split or 'annotations'}.json"


def write(document: Document, folder: Path, dialect: Dialect = Dialect()) -> list[str]:
    """One `SPLIT.json` per split (`annotations.json` without splits), streamed. Returns what COCO cannot hold."""
    files = _Files(document, folder, dialect)
    try:
        files.images()
        files.annotations()
        files.close()
    except BaseException:
        files.discard()
        raise
    phrases = sum(1 for _ in document.phrases())
    counts = {
        "boxes without a category": files.skipped,
        "captions and phrases": phrases,
        f"boxes with fields that only {document.format} has": files.private,
    }
    return [f"{count} {kind}" for kind, count in counts.items() if count]


class _Files:
    """The files of the splits, written side by side: nothing is kept of the boxes that went by."""

    def __init__(self, document: Document, folder: Path, dialect: Dialect) -> None:
        self._document, self._folder, self._dialect = document, folder, dialect
        self._ids = Ids(document)
        self._files: dict[str, _Writer] = {}
        self._splits = array("I")  # the number of its file, of every image in their order
        self.skipped = self.private = 0

    def _file(self, split: str) -> _Writer:
        if split not in self._files:
            path = self._folder / self._dialect.file(split)
            self._files[split] = _Writer(path, self._document, split, len(self._files))
            self._files[split].begin("images")
        return self._files[split]

    def images(self) -> None:
        for page in batched(self._ids.passing(), PAGE):
            entries: dict[str, list[_Line | msgspec.Raw]] = {}
            for image in page:
                entry = self._dialect.image(image, self._ids, self._document.format)
                entries.setdefault(image.split, []).append(msgspec.Raw(orjson.dumps(entry)))
            for split, part in entries.items():
                self._file(split).items(part)
            self._splits.extend(self._files[image.split].number for image in page)
        if not self._files:
            self._file("")

    def annotations(self) -> None:
        for file in self._files.values():
            file.end()
            file.begin("annotations")
        out = _BoxOut(self._document, self._ids)
        for rows in batched(self._document.box_rows(Firsts()), PAGE):
            self._page(rows, out)
        self.private = out.private

    def _page(self, rows: list[BoxRow], out: _BoxOut) -> None:
        places = self._ids.images.places([row[1] for row in rows])
        images, files = self._ids.images.at(places), np.frombuffer(self._splits, np.uintc)[places].tolist()
        parts: list[list[_Line | msgspec.Raw]] = [[] for _ in self._files]
        for row, image, file in zip(rows, images, files, strict=True):
            if row[2] is None:
                self.skipped += 1
                out.pass_over(row)
            else:
                parts[file].append(out.item(row, image))
        for writer, part in zip(self._files.values(), parts, strict=True):
            writer.items(part)

    def close(self) -> None:
        for file in self._files.values():
            file.end()
            file.begin("categories")
            categories = (self._dialect.category(category, self._ids) for category in self._document.categories)
            file.items([msgspec.Raw(orjson.dumps(category)) for category in categories])
            file.end()
            file.close()

    def discard(self) -> None:
        for file in self._files.values():
            file.discard()


class _Writer:
    """A JSON object written piece by piece into a temporary file that takes its name only when it is complete."""

    def __init__(self, path: Path, document: Document, split: str, number: int) -> None:
        self._path, self._part, self.number = path, path.with_name(path.name + ".part"), number
        self._file = self._part.open("wb", BUFFER)
        self._file.write(b"{")
        self._first_key, self._first_item = True, True
        fields = document.info.get("splits", {}).get(split, {})
        for key, value in without(fields, set(KNOWN)).items():  # another format may have a field of that name
            self._key(key)
            self._file.write(orjson.dumps(value))

    def _key(self, key: str) -> None:
        self._file.write((b"" if self._first_key else b",\n") + orjson.dumps(key) + b":")
        self._first_key = False

    def begin(self, key: str) -> None:
        self._key(key)
        self._file.write(b"[")
        self._first_item = True

    def items(self, values: Sequence[_Line | msgspec.Raw]) -> None:
        """The next ones of the list, each on a line of its own."""
        if values:
            self._file.write(b"\n" if self._first_item else b",\n")
            self._file.write(_joined(values))
            self._first_item = False

    def end(self) -> None:
        self._file.write(b"]")

    def close(self) -> None:
        self._file.write(b"}\n")
        self._file.close()
        self._part.replace(self._path)

    def discard(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


class _Line(msgspec.Struct, gc=False):
    """An annotation as it is written; what is UNSET is left out."""

    id: msgspec.Raw | int
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | msgspec.UnsetType
    iscrowd: int | msgspec.UnsetType
    segmentation: msgspec.Raw | msgspec.UnsetType


_ENCODER = msgspec.json.Encoder()


def _joined(values: Sequence[_Line | msgspec.Raw]) -> bytes:
    """The values as JSON, with a comma and a line feed between them."""
    lines = _ENCODER.encode_lines(values)
    if lines.count(b"\n") == len(values):  # none within a mask that was written over several lines
        return lines[:-1].replace(b"\n", b",\n")
    return b",\n".join(map(_ENCODER.encode, values))


class _BoxOut:
    """Rows of boxes as annotations. One without an id gets the next number after the largest of all."""

    def __init__(self, document: Document, ids: Ids) -> None:
        self._format, self._categories = document.format, ids.categories
        self._family = document.format in FAMILY
        self._next = Next(lambda: (source_id_in(row[3]) for row in document.box_rows(Firsts())))
        self.private = 0  # boxes with something that only their own format can hold

    def item(self, row: BoxRow, image: Id) -> _Line | msgspec.Raw:
        _, _, category_id, source, x1, y1, x2, y2, w, h, area, crowd, segmentation, packed = row
        if w is None:
            w, h = x2 - x1, y2 - y1
            area = w * h if area is None else area
        line = _Line(
            self._next() if source is None else msgspec.Raw(source),
            image,
            self._categories[category_id],
            (x1, y1, w, h),
            UNSET if area is None else area,
            1 if crowd else 0,
            UNSET if segmentation is None else msgspec.Raw(segmentation),
        )
        if packed == NO_CROWD and self._family:  # as in all of LVIS
            line.iscrowd = UNSET
            return line
        return line if packed is None else self._with_fields(line, unpack(packed, {}))

    def pass_over(self, row: BoxRow) -> None:
        """Take its number from a row that is not written: the others keep theirs, whatever a format leaves out."""
        if row[3] is None:
            self._next()

    def _with_fields(self, line: _Line, extra: dict[str, Any]) -> _Line | msgspec.Raw:
        """The annotation with the fields that only some have. In our own formats None stands for one that was missing
        (`iscrowd`) or null (`area`, `segmentation`)."""
        fields = carried(extra, self._format, ANNOTATION_KEYS)
        if self._family:
            line.iscrowd = UNSET if "iscrowd" in extra else line.iscrowd
            fields = {
                key: None for key in ("area", "segmentation") if key in extra and getattr(line, key) is UNSET
            } | fields
        else:
            self.private += is_private(extra, self._format)
        return msgspec.Raw(_ENCODER.encode(line)[:-1] + b"," + orjson.dumps(fields)[1:]) if fields else line


def _category(number: int, raw: dict[str, Any]) -> Category:
    frequency = raw.get("frequency")
    known = CATEGORY_KEYS if is_text(frequency) else CATEGORY_KEYS - {"frequency"}
    extra = {key: value for key, value in raw.items() if key not in known}
    return Category(
        id=number,
        name=raw["name"],
        source_id=raw["id"],
        frequency=frequency if is_text(frequency) else None,
        extra=extra,
    )


def _is_name(value: object) -> bool:
    return is_text(value) and bool(value.strip())

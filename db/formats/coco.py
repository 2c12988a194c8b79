"""COCO instances: boxes, polygons, RLE, crowds. Reads and writes without losing an id, a field or a digit.

Polygons are carried as raw JSON and never parsed; the annotations are read chunk by chunk (see `annotations`), so that the
memory a file needs does not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import orjson

from db.bulk import without_gc
from db.codec import BoxRow, Firsts, source_id_in, unpack
from db.document import BoxRows, Document
from db.formats.annotations import KEYS as ANNOTATION_KEYS
from db.formats.annotations import Annotation, Annotations, Id, Known, is_id
from db.formats.checks import Faults, check_size, check_storable, climbs, is_text, short
from db.formats.jsonstream import Chunk, JsonFile
from db.formats.writing import carried, is_private
from db.records import Category, Fault, Image
from db.spool import Spool

FAMILY = {"coco", "lvis", "refcoco"}  # formats that keep the same private fields
BUFFER = 2**20  # bytes of a file that is written
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
        if not isinstance(raw, dict) or not is_id(raw.get("id")) or not is_text(name):
            self.faults.add(item, short(raw), "an object with id, file_name, width and height")
            return None
        item = f"image id {raw['id']!r:.40} (#{number})"
        if raw["id"] in ids:
            self.faults.add(item, "the id a second time", "every image id once")
            return None
        if climbs(name):
            self.faults.add(item, f"file name {short(name)}", "a path inside the folder of the images")
            return None
        if not check_size(self.faults, item, raw.get("width"), raw.get("height")):
            return None
        extra = {key: value for key, value in raw.items() if key not in IMAGE_KEYS}
        extra |= {} if "file_name" in raw else {"file_name": None}
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
        boxes=BoxRows(lambda first: _rows(parts, first)),
        faults=faults,
    )


def _rows(parts: list[tuple[Annotations, int]], first: Firsts) -> Iterator[BoxRow]:
    for part, count in parts:
        yield from part.rows(first)
        first = first._replace(box=first.box + count)


class Ids:
    """Ids as the source gave them; what has none gets the numbers after the largest."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._images = numbered((i.id, i.source_id) for i in document.images())
        self._categories = numbered((c.id, c.source_id) for c in document.categories)

    @cached_property
    def _boxes(self) -> dict[int, Id]:  # for formats that ask in no order; it grows with the boxes
        return numbered((b.id, b.source_id) for b in self._document.boxes())

    def image(self, ordinal: int) -> Id:
        return self._images[ordinal]

    def box(self, ordinal: int) -> Id:
        return self._boxes[ordinal]

    def category(self, ordinal: int) -> Id:
        return self._categories[ordinal]


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
        self._file_of: dict[int, _Writer] = {}  # by image; empty while there is but one file
        self.skipped = self.private = 0

    def _file(self, split: str) -> _Writer:
        if split not in self._files:
            self._files[split] = _Writer(self._folder / self._dialect.file(split), self._document, split)
            self._files[split].begin("images")
        return self._files[split]

    def images(self) -> None:
        ordinals: dict[str, list[int]] = {}
        for image in self._document.images():
            self._file(image.split).item(orjson.dumps(self._dialect.image(image, self._ids, self._document.format)))
            ordinals.setdefault(image.split, []).append(image.id)
        for split in ordinals if len(ordinals) > 1 else ():
            self._file_of |= dict.fromkeys(ordinals[split], self._files[split])
        only = self._file("") if not ordinals else next(iter(self._files.values()))
        self._only = only if len(ordinals) < 2 else None

    def annotations(self) -> None:
        for file in self._files.values():
            file.end()
            file.begin("annotations")
        out = _BoxOut(self._document, self._ids)
        for row in self._document.box_rows(Firsts()):
            if row[2] is None:
                self.skipped += 1
                out.pass_over(row)
            else:
                (self._only or self._file_of[row[1]]).item(out.item(row))
        self.private = out.private

    def close(self) -> None:
        for file in self._files.values():
            file.end()
            file.begin("categories")
            for category in self._document.categories:
                file.item(orjson.dumps(self._dialect.category(category, self._ids)))
            file.end()
            file.close()

    def discard(self) -> None:
        for file in self._files.values():
            file.discard()


def numbered(items: Iterator[tuple[int, Id | None]]) -> dict[int, Id]:
    """Ids by ordinal: those given, and numbers after the largest for what has none."""
    known = dict(items)
    last = max((value for value in known.values() if isinstance(value, int)), default=0)
    for ordinal, value in known.items():
        if value is None:
            last += 1
            known[ordinal] = last
    return known  # type: ignore[return-value]


class _Writer:
    """A JSON object written piece by piece into a temporary file that takes its name only when it is complete."""

    def __init__(self, path: Path, document: Document, split: str) -> None:
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._file = self._part.open("wb", BUFFER)
        self._file.write(b"{")
        self._first_key, self._first_item = True, True
        for key, value in document.info.get("splits", {}).get(split, {}).items():
            self._key(key)
            self._file.write(orjson.dumps(value))

    def _key(self, key: str) -> None:
        self._file.write((b"" if self._first_key else b",\n") + orjson.dumps(key) + b":")
        self._first_key = False

    def begin(self, key: str) -> None:
        self._key(key)
        self._file.write(b"[")
        self._first_item = True

    def item(self, value: bytes) -> None:
        self._file.write(b"\n" if self._first_item else b",\n")
        self._file.write(value)
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


class _BoxOut:
    """Rows of boxes as annotations. One without an id gets the next number after the largest of all."""

    def __init__(self, document: Document, ids: Ids) -> None:
        self._document, self._ids = document, ids
        self._family = document.format in FAMILY
        self._last: int | None = None
        self.private = 0  # boxes with something that only their own format can hold

    def item(self, row: BoxRow) -> bytes:
        _, image_id, category_id, source, x1, y1, x2, y2, w, h, area, crowd, segmentation, packed = row
        w, h = (x2 - x1, y2 - y1) if w is None else (w, h)
        out: dict[str, Any] = {
            "id": orjson.Fragment(source) if source is not None else self._next(),
            "image_id": self._ids.image(image_id),
            "category_id": self._ids.category(category_id),
            "bbox": (x1, y1, w, h),
        }
        if area is not None or row[8] is None:
            out["area"] = w * h if area is None else area
        extra: dict[str, Any] = {} if packed is None else unpack(packed, {})
        absent = extra if self._family else ()
        if "iscrowd" not in absent:
            out["iscrowd"] = 1 if crowd else 0
        if segmentation is not None:
            out["segmentation"] = orjson.Fragment(segmentation)
        return orjson.dumps(self._with_fields(out, extra) if extra else out)

    def pass_over(self, row: BoxRow) -> None:
        """Take its number from a row that is not written: the others keep theirs, whatever a format leaves out."""
        if row[3] is None:
            self._next()

    def _with_fields(self, out: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        source = self._document.format
        self.private += not self._family and is_private(extra, source)
        nulls = {key: None for key in ("area", "segmentation") if self._family and key in extra}
        return out | nulls | carried(extra, source, ANNOTATION_KEYS)

    def _next(self) -> int:
        if self._last is None:
            given = (source_id_in(row[3]) for row in self._document.box_rows(Firsts()))
            self._last = max((own for own in given if isinstance(own, int)), default=0)
        self._last += 1
        return self._last


def _category(number: int, raw: dict[str, Any]) -> Category:
    frequency = raw.get("frequency")
    known = CATEGORY_KEYS if isinstance(frequency, str) else CATEGORY_KEYS - {"frequency"}
    extra = {key: value for key, value in raw.items() if key not in known}
    return Category(
        id=number,
        name=raw["name"],
        source_id=raw["id"],
        frequency=frequency if isinstance(frequency, str) else None,
        extra=extra,
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())

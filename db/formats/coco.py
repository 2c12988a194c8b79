"""COCO instances: boxes, polygons, RLE, crowds. Reads and writes without losing an id, a field or a digit.

Polygons are carried as raw JSON and never parsed. The usual fields are decoded into typed structs; a file whose
annotations have others takes a slower path that keeps them. A missing `iscrowd` is noted as None in `Box.extra`, and so
are an `area` or a `segmentation` that is null.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import UNSET

from db.bulk import without_gc
from db.document import Document
from db.errors import BadDataset
from db.formats.checks import (
    LARGEST,
    WHOLE,
    Faults,
    check_box,
    check_size,
    check_storable,
    climbs,
    is_number,
    is_text,
    is_whole,
    short,
)
from db.formats.writing import carried, is_private
from db.records import XYXY, Box, Category, Fault, Image

Id = int | str
Id64 = Annotated[int, msgspec.Meta(ge=-WHOLE, le=WHOLE - 1)] | str


class Annotation(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: Id64
    image_id: Id64
    category_id: Id64
    bbox: tuple[float, float, float, float]
    area: float | msgspec.UnsetType = UNSET
    iscrowd: Literal[0, 1] | msgspec.UnsetType = UNSET
    segmentation: msgspec.Raw = msgspec.Raw()


class File(msgspec.Struct):
    """A COCO file; its other keys are found out in a second pass."""

    images: list[dict[str, Any]]
    annotations: list[Annotation]
    categories: list[dict[str, Any]] = []


class UsualFile(File, forbid_unknown_fields=True):
    """One with the usual other keys only: a single pass is enough."""

    info: msgspec.Raw = msgspec.Raw()
    licenses: msgspec.Raw = msgspec.Raw()
    type: msgspec.Raw = msgspec.Raw()


FAMILY = {"coco", "lvis", "refcoco"}  # formats that keep the same private fields
KNOWN = ("images", "annotations", "categories")
IMAGE_KEYS = {"id", "file_name", "width", "height"}
CATEGORY_KEYS = {"id", "name", "frequency"}
ANNOTATION_KEYS = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"}


class Split:
    """One COCO file: its images and annotations with ordinals that begin at the given offsets."""

    def __init__(self, path: Path, name: str, faults: Faults) -> None:
        self.path, self.name, self.faults = path, name, faults
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        if not data.isascii():
            self._check_characters(data)
        whole = self._decode(data)
        self.raw_images, self.annotations, self.raw_categories = (whole.pop(key, []) for key in KNOWN)
        self.info = whole if check_storable(faults, f"the fields {', '.join(whole)}", whole) else {}

    def _decode(self, data: bytes) -> dict[str, Any]:
        """The top level of the file. Annotations are structs, or dictionaries when some have fields of their own."""
        try:
            return self._typed_lists(data)
        except (msgspec.MsgspecError, RecursionError):
            return self._checked(self._untyped(data))

    def _typed_lists(self, data: bytes) -> dict[str, Any]:
        try:
            usual = msgspec.structs.asdict(msgspec.json.decode(data, type=UsualFile))
            others = {key: usual[key] for key in ("info", "licenses", "type") if bytes(usual[key])}
        except msgspec.ValidationError:
            usual = msgspec.structs.asdict(msgspec.json.decode(data, type=File))
            others = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        parsed = {key: msgspec.json.decode(raw) for key, raw in others.items() if key not in KNOWN}
        return {**parsed, **{key: usual[key] for key in KNOWN}}

    def _untyped(self, data: bytes) -> Any:
        """By the fast reader, or by Python's, which takes NaN and Infinity, so that what holds them can be named, and
        tells where a file breaks off."""
        try:
            return msgspec.json.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            return self._parsed(data)

    def _checked(self, whole: Any) -> dict[str, Any]:
        if not isinstance(whole, dict):
            raise self._broken(f"a {type(whole).__name__} at the top")
        for key in KNOWN:
            if not isinstance(whole.get(key, [] if key == "categories" else None), list):
                raise self._broken(f"{key}: {short(whole[key])}" if key in whole else f"no {key}")
        return whole

    def _check_characters(self, data: bytes) -> None:
        """The fast reader passes over what it keeps raw, so it would not notice."""
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise self._broken(f"byte {error.start} of {len(data)} is no UTF-8") from error

    def _parsed(self, data: bytes) -> Any:
        text = data.decode()
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            place = len(text[: error.pos].encode())
            raise self._broken(f"not readable as JSON: {error.msg} at byte {place} of {len(data)}") from error
        except (ValueError, RecursionError) as error:
            raise self._broken(f"not readable as JSON: {error}") from error

    def _broken(self, seen: str) -> BadDataset:
        expected = "a complete JSON object with the lists images, annotations and categories"
        return BadDataset([Fault(file=str(self.path), item="the whole file", seen=seen, expected=expected)])

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

    def images(self, first: int) -> list[Image]:
        found: list[Image] = []
        ids: set[Id | None] = set()
        for number, raw in enumerate(self.raw_images):
            image = self._image(number, raw, ids, first + len(found))
            if image is not None and self.sound_image(image):
                ids.add(image.source_id)
                found.append(image)
        return found

    def file_name(self, raw: dict[str, Any]) -> Any:
        """The file name an image entry gives, None when it gives none."""
        return raw.get("file_name")

    def sound_image(self, image: Image) -> bool:
        """What a format that builds on this one asks of an image besides; a fault when it is not so."""
        return True

    def _image(self, number: int, raw: Any, ids: set[Id | None], ordinal: int) -> Image | None:
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

    def check_annotations(self, images: list[Image], categories: list[Category]) -> list[int]:
        """Positions of the sound annotations; the others become faults."""
        self._image_of = {image.source_id: image for image in images}
        self._ordinal_of = {image.source_id: image.id for image in images}
        self._category_of = {category.source_id: category.id for category in categories}
        sound: list[int] = []
        seen: set[Id] = set()
        sizes = {image.source_id: (image.width, image.height) for image in images}
        for number, raw in enumerate(self.annotations):
            if type(raw) is Annotation and raw.id not in seen:  # the common case, in few steps
                x, y, w, h = raw.bbox
                width, height = sizes.get(raw.image_id, (0, 0))
                area = 0 if raw.area is UNSET else raw.area
                inside = (
                    -LARGEST <= area <= LARGEST
                    and w > 0
                    and h > 0
                    and x >= 0
                    and y >= 0
                    and x + w <= width
                    and y + h <= height
                )
                if inside and raw.category_id in self._category_of:
                    seen.add(raw.id)
                    sound.append(number)
                    continue
            if self._sound(number, raw, seen):
                sound.append(number)
        return sound

    def _sound(self, number: int, raw: Any, seen: set[Id]) -> bool:
        fields = _fields(raw)
        item = f"annotation #{number}"
        if not isinstance(fields, dict) or not is_id(fields.get("id")):
            self.faults.add(item, short(fields), "an object with an id")
            return False
        item = f"annotation id {short(fields['id'])} (#{number})"
        if fields["id"] in seen:
            self.faults.add(item, "the id a second time", "every annotation id once")
            return False
        seen.add(fields["id"])
        image = self._image_of.get(_key(fields.get("image_id")))
        wrong = self._wrong(fields, image)
        if wrong is not None:
            self.faults.add(item, *wrong)
            return False
        assert image is not None
        return check_box(self.faults, item, _corners(fields["bbox"]), image) and check_storable(
            self.faults, item, fields
        )

    def _wrong(self, fields: dict[str, Any], image: Image | None) -> tuple[str, str] | None:
        """What was seen and what would be right, of the first field that is wrong."""
        bbox = fields.get("bbox")
        if image is None:
            return f"image_id {short(fields.get('image_id'))}", "the id of a sound image of this file"
        if _key(fields.get("category_id")) not in self._category_of:
            return f"category_id {short(fields.get('category_id'))}", "the id of a category of this file"
        if not isinstance(bbox, list | tuple) or len(bbox) != 4 or not all(map(is_number, bbox)):
            return f"bbox {short(bbox)}", "four finite numbers: x, y, width, height"
        if fields.get("area") is not None and not is_number(fields["area"]):
            return f"area {short(fields['area'])}", "a finite number"
        if not is_whole(fields.get("iscrowd", 0)) or fields.get("iscrowd", 0) not in (0, 1):
            return f"iscrowd {short(fields['iscrowd'])}", "0 or 1"
        return None

    def boxes(self, sound: list[int], first: int) -> Iterator[Box]:
        for ordinal, number in enumerate(sound, first):
            raw = self.annotations[number]
            yield self._typed(ordinal, raw) if type(raw) is Annotation else self._loose(ordinal, raw)

    def _typed(self, ordinal: int, raw: Annotation) -> Box:
        x, y, w, h = raw.bbox
        segmentation: bytes | None = bytes(raw.segmentation) or None
        extra: dict[str, Any] = {}
        if raw.iscrowd is UNSET:
            extra["iscrowd"] = None
        if segmentation == b"null":
            segmentation, extra["segmentation"] = None, None
        return Box(
            id=ordinal,
            image_id=self._ordinal_of[raw.image_id],
            xyxy=(x, y, x + w, y + h),
            category_id=self._category_of[raw.category_id],
            source_id=raw.id,
            wh=(w, h),
            area=None if raw.area is UNSET else raw.area,
            crowd=raw.iscrowd == 1,
            segmentation=segmentation,
            extra=extra,
        )

    def _loose(self, ordinal: int, raw: dict[str, Any]) -> Box:
        nulls = {key: None for key in ("area", "segmentation") if key in raw and raw[key] is None}
        segmentation = raw.get("segmentation")
        return Box(
            id=ordinal,
            image_id=self._ordinal_of[raw["image_id"]],
            xyxy=_corners(raw["bbox"]),
            category_id=self._category_of[raw["category_id"]],
            source_id=raw["id"],
            wh=tuple(raw["bbox"][2:]),
            area=raw.get("area"),
            crowd=raw.get("iscrowd") == 1,
            segmentation=None if segmentation is None else orjson.dumps(segmentation),
            extra={k: v for k, v in raw.items() if k not in ANNOTATION_KEYS}
            | ({} if "iscrowd" in raw else {"iscrowd": None})
            | nulls,
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
    images: list[Image] = []
    parts: list[tuple[Split, list[int], int]] = []
    boxes = 0
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
        found = split.images(len(images))
        sound = split.check_annotations(found, categories)
        images += found
        parts.append((split, sound, boxes))
        boxes += len(sound)
        faults += split.faults
    return Document(
        format=format,
        categories=categories,
        info={"splits": {split.name: split.info for split, _, _ in parts}},
        images=lambda: images,
        boxes=lambda: (box for split, sound, first in parts for box in split.boxes(sound, first)),
        faults=faults,
    )


class Ids:
    """Ids as the source gave them; what has none gets the numbers after the largest."""

    def __init__(self, document: Document) -> None:
        self._images = numbered((i.id, i.source_id) for i in document.images())
        self._boxes = numbered((b.id, b.source_id) for b in document.boxes())
        self._categories = numbered((c.id, c.source_id) for c in document.categories)

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
    images: dict[str, list[Image]] = {}
    for image in document.images():
        images.setdefault(image.split, []).append(image)
    split_of = {image.id: split for split, found in images.items() for image in found}
    ids = Ids(document)
    files = {split: _Writer(folder / dialect.file(split), document, split) for split in images or {"": []}}
    try:
        for split, found in images.items():
            files[split].array("images", (dialect.image(image, ids, document.format) for image in found))
        for writer in files.values():
            writer.begin("annotations")
        skipped = private = 0
        for box in document.boxes():
            if box.category_id is None:
                skipped += 1
                continue
            private += document.format not in FAMILY and is_private(box.extra, document.format)
            files[split_of[box.image_id]].item(_box_out(box, ids, document.format))
        for writer in files.values():
            writer.end()
            writer.array("categories", (dialect.category(category, ids) for category in document.categories))
            writer.close()
    except BaseException:
        for writer in files.values():
            writer.discard()
        raise
    return _losses(document, skipped, private)


def _losses(document: Document, skipped: int, private: int) -> list[str]:
    phrases = sum(1 for _ in document.phrases())
    counts = {
        "boxes without a category": skipped,
        "captions and phrases": phrases,
        f"boxes with fields that only {document.format} has": private,
    }
    return [f"{count} {kind}" for kind, count in counts.items() if count]


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
        self._file = self._part.open("wb")
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

    def item(self, value: dict[str, Any]) -> None:
        self._file.write((b"\n" if self._first_item else b",\n") + orjson.dumps(value))
        self._first_item = False

    def end(self) -> None:
        self._file.write(b"]")

    def array(self, key: str, values: Iterator[dict[str, Any]]) -> None:
        self.begin(key)
        for value in values:
            self.item(value)
        self.end()

    def close(self) -> None:
        self._file.write(b"}\n")
        self._file.close()
        self._part.replace(self._path)

    def discard(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


def _box_out(box: Box, ids: Ids, source: str) -> dict[str, Any]:
    x1, y1, x2, y2 = box.xyxy
    w, h = box.wh or (x2 - x1, y2 - y1)
    absent = box.extra if source in FAMILY else {}
    out: dict[str, Any] = {
        "id": ids.box(box.id),
        "image_id": ids.image(box.image_id),
        "category_id": ids.category(box.category_id or 0),
        "bbox": [x1, y1, w, h],
    }
    if box.area is not None or box.wh is None:
        out["area"] = w * h if box.area is None else box.area
    if "iscrowd" not in absent:
        out["iscrowd"] = int(box.crowd)
    if box.segmentation is not None:
        out["segmentation"] = orjson.Fragment(box.segmentation)
    out |= {key: None for key in ("area", "segmentation") if key in absent}
    return out | carried(box.extra, source, ANNOTATION_KEYS)


def _corners(bbox: Any) -> XYXY:
    x, y, w, h = bbox
    return (x, y, x + w, y + h)


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


def _fields(raw: Any) -> Any:
    if not isinstance(raw, Annotation):
        return raw
    return {key: value for key, value in msgspec.structs.asdict(raw).items() if type(value) in (int, float, str, tuple)}


def is_id(value: object) -> bool:
    """Whether a JSON value can be an id: a whole number of 64 bits or a text."""
    return is_whole(value) or is_text(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _key(value: object) -> Any:
    return value if is_id(value) else None

"""COCO instances: boxes, polygons, RLE, crowds. Reads and writes without losing an id, a field or a digit.

Polygons are carried as raw JSON and never parsed. The usual fields are decoded into typed structs; a file whose
annotations have others takes a slower path that keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson

from db.bulk import without_gc
from db.document import Document
from db.errors import BadDataset
from db.formats.checks import Faults, check_box, check_size, climbs, is_number
from db.records import XYXY, Box, Category, Fault, Image

Id = int | str


class Annotation(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | None = None
    segmentation: msgspec.Raw = msgspec.Raw()


class File(msgspec.Struct):
    """A COCO file; the order of its other keys is found out separately."""

    images: list[dict[str, Any]]
    annotations: list[Annotation]
    categories: list[dict[str, Any]] = []


KNOWN = {"images", "annotations", "categories"}
IMAGE_KEYS = {"id", "file_name", "width", "height"}
CATEGORY_KEYS = {"id", "name", "frequency"}
ANNOTATION_KEYS = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"}


class Split:
    """One COCO file: its images and annotations with ordinals that begin at the given offsets."""

    def __init__(self, path: Path, name: str, faults: Faults) -> None:
        self.path, self.name, self.faults = path, name, faults
        data = path.read_bytes()
        self.raw_images, self.annotations, self.raw_categories = self._decode(data)
        self.info = self._top_level(data)

    def _decode(self, data: bytes) -> tuple[list[Any], list[Any], list[Any]]:
        """Annotations as structs, or as dictionaries when some have fields of their own or something is wrong."""
        try:
            whole = msgspec.json.decode(data, type=File)
            return whole.images, whole.annotations, whole.categories
        except msgspec.ValidationError:
            return self._loosely(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if b"NaN" in data or b"Infinity" in data or b"e" in data:
                return self._loosely(data, error)
            raise self._broken(error) from error

    def _loosely(self, data: bytes, first: Exception | None = None) -> tuple[list[Any], list[Any], list[Any]]:
        """Python's reader takes NaN and Infinity, so that the items that hold them can be named."""
        try:
            whole = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._broken(first or error) from error
        if not isinstance(whole, dict) or not all(
            isinstance(whole.get(key), list) for key in ("images", "annotations")
        ):
            raise self._broken(ValueError("no lists `images` and `annotations`"))
        return whole["images"], whole["annotations"], whole.get("categories") or []

    def _broken(self, error: Exception) -> BadDataset:
        fault = Fault(
            file=str(self.path),
            item="the whole file",
            seen=f"not readable as COCO JSON: {error}",
            expected="a complete JSON object with images, annotations and categories",
        )
        return BadDataset([fault])

    def _top_level(self, data: bytes) -> dict[str, Any]:
        """Everything beside images, annotations and categories, in the order of the file."""
        try:
            parts = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        except msgspec.DecodeError:
            return {}
        return {key: msgspec.json.decode(raw) for key, raw in parts.items() if key not in KNOWN}

    def categories(self) -> list[Category]:
        found, ids, names = [], set(), set()
        for number, raw in enumerate(self.raw_categories):
            item = f"category #{number}"
            if not isinstance(raw, dict) or not _is_id(raw.get("id")) or not isinstance(raw.get("name"), str):
                self.faults.add(item, f"{_short(raw)}", "an object with an id and a name")
            elif raw["id"] in ids:
                self.faults.add(item, f"id {raw['id']!r} a second time", "every category id once")
            elif raw["name"] in names:
                self.faults.add(item, f"name {raw['name']!r} a second time", "every category name once")
            else:
                ids.add(raw["id"])
                names.add(raw["name"])
                extra = {key: value for key, value in raw.items() if key not in CATEGORY_KEYS}
                frequency = raw.get("frequency")
                found.append(
                    Category(id=len(found), name=raw["name"], source_id=raw["id"], frequency=frequency, extra=extra)
                )
        return found

    def images(self, first: int) -> list[Image]:
        found, ids = [], set()
        for number, raw in enumerate(self.raw_images):
            image = self._image(number, raw, ids, first + len(found))
            if image is not None:
                ids.add(image.source_id)
                found.append(image)
        return found

    def _image(self, number: int, raw: Any, ids: set[Id], ordinal: int) -> Image | None:
        item = f"image #{number}"
        if not isinstance(raw, dict) or not _is_id(raw.get("id")) or not isinstance(raw.get("file_name"), str):
            self.faults.add(item, _short(raw), "an object with id, file_name, width and height")
            return None
        item = f"image id {raw['id']!r} (#{number})"
        if raw["id"] in ids:
            self.faults.add(item, "the id a second time", "every image id once")
            return None
        if climbs(raw["file_name"]):
            self.faults.add(item, f"file name {raw['file_name']!r}", "a path inside the folder of the images")
            return None
        if not check_size(self.faults, item, raw.get("width"), raw.get("height")):
            return None
        extra = {key: value for key, value in raw.items() if key not in IMAGE_KEYS}
        return Image(
            id=ordinal,
            file_name=raw["file_name"],
            width=raw["width"],
            height=raw["height"],
            split=self.name,
            source_id=raw["id"],
            extra=extra,
        )

    def check_annotations(self, images: list[Image], categories: list[Category]) -> list[int]:
        """Positions of the sound annotations; the others become faults."""
        self._image_of = {image.source_id: image for image in images}
        self._category_of = {category.source_id: category.id for category in categories}
        sound: list[int] = []
        seen: set[Id] = set()
        sizes = {image.source_id: (image.width, image.height) for image in images}
        for number, raw in enumerate(self.annotations):
            if type(raw) is Annotation and raw.id not in seen:  # the common case, in few steps
                x, y, w, h = raw.bbox
                width, height = sizes.get(raw.image_id, (0, 0))
                inside = w > 0 and h > 0 and x >= 0 and y >= 0 and x + w <= width and y + h <= height
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
        if not isinstance(fields, dict) or not _is_id(fields.get("id")):
            self.faults.add(item, _short(fields), "an object with an id")
            return False
        item = f"annotation id {fields['id']!r} (#{number})"
        if fields["id"] in seen:
            self.faults.add(item, "the id a second time", "every annotation id once")
            return False
        seen.add(fields["id"])
        image = self._image_of.get(_key(fields.get("image_id")))
        if image is None:
            self.faults.add(item, f"image_id {fields.get('image_id')!r}", "the id of a sound image of this file")
            return False
        if _key(fields.get("category_id")) not in self._category_of:
            self.faults.add(item, f"category_id {fields.get('category_id')!r}", "the id of a category of this file")
            return False
        bbox = fields.get("bbox")
        if not isinstance(bbox, list | tuple) or len(bbox) != 4 or not all(map(is_number, bbox)):
            self.faults.add(item, f"bbox {bbox!r}", "four finite numbers: x, y, width, height")
            return False
        if fields.get("area") is not None and not is_number(fields["area"]):
            self.faults.add(item, f"area {fields['area']!r}", "a finite number")
            return False
        return check_box(self.faults, item, _corners(bbox), image)

    def boxes(self, sound: list[int], first: int) -> Iterator[Box]:
        for ordinal, number in enumerate(sound, first):
            raw = self.annotations[number]
            yield self._typed(ordinal, raw) if type(raw) is Annotation else self._loose(ordinal, raw)

    def _typed(self, ordinal: int, raw: Annotation) -> Box:
        x, y, w, h = raw.bbox
        return Box(
            id=ordinal,
            image_id=self._image_of[raw.image_id].id,
            xyxy=(x, y, x + w, y + h),
            category_id=self._category_of[raw.category_id],
            source_id=raw.id,
            wh=(w, h),
            area=raw.area,
            crowd=raw.iscrowd == 1,
            segmentation=bytes(raw.segmentation) or None,
            extra={"iscrowd": None} if raw.iscrowd is None else {},
        )

    def _loose(self, ordinal: int, raw: dict[str, Any]) -> Box:
        segmentation = raw.get("segmentation")
        extra = {key: value for key, value in raw.items() if key not in ANNOTATION_KEYS}
        return Box(
            id=ordinal,
            image_id=self._image_of[raw["image_id"]].id,
            xyxy=_corners(raw["bbox"]),
            category_id=self._category_of[raw["category_id"]],
            source_id=raw["id"],
            wh=tuple(raw["bbox"][2:]),
            area=raw.get("area"),
            crowd=raw.get("iscrowd") == 1,
            segmentation=None if segmentation is None else orjson.dumps(segmentation),
            extra=extra | ({} if "iscrowd" in raw else {"iscrowd": None}),
        )


def read(files: dict[str, Path]) -> Document:
    """One document from `{split: file}`. What is wrong is in `faults`; the document holds the rest.

    Raises BadDataset when a file cannot be read at all.
    """
    with without_gc():
        return _read(files)


def _read(files: dict[str, Path]) -> Document:
    faults: list[Fault] = []
    categories: list[Category] = []
    images: list[Image] = []
    parts: list[tuple[Split, list[int], int]] = []
    boxes = 0
    for name, path in files.items():
        split = Split(path, name, Faults(str(path)))
        own = split.categories()
        if not categories:
            categories = own
        elif own != categories:
            split.faults.add(
                "categories", "other categories than in the first file", "the same categories in every split"
            )
        found = split.images(len(images))
        sound = split.check_annotations(found, categories)
        images += found
        parts.append((split, sound, boxes))
        boxes += len(sound)
        faults += split.faults
    return Document(
        format="coco",
        categories=categories,
        info={"splits": {split.name: split.info for split, _, _ in parts}},
        images=lambda: images,
        boxes=lambda: (box for split, sound, first in parts for box in split.boxes(sound, first)),
        faults=faults,
    )


def write(document: Document, folder: Path) -> list[str]:
    """One `SPLIT.json` per split (`annotations.json` without splits), streamed. Returns what COCO cannot hold."""
    images: dict[str, list[Image]] = {}
    for image in document.images():
        images.setdefault(image.split, []).append(image)
    split_of = {image.id: split for split, found in images.items() for image in found}
    ids = _SourceIds(document)
    files = {split: _Writer(folder / f"{split or 'annotations'}.json", document, split) for split in images or {"": []}}
    try:
        for split, found in images.items():
            files[split].array("images", (_image_out(image, ids) for image in found))
        for writer in files.values():
            writer.begin("annotations")
        skipped = 0
        for box in document.boxes():
            if box.category_id is None:
                skipped += 1
                continue
            files[split_of[box.image_id]].item(_box_out(box, ids))
        for writer in files.values():
            writer.end()
            writer.array("categories", (_category_out(category, ids) for category in document.categories))
            writer.close()
    except BaseException:
        for writer in files.values():
            writer.discard()
        raise
    return _losses(document, skipped)


def _losses(document: Document, skipped: int) -> list[str]:
    losses = [f"{skipped} boxes without a category"] if skipped else []
    phrases = sum(1 for _ in document.phrases())
    return losses + ([f"{phrases} captions and phrases"] if phrases else [])


class _SourceIds:
    """Ids as the source gave them; what has none gets the numbers after the largest."""

    def __init__(self, document: Document) -> None:
        self._images = _numbered((i.id, i.source_id) for i in document.images())
        self._boxes = _numbered((b.id, b.source_id) for b in document.boxes())
        self._categories = _numbered((c.id, c.source_id) for c in document.categories)

    def image(self, ordinal: int) -> Id:
        return self._images[ordinal]

    def box(self, ordinal: int) -> Id:
        return self._boxes[ordinal]

    def category(self, ordinal: int) -> Id:
        return self._categories[ordinal]


def _numbered(items: Iterator[tuple[int, Id | None]]) -> dict[int, Id]:
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


def _image_out(image: Image, ids: _SourceIds) -> dict[str, Any]:
    size = {"width": image.width, "height": image.height}
    return {"id": ids.image(image.id), "file_name": image.file_name, **size, **image.extra}


def _category_out(category: Category, ids: _SourceIds) -> dict[str, Any]:
    frequency = {} if category.frequency is None else {"frequency": category.frequency}
    return {"id": ids.category(category.id), "name": category.name, **frequency, **category.extra}


def _box_out(box: Box, ids: _SourceIds) -> dict[str, Any]:
    x1, y1, x2, y2 = box.xyxy
    w, h = box.wh or (x2 - x1, y2 - y1)
    out: dict[str, Any] = {
        "id": ids.box(box.id),
        "image_id": ids.image(box.image_id),
        "category_id": ids.category(box.category_id or 0),
    }
    out["bbox"] = [x1, y1, w, h]
    given = box.wh is not None
    if box.area is not None or not given:
        out["area"] = w * h if box.area is None else box.area
    if "iscrowd" not in box.extra:
        out["iscrowd"] = int(box.crowd)
    if box.segmentation is not None:
        out["segmentation"] = orjson.Fragment(box.segmentation)
    return out | {key: value for key, value in box.extra.items() if key != "iscrowd"}


def _corners(bbox: Any) -> XYXY:
    x, y, w, h = bbox
    return (x, y, x + w, y + h)


def _fields(raw: Any) -> Any:
    return msgspec.structs.asdict(raw) if isinstance(raw, Annotation) else raw


def _is_id(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def _key(value: object) -> Any:
    return value if _is_id(value) else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."

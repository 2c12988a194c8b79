"""The annotations of a COCO file: checked column by column, and then made into rows.

They wait on disk, column by column, until all is checked: in memory are those of one chunk. Only items that have a fault, and
files whose annotations have unusual fields, are looked at one by one. A missing `iscrowd` is noted as None in the `extra` of a
box, and so are an `area` or a `segmentation` that is null.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, compress, count, repeat
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from db.codec import BoxRow, Firsts, box_row, source_id_out
from db.formats.checks import (
    LARGEST,
    SLACK,
    Faults,
    check_box,
    check_storable,
    is_number,
    is_whole,
    short,
)
from db.formats.ids import Id64, IdList, Known, is_id
from db.formats.jsonstream import Chunk, JsonFile
from db.records import XYXY, Box, Image
from db.spool import Blocks

SLICE = 512  # annotations that are made into rows at once: few enough for the caches of the processor
KEYS = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"}
NULL, NO_CROWD = b"null", b'{"iscrowd":null}'
UNSAID: Any = -1  # of `iscrowd`, when it is missing
_ABSENT = {  # by whether `iscrowd` is missing, and whether the mask is null
    (False, False): None,
    (True, False): NO_CROWD,
    (False, True): b'{"segmentation":null}',
    (True, True): b'{"iscrowd":null,"segmentation":null}',
}


class Annotation(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One with the usual fields only. Its mask stays as it was written."""

    id: Id64
    image_id: Id64
    category_id: Id64
    bbox: tuple[float, float, float, float]
    area: float = math.nan  # when it is missing: JSON knows no NaN
    iscrowd: Literal[0, 1] = UNSAID
    segmentation: msgspec.Raw = msgspec.Raw()


class Columns(msgspec.Struct, array_like=True, gc=False):
    """Annotations with the usual fields only, field by field, as they are kept on disk."""

    sources: list[str | None]
    numbers: bytes  # of `table`
    crowds: list[int]
    masks: list[bytes]  # of `SLICE` annotations each, with a NUL between them, which no JSON has

    @classmethod
    def of(cls, items: list[Annotation]) -> Columns:
        table = np.empty((5, len(items)))
        corners_and_sizes = list(chain.from_iterable([a.bbox for a in items]))
        table[:4] = np.asarray(array("d", corners_and_sizes)).reshape(-1, 4).T
        table[4] = array("d", [a.area for a in items])
        sources = [str(a.id) if type(a.id) is int else source_id_out(a.id) for a in items]
        crowds: list[int] = [a.iscrowd for a in items]
        return cls(sources, table.tobytes(), crowds, _joined([a.segmentation for a in items]))

    def only(self, some: NDArray[np.bool_]) -> Columns:
        """Those of some of the annotations."""
        if some.all():
            return self
        sources, crowds = list(compress(self.sources, some)), list(compress(self.crowds, some))
        masks = list(compress(chain.from_iterable(map(_apart, self.masks)), some))
        return Columns(sources, self.table()[:, some].tobytes(), crowds, _joined(masks))

    def rows(self, ordinal: int, images: list[int], categories: list[int]) -> Iterator[Iterable[BoxRow]]:
        """As rows of boxes, made column by column: a row costs less than half of what it costs alone."""
        table = self.table()
        for number, joined in enumerate(self.masks):
            some = slice(number * SLICE, (number + 1) * SLICE)
            rest = _rest(self.sources[some], table[:, some], self.crowds[some], _apart(joined))
            yield zip(count(ordinal + some.start), images[some], categories[some], *rest, strict=False)

    def table(self) -> NDArray[np.float64]:
        """(5, n): x, y, w, h, area; NaN for an area that is missing."""
        return np.frombuffer(self.numbers).reshape(5, -1)


def _joined(masks: list[Any]) -> list[bytes]:
    return [b"\0".join(masks[at : at + SLICE]) for at in range(0, len(masks), SLICE)]


def _apart(masks: bytes) -> list[bytes]:
    return masks.split(b"\0")


def _rest(
    sources: list[str | None], numbers: NDArray[np.float64], crowds: list[int], masks: list[bytes]
) -> Iterator[Iterable[Any]]:
    """What comes in a row after its ids of box, image and category."""
    x, y, w, h, area = numbers
    yield sources
    yield from (column.tolist() for column in (x, y, x + w, y + h, w, h))
    yield [None if math.isnan(own) else own for own in area.tolist()] if np.isnan(area).any() else area.tolist()
    silent, null, absent = UNSAID in crowds, NULL in masks, b"" in masks  # mostly none, which needs no look at each
    yield [max(crowd, 0) for crowd in crowds] if silent else crowds
    yield [mask if mask and mask != NULL else None for mask in masks] if null or absent else masks
    if silent or null:
        yield [_ABSENT[crowd == UNSAID, mask == NULL] for crowd, mask in zip(crowds, masks, strict=True)]
    else:
        yield repeat(None)


@dataclass
class Part:
    """Annotations that were read together: where they are, and in which blocks is what is known of them."""

    start: int  # in bytes
    end: int
    count: int
    columns: int | None = None  # `Columns`; None for what is read again from the file
    keys: int | None = None  # `Keys`; None for what is looked at one by one
    found: int = -1  # `Found`, once they were checked


class Keys(NamedTuple):
    """What is checked of many annotations at once."""

    referred: NDArray[np.int64]  # (2, n): ids of image and category
    numbers: NDArray[np.float64]  # `Columns.table`

    @classmethod
    def of(cls, data: bytes, count: int) -> Keys:
        return cls(_table(data, np.int64, (2, count)), _table(data, np.float64, (5, count), 16 * count))

    def data(self) -> bytes:
        return self.referred.tobytes() + self.numbers.tobytes()


class Found(NamedTuple):
    """What annotations belong to, by ordinals, and whether they are sound."""

    images: NDArray[np.int32]
    categories: NDArray[np.int32]
    sound: NDArray[np.bool_]

    @classmethod
    def of(cls, data: bytes, count: int) -> Found:
        images, categories = _table(data, np.int32, (2, count))
        return cls(images, categories, _table(data, np.bool_, (count,), 8 * count))

    def data(self) -> bytes:
        return self.images.tobytes() + self.categories.tobytes() + self.sound.tobytes()


def _table(data: bytes, kind: type[np.generic], shape: tuple[int, ...], start: int = 0) -> NDArray[Any]:
    return np.frombuffer(data, kind, math.prod(shape), start).reshape(shape)


def _whole(columns: list[list[Any]]) -> NDArray[np.int64] | None:
    """Columns of whole numbers; None where a text is among them. An array is made faster by Python than by numpy."""
    try:
        return np.array([array("q", column) for column in columns])
    except TypeError:
        return None


Forbidden = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[np.bool_]]


class Annotations:
    """Those of one file. `forbidden` tells of images and categories, by their ordinals, which may not go together, and
    `objection` what is wrong then and what would be right."""

    def __init__(
        self,
        file: JsonFile,
        faults: Faults,
        forbidden: Forbidden = lambda images, categories: np.zeros(len(images), np.bool_),
        objection: tuple[str, str] = ("", ""),
    ) -> None:
        self._file, self._faults = file, faults
        self._forbidden, self._objection = forbidden, objection
        self._parts: list[Part] = []
        self._blocks = Blocks()
        self._ids = IdList()

    def add(self, chunk: Chunk) -> None:
        items = chunk.items
        if not items:
            return
        part = Part(chunk.start, chunk.end, len(items))
        if isinstance(items[0], Annotation):  # and so are all others
            self._ids.extend([a.id for a in items])
            columns = Columns.of(items)
            part.columns = self._blocks.append(msgspec.msgpack.encode(columns))
            referred = _whole([[a.image_id for a in items], [a.category_id for a in items]])
            part.keys = None if referred is None else self._blocks.append(Keys(referred, columns.table()).data())
        else:
            self._ids.extend([own if is_id(own := get(item, "id")) else None for item in items])
        self._parts.append(part)

    def _items(self, part: Part) -> list[Any]:
        return self._file.again(part.start, part.end, Annotation)

    def check(self, known: Known) -> int:
        """Find what each belongs to; the unsound become faults. Returns how many are sound."""
        self._known = known
        sizes = np.array(known.sizes or [0, 0], np.float64).reshape(-1, 2)
        repeated = self._ids.repeated()
        first = sound = 0
        for part in self._parts:
            again = np.zeros(part.count, np.bool_)
            again[repeated[slice(*np.searchsorted(repeated, (first, first + part.count)))] - first] = True
            found = self._checked(part, again, sizes)
            self._check_rest(part, found, first, again)
            part.found = self._blocks.append(found.data())
            sound += int(found.sound.sum())
            first += part.count
        self._known, self._ids = Known(0), IdList()
        return sound

    def _checked(self, part: Part, again: NDArray[np.bool_], sizes: NDArray[np.float64]) -> Found:
        """As `_sound`, for all at once; nothing is known to be sound of what is looked at one by one."""
        if part.keys is None:
            images, categories = np.full((2, part.count), -1, np.int32)
            return Found(images, categories, np.zeros(part.count, np.bool_))
        referred, numbers = Keys.of(self._blocks[part.keys], part.count)
        images = self._known.images.ordinals(referred[0])
        categories = self._known.categories.ordinals(referred[1])
        width, height = sizes[np.maximum(images - self._known.first, 0)].T
        x, y, w, h, area = numbers
        right, bottom = x + w, y + h
        inside = (x >= -SLACK) & (y >= -SLACK) & (right <= width + SLACK) & (bottom <= height + SLACK)
        whole = (right > x) & (bottom > y) & ~(np.abs(area) > LARGEST)
        there = (images >= 0) & (categories >= 0)
        return Found(images, categories, there & inside & whole & ~again & ~self._forbidden(images, categories))

    def _check_rest(self, part: Part, found: Found, first: int, again: NDArray[np.bool_]) -> None:
        """What is not known to be sound, one by one."""
        doubtful = np.flatnonzero(~found.sound).tolist()
        items = self._items(part) if doubtful else []
        for place in doubtful:
            raw = items[place]
            if self._sound(first + place, raw, bool(again[place])):
                found.images[place] = self._known.images.ordinal[get(raw, "image_id")]
                found.categories[place] = self._known.categories.ordinal[get(raw, "category_id")]
                found.sound[place] = self._permitted(found, place, first + place, raw)

    def _permitted(self, found: Found, place: int, number: int, raw: Any) -> bool:
        one = slice(place, place + 1)
        forbidden = bool(self._forbidden(found.images[one], found.categories[one])[0])
        if forbidden:
            seen, expected = self._objection
            item = f"annotation id {short(get(raw, 'id'))} (#{number})"
            self._faults.add(item, f"category_id {short(get(raw, 'category_id'))}, {seen}", expected)
        return not forbidden

    def _sound(self, number: int, raw: Any, again: bool) -> bool:
        fields = _fields(raw)
        item = f"annotation #{number}"
        if not isinstance(fields, dict) or not is_id(fields.get("id")):
            self._faults.add(item, short(fields), "an object with an id")
            return False
        item = f"annotation id {short(fields['id'])} (#{number})"
        if again:
            self._faults.add(item, "the id a second time", "every annotation id once")
            return False
        image = self._known.image(fields.get("image_id"))
        wrong = self._wrong(fields, image)
        if wrong is not None:
            self._faults.add(item, *wrong)
            return False
        assert image is not None
        return check_box(self._faults, item, corners(fields["bbox"]), image) and check_storable(
            self._faults, item, fields
        )

    def _wrong(self, fields: dict[str, Any], image: Image | None) -> tuple[str, str] | None:
        """What was seen and what would be right, of the first field that is wrong."""
        bbox, category = fields.get("bbox"), fields.get("category_id")
        if image is None:
            return f"image_id {short(fields.get('image_id'))}", "the id of a sound image of this file"
        if not is_id(category) or category not in self._known.categories.ordinal:
            return f"category_id {short(category)}", "the id of a category of this file"
        if not isinstance(bbox, list | tuple) or len(bbox) != 4 or not all(map(is_number, bbox)):
            return f"bbox {short(bbox)}", "four finite numbers: x, y, width, height"
        if fields.get("area") is not None and not is_number(fields["area"]):
            return f"area {short(fields['area'])}", "a finite number"
        if not is_whole(fields.get("iscrowd", 0)) or fields.get("iscrowd", 0) not in (0, 1):
            return f"iscrowd {short(fields['iscrowd'])}", "0 or 1"
        return None

    def rows(self, first: Firsts) -> Iterator[BoxRow]:
        """The sound ones as rows of boxes."""
        return chain.from_iterable(self._rows_by_part(first))

    def _rows_by_part(self, first: Firsts) -> Iterator[Iterable[BoxRow]]:
        ordinal = first.box
        for part in self._parts:
            found = Found.of(self._blocks[part.found], part.count)
            images = (found.images + np.int64(first.image))[found.sound].tolist()
            categories = (found.categories + np.int64(first.category))[found.sound].tolist()
            whole = self._whole(part)
            if isinstance(whole, Columns):
                yield from whole.only(found.sound).rows(ordinal, images, categories)
            else:
                sound = compress(whole, found.sound.tolist())
                yield (box_row(_loose(*one), Firsts()) for one in zip(count(ordinal), sound, images, categories))
            ordinal += len(images)

    def _whole(self, part: Part) -> Columns | list[Any]:
        """The annotations of a part by columns; as they are where some have other fields."""
        if part.columns is not None:
            return msgspec.msgpack.decode(self._blocks[part.columns], type=Columns)
        items = self._items(part)  # perhaps read in another way than at first: together with what cannot be
        return Columns.of(items) if isinstance(items[0], Annotation) else items


def _loose(number: int, raw: dict[str, Any], image: int, category: int) -> Box:
    """The box of an annotation with fields of its own."""
    nulls: dict[str, None] = {key: None for key in ("area", "segmentation") if key in raw and raw[key] is None}
    nulls |= {} if "iscrowd" in raw else {"iscrowd": None}
    segmentation = raw.get("segmentation")
    return Box(
        id=number,
        image_id=image,
        xyxy=corners(raw["bbox"]),
        category_id=category,
        source_id=raw["id"],
        wh=tuple(raw["bbox"][2:]),
        area=raw.get("area"),
        crowd=raw.get("iscrowd") == 1,
        segmentation=None if segmentation is None else orjson.dumps(segmentation),
        extra={key: value for key, value in raw.items() if key not in KEYS} | nulls,
    )


def _fields(raw: Any) -> Any:
    if not isinstance(raw, Annotation):
        return raw
    found = msgspec.structs.asdict(raw)
    missing = {"segmentation"} | ({"iscrowd"} if raw.iscrowd == UNSAID else set())
    missing |= {"area"} if math.isnan(raw.area) else set()
    return {key: value for key, value in found.items() if key not in missing}


def get(raw: Any, key: str) -> Any:
    """A field of an annotation, however it was read; None without it."""
    if isinstance(raw, Annotation):
        return getattr(raw, key)
    return raw.get(key) if isinstance(raw, dict) else None


def corners(bbox: Any) -> XYXY:
    """The corners of x, y, width, height."""
    x, y, w, h = bbox
    return (x, y, x + w, y + h)

"""JSON columns, source ids and rows of boxes: the only place that knows how they look in the database."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import msgspec

from db.records import Box

T = TypeVar("T")

BoxRow = tuple[Any, ...]
"""(id, image_id, category_id, source_id, x1, y1, x2, y2, w, h, area, crowd, segmentation, extra), as the table has them."""


class Firsts(NamedTuple):
    """What is added to ordinals to give ids; nothing for what has ids already."""

    box: int = 0
    image: int = 0
    category: int = 0
    phrase: int = 0


def pack(value: Any) -> bytes | None:
    """JSON bytes of a value; None for an empty container, so that empty extras cost nothing."""
    return msgspec.json.encode(value) if value else None


def unpack(data: bytes | None, empty: T) -> T:
    """The inverse of `pack`; `empty` is what None stands for."""
    return empty if data is None else msgspec.json.decode(data)


def source_id_out(value: int | str | None) -> str | None:
    """A source id as JSON scalar text: 7 -> '7', "7" -> '"7"'."""
    if value is None:
        return None
    return str(value) if type(value) is int else msgspec.json.encode(value).decode()


def source_id_in(text: str | None) -> int | str | None:
    return None if text is None else msgspec.json.decode(text)


def box_row(box: Box, first: Firsts) -> BoxRow:
    """The row of a box with ordinals."""
    return (
        box.id + first.box,
        box.image_id + first.image,
        None if box.category_id is None else box.category_id + first.category,
        source_id_out(box.source_id),
        *box.xyxy,
        *(box.wh or (None, None)),
        box.area,
        1 if box.crowd else 0,
        box.segmentation,
        pack(box.extra),
    )


def box_of(row: BoxRow) -> Box:
    """The inverse of `box_row`."""
    key, image_id, category_id, source, x1, y1, x2, y2, w, h, area, crowd, segmentation, extra = row
    return Box(
        id=key,
        image_id=image_id,
        category_id=category_id,
        source_id=source_id_in(source),
        xyxy=(x1, y1, x2, y2),
        wh=None if w is None else (w, h),
        area=area,
        crowd=bool(crowd),
        segmentation=segmentation,
        extra=unpack(extra, {}),
    )

"""JSON columns and source ids: the only place that knows how they look in the database."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


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

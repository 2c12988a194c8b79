"""Work on very many small things."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Select

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter; no empty list."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def tuples(connection: Connection, query: Select[Any], values: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """The rows of a query as the driver gives them: no type is converted, and no row object made."""
    with connection.execute(query, values or {}) as result:
        assert result.cursor is not None
        return list(result.cursor.fetchall())


@contextmanager
def without_gc() -> Iterator[None]:
    """Millions of small objects make the garbage collector run again and again, for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

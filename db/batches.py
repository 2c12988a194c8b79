"""Cutting a stream into lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter; no empty list."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part

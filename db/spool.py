"""Records by the million, in their order, on disk: memory is bounded by a block of them, however many there are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from db.records import Record

R = TypeVar("R", bound=Record)

BLOCK = 4096  # records kept in memory, and read at once
BUCKET = 100_000  # records sorted at once


class Spool(Generic[R]):
    """An append-only sequence of records of one kind, which can be read again and again, also while it grows.

    Up to a block of them never touches the disk. The file has no name and goes with the spool.
    """

    def __init__(self, kind: type[R]) -> None:
        self._decoder: msgspec.msgpack.Decoder[list[R]] = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
        self._file: IO[bytes] | None = None
        self._blocks: list[tuple[int, int]] = []  # offset and length
        self._last: list[R] = []

    def append(self, record: R) -> None:
        self._last.append(record)
        if len(self._last) == BLOCK:
            self._write(msgspec.msgpack.encode(self._last))
            self._last = []

    def __len__(self) -> int:
        return len(self._blocks) * BLOCK + len(self._last)

    def __iter__(self) -> Iterator[R]:
        for number in range(len(self._blocks)):
            yield from self._block(number)
        yield from list(self._last)

    def __getitem__(self, index: int) -> R:
        """One record, by reading its whole block."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, place = divmod(index, BLOCK)
        return self._block(number)[place] if number < len(self._blocks) else self._last[place]

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="winnow-")  # noqa: SIM115 (as long as the spool)
        offset = sum(self._blocks[-1]) if self._blocks else 0
        written = 0
        while written < len(data):
            written += os.pwrite(self._file.fileno(), data[written:], offset + written)
        self._blocks.append((offset, len(data)))

    def _block(self, number: int) -> list[R]:
        assert self._file is not None
        offset, length = self._blocks[number]
        return self._decoder.decode(os.pread(self._file.fileno(), length, offset))


def in_order(stream: Callable[[], Iterable[R]], kind: type[R], key: Callable[[R], int]) -> Iterator[R]:
    """The records of a restartable stream by ascending key, those of one key in the order of the stream.

    A stream that is in order already is passed on. A short one is sorted in memory; a long one is dealt out, by key, to
    spools of about `BUCKET` records each, which are sorted one after the other.
    """
    keys = np.fromiter(map(key, stream()), np.int64)
    if (keys[1:] >= keys[:-1]).all():
        yield from stream()
    elif len(keys) <= BUCKET:
        yield from sorted(stream(), key=key)
    else:
        yield from _dealt(stream(), kind, key, np.unique(np.sort(keys)[BUCKET::BUCKET]))


def _dealt(stream: Iterable[R], kind: type[R], key: Callable[[R], int], edges: NDArray[Any]) -> Iterator[R]:
    spools = [Spool(kind) for _ in range(len(edges) + 1)]
    for record in stream:
        spools[int(np.searchsorted(edges, key(record), side="right"))].append(record)
    for spool in spools:
        yield from sorted(spool, key=key)

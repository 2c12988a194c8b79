"""Records by the million, in their order, on disk: memory is bounded by a block of them, however many there are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from db.errors import not_written
from db.records import Record

R = TypeVar("R", bound=Record)

BLOCK = 4096  # records kept in memory, and read at once
BUCKET = 100_000  # records sorted at once


class Blocks:
    """Byte strings in a file, which has no name and goes with them."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._ends = [0]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, data: bytes) -> int:
        """Returns its number. Raises DiskFull, or another WinnowError, when it cannot be written."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="winnow-")  # noqa: SIM115 (as long as the blocks)
            written = 0
            while written < len(data):
                written += os.pwrite(self._file.fileno(), data[written:], self._ends[-1] + written)
        except OSError as error:
            what = f"A temporary file in {tempfile.gettempdir()} (TMPDIR may name another place) cannot be written"
            raise not_written(error, what) from error
        self._ends.append(self._ends[-1] + len(data))
        return len(self) - 1

    def __getitem__(self, number: int) -> bytes:
        assert self._file is not None
        start, end = self._ends[number : number + 2]
        return os.pread(self._file.fileno(), end - start, start)


class Spool(Generic[R]):
    """An append-only sequence of records of one kind, which can be read again and again, also while it grows. Up to a block
    of them never touches the disk."""

    def __init__(self, kind: type[R]) -> None:
        self._decoder: msgspec.msgpack.Decoder[list[R]] = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
        self._blocks = Blocks()
        self._last: list[R] = []

    def append(self, record: R) -> None:
        self._last.append(record)
        if len(self._last) == BLOCK:
            self._blocks.append(msgspec.msgpack.encode(self._last))
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

    def _block(self, number: int) -> list[R]:
        return self._decoder.decode(self._blocks[number])


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

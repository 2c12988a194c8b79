"""The ids of a file by the million: whether one comes twice, what they refer to, and numbers for what has none.

Of each, a few bytes are in memory, as long as they are whole numbers.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, TypeGuard, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from db.formats.checks import WHOLE, is_encodable, is_whole
from db.records import Image
from db.spool import Blocks

Id = int | str
Id64 = Annotated[int, msgspec.Meta(ge=-WHOLE, le=WHOLE - 1)] | str
BUCKET = 500_000  # ids that are compared with each other at once
NUMBERS, TEXTS = b"n", b"t"  # what begins a block of ids
DENSE = 16  # numbers between the first and the last id, for every id, up to which a table is made of them


def is_id(value: object) -> TypeGuard[Id]:
    """Whether a JSON value can be an id: a whole number of 64 bits or a text (which is stored as JSON)."""
    return is_whole(value) or (isinstance(value, str) and is_encodable(value))


# As they were read


class IdList:
    """Ids in the order of a file, on disk; None for what has none."""

    def __init__(self) -> None:
        self._blocks = Blocks()
        self._count, self._last = 0, -WHOLE - 1
        self._texts, self._ascend = False, True

    def __len__(self) -> int:
        return self._count

    def extend(self, ids: list[Id | None]) -> None:
        try:
            whole = array("q", cast(list[int], ids))
        except TypeError:
            self._texts = True
            self._blocks.append(TEXTS + msgspec.msgpack.encode(ids))
        else:
            values = np.frombuffer(whole, np.int64)
            self._ascend &= not whole or (whole[0] > self._last and bool((values[1:] > values[:-1]).all()))
            self._last = whole[-1] if whole else self._last
            self._blocks.append(NUMBERS + whole.tobytes())
        self._count += len(ids)

    def arrays(self) -> Iterator[NDArray[Any]]:
        """Block by block: whole numbers; objects where some are texts or none at all."""
        for number in range(len(self._blocks)):
            data = self._blocks[number]
            if data.startswith(NUMBERS):
                yield np.frombuffer(data, np.int64, offset=len(NUMBERS))
            else:
                yield np.array(msgspec.msgpack.decode(data[len(TEXTS) :]), object)

    def repeated(self) -> NDArray[np.int64]:
        """The places of those that came before, in ascending order. Some hundred thousand are in memory at once."""
        if self._ascend and not self._texts:
            return np.empty(0, np.int64)
        buckets = 1 + self._count // BUCKET
        find = self._repeated_values if self._texts else self._repeated_numbers
        return np.sort(np.concatenate([find(bucket, buckets) for bucket in range(buckets)]))

    def _repeated_numbers(self, bucket: int, buckets: int) -> NDArray[np.int64]:
        """Of the ids with one remainder."""
        first, ids, places = 0, [], []
        for array_ in self.arrays():
            chosen = np.flatnonzero(array_ % buckets == bucket) if buckets > 1 else np.arange(len(array_))
            ids.append(array_[chosen])
            places.append(chosen + first)
            first += len(array_)
        whole = np.concatenate(ids)
        order = np.argsort(whole, kind="stable")
        again = whole[order[1:]] == whole[order[:-1]]
        return np.concatenate(places)[order[1:][again]]

    def _repeated_values(self, bucket: int, buckets: int) -> NDArray[np.int64]:
        seen: set[Id] = set()
        found = []
        values = chain.from_iterable(array_.tolist() for array_ in self.arrays())
        for place, own in enumerate(values):
            if own is not None and hash(own) % buckets == bucket:
                if own in seen:
                    found.append(place)
                seen.add(own)
        return np.array(found, np.int64)


def places_of(ids: Iterable[NDArray[Any]]) -> Callable[[Id], int]:
    """Gives the place of an id in a list, -1 for what is not there: sixteen bytes each where all are whole numbers."""
    whole = np.concatenate([np.empty(0, np.int64), *ids])
    if whole.dtype == object:
        place_of = {own: place for place, own in reversed(list(enumerate(whole.tolist())))}
        return lambda own: place_of.get(own, -1)
    order = np.argsort(whole, kind="stable")
    known, places = whole[order].data, order.data

    def place(own: Id) -> int:
        at = bisect_left(known, own) if isinstance(own, int) else len(known)
        return places[at] if at < len(known) and known[at] == own else -1

    return place


class Index:
    """Ordinals by the ids of the source."""

    def __init__(self) -> None:
        self.ordinal: dict[Id, int] = {}
        self._lookup: Lookup | None = None

    def add(self, own: Id, ordinal: int) -> None:
        self.ordinal[own] = ordinal
        self._lookup = None

    def ordinals(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Those of many whole numbers at once, -1 for what is not there."""
        if self._lookup is None:
            numbers = sorted((own, ordinal) for own, ordinal in self.ordinal.items() if isinstance(own, int))
            table = np.array(numbers, np.int64).reshape(-1, 2)
            self._lookup = _lookup(table[:, 0], table[:, 1].astype(np.int32))
        return self._lookup(ids)


Lookup = Callable[[NDArray[np.int64]], NDArray[np.int32]]


def _lookup(known: NDArray[np.int64], ordinals: NDArray[np.int32]) -> Lookup:
    """Of ids that ascend: by a table where that is not much longer than they are, else by searching."""
    if not len(known):
        return lambda ids: np.full(len(ids), -1, np.int32)
    first, last = int(known[0]), int(known[-1])
    if last - first < DENSE * len(known):
        table = np.full(last - first + 2, -1, np.int32)  # the last one for whatever lies outside
        table[known - first] = ordinals
        return lambda ids: table[np.where((ids >= first) & (ids <= last), ids - first, -1)]

    def searched(ids: NDArray[np.int64]) -> NDArray[np.int32]:
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[place] == ids, ordinals[place], -1).astype(np.int32)

    return searched


@dataclass
class Known:
    """What annotations refer to: images with their sizes, by ordinals from `first` on, and categories."""

    first: int
    images: Index = field(default_factory=Index)
    categories: Index = field(default_factory=Index)
    sizes: array[int] = field(default_factory=lambda: array("q"))  # widths and heights, in turn

    def add(self, image: Image) -> None:
        assert image.source_id is not None
        self.images.add(image.source_id, image.id)
        self.sizes.extend((image.width, image.height))

    def image(self, own: object) -> Image | None:
        """The image with this id, without its name."""
        ordinal = self.images.ordinal.get(own) if is_id(own) else None
        if ordinal is None:
            return None
        place = 2 * (ordinal - self.first)
        width, height = self.sizes[place : place + 2]
        return Image(id=ordinal, file_name="", width=width, height=height)


class Pairs:
    """Whole numbers by whole numbers, several by one, in 25 bytes each. All are added before the first is taken."""

    def __init__(self) -> None:
        self._keys, self._values = array("q"), array("q")

    def add(self, key: int, value: int) -> None:
        self._keys.append(key)
        self._values.append(value)

    @cached_property
    def taken(self) -> bytearray:
        """1 for those that were taken, in the order in which they were added."""
        return bytearray(len(self._values))

    @cached_property
    def _sorted(self) -> tuple[memoryview[int], memoryview[int]]:
        """The keys in ascending order, and when they were added."""
        keys, self._keys = np.asarray(self._keys), array("q")
        order = np.argsort(keys, kind="stable")
        return keys[order].data, order.data

    def take(self, key: int) -> Iterator[int]:
        """The numbers by one, in the order in which they were added."""
        keys, order = self._sorted
        start = bisect_left(keys, key)
        for place in order[start : bisect_right(keys, key, start)]:
            self.taken[place] = 1
            yield self._values[place]


# As they are written


class Next:
    """Numbers for what has no id: those after the largest of all ids, which are looked through when the first is asked for."""

    def __init__(self, ids: Callable[[], Iterable[Id | None]]) -> None:
        self._ids = ids
        self._last: int | None = None

    def __call__(self) -> int:
        if self._last is None:
            self._last = max((own for own in self._ids() if isinstance(own, int)), default=0)
        self._last += 1
        return self._last


class Numbers:
    """Ids by ordinals that ascend, in sixteen bytes each where they are whole numbers."""

    def __init__(self, unnamed: Next) -> None:
        self._unnamed = unnamed
        self._ordinals, self._ids = array("q"), array("q")
        self._texts: dict[int, str] = {}  # by place

    def append(self, ordinal: int, own: Id | None) -> None:
        known = self._unnamed() if own is None else own
        if isinstance(known, str):
            self._texts[len(self._ids)] = known
        self._ordinals.append(ordinal)
        self._ids.append(0 if isinstance(known, str) else known)

    def __getitem__(self, ordinal: int) -> Id:
        place = bisect_left(self._ordinals, ordinal)
        if place == len(self._ordinals) or self._ordinals[place] != ordinal:
            raise KeyError(ordinal)
        return self._texts[place] if place in self._texts else self._ids[place]

    def places(self, ordinals: Sequence[int]) -> NDArray[np.int64]:
        """Where in the order some ordinals stand. Raises KeyError when one is not there."""
        known, asked = np.frombuffer(self._ordinals, np.int64), np.asarray(ordinals, np.int64)
        places = np.searchsorted(known, asked)
        if len(asked) and not (places.max() < len(known) and (known[places] == asked).all()):
            raise KeyError(ordinals)
        return places

    def at(self, places: NDArray[np.int64]) -> list[Id]:
        """The ids at some places."""
        ids: list[Id] = np.frombuffer(self._ids, np.int64)[places].tolist()
        if self._texts:
            return [self._texts.get(place, own) for place, own in zip(places.tolist(), ids, strict=True)]
        return ids


def numbered(items: Iterable[tuple[int, Id | None]]) -> dict[int, Id]:
    """Ids by ordinal: those given, and numbers after the largest for what has none."""
    known = dict(items)
    last = max((value for value in known.values() if isinstance(value, int)), default=0)
    for ordinal, value in known.items():
        if value is None:
            last += 1
            known[ordinal] = last
    return known  # type: ignore[return-value]

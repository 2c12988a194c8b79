"""Pickles of old data sets, read as data and written entry by entry.

A pickle is a program, run here without one class or function: a name that it asks for is a text, and what it has called
must be one of the few stand-ins below, which make lists and numbers of NumPy's arrays and scalars.

Such a program may come back to whatever it built before. Its list or dictionary is emptied to disk as it grows, and so is
what it may come back to: however long the file is, some hundred entries are in memory.
"""

from __future__ import annotations

import io
import marshal
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from db.errors import WinnowError
from db.formats.reading import broken
from db.spool import Blocks

DATA = "a pickle of nothing but lists, dictionaries, texts, numbers and arrays of numbers"
MAX_BYTES = 512 * 2**20  # one entry may be the whole file
ENTRIES = 500  # that are put on disk at once; the pickles that Python writes add up to 1000 at once
TOGETHER = 64  # values of the memo that are put on disk at once
REPEATED = 10_000_000  # values that may be there because others are referred to, besides one for each byte
KINDS = "biuf"  # of numbers: truth values, whole and floating ones
CHANGED = {list, tuple, set, frozenset, dict, bytes}  # types that JSON has not, or that may hold them


# What NumPy's classes and functions are replaced by


def _type(name: str, *_: object) -> list[str]:
    """For `numpy.dtype`: a byte order, to be set by its state, and a kind with its width in bytes."""
    if not isinstance(name, str) or name[:1] not in KINDS or name[1:] not in ("1", "2", "4", "8"):
        raise pickle.UnpicklingError(f"an array of the type {name!r:.40}")
    return ["<", name]


def _numbers(kind: list[str], data: object, count: int) -> np.ndarray[Any, Any]:
    order, name = kind
    given = data.encode("latin-1") if isinstance(data, str) else data  # protocol 2 holds bytes as text
    if not isinstance(given, bytes) or len(given) != count * int(name[1:]):
        raise pickle.UnpicklingError("an array whose bytes do not fit its shape")
    return np.frombuffer(given, dtype=np.dtype(order + _type(name)[1]))


def _scalar(kind: list[str], data: object) -> Any:
    return _numbers(kind, data, 1)[0].item()


def _array(*_: object) -> list[Any]:
    """For an array without its state, which comes later."""
    return []


def _encoded(text: str, encoding: str) -> bytes:
    """For `codecs.encode`, by which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r:.40}")
    return text.encode("latin-1")


def _set_state(value: Any, state: Any) -> None:
    """Complete an array or a type of one. Raises UnpicklingError for a state of anything else."""
    match value, state:
        case [], (_, tuple(shape), [str(), str()] as kind, fortran, data) if all(
            type(n) is int and n >= 0 for n in shape
        ):
            numbers = _numbers(kind, data, math.prod(shape))
            nested = np.reshape(numbers, shape, order="F" if fortran else "C") if shape else numbers
            value[:] = nested.tolist() if len(numbers) else []  # whatever the shape of nothing
        case [str(), str()], (_, str(order), *_):
            value[0] = ">" if order == ">" else "<"
        case _:
            raise pickle.UnpicklingError("an object with a state")


STAND_INS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("builtins.set", "__builtin__.set"), set),
    "_codecs.encode": _encoded,
    **{f"{module}._reconstruct": _array for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    **{f"{module}.scalar": _scalar for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    "numpy.dtype": _type,
    "numpy.ndarray": _array,
}


# Reading


class Entries:
    """What a list or a dictionary holds, as (key, value) for the latter, as JSON has it: tuples and sets as lists, bytes as
    texts of Latin-1. On disk; it can be gone through again and again."""

    def __init__(self) -> None:
        self._blocks = Blocks()

    def extend(self, some: list[Any]) -> None:
        self._blocks.append(marshal.dumps(some))

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self._blocks)):
            yield from marshal.loads(self._blocks[number])


class _Memo(dict[int, Any]):
    """What was built, by the numbers that the pickle gives it. After `settle`, most of it is on disk until it is asked for."""

    def __init__(self) -> None:
        self._blocks = Blocks()
        self._elsewhere = 0  # values that are on disk only
        self._fetched: list[int] = []

    def settle(self) -> None:
        for number in self._fetched:
            self._elsewhere += self.pop(number, ...) is not ...
        self._fetched = []
        last, first = max(self, default=-1), len(self._blocks) * TOGETHER
        while first + TOGETHER <= last and any(number in self for number in range(first, first + TOGETHER)):
            values = [self.pop(number, ...) for number in range(first, first + TOGETHER)]
            self._blocks.append(marshal.dumps(values))
            self._elsewhere += sum(value is not ... for value in values)
            first += TOGETHER

    def __missing__(self, number: int) -> Any:
        block, place = divmod(number, TOGETHER)
        value = marshal.loads(self._blocks[block])[place] if 0 <= block < len(self._blocks) else ...
        if value is ...:
            raise KeyError(number)
        self._fetched.append(number)
        self._elsewhere -= 1
        self[number] = value
        return value

    def __len__(self) -> int:
        """How many were numbered, by which the newer protocols number the next."""
        return super().__len__() + self._elsewhere


Base: Any = pickle._Unpickler  # the one in Python: that in C holds on to all that it built


class _Unpickler(Base):  # type: ignore[misc]
    def __init__(self, file: IO[bytes], size: int, top: type[list[Any] | dict[Any, Any]]) -> None:
        super().__init__(file, encoding="latin-1")
        self.memo = _Memo()
        self.entries = Entries()
        self._top, self._left = top, size + REPEATED

    dispatch: ClassVar[dict[int, Callable[[_Unpickler], None]]] = dict(Base.dispatch)

    def find_class(self, module: str, name: str) -> str:
        return f"{module}.{name}"

    def load_reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack[-1]
        if not isinstance(name, str) or name not in STAND_INS:
            raise pickle.UnpicklingError(f"the name {name}")
        self.stack[-1] = STAND_INS[name](*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        _set_state(self.stack[-1], state)

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    del dispatch[pickle.BYTEARRAY8[0]]  # makes room for as many bytes as it is told, which may be all memory

    def load(self) -> Any:
        value = super().load()
        self.empty(value)
        return value

    def grown(self) -> None:
        """After something was added to a list or dictionary: when it is the one that holds all."""
        if len(self.stack) == 1 and not self.metastack and len(self.stack[0]) >= ENTRIES:
            self.empty(self.stack[0])

    def empty(self, value: Any) -> None:
        """Put on disk what is in a list or dictionary that holds all, and what the file may come back to."""
        if type(value) is self._top:
            found: list[Any] = list(value.items()) if isinstance(value, dict) else list(value)
            value.clear()
            self.entries.extend([self._plain(one) for one in found])
            self.memo.settle()

    def _plain(self, value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode("latin-1")
        if type(value) not in CHANGED:
            return value
        self._left -= len(value)
        if self._left < 0:
            raise pickle.UnpicklingError("values that are repeated millions of times")
        if isinstance(value, dict):
            return {key if isinstance(key, str) else str(key): self._plain(item) for key, item in value.items()}
        found = [self._plain(item) if type(item) in CHANGED else item for item in value]
        return sorted(found) if isinstance(value, set | frozenset) else found


def _with_growth(load: Callable[[_Unpickler], None]) -> Callable[[_Unpickler], None]:
    def loaded(unpickler: _Unpickler) -> None:
        load(unpickler)
        unpickler.grown()

    return loaded


for code in (pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS):
    _Unpickler.dispatch[code[0]] = _with_growth(Base.dispatch[code[0]])


def read(path: Path, top: type[list[Any] | dict[Any, Any]], expected: str) -> Entries:
    """The list or dictionary (`top`) of a file.

    Raises BadDataset for another (saying what was `expected`), and for a file that holds or does anything else than data, is
    larger than 512 MiB, or is cut off; DiskFull when there is no room for what is put aside.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise broken(path, f"{size} bytes", f"at most {MAX_BYTES} bytes")
    try:
        with path.open("rb") as file:
            unpickler = _Unpickler(file, size, top)
            value = unpickler.load()
    except WinnowError:
        raise
    except Exception as error:  # a hostile pickle can make the reader stumble in any way
        raise broken(path, f"not readable: {error!s:.120}", DATA) from error
    if type(value) is not top:
        raise broken(path, f"a {type(value).__name__} at the top", expected)
    return unpickler.entries


# Writing


class Writer:
    """A dictionary, written entry by entry: the same values give the same bytes, whichever objects hold them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._file.write(pickle.PROTO + bytes([PROTOCOL]) + pickle.EMPTY_DICT)

    def add(self, key: Any, value: Any) -> None:
        self._file.write(_body(key) + _body(value) + pickle.SETITEM)

    def end(self) -> None:
        self._file.write(pickle.STOP)


PROTOCOL = 3  # the last one without frames


def _body(value: Any) -> bytes:
    """A value without what begins and ends a pickle."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, PROTOCOL)
    pickler.fast = True  # no references to objects met before
    pickler.dump(value)
    return buffer.getvalue()[2:-1]

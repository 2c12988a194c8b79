"""Pickles of old data sets, read as data: no class and no function of the file is ever looked up.

Built-in values need none. Arrays and scalars of NumPy, which some files hold, are rebuilt here from their bytes as
lists and numbers; every other name is refused before anything runs.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from db.errors import BadDataset
from db.records import Fault

MAX_BYTES = 512 * 2**20
NUMPY = {"numpy.core.multiarray", "numpy._core.multiarray", "numpy"}
KINDS = "biuf"  # of numbers: truth values, whole and floating ones


class _Type:
    """Stands for numpy.dtype: a kind and a width in bytes, in one of two byte orders."""

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or name[:1] not in KINDS or name[1:] not in ("1", "2", "4", "8"):
            raise pickle.UnpicklingError(f"an array of the type {name!r:.40}")
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def values(self, data: object, count: int) -> np.ndarray[Any, Any]:
        given = data.encode("latin-1") if isinstance(data, str) else data  # protocol 2 holds bytes as text
        if not isinstance(given, bytes) or len(given) != count * int(self.name[1:]):
            raise pickle.UnpicklingError("an array whose bytes do not fit its shape")
        return np.frombuffer(given, dtype=np.dtype(self.order + self.name))


class _Array(list[Any]):
    """Stands for numpy.ndarray, as nested lists."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Type) or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array of another kind than numbers")
        values = kind.values(data, math.prod(shape))
        self[:] = np.reshape(values, shape, order="F" if fortran else "C").tolist() if shape else [values[0].item()]


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(kind: object, data: object) -> Any:
    if not isinstance(kind, _Type):
        raise pickle.UnpicklingError("a scalar of another kind than numbers")
    return kind.values(data, 1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """Stands for `codecs.encode`, by which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r:.40}")
    return text.encode("latin-1")


STAND_INS: dict[str, Any] = {"_reconstruct": _reconstruct, "scalar": _scalar, "ndarray": _Array, "dtype": _Type}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in NUMPY and name in STAND_INS:
            return STAND_INS[name]
        if module in ("builtins", "__builtin__") and name == "set":
            return set
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"the name {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference out of the file")


def load(path: Path) -> Any:
    """The lists, dictionaries, texts and numbers of a pickle, tuples as they are. Raises BadDataset for a file that holds
    or does anything else, is larger than 512 MiB, or is cut off."""
    expected = "a pickle of nothing but lists, dictionaries, texts, numbers and arrays of numbers"
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise BadDataset(
            [Fault(file=str(path), item="the whole file", seen=f"{size} bytes", expected="at most 512 MiB")]
        )
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    except Exception as error:  # a hostile pickle can make the reader stumble in any way
        fault = Fault(file=str(path), item="the whole file", seen=f"not readable: {error!s:.120}", expected=expected)
        raise BadDataset([fault]) from error


def dumped(value: Any) -> bytes:
    """A pickle of built-in values: the same values give the same bytes, whichever objects hold them."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True  # no references to objects met before
    pickler.dump(value)
    return buffer.getvalue()

"""Pickles as data: nothing of them is run, little of them is in memory, and what they hold is what Python would read."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.errors import BadDataset
from db.formats import pickles

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def little_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "ENTRIES", 3)
    monkeypatch.setattr(pickles, "TOGETHER", 2)
    monkeypatch.setattr(pickles, "REPEATED", 100_000)


class Hostile:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("hacked",))


@pytest.mark.parametrize(
    "data", [pickle.dumps([Hostile()]), pickle.dumps(len), b"", b"\x80\x04X\xff", b"cos\nsystem\n."]
)
def test_a_pickle_that_is_more_than_data_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.p").write_bytes(data)
    with pytest.raises(BadDataset, match=r"a\.p"):
        pickles.read(tmp_path / "a.p", list, "a list")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_and_scalars_of_a_pickle_are_plain_values(tmp_path: Path, protocol: int) -> None:
    value = {"a": np.arange(6, dtype=">i4").reshape(2, 3).T, "b": np.float32(2.5), "c": b"\xff", "d": (np.bool_(True),)}
    (tmp_path / "a.p").write_bytes(pickle.dumps(value, protocol=protocol))
    found = dict(pickles.read(tmp_path / "a.p", dict, "a dictionary"))
    assert found == {"a": [[0, 3], [1, 4], [2, 5]], "b": 2.5, "c": "\xff", "d": [True]}


texts = st.text(max_size=3)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
shared = st.shared(st.lists(st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=4), max_size=3))
values = st.recursive(
    leaves | shared, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
protocols = st.integers(0, pickle.HIGHEST_PROTOCOL)


def in_batches(value: Any, protocol: int, fast: bool) -> bytes:
    """As Python writes a pickle, but of two entries at once instead of a thousand."""
    file = io.BytesIO()
    pickler = pickle._Pickler(file, protocol=protocol)  # type: ignore[attr-defined]
    pickler._BATCHSIZE, pickler.fast = 2, fast
    pickler.dump(value)
    return file.getvalue()


@quick
@given(
    st.lists(values, max_size=12) | st.dictionaries(st.integers() | texts, values, max_size=12),
    protocols,
    st.booleans(),
)
def test_a_pickle_holds_what_python_reads(tmp_path: Path, value: Any, protocol: int, fast: bool) -> None:
    path = tmp_path / "a.p"
    path.write_bytes(in_batches(value, protocol, fast))
    found = pickles.read(path, type(value), "the same")
    expected = [list(pair) for pair in value.items()] if isinstance(value, dict) else value
    assert list(found) == list(found) == expected


@pytest.mark.parametrize("protocol", range(6))
def test_what_was_built_long_ago_can_be_referred_to(tmp_path: Path, protocol: int) -> None:
    text, numbers = "a text that comes again", [1, 2, [3]]
    value = [
        {"number": i, "own": f"text {i}", "said": text, "of": numbers if i % 50 == 49 else [i]} for i in range(200)
    ]
    (tmp_path / "a.p").write_bytes(in_batches(value, protocol, fast=False))
    assert list(pickles.read(tmp_path / "a.p", list, "a list")) == value


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_that_came_long_ago_too(tmp_path: Path, protocol: int) -> None:
    value = [{"box": np.arange(4.0) + i, "crowd": np.int64(i)} for i in range(20)]
    (tmp_path / "a.p").write_bytes(in_batches(value, protocol, fast=False))
    found = list(pickles.read(tmp_path / "a.p", list, "a list"))
    assert found == [{"box": [i, i + 1, i + 2, i + 3], "crowd": i} for i in range(20)]


def test_an_array_of_nothing_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.p").write_bytes(pickle.dumps([np.empty((10**9, 0)), np.empty((0, 4))], protocol=4))
    assert list(pickles.read(tmp_path / "a.p", list, "a list")) == [[], []]


def doubled(depth: int) -> list[Any]:
    value: list[Any] = ["x"]
    for _ in range(depth):
        value = [value, value]
    return value


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return [value]


def deep() -> bytes:
    return b"]" * 10**6 + b"a" * (10**6 - 1) + b"."


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (pickle.dumps(doubled(60)), "repeated millions of times"),
        (pickle.dumps(cycle()), "recursion"),
        (deep(), "recursion|nested"),
        (b"\x80\x04\x8d" + (2**40).to_bytes(8, "little"), "not readable"),
        (b"\x80\x05\x96" + (2**36).to_bytes(8, "little"), "not readable"),
        (b"]q\x00(h\x07e.", "Memo value not found at index 7"),
        (b"]r\xff\xff\xff\x7fa.", "not readable"),
        (pickle.dumps([1] * 99)[:-9], "not readable"),
        (pickle.dumps({1: 2}), "a dict at the top"),
        (pickle.dumps(([],)), "a tuple at the top"),
    ],
)
def test_a_pickle_that_is_made_to_hurt_is_refused(tmp_path: Path, data: bytes, seen: str) -> None:
    (tmp_path / "a.p").write_bytes(data)
    with pytest.raises(BadDataset, match=seen):
        pickles.read(tmp_path / "a.p", list, "a list")


def test_a_written_dictionary_is_one_for_python(tmp_path: Path) -> None:
    value = {"a": [1, None, 2.5, True], 7: {"b": b"\xff", "c": "\U0001f600" * 300}}
    with (tmp_path / "a.pkl").open("wb") as file:
        writer = pickles.Writer(file)
        for key, one in value.items():
            writer.add(key, one)
        writer.end()
    assert pickle.loads((tmp_path / "a.pkl").read_bytes()) == value  # noqa: S301 (our own)

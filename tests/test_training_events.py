"""The files for TensorBoard: check sums by their published vectors, records by a reader that knows only the format."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from engine.training.events import EventFile, crc32c


@pytest.mark.parametrize(
    ("data", "check"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
    ids=["nothing", "digits", "zeros of RFC 3720", "ones of RFC 3720"],
)
def test_the_check_sum_is_that_of_castagnoli(data: bytes, check: int) -> None:
    assert crc32c(data) == check


def fields(data: bytes) -> list[tuple[int, Any]]:
    """(number, value) of the fields of a protocol buffer; texts and messages stay bytes."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            value: Any = varint()
        elif key & 7 == 2:
            size = varint()
            value, at = data[at : at + size], at + size
        else:
            kind, size = {1: ("<d", 8), 5: ("<f", 4)}[key & 7]
            (value,), at = struct.unpack(kind, data[at : at + size]), at + size
        found.append((key >> 3, value))
    return found


def events(data: bytes) -> list[dict[int, Any]]:
    found = []
    while data:
        size, check = struct.unpack("<QI", data[:12])
        event, own = data[12 : 12 + size], struct.unpack("<I", data[12 + size : 16 + size])[0]
        for part, masked in ((data[:8], check), (event, own)):
            turned = (masked - 0xA282EAD8) & 0xFFFFFFFF
            assert crc32c(part) == (turned >> 17 | turned << 15) & 0xFFFFFFFF
        found.append(dict(fields(event)))
        data = data[16 + size :]
    return found


def test_curves_are_read_back(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "run-1")
    assert not (tmp_path / "run-1").exists(), "nothing is made before there is a point"
    file.add(10, {"loss": 1.5, "lr": 0.25})
    file.add(300, {"mAP": 0.5})
    (path,) = (tmp_path / "run-1").iterdir()
    head, first, second = events(path.read_bytes())
    assert "tfevents" in path.name and head[3] == b"brain.Event:2"
    assert (first[2], second[2]) == (10, 300)
    values = [dict(fields(value)) for number, value in fields(first[5]) if number == 1]
    assert values == [{1: b"loss", 2: 1.5}, {1: b"lr", 2: 0.25}]


def test_a_resumed_training_writes_a_second_file(tmp_path: Path) -> None:
    for step in (1, 2):
        EventFile(tmp_path).add(step, {"loss": 1.0})
    assert len(list(tmp_path.iterdir())) == 2

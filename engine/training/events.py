"""The curves of a training as files that TensorBoard reads.

A file is a row of records, each with its length and two check sums (TFRecord); a record is a protocol buffer `Event` of
TensorFlow: 1 wall_time (double), 2 step (varint), 3 file_version (text), 5 summary, whose 1 is a value with 1 tag (text)
and 2 simple_value (float). So little of it is needed that the library would be more than the format.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

POLYNOMIAL = 0x82F63B78  # of CRC-32C, reflected


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


TABLE = _table()


def crc32c(data: bytes) -> int:
    """The Castagnoli check sum."""
    check = 0xFFFFFFFF
    for byte in data:
        check = TABLE[(check ^ byte) & 0xFF] ^ (check >> 8)
    return check ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """The data as a TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    check = crc32c(data)
    return struct.pack("<I", ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF)


class EventFile:
    """Appends to a new file in `folder`, which is made with the first point; TensorBoard joins the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """The values of curves at a step."""
        if self._path is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path = self._folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}.winnow"
            self._append(_double(1, time.time()) + _bytes(3, b"brain.Event:2"))
        shown = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in values.items())
        self._append(_double(1, time.time()) + _number(2, step) + _bytes(5, shown))

    def _append(self, event: bytes) -> None:
        assert self._path is not None
        with self._path.open("ab") as file:
            file.write(record(event))


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)

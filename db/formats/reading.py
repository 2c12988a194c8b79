"""What the readers share: JSON files, and the sizes of images that no annotation tells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image as Picture

from db.errors import BadDataset
from db.formats.checks import SUFFIXES, UNDECODABLE, Faults, check_size, locate, short
from db.records import Fault


def load_json(path: Path, expected: str) -> Any:
    """The value of a whole JSON file. Raises BadDataset where it is none, saying what was `expected`."""
    data = path.read_bytes()
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # Python's own reader takes NaN and large numbers, so that what holds them can be named
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise broken(path, f"not readable as JSON: {error}", expected) from error


def broken(path: Path, seen: str, expected: str) -> BadDataset:
    """The error for a file of which nothing can be read."""
    return BadDataset([Fault(file=str(path), item="the whole file", seen=seen, expected=expected)])


def entries(faults: Faults, value: Any, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a list with a name for each, such as "annotation #3"; what is no object becomes a fault."""
    if not isinstance(value, list):
        faults.add(f"{kind}s", short(value), "a list")
        return []
    return [(f"{kind} #{number}", item) for number, item in objects(faults, value, kind)]


def objects(faults: Faults, items: Iterable[Any], kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list, which may be longer than memory, with their places; what is no object becomes a fault."""
    for number, item in enumerate(items):
        if isinstance(item, dict):
            yield number, item
        else:
            faults.add(f"{kind} #{number}", short(item), "an object")


def picture_size(faults: Faults, item: str, roots: list[Path], name: str) -> tuple[int, int] | None:
    """Width and height by the header of an image in the first of `roots` that has it; a fault and None without one."""
    root = next((root for root in roots if (root / name).is_file()), roots[0])
    found = locate(faults, item, root, name)
    if found is None:
        return None
    try:
        with Picture.open(found, formats=tuple(SUFFIXES)) as picture:
            width, height = picture.size
    except UNDECODABLE as error:
        faults.add(item, f"{name} cannot be decoded ({short(error)})", "an intact JPEG, PNG or WebP image")
        return None
    return (width, height) if check_size(faults, item, width, height) else None


def without(raw: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The fields that a reader has no use for, kept to be written again."""
    return {key: value for key, value in raw.items() if key not in known}

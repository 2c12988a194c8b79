"""Small XML files as plain lists: what the annotations of VOC and of Flickr30k Entities have in common.

Corners are 1-based and inclusive in the files: `x1 = xmin - 1` and `x2 = xmax`, so that a box covers whole pixels.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from db.formats.checks import Faults
from db.records import XYXY

CORNERS = ("xmin", "ymin", "xmax", "ymax")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
Tag = list[Any]  # [name, text or list of tags] and, where the element has attributes, a dictionary of them


def parse(path: Path, faults: Faults) -> tuple[list[Tag], dict[str, str]] | None:
    """The tags and the attributes of the root. Document types and entities are refused: they can read files and fill
    the memory."""
    data = path.read_bytes()
    if b"\0" in data:  # another encoding could hide a declaration from the next test
        faults.add("the whole file", "a zero byte", "XML in UTF-8")
        return None
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        faults.add("the whole file", "a document type or entity declaration", "plain XML")
        return None
    try:
        root = ElementTree.fromstring(data)
        return _tags(root), dict(root.attrib)
    except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError, RecursionError) as error:
        faults.add("the whole file", f"not readable as XML: {error}", "a complete <annotation>")
        return None


def _tags(element: ElementTree.Element) -> list[Tag]:
    return [
        [
            child.tag,
            _tags(child) if len(child) else (child.text or "").strip(),
            *([child.attrib] if child.attrib else []),
        ]
        for child in element
    ]


def fill(parent: ElementTree.Element, tags: list[Tag]) -> None:
    """Append tags to an element; the inverse of what `parse` gives."""
    for name, value, *attributes in tags:
        child = ElementTree.SubElement(parent, name, *attributes)
        if isinstance(value, list):
            fill(child, value)
        else:
            child.text = value


def first(tags: list[Tag], name: str) -> Any:
    """The text or tags of the first tag of a name, None without one."""
    return next((tag[1] for tag in tags if tag[0] == name), None)


def texts(tags: Any) -> dict[str, Any]:
    """Texts by name, of tags that have each name once."""
    return {tag[0]: tag[1] for tag in tags} if isinstance(tags, list) else {}


def corners(bndbox: Any) -> XYXY | None:
    """The box of <bndbox>, None when a corner is missing, doubled or no number."""
    values = texts(bndbox)
    numbers = [_number(values.get(corner)) for corner in CORNERS]
    if None in numbers or len(values) != len(bndbox):
        return None
    xmin, ymin, xmax, ymax = (number for number in numbers if number is not None)
    return (xmin - 1, ymin - 1, xmax, ymax)


def bndbox(xyxy: XYXY) -> list[Tag]:
    """The corners of a box as tags."""
    x1, y1, x2, y2 = xyxy
    return [[name, _text(value)] for name, value in zip(CORNERS, (x1 + 1, y1 + 1, x2, y2), strict=True)]


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _number(text: object) -> float | None:
    return float(text) if isinstance(text, str) and NUMBER.fullmatch(text) else None


def whole(text: object) -> int | None:
    """A whole number, None for any other text."""
    value = _number(text)
    return int(value) if value is not None and value.is_integer() else None

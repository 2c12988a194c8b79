"""What every format checks alike: faults are collected, never repaired, and the good items go on."""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeGuard

from PIL import ExifTags
from PIL import Image as Picture

from db.errors import WinnowError
from db.limited import Limited
from db.records import XYXY, Fault, Image

Progress = Callable[[int, int], None]
UNDECODABLE = (  # what the decoders raise when a hostile file makes them stumble
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error, Picture.DecompressionBombError),
)
SUFFIXES = {"JPEG": {".jpg", ".jpeg"}, "PNG": {".png"}, "WEBP": {".webp"}}
MAX_PIXELS = 64_000_000
ORIENTATION = ExifTags.Base.Orientation
PLAIN = re.compile(r"[\w][\w./ -]*")  # names that are relative on every system
SPLIT = re.compile(r"[\w][\w .+()-]{0,99}")
SURROGATE = re.compile("[\ud800-\udfff]")
SLACK = 0.5  # pixels a box may stand out of its image: annotation tools round
DECODER = Limited("db.formats.checks", "look")  # a hostile image must not end whoever imports it
LARGEST = 1e15  # of a coordinate or area: above, a double no longer tells neighbouring tenths apart
WHOLE = 2**63  # ids and other whole numbers are stored in 64 bits
DEPTH = 64  # of nested lists and objects in unknown fields


class Faults(list[Fault]):
    """The faults of one file."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def add(self, item: str, seen: str, expected: str) -> None:
        told = {"file": self.file, "item": item, "seen": seen, "expected": expected}
        self.append(Fault(**{key: _storable(text) for key, text in told.items()}))


def _storable(text: str) -> str:
    """The text with escapes for what no database keeps: a key or a file name may have halves of surrogate pairs, or a NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def is_number(value: object) -> bool:
    """A finite JSON number; true and false are none, and neither is one too large to calculate with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_whole(value: object) -> bool:
    """A whole JSON number of at most 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -WHOLE <= value < WHOLE


def is_text(value: object) -> TypeGuard[str]:
    """A string that can be stored: half a surrogate pair cannot be encoded, and no database keeps a NUL within a text."""
    return isinstance(value, str) and "\0" not in value and is_encodable(value)


def is_encodable(text: str) -> bool:
    """Whether a text has no half of a surrogate pair."""
    return text.isascii() or not SURROGATE.search(text)


def _are_plain(values: Iterable[object], *, lists: bool = False) -> bool:
    """Whether all values are short work: ASCII texts, whole numbers of 64 bits, None; or lists of these, where `lists` may be."""
    for value in values:
        if type(value) is str:
            if not value.isascii():
                return False
        elif type(value) is int:
            if not -WHOLE <= value < WHOLE:
                return False
        elif type(value) is list and lists:
            if not _are_plain(value):
                return False
        elif value is not None:
            return False
    return True


def unstorable(value: object) -> str | None:
    """What in a JSON value would be lost or changed when it is stored and written again; None when nothing would.

    NaN and infinity are no JSON, whole numbers beyond 64 bits and half surrogate pairs have no place in a database.
    """
    if isinstance(value, dict) and _are_plain(value) and _are_plain(value.values(), lists=True):
        return None  # the common case, in few steps
    pending: list[tuple[object, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > DEPTH:
            return f"lists or objects nested more than {DEPTH} deep"
        if isinstance(item, dict):
            pending += ((part, depth + 1) for pair in item.items() for part in pair)
        elif isinstance(item, list | tuple):
            pending += ((part, depth + 1) for part in item)
        elif isinstance(item, str) and not is_encodable(item):
            return f"the text {item!r:.80} with half a surrogate pair"
        elif isinstance(item, float) and not math.isfinite(item):
            return f"the number {item}"
        elif isinstance(item, int) and not -WHOLE <= item < WHOLE:
            return "a whole number of more than 64 bits"
    return None


def check_storable(faults: Faults, item: str, value: object) -> bool:
    seen = unstorable(value)
    if seen is not None:
        faults.add(item, seen, "finite numbers of at most 64 bits and complete characters")
    return seen is None


def short(value: object) -> str:
    """A value for a fault: never longer than 120 characters."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def check_box(faults: Faults, item: str, xyxy: XYXY, image: Image) -> bool:
    """Whether the box is finite, has a positive size and lies inside its image."""
    x1, y1, x2, y2 = xyxy
    if not all(map(is_number, xyxy)):
        faults.add(item, f"box {short(list(xyxy))}", "finite numbers")
    elif x2 <= x1 or y2 <= y1:
        faults.add(item, f"a box {x2 - x1:g} wide and {y2 - y1:g} high", "a positive width and height")
    elif x1 < -SLACK or y1 < -SLACK or x2 > image.width + SLACK or y2 > image.height + SLACK:
        seen = f"box from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
        faults.add(item, seen, f"a box inside its image, which is {image.width} x {image.height}")
    else:
        return True
    return False


def _is_side(value: object) -> bool:
    return type(value) is int and 0 < value <= 65_535


def check_size(faults: Faults, item: str, width: object, height: object) -> bool:
    if _is_side(width) and _is_side(height):
        return True
    faults.add(item, f"size {width!r} x {height!r}", "a width and height in whole pixels, 1 to 65535")
    return False


def climbs(name: str) -> bool:
    """Whether a file name leads out of the folder it is relative to, on any system."""
    if ".." not in name and PLAIN.fullmatch(name):
        return False
    windows = PureWindowsPath(name)
    parts = set(PurePosixPath(name).parts) | set(windows.parts)
    return not name or "\0" in name or ".." in parts or name.startswith(("/", "\\")) or bool(windows.drive)


def is_split(value: object) -> bool:
    """Whether a text can be the name of a split, which becomes that of a file."""
    return isinstance(value, str) and SPLIT.fullmatch(value) is not None


def is_file(path: Path) -> bool:
    """Like `Path.is_file`, and False as well for a name that the file system refuses."""
    try:
        return path.is_file()
    except OSError:  # too long
        return False


def locate(faults: Faults, item: str, root: Path, name: str) -> Path | None:
    """The image file, if its name stays inside `root` (symbolic links followed) and it is there."""
    if climbs(name):
        faults.add(item, f"file name {name!r}", "a path inside the folder of the images")
        return None
    path = root / name
    if not is_file(path):
        faults.add(item, f"no file {path}", "an image file; or import the annotations only")
        return None
    if not path.resolve().is_relative_to(root.resolve()):
        faults.add(item, f"{name!r} is a link out of the folder", "a path inside the folder of the images")
        return None
    return path


def look(path: str) -> tuple[str, int, int, bool]:
    """Format, width and height of an image that was decoded to its end, unless it is too large, and whether its EXIF data
    ask for a rotation. Raises WinnowError when it cannot be decoded. Meant for a limited child."""
    try:
        with Picture.open(path, formats=tuple(SUFFIXES)) as picture:
            kind, (width, height) = picture.format or "", picture.size
            if width * height > MAX_PIXELS:
                return kind, width, height, False
            picture.draft("L", (width // 8, height // 8))  # a JPEG is read to its end, but not put together in full
            picture.load()
            rotated = picture.getexif().get(ORIENTATION) in (5, 6, 7, 8)
        if kind == "PNG":  # whose pixels may all be there though the file is cut short, which other decoders mind
            with Picture.open(path, formats=("PNG",)) as whole:
                whole.verify()
        return kind, width, height, rotated
    except UNDECODABLE as error:
        raise WinnowError(short(error)) from error


def check_picture(faults: Faults, item: str, path: Path, width: int, height: int) -> bool:
    """Decode the whole file: it must be what its suffix says, intact, and of the size that is annotated.

    Sizes are those of the stored pixels: a rotation noted in the EXIF data is not applied.
    """
    try:
        kind, width_there, height_there, rotated = DECODER.ask(str(path))
    except WinnowError as error:
        faults.add(item, f"{path.name} cannot be decoded ({error})", "an intact JPEG, PNG or WebP image")
        return False
    size = (width_there, height_there)
    if size[0] * size[1] > MAX_PIXELS:
        faults.add(item, f"{path.name} has {size[0]} x {size[1]} pixels", "at most 64 megapixels")
        return False
    if path.suffix.lower() not in SUFFIXES[kind]:
        faults.add(item, f"{path.name} holds a {kind} image", f"the suffix {' or '.join(sorted(SUFFIXES[kind]))}")
    elif size != (width, height):
        why = ", and its EXIF data ask for a rotation" if rotated else ""
        faults.add(item, f"{path.name} is {size[0]} x {size[1]}{why}", f"{width} x {height}, as annotated")
    else:
        return True
    return False

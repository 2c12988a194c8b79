"""What every format checks alike: faults are collected, never repaired, and the good items go on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image as Picture
from PIL import UnidentifiedImageError

from db.records import XYXY, Fault, Image

Progress = Callable[[int, int], None]
SUFFIXES = {"JPEG": {".jpg", ".jpeg"}, "PNG": {".png"}, "WEBP": {".webp"}}
MAX_PIXELS = 64_000_000
PLAIN = re.compile(r"[\w][\w./ -]*")  # names that are relative on every system
SLACK = 0.5  # pixels a box may stand out of its image: annotation tools round


class Faults(list[Fault]):
    """The faults of one file."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def add(self, item: str, seen: str, expected: str) -> None:
        self.append(Fault(file=self.file, item=item, seen=seen, expected=expected))


def is_number(value: object) -> bool:
    """A finite JSON number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_box(faults: Faults, item: str, xyxy: XYXY, image: Image) -> bool:
    """Whether the box is finite, has a positive size and lies inside its image."""
    x1, y1, x2, y2 = xyxy
    if not all(map(math.isfinite, xyxy)):
        faults.add(item, f"box {list(xyxy)}", "finite numbers")
    elif x2 <= x1 or y2 <= y1:
        faults.add(item, f"a box {x2 - x1:g} wide and {y2 - y1:g} high", "a positive width and height")
    elif x1 < -SLACK or y1 < -SLACK or x2 > image.width + SLACK or y2 > image.height + SLACK:
        seen = f"box from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
        faults.add(item, seen, f"a box inside its image, which is {image.width} x {image.height}")
    else:
        return True
    return False


def check_size(faults: Faults, item: str, width: object, height: object) -> bool:
    if all(isinstance(v, int) and not isinstance(v, bool) and 0 < v <= 65_535 for v in (width, height)):
        return True
    faults.add(item, f"size {width!r} x {height!r}", "a width and height in whole pixels, 1 to 65535")
    return False


def climbs(name: str) -> bool:
    """Whether a file name leads out of the folder it is relative to, on any system."""
    if PLAIN.fullmatch(name) and ".." not in name:
        return False
    windows = PureWindowsPath(name)
    parts = set(PurePosixPath(name).parts) | set(windows.parts)
    return not name or "\0" in name or ".." in parts or name.startswith(("/", "\\")) or bool(windows.drive)


def locate(faults: Faults, item: str, root: Path, name: str) -> Path | None:
    """The image file, if its name stays inside `root` (symbolic links followed) and it is there."""
    if climbs(name):
        faults.add(item, f"file name {name!r}", "a path inside the folder of the images")
        return None
    path = root / name
    if not path.is_file():
        faults.add(item, f"no file {path}", "an image file; or import the annotations only")
        return None
    if not path.resolve().is_relative_to(root.resolve()):
        faults.add(item, f"{name!r} is a link out of the folder", "a path inside the folder of the images")
        return None
    return path


def check_picture(faults: Faults, item: str, path: Path, width: int, height: int) -> bool:
    """Decode the whole file: it must be what its suffix says, intact, and of the size that is annotated."""
    try:
        with Picture.open(path, formats=tuple(SUFFIXES)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                faults.add(item, f"{path.name} has {picture.width} x {picture.height} pixels", "at most 64 megapixels")
                return False
            kind, size = picture.format or "", picture.size
            picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Picture.DecompressionBombError) as error:
        faults.add(item, f"{path.name} cannot be decoded ({error})", "an intact JPEG, PNG or WebP image")
        return False
    if path.suffix.lower() not in SUFFIXES[kind]:
        faults.add(item, f"{path.name} holds a {kind} image", f"the suffix {' or '.join(sorted(SUFFIXES[kind]))}")
    elif size != (width, height):
        faults.add(item, f"{path.name} is {size[0]} x {size[1]}", f"{width} x {height}, as annotated")
    else:
        return True
    return False

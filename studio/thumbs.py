"""Thumbnails: made when first asked for, kept on disk, named by content and size."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from db.blobs import Blobs
from db.errors import WinnowError
from db.limited import Limited

SIZES = (80, 160, 320)
MAX_PIXELS = 64_000_000
QUALITY = 85
REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


DECODER = Limited("studio.thumbs", "in_child")  # a hostile image must not end the web server


class Thumbs:
    """A folder of small JPEGs beside the blobs. Deleting it costs nothing but time."""

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self._blobs, self._folder = blobs, folder

    def path(self, digest: str, size: int) -> Path:
        """The thumbnail whose longer side is `size` pixels. Raises WinnowError when the blob is no readable image."""
        target = self._folder / digest[:2] / f"{digest}-{size}.jpg"
        if not target.is_file():
            _write(target, DECODER.ask([str(self._blobs.path(digest)), size]))
        return target


def in_child(order: list[Any]) -> bytes:
    """`shrunk`, as a limited child is asked for it: [path, size]."""
    path, size = order
    return shrunk(Path(path), size)


def shrunk(source: Path, size: int) -> bytes:
    """A JPEG of the image, fitted into `size` x `size`, never enlarged. Pixels as stored: no turning by EXIF.

    A JPEG is decoded at a half, a quarter or an eighth where that is still large enough, which is three times as fast.
    """
    width, height = _size(source)
    factor = max((f for f in REDUCED if max(width, height) >= f * size and min(width, height) >= f), default=1)
    flags = REDUCED.get(factor, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(source.read_bytes(), np.uint8), flags)
    if pixels is None:
        raise WinnowError(f"The image {source.name[:12]} cannot be decoded; import it again from an intact file.")
    scale = min(size / max(pixels.shape[:2]), 1.0)
    fitted = tuple(max(round(side * scale), 1) for side in pixels.shape[1::-1])
    small = cv2.resize(pixels, fitted, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _size(source: Path) -> tuple[int, int]:
    try:
        with Image.open(source, formats=("JPEG", "PNG", "WEBP")) as picture:
            width, height = picture.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise WinnowError(f"{source.name[:12]} is no JPEG, PNG or WebP image: {error}") from error
    if width * height > MAX_PIXELS:
        raise WinnowError(f"The image {source.name[:12]} has {width} x {height} pixels; the limit is {MAX_PIXELS}.")
    return width, height


def _write(target: Path, data: bytes) -> None:
    """Whole or absent, also when two requests make the same thumbnail at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(temporary, target)

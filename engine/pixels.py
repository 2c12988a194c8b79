"""Images as arrays (HxWx3 uint8 RGB), rectangles on them, and the measures that several parts share."""

from __future__ import annotations

import cv2
import numpy as np

from db.errors import WinnowError
from db.records import XYXY

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels, x2 and y2 exclusive


def decode(data: bytes) -> np.ndarray:
    """An image file as HxWx3 uint8 RGB, pixels as stored (no turning by EXIF, since boxes refer to those).

    Raises WinnowError when the bytes are no image.
    """
    buffer = np.frombuffer(data, np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(buffer, flags) if buffer.size else None
    if pixels is None:
        raise WinnowError(
            f"{len(data)} bytes are no readable image (first bytes {data[:4].hex()}); expected JPEG, PNG or the like."
        )
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def encode_png(image: np.ndarray) -> bytes:
    """A lossless file of an HxWx3 uint8 RGB array: `decode(encode_png(x))` equals x."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise WinnowError(f"An image of shape {image.shape} could not be written as PNG.")
    return data.tobytes()


def rectangle(xyxy: XYXY, shape: tuple[int, ...], margin: float = 0.0) -> Rectangle:
    """The whole pixels that a box touches, `margin` pixels wider on each side, inside an image of `shape` (h, w, ...)."""
    height, width = shape[:2]
    x1, y1 = int(np.floor(xyxy[0] - margin)), int(np.floor(xyxy[1] - margin))
    x2, y2 = int(np.ceil(xyxy[2] + margin)), int(np.ceil(xyxy[3] + margin))
    return max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)


def crop(image: np.ndarray, area: Rectangle) -> np.ndarray:
    """A view of the pixels of a rectangle."""
    x1, y1, x2, y2 = area
    return image[y1:y2, x1:x2]


def gray(image: np.ndarray) -> np.ndarray:
    """Luma as float32, 0..255, of an RGB image."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def lab(image: np.ndarray) -> np.ndarray:
    """CIE L*a*b* as float32, L in 0..100, of an RGB image."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def laplacian(image: np.ndarray) -> np.ndarray:
    """The Laplacian of the luma; its variance is the usual measure of sharpness (Pech-Pacheco et al., 2000)."""
    return cv2.Laplacian(gray(image), cv2.CV_32F)

"""Heat maps of an evaluation by the pointing game: kept whole with the run, and drawn over their images.

A map says where a model looks to find that a phrase matches its image. The worker makes them; whoever shows them only reads.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import msgspec
import numpy as np

from db.errors import WinnowError
from db.records import Run
from db.store import Store
from engine.evaluation.pointing import enlarged, inside

Row = dict[str, Any]
FULL = 255  # a map is kept in bytes
IN_MEMORY = 4  # evaluations
RAMP = (
    (0.0, (0, 0, 0)),
    (0.35, (120, 28, 109)),
    (0.6, (237, 105, 37)),
    (0.85, (252, 255, 164)),
    (1.0, (255, 255, 255)),
)
"""Colours RGB of a map from 0 to 1, ever lighter, so that they can be told apart without colour, too."""
MOST_OPAQUE = 0.75


class Asked(msgspec.Struct, frozen=True):
    """A phrase that was asked of an image, where the model pointed, in pixels, and the boxes xywh that it names."""

    text: str
    image_id: int
    digest: str
    width: int
    height: int
    boxes: list[tuple[float, float, float, float]]
    point: tuple[float, float]

    @property
    def hit(self) -> bool | None:
        """Whether the point is strictly inside one of the boxes; None when nobody knows a box."""
        return inside(self.point, self.boxes) if self.boxes else None


class Heatmaps(msgspec.Struct, frozen=True, eq=False):
    """All maps of an evaluation, uint8 [n,rows,columns] from 0 to 255, and what was asked."""

    asked: list[Asked]
    maps: np.ndarray


def keep(store: Store, phrases: Sequence[Row], predictions: Sequence[Row], maps: Sequence[np.ndarray]) -> str:
    """The digest of a blob with the maps, float [rows,columns] in 0..1."""
    told = [{**row, "point": found["point"]} for row, found in zip(phrases, predictions, strict=True)]
    asked = msgspec.json.encode(msgspec.convert(told, list[Asked]))
    file = io.BytesIO()
    drawn = np.round(np.stack(maps) * FULL).astype(np.uint8)
    np.savez_compressed(file, maps=drawn, asked=np.frombuffer(asked, np.uint8))
    return store.blobs.put(file.getvalue())


def kept(store: Store, run: Run) -> Heatmaps:
    """The maps of a finished evaluation. Raises WinnowError for a run that has none."""
    digest = run.result.get("heatmaps")
    if digest is None:
        raise WinnowError(
            f"Run {run.id} has no heat maps: they come from the evaluation of a model that is taught where to look, such as "
            "the preset tiny_blip."
        )
    return _read(store, digest)


@lru_cache(maxsize=IN_MEMORY)
def _read(store: Store, digest: str) -> Heatmaps:
    with np.load(io.BytesIO(store.blobs.get(digest)), allow_pickle=False) as file:
        return Heatmaps(msgspec.json.decode(file["asked"].tobytes(), type=list[Asked]), file["maps"])


def tinted(heat: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """A map uint8 [rows,columns] as a layer over its image, uint8 [height,width,4] RGBA: clear where the model does not look."""
    level = enlarged(heat.astype(np.float32) / FULL, size_wh).clip(0, 1)
    at, colours = [stop for stop, _ in RAMP], np.array([colour for _, colour in RAMP], np.float32)
    layers = [np.interp(level, at, colours[:, channel]) for channel in range(3)]
    return np.stack([*layers, level * MOST_OPAQUE * FULL], -1).round().astype(np.uint8)


def png(picture: np.ndarray) -> bytes:
    """A picture RGB or RGBA uint8 as a PNG file."""
    turned = picture[..., [2, 1, 0, 3]] if picture.shape[2] == 4 else picture[..., ::-1]
    return cv2.imencode(".png", turned)[1].tobytes()


def over(image: np.ndarray, heat: np.ndarray, asked: Asked) -> np.ndarray:
    """The image RGB with the map over it, the boxes of the phrase, and the point: a diamond where it hits, a cross where it misses."""
    layer = tinted(heat, (image.shape[1], image.shape[0])).astype(np.float32)
    alpha = layer[..., 3:] / FULL
    drawn = np.ascontiguousarray((image * (1 - alpha) + layer[..., :3] * alpha).round().astype(np.uint8))
    thick = max(1, round(max(image.shape[:2]) / 200))
    for x, y, width, height in asked.boxes:
        cv2.rectangle(drawn, (round(x), round(y)), (round(x + width), round(y + height)), (40, 220, 90), thick)
    x, y = (round(value) for value in asked.point)
    marker = cv2.MARKER_TILTED_CROSS if asked.hit is False else cv2.MARKER_DIAMOND
    for colour, width in (((0, 0, 0), 2 * thick + 1), ((255, 255, 255), thick)):
        cv2.drawMarker(drawn, (x, y), colour, marker, 10 * thick, width)
    return drawn

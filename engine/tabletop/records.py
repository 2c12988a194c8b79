"""What is true of a scene. Boxes are absolute float xyxy in pixels, indices count from 0 in `Truth.objects`."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from db.errors import WinnowError

Box = tuple[float, float, float, float]
EDIT_TYPES = ("object", "colour", "pattern", "material", "size", "relation", "count")


class Mask(msgspec.Struct, frozen=True):
    """A binary mask as uncompressed COCO run lengths: column by column, beginning with a run of zeros."""

    size: tuple[int, int]  # height, width
    counts: list[int]

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> "Mask":
        """The run lengths of an H x W boolean array."""
        flat = np.asarray(mask, bool).ravel(order="F")
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(np.int8)))
        runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
        return cls((mask.shape[0], mask.shape[1]), runs.tolist())

    def array(self) -> NDArray[np.bool_]:
        """The mask as an H x W boolean array."""
        bits = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(bits, self.counts).reshape(self.size, order="F")


class TrueObject(msgspec.Struct, frozen=True):
    """One object. `box` and `mask` hold its visible pixels, `whole` the box it would have in full view."""

    kind: str
    colour: str
    pattern: str
    material: str
    size: str
    box: Box
    whole: Box
    mask: Mask
    area: int  # visible pixels
    hidden: float  # share of its silhouette that is covered or outside the picture, 0..1
    depth: int  # order of painting, 0 is farthest
    on: int | None  # the object it stands on
    covers: tuple[int, ...]  # the objects it visibly hides a part of


class Relation(msgspec.Struct, frozen=True):
    """The first object stands in the named relation to the second, beyond doubt."""

    subject: int
    name: str
    object: int


class Phrase(msgspec.Struct, frozen=True):
    """A part of the caption, `caption[start:end] == text`, and the objects it names."""

    text: str
    start: int
    end: int
    objects: tuple[int, ...]


class Statement(msgspec.Struct, frozen=True):
    """A description that is true of the scene, and the objects it names (those of its head noun)."""

    text: str
    objects: tuple[int, ...]


class FalseStatement(msgspec.Struct, frozen=True):
    """A description that is false by one edit of the true statement `source`; `objects` are those `source` names."""

    text: str
    edit_type: str  # one of EDIT_TYPES
    source: str
    changed_from: str
    changed_to: str
    objects: tuple[int, ...]


class Truth(msgspec.Struct, frozen=True):
    """Everything known about one scene; `paint(seed, index, difficulty)` paints it again."""

    seed: int
    index: int
    file_name: str
    width: int
    height: int
    surface: str
    objects: tuple[TrueObject, ...]
    relations: tuple[Relation, ...]
    caption: str
    phrases: tuple[Phrase, ...]
    true: tuple[Statement, ...]
    false: tuple[FalseStatement, ...]


class Scene(msgspec.Struct, frozen=True, eq=False):
    """A picture, H x W x 3 uint8 RGB, and its truth."""

    image: NDArray[np.uint8]
    truth: Truth


def truths(path: str | Path) -> Iterator[Truth]:
    """The truths of a `truth_*.jsonl` file, in order.

    Raises WinnowError naming the file and the line when one cannot be read.
    """
    decoder = msgspec.json.Decoder(Truth)
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise WinnowError(f"{path}, line {number}: not the truth of a Tabletop scene: {error}") from error

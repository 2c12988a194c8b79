"""What every evaluator starts from: true boxes and predicted boxes as arrays, read from records and checked as a whole.

A box belongs to an image and to a label; a label is a class, a sentence or a description, as the protocol has it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from db.errors import WinnowError

Row = Mapping[str, Any]
Name = Callable[[int], str]

SHOWN = 100


class BadBoxes(WinnowError):
    """Boxes that cannot be evaluated. `faults` has every one of them, the message the first hundred."""

    def __init__(self, what: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        shown = "\n  ".join(self.faults[:SHOWN])
        more = f"\n  ... and {len(self.faults) - SHOWN} more" if len(self.faults) > SHOWN else ""
        super().__init__(f"{len(self.faults)} {what} cannot be evaluated:\n  {shown}{more}")


class Space:
    """The images and the labels of a ground truth: where each id stands. Images are in ascending order of id, as the
    official tools rank equal scores; labels in the order given."""

    def __init__(self, images: Iterable[Hashable], labels: Iterable[Hashable], label_key: str = "category_id") -> None:
        """Raises WinnowError for an id given twice."""
        self.images: tuple[Any, ...] = tuple(sorted(images))  # type: ignore[type-var]  # ids of one kind compare
        self.labels: tuple[Any, ...] = tuple(labels)
        self.label_key = label_key
        self.image_at = {i: at for at, i in enumerate(self.images)}
        self.label_at = {i: at for at, i in enumerate(self.labels)}
        for what, ids, places in (("image", self.images, self.image_at), (label_key, self.labels, self.label_at)):
            if len(ids) != len(places):
                twice = sorted({str(i) for i in ids if ids.count(i) > 1})
                raise WinnowError(f"The truth has {what} ids more than once: {', '.join(twice[:20])}.")

    def pair(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """int64 [n], the number of each (image, label) pair."""
        return image * len(self.labels) + label

    def pairs(self, images: Iterable[Hashable], labels: Iterable[Hashable]) -> np.ndarray:
        """int64 [n], the pair numbers of two columns of known ids."""
        at = [(self.image_at[i], self.label_at[k]) for i, k in zip(images, labels, strict=True)]
        image, label = np.array(at, np.int64).reshape(-1, 2).T
        return self.pair(image, label)


@dataclass(frozen=True, eq=False)
class Truth:
    """`pair` int64 [m], `xywh` float64 [m,4] in pixels, `area` float64 [m] in square pixels.

    `ignore` bool [m]: found or not, it counts for nothing. `crowd` bool [m]: any number of predictions may match it, by
    the share of their own area that lies in it. `void` bool [m]: annotation id 0, which the official tools take for "no
    match": what matches it is false, and they count it as missed. Equal numbers need the same.
    """

    pair: np.ndarray
    xywh: np.ndarray
    area: np.ndarray
    ignore: np.ndarray
    crowd: np.ndarray
    void: np.ndarray

    def __len__(self) -> int:
        return len(self.pair)

    def __getitem__(self, chosen: np.ndarray) -> Truth:
        """The chosen rows, by boolean mask or index array."""
        columns = (self.pair, self.xywh, self.area, self.ignore, self.crowd, self.void)
        return Truth(*(column[chosen] for column in columns))


@dataclass(frozen=True, eq=False)
class Predictions:
    """`pair` int64 [n], `xywh` float64 [n,4] in pixels, `score` float64 [n], in the order they were given."""

    pair: np.ndarray
    xywh: np.ndarray
    score: np.ndarray

    @property
    def area(self) -> np.ndarray:
        """float64 [n], square pixels."""
        return self.xywh[:, 2] * self.xywh[:, 3]

    def __len__(self) -> int:
        return len(self.pair)

    def __getitem__(self, chosen: np.ndarray) -> Predictions:
        """The chosen rows, by boolean mask or index array."""
        return Predictions(self.pair[chosen], self.xywh[chosen], self.score[chosen])


def number_prediction(index: int) -> str:
    """How messages name the prediction at a place in its file."""
    return f"Prediction #{index}"


def read_document(source: Row | Path, *lists: str) -> Row:
    """The ground truth itself or read from its file. Raises WinnowError when it lacks one of the `lists`."""
    document = json.loads(source.read_bytes()) if isinstance(source, Path) else source
    missing = [key for key in lists if not isinstance(document, Mapping) or not _is_list(document.get(key))]
    if missing:
        name = f" {source}" if isinstance(source, Path) else ""
        raise WinnowError(f"The truth{name} lacks the list {' and the list '.join(missing)}.")
    return document


def read_predictions(rows: Sequence[Row], space: Space, name: Name = number_prediction) -> Predictions:
    """Records `image_id`, the space's label key, `bbox` xywh and `score`, as arrays.

    Raises BadBoxes that lists every record with a missing or unknown value, a number that is not finite, or a negative
    width or height.
    """
    pair, xywh, score = _columns(rows, space, "predictions", "score", name)
    return Predictions(pair, xywh, score)


def read_truth(rows: Sequence[Row], space: Space, *, crowds: bool, area: str | None = "area") -> Truth:
    """Records `image_id`, the space's label key, `bbox` xywh, an area and perhaps a flag, as arrays.

    With `crowds`, as in COCO, `iscrowd` boxes are crowds and exactly these are ignored; without, as in LVIS, `ignore`
    decides. `area` is the key of the area; None takes width times height. Raises BadBoxes like `read_predictions`.
    """
    name = partial(_name_annotation, rows)
    pair, xywh, sizes = _columns(rows, space, "annotations", area, name)
    if area is None:
        sizes = xywh[:, 2] * xywh[:, 3]
    flag = "iscrowd" if crowds else "ignore"
    ignore = np.array([bool(row.get(flag)) for row in rows], bool)
    void = np.array([row.get("id") == 0 for row in rows], bool)
    return Truth(pair, xywh, sizes, ignore, ignore if crowds else np.zeros(len(rows), bool), void)


def _name_annotation(rows: Sequence[Row], index: int) -> str:
    row = rows[index]
    return f"Annotation {row['id']!r}" if isinstance(row, Mapping) and "id" in row else f"Annotation #{index}"


def _columns(
    rows: Sequence[Row], space: Space, what: str, number: str | None, name: Name
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pair, the box and one more number (or 0) of each record: all at once, one by one only to say what is wrong."""
    if not rows:
        return np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0)
    try:
        pair = space.pairs([row["image_id"] for row in rows], [row[space.label_key] for row in rows])
        xywh, values = np.array([row["bbox"] for row in rows]), np.array([row[number] if number else 0 for row in rows])
    except (KeyError, TypeError, ValueError, IndexError):
        raise BadBoxes(what, _faults(rows, space, number, name)) from None
    numeric = xywh.dtype.kind in "iuf" and values.dtype.kind in "iuf"
    if not numeric or xywh.shape != (len(rows), 4) or values.shape != (len(rows),) or not _sound(xywh, values):
        raise BadBoxes(what, _faults(rows, space, number, name))
    return pair, xywh.astype(np.float64), values.astype(np.float64)


def _sound(xywh: np.ndarray, values: np.ndarray) -> bool:
    return bool(np.isfinite(xywh).all() and np.isfinite(values).all() and (xywh[:, 2:] >= 0).all())


def _faults(rows: Sequence[Row], space: Space, number: str | None, name: Name) -> list[str]:
    found = ((index, fault) for index, row in enumerate(rows) if (fault := _fault(row, space, number)))
    return [f"{name(index)} {fault}" for index, fault in found]


def _fault(row: Row, space: Space, number: str | None) -> str | None:
    if not isinstance(row, Mapping):
        return f"is {row!r}; right would be a record"
    missing = {"image_id", space.label_key, "bbox", number or "bbox"} - row.keys()
    if missing:
        return f"lacks {', '.join(sorted(missing))}"
    if not _known(row["image_id"], space.image_at):
        return f"is for image {row['image_id']!r}, which the truth does not have"
    label = row[space.label_key]
    if not _known(label, space.label_at):
        return f"is of {_spoken(space.label_key)} {label!r}; the truth has {list(space.labels[:20])}"
    if number and not _finite(row[number]):
        return f"has the {number} {row[number]!r}, which is not a finite number"
    return box_fault(row["bbox"])


def box_fault(bbox: Any) -> str | None:
    """What is wrong with a box xywh, or None."""
    if isinstance(bbox, str) or not hasattr(bbox, "__len__") or len(bbox) != 4 or not all(map(_finite, bbox)):
        return f"has the bbox {bbox!r}; right would be four finite numbers x, y, width, height"
    if min(bbox[2], bbox[3]) < 0:
        return f"has the bbox {bbox!r}, which is inside out: width and height cannot be negative"
    return None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _known(value: Any, places: Mapping[Any, int]) -> bool:
    return isinstance(value, Hashable) and value in places


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _spoken(label_key: str) -> str:
    return "class" if label_key == "category_id" else label_key.removesuffix("_id")

"""OmniLabel: one average precision over all pairs of an image and a description, so negative descriptions count.

Source: Schulter et al. 2023, "OmniLabel: A Challenging Benchmark for Language-Based Object Detection", and its
published evaluation. All pairs of a group are pooled into one ranking: a sure box for a description that is not true
of its image costs precision everywhere, and scores must be comparable across images and descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from db.errors import WinnowError
from engine.evaluation.boxes import (
    BadBoxes,
    Predictions,
    Row,
    Space,
    Truth,
    number_prediction,
    read_document,
    read_predictions,
    read_truth,
)
from engine.evaluation.matching import AREAS, Curves, Matches, curves, match

MOST_PER_PAIR = 100
SHORT, MEDIUM = 3, 8
"""Descriptions of up to 3 words are short, of 4 to 8 medium, of more long."""


class OmniLabelResult(msgspec.Struct, frozen=True):
    """Each number is in 0..1, or -1 where the truth has nothing to find. `AP` is the headline, the harmonic mean of
    `AP_categ` and `AP_descr`. `outside` counts predictions for descriptions that their image was not asked for.
    `edit_types` is ours, not the benchmark's: the AP of all true descriptions with only those false ones among them whose
    `anno_info` names that `edit_type` (or `edit_types` by image id), so that a low number tells which edits are not noticed."""

    AP: float
    AP_categ: float
    AP_descr: float
    AP_descr_pos: float
    AP_descr_s: float
    AP_descr_m: float
    AP_descr_l: float
    AP50_categ: float
    AP75_categ: float
    AP50_descr: float
    AP75_descr: float
    AR_categ: float
    AR_descr: float
    outside: int
    edit_types: dict[str, float] = {}

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return msgspec.to_builtins(self)


def evaluate(truth: Row | Path, predictions: Sequence[Row]) -> OmniLabelResult:
    """Scores `predictions` (image_id, bbox xywh, and the parallel lists description_ids and scores) against an OmniLabel
    document or file.

    The descriptions of an image are those that list it in `image_ids`; predictions for others are left out, as by the
    official tool, and counted. Raises WinnowError that lists predictions with an unknown image or description, with
    lists of different lengths, or with numbers that make no sense.
    """
    document = read_document(truth, "images", "descriptions", "annotations")
    descriptions = document["descriptions"]
    space = Space((i["id"] for i in document["images"]), (d["id"] for d in descriptions), "description_id")
    asked = _asked(descriptions, space)
    known = _read_truth(document["annotations"], space, asked)
    read = _read_predictions(predictions, space)
    inside = np.isin(read.pair, asked)
    matches = match(known, read[inside], AREAS[:1], most=MOST_PER_PAIR)
    found = _by_group(matches, _groups(descriptions, known, space))
    edits = _by_group(matches, _edit_groups(descriptions, known, space))
    return _result(found, int((~inside).sum()), {name: curve.ap() for name, curve in edits.items()})


def harmonic(categ: float, descr: float) -> float:
    """The headline: 2 a b / (a + b + 1e-5), -1 if either is -1. 23.6 % and 16.4 % make 19.35 %."""
    return -1.0 if -1 in (categ, descr) else 2 * categ * descr / (categ + descr + 1e-5)


def _result(found: Mapping[str, Curves], outside: int, edit_types: dict[str, float]) -> OmniLabelResult:
    ap = {f"AP_{name}": curve.ap() for name, curve in found.items()}
    both = {name: found[name] for name in ("categ", "descr")}
    at = {f"AP{level}_{name}": c.ap(iou=level / 100) for name, c in both.items() for level in (50, 75)}
    recall = {f"AR_{name}": c.ar() for name, c in both.items()}
    headline = harmonic(ap["AP_categ"], ap["AP_descr"])
    return OmniLabelResult(AP=headline, **ap, **at, **recall, outside=outside, edit_types=edit_types)


def _by_group(matches: Matches, groups: Mapping[str, np.ndarray]) -> dict[str, Curves]:
    """`groups` say of every pair number whether it belongs."""

    def one(member: np.ndarray) -> Curves:
        return curves(matches, member[matches.pair] - 1, member[matches.wanted_pair] - 1, 1)

    return {name: one(member.astype(np.int64)) for name, member in groups.items()}


def _groups(descriptions: Sequence[Row], truth: Truth, space: Space) -> dict[str, np.ndarray]:
    """bool [images * descriptions] of each group, by the type of the description, its words, and whether it is true."""
    images = len(space.images)
    free = np.tile([d["anno_info"]["type"] == "object_description" for d in descriptions], images).astype(bool)
    words = np.tile([len(d["text"].split()) for d in descriptions], images)
    true = _true(truth, len(free))
    return {
        "categ": ~free,
        "descr": free,
        "descr_pos": free & true,
        "descr_s": free & (words <= SHORT),
        "descr_m": free & (words > SHORT) & (words <= MEDIUM),
        "descr_l": free & (words > MEDIUM),
    }


def _edit_groups(descriptions: Sequence[Row], truth: Truth, space: Space) -> dict[str, np.ndarray]:
    """bool [images * descriptions] for each type of edit: the true free-form descriptions, and the false ones of that type."""
    images = len(space.images)
    free = np.tile([d["anno_info"]["type"] == "object_description" for d in descriptions], images).astype(bool)
    true = _true(truth, len(free))
    types = np.array([_edit_type(d, image) for image in space.images for d in descriptions], dtype=str)
    return {kind: free & (true | (types == kind)) for kind in sorted({*types.tolist()} - {""})}


def _edit_type(description: Row, image: Any) -> str:
    """By what edit a description is false of an image, where `anno_info` says it, of the description or of each image."""
    told = description["anno_info"]
    return str(told.get("edit_types", {}).get(str(image)) or told.get("edit_type") or "")


def _true(truth: Truth, pairs: int) -> np.ndarray:
    """bool [pairs]: whether a description is true of an image."""
    true = np.zeros(pairs, bool)
    true[truth.pair] = True
    return true


def _asked(descriptions: Sequence[Row], space: Space) -> np.ndarray:
    """int64 [n], the pairs of the label spaces. Raises WinnowError for images that the file does not have."""
    listed = [(image, d["id"]) for d in descriptions for image in d["image_ids"]]
    unknown = sorted({str(image) for image, _ in listed if image not in space.image_at})
    if unknown:
        raise WinnowError(f"Descriptions list {len(unknown)} unknown images: {', '.join(unknown[:20])}.")
    return space.pairs([i for i, _ in listed], [d for _, d in listed])


def _read_truth(notes: Sequence[Row], space: Space, asked: np.ndarray) -> Truth:
    """A box counts once for each description that is true of it; its area is width times height."""
    faults = [f"Annotation {n.get('id')!r} lacks the list description_ids" for n in notes if not _has_list(n)]
    if faults:
        raise BadBoxes("annotations", faults)
    rows = [{**note, "description_id": d} for note in notes for d in note["description_ids"]]
    truth = read_truth(rows, space, crowds=True, area=None)
    stray = np.nonzero(~np.isin(truth.pair, asked))[0]
    if len(stray):
        raise BadBoxes("annotations", [_stray(rows[k]) for k in stray])
    return truth


def _stray(row: Row) -> str:
    where = f"image {row['image_id']!r}, which description {row['description_id']!r} does not list in image_ids"
    return f"Annotation {row.get('id')!r} is on {where}"


def _read_predictions(predictions: Sequence[Row], space: Space) -> Predictions:
    faults = [fault for index, row in enumerate(predictions) if (fault := _list_fault(index, row))]
    paired = [(index, row) for index, row in enumerate(predictions) if not _list_fault(index, row)]
    rows, source = [], []
    for index, row in paired:
        for description, score in zip(row["description_ids"], row["scores"], strict=True):
            rows.append({**row, "description_id": description, "score": score})
            source.append(index)
    try:
        read = read_predictions(rows, space, lambda k: number_prediction(source[k]))
    except BadBoxes as error:
        raise BadBoxes("predictions", [*faults, *error.faults]) from None
    if faults:
        raise BadBoxes("predictions", faults)
    return read


def _list_fault(index: int, row: Row) -> str | None:
    if not _has_list(row) or not _has_list(row, "scores"):
        return f"{number_prediction(index)} needs two lists, description_ids and scores"
    if len(row["description_ids"]) != len(row["scores"]):
        sizes = f"{len(row['description_ids'])} description_ids and {len(row['scores'])} scores"
        return f"{number_prediction(index)} has {sizes}; right would be one score for each"
    return None


def _has_list(row: Any, key: str = "description_ids") -> bool:
    return isinstance(row, Mapping) and isinstance(row.get(key), list | tuple)

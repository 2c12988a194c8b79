"""D3, described object detection: COCO AP over sentences, apart for those of presence and of absence.

Source: Xie et al. 2023, "Described Object Detection: Liberating Object Detection with Flexible Expressions", and its
published evaluation, which is pycocotools with the sentence as the class. Which sentences an image is asked for
(the scenario) and how many at once (the prompting) change the numbers a lot: state both with every result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from db.errors import WinnowError
from engine.evaluation.boxes import BadBoxes, Row, number_prediction, read_document
from engine.evaluation.coco import evaluate as evaluate_coco

Scenario = Literal["intra", "inter"]
"""intra: an image is asked for the sentences of its own group, about four. inter: for all sentences."""

Prompting = Literal["parallel", "concatenated"]
"""parallel: one sentence for each pass of the detector. concatenated: all of them joined into one text."""

LENGTHS = {"short": (1, 3), "middle": (4, 6), "long": (7, 9), "very_long": (10, 10_000)}
"""Words of a sentence, split at single blanks, both ends inside."""


class D3Result(msgspec.Struct, frozen=True):
    """AP in 0..1, or -1 where the truth has nothing to find: means over sentences, FULL over all of them, PRES and ABS
    over those of presence and absence. `lengths` are the same by words. `per_sentence` is AP by sentence id."""

    FULL: float
    PRES: float
    ABS: float
    lengths: dict[str, float]
    per_sentence: dict[int, float]
    scenario: Scenario
    prompting: Prompting

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return msgspec.to_builtins(self)


@dataclass(frozen=True)
class Sentences:
    """The sentences of a data set by id, which of them speak of absence, and the group of sentences of each image."""

    texts: Mapping[int, str]
    absent: AbstractSet[int]
    groups: Mapping[int, Sequence[int]]

    def __post_init__(self) -> None:
        used = set(self.absent).union(*self.groups.values())
        if unknown := sorted(used - self.texts.keys()):
            raise WinnowError(f"Sentences without a text: {unknown[:20]}. Known: {sorted(self.texts)[:20]}.")

    def asked(self, image_id: int, scenario: Scenario) -> tuple[int, ...]:
        """The sentence ids that an image is asked for, ascending. Raises WinnowError for an image without a group."""
        if scenario == "inter":
            return tuple(sorted(self.texts))
        if image_id not in self.groups:
            raise WinnowError(f"Image {image_id!r} has no group of sentences, which the intra scenario needs.")
        return tuple(sorted(self.groups[image_id]))


def evaluate(
    truth: Row | Path,
    predictions: Sequence[Row],
    sentences: Sentences,
    *,
    scenario: Scenario = "intra",
    prompting: Prompting = "parallel",
) -> D3Result:
    """Scores `predictions` (COCO results with the sentence id as category_id) against the full COCO document of D3.

    PRES and ABS need no files of their own: these are made as the official converter makes them, numbered anew, which
    matters where numbers begin at 0 (see `Truth.void`). Raises WinnowError that lists predictions that make no sense,
    and those for sentences that the scenario does not ask their image for.
    """
    document = read_document(truth, "images", "categories", "annotations")
    ids = {category["id"] for category in document["categories"]}
    full, per_sentence = _evaluate(document, predictions)
    if unasked := list(_unasked(predictions, sentences, scenario)):
        raise BadBoxes("predictions", unasked)
    return D3Result(
        FULL=full,
        PRES=_evaluate(*_part(document, predictions, ids - sentences.absent))[0],
        ABS=_evaluate(*_part(document, predictions, ids & sentences.absent))[0],
        lengths=_by_length(document, per_sentence),
        per_sentence=per_sentence,
        scenario=scenario,
        prompting=prompting,
    )


def _evaluate(document: Row, predictions: Sequence[Row]) -> tuple[float, dict[int, float]]:
    """The AP of all sentences and of each by id. They go under their ids, as two may have the same words."""
    ids = {str(category["id"]): category["id"] for category in document["categories"]}
    result = evaluate_coco({**document, "categories": [{"id": i, "name": n} for n, i in ids.items()]}, predictions)
    return result.mAP, {ids[name]: ap for name, ap in result.per_class.items()}


def _part(document: Row, predictions: Sequence[Row], ids: AbstractSet[int]) -> tuple[Row, list[Row]]:
    """The same images with some of the sentences."""
    first = min((note.get("id", 1) for note in document["annotations"]), default=1)
    notes = [note for note in document["annotations"] if note["category_id"] in ids]
    part = {
        "images": document["images"],
        "categories": [category for category in document["categories"] if category["id"] in ids],
        "annotations": [{**note, "id": number} for number, note in enumerate(notes, first)],
    }
    return part, [row for row in predictions if row["category_id"] in ids]


def _unasked(predictions: Sequence[Row], sentences: Sentences, scenario: Scenario) -> Iterator[str]:
    if scenario == "inter":
        return
    asked = {image: set(sentences.asked(image, scenario)) for image in {row["image_id"] for row in predictions}}
    for index, row in enumerate(predictions):
        if row["category_id"] not in asked[row["image_id"]]:
            where = f"sentence {row['category_id']}, which image {row['image_id']!r} is not asked for"
            yield f"{number_prediction(index)} is for {where}; right would be {sorted(asked[row['image_id']])}"


def _by_length(document: Row, per_sentence: Mapping[int, float]) -> dict[str, float]:
    words = {c["id"]: len(c["name"].split(" ")) for c in document["categories"]}
    return {
        name: _mean({i: ap for i, ap in per_sentence.items() if low <= words[i] <= high})
        for name, (low, high) in LENGTHS.items()
    }


def _mean(per_sentence: Mapping[int, float]) -> float:
    there = [ap for ap in per_sentence.values() if ap > -1]
    return float(np.mean(there)) if there else -1.0

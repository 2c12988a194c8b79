"""What an evaluation of texts judges by, from a snapshot: the protocol of the data set's own format.

Whatever the format, an image is asked for texts by id, and the answers are rows of OmniLabel results with these ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from db.records import XYXY, Phrase, Snapshot
from db.snapshots import Header, Sample
from db.store import Store
from engine.evaluation.boxes import Row
from engine.evaluation.d3 import Scenario
from engine.folder import real_samples

Texts = dict[int, str]


@dataclass(frozen=True)
class Asked:
    """The texts by id that one image is asked for."""

    path: Path
    image_id: int
    texts: Texts


@dataclass(frozen=True)
class Spoken:
    """A `kind` of `engine.evaluation.suite` with its `truth`, what to ask, and how answers become its predictions."""

    kind: str
    truth: Row
    asked: list[Asked]
    predictions: Callable[[Iterable[Row]], list[Row]]


def spoken(store: Store, snapshot: Snapshot, split: str, scenario: Scenario = "intra") -> Spoken | None:
    """The protocol for texts of the snapshot's format over the real images of a split; None where the format has none of
    its own. The scenario says whether an image of D3 is asked for the sentences of its group or for all.

    Raises WinnowError when the split has no images.
    """
    header, samples = real_samples(store, snapshot, split)
    if header.format == "d3":
        return _d3(store, header, samples, scenario)
    made = PROTOCOLS.get(header.format)
    return None if made is None else made(store, samples)


def _d3(store: Store, header: Header, samples: Sequence[Sample], scenario: Scenario) -> Spoken:
    said = {raw["id"]: raw for raw in header.info.get("sentences", ())}
    own = {s.image.id: {p.extra["sentence"]: p for p in s.phrases if "sentence" in p.extra} for s in samples}
    texts = {number: phrase.text for phrases in own.values() for number, phrase in sorted(phrases.items())}
    asked = [
        Asked(
            store.blobs.path(sample.image.digest or ""),
            sample.image.id,
            {number: texts[number] for number in (texts if scenario == "inter" else own[sample.image.id])},
        )
        for sample in samples
    ]
    absent = {number: bool(said.get(number, {}).get("is_negative")) for number in texts}
    truth = {
        "images": [{"id": image_id, "sentence_ids": sorted(phrases)} for image_id, phrases in own.items()],
        "categories": [{"id": i, "name": text, "absent": absent[i]} for i, text in sorted(texts.items())],
        "annotations": _notes(samples, own),
        "scenario": scenario,
    }
    return Spoken("d3", truth, asked, as_coco)


def _notes(samples: Sequence[Sample], own: Mapping[int, Mapping[int, Phrase]]) -> list[Row]:
    """What the sentences describe, as COCO annotations with the sentence for a class."""
    boxes = {box.id: box for sample in samples for box in sample.boxes}
    found = [
        (image_id, number, boxes[box_id])
        for image_id, phrases in own.items()
        for number, phrase in phrases.items()
        for box_id in phrase.box_ids
    ]
    return [
        {
            "id": place,
            "image_id": image_id,
            "category_id": number,
            "bbox": (bbox := _xywh(box.xyxy)),
            "area": bbox[2] * bbox[3] if box.area is None else box.area,
            "iscrowd": int(box.crowd),
        }
        for place, (image_id, number, box) in enumerate(found, 1)
    ]


def _refcoco(store: Store, samples: Sequence[Sample]) -> Spoken:
    named = [(sample, phrase) for sample in samples for phrase in sample.phrases if "ref" in phrase.extra]
    boxes = {box.id: box.xyxy for sample in samples for box in sample.boxes}
    rows = [
        {"id": phrase.id, "bbox": _xywh(boxes[phrase.box_ids[0]]), "split": phrase.extra["ref"].get("split", "")}
        for _, phrase in named
        if phrase.box_ids
    ]
    return Spoken("refcoco", {"expressions": rows}, _each(store, samples, lambda p: "ref" in p.extra), _by_phrase)


def _flickr30k(store: Store, samples: Sequence[Sample]) -> Spoken:
    rows = [
        {
            "id": phrase.id,
            "boxes": [_xywh(box.xyxy) for box in sample.boxes if box.id in phrase.box_ids],
            "types": phrase.extra.get("types", []),
        }
        for sample in samples
        for phrase in sample.phrases
        if phrase.parent_id is not None
    ]
    return Spoken("flickr30k", {"phrases": rows}, _each(store, samples, lambda p: p.parent_id is not None), _by_phrase)


def _each(store: Store, samples: Sequence[Sample], wanted: Callable[[Phrase], bool]) -> list[Asked]:
    """Every image asked for the wanted ones of its phrases that name a box."""
    return [
        Asked(
            store.blobs.path(sample.image.digest or ""),
            sample.image.id,
            {phrase.id: phrase.text for phrase in sample.phrases if phrase.box_ids and wanted(phrase)},
        )
        for sample in samples
    ]


def _xywh(xyxy: XYXY) -> list[float]:
    x1, y1, x2, y2 = xyxy
    return [x1, y1, x2 - x1, y2 - y1]


def as_coco(answers: Iterable[Row]) -> list[Row]:
    """OmniLabel results as COCO results with the description as class, as D3 takes them."""
    return [
        {"image_id": row["image_id"], "category_id": text, "bbox": row["bbox"], "score": score}
        for row in answers
        for text, score in zip(row["description_ids"], row["scores"], strict=True)
    ]


def _by_phrase(answers: Iterable[Row]) -> list[Row]:
    return [
        {"phrase_id": text, "bbox": row["bbox"], "score": score}
        for row in answers
        for text, score in zip(row["description_ids"], row["scores"], strict=True)
    ]


PROTOCOLS = {"refcoco": _refcoco, "flickr30k": _flickr30k}

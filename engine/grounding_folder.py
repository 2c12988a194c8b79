"""A snapshot as training data for detectors that read: lines of ODVG, and what to find in the validation images.

`train.jsonl` is ODVG with Winnow's `negatives`, and one more key of a grounding record, `negative_images`. `val.json` is an
OmniLabel document, `definitions.json` what is known of the classes. Files are named by absolute path.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import orjson

from db.errors import WinnowError
from db.records import Image, Kind, Phrase, Snapshot
from db.snapshots import Header, Sample
from db.store import Store
from engine.folder import HELD_OUT, real_samples
from engine.seeds import seed_of

Row = dict[str, Any]
LEFT_OUT = ("val", "test")  # of training
MADE = (Kind.TRIPLET, Kind.PAIR)  # images made from words, which teach phrases
TRAIN, VAL, DEFINITIONS = "train.jsonl", "val.json", "definitions.json"


class Instance(msgspec.Struct, frozen=True):
    """A box [x1, y1, x2, y2] of a class."""

    bbox: tuple[float, float, float, float]
    category: str


class Region(msgspec.Struct, frozen=True):
    """The boxes that a part of the caption names, and the [start, end) characters of that part."""

    bbox: list[tuple[float, float, float, float]]
    phrase: str
    tokens_positive: list[tuple[int, int]]


class Detection(msgspec.Struct, frozen=True):
    instances: list[Instance] = []


class Edited(msgspec.Struct, frozen=True):
    """The picture repainted inside `box`: it showed `positive`, now it shows `negative`."""

    img_path: str
    box: tuple[float, float, float, float]
    positive: str
    negative: str


class Grounding(msgspec.Struct, frozen=True):
    """`negatives` are false of the image."""

    caption: str
    regions: list[Region] = []
    negatives: list[str] = []
    negative_images: list[Edited] = []


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image with its classes, a caption, or both. A caption without regions makes a pair of image and text."""

    filename: str
    width: int
    height: int
    detection: Detection | None = None
    grounding: Grounding | None = None


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """The lines as a file."""
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def read_lines(path: Path) -> list[Line]:
    """The lines of a file. Raises WinnowError that names the line that cannot be read."""
    if not path.is_file():
        raise WinnowError(f"{path} is missing. A training folder for detectors that read holds {TRAIN} and {VAL}.")
    decoder, found = msgspec.json.Decoder(Line), []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found.append(decoder.decode(line))
        except msgspec.MsgspecError as error:
            raise WinnowError(f"{path}, line {number}: not a line of ODVG with its images: {error}") from error
    return found


def described(texts: Sequence[tuple[str, list[tuple[float, float, float, float]]]]) -> Grounding:
    """Descriptions that each name some boxes as one caption, each a sentence of its own."""
    caption, regions = "", []
    for text, boxes in texts:
        words = text.rstrip(" .")
        regions.append(Region(boxes, words, [(len(caption), len(caption) + len(words))]))
        caption += f"{words}. "
    return Grounding(caption.rstrip(), regions)


def grounding_folder(store: Store, snapshot: Snapshot, folder: Path, *, pairs: bool = False) -> dict[str, int]:
    """Write the snapshot's texts and classes; returns the images of each part, and the negatives.

    Training uses the split `train`, or everything outside `val` and `test`, and accepted images that were made from words.
    Validation asks the images of `val`, else some that are held out by their id, for their classes and descriptions, and for
    those texts that are known to be false of them. Negative images go with the images that they were made from. With
    `pairs`, also images of which there is only a caption, or only a class (which is then the caption). Raises WinnowError
    when there is nothing to learn.
    """
    header, samples = store.snapshots.samples(snapshot)
    samples = [sample for sample in samples if sample.image.digest]
    train, val = _parts(samples)
    edits = _edits(store, samples)
    made = (*MADE, Kind.CLASS_IMAGE) if pairs else MADE
    train += [sample for sample in samples if _kind_of(sample) in made and sample.image.split not in LEFT_OUT]
    lines = [line for sample in train for line in _lines(store, header, sample, edits.get(sample.image.id, []), pairs)]
    if not any(line.detection or (line.grounding and line.grounding.regions) for line in lines):
        raise WinnowError(f"Snapshot {snapshot.name!r} has no image with a box that a class or a text names.")
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / TRAIN, lines)
    (folder / DEFINITIONS).write_bytes(orjson.dumps(_definitions(header)))
    (folder / VAL).write_bytes(orjson.dumps(_omnilabel(store, header, val)))
    texts = sum(len(line.grounding.negatives) for line in lines if line.grounding)
    synthetic = sum(map(len, edits.values())) + sum(1 for sample in train if sample.image.extra.get("synthetic"))
    counts = {"train": len(train), "val": len(val), "synthetic": synthetic, "negatives": texts}
    return counts | ({"pairs": sum(1 for line in lines if is_pair(line))} if pairs else {})


def is_pair(line: Line) -> bool:
    """Whether the line is a pair of image and text."""
    return line.grounding is not None and not line.grounding.regions


def _kind_of(sample: Sample) -> str:
    """The kind of candidate that an image was made by, from words; nothing for all others."""
    return str(sample.image.extra.get("kind", "")) if sample.image.extra.get("synthetic") else ""


def _definitions(header: Header) -> dict[str, str]:
    """What LVIS and its like tell of their classes."""
    told = {category.name: category.extra.get("def") for category in header.categories}
    return {name: text.strip() for name, text in told.items() if isinstance(text, str) and text.strip()}


def split_omnilabel(store: Store, snapshot: Snapshot, split: str) -> Row:
    """What to ask the real images of one split for, and the answers, as an OmniLabel document. Raises WinnowError when there
    are none."""
    header, samples = real_samples(store, snapshot, split)
    return _omnilabel(store, header, [sample for sample in samples if not _only_said(sample)])


def _parts(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """(real images to train on, real images to validate on)."""
    real = [sample for sample in samples if not sample.image.extra.get("synthetic")]
    splits = {sample.image.split for sample in real}
    train = [s for s in real if s.image.split == "train" or ("train" not in splits and s.image.split not in LEFT_OUT)]
    val = [sample for sample in real if sample.image.split == "val"]
    if not val:
        val = [sample for sample in train if seed_of("held out", sample.image.id) % HELD_OUT == 0]
        train = [sample for sample in train if seed_of("held out", sample.image.id) % HELD_OUT]
        train += [sample for sample in val if _only_said(sample)]
    return train, [sample for sample in val if not _only_said(sample)]


def _only_said(sample: Sample) -> bool:
    """Whether there is a caption but no box: of what it does not say, nothing is known."""
    return not sample.boxes and any(phrase.holds and not phrase.box_ids for phrase in sample.phrases)


def _edits(store: Store, samples: Iterable[Sample]) -> dict[int, list[Edited]]:
    """Negative images by the image they were made from: those where one text became true and another false."""
    found: dict[int, list[Edited]] = defaultdict(list)
    for sample in samples:
        source = sample.image.extra.get("source_image")
        if source is None:
            continue
        boxes = {box.id: box.xyxy for box in sample.boxes}
        path = str(store.blobs.path(sample.image.digest or ""))
        for now, before in pairwise(sample.phrases):  # a snapshot writes what became false right after what became true
            if now.holds and now.box_ids and not before.holds:
                found[source].append(Edited(path, boxes[now.box_ids[0]], before.text, now.text))
    return found


def _lines(store: Store, header: Header, sample: Sample, edits: list[Edited], pairs: bool = False) -> Iterator[Line]:
    """One line with the classes and the first caption or the free descriptions, one more for each further caption."""
    names = {category.id: category.name for category in header.categories}
    if _kind_of(sample) == Kind.CLASS_IMAGE:
        sample = _captioned_by_class(sample, names)
    instances = [Instance(b.xyxy, names[b.category_id]) for b in sample.boxes if b.category_id in names and not b.crowd]
    place = Line(str(store.blobs.path(sample.image.digest or "")), sample.image.width, sample.image.height)
    negatives = [phrase.text for phrase in sample.phrases if not phrase.holds]
    texts = [
        msgspec.structs.replace(text, negatives=negatives, negative_images=edits) for text in _groundings(sample, pairs)
    ]
    detection = Detection(instances) if instances else None
    yield msgspec.structs.replace(place, detection=detection, grounding=texts[0] if texts else None)
    yield from (msgspec.structs.replace(place, grounding=text) for text in texts[1:])


def _captioned_by_class(sample: Sample, names: dict[int, str]) -> Sample:
    """The image of a class as a pair: its caption is the name (METHODS 4.7, classification data as pairs)."""
    said = dict.fromkeys(names[box.category_id] for box in sample.boxes if box.category_id in names)
    phrases = tuple(Phrase(id=-1, image_id=sample.image.id, text=name) for name in said)
    return msgspec.structs.replace(sample, boxes=(), phrases=phrases)


def _groundings(sample: Sample, pairs: bool = False) -> Iterator[Grounding]:
    boxes = {box.id: box.xyxy for box in sample.boxes}

    def named(phrase: Phrase) -> list[tuple[float, float, float, float]]:
        return [boxes[number] for number in phrase.box_ids]

    true = [phrase for phrase in sample.phrases if phrase.holds]
    free = [(phrase.text, named(phrase)) for phrase in true if phrase.parent_id is None and phrase.box_ids]
    if free:
        yield described(free)
    for caption in true:
        parts = [part for part in true if part.parent_id == caption.id and part.spans and part.box_ids]
        if parts:
            yield Grounding(caption.text, [Region(named(p), p.text, [(a, b) for a, b in p.spans]) for p in parts])
        elif pairs and caption.parent_id is None and not caption.box_ids and caption.text.strip():
            yield Grounding(caption.text)


def _omnilabel(store: Store, header: Header, samples: Sequence[Sample]) -> Row:
    """Every class is asked of every image, a text of those images of which it is known whether it holds."""
    texts: dict[tuple[str, str], Row] = {}
    images: list[Row] = []
    notes: list[Row] = []

    def ask(text: str, kind: str, image_id: int, edit_type: str = "") -> int:
        fresh = {"id": len(texts) + 1, "text": text, "image_ids": [], "anno_info": {"type": kind, "edit_types": {}}}
        row = texts.setdefault((text, kind), fresh)
        if edit_type:
            row["anno_info"]["edit_types"][str(image_id)] = edit_type
        if image_id not in row["image_ids"][-1:]:
            row["image_ids"].append(image_id)
        return int(row["id"])

    for sample in samples:
        number = sample.image.id
        images.append(
            {
                "id": number,
                "file_name": str(store.blobs.path(sample.image.digest or "")),
                "width": sample.image.width,
                "height": sample.image.height,
            }
        )
        classes = {category.id: ask(category.name, "category", number) for category in header.categories}
        named = defaultdict(list, {b.id: [classes[b.category_id]] for b in sample.boxes if b.category_id in classes})
        for phrase in sample.phrases:
            if phrase.box_ids or not phrase.holds:
                asked = ask(phrase.text, _kind(phrase), number, _edit_type(phrase, sample.image))
                for box_id in phrase.box_ids if phrase.holds else ():
                    named[box_id].append(asked)
        notes += [_note(len(notes), number, box.xyxy, named[box.id]) for box in sample.boxes if named[box.id]]
    for place, note in enumerate(notes, 1):
        note["id"] = place
    return {"images": images, "descriptions": list(texts.values()), "annotations": notes}


def _kind(phrase: Phrase) -> str:
    """Whether it is the name of a class or a description, as an OmniLabel data set says."""
    return str(_anno_info(phrase).get("type", "object_description"))


def _edit_type(phrase: Phrase, image: Image) -> str:
    """What was changed in a true text to make this false one: as its writer said, or as an OmniLabel data set says of the
    description or, in Tabletop's, of each image."""
    told = _anno_info(phrase)
    by_image = told.get("edit_types", {}).get(str(image.source_id))
    return str(by_image or told.get("edit_type") or phrase.extra.get("edit_type") or "")


def _anno_info(phrase: Phrase) -> Row:
    told = phrase.extra.get("anno_info")
    return told if isinstance(told, dict) else {}


def _note(place: int, image_id: int, xyxy: Sequence[float], description_ids: list[int]) -> Row:
    x1, y1, x2, y2 = xyxy
    return {
        "id": place,
        "image_id": image_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "description_ids": list(dict.fromkeys(description_ids)),
    }

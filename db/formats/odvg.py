"""ODVG, the JSON lines of open-vocabulary detectors: detection records with classes, grounding records with captions.

A line is an image; two lines may show the same file. Winnow adds one key to a grounding record, `negatives`: texts
verified to be false of the image, which other readers ignore. Unknown fields of a line and of its halves are kept in
`Image.extra["odvg"]`, those of an instance in `Box.extra`, those of a region in `Phrase.extra`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import orjson

from db.document import Document
from db.formats.checks import (
    Faults,
    check_box,
    check_size,
    check_storable,
    climbs,
    is_number,
    is_text,
    is_whole,
    short,
)
from db.formats.writing import Losses, carried, replaced, side_by_side
from db.records import XYXY, Box, Category, Fault, Image, Phrase
from db.spool import Spool

MAX_LINE = 16 * 2**20
LINE_KEYS = {"filename", "height", "width", "detection", "grounding"}
HALVES = ("detection", "grounding")
HALF_KEYS = {"instances", "caption", "regions", "negatives"}
INSTANCE_KEYS = {"bbox", "label", "category"}
REGION_KEYS = {"bbox", "phrase", "tokens_positive"}


class Reader:
    """Gathers what the lines hold. Boxes carry the label of the file as `category_id` until all labels are known."""

    def __init__(self) -> None:
        self.images: Spool[Image] = Spool(Image)
        self.boxes: Spool[Box] = Spool(Box)
        self.phrases: Spool[Phrase] = Spool(Phrase)
        self.labels: dict[int, str] = {}
        self.faults: list[Fault] = []

    def read(self, path: Path, split: str) -> None:
        faults = Faults(str(path))
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), 1):
                if line.strip():
                    self._line(f"line {number}", line, split, faults)
        self.faults += faults

    def read_labels(self, path: Path) -> None:
        """A label map: {"0": "name of a class", ...}."""
        faults = Faults(str(path))
        try:
            labels = json.loads(path.read_bytes().decode())
        except (ValueError, RecursionError) as error:
            faults.add("the whole file", f"not readable as JSON: {error}", '{"0": "name", ...}')
            labels = {}
        for key, name in labels.items() if isinstance(labels, dict) else [("the whole file", labels)]:
            if not (key.isascii() and key.isdigit() and len(key) < 19 and is_text(name) and name.strip()):
                faults.add(f"label {key!r:.40}", short(name), "the name of a class under a whole number")
            elif name in self.labels.values():
                faults.add(f"label {key}", f"{name!r} a second time", "every class once")
            else:
                self.labels[int(key)] = name
        self.faults += faults

    def _line(self, item: str, line: bytes, split: str, faults: Faults) -> None:
        if len(line) > MAX_LINE:
            faults.add(item, f"more than {MAX_LINE} bytes", f"at most {MAX_LINE} bytes a line")
            return
        try:
            raw = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            faults.add(item, f"not readable as JSON: {error}", "one complete JSON object a line")
            return
        if not isinstance(raw, dict):
            faults.add(item, short(raw), "one JSON object a line")
        elif not is_text(raw.get("filename")) or climbs(raw["filename"]):
            faults.add(item, f"filename {short(raw.get('filename'))}", "a path inside the folder of the images")
        elif check_size(faults, item, raw.get("width"), raw.get("height")) and check_storable(faults, item, raw):
            self._image(item, raw, split, faults)

    def _image(self, item: str, raw: dict[str, Any], split: str, faults: Faults) -> None:
        for half in HALVES:
            if half in raw and not isinstance(raw[half], dict):
                faults.add(item, f"{half} {short(raw[half])}", "an object")
                return
        kept = {half: _rest(raw[half], HALF_KEYS) for half in HALVES if half in raw}
        rest = _rest(raw, LINE_KEYS)
        image = Image(
            id=len(self.images),
            file_name=raw["filename"],
            width=raw["width"],
            height=raw["height"],
            split=split,
            extra={"odvg": {**kept, "line": rest}},
        )
        if "grounding" in raw and not is_text(raw["grounding"].get("caption")):
            faults.add(item, f"caption {short(raw['grounding'].get('caption'))}", "a text")
            return
        self.images.append(image)
        if "detection" in raw:
            for where, instance in _items(raw["detection"], "instances", item, faults):
                self._instance(where, instance, image, faults)
        if "grounding" in raw:
            self._grounding(item, raw["grounding"], image, faults)

    def _instance(self, where: str, raw: Any, image: Image, faults: Faults) -> None:
        label, name, xyxy = raw.get("label"), raw.get("category"), _box(raw.get("bbox"))
        if not is_whole(label) or not isinstance(name, str) or not name.strip():
            faults.add(where, f"label {short(label)}, category {short(name)}", "a whole number and a name")
        elif self.labels.get(label, name) != name:
            faults.add(where, f"category {name!r} for label {label}", f"{self.labels[label]!r}, as elsewhere")
        elif label not in self.labels and name in self.labels.values():
            faults.add(where, f"label {label} for category {name!r}", "the label it has elsewhere")
        elif xyxy is None:
            faults.add(where, f"bbox {short(raw.get('bbox'))}", "four finite numbers: x1, y1, x2, y2")
        elif check_box(faults, where, xyxy, image):
            self.labels[label] = name
            extra = _rest(raw, INSTANCE_KEYS)
            self.boxes.append(Box(id=len(self.boxes), image_id=image.id, xyxy=xyxy, category_id=label, extra=extra))

    def _grounding(self, item: str, raw: dict[str, Any], image: Image, faults: Faults) -> None:
        caption = Phrase(id=len(self.phrases), image_id=image.id, text=raw["caption"])
        self.phrases.append(caption)
        for where, region in _items(raw, "regions", item, faults):
            self._region(where, region, caption, image, faults)
        for number, text in enumerate(raw.get("negatives") or []):
            if isinstance(text, str):
                self.phrases.append(Phrase(id=len(self.phrases), image_id=image.id, text=text, holds=False))
            else:
                faults.add(f"{item}, negative #{number}", short(text), "a text")

    def _region(self, where: str, raw: dict[str, Any], caption: Phrase, image: Image, faults: Faults) -> None:
        text, spans, bbox = raw.get("phrase"), _spans(raw.get("tokens_positive")), raw.get("bbox")
        if not isinstance(text, str) or spans is None:
            faults.add(where, f"phrase {short(text)}", "a text with tokens_positive [[start, end], ...]")
            return
        if not _check_spans(faults, where, text, spans, caption.text):
            return
        single = not isinstance(bbox, list) or (bool(bbox) and not isinstance(bbox[0], list))
        corners = [_box(value) for value in ([bbox] if single or not isinstance(bbox, list) else bbox)]
        whole = [xyxy for xyxy in corners if xyxy is not None]
        if len(whole) < len(corners):
            faults.add(where, f"bbox {short(bbox)}", "one box or a list of boxes: x1, y1, x2, y2")
            return
        sound = [check_box(faults, where, xyxy, image) for xyxy in whole]
        if all(sound):
            ids = tuple(range(len(self.boxes), len(self.boxes) + len(whole)))
            for number, xyxy in zip(ids, whole, strict=True):
                self.boxes.append(Box(id=number, image_id=image.id, xyxy=xyxy))
            extra = _rest(raw, REGION_KEYS) | ({} if single else {"list": True})
            place = Phrase(id=len(self.phrases), image_id=image.id, text=text, parent_id=caption.id)
            self.phrases.append(msgspec.structs.replace(place, spans=spans, box_ids=ids, extra=extra))


def read(files: dict[str, Path], labels: Path | None = None) -> Document:
    """One document from `{split: file}` and the label map, if there is one. Faults are collected.

    A line with a fault of its own is left out whole; an instance or region with a fault is left out alone.
    """
    reader = Reader()
    if labels is not None:
        reader.read_labels(labels)
    for split, path in files.items():
        reader.read(path, split)
    order = {label: number for number, label in enumerate(sorted(reader.labels))}
    categories = [Category(id=order[label], name=reader.labels[label], source_id=label) for label in order]
    return Document(
        format="odvg",
        categories=categories,
        images=lambda: reader.images,
        boxes=lambda: (_renumbered(box, order) for box in reader.boxes),
        phrases=lambda: reader.phrases,
        faults=reader.faults,
    )


def _lines(file: Any) -> Iterator[bytes]:
    """Lines, one that is too long cut off: an endless line must not fill the memory."""
    while line := file.readline(MAX_LINE + 1):
        rest = line
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE + 1)
        yield line


def _items(raw: dict[str, Any], key: str, item: str, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list with their places; what is no list or no object becomes a fault."""
    values = raw.get(key, [])
    if not isinstance(values, list):
        faults.add(item, f"{key} {short(values)}", "a list")
        return
    for number, value in enumerate(values):
        where = f"{item}, {key[:-1]} #{number}"
        if isinstance(value, dict):
            yield where, value
        else:
            faults.add(where, short(value), "an object")


def _check_spans(faults: Faults, where: str, text: str, spans: tuple[tuple[int, int], ...], caption: str) -> bool:
    """Whether the spans lie in the caption and say what the phrase says, white space and capitals apart."""
    outside = [span for span in spans if not 0 <= span[0] < span[1] <= len(caption)]
    if outside:
        seen = f"span {list(outside[0])} of {short(text)}"
        faults.add(where, seen, f"offsets inside the caption of {len(caption)} characters")
        return False
    named = "".join(caption[start:end] for start, end in spans)
    if spans and _letters(named) != _letters(text):
        faults.add(where, f"{short(named)} at tokens_positive", f"the phrase {short(text)}")
        return False
    return True


def _letters(text: str) -> str:
    return "".join(text.split()).casefold()


# Writing


class Classes:
    """Labels and names by category id: the labels of the source where every class has a number, else 0, 1, 2, ..."""

    def __init__(self, categories: list[Category]) -> None:
        given = [category.source_id for category in categories]
        numbered = all(is_whole(label) and int(label or 0) >= 0 for label in given)
        self.label = {c.id: int(c.source_id or 0) if numbered else n for n, c in enumerate(categories)}
        self.name = {category.id: category.name for category in categories}

    def map(self) -> bytes:
        return orjson.dumps({str(label): self.name[key] for key, label in self.label.items()}) + b"\n"


def write(document: Document, folder: Path) -> list[str]:
    """`SPLIT.jsonl` (`annotations.jsonl` without splits) and `label_map.json`. Returns what ODVG cannot hold.

    An image has one line, and one more for every caption after its first.
    """
    classes = Classes(document.categories)
    own = document.format == "odvg"
    unheld = () if own else ("ids of images and boxes", "records with fields of their own format")
    losses = Losses("masks", "crowd flags", "areas", "boxes with neither class nor phrase", *unheld)
    with side_by_side() as files:
        for image, boxes, phrases in document.samples():
            losses.see(image, boxes, phrases, document.format)
            file = files(folder / f"{image.split or 'annotations'}.jsonl")
            for line in _lines_out(image, boxes, phrases, classes, document.format):
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    if classes.label:
        replaced(folder / "label_map.json", classes.map())
    return losses.told()


def _lines_out(
    image: Image, boxes: list[Box], phrases: list[Phrase], classes: Classes, source: str
) -> Iterator[dict[str, Any]]:
    """The line of an image, and further ones for its further captions. `source`: the format the extras come from."""
    own = source == "odvg"
    kept = image.extra.get("odvg", {}) if own else {}
    place = {"filename": image.file_name, "height": image.height, "width": image.width}
    line: dict[str, Any] = {**place, **kept.get("line", {}), **carried(image.extra, source, LINE_KEYS)}
    classed = [box for box in boxes if box.category_id is not None]
    if classed or "detection" in kept or not kept:
        instances = [_instance_out(box, classes, source) for box in classed]
        line["detection"] = {"instances": instances, **kept.get("detection", {})}
    by_id = {box.id: box for box in boxes}
    captions = [phrase for phrase in phrases if phrase.parent_id is None and phrase.holds]
    if phrases:
        negatives = [phrase.text for phrase in phrases if not phrase.holds]
        first = _caption_out(captions[0], phrases, by_id, source) if captions else {"caption": "", "regions": []}
        more = {"negatives": negatives} if negatives else {}
        line["grounding"] = {**first, **more, **kept.get("grounding", {})}
    yield line
    for caption in islice(captions, 1, None):
        yield {**place, "grounding": _caption_out(caption, phrases, by_id, source)}


def _instance_out(box: Box, classes: Classes, source: str) -> dict[str, Any]:
    assert box.category_id is not None
    known = {"label": classes.label[box.category_id], "category": classes.name[box.category_id]}
    return {"bbox": list(box.xyxy), **known, **carried(box.extra, source, INSTANCE_KEYS)}


def _caption_out(caption: Phrase, phrases: list[Phrase], boxes: dict[int, Box], source: str) -> dict[str, Any]:
    """A caption with its regions; one that names boxes by itself is its own region."""
    regions = [_region_out(phrase, boxes, source) for phrase in phrases if phrase.parent_id == caption.id]
    if caption.box_ids:
        whole = msgspec.structs.replace(caption, spans=((0, len(caption.text)),), extra={})
        regions.insert(0, _region_out(whole, boxes, source))
    return {"caption": caption.text, "regions": regions}


def _region_out(phrase: Phrase, boxes: dict[int, Box], source: str) -> dict[str, Any]:
    corners = [list(boxes[i].xyxy) for i in phrase.box_ids]
    listed = (source == "odvg" and phrase.extra.get("list")) or len(corners) != 1
    spans = [list(span) for span in phrase.spans]
    extra = carried(phrase.extra, source, REGION_KEYS)
    return {"bbox": corners if listed else corners[0], "phrase": phrase.text, "tokens_positive": spans, **extra}


def _renumbered(box: Box, order: dict[int, int]) -> Box:
    if box.category_id is None or order[box.category_id] == box.category_id:
        return box
    return msgspec.structs.replace(box, category_id=order[box.category_id])


def _box(value: Any) -> XYXY | None:
    if isinstance(value, list) and len(value) == 4 and all(map(is_number, value)):
        return (value[0], value[1], value[2], value[3])
    return None


def _spans(value: Any) -> tuple[tuple[int, int], ...] | None:
    if not isinstance(value, list):
        return None
    pairs = [pair for pair in value if isinstance(pair, list) and len(pair) == 2 and all(map(is_whole, pair))]
    return tuple((a, b) for a, b in pairs) if len(pairs) == len(value) else None


def _rest(raw: dict[str, Any], known: set[str]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key not in known}

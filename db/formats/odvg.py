"""ODVG, the JSON lines of open-vocabulary detectors: detection records with classes, grounding records with captions.

A line is an image; two lines may show the same file. Winnow adds one key to a grounding record, `negatives`: texts
verified to be false of the image, which other readers ignore.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
from msgspec.structs import replace

from db.document import Document
from db.formats.checks import Faults, check_box, check_size, climbs, is_number
from db.records import XYXY, Box, Category, Fault, Image, Phrase

MAX_LINE = 16 * 2**20
LINE_KEYS = {"filename", "height", "width", "detection", "grounding"}
INSTANCE_KEYS = {"bbox", "label", "category"}
REGION_KEYS = {"bbox", "phrase", "tokens_positive"}


class Reader:
    def __init__(self) -> None:
        self.images: list[Image] = []
        self.boxes: list[Box] = []
        self.phrases: list[Phrase] = []
        self.categories: dict[int, str] = {}
        self.faults: list[Fault] = []

    def read(self, path: Path, split: str) -> None:
        own = Faults(str(path))
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    self._line(f"line {number}", line, split, own)
        self.faults += own

    def read_labels(self, path: Path) -> None:
        try:
            labels = json.loads(path.read_bytes())
            self.categories = {int(key): str(name) for key, name in labels.items()}
        except (ValueError, AttributeError) as error:
            seen = f"not readable as a label map: {error}"
            self.faults.append(Fault(file=str(path), item="the whole file", seen=seen, expected='{"0": "name", ...}'))

    def _line(self, item: str, line: bytes, split: str, faults: Faults) -> None:
        if len(line) > MAX_LINE:
            faults.add(item, f"{len(line)} bytes", f"at most {MAX_LINE} bytes a line")
            return
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.add(item, f"not readable as JSON: {error}", "one complete JSON object a line")
            return
        if not isinstance(raw, dict) or not isinstance(raw.get("filename"), str) or climbs(raw["filename"]):
            faults.add(
                item,
                f"filename {raw.get('filename')!r}" if isinstance(raw, dict) else "no object",
                "a path inside the folder",
            )
            return
        if not check_size(faults, item, raw.get("width"), raw.get("height")):
            return
        extra = {key: value for key, value in raw.items() if key not in LINE_KEYS}
        halves = [key for key in ("detection", "grounding") if isinstance(raw.get(key), dict)]
        image = Image(
            id=len(self.images),
            file_name=raw["filename"],
            width=raw["width"],
            height=raw["height"],
            split=split,
            extra=extra
            | {"odvg": {key: _rest(raw[key], {"instances", "caption", "regions", "negatives"}) for key in halves}},
        )
        self.images.append(image)
        if "detection" in halves:
            self._detection(item, raw["detection"], image, faults)
        if "grounding" in halves:
            self._grounding(item, raw["grounding"], image, faults)

    def _detection(self, item: str, raw: dict[str, Any], image: Image, faults: Faults) -> None:
        for number, instance in enumerate(raw.get("instances") or []):
            where = f"{item}, instance #{number}"
            label, name = instance.get("label"), instance.get("category")
            if not isinstance(label, int) or isinstance(label, bool) or not isinstance(name, str):
                faults.add(where, f"label {label!r}, category {name!r}", "a whole number and a name")
                continue
            if self.categories.setdefault(label, name) != name:
                faults.add(where, f"category {name!r} for label {label}", f"{self.categories[label]!r}, as elsewhere")
                continue
            xyxy = _box(instance.get("bbox"))
            if xyxy is None:
                faults.add(where, f"bbox {instance.get('bbox')!r}", "four finite numbers: x1, y1, x2, y2")
            elif check_box(faults, where, xyxy, image):
                extra = _rest(instance, INSTANCE_KEYS)
                self.boxes.append(Box(id=len(self.boxes), image_id=image.id, xyxy=xyxy, category_id=label, extra=extra))

    def _grounding(self, item: str, raw: dict[str, Any], image: Image, faults: Faults) -> None:
        caption = raw.get("caption")
        if not isinstance(caption, str):
            faults.add(item, f"caption {caption!r}", "a text")
            return
        parent = Phrase(id=len(self.phrases), image_id=image.id, text=caption)
        self.phrases.append(parent)
        for number, region in enumerate(raw.get("regions") or []):
            self._region(f"{item}, region #{number}", region, parent, image, faults)
        for text in raw.get("negatives") or []:
            self.phrases.append(Phrase(id=len(self.phrases), image_id=image.id, text=str(text), holds=False))

    def _region(self, where: str, raw: Any, parent: Phrase, image: Image, faults: Faults) -> None:
        phrase = raw.get("phrase") if isinstance(raw, dict) else None
        spans = _spans(raw.get("tokens_positive")) if isinstance(raw, dict) else None
        if not isinstance(phrase, str) or spans is None:
            faults.add(where, f"phrase {phrase!r}", "a text with tokens_positive [[start, end], ...]")
            return
        outside = [span for span in spans if not 0 <= span[0] < span[1] <= len(parent.text)]
        if outside:
            faults.add(
                where,
                f"span {outside[0]} of {phrase!r}",
                f"offsets inside the caption of {len(parent.text)} characters",
            )
            return
        single = bool(raw.get("bbox")) and not isinstance(raw["bbox"][0], list)
        corners = [_box(value) for value in ([raw["bbox"]] if single else raw.get("bbox") or [])]
        first = len(self.boxes)
        for xyxy in corners:
            if xyxy is None:
                faults.add(where, f"bbox {raw['bbox']!r}", "one box or a list of boxes: x1, y1, x2, y2")
            elif check_box(faults, where, xyxy, image):
                self.boxes.append(Box(id=len(self.boxes), image_id=image.id, xyxy=xyxy))
        ids = tuple(range(first, len(self.boxes)))
        extra = _rest(raw, REGION_KEYS) | ({} if single else {"list": True})
        made = Phrase(
            id=len(self.phrases),
            image_id=image.id,
            text=phrase,
            parent_id=parent.id,
            spans=spans,
            box_ids=ids,
            extra=extra,
        )
        self.phrases.append(made)


def read(files: dict[str, Path], labels: Path | None = None) -> Document:
    """One document from `{split: file}` and the label map, if there is one. Faults are collected."""
    reader = Reader()
    if labels is not None:
        reader.read_labels(labels)
    for split, path in files.items():
        reader.read(path, split)
    order = {label: number for number, label in enumerate(sorted(reader.categories))}
    categories = [Category(id=order[label], name=reader.categories[label], source_id=label) for label in order]
    return Document(
        format="odvg",
        categories=categories,
        images=lambda: reader.images,
        boxes=lambda: (_renumbered(box, order) for box in reader.boxes),
        phrases=lambda: reader.phrases,
        faults=reader.faults,
    )


def write(document: Document, folder: Path) -> list[str]:
    """`SPLIT.jsonl` (`annotations.jsonl` without splits) and `label_map.json`. Returns what ODVG cannot hold."""
    labels = _labels(document.categories)
    names = {category.id: category.name for category in document.categories}
    lines: dict[str, list[bytes]] = {}
    lost = 0
    for image, boxes, phrases in document.samples():
        lost += sum(box.segmentation is not None for box in boxes)
        lines.setdefault(image.split, []).append(orjson.dumps(_line_out(image, boxes, phrases, labels, names)))
    for split, found in lines.items():
        _replace(folder / f"{split or 'annotations'}.jsonl", b"\n".join(found) + b"\n")
    if labels:
        _replace(folder / "label_map.json", orjson.dumps({str(labels[i]): names[i] for i in labels}) + b"\n")
    return [f"{lost} masks"] if lost else []


def _line_out(
    image: Image, boxes: list[Box], phrases: list[Phrase], labels: dict[int, int], names: dict[int, str]
) -> dict[str, Any]:
    halves = image.extra.get("odvg")
    extra = {key: value for key, value in image.extra.items() if key != "odvg"}
    line: dict[str, Any] = {"filename": image.file_name, "height": image.height, "width": image.width, **extra}
    classed = [box for box in boxes if box.category_id is not None]
    if classed or halves is None or "detection" in halves:
        rest = (halves or {}).get("detection", {})
        line["detection"] = {"instances": [_instance_out(box, labels, names) for box in classed], **rest}
    if phrases:
        line["grounding"] = {**_grounding_out(boxes, phrases), **(halves or {}).get("grounding", {})}
    return line


def _instance_out(box: Box, labels: dict[int, int], names: dict[int, str]) -> dict[str, Any]:
    assert box.category_id is not None
    extra = {key: value for key, value in box.extra.items() if key not in ("tags", "iscrowd")}
    return {"bbox": list(box.xyxy), "label": labels[box.category_id], "category": names[box.category_id], **extra}


def _grounding_out(boxes: list[Box], phrases: list[Phrase]) -> dict[str, Any]:
    """The first caption with its regions; phrases of further captions become regions without a caption of theirs."""
    by_id = {box.id: box for box in boxes}
    captions = [phrase for phrase in phrases if phrase.parent_id is None and phrase.holds]
    caption = captions[0].text if captions else ""
    regions = [_region_out(phrase, by_id) for phrase in phrases if captions and phrase.parent_id == captions[0].id]
    out: dict[str, Any] = {"caption": caption, "regions": regions}
    negatives = [phrase.text for phrase in phrases if not phrase.holds]
    return out | ({"negatives": negatives} if negatives else {})


def _region_out(phrase: Phrase, boxes: dict[int, Box]) -> dict[str, Any]:
    corners = [list(boxes[i].xyxy) for i in phrase.box_ids]
    extra = {key: value for key, value in phrase.extra.items() if key != "list"}
    listed = phrase.extra.get("list") or len(corners) != 1
    return {
        "bbox": corners if listed else corners[0],
        "phrase": phrase.text,
        "tokens_positive": [list(s) for s in phrase.spans],
        **extra,
    }


def _labels(categories: list[Category]) -> dict[int, int]:
    """The labels of the source where every class has a number, else 0, 1, 2, ..."""
    given = {category.id: category.source_id for category in categories if type(category.source_id) is int}
    return given if len(given) == len(categories) else {category.id: n for n, category in enumerate(categories)}


def _renumbered(box: Box, order: dict[int, int]) -> Box:
    if box.category_id is None or order[box.category_id] == box.category_id:
        return box
    return replace(box, category_id=order[box.category_id])


def _box(value: Any) -> XYXY | None:
    if isinstance(value, list) and len(value) == 4 and all(map(is_number, value)):
        return (value[0], value[1], value[2], value[3])
    return None


def _spans(value: Any) -> tuple[tuple[int, int], ...] | None:
    if not isinstance(value, list):
        return None
    pairs = [pair for pair in value if isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)]
    return tuple((a, b) for a, b in pairs) if len(pairs) == len(value) else None


def _rest(raw: dict[str, Any], known: set[str]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key not in known}


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)

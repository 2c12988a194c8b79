"""OmniLabel: free-form descriptions of objects, each with the images it is asked of, and boxes that name what they show.

A description asked of an image is a phrase there: of the boxes that name it, or false (`holds`) when none does. What a
description has besides its text is in `Phrase.extra`, under `description` its id. The format knows no sizes of images:
they are those of the files, or of the fields `width` and `height`, which Winnow writes and other readers ignore.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from db.document import Document
from db.formats import coco
from db.formats.annotations import is_id
from db.formats.checks import Faults, check_box, check_size, check_storable, climbs, is_number, is_text, short
from db.formats.reading import broken, entries, load_json, picture_size, without
from db.formats.writing import carried, replaced
from db.records import Box, Fault, Image, Phrase
from db.spool import Spool

EXPECTED = "an OmniLabel object with the lists images, descriptions and annotations"
KEYS = {"images", "descriptions", "annotations"}
IMAGE_KEYS = {"id", "file_name", "width", "height"}
DESCRIPTION_KEYS = {"id", "text", "image_ids"}
ANNOTATION_KEYS = {"id", "image_id", "bbox", "description_ids"}
CLASS = {"anno_info": {"type": "object_category"}}
ANSWER = {"anno_info": {"type": "object_description"}}


class Reader:
    """Gathers images, boxes and phrases of one or more files."""

    def __init__(self) -> None:
        self.images: Spool[Image] = Spool(Image)
        self.boxes: Spool[Box] = Spool(Box)
        self.phrases: Spool[Phrase] = Spool(Phrase)
        self.faults: list[Fault] = []
        self.info: dict[str, Any] = {"splits": {}}

    def read(self, path: Path, split: str, roots: list[Path]) -> None:
        whole = load_json(path, EXPECTED)
        if not isinstance(whole, dict) or not {"images", "descriptions"} <= whole.keys():
            raise broken(path, short(whole), EXPECTED)
        file = _File(path, split, roots, self)
        file.read_images(whole["images"])
        file.read_annotations(whole.get("annotations", []))
        file.read_descriptions(whole["descriptions"])
        fields = without(whole, KEYS)
        sound = check_storable(file.faults, f"the fields {', '.join(fields)}", fields)
        self.info["splits"][split] = fields if sound else {}
        if file.unused:
            self.info.setdefault("unused", {})[split] = file.unused
        if "annotations" not in whole:
            self.info.setdefault("unboxed", []).append(split)
        self.faults += file.faults


class _File:
    def __init__(self, path: Path, split: str, roots: list[Path], into: Reader) -> None:
        self.faults = Faults(str(path))
        self.unused: list[dict[str, Any]] = []  # descriptions asked of no image
        self._split, self._roots, self._into = split, roots, into
        self._images: dict[Any, Image] = {}
        self._named: dict[tuple[Any, int], list[int]] = {}  # boxes by description and image

    def read_images(self, listed: Any) -> None:
        for item, raw in entries(self.faults, listed, "image"):
            own, name = raw.get("id"), raw.get("file_name")
            if not is_id(own) or own in self._images:
                self.faults.add(item, f"id {short(own)}", "an id that no other image has")
            elif not is_text(name) or climbs(name):
                self.faults.add(item, f"file name {short(name)}", "a path inside the folder of the images")
            elif check_storable(self.faults, item, raw):
                self._image(f"image id {short(own)}", raw)

    def _image(self, item: str, raw: dict[str, Any]) -> None:
        size: Any = (raw.get("width"), raw.get("height"))
        if size == (None, None):
            found = picture_size(self.faults, item, self._roots, raw["file_name"])
            sized: dict[str, Any] = {"sized": False}
        else:
            found, sized = (size if check_size(self.faults, item, *size) else None), {}
        if found is not None:
            image = Image(
                id=len(self._into.images),
                file_name=raw["file_name"],
                width=found[0],
                height=found[1],
                split=self._split,
                source_id=raw["id"],
                extra=without(raw, IMAGE_KEYS) | sized,
            )
            self._images[raw["id"]] = image
            self._into.images.append(image)

    def read_annotations(self, listed: Any) -> None:
        seen: set[Any] = set()
        for item, raw in entries(self.faults, listed, "annotation"):
            own, bbox, ids = raw.get("id"), raw.get("bbox"), raw.get("description_ids")
            image = self._images.get(raw.get("image_id")) if is_id(raw.get("image_id")) else None
            if not is_id(own) or own in seen:
                self.faults.add(item, f"id {short(own)}", "an id that no other annotation has")
                continue
            seen.add(own)
            item = f"annotation id {short(own)}"
            if image is None:
                self.faults.add(item, f"image_id {short(raw.get('image_id'))}", "the id of a sound image of this file")
            elif not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
                self.faults.add(item, f"bbox {short(bbox)}", "four finite numbers: x, y, width, height")
            elif not isinstance(ids, list) or not all(map(is_id, ids)) or len(set(ids)) < len(ids):
                self.faults.add(item, f"description_ids {short(ids)}", "a list of ids, each once")
            elif check_storable(self.faults, item, raw):
                self._box(item, raw, image)

    def _box(self, item: str, raw: dict[str, Any], image: Image) -> None:
        x, y, w, h = raw["bbox"]
        xyxy = (x, y, x + w, y + h)
        if check_box(self.faults, item, xyxy, image):
            extra = without(raw, ANNOTATION_KEYS) | {"description_ids": raw["description_ids"]}
            box = Box(
                id=len(self._into.boxes), image_id=image.id, xyxy=xyxy, source_id=raw["id"], wh=(w, h), extra=extra
            )
            self._into.boxes.append(box)
            for description in raw["description_ids"]:
                self._named.setdefault((description, image.id), []).append(box.id)

    def read_descriptions(self, listed: Any) -> None:
        seen: set[Any] = set()
        for item, raw in entries(self.faults, listed, "description"):
            own, text, ids = raw.get("id"), raw.get("text"), raw.get("image_ids")
            if not is_id(own) or own in seen:
                self.faults.add(item, f"id {short(own)}", "an id that no other description has")
                continue
            seen.add(own)
            item = f"description id {short(own)}"
            if not is_text(text) or not text.strip():
                self.faults.add(item, f"text {short(text)}", "a text")
            elif not isinstance(ids, list) or not all(map(is_id, ids)) or len(set(ids)) < len(ids):
                self.faults.add(item, f"image_ids {short(ids)}", "a list of ids of images, each once")
            elif check_storable(self.faults, item, raw):
                self._description(item, raw)
        for (description, _), boxes in self._named.items():
            for box in boxes:
                own = self._into.boxes[box].source_id
                seen_there = f"description_ids with {short(description)}"
                self.faults.add(f"annotation id {short(own)}", seen_there, "descriptions asked of its image")

    def _description(self, item: str, raw: dict[str, Any]) -> None:
        if not raw["image_ids"]:
            self.unused.append(raw)
        extra = without(raw, DESCRIPTION_KEYS) | {"description": raw["id"]}
        for image_id in raw["image_ids"]:
            image = self._images.get(image_id)
            if image is None:
                self.faults.add(item, f"image_ids with {short(image_id)}", "ids of sound images of this file")
                continue
            boxes = tuple(self._named.pop((raw["id"], image.id), ()))
            phrase = Phrase(
                id=len(self._into.phrases),
                image_id=image.id,
                text=raw["text"],
                box_ids=boxes,
                holds=bool(boxes),
                extra=extra,
            )
            self._into.phrases.append(phrase)


def read(files: dict[str, Path], roots: dict[str, list[Path]]) -> Document:
    """One document from `{split: file}`; the images, whose sizes are needed, are looked for in the folders of `roots`.

    Faults are collected. Raises BadDataset for a file that cannot be read at all.
    """
    reader = Reader()
    for split, path in files.items():
        reader.read(path, split, roots[split])
    return Document(
        format="omnilabel",
        categories=[],
        info=reader.info,
        images=lambda: reader.images,
        boxes=lambda: reader.boxes,
        phrases=lambda: reader.phrases,
        faults=reader.faults,
    )


# Writing


def write(document: Document, folder: Path) -> list[str]:
    """One `SPLIT.json` per split (`annotations.json` without splits). The classes of boxes become descriptions of the
    images that show them. Returns what OmniLabel cannot hold: among it texts that hold but name no box, which would be
    taken for false ones."""
    ids = coco.Ids(document)
    files: dict[str, _Split] = {}
    file_of: dict[int, _Split] = {}
    for image in document.images():
        file_of[image.id] = files.setdefault(image.split, _Split(document, image.split, ids))
        file_of[image.id].add_image(image)
    unheld = 0
    for phrase in sorted(document.phrases(), key=lambda phrase: phrase.id):
        held = document.format == "omnilabel" or bool(phrase.box_ids) == phrase.holds
        unheld += not held
        if held:
            file_of[phrase.image_id].add_phrase(phrase)
    masks = areas = 0
    for box in document.boxes():
        masks += box.segmentation is not None or box.crowd
        areas += box.area is not None
        file_of[box.image_id].add_box(box)
    for split, file in (files or {"": _Split(document, "", ids)}).items():
        replaced(folder / f"{split or 'annotations'}.json", file.dumped())
    counts = {"captions and phrases that hold but name no box": unheld, "masks and crowd flags": masks, "areas": areas}
    return [f"{count} {what}" for what, count in counts.items() if count]


@dataclass
class _Description:
    text: str
    fields: dict[str, Any]
    id: int | str | None = None
    images: dict[int | str, None] = field(default_factory=dict)  # a set that keeps its order


class _Split:
    """A file in the making."""

    def __init__(self, document: Document, split: str, ids: coco.Ids) -> None:
        self._source, self._ids = document.format, ids
        self._own = document.format == "omnilabel"
        self._info = document.info.get("splits", {}).get(split, {})
        self._unused = document.info.get("unused", {}).get(split, []) if self._own else []
        self._boxed = not self._own or split not in document.info.get("unboxed", [])
        self._categories = {category.id: category for category in document.categories}
        self._images: list[dict[str, Any]] = []
        self._boxes: list[tuple[Box, list[_Description]]] = []
        self._descriptions: dict[Any, _Description] = {}
        self._named: dict[int, list[_Description]] = {}

    def add_image(self, image: Image) -> None:
        size = {"width": image.width, "height": image.height}
        sized = {} if self._own and image.extra.get("sized") is False else size
        fields = carried(image.extra, self._source, IMAGE_KEYS)
        self._images.append({"id": self._ids.image(image.id), "file_name": image.file_name, **sized, **fields})

    def add_phrase(self, phrase: Phrase) -> None:
        fields = carried(phrase.extra, self._source, DESCRIPTION_KEYS)
        own = phrase.extra.get("description") if self._own else None
        found = self._description((own, phrase.text), phrase.text, fields if self._own else ANSWER, own)
        found.images[self._ids.image(phrase.image_id)] = None
        for box_id in phrase.box_ids:
            self._named.setdefault(box_id, []).append(found)

    def add_box(self, box: Box) -> None:
        unique = list({id(found): found for found in self._named.get(box.id, [])}.values())
        if box.category_id is not None:
            name = self._categories[box.category_id].name
            category = self._description((None, name), name, CLASS, None)
            category.images[self._ids.image(box.image_id)] = None
            unique += [] if any(category is other for other in unique) else [category]
        self._boxes.append((box, unique))

    def _description(self, key: Any, text: str, fields: dict[str, Any], own: int | str | None) -> _Description:
        return self._descriptions.setdefault(key, _Description(text, fields, own))

    def dumped(self) -> bytes:
        """The file."""
        self._number()
        descriptions = [
            {"id": found.id, "text": found.text, "image_ids": list(found.images), **found.fields}
            for found in self._descriptions.values()
        ]
        whole: dict[str, Any] = {**self._info, "images": self._images, "descriptions": descriptions + self._unused}
        if self._boxed:
            whole["annotations"] = [self._box_out(box, descriptions) for box, descriptions in self._boxes]
        return orjson.dumps(whole, option=orjson.OPT_APPEND_NEWLINE)

    def _number(self) -> None:
        """An id for every description; one whose text was changed beside others that kept it gets a new one."""
        taken: set[Any] = {raw["id"] for raw in self._unused}
        last = max((found.id for found in self._descriptions.values() if isinstance(found.id, int)), default=0)
        last = max([last, *(key for key in taken if isinstance(key, int))])
        for found in self._descriptions.values():
            if found.id is None or found.id in taken:
                last += 1
                found.id = last
            taken.add(found.id)

    def _box_out(self, box: Box, descriptions: list[_Description]) -> dict[str, Any]:
        x1, y1, x2, y2 = box.xyxy
        w, h = box.wh or (x2 - x1, y2 - y1)
        ids = [found.id for found in descriptions]
        kept = box.extra.get("description_ids", ids) if self._own else ids
        known = {"id": self._ids.box(box.id), "image_id": self._ids.image(box.image_id), "bbox": [x1, y1, w, h]}
        named = {"description_ids": kept if set(kept) == set(ids) else ids}
        return {**known, **named, **carried(box.extra, self._source, ANNOTATION_KEYS)}

"""D3, the description detection data set: images in groups, and sentences, presence or absence, that are asked of every
image of their group.

The four files sentences, annotations, images and groups are Python pickles (read as plain data, see `pickles`) of
dictionaries by id. A sentence asked of an image is a phrase there: of the boxes it describes, or false (`holds`) when
there are none. Groups, and what sentences have besides their text, are in `Document.info`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from db.document import Document
from db.formats import coco, pickles
from db.formats.annotations import is_id
from db.formats.checks import Faults, check_box, check_size, check_storable, climbs, is_number, is_text, short
from db.formats.reading import broken, without
from db.formats.writing import Losses, carried, replaced, with_unique_ids
from db.records import Box, Fault, Image, Phrase
from db.spool import Spool

FILES = ("sentences", "annotations", "images", "groups")
IMAGE_KEYS = {"id", "file_name", "width", "height", "anno_id"}
ANNOTATION_KEYS = {"id", "image_id", "bbox", "area", "iscrowd", "segmentation", "sent_id"}
SENTENCE_KEYS = {"anno_id"}
LISTS = {"sentences": ("group_id",), "groups": ("inner_sent_id", "img_id")}


def is_d3(folder: Path) -> bool:
    """Whether a folder has the four files."""
    return all((folder / f"{name}.pkl").is_file() for name in FILES)


class Reader:
    """Gathers what the four files hold."""

    def __init__(self, folder: Path) -> None:
        self.faults = {name: Faults(str(folder / f"{name}.pkl")) for name in FILES}
        self._raw = {name: self._table(folder / f"{name}.pkl", name) for name in FILES}
        self.images: Spool[Image] = Spool(Image)
        self.boxes: Spool[Box] = Spool(Box)
        self.phrases: Spool[Phrase] = Spool(Phrase)

    def _table(self, path: Path, name: str) -> dict[Any, dict[str, Any]]:
        """The entries of a file by id, without the unsound."""
        value = pickles.load(path)
        if not isinstance(value, dict):
            raise broken(path, f"a {type(value).__name__} at the top", "a dictionary by id")
        found = {}
        for key, raw in value.items():
            item = f"{name[:-1]} {short(key)}"
            plain = _plain(raw)
            lists = LISTS.get(name, ())
            if not is_id(key) or not isinstance(plain, dict) or plain.get("id") != key:
                self.faults[name].add(item, short(plain), "an object under its own id")
            elif any(not isinstance(plain.get(part), list) or not all(map(is_id, plain[part])) for part in lists):
                self.faults[name].add(item, short(plain), f"lists of ids: {', '.join(lists)}")
            elif check_storable(self.faults[name], item, plain):
                found[key] = plain
        return found

    def read(self) -> None:
        for key, raw in list(self._raw["sentences"].items()):
            if not is_text(raw.get("raw_sent")) or not raw["raw_sent"].strip():
                self.faults["sentences"].add(
                    f"sentence {short(key)}", f"raw_sent {short(raw.get('raw_sent'))}", "a text"
                )
                del self._raw["sentences"][key]
        self._images_of = {key: image for key, raw in self._raw["images"].items() if (image := self._image(key, raw))}
        named: dict[int, dict[Any, list[int]]] = {}
        for key, raw in self._raw["annotations"].items():
            self._annotation(f"annotation {short(key)}", raw, named)
        for image in self.images:
            self._asked(image, named.get(image.id, {}))

    def info(self) -> dict[str, Any]:
        sentences = [without(raw, SENTENCE_KEYS) for raw in self._raw["sentences"].values()]
        return {"sentences": sentences, "groups": list(self._raw["groups"].values())}

    def _image(self, key: Any, raw: dict[str, Any]) -> Image | None:
        faults, item, name = self.faults["images"], f"image {short(key)}", raw.get("file_name")
        if not is_text(name) or climbs(name):
            faults.add(item, f"file name {short(name)}", "a path inside the folder of the images")
        elif raw.get("group_id") not in self._raw["groups"]:
            faults.add(item, f"group_id {short(raw.get('group_id'))}", "the id of a sound group")
        elif check_size(faults, item, raw.get("width"), raw.get("height")):
            extra = without(raw, IMAGE_KEYS)
            size = {"width": raw["width"], "height": raw["height"]}
            image = Image(id=len(self.images), file_name=name, source_id=key, extra=extra, **size)
            self.images.append(image)
            return image
        return None

    def _annotation(self, item: str, raw: dict[str, Any], named: dict[int, dict[Any, list[int]]]) -> None:
        faults, bbox, sentences = self.faults["annotations"], raw.get("bbox"), raw.get("sent_id")
        image = self._images_of.get(raw.get("image_id"))
        nested = isinstance(bbox, list) and len(bbox) == 1 and isinstance(bbox[0], list)
        xywh = bbox[0] if nested and bbox else bbox
        if image is None:
            faults.add(item, f"image_id {short(raw.get('image_id'))}", "the id of a sound image")
        elif not isinstance(sentences, list) or not all(key in self._raw["sentences"] for key in sentences):
            faults.add(item, f"sent_id {short(sentences)}", "a list of ids of sound sentences")
        elif not isinstance(xywh, list) or len(xywh) != 4 or not all(map(is_number, xywh)):
            faults.add(item, f"bbox {short(bbox)}", "four finite numbers: x, y, width, height")
        elif raw.get("iscrowd", 0) not in (0, 1) or not is_number(raw.get("area", 0)):
            faults.add(item, f"iscrowd {short(raw.get('iscrowd'))}, area {short(raw.get('area'))}", "0 or 1, a number")
        else:
            box = self._box(raw, xywh, image)
            if check_box(faults, item, box.xyxy, image):
                self.boxes.append(box)
                for key in sentences:
                    named.setdefault(image.id, {}).setdefault(key, []).append(box.id)

    def _box(self, raw: dict[str, Any], xywh: list[float], image: Image) -> Box:
        x, y, w, h = xywh
        mask = raw.get("segmentation")
        listed = (
            isinstance(mask, list) and len(mask) == 1 and isinstance(mask[0], dict)
        )  # as COCO has it without a list
        flags = {"flat": True} if raw["bbox"] is xywh else {}
        flags |= {"bare": True} if isinstance(mask, dict) else {}
        return Box(
            id=len(self.boxes),
            image_id=image.id,
            xyxy=(x, y, x + w, y + h),
            source_id=raw["id"],
            wh=(w, h),
            area=raw.get("area"),
            crowd=raw.get("iscrowd") == 1,
            segmentation=None if mask is None else orjson.dumps(mask[0] if listed else mask),
            extra=without(raw, ANNOTATION_KEYS) | {"sent_id": raw["sent_id"]} | flags,
        )

    def _asked(self, image: Image, named: dict[Any, list[int]]) -> None:
        """The sentences of the image's group, and those of others that describe something in it."""
        group = self._raw["groups"][image.extra["group_id"]]
        asked = dict.fromkeys([*(key for key in group["inner_sent_id"] if key in self._raw["sentences"]), *named])
        for key in asked:
            boxes = tuple(named.get(key, ()))
            text = self._raw["sentences"][key]["raw_sent"]
            extra = {"sentence": key}
            phrase = Phrase(
                id=len(self.phrases), image_id=image.id, text=text, box_ids=boxes, holds=bool(boxes), extra=extra
            )
            self.phrases.append(phrase)


def read(folder: Path) -> Document:
    """A folder with the four pickles. Faults are collected. Raises BadDataset for one that cannot be read or is not
    plain data."""
    reader = Reader(folder)
    reader.read()
    faults: list[Fault] = [fault for name in FILES for fault in reader.faults[name]]
    return Document(
        format="d3",
        categories=[],
        info=reader.info(),
        images=lambda: reader.images,
        boxes=lambda: reader.boxes,
        phrases=lambda: reader.phrases,
        faults=faults,
    )


def _plain(value: Any) -> Any:
    """Values as JSON has them: tuples and sets as lists, and the bytes of masks as text."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    return value.decode("latin-1") if isinstance(value, bytes) else value


# Writing


def write(document: Document, folder: Path) -> list[str]:
    """The four files. Without groups of the source, images of which the same is asked form one, so that no sentence is
    asked where nobody looked; the classes of boxes are sentences asked of the images that show them. Returns what D3
    cannot hold."""
    unique, changed = with_unique_ids(document)
    own = document.format == "d3"
    losses = Losses(*(() if own else ("records with unknown fields", "records with fields of their own format")))
    writer = _Writer(unique)
    split = 0
    for image, boxes, phrases in unique.samples():
        losses.see(image, boxes, phrases, document.format)
        writer.add(image, boxes, phrases)
        split += bool(image.split)
    for name, table in writer.tables().items():
        replaced(folder / f"{name}.pkl", pickles.dumped(table))
    counts = {"captions and phrases that hold but name no box": writer.unheld, "images of a split": split}
    return changed + losses.told() + [f"{count} {what}" for what, count in counts.items() if count]


class _Writer:
    """Gathers the four tables image by image."""

    def __init__(self, document: Document) -> None:
        self._own, self._source = document.format == "d3", document.format
        self._ids = coco.Ids(document)
        self._names = {category.id: category.name for category in document.categories}
        info = document.info if self._own else {}
        self._sentences = {raw["id"]: {**raw, "anno_id": []} for raw in info.get("sentences", [])}
        self._groups = {raw["id"]: {**raw, "img_id": []} for raw in info.get("groups", [])}
        self._sentence_ids, self._group_ids = _unused(self._sentences), _unused(self._groups)
        self._by_text = {raw["raw_sent"]: key for key, raw in self._sentences.items()}
        self._by_asked: dict[frozenset[Any], Any] = {}
        self._images: dict[Any, dict[str, Any]] = {}
        self._annotations: dict[Any, dict[str, Any]] = {}
        self.unheld = 0

    def tables(self) -> dict[str, dict[Any, dict[str, Any]]]:
        """The contents of the files by their names."""
        return dict(zip(FILES, (self._sentences, self._annotations, self._images, self._groups), strict=True))

    def add(self, image: Image, boxes: list[Box], phrases: list[Phrase]) -> None:
        named: dict[int, list[Any]] = {box.id: [] for box in boxes}
        asked: dict[Any, None] = {}
        for phrase in phrases:
            kept = phrase.extra.get("sentence") if self._own else None
            if bool(phrase.box_ids) != phrase.holds:
                self.unheld += 1
                continue
            key = kept if kept in self._sentences else self._sentence(phrase.text)
            asked[key] = None
            for box_id in phrase.box_ids:
                named[box_id].append(key)
        for box in boxes:
            if box.category_id is not None:
                key = self._sentence(self._names[box.category_id])
                asked[key] = None
                named[box.id].append(key)
        known = image.extra.get("group_id") if self._own else None
        group = known if known in self._groups else self._group(asked)
        self._image(image, boxes, group)
        for box in boxes:
            self._annotation(image, box, list(dict.fromkeys(named[box.id])), group)

    def _sentence(self, text: str) -> Any:
        if text not in self._by_text:
            key = self._by_text[text] = next(self._sentence_ids)
            blank = {"id": key, "anno_id": [], "group_id": [], "is_negative": False, "raw_sent": text}
            self._sentences[key] = blank
        return self._by_text[text]

    def _group(self, asked: dict[Any, None]) -> Any:
        known = frozenset(asked)
        if known not in self._by_asked:
            key = self._by_asked[known] = next(self._group_ids)
            lists = {"pos_sent_id": [], "inner_sent_id": list(asked), "outer_sent_id": [], "img_id": [], "scene": []}
            self._groups[key] = {"id": key, **lists, "group_name": f"group {key}"}
            for sentence in asked:
                self._sentences[sentence]["group_id"].append(key)
        return self._by_asked[known]

    def _image(self, image: Image, boxes: list[Box], group: Any) -> None:
        key = self._ids.image(image.id)
        self._groups[group]["img_id"].append(key)
        known = {"id": key, "file_name": image.file_name, "width": image.width, "height": image.height}
        fields = carried(image.extra, self._source, IMAGE_KEYS) | {"group_id": group}
        self._images[key] = {**known, "anno_id": [self._ids.box(box.id) for box in boxes], **fields}

    def _annotation(self, image: Image, box: Box, sentences: list[Any], group: Any) -> None:
        key = self._ids.box(box.id)
        x1, y1, x2, y2 = box.xyxy
        w, h = box.wh or (x2 - x1, y2 - y1)
        kept = box.extra.get("sent_id", sentences) if self._own else sentences
        ordered = kept if set(kept) == set(sentences) else sentences
        xywh = [x1, y1, w, h]
        known = {
            "id": key,
            "image_id": self._ids.image(image.id),
            "sent_id": ordered,
            "bbox": [xywh] if self._own and "flat" not in box.extra else xywh,
            "area": w * h if box.area is None else box.area,
            "iscrowd": int(box.crowd),
        }
        mask = {} if box.segmentation is None else {"segmentation": _mask(box, self._own)}
        fields = {"group_id": group} | carried(box.extra, self._source, ANNOTATION_KEYS)
        self._annotations[key] = {**known, **mask, **fields}
        for sentence in ordered:
            self._sentences[sentence]["anno_id"].append(key)
            group_raw = self._groups[group]
            if not self._own and sentence not in group_raw["pos_sent_id"]:
                group_raw["pos_sent_id"].append(sentence)


def _unused(table: dict[Any, Any]) -> Iterator[int]:
    """Whole numbers that are no keys."""
    return itertools.count(1 + max((key for key in table if isinstance(key, int)), default=0))


def _mask(box: Box, own: bool) -> Any:
    """A list of run-length masks, with their counts as bytes; polygons as they are."""
    mask = orjson.loads(box.segmentation or b"")
    parts = mask if isinstance(mask, list) else [mask]
    for part in parts:
        if isinstance(part, dict) and isinstance(part.get("counts"), str):
            part["counts"] = part["counts"].encode("latin-1")
    return mask if own and "bare" in box.extra else parts

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
from db.formats.checks import Faults, check_box, check_size, check_storable, climbs, is_number, is_text, short
from db.formats.ids import Known, Pairs, is_id
from db.formats.reading import without
from db.formats.writing import Losses, carried, side_by_side, with_unique_ids
from db.records import Box, Fault, Image, Phrase
from db.spool import Spool

FILES = ("sentences", "annotations", "images", "groups")
IMAGE_KEYS = {"id", "file_name", "width", "height", "anno_id"}
ANNOTATION_KEYS = {"id", "image_id", "bbox", "area", "iscrowd", "segmentation", "sent_id"}
BOX_BITS = 40  # of the number of a box
BOX = 2**BOX_BITS - 1
LISTS = {"sentences": ("group_id",), "groups": ("inner_sent_id",)}
BACK = {"anno_id", "img_id"}  # lists of all that refers to an entry, which are made anew


def is_d3(folder: Path) -> bool:
    """Whether a folder has the four files."""
    return all((folder / f"{name}.pkl").is_file() for name in FILES)


class Reader:
    """Gathers what the four files hold. Sentences and groups are the few that many images share, as classes are; the rest is
    put on disk as it comes."""

    def __init__(self, folder: Path) -> None:
        self.faults = {name: Faults(str(folder / f"{name}.pkl")) for name in FILES}
        self.images: Spool[Image] = Spool(Image)
        self.boxes: Spool[Box] = Spool(Box)
        self.phrases: Spool[Phrase] = Spool(Phrase)
        self._folder = folder
        self._known = Known(0)
        self._named = Pairs()  # boxes and the numbers of sentences that name them (`_naming`), by image

    def read(self) -> None:
        self._sentences = {key: raw for key, raw in self._sound("sentences") if self._says(key, raw)}
        self._numbers = {key: number for number, key in enumerate(self._sentences)}
        self._groups = dict(self._sound("groups"))
        for key, raw in self._sound("images"):
            self._image(key, raw)
        for key, raw in self._sound("annotations"):
            self._annotation(f"annotation {short(key)}", raw)
        sentences = list(self._sentences)
        for image in self.images:
            self._asked(image, sentences)

    def info(self) -> dict[str, Any]:
        return {"sentences": list(self._sentences.values()), "groups": list(self._groups.values())}

    def _sound(self, name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The entries of a file with their ids, without the unsound."""
        faults, lists = self.faults[name], LISTS.get(name, ())
        for key, entry in pickles.read(self._folder / f"{name}.pkl", dict, "a dictionary by id"):
            item = f"{name[:-1]} {short(key)}"
            raw = without(entry, BACK) if isinstance(entry, dict) else entry
            if not is_id(key) or not isinstance(raw, dict) or raw.get("id") != key:
                faults.add(item, short(raw), "an object under its own id")
            elif any(not isinstance(raw.get(part), list) or not all(map(is_id, raw[part])) for part in lists):
                faults.add(item, short(raw), f"lists of ids: {', '.join(lists)}")
            elif check_storable(faults, item, raw):
                yield key, raw

    def _says(self, key: Any, raw: dict[str, Any]) -> bool:
        text = raw.get("raw_sent")
        if not is_text(text) or not text.strip():
            self.faults["sentences"].add(f"sentence {short(key)}", f"raw_sent {short(text)}", "a text")
            return False
        return True

    def _image(self, key: Any, raw: dict[str, Any]) -> None:
        faults, item, name = self.faults["images"], f"image {short(key)}", raw.get("file_name")
        if not is_text(name) or climbs(name):
            faults.add(item, f"file name {short(name)}", "a path inside the folder of the images")
        elif not is_id(raw.get("group_id")) or raw["group_id"] not in self._groups:
            faults.add(item, f"group_id {short(raw.get('group_id'))}", "the id of a sound group")
        elif check_size(faults, item, raw.get("width"), raw.get("height")):
            extra = without(raw, IMAGE_KEYS)
            size = {"width": raw["width"], "height": raw["height"]}
            image = Image(id=len(self.images), file_name=name, source_id=key, extra=extra, **size)
            self.images.append(image)
            self._known.add(image)

    def _annotation(self, item: str, raw: dict[str, Any]) -> None:
        faults, bbox, sentences = self.faults["annotations"], raw.get("bbox"), raw.get("sent_id")
        image = self._known.image(raw.get("image_id"))
        nested = isinstance(bbox, list) and len(bbox) == 1 and isinstance(bbox[0], list)
        xywh = bbox[0] if nested and bbox else bbox
        if image is None:
            faults.add(item, f"image_id {short(raw.get('image_id'))}", "the id of a sound image")
        elif not isinstance(sentences, list) or not all(is_id(key) and key in self._sentences for key in sentences):
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
                    self._named.add(image.id, self._numbers[key] << BOX_BITS | box.id)

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

    def _asked(self, image: Image, sentences: list[Any]) -> None:
        """The sentences of the image's group, and those of others that describe something in it."""
        inner = self._groups[image.extra["group_id"]]["inner_sent_id"]
        asked: dict[Any, list[int]] = {key: [] for key in inner if key in self._sentences}
        for naming in self._named.take(image.id):
            asked.setdefault(sentences[naming >> BOX_BITS], []).append(naming & BOX)
        for key, boxes in asked.items():
            phrase = Phrase(
                id=len(self.phrases),
                image_id=image.id,
                text=self._sentences[key]["raw_sent"],
                box_ids=tuple(boxes),
                holds=bool(boxes),
                extra={"sentence": key},
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


# Writing


def write(document: Document, folder: Path) -> list[str]:
    """The four files. Without groups of the source, images of which the same is asked form one, so that no sentence is
    asked where nobody looked; the classes of boxes are sentences asked of the images that show them. Returns what D3
    cannot hold."""
    unique, changed = with_unique_ids(document)
    own = document.format == "d3"
    losses = Losses(*(() if own else ("records with unknown fields", "records with fields of their own format")))
    split = 0
    with side_by_side() as file_of:
        writer = _Writer(unique, {name: pickles.Writer(file_of(folder / f"{name}.pkl")) for name in FILES})
        for image, boxes, phrases in unique.samples():
            losses.see(image, boxes, phrases, document.format)
            writer.add(image, boxes, phrases)
            split += bool(image.split)
        writer.end()
    counts = {"captions and phrases that hold but name no box": writer.unheld, "images of a split": split}
    return changed + losses.told() + [f"{count} {what}" for what, count in counts.items() if count]


class _Writer:
    """Writes images and annotations as they come, and in the end the sentences and groups, which know all of theirs."""

    def __init__(self, document: Document, files: dict[str, pickles.Writer]) -> None:
        self._files = files
        self._own, self._source = document.format == "d3", document.format
        self._ids = coco.Ids(document)
        self._names = {category.id: category.name for category in document.categories}
        info = document.info if self._own else {}
        self._sentences = {raw["id"]: {**raw, "anno_id": []} for raw in info.get("sentences", [])}
        self._groups = {raw["id"]: {**raw, "img_id": []} for raw in info.get("groups", [])}
        self._sentence_ids, self._group_ids = _unused(self._sentences), _unused(self._groups)
        self._by_text = {raw["raw_sent"]: key for key, raw in self._sentences.items()}
        self._by_asked: dict[frozenset[Any], Any] = {}
        self.unheld = 0

    def end(self) -> None:
        for name, table in (("sentences", self._sentences), ("groups", self._groups)):
            for key, raw in table.items():
                self._files[name].add(key, raw)
        for file in self._files.values():
            file.end()

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
        self._files["images"].add(key, {**known, "anno_id": [self._ids.box(box.id) for box in boxes], **fields})

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
        self._files["annotations"].add(key, {**known, **mask, **fields})
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

"""OmniLabel: free-form descriptions of objects, each with the images it is asked of, and boxes that name what they show.

A description asked of an image is a phrase there: of the boxes that name it, or false (`holds`) when none does. What a
description has besides its text is in `Phrase.extra`, under `description` its id. The format knows no sizes of images:
they are those of the files, or of the fields `width` and `height`, which Winnow writes and other readers ignore.

A file is read chunk by chunk and written item by item: of its long lists, only whole numbers are kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
import numpy as np
import orjson

from db.bulk import batched
from db.document import Document
from db.formats import coco
from db.formats.checks import Faults, check_box, check_size, check_storable, climbs, is_number, is_text, short
from db.formats.ids import Id, Id64, IdList, Known, Next, Numbers, Pairs, is_id, places_of
from db.formats.jsonstream import Chunk, JsonFile
from db.formats.reading import objects, picture_size, without
from db.formats.writing import carried, side_by_side
from db.records import Box, Fault, Image, Phrase
from db.spool import Spool, in_order

R = TypeVar("R", Box, Phrase)

EXPECTED = "an OmniLabel object with the lists images, descriptions and annotations"
LISTS = {"images": "image", "descriptions": "description", "annotations": "annotation"}
IMAGE_KEYS = {"id", "file_name", "width", "height"}
DESCRIPTION_KEYS = {"id", "text", "image_ids"}
ANNOTATION_KEYS = {"id", "image_id", "bbox", "description_ids"}
CLASS = {"anno_info": {"type": "object_category"}}
ANSWER = {"anno_info": {"type": "object_description"}}


# Reading


class Reader:
    """Gathers images, boxes and phrases of one or more files."""

    def __init__(self) -> None:
        self.images: Spool[Image] = Spool(Image)
        self.boxes: Spool[Box] = Spool(Box)
        self.phrases: Spool[Phrase] = Spool(Phrase)
        self.faults: list[Fault] = []
        self.info: dict[str, Any] = {"splits": {}}

    def read(self, path: Path, split: str, roots: list[Path]) -> None:
        file = _File(path, split, roots, self)
        file.read()
        fields = file.fields
        sound = check_storable(file.faults, f"the fields {', '.join(fields)}", fields)
        self.info["splits"][split] = fields if sound else {}
        if file.unused:
            self.info.setdefault("unused", {})[split] = file.unused
        if not file.boxed:
            self.info.setdefault("unboxed", []).append(split)
        self.faults += file.faults


class _Identified(msgspec.Struct, gc=False):
    """An object of a list, of which only the id is read."""

    id: Id64


class _List:
    """A list of the file, of which the ids are kept, and where the chunks are that are gone through again."""

    def __init__(self, file: JsonFile, kind: str) -> None:
        self._file, self._kind = file, kind
        self._chunks: list[Chunk] = []
        self.ids = IdList()

    def add(self, chunk: Chunk) -> None:
        self._chunks.append(chunk._replace(items=[]))
        self.ids.extend([_id(item) for item in chunk.items])

    def objects(self, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
        """Those of the list with their places; what is no object becomes a fault."""
        again = (self._file.again(chunk.start, chunk.end, Any) for chunk in self._chunks)
        return objects(faults, chain.from_iterable(again), self._kind)

    def identified(self, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
        """The objects with an id of their own and names such as "annotation id 7"; the others become faults."""
        repeated = set(self.ids.repeated().tolist())
        for number, raw in self.objects(faults):
            own = raw.get("id")
            if is_id(own) and number not in repeated:
                yield f"{self._kind} id {short(own)}", raw
            else:
                faults.add(f"{self._kind} #{number}", f"id {short(own)}", f"an id that no other {self._kind} has")


def _id(item: Any) -> Id | None:
    own = item.id if isinstance(item, _Identified) else item.get("id") if isinstance(item, dict) else None
    return own if is_id(own) else None


class _File:
    """One OmniLabel file."""

    def __init__(self, path: Path, split: str, roots: list[Path], into: Reader) -> None:
        self.faults = Faults(str(path))
        self.fields: dict[str, Any] = {}  # those that Winnow has no use for
        self.unused: list[dict[str, Any]] = []  # descriptions asked of no image
        self.boxed = True  # whether there is a list of annotations
        self._split, self._roots, self._into = split, roots, into
        self._file = JsonFile(path, EXPECTED)
        self._known = Known(len(into.images))
        self._first_box = len(into.boxes)
        self._named = Pairs()  # boxes by description and image, see `_asked`

    def read(self) -> None:
        """Add the sound images, boxes and phrases; the others become faults."""
        lists = self._scanned()
        self._images(lists.pop("images"))
        self._place_of = places_of(lists["descriptions"].ids.arrays())
        for item, raw in lists.pop("annotations").identified(self.faults):
            self._annotation(item, raw)
        for item, raw in lists.pop("descriptions").identified(self.faults):
            self._description(item, raw)
        self._refuse_unasked()

    def _scanned(self) -> dict[str, _List]:
        lists = {key: _List(self._file, kind) for key, kind in LISTS.items()}
        found = set()
        for key, value in self._file.scan(dict.fromkeys(LISTS, _Identified)):
            found.add(key)
            if key not in LISTS:
                self.fields[key] = value
            elif isinstance(value, Chunk):
                lists[key].add(value)
            else:
                self.faults.add(key, short(value), "a list")
        for key in ("images", "descriptions"):
            if key not in found:
                raise self._file.broken(f"no {key}")
        self.boxed = "annotations" in found
        return lists

    def _images(self, listed: _List) -> None:
        for number, raw in listed.objects(self.faults):
            item, own, name = f"image #{number}", raw.get("id"), raw.get("file_name")
            if not is_id(own) or own in self._known.images.ordinal:
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
            self._known.add(image)
            self._into.images.append(image)

    def _annotation(self, item: str, raw: dict[str, Any]) -> None:
        bbox, ids, image = raw.get("bbox"), raw.get("description_ids"), self._known.image(raw.get("image_id"))
        if image is None:
            self.faults.add(item, f"image_id {short(raw.get('image_id'))}", "the id of a sound image of this file")
        elif not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
            self.faults.add(item, f"bbox {short(bbox)}", "four finite numbers: x, y, width, height")
        elif not _are_ids(ids):
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
                self._named.add(self._asked(description, image.id), box.id)

    def _asked(self, description: Id, image: int) -> int:
        """One number for the two."""
        return self._place_of(description) << 32 | image

    def _description(self, item: str, raw: dict[str, Any]) -> None:
        text, ids = raw.get("text"), raw.get("image_ids")
        if not is_text(text) or not text.strip():
            self.faults.add(item, f"text {short(text)}", "a text")
        elif not _are_ids(ids):
            self.faults.add(item, f"image_ids {short(ids)}", "a list of ids of images, each once")
        elif check_storable(self.faults, item, raw):
            self.unused += [] if raw["image_ids"] else [raw]
            self._phrases(item, raw)

    def _phrases(self, item: str, raw: dict[str, Any]) -> None:
        extra = without(raw, DESCRIPTION_KEYS) | {"description": raw["id"]}
        for image_id in raw["image_ids"]:
            image = self._known.images.ordinal.get(image_id)
            if image is None:
                self.faults.add(item, f"image_ids with {short(image_id)}", "ids of sound images of this file")
                continue
            boxes = tuple(self._named.take(self._asked(raw["id"], image)))
            phrase = Phrase(
                id=len(self._into.phrases),
                image_id=image,
                text=raw["text"],
                box_ids=boxes,
                holds=bool(boxes),
                extra=extra,
            )
            self._into.phrases.append(phrase)

    def _refuse_unasked(self) -> None:
        """Faults for descriptions that boxes name but that were not asked of their images."""
        if all(self._named.taken):
            return
        boxes = islice(self._into.boxes, self._first_box, None)
        named = ((box, description) for box in boxes for description in box.extra["description_ids"])
        for (box, description), taken in zip(named, self._named.taken, strict=True):
            if not taken:
                seen = f"description_ids with {short(description)}"
                self.faults.add(f"annotation id {short(box.source_id)}", seen, "descriptions asked of its image")


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_id, value)) and len(set(value)) == len(value)


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
    with side_by_side() as file_of:
        files = _Files(document, lambda split: file_of(folder / f"{split or 'annotations'}.json"))
        files.images()
        files.descriptions()
        files.annotations()
    return [f"{count} {what}" for what, count in files.lost.items() if count]


class _Files:
    """The files of the splits, written side by side."""

    def __init__(self, document: Document, file_of: Callable[[str], IO[bytes]]) -> None:
        self._document, self._file_of = document, file_of
        self._own = document.format == "omnilabel"
        self._ids = coco.Ids(document)
        self._splits: dict[str, _Split] = {}
        self._split_of = array("I")  # the number of its split, of every image in their order
        self.lost = dict.fromkeys(
            ("captions and phrases that hold but name no box", "masks and crowd flags", "areas"), 0
        )

    def _split(self, name: str) -> _Split:
        if name not in self._splits:
            self._splits[name] = _Split(self._document, name, len(self._splits), self._file_of(name))
        return self._splits[name]

    def _placed(self, records: Iterable[R]) -> Iterator[tuple[_Split, int, R]]:
        """Records with the split of their image, and its place among all images."""
        splits = list(self._splits.values())
        for page in batched(records, coco.PAGE):
            places = self._ids.images.places([record.image_id for record in page]).tolist()
            for place, record in zip(places, page, strict=True):
                yield splits[self._split_of[place]], place, record

    def images(self) -> None:
        for image in self._ids.passing():
            split = self._split(image.split)
            split.write_image(image, self._ids.image(image.id))
            self._split_of.append(split.number)
        if not self._splits:
            self._split("")

    def descriptions(self) -> None:
        for split, place, phrase in self._placed(in_order(self._document.phrases, Phrase, attrgetter("id"))):
            if self._own or bool(phrase.box_ids) == phrase.holds:
                split.add_phrase(phrase, place)
            else:
                self.lost["captions and phrases that hold but name no box"] += 1
        for split, place, box in self._placed(self._document.boxes() if self._document.categories else ()):
            split.add_class(box, place)
        for split in self._splits.values():
            split.write_descriptions(self._ids.images)

    def annotations(self) -> None:
        unnamed = Next(lambda: (box.source_id for box in self._document.boxes()))
        for split, _, box in self._placed(self._document.boxes()):
            self.lost["masks and crowd flags"] += box.segmentation is not None or box.crowd
            self.lost["areas"] += box.area is not None
            own = unnamed() if box.source_id is None else box.source_id
            split.write_box(box, own, self._ids.image(box.image_id))
        for split in self._splits.values():
            split.end()


@dataclass(slots=True)
class _Description:
    number: int
    text: str
    fields: str  # the rest of the object, as JSON; as bytes, orjson would hold on to a kilobyte for each
    id: Id | None


class _Split:
    """A file in the making."""

    def __init__(self, document: Document, split: str, number: int, file: IO[bytes]) -> None:
        self.number = number
        self._source = document.format
        self._own = document.format == "omnilabel"
        self._unused = document.info.get("unused", {}).get(split, []) if self._own else []
        self._boxed = not self._own or split not in document.info.get("unboxed", [])
        self._names = {category.id: category.name for category in document.categories}
        self._descriptions: dict[Any, _Description] = {}
        self._asked = Pairs()  # places of images by the numbers of descriptions
        self._named = Pairs()  # numbers of descriptions by boxes
        self._out = _Object(file, without(document.info.get("splits", {}).get(split, {}), set(LISTS)))
        self._out.begin("images")

    def write_image(self, image: Image, own: Id) -> None:
        size = {"width": image.width, "height": image.height}
        sized = {} if self._own and image.extra.get("sized") is False else size
        fields = carried(image.extra, self._source, IMAGE_KEYS)
        self._out.item({"id": own, "file_name": image.file_name, **sized, **fields})

    def add_phrase(self, phrase: Phrase, place: int) -> None:
        """`place`: of its image."""
        fields = carried(phrase.extra, self._source, DESCRIPTION_KEYS) if self._own else ANSWER
        own = phrase.extra.get("description") if self._own else None
        found = self._description(phrase.text, fields, own)
        self._asked.add(found.number, place)
        for box_id in phrase.box_ids:
            self._named.add(box_id, found.number)

    def add_class(self, box: Box, place: int) -> None:
        if box.category_id is not None:
            found = self._description(self._names[box.category_id], CLASS, None)
            self._asked.add(found.number, place)
            self._named.add(box.id, found.number)

    def _description(self, text: str, fields: dict[str, Any], own: Id | None) -> _Description:
        """That of a text, the same for all phrases that had it from the same one, `own`."""
        if (own, text) not in self._descriptions:
            number = len(self._descriptions)
            self._descriptions[own, text] = _Description(number, text, orjson.dumps(fields).decode(), own)
        return self._descriptions[own, text]

    def write_descriptions(self, images: Numbers) -> None:
        self._number()
        self._out.begin("descriptions")
        asked, self._asked = self._asked, Pairs()
        for found in self._descriptions.values():
            places = np.fromiter(dict.fromkeys(asked.take(found.number)), np.int64)
            self._out.item({"id": found.id, "text": found.text, "image_ids": images.at(places)}, found.fields)
        for raw in self._unused:
            self._out.item(raw)
        self._ids = [found.id for found in self._descriptions.values()]

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

    def write_box(self, box: Box, own: Id, image: Id) -> None:
        x1, y1, x2, y2 = box.xyxy
        w, h = box.wh or (x2 - x1, y2 - y1)
        ids = [self._ids[number] for number in dict.fromkeys(self._named.take(box.id))]
        kept = box.extra.get("description_ids", ids) if self._own else ids
        known = {"id": own, "image_id": image, "bbox": [x1, y1, w, h]}
        named = {"description_ids": kept if set(kept) == set(ids) else ids}
        self._out.begin("annotations")
        self._out.item({**known, **named, **carried(box.extra, self._source, ANNOTATION_KEYS)})

    def end(self) -> None:
        if self._boxed:
            self._out.begin("annotations")
        self._out.end()


class _Object:
    """A JSON object whose lists are written item by item."""

    def __init__(self, file: IO[bytes], fields: dict[str, Any]) -> None:
        self._file = file
        self._list: str | None = None
        self._comma = b"," if fields else b""  # before whatever comes next
        self._file.write(orjson.dumps(fields)[:-1])

    def begin(self, key: str) -> None:
        """The list under a key, unless it has begun."""
        if key != self._list:
            self._end_list()
            self._file.write(self._comma + orjson.dumps(key) + b":[")
            self._list, self._comma = key, b""

    def item(self, value: dict[str, Any], fields: str = "{}") -> None:
        """The next of the list; `fields` are more of its fields, as JSON."""
        data = orjson.dumps(value)
        self._file.write(self._comma + (data if fields == "{}" else data[:-1] + b"," + fields[1:].encode()))
        self._comma = b","

    def _end_list(self) -> None:
        if self._list is not None:
            self._file.write(b"]")
            self._comma = b","

    def end(self) -> None:
        self._end_list()
        self._file.write(b"}\n")

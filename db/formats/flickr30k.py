"""Flickr30k Entities: `Sentences/ID.txt` has a caption a line with its phrases marked, `[/EN#5/people two men] sit`;
`Annotations/ID.xml` the boxes of the entities, several names to a box where phrases share it.

A line is a caption; a marked phrase points to it with its span and the boxes of its entity. Number and kinds of the
entity are in `Phrase.extra`. What the XML says besides is kept in `Image.extra` and `Box.extra`, tag for tag. Lists of
ids such as train.txt are the splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from db.document import Document
from db.errors import WinnowError
from db.formats import xmltree
from db.formats.checks import Faults, check_box, check_size, climbs, is_split, is_text, short
from db.formats.writing import Losses, replaced
from db.formats.xmltree import Tag
from db.records import XYXY, Box, Fault, Image, Phrase
from db.spool import Spool

SPLITS = ("train", "val", "test")
MARK = re.compile(r"\[/EN#(\d{1,18})((?:/[\w-]+)*) ([^\[\]]+)\]", re.ASCII)
KIND = ["other"]  # of an entity that another format names
MAX_SENTENCES = 2**20  # bytes
KEPT = ("entity", "types")
HELD_NEVER = ("masks", "crowd flags", "areas")
HELD_OF_FLICKR30K = ("ids of images and boxes", "records with unknown fields")


class Reader:
    """Gathers images with their captions, phrases and boxes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: Spool[Image] = Spool(Image)
        self.boxes: Spool[Box] = Spool(Box)
        self.phrases: Spool[Phrase] = Spool(Phrase)
        self.faults: list[Fault] = []

    def read(self, stem: str, split: str) -> None:
        path, text = self.folder / "Annotations" / f"{stem}.xml", self.folder / "Sentences" / f"{stem}.txt"
        faults, spoken = Faults(str(path)), Faults(str(text))
        if path.is_file() and text.is_file():
            root = xmltree.parse(path, faults)
            image = None if root is None else self._image(stem, root[0], split, faults)
            if image is not None:
                named = self._objects(root[0] if root else [], image, faults)
                self._sentences(text, image, named, spoken)
        else:
            missing = text if path.is_file() else path
            faults.add("the whole file", f"no {missing.parent.name}/{missing.name}", "annotations and sentences")
        self.faults += [*faults, *spoken]

    def _image(self, stem: str, fields: list[Tag], split: str, faults: Faults) -> Image | None:
        name, size = xmltree.first(fields, "filename"), xmltree.texts(xmltree.first(fields, "size"))
        if not isinstance(name, str) or climbs(name):
            faults.add("filename", short(name), "the name of an image file")
            return None
        width, height = xmltree.whole(size.get("width")), xmltree.whole(size.get("height"))
        if width is None or height is None or not check_size(faults, "size", width, height):
            if width is None or height is None:
                faults.add("size", f"{size.get('width')!r} x {size.get('height')!r}", "whole numbers of pixels")
            return None
        tags = [["filename", None] if tag[0] == "filename" else tag for tag in fields if tag[0] != "object"]
        objects = [tag for tag in fields if tag[0] == "object"]
        unboxed = [[number, tag[1]] for number, tag in enumerate(objects) if not _bndbox(tag)]
        extra = {"stem": stem, "tags": tags} | ({"unboxed": unboxed} if unboxed else {})
        image = Image(id=len(self.images), file_name=name, width=width, height=height, split=split, extra=extra)
        self.images.append(image)
        return image

    def _objects(self, fields: list[Tag], image: Image, faults: Faults) -> dict[str, list[int]]:
        """Boxes by entity."""
        named: dict[str, list[int]] = {}
        for number, tag in enumerate(tag for tag in fields if tag[0] == "object"):
            names = [part[1] for part in tag[1] if part[0] == "name"] if isinstance(tag[1], list) else []
            item = f"object #{number} ({short(' '.join(map(str, names)))})"
            if not names or not all(isinstance(name, str) and name for name in names):
                faults.add(item, f"names {short(names)}", "the number of an entity at least")
            elif _bndbox(tag):
                xyxy = xmltree.corners(_bndbox(tag))
                if xyxy is None:
                    faults.add(
                        item, f"bndbox {short(_bndbox(tag))}", "finite numbers xmin, ymin, xmax, ymax, each once"
                    )
                elif check_box(faults, item, xyxy, image):
                    usual = tag[1:] == [_object(names, xmltree.bndbox(xyxy))]
                    extra: dict[str, Any] = {"names": names} | ({} if usual else {"tags": tag[1:]})
                    for name in dict.fromkeys(names):
                        named.setdefault(name, []).append(len(self.boxes))
                    self.boxes.append(Box(id=len(self.boxes), image_id=image.id, xyxy=xyxy, extra=extra))
        return named

    def _sentences(self, path: Path, image: Image, named: dict[str, list[int]], faults: Faults) -> None:
        data = path.read_bytes()[: MAX_SENTENCES + 1]
        try:
            lines = data.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            faults.add("the whole file", f"byte {error.start} is no UTF-8", "text in UTF-8")
            return
        if len(data) > MAX_SENTENCES:
            faults.add("the whole file", f"more than {MAX_SENTENCES} bytes", f"at most {MAX_SENTENCES} bytes")
            return
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._sentence(f"line {number}", line.removesuffix("\r"), image, named, faults)

    def _sentence(self, item: str, line: str, image: Image, named: dict[str, list[int]], faults: Faults) -> None:
        text, marks = unmarked(line)
        if "[/EN#" in text or not is_text(text):
            faults.add(item, short(text), "phrases as [/EN#number/kind words], none within another")
            return
        caption = Phrase(id=len(self.phrases), image_id=image.id, text=text)
        self.phrases.append(caption)
        for (start, end), entity, types in marks:
            place = Phrase(
                id=len(self.phrases),
                image_id=image.id,
                text=text[start:end],
                parent_id=caption.id,
                spans=((start, end),),
                box_ids=tuple(named.get(entity, ())),
                extra={"entity": entity, "types": types},
            )
            self.phrases.append(place)


def unmarked(line: str) -> tuple[str, list[tuple[tuple[int, int], str, list[str]]]]:
    """The text of a line without its marks, and (span, entity, kinds) of every mark."""
    parts: list[str] = []
    marks = []
    length = end = 0
    for match in MARK.finditer(line):
        before, words = line[end : match.start()], match[3]
        start = length + len(before)
        length = start + len(words)
        parts += (before, words)
        marks.append(((start, length), match[1], match[2].split("/")[1:]))
        end = match.end()
    return "".join([*parts, line[end:]]), marks


def marked(text: str, marks: list[tuple[tuple[int, int], str, list[str]]]) -> str:
    """The inverse of `unmarked`, for marks in order."""
    parts: list[str] = []
    end = 0
    for (start, stop), entity, types in marks:
        parts += (text[end:start], f"[{'/'.join([f'/EN#{entity}', *types])} {text[start:stop]}]")
        end = stop
    return "".join([*parts, text[end:]])


def read(folder: Path) -> Document:
    """A folder with Annotations/ and Sentences/. Faults are collected; a caption or box with a fault is left out alone."""
    reader = Reader(folder)
    stems = sorted({path.stem for kind in ("Annotations/*.xml", "Sentences/*.txt") for path in folder.glob(kind)})
    for stem, split in _splits(folder, stems, reader.faults).items():
        reader.read(stem, split)
    return Document(
        format="flickr30k",
        categories=[],
        images=lambda: reader.images,
        boxes=lambda: reader.boxes,
        phrases=lambda: reader.phrases,
        faults=reader.faults,
    )


def _splits(folder: Path, stems: list[str], faults: list[Fault]) -> dict[str, str]:
    """Split by image: those listed first, in the order of the lists. Other text files beside the lists are none."""
    there, found = set(stems), dict[str, str]()
    for path in sorted(folder.glob("*.txt"), key=lambda path: (path.stem not in SPLITS, path.stem)):
        own = Faults(str(path))
        names = [line.strip() for line in path.read_bytes().decode(errors="replace").splitlines() if line.strip()]
        unknown = [name for name in names if name not in there]
        if path.stem in SPLITS:
            for name in unknown:
                own.add(short(name), "listed without annotation", f"Annotations/{short(name)[1:-1]}.xml")
        if is_split(path.stem) and (path.stem in SPLITS or (names and not unknown)):
            for name in names:
                if found.setdefault(name, path.stem) != path.stem:
                    own.add(short(name), f"listed in {found[name]}.txt too", "every image in one list")
        faults += own
    return {name: split for name, split in found.items() if name in there} | {
        name: "" for name in stems if name not in found
    }


def _bndbox(tag: Tag) -> Any:
    return xmltree.first(tag[1], "bndbox") if isinstance(tag[1], list) else None


def _object(names: list[str], bndbox: list[Tag]) -> list[Tag]:
    return [*(["name", name] for name in names), ["bndbox", bndbox]]


# Writing


def write(document: Document, folder: Path) -> list[str]:
    """Annotations/*.xml, Sentences/*.txt and lists of the splits. Returns what Flickr30k Entities cannot hold.

    A phrase needs whole words of its caption to itself; corners are whole pixels. Raises WinnowError for two images whose
    files would have one name.
    """
    own = document.format == "flickr30k"
    losses = Losses(*HELD_NEVER, *(() if own else HELD_OF_FLICKR30K))
    writer = _Writer(document)
    splits: dict[str, list[str]] = {}
    for kind in ("Annotations", "Sentences"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for image, boxes, phrases in document.samples():
        losses.see(image, boxes, phrases, document.format)
        stem = _stem(image, own)
        if (folder / "Annotations" / f"{stem}.xml").exists():
            raise WinnowError(f"Two images would be annotated in {stem}.xml. Rename one, or export their splits alone.")
        splits.setdefault(image.split, []).append(stem)
        root, lines = writer.sample(image, boxes, phrases)
        replaced(folder / "Annotations" / f"{stem}.xml", root)
        replaced(folder / "Sentences" / f"{stem}.txt", "".join(f"{line}\n" for line in lines).encode())
    for split, stems in splits.items():
        if split:
            replaced(folder / f"{split}.txt", "".join(f"{stem}\n" for stem in stems).encode())
    return losses.told() + writer.told()


def _stem(image: Image, own: bool) -> str:
    stem = image.extra.get("stem") if own else None
    return stem or image.file_name.rsplit(".", 1)[0].replace("/", "_").replace("\\", "_")


class _Writer:
    """Writes images one by one, and counts what cannot be held."""

    def __init__(self, document: Document) -> None:
        self._own = document.format == "flickr30k"
        self._last = max(
            (int(p.extra["entity"]) for p in document.phrases() if "entity" in p.extra) if self._own else (), default=0
        )
        self._lost: dict[str, int] = {}

    def told(self) -> list[str]:
        return [f"{count} {what}" for what, count in self._lost.items() if count]

    def _lose(self, what: str, count: int = 1) -> None:
        self._lost[what] = self._lost.get(what, 0) + count

    def sample(self, image: Image, boxes: list[Box], phrases: list[Phrase]) -> tuple[bytes, list[str]]:
        """The XML of an image, and the lines of its sentences."""
        entities: dict[tuple[int, ...], str] = {}  # phrases of the same boxes name one entity
        named: dict[int, list[str]] = {}
        lines = []
        self._lose("texts that are false", sum(not phrase.holds for phrase in phrases))
        for caption in phrases:
            if caption.holds and caption.parent_id is None:
                if "\n" in caption.text or "\r" in caption.text or not caption.text.strip():
                    self._lose("captions of several lines or none")
                    continue
                places = [phrase for phrase in phrases if phrase.parent_id == caption.id and phrase.holds]
                whole = [caption] if caption.box_ids else []
                kept = list(self._standing(caption, places or whole))
                self._lose("captions as a whole that name boxes", len(whole) if places else 0)
                marks = [self._mark(phrase, span, entities, named) for phrase, span in kept]
                lines.append(marked(caption.text, marks))
        return self._xml(image, boxes, named), lines

    def _standing(self, caption: Phrase, places: list[Phrase]) -> Iterator[tuple[Phrase, tuple[int, int]]]:
        """The phrases that a line can mark, in order, with their spans."""
        end = 0
        spans = {p.id: p.spans if p is not caption else ((0, len(p.text)),) for p in places}
        for phrase in sorted(places, key=lambda phrase: spans[phrase.id][:1]):
            span = spans[phrase.id][0] if len(spans[phrase.id]) == 1 else (0, 0)
            if self._stands(caption.text, phrase.text, span) and span[0] >= end:
                end = span[1]
                yield phrase, span
            else:
                self._lose("phrases that have no whole words of their caption to themselves")

    def _stands(self, text: str, phrase: str, span: tuple[int, int]) -> bool:
        start, end = span
        alone = not text[:start][-1:].strip() and not text[end:][:1].strip()
        return (
            text[start:end] == phrase and bool(phrase.strip()) and (self._own or alone) and not set("[]") & set(phrase)
        )

    def _mark(
        self, phrase: Phrase, span: tuple[int, int], entities: dict[tuple[int, ...], str], named: dict[int, list[str]]
    ) -> tuple[tuple[int, int], str, list[str]]:
        kept = phrase.extra if self._own else {}
        entity = kept.get("entity") or entities.get(phrase.box_ids)
        if entity is None:
            self._last += 1
            entity = str(self._last)
        if "entity" not in kept and phrase.box_ids:
            entities[phrase.box_ids] = entity
        for box_id in phrase.box_ids:
            if entity not in named.setdefault(box_id, []):
                named[box_id].append(entity)
        return span, entity, kept.get("types", KIND)

    def _xml(self, image: Image, boxes: list[Box], named: dict[int, list[str]]) -> bytes:
        size: list[Tag] = [["width", str(image.width)], ["height", str(image.height)], ["depth", "3"]]
        blank: list[Tag] = [["filename", None], ["size", size]]
        extra = image.extra if self._own else {}
        tags = [["filename", image.file_name] if tag[0] == "filename" else tag for tag in extra.get("tags", blank)]
        objects = [[tag] for box in boxes if (tag := self._object(box, named.get(box.id, []))) is not None]
        for number, kept in extra.get("unboxed", []):
            objects.insert(number, [kept])
        root = ElementTree.Element("annotation")
        xmltree.fill(root, [*tags, *(["object", *tag] for tag in objects)])
        ElementTree.indent(root, "\t")
        return ElementTree.tostring(root) + b"\n"

    def _object(self, box: Box, entities: list[str]) -> list[Tag] | None:
        """The tags of a box, by the names it had and those of the phrases that name it now."""
        kept = box.extra.get("names", []) if self._own else []
        names = [*kept, *(entity for entity in entities if entity not in kept)]
        if not names:
            self._lose("boxes that no phrase names")
            return None
        if self._own and names == kept and "tags" in box.extra:
            tags = box.extra["tags"][0]
            if xmltree.corners(xmltree.first(tags, "bndbox")) == box.xyxy:
                return list(tags)
        return _object(names, xmltree.bndbox(self._whole(box.xyxy)))

    def _whole(self, xyxy: XYXY) -> XYXY:
        x1, y1, x2, y2 = map(round, xyxy)
        pixels = (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1))
        self._lose("boxes rounded to whole pixels", int(pixels != tuple(xyxy)))
        return pixels

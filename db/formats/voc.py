"""Pascal VOC: one XML file per image, corners 1-based and inclusive, splits as lists of names in ImageSets/Main.

Inside Winnow `x1 = xmin - 1` and `x2 = xmax`, so that a box covers whole pixels; writing adds the 1 again. Where that
sum would not give back the digits of the file (fractions, an unusual spelling or order) the corners are kept as they
were.
White space around a text is not kept.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from db.document import Document
from db.errors import WinnowError
from db.formats import xmltree
from db.formats.checks import Faults, check_box, check_size, climbs, short
from db.formats.writing import Losses, replaced
from db.formats.xmltree import Tag
from db.records import XYXY, Box, Category, Fault, Image
from db.spool import Spool

SPLITS = ("train", "val", "test")  # the most specific lists come first; trainval is what is in neither
HELD_NEVER = ("masks", "crowd flags", "areas", "boxes without a category", "captions and phrases")
HELD_OF_VOC = ("ids of images and boxes", "records with unknown fields", "records with fields of their own format")
UNWRITABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")


class Reader:
    """Gathers images and boxes; classes are numbered as they appear."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.images: Spool[Image] = Spool(Image)
        self.boxes: Spool[Box] = Spool(Box)
        self.faults: list[Fault] = []

    def read(self, path: Path, split: str) -> None:
        faults = Faults(str(path))
        root = xmltree.parse(path, faults)
        image = None if root is None else self._image(path, *root, split, faults)
        if image is not None:
            self.images.append(image)
        self.faults += faults

    def _image(
        self, path: Path, fields: list[Tag], attributes: dict[str, str], split: str, faults: Faults
    ) -> Image | None:
        name, size = xmltree.first(fields, "filename"), xmltree.texts(xmltree.first(fields, "size"))
        if not isinstance(name, str) or climbs(name):
            faults.add("filename", short(name), "the name of a file in JPEGImages")
            return None
        width, height = xmltree.whole(size.get("width")), xmltree.whole(size.get("height"))
        if width is None or height is None:
            faults.add("size", f"{size.get('width')!r} x {size.get('height')!r}", "whole numbers of pixels")
            return None
        if not check_size(faults, "size", width, height):
            return None
        tags = [tag if tag[0] != "filename" else ["filename", None, *tag[2:]] for tag in fields if tag[0] != "object"]
        extra: dict[str, Any] = {"tags": tags, "stem": path.stem}
        if attributes:
            extra["attributes"] = attributes
        image = Image(id=len(self.images), file_name=name, width=width, height=height, split=split, extra=extra)
        for number, tag in enumerate(tag for tag in fields if tag[0] == "object"):
            self._object(tag, f"object #{number}", image, faults)
        return image

    def _object(self, whole: Tag, item: str, image: Image, faults: Faults) -> None:
        tags = whole[1] if isinstance(whole[1], list) else []
        name, bndbox = xmltree.first(tags, "name"), xmltree.first(tags, "bndbox")
        if not isinstance(name, str) or not name:
            faults.add(item, "no name", "the name of a class")
            return
        item = f"{item} ({name})"
        xyxy = xmltree.corners(bndbox)
        if xyxy is None:
            faults.add(item, f"bndbox {short(bndbox)}", "finite numbers xmin, ymin, xmax, ymax, each once")
        elif check_box(faults, item, xyxy, image):
            category = self.names.setdefault(name, len(self.names))
            extra: dict[str, Any] = {"tags": _blanked(tags, xyxy)}
            if len(whole) > 2:
                extra["attributes"] = whole[2]
            box = Box(id=len(self.boxes), image_id=image.id, xyxy=xyxy, category_id=category, extra=extra)
            self.boxes.append(box)


def read(folder: Path) -> Document:
    """A folder with Annotations/, and ImageSets/Main/ where there are splits. Faults are collected."""
    reader = Reader()
    lists = _lists(folder, reader.faults)
    files = {path.stem: path for path in sorted((folder / "Annotations").glob("*.xml"))}
    listed_in = {name: split for split, listed in reversed(lists.items()) for name in listed}
    missing = Faults(str(folder / "ImageSets/Main"))
    for name in sorted(listed_in.keys() - files.keys()):
        missing.add(
            f"{name} in {listed_in[name]}.txt", "listed without annotation", f"Annotations/{short(name)[1:-1]}.xml"
        )
    reader.faults += missing
    split_of = {name: listed_in[name] for listed in lists.values() for name in listed if name in files}
    for name in [*split_of, *(name for name in files if name not in split_of)]:
        reader.read(files[name], split_of.get(name, ""))
    return Document(
        format="voc",
        categories=[Category(id=number, name=name) for name, number in reader.names.items()],
        info=_more_lists(lists, split_of),
        images=lambda: reader.images,
        boxes=lambda: reader.boxes,
        faults=reader.faults,
    )


def _lists(folder: Path, faults: list[Fault]) -> dict[str, list[str]]:
    """Names by list, the most specific list first. Lists per class, which have a second column, are left out."""
    found: dict[str, list[str]] = {}
    paths = sorted((folder / "ImageSets/Main").glob("*.txt"))
    for path in sorted(paths, key=lambda path: SPLITS.index(path.stem) if path.stem in SPLITS else len(SPLITS)):
        try:
            lines = path.read_bytes().decode().split("\n")
        except UnicodeDecodeError as error:
            seen = f"byte {error.start} is no UTF-8"
            faults.append(Fault(file=str(path), item="the whole file", seen=seen, expected="one name a line"))
            continue
        names = [line.strip() for line in lines if line.strip()]
        if not any(re.search(r"\s-?[01]$", name) for name in names):
            found[path.stem] = list(dict.fromkeys(names))
    return found


def _more_lists(lists: dict[str, list[str]], split_of: dict[str, str]) -> dict[str, Any]:
    """The lists that the splits of the images do not tell, such as trainval."""
    told: dict[str, list[str]] = {}
    for name, split in split_of.items():
        told.setdefault(split, []).append(name)
    more = {name: listed for name, listed in lists.items() if listed != told.get(name, [])}
    return {"lists": more} if more else {}


def write(document: Document, folder: Path) -> list[str]:
    """Annotations/*.xml and ImageSets/Main/*.txt. Returns what VOC cannot hold.

    Raises WinnowError for names that would not come back from an XML file.
    """
    _check_names(document)
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    names = {category.id: category.name for category in document.categories}
    own = document.format == "voc"  # else `extra` is another format's, and what looks like tags there is none
    losses = Losses(*HELD_NEVER, *(() if own else HELD_OF_VOC))
    splits: dict[str, list[str]] = {}
    taken: set[str] = set()
    for image, boxes, texts in document.samples():
        stem = _stem(image, own, taken)
        splits.setdefault(image.split, []).append(stem)
        classed = [box for box in boxes if box.category_id is not None]
        losses.see(image, boxes, texts, document.format)
        root = _element(image, [_object(box, names, own) for box in classed], own)
        ElementTree.indent(root, "\t")
        replaced(folder / "Annotations" / f"{stem}.xml", ElementTree.tostring(root) + b"\n")
    _write_lists(folder / "ImageSets/Main", splits, document.info.get("lists", {}) if own else {})
    return losses.told()


def _check_names(document: Document) -> None:
    for category in document.categories:
        if category.name != category.name.strip() or UNWRITABLE.search(category.name):
            raise WinnowError(
                f"VOC cannot hold the class name {category.name!r}: white space at its ends and control characters are "
                "lost in XML. Choose another format."
            )
    for image in document.images():
        if image.file_name != image.file_name.strip() or UNWRITABLE.search(image.file_name):
            raise WinnowError(f"VOC cannot hold the file name {image.file_name!r}. Choose another format.")


def _write_lists(folder: Path, splits: dict[str, list[str]], more: dict[str, list[str]]) -> None:
    """One list per split; those the source had besides, as far as their images are there. New training and validation
    images join trainval where there is one."""
    present = {stem for stems in splits.values() for stem in stems}
    lists = {split: stems for split, stems in splits.items() if split}
    for name, listed in more.items():
        members = [
            stem for split in (name, *(SPLITS[:2] if name == "trainval" else ())) for stem in splits.get(split, [])
        ]
        lists[name] = list(dict.fromkeys([*(stem for stem in listed if stem in present), *members]))
    for name, stems in lists.items():
        folder.mkdir(parents=True, exist_ok=True)
        replaced(folder / f"{name}.txt", "".join(f"{stem}\n" for stem in stems).encode())


def _stem(image: Image, own: bool, taken: set[str]) -> str:
    """The name of the XML file: the source's, else that of the image; numbered when another image has it already."""
    stem = image.extra.get("stem") if own else None
    stem = stem or image.file_name.rsplit(".", 1)[0].replace("/", "_").replace("\\", "_")
    unique, number = stem, 1
    while unique in taken:
        number += 1
        unique = f"{stem}_{number}"
    taken.add(unique)
    return unique


def _element(image: Image, objects: list[Tag], own: bool) -> ElementTree.Element:
    size: list[Tag] = [["width", str(image.width)], ["height", str(image.height)], ["depth", "3"]]
    blank: list[Tag] = [["folder", "JPEGImages"], ["filename", None], ["size", size]]
    tags = image.extra.get("tags", blank) if own else blank
    attributes = image.extra.get("attributes", {}) if own else {}
    root = ElementTree.Element("annotation", attributes)
    named = [["filename", image.file_name, *tag[2:]] if tag[0] == "filename" else tag for tag in tags]
    xmltree.fill(root, [*named, *objects])
    return root


def _object(box: Box, names: dict[int, str], own: bool) -> Tag:
    blank: list[Tag] = [
        ["name", None],
        ["pose", "Unspecified"],
        ["truncated", "0"],
        ["difficult", "0"],
        ["bndbox", None],
    ]
    extra = box.extra if own else {}
    tags = [_filled(tag, box, names) for tag in extra.get("tags", blank)]
    return ["object", tags, *([extra["attributes"]] if "attributes" in extra else [])]


def _filled(tag: Tag, box: Box, names: dict[int, str]) -> Tag:
    """A tag with what the box itself knows. Corners kept as written are used while they still are those of the box."""
    name, value, *attributes = tag
    if name == "name" and value is None:
        value = names[box.category_id or 0]
    if name == "bndbox" and (value is None or xmltree.corners(value) != box.xyxy):
        value = xmltree.bndbox(box.xyxy)
    return [name, value, *attributes]


def _blanked(tags: list[Tag], xyxy: XYXY) -> list[Tag]:
    """The tags of an object without what its box knows: its first name, and corners that can be computed."""
    blanked, seen = [], set()
    for tag in tags:
        name, value, *attributes = tag
        plain = name == "name" or (name == "bndbox" and value == xmltree.bndbox(xyxy))
        blanked.append([name, None if plain and name not in seen else value, *attributes])
        seen.add(name)
    return blanked

"""Pascal VOC: one XML file per image, corners 1-based and inclusive, splits as lists of names in ImageSets/Main.

Inside Winnow `x1 = xmin - 1` and `x2 = xmax`, so that a box covers whole pixels; writing adds the 1 again, exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from db.document import Document
from db.formats.checks import Faults, check_box, check_size, climbs
from db.records import Box, Category, Fault, Image

SPLITS = ("train", "val", "test")  # the lists that matter; trainval says nothing more
CORNERS = ("xmin", "ymin", "xmax", "ymax")
Tag = list[Any]  # [name, text or list of tags]: an XML element without attributes


def read(folder: Path) -> Document:
    """A folder with Annotations/, and ImageSets/Main/ where there are splits. Faults are collected."""
    splits = _splits(folder)
    faults: list[Fault] = []
    names: dict[str, int] = {}
    images: list[Image] = []
    boxes: list[Box] = []
    files = {path.stem: path for path in sorted((folder / "Annotations").glob("*.xml"))}
    order = [name for split in splits.values() for name in split if name in files]
    for missing in (name for split in splits.values() for name in split if name not in files):
        expected = f"Annotations/{missing}.xml"
        faults.append(
            Fault(
                file=str(folder / "ImageSets/Main"), item=missing, seen="listed without annotation", expected=expected
            )
        )
    split_of = {name: split for split, listed in splits.items() for name in listed}
    for name in [*order, *(name for name in files if name not in split_of)]:
        own = Faults(str(files[name]))
        image = _read_one(files[name], split_of.get(name, ""), own, names, images, boxes)
        if image is not None:
            images.append(image)
        faults += own
    return Document(
        format="voc",
        categories=[Category(id=number, name=name) for name, number in names.items()],
        images=lambda: images,
        boxes=lambda: boxes,
        faults=faults,
    )


def _splits(folder: Path) -> dict[str, list[str]]:
    """Names by split; a name in two lists belongs to the first of train, val, test."""
    taken: set[str] = set()
    found: dict[str, list[str]] = {}
    for split in SPLITS:
        path = folder / "ImageSets/Main" / f"{split}.txt"
        if path.is_file():
            listed = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
            found[split] = [name for name in dict.fromkeys(listed) if name not in taken]
            taken |= set(found[split])
    return found


def _read_one(
    path: Path, split: str, faults: Faults, names: dict[str, int], images: list[Image], boxes: list[Box]
) -> Image | None:
    root = _parse(path, faults)
    if root is None:
        return None
    fields = _tags(root)
    size = dict(_first(fields, "size") or [])
    width, height = _whole(size.get("width")), _whole(size.get("height"))
    name = _first(fields, "filename")
    if not isinstance(name, str) or climbs(name):
        faults.add("filename", repr(name), "the name of a file in JPEGImages")
        return None
    if width is None or height is None or not check_size(faults, "size", width, height):
        if width is None or height is None:
            faults.add("size", f"{size.get('width')!r} x {size.get('height')!r}", "whole numbers of pixels")
        return None
    extra = {"tags": [tag for tag in fields if tag[0] not in ("object", "filename")], "stem": path.stem}
    image = Image(id=len(images), file_name=name, width=width, height=height, split=split, extra=extra)
    for number, (_, tags) in enumerate(tag for tag in fields if tag[0] == "object"):
        _read_object(tags, f"object #{number}", image, faults, names, boxes)
    return image


def _read_object(tags: Any, item: str, image: Image, faults: Faults, names: dict[str, int], boxes: list[Box]) -> None:
    tags = tags if isinstance(tags, list) else []
    name, corners = _first(tags, "name"), _first(tags, "bndbox")
    if not isinstance(name, str) or not name:
        faults.add(item, "no name", "the name of a class")
        return
    values = [_number(dict(corners or []).get(corner)) for corner in CORNERS]
    if any(value is None for value in values):
        faults.add(f"{item} ({name})", f"bndbox {corners!r}", "finite xmin, ymin, xmax, ymax")
        return
    xmin, ymin, xmax, ymax = (value for value in values if value is not None)
    xyxy = (xmin - 1, ymin - 1, xmax, ymax)
    if check_box(faults, f"{item} ({name})", xyxy, image):
        category = names.setdefault(name, len(names))
        kept = [tag if tag[0] not in ("name", "bndbox") else [tag[0], None] for tag in tags]
        if corners != _bndbox(xyxy):  # an unusual order or spelling of the corners
            kept = [["bndbox", corners] if tag[0] == "bndbox" else tag for tag in kept]
        boxes.append(Box(id=len(boxes), image_id=image.id, xyxy=xyxy, category_id=category, extra={"tags": kept}))


def _parse(path: Path, faults: Faults) -> ElementTree.Element | None:
    """The root element. Document types and entities are refused: they can read files and fill the memory."""
    data = path.read_bytes()
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        faults.add("the whole file", "a document type or entity declaration", "plain XML")
        return None
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, expat.ExpatError, ValueError) as error:
        faults.add("the whole file", f"not readable as XML: {error}", "a complete <annotation>")
        return None


def write(document: Document, folder: Path) -> list[str]:
    """Annotations/*.xml and ImageSets/Main/*.txt. Returns what VOC cannot hold."""
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    names = {category.id: category.name for category in document.categories}
    splits: dict[str, list[str]] = {}
    masks = uncategorised = phrases = 0
    for image, boxes, texts in document.samples():
        stem = image.extra.get("stem") or image.file_name.rsplit(".", 1)[0].replace("/", "_")
        if image.split:
            splits.setdefault(image.split, []).append(stem)
        masks += sum(box.segmentation is not None for box in boxes)
        uncategorised += sum(box.category_id is None for box in boxes)
        phrases += len(texts)
        root = _element(image, [box for box in boxes if box.category_id is not None], names)
        ElementTree.indent(root, "\t")
        _replace(folder / "Annotations" / f"{stem}.xml", ElementTree.tostring(root) + b"\n")
    for split, stems in splits.items():
        (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        _replace(folder / "ImageSets/Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems).encode())
    told = ((masks, "masks"), (uncategorised, "boxes without a category"), (phrases, "captions and phrases"))
    return [f"{count} {what}" for count, what in told if count]


def _element(image: Image, boxes: list[Box], names: dict[int, str]) -> ElementTree.Element:
    size: list[Tag] = [["width", str(image.width)], ["height", str(image.height)], ["depth", "3"]]
    tags: list[Tag] = list(image.extra.get("tags", [["folder", "JPEGImages"], ["size", size]]))
    place = next((i for i, (name, _) in enumerate(tags) if name != "folder"), len(tags))
    tags.insert(place, ["filename", image.file_name])
    root = ElementTree.Element("annotation")
    _fill(root, [*tags, *(["object", _object(box, names)] for box in boxes)])
    return root


def _object(box: Box, names: dict[int, str]) -> list[Tag]:
    known = {"name": names[box.category_id or 0], "bndbox": _bndbox(box.xyxy)}
    blank: list[Tag] = [
        ["name", None],
        ["pose", "Unspecified"],
        ["truncated", "0"],
        ["difficult", "0"],
        ["bndbox", None],
    ]
    return [
        [name, known[name] if value is None and name in known else value]
        for name, value in box.extra.get("tags", blank)
    ]


def _bndbox(xyxy: tuple[float, ...]) -> list[Tag]:
    x1, y1, x2, y2 = xyxy
    return [[name, _text(value)] for name, value in zip(CORNERS, (x1 + 1, y1 + 1, x2, y2), strict=True)]


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _fill(parent: ElementTree.Element, tags: list[Tag]) -> None:
    for name, value in tags:
        child = ElementTree.SubElement(parent, name)
        if isinstance(value, list):
            _fill(child, value)
        else:
            child.text = value


def _tags(element: ElementTree.Element) -> list[Tag]:
    return [[child.tag, _tags(child) if len(child) else (child.text or "").strip()] for child in element]


def _first(tags: list[Tag], name: str) -> Any:
    return next((value for tag, value in tags if tag == name), None)


def _number(text: object) -> float | None:
    try:
        return float(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _whole(text: object) -> int | None:
    value = _number(text)
    return int(value) if value is not None and value.is_integer() else None


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)

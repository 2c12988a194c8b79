"""YOLO: `data.yaml` names classes and splits; each image has a text file of rows `class cx cy w h`, or `class x1 y1 x2
y2 x3 y3 ...` for a polygon, in fractions of its width and height.

A label file lies where the last folder `images` of its image is called `labels`, else beside the image. Rows are kept
as written where computing them from the box would give other digits. Paths of the folder the data once were in are
followed by their ends, and never out of the folder. Sizes are those of the image files, which must be there.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import msgspec
import orjson
import yaml

from db.document import Document
from db.errors import WinnowError
from db.formats.checks import (
    SUFFIXES,
    Faults,
    check_box,
    check_storable,
    climbs,
    is_number,
    is_split,
    is_text,
    is_whole,
    short,
)
from db.formats.reading import broken, picture_size, without
from db.formats.writing import Losses, replaced
from db.records import XYXY, Box, Category, Fault, Image
from db.spool import Spool

SPLITS = ("train", "val", "test")
YAML_KEYS = {"path", "names", "nc", *SPLITS}
MAX_YAML, MAX_LABELS = 2**20, 2**24  # bytes
NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
PICTURES = set().union(*SUFFIXES.values())
MASKS = "masks that are not one polygon within their box"
RECTANGLES = "boxes beside polygons, written as rectangles"
UNSPLIT = "images without a split, written as train"
NEAR = 1.0  # pixels between a box and the bounds of its polygon, at most; else the row holds the box alone
HELD_NEVER = ("crowd flags", "areas", "boxes without a category", "captions and phrases")
HELD_OF_YOLO = ("ids of images and boxes", "records with unknown fields")


class _Loader(yaml.SafeLoader):
    """Plain values only: what looks like a date stays a text."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def find_yaml(folder: Path) -> Path | None:
    """The data.yaml of a folder, or its only YAML file."""
    found = [path for path in sorted(folder.glob("*.y*ml")) if path.suffix in (".yaml", ".yml")]
    named = [path for path in found if path.stem in ("data", "dataset")]
    return next(iter(named or (found if len(found) == 1 else [])), None)


def place(file_name: str) -> str:
    """Where an image lies in a YOLO folder: names without a folder `images` go into one."""
    return file_name if "images" in PurePosixPath(file_name).parts[:-1] else f"images/{file_name}"


def labels_of(file_name: str) -> str:
    """The label file of an image, both relative to the YOLO folder."""
    parts = list(PurePosixPath(file_name).with_suffix(".txt").parts)
    folders = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return "/".join(parts)


# Reading


class Reader:
    """Gathers what the label files of a folder hold."""

    def __init__(self, file: Path, images: Path | None = None) -> None:
        self.folder = file.parent
        self.roots = [images] if images else [self.folder / "images", self.folder]
        self.faults = Faults(str(file))
        self.file_faults: list[Fault] = []
        self.images: Spool[Image] = Spool(Image)
        self.boxes: Spool[Box] = Spool(Box)
        self.info = _load_yaml(file)
        self.categories = self._categories(self.info.get("names"))
        self._category_of = {category.source_id: category.id for category in self.categories}
        self._seen: set[str] = set()

    def _categories(self, names: Any) -> list[Category]:
        listed = dict(enumerate(names)) if isinstance(names, list) else names
        if not isinstance(listed, dict) or not listed:
            self.faults.add("names", short(names), "a list of class names, or names by number")
            return []
        found: list[Category] = []
        for label, name in listed.items():
            if not is_whole(label) or label < 0 or not is_text(name) or not name.strip():
                self.faults.add(f"class {short(label)}", short(name), "a name under a whole number")
            elif name in {category.name for category in found}:
                self.faults.add(f"class {label}", f"{name!r} a second time", "every class once")
            else:
                found.append(Category(id=len(found), name=name, source_id=label))
        count = self.info.get("nc", len(listed))
        if count != len(listed):
            self.faults.add("nc", f"{short(count)}", f"{len(listed)}, as many as there are names")
        return found

    def splits(self) -> dict[str, list[Any]]:
        """Places by split. One that several splits name is that of the split it is called after, else of the first: where
        there is no validation set, `val` repeats `train`."""
        named = [key for key, value in self.info.items() if key not in YAML_KEYS and is_split(key) and _is_list(value)]
        found: dict[str, list[Any]] = {}
        claims: dict[str, list[str]] = {}
        for split in [*SPLITS, *named]:
            given = self.info.get(split)
            found[split] = given if isinstance(given, list) else [] if given is None else [given]
            for value in found[split]:
                claims.setdefault(str(value), []).append(split)
        own = {value: next((s for s in who if PurePosixPath(value).stem == s), who[0]) for value, who in claims.items()}
        return {split: [value for value in values if own[str(value)] == split] for split, values in found.items()}

    def read(self) -> None:
        for split, values in self.splits().items():
            for value in values:
                self._place(split, value)

    def _place(self, split: str, value: Any) -> None:
        base = self.info.get("path", "")
        if not is_text(value) or not is_text(base):
            self.faults.add(split, short(value), "a folder of images or a .txt list of them")
            return
        found = inside(self.folder, value, base)
        if found is None:
            self.faults.add(split, f"{value!r}, which is not in this folder", "a folder or a list inside of it")
        elif found.is_file():
            self._list(found, split)
        else:
            files = [path for path in sorted(found.rglob("*")) if path.suffix.lower() in PICTURES]
            for path in files:
                self._image(path.relative_to(self.folder).as_posix(), split)

    def _list(self, path: Path, split: str) -> None:
        faults = Faults(str(path))
        for number, line in enumerate(_text_lines(path, faults), 1):
            name = line.strip()
            found = inside(path.parent, name) if name else None
            if found is not None and _is_below(found, self.folder):
                self._image(found.relative_to(self.folder).as_posix(), split)
            elif name:
                faults.add(f"line {number}", short(name), "an image inside of the folder")
        self.file_faults += faults

    def _image(self, path: str, split: str) -> None:
        name = path.removeprefix("images/")
        name = name if place(name) == path else path
        if name in self._seen:
            self.faults.add(f"image {short(name)}", "the image a second time", "every image in one split, once")
            return
        self._seen.add(name)
        size = picture_size(self.faults, f"image {short(name)}", self.roots, name) if not climbs(name) else None
        if size is None:
            return
        extra: dict[str, Any] = {}
        labels = self.folder / labels_of(path)
        if not labels.is_file():
            extra["unlabelled"] = True
        image = Image(id=len(self.images), file_name=name, width=size[0], height=size[1], split=split, extra=extra)
        self.images.append(image)
        if not extra:
            self._labels(labels, image)

    def _labels(self, path: Path, image: Image) -> None:
        faults = Faults(str(path))
        if not _is_below(path, self.folder):
            faults.add("the whole file", "a link out of the folder", "a file inside of it")
        rows = [
            (n, line.split()) for n, line in enumerate([] if faults else _text_lines(path, faults), 1) if line.strip()
        ]
        polygons = any(len(row) > 5 for _, row in rows)
        for number, row in rows:
            if polygons and len(row) == 5:
                seen = "a box among polygons, which YOLO would take for two points"
                faults.add(f"line {number}", seen, "either boxes or polygons in a file")
            else:
                self._row(f"line {number}", row, image, faults)
        self.file_faults += faults

    def _row(self, item: str, row: list[str], image: Image, faults: Faults) -> None:
        label = int(row[0]) if row[0].isascii() and row[0].isdigit() and len(row[0]) < 10 else None
        category = self._category_of.get(label)
        values = [float(word) for word in row[1:] if NUMBER.fullmatch(word)]
        if category is None:
            faults.add(item, f"class {row[0]!r:.40}", f"the number of one of the {len(self.categories)} classes")
        elif len(values) < len(row) - 1 or (len(values) != 4 and (len(values) < 6 or len(values) % 2)):
            faults.add(item, short(" ".join(row[1:])), "cx cy w h, or three points of a polygon or more")
        elif not all(-0.001 <= value <= 1.001 for value in values):
            faults.add(item, short(" ".join(row[1:])), "fractions of width and height, 0 to 1")
        else:
            xyxy, mask = _box(values, image)
            if check_box(faults, item, xyxy, image):
                box = Box(id=len(self.boxes), image_id=image.id, xyxy=xyxy, category_id=category, segmentation=mask)
                kept = {} if _words(box, image, mask is not None) == row[1:] else {"line": row[1:]}
                self.boxes.append(msgspec.structs.replace(box, extra=kept))


def read(file: Path, images: Path | None = None) -> Document:
    """What a data.yaml names. Faults are collected; a row with a fault is left out alone.

    Raises BadDataset when the YAML file cannot be read, or has anchors or tags.
    """
    reader = Reader(file, images)
    reader.read()
    fields = without(reader.info, {*YAML_KEYS, *reader.splits()})
    kept = fields if check_storable(reader.faults, "the fields", fields) else {}
    if not any(reader.info.get(split) for split in SPLITS):
        raise broken(file, "none of train, val and test", "at least one of them")
    lists = [split for split in reader.splits() if _is_list(reader.info.get(split))]
    return Document(
        format="yolo",
        categories=reader.categories,
        info={"lists": lists, "yaml": _plain(kept)},
        images=lambda: reader.images,
        boxes=lambda: reader.boxes,
        faults=[*reader.faults, *reader.file_faults],
    )


def inside(folder: Path, name: str, base: str = "") -> Path | None:
    """The file or folder that `base/name` means inside of `folder`. `..` and the root are passed over, and so are leading
    folders as long as they are not there (but never the first of a relative name): after a move they lead anywhere.
    None when nothing is there, or what is there is a link out of the folder."""
    before, own = _parts(base), _parts(name)
    absolute = name.startswith(("/", "\\")) or name[1:2] == ":"
    for first in range(len(before) + (len(own) if absolute else 1)):
        found = folder.joinpath(*(before + own)[first:])
        try:
            if found.exists():
                return found if _is_below(found, folder) else None
        except OSError:  # a name that the file system refuses
            return None
    return None


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..") and "\0" not in part]


def _is_list(value: object) -> bool:
    return isinstance(value, str) and value.endswith(".txt")


def _plain(value: Any) -> Any:
    """Objects with texts as keys, as JSON has them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _load_yaml(file: Path) -> dict[str, Any]:
    expected = "plain YAML with names, train and val"
    data = file.read_bytes()[: MAX_YAML + 1]
    if len(data) > MAX_YAML:
        raise broken(file, f"more than {MAX_YAML} bytes", expected)
    try:
        text = data.decode("utf-8-sig")
        if any(isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken) for token in yaml.scan(text)):
            raise broken(file, "anchors, aliases or tags", expected)
        value = yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise broken(file, f"not readable as YAML: {short(str(error))}", expected) from error
    if not isinstance(value, dict) or "names" not in value:
        raise broken(file, short(value), expected)
    return value


def _text_lines(path: Path, faults: Faults) -> list[str]:
    data = path.read_bytes()[: MAX_LABELS + 1]
    if len(data) > MAX_LABELS:
        faults.add("the whole file", f"more than {MAX_LABELS} bytes", f"at most {MAX_LABELS} bytes")
        return []
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        faults.add("the whole file", f"byte {error.start} is no UTF-8", "text in UTF-8")
        return []


def _box(values: list[float], image: Image) -> tuple[XYXY, bytes | None]:
    """The box of a row, and its polygon as JSON where it has one."""
    width, height = image.width, image.height
    if len(values) == 4:
        cx, cy, w, h = values
        return ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height), None
    xs, ys = [x * width for x in values[::2]], [y * height for y in values[1::2]]
    polygon = [value for point in zip(xs, ys, strict=True) for value in point]
    return (min(xs), min(ys), max(xs), max(ys)), orjson.dumps([polygon])


# Writing


def write(document: Document, folder: Path) -> list[str]:
    """`data.yaml`, label files, and lists of images for splits that are no folders of their own. Returns what YOLO cannot
    hold. Where an image has a polygon, its boxes without one are written as rectangles: in such a file YOLO takes every
    row for a polygon.

    Raises WinnowError where two images would share a label file.
    """
    own = document.format == "yolo"
    labels = _labels(document)
    losses = Losses(*HELD_NEVER, *(() if own else HELD_OF_YOLO))
    counts = dict.fromkeys((MASKS, RECTANGLES, UNSPLIT), 0)
    splits: dict[str, list[str]] = {}
    taken: dict[str, str] = {}
    for image, boxes, phrases in document.samples():
        losses.see(image, boxes, phrases, document.format)
        path = place(image.file_name)
        splits.setdefault(image.split or "train", []).append(path)
        counts[UNSPLIT] += not image.split
        if taken.setdefault(labels_of(path), path) != path:
            raise WinnowError(f"{path} and {taken[labels_of(path)]} would share {labels_of(path)}; rename one of them.")
        classed = [box for box in boxes if box.category_id is not None]
        if classed or not (own and image.extra.get("unlabelled")):
            outlined = [_polygon(box, image) is not None for box in classed]
            polygons = any(outlined)
            counts[MASKS] += sum(box.segmentation is not None for box in classed) - sum(outlined)
            counts[RECTANGLES] += outlined.count(False) if polygons else 0
            rows = (" ".join([labels[box.category_id or 0], *_row(box, image, own, polygons)]) for box in classed)
            target = folder / labels_of(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            replaced(target, "".join(f"{row}\n" for row in rows).encode())
    _write_yaml(document, folder, labels, splits)
    counts |= _unnumbered(document, labels)
    return losses.told() + [f"{count} {what}" for what, count in counts.items() if count]


def _labels(document: Document) -> dict[int, str]:
    """Class numbers by category id: those of the source where they are 0, 1, 2, ..., else these in order."""
    return {category.id: str(number) for number, category in enumerate(_ordered(document.categories))}


def _ordered(categories: list[Category]) -> list[Category]:
    ids = [category.source_id for category in categories]
    whole = [value for value in ids if isinstance(value, int)]
    if sorted(whole) == list(range(len(ids))):
        return sorted(categories, key=lambda category: int(category.source_id or 0))
    return categories


def _unnumbered(document: Document, labels: dict[int, str]) -> dict[str, int]:
    changed = sum(str(category.source_id) != labels[category.id] for category in document.categories)
    fields = sum(bool(category.extra or category.frequency) for category in document.categories)
    return {"class ids, which YOLO counts from 0": changed, "classes with further fields": fields}


def _write_yaml(document: Document, folder: Path, labels: dict[int, str], splits: dict[str, list[str]]) -> None:
    kept = document.info.get("yaml", {}) if document.format == "yolo" else {}
    lists = document.info.get("lists", []) if document.format == "yolo" else []
    fields: dict[str, Any] = without(kept, YAML_KEYS)
    for split, paths in splits.items():
        fields[split] = _place_out(split, split in lists, splits)
        if _is_list(fields[split]):
            replaced(folder / fields[split], "".join(f"./{path}\n" for path in paths).encode())
    fields.setdefault("val", fields.get("train", ""))  # the official reader needs both
    fields.setdefault("train", fields["val"])
    names = {int(labels[category.id]): category.name for category in document.categories}
    fields |= {"nc": len(names), "names": dict(sorted(names.items()))}
    replaced(folder / "data.yaml", yaml.safe_dump(fields, allow_unicode=True, sort_keys=False, width=10**6).encode())


def _place_out(split: str, listed: bool, splits: dict[str, list[str]]) -> str:
    """The folder of a split, where it holds all of its images, in order, and none of another; else a list of its own."""
    parents = {PurePosixPath(path).parent.as_posix() for path in splits[split]}
    common = min(parents, key=len)
    others = itertools.chain.from_iterable(paths for name, paths in splits.items() if name != split)
    own = all(parent == common or parent.startswith(f"{common}/") for parent in parents)
    free = not any(path.startswith(f"{common}/") for path in others)
    by_name = [PurePosixPath(path) for path in splits[split]]
    return common if own and free and not listed and by_name == sorted(by_name) else f"{split}.txt"


def _polygon(box: Box, image: Image) -> list[float] | None:
    """The points of a mask that a row can hold: a single polygon of numbers inside of the image, with the bounds of its
    box."""
    mask = None if box.segmentation is None else orjson.loads(box.segmentation)
    points = mask[0] if isinstance(mask, list) and len(mask) == 1 else None
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2 or not all(map(is_number, points)):
        return None
    xs, ys = points[::2], points[1::2]
    bounds = (min(xs), min(ys), max(xs), max(ys))
    near = all(abs(one - other) <= NEAR for one, other in zip(bounds, box.xyxy, strict=True))
    inside = bounds[0] >= 0 and bounds[1] >= 0 and bounds[2] <= image.width and bounds[3] <= image.height
    return points if near and inside else None


def _row(box: Box, image: Image, own: bool, polygons: bool) -> list[str]:
    """The words of a row after its class: as they were read while they still are those of the box."""
    kept = box.extra.get("line") if own else None
    if kept and (len(kept) > 4) == polygons:
        values = [float(word) for word in kept]
        if _box(values, image) == (box.xyxy, box.segmentation):
            return list(kept)
    return _words(box, image, polygons)


def _words(box: Box, image: Image, polygons: bool) -> list[str]:
    x1, y1, x2, y2 = box.xyxy
    width, height = image.width, image.height
    if polygons:
        points = _polygon(box, image) or [x1, y1, x2, y1, x2, y2, x1, y2]
        values = [value / size for value, size in zip(points, itertools.cycle((width, height)), strict=False)]
    else:
        values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    return [_text(value) for value in values]


def _text(value: float) -> str:
    """The shortest digits that give the number back, without an exponent for small ones."""
    plain = repr(value)
    return f"{value:.20f}".rstrip("0") if "e" in plain else plain

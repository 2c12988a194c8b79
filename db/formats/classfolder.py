"""Image-level labels: a folder of images for each class, as ImageNet has them; read only.

Every image becomes one box of its class that is all of the image, marked `"whole_image": true`. A file `classes.csv`
(lines `folder,class`) or `classes.json` (`{"folder": "class"}`) beside the folders names the class of each, in the
words of the vocabulary that a detector has: `n02124075,cat`. Without it a folder is called like its class. Above the
folders of classes there may be some of splits: train, val, test.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from db.document import Document
from db.errors import BadDataset
from db.formats.checks import SUFFIXES, Faults, check_size, climbs, is_text, short
from db.formats.reading import load_json, picture_size
from db.records import Box, Category, Image
from db.spool import Spool

MARK = "whole_image"  # in `extra` of the box
MAPPINGS = ("classes.csv", "classes.json")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
OTHERS = frozenset(
    ("images", "labels", "annotations", "jpegimages", "imagesets", "masks", "sentences")
)  # of other formats
NOTES = frozenset((".txt", ".xml", ".json", ".jsonl", ".csv"))  # annotations of single images
PICTURES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
SPLIT = re.compile(r"(train|val|valid|test|unlabeled)[-_]?\d*", re.IGNORECASE)  # whose images are not of one class
EXAMPLE = 'an object of folders and classes, such as {"n02124075": "cat"}'
LOOKED_AT = 50  # files of a folder, to tell what it holds


def is_class_folder(path: Path) -> bool:
    """Whether the folder holds folders of images, two or more or with a mapping, and nothing that another format would
    have."""
    listed = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    files = {entry.name.lower() for entry in listed if entry.is_file()}
    mapped = bool(files & {*MAPPINGS})
    if any(Path(name).suffix in NOTES - {".txt"} for name in files - {*MAPPINGS}):
        return False
    classes = [folder for _, folder in _classes(path)]
    if any(folder.name.lower() in OTHERS or SPLIT.fullmatch(folder.name) for folder in classes):
        return False
    filled = [folder for folder in classes if _holds_pictures_only(folder)]
    return len(filled) == len(classes) and len(filled) >= (1 if mapped else 2)


def _holds_pictures_only(folder: Path) -> bool:
    """Whether there are images in it, and no annotations beside them, among the first files."""
    seen = [entry.suffix.lower() for entry, _ in zip(_visible(folder), range(LOOKED_AT), strict=False)]
    return any(suffix in PICTURES for suffix in seen) and not any(suffix in NOTES for suffix in seen)


def _visible(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _classes(path: Path) -> list[tuple[str, Path]]:
    """(split, folder of a class) in order of names."""
    folders = sorted(entry for entry in _visible(path) if entry.is_dir())
    if not folders or any(folder.name.lower() not in SPLITS for folder in folders):
        return [("", folder) for folder in folders]
    inner = ((SPLITS[folder.name.lower()], each) for folder in folders for each in sorted(_visible(folder)))
    return [(split, each) for split, each in inner if each.is_dir()]


def read(path: Path) -> Document:
    """A folder of folders. Faults are collected: folders without a class, files that are no images. Raises BadDataset
    for a mapping that cannot be read."""
    there = next((path / name for name in MAPPINGS if (path / name).is_file()), None)
    faults = Faults(str(path))
    named = None if there is None else read_mapping(there)
    numbers: dict[str, int] = {}
    images: Spool[Image] = Spool(Image)
    boxes: Spool[Box] = Spool(Box)
    for split, folder in _classes(path):
        name = _class_of(folder, named, there, faults)
        for file in sorted(_visible(folder)) if name is not None else ():
            image = _image(file, path, split, len(images), faults)
            if image is not None and name is not None:
                images.append(image)
                boxes.append(_whole(image, numbers.setdefault(name, len(numbers)), len(boxes)))
    categories = [Category(id=number, name=name) for name, number in numbers.items()]
    return Document("classfolder", categories, lambda: images, lambda: boxes, faults=list(faults))


def read_mapping(path: Path) -> dict[str, str]:
    """The class of each folder. Raises BadDataset naming the lines that are wrong."""
    faults = Faults(str(path))
    if not path.is_file():
        faults.add("the whole file", "no such file", "lines folder,class, or a JSON object of folders and classes")
        raise BadDataset(faults)
    found = _of_json(path, faults) if path.suffix.lower() == ".json" else _of_csv(path, faults)
    if faults:
        raise BadDataset(faults)
    return found


def _of_json(path: Path, faults: Faults) -> dict[str, str]:
    made = load_json(path, EXAMPLE)
    if not isinstance(made, dict):
        faults.add("the whole file", short(made), EXAMPLE)
        return {}
    for folder, name in made.items():
        if not is_text(name) or not name.strip():
            faults.add(f"folder {short(folder)}", f"class {short(name)}", "the name of a class")
    return made


def _of_csv(path: Path, faults: Faults) -> dict[str, str]:
    try:
        lines = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        faults.add("the whole file", str(error), "UTF-8 text with a comma between folder and class")
        return {}
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line]
        if not any(cells) or (number == 1 and cells[:2] == ["folder", "class"]):
            continue
        if len(cells) < 2 or not all(cells[:2]):
            faults.add(f"line {number}", short(",".join(line)), "folder,class")
        elif found.setdefault(cells[0], cells[1]) != cells[1]:
            faults.add(
                f"line {number}", f"{cells[0]!r} is {cells[1]!r}, before {found[cells[0]]!r}", "one class a folder"
            )
    return found


def _class_of(folder: Path, named: Mapping[str, str] | None, mapping: Path | None, faults: Faults) -> str | None:
    item = f"folder {short(folder.name)}"
    if not is_text(folder.name):
        faults.add(item, "a name that is no text", "a name in UTF-8")
        return None
    if named is None or mapping is None:
        return folder.name
    if folder.name not in named:
        faults.add(item, f"no class in {mapping.name}", f"a line {folder.name},CLASS there, or the folder removed")
    return named.get(folder.name)


def _image(file: Path, root: Path, split: str, number: int, faults: Faults) -> Image | None:
    name = file.relative_to(root).as_posix()
    item = f"image {short(name)}"
    if not is_text(name) or climbs(name) or file.suffix.lower() not in PICTURES or not file.is_file():
        faults.add(item, "no image file", f"only images ({', '.join(sorted(PICTURES))}) in the folder of a class")
        return None
    size = picture_size(faults, item, [root], name)
    if size is None or not check_size(faults, item, *size):
        return None
    return Image(id=number, file_name=name, width=size[0], height=size[1], split=split)


def _whole(image: Image, category: int, number: int) -> Box:
    xyxy = (0.0, 0.0, float(image.width), float(image.height))
    return Box(id=number, image_id=image.id, xyxy=xyxy, category_id=category, extra={MARK: True})

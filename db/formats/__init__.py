"""File formats: each reads into a `Document` and writes one, in its own module."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from db.document import Document
from db.errors import NotFound, WinnowError
from db.formats import coco, odvg, voc
from db.formats.checks import Faults, Progress, check_picture, locate
from db.records import Fault, Image

SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Format:
    """`holds` says in a line what a file of this format can carry."""

    name: str
    holds: str
    write: Callable[[Document, Path], list[str]]


FORMATS = {
    "coco": Format("coco", "boxes, polygons, RLE masks, crowds, class ids, unknown fields", coco.write),
    "voc": Format("voc", "boxes with whole or fractional corners, part and pose tags, splits", voc.write),
    "odvg": Format(
        "odvg", "classes or captions with phrases, spans and boxes, for open-vocabulary detectors", odvg.write
    ),
}


def sniff(path: Path) -> str:
    """The format of a file or folder. Raises WinnowError that says what was seen and what is understood."""
    if not path.exists():
        raise WinnowError(f"There is nothing at {path}.")
    if path.is_file():
        if path.suffix == ".jsonl":
            return "odvg"
        if path.suffix == ".json":
            return "coco"
    elif (path / "Annotations").is_dir():
        return "voc"
    elif _annotation_files(path, "*.jsonl"):
        return "odvg"
    elif _annotation_files(path, "*.json"):
        return "coco"
    seen = path.name if path.is_file() else ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "an empty folder"
    raise WinnowError(
        f"{path} is in no format that Winnow knows (seen: {seen}). It reads a COCO .json, an ODVG .jsonl, a folder with such "
        f"files (one per split, named train, val, test), or a VOC folder with Annotations/ and JPEGImages/."
    )


def read(
    path: Path,
    *,
    format: str | None = None,
    images: Path | None = None,
    annotations_only: bool = False,
    progress: Progress | None = None,
) -> Document:
    """Read a data set. What is wrong is in `Document.faults`; the document holds the good items.

    Image files are looked for in `images`, else beside the annotations; each is decoded and checked unless
    `annotations_only`. Raises NotFound for an unknown format, BadDataset for a file that cannot be read at all.
    """
    name = format or sniff(path)
    if name not in FORMATS:
        raise NotFound("format", name, list(FORMATS))
    document, roots = _READERS[name](path)
    if not any(True for _ in document.images()) and not document.faults:
        empty = Fault(file=str(path), item="the data set", seen="no images", expected="at least one image")
        document.faults.append(empty)
    if annotations_only:
        return document
    return _with_files(document, path, [images] if images else roots, progress)


def write(document: Document, folder: Path, format: str, *, with_images: bool = True) -> list[str]:
    """Write a document into an empty or new folder. Returns what the format cannot hold, a sentence part each.

    Every file is written under a temporary name and renamed; the same document gives the same bytes.
    """
    if format not in FORMATS:
        raise NotFound("format", format, list(FORMATS))
    if folder.exists() and any(folder.iterdir()):
        raise WinnowError(f"{folder} is not empty. Choose a new folder; exports never overwrite.")
    folder.mkdir(parents=True, exist_ok=True)
    losses = FORMATS[format].write(document, folder)
    if with_images:
        _copy_images(document, folder / ("JPEGImages" if format == "voc" else "images"))
    return losses


def _copy_images(document: Document, folder: Path) -> None:
    for image in document.images():
        source = document.file_of(image)
        if source is not None:
            target = folder / image.file_name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _read_coco(path: Path) -> tuple[Document, list[Path]]:
    files = _splits(path, "*.json")
    folder = path if path.is_dir() else path.parent
    return coco.read(files), [folder / "images", folder, folder.parent / "images", folder.parent]


def _read_odvg(path: Path) -> tuple[Document, list[Path]]:
    files = _splits(path, "*.jsonl")
    folder = path if path.is_dir() else path.parent
    labels = next(iter(sorted(folder.glob("*label_map*.json"))), None)
    return odvg.read(files, labels), [folder / "images", folder, folder.parent / "images", folder.parent]


def _read_voc(path: Path) -> tuple[Document, list[Path]]:
    return voc.read(path), [path / "JPEGImages", path / "images", path]


_READERS = {"coco": _read_coco, "odvg": _read_odvg, "voc": _read_voc}


def _splits(path: Path, pattern: str) -> dict[str, Path]:
    """Files by split. A file of its own has the split its name tells, if any."""
    files = [path] if path.is_file() else _annotation_files(path, pattern)
    found: dict[str, Path] = {}
    for file in files:
        words = re.split(r"[^a-z]+", file.stem.lower())
        split = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), file.stem if len(files) > 1 else "")
        if split in found:
            raise WinnowError(
                f"{found[split].name} and {file.name} both look like the split {split!r}; import them one by one."
            )
        found[split] = file
    return found


def _annotation_files(folder: Path, pattern: str) -> list[Path]:
    for place in (folder, folder / "annotations"):
        files = [file for file in sorted(place.glob(pattern)) if "label_map" not in file.name]
        if files:
            return files
    return []


def _with_files(document: Document, path: Path, roots: list[Path], progress: Progress | None) -> Document:
    """The document without the images whose files are missing or unsound, and what belongs to them."""
    images = list(document.images())
    faults = Faults(str(path))
    files: dict[int, Path] = {}
    for number, image in enumerate(images, 1):
        root = next((root for root in roots if (root / image.file_name).is_file()), roots[0])
        item = f"image {image.file_name!r}"
        found = locate(faults, item, root, image.file_name)
        if found is not None and check_picture(faults, item, found, image.width, image.height):
            files[image.id] = found
        if progress is not None:
            progress(number, len(images))
    sound = [image for image in images if image.id in files]
    return replace(
        _restricted(document, sound) if len(sound) < len(images) else document,
        faults=[*document.faults, *faults],
        file_of=lambda image: files.get(image.id),
    )


def _restricted(document: Document, images: list[Image]) -> Document:
    kept = {image.id for image in images}
    return replace(
        document,
        images=lambda: images,
        boxes=lambda: (box for box in document.boxes() if box.image_id in kept),
        phrases=lambda: (phrase for phrase in document.phrases() if phrase.image_id in kept),
    )

"""File formats: each reads into a `Document` and writes one, in its own module."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from array import array
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.document import BoxRows, Document
from db.errors import BadDataset, NotFound, WinnowError, not_written
from db.formats import amc, archives, classfolder, coco, d3, flickr30k, lvis, odvg, omnilabel, pairs, refcoco, voc, yolo
from db.formats.checks import Faults, Progress, check_picture, climbs, is_file, is_split, locate, short
from db.records import Fault, Image

REPORT = "LOSSES.md"
SNIFFED = 4 * 2**20  # bytes at either end of a JSON file
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


Roots = dict[str, list[Path]]  # by split: the folders in which its images may lie, the likeliest first


@dataclass(frozen=True)
class Format:
    """`holds` says in a line what a file of this format can carry."""

    name: str
    holds: str
    write: Callable[[Document, Path], list[str]]
    place: Callable[[str], str] = "images/{}".format  # of an image in the folder, by its file name


FORMATS = {
    "coco": Format("coco", "boxes, polygons, RLE masks, crowds, class ids, unknown fields", coco.write),
    "voc": Format(
        "voc", "boxes with whole or fractional corners, part and pose tags, splits", voc.write, "JPEGImages/{}".format
    ),
    "odvg": Format(
        "odvg", "classes or captions with phrases, spans and boxes, for open-vocabulary detectors", odvg.write
    ),
    "lvis": Format(
        "lvis", "as coco, with classes that are absent or not boxed in full, and their frequency", lvis.write
    ),
    "yolo": Format("yolo", "boxes or single polygons in fractions of the image, splits", yolo.write, yolo.place),
    "omnilabel": Format("omnilabel", "descriptions asked of images, boxes that several may name", omnilabel.write),
    "d3": Format("d3", "descriptions asked of groups of images, boxes, masks", d3.write),
    "flickr30k": Format("flickr30k", "captions with phrases, entities and whole-pixel boxes", flickr30k.write),
    "refcoco": Format("refcoco", "as coco, with expressions that refer to one box each", refcoco.write),
}


def sniff(path: Path) -> str:
    """The format of a file or folder. Raises WinnowError that says what was seen and what is understood."""
    if not path.exists():
        raise WinnowError(f"There is nothing at {path}.")
    found = _sniff_file(path) if path.is_file() else _sniff_folder(path)
    if found is not None:
        return found
    seen = path.name if path.is_file() else ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "an empty folder"
    raise WinnowError(
        f"{path} is in no format Winnow knows (seen: {seen}). It reads a COCO, LVIS, "
        f"OmniLabel or AMC .json, an ODVG .jsonl, a folder with such files (one per split, named train, val, test), a VOC folder "
        f"with Annotations/ and JPEGImages/, a YOLO data.yaml, Flickr30k Entities (Annotations/ and Sentences/), RefCOCO "
        f"(instances.json and refs(...).p), the four .pkl files of D3, a folder of images for each class, "
        f"images with captions (a .txt beside each, JSON lines, parquet or tars), and a .zip of any of these."
    )


def _sniff_file(path: Path) -> str | None:
    if path.name.startswith("refs(") and path.suffix in (".p", ".json"):
        return "refcoco"
    if path.suffix == ".json":
        return _kind_of_json(path)
    if pairs.is_pairs(path):
        return "pairs"
    return {".jsonl": "odvg", ".yaml": "yolo", ".yml": "yolo"}.get(path.suffix)


def _sniff_folder(path: Path) -> str | None:
    annotations = (path / "Annotations").is_dir()
    marks = {
        "flickr30k": annotations and (path / "Sentences").is_dir(),
        "voc": annotations,
        "yolo": yolo.find_yaml(path) is not None,
        "d3": d3.is_d3(path),
        "refcoco": bool(refcoco.reference_files(path)),
        "pairs": pairs.is_pairs(path),
        "odvg": bool(_annotation_files(path, "*.jsonl")),
    }
    if not any(marks.values()) and classfolder.is_class_folder(path):
        return "classfolder"
    files = _annotation_files(path, "*.json")
    return next((name for name, found in marks.items() if found), None) or (_kind_of_json(files[0]) if files else None)


def _kind_of_json(path: Path) -> str:
    """By keys at the beginning or the end of a file, which may be too large to be read twice."""
    with path.open("rb") as file:
        head = file.read(SNIFFED)
        file.seek(max(len(head), path.stat().st_size - SNIFFED))
        data = head + b" " + file.read(SNIFFED)
    if all(f'"{key}"'.encode() in data for key in (lvis.NEGATIVE, lvis.PARTIAL)):
        return "lvis"
    if amc.is_amc(head):
        return "amc"
    return "omnilabel" if b'"descriptions"' in data and b'"image_ids"' in data else "coco"


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
    if format is not None and format not in _READERS:
        raise NotFound("format", format, list(_READERS))
    if path.is_file() and path.suffix.lower() == ".zip":
        return _read_zip(path, format, images, annotations_only, progress)
    document, roots = _READERS[format or sniff(path)](path, images)
    if not any(True for _ in document.images()) and not document.faults:
        empty = Fault(file=str(path), item="the data set", seen="no images", expected="at least one image")
        document.faults.append(empty)
    if annotations_only:
        return document
    return _with_files(
        document, path, {split: [images] if images else found for split, found in roots.items()}, progress
    )


def _read_zip(
    path: Path, format: str | None, images: Path | None, annotations_only: bool, progress: Progress | None
) -> Document:
    """A data set in an archive. It is unpacked for as long as the document lives."""
    place = tempfile.TemporaryDirectory(prefix="winnow-")
    root = archives.unpack(path, Path(place.name))
    try:
        document = read(root, format=format, images=images, annotations_only=annotations_only, progress=progress)
    except BadDataset as error:
        raise BadDataset(_within(error.faults, root, path)) from error
    faults = _within(document.faults, root, path)
    file_of = document.file_of

    def still_there(image: Image, place: tempfile.TemporaryDirectory[str] = place) -> Path | None:
        return file_of(image)

    return replace(document, faults=faults, file_of=still_there)


def _within(faults: Sequence[Fault], root: Path, path: Path) -> list[Fault]:
    """The faults by the members of the archive, not by where they were unpacked."""

    def named(text: str) -> str:
        return text.replace(str(root), str(path))

    return [
        Fault(file=named(f.file), item=named(f.item), seen=named(f.seen), expected=named(f.expected)) for f in faults
    ]


def write(document: Document, folder: Path, format: str, *, with_images: bool = True) -> list[str]:
    """Write a document into an empty or new folder. Returns what the format cannot hold, a sentence part each; the file
    `LOSSES.md` beside the annotations says the same.

    The folder appears whole, or not at all when this fails or is killed; the same document gives the same bytes. Raises
    WinnowError when the folder is not empty, or two different images have the same file name, DiskFull without room.
    """
    if format not in FORMATS:
        raise NotFound("format", format, list(FORMATS))
    if folder.exists() and any(folder.iterdir()):
        raise WinnowError(f"{folder} is not empty. Choose a new folder; exports never overwrite.")
    names = _FileNames(document)
    try:
        with _appearing(folder.resolve()) as draft:
            losses = FORMATS[format].write(replace(document, images=names.passing), draft)
            if losses:
                (draft / REPORT).write_text(_report(FORMATS[format], losses), encoding="utf-8")
            if with_images:
                _copy_images(document, draft, FORMATS[format].place)
    except OSError as error:
        raise not_written(error, f"Nothing was exported to {folder}") from error
    return losses


def _report(format: Format, losses: list[str]) -> str:
    lines = "".join(f"- {loss}\n" for loss in losses)
    return f"# What was left out\n\nThis is {format.name}, which holds {format.holds}. Not held:\n\n{lines}"


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A new folder beside it that takes its place at the end, or is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    draft.mkdir()
    try:
        yield draft
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy_images(document: Document, folder: Path, place: Callable[[str], str]) -> None:
    for image in document.images():
        source = document.file_of(image)
        if source is None:
            continue
        target = folder / place(image.file_name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


class _FileNames:
    """Looks at the names of a document's images when they first go by, which saves a look through all of them."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._sound = False

    def passing(self) -> Iterator[Image]:
        """The images. Raises WinnowError for a name that leads elsewhere, and at the end when two share theirs."""
        if self._sound:
            yield from self._document.images()
            return
        hashes = array("q")  # 8 bytes of each name: there may be millions
        for image in self._document.images():
            if image.split and not is_split(image.split):
                raise WinnowError(f"The split {image.split!r} cannot name a file; nothing was written.")
            if climbs(image.file_name):
                raise WinnowError(f"The file name {image.file_name!r} leads out of the folder; nothing was written.")
            hashes.append(hash(image.file_name))
            yield image
        self._refuse_repeated(np.frombuffer(hashes, np.int64))
        self._sound = True

    def _refuse_repeated(self, hashes: NDArray[np.int64]) -> None:
        values, counts = np.unique(hashes, return_counts=True)
        repeated = set(values[counts > 1].tolist())
        files: dict[str, Path | None] = {}
        for image in self._document.images() if repeated else ():
            if hash(image.file_name) in repeated:
                source = self._document.file_of(image)
                if files.setdefault(image.file_name, source) != source:
                    raise WinnowError(
                        f"Two different images are named {image.file_name!r}. Export their splits one by one."
                    )


def _read_coco(path: Path, images: Path | None) -> tuple[Document, Roots]:
    files = _splits(path, "*.json")
    return coco.read(files), _image_folders(path, files)


def _read_lvis(path: Path, images: Path | None) -> tuple[Document, Roots]:
    files = _splits(path, "*.json")
    return lvis.read(files), _image_folders(path, files)


def _read_omnilabel(path: Path, images: Path | None) -> tuple[Document, Roots]:
    files = _splits(path, "*.json")
    roots = _image_folders(path, files)
    return omnilabel.read(files, {split: [images] if images else found for split, found in roots.items()}), roots


def _read_yolo(path: Path, images: Path | None) -> tuple[Document, Roots]:
    file = path if path.is_file() else yolo.find_yaml(path)
    if file is None:
        raise WinnowError(f"{path} has no data.yaml.")
    document = yolo.read(file, images)
    return document, _everywhere(document, [file.parent / "images", file.parent])


def _read_d3(path: Path, images: Path | None) -> tuple[Document, Roots]:
    document = d3.read(path)
    return document, _everywhere(document, [path / "images", path / "d3_images", path.parent / "d3_images", path])


def _read_flickr30k(path: Path, images: Path | None) -> tuple[Document, Roots]:
    document = flickr30k.read(path)
    return document, _everywhere(document, [path / "images", path / "flickr30k-images", path])


def _read_refcoco(path: Path, images: Path | None) -> tuple[Document, Roots]:
    document = refcoco.read(path)
    folder = path if path.is_dir() else path.parent
    mscoco = [place / "images/mscoco/images/train2014" for place in (folder, folder.parent)]
    return document, _everywhere(document, [folder / "images", *mscoco, folder])


def _everywhere(document: Document, places: list[Path]) -> Roots:
    """The same folders for every split."""
    return dict.fromkeys((image.split for image in document.images()), places)


def _read_odvg(path: Path, images: Path | None) -> tuple[Document, Roots]:
    files = _splits(path, "*.jsonl")
    labels = sorted(next(iter(files.values())).parent.glob("*label_map*.json"))
    return odvg.read(files, labels[0] if labels else None), _image_folders(path, files)


def _image_folders(path: Path, files: dict[str, Path]) -> Roots:
    """Where the images of annotation files usually are: beside them or in images/, or there by split."""
    folder = path if path.is_dir() else path.parent
    places = [folder / "images", folder, folder.parent / "images", folder.parent]
    roots = {}
    for split, file in files.items():
        own = [place / name for name in (split, file.stem.split("_")[-1]) if name for place in places]
        roots[split] = [*filter(Path.is_dir, own), *places]
    return roots


def _read_amc(path: Path, images: Path | None) -> tuple[Document, Roots]:
    files = _splits(path, "*.json")
    roots = {split: [images] if images else found for split, found in _image_folders(path, files).items()}
    return amc.read(files, roots), roots


def _read_classfolder(path: Path, images: Path | None) -> tuple[Document, Roots]:
    document = classfolder.read(path)
    return document, _everywhere(document, [path])


def _read_pairs(path: Path, images: Path | None) -> tuple[Document, Roots]:
    document, roots = pairs.read(path, images)
    return document, _everywhere(document, roots)


def _read_voc(path: Path, images: Path | None) -> tuple[Document, Roots]:
    document = voc.read(path)
    return document, _everywhere(document, [path / "JPEGImages", path / "images", path])


_READERS = {
    "amc": _read_amc,
    "classfolder": _read_classfolder,
    "pairs": _read_pairs,
    "coco": _read_coco,
    "voc": _read_voc,
    "odvg": _read_odvg,
    "lvis": _read_lvis,
    "yolo": _read_yolo,
    "omnilabel": _read_omnilabel,
    "d3": _read_d3,
    "flickr30k": _read_flickr30k,
    "refcoco": _read_refcoco,
}


def _splits(path: Path, pattern: str) -> dict[str, Path]:
    """Files by split. A file of its own has the split its name tells, if any. Where there are `instances_*` files, as
    COCO itself ships them, those for captions and keypoints beside them are not read."""
    files = [path] if path.is_file() else _annotation_files(path, pattern)
    files = [file for file in files if file.name.startswith("instances_")] or files
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


def _with_files(document: Document, path: Path, roots: Roots, progress: Progress | None) -> Document:
    """The document without the images whose files are missing or unsound, and what belongs to them."""
    total = sum(1 for _ in document.images())
    faults = Faults(str(path))
    files: dict[int, Path] = {}
    sound: set[tuple[Path, int, int]] = set()  # several lines of ODVG may show one file
    for number, image in enumerate(document.images(), 1):
        root = next((root for root in roots[image.split] if is_file(root / image.file_name)), roots[image.split][0])
        item = f"image {short(image.file_name)}"
        found = locate(faults, item, root, image.file_name)
        if found is not None:
            key = (found, image.width, image.height)
            if key in sound or check_picture(faults, item, *key):
                sound.add(key)
                files[image.id] = found
        if progress is not None:
            progress(number, total)
    return replace(
        _restricted(document, files.keys()) if len(files) < total else document,
        faults=[*document.faults, *faults],
        file_of=lambda image: files.get(image.id),
    )


def _restricted(document: Document, kept: Container[int]) -> Document:
    """Only the images whose ids are kept, and what belongs to them."""
    return replace(
        document,
        images=lambda: (image for image in document.images() if image.id in kept),
        boxes=BoxRows(lambda first: (row for row in document.box_rows(first) if row[1] - first.image in kept)),
        phrases=lambda: (phrase for phrase in document.phrases() if phrase.image_id in kept),
    )

"""Images with captions and nothing else, as image-text data sets come: to be read only, as every format of captions writes them.

- a folder of images with a .txt of the same name beside each, a caption a line;
- JSON lines with `image` (or `file_name`, `filename`, `path`) and `caption` (or `text`, `captions`);
- parquet with the same columns, or with the bytes of the images, as Hugging Face's data sets have them (needs pyarrow);
- tars of webdataset: members of one name, an image and a .txt or .json with the caption.

Nothing is ever fetched: a line that only knows a URL is a fault. What an archive holds is unpacked for as long as the document
lives, streamed and within the bounds of `archives`.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from db.document import Document
from db.errors import WinnowError
from db.formats import archives
from db.formats.checks import SUFFIXES, Faults, check_size, check_storable, climbs, is_text, short
from db.formats.reading import broken, picture_size, without
from db.records import Fault, Image, Phrase
from db.spool import Spool

NAMES = ("image", "file_name", "filename", "path", "image_path")
CAPTIONS = ("caption", "text", "captions", "txt")
URLS = ("url", "image_url")
TARS = (".tar", ".tar.gz", ".tgz")
PICTURES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
SAYS = re.compile(r"[^\W\d_]")  # a letter: the numbers of YOLO's labels are no caption
MAX_LINE = 2**20
MAX_CAPTION = 2000  # characters; more is no caption
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def is_pairs(path: Path) -> bool:
    """Whether a file or folder looks like images with captions."""
    if path.is_file():
        return _is_tar(path) or path.suffix == ".parquet" or (path.suffix == ".jsonl" and _speaks(path))
    if any(_is_tar(file) or file.suffix == ".parquet" for file in path.iterdir()):
        return True
    listed = sorted(path.glob("*.jsonl"))
    return any(map(_speaks, listed[:1])) or any(map(_described, _some_pictures(path)))


def read(path: Path, images: Path | None = None) -> tuple[Document, list[Path]]:
    """(the data set, the folders in which its images lie). Raises BadDataset for a file of which nothing can be read, and
    WinnowError for parquet without pyarrow."""
    reader = Reader([images] if images else [path if path.is_dir() else path.parent])
    tables = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    packed = [path] if path.is_file() else sorted(p for p in path.iterdir() if _is_tar(p) or p.suffix == ".parquet")
    if packed and (_is_tar(packed[0]) or packed[0].suffix == ".parquet"):
        for file in packed:
            (reader.read_tar if _is_tar(file) else reader.read_parquet)(file)
    elif tables:
        for file in tables:
            reader.read_lines(file)
    else:
        reader.read_folder(path)
    return reader.document(), reader.roots


class Reader:
    """Gathers the images and captions of files of any of the four kinds. `roots` are the folders of the images."""

    def __init__(self, roots: list[Path]) -> None:
        self.roots = roots
        self._images: Spool[Image] = Spool(Image)
        self._phrases: Spool[Phrase] = Spool(Phrase)
        self._known: dict[str, int] = {}
        self._faults: list[Fault] = []
        self._place: tempfile.TemporaryDirectory[str] | None = None

    def document(self) -> Document:
        """What was read. It keeps this reader, and with it what was unpacked."""
        return Document(
            format="pairs",
            categories=[],
            images=lambda: self._images,
            boxes=lambda: (),
            phrases=lambda: self._phrases,
            faults=self._faults,
        )

    def read_folder(self, folder: Path) -> None:
        """Images with a text beside them."""
        faults = Faults(str(folder))
        for picture in _pictures(folder):
            name = picture.relative_to(folder).as_posix()
            text = picture.with_suffix(".txt")
            if not text.is_file():
                faults.add(f"image {short(name)}", f"no {text.name}", "a text of the same name beside it")
                continue
            said = _decoded(faults, f"text {short(text.name)}", text.read_bytes()[: MAX_LINE + 1])
            if said is not None:
                self._add(faults, f"image {short(name)}", name, said.splitlines())
        self._faults += faults

    def read_lines(self, path: Path) -> None:
        """JSON lines."""
        faults = Faults(str(path))
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
                if len(line) > MAX_LINE:
                    faults.add(f"line {number}", f"more than {MAX_LINE} bytes", "one short JSON object a line")
                    break
                if line.strip():
                    self._line(faults, f"line {number}", line)
        self._faults += faults

    def read_tar(self, path: Path) -> None:
        """A tar of webdataset, member by member."""
        faults = Faults(str(path))
        shard = path.name.split(".")[0]
        room = min(archives.MAX_TOTAL, int(shutil.disk_usage(self._unpacked).free * archives.FREE))
        waiting: dict[str, dict[str, Any]] = {}
        try:
            with tarfile.open(path, "r|*") as archive:
                for number, member in enumerate(archive):
                    if number >= archives.MAX_ENTRIES:
                        faults.add("the whole file", "more members", f"at most {archives.MAX_ENTRIES} members")
                        break
                    room -= self._member(faults, archive, member, shard, waiting, room)
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            faults.add("the whole file", f"not readable as a tar: {short(str(error))}", "an intact tar archive")
        for key, parts in waiting.items():
            self._sample(faults, f"sample {short(key)}", parts)
        self._faults += faults

    def read_parquet(self, path: Path) -> None:
        """Parquet, a batch of rows at a time."""
        if find_spec("pyarrow") is None:
            raise WinnowError(
                f"{path.name} is parquet, which is read with pyarrow. Install it (pip install 'winnow[pairs]', or pip install "
                "pyarrow), or write the data set as JSON lines."
            )
        faults = Faults(str(path))
        try:
            table = import_module("pyarrow.parquet").ParquetFile(path)
            number = 0
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    self._row(faults, f"row {number}", f"{path.stem}/{number:08d}", row)
                    number += 1
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            raise broken(path, f"not readable as parquet: {short(str(error))}", "an intact parquet file") from error
        self._faults += faults

    # One item

    def _line(self, faults: Faults, item: str, line: bytes) -> None:
        try:
            raw = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            faults.add(item, f"not readable as JSON: {short(str(error))}", "one complete JSON object a line")
            return
        if not isinstance(raw, dict):
            faults.add(item, short(raw), "one JSON object a line")
            return
        name = next((raw[key] for key in NAMES if key in raw), None)
        if is_text(name) and not _is_url(name):
            self._add(faults, item, name, _captions(raw), without(raw, {*NAMES, *CAPTIONS}))
        elif _is_url(name) or any(key in raw for key in URLS):
            faults.add(item, "a URL", "the file of the image: nothing is fetched. Download the images first")
        else:
            faults.add(item, f"image {short(name)}", f"the path of an image as {' or '.join(NAMES[:2])}")

    def _row(self, faults: Faults, item: str, place: str, row: dict[str, Any]) -> None:
        value = next((row[key] for key in NAMES if row.get(key) is not None), None)
        data = value.get("bytes") if isinstance(value, dict) else value
        rest = {key: part for key, part in without(row, {*NAMES, *CAPTIONS}).items() if not isinstance(part, bytes)}
        if isinstance(data, bytes):
            name = place + _suffix_of(data)
            self._write(name, data)
            self._add(faults, item, name, _captions(row), rest)
        elif isinstance(value, dict) and is_text(value.get("path")):
            self._add(faults, item, value["path"], _captions(row), rest)
        elif is_text(value) and not _is_url(value):
            self._add(faults, item, value, _captions(row), rest)
        else:
            faults.add(item, f"image {short(value)}", "the bytes or the path of an image; nothing is fetched")

    def _member(
        self,
        faults: Faults,
        archive: tarfile.TarFile,
        member: tarfile.TarInfo,
        shard: str,
        waiting: dict[str, dict[str, Any]],
        room: int,
    ) -> int:
        """Takes a member; returns the bytes it wrote. Only plain files count, and none that leads out of the folder."""
        name = PurePosixPath(member.name)
        suffix = name.suffix.lower()
        if member.isdir() or (suffix not in PICTURES and suffix not in (".txt", ".json")):
            return 0
        item = f"member {short(member.name)}"
        if not member.isfile():
            faults.add(item, "a link or a device", "a plain file")
        elif climbs(member.name):
            faults.add(item, "a path out of the folder", "a path inside of it")
        elif member.size > min(room, archives.MAX_ENTRY if suffix in PICTURES else MAX_LINE):
            faults.add(item, f"{member.size} bytes", "as many as the disk and a caption have room for")
        else:
            source = archive.extractfile(member)
            data = source.read() if source else b""
            parts = waiting.setdefault(str(name.with_suffix("")), {})
            if suffix not in PICTURES:
                parts[suffix] = data
                return 0
            parts["name"] = f"{shard}/{name}"
            self._write(parts["name"], data)
            return len(data)
        return 0

    def _sample(self, faults: Faults, item: str, parts: dict[str, Any]) -> None:
        if "name" not in parts:
            faults.add(item, "no image", "an image and a text of the same name")
            return
        raw: Any = {}
        if ".json" in parts:
            try:
                raw = msgspec.json.decode(parts[".json"])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                faults.add(item, f"a .json that is not readable: {short(str(error))}", "one JSON object")
                return
        said = _decoded(faults, item, parts[".txt"]) if ".txt" in parts else None
        if not isinstance(raw, dict) or (".txt" in parts and said is None):
            return
        captions = said.splitlines() if said is not None else _captions(raw)
        self._add(faults, item, parts["name"], captions, without(raw, {*NAMES, *CAPTIONS}))

    def _add(
        self, faults: Faults, item: str, name: str, captions: list[Any], rest: dict[str, Any] | None = None
    ) -> None:
        """An image with its captions; captions of an image that is known already join it."""
        said = [text.strip() for text in captions if is_text(text) and SAYS.search(text)]
        if not said or len(said) < len([text for text in captions if text is not None and str(text).strip()]):
            faults.add(item, f"caption {short(captions)}", "a text that says something")
        elif max(map(len, said)) > MAX_CAPTION:
            faults.add(item, f"a caption of {max(map(len, said))} characters", f"at most {MAX_CAPTION}")
        elif climbs(name) or not is_text(name):
            faults.add(item, f"file name {short(name)}", "a path inside the folder of the images")
        elif check_storable(faults, item, rest or {}):
            image_id = self._known.get(name)
            if image_id is None:
                image_id = self._image(faults, item, name, rest or {})
            for text in said if image_id is not None else ():
                self._phrases.append(Phrase(id=len(self._phrases), image_id=image_id or 0, text=text))

    def _image(self, faults: Faults, item: str, name: str, rest: dict[str, Any]) -> int | None:
        size = self._size(faults, item, name, rest)
        if size is None:
            return None
        split = SPLITS.get(name.split("/")[0].lower(), "") if "/" in name else ""
        extra = {"pair": without(rest, {"width", "height"})} if without(rest, {"width", "height"}) else {}
        image = Image(id=len(self._images), file_name=name, width=size[0], height=size[1], split=split, extra=extra)
        self._images.append(image)
        self._known[name] = image.id
        return image.id

    def _size(self, faults: Faults, item: str, name: str, rest: dict[str, Any]) -> tuple[int, int] | None:
        width, height = rest.get("width"), rest.get("height")
        if width is None or height is None:
            return picture_size(faults, item, self.roots, name)
        return (width, height) if check_size(faults, item, width, height) else None

    @property
    def _unpacked(self) -> Path:
        """The folder of what was in archives, which lives as long as the document."""
        if self._place is None:
            self._place = tempfile.TemporaryDirectory(prefix="winnow-")
            self.roots.insert(0, Path(self._place.name))
        return Path(self._place.name)

    def _write(self, name: str, data: bytes) -> None:
        target = self._unpacked / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _speaks(path: Path) -> bool:
    """Whether the first line of a file of JSON lines has a caption at its top, as ODVG never does."""
    with path.open("rb") as file:
        try:
            first = msgspec.json.decode(file.readline(MAX_LINE))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
    return isinstance(first, dict) and any(key in first for key in CAPTIONS) and "grounding" not in first


def _described(picture: Path) -> bool:
    """Whether the text beside an image is one of words."""
    text = picture.with_suffix(".txt")
    return text.is_file() and SAYS.search(text.read_bytes()[:MAX_CAPTION].decode(errors="replace")) is not None


def _captions(raw: dict[str, Any]) -> list[Any]:
    value = next((raw[key] for key in CAPTIONS if raw.get(key) is not None), None)
    return value if isinstance(value, list) else [value]


def _decoded(faults: Faults, item: str, data: bytes) -> str | None:
    try:
        if len(data) <= MAX_LINE:
            return data.decode("utf-8-sig")
        faults.add(item, f"more than {MAX_LINE} bytes", "a caption")
    except UnicodeDecodeError as error:
        faults.add(item, short(str(error)), "a text in UTF-8")
    return None


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith(TARS)


def _is_url(value: object) -> bool:
    return isinstance(value, str) and "://" in value


def _suffix_of(data: bytes) -> str:
    """By the first bytes; what is none of these fails to decode later, and is told then."""
    marks = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp"}
    return next((suffix for mark, suffix in marks.items() if data.startswith(mark)), ".jpg")


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())


def _some_pictures(folder: Path) -> Iterator[Path]:
    """A few images of the folder and of the folders in it, to tell what it is."""
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())[:5]):
        found = (file for file in sorted(place.iterdir())[:2000] if file.suffix.lower() in PICTURES)
        first = next(found, None)
        if first is not None:
            yield first

"""Zip archives, unpacked entry by entry within bounds: never by what an archive says of itself alone."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from db.errors import BadDataset
from db.formats.checks import Faults, climbs, short

MAX_ENTRIES = 200_000
MAX_ENTRY = 2 * 2**30  # bytes
MAX_TOTAL = 50 * 2**30
MAX_RATIO = 200  # of unpacked to packed bytes, above SMALL
SMALL = 2**20
FREE = 0.8  # of the free disk, at most
BLOCK = 2**20
SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".webp", ".json", ".jsonl", ".xml", ".txt", ".yaml", ".yml", ".p", ".pkl", ".md"),
    *(".cache", ""),
}


def unpack(path: Path, folder: Path) -> Path:
    """Unpack into an empty folder. Returns where the data set is: the folder, or the only one in it.

    Raises BadDataset with every fault: names that lead out of the folder, links, names twice, unknown suffixes, archives
    in archives, encrypted entries, and whatever is larger than its bounds.
    """
    faults = Faults(str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check(entries, faults, min(MAX_TOTAL, int(shutil.disk_usage(folder).free * FREE)))
            if not faults:
                for entry in entries:
                    _extract(archive, entry, folder)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError, OSError) as error:
        faults.add("the whole file", f"not readable as a zip: {short(str(error))}", "an intact zip archive")
    if faults:
        raise BadDataset(faults)
    found = [entry for entry in folder.iterdir() if entry.name != "__MACOSX"]
    return found[0] if len(found) == 1 and found[0].is_dir() and found[0].name not in INNER else folder


INNER = {"images", "labels", "annotations", "Annotations", "JPEGImages", "Sentences"}  # folders within a data set


def _check(entries: list[zipfile.ZipInfo], faults: Faults, most: int) -> None:
    if not entries or len(entries) > MAX_ENTRIES:
        faults.add("the whole file", f"{len(entries)} files", f"1 to {MAX_ENTRIES} files")
        return
    seen: set[str] = set()
    for entry in entries:
        item, key = f"entry {short(entry.filename)}", entry.filename.casefold()
        if climbs(entry.filename) or entry.orig_filename != entry.filename:
            faults.add(item, "a path out of the folder", "a path inside of it")
        elif stat.S_ISLNK(entry.external_attr >> 16):
            faults.add(item, "a link", "a plain file")
        elif key in seen:
            faults.add(item, "the name a second time, capitals apart", "every name once")
        elif Path(entry.filename).suffix.lower() not in SUFFIXES:
            faults.add(item, f"the suffix {Path(entry.filename).suffix!r:.40}", "images and annotations only")
        elif entry.flag_bits & 1:
            faults.add(item, "an encrypted entry", "a plain one")
        elif entry.file_size > MAX_ENTRY:
            faults.add(item, f"{entry.file_size} bytes", f"at most {MAX_ENTRY} bytes")
        elif entry.file_size > max(SMALL, MAX_RATIO * entry.compress_size):
            faults.add(
                item, f"{entry.file_size} bytes from {entry.compress_size}", f"at most {MAX_RATIO} times as many"
            )
        seen.add(key)
    total = sum(entry.file_size for entry in entries)
    if total > most:
        faults.add("the whole file", f"{total} bytes unpacked", f"at most {most} bytes")


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    """Write one entry; more bytes than it announced are refused by counting them."""
    target = folder / entry.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    with archive.open(entry) as source, target.open("xb") as file:
        while block := source.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise zipfile.BadZipFile(f"{entry.filename} is larger than announced")
            file.write(block)

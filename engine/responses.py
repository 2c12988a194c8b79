"""Answers of chat models on disk, so that the same question is not paid for twice."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from db.errors import WinnowError
from db.records import Record

logger = logging.getLogger(__name__)

LIMIT_BYTES = 256 << 20


class _Entry(Record, frozen=True, kw_only=True):
    """`sha256` is that of `text`: what a crash or a bad disk left of an entry does not pass for one."""

    text: str
    sha256: str


def key_of(question: Mapping[str, Any]) -> str:
    """64 hex digits: sha256 over the canonical JSON (sorted keys, no spaces). Raises WinnowError for what is no JSON."""
    try:
        text = json.dumps(question, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WinnowError(f"The chat request cannot be written as JSON: {error}.") from error
    return hashlib.sha256(text.encode()).hexdigest()


class Responses:
    """A folder of answers, `ab/abcdef....json`, bounded in size: the oldest go first.

    A cache that cannot be read or written is logged and no more: the answers come from the model then.
    """

    def __init__(self, folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._lock = threading.Lock()
        self._size: int | None = None  # bytes in the folder, None until counted

    def get(self, key: str) -> str | None:
        """The answer, None when there is none. An entry that is damaged is removed."""
        path = self._path(key)
        try:
            return _text(path.read_bytes())
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            logger.warning("removed the damaged cache entry %s: %s", path, error)
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the cache entry %s cannot be read: %s", path, error)
        return None

    def put(self, key: str, text: str) -> None:
        """Keep an answer, whole or not at all."""
        entry = msgspec.json.encode(_Entry(text=text, sha256=_sha256(text)))
        try:
            _write(self._path(key), entry)
            self._grow(len(entry))
        except OSError as error:
            logger.warning("an answer could not be kept in %s: %s", self.folder, error)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def _grow(self, added: int) -> None:
        with self._lock:
            if self._size is not None:
                self._size += added
            if self._size is None or self._size > self.limit_bytes:
                self._size = self._evict()

    def _evict(self) -> int:
        """Count what lies there; when that is too much, remove the oldest until a tenth is free. Returns the bytes left."""
        entries = sorted(_entries(self.folder))
        size = sum(entry_size for _, entry_size, _ in entries)
        if size <= self.limit_bytes:
            return size
        for _, entry_size, path in entries:
            if size <= 0.9 * self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            size -= entry_size
        return size


def _entries(folder: Path) -> list[tuple[int, int, Path]]:
    """(time of writing in ns, bytes, path) of every entry. Only names that this module gives count."""
    hexadecimal = "[0-9a-f]"
    found = []
    for path in folder.glob(f"{hexadecimal * 2}/{hexadecimal * 64}.json"):
        try:
            stat = path.stat()
        except FileNotFoundError:  # another process removed it just now
            continue
        found.append((stat.st_mtime_ns, stat.st_size, path))
    return found


def _text(entry: bytes) -> str:
    """Raises MsgspecError for an entry that is not whole."""
    read = msgspec.json.decode(entry, type=_Entry)
    if _sha256(read.text) != read.sha256:
        raise msgspec.ValidationError("its checksum is wrong")
    return read.text


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise

"""Files by content: a blob is named by the sha256 of its bytes, written once and never changed.

They lie in a folder, or in a place that several machines share (S3 and whatever else fsspec knows), of which the folder then
keeps copies. What comes from there is checked against its name: a blob that was damaged on the way is never used.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from db.errors import Unreachable, WinnowError, not_written


class Blobs:
    """A folder of immutable files, `ab/abcdef...`, safe against a crash in mid-write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, data: bytes) -> str:
        """Store the bytes and return their digest (64 hex characters). Storing twice is harmless.

        Raises DiskFull when there is no room, WinnowError when the disk refuses; then nothing is stored.
        """
        digest = hashlib.sha256(data).hexdigest()
        target = self._place(digest)
        if not target.exists():
            try:
                _write_durably(target, data)
            except OSError as error:
                raise not_written(error, f"A file could not be stored in {self.folder}") from error
        return digest

    def path(self, digest: str) -> Path:
        """Where the blob lies. Raises WinnowError when it is not there or the digest is malformed."""
        target = self._place(digest)
        if not target.is_file():
            raise WinnowError(
                f"The file of blob {digest[:12]} is missing from {self.folder}; restore it from a backup."
            )
        return target

    def get(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def __contains__(self, digest: str) -> bool:
        return self._place(digest).is_file()

    def _place(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise WinnowError(f"{digest[:80]!r} is no blob digest; expected 64 hexadecimal characters.")
        return self.folder / digest[:2] / digest


class SharedBlobs(Blobs):
    """Blobs at a URL, under `ab/abcdef...` as in a folder. `folder` holds copies of those that were used here; it may be emptied
    whenever nothing runs.

    Raises WinnowError for a URL that fsspec cannot open.
    """

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(folder)
        self._files, self._root = _opened(url)
        self._where = url.rpartition("@")[2]  # without a password

    def put(self, data: bytes) -> str:
        """As `Blobs.put`; returns when it is where all machines find it. Raises Unreachable when it cannot be brought there."""
        digest = hashlib.sha256(data).hexdigest()
        with self._in_words(digest):
            if not self._files.exists(self._far(digest)):
                self._bring(digest, data)
        return super().put(data)

    def _bring(self, digest: str, data: bytes) -> None:
        """Object stores show a file when it is complete; on a file system it is moved to its name when it is."""
        target = self._far(digest)
        if "file" not in self._files.protocol:
            self._files.pipe_file(target, data)
            return
        draft = f"{target}.{secrets.token_hex(8)}"
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(draft, data)
        self._files.mv(draft, target)

    def path(self, digest: str) -> Path:
        """Where a copy lies. Raises WinnowError when there is no such blob, or it does not have the content of its name."""
        if super().__contains__(digest):
            return super().path(digest)
        with self._in_words(digest):
            data = self._files.cat_file(self._far(digest))
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise WinnowError(
                f"Blob {digest[:12]} of {self._where} is damaged: its digest is {found[:12]}. Restore it from a backup."
            )
        super().put(data)
        return super().path(digest)

    def __contains__(self, digest: str) -> bool:
        with self._in_words(digest):
            return super().__contains__(digest) or bool(self._files.exists(self._far(digest)))

    def _far(self, digest: str) -> str:
        return f"{self._root}/{self._place(digest).relative_to(self.folder).as_posix()}"

    @contextmanager
    def _in_words(self, digest: str) -> Iterator[None]:
        """Every store has errors of its own; what they share is that the blob could not be had."""
        try:
            yield
        except WinnowError:
            raise
        except FileNotFoundError as error:
            raise WinnowError(f"Blob {digest[:12]} is missing from {self._where}; restore it from a backup.") from error
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise Unreachable(f"Blob {digest[:12]} cannot be reached at {self._where} ({why:.200}).") from error


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the folder in it."""
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(url)
    except ImportError as error:
        raise WinnowError(
            f"The blobs at {url.partition(':')[0]}:// need a library that is not installed: {error}."
        ) from error
    except ValueError as error:
        raise WinnowError(
            f"The setting blobs_url is no URL that can be opened: {error}. Right is s3://BUCKET/FOLDER."
        ) from error
    return files, root.rstrip("/")


def _write_durably(target: Path, data: bytes) -> None:
    """Temp file in the same folder, fsync, rename, fsync of the folder: complete or absent, never half."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

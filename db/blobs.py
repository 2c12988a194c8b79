"""Files by content: a blob is named by the sha256 of its bytes, written once and never changed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from db.errors import WinnowError


class Blobs:
    """A folder of immutable files, `ab/abcdef...`, safe against a crash in mid-write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, data: bytes) -> str:
        """Store the bytes and return their digest (64 hex characters). Storing twice is harmless.

        Raises WinnowError when the disk is full or refuses; then nothing is stored.
        """
        digest = hashlib.sha256(data).hexdigest()
        target = self._place(digest)
        if not target.exists():
            try:
                _write_durably(target, data)
            except OSError as error:
                raise WinnowError(f"A file could not be stored in {self.folder}: {error.strerror}.") from error
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

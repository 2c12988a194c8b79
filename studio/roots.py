"""Which folders of this machine people may read from and write to through the studio.

Where nobody signs in, the studio is one person's own, and all that this person may open is open. Where people sign in, a
curator is not somebody with a shell: paths have to lie in the folders that the administrator names in WINNOW_ROOTS. The
command line knows no such bounds, since whoever runs it has the machine anyway.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from db.document import Document
from db.errors import WinnowError
from db.records import Image

VARIABLE = "WINNOW_ROOTS"
SHIPPED = "assets/"
EXCHANGE = "exchange"  # in the data folder: where people who sign in import from and export to, unless others are named


@dataclass(frozen=True)
class Roots:
    """Folders, links followed; None for the whole machine."""

    folders: tuple[Path, ...] | None = None

    def admit(self, path: Path) -> Path:
        """The path without links and `..`. Raises WinnowError when it lies outside, whether or not there is anything."""
        if self.folders is None:
            return path.expanduser()
        found = Path(os.path.realpath(path.expanduser()))
        if not any(found.is_relative_to(folder) for folder in self.folders):
            raise WinnowError(
                f"{path} is outside of the folders that may be used here: {', '.join(map(str, self.folders))}. "
                f"The administrator names them in {VARIABLE}."
            )
        return found

    def admit_document(self, document: Document) -> Document:
        """The document, of which no image is read from elsewhere: annotations may name other folders."""
        if self.folders is None:
            return document

        def inside(image: Image) -> Path | None:
            path = document.file_of(image)
            return None if path is None else self.admit(path)

        return replace(document, file_of=inside)

    def admit_options(self, options: Mapping[str, Any]) -> None:
        """Raises WinnowError when a text among the options is a path that lies outside."""
        for value in options.values():
            if isinstance(value, Mapping):
                self.admit_options(value)
            elif isinstance(value, str) and _is_path(value):
                self.admit(Path(value))


EVERYWHERE = Roots()


def roots_of(listed: str, home: Path) -> Roots:
    """Those that a setting lists, with ':' between (';' on Windows), or the one in the data folder, which is made.

    Raises WinnowError for one that is no folder, and for the data folder itself: it holds secrets and everybody's work.
    """
    if not listed.strip():
        (home / EXCHANGE).mkdir(parents=True, exist_ok=True)
        return Roots((Path(os.path.realpath(home / EXCHANGE)),))
    folders = tuple(_folder(entry, home) for entry in listed.split(os.pathsep) if entry.strip())
    return Roots(folders)


def _folder(entry: str, home: Path) -> Path:
    folder = Path(os.path.realpath(Path(entry.strip()).expanduser()))
    if not folder.is_dir():
        raise WinnowError(f"{VARIABLE} lists {entry.strip()!r}, which is no folder.")
    if Path(os.path.realpath(home)).is_relative_to(folder):
        raise WinnowError(
            f"{VARIABLE} lists {entry.strip()!r}, which holds the data folder itself; name one beside it."
        )
    return folder


def _is_path(text: str) -> bool:
    """Whether the text leads to a file here, and is no mere name, id of a model, or model that came with this program."""
    if text.startswith(("/", "\\", "~", ".")) or ".." in text:
        return True
    return not text.startswith(SHIPPED) and os.path.exists(text)

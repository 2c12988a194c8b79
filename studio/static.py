"""The scripts and style sheets of the components.

A file has a plain address, which a browser asks for again at each visit. Under the version of all of them a browser keeps it for
good, and a script comes joined with all that it imports: twenty requests before anything can be seen would be most of the wait.
"""

from __future__ import annotations

import functools
import hashlib
import posixpath
import re
from pathlib import Path

from fastapi import APIRouter, Request, Response

from db.errors import NotFound

TYPES = {".js": "text/javascript", ".css": "text/css"}
PREFIX = "/studio-static"
FOR_GOOD = "public, max-age=31536000, immutable"
_VERSIONED = re.compile(r"([0-9a-f]{16})/(.+)")
# As our scripts write them: a line of its own for each import, and one name for each export.
_IMPORT = re.compile(r'^import (\{ [\w, ]+ \}) from "(\.[^"]+)";$', re.MULTILINE)
_LATER = re.compile(r'\bimport\("(\.[^"]+)"\)')
_EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|class|const|let) (\w+))", re.MULTILINE)
_OTHER = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


@functools.cache
def files() -> dict[str, bytes]:
    """All of them by name, such as `review_card/card.js`, as they were when they were first asked for."""
    folder = Path(__file__).parent / "components"
    found = sorted(path for path in folder.rglob("*") if path.suffix in TYPES)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@functools.cache
def version() -> str:
    """Sixteen letters that change with any of the files."""
    told = hashlib.sha256()
    for name, data in files().items():
        told.update(f"{name} {len(data)} ".encode() + data)
    return told.hexdigest()[:16]


def address(name: str) -> str:
    """Where a browser finds this version of a style sheet, or of a script with all its imports, and may keep it."""
    return f"{PREFIX}/{version()}/{name}"


@functools.cache
def joined(name: str) -> bytes:
    """A script as one module with all that it imports, each a function that runs when it is first needed.

    Raises ValueError for an import or export that is written in another way than ours are.
    """
    needed = _with_imports(name)
    modules = ",\n".join(f'"{one}": () => {{\n{_as_function(one)}\n}}' for one in needed)
    exports = ", ".join(names for _, names in _EXPORT.findall(files()[name].decode()))
    return (
        f"const made = {{}};\nconst need = (name) => (made[name] ??= modules[name]());\nconst modules = {{\n{modules}\n}};\n"
        f'export const {{ {exports} }} = need("{name}");\n'
    ).encode()


def _with_imports(name: str) -> list[str]:
    """A script and all that it ever imports, each once, in the order in which they are met."""
    met = [name]
    for one in met:
        source = files()[one].decode()
        named = [
            _beside(one, path) for path in (*(path for _, path in _IMPORT.findall(source)), *_LATER.findall(source))
        ]
        met += [path for path in dict.fromkeys(named) if path not in met]
    return met


def _as_function(name: str) -> str:
    """The body of a function that does what the module does, and returns its exports."""
    source = files()[name].decode()
    body = _IMPORT.sub(
        lambda found: f'const {found[1].replace(" as ", ": ")} = need("{_beside(name, found[2])}");', source
    )
    body = _LATER.sub(lambda found: f'Promise.resolve("{_beside(name, found[1])}").then(need)', body)
    body = _EXPORT.sub(lambda found: found[1], body)
    if other := _OTHER.search(body):
        raise ValueError(
            f"{name} has {other[0]!r}; write an import on one line with names, an export with what it exports."
        )
    return f"{body}\nreturn {{ {', '.join(exported for _, exported in _EXPORT.findall(source))} }};"


def _beside(name: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def add_to(routes: APIRouter) -> None:
    @routes.get(PREFIX + "/{name:path}")
    def static(name: str, request: Request) -> Response:
        """A script or style sheet. A page of an earlier version gets what there is now."""
        versioned = _VERSIONED.fullmatch(name)
        found = versioned[2] if versioned else name
        if found not in files():
            raise NotFound("script or style sheet", name[:80], list(files()))
        data = joined(found) if versioned and found.endswith(".js") else files()[found]
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        kept = FOR_GOOD if versioned and versioned[1] == version() else "no-cache"
        headers = {"ETag": tag, "Cache-Control": kept, "X-Content-Type-Options": "nosniff"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type=TYPES[Path(found).suffix])

"""Every setting in one list: name, default, help. Flags win over `WINNOW_*`, which wins over `winnow.toml`, then the default."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.errors import NotFound, WinnowError


@dataclass(frozen=True)
class Setting:
    name: str
    default: str | int
    help: str


SETTINGS = (
    Setting("home", str(Path.home() / ".local/share/winnow"), "folder of the database, the images and the models"),
    Setting("host", "127.0.0.1", "address the studio listens on; only this machine can reach the default"),
    Setting("port", 7860, "port of the studio; 0 takes any free one"),
    Setting("hosts", "", "names, with commas between, under which the studio is reached besides those of this machine"),
    Setting("sign_in", "auto", "whether people sign in: auto (when others can reach the studio) or always"),
    Setting(
        "roots",
        "",
        "folders, with : between, that people who sign in may import from and export to; empty: HOME/exchange",
    ),
    Setting("log", "text", "lines of the log: text for people, or json"),
    Setting("database_url", "", "PostgreSQL URL of the database; empty: a SQLite file in the home folder"),
    Setting("blobs_url", "", "URL of the images for fsspec, such as s3://BUCKET/FOLDER; empty: the home folder"),
    Setting("queue_url", "", "Redis URL of the job doorbell; empty: a file in the home folder"),
    Setting("secret", "", "signs messages and sessions, the same on all machines; empty: made in the home folder"),
    Setting("lease_seconds", 60, "how long a worker may be silent before its work is given to another"),
)


def settings(flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The value of every setting. Raises WinnowError for an unknown name in the file or a value of the wrong type."""
    known = {setting.name: setting for setting in SETTINGS}
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    from_environment = {
        name: environment[f"WINNOW_{name.upper()}"] for name in known if f"WINNOW_{name.upper()}" in environment
    }
    home = Path(given.get("home") or from_environment.get("home") or str(known["home"].default)).expanduser()
    file = _read(home / "winnow.toml", known)
    merged = {name: setting.default for name, setting in known.items()} | file | from_environment | given
    return {name: _typed(known[name], value) for name, value in merged.items()}


def _read(path: Path, known: Mapping[str, Setting]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise WinnowError(f"{path} is not valid TOML: {error}") from error
    for name in values:
        if name not in known:
            raise NotFound(f"setting (in {path})", name, list(known))
    return values


def _typed(setting: Setting, value: Any) -> Any:
    try:
        return type(setting.default)(value)
    except ValueError:
        kind = type(setting.default).__name__
        raise WinnowError(
            f"The setting {setting.name} is {value!r}; it should be of type {kind} ({setting.help})."
        ) from None

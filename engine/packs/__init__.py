"""Model packs: YAML files that name a backend and its options for each role."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from db.errors import NotFound, WinnowError
from engine.roles import Context

FOLDER = Path(__file__).parent

# name: (module, class, what it is). A backend's module is imported when the backend is loaded, never before.
BACKENDS = {
    "rules": ("engine.backends.rules", "RulesWriter", "writer: changes one concept of a text by rules and a lexicon"),
    "paste": ("engine.backends.paste", "PastePainter", "painter: pastes an instance of the data set itself"),
}


class Role(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    backend: str
    options: dict[str, Any] = {}


class Pack(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    title: str
    summary: str
    writer: Role | None = None
    painter: Role | None = None


def packs() -> list[Pack]:
    """The shipped packs, by name."""
    return [Pack.model_validate(yaml.safe_load(path.read_text())) for path in sorted(FOLDER.glob("*.yaml"))]


def load_pack(name: str) -> Pack:
    """Raises NotFound, listing the known packs."""
    known = {pack.name: pack for pack in packs()}
    if name not in known:
        raise NotFound("model pack", name, list(known))
    return known[name]


def backend(pack: Pack, role: str, context: Context) -> Any:
    """The loaded backend of a role. Raises WinnowError when the pack leaves that role empty."""
    chosen: Role | None = getattr(pack, role)
    if chosen is None:
        raise WinnowError(f"The pack {pack.name!r} has no {role}. Choose another pack or recipe.")
    if chosen.backend not in BACKENDS:
        raise NotFound("backend", chosen.backend, list(BACKENDS))
    module, name, _ = BACKENDS[chosen.backend]
    made = getattr(import_module(module), name)
    return made(context=context, **chosen.options)

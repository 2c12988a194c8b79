"""What every page and command works on: one store, and the doorbell that wakes the workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from db.shared import Shared
from db.store import Store
from engine.jobs import Doorbell
from studio.roots import EVERYWHERE, Roots


@dataclass(frozen=True)
class Studio:
    """`doorbell` is None where nobody is to be woken: in tests, and where this process does the work itself. `roots` bound the
    paths that people give."""

    store: Store
    home: Path
    doorbell: Doorbell | None = None
    roots: Roots = EVERYWHERE

    @property
    def settings(self) -> dict[str, str]:
        """What a worker of this studio is started with."""
        return {"home": str(self.home), **self.store.shared.settings()}


def open_studio(home: Path, shared: Shared = Shared()) -> Studio:  # noqa: B008 (it never changes)
    """Open (or create) the home folder. Raises WinnowError when its database cannot be used."""
    return Studio(store=Store(home, shared), home=home, doorbell=Doorbell(home, shared))

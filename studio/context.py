"""What every page and command works on: one store, and the doorbell that wakes the workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from db.store import Store
from engine.jobs import Doorbell


@dataclass(frozen=True)
class Studio:
    """`doorbell` is None where nobody is to be woken: in tests, and where this process does the work itself."""

    store: Store
    home: Path
    doorbell: Doorbell | None = None


def open_studio(home: Path, *, queue_url: str = "") -> Studio:
    """Open (or create) the home folder. Raises WinnowError when its database cannot be used."""
    return Studio(store=Store(home), home=home, doorbell=Doorbell(home, queue_url))

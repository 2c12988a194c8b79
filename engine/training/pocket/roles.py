"""The models of the pocket pack by role."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from db.errors import NotFound

STEPS = 3000  # of the embedder
ROLES = ("writer", "painter", "embedder", "aesthetic")
Progress = Callable[[str, int, float], None]


def train(role: str, work: Path, out: Path, *, seed: int = 0, progress: Progress | None = None) -> None:
    """Train a role's model, or go on training it, in the folder `work`; the finished model goes to `out`.

    Raises NotFound for a role that the pack does not have.
    """
    if role == "writer":
        from engine.training.pocket import writer

        writer.train(work, out, seed=seed, progress=progress)
    elif role == "painter":
        from engine.training.pocket import painter

        painter.train(work, out, seed=seed, progress=progress)
    elif role == "embedder":
        from engine.training.pocket import embedder

        embedder.train(work, out, steps=STEPS, seed=seed, progress=progress)
    elif role == "aesthetic":
        from engine.training.pocket import aesthetic

        aesthetic.train(work, out, seed=seed, progress=progress)
    else:
        raise NotFound("role of the pocket pack", role, list(ROLES))

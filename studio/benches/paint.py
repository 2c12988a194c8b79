"""`winnow bench paint`: the diffusion painter against the plain pipeline of diffusers, called one task at a time.

Same model, same crops, same seeds, same steps. Both run in this process in alternating rounds, after a first call each
that is not timed; the ratio is the median of the rounds' ratios. The pictures are compared too: those of the batches
with those of the same painter one by one, and with the plain ones.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from db.errors import WinnowError
from db.store import Store
from engine.provenance import versions
from engine.roles import Context, Painted, PaintTask

POCKET = "assets/pocket/painter"
TASKS, STEPS, GUIDANCE, BATCH, ROUNDS = 16, 25, 3.0, 8, 3
KINDS = ("mug", "ball", "lamp", "book")
COLOURS = ("red", "blue", "green")


def run(
    scale: float = 1.0,
    model: str | None = None,
    *,
    steps: int = STEPS,
    guidance: float | None = GUIDANCE,
    batch_size: int = BATCH,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """The bench at a share of 16 tasks a round, with a model folder or id, else the pocket painter where it is shipped,
    else one of its size with random weights. Raises WinnowError for a model that cannot inpaint."""
    from engine.backends.hf_diffusers import DiffusersPainter
    from engine.backends.plain_diffusers import PlainDiffusers

    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        name, told = _model(model, Path(folder) / "model")
        store = Store(Path(folder) / "home")
        try:
            options: dict[str, Any] = {"model": name, "steps": steps, "guidance": guidance}
            painter = DiffusersPainter(Context(store, dataset_id=0), batch_size=batch_size, **options)
            plain = PlainDiffusers(name, size=painter.size, steps=steps, guidance=guidance)
            tasks = _tasks(max(2, round(TASKS * scale)))
            plain.paint(tasks[:1])
            painter.paint(tasks[:batch_size])
            timed = [(_timed(plain.paint, tasks), _timed(painter.paint, tasks)) for _ in range(rounds)]
            alone = [_image(painter.paint([task])[0]) for task in tasks]
        finally:
            store.close()
    (theirs, _), (ours, _) = timed[-1]
    together = [_image(result) for result in ours]
    return {
        "bench": "paint",
        "figures": {
            "paint_ratio_to_plain": statistics.median(slow / fast for (_, slow), (_, fast) in timed),
            "images_per_s": statistics.median(len(tasks) / seconds for _, (_, seconds) in timed),
            "plain_images_per_s": statistics.median(len(tasks) / seconds for (_, seconds), _ in timed),
            "max_pixel_difference": _difference(together, alone),
            "max_difference_to_plain": _difference(together, theirs),
            "batch_size": batch_size,
            "steps": steps,
            "size": painter.size,
        },
        "baseline": f"diffusers' {type(painter.pipe).__name__} as loaded, one call per task; the model is {told}",
        "n": len(tasks) * rounds,
        "versions": versions(),
    }


def _model(asked: str | None, folder: Path) -> tuple[str, str]:
    """What to load, and how to call it."""
    from engine.backends.hub import ASSETS
    from engine.backends.plain_diffusers import random_model

    if asked is not None:
        return asked, asked
    if (ASSETS / POCKET.removeprefix("assets/")).is_dir():
        return POCKET, POCKET
    random_model(folder)
    return str(folder), "a random one of the pocket painter's size"


def _tasks(count: int) -> list[PaintTask]:
    """A box on a smooth picture each, of a size at which the crop is about as large as the model's images."""
    rng = np.random.default_rng(0)
    made = []
    for seed in range(count):
        smooth = cv2.resize(rng.uniform(30, 220, (6, 8, 3)), (160, 120), interpolation=cv2.INTER_CUBIC)
        x, y, wide, high = rng.uniform(0, 100), rng.uniform(0, 60), rng.uniform(30, 56), rng.uniform(30, 56)
        made.append(
            PaintTask(
                image=np.clip(smooth, 0, 255).astype(np.uint8),
                xyxy=(x, y, x + wide, y + high),
                prompt=f"{COLOURS[seed % len(COLOURS)]} {KINDS[seed % len(KINDS)]}",
                seed=seed,
            )
        )
    return made


def _timed(paint: Callable[[list[PaintTask]], list[Any]], tasks: list[PaintTask]) -> tuple[list[Any], float]:
    started = time.perf_counter()
    made = paint(tasks)
    return made, time.perf_counter() - started


def _image(result: Painted | str) -> np.ndarray:
    if isinstance(result, str):
        raise WinnowError(f"A task of the bench could not be painted: {result}")
    return result.image


def _difference(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> int:
    """The largest over all pixels, in grey levels of 0..255."""
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(some, others, strict=True))

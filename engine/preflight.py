"""Before a training: what it will need. The twenty steps are done in a process of their own, which may import torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from db.errors import WinnowError
from db.store import Store
from engine.presets import train_options
from engine.training_data import training_data

LONGEST = 900.0  # seconds; a step that takes longer than a twentieth of it is no use anyway


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """What a training works on and will need. `images` are samples: a detector that reads has one for each text. Sizes are in bytes; `memory` is that of the device; `seconds` is the
    whole time, by the median of the steps that were tried. `notes` are what a person should know."""

    images: int
    generated: int
    validation_images: int
    parameters: int
    disk_needed: int
    disk_free: int
    memory_used: int
    memory_free: int | None
    device: str
    seconds: float
    images_per_s: float
    notes: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """Why it cannot be; empty when it can."""
        found = []
        if self.disk_free < self.disk_needed:
            found.append(
                f"The disk is too small: {_size(self.disk_needed)} are needed, {_size(self.disk_free)} are free."
            )
        if self.memory_free is not None and self.memory_used > 0.95 * self.memory_free:
            found.append(
                f"Memory is short: {_size(self.memory_used)} are used of {_size(self.memory_free)}. Lower batch_size or "
                "image_size."
            )
        return found

    def lines(self) -> list[str]:
        """For people."""
        hours, minutes = divmod(round(self.seconds / 60), 60)
        free = f" of {_size(self.memory_free)}" if self.memory_free is not None else ""
        return [
            f"{self.images} training samples, {self.generated} of them generated; {self.validation_images} to validate",
            f"{self.parameters / 1e6:.1f} M parameters on {self.device}, {_size(self.memory_used)}{free} memory used",
            f"{_size(self.disk_needed)} of disk needed, {_size(self.disk_free)} free",
            f"about {hours} h {minutes} min at {self.images_per_s:.1f} images a second, by twenty steps",
            *(f"Note: {note}" for note in self.notes),
            *self.faults(),
        ]


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


def preflight(
    store: Store, *, snapshot_id: int, preset: str, options: dict[str, Any] | None = None, seed: int = 0
) -> Preflight:
    """What the training of a preset on a snapshot will need. Raises WinnowError when it cannot start at all."""
    chosen = train_options(preset, options or {})
    with tempfile.TemporaryDirectory(dir=_work(store)) as folder:
        data = Path(folder) / "data"
        training_data(store, store.snapshots.get(snapshot_id), data, preset)
        job = {
            "data": str(data),
            "work": str(Path(folder) / "work"),
            "preset": preset,
            "options": chosen.model_dump(mode="json"),
            "seed": seed,
            "configs": str(store.home / "configs"),
        }
        return _asked(msgspec.json.encode(job))


def _work(store: Store) -> Path:
    folder = store.home / "work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _asked(job: bytes) -> Preflight:
    command = [sys.executable, "-m", "engine.training.preflight"]
    try:
        done = subprocess.run(command, input=job, capture_output=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        raise WinnowError(
            f"Twenty steps take more than {LONGEST / 60:.0f} minutes here. Choose a smaller preset."
        ) from None
    said = done.stdout.decode().strip().splitlines()
    if done.returncode or not said:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise WinnowError(f"The trial steps failed: {told[-1] if told else 'without a word'}")
    answer = msgspec.json.decode(said[-1])
    if "error" in answer:
        raise WinnowError(answer["error"])
    return msgspec.convert(answer, Preflight)

"""A snapshot as the files that the training of a preset reads."""

from __future__ import annotations

from pathlib import Path

from db.records import Snapshot
from db.store import Store
from engine.attention_folder import attention_folder
from engine.folder import training_folder
from engine.grounding_folder import grounding_folder
from engine.presets import PRESETS, wants_masks


def training_data(store: Store, snapshot: Snapshot, folder: Path, preset: str) -> dict[str, int]:
    """Writes the folder for a preset of any kind; returns what it holds, counted. Raises WinnowError when there is
    nothing to learn from."""
    if PRESETS[preset].kind == "grounding":
        return grounding_folder(store, snapshot, folder, pairs=PRESETS[preset].pairs)
    if PRESETS[preset].kind == "attention":
        return attention_folder(store, snapshot, folder)
    return training_folder(store, snapshot, folder, wants_masks(preset))

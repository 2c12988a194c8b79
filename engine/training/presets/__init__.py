"""How a preset of `engine.presets` is built: its name -> the mmdet configuration for given classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from db.errors import NotFound
from engine.training.presets import tiny_atss

MODELS: dict[str, Callable[[Sequence[str]], dict[str, Any]]] = {"tiny_atss": tiny_atss.model}


def model_config(preset: str, names: Sequence[str]) -> dict[str, Any]:
    """The mmdet model of a preset that tells the named classes apart. Raises NotFound for an unknown preset."""
    if preset not in MODELS:
        raise NotFound("preset", preset, sorted(MODELS))
    return MODELS[preset](names)

"""A trained detector as a folder: `model.safetensors` (weights) and `detector.json` (what is needed to build the
model again).

The model is built from the preset that the folder names; nothing in the folder is executed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from db.errors import NotFound, WinnowError
from engine.training import mmlab

mmlab.install()

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS as BUILDERS

from engine.training.presets import MODELS


class DetectorCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`detector.json`: the preset, the names of its classes in the order of the labels, and the size images are
    fitted into."""

    preset: str
    names: tuple[str, ...]
    image_size: tuple[int, int]


def model_config(preset: str, names: tuple[str, ...]) -> ConfigDict:
    """The mmdet configuration of a preset for these classes. Raises NotFound for an unknown preset."""
    if preset not in MODELS:
        raise NotFound("preset", preset, sorted(MODELS))
    return MODELS[preset](len(names))


def save_model(folder: Path, model: torch.nn.Module, card: DetectorCard) -> None:
    """Writes the folder; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(folder / "model.safetensors", lambda path: save_file(weights, path))
    write_whole(folder / "detector.json", lambda path: path.write_bytes(msgspec.json.encode(card)))


def load_model(folder: Path) -> tuple[BaseModel, DetectorCard]:
    """(model in evaluation mode on the CPU, its card). Raises WinnowError when the folder is incomplete or damaged."""
    try:
        card = msgspec.json.decode((folder / "detector.json").read_bytes(), type=DetectorCard)
        weights = load_file(folder / "model.safetensors")
    except (OSError, msgspec.MsgspecError, SafetensorError) as error:
        raise WinnowError(
            f"{folder} is not a trained detector: it should hold detector.json and model.safetensors. ({error})"
        ) from error
    model = BUILDERS.build({**model_config(card.preset, card.names), "_scope_": "mmdet"})
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WinnowError(
            f"The weights in {folder} do not fit preset {card.preset!r}. Train it again. ({error})"
        ) from error
    return model.eval(), card


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path`, puts it safely on disk and renames it, so that `path` is never
    half-written."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    write(unfinished)
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)

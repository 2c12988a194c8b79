"""A trained detector as a folder: `model.safetensors` (weights) and `detector.json` (what is needed to build the
model again).

The model is built from the preset that the folder names, or from the configuration in it, of classes that mmdet
registers; nothing in the folder is executed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from db.errors import WinnowError
from engine.presets import TrainOptions
from engine.training import mmlab

mmlab.install()

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS as BUILDERS
from mmengine.runner.checkpoint import _load_checkpoint

import engine.training.text_classifier  # noqa: F401  registers what the configuration of a detector may name
from engine.training.presets import blueprint

SHOWN = 5  # names in a message
NEARLY_NOTHING = 1 << 20  # bytes; with less than this, a disk counts as full


class DetectorCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`detector.json`: the preset, the names of its classes in the order of the labels, the size images are fitted
    into, and the configuration of the model when it is a person's own."""

    preset: str
    names: tuple[str, ...]
    image_size: tuple[int, int]
    config: dict[str, Any] | None = None


def model_config(card: DetectorCard) -> ConfigDict:
    """The mmdet configuration of a detector. Raises NotFound for an unknown preset, WinnowError for a configuration
    with anything but registered classes in it."""
    if card.config is None:
        return blueprint(card.preset, len(card.names), TrainOptions()).model
    return ConfigDict(plain(card.config))


def plain(config: Any) -> Any:
    """The configuration as plain values, to be kept as JSON. Raises WinnowError for a `type` that is no plain name:
    mmengine would import whatever else it says."""
    if isinstance(config, dict):
        kind = config.get("type")
        if kind is not None and (not isinstance(kind, str) or "." in kind):
            raise WinnowError(f"The type {kind!r} should be the plain name of a class that mmdet registers.")
        return {key: plain(part) for key, part in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(part) for part in config]
    if config is not None and not isinstance(config, (str, int, float, bool)):
        raise WinnowError(f"{config!r} cannot be kept with the model; use plain numbers, texts, lists and dicts.")
    return config


def build(config: dict[str, Any]) -> BaseModel:
    """The model of a configuration, with random weights."""
    return BUILDERS.build({**config, "_scope_": "mmdet"})


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a model's weights."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(config).state_dict().items()}


def save_model(folder: Path, model: torch.nn.Module, card: msgspec.Struct) -> None:
    """Writes the folder, without the modules marked `training_only`; each file appears whole or not at all. Raises WinnowError
    when the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    # cloned, because safetensors refuses tensors that share their memory, as the levels of RTMDet's head do
    dropped = training_only(model)
    weights = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(dropped)
    }
    write_whole(folder / "model.safetensors", lambda path: save_file(weights, path))
    write_whole(folder / "detector.json", lambda path: path.write_bytes(msgspec.json.encode(card)))


def training_only(model: torch.nn.Module) -> tuple[str, ...]:
    """The beginnings of the names of weights that teach the others and are no part of the trained detector."""
    return tuple(f"{name}." for name, part in model.named_modules() if getattr(part, "training_only", False))


def load_model(folder: Path) -> tuple[BaseModel, DetectorCard]:
    """(model in evaluation mode on the CPU, its card). Raises WinnowError when the folder is incomplete or damaged."""
    try:
        card = msgspec.json.decode((folder / "detector.json").read_bytes(), type=DetectorCard)
        weights = load_file(folder / "model.safetensors")
    except (OSError, msgspec.MsgspecError, SafetensorError) as error:
        raise WinnowError(
            f"{folder} is not a trained detector: it should hold detector.json and model.safetensors. ({error})"
        ) from error
    model = build(model_config(card))
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WinnowError(
            f"The weights in {folder} do not fit preset {card.preset!r}. Train it again. ({error})"
        ) from error
    return model.eval(), card


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth file that holds a state dict, as it is or under "state_dict".
    Raises WinnowError for anything else; code in a file is not run."""
    if not path.is_file():
        raise WinnowError(f"The weights {path} are missing.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WinnowError(f"{path} is not a safetensors file. ({error})") from error
    loaded = _load_checkpoint(str(path), map_location="cpu")
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
    if not weights or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise WinnowError(f"{path} holds no state dict, neither as it is nor under 'state_dict'.")
    return dict(weights)


def start_from(model: torch.nn.Module, path: Path, by_class: frozenset[str] = frozenset()) -> str:
    """Loads a file into the model, whole detectors or backbones alone; returns what it did, as a sentence.

    Tensors in `by_class` may differ in shape; they then stay as they are. Raises WinnowError for the weights of another
    model, with the names that do not fit.
    """
    weights = read_weights(path)
    backbone = getattr(model, "backbone", None)
    if backbone is not None and not any(name.startswith("backbone.") for name in weights):
        _fill(backbone, _without_classifier(weights), path, frozenset())
        return f"started from the backbone in {path.name}; everything else is new"
    fresh = _fill(model, weights, path, by_class)
    return f"started from {path.name}" + (f"; new for these classes: {', '.join(sorted(fresh))}" if fresh else "")


def _without_classifier(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classification network less its last layer, which torchvision calls fc and others head."""
    return {name: tensor for name, tensor in weights.items() if name.split(".")[0] not in ("fc", "head")}


def _fill(model: torch.nn.Module, weights: dict[str, Tensor], path: Path, by_class: frozenset[str]) -> set[str]:
    """Loads the weights; returns the names of those that stay new because they follow the classes."""
    own = model.state_dict()
    other = {name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape}
    fresh = other & by_class
    odd = [f"{n} is {_shape(weights[n])}, should be {_shape(own[n])}" for n in sorted(other - fresh)]
    if not odd:
        kept = {name: tensor for name, tensor in weights.items() if name not in fresh}
        missing, unexpected = model.load_state_dict(kept, strict=False)
        fresh = fresh | (by_class & {*missing})
        dropped = training_only(model)
        missing = [name for name in missing if name not in fresh and not name.startswith(dropped)]
        odd = [f"{name} is missing" for name in missing]
        odd += [f"{name} is unknown" for name in unexpected if name not in by_class]
    if odd:
        raise WinnowError(
            f"{path} holds the weights of another model: {len(odd)} names do not fit, the first: "
            f"{'; '.join(odd[:SHOWN])}. Choose the preset they were trained with."
        )
    return fresh


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path`, puts it safely on disk and renames it, so that `path` is never
    half-written. Raises WinnowError when the disk is full; what was there before is then still there."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(unfinished)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except Exception as error:
        full = _is_full(error, path.parent)  # asked before the unfinished file gives its room back
        unfinished.unlink(missing_ok=True)
        if full:
            raise WinnowError(
                f"The disk of {path.parent} is full, {path.name} could not be written. What was saved before is whole: "
                "make room, then resume."
            ) from error
        raise


def _is_full(error: Exception, folder: Path) -> bool:
    """Whether there was no room. torch and safetensors put other errors in the place of the system's."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "No space left" in str(error) or shutil.disk_usage(folder).free < NEARLY_NOTHING


def refuse_small_disk(folder: Path, parameters: Iterable[Tensor]) -> None:
    """Raises WinnowError when the states of a training of these parameters cannot be kept in `folder`."""
    needed, free = disk_needed(sum(p.numel() for p in parameters)), shutil.disk_usage(folder).free
    if free < needed:
        raise WinnowError(
            f"The training needs {needed / 1e6:,.0f} MB on the disk of {folder}, and {free / 1e6:,.0f} MB are free. "
            "Make room, or move the data folder (WINNOW_HOME) to a larger disk."
        )


def disk_needed(parameters: int) -> int:
    """Bytes for two states (weights, their mean and two moments, 4 bytes each; a new one is written before the old one
    goes) and three models (the best, the next best one being written, the copy that is kept)."""
    return parameters * 4 * (2 * 4 + 3)

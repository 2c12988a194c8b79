"""The aesthetic predictor: a small head on CLIP vectors that says how people would rate a picture, about 1 to 10.

It reads the published layout of `sac+logos+ava1-l14-linearMSE.pth`: linear layers 768-1024-128-64-16-1 as `layers.0`,
`.2`, `.4`, `.6` and `.7`, dropouts between them and no activations (METHODS 5.2). Other widths of the first layer serve
other embedders, so a pack may have a head of its own.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from db.errors import WinnowError
from engine.backends.hub import ASSETS, SHIPPED
from engine.roles import Context

PLACES = (0, 2, 4, 6, 7)  # of the linear layers; between them are the dropouts
WIDTHS = (1024, 128, 64, 16, 1)


class AestheticHead:
    """The head in `file` (.pth or .safetensors; `assets/...` is a file of this project).

    Raises WinnowError for a file that is missing, no state dict of tensors, or of other shapes."""

    def __init__(self, context: Context | None = None, *, file: str) -> None:
        path = ASSETS / file.removeprefix(SHIPPED) if file.startswith(SHIPPED) else Path(file).expanduser()
        if not path.is_file():
            raise WinnowError(f"There is no aesthetic head {path}. Give the path of the file as `file`.")
        self.name = f"{path.name}@{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        self._layers = _checked(path, _read(path))
        self.width = self._layers[0][0].shape[1]

    def rate(self, vectors: np.ndarray) -> np.ndarray:
        """(n,) float32 ratings of (n, width) unit vectors. Raises WinnowError for another width."""
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise WinnowError(
                f"The aesthetic head {self.name} is for vectors of {self.width} numbers, the embedder gives "
                f"{vectors.shape[-1]}. Choose the embedder that it was made for (768 numbers: ViT-L-14, openai)."
            )
        rated = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
        for weight, bias in self._layers:
            rated = torch.nn.functional.linear(rated, weight, bias)
        return rated[:, 0].numpy()


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        told = str(error).partition("\n")[0]
        raise WinnowError(f"{path} is no state dict of tensors, and nothing else is read: {told}") from error


def _checked(path: Path, state: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(weight, bias) of each layer, float32. Raises WinnowError that names each fault."""
    if not isinstance(state, Mapping):
        raise WinnowError(f"{path} holds a {type(state).__name__}, it should hold a state dict.")
    first = state.get(f"layers.{PLACES[0]}.weight")
    width = first.shape[1] if isinstance(first, torch.Tensor) and first.ndim == 2 else 768
    wanted: dict[str, tuple[int, ...]] = {}
    for place, inner, outer in zip(PLACES, (width, *WIDTHS), WIDTHS, strict=False):
        wanted |= {f"layers.{place}.weight": (outer, inner), f"layers.{place}.bias": (outer,)}
    faults = [_fault(name, state.get(name), shape) for name, shape in wanted.items()]
    faults += [f"{name} is not known" for name in state if name not in wanted]
    if told := [fault for fault in faults if fault]:
        raise WinnowError(f"{path} is no aesthetic head: {'; '.join(told)}.")
    return [(state[f"layers.{place}.weight"].float(), state[f"layers.{place}.bias"].float()) for place in PLACES]


def _fault(name: str, value: object, shape: tuple[int, ...]) -> str | None:
    if not isinstance(value, torch.Tensor):
        return f"{name} is missing"
    if tuple(value.shape) != shape:
        return f"{name} has the shape {tuple(value.shape)}, it should be {shape}"
    return None if torch.isfinite(value).all() else f"{name} holds a number that is none"

"""Where models come from and where they run: a shipped folder, any folder, or a hub id; CPU, CUDA or MPS."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from db.errors import WinnowError

if TYPE_CHECKING:  # the web process asks where models are, and never imports torch
    import torch

ASSETS = Path(__file__).parents[2] / "assets"
SHIPPED = "assets/"


def locate(model: str) -> str:
    """The folder of a model, or its hub id when it is none: `assets/...` is a folder of this project.

    Raises WinnowError for a folder that is not there, and for a hub id when downloads are not allowed and it is not in
    the local cache of the hub library.
    """
    if model.startswith(SHIPPED):
        folder = ASSETS / model.removeprefix(SHIPPED)
        if not folder.is_dir():
            raise WinnowError(f"The model {model} is missing from this installation: there is no folder {folder}.")
        return str(folder)
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_absolute() or model.startswith((".", "~")):
        raise WinnowError(f"There is no model folder {path}.")
    return model


def downloads_allowed() -> bool:
    """Whether models may be fetched from a hub: only when WINNOW_DOWNLOADS is set, since nothing else leaves the machine."""
    return os.environ.get("WINNOW_DOWNLOADS", "") not in ("", "0", "false", "no")


def from_pretrained_options(model: str, revision: str | None = None) -> dict[str, object]:
    """What every `from_pretrained` call gets: no remote code, safetensors, no network unless downloads are allowed."""
    options: dict[str, object] = {"local_files_only": not downloads_allowed(), "use_safetensors": True}
    return options | ({"revision": revision} if revision and not Path(model).is_dir() else {})


def missing(model: str, error: Exception) -> WinnowError:
    """What to tell a person when a model could not be loaded."""
    if Path(model).is_dir():
        return WinnowError(f"The model in {model} could not be loaded: {error}")
    cure = "" if downloads_allowed() else " Set WINNOW_DOWNLOADS=1 to allow downloads, or name a local folder."
    return WinnowError(f"The model {model} could not be loaded: {error}{cure}")


@cache
def digest(model: str) -> str:
    """Twelve hex digits over the names, sizes and contents of a model folder's files; the hub id itself otherwise."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".md":
            total.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def device_of(name: str = "auto") -> torch.device:
    """ "auto" is the first CUDA device, else Apple's, else the CPU. Raises WinnowError for one that is not there."""
    import torch

    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise WinnowError(f"Unknown device {name!r}: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise WinnowError(f"The device {name!r} was asked for, but torch sees no CUDA device here.")
    return device


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on CUDA where it is supported, else float16 there, float32 elsewhere."""
    import torch

    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if name not in known:
        raise WinnowError(f"Unknown dtype {name!r}. Known: auto, {', '.join(known)}.")
    return known[name]

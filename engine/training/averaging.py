"""The mean of two trainings' weights, which often keeps what either of them learnt."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from db.errors import WinnowError
from engine.training.checkpoint import write_whole


def average_weights(first: Path, second: Path, target: Path, *, digests: tuple[str, str], share: float = 0.5) -> str:
    """Writes `share` of the second safetensors file and the rest of the first one to `target`; returns its sha256.

    Whole numbers (counters) are taken from the first. Statistics of batch normalisation are averaged like weights,
    which is right only while both runs start from the same model. Raises WinnowError for a share outside of 0..1, a
    file that is missing, damaged or not of its digest (sha256), and for files of different models.
    """
    if not 0 <= share <= 1:
        raise WinnowError(f"The share of the second weights should be in 0..1; seen: {share}.")
    one, other = (_weights(path, digest) for path, digest in zip((first, second), digests, strict=True))
    _refuse_differences(first, one, second, other)
    mean = {name: _mean(tensor, other[name], share) for name, tensor in one.items()}
    write_whole(target, lambda path: save_file(mean, path))
    return digest_of(target)


def _weights(path: Path, digest: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise WinnowError(f"{path} is missing.")
    seen = digest_of(path)
    if seen != digest:
        raise WinnowError(f"{path} is not the file that was recorded: its sha256 is {seen}, it should be {digest}.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WinnowError(f"{path} is not a safetensors file. ({error})") from error


def digest_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_differences(first: Path, one: dict[str, Tensor], second: Path, other: dict[str, Tensor]) -> None:
    kinds = [{name: (tuple(t.shape), t.dtype) for name, t in weights.items()} for weights in (one, other)]
    odd = sorted(name for name in one.keys() | other.keys() if kinds[0].get(name) != kinds[1].get(name))
    if odd:
        raise WinnowError(
            f"{first} and {second} are not of the same model: {len(odd)} tensors differ in name, shape or type, the "
            f"first {odd[0]!r} ({kinds[0].get(odd[0], 'absent')} and {kinds[1].get(odd[0], 'absent')})."
        )


def _mean(one: Tensor, other: Tensor, share: float) -> Tensor:
    if not one.is_floating_point():
        return one
    return torch.lerp(one.double(), other.double(), share).to(one.dtype)

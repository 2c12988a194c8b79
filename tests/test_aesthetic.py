"""The aesthetic head: the published layout is read and computed, anything else is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from db.errors import WinnowError
from engine.backends.aesthetic import AestheticHead
from engine.packs import Pack, Role, backend
from engine.roles import Context


class Published(nn.Module):
    """As METHODS 5.2 describes the predictor: linear layers, dropouts between them, no activations."""

    def __init__(self, width: int = 768) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )


def unit(count: int, width: int) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("width", [768, 24])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_it_computes_what_the_published_layout_computes(tmp_path: Path, width: int, suffix: str) -> None:
    model, file = Published(width).eval(), tmp_path / f"head{suffix}"
    (torch.save if suffix == ".pth" else save_file)(model.state_dict(), file)
    head, vectors = AestheticHead(file=str(file)), unit(5, width)
    with torch.inference_mode():
        np.testing.assert_allclose(head.rate(vectors), model.layers(torch.from_numpy(vectors))[:, 0], atol=1e-6)
    assert head.width == width and head.name.startswith(f"head{suffix}@")
    assert head.rate(vectors[:0]).shape == (0,)


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (
        lambda s: s | {"layers.2.weight": torch.zeros(99, 1024)},
        r"layers.2.weight has the shape \(99, 1024\), it should be",
    ),
    (lambda s: without(s, "layers.7.bias"), "layers.7.bias is missing"),
    (lambda s: s | {"layers.9.weight": torch.zeros(1)}, "layers.9.weight is not known"),
    (lambda s: s | {"layers.0.bias": torch.full((1024,), float("nan"))}, "layers.0.bias holds a number that is none"),
    (lambda s: [1, 2], "should hold a state dict"),
    (lambda s: s | {"layers.4.bias": Path("x")}, "state dict of tensors, and nothing else"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD)
def test_a_wrong_file_is_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], object], words: str) -> None:
    torch.save(spoil(dict(Published().state_dict())), tmp_path / "bad.pth")
    with pytest.raises(WinnowError, match=words):
        AestheticHead(file=str(tmp_path / "bad.pth"))


def test_a_file_that_is_missing_or_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WinnowError, match="no aesthetic head"):
        AestheticHead(file=str(tmp_path / "none.pth"))
    torch.save(Published().state_dict(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    with pytest.raises(WinnowError, match="nothing else is read"):
        AestheticHead(file=str(tmp_path / "cut.pth"))


def test_vectors_of_another_embedder_are_refused(tmp_path: Path) -> None:
    torch.save(Published().state_dict(), tmp_path / "head.pth")
    with pytest.raises(WinnowError, match="for vectors of 768 numbers, the embedder gives 24"):
        AestheticHead(file=str(tmp_path / "head.pth")).rate(unit(2, 24))


def test_a_pack_names_its_file(tmp_path: Path) -> None:
    role = Role(backend="aesthetic_head", options={"file": str(tmp_path / "head.pth")})
    pack = Pack(name="own", title="", summary="", needs="", aesthetics=role)
    assert "head.pth is not there" in pack.lacks()[0]
    torch.save(Published().state_dict(), tmp_path / "head.pth")
    assert not pack.lacks()
    assert backend(pack, "aesthetics", Context(None, 0)).width == 768  # type: ignore[arg-type]

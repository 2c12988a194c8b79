"""The pocket aesthetic head: written in the published layout, and the one that is shipped tells spoilt scenes from clean ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.backends import hub
from engine.backends.aesthetic import AestheticHead
from engine.backends.openclip import OpenCLIPEmbedder
from engine.packs import load_pack
from engine.training.pocket import aesthetic
from engine.training.pocket.aesthetic import BEST, CLEAN, SPOILERS, WORST

SHIPPED = hub.ASSETS / "pocket" / "aesthetic" / "head.safetensors"


def test_the_layers_are_the_affine_map(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    direction, vectors = rng.normal(size=24), rng.normal(size=(50, 24)).astype(np.float32)
    aesthetic.write(tmp_path / "head.safetensors", direction, 5.5)
    rated = AestheticHead(file=str(tmp_path / "head.safetensors")).rate(vectors)
    np.testing.assert_allclose(rated, vectors @ direction + 5.5, atol=0.02)  # half precision


def test_a_scene_is_rated_with_two_spoilt_ones_of_it() -> None:
    one, again = list(aesthetic._rated(3, 1)), list(aesthetic._rated(3, 1))
    assert next(way for _, _, way in one) == CLEAN and one[0][1] == BEST
    assert len({way for _, _, way in one}) == 3 and all(WORST <= rating < BEST for _, rating, _ in one[1:])
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(one, again, strict=True))
    assert all((image != one[0][0]).mean() > 0.5 for image, _, _ in one[1:])


def test_figures_of_a_head_that_knows(tmp_path: Path) -> None:
    aesthetic.write(tmp_path / "head.safetensors", np.array([1.0, 0.0]), 0.0)
    ways = np.array([CLEAN, CLEAN, *range(len(SPOILERS))])
    vectors = np.column_stack([np.where(ways == CLEAN, [1.0, 0.9, *[0.2] * len(SPOILERS)], 0.2), ways]).astype(
        np.float32
    )
    figures = aesthetic.evaluate(tmp_path / "head.safetensors", vectors, np.where(ways == CLEAN, BEST, WORST), ways)
    assert figures["auc"] == figures["auc_blur"] == figures["caught"] == 1 and figures["kept"] == 0.5
    assert "| auc | 1 |" in aesthetic.card(figures)


@pytest.mark.slow
def test_the_shipped_head_rates_faded_scenes_lower() -> None:
    role = load_pack("pocket").aesthetics
    assert role is not None and role.options["file"].endswith("pocket/aesthetic/head.safetensors")
    embedder, head = OpenCLIPEmbedder(device="cpu"), AestheticHead(file=str(SHIPPED))
    assert embedder.width == head.width == 128
    scenes = [aesthetic.paint(91, i, aesthetic.preset("standard")).image for i in range(20)]
    rng = np.random.default_rng(0)
    faded = [np.clip(aesthetic._faded(one.astype(np.float32), 0.9, rng), 0, 255).astype(np.uint8) for one in scenes]
    better = head.rate(embedder.images(scenes)) > head.rate(embedder.images(faded))
    assert better.mean() > 0.8

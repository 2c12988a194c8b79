"""`winnow bench paint` in small: it compares equal pictures and says what with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.backends.plain_diffusers import random_model
from studio.benches import BENCHES
from studio.benches.paint import run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(folder)
    return folder


def test_it_compares_equal_pictures(model: Path) -> None:
    result = run(0.2, str(model), steps=2, batch_size=2, rounds=1)
    figures = result["figures"]
    assert (result["bench"], result["n"]) == ("paint", 3)
    assert figures["paint_ratio_to_plain"] == pytest.approx(figures["images_per_s"] / figures["plain_images_per_s"])
    assert figures["max_pixel_difference"] <= 1 and figures["max_difference_to_plain"] <= 1
    assert str(model) in result["baseline"]
    assert json.loads(json.dumps(result)) == result


def test_it_is_listed() -> None:
    assert "paint" in BENCHES


def test_the_random_model_is_the_same_every_time(model: Path, tmp_path: Path) -> None:
    random_model(tmp_path)
    weights = [folder / "unet" / "diffusion_pytorch_model.safetensors" for folder in (model, tmp_path)]
    assert np.array_equal(*(np.fromfile(file, np.uint8) for file in weights))

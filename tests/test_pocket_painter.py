"""The shipped pocket painter: an inpainter that knows what it was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionInpaintPipeline

from db.records import Dataset
from db.store import Store
from engine.backends.hf_diffusers import DiffusersPainter
from engine.backends.hub import ASSETS
from engine.packs import load_pack
from engine.roles import Context, Painted, PaintTask
from engine.training.pocket.sheet import sheet

FOLDER = ASSETS / "pocket" / "painter"


def test_most_things_it_paints_are_recognised_as_what_was_asked_for(tmp_path: Path) -> None:
    figures = sheet(
        tmp_path / "sheet.png", count=32, painter="assets/pocket/painter", embedder="assets/pocket/embedder"
    )
    assert figures["kind"] >= 0.2 and figures["kind"] >= 4 * max(figures["before_kind"], 1 / 40)
    assert figures["colour"] >= 0.5
    assert (tmp_path / "sheet.png").stat().st_size > 50_000


def test_diffusers_loads_it_as_it_lies_there() -> None:
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(FOLDER, safety_checker=None)
    assert pipeline.unet.config.in_channels == 9
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_the_weights_are_small_and_safe() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".png"}
    whole = [path for path in (ASSETS / "pocket").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in whole) <= 30_000_000


@pytest.mark.parametrize("prompt", ["a green apple", "a blue book"])
def test_the_same_seed_paints_the_same_and_only_in_the_box(store: Store, dataset: Dataset, prompt: str) -> None:
    options = load_pack("pocket", store.home).painter.options
    painter = DiffusersPainter(Context(store, dataset.id), **{**options, "steps": 4})
    image = np.full((96, 128, 3), 140, np.uint8)
    task = PaintTask(image, (40.0, 30.0, 80.0, 70.0), prompt, seed=3, category=prompt.split()[-1])
    first, second = painter.paint([task]), painter.paint([task])
    assert isinstance(first[0], Painted) and isinstance(second[0], Painted)
    assert (first[0].image == second[0].image).all()
    changed = (first[0].image != image).any(2)
    assert changed.any() and not changed[:10].any() and not changed[:, :16].any()

"""The RichSem lab: what its class images are, how classes are grouped, and the whole of it in its quick size."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from db.errors import WinnowError
from engine.labs import lab
from engine.labs.richsem import ARMS, OPTIONS, QUICK, Bench, Size, _window
from engine.presets import TrainOptions
from engine.semantic_options import SemanticOptions
from engine.tabletop import Mask, TrueObject
from studio.cli import app

SMALL = msgspec.structs.replace(QUICK, kinds=6, each=6, wrong=0.5, cut=0.0)


def test_the_arms_are_trainings_that_can_be() -> None:
    assert [arm.name for arm in ARMS] == list(OPTIONS) and {name for arm in ARMS for name in arm.against} <= set(
        OPTIONS
    )
    bench = Bench(Size(), Path("nowhere"))
    for chosen in OPTIONS.values():
        made = TrainOptions(semantic=SemanticOptions(**bench._semantic(chosen)))
        assert made.semantic.text_classifier and made.semantic.federated and made.semantic.repeat_threshold
    assert lab("richsem").method == "METHODS 3"


def test_class_images_are_of_the_rarer_classes_and_wrong_at_their_rate() -> None:
    made = [(picture, said) for picture, said in Bench(SMALL, Path("nowhere"))._class_images(2)]
    again = [(picture, said) for picture, said in Bench(SMALL, Path("nowhere"))._class_images(2)]
    assert len(made) == 4 * 6 and all(
        np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(made, again, strict=True)
    )
    assert {said for _, said in made} <= {3, 4, 5, 6} and min(min(picture.shape[:2]) for picture, _ in made) >= 16
    right = Bench(msgspec.structs.replace(SMALL, wrong=0.0), Path("nowhere"))._class_images(2)
    assert np.bincount([said for _, said in right])[3:].tolist() == [6] * 4


@pytest.mark.parametrize("past", [False, True])
def test_a_window_holds_its_object_or_a_corner_of_it(past: bool) -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[40:60, 40:60] = 255
    box = (40.0, 40.0, 60.0, 60.0)
    mask = Mask.of(picture[..., 0] > 0)
    thing = TrueObject("mug", "red", "plain", "matte", "large", box, box, mask, 400, 0.0, 0, None, ())
    for seed in range(20):
        shown = (_window(picture, thing, past, 0.15, np.random.default_rng(seed))[..., 0] > 0).sum()
        assert shown <= 0.35 * 400 if past else shown == 400


def test_classes_are_grouped_by_their_training_images(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    images = [{"id": number, "whole_image": number > 4} for number in range(1, 7)]
    notes = [{"image_id": i, "category_id": 1} for i in (1, 2, 3, 4, 4)]
    notes += [{"image_id": 1, "category_id": 2}, {"image_id": 2, "category_id": 2}]
    notes += [{"image_id": i, "category_id": 3} for i in (1, 5, 6)]
    names = [{"id": 1, "name": "often"}, {"id": 2, "name": "now and then"}, {"id": 3, "name": "rare"}]
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": names}))
    bench = Bench(msgspec.structs.replace(QUICK, rare=1, common=2), tmp_path)
    scored = bench._scored({"often": 0.9, "now and then": 0.6, "rare": 0.3}, path)
    assert scored == {"AP": pytest.approx(0.6), "AP_r": 0.3, "AP_c": 0.6, "AP_f": 0.9}
    with pytest.raises(WinnowError, match="AP_c"):
        Bench(msgspec.structs.replace(QUICK, rare=2, common=3), tmp_path)._scored(
            {"often": 1, "now and then": 1, "rare": 1}, path
        )


@pytest.mark.slow
def test_richsem_in_its_quick_size(tmp_path: Path) -> None:
    asked = [
        "lab",
        "richsem",
        "--quick",
        "--seeds",
        "1",
        "--home",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert [arm["name"] for arm in result["arms"]] == list(OPTIONS) and result["seeds"] == [0]
    assert all(0 <= m["values"]["AP_r"] <= 1 for m in result["measurements"]) and len(result["measurements"]) == 5

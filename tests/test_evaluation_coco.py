"""Our COCO numbers against pycocotools, on random and on awkward cases."""

from __future__ import annotations

import contextlib
import io
import random
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from db.errors import WinnowError
from engine.evaluation.coco import NAMES, evaluate


def case(seed: int, *, images: int = 12, crowds: bool = False, misses: float = 0.2) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Boxes of three sizes and three classes, found with jitter, some missed, some invented."""
    rng = random.Random(seed)
    truth: dict[str, Any] = {
        "images": [{"id": i, "width": 400, "height": 400} for i in range(images)],
        "categories": [{"id": 7 * k + 1, "name": f"class {k}"} for k in range(3)],
        "annotations": [],
    }
    found = []
    for i in range(images):
        for _ in range(rng.randint(0, 6)):
            w, h = (rng.choice([12, 50, 150]) * rng.uniform(0.7, 1.3) for _ in range(2))
            box = [rng.uniform(0, 200), rng.uniform(0, 200), w, h]
            label = rng.choice(truth["categories"][:2])["id"]
            crowd = int(crowds and rng.random() < 0.3)
            number = len(truth["annotations"]) + 1
            truth["annotations"].append({"id": number, "image_id": i, "category_id": label, "bbox": box, "area": w * h, "iscrowd": crowd})
            for _ in range(rng.randint(1, 2)):
                if rng.random() > misses:
                    jitter = [value + rng.gauss(0, 3) for value in box]
                    found.append({"image_id": i, "category_id": label, "bbox": jitter, "score": rng.random()})
        found.append({"image_id": i, "category_id": 15, "bbox": [1.0, 1.0, 20.0, 20.0], "score": 0.5})
    return truth, found


def official(truth: dict[str, Any], found: list[dict[str, Any]]) -> tuple[list[float], dict[str, float]]:
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = truth
        gt.createIndex()
        run = COCOeval(gt, gt.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = {c["id"]: c["name"] for c in truth["categories"]}
    classes = {}
    for k, i in enumerate(run.params.catIds):
        values = run.eval["precision"][:, :, k, 0, -1]
        classes[names[i]] = float(values[values > -1].mean()) if (values > -1).any() else -1.0
    return list(map(float, run.stats)), classes


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_equal_to_pycocotools(seed: int, crowds: bool) -> None:
    truth, found = case(seed, crowds=crowds)
    stats, classes = official(truth, found)
    ours = evaluate(truth, found)
    assert [getattr(ours, name) for name in NAMES] == pytest.approx(stats, abs=1e-9)
    assert ours.per_class == pytest.approx(classes, abs=1e-9)
    assert 0 < ours.mAP < 1


def test_perfect_predictions_are_perfect() -> None:
    truth, _ = case(1)
    found = [{"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0} for a in truth["annotations"]]
    assert evaluate(truth, found).mAP == pytest.approx(1.0)


def test_no_predictions_find_nothing() -> None:
    truth, _ = case(1)
    assert evaluate(truth, []).mAP == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [({"image_id": 999}, "image 999"), ({"category_id": 2}, "class 2"), ({"score": float("nan")}, "finite"), ({"bbox": [0, 0, np.inf, 1]}, "finite")],
)
def test_an_impossible_prediction_is_named(change: dict[str, Any], word: str) -> None:
    truth, found = case(1)
    with pytest.raises(WinnowError, match=f"Prediction #3.*{word}"):
        evaluate(truth, [*found[:3], found[3] | change])

"""Our COCO numbers against pycocotools, on random and on awkward cases."""

from __future__ import annotations

import contextlib
import io
import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from db.errors import WinnowError
from engine.evaluation.boxes import BadBoxes
from engine.evaluation.coco import NAMES, evaluate


def case(
    seed: int, *, images: int = 12, crowds: bool = False, misses: float = 0.2
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
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
            truth["annotations"].append(
                {"id": number, "image_id": i, "category_id": label, "bbox": box, "area": w * h, "iscrowd": crowd}
            )
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
        results = gt.loadRes(found) if found else COCO()  # loadRes does not take an empty list
        if not found:
            results.dataset = {**truth, "annotations": []}
            results.createIndex()
        run = COCOeval(gt, results, "bbox")
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


def crafted(*boxes: dict[str, Any]) -> dict[str, Any]:
    """One image, two classes (1 and 2), and the given annotations: 10 x 10 boxes of class 1 unless they say otherwise."""
    plain = {"image_id": 1, "category_id": 1, "bbox": [10.0, 10.0, 10.0, 10.0], "area": 100.0, "iscrowd": 0}
    return {
        "images": [{"id": 1, "width": 400, "height": 400}],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [{"id": number, **plain, **box} for number, box in enumerate(boxes, 1)],
    }


HIT = {"image_id": 1, "category_id": 1, "bbox": [10.0, 10.0, 10.0, 10.0], "score": 0.9}
CROWD = {"iscrowd": 1, "bbox": [0.0, 0.0, 200.0, 200.0], "area": 40000.0}
EDGES = [{"area": 32.0**2}, {"area": 96.0**2, "category_id": 2}]
AWKWARD = {
    "no predictions": (crafted({}), []),
    "no predictions, areas on the borders of sizes": (crafted(*EDGES), []),
    "areas on the borders of sizes": (crafted(*EDGES), [HIT, HIT | {"category_id": 2}]),
    "nothing to find": (crafted(), [HIT]),
    "nothing at all": (crafted(), []),
    "only a crowd": (crafted(CROWD), [HIT]),
    "only a crowd, no predictions": (crafted(CROWD), []),
    "inside a crowd": (crafted({}, CROWD), [HIT, HIT | {"bbox": [50.0, 50.0, 20.0, 20.0], "score": 0.95}]),
    "found twice": (crafted({}), [HIT, HIT]),
    "the wrong class": (crafted({}), [HIT | {"category_id": 2}]),
    "no area": (crafted({}), [HIT | {"bbox": [10.0, 10.0, 0.0, 0.0]}]),
    "an annotation with the id 0": (crafted({"id": 0}, {"bbox": [50.0, 50.0, 10.0, 10.0]}), [HIT, HIT]),
    "an ignored annotation with the id 0": (
        crafted(CROWD | {"id": 0}, {}),
        [HIT, HIT | {"bbox": [9.0, 9.0, 9.0, 9.0]}],
    ),
    "more than a hundred": (crafted({}), [HIT | {"bbox": [300.0, 300.0, 5.0, 5.0]}] * 100 + [HIT | {"score": 0.5}]),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_cases_are_equal_to_pycocotools(name: str) -> None:
    truth, found = AWKWARD[name]
    ours = evaluate(truth, found)
    stats, classes = official(deepcopy(truth), deepcopy(found))
    assert [getattr(ours, number) for number in NAMES] == pytest.approx(stats, abs=1e-9)
    assert ours.per_class == pytest.approx(classes, abs=1e-9)


PLACES = st.tuples(*[st.integers(0, 5)] * 2, *[st.integers(0, 4)] * 2).map(lambda box: [8.0 * v for v in box])
ROWS = st.builds(
    lambda image, label, box: {"image_id": image, "category_id": label, "bbox": box},
    st.integers(0, 2),
    st.integers(1, 2),
    PLACES,
)


@st.composite
def whole_numbered(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Small worlds full of equal scores, equal overlaps, crowds, empty boxes and exact thresholds."""
    first, notes = draw(st.integers(0, 1)), draw(st.lists(ROWS, max_size=8))
    truth = {
        "images": [{"id": i, "width": 80, "height": 80} for i in (2, 0, 1)],
        "categories": [{"id": k, "name": str(k)} for k in (2, 1)],
        "annotations": [
            note | {"id": n, "area": note["bbox"][2] * note["bbox"][3], "iscrowd": draw(st.integers(0, 3)) // 3}
            for n, note in enumerate(notes, first)
        ],
    }
    scores = st.sampled_from([0.1, 0.5, 0.5, 0.9])
    return truth, [row | {"score": draw(scores)} for row in draw(st.lists(ROWS, min_size=1, max_size=12))]


@settings(max_examples=120, deadline=None)
@given(whole_numbered())
def test_equal_to_pycocotools_on_any_small_world(world: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    ours = evaluate(*world)
    stats, classes = official(*deepcopy(world))
    assert [getattr(ours, number) for number in NAMES] == pytest.approx(stats, abs=1e-9)
    assert ours.per_class == pytest.approx(classes, abs=1e-9)


def test_all_impossible_predictions_are_named() -> None:
    truth, found = case(1)
    inside_out, unknown = found[1] | {"bbox": [5, 5, -1, 5]}, {"image_id": 999}
    words = found[2] | {"bbox": ["1", "2", "3", "4"]}
    with pytest.raises(BadBoxes) as caught:
        evaluate(truth, [inside_out, found[0], unknown, words, found[3] | {"score": True}, *[unknown] * 300])
    assert len(caught.value.faults) == 304
    assert "Prediction #0 has the bbox [5, 5, -1, 5], which is inside out" in str(caught.value)
    assert "Prediction #2 lacks bbox, category_id, score" in str(caught.value) and "204 more" in str(caught.value)


def test_an_impossible_truth_is_refused() -> None:
    truth, found = case(1)
    number = truth["annotations"][0]["id"]
    truth["annotations"][0]["bbox"][2] = float("nan")
    with pytest.raises(BadBoxes, match=f"Annotation {number} has the bbox"):
        evaluate(truth, found)
    with pytest.raises(WinnowError, match="lacks the list categories"):
        evaluate({"images": [], "annotations": []}, found)


def test_a_file_is_as_good_as_a_document_and_nothing_is_changed(tmp_path: Path) -> None:
    truth, found = case(3)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    before = deepcopy((truth, found))
    assert evaluate(tmp_path / "truth.json", found) == evaluate(truth, found)
    assert (truth, found) == before


def test_perfect_predictions_are_perfect() -> None:
    truth, _ = case(1)
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in truth["annotations"]
    ]
    assert evaluate(truth, found).mAP == pytest.approx(1.0)


def test_no_predictions_find_nothing() -> None:
    truth, _ = case(1)
    assert evaluate(truth, []).mAP == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"image_id": 999}, "image 999"),
        ({"category_id": 2}, "class 2"),
        ({"score": float("nan")}, "finite"),
        ({"bbox": [0, 0, np.inf, 1]}, "finite"),
    ],
)
def test_an_impossible_prediction_is_named(change: dict[str, Any], word: str) -> None:
    truth, found = case(1)
    with pytest.raises(WinnowError, match=f"Prediction #3.*{word}"):
        evaluate(truth, [*found[:3], found[3] | change])

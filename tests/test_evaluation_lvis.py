"""Our LVIS numbers against the lvis package, on generated federated cases; fixed AP against it without its limit."""

from __future__ import annotations

import json
import logging
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.errors import WinnowError
from engine.evaluation.boxes import BadBoxes
from engine.evaluation.lvis import evaluate, evaluate_fixed

if not hasattr(np, "float"):
    np.float = float  # type: ignore[attr-defined]  # the official package was written for an older numpy

from lvis import LVIS, LVISEval, LVISResults

logging.getLogger("lvis").setLevel(logging.ERROR)
OFFICIAL = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "AR300": "AR@300"}
OFFICIAL |= {f"AP_{letter}": f"AP{letter}" for letter in "smlrcf"} | {f"AR300_{s}": f"AR{s}@300" for s in "sml"}
Case = tuple[dict[str, Any], list[dict[str, Any]]]


class InMemory(LVIS):
    """The official reader takes files only."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.logger = logging.getLogger("lvis")
        self.dataset = deepcopy(document)
        self._create_index()


def official(
    truth: dict[str, Any], found: list[dict[str, Any]], most: int = 300
) -> tuple[dict[str, float], list[float]]:
    """The official numbers by our names, and AP by class in order of id. `found` must not be empty."""
    known = InMemory(truth)
    run = LVISEval(known, LVISResults(known, deepcopy(found), max_dets=most), "bbox")
    run.run()
    classes = [run.eval["precision"][:, :, k, 0] for k in range(len(truth["categories"]))]
    return {ours: float(run.results[theirs]) for ours, theirs in OFFICIAL.items()}, [float(c.mean()) for c in classes]


def federated(seed: int, images: int = 12, classes: int = 6, noise: int = 3, spread: float = 5.0) -> Case:
    """Boxes of three sizes; classes present, known absent, not exhaustive or unknown by image; scores with ties."""
    rng = np.random.default_rng(seed)
    ids = [3 * k + 2 for k in range(classes)]
    truth: dict[str, Any] = {
        "images": [],
        "categories": [{"id": i, "name": f"class {i}", "frequency": "rcf"[k % 3]} for k, i in enumerate(ids)],
        "annotations": [],
    }
    found = []
    for image in rng.permutation(images).tolist():
        present = rng.choice(ids, rng.integers(0, classes), replace=False).tolist()
        absent = [i for i in ids if i not in present and rng.random() < 0.5]
        loose = [i for i in ids if rng.random() < 0.2]
        lists = {"neg_category_ids": absent, "not_exhaustive_category_ids": loose}
        truth["images"].append({"id": image, "width": 400, "height": 400, **lists})
        for label in present:
            for _ in range(rng.integers(1, 4)):
                size = rng.choice([12, 50, 150]) * rng.uniform(0.7, 1.3, 2)
                box = [*rng.uniform(0, 200, 2).tolist(), *size.tolist()]
                note = {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": label, "bbox": box}
                truth["annotations"].append(note | {"area": math.prod(box[2:]) * rng.uniform(0.5, 1)})
                for _ in range(rng.integers(0, 3)):
                    near = [*(box[:2] + rng.normal(0, spread, 2)), *(box[2:] * np.exp(rng.normal(0, 0.1, 2)))]
                    found.append(prediction(image, label, near, rng))
        for label in rng.choice(ids, noise).tolist():
            found.append(prediction(image, label, [*rng.uniform(0, 200, 2), *rng.uniform(5, 100, 2)], rng))
    found.append(prediction(0, ids[0], [0, 0, 9, 9], rng))
    return truth, found


def prediction(image: int, label: int, box: Any, rng: np.random.Generator) -> dict[str, Any]:
    score = round(float(rng.random()), int(rng.integers(1, 6)))  # some equal
    return {"image_id": image, "category_id": label, "bbox": [float(v) for v in box], "score": score}


def same(case: Case) -> None:
    ours = evaluate(*case)
    numbers, classes = official(*case)
    assert {name: getattr(ours, name) for name in numbers} == pytest.approx(numbers, abs=1e-9)
    assert list(ours.per_class.values()) == pytest.approx(classes, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_the_lvis_package(seed: int) -> None:
    case = federated(seed)
    same(case)
    assert 0 < evaluate(*case).AP < 1


def test_equal_with_more_than_300_predictions_for_an_image() -> None:
    truth, found = federated(1, images=3, noise=700)
    same((truth, found))
    assert evaluate(truth, found) != evaluate(truth, found[::-1][:500])


def test_equal_on_the_shape_of_the_real_data() -> None:
    """Hundreds of classes, most unknown in most images, and 300 predictions for each."""
    same(federated(5, images=20, classes=200, noise=280))


WHOLE = st.integers(0, 6)
SIDES = st.integers(0, 4)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small whole-numbered worlds, full of equal scores, equal overlaps, empty boxes, and exact thresholds."""
    labels, images = [1, 2, 3], draw(st.integers(1, 3))
    subset = st.lists(st.sampled_from(labels), unique=True)
    box = st.tuples(WHOLE, WHOLE, SIDES, SIDES).map(lambda b: [8.0 * v for v in b])
    row = st.builds(
        lambda i, k, b: {"image_id": i, "category_id": k, "bbox": b},
        st.integers(0, images - 1),
        st.sampled_from(labels),
        box,
    )
    notes = [
        note | {"id": n, "area": note["bbox"][2] * note["bbox"][3], "ignore": draw(st.integers(0, 4)) // 4}
        for n, note in enumerate(draw(st.lists(row, max_size=8)), draw(st.integers(0, 1)))
    ]
    found = [
        r | {"score": draw(st.sampled_from([0.1, 0.5, 0.5, 0.9]))} for r in draw(st.lists(row, min_size=1, max_size=12))
    ]
    truth = {
        "images": [
            {"id": i, "neg_category_ids": draw(subset), "not_exhaustive_category_ids": draw(subset)}
            for i in range(images)
        ],
        "categories": [{"id": k, "name": str(k), "frequency": draw(st.sampled_from("rcf"))} for k in labels],
        "annotations": notes,
    }
    return truth, found


@settings(max_examples=150, deadline=None)
@given(cases())
def test_equal_to_the_lvis_package_on_any_federated_case(case: Case) -> None:
    same(case)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_fixed_ap_is_lvis_ap_without_the_limit_of_an_image(case: Case) -> None:
    ours = evaluate_fixed(*case)
    numbers, _ = official(*case, most=-1)
    ap = {f"fixed_{name}": value for name, value in numbers.items() if name.startswith("AP")}
    assert {name: getattr(ours, name) for name in ap} == pytest.approx(ap, abs=1e-9)


def test_fixed_ap_keeps_the_surest_10000_of_a_class_and_no_limit_for_an_image() -> None:
    truth, _ = federated(2, images=2, classes=2)
    note = truth["annotations"][0]
    miss = {"image_id": note["image_id"], "category_id": note["category_id"], "bbox": [390.0, 390.0, 5.0, 5.0]}
    hit = miss | {"bbox": note["bbox"], "score": 0.5}
    before = [miss | {"score": 0.9}] * 9_999
    seen, unseen = evaluate_fixed(truth, [*before, hit]), evaluate_fixed(truth, [*before, miss | {"score": 0.9}, hit])
    assert seen.fixed_AP50 > 0 and unseen.fixed_AP50 == 0
    assert evaluate(truth, [*before, hit]).AP50 == 0
    numbers, _ = official(truth, [*before, hit], most=-1)
    assert seen.fixed_AP == pytest.approx(numbers["AP"], abs=1e-9)


def test_fixed_ap_says_for_how_many_classes_too_few_predictions_came() -> None:
    truth, found = federated(2)
    assert evaluate_fixed(truth, found).short_classes == len({n["category_id"] for n in truth["annotations"]})


def test_the_two_measures_share_no_name() -> None:
    assert not evaluate(*federated(1)).as_dict().keys() & evaluate_fixed(*federated(1)).as_dict().keys()


def test_no_predictions_find_nothing_and_an_empty_bucket_is_minus_one() -> None:
    truth, _ = federated(1)
    for kind in truth["categories"]:
        kind["frequency"] = "f"
    result = evaluate(truth, [])
    assert (result.AP, result.AP_f, result.AP_r) == (0, 0, -1)


def test_a_file_is_as_good_as_a_document_and_nothing_is_changed(tmp_path: Path) -> None:
    truth, found = federated(3)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    before = deepcopy((truth, found))
    assert evaluate(tmp_path / "truth.json", found) == evaluate(truth, found)
    assert (truth, found) == before


def test_a_truth_that_is_not_lvis_is_refused_with_all_its_faults() -> None:
    truth, found = federated(1)
    del truth["images"][0]["neg_category_ids"], truth["categories"][1]["frequency"]
    with pytest.raises(WinnowError, match=r"2 fault\(s\).*\n.*neg_category_ids\n.*frequency None"):
        evaluate(truth, found)


def test_all_impossible_predictions_are_named() -> None:
    truth, found = federated(1)
    nan, inside_out = found[0] | {"score": math.nan}, found[1] | {"bbox": [1, 1, -2, 3]}
    with pytest.raises(BadBoxes) as caught:
        evaluate(truth, [nan, *found, inside_out, found[2] | {"image_id": 99}])
    assert len(caught.value.faults) == 3
    assert "Prediction #0 has the score nan" in str(caught.value) and "inside out" in str(caught.value)

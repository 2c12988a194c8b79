"""D3 numbers against pycocotools on the three files that the ddd-dataset package writes, and what is asked of an image."""

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
from d_cube import D3
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from db.errors import WinnowError
from engine.evaluation.boxes import BadBoxes
from engine.evaluation.d3 import Sentences, evaluate

TEXTS = ["a dog", "dog on a wide lawn", "dog without a leash", "a person who is not wearing any hat"]
TEXTS += ["child", "the child with an orange balloon in one of its hands", "a cat", "a cat that sleeps on the sofa"]
ABSENT = {3, 4}
FULL, PRESENCE, ABSENCE = 0, 1, 2
"""Modes of the official converter."""


def native(seed: int) -> D3:
    """A small data set as the package holds it after reading its files: two groups of four sentences, ten images."""
    rng = random.Random(seed)
    groups = {g: {"inner_sent_id": [4 * g + k for k in range(1, 5)]} for g in range(2)}
    sentences = {i: {"id": i, "raw_sent": t, "is_negative": i in ABSENT} for i, t in enumerate(TEXTS, 1)}
    images: dict[int, Any] = {}
    annotations: dict[int, Any] = {}
    for image in range(10):
        group = image % 2
        ids = [len(annotations) + k for k in range(rng.randint(0, 4))]
        size = {"height": 200, "width": 200}
        images[image] = {"id": image, "file_name": f"{image}.jpg", "anno_id": ids, "group_id": group, **size}
        for i in ids:
            box = [rng.randint(0, 120), rng.randint(0, 120), rng.randint(5, 80), rng.randint(5, 80)]
            annotations[i] = {
                "image_id": image,
                "group_id": group,
                "sent_id": rng.sample(groups[group]["inner_sent_id"], 2),
                "bbox": np.array([box]),
                "area": [box[2] * box[3]],
                "segmentation": [{"size": [200, 200], "counts": "0"}],
            }
    data = D3.__new__(D3)
    data.data = {"sentences": sentences, "annotations": annotations, "images": images, "groups": groups}
    return data


def converted(data: D3, mode: int, folder: Path) -> dict[str, Any]:
    data.convert2coco(folder, anti_mode=mode)
    return json.loads((folder / "coco_annotations.json").read_text())


def sentences(data: D3) -> Sentences:
    texts = {i: s["raw_sent"] for i, s in data.data["sentences"].items()}
    groups = {i: data.data["groups"][image["group_id"]]["inner_sent_id"] for i, image in data.data["images"].items()}
    return Sentences(texts, ABSENT, groups)


def guesses(truth: dict[str, Any], asked: Sentences, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    found = []
    for note in truth["annotations"]:
        for _ in range(rng.randint(0, 2)):
            box = [value + rng.gauss(0, 2) for value in note["bbox"]]
            found.append({k: note[k] for k in ("image_id", "category_id")} | {"bbox": box, "score": rng.random()})
    for image in truth["images"]:
        other = rng.choice(asked.asked(image["id"], "intra"))
        box = [rng.uniform(0, 99), rng.uniform(0, 99), rng.uniform(5, 80), rng.uniform(5, 80)]
        found.append({"image_id": image["id"], "category_id": other, "bbox": box, "score": rng.random()})
    return [row for row in found if min(row["bbox"][2:]) > 0]


def official(truth: dict[str, Any], found: list[dict[str, Any]]) -> tuple[float, dict[int, float]]:
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = deepcopy(truth)
        known.createIndex()
        run = COCOeval(known, known.loadRes(deepcopy(found)), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    values = run.eval["precision"][:, :, :, 0, -1]
    return float(run.stats[0]), {i: float(values[:, :, k].mean()) for k, i in enumerate(run.params.catIds)}


def by_length(truth: dict[str, Any], each: dict[int, float], low: int, high: int) -> float:
    values = [each[c["id"]] for c in truth["categories"] if low <= len(c["name"].split(" ")) <= high]
    return float(np.mean([v for v in values if v > -1]))


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pycocotools_on_the_three_official_files(seed: int, tmp_path: Path) -> None:
    data = native(seed)
    truth, asked = converted(data, FULL, tmp_path), sentences(data)
    assert truth["annotations"][0]["id"] == 0, "the official converter begins at 0, which its evaluator cannot match"
    found = guesses(truth, asked, seed)
    ours = evaluate(truth, found, asked)
    numbers = [official(converted(data, mode, tmp_path), found)[0] for mode in (FULL, PRESENCE, ABSENCE)]
    assert [ours.FULL, ours.PRES, ours.ABS] == pytest.approx(numbers, abs=1e-9)
    _, each = official(truth, found)
    assert ours.per_sentence == pytest.approx(each, abs=1e-9)
    assert 0 < ours.FULL < 1
    for name, ends in {"short": (1, 3), "middle": (4, 6), "long": (7, 9), "very_long": (10, 99)}.items():
        assert ours.lengths[name] == pytest.approx(by_length(truth, each, *ends), abs=1e-9)


def test_an_image_is_asked_as_the_official_package_says(tmp_path: Path) -> None:
    data = native(0)
    asked = sentences(data)
    for image in data.get_img_ids():
        groups = data.get_group_ids(img_ids=[image])
        assert set(asked.asked(image, "intra")) == set(data.get_sent_ids(group_ids=groups))
    assert asked.asked(0, "inter") == tuple(range(1, 9)) == tuple(data.get_sent_ids())


def test_asking_for_everything_costs_precision(tmp_path: Path) -> None:
    """The same detector with sure boxes for the sentences of other groups: these count in the inter scenario only."""
    data = native(1)
    truth, asked = converted(data, FULL, tmp_path), sentences(data)
    found = guesses(truth, asked, 1)
    strays = [row | {"category_id": (row["category_id"] + 3) % 8 + 1, "score": 1.0} for row in found]
    both = evaluate(truth, [*found, *strays], asked, scenario="inter")
    assert both.FULL < evaluate(truth, found, asked).FULL and both.scenario == "inter"
    with pytest.raises(BadBoxes, match="is not asked for") as caught:
        evaluate(truth, [*found, *strays], asked)
    assert len(caught.value.faults) == len(strays)


def test_two_sentences_with_the_same_words_stay_apart() -> None:
    box = {"bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a dog"}, {"id": 2, "name": "a dog"}],
        "annotations": [{"id": k, "image_id": 1, "category_id": k, **box} for k in (1, 2)],
    }
    found = [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10], "score": 0.5}]
    result = evaluate(truth, found, Sentences({1: "a dog", 2: "a dog"}, {2}, {1: [1, 2]}))
    assert (result.FULL, result.PRES, result.ABS) == pytest.approx((0.5, 0, 1))


def test_sentences_must_be_known() -> None:
    with pytest.raises(WinnowError, match=r"without a text: \[3\]"):
        Sentences({1: "a dog"}, set(), {7: [1, 3]})
    with pytest.raises(WinnowError, match="Image 8 has no group"):
        Sentences({1: "a dog"}, set(), {7: [1]}).asked(8, "intra")

"""OmniLabel numbers: by hand, by what the paper prints, and by pycocotools with every pair as an image of its own."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from db.errors import WinnowError
from engine.evaluation.boxes import BadBoxes
from engine.evaluation.omnilabel import evaluate, harmonic

BOX, ELSEWHERE = [10.0, 10.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]
CATEGORY, RED, BLUE, LONG = 1, 2, 3, 4


def description(number: int, text: str, images: list[int], kind: str = "object_description") -> dict[str, Any]:
    return {"id": number, "text": text, "image_ids": images, "anno_info": {"type": kind}}


def note(number: int, image: int, box: list[float], *descriptions: int) -> dict[str, Any]:
    return {"id": number, "image_id": image, "bbox": box, "description_ids": list(descriptions)}


def said(image: int, box: list[float], **scores: float) -> dict[str, Any]:
    """`said(1, BOX, d2=0.5)`: the box is description 2 with a score of a half."""
    ids = [int(key[1:]) for key in scores]
    return {"image_id": image, "bbox": box, "description_ids": ids, "scores": list(scores.values())}


def toy() -> dict[str, Any]:
    """Two images; a red cup in image 1, a long description true of image 2, and no blue cup although both are asked."""
    return {
        "images": [{"id": 2, "file_name": "2.png"}, {"id": 1, "file_name": "1.png"}],
        "descriptions": [
            description(CATEGORY, "cup", [1, 2], "category"),
            description(RED, "the red cup on the table", [1]),
            description(BLUE, "blue cup", [1, 2]),
            description(LONG, "a cup that somebody has put on top of the books", [2]),
        ],
        "annotations": [note(1, 1, BOX, CATEGORY, RED), note(2, 2, BOX, CATEGORY, LONG)],
    }


PERFECT = [said(1, BOX, d1=0.9, d2=0.8), said(2, BOX, d1=0.9, d4=0.7)]


def test_perfect_predictions_are_perfect() -> None:
    result = evaluate(toy(), PERFECT)
    found = (result.AP_categ, result.AP_descr, result.AP_descr_pos, result.AP_descr_m, result.AP_descr_l)
    assert found == pytest.approx((1,) * 5)
    assert result.AP_descr_s == -1, "the only short description is true nowhere"
    assert result.AP == pytest.approx(2 / (2 + 1e-5))


def test_a_negative_description_costs_ap_descr_and_not_ap_descr_pos() -> None:
    """Ranked: false .95, true .8, true .7. Precision 1/2 at recall 1/2, 2/3 at 1, so 2/3 at every recall."""
    result = evaluate(toy(), [*PERFECT, said(1, BOX, d3=0.95)])
    assert result.AP_descr == pytest.approx(2 / 3)
    assert (result.AP_descr_pos, result.AP_categ) == (1, 1)


def test_a_false_box_between_two_true_ones() -> None:
    """True .8, false .75, true .7: precision 1 up to recall .5 (51 of 101 points), then 2/3."""
    result = evaluate(toy(), [*PERFECT, said(2, ELSEWHERE, d3=0.75)])
    assert result.AP_descr == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_scores_are_compared_across_images_and_descriptions() -> None:
    """The false box is the surest of its own pair only, and surer than what is true in the other image."""
    low = [said(1, BOX, d2=0.2), said(1, ELSEWHERE, d2=0.1), said(2, BOX, d4=0.05)]
    assert evaluate(toy(), low).AP_descr == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_half_of_the_boxes_found() -> None:
    result = evaluate(toy(), [said(1, BOX, d1=0.5, d2=0.5)])
    assert result.AP_descr == pytest.approx(51 / 101) and result.AR_descr == pytest.approx(0.5)


def test_predictions_outside_the_label_space_are_left_out_and_counted() -> None:
    result = evaluate(toy(), [*PERFECT, said(2, BOX, d2=1.0), said(1, BOX, d4=1.0)])
    assert (result.AP_descr, result.outside) == (1, 2)


def test_the_headline_is_that_of_the_paper() -> None:
    """It prints 23.6 and 16.4 as 19.3, all rounded."""
    assert harmonic(0.236, 0.164) == pytest.approx(0.193, abs=1e-3)
    assert harmonic(0.5, -1) == -1


def test_only_the_surest_hundred_of_a_pair_count() -> None:
    many = [said(1, ELSEWHERE, d2=0.99)] * 100
    assert evaluate(toy(), [*many, *PERFECT]).AR_descr == pytest.approx(0.5)
    assert evaluate(toy(), [*many[1:], *PERFECT]).AR_descr == 1


def noisy(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images asked for a random part of the descriptions, in an order of their own, and scores with ties."""
    rng = random.Random(seed)
    texts = ["cup", "red cup", "a cup on the table", "the cup " * 5]
    numbers = rng.sample(range(1, 50), 12)
    descriptions = [
        description(i, texts[k % 4].strip(), [], "category" if k % 4 == 0 else "object_description")
        for k, i in enumerate(numbers)
    ]
    notes, found = [], []
    for image in range(8):
        asked = rng.sample(descriptions, 6)
        for d in asked:
            d["image_ids"].append(image)
        for _ in range(rng.randint(0, 5)):
            box = [rng.uniform(0, 60), rng.uniform(0, 60), rng.uniform(5, 40), rng.uniform(5, 40)]
            true = [d["id"] for d in rng.sample(asked, 2)]
            notes.append(note(len(notes) + 1, image, box, *true))
            for _ in range(rng.randint(0, 3)):
                near = [value + rng.gauss(0, 1) for value in box]
                listed = true + [d["id"] for d in rng.sample(asked, 2)]
                found.append(said(image, near, **{f"d{i}": round(rng.random(), 2) for i in dict.fromkeys(listed)}))
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(8)]
    return {"images": images, "descriptions": descriptions, "annotations": notes}, found


def pooled(truth: dict[str, Any], found: list[dict[str, Any]], belongs: Any) -> float:
    """AP of pycocotools when each pair of a group is an image of one class."""
    asked = [(i["id"], d) for i in truth["images"] for d in truth["descriptions"] if i["id"] in d["image_ids"]]
    true = {(n["image_id"], i) for n in truth["annotations"] for i in n["description_ids"]}
    at = {(i, d["id"]): k for k, (i, d) in enumerate(asked) if belongs(d, (i, d["id"]) in true)}
    notes = [
        {"image_id": at[n["image_id"], i], "category_id": 1, "bbox": n["bbox"], "area": math.prod(n["bbox"][2:])}
        for n in truth["annotations"]
        for i in n["description_ids"]
        if (n["image_id"], i) in at
    ]
    rows = [
        {"image_id": at[r["image_id"], i], "category_id": 1, "bbox": r["bbox"], "score": score}
        for r in found
        for i, score in zip(r["description_ids"], r["scores"], strict=True)
        if (r["image_id"], i) in at
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            "images": [{"id": k} for k in at.values()],
            "categories": [{"id": 1, "name": "it"}],
            "annotations": [n | {"id": k, "iscrowd": 0} for k, n in enumerate(notes, 1)],
        }
        known.createIndex()
        run = COCOeval(known, known.loadRes(rows), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0])


GROUPS = {
    "AP_categ": lambda d, true: d["anno_info"]["type"] == "category",
    "AP_descr": lambda d, true: d["anno_info"]["type"] != "category",
    "AP_descr_pos": lambda d, true: d["anno_info"]["type"] != "category" and true,
    "AP_descr_s": lambda d, true: d["text"] == "red cup",
    "AP_descr_m": lambda d, true: d["text"] == "a cup on the table",
    "AP_descr_l": lambda d, true: len(d["text"]) > 30,
}


@pytest.mark.parametrize("seed", range(4))
def test_every_group_equals_pycocotools_over_its_pairs(seed: int) -> None:
    truth, found = noisy(seed)
    ours = evaluate(truth, found)
    for name, belongs in GROUPS.items():
        assert getattr(ours, name) == pytest.approx(pooled(truth, found, belongs), abs=1e-9), name
    assert 0 < ours.AP_descr < ours.AP_descr_pos < 1


def test_a_file_is_as_good_as_a_document_and_nothing_is_changed(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(toy()))
    truth, found = toy(), deepcopy(PERFECT)
    assert evaluate(tmp_path / "truth.json", found) == evaluate(truth, found)
    assert (truth, found) == (toy(), PERFECT)


def test_no_predictions_find_nothing() -> None:
    assert (evaluate(toy(), []).AP_descr, evaluate(toy(), []).AP_descr_s) == (0, -1)


def test_all_impossible_predictions_are_named() -> None:
    uneven = said(1, BOX, d2=0.5) | {"scores": []}
    bad = [
        uneven,
        said(9, BOX, d2=0.5),
        said(1, BOX, d99=0.5),
        said(1, BOX, d2=math.nan),
        said(1, [0, 0, 1, -1], d2=1.0),
    ]
    with pytest.raises(BadBoxes) as caught:
        evaluate(toy(), [*PERFECT, *bad, {"image_id": 1}])
    assert len(caught.value.faults) == 6
    for part in ("#2 has 1 description_ids and 0 scores", "#3 is for image 9", "#4 is of description 99", "inside out"):
        assert part in str(caught.value)


def test_an_impossible_truth_is_refused() -> None:
    truth = toy()
    truth["annotations"].append(note(7, 2, BOX, RED))
    with pytest.raises(BadBoxes, match="Annotation 7 is on image 2, which description 2 does not list"):
        evaluate(truth, PERFECT)
    truth["descriptions"][0]["image_ids"].append(77)
    with pytest.raises(WinnowError, match="unknown images: 77"):
        evaluate(truth, PERFECT)

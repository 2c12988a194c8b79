"""Evaluations box by box: the same hits as the official metrics, confusions, and what changed between two runs."""

from typing import Any

import msgspec
import numpy as np
import pytest

from db.errors import WinnowError
from db.records import Dataset, Run
from db.store import Store
from engine import comparison, runs
from engine.evaluation import coco, truth
from engine.evaluation.matching import FALSE, HIT, IGNORED

SIZE = 20.0


def document(*boxes: tuple[int, float, int], images: int = 2) -> dict[str, Any]:
    """Boxes of (class 1 or 2, left edge, image), 20 x 20 pixels, on two images of 200 x 200."""
    return {
        "images": [{"id": i, "width": 200, "height": 200} for i in range(1, images + 1)],
        "categories": [{"id": 1, "name": "mug"}, {"id": 2, "name": "ball"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": kind, "bbox": [x, 0.0, SIZE, SIZE], "area": 400.0, "iscrowd": 0}
            for n, (kind, x, image) in enumerate(boxes, 1)
        ],
    }


def said(kind: int, x: float, score: float, image: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": kind, "bbox": [x, 0.0, SIZE, SIZE], "score": score}


def random_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    known = document(*((int(k), float(x), int(i)) for k, x, i in zip(*_columns(rng, 30), strict=True)))
    for note in known["annotations"][::7]:
        note["iscrowd"] = 1
    found = [said(int(k), float(x), float(rng.random()), int(i)) for k, x, i in zip(*_columns(rng, 80), strict=True)]
    return known, found


def _columns(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rng.integers(1, 3, count), rng.uniform(0, 180, count), rng.integers(1, 3, count)


@pytest.mark.parametrize("seed", range(8))
def test_curves_have_the_official_ap50(seed: int) -> None:
    known, found = random_case(seed)
    run = comparison.judge(known, found)
    mean = comparison.precision_at_recalls(run)
    assert mean is not None
    assert mean.mean() == pytest.approx(coco.evaluate(known, found).AP50, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_a_threshold_leaves_the_matches_of_what_remains(seed: int) -> None:
    known, found = random_case(seed)
    run, sure = comparison.judge(known, found), comparison.judge(known, [f for f in found if f["score"] >= 0.5])
    assert comparison.tally(run, 0.5) == comparison.tally(sure, 0.0)
    assert np.array_equal(comparison.confusion(run, 0.5).counts, comparison.confusion(sure, 0.0).counts)


@pytest.mark.parametrize("seed", range(8))
def test_every_box_is_counted_once(seed: int) -> None:
    known, found = random_case(seed)
    run = comparison.judge(known, found)
    counts = comparison.confusion(run, 0.3).counts
    whole = np.bincount(run.label(run.box_pair)[~run.ignored], minlength=2)
    kept = (run.score >= 0.3) & (run.verdict != IGNORED)
    assert np.array_equal(counts[:2].sum(1), whole)
    assert np.array_equal(counts[:, :2].sum(0), np.bincount(run.label(run.pair)[kept], minlength=2))
    assert counts[2, 2] == 0
    assert comparison.tally(run, 0.3).right == np.trace(counts)


def test_confusions_by_hand() -> None:
    known = document((1, 0, 1), (2, 50, 1), (1, 100, 1), (2, 0, 2))
    found = [said(1, 0, 0.9), said(1, 1, 0.8), said(1, 51, 0.7), said(2, 150, 0.6), said(1, 100, 0.2)]
    told = comparison.confusion(comparison.judge(known, found), 0.5)
    # mug found; ball taken for a mug; one mug (too unsure) and one ball not found; a second mug and a ball on nothing
    assert told.counts.tolist() == [[1, 0, 1], [1, 0, 1], [1, 1, 0]]
    box, prediction = told.at(1, 0)
    assert box.tolist() == [1] and len(prediction) == 1


def test_what_changed_by_hand() -> None:
    known = document((1, 0, 1), (1, 50, 1), (2, 100, 1))
    before = comparison.judge(known, [said(1, 0, 0.9), said(2, 150, 0.9), said(1, 180, 0.9, image=2)])
    after = comparison.judge(known, [said(1, 50, 0.8), said(2, 151, 0.7), said(1, 90, 0.6), said(2, 100, 0.3)])
    told = comparison.changes(before, after, 0.5)
    assert before.box[told.won[:, 0]].tolist() == [2] and before.box[told.lost[:, 0]].tolist() == [1]
    assert after.xywh[told.came, 0].tolist() == [90] and before.xywh[told.went, 0].tolist() == [180]
    assert comparison.changes(before, after, 0.2).won.shape == (2, 2)
    nothing = comparison.changes(before, before, 0.5)
    assert [len(part) for part in (nothing.won, nothing.lost, nothing.came, nothing.went)] == [0, 0, 0, 0]


def test_other_images_cannot_be_compared() -> None:
    one, two = comparison.judge(document(), []), comparison.judge(document(images=3), [])
    with pytest.raises(WinnowError, match="different images"):
        comparison.changes(one, two, 0.5)


def test_scores_of_right_and_wrong() -> None:
    run = comparison.judge(document((1, 0, 1)), [said(1, 0, 1.0), said(1, 50, 0.07), said(2, 50, 0.05)])
    right, wrong = comparison.score_histogram(run)
    assert right.tolist() == [0] * 19 + [1] and wrong.tolist() == [0, 2] + [0] * 18
    assert comparison.score_histogram(run, label=1)[1].tolist() == [0, 1] + [0] * 18


def test_lvis_does_not_blame_what_nobody_looked_for() -> None:
    known = document((1, 0, 1))
    for category in known["categories"]:
        category["frequency"] = "r"
    for image, absent, partial in zip(known["images"], ([], [2]), ([1], []), strict=True):
        image |= {"neg_category_ids": absent, "not_exhaustive_category_ids": partial}
    run = comparison.judge(known, [said(1, 0, 0.9), said(1, 50, 0.8), said(2, 0, 0.7), said(2, 0, 0.6, image=2)])
    assert run.verdict.tolist() == [HIT, IGNORED, IGNORED, FALSE]


def evaluated(store: Store, dataset: Dataset, rows: list[dict[str, Any]], **result: Any) -> Run:
    """A finished evaluation on the split `test` with these predictions."""
    there = [one for one in store.snapshots.list() if one.name == "real"]
    snapshot = there[0] if there else store.snapshots.freeze("real", dataset.id)
    trained = runs.start_train(store, snapshot_id=snapshot.id, preset="tiny_atss", options={"iterations": 1})
    for run in (trained, None):
        if run is None:
            run = runs.start_evaluate(store, train_run_id=trained.id, snapshot_id=snapshot.id, split="test")
            digest = store.blobs.put(msgspec.json.encode(rows))
            store.ledger.set_result(run.id, {**result, "predictions": digest})
        shard = store.ledger.claim(run.id, "tester")
        assert shard is not None
        store.ledger.finish_shard(shard)
        store.ledger.conclude(run.id)
    return store.ledger.run(run.id)


def test_a_run_is_judged_once_and_then_read(store: Store, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    document = truth.detection(store, store.snapshots.freeze("other", dataset.id), "test")
    note = document["annotations"][0]
    row = {key: note[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
    run = evaluated(store, dataset, [row])
    first = comparison.judged(store, run)
    assert comparison.tally(first, 0.4) == comparison.Tally(right=1, wrong=0, missed=3)
    comparison._read.cache_clear()
    monkeypatch.setattr(comparison, "judge", lambda *_: pytest.fail("judged again"))
    assert np.array_equal(comparison.judged(store, run).partner, first.partner)
    assert not list((store.home / "cache").rglob("*.part"))


def test_only_evaluations_have_boxes(store: Store, dataset: Dataset) -> None:
    snapshot = store.snapshots.freeze("real", dataset.id)
    run = runs.start_train(store, snapshot_id=snapshot.id, preset="tiny_atss")
    with pytest.raises(WinnowError, match="no predictions on record"):
        comparison.judged(store, run)


def test_slices_leave_out_what_has_nothing_to_find(store: Store, dataset: Dataset) -> None:
    aps = {"AP_s": 0.1, "AP_m": 0.3, "AP_l": -1.0, "per_class": {"mug": 0.4, "ball": -1.0}}
    spoken = {"AP_descr_s": 0.2, "AP_descr_m": -1.0, "AP_descr_l": 0.1, "edit_types": {"colour": 0.5}}
    run = evaluated(store, dataset, [], **aps, omnilabel=spoken)
    assert comparison.slices(store, run) == {
        "size": {"small": 0.1, "medium": 0.3},
        "words": {"short": 0.2, "long": 0.1},
    }

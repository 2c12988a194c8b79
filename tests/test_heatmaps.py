"""Heat maps as they are kept, drawn and shown; the pointing game by its numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from db.errors import WinnowError
from db.records import Dataset, Run, RunKind
from db.store import Store
from engine import heatmaps, runs
from engine.attention_folder import TRAIN, VAL, asked_phrases, attention_folder, read_entries, split_phrases
from engine.evaluation import pointing, suite
from engine.pixels import decode
from studio import attending
from studio.context import Studio
from studio.pages import attention

PEAK = np.array([[0.0, 0.2], [1.0, 0.4]], np.float32)


def phrase(number: int, text: str = "a red mug", **more: Any) -> dict[str, Any]:
    row = {"id": number, "image_id": 1, "digest": "d" * 64, "width": 40, "height": 20, "boxes": [[0, 10, 20, 10]]}
    return {**row, "text": text, **more}


# Said of choices that are given together with the value.
pytestmark = pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")


# The numbers


def test_the_numbers_of_the_pointing_game_by_words_and_split() -> None:
    rows = [phrase(1, split="testA"), phrase(2, "the small blue plate there", split="testB")]
    found = [
        {"phrase_id": 1, "point": [5, 15], "bbox": [0, 10, 20, 10]},
        {"phrase_id": 2, "point": [30, 5], "bbox": [0, 9, 20, 10]},
    ]
    result = suite.evaluate("pointing", {"phrases": rows}, found)
    assert (result["pointing"], result["phrases"], result["pointing_box"]) == (0.5, 2, 1.0)
    assert result["words"] == {"medium": 0.0, "short": 1.0} and result["splits"] == {"testA": 1.0, "testB": 0.0}
    assert suite.numbers(result) == {"pointing": 0.5, "pointing_box": 1.0}
    assert suite.slices(result)["words"]["short"] == 1.0


def test_the_box_that_a_map_fills_most_for_its_size() -> None:
    heat = np.zeros((10, 10))
    heat[2:4, 2:4] = 1
    # sums 4, 4, 1 over roots 2, 10, 1
    assert pointing.fullest(heat, [(0, 0, 10, 10), (2, 2, 2, 2), (2, 2, 1, 1)]) == 1


@pytest.mark.parametrize(("point", "hit"), [((5, 15), True), ((0, 15), False), ((5, 10), False), ((30, 15), False)])
def test_the_border_of_a_box_is_outside(point: tuple[float, float], hit: bool) -> None:
    assert pointing.inside(point, [(0, 10, 20, 10)]) is hit


def test_a_map_is_enlarged_around_its_peak() -> None:
    x, y = pointing.peak(pointing.enlarged(PEAK, (40, 20)))
    assert x < 20 and y >= 10


# What a snapshot teaches and asks


def test_a_snapshot_as_phrases_with_boxes_and_captions_without(store: Store, dataset: Dataset, tmp_path: Path) -> None:
    snapshot = store.snapshots.freeze("s", dataset.id)
    counts = attention_folder(store, snapshot, tmp_path / "data")
    entries = read_entries(tmp_path / "data" / TRAIN)
    assert counts["phrases with boxes"] == sum(bool(entry.bbox) for entry in entries) > 0
    assert counts["pairs"] == sum(not entry.bbox for entry in entries)
    assert (tmp_path / "data" / VAL).is_file()
    _, samples = store.snapshots.samples(snapshot)
    split = next(sample.image.split for sample in samples if sample.boxes)
    asked = split_phrases(store, snapshot, split)
    assert all(row["boxes"] and row["digest"] and row["proposals"] for row in asked)
    one = asked[0]
    again = asked_phrases(store, snapshot, [{"image_id": one["image_id"], "text": one["text"]}])[0]
    assert again["boxes"] == one["boxes"]
    assert asked_phrases(store, snapshot, [{"image_id": one["image_id"], "text": "a unicorn"}])[0]["boxes"] == []
    with pytest.raises(WinnowError, match="no image 999"):
        asked_phrases(store, snapshot, [{"image_id": 999, "text": "x"}])
    with pytest.raises(WinnowError, match="no phrase with a box on the images of split 'nowhere'"):
        split_phrases(store, snapshot, "nowhere")


# Kept and shown


@pytest.fixture
def studio(store: Store) -> Studio:
    return Studio(store=store, home=store.home)


def evaluated(store: Store, dataset: Dataset, hits: list[bool]) -> Run:
    """A finished evaluation of a model of kind attention."""
    known = [one for one in store.snapshots.list() if one.name == "s"]
    snapshot = known[0] if known else store.snapshots.freeze("s", dataset.id)
    training = runs.start_train(store, snapshot_id=snapshot.id, preset="tiny_blip", options={"iterations": 4})
    image = store.datasets.images(dataset.id)[0]
    rows = [
        phrase(i, f"thing {i}", image_id=image.id, digest=image.digest, width=image.width, height=image.height)
        for i in range(len(hits))
    ]
    found = [{"phrase_id": i, "point": [5, 15] if hit else [30, 2]} for i, hit in enumerate(hits)]
    digest = heatmaps.keep(store, rows, found, [PEAK] * len(hits))
    options = {"train_run_id": training.id, "snapshot_id": snapshot.id, "split": "test"}
    run = store.ledger.create_run(
        RunKind.EVALUATE, "e", dataset_id=dataset.id, recipe="", options=options, seed=0, versions={}
    )
    store.ledger.plan(run.id, [({}, 1)])
    shard = store.ledger.claim(run.id, "tester")
    assert shard is not None
    store.ledger.set_result(run.id, {"pointing": float(np.mean(hits)), "heatmaps": digest})
    store.ledger.finish_shard(shard)
    store.ledger.conclude(run.id)
    return store.ledger.run(run.id)


def test_maps_are_kept_with_their_run(store: Store, dataset: Dataset) -> None:
    run = evaluated(store, dataset, [True, False])
    maps = heatmaps.kept(store, run)
    assert [one.hit for one in maps.asked] == [True, False]
    assert maps.maps.shape == (2, 2, 2) and np.allclose(maps.maps[0] / heatmaps.FULL, PEAK, atol=0.5 / heatmaps.FULL)
    with pytest.raises(WinnowError, match="no heat maps"):
        heatmaps.kept(store, runs.start_train(store, snapshot_id=1, preset="tiny_atss"))


def test_a_map_over_its_image_is_clear_where_the_model_does_not_look() -> None:
    layer = heatmaps.tinted(np.array([[0, 0], [255, 0]], np.uint8), (8, 8))
    assert layer[0, -1, 3] < 10 and layer[-1, 0, 3] > 150
    asked = heatmaps.Asked("x", 1, "d", 40, 20, [(0, 10, 20, 10)], (30, 2))
    image = np.full((20, 40, 3), 90, np.uint8)
    drawn = heatmaps.over(image, np.zeros((2, 2), np.uint8), asked)
    assert drawn.shape == image.shape and (drawn != image).any()
    assert (decode(heatmaps.png(drawn)) == drawn).all()


def test_without_maps_the_page_says_what_to_do(studio: Studio) -> None:
    shown = attention.opened(studio, SimpleNamespace(query_params={}))  # type: ignore[arg-type]
    assert "tiny_blip" in shown[3]


def test_the_page_shows_two_runs_side_by_side_and_what_changed(studio: Studio, dataset: Dataset) -> None:
    store = studio.store
    before, after = evaluated(store, dataset, [True, False, False]), evaluated(store, dataset, [True, True, False])
    opened = attention.opened(studio, SimpleNamespace(query_params={"run": str(before.id)}))  # type: ignore[arg-type]
    assert opened[0].value == before.id and f"run {after.id}" in str(opened[1].choices)
    assert opened[3].count("<figure") == 3 and opened[3].count("<b>miss</b>") == 2
    _, which, *_ = attention.chosen(studio, before.id, after.id, "")
    assert [label for label, _ in which.choices] == [
        "all (3)", "won (1)", "lost (0)", "hit by both (1)", "missed by both (1)",
    ]  # fmt: skip
    sheet, *_ = attention.sought(studio, before.id, after.id, "won", "")
    assert sheet.count("<figure") == 1 and "thing 1" in sheet
    nothing, *_ = attention.sought(studio, before.id, after.id, "won", "unicorn")
    assert "No such phrase" in nothing
    detail, picked, *_ = attention.picked_one(studio, before.id, after.id, SimpleNamespace(_data={"id": "1"}))  # type: ignore[arg-type]
    assert picked == "1" and detail.count("data:image/png;base64") == 2
    assert f"run {before.id}: miss" in detail and f"run {after.id}: hit" in detail


def test_a_question_of_ones_own_is_answered_by_a_run(studio: Studio, dataset: Dataset) -> None:
    store = studio.store
    run = evaluated(store, dataset, [True])
    training = int(run.options["train_run_id"])
    with pytest.raises(WinnowError, match="no finished training"):
        attention.question(studio, run.id, None, "0", "the blue bowl")
    shard = store.ledger.claim(training, "tester")
    assert shard is not None
    store.ledger.finish_shard(shard)
    store.ledger.conclude(training)
    asked, waiting, timer = attention.question(studio, run.id, None, "0", "the blue bowl")
    made = store.ledger.run(int(asked))
    assert made.options["asks"] == [{"image_id": store.datasets.images(dataset.id)[0].id, "text": "the blue bowl"}]
    assert "looking" in waiting and timer.active
    with pytest.raises(WinnowError, match="Say what to look for"):
        attention.question(studio, run.id, None, "0", "  ")
    with pytest.raises(WinnowError, match="Choose a phrase above"):
        attention.question(studio, run.id, None, "", "a mug")
    image = store.datasets.images(dataset.id)[0]
    row = phrase(1, boxes=[], image_id=image.id, digest=image.digest, width=image.width, height=image.height)
    store.ledger.set_result(made.id, {"heatmaps": heatmaps.keep(store, [row], [{"point": [3, 4]}], [PEAK])})
    done = store.ledger.claim(made.id, "tester")
    assert done is not None
    store.ledger.finish_shard(done)
    store.ledger.conclude(made.id)
    answer, timer = attention.ticked(studio, asked)
    assert "no box known" in answer and not timer.active
    out = store.home / "mug.png"
    assert attending.written(studio, store.ledger.run(made.id), out).point == (3, 4)
    assert decode(out.read_bytes()).shape == (image.height, image.width, 3)


def test_only_models_that_show_where_they_look_are_asked(store: Store, dataset: Dataset) -> None:
    snapshot = store.snapshots.freeze("s", dataset.id)
    training = runs.start_train(store, snapshot_id=snapshot.id, preset="tiny_atss", options={"iterations": 4})
    shard = store.ledger.claim(training.id, "tester")
    assert shard is not None
    store.ledger.finish_shard(shard)
    store.ledger.conclude(training.id)
    with pytest.raises(WinnowError, match="no map to show"):
        runs.start_attend(store, train_run_id=training.id, snapshot_id=snapshot.id, image_id=1, text="a mug")

"""Data sets of texts are evaluated by the protocol of their own format, from the snapshot that holds them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Quiet

from db import formats
from db.records import Dataset
from db.store import Store
from engine import runs
from engine.evaluation import suite
from engine.evaluation.spoken import Spoken, spoken
from engine.training.run import evaluate, train

Answers = list[dict[str, Any]]


def said(store: Store, dataset: Dataset, folder: Path, format: str, **options: Any) -> Spoken:
    """The small data set of the tests, with a text on its first image alone, written in a format, imported from there, and
    frozen."""
    small = store.datasets.document(dataset.id)
    phrases = list(small.phrases())
    named = next(phrase for phrase in phrases if phrase.box_ids)
    one = msgspec.structs.replace(named, id=max(p.id for p in phrases) + 1, text="the only one", parent_id=None)
    alone = msgspec.structs.replace(one, spans=())
    formats.write(replace(small, phrases=lambda: [*phrases, alone]), folder, format)
    again = store.datasets.import_document(formats.read(folder), format)
    split = min({image.split for image in store.datasets.images(again.id)})
    found = spoken(store, store.snapshots.freeze(format, again.id), split, **options)
    assert found is not None and found.kind == format
    return found


def answered(found: Spoken, boxes: dict[tuple[int, int], list[list[float]]]) -> dict[str, Any]:
    rows: Answers = [
        {"image_id": image, "bbox": box, "description_ids": [text], "scores": [0.9]}
        for (image, text), own in boxes.items()
        for box in own
    ]
    return suite.numbers(suite.evaluate(found.kind, found.truth, found.predictions(rows)))


def right(found: Spoken) -> dict[tuple[int, int], list[list[float]]]:
    """The true boxes of everything that is asked for."""
    truth = found.truth
    images = {text: one.image_id for one in found.asked for text in one.texts}
    if found.kind == "d3":
        boxes: dict[tuple[int, int], list[list[float]]] = {}
        for note in truth["annotations"]:
            boxes.setdefault((note["image_id"], note["category_id"]), []).append(note["bbox"])
        return boxes
    if found.kind == "refcoco":
        return {(images[row["id"]], row["id"]): [row["bbox"]] for row in truth["expressions"]}
    return {(images[row["id"]], row["id"]): row["boxes"] for row in truth["phrases"] if row["boxes"]}


def moved(boxes: dict[tuple[int, int], list[list[float]]]) -> dict[tuple[int, int], list[list[float]]]:
    return {key: [[x, y, w / 3, h / 3] for x, y, w, h in own] for key, own in boxes.items()}


BEST = {"d3": "FULL", "refcoco": "P@1", "flickr30k": "ANY-BOX R@1"}


@pytest.mark.parametrize("format", BEST)
def test_the_truth_is_found_by_the_right_boxes_and_missed_by_others(
    store: Store, dataset: Dataset, tmp_path: Path, format: str
) -> None:
    found = said(store, dataset, tmp_path / "written", format)
    assert all(one.path.is_file() for one in found.asked)
    assert answered(found, right(found))[BEST[format]] == pytest.approx(1)
    assert answered(found, moved(right(found)))[BEST[format]] == 0


def test_an_image_of_d3_is_asked_for_its_group_or_for_everything(
    store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    found = said(store, dataset, tmp_path / "written", "d3", scenario="inter")
    known = {row["id"] for row in found.truth["categories"]}
    assert all(set(one.texts) == known for one in found.asked)
    groups = {row["id"]: set(row["sentence_ids"]) for row in found.truth["images"]}
    assert any(group < known for group in groups.values())


def test_a_format_without_a_protocol_for_texts_has_none(store: Store, dataset: Dataset) -> None:
    assert spoken(store, store.snapshots.freeze("s", dataset.id), "test") is None


def claimed(store: Store, run_id: int) -> None:
    assert store.ledger.claim(run_id, "tester") is not None


def numbers_of(store: Store, run_id: int) -> Iterable[str]:
    return suite.numbers(store.ledger.run(run_id).result)


def test_an_evaluation_gives_the_numbers_of_the_format(store: Store, dataset: Dataset, tmp_path: Path) -> None:
    said(store, dataset, tmp_path / "written", "d3")
    options = {"iterations": 1, "batch_size": 2, "image_size": [64, 48], "eval_interval": 1}
    small = store.snapshots.freeze("to learn", dataset.id)
    training = runs.start_train(store, snapshot_id=small.id, preset="tiny_grounding", options=options)
    shard = store.ledger.claim(training.id, "tester")
    assert shard is not None
    train(store, training, Quiet())
    store.ledger.finish_shard(shard)
    store.ledger.conclude(training.id)
    run = runs.start_evaluate(
        store, train_run_id=training.id, snapshot_id=store.snapshots.get("d3").id, split="", prompting="concatenated"
    )
    claimed(store, run.id)
    evaluate(store, run, Quiet())
    assert {"D3 FULL", "D3 PRES", "OmniLabel AP_descr"} <= set(numbers_of(store, run.id))
    assert store.ledger.run(run.id).result["d3"]["prompting"] == "concatenated"

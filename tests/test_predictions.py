"""Predictions as files have the ids of the exported snapshot, and are judged by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from db.errors import WinnowError
from db.formats import write
from db.records import Dataset, Snapshot
from db.store import Store
from engine import runs
from engine.folder import split_coco
from engine.predictions import coco_results, exported_ids, judge
from tests.test_pages import trained


@pytest.fixture
def snapshot(store: Store, dataset: Dataset) -> Snapshot:
    return store.snapshots.freeze("real", dataset.id)


def exact(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Predictions that are just the truth."""
    keys = ("image_id", "category_id", "bbox")
    return [{key: note[key] for key in keys} | {"score": 0.9} for note in document["annotations"]]


def exported(store: Store, snapshot: Snapshot, folder: Path) -> dict[str, Any]:
    write(store.snapshots.document(snapshot, "test"), folder, "coco")
    (path,) = folder.rglob("*.json")
    return json.loads(path.read_bytes())


def test_the_truth_of_the_export_is_judged_as_perfect(store: Store, snapshot: Snapshot, tmp_path: Path) -> None:
    rows = exact(exported(store, snapshot, tmp_path / "out"))
    assert rows
    (tmp_path / "found.json").write_text(json.dumps(rows))
    assert judge(store, snapshot.id, "test", tmp_path / "found.json").mAP == 1.0


def test_predictions_are_written_with_the_ids_of_the_export(store: Store, snapshot: Snapshot, tmp_path: Path) -> None:
    training = trained(store, snapshot.id)
    run = runs.start_evaluate(store, train_run_id=training.id, snapshot_id=snapshot.id, split="test")
    shard = store.ledger.claim(run.id, "tester")
    assert shard is not None
    found = exact(split_coco(store, snapshot, "test"))
    store.ledger.set_result(run.id, {"predictions": store.blobs.put(msgspec.json.encode(found))})
    store.ledger.finish_shard(shard)
    store.ledger.conclude(run.id)
    rows = coco_results(store, store.ledger.run(run.id))
    wanted = exact(exported(store, snapshot, tmp_path / "out"))
    assert sorted(rows, key=str) == sorted(wanted, key=str)
    with pytest.raises(WinnowError, match="no finished evaluation"):
        coco_results(store, training)


def test_ids_of_the_export_are_those_of_the_source(store: Store, snapshot: Snapshot) -> None:
    images, categories = exported_ids(store, snapshot.id)
    document = store.snapshots.document(snapshot)
    known = {image.id: image.source_id for image in document.images() if image.source_id is not None}
    assert known and all(images[number] == given for number, given in known.items()) and categories


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"annotations": []}'])
def test_a_file_that_holds_no_results_is_refused(store: Store, snapshot: Snapshot, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(WinnowError, match="not a file of COCO results"):
        judge(store, snapshot.id, "test", tmp_path / "x.json")

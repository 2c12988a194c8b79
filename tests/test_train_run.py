"""Train runs on a real snapshot: masks arrive, and the result says which weights they left."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from db.errors import WinnowError
from db.store import Store
from engine import roles, runs
from engine.training.run import model_folder, train
from studio import actions
from studio.context import Studio
from tests.conftest import Quiet

OPTIONS = {"iterations": 2, "batch_size": 2, "image_size": [96, 96], "eval_interval": 2}


@pytest.fixture
def snapshot(store: Store) -> int:
    studio = Studio(store=store, home=store.home)
    made = actions.paint_tabletop(studio, "scenes", {"train": 4, "val": 2, "test": 0}, difficulty="easy", seed=1)
    return store.snapshots.freeze("real", made.id).id


def test_a_run_leaves_a_model_with_its_digest_and_curves_for_tensorboard(store: Store, snapshot: int) -> None:
    run = runs.start_train(store, snapshot_id=snapshot, preset="tiny_mask_rcnn", options=OPTIONS)
    shard = store.ledger.claim(run.id, "tester")
    assert shard is not None
    train(store, run, Quiet())
    result = store.ledger.run(run.id).result
    file = model_folder(store, run.id) / "model.safetensors"
    assert result["weights"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert result["weights"]["bytes"] == file.stat().st_size
    names = {point.name for point in store.ledger.metrics(run.id)}
    assert {"loss", "loss_mask", "lr", "images_per_s", "mAP"} <= names
    assert len(list((store.home / "tensorboard" / f"run-{run.id}").iterdir())) == 1
    assert not (store.home / "work" / f"run-{run.id}").exists()


def test_the_detector_of_a_data_set_is_the_newest_of_fixed_classes(
    store: Store, snapshot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for preset in ("tiny_atss", "tiny_atss", "tiny_grounding"):
        run = runs.start_train(store, snapshot_id=snapshot, preset=preset, options=OPTIONS)
        shard = store.ledger.claim(run.id, "tester")
        assert shard is not None
        store.ledger.finish_shard(shard)
        store.ledger.conclude(run.id)
        model_folder(store, run.id).mkdir(parents=True)
        made.append(model_folder(store, run.id))
    monkeypatch.setattr(roles, "_load_detector", lambda folder, device: folder)
    dataset = store.snapshots.get(snapshot).dataset_id
    assert roles.Context(store, dataset).detector() == made[1]


def test_a_configuration_of_ones_own_is_looked_for_in_the_data_folder(store: Store, snapshot: int) -> None:
    run = runs.start_train(
        store, snapshot_id=snapshot, preset="own_config", options={**OPTIONS, "config": "missing.py"}
    )
    with pytest.raises(WinnowError) as told:
        train(store, run, Quiet())
    assert str(Path(store.home) / "configs") in str(told.value)

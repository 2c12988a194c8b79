"""Train and evaluate runs: between the ledger of the store and the training itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from db.errors import WinnowError
from db.records import Run
from db.store import Store
from engine import comparison
from engine.backends.mmdet_detector import MMDetDetector
from engine.backends.mmdet_reader import MMDetReader
from engine.control import Control, Stopped
from engine.evaluation import suite
from engine.evaluation import truth as truths
from engine.evaluation.spoken import spoken
from engine.grounding_folder import split_omnilabel
from engine.pixels import decode
from engine.presets import PRESETS
from engine.training.averaging import digest_of
from engine.training.events import EventFile
from engine.training.grounding import asked_about, spoken_about
from engine.training.launch import TrainJob
from engine.training.launch import train as train_detector
from engine.training_data import training_data

BATCH = 8


class LedgerReporter:
    """What a training tells the world: curves and log lines into the store, curves for TensorBoard as well, the stop
    wish back."""

    def __init__(self, store: Store, run: Run, control: Control) -> None:
        self._store, self._run, self._control = store, run, control
        self._events = EventFile(store.home / "tensorboard" / f"run-{run.id}")

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self._store.ledger.add_metrics(self._run.id, step, values)
        self._events.add(step, values)

    def progress(self, done: int, total: int) -> None:
        self._control.progress(done, total)

    def stop_requested(self) -> bool:
        return self._control.stop_requested()

    def log(self, text: str) -> None:
        self._control.log(text)


def model_folder(store: Store, run_id: int) -> Path:
    """Where the detector of a finished train run lies."""
    return store.home / "models" / f"run-{run_id}"


def train(store: Store, run: Run, control: Control) -> None:
    """Train on the run's snapshot, from the last checkpoint if there is one. Raises Stopped when asked to stop; the
    next attempt then goes on where this one ended."""
    work = store.home / "work" / f"run-{run.id}"
    preset = run.options["preset"]
    snapshot = store.snapshots.get(run.options["snapshot_id"])
    counts = training_data(store, snapshot, work / "data", preset)
    control.log("training data: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    job = TrainJob(
        data=work / "data",
        work=work,
        preset=preset,
        options=run.options["train"],
        seed=run.seed,
        configs=store.home / "configs",
    )
    result = train_detector(job, LedgerReporter(store, run, control))
    if result.pop("stopped", False):
        raise Stopped
    weights = _keep_model(Path(result.pop("model")), model_folder(store, run.id))
    store.ledger.set_result(run.id, {**result, "images": counts, "weights": weights})
    shutil.rmtree(work, ignore_errors=True)


def _keep_model(made: Path, target: Path) -> dict[str, Any]:
    """Moves a model to its place; returns the sha256 of its weights and their size, which a file can be checked
    against."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(made, target)
    file = target / "model.safetensors"
    return {"sha256": digest_of(file), "bytes": file.stat().st_size}


def evaluate(store: Store, run: Run, control: Control) -> None:
    """Predict over the real images of the split; the official metrics and the predictions become the run's result: those
    of COCO, of LVIS where the data set has what they need, and for a detector that reads those of OmniLabel and of the
    protocol that the data set's format has for texts (D3, RefCOCO, Flickr30k Entities)."""
    trained = store.ledger.run(run.options["train_run_id"])
    folder = model_folder(store, trained.id)
    if not folder.is_dir():
        raise WinnowError(f"The model of run {trained.id} is missing from {folder}. Train it again.")
    snapshot, split = store.snapshots.get(run.options["snapshot_id"]), run.options["split"]
    truth = truths.detection(store, snapshot, split)
    reads = PRESETS[trained.options["preset"]].kind == "grounding"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector = MMDetReader(folder, _names(truth), device) if reads else MMDetDetector(folder, device)
    predictions = _predict(detector, truth, control)
    classes = bool(truth["categories"])  # a data set of texts alone has none
    result = suite.evaluate(suite.fitting(truth), truth, predictions) if classes else {}
    if reads:
        told = spoken(store, snapshot, split, run.options.get("scenario", "intra"))
        if told is not None:
            prompting = run.options.get("prompting", "parallel")
            result[told.kind] = spoken_about(folder, told, _watched(control), device, prompting)
        result["omnilabel"] = asked_about(folder, split_omnilabel(store, snapshot, split), _watched(control), device)
    stored = store.blobs.put(msgspec.json.encode(predictions))
    store.ledger.set_result(run.id, {**result, "predictions": stored, "images": len(truth["images"])})
    comparison.judged(store, store.ledger.run(run.id))  # here, so that no page waits for it


def _names(truth: dict[str, Any]) -> list[str]:
    return [category["name"] for category in truth["categories"]]


def _watched(control: Control) -> Callable[[int, int], None]:
    """Tells the progress, and stops when asked to."""

    def told(done: int, total: int) -> None:
        if control.stop_requested():
            raise Stopped
        control.progress(done, total)

    return told


def _predict(detector: MMDetDetector | MMDetReader, truth: dict[str, Any], control: Control) -> list[dict[str, Any]]:
    """COCO results for every image of `truth`. Classes are matched by name."""
    ids = {category["name"]: category["id"] for category in truth["categories"]}
    unknown = [name for name in detector.names if name not in ids]
    if unknown:
        raise WinnowError(f"The detector knows classes that the data set does not have: {', '.join(unknown[:10])}.")
    images, results = truth["images"], []
    for start in range(0, len(images), BATCH):
        if control.stop_requested():
            raise Stopped
        part = images[start : start + BATCH]
        for image, found in zip(
            part, detector.detect([decode(Path(i["file_name"]).read_bytes()) for i in part]), strict=True
        ):
            results += [
                {
                    "image_id": image["id"],
                    "category_id": ids[found.names[label]],
                    "bbox": _xywh(box),
                    "score": float(score),
                }
                for box, score, label in zip(found.xyxy, found.scores, found.labels, strict=True)
            ]
        control.progress(start + len(part), len(images))
    return results


def _xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]

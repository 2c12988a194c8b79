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
from db.records import Run, Snapshot
from db.store import Store
from engine import alignments, comparison, heatmaps
from engine.alignments import Aligned, Ask
from engine.attention_folder import asked_phrases, split_phrases
from engine.backends.mmdet_detector import MMDetDetector
from engine.backends.mmdet_reader import MMDetReader
from engine.control import Control, Stopped
from engine.evaluation import suite
from engine.evaluation import truth as truths
from engine.evaluation.spoken import spoken
from engine.grounding_folder import split_omnilabel
from engine.pixels import decode
from engine.presets import PRESETS
from engine.training.align import Aligner
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
    if PRESETS[trained.options["preset"]].kind == "attention":
        store.ledger.set_result(run.id, _pointing_game(store, run, snapshot, folder, control))
        return
    if run.options.get("align"):
        store.ledger.set_result(run.id, _alignment(store, run, snapshot, folder, control))
        return
    truth = truths.detection(store, snapshot, split)
    if run.options.get("vocabulary"):
        store.ledger.set_result(run.id, _of_vocabulary(store, run, truth, folder, control))
        return
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


def _alignment(store: Store, run: Run, snapshot: Snapshot, folder: Path, control: Control) -> dict[str, Any]:
    """Where the phrases of captions are (option `align`), kept under `alignments`."""
    _, samples = store.snapshots.samples(snapshot)
    images = {sample.image.id: sample.image for sample in samples if sample.image.digest}
    asks = msgspec.convert(run.options["align"], list[Ask])
    aligner = Aligner(folder, "cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for done, one in enumerate(asks, 1):
        image = images.get(one.image_id)
        if image is None or image.digest is None:
            raise WinnowError(f"Snapshot {snapshot.name!r} has no image {one.image_id} with its file.")
        words = aligner.align(decode(store.blobs.get(image.digest)), one.caption)
        found.append(Aligned(image.id, image.digest, image.width, image.height, one.caption, words))
        _watched(control)(done, len(asks))
    mean = sum(one.similarity for one in found) / len(found)
    return {"alignments": alignments.keep(store, found), "similarity": mean}


def _of_vocabulary(store: Store, run: Run, truth: dict[str, Any], folder: Path, control: Control) -> dict[str, Any]:
    """What is found of the texts of a vocabulary (option `vocabulary`), in the split's images; nobody knows what is right."""
    asked: dict[str, str] = run.options["vocabulary"]
    detector = MMDetReader(folder, list(asked), "cuda" if torch.cuda.is_available() else "cpu", list(asked.values()))
    categories = [{"id": number, "name": name} for number, name in enumerate(asked, 1)]
    found = _predict(detector, {**truth, "categories": categories}, control)
    stored = store.blobs.put(msgspec.json.encode(found))
    return {"found": stored, "vocabulary": list(asked), "images": len(truth["images"])}


def _pointing_game(store: Store, run: Run, snapshot: Snapshot, folder: Path, control: Control) -> dict[str, Any]:
    """The numbers of the pointing game, none where only some phrases were asked (option `asks`), and under `heatmaps` where
    the maps are kept."""
    from engine.training.attending import ask, pointed  # transformers' BLIP, which detectors do without

    asks, split = run.options.get("asks"), run.options["split"]
    phrases = asked_phrases(store, snapshot, asks) if asks else split_phrases(store, snapshot, split)
    maps = ask(folder, phrases, _watched(control), "cuda" if torch.cuda.is_available() else "cpu")
    found = [pointed(phrase, heat) for phrase, heat in zip(phrases, maps, strict=True)]
    kept = {"heatmaps": heatmaps.keep(store, phrases, found, maps)}
    if asks:
        return kept
    return {**suite.evaluate("pointing", {"phrases": phrases}, found), **kept, "images": _images(phrases)}


def _images(phrases: list[dict[str, Any]]) -> int:
    return len({phrase["image_id"] for phrase in phrases})


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

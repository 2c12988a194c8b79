"""A tiny real training: what it reports, how it stops and goes on, and that its model survives the way to disk and
back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from db.errors import NotFound, WinnowError
from engine.backends.mmdet_detector import MMDetDetector
from engine.detections import Detections
from engine.training.data import SceneDataset, augment, read_split
from engine.training.hooks import LAST
from engine.training.launch import TrainJob, train
from engine.training.task import job_to_json

COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220)}
OPTIONS = {"iterations": 6, "batch_size": 2, "image_size": (64, 48), "eval_interval": 6, "lr": 1e-3}
LONGER = {**OPTIONS, "iterations": 60, "batch_size": 4, "eval_interval": 30, "lr": 3e-3}


class Recorder:
    """A reporter that remembers, and asks to stop after a given number of steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.done: list[tuple[int, int]] = []
        self.lines: list[str] = []
        self.asked, self._stop_after = 0, stop_after

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.points.append((step, values))

    def progress(self, done: int, total: int) -> None:
        self.done.append((done, total))

    def stop_requested(self) -> bool:
        self.asked += 1
        return self.asked == self._stop_after

    def log(self, text: str) -> None:
        self.lines.append(text)


def write_folder(folder: Path, *, images: int = 8, size: tuple[int, int] = (64, 48)) -> Path:
    """Rectangles of two colours on grey, as a training folder; the last quarter validates."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    documents = {name: empty_document() for name in ("train", "val")}
    for i in range(images):
        document = documents["train" if i < images * 3 // 4 else "val"]
        picture = np.full((size[1], size[0], 3), 128, np.uint8)
        for category, colour in enumerate(COLOURS.values(), 5):
            w, h = (int(n) for n in rng.integers(10, 24, 2))
            x, y = int(rng.integers(0, size[0] - w)), int(rng.integers(0, size[1] - h))
            picture[y : y + h, x : x + w] = colour
            note = {
                "id": len(document["annotations"]) + 1,
                "image_id": i,
                "category_id": category,
                "bbox": [x, y, w, h],
            }
            document["annotations"].append(note | {"area": w * h, "iscrowd": 0})
        Image.fromarray(picture).save(folder / f"{i}.png")
        image = {"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1], "synthetic": i % 2 == 1}
        document["images"].append(image)
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def empty_document() -> dict[str, Any]:
    return {"images": [], "annotations": [], "categories": [{"id": k, "name": n} for k, n in enumerate(COLOURS, 5)]}


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("rectangles"))


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Recorder]:
    recorder = Recorder()
    job = TrainJob(folder, tmp_path_factory.mktemp("work"), "tiny_atss", LONGER, seed=3)
    return train(job, recorder), recorder


def test_a_training_reports_its_curves_and_its_result(trained: tuple[dict[str, Any], Recorder]) -> None:
    result, recorder = trained
    losses = [values for step, values in recorder.points if step == 60 and "loss" in values]
    assert {"loss", "loss_cls", "loss_bbox", "lr", "images_per_s", "eta_s"} <= losses[0].keys()
    assert any("mAP" in values for _, values in recorder.points)
    assert recorder.done[-1] == (60, 60)
    assert result["per_class"].keys() == COLOURS.keys()
    assert 0 <= result["mAP"] <= result["AP50"] <= 1
    assert result["iterations"] == 60 and result["best_iteration"] in (30, 60)
    assert 1e6 < result["parameters"] < 5e6


def test_the_detector_in_its_folder_detects_what_the_training_measured(
    folder: Path, trained: tuple[dict[str, Any], Recorder]
) -> None:
    from engine.evaluation.coco import evaluate

    detector = MMDetDetector(Path(trained[0]["model"]))
    truth = json.loads((folder / "val.json").read_text())
    pictures = [np.asarray(Image.open(folder / image["file_name"])) for image in truth["images"]]
    predictions = [
        {"image_id": image["id"], "category_id": 5 + int(k), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(score)}
        for image, found in zip(truth["images"], detector.detect(pictures), strict=True)
        for (x1, y1, x2, y2), score, k in zip(found.xyxy.tolist(), found.scores, found.labels, strict=True)
    ]
    assert detector.names == tuple(COLOURS)
    assert predictions
    again = evaluate(truth, predictions).as_dict()
    assert {k: again[k] for k in ("mAP", "AR100")} == pytest.approx(
        {k: trained[0][k] for k in ("mAP", "AR100")}, abs=1e-6
    )


def test_detections_are_in_the_pixels_of_each_image(trained: tuple[dict[str, Any], Recorder]) -> None:
    detector = MMDetDetector(Path(trained[0]["model"]))
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    small, large = detector.detect([picture, picture.repeat(2, 0).repeat(2, 1)])
    assert detector.detect([]) == []
    assert (large.xyxy[:, 2] <= 128).all() and large.xyxy[:, 2].max() > 64
    torch.testing.assert_close(small.xyxy[:5] * 2, large.xyxy[:5], rtol=0, atol=2)
    assert (np.diff(small.scores) <= 0).all()


def test_stopped_and_resumed_equals_uninterrupted(folder: Path, tmp_path: Path) -> None:
    reference, uninterrupted = Recorder(), TrainJob(folder, tmp_path / "whole", "tiny_atss", OPTIONS, seed=3)
    whole = weights_of(train(uninterrupted, reference))
    work = tmp_path / "parts"
    job = TrainJob(folder, work, "tiny_atss", OPTIONS, seed=3)
    assert train(job, Recorder(stop_after=4)) == {"stopped": True, "iterations": 4}
    assert [path.name for path in work.iterdir() if path.is_file()] == [LAST] and not (work / "model").exists()
    second = Recorder()
    resumed = weights_of(train(job, second))
    assert second.asked == 1, "it should go on where it stopped, and ask after each step but the last"
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(
            resumed[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def weights_of(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(result["model"]) / "model.safetensors")


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.training import launch
from engine.training.task import job_from_json
from tests.test_training import Recorder

class Doomed(Recorder):
    def stop_requested(self):
        if self.asked == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().stop_requested()

launch.SAVE_EVERY = 2
launch.train(job_from_json(sys.stdin.buffer.read()), Doomed())
"""


@pytest.mark.slow
def test_a_killed_worker_loses_what_came_after_its_last_state_only(folder: Path, tmp_path: Path) -> None:
    whole = weights_of(train(TrainJob(folder, tmp_path / "whole", "tiny_atss", OPTIONS, seed=3), Recorder()))
    job = TrainJob(folder, tmp_path / "killed", "tiny_atss", OPTIONS, seed=3)
    done = subprocess.run([sys.executable, "-c", KILLED], input=job_to_json(job), check=False)
    assert done.returncode == -signal.SIGKILL
    second = Recorder()
    resumed = weights_of(train(job, second))
    assert second.asked == 1, "the state of step 4 is the last; after the fifth step it asks, after the sixth it ends"
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-4, atol=1e-5)


def test_without_resume_it_starts_over(folder: Path, tmp_path: Path) -> None:
    job = TrainJob(folder, tmp_path, "tiny_atss", OPTIONS, resume=False)
    assert train(job, Recorder(stop_after=2)) == {"stopped": True, "iterations": 2}
    assert train(job, Recorder(stop_after=1)) == {"stopped": True, "iterations": 1}


def test_a_training_without_validation_images_keeps_its_last_model(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "data")
    change(tmp_path / "data/val.json", lambda d: d.update(images=[], annotations=[]))
    job = TrainJob(tmp_path / "data", tmp_path / "work", "tiny_atss", {**OPTIONS, "iterations": 1})
    result = train(job, Recorder())
    assert "mAP" not in result
    assert MMDetDetector(Path(result["model"])).names == tuple(COLOURS)


def test_a_loss_that_is_not_finite_ends_with_a_clear_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmdet.models import ATSS

    monkeypatch.setattr(ATSS, "loss", lambda self, *_: {"loss_cls": next(self.parameters()).sum() * float("nan")})
    with pytest.raises(WinnowError, match=r"diverged at step 1: .*loss_cls is nan.*Lower the learning rate"):
        train(TrainJob(folder, tmp_path, "tiny_atss", OPTIONS), Recorder())


BAD_DATA = {
    "no file": (lambda f: (f / "val.json").unlink(), "val.json is missing"),
    "truncated": (lambda f: (f / "train.json").write_text('{"images": ['), "train.json is not a COCO file"),
    "image missing": (lambda f: (f / "1.png").unlink(), "1 image files are missing.*1.png"),
    "image broken": (lambda f: (f / "1.png").write_bytes(b"no picture"), "1.png cannot be read"),
    "wrong size": (lambda f: change(f / "train.json", lambda d: d["images"][0].update(width=65)), "64x48.*65x48"),
    "other classes": (
        lambda f: change(f / "val.json", lambda d: d["categories"][0].update(name="green")),
        "different categories",
    ),
    "unknown class": (
        lambda f: change(f / "train.json", lambda d: d["annotations"][0].update(category_id=9)),
        "annotation 1 .*category 9",
    ),
    "flat box": (
        lambda f: change(f / "train.json", lambda d: d["annotations"][0].update(bbox=[1, 1, 0, 5])),
        "image 0",
    ),
    "no boxes": (lambda f: change(f / "train.json", lambda d: d["annotations"].clear()), "no box to learn from"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_unusable_data_is_refused(tmp_path: Path, case: str) -> None:
    spoil, message = BAD_DATA[case]
    spoil(write_folder(tmp_path / "data"))
    with pytest.raises(WinnowError, match=message):
        train(TrainJob(tmp_path / "data", tmp_path / "work", "tiny_atss", OPTIONS), Recorder())


def test_an_unknown_preset_lists_the_known(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="tiny_atss"):
        train(TrainJob(folder, tmp_path, "huge", OPTIONS), Recorder())


@pytest.mark.parametrize("spoiled", ["detector.json", "model.safetensors"])
def test_a_damaged_detector_folder_is_refused(
    trained: tuple[dict[str, Any], Recorder], tmp_path: Path, spoiled: str
) -> None:
    source = Path(trained[0]["model"])
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 50 if file.name == spoiled else None])
    with pytest.raises(WinnowError, match="is not a trained detector"):
        MMDetDetector(tmp_path)


# Data


def test_a_sample_keeps_flags_and_separates_crowds(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    change(folder / "train.json", lambda d: d["annotations"][1].update(iscrowd=1))
    split = read_split(folder, "train")
    sample = SceneDataset(split, (32, 24))[0]["data_samples"]
    assert split.names == ("red", "blue")
    assert sample.synthetic is False and SceneDataset(split, (32, 24))[1]["data_samples"].synthetic is True
    assert sample.gt_instances.labels.tolist() == [0]
    np.testing.assert_allclose(sample.gt_instances.bboxes[0], split.scenes[0].boxes[0] / 2)
    np.testing.assert_allclose(sample.ignored_instances.bboxes[0], split.scenes[0].boxes[1] / 2)
    assert sample.img_shape == (24, 32) and sample.scale_factor == (0.5, 0.5)


def test_a_draw_is_the_same_whenever_it_is_made(folder: Path) -> None:
    split = read_split(folder, "train")
    first, again = (SceneDataset(split, (64, 48), augment=True, seed=1)[(17, 2)] for _ in range(2))
    other = SceneDataset(split, (64, 48), augment=True, seed=1)[(18, 2)]
    assert torch.equal(first["inputs"], again["inputs"])
    assert not torch.equal(first["inputs"], other["inputs"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_augmented_boxes_stay_on_their_objects(seed: int) -> None:
    image = np.full((48, 64, 3), 128, np.uint8)
    image[10:30, 20:44] = (255, 0, 0)
    box = np.array([[20, 10, 44, 30]], np.float32)
    changed, boxes, seen = augment(image, box, np.random.default_rng(seed))
    red = (changed[..., 0].astype(int) - changed[..., 2]) > 100
    assert changed.shape == image.shape and seen.all()
    x1, y1, x2, y2 = boxes[0]
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    assert np.abs([columns[0] - x1, rows[0] - y1, columns[-1] + 1 - x2, rows[-1] + 1 - y2]).max() <= 1


# The value


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"xyxy": np.zeros((2, 4), np.float32)}, "shapes"),
        ({"xyxy": np.array([[5, 0, 1, 1]], np.float32)}, "x1 <= x2"),
        ({"xyxy": np.array([[0, 0, np.nan, 1]], np.float32)}, "finite"),
        ({"scores": np.array([1.5], np.float32)}, "scores in 0..1"),
        ({"scores": np.array([np.nan], np.float32)}, "scores in 0..1"),
        ({"labels": np.array([2])}, "labels in 0..1"),
        ({"scores": np.array([0.5])}, "float32"),
    ],
)
def test_malformed_detections_cannot_exist(wrong: dict[str, np.ndarray], message: str) -> None:
    good = {
        "xyxy": np.array([[0, 0, 1, 1]], np.float32),
        "scores": np.array([0.5], np.float32),
        "labels": np.array([1]),
    }
    assert len(Detections(**good, names=("a", "b"))[np.array([True])]) == 1
    with pytest.raises(ValueError, match=message):
        Detections(**(good | wrong), names=("a", "b"))

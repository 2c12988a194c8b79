"""What a training does besides training: tell its curves, keep its state, stop when asked."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner

from db.errors import WinnowError
from engine.evaluation.coco import evaluate
from engine.training.checkpoint import DetectorCard, save_model, write_whole

LAST = "last.pth"
EVERY = 10  # steps between two points of a curve


class Reporter(Protocol):
    """Where a training tells what it does, and asks whether to go on."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Points of curves at a step: losses, lr, images_per_s, eta_s; after a validation AP values."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Steps done of all."""
        ...

    def stop_requested(self) -> bool:
        """Asked after every step."""
        ...

    def log(self, text: str) -> None:
        """A line for people."""
        ...


class StopTraining(Exception):
    """Leaves mmengine's loop after the state was saved."""


class ReportHook(Hook):
    """Mean losses, learning rate, speed and time left every few steps; AP after every validation. Refuses a loss that
    is not finite."""

    priority = "NORMAL"

    def __init__(self, reporter: Reporter, batch_size: int) -> None:
        self._reporter, self._batch = reporter, batch_size
        self._losses: dict[str, list[float]] = defaultdict(list)
        self._spent = self._begun = 0.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._begun = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        step = runner.iter + 1
        self._spent += time.monotonic() - self._begun
        losses = {name: float(value.detach()) for name, value in outputs.items()}
        _refuse_divergence(losses, step)
        for name, value in losses.items():
            self._losses[name].append(value)
        if step % EVERY == 0 or step == runner.max_iters:
            self._tell(runner, step)

    def _tell(self, runner: Runner, step: int) -> None:
        steps = len(self._losses["loss"])
        values = {name: sum(seen) / len(seen) for name, seen in self._losses.items()}
        values["lr"] = float(runner.optim_wrapper.get_lr()["lr"][0])
        values["images_per_s"] = steps * self._batch / self._spent
        values["eta_s"] = (runner.max_iters - step) * self._spent / steps
        self._losses.clear()
        self._spent = 0.0
        self._reporter.metrics(step, values)
        self._reporter.progress(step, runner.max_iters)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        shown = {name: value for name, value in (metrics or {}).items() if isinstance(value, float) and value >= 0}
        self._reporter.metrics(runner.iter, shown)
        self._reporter.log(f"step {runner.iter}: mAP {shown.get('mAP', 0.0):.3f} on the validation images")


def _refuse_divergence(losses: dict[str, float], step: int) -> None:
    odd = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    if odd:
        raise WinnowError(
            f"The training diverged at step {step}: {', '.join(odd)}. Lower the learning rate (lr), or look for "
            "odd boxes in the data."
        )


class BestHook(Hook):
    """Keeps the model that validated best, and its metrics."""

    priority = "HIGH"  # before the hook of the average puts the raw weights back

    def __init__(self, folder: Path, card: DetectorCard) -> None:
        self._folder, self._card = folder, card
        self.metrics: dict[str, Any] = {}

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        if metrics and metrics["mAP"] >= self.metrics.get("mAP", -1.0):
            self.metrics = {**metrics, "best_iteration": runner.iter}
            save_model(self._folder, runner.model, self._card)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = self.metrics

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self.metrics = checkpoint["best"]


class StateHook(Hook):
    """Saves the whole state of the training at intervals, and when asked to stop, which it then does.

    The file holds tensors and plain values only, and is replaced in one step, so that there is always a whole one.
    """

    priority = "LOWEST"  # after optimizer, average and schedule have made their step

    def __init__(self, folder: Path, interval: int, reporter: Reporter) -> None:
        self._folder, self._interval, self._reporter = folder, interval, reporter

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        step = runner.iter + 1
        stop = step < runner.max_iters and self._reporter.stop_requested()
        if stop or step % self._interval == 0:
            write_whole(
                self._folder / LAST, lambda path: runner.save_checkpoint(str(path.parent), path.name, by_epoch=False)
            )
        if stop:
            raise StopTraining

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
        checkpoint["rng"] = torch.get_rng_state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["meta"].pop("config", None)  # mmengine would execute this one as Python
        torch.set_rng_state(checkpoint["rng"].cpu())


class CocoMetric(BaseMetric):
    """COCO metrics over the validation images."""

    default_prefix = ""  # the names are unmistakable, and mmengine warns about None

    def __init__(self, truth: dict[str, Any]) -> None:
        super().__init__(collect_device="cpu")
        self._truth = truth
        self._ids = [category["id"] for category in truth["categories"]]

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """One list of COCO results for each image."""
        for sample in data_samples:
            found = sample["pred_instances"]
            boxes = torch.cat([found["bboxes"][:, :2], found["bboxes"][:, 2:] - found["bboxes"][:, :2]], 1)
            rows = zip(boxes.tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
            self.results.append(
                [
                    {"image_id": sample["img_id"], "category_id": self._ids[label], "bbox": box, "score": score}
                    for box, score, label in rows
                ]
            )

    def compute_metrics(self, results: list[list[dict[str, Any]]]) -> dict[str, Any]:
        """The numbers of `engine.evaluation.coco`."""
        return evaluate(self._truth, [prediction for image in results for prediction in image]).as_dict()

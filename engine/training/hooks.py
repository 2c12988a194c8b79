"""What a training does besides training: tell its curves, save itself, stop when asked."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import Runner

from db.errors import WinnowError
from engine.evaluation.coco import evaluate

LAST = "last.pth"
EVERY = 20  # steps between two points of a curve


class Reporter(Protocol):
    """Where a training tells what it does, and asks whether to go on."""

    def metrics(self, step: int, values: dict[str, float]) -> None: ...
    def progress(self, done: int, total: int) -> None: ...
    def stop_requested(self) -> bool: ...
    def log(self, text: str) -> None: ...


class ReportHook(Hook):
    """Loss parts, learning rate and speed every few steps, validation AP after every evaluation. A loss that is not finite
    ends the training."""

    priority = "LOW"

    def __init__(self, reporter: Reporter, batch_size: int) -> None:
        self._reporter, self._batch = reporter, batch_size
        self._since, self._steps = time.monotonic(), 0
        self.best: dict[str, Any] = {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._steps += 1
        step, total = runner.iter + 1, runner.max_iters
        if step % EVERY and step != total:
            return
        losses = {name: float(value) for name, value in outputs.items()}
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise WinnowError(f"The training diverged at step {step}: {', '.join(bad)} is not finite. Lower the learning rate (lr).")
        speed = self._steps * self._batch / (time.monotonic() - self._since)
        self._since, self._steps = time.monotonic(), 0
        rate = float(runner.optim_wrapper.get_lr()["lr"][0])
        self._reporter.metrics(step, {**losses, "lr": rate, "images_per_s": speed})
        self._reporter.progress(step, total)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        shown = {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, int | float) and value >= 0}
        self._reporter.metrics(runner.iter, shown)
        self._reporter.log(f"step {runner.iter}: mAP {shown.get('mAP', 0.0):.3f} on the validation images")
        self._since, self._steps = time.monotonic(), 0


class SaveHook(Hook):
    """Saves the whole state every so many steps, under a temporary name first, and when asked to stop: then it ends the run.

    The state holds tensors and plain values only, so that it loads with `weights_only`.
    """

    priority = "VERY_LOW"

    def __init__(self, folder: Path, interval: int, reporter: Reporter) -> None:
        self._folder, self._interval, self._reporter = folder, interval, reporter
        self.stopped = False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["message_hub"] = {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        step = runner.iter + 1
        self.stopped = step < runner.max_iters and self._reporter.stop_requested()
        if self.stopped or step % self._interval == 0:
            self._save(runner)
        if self.stopped:
            raise StopTraining

    def _save(self, runner: Runner) -> None:
        runner.train_loop._iter += 1  # mmengine counts the step after its hooks
        runner.save_checkpoint(str(self._folder), "new.pth", save_param_scheduler=True, by_epoch=False)
        runner.train_loop._iter -= 1
        (self._folder / "new.pth").replace(self._folder / LAST)


class StopTraining(Exception):
    """Unwinds mmengine's loop after the state was saved."""


@METRICS.register_module()
class CocoMetrics(BaseMetric):
    """COCO AP over the validation images, with the evaluator that the rest of Winnow uses."""

    def __init__(self, truth: dict[str, Any]) -> None:
        super().__init__(collect_device="cpu")
        self._truth = truth
        self._ids = [category["id"] for category in truth["categories"]]

    def process(self, data_batch: Any, data_samples: Any) -> None:
        for sample in data_samples:
            found = sample["pred_instances"]
            corners, scores, labels = (found[name].cpu() for name in ("bboxes", "scores", "labels"))
            sizes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
            for box, score, label in zip(sizes, scores.tolist(), labels.tolist(), strict=True):
                self.results.append({"image_id": sample["img_id"], "category_id": self._ids[label], "bbox": box, "score": score})
            self.results.append({})  # mmengine warns about an empty list

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        return evaluate(self._truth, [result for result in results if result]).as_dict()

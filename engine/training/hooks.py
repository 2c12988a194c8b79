"""What a training does besides training: tell its curves, keep its state, stop when asked."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import torch
from mmengine.dist import all_gather_object, broadcast, get_dist_info, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from db.errors import WinnowError
from engine.evaluation.coco import evaluate
from engine.training.checkpoint import save_model, write_whole

LAST = "last.pth"
EVERY = 10  # steps between two points of a curve


class Reporter(Protocol):
    """Where a training tells what it does, and asks whether to go on."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Points of curves at a step: losses, lr, images_per_s, eta_s, gpu_memory_gb; after a validation AP values."""
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

    def __init__(self, reporter: Reporter, batch_size: int, quality: str = "mAP") -> None:
        self._reporter, self._quality = reporter, quality
        self._batch = batch_size * get_dist_info()[1]
        self._losses: dict[str, list[float]] = defaultdict(list)
        self._spent = self._begun = 0.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._begun = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        step = runner.iter + 1
        self._spent += time.monotonic() - self._begun
        losses = _numbers(outputs)
        _refuse_divergence(losses, step)
        for name, value in losses.items():
            self._losses[name].append(value)
        if step % EVERY == 0 or step == runner.max_iters:
            self._tell(runner, step)

    def _tell(self, runner: Runner, step: int) -> None:
        steps = len(self._losses["loss"])
        values = {name: sum(seen) / len(seen) for name, seen in self._losses.items()}
        values["lr"] = max(runner.optim_wrapper.get_lr()["lr"])
        values["images_per_s"] = steps * self._batch / self._spent
        values["eta_s"] = (runner.max_iters - step) * self._spent / steps
        if torch.cuda.is_available():
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        self._losses.clear()
        self._spent = 0.0
        self._reporter.metrics(step, values)
        self._reporter.progress(step, runner.max_iters)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        shown = {name: value for name, value in (metrics or {}).items() if isinstance(value, float) and value >= 0}
        self._reporter.metrics(runner.iter, shown)
        best = shown.get(self._quality, 0.0)
        self._reporter.log(f"step {runner.iter}: {self._quality} {best:.3f} on the validation images")


def _numbers(losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """All at once: every look at a tensor makes the GPU wait."""
    return dict(zip(losses, torch.stack([value.detach().float() for value in losses.values()]).tolist(), strict=True))


def _refuse_divergence(losses: dict[str, float], step: int) -> None:
    odd = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    if odd:
        raise WinnowError(
            f"The training diverged at step {step}: {', '.join(odd)}. Lower the learning rate (lr), or look for "
            "odd boxes in the data."
        )


class BestHook(Hook):
    """Keeps the model that validated best, and its metrics; ends the training after `patience` validations without a
    better one."""

    priority = "HIGH"  # before the hook of the average puts the raw weights back

    def __init__(
        self, folder: Path, card: msgspec.Struct, quality: str = "mAP", patience: int | None = None, interval: int = 1
    ) -> None:
        self._folder, self._card, self._quality = folder, card, quality
        self._patience, self._interval = patience, interval
        self.metrics: dict[str, Any] = {}

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        if metrics and metrics[self._quality] >= self.metrics.get(self._quality, -1.0):
            self.metrics = {**metrics, "best_iteration": runner.iter}
            if is_main_process():
                save_model(self._folder, bare(runner.model), self._card)
        elif self._patience and (runner.iter - self.metrics["best_iteration"]) // self._interval >= self._patience:
            runner.train_loop.stop_training = True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = self.metrics

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self.metrics = checkpoint["best"]


def bare(model: torch.nn.Module) -> torch.nn.Module:
    """The model without the wrapper of a distributed training."""
    return cast(torch.nn.Module, model.module) if is_model_wrapper(model) else model


class StateHook(Hook):
    """Saves the whole state of the training at intervals, and when asked to stop, which it then does.

    The file holds tensors and plain values only, and is replaced in one step, so that there is always a whole one.
    """

    priority = "LOWEST"  # after optimizer, average and schedule have made their step

    def __init__(self, folder: Path, interval: int, reporter: Reporter, accumulate: int = 1) -> None:
        self._folder, self._reporter = folder, reporter
        self._whole = accumulate  # between these, there are gradients that a state does not hold
        self._interval = math.ceil(interval / accumulate) * accumulate
        self._random: list[dict[str, torch.Tensor]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        step = runner.iter + 1
        if step % self._whole:
            return
        stop = step < runner.max_iters and _everywhere(self._reporter.stop_requested())
        if stop or step % self._interval == 0:
            self._random = all_gather_object(_random_state())
            if is_main_process():
                self._save(runner)
        if stop:
            raise StopTraining

    def _save(self, runner: Runner) -> None:
        write_whole(
            self._folder / LAST, lambda path: runner.save_checkpoint(str(path.parent), path.name, by_epoch=False)
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
        checkpoint["rng"] = self._random

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["meta"].pop("config", None)  # mmengine would execute this one as Python
        _set_random_state(checkpoint["rng"][get_dist_info()[0] % len(checkpoint["rng"])])


def _everywhere(wish: bool) -> bool:
    """The wish of the first process, in all of them."""
    if get_dist_info()[1] == 1:
        return wish
    said = torch.tensor([wish], dtype=torch.uint8)
    broadcast(said)
    return bool(said)


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state


def _set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


class Clock(Hook):
    """Seconds of each step, the reading of its images included; after all other hooks."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self._last = 0.0
        self.seconds: list[float] = []

    def before_train(self, runner: Runner) -> None:
        self._last = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        self.seconds.append(now - self._last)
        self._last = now


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

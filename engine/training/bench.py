"""The two sides of `winnow bench train`: a training by Winnow, and the same configuration run plainly by mmengine.

Plainly means: mmdet's CocoDataset and pipeline, mmengine's default hooks, the same model, optimizer, schedule, running
mean, batch size and number of workers, in the same process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.control import Silent
from engine.presets import TrainOptions
from engine.training import mmlab

mmlab.install()

import mmcv.ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from mmengine.runner import Runner

from engine.training.hooks import Clock
from engine.training.launch import averages, make_runner, shared, task_of
from engine.training.task import Task, TrainJob, loader

UNEVEN = 3  # first steps of a round, in which memory is found


def speeds(data: Path, work: Path, options: TrainOptions, preset: str, rounds: int) -> list[tuple[float, float]]:
    """(images a second by Winnow, plainly) of each round, the sides in turn, by the median step."""
    job = TrainJob(data, work / "winnow", preset, resume=False)
    pairs = []
    for number in range(rounds):
        sides: list[Callable[[], Runner]] = [lambda: _ours(job, options), lambda: _plain(job, work / "plain", options)]
        order = (0, 1) if number % 2 == 0 else (1, 0)
        seconds = {side: _timed(sides[side]()) for side in order}
        pairs.append((options.batch_size / seconds[0], options.batch_size / seconds[1]))
    return pairs


def _timed(runner: Runner) -> float:
    clock = Clock()
    runner.register_hook(clock)
    runner.train()
    return statistics.median(clock.seconds[UNEVEN:])


def _ours(job: TrainJob, options: TrainOptions) -> Runner:
    return make_runner(job, options, _unvalidated(task_of(job, options)), Silent())[0]


def _unvalidated(task: Task) -> Task:
    return Task(task.model, task.optimizer, task.train_loader, task.card)


def _plain(job: TrainJob, work: Path, options: TrainOptions) -> Runner:
    """The same with mmdet's own data set and mmengine's own hooks. Its log goes to a file only, which is no work."""
    loading = loader(_plain_dataset(job.data, options), {"type": "InfiniteSampler"}, options.batch_size)
    return Runner(
        **shared(job, options, task_of(job, options)),
        work_dir=str(work),
        experiment_name=f"plain-{time.time_ns()}",
        train_dataloader=loading,
        custom_hooks=averages(options),
        default_hooks={"checkpoint": None},
    )


def _plain_dataset(data: Path, options: TrainOptions) -> Any:
    """mmdet's usual pipeline at the size of ours."""
    return {
        "type": "CocoDataset",
        "ann_file": str(data / "train.json"),
        "data_prefix": {"img": str(data)},
        "metainfo": {"classes": _classes(data)},
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "with_bbox": True},
            {"type": "Resize", "scale": options.image_size, "keep_ratio": True},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PackDetInputs"},
        ],
    }


def _classes(data: Path) -> tuple[str, ...]:
    from engine.training.data import read_split

    return read_split(data, "train").names


# Operators


def operators(rounds: int) -> dict[str, float]:
    """How many times faster each operator of ours is than a straightforward one, by the median of the rounds."""
    torch.manual_seed(0)
    return {
        name: statistics.median(_seconds(plain) / _seconds(ours) for _ in range(rounds))
        for name, ours, plain in (_nms(), _roi_align(), _attention())
    }


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


Pair = tuple[str, Callable[[], object], Callable[[], object]]


def _nms() -> Pair:
    corner = torch.rand(2000, 2) * 400
    boxes, scores = torch.cat([corner, corner + 20 + torch.rand(2000, 2) * 60], 1), torch.rand(2000)
    return "nms", lambda: mmcv.ops.nms(boxes, scores, 0.5), lambda: plain_nms(boxes, scores, 0.5)


def plain_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy, by the definition: the best box goes first and takes away all that overlap it too much."""
    order, kept = scores.argsort(descending=True), []
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        inner = torch.min(boxes[best, 2:], boxes[order, 2:]) - torch.max(boxes[best, :2], boxes[order, :2])
        shared = inner.clamp(min=0).prod(1)
        order = order[shared / (area[best] + area[order] - shared) <= threshold]
    return torch.stack(kept)


def _roi_align() -> Pair:
    features = torch.randn(2, 64, 48, 64)
    corner = torch.rand(128, 2) * torch.tensor([330.0, 200.0])  # within the image: outside, definitions differ
    rois = torch.cat([torch.randint(0, 2, (128, 1)).float(), corner, corner + 30 + torch.rand(128, 2) * 150], 1)
    align = mmcv.ops.RoIAlign(7, 1 / 8, sampling_ratio=2)
    return "roi_align", lambda: align(features, rois), lambda: plain_roi_align(features, rois, 7, 1 / 8)


def plain_roi_align(features: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    """Two by two samples a bin, read off with grid_sample; [n, channels, size, size]."""
    height, width = features.shape[2:]
    steps = (torch.arange(2 * size) + 0.5) / (2 * size)
    found = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (value * scale - 0.5 for value in corners)
        xs, ys = x1 + steps * (x2 - x1), y1 + steps * (y2 - y1)
        grid = torch.stack(torch.meshgrid((xs + 0.5) * 2 / width - 1, (ys + 0.5) * 2 / height - 1, indexing="xy"), -1)
        sampled = torch.nn.functional.grid_sample(
            features[int(image)][None], grid[None], padding_mode="border", align_corners=False
        )
        found.append(torch.nn.functional.avg_pool2d(sampled, 2))
    return torch.cat(found)


def _attention() -> Pair:
    shapes = torch.tensor([[32, 32], [16, 16], [8, 8]])
    starts = torch.cat([torch.zeros(1, dtype=torch.long), shapes.prod(1).cumsum(0)[:-1]])
    value, where = torch.randn(2, int(shapes.prod(1).sum()), 8, 32), torch.rand(2, 300, 8, 3, 4, 2)
    weights = torch.rand(2, 300, 8, 3, 4).flatten(3).softmax(-1).view(2, 300, 8, 3, 4)

    def ours() -> Tensor:
        return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, where, weights, 64)

    return "ms_deform_attn", ours, lambda: multi_scale_deformable_attn_pytorch(value, shapes, where, weights)

"""One training of a detector preset by mmengine's Runner, in this process."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from db.errors import WinnowError
from engine.presets import TrainOptions
from engine.training import mmlab

mmlab.install()

from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from engine.training.checkpoint import DetectorCard, model_config, save_model
from engine.training.data import EndlessSampler, SceneDataset, Split, read_split
from engine.training.hooks import LAST, BestHook, CocoMetric, Reporter, ReportHook, StateHook, StopTraining

WARMUP = 100  # steps, at most a tenth of all
SAVE_EVERY = 200  # steps; what an interruption can cost


class TrainJob(msgspec.Struct, frozen=True):
    """What to train. `data` holds train.json and val.json; `work` keeps the state and receives the folder `model`.

    `options` are those of `engine.presets.TrainOptions`. With `resume`, the training goes on from the state in `work`
    if there is one; without, it starts over.
    """

    data: Path
    work: Path
    preset: str
    options: dict[str, Any] = {}
    seed: int = 0
    resume: bool = True


def train(job: TrainJob, reporter: Reporter) -> dict[str, Any]:
    """Trains and returns the metrics of the best model: those of `CocoResult` (absent without validation images),
    best_iteration, seconds, iterations, parameters and `model`, its folder. Asked to stop: {"stopped": True,
    "iterations": n}.

    Raises WinnowError for unusable data or options, and when the loss diverges.
    """
    started = time.monotonic()
    options = TrainOptions.model_validate(job.options)
    split, held_out = _splits(job.data)
    card = DetectorCard(job.preset, split.names, options.image_size)
    runner, best = _runner(job, options, split, held_out, card, reporter)
    try:
        runner.train()
    except StopTraining:
        reporter.log(f"stopped after step {runner.iter + 1}; the state is saved")
        return {"stopped": True, "iterations": runner.iter + 1}
    if not held_out.scenes:
        save_model(job.work / "model", _averaged(runner), card)
    parameters = sum(parameter.numel() for parameter in runner.model.parameters())
    done = {"seconds": time.monotonic() - started, "iterations": runner.iter, "parameters": parameters}
    return {**best.metrics, **done, "model": str(job.work / "model")}


def _splits(folder: Path) -> tuple[Split, Split]:
    train_split, val_split = read_split(folder, "train"), read_split(folder, "val")
    if train_split.categories != val_split.categories:
        raise WinnowError(
            f"{train_split.path} and {val_split.path} list different categories; they should be the same, in order."
        )
    if not any((~scene.crowd).any() for scene in train_split.scenes):
        raise WinnowError(f"{train_split.path} has no box to learn from.")
    return train_split, val_split


def _runner(
    job: TrainJob, options: TrainOptions, split: Split, held_out: Split, card: DetectorCard, reporter: Reporter
) -> tuple[Runner, BestHook]:
    job.work.mkdir(parents=True, exist_ok=True)
    last = job.work / LAST
    resume = job.resume and last.is_file()
    best = BestHook(job.work / "model", card)
    runner = Runner(
        model=model_config(job.preset, card.names),
        work_dir=str(job.work / "mmengine"),
        experiment_name=f"{job.work.name}-{time.time_ns()}",  # mmengine keeps a registry of these
        train_dataloader=_train_loader(split, options, job.seed),
        train_cfg={
            "type": "IterBasedTrainLoop",
            "max_iters": options.iterations,
            "val_interval": options.eval_interval,
        },
        optim_wrapper=_optimizer(options),
        param_scheduler=_schedule(options.iterations),
        default_hooks={"timer": None, "logger": None, "checkpoint": None, "sampler_seed": None},
        custom_hooks=[
            _average(),
            ReportHook(reporter, options.batch_size),
            best,
            StateHook(job.work, SAVE_EVERY, reporter),
        ],
        env_cfg={"cudnn_benchmark": True, "mp_cfg": {"opencv_num_threads": 0}},
        randomness={"seed": job.seed},
        log_level="ERROR",
        default_scope="mmdet",
        load_from=str(last) if resume else None,
        resume=resume,
        **_validation(held_out, options),
    )
    return runner, best


def _train_loader(split: Split, options: TrainOptions, seed: int) -> dict[str, Any]:
    dataset = SceneDataset(split, options.image_size, augment=True, seed=seed)
    return _loader(dataset, {"type": EndlessSampler, "seed": seed}, options.batch_size)


def _validation(held_out: Split, options: TrainOptions) -> dict[str, Any]:
    """The Runner's arguments that make it validate; none without validation images."""
    if not held_out.scenes:
        return {}
    sampler = {"type": "DefaultSampler", "shuffle": False}
    return {
        "val_dataloader": _loader(SceneDataset(held_out, options.image_size), sampler, 16),
        "val_cfg": {"type": "ValLoop"},
        "val_evaluator": [CocoMetric(json.loads(held_out.path.read_bytes()))],
    }


def _loader(dataset: SceneDataset, sampler: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """In this process: the images are in memory, so that workers would cost more than they bring."""
    return {
        "dataset": dataset,
        "sampler": sampler,
        "batch_size": batch_size,
        "num_workers": 0,
        "collate_fn": {"type": "pseudo_collate"},
    }


def _optimizer(options: TrainOptions) -> dict[str, Any]:
    return {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": options.lr, "weight_decay": 0.05},
        "clip_grad": {"max_norm": 10.0},
        "paramwise_cfg": {"norm_decay_mult": 0.0, "bias_decay_mult": 0.0},
    }


def _schedule(iterations: int) -> list[dict[str, Any]]:
    """A linear warm-up, then half a cosine down to a hundredth."""
    warmup = max(1, min(WARMUP, iterations // 10))
    up = {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": warmup}
    if warmup == iterations:
        return [up]
    down = {"type": "CosineAnnealingLR", "T_max": iterations - warmup, "eta_min_ratio": 0.01, "by_epoch": False}
    return [up, {**down, "begin": warmup, "end": iterations}]


def _average() -> EMAHook:
    """A running mean of the weights, over about the last 500 steps once it has settled; it is what validates and is
    kept."""
    return EMAHook(ema_type="ExpMomentumEMA", momentum=0.002, gamma=200, update_buffers=True)


def _averaged(runner: Runner) -> torch.nn.Module:
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module

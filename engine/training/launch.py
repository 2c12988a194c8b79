"""One training of a detector preset, by mmengine's Runner, in this process."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from safetensors.torch import save_file

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

from mmengine.hooks import EMAHook  # noqa: E402  after the operators are in place
from mmengine.runner import Runner  # noqa: E402

from engine.training import data as _data  # noqa: E402, F401  registers the data set
from engine.training.hooks import LAST, CocoMetrics, Reporter, ReportHook, SaveHook, StopTraining  # noqa: E402
from engine.training.presets import MODELS  # noqa: E402

WARMUP = 0.03  # share of the steps
CHECKPOINTS = 10  # while training


@dataclass(frozen=True)
class TrainJob:
    """`data` holds train.json and val.json; `work` keeps checkpoints and receives the folder `model`. `options` are those
    of `engine.presets.TrainOptions`."""

    data: Path
    work: Path
    preset: str
    options: dict[str, Any]
    seed: int = 0


def train(job: TrainJob, reporter: Reporter) -> dict[str, Any]:
    """Train, from the last checkpoint in `job.work` if there is one. Returns metrics, or {"stopped": True} when asked to stop.

    Raises WinnowError when the loss diverges or there is nothing to train on.
    """
    started = time.monotonic()
    job.work.mkdir(parents=True, exist_ok=True)
    truth = json.loads((job.data / "val.json").read_bytes())
    names = [category["name"] for category in truth["categories"]]
    if not names:
        raise WinnowError("The snapshot has no classes to train on.")
    runner, report, save = _runner(job, reporter, truth, len(names))
    try:
        runner.train()
    except StopTraining:
        reporter.log(f"stopped at step {runner.iter + 1}; the state is saved")
        return {"stopped": True, "iterations": runner.iter + 1}
    metrics = _final(runner)
    model = _save_model(job, runner, names)
    parameters = sum(p.numel() for p in runner.model.parameters())
    return {**metrics, "seconds": time.monotonic() - started, "iterations": runner.iter, "parameters": parameters, "model": str(model)}


def _runner(job: TrainJob, reporter: Reporter, truth: dict[str, Any], classes: int) -> tuple[Runner, ReportHook, SaveHook]:
    torch.set_num_threads(max(1, os.cpu_count() or 1))
    cv2.setNumThreads(0)
    options, last = job.options, job.work / LAST
    report = ReportHook(reporter, options["batch_size"])
    save = SaveHook(job.work, max(1, options["iterations"] // CHECKPOINTS), reporter)
    ema = EMAHook(ema_type="ExpMomentumEMA", momentum=0.002, update_buffers=True, priority="ABOVE_NORMAL")
    validate = bool(truth["images"])
    runner = Runner(
        model=MODELS[job.preset](classes),
        work_dir=str(job.work),
        train_dataloader=_loader(job, "train.json", augment=True),
        val_dataloader=_loader(job, "val.json", augment=False) if validate else None,
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=options["iterations"], val_interval=options["eval_interval"]),
        val_cfg=dict(type="ValLoop") if validate else None,
        val_evaluator=[CocoMetrics(truth)] if validate else None,
        optim_wrapper=_optimizer(options),
        param_scheduler=_schedule(options),
        default_hooks=dict(logger=None, checkpoint=None, sampler_seed=None),
        custom_hooks=[ema, report, save],
        env_cfg=dict(cudnn_benchmark=True, mp_cfg=dict(opencv_num_threads=0)),
        randomness=dict(seed=job.seed),
        log_level="WARNING",
        default_scope="mmdet",
        experiment_name=job.work.name,
        resume=last.exists(),
        load_from=str(last) if last.exists() else None,
    )
    return runner, report, save


def _loader(job: TrainJob, file: str, *, augment: bool) -> dict[str, Any]:
    size = tuple(job.options["image_size"])
    dataset = dict(type="CocoInMemory", file=str(job.data / file), size=size, augment=augment, seed=job.seed)
    sampler = dict(type="Positions") if augment else dict(type="DefaultSampler", shuffle=False)
    batch = job.options["batch_size"]
    return dict(dataset=dataset, sampler=sampler, batch_size=batch, num_workers=0, collate_fn=dict(type="pseudo_collate"))


def _optimizer(options: dict[str, Any]) -> dict[str, Any]:
    return dict(
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=options["lr"], weight_decay=0.05),
        clip_grad=dict(max_norm=10.0),
        paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    )


def _schedule(options: dict[str, Any]) -> list[dict[str, Any]]:
    """A linear warm-up, then a cosine down to a hundredth."""
    total = options["iterations"]
    warmup = max(1, int(total * WARMUP))
    return [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=warmup),
        dict(type="CosineAnnealingLR", T_max=max(1, total - warmup), eta_min_ratio=0.01, by_epoch=False, begin=warmup, end=total),
    ]


def _final(runner: Runner) -> dict[str, Any]:
    """Metrics of the finished model. The averaged weights are in place while hooks of the validation run."""
    return dict(runner.val_loop.run()) if runner.val_loop is not None else {}


def _save_model(job: TrainJob, runner: Runner, names: list[str]) -> Path:
    """The averaged weights as safetensors, and what is needed to build the model again: preset, classes, image size."""
    folder = job.work / "model"
    folder.mkdir(exist_ok=True)
    averaged = next(hook for hook in runner._hooks if isinstance(hook, EMAHook)).ema_model.module
    save_file({name: tensor.contiguous() for name, tensor in averaged.state_dict().items()}, str(folder / "model.safetensors"))
    described = {"preset": job.preset, "names": names, "image_size": list(job.options["image_size"])}
    (folder / "detector.json").write_text(json.dumps(described, indent=1))
    return folder

"""One training of a detector preset by mmengine's Runner, in this process or in several."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from db.errors import NotFound, WinnowError
from engine.control import Silent
from engine.presets import PRESETS, TrainOptions
from engine.training import mmlab

mmlab.install()

from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import EMAHook
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner

from engine.training.checkpoint import refuse_small_disk, save_model, start_from
from engine.training.hooks import LAST, BestHook, Reporter, ReportHook, StateHook, StopTraining, bare
from engine.training.presets import with_checkpointing, without_sync
from engine.training.task import Task, TrainJob

__all__ = ["TrainJob", "task_of", "train"]
WARMUP = 100  # steps, at most a tenth of all
SAVE_EVERY = 200  # steps; what an interruption can cost


def train(job: TrainJob, reporter: Reporter) -> dict[str, Any]:
    """Trains and returns the metrics of the best model: those of the validation (absent without validation images),
    best_iteration, seconds, iterations, parameters and `model`, its folder. Asked to stop: {"stopped": True,
    "iterations": n}.

    With the option `processes` above 1, that many processes share the work; each takes `batch_size` images a step.
    Raises WinnowError for unusable data or options, for a disk too small, and when the loss diverges.
    """
    options = TrainOptions.model_validate(job.options)
    if options.processes > 1:
        from engine.training.together import train_together

        return train_together(job, reporter, options.processes)
    return train_here(job, reporter)


def train_here(job: TrainJob, reporter: Reporter) -> dict[str, Any]:
    """What `train` does, in this process alone or, under torchrun, as one of those that share the work."""
    started = time.monotonic()
    options = TrainOptions.model_validate(job.options)
    refuse_impossible(options)
    task = task_of(job, options)
    runner, best = make_runner(job, options, task, reporter)
    if is_main_process():
        refuse_small_disk(job.work, runner.model.parameters())
    for note in task.notes:
        reporter.log(note)
    try:
        runner.train()
    except StopTraining:
        reporter.log(f"stopped after step {runner.iter + 1}; the state is saved")
        return {"stopped": True, "iterations": runner.iter + 1}
    if runner.iter < options.iterations:
        reporter.log(f"ended at step {runner.iter}: no better model in {options.patience} evaluations")
    if not task.validation and is_main_process():
        save_model(job.work / "model", _averaged(runner), task.card)
    parameters = sum(parameter.numel() for parameter in runner.model.parameters())
    done = {"seconds": time.monotonic() - started, "iterations": runner.iter, "parameters": parameters}
    return {**best.metrics, **done, "model": str(job.work / "model")}


def task_of(job: TrainJob, options: TrainOptions) -> Task:
    """What the job trains. Raises NotFound for an unknown preset, WinnowError for unusable data."""
    if job.preset not in PRESETS:
        raise NotFound("preset", job.preset, sorted(PRESETS))
    if PRESETS[job.preset].pairs:
        from engine.training import pairs

        return pairs.task(job, options)
    if PRESETS[job.preset].kind == "grounding":
        from engine.training import grounding

        return grounding.task(job, options)
    if PRESETS[job.preset].kind == "attention":
        from engine.training import attending

        return attending.task(job, options)
    from engine.training import closed

    return closed.task(job, options)


def refuse_impossible(options: TrainOptions) -> None:
    """Raises WinnowError for options that cannot be, here or together."""
    if options.amp and not torch.cuda.is_available():
        raise WinnowError("The option amp (mixed precision) needs a GPU, and there is none here.")
    if options.patience and options.eval_interval * options.patience >= options.iterations:
        raise WinnowError(
            f"With patience {options.patience} and an evaluation every {options.eval_interval} of {options.iterations} "
            "batches, the training could not end early. Lower patience or eval_interval."
        )


class _Runner(Runner):
    """A Runner that starts from the weights of a file, when one is named, rather than from random ones."""

    start: Path | None = None
    by_class: frozenset[str] = frozenset()
    reporter: Reporter = Silent()

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: torch.nn.Module) -> torch.nn.Module:
        """mmengine's own names a GPU for every process, also where there is none."""
        if not self.distributed or torch.cuda.is_available():
            return super().wrap_model(model_wrapper_cfg, model)
        return MMDistributedDataParallel(module=model, broadcast_buffers=False)

    def _init_model_weights(self) -> None:
        super()._init_model_weights()
        if self.start is None or self._resume:
            return
        self.reporter.log(start_from(bare(self.model), self.start, self.by_class))
        for tensor in bare(self.model).state_dict().values():
            broadcast(tensor)


def make_runner(job: TrainJob, options: TrainOptions, task: Task, reporter: Reporter) -> tuple[Runner, BestHook]:
    """(mmengine's Runner of a task, the hook that keeps its best model)."""
    job.work.mkdir(parents=True, exist_ok=True)
    last = job.work / LAST
    resume = job.resume and last.is_file()
    best = BestHook(job.work / "model", task.card, task.quality, options.patience, options.eval_interval)
    runner = _Runner(
        **shared(job, options, task),
        work_dir=str(job.work / "mmengine"),
        experiment_name=f"{job.work.name}-{time.time_ns()}",  # mmengine keeps a registry of these
        train_dataloader=task.train_loader,
        default_hooks={"timer": None, "logger": None, "checkpoint": None, "sampler_seed": None},
        custom_hooks=[
            *averages(options),
            ReportHook(reporter, options.batch_size, task.quality),
            best,
            StateHook(job.work, SAVE_EVERY, reporter, options.accumulate),
        ],
        launcher="pytorch" if torch.distributed.is_initialized() else "none",
        load_from=str(last) if resume else None,
        resume=resume,
        **task.validation,
    )
    runner.start = Path(options.weights).expanduser() if options.weights else None
    runner.by_class, runner.reporter = task.by_class, reporter
    return runner, best


def shared(job: TrainJob, options: TrainOptions, task: Task) -> dict[str, Any]:
    """The arguments of a Runner that say what is learnt and how; a plain training has the same."""
    return {
        "model": _model(task, options),
        "train_cfg": {
            "type": "IterBasedTrainLoop",
            "max_iters": options.iterations,
            "val_interval": options.eval_interval,
        },
        "optim_wrapper": _optimizer(task, options),
        "param_scheduler": _schedule(options.iterations),
        "env_cfg": {"cudnn_benchmark": True, "mp_cfg": {"opencv_num_threads": 0}},
        "randomness": {"seed": job.seed},
        "log_level": "ERROR",
        "default_scope": "mmdet",
    }


def _model(task: Task, options: TrainOptions) -> Any:
    model = task.model if torch.cuda.is_available() else without_sync(task.model)
    return with_checkpointing(model) if options.gradient_checkpointing else model


def _optimizer(task: Task, options: TrainOptions) -> dict[str, Any]:
    wrapper = {**task.optimizer, "accumulative_counts": options.accumulate}
    return {**wrapper, "type": "AmpOptimWrapper"} if options.amp else wrapper


def _schedule(iterations: int) -> list[dict[str, Any]]:
    """A linear warm-up, then half a cosine down to a hundredth."""
    warmup = max(1, min(WARMUP, iterations // 10))
    up = {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": warmup}
    if warmup == iterations:
        return [up]
    down = {"type": "CosineAnnealingLR", "T_max": iterations - warmup, "eta_min_ratio": 0.01, "by_epoch": False}
    return [up, {**down, "begin": warmup, "end": iterations}]


def averages(options: TrainOptions) -> list[EMAHook]:
    """A running mean of the weights, over about the last 500 steps once it has settled; it is what validates and is
    kept. None without the option."""
    if not options.ema:
        return []
    return [EMAHook(ema_type="ExpMomentumEMA", momentum=0.002, gamma=200, update_buffers=True)]


def _averaged(runner: Runner) -> torch.nn.Module:
    """The mean of the weights, or the weights where no mean is kept."""
    means = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
    return means[0] if means else bare(runner.model)

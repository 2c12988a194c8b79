"""What a training will need, found out by looking at its data and doing twenty of its steps.

`python -m engine.training.preflight` reads a `TrainJob` as JSON and prints a `Preflight`; {"error": ...} for a training
that cannot be.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from db.errors import WinnowError
from engine.control import Silent
from engine.preflight import Preflight
from engine.presets import TrainOptions
from engine.training import mmlab

mmlab.install()

from mmengine.runner import Runner

from engine.training.checkpoint import disk_needed
from engine.training.hooks import Clock
from engine.training.launch import make_runner, refuse_impossible, task_of
from engine.training.task import Task, TrainJob, job_from_json

STEPS = 20
UNEVEN = 5  # first steps, in which caches fill


def preflight(job: TrainJob) -> Preflight:
    """Looks at the data and trains `STEPS` steps in a folder that is then deleted. Raises WinnowError for what `train`
    would refuse."""
    options = TrainOptions.model_validate(job.options)
    refuse_impossible(options)
    task = task_of(job, options)
    images, held_out = task.train_loader["dataset"], task.validation.get("val_dataloader", {}).get("dataset", ())
    with tempfile.TemporaryDirectory() as folder:
        short = options.model_copy(update={"iterations": STEPS, "patience": None})
        trial = msgspec.structs.replace(job, work=Path(folder), resume=False)
        step, evaluation, parameters = _trial(trial, short, task, len(held_out))
    evaluations = -(-options.iterations // options.eval_interval)
    return Preflight(
        images=len(images),
        generated=sum(getattr(images, "synthetic", ())),
        validation_images=len(held_out),
        parameters=parameters,
        disk_needed=disk_needed(parameters),
        disk_free=shutil.disk_usage(_existing(job.work)).free,
        memory_used=_memory_used(),
        memory_free=_memory_free(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        seconds=step * options.iterations + evaluation * evaluations,
        images_per_s=options.batch_size * options.processes / step,
        notes=task.notes,
    )


def _trial(job: TrainJob, options: TrainOptions, task: Task, images: int) -> tuple[float, float, int]:
    """(seconds of a step, seconds of an evaluation, parameters)."""
    clock = Clock()
    evaluator = task.validation.get("val_dataloader")
    without = Task(task.model, task.optimizer, task.train_loader, task.card, by_class=task.by_class)
    runner, _ = make_runner(job, options, without, Silent())
    runner.register_hook(clock)
    runner.train()
    step = statistics.median(clock.seconds[UNEVEN:])
    parameters = sum(parameter.numel() for parameter in runner.model.parameters())
    if evaluator is None:
        return step, 0.0, parameters
    loaded = Runner.build_dataloader({**evaluator, "batch_size": 1})
    runner.model.eval()
    started = time.monotonic()
    with torch.inference_mode():
        runner.model.val_step(next(iter(loaded)))
    return step, (time.monotonic() - started) * images, parameters


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _memory_used() -> int:
    """The most that was used, in bytes: of the GPU, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _memory_free() -> int | None:
    """Bytes that were free beside this process's own; None where the system does not say."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    table = Path("/proc/meminfo")
    if not table.exists():
        return None
    facts = dict(line.split(":") for line in table.read_text().splitlines())
    return int(facts["MemAvailable"].split()[0]) * 1024 + _memory_used()


def main() -> None:
    job = job_from_json(sys.stdin.buffer.read())
    try:
        found: Any = preflight(job)
    except WinnowError as error:
        found = {"error": str(error)}
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()

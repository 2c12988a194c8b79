"""What one training trains: the seam between the training itself and the kinds of detector.

`engine.training.launch` trains any `Task`. Which function makes it is chosen by the kind of the preset:
`engine.training.closed.task` for detectors of fixed classes, `engine.training.grounding.task` for detectors that read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from torch.utils.data import Dataset


class TrainJob(msgspec.Struct, frozen=True):
    """What to train. `data` holds train.json and val.json; `work` keeps the state and receives the folder `model`.

    `options` are those of `engine.presets.TrainOptions`. With `resume`, the training goes on from the state in `work`
    if there is one; without, it starts over. `configs` is the trusted folder of the person's own mmdet configurations.
    """

    data: Path
    work: Path
    preset: str
    options: dict[str, Any] = {}
    seed: int = 0
    resume: bool = True
    configs: Path | None = None


def job_to_json(job: TrainJob) -> bytes:
    """The job, for another process."""
    return msgspec.json.encode(job, enc_hook=str)


def job_from_json(data: bytes) -> TrainJob:
    """The job that another process wrote."""
    return msgspec.json.decode(data, type=TrainJob, dec_hook=lambda kind, text: kind(text))


@dataclass(frozen=True)
class Task:
    """A detector with its data, in the terms of mmengine's Runner.

    - `model`: the configuration that mmdet's registry builds;
    - `optimizer`: the Runner's `optim_wrapper`, with the learning rate of the options;
    - `train_loader`: the Runner's `train_dataloader`, see `loader`. Its sampler has `skip(count)`, which mmengine calls
      when a training goes on, and yields (draw, position), so that the data set can seed its randomness with the draw;
    - `validation`: the Runner's `val_dataloader`, `val_cfg` and `val_evaluator`; empty without validation images;
    - `card`: what is saved beside the weights, for `engine.training.checkpoint.save_model`;
    - `quality`: the metric of the validation that says which model is best, higher is better;
    - `by_class`: the tensors whose shape follows the classes, which start anew when weights of other classes are loaded;
    - `notes`: what a person should know before the training starts, a line each.
    """

    model: Any
    optimizer: dict[str, Any]
    train_loader: dict[str, Any]
    card: msgspec.Struct
    validation: dict[str, Any] = field(default_factory=dict)
    quality: str = "mAP"
    by_class: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def loader(dataset: Dataset, sampler: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """A data loader in this process: the images are in memory, so that workers would cost more than they bring."""
    return {
        "dataset": dataset,
        "sampler": sampler,
        "batch_size": batch_size,
        "num_workers": 0,
        "collate_fn": {"type": "pseudo_collate"},
    }


def adamw(lr: float) -> dict[str, Any]:
    """The `optim_wrapper` of the small presets: AdamW, no decay of norms and biases, gradients clipped."""
    return {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": lr, "weight_decay": 0.05},
        "clip_grad": {"max_norm": 10.0},
        "paramwise_cfg": {"norm_decay_mult": 0.0, "bias_decay_mult": 0.0, "bypass_duplicate": True},
    }

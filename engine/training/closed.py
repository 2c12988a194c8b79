"""Training of detectors of fixed classes, Gen2Det's way of mixing generated images in included."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from db.errors import WinnowError
from engine.presets import OWN, TrainOptions
from engine.training import mmlab

mmlab.install()

from mmengine.config import ConfigDict

from engine.training.checkpoint import DetectorCard, plain, shapes
from engine.training.data import Scene, SceneDataset, Split, read_split
from engine.training.gen2det import learns_masks, real_masks_only, tolerate_background
from engine.training.hooks import CocoMetric
from engine.training.presets import Blueprint, blueprint
from engine.training.samplers import Gen2DetSampler, SourceSampler
from engine.training.task import Task, TrainJob, loader

VALIDATED_AT_ONCE = 16  # images
SHOWN = 10  # names in a message


def task(job: TrainJob, options: TrainOptions) -> Task:
    """The training of a preset of kind "closed" on the folder of the job. Raises WinnowError for unusable data."""
    split, held_out = splits(job.data)
    plan = blueprint(job.preset, len(split.names), options, job.configs)
    masks = learns_masks(plan.model)
    if masks:
        _refuse_missing_masks(split)
    own = plain(plan.model) if job.preset == OWN else None
    return Task(
        model=_model(plan, options),
        optimizer=plan.optimizer,
        train_loader=_train_loader(split, options, job.seed, masks),
        card=DetectorCard(job.preset, split.names, options.image_size, own),
        validation=_validation(held_out, options),
        by_class=_by_class(job, options, plan, len(split.names)) if options.weights else frozenset(),
        notes=_notes(split, held_out, options),
    )


def splits(folder: Path) -> tuple[Split, Split]:
    """(what to train on, what to validate on). Raises WinnowError when they do not belong together, or nothing can be
    learnt."""
    train_split, val_split = read_split(folder, "train"), read_split(folder, "val")
    if train_split.categories != val_split.categories:
        raise WinnowError(
            f"{train_split.path} and {val_split.path} list different categories; they should be the same, in order."
        )
    if not any((~scene.crowd).any() for scene in train_split.scenes):
        raise WinnowError(f"{train_split.path} has no box to learn from.")
    return train_split, val_split


def boxes_by_class(split: Split) -> dict[str, int]:
    """How many boxes to learn from each class has."""
    labels = [scene.labels[~scene.crowd] for scene in split.scenes]
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(split.names))
    return dict(zip(split.names, counts.tolist(), strict=True))


def _refuse_missing_masks(split: Split) -> None:
    """Every box of a real image needs its mask; a missing one would be learnt as an object without pixels."""
    lacking = [scene for scene in split.scenes if not scene.synthetic and _lacks_mask(scene)]
    if lacking:
        raise WinnowError(
            f"This detector learns masks, but boxes on {len(lacking)} real images of {split.path} have none, the first on "
            f"{lacking[0].path.name}. Choose a detector without masks, or import the data set with its masks."
        )


def _lacks_mask(scene: Scene) -> bool:
    return any(not crowd and outline is None for crowd, outline in zip(scene.crowd, scene.outlines, strict=True))


def _model(plan: Blueprint, options: TrainOptions) -> ConfigDict:
    return tolerate_background(plan.model) if options.ignore_background else real_masks_only(plan.model)


def _by_class(job: TrainJob, options: TrainOptions, plan: Blueprint, classes: int) -> frozenset[str]:
    """The tensors whose shape follows the number of classes, found by asking for one more."""
    more = shapes(blueprint(job.preset, classes + 1, options, job.configs).model)
    return frozenset(name for name, shape in shapes(plan.model).items() if more[name] != shape)


def _train_loader(split: Split, options: TrainOptions, seed: int, masks: bool) -> dict[str, Any]:
    dataset = SceneDataset(split, options.image_size, augment=True, seed=seed, masks=masks)
    sampler: dict[str, Any] = {"batch_size": options.batch_size, "seed": seed, "numbered": True}
    if options.generated_probability is None:
        sampler |= {"type": SourceSampler, "sources": [0] * len(dataset), "shares": (1.0,)}
    else:
        sampler |= {"type": Gen2DetSampler, "probability": options.generated_probability}
    return loader(dataset, sampler, options.batch_size)


def _validation(held_out: Split, options: TrainOptions) -> dict[str, Any]:
    """The Runner's arguments that make it validate; none without validation images."""
    if not held_out.scenes:
        return {}
    sampler = {"type": "DefaultSampler", "shuffle": False}
    return {
        "val_dataloader": loader(SceneDataset(held_out, options.image_size), sampler, VALIDATED_AT_ONCE),
        "val_cfg": {"type": "ValLoop"},
        "val_evaluator": [CocoMetric(json.loads(held_out.path.read_bytes()))],
    }


def _notes(split: Split, held_out: Split, options: TrainOptions) -> tuple[str, ...]:
    found = []
    empty = [name for name, count in boxes_by_class(split).items() if not count]
    if empty:
        found.append(f"{len(empty)} of {len(split.names)} classes have no box to learn from: {_listed(empty)}.")
    if not held_out.scenes:
        found.append("There are no validation images: no AP while it trains, and the last model is kept.")
    generated = any(scene.synthetic for scene in split.scenes)
    if options.ignore_background and not generated:
        found.append("There are no generated images, so ignore_background changes nothing.")
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

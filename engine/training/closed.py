"""Training of detectors of fixed classes, Gen2Det's way of mixing generated images in included."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
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
from engine.training.longtail import LongTailSampler, images_by_class, repeat_factors
from engine.training.mosaic import MosaicDataset
from engine.training.presets import blueprint
from engine.training.richsem import detector_of, lesson_of
from engine.training.samplers import Gen2DetSampler, SourceSampler
from engine.training.task import Task, TrainJob, loader

VALIDATED_AT_ONCE = 16  # images
SHOWN = 10  # names in a message


def task(job: TrainJob, options: TrainOptions) -> Task:
    """The training of a preset of kind "closed" on the folder of the job. Raises WinnowError for unusable data."""
    split, held_out = splits(job.data)
    split = _looked_at(split, options)
    plan = blueprint(job.preset, len(split.names), options, job.configs)
    masks = learns_masks(plan.model)
    if masks:
        _refuse_missing_masks(split)
    counts = images_by_class([scene.labels for scene in _detection(split)], len(split.names)).tolist()
    detector = detector_of(plan.model, options.semantic, split.names, counts)
    own = plain(detector) if job.preset == OWN or options.semantic.changes_detector else None
    return Task(
        model=lesson_of(_model(detector, options), options.semantic, split.names),
        optimizer=plan.optimizer,
        train_loader=_train_loader(split, options, job.seed, masks),
        card=DetectorCard(job.preset, split.names, options.image_size, own),
        validation=_validation(held_out, options),
        by_class=_by_class(job, options, split.names) if options.weights else frozenset(),
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
    lacking = [scene for scene in split.scenes if not scene.synthetic and not scene.whole and _lacks_mask(scene)]
    if lacking:
        raise WinnowError(
            f"This detector learns masks, but boxes on {len(lacking)} real images of {split.path} have none, the first on "
            f"{lacking[0].path.name}. Choose a detector without masks, or import the data set with its masks."
        )


def _lacks_mask(scene: Scene) -> bool:
    return any(not crowd and outline is None for crowd, outline in zip(scene.crowd, scene.outlines, strict=True))


def _model(detector: ConfigDict, options: TrainOptions) -> ConfigDict:
    return tolerate_background(detector) if options.ignore_background else real_masks_only(detector)


def _by_class(job: TrainJob, options: TrainOptions, names: tuple[str, ...]) -> frozenset[str]:
    """The tensors whose shape follows the number of classes, found by asking for one more, and those of a classifier
    that is not the preset's own, or in the place of which it is."""
    one, other = (blueprint(job.preset, count, options, job.configs).model for count in (len(names), len(names) + 1))
    made = shapes(detector_of(one, options.semantic, names, ()))
    more = shapes(detector_of(other, options.semantic, (*names, ""), ()))
    follow = {name for name, shape in made.items() if more[name] != shape}
    return frozenset(follow | {name for name, _ in shapes(one).items() ^ made.items()})


def _looked_at(split: Split, options: TrainOptions) -> Split:
    """The split without what the options leave out. Raises WinnowError for options that do not go together, or lack
    what they speak of."""
    wish, mixed = options.semantic, options.generated_probability is not None
    if mixed and (wish.class_images == "alternate" or wish.repeat_threshold is not None):
        raise WinnowError(
            "generated_probability decides which images make a batch, and so do semantic.class_images: alternate and "
            "semantic.repeat_threshold. Choose one."
        )
    if wish.class_images == "none":
        return msgspec.structs.replace(split, scenes=_detection(split))
    if wish.class_images == "alternate" and not 0 < len(_detection(split)) < len(split.scenes):
        raise WinnowError(
            f"semantic.class_images: alternate wants images of both sorts; of the {len(split.scenes)} in {split.path} "
            f"{len(split.scenes) - len(_detection(split))} are images of whole classes. Accept class images first, or choose "
            "class_images: mixed."
        )
    return split


def _detection(split: Split) -> list[Scene]:
    """The images that are not of a whole class."""
    return [scene for scene in split.scenes if not scene.whole]


def _train_loader(split: Split, options: TrainOptions, seed: int, masks: bool) -> dict[str, Any]:
    if options.semantic.mosaic:
        dataset: SceneDataset = MosaicDataset(split, options.image_size, seed=seed, masks=masks)
    else:
        dataset = SceneDataset(split, options.image_size, augment=True, seed=seed, masks=masks)
    sampler: dict[str, Any] = {"batch_size": options.batch_size, "seed": seed, "numbered": True}
    return loader(dataset, sampler | _sampling(split, options), options.batch_size)


def _sampling(split: Split, options: TrainOptions) -> dict[str, Any]:
    """Which sampler, and what it is to know of the images."""
    wish = options.semantic
    if options.generated_probability is not None:
        return {"type": Gen2DetSampler, "probability": options.generated_probability}
    turns = wish.class_images == "alternate"
    if not turns and wish.repeat_threshold is None:
        return {"type": SourceSampler, "sources": [0] * len(split.scenes), "shares": (1.0,)}
    whole = np.array([scene.whole for scene in split.scenes])
    repeats = np.ones(len(whole))
    if wish.repeat_threshold is not None:
        labels = [scene.labels[~scene.crowd] for scene in _detection(split)]
        repeats[~whole] = repeat_factors(labels, len(split.names), wish.repeat_threshold)
    sources = whole.astype(int) if turns else np.zeros(len(whole), int)
    return {"type": LongTailSampler, "sources": sources.tolist(), "repeats": repeats.tolist(), "alternate": turns}


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
    if options.semantic.mosaic and not any(scene.whole for scene in split.scenes):
        found.append("There are no images of whole classes, so semantic.mosaic changes nothing.")
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

"""Training with images of three sources (DetCLIPv2, METHODS 4.2 and 4.6): boxes of classes, boxes of the phrases of captions,
and captions alone. Every batch is of one source, with the image size and the number of images of that source.

The folder of a job is that of `engine.grounding_folder`, written with `pairs`. A line may teach in two ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from db.errors import WinnowError
from engine.concepts import Concepts, build, concept, concepts_of, read_definitions
from engine.grounding_folder import TRAIN, VAL, Line, read_lines
from engine.pair_options import SOURCES
from engine.presets import TrainOptions
from engine.training import mmlab

mmlab.install()

from mmdet.structures import DetDataSample
from mmengine.registry import DATA_SAMPLERS
from mmengine.structures import InstanceData

from engine.training.data import _tint, as_input, fit
from engine.training.grounding import _boxes, _motion, _validation
from engine.training.language_presets import LONGEST, LanguageCard, blueprint, tokenizer_of
from engine.training.negatives import token_length
from engine.training.queries import read, read_omnilabel
from engine.training.samplers import SourceSampler
from engine.training.task import Task, TrainJob, loader

DETECTION, GROUNDING, PAIRS = range(len(SOURCES))


class Taught(NamedTuple):
    """What an image is asked for: the texts, the boxes, and for each box the places of the texts that name it."""

    concepts: list[str]
    boxes: list[tuple[float, float, float, float]]
    named: list[list[int]]


def task(job: TrainJob, options: TrainOptions) -> Task:
    """The training of a preset that learns from pairs. Raises WinnowError for data that teaches nothing, for options that
    want what the data lacks, and without the folder of the text encoder."""
    lines = read_lines(job.data / TRAIN)
    definitions = read_definitions(job.data) if options.pairs.definitions else {}
    dataset = SourceDataset(lines, options, build(lines, options.pairs.least_count, definitions), job.seed)
    card = LanguageCard(
        job.preset,
        options.image_size,
        options.language.language_model,
        options.pairs.model_dump(exclude_defaults=True, mode="json"),
        {name: text for name, text in definitions.items() if name in dataset.classes},
    )
    plan = blueprint(card, options.lr)
    plan.model.known = [dataset.dictionary.prompt(name) for name in dataset.classes]
    batches = options.pairs.batch_size or options.batch_size
    sizes = (options.batch_size, options.batch_size, batches)
    shares = shares_of(dataset.sources, options.pairs.shares)
    _refuse(job.data / TRAIN, shares, dataset, options)
    sampler = {"type": SourceBatches, "sources": dataset.sources, "shares": shares, "sizes": sizes, "draws": job.seed}
    length = token_length(tokenizer_of(card))
    return Task(
        model=plan.model,
        optimizer=plan.optimizer,
        train_loader={
            **loader(dataset, {"type": "DefaultSampler", "shuffle": False}, options.batch_size),
            "batch_sampler": sampler,
        },
        card=card,
        validation=_validation(job.data / VAL, card, length, LONGEST),
        quality=_quality(job.data / VAL),
        notes=tuple(_notes(dataset, shares, options)),
    )


def _quality(path: Path) -> str:
    """The harmonic mean over classes and descriptions, or the AP of classes where nothing is described."""
    asked = (row.get("anno_info", {}).get("type") for row in read_omnilabel(path)["descriptions"])
    return "AP" if "object_description" in set(asked) else "AP_categ"


def shares_of(sources: Sequence[int], wanted: Sequence[float]) -> tuple[float, ...]:
    """How often each source gives a batch; those without samples leave theirs to the others. All 0 when nothing is left."""
    there = [share if source in set(sources) else 0.0 for source, share in enumerate(wanted)]
    return tuple(share / sum(there) for share in there) if sum(there) else tuple(there)


def _refuse(path: Path, shares: Sequence[float], dataset: SourceDataset, options: TrainOptions) -> None:
    if not sum(shares):
        held = ", ".join(f"{dataset.sources.count(i)} {name}" for i, name in enumerate(SOURCES))
        raise WinnowError(
            f"{path} has nothing to learn from with the shares {options.pairs.shares}: it holds {held}. Give a share to a "
            "source that has images."
        )
    if options.pairs.selection == "classification" and shares[PAIRS] and not dataset.classes:
        raise WinnowError("Regions cannot be selected by class: the training data has no boxes of classes.")


def _notes(dataset: SourceDataset, shares: Sequence[float], options: TrainOptions) -> Iterator[str]:
    found = (
        f"{dataset.sources.count(i)} {name} ({share:.0%})"
        for i, (name, share) in enumerate(zip(SOURCES, shares, strict=True))
    )
    yield f"images that teach {', '.join(found)}; {len(dataset.dictionary.counts)} concepts"
    if not shares[PAIRS]:
        yield "There are no images with a caption alone, so the options of pairs change nothing."
    elif (options.pairs.batch_size or options.batch_size) * options.processes == 1:
        yield "With one pair a batch there is nothing to tell it from: pairs teach nothing. Raise pairs.batch_size."


class SourceDataset(Dataset):
    """Lines as samples of `engine.training.detclip`, moved and tinted at random; `sources[i]` is what sample i teaches.

    An index is a pair (draw, position): the draw seeds the randomness. A picture is flipped only if its texts speak neither
    of left nor of right.
    """

    def __init__(self, lines: Sequence[Line], options: TrainOptions, dictionary: Concepts, seed: int) -> None:
        self.metainfo: dict[str, Any] = {}
        self._options, self._seed, self.dictionary = options, seed, dictionary
        self._samples = [(source, line) for line in lines for source in teaches(line)]
        self.sources = [source for source, _ in self._samples]
        found = [instance.category for line in lines if line.detection for instance in line.detection.instances]
        self.classes = list(dict.fromkeys(found))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        draw, position = index
        source, line = self._samples[position]
        rng = np.random.default_rng((self._seed, 1, draw))
        taught = (self._classes, self._phrases, self._captions)[source](line, rng)
        size = self._options.pairs.image_size if source == PAIRS else None
        return self._packed(line, source, taught, size or self._options.image_size, rng)

    def _classes(self, line: Line, rng: np.random.Generator) -> Taught:
        """The classes that are there, and others at random (METHODS 4.2, detection)."""
        assert line.detection is not None
        there = list(dict.fromkeys(instance.category for instance in line.detection.instances))
        absent = rng.permutation(np.array([name for name in self.classes if name not in there], object))
        names = [*there, *absent[: max(0, self._options.pairs.detection_concepts - len(there))]]
        boxes = [instance.bbox for instance in line.detection.instances]
        named = [[there.index(instance.category)] for instance in line.detection.instances]
        return Taught([self.dictionary.prompt(name) for name in names], boxes, named)

    def _phrases(self, line: Line, rng: np.random.Generator) -> Taught:
        """The caption's phrases with boxes, what is known to be false, and concepts that the caption does not have (METHODS
        4.2, grounding)."""
        assert line.grounding is not None
        texts: dict[str, int] = {}
        boxes: dict[tuple[float, float, float, float], list[int]] = {}
        for region in line.grounding.regions:
            place = texts.setdefault(concept(region.phrase), len(texts))
            for box in region.bbox:
                boxes.setdefault(box, []).append(place)
        false = [text for text in map(concept, line.grounding.negatives) if text not in texts]
        left = max(0, self._options.pairs.grounding_concepts - len(texts) - len(false))
        absent = self.dictionary.absent([line.grounding.caption, *texts, *false], left, rng)
        return Taught(list(dict.fromkeys([*texts, *false, *absent])), list(boxes), list(boxes.values()))

    def _captions(self, line: Line, rng: np.random.Generator) -> Taught:
        """The caption and its concepts (METHODS 4.2, image-text)."""
        assert line.grounding is not None
        caption = line.grounding.caption.strip()
        found = concepts_of(caption)
        whole = (caption,) if self._options.pairs.whole_captions or not found else ()
        return Taught(list(dict.fromkeys((*whole, *found))), [], [])

    def _packed(
        self, line: Line, source: int, taught: Taught, size: tuple[int, int], rng: np.random.Generator
    ) -> dict[str, Any]:
        image = fit(read(Path(line.filename)), size)
        motion = _motion(image, line.grounding.caption if line.grounding and source != DETECTION else "", rng)
        scale = np.array([image.shape[1] / line.width, image.shape[0] / line.height])
        boxes, seen = motion.boxes((_boxes(taught.boxes).reshape(-1, 2, 2) * scale).reshape(-1, 4))
        sample = DetDataSample(
            gt_instances=InstanceData(bboxes=torch.from_numpy(boxes[seen]).float()),
            metainfo={
                "img_path": line.filename,
                "img_shape": image.shape[:2],
                "source": SOURCES[source],
                "concepts": taught.concepts,
                "named": [taught.named[place] for place in np.flatnonzero(seen)],
            },
        )
        return {"inputs": as_input(_tint(motion.image(image), rng)), "data_samples": sample}


def teaches(line: Line) -> Iterator[int]:
    """The sources that a line is a sample of."""
    if line.detection is not None:
        yield DETECTION
    if line.grounding is not None:
        yield GROUNDING if line.grounding.regions else PAIRS


@DATA_SAMPLERS.register_module()
class SourceBatches(SourceSampler):
    """Whole batches of (draw, position), each from one source and of its size: `sizes[source]` samples in every process.

    It stands in the place of mmengine's batch sampler; see `SourceSampler` for the order. Which batch comes when is a
    function of its number, so that an interrupted training goes on with the batches it would have had.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        sources: Sequence[int],
        shares: Sequence[float],
        sizes: Sequence[int],
        draws: int = 0,
    ) -> None:
        super().__init__(sampler.dataset, batch_size, sources, shares, draws)
        self._sizes = tuple(sizes)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:  # type: ignore[override]
        batch, used = 0, self._used_before(0)
        most = max(self._sizes) * self._world
        while True:
            source = self.source_of(batch)
            size = self._sizes[source]
            first = used[source] * size * self._world + self._rank * size
            draw = batch * most + self._rank * size
            yield [(draw + offset, self._member(source, first + offset)) for offset in range(size)]
            used[source] += 1
            batch += 1

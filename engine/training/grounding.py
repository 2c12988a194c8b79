"""Training of detectors that read: prompts of captions, descriptions and classes, with the routes of Enhanced Negatives.

The folder of a job holds `train.jsonl` and `val.json`, see `engine.grounding_folder`. A sample becomes a prompt whose labels
are the boxes of the caption, or the classes; which characters name them travels in `tokens_positive`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch.utils.data import Dataset

from db.errors import WinnowError
from engine.grounding_folder import TRAIN, VAL, Grounding, Line, read_lines
from engine.presets import TrainOptions
from engine.training import mmlab

mmlab.install()

from mmdet.structures import DetDataSample
from mmengine.evaluator import BaseMetric
from mmengine.structures import InstanceData

from engine.evaluation import suite
from engine.evaluation.d3 import Prompting
from engine.evaluation.omnilabel import evaluate
from engine.evaluation.spoken import Spoken
from engine.training.data import Motion, _tint, as_input, fit
from engine.training.language_presets import LONGEST, LanguageCard, blueprint, load_reader, tokenizer_of
from engine.training.negatives import ClassPrompt, EnhancedNegatives, Length, token_length, too_long
from engine.training.queries import (
    Query,
    QueryDataset,
    ask,
    found_in,
    omnilabel_queries,
    read,
    read_omnilabel,
    spoken_queries,
)
from engine.training.samplers import SourceSampler
from engine.training.task import Task, TrainJob, loader

SIDES = frozenset(("left", "right", "leftmost", "rightmost"))
VALIDATED_AT_ONCE = 16  # prompts
SHOWN = 5


def task(job: TrainJob, options: TrainOptions) -> Task:
    """The training of a preset of kind "grounding". Raises WinnowError for unusable data, and for captions that the text
    encoder cannot take, all of them together."""
    lines = read_lines(job.data / TRAIN)
    card = LanguageCard(job.preset, options.image_size, options.language.language_model)
    plan = blueprint(card, options.lr)
    tokenizer = tokenizer_of(card)
    length = token_length(tokenizer)
    _refuse_long(job.data / TRAIN, lines, length, plan.tokens)
    dataset = PromptDataset(lines, options, tokenizer, plan.tokens, job.seed)
    sampler = {"type": SourceSampler, "batch_size": options.batch_size, "seed": job.seed, "numbered": True}
    return Task(
        model=plan.model,
        optimizer=plan.optimizer,
        train_loader=loader(dataset, {**sampler, "sources": [0] * len(lines), "shares": (1.0,)}, options.batch_size),
        card=card,
        validation=_validation(job.data / VAL, card, length, plan.tokens),
        quality="AP",
        notes=_notes(lines, options),
    )


def _refuse_long(path: Path, lines: Sequence[Line], length: Length, limit: int) -> None:
    if not any(line.detection or line.grounding for line in lines):
        raise WinnowError(f"{path} has no image with classes or a caption to learn from.")
    texts = [line.grounding.caption if line.grounding else "" for line in lines]
    long = too_long(texts, length, limit)
    if long:
        shown = "; ".join(
            f"line {index + 1}: {count} tokens, {texts[index][:50]!r}..." for index, count in long[:SHOWN]
        )
        raise WinnowError(
            f"{path}: {len(long)} captions are longer than the {limit} tokens that the text encoder takes: {shown}. "
            "Shorten them, or leave them out."
        )


def _notes(lines: Sequence[Line], options: TrainOptions) -> tuple[str, ...]:
    texts = sum(len(line.grounding.negatives) for line in lines if line.grounding)
    images = sum(len(line.grounding.negative_images) for line in lines if line.grounding)
    found = [f"{len(lines)} prompts, {texts} negative descriptions, {images} negative images"]
    language = options.language
    if language.negative_text and not texts:
        found.append("There are no negative descriptions, so negative_text changes nothing.")
    if (language.negative_image or language.negative_pair) and not images:
        found.append("There are no negative images, so negative_image and negative_pair change nothing.")
    return tuple(found)


class PromptDataset(Dataset):
    """Lines as samples of mmdet's GLIP and Grounding DINO, moved and tinted at random.

    An index is a pair (draw, position): the draw seeds the randomness. A picture is flipped only if its prompt speaks
    neither of left nor of right.
    """

    def __init__(self, lines: Sequence[Line], options: TrainOptions, tokenizer: Any, limit: int, seed: int) -> None:
        self.metainfo: dict[str, Any] = {}
        language = options.language
        self._lines, self._size, self._seed, self._classes = lines, options.image_size, seed, language.classes
        found = [instance.category for line in lines if line.detection for instance in line.detection.instances]
        self._label = {name: label for label, name in enumerate(dict.fromkeys(found))}
        self._named = ClassPrompt(tokenizer, list(self._label), limit, language.absent, seed)
        self._worded = EnhancedNegatives(
            tokenizer,
            limit,
            language.per_caption,
            language.negative_text,
            language.negative_image,
            language.negative_pair,
            seed,
        )

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        draw, position = index
        line, rng = self._lines[position], np.random.default_rng((self._seed, 1, draw))
        shown = {"img": read(Path(line.filename)), "img_path": line.filename, "draw": draw}
        by_class = line.grounding is None or (line.detection is not None and rng.random() < self._classes)
        if by_class:
            return self._packed(self._named.transform({**shown, **self._classes_of(line)}), rng)
        return self._packed(self._worded.transform({**shown, **_texts_of(line.grounding)}), rng)

    def _classes_of(self, line: Line) -> dict[str, Any]:
        instances = line.detection.instances if line.detection else []
        return {
            "gt_bboxes": _boxes([instance.bbox for instance in instances]),
            "gt_bboxes_labels": np.array([self._label[instance.category] for instance in instances], np.int64),
        }

    def _packed(self, results: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        image = fit(results["img"], self._size)
        height, width = results["img"].shape[:2]
        scale = np.array([image.shape[1] / width, image.shape[0] / height])
        motion = _motion(image, results["text"], rng)
        boxes, seen = motion.boxes((results["gt_bboxes"].reshape(-1, 2, 2) * scale).reshape(-1, 4))
        sample = DetDataSample(
            gt_instances=InstanceData(
                bboxes=torch.from_numpy(boxes[seen]), labels=torch.from_numpy(results["gt_bboxes_labels"][seen])
            ),
            ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
            metainfo={
                "img_path": results["img_path"],
                "img_shape": image.shape[:2],
                "text": results["text"],
                "tokens_positive": results["tokens_positive"],
            },
        )
        return {"inputs": as_input(_tint(motion.image(image), rng)), "data_samples": sample}


def _motion(image: np.ndarray, text: str, rng: np.random.Generator) -> Motion:
    motion = Motion.draw(image.shape[1], image.shape[0], rng)
    if motion.scale[0] > 0 or not SIDES & set(text.lower().replace(".", " ").replace(",", " ").split()):
        return motion
    return motion._replace(
        scale=np.abs(motion.scale), shift=np.array([image.shape[1] - motion.shift[0], motion.shift[1]])
    )


def _texts_of(grounding: Grounding | None) -> dict[str, Any]:
    """Every different box is a label of its own, named by all regions that have it."""
    assert grounding is not None
    spans: dict[tuple[float, float, float, float], list[list[int]]] = {}
    for region in grounding.regions:
        for box in region.bbox:
            spans.setdefault(box, []).extend([start, end] for start, end in region.tokens_positive)
    return {
        "text": grounding.caption,
        "tokens_positive": dict(enumerate(spans.values())),
        "gt_bboxes": _boxes(list(spans)),
        "gt_bboxes_labels": np.arange(len(spans)),
        "negatives": grounding.negatives,
        "negative_images": [msgspec.to_builtins(edit) for edit in grounding.negative_images],
    }


def _boxes(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 4)


# Validation


def _validation(path: Path, card: LanguageCard, length: Length, limit: int) -> dict[str, Any]:
    """The Runner's arguments that make it validate; none without images to ask."""
    document = read_omnilabel(path)
    if not document["images"]:
        return {}
    queries = omnilabel_queries(document, path.parent, length, limit, together=card.isolated)
    sampler = {"type": "DefaultSampler", "shuffle": False}
    return {
        "val_dataloader": loader(QueryDataset(queries, card.image_size), sampler, VALIDATED_AT_ONCE),
        "val_cfg": {"type": "ValLoop"},
        "val_evaluator": [OmniLabelMetric(document, queries)],
    }


class OmniLabelMetric(BaseMetric):
    """The numbers of `engine.evaluation.omnilabel` over the answers to queries."""

    default_prefix = ""  # the names are unmistakable, and mmengine warns about None

    def __init__(self, document: dict[str, Any], queries: Sequence[Query]) -> None:
        super().__init__(collect_device="cpu")
        self._document, self._queries = document, queries

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """One list of OmniLabel predictions for each query."""
        for sample in data_samples:
            self.results.append(found_in(self._queries[sample["img_id"]], sample["pred_instances"]))

    def compute_metrics(self, results: list[list[dict[str, Any]]]) -> dict[str, Any]:
        """All numbers of `OmniLabelResult`."""
        return evaluate(self._document, [row for rows in results for row in rows]).as_dict()


Progress = Callable[[int, int], None]


def asked_about(folder: Path, document: dict[str, Any], progress: Progress, device: str = "cpu") -> dict[str, Any]:
    """The numbers of `OmniLabelResult` for the detector in `folder`; `progress` may raise to stop."""
    model, card = load_reader(folder)
    length = token_length(tokenizer_of(card))
    queries = omnilabel_queries(document, Path(), length, LONGEST, together=card.isolated)
    return evaluate(document, ask(model.to(device), queries, card.image_size, progress)).as_dict()


def spoken_about(
    folder: Path, spoken: Spoken, progress: Progress, device: str = "cpu", prompting: Prompting = "parallel"
) -> dict[str, Any]:
    """The numbers of the protocol for the detector in `folder`. Texts share a prompt when the prompting is "concatenated";
    with a model whose sentences do not read one another they always do, as that changes nothing."""
    model, card = load_reader(folder)
    length = token_length(tokenizer_of(card))
    together = card.isolated or prompting == "concatenated"
    queries = spoken_queries(spoken.asked, length, LONGEST, together=together)
    found = spoken.predictions(ask(model.to(device), queries, card.image_size, progress))
    return suite.evaluate(spoken.kind, {**spoken.truth, "prompting": prompting}, found)

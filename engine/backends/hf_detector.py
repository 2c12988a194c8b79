"""Zero-shot detectors of transformers (Grounding DINO, MM Grounding DINO, OWL-ViT, OWLv2), asked for the data set's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor
from transformers.image_transforms import center_to_corners_format

from db.errors import WinnowError
from engine.backends import hub
from engine.detections import Detections
from engine.roles import Context

GROUNDED = ("grounding-dino", "mm-grounding-dino")  # one text with all names, scores by token
PAIRED = ("owlvit", "owlv2")  # a text for each name
NAMES_AT_ONCE = 64  # of a model that reads a text for each name


class ZeroShotDetector:
    """Sees the classes `names`, those of the context's data set when none are given, and any phrases. `least` is the score below
    which nothing is reported. Raises WinnowError for a model that is missing or of another kind."""

    def __init__(
        self,
        context: Context | None = None,
        model: str = "IDEA-Research/grounding-dino-tiny",
        names: Sequence[str] = (),
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        least: float = 0.1,
    ) -> None:
        self.names, self._model_name = tuple(names) or _classes(context), model
        if not 0 <= least <= 1:
            raise WinnowError(f"`least` is {least}, it should be a score in 0..1.")
        self._device, self._least = hub.device_of(device), least
        place = hub.locate(model)
        options = hub.from_pretrained_options(place, revision)
        try:
            self._kind = AutoConfig.from_pretrained(place, **_without_weights(options)).model_type
            self._require_known(model)
            self._processor = AutoProcessor.from_pretrained(place, **_without_weights(options))
            made = AutoModelForZeroShotObjectDetection.from_pretrained(
                place, dtype=hub.dtype_of(dtype, self._device), **options
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise hub.missing(model, error) from error
        self._model = made.to(self._device).eval().requires_grad_(False)
        self._parts = self._divided()

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """For each HxWx3 RGB uint8 image its boxes in its own pixels, best score first. Raises WinnowError without classes."""
        if not self.names:
            raise WinnowError(f"The detector {self._model_name} has no classes to look for: the data set has none.")
        return [self._found(image, self.names, self._parts) for image in images]

    def find(self, images: Sequence[np.ndarray], phrases: Sequence[Sequence[str]]) -> list[Detections]:
        """For each image the boxes of its phrases, each asked for by itself (METHODS 2.2, point 4), best score first."""
        asked = [tuple(some) for some in phrases]
        return [
            self._found(image, names, [range(i, i + 1) for i in range(len(names))])
            for image, names in zip(images, asked, strict=True)
        ]

    def _require_known(self, model: str) -> None:
        if self._kind not in (*GROUNDED, *PAIRED):
            raise WinnowError(f"{model} is a {self._kind}; known detectors: {', '.join((*GROUNDED, *PAIRED))}.")

    def _divided(self) -> list[range]:
        """Runs of classes that the model can be asked for together."""
        if self._kind in PAIRED:
            return [range(i, min(i + NAMES_AT_ONCE, len(self.names))) for i in range(0, len(self.names), NAMES_AT_ONCE)]
        parts: list[range] = []
        for i in range(len(self.names)):
            longer = range(parts[-1].start if parts else 0, i + 1)
            if parts and len(self._read(_sentence(self.names, longer)[0])["input_ids"]) <= self._room:
                parts[-1] = longer
            else:
                parts.append(range(i, i + 1))
        return parts

    def _read(self, text: str) -> dict[str, list[int]]:
        return self._processor.tokenizer(text, return_offsets_mapping=True)

    def _found(self, image: np.ndarray, names: tuple[str, ...], parts: Sequence[range]) -> Detections:
        if not parts:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), names)
        ask = self._grounded if self._kind in GROUNDED else self._paired
        with torch.inference_mode():
            answers = [ask(image, names, part) for part in parts]
        boxes, scores, labels = (torch.cat(part) for part in zip(*answers, strict=True))
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] >= self._least]
        return Detections(
            xyxy=_within(boxes[order].float().numpy(), image),
            scores=scores[order].float().numpy(),
            labels=labels[order].numpy(),
            names=names,
        )

    @property
    def _room(self) -> int:
        """Tokens of one text."""
        config = self._model.config
        return config.text_config.max_position_embeddings if self._kind in PAIRED else config.max_text_len

    def _grounded(self, image: np.ndarray, names: Sequence[str], part: range) -> tuple[torch.Tensor, ...]:
        """Boxes, scores and classes; a class's score is that of its best token."""
        text, spans = _sentence(names, part)
        inputs = self._inputs(image, text)
        made = self._model(**inputs)
        scores = made.logits[0].sigmoid().float().cpu()
        offsets: Any = self._read(text)["offset_mapping"]
        tokens = [[i for i, (a, b) in enumerate(offsets) if a < b and start <= a and b <= end] for start, end in spans]
        best, place = torch.stack([scores[:, some].max(1).values for some in tokens], 1).max(1)
        return _absolute(made.pred_boxes[0].float().cpu(), image), best, place + part.start

    def _paired(self, image: np.ndarray, names: Sequence[str], part: range) -> tuple[torch.Tensor, ...]:
        texts = [_photo(_plain(names[i])) for i in part]
        inputs = self._inputs(image, [texts], padding="max_length", truncation=True, max_length=self._room)
        found = self._processor.post_process_grounded_object_detection(
            self._model(**inputs), threshold=0.0, target_sizes=torch.tensor([image.shape[:2]], device=self._device)
        )[0]
        return found["boxes"].float().cpu(), found["scores"].float().cpu(), found["labels"].cpu() + part.start

    def _inputs(self, image: np.ndarray, text: str | list[list[str]], **options: Any) -> dict[str, torch.Tensor]:
        made = self._processor(
            images=image, text=text, return_tensors="pt", input_data_format="channels_last", **options
        )
        kind = self._model.dtype
        return {
            name: (value.to(kind) if value.is_floating_point() else value).to(self._device)
            for name, value in made.items()
        }


def _classes(context: Context | None) -> tuple[str, ...]:
    if context is None:
        return ()
    return tuple(category.name for category in context.store.datasets.categories(context.dataset_id))


def _without_weights(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name != "use_safetensors"}


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()


def _photo(name: str) -> str:
    """The words that OWL-ViT was trained on; a phrase that has an article keeps it."""
    said = name if name.split(" ", 1)[0] in ("a", "an", "the") else f"a {name}"
    return f"a photo of {said}"


def _sentence(names: Sequence[str], part: range) -> tuple[str, list[tuple[int, int]]]:
    """ "mug. red ball." and where each name stands in it: Grounding DINO was trained on names that end with a full stop."""
    text, spans = "", []
    for i in part:
        text += " " if text else ""
        spans.append((len(text), len(text) + len(_plain(names[i]))))
        text += f"{_plain(names[i])}."
    return text, spans


def _absolute(boxes: torch.Tensor, image: np.ndarray) -> torch.Tensor:
    height, width = image.shape[:2]
    corners: Any = center_to_corners_format  # annotated for several frameworks at once
    return corners(boxes) * torch.tensor([width, height, width, height])


def _within(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Cut at the image's border: these models put corners a little outside."""
    height, width = image.shape[:2]
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).reshape(-1, 4)

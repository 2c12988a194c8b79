"""A detector that reads, trained by Winnow, asked for the names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from engine.detections import Detections
from engine.training import mmlab

mmlab.install()

from engine.training.language_presets import LONGEST, load_reader, tokenizer_of
from engine.training.negatives import token_length
from engine.training.queries import Query, parts_of, prompted, query

NOTHING = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
"""What is found where nothing is asked for."""


class MMDetReader:
    """The detector in `folder`, which finds what `names` say, or the `prompts` in their place. Raises WinnowError when the
    folder does not hold one."""

    def __init__(
        self, folder: Path, names: Sequence[str], device: str = "cpu", prompts: Sequence[str] | None = None
    ) -> None:
        self._model, card = load_reader(folder)
        self._model.to(device)
        self._size, self.names = card.image_size, tuple(names)
        texts = dict(enumerate(prompts or names))
        length = token_length(tokenizer_of(card))
        self._prompts = [
            query(Path(), 0, {label: texts[label] for label in part})
            for part in parts_of(texts, length, LONGEST, together=card.isolated)
        ]

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """For each HxWx3 RGB uint8 image, of any size, its boxes in its own pixels, best score first."""
        return [self._sorted([self._asked(image, prompt) for prompt in self._prompts]) for image in images]

    def _asked(self, image: np.ndarray, prompt: Query) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        item = prompted(image[..., ::-1], prompt, self._size)
        with torch.inference_mode():
            (sample,) = self._model.test_step({key: [value] for key, value in item.items()})
        found = sample.pred_instances.cpu()
        labels = np.asarray(prompt.ids, np.int64)[found.labels.numpy()]
        return found.bboxes.float().numpy(), found.scores.float().numpy(), labels

    def _sorted(self, found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Detections:
        boxes, scores, labels = (np.concatenate(parts) for parts in zip(NOTHING, *found, strict=True))
        whole = (boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])
        order = [place for place in np.argsort(-scores, kind="stable") if whole[place]]
        return Detections(boxes[order], scores[order], labels[order], self.names)

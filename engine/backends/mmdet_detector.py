"""A detector trained by Winnow, from its folder: safetensors and a description, never code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from engine.detections import Detections
from engine.training import mmlab

mmlab.install()

from mmdet.structures import DetDataSample  # after the operators are in place

from engine.training.checkpoint import load_model
from engine.training.data import as_input, fit


class MMDetDetector:
    """The detector in `folder`. Raises WinnowError when the folder does not hold one."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._model, card = load_model(folder)
        self._model.to(device)
        self._size = card.image_size
        self.names = card.names

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """For each HxWx3 RGB uint8 image, of any size, its boxes in its own pixels, best score first."""
        if not images:
            return []
        inputs, samples = zip(*map(self._prepared, images), strict=True)
        with torch.inference_mode():
            found = self._model.test_step({"inputs": list(inputs), "data_samples": list(samples)})
        return [self._detections(sample) for sample in found]

    def _prepared(self, image: np.ndarray) -> tuple[torch.Tensor, DetDataSample]:
        small = fit(image, self._size)
        (height, width), shape = image.shape[:2], small.shape[:2]
        factors = (shape[1] / width, shape[0] / height)
        return as_input(small), DetDataSample(
            metainfo={"ori_shape": (height, width), "img_shape": shape, "scale_factor": factors}
        )

    def _detections(self, sample: DetDataSample) -> Detections:
        found = sample.pred_instances.cpu()
        order = found.scores.argsort(descending=True, stable=True)
        return Detections(
            xyxy=found.bboxes[order].float().numpy(),
            scores=found.scores[order].float().numpy(),
            labels=found.labels[order].numpy(),
            names=self.names,
        )

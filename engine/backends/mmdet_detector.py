"""A detector trained by Winnow, from its folder: safetensors and a description, never code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file

from db.errors import WinnowError
from engine.detections import Detections
from engine.training import mmlab

mmlab.install()

from mmdet.registry import MODELS  # noqa: E402  after the operators are in place
from mmdet.structures import DetDataSample  # noqa: E402

from engine.training.presets import MODELS as PRESETS  # noqa: E402


class MMDetDetector:
    """`detect` takes images of any size. Raises WinnowError when the folder does not hold a detector of ours."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        try:
            described = json.loads((folder / "detector.json").read_bytes())
            weights = load_file(str(folder / "model.safetensors"), device=device)
        except (OSError, ValueError) as error:
            raise WinnowError(f"{folder} does not hold a trained detector: {error}") from error
        if described.get("preset") not in PRESETS:
            raise WinnowError(f"{folder} is a detector of the unknown preset {described.get('preset')!r}.")
        self.names: tuple[str, ...] = tuple(described["names"])
        self._size, self._device = tuple(described["image_size"]), device
        self._model = MODELS.build(PRESETS[described["preset"]](len(self.names))).to(device).eval()
        self._model.load_state_dict(weights)

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Boxes in the pixels of each image, best score first."""
        if not images:
            return []
        batch = [self._prepared(image) for image in images]
        data = {"inputs": [inputs for inputs, _ in batch], "data_samples": [sample for _, sample in batch]}
        with torch.inference_mode():
            found = self._model.test_step(data)
        return [self._result(sample) for sample in found]

    def _prepared(self, image: np.ndarray) -> tuple[torch.Tensor, DetDataSample]:
        height, width = image.shape[:2]
        scale = min(self._size[0] / width, self._size[1] / height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(image, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        inputs = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        meta = {"img_id": 0, "ori_shape": (height, width), "img_shape": tuple(inputs.shape[1:]), "scale_factor": (scale, scale)}
        return inputs, DetDataSample(metainfo=meta)

    def _result(self, sample: DetDataSample) -> Detections:
        found = sample.pred_instances.cpu()
        order = torch.argsort(found.scores, descending=True, stable=True)
        boxes, scores, labels = (found[name][order].numpy() for name in ("bboxes", "scores", "labels"))
        return Detections(xyxy=boxes.astype(np.float32), scores=scores, labels=labels, names=self.names)

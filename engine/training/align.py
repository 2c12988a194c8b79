"""Which regions of an image a trained DetCLIP takes for the words of a caption (METHODS 4.4, the region for a word)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from db.errors import WinnowError
from engine.alignments import SHOWN, Region, Word, spans_of
from engine.concepts import concept
from engine.presets import PRESETS
from engine.training import mmlab

mmlab.install()

from engine.training.language_presets import load_reader
from engine.training.queries import Query, prompted

APART = 0.5  # IoU above which two regions of a word are one


class Aligner:
    """The detector in `folder`. Raises WinnowError for one that does not compare words with regions."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._model, card = load_reader(folder)
        if not PRESETS[card.preset].pairs:
            raise WinnowError(
                f"{card.preset} reads a prompt as a whole; only detectors of DetCLIPv2 compare single words."
            )
        self._model.to(device)
        self._size = card.image_size

    def align(self, image: np.ndarray, caption: str) -> list[Word]:
        """The caption and its noun phrases with their best regions, in pixels of the HxWx3 RGB uint8 image."""
        spans = spans_of(caption)
        said = [caption, *(concept(caption[start:end]) for start, end in spans[1:])]
        with torch.inference_mode():
            boxes, similar = self._compared(image, said)
        return [
            Word(caption[start:end], start, end, _best(boxes, similar[:, place]))
            for place, (start, end) in enumerate(spans)
        ]

    def _compared(self, image: np.ndarray, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(boxes of all anchors in the picture [anchors, 4], their cosines with the texts [anchors, texts])."""
        item = prompted(image[..., ::-1], Query(Path(), 0, "", (), ()), self._size)
        model: Any = self._model
        batch = model.data_preprocessor({key: [value] for key, value in item.items()}, False)
        meta = batch["data_samples"][0].metainfo
        found = model.bbox_head.regions(model.extract_feat(batch["inputs"]))
        boxes, inside = model.bbox_head.boxes(found, [meta])
        similar = found.features[0] @ model.text_encoder(texts).T
        scale = boxes.new_tensor([*meta["scale_factor"], *meta["scale_factor"]])
        return (boxes[0] / scale)[inside[0]].cpu(), similar[inside[0]].float().cpu()


def _best(boxes: Tensor, similar: Tensor) -> list[Region]:
    whole = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]
    kept = whole[torchvision.ops.nms(boxes[whole], similar[whole], APART)[:SHOWN]]
    return [Region(tuple(boxes[place].tolist()), float(similar[place])) for place in kept]

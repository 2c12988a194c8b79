"""Soft labels: what CLIP sees in a picture, spread over the classes (RichSem, METHODS 3.2 and 3.3).

Here for pictures that stay as they are, with the vectors of the cache. A training labels the picture it has just moved
about: see `engine.training.richsem`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.embeddings import Embeddings, Load, Region

SCALE = 100.0  # exp(s) of CLIP's logits; what OpenAI's models and most others were trained to
TEMPLATES = ("a photo of a {}",)
SHOWN = 10  # classes that a record keeps


class Soft(NamedTuple):
    """Shares (n, classes) that add up to 1 for each picture; `unread` has a sentence for each row that is none."""

    shares: np.ndarray
    unread: dict[int, str]


def named(name: str) -> str:
    """A class as it is written in a text."""
    return name.replace("_", " ")


def class_texts(embeddings: Embeddings, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> np.ndarray:
    """(classes, width) unit vectors: of each class the mean over the templates, then normalised.

    The cache keeps unit vectors, so the mean is one of directions; with one template it is exactly RichSem's."""
    each = [embeddings.texts([template.format(named(name)) for name in names]) for template in templates]
    return unit(np.mean(each, axis=0))


def soft_labels(
    embeddings: Embeddings, regions: Sequence[Region], texts: np.ndarray, load: Load, scale: float = SCALE
) -> Soft:
    """softmax(q) of regions of stored pictures, q = exp(s) · cos(picture, text of the class) (METHODS 3.2.4)."""
    seen = embeddings.images(regions, load)
    unread = {row: vector for row, vector in enumerate(seen) if isinstance(vector, str)}
    blank = np.zeros(texts.shape[1], np.float32)
    vectors = np.array([blank if isinstance(vector, str) else vector for vector in seen]).reshape(-1, texts.shape[1])
    return Soft(softmax(scale * vectors @ texts.T), unread)


def top(shares: np.ndarray, names: Sequence[str], most: int = SHOWN) -> list[list[str | float]]:
    """[[class, share], ...] of one picture (classes,), the largest share first."""
    order = np.argsort(-shares, kind="stable")[:most]
    return [[names[place], round(float(shares[place]), 4)] for place in order]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, width) of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

"""`winnow bench filter`: CLIP filters against a bare forward of the same open_clip model over the same crops.

The bare side gets the crops cut, scaled and normalised in memory and only runs the model, in the same batch size. Winnow's side
starts from stored image files: it decodes, cuts and scales them, runs the model and keeps the vectors. Both run in this
process in alternating rounds, each round with an empty cache; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from db.store import Store
from engine.embeddings import Embeddings, Region
from engine.pixels import crop, decode, encode_png
from engine.provenance import versions

CROPS, PER_IMAGE, BATCH, ROUNDS = 64, 4, 16, 3
WIDTH, HEIGHT = 640, 480
TEXTS = ("a photo of a mug", "a photo of a ball", "a red lamp", "a blue book")


def run(
    scale: float = 1.0, model: str | None = None, *, batch_size: int = BATCH, rounds: int = ROUNDS
) -> dict[str, Any]:
    """The bench at a share of 64 crops a round, with a model folder or hub id, else a random ViT-B-16. Raises WinnowError for a
    model that cannot be loaded."""
    from engine.backends.openclip import OpenCLIPEmbedder, bare_forward, random_model

    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        place = Path(folder)
        name = model or str(random_model(place / "model", "ViT-B-16"))
        embedder = OpenCLIPEmbedder(model=name, batch_size=batch_size)
        store = Store(place / "home")
        try:
            regions = _regions(store, max(PER_IMAGE, round(CROPS * scale)))
            bare = bare_forward(embedder, [crop(decode(store.blobs.get(d)), a) for d, a in regions if a], batch_size)
            bare()  # the first calls of either side are not timed
            embedder.texts(TEXTS[:1])
            timed = [(_timed(bare), *_scored(store, embedder, place / f"cache{i}", regions)) for i in range(rounds)]
        finally:
            store.close()
    return {
        "bench": "filter",
        "figures": {
            "clip_ratio_to_bare": statistics.median(plain / first for plain, first, _ in timed),
            "rescore_share": statistics.median(again / first for _, first, again in timed),
            "images_per_s": statistics.median(len(regions) / first for _, first, _ in timed),
            "bare_images_per_s": statistics.median(len(regions) / plain for plain, _, _ in timed),
            "batch_size": batch_size,
        },
        "baseline": f"open_clip's encode_image on prepared tensors, {model or 'ViT-B-16 with random weights'}",
        "n": len(regions) * rounds,
        "versions": versions(),
    }


def _regions(store: Store, count: int) -> list[Region]:
    """Boxes in stored pictures of 640x480, several in each."""
    rng = np.random.default_rng(0)
    digests = [store.blobs.put(encode_png(_picture(rng))) for _ in range(-(-count // PER_IMAGE))]
    made = []
    for i in range(count):
        x, y = int(rng.integers(0, WIDTH - 256)), int(rng.integers(0, HEIGHT - 256))
        wide, high = rng.integers(96, 256, 2).tolist()
        made.append(Region(digests[i // PER_IMAGE], (x, y, x + wide, y + high)))
    return made


def _picture(rng: np.random.Generator) -> np.ndarray:
    smooth = cv2.resize(rng.uniform(30, 220, (6, 8, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def _scored(store: Store, embedder: Any, cache: Path, regions: list[Region]) -> tuple[float, float]:
    """Seconds of a first pass, and of a second one with one text that is new, by another reader of the same cache."""

    def load(digest: str) -> np.ndarray:
        return decode(store.blobs.get(digest))

    def scored(texts: tuple[str, ...]) -> np.ndarray:
        remembered = Embeddings(cache, embedder)
        return np.array(remembered.images(regions, load)) @ remembered.texts(texts).T

    return _timed(lambda: scored(TEXTS[:-1])), _timed(lambda: scored(TEXTS))


def _timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

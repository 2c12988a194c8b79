"""The pocket aesthetic head: rates a picture by its pocket embedding, as the published one rates by CLIP ViT-L/14's.

People's ratings of Tabletop scenes do not exist. Instead a scene as it was painted is worth 7, and less the more it was spoilt:
by blur, noise, blocks of strong compression, false colours, lost contrast. The published head has no activations, so
it is an affine map, whatever its layers; here that map is found by ridge regression, which needs no random numbers, and
written into the first row of each layer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score

from engine.backends.aesthetic import PLACES, WIDTHS, AestheticHead
from engine.backends.openclip import OpenCLIPEmbedder
from engine.tabletop import paint, preset

EMBEDDER = "assets/pocket/embedder"
SCENES, HELD_OUT = 500, 200  # of two worlds
WORST, BEST = 2.0, 7.0  # ratings
PENALTIES = np.geomspace(1e-3, 1e2, 11)
Rng = np.random.Generator
Progress = Callable[[str, int, float], None]


def train(work: Path, out: Path, *, seed: int = 0, progress: Progress | None = None) -> dict[str, float]:
    """Fit the head and write it with its card to `out`; embeddings are kept in `work`. Returns the figures of the card."""
    work.mkdir(parents=True, exist_ok=True)
    vectors, ratings, _ = _pictures(work, seed + 21, SCENES, progress)
    fitted = RidgeCV(PENALTIES).fit(vectors, ratings)
    out.mkdir(parents=True, exist_ok=True)
    write(out / "head.safetensors", fitted.coef_, float(fitted.intercept_))
    figures = evaluate(out / "head.safetensors", *_pictures(work, seed + 22, HELD_OUT, progress))
    (out / "README.md").write_text(card(figures), encoding="utf-8")
    return figures


def write(path: Path, direction: np.ndarray, offset: float) -> None:
    """An affine map in the layout of the published head, half precision."""
    state: dict[str, torch.Tensor] = {}
    for place, inner, outer in zip(PLACES, (len(direction), *WIDTHS), WIDTHS, strict=False):
        weight = torch.zeros(outer, inner)
        weight[0] = torch.from_numpy(direction) if place == PLACES[0] else torch.eye(1, inner)[0]
        state[f"layers.{place}.weight"], state[f"layers.{place}.bias"] = weight.half(), torch.zeros(outer).half()
    state[f"layers.{PLACES[-1]}.bias"] += offset
    unfinished = path.with_suffix(".part")
    save_file(state, unfinished)
    os.replace(unfinished, path)


def evaluate(head: Path, vectors: np.ndarray, ratings: np.ndarray, ways: np.ndarray) -> dict[str, float]:
    """AUC of clean against spoilt pictures, of all ways and of each; correlation with the ratings; share of the spoilt below, and
    of the clean at or above, the mean of the clean, which is the filter's threshold."""
    rated, clean = AestheticHead(file=str(head)).rate(vectors), ways == CLEAN
    level = rated[clean].mean()
    figures = {"pictures": float(len(ways)), "auc": float(roc_auc_score(clean, rated))}
    for number, name in enumerate(SPOILERS):
        some = clean | (ways == number)
        figures[f"auc_{name}"] = float(roc_auc_score(clean[some], rated[some]))
    figures["correlation"] = float(np.corrcoef(rated, ratings)[0, 1])
    return figures | {"caught": float((rated[~clean] < level).mean()), "kept": float((rated[clean] >= level).mean())}


def card(figures: dict[str, float]) -> str:
    """The model card, in Markdown."""
    rows = "\n".join(f"| {name} | {value:.3g} |" for name, value in figures.items())
    return f"""# Pocket aesthetic head

Rates whole pictures by their vectors of `{EMBEDDER}`, in the layout of `sac+logos+ava1-l14-linearMSE` with 128 instead of
768 numbers. Made by `winnow pocket train aesthetic` from {SCENES} Tabletop scenes, each as painted (rated {BEST:g}) and spoilt twice
({WORST:g} to {BEST:g}); it knows nothing of beauty, nor of any other picture than those of Tabletop. The embedder sees 64 x 64
pixels: a blur that is gone at that size cannot be seen. Figures on {HELD_OUT} scenes of another world:

| figure | value |
| --- | --- |
{rows}
"""


# Pictures

CLEAN = -1


def _pictures(
    work: Path, seed: int, scenes: int, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors (n, d), ratings (n,) and what was done to each (n,): a place in SPOILERS, or CLEAN. Made once."""
    path = work / f"aesthetic_{seed}_{scenes}.npz"
    if not path.is_file():
        embedder = OpenCLIPEmbedder(model=EMBEDDER, device="cpu")
        parts: list[tuple[np.ndarray, list[float], list[int]]] = []
        for index in range(scenes):
            images, rated, ways = zip(*_rated(seed, index), strict=True)
            parts.append((embedder.images(images), list(rated), list(ways)))
            if progress is not None and index % 100 == 0:
                progress("aesthetic", index, 0.0)
        vectors, ratings, done = (np.concatenate(one) for one in zip(*parts, strict=True))
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, vectors=vectors, ratings=ratings, ways=done)
        os.replace(unfinished, path)
    with np.load(path) as kept:
        return kept["vectors"], kept["ratings"], kept["ways"]


def _rated(seed: int, index: int) -> Iterator[tuple[np.ndarray, float, int]]:
    """A scene and two spoilt ones of it, with their ratings."""
    image, rng = paint(seed, index, preset("standard")).image, np.random.default_rng([seed, index, 3])
    yield image, BEST, CLEAN
    for way in rng.choice(len(SPOILERS), 2, replace=False):
        strength = float(rng.uniform(0.3, 1))
        spoilt = list(SPOILERS.values())[way](image.astype(np.float32), strength, rng)
        yield np.clip(spoilt, 0, 255).astype(np.uint8), BEST - (BEST - WORST) * strength, int(way)


def _blurred(image: np.ndarray, strength: float, rng: Rng) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 6 * strength)


def _noisy(image: np.ndarray, strength: float, rng: Rng) -> np.ndarray:
    return image + rng.normal(0, 70 * strength, image.shape)


def _compressed(image: np.ndarray, strength: float, rng: Rng) -> np.ndarray:
    """Blocks of one colour, as the strongest compression leaves them."""
    height, width = image.shape[:2]
    side = 4 + round(12 * strength)
    small = cv2.resize(image, (width // side, height // side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def _tinted(image: np.ndarray, strength: float, rng: Rng) -> np.ndarray:
    return image * (1 + 0.7 * strength * rng.choice((-1, 1), 3)) + 70 * strength * rng.choice((-1, 1), 3)


def _faded(image: np.ndarray, strength: float, rng: Rng) -> np.ndarray:
    return image + 0.9 * strength * (rng.uniform(40, 215) - image)


SPOILERS: dict[str, Callable[[np.ndarray, float, Rng], np.ndarray]] = {
    "blur": _blurred,
    "noise": _noisy,
    "blocks": _compressed,
    "false_colours": _tinted,
    "faded": _faded,
}

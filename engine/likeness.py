"""Which candidates look alike, by the vectors that the filters have kept (`engine/embeddings.py`). No model is loaded.

A candidate is seen in its own picture, or in that of its source when it has none. Filters keep vectors of several cuts of it;
of all caches and cuts the one is taken that covers the most candidates, so that what is compared is of one sort.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.errors import WinnowError
from db.store import Store
from engine.embeddings import KEY, Region, key_of
from engine.filters.duplicates import BOUNDLESS
from engine.filters.embedded import CONTEXT
from engine.pixels import rectangle

SAMPLE = 20_000  # vectors from which the centres are found
ROUNDS = 12
CHUNK = 20_000  # vectors read at a time
PROBE = 500  # candidates by which the cuts are compared

Int = NDArray[np.int64]
Float = NDArray[np.float32]
NOTHING = (
    "No vectors of these pictures are kept. Run a recipe with a filter that embeds pictures (CLIP, duplicates); its vectors serve "
    "here too."
)


@dataclass(frozen=True, eq=False)
class Kept:
    """The candidates with a vector, ascending id, and the rows of their vectors in the file."""

    ids: Int
    rows: Int
    vectors: Float

    def chunks(self) -> Iterator[tuple[slice, Float]]:
        for start in range(0, len(self.rows), CHUNK):
            part = slice(start, start + CHUNK)
            yield part, self.vectors[self.rows[part]]


class Likeness:
    """Safe to use from several threads. What was computed last is kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[object, Kept | None]] = {}
        self._clusters: dict[tuple[int, int], tuple[object, Int]] = {}

    def kept(self, dataset_id: int) -> Kept | None:
        """The candidates of a data set that have a vector, None when there are none."""
        folder = self._store.home / "cache" / "embeddings"
        caches = sorted(path for path in folder.glob("*/") if (path / "keys").is_file())
        stamp = (len(self._store.review.columns(dataset_id)), [(c.name, (c / "keys").stat().st_size) for c in caches])
        with self._lock:
            known = self._kept.get(dataset_id)
            if known is None or known[0] != stamp:
                known = self._kept[dataset_id] = (stamp, _read(self._store, dataset_id, caches) if caches else None)
        return known[1]

    def similar(self, dataset_id: int, candidate_id: int) -> Int:
        """All candidates with a vector, the most similar to the given one first, which is itself. Raises WinnowError without
        vectors."""
        kept = self._some(dataset_id)
        at = int(np.searchsorted(kept.ids, candidate_id))
        if at == len(kept.ids) or kept.ids[at] != candidate_id:
            raise WinnowError(f"No vector is kept of candidate {candidate_id}, so nothing can be compared with it.")
        wanted = kept.vectors[kept.rows[at]]
        alike = np.concatenate([part @ wanted for _, part in kept.chunks()])
        alike[at] = np.inf
        return kept.ids[np.argsort(-alike, kind="stable")]

    def clusters(self, dataset_id: int, number: int) -> tuple[Int, Int]:
        """(ids, code from 0 of each): k-means of the vectors, the largest cluster first. Raises WinnowError without vectors."""
        kept = self._some(dataset_id)
        with self._lock:
            known = self._clusters.get((dataset_id, number))
            if known is None or known[0] is not kept:
                known = self._clusters[dataset_id, number] = (kept, clustered(kept, number))
        return kept.ids, known[1]

    def _some(self, dataset_id: int) -> Kept:
        kept = self.kept(dataset_id)
        if kept is None:
            raise WinnowError(NOTHING)
        return kept


def _read(store: Store, dataset_id: int, caches: Sequence[Path]) -> Kept | None:
    places = [row for row in store.review.places(dataset_id) if row.digest is not None]
    known = [
        (cache, {bytes(key): i for i, key in enumerate(np.fromfile(cache / "keys", KEY)["key"])}) for cache in caches
    ]
    probe = places[:: max(1, len(places) // PROBE)]
    tried = [(sum(_key(cut, row) in keys for row in probe), cache, keys, cut) for cache, keys in known for cut in CUTS]
    hits, cache, keys, cut = max(tried, key=lambda one: one[0], default=(0, None, {}, _whole))
    if not hits or cache is None:
        return None
    found = [(row.id, at) for row in places if (at := keys.get(_key(cut, row))) is not None]
    ids, rows = np.array(found, np.int64).T
    width = (cache / "vectors").stat().st_size // (4 * len(np.fromfile(cache / "keys", KEY)))
    return Kept(ids=ids, rows=rows, vectors=np.memmap(cache / "vectors", "<f4", "r").reshape(-1, width))


# The cuts of a picture that filters keep vectors of


def _whole(row: Any) -> Region:
    return Region(row.digest)


def _box(row: Any) -> Region:
    return Region(row.digest) if row.x1 is None else Region(row.digest, rectangle(row[2:6], BOUNDLESS))


def _around(row: Any) -> Region:
    if row.x1 is None:
        return Region(row.digest)
    margin = CONTEXT * max(row.x2 - row.x1, row.y2 - row.y1)
    return Region(row.digest, rectangle(row[2:6], (row.height, row.width), margin))


CUTS: tuple[Callable[[Any], Region], ...] = (_around, _box, _whole)


def _key(cut: Callable[[Any], Region], row: Any) -> bytes:
    return key_of(cut(row))


# Clusters


def clustered(kept: Kept, number: int, *, seed: int = 0) -> Int:
    """int[n]: the cluster of each candidate, 0 the largest; k-means by Lloyd's rounds from k-means++ beginnings (Arthur and
    Vassilvitskii 2007), the centres found on a sample. Raises WinnowError for fewer candidates than clusters."""
    if not 2 <= number <= len(kept.ids):
        raise WinnowError(f"{len(kept.ids)} candidates with vectors do not make {number} clusters.")
    rng = np.random.default_rng(seed)
    sample = rng.permutation(len(kept.ids))[:SAMPLE]
    centres = _centres(np.asarray(kept.vectors[np.sort(kept.rows[sample])]), number, rng)
    codes = np.concatenate([_nearest(part, centres) for _, part in kept.chunks()])
    order = np.argsort(-np.bincount(codes, minlength=number), kind="stable")
    return np.argsort(order)[codes]


def _centres(points: Float, number: int, rng: np.random.Generator) -> Float:
    centres = points[rng.integers(len(points))][None]
    while len(centres) < number:
        away = np.maximum(_distances(points, centres).min(1), 0)
        weights = away / away.sum() if away.sum() > 0 else None
        centres = np.concatenate([centres, points[rng.choice(len(points), p=weights)][None]])
    for _ in range(ROUNDS):
        codes = _nearest(points, centres)
        there = np.unique(codes)
        centres[there] = np.array([points[codes == code].mean(0) for code in there])
    return centres


def _nearest(points: Float, centres: Float) -> Int:
    return _distances(points, centres).argmin(1)


def _distances(points: Float, centres: Float) -> NDArray[np.float64]:
    """Squared distances [n, k]."""
    both = (points**2).sum(1)[:, None] + (centres**2).sum(1)
    return (both - 2 * points @ centres.T).astype(np.float64)

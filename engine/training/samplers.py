"""Batches that come from one source each: real or generated images, grounding or detection data.

Gen2Det mixes per batch, not per image: a batch is synthetic with probability p. Every process of a distributed
training makes the same choice, because a choice is a function of the seed and the number of the batch only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Sized
from functools import cache

import numpy as np
from torch.utils.data import Sampler

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS

BLOCK = 4096  # choices drawn at once


@DATA_SAMPLERS.register_module()
class SourceSampler(Sampler):
    """Positions in the data set, `batch_size` at a time from one source.

    `sources[i]` is the source of sample i, 0 to len(shares) - 1. Each batch takes source s with probability
    `shares[s]`; the samples of a source are visited in permutations, so that all of them come before any comes
    again. `batch_size` must be that of the loader, for one process. Of a batch of the whole training, process r of w
    takes the r-th part.

    The order is endless for training loops that count iterations. With `by_epoch` an epoch ends after about
    len(dataset) samples, and `set_epoch` says which one it is. `skip` starts at a later draw, as if all before it had
    been made. With `numbered`, (draw, position) is yielded, for data sets that seed their randomness with the draw; it
    counts the samples of all processes.

    Raises WinnowError for shares that are no probabilities, and for a source that has a share but no samples.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        sources: Sequence[int],
        shares: Sequence[float],
        seed: int = 0,
        by_epoch: bool = False,
        numbered: bool = False,
    ) -> None:
        _check_shares(shares)
        _check_sources(len(dataset), np.asarray(sources, np.int64), shares)
        self._members = [np.flatnonzero(np.asarray(sources) == source) for source in range(len(shares))]
        self._bounds = np.cumsum(shares)[:-1]
        self._batch, self._seed = batch_size, seed
        self._by_epoch, self._numbered = by_epoch, numbered
        self._rank, self._world = get_dist_info()
        self._first_batch = self._first_sample = 0
        self._batches = math.ceil(len(dataset) / (batch_size * self._world))
        self._choices = cache(self._draw_choices)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        """Samples of an epoch in this process."""
        return self._batches * self._batch

    def set_epoch(self, epoch: int) -> None:
        """Start at this epoch."""
        if self._by_epoch:
            self._first_batch, self._first_sample = epoch * self._batches, 0

    def skip(self, count: int) -> None:
        """Start after so many samples of this process."""
        self._first_batch, self._first_sample = divmod(count, self._batch)

    def source_of(self, batch: int) -> int:
        """The source of a batch, the same in every process."""
        return int(self._choices(batch // BLOCK)[batch % BLOCK])

    def __iter__(self) -> Iterator[int | tuple[int, int]]:
        batch, skipped = self._first_batch, self._first_sample
        used = self._used_before(batch)
        while True:
            source = self.source_of(batch)
            start = used[source] * self._batch * self._world + self._rank * self._batch
            for offset in range(skipped, self._batch):
                position = self._member(source, start + offset)
                draw = (batch * self._world + self._rank) * self._batch + offset
                yield (draw, position) if self._numbered else position
            used[source] += 1
            batch, skipped = batch + 1, 0
            if self._by_epoch and batch % self._batches == 0:
                return

    def _used_before(self, batch: int) -> np.ndarray:
        """How many of the batches before this one each source gave, [sources]."""
        full, rest = divmod(batch, BLOCK)
        blocks = [*(self._choices(block) for block in range(full)), self._choices(full)[:rest]]
        return np.bincount(np.concatenate(blocks), minlength=len(self._members))

    def _draw_choices(self, block: int) -> np.ndarray:
        chance = np.random.default_rng((self._seed, 0, block)).random(BLOCK)
        return np.searchsorted(self._bounds, chance, side="right")

    def _member(self, source: int, number: int) -> int:
        """The sample that is visited as the `number`-th of its source."""
        members = self._members[source]
        lap, place = divmod(number, len(members))
        return int(members[self._permutation(source, lap)[place]])

    def _permutation(self, source: int, lap: int) -> np.ndarray:
        """Kept for the lap a source is in, so that it is drawn once."""
        known, order = self._orders.get(source, (None, None))
        if order is None or known != lap:
            order = np.random.default_rng((self._seed, 1, source, lap)).permutation(len(self._members[source]))
            self._orders[source] = (lap, order)
        return order


@DATA_SAMPLERS.register_module()
class Gen2DetSampler(SourceSampler):
    """Each batch is synthetic with probability `probability`, else real.

    `synthetic` flags the samples; without it the data set is asked for its attribute of that name.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        probability: float = 0.2,
        synthetic: Sequence[bool] | None = None,
        seed: int = 0,
        by_epoch: bool = False,
        numbered: bool = False,
    ) -> None:
        flags = getattr(dataset, "synthetic", None) if synthetic is None else synthetic
        if flags is None:
            raise WinnowError(f"{type(dataset).__name__} does not say which samples are synthetic. Give `synthetic`.")
        sources = [int(bool(flag)) for flag in flags]
        super().__init__(dataset, batch_size, sources, (1 - probability, probability), seed, by_epoch, numbered)


def _check_shares(shares: Sequence[float]) -> None:
    if not shares or any(not 0 <= share <= 1 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise WinnowError(f"The shares of the sources should be probabilities that add up to 1; seen: {list(shares)}.")


def _check_sources(samples: int, sources: np.ndarray, shares: Sequence[float]) -> None:
    if len(sources) != samples:
        raise WinnowError(f"There are {samples} samples, but sources are given for {len(sources)}.")
    odd = sorted(set(sources.tolist()) - set(range(len(shares))))
    if odd:
        raise WinnowError(f"Sources are numbered 0 to {len(shares) - 1}, as many as shares; seen: {odd[:5]}.")
    empty = [source for source, share in enumerate(shares) if share > 0 and not (sources == source).any()]
    if empty:
        raise WinnowError(
            f"Source {empty[0]} should give {shares[empty[0]]:.0%} of the batches, but no sample belongs to it. "
            "Add samples (generated images for Gen2Det), or set its share to 0."
        )

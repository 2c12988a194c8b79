"""Which images a long-tailed training looks at: rare classes more often, and images of whole classes in turn (METHODS
3.2.7)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from mmengine.registry import DATA_SAMPLERS

from engine.training.samplers import SourceSampler

DETECTION, WHOLE = 0, 1  # sources


def repeat_factors(labels: Sequence[np.ndarray], classes: int, threshold: float) -> np.ndarray:
    """How often each image should come [images], of the labels of its objects: max over its classes of
    max(1, √(threshold / share of the images with the class)) (Gupta et al. 2019). An image without objects: once."""
    images = images_by_class(labels, classes)
    shares = np.maximum(images, 1) / max(len(labels), 1)
    of_class = np.maximum(1.0, np.sqrt(threshold / shares))
    return np.array([of_class[own].max(initial=1.0) for own in labels])


def images_by_class(labels: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """How many images have an object of each class [classes]."""
    found = [np.unique(own) for own in labels]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *found]), minlength=classes)


@DATA_SAMPLERS.register_module()
class LongTailSampler(SourceSampler):
    """A `SourceSampler` whose samples come `repeats` times in a lap, which visits all of them.

    A repeat of 1.3 is one visit in most laps and two in the others, by systematic sampling. With `alternate`, batches
    take source 0 and source 1 in turn (RichSem's 1:1); an epoch, where one counts them, is one of source 0. Without,
    they take the sources by their `shares`.
    """

    def __init__(
        self,
        dataset: Sequence[object],
        batch_size: int,
        sources: Sequence[int],
        repeats: Sequence[float],
        alternate: bool = False,
        seed: int = 0,
        by_epoch: bool = False,
        numbered: bool = False,
    ) -> None:
        shares = (0.5, 0.5) if alternate else (1.0,)
        super().__init__(dataset, batch_size, sources, shares, seed, by_epoch, numbered)
        self._alternate = alternate
        each = np.asarray(repeats, np.float64)
        self._sums = [np.cumsum(each[members]) for members in self._members]
        self._laps = [math.ceil(sums[-1]) for sums in self._sums]
        if alternate:
            self._batches = 2 * math.ceil(len(self._members[DETECTION]) / (batch_size * self._world))

    def source_of(self, batch: int) -> int:
        """The source of a batch, the same in every process."""
        return batch % 2 if self._alternate else DETECTION

    def _used_before(self, batch: int) -> np.ndarray:
        return np.array([batch - batch // 2, batch // 2]) if self._alternate else np.array([batch])

    def _member(self, source: int, number: int) -> int:
        lap, place = divmod(number, self._laps[source])
        return int(self._members[source][self._permutation(source, lap)[place]])

    def _permutation(self, source: int, lap: int) -> np.ndarray:
        """The visits of a lap, shuffled: as many as the repeats add up to, rounded up."""
        known, order = self._orders.get(source, (None, None))
        if order is None or known != lap:
            rng = np.random.default_rng((self._seed, 1, source, lap))
            sums, visits = self._sums[source], self._laps[source]
            marks = (rng.random() + np.arange(visits)) * (sums[-1] / visits)
            order = rng.permutation(np.minimum(np.searchsorted(sums, marks, side="right"), len(sums) - 1))
            self._orders[source] = (lap, order)
        return order

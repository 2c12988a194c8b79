"""Finding candidates by all that can be asked for: what the database and the columns know, and what looks alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from db.errors import WinnowError
from db.queries import Queue
from db.records import Candidate
from db.review import among
from db.store import Store
from engine.likeness import Likeness

SIMILAR = "similar:"  # the order SIMILAR:CANDIDATE, most like it first
Ids = NDArray[np.int64]


class Finder:
    """Queues with two things more: the order `similar:CANDIDATE`, and a cluster ("2:12", the third of twelve)."""

    def __init__(self, store: Store, likeness: Likeness | None = None) -> None:
        self.likeness = likeness or Likeness(store)
        self._review = store.review

    def page(
        self, queue: Queue, *, cursor: Sequence[Any], limit: int, cluster: str | None = None
    ) -> tuple[list[Candidate], list[Any] | None]:
        """As `Review.page`. Raises WinnowError too where no vectors are kept."""
        plain = cluster is None and not queue.order.startswith(SIMILAR)
        settle: Callable[[], Ids] | None = None if plain else lambda: self.ids(queue, cluster)
        return self._review.page(queue, cursor=cursor, limit=limit, settle=settle)

    def ids(self, queue: Queue, cluster: str | None = None) -> Ids:
        """The ids of all that is found, in the order of the queue."""
        found = self._ordered(queue)
        if cluster is None:
            return found
        assert queue.dataset_id is not None
        code, number = map(int, cluster.split(":"))
        ids, codes = self.likeness.clusters(queue.dataset_id, number)
        return found[np.isin(found, ids[codes == code])]

    def _ordered(self, queue: Queue) -> Ids:
        if not queue.order.startswith(SIMILAR):
            return self._review.find(queue)
        name = queue.order.removeprefix(SIMILAR)
        if not (name.isascii() and name.isdigit()):
            raise WinnowError(
                f"The order {queue.order!r} names no candidate; expected {SIMILAR}ID, such as {SIMILAR}7."
            )
        assert queue.dataset_id is not None
        shown = np.sort(self._review.find(msgspec.structs.replace(queue, order="oldest")))
        alike = self.likeness.similar(queue.dataset_id, int(name))
        at = np.minimum(np.searchsorted(shown, alike), max(len(shown) - 1, 0))
        return alike[shown[at] == alike] if len(shown) else shown


def groups(ids: Ids, named: dict[Any, Ids]) -> list[tuple[Any, int]]:
    """How many of the ids lie in each group, those with none left out."""
    sizes = [(name, int(among(np.sort(ids), members).sum())) for name, members in named.items()]
    return [(name, n) for name, n in sizes if n]

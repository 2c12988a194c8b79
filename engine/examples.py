"""Pairs of a true and a negative text that people accepted: what N3 learns from (METHODS section 1.2)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from db.queries import Queue
from db.records import Candidate, Decision, Kind
from db.review import Review
from db.store import Store
from engine.prompts import Pair

ENOUGH = 8  # accepted by people, below which the shipped pairs are shown
SHOWN = 24  # to be summarised


def accepted_pairs(store: Store, dataset_id: int) -> tuple[Pair, ...]:
    """Different negative texts of the data set that people accepted or edited, up to `SHOWN`, in a fixed random order; none
    when there are fewer than `ENOUGH`."""
    found = (pair for decision in ("edit", "accept") for pair in _decided(store.review, dataset_id, decision))
    pairs = tuple(islice(_distinct(found), SHOWN))
    return pairs if len(pairs) >= ENOUGH else ()


def _decided(review: Review, dataset_id: int, decision: str) -> Iterator[Pair]:
    queue = Queue(dataset_id=dataset_id, kind=Kind.NEGATIVE_TEXT, human=decision, order="random")
    cursor: list[Any] | None = []
    while cursor is not None:
        page, cursor = review.page(queue, cursor=cursor, limit=100)
        yield from (pair for candidate in page if (pair := _pair(review, candidate)))


def _pair(review: Review, candidate: Candidate) -> Pair | None:
    verdict = review.standing(candidate.id) if candidate.human == Decision.EDIT else None
    negative = (verdict.edit or {}).get("text_after") if verdict else None
    negative = negative or candidate.text_after
    if not candidate.text_before or not negative:
        return None
    return Pair(positive=candidate.text_before, negative=negative, edit_type=candidate.detail.get("edit_type", "other"))


def _distinct(pairs: Iterator[Pair]) -> Iterator[Pair]:
    seen: set[tuple[str, str]] = set()
    for pair in pairs:
        key = (pair.positive, pair.negative)
        if key not in seen:
            seen.add(key)
            yield pair

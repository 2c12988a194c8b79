"""What runs cost: seconds, tokens, money. Measured while they work, summed up at the end, and used to estimate the next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from db.records import Record, Run, Shard
from db.store import Store
from engine.chat import Usage
from engine.maker import Made, Maker

PARTS = 10_000  # of a shard at most; the number of a part in its run is shard.number * PARTS + part


class Estimate(Record, frozen=True, kw_only=True):
    """What a whole run will take, from what a part of it took: `seconds` of one worker, `cost` in the prices' currency."""

    targets: int
    candidates: float
    seconds: float
    cost: float


@contextmanager
def measured(store: Store, run_id: int, shard: Shard, part: int, generator: Maker) -> Iterator[list[Made]]:
    """Gives a list for what is made, and puts on record how long that took and what it cost."""
    made: list[Made] = []
    begun, before, loading = time.monotonic(), generator.usage(), generator.loading
    yield made
    usage = generator.usage() - before
    loaded = generator.loading - loading
    values = {
        "seconds": time.monotonic() - begun - loaded,
        "loading": loaded,
        "items": len(made),
        "candidates": sum(len(one.candidates) for one in made),
        "failures": sum(len(one.failures) for one in made),
    }
    note(store, run_id, shard, part, **values, **msgspec.structs.asdict(usage))


def note(store: Store, run_id: int, shard: Shard, part: int, **values: float) -> None:
    """Put figures of one part of a shard on record; done again, they are replaced."""
    store.ledger.add_metrics(run_id, shard.number * PARTS + part, values)


def spent(store: Store, run_id: int) -> dict[str, Any]:
    """The sums over a run so far: seconds of work, seconds of loading models, items, failures, and the usage."""
    sums: dict[str, float] = {}
    for metric in store.ledger.metrics(run_id):
        sums[metric.name] = sums.get(metric.name, 0) + metric.value
    usage = {name: sums.get(name, 0) for name in Usage.__struct_fields__}
    figures = {name: sums.get(name, 0) for name in ("seconds", "loading", "items", "failures")}
    return {**figures, "usage": {name: value if name == "cost" else int(value) for name, value in usage.items()}}


def estimate(store: Store, run: Run, targets: int) -> Estimate | None:
    """What `targets` targets will take, scoring included, going by what a run of the same recipe has done so far. None
    while it has done nothing yet."""
    sums = spent(store, run.id)
    if not sums["items"]:
        return None
    made = len(store.review.candidate_ids(run.id))
    scoring = [spent(store, one.id) for one in store.ledger.followers(run.id)]
    each_score = sum(one["seconds"] for one in scoring) / max(sum(one["items"] for one in scoring), 1)
    per_target = sums["seconds"] / sums["items"] + each_score * made / sums["items"]
    return Estimate(
        targets=targets,
        candidates=targets * made / sums["items"],
        seconds=sums["loading"] + targets * per_target,
        cost=targets * sums["usage"]["cost"] / sums["items"],
    )

"""`winnow bench scale`: what a person waits for at 10,000, 100,000, 1,000,000 and 5,000,000 candidates with six scores each;
`--size` asks for one size.

Every size is a store of its own, with five boxes for every candidate, up to five million. Growth is the slowest size over the fastest: what
answers from an index or from memory should hardly grow. The writers are twenty reviewers at once, each waiting for an
answer before the next verdict: every thread with a connection and commits of its own, and all through one `GroupWriter`,
both at synchronous FULL on the same disk.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from db.codec import BoxRow, Firsts
from db.columns import ACCEPTED, REJECTED, UNSEEN
from db.database import Database, sqlite_module
from db.document import BoxRows, Document
from db.errors import WinnowError
from db.queries import Queue
from db.records import Category, Decision, Image, NewVerdict
from db.store import Store
from db.writer import GroupWriter
from engine import thresholds
from engine.provenance import versions
from studio.benches.lab import CLASSES, MOVED, RULES, build, policy

SIZES = (10_000, 100_000, 1_000_000, 5_000_000)
BOXES = 5  # for every candidate
MOST_BOXES = 5_000_000
OF_IMAGE = 50  # boxes
HUMAN = {"undecided": UNSEEN, "accept": ACCEPTED, "reject": REJECTED}
PAGES = 20
ROUNDS = 5
REVIEWERS, VERDICTS = 20, 15
ASKED = ("next_page", "counters", "verdict_and_counters", "class_statistics", "histogram", "threshold_preview")


def run(scale: float = 1.0, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """The bench at a share of each size. Raises WinnowError when a counter is wrong."""
    counts = [max(1000, int(size * scale)) for size in sizes]
    table = [measure(count) for count in counts]
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        writers = _writers(Path(folder))
    growth = {f"{name}_growth": _growth([row[f"{name}_ms"] for row in table]) for name in ASKED}
    return {
        "bench": "scale",
        "table": table,
        "figures": {**growth, **writers, "largest": counts[-1]},
        "baseline": "the smallest size; for the writers, a connection and a commit for every verdict in each thread",
        "n": ROUNDS,
        "versions": versions(),
    }


def measure(count: int) -> dict[str, float]:
    """A row of the table: milliseconds, and what the first question after a start costs besides."""
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        store = Store(Path(folder))
        try:
            dataset = build(store, count)
            drawn = min(BOXES * count, MOST_BOXES)
            boxes = store.datasets.import_document(_boxes(drawn), "boxes").id
            return {"candidates": count, "boxes": drawn, **_asked(store, dataset, boxes)}
        finally:
            store.close()


def _asked(store: Store, dataset: int, boxes: int) -> dict[str, float]:
    loaded = _milliseconds(lambda: store.review.columns(dataset), 1)
    first_statistics = _milliseconds(lambda: store.datasets.class_histogram(boxes), 1)
    before, after = policy(RULES[0]), policy(MOVED)
    table = store.review.columns(dataset)
    return {
        "columns_load_ms": loaded,
        "first_class_statistics_ms": first_statistics,
        "next_page_ms": _pages(store, dataset),
        "counters_ms": _milliseconds(lambda: store.review.counts(Queue(dataset_id=dataset), {})),
        "verdict_and_counters_ms": _after_verdict(store, dataset),
        "class_statistics_ms": _milliseconds(lambda: store.datasets.class_histogram(boxes)),
        "histogram_ms": _milliseconds(lambda: thresholds.histogram(table, "seam")),
        "threshold_preview_ms": _milliseconds(lambda: thresholds.flips(table, before, after)),
    }


def _after_verdict(store: Store, dataset: int) -> float:
    """Milliseconds of a verdict and of the counters that know of it, so that a recount shows wherever it is made.

    Raises WinnowError when they are not what a look at every candidate gives.
    """
    queue = Queue(dataset_id=dataset)
    shown = iter(store.review.page(queue, limit=ROUNDS)[0])

    def decide() -> dict[str, int]:
        candidate = next(shown).id
        store.review.decide([NewVerdict(op_id=f"{candidate}", candidate_id=candidate, decision=Decision.ACCEPT)])
        return store.review.counts(queue, {})["human"]

    taken = _milliseconds(decide)
    said, human = store.review.counts(queue, {})["human"], store.review.columns(dataset).human
    there = {name: int((human == code).sum()) for name, code in HUMAN.items()}
    if said != there:
        raise WinnowError(f"The counters say {said}, but there are {there}.")
    return taken


def _pages(store: Store, dataset: int) -> float:
    """Milliseconds of the median next page, of some in a row."""
    taken: list[float] = []
    cursor: list[Any] | None = []
    while cursor is not None and len(taken) < PAGES:
        began = time.perf_counter()
        _, cursor = store.review.page(Queue(dataset_id=dataset, order="random"), cursor=cursor)
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def _milliseconds(ask: Callable[[], Any], rounds: int = ROUNDS) -> float:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        ask()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def _growth(taken: list[float]) -> float:
    return max(taken) / min(taken)


def _boxes(count: int) -> Document:
    """A data set of so many boxes, which are made as they are asked for."""
    names = [Category(id=i, name=f"class {i}", source_id=i) for i in range(CLASSES)]
    pictures = [Image(id=i, file_name=f"{i}.jpg", width=640, height=480) for i in range(max(1, count // OF_IMAGE))]
    return Document(
        format="coco",
        categories=names,
        images=lambda: pictures,
        boxes=BoxRows(lambda first: _rows(count, len(pictures), first)),
    )


def _rows(count: int, images: int, first: Firsts) -> Iterator[BoxRow]:
    rng = np.random.default_rng(0)
    owners = (rng.integers(0, images, count) + first.image).tolist()
    classes = (rng.integers(0, CLASSES, count) + first.category).tolist()
    for i in range(count):
        yield (i + first.box, owners[i], classes[i], str(i), 8.0, 8.0, 72.0, 56.0, 64.0, 48.0, 3072.0, 0, None, None)


# Twenty reviewers


def _writers(folder: Path) -> dict[str, float]:
    """The 99th percentile of a verdict's wait, in milliseconds: alone, and in a group."""
    alone = _own_commits(_fresh(folder / "alone.db"))
    database = Database(_fresh(folder / "group.db"))
    try:
        writer = GroupWriter(database)
        group = _waits(lambda _: lambda n: writer.run(lambda connection: _decide(connection.exec_driver_sql, n)))
    finally:
        database.close()
    own, shared = np.percentile(alone, 99), np.percentile(group, 99)
    return {
        "verdict_own_commit_p50_ms": float(np.median(alone)),
        "verdict_own_commit_p99_ms": float(own),
        "verdict_group_p50_ms": float(np.median(group)),
        "verdict_group_p99_ms": float(shared),
        "verdict_own_commit_max_ms": max(alone),
        "verdict_group_max_ms": max(group),
        "writer_p99_ratio": float(shared / own),
    }


def _fresh(file: Path) -> Path:
    connection: Any = sqlite_module().connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(
        "CREATE TABLE candidate (id INTEGER PRIMARY KEY, human TEXT);"
        "CREATE TABLE verdict (id INTEGER PRIMARY KEY, op_id TEXT UNIQUE, candidate_id INT, decision TEXT, at REAL);"
    )
    with connection:
        connection.executemany("INSERT INTO candidate VALUES (?, NULL)", ((i,) for i in range(REVIEWERS * VERDICTS)))
    connection.close()
    return file


def _decide(execute: Callable[..., Any], number: int) -> None:
    execute("SELECT human FROM candidate WHERE id = ?", (number,)).fetchone()
    verdict = (f"op {number}", number, time.time())
    execute("INSERT INTO verdict (op_id, candidate_id, decision, at) VALUES (?, ?, 'accept', ?)", verdict)
    execute("UPDATE candidate SET human = 'accept' WHERE id = ?", (number,))


def _own_commits(file: Path) -> list[float]:
    def reviewer(_: int) -> Callable[[int], None]:
        connection: Any = sqlite_module().connect(file, timeout=300, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous=FULL")

        def decide(number: int) -> None:
            connection.execute("BEGIN IMMEDIATE")
            _decide(connection.execute, number)
            connection.execute("COMMIT")

        return decide

    return _waits(reviewer)


def _waits(reviewer: Callable[[int], Callable[[int], Any]]) -> list[float]:
    """Milliseconds that every verdict waited, of all reviewers at once."""

    def work(who: int) -> list[float]:
        decide, taken = reviewer(who), []
        for number in range(who * VERDICTS, (who + 1) * VERDICTS):
            began = time.perf_counter()
            decide(number)
            taken.append(1000 * (time.perf_counter() - began))
        return taken

    with ThreadPoolExecutor(REVIEWERS) as pool:
        return [one for waits in pool.map(work, range(REVIEWERS)) for one in waits]

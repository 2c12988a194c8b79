"""`winnow bench lab`: every question of the threshold lab at 1,000,000 candidates with six scores each.

The baseline is the same question put to SQLite: which candidates a policy of six rules accepts, rejects and leaves pending before
and after a threshold was moved, in one pass over the scores. Both must answer alike. The figures are medians of a few rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from db.columns import PLAIN, Table
from db.database import sqlite_module
from db.document import Document
from db.errors import WinnowError
from db.records import Category, Decision, Image, NewVerdict, Policy, Rule, RunKind
from db.store import Store
from engine import thresholds
from engine.provenance import versions

CANDIDATES, CLASSES = 1_000_000, 80
ROUNDS = 7
CORNERS = 200  # of the lasso
RULES = (
    Rule(filter="seam", at_most=0.9),
    Rule(filter="overlap", at_most=0.8),
    Rule(filter="plausible_size", at_least=0.1),
    Rule(filter="sharpness", at_least=0.2),
    Rule(filter="exposure", at_most=0.95),
    Rule(filter="detector_agreement", at_least=0.3),
)
MOVED = Rule(filter="seam", at_most=0.85)
CACHE_KIB = 2**20  # of pages while the store is filled: ranks at random would have each of them written again and again
SAID = {1: "accept", 2: "reject", 0: "pending"}


def run(scale: float = 1.0) -> dict[str, Any]:
    """The bench at a share of a million candidates."""
    return measure(max(1000, int(CANDIDATES * scale)))


def measure(count: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """The bench with so many candidates. Raises WinnowError when the lab and SQLite do not answer alike."""
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        store = Store(Path(folder))
        try:
            dataset = build(store, count)
            figures = _figures(store, dataset, Path(folder) / "winnow.db", rounds)
        finally:
            store.close()
    return {
        "bench": "lab",
        "figures": {**figures, "candidates": count, "filters": len(RULES)},
        "baseline": "the same flips counted by SQLite in one pass over the scores",
        "n": rounds,
        "versions": versions(),
    }


def _figures(store: Store, dataset: int, file: Path, rounds: int) -> dict[str, float]:
    before, after = (policy(first) for first in (RULES[0], MOVED))
    began = time.perf_counter()
    table = store.review.columns(dataset)
    load = time.perf_counter() - began
    decided = thresholds.decide(table, after)
    circle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    polygon = [(0.5 + 0.45 * float(np.cos(a)), 0.5 + 0.45 * float(np.sin(a))) for a in circle]
    asked: dict[str, Callable[[], Any]] = {
        "histogram_ms": lambda: thresholds.histogram(table, "seam"),
        "decide_ms": lambda: thresholds.decide(table, after),
        "flips_ms": lambda: thresholds.flips(table, before, after),
        "against_ms": lambda: thresholds.against(table, decided),
        "scatter_ms": lambda: thresholds.scatter(table, "seam", "sharpness"),
        "inside_ms": lambda: thresholds.inside(table, "seam", "sharpness", polygon),
    }
    taken = {name: _milliseconds(ask, rounds) for name, ask in asked.items()}
    by_sql = _milliseconds(lambda: _flips_by_sql(file, before, after), 1)
    if (found := _flips_by_sql(file, before, after)) != (own := _flips_by_lab(table, before, after)):
        raise WinnowError(f"The lab counts {own}, SQLite {found}: the figures mean nothing.")
    return {
        **taken,
        "load_s": load,
        "update_ms": _update(store, dataset, table, rounds),
        "memory_mib": _bytes(table) / 2**20,
        "sql_flips_ms": by_sql,
        "flips_ratio_to_sql": taken["flips_ms"] / by_sql,
    }


def _milliseconds(ask: Callable[[], Any], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        ask()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def _update(store: Store, dataset: int, table: Table, rounds: int) -> float:
    """Milliseconds from a saved verdict to columns that know of it."""
    taken = []
    for number in range(rounds):
        candidate = int(table.ids[-1 - number])
        store.review.decide([NewVerdict(op_id=f"bench-{number}", candidate_id=candidate, decision=Decision.ACCEPT)])
        taken.append(_milliseconds(lambda: store.review.columns(dataset), 1))
    return statistics.median(taken)


def _bytes(table: Table) -> int:
    return sum(getattr(table, name).nbytes for name in PLAIN) + sum(one.nbytes for one in table.scores.values())


def policy(first: Rule) -> Policy:
    """The policy of the bench, with a first rule of one's own."""
    return Policy(id=0, name="bench", version=1, rules=(first, *RULES[1:]), created_at=0)


def _flips_by_lab(table: Table, before: Policy, after: Policy) -> dict[tuple[str, str], int]:
    pairs, counts = np.unique(
        np.stack([thresholds.decide(table, before), thresholds.decide(table, after)]), axis=1, return_counts=True
    )
    return {(SAID[was], SAID[now]): n for was, now, n in zip(*pairs.tolist(), counts.tolist(), strict=True)}


def _flips_by_sql(file: Path, before: Policy, after: Policy) -> dict[tuple[str, str], int]:
    inner = f"SELECT {_said(before)} AS was, {_said(after)} AS now FROM score GROUP BY candidate_id"
    connection: Any = sqlite_module().connect(file)
    try:
        rows = connection.execute(f"SELECT was, now, count(*) FROM ({inner}) GROUP BY was, now").fetchall()
    finally:
        connection.close()
    return {(was, now): n for was, now, n in rows}


def _said(policy: Policy) -> str:
    """The rules as SQL. The thresholds are this file's own numbers."""
    tests = " ".join(f"WHEN '{rule.filter}' THEN {_test(rule)}" for rule in policy.rules)
    passed = f"CASE filter {tests} END"
    whole = f"count({passed}) = {len(policy.rules)}"
    return f"CASE WHEN min({passed}) = 0 THEN 'reject' WHEN {whole} THEN 'accept' ELSE 'pending' END"


def _test(rule: Rule) -> str:
    return f"value <= {rule.at_most!r}" if rule.at_most is not None else f"value >= {rule.at_least!r}"


# The store


def build(store: Store, count: int) -> int:
    """Fill a store with candidates and return the id of their data set. One score in fifty is missing, one candidate in a hundred
    was decided upon. Rows go in as the store writes them, but past it: a million verdicts of its own would take an hour."""
    dataset = store.datasets.import_document(_document(), "bench").id
    run = store.ledger.create_run(
        RunKind.GENERATE, "bench", dataset_id=dataset, recipe="", options={}, seed=0, versions={}
    )
    image = store.datasets.images(dataset)[0].id
    classes = [category.id for category in store.datasets.categories(dataset)]
    rng = np.random.default_rng(0)
    connection: Any = sqlite_module().connect(store.home / "winnow.db")
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    try:
        with connection:
            connection.executemany(_CANDIDATE, _candidates(count, run.id, dataset, image, classes, rng))
            connection.executemany(_SCORE, _scores(count, rng))
    finally:
        connection.close()
    return dataset


_CANDIDATE = (
    "INSERT INTO candidate (id, run_id, dataset_id, image_id, target, variant, kind, seed, category_id, created_at,"
    " shuffle, human) VALUES (?, ?, ?, ?, ?, 0, 'instance', 0, ?, 0, ?, ?)"
)
_SCORE = "INSERT INTO score (candidate_id, filter, value, reason) VALUES (?, ?, ?, '')"


def _document() -> Document:
    names = [Category(id=i, name=f"class {i}", source_id=i) for i in range(CLASSES)]
    picture = Image(id=0, file_name="0.jpg", width=640, height=480, source_id=0)
    return Document(format="coco", categories=names, images=lambda: [picture], boxes=lambda: ())


def _candidates(
    count: int, run: int, dataset: int, image: int, classes: list[int], rng: np.random.Generator
) -> Iterator[tuple[Any, ...]]:
    shuffle, decided = rng.random(count).tolist(), rng.random(count).tolist()
    for i in range(count):
        human = "accept" if decided[i] < 0.007 else "reject" if decided[i] < 0.01 else None
        yield i + 1, run, dataset, image, f"box:{i}", classes[i % len(classes)], shuffle[i], human


def _scores(count: int, rng: np.random.Generator) -> Iterator[tuple[int, str, float | None]]:
    names = sorted(rule.filter for rule in RULES)
    values = iter(lambda: rng.random((1000, len(names))).tolist(), None)
    rows = (row for part in values for row in part)
    for candidate, row in enumerate(islice(rows, count), 1):
        for name, value in zip(names, row, strict=True):
            yield candidate, name, None if value < 0.02 else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=CANDIDATES)
    print(json.dumps(measure(parser.parse_args().count), indent=1))

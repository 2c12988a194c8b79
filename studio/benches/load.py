"""`winnow bench load`: fifty people who judge at once for half an hour, a decision a second each, on 5,000,000 candidates with six
scores each and 10,000 runs in the queue. `--scale` takes a share of the candidates and of the time, `--size` other candidates.

The studio runs in a process of its own. Everybody does what the page does: reads cards ahead, counts after that, decides on one card
after the other, knowing its version, and tells every forty seconds what is on the screen. The baseline is one person alone at the
same studio, who decides five times a second.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from db.database import sqlite_module
from db.errors import WinnowError
from db.records import RunKind
from db.store import Store
from engine.provenance import versions
from studio.benches import lab
from studio.benches.review import served

CANDIDATES, SECONDS, PEOPLE, RUNS = 5_000_000, 1800.0, 50, 10_000
PACE = 1.0  # seconds from one decision to the next
ALONE_SECONDS, ALONE_PACE = 60.0, 0.2
FIRST, PAGE, LOW = 8, 32, 48  # cards, as the page reads them
HOLD = 40.0  # seconds
WARM = 0.1  # of the time, until which memory may grow: caches fill


def run(scale: float = 1.0, size: int | None = None) -> dict[str, Any]:
    """The bench. Raises WinnowError when a request was refused, or a verdict was lost or stored twice."""
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        home = Path(folder) / "home"
        count = fill(home, size or max(1000, int(CANDIDATES * scale)))
        with served("studio", home) as (address, pid):
            alone = judge(home, address, pid, people=1, seconds=max(10.0, ALONE_SECONDS * scale), pace=ALONE_PACE)
            many = judge(home, address, pid, people=PEOPLE, seconds=max(10.0, SECONDS * scale), pace=PACE)
    ratios = {f"{name}_ratio_to_alone": many[name] / alone[name] for name in ("verdict_p50_ms", "verdict_p95_ms")}
    return {
        "bench": "load",
        "figures": {**many, **ratios, "candidates": count, "runs_in_the_queue": RUNS},
        "baseline": f"one person alone: p50 {alone['verdict_p50_ms']:.1f} ms, p95 {alone['verdict_p95_ms']:.1f} ms",
        "n": int(many["decisions"]),
        "load_average": os.getloadavg()[0],
        "versions": versions(),
    }


def fill(home: Path, candidates: int, runs: int = RUNS) -> int:
    """A store with so many candidates, and so many runs that wait. Returns the number of candidates."""
    store = Store(home)
    try:
        dataset = lab.build(store, candidates)
        first = store.ledger.create_run(
            RunKind.GENERATE, "waits", dataset_id=dataset, recipe="", options={}, seed=0, versions={}
        ).id
    finally:
        store.close()
    connection: Any = sqlite_module().connect(home / "winnow.db")
    names = ", ".join(row[1] for row in connection.execute("PRAGMA table_info(run)") if row[1] != "id")
    with connection:
        connection.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {runs}) "
            f"INSERT INTO run ({names}) SELECT {names} FROM run, n WHERE run.id = {first}"
        )
    connection.close()
    return candidates


@dataclass
class Person:
    """Somebody at the page."""

    address: str
    name: str
    decided: list[str] = field(default_factory=list)  # op_ids that were answered as saved
    verdicts: list[float] = field(default_factory=list)  # milliseconds of each
    pages: list[float] = field(default_factory=list)
    _cards: list[dict[str, Any]] = field(default_factory=list)
    _cursor: str | None = ""
    _held: float = 0.0

    def work(self, begin: float, until: float, pace: float) -> None:
        """Judge from one moment of `time.monotonic` to another. Raises WinnowError when a request is refused."""
        self._connection = http.client.HTTPConnection(self.address.removeprefix("http://"), timeout=60)
        self._read_on()
        due, self._held = begin, time.monotonic()
        while due < until and self._cards:
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + pace, time.monotonic())  # nobody makes up for a slow answer by haste
            self._decide(self._cards.pop(0))
            if time.monotonic() - self._held > HOLD:
                self._hold()
            if len(self._cards) <= LOW:
                self._read_on()
        self._connection.close()

    def _read_on(self) -> None:
        while self._cursor is not None and len(self._cards) <= LOW:
            limit = PAGE if self._cards else FIRST
            asked = {"dataset": 1, "order": "random", "reviewer": self.name, "limit": limit, "cursor": self._cursor}
            page, taken = self._ask("GET", f"/api/review/next?{urlencode(asked)}")
            self._cards += page["cards"]
            self._cursor = page["next"]
            self.pages.append(taken)
        self._ask("GET", "/api/review/counts?dataset=1")

    def _decide(self, card: dict[str, Any]) -> None:
        op_id = f"{self.name}-{card['id']}"
        given = {"op_id": op_id, "candidate_id": card["id"], "decision": "accept", "reviewer": self.name}
        (told,), taken = self._ask("POST", "/api/review/verdicts", [{**given, "seen": card["version"]}])
        if told["status"] != "saved":
            raise WinnowError(f"The verdict {op_id} was not saved: {told}.")
        self.decided.append(op_id)
        self.verdicts.append(taken)

    def _hold(self) -> None:
        self._held = time.monotonic()
        ids = [card["id"] for card in self._cards]
        told, _ = self._ask("POST", "/api/review/leases", {"reviewer": self.name, "ids": ids})
        if told["lost"]:
            raise WinnowError(f"{self.name} holds {len(told['lost'])} candidates that somebody else was given.")

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[Any, float]:
        """What is answered, and the milliseconds that it took."""
        headers = {"Content-Type": "application/json", "X-Winnow": "1"}
        began = time.perf_counter()
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self._connection.getresponse()
        told = answer.read()
        taken = 1000 * (time.perf_counter() - began)
        if answer.status != 200:
            raise WinnowError(f"{self.name} was refused: {answer.status} to {method} {path:.200}: {told[:300]!r}")
        return json.loads(told), taken


def judge(home: Path, address: str, pid: int, *, people: int, seconds: float, pace: float) -> dict[str, float]:
    """Have people judge for so long. Returns milliseconds, the growth of the server's memory, and the largest log of the database.

    Raises WinnowError when a request was refused, or a verdict was lost or stored twice.
    """
    shift = secrets.token_hex(4)
    staff = [Person(address, f"{shift} {n}") for n in range(people)]
    began = time.monotonic()
    with ThreadPoolExecutor(people) as pool, _watched(home, pid) as seen:
        turns = [began + pace * n / people for n in range(people)]
        list(pool.map(lambda person, turn: person.work(turn, began + seconds, pace), staff, turns))
    _complete(home, shift, {op_id for person in staff for op_id in person.decided})
    verdicts = [taken for person in staff for taken in person.verdicts]
    pages = [taken for person in staff for taken in person.pages]
    resident = [memory for memory, _ in seen[int(WARM * len(seen)) :]]
    return {
        **{f"verdict_p{p}_ms": float(np.percentile(verdicts, p)) for p in (50, 95, 99)},
        "verdict_max_ms": max(verdicts),
        **{f"next_page_p{p}_ms": float(np.percentile(pages, p)) for p in (50, 95)},
        "decisions": len(verdicts),
        "decisions_per_second": len(verdicts) / seconds,
        "memory_mib": max(resident),
        "memory_growth_mib": resident[-1] - resident[0],
        "log_mib": max(log for _, log in seen),
        "people": people,
        "seconds": seconds,
    }


def _complete(home: Path, shift: str, answered: set[str]) -> None:
    connection: Any = sqlite_module().connect(home / "winnow.db")
    stored = [op_id for (op_id,) in connection.execute("SELECT op_id FROM verdict WHERE op_id LIKE ?", (f"{shift} %",))]
    connection.close()
    if sorted(stored) != sorted(answered):
        raise WinnowError(f"{len(answered)} verdicts were answered as saved, {len(stored)} are stored.")


@contextmanager
def _watched(home: Path, pid: int) -> Iterator[list[tuple[float, float]]]:
    """(resident memory of the server, log of the database) in MiB, looked at twice a second."""
    seen: list[tuple[float, float]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5) or not seen:
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                return
            log = home / "winnow.db-wal"
            seen.append((pages * os.sysconf("SC_PAGE_SIZE") / 2**20, log.stat().st_size / 2**20 if log.exists() else 0))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()
    if not seen:
        raise WinnowError(f"The memory of process {pid} is not in /proc: the studio ended, or this is not Linux.")

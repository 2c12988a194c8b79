"""How the studio is doing, for machines: `/healthz` for whoever restarts it, `/metrics` in the text format of Prometheus."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from fastapi import APIRouter, Response

from db.errors import WinnowError
from db.figures import Figures
from db.store import Store

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
KEPT = 10.0  # seconds between two counts of the store, however often somebody asks
LITTLE_DISK = 2**29  # bytes; below this the next write may fail
STALE_WORKER = 60.0  # seconds of silence
DRIVER_SECONDS = 5.0
TEXT = "text/plain; version=0.0.4; charset=utf-8"

logger = logging.getLogger(__name__)

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]


class Metrics:
    """Requests as they pass: how many ended how, and how long they took. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: Counter[tuple[str, str, int]] = Counter()
        self._buckets: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS) + 1))
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def observe(self, area: str, method: str, status: int, seconds: float) -> None:
        known = method if method in ("GET", "HEAD", "POST") else "other"
        with self._lock:
            self._ended[area, known, status] += 1
            self._buckets[area][bisect_left(BOUNDS, seconds)] += 1
            self._seconds[area] += seconds

    def samples(self) -> Iterator[tuple[str, str, str, list[Sample]]]:
        """Families: name, type, help, samples."""
        with self._lock:
            ended, seconds = dict(self._ended), dict(self._seconds)
            buckets = {area: list(counts) for area, counts in self._buckets.items()}
        counted: list[Sample] = [
            ("", (("area", area), ("method", method), ("status", str(status))), n)
            for (area, method, status), n in sorted(ended.items())
        ]
        yield "winnow_requests_total", "counter", "Requests by part of the studio, method and status.", counted
        histogram = [one for area in sorted(buckets) for one in _histogram(area, buckets[area], seconds[area])]
        yield "winnow_request_seconds", "histogram", "How long requests took.", histogram


def router(store: Store, metrics: Metrics) -> APIRouter:
    """Both routes. Who may see `/metrics` is the gate's business (`studio/guard.py`)."""
    routes = APIRouter()
    counted = _every(KEPT, store.figures)

    @routes.get("/healthz")
    def healthz() -> Response:
        """200 while the store can be read and there is some disk left, else 503. A missing worker is told, and no reason to
        restart the web server."""
        found = health(store.home, counted)
        return Response(
            msgspec.json.encode(found), 200 if found["status"] == "ok" else 503, NO_STORE, "application/json"
        )

    @routes.get("/metrics")
    def prometheus() -> Response:
        families = [*metrics.samples(), *_of_store(counted()), *_of_machine(store.home)]
        return Response("".join(map(_family, families)), 200, NO_STORE, TEXT)

    return routes


NO_STORE = {"Cache-Control": "no-store"}


def health(home: Path, figures: Callable[[], Figures]) -> dict[str, object]:
    """Whether the store answers, how much disk is left, and when a worker was last heard of."""
    free = shutil.disk_usage(home).free
    found: dict[str, object] = {"status": "ok", "store": "ok", "free_gib": round(free / 2**30, 1)}
    try:
        now = figures()
    except (WinnowError, OSError) as error:
        return found | {"status": "failing", "store": str(error)}
    if free < LITTLE_DISK:
        found["status"] = "failing"
    alive = now.worker_seconds is not None and now.worker_seconds < STALE_WORKER
    return found | {"worker": "ok" if alive else "none seen", "worker_seconds": now.worker_seconds, "runs": now.runs}


def _of_store(now: Figures) -> Iterator[tuple[str, str, str, list[Sample]]]:
    yield "winnow_runs", "gauge", "Runs by state.", _labelled("state", now.runs)
    yield (
        "winnow_shards",
        "gauge",
        "Pieces of work by state; those queued are the depth of the queue.",
        _labelled("state", now.shards),
    )
    yield _gauge("winnow_images", "Images of all data sets.", now.images)
    yield _gauge("winnow_candidates", "Candidates of all runs.", now.candidates)
    yield _gauge("winnow_verdicts", "Verdicts in the log.", now.verdicts)
    yield _gauge("winnow_verdicts_last_minute", "Verdicts of the last 60 seconds.", now.verdicts_last_minute)
    yield _gauge("winnow_workers", "Workers that have told of themselves.", now.workers)
    if now.worker_seconds is not None:
        yield _gauge("winnow_worker_silence_seconds", "Since a worker was last heard of.", now.worker_seconds)


def _of_machine(home: Path) -> Iterator[tuple[str, str, str, list[Sample]]]:
    yield _gauge("winnow_disk_free_bytes", "Free on the disk of the data folder.", shutil.disk_usage(home).free)
    statm = Path("/proc/self/statm")
    if statm.exists():
        resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        yield _gauge("process_resident_memory_bytes", "Memory of the web server.", resident)
    yield from _of_cards(gpu_memory())


def _of_cards(cards: Sequence[Card]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    if not cards:
        return
    used: list[Sample] = [("", card.labels, card.used) for card in cards]
    yield "winnow_gpu_memory_used_bytes", "gauge", "Memory of the card in use, by whomever.", used
    total: list[Sample] = [("", card.labels, card.total) for card in cards]
    yield "winnow_gpu_memory_bytes", "gauge", "Memory of the card.", total


@dataclass(frozen=True)
class Card:
    """A GPU of this machine; memory in bytes."""

    index: str
    name: str
    used: int
    total: int

    @property
    def labels(self) -> Labels:
        return ("gpu", self.index), ("name", self.name)


def gpu_memory() -> list[Card]:
    """What the driver says of the cards of this machine, asked in a process of its own; [] where there is none or it does not
    answer in time. (`winnow doctor` says why.)"""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=index,name,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, check=True, capture_output=True, text=True, timeout=DRIVER_SECONDS).stdout
        return [_card(line) for line in told.splitlines()]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        logger.warning("the driver of the GPU says nothing of its memory: %s", error)
        return []


def _card(line: str) -> Card:
    """Such as `0, NVIDIA H200, 1024, 143771`, in MiB. Raises ValueError."""
    index, name, used, total = (part.strip() for part in line.split(","))
    return Card(index, name, int(used) * 2**20, int(total) * 2**20)


def _every(seconds: float, count: Callable[[], Figures]) -> Callable[[], Figures]:
    """`count`, whose answer is kept for so long."""
    lock = threading.Lock()
    kept: list[tuple[float, Figures]] = []

    def counted() -> Figures:
        with lock:
            if not kept or time.monotonic() - kept[0][0] > seconds:
                kept[:] = [(time.monotonic(), count())]
            return kept[0][1]

    return counted


def _histogram(area: str, counts: Iterable[int], seconds: float) -> Iterator[Sample]:
    label, total = ("area", area), 0
    for bound, n in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
        total += n
        yield "_bucket", (label, ("le", bound)), total
    yield "_sum", (label,), seconds
    yield "_count", (label,), total


def _gauge(name: str, help: str, value: float) -> tuple[str, str, str, list[Sample]]:
    return name, "gauge", help, [("", (), value)]


def _labelled(label: str, values: Mapping[str, float]) -> list[Sample]:
    return [("", ((label, name),), value) for name, value in sorted(values.items())]


def _family(family: tuple[str, str, str, list[Sample]]) -> str:
    name, kind, help, samples = family
    lines = [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{suffix}{_braced(labels)} {value:.17g}" for suffix, labels, value in samples]
    return "\n".join(lines) + "\n"


def _braced(labels: Labels) -> str:
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{shown}}}" if shown else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

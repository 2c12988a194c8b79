"""`winnow bench import`: a COCO-train-sized file into the store, against the fastest way we know to make it queryable.

The floor reads the bytes, decodes them with msgspec leaving polygons raw, inserts three tables in one sqlite3
transaction and builds three indexes afterwards. It checks nothing and keeps no unknown field. Both run in fresh
processes, one after the other in every round, and so does `COCO()` of pycocotools; ratios are medians of the rounds'.
Beside the clock the processor time is told: what is left of a ratio where others use the disk.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.provenance import versions

IMAGES, ANNOTATIONS, CLASSES = 118_287, 860_001, 80
POINTS = 25  # of a polygon, on average
CROWDS = 0.012
ROUNDS = 3


def run(scale: float = 1.0, rounds: int = ROUNDS) -> dict[str, Any]:
    """The bench at a share of COCO train's size. Every figure is from this machine, now."""
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        file = Path(folder) / "instances_train.json"
        write_coco(file, max(1, int(IMAGES * scale)), max(1, int(ANNOTATIONS * scale)))
        names = ("floor", "winnow", "pycocotools")
        measured = [tuple(_fresh(name, file, folder, n) for name in names) for n in range(rounds)]
        size = file.stat().st_size
    return {
        "bench": "import",
        "figures": {
            "import_ratio_to_floor": _ratio(measured, 0),
            "import_processor_ratio_to_floor": _ratio(measured, 0, "processor"),
            "import_ratio_to_pycocotools": _ratio(measured, 2),
            "import_peak_mib": max(ours["peak_mib"] for _, ours, _ in measured),
            "import_seconds": statistics.median(ours["seconds"] for _, ours, _ in measured),
            "floor_seconds": statistics.median(floor["seconds"] for floor, _, _ in measured),
            "floor_peak_mib": max(floor["peak_mib"] for floor, _, _ in measured),
            "pycocotools_peak_mib": max(other["peak_mib"] for _, _, other in measured),
            "file_mib": size / 2**20,
        },
        "baseline": "msgspec with raw polygons, one sqlite3 transaction, three indexes afterwards; no checks",
        "datumaro": "installed, not measured here" if importlib.util.find_spec("datumaro") else "not installed",
        "n": rounds,
        "versions": versions(),
    }


def _ratio(measured: list[tuple[dict[str, float], ...]], other: int, what: str = "seconds") -> float:
    """The median of the rounds' ratios of Winnow to another variant."""
    return statistics.median(row[1][what] / row[other][what] for row in measured)


def write_coco(file: Path, images: int, annotations: int) -> None:
    """A COCO file of that size, always the same: boxes inside their images, polygons of about 25 points, some crowds."""
    rng = np.random.default_rng(0)
    with file.open("w") as out:
        out.write('{"info":{"year":2017},"licenses":[],"images":[')
        out.write(",".join(_images(images)))
        out.write('],"annotations":[')
        for start in range(0, annotations, 10_000):
            part = _annotations(rng, start, min(10_000, annotations - start), images)
            out.write(("," if start else "") + ",".join(part))
        classes = [{"supercategory": "thing", "id": i + 1, "name": f"class {i + 1}"} for i in range(CLASSES)]
        out.write(f'],"categories":{json.dumps(classes)}}}')


def _images(count: int) -> Iterator[str]:
    for i in range(1, count + 1):
        url = f'"coco_url":"u/{i:012d}.jpg","date_captured":"2013-11-14 17:02:52","flickr_url":"f/{i}.jpg"'
        yield f'{{"license":3,"file_name":"{i:012d}.jpg",{url},"height":480,"width":640,"id":{i}}}'


def _annotations(rng: np.random.Generator, start: int, count: int, images: int) -> list[str]:
    owners = rng.integers(1, images + 1, count)
    classes = rng.integers(1, CLASSES + 1, count)
    sizes = rng.uniform(8, 200, (count, 2)).round(2)
    corners = (rng.uniform(0, 1, (count, 2)) * ((640, 480) - sizes)).round(2)
    points = rng.poisson(POINTS - 3, count) + 3
    crowds = rng.random(count) < CROWDS
    made = []
    for i in range(count):
        (x, y), (w, h) = corners[i].tolist(), sizes[i].tolist()
        if crowds[i]:
            shape = '{"counts":[' + ",".join(map(str, rng.integers(1, 400, points[i]).tolist())) + '],"size":[480,640]}'
        else:
            polygon = rng.uniform((x, y), (x + w, y + h), (points[i], 2)).round(2)
            shape = "[[" + ",".join(map(str, polygon.ravel().tolist())) + "]]"
        made.append(
            f'{{"segmentation":{shape},"area":{round(w * h * 0.7, 4)},"iscrowd":{int(crowds[i])},"image_id":{owners[i]},'
            f'"bbox":[{x},{y},{w},{h}],"category_id":{classes[i]},"id":{start + i + 1}}}'
        )
    return made


def _fresh(variant: str, file: Path, folder: str, number: int) -> dict[str, float]:
    """One variant in a process of its own, timed inside it after its imports."""
    target = Path(folder) / f"{variant}-{number}"
    command = [sys.executable, "-m", "studio.benches.imports", variant, str(file), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for leftover in target.glob("*"):
        leftover.unlink() if leftover.is_file() else None
    return json.loads(done.stdout)


# In the fresh process


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int
    height: int


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int
    segmentation: msgspec.Raw


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def floor(file: Path, target: Path) -> Callable[[], None]:
    """Each variant prepares an empty database and returns the work that is timed."""
    from db.database import sqlite_module

    target.mkdir()
    connection: Any = sqlite_module().connect(target / "floor.db", isolation_level=None)
    return lambda: _floor(file, connection)


def _floor(file: Path, connection: Any) -> None:
    data = msgspec.json.decode(file.read_bytes(), type=_File)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE images (id INTEGER PRIMARY KEY, file_name TEXT, width INT, height INT)")
    connection.execute("CREATE TABLE categories (id INTEGER PRIMARY KEY, name TEXT)")
    connection.execute(
        "CREATE TABLE annotations (id INTEGER PRIMARY KEY, image_id INT, category_id INT, x REAL, y REAL, w REAL, h REAL, "
        "area REAL, iscrowd INT, segmentation BLOB)"
    )
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO images VALUES (?,?,?,?)", ((i.id, i.file_name, i.width, i.height) for i in data.images)
    )
    connection.executemany("INSERT INTO categories VALUES (?,?)", ((c.id, c.name) for c in data.categories))
    rows = (
        (a.id, a.image_id, a.category_id, *a.bbox, a.area, a.iscrowd, bytes(a.segmentation)) for a in data.annotations
    )
    connection.executemany("INSERT INTO annotations VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
    connection.execute("CREATE INDEX by_image ON annotations (image_id)")
    connection.execute("CREATE INDEX by_category ON annotations (category_id)")
    connection.execute("CREATE INDEX by_name ON images (file_name)")
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def winnow(file: Path, target: Path) -> Callable[[], None]:
    from db import formats
    from db.store import Store

    store = Store(target)

    def work() -> None:
        store.datasets.import_document(formats.read(file, annotations_only=True), "bench")
        store.close()

    return work


def pycocotools(file: Path, target: Path) -> Callable[[], None]:
    """What users load such a file with; it stays in memory. What it prints is no figure."""
    from pycocotools.coco import COCO

    def work() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            COCO(str(file))

    return work


def _worker(variant: str, file: Path, target: Path) -> None:
    work = {"floor": floor, "winnow": winnow, "pycocotools": pycocotools}[variant](file, target)
    started, worked = time.perf_counter(), time.process_time()
    work()
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "processor": processor, "peak_mib": peak / 2**20}))
    sys.stdout.flush()
    os._exit(0)  # freeing millions of objects is not part of an import


if __name__ == "__main__":
    _worker(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

"""`winnow bench import`: files of the sizes of COCO train and LVIS train into the store, against the fastest way we know to
make them queryable.

The floor reads the bytes, decodes them with msgspec leaving polygons raw, inserts three tables in one sqlite3
transaction and builds three indexes afterwards. It checks nothing and keeps no unknown field. Both run in fresh
processes, one after the other in every round, and so does `COCO()` of pycocotools; ratios are medians of the rounds'.
Beside the clock the processor time is told: what is left of a ratio where others use the disk. Where datumaro is installed, its reading of a file like COCO
train's, of 2,000 images, stands beside the same floor.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.provenance import versions
from studio.benches.memory import peak_mib

ROUNDS = 3


@dataclass(frozen=True)
class Shape:
    """What a file is like."""

    images: int
    annotations: int
    classes: int
    points: int  # of a polygon, on average
    crowds: float  # the share of annotations that are crowds; without any, nothing is said of crowds
    absent: int = 0  # classes without a box, which every image says it does not show: LVIS

    def scaled(self, scale: float) -> Shape:
        """The same with a share of the images and annotations."""
        return replace(self, images=max(1, int(self.images * scale)), annotations=max(1, int(self.annotations * scale)))


COCO = Shape(images=118_287, annotations=860_001, classes=80, points=25, crowds=0.012)
LVIS = Shape(images=100_170, annotations=1_270_141, classes=1203, points=45, crowds=0, absent=3)
NAMES = ("floor", "winnow", "pycocotools")
SMALL = 2000 / COCO.images  # what datumaro is given: it keeps an object for everything


def run(scale: float = 1.0, rounds: int = ROUNDS) -> dict[str, Any]:
    """The bench at a share of both sizes. Every figure is from this machine, now."""
    return {
        "bench": "import",
        "figures": _measured(COCO.scaled(scale), rounds, "")
        | _measured(LVIS.scaled(scale), 1, "lvis_")
        | _beside(rounds),
        "baseline": "msgspec with raw polygons, one sqlite3 transaction, three indexes afterwards; no checks",
        "datumaro": "1.13.12 took 5.8 times the floor where it was measured first; measured again wherever it is installed",
        "n": rounds,
        "versions": versions(),
    }


def _measured(shape: Shape, rounds: int, prefix: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        file = Path(folder) / "instances_train.json"
        write(file, shape)
        taken = [{name: _fresh(name, file, folder, n) for name in NAMES} for n in range(rounds)]
        size = file.stat().st_size
    peaks = {name: max(row[name]["peak_mib"] for row in taken) for name in NAMES}
    seconds = {name: statistics.median(row[name]["seconds"] for row in taken) for name in NAMES}
    figures = {
        "import_ratio_to_floor": _ratio(taken, "winnow", "floor"),
        "import_processor_ratio_to_floor": _ratio(taken, "winnow", "floor", "processor"),
        "import_ratio_to_pycocotools": _ratio(taken, "winnow", "pycocotools"),
        "import_peak_mib": peaks["winnow"],
        "import_peak_to_file": peaks["winnow"] * 2**20 / size,
        "import_seconds": seconds["winnow"],
        "floor_seconds": seconds["floor"],
        "floor_peak_mib": peaks["floor"],
        "pycocotools_peak_mib": peaks["pycocotools"],
        "file_mib": size / 2**20,
    }
    return {prefix + name: value for name, value in figures.items()}


def _beside(rounds: int) -> dict[str, float]:
    """The same for datumaro, where it is installed."""
    if find_spec("datumaro") is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        file = Path(folder) / "instances_train.json"
        write(file, COCO.scaled(SMALL))
        names = ("floor", "winnow", "datumaro")
        taken = [{name: _fresh(name, file, folder, n) for name in names} for n in range(rounds)]
    return {f"small_{name}_processor_ratio_to_floor": _ratio(taken, name, "floor", "processor") for name in names[1:]}


def _ratio(taken: list[dict[str, dict[str, float]]], ours: str, other: str, what: str = "seconds") -> float:
    """The median of the rounds' ratios of two variants."""
    return statistics.median(row[ours][what] / row[other][what] for row in taken)


def write(file: Path, shape: Shape) -> None:
    """A file of that shape, always the same: boxes inside their images, polygons, some crowds."""
    rng = np.random.default_rng(0)
    with file.open("w") as out:
        out.write('{"info":{"year":2017},"licenses":[],"images":[')
        out.write(",".join(_images(shape)))
        out.write('],"annotations":[')
        for start in range(0, shape.annotations, 10_000):
            part = _annotations(rng, start, min(10_000, shape.annotations - start), shape)
            out.write(("," if start else "") + ",".join(part))
        classes = [_class(number, shape) for number in range(1, shape.classes + shape.absent + 1)]
        out.write(f'],"categories":{json.dumps(classes)}}}')


def _class(number: int, shape: Shape) -> dict[str, Any]:
    federated = {"frequency": "f", "synonyms": [f"class {number}"], "def": "a thing", "synset": f"thing.n.{number}"}
    return {"supercategory": "thing", "id": number, "name": f"class {number}"} | (federated if shape.absent else {})


def _images(shape: Shape) -> Iterator[str]:
    absent = list(range(shape.classes + 1, shape.classes + shape.absent + 1))
    lists = f'"neg_category_ids":{absent},"not_exhaustive_category_ids":[],' if absent else ""
    for i in range(1, shape.images + 1):
        url = f'"coco_url":"u/{i:012d}.jpg","date_captured":"2013-11-14 17:02:52","flickr_url":"f/{i}.jpg"'
        yield f'{{{lists}"license":3,"file_name":"{i:012d}.jpg",{url},"height":480,"width":640,"id":{i}}}'


def _annotations(rng: np.random.Generator, start: int, count: int, shape: Shape) -> list[str]:
    owners = rng.integers(1, shape.images + 1, count)
    classes = rng.integers(1, shape.classes + 1, count)
    sizes = rng.uniform(8, 200, (count, 2)).round(2)
    corners = (rng.uniform(0, 1, (count, 2)) * ((640, 480) - sizes)).round(2)
    points = rng.poisson(shape.points - 3, count) + 3
    crowds = rng.random(count) < shape.crowds
    made = []
    for i in range(count):
        (x, y), (w, h) = corners[i].tolist(), sizes[i].tolist()
        if crowds[i]:
            mask = '{"counts":[' + ",".join(map(str, rng.integers(1, 400, points[i]).tolist())) + '],"size":[480,640]}'
        else:
            polygon = rng.uniform((x, y), (x + w, y + h), (points[i], 2)).round(2)
            mask = "[[" + ",".join(map(str, polygon.ravel().tolist())) + "]]"
        crowd = f'"iscrowd":{int(crowds[i])},' if shape.crowds else ""
        made.append(
            f'{{"segmentation":{mask},"area":{round(w * h * 0.7, 4)},{crowd}"image_id":{owners[i]},'
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
    segmentation: msgspec.Raw
    iscrowd: int = 0


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


def datumaro(file: Path, target: Path) -> Callable[[], None]:
    """It takes a folder of annotations and images, of which none are needed."""
    from datumaro import Dataset

    (target / "annotations").mkdir(parents=True)
    (target / "images").mkdir()
    os.link(file, target / "annotations" / file.name)

    def work() -> None:
        assert len(Dataset.import_from(str(target), "coco_instances"))

    return work


def _worker(variant: str, file: Path, target: Path) -> None:
    variants = {"floor": floor, "winnow": winnow, "pycocotools": pycocotools, "datumaro": datumaro}
    work = variants[variant](file, target)
    started, worked = time.perf_counter(), time.process_time()
    work()
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    print(json.dumps({"seconds": seconds, "processor": processor, "peak_mib": peak_mib()}))
    sys.stdout.flush()
    os._exit(0)  # freeing millions of objects is not part of an import


if __name__ == "__main__":
    _worker(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

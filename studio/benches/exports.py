"""`winnow bench export`: a COCO-train-sized data set out of the store as COCO, against a bare streaming writer.

The floor reads rows in batches of 2,000 through the driver and writes them with orjson, polygons as they are; it keeps no
field that COCO does not name, checks nothing and renames nothing. Both read the same store in fresh processes, one after the
other in every round; the ratio is the median of the rounds' ratios. Beside the clock the processor time is told: what is
left of a ratio where others use the disk. Memory is also measured at a quarter of the size: it should not grow. Beside it,
thumbnails against OpenCV's own reduced decode of the same pictures.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.provenance import versions
from studio.benches.imports import COCO, write
from studio.benches.memory import peak_mib

ROUNDS = 3
BATCH = 2000
QUARTER = 0.25
PICTURES, THUMB = 60, 320


def run(scale: float = 1.0, rounds: int = ROUNDS) -> dict[str, Any]:
    """The bench at a share of COCO train's size."""
    whole, size = _measured(scale, rounds)
    quarter, _ = _measured(QUARTER * scale, 1)
    peak, before = (max(ours["peak_mib"] for _, ours in measured) for measured in (whole, quarter))
    return {
        "bench": "export",
        "figures": {
            "export_ratio_to_floor": _ratio(whole, "seconds"),
            "export_processor_ratio_to_floor": _ratio(whole, "processor"),
            "export_peak_mib": peak,
            "export_peak_growth": peak / before,
            "export_seconds": statistics.median(ours["seconds"] for _, ours in whole),
            "floor_seconds": statistics.median(floor["seconds"] for floor, _ in whole),
            "floor_peak_mib": max(floor["peak_mib"] for floor, _ in whole),
            "file_mib": size / 2**20,
            "thumb_ratio_to_opencv": thumbnails(),
        },
        "baseline": "rows in batches of 2,000 through orjson with raw polygons; OpenCV's reduced decode, resize and JPEG",
        "datumaro": "not measured here",
        "n": rounds,
        "versions": versions(),
    }


def _ratio(measured: list[tuple[dict[str, float], dict[str, float]]], what: str) -> float:
    """The median of the rounds' ratios of ours to the floor."""
    return statistics.median(ours[what] / floor[what] for floor, ours in measured)


def _measured(scale: float, rounds: int) -> tuple[list[tuple[dict[str, float], dict[str, float]]], int]:
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        home = Path(folder) / "home"
        file = Path(folder) / "instances_train.json"
        write(file, COCO.scaled(scale))
        _fresh("fill", home, file)
        file.unlink()
        places = (Path(folder) / name for name in map(str, itertools.count()))
        measured = [(_fresh("floor", home, next(places)), _fresh("winnow", home, next(places))) for _ in range(rounds)]
        return measured, int(measured[0][1]["bytes"])


def _fresh(variant: str, home: Path, target: Path) -> dict[str, float]:
    """One variant in a process of its own, timed inside it after its imports."""
    command = [sys.executable, "-m", "studio.benches.exports", variant, str(home), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def thumbnails(rounds: int = 5) -> float:
    """The studio's thumbnails over OpenCV's reduced decode, resize and JPEG: the median of ratios of processor time."""
    from studio.thumbs import QUALITY, shrunk

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(PICTURES)]
        for path in paths:
            smooth = cv2.resize(rng.uniform(30, 220, (7, 9, 3)), (1280, 960), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(path), np.clip(smooth + rng.normal(0, 9, smooth.shape), 0, 255).astype(np.uint8))

        def plain(path: Path) -> None:
            pixels = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_4)
            assert pixels is not None
            small = cv2.resize(pixels, (THUMB, THUMB * 3 // 4), interpolation=cv2.INTER_AREA)
            cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

        ratios = []
        for _ in range(rounds):
            own = _processor(lambda: [shrunk(path, THUMB) for path in paths])
            ratios.append(own / _processor(lambda: list(map(plain, paths))))
    return statistics.median(ratios)


def _processor(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


# In the fresh process


def fill(home: Path, file: Path) -> Callable[[], None]:
    """Each variant opens the store and returns the work that is timed."""
    from db import formats
    from db.store import Store

    store = Store(home)

    def work() -> None:
        store.datasets.import_document(formats.read(file, annotations_only=True), "bench")
        store.close()

    return work


def floor(home: Path, target: Path) -> Callable[[], None]:
    from db.database import sqlite_module

    connection: Any = sqlite_module().connect(home / "winnow.db")
    target.mkdir()
    return lambda: _floor(connection, target)


def _floor(connection: Any, target: Path) -> None:
    import orjson

    with (target / "annotations.json").open("wb") as file:
        file.write(b'{"images":[\n')
        images = "SELECT CAST(source_id AS INTEGER) AS id, file_name, width, height FROM image ORDER BY id"
        _stream(
            file, connection.execute(images), lambda r: {"id": r[0], "file_name": r[1], "width": r[2], "height": r[3]}
        )
        file.write(b'],"annotations":[\n')
        boxes = (
            "SELECT CAST(source_id AS INTEGER), image_id, category_id, x1, y1, w, h, area, crowd, segmentation FROM box"
        )
        _stream(
            file,
            connection.execute(boxes),
            lambda r: {
                "id": r[0],
                "image_id": r[1],
                "category_id": r[2],
                "bbox": r[3:7],
                "area": r[7],
                "iscrowd": r[8],
                "segmentation": orjson.Fragment(r[9]),
            },
        )
        file.write(b'],"categories":[\n')
        classes = connection.execute("SELECT id, name FROM category ORDER BY id")
        _stream(file, classes, lambda r: {"id": r[0], "name": r[1]})
        file.write(b"]}\n")


def _stream(file: Any, cursor: Any, made: Callable[[tuple[Any, ...]], dict[str, Any]]) -> None:
    import orjson

    before = b""
    while rows := cursor.fetchmany(BATCH):
        file.write(before + b",\n".join(orjson.dumps(made(row)) for row in rows))
        before = b",\n"


def winnow(home: Path, target: Path) -> Callable[[], None]:
    from db import formats
    from db.store import Store

    store = Store(home)

    def work() -> None:
        formats.write(store.datasets.document(store.datasets.list()[0].id), target, "coco", with_images=False)
        store.close()

    return work


def _worker(variant: str, home: Path, target: Path) -> None:
    work = {"fill": fill, "floor": floor, "winnow": winnow}[variant](home, target)
    began, worked = time.perf_counter(), time.process_time()
    work()
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    written = sum(path.stat().st_size for path in target.glob("*")) if variant != "fill" else 0
    print(json.dumps({"seconds": seconds, "processor": processor, "peak_mib": peak_mib(), "bytes": written}))


if __name__ == "__main__":
    _worker(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

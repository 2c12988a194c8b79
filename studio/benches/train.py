"""`winnow bench train`: a training by Winnow against the same mmdet configuration run plainly by mmengine's Runner, in
this process, in alternating rounds. The ratio is the median of the rounds' ratios. The operators that Winnow gives mmcv
are timed against straightforward ones."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson

from engine.presets import train_options
from engine.provenance import versions

IMAGES, ROUNDS, STEPS, BATCH = 24, 5, 12, 4
WIDTH, HEIGHT = 256, 192
SIZE = (192, 144)  # of what the detector sees
CLASSES = ("red", "green", "blue")


def run(scale: float = 1.0, *, preset: str = "tiny_atss") -> dict[str, Any]:
    """The bench at a share of 12 steps a round."""
    from engine.training.bench import UNEVEN, operators, speeds

    steps = max(UNEVEN + 2, round(STEPS * scale))
    options = train_options(
        preset, {"iterations": steps, "batch_size": BATCH, "image_size": SIZE, "eval_interval": steps}
    )
    rounds = ROUNDS if scale >= 1 else 2
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        data = paint(Path(folder) / "data", IMAGES)
        pairs = speeds(data, Path(folder), options, preset, rounds)
    return {
        "bench": "train",
        "figures": {
            "train_ratio_to_plain": statistics.median(ours / plain for ours, plain in pairs),
            "images_per_s": statistics.median(ours for ours, _ in pairs),
            "plain_images_per_s": statistics.median(plain for _, plain in pairs),
            **{f"{name}_times_plain": speed for name, speed in operators(rounds).items()},
        },
        "baseline": f"mmengine's Runner with mmdet's data set and pipeline, {preset}, batches of {BATCH}",
        "n": steps * rounds,
        "versions": versions(),
    }


def paint(folder: Path, images: int) -> Path:
    """Rectangles on noise as a training folder; nothing validates."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    document: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)],
    }
    (folder / "val.json").write_bytes(orjson.dumps(document))
    for number in range(images):
        picture = rng.integers(90, 160, (HEIGHT, WIDTH, 3), np.uint8)
        for channel in range(len(CLASSES)):
            w, h = rng.integers(24, 90, 2).tolist()
            x, y = int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h))
            picture[y : y + h, x : x + w] = np.eye(3)[2 - channel] * 230
            note = {"id": len(document["annotations"]) + 1, "image_id": number, "category_id": channel + 1}
            document["annotations"].append(note | {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        document["images"].append({"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
    (folder / "train.json").write_bytes(orjson.dumps(document))
    return folder

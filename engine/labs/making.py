"""What the labs make on their way, each thing once: files, painted scenes, trainings. A lab that was interrupted finds it
again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2
import msgspec

from engine.control import Silent
from engine.tabletop import Difficulty, Truth, paint

T = TypeVar("T")

# Few and rather large things, as fits small pictures; the first for detectors of classes, the second for models that read,
# with few things of a kind, as in photos.
CLASSES: dict[str, Any] = {
    "objects": (2, 5),
    "sizes": (0.0, 0.5, 0.5),
    "lookalikes": 0.05,
    "repeats": 0.1,
    "patterned": 0.4,
    "overlap": 0.1,
    "hidden": 0.25,
    "clutter": (1, 4),
    "blur": (0.0, 0.4),
    "noise": (0.0, 0.015),
}
READING: dict[str, Any] = {
    "tail": 0.0,
    "lookalikes": 0.1,
    "repeats": 0.1,
    "patterned": 0.3,
    "overlap": 0.1,
    "stacked": 0.1,
    "hidden": 0.3,
    "clutter": (0, 2),
    "blur": (0.0, 0.3),
    "noise": (0.0, 0.01),
    "lighting": 0.12,
}


def write(path: Path, value: Any) -> None:
    """All of the file or none of it, as JSON: its presence says that something is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(msgspec.json.encode(value))
    unfinished.replace(path)


def kept(path: Path, make: Callable[[], T], kind: type[T]) -> T:
    """What `make` gives, made once and kept as JSON in the file."""
    if not path.is_file():
        write(path, make())
    return msgspec.json.decode(path.read_bytes(), type=kind)


def scenes(
    folder: Path,
    part: str,
    world: int,
    count: int,
    level: Difficulty,
    fits: Callable[[Truth], bool] = lambda truth: True,
) -> list[Truth]:
    """The first `count` scenes of a world that fit, painted once as `PART/NUMBER.png` in the folder; `file_name` is relative
    to it."""

    def make() -> list[Truth]:
        (folder / part).mkdir(parents=True, exist_ok=True)
        made: list[Truth] = []
        index = 0
        while len(made) < count:
            scene = paint(world, index, level, f"{part}/{index}.png")
            index += 1
            if fits(scene.truth):
                cv2.imwrite(str(folder / scene.truth.file_name), scene.image[..., ::-1])
                made.append(scene.truth)
        return made

    return kept(folder / f"{part}.json", make, list[Truth])


def trained(preset: str, data: Path, work: Path, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """What a training says at its end. One that was interrupted goes on; one that is done is not done again."""
    from engine.training.launch import TrainJob, train

    def make() -> dict[str, Any]:
        return train(TrainJob(data, work, preset, options, seed), Silent())

    return kept(work / "done.json", make, dict[str, Any])


def only_other_kinds(folder: Path, kinds: int, name: str) -> None:
    """`train.json` of a built folder in which the first `kinds` kinds are all one class of this name, and a `val.json` without
    images: what a shared start learns, which must not know the classes of the lab."""
    made = json.loads((folder / "coco_train.json").read_bytes())
    made["categories"] = [{"id": 1, "name": name}, *(c for c in made["categories"] if c["id"] > kinds)]
    for note in made["annotations"]:
        note["category_id"] = note["category_id"] if note["category_id"] > kinds else 1
    write(folder / "train.json", made)
    write(folder / "val.json", {**made, "images": [], "annotations": []})

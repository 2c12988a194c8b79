"""The RichSem lab (METHODS 3): a long tail, images of whole classes as the web has them, and what CLIP's soft labels
add.

For every seed Tabletop gives other long-tailed training images, and for each class beyond the most frequent third
images that show mainly one object of it. As on the web, a share of these bears the name of another class, and a share
is cropped past its object. All arms compare features with CLIP's texts, start from one detector that has seen other
kinds only, and see the same number of batches of boxes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from db.errors import WinnowError
from engine.labs.making import CLASSES, only_other_kinds, trained, write
from engine.labs.paired import Arm, Study
from engine.tabletop import Difficulty, TrueObject, build, paint
from engine.tabletop.build import split_seed
from engine.tabletop.kinds import KINDS

PRESET = "tiny_faster_rcnn"
STARTED_FROM = 20_000  # seed of the world that the shared start learns from
BASE, HARD, LABEL, SEMANTIC, SINGLE = (
    "boxes only", "hard labels", "soft, label branch", "soft, semantic branch", "soft, without mosaic",
)  # fmt: skip
WHOLE: dict[str, Any] = {"class_images": "alternate", "mosaic": True}
OPTIONS: dict[str, dict[str, Any]] = {
    BASE: {"class_images": "none"},
    HARD: WHOLE,
    LABEL: {**WHOLE, "soft": "label"},
    SEMANTIC: {**WHOLE, "soft": "semantic"},
    SINGLE: {**WHOLE, "soft": "semantic", "mosaic": False},
}
ARMS = (
    Arm(BASE, "the long-tailed boxes alone, with repeat-factor sampling and the federated loss, as all arms have"),
    Arm(HARD, "after each batch of boxes one of class images in mosaics, taken for boxes of their class", (BASE,)),
    Arm(LABEL, "and CLIP's soft labels of all boxes, learnt by the classifier itself", (BASE, HARD)),
    Arm(
        SEMANTIC,
        "the soft labels learnt in a branch of their own, which the trained detector lacks: RichSem",
        (BASE, HARD, LABEL),
    ),
    Arm(SINGLE, "RichSem with each class image by itself", (SEMANTIC,)),
)
METRICS = {
    "AP": "COCO AP over all classes, IoU 0.5 to 0.95",
    "AP_r": "AP of the rare classes: at most {rare} of the training images have them",
    "AP_c": "AP of the common ones, up to {common} images",
    "AP_f": "AP of the frequent ones",
}


class Size(msgspec.Struct, frozen=True):
    """How large the lab is. `kinds` are the classes, `tail` how long-tailed the `real` images are; `rare` and `common`
    are the most training images of those. `each` class image of a class, which shows up to `margin` of the
    object's size beside it each way; of these `wrong` (0..1) bear another name and `cut` are cropped past their object.
    `repeat`, `federated`, `weight`, `view` and `prior` are RichSem's options."""

    width: int = 128
    height: int = 96
    kinds: int = 18
    tail: float = 1.7
    real: int = 120
    held_out: int = 200
    each: int = 30
    margin: float = 0.15
    wrong: float = 0.2
    cut: float = 0.2
    rare: int = 4
    common: int = 12
    steps: int = 320
    batch_size: int = 8
    lr: float = 1e-3
    start_images: int = 400
    start_steps: int = 800
    repeat: float = 0.1
    federated: int = 9
    weight: float = 0.5
    view: str = "crops"
    prior: float = 0.01


QUICK = Size(
    kinds=6, real=8, held_out=8, each=2, steps=4, batch_size=2, start_images=6, start_steps=2, rare=2, common=3
)


def study(quick: bool, work: Path) -> Study:
    """The lab. What it paints and trains on the way is kept in `work`, apart for every size."""
    size = QUICK if quick else Size()
    settings = msgspec.to_builtins(size)
    bench = Bench(size, work / "-".join(map(str, settings.values())))
    metrics = {name: said.format(**settings) for name, said in METRICS.items()}
    return Study("richsem", "RichSem on a long tail, on Tabletop", ARMS, metrics, settings, bench.measure, notes(size))


def notes(size: Size) -> tuple[str, ...]:
    """What a reader of the figures must know."""
    return (
        (
            f"{size.real} training images of {size.width}x{size.height} with {size.kinds} long-tailed classes (tail "
            f"{size.tail}), others for every seed; {size.each} class images of each class beyond the most frequent third, with "
            f"up to {size.margin:.0%} of the object's size beside it each way, of which {size.wrong:.0%} bear the name of "
            f"another class and {size.cut:.0%} are cropped past their object. "
            f"{size.held_out} other images show all classes equally often and are looked at once, after the last step."
        ),
        (
            "CLIP is the embedder of the pocket pack, which learnt from other Tabletop pictures of all kinds, as CLIP has seen "
            f"the classes of LVIS. It sees the boxes as {size.view}: its map of such small pictures has 4 x 3 cells."
        ),
        (
            f"Every training starts from one detector that was trained for {size.start_steps} steps on the other "
            f"{len(KINDS) - size.kinds} kinds. The arms with class images take {size.steps} steps of {size.batch_size} images "
            f"({PRESET}), every other of boxes, as RichSem adds its batches; boxes alone are given as many batches of boxes, and so "
            "half the steps."
        ),
        f"Classes are rare with at most {size.rare} training images, common up to {size.common}; in LVIS 10 and 100, of 100,000.",
    )


class Bench:
    """Makes the data and trains the arms; what is there already is not made again."""

    def __init__(self, size: Size, work: Path) -> None:
        self._size, self._work = size, work

    def measure(self, arm: str, seed: int) -> dict[str, float]:
        """The metrics of an arm."""
        place = self._work / f"seed-{seed}"
        if not (place / "val.json").is_file():
            shutil.rmtree(place, ignore_errors=True)
            self._paint(place, seed)
        work = place / f"arm-{list(OPTIONS).index(arm)}"
        options: dict[str, Any] = {"weights": str(self._start), "semantic": self._semantic(OPTIONS[arm])}
        if arm == BASE:
            options["iterations"] = self._size.steps // 2  # as many batches of boxes as where class images alternate
        result = self._train(place, work, options, seed)
        shutil.rmtree(work)
        return self._scored(result["per_class"], place / "train.json")

    # Training

    @cached_property
    def _start(self) -> Path:
        """Weights that know what things look like, and how texts are compared, but not one of the classes of this
        lab."""
        size, place = self._size, self._work / "start"
        if not (place / "val.json").is_file():
            build(place, _level(size, len(KINDS), 0.0), {"train": size.start_images}, seed=STARTED_FROM)
            only_other_kinds(place, size.kinds, "none")  # the kinds of the lab are things without a name
        options = {"iterations": size.start_steps, "lr": 2 * size.lr, "semantic": self._semantic({})}
        self._train(place, place / "work", options, STARTED_FROM)
        return place / "work" / "model" / "model.safetensors"

    def _semantic(self, arm: dict[str, Any]) -> dict[str, Any]:
        size = self._size
        common: dict[str, Any] = {
            "text_classifier": True,
            "prior": size.prior,
            "view": size.view,
            "weight": size.weight,
        }
        common |= {"federated": size.federated, "repeat_threshold": size.repeat}
        return common | arm

    def _train(self, data: Path, work: Path, options: dict[str, Any], seed: int) -> dict[str, Any]:
        """What the training says at its end."""
        size = self._size
        common = {"iterations": size.steps, "batch_size": size.batch_size, "lr": size.lr}
        chosen: dict[str, Any] = {**common, "image_size": (size.width, size.height), **options}
        chosen["eval_interval"] = chosen["iterations"]  # once, at the end
        return trained(PRESET, data, work, chosen, seed)

    def _scored(self, per_class: dict[str, float], train: Path) -> dict[str, float]:
        """AP over all classes and by how many of the real training images have them. Raises WinnowError for an empty
        group."""
        made = json.loads(train.read_bytes())
        real = {image["id"] for image in made["images"] if not image.get("whole_image")}
        names = {category["id"]: category["name"] for category in made["categories"]}
        pairs = {(note["image_id"], note["category_id"]) for note in made["annotations"] if note["image_id"] in real}
        images = {name: sum(category == number for _, category in pairs) for number, name in names.items()}
        groups = {
            "AP": list(images),
            "AP_r": [name for name, count in images.items() if count <= self._size.rare],
            "AP_c": [name for name, count in images.items() if self._size.rare < count <= self._size.common],
            "AP_f": [name for name, count in images.items() if count > self._size.common],
        }
        empty = [name for name, members in groups.items() if not members]
        if empty:
            raise WinnowError(f"No class of the lab belongs to {', '.join(empty)}; images by class: {images}.")
        return {name: float(np.mean([per_class[one] for one in members])) for name, members in groups.items()}

    # Data

    def _paint(self, place: Path, seed: int) -> None:
        """The training folder of a seed: long-tailed scenes, class images, held-out scenes."""
        size = self._size
        build(place, _level(size, size.kinds, size.tail), {"train": size.real}, seed=seed)
        build(place, _level(size, size.kinds, 0.0), {"val": size.held_out}, seed=seed)
        made = json.loads((place / "coco_train.json").read_bytes())
        for picture, category in self._class_images(seed):
            number = len(made["images"]) + 1
            name, (height, width) = f"images/class_{number:05d}.png", picture.shape[:2]
            cv2.imwrite(str(place / name), picture[..., ::-1])
            image = {"id": number, "file_name": name, "width": width, "height": height, "whole_image": True}
            made["images"].append(image)
            note = {"id": len(made["annotations"]) + 1, "image_id": number, "category_id": category}
            made["annotations"].append({**note, "bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0})
        write(place / "train.json", made)
        write(place / "val.json", json.loads((place / "coco_val.json").read_bytes()))

    def _class_images(self, seed: int) -> Iterator[tuple[np.ndarray, int]]:
        """(picture HxWx3 RGB, the class it is said to show), `each` of every class beyond the most frequent third."""
        size = self._size
        rng = np.random.default_rng((seed, 77))
        numbers = {kind.name: k for k, kind in enumerate(KINDS[: size.kinds], 1) if k > size.kinds // 3}
        missing, index = dict.fromkeys(numbers, size.each), 0
        world = split_seed(seed, "class")
        while any(missing.values()):
            scene = paint(world, index, _level(size, size.kinds, 0.0, objects=(1, 2), sizes=(0.0, 0.3, 0.7)))
            main = max(scene.truth.objects, key=lambda thing: thing.area)
            index += 1
            if not missing.get(main.kind):
                continue
            missing[main.kind] -= 1
            said = numbers[main.kind]
            if rng.random() < size.wrong:
                said = int(rng.choice([number for number in numbers.values() if number != said]))
            yield _window(scene.image, main, rng.random() < size.cut, size.margin, rng), said


def _window(picture: np.ndarray, main: TrueObject, past: bool, margin: float, rng: np.random.Generator) -> np.ndarray:
    """The picture around its main object with some margin, or, `past`, a part that holds a corner of it at most."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = main.box
    wide, high = x2 - x1, y2 - y1
    left, top, right, bottom = rng.uniform(0.0, margin, 4) * np.array([wide, high, wide, high])
    if past:
        right, left = (-0.7 * wide, width) if rng.random() < 0.5 else (width, -0.7 * wide)
    area = (
        np.clip([x1 - left, y1 - top, x2 + right, y2 + bottom], 0, [width, height, width, height]).round().astype(int)
    )
    if min(area[2] - area[0], area[3] - area[1]) < 16:  # nothing is left beside an object at the border
        return picture
    return picture[area[1] : area[3], area[0] : area[2]]


def _level(size: Size, kinds: int, tail: float, **more: Any) -> Difficulty:
    return Difficulty(width=size.width, height=size.height, kinds=kinds, tail=tail, **(CLASSES | more))

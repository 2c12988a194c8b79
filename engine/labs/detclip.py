"""The DetCLIPv2 lab (METHODS 4): what captions teach a detector of things that nobody ever boxed.

One detector is trained on boxes of some kinds of object. From it, every arm goes on for the same number of steps: with boxes
alone, or with batches of captioned images among them, in which all kinds appear. Then all are asked for every kind: for
those that were boxed, and for those that were only ever spoken of.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from engine.evaluation.coco import evaluate
from engine.grounding_folder import TRAIN, VAL, Detection, Grounding, Instance, Line, write_lines
from engine.labs.making import READING, scenes, trained, write
from engine.labs.paired import Arm, Study
from engine.seeds import seed_of
from engine.tabletop import KINDS, Difficulty, Truth

BOXES, PAIRS, BOTH, IMAGE_TO_TEXT = "boxes only", "+ pairs", "both directions", "image to text"
SAMPLE, CLASSES = "own words only", "+ class images"
WORLDS = {"boxed": 41, "captioned": 42, "single": 43, "test": 44}
ARMS = (
    Arm(BOXES, "more training on boxes of the boxed kinds"),
    Arm(PAIRS, "and captioned images, told apart by their text (DetCLIPv2 as published)", (BOXES,)),
    Arm(BOTH, "the same, texts also told apart by their image", (BOXES, PAIRS)),
    Arm(IMAGE_TO_TEXT, "the same, only texts told apart by their image", (BOXES, PAIRS)),
    Arm(SAMPLE, "the same as '+ pairs', but regions are chosen by the words of their own image alone", (BOXES, PAIRS)),
    Arm(CLASSES, "images of one object, whose caption is the name of its class, instead of captions", (BOXES, PAIRS)),
)
OPTIONS: dict[str, dict[str, Any]] = {
    BOXES: {"shares": (1.0, 0.0, 0.0)},
    PAIRS: {},
    BOTH: {"direction": "both"},
    IMAGE_TO_TEXT: {"direction": "image-to-text"},
    SAMPLE: {"selection": "sample"},
    CLASSES: {"proposals": 1},
}
"""What is unusual in the pair options of an arm."""
METRICS = {
    "AP50_new": "AP at IoU 0.5 of the kinds that were never boxed",
    "AP_new": "COCO AP of these",
    "AR_new": "how much of these is found among 100 boxes a kind, IoU 0.5 to 0.95",
    "AP_seen": "COCO AP of the boxed kinds",
}


class Size(msgspec.Struct, frozen=True):
    """How large the lab is. The first `kinds` of Tabletop appear, those at `new` places are never boxed; `boxed`,
    `captioned`, `single` and `test` are images, `share` of the batches of an arm are of pairs."""

    kinds: int = 12
    new: tuple[int, ...] = (2, 5, 8, 11)
    width: int = 128
    height: int = 96
    boxed: int = 500
    captioned: int = 800
    single: int = 400
    test: int = 200
    start_steps: int = 700
    steps: int = 200
    batch_size: int = 8
    pair_batch: int = 32
    share: float = 0.6
    lr: float = 1e-3
    weight: float = 0.1
    proposals: int = 30
    temperature: float = 0.5


QUICK = Size(boxed=6, captioned=6, single=6, test=4, start_steps=2, steps=2, batch_size=2, pair_batch=3, proposals=5)


def study(quick: bool, work: Path) -> Study:
    """The lab. What it makes on the way is kept in `work`, apart for every size."""
    size = QUICK if quick else Size()
    settings = {**msgspec.to_builtins(size), "options": msgspec.to_builtins(OPTIONS)}
    bench = Bench(size, work / f"{seed_of(msgspec.json.encode(size)):08x}")
    return Study("detclip", "DetCLIPv2 on Tabletop", ARMS, METRICS, settings, bench.measure, notes(size))


def notes(size: Size) -> tuple[str, ...]:
    """What a reader of the figures must know."""
    new = ", ".join(_names(size)[place] for place in size.new)
    return (
        (
            f"Never boxed: {new}. The {size.boxed} boxed images show none of them, most of the {size.captioned} captioned ones "
            "some. Their words are new to the text encoder, so boxes alone can find them by chance only: that arm is the floor, "
            "and what it says of the boxed kinds is the check."
        ),
        (
            f"The detector is tiny_detclip at {size.width}x{size.height}, trained from scratch on boxes for {size.start_steps} "
            f"steps; every arm adds {size.steps} steps, {size.share:.0%} of them of {size.pair_batch} pairs, so that it sees fewer "
            "boxes than the arm of boxes alone, which shows in AP_seen. The seed decides order, motion and draws of the added "
            "steps; images, texts and the start are the same for all seeds, which the intervals therefore leave out."
        ),
        (
            f"{size.pair_batch} pairs a batch, and a text encoder that starts untrained, are far from the paper's 6144 pairs "
            "and pretrained encoder: the order of the arms can be compared with the paper's, not their size."
        ),
    )


class Bench:
    """Makes the data and trains the arms; what is there already is not made again."""

    def __init__(self, size: Size, work: Path) -> None:
        self._size, self._work = size, work
        self._names = _names(size)
        self._new = {self._names[place] for place in size.new}

    def measure(self, arm: str, seed: int) -> dict[str, float]:
        """The metrics of an arm."""
        folder = self._work / f"seed-{seed}" / arm
        return self._scored(self._train(folder, self._lines(arm), self._options(arm), seed))

    def _options(self, arm: str) -> dict[str, Any]:
        size = self._size
        pairs = {
            "shares": (1 - size.share, 0.0, size.share),
            "weight": size.weight,
            "temperature": size.temperature,
            "proposals": size.proposals,
            "batch_size": size.pair_batch,
            "text_lr": 1.0,
        }
        return {"iterations": size.steps, "weights": str(self._start), "pairs": {**pairs, **OPTIONS[arm]}}

    # Data

    def _truths(self, part: str) -> list[Truth]:
        """The scenes of a part, painted once; `file_name` is relative to the work folder. Boxed images show boxed kinds
        only: those in which chance put another one are passed over."""
        level = _level(self._size, one=part == "single", rich=part in ("captioned", "test"))

        def fits(truth: Truth) -> bool:
            return part != "boxed" or not any(thing.kind in self._new for thing in truth.objects)

        return scenes(self._work, part, WORLDS[part], getattr(self._size, part), level, fits)

    def _lines(self, arm: str) -> list[Line]:
        boxed = [self._line(truth, boxes=True) for truth in self._truths("boxed")]
        if arm == BOXES:
            return boxed
        said = self._truths("single" if arm == CLASSES else "captioned")
        captions = [truth.objects[0].kind if arm == CLASSES else truth.caption for truth in said]
        return boxed + [self._line(truth, caption=text) for truth, text in zip(said, captions, strict=True)]

    def _line(self, truth: Truth, boxes: bool = False, caption: str = "") -> Line:
        instances = [Instance(thing.box, thing.kind) for thing in truth.objects]
        return Line(
            str(self._work / truth.file_name),
            truth.width,
            truth.height,
            Detection(instances) if boxes else None,
            Grounding(caption) if caption else None,
        )

    # Training

    @cached_property
    def _start(self) -> Path:
        """The weights that all arms start from."""
        pairs = {"shares": (1.0, 0.0, 0.0), "text_lr": 1.0}
        options = {"iterations": self._size.start_steps, "lr": 2 * self._size.lr, "pairs": pairs}
        made = self._train(self._work / "start", self._lines(BOXES), options, WORLDS["boxed"])
        return made / "model.safetensors"

    def _train(self, folder: Path, lines: Sequence[Line], options: dict[str, Any], seed: int) -> Path:
        """The folder of the trained detector."""
        size = self._size
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / TRAIN, lines)
        write(folder / VAL, {"images": [], "descriptions": [], "annotations": []})
        shared = {"batch_size": size.batch_size, "image_size": (size.width, size.height), "lr": size.lr}
        trained("tiny_detclip", folder, folder, {**shared, **options}, seed)
        return folder / "model"

    # Measuring

    def _scored(self, model: Path) -> dict[str, float]:
        from engine.backends.mmdet_reader import MMDetReader
        from engine.training.queries import read

        detector = MMDetReader(model, self._names)
        found: list[dict[str, Any]] = []
        for number, truth in enumerate(self._truths("test")):
            (seen,) = detector.detect([read(self._work / truth.file_name)[..., ::-1]])
            for (x1, y1, x2, y2), score, label in zip(
                seen.xyxy.tolist(), seen.scores.tolist(), seen.labels.tolist(), strict=True
            ):
                row = {"image_id": number, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
                found += [row] if x2 > x1 and y2 > y1 else []
        new, seen_kinds = (self._of_kinds(found, wanted) for wanted in (True, False))
        return {"AP50_new": new.AP50, "AP_new": new.mAP, "AR_new": new.AR100, "AP_seen": seen_kinds.mAP}

    def _of_kinds(self, found: list[dict[str, Any]], new: bool) -> Any:
        """COCO's numbers over the new kinds, or over the others."""
        kinds = {label for label, name in enumerate(self._names) if (name in self._new) == new}
        truths = self._truths("test")
        notes = [
            _note(number, self._names.index(thing.kind), thing.box)
            for number, truth in enumerate(truths)
            for thing in truth.objects
        ]
        notes = [{**note, "id": place} for place, note in enumerate(notes, 1) if note["category_id"] in kinds]
        images = [{"id": i, "width": self._size.width, "height": self._size.height} for i in range(len(truths))]
        document = {
            "images": images,
            "categories": [{"id": kind, "name": self._names[kind]} for kind in sorted(kinds)],
            "annotations": notes,
        }
        return evaluate(document, [row for row in found if row["category_id"] in kinds])


def _names(size: Size) -> list[str]:
    return [kind.name for kind in KINDS[: size.kinds]]


def _level(size: Size, *, one: bool, rich: bool) -> Difficulty:
    """Few and rather large things, as fits small pictures; `one` object, or `rich` scenes of several."""
    own = {
        "objects": (1, 1) if one else (2, 4) if rich else (1, 3),
        "sizes": (0.0, 0.4, 0.6),
        "lookalikes": 0.0,
        "overlap": 0.05,
        "hidden": 0.2,
        "lighting": 0.25,
    }
    return Difficulty(width=size.width, height=size.height, kinds=size.kinds, **(READING | own))


def _note(image: int, category: int, box: tuple[float, float, float, float]) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    bbox = [x1, y1, x2 - x1, y2 - y1]
    return {"image_id": image, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}

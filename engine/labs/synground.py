"""The SynGround lab (METHODS 2): what synthetic triplets of image, phrase and box teach a model about where to look.

A pocket BLIP learns from scratch what the things in an image are called; it never sees a box. From it, every arm goes on for the
same number of steps with the phrases and boxes of its own. Then all play the pointing game on the same noun phrases.
Synthetic images are collages (`engine.labs.collage`) of the captions of the real images; their boxes come from a detector
that was trained in this lab, or from the layout.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from engine.attention_folder import TRAIN, VAL, Entry, write_entries
from engine.evaluation import pointing
from engine.grounding_folder import TRAIN as LINES
from engine.grounding_folder import VAL as ASKED
from engine.grounding_folder import Line, described, write_lines
from engine.labs import wordings
from engine.labs.collage import XYXY, Collage, Part, collage, iou, phrases
from engine.labs.making import READING, kept, scenes, trained, write
from engine.labs.paired import Arm, Study
from engine.labs.pasting import Donors
from engine.seeds import seed_of
from engine.tabletop import Difficulty, TrueObject, Truth
from engine.tabletop.descriptions import bare

T = TypeVar("T")
BASE, PAIRS, REAL, SYNTHETIC, BOTH, LAYOUT, LONG = (
    "before", "no boxes", "real", "synthetic", "real + synthetic", "layout boxes", "long phrases"
)  # fmt: skip
WORLDS = {"start": 21, "real": 22, "test": 23, "detector": 24, "judge": 25}
ATTENTION = {"queue": 0, "soft": 0.0, "mlm": 0.0, "jitter": False}  # colours are half of what the phrases say
IOU = 0.5  # from which on a box of the detector is right
ARMS = (
    Arm(BASE, "the model as it learnt what things are called, without further training"),
    Arm(PAIRS, "more training on the phrases of real and synthetic images, without their boxes", (BASE,)),
    Arm(REAL, "phrases of the real images, with true boxes", (BASE, PAIRS)),
    Arm(SYNTHETIC, "phrases of the synthetic images, with the boxes of a detector", (BASE, PAIRS, REAL)),
    Arm(BOTH, "both", (PAIRS, REAL, SYNTHETIC)),
    Arm(LAYOUT, "synthetic, with the boxes that the painter was asked for", (SYNTHETIC,)),
    Arm(LONG, "synthetic, each phrase with the rest of its caption", (SYNTHETIC,)),
)
METRICS = {
    "pointing": "share of the noun phrases whose strongest point lies strictly inside of a box",
    "pointing_box": "share where, of all boxes of the image, the one that the map fills most is one of the phrase",
}


class Size(msgspec.Struct, frozen=True):
    """How large the lab is. `start`, `detector`, `judge`, `real` and `test` are images; `shown` of the real ones are for each seed, each with
    `variants` collages of its caption, of whose instances `wrong` are something else and lie `astray` from the layout. Boxes of the detector
    count from the score on where the share `precision` of them is right."""

    kinds: int = 8
    side: int = 112
    image_side: int = 40
    start: int = 4000
    start_steps: int = 1600
    start_lr: float = 1e-3
    start_batch: int = 64
    detector: int = 500
    judge: int = 150
    detector_steps: int = 900
    detector_side: int = 96
    precision: float = 0.7
    real: int = 200
    shown: int = 80
    variants: int = 3
    wrong: float = 0.15
    astray: float = 0.35
    steps: int = 120
    lr: float = 5e-4
    batch_size: int = 24
    test: int = 300


QUICK = Size(
    start=6,
    start_steps=2,
    start_batch=3,
    detector=6,
    detector_steps=2,
    judge=4,
    real=4,
    shown=3,
    variants=1,
    steps=2,
    batch_size=3,
    test=4,
)


def study(quick: bool, work: Path) -> Study:
    """The lab. What it makes on the way is kept in `work`, apart for every size."""
    size = QUICK if quick else Size()
    bench = Bench(size, work / f"{seed_of(msgspec.json.encode(size)):08x}")
    settings = msgspec.to_builtins(size)
    return Study("synground", "SynGround on Tabletop", ARMS, METRICS, settings, bench.measure, notes(size))


def notes(size: Size) -> tuple[str, ...]:
    """What a reader of the figures must know."""
    return (
        (
            f"The model is tiny_blip at {size.image_side}x{size.image_side}, trained from scratch for {size.start_steps} steps of "
            f"{size.start_batch} on {size.start} sparse images with what their things are called and no box. Every arm adds {size.steps} steps of "
            f"{size.batch_size}, with all losses but MLM. The seed decides which {size.shown} of {size.real} real images there are (the "
            "synthetic ones paint their captions), their order and the draws; start, detector and questions are the same for all."
        ),
        (
            f"A synthetic image is a collage on a cleared table; {size.wrong:.0%} of its instances are something else than the "
            f"phrase says, on purpose. The layout asks for boxes that are about {size.astray:.0%} of a side away from what was painted."
        ),
        (
            f"The detector is tiny_grounding, trained for {size.detector_steps} steps on {size.detector} other images. A phrase "
            f"keeps those boxes whose score gives a precision of {size.precision:.0%} on images that it never saw, and is left out without any; a better detector could be asked for 90%."
        ),
        "The questions are plain noun phrases of images painted by the world itself; relations and numbers are left out.",
    )


class Bench:
    """Makes the data and trains the arms; what is there already is not made again."""

    def __init__(self, size: Size, work: Path) -> None:
        self._size, self._work = size, work

    def measure(self, arm: str, seed: int) -> dict[str, float]:
        """The metrics of an arm, and what is known of its boxes."""
        entries = [] if arm == BASE else self._entries(arm, seed)
        model = self._start if arm == BASE else self._trained(arm, seed, entries)
        return {**self._scored(model), **self._known(arm, seed, entries)}

    # Data

    @cached_property
    def _level(self) -> Difficulty:
        """Two or three large things, as fits small pictures; seldom two of a kind."""
        size = self._size
        own = {"objects": (2, 3), "sizes": (0.0, 0.3, 0.7)}
        return Difficulty(width=size.side, height=size.side, kinds=size.kinds, **(READING | own))

    @cached_property
    def _sparse(self) -> Difficulty:
        """One or two large things and little else: from such a model learns soonest which words go with which looks."""
        own = {
            "objects": (1, 2),
            "sizes": (0.0, 0.2, 0.8),
            "lookalikes": 0.0,
            "repeats": 0.0,
            "stacked": 0.0,
            "clutter": (0, 1),
        }
        size = self._size
        return Difficulty(width=size.side, height=size.side, kinds=size.kinds, **(READING | own))

    def _truths(self, part: str) -> list[Truth]:
        """The scenes of a part, painted once; `file_name` is relative to the work folder."""
        level = self._sparse if part == "start" else self._level
        return scenes(self._work, part, WORLDS[part], getattr(self._size, part), level)

    def _kept(self, name: str, make: Callable[[], T], kind: type[T]) -> T:
        """What `make` gives, made once."""
        return kept(self._work / f"{name}.json", make, kind)

    @cached_property
    def _real(self) -> list[Truth]:
        return self._truths("real")

    @cached_property
    def _collages(self) -> list[Collage]:
        """The synthetic images of all captions."""

        def make() -> list[Collage]:
            donors, tables = Donors(self._work, self._truths("detector")), self._truths("detector")
            wanted = [
                (truth, at, variant) for at, truth in enumerate(self._real) for variant in range(self._size.variants)
            ]
            size = self._size
            made = [collage(self._work, *one, donors, tables, size.wrong, size.astray) for one in wanted]
            return [one for one in made if one.parts]

        return self._kept("collages", make, list[Collage])

    @cached_property
    def _detected(self) -> list[list[list[XYXY]]]:
        """For each phrase of each collage the boxes that the detector is sure of."""

        def make() -> list[list[list[XYXY]]]:
            asked = [(one.file_name, [part.text for part in one.parts]) for one in self._collages]
            sure = self._threshold()
            found = self._found(asked, (self._size.side, self._size.side))
            return [[[box for box, score in boxes if score >= sure] for boxes in of_image] for of_image in found]

        return self._kept("detected", make, list[list[list[XYXY]]])

    # Entries

    def _entries(self, arm: str, seed: int) -> list[Entry]:
        """What an arm learns from."""
        chosen = {int(i) for i in np.random.default_rng([seed, 7]).permutation(len(self._real))[: self._size.shown]}
        real = [entry for place in sorted(chosen) for entry in self._of_scene(self._real[place])]
        synthetic = [entry for entry, source, _ in self._of_collages(arm) if source in chosen]
        if arm == PAIRS:
            return [msgspec.structs.replace(entry, bbox=[]) for entry in (*real, *synthetic)]
        return [*(real if arm in (REAL, BOTH) else []), *(synthetic if arm != REAL else [])]

    def _of_scene(self, truth: Truth) -> list[Entry]:
        boxes = [thing.box for thing in truth.objects]
        path = str(self._work / truth.file_name)
        return [Entry(path, text, [boxes[i] for i in objects]) for text, _, objects in phrases(truth)]

    def _of_collages(self, arm: str) -> Iterable[tuple[Entry, int, Part]]:
        """Each phrase that has a box as an entry, the scene that its caption is of, and what was painted for it."""
        for one, detected in zip(self._collages, self._detected, strict=True):
            for place, (part, sure) in enumerate(zip(one.parts, detected, strict=True)):
                boxes = [part.asked] if arm == LAYOUT else sure
                if boxes:
                    text = longer(one.parts, place) if arm == LONG else part.text
                    yield Entry(str(self._work / one.file_name), text, boxes, True), one.source, part

    def _known(self, arm: str, seed: int, entries: Sequence[Entry]) -> dict[str, float]:
        """How many boxes an arm learns from, and of the synthetic ones the share that shows what their phrase says."""
        known = {"boxes": float(sum(len(entry.bbox) for entry in entries))}
        if not any(entry.synthetic and entry.bbox for entry in entries):
            return known
        pairs = [(box, part) for entry, _, part in self._of_collages(arm) for box in entry.bbox]
        return {
            **known,
            "boxes_right": float(np.mean([part.right and iou(box, part.painted) >= IOU for box, part in pairs])),
        }

    # Training

    @cached_property
    def _start(self) -> Path:
        """The model that all arms start from: what is in an image, and no box."""
        entries = [
            Entry(str(self._work / truth.file_name), [in_full(thing) for thing in truth.objects])
            for truth in self._truths("start")
        ]
        size = self._size
        options = {"iterations": size.start_steps, "lr": size.start_lr, "batch_size": size.start_batch}
        return self._taught("start-model", entries, options, WORLDS["start"])

    def _trained(self, arm: str, seed: int, entries: Sequence[Entry]) -> Path:
        options = {
            "iterations": self._size.steps,
            "lr": self._size.lr,
            "weights": str(self._start / "model.safetensors"),
        }
        return self._taught(f"seed-{seed}/{arm}", entries, options, seed)

    def _taught(self, name: str, entries: Sequence[Entry], options: dict[str, Any], seed: int) -> Path:
        folder, size = self._work / name, self._size
        folder.mkdir(parents=True, exist_ok=True)
        write_entries(folder / TRAIN, entries)
        write(folder / VAL, {"phrases": []})
        shared = {"batch_size": size.batch_size, "image_size": (size.image_side, size.image_side), "ema": False}
        trained("tiny_blip", folder, folder, {**shared, "attention": ATTENTION, **options}, seed)
        return folder / "model"

    # The detector

    @cached_property
    def _detector(self) -> Path:
        """A detector that reads, trained on descriptions with their boxes."""
        folder = self._work / "detector-model"
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / LINES, [self._line(truth) for truth in self._truths("detector")])
        write(folder / ASKED, {"images": [], "descriptions": [], "annotations": []})
        side = (self._size.detector_side, self._size.detector_side)
        options = {"iterations": self._size.detector_steps, "lr": 2e-3, "batch_size": 8, "image_size": side}
        trained("tiny_grounding", folder, folder, options, WORLDS["detector"])
        return folder / "model"

    def _line(self, truth: Truth) -> Line:
        texts = [(bare(one.text), [truth.objects[i].box for i in one.objects]) for one in wordings.true(truth)]
        return Line(str(self._work / truth.file_name), truth.width, truth.height, None, described(texts))

    def _found(
        self, asked: Sequence[tuple[str, list[str]]], size_wh: tuple[int, int]
    ) -> list[list[list[tuple[XYXY, float]]]]:
        """Boxes with scores for each text asked of each file."""
        from engine.training.language_presets import LONGEST, load_reader, tokenizer_of
        from engine.training.negatives import token_length
        from engine.training.queries import ask, omnilabel_queries

        model, card = load_reader(self._detector)
        texts: list[dict[str, Any]] = []
        for image, (_, said) in enumerate(asked):
            texts += [{"id": len(texts) + i, "text": text, "image_ids": [image]} for i, text in enumerate(said)]
        images = [
            {"id": i, "file_name": name, "width": size_wh[0], "height": size_wh[1]} for i, (name, _) in enumerate(asked)
        ]
        document = {"images": images, "descriptions": texts, "annotations": []}
        length = token_length(tokenizer_of(card))
        queries = omnilabel_queries(document, self._work, length, LONGEST, together=card.isolated)
        by_text: dict[int, list[tuple[XYXY, float]]] = defaultdict(list)
        for row in ask(model, queries, card.image_size):
            x, y, width, height = row["bbox"]
            by_text[row["description_ids"][0]].append(((x, y, x + width, y + height), row["scores"][0]))
        places = iter(range(len(texts)))
        return [[by_text[next(places)] for _ in said] for _, said in asked]

    def _threshold(self) -> float:
        """The lowest score from which the boxes on images that the detector never saw are right as often as is wanted; where
        it is never so good, the score of its surest tenth."""
        shown = self._truths("judge")
        said = [phrases(truth) for truth in shown]
        found = self._found(
            [(t.file_name, [text for text, _, _ in s]) for t, s in zip(shown, said, strict=True)],
            (self._size.side,) * 2,
        )
        judged = [
            (score, any(iou(box, truth.objects[i].box) >= IOU for i in objects))
            for truth, texts, of_image in zip(shown, said, found, strict=True)
            for (_, _, objects), boxes in zip(texts, of_image, strict=True)
            for box, score in boxes
        ]
        return threshold(judged, self._size.precision)

    # Judging

    def _scored(self, folder: Path) -> dict[str, float]:
        from engine.training.attending import ask, pointed

        asked = list(_questions(self._work, self._truths("test")))
        predictions = [pointed(row, heat) for row, heat in zip(asked, ask(folder, asked), strict=True)]
        found = pointing.evaluate(asked, predictions)
        return {name: found[name] for name in METRICS}


def in_full(thing: TrueObject) -> str:
    """All that there is to say of how a thing looks: few other things are the same."""
    return " ".join([thing.colour, *([] if thing.pattern == "plain" else [thing.pattern]), thing.kind])


def longer(parts: Sequence[Part], place: int) -> str:
    """A phrase with the rest of its caption: what a long phrase of a language model is like."""
    others = [part.text for at, part in enumerate(parts) if at != place]
    return f"{parts[place].text} with {' and '.join(others)}" if others else parts[place].text


def threshold(judged: Sequence[tuple[float, bool]], wanted: float) -> float:
    """The lowest score from which (score, right) are right in the `wanted` share of cases (METHODS 2.2, step 4); that of the
    surest tenth where there is none."""
    ranked = sorted(judged, reverse=True)
    if not ranked:
        return 0.0
    precision = np.cumsum([right for _, right in ranked]) / np.arange(1, len(ranked) + 1)
    good = np.flatnonzero(precision >= wanted)
    return ranked[int(good[-1]) if len(good) else len(ranked) // 10][0]


def _questions(folder: Path, scenes: Sequence[Truth]) -> Iterable[dict[str, Any]]:
    number = 0
    for truth in scenes:
        boxes = [_xywh(thing.box) for thing in truth.objects]
        for one in wordings.true(truth):
            number += 1
            yield {
                "id": number,
                "image": str(folder / truth.file_name),
                "width": truth.width,
                "height": truth.height,
                "text": bare(one.text),
                "boxes": [boxes[i] for i in one.objects],
                "proposals": boxes,
            }


def _xywh(box: XYXY) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]

"""The Enhanced Negatives lab (METHODS 1): what false descriptions and repainted images teach a detector that reads.

One detector is trained on classes and true descriptions. From it, every arm goes on for the same number of steps, on the
same images, with the prompts of its own; then all are asked the same mini-OmniLabel, whose every answer is known. Negative
images are made by pasting, with a known share of failures, so that it is also known what the filter does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from engine.evaluation.omnilabel import evaluate
from engine.grounding_folder import TRAIN, VAL, Detection, Edited, Instance, Line, described, write_lines
from engine.labs import pasting, wordings
from engine.labs.making import READING, kept, scenes, trained, write
from engine.labs.paired import Arm, Study
from engine.seeds import seed_of
from engine.tabletop import Difficulty, Truth
from engine.tabletop.descriptions import bare, mini_omnilabel
from engine.tabletop.kinds import KINDS

T = TypeVar("T")
NONE, RANDOM, RULES, WRITTEN = "no negatives", "random", "rules", "written"
RAW, FILTERED, IMAGES, MEAN = "+ images, raw", "+ images, filtered", "images only", "mean of two"
WORLDS = {"start": 11, "train": 12, "test": 13}
TEXTS = {"negative_text": 0.8, "negative_image": 0.0, "negative_pair": 0.0, "per_caption": (3, 6)}
ROUTES: dict[str, dict[str, Any]] = {
    NONE: {**TEXTS, "negative_text": 0.0},
    RANDOM: TEXTS,
    RULES: TEXTS,
    WRITTEN: TEXTS,
    RAW: {**TEXTS, "negative_text": 0.6, "negative_image": 0.15, "negative_pair": 0.1},
    FILTERED: {**TEXTS, "negative_text": 0.6, "negative_image": 0.15, "negative_pair": 0.1},
    IMAGES: {**TEXTS, "negative_text": 0.0, "negative_image": 0.15, "negative_pair": 0.1},
}
"""How often a sample of an arm takes each route, see `engine.language_options`."""
ARMS = (
    Arm(NONE, "more training on classes and true descriptions"),
    Arm(RANDOM, "true descriptions of other images join the prompt", (NONE,)),
    Arm(RULES, "foils by rules and a lexicon (N0) join it", (NONE, RANDOM)),
    Arm(WRITTEN, "foils by the pocket writer, a language model, join it", (NONE, RANDOM, RULES)),
    Arm(RAW, "and negative images of those foils, failed ones among them", (NONE, WRITTEN)),
    Arm(FILTERED, "and those negative images that the filter lets pass", (NONE, WRITTEN, RAW)),
    Arm(IMAGES, "filtered negative images alone", (NONE,)),
    Arm(MEAN, "the mean weights of 'written' and 'images only'", (WRITTEN, IMAGES)),
)
METRICS = {
    "AP_descr": "OmniLabel AP of free descriptions, asked of images where they are true and where they are false",
    "AP_descr_pos": "the same, asked only where they are true",
    "AP_categ": "AP of bare class names",
    "AP": "harmonic mean of AP_descr and AP_categ",
}


class Size(msgspec.Struct, frozen=True):
    """How large the lab is. `start`, `train` and `test` are images; `wrong` is the share of negative images that fail."""

    kinds: int = 10
    width: int = 192
    height: int = 144
    image_size: tuple[int, int] = (128, 96)
    start: int = 1200
    start_steps: int = 2500
    train: int = 250
    steps: int = 250
    test: int = 150
    batch_size: int = 8
    start_lr: float = 2e-3
    lr: float = 1e-3
    per_image: int = 3
    wrong: float = 0.4


QUICK = Size(start=6, start_steps=2, train=6, steps=2, test=4, batch_size=2, per_image=1)


def study(quick: bool, work: Path) -> Study:
    """The lab. What it makes on the way is kept in `work`, apart for every size."""
    size = QUICK if quick else Size()
    settings = {**msgspec.to_builtins(size), "routes": msgspec.to_builtins(ROUTES)}
    bench = Bench(size, work / f"{seed_of(msgspec.json.encode(size)):08x}")
    return Study(
        "enhanced-negatives", "Enhanced Negatives on Tabletop", ARMS, METRICS, settings, bench.measure, notes(size)
    )


def notes(size: Size) -> tuple[str, ...]:
    """What a reader of the figures must know."""
    return (
        (
            f"The detector is tiny_grounding at {size.image_size[0]}x{size.image_size[1]}, trained from scratch for "
            f"{size.start_steps} steps on {size.start} images; every arm adds {size.steps} steps of {size.batch_size} on "
            f"{size.train} other images, and is asked {size.test} more. The seed decides order, motion and draws of the added "
            "steps; start, images, texts and questions are the same for all seeds, which the intervals therefore leave out."
        ),
        "Descriptions are of one noun with adjectives; relations and numbers are left out: a model without fusion cannot learn them.",
        "Negative texts that other annotations make true are left out, as Winnow's filter `still_true` does; one for each description.",
        (
            f"In {size.wrong:.0%} of the negative images the painter fails on purpose: nothing is changed, or something else "
            "is painted than the text says. The filter is the two steps of METHODS 1.2, F2 with the pocket embedder."
        ),
        "The test asks with foils from the generator of true foils, whose edits the pocket writer was trained to imitate.",
    )


class Bench:
    """Makes the data and trains the arms; what is there already is not made again."""

    def __init__(self, size: Size, work: Path) -> None:
        self._size, self._work = size, work

    def measure(self, arm: str, seed: int) -> dict[str, float]:
        """The metrics of an arm, and what is known of its negatives."""
        model = self._mean(seed) if arm == MEAN else self._trained(arm, seed)
        return {**self._scored(model), **self._known(arm, seed)}

    # Data

    @cached_property
    def _level(self) -> Difficulty:
        """Few and rather large things, as fits small pictures; seldom two of a kind, as in photos."""
        size = self._size
        own = {"objects": (2, 4), "sizes": (0.0, 0.4, 0.6), "patterned": 0.4}
        return Difficulty(width=size.width, height=size.height, kinds=size.kinds, **(READING | own))

    def _truths(self, part: str) -> list[Truth]:
        """The scenes of a part, painted once; `file_name` is relative to the work folder."""
        return scenes(self._work, part, WORLDS[part], getattr(self._size, part), self._level)

    @cached_property
    def _start_scenes(self) -> list[Truth]:
        return self._truths("start")

    @cached_property
    def _scenes(self) -> list[Truth]:
        return self._truths("train")

    def _line(self, truth: Truth, negatives: Sequence[str] = (), edits: Sequence[Edited] = ()) -> Line:
        detection = Detection([Instance(thing.box, thing.kind) for thing in truth.objects])
        texts = [(bare(one.text), [truth.objects[i].box for i in one.objects]) for one in wordings.true(truth)]
        grounding = msgspec.structs.replace(described(texts), negatives=list(negatives), negative_images=list(edits))
        return Line(str(self._work / truth.file_name), truth.width, truth.height, detection, grounding)

    # Negatives

    def _texts(self, arm: str, seed: int) -> list[list[str]]:
        """The negative texts of each training image."""
        if arm in (NONE, IMAGES, MEAN):
            return [[] for _ in self._scenes]
        if arm == RANDOM:
            return wordings.of_others(self._scenes, seed)
        return self._rules if arm == RULES else self._written

    @cached_property
    def _rules(self) -> list[list[str]]:
        return self._kept("rules", lambda: wordings.by_rules(self._scenes), list[list[str]])

    @cached_property
    def _written(self) -> list[list[str]]:
        return self._kept("written", lambda: wordings.by_writer(self._scenes, self._work), list[list[str]])

    @cached_property
    def _pasted(self) -> list[list[pasting.Pasted]]:
        """The negative images of each training image."""

        def make() -> list[list[pasting.Pasted]]:
            rng = np.random.default_rng(self._size.train)
            donors = pasting.Donors(self._work, self._start_scenes)
            return pasting.paste(
                self._work, self._scenes, self._written, donors, self._size.wrong, self._size.per_image, rng
            )

        return self._kept("pasted", make, list[list[pasting.Pasted]])

    def _images(self, arm: str) -> list[list[Edited]]:
        if arm not in (RAW, FILTERED, IMAGES):
            return [[] for _ in self._scenes]
        return [[one.edited for one in of_scene if arm == RAW or one.passed] for of_scene in self._pasted]

    def _kept(self, name: str, make: Callable[[], T], kind: type[T]) -> T:
        """What `make` gives, made once."""
        return kept(self._work / f"{name}.json", make, kind)

    def _known(self, arm: str, seed: int) -> dict[str, float]:
        """Of the negative texts, how many there are and the share that is false indeed; of the images, how many there are and
        the share that shows its text."""
        if arm == MEAN:
            return {}
        texts, images = self._texts(arm, seed), self._images(arm)
        false = [wordings.is_false(truth, text) for truth, own in zip(self._scenes, texts, strict=True) for text in own]
        right = [one.right for own in self._pasted for one in own if arm == RAW or one.passed] if any(images) else []
        known = {"texts": len(false), "images": len(right)}
        shares = {"texts_false": false, "images_right": right}
        return {**known, **{name: float(np.mean(found)) for name, found in shares.items() if found}}

    # Training

    @cached_property
    def _start(self) -> Path:
        """The detector that all arms start from."""
        folder = self._work / "start-model"
        options = {"iterations": self._size.start_steps, "lr": self._size.start_lr, "language": ROUTES[NONE]}
        return self._train([self._line(truth) for truth in self._start_scenes], folder, options, seed=WORLDS["start"])

    def _trained(self, arm: str, seed: int) -> Path:
        folder = self._work / f"seed-{seed}" / arm
        texts, images = self._texts(arm, seed), self._images(arm)
        lines = [self._line(*one) for one in zip(self._scenes, texts, images, strict=True)]
        start = str(self._start / "model.safetensors")
        options = {"iterations": self._size.steps, "lr": self._size.lr, "weights": start, "language": ROUTES[arm]}
        return self._train(lines, folder, options, seed)

    def _train(self, lines: list[Line], folder: Path, options: dict[str, Any], seed: int) -> Path:
        """The folder of the trained detector."""
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / TRAIN, lines)
        write(folder / VAL, {"images": [], "descriptions": [], "annotations": []})
        shared = {"batch_size": self._size.batch_size, "image_size": self._size.image_size}
        trained("tiny_grounding", folder, folder, {**shared, **options}, seed)
        return folder / "model"

    def _mean(self, seed: int) -> Path:
        """The mean of the detector trained with texts and the one trained with images, as the paper released."""
        from engine.training.averaging import average_weights

        one, other = (self._trained(arm, seed) for arm in (WRITTEN, IMAGES))
        files = one / "model.safetensors", other / "model.safetensors"
        digests = (sha256(files[0].read_bytes()).hexdigest(), sha256(files[1].read_bytes()).hexdigest())
        folder = self._work / f"seed-{seed}" / MEAN
        folder.mkdir(parents=True, exist_ok=True)
        average_weights(*files, folder / "model.safetensors", digests=digests)
        (folder / "detector.json").write_bytes((one / "detector.json").read_bytes())
        return folder

    def _scored(self, folder: Path) -> dict[str, float]:
        from engine.training.language_presets import LONGEST, load_reader, tokenizer_of
        from engine.training.negatives import token_length
        from engine.training.queries import ask, omnilabel_queries

        model, card = load_reader(folder)
        names = [kind.name for kind in KINDS[: self._size.kinds]]
        document = mini_omnilabel(self._truths("test"), names, accept=wordings.plain)
        length = token_length(tokenizer_of(card))
        queries = omnilabel_queries(document, self._work, length, LONGEST, together=card.isolated)
        found = evaluate(document, ask(model, queries, card.image_size)).as_dict()
        return {name: found[name] for name in METRICS}

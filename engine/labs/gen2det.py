"""The Gen2Det lab (METHODS 5): few real images, many generated ones, and what each part of the method adds.

For every seed Tabletop gives other real images. Their instances are repainted in their scenes by the recipe path of the
studio, with a painter that errs at a known rate. The detector trained on the real images alone is both the first arm and
the judge of the filter. All arms start from the same weights, which have seen other kinds of objects only, and take the
same number of steps.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from db.errors import WinnowError
from db.records import Rule, Run
from db.store import Store
from engine import runs
from engine.control import Silent
from engine.folder import training_folder
from engine.labs.making import CLASSES, only_other_kinds, trained, write
from engine.labs.paired import Arm, Study
from engine.recipe import parse
from engine.tabletop import build
from engine.tabletop.difficulty import Difficulty
from engine.tabletop.document import document
from engine.tabletop.kinds import KINDS

PRESET, PACK = "tiny_atss", "lab"
AGREEMENT = "detector_agreement"
WORLD = "world"  # the data set whose instances the painter pastes
STARTED_FROM = 10_000  # seed of the world that the shared start learns from
REAL, NAIVE, SAMPLED, TOLERANT, FILTERED = (
    "real only", "naive mixing", "p 0.2", "p 0.2, ignore", "p 0.2, ignore, filter"
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    REAL: {},
    NAIVE: {},
    SAMPLED: {"generated_probability": 0.2},
    TOLERANT: {"generated_probability": 0.2, "ignore_background": True},
    FILTERED: {"generated_probability": 0.2, "ignore_background": True},
}
DATA = {REAL: "real", NAIVE: "all", SAMPLED: "all", TOLERANT: "all", FILTERED: "filtered"}
ARMS = (
    Arm(REAL, "the real images alone"),
    Arm(NAIVE, "real and generated images in one heap", (REAL,)),
    Arm(SAMPLED, "each batch is of generated images with probability 0.2", (REAL, NAIVE)),
    Arm(TOLERANT, "and no loss for the background of generated images", (REAL, SAMPLED)),
    Arm(
        FILTERED,
        "and labels are deleted where the detector of the first arm sees no such instance (IoU 0.3, score 0.1)",
        (REAL, NAIVE, TOLERANT),
    ),
)
METRICS = {
    "mAP": "COCO AP over all classes, IoU 0.5 to 0.95",
    "AP50": "the same at IoU 0.5",
    "AP_r": "AP of the rarest third of the classes in the real training images",
    "AP_c": "AP of the third between",
    "AP_f": "AP of the most frequent third",
}
RECIPE = """
name: gen2det_lab
title: Gen2Det in the lab
summary: All boxes of a scene are repainted together; each keeps or loses its label on its own.
needs: nothing
cost: about 0.1 s an instance
targets: {of: scenes, splits: [train], min_side: 8, max_area: 0.6, max_overlap: 0.3}
steps: [{kind: instance, variants: %d}]
filters: [outside_change, detector_agreement]
policy: [{filter: outside_change, at_most: 0}]
"""


class Size(msgspec.Struct, frozen=True):
    """How large the lab is. `kinds` are the classes, `tail` how long-tailed the real images are; `variants` are painted of
    each scene, of which `wrong` (0..1) show another class than their labels say, with instances of `world` other images; the
    filter wants an IoU of `agreement` with what the judge sees. `start_...` is the shared start, whose learning rate is twice `lr`."""

    width: int = 128
    height: int = 96
    kinds: int = 12
    tail: float = 1.2
    real: int = 30
    held_out: int = 150
    variants: int = 3
    world: int = 300
    wrong: float = 0.3
    agreement: float = 0.3
    steps: int = 350
    batch_size: int = 8
    lr: float = 1e-3
    start_images: int = 400
    start_steps: int = 1200


QUICK = Size(
    real=8, held_out=8, variants=1, world=24, agreement=0.0, steps=3, batch_size=2, start_images=6, start_steps=2
)


def study(quick: bool, work: Path) -> Study:
    """The lab. What it paints and trains on the way is kept in `work`, apart for every size."""
    size = QUICK if quick else Size()
    settings = msgspec.to_builtins(size)
    bench = Bench(size, work / "-".join(map(str, settings.values())))
    return Study("gen2det", "Gen2Det at low data, on Tabletop", ARMS, METRICS, settings, bench.measure, notes(size))


def notes(size: Size) -> tuple[str, ...]:
    """What a reader of the figures must know."""
    return (
        (
            f"{size.real} real training images of {size.width}x{size.height} with {size.kinds} long-tailed classes, others for "
            f"every seed; {size.variants} generated images of each. The painter pastes instances of {size.world} images that no "
            "detector sees: it stands for a diffusion model, which knows more of the world than the labelled images show. "
            f"{size.held_out} other images show all classes equally often and are looked at once, after the last "
            "step: no model is selected."
        ),
        (
            f"In {size.wrong:.0%} of the repainted boxes the painter paints another class than the label says, on purpose: "
            "Tabletop's own painters err too rarely for a filter to matter. It stands for the instances that a diffusion "
            "model gets wrong."
        ),
        (
            f"Every training starts from one detector that was trained for {size.start_steps} steps on the other "
            f"{len(KINDS) - size.kinds} kinds of Tabletop, and takes {size.steps} steps of {size.batch_size} images "
            f"({PRESET})."
        ),
        "The aesthetic filter of the paper is left out.",
    )


class Bench:
    """Makes the data and trains the arms; what is there already is not made again."""

    def __init__(self, size: Size, work: Path) -> None:
        self._size, self._work = size, work

    def measure(self, arm: str, seed: int) -> dict[str, float]:
        """The metrics of an arm, and for the filtered one what its filter kept and deleted."""
        place = self._work / f"seed-{seed}"
        if arm == REAL:
            return self._real(place, seed)
        counts = self._generated(place, seed)
        extra = counts if DATA[arm] == "filtered" else {}
        work = place / f"arm-{list(OPTIONS).index(arm)}"
        scored = self._scored(self._trained(place / DATA[arm], work, OPTIONS[arm], seed), place)
        shutil.rmtree(work)
        return scored | extra

    # Training

    @cached_property
    def _start(self) -> Path:
        """Weights that know what things look like, but not one of the classes of this lab."""
        size, place = self._size, self._work / "start"
        if not (place / "val.json").is_file():
            build(place, _level(size, len(KINDS), 0.0), {"train": size.start_images}, seed=STARTED_FROM)
            only_other_kinds(place, size.kinds, "another thing")
        options = {"iterations": size.start_steps, "lr": 2 * size.lr}
        self._train(place, place / "work", options, seed=STARTED_FROM)
        return place / "work" / "model" / "model.safetensors"

    def _trained(self, data: Path, work: Path, options: dict[str, Any], seed: int) -> dict[str, Any]:
        """Training from the shared start."""
        return self._train(data, work, {"weights": str(self._start), **options}, seed)

    def _train(self, data: Path, work: Path, options: dict[str, Any], seed: int) -> dict[str, Any]:
        """What the training says at its end."""
        size = self._size
        common = {"iterations": size.steps, "batch_size": size.batch_size, "lr": size.lr}
        chosen: dict[str, Any] = {**common, "image_size": (size.width, size.height), **options}
        chosen["eval_interval"] = chosen["iterations"]  # once, at the end
        return trained(PRESET, data, work, chosen, seed)

    def _scored(self, result: dict[str, Any], place: Path) -> dict[str, float]:
        thirds = np.array_split(_by_frequency(place / "real" / "train.json"), 3)
        of_third = [float(np.mean([result["per_class"][name] for name in names])) for names in thirds]
        return {
            "mAP": result["mAP"],
            "AP50": result["AP50"],
            **dict(zip(("AP_f", "AP_c", "AP_r"), of_third, strict=True)),
        }

    def _real(self, place: Path, seed: int) -> dict[str, float]:
        """The arm without generated images, whose model is also the judge."""
        done = place / "real.json"
        if not done.is_file():
            if not (place / "real" / "val.json").is_file():
                shutil.rmtree(place, ignore_errors=True)
                self._paint(place, seed)
            write(done, self._trained(place / "real", place / "judge", OPTIONS[REAL], seed))
        return self._scored(json.loads(done.read_bytes()), place)

    # Data

    def _paint(self, place: Path, seed: int) -> None:
        """The real images of a seed, imported, and frozen as a training folder."""
        size = self._size
        build(place / "scenes", _level(size, size.kinds, size.tail), {"train": size.real}, seed=seed)
        build(place / "scenes", _level(size, size.kinds, 0.0), {"val": size.held_out}, seed=seed)
        build(place / WORLD, _level(size, size.kinds, 0.0), {"train": size.world}, seed=STARTED_FROM + 1 + seed)
        store = Store(place / "home")
        try:
            world, made = document(place / WORLD), document(place / "scenes")
            store.datasets.import_document(replace(world, categories=world.categories[: size.kinds]), WORLD)
            dataset = store.datasets.import_document(replace(made, categories=made.categories[: size.kinds]), "lab")
            training_folder(store, store.snapshots.freeze("real", dataset.id), place / "real")
        finally:
            store.close()

    def _generated(self, place: Path, seed: int) -> dict[str, float]:
        """Makes the folders with generated images. Returns what the filter did with the right and the wrong labels."""
        self._real(place, seed)
        done = place / "generated.json"
        if not done.is_file():
            store = Store(place / "home")
            try:
                write(done, self._generate(store, place, seed))
            finally:
                store.close()
        return json.loads(done.read_bytes())

    def _generate(self, store: Store, place: Path, seed: int) -> dict[str, float]:
        (store.home / "packs").mkdir(exist_ok=True)
        (store.home / "packs" / f"{PACK}.yaml").write_text(_pack(self._size, place / "judge" / "model"))
        dataset = store.datasets.get("lab")
        recipe = parse(RECIPE % self._size.variants, "the recipe of the lab")
        run = _worked(store, runs.start_generate(store, dataset_id=dataset.id, recipe=recipe, pack=PACK, seed=seed))
        for name, rules in (("all", recipe.rules()), ("filtered", [*recipe.rules(), self._agreement])):
            policy = store.review.save_policy(f"lab {name}", rules)
            snapshot = store.snapshots.freeze(f"{name} {run.id}", dataset.id, {run.id: policy})
            shutil.rmtree(place / name, ignore_errors=True)
            training_folder(store, snapshot, place / name)
        return _counted(store, run, self._size.agreement)

    @property
    def _agreement(self) -> Rule:
        return Rule(filter=AGREEMENT, at_least=self._size.agreement)


def _level(size: Size, kinds: int, tail: float) -> Difficulty:
    return Difficulty(width=size.width, height=size.height, kinds=kinds, tail=tail, **CLASSES)


def _by_frequency(coco: Path) -> list[str]:
    """The names of the classes, the one with the most boxes first."""
    made = json.loads(coco.read_bytes())
    boxes = [note["category_id"] for note in made["annotations"]]
    return [c["name"] for c in sorted(made["categories"], key=lambda category: -boxes.count(category["id"]))]


def _pack(size: Size, judge: Path) -> str:
    pack = {
        "name": PACK,
        "title": "The lab's",
        "summary": "A painter that errs on purpose, and the detector trained on the real images.",
        "needs": "nothing",
        "painter": {"backend": "careless", "options": {"wrong": size.wrong, "donors": WORLD}},
        "detector": {"backend": "trained_detector", "options": {"model": str(judge)}},
    }
    return yaml.safe_dump(pack)


def _worked(store: Store, run: Run) -> Run:
    """The run and the scoring that follows it, done in this process."""
    for one in (run, *store.ledger.followers(run.id)):
        if not store.ledger.shards(one.id):
            store.ledger.plan(one.id, runs.plan(store, one))
        while shard := store.ledger.claim(one.id, "lab", lease_seconds=86_400):
            runs.execute(store, store.ledger.run(one.id), shard, Silent())
            store.ledger.finish_shard(shard)
        store.ledger.conclude(one.id)
    return store.ledger.run(run.id)


def _counted(store: Store, run: Run, least: float) -> dict[str, float]:
    """How many instances were painted, and which share of the right and the wrong labels the filter kept."""
    made = list(store.review.candidates(store.review.candidate_ids(run.id)))
    scores = store.review.scores_of([one.id for one in made])
    agreed = {i: any(s.filter == AGREEMENT and (s.value or 0) >= least for s in of) for i, of in scores.items()}
    names = {category.id: category.name for category in store.datasets.categories(run.dataset_id or 0)}
    right = [agreed[one.id] for one in made if one.detail["painted"] == names[one.category_id or 0]]
    wrong = [agreed[one.id] for one in made if one.detail["painted"] != names[one.category_id or 0]]
    if not right or not wrong:
        raise WinnowError(f"The lab painted {len(right)} right and {len(wrong)} wrong instances; it needs both.")
    return {"painted": len(made), "kept_right": float(np.mean(right)), "kept_wrong": float(np.mean(wrong))}

"""The world of the measurements: a Tabletop data set with exact truth, a tiny detector, and candidates of which it is known
whether they are good.

Everything lies in one folder. A second call goes on where the first one ended: what was painted, trained, made and scored stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from db.errors import WinnowError
from db.records import Candidate, Dataset, Kind, NewCandidate, Run, RunKind, State
from engine import recipe, runs
from engine.backends.rules import RulesWriter
from engine.filters import FILTERS
from engine.generate import Generator
from engine.packs import load_pack
from engine.pixels import decode, encode_png
from engine.provenance import versions
from engine.roles import Context, WriteTask
from engine.seeds import seed_of
from engine.tabletop import Truth, holds, referents, truths
from engine.tabletop.kinds import BY_NAME
from engine.tabletop.language import parse
from engine.targets import choose
from studio import actions
from studio.context import Studio, open_studio
from studio.measure import faults
from studio.measure.faults import Painting

NAME, SPLIT, PACK, OWNER = "study", "test", "pocket", "measure"
SCENES = {"train": 800, "val": 40, SPLIT: 900}
TRAINING: dict[str, Any] = {"iterations": 900, "image_size": (192, 144)}
SHARD = 40  # targets
SPOILT = 0.55  # share of the paintings that get a fault
UNJUDGED = ("drifted box", "two edits")  # of use to some, so that they count for the filters they are meant for only
RECIPE = """
name: study
title: Candidates whose truth is known
summary: Material of a study
needs: its Tabletop world
cost: nothing
targets: {{of: {of}, splits: [test], min_side: {side}, max_overlap: {overlap}}}
steps: [{steps}]
filters: [fluency]
policy: [{{filter: fluency, at_most: 0}}]
"""
TEXT, IMAGE, THING = ("{kind: negative_text, variants: 2}", "{kind: negative_image}", "{kind: instance}")
BOTH = RECIPE.format(of="phrases", side=14, overlap=0.6, steps=f"{TEXT}, {IMAGE}")
WORDS = RECIPE.format(of="phrases", side=14, overlap=0.6, steps=TEXT)
THINGS = RECIPE.format(of="boxes", side=12, overlap=0.8, steps=THING)
PLAN = (("rules", BOTH, "classic", 1000), ("words", WORDS, "pocket", 200), ("things", THINGS, "classic", 1800))
"""Parts by name: recipe, pack whose writer and painter work, number of targets. What a model paints has no exact truth, so
all paintings are pasted: of an instance in a scene everything is known."""
Progress = Callable[[str, int, int], None]
Rng = np.random.Generator


@dataclass(frozen=True)
class World:
    """The open study: its candidates are those of `run`."""

    studio: Studio
    dataset: Dataset
    run: Run

    def candidates(self) -> list[Candidate]:
        """All of them, in the order in which they were made."""
        return self.studio.store.review.candidates(self.studio.store.review.candidate_ids(self.run.id))


@contextmanager
def world(folder: Path, progress: Progress, *, share: float = 1.0) -> Iterator[World]:
    """The study in `folder`, made or completed first; `share` of its full size (it stays what it was made with)."""
    studio = open_studio(folder / "home")
    try:
        dataset = _painted(studio, folder, share, progress)
        _trained(studio, share, progress)
        run = _made(studio, folder, dataset, share, progress)
        _scored(studio, dataset, run, progress)
        yield World(studio, dataset, run)
    finally:
        studio.store.close()


def goodness(candidate: NewCandidate) -> bool | None:
    """Whether the candidate is good by the truth of its scene; None where it does not tell."""
    good: bool | None = candidate.detail["study"]["good"]
    return good


def fault_of(candidate: NewCandidate) -> str:
    """What is the matter with it, "" with a good one."""
    fault: str = candidate.detail["study"]["fault"]
    return fault


# Its parts


def _painted(studio: Studio, folder: Path, share: float, progress: Progress) -> Dataset:
    known = next((one for one in studio.store.datasets.list() if one.name == NAME), None)
    if known is not None:
        return known
    counts = {split: max(8, round(count * share)) for split, count in SCENES.items()}
    return actions.paint_tabletop(
        studio, NAME, counts, folder=folder / "scenes", progress=lambda done, total: progress("scenes", done, total)
    )


def _trained(studio: Studio, share: float, progress: Progress) -> None:
    """A tiny detector of the training split: the one that `detector_agreement` finds."""
    if NAME not in {one.name for one in studio.store.snapshots.list()}:
        actions.freeze(studio, dataset=NAME, name=NAME, accepted=False)
    old = studio.store.ledger.runs(kind=RunKind.TRAIN)
    if not any(run.state is State.DONE for run in old):
        waiting = next((run for run in old if not run.state.ended), None)
        options = TRAINING | {"iterations": max(20, round(TRAINING["iterations"] * share))}
        run = waiting or actions.start_training(studio, snapshot=NAME, options=options)
        _followed(studio, run, "detector", progress)


def _scored(studio: Studio, dataset: Dataset, run: Run, progress: Progress) -> None:
    """Scores of every filter that has none yet. The learned filter is measured on its own."""
    past = studio.store.ledger.runs(kind=RunKind.FILTER, dataset_id=dataset.id, limit=1000)
    known = {name for one in past if one.state is State.DONE for name in one.options["filters"]}
    if missing := [name for name in FILTERS if name not in known and name != "learned"]:
        fresh = runs.start_filter(studio.store, dataset_id=dataset.id, filters=missing, of_run=run)
        _followed(studio, fresh, "scores", progress)


def _followed(studio: Studio, run: Run, what: str, progress: Progress) -> None:
    ended = actions.follow(studio, run.id, lambda done, total: progress(what, done, total))
    for one in ended:
        if one.state is not State.DONE:
            raise WinnowError(f"The study stopped at its {what}: run {one.id} is {one.state}: {one.error}")


# Candidates


def _made(studio: Studio, folder: Path, dataset: Dataset, share: float, progress: Progress) -> Run:
    """The run that holds the candidates, complete."""
    ledger = studio.store.ledger
    known = ledger.runs(kind=RunKind.GENERATE, dataset_id=dataset.id)
    run = known[0] if known else _planned(studio, dataset, share)
    maker = _Maker(studio, folder, dataset)
    ledger.expire_leases(OWNER)  # of an earlier call that was interrupted
    shards = len(ledger.shards(run.id))
    while shard := ledger.claim(run.id, OWNER, lease_seconds=3600):
        progress("candidates", shard.number, shards)
        made = maker.make(shard.payload["part"], shard.payload["targets"])
        studio.store.review.add_candidates(shard, made, dataset.id)
        ledger.finish_shard(shard)
    ledger.settle(run.id)
    ledger.conclude(run.id)
    return ledger.run(run.id)


def _planned(studio: Studio, dataset: Dataset, share: float) -> Run:
    store = studio.store
    policy = store.review.save_policy(NAME, [one.default for name, one in FILTERS.items() if name != "learned"])
    run = store.ledger.create_run(
        RunKind.GENERATE, "Candidates whose truth is known", dataset_id=dataset.id, recipe="", seed=0,
        options={"pack": PACK, "recipe": "study", "preview": False, "policy_id": policy.id}, versions=versions(),
    )  # fmt: skip
    shards = []
    for seed, (part, text, _, amount) in enumerate(PLAN):
        targets = choose(
            store, dataset.id, recipe.parse(text).targets, seed=seed, amount=max(SHARD // 4, round(amount * share))
        )
        shards += [{"part": part, "targets": targets[i : i + SHARD]} for i in range(0, len(targets), SHARD)]
    store.ledger.plan(run.id, [(shard, len(shard["targets"])) for shard in shards])
    return store.ledger.run(run.id)


class _Maker:
    """Makes candidates as runs do, spoils some of them, and writes into each whether it is good."""

    def __init__(self, studio: Studio, folder: Path, dataset: Dataset) -> None:
        self._store, context = studio.store, Context(studio.store, dataset.id)
        self._truths = {one.file_name: one for one in truths(folder / "scenes" / f"truth_{SPLIT}.jsonl")}
        self._names = {one.id: one.name for one in self._store.datasets.categories(dataset.id)}
        self._ids = {name: number for number, name in self._names.items()}
        self._generators = {
            part: Generator(context, recipe.parse(text), load_pack(pack), seed=seed)
            for seed, (part, text, pack, _) in enumerate(PLAN)
        }
        self._writer = RulesWriter()
        self._scene = lru_cache(maxsize=512)(self._look_up)

    def make(self, part: str, targets: Sequence[str]) -> list[NewCandidate]:
        """The candidates of some targets, natural and spoilt."""
        rng = np.random.default_rng(seed_of(0, *targets))
        made = [one for each in self._generators[part].make(targets) for one in each.candidates]
        painted = [one for one in made if one.kind is not Kind.NEGATIVE_TEXT]
        found = [self._text(one, rng) for one in made if one.kind is Kind.NEGATIVE_TEXT]
        natural: list[NewCandidate] = []
        for one in painted:
            found.append(self._painting(one, natural, rng))
            if goodness(found[-1]):
                natural.append(one)
        return found

    def _look_up(self, image_id: int) -> tuple[Truth, list[int], str]:
        """The truth of an image, the ids of its boxes in the order of the truth's objects, its blob."""
        image = self._store.datasets.image(image_id)
        boxes = self._store.datasets.boxes_of([image_id])[image_id]
        return self._truths[image.file_name], sorted(box.id for box in boxes), image.digest or ""

    # Texts

    def _text(self, one: NewCandidate, rng: Rng) -> NewCandidate:
        truth, _, _ = self._scene(one.image_id)
        before, after = one.text_before or "", one.text_after or ""
        fault, text = self._worded(before, after, truth, rng)
        if fault:
            return _marked(one, good=None if fault in UNJUDGED else False, fault=fault, text_after=text)
        says = holds(truth, after)
        return _marked(one, good=None if says is None else not says, fault="still true" if says else "")

    def _worded(self, before: str, after: str, truth: Truth, rng: Rng) -> tuple[str, str]:
        """A fault and the text that has it; "" twice for leaving it as it is."""
        chance = rng.random()
        ways: tuple[tuple[str, float, Callable[[], str | None]], ...] = (
            ("still true", 0.07, lambda: self._true_one(truth, before, rng)),
            ("wider word", 0.07, lambda: faults.wider(before, rng)),
            ("same words", 0.05, lambda: _said_again(before, rng)),
            ("broken form", 0.06, lambda: faults.broken(after, rng)),
            ("rambling", 0.04, lambda: faults.rambling(after, rng)),
            ("foreign", 0.04, lambda: faults.foreign(after, rng)),
            ("two edits", 0.06, lambda: self._edited(after, rng)),
        )
        for fault, share, way in ways:
            chance -= share
            if chance < 0:
                text = way()
                return (fault, text) if text and text != before else ("", "")
        return "", ""

    @staticmethod
    def _true_one(truth: Truth, before: str, rng: Rng) -> str | None:
        """Another true description; sooner one that begins with the same noun, as a slip would."""
        own = parse(before)
        said = [one.text for one in truth.true if one.text != before]
        near = [text for text in said if own and (other := parse(text)) and other.kind == own.kind]
        return str(rng.choice(near or said)) if said else None

    def _edited(self, after: str, rng: Rng) -> str | None:
        """The foil, foiled once more."""
        foils = self._writer.write([WriteTask(text=after, n=1, seed=int(rng.integers(1 << 30)))])[0]
        return foils[0].text if foils and not isinstance(foils, str) else None

    # Paintings

    def _painting(self, one: NewCandidate, before: Sequence[NewCandidate], rng: Rng) -> NewCandidate:
        """The candidate as it is, or spoilt by one of the faults."""
        names = [name for name in (*faults.OF_PAINTINGS, "unchanged") if self._fits(name, one)]
        fault = str(rng.choice(names)) if rng.random() < SPOILT else ""
        if not fault:
            natural = self._natural(one)
            return _marked(one, good=None if natural is None else not natural, fault=natural or "")
        if fault == "repeated":
            return self._again(one, before, rng)
        spoilt = self._faulty(one, fault, rng)
        return _marked(spoilt, good=None if fault in UNJUDGED else False, fault=fault)

    def _fits(self, fault: str, one: NewCandidate) -> bool:
        """An unchanged image shows a right instance of its class, but not what a negative text says."""
        return fault != "unchanged" or one.kind is Kind.NEGATIVE_IMAGE

    def _faulty(self, one: NewCandidate, fault: str, rng: Rng) -> NewCandidate:
        change = faults.OF_PAINTINGS.get(fault, faults.unchanged)
        spoilt = change(self._as_painting(one), rng)
        text = one.text_after
        if spoilt.category != self._names[one.category_id or 0] and text:
            text = text.replace(one.detail["changed_to"], BY_NAME[spoilt.category].noun)
        return self._recorded(one, spoilt, text)

    def _again(self, one: NewCandidate, before: Sequence[NewCandidate], rng: Rng) -> NewCandidate:
        """A good one that the same shard made before, once more, in place of this one."""
        earlier = [each for each in before if each.kind is one.kind]
        if not earlier:
            return _marked(one, good=None, fault="")
        source = earlier[int(rng.integers(len(earlier)))]
        copy = self._recorded(source, faults.repeated(self._as_painting(source), rng), source.text_after)
        made_as = {"target": f"{one.target}/repeated", "variant": one.variant}
        return _marked(msgspec.structs.replace(copy, **made_as), good=False, fault="repeated")

    def _as_painting(self, one: NewCandidate) -> Painting:
        detail, (_, _, digest) = one.detail, self._scene(one.image_id)
        assert one.xyxy is not None and one.digest is not None
        return Painting(
            image=decode(self._store.blobs.get(one.digest)),
            before=decode(self._store.blobs.get(digest)),
            xyxy=one.xyxy,
            asked=tuple(detail["asked"]),
            touched=tuple(tuple(area) for area in detail["touched"]),
            category=self._names[one.category_id or 0],
        )

    def _recorded(self, one: NewCandidate, painting: Painting, text: str | None) -> NewCandidate:
        changes = {"asked": list(painting.asked), "touched": [list(area) for area in painting.touched]}
        return msgspec.structs.replace(
            one,
            xyxy=painting.xyxy,
            category_id=self._ids[painting.category],
            text_after=text,
            digest=self._store.blobs.put(encode_png(painting.image)),
            detail={**one.detail, **changes},
        )

    def _natural(self, one: NewCandidate) -> str | None:
        """What is the matter with a candidate that nobody spoilt, "" when nothing is; None when the truth does not tell."""
        truth, ids, _ = self._scene(one.image_id)
        own = ids.index(one.box_id or 0)
        if self._covers(one, truth, own):
            return "covers another"
        if one.kind is Kind.INSTANCE:
            return ""
        now = self._after(one, truth, own)
        before, after = one.text_before or "", one.text_after or ""
        if parse(before) is None or parse(after) is None or now is None:
            return None
        return "" if own in referents(now, after) and own not in referents(now, before) else "other look"

    def _covers(self, one: NewCandidate, truth: Truth, own: int) -> bool:
        """Whether it changed most of another object's visible pixels."""
        painting = self._as_painting(one)
        changed = (painting.image != painting.before).any(-1)
        others = [thing.mask.array() for i, thing in enumerate(truth.objects) if i != own]
        return any(changed[mask].mean() > 0.5 for mask in others)

    def _after(self, one: NewCandidate, truth: Truth, own: int) -> Truth | None:
        """The truth with the pasted instance in the place of the object; its size stays, since it fills the same box."""
        source, ids, _ = self._scene(one.detail["source_image"])
        thing = source.objects[ids.index(one.detail["source_box"])]
        old, xyxy = truth.objects[own], one.xyxy
        if xyxy is None or thing.kind != self._names[one.category_id or 0]:
            return None
        look = {name: getattr(thing, name) for name in ("kind", "colour", "pattern", "material")}
        placed = msgspec.structs.replace(old, box=xyxy, whole=xyxy, **look)
        objects = tuple(placed if i == own else other for i, other in enumerate(truth.objects))
        return msgspec.structs.replace(truth, objects=objects)


def _marked(one: NewCandidate, *, good: bool | None, fault: str, **changes: Any) -> NewCandidate:
    study = {"study": {"good": good, "fault": fault}}
    return msgspec.structs.replace(one, detail={**one.detail, **study}, **changes)


def _said_again(before: str, rng: Rng) -> str:
    """The true text with other articles or capitals."""
    words = before.split()
    swapped = {"a": "the", "an": "the", "the": "a"}
    again = " ".join(swapped.get(word, word) for word in words)
    return str(rng.choice((again, before.upper(), f"{before} ", f"there is {before}")))

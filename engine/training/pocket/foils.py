"""Training data of the pocket writer: true texts of Tabletop scenes with the facts around them, and false neighbours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import cv2
import msgspec
import numpy as np

from db.records import Box, Phrase, Record
from engine.claims import facts_of
from engine.tabletop import Difficulty, FalseStatement, Truth, holds, paint
from engine.tabletop.kinds import BY_NAME, KINDS
from engine.tabletop.language import parse
from engine.tabletop.statements import foils

CHUNK = 64  # scenes
WORLD = Difficulty(kinds=40, tail=0.3)


class Example(Record, frozen=True, kw_only=True):
    """`text` is true of a scene of which `facts` are known, `foil` is false of it by one edit."""

    text: str
    facts: tuple[str, ...]
    foil: str
    edit_type: str
    changed_from: str
    changed_to: str


def examples(folder: Path, *, scenes: int, seed: int, workers: int = 2) -> list[Example]:
    """The examples of the first so many scenes of the world `seed`, kept in `folder` so that they are made once."""
    path = folder / f"foils_{seed}_{scenes}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        tasks = [(seed, first, min(first + CHUNK, scenes)) for first in range(0, scenes, CHUNK)]
        with get_context("spawn").Pool(workers, cv2.setNumThreads, (1,)) as pool:
            made = [example for part in pool.map(_chunk, tasks, chunksize=1) for example in part]
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(msgspec.json.encode(made))
        os.replace(unfinished, path)
    return msgspec.json.decode(path.read_bytes(), type=list[Example])


def _chunk(task: tuple[int, int, int]) -> list[Example]:
    seed, first, end = task
    return [
        example
        for index in range(first, end)
        for example in of_scene(paint(seed, index, WORLD).truth, np.random.default_rng([seed, index, 2]))
    ]


def of_scene(truth: Truth, rng: np.random.Generator) -> list[Example]:
    """The examples of one scene: statements, phrases, the caption and class names, each known by the facts of its kind of
    data set."""
    boxes, phrases = _records(truth)
    names = {number: kind.name for number, kind in enumerate(KINDS)}
    with_texts, bare = facts_of(boxes, phrases, names), facts_of(boxes, [], names)
    found = [*_statements(truth), *_phrases(truth, rng), *_captions(truth, rng)]
    return [
        *(msgspec.structs.replace(example, facts=with_texts) for example in found),
        *(msgspec.structs.replace(example, facts=bare) for example in _names(truth, rng)),
    ]


def _records(truth: Truth) -> tuple[list[Box], list[Phrase]]:
    """The scene as it stands in a data set: boxes with classes, the caption and its phrases."""
    numbers = {kind.name: number for number, kind in enumerate(KINDS)}
    boxes = [
        Box(id=i + 1, image_id=1, xyxy=thing.box, category_id=numbers[thing.kind])
        for i, thing in enumerate(truth.objects)
    ]
    parts = [
        Phrase(id=i + 2, image_id=1, text=phrase.text, parent_id=1, box_ids=tuple(k + 1 for k in phrase.objects))
        for i, phrase in enumerate(truth.phrases)
    ]
    return boxes, [Phrase(id=1, image_id=1, text=truth.caption), *parts]


def _example(text: str, foil: str, edit_type: str, was: str, now: str) -> Example:
    return Example(text=text, facts=(), foil=foil, edit_type=edit_type, changed_from=was, changed_to=now)


def _statements(truth: Truth) -> Iterator[Example]:
    for false in truth.false:
        yield _example(false.source, false.text, false.edit_type, false.changed_from, false.changed_to)


def _phrases(truth: Truth, rng: np.random.Generator) -> Iterator[Example]:
    for phrase in truth.phrases:
        for false in _false_of(truth, rng, phrase.text):
            first = phrase.text[0]
            text = false.text[0].upper() + false.text[1:] if first.isupper() else false.text
            yield _example(phrase.text, text, false.edit_type, false.changed_from, false.changed_to)


def _captions(truth: Truth, rng: np.random.Generator) -> Iterator[Example]:
    for phrase in truth.phrases:
        for false in list(_false_of(truth, rng, phrase.text))[:1]:
            said = false.text if phrase.start else false.text[0].upper() + false.text[1:]
            text = truth.caption[: phrase.start] + said + truth.caption[phrase.end :]
            if holds(truth, text) is False:
                yield _example(truth.caption, text, false.edit_type, false.changed_from, false.changed_to)


def _false_of(truth: Truth, rng: np.random.Generator, text: str) -> Iterator[FalseStatement]:
    said = parse(text)
    if said is not None:
        yield from foils(truth, rng, said, ())


def _names(truth: Truth, rng: np.random.Generator) -> Iterator[Example]:
    """Bare class names, as in a data set without texts: another kind that is not in the scene, sooner one that looks alike."""
    there = {thing.kind for thing in truth.objects}
    for kind in sorted(there):
        twins = [name for name in BY_NAME[kind].twins if name not in there]
        others = twins if twins and rng.random() < 0.5 else [each.name for each in KINDS if each.name not in there]
        other = str(rng.choice(others))
        yield _example(kind, other, "object", kind, other)

"""The negative texts of the Enhanced Negatives lab, by the ways they are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from db.records import Box, Phrase
from engine.claims import facts_of, still_true
from engine.prompts import load
from engine.roles import Foil, Writer, WriteTask
from engine.seeds import seed_of
from engine.tabletop import Statement, Truth
from engine.tabletop.descriptions import bare
from engine.tabletop.document import NUMBER
from engine.tabletop.language import Description, parse, true_of

STILL_TRUE = 0.5  # support by the annotations from which on a negative text is not used


def plain(said: Description) -> bool:
    """Whether a description is of one noun with adjectives."""
    return said.relation is None and said.count is None


def true(truth: Truth) -> list[Statement]:
    """The plain descriptions of a scene."""
    said = [(one, parse(one.text)) for one in truth.true]
    return [one for one, meaning in said if meaning is not None and plain(meaning)]


def is_false(truth: Truth, text: str) -> bool:
    """Whether a text is certainly not true of the scene. Words that are not of this world are true of nothing."""
    said = parse(text)
    return said is None or true_of(truth, said) is False


def of_others(scenes: Sequence[Truth], seed: int) -> list[list[str]]:
    """For each scene as many true descriptions of other scenes as it has of its own; none that it says itself."""
    rng = np.random.default_rng([seed, 1])
    own = [[bare(one.text) for one in true(truth)] for truth in scenes]
    found = []
    for number, texts in enumerate(own):
        others = sorted({text for place, said in enumerate(own) if place != number for text in said} - set(texts))
        found.append([str(text) for text in rng.permutation(others)[: len(texts)]])
    return found


def by_rules(scenes: Sequence[Truth]) -> list[list[str]]:
    """A foil by rules for each description."""
    from engine.backends.rules import RulesWriter

    return _written(scenes, RulesWriter())


def by_writer(scenes: Sequence[Truth], home: Path) -> list[list[str]]:
    """A foil by the pocket writer for each description. Its prompt is the one in `home`, if there is one."""
    from engine.backends.chat_writer import ChatWriter
    from engine.backends.hf_text import HFChat

    chat = HFChat("assets/pocket/writer", device="cpu", dtype="float32")
    return _written(scenes, ChatWriter(chat, [load("pocket_foil", home)]))


def _written(scenes: Sequence[Truth], writer: Writer) -> list[list[str]]:
    """All texts at once, which is faster for a model; what the annotations make true is left out."""
    tasks = [_tasks(truth) for truth in scenes]
    made = iter(writer.write([task for of_scene in tasks for task in of_scene]))
    return [_usable(of_scene, [next(made) for _ in of_scene]) for of_scene in tasks]


def _tasks(truth: Truth) -> list[WriteTask]:
    boxes = [Box(id=i, image_id=0, xyxy=o.box, category_id=NUMBER[o.kind]) for i, o in enumerate(truth.objects)]
    caption = Phrase(id=0, image_id=0, text=truth.caption)
    parts = [
        Phrase(id=i, image_id=0, text=part.text, parent_id=0, box_ids=part.objects)
        for i, part in enumerate(truth.phrases, 1)
    ]
    names = {number: name for name, number in NUMBER.items()}
    facts = (*facts_of(boxes, [caption, *parts], names), *(one.text for one in true(truth)))
    return [WriteTask(text=one.text, n=1, seed=seed_of("lab", truth.index), facts=facts) for one in true(truth)]


def _usable(tasks: Sequence[WriteTask], made: Sequence[list[Foil] | str]) -> list[str]:
    own = {bare(task.text) for task in tasks}
    found = [
        (task, foil) for task, foils in zip(tasks, made, strict=True) if not isinstance(foils, str) for foil in foils
    ]
    kept = [bare(f.text) for task, f in found if still_true(f.text, task.text, task.facts).value <= STILL_TRUE]
    return [text for text in dict.fromkeys(kept) if text not in own]

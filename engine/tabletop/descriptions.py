"""Descriptions to look for in scenes, with exact truth: a mini-OmniLabel and a mini-D3 made from Tabletop.

Every question to a scene is decided by what is known of it; a description of which it is open which objects it names is
not asked there. A negative is a description that names nothing in its image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from db.errors import WinnowError
from engine.evaluation.d3 import Sentences
from engine.seeds import seed_of
from engine.tabletop.kinds import BY_NAME, KINDS
from engine.tabletop.language import ATTRIBUTES, Description, fits, matches, parse, true_of
from engine.tabletop.records import TrueObject, Truth
from engine.tabletop.statements import foils

WITHOUT = " that is not "
_ABSENCE = tuple((word, slot) for slot, words in ATTRIBUTES.items() for word in words)

Accept = Callable[[Description], bool]


class Asked(msgspec.Struct, frozen=True):
    """One question to a scene: a text, the objects it names (none: a negative), and what is known of it.

    `category` tells a bare class name from a free description. Of a negative that was made from a true description,
    `edit_type` says what was changed and `source` of what.
    """

    text: str
    objects: tuple[int, ...]
    category: bool = False
    edit_type: str = ""
    source: str = ""


def asked(
    truth: Truth, rng: np.random.Generator, kinds: Sequence[str], absent: int = 2, accept: Accept = lambda said: True
) -> list[Asked]:
    """What to ask of a scene: the kinds that are there and `absent` others, true descriptions, and their false neighbours.

    `accept` chooses among the descriptions, by their meaning. Articles are left out where they say nothing.
    """
    there = sorted({thing.kind for thing in truth.objects})
    missing = [kind for kind in kinds if kind not in there]
    others = [str(kind) for kind in rng.permutation(missing)[:absent]]
    found = [
        Asked(BY_NAME[kind].noun, tuple(i for i, thing in enumerate(truth.objects) if thing.kind == kind), True)
        for kind in (*there, *others)
    ]
    return [*found, *_described(truth, rng, accept)]


def _described(truth: Truth, rng: np.random.Generator, accept: Accept) -> list[Asked]:
    found: dict[str, Asked] = {}
    for statement in truth.true:
        said = parse(statement.text)
        if said is None or not accept(said) or not _decided(truth, said):
            continue
        text = bare(statement.text)
        found.setdefault(text, Asked(text, tuple(matches(truth, said)[0])))
        for foil in foils(truth, rng, said, statement.objects):
            changed = parse(foil.text)
            if changed is not None and _decided(truth, changed) and not matches(truth, changed)[0]:
                found.setdefault(bare(foil.text), Asked(bare(foil.text), (), False, foil.edit_type, text))
    names = {kind.noun for kind in KINDS}
    return [one for text, one in found.items() if text not in names]


def bare(text: str) -> str:
    """The text without its first article: a query, as people type it."""
    first, _, rest = text.partition(" ")
    return rest if first.lower() in ("a", "an", "the") else text


def _decided(truth: Truth, said: Description) -> bool:
    sure, possible = matches(truth, said)
    return sure == possible and true_of(truth, said) is not None


def answer(truth: Truth, text: str) -> tuple[int, ...] | None:
    """The objects that a text names, decided from the scene; None when the text or the scene leaves it open.

    Raises WinnowError for a text outside of the grammar.
    """
    kept, _, excluded = text.partition(WITHOUT)
    said = parse(kept)
    if said is None or (excluded and _slot(excluded) is None):
        raise WinnowError(f"{text!r} is not of Tabletop's grammar.")
    if excluded:
        return tuple(i for i, thing in enumerate(truth.objects) if fits(thing, said) and not _is(thing, excluded))
    return tuple(matches(truth, said)[0]) if _decided(truth, said) else None


def _slot(word: str) -> str | None:
    return next((slot for known, slot in _ABSENCE if known == word), None)


def _is(thing: TrueObject, word: str) -> bool:
    return getattr(thing, str(_slot(word))) == word


def mini_omnilabel(
    truths: Iterable[Truth], kinds: Sequence[str], seed: int = 0, absent: int = 2, accept: Accept = lambda said: True
) -> dict[str, Any]:
    """An OmniLabel document; image ids are those of `truths`, counted from 0.

    A text that is asked of several images is one description. `anno_info` also says the `edit_type` of the negatives.
    """
    images: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    texts: dict[tuple[str, bool], dict[str, Any]] = {}
    for number, truth in enumerate(truths):
        images.append({"id": number, "file_name": truth.file_name, "width": truth.width, "height": truth.height})
        rng = np.random.default_rng([seed, truth.seed, truth.index])
        by_object: dict[int, list[int]] = defaultdict(list)
        for one in asked(truth, rng, kinds, absent, accept):
            row = _description(texts, one)
            row["image_ids"].append(number)
            row["anno_info"]["edit_types"][str(number)] = one.edit_type
            for index in one.objects:
                by_object[index].append(row["id"])
        notes += _annotations(len(notes), number, truth, by_object)
    return {"images": images, "descriptions": list(texts.values()), "annotations": notes}


def _description(texts: dict[tuple[str, bool], dict[str, Any]], one: Asked) -> dict[str, Any]:
    fresh: dict[str, Any] = {
        "id": len(texts) + 1,
        "text": one.text,
        "image_ids": [],
        "anno_info": {"type": "category" if one.category else "object_description", "edit_types": {}},
    }
    return texts.setdefault((one.text, one.category), fresh)


def _annotations(
    first: int, image_id: int, truth: Truth, by_object: Mapping[int, Sequence[int]]
) -> Iterator[dict[str, Any]]:
    for place, (index, descriptions) in enumerate(sorted(by_object.items()), first + 1):
        box = _xywh(truth.objects[index])
        yield {"id": place, "image_id": image_id, "bbox": box, "description_ids": list(descriptions)}


def _xywh(thing: TrueObject) -> list[float]:
    x1, y1, x2, y2 = thing.box
    return [x1, y1, x2 - x1, y2 - y1]


def mini_d3(truths: Sequence[Truth], groups: int = 12, seed: int = 0) -> tuple[dict[str, Any], Sentences]:
    """(a COCO document with sentences as categories, the sentences): the full D3 annotations of a small world.

    A group is a kind with four sentences, two of presence ("red mug") and two of absence ("mug that is not red"); its
    images are those that show the kind, and each of them is asked for the four only. Kinds with most images come first.
    Raises WinnowError when no kind is seen in two looks.
    """
    document, sentences = _d3(truths, groups, seed)
    if not sentences.texts:
        raise WinnowError("No kind of these scenes is seen in two looks, so that no sentence can tell them apart.")
    return document, sentences


def _d3(truths: Sequence[Truth], groups: int, seed: int) -> tuple[dict[str, Any], Sentences]:
    rng = np.random.default_rng([seed, seed_of("mini-D3", len(truths))])
    texts: dict[int, str] = {}
    asked_of: dict[int, list[int]] = {}
    notes: list[dict[str, Any]] = []
    for kind, members in _by_kind(truths)[:groups]:
        for text in _sentences(kind, [truths[i] for i in members], rng):
            texts[len(texts) + 1] = text
            for image in members:
                asked_of.setdefault(image, []).append(len(texts))
                notes += _found(len(notes), image, truths[image], len(texts), text)
    document = {
        "images": [
            {"id": i, "file_name": truths[i].file_name, "width": truths[i].width, "height": truths[i].height}
            for i in sorted(asked_of)
        ],
        "categories": [{"id": number, "name": text} for number, text in texts.items()],
        "annotations": notes,
    }
    absent = {number for number, text in texts.items() if WITHOUT in text}
    return document, Sentences(texts, absent, asked_of)


def d3_truth(truths: Sequence[Truth], groups: int = 12, seed: int = 0) -> dict[str, Any]:
    """The mini-D3 in one document, as `engine.evaluation.suite` takes it: each category says whether it is a sentence of
    absence, each image which sentences it is asked for. Without images when no kind is seen in two looks."""
    document, sentences = _d3(truths, groups, seed)
    for image in document["images"]:
        image["sentence_ids"] = sentences.groups[image["id"]]
    for category in document["categories"]:
        category["absent"] = category["id"] in sentences.absent
    return document


def _by_kind(truths: Sequence[Truth]) -> list[tuple[str, list[int]]]:
    """Images by the kinds that they show, the most frequent first."""
    seen: dict[str, list[int]] = defaultdict(list)
    for number, truth in enumerate(truths):
        for kind in sorted({thing.kind for thing in truth.objects}):
            seen[kind].append(number)
    return sorted(seen.items(), key=lambda item: (-len(item[1]), item[0]))


def _sentences(kind: str, truths: Sequence[Truth], rng: np.random.Generator) -> list[str]:
    """Two of presence and two of absence about the commonest looks of the kind, if it has two."""
    things = [thing for truth in truths for thing in truth.objects if thing.kind == kind]
    looks = Counter((slot, getattr(thing, slot)) for thing in things for slot in ("colour", "pattern", "material"))
    telling = [(slot, word) for (slot, word), count in looks.most_common() if count < 0.8 * len(things)][:6]
    if len(telling) < 2:
        return []
    chosen = [telling[i] for i in sorted(rng.choice(len(telling), 2, replace=False))]
    present = [bare(Description(kind=kind, **{slot: word}).text) for slot, word in chosen]
    return [*present, *(f"{BY_NAME[kind].noun}{WITHOUT}{word}" for _, word in chosen)]


def _found(first: int, image_id: int, truth: Truth, sentence: int, text: str) -> Iterator[dict[str, Any]]:
    for place, index in enumerate(answer(truth, text) or (), first + 1):
        box = _xywh(truth.objects[index])
        area = box[2] * box[3]
        note = {"id": place, "image_id": image_id, "category_id": sentence, "bbox": box, "area": area, "iscrowd": 0}
        yield note

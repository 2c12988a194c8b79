"""What is said of a scene: a caption with its phrases, true descriptions, and false ones that differ in one word.

Everything is put together as `Description` values and checked with the same rules that `holds` goes by.
"""

from collections.abc import Iterator

import numpy as np
from msgspec.structs import replace

from engine.tabletop.kinds import BY_NAME, KINDS
from engine.tabletop.language import ATTRIBUTES, NUMBERS, Description, matches, true_of
from engine.tabletop.records import FalseStatement, Phrase, Statement, Truth
from engine.tabletop.relations import OPPOSITE, RELATIONS, related
from engine.tabletop.surfaces import SURFACES

Rng = np.random.Generator
_TELLING = {"on": 5.0, "under": 4.0, "in front of": 4.0, "behind": 4.0, "above": 1.5, "below": 1.5, "far from": 0.4}
_SAID_OF_ALL = tuple(ATTRIBUTES)
_FOILS_PER_STATEMENT = 3
_WEIGHT = {
    "object": 0.4,
    "relation": 2.0,
    "count": 2.0,
}  # of edit types: every description has a noun, few have a count


def write_caption(truth: Truth, rng: Rng) -> tuple[str, tuple[Phrase, ...]]:
    """A sentence that names every object, and its phrases with their spans."""
    groups = _groups(truth, rng)
    text, phrases = "", []
    clauses = _clauses(truth, rng, groups)
    for k, clause in enumerate(clauses):
        text += "" if k == 0 else " and " if k == len(clauses) - 1 else ", "
        for words in clause:
            if isinstance(words, str):
                text += f" {words} "
                continue
            said = words.noun_phrase
            said = said if text else said[0].upper() + said[1:]
            phrases.append(Phrase(said, len(text), len(text) + len(said), tuple(matches(truth, words)[0])))
            text += said
    return f"{text} on {SURFACES[truth.surface]}.", tuple(phrases)


def write_statements(truth: Truth, rng: Rng) -> tuple[tuple[Statement, ...], tuple[FalseStatement, ...]]:
    """True descriptions of the scene, and false ones that each differ from one of them by a single edit."""
    true: dict[str, Statement] = {}
    false: dict[str, FalseStatement] = {}
    for said in _true_descriptions(truth, rng):
        if said.text in true or true_of(truth, said) is not True:
            continue
        objects = tuple(matches(truth, said)[0])
        true[said.text] = Statement(said.text, objects)
        for foil in foils(truth, rng, said, objects):
            false.setdefault(foil.text, foil)
    return tuple(true.values()), tuple(false.values())


def _groups(truth: Truth, rng: Rng) -> list[Description]:
    """Descriptions that together name every object, each once: single ones where words tell them apart."""
    left = list(range(len(truth.objects)))
    groups = []
    while left:
        said = _pinned(truth, rng, left[0])
        named = matches(truth, said)[0]
        groups.append(replace(said, definite=False, count=len(named) if len(named) > 1 else None))
        left = [i for i in left if i not in named]
    return groups


def _clauses(truth: Truth, rng: Rng, groups: list[Description]) -> list[list[Description | str]]:
    """The groups in a random order, some joined in pairs by a relation that holds."""
    waiting = [groups[k] for k in rng.permutation(len(groups))]
    clauses: list[list[Description | str]] = []
    while waiting:
        first = waiting.pop()
        pairs = [
            (name, other)
            for other in waiting
            for name in RELATIONS
            if true_of(truth, replace(first, relation=name, anchor=other)) is True and other.count is None
        ]
        if not pairs or rng.random() < 0.3:
            clauses.append([first])
            continue
        name, other = _telling(rng, pairs)
        waiting.remove(other)
        clauses.append([first, name, other])
    return clauses


def _telling(rng: Rng, pairs: list[tuple[str, Description]]) -> tuple[str, Description]:
    """One of the pairs, a rarer relation sooner than left, right, near and far, which nearly always hold of some."""
    weight = np.asarray([_TELLING.get(name, 1.0) for name, _ in pairs])
    return pairs[int(rng.choice(len(pairs), p=weight / weight.sum()))]


def _exact(truth: Truth, index: int, slots: list[str]) -> Description:
    thing = truth.objects[index]
    return Description(kind=thing.kind, **{slot: getattr(thing, slot) for slot in slots})


def _loose(truth: Truth, rng: Rng, index: int) -> Description:
    """The object in some words that are true of it; that it is plain is seldom worth saying."""
    plain = truth.objects[index].pattern == "plain"
    return _exact(
        truth, index, [slot for slot in _SAID_OF_ALL if rng.random() < (0.1 if plain and slot == "pattern" else 0.35)]
    )


def _pinned(truth: Truth, rng: Rng, index: int) -> Description:
    """The object in as few random words as tell it from all that words can tell it from, and at times one more."""
    order = [str(s) for s in rng.permutation(_SAID_OF_ALL)]
    plain = truth.objects[index].pattern == "plain"
    order.sort(key=lambda slot: 2 if plain and slot == "pattern" else slot != "colour" or rng.random() < 0.3)
    alike = matches(truth, _exact(truth, index, order))[0]
    enough = next(k for k in range(len(order) + 1) if matches(truth, _exact(truth, index, order[:k]))[0] == alike)
    more = 1 if enough == 0 or rng.random() < 0.3 else 0
    return replace(_exact(truth, index, order[: enough + more]), definite=len(alike) == 1)


def _true_descriptions(truth: Truth, rng: Rng) -> Iterator[Description]:
    """Candidates, true for the most part: the caller checks."""
    for index in range(len(truth.objects)):
        yield _pinned(truth, rng, index)
        yield _loose(truth, rng, index)
        yield from _with_relation(truth, rng, index)
    yield from _counts(truth, rng)


def _with_relation(truth: Truth, rng: Rng, index: int) -> Iterator[Description]:
    """The object in loose words and its place with respect to one that words alone can pin down."""
    others = [
        (name, _pinned(truth, rng, j))
        for j in range(len(truth.objects))
        for name in RELATIONS
        if related(truth, index, name, j)
    ]
    others = [(name, anchor) for name, anchor in others if anchor.definite]
    if not others:
        return
    name, anchor = _telling(rng, others)
    loose = replace(_loose(truth, rng, index), relation=name, anchor=anchor)
    sure, possible = matches(truth, loose)
    yield replace(loose, definite=len(sure) == len(possible) == 1)


def _counts(truth: Truth, rng: Rng) -> Iterator[Description]:
    for kind in sorted({thing.kind for thing in truth.objects}):
        first = next(i for i, thing in enumerate(truth.objects) if thing.kind == kind)
        for slots in ([], ["colour"], ["size"]):
            said = _exact(truth, first, slots)
            count = len(matches(truth, said)[0])
            if 2 <= count <= len(NUMBERS) or (count == 1 and rng.random() < 0.12):
                yield replace(said, count=count)


def foils(truth: Truth, rng: Rng, said: Description, objects: tuple[int, ...]) -> Iterator[FalseStatement]:
    """False neighbours of a true description, of different edit types."""
    edits = sorted(
        _edits(truth, rng, said), key=lambda edit: rng.random() ** (1 / _WEIGHT.get(edit[1], 1.0)), reverse=True
    )
    kept = 0
    for foil, edit_type, before, after in edits:
        if kept < _FOILS_PER_STATEMENT and foil.text != said.text and true_of(truth, foil) is False:
            kept += 1
            yield FalseStatement(foil.text, edit_type, said.text, before, after, objects)


def _edits(truth: Truth, rng: Rng, said: Description) -> Iterator[tuple[Description, str, str, str]]:
    """(changed description, edit type, changed from, changed to): one edit of each type that applies."""
    for edited, kind_of_edit, before, after in _noun_phrase_edits(truth, rng, said):
        yield edited, kind_of_edit, before, after
    if said.count is not None:
        count = said.count + (1 if said.count < 2 or rng.random() < 0.5 else -1)
        if count <= len(NUMBERS):
            yield replace(said, count=count), "count", NUMBERS[said.count - 1], NUMBERS[count - 1]
    if said.relation is not None and said.anchor is not None:
        yield replace(said, relation=OPPOSITE[said.relation]), "relation", said.relation, OPPOSITE[said.relation]
        for edited, kind_of_edit, before, after in _noun_phrase_edits(truth, rng, said.anchor):
            if rng.random() < 0.4:
                yield replace(said, anchor=edited), kind_of_edit, before, after


def _noun_phrase_edits(truth: Truth, rng: Rng, said: Description) -> Iterator[tuple[Description, str, str, str]]:
    other = replace(said, kind=_other_kind(truth, rng, said.kind))
    yield other, "object", said.noun, other.noun
    for slot, words in ATTRIBUTES.items():
        word = getattr(said, slot)
        if word is not None:
            instead = _other_word(truth, rng, slot, word, words)
            yield replace(said, **{slot: instead}), slot, word, instead


def _other_kind(truth: Truth, rng: Rng, kind: str) -> str:
    """A kind that looks alike, or is in the scene, or any other."""
    chance = rng.random()
    there = sorted({thing.kind for thing in truth.objects} - {kind})
    pool = BY_NAME[kind].twins if chance < 0.5 else there if chance < 0.8 else ()
    return str(rng.choice(pool or [k.name for k in KINDS if k.name != kind]))


def _other_word(truth: Truth, rng: Rng, slot: str, word: str, words: tuple[str, ...]) -> str:
    """Another word of the same sort, sooner one that fits some other object."""
    there = sorted({getattr(thing, slot) for thing in truth.objects} - {word})
    return str(rng.choice(there if there and rng.random() < 0.5 else [w for w in words if w != word]))

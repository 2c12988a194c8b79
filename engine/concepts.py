"""The concept dictionary (DetCLIPv2, METHODS 4.2): what the data speaks of, from its classes and the phrases of its captions.

A concept is a noun phrase in lower case and the singular, without its determiner: "two red mugs" is "red mug". Concepts that
only a few captions have are left out; classes never are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path

import msgspec
import numpy as np

from db.errors import WinnowError
from engine.grounding_folder import DEFINITIONS, Line
from engine.noun_phrases import bare, noun_phrases, one_of

_WORD = re.compile(r"[^\W_]+")


@cache
def concept(phrase: str) -> str:
    """The concept that a noun phrase names."""
    *before, last = bare(phrase).split() or [""]
    return " ".join([*before, one_of(last)]).strip()


@cache
def concepts_of(caption: str) -> tuple[str, ...]:
    """The different concepts of a caption, in its order."""
    found = (concept(caption[start:end]) for start, end in noun_phrases(caption))
    return tuple(dict.fromkeys(filter(None, found)))


class Concepts(msgspec.Struct, frozen=True):
    """How many images have which concept, and the definitions of those that have one."""

    counts: dict[str, int]
    definitions: dict[str, str] = {}

    def prompt(self, name: str) -> str:
        """The text that a class is asked for by: "name, definition" where there is one (METHODS 4.2)."""
        return prompt(name, self.definitions)

    def absent(self, said: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
        """Up to `count` different concepts, at random, that none of the texts `said` may mean: no word of them is said."""
        there = {word for text in said for word in words_of(text)}
        order = rng.permutation(len(self.counts))
        listed = list(self.counts)
        found: list[str] = []
        for place in order:
            if len(found) == count:
                break
            if not there & words_of(listed[place]):
                found.append(listed[place])
        return found


def prompt(name: str, definitions: Mapping[str, str]) -> str:
    """ "name, definition" where a definition is known, else the name."""
    return f"{name}, {definitions[name]}" if definitions.get(name) else name


@lru_cache(maxsize=50_000)
def words_of(text: str) -> frozenset[str]:
    """The words of a text in lower case and the singular."""
    return frozenset(one_of(word) for word in _WORD.findall(text.lower()))


def build(lines: Iterable[Line], least: int = 2, definitions: Mapping[str, str] | None = None) -> Concepts:
    """The dictionary of training data: all its classes, and the concepts of at least so many captions, those of most first."""
    classes: Counter[str] = Counter()
    phrases: Counter[str] = Counter()
    for line in lines:
        if line.detection:
            classes.update({instance.category for instance in line.detection.instances})
        if line.grounding:
            named = {concept(region.phrase) for region in line.grounding.regions}
            phrases.update(filter(None, named or set(concepts_of(line.grounding.caption))))
    kept = Counter({name: count for name, count in phrases.items() if count >= least})
    return Concepts(dict((classes + kept).most_common()), dict(definitions or {}))


def read_definitions(folder: Path) -> dict[str, str]:
    """The definitions of classes in a training folder; none without the file. Raises WinnowError for one that is damaged."""
    path = folder / DEFINITIONS
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise WinnowError(f"{path} should be an object of class names and their definitions: {error}") from error


def read_vocabulary(path: Path) -> dict[str, str]:
    """What to look for: the texts of a file, one a line, as name -> prompt. "name, definition" and "name: definition" both
    name what stands before. Empty lines and those that begin with # are passed over.

    Raises WinnowError for a file that cannot be read, that is empty, or that names something twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise WinnowError(f"{path} should be a text of one name a line, in UTF-8: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        name, _, definition = (part.strip() for part in re.sub(r"[:,]", "\0", line, count=1).partition("\0"))
        if not name or name in found:
            raise WinnowError(f"{path}, line {number}: {line!r} should begin with a name that no other line has.")
        found[name] = prompt(name, {name: definition})
    if not found:
        raise WinnowError(f"{path} names nothing. Write one class a line, or `name, definition`.")
    return found

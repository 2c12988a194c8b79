"""What a text says of things, as far as words go, and whether other texts make it true.

No grammar is parsed: a *mention* is a noun that is known, from the lexicon or as a class name, with the adjectives and
the number before it. Two mentions are compared by kind and by the words that exclude each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from engine.lexicon import INVERSE, NUMBERS, PLURAL_ONLY, canonical, is_a, nouns, plural, singular, words_of

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")
ARTICLES = frozenset(("a", "an", "the"))
DETERMINERS = ARTICLES | frozenset("this that these those his her its their my your our another each some".split())
ADJECTIVES = ("colour", "pattern", "material", "size")
_NO_NOUN_AFTER = frozenset("to can could will would may must they we i you he she who which that".split())
_LONGEST = 4  # words of a noun or relation
_WINDOW = 5  # adjectives looked at before a noun


class Token(NamedTuple):
    """A word of a text: where it stands, and its lower case."""

    start: int
    end: int
    word: str


class Mention(NamedTuple):
    """A noun in a text. `first` and `last` are its token numbers, last exclusive; `head` is where its phrase begins.

    `noun` is in the singular; `slots` are its adjectives, (edit type, word that stands for the synonyms); `count` is its
    number when the text says one.
    """

    first: int
    last: int
    head: int
    noun: str
    plural: bool
    count: int | None
    slots: tuple[tuple[str, str], ...]

    @property
    def bare(self) -> bool:
        return not self.slots and self.count is None

    @property
    def says(self) -> tuple[object, ...]:
        """What is said, wherever it stands."""
        return self.noun, self.count, self.slots


class Relation(NamedTuple):
    """`subject` stands in relation `name` to `other`; nouns in the singular."""

    subject: str
    name: str
    other: str


def tokens(text: str) -> list[Token]:
    """The words and figures of a text, in order."""
    return [Token(found.start(), found.end(), found[0].lower()) for found in WORD.finditer(text)]


def plain_name(name: str) -> str:
    """A class name as it is said: "aerosol_can" -> "aerosol can", "crab_(animal)" -> "crab"."""
    return re.sub(r"\s*\([^)]*\)", "", name.replace("_", " ")).strip() or name


@lru_cache(maxsize=16)
def vocabulary(names: tuple[str, ...] = ()) -> dict[tuple[str, ...], tuple[str, bool]]:
    """Words of a noun -> (the noun in the singular, whether those words are its plural)."""
    found = {tuple(token.word for token in tokens(noun)): (noun, noun in PLURAL_ONLY) for noun in nouns()}
    for name in names:
        words = [token.word for token in tokens(plain_name(name))]
        if words and tuple(words) not in found:
            one = " ".join([*words[:-1], singular(words[-1])])
            found[tuple(words)] = (one, one != " ".join(words))
            found.setdefault(tuple(one.split()), (one, False))
    return found


def number_of(word: str) -> int | None:
    """3 for "three" and "3"."""
    if word in NUMBERS:
        return NUMBERS.index(word) + 1
    return int(word) if word.isdecimal() and len(word) < 4 else None


def mentions(text: str, names: Sequence[str] = ()) -> list[Mention]:
    """The known nouns of a text. Of a compound ("apple tree") the last noun counts; longer nouns win over shorter."""
    words = tokens(text)
    known = vocabulary(tuple(names))
    found: list[Mention] = []
    at = 0
    while at < len(words):
        length, noun, is_plural = _noun_at(words, at, known)
        if length:
            if found and found[-1].last == at and _joined(text, words, at):
                found.pop()
            found.append(_mention(words, at, at + length, noun, is_plural, text))
        at += length or 1
    return found


def _noun_at(words: list[Token], at: int, known: dict[tuple[str, ...], tuple[str, bool]]) -> tuple[int, str, bool]:
    before = words[at - 1].word if at else ""
    if before in _NO_NOUN_AFTER:
        return 0, "", False
    for length in range(min(_LONGEST, len(words) - at), 0, -1):
        chunk = tuple(token.word for token in words[at : at + length])
        if chunk in known:
            after = words[at + length].word if at + length < len(words) else ""
            is_adjective = length == 1 and _adjective(words, at) and after in known_words(known)
            return (0, "", False) if is_adjective else (length, *known[chunk])
        one = (*chunk[:-1], singular(chunk[-1]))
        if one in known:
            return length, known[one][0], True
    return 0, "", False


@lru_cache(maxsize=16)
def _heads(size: int, keys: frozenset[tuple[str, ...]]) -> frozenset[str]:
    return frozenset(key[0] for key in keys)

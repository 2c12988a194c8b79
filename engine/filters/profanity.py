"""Profane words and slurs, looked up without being written down: the list holds hashes of normalised words."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

_WORD = re.compile(r"[^\W_](?:[\w@$!*'’-]*[\w@$])?")
_LEET = str.maketrans("013457@$!", "oieastasi")
_ENDINGS = ("s", "es", "ed", "er", "ers", "ing")
_DIGITS = 16


def profane(text: str, allowed: frozenset[str] = frozenset()) -> tuple[list[str], int]:
    """The words of the text that are on the list, and how many words it has. `allowed` words never count."""
    found = _WORD.findall(text)
    return [word for word in found if word.lower() not in allowed and is_profane(word)], len(found)


@cache
def is_profane(word: str) -> bool:
    """Whether the word, or what is left of it without its ending, is on the list."""
    return any(digest(form) in _listed() for form in _forms(normalised(word)))


def normalised(word: str) -> str:
    """Lower case without accents, digits and signs read as the letters they stand for, a letter drawn out once."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(c))
    letters = re.sub(r"[^a-z]", "", plain.translate(_LEET))
    return re.sub(r"(.)\1{2,}", r"\1", letters)


def digest(word: str) -> str:
    """The first digits of the SHA-256 of a normalised word, as they stand in the list."""
    return hashlib.sha256(word.encode()).hexdigest()[:_DIGITS]


def _forms(word: str) -> Iterator[str]:
    """The word, and what it may be a form of."""
    yield word
    for ending in _ENDINGS:
        base = word.removesuffix(ending)
        if base == word or len(base) < 3:
            continue
        yield base
        if ending not in ("s", "es"):
            yield base[:-1] if base[-1] == base[-2] else f"{base}e"


@cache
def _listed() -> frozenset[str]:
    text = (files("engine") / "wordlists" / "profanity.txt").read_text(encoding="ascii")
    return frozenset(line for line in text.split("\n") if line and not line.startswith("#"))

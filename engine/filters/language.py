"""In which script and language a text is written, as far as its letters and its small words tell."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

from engine.claims import tokens
from engine.lexicon import edit_types, nouns, singular, words_of

_EAST_ASIAN = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "FULLWIDTH": "CJK"}
_SHARED_SCRIPTS = {"LATIN", "CYRILLIC"}  # many languages use these; another script tells enough by itself


class Evidence(NamedTuple):
    """`share` of the telling words and letters that fit, in [0, 1], None when nothing tells; `reason` names the others."""

    share: float | None
    reason: str


@cache
def function_words() -> dict[str, frozenset[str]]:
    """ISO 639-1 code -> the frequent small words of the language."""
    text = (files("engine") / "wordlists" / "function_words.txt").read_text(encoding="utf-8")
    lines = (line.partition(":") for line in text.splitlines() if line and not line.startswith("#"))
    return {code: frozenset(words.split()) for code, _, words in lines}


@cache
def _any_language() -> frozenset[str]:
    return frozenset[str]().union(*function_words().values())


@lru_cache(maxsize=4096)
def languages(text: str) -> frozenset[str]:
    """The languages of which the text has most function words; several when they have equally many, none without any."""
    said = {token.word for token in tokens(text)}
    counts = {code: len(said & known) for code, known in function_words().items()}
    most = max(counts.values())
    return frozenset(code for code, count in counts.items() if count == most) if most else frozenset()


@lru_cache(maxsize=4096)
def scripts(text: str) -> Counter[str]:
    """How many letters of each script: LATIN, CYRILLIC, GREEK, CJK, ARABIC and so on, as Unicode names them."""
    found = Counter(unicodedata.name(letter, "UNKNOWN").split()[0] for letter in text if letter.isalpha())
    merged: Counter[str] = Counter()
    for script, count in found.items():
        merged[_EAST_ASIAN.get(script, script)] += count
    return merged


def evidence(text: str, known: Sequence[str], names: frozenset[str] = frozenset()) -> Evidence:
    """How far `text` is in the language of the texts `known`; `names` are words that any text may have.

    Words that these have too, and English content words where they may be English, speak for it; function words of other
    languages speak against it.
    """
    reference = " ".join(known)
    own, usual = scripts(text), scripts(reference) + scripts(" ".join(names))
    foreign = own - Counter({script: own[script] for script in usual})
    if foreign:
        share = 1 - foreign.total() / own.total()
        return Evidence(share, f"{foreign.total()} of {own.total()} letters are {', '.join(foreign).title()}")
    return _by_words(text, reference, names)


def _by_words(text: str, reference: str, names: frozenset[str]) -> Evidence:
    shared, expected = {token.word for token in tokens(reference)}, languages(reference)
    usual = frozenset[str]().union(*(function_words()[code] for code in expected))
    fits, strangers = 0, []
    for token in tokens(text):
        if (
            token.word in shared
            or token.word in names
            or token.word in usual
            or (not expected or "en" in expected)
            and _is_english(token.word)
        ):
            fits += 1
        elif expected and token.word in _any_language():
            strangers.append(token.word)
    if not fits and not strangers and scripts(text).keys() - _SHARED_SCRIPTS:
        return Evidence(1.0, f"written in {', '.join(scripts(text)).title()} as well")
    if not fits and not strangers:
        return Evidence(None, "too short to tell its language")
    told = f"words of another language: {', '.join(strangers)}" if strangers else f"{fits} telling words, all fit"
    return Evidence(fits / (fits + len(strangers)), told)


@cache
def _is_english(word: str) -> bool:
    return singular(word) in nouns() or any(word in words_of(kind) for kind in edit_types())

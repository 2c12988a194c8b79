"""Faults of form that need no grammar: what a writer leaves behind when it stumbles."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from engine.claims import WORD
from engine.filters.language import languages
from engine.lexicon import article, nouns, words

_MAY_REPEAT = words("that had very so bye")
_NO_END = words("a an the of and or with from into at his her their its very")
_PAIRS = ("()", "[]", "{}", "“”", "«»")
_DOUBLED = re.compile(r"\b([^\W\d_]+)\s+\1\b", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(an?)\s+([^\W_][\w'’-]*)", re.IGNORECASE)
_SPACED = re.compile(r"\s+[,.;:!?](?=\s|$)")
_RESIDUE = {
    "JSON": re.compile(r'[{\[]\s*"|"\s*[}\]]|"\s*:|^\s*"?\w+"\s*:|\\["nu]'),
    "markdown": re.compile(r"```|\*\*|__|^\s*(?:#+|[-*•>]|\d+[.)])\s|`"),
    "markup": re.compile(r"<\s*[/|]?\s*\w+[^<>]*>|&\w+;|\[/?INST]"),
    "an answer's preamble": re.compile(
        r"^\s*(?:(?:sure|certainly|of course)\b\s*[,!:.]|(?:here(?: is|'s| are)|negative|caption|answer|output|text)\b[^:]*:)",
        re.IGNORECASE,
    ),
    "a line break": re.compile(r"[\r\n\t]"),
    "an unprintable character": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]"),
}


def faults(text: str, source: str = "") -> list[str]:
    """What is wrong with the form of a text, one sentence part each, less what is wrong with its source as well.

    `source` is a text that is known to be whole: a last word that is only the beginning of one of its words was cut off.
    """
    inherited = Counter(_faults(source, source))
    return list((Counter(_faults(text, source)) - inherited).elements())


def _faults(text: str, source: str) -> Iterator[str]:
    for found in _DOUBLED.finditer(text):
        if found[1].lower() not in _MAY_REPEAT:
            yield f"“{found[1]}” stands twice"
    yield from _articles(text)
    yield from _unbalanced(text)
    yield from (f"it holds {what}" for what, pattern in _RESIDUE.items() if pattern.search(text))
    if _SPACED.search(text):
        yield "a space stands before a punctuation mark"
    yield from _ending(text, source)


def _articles(text: str) -> Iterator[str]:
    """English only: "a" is a word of many languages."""
    known = languages(text)
    if known and "en" not in known:
        return
    for found in _ARTICLE.finditer(text):
        right = article(found[2])
        if found[1].lower() != right and not found[1].isupper():
            yield f"“{found[0]}” should be “{right} {found[2]}”"


def _unbalanced(text: str) -> Iterator[str]:
    for opening, closing in map(tuple, _PAIRS):
        if text.count(opening) != text.count(closing):
            yield f"{opening} and {closing} are not in pairs"
    if text.count('"') % 2:
        yield 'there is an odd number of "'


def _ending(text: str, source: str) -> Iterator[str]:
    found = [word.lower() for word in WORD.findall(text)]
    if not found:
        yield "it has no words"
    elif found[-1] in _NO_END and text.rstrip()[-1:].isalpha():
        yield f"it ends with “{found[-1]}”"
    elif re.search(r"(?:-|,|…|\.\.\.)\s*$", text):
        yield "it breaks off"
    elif _is_cut(found[-1], {word.lower() for word in WORD.findall(source)}):
        yield f"its last word “{found[-1]}” is cut off"


def _is_cut(word: str, known: set[str]) -> bool:
    if word in known or word in nouns():
        return False
    return any(whole.startswith(word) and whole.removeprefix(word) not in ("s", "es") for whole in known)

"""The phrases of a description: which of its words name things that can be boxed (METHODS 2.2, point 3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from db.records import Named
from engine.claims import tokens
from engine.lexicon import singular, words
from engine.noun_phrases import bare, noun_phrases

MOST_WORDS = 5  # short phrases are better than long ones (METHODS 2.4)
ABSTRACT = words(
    "scene atmosphere background foreground view image photo photograph picture setting environment composition moment mood "
    "feeling style variety sense side left right top bottom middle center centre corner front back edge end day time way light "
    "lighting shadow color colour shape size pattern part area lot number group set pair kind type sort addition display"
)
Span = tuple[int, int]


def chunks(text: str, most_words: int = MOST_WORDS) -> tuple[Named, ...]:
    """The noun phrases of a text, those that name no thing or have more words (articles aside) left out. What is said twice
    is one phrase with two spans."""
    return _merged(text, noun_phrases(text), most_words)


def found(text: str, listed: Iterable[str], most_words: int = MOST_WORDS) -> tuple[tuple[Named, ...], list[str]]:
    """The listed phrases where they stand in the text, and those that do not stand in it. The same are left out as by `chunks`."""
    spans: list[Span] = []
    missing: list[str] = []
    for phrase in filter(str.strip, listed):
        own = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", text, re.IGNORECASE)]
        spans += own
        missing += [] if own else [phrase]
    return _merged(text, sorted(set(spans)), most_words), missing


def _merged(text: str, spans: Sequence[Span], most_words: int) -> tuple[Named, ...]:
    kept: dict[tuple[str, frozenset[str]], list[Span]] = {}
    for start, end in spans:
        said = [token.word for token in tokens(bare(text[start:end]))]
        if 0 < len(said) <= most_words and singular(said[-1]) not in ABSTRACT:
            kept.setdefault((singular(said[-1]), frozenset(said[:-1])), []).append((start, end))
    return tuple(Named(text=text[slice(*own[0])], spans=tuple(own)) for own in kept.values())

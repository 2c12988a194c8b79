"""Noun phrases of English captions: which characters of a text name a thing.

spaCy's noun chunks where spaCy and a model of it are installed, else a small chunker on the lexicon. The chunker tags every
word by tables and endings and takes the longest runs of

    [determiner] modifier* noun+

Pronouns, places without a thing ("on the left") and verbs are no noun phrases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from db.errors import WinnowError
from engine.lexicon import NUMBERS, PLURAL_ONLY, nouns, singular, words, words_of

Span = tuple[int, int]
Parser = Literal["auto", "spacy", "own"]

DETERMINERS = words(
    "a an the this that these those his her its their my our your some several many few any no another each"
)
_CLOSED = words(
    "and or but while as than then of in on at by for from with without to into onto over under above below behind near "
    "beside between through across around against along inside outside up down off out toward towards within among upon "
    "during after before until beneath underneath next atop amid via is are was were be been being am has have had do does "
    "did can could will would may might must should it he she they them him we us you i who which what whose where when "
    "there here not very so too also just only together away back all both other others something someone everything "
    "that's it's there's shown seen visible depicting containing featuring showing looks appears seems if because"
)
_MODIFIERS = ("colour", "pattern", "material", "size", "attribute", "position")
_IRREGULAR = words("men women children people feet teeth geese mice oxen policemen firemen fishermen")
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_MEASURES = words("pair group bunch stack pile couple row slice piece sheet set crowd herd flock variety lot number")
_PLACES = words("left right top bottom front back foreground background middle center centre side upstairs downstairs")


class _Word(NamedTuple):
    start: int
    end: int
    text: str
    tag: Literal["determiner", "modifier", "noun", "participle", "unknown", "closed"]


def noun_phrases(text: str, parser: Parser = "auto") -> list[Span]:
    """[start, end) characters of the noun phrases of an English text, in order, determiners included; none overlap.

    `auto` takes spaCy where it can. Raises WinnowError when spaCy is asked for and it or a model of it is missing.
    """
    if parser == "spacy" or (parser == "auto" and spacy_model()):
        return _by_spacy(text)
    tagged = _tagged(text)
    return [span for run in _runs(text, tagged) if (span := _chunk(run)) is not None]


@cache
def one_of(word: str) -> str:
    """The singular of a noun, in lower case. A plural by the book of a known noun needs no look at the rules of English, which
    take seconds to load."""
    for ending in ("s", "es"):
        if word.endswith(ending) and word.removesuffix(ending) in nouns() and word not in (*nouns(), *PLURAL_ONLY):
            return word.removesuffix(ending)
    plural = word.endswith("s") or word in _IRREGULAR
    return singular(word) if plural and not word.endswith("ss") else word


def bare(phrase: str) -> str:
    """A noun phrase without its determiner or number, lower case: what a concept dictionary lists."""
    said = phrase.lower().split()
    while len(said) > 1 and (said[0] in DETERMINERS or said[0] in NUMBERS or said[0].isdigit()):
        said = said[1:]
    return " ".join(said)


def unmeasured(phrase: str) -> str:
    """A noun phrase without its measures: "a green pair of scissors" as "a green scissors", so that adjectives stand by the
    thing."""
    return " ".join(_measures().sub(" ", phrase).split())


@cache
def spacy_model() -> str | None:
    """The installed English model of spaCy; None without spaCy or without one."""
    if find_spec("spacy") is None:
        return None
    installed = import_module("spacy.util").get_installed_models()
    return next((name for name in sorted(installed) if name.startswith("en_")), None)


def _by_spacy(text: str) -> list[Span]:
    chunks = _pipeline()(text).noun_chunks
    return [(chunk.start_char, chunk.end_char) for chunk in chunks if chunk.root.pos_ in ("NOUN", "PROPN")]


@cache
def _pipeline() -> Any:
    name = spacy_model()
    if name is None:
        raise WinnowError(
            "spaCy or an English model of it is not installed. Install both (pip install 'winnow[nlp]', then python -m spacy "
            "download en_core_web_sm), or choose the parser 'own'."
        )
    return import_module("spacy").load(name, disable=["ner"])


# The chunker


@cache
def _long_names() -> re.Pattern[str]:
    """Nouns and relations of several words, the longest first."""
    several = [word for word in (*nouns(), *words_of("relation")) if " " in word]
    listed = "|".join(map(re.escape, sorted(several, key=len, reverse=True)))
    return re.compile(rf"\b(?:{listed})(?:e?s)?\b", re.IGNORECASE)


@cache
def _measures() -> re.Pattern[str]:
    """ "a pair of" says how many, not where."""
    return re.compile(
        rf"\b(?:{'|'.join(sorted(_MEASURES))})s? of\b(?! (?:the|a|an|his|her|its|their)\b)", re.IGNORECASE
    )


def _tagged(text: str) -> list[_Word]:
    long = [match.span() for match in _long_names().finditer(text)]
    long += [match.span() for match in _measures().finditer(text)]
    alone = [m.span() for m in _WORD.finditer(text) if not any(a <= m.start() < b for a, b in long)]
    return [_Word(a, b, text[a:b].lower(), _tag(text[a:b].lower())) for a, b in sorted(long + alone)]


def _tag(word: str) -> Any:
    if word in DETERMINERS or word in NUMBERS or word.isdigit():
        return "determiner"
    if word.endswith(" of") and word.removesuffix(" of").removesuffix("s") in _MEASURES:
        return "modifier"
    if word in words_of("action"):
        return "participle" if word.endswith(("ing", "ed")) else "closed"
    if _is_modifier(word):
        return "modifier"
    if word in _CLOSED or word in words_of("relation"):
        return "closed"
    if word in nouns() or one_of(word) in nouns():
        return "noun"
    if word.endswith("ly"):
        return "closed"
    return "participle" if re.search(r"\w{3}(ing|ed)$", word) else "unknown"


def _is_modifier(word: str) -> bool:
    """ "glass" and "orange" are things as well, and may end a phrase."""
    return word not in nouns() and any(word in words_of(kind) for kind in _MODIFIERS)


def _runs(text: str, tagged: Sequence[_Word]) -> Iterator[list[_Word]]:
    """Stretches of words that may be one noun phrase: cut at punctuation, closed words, determiners and verbs."""
    run: list[_Word] = []
    for place, word in enumerate(tagged):
        cut = run and (
            text[run[-1].end : word.start].strip() or word.tag == "determiner" and run[-1].tag != "determiner"
        )
        if cut or word.tag == "closed" or _is_verb(run, word, tagged[place + 1 :]):
            yield run
            run = []
            if not cut:
                continue
            if word.tag == "closed":
                continue
        run.append(word)
    yield run


def _is_verb(run: Sequence[_Word], word: _Word, rest: Sequence[_Word]) -> bool:
    """A participle after a noun ("a dog chasing"), or one before a determiner ("holding a cup"); an unknown word between a
    noun and what follows a verb ("a man rides a horse", "a woman leans against")."""
    named = any(one.tag in ("noun", "unknown") for one in run)
    following = rest[0].tag if rest else "closed"
    if word.tag == "participle":
        return named or following in ("determiner", "closed")
    if word.tag != "unknown" or not any(one.tag == "noun" for one in run) or not rest:
        return False
    return following == "determiner" or (following == "closed" and word.text.endswith("s"))


def _chunk(run: Sequence[_Word]) -> Span | None:
    """The run up to its last noun; None without one. What "a sheet of" stands before is one."""
    measured = [place for place, word in enumerate(run) if word.text.endswith(" of")]
    ends = [place for place, word in enumerate(run) if word.tag in ("noun", "unknown") and word.text not in _PLACES]
    ends += [len(run) - 1] if measured and measured[0] < len(run) - 1 else []
    return (run[0].start, run[max(ends)].end) if ends else None

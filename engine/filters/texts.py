"""What the text of a candidate says, compared with what is known to be true of the image."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import lru_cache

from engine.claims import (
    UNKNOWN,
    Mention,
    beyond,
    conflict,
    enough,
    facts_of,
    mentions,
    normal,
    plain_name,
    still_true,
    tokens,
)
from engine.filters.edits import edits
from engine.filters.fluency import faults
from engine.filters.judgement import Judgement, texts_of
from engine.filters.language import evidence
from engine.filters.meaning import difference, entails, meaning
from engine.filters.profanity import profane
from engine.lexicon import is_a, may_be_both
from engine.subject import Subject

AMBIGUOUS = 0.5
"""Value of nouns that may name the same thing, though neither is wider: a mug and a cup."""


def positives_of(subject: Subject) -> list[str]:
    """The true texts of the image, the candidate's own first."""
    return list(dict.fromkeys((texts_of(subject)[0], *(phrase.text for phrase in subject.phrases if phrase.holds))))


def _names(subject: Subject) -> tuple[str, ...]:
    return tuple(subject.categories.values())


def text_duplicate(subject: Subject) -> Judgement:
    """Likeness to the most similar true text of the image: that of the least similar words."""
    after = texts_of(subject)[1]
    value, nearest = max((likeness(after, positive), positive) for positive in positives_of(subject))
    return Judgement(value, f"{'same words as' if value == 1 else 'nearest to'} “{nearest}” ({value:.2f})")


def likeness(one: str, other: str) -> float:
    """1 for texts of the same words (articles, number, synonyms aside), else the likeness of the words that differ most."""
    a, b = list(normal(one)), list(normal(other))
    changes = [code for code in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes() if code[0] != "equal"]
    pairs = [(" ".join(a[i:j]), " ".join(b[k:m])) for _, i, j, k, m in changes]
    return min((difflib.SequenceMatcher(None, was, now, autojunk=False).ratio() for was, now in pairs), default=1.0)


def paraphrase(subject: Subject) -> Judgement:
    """1 over 1 plus the number of things that the negative and the nearest true text say differently."""
    names = _names(subject)
    said = meaning(texts_of(subject)[1], names)
    differs, nearest = min((difference(said, meaning(one, names)), one) for one in positives_of(subject))
    if differs == 0:
        return Judgement(1.0, f"it says the same as “{nearest}”")
    return Judgement(
        1 / (1 + differs), f"it differs from “{nearest}” in {differs} {'thing' if differs == 1 else 'things'}"
    )


def hypernym(subject: Subject) -> Judgement:
    """1 when a new noun is a wider word or a synonym of the one it replaces, UNKNOWN when of another annotated thing."""
    found = max(_wider(subject), key=lambda judgement: judgement.value or 0, default=None)
    return found or Judgement(0.0, "no new noun is a wider word for what is there")


def _wider(subject: Subject) -> Iterator[Judgement]:
    names = _names(subject)
    was, now = (mentions(text, names) for text in texts_of(subject))
    old, known = beyond(was, now), {mention.noun for mention in was}
    new = [mention for mention in now if mention.noun not in known]
    facts = (*positives_of(subject), *facts_of(subject.boxes, subject.phrases, subject.categories))
    for one in new:
        for other in old:
            if _may_be_called(other, one):
                yield Judgement(1.0, f"a {other.noun} may be called a {one.noun}")
            elif other.noun != one.noun and may_be_both(other.noun, one.noun):
                yield Judgement(AMBIGUOUS, f"a {other.noun} and a {one.noun} may be the same")
        for fact in dict.fromkeys(facts):
            for other in mentions(fact, names):
                if _may_be_called(other, one):
                    yield Judgement(UNKNOWN, f"“{fact}” names a {other.noun}, which may be called a {one.noun}")


def _may_be_called(thing: Mention, claim: Mention) -> bool:
    wider = thing.noun != claim.noun and is_a(thing.noun, claim.noun)
    return wider and enough(thing, claim) and not conflict(thing, claim)


def still_true_of(subject: Subject) -> Judgement:
    """What the annotations say for the negative; 1 when one of them, or the true text, says all of it."""
    before, after = texts_of(subject)
    names = _names(subject)
    facts = facts_of(subject.boxes, subject.phrases, subject.categories)
    support = still_true(after, before, facts, names)
    if support.value < 1:
        claim = meaning(after, names)
        said = next((fact for fact in (before, *facts) if entails(meaning(fact, names), claim)), None)
        if said is not None:
            return Judgement(1.0, f"“{said}” says as much")
    return Judgement(support.value, support.reason)


def text_length(subject: Subject) -> Judgement:
    """Words of the negative over words of the true text."""
    was, now = (max(len(tokens(plain_name(text))), 1) for text in texts_of(subject))
    return Judgement(now / was, f"{now} words instead of {was}")


def single_edit(subject: Subject) -> Judgement:
    """The number of concepts that differ from the true text."""
    changed = edits(*texts_of(subject), _names(subject))
    return Judgement(float(len(changed)), "; ".join(changed) or "no concept was changed")


@lru_cache(maxsize=16)
def _class_words(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(token.word for name in names for token in tokens(plain_name(name)))


def language(subject: Subject) -> Judgement:
    """The share of what tells a language that speaks for that of the true texts."""
    found = evidence(texts_of(subject)[1], positives_of(subject), _class_words(_names(subject)))
    return Judgement(found.share, found.reason)


def profanity(subject: Subject) -> Judgement:
    """The share of words that are on the list and in no class name."""
    found, total = profane(texts_of(subject)[1], _class_words(_names(subject)))
    if not total:
        return Judgement(None, "the negative has no words")
    masked = ", ".join(f"{word[0]}{'*' * (len(word) - 1)}" for word in found)
    return Judgement(
        len(found) / total, f"{len(found)} of {total} words: {masked}" if found else "none of its words is on the list"
    )


def fluency(subject: Subject) -> Judgement:
    """The number of faults of form that the true text does not have."""
    before, after = texts_of(subject)
    new = faults(after, before)
    return Judgement(float(len(new)), "; ".join(new) or "no fault of form was found")

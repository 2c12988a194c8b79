"""What a text says of things, as far as words go, and whether other texts make it true.

No grammar is parsed: a *mention* is a noun that is known, from the lexicon or as a class name, with the adjectives and
the number before it. Two mentions are compared by kind and by the words that exclude each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from db.records import Box, Phrase
from engine.lexicon import (
    INVERSE,
    NUMBERS,
    PLURAL_ONLY,
    canonical,
    is_a,
    nouns,
    plural,
    relation_name,
    singular,
    words,
    words_of,
)

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")
ARTICLES = frozenset(("a", "an", "the"))
DETERMINERS = ARTICLES | words("this that these those his her its their my your our another each some")
ADJECTIVES = ("colour", "pattern", "material", "size")
_NO_NOUN_AFTER = words("to can could will would may must they we i you he she who which that")
FUNCTION_WORDS = words(
    "of in on at by for from with without to into onto over under above below behind near beside and or but is are was were has have"
    " had while as who which that he she it they off up down next front left right top inside outside through across"
)
_LONGEST = 4  # words of a noun or relation
_WINDOW = 5  # adjectives looked at before a noun


class Token(NamedTuple):
    """A word of a text: where it stands, and its lower case."""

    start: int
    end: int
    word: str


class Mention(NamedTuple):
    """A noun in a text. `first` and `last` are its token numbers, last exclusive; `head` is where its phrase begins.

    `noun` is in the singular; `slots` are its adjectives, (edit type, word that stands for the synonyms); `number` is said in words
    or figures, None where it is not.
    """

    first: int
    last: int
    head: int
    noun: str
    plural: bool
    number: int | None
    slots: tuple[tuple[str, str], ...]

    @property
    def says(self) -> tuple[object, ...]:
        """What is said, wherever it stands."""
        return self.noun, self.number, self.slots


class Relation(NamedTuple):
    """`subject` stands in relation `name` to `other`; nouns in the singular."""

    subject: str
    name: str
    other: str


def tokens(text: str) -> list[Token]:
    """The words and figures of a text, in order."""
    return list(_tokens(text))


@lru_cache(maxsize=4096)
def _tokens(text: str) -> tuple[Token, ...]:
    return tuple(Token(found.start(), found.end(), found[0].lower()) for found in WORD.finditer(text))


@lru_cache(maxsize=4096)
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
    return list(_mentions(text, tuple(names)))


@lru_cache(maxsize=4096)
def _mentions(text: str, names: tuple[str, ...]) -> tuple[Mention, ...]:
    words = tokens(text)
    known = vocabulary(names)
    found: list[Mention] = []
    at = 0
    while at < len(words):
        length, noun, is_plural = _noun_at(words, at, known)
        if length:
            if found and found[-1].last == at and _joined(text, words, at):
                found.pop()
            found.append(_mention(words, at, at + length, noun, is_plural))
        at += length or 1
    return tuple(found)


def _noun_at(words: list[Token], at: int, known: dict[tuple[str, ...], tuple[str, bool]]) -> tuple[int, str, bool]:
    """(number of tokens, noun, whether plural) of the longest noun that begins here; 0 tokens when none does."""
    if (at and words[at - 1].word in _NO_NOUN_AFTER) or _is_adjective_here(words, at):
        return 0, "", False
    for length in range(min(_LONGEST, len(words) - at), 0, -1):
        chunk = tuple(token.word for token in words[at : at + length])
        if chunk in known:
            return length, *known[chunk]
        one = (*chunk[:-1], singular(chunk[-1]))
        if one in known:
            return length, known[one][0], True
    return 0, "", False


def _is_adjective_here(words: list[Token], at: int) -> bool:
    """Whether a word that may be an adjective too stands before another one: "an orange and white striped mug"."""
    following = [token.word for token in words[at + 1 : at + 3]]
    if following[:1] == ["and"]:
        del following[0]
    both = (words[at].word, *following[:1])
    return len(both) == 2 and all(any(word in words_of(kind) for kind in ADJECTIVES) for word in both)


def _joined(text: str, words: list[Token], at: int) -> bool:
    return text[words[at - 1].end : words[at].start].isspace()


def _mention(words: list[Token], first: int, last: int, noun: str, is_plural: bool) -> Mention:
    """The mention with what the words before it say, back to the determiner, the number or the next noun."""
    known = vocabulary()
    head, count, slots = first, None, set()
    for at in range(first - 1, max(first - 1 - _WINDOW, -1), -1):
        word = words[at].word
        kinds = [kind for kind in ADJECTIVES if word in words_of(kind)]
        slots |= {(kind, canonical(kind, word)) for kind in kinds}
        count = number_of(word)
        if word in DETERMINERS or count is not None:
            head = at
        if word in DETERMINERS or count is not None or not (kinds or _may_describe(words, at, known)):
            break
        head = at
    return Mention(first, last, head, noun, is_plural, count, tuple(sorted(slots)))


def _may_describe(words: list[Token], at: int, known: dict[tuple[str, ...], tuple[str, bool]]) -> bool:
    word = words[at].word
    if word == "and":
        return at > 0 and any(words[at - 1].word in words_of(kind) for kind in ADJECTIVES)
    return (
        (word,) not in known
        and (singular(word),) not in known
        and word not in FUNCTION_WORDS
        and not word.endswith("ing")
    )


def relations(text: str, found: Sequence[Mention]) -> list[Relation]:
    """The relations that are said between neighbouring mentions."""
    words = tokens(text)
    said: list[Relation] = []
    for one, other in pairwise(found):
        between = " ".join(token.word for token in words[one.last : other.head])
        between = between.removeprefix("is ")
        if between in words_of("relation"):
            said.append(Relation(one.noun, relation_name(between), other.noun))
    return said


def inverse(relation: Relation) -> Relation | None:
    """The same said from the other side."""
    name = INVERSE.get(relation.name)
    return None if name is None else Relation(relation.other, name, relation.subject)


# Truth


class Support(NamedTuple):
    """How far facts speak for a text: 1 they say it, 0 nothing does. `reason` names the fact."""

    value: float
    reason: str


UNKNOWN = 0.6
"""Support from a thing of the right kind of which no fact says whether the rest holds too."""


def facts_of(boxes: Sequence[Box], phrases: Sequence[Phrase], categories: Mapping[int, str]) -> tuple[str, ...]:
    """What the annotations of an image say: its texts, and for each box its class with the adjectives of its phrases.

    The latter have no article ("red striped mug"), which marks them as one thing each.
    """
    names = tuple(categories.values())
    texts = [phrase.text for phrase in phrases if phrase.holds]
    classes = [(box, categories.get(box.category_id or 0)) for box in boxes]
    things = [_thing(box, phrases, name, names) for box, name in classes if name is not None]
    return (*dict.fromkeys(texts), *things)


def _thing(box: Box, phrases: Sequence[Phrase], name: str, names: Sequence[str]) -> str:
    texts = [phrase.text for phrase in phrases if phrase.holds and phrase.box_ids == (box.id,)]
    own = [mention for text in texts for mention in mentions(text, names)[:1]]
    words = dict.fromkeys(word for mention in own if is_a(mention.noun, name.lower()) for _, word in mention.slots)
    return " ".join([*words, plain_name(name)])


def still_true(negative: str, positive: str, facts: Sequence[str], names: Sequence[str] = ()) -> Support:
    """How likely `negative`, made from the true text `positive`, is true as well: in [0, 1], with the reason.

    `facts` are other true texts, as `facts_of` gives them; a noun without article stands for one annotated thing each
    time it occurs. What only a look at the image would show is not found.
    """
    names = tuple(names)
    if normal(negative) == normal(positive):
        return Support(1.0, f"it says the same as “{positive}”")
    stated = next((fact for fact in facts if normal(fact) == normal(negative)), None)
    if stated is not None:
        return Support(1.0, f"“{stated}” is annotated")
    judge = _Judge(negative, positive, facts, names)
    found = (*judge.entailed(), *judge.counted(), *judge.seen(), *judge.undescribed(), *judge.related())
    return max(found, key=lambda support: support.value, default=Support(0.0, "no annotation speaks for it"))


@lru_cache(maxsize=4096)
def normal(text: str) -> tuple[str, ...]:
    """The words of a text without articles, in the singular, synonyms made equal."""
    return tuple(_standard(token.word) for token in tokens(text) if token.word not in ARTICLES)


def _standard(word: str) -> str:
    for kind in ADJECTIVES:
        if word in words_of(kind):
            return canonical(kind, word)
    count = number_of(word)
    if count is not None:
        return str(count)
    one = singular(word)
    return nouns()[one].name if one in nouns() else one


class _Judge:
    """The ways in which facts may speak for a negative. Each yields what it finds."""

    def __init__(self, negative: str, positive: str, facts: Sequence[str], names: tuple[str, ...]) -> None:
        self.was, now = mentions(positive, names), mentions(negative, names)
        left, new = beyond(self.was, now), beyond(now, self.was)
        self.changed = [(left[i] if i < len(left) else None, mention) for i, mention in enumerate(new)]
        self.sources = [("the text", self.was), *((fact, mentions(fact, names)) for fact in facts)]
        self.things = [found[0] for fact, found in self.sources[1:] if _one_thing(found, fact)]
        self.relations = set(relations(negative, now)) - set(relations(positive, self.was))
        self.said = [(fact, relation) for fact in facts for relation in relations(fact, mentions(fact, names))]

    def entailed(self) -> Iterator[Support]:
        """The changed noun is a wider word for the old one."""
        for was, now in self.changed:
            if was and was.noun != now.noun and was.slots == now.slots and is_a(was.noun, now.noun):
                yield Support(1.0, f"a {was.noun} may be called a {now.noun}")

    def counted(self) -> Iterator[Support]:
        """As many things of the kind are annotated as the changed number says, or more."""
        for _, now in self.changed:
            alike = [thing for thing in self.things if _may_be(thing, now)]
            if _number(now) > 1 and len(alike) >= _number(now):
                yield Support(UNKNOWN, f"{len(alike)} {plural(now.noun)} are annotated")

    def seen(self) -> Iterator[Support]:
        """A thing such as the changed words say is mentioned elsewhere, or one that may be so."""
        for was, now in self.changed:
            for where, others in self.sources:
                for other in others:
                    if is_a(other.noun, now.noun) and enough(other, now):
                        if set(now.slots) <= set(other.slots):
                            yield Support(1.0, f"“{where}” names {say(other)}")
                        elif (was is None or was.noun != now.noun) and not conflict(other, now):
                            yield Support(UNKNOWN, f"“{where}” names {say(other)}")

    def undescribed(self) -> Iterator[Support]:
        """Of several things of the kind, as many as are said, one has no words that exclude the changed ones."""
        for was, now in self.changed:
            alike = [thing for thing in self.things if is_a(thing.noun, now.noun)]
            enough_of_them = len(alike) >= max(2, _number(now))
            if was and was.noun == now.noun and enough_of_them and any(_may_be(thing, now) for thing in alike):
                yield Support(UNKNOWN, f"one of {len(alike)} annotated {plural(now.noun)} may be {say(now)}")

    def related(self) -> Iterator[Support]:
        """The changed relation is said elsewhere, from either side, or several things may stand in it."""
        for claim in self.relations:
            for fact, relation in self.said:
                if claim in (relation, inverse(relation)):
                    yield Support(UNKNOWN, f"“{fact}” is annotated")
            alike = [thing for thing in self.things if is_a(thing.noun, claim.subject)]
            subject = next((mention for mention in self.was if mention.noun == claim.subject), None)
            if subject is not None and sum(_may_be(thing, subject) for thing in alike) > 1:
                yield Support(
                    UNKNOWN, f"{len(alike)} {plural(claim.subject)} are annotated, and another may be {claim.name}"
                )


def beyond(mentions: Sequence[Mention], others: Sequence[Mention]) -> list[Mention]:
    """The mentions that say what none of the others says; the order in which things are named does not matter."""
    others_say = [other.says for other in others]
    beyond = []
    for mention in mentions:
        if mention.says in others_say:
            others_say.remove(mention.says)
        else:
            beyond.append(mention)
    return beyond


def _one_thing(found: Sequence[Mention], fact: str) -> bool:
    """Whether a fact is one noun in the singular with its adjectives, without article or number."""
    if len(found) != 1 or found[0].head != 0 or found[0].last != len(tokens(fact)):
        return False
    return found[0].number is None and tokens(fact)[0].word not in DETERMINERS


def _may_be(thing: Mention, claim: Mention) -> bool:
    return is_a(thing.noun, claim.noun) and not conflict(thing, claim)


def conflict(one: Mention, other: Mention) -> bool:
    """Whether both have adjectives of a kind and share none of them."""
    return any(
        not {word for kind, word in one.slots if kind == shared}
        & {word for kind, word in other.slots if kind == shared}
        for shared in dict(one.slots).keys() & dict(other.slots).keys()
    )


def _number(mention: Mention) -> int:
    return mention.number or (2 if mention.plural else 1)


def enough(fact: Mention, claim: Mention) -> bool:
    """Whether the fact has as many things as the claim; an unsaid plural may be any number."""
    return _number(fact) >= _number(claim) or (fact.plural and fact.number is None)


def say(mention: Mention) -> str:
    """The mention in words: its adjectives and its noun."""
    words = " ".join([*(word for _, word in mention.slots), plural(mention.noun) if mention.plural else mention.noun])
    return f"{mention.number} {words}" if mention.number else words

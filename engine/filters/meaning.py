"""What a text says, however it is put: things with their properties, and what links one to another.

"a red dog left of a cat" and "the cat is to the right of a dog that is red" have the same meaning, and so have "a dog chases a
cat" and "a cat chased by a dog". No grammar is parsed. What is not understood stays as words in their order, so that two
texts are taken for the same too seldom rather than too often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from engine.claims import ADJECTIVES, DETERMINERS, FUNCTION_WORDS, Mention, Token, mentions, number_of, tokens
from engine.lexicon import INVERSE, PLURAL_ONLY, canonical, is_a, nouns, relation_name, words, words_of

PROPERTIES = (*ADJECTIVES, "attribute", "position", "count")
IDLE = words("is are was were be been being that which who there located placed positioned situated")
_PREAMBLE = words("photo picture image view scene of showing shows depicting this it") | IDLE
_NEGATIONS = words("no not never none nobody nothing neither without")
_COUNTED = (["pair", "of"], ["pairs", "of"])  # "one pink pair of scissors" is one pink thing
_LONGEST = 4  # words of a relation
_VERBS = """
hold held, ride rode ridden, eat ate eaten, throw threw thrown, catch caught, wear wore worn, drive drove driven, take took taken
give gave given, draw drew drawn, feed fed, lead led, bite bit bitten, see saw seen, build built, bring brought, hide hid hidden
fly flew flown, hit, cut, read, make made, write wrote written, break broke broken, swing swung, shoot shot
"""
_IRREGULAR = {form: verb.split()[0] for verb in _VERBS.replace("\n", ",").split(",") for form in verb.split()}


class Unit(NamedTuple):
    """One concept of a text. `kind` is noun, relation, action, one of PROPERTIES, determiner or word; `name` stands for
    all ways to say it, `said` is how it is said here. `number` is that of a noun, None when nobody said how many."""

    kind: str
    name: str
    said: str
    number: int | None = None


class Thing(NamedTuple):
    """`number` is 1 for "a dog", None for "dogs"."""

    noun: str
    number: int | None
    properties: frozenset[str]


class Link(NamedTuple):
    """What is said between two things, the first being the subject: ("left of",), ("chas",), ("stand", "inside")."""

    subject: Thing
    name: tuple[str, ...]
    other: Thing


@dataclass(frozen=True)
class Meaning:
    """What a text says, in an order of its own. `rest` are words that could not be attached to any thing."""

    things: tuple[Thing, ...]
    links: tuple[Link, ...]
    rest: tuple[tuple[str, ...], ...]

    @cached_property
    def said(self) -> Counter[tuple[object, ...]]:
        """Each single thing that is said, with the nouns it is said of."""
        return Counter(_said(self))

    @cached_property
    def denies(self) -> bool:
        """Whether anything is denied."""
        named = [*self.rest, *(link.name for link in self.links), *(thing.properties for thing in self.things)]
        return any(not _NEGATIONS.isdisjoint(words) for words in named)


def units(text: str, names: Sequence[str] = ()) -> tuple[Unit, ...]:
    """The concepts of a text, in order. `names` are nouns besides those of the lexicon."""
    return _units(text, tuple(names))


@lru_cache(maxsize=4096)
def _units(text: str, names: tuple[str, ...]) -> tuple[Unit, ...]:
    said = tokens(text)
    found = {mention.first: mention for mention in mentions(text, names)}
    units: list[Unit] = []
    at = 0
    while at < len(said):
        if [token.word for token in said[at : at + 2]] in _COUNTED:
            at += 2
            continue
        length = found[at].last - at if at in found else _relation_at(said, at)
        words = text[said[at].start : said[at + max(length, 1) - 1].end]
        if at in found:
            units.append(_noun(found[at], words))
        elif length:
            units.append(Unit("relation", relation_name(words.lower()), words))
        else:
            units.append(_single(said[at].word, words))
        at += length or 1
    return tuple(units)


def _relation_at(said: list[Token], at: int) -> int:
    """The number of tokens of the longest relation that begins here, 0 for none."""
    known = words_of("relation")
    lengths = range(min(_LONGEST, len(said) - at), 0, -1)
    return next((n for n in lengths if " ".join(token.word for token in said[at : at + n]) in known), 0)


def _noun(mention: Mention, said: str) -> Unit:
    sense = nouns().get(mention.noun)
    number = None if mention.plural and mention.noun not in PLURAL_ONLY else 1
    return Unit("noun", sense.name if sense else mention.noun, said, mention.number or number)


def _single(word: str, said: str) -> Unit:
    if word in DETERMINERS:
        return Unit("determiner", word, said)
    number = number_of(word)
    if number is not None:
        return Unit("count", str(number), said)
    kind = next((kind for kind in (*PROPERTIES, "action") if word in words_of(kind)), "word")
    name = canonical(kind, word)
    return Unit(kind, stem(name) if kind in ("action", "word") else name, said)


def stem(word: str) -> str:
    """What the forms of a regular verb share: chases, chased, chasing -> chas. Common irregular ones are known."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    ending = next((e for e in ("ing", "ed", "es", "s") if word.endswith(e) and len(word) - len(e) > 2), "")
    if not ending or word.endswith("ss"):
        return _bare(word)
    base = word.removesuffix(ending)
    doubled = ending in ("ing", "ed") and base[-1] == base[-2] and base[-1] not in "lsz"
    return _bare(base[:-1] if doubled else base)


def _bare(base: str) -> str:
    base = base.removesuffix("e") if len(base) > 2 else base
    base = f"{base[:-1]}i" if len(base) > 2 and base.endswith("y") else base
    return _IRREGULAR.get(base, _IRREGULAR.get(f"{base}e", base))


@lru_cache(maxsize=4096)
def meaning(text: str, names: tuple[str, ...] = ()) -> Meaning:
    """What the text says."""
    reader = _Reader()
    for unit in units(text, names):
        reader.read(unit)
    return reader.meaning()


class _Reader:
    """Goes through the units. `described` is what a noun phrase says so far, `between` what has been said since the last thing."""

    def __init__(self) -> None:
        self.things: list[Thing] = []
        self.links: list[tuple[int, list[Unit], int]] = []
        self.rest: list[tuple[str, ...]] = []
        self.described: list[Unit] = []
        self.between: list[Unit] = []
        self.within = False  # a noun phrase, whose noun is still to come

    def read(self, unit: Unit) -> None:
        if unit.kind == "noun":
            self._thing(unit)
        elif unit.kind == "determiner":
            self._outside()
            self.within = True
        elif unit.kind in PROPERTIES or (self.within and self._describes(unit)):
            self.described.append(unit)
            self.within = True
        elif not (self.within and unit.said.lower() == "and"):
            self._outside()
            self.between.append(unit)

    def _describes(self, unit: Unit) -> bool:
        return unit.kind in ("word", "action") and unit.said.lower() not in FUNCTION_WORDS

    def _outside(self) -> None:
        """A noun phrase without a known noun was none; what it says belongs to what is said between things."""
        if not self._completes():
            self.between += self.described
        self.described, self.within = [], False

    def _completes(self) -> bool:
        """Whether the properties belong to the thing before: "the mug is red"."""
        idle = all(unit.said.lower() in IDLE for unit in self.between)
        alone = all(unit.kind in PROPERTIES and unit.kind != "count" for unit in self.described)
        if not (self.described and self.things and idle and alone):
            return False
        last = self.things[-1]
        self.things[-1] = last._replace(properties=last.properties | {unit.name for unit in self.described})
        self.between = []
        return True

    def _thing(self, noun: Unit) -> None:
        own = frozenset(unit.name for unit in self.described if unit.kind != "count")
        counts = [int(unit.name) for unit in self.described if unit.kind == "count"]
        self.things.append(Thing(noun.name, counts[-1] if counts else noun.number, own))
        self._link()
        self.described, self.between, self.within = [], [], False

    def _link(self) -> None:
        new = len(self.things) - 1
        coordinate = bool(self.between) and self.between[0].said.lower() == "and"
        said = self.between[coordinate:]
        if new == 0:
            self._keep("before", [unit for unit in said if unit.said.lower() not in _PREAMBLE])
        elif said:
            subject = self.links[-1][0] if coordinate and self.links else new - 1
            self.links.append((subject, said, new))

    def _keep(self, where: str, said: list[Unit]) -> None:
        if said:
            self.rest.append((where, *(unit.name for unit in said)))

    def meaning(self) -> Meaning:
        """What was read, to be called once, at the end."""
        self._outside()
        said = [unit for unit in self.between if unit.said.lower() not in IDLE]
        if self.things and len(said) == 1 and said[0].kind == "action":
            last = self.things[-1]
            self.things[-1] = last._replace(properties=last.properties | {said[0].name})
        else:
            self._keep("after", said)
        links = [_link(self.things[one], said, self.things[other]) for one, said, other in self.links]
        return Meaning(tuple(sorted(self.things, key=repr)), tuple(sorted(links, key=repr)), tuple(self.rest))


def _link(one: Thing, said: list[Unit], other: Thing) -> Link:
    """The link from the side from which it is always told; "be" where nothing but a copula is said."""
    active = [unit for unit in said if unit.said.lower() not in IDLE]
    name = tuple(relation_name(unit.name) for unit in active) or ("be",)
    if len(active) > 1 and name[-1] == "by" and _is_participle(active[-2].said.lower()):
        return Link(other, name[:-1], one)
    if len(name) > 1 or name[0] not in INVERSE:
        return Link(one, name, other)
    return min(Link(one, name, other), Link(other, (INVERSE[name[0]],), one), key=lambda link: (link.name, repr(link)))


def _is_participle(word: str) -> bool:
    return word.endswith("ed") or (word in _IRREGULAR and not word.endswith(("ing", "s")))


# Comparing


def difference(one: Meaning, other: Meaning) -> int:
    """How many things are said differently, 0 exactly when both mean the same."""
    if one == other:
        return 0
    shared = sum(min(times, other.said[said]) for said, times in one.said.items() if said in other.said)
    most = max(sum(one.said.values()), sum(other.said.values()))
    return max(most - shared, 1)  # 1: all the same but for who has which part


def _said(of: Meaning) -> Iterator[tuple[object, ...]]:
    for thing in of.things:
        yield thing.noun, thing.number
        yield from (("is", thing.noun, word) for word in thing.properties)
    yield from (("link", link.subject.noun, link.name, link.other.noun) for link in of.links)
    yield from of.rest


def entails(fact: Meaning, claim: Meaning) -> bool:
    """Whether all that is claimed is said by the fact, perhaps in narrower words or of more things.

    Where something is denied, less said is not less claimed: that is never called entailed.
    """
    if not claim.things or fact.denies or claim.denies:
        return fact == claim
    free = list(fact.things)
    for thing in claim.things:
        support = next((one for one in free if _covers(one, thing)), None)
        if support is None:
            return False
        free.remove(support)
    linked = all(any(_covers_link(one, link) for one in fact.links) for link in claim.links)
    return linked and set(claim.rest) <= set(fact.rest)


def _covers(fact: Thing, claim: Thing) -> bool:
    enough = fact.number is None or (claim.number or 2) <= fact.number
    return enough and is_a(fact.noun, claim.noun) and claim.properties <= fact.properties


def _covers_link(fact: Link, claim: Link) -> bool:
    return fact.name == claim.name and _covers(fact.subject, claim.subject) and _covers(fact.other, claim.other)

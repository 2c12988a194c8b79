"""The small English of the world, and what it means.

    description = [article | number] adjective* noun [relation description]
    caption     = description {", " description} [" and " description] [" on " surface]

"a" and no article mean at least one, a number means exactly so many, "the" means that there is one only. Adjectives
come in any order. `parse` and `Description.text` are inverse to each other.
"""

import re

import msgspec

from engine.tabletop.difficulty import SIZES
from engine.tabletop.kinds import BY_NAME, KINDS
from engine.tabletop.records import TrueObject, Truth
from engine.tabletop.relations import RELATIONS, related
from engine.tabletop.render import COLOURS, MATERIALS, PATTERNS
from engine.tabletop.surfaces import SURFACES

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "material": MATERIALS,
}
_ADJECTIVES = {word: slot for slot, words in ATTRIBUTES.items() for word in words}
_NOUNS = (
    {k.noun: (k.name, False) for k in KINDS}
    | {k.name: (k.name, False) for k in KINDS}
    | {k.plural: (k.name, True) for k in KINDS}
)
_NOUN_AT_END = re.compile(r"(?:^| )(" + "|".join(sorted(map(re.escape, _NOUNS), key=len, reverse=True)) + r")$")
_RELATION = re.compile(r" (" + "|".join(sorted(RELATIONS, key=len, reverse=True)) + r") ")


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """One description. `count` is a number said in words, `definite` is "the", neither is "a"."""

    kind: str
    count: int | None = None
    definite: bool = False
    size: str | None = None
    colour: str | None = None
    pattern: str | None = None
    material: str | None = None
    relation: str | None = None
    anchor: "Description | None" = None

    @property
    def text(self) -> str:
        """The description in words."""
        words = self.noun_phrase
        return f"{words} {self.relation} {self.anchor.text}" if self.relation and self.anchor else words

    @property
    def noun(self) -> str:
        """The noun, in the plural for two and more."""
        kind = BY_NAME[self.kind]
        return kind.noun if self.count in (None, 1) else kind.plural

    @property
    def noun_phrase(self) -> str:
        """The description in words without its relation."""
        plain = self.pattern == "plain"
        words = [
            self.size,
            "plain" if plain else None,
            self.colour,
            None if plain else self.pattern,
            self.material,
            self.noun,
        ]
        phrase = " ".join(word for word in words if word)
        if self.definite:
            return f"the {phrase}"
        if self.count is not None:
            return f"{NUMBERS[self.count - 1]} {phrase}"
        return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def parse(text: str) -> Description | None:
    """The description that a text gives, or None when it is not of the grammar."""
    head, relation, rest = _split_relation(" ".join(text.lower().split()))
    described = _noun_phrase(head)
    if described is None or relation is None:
        return described
    anchor = _noun_phrase(rest)
    if anchor is None or anchor.count not in (None, 1):
        return None
    return msgspec.structs.replace(described, relation=relation, anchor=anchor)


def holds(truth: Truth, text: str) -> bool | None:
    """Whether a description or caption is true of the scene; None when it is not of the grammar or is ambiguous."""
    clauses, surface = _clauses(text)
    described = [parse(clause) for clause in clauses]
    if None in described:
        return None
    results = [true_of(truth, d) for d in described if d is not None]
    if surface is not None:
        results.append(surface == SURFACES[truth.surface])
    return False if False in results else None if None in results else True


def referents(truth: Truth, text: str) -> list[int]:
    """Indices of the objects that surely fit the head of the description, or of any description in a caption."""
    described = [parse(clause) for clause in _clauses(text)[0]]
    return sorted({i for d in described if d is not None for i in matches(truth, d)[0]})


def true_of(truth: Truth, description: Description) -> bool | None:
    """Whether the description is true of the scene; None when it is ambiguous."""
    anchor = description.anchor
    if anchor is not None and anchor.definite and len(matches(truth, anchor)[0]) > 1:
        return None
    sure, possible = (len(found) for found in matches(truth, description))
    if description.definite or description.count is not None:
        wanted = description.count or 1
        if sure == possible == wanted:
            return True
        too_many = sure > wanted and not description.definite
        return False if possible < wanted or too_many else None
    return True if sure else None if possible else False


def matches(truth: Truth, description: Description) -> tuple[list[int], list[int]]:
    """Indices of the objects that surely fit the description, and of those that may."""
    fitting = [i for i, thing in enumerate(truth.objects) if fits(thing, description)]
    if description.relation is None or description.anchor is None:
        return fitting, fitting
    anchors = [j for j, thing in enumerate(truth.objects) if fits(thing, description.anchor)]
    found = {i: [related(truth, i, description.relation, j) for j in anchors if j != i] for i in fitting}
    return [i for i in fitting if True in found[i]], [i for i in fitting if True in found[i] or None in found[i]]


def fits(thing: TrueObject, description: Description) -> bool:
    """Whether kind and adjectives are those of the object."""
    if thing.kind != description.kind:
        return False
    asked = ((slot, getattr(description, slot)) for slot in ATTRIBUTES)
    return all(word in (None, getattr(thing, slot)) for slot, word in asked)


def _split_relation(text: str) -> tuple[str, str | None, str]:
    found = _RELATION.search(text)
    return (text[: found.start()], found[1], text[found.end() :]) if found else (text, None, "")


def _clauses(text: str) -> tuple[list[str], str | None]:
    """The descriptions of a caption and the surface it names, if any."""
    text = " ".join(text.lower().split()).removesuffix(".")
    surface = next((name for name in SURFACES.values() if text.endswith(f" on {name}")), None)
    if surface is not None:
        text = text.removesuffix(f" on {surface}")
    return re.split(r", and |, | and ", text), surface


def _noun_phrase(text: str) -> Description | None:
    found = _NOUN_AT_END.search(text)
    if found is None:
        return None
    kind, plural = _NOUNS[found[1]]
    words = text[: found.start()].split()
    article = words.pop(0) if words and (words[0] in ("a", "an", "the") or words[0] in NUMBERS) else None
    count = NUMBERS.index(article) + 1 if article in NUMBERS else None
    said = {_ADJECTIVES[word]: word for word in words if word in _ADJECTIVES}
    if len(said) < len(words) or plural != (count is not None and count > 1):
        return None
    return msgspec.structs.replace(Description(kind=kind, count=count, definite=article == "the"), **said)

"""The rule-based writer: exchanges one word of a text for one that excludes it. No weights, the literature's control."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from db.errors import WinnowError
from engine import lexicon
from engine.chat import Usage
from engine.claims import DETERMINERS, Mention, Token, mentions, number_of, plain_name, still_true, tokens
from engine.roles import Context, Foil, WriteTask
from engine.seeds import seed_of
from engine.wording import changed_spans

STILL_TRUE = 0.5  # support by the facts from which on a foil is not written
_SIDES = lexicon.words("side hand corner half edge end row part shelf lane arm leg leg's picture image")
_PLACES = lexicon.words("the on at to in top bottom far upper lower")
_FINITE = lexicon.words("is are was were has have had does do did it its he she his her they their who which that")
_PREPOSITIONS = lexicon.words(
    "of in on at by for from to into onto over under above below behind near beside inside outside"
)
_PARTICLES = lexicon.words("put puts putting try tries trying turn turns turned turning going goes go come comes came")


class Edit(NamedTuple):
    """Replace `text[start:end]` by `new`. `more` are changes that agreement asks for, (start, end, new)."""

    edit_type: str
    start: int
    end: int
    new: str
    more: tuple[tuple[int, int, str], ...] = ()


class _Text(NamedTuple):
    """A task's text, taken apart."""

    task: WriteTask
    text: str
    words: list[Token]
    found: list[Mention]


class RulesWriter:
    """Foils one concept: an object, colour, material, pattern, size, number, relation, position, action or attribute."""

    def __init__(self, context: Context | None = None, **options: Any) -> None:
        if options:
            raise WinnowError(f"The backend 'rules' has no options; got {', '.join(sorted(options))}.")
        self.usage = Usage()

    def write(self, tasks: Sequence[WriteTask]) -> list[list[Foil] | str]:
        """Foils of different edit types first; the same for the same seed and text. Empty where no word is known.

        A foil is left out when the facts, or the text itself, make it true or leave that open.
        """
        return [self._write(task) for task in tasks]

    def _write(self, task: WriteTask) -> list[Foil]:
        chance = random.Random(seed_of(task.seed, task.text))
        parsed = _Text(task, task.text, tokens(task.text), mentions(task.text, task.siblings))
        foils: dict[str, Foil] = {}
        for edit in _taking_turns(parsed, chance):
            if len(foils) == task.n:
                break
            foil = _apply(edit, task.text)
            support = still_true(foil.text, task.text, task.facts, task.siblings)
            if support.value <= STILL_TRUE:
                foils.setdefault(foil.text, foil)
        return list(foils.values())


def _taking_turns(parsed: _Text, chance: random.Random) -> Iterator[Edit]:
    """Every edit once: one of each type, in random order, then a second of each, and so on."""
    by_type: dict[str, list[Edit]] = {}
    for rule in _RULES:
        for edit in rule(parsed):
            by_type.setdefault(edit.edit_type, []).append(edit)
    queues = list(by_type.values())
    chance.shuffle(queues)
    for queue in queues:
        chance.shuffle(queue)
    for row in zip_longest(*queues):
        yield from (edit for edit in row if edit is not None)


def _apply(edit: Edit, text: str) -> Foil:
    """The text with the edit, its agreement and, before it, the article that its sound asks for."""
    start, end, new = edit.start, edit.end, edit.new
    if text[start:end][:1].isupper() and start == 0 and end < len(text):
        new = new[:1].upper() + new[1:]
    changed = text
    for begin, stop, word in sorted((*edit.more, (start, end, new)), reverse=True):
        changed = changed[:begin] + word + changed[stop:]
    head = text[:start]
    article = re.search(r"\b([Aa])n?(\s+)$", head)
    if article and not any(begin < start for begin, _, _ in edit.more):
        right = lexicon.article(changed[start:].split(maxsplit=1)[0])
        changed = head[: article.start()] + article[1] + right[1:] + article[2] + changed[start:]
    return Foil(
        text=changed,
        edit_type=edit.edit_type,
        changed_from=text[start:end],
        changed_to=new,
        spans=changed_spans(text, changed),
    )


# Objects


def _objects(parsed: _Text) -> Iterator[Edit]:
    """Another class of the data set, or another word of the same line of the lexicon."""
    for mention in parsed.found:
        first, is_plural = _pair(parsed, mention)
        start, end = parsed.words[first].start, parsed.words[mention.last - 1].end
        if parsed.text in parsed.task.siblings:  # a class name as it is written, underscores and all
            start, end = 0, len(parsed.text)
        whole = (start, end) == (0, len(parsed.text))
        for noun in _rivals(mention, parsed):
            new = noun if whole and noun in parsed.task.siblings else _form(plain_name(noun), is_plural)
            yield Edit("object", start, end, new)


def _pair(parsed: _Text, mention: Mention) -> tuple[int, bool]:
    """Where the noun begins and whether it is a plural: "a pair of scissors" is one thing."""
    before = [token.word for token in parsed.words[max(mention.first - 2, 0) : mention.first]]
    if mention.noun in lexicon.PLURAL_ONLY and before in (["pair", "of"], ["pairs", "of"]):
        return mention.first - 2, before[0] == "pairs"
    return mention.first, mention.plural


def _rivals(mention: Mention, parsed: _Text) -> list[str]:
    own = lexicon.nouns().get(mention.noun)
    said = {plain_name(name).lower(): name for name in parsed.task.siblings}
    is_class = mention.noun in {lexicon.singular(name) for name in said}
    classes = [name for plain, name in said.items() if not lexicon.same_or_kin(lexicon.singular(plain), mention.noun)]
    rivals = [noun for noun in (own.rivals if own else ()) if noun not in said]
    return [noun for noun in (*(classes if is_class else ()), *rivals) if _same_use(noun, own)]


def _same_use(noun: str, own: lexicon.Sense | None) -> bool:
    """A mass noun only for a mass noun: nobody says "a bread"."""
    other = lexicon.nouns().get(noun)
    return (other.mass if other else False) == (own.mass if own else False)


def _form(noun: str, is_plural: bool) -> str:
    """The noun in the number asked for."""
    words = noun.split()
    one = " ".join([*words[:-1], lexicon.singular(words[-1])])
    sense = lexicon.nouns().get(one)
    if one in lexicon.PLURAL_ONLY:
        return f"pair{'s' if is_plural else ''} of {one}"
    return lexicon.plural(one) if is_plural and not (sense and sense.mass) else one


# Words with alternatives


def _adjectives(parsed: _Text) -> Iterator[Edit]:
    """A colour, material, pattern, size or other attribute before a noun, or after a form of "to be"."""
    for at, token in enumerate(parsed.words):
        for edit_type in ("colour", "material", "pattern", "size", "attribute"):
            if token.word in lexicon.words_of(edit_type) and _describes(parsed, at):
                for new in lexicon.alternatives(edit_type, token.word):
                    if _suits(parsed, at, edit_type, new):
                        yield Edit(edit_type, token.start, token.end, new)


def _noun_after(parsed: _Text, at: int) -> Mention | None:
    """The noun whose phrase the token belongs to."""
    return next((mention for mention in parsed.found if mention.head <= at < mention.first), None)


def _describes(parsed: _Text, at: int) -> bool:
    word, noun = parsed.words[at].word, _noun_after(parsed, at)
    if at and parsed.text[parsed.words[at].start].isupper():  # a name: New York, the White House
        return False
    if noun is not None:
        of_people = word == "little" or word in lexicon.words_of("colour")
        return not (of_people and lexicon.is_a(noun.noun, "person"))
    is_noun = any(mention.first <= at < mention.last for mention in parsed.found)
    if is_noun or word in _AMBIGUOUS or not at:
        return False
    return parsed.words[at - 1].word in {"is", "are", "was", "were", *DETERMINERS} and _followed(parsed, at)


def _followed(parsed: _Text, at: int) -> bool:
    """An adjective after "is" may end the text; one after an article needs the word it describes."""
    after_article = parsed.words[at - 1].word in DETERMINERS
    following = parsed.words[at + 1].word if at + 1 < len(parsed.words) else None
    return following not in (None, "of", "in", "on", "and", "is", "with", "at") if after_article else True


def _suits(parsed: _Text, at: int, edit_type: str, new: str) -> bool:
    """The same word is not in the phrase yet, and "short" and "old" meet the opposite that fits their noun."""
    noun = _noun_after(parsed, at)
    if parsed.words[at].word == "short":
        return (new == "long") == (noun is not None and noun.noun in lexicon.LONG_THINGS)
    if new in ("young", "new"):
        living = noun is not None and any(lexicon.is_a(noun.noun, kind) for kind in ("person", "animal"))
        return (new == "young") == living
    phrase = parsed.words[noun.head : noun.first] if noun else ()
    return all(lexicon.canonical(edit_type, token.word) != lexicon.canonical(edit_type, new) for token in phrase)


def _actions(parsed: _Text) -> Iterator[Edit]:
    for at, token in enumerate(parsed.words):
        attributive = _noun_after(parsed, at) is not None and at and parsed.words[at - 1].word in DETERMINERS
        if token.word in lexicon.words_of("action") and not attributive:
            for new in lexicon.alternatives("action", token.word):
                yield Edit("action", token.start, token.end, new)


def _positions(parsed: _Text) -> Iterator[Edit]:
    for at, token in enumerate(parsed.words):
        if token.word in lexicon.words_of("position") and _is_place(parsed.words, at):
            for new in lexicon.alternatives("position", token.word):
                yield Edit("position", token.start, token.end, new)


def _is_place(words: list[Token], at: int) -> bool:
    """Left, right, top, front and back are places only beside words that say so ("has left", "a red top" are not)."""
    word = words[at].word
    before = words[at - 1].word if at else ""
    after = words[at + 1].word if at + 1 < len(words) else ""
    if word in {"inside", "outside"}:
        return not after
    if word in {"left", "right", "top", "bottom", "front", "back"}:
        return after in _SIDES or (before in _PLACES and after in {"", "and", "is"} and word not in {"front", "back"})
    return True


# Relations


def _relations(parsed: _Text) -> Iterator[Edit]:
    known = lexicon.words_of("relation")
    at = 0
    while at < len(parsed.words):
        span = next((n for n in range(4, 0, -1) if _said(parsed, at, n) in known), 0)
        if span and _relates(parsed, at, span):
            for new in lexicon.alternatives("relation", _said(parsed, at, span)):
                yield Edit("relation", parsed.words[at].start, parsed.words[at + span - 1].end, new)
        at += span or 1


def _said(parsed: _Text, at: int, span: int) -> str:
    """The words as written between spaces; "" when there are not so many."""
    return " ".join(token.word for token in parsed.words[at : at + span]) if at + span <= len(parsed.words) else ""


def _relates(parsed: _Text, at: int, span: int) -> bool:
    """A relation follows something and precedes a noun; "on the left" and "puts on a hat" are none."""
    begins = at + span
    target = next((mention for mention in parsed.found if mention.head <= begins <= mention.first), None)
    if at == 0 or target is None or parsed.words[at - 1].word in _PARTICLES:
        return False
    inner = parsed.text[parsed.words[at].start : parsed.words[begins - 1].end]
    return "," not in inner and (span > 1 or parsed.words[begins].word in DETERMINERS or target.head == begins)


# Numbers


def _numbers(parsed: _Text) -> Iterator[Edit]:
    """More of the same: fewer would still be true of a picture with many."""
    for mention in parsed.found:
        yield from _more(parsed, mention) if mention.plural and (mention.number or 0) > 1 else _several(parsed, mention)


def _more(parsed: _Text, mention: Mention) -> Iterator[Edit]:
    token = parsed.words[mention.head]
    count = number_of(token.word) or 0
    for larger in range(count + 1, count + 4):
        if token.word.isdecimal():
            yield Edit("count", token.start, token.end, str(larger))
        elif larger <= len(lexicon.NUMBERS):
            yield Edit("count", token.start, token.end, lexicon.NUMBERS[larger - 1])


def _several(parsed: _Text, mention: Mention) -> Iterator[Edit]:
    """ "a mug" -> "two mugs", where no verb or pronoun would have to follow the number."""
    token = parsed.words[mention.head]
    sense = lexicon.nouns().get(mention.noun)
    countable = not (mention.plural or (sense is not None and sense.mass))
    before = parsed.words[mention.head - 1].word if mention.head else ""
    if token.word in ("a", "an", "one") and countable and before not in _PREPOSITIONS and _free(parsed, mention):
        start, end = parsed.words[mention.first].start, parsed.words[mention.last - 1].end
        nouns = (start, end, _form(parsed.text[start:end], True))
        for number in lexicon.NUMBERS[1:3]:
            yield Edit("count", token.start, token.end, number, (nouns,))


def _free(parsed: _Text, mention: Mention) -> bool:
    rest = [token.word for token in parsed.words[mention.last :]]
    nouns = {parsed.words[i].word for other in parsed.found for i in range(other.first, other.last)}
    return not any(word in _FINITE or (word.endswith("s") and word not in nouns) for word in rest)


_AMBIGUOUS = lexicon.words("open glass square full dry clean orange gold silver paper stone brick")
_RULES: tuple[Callable[[_Text], Iterator[Edit]], ...] = (
    _objects,
    _adjectives,
    _actions,
    _positions,
    _relations,
    _numbers,
)

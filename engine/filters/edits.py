"""Which concepts differ between two texts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest

from engine.filters.meaning import IDLE, PROPERTIES, Unit, difference, meaning, units

_NOTHING = "nothing"


def edits(before: str, after: str, names: tuple[str, ...] = ()) -> list[str]:
    """The concepts that were changed, one sentence part each: "red → blue", "nothing → with a hat".

    A noun with its number is one concept unless both change; what is added or taken away together with a noun is one, and so is
    an exchange of roles.
    """
    was, now = _concepts(before, names), _concepts(after, names)
    if sorted(map(_key, was)) == sorted(map(_key, now)):
        other = difference(meaning(before, names), meaning(after, names))
        return ["the same words in other roles"] if other else []
    codes = difflib.SequenceMatcher(None, [*map(_key, was)], [*map(_key, now)], autojunk=False).get_opcodes()
    blocks = ((was[i:j], now[k:m]) for tag, i, j, k, m in codes if tag != "equal")
    return [edit for old, new in blocks for edit in (_replaced(old, new) if old and new else _one_sided(old, new))]


def _concepts(text: str, names: tuple[str, ...]) -> list[Unit]:
    """The units that say something by themselves; a number is a part of its noun."""
    said = [unit for unit in units(text, names) if unit.kind != "determiner" and unit.said.lower() not in IDLE]
    nouns = [next((unit for unit in said[at:] if unit.kind == "noun"), None) for at in range(len(said))]
    telling = [
        unit
        for unit, noun in zip(said, nouns, strict=True)
        if not (unit.kind == "count" and noun and str(noun.number) == unit.name)
    ]
    runs = groupby(telling, lambda unit: unit.kind in PROPERTIES)
    return [unit for free, run in runs for unit in (sorted(run, key=_place) if free else run)]


def _place(unit: Unit) -> tuple[int, str]:
    """Adjectives come in any order; here they have one."""
    return PROPERTIES.index(unit.kind), unit.name


def _key(unit: Unit) -> tuple[str, str, str]:
    return unit.kind, unit.name, str(unit.number)


def _replaced(old: Sequence[Unit], new: Sequence[Unit]) -> Iterator[str]:
    for was, now in zip_longest(_joined(old), _joined(new)):
        if was and now and was.kind == now.kind == "noun" and was.number != now.number:
            yield f"{was.number or 'some'} → {now.number or 'some'}"
            if was.name == now.name:
                continue
        yield f"{was.said if was else _NOTHING} → {now.said if now else _NOTHING}"


def _one_sided(old: Sequence[Unit], new: Sequence[Unit]) -> Iterator[str]:
    """What was taken away, or added: a phrase for each noun, or each word when there is none."""
    phrases: list[list[str]] = [[]]
    several = not any(unit.kind == "noun" for unit in (*old, *new))
    for unit in _joined(old or new):
        phrases[-1].append(unit.said)
        if several or unit.kind == "noun":
            phrases.append([])
    said = [" ".join(phrase) for phrase in phrases if phrase]
    yield from (f"{phrase} → {_NOTHING}" if old else f"{_NOTHING} → {phrase}" for phrase in said)


def _joined(said: Sequence[Unit]) -> list[Unit]:
    """Neighbouring words that are not known are taken for one concept."""
    joined: list[Unit] = []
    for unit in said:
        if joined and joined[-1].kind == unit.kind == "word":
            joined[-1] = unit._replace(said=f"{joined[-1].said} {unit.said}")
        else:
            joined.append(unit)
    return joined

"""Which objects a scene has and where they stand, so that nothing is hidden more than the difficulty allows."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.tabletop.difficulty import SIZES, Difficulty
from engine.tabletop.kinds import BY_NAME, KINDS, Kind
from engine.tabletop.records import Box
from engine.tabletop.render import COLOURS, PATTERNS, Sprite, choose_look, render

Rng = np.random.Generator
_TRIES = 40
_SMALLEST_COVER = 0.04  # of the hidden object's silhouette; less is not called "in front of"


class Words(NamedTuple):
    """The words that are true of one object."""

    kind: str
    colour: str
    pattern: str
    material: str
    size: str


class Placed(NamedTuple):
    """A sprite with its top left corner at (x, y) and the row of its foot, which orders the painting."""

    words: Words
    sprite: Sprite
    x: int
    y: int
    foot: float
    on: int | None = None

    @property
    def box(self) -> Box:
        h, w = self.sprite.alpha.shape
        return float(self.x), float(self.y), float(self.x + w), float(self.y + h)


class Visible(NamedTuple):
    """What is seen of each object: masks H x W, hidden shares 0..1, and the pairs (front, back) that overlap."""

    masks: list[NDArray[np.bool_]]
    hidden: list[float]
    covers: list[tuple[int, int]]


def arrange(rng: Rng, difficulty: Difficulty, horizon: int, light: tuple[float, float]) -> tuple[list[Placed], Visible]:
    """Objects in the order in which they are to be painted, farthest first, and what is seen of them."""
    count = int(rng.integers(difficulty.objects[0], difficulty.objects[1] + 1))
    placed: list[Placed] = []
    seen = Visible([], [], [])
    while len(placed) < count:
        words = choose_words(rng, difficulty, [p.words for p in placed])
        stack = any(_free_to_hold(p) for p in placed) and rng.random() < difficulty.stacked
        words = words._replace(size="small") if stack else words
        sprite = draw(rng, words, difficulty.height, light)
        spot = _place(rng, difficulty, horizon, placed, words, sprite, stack)
        if spot is None:
            if placed:
                break
            continue
        placed, seen = spot
    return placed, seen


def draw(rng: Rng, words: Words, height: int, light: tuple[float, float]) -> Sprite:
    """One instance of the words, sized for a picture of that height."""
    kind = BY_NAME[words.kind]
    look = choose_look(rng, words.colour, words.pattern, words.material)
    size = rng.uniform(*SIZES[words.size]) * height
    return render(kind.painter(rng.uniform), look, size, rng.uniform(-kind.tilt, kind.tilt), light)


def choose_words(rng: Rng, difficulty: Difficulty, there: list[Words]) -> Words:
    """A further object's words: at times those of one that is there, or of one that looks like it."""
    kind, like = _choose_kind(rng, difficulty, there)
    if like is not None and like.kind == kind.name and rng.random() < 0.5:
        return like
    colour = like.colour if like is not None and rng.random() < 0.5 else _choose_colour(rng, kind)
    pattern = str(rng.choice(PATTERNS[1:])) if rng.random() < difficulty.patterned else "plain"
    shares = np.asarray(difficulty.sizes) / sum(difficulty.sizes)
    return Words(kind.name, colour, pattern, str(rng.choice(kind.materials)), str(rng.choice(list(SIZES), p=shares)))


def _choose_kind(rng: Rng, difficulty: Difficulty, there: list[Words]) -> tuple[Kind, Words | None]:
    known = KINDS[: difficulty.kinds]
    chance = rng.random()
    like = there[int(rng.integers(len(there)))] if there else None
    if like is not None and chance < difficulty.repeats:
        return BY_NAME[like.kind], like
    twins = [k for k in known if like is not None and k.name in BY_NAME[like.kind].twins]
    if twins and chance < difficulty.repeats + difficulty.lookalikes:
        return twins[int(rng.integers(len(twins)))], like
    weight = np.arange(1, len(known) + 1) ** -difficulty.tail
    return known[int(rng.choice(len(known), p=weight / weight.sum()))], None


def _choose_colour(rng: Rng, kind: Kind) -> str:
    usual = bool(kind.natural) and rng.random() < 0.6
    return str(rng.choice(kind.natural if usual else list(COLOURS)))


def _place(
    rng: Rng, difficulty: Difficulty, horizon: int, placed: list[Placed], words: Words, sprite: Sprite, stack: bool
) -> tuple[list[Placed], Visible] | None:
    """The arrangement with the sprite at the first spot that hides nothing too much, or None."""
    for new in _spots(rng, difficulty, horizon, placed, words, sprite, stack):
        together = _in_order([*placed, new])
        seen = visible(together, difficulty.width, difficulty.height)
        if max(seen.hidden) <= difficulty.hidden and _apart(seen, new.on is not None, difficulty):
            return together, seen
    return None


def _apart(seen: Visible, stacked: bool, difficulty: Difficulty) -> bool:
    """Where hiding is all but forbidden, even a touch counts, unless one stands on the other."""
    return stacked or difficulty.hidden > 0.05 or not seen.covers


def _spots(
    rng: Rng, difficulty: Difficulty, horizon: int, placed: list[Placed], words: Words, sprite: Sprite, stack: bool
) -> Iterator[Placed]:
    """Where the sprite might go: on another thing if it is to be stacked, then beside one, then anywhere."""
    holders = [
        k for k, p in enumerate(placed) if _free_to_hold(p) and sprite.alpha.shape[1] < 0.95 * p.sprite.alpha.shape[1]
    ]
    if holders and stack:
        yield _on_top(rng, placed, int(rng.choice(holders)), words, sprite)
    near = placed if placed and rng.random() < difficulty.overlap else []
    for k in range(_TRIES):
        yield _beside(rng, difficulty, horizon, near if k < _TRIES // 2 else [], words, sprite)


def _free_to_hold(thing: Placed) -> bool:
    return BY_NAME[thing.words.kind].holds_things and thing.on is None


def _on_top(rng: Rng, placed: list[Placed], below: int, words: Words, sprite: Sprite) -> Placed:
    h, w = sprite.alpha.shape
    x1, y1, x2, y2 = placed[below].box
    middle = (x1 + x2) / 2 + rng.uniform(-0.1, 0.1) * (x2 - x1)
    foot = y1 + (0.4 if placed[below].words.kind == "book" else 0.14) * (y2 - y1)
    return Placed(words, sprite, round(middle - w / 2), round(foot - h), placed[below].foot + 0.5, below)


def _beside(rng: Rng, difficulty: Difficulty, horizon: int, near: list[Placed], words: Words, sprite: Sprite) -> Placed:
    """A spot anywhere on the surface, or close to one of `near` so that one hides a part of the other."""
    h, w = sprite.alpha.shape
    lowest, highest = max(horizon + 0.05 * difficulty.height, h + 2), difficulty.height - 2
    x, foot = rng.uniform(2, max(3, difficulty.width - w - 2)), rng.uniform(min(lowest, highest - 1), highest)
    if near:
        x1, _, x2, y2 = near[int(rng.integers(len(near)))].box
        x = (x1 + x2 - w) / 2 + rng.choice([-1, 1]) * rng.uniform(0.3, 0.9) * (x2 - x1 + w) / 2
        foot = min(max(y2 + rng.choice([-1, 1]) * rng.uniform(0.03, 0.12) * difficulty.height, lowest), highest)
    return Placed(words, sprite, round(x), round(foot - h), foot)


def _in_order(placed: list[Placed]) -> list[Placed]:
    """Sorted by foot, with `on` following the objects to their new places."""
    order = sorted(range(len(placed)), key=lambda k: placed[k].foot)
    new_place = {old: new for new, old in enumerate(order)}
    on = [None if thing.on is None else new_place[thing.on] for thing in placed]
    return [placed[k]._replace(on=on[k]) for k in order]


def window(thing: Placed, width: int, height: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the sprite lies in the picture, and the part of the sprite that does."""
    h, w = thing.sprite.alpha.shape
    x1, y1, x2, y2 = max(thing.x, 0), max(thing.y, 0), min(thing.x + w, width), min(thing.y + h, height)
    x2, y2 = max(x1, x2), max(y1, y2)
    there = np.s_[y1:y2, x1:x2]
    return there, np.s_[y1 - thing.y : y2 - thing.y, x1 - thing.x : x2 - thing.x]


def visible(placed: list[Placed], width: int, height: int) -> Visible:
    """What is seen of objects that are painted in this order."""
    masks: list[NDArray[np.bool_]] = []
    covers: list[tuple[int, int]] = []
    whole = [int((p.sprite.solid > 0.5).sum()) for p in placed]
    for p in placed:
        mask = np.zeros((height, width), bool)
        there, part = window(p, width, height)
        mask[there] = p.sprite.solid[part] > 0.5
        for back, other in enumerate(masks):
            hit = other[there] & mask[there]
            if hit.sum() > _SMALLEST_COVER * whole[back]:
                covers.append((len(masks), back))
            other[there] &= ~mask[there]
        masks.append(mask)
    hidden = [1 - float(m.sum()) / max(size, 1) for m, size in zip(masks, whole, strict=True)]
    return Visible(masks, hidden, covers)

"""Where things are in an image, in words and as boxes: "at the top left" and back."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from db.records import XYXY
from engine.targets import iou

# (words, column, row) of a grid of three by three; longer words before those that they contain
CELLS = (
    ("at the top left", 0, 0),
    ("at the top right", 2, 0),
    ("at the bottom left", 0, 2),
    ("at the bottom right", 2, 2),
    ("at the top", 1, 0),
    ("at the bottom", 1, 2),
    ("on the left", 0, 1),
    ("on the right", 2, 1),
    ("in the middle", 1, 1),
)
TRIES = 40  # at each of the scales
SCALES = (1.0, 0.75, 0.55)  # smaller boxes where larger ones find no room
MOST_SHARED = 0.03  # IoU of two boxes: things that were not said to overlap do not
SHARES = ((0.55, 0.8), (0.34, 0.5), (0.28, 0.4))  # sides of a box as shares of the image, for one, two, more things
_SAID = re.compile("|".join(words for words, _, _ in CELLS))


def place_of(xyxy: XYXY, size: tuple[int, int]) -> str:
    """The words for where the middle of a box lies in an image of (width, height)."""
    column, row = (min(int(3 * (xyxy[i] + xyxy[i + 2]) / 2 / size[i]), 2) for i in (0, 1))
    return next(words for words, x, y in CELLS if (x, y) == (column, row))


def place_said(text: str, after: int, before: int) -> str | None:
    """The first place that is named in a stretch of the text, None when none is."""
    found = _SAID.search(text.lower(), after, before)
    return found[0] if found else None


def lay_out(places: Sequence[str | None], size: tuple[int, int], seed: int) -> list[XYXY | None]:
    """A box for each thing in an image of (width, height), in the place that was said of it, if any. The boxes hardly overlap;
    None for one that found no room."""
    chance = random.Random(seed)
    low, high = SHARES[min(len(places), len(SHARES)) - 1] if places else SHARES[0]
    done: list[XYXY | None] = []
    for place in places:
        tries = (_drawn(place, size, (scale * low, scale * high), chance) for scale in SCALES for _ in range(TRIES))
        there = [box for box in done if box is not None]
        done.append(next((one for one in tries if all(iou(one, box) <= MOST_SHARED for box in there)), None))
    return done


def _drawn(place: str | None, size: tuple[int, int], shares: tuple[float, float], chance: random.Random) -> XYXY:
    """A box of at least 1 pixel, whole pixels, inside the image."""
    wide, high = (max(round(chance.uniform(*shares) * min(size)), 1) for _ in size)
    column, row = next(((x, y) for words, x, y in CELLS if words == place), (None, None))
    left, top = _start(column, wide, size[0], chance), _start(row, high, size[1], chance)
    return float(left), float(top), float(left + wide), float(top + high)


def _start(cell: int | None, side: int, length: int, chance: random.Random) -> int:
    """Where a stretch of `side` begins so that its middle lies in that third of the length, as far as it fits."""
    low, high = (0.0, 1.0) if cell is None else (cell / 3, (cell + 1) / 3)
    middle = chance.uniform(low * length, high * length)
    return min(max(round(middle - side / 2), 0), max(length - side, 0))

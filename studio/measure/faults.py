"""Candidates spoilt on purpose: what a fault does to a painting, and to a text. Each is a function of its random numbers.

A fault says nothing of how a filter finds it; the spoilt candidate then looks as a careless model would have left it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from db.records import XYXY
from engine.backends.paste import fill
from engine.pixels import Rectangle, crop, decode, rectangle
from engine.tabletop.kinds import BY_NAME

Rng = np.random.Generator
SHIFT = (0.45, 0.75)  # of the sides of the box, to a place that overlaps it by less than a half
BLUR = (1.6, 4.0)  # standard deviation as a share of 1/20 of the longer side of the box
WIDER = {
    "container": ("mug", "bottle", "cup", "vase", "goblet", "bowl", "box", "teapot"),
    "fruit": ("apple", "banana", "pear", "lemon"),
    "tool": ("scissors", "hammer", "pencil"),
    "vehicle": ("car", "boat"),
    "animal": ("duck", "fish"),
    "object": tuple(BY_NAME),
}
"""Words that are true of a thing whatever it is called more narrowly. They are this study's own, not the filters'."""


@dataclass(frozen=True, eq=False)
class Painting:
    """A painted candidate as its record will say: `xyxy` is where the new thing is said to be, `asked` where it was to be,
    `category` the class it is said to show, `touched` what may have changed. `before` is the image without it."""

    image: np.ndarray
    before: np.ndarray
    xyxy: XYXY
    asked: XYXY
    touched: tuple[Rectangle, ...]
    category: str


def nothing_there(painting: Painting, rng: Rng) -> Painting:
    """The old thing is gone, and nothing was put in its place."""
    x1, y1, x2, y2 = area = painting.touched[0]
    hole = np.zeros((y2 - y1, x2 - x1), bool)
    bx1, by1, bx2, by2 = rectangle(painting.xyxy, painting.image.shape, margin=2)
    hole[max(by1 - y1, 0) : by2 - y1, max(bx1 - x1, 0) : bx2 - x1] = True
    image = painting.image.copy()
    image[y1:y2, x1:x2] = fill(crop(painting.image, area), hole, np.zeros_like(hole))
    return replace(painting, image=image)


def unchanged(painting: Painting, rng: Rng) -> Painting:
    """The model gave the image back as it was."""
    return replace(painting, image=painting.before.copy(), xyxy=painting.asked)


def twin(painting: Painting, rng: Rng) -> Painting:
    """Said to show a class that looks like what it does show, where there is one, else any other."""
    others = BY_NAME[painting.category].twins or tuple(set(BY_NAME) - {painting.category})
    return replace(painting, category=str(rng.choice(sorted(others))))


def any_class(painting: Painting, rng: Rng) -> Painting:
    """Said to show some other class."""
    return replace(painting, category=str(rng.choice(sorted(set(BY_NAME) - {painting.category}))))


def _moved(painting: Painting, rng: Rng) -> XYXY:
    """The box beside itself, inside the image where there is room for it."""
    height, width = painting.image.shape[:2]
    x1, y1, x2, y2 = painting.xyxy
    dx, dy = rng.uniform(*SHIFT, 2) * rng.choice((-1, 1), 2) * (x2 - x1, y2 - y1)
    dx = -dx if not 0 <= x1 + dx <= x2 + dx <= width else dx
    dy = -dy if not 0 <= y1 + dy <= y2 + dy <= height else dy
    dx, dy = np.clip(dx, -x1, width - x2), np.clip(dy, -y1, height - y2)
    return float(x1 + dx), float(y1 + dy), float(x2 + dx), float(y2 + dy)


def drifted(painting: Painting, rng: Rng) -> Painting:
    """The thing was painted beside the place that was asked for, and the record says where."""
    return replace(painting, asked=_moved(painting, rng))


def misplaced(painting: Painting, rng: Rng) -> Painting:
    """The thing was painted beside the place that was asked for, and the record does not know."""
    moved = _moved(painting, rng)
    return replace(painting, xyxy=moved, asked=moved)


def blurred(painting: Painting, rng: Rng) -> Painting:
    """The new thing is out of focus."""
    side = max(painting.xyxy[2] - painting.xyxy[0], painting.xyxy[3] - painting.xyxy[1])
    return _inside(painting, lambda part: cv2.GaussianBlur(part, (0, 0), max(rng.uniform(*BLUR) * side / 20, 1.5)))


def burnt(painting: Painting, rng: Rng) -> Painting:
    """The new thing is over-exposed, or drowned in black."""
    gain, lift = (3.2, 60) if rng.random() < 0.5 else (0.25, -30)
    return _inside(painting, lambda part: np.clip(part * gain + lift, 0, 255))


def hard_edge(painting: Painting, rng: Rng) -> Painting:
    """The rectangle of the edit shows: it is lighter or darker than the image around it."""
    tint = rng.uniform(14, 40) * rng.choice((-1, 1))
    return _inside(painting, lambda part: np.clip(part + tint, 0, 255))


def noise_outside(painting: Painting, rng: Rng) -> Painting:
    """A decoder changed all pixels a little, also where nothing was to be painted."""
    image = np.clip(painting.image + rng.normal(0, 3, painting.image.shape), 0, 255).astype(np.uint8)
    return replace(painting, image=image)


def ugly(painting: Painting, rng: Rng) -> Painting:
    """The whole picture was spoilt, with leave to change all of it: blur, noise, blocks, or false colours."""
    height, width = painting.image.shape[:2]
    way = SPOILERS[int(rng.integers(len(SPOILERS)))]
    return replace(painting, image=way(painting.image, rng), touched=((0, 0, width, height),))


def repeated(painting: Painting, rng: Rng) -> Painting:
    """Nearly the same picture as before: `world` makes it of one that was made already."""
    return _inside(painting, lambda part: np.clip(part + rng.normal(0, 1.5, part.shape), 0, 255))


def _inside(painting: Painting, change: Callable[[np.ndarray], np.ndarray]) -> Painting:
    x1, y1, x2, y2 = rectangle(painting.xyxy, painting.image.shape)
    image = painting.image.copy()
    image[y1:y2, x1:x2] = change(image[y1:y2, x1:x2]).astype(np.uint8)
    return replace(painting, image=image)


Fault = Callable[[Painting, Rng], Painting]
OF_PAINTINGS: dict[str, Fault] = {
    "wrong class": any_class,
    "look-alike class": twin,
    "nothing there": nothing_there,
    "misplaced box": misplaced,
    "drifted box": drifted,
    "blurred": blurred,
    "burnt": burnt,
    "hard edge": hard_edge,
    "noise outside": noise_outside,
    "ugly picture": ugly,
    "repeated": repeated,
}


# Whole pictures


def _soft(image: np.ndarray, rng: Rng) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(1.5, 4)))


def _noisy(image: np.ndarray, rng: Rng) -> np.ndarray:
    return np.clip(image + rng.normal(0, rng.uniform(20, 50), image.shape), 0, 255).astype(np.uint8)


def _blocky(image: np.ndarray, rng: Rng) -> np.ndarray:
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(3, 10)))
    )
    return decode(data.tobytes())


def _false_colours(image: np.ndarray, rng: Rng) -> np.ndarray:
    gain, lift = rng.uniform(0.35, 1.6, 3), rng.uniform(-60, 60, 3)
    return np.clip(image * gain + lift, 0, 255).astype(np.uint8)


def _flat(image: np.ndarray, rng: Rng) -> np.ndarray:
    return np.clip(128 + (image - 128.0) * rng.uniform(0.1, 0.35) + rng.uniform(-70, 70), 0, 255).astype(np.uint8)


SPOILERS: tuple[Callable[[np.ndarray, Rng], np.ndarray], ...] = (_soft, _noisy, _blocky, _false_colours, _flat)


# Texts


def wider(text: str, rng: Rng) -> str | None:
    """A noun of the text exchanged for a wider word, None where it names nothing that has one."""
    words = text.split()
    places = [(i, word) for i, word in enumerate(words) if word.strip(",.").lower() in BY_NAME]
    if not places:
        return None
    i, word = places[int(rng.integers(len(places)))]
    name = word.strip(",.").lower()
    wide = str(rng.choice([one for one, narrow in WIDER.items() if name in narrow]))
    words[i] = word.lower().replace(name, wide)
    if i and words[i - 1] in ("a", "an"):
        words[i - 1] = "an" if wide[0] in "aeiou" else "a"
    return " ".join(words)


def broken(text: str, rng: Rng) -> str:
    """A text as a language model may spoil it: a doubled word, a wrong article, a rest of JSON, a cut end."""
    words = text.split()
    i = int(rng.integers(len(words)))
    ways = [
        " ".join([*words[: i + 1], *words[i:]]),
        f'{{"text": "{text}"',
        f"**{text}",
        f"{text} and a",
        f"{text} (or",
    ]
    return ways[int(rng.integers(len(ways)))]


def rambling(text: str, rng: Rng) -> str:
    """A text that goes on and on."""
    more = ("in a quiet room", "as seen by somebody who came in", "while the light was fading", "with great care")
    return ", ".join([text, *(str(one) for one in rng.permutation(more)), *more])


def foreign(text: str, rng: Rng) -> str:
    """A sentence in another language."""
    return str(rng.choice(FOREIGN))


FOREIGN = (
    "eine rote Tasse auf dem Tisch neben der Lampe",
    "une tasse bleue à côté de la bouteille verte",
    "una taza verde sobre la mesa con un libro",
    "un gatto nero sotto la sedia di legno",
    "красная чашка на деревянном столе",
    "木の机の上にある赤いカップ",
)

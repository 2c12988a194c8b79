"""One scene: the picture and the truth about it."""

from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.tabletop.difficulty import Difficulty
from engine.tabletop.kinds import BY_NAME
from engine.tabletop.layout import Placed, Visible, arrange, window
from engine.tabletop.records import Mask, Scene, TrueObject, Truth
from engine.tabletop.relations import all_relations
from engine.tabletop.statements import write_caption, write_statements
from engine.tabletop.surfaces import SURFACES, clouds, scatter, surface

Image = NDArray[Any]  # float32, H x W or H x W x 3
Rng = np.random.Generator


def paint(seed: int, index: int, difficulty: Difficulty, file_name: str = "") -> Scene:
    """Scene `index` of the world `seed`; it depends on nothing else, least of all on how many scenes there are."""
    rng = np.random.default_rng([seed, index])
    ground = str(rng.choice(list(SURFACES)))
    image, horizon = surface(ground, rng, difficulty.width, difficulty.height)
    scatter(image, rng, int(rng.integers(difficulty.clutter[0], difficulty.clutter[1] + 1)), horizon)
    light = (float(rng.uniform(-0.8, 0.8)), -0.7)
    placed, seen = arrange(rng, difficulty, horizon, light)
    for thing in placed:
        _cast_shadow(image, thing, light)
        _paste(image, thing)
    picture = _photograph(image, rng, difficulty)
    bare = Truth(
        seed, index, file_name, difficulty.width, difficulty.height, ground, _objects(placed, seen), (), "", (), (), ()
    )
    return Scene(picture, _worded(bare, rng))


def _worded(bare: Truth, rng: Rng) -> Truth:
    caption, phrases = write_caption(bare, rng)
    true, false = write_statements(bare, rng)
    return msgspec.structs.replace(
        bare, relations=all_relations(bare), caption=caption, phrases=phrases, true=true, false=false
    )


def _objects(placed: list[Placed], seen: Visible) -> tuple[TrueObject, ...]:
    return tuple(
        TrueObject(
            *thing.words,
            box=_tight(mask),
            whole=thing.box,
            mask=Mask.of(mask),
            area=int(mask.sum()),
            hidden=round(hidden, 4),
            depth=depth,
            on=thing.on,
            covers=tuple(back for front, back in seen.covers if front == depth),
        )
        for depth, (thing, mask, hidden) in enumerate(zip(placed, seen.masks, seen.hidden, strict=True))
    )


def _tight(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return float(x), float(y), float(x + w), float(y + h)


def _paste(image: Image, thing: Placed) -> None:
    there, part = window(thing, image.shape[1], image.shape[0])
    alpha = thing.sprite.alpha[part][..., None]
    image[there] = image[there] * (1 - alpha) + thing.sprite.rgb[part] * alpha


def _cast_shadow(image: Image, thing: Placed, light: tuple[float, float]) -> None:
    """Darken the ground in place: a soft copy of what lies flat, a pool at the foot of what stands."""
    height = image.shape[0]
    h, w = thing.sprite.alpha.shape
    pad = max(h, w)
    if BY_NAME[thing.words.kind].lying:
        shade, soft, strength = np.pad(thing.sprite.solid, pad), 0.005 * height, 0.42
        dx, dy = -4 * light[0] * height / 240, 3 * height / 240
    else:
        shade = np.zeros((h + 2 * pad, w + 2 * pad), np.float32)
        foot = thing.sprite.solid[-max(2, h // 8) :].max(0)
        reach = max(4, int((foot > 0.5).sum() * 0.55))
        middle = float(np.average(np.arange(w), weights=foot + 1e-6))
        centre = int(pad + middle - light[0] * reach * 0.7), pad + h - max(1, reach // 9)
        cv2.ellipse(shade, centre, (int(reach * 1.25), max(2, int(reach * 0.3))), 0, 0, 360, 1.0, -1, cv2.LINE_AA)
        soft, strength, dx, dy = max(1.0, reach * 0.12), 0.5, 0.0, 0.0
    shade = cv2.GaussianBlur(shade, (0, 0), soft)
    _darken(image, shade * strength, round(thing.x - pad + dx), round(thing.y - pad + dy))


def _darken(image: Image, shade: Image, x: int, y: int) -> None:
    h, w = shade.shape
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, image.shape[1]), min(y + h, image.shape[0])
    if x1 < x2 and y1 < y2:
        image[y1:y2, x1:x2] *= 1 - shade[y1 - y : y2 - y, x1 - x : x2 - x, None]


def _photograph(image: Image, rng: Rng, difficulty: Difficulty) -> NDArray[np.uint8]:
    """The picture as a camera takes it: light, blur and noise."""
    h, w = image.shape[:2]
    much = difficulty.lighting
    gain = 1 + rng.uniform(-0.8, 0.5) * much + much * (clouds(rng, w, h, 2)[..., None] - 0.5)
    tint = 1 + rng.uniform(-0.25, 0.25, 3).astype(np.float32) * much
    image = image * (gain * tint)
    sigma = rng.uniform(*difficulty.blur)
    if sigma > 0.15:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    noise = rng.standard_normal((h, w, 3), dtype=np.float32) * np.float32(rng.uniform(*difficulty.noise))
    return (np.clip(image + noise, 0, 1) * 255 + 0.5).astype(np.uint8)

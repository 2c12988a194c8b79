"""From the parts of an object and a look to a shaded, antialiased picture of it with transparency."""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.tabletop.outlines import BODY, CUT, DARK, PALE, Part, points, turn, vector

Image = NDArray[Any]  # float32, H x W or H x W x 3

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 44, 40),
    "orange": (240, 130, 32),
    "yellow": (242, 208, 52),
    "green": (66, 156, 68),
    "blue": (48, 98, 206),
    "purple": (128, 62, 172),
    "pink": (244, 146, 188),
    "brown": (122, 76, 42),
    "white": (238, 236, 230),
    "black": (46, 46, 52),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag", "speckled")
MATERIALS = ("matte", "glossy", "metallic", "wooden", "glass")


class Look(NamedTuple):
    """The skin of one instance: `rgb` in 0..1 is its own variation of the named colour."""

    rgb: NDArray[np.float32]
    pattern: str
    material: str
    pitch: float  # period of the pattern, as a share of the object's longer side
    slant: float  # turn of the pattern, degrees
    seed: int


class Sprite(NamedTuple):
    """`rgb` H x W x 3 in 0..1 (not premultiplied), `alpha` what is seen in 0..1, `solid` the silhouette in 0..1."""

    rgb: Image
    alpha: Image
    solid: Image


def choose_look(rng: np.random.Generator, colour: str, pattern: str, material: str) -> Look:
    """A look with this instance's own shade of the colour and its own pitch and slant of the pattern."""
    base = vector(*COLOURS[colour]) / 255
    rgb = np.clip(base * rng.uniform(0.9, 1.1) + rng.uniform(-0.035, 0.035, 3), 0.03, 1).astype(np.float32)
    slant = float(rng.choice([0, 90, 45, -45])) + rng.uniform(-8, 8)
    return Look(rgb, pattern, material, rng.uniform(0.17, 0.23), slant, int(rng.integers(1 << 30)))


def render(parts: list[Part], look: Look, size: float, degrees: float, light: tuple[float, float]) -> Sprite:
    """The object turned by `degrees`, its longer side `size` pixels, lit from the direction `light` (x, y)."""
    fine = 3 if size < 64 else 2
    turned = np.concatenate([turn(p.outline, degrees) for p in parts])
    slack = max(p.width for p in parts) / 2
    low, high = turned.min(0) - slack, turned.max(0) + slack
    scale = size * fine / float((high - low).max())
    canvas = _Canvas(parts, look, scale, turn(points(light), -degrees)[0])
    for part in parts:
        canvas.add(part)
    return _cropped(*canvas.turned(degrees, low, high), fine)


class _Canvas:
    """A supersampled picture in the object's own upright frame."""

    def __init__(self, parts: list[Part], look: Look, scale: float, light: NDArray[np.float32]) -> None:
        outline = np.concatenate([p.outline for p in parts])
        slack = max(p.width for p in parts) / 2 + 2 / scale
        self.origin = outline.min(0) - slack
        w, h = np.ceil((outline.max(0) + slack - self.origin) * scale).astype(int)
        self.look, self.scale, self.size = look, scale, (int(w), int(h))
        self.rgb = np.zeros((h, w, 3), np.float32)
        self.alpha = np.zeros((h, w), np.float32)
        self.solid = np.zeros((h, w), np.float32)
        z = 0.75
        self.light = vector(light[0], light[1], z) / float(np.hypot(np.hypot(*light), z))
        self.rng = np.random.default_rng(look.seed)

    def add(self, part: Part) -> None:
        mask = self._mask(part)
        x, y, w, h = cv2.boundingRect(mask)
        if w == 0 or h == 0:
            return
        window = np.s_[y : y + h, x : x + w]
        cover = mask[window].astype(np.float32) / 255
        if part.paint == CUT:
            self.alpha[window] *= 1 - cover
            self.solid[window] *= 1 - cover
            return
        rgb, opacity = self._surface(part, mask[window], x, y)
        seen = (cover * opacity)[..., None]
        self.rgb[window] = self.rgb[window] * (1 - seen) + rgb * seen
        before = self.alpha[window]
        self.alpha[window] = before + (1 - before) * seen[..., 0]
        self.solid[window] = np.maximum(self.solid[window], cover)

    def _mask(self, part: Part) -> NDArray[np.uint8]:
        mask = np.zeros(self.size[::-1], np.uint8)
        at = np.round((part.outline - self.origin) * self.scale * 16).astype(np.int32)
        if part.width > 0:
            cv2.polylines(mask, [at], False, 255, max(1, round(part.width * self.scale)), cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(mask, [at], 255, cv2.LINE_AA, 4)
        return mask

    def _surface(self, part: Part, mask: NDArray[np.uint8], x: int, y: int) -> tuple[Image, Image]:
        edge = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
        normal = _normals(part.form, mask > 127, edge)
        base, material = self._skin(part, mask.shape, x, y)
        rgb, opacity = _lit(base, normal, self.light, material)
        line = np.clip(edge / (0.012 * self.scale + 1.0), 0, 1)
        return rgb * (0.72 + 0.28 * line)[..., None], opacity

    def _skin(self, part: Part, shape: tuple[int, ...], x: int, y: int) -> tuple[Image, str]:
        look = self.look
        if isinstance(part.paint, tuple):
            return np.broadcast_to(vector(*part.paint) / 255, (*shape, 3)), "glossy"
        if part.paint == DARK:
            return np.broadcast_to(look.rgb * 0.62, (*shape, 3)), look.material
        if part.paint == PALE:
            return np.broadcast_to(look.rgb * 0.78 + 0.22, (*shape, 3)), look.material
        assert part.paint == BODY, part.paint
        ys, xs = np.mgrid[y : y + shape[0], x : x + shape[1]].astype(np.float32) / max(self.size)
        share = _pattern(look, xs, ys, self.rng)[..., None]
        skin = look.rgb * (1 - share) + _contrast(look.rgb) * share
        return (skin * _grain(xs, ys, look) if look.material == "wooden" else skin), look.material

    def turned(self, degrees: float, low: Image, high: Image) -> tuple[Image, Image, Image]:
        """The three layers turned about the origin and cropped to the box from `low` to `high`."""
        a, s = np.radians(degrees), self.scale
        cos, sin = np.cos(a), np.sin(a)
        ox, oy = self.origin * s
        move = points((cos, -sin, cos * ox - sin * oy - low[0] * s), (sin, cos, sin * ox + cos * oy - low[1] * s))
        w, h = (int(v) for v in np.ceil((high - low) * s) + 1)
        layers = np.dstack([self.rgb * self.alpha[..., None], self.alpha])
        bent = cv2.warpAffine(layers, move, (w, h), flags=cv2.INTER_LINEAR)
        return bent[..., :3], bent[..., 3], cv2.warpAffine(self.solid, move, (w, h), flags=cv2.INTER_LINEAR)


def _cropped(premultiplied: Image, alpha: Image, solid: Image, fine: int) -> Sprite:
    h, w = (max(1, -(-n // fine)) for n in alpha.shape)
    pad = ((0, h * fine - alpha.shape[0]), (0, w * fine - alpha.shape[1]))
    layers = np.pad(np.dstack([premultiplied, alpha, solid]), (*pad, (0, 0)))
    small = layers.reshape(h, fine, w, fine, 5).mean((1, 3))
    alpha = small[..., 3]
    rgb = small[..., :3] / np.maximum(alpha, 1e-4)[..., None]
    return Sprite(np.clip(rgb, 0, 1), alpha, small[..., 4])


def _normals(form: str, inside: NDArray[np.bool_], edge: Image) -> Image:
    """Unit surface normals, H x W x 3, z towards the viewer."""
    zero = np.zeros(inside.shape, np.float32)
    if form == "flat":  # bent a little, for else no highlight could cross it
        nx = zero + np.linspace(-0.6, 0.6, inside.shape[1], dtype=np.float32)
        ny = zero + np.linspace(-0.6, 0.6, inside.shape[0], dtype=np.float32)[:, None]
        return np.dstack([nx, ny, np.sqrt(1 - nx**2 - ny**2)])
    if form == "turned":
        left = inside.argmax(1)[:, None]
        right = inside.shape[1] - 1 - inside[:, ::-1].argmax(1)[:, None]
        middle, half = (left + right) / 2, np.maximum((right - left) / 2, 1)
        across = np.clip((np.arange(inside.shape[1])[None] - middle) / half, -0.98, 0.98).astype(np.float32)
        return np.dstack([across, zero, np.sqrt(1 - across**2)])
    radius = max(float(edge.max()), 1.0)
    height = np.sqrt(np.maximum(radius**2 - (radius - edge) ** 2, 0)).astype(np.float32)
    height = cv2.blur(height, (max(3, int(radius / 5)),) * 2)
    nx, ny = -cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125), -cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    length = np.sqrt(nx**2 + ny**2 + 1)
    return np.dstack([nx / length, ny / length, 1 / length])


def _lit(base: Image, normal: Image, light: Image, material: str) -> tuple[Image, Image]:
    """The lit surface and its opacity."""
    facing = np.maximum(normal @ light, 0)[..., None]
    half = light * vector(1, 0.4, 1) + vector(0, 0, 1)  # highlights are drawn towards the middle
    shine = np.maximum(normal @ (half / np.linalg.norm(half)), 0)[..., None]
    rim = (1 - normal[..., 2:]) ** 2
    opaque = np.ones(base.shape[:2], np.float32)
    if material == "metallic":
        bands = 0.5 + 0.5 * np.sin(7.0 * normal[..., :1] + 4.5 * normal[..., 1:2] + 1.2)
        steel = base * 0.8 + 0.1
        return np.clip(steel * (0.35 + 0.85 * bands * bands) + 0.6 * shine**32 * bands + 0.12 * rim, 0, 1), opaque
    if material == "glossy":
        return np.clip(base * (0.5 + 0.55 * facing) + 0.85 * np.clip(shine**40 * 1.4, 0, 1) + 0.2 * rim, 0, 1), opaque
    if material == "glass":
        tint = np.clip(base * (0.75 + 0.3 * facing) + 0.8 * np.clip(shine**60 * 1.6, 0, 1) + 0.35 * rim, 0, 1)
        return tint, np.clip(0.62 + 0.5 * rim[..., 0] + 0.6 * shine[..., 0] ** 60, 0, 1)
    return np.clip(base * (0.58 + 0.5 * facing), 0, 1), opaque


def _contrast(rgb: Image) -> Image:
    bright = float(rgb @ vector(0.3, 0.6, 0.1))
    return vector(0.2, 0.2, 0.23) if bright > 0.62 else vector(0.95, 0.94, 0.9)


def _grain(xs: Image, ys: Image, look: Look) -> Image:
    bend = 1.5 * np.sin(5 * xs + look.seed % 7) + 0.8 * np.sin(13 * xs + 3 * ys)
    wave = 0.6 * np.sin(75 * ys + 4 * bend) + 0.4 * np.sin(163 * ys + 9 * bend)
    rings: Image = (0.8 + 0.34 * wave * np.abs(np.sin(9 * ys + bend)))[..., None] * vector(1.0, 0.9, 0.74)
    return rings


def _pattern(look: Look, xs: Image, ys: Image, rng: np.random.Generator) -> Image:
    """The share of the contrasting colour at every pixel, 0 or 1 with most of the object left in its own colour."""
    a = float(np.radians(look.slant))
    cos, sin = float(np.cos(a)) / look.pitch, float(np.sin(a)) / look.pitch
    inked: Image = _INK[look.pattern](xs * cos + ys * sin, ys * cos - xs * sin, rng)
    return inked.astype(np.float32)


def _plain(u: Image, v: Image, rng: np.random.Generator) -> Image:
    return np.zeros_like(u)


def _striped(u: Image, v: Image, rng: np.random.Generator) -> Image:
    return np.where(np.mod(u, 1) < 0.4, 1, 0)


def _dotted(u: Image, v: Image, rng: np.random.Generator) -> Image:
    du = np.mod(u * 1.15 + 0.5 * np.floor(v * 1.15), 1) - 0.5
    dv = np.mod(v * 1.15, 1) - 0.5
    return np.where(du**2 + dv**2 < 0.1, 1, 0)


def _checked(u: Image, v: Image, rng: np.random.Generator) -> Image:
    return (np.mod(u, 1) < 0.5) ^ (np.mod(v, 1) < 0.5)


def _zigzag(u: Image, v: Image, rng: np.random.Generator) -> Image:
    return np.where(np.mod(u + 0.55 * np.abs(2 * np.mod(v * 0.8, 1) - 1), 1) < 0.4, 1, 0)


def _speckled(u: Image, v: Image, rng: np.random.Generator) -> Image:
    """A dot of its own size and place in every cell of a grid."""
    u, v = u * 2.6, v * 2.6
    cell = np.mod(np.floor(u), 32).astype(int), np.mod(np.floor(v), 32).astype(int)
    ranges = ((0.3, 0.7), (0.3, 0.7), (0.0, 0.36))
    x, y, radius = (rng.uniform(*pair, (32, 32)).astype(np.float32)[cell] for pair in ranges)
    return np.where((np.mod(u, 1) - x) ** 2 + (np.mod(v, 1) - y) ** 2 < radius**2, 1, 0)


_INK: dict[str, Callable[[Image, Image, np.random.Generator], Image]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "zigzag": _zigzag,
    "speckled": _speckled,
}

"""The kinds of object of the world, in the fixed order of their frequency: the order of the categories everywhere."""

from collections.abc import Callable
from typing import Any, NamedTuple

from engine.tabletop import grown, tableware, things
from engine.tabletop.outlines import Chance, Part

Painter = Callable[[Chance], list[Part]]

CRAFTED = ("matte", "glossy", "metallic", "wooden", "glass")
SOLID = ("matte", "glossy", "metallic", "wooden")
GROWN = ("matte", "glossy")


class Kind(NamedTuple):
    """What the world knows of one kind. `natural` are its usual colours (empty: any), `tilt` is degrees either way."""

    name: str
    painter: Painter
    frequency: str  # "f", "c" or "r", as in LVIS
    plural: str
    twins: tuple[str, ...] = ()  # kinds that look alike
    materials: tuple[str, ...] = SOLID
    natural: tuple[str, ...] = ()
    tilt: float = 6.0
    lying: bool = False
    holds_things: bool = False

    @property
    def noun(self) -> str:
        """The name as it is said of one."""
        return "pair of scissors" if self.name == "scissors" else self.name


_TWINS = (
    ("mug", "cup", "bowl"),
    ("bottle", "vase", "goblet"),
    ("apple", "tomato", "ball"),
    ("book", "box"),
    ("spoon", "fork", "knife"),
    ("candle", "tube", "bottle"),
    ("key", "scissors"),
    ("lamp", "mushroom", "umbrella"),
    ("plant", "cactus"),
    ("pear", "lemon", "bulb"),
    ("banana", "lemon"),
    ("hat", "bell", "crown"),
    ("pencil", "knife", "hammer"),
    ("duck", "fish"),
    ("car", "boat"),
    ("clock", "ball", "drum"),
    ("teapot", "mug"),
    ("star", "crown"),
)
_LYING: dict[str, Any] = {"tilt": 180.0, "lying": True}
_GROWN: dict[str, Any] = {"materials": GROWN, "tilt": 12.0}


def _kind(painter: Painter, frequency: str, plural: str = "", **more: Any) -> Kind:
    name = painter.__name__
    twins = sorted({other for group in _TWINS if name in group for other in group} - {name})
    return Kind(name, painter, frequency, plural or name + "s", tuple(twins), **more)


KINDS: tuple[Kind, ...] = (
    _kind(tableware.mug, "f", materials=CRAFTED),
    _kind(tableware.bottle, "f", materials=CRAFTED),
    _kind(grown.apple, "f", natural=("red", "green", "yellow"), **_GROWN),
    _kind(things.book, "f", materials=GROWN, tilt=4.0, holds_things=True),
    _kind(things.ball, "f", tilt=30.0, materials=CRAFTED),
    _kind(things.box, "f", "boxes", tilt=3.0, holds_things=True),
    _kind(tableware.spoon, "f", **_LYING),
    _kind(tableware.candle, "f", materials=GROWN, tilt=3.0),
    _kind(things.key, "f", **_LYING),
    _kind(things.lamp, "f", tilt=3.0),
    _kind(grown.plant, "f", natural=("green",), **_GROWN),
    _kind(tableware.fork, "f", **_LYING),
    _kind(grown.banana, "f", materials=GROWN, natural=("yellow", "green"), tilt=35.0),
    _kind(things.clock, "f"),
    _kind(tableware.cup, "c", materials=CRAFTED),
    _kind(tableware.vase, "c", materials=CRAFTED),
    _kind(grown.pear, "c", natural=("green", "yellow"), **_GROWN),
    _kind(things.scissors, "c", "pairs of scissors", **_LYING),
    _kind(tableware.teapot, "c", materials=CRAFTED),
    _kind(things.star, "c", tilt=35.0),
    _kind(things.hat, "c", materials=GROWN),
    _kind(grown.tomato, "c", "tomatoes", natural=("red", "green", "orange"), **_GROWN),
    _kind(things.duck, "c", natural=("yellow",)),
    _kind(things.car, "c", tilt=5.0),
    _kind(things.pencil, "c", **_LYING),
    _kind(things.bell, "c", tilt=10.0),
    _kind(tableware.bowl, "c", materials=CRAFTED, tilt=4.0),
    _kind(things.umbrella, "r", materials=GROWN, tilt=20.0),
    _kind(tableware.goblet, "r", materials=CRAFTED),
    _kind(grown.lemon, "r", materials=GROWN, natural=("yellow", "green"), tilt=30.0),
    _kind(grown.mushroom, "r", natural=("red", "brown", "white"), **_GROWN),
    _kind(grown.cactus, "r", "cactuses", natural=("green",), **_GROWN),
    _kind(things.tube, "r", tilt=20.0),
    _kind(things.boat, "r"),
    _kind(things.hammer, "r", **_LYING),
    _kind(things.drum, "r", tilt=4.0, holds_things=True),
    _kind(things.fish, "r", "fishes", tilt=25.0),
    _kind(things.crown, "r"),
    _kind(tableware.knife, "r", "knives", **_LYING),
    _kind(things.bulb, "r", materials=("matte", "glossy", "glass"), tilt=25.0),
)
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}

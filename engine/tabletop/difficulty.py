"""How hard the world is: one frozen settings object and its presets."""

import msgspec

from db.errors import WinnowError
from engine.tabletop.kinds import KINDS

SIZES: dict[str, tuple[float, float]] = {"small": (0.12, 0.17), "medium": (0.22, 0.30), "large": (0.37, 0.48)}
"""The longer side of an object in full view, as a share of the picture's height. The gaps keep the words exact."""


class Difficulty(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the world. Shares and chances are in 0..1; pairs are (lowest, highest)."""

    width: int = 320  # pixels
    height: int = 240  # pixels
    scenes: int = 2000  # how many make a sensible training split
    kinds: int = len(KINDS)  # the first so many kinds occur
    objects: tuple[int, int] = (3, 7)  # in a scene
    tail: float = 0.6  # a kind of rank r is drawn in proportion to r ** -tail
    sizes: tuple[float, float, float] = (0.15, 0.5, 0.35)  # shares of small, medium, large
    lookalikes: float = 0.15  # chance that a further object looks like one that is there
    repeats: float = 0.15  # chance that a further object is of a kind that is there
    patterned: float = 0.5  # chance of a pattern
    overlap: float = 0.2  # chance that an object is put before or behind another
    stacked: float = 0.35  # chance that an object is put on another
    hidden: float = 0.35  # largest share of an object that may be out of sight
    clutter: tuple[int, int] = (2, 7)  # marks and crumbs that are no objects
    blur: tuple[float, float] = (0.0, 0.7)  # standard deviation, pixels
    noise: tuple[float, float] = (0.005, 0.02)  # standard deviation, of full scale
    lighting: float = 0.25  # how far brightness, tint and falloff may go

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}, it should be in 0..1"
            for name in ("lookalikes", "repeats", "patterned", "overlap", "stacked", "hidden", "lighting")
            if not 0 <= getattr(self, name) <= 1
        ]
        problems += [
            f"{name} is {getattr(self, name)}, it should be two numbers, 0 <= lowest <= highest"
            for name in ("objects", "clutter", "blur", "noise")
            if not 0 <= getattr(self, name)[0] <= getattr(self, name)[1]
        ]
        if not 1 <= self.kinds <= len(KINDS):
            problems.append(f"kinds is {self.kinds}, it should be 1 to {len(KINDS)}")
        if min(self.width, self.height) < 64 or 2 * self.width < self.height:
            problems.append(f"the picture is {self.width} x {self.height}, it should be 64 x 64 or more and not narrow")
        if min(self.sizes) < 0 or sum(self.sizes) <= 0:
            problems.append(f"sizes is {self.sizes}, it should be three shares with a positive sum")
        if self.objects[0] < 1 or self.scenes < 1 or self.tail < 0:
            problems.append("objects and scenes should begin at 1, tail at 0")
        if problems:
            raise WinnowError("Tabletop difficulty: " + "; ".join(problems) + ".")


PRESETS: dict[str, Difficulty] = {
    "easy": Difficulty(
        scenes=1000,
        kinds=24,
        objects=(2, 5),
        tail=0.3,
        sizes=(0.05, 0.5, 0.45),
        lookalikes=0.0,
        repeats=0.1,
        patterned=0.35,
        overlap=0.05,
        stacked=0.25,
        hidden=0.15,
        clutter=(0, 3),
        blur=(0.0, 0.3),
        noise=(0.0, 0.01),
        lighting=0.12,
    ),
    "standard": Difficulty(kinds=36),
    "hard": Difficulty(
        scenes=5000,
        objects=(5, 11),
        tail=1.0,
        sizes=(0.45, 0.4, 0.15),
        lookalikes=0.4,
        repeats=0.25,
        patterned=0.65,
        overlap=0.5,
        stacked=0.35,
        hidden=0.6,
        clutter=(8, 20),
        blur=(0.3, 1.3),
        noise=(0.02, 0.06),
        lighting=0.5,
    ),
}


def preset(name: str) -> Difficulty:
    """The preset of that name. Raises WinnowError that lists the names there are."""
    if name not in PRESETS:
        raise WinnowError(f"No Tabletop preset named {name!r}. Known: {', '.join(PRESETS)}.")
    return PRESETS[name]

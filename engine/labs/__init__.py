"""The labs: whole methods measured at CPU scale on Tabletop, arm against arm over paired seeds.

A lab is a function that makes a `engine.labs.paired.Study`; `winnow lab NAME` runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from db.errors import NotFound
from engine.labs.paired import Study


class Lab(NamedTuple):
    """`study(quick, work)` prepares the lab; `work` is a folder that it may fill with what it makes and find again."""

    title: str
    method: str
    study: Callable[[bool, Path], Study]


def _gen2det(quick: bool, work: Path) -> Study:
    from engine.labs.gen2det import study

    return study(quick, work)


def _richsem(quick: bool, work: Path) -> Study:
    from engine.labs.richsem import study

    return study(quick, work)


def _detclip(quick: bool, work: Path) -> Study:
    from engine.labs.detclip import study

    return study(quick, work)


def _synground(quick: bool, work: Path) -> Study:
    from engine.labs.synground import study

    return study(quick, work)


def _enhanced_negatives(quick: bool, work: Path) -> Study:
    from engine.labs.enhanced_negatives import study

    return study(quick, work)


LABS: dict[str, Lab] = {
    "detclip": Lab("DetCLIPv2: what captions teach of things that nobody boxed", "METHODS 4", _detclip),
    "enhanced-negatives": Lab(
        "Enhanced Negatives: what false descriptions teach a detector that reads", "METHODS 1", _enhanced_negatives
    ),
    "gen2det": Lab("Gen2Det: what generated instances are worth when real images are few", "METHODS 5", _gen2det),
    "richsem": Lab("RichSem: what CLIP's soft labels of whole images teach of rare classes", "METHODS 3", _richsem),
    "synground": Lab("SynGround: what synthetic triplets teach a model about where to look", "METHODS 2", _synground),
}


def lab(name: str) -> Lab:
    """The lab of that name. Raises NotFound with the names there are."""
    if name not in LABS:
        raise NotFound("lab", name, list(LABS))
    return LABS[name]

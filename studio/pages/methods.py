"""Methods: the five published methods, what each does and needs, where it starts, and what its lab found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.labs.paired import Result
from engine.labs.report import RESULTS, STAR, tables
from engine.recipe import load
from studio.context import Studio
from studio.markup import Html, facts, join, section, table, tag
from studio.pages.common import heading, html

title, path = "Methods", "methods"
LABS = Path(__file__).parents[2] / "assets" / "lab"


class Method(NamedTuple):
    """`recipe` starts it, `presets` train on what it made, `lab` measures it."""

    title: str
    paper: str
    recipe: str
    learns: str
    presets: tuple[str, ...]
    lab: str


METHODS = (
    Method(
        "Enhanced Negatives",
        "arXiv 2401.00094",
        "enhanced_negatives",
        "False texts join the prompt of their image; negative images stand in for their originals, or beside them.",
        ("tiny_grounding", "grounding_dino_swin-t_pretrain_obj365_goldg_cap4m"),
        "enhanced-negatives",
    ),
    Method(
        "Gen2Det",
        "arXiv 2312.04566",
        "gen2det",
        "A batch is of generated images with probability 0.2, and their background teaches nothing.",
        ("tiny_atss", "mask-rcnn_r50_fpn_1x_coco"),
        "gen2det",
    ),
    Method(
        "SynGround",
        "arXiv 2403.13804",
        "synground",
        "A vision-language model learns to look where the box of a phrase is (attention mask consistency).",
        ("tiny_blip", "blip_itm_base"),
        "synground",
    ),
    Method(
        "RichSem",
        "arXiv 2310.12152",
        "richsem",
        "What CLIP sees in each box is learnt by a branch that only the training has (option semantic).",
        ("tiny_faster_rcnn", "dino-4scale_r50_8xb2-12e_coco"),
        "richsem",
    ),
    Method(
        "DetCLIPv2",
        "arXiv 2304.04514",
        "detclip_pairs",
        "The words of captions find their regions by themselves, beside boxes and phrases.",
        ("tiny_detclip", "detclip_swin_t"),
        "detclip",
    ),
)


def page(studio: Studio) -> None:
    """All methods, one below the other."""
    heading(
        "Methods",
        "Five published methods, from recipe to lab. The labs ran on Tabletop, small enough for two CPU cores.",
    )
    html(join(*(told(method) for method in METHODS)))


def told(method: Method) -> Html:
    """A method as a section."""
    recipe = load(method.recipe)
    begin = tag("a", f"Generate with {method.recipe}", href=f"/generate?recipe={method.recipe}")
    return section(
        method.title,
        facts(
            [
                ("Makes", recipe.summary),
                ("Learns", method.learns),
                ("Needs", recipe.needs),
                ("Costs", recipe.cost),
                ("After", method.paper),
                (
                    "Start",
                    join(
                        begin,
                        ", then Review, freeze, ",
                        tag("a", "Train", href="/train"),
                        " with ",
                        _code(method.presets),
                    ),
                ),
            ]
        ),
        found(method.lab),
    )


def found(lab: str) -> Html:
    """What the lab found, or how to run it."""
    file = LABS / lab.replace("-", "_") / RESULTS
    command = f"winnow lab {lab} --seeds 5"
    if not file.is_file():
        return tag("p", "Its lab has not been run in full yet: ", _code([command]), class_="w-quiet")
    result = read(file)
    means, gaps = tables(result)
    said = f"{len(result.seeds)} paired seeds, in points; * where the 95 % interval leaves 0 out. "
    head, *lines = ([cell.replace(STAR, " *") for cell in row] for row in gaps)
    return join(
        table(means[0], means[1:]),
        tag("details", tag("summary", "Differences within each seed, with their intervals"), table(head, lines)),
        tag("p", said, _code([result.command or command]), class_="w-quiet"),
    )


@lru_cache
def read(file: Path) -> Result:
    """A result as `engine.labs.report` wrote it."""
    return msgspec.json.decode(file.read_bytes(), type=Result)


def _code(words: Sequence[str]) -> Html:
    return join(*(join(", " if place else None, tag("code", word)) for place, word in enumerate(words)))

"""Methods: the five published methods, what each does and needs, where it starts, and what its lab found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from shlex import quote
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
    """`recipe` starts it, `presets` train on what it made, `lab` measures it. `snapshot` and `options` are those of its commands,
    `looks` the further commands on the trained model, in which RUN is the training."""

    title: str
    paper: str
    recipe: str
    learns: str
    presets: tuple[str, ...]
    lab: str
    snapshot: str
    options: tuple[str, ...] = ()
    looks: tuple[str, ...] = ()


METHODS = (
    Method(
        "Enhanced Negatives",
        "arXiv 2401.00094",
        "enhanced_negatives",
        "False texts join the prompt of their image; negative images stand in for their originals, or beside them.",
        ("tiny_grounding", "grounding_dino_swin-t_pretrain_obj365_goldg_cap4m"),
        "enhanced-negatives",
        "with-negatives",
    ),
    Method(
        "Gen2Det",
        "arXiv 2312.04566",
        "gen2det",
        "A batch is of generated images with probability 0.2, and their background teaches nothing.",
        ("tiny_atss", "mask-rcnn_r50_fpn_1x_coco"),
        "gen2det",
        "with-instances",
        ("--generated-probability 0.2", "--ignore-background"),
    ),
    Method(
        "SynGround",
        "arXiv 2403.13804",
        "synground",
        "A vision-language model learns to look where the box of a phrase is (attention mask consistency).",
        ("tiny_blip", "blip_itm_base", "albef"),
        "synground",
        "with-triplets",
        looks=('winnow attend RUN with-triplets IMAGE "a red mug" --out attention.png',),
    ),
    Method(
        "RichSem",
        "arXiv 2310.12152",
        "richsem",
        "What CLIP sees in each box is learnt by a branch that only the training has.",
        ("tiny_faster_rcnn", "dino-4scale_r50_8xb2-12e_coco"),
        "richsem",
        "with-class-images",
        (
            "--option semantic.text_classifier=true",
            "--option semantic.soft=semantic",
            "--option semantic.class_images=alternate",
            "--option semantic.mosaic=true",
        ),
    ),
    Method(
        "DetCLIPv2",
        "arXiv 2304.04514",
        "detclip_pairs",
        "The words of captions find their regions by themselves, beside boxes and phrases.",
        ("tiny_detclip", "detclip_swin_t"),
        "detclip",
        "with-pairs",
        looks=(
            "winnow align RUN with-pairs IMAGE --out alignment.png",
            "winnow predict RUN with-pairs --vocabulary words.txt --out found.json",
        ),
    ),
)


def page(studio: Studio) -> None:
    """All methods, one below the other."""
    heading(
        "Methods",
        "Five published methods, from recipe to lab. The labs ran on Tabletop, small enough for two CPU cores.",
    )
    datasets = studio.store.datasets
    newest = sorted(datasets.list(), key=lambda dataset: -dataset.id)
    named = next((dataset.name for dataset in newest if datasets.categories(dataset.id)), "scenes")
    html(join(*(told(method, named) for method in METHODS)))


def commands(method: Method, dataset: str) -> list[str]:
    """A method from the command line, on a data set."""
    train = f"winnow train {method.snapshot} --preset {method.presets[0]}"
    return [
        f"winnow run {method.recipe} --dataset {quote(dataset)} --pack classic --amount 200",
        f"winnow freeze {quote(dataset)} {method.snapshot}",
        " \\\n    ".join([train, *method.options]),
        f"winnow evaluate RUN {method.snapshot}",
        *method.looks,
    ]


def told(method: Method, dataset: str = "scenes") -> Html:
    """A method as a section."""
    recipe = load(method.recipe)
    begin = tag("a", f"Generate with {method.recipe}", href=f"/generate?recipe={method.recipe}")
    return section(
        method.title,
        facts(
            [
                ("Makes", recipe.summary),
                ("Learns", method.learns),
                ("Needs", _sentence(recipe.needs)),
                ("Costs", _sentence(recipe.cost)),
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
        tag(
            "details",
            tag("summary", "From the command line"),
            tag("pre", "\n".join(commands(method, dataset)), class_="w-prompt"),
            tag("p", "RUN is the number that ", _code(["winnow train"]), " tells", _image(method), class_="w-quiet"),
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


def _image(method: Method) -> str:
    """What else the commands leave open."""
    looked = any("IMAGE" in look for look in method.looks)
    words = any("words.txt" in look for look in method.looks)
    return (
        f"{', IMAGE the file name of one on the Datasets page' if looked else ''}"
        f"{', words.txt what to look for, a name a line' if words else ''}."
    )


@lru_cache
def read(file: Path) -> Result:
    """A result as `engine.labs.report` wrote it."""
    return msgspec.json.decode(file.read_bytes(), type=Result)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _code(words: Sequence[str]) -> Html:
    return join(*(join(", " if place else None, tag("code", word)) for place, word in enumerate(words)))

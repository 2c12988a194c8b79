"""A built Tabletop folder as a document of the store: boxes with masks, captions with phrases, all in one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from db.document import Document
from db.errors import WinnowError
from db.records import Box, Category, Image, Phrase
from engine.tabletop.kinds import KINDS
from engine.tabletop.records import TrueObject, Truth, truths

NUMBER = {kind.name: i for i, kind in enumerate(KINDS)}


def document(folder: Path) -> Document:
    """Everything `build` wrote into `folder`, all splits. Raises WinnowError when there is no truth file."""
    files = sorted(folder.glob("truth_*.jsonl"))
    if not files:
        raise WinnowError(f"{folder} holds no Tabletop scenes (no truth_*.jsonl); build them first.")
    scenes = [(path.stem.removeprefix("truth_"), truth) for path in files for truth in truths(path)]
    images = [_image(number, split, truth) for number, (split, truth) in enumerate(scenes)]
    boxes: list[Box] = []
    phrases: list[Phrase] = []
    for image, (_, truth) in zip(images, scenes, strict=True):
        first = len(boxes)
        boxes += [_box(first + i, image.id, item) for i, item in enumerate(truth.objects)]
        phrases += _phrases(len(phrases), first, image.id, truth)
    return Document(
        format="tabletop",
        categories=[
            Category(id=i, name=kind.name, frequency=kind.frequency, source_id=i + 1) for i, kind in enumerate(KINDS)
        ],
        images=lambda: images,
        boxes=lambda: boxes,
        phrases=lambda: phrases,
        file_of=lambda image: folder / image.file_name,
    )


def _image(number: int, split: str, truth: Truth) -> Image:
    extra = {"tabletop": {"seed": truth.seed, "index": truth.index}}
    return Image(
        id=number,
        file_name=truth.file_name,
        width=truth.width,
        height=truth.height,
        split=split,
        source_id=number + 1,
        extra=extra,
    )


def _box(number: int, image_id: int, item: TrueObject) -> Box:
    return Box(
        id=number,
        image_id=image_id,
        xyxy=item.box,
        category_id=NUMBER[item.kind],
        source_id=number + 1,
        area=float(item.area),
        segmentation=msgspec.json.encode(item.mask),
    )


def _phrases(first: int, first_box: int, image_id: int, truth: Truth) -> Sequence[Phrase]:
    """The caption, then its phrases in the order in which they stand in it."""
    caption = Phrase(id=first, image_id=image_id, text=truth.caption)
    parts = [
        Phrase(
            id=first + i,
            image_id=image_id,
            text=part.text,
            parent_id=first,
            spans=((part.start, part.end),),
            box_ids=tuple(first_box + index for index in part.objects),
        )
        for i, part in enumerate(truth.phrases, 1)
    ]
    return [caption, *parts]

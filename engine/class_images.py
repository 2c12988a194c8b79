"""Candidates that are images of one class, boxed as a whole (RichSem, METHODS 3.2.5), with what CLIP sees in them.

They are images of the data set itself (`propose`), or files of a folder of classes that were stored for it (`given`,
see `engine.class_folders`). `detail["soft"]` holds the soft label, [[class, share], ...], where the model pack has an
embedder.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from db.errors import WinnowError
from db.records import XYXY, Box, Content, Image, Kind, NewCandidate, Placed, Record
from engine.embeddings import Region
from engine.filters.embedded import embeddings
from engine.filters.soft import scale_of
from engine.folder import WHOLE_IMAGE
from engine.maker import Made
from engine.pixels import decode
from engine.roles import Context
from engine.seeds import seed_of
from engine.soft_labels import class_texts, soft_labels, top


class Given(Record, frozen=True, kw_only=True):
    """A stored file that is said to show a class. `image_id` is an image of the data set whose split it goes to."""

    digest: str
    category_id: int
    width: int
    height: int
    image_id: int
    name: str
    suffix: str


def propose(context: Context, image_ids: Sequence[int], seed: int) -> list[NewCandidate]:
    """Images of the data set that are class images, as candidates to be judged. Raises WinnowError for one that is
    none, or that was imported without its file."""
    images = context.store.datasets.images_of(image_ids)
    boxes = context.store.datasets.boxes_of(image_ids)
    placed = [(images[i], _whole_box(images[i], boxes[i])) for i in image_ids]
    soft = _soft(context, [image.digest or "" for image, _ in placed])
    return [
        NewCandidate(
            target=f"image:{image.id}/class_image",
            variant=0,
            kind=Kind.CLASS_IMAGE,
            image_id=image.id,
            seed=seed_of(seed, "class image", image.id),
            category_id=box.category_id,
            box_id=box.id,
            xyxy=box.xyxy,
            detail=_content(image.width, image.height, box.category_id) | label,
        )
        for (image, box), label in zip(placed, soft, strict=True)
    ]


def given(context: Context, files: Sequence[Given], seed: int) -> Made:
    """Stored files as candidates. Made twice, they are the same: the target is the content of the file and its
    class."""
    made = Made("class images")
    for file, label in zip(files, _soft(context, [file.digest for file in files]), strict=True):
        made.candidates.append(
            NewCandidate(
                target=f"file:{file.digest[:16]}/{file.category_id}/class_image",
                variant=0,
                kind=Kind.CLASS_IMAGE,
                image_id=file.image_id,
                seed=seed_of(seed, "class image", file.digest),
                category_id=file.category_id,
                xyxy=_all_of(file.width, file.height),
                digest=file.digest,
                detail=_content(file.width, file.height, file.category_id)
                | {"file": file.name, "suffix": file.suffix}
                | label,
            )
        )
    return made


def _whole_box(image: Image, boxes: Sequence[Box]) -> Box:
    found = next((box for box in boxes if box.extra.get(WHOLE_IMAGE) or box.extra.get("origin") == WHOLE_IMAGE), None)
    if found is None:
        raise WinnowError(
            f"Image {image.file_name} is no class image: none of its {len(boxes)} boxes is marked as the whole image. Import "
            "a folder of images for each class."
        )
    if image.digest is None:
        raise WinnowError(f"Image {image.file_name} was imported without its file, so there is nothing to judge.")
    return found


def _content(width: int, height: int, category_id: int | None) -> dict[str, object]:
    box = Placed(xyxy=_all_of(width, height), category_id=category_id, origin=WHOLE_IMAGE)
    return {"content": msgspec.to_builtins(Content(width=width, height=height, boxes=(box,)))}


def _all_of(width: int, height: int) -> XYXY:
    return (0.0, 0.0, float(width), float(height))


def _soft(context: Context, digests: Sequence[str]) -> list[dict[str, object]]:
    """What is recorded of each picture: its soft label, or nothing without an embedder."""
    remembered = embeddings(context)
    if remembered is None:
        return [{} for _ in digests]
    names = [category.name for category in context.store.datasets.categories(context.dataset_id)]
    found = soft_labels(
        remembered,
        [Region(digest) for digest in digests],
        class_texts(remembered, names),
        lambda digest: decode(context.store.blobs.get(digest)),
        scale_of(remembered),
    )
    return [_told(row, shares, found.unread, names) for row, shares in enumerate(found.shares)]


def _told(row: int, shares: np.ndarray, unread: dict[int, str], names: Sequence[str]) -> dict[str, object]:
    return {"unread": unread[row]} if row in unread else {"soft": top(shares, names)}

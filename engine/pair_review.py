"""Imported pairs of image and caption as candidates, to be judged by people and filters (DetCLIPv2, METHODS 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from db.errors import WinnowError
from db.records import Content, Image, Kind, NewCandidate, Phrase
from engine.phrases import chunks
from engine.roles import Context
from engine.seeds import seed_of


def propose(context: Context, image_ids: Sequence[int], seed: int) -> list[NewCandidate]:
    """One candidate for each image: its caption with its noun phrases, without boxes. An image with several captions is
    judged by its first. Raises WinnowError for an image without a caption or without its file."""
    images = context.store.datasets.images_of(image_ids)
    phrases = context.store.datasets.phrases_of(image_ids)
    return [_candidate(images[i], phrases[i], seed) for i in image_ids]


def _candidate(image: Image, phrases: Sequence[Phrase], seed: int) -> NewCandidate:
    caption = next(
        (one.text.strip() for one in phrases if one.parent_id is None and one.holds and one.text.strip()), None
    )
    if caption is None:
        raise WinnowError(f"Image {image.file_name} has no caption, so it is no pair. Import images with captions.")
    if image.digest is None:
        raise WinnowError(f"Image {image.file_name} was imported without its file, so there is nothing to judge.")
    content = Content(width=image.width, height=image.height, caption=caption, phrases=chunks(caption))
    return NewCandidate(
        target=f"image:{image.id}/pair",
        variant=0,
        kind=Kind.PAIR,
        image_id=image.id,
        seed=seed_of(seed, "pair", image.id),
        text_after=caption,
        detail={"content": msgspec.to_builtins(content)},
    )

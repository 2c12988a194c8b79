"""Review: one candidate at a time, one key per verdict."""

from __future__ import annotations

from studio.components.review_card import REVIEW_CARD
from studio.context import Studio

title = "Review"
path = "review"
island = REVIEW_CARD


def page(studio: Studio) -> None:
    """The page reads its queue from the address (`?dataset=1&run=2&kind=instance&order=random`) and its data from
    `/api/review`; nothing goes through Gradio's queue."""
    island.component()

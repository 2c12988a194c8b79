"""Review: one candidate at a time, one key per verdict."""

from __future__ import annotations

from studio.components.review_card import review_card
from studio.context import Studio

title = "Review"
path = "review"
LINKS = {"datasets": "/datasets", "generate": "/generate", "train": "/train"}


def page(studio: Studio) -> None:
    """The page reads its queue from the address (`?dataset=1&run=2&kind=instance&order=random`) and its data from
    `/api/review`; nothing goes through Gradio's queue."""
    review_card(LINKS)

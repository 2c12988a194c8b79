"""Grid: many candidates at once, found by anything that is known of them, and decided together."""

from __future__ import annotations

from studio.components.browse import BROWSE
from studio.context import Studio

title, path = "Grid", "grid"
island = BROWSE


def page(studio: Studio) -> None:
    """The page reads its place from the address, the same queue that Review takes
    (`?dataset=1&kind=instance&scores=seam::2&text=mug`), and its data from `/api/grid`; nothing goes through Gradio's queue."""
    island.component()

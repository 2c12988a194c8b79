"""Lab: the thresholds of the filters, and what moving them would change."""

from __future__ import annotations

from studio.components.lab import lab
from studio.context import Studio
from studio.pages.common import heading

title, path = "Lab", "lab"
LINKS = {"datasets": "/", "generate": "/generate", "jobs": "/jobs", "review": "/review"}


def page(studio: Studio) -> None:
    """The page reads its place from the address (`?dataset=1&run=2&kind=instance&category=3`) and its data from
    `/api/lab`; nothing goes through Gradio's queue."""
    heading(
        "Threshold lab",
        "Every value the filters gave, split by what people decided. Move a threshold to see what would change; nothing "
        "does until you save it as a policy.",
        help="lab",
    )
    lab(LINKS)

"""The grid of many candidates: `browse.js` draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studio.islands import Island, Opening


def opening(query: Mapping[str, str], reviewer: str) -> Opening:
    """The choices of the page; its tiles come with their thumbnails."""
    yield "/api/grid/setup", {"dataset": query.get("dataset")}


def pictures(answers: Sequence[dict[str, Any]]) -> list[str]:
    """None by themselves: thumbnails come in sheets."""
    return []


BROWSE = Island(
    script="browse/browse.js",
    styles=("browse/browse.css",),
    links={"datasets": "/datasets", "generate": "/generate", "review": "/review"},
    holds="browsing",
    opening=opening,
    pictures=pictures,
)

"""The review card: `card.js` draws it, `deck.js` reads ahead for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studio.islands import Island, Opening

USUAL = {"order": "oldest", "human": "undecided"}
FIRST = 8  # candidates of the first page, as `deck.js` asks for it


def opening(query: Mapping[str, str], reviewer: str) -> Opening:
    """The choices of the page, and the first candidates of its queue."""
    setup = yield "/api/review/setup", {"dataset": query.get("dataset")}
    if setup["dataset"] is not None:
        chosen = {name: value for name, value in query.items() if name != "__theme"}  # Gradio's own
        queue = USUAL | chosen | {"dataset": setup["dataset"]}
        yield "/api/review/next", queue | {"reviewer": reviewer, "limit": FIRST}


def pictures(answers: Sequence[dict[str, Any]]) -> list[str]:
    """Those of the first candidate."""
    first = answers[1]["cards"][:1] if len(answers) > 1 else []
    return [side["url"] for card in first for side in (card["before"], card["after"]) if side]


REVIEW_CARD = Island(
    script="review_card/card.js",
    styles=("review_card/card.css", "editor/editor.css"),
    links={"datasets": "/datasets", "generate": "/generate", "train": "/train"},
    holds="reviewing",
    opening=opening,
    pictures=pictures,
)

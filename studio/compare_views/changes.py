"""What the last of the runs finds that the first does not, and the other way round."""

from __future__ import annotations

from typing import Any

import numpy as np

from db.records import Run
from engine import comparison
from studio import comparing
from studio.compare_views.asked import Asked, View, judged_of, label_names, label_of, paged, pair, place_of
from studio.comparing import Shot
from studio.context import Studio
from studio.markup import Html, empty, join, tag

SIDES = ("won", "lost", "came", "went")


def _first_side(studio: Studio, told: Asked, pick: str) -> str:
    return pick if pick in SIDES else "won"


def _ends(studio: Studio, told: Asked) -> tuple[Run, Run] | None:
    """The first and the last of the evaluations."""
    runs = judged_of(studio, told)
    return (runs[0], runs[-1]) if len(runs) > 1 else None


def _changes(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    ends = _ends(studio, told)
    if ends is None:
        return empty("One evaluation alone has not changed", "Choose a second one above.")
    found = _sides(studio, told, *ends)
    before, after = (label_of(studio, run) for run in ends)
    words = {
        "won": "boxes won",
        "lost": "boxes lost",
        "came": "wrong boxes that came",
        "went": "wrong boxes that went",
    }
    lead = f"From {before} to {after}, with boxes from a score of {told.threshold:.2f}, {told.category}."
    return join(
        tag("p", lead, class_="w-quiet"),
        comparing.picks([(side, len(found[side]), word) for side, word in words.items()], pick),
    )


def _sides(studio: Studio, told: Asked, first: Run, second: Run) -> dict[str, np.ndarray]:
    """Places of true boxes (of the first and the second run) or of predictions, by side; of the chosen class."""
    before, after = (comparison.judged(studio.store, run) for run in (first, second))
    found = comparison.changes(before, after, told.threshold)
    label = place_of(studio, first, before, told.category)

    def mine(pairs: np.ndarray, judged: comparison.Judged, places: np.ndarray) -> np.ndarray:
        return places if label is None else places[judged.label(pairs) == label]

    return {
        "won": mine(before.box_pair[found.won[:, 0]], before, found.won),
        "lost": mine(before.box_pair[found.lost[:, 0]], before, found.lost),
        "came": mine(after.pair[found.came], after, found.came),
        "went": mine(before.pair[found.went], before, found.went),
    }


def _changed_boxes(studio: Studio, told: Asked, pick: str, page: int) -> Html | str:
    ends = _ends(studio, told)
    if ends is None:
        return ""
    first, second = ends
    places = _sides(studio, told, first, second)[pick]
    if not len(places):
        return empty("None", "At this score, for this class, there is none.")
    part, pages = paged(list(places), page)
    run = second if pick in ("won", "came") else first
    judged = comparison.judged(studio.store, run)
    names = label_names(studio, run, judged)
    made = [_changed(studio, told, run, judged, names, place, pick) for place in part]
    kinds = ("truth", "right") if pick in ("won", "lost") else ("wrong",)
    where = f"as {label_of(studio, run)} has them"
    return join(tag("h2", where), comparing.keys(*kinds), comparing.shots(made), comparing.turn(page, pages))


def _changed(
    studio: Studio, told: Asked, run: Run, judged: comparison.Judged, names: list[str], place: Any, side: str
) -> Shot:
    if side in ("came", "went"):
        return pair(studio, run, judged, names, -1, int(place), "wrong")
    box = int(place[1] if side == "won" else place[0])
    finder = comparison.finder_of(judged, box, told.threshold)
    return pair(studio, run, judged, names, box, -1 if finder is None else finder, "right")


CHANGES = View("What changed", _changes, _changed_boxes, _first_side, by_box=True)

"""Which class is taken for which, and the boxes of each case."""

from __future__ import annotations

import numpy as np

from engine import comparison
from studio import comparing
from studio.compare_views.asked import Asked, View, judged_of, label_names, label_of, paged, pair
from studio.context import Studio
from studio.markup import Html, join, section, tag


def _first_cell(studio: Studio, told: Asked, pick: str) -> str:
    """The most frequent case of one class taken for another, or else of one not found, in the last of the runs."""
    runs = judged_of(studio, told)
    if pick.split(":")[0] in {str(run.id) for run in runs} and pick.count(":") == 2:
        return pick
    counts = comparison.confusion(comparison.judged(studio.store, runs[-1]), told.threshold).counts
    errors = counts - np.diag(np.diag(counts))
    named = errors[:-1, :-1] if errors[:-1, :-1].any() else errors
    row, column = np.unravel_index(int(named.argmax()), named.shape)
    return f"{runs[-1].id}:{row}:{column}" if named.any() else ""


def _confusion(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    parts = []
    for run in judged_of(studio, told):
        judged = comparison.judged(studio.store, run)
        names = label_names(studio, run, judged)
        found = comparison.confusion(judged, told.threshold)
        label = label_of(studio, run)
        most = tag("div", tag("h2", "Taken for another"), comparing.confusions(run.id, found, names, pick))
        matrix = comparing.matrix(label, run.id, found, names, pick)
        parts.append(tag("div", matrix, most, class_="w-confusion"))
    lead = tag("p", "Boxes from the score above; choose a cell to see its boxes.", class_="w-quiet")
    return join(lead, parts)


def _cell(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    run_id, row, column = map(int, pick.split(":"))
    run = studio.store.ledger.run(run_id)
    judged = comparison.judged(studio.store, run)
    names = label_names(studio, run, judged)
    boxes, found = comparison.confusion(judged, told.threshold).at(row, column)
    both = list(zip(boxes.tolist(), found.tolist(), strict=True))
    part, pages = paged(both, page)
    kind = "right" if row == column else "wrong"
    made = [pair(studio, run, judged, names, box, prediction, kind) for box, prediction in part]
    title = f"{comparing.described(row, column, names)}, {label_of(studio, run)}: {len(both):,}"
    return section(title, comparing.keys("truth", kind, "missed"), comparing.shots(made), comparing.turn(page, pages))


CONFUSION = View("Confusion", _confusion, _cell, _first_cell, by_box=True)

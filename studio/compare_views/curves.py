"""Precision and recall, and how scores lie."""

from __future__ import annotations

from engine import comparison
from studio import comparing
from studio.compare_views.asked import Asked, View, judged_of, label_of, place_of
from studio.context import Studio
from studio.markup import Html, join, section, tag


def _plots(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    runs = judged_of(studio, told)
    labels = [label_of(studio, run) for run in runs]
    found = [comparison.judged(studio.store, run) for run in runs]
    places = [place_of(studio, run, judged, told.category) for run, judged in zip(runs, found, strict=True)]
    both = list(zip(labels, found, places, strict=True))
    curves = {label: comparison.precision_at_recalls(judged, place) for label, judged, place in both}
    histograms = [
        comparing.scores(f"Scores, {label}", *comparison.score_histogram(judged, place), told.threshold)
        for label, judged, place in both
    ]
    tallies = [comparison.tally(judged, told.threshold, place) for _, judged, place in both]
    return join(
        section(f"Boxes with a score from {told.threshold:.2f}, {told.category}", comparing.tallies(labels, tallies)),
        tag("div", comparing.precision_recall(told.category, curves), histograms, class_="w-two"),
    )


PLOTS = View("Curves", _plots, by_box=True)

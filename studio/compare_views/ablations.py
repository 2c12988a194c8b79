"""What a slice of the data was worth, over paired seeds."""

from __future__ import annotations

from db.records import State
from engine import ablation
from studio import comparing
from studio.compare_views.asked import Asked, View
from studio.context import Studio
from studio.markup import Html, empty, join, section, tag


def _first_ablation(studio: Studio, told: Asked, pick: str) -> str:
    found = [one.key for one in ablation.ablations(studio.store)]
    return pick if pick in found else next(iter(found), "")


def named(studio: Studio, key: str) -> ablation.Ablation | None:
    return next((one for one in ablation.ablations(studio.store) if one.key == key), None)


def _ablations(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    found = ablation.ablations(studio.store)
    if not found:
        return empty(
            "No ablation yet",
            "Freeze a snapshot without a slice and one with it on Train, then start an ablation above: the same detector "
            "is trained on both with the same seeds, and the differences say what the slice was worth.",
        )
    return comparing.ablations(found, pick)


def _one_ablation(studio: Studio, told: Asked, pick: str, page: int) -> Html | str:
    found = named(studio, pick)
    if found is None:
        return ""
    without, with_ = found.without.name, found.with_.name
    done, whole = sum(run.state is State.DONE for run in found.runs), len(found.runs)
    waiting = (
        None if found.ended else tag("p", f"{done} of {whole} runs are done; this page follows.", class_="w-banner")
    )
    few = (
        tag("p", "One seed has no interval: whether it was luck cannot be said.", class_="w-quiet")
        if found.pairs == 1
        else None
    )
    return join(
        waiting,
        tag(
            "div",
            section(
                "What it was worth",
                few,
                tag("div", comparing.effects(found.metrics, without, with_), class_="w-scroll"),
            ),
            comparing.intervals("Change of the AP by class, with its 95 % interval", found.per_class),
            class_="w-two",
        )
        if found.metrics
        else None,
        section("By class", tag("div", comparing.effects(found.per_class, without, with_), class_="w-scroll"))
        if found.per_class
        else None,
        section("Its runs", comparing.legs(found)),
    )


ABLATIONS = View("Ablations", _ablations, _one_ablation, _first_ablation)

"""`winnow measure filters`: what each filter tells on candidates whose truth is known.

A filter is judged twice: by everything that can be the matter with a candidate, and by the faults that it is meant to find. What has no
value never passes. Intervals are 95 %: of AUCs by resampling images, of shares by Wilson.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.records import Kind
from engine.diversity import wilson
from engine.filters import FILTERS, Filter
from engine.learned import Examples, TooFew, auc_of, fit
from engine.provenance import versions
from studio.measure.world import UNJUDGED, World, fault_of, goodness

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
RESAMPLES, BATCH = 400, 50
WRONG_THING = ("wrong class", "look-alike class", "nothing there", "misplaced box", "other look", "unchanged")
MEANT_FOR: dict[str, tuple[str, ...]] = {
    "text_duplicate": ("same words",),
    "paraphrase": ("same words", "still true"),
    "hypernym": ("wider word",),
    "still_true": ("still true", "wider word"),
    "text_length": ("rambling",),
    "single_edit": ("two edits", "rambling"),
    "fluency": ("broken form",),
    "language": ("foreign",),
    "profanity": (),
    "outside_change": ("noise outside",),
    "seam": ("hard edge",),
    "plausible_size": ("wrong class", "look-alike class"),
    "sharpness": ("blurred",),
    "exposure": ("burnt",),
    "overlap": ("covers another",),
    "box_drift": ("drifted box",),
    "near_duplicate": ("repeated",),
    "detector_agreement": ("wrong class", "look-alike class", "nothing there", "misplaced box"),
    "clip_agreement": WRONG_THING,
    "clip_margin": WRONG_THING,
    "clip_delta": WRONG_THING,
    "two_step": WRONG_THING,
    "aesthetic": ("ugly picture",),
}
HARD = (*WRONG_THING, "covers another", "blurred", "")
"""The faults, and the good ones, among which no filter alone is enough: those that one filter finds by itself are left out."""
ERRORS = 0.03  # of the verdicts that the learned filter learns from
VERDICTS = (150, 300, 600)


@dataclass(frozen=True, eq=False)
class Sample:
    """n candidates: values [n, f] with NaN for none, the image and kind of each, whether it is good, what is the matter."""

    names: tuple[str, ...]
    values: Float
    images: NDArray[np.int64]
    kinds: NDArray[np.str_]
    good: Bool
    known: Bool  # whether the truth tells if it is good
    faults: NDArray[np.str_]

    def take(self, rows: NDArray[Any]) -> Sample:
        parts = (getattr(self, name)[rows] for name in ("values", "images", "kinds", "good", "known", "faults"))
        return Sample(self.names, *parts)

    def column(self, name: str) -> Float:
        return self.values[:, self.names.index(name)]


def run(world: World) -> dict[str, Any]:
    """All figures, as they go into `filters.json`."""
    sample = gathered(world)
    told = {name: judged(one, sample) for name, one in FILTERS.items() if name in sample.names}
    learned = {kind: learnt(sample, kind) for kind in (Kind.INSTANCE, Kind.NEGATIVE_IMAGE, Kind.NEGATIVE_TEXT)}
    kinds = {kind: _counts(sample, sample.kinds == kind) for kind in Kind}
    return {"candidates": kinds, "filters": told, "learned": learned, "versions": versions()}


def gathered(world: World) -> Sample:
    """The candidates of the study with their scores."""
    candidates, review = world.candidates(), world.studio.store.review
    scored = review.scores_of([one.id for one in candidates])
    names = tuple(MEANT_FOR)
    values = [{each.filter: each.value for each in scored[one.id]} for one in candidates]
    return Sample(
        names=names,
        values=np.array([[row.get(name) for name in names] for row in values], float),
        images=np.array([one.image_id for one in candidates]),
        kinds=np.array([str(one.kind) for one in candidates]),
        good=np.array([goodness(one) is True for one in candidates]),
        known=np.array([goodness(one) is not None for one in candidates]),
        faults=np.array([fault_of(one) for one in candidates]),
    )


def _counts(sample: Sample, rows: Bool) -> dict[str, int]:
    some = sample.take(rows)
    found = dict(zip(*np.unique(some.faults[~some.good], return_counts=True), strict=True))
    unknown = int(found.pop("", 0))
    return {"good": int(some.good.sum()), "unknown": unknown} | {name: int(n) for name, n in found.items()}


def judged(chosen: Filter, sample: Sample) -> dict[str, Any]:
    """The figures of one filter, on the candidates of the kinds it is for."""
    mine = sample.take(np.isin(sample.kinds, [str(kind) for kind in chosen.kinds]))
    values, own = mine.column(chosen.name), np.isin(mine.faults, MEANT_FOR[chosen.name])
    passed = np.array([chosen.default.passes(None if np.isnan(one) else float(one)) is True for one in values])
    judgeable = mine.known & ~np.isin(mine.faults, UNJUDGED)
    meant = (mine.good & mine.known) | own
    ranks = ranked(chosen, values)
    hits = int((passed & mine.good).sum())
    return {
        "rule": said(chosen),
        "n": int(judgeable.sum()),
        "without_value": int(np.isnan(values).sum()),
        "auc": area(ranks[judgeable], mine.good[judgeable], mine.images[judgeable]),
        "precision": share(hits, int((passed & judgeable).sum())),
        "recall": share(hits, int(mine.good.sum())),
        "good_at_all": share(int(mine.good[judgeable].sum()), int(judgeable.sum())),
        "own_faults": list(MEANT_FOR[chosen.name]),
        "own_n": int(own.sum()),
        "own_auc": area(ranks[meant], mine.good[meant], mine.images[meant]),
        "own_caught": share(int((own & ~passed).sum()), int(own.sum())),
        "best_threshold": best(chosen, values[meant], mine.good[meant]) if own.any() else None,
        "caught": {
            name: float((~passed)[mine.faults == name].mean()) for name in sorted(set(mine.faults[~mine.good]) - {""})
        },
    }


def said(chosen: Filter) -> str:
    """The default rule in signs."""
    low, high = chosen.default.at_least, chosen.default.at_most
    return " and ".join(f"{sign} {level:g}" for sign, level in ((">=", low), ("<=", high)) if level is not None)


def ranked(chosen: Filter, values: Float) -> Float:
    """The values in the order of how good the filter holds a candidate; none is the worst."""
    low, high = chosen.default.at_least, chosen.default.at_most
    if low is not None and high is not None:
        values = np.minimum(values - low, high - values)
    elif chosen.better == "lower":
        values = -values
    return np.where(np.isnan(values), -np.inf, values)


def best(chosen: Filter, values: Float, good: Bool) -> float | None:
    """The threshold with the largest mean of kept good and caught bad ones; None for a rule with two bounds."""
    there = ~np.isnan(values)
    if chosen.default.at_least is not None and chosen.default.at_most is not None or not there.any():
        return None
    levels = np.unique(np.quantile(values[there], np.linspace(0, 1, 201)))
    passes = values[:, None] >= levels if chosen.better == "higher" else values[:, None] <= levels
    balanced = passes[good].mean(0) - passes[~good].mean(0)
    return float(levels[int(balanced.argmax())])


def area(ranks: Float, good: Bool, images: NDArray[np.int64]) -> tuple[float, float, float] | None:
    """AUC and its interval; None where all are good, or none is."""
    if good.all() or not good.any():
        return None
    value, spread = float(auc_of(ranks, good)[0]), resampled([ranks], good, images)[0]
    low, high = np.nanquantile(spread, [0.025, 0.975])
    return value, float(low), float(high)


def resampled(rankings: Sequence[Float], good: Bool, images: NDArray[np.int64], seed: int = 0) -> list[Float]:
    """AUCs of several rankings on the same resampled images."""
    _, place = np.unique(images, return_inverse=True)
    count, rng = int(place.max()) + 1, np.random.default_rng(seed)
    found: list[list[Float]] = [[] for _ in rankings]
    for _ in range(0, RESAMPLES, BATCH):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=BATCH)[:, place].astype(float)
        for each, ranks in zip(found, rankings, strict=True):
            each.append(auc_of(ranks, good, weights))
    return [np.concatenate(each) for each in found]


def share(hits: int, trials: int) -> tuple[float, float, float] | None:
    return (hits / trials, *wilson(hits, trials)) if trials else None


# The learned filter


def learnt(sample: Sample, kind: Kind) -> list[dict[str, Any]]:
    """The learned filter against the best single one on images that nobody gave a verdict on, for several numbers of verdicts."""
    hard = sample.known & (sample.kinds == kind)
    if kind is not Kind.NEGATIVE_TEXT:
        hard &= np.isin(sample.faults, HARD)
    some = sample.take(hard)
    rng = np.random.default_rng(1)
    half = np.isin(some.images, rng.permutation(np.unique(some.images))[::2])
    seen, rest = rng.permutation(np.flatnonzero(half)), some.take(~half)
    return [_against_best(some.take(seen[:count]), rest, rng) for count in VERDICTS if count <= len(seen)]


def _against_best(seen: Sample, rest: Sample, rng: np.random.Generator) -> dict[str, Any]:
    verdicts = seen.good ^ (rng.random(len(seen.good)) < ERRORS)
    try:
        learned = fit(
            Examples(seen.names, seen.values, seen.images, verdicts), rules=[f.default for f in FILTERS.values()]
        )
    except TooFew as error:
        return {"verdicts": len(verdicts), "says": str(error)}
    single = learned.report.singles[0].filter
    values = learned.predict(Examples(rest.names, rest.values, rest.images, rest.good))
    rankings = [np.where(np.isnan(values), -np.inf, values), ranked(FILTERS[single], rest.column(single))]
    auc, other = (float(auc_of(ranks, rest.good)[0]) for ranks in rankings)
    mine, its = resampled(rankings, rest.good, rest.images)
    low, high = np.nanquantile(mine - its, [0.025, 0.975])
    return {
        "verdicts": len(verdicts), "held_out": len(rest.good), "good": float(rest.good.mean()), "auc": auc, "best_single": single,
        "best_auc": other, "gain": (auc - other, float(low), float(high)), "on": learned.report.on, "says": learned.report.says,
    }  # fmt: skip


# As a page


def page(figures: dict[str, Any], command: str) -> str:
    """The figures in Markdown."""
    counts = [
        f"- {kind}: {', '.join(f'{n} {name}' for name, n in each.items())}"
        for kind, each in figures["candidates"].items()
    ]
    rows = [_row(name, one) for name, one in figures["filters"].items()]
    caught = [f"| {name} | {_caught(one)} |" for name, one in figures["filters"].items()]
    learned = [_learned_row(kind, one) for kind, each in figures["learned"].items() for one in each]
    return "\n".join(
        [
            "# Filters on Tabletop candidates with exact truth", "", f"Made by `{command}`. Intervals are 95 %.", "", *counts, "",
            "*All faults*: good against everything that is the matter with a candidate of the filter's kinds. *Its own*: good against",
            "the faults that the filter is meant to find. Precision and recall: of what passes the default rule, how much is good;",
            "of what is good, how much passes. A candidate without value does not pass.", "",
            "| filter | default | n | AUC, all faults | precision | recall | its own faults | AUC | caught |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |", *rows, "",
            "## What the default rule keeps out, by fault", "", "| filter | share kept out |", "| --- | --- |", *caught, "",
            "## The learned filter on the hard mix", "",
            f"Verdicts with {ERRORS:.0%} errors on half of the images; AUC on the truth of the other half.", "",
            "| candidates | verdicts | AUC | best single | its AUC | difference | on by itself |",
            "| --- | --- | --- | --- | --- | --- | --- |", *learned, "",
        ]
    )  # fmt: skip


def _row(name: str, one: dict[str, Any]) -> str:
    own = ", ".join(one["own_faults"]) or "none in this world"
    return (
        f"| {name} | {one['rule']} | {one['n']} | {_three(one['auc'])} | {_three(one['precision'])} | {_three(one['recall'])} "
        f"| {own} | {_three(one['own_auc'])} | {_three(one['own_caught'])} |"
    )


def _caught(one: dict[str, Any]) -> str:
    good = 1 - one["recall"][0] if one["recall"] else 0.0
    return ", ".join([f"good {good:.0%}", *(f"{name} {value:.0%}" for name, value in one["caught"].items())])


def _learned_row(kind: str, one: dict[str, Any]) -> str:
    if "auc" not in one:
        return f"| {kind} | {one['verdicts']} | {one['says']} | | | | |"
    on = "yes" if one["on"] else "no"
    return (
        f"| {kind} | {one['verdicts']} | {one['auc']:.3f} | {one['best_single']} | {one['best_auc']:.3f} "
        f"| {_three(one['gain'])} | {on} |"
    )


def _three(value: Sequence[float] | None) -> str:
    return "" if value is None else f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"

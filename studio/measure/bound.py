"""`winnow measure bound`: how often the bounds of `engine.bound` hold, over thousands of audits of a population with known truth.

The population is what a policy accepts of the candidates of the study. An audit of it is simulated: looks in random order, at each of
which the truth is seen, or what a reviewer who errs makes of it. A construction fails in an audit when what it says is
wrong at any moment at which it may be read. At a confidence of 95 % it may in 5 % of the audits; the rows marked "misuse" show what
happens when a construction is used as it must not be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.audits import in_order
from db.records import Kind
from engine import bound
from engine.bound import Stratum
from engine.diversity import wilson
from engine.filters import FILTERS
from engine.provenance import versions
from studio.measure.filters import Sample, gathered, ranked
from studio.measure.world import World

TRIALS, LOOKS, DELTA = 2000, 200, 0.05
EVERY = 40  # looks between two readings where each look would take too long
MISSES, ALARMS = 0.15, 0.02  # of the reviewers who err
CUTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # shares of the population that the family accepts, strictest first
Bool = NDArray[Any]
Int = NDArray[Any]
Float = NDArray[np.float64]
POLICIES = {
    "images": (
        (Kind.INSTANCE, Kind.NEGATIVE_IMAGE),
        ("outside_change", "box_drift", "near_duplicate", "sharpness", "clip_margin"),
    ),
    "texts": ((Kind.NEGATIVE_TEXT,), ("text_duplicate", "still_true", "fluency", "language", "text_length")),
}
ORDER = {"images": "clip_margin", "texts": "still_true"}  # what the family of policies moves


def run(world: World, trials: int = TRIALS) -> dict[str, Any]:
    """All figures, as they go into `bound.json`."""
    sample = gathered(world)
    populations = {name: accepted(sample, name) for name in POLICIES}
    rows = [row for name, one in populations.items() for row in measured(name, one, trials)]
    shares = {name: {"accepted": len(one.good), "bad": float((~one.good).mean())} for name, one in populations.items()}
    return {"trials": trials, "confidence": 1 - DELTA, "populations": shares, "rows": rows, "versions": versions()}


def accepted(sample: Sample, name: str) -> Sample:
    """What a policy of default rules accepts, as far as the truth tells."""
    kinds, filters = POLICIES[name]
    passing = sample.known & np.isin(sample.kinds, [str(kind) for kind in kinds])
    for one in filters:
        values = sample.column(one)
        passing &= [FILTERS[one].default.passes(float(value)) is True for value in values]
    return sample.take(passing)


def measured(name: str, population: Sample, trials: int) -> list[dict[str, Any]]:
    """A row for each construction."""
    rng = np.random.default_rng(7)
    bad = ~population.good
    total, looks = len(bad), min(LOOKS, len(bad) // 2)
    orders = np.array([rng.permutation(total)[:looks] for _ in range(trials)])
    seen = bad[orders]
    alpha = 1.4 * float(bad.mean()) + 0.01  # what somebody would ask for who knows the material
    rows = [
        *_plain(seen, int(bad.sum()), total, alpha),
        *_stratified(population, looks, trials, alpha),
        *_erring(seen, int(bad.sum()), total, rng),
        _family(name, population, orders),
    ]
    return [{"population": name, "looks": looks, "nominal": 1 - DELTA, **row} for row in rows]


def _row(what: str, wrong: Bool, bounds: Float, stops: Sequence[int] = ()) -> dict[str, Any]:
    held = int((~wrong).sum())
    told = {
        "construction": what,
        "coverage": (held / len(wrong), *wilson(held, len(wrong))),
        "mean_bound": float(np.mean(bounds)),
    }
    return told | (
        {"looks_until_stop": float(np.median(stops)), "stopped": len(stops) / len(wrong)} if len(stops) else {}
    )


def _plain(seen: Bool, bad: int, total: int, alpha: float) -> list[dict[str, Any]]:
    """One stratum: fixed and sequential, and the fixed one misused."""
    found: Int = np.cumsum(seen, axis=1)
    fixed = _table(found, lambda n, x: bound.upper_fixed([Stratum(total, n, x)], DELTA))
    peeking = _table(found, lambda n, x: bound.upper([Stratum(total, n, x)], DELTA))
    stops = [int(first) + 1 for first, met in _first(peeking <= alpha * total) if met]
    return [
        _row("fixed looks, read once", fixed[:, -1] < bad, fixed[:, -1] / total),
        _row("anytime, read after each look", np.any(peeking < bad, axis=1), peeking[:, -1] / total, stops),
        _row("misuse: fixed looks, read after each look", np.any(fixed < bad, axis=1), fixed.min(1) / total),
    ]


def _first(met: Bool) -> list[tuple[int, bool]]:
    return [(int(row.argmax()), bool(row.any())) for row in met]


def _table(found: Int, bounding: Callable[[int, int], int], every: int = 1) -> Int:
    """The bound of each audit after every so many looks; audits share what they have in common."""
    of, times = cache(bounding), range(every, found.shape[1] + 1, every)
    return np.array([[of(n, row[n - 1]) for n in times] for row in found.tolist()])


def _stratified(population: Sample, looks: int, trials: int, alpha: float) -> list[dict[str, Any]]:
    """Strata of very different shares of bad ones: the kinds, or images of even and odd numbers where there is one kind only."""
    codes = np.unique(population.kinds, return_inverse=True)[1]
    codes = (population.images % 3).astype(np.int64) if codes.max() == 0 else codes.astype(np.int64)
    bad, sizes = ~population.good, np.bincount(codes)
    orders = np.array([in_order(codes, seed)[:looks] for seed in range(trials)])
    one_hot = codes[orders][:, :, None] == np.arange(len(sizes))
    looked, found = np.cumsum(one_hot, 1), np.cumsum(one_hot & bad[orders][:, :, None], 1)
    times = np.arange(EVERY, looks + 1, EVERY) - 1

    def strata(trial: int, at: int) -> tuple[Stratum, ...]:
        three = zip(sizes.tolist(), looked[trial, at].tolist(), found[trial, at].tolist(), strict=True)
        return tuple(Stratum(*one) for one in three)

    fixed_of, anytime_of = cache(lambda s: bound.upper_fixed(s, DELTA)), cache(lambda s: bound.upper(s, DELTA))
    fixed = np.array([fixed_of(strata(i, looks - 1)) for i in range(trials)])
    peeking = np.array([[anytime_of(strata(i, int(at))) for at in times] for i in range(trials)])
    stops = [int(times[first]) + 1 for first, met in _first(peeking <= alpha * len(bad)) if met]
    total = int(bad.sum())
    return [
        _row(f"{len(sizes)} strata, fixed looks, read once", fixed < total, fixed / len(bad)),
        _row(
            f"{len(sizes)} strata, anytime, read every {EVERY}",
            np.any(peeking < total, axis=1),
            peeking[:, -1] / len(bad),
            stops,
        ),
    ]


def _erring(seen: Bool, bad: int, total: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Reviewers who miss some of the bad ones and call some of the good ones bad: what they stated, and what they kept to themselves."""

    def called(reviewers: int) -> Int:
        says = [
            np.where(seen, rng.random(seen.shape) >= MISSES, rng.random(seen.shape) < ALARMS) for _ in range(reviewers)
        ]
        return np.cumsum(np.any(says, axis=0), axis=1)

    def row(what: str, found: Int, stated: float) -> dict[str, Any]:
        draw, luck = bound.split(DELTA, stated)
        bounds = _table(
            found,
            lambda n, x: bound.upper_despite_errors(bound.upper([Stratum(total, n, x)], draw), total, stated, luck),
            EVERY,
        )
        return _row(what, np.any(bounds < bad, axis=1), bounds[:, -1] / total)

    alone, both = called(1), called(2)
    return [
        row(f"a reviewer who misses {MISSES:.0%}, stated", alone, MISSES),
        row(f"two such reviewers, bad when either says so, {MISSES**2:.3g} stated", both, MISSES**2),
        row(f"misuse: a reviewer who misses {MISSES:.0%}, nothing stated", alone, 0.0),
    ]


def _family(name: str, population: Sample, orders: Int) -> dict[str, Any]:
    """The loosest of six policies, asked for at all looks; wrong when it is worse than asked for. The loosest of all is just too loose."""
    ranks, bad = ranked(FILTERS[ORDER[name]], population.column(ORDER[name])), ~population.good
    place = np.argsort(np.argsort(-ranks, kind="stable"), kind="stable")
    accepts = np.array([place < round(cut * len(bad)) for cut in CUTS])
    sizes, truth = accepts.sum(1), np.array([bad[taken].mean() for taken in accepts])
    alpha = (int(bad.sum()) - 1) / len(bad)
    looked, found = (np.cumsum(part, axis=2) for part in (accepts[:, orders], (accepts & bad)[:, orders]))
    planned = orders.shape[1]

    @cache
    def proposed(known: tuple[tuple[int, int], ...]) -> int:
        family = [(str(i), (Stratum(int(sizes[i]), n, x),)) for i, (n, x) in enumerate(known)]
        chosen = bound.loosest(family, alpha, DELTA, planned).name
        return -1 if chosen is None else int(chosen)

    times = range(EVERY - 1, planned, EVERY)
    chosen = np.array(
        [
            [proposed(tuple(zip(looked[:, i, at].tolist(), found[:, i, at].tolist(), strict=True))) for at in times]
            for i in range(len(orders))
        ]
    )
    wrong = (np.append(truth, 0.0)[chosen] > alpha).any(1)  # -1, none proposed, is never wrong
    kept = np.append(sizes / len(bad), 0.0)[chosen[:, -1]]
    return _row(f"loosest of {len(CUTS)} policies, read every {EVERY}", wrong, np.array([alpha])) | {
        "accepted": float(kept.mean())
    }


# As a page


def page(figures: dict[str, Any], command: str) -> str:
    """The figures in Markdown."""
    told = [
        f"- {name}: {one['accepted']} accepted, {one['bad']:.1%} of them bad"
        for name, one in figures["populations"].items()
    ]
    rows = [_line(one) for one in figures["rows"]]
    return "\n".join(
        [
            "# How often the bounds hold", "", f"Made by `{command}`: {figures['trials']} audits each of what a policy accepts of",
            "Tabletop candidates with exact truth, at a nominal confidence of 95 %. Coverage with its 95 % interval. *Bound*: mean",
            "at the end of the audit. *Stop*: median looks until the bound met 1.4 times the true share plus 1 %, and in how",
            "many audits it did.", "", *told, "",
            "| population | construction | looks | coverage | bound | stop |", "| --- | --- | --- | --- | --- | --- |", *rows, "",
        ]
    )  # fmt: skip


def _line(one: dict[str, Any]) -> str:
    value, low, high = one["coverage"]
    stop = f"{one['looks_until_stop']:.0f} ({one['stopped']:.0%})" if "looks_until_stop" in one else ""
    stop = f"accepts {one['accepted']:.0%} of it on average" if "accepted" in one else stop
    covered = f"{value:.3f} ({low:.3f} to {high:.3f})"
    return f"| {one['population']} | {one['construction']} | {one['looks']} | {covered} | {one['mean_bound']:.1%} | {stop} |"

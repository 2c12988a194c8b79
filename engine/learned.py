"""The learned filter: how likely people are to accept a candidate, going by all its scores and the verdicts given so far.

The model is a sum of curves, one for each score: piecewise linear between quantiles of the score, with a height of its own for
"not scored", fitted as a ridge logistic regression and calibrated with Platt's method on predictions for examples that it had
not seen. A sum of curves can be kept as plain numbers, drawn, and explained exactly: what a score adds is read off its curve.

It is cross-fitted. Images fall into `FOLDS` folds by their id, and a candidate is always judged by the model that saw no verdict
on its image. So candidates with and without verdict are judged alike, and a threshold chosen on those with verdicts holds for the
others. The same verdicts, scores and seed give the same model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from db.columns import ACCEPTED, REJECTED, Table
from db.errors import WinnowError
from db.records import Candidate, Kind, Record, Rule
from db.store import Store

NAME = "learned"
EMBEDDING = "embedding"  # the name under which what was learned from embeddings counts as a score
FOLDS = 5
LEAST = 50  # verdicts of each sort
LEAST_IMAGES = 20
KNOTS = 7  # of a curve at most
BINS = 10  # of the calibration plot
RESAMPLES = 1000
MOST = 20_000  # verdicts; of more, a random part is used

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
Embed = Callable[[Sequence[Candidate]], Float]  # candidates -> float[n, d]


class TooFew(WinnowError):
    """There are not enough verdicts to learn from; the message says how many are missing."""


@dataclass(frozen=True, eq=False)
class Examples:
    """n candidates: `scores` [n, f] with NaN where a filter has no value, `groups` [n] the image of each (what shares an image
    is never both learned from and judged), `accepted` [n], and `embeddings` [n, d] if there are any."""

    names: tuple[str, ...]
    scores: Float
    groups: Int
    accepted: Bool
    embeddings: Float | None = None

    def __post_init__(self) -> None:
        n, sizes = len(self.groups), (len(self.scores), len(self.accepted))
        if self.scores.ndim != 2 or self.scores.shape[1] != len(self.names) or set(sizes) != {n}:
            raise WinnowError(
                f"Examples: scores of shape {self.scores.shape}, {n} groups and {len(self.accepted)} verdicts; expected "
                f"scores of shape ({n}, {len(self.names)}) and as many verdicts."
            )
        if np.isinf(self.scores).any():
            column = self.names[int(np.flatnonzero(np.isinf(self.scores).any(0))[0])]
            raise WinnowError(f"The score {column!r} is infinite for some candidates; expected a finite number or NaN.")
        if self.embeddings is not None and (len(self.embeddings) != n or not np.isfinite(self.embeddings).all()):
            raise WinnowError(f"Expected {n} rows of finite embeddings, got shape {self.embeddings.shape}.")

    def take(self, rows: NDArray[np.generic]) -> Examples:
        """Those that a mask or positions select."""
        embeddings = None if self.embeddings is None else self.embeddings[rows]
        return Examples(self.names, self.scores[rows], self.groups[rows], self.accepted[rows], embeddings)


class Curve(Record, frozen=True, kw_only=True):
    """What a score adds to the log odds of being accepted, beside the average example: linear between `knots`, constant outside.
    `missing` is what its absence adds, None when it was never absent."""

    score: str
    knots: tuple[float, ...]
    heights: tuple[float, ...]
    missing: float | None = None

    def at(self, values: Float) -> Float:
        """[n] for values [n]; NaN where a value is absent that never was before."""
        gap = math.nan if self.missing is None else self.missing
        return np.where(np.isnan(values), gap, np.interp(values, self.knots, self.heights))


class Model(Record, frozen=True, kw_only=True):
    """A calibrated sum of curves. `direction` turns an embedding into the score `EMBEDDING`, after `offset`."""

    intercept: float
    curves: tuple[Curve, ...]
    direction: tuple[float, ...] = ()
    offset: float = 0.0

    def parts(self, names: Sequence[str], scores: Float, embeddings: Float | None = None) -> Float:
        """[n, curves]: what each curve adds. A score that is not among the names is absent."""
        column = dict(zip(names, scores.T, strict=True))
        if self.direction and embeddings is not None:
            column[EMBEDDING] = embeddings @ np.array(self.direction) + self.offset
        absent = np.full(len(scores), np.nan)
        parts = [curve.at(column.get(curve.score, absent)) for curve in self.curves]
        return np.stack(parts, axis=1) if parts else np.empty((len(scores), 0))


class Bin(Record, frozen=True, kw_only=True):
    """A point of the calibration plot: `n` examples predicted to be accepted at a rate of `predicted`, on average; `observed` is
    the rate at which they were, with its 95 % Wilson interval."""

    n: int
    predicted: float
    observed: float
    low: float
    high: float


class Single(Record, frozen=True, kw_only=True):
    """How well one filter alone puts accepted above rejected ones."""

    filter: str
    auc: float


class Report(Record, frozen=True, kw_only=True):
    """How good the filter is on examples that its model had not seen. `gain` is its AUC minus that of the best single filter, with
    the 95 % interval of a bootstrap over images; `on` says that the interval lies above 0. `base_brier` is the Brier score of
    always predicting the share of accepted ones, `ece` the expected calibration error over `bins`."""

    accepted: int
    rejected: int
    images: int
    auc: float
    singles: tuple[Single, ...]
    gain: float
    gain_low: float
    gain_high: float
    brier: float
    base_brier: float
    ece: float
    bins: tuple[Bin, ...]
    on: bool
    says: str


class Learned(Record, frozen=True, kw_only=True):
    """The filter for one kind of candidate. `models[k]` has seen no verdict on the images of fold k."""

    kind: Kind | None
    seed: int
    models: tuple[Model, ...]
    report: Report

    def predict(self, examples: Examples) -> Float:
        """[n] probability of being accepted; NaN where a score is absent that the model has never seen absent."""
        return expit(_through(self.models, _fold(examples.groups, self.seed), examples))

    def judge(self, examples: Examples) -> list[tuple[float | None, str]]:
        """Value and reason for each, the reason naming the two scores that weigh most."""
        folds = _fold(examples.groups, self.seed)
        judged: list[tuple[float | None, str]] = [(None, "")] * len(folds)
        for fold in np.unique(folds):
            rows = np.flatnonzero(folds == fold)
            for row, one in zip(rows, _judged(self.models[fold], examples.take(rows)), strict=True):
                judged[row] = one
        return judged


def _judged(model: Model, examples: Examples) -> list[tuple[float | None, str]]:
    parts = model.parts(examples.names, examples.scores, examples.embeddings)
    values = expit(model.intercept + parts.sum(1))
    shown = [dict(zip(examples.names, row, strict=True)) for row in examples.scores]
    return [_said(model, scores, part, float(value)) for scores, part, value in zip(shown, parts, values, strict=True)]


def _said(model: Model, scores: Mapping[str, float], parts: Float, value: float) -> tuple[float | None, str]:
    unknown = [curve.score for curve, part in zip(model.curves, parts, strict=True) if math.isnan(part)]
    if unknown:
        return None, f"no value of {', '.join(unknown)}, which every candidate had that it learned from"
    if all(math.isnan(scores.get(curve.score, math.nan)) for curve in model.curves if curve.score != EMBEDDING):
        return None, "none of the scores that it learned from is there"
    heaviest = np.argsort(-np.abs(parts), kind="stable")[:2]
    told = (_weight(model.curves[i].score, scores.get(model.curves[i].score), float(parts[i])) for i in heaviest)
    return value, f"weighs most: {', then '.join(told)}"


def _weight(name: str, value: float | None, part: float) -> str:
    seen = "" if value is None else " absent" if math.isnan(value) else f" {value:.3g}"
    return f"{name}{seen} ({'for' if part > 0 else 'against'} it, {abs(part):.2f})"


def too_few(examples: Examples, seed: int = 0) -> str | None:
    """Why these verdicts are too few, and what to do; None when they suffice.

    The rule: `LEAST` accepted and `LEAST` rejected ones, so that each model learns from about 40 of the rarer sort, and
    `LEAST_IMAGES` images, so that no fold is empty by bad luck. Whether what is learned is any good is not for this rule to
    say, but for the interval of `Report.gain`.
    """
    yes, no = int(examples.accepted.sum()), int((~examples.accepted).sum())
    images = len(np.unique(examples.groups))
    lacks = [f"{LEAST - n} more {sort}" for n, sort in ((yes, "accepted"), (no, "rejected")) if n < LEAST]
    lacks += [f"verdicts on {LEAST_IMAGES - images} more images"] if images < LEAST_IMAGES else []
    if lacks:
        return f"Too few verdicts to learn from: {yes} accepted, {no} rejected, on {images} images. Needed: {', '.join(lacks)}."
    if not _both_everywhere(examples, seed):
        return "Too few verdicts to learn from: those of one sort lie on a few images only. Decide on other images too."
    return None


def _both_everywhere(examples: Examples, seed: int) -> bool:
    """Whether both sorts are left when any one fold is left out, and from the rest one of any further division."""
    divisions = [_fold(examples.groups, seed + i) for i in range(3)]
    left = (
        examples.accepted[(divisions[0] != outer) & (inner != fold)]
        for outer in range(FOLDS)
        for inner in divisions[1:]
        for fold in range(FOLDS)
    )
    return all(0 < part.sum() < len(part) for part in left)


def fit(examples: Examples, *, kind: Kind | None = None, rules: Sequence[Rule] = (), seed: int = 0) -> Learned:
    """The filter learned from decided candidates. `rules` are default rules of filters: one with two bounds says that a score is
    best between them, which its AUC then goes by.

    Raises TooFew, and WinnowError when there is no score that varies.
    """
    lack = too_few(examples, seed)
    if lack:
        raise TooFew(lack)
    if not any(len(_knots(values)) for values in examples.scores.T):
        raise WinnowError("There is nothing to learn from: no filter gives the decided candidates different scores.")
    folds = _fold(examples.groups, seed)
    models = tuple(_model(examples.take(folds != fold), seed + 1) for fold in range(FOLDS))
    predicted = expit(_through(models, folds, examples))
    return Learned(kind=kind, seed=seed, models=models, report=_report(examples, predicted, rules, seed))


def _fold(groups: Int, seed: int) -> Int:
    """int64[n] in 0..FOLDS-1, from the group and the seed alone: it needs not be kept."""
    known, back = np.unique(groups, return_inverse=True)
    digests = [hashlib.blake2b(f"{seed}/{group}".encode(), digest_size=8).digest() for group in known]
    return np.array([int.from_bytes(one) % FOLDS for one in digests], np.int64)[back]


def _through(models: Sequence[Model], folds: Int, examples: Examples) -> Float:
    """[n] log odds, each by the model of its fold; NaN where that model cannot tell."""
    found = np.full(len(folds), np.nan)
    for fold in np.unique(folds):
        rows, model = np.flatnonzero(folds == fold), models[fold]
        some = examples.take(rows)
        found[rows] = model.intercept + model.parts(some.names, some.scores, some.embeddings).sum(1)
    return found


# One model


def _model(examples: Examples, seed: int) -> Model:
    """A model of all these examples, calibrated on predictions of others that each saw only a part of them."""
    direction, offset, column = _embedded(examples, seed)
    if column is not None:
        names, scores = (*examples.names, EMBEDDING), np.column_stack([examples.scores, column])
        examples = Examples(names, scores, examples.groups, examples.accepted)
    slope, shift = _platt(_unseen(examples, seed), examples.accepted)
    plain = _additive(examples)
    curves = tuple(_scaled(curve, slope) for curve in plain.curves)
    return Model(intercept=slope * plain.intercept + shift, curves=curves, direction=direction, offset=offset)


def _scaled(curve: Curve, slope: float) -> Curve:
    missing = None if curve.missing is None else slope * curve.missing
    return msgspec.structs.replace(curve, heights=tuple(slope * h for h in curve.heights), missing=missing)


def _unseen(examples: Examples, seed: int) -> Float:
    """[n] log odds of each example by a model of the other folds."""
    folds = _fold(examples.groups, seed)
    models = [_additive(examples.take(folds != fold)) for fold in range(FOLDS)]
    return _through(models, folds, examples)


def _additive(examples: Examples) -> Model:
    """The sum of curves, not calibrated. Each column of the design is the share that a value has in a knot, and the ridge
    keeps heights small that little speaks for. Scores that do not vary get no curve."""
    knots = {name: _knots(values) for name, values in zip(examples.names, examples.scores.T, strict=True)}
    used = [name for name in examples.names if len(knots[name])]
    if not used:
        return Model(intercept=float(logit(examples.accepted.mean())), curves=())
    columns = [examples.scores[:, examples.names.index(name)] for name in used]
    designs = [_design(values, knots[name]) for name, values in zip(used, columns, strict=True)]
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(np.hstack(designs), examples.accepted)
    pieces = np.split(fitted.coef_[0], np.cumsum([design.shape[1] for design in designs])[:-1])
    means = [float((design @ piece).mean()) for design, piece in zip(designs, pieces, strict=True)]
    curves = (_curve(name, knots[name], piece - mean) for name, piece, mean in zip(used, pieces, means, strict=True))
    return Model(intercept=float(fitted.intercept_[0]) + sum(means), curves=tuple(curves))


def _knots(values: Float) -> Float:
    """All values where they are few, else quantiles of them; none where the score says nothing."""
    present = values[~np.isnan(values)]
    different = np.unique(present)
    if len(different) < 2 and len(present) in (0, len(values)):
        return np.empty(0)
    return different if len(different) <= KNOTS else np.unique(np.quantile(present, np.linspace(0, 1, KNOTS)))


def _design(values: Float, knots: Float) -> Float:
    """[n, knots], and one column more when values are absent."""
    absent = np.isnan(values)
    hats = np.column_stack([np.interp(np.where(absent, knots[0], values), knots, row) for row in np.eye(len(knots))])
    hats[absent] = 0
    return np.column_stack([hats, absent]) if absent.any() else hats


def _curve(score: str, knots: Float, heights: Float) -> Curve:
    missing = float(heights[-1]) if len(heights) > len(knots) else None
    return Curve(
        score=score, knots=tuple(knots.tolist()), heights=tuple(heights[: len(knots)].tolist()), missing=missing
    )


def _platt(log_odds: Float, accepted: Bool) -> tuple[float, float]:
    """Slope and shift that calibrate log odds, by Platt's regularised targets (1999, "Probabilistic Outputs for Support Vector
    Machines"), so that perfect separation gives no infinite slope."""
    known = ~np.isnan(log_odds)
    odds, truth = log_odds[known], accepted[known]
    yes, no = truth.sum(), (~truth).sum()
    target = np.where(truth, (yes + 1) / (yes + 2), 1 / (no + 2))
    weights, both = np.concatenate([target, 1 - target]), np.repeat([True, False], len(odds))
    fitted = LogisticRegression(C=np.inf, max_iter=1000).fit(np.tile(odds, 2)[:, None], both, sample_weight=weights)
    slope, shift = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return (slope, shift) if slope > 0 else (0.0, float(logit(target.mean())))  # worse than chance: it knows nothing


def _embedded(examples: Examples, seed: int) -> tuple[tuple[float, ...], float, Float | None]:
    """A direction and an offset that make a score of an embedding, and that score of each example by a direction fitted without
    it; nothing when there are no embeddings."""
    if examples.embeddings is None:
        return (), 0.0, None
    folds, column = _fold(examples.groups, seed + 1), np.empty(len(examples.groups))
    for fold in range(FOLDS):
        own = folds == fold
        direction, offset = _linear(examples.embeddings[~own], examples.accepted[~own])
        column[own] = examples.embeddings[own] @ direction + offset
    direction, offset = _linear(examples.embeddings, examples.accepted)
    return tuple(direction.tolist()), offset, column


def _linear(embeddings: Float, accepted: Bool) -> tuple[Float, float]:
    middle = embeddings.mean(0)
    scale = float(np.sqrt(((embeddings - middle) ** 2).sum(1).mean())) or 1.0
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit((embeddings - middle) / scale, accepted)
    direction = fitted.coef_[0] / scale
    return direction, float(fitted.intercept_[0] - direction @ middle)


# How good it is


def _report(examples: Examples, predicted: Float, rules: Sequence[Rule], seed: int) -> Report:
    accepted = examples.accepted
    best, singles = _singles(examples, rules)
    auc = float(auc_of(_ranked(predicted), accepted)[0])
    gain = auc - singles[0].auc
    low, high = _gain(_ranked(predicted), best, examples, seed)
    known = ~np.isnan(predicted)
    chance, truth = predicted[known], accepted[known]
    bins = calibration(chance, truth)
    return Report(
        accepted=int(accepted.sum()),
        rejected=int((~accepted).sum()),
        images=len(np.unique(examples.groups)),
        auc=auc,
        singles=singles,
        gain=gain,
        gain_low=low,
        gain_high=high,
        brier=float(((chance - truth) ** 2).mean()),
        base_brier=float(truth.mean() * (1 - truth.mean())),
        ece=sum(one.n * abs(one.observed - one.predicted) for one in bins) / len(chance),
        bins=bins,
        on=low > 0,
        says=_verdict(auc, singles[0], gain, low, high),
    )


def _verdict(auc: float, best: Single, gain: float, low: float, high: float) -> str:
    judged = "better than" if low > 0 else "not shown to be better than"
    then = "It may be used in a policy." if low > 0 else "It stays off; more verdicts may change that."
    return (
        f"AUC {auc:.3f} on images it had not seen, {judged} {best.filter} alone ({best.auc:.3f}): difference {gain:+.3f}, "
        f"95 % interval {low:+.3f} to {high:+.3f}. {then}"
    )


def calibration(predicted: Float, accepted: Bool, bins: int = BINS) -> tuple[Bin, ...]:
    """The calibration plot of probabilities [n] against what became of them: up to `bins` bins of about equally many."""
    parts = np.array_split(np.argsort(predicted, kind="stable"), bins)
    return tuple(_bin(predicted[rows], accepted[rows]) for rows in parts if len(rows))


def _bin(predicted: Float, accepted: Bool) -> Bin:
    n, hits = len(accepted), int(accepted.sum())
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return Bin(
        n=n, predicted=float(predicted.mean()), observed=hits / n, low=float(interval.low), high=float(interval.high)
    )


def _singles(examples: Examples, rules: Sequence[Rule]) -> tuple[Float, tuple[Single, ...]]:
    """The values by which the best single filter ranks, and the AUC of every filter, the best first. Each filter is read in the way
    that suits it best on these very verdicts, which favours it over the learned one."""
    between = {r.filter: (r.at_least, r.at_most) for r in rules if r.at_least is not None and r.at_most is not None}
    found: list[tuple[float, str, Float]] = []
    for name, values in zip(examples.names, examples.scores.T, strict=True):
        readings = [values, -values]
        if name in between:
            least, most = between[name]
            readings.append(np.minimum(values - least, most - values))
        ranked = [_ranked(reading) for reading in readings]
        found += [(float(auc_of(one, examples.accepted)[0]), name, one) for one in ranked]
    found.sort(key=lambda one: (-one[0], one[1]))
    aucs: dict[str, float] = {}
    for auc, name, _ in found:
        aucs.setdefault(name, auc)
    return found[0][2], tuple(Single(filter=name, auc=auc) for name, auc in aucs.items())


def _ranked(values: Float) -> Float:
    """Unknown values last: they never pass."""
    return np.where(np.isnan(values), -np.inf, values)


def _gain(learned: Float, best: Float, examples: Examples, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of the difference in AUC, both computed on the same resampled images."""
    _, image = np.unique(examples.groups, return_inverse=True)
    images, rng = int(image.max()) + 1, np.random.default_rng(seed)
    gains: list[Float] = []
    for _ in range(0, RESAMPLES, 50):
        weights = rng.multinomial(images, np.full(images, 1 / images), size=50)[:, image].astype(float)
        gains.append(auc_of(learned, examples.accepted, weights) - auc_of(best, examples.accepted, weights))
    low, high = np.nanquantile(np.concatenate(gains), [0.025, 0.975])
    return float(low), float(high)


def auc_of(values: Float, accepted: Bool, weights: Float | None = None) -> Float:
    """[m] the probability that an accepted example lies above a rejected one, ties counting half, for m weightings [m, n] of the
    examples; NaN where only one sort has weight."""
    weights = np.ones((1, len(values))) if weights is None else weights
    order = np.argsort(values, kind="stable")
    ordered, truth, weights = values[order], accepted[order], weights[:, order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    yes = np.add.reduceat(weights * truth, starts, axis=1)
    no = np.add.reduceat(weights * ~truth, starts, axis=1)
    won = (yes * (np.cumsum(no, axis=1) - no / 2)).sum(1)
    pairs = yes.sum(1) * no.sum(1)
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1), np.nan)


# In the store

_BATCH = 500  # candidates read at a time


def learn(
    store: Store, dataset_id: int, kind: Kind, *, rules: Sequence[Rule] = (), embed: Embed | None = None, seed: int = 0
) -> Learned:
    """Learn from the standing verdicts on candidates of a kind and keep the result, in place of an earlier one.

    Raises NotFound for an unknown data set, and TooFew, after which an earlier result still stands.
    """
    learned = fit(decided(store, dataset_id, kind, embed), kind=kind, rules=rules, seed=seed)
    path = _path(store, dataset_id, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(learned))
    fresh.replace(path)
    return learned


def decided(store: Store, dataset_id: int, kind: Kind, embed: Embed | None = None) -> Examples:
    """The candidates of a kind that people accepted or rejected, `MOST` at most (a random part of more)."""
    table = store.review.columns(dataset_id).where(kind=kind)
    rows = np.flatnonzero(np.isin(table.human, (ACCEPTED, REJECTED)))
    if len(rows) > MOST:
        rows = np.sort(rows[np.argsort(table.shuffle[rows], kind="stable")[:MOST]])
    return _examples(store, table.take(rows), embed)


def _examples(store: Store, table: Table, embed: Embed | None) -> Examples:
    names = tuple(sorted(set(table.scores) - {NAME}))
    scores: Float = np.array([table.scores[name] for name in names]).reshape(len(names), len(table)).T
    batches = (table.ids[at : at + _BATCH].tolist() for at in range(0, len(table), _BATCH))
    candidates = [one for batch in batches for one in store.review.candidates(batch)]
    groups = np.array([one.image_id for one in candidates], np.int64)
    return Examples(names, scores, groups, table.human == ACCEPTED, embed(candidates) if embed else None)


def learned_of(store: Store, dataset_id: int, kind: Kind) -> Learned | None:
    """What was learned last; None when nothing was. Raises WinnowError for a file that cannot be read."""
    path = _path(store, dataset_id, kind)
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Learned)
    except msgspec.DecodeError as error:
        raise WinnowError(f"{path} holds no learned filter ({error}); learn again to replace it.") from error


def judge(
    store: Store, dataset_id: int, candidates: Sequence[Candidate], embed: Embed | None = None
) -> list[tuple[float | None, str]]:
    """Value and reason for each stored candidate, from the scores it has now."""
    judged: dict[int, tuple[float | None, str]] = {}
    for kind in {one.kind for one in candidates}:
        those = [one for one in candidates if one.kind is kind]
        learned = learned_of(store, dataset_id, kind)
        unknown = (None, f"nothing was learned yet about candidates of kind {kind}")
        said = learned.judge(_scored(store, those, embed)) if learned else [unknown for _ in those]
        judged |= {one.id: each for one, each in zip(those, said, strict=True)}
    return [judged[one.id] for one in candidates]


def _scored(store: Store, candidates: Sequence[Candidate], embed: Embed | None) -> Examples:
    found = store.review.scores_of([one.id for one in candidates])
    values = [{score.filter: score.value for score in found[one.id]} for one in candidates]
    names = tuple(sorted({name for each in values for name in each} - {NAME}))
    scores = np.array([[each.get(name) for name in names] for each in values], float).reshape(len(values), len(names))
    groups = np.array([one.image_id for one in candidates], np.int64)
    return Examples(names, scores, groups, np.zeros(len(values), bool), embed(candidates) if embed else None)


def suggested(learned: Learned) -> Rule | None:
    """The rule to offer for a policy; None while the filter is not shown to beat the best single one."""
    kinds = (learned.kind,) if learned.kind else ()
    return Rule(filter=NAME, at_least=0.5, kinds=kinds) if learned.report.on else None


def _path(store: Store, dataset_id: int, kind: Kind) -> Path:
    return store.home / "models" / "learned" / f"{dataset_id}-{kind}.json"

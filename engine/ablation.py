"""Paired ablations: the same training with and without a slice of the data, over the same seeds, and what that was worth.

An ablation has no row of its own: its trainings name it in their options (`ablation`), and each is followed by its
evaluation. It is known by a key that is made of all that must be equal between its trainings, so that starting it again,
or with more seeds, adds what is missing and tries again what failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from db.errors import NotFound, WinnowError
from db.records import Run, RunKind, Snapshot, State
from db.store import Store
from engine import runs
from engine.evaluation.suite import numbers
from engine.labs.paired import Estimate, estimate

WITHOUT, WITH = "without", "with"
ARMS = (WITHOUT, WITH)
MOST_SEEDS = 50
ALL = 100_000  # trainings


class Leg(msgspec.Struct, frozen=True):
    """One arm with one seed: its training and its evaluation."""

    training: Run
    evaluation: Run | None

    @property
    def runs(self) -> tuple[Run, ...]:
        return (self.training, self.evaluation) if self.evaluation else (self.training,)

    @property
    def result(self) -> dict[str, Any] | None:
        """What came out, once it is there."""
        return self.evaluation.result if self.evaluation and self.evaluation.state is State.DONE else None


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """A number without and with the slice, each the mean over the seeds that have both, and their paired difference: its
    mean and the 95 % interval by Student's t (none for a single seed). `better` counts the seeds where it rose."""

    without: float
    with_: float = msgspec.field(name="with")
    difference: Estimate
    better: int


class Ablation(msgspec.Struct, frozen=True, kw_only=True):
    """An ablation as far as it is. `legs` are by seed and arm; `metrics` and `per_class` are over the seeds of which both
    evaluations are done."""

    key: str
    without: Snapshot
    with_: Snapshot = msgspec.field(name="with")
    preset: str
    split: str
    options: dict[str, Any]
    legs: dict[int, dict[str, Leg]]
    metrics: dict[str, Effect]
    per_class: dict[str, Effect]

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order in which they are done."""
        return [run for legs in self.legs.values() for leg in legs.values() for run in leg.runs]

    @property
    def pairs(self) -> int:
        """Seeds of which both evaluations are done."""
        return sum(all(arm in legs and legs[arm].result is not None for arm in ARMS) for legs in self.legs.values())

    @property
    def ended(self) -> bool:
        return all(run.state.ended for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON; of the runs only ids and states."""
        return {
            "key": self.key,
            "without": self.without.name,
            "with": self.with_.name,
            "preset": self.preset,
            "split": self.split,
            "options": self.options,
            "pairs": self.pairs,
            "ended": self.ended,
            "runs": [_brief(seed, arm, leg) for seed, legs in self.legs.items() for arm, leg in legs.items()],
            "metrics": msgspec.to_builtins(self.metrics),
            "per_class": msgspec.to_builtins(self.per_class),
        }


def _brief(seed: int, arm: str, leg: Leg) -> dict[str, Any]:
    told: dict[str, Any] = {"seed": seed, "arm": arm}
    for name, run in (("training", leg.training), ("evaluation", leg.evaluation)):
        told[name] = None if run is None else {"run": run.id, "state": str(run.state), "error": run.error}
    return told


# Starting


def start(
    store: Store,
    *,
    without: str | int,
    with_: str | int,
    seeds: int = 5,
    preset: str = "tiny_atss",
    options: dict[str, Any] | None = None,
    split: str | None = None,
) -> Ablation:
    """Queue what is missing of an ablation: for each of the seeds 0 to `seeds` - 1 a training on each of the two snapshots
    and its evaluation on the real images of `split` (default: `test`, else `val`). What failed or was cancelled is tried
    again. Seed by seed, so that there is soon something to see.

    Raises WinnowError for snapshots that cannot be compared, and for options that make no sense, before anything is queued.
    """
    base, more = store.snapshots.get(without), store.snapshots.get(with_)
    chosen = _checked_split(store, base, more, split)
    if not 1 <= seeds <= MOST_SEEDS:
        raise WinnowError(f"An ablation needs 1 to {MOST_SEEDS} seeds, not {seeds}; an interval needs at least 2.")
    given = dict(sorted((options or {}).items()))
    key = _key(base, more, preset, given, chosen)
    there = find(store, key).legs if _trainings(store, key) else {}
    about = {"key": key, WITHOUT: base.id, WITH: more.id, "split": chosen, "options": given}
    for seed in range(seeds):
        for arm, snapshot in ((WITHOUT, base), (WITH, more)):
            leg = there.get(seed, {}).get(arm)
            if leg is not None:
                _again(store, leg, base, chosen)
                continue
            training = runs.start_train(
                store,
                snapshot_id=snapshot.id,
                preset=preset,
                options=given,
                seed=seed,
                ablation={**about, "arm": arm},
            )
            _judge(store, training, base, chosen)
    return find(store, key)


def _checked_split(store: Store, base: Snapshot, more: Snapshot, split: str | None) -> str:
    if base.digest == more.digest:
        raise WinnowError(f"The snapshots {base.name!r} and {more.name!r} hold the same: there is nothing to compare.")
    if base.dataset_id != more.dataset_id:
        raise WinnowError(f"The snapshots {base.name!r} and {more.name!r} are of different data sets.")
    known = store.datasets.splits(base.dataset_id)
    chosen = split or next((name for name in ("test", "val") if name in known), None)
    if chosen is None or chosen not in known or chosen == "train":
        seen = ", ".join(repr(name) for name in known)
        raise WinnowError(
            f"An ablation needs a split that nothing is trained on, such as test; this data set has {seen}."
        )
    return chosen


def _key(base: Snapshot, more: Snapshot, preset: str, options: Mapping[str, Any], split: str) -> str:
    same = msgspec.json.encode([base.digest, more.digest, preset, options, split])
    return hashlib.sha256(same).hexdigest()[:12]


def _judge(store: Store, training: Run, base: Snapshot, split: str) -> None:
    """Both arms are judged on the same images: those of the snapshot without the slice."""
    runs.start_evaluate(store, train_run_id=training.id, snapshot_id=base.id, split=split, wait=True)


def _again(store: Store, leg: Leg, base: Snapshot, split: str) -> None:
    """Try again what did not work out. A training takes the evaluation that waited for it along."""
    stuck = (State.FAILED, State.CANCELLED)
    if leg.training.state in stuck:
        store.ledger.request_retry(leg.training.id)
    training = store.ledger.run(leg.training.id)
    if leg.evaluation is None:
        _judge(store, training, base, split)
    elif store.ledger.run(leg.evaluation.id).state in stuck:
        store.ledger.request_retry(leg.evaluation.id)


def cancel(store: Store, key: str) -> int:
    """Cancel all that has not ended. Returns how many runs; what is done stays, and `start` goes on from it."""
    going = [run.id for run in find(store, key).runs if not run.state.ended]
    for run_id in going:
        if not store.ledger.run(run_id).state.ended:  # an evaluation ends together with its training
            store.ledger.request_cancel(run_id)
    return len(going)


# Looking


def find(store: Store, key: str) -> Ablation:
    """An ablation as far as it is. Raises NotFound."""
    found = _trainings(store, key)
    if not found:
        raise NotFound("ablation", key, list(_by_key(store)))
    return _ablation(store, key, found)


def ablations(store: Store) -> list[Ablation]:
    """All ablations, the one that was started last first."""
    return [_ablation(store, key, found) for key, found in _by_key(store).items()]


def ablation_of(run: Run) -> str | None:
    """The key of the ablation that a training is a part of."""
    told = run.options.get("ablation")
    return told["key"] if told else None


def _by_key(store: Store) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in store.ledger.runs(kind=RunKind.TRAIN, limit=ALL):
        if key := ablation_of(run):
            found.setdefault(key, []).append(run)
    return found


def _trainings(store: Store, key: str) -> list[Run]:
    return _by_key(store).get(key, [])


def _ablation(store: Store, key: str, trainings: list[Run]) -> Ablation:
    about = trainings[0].options["ablation"]
    legs: dict[int, dict[str, Leg]] = {}
    for run in sorted(trainings, key=lambda one: one.id):
        legs.setdefault(run.seed, {})[run.options["ablation"]["arm"]] = Leg(run, _evaluation(store, run))
    return Ablation(
        key=key,
        without=store.snapshots.get(about[WITHOUT]),
        with_=store.snapshots.get(about[WITH]),
        preset=trainings[0].options["preset"],
        split=about["split"],
        options=about["options"],
        legs=dict(sorted(legs.items())),
        metrics=_effects(_results(legs, numbers)),
        per_class=_effects(_results(legs, lambda result: result.get("per_class", {}))),
    )


def _evaluation(store: Store, training: Run) -> Run | None:
    return next((run for run in store.ledger.followers(training.id) if run.kind is RunKind.EVALUATE), None)


Values = Mapping[str, float]


def _results(legs: Mapping[int, Mapping[str, Leg]], values: Any) -> list[tuple[Values, Values]]:
    """The values without and with the slice, of each seed that has both."""
    both = ((by_arm.get(WITHOUT), by_arm.get(WITH)) for by_arm in legs.values())
    return [(values(a.result), values(b.result)) for a, b in both if a and b and a.result and b.result]


def _effects(pairs: list[tuple[Values, Values]]) -> dict[str, Effect]:
    names = dict.fromkeys(name for pair in pairs for values in pair for name in values)
    return {name: effect for name in names if (effect := _effect(_known(name, pairs)))}


def _known(name: str, pairs: Iterable[tuple[Values, Values]]) -> Iterator[tuple[float, float]]:
    """Both values of each seed; -1 says that there was nothing to find."""
    for without, with_ in pairs:
        if without.get(name, -1.0) >= 0 and with_.get(name, -1.0) >= 0:
            yield without[name], with_[name]


def _effect(values: Iterator[tuple[float, float]]) -> Effect | None:
    known = list(values)
    if not known:
        return None
    gaps = [b - a for a, b in known]
    without, with_ = (sum(side) / len(known) for side in zip(*known, strict=True))
    return Effect(without=without, with_=with_, difference=estimate(gaps), better=sum(gap > 0 for gap in gaps))

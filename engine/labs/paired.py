"""Arms of an experiment, measured over the same seeds and compared seed by seed.

A difference between two arms is taken within each seed, so that what a seed decides for both (the data, their order, the
first weights) does not blur it. Every finished measurement is kept at once: an interrupted study goes on where it was.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy.stats import t as student

from db.errors import WinnowError
from engine.provenance import versions

MEASUREMENTS = "measurements.jsonl"
CONFIDENCE = 0.95

Measure = Callable[[str, int], Mapping[str, float]]
Say = Callable[[str], None]


class Arm(msgspec.Struct, frozen=True):
    """One way to do it: a short name, what it does in a sentence, and the arms it is compared with."""

    name: str
    says: str
    against: tuple[str, ...] = ()


class Study(msgspec.Struct, frozen=True):
    """What is measured and on what.

    `measure(arm, seed)` gives the `metrics` (name -> what it is), each in 0..1, more is better. `settings` is everything that changes a measurement,
    as plain JSON values: measurements made under other settings are never mixed in. `notes` are what a reader of the
    result must know.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    metrics: dict[str, str]
    settings: dict[str, Any]
    measure: Measure
    notes: tuple[str, ...] = ()


class Measurement(msgspec.Struct, frozen=True):
    """What one arm gave with one seed, in how many seconds, and the revision of the code that measured it."""

    arm: str
    seed: int
    values: dict[str, float]
    seconds: float
    revision: str


class Estimate(msgspec.Struct, frozen=True):
    """The mean of n numbers and its 95 % interval by Student's t; None for the interval of a single number."""

    n: int
    mean: float
    low: float | None
    high: float | None


class Difference(msgspec.Struct, frozen=True):
    """`arm` minus `against` in one metric, over the seeds that both have; `better` counts those above 0."""

    arm: str
    against: str
    metric: str
    estimate: Estimate
    better: int

    @property
    def shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        low, high = self.estimate.low, self.estimate.high
        return low is not None and high is not None and (low > 0 or high < 0)


class Result(msgspec.Struct, frozen=True):
    """All there is to know of a study. `means` are by arm and metric; `command` repeats it."""

    lab: str
    title: str
    command: str
    arms: tuple[Arm, ...]
    metrics: dict[str, str]
    settings: dict[str, Any]
    notes: tuple[str, ...]
    versions: dict[str, str]
    seconds: float
    seeds: tuple[int, ...]
    means: dict[str, dict[str, Estimate]]
    differences: tuple[Difference, ...]
    measurements: tuple[Measurement, ...]


def run(study: Study, seeds: int, folder: Path, say: Say, command: str = "") -> Result:
    """Measure every arm with the seeds 0 to `seeds` - 1, those that `folder` has already excepted.

    All arms of a seed are measured before the next seed. Raises WinnowError for a study that makes no sense, and for a
    folder that holds measurements of another one.
    """
    _check(study, seeds)
    kept = Kept(folder, study)
    wanted = [(arm.name, seed) for seed in range(seeds) for arm in study.arms]
    missing = [one for one in wanted if one not in kept.measurements]
    if len(missing) < len(wanted):
        say(f"{len(wanted) - len(missing)} of {len(wanted)} measurements are there already")
    for place, (arm, seed) in enumerate(missing, 1):
        measured = _measured(study, arm, seed)
        kept.add(measured)
        left = _seconds_left(missing[place:], kept.measurements.values())
        say(f"{_line(study, measured)}; {_duration(left)} left" if place < len(missing) else _line(study, measured))
    return summarize(study, [kept.measurements[one] for one in wanted], command)


def summarize(study: Study, measurements: Sequence[Measurement], command: str = "") -> Result:
    """Means and paired differences of what was measured."""
    table = {(one.arm, one.seed): one.values for one in measurements}
    pairs = [(arm.name, other) for arm in study.arms for other in arm.against]
    return Result(
        lab=study.name,
        title=study.title,
        command=command,
        arms=study.arms,
        metrics=study.metrics,
        settings=study.settings,
        notes=study.notes,
        versions=versions(),
        seconds=sum(one.seconds for one in measurements),
        seeds=tuple(sorted({one.seed for one in measurements})),
        means={arm.name: _means(study, [m for m in measurements if m.arm == arm.name]) for arm in study.arms},
        differences=tuple(_difference(table, *pair, metric) for metric in study.metrics for pair in pairs),
        measurements=tuple(measurements),
    )


def estimate(numbers: Sequence[float]) -> Estimate:
    """Mean and 95 % interval, taking the numbers for a sample of a normal distribution."""
    n, mean = len(numbers), float(np.mean(numbers))
    if n < 2:
        return Estimate(n, mean, None, None)
    half = float(student.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(numbers, ddof=1) / math.sqrt(n))
    return Estimate(n, mean, mean - half, mean + half)


def _means(study: Study, measurements: Sequence[Measurement]) -> dict[str, Estimate]:
    return {metric: estimate([one.values[metric] for one in measurements]) for metric in study.metrics}


def _difference(table: Mapping[tuple[str, int], dict[str, float]], arm: str, against: str, metric: str) -> Difference:
    seeds = sorted(seed for name, seed in table if name == arm and (against, seed) in table)
    gaps = [table[arm, seed][metric] - table[against, seed][metric] for seed in seeds]
    return Difference(arm, against, metric, estimate(gaps), sum(gap > 0 for gap in gaps))


def _check(study: Study, seeds: int) -> None:
    names = [arm.name for arm in study.arms]
    unknown = {other for arm in study.arms for other in arm.against} - set(names)
    if seeds < 1 or len(set(names)) < len(names) or unknown:
        raise WinnowError(
            f"The lab {study.name!r} cannot run with {seeds} seeds and the arms {names}: there should be at least one seed, "
            f"every arm once, and each compared with another of them (unknown: {sorted(unknown)})."
        )


def _measured(study: Study, arm: str, seed: int) -> Measurement:
    revision = versions().get("git", "")
    begun = time.monotonic()
    values = {name: float(value) for name, value in study.measure(arm, seed).items()}
    odd = [name for name in study.metrics if not math.isfinite(values.get(name, math.nan))]
    if odd:
        raise WinnowError(f"The arm {arm!r} with seed {seed} gave no number for {', '.join(odd)}; seen: {values}.")
    return Measurement(arm, seed, values, time.monotonic() - begun, revision)


class Kept:
    """The measurements in a folder: a file of JSON lines, the first of which names the study that they belong to."""

    def __init__(self, folder: Path, study: Study) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / MEASUREMENTS
        self._head = msgspec.json.encode(_head(study), order="sorted")
        self.measurements = {(one.arm, one.seed): one for one in self._read()}

    def add(self, measurement: Measurement) -> None:
        """Keep it, on disk before this returns. The file is replaced in one step, so that there is always a whole one."""
        self.measurements[measurement.arm, measurement.seed] = measurement
        lines = [self._head, *map(msgspec.json.encode, self.measurements.values())]
        unfinished = self._path.with_name(f".{self._path.name}.part")
        with unfinished.open("wb") as file:
            file.write(b"\n".join(lines) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self._path)

    def _read(self) -> Iterable[Measurement]:
        if not self._path.is_file():
            return []
        head, *lines = self._path.read_bytes().splitlines()
        if head != self._head:
            raise WinnowError(
                f"{self._path} holds measurements of another study or of other settings: {_differing(head, self._head)}. "
                "Choose another folder, or remove that file."
            )
        try:
            return [msgspec.json.decode(line, type=Measurement) for line in lines]
        except msgspec.DecodeError as error:
            raise WinnowError(f"{self._path} is damaged: {error}. Restore it, or remove it to begin again.") from error


def _head(study: Study) -> dict[str, Any]:
    return {"lab": study.name, "metrics": list(study.metrics), "settings": study.settings}


def _differing(there: bytes, wanted: bytes) -> str:
    """Which settings are not the same, for people."""
    try:
        old = msgspec.json.decode(there, type=dict[str, Any])
    except msgspec.DecodeError:
        return "its first line is not one of this program"
    new = msgspec.json.decode(wanted)
    old, new = ({**part.pop("settings", {}), **part} for part in (old, new))
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return "; ".join(f"{name} is {old.get(name)!r}, not {new.get(name)!r}" for name in names)


# For people


def _line(study: Study, measured: Measurement) -> str:
    first = list(study.metrics)[:4]
    shown = ", ".join(f"{name} {measured.values[name]:.4f}" for name in first)
    return f"seed {measured.seed}, {measured.arm}: {shown} in {_duration(measured.seconds)}"


def _seconds_left(missing: Sequence[tuple[str, int]], measured: Iterable[Measurement]) -> float:
    """By the mean of each arm, or of all for an arm that was not measured yet."""
    known = list(measured)
    overall = float(np.mean([one.seconds for one in known]))
    of_arm = {name: [one.seconds for one in known if one.arm == name] for name, _ in missing}
    return sum(float(np.mean(of_arm[name])) if of_arm[name] else overall for name, _ in missing)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

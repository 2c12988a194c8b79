"""Class quotas: a run goes on, target by target, until enough candidates of each class are accepted or the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from db.errors import NotFound, WinnowError
from db.records import Candidate, Policy, Run, Score
from db.store import Store

ROUNDS = 50  # how often the same target is tried with other variants


class Quota(BaseModel):
    """How many accepted candidates each class should get, and what may be spent on it. Without `classes`, those of
    frequency "r" count as wanted where the data set says which are rare, else all."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    accepted: int = Field(ge=1, le=100_000, description="accepted candidates wanted of each class")
    classes: tuple[str, ...] = ()
    candidates: int | None = Field(None, ge=1, description="at most so many candidates in all")
    minutes: float | None = Field(None, gt=0, description="at most so long, counted from the start of the run")
    cost: float | None = Field(None, gt=0, description="at most so much money, by the prices of the endpoint")

    @model_validator(mode="after")
    def _bounded(self) -> Quota:
        if self.candidates is None and self.minutes is None and self.cost is None:
            raise ValueError("a quota needs a budget: candidates, minutes or cost")
        return self


def quota_of(values: Mapping[str, object]) -> Quota:
    """A quota from what was typed. Raises WinnowError that names each fault."""
    try:
        return Quota.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'quota'}: {e['msg']}" for e in error.errors())
        raise WinnowError(f"Quota: {faults}") from error


class ClassTally(BaseModel):
    """What a class has cost so far."""

    wanted: int
    accepted: int = 0
    attempts: int = 0

    @property
    def missing(self) -> int:
        return max(self.wanted - self.accepted, 0)


class Tally:
    """Counts what is accepted while a run goes on. A candidate counts as accepted by a person's verdict if there is one,
    else by the policy of the run."""

    def __init__(
        self, quota: Quota, classes: Sequence[str], policy: Policy, names: Mapping[int, str] | None = None
    ) -> None:
        """`names` maps category ids to names: a candidate may be of another class than the one it was made for."""
        self.quota, self._policy, self._names = quota, policy, names or {}
        self.classes = {name: ClassTally(wanted=quota.accepted) for name in classes}
        self.cost = 0.0

    def add(self, name: str, candidate: Candidate, scores: Sequence[Score]) -> None:
        """Count a candidate that was made for the class `name`."""
        mine = self.classes[name]
        mine.attempts += 1
        own = self._names.get(candidate.category_id or 0, name)
        automatic = self._policy.decide(candidate.kind, {score.filter: score.value for score in scores}, own)
        decided = candidate.human if candidate.human in ("accept", "edit", "reject") else None
        mine.accepted += decided != "reject" if decided else automatic is True

    def stopped_by(self, run: Run) -> str | None:
        """Why the run should end now, None when it should go on."""
        quota, made = self.quota, sum(each.attempts for each in self.classes.values())
        if not any(each.missing for each in self.classes.values()):
            return "every class has what was wanted"
        if quota.candidates is not None and made >= quota.candidates:
            return f"the budget of {quota.candidates} candidates is spent"
        if quota.cost is not None and self.cost >= quota.cost:
            return f"the budget of {quota.cost:g} is spent"
        if quota.minutes is not None and run.started_at and time.time() - run.started_at >= 60 * quota.minutes:
            return f"the budget of {quota.minutes:g} minutes is spent"
        return None


def wanted_classes(store: Store, dataset_id: int, quota: Quota) -> dict[int, str]:
    """Category id -> name of the classes that a quota speaks of. Raises NotFound for a name the data set lacks."""
    categories = store.datasets.categories(dataset_id)
    names = {category.name: category.id for category in categories}
    for name in quota.classes:
        if name not in names:
            raise NotFound("class", name, list(names))
    rare = [category for category in categories if category.frequency == "r"]
    chosen = [c for c in categories if c.name in quota.classes] if quota.classes else (rare or categories)
    return {category.id: category.name for category in chosen}


def attempts(
    targets: Mapping[str, Sequence[str]], tally: Tally, chunk: int
) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """(round, [(class, target), ...]) of the next attempts: the classes that lack something in turn, each target once a
    round, no class beyond what it still lacks. Ends when nothing is missing, nothing is left, or all rounds are over."""
    for number in count():
        if number == ROUNDS:
            return
        queues = {name: list(reversed(keys)) for name, keys in targets.items()}
        while some := _next(queues, tally, chunk):
            yield number, some
        if not any(each.missing for each in tally.classes.values()) or not any(targets.values()):
            return


def _next(queues: dict[str, list[str]], tally: Tally, chunk: int) -> list[tuple[str, str]]:
    """Up to `chunk` targets, classes in turn; as many of a class at most as it lacks."""
    some: list[tuple[str, str]] = []
    lacks = {name: each.missing for name, each in tally.classes.items()}
    while len(some) < chunk:
        before = len(some)
        for name, queue in queues.items():
            if lacks[name] and queue and len(some) < chunk:
                some.append((name, queue.pop()))
                lacks[name] -= 1
        if len(some) == before:
            break
    return some

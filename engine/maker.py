"""What every maker of candidates has: a run's context, recipe and pack, and the backends it has loaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from db.records import Candidate, Category, NewCandidate
from engine.chat import Usage
from engine.packs import Pack
from engine.recipe import Recipe
from engine.roles import Context, kept


@dataclass
class Made:
    """The candidates of one target, and a sentence for each that could not be made."""

    target: str
    candidates: list[NewCandidate] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Maker:
    """Makes the candidates of one run, many targets at a time. Backends are loaded on first use and kept; `loading` is
    how many seconds that took. What is made is a function of (run seed, target, variant)."""

    def __init__(self, context: Context, recipe: Recipe, pack: Pack, *, seed: int) -> None:
        self.context, self.recipe, self.pack, self.seed = context, recipe, pack, seed
        self.loading = 0.0
        self._loaded: dict[str, Any] = {}

    def make(self, targets: Sequence[str], first: int = 0) -> list[Made]:
        """What each target gives, in order. `first` is the number of the first variant: later rounds begin higher."""
        raise NotImplementedError

    def again(
        self, candidate: Candidate, *, wording: str | None, first: int, amount: int, avoid: Sequence[str]
    ) -> Made:
        """More variants of a candidate's target, with other seeds, `wording` being the words of a person instead of those that
        were used; what is in `avoid` was the matter with earlier ones."""
        raise NotImplementedError

    def usage(self) -> Usage:
        """What the writer has spent for this generator so far."""
        writer = self._loaded.get("writer")
        return writer.usage - self._spent_before if writer else Usage()

    @cached_property
    def categories(self) -> dict[int, Category]:
        """The classes of the data set by id."""
        return {category.id: category for category in self.context.store.datasets.categories(self.context.dataset_id)}

    def backend(self, role: str) -> Any:
        """The pack's backend of a role. Raises WinnowError as `engine.packs.backend` does."""
        if role not in self._loaded:
            begun = time.monotonic()
            self._loaded[role] = kept(self.context, self.pack.model_dump_json(), role)
            self.loading += time.monotonic() - begun
            if role == "writer":
                self._spent_before = self._loaded[role].usage
        return self._loaded[role]

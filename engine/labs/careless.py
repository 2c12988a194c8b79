"""A painter that errs on purpose, at a known rate: what a filter is worth can only be measured where something is wrong."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from engine.backends.paste import PastePainter
from engine.roles import Context, Painted, PaintTask


class CarelessPainter:
    """The paste painter with its `donors`, but `wrong` of the tasks (0..1, chosen by their seeds) are painted with another
    class than was asked for. `detail["painted"]` says which."""

    def __init__(self, context: Context, wrong: float, donors: str | None = None) -> None:
        self._painter, self._wrong = PastePainter(context, donors), wrong
        self._classes = [category.name for category in context.store.datasets.categories(context.dataset_id)]

    def paint(self, tasks: Sequence[PaintTask]) -> list[Painted | str]:
        """As the paste painter does."""
        asked = [replace(task, category=self._painted(task)) for task in tasks]
        done = self._painter.paint(asked)
        return [
            one if isinstance(one, str) else replace(one, detail={**one.detail, "painted": task.category})
            for task, one in zip(asked, done, strict=True)
        ]

    def _painted(self, task: PaintTask) -> str | None:
        chance = random.Random(f"{task.seed}/careless")
        others = [name for name in self._classes if name != task.category]
        return chance.choice(others) if chance.random() < self._wrong else task.category

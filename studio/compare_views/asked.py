"""What a person asked to compare, and what every view needs to know of it: the runs, their names, their boxes as pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from db.errors import WinnowError
from db.records import Run, RunKind, State
from engine import comparison
from engine.evaluation.suite import numbers
from studio.comparing import Mark, Shot
from studio.context import Studio
from studio.markup import Html, join, tag
from studio.pages.why import address as why

EVERY = "all classes"
THRESHOLD = 0.3
CELLS = 12  # boxes a page


class View(NamedTuple):
    """One way to look: `sheet` draws it, `detail` the boxes of what is chosen in it, `first` says what it opens with (or keeps the
    choice it is given). `by_box`: it needs evaluations, which alone have boxes on record."""

    name: str
    sheet: Callable[[Studio, Asked, str, int], Html]
    detail: Callable[[Studio, Asked, str, int], Html | str] | None = None
    first: Callable[[Studio, Asked, str], str] | None = None
    by_box: bool = False


class Asked(NamedTuple):
    """What the controls say."""

    runs: list[int]
    view: str
    threshold: float = THRESHOLD
    category: str = EVERY


def finished(studio: Studio) -> list[Run]:
    """Evaluations first, then trainings, newest first: everything that has a result."""
    ledger = studio.store.ledger
    found = [
        run for kind in (RunKind.EVALUATE, RunKind.TRAIN) for run in ledger.runs(kind=kind, state=State.DONE, limit=100)
    ]
    return [run for run in found if numbers(run.result)]


def trained(studio: Studio, run: Run) -> Run:
    """The training behind an evaluation; a training is its own."""
    return studio.store.ledger.run(run.options["train_run_id"]) if run.kind is RunKind.EVALUATE else run


def runs_of(studio: Studio, told: Asked) -> list[Run]:
    return [studio.store.ledger.run(int(one)) for one in told.runs]


def judged_of(studio: Studio, told: Asked) -> list[Run]:
    """The chosen runs that have boxes on record."""
    return [run for run in runs_of(studio, told) if run.kind is RunKind.EVALUATE and "predictions" in run.result]


def label_of(studio: Studio, run: Run) -> str:
    snapshot = studio.store.snapshots.get(int(trained(studio, run).options["snapshot_id"]))
    return f"run {run.id}: {snapshot.name}"


def names_of(studio: Studio, run: Run) -> dict[int, str]:
    """Category id -> name."""
    assert run.dataset_id is not None
    return {category.id: category.name for category in studio.store.datasets.categories(run.dataset_id)}


def label_names(studio: Studio, run: Run, judged: comparison.Judged) -> list[str]:
    known = names_of(studio, run)
    return [known[int(label)] for label in judged.labels]


def place_of(studio: Studio, run: Run, judged: comparison.Judged, category: str) -> int | None:
    """Where a class stands among the labels of an evaluation; None for all classes."""
    if category == EVERY:
        return None
    named = [names_of(studio, run).get(int(label)) for label in judged.labels]
    if category not in named:
        raise WinnowError(f"Run {run.id} does not know the class {category!r}.")
    return named.index(category)


def paged(items: list[Any], page: int, size: int = CELLS) -> tuple[list[Any], int]:
    """The items of a page, and how many pages there are."""
    return items[(page - 1) * size : page * size], max(1, -(-len(items) // size))


def pair(
    studio: Studio,
    run: Run,
    judged: comparison.Judged,
    names: list[str],
    box: int,
    prediction: int,
    kind: str,
) -> Shot:
    """A true box, a prediction, or both, on their image."""
    marks, said = [], []
    if box >= 0:
        name = names[int(judged.label(judged.box_pair[box]))]
        marks.append(Mark(judged.box_xywh[box].tolist(), "truth" if prediction >= 0 else "missed", name))
        said.append(f"there: {name}")
    if prediction >= 0:
        name = names[int(judged.label(judged.pair[prediction]))]
        marks.append(Mark(judged.xywh[prediction].tolist(), kind, name))
        said.append(f"said: {name} {judged.score[prediction]:.2f}")
    pair = judged.pair[prediction] if prediction >= 0 else judged.box_pair[box]
    return _shot(studio, run, judged, int(judged.image(pair)), marks, ", ".join(said))


def _shot(studio: Studio, run: Run, judged: comparison.Judged, image_at: int, marks: list[Mark], caption: str) -> Shot:
    image = studio.store.datasets.image(int(judged.images[image_at]))
    name = marks[-1].label
    link = tag("a", "why?", href=why(run.id, name)) if name else None
    told = join(tag("b", caption), " ", link, tag("div", image.file_name))
    return Shot(image.digest or "", image.width, image.height, marks, told, focus=marks[-1].xywh)

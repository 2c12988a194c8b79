"""What the commands share: options, the studio behind them, progress, and how results are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from db.errors import WinnowError
from db.records import Run, State
from db.shared import Shared
from db.store import Store
from studio import actions
from studio.context import Studio, open_studio
from studio.settings import settings

console = Console(stderr=True)
Home = Annotated[Path | None, typer.Option(help="data folder (default: $WINNOW_HOME or ~/.local/share/winnow)")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead of text")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="follow the run to its end, doing the work here if no worker does")
]
Seed = Annotated[int, typer.Option(help="same seed, same result")]
More = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="any option of the Train page, such as language.absent=10"),
]


@contextmanager
def studio_at(home: Path | None) -> Iterator[Studio]:
    place = settings({"home": home})
    studio = open_studio(Path(place["home"]), Shared.of(place))
    try:
        yield studio
    finally:
        studio.store.close()


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def follow(studio: Studio, run: Run, wait: bool) -> None:
    """Wait for a run and those that follow it, working here when nobody else does. Raises WinnowError when it failed."""
    if not wait:
        return
    with bar(run.title) as progress:
        ended = actions.follow(studio, run.id, progress)
    failed = [one for one in ended if one.state is not State.DONE]
    if failed:
        raise WinnowError(f"Run {failed[0].id} is {failed[0].state}: {failed[0].error or 'see `winnow jobs`'}")


def show(value: Any, as_json: bool, text: str) -> None:
    if as_json:
        print(msgspec.json.encode(value).decode())
    else:
        console.print(text, highlight=False, markup=False)


def table(records: list[Any], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(records).decode())
        return
    shown = Table(*columns)
    for record in records:
        shown.add_row(
            *(str(getattr(record, column) if getattr(record, column) is not None else "") for column in columns)
        )
    Console().print(shown)


def told(store: Store, run: Run) -> str:
    """What became of a generate run, in a few sentences."""
    from studio.views import outcome

    return " ".join(outcome(store, run))


def chosen(given: dict[str, Any], more: list[str] | None) -> dict[str, Any]:
    """The options that were given as flags, and those given as NAME=VALUE, where `language.absent=10` is an option within
    `language`. A value is JSON, else text. Raises WinnowError for one without a value."""
    found = {name: value for name, value in given.items() if value is not None}
    for one in more or ():
        name, equals, text = one.partition("=")
        if not name or not equals:
            raise WinnowError(f"--option wants NAME=VALUE, such as language.absent=10, not {one!r}.")
        group, dot, inner = name.partition(".")
        held = found.setdefault(group, {}) if dot else found
        if not isinstance(held, dict):
            raise WinnowError(f"--option {group} is given as a value and as a group of options; right is one of them.")
        held[inner or name] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text

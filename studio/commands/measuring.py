"""Commands that measure: `winnow bench`, `winnow lab` and `winnow measure`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from db.errors import WinnowError
from studio.commands.common import (
    Home,
    Json,
    console,
)
from studio.settings import settings

app = typer.Typer()
measure = typer.Typer(help="Measure filters and bounds where the truth is known exactly.", no_args_is_help=True)
app.add_typer(measure, name="measure", rich_help_panel="Measure")


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="import, export, scale, review, load, paint, filter, lab or train")],
    scale: Annotated[float, typer.Option(min=0.0001, help="1 is the full size")] = 1.0,
    model: Annotated[
        str | None, typer.Option(help="for paint and filter: a folder or hub id instead of their own model")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="candidates: of the only store of review, load or scale (up to 5,000,000)"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure Winnow on this machine, as ratios to a named baseline of the same run."""
    from studio.benches import BENCHES

    result = BENCHES.get(name)
    if result is None:
        raise WinnowError(f"No bench named {name!r}. Known: {', '.join(BENCHES)}.")
    if size is not None and name not in ("review", "load", "scale"):
        raise WinnowError("--size is for the benches `review`, `load` and `scale`; the others take --scale.")
    choice = size if model is None else model
    with redirect_stdout(sys.stderr):  # libraries that print must not stand before the JSON
        figures = result(scale) if choice is None else result(scale, choice)
    if as_json:
        print(json.dumps(figures))
    else:
        for key, value in figures["figures"].items():
            console.print(f"{key:>28}  {value:.4g}")
        console.print(f"against {figures['baseline']}, n = {figures['n']}")


@app.command()
def lab(
    name: Annotated[str, typer.Argument(help="a lab; an unknown name lists those there are")],
    quick: Annotated[
        bool, typer.Option(help="a tiny version, to see that everything works; its figures mean little")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="paired seeds (default: 5, quick: 2)")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the result (default: in the data folder)")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Measure a whole method on Tabletop, arm against arm over paired seeds. Interrupted, the same command goes on.

    Example: `winnow lab gen2det --quick`
    """
    from engine.labs import lab as lab_of
    from engine.labs import paired, report

    place = Path(settings({"home": home})["home"]) / "labs" / (f"{name}-quick" if quick else name)
    folder, wanted = out or place / "result", seeds or (2 if quick else 5)
    study = lab_of(name).study(quick, place / "work")
    command = f"winnow lab {name}{' --quick' if quick else ''} --seeds {wanted}"
    try:
        with redirect_stdout(sys.stderr):  # libraries that print must not stand before the JSON
            result = paired.run(study, wanted, folder, lambda line: console.out(line, highlight=False), command)
    except KeyboardInterrupt:
        console.print(f"Interrupted. What was measured is kept in {folder}; the same command goes on.", highlight=False)
        raise typer.Exit(130) from None
    report.write(result, folder)
    if as_json:
        print(msgspec.json.encode(result).decode())
        return
    for rows in report.tables(result):
        shown = Table(*rows[0])
        for row in rows[1:]:
            shown.add_row(*row)
        Console().print(shown)
    console.print(f"Written to {folder}: {report.RESULTS}, {report.TABLE}, {report.PLOT}.", highlight=False)


Study = Annotated[Path, typer.Option(help="folder of the study: painted, trained and scored once, gone on with later")]
Share = Annotated[float, typer.Option(min=0.005, max=1.0, help="of the full size, when the study is new")]


@measure.command("filters")
def measure_filters(
    folder: Study,
    out: Annotated[Path, typer.Option(help="folder of the figures")],
    share: Share = 1.0,
    as_json: Json = False,
) -> None:
    """What each filter is worth: AUC, precision and recall on about 5,000 Tabletop candidates with exact truth.

    Example: `winnow measure filters --folder work/study --out assets/lab/filters`
    """
    from studio.measure import filters

    _measured("filters", filters.run, filters.page, folder, out, share, as_json)


@measure.command("bound")
def measure_bound(
    folder: Study,
    out: Annotated[Path, typer.Option(help="folder of the figures")],
    share: Share = 1.0,
    as_json: Json = False,
) -> None:
    """How often the bounds of an audit hold, over 2,000 simulated audits of each construction.

    Example: `winnow measure bound --folder work/study --out assets/lab/bound`
    """
    from studio.measure import bound

    _measured("bound", bound.run, bound.page, folder, out, share, as_json)


def _measured(
    name: str,
    run: Callable[..., dict[str, Any]],
    page: Callable[[dict[str, Any], str], str],
    folder: Path,
    out: Path,
    share: float,
    as_json: bool,
) -> None:
    """Take the figures, write them as `NAME.json` and `table.md`, and print one of them."""
    from studio.measure.world import world

    def told(what: str, done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            console.print(f"{what}: {done} of {total}", highlight=False)

    with world(folder, told, share=share) as study:
        figures = run(study)
    text = page(figures, f"winnow measure {name}")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1))
    (out / "table.md").write_text(text, encoding="utf-8")
    print(msgspec.json.encode(figures).decode() if as_json else text)

"""`winnow pocket`: the small models of the pocket pack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from studio.commands.common import (
    Json,
    Seed,
    console,
)

app = typer.Typer(help="Train the small models of the pocket pack, and look at what they make.", no_args_is_help=True)


@app.command("train")
def pocket_train(
    role: Annotated[str, typer.Argument(help="writer, painter, embedder or aesthetic")],
    folder: Annotated[Path, typer.Option(help="where training keeps its data and checkpoints, and goes on from")],
    out: Annotated[Path, typer.Option(help="folder of the finished model")],
    seed: Seed = 0,
) -> None:
    """Train a model of the pocket pack on Tabletop. May be interrupted: the same command goes on.

    Example: `winnow pocket train painter --folder work/painter --out assets/pocket/painter`
    """
    from engine.training.pocket.roles import train

    train(role, folder, out, seed=seed, progress=lambda stage, step, loss: console.print(f"{stage} {step}: {loss:.4f}"))


@app.command("sheet")
def pocket_sheet(
    out: Annotated[Path, typer.Argument(help="PNG to write")],
    count: Annotated[int, typer.Option(min=8, help="pictures to paint")] = 64,
    painter: Annotated[str, typer.Option(help="folder of the painter")] = "assets/pocket/painter",
    embedder: Annotated[str, typer.Option(help="folder of the embedder that looks at them")] = "assets/pocket/embedder",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Paint random things into unseen scenes, and say how often the pocket embedder recognises them."""
    from engine.training.pocket.sheet import sheet

    figures = sheet(out, count=count, painter=painter, embedder=embedder, seed=seed)
    if as_json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            console.print(f"{key:>28}  {value:.4g}")

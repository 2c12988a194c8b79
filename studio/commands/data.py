"""Commands for data sets and snapshots: import, make, freeze, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from db.formats import FORMATS
from engine.packs import DEFAULT_PACK
from studio import actions
from studio.commands.common import (
    Home,
    Json,
    Seed,
    Wait,
    bar,
    follow,
    show,
    studio_at,
    table,
    told,
)

app = typer.Typer()


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="a file, folder or zip of a data set in any format that `winnow export` writes, of image-text pairs, or of a folder for each class"
        ),
    ],
    name: Annotated[str | None, typer.Option(help="name in Winnow (default: the folder's)")] = None,
    format: Annotated[str | None, typer.Option(help="name of the format (default: found out)")] = None,
    images: Annotated[Path | None, typer.Option(help="folder of the image files, when they lie elsewhere")] = None,
    annotations_only: Annotated[bool, typer.Option(help="do not look for image files")] = False,
    skip_bad: Annotated[
        bool, typer.Option(help="import the good items, put the bad ones on the quarantine list")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Import a data set. All faults are listed together, and nothing is half-imported.

    Example: `winnow import ~/data/bccd --name bccd`
    """
    with studio_at(home) as studio, bar("Importing") as progress:
        dataset = actions.import_dataset(
            studio, path, name or path.resolve().stem, format=format, images=images,
            annotations_only=annotations_only, skip_bad=skip_bad, progress=progress,
        )  # fmt: skip
    show(
        dataset,
        as_json,
        f"Imported {dataset.name}: {dataset.images} images, {dataset.boxes} boxes, {dataset.phrases} phrases.",
    )


@app.command()
def tabletop(
    name: Annotated[str, typer.Argument(help="name of the data set to make")],
    difficulty: Annotated[str, typer.Option(help="easy, standard or hard")] = "standard",
    train: Annotated[int, typer.Option(min=0, help="scenes of the split")] = 200,
    val: Annotated[int, typer.Option(min=0, help="scenes of the split")] = 50,
    test: Annotated[int, typer.Option(min=0, help="scenes of the split")] = 100,
    folder: Annotated[Path | None, typer.Option(help="also keep the files (COCO, ODVG, exact truth) here")] = None,
    descriptions: Annotated[
        bool, typer.Option("--descriptions", help="with --folder: a mini-OmniLabel and a mini-D3 of each split too")
    ] = False,
    seed: Seed = 0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Paint Tabletop scenes, the demo world whose truth is known exactly, as a data set.

    Example: `winnow tabletop bench --folder bench --descriptions`, then
    `winnow import bench/omnilabel_test.json --name bench-omnilabel`
    """
    with studio_at(home) as studio, bar("Painting scenes") as progress:
        counts = {"train": train, "val": val, "test": test}
        made = actions.paint_tabletop(
            studio, name, counts, difficulty=difficulty, seed=seed, folder=folder, descriptions=descriptions,
            progress=progress,
        )  # fmt: skip
    show(made, as_json, f"Painted {made.name}: {made.images} images, {made.boxes} boxes, {made.phrases} texts.")


@app.command("datasets")
def datasets(home: Home = None, as_json: Json = False) -> None:
    """List the data sets."""
    with studio_at(home) as studio:
        found = studio.store.datasets.list()
    table(found, ("id", "name", "format", "images", "boxes", "phrases"), as_json)


@app.command("class-images")
def class_images(
    path: Annotated[
        Path, typer.Argument(help="a folder of images for each class, perhaps with classes.csv beside them")
    ],
    dataset: Annotated[str, typer.Option(help="name of the data set that the images are for")],
    pack: Annotated[str, typer.Option(help="model pack whose embedder looks at them")] = DEFAULT_PACK,
    skip_bad: Annotated[bool, typer.Option(help="take the good images, list what is wrong with the others")] = False,
    seed: Seed = 0,
    wait: Wait = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add images of single classes (RichSem) to a data set, as candidates to be reviewed. The data set itself is not changed.

    The folders are called like the classes of the data set, or `classes.csv` beside them says so (`n02124075,cat`).

    Example: `winnow class-images ~/data/imagenet-rare --dataset lvis --pack modern --skip-bad`
    """
    with studio_at(home) as studio:
        with bar("Storing") as progress:
            added = actions.add_class_images(
                studio, path, dataset=dataset, pack=pack, seed=seed, skip_bad=skip_bad, progress=progress
            )
        for fault in added.faults:
            print(f"left out: {fault}", file=sys.stderr)
        follow(studio, added.run, wait)
        finished = studio.store.ledger.run(added.run.id)
        show(finished, as_json, told(studio.store, finished))


@app.command()
def freeze(
    dataset: Annotated[str, typer.Argument(help="name of the data set")],
    name: Annotated[str, typer.Argument(help="name of the snapshot")],
    accepted: Annotated[bool, typer.Option(help="with the accepted candidates, or the real data only")] = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Freeze a snapshot: the selection that export, training and evaluation use.

    Example: `winnow freeze bccd with-synthetic` and `winnow freeze bccd real --no-accepted`
    """
    with studio_at(home) as studio:
        snapshot = actions.freeze(studio, dataset=dataset, name=name, accepted=accepted)
    shown = ", ".join(f"{n} {what}" for what, n in snapshot.counts.items())
    show(snapshot, as_json, f"Snapshot {snapshot.name}: {shown}. sha256 {snapshot.digest[:12]}")


@app.command()
def export(
    snapshot: Annotated[str, typer.Argument(help="name of the snapshot")],
    folder: Annotated[Path, typer.Argument(help="folder to write; must be empty or new")],
    format: Annotated[str, typer.Option(help=", ".join(FORMATS))] = "coco",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a snapshot with its images. Says what the format cannot hold."""
    with studio_at(home) as studio:
        losses = actions.export(studio, snapshot=snapshot, folder=folder, format=format)
    told = [f"Wrote {snapshot} as {format} to {folder}.", *(f"Not held by {format}: {loss}" for loss in losses)]
    show({"folder": str(folder), "format": format, "losses": losses}, as_json, "\n".join(told))

"""Commands that run Winnow and look after it: serve, worker, jobs, doctor, backup."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from db.shared import Shared
from studio import actions, logs
from studio.commands.common import (
    Home,
    Json,
    console,
    show,
    studio_at,
    table,
)
from studio.settings import settings

app = typer.Typer()


@app.command()
def demo(home: Home = None, host: str | None = None, port: int | None = None) -> None:
    """Load the demo data set, fill the review queue, and open the studio with a worker beside it."""
    from studio.serve import serve_demo

    serve_demo(settings({"home": home, "host": host, "port": port}))


@app.command()
def serve(
    home: Home = None,
    host: str | None = None,
    port: int | None = None,
    worker: Annotated[bool, typer.Option(help="also start one worker on this machine")] = True,
) -> None:
    """Start the studio (and a worker). Stop with Ctrl-C."""
    from studio.serve import serve as run_server

    run_server(settings({"home": home, "host": host, "port": port}), worker=worker)


@app.command()
def worker(home: Home = None) -> None:
    """Start a worker: it generates, filters, trains and evaluates what the studio queues."""
    from engine.jobs import run_worker

    chosen = settings({"home": home})
    logs.set_up(chosen["log"])
    run_worker(Path(chosen["home"]), Shared.of(chosen), lease_seconds=chosen["lease_seconds"])


@app.command()
def jobs(home: Home = None, as_json: Json = False, limit: int = 20) -> None:
    """List the latest runs with their progress."""
    with studio_at(home) as studio:
        found = studio.store.ledger.runs(limit=limit)
    table(found, ("id", "kind", "title", "state", "done", "total", "error"), as_json)


def _control(verb: str, sentence: str) -> Callable[..., None]:
    def command(run: Annotated[int, typer.Argument(help="id of the run")], home: Home = None) -> None:
        with studio_at(home) as studio:
            getattr(actions, verb)(studio, run)
        console.print(f"Run {run}: {sentence.lower()}")

    command.__doc__ = sentence
    return command


for _verb, _sentence in (
    ("cancel", "Cancel: a running child is ended within seconds; what it made so far stays."),
    ("pause", "Pause: stop at the next item, or the next checkpoint of a training."),
    ("resume", "Resume: go on where it was paused."),
    ("retry", "Retry: queue the failed shards again."),
):
    app.command(_verb, help=_sentence)(_control(_verb, _sentence))


@app.command()
def doctor(home: Home = None, as_json: Json = False) -> None:
    """Check this machine and say what is missing and what to do about it."""
    from studio.doctor import checkup

    found = checkup(settings({"home": home}))
    if as_json:
        print(json.dumps([finding.__dict__ for finding in found]))
    else:
        for finding in found:
            console.print(f"{'[green]ok  [/]' if finding.ok else '[red]bad [/]'} {finding.what}: {finding.seen}")
            if not finding.ok:
                console.print(f"       {finding.cure}")
    raise typer.Exit(0 if all(finding.ok for finding in found) else 1)


@app.command("backup")
def backup_(
    file: Annotated[Path, typer.Argument(help="new file for the backup; nothing is replaced")],
    even_damaged: Annotated[bool, typer.Option(help="leave out files that are damaged instead of refusing")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Back everything up into one file while the studio works, and check it.

    Example: `winnow backup ~/winnow-monday.zip`
    """
    from db.backup import backup

    chosen = settings({"home": home})
    made = backup(Path(chosen["home"]), file, Shared.of(chosen), even_damaged=even_damaged)
    left_out = "".join(f"\nLeft out: {fault}" for fault in made.left_out)
    show(made, as_json, f"{file}: {made.files} files, {made.bytes / 2**20:.1f} MiB, every one checked.{left_out}")


@app.command("restore")
def restore_(
    file: Annotated[Path, typer.Argument(help="a backup")],
    home: Annotated[Path, typer.Option(help="data folder to restore into; new, or empty")],
    as_json: Json = False,
) -> None:
    """Restore a backup into a new data folder, after every file of it was checked.

    Example: `winnow restore ~/winnow-monday.zip --home ~/restored`
    """
    from db.backup import restore

    found = restore(file, home)
    show(found, as_json, f"{home}: {found.files} files, {found.bytes / 2**20:.1f} MiB, every one checked.")

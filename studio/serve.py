"""The studio as processes: the web server in this one, a worker beside it, and nothing left behind when it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from db.errors import WinnowError
from db.records import Run
from db.shared import Shared
from db.store import Store
from engine.demo import NAME, fill_queue, load_demo
from studio import logs
from studio.folder import alone

console = Console(highlight=False)
LOCAL = ("127.0.0.1", "::1", "localhost")
STOP_SECONDS = 12
MOST_CONNECTIONS = 1000


def serve(settings: Mapping[str, Any], *, worker: bool = True, message: str = "") -> None:
    """Serve until Ctrl-C or SIGTERM. Raises WinnowError when the port is taken or a setting makes no sense."""
    host, port = settings["host"], settings["port"]
    logs.set_up(settings["log"])
    port = _free_port(host, port)
    with _alone(settings), beside(settings) if worker else nullcontext():
        _serve_web(settings, host, port, message)


def serve_demo(settings: Mapping[str, Any]) -> None:
    """Demo data, filled queue, studio. What is there already is not made again."""
    logs.set_up(settings["log"])
    with _alone(settings):
        _serve_demo(settings)


def _serve_demo(settings: Mapping[str, Any]) -> None:
    store = Store(Path(settings["home"]), Shared.of(settings))
    console.print(f"Winnow keeps everything of this demo in {settings['home']}")
    with _bar("Painting and importing the demo scenes") as bar:
        dataset = load_demo(store, bar)
    console.print(
        f"Data set {dataset.name!r}: {dataset.images} images, {dataset.boxes} boxes, {dataset.phrases} texts."
    )
    with beside(settings):
        _follow(store, fill_queue(store, dataset)[:1])  # enough to look at; the rest is made meanwhile
        store.close()
        told = (
            "  1. Review    judge the waiting candidates by keyboard: a accept, x reject, space skip, u undo\n"
            "               (more are being made: see Jobs)\n"
            "  2. Train     freeze what was accepted, train a small detector on it\n"
            "  3. Compare   see what the accepted candidates were worth\n"
            f"The data set is called {NAME!r}. Ctrl-C ends everything; `make demo` continues where you were."
        )
        _serve_web(settings, settings["host"], _free_port(settings["host"], settings["port"]), told)


def _alone(settings: Mapping[str, Any]) -> AbstractContextManager[None]:
    """One studio for a folder; a database on a server has room for several."""
    return nullcontext() if settings["database_url"] else alone(Path(settings["home"]))


@contextmanager
def beside(settings: Mapping[str, Any]) -> Iterator[None]:
    """A worker process for the length of the block."""
    environment = os.environ | {f"WINNOW_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "studio.cli", "worker"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _serve_web(settings: Mapping[str, Any], host: str, port: int, message: str) -> None:
    import uvicorn

    from studio.app import create_app

    console.print("Opening the studio ...")
    sign_in = asks_who(settings)
    if sign_in:
        _meet(settings)
    app = create_app(
        Path(settings["home"]),
        Shared.of(settings),
        sign_in=sign_in,
        hosts=names(host, settings["hosts"]),
        roots=settings["roots"],
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
            limit_concurrency=MOST_CONNECTIONS,
        )
    )
    console.print(f"\n[bold]Winnow is at http://{host}:{port}[/]\n{message}")
    server.run()


def asks_who(settings: Mapping[str, Any]) -> bool:
    """Whether people have to sign in: wherever somebody else than this machine's own users can reach the studio."""
    wish = settings["sign_in"]
    if wish not in ("auto", "always"):
        raise WinnowError(f"The setting sign_in is {wish!r}; it is auto or always.")
    return wish == "always" or settings["host"] not in LOCAL


def names(host: str, hosts: str) -> set[str]:
    """The names under which the studio answers besides the local ones. Raises WinnowError for what is no name."""
    given = {name.strip().casefold() for name in hosts.split(",") if name.strip()}
    odd = [name for name in given if not re.fullmatch(r"[a-z0-9.:-]+", name)]
    if odd:
        raise WinnowError(f"{odd[0]!r} in the setting hosts is no host name; write names without http:// and port.")
    return given if host in LOCAL else given | {host.casefold(), socket.gethostname().casefold()}


def _meet(settings: Mapping[str, Any]) -> None:
    """The first admin, when there is nobody yet."""
    store = Store(Path(settings["home"]), Shared.of(settings))
    password = store.users.first_admin()
    store.close()
    if password is not None:
        console.print(
            f"\nPeople sign in here. The first is [bold]admin[/] with the password [bold]{password}[/]\n"
            "It is shown only now, and has to be changed at the first sign-in. `winnow user password admin` makes another."
        )
    if settings["host"] not in LOCAL:
        console.print(
            "Passwords travel as they are on plain HTTP: put a proxy with TLS before the studio where others share the network."
        )


def _follow(store: Store, runs: list[Run]) -> None:
    """Wait for runs and those that follow them, with a progress bar each."""
    for run in runs:
        with _bar(run.title) as bar:
            for part in (run, *store.ledger.followers(run.id)):
                while not (now := store.ledger.run(part.id)).state.ended:
                    bar(now.done, now.total)
                    time.sleep(0.3)
                if now.error:
                    console.print(f"[red]{now.title}: {now.error}")


@contextmanager
def _bar(what: str) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


def _free_port(host: str, port: int) -> int:
    """The port, when nobody listens on it; any free one for 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise WinnowError(
                f"Port {port} of {host} is taken ({error.strerror}). Stop what runs there or choose another --port."
            ) from error
        return probe.getsockname()[1]

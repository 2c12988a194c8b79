"""`winnow doctor`: what this machine has, what is missing, and the cure."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.blobs import SharedBlobs
from db.database import journal_mode, sqlite_module
from db.errors import WinnowError
from db.migrate import schema_of
from db.postgres import shown
from db.records import Worker
from db.shared import Shared
from db.store import Store
from engine.jobs import queue_state
from engine.packs import packs
from studio.folder import NETWORK_SYSTEMS, file_system
from studio.roots import roots_of
from studio.serve import asks_who

FREE_GIB = 5.0
STALE_SECONDS = 120.0


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    seen: str
    cure: str = ""


def checkup(settings: Mapping[str, Any]) -> list[Finding]:
    """Everything that is looked at, in order. Model libraries are loaded in a process of their own."""
    home, shared = Path(settings["home"]), Shared.of(settings)
    return [
        _python(), _sqlite(), *_home(home, shared), *_queue(shared), *_blobs(shared, home), _port(settings["host"], settings["port"]), *_access(settings, home), *_roots(settings, home),
        _models(), _cuda(), _browser(), *_packs(home),
    ]  # fmt: skip


def _python() -> Finding:
    version = sys.version.split()[0]
    return Finding("Python", (3, 11) <= sys.version_info[:2] <= (3, 13), version, "Install Python 3.11, 3.12 or 3.13.")


def _sqlite() -> Finding:
    version = sqlite_module().sqlite_version
    safe = journal_mode(tuple(map(int, version.split(".")))) == "WAL"
    cure = "Works, but slower, with a rollback journal: this SQLite has the WAL-reset bug. `pip install pysqlite3` brings a newer one."
    return Finding("SQLite", safe, version, cure)


def _home(home: Path, shared: Shared) -> list[Finding]:
    existing = next(parent for parent in (home, *home.parents) if parent.exists())
    writable = os.access(existing, os.W_OK)
    found = [
        Finding(
            "data folder", writable, str(home), f"Make {existing} writable, or choose another folder with WINNOW_HOME."
        )
    ]
    free = shutil.disk_usage(existing).free / 2**30
    found.append(
        Finding(
            "free disk", free >= FREE_GIB, f"{free:.0f} GiB", f"Free some space: {FREE_GIB:.0f} GiB is little enough."
        )
    )
    if shared.database_url:
        return [*found, *_server(home, shared)]
    system = file_system(existing)
    cure = "SQLite needs a local disk; choose one with WINNOW_HOME."
    found.append(Finding("file system", system not in NETWORK_SYSTEMS, system, cure))
    if (home / "winnow.db").exists():
        found += _database(home)
    return found


def _database(home: Path) -> list[Finding]:
    """The file as it lies there, before it is opened: opening it would bring it to the newest schema."""
    path = home / "winnow.db"
    found = [_schema(path), _integrity(path)]
    return [*found, *_work(home, Shared())] if all(one.ok for one in found) else found


def _work(home: Path, shared: Shared) -> list[Finding]:
    store = Store(home, shared)
    workers, waiting = store.ledger.workers(), store.ledger.waiting_runs()
    store.close()
    return _workers(workers, len(waiting))


def _server(home: Path, shared: Shared) -> list[Finding]:
    """The database of several machines. One that is empty gets its tables when a studio or a worker starts."""
    cure = "Start the server, and look at host, name and password in WINNOW_DATABASE_URL."
    try:
        schema = schema_of(shared.database_url)
    except WinnowError as error:
        return [Finding("database", False, str(error), cure)]
    found = [Finding("database", True, f"{shown(shared.database_url)}, schema {schema or 'none yet'}")]
    if not shared.secret:
        cure = "Give all machines the same WINNOW_SECRET; until then messages of one are refused by another, and found later."
        found.append(Finding("secret", False, "only in the home folder of this machine", cure))
    return [*found, *_work(home, shared)] if schema else found


def _queue(shared: Shared) -> list[Finding]:
    """A doorbell that forgets costs time, no work: the ledger is in the database."""
    if not shared.queue_url:
        return []
    try:
        state = queue_state(shared.queue_url)
    except WinnowError as error:
        return [Finding("queue", False, str(error), "Start the Redis server, and look at WINNOW_QUEUE_URL.")]
    kept = not state or state == {"appendonly": "yes", "maxmemory-policy": "noeviction"}
    seen = (
        ", ".join(f"{name} {value}" for name, value in state.items())
        or "answers; how it keeps its data it does not say"
    )
    cure = "Start Redis with `--appendonly yes --maxmemory-policy noeviction`: else it may forget who it was to wake."
    return [Finding("queue", kept, seen, cure)]


def _blobs(shared: Shared, home: Path) -> list[Finding]:
    if not shared.blobs_url:
        return []
    try:
        SharedBlobs(shared.blobs_url, home / "cache" / "blobs").put(b"winnow doctor was here")
    except WinnowError as error:
        return [
            Finding("blobs", False, str(error), "Look at WINNOW_BLOBS_URL, and at the rights of this machine there.")
        ]
    return [Finding("blobs", True, "can be written")]


def _schema(path: Path) -> Finding:
    try:
        return Finding("database", True, f"{path}, schema {schema_of(path) or 'none yet'}")
    except WinnowError as error:
        return Finding("database", False, str(error), f"Update Winnow, restore a backup, or move {path} away.")


def _integrity(path: Path) -> Finding:
    """Every page and index of the file; a gigabyte takes some ten seconds."""
    cure = f"Stop the studio and restore the newest backup; keep {path} for a rescue with `sqlite3 {path} .recover`."
    try:
        connection = sqlite_module().connect(f"file:{path}?mode=ro", uri=True)
        told = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
        connection.close()
    except sqlite_module().Error as error:
        told = [str(error)]
    return Finding("integrity of the database", told == ["ok"], "; ".join(told), cure)


def _workers(workers: Sequence[Worker], waiting: int) -> list[Finding]:
    now = time.time()
    silent = [one for one in workers if now - one.seen_at > STALE_SECONDS]
    awake = len(workers) - len(silent)
    start = "Start one: `winnow worker`, or `winnow serve`, which brings one along."
    found = [Finding("workers", bool(awake) or not waiting, f"{awake} at work, {waiting} runs waiting", start)]
    for one in silent:
        seen = f"{one.name} was last heard of {(now - one.seen_at) / 60:.0f} min ago"
        cure = "If its machine is up, end that process and start `winnow worker` again. Its work goes to another worker by itself."
        found.append(Finding("silent worker", one.run_id is None and not waiting, seen, cure))
    return found


def _port(host: str, port: int) -> Finding:
    """Whether the studio could listen there now; a studio that is running already has the port, and says so."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            ours = _is_winnow(host, port)
            cure = "Stop what listens there, or choose another with WINNOW_PORT."
            return Finding("port", ours, f"{port}: {'the studio is running' if ours else error.strerror}", cure)
    return Finding("port", True, f"{port} is free")


def _is_winnow(host: str, port: int) -> bool:
    """Whether what listens there answers as the studio does."""
    connection = http.client.HTTPConnection("127.0.0.1" if host in ("0.0.0.0", "localhost") else host, port, timeout=3)
    try:
        connection.request("GET", "/healthz")
        return b'"free_gib"' in connection.getresponse().read(4096)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _access(settings: Mapping[str, Any], home: Path) -> list[Finding]:
    """What others on this machine could read or change, and whether others elsewhere can reach the studio at all."""
    found = []
    for name in ("secret", "winnow.db"):
        path = home / name
        if path.exists():
            mode = path.stat().st_mode & 0o777
            open_to = 0o077 if name == "secret" else 0o002
            found.append(Finding(f"mode of {name}", not mode & open_to, f"{mode:o}", f"Run `chmod 600 {path}`."))
    if settings["host"] not in ("127.0.0.1", "::1", "localhost") and not settings["hosts"]:
        cure = "Name them in WINNOW_HOSTS, for example WINNOW_HOSTS=studio.example; other names are refused."
        found.append(Finding("names of the studio", False, f"only this machine's own and {settings['host']}", cure))
    return found


def _roots(settings: Mapping[str, Any], home: Path) -> list[Finding]:
    """Whether the folders that people who sign in may use are there."""
    if not settings["roots"] or not asks_who(settings):
        return []
    cure = "Mend WINNOW_ROOTS: folders that exist and do not hold the data folder, with ':' between."
    try:
        listed = roots_of(settings["roots"], home).folders or ()
    except WinnowError as error:
        return [Finding("folders for import and export", False, str(error), cure)]
    return [Finding("folders for import and export", True, ", ".join(map(str, listed)))]


def _cuda() -> Finding:
    """A machine without an NVIDIA card is no trouble; one whose driver does not answer is."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return Finding("GPU", True, "none; what needs one says so")
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding("GPU", False, "a card, and no nvidia-smi", "Install the driver's tools (nvidia-smi).")
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, check=False, capture_output=True, text=True, timeout=30)
    cure = "Reinstall the NVIDIA driver or reboot; after an update of the kernel it has to be built again."
    return Finding("GPU", done.returncode == 0, (done.stdout or done.stderr).strip().replace("\n", "; "), cure)


def _browser() -> Finding:
    """Only the tests of the pages need one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    return Finding("Chromium", True, found or "none; the tests of the pages in a browser will be skipped")


def _models() -> Finding:
    done = subprocess.run(
        [sys.executable, "-m", "engine.training.probe"], check=False, capture_output=True, text=True, timeout=300
    )
    cure = "Run `make demo` or `make test` again: they install what is pinned in constraints.txt."
    if done.returncode:
        return Finding("torch and MMDetection", False, (done.stderr.strip().splitlines() or ["no output"])[-1], cure)
    return Finding("torch and MMDetection", True, done.stdout.strip().splitlines()[-1])


def _packs(home: Path) -> list[Finding]:
    """Which packs can run here. One that cannot is a fact about the machine, nothing to mend, unless none can."""
    found = [(pack, pack.lacks()) for pack in packs(home)]
    some = any(not lacks for _, lacks in found)
    return [
        Finding(
            f"pack {pack.name}",
            some,
            f"cannot run here: {'; '.join(lacks)}" if lacks else f"can run. {pack.summary}",
            pack.needs,
        )
        for pack, lacks in found
    ]

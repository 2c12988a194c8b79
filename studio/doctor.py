"""`winnow doctor`: what this machine has, what is missing, and the cure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.database import journal_mode, sqlite_module
from db.errors import WinnowError
from db.store import Store
from engine.packs import packs

FREE_GIB = 5.0
NETWORK_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"}


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    seen: str
    cure: str = ""


def checkup(settings: Mapping[str, Any]) -> list[Finding]:
    """Everything that is looked at, in order. Model libraries are loaded in a process of their own."""
    home = Path(settings["home"])
    return [_python(), _sqlite(), *_home(home), _models(), *_packs(home)]


def _python() -> Finding:
    version = sys.version.split()[0]
    return Finding("Python", (3, 11) <= sys.version_info[:2] <= (3, 13), version, "Install Python 3.11, 3.12 or 3.13.")


def _sqlite() -> Finding:
    version = sqlite_module().sqlite_version
    safe = journal_mode(tuple(map(int, version.split(".")))) == "WAL"
    cure = "Works, but slower, with a rollback journal: this SQLite has the WAL-reset bug. `pip install pysqlite3` brings a newer one."
    return Finding("SQLite", safe, version, cure)


def _home(home: Path) -> list[Finding]:
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
    system = _file_system(existing)
    cure = "SQLite needs a local disk; choose one with WINNOW_HOME."
    found.append(Finding("file system", system not in NETWORK_SYSTEMS, system, cure))
    if (home / "winnow.db").exists():
        found += _database(home)
    return found


def _database(home: Path) -> list[Finding]:
    try:
        store = Store(home)
    except WinnowError as error:
        return [Finding("database", False, str(error), "Restore a backup, or move the file away.")]
    workers, waiting = store.ledger.workers(), store.ledger.waiting_runs()
    store.close()
    cure = "Start one: `winnow worker`, or `winnow serve`, which brings one along."
    return [
        Finding("database", True, str(home / "winnow.db")),
        Finding("workers", bool(workers) or not waiting, f"{len(workers)} at work, {len(waiting)} runs waiting", cure),
    ]


def _file_system(path: Path) -> str:
    """The type of the file system that holds the path, from the longest mount point above it; "unknown" off Linux."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    above = [(entry[1], entry[2]) for entry in mounts if path.resolve().is_relative_to(entry[1])]
    return max(above, key=lambda entry: len(entry[0]))[1] if above else "unknown"


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

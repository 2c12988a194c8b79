"""The data folder at the start of a studio: on a disk of this machine, and with one studio on it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from db.errors import WinnowError

NETWORK_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"}
LOCK = "studio.lock"


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Nobody else serves the folder for the length of the block. The lock is the kernel's: it ends with this process, however
    that ends.

    Raises WinnowError, with nothing changed, when another studio serves it, when it cannot be written to, and when it lies on
    a network file system, whose locks SQLite cannot rely on.
    """
    _check(home)
    with (home / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WinnowError(
                f"Another studio ({_holder(file)}) serves {home}. Use that one, stop it, or choose another folder with "
                "WINNOW_HOME."
            ) from None
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        yield


def file_system(path: Path) -> str:
    """The type of the file system that holds the path, from the longest mount point above it; "unknown" off Linux."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    above = [(entry[1], entry[2]) for entry in mounts if path.resolve().is_relative_to(entry[1])]
    return max(above, key=lambda entry: len(entry[0]))[1] if above else "unknown"


def _check(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WinnowError(f"The data folder {home} cannot be made: {error.strerror}. {ELSEWHERE}") from error
    system = file_system(home)
    if system in NETWORK_SYSTEMS:
        raise WinnowError(
            f"{home} lies on a network file system ({system}), where SQLite can lose data. {ELSEWHERE} Several machines share a "
            "database by WINNOW_DATABASE_URL."
        )
    if not os.access(home, os.W_OK | os.X_OK):
        raise WinnowError(f"{home} cannot be written to. Run `chmod u+rwx {home}` as its owner. {ELSEWHERE}")


ELSEWHERE = "Or choose a folder on a disk of this machine with WINNOW_HOME."


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "just starting"

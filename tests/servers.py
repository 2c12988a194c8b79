"""Servers of one's own for tests: PostgreSQL and Redis on a free port of this machine, in a folder that goes with them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SPEED = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")  # nobody pulls the plug of a test
WAIT_SECONDS = 120


class Server:
    """A process that listens on a port of its own, and can be killed and started again on it."""

    def __init__(self, command: list[str], ready: list[str], port: int, owner: Mapping[str, Any]) -> None:
        self.port, self._command, self._ready, self._owner = port, command, ready, owner
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **self._owner
        )
        deadline = time.monotonic() + WAIT_SECONDS
        while subprocess.run(self._ready, check=False, capture_output=True).returncode != 0:
            assert self._process.poll() is None, f"{self._command[0]} ended with {self._process.returncode}"
            assert time.monotonic() < deadline, f"{self._command[0]} does not answer on port {self.port}"
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        self._process.send_signal(how)
        self._process.wait(WAIT_SECONDS)


def program(name: str) -> str:
    """Where a program of a server is. Skips the test when it is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    found = shutil.which(name) or (str(installed[-1]) if installed else None)
    if found is None:
        pytest.skip(f"{name} is not installed; Debian has it in the packages postgresql and redis-server")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres_server(*options: str) -> Iterator[Server]:
    """An empty cluster without passwords; its superuser is `winnow`."""
    initdb, server = program("initdb"), program("postgres")
    owner = _somebody()
    with _folder(owner) as folder:
        made = [initdb, "--no-sync", "--auth=trust", "--username=winnow", "--encoding=UTF8", "--locale=C.UTF-8"]
        subprocess.run([*made, "-D", folder / "data"], check=True, capture_output=True, cwd=folder, **owner)
        port = free_port()
        settings = (f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", *SPEED, *options)
        command = [server, "-D", str(folder / "data"), *(part for setting in settings for part in ("-c", setting))]
        yield from _running(Server(command, [program("pg_isready"), "-h", "127.0.0.1", "-p", str(port)], port, owner))


@contextmanager
def redis_server() -> Iterator[Server]:
    """A Redis that keeps what it is told in a file, as for real use."""
    server, owner = program("redis-server"), {}
    with _folder(owner) as folder:
        port = free_port()
        options = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes", "save": ""}
        command = [server, *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
        yield from _running(Server(command, [program("redis-cli"), "-e", "-p", str(port), "ping"], port, owner))


def _running(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.stop()


def _somebody() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: whom it runs as then."""
    if os.getuid() != 0:
        return {}
    who = pwd.getpwnam("nobody")
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


@contextmanager
def _folder(owner: Mapping[str, Any]) -> Iterator[Path]:
    """Not below pytest's own folder, into which nobody else may look."""
    with tempfile.TemporaryDirectory(prefix="winnow-", ignore_cleanup_errors=True) as name:
        if owner:
            os.chown(name, owner["user"], owner["group"])
        yield Path(name)


class Databases:
    """Databases in one server, made on demand."""

    def __init__(self, server: Server) -> None:
        self.server, self._made = server, 0

    def url(self, name: str) -> str:
        return f"postgresql://winnow@127.0.0.1:{self.server.port}/{name}"

    def fresh(self, template: str = "template0") -> str:
        """The URL of a new database, a copy of another."""
        self._made += 1
        name = f"fresh{self._made}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def run(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

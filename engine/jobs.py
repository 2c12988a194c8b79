"""Workers. Huey is only a doorbell: its message says that a run may have work; the ledger says what work there is.

Huey deletes a message before it runs the function and cannot stop a running one. So losing a message, or getting it
twice, must not matter: a worker looks at the ledger at every ring and every few seconds besides.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from huey import Huey, RedisHuey, SqliteHuey
from huey.serializer import SignedSerializer
from huey.storage import SqliteStorage

from db.database import sqlite_module
from db.errors import LostLease
from db.records import Run, RunKind, Shard, State
from db.store import Store

logger = logging.getLogger(__name__)
sqlite = sqlite_module()

POLL_SECONDS = 0.3
STOP_SECONDS = 8.0
STDERR_BYTES = 4096
EXECUTORS = "engine.runs"


class _Storage(SqliteStorage):
    """Huey's file on the SQLite library that the rest of the process uses."""

    operational_error = sqlite.OperationalError

    def _create_connection(self) -> Any:
        connection = sqlite.connect(self.filename, timeout=self._timeout, check_same_thread=False)
        connection.isolation_level = None
        self._set_journal_mode(connection)
        connection.execute("PRAGMA synchronous=FULL")
        return connection


class Doorbell:
    """Tells workers that a run may have work."""

    def __init__(self, home: Path, queue_url: str = "") -> None:
        home.mkdir(parents=True, exist_ok=True)
        serializer = SignedSerializer(secret=_secret(home / "secret"))
        common: dict[str, Any] = {"name": "winnow", "results": False, "serializer": serializer}
        if queue_url:
            self.huey: Huey = RedisHuey(url=queue_url, **common)
        else:
            self.huey = SqliteHuey(filename=str(home / "queue.db"), storage_class=_Storage, **common)
        self.heard: Callable[[int], None] = lambda run_id: None
        self._task = self.huey.task(name="ring")(self._answer)

    def ring(self, run_id: int) -> None:
        self._task(run_id)

    def _answer(self, run_id: int) -> None:
        self.heard(run_id)


def _secret(path: Path) -> str:
    """A random secret, made at the first start, readable by its owner only."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    return path.read_text()


class Child:
    """A spawned process that executes shards, one after the other, in a process group of its own."""

    def __init__(self, home: Path, module: str) -> None:
        self._errors = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "engine.child", str(home), str(os.getpid()), module]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, start_new_session=True
        )
        self.messages: Queue[dict[str, Any] | None] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.messages.put(json.loads(line))
        self.messages.put(None)

    def send(self, **message: Any) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            logger.warning("the child process is gone")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process and everything it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            logger.debug("child %s was gone already", self._process.pid)
        self._process.wait()

    def obituary(self) -> str:
        """How it ended, with the last it wrote to its error stream."""
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - STDERR_BYTES))
        return f"The child process ended by {how} while it worked.\n{self._errors.read().decode(errors='replace')}"


class Worker:
    """Takes runs from the ledger, one shard at a time, until it is asked to stop.

    `module` names the module with `plan`, `execute` and `conclude`.
    """

    def __init__(
        self, home: Path, *, queue_url: str = "", lease_seconds: float = 60, look_seconds: float = 5, module: str = EXECUTORS
    ) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{_start_time(os.getpid())}"
        self.store = Store(home)
        self._home, self._module, self._runs = home, module, import_module(module)
        self._lease, self._look = lease_seconds, look_seconds
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._doorbell = Doorbell(home, queue_url)
        self._doorbell.heard = lambda run_id: self._bell.set()
        self._child: Child | None = None

    def stop(self) -> None:
        """Give the current shard back and end. Safe to call from a signal handler."""
        self._stop.set()
        self._bell.set()

    def run(self) -> None:
        """Work until `stop` is called."""
        consumer = self._doorbell.huey.create_consumer(
            workers=1, worker_type="thread", periodic=False, initial_delay=0.1, backoff=1.15, max_delay=1.0, check_worker_health=False
        )
        consumer.start()
        self._obey_signals()
        self._release_the_dead()
        try:
            while not self._stop.is_set():
                self._bell.clear()
                self.store.ledger.present(self.name)
                if not self.work_once():
                    self._bell.wait(self._look)
        finally:
            self._end_child()
            consumer.stop(graceful=False)
            self.store.ledger.gone(self.name)
            self.store.close()

    def _obey_signals(self) -> None:
        """SIGTERM and Ctrl-C stop the worker, a second one ends it at once. After Huey, which registers its own."""

        def asked_to_stop(number: int, frame: object) -> None:
            signal.signal(number, signal.SIG_DFL)
            self.stop()

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, asked_to_stop)

    def work_once(self) -> bool:
        """Do one shard, or one step of planning or summing up. False when there was nothing to do."""
        for run in self.store.ledger.waiting():
            if self._stop.is_set():
                return False
            if self._advance(run):
                return True
        return False

    def _advance(self, run: Run) -> bool:
        shards = self.store.ledger.shards(run.id)
        try:
            if not shards:
                payloads = self._runs.plan(self.store, run)
                self.store.ledger.plan(run.id, payloads)
                shards = self.store.ledger.shards(run.id)
            if all(shard.state is State.DONE for shard in shards):
                self._runs.conclude(self.store, run)
                self.store.ledger.conclude(run.id)
                return True
        except Exception as error:
            logger.exception("run %s", run.id)
            self.store.ledger.fail_run(run.id, f"{type(error).__name__}: {error}")
            return True
        shard = self.store.ledger.claim(run.id, self.name, self._lease)
        if shard is None:
            return False
        self._do(run, shard)
        return True

    # One shard

    def _do(self, run: Run, shard: Shard) -> None:
        """Have the child execute a shard while its lease is kept alive and people's wishes are watched."""
        alone = run.kind is RunKind.TRAIN  # a training shares its process with nothing
        if alone:
            self._end_child()
        child = self._ready_child()
        child.send(what="work", run=run.id, shard=shard.id)
        try:
            self._watch(run, shard, child)
        except LostLease:
            self._end_child()
            logger.warning("lost the lease on shard %s of run %s", shard.number, run.id)
        if alone:
            self._end_child()

    def _watch(self, run: Run, shard: Shard, child: Child) -> None:
        beat, looked, stopping_since = time.monotonic(), 0.0, None
        while True:
            message = _next(child)
            if message is not None and self._hear(run, shard, child, message):
                return
            now = time.monotonic()
            if now - beat > self._lease / 4:
                beat = now
                self.store.ledger.heartbeat(shard, self._lease)
                self.store.ledger.present(self.name, run.id)
            if stopping_since is None and now - looked > POLL_SECONDS:
                looked = now
                wish = self.store.ledger.run(run.id)
                if wish.cancel_requested:
                    self._end_child()
                    self.store.ledger.cancelled_shard(shard)
                    return
                if wish.pause_requested or self._stop.is_set():
                    stopping_since = now
                    child.send(what="stop")
            if stopping_since is not None and now - stopping_since > STOP_SECONDS:
                self._end_child()
                self.store.ledger.release_shard(shard)
                return

    def _hear(self, run: Run, shard: Shard, child: Child, message: dict[str, Any]) -> bool:
        """Act on what the child says. True when the shard is over."""
        ledger, what = self.store.ledger, message["what"]
        if what == "progress":
            ledger.advance(shard, message["done"], message["total"])
        elif what == "log":
            ledger.log(run.id, message["text"], message["level"], shard.number)
        elif what == "done":
            ledger.finish_shard(shard)
        elif what == "stopped":
            ledger.release_shard(shard)
        else:
            error = message["error"] if what == "failed" else child.obituary()
            if what != "failed":
                self._child = None
            ledger.log(run.id, error, "error", shard.number)
            ledger.fail_shard(shard, error)
        return what not in ("progress", "log")

    def _ready_child(self) -> Child:
        if self._child is None or not self._child.alive:
            self._child = Child(self._home, self._module)
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _release_the_dead(self) -> None:
        """Take back at once what dead workers of this machine had leased, instead of waiting for the leases to end."""
        for worker in self.store.ledger.workers():
            host, pid, started = worker.name.rsplit(":", 2)
            if host == socket.gethostname() and _start_time(int(pid)) != started:
                self.store.ledger.release_owner(worker.name)
                self.store.ledger.gone(worker.name)


def _next(child: Child) -> dict[str, Any] | None:
    """The next message within a poll interval; the end of the child is a message too."""
    try:
        message = child.messages.get(timeout=POLL_SECONDS)
    except Empty:
        return None
    return {"what": "ended"} if message is None else message


def _start_time(pid: int) -> str:
    """When a process was started, in clock ticks since boot; with the pid it names a process for good. "" if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def run_worker(home: Path, *, queue_url: str = "", lease_seconds: float = 60, module: str = EXECUTORS) -> None:
    """A worker in this process, until SIGTERM or Ctrl-C; a second signal ends it at once."""
    Worker(home, queue_url=queue_url, lease_seconds=lease_seconds, module=module).run()

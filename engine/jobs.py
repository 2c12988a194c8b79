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

import msgspec
from huey import Huey, RedisHuey, SqliteHuey
from huey.consumer import Consumer
from huey.serializer import SignedSerializer
from huey.storage import SqliteStorage

from db.database import journal_mode, sqlite_module
from db.errors import Busy, LostLease, Unreachable, Unwritable, WinnowError
from db.records import Run, RunKind, Shard, State
from db.shared import Shared
from db.store import Store

logger = logging.getLogger(__name__)
sqlite = sqlite_module()

POLL_SECONDS = 0.3
REDIS_SECONDS = 5.0  # until a server counts as away
STOP_SECONDS = 8.0
MOST_PATIENCE = 30.0  # seconds between two tries while the database is away
STDERR_BYTES = 4096
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}  # others spin while they wait, on the cores of those they wait for
EXECUTORS = "engine.runs"
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Storage(SqliteStorage):
    """Huey's file on the SQLite library that the rest of the process uses."""

    operational_error = sqlite.OperationalError
    integrity_error = sqlite.IntegrityError

    def _create_connection(self) -> Any:
        connection = sqlite.connect(self.filename, timeout=self._timeout, check_same_thread=False)
        connection.isolation_level = None
        self._set_journal_mode(connection)
        connection.execute("PRAGMA synchronous=FULL")
        return connection


class _Consumer(Consumer):
    def _set_signal_handlers(self) -> None:
        """None: signals are the worker's business."""


class Doorbell:
    """Tells workers that a run may have work. Raises WinnowError for a Redis URL without the library for it."""

    def __init__(self, home: Path, shared: Shared = Shared()) -> None:  # noqa: B008 (it never changes)
        home.mkdir(parents=True, exist_ok=True)
        secret = shared.secret or _secret(home / "secret")
        serializer = SignedSerializer(secret=secret)  # messages are pickles: only our own are read
        common: dict[str, Any] = {"name": "winnow", "results": False, "serializer": serializer}
        self.huey: Huey = _redis(shared.queue_url, common) if shared.queue_url else _file(home / "queue.db", common)
        self.heard: Callable[[int], None] = lambda run_id: None
        self._task = self.huey.task(name="ring")(self._answer)

    def ring(self, run_id: int) -> None:
        """Wake a worker. A queue that cannot be reached is logged and no more: workers also look by themselves."""
        try:
            self._task(run_id)
        except Exception:
            logger.exception("could not ring; a worker will find the run when it next looks", extra={"run": run_id})

    def _answer(self, run_id: int) -> None:
        self.heard(run_id)


def _file(path: Path, common: dict[str, Any]) -> Huey:
    common |= {"storage_class": _Storage, "strict_fifo": True, "timeout": 10}
    return SqliteHuey(filename=str(path), journal_mode=journal_mode(tuple(sqlite.sqlite_version_info)), **common)


def _redis(url: str, common: dict[str, Any]) -> Huey:
    return RedisHuey(connection_pool=_connections(url), **common)


def _connections(url: str) -> Any:
    """To a Redis server. Raises WinnowError for what is no URL of one, and without the library for it."""
    try:
        import redis

        return redis.ConnectionPool.from_url(url, socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS)
    except ImportError as error:
        raise WinnowError("Redis needs a library that is not installed: pip install 'winnow[cluster]'") from error
    except ValueError as error:
        raise WinnowError(
            f"The setting queue_url is no URL of a Redis server: {error} Right is redis://HOST:6379/0."
        ) from error


def queue_state(url: str) -> dict[str, str]:
    """How a Redis server keeps what it is told: `appendonly` and `maxmemory-policy`; nothing where it does not say. Raises
    WinnowError when it does not answer."""
    connections = _connections(url)
    import redis

    server = redis.Redis(connection_pool=connections)
    try:
        server.ping()
        return {name: _text(server.config_get(name)[name]) for name in ("appendonly", "maxmemory-policy")}
    except redis.ResponseError:  # some providers keep their configuration to themselves
        return {}
    except redis.RedisError as error:
        raise WinnowError(f"The queue does not answer: {error}") from error
    finally:
        connections.disconnect()


def _text(told: Any) -> str:
    return told.decode() if isinstance(told, bytes) else str(told)


def _secret(path: Path) -> str:
    """A random secret, made at the first start, for its owner only. Whole or absent, whoever else starts just now."""
    if path.exists():
        return path.read_text()
    handle, draft = tempfile.mkstemp(dir=path.parent)  # mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(draft, path)
    except FileExistsError:
        logger.debug("%s is there already", path)
    finally:
        os.unlink(draft)
    return path.read_text()


class Child:
    """A spawned process that executes shards, one after the other, in a process group of its own.

    Spawned, never forked: CUDA does not survive a fork. It finds modules where this process does.
    """

    def __init__(self, home: Path, module: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process lives)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.child", str(home), str(os.getpid()), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=QUIET_THREADS
            | os.environ
            | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            start_new_session=True,
            text=True,
        )
        self._messages: Queue[dict[str, Any]] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        try:
            for line in self._process.stdout:
                if line.endswith("\n"):  # what a killed process was about to say is no message
                    self._messages.put(json.loads(line))
        finally:
            self._messages.put({"what": "ended"})

    def send(self, what: str, **values: Any) -> None:
        """Give an order. A child that is gone says so itself, by the message `ended`."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"what": what, **values}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            logger.warning("the child process %s is gone", self._process.pid)

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """The next message, if one comes in this time. The end of the child is a message too."""
        try:
            return self._messages.get(timeout=seconds)
        except Empty:
            return None

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
        self._errors.close()

    def obituary(self) -> str:
        """How it ended, with the last it wrote to its error stream."""
        try:
            code = self._process.wait(STOP_SECONDS)
            how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            how = "falling silent"
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - STDERR_BYTES))
        return f"The child process ended by {how} while it worked.\n{self._errors.read().decode(errors='replace')}"


class Worker:
    """Takes runs from the ledger, the oldest first and one shard at a time, until it is asked to stop.

    A worker that is silent for `lease_seconds` loses its shard to another; `look_seconds` is how often an idle one
    looks for work that nobody rang for. `module` names the module with `plan`, `execute` and `conclude`.
    """

    def __init__(
        self,
        home: Path,
        *,
        shared: Shared = Shared(),  # noqa: B008 (it never changes)
        lease_seconds: float = 60,
        look_seconds: float = 5,
        module: str = EXECUTORS,
    ) -> None:
        self.name = f"{_place()}:{os.getpid()}:{_start_time(os.getpid())}"
        self.store = Store(home, shared)
        self._ledger = self.store.ledger
        self._home, self._shared, self._module, self._runs = home, shared, module, import_module(module)
        self._lease, self._look = lease_seconds, look_seconds
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._doorbell = Doorbell(home, shared)
        self._doorbell.heard = lambda run_id: self._bell.set()
        self._child: Child | None = None
        self._failures = 0

    def stop(self) -> None:
        """Give the current shard back and end. Safe to call from a signal handler."""
        self._stop.set()
        self._bell.set()

    def run(self) -> None:
        """Work until `stop` is called, or SIGTERM, SIGHUP or Ctrl-C comes; a second one of them ends it at once."""
        self._obey_signals()
        consumer = _Consumer(self._doorbell.huey, worker_type="thread", periodic=False, max_delay=1.0)
        consumer.start()
        try:
            while not self._stop.is_set():
                self._bell.clear()
                if not self._step():
                    self._bell.wait(self._patience())
        finally:
            self._end_child()
            consumer.stop()
            self._leave()

    def _patience(self) -> float:
        """Seconds until the next look: after failures in a row 1, 2, 4 and so on."""
        return min(2.0 ** (self._failures - 1), MOST_PATIENCE) if self._failures else self._look

    def _leave(self) -> None:
        try:
            self._ledger.gone(self.name)
        except Unwritable as error:
            logger.warning("could not say goodbye; others will find this worker dead: %s", error)
        self.store.close()

    def _obey_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        wanted = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

        def asked_to_stop(number: int, frame: object) -> None:
            for each in wanted:
                signal.signal(each, signal.SIG_DFL)
            self.stop()

        for number in wanted:
            signal.signal(number, asked_to_stop)

    def _step(self) -> bool:
        try:
            self._tend()
            worked = self.work_once()
        except WinnowError as error:  # the disk is full, another process holds the database, or its server is away
            self._failures += 1
            logger.error("cannot work now; trying again in %g s: %s", self._patience(), error)
            self._end_child()
            return False
        self._failures = 0
        return worked

    def _tend(self, run_id: int | None = None) -> None:
        """Show that this worker is alive, and free what others have left behind: those of this machine that are dead at
        once, others when their leases run out."""
        self._ledger.present(self.name, run_id)
        for worker in self._ledger.workers():
            place, pid, started = worker.name.rsplit(":", 2)
            if place == _place() and _start_time(int(pid)) != started:
                self._ledger.expire_leases(dead_owner=worker.name)
                self._ledger.gone(worker.name)
        self._ledger.expire_leases()

    def work_once(self) -> bool:
        """Do one shard, or one step of planning or summing up. False when there was nothing to do."""
        return any(self._advance(run) for run in self._ledger.waiting_runs() if not self._stop.is_set())

    def _advance(self, run: Run) -> bool:
        shard = self._ledger.claim(run.id, self.name, self._lease)
        if shard is not None:
            self._do(run, shard)
            return True
        try:
            return self._plan(run) or self._conclude(run)
        except Exception as error:
            logger.exception("the run failed", extra={"run": run.id})
            self._ledger.fail_run(run.id, f"{type(error).__name__}: {error}")
            return True

    def _plan(self, run: Run) -> bool:
        """Write the shards of a run that has none yet. False when it has, or when there is nothing to do in it."""
        if self._ledger.shards(run.id):
            return False
        payloads = self._runs.plan(self.store, run)
        self._ledger.plan(run.id, payloads)
        return bool(payloads)

    def _conclude(self, run: Run) -> bool:
        """Sum up a run whose shards are all done. False when somebody else is still at one of them."""
        if any(shard.state is not State.DONE for shard in self._ledger.shards(run.id)):
            return False
        self._runs.conclude(self.store, run)
        self._ledger.conclude(run.id)
        logger.info("the run is done: %s", run.title, extra={"run": run.id})
        return True

    # One shard

    def _do(self, run: Run, shard: Shard) -> None:
        """Have the child execute a shard while its lease is kept alive and people's wishes are watched."""
        alone = run.kind is RunKind.TRAIN  # a training shares its process with nothing
        if alone:
            self._end_child()
        child = self._ready_child()
        child.send("work", run=run.id, shard=msgspec.to_builtins(shard))
        logger.info("the shard begins, attempt %s", shard.attempt, extra=_known(shard))
        try:
            self._watch(run, shard, child)
        except LostLease as lost:
            logger.warning("%s", lost, extra=_known(shard))
            self._end_child()
        if alone:
            self._end_child()

    def _watch(self, run: Run, shard: Shard, child: Child) -> None:
        """Until the shard is over. While the database is away, or somebody else keeps it locked, the child works on, as long as
        nobody else can be given the shard."""
        beat, patience, message = time.monotonic(), float("inf"), None
        while True:
            message = message or child.hear(POLL_SECONDS)
            now = time.monotonic()
            try:
                if message is not None and self._answer(run, shard, child, message):
                    return
                message = None
                if now - beat > self._lease / 4:
                    self._ledger.heartbeat(shard, self._lease)
                    beat = now
                    self._tend(run.id)
                wish = self._ledger.run(run.id)
                if wish.cancel_requested or now > patience:
                    self._end_child()
                    self._ledger.release_shard(shard)
                    return
                if patience == float("inf") and (wish.pause_requested or self._stop.is_set()):
                    patience = now + STOP_SECONDS
                    child.send("stop")
            except (Busy, Unreachable) as error:
                if now - beat > self._lease:
                    raise
                logger.warning("%s", error, extra=_known(shard))
                time.sleep(POLL_SECONDS)

    def _answer(self, run: Run, shard: Shard, child: Child, message: dict[str, Any]) -> bool:
        """Act on what the child says. True when the shard is over."""
        match message["what"]:
            case "progress":
                self._ledger.advance(shard, message["done"], message["total"])
                return False
            case "log":
                self._ledger.log(run.id, message["text"], message["level"], shard.number)
                logger.log(LEVELS.get(message["level"], logging.INFO), "%s", message["text"], extra=_known(shard))
                return False
            case "done":
                self._ledger.finish_shard(shard)
                logger.info("the shard is done", extra=_known(shard))
            case "stopped":
                self._ledger.release_shard(shard)
            case "failed":
                self._fail(shard, message["error"])
            case "ended":
                self._fail(shard, child.obituary())
                self._end_child()  # and what it may have started
        return True

    def _fail(self, shard: Shard, error: str) -> None:
        self._ledger.log(shard.run_id, error, "error", shard.number)
        logger.error("the shard failed: %s", error, extra=_known(shard))
        self._ledger.fail_shard(shard, error)

    def _ready_child(self) -> Child:
        if self._child is not None and not self._child.alive:
            self._end_child()
        if self._child is None:
            self._child = Child(self._home, self._module)
            self._child.send("open", shared=self._shared.settings())
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


def _known(shard: Shard) -> dict[str, int]:
    """What every line of the log says of a shard."""
    return {"run": shard.run_id, "shard": shard.number}


def _place() -> str:
    """Where a pid means one process: this host, since it was booted, in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{socket.gethostname()}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # no Linux
        return socket.gethostname()


def _start_time(pid: int) -> str:
    """When a process was started, in clock ticks since boot; with the pid it names a process for good. "" if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def run_worker(home: Path, shared: Shared, *, lease_seconds: float) -> None:
    """A worker in this process, until SIGTERM or Ctrl-C; a second signal ends it at once."""
    Worker(home, shared=shared, lease_seconds=lease_seconds).run()

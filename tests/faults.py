"""Faults made on purpose, and the protections against them, each of which can be switched off.

A test marked `@must_fail_without("the fence")` runs as it is, and again with that protection off, when its own check
(`promised`) has to fail: a test that cannot fail proves nothing. Child processes learn what is off from the environment,
as soon as they import this module, which also is the work of their shards (`plan`, `execute`, `conclude`).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import inspect
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_runs import conclude, execute, plan
from sqlalchemy import Engine, create_engine, event, exc

import db.backup
import db.blobs
import db.database
import db.formats
import db.ledger
import db.migrate
import db.review
import db.verdicts
import engine.jobs
from db.database import sqlite_module
from db.errors import WinnowError
from db.ledger import Ledger
from db.records import Decision, NewVerdict
from db.review import Review
from db.store import Store
from db.users import Role, User
from db.verdicts import Saved

__all__ = ["conclude", "execute", "plan"]

OFF = "WINNOW_TEST_WITHOUT"
HERE = Path(__file__).parent
SECONDS = 120.0  # a bound, not a measurement
Patch = pytest.MonkeyPatch


class Broken(AssertionError):
    """A promise that was not kept."""


def promised(kept: bool, what: str) -> None:
    """The check of a fault test. Raises Broken."""
    if not kept:
        raise Broken(what)


# Protections


def _early_answers(patch: Patch) -> None:
    decide = Review.decide

    def answered_first(self: Review, verdicts: Any) -> list[Saved]:
        threading.Timer(0.3, decide, (self, verdicts)).start()
        return [Saved(op_id=verdict.op_id, status="saved") for verdict in verdicts]

    patch.setattr(Review, "decide", answered_first)


def _forgetful_of_names(patch: Patch) -> None:
    append = db.verdicts._append

    def anew(connection: Any, verdict: NewVerdict, *more: Any) -> Saved:
        return append(connection, msgspec.structs.replace(verdict, op_id=f"{verdict.op_id}/{uuid.uuid4()}"), *more)

    patch.setattr(db.verdicts, "_append", anew)


def _repeating_targets(patch: Patch) -> None:
    row = db.review._candidate_row
    patch.setattr(db.review, "_candidate_row", lambda item, *more: row(item, *more) | {"variant": time.time_ns()})


def _no_fence(patch: Patch) -> None:
    for module in (db.review, db.ledger):
        patch.setattr(module, "check_fence", lambda connection, shard: None)


def _orphans(patch: Patch) -> None:
    main = sys.modules["__main__"].__spec__
    if main is not None and main.name == "engine.child":
        ctypes.CDLL(None).prctl(1, 0)  # PR_SET_PDEATHSIG: nothing
        patch.setattr(os, "_exit", lambda code: None)  # at the end of the pipe


def _never_looks(patch: Patch) -> None:
    start = engine.jobs.Worker.__init__
    patch.setattr(
        engine.jobs.Worker, "__init__", lambda self, home, **more: start(self, home, **more | {"look_seconds": 3600})
    )


def _deferred(patch: Patch) -> None:
    make = db.database._file
    patch.setattr(
        db.database, "_file", lambda path, *, begin, read_only: make(path, begin="BEGIN", read_only=read_only)
    )


def _by_the_clock(patch: Patch) -> None:
    log = db.verdicts.log_of
    patch.setattr(db.verdicts, "log_of", lambda *given: sorted(log(*given), key=lambda one: -one.at))


@contextmanager
def _as_the_driver_does(path: Path) -> Iterator[Any]:
    made = create_engine(f"sqlite:///{path}", module=sqlite_module())
    with made.begin() as connection:
        yield connection
    made.dispose()


def _in_place(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        os.fsync(file.fileno())
        file.write(data[len(data) // 2 :])


@contextmanager
def _in_view(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _statement_by_statement(patch: Patch) -> None:
    make = db.database._file
    nothing = "SELECT 1"
    patch.setattr(
        db.database, "_file", lambda path, *, begin, read_only: make(path, begin=nothing, read_only=read_only)
    )


async def _anybody(*_: Any) -> User:
    return User(1, "anybody", Role.ADMIN, False, 0.0)


def _in_this_process(self: Any, order: Any) -> Any:
    module, function = self._command[-2:]
    return getattr(import_module(module), function)(order)


def _unpickles(patch: Patch) -> None:
    import torch

    load = torch.load
    patch.setattr(torch, "load", lambda file, **options: load(file, **options | {"weights_only": False}))


def _any_box(patch: Patch) -> None:
    for module in ("annotations", "odvg"):
        patch.setattr(f"db.formats.{module}.check_box", lambda *given: True)


def _blind(patch: Patch) -> None:
    take = db.backup._take
    patch.setattr(db.backup, "_take", lambda *given: iter(list(take(*given))[:0]))
    patch.setattr(db.backup, "database_faults", lambda path: iter(()))


def _gives_up(patch: Patch) -> None:
    """A page that keeps nothing of what could not be sent."""
    from studio.static import files

    name, told = "review_card/outbox.js", b"this.problem = error.message;"
    assert files()[name].count(told) == 1
    patch.setitem(files(), name, files()[name].replace(told, told + b" this.waiting = [];"))


PROTECTIONS: Mapping[str, Callable[[Patch], None]] = {
    "the answer after the commit": _early_answers,
    "one verdict for a name": _forgetful_of_names,
    "one candidate for a target": _repeating_targets,
    "the version a person saw": lambda patch: patch.setattr(db.verdicts, "_refused", lambda *given: None),
    "what others hold": lambda patch: patch.setattr("db.people.People.take", lambda self, ids, *given: set(ids)),
    "the order of the log": _by_the_clock,
    "the fence": _no_fence,
    "heartbeats": lambda patch: patch.setattr(Ledger, "heartbeat", lambda *given: None),
    "three attempts": lambda patch: patch.setattr(db.ledger, "ATTEMPTS", 10**9),
    "death with the parent": _orphans,
    "looking without a ring": _never_looks,
    "synchronous FULL": lambda patch: patch.setitem(db.database.PRAGMAS, "synchronous", "NORMAL"),
    "BEGIN IMMEDIATE": _deferred,
    "the busy timeout": lambda patch: patch.setitem(db.database.PRAGMAS, "busy_timeout", "0"),
    "errors in words": lambda patch: patch.setattr(db.database, "_for_people", lambda error: None),
    "one transaction": lambda patch: patch.setattr(db.migrate, "_alone", _as_the_driver_does),
    "the copy before": lambda patch: patch.setattr(db.migrate, "copy_database", lambda source, target: None),
    "whole or absent": lambda patch: patch.setattr(db.blobs, "_write_durably", _in_place),
    "exports that appear": lambda patch: patch.setattr(db.formats, "_appearing", _in_view),
    "all or nothing": _statement_by_statement,
    "the origin": lambda patch: patch.setattr("studio.guard.from_our_pages", lambda method, headers: True),
    "roles": lambda patch: patch.setattr("db.users.Role.covers", lambda self, other: True),
    "sign-in": lambda patch: patch.setattr("studio.guard.Guard._user", _anybody),
    "a pause between tries": lambda patch: patch.setattr("studio.auth.Attempts.take", lambda *given: 0.0),
    "the gate of addresses": lambda patch: patch.setattr("engine.outbound._judge", lambda *given: None),
    "a limited child": lambda patch: patch.setattr("db.limited.Limited.ask", _in_this_process),
    "roots": lambda patch: patch.setattr("studio.roots.Roots.admit", lambda self, path: path),
    "safe loading": _unpickles,
    "checked boxes": _any_box,
    "names inside": lambda patch: patch.setattr("db.formats.archives.climbs", lambda name: False),
    "the outbox": lambda patch: None,  # the page that a test opens learns of it from the environment
    "trying again": _gives_up,
    "escaping": lambda patch: patch.setattr("studio.markup.escape", lambda text: text),
    "one studio for a folder": lambda patch: patch.setattr(fcntl, "flock", lambda *given: None),
    "no network file system": lambda patch: patch.setattr("studio.folder.NETWORK_SYSTEMS", set()),
    "the backup API": lambda patch: patch.setattr(
        db.backup, "copy_database", lambda a, b: b.write_bytes(a.read_bytes())
    ),
    "digests": _blind,
}


@contextmanager
def switched_off(name: str) -> Iterator[None]:
    """Without the protection in this process, and in those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        PROTECTIONS[name](patch)
        patch.setenv(OFF, name)
        yield


def must_fail_without(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test as it is, and once without each of these protections: then it has to raise Broken."""

    def wrapped(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(without: str, **given: Any) -> None:
            if not without:
                test(**given)
                return
            with switched_off(without), pytest.raises(Broken):
                test(**given)

        signature = inspect.signature(test)
        extra = inspect.Parameter("without", inspect.Parameter.KEYWORD_ONLY)
        run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])
        ids = ["protected", *(f"without {name}" for name in names)]
        return pytest.mark.parametrize("without", ["", *names], ids=ids)(run)

    return wrapped


# Processes


def start(role: str, *arguments: object, prefix: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[bytes]:
    """A fresh interpreter that plays a role (`ROLES`), in a process group of its own."""
    command = [*prefix, sys.executable, "-c", "import faults; faults.main()", role, *map(str, arguments)]
    paths = os.pathsep.join((str(HERE), str(HERE.parent)))
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, start_new_session=True, **options)


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of the process and of all in its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.poll()
    process.wait()


class Fork:
    """A copy of this process that does some work and ends, in a fraction of the time that a fresh interpreter takes; it does not
    outlive the original."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            code = 1
            try:
                work()
                code = 0
            except BaseException:  # noqa: BLE001 (told by the exit code; pytest must not go on in the copy)
                traceback.print_exc()
            finally:
                os._exit(code)

    def kill(self) -> int:
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """The exit code; negative: the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def interrupted(place: Path, act: Callable[[], object], at: int, how: str) -> int:
    """Do an act in a copy of this process, which is killed (`how` is "kill") at its step number `at`, or finds the disk full
    from then on ("full"). A step is what changes the disk: a file below `place` that is opened to be written, renamed, linked or
    removed, a folder that is made, any sync, and any statement that writes to a database.

    Returns how many steps there were when nothing happened, 0 when the fault came and was told in words or by the end of the
    process. Raises Broken when it came as a bug.
    """
    told = place.parent / f"steps-{uuid.uuid4().hex}"

    def work() -> None:
        steps = _Steps(place, at, how)
        try:
            act()
        except WinnowError:
            os._exit(FULL)
        told.write_text(str(steps.count))

    code = Fork(work).wait()
    promised(code in (0, FULL, -signal.SIGKILL), f"step {at} failed as a bug (exit code {code})")
    return int(told.read_text()) if code == 0 else 0


FULL = 28
NEEDS_ROOM = {"open", "os.mkdir", "os.rename", "os.link", "fsync", "statement"}


class _Steps:
    """Counts the steps of this process from here on, and brings the fault. There is no way back from an audit hook."""

    def __init__(self, place: Path, at: int, how: str) -> None:
        self._place, self._at, self._how = str(place), at, how
        self.count = 0
        sync = os.fsync
        os.fsync = lambda file: (self.step("fsync"), sync(file))[1]
        sys.addaudithook(self._heard)
        event.listen(Engine, "before_cursor_execute", self._executed)
        event.listen(Engine, "commit", lambda connection: self.step("statement"))

    def _heard(self, what: str, given: tuple[Any, ...]) -> None:
        if what == "open":
            changes = isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            changes = what in ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir")
        if changes and str(given[0]).startswith(self._place):
            self.step(what)

    def _executed(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if not statement.lstrip().startswith(("SELECT", "PRAGMA", "WITH")):
            self.step("statement")

    def step(self, what: str) -> None:
        self.count += 1
        if self.count < self._at or self._at == 0:
            return
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "statement":
            raise exc.OperationalError("", {}, sqlite_module().OperationalError("database or disk is full"))
        if what in NEEDS_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wait_for(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def decide(home: Path, name: str, ids: Sequence[int], acks: Path, count: int = 10**9) -> None:
    """Decide on the candidates in turn, and note each answer after it was given."""
    store = Store(home)
    with acks.open("ab", buffering=0) as answers:
        for number in range(count):
            decision = Decision.ACCEPT if number % 3 else Decision.REJECT
            verdict = NewVerdict(
                op_id=f"{name}-{number}", candidate_id=ids[number % len(ids)], decision=decision, reviewer=name
            )
            (saved,) = store.review.decide([verdict])
            if saved.status in ("saved", "repeated"):
                answers.write(f"{verdict.op_id}\n".encode())


def answered(acks: Path) -> list[str]:
    """The names of the verdicts that were acknowledged; what was about to be noted is none."""
    return acks.read_text().rpartition("\n")[0].split() if acks.exists() else []


def kept(database: Path) -> list[str]:
    """The names of the verdicts that a database holds, found by SQLite alone. Raises Broken when the file is damaged."""
    connection: Any = sqlite_module().connect(database)
    try:
        connection.execute("PRAGMA synchronous=OFF")  # it only looks; closing it would sync the file
        (state,) = connection.execute("PRAGMA integrity_check").fetchone()
        promised(state == "ok", f"{database.name} is damaged: {state}")
        return [name for (name,) in connection.execute("SELECT op_id FROM verdict ORDER BY id")]
    except sqlite_module().DatabaseError as error:
        raise Broken(f"{database.name} does not open: {error}") from error
    finally:
        connection.close()


def _decide(home: str, name: str, first: str, last: str, acks: str, count: str) -> None:
    decide(Path(home), name, range(int(first), int(last) + 1), Path(acks), int(count))


def _work(home: str, lease: str = "2", look: str = "0.2") -> None:
    engine.jobs.Worker(Path(home), lease_seconds=float(lease), look_seconds=float(look), module="faults").run()


def _hold(path: str, seconds: str) -> None:
    """Hold the write lock of a database, and say when it is held."""
    connection = sqlite_module().connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    time.sleep(float(seconds))
    connection.execute("ROLLBACK")


def _full(home: str, place: str) -> None:
    """Fill a small file system, see what is told, make room, and go on."""
    ballast = Path(place) / "ballast"
    ballast.write_bytes(bytes(2**20))
    shutil.copytree(home, Path(place) / "home")
    store, acks = Store(Path(place) / "home"), ["again"]
    for number in range(10**4):
        verdict = NewVerdict(op_id=f"{number}", candidate_id=1, decision=Decision.ACCEPT, reason="x" * 5000)
        try:
            store.review.decide([verdict])
        except WinnowError:
            print("verdict refused in words")
            break
        acks.append(verdict.op_id)
    try:
        store.blobs.put(bytes(2**23))
    except WinnowError:
        print("blob refused in words")
    ballast.unlink()
    drafts = list(store.blobs.folder.rglob(".new-*"))
    print("whole" if set(kept(store.home / "winnow.db")) == set(acks[1:]) and not drafts else f"broken: {drafts}")
    store.review.decide([NewVerdict(op_id="again", candidate_id=1, decision=Decision.ACCEPT)])
    print("goes on" if set(kept(store.home / "winnow.db")) == set(acks) else "does not go on")


ROLES: Mapping[str, Callable[..., None]] = {
    "decide": _decide,
    "work": _work,
    "hold": _hold,
    "full": _full,
}


def main() -> None:
    """Play the role of the command line."""
    ROLES[sys.argv[1]](*sys.argv[2:])


if os.environ.get(OFF):
    PROTECTIONS[os.environ[OFF]](pytest.MonkeyPatch())

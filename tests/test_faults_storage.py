"""What is acknowledged stays: kills, power cuts, full disks, locks, and people who decide at once."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import candidates, leased, small_document
from faults import Broken, Fork, answered, decide, kept, kill, must_fail_without, promised, start, wait_for

import db.blobs
from db.blobs import Blobs
from db.database import Database
from db.errors import WinnowError
from db.records import Decision, NewVerdict
from db.store import Store

DATABASE = "winnow.db"
strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with 30 candidates, ids 1 to 30."""
    place = tmp_path_factory.mktemp("template")
    store = Store(place / "home")
    dataset = store.datasets.import_document(small_document(place / "files", images=2), "small")
    assert candidates(store, dataset.id, leased(store, dataset.id), 30) == list(range(1, 31))
    store.close()
    return place / "home"


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "home")


def verdict(op_id: str, candidate_id: int = 1, **more: object) -> NewVerdict:
    return NewVerdict(op_id=op_id, candidate_id=candidate_id, decision=Decision.ACCEPT, **more)


# Kills


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.fault)])
@must_fail_without("the answer after the commit", "one verdict for a name")
def test_kill_9_loses_and_doubles_no_acknowledged_verdict(home: Path, tmp_path: Path, kills: int) -> None:
    """Every process begins again with the verdicts of the one before, as pages do whose verdicts were not answered."""
    acks, chance = tmp_path / "acks", random.Random(kills)
    for _ in range(kills):
        before = len(answered(acks))
        process = Fork(lambda: decide(home, "r", range(1, 31), acks))
        assert wait_for(lambda before=before: len(answered(acks)) > before + 2)
        time.sleep(chance.uniform(0.0, 0.1))
        assert process.kill() == -signal.SIGKILL
        stored = kept(home / DATABASE)
        lost = set(answered(acks)) - set(stored)
        promised(not lost, f"acknowledged and lost: {sorted(lost)[:5]}")
        names = [name.split("/")[0] for name in stored]
        promised(len(names) == len(set(names)), "a verdict is stored twice")


# Power cuts


CALL = re.compile(
    r'\d+ +(\w+)\(\d+<((?:\\x[0-9a-f]{2})+)>(?:, "((?:\\x[0-9a-f]{2})*)")?(?:, (\d+))?(?:, (\d+))?\) += \d+'
)


class Disk:
    """Some files as a disk holds them that loses what was not synced, wholly or, as chance will have it, in part."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.safe = {name: bytearray(data) for name, data in files.items()}
        self.pending: dict[str, list[tuple[int, bytes | None]]] = {name: [] for name in files}

    def sync(self, name: str) -> None:
        _apply(self.safe[name], self.pending[name])
        self.pending[name] = []

    def cut(self, folder: Path, chance: random.Random | None) -> Path:
        """Write what is left of the files, and return the first one."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, data in self.safe.items():
            left = bytearray(data)
            _apply(left, [one for one in self.pending[name] if chance is not None and chance.random() < 0.5])
            (folder / name).write_bytes(left)
        return folder / next(iter(self.safe))


def _apply(data: bytearray, writes: list[tuple[int, bytes | None]]) -> None:
    for offset, piece in writes:
        if piece is None:
            del data[offset:]
        else:
            data.extend(bytes(max(0, offset - len(data))))
            data[offset : offset + len(piece)] = piece


def replayed(trace: Path, disk: Disk, acks: list[str]) -> Iterator[str]:
    """Do again what a process did to the files of the disk; yields the call that was last, acknowledged verdicts in `acks`."""
    for line in trace.read_text().splitlines():
        found = CALL.match(line)
        if found is None:
            continue
        call, path, data, number, offset = found.groups()
        name = Path(_bytes(path).decode()).name
        if name == "acks" and call == "write":
            acks.append(_bytes(data).decode().strip())
        elif call == "pwrite64":
            disk.pending[name].append((int(offset), _bytes(data)))
        elif call == "ftruncate":
            disk.pending[name].append((int(number), None))
        elif call in ("fsync", "fdatasync"):
            disk.sync(name)
        yield call


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@strace
@pytest.mark.fault
@must_fail_without("synchronous FULL")
def test_a_power_cut_at_any_call_loses_no_acknowledged_verdict(home: Path, tmp_path: Path) -> None:
    """The calls of a process are recorded, and the files rebuilt as they would be after a cut behind each of them."""
    files = [home / name for name in (DATABASE, f"{DATABASE}-wal")]
    disk = Disk({file.name: file.read_bytes() if file.exists() else b"" for file in files})
    watched = [part for file in (*files, tmp_path / "acks") for part in ("-P", str(file))]
    calls = "trace=pwrite64,write,fsync,fdatasync,ftruncate"
    prefix = ("strace", "-f", "-y", "-xx", "-s", "1000000", "-o", str(tmp_path / "trace"), "-e", calls, *watched)
    assert start("decide", home, "r", 1, 30, tmp_path / "acks", 130, prefix=prefix).wait() == 0
    acks: list[str] = []
    chance, cuts = random.Random(0), 0
    for call in replayed(tmp_path / "trace", disk, acks):
        if call == "write" or chance.random() < 0.03:
            for luck in (None, chance):
                stored = kept(disk.cut(tmp_path / "after", luck))
                promised(set(acks) <= set(stored), f"{len(set(acks) - set(stored))} of {len(acks)} are lost")
                cuts += 1
    assert len(acks) == 130 and cuts > 260
    assert acks == answered(tmp_path / "acks")


@must_fail_without("synchronous FULL")
def test_a_commit_is_on_the_disk_before_it_is_answered(store: Store) -> None:
    with store._database.write() as connection:
        asked = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    promised(asked == 2, f"synchronous is {asked}, expected 2 (FULL)")


def test_a_blob_is_synced_before_it_gets_its_name_and_its_folder_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(db.blobs.os, name, lambda *given, real=real, name=name: (done.append(name), real(*given)))
    Blobs(tmp_path).put(b"something")
    assert done == ["fsync", "replace", "fsync"]


@strace
@pytest.mark.fault
@pytest.mark.parametrize("fault", ["error=EIO", "signal=KILL"])
@must_fail_without("the answer after the commit")
def test_whichever_call_to_the_disk_fails_what_was_answered_is_there(home: Path, tmp_path: Path, fault: str) -> None:
    """The n-th write, sync or truncation of the database fails, or the process is killed at it."""
    watched = [part for name in (DATABASE, f"{DATABASE}-wal") for part in ("-P", str(home / name))]
    for when in (1, 9, 50, 120):
        acks = tmp_path / f"acks{when}"
        inject = f"inject=pwrite64,fsync,fdatasync,ftruncate:{fault}:when={when}+"
        process = start(
            "decide",
            home,
            f"n{when}",
            1,
            30,
            acks,
            30,
            prefix=("strace", "-qq", "-f", "-o", "/dev/null", "-e", inject, *watched),
        )
        promised(process.wait() != 0, f"nobody noticed the fault at call {when}")
        lost = set(answered(acks)) - set(kept(home / DATABASE))
        promised(not lost, f"{len(lost)} answered verdicts are lost by a fault at call {when}")
    store = Store(home)
    assert store.review.decide([verdict("afterwards")])[0].status == "saved"
    store.close()


# Full disks


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file may grow over 1.5 MiB: the kernel refuses the write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**19, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@must_fail_without("whole or absent")
def test_a_blob_that_does_not_fit_leaves_nothing_behind(tmp_path: Path, no_room: None) -> None:
    blobs = Blobs(tmp_path / "blobs")
    with pytest.raises((WinnowError, OSError)):
        blobs.put(bytes(2 * 2**20))
    left = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    promised(not left, f"a half blob is left: {left}")
    assert blobs.get(blobs.put(b"small")) == b"small"


@must_fail_without("errors in words")
def test_a_full_disk_is_told_loses_nothing_and_all_goes_on_when_there_is_room(home: Path, no_room: None) -> None:
    store = Store(home)
    acks: list[str] = []
    message = ""
    for number in range(10**4):
        try:
            store.review.decide([verdict(f"full-{number}", 1 + number % 30, reason="x" * 5000)])
        except Exception as error:  # noqa: BLE001 (which one is what is tested)
            promised(isinstance(error, WinnowError), f"a raw {error!r:.200} instead of words")
            message = str(error)
            break
        acks.append(f"full-{number}")
    assert "disk is full" in message and acks
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert store.review.decide([verdict("room again")])[0].status == "saved"
    store.close()
    assert kept(home / DATABASE) == [*acks, "room again"]


@pytest.mark.fault
def test_a_disk_that_is_really_full(home: Path, tmp_path: Path) -> None:
    """On a file system of 6 MiB of its own, where the system lets one be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=6m none "{place}" && exec "$@"', "sh"]
    if subprocess.run([*mounted, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system mounts no small file system for its users")
    process = start("full", home, place, prefix=tuple(mounted), stdout=subprocess.PIPE)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert told.decode().splitlines() == ["verdict refused in words", "blob refused in words", "whole", "goes on"]


# Locks


@must_fail_without("the busy timeout")
def test_a_write_waits_for_another_process(home: Path) -> None:
    store = Store(home)
    process = start("hold", home / DATABASE, 1.0, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    try:
        store.review.decide([verdict("patient")])
    except WinnowError as error:
        raise Broken(str(error)) from error
    finally:
        process.wait()
        process.stdout.close()
        store.close()
    assert kept(home / DATABASE) == ["patient"]


@must_fail_without("errors in words")
def test_a_lock_that_does_not_end_is_told_and_nothing_is_stored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(db.database.PRAGMAS, "busy_timeout", "200")
    store = Store(home)
    process = start("hold", home / DATABASE, 60, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    try:
        store.review.decide([verdict("impatient")])
    except Exception as error:  # noqa: BLE001 (which one is what is tested)
        promised(isinstance(error, WinnowError) and "locked" in str(error), f"a raw {error!r:.200} instead of words")
    finally:
        kill(process)
        process.stdout.close()
    assert kept(home / DATABASE) == []
    assert store.review.decide([verdict("impatient")])[0].status == "saved"
    store.close()


@must_fail_without("BEGIN IMMEDIATE")
def test_writers_of_several_processes_never_meet_in_the_middle(tmp_path: Path) -> None:
    """Each reads and then writes. Two connections stand for two processes: they share no lock."""
    databases = [Database(tmp_path / "counter.db") for _ in range(4)]
    with databases[0].write() as connection:
        connection.exec_driver_sql("CREATE TABLE counter (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO counter VALUES (0)")
    errors: list[str] = []

    def count(database: Database) -> None:
        for _ in range(15):
            try:
                with database.write() as connection:
                    (n,) = connection.exec_driver_sql("SELECT n FROM counter").one()
                    time.sleep(0.002)
                    connection.exec_driver_sql(f"UPDATE counter SET n = {n + 1}")
            except WinnowError as error:
                errors.append(str(error))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, databases))
    with databases[0].read() as connection:
        (n,) = connection.exec_driver_sql("SELECT n FROM counter").one()
    for database in databases:
        database.close()
    promised(not errors, f"{len(errors)} of 60 writes failed: {errors[:1]}")
    promised(n == 60, f"{60 - n} of 60 updates are lost")


# People who decide at once, and clocks


@pytest.mark.parametrize(("people", "shared"), [(6, 15), pytest.param(20, 1000, marks=pytest.mark.fault)])
@must_fail_without("the version a person saw")
def test_of_those_who_decide_at_once_one_wins_and_the_others_are_told_by_whom(
    tmp_path: Path, people: int, shared: int
) -> None:
    store = Store(tmp_path / "home")
    dataset = store.datasets.import_document(small_document(tmp_path / "files", images=1), "small")
    ids = candidates(store, dataset.id, leased(store, dataset.id), shared)
    together, two_won = threading.Barrier(people), threading.Event()
    first: dict[int, str] = {}

    def judge(name: str) -> dict[int, str]:
        together.wait()
        told: dict[int, str] = {}
        for i in ids:
            (saved,) = store.review.decide([verdict(f"{name}-{i}", i, reviewer=name, seen=0)])
            told[i] = saved.theirs.reviewer if saved.theirs else name
            if first.setdefault(i, told[i]) != told[i]:
                two_won.set()
            if two_won.is_set():
                break
        return told

    with ThreadPoolExecutor(people) as pool:
        winners = list(pool.map(judge, [f"person{n}" for n in range(people)]))
    log = store.review.verdicts(limit=10**6)
    store.close()
    promised(not two_won.is_set(), f"{len(log)} verdicts on {len(first)} candidates: some replaced others silently")
    assert len(log) == shared
    assert all(told == winners[0] for told in winners)
    assert {one.candidate_id: one.reviewer for one in log} == winners[0]


@must_fail_without("the order of the log")
def test_a_clock_that_goes_back_changes_no_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(home)
    store.review.decide([verdict("first")])
    monkeypatch.setattr(time, "time", lambda: 1.0)
    store.review.decide([NewVerdict(op_id="second", candidate_id=1, decision=Decision.REJECT)])
    store.review.decide([verdict("third")])
    store.review.decide([NewVerdict(op_id="back", candidate_id=1, decision=Decision.UNDO, undoes="third")])
    human = store.review.candidate(1).human
    store.close()
    promised(human == "reject", f"the latest decision that stands is reject, and {human} counts")

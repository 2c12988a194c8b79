"""Workers as real processes: nothing is lost and nothing done twice, however they end."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from db.records import Run, RunKind, State
from db.store import Store
from engine.jobs import Doorbell

HERE = Path(__file__).parent
SECONDS = 40.0  # generous: a bound, not a measurement


@pytest.fixture
def workers(store: Store) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts workers on the store; all are killed in the end."""
    started: list[subprocess.Popen[bytes]] = []
    code = "import sys; from pathlib import Path; from engine.jobs import run_worker; run_worker(Path(sys.argv[1]), lease_seconds=3, module='fake_runs')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))}

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", code, str(store.home)], env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def queued(store: Store, *payloads: dict[str, Any], after: Run | None = None, planned: bool = True, **options: Any) -> Run:
    run = store.ledger.create_run(
        RunKind.GENERATE, "fake", dataset_id=None, recipe="", options=options, seed=0, versions={}, after_id=after.id if after else None
    )
    if planned:
        store.ledger.plan(run.id, [(payload, payload["items"]) for payload in payloads])
    return run


def until(store: Store, run: Run, *states: State) -> Run:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        now = store.ledger.run(run.id)
        if now.state in states:
            return now
        time.sleep(0.05)
    raise AssertionError(f"run is {store.ledger.run(run.id)}, shards {store.ledger.shards(run.id)}")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def items(store: Store) -> list[str]:
    path = store.home / "items.txt"
    return sorted(path.read_text().split()) if path.exists() else []


def expected(run: Run, *counts: int) -> list[str]:
    return sorted(f"{run.id}/{shard}/{item}" for shard, count in enumerate(counts) for item in range(count))


def test_a_run_and_the_one_after_it_are_done_once(store: Store, workers: Callable[[], Any]) -> None:
    run = queued(store, {"items": 3}, {"items": 2})
    follower = queued(store, after=run, planned=False)
    workers()
    done = until(store, follower, State.DONE)
    assert items(store) == expected(run, 3, 2) + expected(follower, 2, 2)
    assert (done.done, done.total, done.result) == (4, 4, {"shards": 2})
    assert "shard finished" in [line.text for line in store.ledger.logs(run.id)]


def test_a_ring_wakes_a_worker(store: Store, workers: Callable[[], Any]) -> None:
    workers()
    wait_for(lambda: bool(store.ledger.workers()))
    run = queued(store, {"items": 1})
    bell = Doorbell(store.home)
    bell.ring(run.id)
    bell.ring(run.id)
    until(store, run, State.DONE)
    assert items(store) == expected(run, 1)


def test_the_secret_is_readable_by_its_owner_only(store: Store) -> None:
    Doorbell(store.home)
    assert stat.S_IMODE((store.home / "secret").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", ["raise", "exit", "sys.exit", "kill"])
def test_a_shard_that_fails_once_is_done_at_the_second_attempt(store: Store, workers: Callable[[], Any], mode: str) -> None:
    run = queued(store, {"items": 1, "mode": mode}, {"items": 1})
    workers()
    until(store, run, State.DONE)
    assert items(store) == expected(run, 1, 1)
    assert store.ledger.shards(run.id)[0].attempt == 2


def test_a_poison_shard_is_quarantined_and_the_others_are_done(store: Store, workers: Callable[[], Any]) -> None:
    run = queued(store, {"items": 1, "mode": "raise", "always": True}, {"items": 2})
    follower = queued(store, after=run, planned=False)
    workers()
    failed = until(store, run, State.FAILED)
    assert failed.error is not None and "a broken item" in failed.error
    poisoned, fine = store.ledger.shards(run.id)
    assert (poisoned.state, poisoned.attempt, fine.state) == (State.FAILED, 3, State.DONE)
    assert poisoned.error is not None and "Traceback" in poisoned.error
    assert until(store, follower, State.CANCELLED).error == f"Run {run.id}, which this one waited for, is failed."


def test_a_run_that_cannot_be_planned_fails_with_the_reason(store: Store, workers: Callable[[], Any]) -> None:
    run = queued(store, planned=False, bad_plan=True)
    workers()
    assert until(store, run, State.FAILED).error == "ValueError: cannot plan this"


def test_cancel_ends_a_hanging_child_and_is_final(store: Store, workers: Callable[[], Any]) -> None:
    run = queued(store, {"items": 1, "mode": "hang", "always": True}, {"items": 1})
    worker = workers()
    wait_for(lambda: store.ledger.run(run.id).state is State.RUNNING)
    store.ledger.request_cancel(run.id)
    until(store, run, State.CANCELLED)
    wait_for(lambda: not psutil.Process(worker.pid).children())
    assert store.ledger.waiting() == []


def test_pause_and_resume_lose_and_repeat_no_shard(store: Store, workers: Callable[[], Any]) -> None:
    run = queued(store, *[{"items": 1, "seconds": 0.2}] * 4)
    workers()
    wait_for(lambda: bool(items(store)))
    store.ledger.request_pause(run.id)
    until(store, run, State.PAUSED)
    store.ledger.request_resume(run.id)
    until(store, run, State.DONE)
    assert set(items(store)) == set(expected(run, 1, 1, 1, 1))


def test_retry_does_what_failed(store: Store, workers: Callable[[], Any]) -> None:
    run = queued(store, {"items": 1, "mode": "raise", "always": True})
    workers()
    until(store, run, State.FAILED)
    store.ledger.request_retry(run.id)
    assert until(store, run, State.FAILED).error
    assert store.ledger.shards(run.id)[0].attempt == 3


def test_kill_9_of_a_worker_takes_its_child_along_and_another_goes_on(store: Store, workers: Callable[[], Any]) -> None:
    run = queued(store, *[{"items": 1, "seconds": 0.3}] * 4)
    worker = workers()
    wait_for(lambda: bool(items(store)))
    children = psutil.Process(worker.pid).children(recursive=True)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert children and not alive
    workers()
    until(store, run, State.DONE)
    assert set(items(store)) == set(expected(run, 1, 1, 1, 1))


def test_two_workers_share_a_run_without_doubling(store: Store, workers: Callable[[], Any]) -> None:
    run = queued(store, *[{"items": 1, "seconds": 0.1}] * 8)
    workers()
    workers()
    until(store, run, State.DONE)
    assert items(store) == expected(run, *[1] * 8)


def test_a_worker_that_is_asked_to_stop_gives_its_shard_back(store: Store, workers: Callable[[], Any]) -> None:
    run = queued(store, {"items": 40, "seconds": 0.2})
    worker = workers()
    wait_for(lambda: bool(items(store)))
    worker.terminate()
    assert worker.wait(SECONDS) == 0
    (shard,) = store.ledger.shards(run.id)
    assert (shard.state, shard.attempt) == (State.QUEUED, 0)
    assert store.ledger.workers() == []

"""Workers as real processes: nothing is lost and nothing stored twice, however they end.

Where a protection can be switched off, the same test shows that the fault then appears.
"""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import small_document

from db.records import Run, RunKind, State
from db.store import Store
from engine.jobs import Doorbell

HERE = Path(__file__).parent
SECONDS = 40.0  # generous: a bound, not a measurement
LEASE, LOOK = 2.0, 0.2
CODE = """
import sys
from pathlib import Path
from db.ledger import Ledger
from engine.jobs import Worker
home, lease, look, without = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
if without == "heartbeat":
    Ledger.heartbeat = lambda *args: None
Worker(home, lease_seconds=lease, look_seconds=look, module="fake_runs").run()
"""
Start = Callable[..., subprocess.Popen[bytes]]


@contextmanager
def starting(store: Store) -> Iterator[Start]:
    """Starts workers on the store; all are killed in the end."""
    started: list[subprocess.Popen[bytes]] = []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))}

    def start(*, look: float = LOOK, without: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CODE, str(store.home), str(LEASE), str(look), without]
        started.append(subprocess.Popen(command, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@contextmanager
def filled(folder: Path) -> Iterator[Store]:
    store = Store(folder / "home")
    store.datasets.import_document(small_document(folder / "files", images=3), "small")
    yield store
    store.close()


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with a worker that serves all tests that leave it alive; each has runs of its own."""
    with filled(tmp_path_factory.mktemp("hand")) as store, starting(store) as start:
        start()
        yield store


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Store]:
    """A store without a worker."""
    with filled(tmp_path) as store:
        yield store


@pytest.fixture
def workers(quiet: Store) -> Iterator[Start]:
    """Starts workers on it, for tests that count, kill or stop them."""
    with starting(quiet) as start:
        yield start


def queued(
    store: Store, *payloads: dict[str, Any], after: Run | None = None, planned: bool = True, **options: Any
) -> Run:
    (dataset,) = store.datasets.list()
    run = store.ledger.create_run(
        RunKind(options.pop("kind", "generate")),
        "fake",
        dataset_id=dataset.id,
        recipe="",
        options=options,
        seed=0,
        versions={},
        after_id=after.id if after else None,
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
        if now.state.ended:
            break
        time.sleep(0.05)
    raise AssertionError(f"run is {store.ledger.run(run.id)}, shards {store.ledger.shards(run.id)}")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stored(store: Store, run: Run) -> list[str]:
    """The targets of the run's candidates."""
    ids = store.review.candidate_ids(run.id)
    return sorted(candidate.target for candidate in store.review.candidates(ids))


def executed(store: Store, run: Run) -> Counter[str]:
    """How often each item was worked on."""
    path = store.home / "items.txt"
    lines = path.read_text().split() if path.exists() else []
    return Counter(line.partition("/")[2] for line in lines if line.startswith(f"{run.id}/"))


def expected(*counts: int) -> list[str]:
    return sorted(f"{shard}/{item}" for shard, count in enumerate(counts) for item in range(count))


def once_each(*counts: int) -> Counter[str]:
    return Counter(expected(*counts))


# One worker for all of these


def test_a_run_and_the_one_after_it_are_done_once(hand: Store) -> None:
    run = queued(hand, {"items": 3}, {"items": 2})
    follower = queued(hand, after=run, planned=False)
    done = until(hand, follower, State.DONE)
    assert executed(hand, run) == once_each(3, 2)
    assert executed(hand, follower) == once_each(2, 2)
    assert (done.done, done.total, done.result) == (4, 4, {"shards": 2})
    assert "shard finished" in [line.text for line in hand.ledger.logs(run.id)]


def test_a_run_without_anything_to_do_is_done(hand: Store) -> None:
    run = queued(hand, planned=False, shards=0)
    assert until(hand, run, State.DONE).result == {"shards": 0}


def test_a_training_has_a_process_of_its_own(hand: Store) -> None:
    run = queued(hand, {"items": 1}, kind="train")
    until(hand, run, State.DONE)
    assert stored(hand, run) == expected(1)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("raise", "a broken item"),
        ("exit", "exit code 3"),
        ("sys.exit", "leaving"),
        ("kill", "signal 9 (Killed)"),
        ("cut", "exit code 3"),
    ],
)
def test_a_shard_that_fails_once_is_done_at_the_second_attempt(hand: Store, mode: str, reason: str) -> None:
    run = queued(hand, {"items": 1, "mode": mode}, {"items": 1})
    until(hand, run, State.DONE)
    assert stored(hand, run) == expected(1, 1)
    assert hand.ledger.shards(run.id)[0].attempt == 2
    assert any(reason in line.text for line in hand.ledger.logs(run.id) if line.level == "error")


def test_what_a_child_leaves_behind_dies_with_it(hand: Store) -> None:
    run = queued(hand, {"items": 1, "mode": "leave"})
    until(hand, run, State.DONE)
    left = int((hand.home / "left").read_text())
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE


def test_a_poison_shard_is_quarantined_and_the_others_are_done(hand: Store) -> None:
    run = queued(hand, {"items": 1, "mode": "raise", "always": True}, {"items": 2})
    follower = queued(hand, after=run, planned=False)
    failed = until(hand, run, State.FAILED)
    assert failed.error == "1 of 2 shards failed; shard 0: ValueError: a broken item"
    poisoned, fine = hand.ledger.shards(run.id)
    assert (poisoned.state, poisoned.attempt, fine.state) == (State.FAILED, 3, State.DONE)
    assert poisoned.error is not None and "Traceback" in poisoned.error
    assert until(hand, follower, State.CANCELLED).error == f"Run {run.id}, which this one waited for, is failed."
    assert stored(hand, run) == ["1/0", "1/1"]


def test_a_refusal_is_told_in_its_own_words(hand: Store) -> None:
    run = queued(hand, {"items": 1, "mode": "refuse", "always": True})
    assert until(hand, run, State.FAILED).error == "1 of 1 shards failed; shard 0: The weights are missing."
    assert hand.ledger.shards(run.id)[0].error == "The weights are missing.\nPut them there."
    assert [line.text for line in hand.ledger.logs(run.id, level="error")] == [
        "The weights are missing.\nPut them there."
    ] * 3


def test_retry_does_what_failed(hand: Store) -> None:
    run = queued(hand, {"items": 1, "mode": "raise", "always": True}, {"items": 1})
    until(hand, run, State.FAILED)
    hand.ledger.request_retry(run.id)
    until(hand, run, State.FAILED)
    again, fine = hand.ledger.shards(run.id)
    assert (again.attempt, again.fence, fine.attempt) == (3, 6, 1)


@pytest.mark.parametrize(
    ("option", "reason"), [("bad_plan", "ValueError: cannot plan this"), ("bad_end", "ValueError: cannot sum this up")]
)
def test_a_run_that_cannot_be_planned_or_summed_up_fails_with_the_reason(hand: Store, option: str, reason: str) -> None:
    run = queued(hand, planned=False, **{option: True})
    assert until(hand, run, State.FAILED).error == reason


def test_cancel_ends_a_hanging_child_and_is_final(hand: Store) -> None:
    run = queued(hand, {"items": 1, "mode": "hang", "always": True}, {"items": 1})
    until(hand, run, State.RUNNING)
    hand.ledger.request_cancel(run.id)
    until(hand, run, State.CANCELLED)
    behind = queued(hand, {"items": 1})
    until(hand, behind, State.DONE)
    assert hand.ledger.run(run.id).state is State.CANCELLED
    assert [shard.state for shard in hand.ledger.shards(run.id)] == [State.CANCELLED] * 2
    assert stored(hand, run) == []


def test_pause_and_resume_lose_and_repeat_no_candidate(hand: Store) -> None:
    run = queued(hand, *[{"items": 2, "seconds": 0.1}] * 3)
    wait_for(lambda: bool(stored(hand, run)))
    hand.ledger.request_pause(run.id)
    paused = until(hand, run, State.PAUSED)
    assert paused.done < paused.total
    hand.ledger.request_resume(run.id)
    until(hand, run, State.DONE)
    assert stored(hand, run) == expected(2, 2, 2)
    assert {shard.attempt for shard in hand.ledger.shards(run.id)} == {1}


# A worker or two of their own


def test_a_ring_wakes_a_worker_and_a_second_ring_does_no_harm(quiet: Store, workers: Start) -> None:
    workers(look=SECONDS)
    wait_for(lambda: bool(quiet.ledger.workers()))
    time.sleep(0.5)  # it has looked, found nothing and gone to sleep
    run = queued(quiet, {"items": 1})
    bell = Doorbell(quiet.home)
    bell.ring(run.id)
    bell.ring(run.id)
    until(quiet, run, State.DONE)
    assert executed(quiet, run) == once_each(1)


def test_a_lost_ring_only_delays(quiet: Store, workers: Start) -> None:
    run = queued(quiet, {"items": 1})
    bell = Doorbell(quiet.home)
    bell.ring(run.id)
    assert bell.huey.pending_count() == 1
    bell.huey.storage.flush_queue()
    workers()
    until(quiet, run, State.DONE)


def test_kill_9_of_a_worker_takes_its_child_along_and_another_goes_on(quiet: Store, workers: Start) -> None:
    run = queued(quiet, *[{"items": 4, "seconds": 0.1}] * 3)
    worker = workers()
    wait_for(lambda: len(stored(quiet, run)) > 1)
    children = psutil.Process(worker.pid).children(recursive=True)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert children and not alive
    assert quiet.ledger.run(run.id).state is State.RUNNING
    workers()
    until(quiet, run, State.DONE)
    assert stored(quiet, run) == expected(4, 4, 4)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lose_and_double_nothing(quiet: Store, workers: Start) -> None:
    chance = random.Random(0)
    run = queued(quiet, *[{"items": 8, "seconds": 0.1}] * 25)
    worker = workers()
    for kill in range(20):
        time.sleep(chance.uniform(0.5, 3.0))
        for child in psutil.Process(worker.pid).children() if kill % 2 else []:
            child.kill()
        if kill % 2 == 0:
            worker.kill()
            worker.wait()
            worker = workers()
    if until(quiet, run, State.DONE, State.FAILED).state is State.FAILED:  # some shard was hit three times
        quiet.ledger.request_retry(run.id)
    until(quiet, run, State.DONE)
    assert stored(quiet, run) == expected(*[8] * 25)


def test_two_workers_share_a_run_without_doubling(quiet: Store, workers: Start) -> None:
    run = queued(quiet, {"items": 1, "seconds": LEASE * 1.3}, *[{"items": 1, "seconds": 0.1}] * 6)
    workers()
    workers()
    until(quiet, run, State.DONE)
    assert executed(quiet, run) == once_each(*[1] * 7)


def test_without_heartbeats_they_would_double_it_but_the_fence_still_keeps_it_out_of_the_store(
    quiet: Store, workers: Start
) -> None:
    run = queued(quiet, {"items": 1, "seconds": LEASE * 1.3, "fickle": True})
    workers(without="heartbeat")
    workers(without="heartbeat")
    wait_for(lambda: executed(quiet, run)["0/0"] > 1)
    assert len(stored(quiet, run)) <= 1


def test_a_worker_that_is_asked_to_stop_gives_its_shard_back(quiet: Store, workers: Start) -> None:
    run = queued(quiet, {"items": 400, "seconds": 0.1})
    worker = workers()
    wait_for(lambda: bool(stored(quiet, run)))
    worker.terminate()
    assert worker.wait(SECONDS) == 0
    (shard,) = quiet.ledger.shards(run.id)
    assert (shard.state, shard.attempt, quiet.ledger.run(run.id).state) == (State.QUEUED, 0, State.QUEUED)
    assert quiet.ledger.workers() == []


def test_a_second_signal_ends_a_worker_that_waits_for_its_child(quiet: Store, workers: Start) -> None:
    run = queued(quiet, {"items": 1, "mode": "hang"})
    worker = workers()
    wait_for(lambda: (quiet.home / f"once-{run.id}-0").exists())
    children = psutil.Process(worker.pid).children()
    worker.terminate()
    time.sleep(0.5)
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(SECONDS) == -signal.SIGTERM
    assert children and not psutil.wait_procs(children, timeout=SECONDS)[1]


def test_the_secret_is_readable_by_its_owner_only_and_stays(tmp_path: Path) -> None:
    secrets = []
    for _ in range(2):
        Doorbell(tmp_path)
        secrets.append((tmp_path / "secret").read_text())
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert secrets[0] == secrets[1] and len(secrets[0]) == 64

"""Workers, their children and their queue: killed, orphaned, lost and poisoned, and a clock that jumps."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import test_ledger
from conftest import small_document
from faults import Broken, kill, must_fail_without, promised, start, wait_for
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from test_jobs import executed, expected, queued, stored, until

from db.errors import LostLease
from db.ledger import Ledger
from db.records import Kind, NewCandidate, Run, Shard, State
from db.store import Store
from engine.jobs import Doorbell

NEVER = 8.0  # seconds after which what has not happened is taken not to happen
Workers = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("template")
    store = Store(place / "home")
    store.datasets.import_document(small_document(place / "files", images=3), "small")
    store.close()
    return place / "home"


@pytest.fixture
def filled(template: Path, tmp_path: Path) -> Iterator[Store]:
    store = Store(shutil.copytree(template, tmp_path / "home"))
    yield store
    store.close()


@pytest.fixture
def workers(filled: Store) -> Iterator[Workers]:
    """Starts workers on the store; none outlives the test, and no child of one."""
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        started.append(start("work", filled.home))
        return started[-1]

    yield begin
    for process in started:
        kill(process)
    for process in psutil.process_iter(["cmdline"]):
        if str(filled.home) in (process.info["cmdline"] or ()):  # an orphan, made on purpose
            process.kill()


def children(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(worker.pid).children()


# Kills


@pytest.mark.fault
@must_fail_without("one candidate for a target")
def test_kills_of_workers_and_children_lose_and_double_nothing(filled: Store, workers: Workers) -> None:
    chance, kills = random.Random(1), 20
    run = queued(filled, *[{"items": 10, "seconds": 0.04}] * 50)
    worker = workers()
    for number in range(kills):
        before = len(stored(filled, run))
        wait_for(lambda before=before: len(stored(filled, run)) > before, 30)
        time.sleep(chance.uniform(0.0, 0.5))
        if number % 2:
            for child in children(worker):
                child.kill()
        else:
            worker.kill()
            worker.wait()
            worker = workers()
    while until(filled, run, State.DONE, State.FAILED).state is State.FAILED:  # a shard was hit three times
        filled.ledger.request_retry(run.id)
    promised(stored(filled, run) == expected(*[10] * 50), "the candidates are not exactly those that were planned")
    repeated = sum(executed(filled, run).values()) - 500
    promised(repeated <= 10 * kills, f"{repeated} items were done again after {kills} kills of shards of 10")


@pytest.mark.fault
@must_fail_without("death with the parent")
def test_no_child_outlives_its_worker(filled: Store, workers: Workers) -> None:
    queued(filled, {"items": 1, "mode": "hang"})
    worker = workers()
    assert wait_for(lambda: any(filled.home.glob("once-*")))
    (child,) = children(worker)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    _, alive = psutil.wait_procs([child], timeout=NEVER)
    promised(not alive, "the child of a killed worker goes on, and would share the GPU with the next")


# The queue


@pytest.mark.fault
@must_fail_without("looking without a ring")
def test_a_queue_that_is_flushed_doubled_or_damaged_loses_and_repeats_no_run(filled: Store, workers: Workers) -> None:
    workers()
    assert wait_for(lambda: bool(filled.ledger.workers()))
    time.sleep(1.0)  # it has looked, and found nothing
    bell = Doorbell(filled.home)
    bell.huey.storage.flush_queue()
    runs = [queued(filled, {"items": 2}) for _ in range(4)]  # nobody rings for these
    done = wait_for(lambda: all(filled.ledger.run(run.id).state is State.DONE for run in runs), NEVER * 2)
    promised(done, "runs that nobody rang for were not found")
    again = queued(filled, {"items": 3})
    for _ in range(20):
        bell.ring(again.id)
        bell.ring(runs[0].id)
    until(filled, again, State.DONE)
    for run, items in (*((run, 2) for run in runs), (again, 3)):
        assert executed(filled, run) == dict.fromkeys(expected(items), 1) and stored(filled, run) == expected(items)


# Poison, and workers that were given up


@must_fail_without("three attempts")
def test_poison_is_put_aside_and_the_rest_is_done(filled: Store) -> None:
    run = queued(filled, {"items": 1, "poison": True}, {"items": 1}, {"items": 1})
    for _ in range(12):
        shard = filled.ledger.claim(run.id, "worker")
        if shard is None:
            break
        if shard.payload.get("poison"):
            filled.ledger.fail_shard(shard, "it kills whoever touches it")
        else:
            filled.ledger.finish_shard(shard)
    ended = filled.ledger.run(run.id)
    promised(
        ended.state is State.FAILED and ended.done == 2, f"after 12 claims the run is {ended.state}, {ended.done} done"
    )


ENDS = {
    "segfault": "signal 11",
    "memory": "MemoryError",
    "sys.exit": "leaving",
    "kill": "signal 9",  # as the system does to whoever takes too much
    "raise": "a broken item",
}


@pytest.mark.fault
def test_whatever_a_shard_does_to_its_process_three_times_the_others_are_done(filled: Store, workers: Workers) -> None:
    run = queued(filled, *[{"items": 1, "mode": mode, "always": True} for mode in ENDS], {"items": 2}, {"items": 1})
    workers()
    failed = until(filled, run, State.FAILED)
    *poisoned, first, second = filled.ledger.shards(run.id)
    assert [(shard.state, shard.attempt) for shard in poisoned] == [(State.FAILED, 3)] * len(ENDS)
    assert (first.state, second.state) == (State.DONE, State.DONE) and "5 of 7 shards failed" in (failed.error or "")
    for shard, told in zip(poisoned, ENDS.values(), strict=True):
        assert told in (shard.error or ""), shard.error
    assert stored(filled, run) == ["5/0", "5/1", "6/0"]
    behind = queued(filled, {"items": 1})
    until(filled, behind, State.DONE)


def deliver(store: Store, run: Run, shard: Shard) -> None:
    """Store a candidate that only this attempt would make."""
    assert run.dataset_id is not None
    image = store.datasets.images(run.dataset_id)[0]
    target = f"{shard.number}/0/{shard.fence}"
    made = NewCandidate(target=target, variant=0, kind=Kind.INSTANCE, image_id=image.id, seed=0)
    store.review.add_candidates(shard, [made], run.dataset_id)


@pytest.mark.parametrize("jump", [61.0, 86400.0])
@must_fail_without("the fence")
def test_what_a_worker_brings_after_it_was_given_up_is_not_stored(filled: Store, jump: float) -> None:
    """It fell silent, or the clock was put forward: another has its shard, and one of them only may deliver."""
    clock = test_ledger.Clock()
    ledger = Ledger(filled._database, clock)
    run = queued(filled, {"items": 1})
    stale = ledger.claim(run.id, "slow")
    clock.now += jump
    fresh = ledger.claim(run.id, "quick")
    assert stale is not None and fresh is not None
    deliver(filled, run, fresh)
    with suppress(LostLease):
        deliver(filled, run, stale)
    promised(stored(filled, run) == ["0/0/2"], f"stored: {stored(filled, run)}")
    ledger.finish_shard(fresh)


@pytest.mark.fault
@must_fail_without("heartbeats")
def test_a_slow_worker_keeps_its_shard(filled: Store, workers: Workers) -> None:
    run = queued(filled, {"items": 1, "seconds": 5.0})  # a lease lasts two
    for _ in range(2):
        workers()
    try:
        until(filled, run, State.DONE)
    except AssertionError as error:
        raise Broken(str(error)) from error
    promised(executed(filled, run)["0/0"] == 1, "two workers did the same")


# Clocks


@pytest.mark.parametrize("jumps", [(86400.0, -3600.0), (-3600.0, 86400.0), (-86400.0, -86400.0), (3600.0,) * 4])
def test_no_jump_of_the_clock_loses_or_doubles_a_shard(filled: Store, jumps: tuple[float, ...]) -> None:
    """Three workers that beat as they should, while the clock is put forward and back between their steps."""
    clock = test_ledger.Clock()
    ledger = Ledger(filled._database, clock)
    run = queued(filled, *[{"items": 1}] * 6)
    waiting = list(jumps)
    while held := [shard for name in ("one", "two", "three") if (shard := ledger.claim(run.id, name)) is not None]:
        clock.now += waiting.pop(0) if waiting else 1.0
        for shard in held:
            with suppress(LostLease):
                ledger.heartbeat(shard)
                deliver(filled, run, shard)
                ledger.finish_shard(shard)
    assert [shard.state for shard in ledger.shards(run.id)] == [State.DONE] * 6
    assert len(stored(filled, run)) == 6


@pytest.mark.fault
@must_fail_without("the fence")
def test_many_orders_of_events_lead_to_a_consistent_end(tmp_path: Path) -> None:
    test_ledger.Life.folder = tmp_path
    how = settings(
        max_examples=200,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # to find the shortest of the orders that fail takes minutes, and nobody waits for it
    )
    try:
        run_state_machine_as_test(test_ledger.Life, settings=how)
    except AssertionError as error:
        raise Broken(str(error)) from error

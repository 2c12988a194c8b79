"""The ledger of runs: leases, fences, what people ask for, and what follows from it for the state of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import db.ledger
from db import schema
from db.database import Database
from db.errors import LostLease, NotFound, WinnowError
from db.ledger import ATTEMPTS, LOST, Ledger
from db.records import Run, RunKind, Shard, State


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self, _connection: Any) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock, database_url: str) -> Iterator[Ledger]:
    database = opened(database_url or tmp_path / "winnow.db")
    yield Ledger(database, clock)
    database.close()


def opened(place: Path | str) -> Database:
    database = Database(place)
    with database.write() as connection:
        schema.metadata.create_all(connection)
    return database


def new_run(ledger: Ledger, shards: int = 0, *, after: Run | None = None) -> Run:
    run = ledger.create_run(
        RunKind.GENERATE,
        "a run",
        dataset_id=None,
        recipe="text: of the recipe",
        options={"amount": 2},
        seed=2**62,
        versions={"torch": "2"},
        after_id=after.id if after else None,
    )
    ledger.plan(run.id, [({"first": 10 * number}, 10) for number in range(shards)])
    return ledger.run(run.id)


def claimed(ledger: Ledger, run: Run, owner: str = "worker", lease_seconds: float = 60) -> Shard:
    shard = ledger.claim(run.id, owner, lease_seconds)
    assert shard is not None
    return shard


def states(ledger: Ledger, run: Run) -> list[State]:
    return [shard.state for shard in ledger.shards(run.id)]


def state(ledger: Ledger, run: Run) -> State:
    return ledger.run(run.id).state


# Runs and plans


def test_a_run_is_kept_as_it_was_made(ledger: Ledger) -> None:
    run = new_run(ledger)
    assert run == ledger.run(run.id)
    assert (run.state, run.seed, run.options, run.created_at) == (State.QUEUED, 2**62, {"amount": 2}, 1000.0)
    with pytest.raises(NotFound, match="99"):
        ledger.run(99)


def test_runs_are_listed_newest_first_by_pages_and_by_what_they_are(ledger: Ledger) -> None:
    made = [new_run(ledger) for _ in range(5)]
    ledger.request_cancel(made[3].id)
    first = ledger.runs(limit=3)
    assert [run.id for run in first] == [5, 4, 3]
    assert [run.id for run in ledger.runs(limit=3, before=first[-1].id)] == [2, 1]
    assert [run.id for run in ledger.runs(state=State.CANCELLED)] == [4]
    assert ledger.runs(kind=RunKind.TRAIN) == ledger.runs(dataset_id=1) == []


def test_a_plan_is_written_once(ledger: Ledger) -> None:
    run = new_run(ledger, 3)
    ledger.plan(run.id, [({"other": 1}, 1)])
    assert [shard.payload for shard in ledger.shards(run.id)] == [{"first": 0}, {"first": 10}, {"first": 20}]
    assert ledger.run(run.id).total == 30


def test_a_plan_that_comes_after_the_end_changes_nothing(ledger: Ledger) -> None:
    run = new_run(ledger)
    ledger.request_cancel(run.id)
    ledger.plan(run.id, [({}, 1)])
    assert ledger.shards(run.id) == []


# Leases


def test_shards_are_claimed_in_order_and_each_by_one_worker_only(ledger: Ledger) -> None:
    run = new_run(ledger, 2)
    first, second = claimed(ledger, run, "one"), claimed(ledger, run, "two")
    assert [(s.number, s.lease_owner, s.attempt, s.fence) for s in (first, second)] == [
        (0, "one", 1, 1),
        (1, "two", 1, 1),
    ]
    assert ledger.claim(run.id, "three") is None
    assert state(ledger, run) is State.RUNNING


def test_the_real_clock_of_the_database_is_that_of_this_machine(tmp_path: Path, database_url: str) -> None:
    database = opened(database_url or tmp_path / "winnow.db")
    run = new_run(Ledger(database), 1)
    shard = claimed(Ledger(database), run)
    assert shard.lease_until is not None and abs(shard.lease_until - 60 - time.time()) < 60
    database.close()


def test_a_lease_lasts_as_long_as_it_is_extended(ledger: Ledger, clock: Clock) -> None:
    run = new_run(ledger, 1)
    shard = claimed(ledger, run)
    clock.now += 50
    ledger.heartbeat(shard)
    clock.now += 50
    assert ledger.expire_leases() == [] and ledger.claim(run.id, "another") is None
    clock.now += 11
    taken = claimed(ledger, run, "another")
    assert (taken.attempt, taken.fence, taken.lease_owner) == (2, 2, "another")


VERBS = {
    "heartbeat": lambda ledger, shard: ledger.heartbeat(shard),
    "advance": lambda ledger, shard: ledger.advance(shard, 5),
    "finish": lambda ledger, shard: ledger.finish_shard(shard),
    "fail": lambda ledger, shard: ledger.fail_shard(shard, "late"),
    "release": lambda ledger, shard: ledger.release_shard(shard),
}


@pytest.mark.parametrize("then", ["claimed again", "expired", "cancelled"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_worker_that_lost_its_shard_can_do_nothing_to_it(ledger: Ledger, clock: Clock, verb: str, then: str) -> None:
    run = new_run(ledger, 1)
    stale = claimed(ledger, run)
    clock.now += 61
    if then == "cancelled":
        ledger.request_cancel(run.id)
    else:
        ledger.expire_leases()
    if then == "claimed again":
        claimed(ledger, run, "another")
    before = ledger.shards(run.id)
    with pytest.raises(LostLease, match="Shard 0 of run 1"):
        VERBS[verb](ledger, stale)
    assert ledger.shards(run.id) == before


@pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "without the fence"])
def test_the_fence_is_what_keeps_late_output_out(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch, fenced: bool
) -> None:
    run = new_run(ledger, 1)
    stale = claimed(ledger, run)
    clock.now += 61
    newer = claimed(ledger, run, "another")
    if not fenced:
        monkeypatch.setattr(db.ledger, "check_fence", lambda connection, shard: None)
    try:
        ledger.fail_shard(stale, "by the worker that was given up")
    except LostLease:
        assert fenced
    (now,) = ledger.shards(run.id)
    assert (now == newer) is fenced


def test_two_threads_never_get_the_same_shard(tmp_path: Path, database_url: str) -> None:
    databases = [opened(database_url or tmp_path / "winnow.db") for _ in range(2)]
    run = new_run(Ledger(databases[0]), 20)
    got: list[int] = []

    def work(ledger: Ledger) -> None:
        while (shard := ledger.claim(run.id, "worker")) is not None:
            got.append(shard.number)
            ledger.finish_shard(shard)

    threads = [threading.Thread(target=work, args=(Ledger(database),)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(20))
    for database in databases:
        database.close()


def test_a_shard_that_is_lost_three_times_is_quarantined(ledger: Ledger, clock: Clock) -> None:
    run = new_run(ledger, 2)
    for _ in range(ATTEMPTS):
        assert claimed(ledger, run).number == 0
        clock.now += 61
    assert claimed(ledger, run).number == 1
    assert [shard.error for shard in ledger.shards(run.id)] == [LOST, None]


def test_what_a_dead_worker_held_is_free_at_once(ledger: Ledger) -> None:
    run, other = new_run(ledger, 1), new_run(ledger, 1)
    claimed(ledger, run, "dead")
    claimed(ledger, other, "alive")
    assert ledger.expire_leases(dead_owner="dead") == [run.id]
    assert (states(ledger, run), states(ledger, other)) == ([State.QUEUED], [State.RUNNING])


# How a run ends


def test_a_run_is_done_when_it_is_summed_up(ledger: Ledger) -> None:
    run = new_run(ledger, 2)
    for _ in range(2):
        ledger.advance(shard := claimed(ledger, run), 4)
        ledger.finish_shard(shard)
    assert (state(ledger, run), ledger.run(run.id).done) == (State.RUNNING, 20)
    assert [waiting.id for waiting in ledger.waiting_runs()] == [run.id]
    ledger.set_result(run.id, {"made": 20})
    ledger.set_result(run.id, {"kept": 5})
    ledger.conclude(run.id)
    done = ledger.run(run.id)
    assert (done.state, done.result, done.ended_at) == (State.DONE, {"made": 20, "kept": 5}, 1000.0)
    assert ledger.waiting_runs() == []


def test_a_run_with_a_quarantined_shard_fails_when_the_rest_is_done(ledger: Ledger) -> None:
    run = new_run(ledger, 2)
    for _ in range(ATTEMPTS):
        ledger.fail_shard(claimed(ledger, run), "Traceback:\n  line 7\nValueError: bad pixel")
    assert state(ledger, run) is State.QUEUED
    ledger.finish_shard(claimed(ledger, run))
    failed = ledger.run(run.id)
    assert (failed.state, failed.error, failed.done) == (
        State.FAILED,
        "1 of 2 shards failed; shard 0: ValueError: bad pixel",
        10,
    )
    assert states(ledger, run) == [State.FAILED, State.DONE]


def test_a_released_shard_has_its_attempt_back(ledger: Ledger) -> None:
    run = new_run(ledger, 1)
    for _ in range(ATTEMPTS + 1):
        ledger.release_shard(claimed(ledger, run))
    assert claimed(ledger, run).attempt == 1


def test_a_run_waits_for_another_and_is_cancelled_with_it_and_revived_with_it(ledger: Ledger) -> None:
    first = new_run(ledger, 1)
    second = new_run(ledger, 1, after=first)
    third = new_run(ledger, after=second)
    assert ledger.claim(second.id, "worker") is None
    assert [run.id for run in ledger.waiting_runs()] == [first.id]
    assert ledger.followers(first.id) == [second]
    ledger.fail_run(first.id, "disk full")
    assert ledger.run(third.id).error == f"Run {second.id}, which this one waited for, is cancelled."
    assert states(ledger, second) == [State.CANCELLED]
    late = new_run(ledger, after=first)
    assert (late.state, late.error) == (State.CANCELLED, f"Run {first.id}, which this one waited for, is failed.")
    with pytest.raises(WinnowError, match=f"Try run {first.id} again"):
        ledger.request_retry(second.id)
    ledger.request_retry(first.id)
    assert {state(ledger, run) for run in (first, second, third, late)} == {State.QUEUED}
    ledger.finish_shard(claimed(ledger, first))
    ledger.conclude(first.id)
    assert claimed(ledger, second).number == 0


def test_a_run_cannot_wait_for_one_that_does_not_exist(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.create_run(RunKind.TRAIN, "x", dataset_id=None, recipe="", options={}, seed=0, versions={}, after_id=7)
    assert ledger.runs() == []


def test_the_end_of_a_run_is_not_overwritten(ledger: Ledger) -> None:
    run = new_run(ledger, 1)
    ledger.request_cancel(run.id)
    ledger.conclude(run.id)
    ledger.fail_run(run.id, "too late")
    assert (state(ledger, run), ledger.run(run.id).error) == (State.CANCELLED, None)


# What people ask for


def test_cancel_takes_the_queued_at_once_and_the_running_when_the_worker_lets_go(ledger: Ledger) -> None:
    run = new_run(ledger, 3)
    ledger.finish_shard(claimed(ledger, run))
    shard = claimed(ledger, run)
    ledger.request_cancel(run.id)
    assert states(ledger, run) == [State.DONE, State.RUNNING, State.CANCELLED]
    assert state(ledger, run) is State.RUNNING
    ledger.release_shard(shard)
    assert states(ledger, run) == [State.DONE, State.CANCELLED, State.CANCELLED]
    assert state(ledger, run) is State.CANCELLED
    assert ledger.claim(run.id, "worker") is None and ledger.waiting_runs() == []


@pytest.mark.parametrize("last", ["it fails", "its worker dies"])
def test_a_cancelled_run_ends_however_its_last_shard_does(ledger: Ledger, clock: Clock, last: str) -> None:
    run = new_run(ledger, 1)
    shard = claimed(ledger, run)
    ledger.request_cancel(run.id)
    if last == "it fails":
        ledger.fail_shard(shard, "broken")
    else:
        clock.now += 61
        ledger.expire_leases()
    assert state(ledger, run) is State.CANCELLED


def test_pause_lets_the_running_shard_go_on_and_resume_takes_up_the_rest(ledger: Ledger) -> None:
    run = new_run(ledger, 2)
    shard = claimed(ledger, run)
    ledger.request_pause(run.id)
    assert state(ledger, run) is State.RUNNING and ledger.claim(run.id, "another") is None
    ledger.release_shard(shard)
    assert state(ledger, run) is State.PAUSED and ledger.waiting_runs() == []
    ledger.request_resume(run.id)
    assert state(ledger, run) is State.QUEUED and claimed(ledger, run).attempt == 1


def test_a_paused_run_whose_worker_dies_is_paused(ledger: Ledger, clock: Clock) -> None:
    run = new_run(ledger, 1)
    claimed(ledger, run)
    ledger.request_pause(run.id)
    clock.now += 61
    ledger.expire_leases()
    assert state(ledger, run) is State.PAUSED


def test_a_pause_that_comes_with_the_last_shard_holds_nothing_back(ledger: Ledger) -> None:
    run = new_run(ledger, 1)
    shard = claimed(ledger, run)
    ledger.request_pause(run.id)
    ledger.finish_shard(shard)
    assert [waiting.id for waiting in ledger.waiting_runs()] == [run.id]


def test_an_unplanned_run_can_be_held_back(ledger: Ledger) -> None:
    run = new_run(ledger)
    assert [waiting.id for waiting in ledger.waiting_runs()] == [run.id]
    ledger.request_pause(run.id)
    assert state(ledger, run) is State.PAUSED and ledger.waiting_runs() == []


def test_retry_gives_three_new_attempts_to_what_failed_only(ledger: Ledger) -> None:
    run = new_run(ledger, 2)
    for _ in range(ATTEMPTS):
        ledger.fail_shard(claimed(ledger, run), "broken")
    ledger.finish_shard(claimed(ledger, run))
    ledger.request_retry(run.id)
    again, fine = ledger.shards(run.id)
    assert (again.state, again.attempt, again.error, fine.state) == (State.QUEUED, 0, None, State.DONE)
    assert (state(ledger, run), ledger.run(run.id).error) == (State.QUEUED, None)
    assert claimed(ledger, run).fence == ATTEMPTS + 1


WISHES = {
    "pause what is done": (["finish"], "pause", "done already; you cannot pause"),
    "cancel what is done": (["finish"], "cancel", "done already; you cannot cancel"),
    "cancel twice": (["cancel"], "cancel", "cancelled already"),
    "pause twice": (["pause"], "pause", "held back already"),
    "pause what is being cancelled": (["claim", "cancel"], "pause", "being cancelled"),
    "resume what runs": (["claim"], "resume", "running; you cannot resume"),
    "resume what is cancelled": (["pause", "cancel"], "resume", "cancelled already"),
    "retry what runs": (["claim"], "retry", "is running; only failed and cancelled"),
    "retry what is done": (["finish"], "retry", "is done; only failed and cancelled"),
}


@pytest.mark.parametrize(("before", "wish", "message"), WISHES.values(), ids=WISHES)
def test_a_wish_that_makes_no_sense_is_refused(ledger: Ledger, before: list[str], wish: str, message: str) -> None:
    run = new_run(ledger, 1)
    for step in before:
        if step == "finish":
            ledger.finish_shard(claimed(ledger, run))
            ledger.conclude(run.id)
        elif step == "claim":
            claimed(ledger, run)
        else:
            getattr(ledger, f"request_{step}")(run.id)
    was = ledger.run(run.id)
    with pytest.raises(WinnowError, match=message):
        getattr(ledger, f"request_{wish}")(run.id)
    assert ledger.run(run.id) == was


# Logs, curves, workers


def test_logs_are_read_from_where_one_left_off(ledger: Ledger) -> None:
    run = new_run(ledger)
    for text in ("a", "b", "c"):
        ledger.log(run.id, text, "warning", shard=1)
    first = ledger.logs(run.id, limit=2)
    assert [(line.text, line.level, line.shard) for line in first] == [("a", "warning", 1), ("b", "warning", 1)]
    assert [line.text for line in ledger.logs(run.id, after=first[-1].id)] == ["c"]


def test_a_step_repeated_replaces_its_points(ledger: Ledger) -> None:
    run = new_run(ledger)
    ledger.add_metrics(run.id, 1, {"loss": 2.0, "lr": 0.1})
    ledger.add_metrics(run.id, 2, {"loss": 1.0})
    ledger.add_metrics(run.id, 1, {"loss": 1.5})
    ledger.add_metrics(run.id, 3, {})
    assert [(m.step, m.value) for m in ledger.metrics(run.id, ["loss"])] == [(1, 1.5), (2, 1.0)]
    assert {m.name for m in ledger.metrics(run.id)} == {"loss", "lr"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_point_that_is_not_finite_is_refused_with_all_of_its_step(ledger: Ledger, value: float) -> None:
    run = new_run(ledger)
    with pytest.raises(WinnowError, match="step 4.*loss.*not finite"):
        ledger.add_metrics(run.id, 4, {"loss": value, "lr": 0.1})
    assert ledger.metrics(run.id) == []


def test_workers_are_known_by_when_they_were_last_seen(ledger: Ledger, clock: Clock) -> None:
    run = new_run(ledger)
    ledger.present("one")
    clock.now += 5
    ledger.present("two", run.id)
    clock.now += 5
    ledger.present("one", run.id)
    assert [(w.name, w.seen_at, w.run_id) for w in ledger.workers()] == [("one", 1010.0, 1), ("two", 1005.0, 1)]
    ledger.gone("one")
    assert [w.name for w in ledger.workers()] == ["two"]


# Any order of events


class Life(RuleBasedStateMachine):
    """One run with three shards, workers that finish, fail, give back, fall silent or die, and people who change their
    minds. Whatever happens: nothing done is undone, nothing cancelled comes back, and the run can be brought to an end.
    """

    folder: Path

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.database = opened(self.folder / f"{len(list(self.folder.iterdir()))}.db")
        self.ledger = Ledger(self.database, self.clock)
        self.run = new_run(self.ledger, 3)
        self.held: list[Shard] = []
        self.finished: set[int] = set()
        self.fences = [0, 0, 0]

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.clock.now += 1000
        if not state(self.ledger, self.run).ended:
            self.bring_to_an_end()
        assert state(self.ledger, self.run).ended
        self.database.close()

    def bring_to_an_end(self) -> None:
        """What a worker and a person who wants to see the end would do."""
        self.ledger.expire_leases()
        if state(self.ledger, self.run) is State.PAUSED:
            self.ledger.request_resume(self.run.id)
        if state(self.ledger, self.run).ended:
            return
        assert [run.id for run in self.ledger.waiting_runs()] == [self.run.id]
        while (shard := self.ledger.claim(self.run.id, "last")) is not None:
            self.ledger.finish_shard(shard)
        if not state(self.ledger, self.run).ended:
            assert set(states(self.ledger, self.run)) == {State.DONE}
            self.ledger.conclude(self.run.id)

    @rule()
    def claim(self) -> None:
        before = self.ledger.run(self.run.id)
        shard = self.ledger.claim(self.run.id, "worker")
        if shard is not None:
            assert not (before.state.ended or before.cancel_requested or before.pause_requested)
            assert shard.number not in self.finished and shard.attempt <= ATTEMPTS
            assert shard.fence > self.fences[shard.number]
            self.fences[shard.number] = shard.fence
            self.held.append(shard)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), verb=st.sampled_from(["heartbeat", "finish", "fail", "release"]))
    def worker_speaks(self, data: st.DataObject, verb: str) -> None:
        shard = data.draw(st.sampled_from(self.held))
        try:
            VERBS[verb](self.ledger, shard)
        except LostLease:
            self.held.remove(shard)
            return
        assert shard.fence == self.fences[shard.number]
        if verb != "heartbeat":
            self.held.remove(shard)
        if verb == "finish":
            self.finished.add(shard.number)

    @rule(seconds=st.sampled_from([30.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.ledger.expire_leases()

    @rule()
    def worker_dies(self) -> None:
        self.ledger.expire_leases(dead_owner="worker")

    @rule(wish=st.sampled_from(["cancel", "pause", "resume", "retry"]))
    def somebody_wishes(self, wish: str) -> None:
        before = state(self.ledger, self.run)
        try:
            getattr(self.ledger, f"request_{wish}")(self.run.id)
        except WinnowError:
            assert self.ledger.run(self.run.id).state is before
        else:
            assert before in (State.FAILED, State.CANCELLED) if wish == "retry" else not before.ended

    @invariant()
    def the_state_follows_from_the_shards(self) -> None:
        if not hasattr(self, "ledger"):
            return
        run, shards = self.ledger.run(self.run.id), self.ledger.shards(self.run.id)
        assert all(shards[number].state is State.DONE for number in self.finished)
        assert run.done == sum(shard.done for shard in shards) and run.total == 30
        assert self.ledger.settle(run.id) == run
        leased = [shard.lease_owner is not None for shard in shards]
        assert leased == [shard.state is State.RUNNING for shard in shards]
        assert not run.state.ended or not any(leased)


@pytest.fixture
def life(tmp_path: Path) -> type[Life]:
    Life.folder = tmp_path
    return Life


def test_any_order_of_events_leads_to_a_consistent_end(life: type[Life]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

"""Writes committed together: each answered after its commit, each failing alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from db.database import Database
from db.errors import WinnowError
from db.writer import GroupWriter


@pytest.fixture
def database(tmp_path: Path, database_url: str) -> Iterator[Database]:
    made = Database(database_url or tmp_path / "a.db")
    with made.write() as connection:
        connection.exec_driver_sql("CREATE TABLE line (number INTEGER PRIMARY KEY)")
    yield made
    made.close()


def lines(database: Database) -> list[int]:
    with database.read() as connection:
        return [number for (number,) in connection.exec_driver_sql("SELECT number FROM line ORDER BY number")]


def add(number: int) -> object:
    def work(connection: Connection) -> int:
        connection.exec_driver_sql(f"INSERT INTO line VALUES ({number})")
        return number

    return work


def test_those_who_wait_share_a_commit(database: Database) -> None:
    writer, started, gate, commits = GroupWriter(database), threading.Event(), threading.Event(), []
    event.listen(database._writer, "commit", commits.append)

    def first(connection: Connection) -> int:
        started.set()
        assert gate.wait(30)
        return -1

    with ThreadPoolExecutor(21) as pool:
        leader = pool.submit(writer.run, first)
        assert started.wait(30)
        rest = [pool.submit(writer.run, add(number)) for number in range(20)]
        while len(writer._waiting) < 20:
            pass
        gate.set()
        assert leader.result() == -1 and [one.result() for one in rest] == list(range(20))
    assert lines(database) == list(range(20)) and len(commits) == 2


def test_whoever_is_stored_does_not_wait_for_those_who_came_later(database: Database) -> None:
    writer, gates = GroupWriter(database), [threading.Event() for _ in range(2)]
    running = [threading.Event() for _ in range(2)]

    def held(number: int) -> object:
        return lambda connection: running[number].set() or gates[number].wait(30)

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(writer.run, held(0))
        assert running[0].wait(30)
        later = pool.submit(writer.run, held(1))
        while len(writer._waiting) < 1:
            pass
        gates[0].set()
        assert first.result(30) and running[1].wait(30)
        last = [pool.submit(writer.run, add(number)) for number in range(3)]
        while len(writer._waiting) < 3:
            pass
        assert not any(one.done() for one in last)
        gates[1].set()
        assert later.result(30) and [one.result(30) for one in last] == [0, 1, 2]


def test_one_that_fails_takes_back_nothing_but_itself(database: Database) -> None:
    writer, started, gate = GroupWriter(database), threading.Event(), threading.Event()

    def fails(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO line VALUES (100)")
        raise WinnowError("not this one")

    with ThreadPoolExecutor(4) as pool:
        leader = pool.submit(writer.run, lambda connection: started.set() or gate.wait(30))
        assert started.wait(30)
        bad, good = pool.submit(writer.run, fails), pool.submit(writer.run, add(1))
        gate.set()
        assert leader.result() and good.result() == 1
        with pytest.raises(WinnowError, match="not this one"):
            bad.result()
    assert lines(database) == [1]


def test_a_failing_commit_is_everybodys_error(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = GroupWriter(database)

    def full(connection: Connection) -> None:
        raise WinnowError("the disk is full")

    event.listen(database._writer, "commit", full)
    with pytest.raises(WinnowError, match="the disk is full"):
        writer.run(add(1))
    event.remove(database._writer, "commit", full)
    assert lines(database) == []
    assert writer.run(add(2)) == 2 and lines(database) == [2]

"""Small writes of many threads, committed together.

At synchronous FULL a commit waits for the disk, and the disk takes as long for twenty verdicts as for one. Whoever comes
while a commit runs waits in line; the first of them writes for all afterwards. Nobody is answered before the commit that holds
their work has returned, so what was acknowledged is as safe as with a commit of its own. Each is woken for itself: of those who
wait for a lock, Python lets in whom it likes, and some would wait for very long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, exc

from db.database import Database

T = TypeVar("T")


class _Task(Generic[T]):
    def __init__(self, work: Callable[[Connection], T]) -> None:
        self.work = work
        self.called = threading.Event()  # when it is done, or has to write for all who wait
        self.done = False
        self.value: T | None = None
        self.error: BaseException | None = None


class GroupWriter:
    """Runs pieces of work in shared transactions, each in a savepoint: one that fails takes back nothing but itself."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._guard = threading.Lock()
        self._waiting: list[_Task[Any]] = []
        self._led = False  # whether somebody writes, or was called to

    def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once it is committed. Raises what it raises, or what the commit of all raised.

        `work` may run in another thread, and must not wait for a third.
        """
        mine = _Task(work)
        with self._guard:
            self._waiting.append(mine)
            waits, self._led = self._led, True
        if waits:
            mine.called.wait()
        if not mine.done:
            self._lead()
        if mine.error is not None:
            raise mine.error
        return mine.value  # type: ignore[return-value]

    def _lead(self) -> None:
        """Write for all who wait, and call them, and the first of those who came meanwhile to write for these."""
        with self._guard:
            tasks, self._waiting = self._waiting, []
        try:
            self._commit(tasks)
        finally:
            with self._guard:
                following = self._waiting[:1]
                self._led = bool(following)
            for task in (*tasks, *following):
                task.called.set()

    def _commit(self, tasks: list[_Task[Any]]) -> None:
        try:
            with self._db.write() as connection:
                for task in tasks:
                    _attempt(connection, task)
        except BaseException as error:  # noqa: BLE001 (raised again in every thread that waits)
            for task in tasks:
                task.error = task.error or error
        finally:
            for task in tasks:
                task.done = True


def _attempt(connection: Connection, task: _Task[Any]) -> None:
    try:
        with connection.begin_nested():
            task.value = task.work(connection)
    except exc.OperationalError:  # a full disk takes the transaction of all with it
        raise
    except Exception as error:  # noqa: BLE001 (raised again in the thread that waits)
        task.error = error

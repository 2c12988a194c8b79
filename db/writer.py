"""Small writes of many threads, committed together.

At synchronous FULL a commit waits for the disk, and the disk takes as long for twenty verdicts as for one. Whoever comes
while a commit runs waits in line; the first to have its turn afterwards writes for all of them. Nobody is answered before
the commit that holds their work has returned, so what was acknowledged is as safe as with a commit of its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, exc

from db.database import Database

T = TypeVar("T")


class _Task(Generic[T]):
    def __init__(self, work: Callable[[Connection], T]) -> None:
        self.work = work
        self.done = False
        self.value: T | None = None
        self.error: BaseException | None = None


class GroupWriter:
    """Runs pieces of work in shared transactions, each in a savepoint: one that fails takes back nothing but itself."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._turn = threading.Lock()
        self._waiting: deque[_Task[Any]] = deque()

    def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once it is committed. Raises what it raises, or what the commit of all raised.

        `work` may run in another thread, and must not wait for a third.
        """
        mine = _Task(work)
        self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                self._commit([self._waiting.popleft() for _ in range(len(self._waiting))])
        if mine.error is not None:
            raise mine.error
        return mine.value  # type: ignore[return-value]

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

"""The process that does the work: spawned by a worker, warm between shards, dead when its parent is.

It reads JSON lines from its standard input, first what the store is opened with, then one per shard, and answers with JSON
lines on its standard output: progress, log, and at the end done, stopped or failed. Killing it is always safe: everything it stores is stored under its lease.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import Any, TextIO

import msgspec

from db.errors import WinnowError
from db.records import Shard
from db.shared import Shared
from db.store import Store
from engine.control import Stopped

PR_SET_PDEATHSIG = 1


class PipeControl:
    """The worker's end of a shard, seen from the child."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._speaking = threading.Lock()
        self._stop = threading.Event()
        self._told = 0.0

    def begin(self) -> None:
        """A new shard: what was asked before does not concern it."""
        self._stop.clear()
        self._told = 0.0

    def request_stop(self) -> None:
        self._stop.set()

    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def progress(self, done: int, total: int | None = None) -> None:
        """At most five messages a second: progress is for eyes, and the end of the shard is told anyway."""
        if time.monotonic() - self._told > 0.2:
            self._told = time.monotonic()
            self.say("progress", done=done, total=total)

    def log(self, text: str, level: str = "info") -> None:
        self.say("log", text=text, level=level)

    def say(self, what: str, **values: Any) -> None:
        with self._speaking:
            self._out.write(json.dumps({"what": what, **values}) + "\n")
            self._out.flush()


class _Told(logging.Handler):
    """Warnings of our own modules go into the log of the run."""

    def __init__(self, control: PipeControl) -> None:
        super().__init__(logging.WARNING)
        self._control = control

    def emit(self, record: logging.LogRecord) -> None:
        self._control.log(self.format(record), record.levelname.lower())


def main() -> None:
    """Serve shards until the parent closes the pipe. Arguments: home folder, parent's pid, module with `execute`."""
    home, parent, module = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    _die_with(parent)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not disturb the conversation
    control = PipeControl(answers)
    orders: Queue[dict[str, Any]] = Queue()
    threading.Thread(target=_listen, args=(orders, control), daemon=True).start()
    store = Store(home, Shared(**orders.get()["shared"]))
    for ours in ("db", "engine"):
        logging.getLogger(ours).addHandler(_Told(control))
    while True:
        _work(store, import_module(module), orders.get(), control)


def _listen(orders: Queue[dict[str, Any]], control: PipeControl) -> None:
    """Orders and stop requests; the end of the pipe is the end of the process."""
    for line in sys.stdin:
        message = json.loads(line)
        if message["what"] == "stop":
            control.request_stop()
        else:
            orders.put(message)
    os._exit(0)


def _work(store: Store, runs: Any, order: dict[str, Any], control: PipeControl) -> None:
    control.begin()
    shard = msgspec.convert(order["shard"], Shard)  # as claimed: by now the ledger may hold another's fence
    try:
        runs.execute(store, store.ledger.run(order["run"]), shard, control)
    except Stopped:
        control.say("stopped")
    except WinnowError as error:  # a sentence for people; where it was raised is no matter
        control.say("failed", error=str(error))
    except Exception:  # noqa: BLE001 (the worker puts it on record)
        control.say("failed", error=traceback.format_exc())
    else:
        control.say("done")


def _die_with(parent: int) -> None:
    """Ask Linux for a SIGKILL when the parent ends; elsewhere the closed pipe does it. Ctrl-C is for the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()

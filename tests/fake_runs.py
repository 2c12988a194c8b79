"""Work for the tests of workers: a shard writes one line per item, and can misbehave in every known way."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from db.records import Run, Shard
from db.store import Store
from engine.control import Control, Stopped


def plan(store: Store, run: Run) -> list[tuple[dict[str, Any], int]]:
    if run.options.get("bad_plan"):
        raise ValueError("cannot plan this")
    return [({"items": 2}, 2)] * 2


def execute(store: Store, run: Run, shard: Shard, control: Control) -> None:
    """Each item is stored as a metric, which is refused under no lease: what counts is that none is missing or doubled."""
    for item in range(shard.payload["items"]):
        if control.stop_requested():
            raise Stopped
        mode = shard.payload.get("mode", "")
        once = Path(store.home / f"once-{run.id}-{shard.number}")
        if mode and (shard.payload.get("always") or not once.exists()):
            once.touch()
            misbehave(mode)
        time.sleep(shard.payload.get("seconds", 0.0))
        with Path(store.home / "items.txt").open("a") as file:
            file.write(f"{run.id}/{shard.number}/{item}\n")
        control.progress(item + 1, shard.payload["items"])
    control.log("shard finished")


def misbehave(mode: str) -> None:
    if mode == "raise":
        raise ValueError("a broken item")
    if mode == "exit":
        os._exit(3)
    if mode == "sys.exit":
        sys.exit("leaving")
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "hang":
        time.sleep(3600)


def conclude(store: Store, run: Run) -> None:
    store.ledger.set_result(run.id, {"shards": len(store.ledger.shards(run.id))})

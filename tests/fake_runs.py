"""Work for the tests of workers: a shard stores one candidate per item, and can misbehave in every known way.

What is stored goes through the store's own door, under the shard's fence. `items.txt` besides counts what was executed.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from db.errors import WinnowError
from db.records import Kind, NewCandidate, Run, Shard
from db.store import Store
from engine.control import Control, Stopped


def plan(store: Store, run: Run) -> list[tuple[dict[str, Any], int]]:
    if run.options.get("bad_plan"):
        raise ValueError("cannot plan this")
    return [({"items": 2}, 2)] * run.options.get("shards", 2)


def execute(store: Store, run: Run, shard: Shard, control: Control) -> None:
    once = Path(store.home / f"once-{run.id}-{shard.number}")
    for item in range(shard.payload["items"]):
        if control.stop_requested():
            raise Stopped
        if shard.payload.get("always") or not once.exists():
            once.touch()
            misbehave(store, shard.payload.get("mode", ""), control)
        time.sleep(shard.payload.get("seconds", 0.0))
        with Path(store.home / "items.txt").open("a") as file:
            file.write(f"{run.id}/{shard.number}/{item}\n")
        save(store, run, shard, item)
        control.progress(item + 1)
    control.log("shard finished")


def save(store: Store, run: Run, shard: Shard, item: int) -> None:
    """A writer that does not repeat itself, the worst case: each attempt finds another target."""
    assert run.dataset_id is not None
    suffix = f"/{shard.fence}" if shard.payload.get("fickle") else ""
    image = store.datasets.images(run.dataset_id)[0]
    made = NewCandidate(
        target=f"{shard.number}/{item}{suffix}", variant=0, kind=Kind.INSTANCE, image_id=image.id, seed=0
    )
    store.review.add_candidates(shard, [made], run.dataset_id)


def misbehave(store: Store, mode: str, control: Any) -> None:
    if mode == "raise":
        raise ValueError("a broken item")
    if mode == "refuse":
        raise WinnowError("The weights are missing.\nPut them there.")
    if mode == "exit":
        os._exit(3)
    if mode == "sys.exit":
        sys.exit("leaving")
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "segfault":
        ctypes.string_at(0)
    if mode == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
        bytearray(2**40)
    if mode == "cut":
        os.write(control._out.fileno(), b'{"what": "prog')  # killed in the middle of a message
        os._exit(3)
    if mode == "leave":
        sleeper = subprocess.Popen(["sleep", "3600"])
        (store.home / "left").write_text(str(sleeper.pid))
        os._exit(3)
    if mode == "hang":
        time.sleep(3600)


def conclude(store: Store, run: Run) -> None:
    if run.options.get("bad_end"):
        raise ValueError("cannot sum this up")
    store.ledger.set_result(run.id, {"shards": len(store.ledger.shards(run.id))})

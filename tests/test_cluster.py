"""Several machines, as processes of this one: two studios and three workers that share PostgreSQL, Redis and blobs, and no folder.

Run by `make test-cluster`; it starts the servers itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from servers import Databases, Server, free_port, postgres_server, redis_server

from db.records import Dataset, Run, State
from db.shared import Shared
from db.store import Store
from engine.jobs import queue_state
from engine.recipe import load
from engine.runs import start_generate
from engine.tabletop import build
from engine.tabletop.document import document

pytestmark = pytest.mark.cluster

SCENES, AMOUNT = 16, 96
PATIENCE = 900.0
LEASE_SECONDS = 20
SECRET = "0123456789abcdef" * 4
Processes = list[subprocess.Popen[bytes]]


@dataclass
class Cluster:
    """`store` is a look at what they share, from a home folder of its own."""

    place: Path
    postgres: Server
    redis: Server
    shared: Shared
    store: Store
    studios: Processes = field(default_factory=list)
    workers: Processes = field(default_factory=list)
    ports: list[int] = field(default_factory=list)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """A process of a machine of its own."""
        home = self.place / name
        shared = {f"WINNOW_{key.upper()}": value for key, value in self.shared.settings().items()}
        environment = os.environ | shared | {"WINNOW_HOME": str(home), "WINNOW_LEASE_SECONDS": str(LEASE_SECONDS)}
        with (self.place / f"{name}.log").open("ab") as log:
            words = [sys.executable, "-m", "studio.cli", *command]
            return subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)

    def start_all(self) -> None:
        for number in range(2):
            self.ports.append(free_port())
            self.studios.append(self.start(f"studio{number}", "serve", "--no-worker", "--port", str(self.ports[-1])))
        self.workers += [self.start(f"worker{number}", "worker") for number in range(3)]

    def ask(self, studio: int, method: str, path: str, **body: Any) -> Any:
        """The answer of a studio as soon as it has one: it may be starting, or have no database for the moment."""

        def asked() -> httpx.Response | None:
            address = f"http://127.0.0.1:{self.ports[studio]}{path}"
            try:
                found = httpx.request(method, address, json=body or None, headers={"X-Winnow": "1"}, timeout=PATIENCE)
            except httpx.TransportError:
                return None
            return None if found.status_code == 503 else found

        answer = until(asked)
        assert answer.status_code == 200, answer.text
        return answer.json()


def until(look: Callable[[], Any]) -> Any:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
    return found


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    build(tmp_path / "scenes", "standard", {"train": SCENES})
    return tmp_path / "scenes"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with postgres_server("synchronous_commit=on") as postgres, redis_server() as queue:
        shared = Shared(
            database_url=Databases(postgres).fresh(),
            blobs_url=f"file://{tmp_path}/blobs",
            queue_url=f"redis://127.0.0.1:{queue.port}/0",
            secret=SECRET,
        )
        made = Cluster(tmp_path, postgres, queue, shared, Store(tmp_path / "looking", shared))
        yield made
        made.store.close()
        for process in made.studios + made.workers:
            process.kill()
            process.wait()


def made_of(store: Store, run: Run) -> dict[Any, Any]:
    """Everything about the candidates and scores of a run that does not depend on a clock or on who made it."""
    found = store.review.candidates(store.review.candidate_ids(run.id))
    scores = store.review.scores_of([one.id for one in found])
    images = store.datasets.images_of({one.image_id for one in found})
    made = {
        (one.target, one.variant): (
            images[one.image_id].file_name, one.kind, one.seed, one.xyxy, one.text_before, one.text_after, one.digest,
            sorted((score.filter, score.value) for score in scores[one.id]),
        )
        for one in found
    }  # fmt: skip
    assert len(made) == len(found)
    return made


def alone(place: Path, scenes: Path) -> dict[Any, Any]:
    """The same recipe on one machine, with a file as database."""
    store = Store(place)
    dataset = store.datasets.import_document(document(scenes), "scenes")
    run = start(store, dataset)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
    worker = subprocess.Popen(
        [sys.executable, "-m", "studio.cli", "worker"],
        env=environment | {"WINNOW_HOME": str(place)},
        start_new_session=True,
    )
    ended(store, run)
    worker.kill()
    worker.wait()
    found = made_of(store, run)
    store.close()
    return found


def start(store: Store, dataset: Dataset) -> Run:
    return start_generate(
        store, dataset_id=dataset.id, recipe=load("enhanced_negatives"), pack="classic", amount=AMOUNT
    )


def ended(store: Store, run: Run) -> None:
    last = [*store.ledger.followers(run.id), run][0]
    until(lambda: store.ledger.run(last.id).state.ended)
    assert [store.ledger.run(one.id).state for one in (run, last)] == [State.DONE] * 2, store.ledger.run(last.id).error


def test_a_recipe_survives_the_loss_of_a_studio_a_worker_and_both_servers(
    cluster: Cluster, scenes: Path, tmp_path: Path
) -> None:
    dataset = cluster.store.datasets.import_document(document(scenes), "scenes")
    cluster.start_all()
    assert cluster.ask(0, "GET", "/api/datasets")[0]["name"] == "scenes"
    until(lambda: len(cluster.store.ledger.workers()) == 3)

    body = {"dataset": dataset.id, "recipe": "enhanced_negatives", "pack": "classic", "amount": AMOUNT}
    run = cluster.store.ledger.run(cluster.ask(0, "POST", "/api/generate", **body)["id"])
    until(lambda: cluster.store.review.candidate_ids(run.id))
    kill(cluster.studios[0])
    kill(at_work(cluster, run))
    with redis.Redis.from_url(cluster.shared.queue_url) as queue:
        queue.flushall()
    assert not cluster.store.ledger.run(run.id).state.ended
    for server in (cluster.postgres, cluster.redis):
        server.stop()
        time.sleep(1.5)
        server.start()

    cluster.studios[0] = cluster.start("studio0", "serve", "--no-worker", "--port", str(cluster.ports[0]))
    ended(cluster.store, run)
    found = made_of(cluster.store, run)
    assert found == alone(tmp_path / "alone", scenes) and len(found) > AMOUNT / 2
    assert cluster.ask(0, "GET", f"/api/runs/{run.id}") == cluster.ask(1, "GET", f"/api/runs/{run.id}")
    assert len({shard.lease_owner for shard in cluster.store.ledger.shards(run.id)}) == 1, "a lease is still held"
    for digest in {row[6] for row in found.values() if row[6]}:
        assert cluster.store.blobs.get(digest)
    alive = [process for process in cluster.studios + cluster.workers if process.poll() is None]
    assert len(alive) == 4


def at_work(cluster: Cluster, run: Run) -> subprocess.Popen[bytes]:
    """A worker that has a shard of the run, while it has it."""
    mine = {process.pid: process for process in cluster.workers}

    def holder() -> subprocess.Popen[bytes] | None:
        owners = (shard.lease_owner for shard in cluster.store.ledger.shards(run.id) if shard.lease_owner)
        return next((mine[int(owner.rsplit(":", 2)[1])] for owner in owners), None)

    return until(holder)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_what_a_queue_forgets_is_seen(cluster: Cluster) -> None:
    assert queue_state(cluster.shared.queue_url) == {"appendonly": "yes", "maxmemory-policy": "noeviction"}

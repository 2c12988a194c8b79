"""The web server under faults: killed, without room, with the database held by another, and with fifty people at once."""

from __future__ import annotations

import random
import resource
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from conftest import candidates, leased, small_document
from fastapi import FastAPI
from fastapi.testclient import TestClient
from faults import Broken, Fork, kept, kill, must_fail_without, promised, start, wait_for

from db import formats
from db.database import PRAGMAS
from db.errors import WinnowError
from db.store import Store
from studio import api
from studio.app import create_app
from studio.benches import load

DATABASE = "winnow.db"
IDS = range(1, 31)
HEADERS = {"X-Winnow": "1"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with 30 candidates, ids 1 to 30, and a snapshot."""
    place = tmp_path_factory.mktemp("template")
    store = Store(place / "home")
    dataset = store.datasets.import_document(small_document(place / "files", images=2), "small")
    candidates(store, dataset.id, leased(store, dataset.id), len(IDS))
    store.snapshots.freeze("frozen", dataset.id, {})
    store.close()
    return place / "home"


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "home")


def given(op_id: str, candidate: int = 1, **more: Any) -> dict[str, Any]:
    return {"op_id": op_id, "candidate_id": candidate, "decision": "accept", **more}


# Kills


def routes_alone(home: Path) -> FastAPI:
    """The studio without its pages, which take seconds to build: what decides about verdicts is all there."""
    app = FastAPI()
    app.include_router(api.router(Store(home)))
    return app


class Served:
    """A studio in a copy of this process, at a port that stays the same."""

    def __init__(self, home: Path, make: Callable[[Path], FastAPI] = create_app) -> None:
        self._home, self._make = home, make
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self._process = Fork(self._serve)
        assert wait_for(self._listens)

    def _serve(self) -> None:
        uvicorn.run(self._make(self._home), host="127.0.0.1", port=self._port, log_config=None, access_log=False)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()


class Page:
    """Somebody who decides: what was not answered is sent first when the server is back."""

    def __init__(self, seed: int) -> None:
        self.acknowledged: set[str] = set()
        self._waiting: dict[str, Any] | None = None
        self._sent, self._chance = 0, random.Random(seed)

    def judge(self, address: str, count: int) -> None:
        """Raises httpx.TransportError when the server is gone."""
        with httpx.Client(base_url=address, headers=HEADERS, timeout=30) as client:
            for _ in range(count):
                self._waiting = self._waiting or self._next()
                (told,) = client.post("/api/review/verdicts", json=[self._waiting]).json()
                assert told["status"] in ("saved", "repeated")
                self.acknowledged.add(self._waiting["op_id"])
                self._waiting = self._waiting if self._chance.random() < 0.1 else None  # some answers get lost

    def _next(self) -> dict[str, Any]:
        self._sent += 1
        return given(f"verdict {self._sent}", self._chance.choice(IDS))


@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=pytest.mark.fault)])
@must_fail_without("the answer after the commit", "one verdict for a name")
def test_kills_of_the_web_server_lose_and_double_no_verdict(home: Path, kills: int) -> None:
    """As a page does: what was not answered is sent again, and now and then something that was."""
    server, page, chance = Served(home, routes_alone), Page(kills), random.Random(kills)
    try:
        for _ in range(kills):
            page.judge(server.address, 1)
            end = threading.Timer(chance.uniform(0.005, 0.5), server.kill)
            end.start()
            with suppress(httpx.TransportError):
                page.judge(server.address, 10**9)
            end.join()
            server.start()
        page.judge(server.address, 1)
    finally:
        server.kill()
    stored = kept(home / DATABASE)
    lost = page.acknowledged - set(stored)
    promised(not lost, f"{len(lost)} of {len(page.acknowledged)} acknowledged verdicts are lost")
    names = [name.split("/")[0] for name in stored]
    promised(len(names) == len(set(names)), f"{len(names) - len(set(names))} verdicts are stored twice")


# Without room, and with a lock


@pytest.fixture(scope="module")
def studio(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Path]]:
    """A client of one studio, which does not wait long for a lock, and its home."""
    home = shutil.copytree(template, tmp_path_factory.mktemp("studio") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRAGMAS, "busy_timeout", "200")
        with TestClient(create_app(home), headers=HEADERS, raise_server_exceptions=False) as client:
            assert client.get("/api/review/setup").status_code == 200
            yield client, home


@contextmanager
def no_room(most: int) -> Iterator[None]:
    """No file of this process may grow over so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def decide(client: TestClient, *verdicts: dict[str, Any]) -> httpx.Response:
    return client.post("/api/review/verdicts", json=list(verdicts))


def statuses(answer: httpx.Response) -> list[str]:
    return [one["status"] for one in answer.json()]


@must_fail_without("errors in words")
def test_a_full_disk_is_507_loses_nothing_and_all_goes_on_with_room(
    studio: tuple[TestClient, Path],
) -> None:
    client, home = studio
    name = uuid.uuid4().hex
    with no_room(100):
        full = decide(client, given(f"{name} 1"), given(f"{name} 2", 2))
    promised(full.status_code == 507, f"{full.status_code}: {full.text:.200}")
    assert "disk is full" in full.json()["error"] and int(full.headers["retry-after"]) > 0
    assert not [one for one in kept(home / DATABASE) if one.startswith(name)]
    assert statuses(decide(client, given(f"{name} 1"), given(f"{name} 2", 2))) == ["saved", "saved"]


ACTS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "import": ("/api/datasets", lambda place: {"path": str(place / "source"), "name": "new"}),
    "freeze": ("/api/snapshots", lambda place: {"dataset": "small", "name": "again"}),
    "export": ("/api/export", lambda place: {"snapshot": "frozen", "folder": str(place / "out")}),
    "generate": ("/api/generate", lambda place: {"dataset": "small", "recipe": "gen2det", "amount": 2}),
    "a view": ("/api/grid/views", lambda place: {"dataset": 1, "name": "mine", "query": "dataset=1"}),
}


@pytest.mark.parametrize("name", ACTS)
def test_whatever_is_done_without_room_is_507_and_done_when_there_is(
    studio: tuple[TestClient, Path], tmp_path: Path, name: str
) -> None:
    client, _ = studio
    formats.write(small_document(tmp_path / "files", images=1), tmp_path / "source", "coco")
    address, body = ACTS[name]
    with no_room(100):
        full = client.post(address, json=body(tmp_path))
    assert full.status_code == 507, full.text
    assert int(full.headers["retry-after"]) > 0 and not (tmp_path / "out").exists()
    done = client.post(address, json=body(tmp_path))
    assert done.status_code == 200, done.text


@must_fail_without("errors in words")
def test_a_lock_that_does_not_end_is_503_with_a_time_to_come_back(
    studio: tuple[TestClient, Path],
) -> None:
    client, home = studio
    verdict = given(uuid.uuid4().hex)
    process = start("hold", home / DATABASE, 60, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    try:
        locked = decide(client, verdict)
        page = client.get("/api/review/next", params={"dataset": 1})  # hands out candidates, which is a write too
    finally:
        kill(process)
        process.stdout.close()
    promised({locked.status_code, page.status_code} <= {200, 503}, f"{locked.status_code}, {page.status_code}")
    promised(locked.status_code == 503, f"{locked.status_code}: {locked.text:.200}")
    assert "locked" in locked.json()["error"] and int(locked.headers["retry-after"]) > 0
    assert statuses(decide(client, verdict)) == ["saved"]


def test_a_refusal_that_will_not_pass_has_no_time_to_come_back(studio: tuple[TestClient, Path]) -> None:
    answer = studio[0].post("/api/snapshots", json={"dataset": "nothing", "name": "x"})
    assert answer.status_code == 404 and "retry-after" not in answer.headers


# Fifty people, many candidates, and ten thousand runs in the queue

CANDIDATES = 20_000  # `winnow bench load` has fifty people judge for half an hour on 5,000,000
GROWTH = 150  # MiB of memory; what fills in the first tenth of the time is not counted
LOG = 96  # MiB of SQLite's log: PRAGMA journal_size_limit, and one commit


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("large") / "home"
    load.fill(home, CANDIDATES)
    return home


@must_fail_without("what others hold")
@pytest.mark.parametrize(("people", "seconds"), [(5, 2.0), pytest.param(50, 30.0, marks=pytest.mark.fault)])
def test_fifty_people_at_once_lose_nothing_and_the_server_does_not_grow(
    large: Path, record_property: Any, people: int, seconds: float
) -> None:
    """Whoever is refused, gets what another has, or misses a verdict breaks the test. How long they wait goes to the report."""
    server = Served(large, routes_alone)
    try:
        found = load.judge(large, server.address, server.pid, people=people, seconds=seconds, pace=1.0)
    except WinnowError as error:
        raise Broken(str(error)) from error
    finally:
        server.kill()
    for name, value in found.items():
        record_property(name, value)
    assert found["decisions"] >= people
    assert found["memory_growth_mib"] < GROWTH and found["log_mib"] < LOG


@pytest.mark.fault
def test_ten_thousand_runs_in_the_queue_hold_nobody_up(large: Path) -> None:
    """What is asked of the ledger reads a page of it, never all; a worker takes the oldest first."""
    store = Store(large)
    waiting = store.ledger.waiting_runs()
    assert len(store.ledger.runs(limit=50)) == 50 and len(waiting) <= 50
    assert [run.id for run in waiting] == sorted(run.id for run in waiting)
    with TestClient(create_app(large), raise_server_exceptions=False) as client:
        listed = client.get("/api/runs", params={"limit": 50}).json()
        assert len(listed) == 50
    ids = [run.id for run in store.ledger.runs(limit=500)]
    for run in ids[:20]:
        store.ledger.request_cancel(run)
    assert {store.ledger.run(run).state for run in ids[:20]} == {"cancelled"}
    store.close()


@pytest.mark.fault
def test_an_interrupted_verdict_of_many_is_all_there_or_not_at_all(home: Path) -> None:
    """A request with 200 verdicts, and a kill while it is answered."""
    server = Served(home, routes_alone)
    for number in range(5):
        batch = [given(f"batch {number} {i}", IDS[i % len(IDS)]) for i in range(200)]
        threading.Timer(0.01 * (number + 1), server.kill).start()
        try:
            httpx.post(f"{server.address}/api/review/verdicts", json=batch, headers=HEADERS, timeout=30)
        except httpx.TransportError:
            pass
        time.sleep(0.2)
        server.start()
        stored = [name for name in kept(home / DATABASE) if name.startswith(f"batch {number} ")]
        assert len(stored) in (0, 200)
    server.kill()

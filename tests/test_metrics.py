"""What the studio tells of itself: health, figures, the log, and the doctor."""

import io
import json
import logging
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from conftest import candidates, leased, small_document
from fastapi import FastAPI
from fastapi.testclient import TestClient

from db.database import sqlite_module
from db.errors import WinnowError
from db.records import Dataset, Decision, NewVerdict
from db.store import Store
from engine.jobs import Worker
from studio import actions, doctor, logs, metrics
from studio.context import Studio
from studio.metrics import BOUNDS, Metrics


@pytest.fixture
def counted() -> Metrics:
    return Metrics()


@pytest.fixture
def client(store: Store, counted: Metrics) -> TestClient:
    app = FastAPI()
    app.include_router(metrics.router(store, counted))
    return TestClient(app)


LINE = re.compile(r'([a-z_]+)(\{(?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*\})? (\S+)')


def samples(client: TestClient) -> dict[str, float]:
    """Every line of the answer, which has to be of the text format."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.text.endswith("\n")
    found = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match, line
            found[match[1] + (match[2] or "")] = float(match[3])
    return found


def test_the_figures_are_those_of_the_store(store: Store, client: TestClient, tmp_path: Path) -> None:
    dataset = store.datasets.import_document(small_document(tmp_path / "files"), "small")
    ids = candidates(store, dataset.id, leased(store, dataset.id), 3)
    store.review.decide(
        [NewVerdict(op_id=f"op-{i}", candidate_id=i, decision=Decision.ACCEPT, reviewer="a") for i in ids[:2]]
    )
    store.ledger.present("host/1")
    found = samples(client)
    expected = {
        "winnow_images": 6,
        "winnow_candidates": 3,
        "winnow_verdicts": 2,
        "winnow_verdicts_last_minute": 2,
        "winnow_workers": 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert found['winnow_runs{state="running"}'] == 1
    assert found['winnow_shards{state="running"}'] == 1
    assert found["winnow_worker_silence_seconds"] < 60
    assert found["winnow_disk_free_bytes"] > 0


def test_requests_fall_into_the_buckets_they_belong_to(client: TestClient, counted: Metrics) -> None:
    for seconds in (0.004, 0.005, 0.006, 99.0):
        counted.observe("api/review", "GET", 200, seconds)
    counted.observe("pages", "BREW", 418, 1.0)
    found = samples(client)
    bucket = 'winnow_request_seconds_bucket{{area="api/review",le="{}"}}'.format
    assert [found[bucket(bound)] for bound in (*BOUNDS, "+Inf")] == [2, 3, *[3] * (len(BOUNDS) - 2), 4]
    assert found['winnow_request_seconds_count{area="api/review"}'] == 4
    assert found['winnow_request_seconds_sum{area="api/review"}'] == pytest.approx(99.015)
    assert found['winnow_requests_total{area="pages",method="other",status="418"}'] == 1


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo '0, NVIDIA H200, 1024, 143771'; echo '1, NVIDIA A, 0, 81920'", {"0": 2**30, "1": 0}),
        ("echo 'No devices were found'; exit 6", {}),
        ("echo 'Failed to initialize NVML'", {}),
        ("exec sleep 30", {}),
    ],
)
def test_the_memory_of_cards_is_what_the_driver_says(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: dict[str, int]
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\n{script}\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(metrics, "DRIVER_SECONDS", 0.3 if "sleep" in script else 10.0)
    found = {name: value for name, value in samples(client).items() if "gpu_memory_used" in name}
    names = {
        f'winnow_gpu_memory_used_bytes{{gpu="{i}",name="{n}"}}' for i, n in (("0", "NVIDIA H200"), ("1", "NVIDIA A"))
    }
    assert set(found) == (names if expected else set())
    assert sorted(found.values()) == sorted(expected.values())


def test_labels_cannot_break_the_format(client: TestClient, counted: Metrics) -> None:
    counted.observe('a"b\\c\nd', "GET", 200, 0.1)
    assert samples(client)['winnow_requests_total{area="a\\"b\\\\c\\nd",method="GET",status="200"}'] == 1


def test_health(store: Store, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    well = client.get("/healthz")
    assert (well.status_code, well.json()["status"], well.json()["worker"]) == (200, "ok", "none seen")
    monkeypatch.setattr(metrics, "LITTLE_DISK", 2**80)
    full = client.get("/healthz")
    assert (full.status_code, full.json()["status"], full.json()["store"]) == (503, "failing", "ok")


def test_health_without_a_database(store: Store, counted: Metrics) -> None:
    with store._database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE worker RENAME TO gone")
    app = FastAPI()
    app.include_router(metrics.router(store, counted))
    answer = TestClient(app).get("/healthz")
    assert answer.status_code == 503
    assert "cannot be read" in answer.json()["store"]


# The log


def logged(kind: str, act: Any) -> str:
    """What the log has after `act`."""
    kept, root = io.StringIO(), logging.getLogger()
    handlers, level, ours = root.handlers[:], root.level, logging.getLogger("studio").level
    try:
        logs.set_up(kind, kept)
        act(logging.getLogger("studio.test"))
    finally:
        root.handlers[:], root.level = handlers, level
        for one in ("db", "engine", "studio"):
            logging.getLogger(one).setLevel(ours)
    return kept.getvalue()


def test_a_line_is_an_object_with_its_request_and_run() -> None:
    def act(logger: logging.Logger) -> None:
        with logs.within("r1"):
            logs.by("ann")
            logger.warning("run %s\nis late", 5, extra={"run": 5, "shard": 2})
        try:
            raise ValueError("broken\nthing")
        except ValueError:
            logger.exception("bug")

    first, second = map(json.loads, logged("json", act).splitlines())
    assert {k: v for k, v in first.items() if k != "at"} == {
        "level": "warning", "logger": "studio.test", "message": "run 5\nis late",
        "request": "r1", "person": "ann", "run": 5, "shard": 2,
    }  # fmt: skip
    assert "request" not in second and "ValueError: broken" in second["error"]


def test_nobody_writes_a_line_of_the_log_from_outside() -> None:
    def act(logger: logging.Logger) -> None:
        with logs.within("r1"):
            logger.warning("wrong name %s", "x\nERROR studio.auth: all is lost\r")

    assert logged("text", act) == "WARNING studio.test: wrong name x\\nERROR studio.auth: all is lost\\r [r1]\n"


def test_lines_for_people_name_the_request_and_the_run() -> None:
    def act(logger: logging.Logger) -> None:
        logger.warning("alone")
        logger.warning("of a run", extra={"run": 5})
        with logs.within("r1"):
            logger.warning("of both", extra={"run": 5})

    expected = ["alone", "of a run [run 5]", "of both [r1, run 5]"]
    assert logged("text", act).splitlines() == [f"WARNING studio.test: {line}" for line in expected]


def test_from_a_request_one_finds_its_run_and_from_a_run_what_its_worker_said(store: Store, dataset: Dataset) -> None:
    studio = Studio(store=store, home=store.home)

    def act(_: logging.Logger) -> None:
        with logs.within("r1"):
            run = actions.start_recipe(studio, dataset="small", recipe="gen2det", amount=2)
        store.ledger.plan(run.id, [({}, 1)])
        shard = store.ledger.claim(run.id, "tester")
        worker = Worker(store.home, module="fake_runs")
        assert shard is not None
        worker._answer(run, shard, None, {"what": "log", "text": "half of it", "level": "warning"})  # type: ignore[arg-type]
        worker._answer(run, shard, None, {"what": "failed", "error": "broken"})  # type: ignore[arg-type]
        worker.store.close()

    lines = [json.loads(line) for line in logged("json", act).splitlines()]
    run = store.ledger.runs(limit=2)[-1].id
    (asked,) = [line for line in lines if line.get("request") == "r1"]
    assert asked["run"] == run and asked["message"].startswith("queued: ")
    said = [(line["level"], line["message"], line["shard"]) for line in lines if line["logger"] == "engine.jobs"]
    assert said == [("warning", "half of it", 0), ("error", "the shard failed: broken", 0)]
    assert {line["run"] for line in lines if line["logger"] == "engine.jobs"} == {run}


def test_an_unknown_kind_of_log_is_refused() -> None:
    with pytest.raises(WinnowError, match="text, json"):
        logs.set_up("xml")


# The doctor


def test_a_healthy_database_is_found_well(store: Store) -> None:
    found = doctor._database(store.home)
    assert [one.what for one in found] == ["database", "integrity of the database", "workers"]
    assert all(one.ok for one in found)


def test_broken_databases_are_found(store: Store, tmp_path: Path) -> None:
    path = store.home / "winnow.db"
    with store._database.write() as connection:
        connection.exec_driver_sql("INSERT INTO policy (name, version, rules, created_at) VALUES ('p', 1, x'00', 0)")
    store.close()
    connection = sqlite_module().connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(path.read_bytes())
    for at in range(4096 * 4, len(data), 4096):
        data[at : at + 64] = b"\xff" * 64
    path.write_bytes(data)
    bad = [one for one in doctor._database(store.home) if not one.ok]
    assert bad and all(one.cure for one in bad)
    path.write_bytes(b"no database" * 999)
    assert not doctor._database(store.home)[0].ok


def test_a_silent_worker_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.ledger.present("far/1", None)
    leased_run = store.ledger.workers()[0].seen_at
    monkeypatch.setattr(doctor.time, "time", lambda: leased_run + 3600)
    store.ledger.create_run("generate", "waiting", dataset_id=None, recipe="", options={}, seed=0, versions={})  # type: ignore[arg-type]
    found = {one.what: one for one in doctor._database(store.home)}
    assert not found["workers"].ok and "winnow worker" in found["workers"].cure
    assert "60 min" in found["silent worker"].seen


def test_a_taken_port_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        taken.settimeout(0.1)
        port = taken.getsockname()[1]
        finding = doctor._port("127.0.0.1", port)
    assert not finding.ok and "WINNOW_PORT" in finding.cure
    assert doctor._port("127.0.0.1", port).ok


def test_a_secret_that_others_can_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o640)
    settings = {"host": "0.0.0.0", "hosts": ""}
    found = {one.what: one for one in doctor._access(settings, tmp_path)}
    assert not found["mode of secret"].ok and "chmod 600" in found["mode of secret"].cure
    assert "WINNOW_HOSTS" in found["names of the studio"].cure
    (tmp_path / "secret").chmod(0o600)
    assert all(one.ok for one in doctor._access(settings | {"host": "127.0.0.1"}, tmp_path))

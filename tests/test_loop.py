"""The whole loop on Tabletop, through HTTP and a real worker: import, generate, filter, review, freeze, export, train,
evaluate. Small, but every part is the real one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from db import formats
from engine.tabletop import build

SECONDS = 300.0  # generous: a bound, not a measurement


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """`winnow serve` with its worker on an empty home, and a client for it."""
    home = tmp_path_factory.mktemp("home")
    log = (home / "log").open("wb")
    command = [sys.executable, "-m", "studio.cli", "serve", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"COLUMNS": "200"})
    try:
        yield httpx.Client(base_url=address(process, home / "log"), timeout=60, headers={"X-Winnow": "1"})
    finally:
        process.terminate()
        process.wait(30)


def address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found and answers(found[0]):
            return found[0]
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/datasets").status_code == 200
    except httpx.TransportError:
        return False


def post(studio: httpx.Client, route: str, /, **body: Any) -> Any:
    answer = studio.post(route, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(studio: httpx.Client, run_id: int) -> dict[str, Any]:
    """The run once it and its followers have ended well."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = studio.get(f"/api/runs/{run_id}").json()
        runs = [found["run"], *(studio.get(f"/api/runs/{i}").json()["run"] for i in found["followers"])]
        assert not [run["error"] for run in runs if run["state"] in ("failed", "cancelled")]
        if all(run["state"] == "done" for run in runs):
            return found["run"]
        time.sleep(0.3)
    raise AssertionError(f"run {run_id} did not end: {runs}")


def test_the_whole_loop(studio: httpx.Client, tmp_path: Path) -> None:
    build(tmp_path / "scenes", "easy", {"train": 24, "val": 6, "test": 6}, seed=1)
    for split in ("train", "val", "test"):  # imported as a person would: COCO files beside an images folder
        (tmp_path / "coco").mkdir(exist_ok=True)
        (tmp_path / "scenes" / f"coco_{split}.json").rename(tmp_path / "coco" / f"{split}.json")
    (tmp_path / "scenes" / "images").rename(tmp_path / "coco" / "images")
    dataset = post(studio, "/api/datasets", path=str(tmp_path / "coco"), name="scenes")
    assert dataset["images"] == 36

    run = ended(studio, post(studio, "/api/generate", dataset="scenes", recipe="gen2det", amount=12)["id"])
    made = run["result"]["candidates"]
    assert run["done"] == 12 and 8 <= made <= 12  # a class with a single instance has nothing to paste

    page = studio.get("/api/review/next", params={"dataset": dataset["id"], "limit": 50}).json()
    ids = [card["id"] for card in page["cards"]]
    assert len(ids) == made
    decisions = [
        {"op_id": f"loop-test-{i}", "candidate_id": i, "decision": "reject" if n < 4 else "accept"}
        for n, i in enumerate(ids)
    ]
    first, again = (studio.post("/api/review/verdicts", json=decisions).json() for _ in range(2))
    assert {one["status"] for one in first} == {"saved"} and {one["status"] for one in again} == {"repeated"}

    real = post(studio, "/api/snapshots", dataset="scenes", name="real", accepted=False)
    both = post(studio, "/api/snapshots", dataset="scenes", name="both")
    assert (real["counts"]["synthetic"], both["counts"]["synthetic"]) == (0, made - 4)
    post(studio, "/api/export", snapshot="both", folder=str(tmp_path / "out"), format="coco")
    exported = formats.read(tmp_path / "out")
    assert exported.faults == [] and len(list(exported.images())) == 36 + made - 4

    options = {"iterations": 12, "batch_size": 2, "image_size": [96, 96], "eval_interval": 6}
    trained = ended(studio, post(studio, "/api/train", snapshot="both", options=options)["id"])
    assert trained["result"]["images"] == {"train": 24 + made - 4, "val": 6, "synthetic": made - 4}
    evaluated = ended(
        studio, post(studio, "/api/evaluate", train_run=trained["id"], snapshot="both", split="test")["id"]
    )
    assert 0 <= evaluated["result"]["mAP"] <= 1 and evaluated["result"]["images"] == 6
    assert len(evaluated["result"]["per_class"]) == 24


def test_refusals_are_sentences(studio: httpx.Client) -> None:
    cases = [
        ("/api/datasets", {"path": "/nowhere/at/all", "name": "x"}, 400, "There is nothing at /nowhere/at/all"),
        ("/api/generate", {"dataset": "nothing", "recipe": "gen2det"}, 404, "No data set named 'nothing'"),
        ("/api/train", {"snapshot": "nothing"}, 404, "No snapshot named 'nothing'"),
        ("/api/train", {"snapshot": "nothing", "speed": 3}, 422, "speed"),
        ("/api/runs/1/explode", {}, 404, "known wishes"),
    ]
    for path, body, status, words in cases:
        answer = studio.post(path, json=body)
        assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_other_sites_are_refused(studio: httpx.Client) -> None:
    evil = studio.post("/api/snapshots", json={"dataset": "x", "name": "y"}, headers={"Origin": "https://evil.example"})
    assert evil.status_code == 403
    assert studio.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_the_pages_open_and_name_what_to_do(studio: httpx.Client) -> None:
    for path in ("/", "/generate", "/review", "/train", "/compare", "/jobs"):
        answer = studio.get(path)
        assert answer.status_code == 200 and answer.headers["x-frame-options"] == "DENY"
    assert json.loads(studio.get("/api/runs").text)

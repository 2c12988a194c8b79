"""Compare in a real browser: confusion cells open boxes, the slider counts, what changed, and an ablation by one click."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from conftest import candidates, leased, small_document

from db.records import NewVerdict
from db.store import Store
from engine import runs
from engine.evaluation import suite, truth

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A studio with two snapshots and two evaluations, served from a thread."""
    from studio.app import create_app

    home = tmp_path_factory.mktemp("compare") / "home"
    fill(home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(home), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def fill(home: Path) -> None:
    """Two test images with a mug and a ball each. The first run takes both mugs for balls, one of them unsure; the second
    finds the mugs and loses the balls."""
    store = Store(home)
    dataset = store.datasets.import_document(small_document(home.parent / "files"), "small")
    (made,) = candidates(store, dataset.id, leased(store, dataset.id), 1)
    store.review.decide([NewVerdict(op_id="operation-1", candidate_id=made, decision="accept")])  # type: ignore[arg-type]
    real = store.snapshots.freeze("real", dataset.id)
    store.snapshots.freeze("both", dataset.id, store.review.policies(dataset.id))
    document = truth.detection(store, real, "test")
    mug, ball = (category["id"] for category in document["categories"])
    mugs = [note for note in document["annotations"] if note["category_id"] == mug]
    balls = [note for note in document["annotations"] if note["category_id"] == ball]
    taken = [said(note, ball, score) for note, score in zip(mugs, (0.9, 0.4), strict=True)]
    for rows in ([*taken, *(said(note, ball, 0.8) for note in balls)], [said(note, mug, 0.7) for note in mugs]):
        training = runs.start_train(store, snapshot_id=real.id, preset="tiny_atss")
        finish(store, training.id, {"mAP": 0.1})
        evaluation = runs.start_evaluate(store, train_run_id=training.id, snapshot_id=real.id, split="test")
        found = suite.evaluate(suite.fitting(document), document, rows)
        finish(store, evaluation.id, {**found, "predictions": store.blobs.put(msgspec.json.encode(rows)), "images": 2})
    store.close()


def said(note: dict[str, Any], category: int, score: float) -> dict[str, Any]:
    return {"image_id": note["image_id"], "category_id": category, "bbox": note["bbox"], "score": score}


def finish(store: Store, run_id: int, result: dict[str, Any]) -> None:
    shard = store.ledger.claim(run_id, "tester")
    assert shard is not None
    store.ledger.finish_shard(shard)
    store.ledger.set_result(run_id, result)
    store.ledger.conclude(run_id)


@pytest.fixture
def page(address: str) -> Iterator["sync_api.Page"]:
    """A page that fails the test when a script fails."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.set_default_timeout(60_000)
        faults: list[str] = []
        opened.on("pageerror", lambda error: faults.append(str(error)))
        yield opened
        browser.close()
    assert faults == []


def test_boxes_of_two_evaluations(page: "sync_api.Page", address: str) -> None:
    page.goto(f"{address}/compare?view=confusion")
    cell = page.locator('.w-matrix td[title="2: mug taken for ball"]')
    cell.wait_for()
    cell.click()
    shots = page.locator(".w-shots figure")
    sync_api.expect(shots).to_have_count(2)
    sync_api.expect(shots.first).to_contain_text("there: mug, said: ball 0.90")
    page.get_by_label("number input for Score from").fill("0.5")
    page.keyboard.press("Tab")
    sync_api.expect(page.locator('.w-matrix td[title="1: mug taken for ball"]')).to_be_visible()
    sync_api.expect(shots).to_have_count(1)

    page.get_by_label("What changed").check()
    picks = page.locator(".w-picks b")
    sync_api.expect(picks).to_have_text(["2", "2", "0", "1"])
    page.locator(".w-picks > div", has_text="boxes lost").focus()
    page.keyboard.press("Enter")
    sync_api.expect(shots.first).to_contain_text("there: ball, said: ball 0.80")

    page.get_by_label("Images").check()
    page.locator("[data-pick='1']").click()
    sync_api.expect(page.locator(".w-shots.large figure")).to_have_count(2)
    sync_api.expect(page.locator(".w-shots.large")).to_contain_text("1 found, 0 wrong, 1 not found")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_ablation_by_one_click(page: "sync_api.Page", address: str) -> None:
    page.goto(f"{address}/compare?view=ablations")
    page.get_by_text("No ablation yet").wait_for()
    page.get_by_text("Start a paired ablation").click()
    page.get_by_label("Seeds").fill("2")
    page.get_by_role("button", name="Train and compare").click()
    sync_api.expect(page.locator(".w-table tr[data-pick]")).to_contain_text("both against real")
    page.get_by_text("0 of 8 runs are done; this page follows.").wait_for()
    page.get_by_role("button", name="Cancel what is left").click()
    sync_api.expect(page.locator(".w-state.cancelled")).to_have_count(8)

"""The threshold lab in a real browser: by keyboard, by mouse, and on to Review."""

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from conftest import candidates, leased, small_document

from db.records import Decision, NewVerdict, Rule, Score
from db.store import Store

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
RULES = (Rule(filter="seam", at_most=3.0), Rule(filter="overlap", at_most=0.5))
COUNT = 60


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A studio with sixty scored candidates, a third of them decided, served from a thread."""
    from studio.app import create_app

    home = tmp_path_factory.mktemp("lab") / "home"
    fill(home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(home), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def fill(home: Path) -> None:
    """Seams spread evenly from 0 to 6, overlaps from 0 to 1; what has a seam up to 3 is good."""
    store = Store(home)
    dataset = store.datasets.import_document(small_document(home.parent / "files"), "small")
    store.datasets.import_document(small_document(home.parent / "more", images=2), "untouched")
    shard = leased(store, dataset.id, policy_id=store.review.save_policy("demo", RULES).id)
    ids = candidates(store, dataset.id, shard, COUNT)
    seams, overlaps = np.linspace(0, 6, COUNT), np.random.default_rng(0).permutation(np.linspace(0, 1, COUNT))
    for name, values in (("seam", seams), ("overlap", overlaps)):
        scores = [Score(candidate_id=i, filter=name, value=float(value)) for i, value in zip(ids, values, strict=True)]
        store.review.add_scores(shard, scores)
    store.review.decide(
        [
            NewVerdict(op_id=f"operation-{i}", candidate_id=i, decision=decision)
            for i, seam in list(zip(ids, seams, strict=True))[::3]
            for decision in [Decision.ACCEPT if seam <= 3 else Decision.REJECT]
        ]
    )
    store.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: "sync_api.Browser", address: str) -> Iterator["sync_api.Page"]:
    """The open lab; the test fails when a script fails or another machine is asked for something."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    opened.on("request", lambda request: None if local(request.url, address) else faults.append(request.url))
    opened.goto(f"{address}/lab?dataset=1")
    opened.wait_for_selector(".lab[data-points][data-answered]")
    yield opened
    context.close()
    assert faults == []


def local(url: str, address: str) -> bool:
    return url.startswith((f"{address}/", "data:", "blob:"))


def number(page: "sync_api.Page", state: str) -> int:
    return int(page.locator(f".lab-strip .{state} b").evaluate("node => node.firstChild.data"))


def answered(page: "sync_api.Page", since: str | None) -> None:
    page.wait_for_function("since => document.querySelector('.lab').dataset.answered !== since", arg=since)


def test_a_threshold_moved_by_keys(page: "sync_api.Page") -> None:
    handle = page.get_by_role("slider", name="Seam, at most")
    before, since = number(page, "accept"), page.locator(".lab").get_attribute("data-answered")
    assert handle.get_attribute("aria-valuetext") == "at most 3"
    handle.focus()
    page.keyboard.press("PageDown")
    page.keyboard.press("ArrowLeft")
    answered(page, since)
    assert float(handle.get_attribute("aria-valuenow")) < 3
    assert number(page, "accept") < before
    assert page.locator(".lab-flips .flip.reject .example").count() > 0
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    page.get_by_role("button", name="Back", exact=True).click()
    sync_api.expect(page.locator(".lab-flips .flip")).to_have_count(0)
    assert number(page, "accept") == before


def test_a_threshold_moved_by_mouse(page: "sync_api.Page") -> None:
    box = page.get_by_role("slider", name="Seam, at most").bounding_box()
    since = page.locator(".lab").get_attribute("data-answered")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=4)
    page.mouse.up()
    answered(page, since)
    sync_api.expect(page.locator(".lab-flips .flip.accept")).to_be_visible()
    field = page.get_by_role("spinbutton", name="Seam, at most")
    assert float(field.input_value()) > 3
    since = page.locator(".lab").get_attribute("data-answered")
    field.fill("0.5")
    field.press("Enter")
    answered(page, since)
    sync_api.expect(page.locator(".lab-flips .flip.reject")).to_be_visible()


def test_a_policy_is_saved_and_loaded(page: "sync_api.Page") -> None:
    page.get_by_role("slider", name="Seam, at most").focus()
    page.keyboard.press("Shift+ArrowRight")
    page.get_by_role("button", name="Save as policy").click()
    page.get_by_label("Name").fill("wider <b>")
    page.get_by_label("no run yet").check()
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_selector(".lab[data-saved='wider <b> v1']")
    policies = page.get_by_label("Policy", exact=True)
    assert policies.locator("option").all_inner_texts() == ["wider <b> v1 (not in use)", "demo v1"]
    policies.select_option("demo v1")
    sync_api.expect(page.get_by_role("spinbutton", name="Seam, at most")).to_have_value("3")


def test_one_class_gets_its_own_threshold(page: "sync_api.Page") -> None:
    page.get_by_label("Class", exact=True).select_option("mug (60)")
    sync_api.expect(page.locator(".scope")).to_contain_text("mug only")
    page.get_by_role("slider", name="Covers another annotation, at most").focus()
    page.keyboard.press("End")
    exception = page.locator(".lab-says .mark")
    sync_api.expect(exception).to_contain_text("for mug: Covers another annotation")
    exception.get_by_role("button").click()
    sync_api.expect(exception).to_have_count(0)
    sync_api.expect(page.get_by_role("spinbutton", name="Covers another annotation, at most")).to_have_value("0.5")


def test_a_lasso_opens_in_review(page: "sync_api.Page", address: str) -> None:
    plane = page.locator(".scatter canvas")
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    corners = [(0.2, 0.1), (0.6, 0.1), (0.6, 0.8), (0.2, 0.8)]
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot, steps=3)
    page.mouse.up()
    link = page.get_by_role("link", name=re.compile("Open these .* in Review"))
    link.wait_for()
    count = int(re.search(r"\d+", link.inner_text()).group())
    assert 0 < count < COUNT
    link.click()
    page.wait_for_selector(".review[data-state='ready']")
    sync_api.expect(page.locator(".progress")).to_contain_text(str(count))


def test_an_example_opens_in_review(page: "sync_api.Page") -> None:
    page.get_by_role("slider", name="Seam, at most").focus()
    page.keyboard.press("Shift+ArrowLeft")
    example = page.locator(".lab-flips .example").first
    candidate = re.search(r"Candidate (\d+)", example.get_attribute("aria-label")).group(1)
    example.click()
    page.wait_for_selector(f".review[data-shown='{candidate}']")
    page.go_back()
    page.wait_for_selector(".lab[data-touched='true']")


def test_a_data_set_without_candidates_says_what_to_do(page: "sync_api.Page", address: str) -> None:
    page.get_by_label("Data set").select_option("untouched")
    sync_api.expect(page.locator(".lab .w-empty")).to_contain_text("Nothing to judge yet")
    page.get_by_label("Data set").select_option("small")
    page.wait_for_selector(".lab[data-state='ready']")

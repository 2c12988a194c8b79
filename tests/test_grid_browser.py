"""The grid in a real browser: selected by keyboard, decided together, taken back as one act, also after a reload."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from conftest import leased, small_document

from db.queries import Queue
from db.records import Decision, Kind, NewCandidate, NewVerdict, Rule, Score
from db.store import Store

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
RULES = (Rule(filter="seam", at_most=3.0), Rule(filter="overlap", at_most=0.5))
COUNT = 230
PAGE = 100


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scored candidates of two strategies, seams spread evenly from 0 to 6."""
    folder = tmp_path_factory.mktemp("grid")
    store = Store(folder / "home")
    dataset = store.datasets.import_document(small_document(folder / "files", images=30), "small")
    shard = leased(store, dataset.id, policy_id=store.review.save_policy("demo", RULES).id)
    images = store.datasets.images(dataset.id)
    made = [draft(i, images[i % len(images)].id, images[(7 * i) % len(images)].digest) for i in range(COUNT)]
    store.review.add_candidates(shard, made, dataset.id)
    ids = store.review.candidate_ids(shard.run_id)
    rng = np.random.default_rng(0)
    for name, values in (("seam", np.linspace(0, 6, COUNT)), ("overlap", rng.uniform(0, 1, COUNT))):
        scores = [Score(candidate_id=i, filter=name, value=float(value)) for i, value in zip(ids, values, strict=True)]
        store.review.add_scores(shard, scores)
    store.close()
    return folder / "home"


def draft(i: int, image_id: int, digest: str | None) -> NewCandidate:
    colour = ("red", "blue", "green", "white")[i % 4]
    return NewCandidate(
        target=f"box:{i}",
        variant=0,
        kind=Kind.NEGATIVE_IMAGE if i % 2 else Kind.INSTANCE,
        image_id=image_id,
        seed=i,
        category_id=1 + i % 2,
        xyxy=(12.0 + i % 40, 12.0, 70.0 + i % 40, 68.0),
        text_before="a red mug on the left",
        text_after=f"a {colour} mug left of the ball",
        digest=digest,
        detail={"strategy": "attribute" if i % 3 else "relation"},
    )


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    from studio.app import create_app

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


@pytest.fixture(scope="module")
def store(home: Path, address: str) -> Iterator[Store]:
    opened = Store(home)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: "sync_api.Browser", address: str, store: Store) -> Iterator["sync_api.Page"]:
    """The open grid; whatever the test decides is taken back. The test fails when a script fails."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda line: faults.append(line.text) if is_fault(line) else None)
    show(opened, address, "dataset=1")
    yield opened
    context.close()
    for act in store.review.acts(1, "local"):
        if act.standing:
            store.review.take_back(act.act, "local")
    assert faults == []


def is_fault(line: "sync_api.ConsoleMessage") -> bool:
    """A refusal in words (400) is an answer like another."""
    return line.type == "error" and "status of 400" not in line.text


def show(page: "sync_api.Page", address: str, query: str) -> None:
    page.goto(f"{address}/grid?{query}")
    page.wait_for_selector(".browse[data-state='ready'] .tile")
    page.wait_for_function("() => /match/.test(document.querySelector('.browse .found').textContent)")


def wait(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def saved(page: "sync_api.Page") -> None:
    page.wait_for_selector(".browse[data-unsaved='0']")


def human(store: Store, decision: str) -> int:
    return store.review.counts(Queue(dataset_id=1), {})["human"].get(decision, 0)


def test_a_range_is_selected_by_keys_decided_and_taken_back_as_one(page: "sync_api.Page", store: Store) -> None:
    assert page.locator(".tile").count() == PAGE
    page.keyboard.press("ArrowRight")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    chosen = page.locator(".tile[aria-selected='true']").count()
    assert chosen == int(page.locator(".browse").get_attribute("data-selected") or 0) > 4
    page.keyboard.press("a")
    saved(page)
    wait(lambda: human(store, "accept") == chosen)
    assert page.locator(".tile[data-human='accept']").count() == chosen
    assert page.locator(".tile[aria-selected='true']").count() == 1, "the next undecided one"
    page.keyboard.press("u")
    saved(page)
    wait(lambda: human(store, "accept") == 0)
    assert page.locator(".tile[data-human='accept']").count() == 0
    assert len([v for v in store.review.verdicts(limit=1000) if v.decision is Decision.UNDO]) >= chosen
    page.keyboard.press("y")
    saved(page)
    wait(lambda: human(store, "accept") == chosen)
    page.keyboard.press("u")
    saved(page)
    wait(lambda: human(store, "accept") == 0)


def test_all_that_match_are_decided_after_their_number_was_said(
    page: "sync_api.Page", address: str, store: Store
) -> None:
    show(page, address, "dataset=1&scores=seam::3&text=mug")
    matching = int(page.locator(".browse .found").inner_text().split()[0])
    assert PAGE < matching < COUNT
    page.get_by_label("Decide all that match").select_option("reject")
    assert f"Reject {matching} candidates?" in page.locator("dialog h2").inner_text()
    page.locator("dialog button.reject").click()
    saved(page)
    wait(lambda: human(store, "reject") == matching)
    page.reload()
    page.wait_for_selector(".browse[data-unsaved='0']")
    page.wait_for_function("() => !document.querySelector('.browse .tools .acts button:last-child').disabled")
    page.keyboard.press("u")
    wait(lambda: human(store, "reject") == 0)


def test_undo_pressed_before_the_acts_are_known_waits_for_them(page: "sync_api.Page", store: Store) -> None:
    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    saved(page)
    wait(lambda: human(store, "accept") == 1)
    held: list[sync_api.Route] = []
    page.route("**/api/grid/acts*", lambda route: held.append(route))
    page.reload()
    page.wait_for_selector(".browse[data-state='ready'] .tile")
    page.keyboard.press("u")
    page.wait_for_timeout(300)
    assert page.locator(".browse .tools .acts button:last-child").is_disabled()
    assert held
    page.unroute("**/api/grid/acts*")  # which lets them go on
    wait(lambda: human(store, "accept") == 0)


def test_an_act_that_meets_a_change_does_nothing_and_says_so(page: "sync_api.Page", store: Store) -> None:
    before = page.locator(".browse .found").inner_text()
    store.review.decide(
        [NewVerdict(op_id="behind-its-back", candidate_id=COUNT, decision=Decision.ACCEPT, reviewer="ann")]
    )
    page.get_by_label("Decide all that match").select_option("reject")
    page.locator("dialog button.reject").click()
    sync_api.expect(page.locator(".browse [role='alert']")).to_contain_text("somebody decided meanwhile")
    assert human(store, "reject") == 0
    store.review.decide(
        [
            NewVerdict(
                op_id="and-back", candidate_id=COUNT, decision=Decision.UNDO, reviewer="ann", undoes="behind-its-back"
            )
        ]
    )
    assert before.startswith(str(COUNT))


def test_groups_search_and_views_narrow_the_grid(page: "sync_api.Page", address: str) -> None:
    page.get_by_label("Group by").select_option("strategy")
    line = page.locator(".groups button", has_text="relation")
    line.click()
    page.wait_for_function("() => document.querySelector('.browse .found').textContent.startsWith('77')")
    page.keyboard.press("/")
    page.keyboard.type("green")
    page.keyboard.press("Enter")
    page.wait_for_function("() => /^(19|20) /.test(document.querySelector('.browse .found').textContent)")
    page.get_by_label("Name of this view").fill("green ones")
    page.locator(".side form button[type='submit']").click()
    link = page.locator(".views a", has_text="green ones")
    assert "strategy=relation" in (link.get_attribute("href") or "")
    found = page.locator(".browse .found").inner_text()
    show(page, address, (link.get_attribute("href") or "").removeprefix("/grid?"))
    sync_api.expect(page.locator(".browse .found")).to_have_text(found)
    page.get_by_role("button", name="Forget the view green ones").click()
    sync_api.expect(page.locator(".views a")).to_have_count(0)


def test_likeness_says_when_there_are_no_vectors(page: "sync_api.Page") -> None:
    page.get_by_label("Group by").select_option("cluster")
    sync_api.expect(page.locator(".groups")).to_contain_text("No vectors of these pictures are kept")


def test_pages_are_turned_by_keys(page: "sync_api.Page") -> None:
    first = page.locator(".tile").first.get_attribute("data-id")
    page.keyboard.press("]")
    page.wait_for_selector(".browse[data-state='ready'][data-page='2']")
    assert page.locator(".tile").first.get_attribute("data-id") != first
    page.keyboard.press("[")
    page.wait_for_selector(".browse[data-state='ready'][data-page='1']")
    assert page.locator(".tile").first.get_attribute("data-id") == first

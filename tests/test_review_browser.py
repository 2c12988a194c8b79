"""The review page in a real browser, by keyboard."""

import itertools
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from conftest import Quiet, candidates, leased, small_document

from db.records import Dataset, Kind, NewCandidate
from db.store import Store
from engine.recipe import load
from engine.runs import execute, start_generate

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
NUMBERS = itertools.count(1)
SCRIPT = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("review") / "home"


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """The whole studio, served from a thread."""
    from studio.app import create_app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(home), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def kept(home: Path, address: str) -> Iterator[Store]:
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
def page(browser: "sync_api.Browser") -> Iterator["sync_api.Page"]:
    """A page that fails the test when a script of ours fails."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    yield opened
    context.close()
    assert faults == []


@pytest.fixture
def waiting(kept: Store, tmp_path: Path) -> tuple[Dataset, list[int]]:
    """A data set of its own with eight candidates to judge."""
    dataset = kept.datasets.import_document(small_document(tmp_path / "files"), f"small {next(NUMBERS)}")
    return dataset, candidates(kept, dataset.id, leased(kept, dataset.id), 8)


def wait(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def open_queue(page: "sync_api.Page", address: str, query: str, shown: int) -> None:
    page.goto(f"{address}/review?{query}")
    see(page, shown)


def see(page: "sync_api.Page", candidate: int) -> None:
    page.wait_for_selector(f".review[data-shown='{candidate}'][data-id='{candidate}']", timeout=30_000)


def saved(page: "sync_api.Page") -> None:
    page.wait_for_selector(".review[data-unsaved='0']", timeout=30_000)


def humans(store: Store, ids: list[int]) -> list[str | None]:
    return [candidate.human for candidate in store.review.candidates(ids)]


def test_a_queue_is_judged_by_keyboard(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    for number, key in enumerate(("a", "x", "3", "Space"), 1):
        page.keyboard.press(key)
        see(page, ids[number])
    page.keyboard.press("u")
    see(page, ids[3])
    page.keyboard.press("Control+z")
    see(page, ids[2])
    page.keyboard.press("y")
    see(page, ids[3])
    page.keyboard.press("ArrowRight")
    see(page, ids[4])
    page.keyboard.press("ArrowLeft")
    see(page, ids[3])
    saved(page)
    assert humans(kept, ids) == ["accept", "reject", "reject", *[None] * 5]
    assert kept.review.standing(ids[2]).reason == "bad box"
    assert page.locator(".review .progress").inner_text().startswith("3 / 8")


def test_a_candidate_is_made_again_in_own_words(page, address, kept, waiting) -> None:
    dataset, _ = waiting
    run = start_generate(kept, dataset_id=dataset.id, recipe=load("gen2det"), pack="classic", amount=1)
    shard = kept.ledger.claim(run.id, "tester")
    execute(kept, run, shard, Quiet())
    (made,) = kept.review.candidate_ids(run.id)
    open_queue(page, address, f"dataset={dataset.id}&run={run.id}", made)
    page.keyboard.press("g")
    page.keyboard.type("a green ball")
    page.keyboard.press("Enter")
    page.wait_for_selector(".review .notice:not([hidden])")
    again = kept.ledger.runs(limit=2)[-1]
    assert again.options["again_of"] == made and again.options["wording"] == "a green ball"
    see(page, made)


def test_keys_are_left_alone_where_one_types_or_means_something_else(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.keyboard.press("Alt+a")
    page.keyboard.press("Control+a")
    page.keyboard.press("Shift+A")
    page.keyboard.press("?")
    page.locator(".review .help input[type=text]").fill("")
    page.keyboard.type("max a")
    page.keyboard.press("Escape")
    page.wait_for_selector(".review:focus")
    see(page, ids[0])
    page.keyboard.press("a")
    see(page, ids[1])
    saved(page)
    assert [(v.candidate_id, v.reviewer) for v in kept.review.verdicts(limit=1)] == [(ids[0], "max a")]
    assert humans(kept, ids)[1:] == [None] * 7


def test_one_compares_before_and_after_by_key(page, address, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    frames, laid_over = page.locator(".review .frame"), page.locator(".review img.peek")
    assert [frames.count(), laid_over.is_visible()] == [2, False]
    page.keyboard.down("b")
    assert laid_over.is_visible()
    page.keyboard.up("b")
    assert not laid_over.is_visible()
    page.keyboard.press("m")
    page.keyboard.press("m")
    assert [frames.nth(0).is_visible(), frames.nth(1).is_visible()] == [False, True]
    page.keyboard.press("h")
    assert not page.locator(".review .boxes.now").is_visible()
    fits = page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    assert fits, "the page scrolls at 1280 x 720"


def test_an_undo_reaches_back_over_a_reload(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.keyboard.press("a")
    see(page, ids[1])
    saved(page)
    page.reload()
    see(page, ids[1])
    page.keyboard.press("u")
    see(page, ids[0])
    saved(page)
    assert humans(kept, ids) == [None] * 8


def test_verdicts_survive_a_dead_network_and_a_closed_page(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.route("**/api/review/verdicts", lambda route: route.abort())
    for number in range(1, 4):
        page.keyboard.press("a")
        see(page, ids[number])
    page.wait_for_selector(".review .saving[data-state=offline]")
    assert page.locator(".review .saving").inner_text() == "3 unsaved – trying again"
    assert humans(kept, ids) == [None] * 8
    page.on("dialog", lambda dialog: dialog.accept())
    page.unroute("**/api/review/verdicts")
    page.reload()
    see(page, ids[3])
    saved(page)
    assert humans(kept, ids) == [*["accept"] * 3, *[None] * 5]


def test_the_end_of_the_queue_says_what_to_do_next(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}&order=random&kind=instance", next_of(kept, dataset))
    for _ in ids:
        page.wait_for_selector(".review[data-state=ready]")
        page.keyboard.press("x")
    page.wait_for_selector(".review[data-panel=done]")
    assert "8 rejected" in page.locator(".review .panel").inner_text()
    assert page.locator(".review .panel a").get_attribute("href") == "/train"
    saved(page)
    assert humans(kept, ids) == ["reject"] * 8


def next_of(store: Store, dataset: Dataset) -> int:
    from db.queries import Queue

    return store.review.page(Queue(dataset_id=dataset.id, order="random"), limit=1)[0][0].id


def test_texts_are_shown_as_texts(page, address, kept, tmp_path) -> None:
    dataset = kept.datasets.import_document(small_document(tmp_path / "files"), f"small {next(NUMBERS)}")
    image = kept.datasets.images(dataset.id)[0]
    texts = {"text_before": "a red mug", "text_after": f"a blue mug {SCRIPT}"}
    made = NewCandidate(target="t", variant=0, kind=Kind.NEGATIVE_TEXT, image_id=image.id, seed=2**62, **texts)
    shard = leased(kept, dataset.id, recipe=SCRIPT)
    kept.review.add_candidates(shard, [made], dataset.id)
    (candidate,) = kept.review.candidate_ids(shard.run_id)
    open_queue(page, address, f"dataset={dataset.id}", candidate)
    assert page.locator(".review .words ins").first.inner_text() == "blue"
    assert SCRIPT in page.locator(".review .words").inner_text()
    assert str(2**62) in page.locator(".review .evidence").inner_text()
    assert page.title() != "run"


def test_a_data_set_without_candidates_points_to_generate(page, address, kept, tmp_path) -> None:
    dataset = kept.datasets.import_document(small_document(tmp_path / "files"), f"small {next(NUMBERS)}")
    page.goto(f"{address}/review?dataset={dataset.id}")
    page.wait_for_selector(".review[data-panel=empty]")
    assert page.locator(".review .panel a").get_attribute("href") == "/generate"

"""The review page in a real browser, by keyboard."""

import itertools
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from conftest import Quiet, candidates, leased, small_document

from db.records import Dataset, Decision, Kind, NewCandidate, NewVerdict
from db.store import Store
from db.users import Role
from engine.recipe import load
from engine.runs import execute, start_generate
from studio import static

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
    """The whole studio."""
    from studio.app import create_app

    with served(create_app(home)) as found:
        yield found


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an application that is served from a thread."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
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
    frames, laid_over = (
        page.locator(".review .sheet:not(.behind) .frame"),
        page.locator(".review .sheet:not(.behind) img.peek"),
    )
    assert [frames.count(), laid_over.is_visible()] == [2, False]
    page.keyboard.down("b")
    assert laid_over.is_visible()
    page.keyboard.up("b")
    assert not laid_over.is_visible()
    page.keyboard.press("m")
    page.keyboard.press("m")
    assert [frames.nth(0).is_visible(), frames.nth(1).is_visible()] == [False, True]
    page.keyboard.press("h")
    assert not page.locator(".review .sheet:not(.behind) .boxes.now").is_visible()
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


def test_verdicts_made_offline_are_sent_when_the_network_is_back(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.wait_for_selector("gradio-app .review")  # all of the page is here
    page.context.set_offline(True)
    page.wait_for_selector(".review .saving[data-state=offline]")
    assert page.locator(".review .saving").inner_text() == "Offline – nothing waits"
    page.keyboard.press("a")
    page.keyboard.press("x")
    see(page, ids[2])
    page.wait_for_function("document.querySelector('.review .saving').innerText === 'Offline – 2 kept in this browser'")
    page.context.set_offline(False)
    saved(page)
    page.wait_for_selector(".review .saving[data-state=saved]")
    assert humans(kept, ids)[:3] == ["accept", "reject", None]


def test_undo_reaches_back_further_than_one_page_of_history(page, address, kept, tmp_path) -> None:
    dataset = kept.datasets.import_document(small_document(tmp_path / "files"), f"small {next(NUMBERS)}")
    ids = candidates(kept, dataset.id, leased(kept, dataset.id), 31)
    kept.review.decide([NewVerdict(op_id=f"earlier-{i}", candidate_id=i, decision=Decision.ACCEPT) for i in ids[:30]])
    open_queue(page, address, f"dataset={dataset.id}", ids[30])
    for one in reversed(ids[:30]):
        page.keyboard.press("u")
        see(page, one)
    saved(page)
    assert humans(kept, ids) == [None] * 31


def test_a_key_may_be_changed_but_not_to_one_that_is_taken(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.keyboard.press("?")
    said = page.locator(".review .help .said")
    page.locator(".review .help [data-command=accept]").click()
    page.keyboard.press("x")
    assert "x already means “reject”" in said.inner_text()
    page.locator(".review .help [data-command=accept]").click()
    page.keyboard.press("3")
    assert "3 already means" in said.inner_text()
    page.locator(".review .help [data-command=accept]").click()
    page.keyboard.press("w")
    assert said.inner_text() == "“accept” is on w now."
    page.keyboard.press("Escape")
    page.reload()
    see(page, ids[0])
    page.keyboard.press("a")
    page.keyboard.press("w")
    see(page, ids[1])
    assert page.locator(".review .act.accept kbd").first.inner_text() == "w"
    saved(page)
    assert humans(kept, ids)[:2] == ["accept", None]


def test_zoom_stays_from_candidate_to_candidate(page, address, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.keyboard.press("z")
    zoomed = page.locator(".review .sheets").get_attribute("style")
    assert "--zoom: 1;" not in zoomed
    page.keyboard.press("a")
    see(page, ids[1])
    assert page.locator(".review .sheets").get_attribute("style") == zoomed
    page.keyboard.press("z")
    assert "--zoom: 1;" in page.locator(".review .sheets").get_attribute("style")


def test_a_verdict_strip_opens_an_earlier_candidate(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    for number, key in enumerate("ax", 1):
        page.keyboard.press(key)
        see(page, ids[number])
    page.locator(".review .recent button").last.click()
    see(page, ids[0])
    page.keyboard.press("f")
    saved(page)
    assert humans(kept, ids)[:3] == ["flag", "reject", None]


def test_the_tour_comes_once_and_holds_nobody_up(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.wait_for_selector(".review .tour:not([hidden])")
    page.keyboard.press("a")
    see(page, ids[1])
    page.click("text=Skip the tour")
    page.reload()
    see(page, ids[1])
    assert page.locator(".review .tour").is_hidden()
    page.keyboard.press("?")
    page.click("text=Show the tour")
    for number in range(1, 7):
        assert page.locator(".review .tour footer span").inner_text() == f"{number} of 6"
        page.locator(".review .tour .act").click()
    assert page.locator(".review .tour").is_hidden()


# Before Gradio has started


@pytest.fixture
def held(page: "sync_api.Page") -> Callable[[], None]:
    """Holds Gradio's own scripts back until it is called."""
    waiting: list[sync_api.Route] = []
    free = threading.Event()
    page.route("**/assets/*.js", lambda route: route.continue_() if free.is_set() else waiting.append(route))

    def release() -> None:
        free.set()
        for route in waiting:
            route.continue_()

    return release


def test_the_card_takes_keys_before_gradio_is_there_and_moves_into_it(page, address, kept, waiting, held) -> None:
    dataset, ids = waiting
    page.goto(f"{address}/review?dataset={dataset.id}", wait_until="commit")
    see(page, ids[0])
    page.keyboard.press("a")
    see(page, ids[1])
    saved(page)
    assert page.locator("#early .review").count() == 1 and humans(kept, ids)[:2] == ["accept", None]
    before = page.locator(".review .queue").bounding_box()
    held()
    page.wait_for_selector("gradio-app .review")
    page.wait_for_selector("#early", state="detached")
    assert page.locator(".review").count() == 1
    now = page.locator(".review .queue").bounding_box()
    assert all(abs(now[side] - before[side]) <= 2 for side in now), "it jumps"
    page.keyboard.press("x")
    see(page, ids[2])
    page.keyboard.press("u")
    see(page, ids[1])
    saved(page)
    assert humans(kept, ids)[:3] == ["accept", None, None]


@pytest.mark.parametrize("moves", [True, False], ids=["browser moves", "browser takes out and puts in"])
def test_what_is_open_and_typed_outlives_the_move(page, address, waiting, held, moves: bool) -> None:
    dataset, ids = waiting
    if not moves:
        page.add_init_script("delete Element.prototype.moveBefore")
    page.goto(f"{address}/review?dataset={dataset.id}", wait_until="commit")
    see(page, ids[0])
    page.keyboard.press("?")
    page.locator(".review .help input[type=text]").fill("")
    page.keyboard.type("max ")
    held()
    page.wait_for_selector("gradio-app .review .help:modal")
    page.keyboard.type("power")
    assert page.locator(".review .help input[type=text]").input_value() == "max power"
    page.keyboard.press("Escape")
    page.wait_for_selector(".review .help", state="hidden")


def test_a_place_that_gradio_draws_again_gets_the_same_card(page, address, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.wait_for_selector("gradio-app .review")
    page.evaluate(
        """async (script) => {
          const place = document.querySelector("gradio-app .island");
          window.card = document.querySelector(".review");
          place.replaceWith(Object.assign(document.createElement("div"), { className: "island" }));
          const { mount } = await import(script);
          mount(document.querySelector("gradio-app"), { links: {} });
        }""",
        static.address("review_card/card.js"),
    )
    assert page.evaluate("document.querySelector('gradio-app .island > .review') === window.card")
    page.keyboard.press("x")
    see(page, ids[1])
    saved(page)


def test_a_session_that_ended_leads_to_the_sign_in(page, address, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.route("**/api/review/setup*", lambda route: route.fulfill(status=401, json={"error": "Sign in first."}))
    page.locator(".review select[aria-label=Kind]").select_option("negative_text")
    page.wait_for_url(f"**/signin?next=%2Freview%3Fdataset%3D{dataset.id}*")


def test_who_is_signed_in_is_the_reviewer_and_cannot_be_renamed(browser, tmp_path: Path) -> None:
    from studio.app import create_app
    from studio.auth import COOKIE, SignIn

    store = Store(tmp_path / "home")
    dataset = store.datasets.import_document(small_document(tmp_path / "files"), "small")
    ids = candidates(store, dataset.id, leased(store, dataset.id), 3)
    token = store.users.sign_in(store.users.add("rita", "correct horse battery", Role.REVIEWER))
    with served(create_app(tmp_path / "home", sign_in=True)) as address:
        gate = SignIn(store)
        context = browser.new_context()
        cookies = {COOKIE: f"{token}.{gate._signature(token)}", "winnow-name": "ada"}
        context.add_cookies([{"name": name, "value": value, "url": address} for name, value in cookies.items()])
        page = context.new_page()
        open_queue(page, address, f"dataset={dataset.id}", ids[0])
        name = page.locator(".review .help input[type=text]")
        assert (name.input_value(), name.evaluate("field => field.readOnly")) == ("rita", True)
        page.keyboard.press("a")
        saved(page)
        assert store.review.standing(ids[0]).reviewer == "rita"
        page.goto(f"{address}/grid?dataset={dataset.id}")
        you = page.locator(".browse .you input")
        assert (you.input_value(), you.evaluate("field => field.readOnly")) == ("rita", True)
        context.close()
    store.close()


# What can go wrong


def test_a_candidate_that_is_gone_is_told_and_the_rest_is_kept(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    with kept._database.write() as connection:
        connection.exec_driver_sql(f"DELETE FROM candidate WHERE id = {ids[0]}")
    page.keyboard.press("a")
    page.keyboard.press("x")
    page.wait_for_selector(".review .notice:not([hidden])")
    assert f"Candidate {ids[0]} no longer exists" in page.locator(".review .notice").inner_text()
    saved(page)
    assert humans(kept, ids)[0] == "reject"  # of the second one, the first of those that are left
    assert page.locator(".review .recent button").count() == 1


def test_an_image_that_cannot_be_shown_is_told_and_can_be_skipped(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    page.route("**/media/blob/*", lambda route: route.fulfill(status=404))
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    assert (
        "cannot be shown: its file is missing" in page.locator(".review .sheet:not(.behind) .broken").first.inner_text()
    )
    page.keyboard.press("Space")
    see(page, ids[1])
    saved(page)
    assert humans(kept, ids)[0] == "skip"


def test_somebody_elses_verdict_is_shown_beside_mine_and_one_decides(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    theirs = [
        NewVerdict(op_id=f"theirs-{i}", candidate_id=i, decision=Decision.REJECT, reviewer="ann", reason="bad box")
        for i in ids[:2]
    ]
    kept.review.decide(theirs)
    page.keyboard.press("a")
    page.keyboard.press("a")
    lines = page.locator(".review .conflicts p")
    wait(lambda: lines.count() == 2)
    saved(page)
    assert f"ann rejected candidate {ids[0]} (bad box) while you accepted it" in lines.first.inner_text()
    assert humans(kept, ids)[:2] == ["reject", "reject"]
    page.reload()  # forgets neither of them
    see(page, ids[2])
    lines.first.locator("text=Overrule with mine").click()
    wait(lambda: humans(kept, ids)[:2] == ["accept", "reject"])
    lines.first.locator("text=Leave it to ann").click()
    assert page.locator(".review .conflicts").is_hidden()
    assert humans(kept, ids)[:2] == ["accept", "reject"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SCRIPT, SCRIPT),
        ("كوب أحمر", "كوب أحمر"),
        ("red\u202emug\u0007", "redU+202EmugU+0007"),
        ("wide " * 2000, "wide wide"),
    ],
    ids=["html", "right to left", "control characters", "10,000 letters"],
)
def test_odd_texts_are_shown_whole_and_break_nothing(page, address, kept, tmp_path, text: str, shown: str) -> None:
    dataset = kept.datasets.import_document(small_document(tmp_path / "files"), f"small {next(NUMBERS)}")
    image = kept.datasets.images(dataset.id)[0]
    made = NewCandidate(
        target="t", variant=0, kind=Kind.NEGATIVE_TEXT, image_id=image.id, seed=1, text_before="a", text_after=text
    )
    shard = leased(kept, dataset.id)
    kept.review.add_candidates(shard, [made], dataset.id)
    (one,) = kept.review.candidate_ids(shard.run_id)
    open_queue(page, address, f"dataset={dataset.id}", one)
    assert shown in page.locator(".review .sheet:not(.behind) .words").inner_text()
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight + 1"), "the page scrolls"
    assert page.locator(".review .act.accept").first.is_visible()
    page.keyboard.press("e")
    field = page.locator(".editor textarea[aria-label='Text after']")
    assert field.input_value() == text
    field.fill("a green mug")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".review[data-panel=done]")
    saved(page)
    assert kept.review.standing(one).edit == {"text_after": "a green mug"}
    assert page.title() != "run"


# Mending


def test_boxes_classes_and_texts_are_mended_exported_and_taken_back(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    image = kept.datasets.images(dataset.id)[0]
    ball = kept.datasets.categories(dataset.id)[1]
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.keyboard.press("e")
    page.wait_for_selector(".editor[open]")
    page.keyboard.press("ArrowRight")  # the candidate's own box
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Alt+ArrowRight")
    draw(page, (20, 70), (60, 110))
    page.keyboard.type("ba")
    page.keyboard.press("Enter")
    caption = page.locator(".editor .caption textarea").first
    caption.evaluate("field => { field.focus(); field.setSelectionRange(0, 0); }")
    page.keyboard.type("Now ")
    assert "offsets 4–13 · words 2–4" in page.locator(".editor .caption li small").first.inner_text()
    page.locator(".editor .caption li .link").first.click()
    page.locator(".editor .surface rect.new").click()
    page.keyboard.press("Control+Enter")
    see(page, ids[1])
    saved(page)
    assert kept.review.standing(ids[0]).edit == {"xyxy": [13.0, 22.0, 50.0, 68.0]}
    version = kept.edits.current(image.id)
    drawn = version.annotations.boxes[-1]
    assert (version.number, drawn.category_id, [round(v) for v in drawn.xyxy]) == (1, ball.id, [20, 70, 60, 110])
    texts = {phrase.text: phrase for phrase in version.annotations.phrases}
    assert texts["a red mug"].spans == ((4, 13),) and drawn.id in texts["a red mug"].box_ids
    snapshot = kept.snapshots.freeze(f"mended {dataset.id}", dataset.id, {})
    samples = kept.snapshots.samples(snapshot)[1]
    assert len(samples[0].boxes) == 3 and samples[0].phrases[0].text == "Now a red mug left of a blue ball"
    assert samples[-1].boxes[0].xyxy == (13.0, 22.0, 50.0, 68.0)  # the painted one
    page.keyboard.press("u")
    page.keyboard.press("u")
    saved(page)
    assert humans(kept, ids)[0] is None
    assert kept.edits.current(image.id).annotations == kept.edits.versions(image.id)[-1].annotations


def draw(page: "sync_api.Page", start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw a box with the mouse, in pixels of the image of 160 x 120."""
    place = page.locator(".editor .surface svg").bounding_box()
    scale = place["width"] / 160
    page.mouse.move(place["x"] + start[0] * scale, place["y"] + start[1] * scale)
    page.mouse.down()
    page.mouse.move(place["x"] + end[0] * scale, place["y"] + end[1] * scale, steps=3)
    page.mouse.up()


def test_a_class_is_said_to_be_absent_once_its_boxes_are_gone(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    image, ball = kept.datasets.images(dataset.id)[0], kept.datasets.categories(dataset.id)[1]
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.keyboard.press("e")
    line = page.locator(f".editor [data-class='{ball.id}']")
    assert line.locator(".absent").is_disabled()
    page.locator(".editor .room").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Delete")
    line.locator(".absent").click()
    page.keyboard.press("Control+Enter")
    wait(lambda: kept.edits.current(image.id).number == 1)
    assert kept.edits.current(image.id).annotations.classes == {ball.id: "absent"}
    assert humans(kept, ids)[0] is None  # only the image was mended
    page.reload()
    see(page, ids[0])
    page.keyboard.press("u")
    wait(lambda: kept.edits.current(image.id).number == 2)
    assert kept.edits.current(image.id).annotations == kept.edits.versions(image.id)[-1].annotations
    page.reload()
    see(page, ids[0])
    page.keyboard.press("u")
    page.wait_for_function(
        "() => document.querySelector('.review [aria-live]').textContent === 'Nothing to take back.'"
    )


def test_the_editor_zooms_about_the_pointer(page, address, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.keyboard.press("e")
    picture = page.locator(".editor .surface")
    whole = picture.bounding_box()
    x, y = whole["x"] + 0.25 * whole["width"], whole["y"] + 0.75 * whole["height"]
    page.mouse.move(x, y)
    page.mouse.wheel(0, -100)
    page.mouse.wheel(0, -100)
    page.wait_for_function(
        "width => document.querySelector('.editor .surface').clientWidth > 1.5 * width", arg=whole["width"]
    )
    now = picture.bounding_box()
    assert abs((x - now["x"]) / now["width"] - 0.25) < 0.02 and abs((y - now["y"]) / now["height"] - 0.75) < 0.02
    page.keyboard.press("0")
    page.wait_for_function(
        "width => Math.abs(document.querySelector('.editor .surface').clientWidth - width) < 2", arg=whole["width"]
    )


def test_leaving_the_editor_asks_before_work_is_lost(page, address, kept, waiting) -> None:
    dataset, ids = waiting
    open_queue(page, address, f"dataset={dataset.id}", ids[0])
    page.keyboard.press("e")
    page.wait_for_selector(".editor[open]")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert "Nothing is saved yet" in page.locator(".editor .note").inner_text()
    page.keyboard.press("Control+z")
    page.keyboard.press("Escape")
    page.wait_for_selector(".editor", state="detached")
    page.keyboard.press("a")  # the keys are back
    see(page, ids[1])


def test_places_in_texts_follow_what_is_typed(page, address) -> None:
    page.goto(f"{address}/studio-static/dom.js")
    told = page.evaluate(
        """async () => {
        const { follow, words, counted, standing } = await import("/studio-static/editor/spans.js");
        const phrase = (text, from, to) => ({ id: 1, text, spans: [[from, to]] });
        const one = (before, after, text, from, to) => follow(before, after, [phrase(text, from, to)]);
        return {
          behind: one("a mug", "see a mug", "mug", 2, 5).phrases[0].spans,
          grown: one("a mug", "a mugs", "a mug", 0, 5).phrases[0],
          within: one("a red mug", "a dark red mug", "red mug", 2, 9).phrases[0],
          gone: one("a red mug", "a mug", "red ", 2, 6).lost,
          emoji: one("😀 mug", "😀😀 mug", "mug", 2, 5).phrases[0].spans,
          counted: counted("😀 mug", 3), words: words("it's 😀 one-two"), standing: standing("a red mug", [[2, 9]]) };
        }"""
    )
    assert told["behind"] == [[6, 9]] and told["emoji"] == [[3, 6]] and told["gone"] == ["red "]
    assert told["within"]["text"] == "dark red mug" or told["within"]["text"] == "red mug"
    assert told["counted"] == 2 and told["words"] == [[0, 4], [7, 14]] and told["standing"] == "offsets 2–9 · words 2–3"


# A whole session


@pytest.mark.parametrize(("decisions", "offline"), [(60, 0.0), pytest.param(300, 60.0, marks=pytest.mark.slow)])
def test_a_session_ends_with_exactly_the_decisions_made(
    browser, tmp_path: Path, decisions: int, offline: float
) -> None:
    """By keyboard: a tenth is taken back, with a reload, a stretch offline (of so many seconds at least), and a server that is
    killed and started again."""
    home = tmp_path / "home"
    store = Store(home)
    dataset = store.datasets.import_document(small_document(tmp_path / "files"), "session")
    ids = candidates(store, dataset.id, leased(store, dataset.id), decisions + 20)
    port = free_port()
    server = serve(home, port)
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept())
    open_queue(page, f"http://127.0.0.1:{port}", f"dataset={dataset.id}", ids[0])
    expected: list[tuple[int, str]] = []
    rng = random.Random(decisions)
    keys = {"a": "accept", "x": "reject", "Space": "skip", "2": "reject", "f": "flag"}
    sixth = decisions // 6
    for number in range(decisions):
        if number == sixth:
            saved(page)
            page.reload()
        elif number == 2 * sixth:
            context.set_offline(True)
        elif number == 3 * sixth:
            context.set_offline(False)
        elif number == 4 * sixth:
            server.kill()
            server.wait()
        elif number == 5 * sixth:
            server = serve(home, port)
        if 2 * sixth <= number < 3 * sixth:
            page.wait_for_timeout(1000 * offline / sixth)
        at = len(expected) - sum(decision == "undo" for _, decision in expected) * 2
        see(page, ids[at])
        key = rng.choice(list(keys))
        page.keyboard.press(key)
        expected.append((ids[at], keys[key]))
        if number % 10 == 9:
            see(page, ids[at + 1])
            page.keyboard.press("u")
            expected.append((ids[at], "undo"))
    saved(page)
    server.kill()
    server.wait()
    context.close()
    log = sorted(store.review.verdicts(limit=10**6), key=lambda verdict: verdict.id)
    assert [(verdict.candidate_id, str(verdict.decision)) for verdict in log] == expected
    assert len({verdict.op_id for verdict in log}) == len(log)
    store.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def serve(home: Path, port: int) -> "subprocess.Popen[bytes]":
    """The studio in a process of its own, once it answers."""
    command = [sys.executable, "-m", "studio.cli", "serve", "--no-worker", "--home", str(home), "--port", str(port)]
    with (home / "serve.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    wait(lambda: answers(port), 300)
    return process


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
    assert page.locator(".review .sheet:not(.behind) .words ins").first.inner_text() == "blue"
    assert SCRIPT in page.locator(".review .sheet:not(.behind) .words").inner_text()
    assert str(2**62) in page.locator(".review .facts:not(.behind)").inner_text()
    assert page.title() != "run"


def test_a_data_set_without_candidates_points_to_generate(page, address, kept, tmp_path) -> None:
    dataset = kept.datasets.import_document(small_document(tmp_path / "files"), f"small {next(NUMBERS)}")
    page.goto(f"{address}/review?dataset={dataset.id}")
    page.wait_for_selector(".review[data-panel=empty]")
    assert page.locator(".review .panel a").get_attribute("href") == "/generate"

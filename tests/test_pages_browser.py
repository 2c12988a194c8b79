"""The pages in a real browser: they open without a fault, ask nobody else for anything, and answer mouse and keys."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from conftest import small_document

from studio.app import create_app
from studio.context import open_studio
from studio.pages import LINKED, PAGES, datasets

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
READY = {
    "Methods": ".w-section",
    "Prompts": ".w-prompt",
    "Help": ".w-note h2",
    "Datasets": ".w-grid figure",
    "Review": ".review",
    "Generate": ".w-facts",
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A studio with 26 images, served from a thread."""
    home = tmp_path_factory.mktemp("pages") / "home"
    studio = open_studio(home)
    studio.store.datasets.import_document(small_document(home.parent / "files", images=26), "small")
    studio.store.close()
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


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: "sync_api.Browser", address: str) -> Iterator["sync_api.Page"]:
    """A page that fails the test when a script fails or another machine is asked for something."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    opened.on("request", lambda request: None if local(request.url, address) else faults.append(request.url))
    yield opened
    context.close()
    assert faults == []


def local(url: str, address: str) -> bool:
    return url.startswith((f"{address}/", "data:", "blob:"))


@pytest.mark.parametrize("module", PAGES, ids=lambda module: module.title)
def test_pages_open_without_a_fault(page: "sync_api.Page", address: str, module: object) -> None:
    page.goto(f"{address}/{module.path}")  # type: ignore[attr-defined]
    page.wait_for_selector(READY.get(module.title, ".w-empty"))  # type: ignore[attr-defined]
    shown = page.locator(".nav-holder a.active:visible").all_inner_texts()
    assert shown == ([] if module in LINKED else [module.title])  # type: ignore[attr-defined]
    assert page.locator("h1:visible").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_images_by_mouse_and_keys(page: "sync_api.Page", address: str) -> None:
    page.goto(f"{address}/?dataset=small")
    figures = page.locator(".w-grid figure")
    figures.first.wait_for()
    assert figures.count() == datasets.PAGE
    detail = page.locator(".w-detail b")
    assert detail.inner_text() == "image0.jpg"
    figures.nth(2).click()
    sync_api.expect(detail).to_have_text("image2.jpg")
    figures.nth(2).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    sync_api.expect(detail).to_have_text("image3.jpg")
    page.locator(".w-texts li", has_text="a red mug").last.hover()
    assert page.locator(".w-detail g.lit").count() == 1


def test_pages_of_images_and_filters(page: "sync_api.Page", address: str) -> None:
    page.goto(f"{address}/?dataset=small")
    position, figures = page.locator(".w-turn span"), page.locator(".w-grid figure")
    page.get_by_role("button", name="Next", exact=True).click()
    sync_api.expect(position).to_have_text("page 2")
    sync_api.expect(figures).to_have_count(26 - datasets.PAGE)
    page.get_by_role("button", name="Previous", exact=True).click()
    sync_api.expect(position).to_have_text("page 1")
    page.get_by_label("Split").click()
    page.get_by_role("option", name="test").click()
    sync_api.expect(figures).to_have_count(8)


def test_a_wrong_path_is_told_in_a_toast(page: "sync_api.Page", address: str) -> None:
    page.goto(f"{address}/")
    page.get_by_text("Import a data set").click()
    page.get_by_label("File or folder").fill("/no/such <b>folder")
    page.get_by_role("button", name="Import", exact=True).click()
    sync_api.expect(page.locator(".toast-body")).to_contain_text("There is nothing at /no/such <b>folder.")

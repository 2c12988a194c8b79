"""What happens to a page: no network, a closed tab, a server that comes and goes, a session that ends, and hostile texts."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import candidates, leased, small_document
from faults import OFF, must_fail_without, promised, wait_for
from test_faults_web import Served

from db.records import Category, Dataset, Decision, NewVerdict, RunKind, Score
from db.store import Store
from db.users import Role
from studio.app import create_app
from studio.auth import COOKIE, SignIn
from studio.pages import PAGES

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
MINUTE = 60_000  # milliseconds
ONLINE, DECISIONS = 12, 50
RESTARTS = 20
FORGETS = "Storage.prototype.setItem = () => {};"  # a browser in which a page keeps nothing


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def context(browser: sync_api.Browser) -> Iterator[sync_api.BrowserContext]:
    opened = browser.new_context(viewport={"width": 1280, "height": 720})
    yield opened
    opened.close()


def filled(home: Path, place: Path, count: int) -> tuple[Store, Dataset, list[int]]:
    store = Store(home)
    dataset = store.datasets.import_document(small_document(place / "files", images=2), "small")
    return store, dataset, candidates(store, dataset.id, leased(store, dataset.id), count)


def see(page: sync_api.Page, candidate: int) -> None:
    page.wait_for_selector(f".review[data-shown='{candidate}'][data-id='{candidate}']", timeout=MINUTE)


def saved(page: sync_api.Page) -> bool:
    try:
        page.wait_for_selector(".review[data-unsaved='0']", timeout=MINUTE)
    except sync_api.TimeoutError:
        return False
    return True


def judge(page: sync_api.Page, ids: list[int], at: int, count: int) -> list[tuple[int, str]]:
    """Keys in turn for candidates in a row, and what they mean."""
    meant = []
    for number in range(at, at + count):
        see(page, ids[number])
        key, decision = ("x", "reject") if number % 3 == 0 else ("a", "accept")
        page.keyboard.press(key)
        meant.append((ids[number], decision))
    return meant


def logged(store: Store) -> list[tuple[int, str]]:
    log = sorted(store.review.verdicts(limit=10**6), key=lambda verdict: verdict.id)
    return [(verdict.candidate_id, str(verdict.decision)) for verdict in log]


# Offline


@pytest.mark.fault
@must_fail_without("the outbox")
def test_what_was_decided_offline_outlives_the_tab_and_is_stored_once_in_order(
    context: sync_api.BrowserContext, tmp_path: Path
) -> None:
    if os.environ.get(OFF) == "the outbox":
        context.add_init_script(FORGETS)
    store, dataset, ids = filled(tmp_path / "home", tmp_path, ONLINE + DECISIONS + 15)
    server = Served(tmp_path / "home")
    try:
        page = context.new_page()
        page.goto(f"{server.address}/review?dataset={dataset.id}")
        see(page, ids[0])
        page.wait_for_selector("gradio-app .review", timeout=MINUTE)
        meant = judge(page, ids, 0, ONLINE)  # meanwhile the page reads ahead
        assert saved(page)
        context.set_offline(True)
        meant += judge(page, ids, ONLINE, DECISIONS)
        assert logged(store) == meant[:ONLINE]
        page.close(run_before_unload=False)
        context.set_offline(False)
        page = context.new_page()
        page.goto(f"{server.address}/review?dataset={dataset.id}")
        page.wait_for_selector(".review[data-unsaved='0'][data-shown]", timeout=MINUTE)
        promised(logged(store) == meant, f"{len(logged(store))} of {len(meant)} decisions came through")
    finally:
        server.kill()
        store.close()


# Restarts, and a session that ends


def cookie(store: Store, name: str, role: Role) -> dict[str, str]:
    """Signed in without the page."""
    known = {user.name: user for user in store.users.everybody()}
    user = known.get(name) or store.users.add(name, "correct horse battery", role)
    token = store.users.sign_in(user)
    return {"name": COOKIE, "value": f"{token}.{SignIn(store)._signature(token)}"}


@pytest.mark.fault
@must_fail_without("trying again")
def test_a_page_outlives_restarts_and_the_end_of_its_session(context: sync_api.BrowserContext, tmp_path: Path) -> None:
    """With the server gone one goes on deciding; when it is back all is sent and the same candidate is there. Half-way the
    session ends: the outbox waits until the person has signed in again."""
    store, dataset, ids = filled(tmp_path / "home", tmp_path, 3 * RESTARTS + 10)
    server = Served(tmp_path / "home", partial(create_app, sign_in=True))
    meant: list[tuple[int, str]] = []
    try:
        context.add_cookies([{**cookie(store, "rita", Role.REVIEWER), "url": server.address}])
        page = context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"{server.address}/review?dataset={dataset.id}")
        for number in range(RESTARTS):
            meant += judge(page, ids, len(meant), 1)
            assert saved(page)
            server.kill()
            meant += judge(page, ids, len(meant), 1)
            server.start()
            promised(saved(page), "what was decided meanwhile is not sent")
            see(page, ids[len(meant)])
            promised(logged(store) == meant, f"{len(logged(store))} of {len(meant)} decisions came through")
            if number == RESTARTS // 2:
                meant += _signed_out(context, page, store, server, ids, meant)
                page.goto(f"{server.address}/review?dataset={dataset.id}")
                assert wait_for(lambda all_=list(meant): logged(store) == all_, 60)
                see(page, ids[len(meant)])
    finally:
        server.kill()
        store.close()


def _signed_out(
    context: sync_api.BrowserContext,
    page: sync_api.Page,
    store: Store,
    server: Served,
    ids: list[int],
    meant: list[tuple[int, str]],
) -> list[tuple[int, str]]:
    """Decide while nobody is signed in, and sign in again."""
    store.users.sign_out_everywhere("rita")
    more = judge(page, ids, len(meant), 1)
    page.wait_for_selector(".review[data-unsaved='1']", timeout=MINUTE)
    context.add_cookies([{**cookie(store, "rita", Role.REVIEWER), "url": server.address}])
    return more


# Hostile texts, in every field that has one

BEFORE = ("", '"', "'", "`", "</textarea>", "</title>", "</script>", "</style>", "-->", "]]>")
VECTORS = (
    "<img src=x onerror=hit()>",
    "<script>hit()</script>",
    "<svg onload=hit()>",
    "<details open ontoggle=hit()>x",
    "<iframe srcdoc='<script>parent.hit()</script>'>",
    "<input autofocus onfocus=hit()>",
    "<video><source onerror=hit()></video>",
    " onmouseover=hit() autofocus onfocus=hit() x=",
    "<style>*{animation:x}@keyframes x{}</style><b onanimationstart=hit()>",
    "<a href='javascript:hit()' id=w1nn0w>",
)
PAYLOADS = [before + vector for before, vector in itertools.product(BEFORE, VECTORS)]


def hostile(home: Path, place: Path) -> Store:
    """Names of data sets, classes, files, texts, recipes, runs, versions, options, reasons, reviewers, views, snapshots, log lines,
    errors and workers: each payload in each of them."""
    store = Store(home)
    document = small_document(place / "files", images=2)
    texts = list(document.phrases())
    phrases = [
        msgspec.structs.replace(texts[0], id=i, text=payload, spans=(), box_ids=(), parent_id=None)
        for i, payload in enumerate(PAYLOADS)
    ]
    classes = [Category(id=i, name=payload, source_id=i + 1) for i, payload in enumerate(PAYLOADS)]
    document = replace(document, categories=classes, phrases=lambda: phrases)
    dataset = store.datasets.import_document(document, "hostile")
    shard = leased(store, dataset.id)
    ids = candidates(store, dataset.id, shard, len(PAYLOADS))
    pairs = list(zip(ids, PAYLOADS, strict=True))
    store.review.add_scores(shard, [Score(candidate_id=i, filter="seam", value=0.5, reason=text) for i, text in pairs])
    store.review.decide(
        [
            NewVerdict(op_id=f"hostile {i}", candidate_id=i, decision=Decision.REJECT, reviewer=text, reason=text)
            for i, text in pairs[: len(pairs) // 2]
        ]
    )
    for number, text in enumerate(PAYLOADS):
        store.views.save(dataset.id, text, "dataset=1")
        store.ledger.log(shard.run_id, text, level="error")
        store.ledger.present(f"{text}:1:1")
        if number % 10 == 0:
            _runs(store, dataset, text)
    store.ledger.fail_shard(shard, PAYLOADS[0])
    return store


def _runs(store: Store, dataset: Dataset, text: str) -> None:
    store.snapshots.freeze(text, dataset.id)
    made = store.ledger.create_run(
        RunKind.GENERATE, text, dataset_id=dataset.id, recipe=text, options={text: text}, seed=0, versions={text: text}
    )
    store.ledger.fail_run(made.id, text)


ADDRESSES = [
    *(f"/{page.path}" for page in PAGES),
    "/review?dataset=1&human=any",
    "/grid?dataset=1&human=any",
    "/jobs?run=1",
    "/why?candidate=1",
    "/generate?dataset=hostile",
]


@pytest.mark.fault
@must_fail_without("escaping")
def test_no_text_is_ever_run(context: sync_api.BrowserContext, tmp_path: Path) -> None:
    """A hundred payloads in every field, on every page, in a real browser."""
    hostile(tmp_path / "home", tmp_path).close()
    server = Served(tmp_path / "home")
    hits: list[str] = []
    try:
        context.expose_function("hit", lambda: hits.append("script"))
        page = context.new_page()
        page.on("dialog", lambda dialog: (hits.append("dialog"), dialog.dismiss()))
        for address in ADDRESSES:
            page.goto(server.address + address, timeout=2 * MINUTE)
            page.wait_for_selector("gradio-app h1, gradio-app .review, gradio-app .browse", timeout=2 * MINUTE)
            page.wait_for_timeout(1500)
            page.mouse.move(400, 300)
            promised(not hits, f"{len(hits)} texts were run at {address}")
            assert page.locator("#w1nn0w").count() == 0, f"a text became a link at {address}"
    finally:
        server.kill()
    assert len(PAYLOADS) == 100 and len(ADDRESSES) > 15


def test_every_page_is_visited() -> None:
    assert {f"/{page.path}" for page in PAGES} <= set(ADDRESSES)


def test_the_payloads_do_run_where_nothing_is_escaped(browser: sync_api.Browser) -> None:
    """Else a page without hits would prove nothing."""
    ran: set[Any] = set()
    page = browser.new_context().new_page()
    for number, payload in enumerate(PAYLOADS[:10]):
        page.set_content(f"<script>window.hit = () => window.ran = true</script><div title=x>{payload}</div>")
        page.wait_for_timeout(150)
        if page.evaluate("window.ran === true"):
            ran.add(number)
    page.context.close()
    assert len(ran) >= 6, f"only {sorted(ran)} ran"

"""`winnow bench review`: the speed of Review and of the grid, at 100,000 and at 1,000,000 candidates.

The studio runs in a process of its own and is driven by the keyboard of a headless Chromium. For a key, the clock starts at the
`keydown` event's own time stamp and stops when the images of the expected next candidate are complete and decoded, a frame has
begun and a task has run after it: the nearest thing to "painted" that a page can see. The first card is timed from the start of
the navigation, a page of the grid from the key that turns to it. Twenty people write two decisions a second each over HTTP.
The baseline is the plain way to build such a page in Gradio: one Python event per key, through its queue.

The candidates share 2,000 images (640 x 480 JPEGs of about 50 kB): more would measure the disk cache of the machine.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from db.database import sqlite_module
from db.document import Document
from db.errors import WinnowError
from db.records import Box, Category, Decision, Image, Kind, NewCandidate, NewVerdict, Rule, RunKind, Score
from db.store import Store
from engine.provenance import versions

SIZES = (100_000, 1_000_000)
IMAGES, BOXES = 2000, 4
WIDTH, HEIGHT = 640, 480
WARM_UP = 3
PAUSE = 0.15  # seconds between the paint and the next key
PLAIN_STEPS = 60
PATIENCE = 600_000  # milliseconds for a page to come up: other work may keep the machine busy
GRID_PAGES = 15
GRID_PAUSE = 1.5
OPENINGS = 3  # of the page, for the first card
PEOPLE, RATE, SECONDS = 20, 2.0, 20.0  # decisions a second of each, and how long
SHUFFLED = "abs(random()) / 9223372036854775808.0"
RULES = (
    Rule(filter="seam", at_most=3.0),
    Rule(filter="overlap", at_most=0.5),
    Rule(filter="plausible_size", at_least=0.02),
)

SHOWN = ".review .sheet:not(.behind) .frame img:not(.peek)"
FIRST = """() => {
  const pictures = [...document.querySelectorAll(".review[data-shown] .sheet:not(.behind) .frame img:not(.peek)")];
  if (!pictures.length || !pictures.every((img) => img.complete && img.naturalWidth)) return false;
  window.firstCard ??= performance.now();
  return true;
}"""

ARM_GRID = """(wanted) => {
  window.painted = new Promise((resolve) => addEventListener("keydown", async (event) => {
    const there = () => document.querySelector(`.browse[data-state="ready"][data-page="${wanted}"]`);
    while (!there()) await new Promise((go) => setTimeout(go, 1));
    await Promise.all([...document.querySelectorAll(".browse .tile img")].map((img) => img.decode()));
    await new Promise(requestAnimationFrame);
    await new Promise((go) => { const pipe = new MessageChannel(); pipe.port1.onmessage = go; pipe.port2.postMessage(0); });
    resolve(performance.now() - event.timeStamp);
  }, { once: true }));
}"""

ARM = """([selector, wanted]) => {
  const pictures = () => [...document.querySelectorAll(selector)];
  const there = () => wanted.every((name) => pictures().some((img) => img.src.includes(name) && img.complete));
  window.painted = new Promise((resolve) => addEventListener("keydown", async (event) => {
    while (!there()) await new Promise((go) => setTimeout(go, 1));
    await Promise.all(pictures().map((img) => img.decode()));
    await new Promise(requestAnimationFrame);
    await new Promise((go) => { const pipe = new MessageChannel(); pipe.port1.onmessage = go; pipe.port2.postMessage(0); });
    resolve(performance.now() - event.timeStamp);
  }, { once: true }));  // after the page's own listener, which was there before
}"""


def run(scale: float = 1.0, steps: int = 200, sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """The bench at a share of each size. Raises WinnowError without Playwright and Chromium, and when a verdict was lost."""
    figures: dict[str, float] = {}
    for size in sizes:
        count = max(steps + 50, int(size * scale))
        with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
            found = _figures(Path(folder), count, steps)
        suffix = "_1m" if size == SIZES[-1] else ""
        figures |= {f"{name}{suffix}": value for name, value in found.items()}
    return {
        "bench": "review",
        "figures": figures,
        "baseline": "a Python event per key through Gradio's queue, with two gr.Image and a gr.HTML",
        "n": steps,
        "load_average": os.getloadavg()[0],
        "versions": versions(),
    }


def _figures(folder: Path, count: int, steps: int) -> dict[str, float]:
    home, began = folder / "home", time.perf_counter()
    wanted = build(home, folder / "images", count)
    building = time.perf_counter() - began
    with served("studio", home) as (address, _):
        first = _first_card(address)
        ours = _measure(f"{address}/review", SHOWN, wanted, steps)
        grid = _grid(address)
        _complete(home, WARM_UP + steps, "the keyboard")
        writes, answered = _people(address, home)
        lost = answered + WARM_UP + steps - _verdicts(home)
    with served("plain", home) as (address, _):
        plain = _measure(address, "#before img, #after img", wanted, min(steps, PLAIN_STEPS))
    return {
        "key_to_painted_p50_ms": statistics.median(ours),
        "key_to_painted_p95_ms": statistics.quantiles(ours, n=20)[-1],
        "first_card_ms": first,
        "grid_100_ms": statistics.median(grid),
        "write_p95_ms_20_people": statistics.quantiles(writes, n=20)[-1],
        "lost": lost,
        "plain_gradio_p50_ms": statistics.median(plain),
        "plain_gradio_p95_ms": statistics.quantiles(plain, n=20)[-1],
        "candidates": count,
        "building_s": building,
    }


def _complete(home: Path, pressed: int, by: str) -> None:
    if (saved := _verdicts(home)) != pressed:
        raise WinnowError(f"{pressed} verdicts were given by {by}, but {saved} were saved: the figures mean nothing.")


# The store


def build(home: Path, folder: Path, count: int) -> list[tuple[str, str]]:
    """A store with `count` candidates. Returns the digests (before, after) of each, in the order of the queue."""
    images = min(IMAGES, count)
    _paint(folder, images)
    store = Store(home)
    try:
        dataset = store.datasets.import_document(_document(folder, images), "bench")
        digests = [image.digest or "" for image in store.datasets.images(dataset.id, limit=images)]
        _fill(store, dataset.id, digests, count)
    finally:
        store.close()
    return [(digests[i % images], digests[(i + 1) % images]) for i in range(count)]


def _paint(folder: Path, count: int) -> None:
    """JPEGs of about 50 kB with the detail of photographs: noise over smooth colour."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 9, (HEIGHT, WIDTH, 3)).astype(np.float32)
    for i in range(count):
        smooth = cv2.resize(
            rng.uniform(30, 220, (7, 9, 3)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
        )
        pixels = np.clip(smooth + np.roll(noise, i, axis=1), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:05d}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])


def _document(folder: Path, count: int) -> Document:
    rng = np.random.default_rng(1)
    sizes = rng.uniform(40, 200, (count, BOXES, 2))
    corners = rng.uniform(0, 1, sizes.shape) * ((WIDTH, HEIGHT) - sizes)
    xyxy = np.concatenate([corners, corners + sizes], -1).round(1).tolist()
    pictures = [
        Image(id=i, file_name=f"{i:05d}.jpg", width=WIDTH, height=HEIGHT, split="train", source_id=i)
        for i in range(count)
    ]
    boxes = [
        Box(id=BOXES * i + j, image_id=i, category_id=j, xyxy=tuple(xyxy[i][j]), source_id=BOXES * i + j)
        for i in range(count)
        for j in range(BOXES)
    ]
    return Document(
        format="coco",
        categories=[Category(id=j, name=name, source_id=j) for j, name in enumerate(("mug", "ball", "lamp", "book"))],
        images=lambda: pictures,
        boxes=lambda: boxes,
        phrases=list,
        file_of=lambda image: folder / image.file_name,
    )


def _fill(store: Store, dataset_id: int, digests: list[str], count: int) -> None:
    """A candidate and its scores for every box as the store writes them; the others are copied from these within the database,
    each with a target of its own: one at a time, a million would take an hour."""
    policy = store.review.save_policy("bench", RULES)
    options = {"recipe": "bench", "policy_id": policy.id}
    made = store.ledger.create_run(
        RunKind.GENERATE, "bench", dataset_id=dataset_id, recipe="", options=options, seed=0, versions={}
    )
    store.ledger.plan(made.id, [({}, count)])
    shard = store.ledger.claim(made.id, "bench", lease_seconds=3600)
    assert shard is not None
    images = store.datasets.images(dataset_id, limit=len(digests))
    boxes = store.datasets.boxes_of([image.id for image in images])
    drafts = [
        _draft(i, image, boxes[image.id][i % BOXES], digests[(i + 1) % len(digests)]) for i, image in enumerate(images)
    ]
    store.review.add_candidates(shard, drafts, dataset_id)
    values = np.random.default_rng(2).uniform(0, 4, (len(drafts), len(RULES))).tolist()
    scores = [
        Score(candidate_id=candidate, filter=rule.filter, value=value, reason="measured")
        for candidate, row in zip(store.review.candidate_ids(made.id), values, strict=True)
        for rule, value in zip(RULES, row, strict=True)
    ]
    store.review.add_scores(shard, scores)
    _multiply(store.home / "winnow.db", len(drafts), count)


def _draft(i: int, image: Image, box: Box, digest: str) -> NewCandidate:
    return NewCandidate(
        target=f"box:{i}",
        variant=0,
        kind=Kind.NEGATIVE_IMAGE,
        image_id=image.id,
        seed=i,
        category_id=box.category_id,
        box_id=box.id,
        xyxy=box.xyxy,
        text_before="a red mug left of the blue ball",
        text_after="a red mug right of the blue ball",
        digest=digest,
        detail={"pack": "bench", "backend": "none", "edit_type": "relation"},
    )


def _multiply(file: Path, there: int, count: int) -> None:
    """Copy the first `there` candidates, whose ids begin at 1, until there are `count`."""
    connection: Any = sqlite_module().connect(file)
    copied = [row[1] for row in connection.execute("PRAGMA table_info(candidate)")]
    fresh = {"id": f"c.id + n * {there}", "target": f"'box:' || (c.id - 1 + n * {there})", "shuffle": SHUFFLED}
    values = ", ".join(fresh.get(name, f"c.{name}") for name in copied)
    rounds = f"WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < {-(-count // there) - 1})"
    inside = f"c.id <= {there} AND c.id + n * {there} <= {count}"
    try:
        with connection:
            connection.execute(
                f"{rounds} INSERT INTO candidate ({', '.join(copied)}) SELECT {values} FROM r CROSS JOIN candidate c "
                f"WHERE {inside}"
            )
            connection.execute(
                f"{rounds} INSERT INTO score SELECT c.candidate_id + n * {there}, c.filter, c.value + n * 1e-6, c.reason "
                f"FROM r CROSS JOIN score c WHERE c.candidate_id <= {there} AND c.candidate_id + n * {there} <= {count}"
            )
    finally:
        connection.close()


def _verdicts(home: Path) -> int:
    connection: Any = sqlite_module().connect(home / "winnow.db")
    try:
        return connection.execute("SELECT count(*) FROM verdict").fetchone()[0]
    finally:
        connection.close()


# The browser


def _measure(address: str, selector: str, wanted: list[tuple[str, str]], steps: int) -> list[float]:
    """Milliseconds of each step, without the first few."""
    with _page() as page:
        page.goto(address)
        page.wait_for_function(_shown(selector, wanted[0]), timeout=PATIENCE)
        taken = []
        for number in range(1, WARM_UP + steps + 1):
            page.evaluate(ARM, [selector, wanted[number]])
            page.keyboard.press("a")
            taken.append(page.evaluate("window.painted"))
            time.sleep(PAUSE)
        if page.query_selector(".review"):
            page.wait_for_selector(".review[data-unsaved='0']")
    return taken[WARM_UP:]


def _first_card(address: str) -> float:
    """Milliseconds from the start of the navigation to the decoded images of the first card; the median of a few new browsers."""
    taken = []
    for _ in range(OPENINGS):
        with _page() as page:
            page.goto(f"{address}/review", wait_until="commit")
            page.wait_for_function(FIRST, timeout=PATIENCE)
            taken.append(page.evaluate("window.firstCard"))
    return statistics.median(taken)


def _grid(address: str) -> list[float]:
    """Milliseconds from the key that turns the page to a hundred decoded thumbnails, with the page before still in sight for as
    long as a person needs to see that it is done."""
    with _page() as page:
        page.goto(f"{address}/grid")
        page.wait_for_selector(".browse[data-state='ready'][data-page='1'] .tile img", timeout=PATIENCE)
        taken = []
        for number in range(2, GRID_PAGES + 2):
            page.evaluate(ARM_GRID, str(number))
            page.keyboard.press("]")
            taken.append(page.evaluate("window.painted"))
            time.sleep(GRID_PAUSE)
    return taken


# Twenty people


def _people(address: str, home: Path) -> tuple[list[float], int]:
    """Milliseconds of every write, and how many verdicts were answered as saved."""
    last = _last_id(home)
    with ThreadPoolExecutor(PEOPLE) as pool:
        each = int(RATE * SECONDS)
        parts = list(
            pool.map(lambda n: _person(address, n, range(last - n * each, last - (n + 1) * each, -1)), range(PEOPLE))
        )
    taken = [one for times, _ in parts for one in times]
    return taken, sum(saved for _, saved in parts)


def _last_id(home: Path) -> int:
    connection: Any = sqlite_module().connect(home / "winnow.db")
    try:
        return connection.execute("SELECT max(id) FROM candidate").fetchone()[0]
    finally:
        connection.close()


def _person(address: str, number: int, candidates: Sequence[int]) -> tuple[list[float], int]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    headers = {"Content-Type": "application/json", "X-Winnow": "1"}
    taken, saved, due = [], 0, time.perf_counter() + number / (RATE * PEOPLE)
    for candidate in candidates:
        time.sleep(max(0.0, due - time.perf_counter()))
        due += 1 / RATE
        verdict = {
            "op_id": f"person-{number}-{candidate}", "candidate_id": candidate, "decision": "accept", "reviewer": f"person {number}",
        }  # fmt: skip
        began = time.perf_counter()
        connection.request("POST", "/api/review/verdicts", json.dumps([verdict]), headers)
        (answer,) = json.loads(connection.getresponse().read())
        taken.append(1000 * (time.perf_counter() - began))
        saved += answer["status"] == "saved"
    connection.close()
    return taken, saved


def _shown(selector: str, names: tuple[str, str]) -> str:
    tests = " && ".join(f"pictures.some((img) => img.src.includes('{name}') && img.complete)" for name in names)
    return f"() => {{ const pictures = [...document.querySelectorAll('{selector}')]; return {tests}; }}"


@contextmanager
def _page() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise WinnowError(
            "The review bench drives a browser: pip install playwright, and have Chromium on the PATH."
        ) from error
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise WinnowError("The review bench drives a browser, but there is no chromium on the PATH.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 720})
        browser.close()


# The servers


@contextmanager
def served(variant: str, home: Path) -> Iterator[tuple[str, int]]:
    """The address and the process of a server: "studio" on a store, or the "plain" page on its candidates."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "studio.benches.review", variant, str(home), str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _await(address, server)
        yield address, server.pid
    finally:
        server.terminate()
        server.wait(20)


def _await(address: str, server: subprocess.Popen[bytes], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=60).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    raise WinnowError(f"The server of the bench did not start (exit status {server.poll()}).")


def _studio_app(home: Path) -> Any:
    from studio.app import create_app

    return create_app(home)


def plain_app(home: Path) -> Any:
    """The page as one builds it from Gradio's own components."""
    import gradio as gr
    from fastapi import FastAPI

    from studio import views

    store = Store(home)
    ids = store.review.candidate_ids(1)

    def shown(at: int) -> tuple[int, str, str, str]:
        (candidate,) = store.review.candidates([ids[at]])
        card = views.cards(store, [candidate])[0]
        before, after = (str(store.blobs.path(card[side]["url"].rpartition("/")[2])) for side in ("before", "after"))
        rows = "".join(f"<li>{row['title']} {row['value']} {row['rule']} {row['state']}</li>" for row in card["scores"])
        return at, before, after, f"<p>{candidate.text_before}</p><p>{candidate.text_after}</p><ul>{rows}</ul>"

    def accept(at: int) -> tuple[int, str, str, str]:
        verdict = NewVerdict(op_id=f"plain-{at}-{time.time_ns()}", candidate_id=ids[at], decision=Decision.ACCEPT)
        store.review.decide([verdict])
        return shown(at + 1)

    press = "<script>addEventListener('keydown', (e) => e.key === 'a' && document.querySelector('#accept').click());</script>"
    with gr.Blocks(analytics_enabled=False) as blocks:
        at = gr.State(0)
        with gr.Row():
            before = gr.Image(type="filepath", interactive=False, elem_id="before")
            after = gr.Image(type="filepath", interactive=False, elem_id="after")
        words = gr.HTML()
        button = gr.Button("Accept", elem_id="accept")
        button.click(accept, at, [at, before, after, words], show_progress="hidden")
        blocks.load(shown, at, [at, before, after, words])
    return gr.mount_gradio_app(
        FastAPI(), blocks, path="/", head=press, ssr_mode=False, allowed_paths=[str(home / "blobs")]
    )


def _serve(variant: str, home: Path, port: int) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import uvicorn

    app = _studio_app(home) if variant == "studio" else plain_app(home)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))

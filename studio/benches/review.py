"""`winnow bench review`: from a key press to the next candidate's images painted, at 100,000 candidates.

Both variants run in servers of their own, driven by the keyboard of a headless Chromium on the same store. The clock
starts at the `keydown` event's own time stamp and stops when the images of the expected next candidate are complete and
decoded, a frame has begun and a task has run after it: the nearest thing to "painted" that a page can see.
The baseline is the plain way to build such a page in Gradio: one Python event per key, through its queue.
"""

from __future__ import annotations

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from db.document import Document
from db.errors import WinnowError
from db.queries import Queue
from db.records import Box, Category, Decision, Image, Kind, NewCandidate, NewVerdict, Rule, RunKind, Score
from db.store import Store
from engine.provenance import versions

CANDIDATES, IMAGES, BOXES = 100_000, 2000, 4
WIDTH, HEIGHT = 640, 480
WARM_UP = 3
PAUSE = 0.15  # seconds between the paint and the next key
PLAIN_STEPS = 60
RULES = (
    Rule(filter="seam", at_most=3.0),
    Rule(filter="overlap", at_most=0.5),
    Rule(filter="plausible_size", at_least=0.02),
)

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


def run(scale: float = 1.0, steps: int = 200) -> dict[str, Any]:
    """The bench at a share of 100,000 candidates. Raises WinnowError without Playwright and Chromium."""
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        home = Path(folder) / "home"
        wanted = build(home, Path(folder) / "images", max(steps + 50, int(CANDIDATES * scale)))
        ours = _measure("studio", home, ".review .frame img:not(.peek)", wanted, steps)
        saved = _verdicts(home)
        if saved != WARM_UP + steps:
            raise WinnowError(
                f"{WARM_UP + steps} keys were pressed, but {saved} verdicts were saved: the figures mean nothing."
            )
        plain = _measure("plain", home, "#before img, #after img", wanted, min(steps, PLAIN_STEPS))
    return {
        "bench": "review",
        "figures": {
            "key_to_painted_p50_ms": statistics.median(ours),
            "key_to_painted_p95_ms": statistics.quantiles(ours, n=20)[-1],
            "plain_gradio_p50_ms": statistics.median(plain),
            "plain_gradio_p95_ms": statistics.quantiles(plain, n=20)[-1],
            "candidates": max(steps + 50, int(CANDIDATES * scale)),
        },
        "baseline": "a Python event per key through Gradio's queue, with two gr.Image and a gr.HTML",
        "n": steps,
        "versions": versions(),
    }


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
    drafts = []
    for i in range(count):
        image = images[i % len(images)]
        box = boxes[image.id][i % BOXES]
        drafts.append(
            NewCandidate(
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
                digest=digests[(i + 1) % len(digests)],
                detail={"pack": "bench", "backend": "none", "edit_type": "relation"},
            )
        )
    store.review.add_candidates(shard, drafts, dataset_id)
    values = np.random.default_rng(2).uniform(0, 4, (count, len(RULES))).tolist()
    scores = [
        Score(candidate_id=candidate, filter=rule.filter, value=value, reason="measured")
        for candidate, row in zip(store.review.candidate_ids(made.id), values, strict=True)
        for rule, value in zip(RULES, row, strict=True)
    ]
    store.review.add_scores(shard, scores)


def _verdicts(home: Path) -> int:
    store = Store(home)
    try:
        return store.review.counts(Queue(), {})["human"].get("accept", 0)
    finally:
        store.close()


# The browser


def _measure(variant: str, home: Path, selector: str, wanted: list[tuple[str, str]], steps: int) -> list[float]:
    """Milliseconds of each step, without the first few."""
    with _served(variant, home) as address, _page() as page:
        page.goto(f"{address}/review" if variant == "studio" else address)
        page.wait_for_function(_shown(selector, wanted[0]), timeout=60_000)
        taken = []
        for number in range(1, WARM_UP + steps + 1):
            page.evaluate(ARM, [selector, wanted[number]])
            page.keyboard.press("a")
            taken.append(page.evaluate("window.painted"))
            time.sleep(PAUSE)
        if variant == "studio":
            page.wait_for_selector(".review[data-unsaved='0']")
    return taken[WARM_UP:]


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
def _served(variant: str, home: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "studio.benches.review", variant, str(home), str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _await(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def _await(address: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=5).close()
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

"""The web application: our routes first, then the Gradio pages, behind one set of guards."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

# Before gradio is imported: it would look up its own servers and a model hub at start.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from gradio.route_utils import FnIndexInferError
from starlette.routing import Mount

from db.errors import WinnowError
from db.shared import Shared
from studio import api, auth, candidates_api, edits_api, grid_api, lab_api, people_api, rest, why_api
from studio.auth import SignIn
from studio.context import Studio, open_studio
from studio.guard import Function, Guard, Rules, bug
from studio.islands import Early, Island
from studio.metrics import Metrics
from studio.metrics import router as metrics_router
from studio.pages import LINKED, PAGES
from studio.roots import roots_of
from studio.theme import ICON, style, theme

logger = logging.getLogger(__name__)

# Any other Host is another site whose name was pointed at this machine (DNS rebinding).
HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "testserver"})
LOOKS = {"studio.pages.why.of_candidate", "studio.pages.why.of_box"}  # change nothing, though they go through the queue


def create_app(
    home: Path,
    shared: Shared = Shared(),  # noqa: B008 (it never changes)
    *,
    sign_in: bool = False,
    hosts: Iterable[str] = (),
    roots: str = "",
) -> FastAPI:
    """The studio on a home folder, under its local names and those in `hosts`; with `sign_in` people have to say who they are,
    and import from and export to the folders in `roots` only.

    Raises WinnowError when its database cannot be used, or a root makes no sense.
    """
    studio = open_studio(home, shared)
    if sign_in:
        studio = replace(studio, roots=roots_of(roots, home))
    store, metrics = studio.store, Metrics()
    app = FastAPI(title="Winnow", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(WinnowError, _told)
    gate = SignIn(store) if sign_in else None
    if gate is not None:
        app.include_router(auth.router(store, gate))
    app.include_router(metrics_router(store, metrics))
    app.include_router(rest.router(studio))
    for routes in (api.router, lab_api.router, why_api.router, grid_api.router, people_api.router, edits_api.router):
        app.include_router(routes(store))
    app.include_router(candidates_api.router(store))
    blocks = _pages(studio, account=sign_in)
    _mount(app, studio, blocks)
    rules = Rules(
        hosts=HOSTS | {host.casefold() for host in hosts},
        pages={f"/{page.path}".rstrip("/") for page in PAGES},
        functions=functions(blocks),
        signed_in=None if gate is None else gate.user,
        record=store.users.record,
    )
    app.add_middleware(Early, islands=_islands(), pages=_bar(account=sign_in))
    app.add_middleware(Guard, rules=rules, metrics=metrics)  # the last one added is the first one asked
    return app


def functions(blocks: gr.Blocks) -> dict[int, Function]:
    """What Gradio may call, by number. A refresh stays out of the queue (`studio/pages/common.py`), an act goes through it."""
    named = {number: f"{one.fn.__module__}.{one.fn.__qualname__}" for number, one in blocks.fns.items() if one.fn}
    return {number: Function(name, not blocks.fns[number].queue or name in LOOKS) for number, name in named.items()}


def _mount(app: FastAPI, studio: Studio, blocks: gr.Blocks) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SSR mode is not supported")  # said even when it is off
        gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            theme=theme(),
            css=style(),
            favicon_path=str(ICON),
            footer_links=[],
            run_history=False,
            show_error=False,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            allowed_paths=[],
            blocked_paths=[str(studio.home)],
            max_file_size="1kb",  # nothing is ever uploaded: data sets are read from the disk of this machine
        )
    pages = next(route.app for route in app.routes if isinstance(route, Mount) and isinstance(route.app, FastAPI))
    for missing in (KeyError, FnIndexInferError):  # Gradio answers a bare 500 to a function it does not have
        pages.add_exception_handler(missing, _unknown)
    pages.add_exception_handler(Exception, _bug)


def _pages(studio: Studio, *, account: bool = False) -> gr.Blocks:
    first, *others = PAGES
    more = [("Account", "account")] if account else None
    with gr.Blocks(title="Winnow", analytics_enabled=False) as blocks:
        gr.Navbar(more, main_page_name=first.title)
        first.page(studio)
    for page in others:
        with blocks.route(page.title, page.path, show_in_navbar=page not in LINKED):
            gr.Navbar(more, main_page_name=first.title)
            page.page(studio)
    return blocks.queue(max_size=200, api_open=False, default_concurrency_limit=8)


def _islands() -> dict[str, Island]:
    return {f"/{page.path}": page.island for page in PAGES if hasattr(page, "island")}


def _bar(*, account: bool) -> list[tuple[str, str]]:
    """Titles and addresses in the bar of pages, as `gr.Navbar` shows them."""
    shown = [(page.title, f"/{page.path}") for page in PAGES if page not in LINKED]
    return [*shown, ("Account", "/account")] if account else shown


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, WinnowError)
    return api.refusal(error)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    logger.warning("no such function at %s: %r", request.url.path, error)
    return JSONResponse({"error": "This page asked for a function that is not here; reload it."}, 404)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    return bug(request.url.path, error)

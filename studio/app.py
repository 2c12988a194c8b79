"""The web application: our routes first, then the Gradio pages, behind one set of guards."""

from __future__ import annotations

import logging
import os
import uuid
import warnings
from pathlib import Path
from urllib.parse import urlsplit

# Before gradio is imported: it would look up its own servers and a model hub at start.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from gradio.route_utils import FnIndexInferError
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.errors import WinnowError
from studio import candidates_api, edits_api, grid_api, lab_api, people_api, rest, why_api
from studio.api import router
from studio.context import Studio, open_studio
from studio.pages import PAGES
from studio.theme import ICON, style, theme

logger = logging.getLogger(__name__)

# Any other Host is another site whose name was pointed at this machine (DNS rebinding).
HOSTS = ["127.0.0.1", "localhost", "::1", "[::1]", "testserver"]
SAFE = {"GET", "HEAD", "OPTIONS"}
OWN = {b"same-origin", b"none"}  # values of Sec-Fetch-Site that come from our pages or from the address bar
# Gradio compiles the templates of its components in the browser, hence 'unsafe-eval'. Nothing may be loaded from, or
# sent to, another machine.
CONTENT = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CONTENT.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def create_app(home: Path, *, queue_url: str = "") -> FastAPI:
    """The studio on a home folder. Raises WinnowError when its database cannot be used."""
    studio = open_studio(home, queue_url=queue_url)
    app = FastAPI(title="Winnow", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(WinnowError, _told)
    app.add_exception_handler(Exception, _bug)
    app.include_router(rest.router(studio))
    app.include_router(router(studio.store))
    app.include_router(lab_api.router(studio.store))
    app.include_router(why_api.router(studio.store))
    app.include_router(grid_api.router(studio.store))
    app.include_router(people_api.router(studio.store))
    app.include_router(edits_api.router(studio.store))
    app.include_router(candidates_api.router(studio.store))
    _mount(app, studio)
    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    return app


def _mount(app: FastAPI, studio: Studio) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SSR mode is not supported")  # said even when it is off
        gr.mount_gradio_app(
            app,
            _pages(studio),
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


def _pages(studio: Studio) -> gr.Blocks:
    first, *others = PAGES
    with gr.Blocks(title="Winnow", analytics_enabled=False) as blocks:
        gr.Navbar(main_page_name=first.title)
        first.page(studio)
    for page in others:
        with blocks.route(page.title, page.path):
            gr.Navbar(main_page_name=first.title)
            page.page(studio)
    return blocks.queue(max_size=200, api_open=False, default_concurrency_limit=8)


class Guard:
    """Refuses requests that change something on behalf of another site, and adds the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in there)]
            await send(message)

        if from_our_pages(scope):
            await self._app(scope, receive, guarded)
        else:
            refused = JSONResponse({"error": "This request comes from another site; it was refused."}, 403)
            await refused(scope, receive, guarded)


def from_our_pages(scope: Scope) -> bool:
    """Whether a request only reads, was sent by no browser, or comes from the host it goes to."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if scope["method"] in SAFE:
        return True
    origin = headers.get(b"origin")
    same = origin is None or urlsplit(origin).netloc == headers.get(b"host", b"")
    return same and headers.get(b"sec-fetch-site", b"none") in OWN


async def _told(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 400)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    logger.warning("no such function at %s: %r", request.url.path, error)
    return JSONResponse({"error": "This page asked for a function that is not here; reload it."}, 404)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    number = uuid.uuid4().hex[:8]
    logger.error("bug %s at %s", number, request.url.path, exc_info=error)
    return JSONResponse(
        {"error": f"Something went wrong here (report {number}; the server's log has the details)."}, 500
    )

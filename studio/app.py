"""The web application: our routes first, then the Gradio pages, behind one set of guards."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path
from urllib.parse import urlsplit

# Before gradio is imported: it would look up its own servers and a model hub at start.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr  # noqa: E402
from fastapi import FastAPI, Request  # noqa: E402
from fastapi.responses import JSONResponse  # noqa: E402
from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: E402
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: E402

from db.errors import WinnowError  # noqa: E402
from studio import rest  # noqa: E402
from studio.api import router  # noqa: E402
from studio.context import Studio, open_studio  # noqa: E402
from studio.pages import PAGES  # noqa: E402
from studio.theme import CSS, ICON, theme  # noqa: E402

logger = logging.getLogger(__name__)

HOSTS = ["127.0.0.1", "localhost", "[::1]", "testserver"]
SAFE = {"GET", "HEAD", "OPTIONS"}
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


def create_app(home: Path, *, queue_url: str = "") -> FastAPI:
    """The studio on a home folder. Raises WinnowError when its database cannot be used."""
    studio = open_studio(home, queue_url=queue_url)
    app = FastAPI(title="Winnow", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(WinnowError, _told)
    app.add_exception_handler(Exception, _bug)
    app.include_router(rest.router(studio))
    app.include_router(router(studio.store))
    gr.mount_gradio_app(
        app,
        _pages(studio),
        path="/",
        theme=theme(),
        css=CSS,
        favicon_path=str(ICON),
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        allowed_paths=[],
        blocked_paths=[str(home)],
        max_file_size="2gb",
    )
    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    return app


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
        if not same_origin(scope):
            refused = JSONResponse({"error": "This request comes from another site; it was refused."}, 403)
            await refused(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in HEADERS if h[0] not in there)]
            await send(message)

        await self._app(scope, receive, guarded)


def same_origin(scope: Scope) -> bool:
    """Whether a request is safe, has no Origin (no browser sent it), or comes from the host it goes to."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    origin = headers.get(b"origin")
    if scope["method"] in SAFE or origin is None:
        return True
    return urlsplit(origin.decode("latin-1")).netloc == headers.get(b"host", b"").decode("latin-1")


async def _told(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 400)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    number = uuid.uuid4().hex[:8]
    logger.error("bug %s at %s", number, request.url.path, exc_info=error)
    return JSONResponse({"error": f"Something went wrong here (report {number}, see the server's log)."}, 500)



"""Islands: parts of a page that a script of ours draws, and that stand before Gradio does.

Gradio's scripts take seconds to start. The page of an island therefore brings its own beginning: the bar of pages, an empty place,
the island's script, which draws itself there at once, and the answers that it asks for first. Only then are Gradio's scripts
started. When Gradio has put up the island's component, `mount` is called once more and moves what stands there into it
(`components/early.js`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import gradio as gr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.users import User
from studio import static
from studio.markup import Html, join, tag

logger = logging.getLogger(__name__)

Json = dict[str, Any]
# Yields addresses with their parameters, and is sent the answer of each.
Opening = Generator[tuple[str, Mapping[str, Any]], Json, None]

NOBODY = "local"
NAME = "winnow-name"  # the cookie with the name in the record of somebody who does not sign in
LONGEST_NAME = 200
# Gradio's own start, as its page has it.
GRADIO = re.compile(r'<script type="module" crossorigin src="(\./assets/[\w.-]+\.js)"></script>')
# The theme that Gradio will choose, and the studio's style sheet, which it brings along in its settings.
DRESS = Html("""
const wish = new URLSearchParams(location.search).get("__theme") ?? "system";
const dark = wish === "dark" || (wish !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
document.body.classList.toggle("dark", dark);
document.currentScript.after(Object.assign(document.createElement("style"), { textContent: window.gradio_config.css }));
""")


@dataclass(frozen=True)
class Island:
    """`script` is a module with `mount(element, {links})`, which gives a promise of the first thing to be seen.

    `links` names the addresses of the pages that it points to, `holds` is the class that the page has while the island is on it.
    `opening(query, reviewer)` asks what the script is going to ask first, `pictures(answers)` are the addresses of those that it is
    going to show.
    """

    script: str
    styles: Sequence[str]
    links: Mapping[str, str]
    holds: str
    opening: Callable[[Mapping[str, str], str], Opening]
    pictures: Callable[[Sequence[Json]], Sequence[str]]

    def component(self) -> gr.HTML:
        """The place that Gradio has for it: empty, without events and state."""
        start = f"import({json.dumps(static.address(self.script))}).then((island) => island.mount(element, props));"
        place = '<div class="island"></div>'
        return gr.HTML(html_template=place, js_on_load=start, apply_default_css=False, links=dict(self.links))

    def head(self, user: User | None) -> Html:
        """For the head of its page: the files that it needs first, and who is signed in."""
        script = _void("link", rel="modulepreload", href=static.address(self.script))
        styles = [_void("link", rel="stylesheet", href=static.address(name), class_="island") for name in self.styles]
        plain = tag("style", Html(static.files()["early.css"].decode()))
        who = _void("meta", name_="winnow-user", content=user.name, data_role=user.role) if user else None
        return join(script, styles, plain, who)

    def place(self, bar: Html) -> Html:
        """Where it stands until Gradio has a place for it."""
        main = tag("div", tag("main", tag("div", class_="island")), class_="main fillable")
        return tag("div", tag("script", DRESS), bar, main, id="early", class_=f"gradio-container {self.holds}")

    def start(self, following: str) -> Html:
        """Starts it, and the script `following` once there is something to be seen."""
        element = "document.querySelector('#early .island')"
        mounted = f"island.mount({element}, {{ links: {_literal(dict(self.links))} }})"
        imported = f"import({_literal(static.address(self.script))}).then((island) => {mounted})"
        return tag("script", Html(f"{imported}.finally(() => import({_literal(following)}));"), type="module")


def bar(pages: Sequence[tuple[str, str]], current: str) -> Html:
    """The bar of pages as Gradio draws it; `pages` are titles and addresses."""
    links = [tag("a", title, href=address, class_="active" if address == current else None) for title, address in pages]
    return tag("div", tag("nav", links, class_="fillable"), class_="nav-holder")


class Early:
    """ASGI middleware: the pages of islands, with their beginnings. `pages` are titles and addresses, as in the bar."""

    def __init__(self, app: ASGIApp, islands: Mapping[str, Island], pages: Sequence[tuple[str, str]]) -> None:
        self._app, self._islands, self._pages = app, islands, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        island = self._islands.get(scope["path"].rstrip("/")) if scope["type"] == "http" else None
        if island is None or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start, body = await self._asked(dict(scope), receive)
        if not _is_page(start):
            await send(start)
            await send({"type": "http.response.body", "body": body})
            return
        head, element, rest = body.decode().rpartition("<gradio-app")
        gradio = GRADIO.search(head)
        if gradio is None:
            raise RuntimeError("Gradio's page does not start its scripts as version 6.31 does; see studio/islands.py")
        await send({**start, "headers": _streamed(start)})
        async for part in self._begun(island, scope, receive, head, gradio):
            await send({"type": "http.response.body", "body": part.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": (element + rest).encode()})

    async def _begun(
        self, island: Island, scope: Scope, receive: Receive, head: str, gradio: re.Match[str]
    ) -> AsyncIterator[str]:
        """The page up to Gradio's element, in two pieces: what is known at once, and what has to be looked up."""
        user = _signed_in(scope)
        later = _void("link", rel="modulepreload", href=gradio[1], fetchpriority="low")
        ours = head.replace("<head>", f"<head>{island.head(user)}", 1).replace(gradio[0], later, 1)
        yield ours + island.place(bar(self._pages, scope["path"].rstrip("/")))
        answers = await self._answers(island, scope, receive, user.name if user else _named(scope))
        pictures = island.pictures([answer for _, answer in answers])
        preloads = [_void("link", rel="preload", as_="image", href=one) for one in pictures]
        known = [tag("script", Html(_literal(one)), type="application/json", data_answer=path) for path, one in answers]
        yield join(preloads, known, island.start(gradio[1]))

    async def _answers(self, island: Island, scope: Scope, receive: Receive, reviewer: str) -> list[tuple[str, Json]]:
        """What the island asks first with its answers, as far as there are any: it asks for the others itself, and tells."""
        opening = island.opening(dict(parse_qsl(scope["query_string"].decode("latin-1"))), reviewer)
        found: list[tuple[str, Json]] = []
        try:
            path, parameters = next(opening)
            while True:
                query = urlencode({name: value for name, value in parameters.items() if value not in (None, "")})
                asked = {**scope, "path": path, "raw_path": path.encode(), "query_string": query.encode()}
                start, body = await self._asked(asked, receive)
                if start["status"] != 200:
                    break
                found.append((f"{path}?{query}", json.loads(body)))
                path, parameters = opening.send(found[-1][1])
        except StopIteration:
            pass
        except Exception:
            logger.exception("the page of %s goes out without the answers that it begins with", island.script)
        return found

    async def _asked(self, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
        """The start and the whole body of an answer of the application."""
        start: Message = {}
        body = bytearray()

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self._app(scope, receive, sent)
        return start, bytes(body)


def _is_page(start: Message) -> bool:
    kind = next((value for name, value in start["headers"] if name.lower() == b"content-type"), b"")
    return start["status"] == 200 and kind.startswith(b"text/html")


def _streamed(start: Message) -> list[tuple[bytes, bytes]]:
    """Headers of a page that is not to be shown again from memory: what it says of a queue is true once."""
    others = [pair for pair in start["headers"] if pair[0].lower() not in (b"content-length", b"cache-control")]
    return [*others, (b"cache-control", b"no-store")]


def _signed_in(scope: Scope) -> User | None:
    user: User | None = scope.get("winnow.user")
    return user if user is not None and user.id > 0 else None


def _named(scope: Scope) -> str:
    """The name under which somebody works who did not sign in."""
    sent = dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")
    try:
        kept = SimpleCookie(sent).get(NAME)
    except CookieError:
        return NOBODY
    return unquote(kept.value)[:LONGEST_NAME] or NOBODY if kept else NOBODY


def _literal(value: Any) -> str:
    """A value as a script may have it in a page: nothing in it can end the script."""
    return json.dumps(value).replace("<", "\\u003c")


def _void(name: str, **attributes: Any) -> Html:
    """An element without an end."""
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))

"""The one gate that every request passes: who may do what, from where, how much and how often.

What is not listed here is shut: a path that is none of ours and none of the few of Gradio that our pages need answers 404,
so that a route which a new version of Gradio brings along is closed until somebody opens it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.errors import Unwritable
from db.users import Role, User
from studio import logs
from studio.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_BODY = 2 * 2**20  # bytes; nothing is uploaded, data sets are read from the disk of this machine
BODY_SECONDS = 30.0  # for all of a body to arrive
LONGEST_PATH = 240  # letters; beyond what a file system takes, Gradio fails instead of finding nothing
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
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
]
HTTPS_ONLY = (b"strict-transport-security", b"max-age=31536000")

# Paths. Names of pages are given by the application.
OPEN = re.compile(r"/signin|/healthz|/favicon\.ico|/robots\.txt|/studio-static/.+")  # nobody has to be signed in
OURS = re.compile(r"/(api|media|studio-static)/.+|/(signin|signout|account|healthz|metrics)|/account/.+")
GRADIO_READ = re.compile(  # what its pages ask for by GET
    r"/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)/?|/(static|assets|svelte)/.+|/pwa_icon(/\w+)?"
    r"|/gradio_api/(info|app_id|startup-events|queue/data|theme\.css|heartbeat/\w+)/?"
)
GRADIO_CALL = {"/gradio_api/run/predict", "/gradio_api/queue/join"}  # a function by its number
GRADIO_END = {"/gradio_api/cancel", "/gradio_api/reset"}  # of one's own event, which has a random name
# What a reviewer may send; all else that changes something is for curators.
REVIEWING = re.compile(
    r"/api/(review|edits|grid)(/.*)?|/api/lab/(histograms|ask|scatter|inside|flipped|these)|/media/sheet"
    r"|/signin|/signout|/account/password"
)
ADMIN = re.compile(r"/metrics|/account/users(/.*)?")
# Where the name of the person is part of the request: the one who is signed in, whatever the request says.
NAMED_QUERY = re.compile(r"/api/review/(next|history)|/api/candidates/\d+|/api/grid/(page|acts)")
NAMED_BODY = re.compile(r"/api/review/(leases|verdicts)|/api/grid/acts|/api/edits/?")
# Not on the trail: what changes nothing, and what has a log of its own.
UNCHANGED = re.compile(
    r"/api/(review|edits)(/.*)?|/media/.*|/api/lab/(histograms|ask|scatter|inside)|/signin|/account/users"
)
CHANGE_PASSWORD = re.compile(r"/account|/account/password|/signout|/studio-static/.+|/favicon\.ico")

EVERYBODY = User(id=0, name="local", role=Role.ADMIN, one_time=False, created_at=0.0)  # where nobody signs in
LOOPBACK = {"127.0.0.1", "::1", "testclient"}
FORWARDED = (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via")


@dataclass(frozen=True)
class Function:
    """One that Gradio calls for our pages; `looks` says that it changes nothing."""

    name: str
    looks: bool


@dataclass(frozen=True)
class Rules:
    """What the gate is told of the application. `signed_in` gives the user of a request, None for nobody; without it this
    machine's own user may do everything."""

    hosts: Collection[str]
    pages: Collection[str]
    functions: Mapping[int, Function]
    signed_in: Callable[[Mapping[bytes, bytes]], User | None] | None = None
    record: Callable[[str, str, int, str], None] | None = None


class Refused(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers

    def response(self) -> Response:
        if self.status == 303:
            return RedirectResponse((self.headers or {})["location"], 303)
        return JSONResponse({"error": str(self)}, self.status, self.headers)


class Bucket:
    """So many at once, and then so many a second, for each key."""

    def __init__(self, most: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._rate, self._now = most, per_second, clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> float:
        """0 when there was one to take, else the seconds until there is."""
        now = self._now()
        if len(self._left) > 10_000:
            self._left = {one: kept for one, kept in self._left.items() if now - kept[1] < self._most / self._rate}
        left, at = self._left.get(key, (self._most, now))
        left = min(self._most, left + (now - at) * self._rate)
        enough = left >= 1
        self._left[key] = (left - enough, now)
        return 0.0 if enough else (1 - left) / self._rate

    def forget(self, key: str) -> None:
        self._left.pop(key, None)


class Guard:
    """ASGI middleware around the whole application, Gradio included."""

    def __init__(self, app: ASGIApp, rules: Rules, metrics: Metrics) -> None:
        self._app, self._rules, self._metrics = app, rules, metrics
        self._writes = Bucket(most=120, per_second=30)  # a held key sends about eight requests a second

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            with logs.within(uuid.uuid4().hex[:12]) as number:
                await self._answer(scope, receive, send, number)
        else:
            await send({"type": "websocket.close", "code": 1008})  # there are none

    async def _answer(self, scope: Scope, receive: Receive, send: Send, number: str) -> None:
        began, status, started = time.perf_counter(), 500, False

        async def guarded(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = _with_headers(message["headers"], scope["scheme"], number)
            await send(message)

        try:
            body = await self._admitted(scope, receive)
            await self._app(scope, receive if body is None else _replay(body, receive), guarded)
        except Refused as refused:
            await refused.response()(scope, receive, guarded)
        except Exception as error:
            if started:
                raise
            await bug(scope["path"], error)(scope, receive, guarded)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.observe(area(scope["path"]), scope["method"], status, seconds)
            logger.info(
                "%s %s", scope["method"], scope["path"], extra={"status": status, "ms": round(seconds * 1e3, 1)}
            )
        await self._put_on_record(scope, status, number)

    async def _admitted(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, when there may be one; who asks, and for what, is noted in the scope. Raises Refused."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        path, method = scope["path"], scope["method"]
        if host_of(headers) not in self._rules.hosts:
            raise Refused(400, "This studio has another name; see the setting WINNOW_HOSTS.")
        if len(path) > LONGEST_PATH or not self.known(method, path):
            raise Refused(404, f"There is nothing at {path[:80]!r}.")
        if not from_our_pages(method, headers):
            raise Refused(403, "This request comes from another site; it was refused.")
        scope["winnow.user"] = user = await self._user(scope, headers)
        body = None if method in SAFE else await _read(receive, headers)
        scope["winnow.act"] = act = self._act(path, method, body or b"")
        if not user.role.covers(act.needs) and not (path == "/metrics" and from_this_machine(scope, headers)):
            raise Refused(403, f"This is for people with the role {act.needs}; {user.name} is {user.role}.")
        if self._rules.signed_in is None:
            return body
        if method not in SAFE and (wait := self._writes.take(user.name or _address(scope))):
            raise _too_many(wait)
        return _overruled(scope, body, user)

    def known(self, method: str, path: str) -> bool:
        """Whether there is anything at all: ours, a page, or a route of Gradio that is not shut."""
        if OURS.fullmatch(path):
            return True
        if method in SAFE:
            return path.rstrip("/") in self._rules.pages or GRADIO_READ.fullmatch(path) is not None
        return path in GRADIO_CALL or path in GRADIO_END

    async def _user(self, scope: Scope, headers: Mapping[bytes, bytes]) -> User:
        if self._rules.signed_in is None:
            return EVERYBODY
        path = scope["path"]
        try:
            user = await run_in_threadpool(self._rules.signed_in, headers)
        except Unwritable as error:  # nobody can be known while the database is away
            raise Refused(503, str(error), {"Retry-After": "5"}) from error
        if user is None:
            if OPEN.fullmatch(path) or (path == "/metrics" and from_this_machine(scope, headers)):
                return User(0, "", Role.REVIEWER, False, 0.0)
            raise _unknown(scope, headers)
        logs.by(user.name)
        if user.one_time and not CHANGE_PASSWORD.fullmatch(path):
            raise _elsewhere(scope, headers, "/account", "Choose a password of your own first, at /account.")
        return user

    def _act(self, path: str, method: str, body: bytes) -> Act:
        if path in GRADIO_CALL:
            function = self._rules.functions.get(_number(body))
            if function is None:
                raise Refused(404, "This page asked for a function that is not here; reload it.")
            return Act(function.name, Role.REVIEWER if function.looks else Role.CURATOR, not function.looks)
        if ADMIN.fullmatch(path):
            return Act(f"{method} {path}", Role.ADMIN, False)  # the page itself writes down what it did
        if method in SAFE or path in GRADIO_END:
            return Act(path, Role.REVIEWER, False)
        needs = Role.REVIEWER if REVIEWING.fullmatch(path) else Role.CURATOR
        return Act(f"{method} {path}", needs, UNCHANGED.fullmatch(path) is None)

    async def _put_on_record(self, scope: Scope, status: int, number: str) -> None:
        """What was done and what was refused. Without sign-in there is one user, and nobody to ask."""
        act, user = scope.get("winnow.act"), scope.get("winnow.user")
        if self._rules.signed_in is None or self._rules.record is None or act is None or status == 429:
            return
        if act.recorded and user is not None and user.name:
            try:
                await run_in_threadpool(self._rules.record, user.name, act.name[:200], status, number)
            except Unwritable as error:  # the answer is on its way; the log has what the trail lacks
                logger.error("not put on record: %s %s: %s", user.name, act.name[:200], error, extra={"status": status})


@dataclass(frozen=True)
class Act:
    """What a request is about to do."""

    name: str
    needs: Role
    recorded: bool


def bug(path: str, error: Exception) -> JSONResponse:
    """A number for the person, and under it the details in the log: it is that of the request."""
    number = logs.request()
    logger.error("bug %s at %s", number, path, exc_info=error)
    return JSONResponse(
        {"error": f"Something went wrong here (report {number}; the server's log has the details)."}, 500
    )


def area(path: str) -> str:
    """The part of the studio that a path belongs to: few, so that figures can be kept for each."""
    first, second = (path.split("/") + ["", ""])[1:3]
    if first == "api":
        return f"api/{second}" if re.fullmatch(r"[a-z]{2,12}", second) else "api"
    if path.startswith(("/gradio_api/queue/data", "/gradio_api/heartbeat")):
        return "stream"  # open as long as the page is
    if first in ("media", "gradio_api", "studio-static"):
        return first
    return "files" if first in ("static", "assets", "svelte") else "pages"


def host_of(headers: Mapping[bytes, bytes]) -> str:
    """The name in the Host header, without its port, in small letters; "" when it is malformed."""
    try:
        parts = urlsplit("//" + headers.get(b"host", b"").decode("ascii"))
        return parts.hostname or "" if parts.port is None or parts.port else ""
    except ValueError:  # no ASCII, or no number for a port
        return ""


def from_our_pages(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request only reads, was sent by no browser, or comes from the host it goes to."""
    if method in SAFE:
        return True
    origin = headers.get(b"origin")
    try:
        same = origin is None or urlsplit(origin).netloc == headers.get(b"host", b"")
    except ValueError:  # a malformed address
        return False
    return same and headers.get(b"sec-fetch-site", b"none") in OWN


def from_this_machine(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Whether somebody on this machine asks, and no proxy on behalf of another."""
    return _address(scope) in LOOPBACK and not any(name in headers for name in FORWARDED)


def _address(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _with_headers(given: Sequence[tuple[bytes, bytes]], scheme: str, number: str) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in given}
    wanted = [*HEADERS, (b"x-request-id", number.encode()), *([HTTPS_ONLY] if scheme == "https" else [])]
    return [*given, *(pair for pair in wanted if pair[0] not in there)]


def _unknown(scope: Scope, headers: Mapping[bytes, bytes]) -> Refused:
    wanted = scope["path"] + ("?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "")
    return _elsewhere(scope, headers, f"/signin?next={quote(wanted, safe='')}", "Sign in first, at /signin.", 401)


def _elsewhere(scope: Scope, headers: Mapping[bytes, bytes], address: str, message: str, status: int = 403) -> Refused:
    """A person is led to the address, a program is told of it."""
    person = scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b"")
    return Refused(303, message, {"location": address}) if person else Refused(status, message)


def _too_many(wait: float) -> Refused:
    return Refused(429, "Too many requests at once; wait a moment.", {"Retry-After": str(math.ceil(wait))})


async def _read(receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
    """The whole body, within bounds of length and time."""
    told = headers.get(b"content-length", b"0")
    if not told.isdigit() or int(told) > MAX_BODY:
        raise Refused(413, f"The request is longer than {MAX_BODY} bytes.")
    try:
        return await asyncio.wait_for(_gathered(receive), BODY_SECONDS)
    except TimeoutError:
        raise Refused(408, f"The request did not arrive within {BODY_SECONDS:.0f} s.") from None


async def _gathered(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The request ended before all of it was here.")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise Refused(413, f"The request is longer than {MAX_BODY} bytes.")
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """The body once more, and then whatever comes: the end of the connection."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _number(body: bytes) -> int:
    """Of the function that Gradio is to call; only a whole number written as one, since Gradio also takes "3" and 3.0."""
    number = _parsed(body, dict).get("fn_index")
    return number if type(number) is int else -1


def _parsed(body: bytes, kind: type) -> Any:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, kind) else kind()


def _overruled(scope: Scope, body: bytes | None, user: User) -> bytes | None:
    """The body (and the query) with the name of who is signed in, whatever name it claimed."""
    path = scope["path"]
    if scope["method"] in SAFE and NAMED_QUERY.fullmatch(path):
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        claimed = [(name, value) for name, value in pairs if name != "reviewer"]
        scope["query_string"] = urlencode([*claimed, ("reviewer", user.name)]).encode()
    elif body and NAMED_BODY.fullmatch(path):
        return _renamed(scope, body, user.name)
    return body


def _renamed(scope: Scope, body: bytes, name: str) -> bytes:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body  # whoever is to read it says what is wrong with it
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            one["reviewer"] = name
            one.pop("was", None)  # the earlier name of somebody who renamed themselves
    renamed = json.dumps(value).encode()
    length = (b"content-length", str(len(renamed)).encode())
    scope["headers"] = [*(pair for pair in scope["headers"] if pair[0] != b"content-length"), length]
    return renamed

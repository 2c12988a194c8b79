"""Signing in: the cookie, the plain pages `/signin` and `/account`, and how often somebody may try.

The cookie is `token.signature`: a random token, of which the store keeps a hash, and an HMAC under the secret of this data
folder, so that a made-up cookie never reaches the database. Ending a session in the store ends it everywhere, at once.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from db.errors import WinnowError
from db.store import Store
from db.users import LONGEST, SESSION_SECONDS, SHORTEST, Role, User, one_time_password
from studio.guard import Bucket
from studio.markup import Html, join, section, table, tag

logger = logging.getLogger(__name__)

COOKIE = "winnow"
WRONG = "That name and password do not go together."
META = Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width">')
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; background: Canvas; color: CanvasText; }
main { max-width: 44em; margin: 8vh auto; padding: 0 20px; } main.narrow { max-width: 22em; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 16px; margin: 32px 0 8px; } p { margin: 0 0 12px; }
label { display: block; margin: 12px 0; } input, select, button { font: inherit; padding: 7px 10px; box-sizing: border-box; }
label input { display: block; width: 100%; margin-top: 3px; } button { cursor: pointer; }
form.line { display: inline-flex; gap: 6px; align-items: center; margin: 0 8px 0 0; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid #8884; }
.told { border-left: 3px solid #c2362b; padding: 4px 12px; } .good { border-left: 3px solid #1a7f4b; padding: 4px 12px; }
code { font-size: 14px; user-select: all; }
"""


class SignIn:
    """Sessions of one store as cookies."""

    def __init__(self, store: Store) -> None:
        self._users = store.users
        self._key = hashlib.sha256(b"session\0" + _secret(store)).digest()

    def user(self, headers: Mapping[bytes, bytes]) -> User | None:
        """Who sends these headers; None for nobody that is signed in."""
        token = self.token(headers)
        return None if token is None else self._users.signed_in(token)

    def token(self, headers: Mapping[bytes, bytes]) -> str | None:
        token, _, signature = _cookie(headers).partition(".")
        return token if hmac.compare_digest(signature.encode(), self._signature(token).encode()) else None

    def open(self, response: Response, user: User, *, https: bool) -> None:
        """Let the browser that gets the response be this user from now on."""
        token = self._users.sign_in(user)
        value = f"{token}.{self._signature(token)}"
        response.set_cookie(
            COOKIE, value, max_age=int(SESSION_SECONDS), secure=https, httponly=True, samesite="strict", path="/"
        )

    def _signature(self, token: str) -> str:
        return hmac.new(self._key, token.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _secret(store: Store) -> bytes:
    """The secret that all machines share, else that of the data folder, made with mode 0600 at the first start. Raises
    WinnowError when others can read it."""
    if store.shared.secret:
        return store.shared.secret.encode()
    path = store.home / "secret"
    if path.stat().st_mode & 0o077:
        raise WinnowError(f"{path} can be read by other users of this machine. Run `chmod 600 {path}` and start again.")
    return path.read_bytes()


def _cookie(headers: Mapping[bytes, bytes]) -> str:
    try:
        found = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


class Attempts:
    """How often a password may be tried: five times a minute for a name, twenty for an address. Nobody is shut out for good."""

    def __init__(self) -> None:
        self._names = Bucket(most=5, per_second=5 / 60)
        self._addresses = Bucket(most=20, per_second=20 / 60)

    def take(self, name: str, address: str) -> float:
        """The seconds to wait; 0 when another try is allowed."""
        return max(self._addresses.take(address), self._names.take(name.strip().casefold()[:200]))

    def forget(self, name: str) -> None:
        """The right password was given."""
        self._names.forget(name.strip().casefold()[:200])


def router(store: Store, sign_in: SignIn) -> APIRouter:
    """The pages of a studio that asks who you are. The gate (`studio/guard.py`) has checked role and origin already."""
    routes = APIRouter()
    _add_signing(routes, store, sign_in, Attempts())
    _add_account(routes, store, sign_in)
    _add_users(routes, store, sign_in)
    return routes


def _add_signing(routes: APIRouter, store: Store, sign_in: SignIn, attempts: Attempts) -> None:
    @routes.get("/signin")
    def ask(next: str = "/") -> Response:
        return _page("Sign in", _form(next), narrow=True)

    @routes.post("/signin")
    async def enter(request: Request) -> Response:
        """Sign in with name and password; an earlier session of this browser ends."""
        given = await _fields(request)
        name, following = given.get("name", ""), _inside(given.get("next", "/"))
        address = request.client.host if request.client else ""
        if wait := attempts.take(name, address):
            seconds = str(math.ceil(wait))
            return _page(
                "Sign in",
                _form(following, f"Too many tries. Wait {seconds} s."),
                429,
                {"Retry-After": seconds},
                narrow=True,
            )
        user = await run_in_threadpool(store.users.checked, name, given.get("password", ""))
        if user is None:
            logger.warning("wrong password for %r from %s", name[:60], address)
            return _page("Sign in", _form(following, WRONG), 401, narrow=True)
        attempts.forget(name)
        return await run_in_threadpool(_entered, store, sign_in, request, user, following)

    @routes.post("/signout")
    def leave(request: Request) -> Response:
        """End the session of this browser."""
        token = sign_in.token(dict(request.scope["headers"]))
        if token is not None:
            store.users.sign_out(token)
        response = _see_other("/signin")
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response


def _entered(store: Store, sign_in: SignIn, request: Request, user: User, following: str) -> Response:
    earlier = sign_in.token(dict(request.scope["headers"]))
    if earlier is not None:
        store.users.sign_out(earlier)
    store.users.record(user.name, "signed in", 200)
    response = _see_other("/account" if user.one_time else following)
    sign_in.open(response, user, https=request.url.scheme == "https")
    return response


def _add_account(routes: APIRouter, store: Store, sign_in: SignIn) -> None:
    @routes.get("/account")
    def account(request: Request) -> Response:
        """Who I am, a new password, and for admins everybody else."""
        return _account(store, _me(sign_in, request))

    @routes.get("/api/me")
    def me(request: Request) -> dict[str, Any]:
        """Name and role of who is signed in, for scripts and for the pages."""
        user = _me(sign_in, request)
        return {"name": user.name, "role": str(user.role)}

    @routes.post("/account/password")
    async def password(request: Request) -> Response:
        """Change one's own password: all sessions end but this one."""
        user, given = _me(sign_in, request), await _fields(request)
        return await run_in_threadpool(_changed, store, sign_in, request, user, given)


def _changed(store: Store, sign_in: SignIn, request: Request, user: User, given: Mapping[str, str]) -> Response:
    wanted = given.get("wanted", "")
    try:
        if store.users.checked(user.name, given.get("password", "")) is None:
            raise WinnowError("The present password is another one.")
        if wanted != given.get("again"):
            raise WinnowError("The two new passwords differ.")
        if wanted == given.get("password"):
            raise WinnowError("That is the password you have; choose another one.")
        store.users.set_password(user.name, wanted)
    except WinnowError as error:
        return _account(store, user, str(error), 400)
    response = _see_other("/")
    sign_in.open(response, user, https=request.url.scheme == "https")
    return response


def _add_users(routes: APIRouter, store: Store, sign_in: SignIn) -> None:
    @routes.post("/account/users")
    async def change(request: Request) -> Response:
        """What an admin does with another user: `act` is add, role, password, signout or remove."""
        user, given = _me(sign_in, request), await _fields(request)
        try:
            told = await run_in_threadpool(_administered, store, user, given)
        except WinnowError as error:
            return _account(store, user, str(error), 400)
        return _account(store, user, told, good=True)

    @routes.get("/account/users")
    def again() -> Response:
        """Where a reload leads to: a password is shown once."""
        return _see_other("/account")


def _administered(store: Store, admin: User, given: Mapping[str, str]) -> Html:
    """Do it, put it on record, and say what the admin has to pass on."""
    told = _done_to(store, given)
    store.users.record(admin.name, f"{given['act']} user {given['name']}", 200)
    return told


def _done_to(store: Store, given: Mapping[str, str]) -> Html:
    name, act = given.get("name", ""), given.get("act", "")
    if act == "remove":
        store.users.remove(name)
        return join(name, " can no longer sign in; what they decided stays.")
    if act == "signout":
        return join(name, f" was signed out of {store.users.sign_out_everywhere(name)} browsers.")
    if act == "role":
        store.users.set_role(name, _role(given))
        return join(f"{name} is {_role(given)} from now on, and has to sign in again.")
    password = one_time_password()
    if act == "add":
        store.users.add(name, password, _role(given), one_time=True)
    elif act == "password":
        store.users.set_password(name, password, one_time=True)
    else:
        raise WinnowError(f"No act named {act!r:.40}. Known: add, role, password, signout, remove.")
    told = "; it is shown only now, and has to be changed at the first sign-in."
    return join("Give ", name, " this password: ", tag("code", password), told)


def _role(given: Mapping[str, str]) -> Role:
    try:
        return Role(given.get("role", ""))
    except ValueError:
        raise WinnowError(f"No role named {given.get('role')!r:.40}. Known: {', '.join(Role)}.") from None


def _me(sign_in: SignIn, request: Request) -> User:
    user = sign_in.user(dict(request.scope["headers"]))
    if user is None:  # ended since the gate looked
        raise WinnowError("Sign in first, at /signin.")
    return user


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form, as a browser sends them."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=20))
    except ValueError as error:
        raise WinnowError(f"The form cannot be read: {error}.") from error


def _inside(address: str) -> str:
    """An address of this studio to go on to: a path, never another site."""
    parts = urlsplit(address) if address.isprintable() and "\\" not in address else None
    ours = parts is not None and not parts.scheme and not parts.netloc and address.startswith("/")
    return address if ours and not address.startswith("//") else "/"


def _see_other(address: str) -> Response:
    return RedirectResponse(address, 303, {"Cache-Control": "no-store"})


# Pages


def _page(
    title: str, content: Any, status: int = 200, headers: Mapping[str, str] | None = None, *, narrow: bool = False
) -> Response:
    head = tag("head", META, tag("title", f"Winnow: {title}"), tag("style", Html(STYLE)))
    body = tag("body", tag("main", tag("h1", title), content, class_="narrow" if narrow else None))
    page = join(Html("<!doctype html>"), tag("html", head, body, lang="en"))
    return HTMLResponse(page, status, {"Cache-Control": "no-store", **(headers or {})})


def _form(following: str, told: str = "") -> Html:
    return _post(
        "/signin",
        _told(told),
        _hidden("next", _inside(following)),
        _field("Name", "name", autocomplete="username", autofocus=True),
        _field("Password", "password", type="password", autocomplete="current-password"),
        tag("button", "Sign in", type="submit"),
    )


def _account(store: Store, user: User, told: Any = "", status: int = 200, *, good: bool = False) -> Response:
    lead = f"You are signed in as {user.name}, {user.role}."
    if user.one_time:
        lead += " Choose a password of your own now."
    parts = [
        tag("p", lead),
        _told(told, good=good),
        _post("/signout", tag("button", "Sign out", type="submit"), class_="line"),
        None if user.one_time else tag("a", "To the studio", href="/"),
        section("New password", _password_form(user)),
    ]
    if user.role is Role.ADMIN and not user.one_time:
        parts += [section("People", _people(store, user), _new_user()), section("What was done", _trail(store))]
    return _page("Account", parts, status)


def _password_form(user: User) -> Html:
    return _post(
        "/account/password",
        _input(type="text", name_="name", value=user.name, autocomplete="username", hidden=True),
        _field("Present password", "password", type="password", autocomplete="current-password"),
        _field(
            f"New password, {SHORTEST} to {LONGEST} characters", "wanted", type="password", autocomplete="new-password"
        ),
        _field("The new one again", "again", type="password", autocomplete="new-password"),
        tag("button", "Change", type="submit"),
    )


def _people(store: Store, me: User) -> Html:
    rows = [(one.name, _roles(one), "you" if one.id == me.id else _acts(one)) for one in store.users.everybody()]
    return table(("name", "role", ""), rows)


def _roles(user: User) -> Html:
    options = [tag("option", role, value=role, selected=role is user.role) for role in Role]
    choice = tag("select", options, name_="role", aria_label=f"Role of {user.name}")
    return _post(
        "/account/users",
        _hidden("act", "role"),
        _hidden("name", user.name),
        choice,
        tag("button", "Set"),
        class_="line",
    )


def _acts(user: User) -> Html:
    named = {"password": "New password", "signout": "Sign out", "remove": "Remove"}
    return join(
        _post("/account/users", _hidden("act", act), _hidden("name", user.name), tag("button", title), class_="line")
        for act, title in named.items()
    )


def _new_user() -> Html:
    roles = tag("select", [tag("option", role, value=role) for role in Role], name_="role", aria_label="Role")
    name = _input(name_="name", placeholder="name", aria_label="Name", required=True)
    return _post("/account/users", _hidden("act", "add"), name, roles, tag("button", "Add"), class_="line")


def _trail(store: Store) -> Html:
    rows = [
        (time.strftime("%d %b %H:%M", time.localtime(deed.at)), deed.actor, deed.action, str(deed.status))
        for deed in store.users.trail(limit=50)
    ]
    return table(("when", "who", "what", "answer"), rows) if rows else tag("p", "Nothing yet.")


def _told(text: Any, *, good: bool = False) -> Html | None:
    return tag("p", text, class_="good" if good else "told", role="status") if text else None


def _post(address: str, *content: Any, class_: str | None = None) -> Html:
    return tag("form", *content, method="post", action=address, class_=class_)


def _field(label: str, name: str, **attributes: Any) -> Html:
    return tag("label", label, _input(name_=name, required=True, **attributes))


def _hidden(name: str, value: str) -> Html:
    return _input(type="hidden", name_=name, value=value)


def _input(**attributes: Any) -> Html:
    return Html(tag("input", **attributes).removesuffix("</input>"))

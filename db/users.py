"""Who may sign in, as what, and who is signed in: names, scrypt hashes of passwords, sessions, and a trail of what they did.

A password is never kept, and neither is the token of a session: of both there is a hash only, so that a stolen copy of
the database opens no door.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from db import schema
from db.database import Database
from db.errors import NotFound, WinnowError

SESSION_SECONDS = 7 * 86400.0  # no shorter limit of idleness: a clock that jumps a day must not throw everybody out
SCRYPT = {"n": 2**15, "r": 8, "p": 1}  # 32 MiB and about a tenth of a second for each guess
SCRYPT_MEMORY = 2**26
SHORTEST, LONGEST = 12, 200  # characters of a password
LONGEST_NAME = 60

a, s, t = (table.c for table in (schema.account, schema.session, schema.trail))


class Role(StrEnum):
    """What a person may do; each may do all that those before it may."""

    REVIEWER = "reviewer"
    CURATOR = "curator"
    ADMIN = "admin"

    def covers(self, other: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class User:
    """`one_time` says that the password was given by somebody else, and has to be changed before anything else."""

    id: int
    name: str
    role: Role
    one_time: bool
    created_at: float


@dataclass(frozen=True, slots=True)
class Deed:
    """One line of the trail. `request` is the id under which the log of the server has it; the status is HTTP's."""

    id: int
    at: float
    actor: str
    action: str
    status: int
    request: str


class Users:
    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._db, self._now = database, clock

    # Accounts

    def everybody(self) -> list[User]:
        """All users, by name."""
        with self._db.read() as connection:
            return [_user(row) for row in connection.execute(select(schema.account).order_by(a.name))]

    def add(self, name: str, password: str, role: Role, *, one_time: bool = False) -> User:
        """Raises WinnowError for a name that is taken or odd, and for a password that is too short."""
        named = _proper(name)
        values = {"name": named, "role": str(role), "password": _hashed(password), "one_time": one_time}
        with self._db.write() as connection:
            if named in connection.execute(select(a.name)).scalars():
                raise WinnowError(f"There is a user named {named!r} already.")
            row = insert(schema.account).values(**values, created_at=self._now()).returning(*schema.account.c)
            return _user(connection.execute(row).one())

    def remove(self, name: str) -> None:
        """Their verdicts stay. Raises WinnowError for the last admin."""
        with self._db.write() as connection:
            user = _required(connection, name)
            _keep_an_admin(connection, user)
            connection.execute(delete(schema.account).where(a.id == user.id))

    def set_role(self, name: str, role: Role) -> None:
        """Signs them out everywhere. Raises WinnowError for the last admin."""
        with self._db.write() as connection:
            user = _required(connection, name)
            if role is not Role.ADMIN:
                _keep_an_admin(connection, user)
            connection.execute(update(schema.account).where(a.id == user.id).values(role=str(role)))
            connection.execute(delete(schema.session).where(s.account_id == user.id))

    def set_password(self, name: str, password: str, *, one_time: bool = False) -> None:
        """Signs them out everywhere. Raises WinnowError for a password that is too short."""
        hashed = _hashed(password)
        with self._db.write() as connection:
            user = _required(connection, name)
            values = {"password": hashed, "one_time": one_time}
            connection.execute(update(schema.account).where(a.id == user.id).values(**values))
            connection.execute(delete(schema.session).where(s.account_id == user.id))

    def first_admin(self) -> str | None:
        """The one-time password of a new user "admin", when there is nobody yet; else None."""
        if self.everybody():
            return None
        password = one_time_password()
        self.add("admin", password, Role.ADMIN, one_time=True)
        return password

    def checked(self, name: str, password: str) -> User | None:
        """The user whose password this is. Takes as long for a name that nobody has."""
        with self._db.read() as connection:
            row = connection.execute(select(schema.account).where(a.name == _normal(name))).one_or_none()
        right = _matches(password, NOBODY if row is None else row.password)
        return _user(row) if row is not None and right else None

    # Sessions

    def sign_in(self, user: User) -> str:
        """A new session of a user: the token for their browser, of which only a hash is kept."""
        token, now = secrets.token_urlsafe(32), self._now()
        values = {"digest": _digest(token), "account_id": user.id, "created_at": now, "until": now + SESSION_SECONDS}
        with self._db.write() as connection:
            connection.execute(delete(schema.session).where(s.until < now))
            connection.execute(insert(schema.session).values(**values))
        return token

    def signed_in(self, token: str) -> User | None:
        """Whose session this is; None when it ended or never was."""
        query = select(schema.account).join(schema.session, s.account_id == a.id)
        with self._db.read() as connection:
            row = connection.execute(query.where(s.digest == _digest(token), s.until >= self._now())).one_or_none()
        return None if row is None else _user(row)

    def sign_out(self, token: str) -> None:
        with self._db.write() as connection:
            connection.execute(delete(schema.session).where(s.digest == _digest(token)))

    def sign_out_everywhere(self, name: str) -> int:
        """How many sessions ended."""
        with self._db.write() as connection:
            user = _required(connection, name)
            return connection.execute(delete(schema.session).where(s.account_id == user.id)).rowcount

    # Trail

    def record(self, actor: str, action: str, status: int, request: str = "") -> None:
        """Put on record what somebody did. Nothing of it is ever changed: the database refuses."""
        values = {"at": self._now(), "actor": actor, "action": action, "status": status, "request": request}
        with self._db.write() as connection:
            connection.execute(insert(schema.trail).values(**values))

    def trail(self, *, actor: str | None = None, limit: int = 200) -> list[Deed]:
        """The latest deeds, newest first."""
        query = select(schema.trail).order_by(t.id.desc()).limit(limit)
        if actor is not None:
            query = query.where(t.actor == actor)
        with self._db.read() as connection:
            return [Deed(**row._mapping) for row in connection.execute(query)]


def one_time_password() -> str:
    """For somebody to sign in with once: 80 bits, in letters that are not taken for one another."""
    text = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    return "-".join(text[i : i + 4] for i in range(0, 16, 4))


def _user(row: Row[Any]) -> User:
    return User(row.id, row.name, Role(row.role), row.one_time, row.created_at)


def _required(connection: Connection, name: str) -> User:
    rows = connection.execute(select(schema.account).order_by(a.name)).all()
    found = next((row for row in rows if row.name == _normal(name)), None)
    if found is None:
        raise NotFound("user", name, [row.name for row in rows])
    return _user(found)


def _keep_an_admin(connection: Connection, leaving: User) -> None:
    others = select(func.count()).where(a.role == str(Role.ADMIN), a.id != leaving.id)
    if leaving.role is Role.ADMIN and not connection.execute(others).scalar_one():
        raise WinnowError(f"{leaving.name} is the only admin. Make somebody else an admin first.")


def _normal(name: str) -> str:
    """One spelling for what looks the same: composed characters, no capitals."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _proper(name: str) -> str:
    normal = _normal(name)
    if not 1 <= len(normal) <= LONGEST_NAME or not all(one.isalnum() or one in "._-@" for one in normal):
        raise WinnowError(
            f"{name!r:.80} cannot be the name of a user: 1 to {LONGEST_NAME} letters and digits, and . _ - @ between them."
        )
    return normal


# Passwords: "n$r$p$salt$hash", the numbers decimal, the rest hexadecimal


def _hashed(password: str) -> str:
    if not SHORTEST <= len(password) <= LONGEST:
        raise WinnowError(f"A password of {len(password)} characters; it has {SHORTEST} to {LONGEST}.")
    salt = secrets.token_bytes(16)
    numbers = "$".join(str(SCRYPT[name]) for name in "nrp")
    return f"{numbers}${salt.hex()}${_scrypt(password, salt, **SCRYPT).hex()}"


def _matches(password: str, hashed: str) -> bool:
    *numbers, salt, expected = hashed.split("$")
    n, r, p = map(int, numbers)
    found = _scrypt(password[:LONGEST], bytes.fromhex(salt), n=n, r=r, p=p)
    return hmac.compare_digest(found, bytes.fromhex(expected)) and len(password) <= LONGEST


def _scrypt(password: str, salt: bytes, *, n: int, r: int, p: int) -> bytes:
    text = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=SCRYPT_MEMORY, dklen=32)


NOBODY = "$".join([*(str(SCRYPT[name]) for name in "nrp"), "00" * 16, "00" * 32])  # no password has this hash


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()

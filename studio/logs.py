"""The log of the server and of the workers: lines for people, or one JSON object a line for machines (`WINNOW_LOG=json`).

Every line carries the id of the request or click it belongs to, and the run where the caller names it (`extra={"run": 5}`), as a
worker does in all it says of a run, and the studio when it queues one: from a request one finds its runs, and from a run its lines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

import msgspec

from db.errors import WinnowError

KINDS = ("text", "json")
EXTRA = ("run", "shard", "status", "ms")
_request: ContextVar[str] = ContextVar("request", default="")
_person: ContextVar[str] = ContextVar("person", default="")


@contextmanager
def within(request: str) -> Iterator[str]:
    """All that is logged in the block belongs to this request, whose person is known when it is one already."""
    person = _person.get() if request == _request.get() else ""
    before, nobody = _request.set(request), _person.set(person)
    try:
        yield request
    finally:
        _request.reset(before)
        _person.reset(nobody)


def request() -> str:
    """The id of the request that is being answered; "" outside of one."""
    return _request.get()


def by(person: str) -> None:
    """From here on the request is known to be this person's."""
    _person.set(person)


class Json(logging.Formatter):
    """One object a line: at (POSIX seconds), level, logger, message, and what is known of request, person, run and error."""

    def format(self, record: logging.LogRecord) -> str:
        known: dict[str, str | int | None] = {"request": _request.get(), "person": _person.get()}
        known |= {name: getattr(record, name, None) for name in EXTRA}
        known["error"] = self.formatException(record.exc_info) if record.exc_info else None
        line: dict[str, Any] = {"at": record.created, "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage()} | {
            name: value for name, value in known.items() if value not in (None, "")
        }
        return msgspec.json.encode(line, enc_hook=str).decode()


class Text(logging.Formatter):
    """Level, logger, message; the request and the run in brackets."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Line breaks in what came from outside are shown, not made: nobody writes a line of the log but the program."""
        record.message = record.message.replace("\r", "\\r").replace("\n", "\\n")
        run = f"run {record.run}" if hasattr(record, "run") else ""
        known = ", ".join(filter(None, (_request.get(), run)))
        return f"{super().formatMessage(record)} [{known}]" if known else super().formatMessage(record)


def set_up(kind: str, stream: TextIO = sys.stderr) -> None:
    """Have the whole process log in this way; as JSON also every request. Raises WinnowError for an unknown kind."""
    if kind not in KINDS:
        raise WinnowError(f"The setting log is {kind!r}; it is one of {', '.join(KINDS)}.")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Json() if kind == "json" else Text())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for ours in ("db", "engine", "studio"):
        logging.getLogger(ours).setLevel(logging.INFO if kind == "json" else logging.WARNING)

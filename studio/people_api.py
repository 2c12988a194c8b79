"""The routes of the people who review, `/api/people/...`: the whole trail to take away, and the share that is decided twice."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict

from db.records import Verdict
from db.store import Store
from studio.api import Route, RowId, answer, from_our_pages

COLUMNS = ("id", "at", "reviewer", "candidate_id", "decision", "reason", "undoes", "act", "op_id", "edit")


class Share(BaseModel):
    model_config = ConfigDict(extra="forbid")
    dataset: RowId
    share: float


def router(store: Store) -> APIRouter:
    routes = APIRouter(prefix="/api/people", route_class=Route)

    @routes.get("/trail.csv")
    def as_csv(dataset: Annotated[RowId, Query()]) -> Response:
        """Every verdict on a data set, newest first, one a line; times are POSIX seconds."""
        store.datasets.get(dataset)
        return _download(_lines(store.people.whole_trail(dataset)), "text/csv; charset=utf-8", f"trail-{dataset}.csv")

    @routes.get("/trail.json")
    def as_json(dataset: Annotated[RowId, Query()]) -> Response:
        """The same as a JSON list."""
        store.datasets.get(dataset)
        return _download(_listed(store.people.whole_trail(dataset)), "application/json", f"trail-{dataset}.json")

    @routes.post("/double", dependencies=[Depends(from_our_pages)])
    def double(wanted: Share) -> Response:
        """Have a share of the candidates decided by two people. Answers how many wait for their second look now."""
        store.datasets.get(wanted.dataset)
        return answer({"waiting": store.people.set_double_share(wanted.dataset, wanted.share)})

    return routes


def _download(parts: Iterable[str], kind: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(iter(parts), media_type=kind, headers=headers)


def _lines(verdicts: Iterable[Verdict]) -> Iterator[str]:
    yield _line(COLUMNS)
    for verdict in verdicts:
        values = msgspec.structs.asdict(verdict) | {"decision": str(verdict.decision)}
        values["edit"] = "" if verdict.edit is None else msgspec.json.encode(verdict.edit).decode()
        yield _line(_harmless(values[name]) for name in COLUMNS)


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula is marked as a text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()


def _listed(verdicts: Iterable[Verdict]) -> Iterator[str]:
    before = "["
    for verdict in verdicts:
        yield before + msgspec.json.encode(verdict).decode()
        before = ",\n"
    yield "[]" if before == "[" else "]"

"""Saved views: what somebody was looking for, under a name."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Row, delete, select

from db import schema
from db.database import Database
from db.dialects import insert
from db.errors import NotFound, WinnowError
from db.records import Record

w = schema.saved_view.c


class View(Record, frozen=True, kw_only=True):
    """`query` is what stands in the address of the page after the question mark."""

    id: int
    dataset_id: int
    name: str
    query: str
    created_at: float


class Views:
    def __init__(self, database: Database) -> None:
        self._db = database

    def save(self, dataset_id: int, name: str, query: str) -> View:
        """Keep a view; one of the same name is replaced. Raises WinnowError for an empty name."""
        name = name.strip()
        if not name:
            raise WinnowError("A view needs a name.")
        values = {"dataset_id": dataset_id, "name": name, "query": query, "created_at": time.time()}
        statement = insert(schema.saved_view).values(values)
        keep = statement.on_conflict_do_update(
            index_elements=["dataset_id", "name"], set_={"query": query, "created_at": values["created_at"]}
        )
        with self._db.write() as connection:
            return _view(connection.execute(keep.returning(schema.saved_view)).one())

    def listed(self, dataset_id: int) -> list[View]:
        """By name."""
        query = select(schema.saved_view).where(w.dataset_id == dataset_id).order_by(w.name)
        with self._db.read() as connection:
            return [_view(row) for row in connection.execute(query)]

    def remove(self, view_id: int) -> None:
        """Raises NotFound."""
        with self._db.write() as connection:
            if not connection.execute(delete(schema.saved_view).where(w.id == view_id)).rowcount:
                raise NotFound("saved view", view_id)


def _view(row: Row[Any]) -> View:
    return View(**row._mapping)

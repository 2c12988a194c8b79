"""The database file: built by migrations, backed up before they run, left alone when it is not ours."""

from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from db import schema
from db.database import Database, journal_mode, sqlite_module
from db.errors import WinnowError
from db.migrate import migrate
from db.store import Store


def connect(path: Path) -> Any:
    return create_engine(f"sqlite:///{path}", module=sqlite_module()).connect()


def test_migrating_an_empty_file_gives_exactly_the_schema(tmp_path: Path) -> None:
    migrate(tmp_path / "w.db")
    with connect(tmp_path / "w.db") as connection:
        context = MigrationContext.configure(connection, opts={"include_name": known_to_us})
        assert compare_metadata(context, schema.metadata) == []


def known_to_us(name: str | None, kind: str, _parents: Any) -> bool:
    """The search index and its shadow tables are SQLite's own."""
    return not (kind == "table" and str(name).startswith("candidate_text"))


def test_a_newer_file_and_a_file_of_another_kind_are_refused_untouched(tmp_path: Path) -> None:
    migrate(tmp_path / "newer.db")
    with connect(tmp_path / "newer.db") as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    (tmp_path / "garbage.db").write_bytes(b"not a database" * 99)
    for name, words in (("newer", "newer Winnow"), ("garbage", "not a Winnow database")):
        before = (tmp_path / f"{name}.db").read_bytes()
        with pytest.raises(WinnowError, match=words):
            migrate(tmp_path / f"{name}.db")
        assert (tmp_path / f"{name}.db").read_bytes() == before


def test_decisions_are_written_through_to_the_disk(store: Store) -> None:
    with store._database.write() as connection:
        asked = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "foreign_keys")
        }
    assert asked == {"synchronous": 2, "foreign_keys": 1}


@pytest.mark.parametrize(
    ("version", "mode"),
    [((3, 40, 1), "TRUNCATE"), ((3, 51, 2), "TRUNCATE"), ((3, 51, 3), "WAL"), ((3, 50, 7), "WAL"), ((3, 53, 4), "WAL")],
)
def test_wal_only_without_the_wal_reset_bug(version: tuple[int, ...], mode: str) -> None:
    assert journal_mode(version) == mode


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    migrate(tmp_path / "w.db")
    database = Database(tmp_path / "w.db")
    values = {"name": "p", "version": 1, "rules": b"[]", "created_at": 0.0}
    with pytest.raises(RuntimeError), database.write() as connection:
        connection.execute(schema.policy.insert().values(values))
        raise RuntimeError
    with database.read() as connection:
        assert connection.execute(schema.policy.select()).all() == []

"""Migrations from every released schema, killed at every statement: nothing is lost, and the next start ends them."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from faults import Broken, Fork, must_fail_without, promised
from sqlalchemy import Engine, event

import db.migrate
from db.database import sqlite_module
from db.errors import WinnowError
from db.migrate import migrate, schema_of
from db.store import Store

RELEASED = [script.revision for script in ScriptDirectory.from_config(db.migrate._config()).walk_revisions()][::-1]
OLDER = RELEASED[:-1]
ROWS = 4
KEPT = ("alembic_version", "tally")  # not ours to fill
WORDS = {"decision": "accept", "kind": "instance", "state": "done", "human": "accept", "split": "train"}
Content = dict[str, tuple[int, str]]


def connect(path: Path) -> Any:
    return sqlite_module().connect(path)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A database of every older schema, with rows in every table."""
    folder = tmp_path_factory.mktemp("released")
    return {revision: build(folder / f"{revision}.db", revision) for revision in OLDER}


def build(path: Path, revision: str) -> Path:
    with db.migrate._alone(path) as connection:
        config = db.migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    filled = connect(path)
    for table in tables(filled):
        columns = filled.execute(f"PRAGMA table_info({table})").fetchall()
        parents = {column: parent for _, _, parent, column, *_ in filled.execute(f"PRAGMA foreign_key_list({table})")}
        names = [column[1] for column in columns]
        for number in range(1, ROWS + 1):
            row = [
                1 if name == "after_id" else value(name, kind, number, name in parents) for _, name, kind, *_ in columns
            ]
            filled.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", row)
    assert filled.execute("PRAGMA foreign_key_check").fetchall() == []
    filled.commit()
    filled.close()
    return path


def value(name: str, kind: str, number: int, points: bool) -> Any:
    if name in WORDS:
        return WORDS[name]
    if kind.startswith("BLOB"):
        return b"{}"
    if kind.startswith("TEXT"):
        return str(number) if points else f"{name} {number}"
    return number / 2 if kind.startswith("FLOAT") else number


def tables(connection: Any) -> list[str]:
    """Ours, parents before children as far as their names say it; keys are not checked while they are filled. The tally is kept
    by triggers."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%' ORDER BY name"
    names = [name for (name,) in connection.execute(query)]
    return [name for name in names if not name.startswith(("sqlite_", "candidate_text")) and name not in KEPT]


def content(path: Path, columns: dict[str, list[str]]) -> Content:
    """Rows and their digest, of these columns of these tables."""
    connection = connect(path)
    found = {}
    for table, names in columns.items():
        rows = connection.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1, 2").fetchall()
        found[table] = (len(rows), hashlib.sha256(repr(rows).encode()).hexdigest())
    connection.close()
    return found


def columns_of(path: Path) -> dict[str, list[str]]:
    connection = connect(path)
    found = {t: [row[1] for row in connection.execute(f"PRAGMA table_info({t})")] for t in tables(connection)}
    connection.close()
    return found


def migrate_until(path: Path, statement: int) -> None:
    """Migrate, and kill this process at that statement."""
    count = 0

    @event.listens_for(Engine, "before_cursor_execute")
    def killed(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    migrate(path)


def statements(path: Path) -> int:
    """How many statements a migration of a copy of this file takes."""
    copy = Path(shutil.copy(path, path.with_suffix(".counted")))
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    event.listen(Engine, "before_cursor_execute", counted)
    migrate(copy)
    event.remove(Engine, "before_cursor_execute", counted)
    return count


@pytest.mark.parametrize("revision", OLDER)
def test_every_released_schema_is_migrated_with_all_its_rows(
    released: dict[str, Path], tmp_path: Path, revision: str
) -> None:
    old = Path(shutil.copy(released[revision], tmp_path / "winnow.db"))
    columns = columns_of(old)
    before = content(old, columns)
    Store(tmp_path).close()
    assert content(old, columns) == before
    assert schema_of(old) == RELEASED[-1]
    kept = tmp_path / f"winnow.db.before-{RELEASED[-1]}"
    assert content(kept, columns) == before and schema_of(kept) == revision


def sweep(source: Path, folder: Path, step: int) -> None:
    columns = columns_of(source)
    before, revision, total = content(source, columns), schema_of(source), statements(source)
    for statement in range(1, total + 1, step):
        path = Path(shutil.copy(source, folder / "winnow.db"))
        assert Fork(lambda path=path, n=statement: migrate_until(path, n)).wait() == -signal.SIGKILL
        promised(
            schema_of(path) in (revision, RELEASED[-1]), f"{schema_of(path)} after a kill at statement {statement}"
        )
        promised(content(path, columns) == before, f"rows are lost by a kill at statement {statement}")
        try:
            migrate(path)
        except Exception as error:
            raise Broken(f"the start after a kill at statement {statement} fails: {error!r:.300}") from error
        assert content(path, columns) == before and schema_of(path) == RELEASED[-1]
        for left in folder.iterdir():
            left.unlink()
    assert total > 3  # the last step alone, its begin and its version among them


@must_fail_without("one transaction")
def test_a_migration_that_is_killed_is_ended_by_the_next_start(released: dict[str, Path], tmp_path: Path) -> None:
    sweep(released[OLDER[0]], tmp_path, step=19)


@pytest.mark.fault
@pytest.mark.parametrize("revision", OLDER)
def test_migrations_from_every_release_are_killed_at_every_statement(
    released: dict[str, Path], tmp_path: Path, revision: str
) -> None:
    sweep(released[revision], tmp_path, step=1)


@must_fail_without("the copy before")
def test_a_migration_keeps_a_copy_that_opens(released: dict[str, Path], tmp_path: Path) -> None:
    old = Path(shutil.copy(released[OLDER[-1]], tmp_path / "winnow.db"))
    migrate(old)
    copy = tmp_path / f"winnow.db.before-{RELEASED[-1]}"
    promised(copy.is_file(), "there is no copy of the database as it was")
    assert schema_of(copy) == OLDER[-1]


def migrate_beside(path: Path, started: Path) -> None:
    """Migrate, and wait before the first table for another process to come as far, which it never does when they take turns."""

    @event.listens_for(Engine, "before_cursor_execute")
    def met(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        mine = started / str(os.getpid())
        if statement.lstrip().startswith("CREATE TABLE") and not mine.exists():
            mine.touch()
            for _ in range(100):
                if len(list(started.iterdir())) > 1:
                    return
                time.sleep(0.02)

    migrate(path)


@must_fail_without("one transaction")
def test_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    """As a web server and its worker do on an empty folder."""
    path, started = tmp_path / "winnow.db", tmp_path / "started"
    started.mkdir()
    codes = [fork.wait() for fork in [Fork(lambda: migrate_beside(path, started)) for _ in range(4)]]
    promised(codes == [0] * 4, f"exit codes {codes}")
    assert schema_of(path) == RELEASED[-1]


def test_bytes_that_were_turned_are_never_taken_for_sound_without_notice(
    released: dict[str, Path], tmp_path: Path
) -> None:
    """A damaged header is refused in words; the file stays as it is."""
    source = released[OLDER[-1]].read_bytes()
    for at in range(16):
        path = tmp_path / f"{at}.db"
        path.write_bytes(source[:at] + bytes([source[at] ^ 0xFF]) + source[at + 1 :])
        before = path.read_bytes()
        with pytest.raises(WinnowError, match="not a Winnow database"):
            migrate(path)
        assert path.read_bytes() == before

"""What is looked at before a studio starts: it refuses with the remedy, and leaves everything as it was."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import candidates, leased, small_document
from faults import Broken, Fork, must_fail_without, promised, wait_for
from sqlalchemy import exc

from db import database
from db.database import Database
from db.errors import WinnowError
from db.queries import Queue
from db.store import Store
from studio import folder, serve
from studio.folder import alone
from studio.settings import settings

DATABASE = "winnow.db"
PAGE = 4096  # bytes, of SQLite's files


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("template")
    store = Store(place / "home")
    dataset = store.datasets.import_document(small_document(place / "files", images=2), "small")
    candidates(store, dataset.id, leased(store, dataset.id), 30)
    store.close()
    return place / "home"


# Two studios


def hold(home: Path, ready: Path) -> None:
    with alone(home):
        ready.touch()
        time.sleep(60)


@must_fail_without("one studio for a folder")
def test_a_second_studio_is_refused_until_the_first_is_gone_however_it_went(tmp_path: Path) -> None:
    first = Fork(lambda: hold(tmp_path / "home", tmp_path / "ready"))
    try:
        assert wait_for((tmp_path / "ready").exists)
        with pytest.raises(WinnowError, match=f"process {first.pid} on .*WINNOW_HOME"), alone(tmp_path / "home"):
            raise Broken("two studios serve one folder")
    finally:
        assert first.kill() == -signal.SIGKILL
    with alone(tmp_path / "home"):
        pass


@pytest.mark.parametrize("worker", [True, False])
def test_the_folder_is_held_as_long_as_the_studio_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: bool
) -> None:
    seen: list[str] = []

    def served(given: dict[str, object], *_: object) -> None:
        with pytest.raises(WinnowError, match="Another studio"), alone(Path(str(given["home"]))):
            pass
        seen.append("held")

    monkeypatch.setattr(serve, "_serve_web", served)
    monkeypatch.setattr(serve, "beside", lambda given: alone(tmp_path / "worker"))
    serve.serve(settings({"home": str(tmp_path / "home"), "port": 0}, {}), worker=worker)
    assert seen == ["held"] and (tmp_path / "worker").exists() == worker
    with alone(tmp_path / "home"):
        pass


# Where it lies


@pytest.mark.parametrize("system", sorted(folder.NETWORK_SYSTEMS))
@must_fail_without("no network file system")
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(folder, "file_system", lambda path: system)
    try:
        with alone(tmp_path / "home"):
            raise Broken(f"a studio starts on {system}")
    except WinnowError as error:
        assert system in str(error) and "WINNOW_HOME" in str(error)
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WinnowError, match="cannot be made"), alone(tmp_path / "home"):
        pass
    with pytest.raises(WinnowError, match="chmod"), alone(tmp_path):
        pass


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("mine")
    with pytest.raises(WinnowError, match="cannot be made"), alone(tmp_path / "home"):
        pass
    assert (tmp_path / "home").read_text() == "mine"


# SQLite


def test_a_library_with_the_wal_reset_bug_gets_a_rollback_journal_and_says_so(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = shutil.copytree(template, tmp_path / "home")
    monkeypatch.setattr(database.sqlite, "sqlite_version_info", (3, 40, 1))
    with caplog.at_level(logging.WARNING, "db.database"):
        store = Store(home)
    with store._database.write() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    assert mode == "truncate" and "WAL-reset bug" in caplog.text
    assert len(store.review.page(Queue(dataset_id=1))[0]) > 10
    store.close()


# Damage


def used(home: Path) -> None:
    """Open the store and read all sorts of things. Raises WinnowError."""
    store = Store(home)
    try:
        for dataset in store.datasets.list():
            store.datasets.categories(dataset.id)
            store.datasets.class_histogram(dataset.id)
            store.review.counts(Queue(dataset_id=dataset.id), {})
            found, _ = store.review.page(Queue(dataset_id=dataset.id))
            store.review.candidates([one if isinstance(one, int) else one.id for one in found])
        store.ledger.runs(limit=10)
        store.figures()
    finally:
        store.close()


@pytest.mark.parametrize("pages", [25, pytest.param(100, marks=pytest.mark.fault)])
@must_fail_without("errors in words")
def test_damage_in_any_place_is_told_in_words(template: Path, tmp_path: Path, pages: int) -> None:
    """Pages of the file overwritten at random: whatever cannot be read is told with the remedy."""
    home, chance, told = shutil.copytree(template, tmp_path / "home"), random.Random(0), 0
    whole = (home / DATABASE).read_bytes()
    for number in range(pages):
        at = chance.randrange(len(whole) // PAGE) * PAGE
        (home / DATABASE).write_bytes(whole[:at] + chance.randbytes(PAGE) + whole[at + PAGE :])
        for left in home.glob(f"{DATABASE}-*"):
            left.unlink()
        try:
            used(home)
        except WinnowError as error:
            told += "backup" in str(error)
        except exc.DBAPIError as error:
            raise Broken(f"page {number}: {error!r:.300}") from error
        except Exception:  # noqa: BLE001, S112 (a record that says nothing sensible any more)
            continue
    promised(told > 0, "no damage was noticed")


def test_what_cannot_be_opened_stays_as_it_is(template: Path, tmp_path: Path) -> None:
    home = shutil.copytree(template, tmp_path / "home")
    for data in (b"", b"SQLite format 3\0" + b"\0" * 500, b"PK\x03\x04 a zip" * 99, b"\0" * 4096):
        (home / DATABASE).write_bytes(data)
        if not data:
            continue  # an empty file is a new one
        with pytest.raises(WinnowError, match="backup"):
            Store(home)
        assert (home / DATABASE).read_bytes() == data


def test_no_file_is_made_where_a_database_was_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database" * 99)
    with pytest.raises(WinnowError):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [DATABASE]


def test_a_database_of_the_present_is_opened_and_not_copied(template: Path, tmp_path: Path) -> None:
    home = shutil.copytree(template, tmp_path / "home")
    Store(home).close()
    Database(home / DATABASE).close()
    assert not list(home.glob(f"{DATABASE}.before-*"))

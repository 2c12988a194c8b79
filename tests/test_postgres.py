"""PostgreSQL in place of the SQLite file: the same schema, the same answers, writers in turn, and a server that goes away.

The contract tests of the store run on both: `WINNOW_TEST_DATABASE=postgresql` takes them to a server, see `make test-cluster`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from conftest import candidates, leased, small_document
from fastapi.testclient import TestClient
from servers import Databases, free_port, postgres_server
from sqlalchemy import exc, select, text
from starlette.responses import Response

from db import postgres, schema
from db.backup import backup
from db.database import Database
from db.errors import Busy, Unreachable, WinnowError
from db.migrate import migrate, schema_of
from db.queries import Queue
from db.records import Dataset, NewCandidate, Shard
from db.shared import Shared
from db.store import Store
from db.users import Role
from studio import doctor
from studio.app import create_app
from studio.auth import SignIn


@pytest.fixture
def url(databases: Databases) -> str:
    return databases.fresh("template")


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store on each of them, with a data set."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("url")
    opened = Store(tmp_path / "home", Shared(database_url=url))
    opened.datasets.import_document(small_document(tmp_path / "files", images=3), "small")
    yield opened
    opened.close()


# The schema


def test_a_new_database_has_exactly_the_schema(databases: Databases) -> None:
    url = databases.fresh()
    assert schema_of(url) == ""
    migrate(url)
    with postgres.engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": in_the_metadata})
        assert compare_metadata(context, schema.metadata) == []
    migrate(url)
    assert schema_of(url) > "0006"


def in_the_metadata(_object: Any, name: str | None, _kind: str, _reflected: bool, _other: Any) -> bool:
    """`db/postgres.py` adds an index of words, and lets a phrase come before the one it is a part of."""
    return name not in ("candidate_words", "phrase_parent_id_fkey") and not (
        _kind == "foreign_key_constraint" and name is None
    )


def test_two_that_start_at_once_make_one_schema(databases: Databases) -> None:
    url = databases.fresh()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(migrate, [url, url]))
    assert schema_of(url) > "0006"


def test_a_database_of_others_and_of_a_newer_winnow_are_refused(databases: Databases) -> None:
    others, newer = databases.fresh(), databases.fresh("template")
    for url, statement in (
        (others, "CREATE TABLE run (id int)"),
        (newer, "UPDATE alembic_version SET version_num = '9999'"),
    ):
        with psycopg.connect(url) as connection:
            connection.execute(statement)
    with pytest.raises(WinnowError, match="database of its own"):
        migrate(others)
    assert schema_of(others) == ""
    with pytest.raises(WinnowError, match="newer Winnow"):
        migrate(newer)


@pytest.mark.parametrize("odd", ["sqlite:////tmp/w.db", "mysql://u:hunter2@h/d", "hunter2", "postgres-hunter2:"])
def test_a_url_of_something_else_is_refused_and_not_repeated(odd: str) -> None:
    with pytest.raises(WinnowError, match="right is postgresql://") as told:
        migrate(odd)
    assert "hunter2" not in str(told.value)


def test_the_trail_is_never_changed(url: str) -> None:
    database = Database(url)
    with database.write() as connection:
        connection.execute(schema.trail.insert().values(at=0.0, actor="a", action="b", status=200, request=""))
    for statement in ("UPDATE trail SET actor = 'c'", "DELETE FROM trail", "TRUNCATE trail"):
        with pytest.raises(exc.DBAPIError, match="never changed"), database.write() as connection:
            connection.execute(text(statement))
    database.close()


# The same answers


@pytest.fixture
def texts(either: Store) -> Store:
    """Candidates with pairs of texts."""
    dataset = either.datasets.list()[0]
    shard = leased(either, dataset.id)
    add(either, dataset, shard, TEXTS)
    return either


TEXTS = [
    ("A red mug", "a blue mug"),
    ("Ein Käse-Brot, 3.5 kg", "ein KASE brot"),
    ("left_of the ball", "right of the ball"),
    ("the end of one", "text begins"),
    ("Ångström ﬁne ÉCOLE", None),
    (None, "mugs and mugshots"),
    (None, None),
]


def add(store: Store, dataset: Dataset, shard: Shard, pairs: list[tuple[str | None, str | None]]) -> None:
    ids = candidates(store, dataset.id, shard, 1)
    made = store.review.candidates(ids)[0]
    new = [
        NewCandidate(
            target=f"text:{i}",
            variant=0,
            kind=made.kind,
            image_id=made.image_id,
            seed=i,
            text_before=one,
            text_after=other,
        )
        for i, (one, other) in enumerate(pairs)
    ]
    store.review.add_candidates(shard, new, dataset.id)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("mug", {0, 5}),
        ("MUG blue", {0}),
        ('"red mug"', {0}),
        ('"mug red"', set()),
        ("kas", {1}),
        ('"kase brot"', {1}),
        ("käse", {1}),
        ("left_of", {2}),
        ("left-of", {2}),
        ("3.5", {1}),
        ('"one text"', set()),
        ("one text", {3}),
        ("ecole angstrom", {4}),
        ("' OR 1=1 --", set()),
        ("a & b | !c:*", set()),
    ],
)
def test_words_are_found_alike(texts: Store, asked: str, found: set[int]) -> None:
    ids = texts.review.find(Queue(dataset_id=1, human="any", text=asked)).tolist()
    assert {texts.review.candidate(i).seed for i in ids if texts.review.candidate(i).target.startswith("text")} == found


def test_text_is_ordered_by_its_bytes(either: Store) -> None:
    names = ["b", "B", "a", "ä", "a b", "a-b", "Z", "_", "10", "9"]
    for name in names:
        either.views.save(1, name, "")
    assert [view.name for view in either.views.listed(1)] == sorted(names)


def test_a_nul_is_refused(either: Store) -> None:
    with pytest.raises(WinnowError, match="NUL character"):
        either.views.save(1, "a\0b", "")
    assert either.views.listed(1) == []


def test_numbers_as_large_as_a_seed_may_be_come_back(either: Store) -> None:
    dataset = either.datasets.list()[0]
    shard = leased(either, dataset.id)
    image = either.datasets.images(dataset.id)[0]
    for number, seed in enumerate((2**31, 2**63 - 1)):
        new = NewCandidate(target=str(number), variant=0, kind="instance", image_id=image.id, seed=seed)
        either.review.add_candidates(shard, [new], dataset.id)
    found, _ = either.review.page(Queue(dataset_id=dataset.id), cursor=[0])
    assert [one.seed for one in found] == [2**31, 2**63 - 1]
    assert either.review.page(Queue(dataset_id=dataset.id), cursor=[2**62])[0] == []


# Writers in turn


def test_writers_of_two_machines_take_turns_and_readers_wait_for_nobody(url: str) -> None:
    one, other = Database(url), Database(url)
    order: list[str] = []

    def second() -> None:
        with other.write() as connection:
            order.append("second")
            assert connection.execute(select(schema.policy.c.name)).scalars().all() == ["first"]

    with one.write() as connection:
        connection.execute(schema.policy.insert().values(name="first", version=1, rules=b"[]", created_at=0.0))
        thread = threading.Thread(target=second)
        thread.start()
        with other.read() as reading:
            assert reading.execute(select(schema.policy)).all() == []
        thread.join(0.5)
        assert order == []
    thread.join()
    assert order == ["second"]
    for database in (one, other):
        database.close()


def test_a_reader_sees_one_moment(url: str) -> None:
    database = Database(url)
    with database.read() as connection:
        before = connection.execute(select(schema.policy)).all()
        with database.write() as writing:
            writing.execute(schema.policy.insert().values(name="new", version=1, rules=b"[]", created_at=0.0))
        assert connection.execute(select(schema.policy)).all() == before == []
    database.close()


def test_who_waits_too_long_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres.engine, "__kwdefaults__", {"read_only": False, "lock_seconds": 1})
    one, other = Database(url), Database(url)
    with one.write(), pytest.raises(Busy, match="kept the database locked"), other.write():
        pass
    for database in (one, other):
        database.close()


def test_a_question_that_takes_too_long_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "READ_SECONDS", 1)
    database = Database(url)
    with pytest.raises(Unreachable, match="statement timeout"), database.read() as connection:
        connection.execute(text("SELECT pg_sleep(20)"))
    database.close()


# A server that goes away


def test_a_connection_that_was_cut_is_told_and_the_next_works(url: str) -> None:
    database = Database(url)
    cut = "SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(Unreachable, match="cannot be used now"), database.write() as connection:
        connection.execute(schema.policy.insert().values(name="lost", version=1, rules=b"[]", created_at=0.0))
        connection.exec_driver_sql(cut)
    with database.read() as connection:
        assert connection.execute(select(schema.policy)).all() == []
    database.close()


def test_while_the_server_is_away_it_is_told_without_the_password() -> None:
    with postgres_server() as server:
        url = f"postgresql://winnow:hunter2@127.0.0.1:{server.port}/postgres"
        migrate(url)
        database = Database(url)
        server.stop()
        for use in (database.read, database.write):
            with pytest.raises(Unreachable, match="winnow:\\*\\*\\*@") as told, use():
                pass
            assert "hunter2" not in str(told.value)
        with pytest.raises(Unreachable):
            migrate(url)
        server.start()
        with database.read() as connection:
            assert connection.execute(select(schema.policy)).all() == []
        database.close()


# Looking after it


def test_the_doctor_knows_the_servers(url: str, tmp_path: Path) -> None:
    migrate(url)
    without, nobody = Shared(database_url=url), f"127.0.0.1:{free_port()}"
    well = {one.what: one.ok for one in doctor._server(tmp_path, Shared(database_url=url, secret="s" * 32))}
    assert well == {"database": True, "workers": True}
    assert {one.what for one in doctor._server(tmp_path, without) if not one.ok} == {"secret"}
    away = Shared(database_url=f"postgresql://u:hunter2@{nobody}/d", queue_url=f"redis://:hunter2@{nobody}/0")
    for finding in (*doctor._server(tmp_path, away), *doctor._queue(away)):
        assert not finding.ok and finding.cure and "hunter2" not in finding.seen


def test_a_backup_of_what_is_elsewhere_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    shared = Shared(database_url="postgresql://winnow:hunter2@host/winnow", blobs_url="s3://bucket")
    with pytest.raises(WinnowError, match="pg_dump .*host/winnow") as told:
        backup(tmp_path, tmp_path / "b.zip", shared)
    assert "hunter2" not in str(told.value) and not (tmp_path / "b.zip").exists()


def test_a_short_secret_is_refused_and_none_is_shown() -> None:
    with pytest.raises(WinnowError, match="has 7 characters") as told:
        Shared(secret="hunter2")
    assert "hunter2" not in str(told.value)
    assert "hunter2" not in repr(Shared(database_url="postgresql://u:hunter2@h/d", secret="hunter2" * 5))


def test_a_studio_whose_database_is_away_says_so_to_those_it_cannot_know(tmp_path: Path) -> None:
    with postgres_server() as server:
        shared = Shared(f"postgresql://winnow@127.0.0.1:{server.port}/postgres", secret="s" * 32)
        app = create_app(tmp_path / "home", shared, sign_in=True)
        store = Store(tmp_path / "other", shared)
        user = store.users.add("ann", "a good password", Role.ADMIN)
        response = Response()
        SignIn(store).open(response, user, https=False)
        cookie = {"cookie": response.headers["set-cookie"].partition(";")[0]}
        with TestClient(app, headers=cookie, raise_server_exceptions=False) as client:
            assert client.get("/api/datasets").json() == []
            server.stop()
            answer = client.get("/api/datasets")
            assert answer.status_code == 503 and "cannot be used now" in answer.json()["error"]
            assert answer.headers["Retry-After"]
            server.start()
            assert client.get("/api/datasets").status_code == 200
        store.close()

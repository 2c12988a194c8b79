"""The tally: counters that are kept in the transaction of whatever changes a candidate, and always equal a count."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from conftest import leased
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Databases
from sqlalchemy import Engine, event, select

import db.migrate
import db.review
from db import schema
from db.codec import pack
from db.document import Document
from db.migrate import migrate, schema_of
from db.queries import Queue
from db.records import Category, Decision, Image, Kind, NewCandidate, NewVerdict
from db.shared import Shared
from db.store import Store
from db.verdicts import Together

c = schema.candidate.c
KINDS = (Kind.INSTANCE, Kind.NEGATIVE_TEXT)
DECISIONS = [one for one in Decision if one is not Decision.UNDO]
CLASSES = 3
numbers = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Gives another empty store, on a file or on a server."""
    if request.param == "sqlite":
        return lambda: Store(tmp_path / str(next(numbers)))
    databases: Databases = request.getfixturevalue("databases")
    return lambda: Store(tmp_path, Shared(database_url=databases.fresh("template")))


@pytest.fixture
def filled(new_store: Callable[[], Store]) -> Iterator[Store]:
    """A store with two data sets, three runs, and verdicts of every kind."""
    store = new_store()
    for act, number in ((add_dataset, 0), (add_dataset, 0), (add_run, 5), (add_run, 7), (add_run, 2)):
        act(store, number)
    for number in range(2 * len(DECISIONS)):
        decide(store, 3 * number + number % 5)
    yield store
    store.close()


def ask(store: Store, query: Any) -> list[Any]:
    with store._database.read() as connection:
        return list(connection.execute(query))


def write(store: Store, statement: Any) -> None:
    with store._database.write() as connection:
        connection.execute(statement)


def one_of(store: Store, column: Any, number: int) -> Any:
    """A value of the column, None when the table is empty."""
    values = sorted({row[0] for row in ask(store, select(column))})
    return values[number % len(values)] if values else None


# What happens to candidates. The number picks among what there is; where there is nothing, nothing happens.


def add_dataset(store: Store, number: int) -> None:
    classes = [Category(id=i, name=f"class {i}", source_id=i) for i in range(CLASSES)]
    pictures = [Image(id=i, file_name=f"{i}.jpg", width=64, height=48, source_id=i) for i in range(2)]
    document = Document(format="coco", categories=classes, images=lambda: pictures, boxes=lambda: ())
    store.datasets.import_document(document, f"data set {next(numbers)}")


def add_run(store: Store, number: int) -> None:
    """Candidates of both kinds, of every class and of none; the second delivery of each changes nothing."""
    dataset = one_of(store, schema.dataset.c.id, number)
    if dataset is None:
        return
    shard = leased(store, dataset)
    images = [image.id for image in store.datasets.images(dataset)]
    classes = [*(category.id for category in store.datasets.categories(dataset)), None]
    made = [
        NewCandidate(
            target=f"t{i}",
            variant=0,
            kind=KINDS[i // 3 % 2],
            image_id=images[i % len(images)],
            seed=i,
            category_id=classes[i % len(classes)],
            detail={"strategy": "colour"} if i % 2 else {},
        )
        for i in range(3 + number % 10 if images else 0)
    ]
    assert store.review.add_candidates(shard, made, dataset) == len(made)
    assert store.review.add_candidates(shard, made, dataset) == 0


def decide(store: Store, number: int) -> None:
    candidate = one_of(store, c.id, number)
    if candidate is not None:
        assert store.review.decide([verdict_on(candidate, DECISIONS[number % len(DECISIONS)])])[0].status == "saved"


def verdict_on(candidate: int, decision: str, undoes: str | None = None) -> NewVerdict:
    return NewVerdict(op_id=f"op {next(numbers)}", candidate_id=candidate, decision=Decision(decision), undoes=undoes)


def undo(store: Store, number: int) -> None:
    given = store.review.verdicts(limit=1 + number)
    if given:
        last = given[-1]
        assert store.review.decide([verdict_on(last.candidate_id, "undo", last.op_id)])[0].status == "saved"


def decide_together(store: Store, number: int) -> None:
    ids = [row.id for row in ask(store, select(c.id))]
    verdict = Together(act=f"act {next(numbers)}", decision=DECISIONS[number % len(DECISIONS)], reviewer="ann")
    store.review.decide_all(ids[: number % (len(ids) + 1)], verdict)


def take_back(store: Store, number: int) -> None:
    acts = [row.act for row in ask(store, select(schema.verdict.c.act).where(schema.verdict.c.act.like("act %")))]
    if acts:
        store.review.take_back(acts[number % len(acts)], "bob")


def delete_from(table: Any) -> Callable[[Store, int], None]:
    def delete(store: Store, number: int) -> None:
        write(store, table.delete().where(table.c.id == one_of(store, table.c.id, number)))

    return delete


def move(store: Store, number: int) -> None:
    """Nobody does that yet, and the tally would still be right: many rows and several of its columns in one statement."""
    write(store, schema.candidate.update().where(c.id % 3 == number % 3).values(category_id=None, kind=str(KINDS[0])))


ACTS = (
    *(add_dataset, add_run, add_run, add_run, decide, decide, decide, undo, decide_together, take_back, move),
    *map(delete_from, (schema.candidate, schema.run, schema.category, schema.image, schema.dataset)),
)


def kept(store: Store) -> Counter[tuple[Any, ...]]:
    return Counter({tuple(row[:-1]): row.n for row in ask(store, select(schema.tally))})


def counted(store: Store) -> Counter[tuple[Any, ...]]:
    rows = ask(store, select(c.dataset_id, c.run_id, c.kind, c.category_id, c.human))
    return Counter(
        (*row[:3], -1 if row.category_id is None else row.category_id, "" if row.human is None else row.human)
        for row in rows
    )


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 40)), min_size=4, max_size=12))
def test_whatever_happens_the_tally_equals_a_count(new_store: Callable[[], Store], acts: list[tuple[Any, int]]) -> None:
    store = new_store()
    try:
        for act, number in [(add_dataset, 0), (add_run, 9), *acts]:
            act(store, number)
            assert kept(store) == counted(store), f"after {act.__name__} {number}"
            assert 0 not in kept(store).values()
    finally:
        store.close()


def test_a_write_that_fails_leaves_the_tally_as_it_was(filled: Store) -> None:
    before = kept(filled)
    with pytest.raises(RuntimeError), filled._database.write() as connection:
        connection.execute(schema.candidate.delete())
        assert connection.execute(select(schema.tally)).all() == []
        raise RuntimeError
    assert kept(filled) == counted(filled) == before


# What reads it


def queues() -> list[Queue]:
    datasets, runs, kinds, classes = (None, 1, 99), (None, 1), (None, Kind.INSTANCE, Kind.PAIR), (None, 2)
    humans = ("any", "undecided", *map(str, DECISIONS), "disputed", "")
    return [
        Queue(dataset_id=dataset, run_id=run, kind=kind, category_id=category, human=human)
        for dataset, run, kind, category, human in itertools.product(datasets, runs, kinds, classes, humans)
    ]


def answers(store: Store, queue: Queue) -> tuple[Any, ...]:
    return store.review.counts(queue, {}), store.review.size(queue)


def test_the_counters_say_what_a_count_says(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [*queues(), Queue(dataset_id=1, strategy="colour"), Queue(strategy="colour", human="any")]
    by_tally = [answers(filled, queue) for queue in asked]
    monkeypatch.setattr(db.review, "_tallied", lambda queue, *, human=True: None)
    assert by_tally == [answers(filled, queue) for queue in asked]
    assert {"undecided", "edit", "flag", "skip"} <= set(by_tally[0][0]["human"])
    assert len({size for _, size in by_tally}) > 5


def test_the_counters_are_written_as_before(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, on a file; PostgreSQL never promised an order of the decisions."""
    if not isinstance(filled._database.place, Path):
        pytest.skip("an order only SQLite keeps")
    said = pack(filled.review.counts(Queue(dataset_id=1), {}))
    monkeypatch.setattr(db.review, "_tallied", lambda queue, *, human=True: None)
    assert said == pack(filled.review.counts(Queue(dataset_id=1), {}))


def test_no_candidate_is_counted_for_what_is_kept(filled: Store) -> None:
    heard: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT"):
            heard.append(statement)

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        answers(filled, Queue(dataset_id=1, run_id=1, kind=Kind.INSTANCE, category_id=1))
        assert len(heard) == 2 and not any("candidate" in statement for statement in heard)
        answers(filled, Queue(dataset_id=1, strategy="colour"))
        assert len(heard) == 4 and all("FROM candidate" in statement for statement in heard[2:])
    finally:
        event.remove(Engine, "before_cursor_execute", hear)


ASKED: dict[str, Callable[[Store], Any]] = {
    "counters": lambda store: store.review.counts(Queue(dataset_id=1), {}),
    "how many are left": lambda store: store.review.size(Queue(dataset_id=1)),
    "a verdict": lambda store: store.review.decide([verdict_on(4, "accept")]),
    "the standing decisions": lambda store: store.people.opinions(1),
    "the log": lambda store: store.people.trail(1),
}


@pytest.mark.parametrize("what", ASKED)
def test_ten_times_the_candidates_are_no_more_work(tmp_path: Path, what: str) -> None:
    """In steps of SQLite's machine, which are the same on every computer."""
    store = Store(tmp_path)
    for act, number in ((add_dataset, 0), (add_run, 9), (decide, 0), (decide, 1)):
        act(store, number)
    add_many(store, 200)
    before = steps(store, ASKED[what])
    add_many(store, 2000)
    after = steps(store, ASKED[what])
    store.close()
    assert 0 < after < 1.5 * before, f"{before} steps became {after}"


def add_many(store: Store, count: int) -> None:
    like = ask(store, select(schema.candidate).where(c.id == 3))[0]._mapping
    rows = [{**like, "id": None, "target": f"{next(numbers)}"} for _ in range(count)]
    with store._database.write() as connection:
        connection.execute(schema.candidate.insert(), rows)


def steps(store: Store, asked: Callable[[Store], Any]) -> int:
    """How many steps the database takes for an answer, reading and writing."""
    taken = itertools.count()
    for use in (store._database.read, store._database.write):
        with use() as connection:
            driver: Any = connection.connection.driver_connection
            driver.set_progress_handler(lambda: next(taken) < 0, 1)
    asked(store)
    return next(taken)


# The schema


def to(place: Path | str, revision: str) -> None:
    """Take a database back to an older schema."""
    with db.migrate._alone(place) as connection:
        config = db.migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def test_an_older_database_is_given_a_tally_of_what_it_holds(filled: Store) -> None:
    place, before = filled._database.place, kept(filled)
    to(place, "0007")
    assert schema_of(place) == "0007"
    write(filled, schema.candidate.delete().where(c.id == 1))
    migrate(place)
    assert schema_of(place) >= "0008"
    assert kept(filled) == counted(filled) and kept(filled).total() == before.total() - 1
    for act, number in ((add_run, 6), (decide, 3), (delete_from(schema.run), 1), (delete_from(schema.dataset), 0)):
        act(filled, number)
        assert kept(filled) == counted(filled)


def test_an_upgraded_server_has_exactly_the_schema(databases: Databases) -> None:
    url = databases.fresh("template")
    to(url, "0007")
    migrate(url)
    with db.migrate._engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": only_the_tally})
        assert compare_metadata(context, schema.metadata) == []
    assert made_for_the_tally(url) == made_for_the_tally(databases.fresh("template"))


def only_the_tally(_object: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
    return kind != "table" or name == "tally"


def made_for_the_tally(url: str) -> list[Any]:
    with db.migrate._engine(url).connect() as connection:
        triggers = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE starts_with(tgname, 'tally') ORDER BY 1"
        function = "SELECT prosrc FROM pg_proc WHERE proname = 'winnow_tally'"
        columns = (
            "SELECT column_name, data_type, collation_name, is_nullable FROM information_schema.columns"
            " WHERE table_name = 'tally' ORDER BY ordinal_position"
        )
        found = [list(connection.exec_driver_sql(query)) for query in (triggers, function, columns)]
    assert [len(rows) for rows in found] == [3, 1, 6]
    return found

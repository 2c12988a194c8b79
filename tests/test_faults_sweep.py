"""Every write, sync and rename of what people do: killed there, and without room from there on.

After each of them the store is sound and holds all of an act or nothing, what it names is there, a folder or file outside is
whole or absent, and the act can be done again as if nothing had been.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import candidates, leased, small_document
from faults import Broken, interrupted, must_fail_without, promised, switched_off

from db import formats
from db.backup import backup, restore
from db.database import sqlite_module
from db.errors import WinnowError
from db.records import Decision, Kind, NewCandidate, NewVerdict
from db.store import Store

DATABASE = "winnow.db"
Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a data set, four candidates and a snapshot; beside it a data set to import, and a backup."""
    place = tmp_path_factory.mktemp("template")
    store = Store(place / "home")
    document = small_document(place / "files", images=2)
    dataset = store.datasets.import_document(document, "small")
    candidates(store, dataset.id, leased(store, dataset.id), 4)
    store.snapshots.freeze("frozen", dataset.id, {})
    store.close()
    backup(place / "home", place / "old.zip")
    return place


@dataclass(frozen=True)
class Act:
    """`work` does it in the folder; `made` says whether it is there, all of it, and raises Broken when half of it is."""

    work: Callable[[Path], object]
    made: Callable[[Path], bool]


def opened(work: Callable[[Store, Path], object]) -> Callable[[Path], object]:
    def act(place: Path) -> None:
        store = Store(place / "home")
        try:
            work(store, place)
        finally:
            store.close()

    return act


def _import(store: Store, place: Path) -> None:
    outside = (place / "old.zip").resolve().parent / "files"
    store.datasets.import_document(small_document(outside, images=4), "new")  # two of which are there already


def _imported(place: Path) -> bool:
    found = rows(place / "home" / DATABASE)
    counts = [len([row for row in found["image"] if row[1] == 2]), len(found["box"]) - 4, len(found["dataset"]) - 1]
    promised(counts in ([0, 0, 0], [4, 8, 1]), f"half a data set: {counts}")
    return counts[0] == 4


def _generate(store: Store, place: Path) -> None:
    """What a worker's child and its worker do with a shard."""
    (image, *_) = store.datasets.images(1)
    shard = leased(store, 1)
    for number in range(2):
        digest = store.blobs.put(f"picture {number} of {shard.run_id}".encode() * 100)
        made = NewCandidate(target=f"{number}", variant=0, kind=Kind.INSTANCE, image_id=image.id, seed=0, digest=digest)
        store.review.add_candidates(shard, [made], 1)
    store.ledger.finish_shard(shard)
    store.ledger.conclude(shard.run_id)


def _generated(place: Path) -> bool:
    """A shard may stand half-done: its lease runs out, and another worker repeats it."""
    runs = [row for row in rows(place / "home" / DATABASE)["run"] if "done" in row]
    return len(runs) == 1


def _decide(store: Store, place: Path) -> None:
    given = [NewVerdict(op_id=f"sweep {i}", candidate_id=i, decision=Decision.ACCEPT) for i in (1, 2, 3)]
    store.review.decide(given)


def _decided(place: Path) -> bool:
    found = rows(place / "home" / DATABASE)
    kept = len(found["verdict"])
    promised(kept in (0, 3), f"{kept} of 3 verdicts of one request")
    return kept == 3


def _export(store: Store, place: Path) -> None:
    formats.write(store.snapshots.document(store.snapshots.get("frozen")), place / "out" / "data", "coco")


def _exported(place: Path) -> bool:
    if not (place / "out" / "data").exists():
        return False
    try:
        document = formats.read(place / "out" / "data")
        whole = not document.faults and len(list(document.images())) == 2 and len(list(document.boxes())) == 4
    except WinnowError as error:
        raise Broken(f"half an export: {error}") from error
    promised(whole, f"half an export: {document.faults}")
    return True


def _backed_up(place: Path) -> bool:
    if not (place / "new.zip").exists():
        return False
    restore(place / "new.zip", place / "checked")
    shutil.rmtree(place / "checked")
    return True


def _restored(place: Path) -> bool:
    if not (place / "restored").exists():
        return False
    sound(place / "restored")
    return True


ACTS = {
    "import": Act(opened(_import), _imported),
    "generate": Act(opened(_generate), _generated),
    "decide": Act(opened(_decide), _decided),
    "export": Act(opened(_export), _exported),
    "backup": Act(lambda place: backup(place / "home", place / "new.zip"), _backed_up),
    "restore": Act(lambda place: restore(place / "old.zip", place / "restored"), _restored),
}


def rows(database: Path) -> Rows:
    connection: Any = sqlite_module().connect(database)
    try:
        connection.execute("PRAGMA synchronous=OFF")  # it only looks
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'candidate_text%'"
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in connection.execute(query)}
    finally:
        connection.close()


def sound(home: Path) -> None:
    """Raises Broken when the database is damaged, or names a file that is not there whole."""
    connection: Any = sqlite_module().connect(home / DATABASE)
    try:
        connection.execute("PRAGMA synchronous=OFF")
        (state,) = connection.execute("PRAGMA integrity_check").fetchone()
        promised(state == "ok", f"the database is damaged: {state}")
        orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
        promised(not orphans, f"rows that point to nothing: {orphans[:3]}")
        named = [digest for table in ("image", "candidate", "snapshot") for digest in _digests(connection, table)]
    finally:
        connection.close()
    for digest in named:
        blob = home / "blobs" / digest[:2] / digest
        promised(blob.is_file(), f"a row without its file: {digest}")
    for blob in (home / "blobs").rglob("*"):
        if blob.is_file() and not blob.name.startswith("."):
            promised(hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name, f"half a blob: {blob.name}")


def _digests(connection: Any, table: str) -> list[str]:
    return [digest for (digest,) in connection.execute(f"SELECT digest FROM {table} WHERE digest IS NOT NULL")]


def fresh(template: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    shutil.copytree(template / "home", place / "home")
    (place / "old.zip").symlink_to(template / "old.zip")
    return place


def sweep(template: Path, place: Path, act: Act, how: str, step: int) -> None:
    total = interrupted(fresh(template, place), lambda: act.work(place), 0, how)
    assert total > 5 and act.made(place)
    for at in range(1, total + 1, step):
        fresh(template, place)
        interrupted(place, lambda: act.work(place), at, how)
        sound(place / "home")
        if how == "full":
            left = list(place.rglob(".*"))
            promised(not left, f"without room at step {at}, {left} was left behind")
        if not act.made(place):
            again = interrupted(place, lambda: act.work(place), 0, how)
            promised(again > 0 and act.made(place), f"after a fault at step {at} it cannot be done again")
        sound(place / "home")


@pytest.mark.parametrize(
    ("name", "how", "step"),
    [
        ("import", "kill", 11),
        ("export", "full", 11),
        *(pytest.param(name, how, 1, marks=pytest.mark.fault) for name in ACTS for how in ("kill", "full")),
    ],
)
def test_wherever_it_is_interrupted_all_of_it_is_there_or_nothing(
    template: Path, tmp_path: Path, name: str, how: str, step: int
) -> None:
    sweep(template, tmp_path / "place", ACTS[name], how, step)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("name", "protection"),
    [
        ("import", "whole or absent"),
        ("import", "all or nothing"),
        ("generate", "whole or absent"),
        ("export", "exports that appear"),
    ],
)
def test_without_the_protection_the_sweep_finds_what_is_half(
    template: Path, tmp_path: Path, name: str, protection: str
) -> None:
    with switched_off(protection), pytest.raises(Broken):
        sweep(template, tmp_path / "place", ACTS[name], "kill", 1)


@must_fail_without("exports that appear")
def test_an_export_that_is_killed_leaves_nothing_under_its_name(template: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    last = interrupted(fresh(template, place), lambda: ACTS["export"].work(place), 0, "kill")
    interrupted(fresh(template, place), lambda: ACTS["export"].work(place), last, "kill")
    promised(not (place / "out" / "data").exists(), "half an export is left")

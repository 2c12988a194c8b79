"""Backups: whole while others write, checked, never over something; what is damaged is found and named."""

from __future__ import annotations

import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import candidates, leased, small_document
from faults import Broken, Fork, answered, decide, kept, must_fail_without, promised, wait_for
from typer.testing import CliRunner

from db.backup import FOLDERS, SUMS, BadBackup, backup, restore
from db.errors import WinnowError
from db.store import Store
from studio.cli import app


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("template")
    store = Store(place / "home")
    dataset = store.datasets.import_document(small_document(place / "files", images=4), "small")
    candidates(store, dataset.id, leased(store, dataset.id), 30)
    store.snapshots.freeze("frozen", dataset.id, {})
    store.close()
    (place / "home" / "models" / "run-1").mkdir(parents=True)
    (place / "home" / "models" / "run-1" / "weights").write_bytes(bytes(range(256)) * 100)
    (place / "home" / "secret").write_text("not in a backup")
    return place / "home"


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "home")


@pytest.fixture(scope="module")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("made") / "b.zip"
    backup(template, target)
    return target


def files(home: Path) -> dict[str, bytes]:
    """What a backup keeps beside the database."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for folder in FOLDERS
        for path in (home / folder).rglob("*")
        if path.is_file()
    }


def test_what_is_backed_up_comes_back(template: Path, made: Path, tmp_path: Path) -> None:
    found = restore(made, tmp_path / "restored")
    assert found.files == len(files(template)) + 1 and not found.left_out
    assert files(tmp_path / "restored") == files(template) and len(files(template)) > 5
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert not (tmp_path / "restored" / "secret").exists()
    before, after = Store(template), Store(tmp_path / "restored")
    assert after.datasets.list() == before.datasets.list()
    (snapshot,) = after.snapshots.list()
    assert after.snapshots.samples(snapshot) == before.snapshots.samples(snapshot)
    for store in (before, after):
        store.close()


@must_fail_without("the backup API")
def test_a_backup_taken_while_people_decide_holds_all_that_was_answered_before(home: Path, tmp_path: Path) -> None:
    reader = Store(home)  # with somebody else there, the log of SQLite stays beside the file
    acks = tmp_path / "acks"
    for round_ in range(3):
        writer = Fork(lambda name=f"r{round_}": decide(home, name, range(1, 31), acks))
        try:
            before_start = len(answered(acks))
            assert wait_for(lambda n=before_start: len(answered(acks)) > n + 20)
            before = set(answered(acks))
            backup(home, tmp_path / f"{round_}.zip")
        except BadBackup as error:
            raise Broken(str(error)) from error
        finally:
            writer.kill()
        restore(tmp_path / f"{round_}.zip", tmp_path / f"restored{round_}")
        lost = before - set(kept(tmp_path / f"restored{round_}" / "winnow.db"))
        promised(not lost, f"{len(lost)} of {len(before)} answered verdicts are not in the backup")
    reader.close()


def test_a_backup_replaces_nothing(home: Path, tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_text("precious")
    with pytest.raises(WinnowError, match="exists already"):
        backup(home, tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_text() == "precious"
    with pytest.raises(WinnowError, match="holds no Winnow data"):
        backup(tmp_path, tmp_path / "c.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.zip", "home"]


def test_a_backup_is_restored_into_a_new_or_empty_folder_only(made: Path, home: Path, tmp_path: Path) -> None:
    before = files(home)
    with pytest.raises(WinnowError, match="not empty"):
        restore(made, home)
    assert files(home) == before
    (tmp_path / "empty").mkdir()
    restore(made, tmp_path / "empty")
    assert files(tmp_path / "empty") == before
    with pytest.raises(WinnowError, match="There is no backup"):
        restore(tmp_path / "none.zip", tmp_path / "other")


def test_a_damaged_blob_is_named_and_can_be_left_out(home: Path, tmp_path: Path) -> None:
    damaged, missing, *_ = sorted(path for path in (home / "blobs").rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    missing.unlink()
    with pytest.raises(BadBackup, match="2 file") as refused:
        backup(home, tmp_path / "b.zip")
    assert {fault.split(":")[0].rsplit("/", 1)[1] for fault in refused.value.faults} == {damaged.name, missing.name}
    assert not (tmp_path / "b.zip").exists()
    assert backup(home, tmp_path / "b.zip", even_damaged=True).left_out == refused.value.faults
    restore(tmp_path / "b.zip", tmp_path / "restored")
    assert not (tmp_path / "restored" / damaged.relative_to(home)).exists()


def refused(source: Path, home: Path) -> str:
    """Why a backup is not restored. Raises Broken when it is."""
    try:
        restore(source, home)
    except WinnowError as error:
        assert not home.exists() and not list(home.parent.glob(".restore-*"))
        return str(error)
    raise Broken(f"{source} was restored")


def test_a_backup_that_was_cut_short_is_refused_wherever_it_was_cut(made: Path, tmp_path: Path) -> None:
    whole = made.read_bytes()
    chance = random.Random(0)
    for length in {0, 1, len(whole) // 2, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(15))}:
        (tmp_path / "cut.zip").write_bytes(whole[:length])
        assert "cut short" in refused(tmp_path / "cut.zip", tmp_path / "restored")


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The backup with other members, and check sums of the archive that fit them."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return target


def turned(members: dict[str, bytes], name: str) -> None:
    data = members[name]
    members[name] = data[:-1] + bytes([data[-1] ^ 1])


def one(members: dict[str, bytes], folder: str) -> str:
    return next(name for name in members if name.startswith(folder))


TAMPERED: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "a blob": (lambda m: turned(m, one(m, "blobs/")), "its digest is"),
    "a model": (lambda m: turned(m, one(m, "models/")), "its digest is"),
    "the database": (lambda m: turned(m, "winnow.db"), "winnow.db: its digest is"),
    "a file less": (lambda m: m.pop(one(m, "blobs/")), "missing"),
    "two faults": (lambda m: (turned(m, "winnow.db"), turned(m, one(m, "models/"))), "2 fault"),
}


@pytest.mark.parametrize("case", TAMPERED)
@must_fail_without("digests")
def test_a_backup_that_was_tampered_with_is_refused_and_every_fault_named(
    made: Path, tmp_path: Path, case: str
) -> None:
    change, said = TAMPERED[case]
    message = refused(rewritten(made, tmp_path / "t.zip", change), tmp_path / "restored")
    assert said in message


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "blobs/../../x", "secret", "winnow.toml", "packs\\x", "blobs//x", "models/./x", "packs/"]
)
def test_nothing_is_unpacked_outside_of_its_place(made: Path, tmp_path: Path, name: str) -> None:
    def more(members: dict[str, bytes]) -> None:
        digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of nothing
        members |= {name: b"", SUMS: members[SUMS] + f"{digest}  {name}\n".encode()}

    place = tmp_path / "place"
    place.mkdir()
    assert "no name of a file in a backup" in refused(rewritten(made, tmp_path / "t.zip", more), place / "restored")
    assert not list(place.iterdir())


def test_what_is_no_backup_is_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG" + bytes(1000))
    assert "no backup" in refused(tmp_path / "picture.png", tmp_path / "restored")
    more = rewritten(made, tmp_path / "more.zip", lambda members: members.update({"packs/more.yaml": b""}))
    assert "packs/more.yaml: not in SHA256SUMS" in refused(more, tmp_path / "restored")
    unlisted = rewritten(made, tmp_path / "unlisted.zip", lambda members: members.pop(SUMS) and None)
    assert "no backup" in refused(unlisted, tmp_path / "restored")


def test_a_kill_while_it_is_written_leaves_no_backup(home: Path, tmp_path: Path) -> None:
    (home / "models" / "large").write_bytes(bytes(30 * 2**20))
    fork = Fork(lambda: backup(home, tmp_path / "b.zip"))
    assert wait_for(lambda: any(tmp_path.glob(".backup-*/draft")))
    fork.kill()
    assert not (tmp_path / "b.zip").exists()


def test_both_are_commands(home: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    made = run(app, ["backup", str(tmp_path / "b.zip"), "--home", str(home), "--json"])
    assert made.exit_code == 0 and f'"files":{len(files(home)) + 1}' in made.stdout
    assert run(app, ["restore", str(tmp_path / "b.zip"), "--home", str(tmp_path / "new")]).exit_code == 0
    assert files(tmp_path / "new") == files(home)
    assert run(app, ["restore", str(tmp_path / "b.zip")]).exit_code == 2

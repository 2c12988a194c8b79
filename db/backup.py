"""One file that holds everything people made, and the way back from it.

A backup is a zip without compression: the database as it was at one moment, the blobs, the trained models, and the packs
and prompts of people. `SHA256SUMS` lists every file, so that `sha256sum -c` can check an unpacked one without Winnow.
Blobs are stored before the rows that name them and never change: taking the database first and the blobs afterwards is
consistent while others write. Left out are the secret (a new one is made), the queue, the settings of the machine, and
what can be made again (thumbnails, caches, unfinished checkpoints).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sqlalchemy import create_engine, select, union

from db import schema
from db.database import copy_database, sqlite_module
from db.errors import WinnowError
from db.migrate import schema_of
from db.postgres import shown
from db.records import Record
from db.shared import Shared

SUMS = "SHA256SUMS"
DATABASE = "winnow.db"
FOLDERS = ("blobs", "models", "packs", "prompts")
PIECE = 2**20
SHOWN = 50  # faults in one message


class Contents(Record, frozen=True, kw_only=True):
    """What a backup holds: its schema, how many files of how many bytes, and what was damaged and therefore left out."""

    schema: str
    files: int
    bytes: int
    left_out: tuple[str, ...] = ()


class BadBackup(WinnowError):
    """Carries every fault found, not only the first."""

    def __init__(self, what: str, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        lines = "".join(f"\n  {fault}" for fault in self.faults[:SHOWN])
        more = f"\n  ... and {len(self.faults) - SHOWN} more" if len(self.faults) > SHOWN else ""
        super().__init__(f"{what}{lines}{more}")


# Making one


def backup(home: Path, target: Path, shared: Shared = Shared(), *, even_damaged: bool = False) -> Contents:  # noqa: B008
    """Back a data folder up into a new file, readable by its owner only, while others work with it. The file is read again and
    checked before it gets its name.

    Raises BadBackup when files are damaged or missing; with `even_damaged` they are left out and named. Raises
    WinnowError when there is nothing to back up, when `target` exists, when the disk is full, and when the database or the
    blobs lie elsewhere: half a backup would be taken for a whole one.
    """
    if shared.database_url or shared.blobs_url:
        raise WinnowError(_elsewhere(home, shared))
    if not (home / DATABASE).is_file():
        raise WinnowError(f"{home} holds no Winnow data; name its folder with --home.")
    if target.exists():
        raise WinnowError(f"{target} exists already; a backup replaces nothing. Choose another name.")
    with _files_in_words(), tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as place:
        draft = Path(place) / "draft"
        copy_database(home / DATABASE, Path(place) / DATABASE)
        if unsound := list(database_faults(Path(place) / DATABASE)):
            raise BadBackup(f"The database of {home} is damaged; restore an earlier backup.", unsound)
        faults = _fill(draft, home, Path(place))
        if faults and not even_damaged:
            cure = "Restore them from an earlier backup, or leave them out with --even-damaged."
            raise BadBackup(f"{len(faults)} file(s) of {home} are damaged; nothing was backed up. {cure}", faults)
        contents = _unpack(draft, Path(place) / "read-again", keep=False)
        _publish(draft, target)
    return Contents(schema=contents.schema, files=contents.files, bytes=contents.bytes, left_out=tuple(faults))


def _elsewhere(home: Path, shared: Shared) -> str:
    """How to back up what several machines share."""
    file = f"sqlite3 {home / DATABASE} '.backup winnow.copy'"
    url = shared.database_url
    database = f"pg_dump --format=custom --file=winnow.dump '{shown(url)}'" if url else file
    blobs = "the blobs with the tools of their store" if shared.blobs_url else f"the folder {home / 'blobs'}"
    return (
        "This studio shares its data with other machines, so one file cannot hold it. Back up the database with "
        f"`{database}`, then {blobs}, and the folders models, packs and prompts of {home}."
    )


def _fill(draft: Path, home: Path, place: Path) -> list[str]:
    """Write the archive, with the copy of the database in `place`. Returns the faults; damaged blobs are not in it."""
    sums: dict[str, str] = {}
    faults: list[str] = []
    with zipfile.ZipFile(draft, "x", zipfile.ZIP_STORED) as archive:
        sums[DATABASE] = _add(archive, place / DATABASE, DATABASE)
        for path in _kept(home):
            name = path.relative_to(home).as_posix()
            fault = _blob_fault(path, _digest(path)) if name.startswith("blobs/") else None
            if fault is None:
                sums[name] = _add(archive, path, name)
            else:
                faults.append(f"{name}: {fault}")
        archive.writestr(SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    os.chmod(draft, 0o600)
    missing = (f"blobs/{digest[:2]}/{digest}" for digest in _named(place / DATABASE))
    return faults + [f"{name}: missing" for name in missing if not (home / name).is_file()]


def _kept(home: Path) -> Iterator[Path]:
    """The files beside the database, in a fixed order; drafts that a killed process left behind are none."""
    for folder in FOLDERS:
        yield from (path for path in sorted((home / folder).rglob("*")) if path.is_file() and path.name[0] != ".")


def _named(database: Path) -> list[str]:
    """The digests that the database names."""
    columns = (schema.image.c.digest, schema.candidate.c.digest, schema.snapshot.c.digest)
    query = union(*(select(column).where(column.is_not(None)) for column in columns))
    engine = create_engine(f"sqlite:///{database}", module=sqlite_module())
    with engine.connect() as connection:
        found = sorted(connection.execute(query).scalars())
    engine.dispose()
    return found


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> str:
    """Store a file; returns the digest of what was stored."""
    with path.open("rb") as source, archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
        return _copy(source, target)


def _publish(draft: Path, target: Path) -> None:
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(draft, target)  # unlike a rename it replaces nothing
    except FileExistsError:
        raise WinnowError(f"{target} has come into being meanwhile; a backup replaces nothing.") from None
    _sync_folder(target.parent)


# Going back to one


def restore(source: Path, home: Path) -> Contents:
    """Unpack a backup into a data folder that does not exist yet, or is empty. It appears there whole, after every file was
    checked, or not at all.

    Raises BadBackup with every fault of the backup, and WinnowError when `home` is in use or the disk is full.
    """
    if not source.is_file():
        raise WinnowError(f"There is no backup {source}.")
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise WinnowError(f"{home} is not empty; a backup is restored into a new folder only. Choose another --home.")
    with _files_in_words():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=home.parent) as place:
            contents = _unpack(source, Path(place) / "home", keep=True)
            os.sync()
            os.replace(Path(place) / "home", home)
        _sync_folder(home.parent)
    return contents


def _unpack(source: Path, folder: Path, *, keep: bool) -> Contents:
    """Check the whole archive and put its files into the folder; without `keep` no more of them than the check needs."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(source) as archive:
            sums = _sums(archive)
            faults = [fault for name in sums for fault in _take(archive, name, sums[name], folder, keep)]
            faults += [f"{name}: not in {SUMS}" for name in sorted(set(archive.namelist()) - {*sums, SUMS})]
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, KeyError, ValueError) as error:
        raise BadBackup(f"{source} is no backup of Winnow, or was cut short ({error}).", []) from error
    if not faults:
        faults = list(database_faults(folder / DATABASE))
    if faults:
        raise BadBackup(f"{source} is damaged: {len(faults)} fault(s). Nothing was restored from it.", faults)
    return Contents(schema=schema_of(folder / DATABASE), files=len(sums), bytes=size)


def _sums(archive: zipfile.ZipFile) -> dict[str, str]:
    """Name -> digest. Raises KeyError or ValueError when the list is missing or malformed."""
    lines = archive.read(SUMS).decode().splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    if DATABASE not in sums:
        raise ValueError(f"{SUMS} lists no {DATABASE}")
    return sums


def _take(archive: zipfile.ZipFile, name: str, digest: str, folder: Path, keep: bool) -> Iterator[str]:
    """Unpack one file, unless it may not be in a backup; yields its faults."""
    if not _allowed(name):
        yield f"{name!r}: no name of a file in a backup"
        return
    target = folder / name if keep or name == DATABASE else Path(os.devnull)
    try:
        member = archive.getinfo(name)
        if member.compress_type != zipfile.ZIP_STORED:
            yield f"{name}: compressed, which no file of a backup is"
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as packed, target.open("wb") as file:
            found = _copy(packed, file)
    except KeyError:
        yield f"{name}: missing"
    except (zipfile.BadZipFile, EOFError) as error:
        yield f"{name}: unreadable ({error})"
    else:
        if found != digest:
            yield f"{name}: its digest is {found[:12]}, expected {digest[:12]}"
        elif name.startswith("blobs/") and (fault := _blob_fault(target if keep else Path(name), found)):
            yield f"{name}: {fault}"


def _allowed(name: str) -> bool:
    """Whether a file of that name stays within the data folder, where Winnow keeps such files."""
    parts = PurePosixPath(name).parts
    inside = "\\" not in name and "\0" not in name and not {".", ".."} & set(name.split("/"))
    return name == DATABASE or (inside and len(parts) > 1 and parts[0] in FOLDERS and "/".join(parts) == name)


def database_faults(path: Path) -> Iterator[str]:
    """What SQLite itself finds wrong with a database file that nobody has open. Raises WinnowError when it is none, or one
    of a newer Winnow."""
    schema_of(path)
    connection: Any = sqlite_module().connect(path)
    try:
        for (line,) in connection.execute("PRAGMA integrity_check(20)"):
            if line != "ok":
                yield f"{path.name}: {line}"
        for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
            yield f"{path.name}: row {row} of {table} names a row of {parent} that is not there"
    except sqlite_module().DatabaseError as error:
        yield f"{path.name}: {error}"
    finally:
        connection.close()


# Files


def _blob_fault(path: Path, digest: str) -> str | None:
    """A blob is named by its content, and lies in the folder of its first two digits."""
    if path.name == digest and path.parent.name == digest[:2]:
        return None
    return f"its digest is {digest[:12]}, which is not its name"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := source.read(PIECE):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _files_in_words() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or "the disk"
        raise WinnowError(f"{where}: {error.strerror or error}. Nothing was changed.") from error

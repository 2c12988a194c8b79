"""Bring a database file to the current schema, after a backup, or refuse it and leave it untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from db.database import sqlite_module
from db.errors import WinnowError

sqlite = sqlite_module()


def migrate(path: Path) -> None:
    """Create or upgrade the database at `path`. An existing file is first copied to `NAME.before-REVISION`.

    Raises WinnowError, with the file unchanged, when it is no database or was written by a newer Winnow.
    """
    scripts = ScriptDirectory.from_config(_config())
    head = scripts.get_current_head()
    current = _revision(path) if path.exists() and path.stat().st_size else None
    if current == head:
        return
    if current and current not in {script.revision for script in scripts.walk_revisions()}:
        raise WinnowError(
            f"{path} was written by a newer Winnow (schema {current}, this one knows {head}). Update Winnow."
        )
    if current:
        _backup(path, path.with_name(f"{path.name}.before-{head}"))
    _upgrade(path)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _revision(path: Path) -> str | None:
    try:
        with create_engine(f"sqlite:///{path}", module=sqlite).connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except Exception as error:
        raise WinnowError(f"{path} is not a Winnow database ({error}). Move it away or restore a backup.") from error


def _upgrade(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}", module=sqlite)
    config = _config()
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


def _backup(source: Path, target: Path) -> None:
    origin: Any = sqlite.connect(source)
    copy: Any = sqlite.connect(target)
    origin.backup(copy)
    copy.close()
    origin.close()

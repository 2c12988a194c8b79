"""The README keeps its word: its commands run, and it names every command, recipe, format, filter, pack and setting."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from db.formats import FORMATS
from engine.filters import FILTERS
from engine.packs import packs
from engine.recipe import recipes
from studio.cli import app
from studio.settings import SETTINGS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block(label: str) -> list[str]:
    """The commands of the fenced block that follows the HTML comment `<!-- label -->`."""
    found = re.search(rf"<!-- {label} -->\s*```sh\n(.*?)```", README, re.DOTALL)
    assert found, f"no block {label} in the README"
    return [line for line in found[1].splitlines() if line.strip() and not line.startswith("#")]


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    environment = os.environ | {"WINNOW_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
    commands = block("commands")
    assert len(commands) >= 8
    for line in commands:
        words = shlex.split(line, comments=True)
        assert words[0] == "winnow"
        done = subprocess.run(
            [sys.executable, "-m", "studio.cli", *words[1:]],
            env=environment,
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "exported" / "train.json").exists()


NAMED = {
    "command": list(get_command(app).commands),
    "recipe": [recipe.name for recipe in recipes()],
    "format": list(FORMATS),
    "filter": list(FILTERS),
    "pack": [pack.name for pack in packs()],
    "setting": [f"WINNOW_{setting.name.upper()}" for setting in SETTINGS],
}


@pytest.mark.parametrize("what", NAMED)
def test_the_readme_names_each(what: str) -> None:
    assert NAMED[what]
    missing = [name for name in NAMED[what] if not re.search(rf"\b{re.escape(name)}\b", README, re.IGNORECASE)]
    assert not missing


def test_pictures_and_links_of_the_readme_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links and not [link for link in links if not (ROOT / link).exists()]

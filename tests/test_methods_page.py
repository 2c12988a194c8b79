"""The commands of the Methods page can be pasted: all of them are understood, and, slowly, all of them run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from engine.presets import train_options
from engine.recipe import load
from studio.cli import app
from studio.commands.common import chosen
from studio.pages.methods import METHODS, Method, commands

SHORTER = {  # what a small machine is spared
    "run": ["--amount", "8"],
    "train": ["--iterations", "2", "--batch-size", "4", "--eval-interval", "2"],
}


def words_of(method: Method, dataset: str = "scenes") -> list[list[str]]:
    """The words of the commands of a method."""
    return [shlex.split(line.replace("\\\n", " ")) for line in commands(method, dataset)]


def filled(words: list[str], run: int = 1, image: str = "a.png") -> list[str]:
    """With what a command leaves open."""
    return [{"RUN": str(run), "IMAGE": image}.get(word, word) for word in words]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.recipe)
def test_each_command_is_understood(method: Method) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for words in map(filled, words_of(method, "my data")):
        assert words[0] == "winnow"
        context = known[words[1]].make_context(words[1], words[2:])
        if words[1] == "train":
            given = {name: context.params[name] for name in ("generated_probability", "ignore_background")}
            train_options(context.params["preset"], chosen(given, context.params["option"]))
        if words[1] == "run":
            assert load(context.params["recipe"]).name == method.recipe and context.params["dataset"] == "my data"


def winnow(home: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "studio.cli", *words],
        env=os.environ | {"WINNOW_HOME": str(home / "home"), "COLUMNS": "200"},
        cwd=home,
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.recipe)
def test_each_command_runs(tmp_path: Path, method: Method) -> None:
    winnow(tmp_path, "tabletop", "scenes", "--difficulty", "easy", "--train", "30", "--val", "4", "--test", "4")
    (tmp_path / "words.txt").write_text("mug\nkite, a toy that flies on a string\n")
    run = 0
    for words in words_of(method):
        told = winnow(tmp_path, *filled(words, run, "images/test_000000.jpg")[1:], *SHORTER.get(words[1], []))
        if words[1] == "train":
            run = int(told.split("Run ")[1].split(":")[0])
    assert all((tmp_path / words[words.index("--out") + 1]).is_file() for words in words_of(method) if "--out" in words)

"""The shipped pocket writer on scenes it has never seen: its JSON, and whether its foils are false by the exact truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from db.records import Dataset
from db.store import Store
from engine.backends.hf_text import HFTextWriter
from engine.backends.hub import ASSETS
from engine.prompts import fields, load
from engine.roles import Context, Foil, WriteTask
from engine.tabletop import Truth, holds, paint
from engine.training.pocket import foils, writer

SCENES = 30
HELD_OUT = 990_001  # a seed that no training uses


@pytest.fixture(scope="module")
def asked() -> list[tuple[Truth, WriteTask]]:
    found = []
    for index in range(SCENES):
        truth = paint(HELD_OUT, index, foils.WORLD).truth
        examples = {e.text: e for e in foils.of_scene(truth, np.random.default_rng(index)) if not e.text.endswith(".")}
        for text in sorted(examples)[:4]:
            found.append((truth, WriteTask(text=text, n=1, seed=index, facts=examples[text].facts)))
    return found


@pytest.fixture(scope="module")
def answers(asked: list[tuple[Truth, WriteTask]], tmp_path_factory: pytest.TempPathFactory) -> list[list[Foil] | str]:
    store = Store(tmp_path_factory.mktemp("home"))
    options = {"device": "cpu", "dtype": "float32"}
    made = HFTextWriter(Context(store, 1), model="assets/pocket/writer", prompts=["pocket_foil"], **options)
    written = made.write([task for _, task in asked])
    store.close()
    return written


def test_most_texts_get_a_foil_and_nearly_all_foils_are_false(
    asked: list[tuple[Truth, WriteTask]], answers: list[list[Foil] | str]
) -> None:
    pairs = [
        (truth, foil)
        for (truth, _), some in zip(asked, answers, strict=True)
        for foil in some
        if some and not isinstance(some, str)
    ]
    assert len(asked) >= 100 and len(pairs) >= 0.7 * len(asked)
    false = [holds(truth, foil.text) is False for truth, foil in pairs]
    assert np.mean(false) >= 0.85


def test_the_prompt_says_what_the_model_was_trained_on(store: Store, dataset: Dataset) -> None:
    prompt = load("pocket_foil", store.home)
    (stage,) = prompt.stages
    rendered = stage.messages(fields(text="a red mug", facts=("a box", "two keys"), n=1))
    assert [(m.role, m.content) for m in rendered] == [("user", writer.question("a red mug", ("a box", "two keys")))]


def test_the_weights_are_small_and_safe() -> None:
    files = {path.name: path.stat().st_size for path in (ASSETS / "pocket" / "writer").iterdir()}
    assert sum(files.values()) < 5_000_000
    assert {Path(name).suffix for name in files} <= {".safetensors", ".json", ".jinja", ".md"}

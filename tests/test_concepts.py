"""The concept dictionary, and vocabularies to look for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from db.errors import WinnowError
from engine.concepts import Concepts, build, concept, concepts_of, prompt, read_definitions, read_vocabulary
from engine.grounding_folder import Detection, Grounding, Instance, Line, Region

BOX = (0.0, 0.0, 5.0, 5.0)


def test_a_concept_is_in_the_singular_and_has_no_determiner() -> None:
    said = ["two red Mugs", "the box", "some people", "a glass", "scissors", "umbrellas"]
    assert [concept(text) for text in said] == ["red mug", "box", "person", "glass", "scissors", "umbrella"]
    assert concepts_of("A red mug near two bottles and the red mug.") == ("red mug", "bottle")


def line(*classes: str, caption: str = "", phrases: tuple[str, ...] = ()) -> Line:
    detection = Detection([Instance(BOX, name) for name in classes]) if classes else None
    grounding = Grounding(caption, [Region([BOX], phrase, []) for phrase in phrases]) if caption else None
    return Line("x.png", 10, 10, detection, grounding)


def test_rare_phrases_are_left_out_and_classes_never() -> None:
    lines = [
        line("mug", "mug", "hat"),
        line(caption="a red ball on a box"),
        line(caption="the red ball", phrases=("the red ball",)),
        line(caption="a blue ball near a box"),
    ]
    found = build(lines, least=2)
    assert found.counts == {"red ball": 2, "box": 2, "mug": 1, "hat": 1}
    assert build(lines, least=3).counts == {"mug": 1, "hat": 1}


def test_absent_concepts_have_no_word_of_the_caption() -> None:
    known = Concepts({"red mug": 3, "mug": 2, "blue hat": 2, "ball": 1, "table": 1})
    rng = np.random.default_rng(0)
    assert sorted(known.absent(["Two mugs on a table."], 9, rng)) == ["ball", "blue hat"]
    assert len(known.absent([], 2, rng)) == 2
    drawn = {tuple(known.absent([], 2, np.random.default_rng(seed))) for seed in range(20)}
    assert len(drawn) > 5


def test_a_class_is_asked_for_with_its_definition() -> None:
    known = Concepts({}, {"mug": "a cup with a handle"})
    assert [known.prompt(name) for name in ("mug", "hat")] == ["mug, a cup with a handle", "hat"]
    assert prompt("mug", {"mug": ""}) == "mug"


def test_definitions_of_a_folder(tmp_path: Path) -> None:
    assert read_definitions(tmp_path) == {}
    (tmp_path / "definitions.json").write_text("[1]")
    with pytest.raises(WinnowError, match="class names and their definitions"):
        read_definitions(tmp_path)


def test_a_vocabulary_names_one_thing_a_line(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# things\nmug, a cup with a handle\n\nhat\nball: round, to play with\n")
    assert read_vocabulary(file) == {
        "mug": "mug, a cup with a handle",
        "hat": "hat",
        "ball": "ball, round, to play with",
    }


@pytest.mark.parametrize(
    ("text", "told"), [("mug\nmug", "line 2"), (", nothing", "line 1"), ("# a\n", "names nothing")]
)
def test_a_bad_vocabulary_says_where(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(WinnowError, match=told):
        read_vocabulary(tmp_path / "words.txt")
    with pytest.raises(WinnowError, match="one name a line"):
        read_vocabulary(tmp_path / "none.txt")

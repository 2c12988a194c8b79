"""Mini-OmniLabel and mini-D3: every question to a Tabletop scene has the answer that the scene gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import studio.app  # noqa: F401  keeps gradio from looking up its servers
from db.errors import WinnowError
from db.store import Store
from engine.evaluation import d3, omnilabel
from engine.grounding_folder import split_omnilabel
from engine.tabletop import KINDS, Truth, build, holds, paint, preset, referents
from engine.tabletop.descriptions import WITHOUT, answer, asked, bare, mini_d3, mini_omnilabel
from engine.tabletop.language import parse
from studio import actions
from studio.cli import app
from studio.context import Studio

NAMES = [kind.name for kind in KINDS[:24]]
LEVEL = msgspec.structs.replace(preset("easy"), width=96, height=72)


def scene(index: int) -> Truth:
    return paint(5, index, LEVEL, f"{index}.png").truth


@pytest.fixture(scope="module")
def truths() -> list[Truth]:
    return [scene(index) for index in range(14)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_asked_is_answered_as_the_scene_answers(index: int) -> None:
    truth = scene(index)
    found = asked(truth, np.random.default_rng(index), NAMES)
    assert len({(one.text, one.category) for one in found}) == len(found), "no question twice"
    there = {thing.kind for thing in truth.objects}
    assert {one.text for one in found if one.category and one.objects} == {
        kind.noun for kind in KINDS if kind.name in there
    }
    assert sum(one.category and not one.objects for one in found) == 2, "so many absent classes"
    for one in (one for one in found if not one.category):
        assert answer(truth, one.text) == one.objects
        assert holds(truth, one.text) is bool(one.objects)
        assert referents(truth, one.text) == list(one.objects)
        assert bool(one.edit_type) is not bool(one.objects)


def test_descriptions_can_be_chosen_by_their_meaning(truths: list[Truth]) -> None:
    found = [
        parse(one.text)
        for truth in truths
        for one in asked(truth, np.random.default_rng(0), NAMES, accept=lambda said: said.relation is None)
    ]
    assert found and all(said is not None and said.relation is None for said in found)


@pytest.mark.parametrize(
    ("text", "query"), [("A red mug", "red mug"), ("the mug", "mug"), ("two mugs", "two mugs"), ("mug", "mug")]
)
def test_the_first_article_is_left_out(text: str, query: str) -> None:
    assert bare(text) == query


def test_absence_is_answered_for_each_object_of_the_kind(truths: list[Truth]) -> None:
    truth = truths[0]
    thing = truth.objects[0]
    others = tuple(i for i, o in enumerate(truth.objects) if o.kind == thing.kind and o.colour != thing.colour)
    assert answer(truth, f"{thing.kind}{WITHOUT}{thing.colour}") == others
    with pytest.raises(WinnowError, match=r"'mug that is not loud' is not of Tabletop's grammar"):
        answer(truth, f"mug{WITHOUT}loud")


def test_perfect_answers_to_mini_omnilabel_score_one_and_boxes_for_negatives_cost(truths: list[Truth]) -> None:
    document = mini_omnilabel(truths, NAMES)
    perfect = [
        {"image_id": n["image_id"], "bbox": n["bbox"], "description_ids": n["description_ids"], "scores": [0.9] * len(n["description_ids"])}
        for n in document["annotations"]
    ]  # fmt: skip
    result = omnilabel.evaluate(document, perfect)
    assert (result.AP_categ, result.AP_descr, result.AP_descr_pos) == (1, 1, 1)
    true = {(n["image_id"], d) for n in document["annotations"] for d in n["description_ids"]}
    wrong = [
        {"image_id": image, "bbox": [1, 1, 30, 30], "description_ids": [row["id"]], "scores": [0.95]}
        for row in document["descriptions"]
        for image in row["image_ids"]
        if (image, row["id"]) not in true and row["anno_info"]["type"] == "object_description"
    ]
    assert len(wrong) > 20
    fooled = omnilabel.evaluate(document, [*perfect, *wrong])
    assert fooled.AP_descr < 0.9 and fooled.AP_descr_pos == 1 and fooled.AP_categ == 1


def test_mini_omnilabel_is_a_function_of_its_scenes(truths: list[Truth]) -> None:
    assert mini_omnilabel(truths, NAMES) == mini_omnilabel(truths, NAMES)
    kinds = {
        e for row in mini_omnilabel(truths, NAMES)["descriptions"] for e in row["anno_info"]["edit_types"].values()
    }
    assert {"", "object", "colour", "relation"} <= kinds


def test_mini_d3_has_presence_and_absence_with_perfect_answers_at_one(truths: list[Truth]) -> None:
    document, sentences = mini_d3(truths, groups=6)
    assert len(sentences.absent) * 2 == len(sentences.texts) >= 8
    perfect = [
        {"image_id": n["image_id"], "category_id": n["category_id"], "bbox": n["bbox"], "score": 0.9}
        for n in document["annotations"]
    ]
    result = d3.evaluate(document, perfect, sentences)
    assert (result.FULL, result.PRES, result.ABS) == (1, 1, 1)
    for image in document["images"]:
        for number in sentences.asked(image["id"], "intra"):
            boxes = [n for n in document["annotations"] if (n["image_id"], n["category_id"]) == (image["id"], number)]
            assert len(boxes) == len(answer(truths[image["id"]], sentences.texts[number]) or ())


def test_a_world_of_one_look_has_no_sentences() -> None:
    truth = scene(0)
    alone = msgspec.structs.replace(truth, objects=truth.objects[:1])
    with pytest.raises(WinnowError, match="seen in two looks"):
        mini_d3([alone])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build(folder, LEVEL, {"test": 14}, seed=5, descriptions=True)
    return folder


def scored(protocol: str, truth: Path, rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    (folder / "results.json").write_text(json.dumps(rows))
    asked = ["score", protocol, str(truth), str(folder / "results.json"), "--json"]
    return json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout)


def test_the_files_of_a_world_are_scored_by_their_protocols(world: Path, tmp_path: Path) -> None:
    notes = json.loads((world / "d3_test.json").read_bytes())["annotations"]
    result = scored("d3", world / "d3_test.json", [{**note, "score": 0.9} for note in notes], tmp_path)
    assert (result["FULL"], result["PRES"], result["ABS"]) == (1, 1, 1)
    notes = json.loads((world / "omnilabel_test.json").read_bytes())["annotations"]
    rows = [{**note, "scores": [0.9] * len(note["description_ids"])} for note in notes]
    result = scored("omnilabel", world / "omnilabel_test.json", rows, tmp_path)
    assert result["AP"] == pytest.approx(1, abs=1e-4) and set(result["edit_types"].values()) == {1.0}
    with pytest.raises(WinnowError, match="results.json holds a list at the top; it should be a dict"):
        scored("omnilabel", tmp_path / "results.json", [], tmp_path)


def test_an_import_asks_again_what_the_file_asks(world: Path, store: Store) -> None:
    """Kinds of text and types of edit, too, so that an evaluation here has the slices of the file."""
    file = world / "omnilabel_test.json"
    made = actions.import_dataset(Studio(store=store, home=store.home), file, "mini", images=world)
    (split,) = store.datasets.splits(made.id)
    found = split_omnilabel(store, store.snapshots.freeze("all", made.id), split)
    place = {image["id"]: number for number, image in enumerate(found["images"])}
    mine = sorted(asked_of(found, place))
    assert mine == sorted(asked_of(json.loads(file.read_bytes()), {number: number for number in range(14)}))
    assert {edit for *_, edit in mine} >= {"", "colour", "object"}


def asked_of(document: dict[str, Any], place: dict[int, int]) -> list[tuple[str, str, int, str]]:
    return [
        (row["text"], row["anno_info"]["type"], place[image], row["anno_info"]["edit_types"].get(str(image), ""))
        for row in document["descriptions"]
        for image in row["image_ids"]
    ]

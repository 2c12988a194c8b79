"""Prompt templates: what is shipped, what is refused, and how edited versions come and go."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from db.errors import NotFound, WinnowError
from engine import prompts
from engine.prompts import EDIT_TYPES, PLACEHOLDERS, SCHEMAS, Pair, fields, load, parse, revert, save
from engine.wording import changed_spans

VALUES = dict.fromkeys(PLACEHOLDERS, "VALUE")
GOOD = """
name: mine
version: 1
title: Mine
summary: A try.
stages:
  - name: only
    schema: negatives
    system: "Say {\\"negatives\\": []} for $$ 5."
    user: "$text, ${n} times"
"""


def test_shipped_prompts_render(tmp_path: Path) -> None:
    shipped = {prompt.name: prompt for prompt in prompts.prompts(tmp_path)}
    foils = ["n1_foil", "n2_recombination", "n3_summary", "pocket_foil"]
    assert [prompt.name for prompt in shipped.values() if prompt.purpose == "negatives"] == foils
    for prompt in (shipped[name] for name in foils):
        for stage in prompt.stages:
            said = " ".join(message.content for message in stage.messages(VALUES))
            assert "VALUE" in said and "$" not in said
    for name in ("n1_foil", "n2_recombination", "n3_summary"):
        used = "".join(stage.system + stage.user for stage in shipped[name].stages)
        assert all(f"${field}" in used for field in ("text", "facts", "n", "avoid"))
        assert all(edit_type in shipped[name].stages[-1].system for edit_type in EDIT_TYPES)


def test_pocket_prompt_is_what_its_model_was_trained_on(tmp_path: Path) -> None:
    pocket = load("pocket_foil", tmp_path)
    (message,) = pocket.stages[0].messages(fields(text="a red mug", facts=["a cup", "a $5 ball"]))
    assert pocket.single
    assert (message.role, message.content) == ("user", "foil: a red mug\nfacts: a cup; a $5 ball")
    (alone,) = pocket.stages[0].messages(fields(text="a red mug"))
    assert alone.content == "foil: a red mug\nfacts: "


def test_shipped_pairs_are_near_and_of_every_type() -> None:
    pairs = prompts.shipped_pairs()
    assert len(pairs) >= 24
    assert set(Counter(pair.edit_type for pair in pairs)) == set(EDIT_TYPES)
    assert len({pair.positive for pair in pairs}) == len(pairs)
    for pair in pairs:
        changed = changed_spans(pair.positive, pair.negative)
        assert changed and sum(end - start for start, end in changed) < 0.7 * len(pair.negative), pair


def test_fields_are_written_one_a_line() -> None:
    pair = Pair(positive="a red mug", negative="a blue mug", edit_type="colour")
    known = fields(text="t", classes=["mug", "ball"], n=3, pairs=[pair, pair], avoid=["a blue mug: is there"])
    assert known["pairs"].splitlines() == ['- "a red mug" -> "a blue mug" (colour)'] * 2
    assert (known["n"], known["classes"], known["avoid"]) == ("3", "mug, ball", "- a blue mug: is there")
    assert fields()["avoid"] == fields()["pairs"] == "none"


def test_schemas_are_closed() -> None:
    def objects(schema: dict) -> list[dict]:
        inner = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
        own = [schema] if schema["type"] == "object" else []
        return own + [found for part in inner for found in objects(part)]

    found = [part for schema in SCHEMAS.values() for part in objects(schema)]
    assert len(found) == 7
    for part in found:
        assert part["additionalProperties"] is False and part["required"] == list(part["properties"])
    assert msgspec.json.decode(msgspec.json.encode(SCHEMAS)) == SCHEMAS


def test_braces_and_dollars_are_easy() -> None:
    system, user = parse(GOOD).stages[0].messages({"text": "a $n {mug}", "n": "2"})
    assert system.content == 'Say {"negatives": []} for $ 5.'
    assert user.content == "a $n {mug}, 2 times"


FAULTY = """
name: mine
version: 1
title: Mine
summary: A try.
stages:
  - {name: first, schema: objects, user: "costs 5$ for $text and $avoid"}
  - {name: last, schema: negatives, user: "$texts and $summary"}
"""


def test_every_wrong_placeholder_is_named() -> None:
    with pytest.raises(WinnowError) as error:
        parse(FAULTY, "mine.yaml")
    said = str(error.value).splitlines()
    assert said[0] == "mine.yaml has 7 fault(s):"
    for stage, name in (("first", "avoid"), ("last", "texts"), ("last", "summary")):
        assert sum(f"stage '{stage}': ${name} is unknown here" in line for line in said) == 1
    for name in ("text", "n", "objects"):
        assert sum(f"stage 'last': ${name} is missing" in line for line in said) == 1
    assert sum("stage 'first', user: a lone $" in line for line in said) == 1


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (
            "schema: negatives",
            "schema: objects",
            "the last stage must have schema negatives, phrases or description, not objects",
        ),
        ("version: 1", "version: 0", "version: "),
        ("title: Mine", "tytle: Mine", "tytle: Extra inputs"),
        ("name: mine", "name: ../mine", "name: "),
        ("$text, ${n}", "$text", r"\$n is missing"),
        ("$text, ${n}", "{text}", r"\$text is missing"),
    ],
)
def test_faults_of_a_prompt(was: str, now: str, said: str) -> None:
    assert parse(GOOD).name == "mine"
    with pytest.raises(WinnowError, match=said):
        parse(GOOD.replace(was, now))


@pytest.mark.parametrize("text", ["- a list", "{", ""])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(WinnowError, match=r"must be a mapping|not valid YAML"):
        parse(text)


def test_an_edited_prompt_is_in_force_until_reverted(tmp_path: Path) -> None:
    shipped = load("n1_foil", tmp_path)
    edited = save(tmp_path, shipped.text.replace("Write $n negatives.", "Write $n of them."))
    assert (edited.version, load("n1_foil", tmp_path)) == (2, edited)
    third = save(tmp_path, edited.text.replace("of them", "of these"))
    assert [prompt.version for prompt in prompts.history(tmp_path, "n1_foil")] == [1, 2, 3]
    assert (tmp_path / "prompts" / "n1_foil.v2.yaml").read_text() == edited.text
    assert len(prompts.prompts(tmp_path)) == 7  # kept versions are not in force
    assert revert(tmp_path, "n1_foil") == edited == load("n1_foil", tmp_path)
    assert revert(tmp_path, "n1_foil") == shipped == load("n1_foil", tmp_path)
    with pytest.raises(WinnowError, match="first version"):
        revert(tmp_path, "n1_foil")
    fourth = save(tmp_path, third.text)
    assert (fourth.version, fourth.digest != third.digest) == (4, True)


def test_saving_without_a_change_makes_no_version(tmp_path: Path) -> None:
    shipped = load("n1_foil", tmp_path)
    assert save(tmp_path, shipped.text) == shipped
    assert not (tmp_path / "prompts").exists()


def test_own_prompts_and_their_faults(tmp_path: Path) -> None:
    assert save(tmp_path, GOOD).version == 1
    assert "mine" in [prompt.name for prompt in prompts.prompts(tmp_path)]
    with pytest.raises(WinnowError, match="line of its own"):
        save(
            tmp_path,
            "{name: mine, version: 7, title: t, summary: s, stages: [{name: a, schema: negatives, user: $text$n}]}",
        )
    with pytest.raises(WinnowError, match="missing"):
        save(tmp_path, GOOD.replace("$text", "it"))
    assert load("mine", tmp_path).text == GOOD
    (tmp_path / "prompts" / "other.yaml").write_text(GOOD)
    with pytest.raises(WinnowError, match="must be named after it"):
        load("other", tmp_path)
    with pytest.raises(NotFound, match="Known: concept2text, mine, n1_foil"):
        load("nothing", tmp_path)


def test_a_version_is_found_by_its_digest(tmp_path: Path) -> None:
    shipped = load("n1_foil", tmp_path)
    edited = save(tmp_path, shipped.text.replace("Write $n", "Now write $n"))
    assert load("n1_foil", tmp_path, shipped.digest) == shipped
    assert load("n1_foil", tmp_path, edited.digest) == edited == load("n1_foil", tmp_path)
    with pytest.raises(WinnowError, match="digest 0123, with which this began, is gone"):
        load("n1_foil", tmp_path, "0123")

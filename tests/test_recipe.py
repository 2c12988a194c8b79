"""Recipes are refused whole before anything is loaded; targets are chosen alike every time."""

import re
from pathlib import Path

import pytest
import yaml
from conftest import small_document

from db.document import Document
from db.errors import NotFound, WinnowError
from db.records import Box, Dataset, Image
from db.store import Store
from engine.packs import BACKENDS, ROLES, load_pack, packs
from engine.recipe import Recipe, Targets, load, parse, recipes
from engine.runs import start_generate
from engine.targets import choose, iou, paintable

GEN2DET = load("gen2det").text


def changed(**values: object) -> str:
    return yaml.safe_dump({**yaml.safe_load(GEN2DET), **values})


def test_the_shipped_recipes_say_what_they_make_need_and_cost() -> None:
    found = recipes()
    names = ["enhanced_negatives", "gen2det", "detclip_pairs", "richsem", "synground"]  # whole images come last
    assert [recipe.name for recipe in found] == names
    for recipe in found:
        header = recipe.text.split("\nname:")[0]
        assert all(word in header for word in ("Makes", "Needs", "Costs", f"winnow run {recipe.name}", "arXiv"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (changed(speed=3), ["speed", "Extra inputs"]),
        (changed(targets={"of": "boxes", "max_area": 2}), ["targets.max_area"]),
        (changed(filters=["seam", "beauty"], policy=[]), ["beauty", "known: text_duplicate"]),
        (changed(policy=[{"filter": "seam"}]), ["needs at_least, at_most"]),
        (changed(policy=[{"filter": "text_length", "at_least": 1}]), ["does not score"]),
        (changed(steps=[{"kind": "negative_text"}]), ["kind `instance` work on targets of `boxes`"]),
        (changed(steps=[{"kind": "magic"}], speed=1), ["steps.0.kind", "speed", "3 fault(s)"]),
        ("- a list", ["must be a mapping"]),
        ("name: [", ["not valid YAML"]),
    ],
)
def test_a_bad_recipe_is_refused_with_all_its_faults(text: str, words: list[str]) -> None:
    with pytest.raises(WinnowError) as caught:
        parse(text, "mine.yaml")
    assert "mine.yaml" in str(caught.value) and all(word in str(caught.value) for word in words)


def test_an_unknown_recipe_or_pack_lists_the_known_ones() -> None:
    with pytest.raises(NotFound, match="gen2det"):
        load("gen3det")
    with pytest.raises(NotFound, match="classic"):
        load_pack("baroque")


def test_a_recipe_of_your_own_is_read_from_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(changed(title="Mine"))
    assert load(str(tmp_path / "mine.yaml")).title == "Mine"


def test_packs_name_known_backends() -> None:
    roles = [role for pack in packs() for name in ROLES if (role := getattr(pack, name))]
    assert roles and all(role.backend in BACKENDS for role in roles)


def keys(store: Store, dataset: Dataset, amount: int | None = None, seed: int = 0, **rules: object) -> list[str]:
    return choose(store, dataset.id, Targets(of="boxes", **rules), seed=seed, amount=amount)


def test_a_preview_is_the_beginning_of_the_whole(store: Store, dataset: Dataset) -> None:
    everything = keys(store, dataset)
    assert len(everything) == len(set(everything)) == 12
    assert keys(store, dataset, amount=4) == everything[:4]
    assert keys(store, dataset, seed=1) != everything


def test_only_the_named_splits_are_worked_on(store: Store, dataset: Dataset) -> None:
    assert len(keys(store, dataset, splits=("train",))) == 8
    assert len(keys(store, dataset, splits=("nowhere",))) == 12  # the data set has no such split: all of it


def test_balance_takes_the_classes_in_turn(store: Store, dataset: Dataset) -> None:
    chosen = keys(store, dataset, balance=True)
    classes = [store.datasets.box(int(key.split(":")[1])).category_id for key in chosen]
    assert classes[0::2] == [classes[0]] * 6 and classes[1::2] == [classes[1]] * 6


def test_phrases_are_targets_where_there_are_any(store: Store, dataset: Dataset, tmp_path: Path) -> None:
    chosen = choose(store, dataset.id, Targets(of="phrases"), seed=0, amount=None)
    assert all(re.match(r"phrase:\d+", key) for key in chosen) and len(chosen) == 12
    plain = small_document(tmp_path / "plain")
    bare = Document(
        format="coco", categories=plain.categories, images=plain.images, boxes=plain.boxes, file_of=plain.file_of
    )
    without = store.datasets.import_document(bare, "without texts")
    assert choose(store, without.id, Targets(of="phrases"), seed=0, amount=None)[0].startswith("box:")


IMAGE = Image(id=1, file_name="a.jpg", width=200, height=100)


@pytest.mark.parametrize(
    ("xyxy", "rules", "fine"),
    [
        ((10, 10, 60, 60), {}, True),
        ((10, 10, 20, 60), {"min_side": 20}, False),
        ((10, 10, 60, 60), {"min_area": 0.5}, False),
        ((0, 0, 190, 100), {"max_area": 0.5}, False),
        ((0, 0, 100, 20), {"max_aspect": 4}, False),
        ((40, 10, 90, 60), {"max_overlap": 0.3}, True),
        ((20, 10, 70, 60), {"max_overlap": 0.3}, False),
    ],
)
def test_which_boxes_may_be_painted(
    xyxy: tuple[float, float, float, float], rules: dict[str, float], fine: bool
) -> None:
    box = Box(id=1, image_id=1, xyxy=xyxy, category_id=1)
    other = Box(id=2, image_id=1, xyxy=(10, 10, 60, 60) if xyxy[0] in (40, 20) else (150, 70, 160, 80), category_id=1)
    assert paintable(box, IMAGE, [box, other], Targets(of="boxes", **rules)) is fine


def test_iou_of_known_boxes() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (1, 1, 2, 2)) == 0


def test_nothing_is_queued_when_no_target_qualifies(store: Store, dataset: Dataset) -> None:
    recipe: Recipe = parse(changed(targets={"of": "boxes", "min_side": 500}))
    with pytest.raises(WinnowError, match="No target of data set 'small' qualifies"):
        start_generate(store, dataset_id=dataset.id, recipe=recipe, pack="classic")
    assert store.ledger.runs() == []


def test_optional_rules_go_with_the_models_of_the_pack() -> None:
    paper = load("enhanced_negatives")
    with_eyes, blind = paper.fitted(("writer", "painter", "embedder")), paper.fitted(("writer", "painter"))
    assert "two_step" in {rule.filter for rule in with_eyes.rules()} and "two_step" in with_eyes.filters
    assert "two_step" not in {rule.filter for rule in blind.rules()} and "two_step" not in blind.filters
    kept = [rule for rule in paper.rules() if rule.filter != "two_step"]
    assert blind.rules() == kept


def test_a_rule_that_is_not_optional_is_never_left_out() -> None:
    strict = changed(filters=["seam", "clip_margin"], policy=[{"filter": "clip_margin", "at_least": 0}])
    with pytest.raises(WinnowError, match="clip_margin, which needs the embedder"):
        parse(strict).fitted(("painter",))
    assert parse(strict).fitted(("painter", "embedder")).filters == ("seam", "clip_margin")


def test_of_alternatives_those_with_a_model_remain() -> None:
    either = {"any": [{"filter": "seam", "at_most": 3}, {"filter": "clip_margin", "at_least": 0, "optional": True}]}
    fitted = parse(changed(filters=["seam", "clip_margin"], policy=[either])).fitted(("painter",))
    assert [(rule.filter, rule.group) for rule in fitted.rules()] == [("seam", "")]

"""The demo world: its pictures, its truth, and what may be said of it."""

import json
from collections import Counter
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from db.errors import WinnowError
from engine.tabletop import (
    EDIT_TYPES,
    KINDS,
    PRESETS,
    Difficulty,
    Mask,
    Scene,
    Truth,
    build,
    holds,
    paint,
    preset,
    referents,
    truths,
)
from engine.tabletop.difficulty import SIZES
from engine.tabletop.kinds import BY_NAME
from engine.tabletop.language import ATTRIBUTES, NUMBERS, Description, parse
from engine.tabletop.layout import Words, choose_words, draw
from engine.tabletop.records import TrueObject
from engine.tabletop.relations import OPPOSITE, RELATIONS, related


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[Scene]]:
    return {name: [paint(11, i, level) for i in range(12)] for name, level in PRESETS.items()}


@pytest.fixture(scope="module")
def every_truth(scenes) -> list[Truth]:
    return [scene.truth for level in scenes.values() for scene in level]


def thing(kind: str = "mug", at: tuple[float, float] = (100, 100), side: float = 40, **more) -> TrueObject:
    box = (at[0] - side / 2, at[1] - side / 2, at[0] + side / 2, at[1] + side / 2)
    words = {"colour": "red", "pattern": "plain", "material": "matte", "size": "medium"}
    rest = {"area": 1, "hidden": 0.0, "depth": 0, "on": None, "covers": ()}
    return TrueObject(**{"kind": kind, "box": box, "whole": box, "mask": Mask((1, 1), [0, 1]), **words, **rest, **more})


def truth_of(*things: TrueObject) -> Truth:
    return Truth(0, 0, "", 320, 240, "wood", things, (), "", (), (), ())


# --- the world -------------------------------------------------------------------------------------------------------


def test_the_world_is_as_rich_as_promised():
    assert len(KINDS) == len(BY_NAME) == 40
    assert Counter(k.frequency for k in KINDS) == {"f": 14, "c": 13, "r": 13}
    assert [k.frequency for k in KINDS] == sorted((k.frequency for k in KINDS), key="fcr".index)
    assert (len(ATTRIBUTES["colour"]), len(ATTRIBUTES["pattern"]), len(ATTRIBUTES["material"])) == (10, 6, 5)
    assert len(RELATIONS) == 10 and PRESETS["standard"].kinds == 36


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_every_kind_can_be_drawn_in_every_size_and_varies(kind):
    rng = np.random.default_rng(3)
    for size, (low, high) in SIZES.items():
        one, two = (
            draw(rng, Words(kind.name, "blue", "checked", kind.materials[0], size), 240, (0.3, -0.7)) for _ in range(2)
        )
        assert low * 240 - 1 <= max(one.solid.shape) <= high * 240 + 3
        ink = one.solid > 0.5
        assert ink.any(0).mean() > 0.85 and ink.any(1).mean() > 0.85, "the sprite should fill its frame"
        assert one.alpha.shape != two.alpha.shape or np.abs(one.alpha - two.alpha).max() > 0.2


def test_colours_show_in_the_picture():
    rng = np.random.default_rng(0)
    for colour, channel in (("red", 0), ("green", 1), ("blue", 2)):
        sprite = draw(rng, Words("ball", colour, "plain", "matte", "large"), 240, (0.3, -0.7))
        assert sprite.rgb[sprite.solid > 0.9].mean(0).argmax() == channel


def test_looks_that_differ_in_one_word_differ_in_the_picture():
    def picture(pattern, material):
        return draw(np.random.default_rng(5), Words("vase", "green", pattern, material, "large"), 240, (0.3, -0.7))

    pictures = [picture(p, "matte") for p in ATTRIBUTES["pattern"]] + [
        picture("plain", m) for m in ATTRIBUTES["material"][1:]
    ]
    assert len(pictures) == 10
    for i, one in enumerate(pictures):
        for two in pictures[:i]:
            difference = np.abs(one.rgb * one.alpha[..., None] - two.rgb * two.alpha[..., None])[one.solid > 0.9]
            assert difference.mean() > 0.02


def test_scene_depends_on_seed_and_index_only():
    level = PRESETS["standard"]
    again, other = paint(5, 3, level), paint(5, 4, level)
    first = paint(5, 3, level)
    assert first.truth == again.truth and np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (240, 320, 3) and first.image.dtype == np.uint8


def test_boxes_are_tight_about_the_visible_pixels_and_masks_are_disjoint(every_truth):
    assert len(every_truth) == 36
    for truth in every_truth:
        taken = np.zeros((truth.height, truth.width), int)
        for seen in truth.objects:
            mask = seen.mask.array()
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert seen.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert seen.area == mask.sum() > 0
            taken += mask
        assert taken.max() <= 1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_keep_their_own_limits(scenes, name):
    level = PRESETS[name]
    for scene in scenes[name]:
        assert 1 <= len(scene.truth.objects) <= level.objects[1]
        assert all(seen.hidden <= level.hidden + 1e-4 for seen in scene.truth.objects)
        assert all(seen.kind in {k.name for k in KINDS[: level.kinds]} for seen in scene.truth.objects)


def test_hidden_share_agrees_with_who_covers_whom(every_truth):
    covered = [(truth, back) for truth in every_truth for front in truth.objects for back in front.covers]
    assert len(covered) > 20
    assert all(truth.objects[back].hidden > 0.01 for truth, back in covered)
    assert all(back < front.depth for truth in every_truth for front in truth.objects for back in front.covers)


def test_standing_on_something_is_drawn_so(every_truth):
    stacked = [(top, truth.objects[top.on]) for truth in every_truth for top in truth.objects if top.on is not None]
    assert len(stacked) >= 3
    for top, below in stacked:
        assert BY_NAME[below.kind].holds_things and below.whole[1] <= top.whole[3] <= below.whole[3]
        assert below.whole[0] <= (top.whole[0] + top.whole[2]) / 2 <= below.whole[2]


def test_kinds_follow_the_long_tail():
    level, rng = Difficulty(kinds=36, tail=1.0), np.random.default_rng(2)
    seen = Counter(BY_NAME[choose_words(rng, level, []).kind].frequency for _ in range(2000))
    assert seen["f"] > 2 * seen["c"] > 2 * seen["r"] > 0


def test_further_objects_repeat_or_resemble_those_there():
    there, rng = [Words("mug", "red", "plain", "matte", "small")], np.random.default_rng(2)
    same = Counter(choose_words(rng, Difficulty(repeats=1.0), there).kind for _ in range(50))
    alike = Counter(choose_words(rng, Difficulty(repeats=0.0, lookalikes=1.0), there).kind for _ in range(50))
    assert set(same) == {"mug"} and set(alike) == set(BY_NAME["mug"].twins) == {"cup", "bowl", "teapot"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden": 1.5}, "hidden"),
        ({"kinds": 99}, "kinds"),
        ({"objects": (0, 3)}, "objects"),
        ({"blur": (2.0, 1.0)}, "blur"),
        ({"width": 10}, "64"),
        ({"sizes": (0, 0, 0)}, "sizes"),
    ],
)
def test_impossible_settings_are_refused(change, named):
    with pytest.raises(WinnowError, match=named):
        Difficulty(**change)


def test_unknown_preset_lists_those_there_are():
    with pytest.raises(WinnowError, match="easy, standard, hard"):
        preset("medium")


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32))
def test_mask_round_trip(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    packed = Mask.of(mask)
    assert np.array_equal(packed.array(), mask) and sum(packed.counts) == mask.size


# --- what is said ----------------------------------------------------------------------------------------------------


def test_true_statements_hold_and_name_their_objects(every_truth):
    said = [(truth, s) for truth in every_truth for s in truth.true]
    assert len(said) > 300
    for truth, statement in said:
        assert holds(truth, statement.text) is True, statement
        assert referents(truth, statement.text) == list(statement.objects) != []


def test_false_statements_do_not_hold_and_are_one_edit_from_the_truth(every_truth):
    said = [(truth, s) for truth in every_truth for s in truth.false]
    assert len(said) > 600
    for truth, foil in said:
        assert holds(truth, foil.text) is False, foil
        source = next(s for s in truth.true if s.text == foil.source)
        assert foil.objects == source.objects
        assert foil.changed_from in foil.source and foil.changed_to in foil.text
        assert foil.changed_from != foil.changed_to
    assert {foil.edit_type for _, foil in said} == set(EDIT_TYPES)


def test_captions_hold_and_phrases_sit_where_they_say(every_truth):
    for truth in every_truth:
        assert holds(truth, truth.caption) is True, truth.caption
        for phrase in truth.phrases:
            assert truth.caption[phrase.start : phrase.end] == phrase.text
            assert referents(truth, phrase.text) == list(phrase.objects)
        assert sorted(i for phrase in truth.phrases for i in phrase.objects) == list(range(len(truth.objects)))
        assert all(one.end < two.start for one, two in pairwise(truth.phrases))


def test_all_sorts_of_relation_occur(every_truth):
    found = Counter(relation.name for truth in every_truth for relation in truth.relations)
    assert set(found) == set(RELATIONS)


def test_a_relation_and_its_opposite_exclude_each_other(every_truth):
    for truth in every_truth:
        for relation in truth.relations:
            assert related(truth, relation.subject, OPPOSITE[relation.name], relation.object) is not True


descriptions = st.builds(
    Description,
    kind=st.sampled_from([k.name for k in KINDS]),
    size=st.none() | st.sampled_from(ATTRIBUTES["size"]),
    colour=st.none() | st.sampled_from(ATTRIBUTES["colour"]),
    pattern=st.none() | st.sampled_from(ATTRIBUTES["pattern"]),
    material=st.none() | st.sampled_from(ATTRIBUTES["material"]),
    definite=st.booleans(),
)
counted = st.builds(
    lambda d, n: msgspec.structs.replace(d, definite=False, count=n), descriptions, st.integers(1, len(NUMBERS))
)
related_ones = st.builds(
    lambda d, r, a: msgspec.structs.replace(d, relation=r, anchor=a),
    descriptions | counted,
    st.sampled_from(RELATIONS),
    descriptions,
)


@given(descriptions | counted | related_ones)
def test_parse_undoes_text(described):
    assert parse(described.text) == described


@pytest.mark.parametrize(
    "text",
    ["", "a", "red", "a unicorn", "a red blue mug", "two mug", "a mugs", "a mug left of", "a very red mug", "mug mug"],
)
def test_what_is_not_of_the_grammar_is_neither_true_nor_false(text):
    truth = truth_of(thing())
    assert parse(text) is None and holds(truth, text) is None and referents(truth, text) == []


RED, BLUE, APPLE = (
    thing(at=(60, 120)),
    thing(at=(250, 120), colour="blue", size="large"),
    thing("apple", at=(150, 120), colour="green"),
)


@pytest.mark.parametrize(
    ("text", "answer", "objects"),
    [
        ("a red mug", True, [0]),
        ("red mug", True, [0]),
        ("A  Red plain MUG.", True, [0]),
        ("a yellow mug", False, []),
        ("the mug", None, [0, 1]),  # there are two
        ("the blue mug", True, [1]),
        ("two mugs", True, [0, 1]),
        ("three mugs", False, [0, 1]),
        ("one mug", False, [0, 1]),  # a number is exact
        ("one blue mug", True, [1]),
        ("the mug left of the apple", True, [0]),
        ("the apple left of the red mug", False, []),
        ("an apple right of a mug", True, [2]),
        ("a mug near the apple", None, []),  # neither near nor far
        ("the red mug far from the blue mug", True, [0]),
        ("an apple left of the mug", None, [2]),  # which mug?
        ("a red mug left of an apple and the blue mug on a wooden table", True, [0, 1]),
        ("a red mug, a blue mug and a lamp", False, [0, 1]),
        ("a red mug on a lawn", False, [0]),
    ],
)
def test_meaning(text, answer, objects):
    truth = truth_of(RED, BLUE, APPLE)
    assert (holds(truth, text), referents(truth, text)) == (answer, objects)


def test_before_behind_and_on_go_by_what_is_seen():
    back, front = thing("book", side=60), thing("key", at=(110, 115), depth=1, covers=(0,))
    truth = truth_of(back, front)
    assert related(truth, 1, "in front of", 0) is True and related(truth, 0, "behind", 1) is True
    assert related(truth, 0, "in front of", 1) is False
    stacked = truth_of(back, msgspec.structs.replace(front, on=0))
    assert related(stacked, 1, "on", 0) is True and related(stacked, 0, "under", 1) is True
    assert related(stacked, 0, "on", 1) is False and related(stacked, 1, "in front of", 0) is None


@given(st.tuples(st.floats(20, 300), st.floats(20, 220)), st.tuples(st.floats(20, 300), st.floats(20, 220)))
def test_mirrored_relations_agree(one, two):
    truth = truth_of(thing(at=one), thing("apple", at=two))
    for name in ("left of", "above", "in front of", "on"):
        assert related(truth, 0, name, 1) is related(truth, 1, OPPOSITE[name], 0)
    assert related(truth, 0, "near", 1) is related(truth, 1, "near", 0)
    assert not (related(truth, 0, "left of", 1) and related(truth, 0, "above", 1))


# --- the data set ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tabletop")
    build(made, "standard", {"train": 6, "val": 3}, seed=4)
    return made


def test_the_data_set_holds_what_it_says(folder):
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    pictures = [f"images/train_{i:06d}.jpg" for i in range(6)] + [f"images/val_{i:06d}.jpg" for i in range(3)]
    lists = [f"{kind}_{split}" for kind in ("coco", "odvg", "truth") for split in ("train", "val")]
    assert names == sorted(
        [*pictures, "label_map.json", *(n + (".json" if n[:4] == "coco" else ".jsonl") for n in lists)]
    )
    picture = Image.open(folder / pictures[0])
    assert picture.size == (320, 240) and picture.layer[0][1:3] == (1, 1), "chroma should not be subsampled"
    known = list(truths(folder / "truth_train.jsonl"))
    again = paint(known[2].seed, known[2].index, PRESETS["standard"], known[2].file_name)
    assert again.truth == known[2]
    assert np.abs(np.asarray(Image.open(folder / known[2].file_name), int) - again.image).mean() < 3


def test_coco_reads_with_pycocotools_and_masks_agree(folder):
    coco = COCO(str(folder / "coco_train.json"))
    known = list(truths(folder / "truth_train.jsonl"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == [k.name for k in KINDS[:36]]
    assert {c["frequency"] for c in coco.loadCats(coco.getCatIds())} == {"f", "c", "r"}
    annotations = coco.loadAnns(coco.getAnnIds())
    objects = [seen for truth in known for seen in truth.objects]
    assert len(annotations) == len(objects) > 10
    for annotation, seen in zip(annotations, objects, strict=True):
        decoded, mask = coco.annToMask(annotation).astype(bool), seen.mask.array()
        assert (decoded & mask).sum() / (decoded | mask).sum() > 0.9
        x, y, w, h = annotation["bbox"]
        assert (x, y, x + w, y + h) == seen.box
    assert {type(a["segmentation"]) for a in annotations} == {list, dict}


def test_odvg_spans_and_boxes_agree_with_the_truth(folder):
    lines = (folder / "odvg_train.jsonl").read_text().splitlines()
    for line, truth in zip(lines, truths(folder / "truth_train.jsonl"), strict=True):
        record = json.loads(line)
        assert (record["filename"], record["height"], record["width"]) == (truth.file_name, 240, 320)
        for region, phrase in zip(record["grounding"]["regions"], truth.phrases, strict=True):
            start, end = region["tokens_positive"][0]
            assert record["grounding"]["caption"][start:end] == region["phrase"]
            boxes = region["bbox"] if isinstance(region["bbox"][0], list) else [region["bbox"]]
            assert boxes == [list(truth.objects[i].box) for i in phrase.objects]
    assert json.loads((folder / "label_map.json").read_text())["0"] == "mug"


def test_same_bytes_with_more_workers_and_a_longer_split_begins_alike(folder, tmp_path):
    seen = []
    build(
        tmp_path,
        "standard",
        {"train": 6, "val": 3},
        seed=4,
        workers=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path.name
    assert seen == [(k, 9) for k in range(1, 10)]
    build(tmp_path / "longer", "standard", {"train": 8}, seed=4)
    known = list(truths(folder / "truth_train.jsonl"))
    assert list(truths(tmp_path / "longer" / "truth_train.jsonl"))[:6] == known


@pytest.mark.parametrize("counts", [{}, {"train": 0}, {"../up": 3}])
def test_odd_splits_are_refused(tmp_path, counts):
    with pytest.raises(WinnowError):
        build(tmp_path, "easy", counts)


def test_a_broken_truth_file_names_its_line(folder, tmp_path):
    lines = (folder / "truth_val.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "truth.jsonl").write_bytes(lines[0] + lines[1][:50])
    with pytest.raises(WinnowError, match="line 2"):
        list(truths(tmp_path / "truth.jsonl"))

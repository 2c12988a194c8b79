"""The Enhanced Negatives lab: its texts and images are what they are said to be, and the whole runs in small."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.labs import lab, paired, pasting, wordings
from engine.labs.enhanced_negatives import ARMS, METRICS, ROUTES
from engine.language_options import LanguageOptions
from engine.tabletop import Difficulty, Truth, paint
from engine.tabletop.descriptions import bare
from engine.tabletop.language import fits, parse

LEVEL = Difficulty(width=128, height=96, kinds=10, objects=(2, 4), sizes=(0.0, 0.4, 0.6), repeats=0.1, tail=0.0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Truth]]:
    """Twelve scenes in a folder."""
    folder = tmp_path_factory.mktemp("scenes")
    made = [paint(3, index, LEVEL, f"{index}.png") for index in range(12)]
    for scene in made:
        cv2.imwrite(str(folder / scene.truth.file_name), scene.image[..., ::-1])
    return folder, [scene.truth for scene in made]


def test_true_descriptions_say_one_noun_with_adjectives(scenes: tuple[Path, list[Truth]]) -> None:
    said = [one for truth in scenes[1] for one in wordings.true(truth)]
    assert len(said) > 30
    assert all((meaning := parse(one.text)) and meaning.relation is None and meaning.count is None for one in said)


def test_random_negatives_are_true_of_other_scenes_and_as_many_as_the_own(scenes: tuple[Path, list[Truth]]) -> None:
    _, truths = scenes
    own = [[bare(one.text) for one in wordings.true(truth)] for truth in truths]
    made = wordings.of_others(truths, seed=0)
    assert [len(texts) for texts in made] == [len(texts) for texts in own]
    for texts, said in zip(made, own, strict=True):
        assert not set(texts) & set(said) and set(texts) <= {text for other in own for text in other}
    assert made == wordings.of_others(truths, seed=0) != wordings.of_others(truths, seed=1)


def test_foils_by_rules_are_false_and_not_among_the_true(scenes: tuple[Path, list[Truth]]) -> None:
    _, truths = scenes
    made = wordings.by_rules(truths)
    assert sum(map(len, made)) > 20
    for truth, texts in zip(truths, made, strict=True):
        assert not set(texts) & {bare(one.text) for one in wordings.true(truth)}
    false = [wordings.is_false(truth, text) for truth, texts in zip(truths, made, strict=True) for text in texts]
    assert np.mean(false) > 0.9


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_pasted_images_show_their_text_unless_they_fail(scenes: tuple[Path, list[Truth]], wrong: float) -> None:
    folder, truths = scenes
    texts = [[f"{colour} {thing.kind}" for thing in truth.objects for colour in ("red", "blue")] for truth in truths]
    donors = pasting.Donors(folder, truths)
    made = pasting.paste(folder, truths, texts, donors, wrong, 2, np.random.default_rng(0))
    found = [(truth, one) for truth, own in zip(truths, made, strict=True) for one in own]
    assert found and all(one.right is (wrong == 0) for _, one in found)
    for truth, one in found:
        picture, original = cv2.imread(one.edited.img_path), cv2.imread(str(folder / truth.file_name))
        assert picture.shape == original.shape
        (named,) = [thing for thing in truth.objects if thing.box == one.edited.box]
        positive = parse(one.edited.positive)
        assert positive is not None and fits(named, positive)
        x1, y1, x2, y2 = (int(v) for v in one.edited.box)
        outside = np.abs(picture.astype(int) - original).sum(2)
        outside[max(y1 - 4, 0) : y2 + 4, max(x1 - 4, 0) : x2 + 4] = 0
        assert not outside.any(), "only the box changes"
    assert any(one.passed for _, one in found) or wrong


def test_every_arm_has_possible_options() -> None:
    assert len(ROUTES) == len(ARMS) - 1, "the mean of two is not trained"
    assert all(LanguageOptions.model_validate(route) for route in ROUTES.values())


@pytest.mark.slow
def test_the_whole_lab_runs_in_small(tmp_path: Path) -> None:
    study = lab("enhanced-negatives").study(True, tmp_path / "work")
    result = paired.run(study, 2, tmp_path / "result", lambda line: None)
    assert set(result.means) == {arm.name for arm in ARMS} and result.seeds == (0, 1)
    assert all(0 <= one.values[metric] <= 1 for one in result.measurements for metric in METRICS)
    assert {len(one.estimate.__struct_fields__) for one in result.differences} == {4}
    again = paired.run(
        lab("enhanced-negatives").study(True, tmp_path / "work"), 2, tmp_path / "result", lambda line: None
    )
    assert again.measurements == result.measurements, "nothing is measured twice"

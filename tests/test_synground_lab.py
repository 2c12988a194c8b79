"""The SynGround lab: its collages, its threshold, and the whole of it in its quick size."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from engine.labs.collage import Part, collage, iou, phrases
from engine.labs.pasting import Donors
from engine.labs.synground import ARMS, QUICK, Bench, longer, threshold
from engine.tabletop import Truth
from studio.cli import app


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Truth]]:
    folder = tmp_path_factory.mktemp("lab")
    return folder, Bench(QUICK, folder)._truths("detector")


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_a_collage_shows_what_its_caption_says_or_on_purpose_not(
    scenes: tuple[Path, list[Truth]], wrong: float
) -> None:
    folder, truths = scenes
    made = [collage(folder, truth, i, 0, Donors(folder, truths), truths, wrong, 0.3) for i, truth in enumerate(truths)]
    parts = [part for one in made for part in one.parts]
    assert parts and all(part.right == (wrong == 0.0) for part in parts)
    for one in made:
        assert cv2.imread(str(folder / one.file_name)).shape == (one.height, one.width, 3)
        texts = {text for text, _, _ in phrases(truths[one.source])}
        for part in one.parts:
            assert part.text in texts
            for x1, y1, x2, y2 in (part.asked, part.painted):
                assert 0 <= x1 < x2 <= one.width and 0 <= y1 < y2 <= one.height
    again = collage(folder, truths[0], 0, 0, Donors(folder, truths), truths, wrong, 0.3)
    assert again == made[0]


def test_a_layout_is_about_where_the_instance_is(scenes: tuple[Path, list[Truth]]) -> None:
    folder, truths = scenes
    donors = Donors(folder, truths)
    exact = [p for i in range(6) for p in collage(folder, truths[0], 0, i, donors, truths, 0.0, 0.0).parts]
    astray = [p for i in range(6) for p in collage(folder, truths[0], 0, i, donors, truths, 0.0, 0.5).parts]
    near, far = (np.mean([iou(part.asked, part.painted) for part in parts]) for parts in (exact, astray))
    assert near > 0.75 > far


def test_the_threshold_is_the_lowest_with_the_wanted_precision() -> None:
    right = [(0.9 - 0.01 * i, True) for i in range(9)]
    assert threshold([*right, (0.5, False), (0.4, False)], 0.9) == 0.5, "nine of ten"
    assert threshold([(0.9, False), (0.8, True)], 0.9) == 0.9, "never so good: the surest tenth"
    assert threshold([], 0.9) == 0.0


def test_a_long_phrase_has_the_rest_of_its_caption() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    parts = [Part(text, box, box, True) for text in ("red mug", "bowl", "plate")]
    assert longer(parts, 1) == "bowl with red mug and plate"
    assert longer(parts[:1], 0) == "red mug"


@pytest.mark.slow
def test_synground_in_its_quick_size(tmp_path: Path) -> None:
    asked = [
        "lab",
        "synground",
        "--quick",
        "--seeds",
        "1",
        "--home",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    values = {one["arm"]: one["values"] for one in result["measurements"]}
    assert list(values) == [arm.name for arm in ARMS]
    assert all(0 <= one["pointing"] <= 1 for one in values.values())
    assert values["before"]["boxes"] == values["no boxes"]["boxes"] == 0 < values["real"]["boxes"]
    assert values["real + synthetic"]["boxes"] == values["real"]["boxes"] + values["synthetic"]["boxes"]

"""The DetCLIPv2 lab: what its arms are shown, and the whole in small."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from engine.labs import lab, paired
from engine.labs.detclip import ARMS, BOXES, CLASSES, METRICS, OPTIONS, PAIRS, QUICK, Bench, Size, notes
from engine.pair_options import PairOptions

SMALL = msgspec.structs.replace(QUICK, boxed=12, captioned=12, single=6)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(SMALL, tmp_path_factory.mktemp("lab"))


def test_new_kinds_are_never_boxed_and_never_in_a_boxed_image(bench: Bench) -> None:
    new = {bench._names[place] for place in SMALL.new}
    boxed = bench._truths("boxed")
    assert len(boxed) == 12 and not new & {thing.kind for truth in boxed for thing in truth.objects}
    spoken = {thing.kind for truth in bench._truths("captioned") for thing in truth.objects}
    assert new & spoken, "they are spoken of"


def test_arms_differ_in_what_their_captions_are(bench: Bench) -> None:
    boxes, said, classes = (bench._lines(arm) for arm in (BOXES, PAIRS, CLASSES))
    assert len(boxes) == 12 and boxes == said[:12] == classes[:12]
    assert all(line.detection is None and line.grounding for line in said[12:] + classes[12:])
    assert {line.grounding.caption for line in classes[12:] if line.grounding} <= set(bench._names)


def test_every_arm_has_options_that_a_training_takes() -> None:
    assert set(OPTIONS) == {arm.name for arm in ARMS}
    for options in OPTIONS.values():
        PairOptions(**options)
    assert all(told for told in notes(Size()))


@pytest.mark.slow
def test_the_lab_runs_in_small(tmp_path: Path) -> None:
    study = lab("detclip").study(True, tmp_path / "work")
    result = paired.run(study, 1, tmp_path / "out", say=lambda text: None)
    assert set(result.means) == {arm.name for arm in ARMS}
    assert all(math.isfinite(result.means[arm.name][metric].mean) for arm in ARMS for metric in METRICS)

"""The measurements on known truth: faults do what they say, and the figures are those of samples worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from db.records import WHOLE
from engine.filters import FILTERS
from engine.pixels import crop, rectangle
from engine.tabletop import holds, paint, preset
from engine.tabletop.statements import write_statements
from studio.measure import bound, faults, filters
from studio.measure.faults import OF_PAINTINGS, Painting
from studio.measure.filters import MEANT_FOR, Sample
from studio.measure.world import UNJUDGED

SCENE = paint(5, 0, preset("standard"))
BOX = SCENE.truth.objects[0].box
TOUCHED = rectangle(BOX, SCENE.image.shape, margin=20)


def painting() -> Painting:
    image = SCENE.image.copy()
    crop(image, TOUCHED)[...] = np.random.default_rng(0).integers(60, 200, crop(image, TOUCHED).shape)
    return Painting(image, SCENE.image, BOX, BOX, (TOUCHED,), SCENE.truth.objects[0].kind)


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    wide, high = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0) * max(high, 0) / ((one[2] - one[0]) * (one[3] - one[1]))


@pytest.mark.parametrize("name", OF_PAINTINGS)
def test_a_fault_spoils_what_it_is_named_for_and_nothing_else(name: str) -> None:
    good = painting()
    bad = OF_PAINTINGS[name](good, np.random.default_rng(3))
    changed = (bad.image != good.image).any(-1)
    outside = changed.copy()
    crop(outside, TOUCHED)[...] = False
    assert outside.any() == (name in ("noise outside", "ugly picture"))
    assert changed.any() == ("box" not in name and "class" not in name)
    assert (bad.category != good.category) == ("class" in name)
    assert (overlap(bad.xyxy, good.xyxy) < 0.6) == (name == "misplaced box")
    assert (overlap(bad.asked, bad.xyxy) < 0.6) == (name == "drifted box")
    height, width = bad.image.shape[:2]
    assert 0 <= bad.xyxy[0] < bad.xyxy[2] <= width and 0 <= bad.xyxy[1] < bad.xyxy[3] <= height


def test_wider_words_are_true_of_what_they_stand_for() -> None:
    rng = np.random.default_rng(0)
    assert faults.wider("a red apple", rng) in ("a red fruit", "a red object")
    assert faults.wider("nothing known", rng) is None


def test_every_filter_is_measured_by_faults_that_are_made() -> None:
    texts = {"same words", "still true", "wider word", "rambling", "two edits", "broken form", "foreign"}
    made = {*OF_PAINTINGS, *texts, "unchanged", "other look", "covers another"}
    edits = {name for name, one in FILTERS.items() if not one.kinds <= WHOLE}
    assert set(MEANT_FOR) == edits - {
        "learned",
        "soft_agreement",
    }  # the one has its own study, the other is for class images
    assert {fault for own in MEANT_FOR.values() for fault in own} <= made and set(UNJUDGED) <= made


def test_statements_of_the_world_are_judged_by_its_grammar() -> None:
    """Candidates are called good by `holds`; it must know what the world itself says."""
    true, false = write_statements(SCENE.truth, np.random.default_rng(1))
    assert true and all(holds(SCENE.truth, one.text) is True for one in true)
    assert false and all(holds(SCENE.truth, one.text) is False for one in false)


def sample(seam: list[float], good: list[bool], fault: str = "hard edge") -> Sample:
    n = len(good)
    return Sample(
        names=("seam",),
        values=np.array(seam, float)[:, None],
        images=np.arange(n),
        kinds=np.array(["instance"] * n),
        good=np.array(good),
        known=np.ones(n, bool),
        faults=np.array(["" if one else fault for one in good]),
    )


def test_figures_of_a_filter_by_hand() -> None:
    found = filters.judged(FILTERS["seam"], sample([1, 2, 9, np.nan, 2.5, 8], [True, True, True, True, False, False]))
    assert found["auc"][0] == pytest.approx((2 + 2 + 0 + 0) / 8)  # 9 and "no value" lie below both bad ones
    assert found["precision"][0] == pytest.approx(2 / 3) and found["recall"][0] == pytest.approx(2 / 4)
    assert found["own_caught"][0] == pytest.approx(1 / 2) and found["without_value"] == 1
    assert found["caught"] == {"hard edge": 0.5}


def test_faults_that_only_some_call_bad_count_for_these_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "UNJUDGED", ("hard edge",))
    found = filters.judged(FILTERS["seam"], sample([1, 2, 9, 8], [True, True, False, False]))
    assert found["n"] == 2 and found["auc"] is None and found["own_auc"][0] == 1


def test_the_best_threshold_parts_what_can_be_parted() -> None:
    level = filters.best(
        FILTERS["seam"], np.array([1, 2, 3, 7, 8, np.nan]), np.array([True, True, True, False, False, True])
    )
    assert level is not None and 3 <= level < 7


def row(rows: list[dict], what: str) -> dict:  # type: ignore[type-arg]
    (found,) = (one for one in rows if what in one["construction"])
    return found


def test_coverage_is_counted_against_the_truth() -> None:
    rng = np.random.default_rng(0)
    seen = rng.permuted(np.broadcast_to(np.arange(400) < 40, (300, 400)), axis=1)[:, :60]
    rows = bound._plain(seen, 40, 400, alpha=0.25)
    held, peeking = row(rows, "read once")["coverage"][0], row(rows, "anytime")["coverage"][0]
    assert held > 0.9 and peeking > 0.9 and row(rows, "misuse")["coverage"][0] < held
    assert 0.1 < row(rows, "read once")["mean_bound"] < row(rows, "anytime")["mean_bound"] < 0.4


def lying(strata: object, delta: float) -> int:
    return 0


def test_a_bound_that_does_not_hold_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    liar: Callable[..., int] = lying
    monkeypatch.setattr(bound.bound, "upper", liar)
    seen = np.random.default_rng(0).random((20, 30)) < 0.2
    assert row(bound._plain(seen, 10, 100, alpha=0.2), "anytime")["coverage"][0] == 0

"""The harness of the labs: statistics, going on after an interruption, refusals, files; and the labs in their quick size."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from typer.testing import CliRunner

from db.errors import NotFound, WinnowError
from db.store import Store
from engine.labs import LABS, lab, paired, report
from engine.labs.careless import CarelessPainter
from engine.labs.paired import Arm, Difference, Estimate, Study, estimate, run
from engine.roles import Context, Painted, PaintTask
from studio.cli import app

ARMS = (
    Arm("plain", "as it is"),
    Arm("better", "always 0.1 more", ("plain",)),
    Arm("odd", "now more, now less", ("plain",)),
)
ADDED = {"plain": 0.0, "better": 0.1, "odd": None}


class Measured:
    """A study that counts what it is asked for, and may be interrupted."""

    def __init__(self, interrupted_at: int | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self._limit = interrupted_at

    def __call__(self, arm: str, seed: int) -> dict[str, float]:
        if len(self.asked) == self._limit:
            raise KeyboardInterrupt
        self.asked.append((arm, seed))
        luck = float(np.random.default_rng(seed).uniform(0.2, 0.8))
        added = ADDED[arm]
        return {"AP": luck + (0.1 if seed % 2 else -0.1) if added is None else luck + added, "extra": 1.0}


def study(measure: paired.Measure, **settings: object) -> Study:
    return Study("test", "A test", ARMS, {"AP": "average precision"}, {"steps": 3, **settings}, measure, ("A note.",))


def quiet(line: str) -> None:
    pass


def of(found: tuple[Difference, ...], arm: str) -> Difference:
    return next(one for one in found if one.arm == arm)


# Statistics


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=3, max_size=9))
def test_the_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    gaps = [a - b for a, b in pairs]
    if np.std(gaps) < 1e-6:
        return
    found = estimate(gaps)
    known = ttest_rel([a for a, _ in pairs], [b for _, b in pairs]).confidence_interval(0.95)
    assert (found.n, found.mean) == (len(pairs), pytest.approx(np.mean(gaps)))
    assert (found.low, found.high) == (pytest.approx(known.low), pytest.approx(known.high))


def test_one_number_has_no_interval() -> None:
    assert estimate([0.3]) == Estimate(1, 0.3, None, None)


def test_pairing_removes_what_the_seed_decides(tmp_path: Path) -> None:
    result = run(study(Measured()), 5, tmp_path, quiet)
    better, odd = of(result.differences, "better"), of(result.differences, "odd")
    assert better.shown and better.better == 5
    assert better.estimate.low == pytest.approx(0.1) and better.estimate.high == pytest.approx(0.1)
    assert not odd.shown and odd.better == 2
    assert result.means["plain"]["AP"].high - result.means["plain"]["AP"].low > 0.1  # type: ignore[operator]


# Going on


def test_an_interrupted_study_goes_on_where_it_was(tmp_path: Path) -> None:
    first = Measured(interrupted_at=4)
    with pytest.raises(KeyboardInterrupt):
        run(study(first), 3, tmp_path, quiet)
    rest = Measured()
    result = run(study(rest), 3, tmp_path, quiet)
    assert first.asked + rest.asked == [(arm.name, seed) for seed in range(3) for arm in ARMS]
    whole = run(study(Measured()), 3, tmp_path / "whole", quiet)
    assert [(m.arm, m.seed, m.values) for m in result.measurements] == [
        (m.arm, m.seed, m.values) for m in whole.measurements
    ]


def test_more_seeds_measure_only_what_is_new(tmp_path: Path) -> None:
    run(study(Measured()), 2, tmp_path, quiet)
    more, lines = Measured(), []
    result = run(study(more), 3, tmp_path, lines.append)
    assert {seed for _, seed in more.asked} == {2} and result.seeds == (0, 1, 2)
    assert lines[0] == "6 of 9 measurements are there already" and "left" in lines[1] and "left" not in lines[-1]


def test_measurements_of_other_settings_are_refused(tmp_path: Path) -> None:
    run(study(Measured()), 1, tmp_path, quiet)
    with pytest.raises(WinnowError, match="steps is 3, not 4"):
        run(study(Measured(), steps=4), 1, tmp_path, quiet)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    run(study(Measured()), 1, tmp_path, quiet)
    path = tmp_path / paired.MEASUREMENTS
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WinnowError, match="damaged"):
        run(study(Measured()), 1, tmp_path, quiet)


# Refusals


@pytest.mark.parametrize(
    "arms, seeds", [((Arm("a", ""), Arm("a", "")), 1), ((Arm("a", "", ("b",)),), 1), ((Arm("a", ""),), 0)]
)
def test_a_study_that_makes_no_sense_is_refused(arms: tuple[Arm, ...], seeds: int, tmp_path: Path) -> None:
    with pytest.raises(WinnowError, match="cannot run"):
        run(Study("test", "A test", arms, {}, {}, Measured()), seeds, tmp_path, quiet)


@pytest.mark.parametrize("values", [{}, {"AP": math.nan}])
def test_a_measurement_without_a_number_is_refused(values: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(WinnowError, match="'plain' with seed 0 gave no number for AP"):
        run(study(lambda arm, seed: values), 1, tmp_path, quiet)


# Files


def test_the_result_is_written_to_be_read(tmp_path: Path) -> None:
    result = run(study(Measured()), 3, tmp_path, quiet, "winnow lab test --seeds 3")
    report.write(result, tmp_path)
    kept = json.loads((tmp_path / report.RESULTS).read_bytes())
    assert kept["command"] == "winnow lab test --seeds 3" and kept["settings"] == {"steps": 3}
    assert len(kept["measurements"]) == 9 and kept["measurements"][0]["values"]["extra"] == 1.0
    assert kept["versions"]["python"] and kept["seconds"] > 0
    table = (tmp_path / report.TABLE).read_text()
    assert "| better vs plain | **+10.0 (+10.0 to +10.0)** |" in table and "A note." in table
    assert (tmp_path / report.PLOT).read_bytes().startswith(b"\x89PNG")


def test_an_unknown_lab_lists_the_known_ones() -> None:
    with pytest.raises(NotFound, match="gen2det"):
        lab("gen3det")


# The labs


def test_the_careless_painter_errs_at_its_rate(store: Store, dataset) -> None:  # type: ignore[no-untyped-def]
    boxes = [
        box for some in store.datasets.boxes_of([store.datasets.images(dataset.id)[0].id]).values() for box in some
    ]
    names = {category.id: category.name for category in store.datasets.categories(dataset.id)}
    image = np.full((120, 160, 3), 128, np.uint8)
    tasks = [
        PaintTask(image=image, xyxy=box.xyxy, prompt="", seed=seed, category=names[box.category_id or 0], box_id=box.id)
        for seed in range(10)
        for box in boxes
    ]
    for rate, low, high in ((0.0, 0, 0), (0.5, 0.2, 0.8), (1.0, 1, 1)):
        done = CarelessPainter(Context(store, dataset.id), wrong=rate).paint(tasks)
        assert all(isinstance(one, Painted) for one in done)
        wrong = [one.detail["painted"] != task.category for one, task in zip(done, tasks, strict=True)]  # type: ignore[union-attr]
        assert low <= np.mean(wrong) <= high


def test_gen2det_in_its_quick_size(tmp_path: Path) -> None:
    asked = [
        "lab",
        "gen2det",
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
    assert [arm["name"] for arm in result["arms"]][:2] == ["real only", "naive mixing"] and result["seeds"] == [0]
    assert all(0 <= m["values"]["mAP"] <= 1 for m in result["measurements"]) and len(result["measurements"]) == 5
    folder = next((tmp_path / "labs" / "gen2det-quick" / "work").glob("*/seed-0"))
    counts = {}
    for name in ("real", "all", "filtered"):
        made = json.loads((folder / name / "train.json").read_bytes())
        counts[name] = (
            len(made["images"]),
            sum(image["synthetic"] for image in made["images"]),
            len(made["annotations"]),
        )
    assert counts["real"][:2] == (8, 0) and counts["all"][:2] == (16, 8)
    assert counts["filtered"] == counts["all"], "the quick filter lets everything pass: its judge has learnt nothing"
    assert set(LABS) >= {"gen2det"}

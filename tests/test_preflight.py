"""What a training will need is told before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.errors import WinnowError
from engine import preflight as asking
from engine.preflight import Preflight
from engine.training.preflight import preflight
from engine.training.task import TrainJob, job_from_json, job_to_json
from tests.test_training import OPTIONS, write_folder


def needs(**changes: object) -> Preflight:
    plain = {
        "images": 10,
        "generated": 4,
        "validation_images": 2,
        "parameters": 3_000_000,
        "disk_needed": 100,
        "disk_free": 1000,
        "memory_used": 100,
        "memory_free": 1000,
        "device": "CPU",
        "seconds": 3700.0,
        "images_per_s": 8.0,
    }
    return Preflight(**(plain | changes))  # type: ignore[arg-type]


def test_a_training_that_fits_has_no_faults() -> None:
    assert needs().faults() == []
    assert "about 1 h 2 min" in needs().lines()[-1]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [({"disk_free": 99}, "disk is too small"), ({"memory_used": 960}, "Memory is short")],
)
def test_what_is_short_is_said(changes: dict[str, object], fault: str) -> None:
    assert fault in needs(**changes).faults()[0] and fault in needs(**changes).lines()[-1]


def test_a_system_that_does_not_tell_its_memory_is_believed_to_have_enough() -> None:
    assert needs(memory_free=None, memory_used=1 << 60).faults() == []


def test_twenty_steps_say_what_the_whole_takes(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    job = TrainJob(data, tmp_path / "work", "tiny_atss", {**OPTIONS, "iterations": 5000, "eval_interval": 1000})
    found = preflight(job)
    assert (found.images, found.generated, found.validation_images) == (6, 3, 2)
    assert found.seconds > 5000 * OPTIONS["batch_size"] / found.images_per_s > 0
    assert found.disk_needed == found.parameters * 44 and found.memory_used > 1e8
    assert not (tmp_path / "work").exists(), "nothing is left behind"


def test_a_job_survives_the_way_to_another_process(tmp_path: Path) -> None:
    job = TrainJob(tmp_path, tmp_path / "work", "tiny_atss", OPTIONS, seed=3, configs=tmp_path / "configs")
    again = job_from_json(job_to_json(job))
    assert (again.data, again.configs, again.seed) == (job.data, job.configs, 3)
    assert job_from_json(job_to_json(TrainJob(tmp_path, tmp_path, "x"))).configs is None


def test_the_other_process_says_why_it_cannot_be(tmp_path: Path) -> None:
    job = TrainJob(tmp_path / "nowhere", tmp_path / "work", "tiny_atss", OPTIONS)
    with pytest.raises(WinnowError, match="train.json is missing"):
        asking._asked(job_to_json(job))

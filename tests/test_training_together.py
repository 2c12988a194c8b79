"""A training in two processes over gloo: it shares the work, reports, stops, resumes, and fails with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.errors import WinnowError
from engine.training.together import SAID, Line, Speaker, _Lines, train_together
from tests.test_training import OPTIONS, Recorder, change, write_folder


def test_what_is_said_is_read_whole_and_once(tmp_path: Path) -> None:
    speaker, lines = Speaker(tmp_path), _Lines(tmp_path / SAID)
    assert list(lines.new()) == []
    speaker.metrics(10, {"loss": 1.0})
    speaker.log("a\nb")
    assert list(lines.new()) == [Line(metrics=(10, {"loss": 1.0})), Line(log="a\nb")]
    with (tmp_path / SAID).open("ab") as file:
        file.write(b'{"log": "half')
    assert list(lines.new()) == []
    with (tmp_path / SAID).open("ab") as file:
        file.write(b' a line"}\n')
    assert list(lines.new()) == [Line(log="half a line")]


@pytest.mark.slow
def test_two_processes_learn_like_one_with_batches_of_twice_the_size(tmp_path: Path) -> None:
    """The samplers split what one process would have drawn; the losses differ by the normalisation over half batches."""
    from engine.training.launch import TrainJob, train

    data = write_folder(tmp_path / "data")
    one, two = Recorder(), Recorder()
    train(TrainJob(data, tmp_path / "one", "tiny_atss", {**OPTIONS, "batch_size": 4}), one)
    job = TrainJob(data, tmp_path / "two", "tiny_atss", {**OPTIONS, "processes": 2})
    assert train(job, Recorder(stop_after=1))["stopped"]
    result = train(job, two)
    assert result["iterations"] == OPTIONS["iterations"] and "mAP" in result
    losses = [recorder.points[-2][1]["loss"] for recorder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=0.15)


@pytest.mark.slow
def test_what_stops_one_process_is_told(tmp_path: Path) -> None:
    from engine.training.launch import TrainJob

    data = write_folder(tmp_path / "data")
    change(data / "train.json", lambda d: d["annotations"].clear())
    with pytest.raises(WinnowError, match="no box to learn from"):
        train_together(TrainJob(data, tmp_path / "work", "tiny_atss", OPTIONS), Recorder(), 2)

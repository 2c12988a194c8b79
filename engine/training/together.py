"""One training in several processes, by torchrun: one for each GPU, or on a CPU by gloo.

The processes tell what happens as lines of JSON in a file that this one follows; a file named `stop` asks them to end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from db.errors import WinnowError
from engine.control import Silent
from engine.training.hooks import Reporter
from engine.training.task import TrainJob, job_from_json, job_to_json

LOOK = 0.2  # seconds between two looks at what the processes said
PATIENCE = 60.0  # seconds that processes get to end by themselves
STOP, SAID, ERRORS = "stop", "said.jsonl", "processes.log"


class Line(msgspec.Struct, omit_defaults=True):
    """A message of a process: one of its fields."""

    metrics: tuple[int, dict[str, float]] | None = None
    progress: tuple[int, int] | None = None
    log: str | None = None
    error: str | None = None
    crash: str | None = None
    result: dict[str, Any] | None = None


class Speaker:
    """The reporter of the first process: says everything in the file, and looks for the wish to stop."""

    def __init__(self, work: Path) -> None:
        self._said, self._stop = work / SAID, work / STOP

    def say(self, line: Line) -> None:
        with self._said.open("ab") as file:  # one write, so that the lines of several processes do not mix
            file.write(msgspec.json.encode(line) + b"\n")

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.say(Line(metrics=(step, values)))

    def progress(self, done: int, total: int) -> None:
        self.say(Line(progress=(done, total)))

    def stop_requested(self) -> bool:
        return self._stop.exists()

    def log(self, text: str) -> None:
        self.say(Line(log=text))


def train_together(job: TrainJob, reporter: Reporter, processes: int) -> dict[str, Any]:
    """What `launch.train` returns, of a training by so many processes. Raises WinnowError when one of them fails."""
    job.work.mkdir(parents=True, exist_ok=True)
    for name in (STOP, SAID):
        (job.work / name).unlink(missing_ok=True)
    (job.work / "job.json").write_bytes(job_to_json(job))
    with (job.work / ERRORS).open("wb") as errors:
        launcher = subprocess.Popen(_command(job.work, processes), stdout=errors, stderr=errors, start_new_session=True)
        try:
            return _follow(launcher, job.work, reporter)
        finally:
            _end(launcher)


def _command(work: Path, processes: int) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, "-m", "engine.training.together", str(work)]


def _follow(launcher: subprocess.Popen[bytes], work: Path, reporter: Reporter) -> dict[str, Any]:
    """Passes on what is said until all have ended, and returns the result."""
    lines, result, asked = _Lines(work / SAID), None, False
    while True:
        ended = launcher.poll() is not None  # before reading, so that the last words are read
        for line in lines.new():
            if line.error is not None:
                raise WinnowError(line.error)
            if line.crash is not None:
                raise RuntimeError(f"A process of the training failed.\n{line.crash}")
            result = line.result or result
            _pass_on(line, reporter)
        if ended:
            return _outcome(result, work)
        if not asked and reporter.stop_requested():
            (work / STOP).touch()
            asked = True
        time.sleep(LOOK)


def _pass_on(line: Line, reporter: Reporter) -> None:
    if line.metrics is not None:
        reporter.metrics(*line.metrics)
    if line.progress is not None:
        reporter.progress(*line.progress)
    if line.log is not None:
        reporter.log(line.log)


def _outcome(result: dict[str, Any] | None, work: Path) -> dict[str, Any]:
    if result is None:
        told = (work / ERRORS).read_text(errors="replace").strip().splitlines()[-20:]
        raise WinnowError("A process of the training ended without a result. It said last:\n" + "\n".join(told))
    return result


class _Lines:
    """The lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, 0

    def new(self) -> Iterator[Line]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._seen)
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                self._seen += len(raw)
                yield msgspec.json.decode(raw, type=Line)


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """Ends the launcher and with it its processes, if they are still there."""
    if launcher.poll() is None:
        os.killpg(launcher.pid, signal.SIGTERM)
    try:
        launcher.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def main(work: Path) -> None:
    """One of the processes that torchrun starts."""
    from engine.training.launch import train_here

    job = job_from_json((work / "job.json").read_bytes())
    speaker = Speaker(work)
    try:
        first = _join()
        result = train_here(job, speaker if first else Silent())
    except WinnowError as error:
        speaker.say(Line(error=str(error)))
        raise
    except Exception:
        speaker.say(Line(crash=traceback.format_exc()))
        raise
    if first:
        speaker.say(Line(result=result))
    torch.distributed.destroy_process_group()


def _join() -> bool:
    """Meets the other processes; returns whether this is the first. mmengine would insist on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return torch.distributed.get_rank() == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))

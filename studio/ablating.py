"""Starting and following paired ablations: what the button and `winnow ablate` do."""

from __future__ import annotations

import time
from typing import Any

from db.records import State
from engine import ablation
from engine.ablation import Ablation
from studio import actions
from studio.actions import Progress
from studio.context import Studio

FOLLOW_SECONDS = 1.0


def start(
    studio: Studio,
    *,
    without: str | int,
    with_: str | int,
    seeds: int,
    preset: str,
    options: dict[str, Any],
    split: str | None = None,
) -> Ablation:
    """Queue what is missing of an ablation; see `engine.ablation.start`."""
    made = ablation.start(
        studio.store, without=without, with_=with_, seeds=seeds, preset=preset, options=options, split=split
    )
    if studio.doorbell is not None:
        for run in made.runs:
            if run.state is State.QUEUED:
                studio.doorbell.ring(run.id)
    return made


def follow(studio: Studio, key: str, progress: Progress | None = None) -> Ablation:
    """Wait until all runs of an ablation have ended. Without a living worker, one is started for the time being."""
    from studio.serve import beside

    if actions.has_worker(studio):
        return _until_ended(studio, key, progress)
    with beside(studio.settings):
        return _until_ended(studio, key, progress)


def _until_ended(studio: Studio, key: str, progress: Progress | None) -> Ablation:
    while True:
        now = ablation.find(studio.store, key)
        if progress is not None:
            progress(sum(run.done for run in now.runs), sum(run.total for run in now.runs))
        if now.ended:
            return now
        time.sleep(FOLLOW_SECONDS)

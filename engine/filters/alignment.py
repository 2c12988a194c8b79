"""Whether the words of a caption are to be seen, by the detector that was trained here on pairs (DetCLIPv2, METHODS 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from db.errors import WinnowError
from engine.alignments import aligners
from engine.filters.judgement import Judgement
from engine.roles import Context, model_folder
from engine.subject import Subject

if TYPE_CHECKING:
    from engine.training.align import Aligner

NO_MODEL = (
    "no detector of DetCLIPv2 was trained here yet: train the preset tiny_detclip or detclip_swin_t on this data set"
)


def pair_alignment(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """The mean over the caption and its noun phrases of the cosine with the region that fits best, s_T; the reason names the
    phrase that fits worst."""
    folder = _newest(context)
    if folder is None:
        return [Judgement(None, NO_MODEL)] * len(subjects)
    try:
        aligner = _loaded(folder, folder.stat().st_mtime_ns, context.device)
    except WinnowError as error:
        return [Judgement(None, str(error))] * len(subjects)
    return [_judged(subject, aligner) for subject in subjects]


def _judged(subject: Subject, aligner: Aligner) -> Judgement:
    caption = subject.candidate.content.caption.strip()
    if not caption:
        return Judgement(None, "the candidate has no caption")
    try:
        image = subject.after if subject.candidate.digest else subject.before
    except WinnowError as error:
        return Judgement(None, str(error))
    assert image is not None
    words = aligner.align(image, caption)
    worst = min(words[1:] or words, key=lambda word: word.best)
    value = sum(word.best for word in words) / len(words)
    return Judgement(value, f"“{worst.text}” fits its best region least ({worst.best:+.2f})")


def _newest(context: Context) -> Path | None:
    found = aligners(context.store, context.dataset_id) or aligners(context.store)
    folders = (model_folder(context.store.home, run.id) for run in found)
    return next((folder for folder in folders if folder.is_dir()), None)


@lru_cache(maxsize=1)
def _loaded(folder: Path, changed: int, device: str) -> Aligner:
    from engine.training.align import Aligner

    return Aligner(folder, "cpu" if device == "auto" else device)

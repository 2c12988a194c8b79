"""What a filter is: a measure of candidates, each value with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from db.errors import WinnowError
from db.records import XYXY, Kind, Rule
from engine.roles import Context
from engine.subject import Subject

TEXTS = frozenset((Kind.NEGATIVE_TEXT, Kind.NEGATIVE_IMAGE))
IMAGES = frozenset((Kind.NEGATIVE_IMAGE, Kind.INSTANCE))


class Judgement(NamedTuple):
    """A value and the reason for it; value None when the filter cannot judge."""

    value: float | None
    reason: str


Score = Callable[[Sequence[Subject], Context], list[Judgement]]


@dataclass(frozen=True)
class Filter:
    """One measure. `help` is a sentence for the UI, `default` the rule of a fresh policy, `roles` what it takes from the
    model pack."""

    name: str
    title: str
    help: str
    kinds: frozenset[Kind]
    better: Literal["higher", "lower"]
    default: Rule
    judge: Score
    roles: tuple[str, ...] = ()

    def score(self, subjects: Sequence[Subject], context: Context) -> list[Judgement]:
        """A judgement for each subject, in order. Raises ValueError when a value is no finite number."""
        judged = self.judge(subjects, context) if subjects else []
        for judgement in judged:
            if judgement.value is not None and not math.isfinite(judgement.value):
                raise ValueError(f"filter {self.name} gave {judgement.value}: {judgement.reason}")
        return judged


def each(judge: Callable[[Subject], Judgement]) -> Score:
    """A filter that looks at one subject at a time; an unreadable image is a reason, not a failure."""

    def score(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
        return [readable(judge, subject) for subject in subjects]

    return score


def readable(judge: Callable[[Subject], Judgement], subject: Subject) -> Judgement:
    """The judgement; what keeps the subject from being judged becomes the reason of one without value."""
    try:
        return judge(subject)
    except WinnowError as error:
        return Judgement(None, str(error))


def texts_of(subject: Subject) -> tuple[str, str]:
    """The text before and after. Raises WinnowError when the candidate has not both."""
    before, after = subject.candidate.text_before, subject.candidate.text_after
    if not before or not after:
        raise WinnowError("the candidate has no text before and after")
    return before, after


def image_of(subject: Subject) -> np.ndarray:
    """The image that the candidate proposes. Raises WinnowError when it has none or it cannot be read."""
    if subject.after is None:
        raise WinnowError("the candidate has no image")
    return subject.after


def xyxy_of(subject: Subject) -> XYXY:
    """The candidate's box. Raises WinnowError when it has none."""
    if subject.candidate.xyxy is None:
        raise WinnowError("the candidate has no box")
    return subject.candidate.xyxy

"""What the verdicts given so far say of a candidate."""

from __future__ import annotations

from collections.abc import Sequence

from engine.filters.judgement import Judgement
from engine.roles import Context
from engine.subject import Subject


def learned(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """How likely people are to accept it, by the filter that was learned from their verdicts (`engine.learned`)."""
    from engine.learned import judge  # scikit-learn is imported when it is used

    candidates = [subject.candidate for subject in subjects]
    return [Judgement(*one) for one in judge(context.store, context.dataset_id, candidates)]

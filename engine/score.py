"""Raw filter values for stored candidates."""

from __future__ import annotations

from collections.abc import Sequence

from db.records import Score
from engine.filters import FILTERS
from engine.roles import Context
from engine.subject import subjects


def score(context: Context, candidate_ids: Sequence[int], names: Sequence[str]) -> list[Score]:
    """The values of the named filters for the candidates each applies to."""
    everyone = subjects(context, candidate_ids)
    scores: list[Score] = []
    for name in names:
        chosen = FILTERS[name]
        judged = [subject for subject in everyone if subject.candidate.kind in chosen.kinds]
        for subject, judgement in zip(judged, chosen.score(judged, context), strict=True):
            scores.append(
                Score(candidate_id=subject.candidate.id, filter=name, value=judgement.value, reason=judgement.reason)
            )
    return scores

"""What CLIP takes a picture for: its soft label over all classes of the data set (RichSem, METHODS 3.2.4)."""

from __future__ import annotations

from collections.abc import Sequence

from db.errors import WinnowError
from engine.embeddings import Embeddings, Region
from engine.filters.embedded import NO_EMBEDDER, embeddings, region_of
from engine.filters.judgement import Judgement
from engine.roles import Context
from engine.soft_labels import SCALE, class_texts, soft_labels, top
from engine.subject import Subject

SHOWN = 3  # classes in a reason


def soft_agreement(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """The share of its own class in the soft label of each candidate's box."""
    try:
        remembered = embeddings(context)
    except WinnowError as error:
        return [Judgement(None, str(error))] * len(subjects)
    if remembered is None:
        return [Judgement(None, NO_EMBEDDER)] * len(subjects)
    places = [_place(subject) for subject in subjects]
    names = list(subjects[0].categories.values())
    regions = [place for place in places if isinstance(place, Region)]
    texts = class_texts(remembered, names)
    found = soft_labels(remembered, regions, texts, subjects[0].load, scale_of(remembered))
    rows = iter(range(len(regions)))
    judged = []
    for subject, place in zip(subjects, places, strict=True):
        if isinstance(place, str):
            judged.append(Judgement(None, place))
        elif (row := next(rows)) in found.unread:
            judged.append(Judgement(None, found.unread[row]))
        else:
            shares = found.shares[row]
            told = ", ".join(f"{name} {float(share):.0%}" for name, share in top(shares, names, SHOWN))
            judged.append(Judgement(float(shares[names.index(subject.category or "")]), f"CLIP sees {told}"))
    return judged


def scale_of(remembered: Embeddings) -> float:
    """exp(s) of the embedder's logits; CLIP's usual 100 where it does not tell."""
    return float(getattr(remembered.embedder, "scale", SCALE))


def _place(subject: Subject) -> Region | str:
    """What is looked at: the candidate's box in its own image, or in the one that is judged itself."""
    if subject.category is None:
        return "the candidate has no class"
    try:
        return region_of(subject, subject.candidate.digest or subject.image.digest, share=0.0)
    except WinnowError as error:
        return str(error)

"""What a whole image says of itself: whether its phrases have boxes, how sure these are, and whether image and words agree."""

from __future__ import annotations

from collections.abc import Sequence

from db.errors import WinnowError
from db.records import Content, Kind
from engine.claims import plain_name
from engine.embeddings import Region
from engine.filters.embedded import NO_EMBEDDER, embeddings
from engine.filters.judgement import Judgement
from engine.roles import Context
from engine.subject import Subject

SHOWN = 60  # characters of a caption in a reason


def phrase_coverage(subject: Subject) -> Judgement:
    """The share of the phrases that name at least one box."""
    content = _content(subject)
    if not content.phrases:
        return Judgement(None, "the candidate has no phrases")
    without = [named.text for named in content.phrases if not named.boxes]
    share = 1 - len(without) / len(content.phrases)
    told = f"no box for {', '.join(f'“{text}”' for text in without)}" if without else "every phrase has a box"
    return Judgement(share, told)


def least_score(subject: Subject) -> Judgement:
    """The score of the least sure box."""
    scored = [box.score for box in _content(subject).boxes if box.score is not None]
    if not scored:
        return Judgement(None, "no detector has placed its boxes")
    return Judgement(min(scored), f"the least sure of {len(scored)} boxes")


def caption_agreement(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
    """Cosine similarity of the embeddings of the whole image and of its caption, of a class image with "a photo of a NAME"
    (the CLIP score of Hessel et al., 2021, without its factor)."""
    try:
        remembered = embeddings(context)
    except WinnowError as error:
        return [Judgement(None, str(error))] * len(subjects)
    if remembered is None:
        return [Judgement(None, NO_EMBEDDER)] * len(subjects)
    said = [_said(subject) for subject in subjects]
    digests = [subject.candidate.digest or subject.image.digest for subject in subjects]
    regions = list(dict.fromkeys(Region(digest) for digest in digests if digest))
    texts = list(dict.fromkeys(text for text in said if text))
    pictures = dict(zip(regions, remembered.images(regions, subjects[0].load) if regions else (), strict=True))
    words = dict(zip(texts, remembered.texts(texts) if texts else (), strict=True))
    found: list[Judgement] = []
    for text, digest in zip(said, digests, strict=True):
        picture = pictures[Region(digest)] if digest else "the candidate has no image"
        if not text or isinstance(picture, str):
            found.append(Judgement(None, picture if isinstance(picture, str) else "the candidate has no caption"))
            continue
        value = float(picture @ words[text])
        found.append(
            Judgement(value, f"the image is {value:.3f} like “{text[:SHOWN]}{'…' if len(text) > SHOWN else ''}”")
        )
    return found


def _said(subject: Subject) -> str:
    """What should be true of the whole image."""
    if subject.candidate.kind is Kind.CLASS_IMAGE:
        return f"a photo of a {plain_name(subject.category)}" if subject.category else ""
    return _content(subject).caption


def _content(subject: Subject) -> Content:
    if "content" not in subject.candidate.detail:
        raise WinnowError("the candidate does not say what its image contains")
    return subject.candidate.content

"""What an embedder (CLIP) says of a candidate: its picture beside its texts, and how its picture compares with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from db.errors import WinnowError
from db.records import XYXY, Kind
from engine.embeddings import Embeddings, Region
from engine.filters.boxes import ious
from engine.filters.judgement import Judgement, Score, readable, texts_of, xyxy_of
from engine.pixels import rectangle
from engine.roles import Context, Embedder
from engine.subject import Subject

CONTEXT = 0.1  # of a box's longer side, seen around it (METHODS 1.2, F2)
LEAST_RISE = 0.02  # delta of F2: what the edit must add to the similarity with the negative text
AREA, SIDE, ASPECT, OVERLAP = (0.01, 0.5), 32.0, 4.0, 0.3  # of F1: share of the image, pixels, ratio, IoU with others
FAILED_FIRST = -2.0  # below every difference of cosines
NO_EMBEDDER = "the model pack has no embedder: choose one that has, such as modern, or add one to your own pack"


def embeddings(context: Context) -> Embeddings | None:
    """The pack's embedder with its cache, None when it has none. Raises WinnowError when it cannot be loaded."""
    embedder = context.embedder()
    return _remembering(context, embedder) if embedder is not None else None


@lru_cache(maxsize=4)
def _remembering(context: Context, embedder: Embedder) -> Embeddings:
    return Embeddings(context.store.home / "cache" / "embeddings", embedder)


def region_of(subject: Subject, digest: str | None, *, share: float = CONTEXT) -> Region:
    """The candidate's box in a blob, `share` of its longer side wider all around; all of it without a box."""
    if digest is None:
        raise WinnowError(f"there is no file of the image {subject.image.file_name}")
    xyxy = _place(subject)
    if xyxy is None:
        return Region(digest)
    x1, y1, x2, y2 = xyxy
    area = rectangle(xyxy, (subject.image.height, subject.image.width), share * max(x2 - x1, y2 - y1))
    if area[0] >= area[2] or area[1] >= area[3]:
        raise WinnowError(f"the candidate's box {xyxy} lies outside its image")
    return Region(digest, area)


def _place(subject: Subject) -> XYXY | None:
    """The candidate's box, else that which it names, else the only one of its phrase."""
    candidate, boxes = subject.candidate, {box.id: box.xyxy for box in subject.boxes}
    if candidate.xyxy is not None or candidate.box_id is not None:
        return candidate.xyxy or boxes.get(candidate.box_id or 0)
    phrase = next((phrase for phrase in subject.phrases if phrase.id == candidate.phrase_id), None)
    return boxes.get(phrase.box_ids[0]) if phrase and len(phrase.box_ids) == 1 else None


@dataclass(frozen=True)
class _View:
    """The picture of a candidate that is compared with texts: `right` should be true of it, `wrong` should not.
    `before` is the same place as it was."""

    now: Region
    before: Region | None
    right: str
    wrong: tuple[str, ...]


def _view(subject: Subject) -> _View:
    candidate, image = subject.candidate, subject.image
    if candidate.kind is Kind.NEGATIVE_TEXT:
        right, wrong = texts_of(subject)
        return _View(region_of(subject, image.digest), None, right, (wrong,))
    if candidate.kind is Kind.CLASS_IMAGE and candidate.digest is None:
        return _of_class(subject, region_of(subject, image.digest), None)
    now = region_of(subject, candidate.digest)
    before = region_of(subject, image.digest) if image.digest else None
    if candidate.kind is Kind.NEGATIVE_IMAGE:
        wrong, right = texts_of(subject)
        return _View(now, before, right, (wrong,))
    return _of_class(subject, now, before)


def _of_class(subject: Subject, now: Region, before: Region | None) -> _View:
    if subject.category is None:
        raise WinnowError("the candidate has no class")
    others = tuple(name for name in subject.categories.values() if name != subject.category)
    return _View(now, before, _called(subject.category), tuple(map(_called, others)))


def _called(name: str) -> str:
    return f"a photo of a {name.replace('_', ' ')}"


@dataclass(frozen=True)
class _Seen:
    """Vectors of all views, by region and by text."""

    regions: Mapping[Region, np.ndarray | str]
    texts: Mapping[str, np.ndarray]

    def likeness(self, region: Region, text: str) -> float:
        """Cosine similarity. Raises WinnowError when the picture could not be read."""
        vector = self.regions[region]
        if isinstance(vector, str):
            raise WinnowError(vector)
        return float(vector @ self.texts[text])


Measure = Callable[[Subject, _View, _Seen], Judgement]


def compared(measure: Measure, *, before: bool = False) -> Score:
    """A filter that compares a candidate's picture with its texts; `before` is whether it also looks at the old one."""

    def score(subjects: Sequence[Subject], context: Context) -> list[Judgement]:
        try:
            remembered = embeddings(context)
        except WinnowError as error:
            return [Judgement(None, str(error))] * len(subjects)
        if remembered is None:
            return [Judgement(None, NO_EMBEDDER)] * len(subjects)
        views = [_or_reason(_view, subject) for subject in subjects]
        seen = _seen(remembered, subjects, [view for view in views if isinstance(view, _View)], before)
        return [
            Judgement(None, view) if isinstance(view, str) else judged(subject, view, seen)
            for subject, view in zip(subjects, views, strict=True)
        ]

    def judged(subject: Subject, view: _View, seen: _Seen) -> Judgement:
        return readable(lambda one: measure(one, view, seen), subject)

    return score


def _or_reason(make: Callable[[Subject], _View], subject: Subject) -> _View | str:
    try:
        return make(subject)
    except WinnowError as error:
        return str(error)


def _seen(remembered: Embeddings, subjects: Sequence[Subject], views: Sequence[_View], before: bool) -> _Seen:
    regions = [view.now for view in views]
    regions += [view.before for view in views if before and view.before is not None]
    texts = list(dict.fromkeys(text for view in views for text in (view.right, *view.wrong)))
    vectors = remembered.images(regions, subjects[0].load)
    return _Seen(dict(zip(regions, vectors, strict=True)), dict(zip(texts, remembered.texts(texts), strict=True)))


def agreement(subject: Subject, view: _View, seen: _Seen) -> Judgement:
    """Similarity of the picture with the text that should be true of it."""
    value = seen.likeness(view.now, view.right)
    return Judgement(value, f"the picture is {value:.3f} like {_short(view.right)}")


def margin(subject: Subject, view: _View, seen: _Seen) -> Judgement:
    """How much more the picture is like the text that should be true of it than like the one that should not (F2)."""
    if not view.wrong:
        return Judgement(None, "there is no other class to compare with")
    right = seen.likeness(view.now, view.right)
    wrong, text = max((seen.likeness(view.now, text), text) for text in view.wrong)
    return Judgement(right - wrong, f"{right:.3f} like {_short(view.right)}, {wrong:.3f} like {_short(text)}")


def delta(subject: Subject, view: _View, seen: _Seen) -> Judgement:
    """By how much the edit raised the similarity with the text that it should make true (F2)."""
    if view.before is None:
        return Judgement(None, "there is no picture before the edit")
    now, then = seen.likeness(view.now, view.right), seen.likeness(view.before, view.right)
    return Judgement(now - then, f"{now:.3f} like {_short(view.right)} after the edit, {then:.3f} before it")


def two_step(subject: Subject, view: _View, seen: _Seen) -> Judgement:
    """Enhanced Negatives' filter (METHODS 1.2, step 3): first the box (F1), then the picture (F2). Above 0 when the picture is
    more like the negative text than like the positive one, and the edit raised that by more than LEAST_RISE; the
    smaller of both distances."""
    if fault := _box_fault(subject):
        return Judgement(FAILED_FIRST, f"step 1: {fault}")
    compared_, rise = margin(subject, view, seen), delta(subject, view, seen)
    if compared_.value is None or rise.value is None:
        return compared_ if compared_.value is None else rise
    if compared_.value <= rise.value - LEAST_RISE:
        return Judgement(compared_.value, f"step 2: {compared_.reason}")
    return Judgement(rise.value - LEAST_RISE, f"step 2, less {LEAST_RISE}: {rise.reason}")


def _box_fault(subject: Subject) -> str | None:
    """What F1 says against the candidate's box."""
    x1, y1, x2, y2 = xyxy = xyxy_of(subject)
    wide, high = x2 - x1, y2 - y1
    share = wide * high / (subject.image.width * subject.image.height)
    if not AREA[0] <= share <= AREA[1]:
        return f"the box is {share:.1%} of the image, it should be {AREA[0]:.0%} to {AREA[1]:.0%}"
    if min(wide, high) < SIDE:
        return f"the box is {wide:.0f}x{high:.0f} pixels, both should be at least {SIDE:.0f}"
    if max(wide, high) > ASPECT * min(wide, high):
        return f"the box is {wide:.0f}x{high:.0f}, one side should be at most {ASPECT:.0f} times the other"
    worst = _worst_overlap(subject, xyxy)
    return f"the box overlaps another by {worst:.2f}, it should by at most {OVERLAP}" if worst > OVERLAP else None


def _worst_overlap(subject: Subject, xyxy: XYXY) -> float:
    others = [box.xyxy for box in subject.boxes if box.id != subject.candidate.box_id and not box.crowd]
    return float(ious(np.array(others, np.float64).reshape(-1, 4), xyxy).max(initial=0.0))


def _short(text: str) -> str:
    return f"“{text if len(text) <= 48 else text[:47] + '…'}”"

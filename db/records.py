"""The nouns of Winnow as plain frozen values. Nothing here knows of a database, a file or a model.

Boxes are absolute float `xyxy` pixels, origin at the top left, `x2` and `y2` exclusive. Any other convention
exists only where a file is read or written, and is then named (`xywh`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

XYXY = tuple[float, float, float, float]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records: frozen, compared by value, JSON-serialisable by msgspec."""


class Fault(Record, frozen=True, kw_only=True):
    """One thing wrong with an input: where, which rule, what was seen, what would be right."""

    file: str
    item: str
    seen: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}: {self.item}: {self.seen}; expected {self.expected}"


class Dataset(Record, frozen=True, kw_only=True):
    id: int
    name: str
    format: str
    created_at: float
    info: dict[str, Any] = {}
    images: int = 0
    boxes: int = 0
    phrases: int = 0


class Image(Record, frozen=True, kw_only=True):
    """`digest` is the sha256 of the stored file, None for an annotation-only import. `extra` holds every field of
    the source record that Winnow has no column for, as read."""

    id: int
    file_name: str
    width: int
    height: int
    dataset_id: int = 0
    split: str = ""
    source_id: int | str | None = None
    digest: str | None = None
    extra: dict[str, Any] = {}


class Category(Record, frozen=True, kw_only=True):
    id: int
    name: str
    dataset_id: int = 0
    source_id: int | str | None = None
    frequency: str | None = None
    extra: dict[str, Any] = {}


class Box(Record, frozen=True, kw_only=True):
    """A ground-truth annotation. `segmentation` is the raw JSON of the source (polygons or RLE), untouched.

    `wh` is the (width, height) as written in the source when it gave sizes instead of corners: `x1 + w - x1` is not
    always `w` in floating point, and a file read and written again must not change.
    """

    id: int
    image_id: int
    xyxy: XYXY
    category_id: int | None = None
    source_id: int | str | None = None
    wh: tuple[float, float] | None = None
    area: float | None = None
    crowd: bool = False
    segmentation: bytes | None = None
    extra: dict[str, Any] = {}


class Phrase(Record, frozen=True, kw_only=True):
    """A text and the boxes it names. A caption is a phrase without parent; a phrase of a caption points to it and
    says where it stands in it (`spans`: character offsets, end exclusive). `holds` is False for a verified negative."""

    id: int
    image_id: int
    text: str
    parent_id: int | None = None
    spans: tuple[tuple[int, int], ...] = ()
    box_ids: tuple[int, ...] = ()
    holds: bool = True
    extra: dict[str, Any] = {}


class Kind(StrEnum):
    """What a candidate proposes."""

    NEGATIVE_TEXT = "negative_text"  # a text that is false of the image
    NEGATIVE_IMAGE = "negative_image"  # the box repainted so that the negative text becomes true
    INSTANCE = "instance"  # the box repainted with another instance of its own class (Gen2Det)
    TRIPLET = "triplet"  # an image made from words, with its phrases and the boxes of these (SynGround)
    CLASS_IMAGE = "class_image"  # an image that shows one class and is boxed as a whole (RichSem)
    PAIR = "pair"  # an image with its caption, without boxes (DetCLIPv2)


WHOLE = frozenset((Kind.TRIPLET, Kind.CLASS_IMAGE, Kind.PAIR))
"""Kinds that propose a whole image with its `Content`: a new one (`digest`), or, without, an image of the data set itself."""


class Placed(Record, frozen=True, kw_only=True):
    """A box of a whole image. `origin` says who placed it: "layout", "detector", "whole_image" or "person"."""

    xyxy: XYXY
    category_id: int | None = None
    score: float | None = None
    origin: str = "detector"


class Named(Record, frozen=True, kw_only=True):
    """A phrase of the caption: its words, where they stand in it (character offsets, end exclusive), and the numbers of the
    boxes that it names."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    boxes: tuple[int, ...] = ()


class Content(Record, frozen=True, kw_only=True):
    """What is said of a whole image. Kept as `detail["content"]` of a candidate, and as `edit["content"]` of a verdict that
    corrects it."""

    width: int
    height: int
    caption: str = ""
    phrases: tuple[Named, ...] = ()
    boxes: tuple[Placed, ...] = ()


class NewCandidate(Record, frozen=True, kw_only=True):
    """A candidate as a generator makes it. `(run, target, variant)` is its key: made twice, stored once."""

    target: str
    variant: int
    kind: Kind
    image_id: int
    seed: int
    category_id: int | None = None
    box_id: int | None = None
    phrase_id: int | None = None
    xyxy: XYXY | None = None
    text_before: str | None = None
    text_after: str | None = None
    digest: str | None = None
    detail: dict[str, Any] = {}

    @property
    def content(self) -> Content:
        """What a candidate of a kind in `WHOLE` says of its image, as it was made."""
        return msgspec.convert(self.detail["content"], Content)


class Candidate(NewCandidate, frozen=True, kw_only=True):
    """A stored candidate. `human` is the latest standing human verdict, None while nobody has decided."""

    id: int
    run_id: int
    dataset_id: int
    created_at: float
    human: str | None = None


class Score(Record, frozen=True, kw_only=True):
    """A raw filter value. `value` is None when the filter could not judge; it then never passes. `reason` says why
    the value is what it is."""

    candidate_id: int
    filter: str
    value: float | None
    reason: str = ""


class Decision(StrEnum):
    ACCEPT = "accept"
    REJECT = "reject"
    EDIT = "edit"  # accept, with the changes in `edit`
    SKIP = "skip"
    FLAG = "flag"  # decides nothing, like skip: to be talked about
    UNDO = "undo"  # takes back the verdict named by `undoes`


class NewVerdict(Record, frozen=True, kw_only=True):
    """A person's decision as it arrives. `op_id` makes a repeated delivery a no-op.

    `act` is the same for decisions given together. `seen` is the version of the candidate (the id of its latest verdict, 0 for
    none) that the person had before them: when somebody else has decided since, the verdict is not taken."""

    op_id: str
    candidate_id: int
    decision: Decision
    reviewer: str = "local"
    reason: str | None = None
    edit: dict[str, Any] | None = None
    undoes: str | None = None  # op_id of the verdict taken back
    act: str | None = None
    seen: int | None = None


class Verdict(NewVerdict, frozen=True, kw_only=True):
    id: int
    at: float


class Rule(Record, frozen=True, kw_only=True):
    """Passes when `value >= at_least` and `value <= at_most` (either may be absent). Speaks only of candidates whose
    kind is in `kinds`; of all kinds when that is empty.

    Rules of one `group` are alternatives: one that passes is enough. A rule with `classes` (category names) takes the place
    of the rules of its filter that name none, for candidates of those classes."""

    filter: str
    at_least: float | None = None
    at_most: float | None = None
    kinds: tuple[Kind, ...] = ()
    group: str = ""
    classes: tuple[str, ...] = ()

    def speaks_of(self, kind: str) -> bool:
        return not self.kinds or kind in self.kinds

    def passes(self, value: float | None) -> bool | None:
        """None when there is no value (None or NaN): an unknown never passes and never fails."""
        if value is None or math.isnan(value):
            return None
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


Term = tuple[Rule, ...]  # alternatives; a rule without group stands alone


class Decided(Record, frozen=True, kw_only=True):
    """What a policy says of a candidate (True accept, False reject, None pending) and the rules that made it say so: those that
    fail, else those without a value, else those that pass. None of them speaks of the candidate when there are none."""

    says: bool | None
    because: tuple[Rule, ...] = ()

    @property
    def by(self) -> Rule | None:
        """The first of the rules that decided."""
        return self.because[0] if self.because else None


class Policy(Record, frozen=True, kw_only=True):
    """All terms that speak of a candidate must pass for an automatic accept; one that fails rejects; an unknown one leaves it
    pending, and so does a candidate of which no rule speaks. A term is a rule, or all rules of a group: it passes when one of
    them passes and fails when all fail."""

    id: int
    name: str
    version: int
    rules: tuple[Rule, ...]
    created_at: float

    def terms(self, kind: str, category: str | None = None) -> tuple[Term, ...]:
        """The rules that judge a candidate of this kind and class, grouped, in the order of the policy."""
        spoken = [
            rule for rule in self.rules if rule.speaks_of(kind) and (not rule.classes or category in rule.classes)
        ]
        special = {rule.filter for rule in spoken if rule.classes}
        grouped: dict[object, list[Rule]] = {}
        for number, rule in enumerate(spoken):
            if rule.classes or rule.filter not in special:
                grouped.setdefault(rule.group or number, []).append(rule)
        return tuple(map(tuple, grouped.values()))

    def special(self, kind: str) -> dict[tuple[Term, ...], list[str]]:
        """Terms -> the names of the classes that have terms of their own for this kind; all other classes share `terms(kind)`."""
        named = dict.fromkeys(name for rule in self.rules if rule.speaks_of(kind) for name in rule.classes)
        found: dict[tuple[Term, ...], list[str]] = {}
        for name in named:
            found.setdefault(self.terms(kind, name), []).append(name)
        return found

    def decide(self, kind: str, scores: Mapping[str, float | None], category: str | None = None) -> bool | None:
        """True accept, False reject, None pending. `category` is the name of the candidate's class."""
        return self.explain(kind, scores, category).says

    def explain(self, kind: str, scores: Mapping[str, float | None], category: str | None = None) -> Decided:
        """What the policy says, and by which rules."""
        outcomes = [(term, _term(term, scores)) for term in self.terms(kind, category)]
        if not outcomes:
            return Decided(says=None)
        found = {outcome for _, outcome in outcomes}
        says = False if False in found else None if None in found else True
        deciding = (rule for term, outcome in outcomes if outcome is says for rule in term)
        return Decided(says=says, because=tuple(r for r in deciding if r.passes(scores.get(r.filter)) is says))


def _term(term: Term, scores: Mapping[str, float | None]) -> bool | None:
    found = {rule.passes(scores.get(rule.filter)) for rule in term}
    return True if True in found else None if None in found else False


class Snapshot(Record, frozen=True, kw_only=True):
    """A frozen selection. `digest` names the manifest blob: same digest, same bytes."""

    id: int
    name: str
    dataset_id: int
    digest: str
    created_at: float
    counts: dict[str, int]
    policy_id: int | None = None


class RunKind(StrEnum):
    GENERATE = "generate"
    FILTER = "filter"
    TRAIN = "train"
    EVALUATE = "evaluate"


class State(StrEnum):
    """Of a run and of a shard. A quarantined shard is `failed`."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (State.DONE, State.FAILED, State.CANCELLED)


class Run(Record, frozen=True, kw_only=True):
    """One execution of a recipe stage, with everything needed to do it again."""

    id: int
    kind: RunKind
    title: str
    state: State
    created_at: float
    seed: int
    dataset_id: int | None = None
    recipe: str = ""
    options: dict[str, Any] = {}
    versions: dict[str, str] = {}
    after_id: int | None = None  # waits until that run is done
    cancel_requested: bool = False
    pause_requested: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    done: int = 0
    total: int = 0
    result: dict[str, Any] = {}
    error: str | None = None


class Shard(Record, frozen=True, kw_only=True):
    """A piece of a run's work. `fence` grows with every claim: output under an old fence is refused."""

    id: int
    run_id: int
    number: int
    state: State
    payload: dict[str, Any]
    attempt: int = 0
    fence: int = 0
    lease_owner: str | None = None
    lease_until: float | None = None
    done: int = 0
    total: int = 0
    error: str | None = None


class LogLine(Record, frozen=True, kw_only=True):
    id: int
    run_id: int
    at: float
    level: str
    text: str
    shard: int | None = None


class Metric(Record, frozen=True, kw_only=True):
    """One point of a curve of a run."""

    run_id: int
    step: int
    name: str
    value: float
    at: float


class Worker(Record, frozen=True, kw_only=True):
    """A worker process that was seen, when, and the run it works on. The name begins with its host, up to the first slash."""

    name: str
    seen_at: float
    run_id: int | None = None

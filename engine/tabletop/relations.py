"""Where objects are to one another, in three values: it holds, it does not, or a person could argue.

Left, right, above and below are meant in the picture; before and behind mean that one hides a part of the other.
"""

import math

from engine.tabletop.records import Relation, Truth

OPPOSITE: dict[str, str] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "in front of": "behind",
    "behind": "in front of",
    "near": "far from",
    "far from": "near",
    "on": "under",
    "under": "on",
}
RELATIONS: tuple[str, ...] = tuple(OPPOSITE)
_MIRRORED = {"right of": "left of", "below": "above", "behind": "in front of", "under": "on"}


def related(truth: Truth, subject: int, name: str, other: int) -> bool | None:
    """Whether object `subject` stands in the relation to object `other`; None when it is too close to call."""
    if subject == other:
        return False
    if name in _MIRRORED:
        return related(truth, other, _MIRRORED[name], subject)
    return _RULES[name](truth, subject, other)


def all_relations(truth: Truth) -> tuple[Relation, ...]:
    """Every relation that holds, in the order of subject, name, object."""
    count = range(len(truth.objects))
    return tuple(Relation(i, name, j) for i in count for name in RELATIONS for j in count if related(truth, i, name, j))


def _offset(truth: Truth, a: int, b: int) -> tuple[float, float]:
    """How far b's middle lies to the right of and below a's, in pixels."""
    one, two = truth.objects[a].whole, truth.objects[b].whole
    return (two[0] + two[2] - one[0] - one[2]) / 2, (two[1] + two[3] - one[1] - one[3]) / 2


def _overlap(truth: Truth, a: int, b: int, axis: int) -> float:
    """Overlap along an axis (0 = x) as a share of the shorter side; below zero when they are apart."""
    one, two = truth.objects[a].whole, truth.objects[b].whole
    shared = min(one[axis + 2], two[axis + 2]) - max(one[axis], two[axis])
    return shared / min(one[axis + 2] - one[axis], two[axis + 2] - two[axis])


def _gap(truth: Truth, a: int, b: int) -> float:
    """The distance between the two boxes as a share of the picture's width."""
    one, two = truth.objects[a].whole, truth.objects[b].whole
    dx = max(one[0] - two[2], two[0] - one[2], 0)
    dy = max(one[1] - two[3], two[1] - one[3], 0)
    return math.hypot(dx, dy) / truth.width


def _left(truth: Truth, a: int, b: int) -> bool | None:
    dx, dy = _offset(truth, a, b)
    if dx > 0.05 * truth.width and dx >= abs(dy) and _overlap(truth, a, b, 0) < 0.3:
        return True
    return False if dx < -0.03 * truth.width else None


def _above(truth: Truth, a: int, b: int) -> bool | None:
    dx, dy = _offset(truth, a, b)
    if dy > 0.06 * truth.height and dy > abs(dx) and _overlap(truth, a, b, 1) < 0.3:
        return True
    return False if dy < -0.04 * truth.height else None


def _before(truth: Truth, a: int, b: int) -> bool | None:
    one, two = truth.objects[a], truth.objects[b]
    if one.on == b or two.on == a:
        return None
    if b in one.covers:
        return True
    dx, dy = _offset(truth, a, b)
    beside = abs(dx) > 1.5 * abs(dy) and _gap(truth, a, b) > 0.1
    return False if a in two.covers or beside else None


def _near(truth: Truth, a: int, b: int) -> bool | None:
    gap = _gap(truth, a, b)
    return True if gap < 0.04 else False if gap > 0.25 else None


def _far(truth: Truth, a: int, b: int) -> bool | None:
    gap = _gap(truth, a, b)
    return True if gap > 0.4 else False if gap < 0.2 else None


def _on(truth: Truth, a: int, b: int) -> bool | None:
    if truth.objects[a].on == b:
        return True
    return False if truth.objects[b].on == a or _gap(truth, a, b) > 0.05 else None


_RULES = {"left of": _left, "above": _above, "in front of": _before, "near": _near, "far from": _far, "on": _on}

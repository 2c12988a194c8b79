"""Orders of review that weigh candidates against each other. They are computed in memory, from the columns of the data set.

What such an order says of a candidate changes with every verdict. So the order is settled when somebody begins to look, and kept:
nobody is shown the same candidate twice, and none is passed over.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from db.columns import ACCEPTED, REJECTED, UNSEEN, Float, Int, Table, by_policy, effective, outcome, parts
from db.errors import WinnowError
from db.queries import ORDERS, edge
from db.records import Policy, Rule, Term

Policies = Mapping[int, Policy]  # run id -> policy
Mask = NDArray[np.bool_]
KEPT = 8  # rankings
STEEPNESS = (
    4.0  # of the logistic that turns a distance, in standard deviations of the filter, into a chance of acceptance
)
BANDS = 2.0  # bands of distance in a standard deviation
FAR = 4.0  # standard deviations; what is farther is in the last band


def disagree(table: Table, policies: Policies, shown: Mask) -> Sequence[Float]:
    """Where the share of the policy's rules that pass is nearest to one half; those without any value come last."""
    share = np.full(len(table), np.inf)
    for policy, rows in by_policy(table, policies):
        mine = table.take(rows)
        passed, judged = np.zeros(len(mine)), np.zeros(len(mine))
        for some, terms in parts(mine, policy):
            for rule in (rule for term in terms for rule in term):
                found = outcome(mine, some, rule)
                passed[some] += found == 2
                judged[some] += found != 1
        share[rows] = np.where(judged > 0, passed / np.maximum(judged, 1), np.inf)
    return [np.abs(share - 0.5), table.shuffle.astype(np.float64)]


def quota(table: Table, policies: Policies, shown: Mask) -> Sequence[Float]:
    """The class of which people have accepted fewest first, then the classes in turn, as if all that is shown were accepted. In a
    class, what the policy accepts comes first and what it rejects last. Candidates without class come at the end."""
    accepted = _size(table.category, table.human == ACCEPTED)
    said = effective(table, policies)
    order = np.array([1, 0, 2])[said]  # accepted, pending, rejected
    turn = _turn(table.category, shown, (table.shuffle, order))
    return [np.where(table.category < 0, np.inf, accepted + turn), table.category.astype(np.float64)]


def value(table: Table, policies: Policies, shown: Mask) -> Sequence[Float]:
    """p (1 - p) x u / (1 + l): p the chance of acceptance by the distance to the threshold, u how many undecided candidates of the
    class lie in the same band of distance, l how many of those were looked at before, by the order itself too."""
    away = margin(table, policies)
    chance = 1 / (1 + np.exp(-STEEPNESS * np.clip(away, -FAR, FAR)))
    band = np.floor(BANDS * np.clip(away, -FAR, FAR)).astype(np.int64)
    cell = np.unique(table.category * 64 + band, return_inverse=True)[1]
    undecided = _size(cell, table.human == UNSEEN)
    looks = _size(cell, np.isin(table.human, (ACCEPTED, REJECTED))) + _turn(cell, shown, (table.shuffle,))
    return [-chance * (1 - chance) * undecided / (1 + looks), table.shuffle.astype(np.float64)]


def _oldest(table: Table, policies: Policies, shown: Mask) -> Sequence[Float]:
    return []


def _random(table: Table, policies: Policies, shown: Mask) -> Sequence[Float]:
    return [table.shuffle.astype(np.float64)]


def _class(table: Table, policies: Policies, shown: Mask) -> Sequence[Float]:
    return [np.where(table.category < 0, np.inf, table.category.astype(np.float64))]


PLAIN: dict[str, Callable[[Table, Policies, Mask], Sequence[Float]]] = {
    "oldest": _oldest,
    "random": _random,
    "class": _class,
}
"""The orders that the database gives too, for what only the columns can find."""

COMPUTED: dict[str, Callable[[Table, Policies, Mask], Sequence[Float]]] = {
    "disagree": disagree,
    "quota": quota,
    "value": value,
}
"""Order -> its keys, the first one the most important; smaller comes first."""


def rank(table: Table, policies: Policies, order: str, shown: Mask) -> Int:
    """The ids of the candidates to be shown, first to last. Raises WinnowError for an unknown order."""
    keys = [key[shown] for key in _keys(table, policies, order, shown)]
    ids = table.ids[shown]
    return ids[np.lexsort((ids, *reversed(keys)))] if keys else ids


def _keys(table: Table, policies: Policies, order: str, shown: Mask) -> Sequence[Float]:
    known = {**PLAIN, **COMPUTED}
    if order in known:
        return known[order](table, policies, shown)
    kind, _, argument = order.partition(":")
    name, _, threshold = argument.partition(":")
    scores = table.values(name)
    away = {
        "score": lambda: scores,
        "-score": lambda: -scores,
        "uncertain": lambda: np.abs(scores - edge(order, threshold)),
    }
    if kind not in away:
        raise WinnowError(f"Unknown order {order!r}; known: {', '.join(ORDERS)}.")
    return [np.nan_to_num(away[kind](), nan=np.inf)]


def margin(table: Table, policies: Policies) -> Float:
    """float[n]: how far the candidate is on the accepting side of its policy, in standard deviations of the filter that
    decides. The smallest over the terms, the greatest over alternatives; 0 for a missing value, and where no rule speaks."""
    scale = {name: _spread(values) for name, values in table.scores.items()}
    away = np.zeros(len(table))
    for policy, rows in by_policy(table, policies):
        mine = table.take(rows)
        found = np.zeros(len(mine))
        for some, terms in parts(mine, policy):
            found[some] = np.minimum.reduce([_widest(mine, some, term, scale) for term in terms])
        away[rows] = found
    return away


def _widest(table: Table, rows: slice | Int, term: Term, scale: Mapping[str, float]) -> Float:
    return np.maximum.reduce([_distance(table.values(r.filter)[rows], r) / scale.get(r.filter, 1.0) for r in term])


def _distance(values: Float, rule: Rule) -> Float:
    above = values - rule.at_least if rule.at_least is not None else np.inf
    below = rule.at_most - values if rule.at_most is not None else np.inf
    return np.where(np.isnan(values), 0.0, np.minimum(above, below))


def _spread(values: Float) -> float:
    """The standard deviation of the values that are there; 1 when all are the same."""
    known = values[np.isfinite(values)]
    return float(known.std()) or 1.0 if len(known) else 1.0


def _size(groups: Int, counted: Mask) -> Int:
    """int[n]: how many counted rows there are in the group of each row. `groups` are integers from -1."""
    return np.bincount(groups[counted] + 1, minlength=groups.max(initial=-1) + 2)[groups + 1]


def _turn(groups: Int, shown: Mask, keys: Sequence[NDArray[np.generic]]) -> Float:
    """float[n]: the place of each shown row in its group, from 0, by the keys (the last one is the most important)."""
    rows = np.flatnonzero(shown)
    order = rows[np.lexsort((*(key[rows] for key in keys), groups[rows]))]
    sorted_groups = groups[order]
    first = np.searchsorted(sorted_groups, sorted_groups, side="left")
    place = np.zeros(len(groups))
    place[order] = np.arange(len(order)) - first
    return place


class Rankings:
    """Rankings that were begun, by number. One that is no longer kept is settled anew, which repeats some but skips none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Int] = OrderedDict()

    def keep(self, ids: Int) -> int:
        number = secrets.randbits(52)  # a browser keeps it exactly
        with self._lock:
            self._kept[number] = ids
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return number

    def get(self, number: int) -> Int | None:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
            return self._kept.get(number)

"""A family of policies that differ in the threshold of one filter, and which of them an audit shows to be good enough.

The thresholds are quantiles of the filter's values over the population of the audit. They depend on no verdict, so that
the family counts as declared before the looks (see `engine/bound.py`, `loosest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from db.audits import Looked, Population
from db.columns import ACCEPT, Table
from db.errors import WinnowError
from db.records import Policy, Rule
from engine.bound import Proposal, in_turn, is_bad, loosest, nested
from engine.filters import FILTERS
from engine.thresholds import decide

MEMBERS = 12  # of a family; more of them would hardly differ


@dataclass(frozen=True)
class Member:
    """A policy of the family. `threshold` is None for the policy of the audit itself, the loosest one."""

    name: str
    threshold: float | None
    rules: tuple[Rule, ...]


def family(table: Table, population: Population, policy: Policy, filter: str, members: int = MEMBERS) -> list[Member]:
    """Policies from strict to loose, each the audited one with a tighter threshold of `filter`, and that one itself at the end.

    Raises WinnowError when the filter has no value for anything that the audit speaks of.
    """
    values = table.values(filter)[np.isin(table.ids, population.ids)]
    values = values[np.isfinite(values)]
    if not len(values):
        raise WinnowError(f"The filter {filter!r} has no value for what this audit speaks of; choose another one.")
    bound = "at_least" if filter in FILTERS and FILTERS[filter].better == "higher" else "at_most"
    cuts = np.unique(np.quantile(values, np.linspace(0, 1, members + 1)[1:-1], method="inverted_cdf"))
    ordered = cuts[::-1] if bound == "at_least" else cuts
    sign = "≥" if bound == "at_least" else "≤"
    tight = [
        Member(f"{sign} {cut:.4g}", float(cut), tightened(policy.rules, filter, bound, float(cut))) for cut in ordered
    ]
    return [*tight, Member("as audited", None, policy.rules)]


def tightened(rules: Sequence[Rule], filter: str, bound: str, threshold: float) -> tuple[Rule, ...]:
    """The rules with this bound (`at_least` or `at_most`) of a filter at the threshold, where it is not tighter already; with a
    rule of its own where no rule without classes speaks of the filter."""
    pick = max if bound == "at_least" else min

    def tight(rule: Rule) -> Rule:
        known = getattr(rule, bound)
        return msgspec.structs.replace(rule, **{bound: threshold if known is None else pick(known, threshold)})

    found = tuple(tight(rule) if rule.filter == filter else rule for rule in rules)
    if any(rule.filter == filter and not rule.classes and not rule.kinds for rule in rules):
        return found
    return (*found, tight(Rule(filter=filter)))


def audited(
    table: Table,
    population: Population,
    members: Sequence[Member],
    items: Sequence[Looked],
    alpha: float,
    delta: float,
    *,
    planned: int,
    agree: str = "any",
    each: int = 1,
    misses: float = 0.0,
) -> Proposal:
    """Which of the members meets `alpha` at confidence 1 - `delta`, however many were tried. `items` are those of the audit, of
    which the beginning that was looked at in turn counts; `planned` is how many they are."""
    present = table.take(np.isin(table.ids, population.ids))
    at = np.searchsorted(population.ids, present.ids)
    accepts = np.zeros((len(members), len(population.ids)), bool)
    for row, member in enumerate(members[:-1]):
        policy = Policy(id=0, name=member.name, version=0, rules=member.rules, created_at=0.0)
        accepts[row, at] = decide(present, policy) == ACCEPT
    accepts[-1] = True
    turn = in_turn(items, each)
    rows = np.searchsorted(population.ids, np.array([item.candidate_id for item in turn], np.int64))
    bad = np.array([is_bad(item.verdicts.values(), agree) for item in turn], bool)
    parts = nested([member.name for member in members], accepts, population.strata, rows, bad)
    return loosest(parts, alpha, delta, planned, misses)

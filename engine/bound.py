"""How many of the accepted are bad: bounds from the looks of an audit that hold at their stated confidence.

A *bad* item is one that the policy accepts and people do not. The population is finite and known, looks are drawn without
replacement and in random order (`db/audits.py`). "Holds at confidence 1 - delta" means: whatever the truth is, over repeated
audits the bound is below it in at most a share delta of them. Nothing here is asymptotic.

Peeking is allowed for `upper`, `lower`, `p_value` and what is built on them (`loosest`, `state`): they may be looked
at after each look, and one may stop whenever one likes, for whatever reason. It is NOT allowed for `upper_fixed`, which is
somewhat tighter and holds only when the number of looks was fixed beforehand and the bound is read once.

Sources
- exact inversion: C. Clopper, E. Pearson, Biometrika 26 (1934); for finite populations T. Wright, Exact Confidence Bounds when
  Sampling from Small Finite Universes (Springer, 1991).
- strata: a null about the sum is the union of nulls about its parts; combine and take the worst allocation: K. Ottoboni,
  P. Stark, M. Lindeman, N. McBurnett, Risk-Limiting Audits by Stratified Union-Intersection Tests of Elections (E-Vote-ID 2018).
- peeking: a likelihood ratio against a mixture is a martingale when drawing without replacement: I. Waudby-Smith,
  A. Ramdas, Confidence sequences for sampling without replacement (NeurIPS 2020); Estimating means of bounded random variables by
  betting (JRSS B 86, 2024); H. Robbins, Ann. Math. Stat. 41 (1970); J. Ville (1939). With strata, a product of such:
  J. Spertus, M. Sridhar, P. Stark, Sequential stratified inference for the mean (2024).
- families of policies: A. Angelopoulos, S. Bates, E. Candes, M. Jordan, L. Lei, Learn then Test (2021); in a fixed sequence:
  P. Bauer, Stat. Med. 10 (1991).
- reviewers who err: W. Rogan, B. Gladen, Am. J. Epidemiol. 107 (1978); A. Dawid, A. Skene, Appl. Stat. 28 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from db.audits import Audit, Looked
from db.errors import WinnowError
from db.records import Decision

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

ANCHORS = 512  # where the mixture is cut off; more of them gain nothing that can be seen
ERRORS_SHARE = 0.1  # of delta, spent on the luck of reviewers who err
JEFFREYS = 0.5  # both parameters of the Beta mixture


@dataclass(frozen=True)
class Stratum:
    """What is known of a part of the population: `bad` of the `looked` at, out of `population`. The whole is one stratum."""

    population: int
    looked: int
    bad: int

    def __post_init__(self) -> None:
        if not 0 <= self.bad <= self.looked <= self.population:
            raise ValueError(
                f"{self.bad} bad of {self.looked} looked at of {self.population}: each must fit into the next"
            )

    @property
    def good(self) -> int:
        return self.looked - self.bad

    @property
    def most(self) -> int:
        """The largest number of bad ones that is still possible."""
        return self.population - self.good


Strata = Sequence[Stratum]


# Looks fixed beforehand, read once


def upper_fixed(strata: Strata, delta: float) -> int:
    """The most bad ones in the population, at confidence 1 - delta. No peeking: the number of looks is fixed beforehand.

    One stratum: the exact inversion of the hypergeometric test. Several: Fisher's combination of their tests, at the worst
    allocation of bad ones to strata; strata without a look may be bad altogether.
    """
    seen = [s for s in strata if s.looked]
    unseen = sum(s.population for s in strata if not s.looked)
    if not seen:
        return unseen
    least = math.exp(-stats.chi2.isf(_level(delta), 2 * len(seen)) / 2)  # the smallest product of p-values not rejected
    tails = [_log_tail(s) for s in seen]
    drops = np.concatenate([np.diff(tail[tail > math.log(least)]) for tail in tails])
    # The smallest drops first can only overstate what an allocation reaches, whatever the shape of the tails.
    reached = np.cumsum(np.sort(drops)[::-1])
    return sum(s.bad for s in seen) + int((reached > math.log(least)).sum()) + unseen


def clopper_pearson(bad: int, looked: int, delta: float) -> float:
    """The largest share of bad ones at confidence 1 - delta in an endless population; the limit of `upper_fixed`."""
    return 1.0 if bad == looked else float(stats.beta.isf(_level(delta), bad + 1, looked - bad))


def _log_tail(s: Stratum) -> Float:
    """log P(at most `s.bad` bad ones are drawn | k are in the stratum), for k from `s.bad` to `s.most`.

    One more bad one lowers that by the probability that exactly `s.bad` were drawn and a certain good one was among the
    looks: summed from the far end, where the tail is nothing, the small values are exact.
    """
    k = np.arange(s.bad, s.most + 1, dtype=float)
    if not s.good:
        return np.zeros(len(k))
    drawn = _log_likelihood(s.population, s.looked, s.bad, k) + math.log(math.comb(s.looked, s.bad))
    lost = np.exp(drawn) * s.good / (s.population - k)
    with np.errstate(divide="ignore"):
        return np.log(np.minimum(np.cumsum(lost[::-1])[::-1], 1))


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The last number from `low` to `high` for which a condition holds that holds at `low` and once broken stays so."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


# Peeking allowed


def log_evidence(strata: Strata) -> tuple[Int, Float]:
    """All totals of bad ones that are possible, ascending, and the log evidence against each.

    The evidence against a total K is Q(looks) / max P(looks | k_1 + k_2 + ... = K), with Q a mixture that does not depend on the
    allocation: half of it draws one rate below K / N for all strata from a Jeffreys prior, half a rate for each. Under
    the true allocation Q / P is a nonnegative supermartingale that starts at 1, so (Ville) the evidence against the truth ever
    reaches 1 / delta with a probability of at most delta. log P is concave in each k, so the best allocation is greedy.
    """
    strata = [s for s in strata if s.population]
    steps = np.concatenate([np.zeros(1), *(_likelihood_steps(s) for s in strata)])
    steps[1:] = np.sort(steps[1:])[::-1]
    steps[0] = sum(float(_log_likelihood(s.population, s.looked, s.bad, s.bad)) for s in strata)
    totals = sum(s.bad for s in strata) + np.arange(len(steps))
    return totals, _log_mixture(strata, totals) - np.cumsum(steps)


def upper(strata: Strata, delta: float) -> int:
    """The most bad ones in the population, at confidence 1 - delta, at all looks at once. Peeking and stopping at will allowed."""
    totals, evidence = log_evidence(strata)
    return int(totals[evidence < -math.log(_level(delta))].max())


def lower(strata: Strata, delta: float) -> int:
    """The fewest bad ones in the population, at confidence 1 - delta, at all looks at once. Peeking allowed."""
    flipped = [Stratum(s.population, s.looked, s.good) for s in strata]
    return sum(s.population for s in strata) - upper(flipped, delta)


def p_value(strata: Strata, least: int) -> float:
    """Of the claim that `least` or more are bad, valid at all looks at once. Peeking allowed."""
    totals, evidence = log_evidence(strata)
    against = evidence[totals >= least]
    return float(np.exp(-max(against.min(), 0.0))) if len(against) else 0.0


def _likelihood_steps(s: Stratum) -> Float:
    """By how much log P grows with each further bad one in the stratum, from `s.bad` to `s.most`; never growing."""
    k = np.arange(s.bad, s.most, dtype=float)
    return np.log1p(s.bad / (k + 1 - s.bad)) + np.log1p(-s.good / (s.population - k))


def _log_likelihood(population: int, looked: int, bad: float, k: Float | float) -> Float:
    """log P(this very sequence of looks | k of the population are bad)."""
    return _falling(k, bad) + _falling(population - k, looked - bad) - _falling(population, looked)


def _falling(n: Float | float, count: float) -> Float:
    """log of n (n - 1) ... (n - count + 1)."""
    n = np.asarray(n, float)
    return np.asarray(special.gammaln(n + 1) - special.gammaln(n - count + 1))


def _log_mixture(strata: Strata, totals: Int) -> Float:
    """log Q of `log_evidence` for each total."""
    population = sum(s.population for s in strata)
    shared = _log_shared(sum(s.bad for s in strata), sum(s.good for s in strata), totals, population)
    if len(strata) == 1:
        return shared
    return np.logaddexp(shared, sum(_log_jeffreys(s.bad, s.good) for s in strata)) - math.log(2)


def _log_shared(bad: float, good: float, totals: Int, population: int) -> Float:
    """log P(looks) when their rate is drawn from a Jeffreys prior cut off a little below total / population."""
    anchors = np.unique(np.geomspace(1, population, ANCHORS).astype(np.int64))
    cut = anchors / population
    with np.errstate(divide="ignore"):  # a mass too small for floating point is no evidence
        mass = np.log(special.betainc(bad + JEFFREYS, good + JEFFREYS, cut))
    mass -= np.log(special.betainc(JEFFREYS, JEFFREYS, cut))
    place = np.searchsorted(anchors, totals, side="right") - 1
    return _log_jeffreys(bad, good) + np.where(place < 0, -np.inf, mass[place])


def _log_jeffreys(bad: float, good: float) -> float:
    return float(special.betaln(bad + JEFFREYS, good + JEFFREYS) - special.betaln(JEFFREYS, JEFFREYS))


# Reviewers who err


def upper_despite_errors(reported: int, population: int, misses: float, delta: float) -> int:
    """The most truly bad ones when people who look at everything would call at most `reported` of them bad.

    People miss a bad one with a probability of at most `misses`, independently from item to item (Rogan and Gladen's
    correction at specificity 1, with an exact binomial margin that fails with a probability of at most delta). Good ones
    called bad are not taken off: they can only make the bound larger.
    """
    _check_misses(misses)
    if misses == 0:
        return reported
    return _last(lambda k: stats.binom.cdf(reported, k, 1 - misses) > delta, reported, population)


def reported_at_least(bad: int, misses: float, delta: float) -> int:
    """How many of so many bad ones are called bad, at least; fewer with a probability of at most delta."""
    _check_misses(misses)
    return int(stats.binom.ppf(delta, bad, 1 - misses)) if misses else bad


def split(delta: float, misses: float) -> tuple[float, float]:
    """What of delta is spent on the luck of the draw, and what on the luck of reviewers who err."""
    _level(delta)
    return (delta * (1 - ERRORS_SHARE), delta * ERRORS_SHARE) if misses else (delta, 0.0)


@dataclass(frozen=True)
class Reviewers:
    """An estimate, not a bound. `misses[r]`: share of bad ones that reviewer r calls good; `alarms[r]`: of good ones called bad."""

    misses: tuple[float, ...]
    alarms: tuple[float, ...]
    bad: float  # share of bad ones


def reviewer_errors(calls: NDArray[np.int8], rounds: int = 200) -> Reviewers:
    """How often each reviewer errs, from their agreement alone (Dawid and Skene, expectation maximisation).

    `calls[item, reviewer]` is 1 bad, 0 good, -1 not decided. Assumes that reviewers err independently given the truth and are
    right more often than not. Raises WinnowError below three reviewers who share items: two cannot tell who is right.
    """
    seen = calls >= 0
    shared = seen.sum(axis=1) >= 3
    if shared.sum() == 0:
        raise WinnowError(
            "No item has verdicts of three reviewers: two cannot tell which of them is right. Ask a third."
        )
    bad, good = np.where(seen, calls, 0), np.where(seen, 1 - calls, 0)
    belief = bad.sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    for _ in range(rounds):
        share = (belief.sum() + JEFFREYS) / (len(belief) + 1)
        misses = _rate(belief @ good, belief @ bad)
        alarms = _rate((1 - belief) @ bad, (1 - belief) @ good)
        odds = bad @ np.log((1 - misses) / alarms) + good @ np.log(misses / (1 - alarms)) + special.logit(share)
        belief = special.expit(odds)
    return Reviewers(tuple(misses.tolist()), tuple(alarms.tolist()), float(share))


def _rate(hits: Float, others: Float) -> Float:
    return (hits + JEFFREYS) / (hits + others + 1)


def _check_misses(misses: float) -> None:
    if not 0 <= misses < 1:
        raise WinnowError(
            f"Reviewers who miss a share of {misses:g} of the bad ones: it must be at least 0 and below 1."
        )


# A family of policies


@dataclass(frozen=True)
class Tested:
    """A policy of the family: what is known of it, the p-value of "its share of bad ones is above alpha" (None when not tested),
    and whether that was rejected, so that the policy meets alpha."""

    name: str
    strata: tuple[Stratum, ...]
    p: float | None
    meets: bool
    why: str


@dataclass(frozen=True)
class Proposal:
    """The loosest policy that meets alpha, None when none is shown to; and the whole family in its order, strictest first."""

    name: str | None
    tests: tuple[Tested, ...]


def loosest(
    family: Sequence[tuple[str, Strata]], alpha: float, delta: float, planned: int, misses: float = 0.0
) -> Proposal:
    """The loosest policy whose share of bad ones is at most alpha, at confidence 1 - delta, however many were tried.

    `family` names nested policies, strictest first, declared before the looks, each with its part of one audit (`nested`); `planned` is
    the size of that audit. Tests go from strict to loose and stop at the first that fails (fixed sequence), so each is made
    at the full delta. They begin at the strictest policy that could meet alpha at all with its expected part of the planned looks:
    this depends on sizes only, never on verdicts. p-values allow peeking, so the whole may be read after each look.
    """
    draw, luck = split(delta, misses)
    whole = max((sum(s.population for s in strata) for _, strata in family), default=0)
    begun, failed, tests = False, False, list[Tested]()
    for name, strata in family:
        population = sum(s.population for s in strata)
        least = reported_at_least(_allowed(alpha, population) + 1, misses, luck)
        begun = begun or _could_meet(population, population * planned // max(whole, 1), least, draw)
        if failed or not begun:
            why = (
                "not tested: a stricter one failed" if failed else "not tested: too few looks of this audit fall on it"
            )
            tests.append(Tested(name, tuple(strata), None, False, why))
            continue
        p = p_value(strata, least)
        failed = p > draw
        why = f"{'not shown to have' if failed else 'has'} at most {_percent(alpha)} bad"
        tests.append(Tested(name, tuple(strata), p, not failed, why))
    return Proposal(next((t.name for t in reversed(tests) if t.meets), None), tuple(tests))


def nested(
    names: Sequence[str], accepts: Bool, strata: Int, rows: Int, bad: Bool
) -> list[tuple[str, tuple[Stratum, ...]]]:
    """The family for `loosest`: what one audit tells about each policy.

    `accepts[policy, row]`: what each policy accepts of the audit's population, strictest first; `strata[row]`; `rows[i]`, `bad[i]`:
    the row of the i-th look and what was found. Raises WinnowError when a policy accepts what a looser one does not.
    """
    for j in range(len(names) - 1):
        lost = int((accepts[j] & ~accepts[j + 1]).sum())
        if lost:
            raise WinnowError(
                f"{names[j]!r} accepts {lost} candidates that {names[j + 1]!r} rejects: a family goes from strict to loose, "
                "each policy accepting all that the one before it does."
            )
    return [(name, _parts(taken, strata, rows, bad)) for name, taken in zip(names, accepts, strict=True)]


def _parts(taken: Bool, strata: Int, rows: Int, bad: Bool) -> tuple[Stratum, ...]:
    count = int(strata.max()) + 1
    mine = taken[rows]
    sizes = np.bincount(strata[taken], minlength=count)
    looked = np.bincount(strata[rows[mine]], minlength=count)
    found = np.bincount(strata[rows[mine & bad]], minlength=count)
    return tuple(Stratum(int(n), int(m), int(x)) for n, m, x in zip(sizes, looked, found, strict=True))


def _could_meet(population: int, looks: int, least: int, delta: float) -> bool:
    return p_value((Stratum(population, looks, 0),), least) <= delta if population else False


def _allowed(alpha: float, population: int) -> int:
    """How many bad ones are a share of at most alpha."""
    return math.floor(alpha * population + 1e-9)


def _level(delta: float) -> float:
    if not 0 < delta < 1:
        raise WinnowError(f"A confidence of {1 - delta:g} cannot be asked for: it must lie between 0 and 1, say 0.95.")
    return delta


# Planning and stopping


def looks_needed(alpha: float, delta: float, rate: float, strata: Strata, misses: float = 0.0) -> int | None:
    """How many more looks until `upper` meets alpha, if bad ones go on turning up at `rate`; None when they never would.

    A forecast; it promises nothing. Ask it about a population nobody has looked at for the size to plan an audit with. Strata are
    taken together, behind by as much evidence as they are behind now.
    """
    draw, luck = split(delta, misses)
    whole = Stratum(*(sum(getattr(s, name) for s in strata) for name in ("population", "looked", "bad")))
    least = reported_at_least(_allowed(alpha, whole.population) + 1, misses, luck)
    goal = -math.log(draw) + _behind(whole, strata, least)

    def short(more: int) -> bool:
        return _forecast(whole.population, whole.looked + more, whole.bad + rate * more, least) < goal

    left = whole.population - whole.looked
    if not short(0):
        return 0
    return None if short(left) else _last(short, 0, left) + 1


def _behind(whole: Stratum, strata: Strata, least: int) -> float:
    """How much log evidence against `least` bad ones the strata cost, compared to one stratum."""
    if len(strata) == 1 or whole.bad >= least:
        return 0.0
    totals, evidence = log_evidence(strata)
    now = _forecast(whole.population, whole.looked, whole.bad, least)
    against = evidence[totals >= least]
    return max(now - float(against.min()), 0.0) if len(against) else 0.0


def _forecast(population: int, looked: int, bad: float, least: int) -> float:
    """The log evidence against `least` bad ones in one stratum; for a fractional number of bad ones found, too."""
    good = looked - bad
    if least > population - good:
        return math.inf
    if bad >= least:
        return -math.inf
    chance = float(_log_likelihood(population, looked, bad, least))
    return float(_log_shared(bad, good, np.array([least]), population)[0]) - chance


@dataclass(frozen=True)
class Stop:
    """Whether one may stop looking, and why or why not."""

    stop: bool
    why: str


def may_stop(strata: Strata, left: int, alpha: float, delta: float, misses: float = 0.0) -> Stop:
    """One may stop when the bound is met, and when it cannot be met any more. `left`: items of the audit not yet looked at.

    Stopping early or late never harms the confidence (see `upper`); this says only when going on is of no use.
    """
    return _stop(strata, left, alpha, delta, misses, _bound(strata, delta, misses), lower(strata, delta))


def _stop(strata: Strata, left: int, alpha: float, delta: float, misses: float, most: int, fewest: int) -> Stop:
    allowed = _allowed(alpha, sum(s.population for s in strata))
    best = looks_needed(alpha, delta, 0.0, strata, misses)
    if most <= allowed:
        return Stop(True, f"the bound is not above the {_percent(alpha)} asked for")
    if fewest > allowed:
        return Stop(True, f"more than {_percent(alpha)} are bad, at the same confidence: choose a stricter policy")
    if not left:
        return Stop(True, "every item of this audit was looked at: draw a larger one to go on")
    if best is None or best > left:
        return Stop(True, f"even if the remaining {left} were all good, this audit could not show {_percent(alpha)}")
    return Stop(False, f"not yet: if no more bad ones turn up, {best} more looks are enough")


def _bound(strata: Strata, delta: float, misses: float) -> int:
    draw, luck = split(delta, misses)
    return upper_despite_errors(upper(strata, draw), sum(s.population for s in strata), misses, luck)


# An audit


@dataclass(frozen=True)
class AuditState:
    """What an audit shows now. `upper` and `lower` count bad ones among `population`; `needed` is a forecast, None when the
    goal would not be reached at the present rate."""

    population: int
    looked: int
    bad: int
    skipped: int  # of `bad`: looked at without a decision, or deleted
    beyond: int  # looked at out of turn; counted once those before them are looked at
    lower: int
    upper: int
    alpha: float
    delta: float
    needed: int | None
    stop: bool
    why: str
    sentence: str

    @property
    def share(self) -> float:
        """The upper bound as a share of the population."""
        return self.upper / self.population


def is_bad(verdicts: Iterable[Decision], agree: str = "any") -> bool:
    """What several verdicts on one item come to: bad when anyone says so (`any`), or when not more say good (`majority`).

    Skips are no decision, and an item nobody decides is bad. An edit is bad: the policy would have taken it as it was.
    """
    if agree not in ("any", "majority"):
        raise WinnowError(f"Verdicts cannot be combined by {agree!r}. Known: any, majority.")
    calls = [decision is not Decision.ACCEPT for decision in verdicts if decision is not Decision.SKIP]
    return not calls or (any(calls) if agree == "any" else 2 * sum(calls) >= len(calls))


def in_turn(items: Sequence[Looked], each: int = 1) -> list[Looked]:
    """The beginning of the audit that was looked at by at least `each` reviewers without leaving one out.

    Only this beginning counts: whoever passes over the hard ones would see a sample that is not random. Skipped ones count (as
    bad), and so do deleted ones.
    """
    ordered = sorted(items, key=lambda item: item.position)
    missing = (i for i, item in enumerate(ordered) if not item.gone and len(item.verdicts) < each)
    return ordered[: next(missing, len(ordered))]


def known(audit: Audit, items: Sequence[Looked], agree: str = "any", each: int = 1) -> tuple[Stratum, ...]:
    """What the looks say about each stratum of the audit."""
    turn = in_turn(items, each)
    at = np.array([item.stratum for item in turn], np.int64)
    bad = np.array([is_bad(item.verdicts.values(), agree) for item in turn], bool)
    count = len(audit.strata)
    looked, found = np.bincount(at, minlength=count), np.bincount(at[bad], minlength=count)
    return tuple(
        Stratum(stratum.population, int(n), int(x)) for stratum, n, x in zip(audit.strata, looked, found, strict=True)
    )


def state(
    audit: Audit,
    items: Sequence[Looked],
    alpha: float,
    delta: float = 0.05,
    *,
    agree: str = "any",
    each: int = 1,
    misses: float = 0.0,
) -> AuditState:
    """What the audit shows now; may be asked after each look.

    `alpha`: the largest share of bad ones one would put up with; `agree`: see `is_bad`; `each`: how many reviewers see
    each item; `misses`: the share of bad ones that they call good at most (see `upper_despite_errors`).
    """
    strata = known(audit, items, agree, each)
    turn = in_turn(items, each)
    looked, bad = len(turn), sum(s.bad for s in strata)
    most, fewest = _bound(strata, delta, misses), lower(strata, delta)
    stop = _stop(strata, audit.size - looked, alpha, delta, misses, most, fewest)
    rate = bad / looked if looked else 0.0
    return AuditState(
        population=audit.population,
        looked=looked,
        bad=bad,
        skipped=sum(set(item.verdicts.values()) <= {Decision.SKIP} for item in turn),
        beyond=sum(bool(item.verdicts) for item in items) - sum(bool(item.verdicts) for item in turn),
        lower=fewest,
        upper=most,
        alpha=alpha,
        delta=delta,
        needed=looks_needed(alpha, delta, rate, strata, misses),
        stop=stop.stop,
        why=stop.why,
        sentence=_sentence(audit.population, most, delta, misses),
    )


def _sentence(population: int, bound: int, delta: float, misses: float) -> str:
    share = math.ceil(1000 * bound / population - 1e-9) / 10  # rounded up: a bound must not shrink in print
    if_so = f", if reviewers miss at most {_percent(misses)} of the bad ones" if misses else ""
    return f"With {_percent(1 - delta)} confidence at most {share:.3g} % ({bound:,}) of the {population:,} accepted are bad{if_so}."


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

"""Bounds on the share of bad ones: hand-counted cases, exact identities, and coverage by simulation."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from math import comb, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from db.audits import Audit, AuditStratum, Looked, in_order
from db.errors import WinnowError
from db.records import Decision
from engine import bound
from engine.bound import Stratum
from engine.tabletop import holds, paint, preset

ALPHA, DELTA, TRIALS = 0.05, 0.05, 2000
Table = NDArray[np.int64]


def most_misses(trials: int, delta: float = DELTA) -> int:
    """More misses than this would come from a valid bound once in a thousand times."""
    return int(stats.binom.ppf(0.999, trials, delta))


def sequences(trials: int, population: int, bad: int, looks: int, seed: int = 0) -> Table:
    """Bad ones found so far, after each look of each trial, drawn without replacement."""
    rng = np.random.default_rng(seed)
    labels = np.broadcast_to(np.arange(population) < bad, (trials, population))
    return np.cumsum(rng.permuted(labels, axis=1)[:, :looks], axis=1)


def bounds_of(found: Table, population: int, bounding: Callable[[Stratum], int]) -> Table:
    """The bound after each look of each trial."""
    known = cache(lambda looked, bad: bounding(Stratum(population, looked, bad)))
    return np.array([[known(n + 1, int(x)) for n, x in enumerate(trial)] for trial in found])


def fixed(s: Stratum) -> int:
    return bound.upper_fixed([s], DELTA)


def peeking(s: Stratum) -> int:
    return bound.upper([s], DELTA)


# By hand


@pytest.mark.parametrize(
    ("strata", "most"),
    [
        ([Stratum(10, 3, 0)], 5),  # 5 bad: C(5,3)/C(10,3) = 1/12; 6 bad: 4/120 = 1/30
        ([Stratum(10, 0, 0)], 10),
        ([Stratum(10, 10, 4)], 4),
        ([Stratum(10, 4, 4)], 10),
        ([Stratum(10, 3, 0), Stratum(7, 0, 0)], 12),  # nobody looked into the second
    ],
)
def test_a_fixed_bound_by_hand(strata: list[Stratum], most: int) -> None:
    assert bound.upper_fixed(strata, DELTA) == most


def test_the_fixed_bound_tends_to_clopper_pearson() -> None:
    assert bound.clopper_pearson(0, 59, DELTA) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert bound.upper_fixed([Stratum(400_000, 300, 4)], DELTA) / 400_000 == pytest.approx(
        bound.clopper_pearson(4, 300, DELTA), rel=1e-3
    )


def test_everything_looked_at_leaves_nothing_open() -> None:
    for bad in (0, 3, 20):
        assert bound.lower([Stratum(20, 20, bad)], DELTA) == bound.upper([Stratum(20, 20, bad)], DELTA) == bad
    assert bound.upper([Stratum(20, 0, 0)], DELTA) == 20
    assert bound.lower([Stratum(20, 0, 0)], DELTA) == 0


@pytest.mark.parametrize("bad", [-1, 4])
def test_more_bad_ones_than_looks_are_a_bug(bad: int) -> None:
    with pytest.raises(ValueError, match="each must fit"):
        Stratum(10, 3, bad)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, 95.0])
def test_a_confidence_outside_zero_and_one_is_refused(delta: float) -> None:
    for bounding in (bound.upper_fixed, bound.upper, bound.lower):
        with pytest.raises(WinnowError, match="between 0 and 1"):
            bounding([Stratum(10, 3, 0)], delta)


# Identities


@st.composite
def strata(draw: st.DrawFn, most: int = 40, parts: int = 1) -> tuple[Stratum, ...]:
    made = []
    for _ in range(parts):
        population = draw(st.integers(1, most))
        looked = draw(st.integers(0, population))
        made.append(Stratum(population, looked, draw(st.integers(0, looked))))
    return tuple(made)


@given(strata(), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_fixed_bound_inverts_the_hypergeometric_test(known: tuple[Stratum, ...], delta: float) -> None:
    (s,) = known
    tails = {k: stats.hypergeom.cdf(s.bad, s.population, k, s.looked) for k in range(s.bad, s.most + 1)}
    fewest, most = (max(k for k in tails if tails[k] > delta * tie) for tie in (1 + 1e-9, 1 - 1e-9))
    assert fewest <= bound.upper_fixed(known, delta) <= most


@given(strata(most=9, parts=2))
def test_the_evidence_takes_the_most_likely_allocation(known: tuple[Stratum, ...]) -> None:
    totals, evidence = bound.log_evidence(known)
    mixture = bound._log_mixture(known, totals)
    for total, against, mixed in zip(totals, evidence, mixture, strict=True):
        likely = max(
            prod(sequence_chance(s, k) for s, k in zip(known, split, strict=True))
            for split in product(*(range(s.population + 1) for s in known))
            if sum(split) == total
        )
        assert mixed - against == pytest.approx(np.log(likely), abs=1e-6) or mixed == -np.inf


def sequence_chance(s: Stratum, k: int) -> float:
    """Of one certain order of looks, when k are bad."""
    if not s.bad <= k <= s.most:
        return 0.0
    return comb(k, s.bad) * comb(s.population - k, s.good) / comb(s.population, s.looked) / comb(s.looked, s.bad)


@pytest.mark.parametrize("sizes", [(12,), (7, 5), (4, 4, 4)])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_mixture_is_a_probability_whatever_the_total(sizes: tuple[int, ...], share: float) -> None:
    """All sequences of looks together have mixture weight 1: this is what makes the evidence a martingale."""
    looked = [int(n * share) for n in sizes]
    totals = np.arange(1, sum(sizes) + 1)
    weight = np.zeros(len(totals))
    for found in product(*(range(n + 1) for n in looked)):
        known = [Stratum(n, m, x) for n, m, x in zip(sizes, looked, found, strict=True)]
        orders = prod(comb(m, x) for m, x in zip(looked, found, strict=True))
        weight += orders * np.exp(bound._log_mixture(known, totals))
    np.testing.assert_allclose(weight, 1, rtol=1e-9)


@given(strata(parts=3), st.data())
def test_a_bad_look_never_lowers_a_bound_and_a_good_one_never_raises_it(
    known: tuple[Stratum, ...], data: st.DataObject
) -> None:
    open_ones = [i for i, s in enumerate(known) if s.looked < s.population]
    if len(known) == 1 and open_ones:
        i = data.draw(st.sampled_from(open_ones))
        s = known[i]
        worse = [*known[:i], Stratum(s.population, s.looked + 1, s.bad + 1), *known[i + 1 :]]
        assert bound.upper_fixed(worse, DELTA) >= bound.upper_fixed(known, DELTA)
    total = sum(s.bad for s in known), sum(s.most for s in known)
    for bounding in (bound.upper_fixed, bound.upper, bound.lower):
        assert total[0] <= bounding(known, DELTA) <= total[1]


# Coverage


@pytest.mark.parametrize(("population", "bad", "looks"), [(200, 10, 60), (2000, 60, 200), (2000, 400, 100)])
def test_coverage_of_a_fixed_number_of_looks(population: int, bad: int, looks: int) -> None:
    found = sequences(TRIALS, population, bad, looks)[:, -1]
    misses = sum(fixed(Stratum(population, looks, int(x))) < bad for x in found)
    assert misses <= most_misses(TRIALS)


@pytest.mark.parametrize(("population", "bad", "looks"), [(300, 15, 150), (300, 60, 100), (1000, 20, 200)])
def test_coverage_of_the_bound_at_all_looks_at_once(population: int, bad: int, looks: int) -> None:
    found = sequences(TRIALS, population, bad, looks)
    ever = (bounds_of(found, population, peeking) < bad).any(axis=1).sum()
    below = (population - bounds_of(np.arange(1, looks + 1) - found, population, peeking) > bad).any(axis=1).sum()
    assert max(ever, below) <= most_misses(TRIALS)


def test_peeking_breaks_a_fixed_bound_and_not_the_other() -> None:
    """People who stop as soon as the bound looks good enough, with one bad one more than allowed."""
    population, bad = 400, 21
    found = sequences(TRIALS, population, bad, 200)
    naive = (bounds_of(found, population, fixed) <= ALPHA * population).any(axis=1).sum()
    ours = (bounds_of(found, population, peeking) <= ALPHA * population).any(axis=1).sum()
    assert naive > 2 * DELTA * TRIALS
    assert ours <= most_misses(TRIALS)


SIZES, BAD = (300, 200, 100), (3, 12, 15)


@pytest.fixture(scope="module")
def stratified() -> Callable[[int], Table]:
    """Bad ones found in each stratum of each trial after so many looks, in the order of an audit."""
    codes = np.repeat(np.arange(len(SIZES)), SIZES)
    labels = np.concatenate([np.arange(n) < x for n, x in zip(SIZES, BAD, strict=True)])
    rows = np.array([in_order(codes, seed)[:240] for seed in range(TRIALS)])
    found = np.cumsum(labels[rows][:, :, None] & (codes[rows][:, :, None] == np.arange(len(SIZES))), axis=1)
    return lambda looks: found[:, looks - 1]


def parts(looks: int, found: Sequence[int]) -> list[Stratum]:
    return [Stratum(n, n * looks // sum(SIZES), x) for n, x in zip(SIZES, found, strict=True)]


@pytest.mark.parametrize("bounding", [bound.upper_fixed, bound.upper])
def test_coverage_with_strata(
    stratified: Callable[[int], Table], bounding: Callable[[list[Stratum], float], int]
) -> None:
    of = cache(lambda *found: bounding(parts(120, found), DELTA))
    misses = sum(of(*found) < sum(BAD) for found in stratified(120).tolist())
    assert misses <= most_misses(TRIALS)


def test_coverage_with_strata_and_peeking(stratified: Callable[[int], Table]) -> None:
    of = cache(lambda looks, *found: bound.upper(parts(looks, found), DELTA))
    ever = np.zeros(TRIALS, bool)
    for looks in (30, 60, 90, 120, 180, 240):
        ever |= [of(looks, *found) < sum(BAD) for found in stratified(looks).tolist()]
    assert ever.sum() <= most_misses(TRIALS)


# Reviewers who err


def test_coverage_when_reviewers_miss_bad_ones() -> None:
    population, bad, looks, misses = 1000, 80, 500, 0.35
    rng = np.random.default_rng(1)
    truly = rng.permuted(np.broadcast_to(np.arange(population) < bad, (TRIALS, population)), axis=1)[:, :looks]
    called = (truly & (rng.random(truly.shape) >= misses)).sum(axis=1)
    of = cache(lambda x, stated: bound._bound([Stratum(population, looks, x)], DELTA, stated))
    blind, told = (sum(of(int(x), stated) < bad for x in called) for stated in (0.0, misses))
    assert told <= most_misses(TRIALS) < blind


def test_errors_by_hand() -> None:
    assert bound.upper_despite_errors(7, 100, 0.0, 0.005) == 7
    # 0 called bad: k bad ones are all missed with probability 0.1 ** k > 0.005 up to k = 2
    assert bound.upper_despite_errors(0, 100, 0.1, 0.005) == 2
    assert bound.upper_despite_errors(60, 60, 0.1, 0.005) == 60
    for misses in (1.0, -0.1):
        with pytest.raises(WinnowError, match="below 1"):
            bound.upper_despite_errors(0, 100, misses, 0.005)


def test_errors_are_estimated_from_agreement() -> None:
    rng = np.random.default_rng(3)
    bad = rng.random(4000) < 0.3
    misses, alarms = np.array([0.05, 0.2, 0.1, 0.3]), np.array([0.02, 0.05, 0.1, 0.03])
    says = np.where(bad[:, None], rng.random((4000, 4)) >= misses, rng.random((4000, 4)) < alarms)
    calls = np.where(rng.random((4000, 4)) < 0.1, -1, says).astype(np.int8)
    found = bound.reviewer_errors(calls)
    np.testing.assert_allclose(found.misses, misses, atol=0.04)
    np.testing.assert_allclose(found.alarms, alarms, atol=0.02)
    assert found.bad == pytest.approx(0.3, abs=0.02)
    with pytest.raises(WinnowError, match="third"):
        bound.reviewer_errors(calls[:, :2])


# A family of policies


@pytest.fixture(scope="module")
def foils() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """True texts of Tabletop scenes said of other scenes: their length, and whether they happen not to be false there."""
    scenes = [paint(3, i, preset("standard")).truth for i in range(5)]
    rows = [
        (len(said.text.split()), holds(other, said.text) is not False)
        for here in scenes
        for other in scenes
        if here is not other
        for said in here.true
    ]
    words, bad = zip(*rows, strict=True)
    rng = np.random.default_rng(0)
    return np.array(words) + rng.random(len(words)), np.array(bad)


def proposals(score: NDArray[np.float64], bad: NDArray[np.bool_], cuts: Sequence[float], alpha: float) -> list[bool]:
    """For each trial of 2,000: is the policy that is proposed worse than alpha?"""
    accepts = np.array([score >= cut for cut in cuts])
    truth = {str(cut): bad[taken].mean() for cut, taken in zip(cuts, accepts, strict=True)}
    sizes, looks = accepts.sum(axis=1), len(score) // 3
    rng = np.random.default_rng(5)
    rows = rng.permuted(np.broadcast_to(np.arange(len(score)), (TRIALS, len(score))), axis=1)[:, :looks]
    name = cache(
        lambda known: (
            bound.loosest(
                [(str(c), (Stratum(int(n), *k),)) for c, n, k in zip(cuts, sizes, known, strict=True)],
                alpha,
                DELTA,
                looks,
            ).name
        )
    )
    looked, found = accepts[:, rows].sum(axis=2).T, (accepts & bad)[:, rows].sum(axis=2).T
    chosen = [name(tuple(zip(n.tolist(), x.tolist(), strict=True))) for n, x in zip(looked, found, strict=True)]
    assert any(chosen)
    return [choice is not None and truth[choice] > alpha for choice in chosen]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of trials ask for the same p-values."""
    monkeypatch.setattr(bound, "p_value", cache(bound.p_value))


@pytest.mark.usefixtures("quick")
def test_coverage_of_a_family_of_policies() -> None:
    """Every policy but the strictest is a little worse than alpha, so that each is one more chance to be wrong."""
    rng = np.random.default_rng(2)
    score = np.sort(rng.random(900))[::-1]
    bad = np.zeros(900, bool)
    bad[rng.permutation(np.arange(300, 900))[:95]] = True
    bad[rng.permutation(300)[:12]] = True
    assert sum(proposals(score, bad, score[299::100].tolist(), 0.06)) <= most_misses(TRIALS)


@pytest.mark.usefixtures("quick")
def test_coverage_on_tabletop(foils: tuple[NDArray[np.float64], NDArray[np.bool_]]) -> None:
    score, bad = foils
    alpha = (bad.sum() - 1) / len(bad)  # the loosest policy is just too loose
    assert sum(proposals(score, bad, [5.0, 4.0, 3.0, 2.5, 0.0], alpha)) <= most_misses(TRIALS)
    looks = len(bad) // 2
    draws = np.random.default_rng(4).permuted(np.broadcast_to(bad, (TRIALS, len(bad))), axis=1)
    below = bounds_of(np.cumsum(draws[:, :looks], axis=1), len(bad), peeking) < bad.sum()
    assert below.any(axis=1).sum() <= most_misses(TRIALS)


def test_a_family_stops_at_the_first_that_fails_and_skips_what_cannot_be_shown() -> None:
    family = [
        ("tiny", [Stratum(50, 5, 0)]),
        ("strict", [Stratum(1000, 100, 0)]),
        ("worse", [Stratum(2000, 200, 20)]),
        ("loose", [Stratum(6000, 600, 20)]),
    ]
    proposal = bound.loosest(family, ALPHA, DELTA, planned=600)
    assert proposal.name == "strict"
    assert [test.meets for test in proposal.tests] == [False, True, False, False]
    assert [test.p is None for test in proposal.tests] == [True, False, False, True]
    assert "too few" in proposal.tests[0].why and "stricter one failed" in proposal.tests[3].why
    assert bound.loosest([], ALPHA, DELTA, planned=600).name is None
    assert bound.loosest(family, ALPHA, DELTA, planned=600, misses=0.5).name is None


def test_a_family_from_one_audit() -> None:
    accepts = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    strata, rows, bad = np.array([0, 0, 1, 0, 1]), np.array([4, 0, 3]), np.array([True, False, True])
    family = dict(bound.nested(["a", "b", "c"], accepts, strata, rows, bad))
    assert family["a"] == (Stratum(2, 1, 0), Stratum(0, 0, 0))
    assert family["b"] == (Stratum(3, 2, 1), Stratum(1, 0, 0))
    assert family["c"] == (Stratum(3, 2, 1), Stratum(2, 1, 1))
    with pytest.raises(WinnowError, match="'b' accepts 1 candidates that 'a' rejects"):
        bound.nested(["b", "a"], accepts[[1, 0]][:, :3], strata, rows, bad)


# Planning and stopping


@pytest.mark.parametrize(
    "start", [(Stratum(3000, 0, 0),), (Stratum(2000, 40, 1),), (Stratum(900, 60, 0), Stratum(600, 40, 1))]
)
def test_as_many_looks_as_forecast_are_needed(start: tuple[Stratum, ...]) -> None:
    more = bound.looks_needed(ALPHA, DELTA, 0.0, start)
    assert more
    parts = np.diff(np.linspace(0, more, len(start) + 1).round()).astype(int)
    reached = [Stratum(s.population, s.looked + int(m), s.bad) for s, m in zip(start, parts, strict=True)]
    share = bound.upper(reached, DELTA) / sum(s.population for s in start)
    assert share == pytest.approx(ALPHA, rel=0.0 if len(start) == 1 else 0.1, abs=1e-3)


def test_forecasts_grow_with_the_rate_until_there_is_none() -> None:
    needs = [bound.looks_needed(ALPHA, DELTA, rate, [Stratum(5000, 0, 0)]) for rate in (0, 0.01, 0.03, 0.049)]
    assert None not in needs and needs == sorted(needs)
    assert bound.looks_needed(ALPHA, DELTA, 0.06, [Stratum(5000, 0, 0)]) is None
    assert bound.looks_needed(ALPHA, DELTA, 0.0, [Stratum(5000, 300, 0)]) == 0
    assert bound.looks_needed(ALPHA, DELTA, 0.01, [Stratum(5000, 0, 0)], misses=0.2) > needs[1]


@pytest.mark.parametrize(
    ("known", "left", "stop", "why"),
    [
        (Stratum(1000, 100, 0), 200, True, "not above the 5 %"),
        (Stratum(1000, 60, 20), 200, True, "stricter policy"),
        (Stratum(1000, 60, 2), 0, True, "larger one"),
        (Stratum(1000, 60, 2), 20, True, "all good"),
        (Stratum(1000, 60, 2), 200, False, "more looks are enough"),
    ],
)
def test_when_one_may_stop(known: Stratum, left: int, stop: bool, why: str) -> None:
    found = bound.may_stop([known], left, ALPHA, DELTA)
    assert found.stop is stop and why in found.why


# An audit


def audit(size: int = 100, population: int = 1000) -> Audit:
    return Audit(
        id=1,
        dataset_id=1,
        policy_id=1,
        design="simple",
        seed=0,
        hide=False,
        created_at=0.0,
        size=size,
        population=population,
        strata=(AuditStratum(name="all", population=population, size=size),),
    )


def items(*decisions: Sequence[str] | str | None, size: int = 100) -> list[Looked]:
    """Looks in the order of the audit; several letters are several reviewers, None is not looked at."""
    letters = {"a": Decision.ACCEPT, "r": Decision.REJECT, "e": Decision.EDIT, "s": Decision.SKIP}
    given = [{str(i): letters[c] for i, c in enumerate(decided or "")} for decided in decisions]
    given += [{}] * (size - len(given))
    return [Looked(candidate_id=9 * i, position=i, stratum=0, verdicts=v) for i, v in enumerate(given)]


def test_the_sentence_of_an_audit() -> None:
    found = bound.state(audit(), items(*"a" * 90, size=100)[::-1], ALPHA)
    assert (found.looked, found.bad, found.needed, found.stop) == (90, 0, 0, True)
    assert found.upper == bound.upper([Stratum(1000, 90, 0)], DELTA)
    assert found.sentence == (
        f"With 95 % confidence at most {found.upper / 10:.3g} % ({found.upper}) of the 1,000 accepted are bad."
    )
    careful = bound.state(audit(), items(*"a" * 90), ALPHA, misses=0.1)
    assert careful.upper > found.upper and "if reviewers miss at most 10 %" in careful.sentence


def test_only_the_beginning_without_gaps_counts() -> None:
    found = bound.state(audit(), items("a", "r", None, "a", "a", "r"), ALPHA)
    assert (found.looked, found.bad, found.beyond) == (2, 1, 3)


def test_skipped_edited_and_deleted_ones_are_bad() -> None:
    looks = items("a", "s", "e", None, "a")
    looks[3] = Looked(candidate_id=27, position=3, stratum=0, gone=True)
    found = bound.state(audit(), looks, ALPHA)
    assert (found.looked, found.bad, found.skipped) == (5, 3, 2)


@pytest.mark.parametrize(
    ("decided", "by_any", "by_majority"),
    [
        ("aa", False, False),
        ("aar", True, False),
        ("ar", True, True),
        ("as", False, False),
        ("arr", True, True),
        ("", True, True),
    ],
)
def test_what_several_verdicts_come_to(decided: str, by_any: bool, by_majority: bool) -> None:
    verdicts = items(decided)[0].verdicts.values()
    assert (bound.is_bad(verdicts), bound.is_bad(verdicts, "majority")) == (by_any, by_majority)
    with pytest.raises(WinnowError, match="any, majority"):
        bound.is_bad(verdicts, "dice")


def test_each_item_waits_for_all_its_reviewers() -> None:
    assert bound.state(audit(), items("aa", "ar", "a", "aa"), ALPHA, each=2).looked == 2


def test_an_audit_nobody_has_begun() -> None:
    found = bound.state(audit(), items(), ALPHA)
    assert (found.looked, found.upper, found.lower, found.stop) == (0, 1000, 0, False)
    assert found.needed == bound.looks_needed(ALPHA, DELTA, 0.0, [Stratum(1000, 0, 0)])

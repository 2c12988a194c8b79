"""The learned filter: it says when it cannot learn, never judges what it learned from, is calibrated, and is on only when it wins."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from db.errors import WinnowError
from db.records import Dataset, Decision, Kind, NewCandidate, NewVerdict, Rule, Score
from db.store import Store
from engine.backends.rules import RulesWriter
from engine.filters import FILTERS
from engine.filters.judgement import TEXTS
from engine.learned import (
    Examples,
    Learned,
    TooFew,
    _ranked,
    _singles,
    auc_of,
    calibration,
    fit,
    judge,
    learn,
    learned_of,
    suggested,
    too_few,
)
from engine.roles import WriteTask
from engine.tabletop import PRESETS, Truth, holds, paint
from tests.conftest import leased
from tests.test_text_guards import negative


def examples(n: int = 600, *, seed: int = 0, strength: float = 1.5, missing: float = 0.0) -> Examples:
    """Two scores that each say half of it, one that says nothing, on images of three candidates."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 3))
    accepted = rng.random(n) < expit(strength * (scores[:, 0] + scores[:, 1]))
    scores[rng.random((n, 3)) < missing] = np.nan
    return Examples(("a", "b", "noise"), scores, np.arange(n) // 3, accepted)


@pytest.fixture(scope="module")
def learned() -> Learned:
    return fit(examples())


def test_two_halves_beat_either(learned: Learned) -> None:
    found = learned.report
    assert {found.singles[0].filter, found.singles[1].filter} == {"a", "b"}
    assert found.on and 0.05 < found.gain_low < found.gain < found.gain_high
    assert "better than" in found.says and "not shown" not in found.says
    assert suggested(learned) == Rule(filter="learned", at_least=0.5)


def test_what_it_reports_holds_for_new_candidates(learned: Learned) -> None:
    new = examples(4000, seed=1)
    predicted = learned.predict(new)
    assert auc_of(predicted, new.accepted)[0] == pytest.approx(learned.report.auc, abs=0.03)
    assert ((predicted - new.accepted) ** 2).mean() == pytest.approx(learned.report.brier, abs=0.02)
    bins = calibration(predicted, new.accepted)
    assert sum(one.n for one in bins) == 4000
    assert max(abs(one.predicted - one.observed) for one in bins) < 0.1


def test_noise_teaches_nothing() -> None:
    found = fit(examples(strength=0.0))
    assert not found.report.on and suggested(found) is None
    assert found.report.auc < 0.6 and "stays off" in found.report.says


def test_one_filter_alone_is_not_beaten() -> None:
    known = examples(strength=3)
    only = Examples(("a",), known.scores[:, :1], known.groups, known.accepted)
    assert not fit(only).report.on


def test_no_verdict_on_an_image_tells_of_that_image() -> None:
    """Labels that follow from the image alone cannot be foretold, although each image has many candidates."""
    rng = np.random.default_rng(0)
    mark = np.repeat(rng.normal(size=100), 10)  # the same for all candidates of an image
    accepted = np.repeat(rng.random(100) < 0.5, 10)
    scores = np.column_stack([mark, rng.normal(size=1000)])
    assert fit(Examples(("mark", "noise"), scores, np.arange(1000) // 10, accepted)).report.auc < 0.62


def test_a_verdict_does_not_change_the_value_of_its_own_image(learned: Learned) -> None:
    before = examples()
    flipped = replace(before, accepted=np.where(before.groups == 7, ~before.accepted, before.accepted))
    own = before.take(before.groups == 7)
    assert np.array_equal(fit(flipped).predict(own), learned.predict(own))
    assert not np.array_equal(fit(flipped).predict(before), learned.predict(before))


def test_the_same_verdicts_give_the_same_filter(learned: Learned) -> None:
    assert fit(examples()) == learned != fit(examples(), seed=1)
    assert msgspec.json.decode(msgspec.json.encode(learned), type=Learned) == learned


def test_a_score_that_is_best_in_the_middle() -> None:
    """No threshold on it helps, but its curve does; its default rule says so too, and then it is not beaten."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 800)
    accepted = rng.random(800) < np.where(np.abs(x) < 1, 0.9, 0.1)
    known = Examples(("x",), x[:, None], np.arange(800), accepted)
    assert fit(known).report.gain > 0.3
    assert not fit(known, rules=[Rule(filter="x", at_least=-1, at_most=1)]).report.on


# Missing values


def test_absent_scores_are_learned_from() -> None:
    found = fit(examples(missing=0.2))
    assert found.report.on
    one = Examples(("a", "b", "noise"), np.array([[3.0, np.nan, 0.0]]), np.array([1]), np.array([False]))
    value, reason = found.judge(one)[0]
    assert value is not None and value > 0.7 and reason.startswith("weighs most: a 3 (for it")


def test_a_score_that_was_never_absent_must_be_there(learned: Learned) -> None:
    one = Examples(("a", "noise"), np.zeros((1, 2)), np.array([1]), np.array([False]))
    assert learned.judge(one) == [(None, "no value of b, which every candidate had that it learned from")]
    assert np.isnan(learned.predict(one)).all()


def test_without_any_score_there_is_no_value() -> None:
    none = Examples(("a", "b", "noise"), np.full((1, 3), np.nan), np.array([1]), np.array([False]))
    assert fit(examples(missing=0.2)).judge(none)[0] == (None, "none of the scores that it learned from is there")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.integers(0, 10**6))
def test_values_are_probabilities_and_reasons_name_the_heaviest(scores: list[float], group: int) -> None:
    one = Examples(("a", "b", "noise"), np.array([scores]), np.array([group]), np.array([False]))
    found = fitted()
    value, reason = found.judge(one)[0]
    assert value is not None and value == pytest.approx(found.predict(one)[0]) and 0 <= value <= 1
    model = next(m for m in found.models if expit(m.intercept + m.parts(one.names, one.scores).sum()) == value)
    heaviest = max(zip(np.abs(model.parts(one.names, one.scores)[0]), ("a", "b", "noise"), strict=True))[1]
    assert reason.startswith(f"weighs most: {heaviest} ")


_FITTED: list[Learned] = []


def fitted() -> Learned:
    if not _FITTED:
        _FITTED.append(fit(examples()))
    return _FITTED[0]


# Too few, and bad input


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.take(np.arange(90)), "more accepted"),
        (lambda one: replace(one, accepted=np.arange(600) < 560), "Needed: 10 more rejected."),
        (lambda one: replace(one, groups=np.arange(600) % 15), "verdicts on 5 more images"),
        (lambda one: replace(one, accepted=one.groups > 0, groups=one.groups + 0), "more rejected"),
        (lambda one: replace(one, groups=np.where(np.arange(600) < 300, 0, one.groups), accepted=np.arange(600) >= 300),
         "on a few images only"),
    ],
)  # fmt: skip
def test_it_says_when_there_are_too_few(change: Callable[[Examples], Examples], said: str) -> None:
    with pytest.raises(TooFew, match=said):
        fit(change(examples()))
    assert too_few(examples()) is None


def test_without_scores_there_is_nothing_to_learn_from() -> None:
    known = examples()
    for scores in (np.full((600, 3), np.nan), np.ones((600, 3))):
        with pytest.raises(WinnowError, match="no filter gives"):
            fit(replace(known, scores=scores))


def test_bad_examples_are_refused() -> None:
    known = examples()
    with pytest.raises(WinnowError, match="expected scores of shape"):
        replace(known, names=("a", "b"))
    with pytest.raises(WinnowError, match="'b' is infinite"):
        replace(known, scores=np.where(np.arange(3) == 1, np.inf, known.scores))
    with pytest.raises(WinnowError, match="finite embeddings"):
        replace(known, embeddings=np.full((600, 4), np.nan))


# Embeddings


def test_embeddings_are_learned_from_without_leaking() -> None:
    known = examples()
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(600, 32))
    telling = noise + np.outer(np.where(known.accepted, 1.5, -1.5), np.eye(32)[0])
    without = fit(known).report.auc
    assert fit(replace(known, embeddings=noise)).report.auc == pytest.approx(without, abs=0.02)
    found = fit(replace(known, embeddings=telling))
    assert found.report.auc > without + 0.05
    value, reason = found.judge(known)[0]
    assert value is None and "embedding" in reason


# AUC and calibration


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_chance_of_the_right_order(pairs: list[tuple[int, bool]]) -> None:
    values, accepted = np.array([v for v, _ in pairs], float), np.array([a for _, a in pairs])
    yes, no = values[accepted], values[~accepted]
    found = auc_of(values, accepted)[0]
    if not len(yes) or not len(no):
        assert np.isnan(found)
    else:
        assert found == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a in yes for b in no]))


def test_weights_of_the_auc_are_repetitions() -> None:
    values, accepted, times = np.array([1.0, 2, 2, 3]), np.array([False, True, False, True]), np.array([2, 1, 3, 1])
    repeated = auc_of(np.repeat(values, times), np.repeat(accepted, times))
    assert auc_of(values, accepted, times[None].astype(float)) == pytest.approx(repeated)


def test_calibration_bins_by_hand() -> None:
    bins = calibration(np.array([0.9, 0.1, 0.8, 0.2]), np.array([True, False, False, False]), bins=2)
    assert [(one.n, one.predicted, one.observed) for one in bins] == [
        (2, pytest.approx(0.15), 0),
        (2, pytest.approx(0.85), 0.5),
    ]
    assert (bins[1].low, bins[1].high) == (pytest.approx(0.0945, abs=1e-3), pytest.approx(0.9055, abs=1e-3))


# In the store


def stored(store: Store, dataset: Dataset, known: Examples) -> list[int]:
    """Candidates with the scores and verdicts of the examples, on the six images of the data set; two without verdict."""
    shard = leased(store, dataset.id)
    images = store.datasets.images(dataset.id)
    made = [
        NewCandidate(target=f"phrase:{i}", variant=0, kind=Kind.NEGATIVE_TEXT, image_id=images[group].id, seed=i)
        for i, group in enumerate(known.groups)
    ]
    store.review.add_candidates(shard, made, dataset.id)
    ids = store.review.candidate_ids(shard.run_id)
    rows = zip(ids, known.scores, strict=True)
    store.review.add_scores(
        shard,
        [
            Score(candidate_id=i, filter=name, value=None if np.isnan(v) else float(v))
            for i, row in rows
            for name, v in zip(known.names, row, strict=True)
        ],
    )
    says = {True: Decision.ACCEPT, False: Decision.REJECT}
    store.review.decide(
        [
            NewVerdict(op_id=f"v{i}", candidate_id=i, decision=says[bool(yes)])
            for i, yes in list(zip(ids, known.accepted, strict=True))[:-2]
        ]
    )
    return ids


def test_learned_in_the_store(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.conftest import small_document

    dataset = store.datasets.import_document(small_document(tmp_path_factory.mktemp("files"), images=40), "forty")
    known = examples(400)
    known = replace(known, groups=known.groups % 40)
    ids = stored(store, dataset, known)
    candidates = store.review.candidates(ids)
    assert judge(store, dataset.id, candidates)[0] == (
        None,
        "nothing was learned yet about candidates of kind negative_text",
    )
    made = learn(store, dataset.id, Kind.NEGATIVE_TEXT)
    assert made == learned_of(store, dataset.id, Kind.NEGATIVE_TEXT)
    assert (made.report.accepted + made.report.rejected, made.report.images) == (398, 40)
    values = judge(store, dataset.id, candidates)
    assert all(value is not None and reason for value, reason in values)
    assert auc_of(np.array([v for v, _ in values], float), known.accepted)[0] == pytest.approx(
        made.report.auc, abs=0.01
    )
    with pytest.raises(TooFew, match="0 accepted"):
        learn(store, dataset.id, Kind.INSTANCE)


def test_its_own_values_are_nothing_to_learn_from(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.conftest import small_document

    dataset = store.datasets.import_document(small_document(tmp_path_factory.mktemp("files"), images=40), "forty")
    known = examples(400)
    cheat = Examples(
        ("a", "b", "learned"), np.column_stack([known.scores[:, :2], known.accepted]), known.groups % 40, known.accepted
    )
    stored(store, dataset, cheat)
    made = learn(store, dataset.id, Kind.NEGATIVE_TEXT)
    assert {curve.score for model in made.models for curve in model.curves} == {"a", "b"}


def test_a_broken_file_is_named(store: Store) -> None:
    path = store.home / "models" / "learned" / "1-instance.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(WinnowError, match="1-instance.json holds no learned filter"):
        learned_of(store, 1, Kind.INSTANCE)


# On Tabletop, whose truth is known exactly

TEXT_FILTERS = [name for name, one in FILTERS.items() if one.kinds == TEXTS and name != "learned"]


def told(truth: Truth, seed: int) -> Iterator[tuple[str, str]]:
    """(true text, proposed negative): rule-written foils, edits that are false, true statements in their place, and spoilt ones."""
    rng = np.random.default_rng(seed)
    for part in truth.phrases:
        facts = tuple(other.text for other in truth.phrases)
        made = RulesWriter().write([WriteTask(text=part.text, n=3, seed=seed, facts=facts)])[0]
        assert not isinstance(made, str)
        yield from ((part.text, foil.text) for foil in made)
    true = [one.text for one in truth.true]
    for one in truth.false:
        if rng.random() < 0.35:
            yield one.source, one.text
    for text in true:
        if rng.random() < 0.5:
            yield text, true[rng.integers(len(true))]


def tabletop(scenes: int, seed: int) -> Examples:
    """Proposed negatives of which truth says whether they are false, scored by all text guards; accepted means really false."""
    rows: list[tuple[int, bool]] = []
    subjects = []
    for i in range(scenes):
        truth = paint(seed, i, PRESETS["standard"]).truth
        for before, after in told(truth, i):
            said = holds(truth, after)
            if said is not None:
                subjects.append(negative(truth, before, after))
                rows.append((i, said is False))
    judged = {name: FILTERS[name].score(subjects, None) for name in TEXT_FILTERS}  # type: ignore[arg-type]
    scores = np.array([[np.nan if one.value is None else one.value for one in judged[name]] for name in TEXT_FILTERS]).T
    groups, accepted = np.array([group for group, _ in rows]), np.array([good for _, good in rows])
    return Examples(tuple(TEXT_FILTERS), scores, groups, accepted)


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.0, 0.05])
def test_it_beats_the_best_single_filter_on_held_out_truth(error: float) -> None:
    """Learned from reviewers who err at the stated rate, judged by the exact truth of scenes that nobody looked at."""
    seen, new = tabletop(40, 11), tabletop(40, 12)
    wrong = np.random.default_rng(0).random(len(seen.groups)) < error
    rules = [FILTERS[name].default for name in TEXT_FILTERS]
    found = fit(replace(seen, accepted=seen.accepted ^ wrong), rules=rules)
    predicted, (_, singles) = found.predict(new), _singles(new, rules)
    auc = auc_of(_ranked(predicted), new.accepted)[0]
    print(f"error {error}: held-out AUC {auc:.4f}, best single {singles[0]}; {found.report.says}")
    assert found.report.on and auc > singles[0].auc + 0.02
    assert np.isnan(predicted).mean() < 0.01

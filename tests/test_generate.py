"""Generate runs in this process: what is made, what it cost, quotas, further attempts, and going on after an end."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Quiet, small_document

from db.errors import NotFound, WinnowError
from db.records import Candidate, Dataset, Kind, NewVerdict, Run, RunKind
from db.store import Store
from engine import prompts, runs
from engine.control import Stopped
from engine.quota import Quota
from engine.recipe import load, parse
from engine.spending import estimate, spent

PACK = "classic"


def work(store: Store, run: Run, control: Quiet | None = None) -> Run:
    """Everything that is queued of a run, as a worker would do it."""
    for planned in (run, *store.ledger.followers(run.id)):
        if not store.ledger.shards(planned.id):
            store.ledger.plan(planned.id, runs.plan(store, planned))
        while shard := store.ledger.claim(planned.id, "tester"):
            runs.execute(store, store.ledger.run(planned.id), shard, control or Quiet())
            store.ledger.finish_shard(shard)
        runs.conclude(store, store.ledger.run(planned.id))
        store.ledger.conclude(planned.id)
    return store.ledger.run(run.id)


def made(store: Store, run: Run) -> list[Candidate]:
    return store.review.candidates(store.review.candidate_ids(run.id))


def keys(found: list[Candidate]) -> list[tuple[str, int, int, str | None, str | None]]:
    return sorted((c.target, c.variant, c.seed, c.text_after, c.digest) for c in found)


@pytest.fixture
def bigger(store: Store, tmp_path: Path) -> Dataset:
    return store.datasets.import_document(small_document(tmp_path / "more", images=24), "bigger")


def start(store: Store, dataset: Dataset, recipe: str = "gen2det", **options: object) -> Run:
    return runs.start_generate(store, dataset_id=dataset.id, recipe=load(recipe), **{"pack": PACK, **options})  # type: ignore[arg-type]


def test_a_run_says_what_it_made_and_what_it_took(store: Store, dataset: Dataset) -> None:
    run = work(store, start(store, dataset))
    assert run.result["candidates"] == len(made(store, run)) == 8
    assert run.result["items"] == 8 and run.result["seconds"] > 0
    assert run.result["usage"]["cost"] == 0


def test_every_run_begins_with_a_few_targets_by_which_the_rest_is_estimated(store: Store, bigger: Dataset) -> None:
    run = start(store, bigger)
    sizes = [len(shard.payload["targets"]) for shard in store.ledger.shards(run.id)]
    assert sizes == [runs.PREVIEW, 28]
    assert estimate(store, run, 100) is None
    preview = work(store, start(store, bigger, preview=True))
    guess = estimate(store, preview, 100)
    assert guess is not None and guess.candidates == pytest.approx(100)
    assert guess.seconds >= 100 * spent(store, preview.id)["seconds"] / runs.PREVIEW


def test_made_together_or_one_by_one_candidates_are_the_same(
    store: Store, bigger: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = work(store, start(store, bigger, "enhanced_negatives", amount=12))
    monkeypatch.setattr(runs, "AT_ONCE", 1)
    single = work(store, start(store, bigger, "enhanced_negatives", amount=12))
    assert keys(made(store, together)) == keys(made(store, single)) != []


# Quotas


def test_a_quota_goes_on_until_enough_is_accepted(store: Store, bigger: Dataset) -> None:
    run = work(store, start(store, bigger, quota=Quota(accepted=5, classes=("ball",), candidates=100)))
    found = made(store, run)
    ball = next(c.id for c in store.datasets.categories(bigger.id) if c.name == "ball")
    assert {candidate.category_id for candidate in found} == {ball}
    report = run.result["quota"]["ball"]
    assert report["accepted"] >= 5 and report["attempts"] == len(found)
    assert run.result["stopped_by"] == "every class has what was wanted"


def test_a_quota_repeats_targets_with_other_variants_and_ends_with_its_budget(store: Store, dataset: Dataset) -> None:
    strict = load("gen2det").text.replace("seam, at_most: 3.0", "seam, at_most: 0.0001")
    run = runs.start_generate(
        store,
        dataset_id=dataset.id,
        recipe=parse(strict),
        pack=PACK,
        quota=Quota(accepted=50, classes=("mug",), candidates=10),
    )
    run = work(store, run)
    found = made(store, run)
    assert run.result["quota"]["mug"]["accepted"] == 0
    assert run.result["stopped_by"] == "the budget of 10 candidates is spent"
    assert len(found) >= 10 and {candidate.variant for candidate in found} > {0, 1}


def test_an_interrupted_quota_ends_with_the_same_candidates(store: Store, bigger: Dataset) -> None:
    quota = Quota(accepted=11, candidates=200)
    whole = work(store, start(store, bigger, quota=quota))
    again = start(store, bigger, quota=quota)
    with pytest.raises(Stopped):
        work(store, again, Quiet(looks=2))
    (shard,) = store.ledger.shards(again.id)
    store.ledger.release_shard(shard)
    assert 0 < len(made(store, again)) < len(made(store, whole))
    assert keys(made(store, work(store, again))) == keys(made(store, whole))


def test_a_quota_without_a_budget_or_with_an_unknown_class_is_refused(store: Store, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="needs a budget"):
        Quota(accepted=3)
    with pytest.raises(NotFound, match="mug"):
        start(store, dataset, quota=Quota(accepted=3, classes=("jug",), candidates=5))


# Further attempts


def test_another_attempt_is_a_new_variant_that_knows_why_the_last_was_rejected(store: Store, dataset: Dataset) -> None:
    first = made(store, work(store, start(store, dataset, amount=1)))[0]
    store.review.decide(
        [NewVerdict(op_id="a", candidate_id=first.id, decision="reject", reason="blurred")]  # type: ignore[arg-type]
    )
    run = runs.start_again(store, first.id, amount=2)
    (shard,) = store.ledger.shards(run.id)
    assert shard.payload["avoid"] == ["the picture: blurred"]
    found = made(store, work(store, run))
    assert [candidate.variant for candidate in found] == [1, 2]
    assert {candidate.target for candidate in found} == {first.target}
    assert len({candidate.seed for candidate in (first, *found)}) == 3


def test_a_text_in_your_own_words_is_a_new_variant(store: Store, dataset: Dataset) -> None:
    texts = made(store, work(store, start(store, dataset, "enhanced_negatives", amount=4)))
    first = next(candidate for candidate in texts if candidate.kind is Kind.NEGATIVE_TEXT)
    (mine,) = made(store, work(store, runs.start_again(store, first.id, wording="a green teapot")))
    assert (mine.text_before, mine.text_after) == (first.text_before, "a green teapot")
    assert mine.detail["strategy"] == "person" and store.review.scores_of([mine.id])[mine.id]


def test_a_scene_is_painted_as_a_whole_and_judged_box_by_box(store: Store, dataset: Dataset) -> None:
    text = load("gen2det").text.replace("of: boxes", "of: scenes")
    run = runs.start_generate(store, dataset_id=dataset.id, recipe=parse(text), pack=PACK, amount=2)
    found = made(store, work(store, run))
    assert len(found) == 4 and len({candidate.digest for candidate in found}) == 2
    for candidate in found:
        scores = {score.filter: score.value for score in store.review.scores_of([candidate.id])[candidate.id]}
        assert scores["outside_change"] == 0 and len(candidate.detail["touched"]) == 2


def test_a_pack_that_cannot_do_it_is_refused_before_anything_is_queued(store: Store, dataset: Dataset) -> None:
    text = load("enhanced_negatives").text + "\nstrategies: [n1_foil]\n"
    with pytest.raises(WinnowError, match="has rules"):
        runs.start_generate(store, dataset_id=dataset.id, recipe=parse(text), pack=PACK)
    with pytest.raises(WinnowError, match="WINNOW_DOWNLOADS"):
        runs.start_generate(store, dataset_id=dataset.id, recipe=load("gen2det"), pack="modern")
    assert store.ledger.runs(kind=RunKind.GENERATE) == []


def test_a_rejected_box_of_a_scene_loses_its_label_and_keeps_its_pixels(store: Store, dataset: Dataset) -> None:
    text = load("gen2det").text.replace("of: boxes", "of: scenes")
    run = runs.start_generate(store, dataset_id=dataset.id, recipe=parse(text), pack=PACK, amount=1)
    one, other = made(store, work(store, run))
    verdicts = [("accept", one), ("reject", other)]
    store.review.decide([NewVerdict(op_id=d, candidate_id=c.id, decision=d) for d, c in verdicts])  # type: ignore[arg-type]
    snapshot = store.snapshots.freeze("scene", dataset.id, store.review.policies(dataset.id))
    (sample,) = [s for s in store.snapshots.samples(snapshot)[1] if s.image.extra.get("synthetic")]
    assert [box.xyxy for box in sample.boxes] == [one.xyxy]
    assert sample.image.digest == one.digest == other.digest


def test_a_run_writes_to_its_end_with_the_prompts_and_pairs_it_began_with(store: Store, dataset: Dataset) -> None:
    begun = start(store, dataset, "enhanced_negatives", pack="pocket")
    prompt = prompts.load("pocket_foil", store.home)
    assert begun.options["prompts"] == {"pocket_foil": prompt.digest} and begun.options["pairs"] == []
    prompts.save(store.home, prompt.text.replace("temperature: 0.8", "temperature: 0.6"))
    rows = {c.detail["writer"]["prompt_digest"] for c in made(store, work(store, begun)) if "writer" in c.detail}
    assert rows == {prompt.digest}
    later = made(store, work(store, start(store, dataset, "enhanced_negatives", pack="pocket", seed=1)))
    digests = {c.detail["writer"]["prompt_digest"] for c in later if "writer" in c.detail}
    assert digests == {prompts.load("pocket_foil", store.home).digest} != rows

"""Paired ablations: what is queued, what is tried again, and what the difference was."""

import json
from collections.abc import Callable

import pytest
from conftest import candidates, leased
from typer.testing import CliRunner

import studio.app  # noqa: F401  keeps gradio from looking up its servers
from db.errors import NotFound, WinnowError
from db.records import Dataset, NewVerdict, Run, RunKind, State
from db.store import Store
from engine import ablation
from studio import comparing
from studio.cli import app

SHORT = {"iterations": 2}


@pytest.fixture
def start(store: Store, dataset: Dataset) -> Callable[..., ablation.Ablation]:
    """Starts the ablation of one accepted candidate."""
    shard = leased(store, dataset.id)
    (made,) = candidates(store, dataset.id, shard, 1)
    store.review.decide([NewVerdict(op_id="operation-1", candidate_id=made, decision="accept")])  # type: ignore[arg-type]
    store.snapshots.freeze("real", dataset.id)
    store.snapshots.freeze("both", dataset.id, store.review.policies(dataset.id))

    def begin(seeds: int = 2, **changed: object) -> ablation.Ablation:
        wanted = {"without": "real", "with_": "both", "options": SHORT, **changed}
        return ablation.start(store, seeds=seeds, **wanted)  # type: ignore[arg-type]

    return begin


def end(store: Store, run: Run, *, fail: bool = False, **result: object) -> None:
    for _ in range(3 if fail else 1):
        shard = store.ledger.claim(run.id, "tester")
        assert shard is not None
        if fail:
            store.ledger.fail_shard(shard, "broken")
        else:
            store.ledger.finish_shard(shard)
            store.ledger.set_result(run.id, result)
            store.ledger.conclude(run.id)


def work(store: Store, gains: dict[int, float], *, mug: float = 0.1) -> None:
    """Do all that is queued: without the slice an mAP of 0.3 + seed / 100, with it the gain of the seed more."""
    while waiting := store.ledger.waiting_runs():
        run = waiting[0]
        if run.kind is RunKind.EVALUATE:
            told = store.ledger.run(run.options["train_run_id"]).options["ablation"]
            gain = gains[run.seed] if told["arm"] == ablation.WITH else 0.0
            mAP = 0.3 + run.seed / 100 + gain
            end(store, run, mAP=mAP, AP_s=-1.0, per_class={"mug": mug + 2 * gain, "ball": -1.0}, images=2)
        else:
            end(store, run, mAP=0.1)


def test_two_trainings_and_two_evaluations_for_each_seed(store: Store, start: Callable[..., ablation.Ablation]) -> None:
    found = start(3)
    trainings = [leg.training for legs in found.legs.values() for leg in legs.values()]
    assert [(run.seed, store.snapshots.get(run.options["snapshot_id"]).name) for run in trainings] == [
        (seed, name) for seed in range(3) for name in ("real", "both")
    ]
    judged = [leg.evaluation for legs in found.legs.values() for leg in legs.values()]
    assert {(run.options["snapshot_id"], run.options["split"]) for run in judged if run} == {(found.without.id, "test")}
    assert [run.after_id for run in judged if run] == [run.id for run in trainings]
    assert (found.pairs, found.ended, found.metrics) == (0, False, {})
    assert [one.key for one in ablation.ablations(store)] == [found.key]


def test_the_interval_is_that_of_the_paired_differences(store: Store, start: Callable[..., ablation.Ablation]) -> None:
    key = start(3).key
    work(store, {0: 0.01, 1: 0.02, 2: 0.06})
    found = ablation.find(store, key)
    effect = found.metrics["mAP"]
    assert (found.pairs, found.ended, effect.better, effect.difference.n) == (3, True, 3, 3)
    assert effect.without == pytest.approx(0.31) and effect.with_ == pytest.approx(0.34)
    # t(0.975, 2) = 4.303, standard deviation 0.026458, sqrt(3): 0.03 +- 0.06572
    assert effect.difference.mean == pytest.approx(0.03)
    assert effect.difference.low == pytest.approx(0.03 - 0.06572, abs=1e-4)
    assert effect.difference.high == pytest.approx(0.03 + 0.06572, abs=1e-4)
    assert found.per_class["mug"].difference.mean == pytest.approx(0.06)
    assert set(found.per_class) == {"mug"} and set(found.metrics) == {"mAP"}


def test_one_seed_has_no_interval(store: Store, start: Callable[..., ablation.Ablation]) -> None:
    key = start(1).key
    work(store, {0: 0.05})
    told = ablation.find(store, key).as_dict()["metrics"]["mAP"]
    assert told["difference"] == {"n": 1, "mean": pytest.approx(0.05), "low": None, "high": None}
    assert told["with"] == pytest.approx(0.35)


def test_started_again_it_goes_on(store: Store, start: Callable[..., ablation.Ablation]) -> None:
    first = start(1)
    work(store, {0: 0.05})
    again = start(2)
    assert again.key == first.key and again.legs[0].keys() == again.legs[1].keys()
    assert [run.id for run in again.runs[:4]] == [run.id for run in first.runs]
    assert len(store.ledger.runs(kind=RunKind.TRAIN)) == 4
    assert [run.state for run in again.runs].count(State.DONE) == 4
    work(store, {0: 0.05, 1: 0.07})
    assert start(2).metrics["mAP"].difference.mean == pytest.approx(0.06)
    assert len(store.ledger.runs(kind=RunKind.TRAIN)) == 4


def test_what_failed_is_tried_again(store: Store, start: Callable[..., ablation.Ablation]) -> None:
    found = start(1)
    end(store, found.legs[0]["without"].training, fail=True)
    assert ablation.find(store, found.key).legs[0]["without"].evaluation.state is State.CANCELLED  # type: ignore[union-attr]
    start(1)
    work(store, {0: 0.05})
    assert ablation.find(store, found.key).pairs == 1


def test_a_cancelled_ablation_keeps_what_is_done(store: Store, start: Callable[..., ablation.Ablation]) -> None:
    found = start(1)
    end(store, found.legs[0]["without"].training)
    assert ablation.cancel(store, found.key) == 3
    assert ablation.find(store, found.key).ended
    start(1)
    work(store, {0: 0.05})
    assert ablation.find(store, found.key).pairs == 1


def test_other_options_are_another_ablation(start: Callable[..., ablation.Ablation]) -> None:
    assert start(1).key != start(1, options={"iterations": 3}).key


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"with_": "real"}, "hold the same"),
        ({"split": "train"}, "nothing is trained on"),
        ({"split": "nope"}, "'test'"),
        ({"seeds": 0}, "1 to 50 seeds"),
        ({"options": {"iterations": -1}}, "iterations"),
        ({"preset": "nope"}, "tiny_atss"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_nothing_is_queued_that_cannot_be(
    store: Store, start: Callable[..., ablation.Ablation], wrong: dict[str, object], told: str
) -> None:
    with pytest.raises(WinnowError, match=told):
        start(**wrong)
    assert store.ledger.runs(kind=RunKind.TRAIN) == []


def test_the_command_starts_it_and_tells_what_came_out(store: Store, start: Callable[..., ablation.Ablation]) -> None:
    command = ["ablate", "real", "both", "--seeds", "1", "--iterations", "2", "--option", "image_size=[64,48]"]
    command += ["--no-wait", "--home", str(store.home)]
    queued = json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
    assert queued["options"] == {"iterations": 2, "image_size": [64, 48]} and not queued["ended"]
    assert [(run["seed"], run["arm"]) for run in queued["runs"]] == [(0, "without"), (0, "with")]
    work(store, {0: 0.05})
    told = json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
    assert (told["key"], told["pairs"]) == (queued["key"], 1)
    assert told["metrics"]["mAP"]["difference"]["mean"] == pytest.approx(0.05)


def test_the_table_says_why_a_run_failed(store: Store, start: Callable[..., ablation.Ablation]) -> None:
    found = start(1)
    end(store, found.legs[0]["with"].training, fail=True)
    shown = str(comparing.legs(ablation.find(store, found.key)))
    assert "broken" in shown and shown.count("broken") == 1


def test_an_unknown_key_lists_the_known(store: Store, start: Callable[..., ablation.Ablation]) -> None:
    with pytest.raises(NotFound, match=start(1).key):
        ablation.find(store, "nope")

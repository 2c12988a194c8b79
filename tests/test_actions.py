"""What a click or a command does: to the store, and to the doorbell."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import candidates, leased, picture

from db import formats
from db.errors import BadDataset, NotFound, WinnowError
from db.records import Dataset, NewVerdict, Rule, RunKind, Score, State
from db.store import Store
from engine.presets import PRESETS
from studio import actions
from studio.context import Studio

PRESET = next(iter(PRESETS))


class Bell:
    """Remembers for which runs it was rung."""

    def __init__(self) -> None:
        self.rung: list[int] = []

    def ring(self, run_id: int) -> None:
        self.rung.append(run_id)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def studio(store: Store, dataset: Dataset, bell: Bell) -> Iterator[Studio]:
    yield Studio(store=store, home=store.home, doorbell=bell)  # type: ignore[arg-type]


def test_actions_know_of_no_page() -> None:
    tree = ast.parse(Path(actions.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "db.errors" in names
    assert not {name for name in names if name.split(".")[0] == "gradio" or name.startswith("studio.pages")}


# Data sets


def coco(folder: Path, *, boxes: list[list[Any]]) -> Path:
    """A COCO file of one image with its picture."""
    folder.mkdir()
    picture(folder / "a.jpg", seed=1)
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": 100, "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    image = {"id": 1, "file_name": "a.jpg", "width": 160, "height": 120}
    file = folder / "train.json"
    file.write_text(
        json.dumps({"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]})
    )
    return file


def test_import_finds_the_format_out(studio: Studio, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    file = coco(tmp_path / "in", boxes=[[1, 2, 30, 40]])
    made = actions.import_dataset(studio, file, "mine", progress=lambda done, total: seen.append((done, total)))
    assert (made.name, made.format, made.images, made.boxes) == ("mine", "coco", 1, 1)
    assert seen[-1] == (1, 1)


def test_import_reports_all_faults_and_stores_nothing(studio: Studio, tmp_path: Path) -> None:
    file = coco(tmp_path / "in", boxes=[[1, 2, -30, 40], [1, 2, 3, 4], [500, 2, 30, 40]])
    with pytest.raises(BadDataset) as caught:
        actions.import_dataset(studio, file, "mine")
    assert len(caught.value.faults) >= 2
    assert [one.name for one in studio.store.datasets.list()] == ["small"]


def test_import_of_the_good_items_only(studio: Studio, tmp_path: Path) -> None:
    file = coco(tmp_path / "in", boxes=[[1, 2, -30, 40], [1, 2, 3, 4]])
    made = actions.import_dataset(studio, file, "mine", skip_bad=True)
    assert made.boxes == 1
    assert len(studio.store.datasets.faults(made.id)) == 1


# Recipes


def test_a_recipe_is_queued_and_the_bell_rung(studio: Studio, bell: Bell) -> None:
    run = actions.start_recipe(studio, dataset="small", recipe="gen2det", amount=2, seed=7)
    assert (run.kind, run.state, run.seed, run.options["amount"]) == (RunKind.GENERATE, State.QUEUED, 7, 2)
    assert [one.kind for one in studio.store.ledger.followers(run.id)] == [RunKind.FILTER]
    assert bell.rung == [run.id]


def test_a_preview_is_small(studio: Studio) -> None:
    run = actions.start_recipe(studio, dataset="small", recipe="gen2det", preview=True)
    assert sum(shard.total for shard in studio.store.ledger.shards(run.id)) == 4


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"dataset": "nope"}, "small"), ({"recipe": "nope"}, "gen2det"), ({"pack": "nope"}, "classic")],
    ids=["data set", "recipe", "pack"],
)
def test_an_unknown_name_lists_the_known_ones(studio: Studio, bell: Bell, wrong: dict[str, str], told: str) -> None:
    with pytest.raises(NotFound, match=told):
        actions.start_recipe(studio, **{"dataset": "small", "recipe": "gen2det", **wrong})  # type: ignore[arg-type]
    assert bell.rung == []
    assert studio.store.ledger.runs() == []


def test_rerun_repeats_recipe_options_and_seed(studio: Studio, bell: Bell) -> None:
    first = actions.start_recipe(studio, dataset="small", recipe="gen2det", amount=2, seed=7)
    again = actions.rerun(studio, first.id)
    assert (again.recipe, again.seed, again.options) == (first.recipe, first.seed, first.options)
    assert bell.rung == [first.id, again.id]


# Snapshots


def accepted_candidates(studio: Studio, dataset: Dataset) -> None:
    """Four candidates: accepted by the policy, rejected by it, accepted by a person against it, not judged."""
    policy = studio.store.review.save_policy("p", [Rule(filter="seam", at_most=3)])
    shard = leased(studio.store, dataset.id, policy_id=policy.id)
    ids = candidates(studio.store, dataset.id, shard, 4)
    scores = [Score(candidate_id=i, filter="seam", value=v) for i, v in zip(ids, (1.0, 9.0, 9.0), strict=False)]
    studio.store.review.add_scores(shard, scores)
    studio.store.review.decide([NewVerdict(op_id="operation-1", candidate_id=ids[2], decision="accept")])  # type: ignore[arg-type]


def test_freeze_with_and_without_what_was_accepted(studio: Studio, dataset: Dataset) -> None:
    accepted_candidates(studio, dataset)
    both = actions.freeze(studio, dataset="small", name="both")
    real = actions.freeze(studio, dataset="small", name=" real ", accepted=False)
    assert (both.counts["images"], both.counts["synthetic"]) == (8, 2)
    assert (real.name, real.counts["images"], real.counts["synthetic"]) == ("real", 6, 0)


def test_a_snapshot_needs_a_name_of_its_own(studio: Studio) -> None:
    with pytest.raises(WinnowError, match="needs a name"):
        actions.freeze(studio, dataset="small", name="  ")
    actions.freeze(studio, dataset="small", name="a")
    with pytest.raises(WinnowError, match="exists already"):
        actions.freeze(studio, dataset="small", name="a")


def test_export_says_what_the_format_cannot_hold(studio: Studio, tmp_path: Path) -> None:
    made = actions.freeze(studio, dataset="small", name="a")
    lost = actions.export(studio, snapshot=made.id, folder=tmp_path / "out", format="voc")
    assert lost
    back = formats.read(tmp_path / "out")
    assert sum(1 for _ in back.images()) == 6
    with pytest.raises(WinnowError, match="not empty"):
        actions.export(studio, snapshot=made.id, folder=tmp_path / "out")


# Training and evaluation


def test_a_training_is_queued(studio: Studio, bell: Bell) -> None:
    made = actions.freeze(studio, dataset="small", name="a")
    run = actions.start_training(studio, snapshot="a", preset=PRESET, options={"iterations": 5}, seed=3)
    assert run.options["snapshot_id"] == made.id
    assert (run.kind, run.seed, run.options["train"]["iterations"]) == (RunKind.TRAIN, 3, 5)
    assert studio.store.ledger.run(run.id).total == 5
    assert bell.rung == [run.id]


def test_bad_options_are_named_before_anything_is_queued(studio: Studio, bell: Bell) -> None:
    actions.freeze(studio, dataset="small", name="a")
    with pytest.raises(WinnowError, match="iterations.*nonsense"):
        actions.start_training(studio, snapshot="a", preset=PRESET, options={"iterations": -1, "nonsense": 2})
    assert studio.store.ledger.runs() == []
    assert bell.rung == []


def test_only_a_finished_training_is_evaluated(studio: Studio, bell: Bell) -> None:
    actions.freeze(studio, dataset="small", name="a")
    trained = actions.start_training(studio, snapshot="a", preset=PRESET)
    with pytest.raises(WinnowError, match="no finished training"):
        actions.start_evaluation(studio, train_run=trained.id, snapshot="a", split="test")
    finish(studio.store, trained.id)
    run = actions.start_evaluation(studio, train_run=trained.id, snapshot="a", split="test")
    assert (run.options["train_run_id"], run.options["split"]) == (trained.id, "test")
    assert bell.rung == [trained.id, run.id]


def finish(store: Store, run_id: int) -> None:
    shard = store.ledger.claim(run_id, "tester")
    assert shard is not None
    store.ledger.finish_shard(shard)
    store.ledger.conclude(run_id)


# Runs


def test_pause_and_resume(studio: Studio, bell: Bell) -> None:
    run = actions.start_recipe(studio, dataset="small", recipe="gen2det", amount=2)
    actions.pause(studio, run.id)
    assert studio.store.ledger.run(run.id).state is State.PAUSED
    actions.resume(studio, run.id)
    assert studio.store.ledger.run(run.id).state is State.QUEUED
    assert bell.rung == [run.id, run.id]


def test_cancel_and_retry(studio: Studio, bell: Bell) -> None:
    run = actions.start_recipe(studio, dataset="small", recipe="gen2det", amount=2)
    actions.cancel(studio, run.id)
    assert [one.state for one in actions.follow(studio, run.id)] == [State.CANCELLED, State.CANCELLED]
    actions.retry(studio, run.id)
    assert studio.store.ledger.run(run.id).state is State.QUEUED
    assert bell.rung == [run.id, run.id]


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "retry"])
def test_what_cannot_be_done_is_told(studio: Studio, verb: str) -> None:
    run = actions.start_training(studio, snapshot=actions.freeze(studio, dataset="small", name="a").id, preset=PRESET)
    finish(studio.store, run.id)
    with pytest.raises(WinnowError, match=f"Run {run.id}"):
        getattr(actions, verb)(studio, run.id)


def test_a_silent_worker_does_not_count(studio: Studio) -> None:
    assert not actions.has_worker(studio)
    studio.store.ledger.present("host/1")
    assert actions.has_worker(studio)


def test_without_a_doorbell_work_is_only_queued(store: Store, dataset: Dataset) -> None:
    quiet = Studio(store=store, home=store.home)
    assert actions.start_recipe(quiet, dataset="small", recipe="gen2det", amount=2).state is State.QUEUED

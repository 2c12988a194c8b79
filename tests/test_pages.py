"""What the pages show, by calling the functions behind them; the browser's part is in the browser tests."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from conftest import candidates, leased, small_document

import studio.app  # noqa: F401  keeps gradio from looking up its servers
from db.errors import WinnowError
from db.records import Dataset, Rule, Run, RunKind, Score, State, Worker
from db.store import Store
from engine import runs
from engine.language_options import LanguageOptions
from engine.preflight import Preflight
from engine.presets import PRESETS, TrainOptions
from engine.recipe import recipes
from studio import tables
from studio.context import Studio
from studio.pages import common, compare, datasets, generate, jobs, methods, train

# Said of choices that are given together with the value.
pytestmark = pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")
RESULT = {"mAP": 0.4, "AP50": 0.7, "AP75": 0.4, "AP_s": -1.0, "AP_m": 0.3, "AP_l": 0.5, "AR100": 0.5}


@pytest.fixture
def empty(store: Store) -> Studio:
    return Studio(store=store, home=store.home)


@pytest.fixture
def filled(empty: Studio, dataset: Dataset) -> Studio:
    return empty


def asked(**query: str) -> Any:
    return SimpleNamespace(query_params=query)


def event(**data: str) -> Any:
    return SimpleNamespace(_data=data)


def trained(store: Store, snapshot: int, *, seed: int = 0, mAP: float = 0.4, mug: float = 0.5) -> Run:
    """A finished training with two curves and a result."""
    run = runs.start_train(store, snapshot_id=snapshot, preset="tiny_atss", options={"iterations": 4}, seed=seed)
    for step in (1, 2, 3, 4):
        store.ledger.add_metrics(run.id, step, {"loss": 2.0 / step, "mAP": step / 10, "images_per_s": 20.0})
    return finished(store, run, mAP=mAP, mug=mug)


def finished(store: Store, run: Run, *, mAP: float = 0.4, mug: float = 0.5) -> Run:
    shard = store.ledger.claim(run.id, "tester")
    assert shard is not None
    store.ledger.finish_shard(shard)
    store.ledger.set_result(
        run.id, {**RESULT, "mAP": mAP, "per_class": {"mug": mug, "ball": 0.3, "bus": -1.0}, "images": 2}
    )
    store.ledger.conclude(run.id)
    return store.ledger.run(run.id)


# Empty states: each names the next act


def test_an_empty_studio_says_what_to_do(empty: Studio) -> None:
    start, browser, listing, chosen, *_ = datasets.opened(empty, asked())
    assert (start.visible, browser.visible, listing, chosen.value) == (True, False, "", None)
    assert "train on a snapshot on Train" in jobs.opened(empty, asked())[2]
    assert "press Train" in train.opened(empty, asked())[4]
    assert "evaluate it on the test split" in compare.opened(empty, asked())[3]
    with pytest.raises(WinnowError, match="load the demo"):
        generate.start_all(empty, None, "gen2det", "classic", 10, 0)


# Datasets


def test_the_page_opens_on_the_data_set_of_the_address(filled: Studio, tmp_path: Path) -> None:
    filled.store.datasets.import_document(small_document(tmp_path / "other"), "other")
    assert datasets.opened(filled, asked())[3].value == "other"
    _, browser, listing, chosen, split, category, left_out, histogram, classes, images, detail = datasets.opened(
        filled, asked(dataset="small")
    )
    assert (browser.visible, chosen.value) == (True, "small")
    assert "train 4, test 2" in listing
    assert [value for _, value in split.choices] == ["all", "train", "test"]
    assert [value for _, value in category.choices] == ["all", "mug", "ball"]
    assert "Everything was imported" in left_out
    assert "mug: 6" in histogram and "ball" in classes
    assert images.count("data-pick") == 6 and "image0.jpg" in detail


def test_all_places_of_a_new_data_set_are_counted(filled: Studio) -> None:
    assert len(datasets.opened(filled, asked())) == datasets.EVERYTHING


def test_filters_and_pages(filled: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "PAGE", 4)
    first, _ = datasets.first_page(filled, "small", "all", "all")
    assert first.count("<figure") == 4
    trail = first.split('data-turn="')[1].split('"')[0]
    second, detail = datasets.turned(filled, "small", "all", "all", event(trail=trail))
    assert second.count("<figure") == 2 and "image4.jpg" in detail and "page 2" in second
    test_only, _ = datasets.first_page(filled, "small", "test", "mug")
    assert test_only.count("<figure") == 2
    assert "mug: 2" in datasets.counted(filled, "small", "test")[0]


def test_import_shows_every_fault_and_keeps_the_rest_of_the_page(filled: Studio, tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    box = {"id": 1, "image_id": 9, "category_id": 9, "bbox": [0, 0, -5, 5]}
    image = {"id": 1, "file_name": "<script>.jpg", "width": 10, "height": 10}
    file.write_text(
        json.dumps({"images": [image, image], "annotations": [box], "categories": [{"id": 1, "name": "x"}]})
    )
    report, *rest = datasets.import_one(filled, str(file), "", datasets.GUESS, False)
    assert report.count("<tr") >= 4 and "nothing was imported" in report
    assert "<script>" not in report
    assert rest == [gr.skip()] * datasets.EVERYTHING
    with pytest.raises(WinnowError, match="Name a file or folder"):
        datasets.import_one(filled, " ", "", datasets.GUESS, False)


# Generate


def test_a_recipe_is_described_before_it_is_run(empty: Studio) -> None:
    about, text = generate.described(empty, "gen2det", "classic")
    for word in ("Makes", "Needs", "Costs", "Seam ≤ 3"):
        assert word in about
    assert text.startswith("# Gen2Det")


def test_a_quota_comes_from_the_form(filled: Studio) -> None:
    run_id, *_ = generate.start_all(filled, "small", "gen2det", "classic", 100, 0, 3, "mug, ball", 40, 0)
    options = filled.store.ledger.run(run_id).options
    assert options["quota"] == {"accepted": 3, "classes": ["mug", "ball"], "candidates": 40}
    with pytest.raises(WinnowError, match="needs a budget"):
        generate.start_all(filled, "small", "gen2det", "classic", 100, 0, 3, "", 0, 0)


def test_a_run_is_watched_until_it_and_its_scoring_end(filled: Studio) -> None:
    run_id, shown, timer = generate.start_preview(filled, "small", "gen2det", "classic", 100, 0)
    assert timer.active and "Waiting for a worker" in shown
    assert f"/review?dataset=1&amp;run={run_id}" in shown
    filled.store.ledger.request_cancel(run_id)
    _, timer = generate.watch(filled, run_id)
    assert not timer.active


def test_candidates_are_shown_with_scores_and_the_policys_word(filled: Studio, dataset: Dataset) -> None:
    policy = filled.store.review.save_policy("p", [Rule(filter="seam", at_most=3)])
    shard = leased(filled.store, dataset.id, policy_id=policy.id, recipe="gen2det")
    ids = candidates(filled.store, dataset.id, shard, 3)
    scores = [Score(candidate_id=i, filter="seam", value=v) for i, v in zip(ids, (1.0, 9.0), strict=False)]
    filled.store.review.add_scores(shard, scores)
    shown, _ = generate.watch(filled, shard.run_id)
    assert shown.count("<article") == 3
    for word in ("The policy accepts it.", "The policy rejects it.", "Not decided yet.", "Seam 9", "Seam –"):
        assert word in shown
    assert "<mark>red</mark>" in shown and "<mark>blue</mark>" in shown


# Train


def test_counts_are_shown_before_freezing(filled: Studio, dataset: Dataset) -> None:
    policy = filled.store.review.save_policy("p", [Rule(filter="seam", at_most=3)])
    shard = leased(filled.store, dataset.id, policy_id=policy.id)
    ids = candidates(filled.store, dataset.id, shard, 3)
    filled.store.review.add_scores(shard, [Score(candidate_id=ids[0], filter="seam", value=1.0)])
    shown = train.counted(filled, "small", True)
    assert "<b>6</b><span>real images</span>" in shown
    assert "<b>1</b><span>accepted by policy</span>" in shown
    assert "<b>2</b><span>pending</span>" in shown
    assert "pending" not in train.counted(filled, "small", False)


def test_the_form_has_every_option_and_is_read_as_one(filled: Studio) -> None:
    snapshot = filled.store.snapshots.freeze("a", 1)
    _, *rest = train.described(filled, "tiny_atss")
    values = rest[len(train.GROUPS) :]
    nested = sum(len(options.model_fields) - 1 for options in train.NESTED.values())
    assert train.NESTED["language"] is LanguageOptions and train.NESTED.keys() == train.PARTS.keys()
    assert len(values) == len(TrainOptions.model_fields) + nested
    chosen = train.start(filled, snapshot.id, "tiny_atss", 5, *values)
    run = filled.store.ledger.run(chosen.value)
    assert TrainOptions(**run.options["train"]) == train.FIRST.defaults
    assert (run.seed, run.options["snapshot_id"]) == (5, snapshot.id)


def test_options_that_say_nothing_about_a_detector_are_hidden(filled: Studio) -> None:
    shown = {
        preset: [group.visible for group in train.described(filled, preset)[1 : 1 + len(train.GROUPS)]]
        for preset in ("tiny_atss", "tiny_grounding", "tiny_detclip", "tiny_blip")
    }
    assert shown == {  # generated, start from, language, pairs, semantic, attention
        "tiny_atss": [True, True, False, False, True, False],
        "tiny_grounding": [False, True, True, False, False, False],
        "tiny_detclip": [False, True, True, True, False, False],
        "tiny_blip": [True, True, False, False, False, True],
    }


def test_fields_left_empty_and_ticked_are_read_as_the_options_want_them(filled: Studio) -> None:
    _, *rest = train.described(filled, "tiny_atss")
    said = dict(zip(train.ORDER, rest[len(train.GROUPS) :], strict=True))
    said |= {"generated_probability": 0.2, "ignore_background": True, "weights": "", "language.absent": 3}
    made = train.start(filled, filled.store.snapshots.freeze("a", 1).id, "tiny_atss", 0, *said.values())
    options = TrainOptions(**filled.store.ledger.run(made.value).options["train"])
    assert (options.generated_probability, options.ignore_background, options.weights) == (0.2, True, None)
    assert options.language.absent == 3


def test_what_a_training_would_take_is_told(filled: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = filled.store.snapshots.freeze("a", 1)
    _, *rest = train.described(filled, "tiny_atss")
    found = Preflight(
        images=9, generated=2, validation_images=0, parameters=3_000_000, disk_needed=2 << 30,
        disk_free=1 << 30, memory_used=1 << 20, memory_free=None, device="CPU", seconds=5400, images_per_s=2.5,
        notes=("1 of 2 classes have no box to learn from: mug.",),
    )  # fmt: skip
    monkeypatch.setattr(train.actions, "preflight", lambda *_, **__: found)
    told = train.tried(filled, snapshot.id, "tiny_atss", 0, *rest[len(train.GROUPS) :])
    assert "w-banner bad" in told and "about 1 h 30 min at 2.5 images a second" in told
    assert "mug" in told and "2.0 GB are needed, 1.0 GB are free" in told


def test_a_training_is_watched(filled: Studio) -> None:
    snapshot = filled.store.snapshots.freeze("a", 1)
    waiting = runs.start_train(filled.store, snapshot_id=snapshot.id, preset="tiny_atss")
    status, *_, stop, resume, timer = train.watch(filled, waiting.id)
    assert "Waiting for a worker" in status
    assert (stop.interactive, resume.interactive, timer.active) == (True, False, True)
    status, *_, stop, resume, timer = train.pause_one(filled, waiting.id)
    assert (stop.interactive, resume.interactive) == (False, True)
    run = trained(filled.store, snapshot.id)
    status, losses, quality, result, stop, resume, timer = train.watch(filled, run.id)
    assert "4 / 4" in status and "20.0" in status
    assert losses.count("<polyline") == 2 and quality.count("<polyline") == 1
    assert "<b>0.700</b><span>AP50</span>" in result and "none in this split" in result
    assert (stop.interactive, resume.interactive, timer.active) == (False, False, False)


def test_a_detector_that_reads_has_numbers_of_its_own(filled: Studio) -> None:
    snapshot = filled.store.snapshots.freeze("a", 1).id
    run = runs.start_train(filled.store, snapshot_id=snapshot, preset="tiny_grounding")
    filled.store.ledger.add_metrics(run.id, 30, {"AP_descr": 0.25, "loss": 2.0})
    shard = filled.store.ledger.claim(run.id, "tester")
    assert shard is not None
    filled.store.ledger.finish_shard(shard)
    filled.store.ledger.set_result(run.id, {"AP": 0.125, "AP_descr": 0.25, "AP_descr_l": -1.0, "seconds": 77.0})
    filled.store.ledger.conclude(run.id)
    _, _, quality, result, *_ = train.watch(filled, run.id)
    assert "AP_descr" in quality and "0.125" in result and "AP_descr_l" not in result and "77" not in result
    metrics = compare.opened(filled, asked(runs=str(run.id)))[3]
    assert "AP_descr" in metrics and "seconds" not in metrics


def test_evaluation_and_export(filled: Studio, tmp_path: Path) -> None:
    snapshot = filled.store.snapshots.freeze("a", 1)
    run = trained(filled.store, snapshot.id)
    assert train.splits(filled, snapshot.id).value == "test"
    assert "evaluates it" in train.evaluate_one(filled, run.id, snapshot.id, "test")
    told = train.export_one(filled, snapshot.id, str(tmp_path / "out"), "voc")
    assert "voc cannot hold" in told and (tmp_path / "out" / "Annotations").is_dir()
    with pytest.raises(WinnowError, match="Freeze a snapshot first"):
        train.export_one(filled, None, str(tmp_path / "more"), "voc")


# Compare


def test_two_runs_side_by_side(filled: Studio) -> None:
    real, both = filled.store.snapshots.freeze("real", 1), filled.store.snapshots.freeze("both", 1)
    first = trained(filled.store, real.id, seed=1)
    second = trained(filled.store, both.id, seed=1, mAP=0.45, mug=0.4)
    chosen, _, _, metrics, *_ = compare.opened(filled, asked())
    assert chosen.value == [first.id, second.id]
    assert '0.450 <span class="w-up">+0.050</span>' in metrics
    assert '0.400 <span class="w-down">-0.100</span>' in metrics
    assert metrics.index(">trained on<") < metrics.index("<details>") < metrics.index(">seed<")
    assert metrics.count("<polyline") == 2 + 4
    swapped = compare.opened(filled, asked(runs=f"{second.id},{first.id},999,x"))
    assert swapped[0].value == [second.id, first.id]
    assert '<span class="w-down">-0.050</span>' in swapped[3]


def test_evaluations_are_compared_before_trainings(filled: Studio) -> None:
    snapshot = filled.store.snapshots.freeze("real", 1)
    runs_of = [trained(filled.store, snapshot.id, seed=seed) for seed in (1, 2)]
    judged = [
        finished(
            filled.store, runs.start_evaluate(filled.store, train_run_id=r.id, snapshot_id=snapshot.id, split="test")
        )
        for r in runs_of
    ]
    chosen, _, _, metrics, *_ = compare.opened(filled, asked())
    assert chosen.value == [run.id for run in judged]
    assert "test of real, 2 images" in metrics
    assert f"training {runs_of[0].id}" in metrics


# Jobs


def test_jobs_show_the_chosen_run(filled: Studio) -> None:
    run = runs.start_train(filled.store, snapshot_id=filled.store.snapshots.freeze("a", 1).id, preset="tiny_atss")
    filled.store.ledger.log(run.id, "<b>hello</b>", "warning")
    chosen, presence, listing, _, about, *buttons, detail, started, timer = jobs.opened(filled, asked(run=str(run.id)))
    assert (chosen, timer.value) == (run.id, jobs.BUSY)
    assert "Waiting for a worker" in presence
    assert f'data-pick="{run.id}" tabindex="0" aria-selected="true"' in listing
    assert "Watch it on Train" in about
    assert [button.interactive for button in buttons] == [True, False, True, False]
    assert "WARNING" in detail and "&lt;b&gt;hello" in detail
    assert "tiny_atss" in started
    *_, detail, started, timer = jobs.ACTS["cancel"](filled, run.id)
    assert timer.value == jobs.IDLE


def test_jobs_lead_on_to_what_there_is_about_a_run(filled: Studio) -> None:
    snapshot = filled.store.snapshots.freeze("a", 1).id
    part = {"key": "abc", "without": 1, "with": 2, "split": "test", "options": {"iterations": 4}, "arm": "with"}
    run = runs.start_train(filled.store, snapshot_id=snapshot, preset="tiny_atss", ablation=part)
    told = jobs.opened(filled, asked(run=str(run.id)))
    assert 'href="/compare?ablation=abc"' in told[4] and "with the slice" in told[-2]
    finished(filled.store, run)
    judged = runs.start_evaluate(filled.store, train_run_id=run.id, snapshot_id=snapshot, split="test")
    assert "/why" not in jobs.opened(filled, asked(run=str(judged.id)))[4]
    finished(filled.store, judged)
    about = jobs.opened(filled, asked(run=str(judged.id)))[4]
    assert f'href="/compare?runs={judged.id}"' in about and f'href="/why?evaluation={judged.id}"' in about


@pytest.mark.parametrize(("preset", "reads"), [("tiny_atss", False), ("tiny_grounding", True)])
def test_settings_say_how_prompts_are_made_of_a_detector_that_reads_only(
    filled: Studio, preset: str, reads: bool
) -> None:
    snapshot = filled.store.snapshots.freeze("a", 1).id
    run = runs.start_train(
        filled.store, snapshot_id=snapshot, preset=preset, options={"language": {"negative_text": 0.125}}
    )
    told = str(tables.settings(run, "t"))
    assert ("<dt>negative text</dt><dd>0.125</dd>" in told) is reads
    assert "{" not in told and "None" not in told


def test_only_possible_acts_are_offered(filled: Studio) -> None:
    run = runs.start_train(filled.store, snapshot_id=filled.store.snapshots.freeze("a", 1).id, preset="tiny_atss")
    ledger = filled.store.ledger
    for wish, offered in ((ledger.request_pause, {"resume", "cancel"}), (ledger.request_cancel, {"retry"})):
        wish(run.id)
        assert jobs.possible(ledger.run(run.id)) == offered
        for verb in offered:
            assert verb in jobs.ACTS


def run_of(**values: Any) -> Run:
    fixed = {"id": 1, "kind": RunKind.TRAIN, "title": "t", "state": State.RUNNING, "created_at": 0.0, "seed": 0}
    return Run(**{**fixed, **values})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"started_at": 100.0, "done": 25, "total": 100}, "1:00, about 3:00 left"),
        ({"started_at": 100.0, "done": 0, "total": 100}, "1:00"),
        ({"started_at": 100.0, "ended_at": 4000.0, "done": 9, "total": 9, "state": State.DONE}, "1:05:00"),
        ({"state": State.QUEUED, "after_id": 7}, "waits for run 7"),
    ],
    ids=["running", "just started", "done", "waiting"],
)
def test_the_time_of_a_run(values: dict[str, Any], told: str) -> None:
    assert tables.pace(run_of(**values), now=160.0) == told


@pytest.mark.parametrize(
    ("workers", "waiting", "told"),
    [
        ([], 0, "No worker is here (none was seen yet)"),
        ([], 2, "Waiting for a worker"),
        ([Worker(name="h/1", seen_at=100.0)], 1, "Waiting for a worker (none was seen since"),
        ([Worker(name="h/1", seen_at=190.0, run_id=4)], 1, "1 worker is here, 1 at work, 1 run waiting."),
    ],
)
def test_presence_of_workers(workers: list[Worker], waiting: int, told: str) -> None:
    shown = tables.presence(workers, waiting, now=200.0)
    assert told in shown.replace("</b>", "").replace("<b>", "")
    assert ("winnow worker" in shown) == ("none was seen" in shown)


# Errors reach the person as a toast


def test_errors_for_people_are_told_and_bugs_numbered(filled: Studio, caplog: pytest.LogCaptureFixture) -> None:
    def refuses(studio: Studio, name: str) -> None:
        raise WinnowError(f"No <{name}>.\nChoose another.")

    def breaks(studio: Studio) -> None:
        raise KeyError("secret detail")

    with pytest.raises(gr.Error) as caught:
        common.bound(filled, refuses)("x")
    assert caught.value.message == "No &lt;x&gt;.<br>Choose another."
    with pytest.raises(gr.Error) as caught:
        common.bound(filled, breaks)()
    assert "secret" not in caught.value.message and "report" in caught.value.message
    assert "secret detail" in caplog.text


def test_gradio_sees_the_arguments_without_the_studio(filled: Studio) -> None:
    assert list(inspect.signature(common.bound(filled, datasets.turned)).parameters) == [
        "dataset",
        "split",
        "category",
        "event",
    ]


def test_methods_say_what_they_do_where_they_start_and_what_their_labs_found() -> None:
    known = {recipe.name for recipe in recipes()}
    for method in methods.METHODS:
        told = methods.told(method)
        assert method.recipe in known and f'href="/generate?recipe={method.recipe}"' in told
        assert set(method.presets) <= set(PRESETS) and f"winnow lab {method.lab}" in told
    assert "intervals" in methods.found("gen2det") and "not been run" in methods.found("no-such-lab")

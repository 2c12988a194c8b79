"""Why: from an exported box back to its candidate, and from a candidate forward to all that used it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import candidates, leased
from typer.testing import CliRunner

import studio.app  # noqa: F401  keeps gradio from looking up its servers
from db import formats, lineage
from db.errors import NotFound, WinnowError
from db.records import Dataset, Kind, NewVerdict, Rule, Run, Score, Snapshot
from db.store import Store
from engine import runs
from studio import why_api, why_lines
from studio.cli import app
from studio.context import Studio
from studio.pages import why

pytestmark = pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")


def accepted(store: Store, dataset: Dataset, kind: Kind = Kind.INSTANCE, count: int = 1) -> list[int]:
    policy = store.review.save_policy("strict", [Rule(filter="seam", at_most=3.0)])
    shard = leased(store, dataset.id, policy_id=policy.id, recipe="gen2det", prompts={"swap": "ab" * 32})
    made = candidates(store, dataset.id, shard, count, kind=kind)
    store.review.add_scores(
        shard, [Score(candidate_id=one, filter="seam", value=4.0, reason="a hard edge") for one in made]
    )
    store.review.decide(
        [NewVerdict(op_id=f"operation-{one}", candidate_id=one, decision="accept", reviewer="ada") for one in made]  # type: ignore[arg-type]
    )
    return made


def frozen(store: Store, dataset: Dataset, name: str = "both") -> Snapshot:
    return store.snapshots.freeze(name, dataset.id, store.review.policies(dataset.id))


def done(store: Store, run: Run, **result: Any) -> Run:
    shard = store.ledger.claim(run.id, "tester")
    assert shard is not None
    store.ledger.finish_shard(shard)
    store.ledger.set_result(run.id, result)
    store.ledger.conclude(run.id)
    return store.ledger.run(run.id)


def judged(store: Store, snapshot: Snapshot, **result: Any) -> Run:
    training = runs.start_train(store, snapshot_id=snapshot.id, preset="tiny_atss", seed=3)
    done(store, training)
    evaluation = runs.start_evaluate(store, train_run_id=training.id, snapshot_id=snapshot.id, split="test")
    return done(store, evaluation, **result)


def test_every_exported_box_leads_back(store: Store, dataset: Dataset, tmp_path: Path) -> None:
    """Of all annotations of an export exactly those that were painted have a candidate."""
    first, second = accepted(store, dataset, count=2)
    snapshot = frozen(store, dataset)
    formats.write(store.snapshots.document(snapshot), tmp_path / "out", "coco")
    found: dict[int, list[tuple[float, ...]]] = {}
    count = 0
    for file in (tmp_path / "out").rglob("*.json"):
        for note in json.loads(file.read_text())["annotations"]:
            origin = lineage.origin(store, snapshot, note["id"])
            x, y, w, h = note["bbox"]
            assert origin.box.xyxy == pytest.approx((x, y, x + w, y + h))
            count += 1
            if origin.candidate_id is not None:
                found.setdefault(origin.candidate_id, []).append(origin.box.xyxy)
    assert count == snapshot.counts["boxes"] == 16
    assert found == {first: [(12.0, 12.0, 48.0, 58.0)], second: [(12.0, 12.0, 48.0, 58.0)]}


def test_a_box_that_was_kept_names_what_was_painted_beside_it(store: Store, dataset: Dataset) -> None:
    (made,) = accepted(store, dataset)
    told = why_api.box(store, "both", 14) if frozen(store, dataset) else {}
    assert (told["generated"], told["candidate"], told["beside"], told["source_image"]) == (
        True,
        None,
        [made],
        "image0.jpg",
    )
    assert f"candidate {made} was painted" in " ".join(why_lines.box(told)).lower()
    real = why_api.box(store, "both", 1)
    assert (real["generated"], real["candidate"], real["class"]) == (False, None, "mug")
    with pytest.raises(NotFound, match="999"):
        why_api.box(store, "both", 999)


def test_a_candidate_leads_forward_to_every_use(store: Store, dataset: Dataset) -> None:
    (made,) = accepted(store, dataset)
    store.snapshots.freeze("real", dataset.id)
    both, again = frozen(store, dataset), frozen(store, dataset, "again")
    evaluation = judged(store, both, mAP=0.25)
    told = why_api.candidate(store, made)
    assert [use["snapshot"] for use in told["used_by"]] == [again.name, both.name]
    (training,) = told["used_by"][1]["trainings"]
    assert (training["seed"], training["preset"], told["used_by"][0]["trainings"]) == ("3", "tiny_atss", [])
    assert [(e["run"], e["mAP"]) for e in training["evaluations"]] == [(evaluation.id, 0.25)]


def test_a_candidate_leads_back_to_its_making(store: Store, dataset: Dataset) -> None:
    (made,) = accepted(store, dataset)
    told = why_api.candidate(store, made)
    assert told["policy"]["name"] == "strict" and told["card"]["policy"]["says"] == "reject"
    assert [(v["decision"], v["reviewer"]) for v in told["verdicts"]] == [("accept", "ada")]
    assert told["made_by"]["prompts"] == {"swap": "ab" * 32} and told["used_by"] == []
    lines = "\n".join(why_lines.candidate(told))
    for words in ("4 (asked ≤ 3: fail) a hard edge", "accept by ada", "strict v1", "It is in no snapshot"):
        assert words in lines


def test_a_negative_text_is_found_as_the_phrase_it_became(store: Store, dataset: Dataset) -> None:
    (made,) = accepted(store, dataset, Kind.NEGATIVE_TEXT)
    frozen(store, dataset)
    (use,) = why_api.candidate(store, made)["used_by"]
    assert (use["texts"], use["box"], use["image"]) == (["a blue mug"], None, "image0.jpg")


def test_an_ap_rests_on_the_candidates_of_its_class(store: Store, dataset: Dataset) -> None:
    real = store.snapshots.freeze("real", dataset.id)
    made = accepted(store, dataset, count=2)
    without = judged(store, real, mAP=0.2, per_class={"mug": 0.1, "ball": 0.3})
    with_ = judged(store, frozen(store, dataset), mAP=0.3, per_class={"mug": 0.4, "ball": 0.2})
    told = why_api.change(store, with_.id, "mug", without.id)
    assert (told["ap"], told["against"]["ap"], told["more"], told["less"]) == (0.4, 0.1, made, [])
    assert told["sources"][0]["candidates"] == told["sources"][0]["by_people"] == 2
    assert why_api.change(store, with_.id, "ball", without.id)["more"] == []
    assert "no generated data" in "\n".join(why_lines.change(told))
    with pytest.raises(WinnowError, match=r"No class 'cat' here. Known: mug, ball"):
        why_api.change(store, with_.id, "cat")
    with pytest.raises(WinnowError, match="no finished evaluation"):
        why_api.change(store, with_.options["train_run_id"])


def test_the_command_line(store: Store, dataset: Dataset) -> None:
    (made,) = accepted(store, dataset)
    frozen(store, dataset)
    home = ["--home", str(store.home), "--json"]
    short, whole = (CliRunner().invoke(app, ["why", *ask, *home]) for ask in ([str(made)], ["candidate", str(made)]))
    assert json.loads(short.stdout) == json.loads(whole.stdout)
    assert json.loads(short.stdout)["card"]["id"] == made
    box = json.loads(CliRunner().invoke(app, ["why", "box", "both", "13", *home]).stdout)
    assert box["candidate"]["card"]["id"] == made


def test_the_page(store: Store, dataset: Dataset) -> None:
    studio = Studio(store=store, home=store.home)

    def opened(**query: str) -> str:
        return why.opened(studio, SimpleNamespace(query_params=query))[3]  # type: ignore[arg-type]

    assert "Ask about a candidate or a box" in opened()
    (made,) = accepted(store, dataset)
    assert "a hard edge" in opened(candidate=str(made)) and "It is in no snapshot" in opened(candidate=str(made))
    evaluation = judged(store, frozen(store, dataset), mAP=0.3, per_class={"mug": 0.4})
    assert f'href="/compare?runs={evaluation.id}"' in opened(candidate=str(made))
    assert f'href="/why?candidate={made}"' in opened(snapshot="both", box="14")
    assert f"/why?candidate={made}" in opened(evaluation=str(evaluation.id), **{"class": "mug"})
    assert "No candidate named 999" in opened(candidate="999")

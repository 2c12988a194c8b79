"""Where a filter cannot judge, nothing is decided, and a sentence says why: missing scores, models that cannot load, few examples."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml

from db.queries import Queue
from db.records import Dataset, Kind, Rule, Score
from db.store import Store
from engine.filters import FILTERS
from engine.roles import Context
from engine.score import score
from tests.conftest import candidates, leased, small_document
from tests.test_aesthetic import Published
from tests.test_openclip import model_folder


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_score_that_is_none_leaves_the_candidate_pending(store: Store, dataset: Dataset, value: float | None) -> None:
    policy = store.review.save_policy("p", [Rule(filter="seam", at_most=3.0), Rule(filter="overlap", at_most=0.5)])
    shard = leased(store, dataset.id, policy_id=policy.id)
    unknown, good, bad = candidates(store, dataset.id, shard, 3)
    seams = {unknown: value, good: 1.0, bad: 9.0}
    scores = [Score(candidate_id=i, filter="seam", value=one) for i, one in seams.items()]
    store.review.add_scores(shard, scores + [Score(candidate_id=i, filter="overlap", value=0.0) for i in seams])
    policies = store.review.policies(dataset.id)
    assert [one.id for one in store.review.accepted(dataset.id, policies)] == [good]
    said = {
        says: len(store.review.page(Queue(dataset_id=dataset.id, says=says))[0])
        for says in ("accept", "reject", "pending")
    }
    assert said == {"accept": 1, "reject": 1, "pending": 1}


HEAD = {"backend": "aesthetic_head", "options": {"file": "HOME/head.pth"}}
CLIP = {"backend": "openclip", "options": {"model": "HOME/clip", "device": "cpu"}}
NOWHERE = {"backend": "openclip", "options": {"model": "HOME/nowhere"}}
BROKEN = [
    ("clip_agreement", {"embedder": NOWHERE}, "no model folder"),
    ("clip_delta", {"embedder": NOWHERE}, "no model folder"),
    ("two_step", {"embedder": NOWHERE}, "no model folder"),
    ("aesthetic", {"embedder": NOWHERE, "aesthetics": HEAD}, "no model folder"),
    ("aesthetic", {"embedder": CLIP}, "no aesthetics"),
    ("aesthetic", {"aesthetics": HEAD}, "no embedder"),
    ("aesthetic", {"embedder": CLIP, "aesthetics": HEAD}, "is for vectors of 768 numbers"),
    (
        "detector_agreement",
        {"detector": {"backend": "trained_detector", "options": {"model": "HOME/none"}}},
        "HOME/none",
    ),
]


@pytest.mark.parametrize(("name", "roles", "words"), BROKEN)
def test_a_model_that_cannot_be_used_is_the_reason(
    store: Store, dataset: Dataset, name: str, roles: dict[str, object], words: str
) -> None:
    home = str(store.home)
    torch.save(Published(768).state_dict(), store.home / "head.pth")
    if CLIP in roles.values():
        model_folder(store.home / "clip")
    (store.home / "packs").mkdir()
    pack = {"name": "own", "title": "", "summary": "", "needs": "", **roles}
    (store.home / "packs" / "own.yaml").write_text(yaml.safe_dump(pack).replace("HOME", home))
    ids = candidates(store, dataset.id, leased(store, dataset.id), 2, kind=Kind.NEGATIVE_IMAGE)
    found = score(Context(store, dataset.id, pack="own"), ids, [name])
    assert [one.value for one in found] == [None, None]
    assert all(words.replace("HOME", home) in one.reason for one in found)


def test_a_class_with_two_examples_has_no_usual_size(store: Store, tmp_path: Path) -> None:
    few = store.datasets.import_document(small_document(tmp_path / "few", images=2), "few")
    ids = candidates(store, few.id, leased(store, few.id), 1)
    (found,) = score(Context(store, few.id), ids, ["plausible_size"])
    assert found.value is None and "too few boxes" in found.reason
    assert FILTERS["plausible_size"].default.passes(found.value) is None


@pytest.mark.parametrize("kind", [Kind.NEGATIVE_TEXT, Kind.INSTANCE])
def test_filters_for_other_kinds_have_nothing_to_say(store: Store, dataset: Dataset, kind: Kind) -> None:
    """A run may have made candidates of one kind only."""
    others = [name for name, one in FILTERS.items() if kind not in one.kinds]
    ids = candidates(store, dataset.id, leased(store, dataset.id), 2, kind=kind)
    assert others and score(Context(store, dataset.id, pack="classic"), ids, others) == []

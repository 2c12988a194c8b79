"""What is frozen stays, says where everything came from, and holds what people and policies accepted."""

from pathlib import Path

import msgspec
import pytest
from conftest import candidates, leased

from db import formats
from db.edits import Draft, Edit, Presence, draft_of
from db.errors import NotFound, WinnowError
from db.records import WHOLE, Content, Dataset, Decision, Kind, Named, NewCandidate, NewVerdict, Placed, Rule, Score
from db.snapshots import Sample
from db.store import Store
from engine.folder import split_coco, training_folder

EDITS = [kind for kind in Kind if kind not in WHOLE]


def decided(store: Store, dataset: Dataset, kind: Kind, decision: Decision, **more: object) -> int:
    shard = leased(store, dataset.id)
    (one,) = candidates(store, dataset.id, shard, 1, kind=kind)
    store.review.decide([NewVerdict(op_id=f"op{one}", candidate_id=one, decision=decision, **more)])
    return one


def added(store: Store, dataset: Dataset, name: str = "s") -> list[Sample]:
    """The samples of a fresh snapshot that a candidate made or changed."""
    snapshot = store.snapshots.freeze(name, dataset.id, store.review.policies(dataset.id))
    return [sample for sample in store.snapshots.samples(snapshot)[1] if sample.candidate_ids]


def test_freezing_twice_gives_the_same_bytes_and_a_name_once(store: Store, dataset: Dataset) -> None:
    first = store.snapshots.freeze("a", dataset.id)
    assert store.snapshots.freeze("b", dataset.id).digest == first.digest
    with pytest.raises(WinnowError, match="exists already"):
        store.snapshots.freeze("a", dataset.id)
    with pytest.raises(NotFound, match="b, a"):
        store.snapshots.get("c")


def test_without_policies_only_real_data(store: Store, dataset: Dataset) -> None:
    decided(store, dataset, Kind.INSTANCE, Decision.ACCEPT)
    assert store.snapshots.freeze("real", dataset.id).counts == {
        "images": 6,
        "synthetic": 0,
        "boxes": 12,
        "negatives": 0,
    }


def test_an_accepted_instance_is_a_synthetic_image(store: Store, dataset: Dataset) -> None:
    one = decided(store, dataset, Kind.INSTANCE, Decision.ACCEPT)
    (sample,) = added(store, dataset)
    source = store.datasets.images(dataset.id)[0]
    assert sample.candidate_ids == (one,)
    assert sample.image.extra == {"synthetic": True, "candidate": one, "source_image": source.id}
    assert (sample.image.split, sample.image.digest) == ("train", store.review.candidate(one).digest)
    assert sorted(box.xyxy for box in sample.boxes) == [(12.0, 12.0, 48.0, 58.0), (80.0, 40.0, 140.0, 100.0)]


def test_corrections_of_a_person_count(store: Store, dataset: Dataset) -> None:
    ball = store.datasets.categories(dataset.id)[1]
    decided(store, dataset, Kind.INSTANCE, Decision.EDIT, edit={"xyxy": [1.0, 2.0, 30.0, 40.0], "category_id": ball.id})
    (sample,) = added(store, dataset)
    assert (sample.boxes[0].xyxy, sample.boxes[0].category_id) == ((1.0, 2.0, 30.0, 40.0), ball.id)


def test_a_negative_image_turns_truth_around(store: Store, dataset: Dataset) -> None:
    decided(store, dataset, Kind.NEGATIVE_IMAGE, Decision.ACCEPT)
    (sample,) = added(store, dataset)
    assert [(p.text, p.holds, p.box_ids) for p in sample.phrases] == [
        ("a blue mug", True, (sample.boxes[0].id,)),
        ("a red mug", False, ()),
    ]


def test_an_accepted_negative_text_is_a_phrase_that_does_not_hold(store: Store, dataset: Dataset) -> None:
    decided(store, dataset, Kind.NEGATIVE_TEXT, Decision.ACCEPT)
    (sample,) = added(store, dataset)
    assert not sample.image.extra.get("synthetic")
    assert [p.text for p in sample.phrases if not p.holds] == ["a blue mug"]


@pytest.mark.parametrize("decision", [Decision.REJECT, Decision.SKIP])
def test_what_nobody_accepted_stays_out(store: Store, dataset: Dataset, decision: Decision) -> None:
    decided(store, dataset, Kind.INSTANCE, decision)
    assert added(store, dataset) == []


def test_the_policy_decides_where_nobody_did(store: Store, dataset: Dataset) -> None:
    policy = store.review.save_policy("p", [Rule(filter="seam", at_most=1)])
    shard = leased(store, dataset.id, policy_id=policy.id)
    good, _, _ = candidates(store, dataset.id, shard, 3)
    store.review.add_scores(
        shard, [Score(candidate_id=good + i, filter="seam", value=v) for i, v in enumerate((0.5, 2.0))]
    )
    assert [sample.candidate_ids for sample in added(store, dataset)] == [(good,)]


def test_ids_stay_unique(store: Store, dataset: Dataset) -> None:
    for kind in EDITS:
        decided(store, dataset, kind, Decision.ACCEPT)
    one = whole(store, dataset, Kind.TRIPLET, store.datasets.images(dataset.id)[0].digest)
    store.review.decide([NewVerdict(op_id="whole", candidate_id=one, decision=Decision.ACCEPT)])
    snapshot = store.snapshots.freeze("s", dataset.id, store.review.policies(dataset.id))
    samples = store.snapshots.samples(snapshot)[1]
    for ids in (
        [s.image.id for s in samples],
        [b.id for s in samples for b in s.boxes],
        [p.id for s in samples for p in s.phrases],
    ):
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("format", list(formats.FORMATS))
def test_a_snapshot_is_exported_and_read_again(tmp_path: Path, store: Store, dataset: Dataset, format: str) -> None:
    for kind in EDITS:
        decided(store, dataset, kind, Decision.ACCEPT)
    one = whole(store, dataset, Kind.TRIPLET, store.datasets.images(dataset.id)[0].digest)
    store.review.decide([NewVerdict(op_id="whole", candidate_id=one, decision=Decision.ACCEPT)])
    snapshot = store.snapshots.freeze("s", dataset.id, store.review.policies(dataset.id))
    formats.write(store.snapshots.document(snapshot), tmp_path / "out", format)
    again = formats.read(tmp_path / "out")
    assert again.faults == []
    assert len(list(again.images())) == snapshot.counts["images"] == 9
    if format == "odvg":
        assert sum(not phrase.holds for phrase in again.phrases()) == snapshot.counts["negatives"] == 2


def test_what_is_held_out_does_not_leak_into_training(tmp_path: Path, store: Store) -> None:
    from conftest import small_document

    many = store.datasets.import_document(small_document(tmp_path / "many", images=60), "many")
    snapshot = store.snapshots.freeze("many", many.id)
    counts = training_folder(store, snapshot, tmp_path / "folder")
    assert counts["train"] + counts["val"] == 40 and counts["val"] > 0  # the test split is in neither


def test_a_split_that_is_not_there_is_named(store: Store, dataset: Dataset) -> None:
    snapshot = store.snapshots.freeze("s", dataset.id)
    assert len(split_coco(store, snapshot, "test")["images"]) == 2
    with pytest.raises(WinnowError, match="no images of split 'val'; it has 'test', 'train'"):
        split_coco(store, snapshot, "val")


def test_a_painted_image_knows_of_its_classes_what_its_source_knew(store: Store, dataset: Dataset) -> None:
    mug, ball = store.datasets.categories(dataset.id)
    image = store.datasets.images(dataset.id)[0]
    now = draft_of(store.edits.current(image.id).annotations)
    mugs = tuple(box for box in now.boxes if box.category_id == mug.id)
    draft = msgspec.structs.replace(now, boxes=mugs, classes={ball.id: Presence.ABSENT})
    store.edits.save([Edit(op_id="no ball", image_id=image.id, base=0, draft=draft)])
    decided(store, dataset, Kind.INSTANCE, Decision.ACCEPT)
    (sample,) = added(store, dataset)
    assert sample.image.extra["neg_category_ids"] == [ball.source_id]


def test_a_class_that_was_painted_in_is_absent_no_longer(store: Store, dataset: Dataset) -> None:
    ball = store.datasets.categories(dataset.id)[1]
    image = store.datasets.images(dataset.id)[0]
    draft = msgspec.structs.replace(Draft((), ()), classes={ball.id: Presence.ABSENT})
    store.edits.save([Edit(op_id="nothing", image_id=image.id, base=0, draft=draft)])
    decided(store, dataset, Kind.INSTANCE, Decision.EDIT, edit={"category_id": ball.id})
    (sample,) = added(store, dataset)
    assert sample.image.extra["neg_category_ids"] == []


CONTENT = Content(
    width=160,
    height=120,
    caption="a red mug on a table",
    phrases=(Named(text="a red mug", spans=((0, 9),), boxes=(0,)), Named(text="a table", spans=((13, 20),))),
    boxes=(Placed(xyxy=(1.0, 2.0, 30.0, 40.0), score=0.7),),
)


def whole(store: Store, dataset: Dataset, kind: Kind, digest: str | None, image_id: int | None = None) -> int:
    image = store.datasets.images(dataset.id)[0]
    made = NewCandidate(
        target="words:1",
        variant=0,
        kind=kind,
        image_id=image_id or image.id,
        seed=1,
        digest=digest,
        detail={"content": msgspec.to_builtins(CONTENT), "suffix": "jpg"},
    )
    shard = leased(store, dataset.id)
    store.review.add_candidates(shard, [made], dataset.id)
    return store.review.candidate_ids(shard.run_id)[0]


def test_an_image_made_from_words_brings_its_phrases_and_boxes(store: Store, dataset: Dataset) -> None:
    one = whole(store, dataset, Kind.TRIPLET, store.datasets.images(dataset.id)[0].digest)
    assert added(store, dataset, "before") == []
    store.review.decide([NewVerdict(op_id="a", candidate_id=one, decision=Decision.ACCEPT)])
    (sample,) = added(store, dataset)
    assert (sample.image.width, sample.image.height, sample.image.split) == (160, 120, "train")
    (box,) = sample.boxes
    assert (box.xyxy, box.extra) == ((1.0, 2.0, 30.0, 40.0), {"origin": "detector", "score": 0.7})
    caption, mug, table = sample.phrases
    assert (caption.text, caption.parent_id) == ("a red mug on a table", None)
    assert (mug.text, mug.parent_id, mug.spans, mug.box_ids) == ("a red mug", caption.id, ((0, 9),), (box.id,))
    assert table.box_ids == ()


def test_a_corrected_triplet_is_as_the_person_left_it(store: Store, dataset: Dataset) -> None:
    one = whole(store, dataset, Kind.TRIPLET, store.datasets.images(dataset.id)[0].digest)
    left = msgspec.structs.replace(CONTENT, phrases=CONTENT.phrases[:1], boxes=(Placed(xyxy=(0.0, 0.0, 9.0, 9.0)),))
    edit = {"content": msgspec.to_builtins(left)}
    store.review.decide([NewVerdict(op_id="e", candidate_id=one, decision=Decision.EDIT, edit=edit)])
    (sample,) = added(store, dataset)
    assert [box.xyxy for box in sample.boxes] == [(0.0, 0.0, 9.0, 9.0)]
    assert [phrase.text for phrase in sample.phrases] == ["a red mug on a table", "a red mug"]


def test_an_image_that_was_judged_is_frozen_only_when_it_was_accepted(store: Store, dataset: Dataset) -> None:
    judged = store.datasets.images(dataset.id)[1]
    one = whole(store, dataset, Kind.PAIR, None, judged.id)

    def frozen(name: str) -> set[int]:
        snapshot = store.snapshots.freeze(name, dataset.id, store.review.policies(dataset.id))
        return {sample.image.id for sample in store.snapshots.samples(snapshot)[1]}

    assert judged.id not in frozen("pending")
    store.review.decide([NewVerdict(op_id="a", candidate_id=one, decision=Decision.ACCEPT)])
    assert judged.id in frozen("accepted")
    assert {s.image.id for s in added(store, dataset)} == {judged.id}
    store.review.decide([NewVerdict(op_id="r", candidate_id=one, decision=Decision.REJECT)])
    assert judged.id not in frozen("rejected")
    real = store.snapshots.freeze("real", dataset.id)
    assert judged.id in {sample.image.id for sample in store.snapshots.samples(real)[1]}

"""Corrections of annotations: versions that only grow, checked before they are kept, and found again in what is exported."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db import formats
from db.edits import Annotations, Draft, DraftBox, DraftPhrase, Edit, Presence, merged, presence, with_presence
from db.errors import NotFound
from db.records import Box, Dataset, Image, Phrase
from db.store import Store

LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def first(store: Store, dataset: Dataset) -> Image:
    return store.datasets.images(dataset.id)[0]


def draft_of(annotations: Annotations, **changed: Any) -> Draft:
    """A draft that asks for what is there already, but for `changed`."""
    boxes = tuple(DraftBox(box.id, box.xyxy, box.category_id) for box in annotations.boxes)
    phrases = tuple(
        DraftPhrase(one.id, one.text, one.parent_id, one.spans, one.box_ids, one.holds) for one in annotations.phrases
    )
    return msgspec.structs.replace(Draft(boxes, phrases, annotations.classes), **changed)


def edit(store: Store, image: Image, op: str, base: int = 0, **changed: Any) -> Edit:
    draft = draft_of(store.edits.current(image.id).annotations, **changed)
    return Edit(op_id=op, image_id=image.id, base=base, draft=draft, reviewer="ann")


def moved(store: Store, image: Image) -> tuple[DraftBox, ...]:
    box, other = store.edits.current(image.id).annotations.boxes
    return (
        DraftBox(box.id, (11.0, 12.0, 41.0, 52.0), box.category_id),
        DraftBox(other.id, other.xyxy, other.category_id),
    )


def test_every_correction_is_a_version_and_none_is_lost(store: Store, dataset: Dataset) -> None:
    image = first(store, dataset)
    (kept,) = store.edits.save([edit(store, image, "one", boxes=moved(store, image))])
    assert (kept.status, kept.number) == ("saved", 1)
    (again,) = store.edits.save([edit(store, image, "two", 1, boxes=())])
    assert (again.status, again.number) == ("refused", None)  # the phrase still names a box
    (again,) = store.edits.save([edit(store, image, "two", 1, boxes=(), phrases=())])
    assert again.number == 2
    assert [(v.number, len(v.annotations.boxes), v.reviewer) for v in store.edits.versions(image.id)] == [
        (2, 0, "ann"), (1, 2, "ann"), (0, 2, ""),
    ]  # fmt: skip
    assert store.datasets.boxes_of([image.id])[image.id] == list(store.edits.versions(image.id)[2].annotations.boxes)


def test_what_is_taken_back_is_whole_again_and_no_longer_to_be_taken_back(store: Store, dataset: Dataset) -> None:
    image = first(store, dataset)
    imported = store.edits.current(image.id).annotations
    store.edits.save([edit(store, image, "moved", boxes=moved(store, image))])
    store.edits.save([edit(store, image, "removed", 1, boxes=(), phrases=())])
    stands = store.edits.standing(dataset.id, "ann")
    assert [(made.number, before) for made, before in stands] == [
        (2, store.edits.versions(image.id)[1].annotations), (1, imported),
    ]  # fmt: skip
    back = [draft_of(before) for _, before in stands]
    saved = [Edit(op_id=f"back {i}", image_id=image.id, base=2 + i, draft=one) for i, one in enumerate(back)]
    assert [kept.status for kept in store.edits.save(saved)] == ["saved", "saved"]
    assert store.edits.current(image.id).annotations == imported  # its masks and areas too
    assert store.edits.standing(dataset.id, "ann") == []


def test_nobody_takes_back_what_another_has_built_upon(store: Store, dataset: Dataset) -> None:
    image = first(store, dataset)
    store.edits.save([edit(store, image, "one", boxes=moved(store, image))])
    later = msgspec.structs.replace(edit(store, image, "two", 1, boxes=(), phrases=()), reviewer="bob")
    store.edits.save([later])
    assert store.edits.standing(dataset.id, "ann") == []
    assert [made.number for made, _ in store.edits.standing(dataset.id, "bob")] == [2]


def test_sent_twice_counts_once(store: Store, dataset: Dataset) -> None:
    one = edit(store, first(store, dataset), "one", boxes=moved(store, first(store, dataset)))
    assert [kept.status for kept in store.edits.save([one, one])] == ["saved", "repeated"]
    assert [kept.number for kept in store.edits.save([one])] == [1]


def test_a_correction_of_an_old_version_is_a_conflict_that_shows_the_other(store: Store, dataset: Dataset) -> None:
    image = first(store, dataset)
    late = edit(store, image, "late", classes={})
    store.edits.save([edit(store, image, "early", boxes=moved(store, image))])
    (kept,) = store.edits.save([late])
    assert kept.status == "conflict" and kept.theirs is not None and kept.theirs.number == 1
    assert "ann corrected image" in kept.message and "version 0" in kept.message
    assert store.edits.current(image.id).number == 1


def test_an_image_that_is_gone_is_told(store: Store, dataset: Dataset) -> None:
    late = edit(store, first(store, dataset), "late")
    store.datasets.delete(dataset.id)
    (kept,) = store.edits.save([late])
    assert (kept.status, kept.message.split(";")[0]) == ("refused", f"Image {late.image_id} no longer exists")
    with pytest.raises(NotFound):
        store.edits.current(late.image_id)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"boxes": [[-1, [0, 0, 900, 20], None]], "phrases": []}, "does not lie inside the image of 160 x 120"),
        ({"boxes": [[-1, [5, 5, 5, 20], None]], "phrases": []}, "with a size of its own"),
        ({"boxes": [[-1, [5, 5, 9, 20], 999]], "phrases": []}, "class 999, which the data set does not have"),
        ({"boxes": [[77777, [5, 5, 9, 20], None]], "phrases": []}, "box 77777 does not belong to this image"),
        ({"boxes": [[-1, [5, 5, 9, 9], None]] * 2, "phrases": []}, "a box is there twice"),
        ({"phrases": [[-1, " "]]}, "the text of phrase -1 is empty"),
        ({"phrases": [[-1, "a" * 20_001]]}, "has 20001 characters"),
        ({"phrases": [[-1, "a\0b"]]}, "U+0000"),
        ({"phrases": [[-1, "a mug"], [-2, "mug", -1, [[2, 6]]]]}, "of a caption of 5 characters"),
        ({"phrases": [[-1, "a mug", -9]]}, "caption -9, which is not there"),
        ({"phrases": [[-1, "a mug", None, [], [-5]]]}, "names the boxes [-5]"),
        ({"classes": {12345: "absent"}}, "no class 12345"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_reason(
    store: Store, dataset: Dataset, changed: dict[str, Any], words: str
) -> None:
    image = first(store, dataset)
    types = {"boxes": tuple[tuple[int, tuple[float, ...], int | None], ...], "classes": dict[int, Presence]}
    made = {name: msgspec.convert(value, types[name], strict=False) for name, value in changed.items() if name in types}
    if "boxes" in made:
        made["boxes"] = tuple(DraftBox(*box) for box in made["boxes"])
    if "phrases" in changed:
        made["phrases"] = tuple(DraftPhrase(*one) for one in changed["phrases"])
    (kept,) = store.edits.save([edit(store, image, "bad", **made)])
    assert kept.status == "refused" and words in kept.message
    assert store.edits.current(image.id).number == 0


def test_a_class_cannot_be_absent_while_it_has_boxes(store: Store, dataset: Dataset) -> None:
    image, mug = first(store, dataset), store.datasets.categories(dataset.id)[0]
    (kept,) = store.edits.save([edit(store, image, "bad", classes={mug.id: Presence.ABSENT})])
    assert "'mug' cannot be absent while 1 of its boxes" in kept.message


def test_a_box_left_alone_keeps_everything_and_a_moved_one_loses_its_mask() -> None:
    full = {"image_id": 1, "area": 9.0, "segmentation": b"[[1,1,4,1,4,4]]", "extra": {"a": 1}, "source_id": 7}
    base = Annotations(boxes=(Box(id=1, xyxy=(1, 1, 4, 4), **full), Box(id=2, xyxy=(2, 2, 5, 5), **full)))
    draft = draft_of(base, boxes=(DraftBox(1, (1, 1, 4, 4), 3), DraftBox(2, (2, 2, 6, 6), None)))
    kept, changed = merged([base], draft, 1).boxes
    assert (kept.segmentation, kept.area, kept.category_id) == (full["segmentation"], 9.0, 3)
    assert (changed.segmentation, changed.area, changed.source_id, changed.extra) == (None, None, 7, {"a": 1})


@pytest.mark.parametrize("format", ["coco", "lvis", "odvg"])
def test_corrections_reach_the_exported_files(tmp_path: Path, store: Store, dataset: Dataset, format: str) -> None:
    image, (mug, ball) = first(store, dataset), store.datasets.categories(dataset.id)
    caption = DraftPhrase(-1, "a tall green mug")
    named = DraftPhrase(-2, "green mug", -1, ((7, 16),), (-1,))
    boxes = (DraftBox(-1, (20.0, 20.0, 60.0, 70.0), mug.id),)
    change = {"boxes": boxes, "phrases": (caption, named), "classes": {ball.id: Presence.ABSENT}}
    assert store.edits.save([edit(store, image, "all", **change)])[0].status == "saved"
    snapshot = store.snapshots.freeze("s", dataset.id)
    formats.write(store.snapshots.document(snapshot), tmp_path / "out", format)
    again = formats.read(tmp_path / "out")
    assert again.faults == []
    read, found, phrases = next(sample for sample in again.samples() if sample[0].file_name == image.file_name)
    assert {box.xyxy for box in found} == {(20.0, 20.0, 60.0, 70.0)}
    if format == "odvg":
        assert [(one.text, one.spans, len(one.box_ids)) for one in phrases] == [
            ("a tall green mug", (), 0), ("green mug", ((7, 16),), 1),
        ]  # fmt: skip
    else:
        assert read.extra[LISTS[0]] == [ball.source_id]


def test_what_is_frozen_stays_when_corrections_follow(store: Store, dataset: Dataset) -> None:
    image = first(store, dataset)
    before = store.snapshots.freeze("before", dataset.id)
    store.edits.save([edit(store, image, "one", boxes=moved(store, image))])
    after = store.snapshots.freeze("after", dataset.id)
    first_boxes = [next(iter(store.snapshots.samples(one)[1])).boxes[0].xyxy for one in (before, after)]
    assert first_boxes == [(10.0, 10.0, 50.0, 60.0), (11.0, 12.0, 41.0, 52.0)]


states = st.sampled_from([None, *Presence])


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["", "absent", "partial"]), states), max_size=6))
def test_the_lists_of_lvis_say_what_people_said(classes: list[tuple[bool, str, Presence | None]]) -> None:
    numbers = {i: 10 + i for i in range(len(classes))}
    lists = {
        name: [10 + i for i, one in enumerate(classes) if one[1] == key]
        for name, key in zip(LISTS, ("absent", "partial"), strict=True)
    }
    image = Image(id=1, file_name="a", width=9, height=9, extra=lists)
    boxes = tuple(Box(id=i, image_id=1, xyxy=(0, 0, 1, 1), category_id=i) for i, one in enumerate(classes) if one[0])
    said = {i: one[2] for i, one in enumerate(classes) if one[2] and not (one[0] and one[2] != Presence.PRESENT)}
    annotations = Annotations(boxes=boxes, phrases=(), classes=said)
    written = with_presence(image, annotations, numbers, LISTS)
    assert not set(written.extra[LISTS[0]]) & set(written.extra[LISTS[1]])
    told = presence(written, Annotations(boxes=boxes), numbers, LISTS)
    for i, state in said.items():
        assert told.get(i, Presence.UNKNOWN) == (Presence.PRESENT if classes[i][0] else state)
    for i in set(numbers) - set(said):  # of these nobody said anything
        for name in LISTS:
            assert (numbers[i] in written.extra[name]) == (numbers[i] in lists[name])


def test_phrases_may_not_be_repaired_in_silence() -> None:
    base = Annotations(phrases=(Phrase(id=1, image_id=1, text="a mug", extra={"k": 1}),))
    (phrase,) = merged([base], draft_of(base, phrases=(DraftPhrase(1, "a  mug "),)), 1).phrases
    assert (phrase.text, phrase.extra) == ("a  mug ", {"k": 1})

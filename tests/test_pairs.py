"""Pairs in the store: imported, proposed for review, and as lines to learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import leased, picture, small_document
from msgspec import to_builtins
from msgspec.structs import replace as replace_struct

from db import formats
from db.errors import WinnowError
from db.records import Content, Dataset, Decision, Image, Kind, NewCandidate, NewVerdict, Phrase, Placed
from db.store import Store
from engine import alignments
from engine.alignments import Aligned, Ask, Region, Word
from engine.concepts import read_definitions
from engine.filters import FILTERS
from engine.filters.alignment import NO_MODEL
from engine.grounding_folder import TRAIN, grounding_folder, is_pair, read_lines, split_omnilabel
from engine.pair_review import propose
from engine.roles import Context
from engine.runs import start_align
from engine.subject import subjects

CAPTIONS = ["A red mug near two bottles.", "a green hat"]


@pytest.fixture
def pairs(store: Store, tmp_path: Path) -> Dataset:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number, caption in enumerate(CAPTIONS):
        picture(folder / f"{number}.png", number)
        (folder / f"{number}.txt").write_text(caption)
    return store.datasets.import_document(formats.read(folder), "pairs")


def image_ids(store: Store, dataset: Dataset) -> list[int]:
    return [image.id for image in store.datasets.document(dataset.id).images()]


def test_an_imported_pair_is_a_candidate_with_the_phrases_of_its_caption(store: Store, pairs: Dataset) -> None:
    context = Context(store, pairs.id)
    made = propose(context, image_ids(store, pairs), seed=3)
    assert [one.content.caption for one in made] == CAPTIONS
    assert [(one.kind, one.digest, one.target) for one in made] == [
        (Kind.PAIR, None, f"image:{i}/pair") for i in image_ids(store, pairs)
    ]
    first = made[0].content
    assert [named.text for named in first.phrases] == ["A red mug", "two bottles"] and not first.boxes
    assert all(first.caption[a:b] == named.text for named in first.phrases for a, b in named.spans)
    assert made == propose(context, image_ids(store, pairs), seed=3)


def test_an_image_without_a_caption_or_a_file_is_no_pair(store: Store, tmp_path: Path) -> None:
    made = replace(small_document(tmp_path / "files"), phrases=lambda: ())
    wordless = store.datasets.import_document(made, "wordless")
    with pytest.raises(WinnowError, match="no caption"):
        propose(Context(store, wordless.id), image_ids(store, wordless), seed=0)
    texts = small_document(tmp_path / "files")
    fileless = store.datasets.import_document(replace(texts, file_of=lambda image: None), "fileless")
    with pytest.raises(WinnowError, match="without its file"):
        propose(Context(store, fileless.id), image_ids(store, fileless), seed=0)


def test_a_snapshot_of_pairs_alone_teaches_no_boxes(store: Store, pairs: Dataset, tmp_path: Path) -> None:
    snapshot = store.snapshots.freeze("pairs", pairs.id)
    with pytest.raises(WinnowError, match="no image with a box"):
        grounding_folder(store, snapshot, tmp_path / "data", pairs=True)


@pytest.fixture
def mixed(store: Store, tmp_path: Path) -> Dataset:
    """The small data set, and two images of which there is only a caption: one to train on, one in the split `test`."""
    small, folder = small_document(tmp_path / "files"), tmp_path / "files"
    more = []
    for number, split in ((6, "train"), (7, "test")):
        picture(folder / f"image{number}.jpg", number)
        more.append(Image(id=number, file_name=f"image{number}.jpg", width=160, height=120, split=split))
    said = [Phrase(id=100 + image.id, image_id=image.id, text=f"only said {image.id}") for image in more]
    classes = [replace_struct(category, extra={"def": " a cup "}) for category in small.categories[:1]]
    return store.datasets.import_document(
        replace(
            small,
            categories=[*classes, *small.categories[1:]],
            images=lambda: [*small.images(), *more],
            phrases=lambda: [*small.phrases(), *said],
        ),
        "mixed",
    )


def test_captions_without_boxes_are_lines_for_those_who_want_pairs(
    store: Store, mixed: Dataset, tmp_path: Path
) -> None:
    snapshot = store.snapshots.freeze("all", mixed.id)
    grounding_folder(store, snapshot, tmp_path / "plain")
    counts = grounding_folder(store, snapshot, tmp_path / "pairs", pairs=True)
    plain, paired = (read_lines(tmp_path / name / TRAIN) for name in ("plain", "pairs"))
    assert not any(map(is_pair, plain)) and counts["pairs"] == 1
    assert [one.grounding.caption for one in paired if is_pair(one) and one.grounding] == ["only said 6"]
    assert read_definitions(tmp_path / "pairs") == {"mug": "a cup"}
    asked = split_omnilabel(store, snapshot, "test")
    assert len(asked["images"]) == 2, "of an image with a caption alone nobody knows what is not on it"


def test_accepted_images_made_from_words_are_learnt_from(store: Store, mixed: Dataset, tmp_path: Path) -> None:
    shard = leased(store, mixed.id)
    first = store.datasets.images(mixed.id)[0]
    mug = store.datasets.categories(mixed.id)[0].id
    contents = {
        Kind.PAIR: Content(width=160, height=120, caption="drawn as said"),
        Kind.CLASS_IMAGE: Content(width=160, height=120, boxes=(Placed(xyxy=(0, 0, 160, 120), category_id=mug),)),
    }
    made = [
        NewCandidate(
            target=str(kind),
            variant=0,
            kind=kind,
            image_id=first.id,
            seed=0,
            digest=first.digest,
            detail={"content": to_builtins(content), "suffix": "jpg"},
        )
        for kind, content in contents.items()
    ]
    store.review.add_candidates(shard, made, mixed.id)
    for one in store.review.candidate_ids(shard.run_id):
        store.review.decide([NewVerdict(op_id=f"op{one}", candidate_id=one, decision=Decision.ACCEPT)])
    snapshot = store.snapshots.freeze("made", mixed.id, {})
    grounding_folder(store, snapshot, tmp_path / "data", pairs=True)
    said = [one.grounding.caption for one in read_lines(tmp_path / "data" / TRAIN) if is_pair(one) and one.grounding]
    assert sorted(said) == ["drawn as said", "mug", "only said 6"]


def test_only_detectors_of_pairs_align(store: Store, mixed: Dataset) -> None:
    shard = leased(store, mixed.id)
    snapshot = store.snapshots.freeze("all", mixed.id)
    with pytest.raises(WinnowError, match="no finished training"):
        start_align(store, train_run_id=shard.run_id, snapshot_id=snapshot.id, asks=[Ask(1, "a mug")])
    assert alignments.aligners(store, mixed.id) == []


def test_the_filter_says_what_is_missing(store: Store, pairs: Dataset) -> None:
    context = Context(store, pairs.id)
    shard = leased(store, pairs.id)
    store.review.add_candidates(shard, propose(context, image_ids(store, pairs), 0), pairs.id)
    found = FILTERS["pair_alignment"].score(subjects(context, store.review.candidate_ids(shard.run_id)), context)
    assert [(one.value, one.reason) for one in found] == [(None, NO_MODEL)] * 2


def test_what_is_looked_for_and_how_well_it_fits() -> None:
    words = [Word("a mug", 0, 5, [Region((0, 0, 4, 4), 0.5), Region((1, 1, 3, 3), 0.1)]), Word("mug", 2, 5, [])]
    assert Aligned(1, "x", 10, 10, "a mug", words).similarity == 0.25
    assert alignments.spans_of("a mug") == [(0, 5)]
    assert alignments.spans_of("a mug on a table") == [(0, 16), (0, 5), (9, 16)]


def test_answers_are_kept_with_their_run(store: Store, mixed: Dataset) -> None:
    found = [Aligned(1, "x", 10, 10, "a mug", [Word("a mug", 0, 5, [Region((0, 0, 4, 4), 0.5)])])]
    run = store.ledger.run(leased(store, mixed.id).run_id)
    with pytest.raises(WinnowError, match="aligned no captions"):
        alignments.kept(store, run)
    store.ledger.set_result(run.id, {"alignments": alignments.keep(store, found)})
    assert alignments.kept(store, store.ledger.run(run.id)) == found

"""The filters that need an embedder: on a space whose likenesses are known, and on a tiny real CLIP through a pack."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from db.records import Dataset, Kind, NewCandidate
from db.store import Store
from engine.filters import FILTERS, Judgement
from engine.pixels import decode, encode_png
from engine.roles import Context
from engine.score import score
from engine.subject import Subject
from tests.conftest import candidates, leased
from tests.test_aesthetic import Published
from tests.test_filters import HEIGHT, WIDTH, scene, subject
from tests.test_openclip import model_folder

COLOURS = ("red", "green", "blue")


class Colours:
    """A space in which a picture is its mean colour, and a text the colours that it names."""

    name, precision, width, batch_size = "colours", "fp32", 3, 4

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self._unit(np.array([image.reshape(-1, 3).mean(0) for image in images]))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._unit(np.array([[colour in text for colour in COLOURS] for text in texts], float) + 1e-3)

    def _unit(self, rows: np.ndarray) -> np.ndarray:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Seeing(Context):
    """A context whose pack has this embedder."""

    def embedder(self) -> Colours:  # type: ignore[override]
        return Colours()


def flat(colour: str, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """A red picture with a box of another colour."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = 200
    x1, y1, x2, y2 = box or (0, 0, WIDTH, HEIGHT)
    image[y1:y2, x1:x2] = 200 * np.eye(3, dtype=np.uint8)[COLOURS.index(colour)]
    return image


BOX, ROOM = (10.0, 10.0, 60.0, 60.0), (0, 0, 70, 70)  # ROOM holds the box and what is seen around it
BLUE, RED = flat("blue", ROOM), flat("red")


def made(after: np.ndarray = BLUE, kind: Kind = Kind.NEGATIVE_IMAGE, **changes: object) -> Subject:
    values: dict[str, object] = {"xyxy": BOX, "kind": kind, "boxes": (), **changes}
    one = subject(RED, after, texts=("a red mug", "a blue mug"), **values)  # type: ignore[arg-type]
    digests = {name: hashlib.sha256(one.load(name).tobytes()).hexdigest() for name in ("before", "after")}
    pixels = {digests[name]: one.load(name) for name in digests}
    candidate = one.candidate if one.candidate.digest is None else _digested(one, digests["after"])
    return replace(one, candidate=candidate, image=_image(one, digests["before"]), load=pixels.__getitem__)


def _digested(one: Subject, digest: str) -> object:
    values = {name: getattr(one.candidate, name) for name in one.candidate.__struct_fields__}
    return type(one.candidate)(**{**values, "digest": digest})


def _image(one: Subject, digest: str) -> object:
    values = {name: getattr(one.image, name) for name in one.image.__struct_fields__}
    return type(one.image)(**{**values, "digest": digest})


def judged(store: Store, name: str, one: Subject) -> Judgement:
    return FILTERS[name].score([one], Seeing(store, 1))[0]


CASES = [
    ("clip_margin", made(), True, "blue, as the negative says"),
    ("clip_margin", made(RED), False, "still red"),
    ("clip_delta", made(), True, "the edit made it blue"),
    ("clip_delta", made(RED), False, "the edit did nothing"),
    ("two_step", made(), True, "sane box, blue"),
    ("two_step", made(RED), False, "sane box, red"),
    ("clip_agreement", made(), True, "like its text"),
    ("clip_agreement", made(RED), False, "unlike its text"),
    ("clip_margin", made(kind=Kind.NEGATIVE_TEXT), True, "the original is red, as the true text says"),
    ("clip_margin", made(kind=Kind.INSTANCE, categories={1: "blue mug", 2: "red mug"}), True, "its own class"),
    ("clip_margin", made(kind=Kind.INSTANCE, categories={1: "red mug", 2: "blue mug"}), False, "another class"),
    ("clip_margin", made(kind=Kind.INSTANCE, categories={1: "blue mug"}), None, "nothing to compare with"),
]


@pytest.mark.parametrize(("name", "one", "good", "why"), CASES)
def test_the_default_rule_tells_good_from_bad(
    store: Store, name: str, one: Subject, good: bool | None, why: str
) -> None:
    found = judged(store, name, one)
    assert FILTERS[name].default.passes(found.value) is good, (why, found)


def test_the_margin_is_a_difference_of_cosines(store: Store) -> None:
    found = judged(store, "clip_margin", made())
    assert found.value == pytest.approx(1, abs=0.01) and "a blue mug" in found.reason
    assert judged(store, "clip_margin", made(RED)).value == pytest.approx(-found.value)  # type: ignore[operator]


def test_a_picture_on_neither_side_does_not_pass(store: Store) -> None:
    found = judged(store, "clip_margin", made(text_after="a red mug"))
    assert found.value == 0 and FILTERS["clip_margin"].default.passes(0.0) is False


OUT_OF_BOUNDS = [
    ((10.0, 10.0, 25.0, 20.0), "of the image"),
    ((0.0, 0.0, 160.0, 100.0), "of the image"),
    ((10.0, 10.0, 50.0, 40.0), "pixels"),
    ((0.0, 10.0, 150.0, 43.0), "one side"),
]


@pytest.mark.parametrize(("xyxy", "words"), OUT_OF_BOUNDS)
def test_the_first_step_refuses_boxes(store: Store, xyxy: tuple[float, ...], words: str) -> None:
    found = judged(store, "two_step", made(xyxy=xyxy))
    assert found.value == -2 and words in found.reason


def test_the_first_step_refuses_what_covers_another_annotation(store: Store) -> None:
    one = made()
    (other,) = (box for box in subject().boxes if box.id == 1)
    crowded = replace(one, boxes=(type(other)(id=7, image_id=1, xyxy=(10, 10, 60, 40), category_id=1),))
    assert "overlaps another by 0.60" in judged(store, "two_step", crowded).reason


NEEDING = ("clip_agreement", "clip_margin", "clip_delta", "two_step", "aesthetic")


@pytest.mark.parametrize("name", NEEDING)
def test_without_a_model_there_is_a_reason_and_no_value(store: Store, dataset: Dataset, name: str) -> None:
    for pack in (None, "classic"):
        found = FILTERS[name].score([made()], Context(store, dataset.id, pack=pack))[0]
        assert found.value is None and "the model pack has no" in found.reason


@pytest.fixture
def pack(store: Store, tmp_path: Path) -> str:
    torch.save(Published(24).state_dict(), tmp_path / "head.pth")
    roles = {
        "embedder": {
            "backend": "openclip",
            "options": {"model": str(model_folder(tmp_path / "clip")), "device": "cpu"},
        },
        "aesthetics": {"backend": "aesthetic_head", "options": {"file": str(tmp_path / "head.pth")}},
    }
    (store.home / "packs").mkdir()
    described = {"name": "own", "title": "Own", "summary": "", "needs": "", **roles}
    (store.home / "packs" / "own.yaml").write_text(yaml.safe_dump(described))
    return "own"


def test_a_real_model_scores_stored_candidates(store: Store, dataset: Dataset, pack: str) -> None:
    ids = candidates(store, dataset.id, leased(store, dataset.id), 2, kind=Kind.NEGATIVE_IMAGE)
    found = {(one.candidate_id, one.filter): one for one in score(Context(store, dataset.id, pack=pack), ids, NEEDING)}
    assert len(found) == 10 and all(one.value is not None for one in found.values())
    assert found[ids[0], "clip_delta"].value == 0  # the picture of these candidates is the original
    assert "6 of the data set's own images" in found[ids[0], "aesthetic"].reason


def test_the_aesthetic_threshold_is_the_mean_of_the_own_images(store: Store, dataset: Dataset, pack: str) -> None:
    shard = leased(store, dataset.id)
    images = store.datasets.images(dataset.id)
    store.review.add_candidates(
        shard,
        [
            NewCandidate(
                target=f"image:{i}", variant=0, kind=Kind.INSTANCE, image_id=image.id, seed=i, digest=image.digest
            )
            for i, image in enumerate(images)
        ],
        dataset.id,
    )
    ids = store.review.candidate_ids(shard.run_id)
    values = [one.value for one in score(Context(store, dataset.id, pack=pack), ids, ["aesthetic"])]
    assert np.mean(values) == pytest.approx(0, abs=1e-5) and np.std(values) > 0  # type: ignore[arg-type]


def test_a_model_that_cannot_load_is_the_reason(store: Store, dataset: Dataset) -> None:
    (store.home / "packs").mkdir()
    role = {"backend": "openclip", "options": {"model": str(store.home / "nowhere")}}
    (store.home / "packs" / "bad.yaml").write_text(
        yaml.safe_dump({"name": "bad", "title": "", "summary": "", "needs": "", "embedder": role})
    )
    found = FILTERS["clip_margin"].score([made()], Context(store, dataset.id, pack="bad"))[0]
    assert found.value is None and "no model folder" in found.reason


def drawn(store: Store, dataset: Dataset, pictures: Sequence[np.ndarray]) -> list[int]:
    """Stored candidates of one run with these pictures."""
    shard, image = leased(store, dataset.id), store.datasets.images(dataset.id)[0]
    made = [
        NewCandidate(
            target=f"box:{i}", variant=0, kind=Kind.INSTANCE, image_id=image.id, seed=i, xyxy=(10.0, 10.0, 90.0, 90.0),
            category_id=1, digest=store.blobs.put(encode_png(picture)),
        )
        for i, picture in enumerate(pictures)
    ]  # fmt: skip
    store.review.add_candidates(shard, made, dataset.id)
    return store.review.candidate_ids(shard.run_id)


def test_the_second_of_two_like_pictures_is_the_duplicate(store: Store, dataset: Dataset) -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(scene(0) + rng.normal(0, 1, scene(0).shape), 0, 255).astype(np.uint8)
    ids = drawn(store, dataset, [scene(0), scene(1), noisy])
    context, rule = Context(store, dataset.id), FILTERS["near_duplicate"].default
    first, other, again = score(context, ids, ["near_duplicate"])
    assert [rule.passes(one.value) for one in (first, other, again)] == [True, True, False]
    assert f"candidate {ids[0]}" in again.reason and "none of this class" in first.reason
    assert score(context, [ids[2]], ["near_duplicate"])[0] == again  # whatever part of the run is scored
    (alone,) = drawn(store, dataset, [scene(0)])
    assert score(context, [alone], ["near_duplicate"])[0].value == 0, "another run"


def test_a_whole_image_is_a_duplicate_of_one_of_the_data_set_but_not_of_itself(store: Store, dataset: Dataset) -> None:
    first, *_, last = store.datasets.images(dataset.id)
    own = [decode(store.blobs.get(image.digest or "")) for image in (first, last)]
    shard = leased(store, dataset.id)
    made = [
        NewCandidate(target=f"image:{i}", variant=0, kind=kind, image_id=first.id, seed=i, digest=digest)
        for i, (kind, digest) in enumerate(
            [
                (Kind.PAIR, first.digest),  # of the data set itself, to be judged
                (Kind.TRIPLET, last.digest),
                (Kind.TRIPLET, store.blobs.put(encode_png(own[0][:, ::-1].copy()))),
                (Kind.INSTANCE, last.digest),
            ]
        )
    ]
    store.review.add_candidates(shard, made, dataset.id)
    context = Context(store, dataset.id)
    itself, copy, other, painted = score(context, store.review.candidate_ids(shard.run_id), ["near_duplicate"])
    assert copy.value == 1.0 and f"like {last.file_name} of the data set" in copy.reason
    assert all(one.value is not None and one.value < 0.98 for one in (itself, other))
    assert "data set" not in painted.reason, "what is painted into an image may look like it"


@pytest.mark.parametrize(
    ("asked", "value"), [([10, 10, 50, 60], 1.0), ([10, 10, 50, 110], 0.5), ([100, 10, 150, 60], 0.0), (None, None)]
)
def test_box_drift_is_the_overlap_with_the_box_asked_for(asked: list[int] | None, value: float | None) -> None:
    found = FILTERS["box_drift"].score([subject(detail={"asked": asked})], None)[0]  # type: ignore[arg-type]
    assert found.value == (None if value is None else pytest.approx(value)) and found.reason

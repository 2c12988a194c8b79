"""Crops of Tabletop, the training of the pocket embedder on them, and the one that is shipped."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from db.errors import WinnowError
from engine import pixels
from engine.backends import hub
from engine.backends.openclip import OpenCLIPEmbedder
from engine.tabletop import KINDS, PRESETS, Scene, paint
from engine.tabletop.language import parse
from engine.training.pocket import crops as module
from engine.training.pocket import embedder
from engine.training.pocket.crops import WORDS, Crop, crops, dataset, describe, description
from engine.training.pocket.embedder import UNSAID, contrast, foil, tokenizer_of, true_pairs, wording

SHIPPED = hub.ASSETS / "pocket" / "embedder"
labels_of_crops = st.tuples(*(st.integers(0, len(words) - 1) for words in WORDS.values())).map(np.array)
said_words = st.tuples(
    st.integers(0, len(KINDS) - 1), *(st.integers(UNSAID, len(words) - 1) for words in list(WORDS.values())[1:])
).map(np.array)
seeds = st.integers(0, 1 << 32)


@pytest.fixture(scope="module")
def some() -> list[Crop]:
    return list(crops(3, 120))


# Crops


def test_crops_are_small_pictures_of_all_sorts(some: list[Crop]) -> None:
    assert len(some) == 120
    assert all(crop.image.shape == (64, 64, 3) and crop.image.dtype == np.uint8 for crop in some)
    assert len({crop.kind for crop in some}) > 30
    assert all(word in WORDS[slot] for crop in some for slot, word in zip(WORDS, crop.words, strict=True))


def test_crops_depend_on_the_seed_and_the_scene_only(some: list[Crop]) -> None:
    again, other = list(crops(3, 8)), list(crops(4, 8))
    assert all((a.image == b.image).all() and a.words == b.words for a, b in zip(again, some, strict=False))
    assert [crop.words for crop in other] != [crop.words for crop in again]
    later = next(crops(3, 1, first=1))
    assert any((later.image == crop.image).all() for crop in some)
    assert not (later.image == some[0].image).all()


def test_mixed_crops_come_from_all_difficulties_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    painted = []
    monkeypatch.setattr(module, "paint", lambda seed, index, world: painted.append(world) or paint(seed, index, world))
    list(crops(0, 30, difficulty="mixed"))
    expected = [msgspec.structs.replace(world, kinds=len(KINDS), tail=0.0) for world in PRESETS.values()]
    assert painted[:3] == expected


def test_an_unknown_difficulty_is_refused() -> None:
    with pytest.raises(WinnowError, match="'brutal'. Known: easy, standard, hard, mixed"):
        next(crops(0, 1, difficulty="brutal"))


@settings(deadline=None, max_examples=60)
@given(
    corner=st.tuples(st.integers(0, 200), st.integers(0, 130)),
    sides=st.tuples(st.integers(12, 110), st.integers(12, 100)),
    context=st.floats(0, 0.45),
    narrowest=st.floats(0.4, 1),
    seed=seeds,
)
def test_a_crop_shows_the_whole_box_and_as_much_around_it_as_asked(
    corner: tuple[int, int], sides: tuple[int, int], context: float, narrowest: float, seed: int
) -> None:
    (x, y), (w, h) = corner, sides
    image = np.zeros((240, 320, 3), np.uint8)
    image[y : y + h, x : x + w] = 255
    thing = msgspec.structs.replace(SCENE.truth.objects[0], box=(x, y, min(x + w, 320), min(y + h, 240)), hidden=0.0)
    scene = Scene(image, msgspec.structs.replace(SCENE.truth, objects=(thing,)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "paint", lambda *_: scene)
        (crop,) = crops(seed, 1, context=(context, context), narrowest=narrowest)
    box = thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]
    longer = max(box)
    most = [min(longer * (1 + 2 * context) + 1, limit) for limit in (320, 240)]
    least = [
        min(max(side, narrowest * longer) + 2 * context * longer - 1, limit)
        for side, limit in zip(box, (320, 240), strict=True)
    ]
    shown = crop.image.mean() / 255
    assert box[0] * box[1] / (most[0] * most[1]) * 0.93 - 0.01 <= shown
    assert shown <= box[0] * box[1] / (least[0] * least[1]) * 1.07 + 0.01


SCENE = paint(0, 0, PRESETS["easy"])


def test_a_dataset_is_painted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 10)
    first = dataset(tmp_path, 3, 15)
    assert len(first) == 15 and len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(module, "paint", None)
    again, fewer = dataset(tmp_path, 3, 20), dataset(tmp_path, 3, 5)
    assert len(again) == 20 and (again.images[:15] == first.images).all() and (again.labels[:15] == first.labels).all()
    for place, crop in enumerate(crops_of(fewer)):
        assert (crop.image == first[place].image).all() and crop.words == first[place].words


def crops_of(data: module.Crops) -> list[Crop]:
    return [data[place] for place in range(len(data))]


def test_a_dataset_holds_the_crops_of_its_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, some: list[Crop]
) -> None:
    monkeypatch.setattr(module, "PART", 10)
    for stored, crop in zip(crops_of(dataset(tmp_path, 3, 10)), some, strict=False):
        assert (stored.image == crop.image).all() and stored.words == crop.words


def test_another_request_does_not_get_the_crops_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 4)
    square, wide = dataset(tmp_path, 3, 4), dataset(tmp_path, 3, 4, context=(0.4, 0.5))
    assert (square.images != wide.images).any()
    assert dataset(tmp_path, 3, 4, size=32).images.shape == (4, 32, 32, 3)


@settings(deadline=None)
@given(place=st.integers(0, 119), seed=seeds)
def test_descriptions_are_true_and_always_say_the_kind(some: list[Crop], place: int, seed: int) -> None:
    crop = some[place]
    meant = parse(description(crop, np.random.default_rng(seed)))
    assert meant is not None and meant.kind == crop.kind
    assert all(getattr(meant, slot) in (None, getattr(crop, slot)) for slot in ("colour", "pattern", "material"))


@pytest.mark.parametrize(
    "words, text",
    [
        (("mug", "red", "striped", "wooden"), "a red striped wooden mug"),
        (("boat", "orange", None, None), "an orange boat"),
        (("scissors",), "a pair of scissors"),
        (("ball", "blue", "plain", "glossy"), "a plain blue glossy ball"),
    ],
)
def test_words_are_put_in_english(words: tuple[str | None, ...], text: str) -> None:
    assert describe(*words) == text


def test_the_text_of_a_crop_says_everything(some: list[Crop]) -> None:
    assert all(word in some[0].text.replace("pair of scissors", "scissors") for word in some[0].words)


# Texts, pairs and the loss


@settings(deadline=None)
@given(said=said_words, seed=seeds)
def test_a_foil_differs_in_one_word_that_was_said(said: np.ndarray, seed: int) -> None:
    changed = foil(said, np.random.default_rng(seed))
    (place,) = np.flatnonzero(changed != said)
    assert said[place] != UNSAID and 0 <= changed[place] < len(list(WORDS.values())[place])


@settings(deadline=None)
@given(labels=labels_of_crops, seed=seeds)
def test_a_foil_can_be_asked_of_each_slot(labels: np.ndarray, seed: int) -> None:
    for slot in range(len(WORDS)):
        assert np.flatnonzero(foil(labels, np.random.default_rng(seed), slot) != labels).tolist() == [slot]


def test_a_text_is_true_of_the_crops_that_have_all_its_words() -> None:
    labels = np.array([[0, 1, 2, 3], [0, 1, 0, 0], [5, 1, 2, 3]])
    said = np.array([[0, 1, 2, 3], [0, 1, UNSAID, UNSAID], [0, UNSAID, UNSAID, UNSAID], [5, 1, 2, 0]])
    assert true_pairs(labels, said).tolist() == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_the_loss_is_that_of_clip_when_each_crop_has_one_text() -> None:
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    places = torch.arange(5)
    plain = torch.nn.functional.cross_entropy
    assert contrast(logits, torch.eye(5, dtype=torch.bool)).item() == pytest.approx(
        ((plain(logits, places) + plain(logits.T, places)) / 2).item(), rel=1e-5
    )


def test_the_loss_wants_true_pairs_and_no_foils() -> None:
    true = torch.tensor([[1, 1, 0], [0, 1, 0]], dtype=torch.bool)  # the last text is a foil
    good, bad = torch.where(true, 8.0, 0.0), torch.where(true, 8.0, 0.0)
    bad[:, 2] = 8.0
    assert contrast(good, true) < contrast(bad, true)
    logits = torch.zeros(2, 3, requires_grad=True)
    contrast(logits, true).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 2] > 0).all() and logits.grad[0, 1] < 0


@settings(deadline=None)
@given(said=said_words, seed=seeds)
def test_every_wording_is_known_to_the_tokenizer(said: np.ndarray, seed: int) -> None:
    text = wording(said, np.random.default_rng(seed))
    ids = TOKENIZER(text.replace("[unk] ", ""))["input_ids"]
    assert TOKENIZER.unk_token_id not in ids and len(ids) <= embedder.MODEL["text_cfg"]["context_length"]
    assert ids[-1] == max(ids) == len(TOKENIZER) - 1
    words = [WORDS[slot][label] for slot, label in zip(WORDS, said, strict=True) if label != UNSAID][1:]
    assert all(word in text for word in words)


TOKENIZER = tokenizer_of()


def test_the_texts_of_scenes_are_known_to_the_tokenizer() -> None:
    for index in range(5):
        truth = paint(0, index, PRESETS["hard"]).truth
        for statement in [*truth.true, *truth.false]:
            assert TOKENIZER.unk_token_id not in TOKENIZER(statement.text)["input_ids"], statement.text


def test_case_is_ignored_and_other_words_are_unknown() -> None:
    assert TOKENIZER("A Red MUG")["input_ids"] == TOKENIZER("a red mug")["input_ids"]
    assert TOKENIZER("a giraffe")["input_ids"][2] == TOKENIZER.unk_token_id


# Training


def test_training_writes_a_model_that_open_clip_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 40)
    heard: list[tuple[str, int]] = []
    figures = embedder.train(tmp_path / "work", tmp_path / "out", steps=2, threads=1, count=40, held_out=24)
    assert (figures["steps"], figures["crops"], figures["held_out"]) == (2, 40, 24)
    assert all(0 <= figures[name] <= 1 for name in ("kind", "colour", "kind_colour", "recall_1", "foil_kind"))
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(["a red mug"])
    assert tokens.shape == (1, 20) and model.encode_text(tokens).shape == (1, 128)
    assert f"| {figures['kind']:.1%} | 0.025 |" in (tmp_path / "out" / "README.md").read_text()

    weights = (tmp_path / "out" / "open_clip_model.safetensors").read_bytes()
    again = embedder.train(
        tmp_path / "work",
        tmp_path / "again",
        steps=2,
        threads=1,
        count=40,
        held_out=24,
        progress=lambda role, step, loss: heard.append((role, step)),
    )
    assert again == figures and not heard, "a finished training has no steps left"
    assert (tmp_path / "again" / "open_clip_model.safetensors").read_bytes() == weights


# The shipped one


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the pocket embedder is not in this checkout")
def test_the_shipped_embedder_knows_the_things_of_tabletop() -> None:
    held = list(crops(77, 120))
    found = OpenCLIPEmbedder(model="assets/pocket/embedder", device="cpu")
    images = found.images([crop.image for crop in held])
    kinds = found.texts([describe(kind) for kind in WORDS["kind"]])
    named = [WORDS["kind"][i] for i in (images @ kinds.T).argmax(1)]
    assert np.mean([name == crop.kind for name, crop in zip(named, held, strict=True)]) > 0.6  # chance is 0.025
    full, other = found.texts([crop.text for crop in held]), found.texts([crop.text for crop in [*held[1:], held[0]]])
    assert ((images * full).sum(1) > (images * other).sum(1)).mean() > 0.85
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 4e6


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the pocket embedder is not in this checkout")
def test_the_shipped_embedder_reads_more_than_square_crops_of_one_wording() -> None:
    scenes = [paint(78, index, PRESETS["easy"]) for index in range(12)]
    things = [(scene, t) for scene in scenes for t in scene.truth.objects if t.hidden < 0.1 and t.size != "small"]
    found = OpenCLIPEmbedder(model="assets/pocket/embedder", device="cpu")
    cut = [
        pixels.crop(
            scene.image,
            pixels.rectangle(t.box, scene.image.shape[:2], 0.2 * max(t.box[2] - t.box[0], t.box[3] - t.box[1])),
        )
        for scene, t in things
    ]
    texts = [f"a photo of the {kind.noun}" for kind in KINDS]
    best = (found.images(cut) @ found.texts(texts).T).argmax(1)
    assert np.mean([KINDS[i].name == thing.kind for i, (_, thing) in zip(best, things, strict=True)]) > 0.4

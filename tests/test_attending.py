"""Models that are taught where to look: what a snapshot teaches them, BLIP's losses, a training from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from transformers import BlipForImageTextRetrieval

from db.errors import WinnowError
from engine.attention_folder import TRAIN, VAL, Entry, read_entries, write_entries
from engine.attention_options import AttentionOptions
from engine.presets import PRESETS, TrainOptions
from engine.training import mmlab

mmlab.install()

from engine.training.attending import (
    PhraseDataset,
    ask,
    box_mask,
    card_of,
    ids_of,
    load_attending,
    model_of,
    plain,
    task,
    tokenizer_of,
)
from engine.training.blip import AttentionModel, _drawn, tiny_config, usual_layer
from engine.training.launch import TrainJob, train

TINY = {"iterations": 4, "batch_size": 4, "image_size": (32, 32), "eval_interval": 2}
READER = "assets/pocket/reader"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_of(READER)


def folder_of(path: Path, entries: int = 8, boxes: bool = True) -> Path:
    """Squares, red ones at the left and blue ones at the right."""
    found = []
    for number in range(entries):
        image = np.full((40, 60, 3), 200, np.uint8)
        left = 5 if number % 2 else 35
        image[10:30, left : left + 20] = (0, 0, 255) if number % 2 else (255, 0, 0)
        cv2.imwrite(str(path / f"{number}.png"), image)
        text = "a red mug" if number % 2 else "a blue mug"
        found.append(Entry(str(path / f"{number}.png"), text, [(left, 10, left + 20, 30)] if boxes else []))
    found.append(Entry(str(path / "0.png"), ["a mug on a table", "something"]))
    write_entries(path / TRAIN, found)
    phrases = [
        {"id": i, "image": e.image, "width": 60, "height": 40, "text": e.caption, "boxes": [[5, 10, 20, 20]]}
        for i, e in enumerate(found[:3])
    ]
    (path / VAL).write_text(json.dumps({"phrases": phrases}))
    return path


def small(tokenizer: Any, **options: Any) -> AttentionModel:
    torch.manual_seed(0)
    model = AttentionModel(tiny_config(len(tokenizer), 32, 8, 3, 16), guesses=True, mask_token=4, **options)
    return model


def batch(tokenizer: Any, boxed: bool = True) -> tuple[torch.Tensor, dict[str, list[Any]]]:
    torch.manual_seed(1)
    mask = torch.zeros(32, 32)
    mask[:16, :16] = 1
    texts = ["a red mug", "a small blue plate", "the green bowl", "a red mug"]
    samples = {"ids": [ids_of(tokenizer, text) for text in texts], "mask": [mask if boxed else None] * 4}
    return torch.randn(4, 3, 32, 32), {**samples, "image": ["a", "b", "c", "d"]}


def test_entries_are_what_amc_reads(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "caption": "x", "bbox": [[1, 2, 3, 4]]}, {"image": "b.png", "caption": ["y", "z"]}]
    (tmp_path / TRAIN).write_text(json.dumps(rows))
    entries = read_entries(tmp_path / TRAIN)
    assert entries == [Entry("a.png", "x", [(1, 2, 3, 4)]), Entry("b.png", ["y", "z"])]
    write_entries(tmp_path / "again.json", entries)
    assert json.loads((tmp_path / "again.json").read_text()) == rows


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "a.png", "caption": "x", "bbox": [[3, 2, 1, 4]]}, "x1 < x2"),
        ({"image": "a.png", "caption": " "}, "no caption"),
        ({"image": "a.png"}, "caption"),
    ],
)
def test_entries_that_make_no_sense_are_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    (tmp_path / TRAIN).write_text(json.dumps([row]))
    with pytest.raises(WinnowError, match=said):
        read_entries(tmp_path / TRAIN)


def test_texts_are_read_as_albef_reads_them(tokenizer: Any) -> None:
    assert plain("A red-striped Mug, on the table!") == "a red striped mug on the table"
    assert len(plain("word " * 80).split()) == 50
    assert len(ids_of(tokenizer, "mug " * 40)) == 25


def test_a_mask_covers_every_pixel_that_its_box_touches() -> None:
    mask = box_mask([(10, 0, 30, 20)], (40, 40), (8, 8))
    assert mask[0, 2] == 1 and mask[3, 5] == 1 and mask.sum() == 4 * 4
    assert box_mask([(0.0, 0.0, 0.5, 0.5)], (100, 100), (8, 8)).sum() == 1, "the smallest box has a pixel"


def test_flips_take_the_mask_along_and_spare_words_of_sides(tmp_path: Path, tokenizer: Any) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    options = TrainOptions(image_size=(32, 32), attention={"all_boxes": True})
    for text, flips in (("a mug", True), ("the mug on the left", False)):
        data = PhraseDataset([Entry(str(tmp_path / "a.png"), text, [(0, 0, 16, 32)])], options, tokenizer, 0)
        found = [data[draw, 0] for draw in range(20)]
        left = [bool(one["data_samples"]["mask"][:, 0].all()) for one in found]
        bright = [bool(one["inputs"][0, 0, 0] > one["inputs"][0, 0, -1]) for one in found]
        assert left == bright
        assert (not all(left)) == flips


def test_the_map_is_of_layer_eight_of_twelve_and_as_deep_in_smaller_models() -> None:
    assert [usual_layer(layers) for layers in (12, 6, 4, 3, 1)] == [8, 4, 2, 2, 0]


def test_the_network_is_that_of_transformers_and_its_score_is_the_official_one(tokenizer: Any) -> None:
    model = small(tokenizer, soft=0.0).eval()
    images, samples = batch(tokenizer)
    official = BlipForImageTextRetrieval(model.learner.blip.config).eval()
    official.load_state_dict(model.learner.blip.state_dict())
    ids = samples["ids"][0][None]
    wanted = official(input_ids=ids, pixel_values=images[:1]).itm_score
    seen = model.learner.seen(images[:1])
    assert torch.allclose(model.learner.matches(model.learner.read(ids, torch.ones_like(ids), seen)), wanted, atol=1e-5)


def test_all_losses_reach_the_weights_and_the_twin_follows(tokenizer: Any) -> None:
    model = small(tokenizer, soft=0.4, queue=6, momentum=0.5)
    images, samples = batch(tokenizer)
    losses = model(images, samples, mode="loss")
    assert set(losses) == {"loss_itc", "loss_itm", "loss_mlm", "loss_amc"}
    sum(losses.values()).backward()
    without = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not without, "several processes wait for the gradient of each weight"
    assert torch.equal(model.memory.images[:4].norm(dim=1).round(decimals=3), torch.ones(4))
    with torch.no_grad():
        model.learner.blip.itm_head.weight += 1.0
    before = model.memory.twin.blip.itm_head.weight.clone()
    model(images, samples, mode="loss")
    assert torch.allclose(model.memory.twin.blip.itm_head.weight, before + 0.5, atol=1e-5)
    assert int(model.memory.queued) == 8 and int(model.memory.steps) == 2


def test_the_loss_on_the_maps_moves_them_into_the_box(tokenizer: Any) -> None:
    model = small(tokenizer, soft=0.0, weights={"itc": 0, "itm": 0, "mlm": 0})
    images, samples = batch(tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    values = []
    for _ in range(12):
        loss = sum(model(images, samples, mode="loss").values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.5 * values[0]
    maps = model(images, samples, mode="tensor")
    assert maps[:, :2, :2].mean() > 2 * maps[:, 2:, 2:].mean()


def test_pairs_without_boxes_have_no_loss_on_maps(tokenizer: Any) -> None:
    losses = small(tokenizer, soft=0.0)(*batch(tokenizer, boxed=False), mode="loss")
    assert losses["loss_amc"] == 0 and losses["loss_itm"] > 0


def test_frozen_weights_have_maps_too(tokenizer: Any) -> None:
    """The running mean of the weights is frozen, and is what validates."""
    model = small(tokenizer, soft=0.0)
    images, samples = batch(tokenizer)
    wanted = model(images, samples, mode="tensor")
    model.requires_grad_(False)
    with torch.inference_mode():
        found = model(images * 1.0, {"ids": samples["ids"], "phrase": [1, 2, 3, 4]}, mode="predict")
    assert torch.allclose(torch.stack([one["map"] for one in found]), wanted, atol=1e-5)
    assert [one["phrase"] for one in found] == [1, 2, 3, 4]


def test_a_false_pair_is_never_of_the_same_words_or_image() -> None:
    rows, drawn = _drawn(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    assert rows.tolist() == [0, 2] and drawn[0] == 2 and drawn[1] in (0, 1)


def test_hidden_words_are_neither_ends_nor_padding(tokenizer: Any) -> None:
    model = small(tokenizer, soft=0.0)
    ids, tokens = torch.tensor([[2, 9, 8, 3, 0], [2, 7, 9, 8, 3]]), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    for seed in range(20):
        torch.manual_seed(seed)
        shown, wanted = model._hidden(ids, tokens)
        assert wanted.any() and not wanted[:, 0].any() and not wanted[0, 3:].any() and not wanted[1, 4]
        assert (shown == ids)[~wanted].all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": (36, 36)}, "multiples of the patch"),
        ({"attention": {"layer": 3}}, "has 3 layers"),
        ({"attention": {"model": "/nowhere/blip"}}, "no model folder"),
        ({"gradient_checkpointing": True}, "Lower batch_size"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    folder_of(tmp_path)
    with pytest.raises(WinnowError, match=said):
        task(TrainJob(tmp_path, tmp_path, "tiny_blip"), TrainOptions.model_validate({**TINY, **options}))


class Heard:
    """A reporter that keeps what it hears, and asks to stop after some steps."""

    def __init__(self, steps: int = 100) -> None:
        self.lines: list[str] = []
        self.curves: dict[str, float] = {}
        self._left = steps

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.curves |= values

    def progress(self, done: int, total: int) -> None: ...

    def stop_requested(self) -> bool:
        self._left -= 1
        return self._left < 0

    def log(self, text: str) -> None:
        self.lines.append(text)


def test_a_training_from_end_to_end_resumes_and_starts_another(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    extra = {"attention": AttentionOptions(queue=8, soft=0.4).model_dump()}
    job = TrainJob(folder, tmp_path / "work", "tiny_blip", {**TINY, **extra})
    assert train(job, Heard(steps=2))["stopped"]
    heard = Heard()
    result = train(job, heard)
    assert result["iterations"] == 4 and 0 <= result["pointing"] <= 1
    assert {"loss_itc", "loss_itm", "loss_mlm", "loss_amc", "pointing"} <= heard.curves.keys()
    model, _ = load_attending(Path(result["model"]))
    assert model.memory.twin is None, "what only a training needs is not kept"
    asked = [{"id": 1, "image": str(folder / "1.png"), "text": "a red mug"}]
    maps = ask(Path(result["model"]), asked)
    assert maps[0].shape == (4, 4) and maps[0].min() == 0 and maps[0].max() == 1
    more = {**TINY, "iterations": 1, "weights": str(Path(result["model"]) / "model.safetensors")}
    assert train(TrainJob(folder, tmp_path / "more", "tiny_blip", more), heard)["iterations"] == 1
    assert any("started from" in line for line in heard.lines)


@pytest.mark.slow
def test_two_processes_train_it_together(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    attention = AttentionOptions(queue=8, soft=0.4).model_dump()
    options = {**TINY, "attention": attention, "processes": 2}
    heard = Heard(steps=10**6)
    result = train(TrainJob(folder, tmp_path / "work", "tiny_blip", options), heard)
    assert result["iterations"] == 4 and {"loss_itc", "loss_amc", "pointing"} <= heard.curves.keys()


def test_a_public_blip_is_loaded_from_its_folder_and_says_what_it_lacks(tmp_path: Path, tokenizer: Any) -> None:
    """The preset of the public checkpoint, on a tiny one of the same class and layout."""
    model = small(tokenizer, soft=0.0)
    model.learner.blip.save_pretrained(tmp_path / "blip")
    tokenizer.save_pretrained(tmp_path / "blip")
    folder = folder_of(tmp_path)
    options = {**TINY, "iterations": 1, "ema": False, "lr": 1e-9, "attention": {"model": str(tmp_path / "blip")}}
    heard = Heard()
    result = train(TrainJob(folder, tmp_path / "work", "blip_itm_base", options), heard)
    assert any("no MLM loss" in line for line in heard.lines) and "loss_mlm" not in heard.curves
    trained, card = load_attending(Path(result["model"]))
    wanted = model.learner.blip.state_dict()
    assert all(torch.allclose(v, wanted[k], atol=1e-4) for k, v in trained.learner.blip.state_dict().items())
    assert card.tokenizer == str(tmp_path / "blip") and not card.guesses
    assert PRESETS["blip_itm_base"].defaults.attention.model == "Salesforce/blip-itm-base-coco"
    assert model_of(card_of("blip_itm_base", TrainOptions.model_validate(options))).type == "AttentionModel"

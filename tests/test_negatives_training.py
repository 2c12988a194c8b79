"""Enhanced Negatives in training: what the prompt says, which tokens mmdet's heads are taught, and the mean of two
trainings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

from mmdet.models.detectors import GLIP
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from engine.training.averaging import average_weights
from engine.training.negatives import (
    ClassPrompt,
    Description,
    EnhancedNegatives,
    fitting,
    prompt,
    token_length,
    too_long,
)

WORDS = ["red", "blue", "green", "mug", "ball", "plate", "a", "the", "left", "right", "of", "on", "next", "to", "table"]
CAPTION = "a red mug next to the blue ball"
TEXT, IMAGE, PAIR = ({"text": t, "image": i, "pair": p} for t, i, p in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
HEIGHT, WIDTH = 40, 60
BOX = (10.0, 5.0, 30.0, 25.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder of these words, without weights."""
    from transformers import BertConfig, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "##s", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=16).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


@pytest.fixture
def sample(tmp_path: Path) -> dict[str, Any]:
    """A caption with two named boxes, two negatives, and one repainted picture."""
    repainted = np.full((HEIGHT, WIDTH, 3), 9, np.uint8)
    cv2.imwrite(str(tmp_path / "negative.png"), repainted)
    edit = {
        "img_path": str(tmp_path / "negative.png"),
        "box": BOX,
        "positive": "red mug",
        "negative": "green mug",
    }
    return {
        "img": np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        "img_path": "original.png",
        "img_shape": (HEIGHT, WIDTH),
        "ori_shape": (HEIGHT, WIDTH),
        "text": CAPTION,
        "tokens_positive": {0: [[2, 9]], 1: [[22, 31]]},
        "gt_bboxes": np.array([BOX, [35.0, 10.0, 55.0, 30.0]], np.float32),
        "gt_bboxes_labels": np.array([0, 1]),
        "negatives": ["a blue mug", "the red ball on the table"],
        "negative_images": [edit],
    }


def transform(tokenizer: Any, **options: Any) -> EnhancedNegatives:
    return TRANSFORMS.build({"type": "EnhancedNegatives", "tokenizer": tokenizer, **options})


def named(results: dict[str, Any]) -> dict[int, list[str]]:
    """The words that name each label."""
    return {
        label: [results["text"][start:end] for start, end in spans]
        for label, spans in results["tokens_positive"].items()
    }


def positive_map(tokenizer: Any, results: dict[str, Any]) -> Tensor:
    """What GLIP and Grounding DINO make of a sample: boxes x 256 tokens, each row of sum 1."""
    tokenized = tokenizer([results["text"]], return_tensors="pt")
    spans = [results["tokens_positive"][int(label)] for label in results["gt_bboxes_labels"]]
    return GLIP.get_positive_map(None, tokenized, spans)[1]


def taught(tokenizer: Any, results: dict[str, Any]) -> list[list[str]]:
    """The tokens with a target above 0, for each box."""
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(results["text"])["input_ids"])
    return [[tokens[index] for index in row.nonzero().flatten()] for row in positive_map(tokenizer, results)]


def many(sample: dict[str, Any], change: EnhancedNegatives, count: int = 120) -> list[dict[str, Any]]:
    return [change.transform({**sample, "draw": draw}) for draw in range(count)]


# The prompt

words = st.text(st.sampled_from("ab ."), min_size=1, max_size=12).filter(lambda text: text.strip(" ."))


@given(st.lists(st.tuples(words, st.booleans()), min_size=1, max_size=6))
def test_spans_name_the_words_of_their_description(parts: list[tuple[str, bool]]) -> None:
    descriptions = [
        Description.naming(text, label) if positive else Description(text)
        for label, (text, positive) in enumerate(parts)
    ]
    text, spans = prompt(descriptions)
    assert spans.keys() == {label for label, (_, positive) in enumerate(parts) if positive}
    assert text.endswith(".")
    for label, [[start, end]] in spans.items():
        assert text[start:end] == parts[label][0].rstrip(" .")
        assert text[end] == "."


def test_negatives_join_while_the_encoder_has_room(tokenizer: Any) -> None:
    length = token_length(tokenizer)
    positives, negatives = [Description.naming("red mug", 0)], ["blue mug", "green mug", "a ball"]
    assert length(prompt(positives)[0]) == 5  # [CLS] red mug . [SEP]
    assert [len(fitting(positives, negatives, length, limit, "x")) for limit in (5, 7, 8, 11, 14, 99)] == [
        1, 1, 2, 3, 4, 4,
    ]  # fmt: skip
    with pytest.raises(WinnowError, match=r"x.png: the text has 5 tokens, but the text encoder takes 4.*red mug"):
        fitting(positives, negatives, length, 4, "x.png")
    assert too_long(["red mug.", "red mug. blue mug."], length, 5) == [(1, 8)]


# Text


def test_negative_descriptions_join_the_caption_with_target_zero(tokenizer: Any, sample: dict[str, Any]) -> None:
    texts = set()
    for results in many(sample, transform(tokenizer, **TEXT)):
        texts.add(results["text"])
        assert named(results) == {0: ["red mug"], 1: ["blue ball"]}
        assert taught(tokenizer, results) == [["red", "mug"], ["blue", "ball"]]
        assert results["img"] is sample["img"] and len(results["gt_bboxes"]) == 2
    caption, first, second = (f"{part}." for part in (CAPTION, *sample["negatives"]))
    one = {f"{caption} {first}", f"{first} {caption}", f"{caption} {second}", f"{second} {caption}"}
    assert one < texts and len(texts - one) == 6, "one or two negatives, in every order"


def test_words_shared_with_a_negative_are_taught_in_the_positive_only(tokenizer: Any, sample: dict[str, Any]) -> None:
    for results in many({**sample, "negatives": ["a red mug next to the green ball"]}, transform(tokenizer, **TEXT)):
        start = tokenizer(results["text"]).char_to_token(results["text"].index(CAPTION))
        assert positive_map(tokenizer, results)[0].nonzero().flatten().tolist() == [start + 1, start + 2]


def test_a_prompt_never_exceeds_the_encoder(tokenizer: Any, sample: dict[str, Any]) -> None:
    length, seen = token_length(tokenizer), set()
    for results in many(sample, transform(tokenizer, max_tokens=16, **TEXT)):
        seen.add(length(results["text"]))
        assert length(results["text"]) <= 16 and CAPTION in results["text"]
    assert seen == {11, 15}, "the shorter negative fits, the longer one does not"
    with pytest.raises(WinnowError, match=r"original.png: the text has 11 tokens.*takes 8"):
        transform(tokenizer, max_tokens=8, **TEXT).transform(sample)


@settings(max_examples=10, deadline=None)
@given(least=st.integers(1, 3), more=st.integers(0, 2))
def test_each_caption_gets_the_wanted_number_of_negatives(tokenizer: Any, least: int, more: int) -> None:
    sample = {
        "text": "red mug",
        "tokens_positive": {0: [[0, 7]]},
        "negatives": [f"{w} ball" for w in WORDS[:6] if w != "ball"],
    }
    change = transform(tokenizer, per_caption=(least, least + more), **TEXT)
    counts = {results["text"].count("ball") for results in many(sample, change, 60)}
    assert counts == set(range(least, least + more + 1))


# Images


def test_on_a_negative_image_the_negative_is_true_and_the_original_false(
    tokenizer: Any, sample: dict[str, Any]
) -> None:
    texts = set()
    for results in many(sample, transform(tokenizer, **IMAGE)):
        texts.add(results["text"])
        assert (results["img"] == 9).all() and results["img_path"].endswith("negative.png")
        assert named(results) == {0: ["green mug"]}
        assert taught(tokenizer, results) == [["green", "mug"]]
        np.testing.assert_array_equal(results["gt_bboxes"], [BOX])
    assert texts == {"red mug. green mug.", "green mug. red mug."}
    assert sample["text"] == CAPTION and len(sample["gt_bboxes"]) == 2, "the given sample is as it was"


def test_in_a_pair_each_description_is_true_in_its_half(tokenizer: Any, sample: dict[str, Any]) -> None:
    shapes, orders = set(), set()
    for results in many(sample, transform(tokenizer, **PAIR)):
        shapes.add(results["img"].shape[:2])
        assert results["img_shape"] == results["img"].shape[:2]
        assert taught(tokenizer, results) == [["red", "mug"], ["green", "mug"]]
        means = []
        for x1, y1, x2, y2 in results["gt_bboxes"].astype(int):
            assert (x2 - x1, y2 - y1) == (20, 20)
            means.append(results["img"][y1:y2, x1:x2].mean())
        assert means == [0, 9], "the positive is on the original, the negative on the repainted picture"
        orders.add(bool(results["gt_bboxes"][0].sum() < results["gt_bboxes"][1].sum()))
    assert shapes == {(HEIGHT, 2 * WIDTH), (2 * HEIGHT, WIDTH)} and orders == {True, False}


def test_boxes_keep_their_kind(tokenizer: Any, sample: dict[str, Any]) -> None:
    boxed = {**sample, "gt_bboxes": HorizontalBoxes(torch.from_numpy(sample["gt_bboxes"])), "draw": 0}
    results = transform(tokenizer, **IMAGE).transform(boxed)
    assert isinstance(results["gt_bboxes"], HorizontalBoxes)
    assert results["gt_bboxes"].tensor.tolist() == [list(BOX)]


def test_an_unusable_negative_image_is_refused(tokenizer: Any, sample: dict[str, Any], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "negative.png"), np.zeros((HEIGHT, WIDTH - 1, 3), np.uint8))
    with pytest.raises(WinnowError, match=r"negative.png has shape \(40, 59, 3\), its original \(40, 60, 3\)"):
        transform(tokenizer, **IMAGE).transform(sample)
    (tmp_path / "negative.png").unlink()
    with pytest.raises(WinnowError, match=r"negative.png is missing"):
        transform(tokenizer, **PAIR).transform(sample)


# Routes


def test_routes_are_taken_with_their_probabilities(tokenizer: Any, sample: dict[str, Any]) -> None:
    change = transform(tokenizer, text=0.2, image=0.3, pair=0.1, seed=3)
    taken = []
    for results in many(sample, change, 600):
        if results["img"].shape[:2] != (HEIGHT, WIDTH):
            taken.append("pair")
        elif results["img"].any():
            taken.append("image")
        else:
            taken.append("as it was" if results["text"] == f"{CAPTION}." else "text")
    for route, share in {"text": 0.2, "image": 0.3, "pair": 0.1, "as it was": 0.4}.items():
        assert taken.count(route) / 600 == pytest.approx(share, abs=4 * (share * (1 - share) / 600) ** 0.5)


@pytest.mark.parametrize("route", [TEXT, IMAGE, PAIR])
def test_a_sample_without_negatives_stays_as_it_is(tokenizer: Any, sample: dict[str, Any], route: dict) -> None:
    results = transform(tokenizer, **route).transform({**sample, "negatives": [], "negative_images": []})
    assert results["text"] == f"{CAPTION}." and results["img"] is sample["img"]
    assert taught(tokenizer, results) == [["red", "mug"], ["blue", "ball"]]


def test_a_draw_is_the_same_whenever_it_is_made(tokenizer: Any, sample: dict[str, Any]) -> None:
    def texts(seed: int) -> list[str]:
        return [results["text"] for results in many(sample, transform(tokenizer, seed=seed))]

    assert texts(1) == texts(1) != texts(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": 0.6, "image": 0.3, "pair": 0.2}, "at most 1"),
        ({"text": -0.1}, "at most 1"),
        ({"per_caption": (0, 1)}, "1 <= least <= most"),
        ({"per_caption": (3, 2)}, "1 <= least <= most"),
    ],
)
def test_impossible_options_are_refused(tokenizer: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(WinnowError, match=message):
        transform(tokenizer, **options)


# Detection data


def test_detection_samples_get_their_classes_and_absent_ones_as_prompt(tokenizer: Any) -> None:
    names = ["mug", "ball", "plate", "table"]
    change = TRANSFORMS.build({"type": "ClassPrompt", "tokenizer": tokenizer, "names": names, "max_absent": 1})
    sample = {"gt_bboxes_labels": np.array([2, 0, 2]), "img_id": 1}
    texts = set()
    for results in many(sample, change):
        texts.add(results["text"])
        assert taught(tokenizer, results) == [["plate"], ["mug"], ["plate"]]
    assert {len(text.split()) for text in texts} == {3} and len(texts) > 6
    assert any("ball" in text for text in texts) and any("table" in text for text in texts)
    with pytest.raises(WinnowError, match="image 1: the text has 6 tokens"):
        ClassPrompt(tokenizer, names, max_tokens=5).transform(sample)


# What the heads make of it


def truth(tokenizer: Any, sample: dict[str, Any]) -> InstanceData:
    """The boxes of a sample with negatives, as mmdet's detectors hand them to their heads."""
    results = transform(tokenizer, **TEXT).transform({**sample, "draw": 1})
    maps = positive_map(tokenizer, results).bool().float()
    tokens = len(tokenizer(results["text"])["input_ids"])
    return InstanceData(
        bboxes=torch.from_numpy(results["gt_bboxes"]),
        labels=torch.from_numpy(results["gt_bboxes_labels"]),
        positive_maps=maps,
        text_token_mask=(torch.arange(256) < tokens).expand(len(maps), -1),
    )


META = {"img_shape": (HEIGHT, WIDTH)}
FOCAL = {"type": "FocalLoss", "use_sigmoid": True}


def grounding_dino_head() -> Any:
    assigner = {"type": "HungarianAssigner", "match_costs": [{"type": "BinaryFocalLossCost"}, {"type": "BBoxL1Cost"}]}
    config = {"type": "GroundingDINOHead", "num_classes": 256, "embed_dims": 16, "loss_cls": FOCAL}
    return MODELS.build({**config, "train_cfg": {"assigner": assigner}})


def glip_head(folder: Path) -> Any:
    anchors = {"type": "AnchorGenerator", "ratios": [1.0], "scales": [4], "strides": [8]}
    coder = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4}
    train = {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1, "debug": False}
    config = {"type": "ATSSVLFusionHead", "num_dyhead_blocks": 0, "lang_model_name": str(folder), "num_classes": 256}
    sizes = {"in_channels": 16, "feat_channels": 256}
    losses = {"loss_cls": FOCAL, "loss_bbox": {"type": "GIoULoss"}}
    return MODELS.build(
        {**config, **sizes, **losses, "anchor_generator": anchors, "bbox_coder": coder, "train_cfg": train}
    )


def test_grounding_dino_teaches_zero_for_negative_tokens(tokenizer: Any, sample: dict[str, Any]) -> None:
    instances = truth(tokenizer, sample)
    logits, boxes = torch.randn(12, 256), torch.rand(12, 4) * 0.4 + 0.3
    labels, weights, *_, matched, _ = grounding_dino_head()._get_targets_single(logits, boxes, instances, META)
    negative = ~instances.positive_maps.any(0)
    assert len(matched) == 2 and (labels[matched].sum(1) == 2).all()
    assert (labels[:, negative] == 0).all() and (weights == 1).all(), "in the loss, with target 0 for every query"


def test_glip_teaches_zero_for_negative_tokens(tokenizer: Any, folder: Path, sample: dict[str, Any]) -> None:
    instances = truth(tokenizer, sample)
    tokens = int(instances.text_token_mask[0].sum())
    losses, logits = glip_losses(glip_head(folder), instances, tokens)
    assert all(torch.isfinite(value) for value in losses.values())
    negative = ~instances.positive_maps.any(0)[:tokens]
    assert (logits.grad[0, :, :tokens][:, negative] > 0).all(), "descent lowers them everywhere"
    assert (logits.grad[0, :, :tokens][:, ~negative] < 0).any()
    assert (logits.grad[0, :, tokens:] == 0).all(), "what is outside of the prompt does not count"


def test_glip_without_boxes_has_a_finite_loss(tokenizer: Any, folder: Path, sample: dict[str, Any]) -> None:
    losses, logits = glip_losses(glip_head(folder), truth(tokenizer, sample)[:0], 19)
    assert all(torch.isfinite(value) for value in losses.values())
    assert (logits.grad[0, :, :19] > 0).all()


def glip_losses(head: Any, instances: InstanceData, tokens: int) -> tuple[dict[str, Any], Tensor]:
    torch.manual_seed(0)
    rows, columns = HEIGHT // 8, WIDTH // 8
    logits = torch.randn(1, rows * columns, 256).requires_grad_()
    boxes = [torch.randn(1, 4, rows, columns).requires_grad_()]
    head.text_masks = (torch.arange(256) < tokens).long()[None]
    meta = {**META, "pad_shape": (HEIGHT, WIDTH)}
    losses = head.loss_by_feat([logits], boxes, [torch.randn(1, 1, rows, columns)], [instances], [meta])
    sum(losses.values()).backward()
    return losses, logits


# The mean of two trainings


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path, tuple[str, str]]:
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for value, path in zip((1.0, 2.0), paths, strict=True):
        half = torch.full((2,), value, dtype=torch.float16)
        save_file({"w": torch.tensor([value, -value]), "half": half, "steps": torch.tensor(int(value))}, path)
    return *paths, tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.25, 1.25), (0.5, 1.5), (1.0, 2.0)])
def test_weights_are_averaged(runs: Any, tmp_path: Path, share: float, value: float) -> None:
    first, second, digests = runs
    target = tmp_path / "mean.safetensors"
    digest = average_weights(first, second, target, digests=digests, share=share)
    mean = load_file(target)
    assert digest == hashlib.sha256(target.read_bytes()).hexdigest()
    assert mean["w"].tolist() == [value, -value] and mean["half"].tolist() == [value, value]
    assert mean["half"].dtype == torch.float16 and mean["steps"] == 1


def test_weights_that_cannot_be_averaged_are_refused(runs: Any, tmp_path: Path) -> None:
    first, second, digests = runs
    target = tmp_path / "mean.safetensors"
    with pytest.raises(WinnowError, match=r"a.safetensors is not the file that was recorded"):
        average_weights(first, second, target, digests=(digests[1], digests[1]))
    with pytest.raises(WinnowError, match=r"0\.\.1; seen: 1.5"):
        average_weights(first, second, target, digests=digests, share=1.5)
    with pytest.raises(WinnowError, match=r"c.safetensors is missing"):
        average_weights(first, tmp_path / "c.safetensors", target, digests=digests)
    save_file({"w": torch.zeros(3), "half": torch.zeros(2, dtype=torch.float16), "steps": torch.tensor(1)}, second)
    other = hashlib.sha256(second.read_bytes()).hexdigest()
    with pytest.raises(WinnowError, match=r"1 tensors differ.*'w' \(\(\(2,\), .*\(\(3,\)"):
        average_weights(first, second, target, digests=(digests[0], other))
    second.write_bytes(b"no weights at all")
    other = hashlib.sha256(second.read_bytes()).hexdigest()
    with pytest.raises(WinnowError, match=r"b.safetensors is not a safetensors file"):
        average_weights(first, second, target, digests=(digests[0], other))
    assert not target.exists()

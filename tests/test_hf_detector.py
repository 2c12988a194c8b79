"""Zero-shot detectors: tiny random models of the real classes, saved and loaded as real ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertTokenizerFast,
    CLIPTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    SwinConfig,
)

from db.errors import WinnowError
from db.records import Dataset
from db.store import Store
from engine.backends.hf_detector import ZeroShotDetector, _sentence
from engine.packs import Pack, Role, backend
from engine.roles import Context

NAMES = ("red_mug", "ball", "lamp")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def grounding_dino(folder: Path, max_text_len: int = 256) -> Path:
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "red", "mug", "ball", *LETTERS]
    words += [f"##{letter}" for letter in LETTERS]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), vocab={w: i for i, w in enumerate(words)})
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ),
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=7,
        encoder_attention_heads=2, decoder_attention_heads=2, max_text_len=max_text_len,
    )  # fmt: skip
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def owlv2(folder: Path) -> Path:
    folder.mkdir(parents=True)
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizerFast(vocab={word: i for i, word in enumerate(words)}, merges=[])
    end = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config={**small, "vocab_size": len(words), "max_position_embeddings": 64, **end},
        vision_config={**small, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 64, "width": 64}), tokenizer).save_pretrained(folder)
    return folder


MAKERS = {"grounding-dino": grounding_dino, "owlv2": owlv2}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("detector") / "model")


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((48, 80, 3), (90, 60, 3))]


def test_boxes_lie_in_each_image_best_first(folder: Path) -> None:
    detector = ZeroShotDetector(model=str(folder), names=NAMES, device="cpu", least=0.0)
    for image, found in zip(images(), detector.detect(images()), strict=True):
        height, width = image.shape[:2]
        assert len(found) and found.names == NAMES
        assert (found.xyxy >= 0).all() and (found.xyxy <= [width, height, width, height]).all()
        assert (np.diff(found.scores) <= 0).all()
    assert detector.detect([]) == []


def test_what_is_less_sure_is_not_told(folder: Path) -> None:
    everything = ZeroShotDetector(model=str(folder), names=NAMES, device="cpu", least=0.0).detect(images())[0]
    middle = float(np.median(everything.scores))
    some = ZeroShotDetector(model=str(folder), names=NAMES, device="cpu", least=middle).detect(images())[0]
    assert len(some) == (everything.scores >= np.float32(middle)).sum() < len(everything)


def test_classes_are_those_of_the_data_set(folder: Path, store: Store, dataset: Dataset) -> None:
    role = Role(backend="hf_detector", options={"model": str(folder), "device": "cpu"})
    pack = Pack(name="own", title="", summary="", needs="", detector=role)
    assert backend(pack, "detector", Context(store, dataset.id)).names == ("mug", "ball")


def test_many_classes_are_asked_for_in_parts(tmp_path: Path) -> None:
    place = grounding_dino(tmp_path / "short", max_text_len=8)
    many = ("red mug", "ball", "red ball", "mug", "red red")
    found = ZeroShotDetector(model=str(place), names=many, device="cpu", least=0.0).detect(images()[:1])[0]
    assert len(found) > 7 and len(found) % 7 == 0  # each part answers with all queries
    assert set(found.labels.tolist()) <= set(range(5))


def test_phrases_are_looked_for_one_by_one(folder: Path) -> None:
    detector = ZeroShotDetector(model=str(folder), device="cpu", least=0.0)
    one, other = images()
    both, none = detector.find([one, other], [("a red mug", "ball"), ()])
    (alone,) = detector.find([one], [("ball",)])
    of_ball = both[both.labels == 1]
    assert both.names == ("a red mug", "ball") and set(both.labels.tolist()) == {0, 1}
    np.testing.assert_allclose(of_ball.scores, alone.scores, rtol=1e-4)  # what else is asked for changes nothing
    assert len(none) == 0 and none.names == ()


def test_names_stand_where_the_sentence_says() -> None:
    text, spans = _sentence(NAMES, range(1, 3))
    assert text == "ball. lamp." and [text[a:b] for a, b in spans] == ["ball", "lamp"]


def test_what_cannot_be_a_detector_is_said(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "bert"
    BertConfig(hidden_size=16).save_pretrained(other)
    with pytest.raises(WinnowError, match="is a bert; known detectors: grounding-dino"):
        ZeroShotDetector(model=str(other), names=NAMES, device="cpu")
    with pytest.raises(WinnowError, match="no classes"):
        ZeroShotDetector(model=str(folder), device="cpu").detect(images())
    with pytest.raises(WinnowError, match="There is no model folder"):
        ZeroShotDetector(model=str(tmp_path / "nothing"), names=NAMES, device="cpu")
    with pytest.raises(WinnowError, match="0..1"):
        ZeroShotDetector(model=str(folder), names=NAMES, device="cpu", least=2)

"""Captioners: tiny random models of the real classes, saved and loaded as real ones are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from db.errors import WinnowError
from engine.backends.hf_captioner import HFCaptioner
from engine.roles import Captioned, CaptionTask

LETTERS = [*"abcdefghijklmnopqrstuvwxyz.,:?!", "Ġ", "Ċ"]
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def blip(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *LETTERS, "red", "mug", "ball"]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    ends = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config={**SMALL, "vocab_size": len(words), "encoder_hidden_size": 16, **ends},
        vision_config={**SMALL, "image_size": 32, "patch_size": 16},
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


def tokenizer(*special: str) -> Qwen2Tokenizer:
    words = {word: i for i, word in enumerate((*LETTERS, "<|end|>"))}
    made = Qwen2Tokenizer(vocab=words, merges=[], unk_token="<|end|>", eos_token="<|end|>", pad_token="<|end|>")
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def llava(folder: Path) -> None:
    words = tokenizer("<image>")
    text = LlamaConfig(vocab_size=len(words), num_key_value_heads=2, eos_token_id=words.eos_token_id, **SMALL)
    seen = CLIPVisionConfig(image_size=32, patch_size=16, **{**SMALL, "num_hidden_layers": 2})
    config = LlavaConfig(vision_config=seen, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"))
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images, words, patch_size=16, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=CHAT.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)  # fmt: skip


def qwen(folder: Path) -> None:
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    words = tokenizer(*names)
    start, end, image, video = words.convert_tokens_to_ids(list(names))
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    text = {**SMALL, "vocab_size": len(words), "num_key_value_heads": 2, "head_dim": 8, "rope_parameters": rope}
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 8, "out_hidden_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    ids = {"vision_start_token_id": start, "vision_end_token_id": end, "image_token_id": image, "video_token_id": video}
    Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids)).save_pretrained(
        folder
    )
    sizes = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}}
    template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    Qwen3VLProcessor(
        Qwen2VLImageProcessor(**sizes), words, Qwen3VLVideoProcessor(**sizes), chat_template=template
    ).save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {"blip": blip, "llava": llava, "qwen": qwen}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    MAKERS[request.param](made)
    return made


def captioner(folder: Path, **options: Any) -> HFCaptioner:
    return HFCaptioner(model=str(folder), **{"device": "cpu", "max_tokens": 6, **options})


def tasks(*seeds: int) -> list[CaptionTask]:
    rng = np.random.default_rng(0)
    shapes = ((40, 48, 3), (64, 36, 3), (32, 32, 3))
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    instructions = ("describe it.", "what is there, and where?", "name it")
    return [CaptionTask(images[i % 3], instructions[i % 3], seed) for i, seed in enumerate(seeds)]


def said(answers: list[Captioned | str]) -> list[str]:
    return [one.text if isinstance(one, Captioned) else one for one in answers]


def test_a_caption_does_not_depend_on_its_neighbours(folder: Path) -> None:
    looking = captioner(folder, temperature=1.0)
    asked = tasks(1, 2, 3)
    together = said(looking.caption(asked))
    assert together == [said(looking.caption([one]))[0] for one in asked]
    assert looking.caption([]) == []


def test_seeds_draw_other_captions_and_greedy_ones_are_the_same(folder: Path) -> None:
    drawing, greedy = captioner(folder, temperature=1.5), captioner(folder)
    task, other = tasks(1)[0], CaptionTask(tasks(1)[0].image, "describe it.", 99)
    assert said(drawing.caption([task])) == said(drawing.caption([task])) != said(drawing.caption([other]))
    assert said(greedy.caption([task])) == said(greedy.caption([other]))


def test_what_was_asked_is_on_record(folder: Path) -> None:
    (answer,) = captioner(folder, temperature=1.5).caption(tasks(1))
    assert isinstance(answer, Captioned), answer
    assert answer.detail["model"].startswith(str(folder)) and answer.detail["temperature"] == 1.5
    assert ("instruction" in answer.detail) == captioner(folder).chats == (not folder.name.startswith("blip"))


def test_what_cannot_caption_is_said(tmp_path: Path) -> None:
    with pytest.raises(WinnowError, match="There is no model folder"):
        captioner(tmp_path / "nothing")
    with pytest.raises(WinnowError, match="could not be loaded"):
        captioner(tmp_path)
    with pytest.raises(WinnowError, match="temperature at least 0"):
        captioner(tmp_path, temperature=-1)

"""The illustrator on tiny random text-to-image pipelines of the real classes, loaded from folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionGLIGENPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from test_hf_diffusers import SIZE, flux_fill, sdxl, stable_diffusion, vae
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from db.errors import WinnowError
from engine.backends.hf_illustrator import DiffusersIllustrator, drawing_class
from engine.roles import Drawn, DrawTask


def sdxl_drawing() -> Any:
    parts = sdxl().components
    parts["unet"] = type(parts["unet"]).from_config({**parts["unet"].config, "in_channels": 4})
    return StableDiffusionXLPipeline(**{name: parts[name] for name in parts if name != "image_encoder"})


def flux() -> Any:
    parts = flux_fill().components
    config = {**parts["transformer"].config, "in_channels": 16}
    parts["transformer"] = FluxTransformer2DModel.from_config(config)
    return FluxPipeline(**parts)


def z_image() -> Any:
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789 .,<|>_\nĠĊ", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = {letter: number for number, letter in enumerate(dict.fromkeys(letters))}
    tokenizer = Qwen2Tokenizer(vocab=words, merges=[], model_max_length=64)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = Qwen3Model(Qwen3Config(vocab_size=len(tokenizer) + 8, num_key_value_heads=2, head_dim=8, **small))
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=16, axes_dims=[4, 4, 8], axes_lens=[64, 64, 64],
    )  # fmt: skip
    coder: AutoencoderKL = vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)
    scheduler = FlowMatchEulerDiscreteScheduler()
    return ZImagePipeline(
        scheduler=scheduler, vae=coder, text_encoder=text, tokenizer=tokenizer, transformer=transformer
    )


def gligen() -> Any:
    """With open gates: those of a fresh model let nothing of the boxes through."""
    pipe = stable_diffusion(StableDiffusionGLIGENPipeline, in_channels=4, attention_type="gated")
    for name, gate in pipe.unet.named_parameters():
        if name.endswith(("alpha_attn", "alpha_dense")):
            gate.data.fill_(1.0)
    return pipe


MODELS: dict[str, Callable[[], Any]] = {
    "sd": lambda: stable_diffusion(StableDiffusionPipeline, in_channels=4),
    "sdxl": sdxl_drawing,
    "flux": flux,
    "z-image": z_image,
    "gligen": gligen,
    "inpainting": lambda: stable_diffusion(StableDiffusionInpaintPipeline),
}
DRAWING = ("sd", "sdxl", "flux", "z-image")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, build in MODELS.items():
        torch.manual_seed(0)
        found[name] = tmp_path_factory.mktemp(name)
        build().save_pretrained(found[name])
    return found


def made(folders: dict[str, Path], name: str, **options: Any) -> DiffusersIllustrator:
    return DiffusersIllustrator(model=str(folders[name]), **{"device": "cpu", "steps": 2, "size": SIZE, **options})


def pixels(drawn: Drawn | str) -> np.ndarray:
    assert isinstance(drawn, Drawn), drawn
    return drawn.image


@pytest.mark.parametrize("name", DRAWING)
def test_a_seed_gives_an_image_whatever_shares_its_batch(folders: dict[str, Path], name: str) -> None:
    illustrator = made(folders, name, batch_size=2)
    tasks = [DrawTask(prompt=text, seed=seed) for text, seed in (("a red mug", 1), ("a ball", 2), ("a red mug", 3))]
    first, second, third = map(pixels, illustrator.draw(tasks))
    assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.uint8
    alone = pixels(illustrator.draw([tasks[0]])[0])
    assert np.abs(first.astype(int) - alone).max() <= 1  # rounding of the batched products
    assert not np.array_equal(first, third) and not np.array_equal(first, second)


def test_sizes_are_those_asked_for_or_a_sentence(folders: dict[str, Path]) -> None:
    illustrator = made(folders, "sd", size=None)
    assert illustrator.size == (SIZE, SIZE) and not illustrator.heeds_layout
    wide, odd = illustrator.draw([DrawTask("a mug", 1, (64, SIZE)), DrawTask("a mug", 1, (50, 50))])
    assert pixels(wide).shape == (SIZE, 64, 3)
    assert odd == "size 50x50 is no multiple of 4 on both sides"


def test_words_around_the_prompt_and_what_to_avoid_are_on_record(folders: dict[str, Path]) -> None:
    illustrator = made(folders, "sd", prompt_template="a photo of $prompt", negative_prompt="blur")
    plain, avoiding = illustrator.draw([DrawTask("a mug", 1), DrawTask("a mug", 1, avoid="text")])
    assert isinstance(plain, Drawn) and isinstance(avoiding, Drawn)
    assert plain.detail["model_prompt"] == "a photo of a mug" and plain.detail["pipeline"] == "StableDiffusionPipeline"
    assert avoiding.detail["negative_prompt"] == "blur, text"


def test_gligen_draws_what_the_layout_says(folders: dict[str, Path]) -> None:
    illustrator = made(folders, "gligen", size=None, steps=5)  # boxes count in the first third of the steps
    here, there = ((0.0, 0.0, 16.0, 16.0)), ((16.0, 8.0, 32.0, 32.0))
    one, other, none = illustrator.draw(
        [
            DrawTask("a mug", 1, layout=(("a mug", here),)),
            DrawTask("a mug", 1, layout=(("a mug", there),)),
            DrawTask("a mug", 1),
        ]
    )
    assert isinstance(one, Drawn) and one.boxes == (here,) and illustrator.heeds_layout
    assert not np.array_equal(pixels(one), pixels(other))
    assert none == "this model draws from 1 to 30 phrases with boxes, and there are 0"


def test_models_that_cannot_draw_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(WinnowError, match="It is an inpainting model"):
        made(folders, "inpainting")
    with pytest.raises(WinnowError, match="does not draw from words"):
        drawing_class("DDPMPipeline")
    with pytest.raises(WinnowError, match="has no pipeline 'NoPipeline'"):
        drawing_class("NoPipeline")
    assert drawing_class("StableDiffusionXLInpaintPipeline") is StableDiffusionXLPipeline

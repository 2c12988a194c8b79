"""The plain way to use diffusers, which `winnow bench paint` compares with: the pipeline as loaded, one call per task.

It paints the same crops and pastes them the same way, so that the difference is how the model is used and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture

from engine import inpainting
from engine.backends import hf_diffusers, hub
from engine.inpainting import Form, Plan
from engine.roles import PaintTask


class PlainDiffusers:
    """`pipe(prompt, image, mask_image)`, task by task. Progress bars are off, as they are in the painter."""

    def __init__(self, model: str, *, size: int, steps: int, guidance: float | None) -> None:
        device = hub.device_of()
        self._pipe = hf_diffusers.load(hub.locate(model), None, hub.dtype_of("auto", device)).to(device)
        self._size = size
        self._fixed: dict[str, Any] = {"num_inference_steps": steps, "height": size, "width": size}
        self._fixed |= {} if guidance is None else {"guidance_scale": guidance}

    def paint(self, tasks: Sequence[PaintTask]) -> list[np.ndarray]:
        """The whole image of each task with its box repainted."""
        return [self._paint(task, inpainting.plan(task.image.shape, task.xyxy, self._size, Form())) for task in tasks]

    def _paint(self, task: PaintTask, plan: Plan) -> np.ndarray:
        made = self._pipe(
            task.prompt,
            image=Picture.fromarray(plan.crop(task.image)),
            mask_image=Picture.fromarray(plan.hole().astype(np.uint8) * 255),
            generator=torch.Generator().manual_seed(task.seed),
            **self._fixed,
        )
        return plan.paste(task.image, np.asarray(made.images[0]))


def random_model(folder: Path) -> None:
    """Write a Stable Diffusion inpainting pipeline of the pocket painter's size with random weights: 64x64 pixels,
    latents of 16x16, a UNet of six million parameters. It paints noise, in the time of a trained one."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=16,
            sample_size=64,
        )
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=9,
            block_out_channels=(64, 96, 160),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=128,
            norm_num_groups=16,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=128,
                intermediate_size=512,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=32,
                bos_token_id=len(words) - 2,
                eos_token_id=len(words) - 1,
            )
        )
    pipe: Any = StableDiffusionInpaintPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text,
        tokenizer=CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=32),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)

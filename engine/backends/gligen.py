"""GLIGEN (Li et al., 2023): grounded inpainting of all boxes of an image in one pass, and drawing from boxes.

Its pipeline lives on in diffusers' folder of deprecated ones. It takes one image a call, draws part of its noise from
torch's global generator, and marks what to repaint in whole cells of the latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture

from db.errors import WinnowError
from db.records import XYXY

MOST_BOXES = 30  # the pipeline drops the rest
CHANNELS = 9  # latents, masked latents, mask: the UNet of a checkpoint that was trained to inpaint


def native_size(pipe: Any) -> int:
    """The side of its images in pixels. Raises WinnowError for a checkpoint that generates but cannot inpaint."""
    if pipe.unet.config.in_channels != CHANNELS:
        raise WinnowError(
            f"This GLIGEN model cannot inpaint: its UNet takes {pipe.unet.config.in_channels} channels, an inpainting "
            f"one {CHANNELS}. Name an inpainting checkpoint, as masterful/gligen-1-4-inpainting-text-box is."
        )
    return int(pipe.vae.config.sample_size)


def paint_boxes(
    pipe: Any, image: np.ndarray, regions: Sequence[tuple[str, XYXY]], seed: int, **arguments: Any
) -> np.ndarray:
    """The image (native size, uint8) with each region (phrase, box as shares of the sides) repainted: float32, 0..1.

    `arguments` go to the pipeline. The same seed gives the same image, whatever was drawn before.
    """
    cells = native_size(pipe) // pipe.vae_scale_factor
    snapped = [(phrase, _snapped(box, cells)) for phrase, box in regions]
    return _called(pipe, snapped, seed, gligen_inpaint_image=Picture.fromarray(image), **arguments)


def draw_boxes(pipe: Any, regions: Sequence[tuple[str, XYXY]], seed: int, **arguments: Any) -> np.ndarray:
    """A new image in which each region (phrase, box as shares of the sides) shows its phrase: float32, 0..1."""
    return _called(pipe, [(phrase, list(box)) for phrase, box in regions], seed, **arguments)


def _called(pipe: Any, regions: Sequence[tuple[str, list[float]]], seed: int, **arguments: Any) -> np.ndarray:
    device = torch.device(pipe.unet.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        result = pipe(
            gligen_phrases=[phrase for phrase, _ in regions],
            gligen_boxes=[box for _, box in regions],
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
            **arguments,
        )
    return result.images[0]


def _snapped(box: XYXY, cells: int) -> list[float]:
    """The box, widened to whole cells: the pipeline would round its far side down and leave a rim of the old object."""
    low = [max(floor(value * cells), 0) / cells for value in box[:2]]
    high = [min(ceil(value * cells), cells) / cells for value in box[2:]]
    return low + high

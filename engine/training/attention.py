"""Attention mask consistency: a model's own explanation of why a text matches an image should lie in the box of the text.

Source: Yang et al. 2023, "Improving Visual Grounding by Encouraging Consistent Gradient-based Explanations" (AMC), section
3, and its code where the two differ; SynGround (He et al. 2024, section 3) trains with it on synthetic triplets.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MAX_SHARE = 0.8  # of the loss; the rest is the mean term
HALF_SCALE = 1024.0


class Margins(NamedTuple):
    """By how much the mean and the maximum of a map inside of the box should exceed those outside (delta 2, delta 1)."""

    mean: float = 0.1
    max: float = 0.5


PUBLISHED = Margins()


def explanation_maps(
    attention: Tensor, match: Tensor, tokens: Tensor, grid_hw: tuple[int, int], *, differentiable: bool = True
) -> Tensor:
    """Where the model looks to find that each text matches its image: [b,rows,columns] in 0..1 over its patches.

    `attention` [b,heads,tokens,1+patches] is the cross-attention that `match` [b], the logit of a match, was computed
    with; `tokens` [b,tokens] is 1 for tokens that are no padding. The attention times its positive gradient is averaged
    over heads, then over tokens, and stretched to 0..1 (AMC, section 3.1; Grad-CAM on attention, as in ALBEF). A map
    that is the same everywhere becomes 0. With `differentiable`, the maps can be trained.
    """
    # Half precision would lose small gradients; the stretching takes the factor out again.
    score = match.float().sum() * (HALF_SCALE if attention.dtype in (torch.float16, torch.bfloat16) else 1.0)
    (gradient,) = torch.autograd.grad(score, attention, create_graph=differentiable, retain_graph=True)
    weighted = attention.float()[..., 1:] * gradient.float()[..., 1:].clamp(min=0)
    means = (weighted * tokens[:, None, :, None]).mean(1).mean(1)
    return _stretched(means).reshape(-1, *grid_hw)


def _stretched(maps: Tensor) -> Tensor:
    """[b,n] each from its least value to its greatest, as 0..1."""
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    span = high - low
    return (maps - low) / torch.where(span > 0, span, torch.ones_like(span))


def enlarged(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Maps [b,rows,columns] at the size of the image, bilinear: [b,height,width]."""
    return interpolate(maps[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0]


def amc_loss(
    maps: Tensor, masks: Tensor, margins: Margins = PUBLISHED, pool: Literal["batch", "sample"] = "batch"
) -> Tensor:
    """0.8 L_max + 0.2 L_mean of maps [b,h,w] in 0..1 and masks [b,h,w] that are 1 inside of the boxes (AMC, equations 5-7).

    L_mean = max(0, mean_out - mean_in + margins.mean): of all pixels of the batch together, as in AMC's code, or of each
    sample and then averaged. L_max = the mean over samples of max(0, max_out - max_in + margins.max). Mean and maximum of
    nothing are 0. Of no maps at all the loss is 0.
    """
    if not len(maps):
        return maps.sum()
    masks = masks.to(maps.dtype)
    inside, outside = maps * masks, maps * (1 - masks)
    over = (0, 1, 2) if pool == "batch" else (1, 2)
    gap = _mean(outside, 1 - masks, over) - _mean(inside, masks, over)
    mean_term = (gap + margins.mean).clamp(min=0).mean()
    max_term = (outside.amax((1, 2)) - inside.amax((1, 2)) + margins.max).clamp(min=0).mean()
    return MAX_SHARE * max_term + (1 - MAX_SHARE) * mean_term


def _mean(values: Tensor, weights: Tensor, over: tuple[int, ...]) -> Tensor:
    return values.sum(over) / weights.sum(over).clamp(min=1)

"""MMDetection on current PyTorch without a compiler.

mmcv's compiled operators (`mmcv._ext`) do not build against current PyTorch. `install` supplies the ones that detectors
use, on CPU and CUDA alike, from torchvision's operators and plain PyTorch. Call it before anything imports `mmcv.ops`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

NAME = "mmcv._ext"
AVERAGE = 1  # mmcv's code for RoIAlign pooling


class MissingOperator(NotImplementedError):
    """A compiled operator of mmcv that Winnow does not supply."""

    def __init__(self, name: str) -> None:
        known = ", ".join(sorted(OPERATORS))
        super().__init__(
            f"mmcv's operator {name!r} is not supplied by Winnow (it supplies {known}). Choose a model without it, or add it "
            f"to engine/training/mmlab.py with a test against a reference."
        )


def install() -> None:
    """Put the operators where mmcv looks for them, and register MMDetection's modules. Harmless when repeated."""
    if NAME in sys.modules:
        return
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    module = ModuleType(NAME)
    module.__spec__ = ModuleSpec(NAME, None)  # mmengine asks importlib whether it is there
    for name, operator in OPERATORS.items():
        setattr(module, name, operator)
    setattr(module, "__getattr__", _missing)  # noqa: B010  a module's own fallback, looked up on the instance
    sys.modules[NAME] = module
    import mmcv

    mmcv._ext = module
    from mmdet.utils import register_all_modules

    register_all_modules()


def _missing(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise MissingOperator(name)

    return fail


# Boxes


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices kept by greedy non-maximum suppression, best first. `offset` 1 counts pixels: x2 and y2 are inclusive."""
    shifted = boxes.float() + boxes.new_tensor([0.0, 0.0, offset, offset], dtype=torch.float32)
    return torchvision.ops.nms(shifted, scores.float(), float(iou_threshold))


def softnms(
    boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float, min_score: float, method: int, offset: int
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017): overlapping boxes lose score instead of their place. `method` 0 suppresses, 1 decays
    linearly, 2 by a Gaussian. Fills `dets` [n, 5] in the order of choice, returns the indices kept."""
    corners, left = boxes.double().numpy(), scores.double().numpy().copy()
    alive, kept = np.arange(len(left)), []
    while alive.size:
        best = alive[np.argmax(left[alive])]
        dets[len(kept), :4], dets[len(kept), 4] = boxes[best], float(left[best])
        kept.append(int(best))
        alive = alive[alive != best]
        overlap = _iou(corners[best], corners[alive], offset)
        left[alive] *= _decay(overlap, iou_threshold, sigma, method)
        alive = alive[left[alive] >= min_score]
    return torch.tensor(kept, dtype=torch.long)


def _decay(overlap: np.ndarray, threshold: float, sigma: float, method: int) -> np.ndarray:
    if method == 2:
        return np.exp(-(overlap**2) / sigma)
    return np.where(overlap >= threshold, 1 - overlap if method == 1 else 0.0, 1.0)


def _iou(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low + offset, 0, None).prod(1)
    areas = (others[:, 2:] - others[:, :2] + offset).prod(1)
    return shared / ((box[2:] - box[:2] + offset).prod() + areas - shared)


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Fill `ious` with the overlap of each pair ([n, m], or [n] when aligned): over the union, or the first box in mode 1."""
    first, second = (bboxes1, bboxes2) if aligned else (bboxes1[:, None], bboxes2[None])
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low + offset).clamp(min=0).prod(-1)
    area1, area2 = ((box[..., 2:] - box[..., :2] + offset).prod(-1) for box in (first, second))
    whole = area1 if mode == 1 else area1 + area2 - shared
    ious.copy_(shared / whole.clamp(min=torch.finfo(whole.dtype).tiny))


# Regions of interest


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    if pool_mode != AVERAGE:
        raise MissingOperator("roi_align with max pooling")
    size = (aligned_height, aligned_width)
    output.copy_(torch.ops.torchvision.roi_align(input, rois, spatial_scale, *size, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    size, shape = (aligned_height, aligned_width), grad_input.shape
    backward = torch.ops.torchvision._roi_align_backward
    grad_input.copy_(backward(grad_output, rois, spatial_scale, *size, *shape, sampling_ratio, aligned))


def roi_pool_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    values, places = torch.ops.torchvision.roi_pool(input, rois, spatial_scale, pooled_height, pooled_width)
    output.copy_(values)
    argmax.copy_(places)


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    backward = torch.ops.torchvision._roi_pool_backward
    places = argmax.to(torch.int32).contiguous()
    size = (pooled_height, pooled_width)
    grad_input.copy_(backward(grad_output.contiguous(), rois, places, spatial_scale, *size, *grad_input.shape))


# Deformable convolution. mmcv and torchvision agree on the layout of offsets: (y, x) for each tap of the kernel.


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **shape: int
) -> None:
    output.copy_(_convolve(input, weight, offset, None, None, _geometry(shape)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **shape: int,
) -> None:
    grads = _convolve_backward(grad_output, input, weight, offset, None, _geometry(shape))
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor, offset: Tensor, grad_output: Tensor, grad_weight: Tensor, columns: Tensor, ones: Tensor, scale: float, **shape: int
) -> None:
    grads = _convolve_backward(grad_output, input, grad_weight, offset, None, _geometry(shape))
    grad_weight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **shape: int,
) -> None:
    output.copy_(_convolve(input, weight, offset, mask, bias if with_bias else None, _geometry(shape)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **shape: int,
) -> None:
    grads = _convolve_backward(grad_output, input, weight, offset, mask, _geometry(shape))
    targets = (grad_input, grad_weight, grad_offset, grad_mask)
    for target, value in zip(targets, grads, strict=False):
        target.copy_(value)
    if with_bias:
        grad_bias.copy_(grads[4])


Geometry = tuple[int, int, int, int, int, int, int, int]


def _geometry(shape: dict[str, int]) -> Geometry:
    """Stride, padding, dilation (each height, width), groups and offset groups, from either naming of mmcv's."""
    if "dH" in shape:
        names = ("dH", "dW", "padH", "padW", "dilationH", "dilationW")
    else:
        names = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")
    sh, sw, ph, pw, dh, dw = (shape[name] for name in names)
    return (sh, sw, ph, pw, dh, dw, shape["group"], shape["deformable_group"])


def _convolve(input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, dilation = geometry[:2], geometry[2:4], geometry[4:6]
    return torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


def _convolve_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias."""
    modulation = input.new_zeros((input.shape[0], 1)) if mask is None else mask
    bias = input.new_zeros(weight.shape[0])
    backward = torch.ops.torchvision._deform_conv2d_backward
    return backward(grad_output.contiguous(), input, weight, offset, modulation, bias, *geometry, mask is not None)


# Attention and losses


def ms_deform_attn_forward(
    value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, locations: Tensor, weights: Tensor, im2col_step: int
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al. 2021). value [b, keys, heads, c], locations [b, q, heads, levels, points, 2]
    in [0, 1], weights [b, q, heads, levels, points]; returns [b, q, heads * c]."""
    b, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    sizes = [(int(h), int(w)) for h, w in spatial_shapes]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    sampled = []
    for level, ((h, w), part) in enumerate(zip(sizes, value.split([h * w for h, w in sizes], 1), strict=True)):
        features = part.permute(0, 2, 3, 1).reshape(b * heads, channels, h, w)
        grid = grids[:, :, level]
        sampled.append(torch.nn.functional.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    shares = weights.transpose(1, 2).reshape(b * heads, 1, queries, levels * points)
    mixed = (torch.stack(sampled, -2).flatten(-2) * shares).sum(-1)
    return mixed.view(b, heads * channels, queries).transpose(1, 2).contiguous()


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    locations: Tensor,
    weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_locations: Tensor,
    grad_weights: Tensor,
    im2col_step: int,
) -> None:
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
        out = ms_deform_attn_forward(inputs[0], spatial_shapes, level_start_index, inputs[1], inputs[2], im2col_step)
        grads = torch.autograd.grad(out, inputs, grad_output)
    for target, grad in zip((grad_value, grad_locations, grad_weights), grads, strict=True):
        target.copy_(grad)


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float) -> None:
    """Focal loss (Lin et al. 2017, eq. 5) of every logit [n, classes]; `target` [n] is a class, or `classes` for background."""
    positive, p = _one_hot(input, target), input.sigmoid()
    log_p, log_q = torch.nn.functional.logsigmoid(input), torch.nn.functional.logsigmoid(-input)
    loss = torch.where(positive, -alpha * (1 - p) ** gamma * log_p, -(1 - alpha) * p**gamma * log_q)
    output.copy_(_weighted(loss, target, weight))


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float) -> None:
    positive, p = _one_hot(input, target), input.sigmoid()
    log_p, log_q = torch.nn.functional.logsigmoid(input), torch.nn.functional.logsigmoid(-input)
    toward = alpha * (1 - p) ** gamma * (gamma * p * log_p - (1 - p))
    away = (1 - alpha) * p**gamma * (p - gamma * (1 - p) * log_q)
    grad_input.copy_(_weighted(torch.where(positive, toward, away), target, weight))


def _one_hot(input: Tensor, target: Tensor) -> Tensor:
    return target[:, None] == torch.arange(input.shape[1], device=input.device)


def _weighted(values: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return values * weight[target][:, None] if weight.numel() else values


OPERATORS: dict[str, Callable[..., Any]] = {
    operator.__name__: operator
    for operator in (
        nms,
        softnms,
        bbox_overlaps,
        roi_align_forward,
        roi_align_backward,
        roi_pool_forward,
        roi_pool_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
        ms_deform_attn_forward,
        ms_deform_attn_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
    )
}

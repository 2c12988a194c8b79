"""mmcv's compiled operators, from torchvision and plain torch: the same names, arguments and in-place results.

Each function follows the calling convention of `mmcv.ops`: results are written into the tensors passed for them, sizes
come as keywords, scratch buffers (`columns`, `ones`) and step sizes are accepted and not needed. The code is the same for
CPU and CUDA tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

# Boxes


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes [n,4] that survive, best score first; `offset` 1 counts the last pixel as inside the box."""
    grown = boxes.float() + boxes.new_tensor([0, 0, offset, offset]).float()
    return torchvision.ops.nms(grown, scores.float(), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017, algorithm 1): indices in the order of picking; rows (box, lowered score) go into
    `dets` [n,5].

    `method` is 0 for hard suppression, 1 for linear and 2 for Gaussian decay.
    """
    scores = scores.clone()
    left = torch.arange(len(boxes), device=boxes.device)
    kept: list[int] = []
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(kept), :4], dets[len(kept), 4] = boxes[best], scores[best]
        kept.append(int(best))
        left = left[left != best]
        iou = _overlap(boxes[best][None], boxes[left], 0, offset)[0]
        scores[left] *= _decay(iou, iou_threshold, sigma, method)
        left = left[scores[left] >= min_score]
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


def _decay(iou: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == 2:
        return torch.exp(-(iou**2) / sigma)
    beyond = torch.zeros_like(iou) if method == 0 else 1 - iou
    return torch.where(iou >= iou_threshold, beyond, torch.ones_like(iou))


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of row indices of `dets` [n,5]: a surviving box followed by those it suppressed, in order of score."""
    iou = _overlap(dets[:, :4], dets[:, :4], 0, 0)
    left = dets[:, 4].argsort(descending=True)
    groups = []
    while len(left):
        joins = iou[left[0], left] >= iou_threshold
        joins[0] = True  # a box without area overlaps nothing, not even itself
        groups.append(left[joins].tolist())
        left = left[~joins]
    return groups


def bbox_overlaps(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Writes overlaps into `ious`: [n] for aligned pairs, else [n,m]; `mode` 0 divides by the union, 1 by the area of
    the first."""
    if aligned:
        ious.copy_(_overlap(boxes1[:, None], boxes2[:, None], mode, offset)[:, 0, 0])
    else:
        ious.copy_(_overlap(boxes1, boxes2, mode, offset))


def _overlap(boxes1: Tensor, boxes2: Tensor, mode: int, offset: int) -> Tensor:
    """[..., n,4] x [..., m,4] -> [..., n,m]; pairs without any area overlap by 0."""
    low = torch.maximum(boxes1[..., :, None, :2], boxes2[..., None, :, :2])
    high = torch.minimum(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:])
    inside = (high - low + offset).clamp(min=0).prod(-1)
    area1, area2 = (((b[..., 2:] - b[..., :2]) + offset).prod(-1) for b in (boxes1, boxes2))
    base = area1[..., :, None].expand_as(inside) if mode == 1 else area1[..., :, None] + area2[..., None, :] - inside
    return torch.where(base > 0, inside / base, torch.zeros_like(inside))


# Regions


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
    """Pools `rois` [n,5] (image, x1, y1, x2, y2) of `input` [b,c,h,w] into `output` [n,c,ah,aw]; `pool_mode` 0 max, 1
    average."""
    size = (aligned_height, aligned_width)
    if pool_mode == 1:
        output.copy_(torchvision.ops.roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned))
        return
    for index, roi in enumerate(rois):
        ys, xs = _sampling_points(roi[1:], size, spatial_scale, sampling_ratio, aligned)
        values = _lerp(ys.flatten(), input.shape[2]) @ input[int(roi[0])] @ _lerp(xs.flatten(), input.shape[3]).T
        bins = values.unflatten(1, ys.shape).unflatten(3, xs.shape).transpose(2, 3).flatten(3)
        output[index], best = bins.max(3)
        rows, columns = torch.arange(size[0]).to(best)[:, None], torch.arange(size[1]).to(best)
        argmax_y[index] = ys[rows, best // xs.shape[1]]
        argmax_x[index] = xs[columns, best % xs.shape[1]]


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
    """Adds to `grad_input` [b,c,h,w] what `roi_align_forward` passes back."""
    size = (aligned_height, aligned_width)
    if pool_mode == 1:
        grad_input += torch.ops.torchvision._roi_align_backward(
            grad_output, rois, spatial_scale, *size, *grad_input.shape, sampling_ratio, aligned
        )
        return
    for index, roi in enumerate(rois):
        down = _lerp(argmax_y[index], grad_input.shape[2])
        across = _lerp(argmax_x[index], grad_input.shape[3])
        grad_input[int(roi[0])] += torch.einsum("cij,cijh,cijw->chw", grad_output[index], down, across)


def _sampling_points(
    roi: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """Sampled y [bins, points] and x [bins, points] of one region on the feature map (He et al. 2017, section 3)."""
    start, end = roi.view(2, 2).mul(scale).sub(0.5 if aligned else 0.0).flip(1)
    extent = end - start if aligned else (end - start).clamp(min=1)
    points = []
    for axis in (0, 1):
        step = extent[axis] / size[axis]
        count = ratio if ratio > 0 else max(1, int(step.ceil()))
        within = (torch.arange(count).to(roi) + 0.5) / count
        points.append(start[axis] + step * (torch.arange(size[axis]).to(roi)[:, None] + within))
    return points[0], points[1]


def _lerp(points: Tensor, size: int) -> Tensor:
    """[...] coordinates -> [..., size] weights of linear interpolation; more than one cell outside weighs nothing."""
    inside = (points >= -1) & (points <= size)
    weights = 1 - (points.clamp(0, size - 1)[..., None] - torch.arange(size, device=points.device)).abs()
    return weights.clamp(min=0).to(points) * inside[..., None]


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Max pooling of `rois` [n,5] into `output` [n,c,ph,pw]; `argmax` gets flat positions on the map, -1 for empty
    bins."""
    height, width = input.shape[2:]
    for index, roi in enumerate(rois):
        x1, y1, x2, y2 = (
            roi[1:] + roi.new_tensor([0, 0, 1, 1])
        ) * spatial_scale  # the last pixel belongs to the region
        rows, columns = _bins(y1, y2, pooled_height, height), _bins(x1, x2, pooled_width, width)
        image = input[int(roi[0])]
        across, x = image[:, None].masked_fill(~columns[:, None], -torch.inf).max(3)
        best, y = across[:, None].masked_fill(~rows[:, None], -torch.inf).max(3)
        x = x.gather(2, y.permute(0, 2, 1)).permute(0, 2, 1)
        empty = best == -torch.inf
        output[index] = best.masked_fill(empty, 0)
        argmax[index] = (y * width + x).masked_fill(empty, -1)


def _bins(start: Tensor, end: Tensor, count: int, size: int) -> Tensor:
    """Which of `size` cells belong to each of `count` bins between two coordinates, [count, size]."""
    edges = torch.arange(count + 1).to(start) * ((end - start) / count) + start
    cells = torch.arange(size, device=start.device)
    return (cells >= edges[:-1, None].floor()) & (cells < edges[1:, None].ceil())


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds to `grad_input` [b,c,h,w] the gradient of each bin at the cell that was its maximum."""
    for index, roi in enumerate(rois):
        where, grad = argmax[index].long().flatten(1), grad_output[index].flatten(1)
        grad_input[int(roi[0])].flatten(1).scatter_add_(1, where.clamp(min=0), grad * (where >= 0))


# Deformable convolution and attention


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (Dai et al. 2017) into `output`; `offset` [b, 2*dg*kh*kw, ho, wo] holds (dy, dx) pairs."""
    output.copy_(
        torchvision.ops.deform_conv2d(input, offset, weight, None, (dH, dW), (padH, padW), (dilationH, dilationW))
    )


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    *,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Adds the gradients of input and offset."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _deform_gradients(grad_output, input, weight, offset, None, geometry)
    grad_input += grads[0]
    grad_offset += grads[2]


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds the gradient of the weight, times `scale`."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grad_weight += scale * _deform_gradients(grad_output, input, grad_weight, offset, None, geometry)[1]


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Deformable convolution with a weight per sample (Zhu et al. 2019), `mask` [b, dg*kh*kw, ho, wo], into
    `output`."""
    used = bias if with_bias else None
    stride, padding, dilation = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    size = output.shape[2:]
    offset, mask = _cut(offset, size), _cut(mask, size)
    output.copy_(torchvision.ops.deform_conv2d(input, offset, weight, used, stride, padding, dilation, mask))


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
    *,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Adds the gradients of input, weight, offset, mask and, if there is one, bias."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    size = grad_output.shape[2:]
    offset, mask = _cut(offset, size), _cut(mask, size)
    grads = _deform_gradients(grad_output, input, weight, offset, mask, geometry)
    totals = (grad_input, grad_weight, _cut(grad_offset, size), _cut(grad_mask, size))
    for total, part in zip(totals, grads, strict=False):
        total += part
    if with_bias:
        grad_bias += grads[4]


def _cut(values: Tensor, size: torch.Size) -> Tensor:
    """A view of [b, c, h, w] as [b, c, *size], from the first number of each sample on.

    DyHead passes offsets of a larger map, as mmcv's kernels allow: they take the place of a number by the size of the
    output. Trained weights rely on that.
    """
    if values.shape[2:] == size:
        return values
    channels = values.shape[1]
    return values.flatten(1)[:, : channels * size.numel()].view(len(values), channels, *size)


def _deform_gradients(
    grad: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, geometry: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Gradients of (input, weight, offset, mask, bias). The values of `weight` matter to all but its own gradient."""
    shift = input.new_zeros(len(weight))
    factor = input.new_zeros(1, 1) if mask is None else mask
    return torch.ops.torchvision._deform_conv2d_backward(
        grad, input, weight, offset, factor, shift, *geometry, mask is not None
    )


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al. 2021, equation 3): [b, queries, heads * channels].

    `value` [b, keys, heads, channels] holds all levels one after another, `sampling_locations` [b, queries, heads,
    levels,
    points, 2] are (x, y) in 0..1 of each level, `attention_weights` lack the last axis.
    """
    batch, _, heads, channels = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    result = value.new_zeros(batch * heads, channels, queries)
    starts = value_level_start_index.tolist()
    for level, (height, width) in enumerate(value_spatial_shapes.tolist()):
        keys = value[:, starts[level] : starts[level] + height * width]
        image = keys.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = (2 * sampling_locations[:, :, :, level] - 1).transpose(1, 2).reshape(batch * heads, queries, points, 2)
        sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weights = attention_weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        result = result + (sampled * weights).sum(-1)
    return result.view(batch, heads * channels, queries).transpose(1, 2).contiguous()


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Adds the gradients of value, locations and weights, by running the forward again under autograd."""
    leaves = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(
            leaves[0], value_spatial_shapes, value_level_start_index, leaves[1], leaves[2], im2col_step
        )
    parts = torch.autograd.grad(output, leaves, grad_output)
    for total, part in zip((grad_value, grad_sampling_loc, grad_attn_weight), parts, strict=True):
        total += part


# Losses


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (Lin et al. 2017, equation 5) of logits [n,c] into `output` [n,c]; a target of `c` means background.

    `weight` [c] or empty scales a row by the weight of its target; background has none, so the two do not go together.
    """
    hit = _one_hot(target, input.shape[1])
    log_p, log_q = F.logsigmoid(input), F.logsigmoid(-input)
    loss = torch.where(hit, -alpha * log_q.exp() ** gamma * log_p, -(1 - alpha) * log_p.exp() ** gamma * log_q)
    output.copy_(loss * _row_weight(weight, target)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the derivative of `sigmoid_focal_loss_forward` by each logit into `grad_input` [n,c]."""
    hit = _one_hot(target, input.shape[1])
    log_p, log_q = F.logsigmoid(input), F.logsigmoid(-input)
    p, q = log_p.exp(), log_q.exp()
    slope = torch.where(
        hit, alpha * q**gamma * (gamma * p * log_p - q), (1 - alpha) * p**gamma * (p - gamma * q * log_q)
    )
    grad_input.copy_(slope * _row_weight(weight, target)[:, None])


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of softmax probabilities [n,c] into `output` [n]; rows with a negative target cost nothing."""
    p, counts = _target_probability(input, target)
    output.copy_(-alpha * (1 - p) ** gamma * p.log() * counts * _row_weight(weight, target.clamp(min=0)))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the derivative of `softmax_focal_loss_forward` by each logit (before the softmax) into `grad_input`
    [n,c]."""
    p, counts = _target_probability(input, target)
    rest = 1 - p
    pull = alpha * (gamma * rest ** (gamma - 1) * p * p.log() - rest**gamma) if gamma else -alpha * torch.ones_like(p)
    buff.copy_(pull * counts * _row_weight(weight, target.clamp(min=0)))
    grad_input.copy_(buff[:, None] * (_one_hot(target, input.shape[1]).to(input) - input))


def _one_hot(target: Tensor, classes: int) -> Tensor:
    return target[:, None] == torch.arange(classes, device=target.device)


def _row_weight(weight: Tensor, target: Tensor) -> Tensor:
    return weight[target] if weight.numel() else torch.ones(len(target), dtype=weight.dtype, device=target.device)


def _target_probability(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(probability of the target, 1 where there is a target else 0), both [n]."""
    p = softmax.gather(1, target.clamp(min=0)[:, None])[:, 0]
    return p.clamp(min=torch.finfo(p.dtype).tiny), (target >= 0).to(p)


def get_compiler_version() -> str:
    """What mmcv prints about the compiler of its operators."""
    return "none: operators supplied by Winnow"


def get_compiling_cuda_version() -> str:
    """What mmcv prints about the CUDA version of its operators: that of torch, or 'not available'."""
    return torch.version.cuda or "not available"


OPERATORS: dict[str, Callable] = {
    function.__name__: function
    for function in (
        nms,
        softnms,
        nms_match,
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
        softmax_focal_loss_forward,
        softmax_focal_loss_backward,
        get_compiler_version,
        get_compiling_cuda_version,
    )
}

"""mmcv's operators against plain loops, gradients included; mmdet's language model and mmengine's loading on today's
libraries."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

from mmcv import ops
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.runner.checkpoint import CheckpointLoader


def random_boxes(seed: int, count: int, extent: float = 40.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    corner, size = (torch.rand(count, 2, generator=rng) * extent for _ in range(2))
    return torch.cat([corner, corner + size + 1], 1)


def iou(a: Tensor, b: Tensor, offset: int = 0, first_only: bool = False) -> float:
    ax1, ay1, ax2, ay2 = a.tolist()
    bx1, by1, bx2, by2 = b.tolist()
    shared = max(0.0, min(ax2, bx2) - max(ax1, bx1) + offset) * max(0.0, min(ay2, by2) - max(ay1, by1) + offset)
    area_a = (ax2 - ax1 + offset) * (ay2 - ay1 + offset)
    area_b = (bx2 - bx1 + offset) * (by2 - by1 + offset)
    return shared / (area_a if first_only else area_a + area_b - shared)


def same_gradients(ours: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Equal results, and equal gradients of a random weighting of them by every input."""
    results = []
    for function in (ours, reference):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        out = function(*leaves)
        weights = torch.rand(out.shape, generator=torch.Generator().manual_seed(7), dtype=out.dtype)
        results.append((out, *torch.autograd.grad((out * weights).sum(), leaves)))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    assert all(result.abs().sum() > 0 for result in results[0]), "the comparison must not be of zeros"


# Boxes


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 25), st.sampled_from([0, 1]), st.floats(0.1, 0.9))
def test_nms_keeps_what_no_better_box_covers(seed: int, count: int, offset: int, threshold: float) -> None:
    boxes, scores = random_boxes(seed, count), torch.rand(count, generator=torch.Generator().manual_seed(seed + 1))
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(iou(boxes[index], boxes[other], offset) <= threshold for other in kept):
            kept.append(index)
    found, indices = ops.nms(boxes, scores, threshold, offset=offset)
    assert indices.tolist() == kept
    torch.testing.assert_close(found, torch.cat([boxes, scores[:, None]], 1)[kept])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 20),
    st.sampled_from(["naive", "linear", "gaussian"]),
    st.sampled_from([0, 1]),
)
def test_soft_nms_lowers_scores_of_covered_boxes(seed: int, count: int, method: str, offset: int) -> None:
    boxes, scores = random_boxes(seed, count), torch.rand(count, generator=torch.Generator().manual_seed(seed + 1))
    left, expected = dict(enumerate(scores.tolist())), []
    while left:
        best = max(left, key=lambda index: left[index])
        expected.append((best, left.pop(best)))
        for other in list(left):
            overlap = iou(boxes[best], boxes[other], offset)
            decay = {"naive": 0.0, "linear": 1 - overlap}.get(method, math.exp(-(overlap**2) / 0.5))
            left[other] *= decay if method == "gaussian" or overlap >= 0.3 else 1.0
            if left[other] < 0.05:
                del left[other]
    found, indices = ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    assert indices.tolist() == [index for index, _ in expected]
    torch.testing.assert_close(found[:, 4], torch.tensor([score for _, score in expected]))
    torch.testing.assert_close(found[:, :4], boxes[indices])


@pytest.mark.parametrize("seed", range(4))
def test_nms_match_groups_boxes_under_the_one_that_covers_them(seed: int) -> None:
    boxes, scores = random_boxes(seed, 20), torch.rand(20, generator=torch.Generator().manual_seed(seed))
    left, expected = scores.argsort(descending=True).tolist(), []
    while left:
        group = [left[0]] + [index for index in left[1:] if iou(boxes[left[0]], boxes[index]) >= 0.3]
        expected.append(group)
        left = [index for index in left if index not in group]
    groups = ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.3)
    assert [group.tolist() for group in groups] == expected
    assert any(len(group) > 1 for group in expected)


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_bbox_overlaps(mode: str, offset: int) -> None:
    a, b = random_boxes(1, 6), random_boxes(2, 6)
    expected = torch.tensor([[iou(x, y, offset, mode == "iof") for y in b] for x in a])
    torch.testing.assert_close(ops.bbox_overlaps(a, b, mode, offset=offset), expected)
    torch.testing.assert_close(ops.bbox_overlaps(a, b, mode, aligned=True, offset=offset), expected.diagonal())


def test_overlap_of_boxes_without_area_is_zero() -> None:
    flat = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert ops.bbox_overlaps(flat, flat).item() == 0


# Regions


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """RoIAlign's rule: clamped within one cell of the border, zero beyond."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = image[:, top, left] * (1 - dx) + image[:, top, right] * dx
    lower = image[:, bottom, left] * (1 - dx) + image[:, bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def plain_roi_align(
    input: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, mode: str, aligned: bool
) -> Tensor:
    out = []
    for roi in rois.tolist():
        x1, y1, x2, y2 = (value * scale - (0.5 if aligned else 0.0) for value in roi[1:])
        height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1.0), max(x2 - x1, 1.0))
        for i in range(size[0]):
            for j in range(size[1]):
                rows, columns = ratio or math.ceil(height / size[0]), ratio or math.ceil(width / size[1])
                samples = [
                    bilinear(
                        input[int(roi[0])],
                        y1 + (i + (p + 0.5) / rows) * height / size[0],
                        x1 + (j + (q + 0.5) / columns) * width / size[1],
                    )
                    for p in range(rows)
                    for q in range(columns)
                ]
                stacked = torch.stack(samples)
                out.append(stacked.mean(0) if mode == "avg" else stacked.max(0).values)
    return torch.stack(out).view(len(rois), *size, input.shape[1]).permute(0, 3, 1, 2)


ROIS = torch.tensor(
    [[0, 1.3, 2.2, 13.7, 11.1], [1, -3.0, 0.4, 9.6, 17.0], [0, 6.1, 6.2, 6.9, 7.4]], dtype=torch.float64
)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("size", "ratio"), [((2, 3), 2), ((3, 2), 0), ((1, 1), 1)])
def test_roi_align(mode: str, aligned: bool, size: tuple[int, int], ratio: int) -> None:
    input = torch.randn(2, 3, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same_gradients(
        lambda x: ops.roi_align(x, ROIS, size, 0.5, ratio, mode, aligned),
        lambda x: plain_roi_align(x, ROIS, size, 0.5, ratio, mode, aligned),
        [input],
    )


def plain_roi_pool(input: Tensor, rois: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    out = []
    for roi in rois.tolist():
        x1, y1, x2, y2 = roi[1] * scale, roi[2] * scale, (roi[3] + 1) * scale, (roi[4] + 1) * scale
        for i in range(size[0]):
            for j in range(size[1]):
                top, bottom = math.floor(y1 + i * (y2 - y1) / size[0]), math.ceil(y1 + (i + 1) * (y2 - y1) / size[0])
                left, right = math.floor(x1 + j * (x2 - x1) / size[1]), math.ceil(x1 + (j + 1) * (x2 - x1) / size[1])
                cells = input[int(roi[0]), :, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)].flatten(1)
                out.append(cells.max(1).values if cells.numel() else input.new_zeros(input.shape[1]))
    return torch.stack(out).view(len(rois), *size, input.shape[1]).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(2, 3), (3, 3)])
def test_roi_pool(size: tuple[int, int]) -> None:
    input = torch.randn(2, 3, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rois = torch.cat([ROIS, torch.tensor([[1, 30.0, 30.0, 40.0, 40.0]], dtype=torch.float64)])  # the last lies outside
    same_gradients(lambda x: ops.roi_pool(x, rois, size, 0.5), lambda x: plain_roi_pool(x, rois, size, 0.5), [input])


# Deformable convolution and attention


def sample_or_zero(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear sample of [c,h,w]; neighbours outside count as zero."""
    height, width = image.shape[1:]
    top, left = math.floor(y.item()), math.floor(x.item())
    value = image.new_zeros(len(image))
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                value = value + image[:, row, column] * weight_y * weight_x
    return value


def plain_deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: int,
    pad: int,
    dilation: int,
    groups: int,
    deform_groups: int,
) -> Tensor:
    batch, _, height, width = offset.shape
    outs, per_group, rows, columns = weight.shape
    result = []
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                taps = []
                for tap in range(rows * columns):
                    parts = []
                    for group, part in enumerate(input[b].chunk(deform_groups)):
                        at = group * rows * columns + tap
                        y = i * stride - pad + (tap // columns) * dilation + offset[b, 2 * at, i, j]
                        x = j * stride - pad + (tap % columns) * dilation + offset[b, 2 * at + 1, i, j]
                        value = sample_or_zero(part, y, x)
                        parts.append(value if mask is None else value * mask[b, at, i, j])
                    taps.append(torch.cat(parts))
                patch = torch.stack(taps, 1).view(groups, per_group, rows * columns)
                kernel = weight.view(groups, outs // groups, per_group, rows * columns)
                out = torch.einsum("gck,gock->go", patch, kernel).flatten()
                result.append(out if bias is None else out + bias)
    return torch.stack(result).view(batch, height, width, outs).permute(0, 3, 1, 2)


CONVOLUTIONS = [  # input size, kernel, stride, pad, dilation, groups, offset groups
    ((5, 4), (3, 3), 1, 1, 1, 1, 1),
    ((6, 5), (3, 2), 2, 1, 1, 2, 2),
    ((7, 7), (2, 2), 1, 0, 2, 1, 4),
]


@pytest.mark.parametrize("geometry", CONVOLUTIONS)
@pytest.mark.parametrize("kind", ["plain", "modulated", "modulated with bias"])
def test_deformable_convolution(geometry: tuple[Any, ...], kind: str) -> None:
    size, kernel, stride, pad, dilation, groups, deform_groups = geometry
    rng = torch.Generator().manual_seed(3)
    out = [(n + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(size, kernel, strict=True)]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=rng)

    taps = deform_groups * kernel[0] * kernel[1]
    inputs = [normal(2, 4, *size), normal(2, 2 * taps, *out), normal(6, 4 // groups, *kernel)]
    same = (stride, pad, dilation, groups, deform_groups)
    if kind == "plain":
        same_gradients(
            lambda x, o, w: ops.deform_conv2d(x, o, w, *same),
            lambda x, o, w: plain_deform_conv(x, o, w, None, None, *same),
            inputs,
        )
        return
    inputs += [torch.rand(2, taps, *out, dtype=torch.float64, generator=rng)] + ([normal(6)] if "bias" in kind else [])
    same_gradients(
        lambda x, o, w, m, b=None: ops.modulated_deform_conv2d(x, o, m, w, b, *same),
        lambda x, o, w, m, b=None: plain_deform_conv(x, o, w, m, b, *same),
        inputs,
    )


@pytest.mark.parametrize(("levels", "heads", "channels"), [([(4, 5)], 1, 3), ([(4, 3), (2, 2), (1, 3)], 2, 2)])
def test_multi_scale_deformable_attention(levels: list[tuple[int, int]], heads: int, channels: int) -> None:
    rng = torch.Generator().manual_seed(5)
    shapes = torch.tensor(levels)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), shapes.prod(1).cumsum(0)[:-1]])
    batch, queries, points = 2, 3, 2
    shape = (batch, queries, heads, len(levels), points)
    value = torch.randn(batch, int(shapes.prod(1).sum()), heads, channels, dtype=torch.float64, generator=rng)
    locations = torch.rand(*shape, 2, dtype=torch.float64, generator=rng) * 1.4 - 0.2  # some outside
    weights = torch.rand(*shape, dtype=torch.float64, generator=rng)

    def plain(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        result = []
        for b in range(batch):
            for q in range(queries):
                for h in range(heads):
                    total = value.new_zeros(channels)
                    for level, (rows, columns) in enumerate(levels):
                        cells = value[b, starts[level] : starts[level] + rows * columns, h]
                        image = cells.T.view(channels, rows, columns)
                        for p in range(points):
                            x, y = locations[b, q, h, level, p]
                            total = total + weights[b, q, h, level, p] * sample_or_zero(
                                image, y * rows - 0.5, x * columns - 0.5
                            )
                    result.append(total)
        return torch.stack(result).view(batch, queries, heads * channels)

    attention = ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply
    same_gradients(lambda v, x, w: attention(v, shapes, starts, x, w, 64), plain, [value, locations, weights])


# Losses


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss(gamma: float, weighted: bool) -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    target = torch.tensor([0, 2, 1, 1, 2]) if weighted else torch.tensor([0, 3, 1, 3, 2])  # 3 is background
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) if weighted else None

    def plain(logits: Tensor) -> Tensor:
        total = logits.new_zeros(())
        for row, wanted in zip(logits, target.tolist(), strict=True):
            for c, x in enumerate(row):
                p = 1 / (1 + torch.exp(-x))
                part = -0.25 * (1 - p) ** gamma * torch.log(p) if c == wanted else -0.75 * p**gamma * torch.log(1 - p)
                total = total + part * (1.0 if weight is None else weight[wanted])
        return total / len(logits)

    same_gradients(lambda x: ops.sigmoid_focal_loss(x, target, gamma, 0.25, weight, "mean"), plain, [logits])


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_softmax_focal_loss(gamma: float) -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    target = torch.tensor([0, -1, 2, 1])  # a negative target costs nothing

    def plain(logits: Tensor) -> Tensor:
        total = logits.new_zeros(())
        for row, wanted in zip(logits, target.tolist(), strict=True):
            if wanted >= 0:
                p = torch.exp(row[wanted]) / torch.exp(row).sum()
                total = total - 0.25 * (1 - p) ** gamma * torch.log(p)
        return total

    same_gradients(lambda x: ops.softmax_focal_loss(x, target, gamma, 0.25, None, "sum"), plain, [logits])


def test_focal_loss_of_confident_logits_is_finite() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "sum")
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all() and loss > 100


# The rest


def test_a_missing_operator_names_itself_and_a_way_out() -> None:
    with pytest.raises(WinnowError, match="'prroi_pool_forward'.*Choose a model without it"):
        ops.prroi_pool(torch.zeros(1, 1, 4, 4), torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]), (2, 2), 1.0)


def test_installing_twice_changes_nothing() -> None:
    import mmcv._ext as before
    from mmdet.models.language_models.bert import BertEncoder

    forward = BertEncoder.forward
    mmlab.install()
    import mmcv._ext as after

    assert before is after and BertEncoder.forward is forward


def test_a_two_stage_detector_with_deformable_convolution_learns() -> None:
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    torch.manual_seed(0)
    model = MODELS.build(faster_rcnn())
    sample = DetDataSample(
        gt_instances=InstanceData(bboxes=torch.tensor([[8.0, 8.0, 40.0, 48.0]]), labels=torch.tensor([1])),
        ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
        metainfo={"img_shape": (64, 64), "ori_shape": (64, 64), "scale_factor": (1.0, 1.0), "img_id": 0},
    )
    data = {"inputs": [torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)], "data_samples": [sample]}
    data = model.data_preprocessor(data, True)
    optimizer = torch.optim.SGD(model.parameters(), 0.005, momentum=0.9)
    losses = []
    for _ in range(6):
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    offsets = [p for name, p in model.named_parameters() if "conv_offset.weight" in name]
    assert losses[-1] < losses[0]
    assert offsets and all(p.grad.abs().sum() > 0 for p in offsets)


def faster_rcnn() -> ConfigDict:
    """As small as it goes, with every operator a two-stage detector needs."""
    from mmengine.config import Config

    anchors = {"type": "AnchorGenerator", "scales": [4], "ratios": [1.0], "strides": [16]}
    coder = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4}
    assigner = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0.1}
    sampler = {"type": "RandomSampler", "num": 32, "pos_fraction": 0.5, "add_gt_as_proposals": True}
    nms = {"type": "nms", "iou_threshold": 0.7}
    return Config(
        {
            "_scope_": "mmdet",
            "type": "FasterRCNN",
            "data_preprocessor": {"type": "DetDataPreprocessor", "mean": [127.0] * 3, "std": [60.0] * 3},
            "backbone": {
                "type": "ResNet",
                "depth": 50,
                "base_channels": 4,
                "stem_channels": 4,
                "num_stages": 3,
                "strides": (1, 2, 2),
                "dilations": (1, 1, 1),
                "out_indices": (2,),
                "dcn": {"type": "DCNv2", "deform_groups": 1, "fallback_on_stride": False},
                "stage_with_dcn": (False, False, True),
            },
            "rpn_head": {
                "type": "RPNHead",
                "in_channels": 64,
                "feat_channels": 16,
                "anchor_generator": anchors,
                "bbox_coder": coder,
                "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
                "loss_bbox": {"type": "L1Loss"},
            },
            "roi_head": {
                "type": "StandardRoIHead",
                "bbox_roi_extractor": {
                    "type": "SingleRoIExtractor",
                    "roi_layer": {"type": "RoIAlign", "output_size": 3, "sampling_ratio": 0},
                    "out_channels": 64,
                    "featmap_strides": [16],
                },
                "bbox_head": {
                    "type": "Shared2FCBBoxHead",
                    "in_channels": 64,
                    "fc_out_channels": 16,
                    "roi_feat_size": 3,
                    "num_classes": 3,
                    "bbox_coder": coder,
                    "loss_cls": {"type": "CrossEntropyLoss"},
                    "loss_bbox": {"type": "L1Loss"},
                },
            },
            "train_cfg": {
                "rpn": {
                    "assigner": assigner,
                    "sampler": {**sampler, "add_gt_as_proposals": False},
                    "allowed_border": -1,
                    "pos_weight": -1,
                    "debug": False,
                },
                "rpn_proposal": {"nms_pre": 100, "max_per_img": 20, "nms": nms, "min_bbox_size": 0},
                "rcnn": {"assigner": assigner, "sampler": sampler, "pos_weight": -1, "debug": False},
            },
            "test_cfg": {
                "rpn": {"nms_pre": 100, "max_per_img": 20, "nms": nms, "min_bbox_size": 0},
                "rcnn": {"score_thr": 0.05, "nms": nms, "max_per_img": 20},
            },
        }
    )._cfg_dict


def test_mmengine_checkpoints_load_without_unpickling(tmp_path: Path) -> None:
    hub = MessageHub.get_instance("history")
    hub.update_scalar("loss", torch.tensor(1.5))
    torch.save({"state_dict": {"w": torch.ones(2)}, "message_hub": hub.state_dict()}, tmp_path / "good.pth")
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "good.pth"), "cpu", logger=None)
    assert loaded["message_hub"]["log_scalars"]["loss"].current() == 1.5


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


class Reach:
    """Uses the narrowed `getattr` for something else than histories."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (getattr, (torch.Tensor, "numpy"))


@pytest.mark.parametrize("kind", ["call", "attribute", "garbage"])
def test_a_checkpoint_with_code_or_garbage_is_refused(tmp_path: Path, kind: str) -> None:
    path, mark = tmp_path / "bad.pth", tmp_path / "executed"
    if kind == "garbage":
        path.write_bytes(pickle.dumps({"a": 1}, protocol=2)[:-3])
    else:
        torch.save({"state_dict": {}, "x": Evil(mark) if kind == "call" else Reach()}, path)
    with pytest.raises(WinnowError, match="bad.pth was refused"):
        CheckpointLoader.load_checkpoint(str(path), "cpu", logger=None)
    assert not mark.exists()


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "red", "blue", "mug", "ball", "a"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def encode(folder: Path, captions: list[str], *, sub_sentences: bool) -> dict[str, Tensor]:
    from mmdet.models.language_models.bert import BertModel

    special = ["[CLS]", "[SEP]", "."] if sub_sentences else None
    model = BertModel(
        name=str(folder),
        max_tokens=16,
        pad_to_max=False,
        use_sub_sentence_represent=sub_sentences,
        special_tokens_list=special,
    ).eval()
    with torch.no_grad():
        return model(captions)


def test_a_phrase_does_not_see_its_neighbours_in_the_caption(tiny_bert: Path) -> None:
    found = encode(tiny_bert, ["red mug. blue ball.", "a mug. blue ball."], sub_sentences=True)
    first, second = found["embedded"]  # [CLS] w w . blue ball . [SEP]
    torch.testing.assert_close(first[4:7], second[4:7])
    assert not torch.allclose(first[1:4], second[1:4], atol=1e-3)
    assert found["masks"].shape == (2, 8, 8)


def test_without_sub_sentences_every_token_sees_the_caption(tiny_bert: Path) -> None:
    first, second = encode(tiny_bert, ["red mug. blue ball.", "a mug. blue ball."], sub_sentences=False)["embedded"]
    assert not torch.allclose(first[4:7], second[4:7], atol=1e-3)

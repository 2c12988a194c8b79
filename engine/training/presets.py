"""Detector presets as mmdet configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.config import ConfigDict


def tiny_atss(classes: int) -> ConfigDict:
    """ATSS (Zhang et al. 2020) with a half-width ResNet-18 and a 64-channel FPN of three levels: 2 M parameters."""
    head = dict(
        type="ATSSHead",
        num_classes=classes,
        in_channels=64,
        stacked_convs=1,
        feat_channels=64,
        norm_cfg=dict(type="GN", num_groups=8),
        anchor_generator=dict(type="AnchorGenerator", ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=[8, 16, 32]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    )
    return ConfigDict(
        type="ATSS",
        data_preprocessor=dict(type="DetDataPreprocessor", mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=32),
        backbone=dict(
            type="ResNet",
            depth=18,
            base_channels=32,
            stem_channels=32,
            num_stages=4,
            out_indices=(1, 2, 3),
            norm_cfg=dict(type="BN", requires_grad=True),
        ),
        neck=dict(type="FPN", in_channels=[64, 128, 256], out_channels=64, num_outs=3),
        bbox_head=head,
        train_cfg=dict(assigner=dict(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False),
        test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.02, nms=dict(type="nms", iou_threshold=0.6), max_per_img=100),
    )


MODELS: dict[str, Callable[[int], Any]] = {"tiny_atss": tiny_atss}

"""Detector presets as mmdet configurations."""

from __future__ import annotations

from collections.abc import Callable

from mmengine.config import ConfigDict


def tiny_atss(classes: int) -> ConfigDict:
    """ATSS (Zhang et al. 2020) that learns from scratch on two CPU cores: 3 M parameters.

    A ResNet-18 of half width with a stem of a quarter (at full resolution it would cost a sixth of all the time), a
    64-channel FPN of three levels, one convolution per branch. Made for objects of about 10 to 250 pixels after
    scaling.
    """
    head = {
        "type": "ATSSHead",
        "num_classes": classes,
        "in_channels": 64,
        "stacked_convs": 1,
        "feat_channels": 64,
        "norm_cfg": {"type": "GN", "num_groups": 8},
        "anchor_generator": {
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": 4,
            "scales_per_octave": 1,
            "strides": [8, 16, 32],
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]},
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
        "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
    }
    backbone = {
        "type": "ResNet",
        "depth": 18,
        "stem_channels": 16,
        "base_channels": 32,
        "out_indices": (1, 2, 3),
        "norm_cfg": {"type": "BN"},
        "norm_eval": False,
    }
    test = {
        "nms_pre": 1000,
        "min_bbox_size": 0,
        "score_thr": 0.02,
        "nms": {"type": "nms", "iou_threshold": 0.6},
        "max_per_img": 100,
    }
    return ConfigDict(
        type="ATSS",
        data_preprocessor={
            "type": "DetDataPreprocessor",
            "mean": [127.0] * 3,
            "std": [60.0] * 3,
            "pad_size_divisor": 32,
        },
        backbone=backbone,
        neck={"type": "FPN", "in_channels": [64, 128, 256], "out_channels": 64, "num_outs": 3},
        bbox_head=head,
        train_cfg={
            "assigner": {"type": "ATSSAssigner", "topk": 9},
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        test_cfg=test,
    )


MODELS: dict[str, Callable[[int], ConfigDict]] = {"tiny_atss": tiny_atss}

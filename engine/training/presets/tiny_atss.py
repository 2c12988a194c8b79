"""Tiny ATSS: a detector that learns from scratch on two CPU cores.

ATSS (Zhang et al. 2020) with a half-width ResNet-18 (32 to 256 channels), a three-level FPN of 64 channels and one
convolution per branch. About 3 M parameters; boxes of 16 to 256 pixels after scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def model(names: Sequence[str]) -> dict[str, Any]:
    """The mmdet model for these classes."""
    return {
        "type": "ATSS",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
            "pad_size_divisor": 32,
        },
        "backbone": {
            "type": "ResNet",
            "depth": 18,
            "base_channels": 32,
            "stem_channels": 32,
            "out_indices": (1, 2, 3),
            "norm_cfg": {"type": "BN"},
            "norm_eval": False,
        },
        "neck": {"type": "FPN", "in_channels": [64, 128, 256], "out_channels": 64, "num_outs": 3},
        "bbox_head": {
            "type": "ATSSHead",
            "num_classes": len(names),
            "in_channels": 64,
            "feat_channels": 64,
            "stacked_convs": 1,
            "norm_cfg": {"type": "GN", "num_groups": 8},
            "anchor_generator": {
                "type": "AnchorGenerator",
                "ratios": [1.0],
                "octave_base_scale": 4,
                "scales_per_octave": 1,
                "strides": [8, 16, 32],
            },
            "bbox_coder": {
                "type": "DeltaXYWHBBoxCoder",
                "target_means": [0.0] * 4,
                "target_stds": [0.1, 0.1, 0.2, 0.2],
            },
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
            "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        },
        "train_cfg": {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1, "debug": False},
        "test_cfg": {
            "nms_pre": 1000,
            "min_bbox_size": 0,
            "score_thr": 0.02,
            "nms": {"type": "nms", "iou_threshold": 0.6},
            "max_per_img": 100,
        },
    }

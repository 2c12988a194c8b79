"""The presets of DetCLIPv2: a tiny one for one CPU core, and ATSS with the backbones of mmdet's public configurations."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from engine.pair_options import PairOptions
from engine.presets import PRESETS
from engine.training import detclip as model
from engine.training import mmlab

mmlab.install()

from mmengine.config import ConfigDict

from engine.training.language_presets import LONGEST, LanguageBlueprint, LanguageCard, encoder_of
from engine.training.presets import for_classes, read_config, shipped_folder
from engine.training.task import adamw

FOCAL = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0}
TEST = {  # bounds that nothing reaches: they are for all texts of a pass together
    "nms_pre": 5000,
    "min_bbox_size": 0,
    "score_thr": 0.003,
    "nms": {"type": "nms", "iou_threshold": 0.6},
    "max_per_img": 2000,
}


def detclip(card: LanguageCard, lr: float) -> LanguageBlueprint:
    """The model that a card describes and its optimizer. Raises WinnowError without the folder of a text encoder."""
    options = PairOptions.model_validate(card.pairs)
    parts = _tiny() if card.preset == "tiny_detclip" else _public(str(PRESETS[card.preset].config))
    width = parts["bbox_head"]["embed_dims"]
    config = {
        "type": model.DetCLIP.__name__,
        "text_encoder": {
            "type": model.ConceptEncoder.__name__,
            "folder": str(encoder_of(card)),
            "width": width,
            "max_tokens": options.tokens,
        },
        "definitions": card.definitions,
        "pairs": options.model_dump(exclude_defaults=True),
        "train_cfg": {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1},
        "test_cfg": TEST,
        **parts,
    }
    optimizer = adamw(lr)
    optimizer["paramwise_cfg"]["custom_keys"] = {"text_encoder.tower": {"lr_mult": options.text_lr}}
    return LanguageBlueprint(ConfigDict(config), optimizer, LONGEST)


def _head(embed_dims: int, channels: int, strides: list[int], scale: int, convolutions: int) -> dict[str, Any]:
    return {
        "type": model.AlignedHead.__name__,
        "embed_dims": embed_dims,
        "in_channels": channels,
        "feat_channels": channels,
        "stacked_convs": convolutions,
        "norm_cfg": {"type": "GN", "num_groups": min(32, channels // 8)},
        "anchor_generator": {
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": scale,
            "scales_per_octave": 1,
            "strides": strides,
            "center_offset": 0.5,
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]},
        "loss_cls": FOCAL,
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 1.0},
        "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
    }


def _tiny() -> dict[str, Any]:
    """A quarter-width ResNet-18, two levels of 64 channels and features of 64 numbers; for objects of about 12 to 80 pixels
    after scaling."""
    return {
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [127.0] * 3,
            "std": [60.0] * 3,
            "bgr_to_rgb": False,
            "pad_size_divisor": 16,
        },
        "backbone": {
            "type": "ResNet",
            "depth": 18,
            "num_stages": 3,
            "strides": (1, 2, 2),
            "dilations": (1, 1, 1),
            "stem_channels": 16,
            "base_channels": 32,
            "out_indices": (1, 2),
            "norm_cfg": {"type": "BN"},
            "norm_eval": False,
        },
        "neck": {"type": "FPN", "in_channels": [64, 128], "out_channels": 64, "num_outs": 2},
        "bbox_head": _head(64, 64, [8, 16], 3, 1),
    }


def _public(path: str) -> dict[str, Any]:
    """Backbone, pyramid and preprocessing of a shipped configuration, and ATSS's head of four convolutions. Winnow's batches
    of detectors that read are in BGR, as these configurations want them."""
    config = read_config(shipped_folder() / path).model
    plain = for_classes(deepcopy(config), 1)
    strides = [8, 16, 32, 64, 128]
    return {
        "data_preprocessor": deepcopy(dict(config.data_preprocessor)),
        "backbone": plain.backbone,
        "neck": plain.neck,
        "bbox_head": _head(256, 256, strides, 8, 4),
    }

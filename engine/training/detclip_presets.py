"""The presets of DetCLIPv2: a tiny one for one CPU core, and ATSS with the backbones of mmdet's public configurations."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from engine.pair_options import PairOptions
from engine.presets import PRESETS
from engine.training import detclip as model
from engine.training import mmlab

mmlab.install()

from mmengine.config import ConfigDict

from engine.training.language_presets import (
    ANY_TEXTS,
    ATSS_TRAINING,
    LONGEST,
    LOSSES,
    TINY_PYRAMID,
    TINY_SCALE,
    TINY_STRIDES,
    TINY_TRUNK,
    LanguageBlueprint,
    LanguageCard,
    encoder_of,
    squares,
)
from engine.training.presets import for_classes, read_config, shipped_folder
from engine.training.task import adamw


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
        "train_cfg": ATSS_TRAINING,
        "test_cfg": ANY_TEXTS,
        **parts,
    }
    optimizer = adamw(lr)
    optimizer["paramwise_cfg"]["custom_keys"] = {"text_encoder.tower": {"lr_mult": options.text_lr}}
    return LanguageBlueprint(ConfigDict(config), optimizer, LONGEST)


def _head(embed_dims: int, channels: int, strides: Sequence[int], scale: int, convolutions: int) -> dict[str, Any]:
    return {
        "type": model.AlignedHead.__name__,
        "embed_dims": embed_dims,
        "in_channels": channels,
        "feat_channels": channels,
        "stacked_convs": convolutions,
        "norm_cfg": {"type": "GN", "num_groups": min(32, channels // 8)},
        "anchor_generator": squares(strides, scale),
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]},
        **LOSSES,
        "loss_bbox": {**LOSSES["loss_bbox"], "loss_weight": 1.0},  # `PairOptions` has the weights
    }


def _tiny() -> dict[str, Any]:
    """Two levels of 64 channels and features of 64 numbers."""
    return {**TINY_TRUNK, "neck": TINY_PYRAMID, "bbox_head": _head(64, 64, TINY_STRIDES, TINY_SCALE, 1)}


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

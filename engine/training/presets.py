"""Detector presets as mmdet configurations.

The small presets are configurations that mmdet ships, with a small backbone and narrow heads put in, so that they are
made of the very classes of the large ones. No configuration downloads anything: pretrained weights come from a file.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from db.errors import NotFound, WinnowError
from engine.presets import OWN, PRESETS, TrainOptions
from engine.training import mmlab

mmlab.install()

import mmdet
from mmengine.config import Config, ConfigDict

from engine.training.task import adamw

SMALL = 64  # channels


class Blueprint(NamedTuple):
    """The configuration of a model, for images in RGB, and of its optimizer (the Runner's `optim_wrapper`)."""

    model: ConfigDict
    optimizer: dict[str, Any]


def blueprint(name: str, classes: int, options: TrainOptions, configs: Path | None = None) -> Blueprint:
    """A preset for so many classes. `configs` is the trusted folder of the person's own files.

    Raises NotFound for an unknown preset, WinnowError for options or a file of one's own that do not fit.
    """
    if name not in PRESETS:
        raise NotFound("preset", name, sorted(PRESETS))
    if (name == OWN) != (options.config is not None):
        raise WinnowError(f"The option config belongs to the preset {OWN!r}, which cannot do without. Seen: {name!r}.")
    if name in TINY:
        return Blueprint(TINY[name](classes), adamw(options.lr))
    shipped = PRESETS[name].config
    config = read_config(shipped_folder() / shipped if shipped else own_file(configs, options.config or ""))
    return Blueprint(for_classes(config.model, classes), _with_lr(config.optim_wrapper, options.lr))


def shipped_folder() -> Path:
    """The configurations that the installed mmdet brings."""
    return Path(mmdet.__file__).parent / ".mim" / "configs"


def own_file(configs: Path | None, name: str) -> Path:
    """The file of this name in the trusted folder. Raises WinnowError for one that is elsewhere, or not there."""
    if configs is None:
        raise WinnowError("There is no folder for configurations of your own here.")
    path = (configs / name).resolve()
    known = sorted(file.name for file in configs.glob("*.py"))
    if path.parent != configs.resolve() or not path.is_file():
        raise WinnowError(
            f"{name!r} is not a file in {configs}, the only folder configurations are taken from, because they are "
            f"executed. There: {', '.join(known) or 'none'}."
        )
    return path


def read_config(path: Path) -> Config:
    """An mmdet configuration with a `model` and an `optim_wrapper`; the file is executed. Raises WinnowError."""
    try:
        config = Config.fromfile(path, lazy_import=False)
    except Exception as error:  # whatever a Python file may raise
        raise WinnowError(f"{path} cannot be read as a configuration: {type(error).__name__}: {error}") from error
    missing = [key for key in ("model", "optim_wrapper") if key not in config]
    if missing:
        raise WinnowError(f"{path} has no {' and no '.join(missing)}. It should be a whole mmdet configuration.")
    return config


def for_classes(model: dict[str, Any], classes: int) -> ConfigDict:
    """The model for so many classes and for images in RGB, without anything that it would download."""
    model = _each(deepcopy(dict(model)), lambda part: _adapted(part, classes))
    before = dict(model["data_preprocessor"])
    swapped = before.pop("bgr_to_rgb", False)  # configurations expect images in BGR
    return ConfigDict(model, data_preprocessor=before if swapped else {**before, "rgb_to_bgr": True})


def _adapted(part: dict[str, Any], classes: int) -> dict[str, Any]:
    if "num_classes" in part:
        part["num_classes"] = classes
    init = part.get("init_cfg")
    if isinstance(init, dict) and init.get("type") == "Pretrained":
        del part["init_cfg"]
    return part


def without_sync(model: dict[str, Any]) -> ConfigDict:
    """The model with normalisation over each process's own images, which is all there is without several GPUs."""
    return ConfigDict(
        _each(deepcopy(dict(model)), lambda part: {**part, "type": "BN"} if part.get("type") == "SyncBN" else part)
    )


def with_checkpointing(model: dict[str, Any]) -> ConfigDict:
    """The model with a backbone that is computed again in the backward pass. Raises WinnowError for one that cannot."""
    kind = model["backbone"]["type"]
    if kind not in ("ResNet", "ResNeXt", "SwinTransformer"):
        raise WinnowError(
            f"gradient_checkpointing is not possible with the backbone {kind}; it is with ResNet, ResNeXt and "
            "SwinTransformer."
        )
    return ConfigDict(model, backbone={**model["backbone"], "with_cp": True})


def _each(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The value with every dict in it changed, the innermost first."""
    if isinstance(value, dict):
        return change({key: _each(part, change) for key, part in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_each(part, change) for part in value)
    return value


def _with_lr(optimizer: dict[str, Any], lr: float) -> dict[str, Any]:
    chosen = deepcopy(dict(optimizer))
    chosen["optimizer"]["lr"] = lr
    return chosen


# Small presets


def _backbone(first: int) -> dict[str, Any]:
    """A ResNet-18 of half width with a stem of a quarter: at full resolution a wide one would cost a sixth of all the
    time."""
    return {
        "type": "ResNet",
        "depth": 18,
        "stem_channels": 16,
        "base_channels": 32,
        "out_indices": tuple(range(first, 4)),
        "norm_cfg": {"type": "BN"},
        "norm_eval": False,
    }


PIXELS = {"type": "DetDataPreprocessor", "mean": [127.0] * 3, "std": [60.0] * 3, "pad_size_divisor": 32}


def tiny_atss(classes: int) -> ConfigDict:
    """ATSS (Zhang et al. 2020) that learns from scratch on two CPU cores: 3 M parameters.

    A small ResNet-18, a 64-channel FPN of three levels, one convolution per branch. Made for objects of about 10 to
    250 pixels after scaling.
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
    test = {
        "nms_pre": 1000,
        "min_bbox_size": 0,
        "score_thr": 0.02,
        "nms": {"type": "nms", "iou_threshold": 0.6},
        "max_per_img": 100,
    }
    return ConfigDict(
        type="ATSS",
        data_preprocessor=PIXELS,
        backbone=_backbone(first=1),
        neck={"type": "FPN", "in_channels": [64, 128, 256], "out_channels": SMALL, "num_outs": 3},
        bbox_head=head,
        train_cfg={
            "assigner": {"type": "ATSSAssigner", "topk": 9},
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        test_cfg=test,
    )


def _shipped(path: str, classes: int, changes: dict[str, Any]) -> ConfigDict:
    """A shipped configuration with `changes` merged into its model."""
    config = Config({"model": for_classes(read_config(shipped_folder() / path).model, classes)})
    config.merge_from_dict({"model": {"data_preprocessor": {**PIXELS, "_delete_": True}, **changes}})
    return config.model


def _two_stages(path: str, classes: int, head: dict[str, Any]) -> ConfigDict:
    small: dict[str, Any] = {
        "backbone": {**_backbone(first=0), "_delete_": True},
        "neck": {"in_channels": [32, 64, 128, 256], "out_channels": SMALL},
        "rpn_head": {"in_channels": SMALL, "feat_channels": SMALL, "anchor_generator": {"scales": [4]}},
        "roi_head": {
            "bbox_roi_extractor": {"out_channels": SMALL},
            "bbox_head": {"in_channels": SMALL, "fc_out_channels": 256},
            **head,
        },
        "train_cfg": {"rpn_proposal": {"nms_pre": 500, "max_per_img": 200}, "rcnn": {"sampler": {"num": 128}}},
        "test_cfg": {"rpn": {"nms_pre": 500, "max_per_img": 200}, "rcnn": {"score_thr": 0.02}},
    }
    return _shipped(path, classes, small)


def tiny_faster_rcnn(classes: int) -> ConfigDict:
    """Faster R-CNN (Ren et al. 2015) with an FPN, 4 M parameters."""
    return _two_stages("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", classes, {})


def tiny_mask_rcnn(classes: int) -> ConfigDict:
    """Mask R-CNN (He et al. 2017) with an FPN, 4 M parameters."""
    head = {
        "mask_roi_extractor": {"out_channels": SMALL},
        "mask_head": {"num_convs": 2, "in_channels": SMALL, "conv_out_channels": SMALL},
    }
    model = _two_stages("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", classes, head)
    model.data_preprocessor.pad_mask = True
    return model


def tiny_rtmdet(classes: int) -> ConfigDict:
    """RTMDet (Lyu et al. 2022), 2 M parameters."""
    norm = {"type": "BN"}
    changes = {
        "backbone": {"deepen_factor": 0.167, "widen_factor": 0.25, "norm_cfg": norm},
        "neck": {"in_channels": [64, 128, 256], "out_channels": SMALL, "num_csp_blocks": 1, "norm_cfg": norm},
        "bbox_head": {"in_channels": SMALL, "feat_channels": SMALL, "norm_cfg": norm},
    }
    return _shipped("rtmdet/rtmdet_s_8xb32-300e_coco.py", classes, changes)


def tiny_dino(classes: int) -> ConfigDict:
    """DINO (Zhang et al. 2022) with deformable attention over three scales, 4 M parameters."""
    attention = {"embed_dims": SMALL, "num_heads": 4}
    scales = {"embed_dims": SMALL, "num_heads": 4, "num_levels": 3}
    feed = {"embed_dims": SMALL, "feedforward_channels": 128}
    changes = {
        "num_queries": 60,
        "num_feature_levels": 3,
        "backbone": {**_backbone(first=1), "_delete_": True},
        "neck": {
            "in_channels": [64, 128, 256],
            "out_channels": SMALL,
            "num_outs": 3,
            "norm_cfg": {"type": "GN", "num_groups": 8},
        },
        "encoder": {"num_layers": 2, "layer_cfg": {"self_attn_cfg": scales, "ffn_cfg": feed}},
        "decoder": {
            "num_layers": 2,
            "layer_cfg": {"self_attn_cfg": attention, "cross_attn_cfg": scales, "ffn_cfg": feed},
        },
        "positional_encoding": {"num_feats": SMALL // 2},
        "bbox_head": {"embed_dims": SMALL},
        "dn_cfg": {"group_cfg": {"num_dn_queries": 20}},
        "test_cfg": {"max_per_img": 60},
    }
    return _shipped("dino/dino-4scale_r50_8xb2-12e_coco.py", classes, changes)


TINY: dict[str, Callable[[int], ConfigDict]] = {
    "tiny_atss": tiny_atss,
    "tiny_faster_rcnn": tiny_faster_rcnn,
    "tiny_mask_rcnn": tiny_mask_rcnn,
    "tiny_rtmdet": tiny_rtmdet,
    "tiny_dino": tiny_dino,
}

"""Presets of detectors that read: the public mmdet configurations by name, and a tiny one of the same classes.

mmdet's GLIP can be asked for any text, but be trained on lists of class names only; `PhraseGLIP` also takes captions of
which it is said which characters name which box, as mmdet's Grounding DINO does. Its weights are those of GLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from db.errors import NotFound, WinnowError
from engine.presets import PRESETS
from engine.training import mmlab

mmlab.install()

from mmdet.models.dense_heads.atss_vlfusion_head import ATSSVLFusionHead
from mmdet.models.detectors import GLIP
from mmdet.registry import MODELS as BUILDERS
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel

from engine.training.checkpoint import build
from engine.training.presets import read_config, shipped_folder
from engine.training.task import adamw

READER = Path(__file__).parents[2] / "assets" / "pocket" / "reader"
TINY = "tiny_grounding"
LONGEST = 256  # tokens of a prompt
CARD, WEIGHTS = "detector.json", "model.safetensors"


LOSSES: dict[str, Any] = {
    "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
    "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
    "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
}
"""Those of GLIP (Li et al. 2022). Its public configurations leave them out, as they are for evaluation."""
MATCHING = {
    "assigner": {
        "type": "HungarianAssigner",
        "match_costs": [
            {"type": "BinaryFocalLossCost", "weight": 2.0},
            {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
            {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
        ],
    }
}
"""That of Grounding DINO (Liu et al. 2023), which its public configuration leaves out for the same reason."""

TINY_TRUNK: dict[str, Any] = {
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
}
"""A quarter-width ResNet-18 of two levels; with anchors of `TINY_STRIDES` for objects of about 12 to 80 pixels after scaling."""
TINY_PYRAMID = {"type": "FPN", "in_channels": [64, 128], "out_channels": 64, "num_outs": 2}
TINY_STRIDES, TINY_SCALE = (8, 16), 3
ATSS_TRAINING = {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1}
ANY_TEXTS: dict[str, Any] = {
    "nms_pre": 5000,
    "min_bbox_size": 0,
    "score_thr": 0.003,
    "nms": {"type": "nms", "iou_threshold": 0.6},
    "max_per_img": 2000,
}
"""Bounds of detections that nothing reaches: they are for all texts of a pass together."""


def squares(strides: Sequence[int], scale: int) -> dict[str, Any]:
    """ATSS's anchors: a square of `scale` times the stride at each place of a level."""
    return {
        "type": "AnchorGenerator",
        "ratios": [1.0],
        "octave_base_scale": scale,
        "scales_per_octave": 1,
        "strides": list(strides),
        "center_offset": 0.5,
    }


class LanguageCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`detector.json` of a detector that reads: the preset, the size images are fitted into, and the folder of the text
    encoder for presets that do not bring their own. Of one that learnt from pairs also its `engine.pair_options`, those
    that are not the defaults, and the definitions of classes that it was trained with."""

    preset: str
    image_size: tuple[int, int]
    language_model: str | None = None
    pairs: dict[str, Any] = {}
    definitions: dict[str, str] = {}

    @property
    def isolated(self) -> bool:
        """Whether no description changes the answer to another one of the same prompt."""
        return self.preset == TINY or PRESETS[self.preset].pairs


class LanguageBlueprint(NamedTuple):
    """A model in mmdet's terms, the Runner's `optim_wrapper`, and how many tokens a prompt may have."""

    model: ConfigDict
    optimizer: dict[str, Any]
    tokens: int


def blueprint(card: LanguageCard, lr: float = 1e-3) -> LanguageBlueprint:
    """What a card describes. Raises WinnowError for a public configuration without the folder of its text encoder."""
    if card.preset in PRESETS and PRESETS[card.preset].pairs:
        from engine.training.detclip_presets import detclip

        return detclip(card, lr)
    if card.preset == TINY:
        return LanguageBlueprint(tiny_grounding(), adamw(lr), LONGEST)
    config = public(card.preset)
    model = _readable(config.model, encoder_of(card))
    return LanguageBlueprint(model, _with_lr(config.optim_wrapper, lr), LONGEST)


def public(preset: str) -> Config:
    """The configuration of mmdet that a preset names, unchanged. Raises NotFound for a preset that does not read."""
    reading = {p.name: p.config for p in PRESETS.values() if p.kind == "grounding" and p.config and not p.pairs}
    if preset not in reading:
        raise NotFound("preset of a detector that reads", preset, [TINY, *reading])
    return read_config(shipped_folder() / str(reading[preset]))


def encoder_of(card: LanguageCard) -> Path:
    """The folder of the text encoder. Raises WinnowError when none is known, or it is not one."""
    if card.preset in (TINY, "tiny_detclip"):
        return READER
    folder = Path(card.language_model or "").expanduser()
    clip = PRESETS[card.preset].pairs and (folder / "open_clip_config.json").is_file()
    if not card.language_model or not (clip or (folder / "config.json").is_file()):
        raise WinnowError(
            f"{card.preset} reads with {_encoder_name(card.preset)}, whose folder is needed as language_model: one with "
            f"config.json, the tokenizer and the weights. Seen: {card.language_model!r}."
        )
    return folder


def _encoder_name(preset: str) -> str:
    return "a BERT or a CLIP of open_clip (open_clip_config.json)" if PRESETS[preset].pairs else "bert-base-uncased"


def tokenizer_of(card: LanguageCard) -> Any:
    """The tokenizer of the text encoder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(encoder_of(card)))


def load_reader(folder: Path) -> tuple[BaseModel, LanguageCard]:
    """(model in evaluation mode on the CPU, its card). Raises WinnowError when the folder is incomplete or damaged."""
    try:
        card = msgspec.json.decode((folder / CARD).read_bytes(), type=LanguageCard)
        weights = load_file(folder / WEIGHTS)
    except (OSError, msgspec.MsgspecError, SafetensorError) as error:
        raise WinnowError(f"{folder} is not a trained detector that reads: {error}") from error
    model = build(blueprint(card).model)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WinnowError(f"The weights in {folder} do not fit {card.preset!r}. Train it again. ({error})") from error
    return model.eval(), card


def _with_lr(optimizer: dict[str, Any], lr: float) -> dict[str, Any]:
    chosen = deepcopy(dict(optimizer))
    chosen["optimizer"]["lr"] = lr
    return chosen


def _without_downloads(model: Any) -> Any:
    """The configuration without weights that mmengine would fetch."""
    if isinstance(model, dict):
        kept = {key: _without_downloads(part) for key, part in model.items()}
        if isinstance(kept.get("init_cfg"), dict) and kept["init_cfg"].get("type") == "Pretrained":
            del kept["init_cfg"]
        return kept
    return [_without_downloads(part) for part in model] if isinstance(model, list) else model


def _readable(model: dict[str, Any], encoder: Path) -> ConfigDict:
    """The public model with its text encoder from a folder, nothing to download, and GLIP as one that trains on captions."""
    model = _without_downloads(deepcopy(dict(model)))
    model["language_model"]["name"] = str(encoder)
    if "num_cp" in model.get("encoder", {}):
        model["encoder"]["num_cp"] = 0  # mmdet computes these layers twice to save memory, by fairscale only
    if model["type"] == "GroundingDINO":
        model["train_cfg"] = model.get("train_cfg") or MATCHING
    if model["type"] == "GLIP":
        model["type"] = "PhraseGLIP"
        model["bbox_head"] = {**LOSSES, **model["bbox_head"], "type": "PhraseHead", "lang_model_name": str(encoder)}
    return ConfigDict(model)


@BUILDERS.register_module()
class PhraseGLIP(GLIP):
    """GLIP that trains on `text` and `tokens_positive` of its samples: for each label, the [start, end) characters that
    name its boxes. All other tokens of the text are taught to name nothing."""

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[Any]) -> dict[str, Tensor]:
        texts = [sample.text for sample in batch_data_samples]
        words = self.language_model(texts)
        for sample, text in zip(batch_data_samples, texts, strict=True):
            spans = [sample.tokens_positive[int(label)] for label in sample.gt_instances.labels]
            tokenized = self.language_model.tokenizer([text], return_tensors="pt")
            named = self.get_positive_map(tokenized, spans)[1].to(batch_inputs.device)
            sample.gt_instances.positive_maps = named.bool().float()
        return self.bbox_head.loss(self.extract_feat(batch_inputs), words, batch_data_samples)


@BUILDERS.register_module()
class PhraseHead(ATSSVLFusionHead):
    """GLIP's head for texts of any length and sentences that do not read one another.

    mmdet's own takes the number of its channels for that of the tokens, which holds for 256 of both, and knows only masks
    of tokens, not of pairs of tokens.
    """

    def loss(self, visual_feats: Any, language_feats: dict[str, Tensor], batch_data_samples: list[Any]) -> dict:
        known = language_feats.get("text_token_mask", language_feats["masks"])
        self.feat_channels = known.shape[1]
        for sample in batch_data_samples:
            sample.gt_instances.positive_maps = sample.gt_instances.positive_maps[:, : known.shape[1]]
        return super().loss(visual_feats, {**language_feats, "masks": known}, batch_data_samples)


def tiny_grounding() -> ConfigDict:
    """GLIP without fusion that learns from scratch on one CPU core: 1.6 M parameters.

    One dynamic block of 96 channels, and a text encoder of two layers, in which every sentence is read by itself (as in Grounding
    DINO), so that what else is asked for does not change an answer.
    """
    head = {
        "type": "PhraseHead",
        "lang_model_name": str(READER),
        "num_dyhead_blocks": 0,
        "num_classes": 256,
        "in_channels": 128,
        "feat_channels": 128,
        "anchor_generator": squares(TINY_STRIDES, TINY_SCALE),
        "bbox_coder": {
            "type": "DeltaXYWHBBoxCoderForGLIP",
            "target_means": [0.0] * 4,
            "target_stds": [0.1, 0.1, 0.2, 0.2],
        },
        **LOSSES,
    }
    return ConfigDict(
        type="PhraseGLIP",
        **TINY_TRUNK,
        neck=[
            TINY_PYRAMID,
            {
                "type": "ChannelMapper",
                "in_channels": [64, 64],
                "out_channels": 128,
                "kernel_size": 3,
                "norm_cfg": {"type": "GN", "num_groups": 8},
                "act_cfg": {"type": "ReLU"},
            },
        ],
        bbox_head=head,
        language_model={
            "type": "BertModel",
            "name": str(READER),
            "max_tokens": 256,
            "pad_to_max": False,
            "use_sub_sentence_represent": True,
            "special_tokens_list": ["[CLS]", "[SEP]", ".", "?"],
        },
        train_cfg=ATSS_TRAINING,
        test_cfg=ANY_TEXTS,
    )

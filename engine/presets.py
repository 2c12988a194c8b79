"""Detector presets one can train, described without loading a model library. `engine.training` builds them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from db.errors import NotFound, WinnowError
from engine.attention_options import AttentionOptions
from engine.language_options import LanguageOptions
from engine.pair_options import PairOptions
from engine.semantic_options import SemanticOptions

OWN = "own_config"
SWIN_T = "glip/glip_atss_swin-t_fpn_dyhead_pretrain_obj365-goldg-cc3m-sub.py"


class TrainOptions(BaseModel):
    """What a person may set for a training. Also the form on the Train page and the flags of `winnow train`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    iterations: int = Field(default=3000, ge=1, le=10_000_000, description="batches to learn from")
    batch_size: int = Field(default=8, ge=1, le=1024, description="images a batch, in each process")
    image_size: tuple[int, int] = Field(
        default=(256, 192), description="width, height the images are fitted into, pixels"
    )
    lr: float = Field(default=2e-3, gt=0, le=1, description="peak learning rate")
    eval_interval: int = Field(default=500, ge=1, description="batches between evaluations on the validation split")
    weights: str | None = Field(
        default=None, description="start from the weights in this file (.safetensors, or .pth without code)"
    )
    config: str | None = Field(
        default=None, description="for your own configuration: the name of the file in the folder configs"
    )
    generated_probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="each batch is of generated images only with this probability (Gen2Det: 0.2), else of real ones; "
        "empty mixes all images evenly",
    )
    ignore_background: bool = Field(
        default=False, description="nothing is learnt from the background of generated images (Gen2Det)"
    )
    accumulate: int = Field(default=1, ge=1, le=1024, description="batches whose gradients make one step")
    ema: bool = Field(default=True, description="evaluate and keep a running mean of the weights")
    amp: bool = Field(default=False, description="mixed precision, faster on a GPU")
    gradient_checkpointing: bool = Field(
        default=False, description="less memory, more time: the backbone is computed again for its gradients"
    )
    patience: int | None = Field(
        default=None, ge=1, description="end early after so many evaluations without a better one; empty: never"
    )
    language: LanguageOptions = Field(default=LanguageOptions(), description="how a detector that reads is prompted")
    pairs: PairOptions = Field(
        default=PairOptions(), description="how a detector learns from boxes and from captions together (DetCLIPv2)"
    )
    semantic: SemanticOptions = Field(
        default=SemanticOptions(), description="what CLIP and images of whole classes teach (RichSem)"
    )
    attention: AttentionOptions = Field(
        default=AttentionOptions(), description="how a model is taught where to look (SynGround)"
    )
    processes: int = Field(default=1, ge=1, le=64, description="processes that share the work, one for each GPU")


class Preset(BaseModel):
    """`config` is the file of a configuration that mmdet ships, `masks` whether the model learns masks too, `pairs` whether
    one that reads also learns from images with a caption alone."""

    model_config = ConfigDict(frozen=True)
    name: str
    kind: Literal["closed", "grounding", "attention"] = "closed"
    title: str
    summary: str
    defaults: TrainOptions = TrainOptions()
    config: str | None = None
    masks: bool = False
    pairs: bool = False


def _tiny(name: str, title: str, summary: str, *, masks: bool = False, lr: float = 2e-3) -> Preset:
    return Preset(name=name, title=f"{title} (CPU)", summary=summary, masks=masks, defaults=TrainOptions(lr=lr))


def _public(
    config: str, title: str, *, lr: float, image_size: tuple[int, int] = (1333, 800), masks: bool = False
) -> Preset:
    """A shipped configuration; `lr` is for the batch of 4, scaled down from the published one for its own batch."""
    name = config.rsplit("/", 1)[-1].removesuffix(".py")
    return Preset(
        name=name,
        title=f"{title} (GPU)",
        summary=f"mmdet's {name}: model and optimizer as published, with Winnow's augmentation and schedule. Wants a "
        "GPU, and the published weights (or those of its backbone) as a file; without, it starts from random ones.",
        defaults=TrainOptions(iterations=20_000, batch_size=4, image_size=image_size, lr=lr, eval_interval=2000),
        config=config,
        masks=masks,
    )


def _attending(attention: AttentionOptions) -> TrainOptions:
    """The schedule of the public models that are taught where to look."""
    return TrainOptions(
        iterations=20_000, batch_size=16, image_size=(256, 256), lr=1e-5, eval_interval=2000, attention=attention
    )


_PRESETS = (
    Preset(
        name="tiny_atss",
        title="Tiny ATSS (CPU)",
        summary="ATSS with a half-width ResNet-18 and a 64-channel FPN, 3 M parameters, from scratch. About a quarter of an "
        "hour on two CPU cores.",
    ),
    _tiny(
        "tiny_faster_rcnn",
        "Tiny Faster R-CNN",
        "Faster R-CNN with the same small ResNet-18 and FPN, from scratch.",
        lr=1e-3,
    ),
    _tiny(
        "tiny_mask_rcnn",
        "Tiny Mask R-CNN",
        "Tiny Faster R-CNN with a mask branch. The real images need masks; generated ones teach boxes only.",
        masks=True,
        lr=1e-3,
    ),
    _tiny(
        "tiny_rtmdet",
        "Tiny RTMDet",
        "RTMDet with a quarter-width CSPNeXt, from scratch.",
    ),
    _tiny(
        "tiny_dino",
        "Tiny DINO",
        "DINO with two layers of 64 channels and 60 queries, from scratch. Learns slowly, as its kind does.",
        lr=5e-4,
    ),
    _public("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "Faster R-CNN R-50", lr=5e-3),
    _public("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "Mask R-CNN R-50", lr=5e-3, masks=True),
    _public("atss/atss_r50_fpn_1x_coco.py", "ATSS R-50", lr=2.5e-3),
    _public("rtmdet/rtmdet_s_8xb32-300e_coco.py", "RTMDet-s", lr=2.5e-4, image_size=(640, 640)),
    _public("dino/dino-4scale_r50_8xb2-12e_coco.py", "DINO R-50, 4 scales", lr=5e-5),
    Preset(
        name="tiny_grounding",
        kind="grounding",
        title="Tiny GLIP (CPU)",
        summary="GLIP without fusion, 1.1 M parameters, that learns words and boxes together from scratch; for Tabletop.",
        defaults=TrainOptions(image_size=(160, 120), lr=1e-3),
    ),
    *(
        _public(config, title, lr=lr).model_copy(update={"kind": "grounding"})
        for config, title, lr in (
            (SWIN_T, "GLIP-T", 1e-5),
            ("grounding_dino/grounding_dino_swin-t_pretrain_obj365_goldg_cap4m.py", "Grounding DINO-T", 1e-5),
            ("mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365_goldg.py", "MM-Grounding-DINO-T", 1e-5),
        )
    ),
    Preset(
        name="tiny_detclip",
        kind="grounding",
        pairs=True,
        title="Tiny DetCLIP (CPU)",
        summary="ATSS whose regions and words are compared without fusion (DetCLIPv2), 1.3 M parameters, from scratch. Also "
        "learns from images with a caption and no boxes; finds what any vocabulary names.",
        defaults=TrainOptions(
            image_size=(160, 120), lr=1e-3, pairs=PairOptions(batch_size=32, proposals=30, text_lr=1.0)
        ),
    ),
    *(
        Preset(
            name=name,
            kind="grounding",
            pairs=True,
            title=f"{title} (GPU)",
            summary=f"DetCLIPv2 with {backbone} and a text encoder of your own: a BERT, or the text tower of an open_clip "
            "model, as language_model. Wants a GPU and the weights of a trained backbone as a file.",
            defaults=TrainOptions(
                iterations=90_000,
                batch_size=4,
                image_size=(1333, 800),
                lr=5e-5,
                eval_interval=5000,
                pairs=PairOptions(image_size=(320, 320), batch_size=96),
            ),
            config=config,
        )
        for name, title, backbone, config in (
            ("detclip_swin_t", "DetCLIPv2 Swin-T", "a Swin-T", SWIN_T),
            ("detclip_r50", "DetCLIPv2 R-50", "a ResNet-50", "atss/atss_r50_fpn_1x_coco.py"),
        )
    ),
    Preset(
        name="tiny_blip",
        kind="attention",
        title="Tiny BLIP (CPU)",
        summary="BLIP with three layers of 96 channels, 0.8 M parameters, that learns from scratch which words go with which "
        "image, and where (SynGround). It has no boxes: it points. For Tabletop.",
        defaults=TrainOptions(
            batch_size=32,
            image_size=(64, 64),
            lr=1e-3,
            attention=AttentionOptions(queue=0, soft=0.0),
        ),
    ),
    Preset(
        name="blip_itm_base",
        kind="attention",
        title="BLIP base, image-text matching (GPU)",
        summary="The public BLIP for retrieval, taught where to look by the boxes of phrases (SynGround). Wants a GPU and the "
        "weights: a folder or hub id as attention.model.",
        defaults=_attending(AttentionOptions(model="Salesforce/blip-itm-base-coco")),
    ),
    Preset(
        name="albef",
        kind="attention",
        title="ALBEF, image-text matching (GPU)",
        summary="The public ALBEF, taught where to look by the boxes of phrases, as AMC and SynGround do. Wants a GPU, its "
        "checkpoint ALBEF.pth as attention.model, and the tokenizer of bert-base-uncased.",
        defaults=_attending(AttentionOptions(model="ALBEF.pth", tokenizer="google-bert/bert-base-uncased")),
    ),
    Preset(
        name=OWN,
        title="Your own mmdet configuration",
        summary="Model and optimizer of a file in the folder configs of the data folder. Such files are Python and are "
        "executed: put only those there that you trust.",
        defaults=TrainOptions(iterations=20_000, batch_size=4, image_size=(1333, 800), lr=1e-3, eval_interval=2000),
    ),
)
PRESETS = {preset.name: preset for preset in _PRESETS}


def train_options(preset: str, options: dict[str, Any]) -> TrainOptions:
    """The options of a preset with those of a person put in. Raises NotFound, or WinnowError naming each bad option."""
    if preset not in PRESETS:
        raise NotFound("detector preset", preset, list(PRESETS))
    try:
        return TrainOptions.model_validate({**PRESETS[preset].defaults.model_dump(), **options})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise WinnowError(f"Training options: {faults}") from error


def wants_masks(preset: str) -> bool:
    """Whether a training needs the masks; of a configuration of one's own nobody knows before it is read."""
    return PRESETS[preset].masks or preset == OWN

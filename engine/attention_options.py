"""What a person may set for the training of a model by its explanation maps, described without loading a model library."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class AttentionOptions(BaseModel):
    """How the maps of a vision-language model are drawn and what is learnt with them (SynGround, on the losses of ALBEF
    and AMC)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str | None = Field(
        default=None,
        description="what to start from: folder or hub id of a BLIP, or the .pth file of an ALBEF; empty: that of the preset",
    )
    tokenizer: str | None = Field(
        default=None, description="folder or hub id of the tokenizer; empty: that of the model. An ALBEF brings none"
    )
    layer: int | None = Field(
        default=None,
        ge=0,
        description="text layer whose cross-attention is the map, counted from 0; empty: 8 of 12, or as deep in others",
    )
    margin_mean: float = Field(
        default=0.1, ge=0, le=1, description="how far the mean inside of a box should exceed that outside"
    )
    margin_max: float = Field(
        default=0.5, ge=0, le=1, description="how far the maximum inside of a box should exceed that outside"
    )
    pool: Literal["batch", "sample"] = Field(
        default="batch", description="the means are of all pixels of a batch, as in the code of AMC, or of each sample"
    )
    all_boxes: bool = Field(
        default=False, description="the map may lie in any box of its phrase; else in one drawn at random"
    )
    jitter: bool = Field(
        default=True,
        description="brightness, contrast and colours are changed at random, as AMC does; off where phrases are about colours",
    )
    pairs: bool = Field(default=True, description="also learn from captions and phrases without boxes, but not where")
    amc: float = Field(default=1.0, ge=0, le=100, description="weight of the loss on the maps (AMC)")
    itc: float = Field(default=1.0, ge=0, le=100, description="weight of the contrast of images and texts (ITC)")
    itm: float = Field(default=1.0, ge=0, le=100, description="weight of telling true pairs from false ones (ITM)")
    mlm: float = Field(default=1.0, ge=0, le=100, description="weight of guessing hidden words (MLM)")
    momentum: float = Field(
        default=0.995, ge=0, lt=1, description="how slowly the second model follows, whose answers are soft targets"
    )
    soft: float = Field(default=0.4, ge=0, le=1, description="share of the soft targets, reached after an epoch")
    queue: int = Field(
        default=65_536, ge=0, le=1_000_000, description="images and texts of earlier batches that ITC contrasts with"
    )

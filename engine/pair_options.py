"""What a person may set for a training with image-text pairs (DetCLIPv2), described without loading a model library."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from db.errors import WinnowError

SOURCES = ("detection", "grounding", "pairs")
"""What an image can teach: boxes of classes, boxes of the phrases of a caption, or a caption alone. Every batch is of one."""

Direction = Literal["text-to-image", "image-to-text", "both"]
Matching = Literal["best", "soft"]
Selection = Literal["batch", "sample", "classification", "centerness"]


class PairOptions(BaseModel):
    """How a detector learns from boxes and from captions together. Numbers are those of DetCLIPv2 (METHODS 4.4 to 4.6)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    shares: tuple[float, float, float] = Field(
        default=(0.4, 0.3, 0.3),
        description="how often a batch is of detection, grounding and pairs; sources without images leave theirs to the rest",
    )
    image_size: tuple[int, int] | None = Field(
        default=None,
        description="width, height that the images of pairs are fitted into (320x320); empty: as all others",
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=8192, description="pairs a batch, in each process; empty: as all others"
    )
    weight: float = Field(default=0.1, ge=0, le=100, description="weight of the contrastive loss (lambda)")
    temperature: float = Field(default=0.5, gt=0, le=10, description="temperature of the contrastive loss (tau)")
    smoothing: float = Field(default=0.1, ge=0, lt=1, description="label smoothing of the contrastive loss")
    direction: Direction = Field(
        default="text-to-image", description="what is told apart: images by a text, texts by an image, or both"
    )
    matching: Matching = Field(default="best", description="a word is its best region, or a soft mean over all regions")
    soft_temperature: float = Field(default=0.1, gt=0, le=10, description="temperature of the soft mean")
    selection: Selection = Field(
        default="batch",
        description="regions are chosen by the texts of all the batch, by those of their own image, by how surely they are "
        "something at all, or by centerness",
    )
    proposals: int = Field(
        default=100, ge=1, le=5000, description="regions of an image that its texts may choose from (k)"
    )
    nms_iou: float = Field(default=0.7, gt=0, le=1, description="regions that overlap more are one")
    whole_captions: bool = Field(default=True, description="the caption itself is one of the texts of its image")
    detection_concepts: int = Field(
        default=150, ge=1, le=2000, description="classes an image is asked for, absent ones included"
    )
    grounding_concepts: int = Field(
        default=100, ge=1, le=2000, description="phrases an image is asked for, concepts of other images included"
    )
    definitions: bool = Field(
        default=True, description='classes are asked for as "name, definition" where one is known'
    )
    tokens: int = Field(default=16, ge=4, le=512, description="tokens of a text that are read; the rest is cut off")
    least_count: int = Field(default=2, ge=1, description="a phrase is a concept when so many captions have it")
    centerness: bool = Field(default=True, description="a box also learns how central it is, which weighs its score")
    regression_weight: float = Field(default=2.0, ge=0, le=100, description="weight of the loss of box corners (alpha)")
    centerness_weight: float = Field(default=1.0, ge=0, le=100, description="weight of the loss of centerness (beta)")
    text_lr: float = Field(
        default=0.1, ge=0, le=10, description="learning rate of the text encoder, as a part of the other"
    )

    @model_validator(mode="after")
    def _possible(self) -> PairOptions:
        if min(self.shares) < 0 or sum(self.shares) <= 0:
            raise WinnowError(
                f"The shares of {', '.join(SOURCES)} should be 0 or more, not all 0; seen: {self.shares}."
            )
        if self.selection == "centerness" and not self.centerness:
            raise WinnowError("Regions can be selected by centerness only when it is learnt: set centerness.")
        return self

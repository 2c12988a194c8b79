"""What a person may set for training with the words of CLIP (RichSem), described without loading a model library."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from db.errors import WinnowError

PLACE = "{}"  # where the name of the class goes in a template


class SemanticOptions(BaseModel):
    """How a detector of fixed classes learns from CLIP and from images of whole classes (METHODS 3). As they are, the
    options change nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    text_classifier: bool = Field(
        default=False, description="classes are told by the likeness of a projection to CLIP's text of their names"
    )
    soft: Literal["none", "label", "semantic"] = Field(
        default="none",
        description="CLIP's soft labels teach nothing, the classifier itself, or (RichSem) a second branch that only the "
        "training has",
    )
    weight: float = Field(default=0.5, ge=0, le=100, description="weight of the soft labels' loss (RichSem: 0.5)")
    view: Literal["auto", "map", "crops"] = Field(
        default="auto",
        description="what CLIP sees of a box: its part of CLIP's map of the whole image (ResNet models only), or a crop; "
        "auto takes the map where there is one",
    )
    clip: str = Field(
        default="assets/pocket/embedder", description="the CLIP: a folder, a hub id, or a name of open_clip (RN50)"
    )
    pretrained: str | None = Field(
        default=None, description="tag of open_clip's weights (openai), for a name of open_clip"
    )
    templates: tuple[str, ...] = Field(
        default=("a photo of a {}",), min_length=1, description="texts of a class, {} is its name; their mean is taken"
    )
    prior: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="probability of a class where its text fits neither well nor ill; empty: a half, as RichSem has it",
    )
    federated: int | None = Field(
        default=None,
        ge=1,
        description="the classification loss looks at the classes of the batch and some others only, so many in all "
        "(RichSem: 50); empty: at all",
    )
    repeat_threshold: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="images with a class that is on a smaller share of the images than this come more often (RichSem: "
        "0.001); empty: all equally often",
    )
    class_images: Literal["mixed", "alternate", "none"] = Field(
        default="mixed",
        description="images of whole classes come among the others, in every other batch (RichSem), or not at all",
    )
    mosaic: bool = Field(default=False, description="four images of whole classes make one picture (RichSem)")

    @model_validator(mode="after")
    def _possible(self) -> SemanticOptions:
        odd = [template for template in self.templates if template.count(PLACE) != 1]
        if odd:
            raise WinnowError(f"A template names the class once, as in 'a photo of a {PLACE}'; seen: {odd[0]!r}.")
        if self.soft == "label" and not self.text_classifier:
            raise WinnowError("Soft labels for the classifier itself (soft: label) need text_classifier: true.")
        if self.prior is not None and not self.text_classifier:
            raise WinnowError("The option prior belongs to text_classifier: true.")
        if self.mosaic and self.class_images == "none":
            raise WinnowError("mosaic is made of class images, which class_images: none leaves out.")
        return self

    @property
    def changes_detector(self) -> bool:
        """Whether the trained detector is built otherwise than its preset says."""
        return self.text_classifier or self.federated is not None

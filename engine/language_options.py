"""What a person may set for the training of a detector that reads, described without loading a model library."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from db.errors import WinnowError


class LanguageOptions(BaseModel):
    """How prompts are made of the samples. The three routes of Enhanced Negatives are probabilities of a sample; one
    that lacks what its route needs stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    negative_text: float = Field(
        default=1 / 6, ge=0, le=1, description="how often negative descriptions join the prompt of their image"
    )
    negative_image: float = Field(
        default=1 / 6, ge=0, le=1, description="how often a negative image stands in for its original"
    )
    negative_pair: float = Field(
        default=1 / 6, ge=0, le=1, description="how often an image and its negative image are shown side by side"
    )
    per_caption: tuple[int, int] = Field(
        default=(1, 2), description="least and most negative descriptions that join a prompt"
    )
    classes: float = Field(
        default=0.3, ge=0, le=1, description="how often an image with both is asked for its classes, not its texts"
    )
    absent: int = Field(default=20, ge=0, le=200, description="most absent classes in a prompt of classes")
    language_model: str | None = Field(
        default=None, description="folder of the text encoder (bert-base-uncased), for the public configurations"
    )

    @model_validator(mode="after")
    def _possible(self) -> LanguageOptions:
        routes = (self.negative_text, self.negative_image, self.negative_pair)
        if sum(routes) > 1 + 1e-9:
            raise WinnowError(f"The routes of negatives should add up to at most 1; seen: {routes}.")
        if not 1 <= self.per_caption[0] <= self.per_caption[1]:
            raise WinnowError(f"per_caption should be 1 <= least <= most; seen: {self.per_caption}.")
        return self

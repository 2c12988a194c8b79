"""Detector presets one can train, described without loading a model library. `engine.training` builds them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TrainOptions(BaseModel):
    """What a person may set for a training. Also the form on the Train page and the flags of `winnow train`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    iterations: int = Field(default=3000, ge=1, le=10_000_000, description="optimizer steps")
    batch_size: int = Field(default=8, ge=1, le=1024, description="images a step")
    image_size: tuple[int, int] = Field(
        default=(256, 192), description="width, height the images are fitted into, pixels"
    )
    lr: float = Field(default=2e-3, gt=0, le=1, description="peak learning rate")
    eval_interval: int = Field(default=500, ge=1, description="steps between evaluations on the validation split")


class Preset(BaseModel):
    model_config = ConfigDict(frozen=True)
    name: str
    title: str
    summary: str
    defaults: TrainOptions = TrainOptions()


PRESETS = {
    "tiny_atss": Preset(
        name="tiny_atss",
        title="Tiny ATSS (CPU)",
        summary="ATSS with a half-width ResNet-18 and a 64-channel FPN, 3 M parameters, from scratch. About a quarter of an "
        "hour on two CPU cores.",
    ),
}

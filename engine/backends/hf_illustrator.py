"""The illustrator: any text-to-image pipeline of diffusers (SD, SDXL, FLUX, Z-Image, ...), and GLIGEN, which draws from boxes.

Which pipeline it is, is read from `model_index.json`; it is loaded, batched and guided as the painter's are (`hf_diffusers`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING, SUPPORTED_TASKS_MAPPINGS

from db.errors import WinnowError
from db.records import XYXY
from engine.backends import gligen, hub
from engine.backends.hf_diffusers import (
    OFFLOADS,
    Renderer,
    check_choice,
    check_numbers,
    load,
    parameters,
    pipeline_class,
    pixels_of,
    placed,
    template_of,
)
from engine.roles import Context, Drawn, DrawTask


class DiffusersIllustrator:
    """Draws images from words.

    `steps`, `guidance` (the pipeline's own when None) and `negative_prompt` go to the pipeline; `size` is the side of its
    images, the model's own when None, and `prompt_template` may put words around $prompt. `compile` and `offload` are as for
    the painter. A GLIGEN model draws what the layout says, and nothing without one. Raises WinnowError for options that
    cannot be, and for a model that is missing or cannot draw from words.
    """

    def __init__(
        self,
        context: Context | None = None,
        *,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        steps: int = 30,
        guidance: float | None = None,
        batch_size: int = 4,
        size: int | None = None,
        negative_prompt: str = "",
        prompt_template: str = "$prompt",
        compile: bool = False,
        offload: str = "auto",
    ) -> None:
        self._template, self._avoid = template_of(prompt_template, more=()), negative_prompt
        check_numbers(steps=steps, batch_size=batch_size, size=size)
        check_choice("offload", offload, OFFLOADS)
        folder, where = hub.locate(model), hub.device_of(device)
        pipe = placed(load(folder, revision, hub.dtype_of(dtype, where), drawing_class), where, offload, compile)
        self.heeds_layout = "gligen_boxes" in parameters(pipe)
        _check_channels(pipe, model)
        kind = Grounder if self.heeds_layout else Sketcher
        self._model = kind(pipe, where, size, batch_size, guidance, num_inference_steps=steps)
        self.size = (self._model.size, self._model.size)
        self._detail = {
            "model": f"{model}@{hub.digest(folder) if Path(folder).is_dir() else revision or 'main'}",
            "pipeline": type(pipe).__name__,
            "steps": steps,
            "guidance": self._model.guidance,
        }

    @property
    def pipe(self) -> Any:
        """The pipeline that draws."""
        return self._model.pipe

    def shows(self, phrase: str, split: str) -> bool:
        """A model tries to draw anything."""
        return True

    def draw(self, tasks: Sequence[DrawTask]) -> list[Drawn | str]:
        """One image per task, in order; those of one size share batches. A sentence where a task cannot be done."""
        done: dict[int, Drawn | str] = {}
        groups: dict[tuple[int, int], list[int]] = {}
        for place, task in enumerate(tasks):
            fault = self._model.fault(task.size or self.size, task.layout)
            if fault:
                done[place] = fault
            else:
                groups.setdefault(task.size or self.size, []).append(place)
        for size, places in groups.items():
            sketches = [self._sketch(tasks[place], size) for place in places]
            for place, sketch, made in zip(places, sketches, self._model.render(sketches), strict=True):
                done[place] = made if isinstance(made, str) else self._drawn(tasks[place], sketch, *made)
        return [done[place] for place in range(len(tasks))]

    def _sketch(self, task: DrawTask, size: tuple[int, int]) -> Sketch:
        avoid = ", ".join(dict.fromkeys(text for text in (self._avoid, task.avoid) if text))
        width, height = size
        shares = tuple(
            (phrase, (x1 / width, y1 / height, x2 / width, y2 / height)) for phrase, (x1, y1, x2, y2) in task.layout
        )
        prompt = self._template.substitute(prompt=task.prompt)
        return Sketch(prompt, avoid if self._model.avoids else "", task.seed, size, shares)

    def _drawn(self, task: DrawTask, sketch: Sketch, pixels: np.ndarray, batch: int) -> Drawn:
        detail = self._detail | {"size": list(sketch.size), "batch": batch}
        detail |= {"model_prompt": sketch.prompt} if sketch.prompt != task.prompt else {}
        detail |= {"negative_prompt": sketch.negative} if sketch.negative else {}
        boxes = tuple(xyxy for _, xyxy in task.layout) if self.heeds_layout else ()
        return Drawn(pixels, boxes, detail)


@dataclass(frozen=True)
class Sketch:
    """One picture for a model; `regions` are phrases with their boxes as shares of the sides."""

    prompt: str
    negative: str
    seed: int
    size: tuple[int, int]
    regions: tuple[tuple[str, XYXY], ...]


class Sketcher(Renderer):
    """A pipeline that draws from a prompt alone."""

    def fault(self, size: tuple[int, int], layout: Sequence[Any]) -> str:
        """Why such a picture cannot be drawn, "" when it can."""
        step = self.pipe.image_processor.config.vae_scale_factor
        odd = any(side % step for side in size)
        return f"size {size[0]}x{size[1]} is no multiple of {step} on both sides" if odd else ""

    def _call(self, orders: Sequence[Sketch]) -> list[np.ndarray | str]:
        width, height = orders[0].size
        result = self.pipe(
            generator=[torch.Generator().manual_seed(order.seed) for order in orders],
            output_type="np",
            **self._prompts(orders),
            **(self._fixed | {"width": width, "height": height}),
        )
        flags = getattr(result, "nsfw_content_detected", None) or [False] * len(orders)
        return [pixels_of(image, flag) for image, flag in zip(result.images, flags, strict=True)]


class Grounder(Sketcher):
    """GLIGEN: one image a call, each phrase in its box."""

    def __init__(self, pipe: Any, device: torch.device, size: int | None, batch: int, *args: Any, **fixed: Any) -> None:
        super().__init__(pipe, device, size, 1, *args, **fixed)

    def fault(self, size: tuple[int, int], layout: Sequence[Any]) -> str:
        if not 0 < len(layout) <= gligen.MOST_BOXES:
            return f"this model draws from 1 to {gligen.MOST_BOXES} phrases with boxes, and there are {len(layout)}"
        return super().fault(size, layout)

    def _call(self, orders: Sequence[Sketch]) -> list[np.ndarray | str]:
        return [self._grounded(order) for order in orders]

    def _grounded(self, order: Sketch) -> np.ndarray | str:
        given = self._prompts([order]) | self._fixed | {"width": order.size[0], "height": order.size[1]}
        made = gligen.draw_boxes(self.pipe, order.regions, order.seed, **given)
        return pixels_of(made, flagged=False)


# Loading


def drawing_class(name: object) -> Any:
    """The class that draws from words with the parts of the pipeline class `name`: itself, or the one of its family that
    `AutoPipelineForText2Image` would take. Raises WinnowError when there is none."""
    own = pipeline_class(name)
    tables: Any = SUPPORTED_TASKS_MAPPINGS
    families = {family for table in tables for family, kind in table.items() if kind is own}
    sisters = [kind for family, kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.items() if family in families]
    known = set(AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values())
    for kind in (own, *sisters):
        takes = set(inspect.signature(kind.__call__).parameters)
        if "gligen_boxes" in takes or (kind in known and not any(name.startswith("control") for name in takes)):
            return kind
    raise WinnowError(
        f"{own.__name__} does not draw from words alone, nor does any pipeline of diffusers {diffusers.__version__} with "
        "its parts. Name a text-to-image model."
    )


def _check_channels(pipe: Any, model: str) -> None:
    """An inpainting UNet takes the masked image as well, which a drawing from nothing has not."""
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    if unet is not None and vae is not None and unet.config.in_channels != vae.config.latent_channels:
        raise WinnowError(
            f"{model} cannot draw from words: its UNet takes {unet.config.in_channels} channels, and a drawing has "
            f"{vae.config.latent_channels}. It is an inpainting model; name a text-to-image one."
        )

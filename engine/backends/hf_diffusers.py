"""The diffusion painter: any inpainting pipeline of diffusers, from a folder or a hub id.

Each box is painted in a square crop at the model's own size and pasted back (`engine.inpainting`); the crops of many
tasks share a batch. Which pipeline it is, is read from `model_index.json`; what it can be told, from its signature.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, Protocol

import diffusers
import numpy as np
import torch
import transformers
from diffusers.pipelines.auto_pipeline import AUTO_INPAINT_PIPELINES_MAPPING, SUPPORTED_TASKS_MAPPINGS
from PIL import Image as Picture

from db.errors import WinnowError
from db.records import XYXY
from engine import inpainting
from engine.backends import gligen, hub
from engine.inpainting import Form, Plan
from engine.pixels import Rectangle
from engine.roles import Context, Detector, Painted, PaintTask
from engine.targets import iou

SDXL = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
# What `encode_prompt` of a pipeline returns, in the names of its call. Other pipelines encode their prompts themselves.
EMBEDDINGS = {
    "StableDiffusionPipeline": SDXL[:2],
    "StableDiffusionXLPipeline": SDXL,
    "StableDiffusion3Pipeline": SDXL,
    "FluxPipeline": ("prompt_embeds", "pooled_prompt_embeds"),
    "StableDiffusionInpaintPipeline": SDXL[:2],
    "StableDiffusionGLIGENPipeline": SDXL[:2],
    "StableDiffusionXLInpaintPipeline": SDXL,
    "StableDiffusion3InpaintPipeline": SDXL,
    "FluxFillPipeline": ("prompt_embeds", "pooled_prompt_embeds"),
}
ENCODED = 64  # pairs of prompts whose embeddings are kept; those of T5 take megabytes each
HEADROOM = 1.25  # memory for a model at work, over that of its weights
OFFLOADS = ("auto", "none", "model", "sequential")
MODES = ("together", "one by one")


class DiffusersPainter:
    """Repaints boxes with a diffusion pipeline.

    `steps`, `guidance` (the pipeline's own when None) and `strength` (above 0, up to 1) go to the pipeline; `size` is the
    side of its images, the model's own when None. `context_share`, `margin` and `feather` are those of
    `engine.inpainting.Form`. `prompt_template` may use $prompt and $caption. `compile` is for CUDA. `offload` keeps a
    model that is too large for the GPU in main memory: whole parts ("model") or layers ("sequential") go there in turn.
    In `scene_mode` "together" the boxes of a scene are painted at once where the model or their distance allows it; "one
    by one" shows each box what was painted before it. Raises WinnowError for options that cannot be, and for a model that
    is missing or cannot inpaint.
    """

    def __init__(
        self,
        context: Context,
        model: str = "assets/pocket/painter",
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        steps: int = 25,
        guidance: float | None = None,
        strength: float = 1.0,
        batch_size: int = 8,
        size: int | None = None,
        context_share: float = Form().context_share,
        feather: float = Form().feather,
        margin: float = Form().margin,
        negative_prompt: str = "",
        prompt_template: str = "$prompt",
        compile: bool = False,
        offload: str = "auto",
        scene_mode: str = "together",
    ) -> None:
        self._template = template_of(prompt_template)
        check_numbers(steps=steps, batch_size=batch_size, size=size)
        _check_shares(context_share=context_share, feather=feather, margin=margin)
        _check_strength(strength, steps)
        check_choice("offload", offload, OFFLOADS)
        check_choice("scene_mode", scene_mode, MODES)
        self._context, self._avoid, self._one_by_one = context, negative_prompt, scene_mode == "one by one"
        folder, where = hub.locate(model), hub.device_of(device)
        pipe = placed(load(folder, revision, hub.dtype_of(dtype, where)), where, offload, compile)
        kind = Grounder if "gligen_boxes" in parameters(pipe) else Inpainter
        form = Form(context_share, margin, feather)
        self._model = kind(pipe, where, form, size, batch_size, guidance, num_inference_steps=steps, strength=strength)
        self._detail = {
            "model": f"{model}@{hub.digest(folder) if Path(folder).is_dir() else revision or 'main'}",
            "pipeline": type(pipe).__name__,
            "steps": steps,
            "guidance": self._model.guidance,
            "strength": strength,
            "size": self._model.size,
        }

    @property
    def pipe(self) -> Any:
        """The pipeline that paints."""
        return self._model.pipe

    @property
    def size(self) -> int:
        """The side of the pictures that the model paints, in pixels."""
        return self._model.size

    def paint(self, tasks: Sequence[PaintTask]) -> list[Painted | str]:
        """One picture per task, or a sentence: the box is covered or outside the image, or memory was short."""
        scenes = [_Scene(tasks, places) for places in _groups(tasks)]
        for scene in scenes:
            self._plan(scene)
        for wave in range(1 + max((job.wave for scene in scenes for job in scene.jobs), default=-1)):
            self._paint_wave([(scene, jobs) for scene in scenes for jobs in self._together(scene, wave)])
        detector = self._context.detector()
        found = {job.place: self._result(scene, job, detector) for scene in scenes for job in scene.jobs}
        return [found[place] for place in range(len(tasks))]

    def _plan(self, scene: _Scene) -> None:
        """Where to paint each job, and in which wave: after those of its scene that it must not share one with."""
        own = {job.task.xyxy for job in scene.jobs}
        planned: list[_Job] = []
        for job in scene.jobs:
            keep = [xyxy for xyxy in job.task.keep if xyxy not in own]
            try:
                job.plan = self._model.plan(scene.image.shape, job.task.xyxy, keep)
            except WinnowError as error:
                job.failure = str(error)
                continue
            before = planned if self._one_by_one else self._model.not_with(job, planned)
            job.wave = 1 + max((other.wave for other in before), default=-1)
            planned.append(job)

    def _together(self, scene: _Scene, wave: int) -> list[list[_Job]]:
        jobs = [job for job in scene.jobs if job.wave == wave and job.plan is not None]
        return [jobs] if self._model.joint and jobs else [[job] for job in jobs]

    def _paint_wave(self, groups: Sequence[tuple[_Scene, list[_Job]]]) -> None:
        orders = [self._order(scene.image, jobs) for scene, jobs in groups]
        for (scene, jobs), order, made in zip(groups, orders, self._model.render(orders), strict=True):
            for job in jobs:
                if isinstance(made, str):
                    job.failure = made
                elif job.plan is not None:
                    scene.image = job.plan.paste(scene.image, made.pixels)
                    job.detail = _provenance(order, job, made.batch)

    def _order(self, image: np.ndarray, jobs: Sequence[_Job]) -> Order:
        """What the model is asked for: one picture in which all these jobs, which share a window, are done."""
        first, plans = jobs[0].task, [job.plan for job in jobs if job.plan is not None]
        prompt = ", ".join(dict.fromkeys(job.task.prompt for job in jobs))
        avoid = dict.fromkeys(text for text in (self._avoid, *(job.task.avoid for job in jobs)) if text)
        return Order(
            image=plans[0].crop(image),
            hole=np.logical_or.reduce([plan.hole() for plan in plans]),
            prompt=self._template.substitute(prompt=prompt, caption=first.caption).strip(" ,"),
            negative=", ".join(avoid) if self._model.avoids else "",
            seed=first.seed,
            regions=tuple((job.task.prompt, _shares(job.task.xyxy, plans[0].window)) for job in jobs),
        )

    def _result(self, scene: _Scene, job: _Job, detector: Detector | None) -> Painted | str:
        if job.failure is not None or job.plan is None:
            return job.failure or "nothing was planned"
        xyxy, refit = _refitted(job.task, job.plan, scene.image, detector)
        drift = {"refit": refit, "box_iou": round(iou(job.task.xyxy, xyxy), 4)}
        touched = tuple(one.plan.touched for one in scene.jobs if one.plan is not None and one.failure is None)
        return Painted(image=scene.image, xyxy=xyxy, touched=touched, detail=self._detail | job.detail | drift)


# Scenes


@dataclass(eq=False)
class _Job:
    """A task on its way; `failure` says why there is no picture."""

    task: PaintTask
    place: int
    plan: Plan | None = None
    wave: int = -1
    failure: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


class _Scene:
    """The tasks that are painted into one image, and that image as it is now."""

    def __init__(self, tasks: Sequence[PaintTask], places: Sequence[int]) -> None:
        self.jobs = [_Job(tasks[place], place) for place in places]
        self.image = self.jobs[0].task.image
        if any(
            job.task.image is not self.image and not np.array_equal(job.task.image, self.image) for job in self.jobs
        ):
            raise ValueError(f"The tasks of the scene {self.jobs[0].task.scene!r} have different images.")


def _groups(tasks: Sequence[PaintTask]) -> list[list[int]]:
    """Places of the tasks of one scene together; a task without a scene is one of its own."""
    groups: dict[object, list[int]] = {}
    for place, task in enumerate(tasks):
        groups.setdefault(place if task.scene is None else task.scene, []).append(place)
    return list(groups.values())


def _shares(xyxy: XYXY, window: Rectangle) -> XYXY:
    x, y, width, height = window[0], window[1], window[2] - window[0], window[3] - window[1]
    return (xyxy[0] - x) / width, (xyxy[1] - y) / height, (xyxy[2] - x) / width, (xyxy[3] - y) / height


def _provenance(order: Order, job: _Job, batch: int) -> dict[str, Any]:
    detail: dict[str, Any] = {"crop": list(job.plan.window) if job.plan else None, "batch": batch}
    if order.prompt != job.task.prompt:
        detail["model_prompt"] = order.prompt
    return detail | ({"negative_prompt": order.negative} if order.negative else {})


def _refitted(task: PaintTask, plan: Plan, after: np.ndarray, detector: Detector | None) -> tuple[XYXY, str]:
    """The box of what was painted, and what says so."""
    if detector is not None:
        seen = inpainting.detected(detector.detect([after])[0], task.category, task.xyxy)
        if seen is not None:
            return seen, "detector"
    if task.box_id is not None:  # a thing stood here before: where the two look alike, the new one seems unchanged
        return task.xyxy, "asked"
    changed = inpainting.changed(task.image, after, plan, task.xyxy)
    return (changed, "changed pixels") if changed is not None else (task.xyxy, "asked")


# The model


class Order(NamedTuple):
    """One picture for a model: `image` (size x size x 3 uint8), `hole` (size x size bool) to be repainted, and the
    phrases of the boxes in it, as shares of the sides."""

    image: np.ndarray
    hole: np.ndarray
    prompt: str
    negative: str
    seed: int
    regions: tuple[tuple[str, XYXY], ...]


class Made(NamedTuple):
    """A painted picture (size x size x 3 uint8), and with how many it shared the batch, itself included."""

    pixels: np.ndarray
    batch: int


class Wish(Protocol):
    """What every pipeline is told of a picture: to show `prompt` and not `negative`, from the noise of `seed`."""

    @property
    def prompt(self) -> str: ...
    @property
    def negative(self) -> str: ...
    @property
    def seed(self) -> int: ...


class Renderer:
    """A pipeline that makes pictures in batches. After CUDA ran out of memory, the batches are smaller. `_call` of a kind of
    pipeline makes one batch."""

    def __init__(
        self,
        pipe: Any,
        device: torch.device,
        size: int | None,
        batch: int,
        guidance: float | None,
        **fixed: Any,
    ) -> None:
        self.pipe, self._device, self._batch = pipe, device, batch
        takes = parameters(pipe)
        self.size = self._checked(size) if size else self._native()
        self._scale = _guidance_name(takes)
        self.guidance = takes[self._scale].default if guidance is None else guidance
        fixed |= {self._scale: self.guidance, "height": self.size, "width": self.size}
        self._fixed = {name: value for name, value in fixed.items() if name in takes}
        self.avoids = "negative_prompt" in takes
        self._encoded = lru_cache(ENCODED)(self._encode)

    def render(self, orders: Sequence[Wish]) -> list[Made | str]:
        """A picture for each order, or a sentence. A picture does not depend on the others in its batch but for rounding:
        each has a generator of its own, on the CPU, so that every device draws the same noise."""
        done: list[Made | str] = []
        while len(done) < len(orders):
            done += self._attempt(orders[len(done) : len(done) + self._batch])
        return done

    def _attempt(self, orders: Sequence[Wish]) -> list[Made | str]:
        """Nothing when the batch was too large, which halves it."""
        try:
            with torch.inference_mode():
                return [one if isinstance(one, str) else Made(one, len(orders)) for one in self._call(orders)]
        except torch.OutOfMemoryError as error:
            told = str(error).partition("\n")[0]
        gc.collect()  # after the handler: the error holds the frames, and they the tensors
        torch.cuda.empty_cache()
        if len(orders) == 1:
            return [f"one picture of {self.size}x{self.size} does not fit into the memory of {self._device}: {told}"]
        self._batch = len(orders) // 2
        return []

    def _call(self, orders: Sequence[Any]) -> list[np.ndarray | str]:
        raise NotImplementedError

    def _prompts(self, orders: Sequence[Wish]) -> dict[str, Any]:
        names = EMBEDDINGS.get(type(self.pipe).__name__)
        if names:
            rows = zip(*(self._encoded(order.prompt, order.negative) for order in orders), strict=True)
            return {name: torch.cat(row) for name, row in zip(names, rows, strict=True) if row[0] is not None}
        prompts: dict[str, Any] = {"prompt": [order.prompt for order in orders]}
        if self.avoids and (self._scale == "true_cfg_scale" or any(order.negative for order in orders)):
            # these pipelines guide only when there is a negative prompt, and a blank one counts
            prompts["negative_prompt"] = [order.negative or " " for order in orders]
        return prompts

    def _encode(self, prompt: str, negative: str) -> tuple[torch.Tensor | None, ...]:
        """The embeddings of one prompt, alone: then they do not depend on its neighbours."""
        given = {
            "prompt": [prompt],
            "prompt_2": None,
            "prompt_3": None,
            "device": self._device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": self.guidance > 1,
            "negative_prompt": [negative] if negative else None,
        }
        takes = inspect.signature(self.pipe.encode_prompt).parameters
        made = self.pipe.encode_prompt(**{name: value for name, value in given.items() if name in takes})
        return tuple(made[: len(EMBEDDINGS[type(self.pipe).__name__])])

    def _native(self) -> int:
        """The side of the images that the model was made for, in pixels."""
        part = getattr(self.pipe, "unet", None) or getattr(self.pipe, "transformer", None)
        side = part.config.get("sample_size") if part is not None else None
        side = getattr(self.pipe, "default_sample_size", None) if side is None else side
        if not isinstance(side, int):
            raise WinnowError(
                f"{type(self.pipe).__name__} does not say how large its images are: set the option `size`."
            )
        return side * self.pipe.vae_scale_factor

    def _checked(self, size: int) -> int:
        step = self.pipe.image_processor.config.vae_scale_factor
        if size % step:
            raise WinnowError(f"size {size} is no multiple of {step}, as {type(self.pipe).__name__} needs.")
        return size


class Inpainter(Renderer):
    """A pipeline that takes images and masks."""

    joint = False  # whether one picture serves several boxes

    def __init__(self, pipe: Any, device: torch.device, form: Form, *sizes: Any, **fixed: Any) -> None:
        super().__init__(pipe, device, *sizes, **fixed)
        self._form = form

    def plan(self, shape: tuple[int, ...], xyxy: XYXY, keep: Sequence[XYXY]) -> Plan:
        """Raises WinnowError for a box that cannot be painted."""
        return inpainting.plan(shape, xyxy, self.size, self._form, keep)

    def not_with(self, job: _Job, others: Sequence[_Job]) -> list[_Job]:
        """Those that must be painted before the job: their windows overlap."""
        return [one for one in others if one.plan and job.plan and inpainting.overlap(one.plan.window, job.plan.window)]

    def _call(self, orders: Sequence[Order]) -> list[np.ndarray | str]:
        result = self.pipe(
            image=[Picture.fromarray(order.image) for order in orders],
            mask_image=[Picture.fromarray(order.hole.astype(np.uint8) * 255) for order in orders],
            generator=[torch.Generator().manual_seed(order.seed) for order in orders],
            output_type="np",
            **self._prompts(orders),
            **self._fixed,
        )
        flags = getattr(result, "nsfw_content_detected", None) or [False] * len(orders)
        return [pixels_of(image, flag) for image, flag in zip(result.images, flags, strict=True)]


class Grounder(Inpainter):
    """GLIGEN: one image a call, with up to thirty boxes."""

    joint = True

    def __init__(
        self, pipe: Any, device: torch.device, form: Form, size: int | None, batch: int, *args: Any, **fixed: Any
    ) -> None:
        super().__init__(pipe, device, form, size, 1, *args, **fixed)

    def plan(self, shape: tuple[int, ...], xyxy: XYXY, keep: Sequence[XYXY]) -> Plan:
        return inpainting.whole(shape, xyxy, self.size, self._form, keep)

    def not_with(self, job: _Job, others: Sequence[_Job]) -> list[_Job]:
        return list(others[: len(others) // gligen.MOST_BOXES * gligen.MOST_BOXES])

    def _call(self, orders: Sequence[Order]) -> list[np.ndarray | str]:
        return [
            pixels_of(
                gligen.paint_boxes(
                    self.pipe, order.image, order.regions, order.seed, **self._prompts([order]), **self._fixed
                ),
                flagged=False,
            )
            for order in orders
        ]

    def _native(self) -> int:
        return gligen.native_size(self.pipe)

    def _checked(self, size: int) -> int:
        if size != self._native():
            raise WinnowError(
                f"This GLIGEN model paints images of {self._native()}x{self._native()} only, not of {size}."
            )
        return size


def pixels_of(image: np.ndarray, flagged: bool) -> np.ndarray | str:
    if flagged:
        return "the model's safety checker withheld the picture"
    if not np.isfinite(image).all():
        return "the model's numbers overflowed: try the dtype bfloat16 or float32"
    return np.rint(image * 255).astype(np.uint8)


def _guidance_name(takes: dict[str, inspect.Parameter]) -> str:
    """The argument that sets how strongly the prompt guides: where both exist, `guidance_scale` without a default is for
    distilled models only."""
    distilled = "true_cfg_scale" in takes and takes["guidance_scale"].default is None
    return "true_cfg_scale" if distilled else "guidance_scale"


# Loading


def load(model: str, revision: str | None, dtype: torch.dtype, class_of: Callable[[object], Any] | None = None) -> Any:
    """The pipeline of a folder or hub id, on the CPU: of the class that `class_of` gives for the one that is named there, by
    default one that inpaints.

    Raises WinnowError when it is missing, of a class that is not known here, or of one that cannot do that.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    options = hub.from_pretrained_options(model, revision)
    try:
        config = diffusers.DiffusionPipeline.load_config(
            model, **{name: value for name, value in options.items() if name != "use_safetensors"}
        )
        kind = (class_of or inpainting_class)(config.get("_class_name"))
        pipe = kind.from_pretrained(model, dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise hub.missing(model, error) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def inpainting_class(name: object) -> Any:
    """The class that inpaints with the parts of the pipeline class `name`: itself, its sister by name, or the one that
    `AutoPipelineForInpainting` would take. Raises WinnowError when there is none."""
    own = pipeline_class(name)
    sister = _found_class(own.__name__.removesuffix("Pipeline") + "InpaintPipeline")
    for kind in (own, sister, _auto_class(own)):
        if kind is not None and _inpaints(kind):
            return kind
    raise WinnowError(
        f"{own.__name__} cannot inpaint from an image and a mask, nor can any pipeline of diffusers {diffusers.__version__} "
        "with its parts. Name an inpainting model."
    )


def pipeline_class(name: object) -> Any:
    """The pipeline class of that name. Raises WinnowError when diffusers has none."""
    own = _found_class(name)
    if own is None:
        raise WinnowError(f"diffusers {diffusers.__version__} has no pipeline {name!r}, which model_index.json names.")
    return own


def _found_class(name: object) -> Any:
    """None for what is no pipeline of diffusers. The deprecated ones will leave the top of the package first."""
    for place in (diffusers, diffusers.pipelines.deprecated):
        found = getattr(place, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline):
            return found
    return None


def _auto_class(own: Any) -> Any:
    """The inpainting class of the family to which diffusers' tables of automatic pipelines count `own`."""
    tables: Any = SUPPORTED_TASKS_MAPPINGS
    families = {family for table in tables for family, kind in table.items() if kind is own}
    return next((kind for family, kind in AUTO_INPAINT_PIPELINES_MAPPING.items() if family in families), None)


def _inpaints(kind: Any) -> bool:
    takes = set(inspect.signature(kind.__call__).parameters)
    return "gligen_inpaint_image" in takes or ({"image", "mask_image"} <= takes and "control_image" not in takes)


def parameters(pipe: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(type(pipe).__call__).parameters)


def placed(pipe: Any, device: torch.device, offload: str, compile: bool) -> Any:
    """The pipeline where it computes. Raises WinnowError for options that need a CUDA device when it is none."""
    if device.type != "cuda" and (compile or offload in ("model", "sequential")):
        wish = "compile" if compile else f"offload {offload!r}"
        raise WinnowError(f"The option {wish} needs a CUDA device; the painter runs on {device}.")
    convolutional = [part for name in ("unet", "vae") if (part := getattr(pipe, name, None)) is not None]
    if device.type != "mps":
        for part in convolutional:
            part.to(memory_format=torch.channels_last)  # a fifth to a third faster, on CPUs too
    chosen = _fitting(pipe, device) if offload == "auto" else offload
    if chosen == "none":
        pipe.to(device)
    else:
        (pipe.enable_model_cpu_offload if chosen == "model" else pipe.enable_sequential_cpu_offload)(device=device)
    if (chosen != "none" or device.type == "mps") and hasattr(pipe, "enable_attention_slicing"):
        pipe.enable_attention_slicing()
    if compile:
        (getattr(pipe, "unet", None) or pipe.transformer).compile()
    return pipe


def _fitting(pipe: Any, device: torch.device) -> str:
    """The offload that the free memory asks for."""
    if device.type != "cuda":
        return "none"
    sizes = [_bytes(part) for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    free = torch.cuda.mem_get_info(device)[0] / HEADROOM
    return "none" if sum(sizes) <= free else "model" if max(sizes) <= free else "sequential"


def _bytes(part: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in part.parameters())


# Options


def template_of(text: str, more: Sequence[str] = ("caption",)) -> Template:
    """Raises WinnowError for a template that does not name $prompt, or names what is neither it nor in `more`."""
    template = Template(text)
    unknown = set(template.get_identifiers()) - {"prompt", *more} if template.is_valid() else {text}
    if unknown or "prompt" not in template.get_identifiers():
        may = "".join(f", may name ${name}" for name in more)
        raise WinnowError(f"prompt_template {text!r} must name $prompt{may}, and nothing else.")
    return template


def check_numbers(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise WinnowError(f"{name} is {value!r}; it should be a whole number from 1.")


def _check_shares(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 4:
            raise WinnowError(f"{name} is {value}; it should be a share of the box's longer side, 0 to 4.")


def _check_strength(strength: float, steps: int) -> None:
    if not 0 < strength <= 1 or int(steps * strength) < 1:
        raise WinnowError(f"strength {strength} leaves none of {steps} steps; it should be above 0, up to 1.")


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise WinnowError(f"{name} is {value!r}; it should be one of {', '.join(known)}.")

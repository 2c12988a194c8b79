"""Captioners of transformers: chat models that see (LLaVA, Qwen-VL, ...) and plain captioning models (BLIP).

A model whose processor has a chat template is asked the instruction beside the image; one without is shown the image alone.
A caption does not depend on the others in its batch, apart from rounding: each row draws with its own random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import transformers
from jinja2 import TemplateError
from PIL import Image as Picture
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig, LogitsProcessorList

from db.errors import WinnowError
from engine.backends import hub
from engine.backends.hf_text import Drawing, stops_of
from engine.chat import ChatRequest
from engine.roles import Captioned, CaptionTask, Context


class HFCaptioner:
    """`temperature` 0 takes the most likely word each time. `max_tokens` bounds a caption, `batch_size` what is looked at together.

    Raises WinnowError for options that cannot be, and for a model that is missing or does not turn images into text.
    """

    def __init__(
        self,
        context: Context | None = None,
        *,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 8,
        max_tokens: int = 160,
        temperature: float = 0.0,
        top_p: float = 0.95,
    ) -> None:
        if min(batch_size, max_tokens) < 1 or temperature < 0 or not 0 < top_p <= 1:
            raise WinnowError(
                "batch_size and max_tokens must be at least 1, temperature at least 0 and top_p in (0, 1]; got "
                f"{batch_size}, {max_tokens}, {temperature}, {top_p}."
            )
        self._device = hub.device_of(device)
        self._batch_size, self._top_p = batch_size, top_p
        self._max_tokens, self._temperature = max_tokens, temperature
        folder = hub.locate(model)
        self._processor, self._model = _load(model, folder, revision, hub.dtype_of(dtype, self._device), self._device)
        self._stops = stops_of(self._model, self._processor.tokenizer)
        if self.chats:  # penalties of the model's own would count padding as text
            pad = self._processor.tokenizer.pad_token_id
            self._model.generation_config = GenerationConfig(eos_token_id=self._stops, pad_token_id=pad)
        self._detail = {
            "model": f"{model}@{hub.digest(folder) if Path(folder).is_dir() else revision or 'main'}",
            "temperature": temperature,
        }

    @property
    def chats(self) -> bool:
        """Whether the model is told what to describe."""
        return bool(getattr(self._processor, "chat_template", None))

    def caption(self, tasks: Sequence[CaptionTask]) -> list[Captioned | str]:
        """One caption per task, in order; a sentence where the model said nothing or memory was short."""
        done: list[Captioned | str] = []
        while len(done) < len(tasks):
            batch = tasks[len(done) : len(done) + self._batch_size]
            texts = self._attempt(batch)
            if texts is None and len(batch) > 1:
                self._batch_size = len(batch) // 2
            elif texts is None:
                done.append(f"the memory of {self._device} is too small for a single image of {batch[0].image.shape}")
            else:
                done += [self._said(text, task) for text, task in zip(texts, batch, strict=True)]
        return done

    def _said(self, text: str, task: CaptionTask) -> Captioned | str:
        words = " ".join(text.split())
        told = {"instruction": task.instruction} if self.chats else {}
        return Captioned(words, self._detail | told) if words else "the captioner said nothing of the image"

    def _attempt(self, tasks: Sequence[CaptionTask]) -> list[str] | None:
        """None when memory ran out."""
        try:
            return self._generate(tasks)
        except torch.OutOfMemoryError:
            pass  # what the failed attempt holds is only released outside of this block
        torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def _generate(self, tasks: Sequence[CaptionTask]) -> list[str]:
        inputs = self._inputs(tasks)
        requests = [
            ChatRequest(messages=(), seed=task.seed, max_tokens=self._max_tokens, temperature=self._temperature)
            for task in tasks
        ]
        drawing = [Drawing(requests, None, self._top_p, self._device)] if self._temperature else []
        made = self._model.generate(
            **inputs,
            max_new_tokens=self._max_tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList(drawing),
        )
        if not self.chats:
            return self._processor.batch_decode(made, skip_special_tokens=True)
        rows = made[:, inputs["input_ids"].shape[1] :].tolist()
        spoken = [list(takewhile(lambda token: token not in self._stops, row)) for row in rows]
        return self._processor.batch_decode(spoken, skip_special_tokens=True)

    def _inputs(self, tasks: Sequence[CaptionTask]) -> dict[str, torch.Tensor]:
        images = [Picture.fromarray(task.image) for task in tasks]
        texts = {"text": [self._asked(task.instruction) for task in tasks], "padding": True} if self.chats else {}
        made = self._processor(images=images, return_tensors="pt", **texts)
        kind = self._model.dtype
        return {
            name: (value.to(kind) if value.is_floating_point() else value).to(self._device)
            for name, value in made.items()
        }

    def _asked(self, instruction: str) -> str:
        """The conversation up to where the answer begins. Raises WinnowError when the chat template refuses it."""
        said = [{"type": "image"}, {"type": "text", "text": instruction}]
        try:
            return self._processor.apply_chat_template([{"role": "user", "content": said}], add_generation_prompt=True)
        except TemplateError as error:
            raise WinnowError(f"The model's chat template refuses an image with an instruction: {error}") from error


def _load(model: str, folder: str, revision: str | None, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    transformers.utils.logging.disable_progress_bar()
    options = hub.from_pretrained_options(folder, revision)
    words = {name: value for name, value in options.items() if name != "use_safetensors"}
    try:
        processor = AutoProcessor.from_pretrained(folder, **words)
        made: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise hub.missing(model, error) from error
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"  # so that every row goes on where its question ends
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor, made.to(device).eval().requires_grad_(False)

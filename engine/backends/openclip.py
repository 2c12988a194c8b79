"""The CLIP embedder: any model of open_clip, from a folder, from a hub id, or by open_clip's own name and tag.

A model is always loaded from a folder (`open_clip_config.json`, safetensors, the tokenizer's files), a snapshot of the
hub's repository where it has none of its own: so its revision is known, and no pickled weights are ever read.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import numpy as np
import open_clip
import torch
from huggingface_hub import constants
from open_clip.transform import center_crop_or_pad
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.nn.functional import normalize
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as pixels

from db.errors import WinnowError
from engine.backends import hub
from engine.roles import Context

WEIGHTS = "open_clip_model.safetensors"
FILES = [WEIGHTS, "*.json", "*.txt", "*.model"]  # the rest are those of tokenizers
PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class OpenCLIPEmbedder:
    """Unit vectors of images and texts in one space; their products are cosine similarities.

    `model` is a folder, a hub id, or a name of open_clip ("ViT-L-14"), which needs a tag of its weights as `pretrained`
    ("openai"). `revision` is of the hub's repository. Batches are halved when CUDA runs out of memory. Raises WinnowError
    for a model that is missing or unknown.
    """

    def __init__(
        self,
        context: Context | None = None,
        model: str = "assets/pocket/embedder",
        pretrained: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 64,
    ) -> None:
        if batch_size < 1:
            raise WinnowError(f"batch_size is {batch_size}, it should be 1 or more.")
        self._device, self._batch = hub.device_of(device), batch_size
        self.batch_size = batch_size
        precision = hub.dtype_of(dtype, self._device)
        source = _source(model, pretrained, revision)
        self.name, self.precision = source.name, PRECISIONS[precision]
        self._model, self._tokenizer = _load(source, self._device, precision)
        self._form = open_clip.get_model_preprocess_cfg(self._model)
        self._dtype = precision
        self.scale = float(self._model.logit_scale.exp())  # of its logits: the similarity that it was trained with
        self.width = self._attempt(self._encode_texts, [""]).shape[1]

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(n, d) float32 unit vectors of HxWx3 uint8 RGB images of any sizes."""
        for place, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f"Image {place} is {image.dtype} {image.shape}, it should be uint8 (H, W, 3).")
        return self._embedded(self._encode_images, images)

    def fit(self, image: np.ndarray) -> np.ndarray:
        """The image at the size that the model looks at, HxWx3 uint8, where `images` need not scale it any more. Several
        threads may do this at once."""
        return fitted(torch.tensor(image).permute(2, 0, 1), self._form).permute(1, 2, 0).contiguous().numpy()

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32 unit vectors. What exceeds the model's context length is not read."""
        different = list(dict.fromkeys(texts))
        place = {text: i for i, text in enumerate(different)}
        return self._embedded(self._encode_texts, different)[[place[text] for text in texts]]

    def _encode_images(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        stacked = torch.stack([fitted(torch.tensor(image).permute(2, 0, 1), self._form) for image in images])
        scaled = pixels.to_dtype(stacked.to(self._device), torch.float32, scale=True)
        ready = pixels.normalize(scaled, list(self._form["mean"]), list(self._form["std"]))
        return self._model.encode_image(ready.to(self._dtype))

    def _encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return self._model.encode_text(self._tokenizer(list(texts)).to(self._device))

    def _embedded(self, encode: Callable[[Sequence[Any]], torch.Tensor], items: Sequence[Any]) -> np.ndarray:
        parts = [torch.empty(0, self.width)]
        done = 0
        while done < len(items):
            parts.append(self._attempt(encode, items[done : done + self._batch]))
            done += len(parts[-1])
        return torch.cat(parts).numpy()

    def _attempt(self, encode: Callable[[Sequence[Any]], torch.Tensor], batch: Sequence[Any]) -> torch.Tensor:
        """No vectors when the batch was too large, which halves it."""
        try:
            with torch.inference_mode():
                return normalize(encode(batch).float(), dim=-1).cpu()
        except torch.OutOfMemoryError as error:
            told = str(error).partition("\n")[0]
        gc.collect()  # after the handler: the error holds the frames, and they the tensors
        torch.cuda.empty_cache()
        if len(batch) == 1:
            raise WinnowError(f"Not even one item of {self.name} fits into the memory of {self._device}: {told}")
        self._batch = len(batch) // 2
        return torch.empty(0, self.width)


def load_clip(model: str, pretrained: str | None = None) -> tuple[Any, Any, Mapping[str, Any]]:
    """(frozen model on the CPU, tokenizer, open_clip's preprocessing configuration), for trainings that look inside a model.
    Named as for `OpenCLIPEmbedder`. Raises WinnowError for a model that is missing or unknown."""
    network, tokenizer = _load(_source(model, pretrained, None), torch.device("cpu"), torch.float32)
    return network, tokenizer, open_clip.get_model_preprocess_cfg(network)


def fitted(image: torch.Tensor, form: Mapping[str, Any]) -> torch.Tensor:
    """An image (3, H, W) uint8 at the size of the model, as open_clip's transform makes it of a PIL image, give or take one
    level. `form` is open_clip's preprocessing configuration."""
    size = form["size"]
    height, width = (size, size) if isinstance(size, int) else size
    way = InterpolationMode.BILINEAR if form["interpolation"] == "bilinear" else InterpolationMode.BICUBIC
    if form["resize_mode"] == "squash":
        return pixels.resize(image, [height, width], way)
    if form["resize_mode"] == "shortest" and height == width:
        return pixels.center_crop(pixels.resize(image, [height], way), [height, width])
    ratios = [image.shape[1] / height, image.shape[2] / width]
    ratio = max(ratios) if form["resize_mode"] == "longest" else min(ratios)
    resized = pixels.resize(image, [max(round(side / ratio), 1) for side in image.shape[1:]], way)
    return center_crop_or_pad(resized, [height, width], fill=form["fill_color"])


# What a bench compares with


def random_model(folder: Path, architecture: str) -> Path:
    """A model of one of open_clip's own shapes ("ViT-B-16") with random weights, the same every time, as a folder."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    weights = {name: part.contiguous() for name, part in open_clip.create_model(architecture).state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    parts = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(parts))
    return folder


def bare_forward(embedder: OpenCLIPEmbedder, images: Sequence[np.ndarray], batch: int) -> Callable[[], torch.Tensor]:
    """A call that runs nothing but the embedder's model over these images, which are made ready here."""
    form, device = embedder._form, embedder._device
    stacked = torch.stack([fitted(torch.tensor(image).permute(2, 0, 1), form) for image in images])
    scaled = pixels.to_dtype(stacked, torch.float32, scale=True)
    ready = pixels.normalize(scaled, list(form["mean"]), list(form["std"])).to(device, embedder._dtype)

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([embedder._model.encode_image(part).cpu() for part in ready.split(batch)])

    return forward


# Where a model is


class _Source(NamedTuple):
    """`quick` says that the weights were trained with QuickGELU, whatever the configuration beside them says."""

    folder: str
    name: str
    quick: bool = False


def _source(model: str, pretrained: str | None, revision: str | None) -> _Source:
    found = hub.locate(model)
    if Path(found).is_dir():
        if pretrained or revision:
            raise WinnowError(f"The model {model} is a folder: `pretrained` and `revision` do not apply to it.")
        return _Source(found, f"{model}@{hub.digest(found)}")
    if "/" in found and not pretrained:
        repository, name, quick = found, found, False
    else:
        tag = _tag(found, pretrained)
        repository, name, quick = _repository(found, tag), f"{found}/{pretrained}", bool(tag.get("quick_gelu"))
    folder = _snapshot(repository, revision)
    return _Source(folder, f"{name}@{Path(folder).name[:12]}", quick)


def _tag(model: str, pretrained: str | None) -> dict[str, Any]:
    """What open_clip knows of one set of weights."""
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not tags:
        raise WinnowError(
            f"No model {model!r}: it is no folder, no hub id (owner/name) and no name of open_clip, such as ViT-L-14."
        )
    if pretrained not in tags:
        seen = f"has no weights {pretrained!r}" if pretrained else "needs to be told which weights (`pretrained`)"
        raise WinnowError(f"The model {model} {seen}. Known: {', '.join(sorted(tags))}.")
    return open_clip.get_pretrained_cfg(model, pretrained)


def _repository(model: str, tag: Mapping[str, Any]) -> str:
    repository, _, file = str(tag.get("hf_hub", "")).rpartition("/")
    if not repository or file:
        raise WinnowError(f"These weights of {model} come as a pickle, not as safetensors. Choose others.")
    return repository


def _snapshot(repository: str, revision: str | None) -> str:
    """The folder of a hub's repository in the local cache, brought there first if downloads are allowed."""
    try:
        return huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=FILES, local_files_only=not hub.downloads_allowed()
        )
    except (OSError, ValueError) as error:
        raise hub.missing(repository, error) from error


def _load(source: _Source, device: torch.device, precision: torch.dtype) -> tuple[Any, Any]:
    """(model in evaluation mode, tokenizer)."""
    if not (Path(source.folder) / WEIGHTS).is_file():
        raise WinnowError(f"{source.folder} is no model of open_clip for Winnow: it holds no {WEIGHTS}.")
    place = f"{open_clip.factory.LOCAL_DIR_PREFIX}{source.folder}"
    try:
        with _no_downloads():
            model = open_clip.create_model(
                place, precision=PRECISIONS[precision], device=device, force_quick_gelu=source.quick
            )
            tokenizer = open_clip.get_tokenizer(place)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AssertionError, SafetensorError) as error:
        raise hub.missing(source.folder, error) from error
    return model.eval().requires_grad_(False), tokenizer


@contextmanager
def _no_downloads() -> Iterator[None]:
    """Keeps open_clip from asking a hub for the parts that a configuration may name, unless downloads are allowed."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not hub.downloads_allowed()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

"""Training of models that are taught where to look: phrases with boxes, and captions without, for BLIP and ALBEF (SynGround, AMC).

The folder of a job holds `train.json` and `val.json`, see `engine.attention_folder`. While it trains, the model plays the
pointing game on the validation phrases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.data import Dataset

from db.errors import WinnowError
from engine.attention_folder import TRAIN, VAL, Entry, read_entries
from engine.backends.hub import from_pretrained_options, locate, missing
from engine.evaluation import pointing
from engine.presets import TrainOptions
from engine.training import mmlab
from engine.training.albef import is_albef, read_albef

mmlab.install()

from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric

from engine.training.blip import AttentionModel, config_of, tiny_config, usual_layer
from engine.training.checkpoint import build
from engine.training.data import as_input
from engine.training.samplers import Gen2DetSampler, SourceSampler
from engine.training.task import Task, TrainJob, adamw, loader

Row = dict[str, Any]
READER = "assets/pocket/reader"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of BLIP and of ALBEF
MOST_WORDS, MOST_TOKENS = 50, 25  # of a text (METHODS 2.2)
SIDES = frozenset(("left", "right", "leftmost", "rightmost"))
FLIP, JITTER, GRAY, STRENGTH = 0.5, 0.5, 0.2, 0.4  # chances of AMC's augmentations; how strong the second is
TOGETHER = 32  # phrases that are asked at once
CARD, WEIGHTS = "detector.json", "model.safetensors"


class AttentionCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`detector.json` of a model that shows where it looks: the preset, the size images are squeezed into, the folder or hub id of
    its tokenizer, the configuration of its BLIP, the layer of the map, whether it also guesses hidden words, and, of an ALBEF, the
    first text layer that sees the image."""

    preset: str
    image_size: tuple[int, int]
    tokenizer: str
    blip: dict[str, Any]
    layer: int
    guesses: bool
    fusion: int = 0


class _Network(NamedTuple):
    """What a training starts from, as it stands in the card."""

    tokenizer: str
    blip: dict[str, Any]
    guesses: bool
    fusion: int = 0


def card_of(preset: str, options: TrainOptions) -> AttentionCard:
    """What a training makes. Raises WinnowError for a model that cannot be found, and for options that do not fit it."""
    network = _network(options)
    layers, patch = network.blip["text_config"]["num_hidden_layers"], network.blip["vision_config"]["patch_size"]
    layer = usual_layer(layers) if options.attention.layer is None else options.attention.layer
    if not network.fusion <= layer < layers:
        raise WinnowError(
            f"attention.layer is {layer}, but the text encoder has {layers} layers, and those from {network.fusion} on see the "
            f"image: use {network.fusion} to {layers - 1}."
        )
    if any(side % patch for side in options.image_size):
        raise WinnowError(
            f"image_size is {options.image_size}; both sides should be multiples of the patch, {patch} pixels."
        )
    return AttentionCard(
        preset, options.image_size, network.tokenizer, network.blip, layer, network.guesses, network.fusion
    )


def _network(options: TrainOptions) -> _Network:
    """The BLIP or ALBEF of the options, or a tiny BLIP to learn from scratch."""
    named, tokenizer = options.attention.model, options.attention.tokenizer
    if named is None:
        reader = tokenizer or READER
        return _Network(reader, tiny_config(len(tokenizer_of(reader)), options.image_size[0]), guesses=True)
    if not is_albef(named):
        return _Network(tokenizer or named, config_of(named), guesses=False)
    if tokenizer is None:
        raise WinnowError(
            f"{named} has no tokenizer with it: name the folder or hub id of its BERT as attention.tokenizer."
        )
    albef = read_albef(named)
    return _Network(tokenizer, albef.config, albef.guesses, albef.fusion)


def model_of(card: AttentionCard, **training: Any) -> ConfigDict:
    """The configuration that the registry builds; `training` are further arguments of `AttentionModel`."""
    pixels = {"mean": [255 * value for value in MEAN], "std": [255 * value for value in STD]}
    return ConfigDict(
        type="AttentionModel",
        blip=card.blip,
        guesses=card.guesses,
        fusion=card.fusion,
        layer=card.layer,
        data_preprocessor={"type": "mmengine.ImgDataPreprocessor", **pixels},
        **training,
    )


def tokenizer_of(model: str) -> Any:
    """The tokenizer in a folder or on the hub. Raises WinnowError when there is none."""
    from transformers import AutoTokenizer

    folder = locate(model)
    options = {name: value for name, value in from_pretrained_options(folder).items() if name != "use_safetensors"}
    try:
        return AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        raise missing(folder, error) from error


def load_attending(folder: Path) -> tuple[AttentionModel, AttentionCard]:
    """(model in evaluation mode on the CPU, its card). Raises WinnowError when the folder is incomplete or damaged."""
    try:
        card = msgspec.json.decode((folder / CARD).read_bytes(), type=AttentionCard)
        weights = load_file(folder / WEIGHTS)
    except (OSError, msgspec.MsgspecError, SafetensorError) as error:
        raise WinnowError(f"{folder} is not a trained model that shows where it looks: {error}") from error
    model = build(model_of(card, soft=0.0))
    kept = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("memory.")}
    try:
        model.load_state_dict({**kept, **weights}, strict=True)
    except RuntimeError as error:
        raise WinnowError(f"The weights in {folder} do not fit {card.preset!r}. Train it again. ({error})") from error
    return model.eval(), card


# Training


def task(job: TrainJob, options: TrainOptions) -> Task:
    """The training of a preset of kind "attention". Raises WinnowError for unusable data or options."""
    if options.gradient_checkpointing:
        raise WinnowError(
            "gradient_checkpointing is not possible here: the maps are gradients themselves. Lower batch_size."
        )
    chosen = options.attention
    entries = [entry for entry in read_entries(job.data / TRAIN) if entry.bbox or chosen.pairs]
    if not entries:
        raise WinnowError(
            f"{job.data / TRAIN} has nothing to learn from: no phrase with a box, and pairs are left out."
        )
    card = card_of(job.preset, options)
    tokenizer = tokenizer_of(card.tokenizer)
    dataset = PhraseDataset(entries, options, tokenizer, job.seed)
    queue = min(chosen.queue, len(entries) // 2)
    model = model_of(
        card,
        start=chosen.model,
        weights={name: getattr(chosen, name) for name in ("amc", "itc", "itm", "mlm")},
        margins=(chosen.margin_mean, chosen.margin_max),
        pool=chosen.pool,
        momentum=chosen.momentum,
        soft=chosen.soft,
        queue=queue,
        ramp=max(1, len(entries) // options.batch_size),
        mask_token=tokenizer.mask_token_id,
    )
    return Task(
        model=model,
        optimizer=_optimizer(options.lr),
        train_loader=_train_loader(dataset, options, job.seed),
        card=card,
        validation=_validation(job.data / VAL, options, tokenizer),
        quality="pointing",
        notes=_notes(entries, card, options, queue),
    )


def _optimizer(lr: float) -> dict[str, Any]:
    """AdamW with the weight decay of ALBEF and AMC."""
    plan = adamw(lr)
    return {**plan, "optimizer": {**plan["optimizer"], "weight_decay": 0.02}}


def _train_loader(dataset: PhraseDataset, options: TrainOptions, seed: int) -> dict[str, Any]:
    sampler: dict[str, Any] = {"batch_size": options.batch_size, "seed": seed, "numbered": True}
    if options.generated_probability is None:
        sampler |= {"type": SourceSampler, "sources": [0] * len(dataset), "shares": (1.0,)}
    else:
        sampler |= {"type": Gen2DetSampler, "probability": options.generated_probability}
    return loader(dataset, sampler, options.batch_size)


def _notes(entries: Sequence[Entry], card: AttentionCard, options: TrainOptions, queue: int) -> tuple[str, ...]:
    boxed = sum(bool(entry.bbox) for entry in entries)
    found = [
        f"{boxed} phrases with boxes, {len(entries) - boxed} images with captions alone; map of text layer {card.layer}"
    ]
    if not card.guesses:
        found.append("This model has no head that guesses words, so there is no MLM loss.")
    if queue < options.attention.queue:
        found.append(f"The queue holds {queue}, half of the texts: with more, a text would be contrasted with itself.")
    if not boxed and options.attention.amc:
        found.append("No phrase has a box, so the loss on the maps (AMC) changes nothing.")
    if options.ignore_background:
        found.append("There is no background here to be left out: ignore_background changes nothing.")
    return tuple(found)


class PhraseDataset(Dataset):
    """Entries as samples of an `AttentionModel`: the image squeezed to its size and varied as AMC does, the ids of one of its
    texts, and the mask [height,width] of one of its boxes (or of all), None without.

    An index is a pair (draw, position): the draw seeds the randomness. A picture is flipped only if its text speaks neither of
    left nor of right.
    """

    def __init__(self, entries: Sequence[Entry], options: TrainOptions, tokenizer: Any, seed: int) -> None:
        self.metainfo: dict[str, Any] = {}
        self._entries, self._size, self._seed = entries, options.image_size, seed
        self._all_boxes, self._jitter = options.attention.all_boxes, options.attention.jitter
        self._read, self._tokenizer = Pictures(options.image_size), tokenizer

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def synthetic(self) -> list[bool]:
        """Which samples are of generated images."""
        return [entry.synthetic for entry in self._entries]

    def __getitem__(self, index: tuple[int, int]) -> Row:
        draw, position = index
        entry, rng = self._entries[position], np.random.default_rng((self._seed, 1, draw))
        text = entry.texts[int(rng.integers(len(entry.texts)))]
        image, (width, height) = self._read(entry.image)
        boxes = entry.bbox if self._all_boxes or not entry.bbox else [entry.bbox[int(rng.integers(len(entry.bbox)))]]
        mask = box_mask(boxes, (width, height), self._size) if boxes else None
        if rng.random() < FLIP and not SIDES & set(text.lower().split()):
            image, mask = image[:, ::-1], None if mask is None else mask[:, ::-1]
        return {
            "inputs": as_input(varied(image, rng) if self._jitter else image),
            "data_samples": {
                "ids": ids_of(self._tokenizer, text),
                "mask": None if mask is None else torch.from_numpy(mask.copy()),
                "image": entry.image,
            },
        }


class Pictures:
    """Image files squeezed into `size_wh`, and their own size; those that fit are kept in memory."""

    ROOM = 1 << 30  # bytes

    def __init__(self, size_wh: tuple[int, int]) -> None:
        self._size, self._left = size_wh, self.ROOM
        self._kept: dict[str, tuple[np.ndarray, tuple[int, int]]] = {}

    def __call__(self, path: str) -> tuple[np.ndarray, tuple[int, int]]:
        """(HxWx3 RGB, (width, height) of the file). Raises WinnowError for a file that is no image."""
        if path in self._kept:
            return self._kept[path]
        found = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if found is None:
            raise WinnowError(f"{path} cannot be read as an image.")
        made = squeezed(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), self._size), (found.shape[1], found.shape[0])
        if self._left >= made[0].nbytes:
            self._kept[path] = made
            self._left -= made[0].nbytes
        return made


def squeezed(image: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """The image at exactly this size, whatever its proportions, as ALBEF and BLIP see it."""
    shrinks = size_wh[0] * size_wh[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def box_mask(boxes: Sequence[Sequence[float]], size_wh: tuple[int, int], target_wh: tuple[int, int]) -> np.ndarray:
    """float32 [height,width] of `target_wh`, 1 in every pixel that a box [x1, y1, x2, y2] of an image of `size_wh` touches."""
    mask = np.zeros(target_wh[::-1], np.float32)
    scale = np.array(target_wh) / np.array(size_wh)
    for box in boxes:
        corners = np.array(box, np.float64).reshape(2, 2) * scale
        (x1, y1), (x2, y2) = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int)
        mask[max(y1, 0) : max(y2, 1), max(x1, 0) : max(x2, 1)] = 1
    return mask


def varied(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation changed by up to 0.4 every other time, grey one time in five (METHODS 2.3)."""
    if rng.random() < JITTER:
        brightness, contrast, saturation = rng.uniform(1 - STRENGTH, 1 + STRENGTH, 3)
        changed = image.astype(np.float32) * brightness
        changed = (changed - changed.mean()) * contrast + changed.mean()
        grey = changed.mean(2, keepdims=True)
        image = (grey + (changed - grey) * saturation).clip(0, 255).astype(np.uint8)
    if rng.random() < GRAY:
        image = cv2.cvtColor(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return image


def plain(text: str) -> str:
    """The text as ALBEF reads it: lower-case, without punctuation, at most 50 words."""
    words = re.sub(r"[^\w\s]|_", " ", text.lower()).split()
    return " ".join(words[:MOST_WORDS])


def ids_of(tokenizer: Any, text: str) -> torch.Tensor:
    """int64 [t], at most 25, the marks of beginning and end among them."""
    return torch.tensor(tokenizer(plain(text), truncation=True, max_length=MOST_TOKENS)["input_ids"])


# Asking


class AskedDataset(Dataset):
    """Phrases (id, image, text) as samples; each result says the `phrase` it is for."""

    def __init__(self, phrases: Sequence[Row], size_wh: tuple[int, int], tokenizer: Any) -> None:
        self.metainfo: dict[str, Any] = {}
        self._phrases, self._read, self._tokenizer = phrases, Pictures(size_wh), tokenizer

    def __len__(self) -> int:
        return len(self._phrases)

    def __getitem__(self, place: int) -> Row:
        row = self._phrases[place]
        image, _ = self._read(row["image"])
        return {
            "inputs": as_input(image),
            "data_samples": {"ids": ids_of(self._tokenizer, row["text"]), "phrase": row["id"]},
        }


def _validation(path: Path, options: TrainOptions, tokenizer: Any) -> dict[str, Any]:
    """The Runner's arguments that make it validate; none without phrases to ask."""
    phrases = read_phrases(path)
    if not phrases:
        return {}
    sampler = {"type": "DefaultSampler", "shuffle": False}
    return {
        "val_dataloader": loader(AskedDataset(phrases, options.image_size, tokenizer), sampler, TOGETHER),
        "val_cfg": {"type": "ValLoop"},
        "val_evaluator": [PointingMetric(phrases)],
    }


def read_phrases(path: Path) -> list[Row]:
    """The phrases to ask. Raises WinnowError when the file holds none such."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, list[Row]])["phrases"]
    except (OSError, msgspec.MsgspecError, KeyError) as error:
        raise WinnowError(f"{path} should hold the phrases of the validation images: {error!r}") from error


class PointingMetric(BaseMetric):
    """The pointing game over phrases (id, width, height, boxes)."""

    default_prefix = ""  # the names are unmistakable, and mmengine warns about None

    def __init__(self, phrases: Sequence[Row]) -> None:
        super().__init__(collect_device="cpu")
        self._phrases = {row["id"]: row for row in phrases}

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """One prediction for each phrase."""
        self.results += [pointed(self._phrases[one["phrase"]], one["map"].numpy()) for one in data_samples]

    def compute_metrics(self, results: list[Row]) -> Row:
        """`pointing` and how it is by words."""
        return pointing.evaluate(list(self._phrases.values()), results)


def pointed(phrase: Row, heat: np.ndarray) -> Row:
    """The prediction for a phrase (id, width, height, perhaps proposals) from its map [rows,columns]: the strongest point, and
    which of the proposals, boxes xywh, is the fullest."""
    large = pointing.enlarged(heat, (phrase["width"], phrase["height"]))
    found: Row = {"phrase_id": phrase["id"], "point": list(pointing.peak(large))}
    proposals = phrase.get("proposals", ())
    return found | ({"bbox": list(proposals[pointing.fullest(large, proposals)])} if proposals else {})


def ask(
    folder: Path,
    phrases: Sequence[Row],
    progress: Callable[[int, int], None] = lambda done, total: None,
    device: str = "cpu",
) -> list[np.ndarray]:
    """The maps float32 [rows,columns] of the model in `folder` for phrases (id, image, text); `progress` may raise to stop."""
    model, card = load_attending(folder)
    model.to(device)
    dataset, maps = AskedDataset(phrases, card.image_size, tokenizer_of(card.tokenizer)), []
    for start in range(0, len(phrases), TOGETHER):
        items = [dataset[place] for place in range(start, min(start + TOGETHER, len(phrases)))]
        samples = {"ids": [item["data_samples"]["ids"] for item in items]}
        batch = {"inputs": [item["inputs"] for item in items], "data_samples": samples}
        told = model.data_preprocessor(batch, False)
        maps += list(model(**told, mode="tensor").cpu().numpy())
        progress(start + len(items), len(phrases))
    return maps

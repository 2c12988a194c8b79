"""The pocket embedder: a tiny CLIP (Radford et al., 2021), trained on crops of Tabletop, that open_clip loads.

Several texts of a batch may be true of one crop, and several crops of one text: each true pair is a positive (as in
Khosla et al., 2020). Every true text has a foil that differs from it in one word, since few batches would hold so hard a
negative by chance.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional
from torch.optim.swa_utils import update_bn
from transformers import PreTrainedTokenizerFast

from engine.backends.openclip import WEIGHTS, OpenCLIPEmbedder
from engine.tabletop import KINDS
from engine.tabletop.kinds import BY_NAME
from engine.tabletop.language import ATTRIBUTES, NUMBERS
from engine.tabletop.relations import RELATIONS
from engine.tabletop.surfaces import SURFACES
from engine.training.pocket.crops import SAID, WORDS, Crops, crops, dataset, describe
from engine.training.pocket.sitting import Sitting

SIZE = 64  # pixels of a crop
NARROWEST = 0.6  # ratio of the sides of the crops, which are squashed to squares
COUNT = 30_000  # crops to train on
HELD_OUT = 1_000_003  # the world in which the figures are taken
BATCH = 128
RATE = 1.5e-3
SETTLING = 40  # batches from which the statistics of the averaged weights are taken
TEMPLATES = ("a photo of {}.", "a photo of {}", "a picture of {}", "an image of {}", "{}.")
SPECIAL = ("[pad]", "[unk]", "[bos]")
END = "[eos]"
UNSAID = -1
MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 2, 1], "width": 16, "head_width": 64},
    "text_cfg": {"context_length": 20, "hf_tokenizer_name": "words", "width": 96, "heads": 4, "layers": 2},
}
IMAGES: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
Progress = Callable[[str, int, float], None]


def train(
    folder: Path,
    out: Path,
    *,
    steps: int,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    count: int = COUNT,
    held_out: int = 2000,
) -> dict[str, float]:
    """Train, or go on training, in `folder` (crops, checkpoint); write the model and its card to `out`.

    Returns the figures of `evaluate`, taken on so many `held_out` crops, and those of the training. `progress` hears
    ("embedder", step, mean loss) now and then.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    data = dataset(folder, seed + 11, count, SIZE, difficulty="mixed", narrowest=NARROWEST)
    torch.manual_seed(seed)
    tokenizer = tokenizer_of()
    model = new_model(tokenizer)
    model.visual.to(memory_format=torch.channels_last)  # a fifth faster on CPUs
    sitting = Sitting(folder, "embedder", model, steps=steps, lr=RATE, seed=seed)
    batches = _Batches(data, tokenizer)
    sitting.run(
        lambda generator: batches.loss(sitting.module, generator),
        None if progress is None else lambda step, loss: progress("embedder", step, loss),
    )
    update_bn(batches.settling(), sitting.ema)  # the averaged weights have no statistics of their own
    size = write(out, sitting.ema, tokenizer)
    trained = {"steps": steps, "seed": seed, "crops": count, "loss": sitting.loss, "megabytes": size / 1e6}
    figures = trained | evaluate(out, count=held_out)
    (out / "README.md").write_text(card(figures), encoding="utf-8")
    return figures


# The model and its words


def new_model(tokenizer: PreTrainedTokenizerFast) -> open_clip.CLIP:
    """A modified ResNet of 16 channels and a text transformer of two layers: 1.7 M parameters."""
    parts = _config(tokenizer)
    return open_clip.CLIP(parts["embed_dim"], parts["vision_cfg"], parts["text_cfg"])


def _config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    config = copy.deepcopy(MODEL)
    config["text_cfg"] |= {"vocab_size": len(tokenizer), "pad_id": tokenizer.pad_token_id}
    return config


def tokenizer_of() -> PreTrainedTokenizerFast:
    """One token a word: the words of Tabletop's grammar and of the usual templates; any other word is [unk]."""
    told = " ".join(
        [kind.noun + " " + kind.plural for kind in KINDS]
        + [word for words in ATTRIBUTES.values() for word in words]
        + [*NUMBERS, *RELATIONS, *SURFACES.values(), *TEMPLATES, "the an a and , this that with it there is are"]
    )
    split = pre_tokenizers.Whitespace()
    words = sorted({word for word, _ in split.pre_tokenize_str(told) if word not in "{}."} | {"."})
    # open_clip reads a text at its highest token: the end has to come last
    places = {word: place for place, word in enumerate([*SPECIAL, *words, END])}
    tokens = Tokenizer(models.WordLevel(places, unk_token="[unk]"))
    tokens.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokens.pre_tokenizer = split
    tokens.post_processor = processors.TemplateProcessing(
        single=f"[bos] $A {END}", special_tokens=[("[bos]", places["[bos]"]), (END, places[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[pad]", unk_token="[unk]", bos_token="[bos]", eos_token=END
    )


def write(out: Path, model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> int:
    """Write a folder that open_clip loads as "local-dir:", in half precision. Returns the bytes of its weights."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    config = {"model_cfg": _config(tokenizer), "preprocess_cfg": IMAGES | {"size": SIZE}}
    (out / "open_clip_config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    unfinished = out / f".{WEIGHTS}.part"
    save_file(weights, unfinished)
    os.replace(unfinished, out / WEIGHTS)
    return (out / WEIGHTS).stat().st_size


# Training


class _Batches:
    """Random batches of the crops with texts, and the loss on them."""

    def __init__(self, data: Crops, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._images = torch.from_numpy(data.images).permute(0, 3, 1, 2)
        self._labels = data.labels.astype(int)

    def loss(self, model: torch.nn.Module, generator: torch.Generator) -> torch.Tensor:
        """The contrastive loss of a random batch, with a true text and a foil for each of its crops."""
        chosen = torch.randint(len(self._images), (BATCH,), generator=generator)
        rng = np.random.default_rng(int(torch.randint(1 << 62, (), generator=generator)))
        labels = self._labels[chosen.numpy()]
        said = np.array([_said(label, rng) for label in labels])
        said = np.concatenate([said, [foil(label, rng) for label in said]])
        tokens = self._tokens([wording(label, rng) for label in said])
        images, texts, scale = model(_varied(self._images[chosen], generator), tokens)
        return contrast(scale.clamp(max=100) * images @ texts.T, torch.from_numpy(true_pairs(labels, said)))

    def _tokens(self, texts: list[str]) -> torch.Tensor:
        """(n, context) int64, as open_clip's tokenizer makes them of the folder."""
        length = MODEL["text_cfg"]["context_length"]
        found = self._tokenizer(texts, max_length=length, padding="max_length", truncation=True, return_tensors="pt")
        return found["input_ids"]

    def settling(self) -> Iterator[torch.Tensor]:
        """Some batches of the crops as they are."""
        for batch in self._images[: SETTLING * BATCH].split(BATCH):
            yield _normal(batch.float() / 255)


def contrast(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row, and of each column with a true pair, against its true pairs in equal shares."""
    used = true.any(0)
    rows, columns = true.float(), true[:, used].T.float()
    over_texts = functional.cross_entropy(logits, rows / rows.sum(1, keepdim=True))
    over_images = functional.cross_entropy(logits[:, used].T, columns / columns.sum(1, keepdim=True))
    return (over_texts + over_images) / 2


def true_pairs(labels: np.ndarray, said: np.ndarray) -> np.ndarray:
    """(crops, texts) bool: whether each word that the text says is true of the crop. `labels` and `said` are (n, 4)."""
    return ((said[None] == UNSAID) | (said[None] == labels[:, None])).all(2)


def _said(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shares = [SAID.get(slot, 1.0) for slot in WORDS]
    return np.where(rng.random(len(shares)) < shares, labels, UNSAID)


def foil(said: np.ndarray, rng: np.random.Generator, slot: int | None = None) -> np.ndarray:
    """The words with one of them changed, that of `slot` or a random one; at times to a kind that looks alike."""
    changed, lists = said.copy(), list(WORDS.values())
    slot = int(rng.choice(np.flatnonzero(said != UNSAID))) if slot is None else slot
    twins = BY_NAME[lists[0][said[0]]].twins if slot == 0 and rng.random() < 0.5 else ()
    if twins:
        changed[0] = lists[0].index(str(rng.choice(twins)))
    else:
        changed[slot] = (said[slot] + rng.integers(1, len(lists[slot]))) % len(lists[slot])
    return changed


def wording(said: np.ndarray, rng: np.random.Generator) -> str:
    """The words as people may put them: with "the", in the plural, as the subject of a relation, "a photo of" it."""
    words = {slot: WORDS[slot][label] for slot, label in zip(WORDS, said, strict=True) if label != UNSAID}
    text, chance = describe(**words), rng.random(4)
    if chance[0] < 0.15:
        text = "the " + text.split(" ", 1)[1]
    elif chance[0] < 0.35:
        text = text.split(" ", 1)[1]
    elif chance[0] < 0.43:
        kind = BY_NAME[words["kind"]]
        text = f"{rng.choice(NUMBERS[1:])} {text.split(' ', 1)[1].removesuffix(kind.noun)}{kind.plural}"
    if chance[1] < 0.12:
        other = describe(str(rng.choice(WORDS["kind"])), str(rng.choice(WORDS["colour"])))
        text = f"{text} {rng.choice(list(RELATIONS))} {other}"
    if chance[2] < 0.08:
        article, _, rest = text.partition(" ")
        text = f"{article} {rng.choice([*ATTRIBUTES['size'], '[unk]'])} {rest}"
    return str(rng.choice(TEMPLATES)).format(text) if chance[3] < 0.3 else text


def _varied(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The crops (n, 3, size, size) uint8 with other light, moved a little, flipped, some coarse; ready for the model."""
    n, pad = len(images), SIZE // 16
    chance = torch.rand(5, n, 1, 1, 1, generator=generator)
    scaled = images.float() / 255
    coarse = functional.interpolate(functional.avg_pool2d(scaled, 2), scale_factor=2, mode="bilinear")
    scaled = torch.where(chance[0] < 0.15, coarse, scaled)
    scaled = torch.where(chance[1] < 0.5, scaled.flip(3), scaled)
    middle = scaled.mean((1, 2, 3), keepdim=True)
    scaled = ((scaled - middle) * (0.8 + 0.4 * chance[2]) + middle * (0.85 + 0.3 * chance[3])).clamp(0, 1)
    wide = functional.pad(scaled, (pad, pad, pad, pad), mode="replicate")
    corners = torch.randint(2 * pad + 1, (n, 2), generator=generator).tolist()
    moved = [one[:, y : y + SIZE, x : x + SIZE] for one, (y, x) in zip(wide, corners, strict=True)]
    return _normal(torch.stack(moved))


def _normal(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(IMAGES[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std


# Figures


def evaluate(out: Path, seed: int = HELD_OUT, count: int = 2000) -> dict[str, float]:
    """How well the model in `out` knows crops of a world it was not trained in, all shares in 0..1.

    `kind`, `colour`, `pattern`, `material` and `kind_colour` (one of 400) are zero-shot top-1; `recall_1` and `recall_5`
    how often a crop that fits is among the first when one looks for a full description; `foil_...` how often a
    description is nearer to its crop than the same with that word changed.
    """
    embedder = OpenCLIPEmbedder(model=str(out))
    held = list(crops(seed, count, SIZE))
    images = embedder.images([crop.image for crop in held])
    labels = np.array([[words.index(word) for words, word in zip(WORDS.values(), c.words, strict=True)] for c in held])
    figures = {"held_out": float(count)} | _zero_shot(embedder, images, labels)
    return figures | _recall(embedder, images, [crop.text for crop in held]) | _foiled(embedder, images, labels)


def _zero_shot(embedder: OpenCLIPEmbedder, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """A colour, pattern or material alone is the mean over all kinds of texts that say it."""
    kinds, colours = WORDS["kind"], WORDS["colour"]
    figures = {"kind": _share(images @ embedder.texts([describe(kind) for kind in kinds]).T, labels[:, 0])}
    for place, (slot, words) in enumerate(list(WORDS.items())[1:], 1):
        texts = embedder.texts([describe(kind, **{slot: word}) for word in words for kind in kinds])
        means = texts.reshape(len(words), len(kinds), -1).mean(1)
        figures[slot] = _share(images @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T, labels[:, place])
    both = embedder.texts([describe(kind, colour) for kind in kinds for colour in colours])
    return figures | {"kind_colour": _share(images @ both.T, labels[:, 0] * len(colours) + labels[:, 1])}


def _share(similarity: np.ndarray, right: np.ndarray) -> float:
    return float((similarity.argmax(1) == right).mean())


def _recall(embedder: OpenCLIPEmbedder, images: np.ndarray, texts: list[str]) -> dict[str, float]:
    queries = sorted(set(texts))
    nearest = np.argsort(-embedder.texts(queries) @ images.T, axis=1)[:, :5]
    fits = np.array(texts)[nearest] == np.array(queries)[:, None]
    return {"recall_1": float(fits[:, 0].mean()), "recall_5": float(fits.any(1).mean())}


def _foiled(embedder: OpenCLIPEmbedder, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    rng, figures = np.random.default_rng(0), {}
    true = (images * embedder.texts(_texts(labels))).sum(1)
    for slot, name in enumerate(WORDS):
        foils = embedder.texts(_texts(np.array([foil(label, rng, slot) for label in labels])))
        figures[f"foil_{name}"] = float((true > (images * foils).sum(1)).mean())
    return figures


def _texts(labels: np.ndarray) -> list[str]:
    return [describe(*(words[i] for words, i in zip(WORDS.values(), label, strict=True))) for label in labels]


def card(figures: dict[str, float]) -> str:
    """The model card, in Markdown."""
    rows = {
        "kind, 1 of 40": "kind",
        "colour, 1 of 10": "colour",
        "pattern, 1 of 6": "pattern",
        "material, 1 of 5": "material",
        "kind and colour, 1 of 400": "kind_colour",
        "recall at 1, full description": "recall_1",
        "recall at 5, full description": "recall_5",
    } | {f"true text above a foil of its {slot}": f"foil_{slot}" for slot in WORDS}
    chance = [1 / 40, 1 / 10, 1 / 6, 1 / 5, 1 / 400, None, None] + [0.5] * 4
    table = "\n".join(
        f"| {what} | {figures[name]:.1%} | {'' if luck is None else f'{luck:.3g}'} |"
        for (what, name), luck in zip(rows.items(), chance, strict=True)
    )
    return CARD.format(table=table, **figures)


CARD = """# The pocket embedder

A tiny CLIP for crops of Tabletop, Winnow's demo world. open_clip loads it: `create_model("local-dir:" + folder)`.

- Model: a modified ResNet (16 channels, 64 x 64 pixels) and a text transformer (2 layers, 20 tokens), 128 dimensions;
  {megabytes:.1f} MB in half precision. One token a word; words outside Tabletop's grammar are unknown to it.
- Data: {crops} crops of scenes of all three difficulties, painted by `engine.training.pocket.crops`, 40 kinds in equal
  shares, with random context and true descriptions of random length, each with a foil of one word.
- Training: {steps} steps of 128 crops, seed {seed}, by `engine.training.pocket.embedder`; mean loss {loss:.2f} at the end.

Zero-shot figures on {held_out:.0f} crops of another world of standard difficulty:

| task | share | chance |
| --- | --- | --- |
{table}

Limits: it knows nothing but Tabletop; photos, and words outside the grammar, give vectors without meaning. Crops should
hold one object with a margin of 5 % to 45 % of its longer side. It does not know sizes, numbers and relations: a text is
read for the look of its first object. Small, dark or half-hidden objects and materials are where it errs most.
"""

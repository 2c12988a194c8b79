"""ALBEF's public checkpoints (Li et al. 2021, "Align before Fuse"), read as weights of `engine.training.blip.Matcher`.

ALBEF and BLIP are one network but for three things: ALBEF's text encoder sees the image from a middle layer on only (`fusion`,
layer 6 of 12), and what it reads without the image ends before that layer; its words have an embedding of their sort, which is the
same for all and so joins that of their place; and its checkpoints of the first training can guess hidden words.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import BlipConfig

from db.errors import WinnowError

SUFFIX = ".pth"
HEAD = 64  # numbers of an attention head, in ViT-B and in BERT-base
DROPPED = 0.1  # by the dropout of BERT
BEGINNINGS = {  # the first that fits
    "visual_encoder.": "blip.vision_model.",
    "text_encoder.bert.": "blip.text_encoder.",
    "text_encoder.cls.": "words.",
    "text_encoder.": "blip.text_encoder.",
    "vision_proj.": "blip.vision_proj.",
    "text_proj.": "blip.text_proj.",
    "itm_head.": "blip.itm_head.",
}
VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "blocks.": "encoder.layers.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    "vision_model.norm.": "vision_model.post_layernorm.",
}
LEFT_OUT = re.compile(r"\w+_m\.|(image_|text_|idx_)?queue(_ptr)?$|temp$|.*\.position_ids$")
"""The second model and its memory, which a training begins anew, and what is no weight."""


class Albef(NamedTuple):
    """A checkpoint: the BlipConfig of its sizes as a dict, the first text layer that sees the image, its weights by the names that
    they have in a `Matcher`, the temperature of ITC, and whether it can guess hidden words."""

    config: dict[str, Any]
    fusion: int
    weights: dict[str, Tensor]
    temperature: Tensor
    guesses: bool


def is_albef(model: str | None) -> bool:
    """Whether what is named as a model is a checkpoint of ALBEF: a file, where BLIPs are folders or ids of a hub."""
    return bool(model) and Path(str(model)).suffix == SUFFIX


def read_albef(model: str) -> Albef:
    """A checkpoint of ALBEF's first training, or of one for retrieval or grounding. No code in the file is run.

    Raises WinnowError for a file that is missing or is none.
    """
    path = Path(model).expanduser()
    state = _state(path)
    try:
        config, fusion = _config(state)
        weights = {_renamed(name): tensor for name, tensor in _without_sorts(state).items() if not LEFT_OUT.match(name)}
    except (KeyError, ValueError) as error:
        raise WinnowError(
            f"{path} holds no ALBEF that tells whether a text matches an image: {error} is odd."
        ) from error
    guesses = any(name.startswith("words.") for name in weights)
    return Albef(config, fusion, weights, state.get("temp", torch.tensor(0.07)), guesses)


def _state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WinnowError(
            f"There is no file {path}. Download ALBEF.pth (its authors' link is in ALBEF's README) and name it as attention.model."
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise WinnowError(f"{path} cannot be read as a checkpoint without running code: {error}") from error
    state = loaded.get("model", loaded) if isinstance(loaded, Mapping) else {}
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _config(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], int]:
    """(BlipConfig by the shapes of the weights, the first layer with cross-attention). Raises KeyError or ValueError."""
    places, patch = state["visual_encoder.pos_embed"], state["visual_encoder.patch_embed.proj.weight"]
    bert = "text_encoder.bert." if "text_encoder.bert.embeddings.LayerNorm.weight" in state else "text_encoder."
    words = state[f"{bert}embeddings.word_embeddings.weight"]
    seeing = _numbers(state, rf"{re.escape(bert)}encoder\.layer\.(\d+)\.crossattention\.")
    vision = {
        **_sizes(state, r"visual_encoder\.blocks\.(\d+)\.", "visual_encoder.blocks.0.mlp.fc1.weight"),
        "image_size": math.isqrt(places.shape[1] - 1) * patch.shape[-1],
        "patch_size": patch.shape[-1],
        "layer_norm_eps": 1e-6,
    }
    text = {
        **_sizes(
            state, rf"{re.escape(bert)}encoder\.layer\.(\d+)\.", f"{bert}encoder.layer.0.intermediate.dense.weight"
        ),
        "encoder_hidden_size": places.shape[-1],
        "vocab_size": len(words),
        "max_position_embeddings": len(state[f"{bert}embeddings.position_embeddings.weight"]),
        "hidden_dropout_prob": DROPPED,
        "attention_probs_dropout_prob": DROPPED,
    }
    joint = len(state["vision_proj.weight"])
    return BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=joint).to_dict(), min(seeing)


def _sizes(state: Mapping[str, Tensor], layers: str, inner: str) -> dict[str, int]:
    wide, width = state[inner].shape
    return {
        "num_hidden_layers": 1 + max(_numbers(state, layers)),
        "hidden_size": width,
        "intermediate_size": wide,
        "num_attention_heads": max(1, width // HEAD),
    }


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[int]:
    return {int(found[1]) for name in state if (found := re.match(pattern, name))}


def _without_sorts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the embedding of the first sort of words, the only one in use, added to those of the places."""
    kept = dict(state)
    for name in [name for name in state if name.endswith("embeddings.token_type_embeddings.weight")]:
        places = name.replace("token_type", "position")
        kept[places] = kept[places] + kept.pop(name)[0]
    return kept


def _renamed(name: str) -> str:
    begins = next((old for old in BEGINNINGS if name.startswith(old)), "")
    found = BEGINNINGS.get(begins, "") + name.removeprefix(begins)
    for old, new in VISION.items() if begins == "visual_encoder." else ():
        found = found.replace(old, new)
    return found

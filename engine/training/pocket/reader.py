"""The text encoder of the tiny grounding detector: a BERT of two layers and 64 channels, without training of its own.

It is saved as a folder because mmdet's text encoder is built from one; the detector's training gives it its weights. The
words of Tabletop and of the lexicon are tokens, any other word is spelt out in letters.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

from engine import lexicon
from engine.tabletop.kinds import KINDS
from engine.tabletop.language import ATTRIBUTES, NUMBERS
from engine.tabletop.relations import RELATIONS
from engine.tabletop.surfaces import SURFACES

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHANNELS = 64
LONGEST = 256  # tokens of a prompt
_GRAMMAR = "a an the and that is not without with no"


def write(folder: Path, seed: int = 0) -> None:
    """Write configuration, tokenizer and the first weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=CHANNELS,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4 * CHANNELS,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=0.0,  # the detector is small: what it lacks is room, not restraint
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    listed = folder / "vocab.txt"
    listed.write_text("\n".join(tokens) + "\n", "utf-8")
    BertTokenizer(str(listed), model_max_length=LONGEST).save_pretrained(folder)


def vocabulary() -> list[str]:
    """Every token, in the order of their numbers."""
    world = [*(k.noun for k in KINDS), *(k.plural for k in KINDS), *RELATIONS, *NUMBERS, *SURFACES.values(), _GRAMMAR]
    world += [word for words in ATTRIBUTES.values() for word in words]
    known = [*lexicon.nouns(), *(word for kind in lexicon.edit_types() for word in lexicon.words_of(kind))]
    words = sorted({part for text in (*world, *known) for part in text.lower().replace("-", " ").split()})
    letters = [*string.punctuation, *string.digits, *string.ascii_lowercase]
    pieces = [f"##{letter}" for letter in string.ascii_lowercase + string.digits]
    return list(dict.fromkeys((*SPECIAL, *letters, *pieces, *words)))

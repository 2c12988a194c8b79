"""The pocket writer: a small causal language model that foils Tabletop phrases as JSON, loaded by `AutoModelForCausalLM`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.training.pocket.foils import Example, examples
from engine.training.pocket.sitting import Sitting

BATCH = 16
LONGEST = 288  # tokens of question and answer; longer examples are left out of the training
QUESTION = 0.05  # weight of the loss on the question: reading it teaches the words and how to copy
LAST = "<|end|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<|pad|>", LAST, "<|system|>", "<|user|>", "<|assistant|>"]
Progress = Callable[[str, int, float], None]


class Plan(NamedTuple):
    """How long to train."""

    scenes: int = 2400
    steps: int = 9000


def question(text: str, facts: Sequence[str]) -> str:
    """What the model is asked; the prompt `pocket_foil` gives the same words."""
    return f"foil: {text}\nfacts: {'; '.join(facts)}"


def answer(example: Example) -> str:
    """What it should say: one negative in the schema of all writers. The text comes last: a small model that has said what
    it will change does change it, and copies the rest."""
    negative = {
        "edit_type": example.edit_type,
        "changed_from": example.changed_from,
        "changed_to": example.changed_to,
        "text": example.foil,
    }
    return msgspec.json.encode({"negatives": [negative]}).decode()


def train(work: Path, out: Path, plan: Plan | None = None, *, seed: int = 0, progress: Progress | None = None) -> None:
    """Train, or go on training, in the folder `work`, and write model and tokenizer in half precision to `out`."""
    plan = plan or Plan()
    work.mkdir(parents=True, exist_ok=True)
    data = examples(work, scenes=plan.scenes, seed=seed + 1)
    tokenizer = tokenizer_of(data[:20000])
    pairs = _encoded(work, tokenizer, data, plan)
    torch.manual_seed(seed)
    model: Any = new_model(tokenizer)

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(pairs), (BATCH,), generator=generator).tolist()
        tokens, weights = _batch([pairs[i] for i in chosen], tokenizer.pad_token_id)
        logits = model(input_ids=tokens, attention_mask=(tokens != tokenizer.pad_token_id).long()).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()

    sitting = Sitting(work, "writer", model, steps=plan.steps, lr=2e-3, seed=seed)
    sitting.run(loss_of, None if progress is None else lambda step, loss: progress("writer", step, loss))
    finished: Any = sitting.ema.half()
    finished.save_pretrained(out)
    tokenizer.save_pretrained(out)


def tokenizer_of(data: Sequence[Example]) -> PreTrainedTokenizerFast:
    """Byte-level byte pairs, so that every text can be read and given back exactly; the words of the world are tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((question(e.text, e.facts) + answer(e) for e in data), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=SPECIAL[0],
        eos_token=LAST,
        extra_special_tokens=SPECIAL[2:],
        chat_template=TEMPLATE,
        model_max_length=512,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Four layers of 128 channels, 0.9 M parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


Pair = tuple[list[int], int]  # tokens of question and answer, and where the answer begins


def _encoded(work: Path, tokenizer: PreTrainedTokenizerFast, data: Sequence[Example], plan: Plan) -> list[Pair]:
    path = work / f"tokens_{plan.scenes}.json"
    if not path.is_file():
        asked = [f"<|user|>{question(e.text, e.facts)}{LAST}<|assistant|>" for e in data]
        given = [f"{answer(e)}{LAST}" for e in data]
        heads = tokenizer(asked, add_special_tokens=False).input_ids
        tails = tokenizer(given, add_special_tokens=False).input_ids
        made = [(head + tail, len(head)) for head, tail in zip(heads, tails, strict=True)]
        path.write_bytes(msgspec.json.encode([pair for pair in made if len(pair[0]) <= LONGEST]))
    return msgspec.json.decode(path.read_bytes(), type=list[Pair])


def _batch(pairs: Sequence[Pair], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (n, longest) and the weight of each in the loss."""
    longest = max(len(tokens) for tokens, _ in pairs)
    tokens = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in pairs])
    weights = torch.zeros(tokens.shape)
    for row, (words, start) in zip(weights, pairs, strict=True):
        row[:start], row[start : len(words)] = QUESTION, 1.0
    return tokens, weights

"""Chat models on this machine, by transformers: batched, left-padded, with a KV cache.

What a request gets does not depend on the requests it shares a batch with, apart from the rounding of the device's
matrix products: each row has its own random numbers.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from db.errors import WinnowError
from engine.backends import hub
from engine.backends.chat_writer import STRATEGIES, ChatWriter, divided, loaded
from engine.chat import ChatReply, ChatRequest, Usage
from engine.roles import Context

QUANTIZED = (None, "4bit")


class HFTextWriter(ChatWriter):
    """A writer on a local model. `options` are those of `ChatWriter` (temperature, ...) and of `HFChat` (device, ...)."""

    def __init__(self, context: Context, *, model: str, prompts: Sequence[str] = STRATEGIES, **options: Any) -> None:
        asking, placing = divided(options)
        templates = loaded(context, prompts)
        super().__init__(HFChat(model, **placing), templates, **asking)


class _Row(NamedTuple):
    place: int
    tokens: list[int]
    request: ChatRequest


class HFChat:
    """A causal language model with a chat template, from a folder or a hub id.

    `quantize` "4bit" (CUDA, bitsandbytes) quarters the memory of the weights. `max_length` bounds question and answer
    together, in tokens; the model's own when None. Of what is likely, the least likely tokens that make up `1 - top_p`
    are never drawn. With `constrained` a schema is enforced while the answer is written, where xgrammar is installed.
    Raises WinnowError for a model that is missing or has no chat template, and for options that cannot be.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        top_p: float = 0.95,
        constrained: bool = True,
    ) -> None:
        if batch_size < 1 or (max_length or 1) < 1 or not 0 < top_p <= 1:
            raise WinnowError(
                f"batch_size and max_length must be at least 1 and top_p in (0, 1]; got {batch_size}, {max_length}, {top_p}."
            )
        folder, where = hub.locate(model), hub.device_of(device)
        quantization = _quantization(quantize, where, hub.dtype_of(dtype, where))
        self._tokenizer, self._model = _load(folder, revision, where, hub.dtype_of(dtype, where), quantization)
        config = self._model.config
        is_folder = Path(folder).is_dir()
        self.name = f"{model}@{hub.digest(folder) if is_folder else _commit(config) or revision or 'main'}"
        self.usage = Usage()
        self._stops = stops_of(self._model, self._tokenizer)
        self._model.generation_config = GenerationConfig(  # penalties of the model's own would count padding as text
            eos_token_id=self._stops, pad_token_id=self._tokenizer.pad_token_id, do_sample=False
        )
        text_config = config.get_text_config()
        self._max_length = max_length or getattr(text_config, "max_position_embeddings", None) or 2**31
        self._batch_size, self._top_p = batch_size, top_p
        use_grammar = constrained and importlib.util.find_spec("xgrammar") is not None
        self._grammar = _Grammar(self._tokenizer, text_config.vocab_size) if use_grammar else None

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply per request, in order; an error for a conversation that is too long, for one that the model's chat
        template refuses, and when memory is short for a single one."""
        replies: dict[int, ChatReply] = {}
        rows: list[_Row] = []
        for place, request in enumerate(requests):
            try:
                rows.append(_Row(place, encoded(self._tokenizer, request, self._max_length), request))
            except WinnowError as error:
                replies[place] = ChatReply(text=None, error=str(error))
        rows.sort(key=lambda row: len(row.tokens), reverse=True)  # what needs most memory comes first
        for has_schema in (True, False):
            replies |= self._answers([row for row in rows if (row.request.schema is not None) == has_schema])
        self.usage += Usage(requests=len(requests))
        return [replies[place] for place in range(len(requests))]

    def _answers(self, rows: Sequence[_Row]) -> dict[int, ChatReply]:
        """Replies by place. When memory runs out, half of the batch is tried, and from then on no more at once."""
        replies: dict[int, ChatReply] = {}
        while rows:
            batch = rows[: self._batch_size]
            made = self._generated(batch)
            if made is not None:
                replies |= {row.place: self._reply(row, tokens) for row, tokens in zip(batch, made, strict=True)}
            elif len(batch) == 1:
                error = f"memory ran out over a single conversation of {len(batch[0].tokens)} tokens"
                replies[batch[0].place] = ChatReply(text=None, error=error)
            else:
                self._batch_size = len(batch) // 2
                continue
            rows = rows[len(batch) :]
        return replies

    def _generated(self, batch: Sequence[_Row]) -> list[list[int]] | None:
        """The new tokens of each row, None when memory ran out."""
        try:
            return self._generate(batch)
        except torch.OutOfMemoryError:
            pass  # what the failed attempt holds is only released outside of this block
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def _generate(self, batch: Sequence[_Row]) -> list[list[int]]:
        longest = max(len(row.tokens) for row in batch)
        pads = [longest - len(row.tokens) for row in batch]
        # on the left, so that every row goes on where its question ends
        padded = [[self._tokenizer.pad_token_id] * pad + row.tokens for pad, row in zip(pads, batch, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
        requests = [row.request for row in batch]
        made = self._model.generate(
            input_ids=torch.tensor(padded, device=self._model.device),
            attention_mask=torch.tensor(mask, device=self._model.device),
            max_new_tokens=max(request.max_tokens for request in requests),
            logits_processor=LogitsProcessorList(self._processors(requests, longest)),
        )
        return made[:, longest:].tolist()

    def _processors(self, requests: Sequence[ChatRequest], start: int) -> list[LogitsProcessor]:
        """What happens to the scores before the best is taken; the grammar first."""
        schemas = [request.schema for request in requests if request.schema is not None]
        found = [self._grammar.processor(schemas)] if self._grammar and schemas else []
        if any(request.temperature > 0 for request in requests):
            found.append(Drawing(requests, start, self._top_p, self._model.device))
        return found

    def _reply(self, row: _Row, tokens: list[int]) -> ChatReply:
        own = tokens[: row.request.max_tokens]
        end = next((i for i, token in enumerate(own) if token in self._stops), None)
        spent = len(own) if end is None else end + 1
        self.usage += Usage(tokens_in=len(row.tokens), tokens_out=spent)
        return ChatReply(text=self._tokenizer.decode(own[:end], skip_special_tokens=True))


class Drawing(LogitsProcessor):
    """Leaves each row one token, the one that the row's own random numbers draw, so that greedy search takes it.

    Drawn by the inverse of the cumulative distribution over the `top_p` nucleus (Holtzman et al., 2020), with one uniform
    number per token from a generator seeded by the request. Temperature 0 takes the most likely token. `start` is how many
    tokens there are before the first drawn one; as many as there are at the first call when None.
    """

    def __init__(self, requests: Sequence[ChatRequest], start: int | None, top_p: float, device: torch.device) -> None:
        drawn = [torch.rand(r.max_tokens, generator=torch.Generator().manual_seed(r.seed)) for r in requests]
        self._uniform = torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True).to(device)  # rows x steps
        temperatures = torch.tensor([[r.temperature] for r in requests], device=device)
        self._greedy = temperatures == 0
        self._temperatures = temperatures.masked_fill(self._greedy, 1.0)
        self._start, self._top_p = start, top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` (rows, vocabulary) with all but the chosen tokens at minus infinity."""
        self._start = input_ids.shape[1] if self._start is None else self._start
        step = input_ids.shape[1] - self._start
        likely, order = (scores.float() / self._temperatures).softmax(-1).sort(dim=-1, descending=True, stable=True)
        total = likely.cumsum(-1)
        last = ((total - likely < self._top_p).sum(-1, keepdim=True) - 1).clamp(min=0)
        goal = self._uniform[:, step : step + 1] * total.gather(-1, last)
        pick = torch.searchsorted(total, goal, right=True).minimum(last).masked_fill(self._greedy, 0)
        return torch.full_like(scores, -torch.inf).scatter(-1, order.gather(-1, pick), 0.0)


class _Grammar:
    """Answers that follow a JSON schema, by xgrammar."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        import xgrammar

        self._library = xgrammar
        self._compiler = xgrammar.GrammarCompiler(
            xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
        )
        self._compiled: dict[str, Any] = {}

    def processor(self, schemas: Sequence[dict[str, Any]]) -> Any:
        """For one batch and one use: a row for each schema."""
        keys = [json.dumps(schema) for schema in schemas]
        for key in keys:
            if key not in self._compiled:
                self._compiled[key] = self._compiler.compile_json_schema(key)
        return self._library.contrib.hf.LogitsProcessor([self._compiled[key] for key in keys])


def encoded(tokenizer: Any, request: ChatRequest, limit: int) -> list[int]:
    """The conversation as tokens, up to where the answer begins.

    Raises WinnowError when the chat template refuses it, and when it and its answer may not fit into `limit` tokens.
    """
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # of templates that know it, such as Qwen3's; others ignore it
        )
    except TemplateError as error:
        raise WinnowError(f"the model's chat template refuses this conversation: {error}") from error
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if len(tokens) + request.max_tokens > limit:
        raise WinnowError(
            f"the conversation has {len(tokens)} tokens and its answer may have {request.max_tokens}; "
            f"together the model takes {limit}"
        )
    return tokens


def _load(
    folder: str, revision: str | None, device: torch.device, dtype: torch.dtype, quantization: dict[str, Any]
) -> tuple[Any, Any]:
    """Tokenizer and model. Raises WinnowError when one of them is missing or cannot chat."""
    options = hub.from_pretrained_options(folder, revision)
    words = {name: value for name, value in options.items() if name != "use_safetensors"}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **words)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, device_map={"": device}, **options, **quantization
        )
    except (OSError, ValueError) as error:
        raise hub.missing(folder, error) from error
    if not tokenizer.chat_template:
        raise WinnowError(f"The model {folder} has no chat template: choose one that was tuned to follow instructions.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise WinnowError(f"The tokenizer of {folder} has neither a padding nor an end token.")
    return tokenizer, model.eval()


def _quantization(quantize: str | None, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Options of `from_pretrained`. Raises WinnowError where the quantisation is unknown or cannot be had."""
    if quantize is None:
        return {}
    if quantize not in QUANTIZED:
        raise WinnowError(f"Unknown quantize {quantize!r}. Known: {', '.join(map(str, QUANTIZED))}.")
    if device.type != "cuda":
        raise WinnowError(f"quantize {quantize!r} needs a CUDA device; this is {device.type}. Leave it out.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise WinnowError(f"quantize {quantize!r} needs bitsandbytes. Install it: pip install bitsandbytes")
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": four}


def stops_of(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, by the model's settings and the tokenizer's."""
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    return sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None})


def _commit(config: Any) -> str | None:
    """The commit of the hub that the model came from."""
    return getattr(config, "_commit_hash", None)

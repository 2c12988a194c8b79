"""Local chat models: transformers on tiny random models of the real classes, vLLM on a strict double."""

from __future__ import annotations

import importlib.machinery
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from db.errors import WinnowError
from db.records import Dataset
from db.store import Store
from engine.backends import hf_text
from engine.backends.hf_text import HFChat, HFTextWriter
from engine.backends.vllm_text import VLLMChat, VLLMWriter
from engine.chat import ChatReply, ChatRequest, Message, Usage
from engine.prompts import SCHEMAS
from engine.roles import Context, Foil, WriteTask

SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and m['content'] == 'refused' %}"
    "{{ raise_exception('no such system') }}{% endif %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.6,  # so that what comes next depends on what went before
}


def tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    """One token for each byte."""
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytewise = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    given: dict[str, Any] = {"pad_token": SPECIAL[0], "eos_token": SPECIAL[1], "chat_template": TEMPLATE} | changes
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, extra_special_tokens=SPECIAL[2:], **given)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two random models, by name, with their tokenizers."""
    torch.manual_seed(0)
    words = tokenizer()
    made = {
        "llama": LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **SMALL)),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(vocab_size=len(words), head_dim=8, **SMALL)),
    }
    for name, model in made.items():
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        made[name] = str(folder)
    return made


@pytest.fixture
def chat_of(folders: dict[str, str]) -> Callable[..., HFChat]:
    return lambda name="llama", **options: HFChat(folders[name], device="cpu", **options)


def request(text: str, *, seed: int = 0, temperature: float = 1.0, max_tokens: int = 12, **rest: Any) -> ChatRequest:
    messages = (Message(role="user", content=text),)
    return ChatRequest(messages=messages, seed=seed, temperature=temperature, max_tokens=max_tokens, **rest)


LONG = "a red mug left of a blue ball, " * 4
MIXED = [
    request("a"),
    request(LONG, seed=1, max_tokens=7),
    request("a mug", temperature=0),
    request("a", seed=2),
    request(LONG[:50], seed=3, temperature=0.3),
    request("", temperature=0),
    request("a"),
]


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_reply_does_not_depend_on_the_batch(chat_of: Any, name: str) -> None:
    chat = chat_of(name)
    together = chat.complete(MIXED)
    assert together == [chat.complete([one])[0] for one in MIXED]
    assert together[0] == together[-1]
    assert all(reply.text and not reply.error for reply in together)
    assert len({reply.text for reply in together}) == len(MIXED) - 1


def test_greedy_answers_are_those_of_the_model(chat_of: Any) -> None:
    """Against the model run by hand, without padding, cache or batch."""
    chat = chat_of()
    asked = [request(text, temperature=0) for text in ("a", "a mug", LONG)]
    for one, reply in zip(asked, chat.complete(asked), strict=True):
        tokens = chat._tokenizer.encode(f"<|user|>{one.messages[0].content}<|end|><|assistant|>")
        start = len(tokens)
        while len(tokens) < start + one.max_tokens and (len(tokens) == start or tokens[-1] != 1):
            with torch.inference_mode():
                tokens.append(int(chat._model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
        assert reply.text == chat._tokenizer.decode(tokens[start:], skip_special_tokens=True)


def test_seeds_and_temperature_matter(chat_of: Any) -> None:
    chat = chat_of()
    drawn = [reply.text for reply in chat.complete([request("a mug", seed=seed) for seed in range(20)])]
    assert len(set(drawn)) > 15
    still = chat.complete([request("a mug", seed=seed, temperature=0) for seed in range(5)])
    cold = chat.complete([request("a mug", seed=seed, temperature=0.001) for seed in range(5)])
    assert len({reply.text for reply in (*still, *cold)}) == 1


def test_tokens_are_drawn_with_their_probability() -> None:
    """20,000 draws from a known distribution, against its nucleus: 0.5, 0.3 and 0.15 of 0.95."""
    logits = torch.log(torch.tensor([[0.15, 0.5, 0.05, 0.3]])).expand(20000, 4)
    rows = [request("", seed=seed, max_tokens=1) for seed in range(20000)]
    drawing = hf_text.Drawing(rows, 3, 0.9, torch.device("cpu"))
    chosen = drawing(torch.zeros(20000, 3, dtype=torch.long), logits).argmax(-1)
    share = torch.bincount(chosen, minlength=4) / 20000
    assert torch.allclose(share, torch.tensor([0.15, 0.5, 0.0, 0.3]) / 0.95, atol=0.015)


def test_usage_counts_what_was_read_and_written(chat_of: Any) -> None:
    chat = chat_of()
    chat.complete([request("abc", max_tokens=5, temperature=0), request("x" * 20, max_tokens=9)])
    assert chat.usage.requests == 2
    assert chat.usage.tokens_in == (3 + 3) + (20 + 3)
    assert chat.usage.tokens_out == 5 + 9  # neither happens to end early


def test_an_answer_ends_at_the_end_token(chat_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_of()
    words = chat._tokenizer
    given = [[*words.encode("one"), 1, *words.encode("more")], words.encode("longer than that")]
    monkeypatch.setattr(chat, "_generate", lambda batch: given)
    replies = chat.complete([request("aa", max_tokens=9), request("a", max_tokens=6)])
    assert [reply.text for reply in replies] == ["one", "longer"]
    assert chat.usage.tokens_out == 4 + 6


def test_what_cannot_be_asked_is_an_error_of_its_own(chat_of: Any) -> None:
    chat = chat_of(max_length=60)
    refused = ChatRequest(messages=(Message(role="system", content="refused"), *request("a").messages), max_tokens=5)
    good, long, strange, other = chat.complete([request("a"), request("x" * 46), refused, request("b")])
    assert good.text and other.text
    assert long.error == ("the conversation has 49 tokens and its answer may have 12; together the model takes 60")
    assert strange == ChatReply(text=None, error=strange.error) and "no such system" in strange.error


def test_when_memory_runs_out_the_batch_is_halved(chat_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_of(batch_size=6)
    expected = chat.complete(MIXED)
    whole, sizes = chat._generate, []

    def short_of_memory(batch: Sequence[Any]) -> list[list[int]]:
        sizes.append(len(batch))
        if len(batch) > 2 or len(batch[0].tokens) > 100:
            raise torch.OutOfMemoryError("no memory")
        return whole(batch)

    monkeypatch.setattr(chat, "_generate", short_of_memory)
    replies = chat.complete(MIXED)
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1, 1]
    assert [a == b for a, b in zip(replies, expected, strict=True)].count(False) == 1
    assert "memory ran out over a single conversation of 127 tokens" in replies[1].error


# Loading


def test_the_name_tells_the_weights(folders: dict[str, str], tmp_path: Path, chat_of: Any) -> None:
    first = chat_of().name
    folder, _, digest = first.rpartition("@")
    assert folder == folders["llama"] and len(digest) == 12
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert HFChat(str(copied)).name == f"{copied}@{digest}"
    tokenizer(model_max_length=99).save_pretrained(copied)
    hf_text.hub.digest.cache_clear()
    assert HFChat(str(copied)).name != f"{copied}@{digest}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"chat_template": None}, "has no chat template"), ({"pad_token": None, "eos_token": None}, "neither a padding")],
)
def test_models_that_cannot_chat(folders: dict[str, str], tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    copied = shutil.copytree(folders["llama"], tmp_path / "copy")
    (copied / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer(**changes).save_pretrained(copied)
    with pytest.raises(WinnowError, match=said):
        HFChat(str(copied))


def test_the_end_token_pads_where_there_is_no_other(folders: dict[str, str], tmp_path: Path, chat_of: Any) -> None:
    copied = shutil.copytree(folders["llama"], tmp_path / "copy")
    tokenizer(pad_token=None).save_pretrained(copied)
    chat = HFChat(str(copied))
    assert chat._tokenizer.pad_token == "<|end|>"
    assert chat.complete(MIXED) == chat_of().complete(MIXED)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantize": "3bit"}, "Unknown quantize '3bit'. Known: None, 4bit"),
        ({"quantize": "4bit"}, "needs a CUDA device"),
        ({"batch_size": 0}, "at least 1"),
        ({"top_p": 0.0}, "top_p"),
        ({"dtype": "int3"}, "Unknown dtype"),
    ],
)
def test_impossible_options(chat_of: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(WinnowError, match=said):
        chat_of(**options)


def test_four_bits_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_text.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WinnowError, match="pip install bitsandbytes"):
        hf_text._quantization("4bit", torch.device("cuda"), torch.float16)
    monkeypatch.setattr(hf_text.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(WinnowError, match="Unknown quantize"):
        hf_text._quantization("8bit", torch.device("cuda"), torch.float16)


def test_a_missing_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WINNOW_DOWNLOADS", raising=False)
    with pytest.raises(WinnowError, match="WINNOW_DOWNLOADS=1"):
        HFChat("nobody/nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WinnowError, match="could not be loaded"):
        HFChat(str(tmp_path))


# Schemas


class GrammarProcessor(LogitsProcessor):
    """As xgrammar's: one grammar for each row, used for one call of `generate` only. Its grammar is the one letter x."""

    def __init__(self, grammars: list[str]) -> None:
        self.grammars = grammars

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert len(self.grammars) == len(scores)
        only = torch.full_like(scores, -torch.inf)
        only[:, len(SPECIAL) + sorted(pre_tokenizers.ByteLevel.alphabet()).index("x")] = 0.0
        return only


@pytest.fixture
def xgrammar(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A double of the library in its place; the list of the schemas it compiled."""
    compiled: list[str] = []

    class GrammarCompiler:
        def __init__(self, info: Any) -> None:
            assert info == ("info", len(SPECIAL) + 256)

        def compile_json_schema(self, schema: str) -> str:
            compiled.append(schema)
            return schema

    module: Any = ModuleType("xgrammar")
    module.__spec__ = importlib.machinery.ModuleSpec("xgrammar", None)
    module.TokenizerInfo = SimpleNamespace(from_huggingface=lambda tokenizer, *, vocab_size: ("info", vocab_size))
    module.GrammarCompiler = GrammarCompiler
    module.contrib = SimpleNamespace(hf=SimpleNamespace(LogitsProcessor=GrammarProcessor))
    monkeypatch.setitem(sys.modules, "xgrammar", module)
    return compiled


def test_a_schema_is_enforced_where_the_library_is_installed(chat_of: Any, xgrammar: list[str]) -> None:
    asked = [
        request("a", schema=SCHEMAS["negatives"], max_tokens=4),
        request("a", max_tokens=4),
        request("a mug", schema=SCHEMAS["objects"], max_tokens=3, temperature=0),
        request("mugs", schema=SCHEMAS["negatives"], max_tokens=4),
    ]
    chat = chat_of()
    first, free, second, third = [reply.text for reply in chat.complete(asked)]
    assert (first, second, third) == ("xxxx", "xxx", "xxxx")
    assert free == chat_of(constrained=False).complete(asked)[1].text != "xxxx"
    chat.complete(asked)
    assert sorted(map(json.loads, xgrammar), key=str) == sorted([SCHEMAS["negatives"], SCHEMAS["objects"]], key=str)


# The writer


def test_the_writer_on_a_model_that_knows_one_answer(
    folders: dict[str, str], store: Store, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "text": "a blue mug",
        "edit_type": "colour",
        "changed_from": "red",
        "changed_to": "blue",
    }
    words = tokenizer().encode(json.dumps({"negatives": [said]}))
    monkeypatch.setattr(HFChat, "_generate", lambda self, batch: [[*words, 1]] * len(batch))
    writer = HFTextWriter(
        Context(store, dataset.id), model=folders["llama"], prompts=["pocket_foil"], device="cpu", temperature=0.5
    )
    (foils,) = writer.write([WriteTask(text="a red mug", n=1, seed=1)])
    assert isinstance(foils, list) and isinstance(foils[0], Foil)
    assert (foils[0].text, foils[0].spans, foils[0].strategy) == ("a blue mug", ((2, 6),), "pocket_foil")
    assert (foils[0].detail["model"], foils[0].detail["temperature"]) == (writer._chat.name, 0.5)
    assert writer.usage == Usage(requests=1, tokens_in=len("foil: a red mug\nfacts: ") + 3, tokens_out=len(words) + 1)


def test_the_writer_on_a_model_that_babbles(folders: dict[str, str], store: Store, dataset: Dataset) -> None:
    writer = HFTextWriter(Context(store, dataset.id), model=folders["llama"], prompts=["pocket_foil"], max_tokens=9)
    results = writer.write([WriteTask(text=f"a red mug {i}", n=2, seed=i) for i in range(3)])
    assert all(isinstance(result, str) and "no usable negative" in result for result in results)
    assert writer.usage.requests == 3 * 2 * 2


# vLLM


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A strict double: knows the arguments that vLLM 0.11 knows and no others, and answers with the seed."""

    class StructuredOutputsParams:
        def __init__(self, *, json: dict[str, Any]) -> None:
            self.json = json

    class SamplingParams:
        def __init__(
            self,
            *,
            temperature: float,
            max_tokens: int,
            top_p: float = 1.0,
            seed: int | None = None,
            structured_outputs: StructuredOutputsParams | None = None,
        ) -> None:
            assert 0 < top_p <= 1 and max_tokens > 0 and temperature >= 0
            self.temperature, self.max_tokens, self.top_p, self.seed = temperature, max_tokens, top_p, seed
            self.structured_outputs = structured_outputs

    class LLM:
        made: ClassVar[list[LLM]] = []

        def __init__(
            self,
            model: str,
            *,
            dtype: str,
            quantization: str | None,
            max_model_len: int,
            gpu_memory_utilization: float,
            tensor_parallel_size: int,
            load_format: str,
            seed: int,
        ) -> None:
            self.model, self.max_model_len, self.quantization = model, max_model_len, quantization
            self.calls: list[tuple[list[dict[str, list[int]]], list[SamplingParams]]] = []
            assert load_format == "safetensors" and 0 < gpu_memory_utilization <= 1 and tensor_parallel_size >= 1
            self.made.append(self)

        def get_tokenizer(self) -> PreTrainedTokenizerFast:
            return PreTrainedTokenizerFast.from_pretrained(self.model)

        def generate(
            self, prompts: list[dict[str, list[int]]], sampling_params: list[SamplingParams], *, use_tqdm: bool
        ) -> list[SimpleNamespace]:
            assert len(prompts) == len(sampling_params) and prompts and not use_tqdm
            assert all(list(prompt) == ["prompt_token_ids"] for prompt in prompts)
            self.calls.append((prompts, sampling_params))
            answers = [SimpleNamespace(text=f"seed {params.seed}", token_ids=(7, 8)) for params in sampling_params]
            return [SimpleNamespace(outputs=[answer]) for answer in answers]

    module: Any = ModuleType("vllm")
    names: Any = ModuleType("vllm.sampling_params")
    module.LLM, module.sampling_params = LLM, names
    names.SamplingParams, names.StructuredOutputsParams = SamplingParams, StructuredOutputsParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", names)
    return module


def test_vllm_gets_tokens_and_settings(folders: dict[str, str], vllm: Any) -> None:
    chat = VLLMChat(folders["llama"], max_length=100, quantize="fp8")
    asked = [
        request("a", seed=5, schema=SCHEMAS["objects"]),
        request("x" * 90),
        request("ab", seed=6, temperature=0, max_tokens=3),
    ]
    first, long, second = chat.complete(asked)
    (engine,) = vllm.LLM.made
    assert (engine.model, engine.max_model_len, engine.quantization) == (folders["llama"], 100, "fp8")
    ((prompts, settings),) = engine.calls
    words = engine.get_tokenizer()
    assert [words.decode(prompt["prompt_token_ids"]) for prompt in prompts] == [
        "<|user|>a<|end|><|assistant|>",
        "<|user|>ab<|end|><|assistant|>",
    ]
    assert [(s.temperature, s.max_tokens, s.top_p, s.seed) for s in settings] == [(1.0, 12, 0.95, 5), (0, 3, 1.0, None)]
    assert settings[0].structured_outputs.json == SCHEMAS["objects"]
    assert settings[1].structured_outputs is None
    assert (first.text, second.text) == ("seed 5", "seed None")
    assert long.text is None and "93 tokens" in long.error
    assert chat.usage == Usage(requests=3, tokens_in=4 + 5, tokens_out=4)
    assert chat.name == HFChat(folders["llama"]).name


def test_vllm_of_an_older_version_or_free(folders: dict[str, str], vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = vllm.sampling_params
    free = VLLMChat(folders["llama"], constrained=False)
    free.complete([request("a", schema=SCHEMAS["objects"])])
    assert vllm.LLM.made[-1].calls[0][1][0].structured_outputs is None
    asked: list[dict[str, Any]] = []
    monkeypatch.delattr(names, "StructuredOutputsParams")
    monkeypatch.setattr(names, "GuidedDecodingParams", lambda *, json: ("guided", json), raising=False)
    monkeypatch.setattr(
        names, "SamplingParams", lambda **given: asked.append(given) or SimpleNamespace(seed=given["seed"])
    )
    VLLMChat(folders["llama"]).complete([request("a", schema=SCHEMAS["objects"])])
    assert asked[0]["guided_decoding"] == ("guided", SCHEMAS["objects"])


def test_vllm_writes(folders: dict[str, str], vllm: Any, store: Store, dataset: Dataset) -> None:
    context = Context(store, dataset.id)
    writer = VLLMWriter(context, model=folders["llama"], prompts=["pocket_foil"], max_length=300, attempts=1)
    (result,) = writer.write([WriteTask(text="a red mug", n=1, seed=1)])
    assert "there is no JSON object in it" in str(result)
    assert writer.usage.requests == 1


def test_without_vllm_the_cure_is_named(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(WinnowError, match="pip install vllm"):
        VLLMChat(folders["llama"])


def test_vllm_is_never_online(vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WINNOW_DOWNLOADS", raising=False)
    with pytest.raises(WinnowError, match="WINNOW_DOWNLOADS=1"):
        VLLMChat("nobody/nothing")
    assert vllm.LLM.made == []

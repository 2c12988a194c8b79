"""Chat models on this machine, by vLLM where it is installed: the same requests, many times faster on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from db.errors import WinnowError
from engine.backends import hub
from engine.backends.chat_writer import STRATEGIES, ChatWriter, divided, loaded
from engine.backends.hf_text import encoded
from engine.chat import ChatReply, ChatRequest, Usage
from engine.roles import Context

UNSAFE = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf"]  # never fetched


class VLLMWriter(ChatWriter):
    """A writer on vLLM. `options` are those of `ChatWriter` (temperature, ...) and of `VLLMChat` (max_length, ...)."""

    def __init__(self, context: Context, *, model: str, prompts: Sequence[str] = STRATEGIES, **options: Any) -> None:
        asking, placing = divided(options)
        templates = loaded(context, prompts)
        super().__init__(VLLMChat(model, **placing), templates, **asking)


class VLLMChat:
    """A model with a chat template, from a folder or a hub id, in vLLM's offline engine.

    `max_length` bounds question and answer together, in tokens. `memory` is the share of the GPU's memory that vLLM takes,
    `gpus` over how many the model is spread, `quantize` a method that vLLM knows ("awq", "fp8", ...). Raises WinnowError
    when vLLM is not installed and when the model is missing.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        quantize: str | None = None,
        max_length: int = 4096,
        top_p: float = 0.95,
        memory: float = 0.9,
        gpus: int = 1,
        constrained: bool = True,
    ) -> None:
        try:
            import vllm
        except ImportError as error:
            raise WinnowError(
                "The backend 'vllm' needs vLLM, which is not installed here: pip install vllm (Linux with a CUDA GPU), "
                "or use the backend hf_text."
            ) from error
        self._names = import_module("vllm.sampling_params")
        folder = _folder(model, revision)
        self._llm = vllm.LLM(
            model=str(folder),
            dtype=dtype,
            quantization=quantize,
            max_model_len=max_length,
            gpu_memory_utilization=memory,
            tensor_parallel_size=gpus,
            load_format="safetensors",
            seed=0,
        )
        self._tokenizer = self._llm.get_tokenizer()
        if not self._tokenizer.chat_template:
            raise WinnowError(f"The model {model} has no chat template: choose one tuned to follow instructions.")
        self._max_length, self._top_p, self._constrained = max_length, top_p, constrained
        self.name = f"{model}@{hub.digest(str(folder)) if folder == Path(hub.locate(model)) else folder.name}"
        self.usage = Usage()

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply per request, in order; an error for a conversation that is too long or refused by the model's chat
        template."""
        replies: dict[int, ChatReply] = {}
        asked: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            try:
                asked[place] = encoded(self._tokenizer, request, self._max_length)
            except WinnowError as error:
                replies[place] = ChatReply(text=None, error=str(error))
        prompts = [{"prompt_token_ids": tokens} for tokens in asked.values()]
        sampling = [self._sampling(requests[place]) for place in asked]
        outputs = self._llm.generate(prompts, sampling, use_tqdm=False) if prompts else []
        for place, output in zip(asked, outputs, strict=True):
            replies[place] = ChatReply(text=output.outputs[0].text)
            spent = len(output.outputs[0].token_ids)
            self.usage += Usage(tokens_in=len(asked[place]), tokens_out=spent)
        self.usage += Usage(requests=len(requests))
        return [replies[place] for place in range(len(requests))]

    def _sampling(self, request: ChatRequest) -> Any:
        chosen: dict[str, Any] = {"temperature": request.temperature, "max_tokens": request.max_tokens}
        if request.temperature > 0:
            chosen |= {"top_p": self._top_p, "seed": request.seed}
        if self._constrained and request.schema is not None:
            chosen |= self._following(request.schema)
        return self._names.SamplingParams(**chosen)

    def _following(self, schema: dict[str, Any]) -> dict[str, Any]:
        """How this version of vLLM is told to follow a schema; 0.11 renamed it."""
        if hasattr(self._names, "StructuredOutputsParams"):
            return {"structured_outputs": self._names.StructuredOutputsParams(json=schema)}
        return {"guided_decoding": self._names.GuidedDecodingParams(json=schema)}


def _folder(model: str, revision: str | None) -> Path:
    """Where the model's files lie, fetched from the hub if need be and allowed: vLLM itself is never online."""
    located = hub.locate(model)
    if Path(located).is_dir():
        return Path(located)
    offline = not hub.downloads_allowed()
    try:
        return Path(snapshot_download(located, revision=revision, local_files_only=offline, ignore_patterns=UNSAFE))
    except (OSError, ValueError) as error:
        raise hub.missing(located, error) from error

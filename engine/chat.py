"""Chat models as values in and values out. Local models, endpoints and vLLM all complete the same requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from db.records import Record


class Message(Record, frozen=True, kw_only=True):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(Record, frozen=True, kw_only=True):
    """One conversation to be continued. `schema` is the JSON schema that the answer must satisfy, None for free text."""

    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None
    temperature: float = 0.8
    max_tokens: int = 512
    seed: int = 0


class ChatReply(Record, frozen=True, kw_only=True):
    """`text` is the answer, None when there is none; `error` then says why in a sentence."""

    text: str | None
    error: str = ""


class Usage(Record, frozen=True, kw_only=True):
    """What was spent. `cost` is in the currency of the prices that were configured, 0 for local models."""

    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})

    def __sub__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) - getattr(other, name) for name in self.__struct_fields__})


class Chat(Protocol):
    """`name` says which model answers, with its revision, for the record; `usage` counts what was spent so far."""

    name: str
    usage: Usage

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply per request, in order. A request that fails is a reply with an error, never an exception."""
        ...

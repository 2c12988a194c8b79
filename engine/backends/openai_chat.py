"""Any endpoint that speaks the chat completions protocol of OpenAI: a service, vLLM, llama.cpp, Ollama, LM Studio, ..."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from db.errors import NotFound, WinnowError
from db.records import Record
from engine.chat import ChatReply, ChatRequest, Usage
from engine.outbound import Answer, Line, Unreachable, pin
from engine.responses import Responses, key_of

logger = logging.getLogger(__name__)

Structured = Literal["json_schema", "json_object", "none"]

STEPS: tuple[Structured, ...] = (
    "json_schema",
    "json_object",
    "none",
)  # a server that refuses one is asked for the next
BACKOFF_S = 60.0  # the longest pause of our own
PATIENCE_S = 120.0  # the longest pause that a server may ask for
BURST_S = 6.0  # what may be spent at once after a rest: the allowance of so many seconds
OURS = frozenset(("model", "messages", "n", "stream", "response_format"))
_KEY_NAME = re.compile(r"[A-Z][A-Z0-9_]*_API_KEY")

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Message(Record, frozen=True, kw_only=True):
    content: str | None = None
    refusal: str | None = None


class _Choice(Record, frozen=True, kw_only=True):
    message: _Message
    finish_reason: str | None = None


class _Tokens(Record, frozen=True, kw_only=True):
    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0


class _Completion(Record, frozen=True, kw_only=True):
    choices: list[_Choice]
    usage: _Tokens | None = None


class _Again(Record, frozen=True, kw_only=True):
    """An attempt that failed in a way that may pass. `after_s` is the pause the server asked for, if it did."""

    error: str
    after_s: float | None = None


class _Bucket:
    """An allowance per minute that fills up steadily. Debts are possible: what is taken is waited for."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = per_minute / 60, clock
        self._most = self._level = max(1.0, self._rate * BURST_S)
        self._at = clock()

    def take(self, amount: float) -> float:
        """Seconds to wait before what was taken may be spent."""
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._rate) - amount
        self._at = now
        return max(0.0, -self._level / self._rate)

    def give(self, amount: float) -> None:
        """Correct an estimate: `amount` was not spent, or was spent besides when it is negative."""
        self._level = min(self._most, self._level + amount)


class OpenAIChat:
    """A chat model behind `{base_url}/chat/completions`. One call of `complete` at a time; others wait for their turn.

    `usage` counts every request given to `complete`, `cached` those of them that needed no answer from the endpoint.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout_s: float = 60.0,
        retries: int = 4,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        price_in: float = 0.0,
        price_out: float = 0.0,
        structured: Structured = "json_schema",
        cache_folder: Path | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises WinnowError for an endpoint that is not allowed and for options that make no sense.

        `api_key_env` names the environment variable that holds the key; without it no key is sent, as local servers like
        it. `timeout_s` is for one attempt. Prices are per million tokens, in any currency. `structured` says how a schema
        is asked for. `extra` is added to the body of each request; a value of None takes a standard one out, such as
        {"seed": None} for a server that knows no seed.
        """
        limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        _words(base_url=base_url, model=model, api_key_env=api_key_env)
        _whole(concurrency=concurrency, retries=retries)
        _positive(concurrency=concurrency, timeout_s=timeout_s)
        _positive(**{name: limit for name, limit in limits.items() if limit is not None})
        _not_negative(retries=retries, price_in=price_in, price_out=price_out)
        if structured not in STEPS:
            raise NotFound("way of asking for structured answers", structured, STEPS)
        if not isinstance(cache_folder, Path | None):  # text can only come from a pack, and a pack names no folders
            raise WinnowError(f"The option cache_folder is {cache_folder!r}; leave it out, Winnow knows the place.")
        pinned = pin(base_url)
        self._endpoint = pinned.endpoint
        self._line = Line(pinned, timeout_s=timeout_s, connections=concurrency)
        self._model, self._extra = model, _checked(extra or {})
        self._wished: Structured = structured
        self._structured: Structured = structured  # what is asked for now: less, once the server has refused the wish
        self._key_env, self._key = api_key_env, _key(api_key_env)
        self._concurrency, self._retries = concurrency, retries
        self._requests_bucket = _Bucket(requests_per_minute, self._clock) if requests_per_minute else None
        self._tokens_bucket = _Bucket(tokens_per_minute, self._clock) if tokens_per_minute else None
        self._prices = price_in, price_out
        self._responses = Responses(cache_folder) if cache_folder else None
        self._turn = threading.Lock()
        self.name = f"{model} @ {self._endpoint.host}"
        self.usage = Usage()

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply per request, in order. A request that fails is a reply with an error, never an exception.

        Runs an event loop of its own, so it must be called from a thread that has none.
        """
        with self._turn:
            return asyncio.run(self._complete(requests))

    async def _complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        gate = asyncio.Semaphore(self._concurrency)

        async def one(request: ChatRequest) -> ChatReply:
            async with gate:
                return await self._reply(request)

        async with self._line:
            return await asyncio.gather(*map(one, requests))

    async def _reply(self, request: ChatRequest) -> ChatReply:
        self.usage += Usage(requests=1)
        if self._responses is None:
            return await self._ask(request)
        key = key_of(self._question(request))
        known = self._responses.get(key)
        if known is not None:
            self.usage += Usage(cached=1)
            return ChatReply(text=known)
        reply = await self._ask(request)
        if reply.text is not None:
            self._responses.put(key, reply.text)
        return reply

    def _question(self, request: ChatRequest) -> dict[str, Any]:
        """Everything that the answer depends on."""
        return {
            "endpoint": str(self._endpoint),
            "model": self._model,
            "structured": self._wished,
            "extra": self._extra,
            "request": msgspec.to_builtins(request),
        }

    # Asking, again if need be

    async def _ask(self, request: ChatRequest) -> ChatReply:
        for attempt in range(self._retries + 1):
            outcome = await self._attempt(request)
            if isinstance(outcome, ChatReply):
                return outcome
            if outcome.after_s is not None and outcome.after_s > PATIENCE_S:
                return self._failed(f"{outcome.error} It asks to wait {outcome.after_s:g} s; try again later.")
            if attempt < self._retries:
                await self._sleep(self._pause(attempt, outcome.after_s))
        return self._failed(f"{outcome.error} Attempts: {self._retries + 1}.")

    def _pause(self, attempt: int, after_s: float | None) -> float:
        """Exponential back-off with full jitter, on top of what the server asks for."""
        return (after_s or 0.0) + self._jitter(min(BACKOFF_S, 2.0**attempt))

    async def _attempt(self, request: ChatRequest) -> ChatReply | _Again:
        structured = self._structured if request.schema is not None else "none"
        estimate = await self._wait_for_allowance(request)
        try:
            answer = await self._line.post("/chat/completions", self._body(request, structured), self._headers())
        except Unreachable as error:
            return _Again(error=str(error))
        except WinnowError as error:
            return self._failed(str(error))
        if answer.status != 200:
            self._give_back(estimate)
        if answer.status in (408, 409, 429) or answer.status >= 500:
            return _Again(error=self._status_sentence(answer), after_s=_retry_after(answer.headers))
        if answer.status in (400, 422) and structured != "none" and b"response_format" in answer.body:
            self._step_down(structured)
            return await self._attempt(request)
        return self._read(answer, request, estimate) if answer.status == 200 else self._refused(answer)

    async def _wait_for_allowance(self, request: ChatRequest) -> float:
        """Wait until the rate limits allow the request. Returns its estimated tokens: four characters each, and the answer."""
        estimate = sum(len(message.content) for message in request.messages) / 4 + request.max_tokens
        waits = [
            bucket.take(amount)
            for bucket, amount in ((self._requests_bucket, 1), (self._tokens_bucket, estimate))
            if bucket
        ]
        if any(waits):
            await self._sleep(max(waits))
        return estimate

    def _give_back(self, tokens: float) -> None:
        if self._tokens_bucket:
            self._tokens_bucket.give(tokens)

    def _step_down(self, refused: Structured) -> None:
        """From now on ask for less than what was refused. Requests that were under way together step down once."""
        if self._structured == refused:
            self._structured = STEPS[STEPS.index(refused) + 1]
            logger.warning("%s refused response_format %s; %s from now on", self.name, refused, self._structured)

    def _body(self, request: ChatRequest, structured: Structured) -> bytes:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "n": 1,
        }
        if structured == "json_schema":
            named = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        body |= self._extra
        return json.dumps({name: value for name, value in body.items() if value is not None}).encode()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    # Time and chance, in one place so that tests need neither. Not options: a pack must not reach them.

    def _clock(self) -> float:
        return time.monotonic()

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _jitter(self, most: float) -> float:
        return random.uniform(0.0, most)

    # Reading

    def _read(self, answer: Answer, request: ChatRequest, estimate: float) -> ChatReply:
        try:
            completion = msgspec.json.decode(answer.body, type=_Completion)
        except msgspec.MsgspecError as error:
            return self._failed(f"{self._who} sent no chat completion ({error}). Is base_url that of a chat endpoint?")
        self._account(completion.usage, estimate)
        if not completion.choices:
            return self._failed(f"{self._who} sent a completion without choices.")
        return self._judge(completion.choices[0], request)

    def _judge(self, choice: _Choice, request: ChatRequest) -> ChatReply:
        content, refusal = choice.message.content, choice.message.refusal
        if refusal or choice.finish_reason == "content_filter":
            said = f": {self._clean(refusal)}" if refusal else " (content filter)."
            return self._failed(f"{self._who} refused to answer{said}")
        if choice.finish_reason == "length":
            return self._failed(f"{self._who} was cut off after max_tokens={request.max_tokens}; allow more tokens.")
        if not (content and content.strip()):
            return self._failed(f"{self._who} answered with nothing.")
        return ChatReply(text=content)

    def _account(self, tokens: _Tokens | None, estimate: float) -> None:
        if tokens is None:
            logger.warning("%s does not say how many tokens were used; they are missing from the costs", self.name)
            return
        spent_in, spent_out = tokens.prompt_tokens, tokens.completion_tokens
        cost = (spent_in * self._prices[0] + spent_out * self._prices[1]) / 1e6
        self.usage += Usage(tokens_in=spent_in, tokens_out=spent_out, cost=cost)
        self._give_back(estimate - spent_in - spent_out)

    # Saying what went wrong

    @property
    def _who(self) -> str:
        return f"{self._model} at {self._endpoint}"

    def _failed(self, sentence: str) -> ChatReply:
        return ChatReply(text=None, error=sentence)

    def _status_sentence(self, answer: Answer, cure: str = "") -> str:
        said = self._clean(_sentence_of(answer.body))
        return f"{self._who} answered {answer.status}{': ' + said if said else ''}.{' ' + cure if cure else ''}"

    def _refused(self, answer: Answer) -> ChatReply:
        """The error and its cure. What a server says about a wrong key is left out: it likes to quote from it."""
        if answer.status in (401, 403):
            return self._failed(f"{self._who} answered {answer.status}. {self._key_cure(answer.status)}")
        if 300 <= answer.status < 400:
            cure = "Redirects are not followed: give the final address as base_url, once the administrator allows it."
            return self._failed(f"{self._who} answered {answer.status}. {cure}")
        cure = "There is no such model, or no such path: check model and base_url." if answer.status == 404 else ""
        return self._failed(self._status_sentence(answer, cure))

    def _key_cure(self, status: int) -> str:
        if not self._key:
            return f"No API key was sent: put it into the environment variable {self._key_env} and start again."
        wrong = "is not accepted" if status == 401 else f"may not use {self._model}"
        return f"The API key in the environment variable {self._key_env} {wrong}: check it with the provider."

    def _clean(self, text: str) -> str:
        """A server's words, fit for a log: one line, printable, short, without the key."""
        known = text.replace(self._key, "[key]") if self._key else text
        line = " ".join("".join(c if c.isprintable() else " " for c in known).split())
        return line[:200].rstrip(" .")


def _words(**options: str) -> None:
    for name, value in options.items():
        if not isinstance(value, str) or not value.strip():
            raise WinnowError(f"The option {name} is {value!r}; it must be a text.")


def _whole(**options: int) -> None:
    for name, value in options.items():
        if type(value) is not int:
            raise WinnowError(f"The option {name} is {value!r}; it must be a whole number.")


def _positive(**options: float) -> None:
    _not_negative(**options)
    for name, value in options.items():
        if value == 0:
            raise WinnowError(f"The option {name} is 0; it must be more than that.")


def _not_negative(**options: float) -> None:
    for name, value in options.items():
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise WinnowError(f"The option {name} is {value!r}; it must be a number, 0 or more.")


def _checked(extra: Mapping[str, Any]) -> dict[str, Any]:
    taken = sorted(OURS & set(extra))
    if taken:
        raise WinnowError(f"The option extra may not set {', '.join(taken)}: these are set by Winnow.")
    key_of(extra)  # raises for what JSON cannot say
    return dict(extra)


def _key(variable: str) -> str:
    """The API key, "" when there is none. Only `..._API_KEY` is read: a pack must not post other secrets of the machine."""
    if not _KEY_NAME.fullmatch(variable):
        raise WinnowError(f"api_key_env is {variable[:60]!r}; it must be the name of a variable like OPENAI_API_KEY.")
    key = os.environ.get(variable, "")
    if key and not re.fullmatch(r"[!-~]+", key):
        raise WinnowError(f"The API key in {variable} holds a space, a line break or another character no key has.")
    return key


def _sentence_of(body: bytes) -> str:
    """The message in the body of an error, "" when there is none in one of the usual places."""
    try:
        read = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return ""
    found = read.get("error", read) if isinstance(read, dict) else read
    if isinstance(found, dict):
        found = found.get("message") or found.get("detail")
    return found if isinstance(found, str) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds. A date is compared with the server's own, whatever the clock here says."""
    said = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", said):
        return float(said)
    try:
        until, now = parsedate_to_datetime(said), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):  # no such header, or no dates in it
        return None

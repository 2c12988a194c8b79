"""Writers that ask a chat model: the strategies N1 to N3 of Enhanced Negatives, each a prompt of one or two stages; and what
the makers of whole images ask it, descriptions and their phrases.

What a model says is never trusted: an answer is parsed strictly and checked, and an unusable one is asked for again with
the fault said and another seed. All tasks are carried on together, so that the chat sees few, large batches.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from db.errors import NotFound, WinnowError
from engine.chat import Chat, ChatReply, ChatRequest, Message
from engine.prompts import EDIT_TYPES, SCHEMAS, Pair, Prompt, Stage, fields, load, shipped_pairs
from engine.roles import Context, Foil, WriteTask
from engine.seeds import seed_of
from engine.wording import changed_spans

STRATEGIES = ("n1_foil", "n2_recombination", "n3_summary")
SAMPLE_PAIRS = 4  # beside the summary
ASKING = frozenset(("temperature", "max_tokens", "attempts", "ask"))
SPARE = 1  # negatives asked for beyond those needed, to choose from
QUOTED = 1500  # characters of an unusable answer that are shown to the model again

T = TypeVar("T")
Talk = Generator[ChatRequest, ChatReply, None]
Reader = Callable[[str, int, int], None]  # (answer, attempt, seed); raises _Unusable


class ChatWriter:
    """Negative texts from a chat model.

    A task takes as many of the prompts as its `n` needs at `ask` negatives each, beginning at another one with every
    seed. `temperature` and `max_tokens` override those of the prompts. `attempts` is how often an answer is asked for until it is usable.
    Raises WinnowError when there is no prompt.
    """

    def __init__(
        self,
        chat: Chat,
        prompts: Sequence[Prompt],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        attempts: int = 2,
        ask: int = 4,
    ) -> None:
        self._prompts = {prompt.name: prompt for prompt in prompts}
        if not prompts or min(attempts, ask) < 1:
            raise WinnowError(
                f"A writer needs prompts, and attempts and ask of at least 1; got {len(prompts)} prompt(s), "
                f"attempts {attempts}, ask {ask}."
            )
        self._chat = chat
        self._temperature, self._max_tokens = temperature, max_tokens
        self._attempts, self._ask = attempts, ask
        self._summaries: dict[tuple[str, tuple[Pair, ...]], str] = {}
        self.usage = chat.usage

    @property
    def strategies(self) -> tuple[str, ...]:
        """The names of the prompts."""
        return tuple(self._prompts)

    def write(self, tasks: Sequence[WriteTask]) -> list[list[Foil] | str]:
        """Foils of different edit types first, at most `n`; a sentence where the model gave nothing usable.

        Raises NotFound for a strategy that is none of the prompts, before anything is asked.
        """
        jobs = [_Job(task) for task in tasks]
        self._converse([talk for job in jobs for talk in self._talks(job)])
        return [job.result() for job in jobs]

    def answer(self, prompt: Prompt, asked: Sequence[tuple[Mapping[str, str], int]]) -> list[Any]:
        """What the model says to a prompt for phrases or a description, for each (values of the placeholders, seed): a list of
        phrases or a text; an `Unanswered` where it said nothing usable."""
        jobs = [_Question() for _ in asked]
        stage, kind = prompt.stages[-1], _ANSWERS[prompt.purpose]
        talks = [
            self._attempt(job, prompt, stage, known, seed_of(seed, prompt.name), job.reader(kind))
            for job, (known, seed) in zip(jobs, asked, strict=True)
        ]
        self._converse(talks)
        return [Unanswered("; ".join(job.failures)) if job.said is None else job.said for job in jobs]

    # Who asks what

    def _talks(self, job: _Job) -> list[Talk]:
        """The conversations of one task: its `n` is shared out evenly among the prompts whose turn it is."""
        task = job.task
        unknown = [name for name in task.strategies if name not in self._prompts]
        if unknown:
            raise NotFound("strategy", unknown[0], self.strategies)
        chosen = [self._prompts[name] for name in dict.fromkeys(task.strategies or self.strategies)]
        used = min(len(chosen), math.ceil(task.n / self._ask))
        turns = [chosen[(task.seed + k) % len(chosen)] for k in range(used)]
        shares = [task.n // used + (k < task.n % used) for k in range(used)]
        return [talk for prompt, share in zip(turns, shares, strict=True) for talk in self._of(job, prompt, share)]

    def _of(self, job: _Job, prompt: Prompt, share: int) -> list[Talk]:
        if prompt.single:
            return [self._talk(job, prompt, 1, turn) for turn in range(share)]
        return [self._talk(job, prompt, share, 0)]

    def _converse(self, talks: Sequence[Talk]) -> None:
        """Carry on all conversations together: one call of the chat for all that wait for an answer."""
        waiting = [(talk, request) for talk in talks if (request := _go_on(talk, None))]
        while waiting:
            replies = self._complete([request for _, request in waiting])
            asked = zip(waiting, replies, strict=True)
            waiting = [(talk, request) for (talk, _), reply in asked if (request := _go_on(talk, reply))]

    def _complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply each; what several conversations ask in the same words and seed is asked once."""
        keys = [msgspec.json.encode(request) for request in requests]
        unique = dict(zip(keys, requests, strict=True))
        replies = dict(zip(unique, self._chat.complete(list(unique.values())), strict=True))
        self.usage = self._chat.usage
        return [replies[key] for key in keys]

    # One conversation

    def _talk(self, job: _Job, prompt: Prompt, share: int, turn: int) -> Talk:
        """Fill the job with `share` foils of one prompt, or say in its failures why not."""
        task = job.task
        *before, last = prompt.stages
        known = fields(
            text=task.text,
            facts=task.facts,
            classes=task.siblings,
            n=share if prompt.single else share + SPARE,
            pairs=_sample(task) if prompt.shows_pairs else (),
            avoid=task.avoid,
        )
        for stage in before:
            if stage.answer == "summary":
                yield from self._summarise(job, prompt, stage)
                answer = self._summaries.get((prompt.name, _pairs(task)))
            else:
                listed: list[str] = []
                yield from self._attempt(job, prompt, stage, known, seed_of(task.seed, prompt.name), _objects(listed))
                answer = listed[0] if listed else None
            if answer is None:
                return
            known[stage.answer] = answer
        seed = seed_of(task.seed, prompt.name, turn)
        yield from self._attempt(job, prompt, last, known, seed, self._reader(job, prompt, share))

    def _summarise(self, job: _Job, prompt: Prompt, stage: Stage) -> Talk:
        """The summary of the same pairs is asked for once."""
        pairs = _pairs(job.task)
        if (prompt.name, pairs) in self._summaries:
            return

        def read(text: str, attempt: int, seed: int) -> None:
            self._summaries[prompt.name, pairs] = _parsed(text, _Summary).summary

        yield from self._attempt(job, prompt, stage, fields(pairs=pairs), seed_of(prompt.name), read)

    def _attempt(
        self, job: _Job | _Question, prompt: Prompt, stage: Stage, known: Mapping[str, str], seed: int, read: Reader
    ) -> Talk:
        """Ask until `read` is content, saying what was wrong; the last fault becomes a failure of the job."""
        asked = messages = stage.messages(known)
        fault = ""
        for attempt in range(1, self._attempts + 1):
            request = ChatRequest(
                messages=messages,
                schema=SCHEMAS[stage.answer],
                temperature=self._temperature_of(prompt),
                max_tokens=self._max_tokens or prompt.max_tokens,
                seed=seed_of(seed, stage.name, attempt),
            )
            reply = yield request
            if reply.text is None:
                fault = reply.error
                break
            try:
                return read(reply.text, attempt, request.seed)
            except _Unusable as error:
                fault = str(error)
            messages = asked if prompt.single else (*asked, *_complaint(reply.text, fault))
        job.failures.append(f"{prompt.name}, {stage.name}: {fault}")

    def _reader(self, job: _Job, prompt: Prompt, share: int) -> Reader:
        """Takes usable foils over into the job: `share` of this conversation and a few to choose from, not so many that
        they leave nothing for the other strategies."""
        taken: list[Foil] = []

        def read(text: str, attempt: int, seed: int) -> None:
            origin = self._origin(job.task, prompt, attempt, seed)
            faults: list[str] = []
            for value in _parsed(text, _Negatives).negatives:
                if len(taken) >= share + SPARE:
                    break
                try:
                    taken.append(job.take(_foil(job.task.text, value, prompt.name, origin)))
                except _Unusable as error:
                    faults.append(str(error))
            if len(taken) < share:
                raise _Unusable("; ".join([*faults, f"{share - len(taken)} more usable negative(s) needed"]))

        return read

    def _origin(self, task: WriteTask, prompt: Prompt, attempt: int, seed: int) -> dict[str, Any]:
        """What a foil's detail says of how it was made."""
        origin: dict[str, Any] = {
            "prompt": prompt.name,
            "prompt_version": prompt.version,
            "prompt_digest": prompt.digest,
            "temperature": self._temperature_of(prompt),
            "seed": seed,
            "model": self._chat.name,
            "attempt": attempt,
        }
        return origin | ({"pairs": "accepted" if task.pairs else "shipped"} if prompt.shows_pairs else {})

    def _temperature_of(self, prompt: Prompt) -> float:
        return prompt.temperature if self._temperature is None else self._temperature


class OpenAIWriter(ChatWriter):
    """A writer on an OpenAI-compatible endpoint; its answers are cached in the store's folder.

    `options` are those of `ChatWriter` (temperature, ...) and of `OpenAIChat` (base_url, model, ...).
    """

    def __init__(self, context: Context, *, prompts: Sequence[str] = STRATEGIES, **options: Any) -> None:
        from engine.backends.openai_chat import OpenAIChat

        asking, endpoint = divided(options)
        chat = OpenAIChat(cache_folder=context.store.home / "cache" / "chat", **endpoint)
        super().__init__(chat, loaded(context, prompts), **asking)


def divided(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a pack's writer: those of `ChatWriter`, and the rest, which are for its chat."""
    asking = {name: value for name, value in options.items() if name in ASKING}
    return asking, {name: value for name, value in options.items() if name not in ASKING}


def loaded(context: Context, names: Sequence[str]) -> list[Prompt]:
    """The prompts of the context's versions. Raises NotFound, listing the known ones, or for a version that is gone."""
    pinned = dict(context.prompts)
    return [load(name, context.store.home, pinned.get(name)) for name in names]


def _pairs(task: WriteTask) -> tuple[Pair, ...]:
    return task.pairs or shipped_pairs()


def _sample(task: WriteTask) -> list[Pair]:
    """A few of the pairs, others for every seed."""
    return random.Random(seed_of(task.seed, "pairs")).sample(_pairs(task), SAMPLE_PAIRS)


# Answers


class _Unusable(Exception):
    """What is wrong with an answer, in words for the model and the log."""


class _Negatives(msgspec.Struct, forbid_unknown_fields=True):
    negatives: list[Any]


class _Negative(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    edit_type: str
    changed_from: str
    changed_to: str


class _Thing(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    attributes: list[str]
    relations: list[str]

    def __str__(self) -> str:
        said = "; ".join(", ".join(words) for words in (self.attributes, self.relations) if words)
        return f"- {self.name}: {said}" if said else f"- {self.name}"


class _Objects(msgspec.Struct, forbid_unknown_fields=True):
    objects: list[_Thing]


class _Summary(msgspec.Struct, forbid_unknown_fields=True):
    summary: str


class _Phrases(msgspec.Struct, forbid_unknown_fields=True):
    phrases: list[str]

    @property
    def said(self) -> list[str]:
        return [" ".join(phrase.split()) for phrase in self.phrases if phrase.strip()]


class _Description(msgspec.Struct, forbid_unknown_fields=True):
    description: str

    @property
    def said(self) -> str:
        return " ".join(self.description.split())


_ANSWERS: dict[str, type[_Phrases | _Description]] = {"phrases": _Phrases, "description": _Description}


@dataclass(frozen=True)
class Unanswered:
    """Why the model gave no usable answer."""

    why: str


@dataclass
class _Question:
    """A question of `answer` on its way."""

    said: Any = None
    failures: list[str] = field(default_factory=list)

    def reader(self, kind: type[_Phrases | _Description]) -> Reader:
        def read(text: str, attempt: int, seed: int) -> None:
            said = _parsed(text, kind).said
            if not said:
                raise _Unusable("it is empty")
            self.said = said

        return read


@dataclass
class _Job:
    """A task on its way."""

    task: WriteTask
    foils: list[Foil] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def take(self, foil: Foil) -> Foil:
        """Add the foil; raises _Unusable when it is there already."""
        if any(_plain(other.text) == _plain(foil.text) for other in self.foils):
            raise _Unusable(f"“{foil.text}” was given before")
        self.foils.append(foil)
        return foil

    def result(self) -> list[Foil] | str:
        """At most `n` foils, of as many edit types, then strategies, as there are; the failures if there is no foil."""
        if not self.foils and self.failures:
            return f"no usable negative for “{self.task.text}”: {' / '.join(dict.fromkeys(self.failures))}"
        left, chosen = list(self.foils), list[Foil]()
        while left and len(chosen) < self.task.n:
            types = Counter(foil.edit_type for foil in chosen)
            used = Counter(foil.strategy for foil in chosen)
            chosen.append(min(left, key=lambda foil: (types[foil.edit_type], used[foil.strategy])))
            left.remove(chosen[-1])
        return chosen


def _parsed(text: str, kind: type[T]) -> T:
    """The JSON object in an answer. Thinking aloud, words before it, code fences and words after it do not matter."""
    spoken = text.rpartition("</think>")[2]
    start = spoken.find("{")
    if start < 0:
        raise _Unusable("there is no JSON object in it")
    try:
        value, _ = json.JSONDecoder().raw_decode(spoken, start)
        return msgspec.convert(value, kind)
    except RecursionError as error:
        raise _Unusable("it is nested without end") from error
    except json.JSONDecodeError as error:
        raise _Unusable(f"it is not valid JSON: {error.msg} at character {error.pos - start}") from error
    except msgspec.ValidationError as error:
        raise _Unusable(f"it does not follow the schema: {error}") from error


def _objects(found: list[str]) -> Reader:
    """Puts the lines of a list of objects into `found`."""

    def read(text: str, attempt: int, seed: int) -> None:
        things = _parsed(text, _Objects).objects
        if not things:
            raise _Unusable("it lists no object")
        found.append("\n".join(map(str, things)))

    return read


def _foil(original: str, value: Any, strategy: str, origin: Mapping[str, Any]) -> Foil:
    """A checked foil from one entry of an answer; `changed_from` and `changed_to` are found anew when they are wrong."""
    try:
        said = msgspec.convert(value, _Negative)
    except msgspec.ValidationError as error:
        raise _Unusable(f"a negative does not follow the schema: {error}") from error
    text = said.text.strip()
    _check(original, text, said.edit_type)
    spans, detail = changed_spans(original, text), dict(origin)
    was, now = said.changed_from.strip(), said.changed_to.strip()
    if not (_within(was, original) and _within(now, text)):
        was, now = _stretch(original, changed_spans(text, original)), _stretch(text, spans)
        detail["changes"] = "found by comparing the words"
    return Foil(
        text=text,
        edit_type=said.edit_type,
        changed_from=was,
        changed_to=now,
        strategy=strategy,
        spans=spans,
        detail=detail,
    )


def _check(original: str, text: str, edit_type: str) -> None:
    if edit_type not in EDIT_TYPES:
        raise _Unusable(f"“{edit_type}” is no edit_type; known: {', '.join(EDIT_TYPES)}")
    if not text or "\n" in text:
        raise _Unusable("the text of a negative must be one line that is not empty")
    if _plain(text) == _plain(original):
        raise _Unusable(f"“{text}” is the description itself")
    if not changed_spans(original, text):
        raise _Unusable(f"“{text}” only leaves words out and is still true")


def _within(part: str, whole: str) -> bool:
    return bool(part) and part.casefold() in whole.casefold()


def _stretch(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """From the first changed word to the last; "" when nothing was changed."""
    return text[spans[0][0] : spans[-1][1]] if spans else ""


def _plain(text: str) -> str:
    """As texts are compared: without case, spacing and the full stop."""
    return " ".join(text.casefold().split()).rstrip(".")


def _complaint(answer: str, fault: str) -> tuple[Message, Message]:
    again = f"This cannot be used: {fault}. Answer the request again, with JSON of the form asked for and nothing else."
    shown = answer[:QUOTED].strip() or "(nothing)"
    return Message(role="assistant", content=shown), Message(role="user", content=again)


def _go_on(talk: Talk, reply: ChatReply | None) -> ChatRequest | None:
    """What the conversation asks next, None when it is over."""
    try:
        return next(talk) if reply is None else talk.send(reply)
    except StopIteration:
        return None

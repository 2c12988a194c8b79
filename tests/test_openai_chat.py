"""The endpoint as a chat, against a server that follows the protocol to the letter and records every deviation."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from db.errors import WinnowError
from engine.backends.openai_chat import OpenAIChat
from engine.chat import ChatReply, ChatRequest, Message, Usage
from engine.outbound import MAX_BYTES
from engine.responses import Responses, key_of

KEY = "sk-4f9d2c-very-secret"
MODEL = "test-model"
SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}


@dataclass
class Scripted:
    """One answer of the server: bytes as they are, anything else as JSON."""

    status: int
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def payload(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Act = Callable[["Handler", dict[str, Any]], Scripted | None]


def completion(
    content: str | None = "fine", *, finish: str = "stop", tokens: tuple[int, int] = (11, 7), **message: Any
) -> Scripted:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return Scripted(200, {"id": "c-1", "object": "chat.completion", "choices": [choice], "usage": usage})


def failure(status: int, message: str = "no", **headers: str) -> Scripted:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Scripted(status, {"error": {"message": message, "type": "t", "code": None}}, named)


class Server(ThreadingHTTPServer):
    """Answers from the script, in order of arrival, then with `otherwise`. Deviations from the protocol are `faults`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Scripted | Act] = []
        self.otherwise: Scripted | Act = completion()
        self.bodies: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.host = f"127.0.0.1:{self.server_port}"
        self.key: str | None = KEY
        self.extra: dict[str, Any] = {}
        self.without: set[str] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def next(self, body: dict[str, Any]) -> Scripted | Act:
        with self.lock:
            self.bodies.append(body)
            return self.script.pop(0) if self.script else self.otherwise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what some tests are about; `faults` tells of all else."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", -1)))
        body = json.loads(raw)
        self.server.faults += [*self._head_faults(), *self._body_faults(body)]
        chosen = self.server.next(body)
        answer = chosen if isinstance(chosen, Scripted) else chosen(self, body)
        if answer is not None:
            self.answer(answer)

    def answer(self, answer: Scripted) -> None:
        self.send_response_only(answer.status)
        for name, value in ({"Content-Length": str(len(answer.payload))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.payload)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Any other method, and anything that is no HTTP."""
        self.server.faults.append(f"{code} for {self.requestline!r}")
        super().send_error(code, message, explain)

    def log_message(self, *_: Any) -> None:
        pass

    def _head_faults(self) -> Iterator[str]:
        expected = {
            "Host": self.server.host,
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {self.server.key}" if self.server.key else None,
            "Cookie": None,
        }
        if self.path != "/v1/chat/completions":
            yield f"path {self.path!r}"
        for name, value in expected.items():
            if self.headers.get_all(name, []) != ([value] if value else []):
                yield f"{name} is {self.headers.get_all(name)}, not {value!r}"

    def _body_faults(self, body: dict[str, Any]) -> Iterator[str]:
        types = {"model": str, "messages": list, "temperature": float, "max_tokens": int, "seed": int, "n": int}
        wanted = (set(types) - self.server.without) | set(self.server.extra)
        if set(body) - {"response_format"} != wanted:
            yield f"the body has {sorted(body)}, not {sorted(wanted)}"
        yield from (
            f"{name} is {body[name]!r}" for name, kind in types.items() if type(body.get(name, kind())) is not kind
        )
        if (body["model"], body["n"]) != (MODEL, 1) or not body["messages"]:
            yield f"model, n or messages of {body}"
        for message in body["messages"]:
            if set(message) != {"role", "content"} or message["role"] not in ("system", "user", "assistant"):
                yield f"message {message}"
        if any(body[name] != value for name, value in self.server.extra.items()):
            yield f"{body} lacks {self.server.extra}"
        if body.get("response_format") not in (None, FORMATS["json_schema"], FORMATS["json_object"]):
            yield f"response_format {body['response_format']}"


FORMATS: dict[str, Any] = {
    "json_schema": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
    "json_object": {"type": "json_object"},
    "none": None,
}


class Patient(OpenAIChat):
    """Never waits: its time is what it would have slept. Jitter is always at its most."""

    def __init__(self, **options: Any) -> None:
        self.slept: list[float] = []
        super().__init__(**options)

    def _clock(self) -> float:
        return sum(self.slept)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def _jitter(self, most: float) -> float:
        return most


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    opened = Server()
    thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("WINNOW_ENDPOINTS", opened.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield opened
    opened.shutdown()
    opened.server_close()
    assert opened.faults == []
    assert opened.script == []


def chat(server: Server, **options: Any) -> Patient:
    return Patient(**{"base_url": server.url, "model": MODEL, **options})


def ask(text: str = "hello", **options: Any) -> ChatRequest:
    system = Message(role="system", content="Answer briefly.")
    return ChatRequest(messages=(system, Message(role="user", content=text)), **options)


def one(model: OpenAIChat, **options: Any) -> ChatReply:
    (reply,) = model.complete([ask(**options)])
    return reply


# Asking


def test_a_request_is_put_as_the_protocol_wants_and_the_answer_comes_back(server: Server) -> None:
    model = chat(server)
    assert model.complete([ask("a", temperature=0.5, max_tokens=9, seed=3)]) == [ChatReply(text="fine")]
    (body,) = server.bodies
    assert body["messages"] == [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "a"},
    ]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.5, 9, 3)
    assert model.name == "test-model @ 127.0.0.1"


def test_no_requests_are_no_replies(server: Server) -> None:
    assert chat(server).complete([]) == []


def test_without_a_key_none_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.key = None
    assert one(chat(server)).text == "fine"


def test_the_key_comes_from_the_variable_that_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_API_KEY", "other")
    server.key = "other"
    assert one(chat(server, api_key_env="OTHER_API_KEY")).text == "fine"


def test_extra_options_are_added_and_standard_ones_can_be_left_out(server: Server) -> None:
    server.extra, server.without = {"top_p": 0.9, "max_completion_tokens": 5}, {"seed", "max_tokens"}
    extra = {**server.extra, "seed": None, "max_tokens": None}
    assert one(chat(server, extra=extra)).text == "fine"


@pytest.mark.parametrize("structured", FORMATS)
def test_a_schema_is_asked_for_in_the_way_that_was_chosen(server: Server, structured: str) -> None:
    model = chat(server, structured=structured)
    one(model, schema=SCHEMA)
    one(model)
    assert [body.get("response_format") for body in server.bodies] == [FORMATS[structured], None]


def test_replies_keep_the_order_of_the_requests(server: Server) -> None:
    late = threading.Event()

    def echo(_: Handler, body: dict[str, Any]) -> Scripted:
        text = body["messages"][-1]["content"]
        if text == "0":  # the first is answered last
            assert late.wait(10)
        if text == "3":
            late.set()
        return completion(text)

    server.otherwise = echo
    replies = chat(server, concurrency=4).complete([ask(str(i)) for i in range(4)])
    assert [reply.text for reply in replies] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("callers", [1, 2])
def test_no_more_requests_are_under_way_than_allowed_whoever_calls(server: Server, callers: int) -> None:
    running, peak, full, over = 0, 0, threading.Event(), threading.Event()

    def slow(_: Handler, __: dict[str, Any]) -> Scripted:
        nonlocal running, peak
        with server.lock:
            running += 1
            peak = max(peak, running)
            (full if running == 3 else over if running > 3 else threading.Event()).set()
        full.wait(10)
        over.wait(0.1)  # a fourth has this long to show itself
        with server.lock:
            running -= 1
        return completion()

    server.otherwise = slow
    model = chat(server, concurrency=3)
    replies: list[ChatReply] = []
    threads = [
        threading.Thread(target=lambda: replies.extend(model.complete([ask(str(i)) for i in range(6)])))
        for _ in range(callers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (peak, len(replies), model.usage.requests) == (3, 6 * callers, 6 * callers)


# Trying again


def test_a_busy_server_is_given_the_time_it_asks_for(server: Server) -> None:
    server.script = [failure(429, Retry_After="7"), completion("at last")]
    model = chat(server)
    assert one(model).text == "at last"
    assert model.slept == [8]  # 7 asked for, 1 of jitter


def test_a_date_to_wait_for_is_compared_with_the_clock_of_the_server(server: Server) -> None:
    dates = {"Retry_After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server.script = [failure(503, **dates), completion()]
    model = chat(server)
    assert one(model).text == "fine"
    assert model.slept == [31]


@pytest.mark.parametrize("nonsense", ["soon", "-5", "nan", "inf", "Wed, 21 Oct 2015 07:28:30 GMT"])
def test_a_wish_that_makes_no_sense_is_an_ordinary_pause(server: Server, nonsense: str) -> None:
    server.script = [failure(429, Retry_After=nonsense), completion()]
    model = chat(server)
    assert one(model).text == "fine"
    assert model.slept == [1]


def test_nobody_waits_for_an_hour(server: Server) -> None:
    server.script = [failure(429, "quota used up", Retry_After="3600")]
    model = chat(server)
    assert "429: quota used up. It asks to wait 3600 s" in one(model).error
    assert model.slept == []


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again_with_growing_pauses(server: Server, status: int) -> None:
    server.script = [failure(status), failure(status), failure(status), completion("at last")]
    model = chat(server)
    assert one(model).text == "at last"
    assert model.slept == [1, 2, 4]


def test_patience_ends_with_a_sentence(server: Server) -> None:
    server.script = [failure(500, "overloaded")] * 3
    model = chat(server, retries=2)
    error = one(model).error
    assert error == f"test-model at {server.url} answered 500: overloaded. Attempts: 3."
    assert model.slept == [1, 2]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_what_cannot_pass_is_not_tried_again(server: Server, status: int) -> None:
    server.script = [failure(status)]
    model = chat(server)
    reply = one(model)
    assert reply.text is None
    assert f"{server.url} answered {status}" in reply.error
    assert model.slept == []


def test_an_answer_that_does_not_come_in_time_is_tried_again(server: Server) -> None:
    ended = threading.Event()

    def hang(*_: Any) -> None:
        ended.wait(30)

    server.otherwise = hang
    model = chat(server, timeout_s=0.2, retries=1)
    assert "did not answer within 0.2 s. Attempts: 2." in one(model).error
    assert model.slept == [1]
    ended.set()


def test_a_connection_that_breaks_is_tried_again(server: Server) -> None:
    def hang_up(handler: Handler, _: dict[str, Any]) -> None:
        handler.close_connection = True

    server.script = [hang_up, completion("at last")]
    assert one(chat(server)).text == "at last"


def test_a_server_that_is_not_there_is_an_error_in_words(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Server()
    closed.server_close()
    monkeypatch.setenv("WINNOW_ENDPOINTS", closed.url)
    model = chat(server, base_url=closed.url, retries=3)
    assert f"127.0.0.1:{closed.server_port} cannot be reached" in one(model).error
    assert model.slept == [1, 2, 4]


def test_one_failure_leaves_the_others_alone(server: Server) -> None:
    server.otherwise = lambda _, body: failure(400) if body["messages"][-1]["content"] == "1" else completion()
    replies = chat(server).complete([ask(str(i)) for i in range(3)])
    assert [reply.text for reply in replies] == ["fine", None, "fine"]


# Structured answers


def refuse(*kinds: str) -> Act:
    def act(_: Handler, body: dict[str, Any]) -> Scripted:
        kind = body.get("response_format", {}).get("type")
        return failure(400, f"response_format {kind} is not known here") if kind in kinds else completion()

    return act


def test_a_server_without_schemas_is_asked_for_less_from_then_on(server: Server) -> None:
    server.otherwise = refuse("json_schema")
    model = chat(server)
    assert [one(model, schema=SCHEMA).text for _ in range(2)] == ["fine", "fine"]
    asked = [body["response_format"]["type"] for body in server.bodies]
    assert asked == ["json_schema", "json_object", "json_object"]
    assert model.slept == []


def test_a_server_without_response_format_gets_none(server: Server) -> None:
    server.otherwise = refuse("json_schema", "json_object")
    assert one(chat(server), schema=SCHEMA).text == "fine"
    assert [body.get("response_format") for body in server.bodies] == list(FORMATS.values())


def test_requests_under_way_together_step_down_once(server: Server) -> None:
    together, refusal = threading.Barrier(4), refuse("json_schema")

    def act(handler: Handler, body: dict[str, Any]) -> Scripted | None:
        if body["response_format"]["type"] == "json_schema":
            together.wait(10)
        return refusal(handler, body)

    server.otherwise = act
    replies = chat(server, concurrency=4).complete([ask(str(i), schema=SCHEMA) for i in range(4)])
    assert [reply.text for reply in replies] == ["fine"] * 4
    assert [body["response_format"]["type"] for body in server.bodies] == ["json_schema"] * 4 + ["json_object"] * 4


def test_a_refusal_that_comes_late_does_not_lead_back(server: Server) -> None:
    down, refusal = threading.Event(), refuse("json_schema", "json_object")

    def act(handler: Handler, body: dict[str, Any]) -> Scripted | None:
        if "response_format" not in body:
            down.set()
        elif body["messages"][-1]["content"] == "late":
            down.wait(10)
        return refusal(handler, body)

    server.otherwise = act
    replies = chat(server, concurrency=2).complete([ask("late", schema=SCHEMA), ask("early", schema=SCHEMA)])
    assert [reply.text for reply in replies] == ["fine", "fine"]
    late = [body.get("response_format") for body in server.bodies if body["messages"][-1]["content"] == "late"]
    assert late == [FORMATS["json_schema"], None]


def test_another_complaint_is_no_reason_to_ask_for_less(server: Server) -> None:
    server.script = [failure(400, "the context is too long")]
    model = chat(server)
    assert "400: the context is too long." in one(model, schema=SCHEMA).error
    one(model, schema=SCHEMA)
    assert server.bodies[-1]["response_format"] == FORMATS["json_schema"]


# Errors in words


def test_a_missing_key_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.key, server.otherwise = None, failure(401)
    assert (
        "answered 401. No API key was sent: put it into the environment variable OPENAI_API_KEY"
        in one(chat(server)).error
    )


@pytest.mark.parametrize(("status", "cure"), [(401, "is not accepted"), (403, "may not use test-model")])
def test_a_wrong_key_is_named_by_its_variable(server: Server, status: int, cure: str) -> None:
    server.otherwise = failure(status, f"Incorrect API key provided: {KEY[:8]}***")
    error = one(chat(server)).error
    assert f"The API key in the environment variable OPENAI_API_KEY {cure}" in error
    assert KEY[:8] not in error


def test_an_unknown_model_says_what_to_check(server: Server) -> None:
    server.otherwise = failure(404, "The model does not exist")
    assert (
        "404: The model does not exist. There is no such model, or no such path: check model and base_url."
        in one(chat(server)).error
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: Server, status: int) -> None:
    inner = Server()
    inner.otherwise = completion("from inside")
    thread = threading.Thread(target=inner.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.otherwise = Scripted(status, b"", {"Location": f"{inner.url}/chat/completions"})
    reply = one(chat(server))
    inner.shutdown()
    inner.server_close()
    assert reply.text is None
    assert f"answered {status}. Redirects are not followed" in reply.error
    assert (inner.bodies, inner.faults) == ([], [])


@pytest.mark.parametrize(
    ("what", "answer", "words"),
    [
        ("no JSON", Scripted(200, b"<html>welcome</html>"), "sent no chat completion"),
        ("cut JSON", Scripted(200, completion().payload[:-9]), "sent no chat completion"),
        ("nothing", Scripted(200, b""), "sent no chat completion"),
        ("another shape", Scripted(200, {"choices": "fine"}), "sent no chat completion"),
        ("negative tokens", completion(tokens=(-1, 5)), "sent no chat completion"),
        ("no choices", Scripted(200, {"choices": []}), "without choices"),
        ("null", completion(None), "answered with nothing"),
        ("blank", completion(" \n"), "answered with nothing"),
        ("refusal", completion(None, refusal="I cannot do that."), "refused to answer: I cannot do that"),
        ("filter", completion("so", finish="content_filter"), "refused to answer (content filter)"),
        ("length", completion('{"text": "so', finish="length"), "cut off after max_tokens=512; allow more tokens"),
        ("created", Scripted(201, completion().body), "answered 201"),
        ("huge", completion("x" * MAX_BYTES), f"more than {MAX_BYTES} bytes"),
        ("compressed", Scripted(200, completion().payload, {"Content-Encoding": "gzip"}), "compressed"),
    ],
)
def test_an_answer_that_is_none_is_an_error_in_words(server: Server, what: str, answer: Scripted, words: str) -> None:
    server.script = [answer]
    model = chat(server)
    reply = one(model)
    assert (reply.text, words in reply.error) == (None, True), (what, reply)
    assert model.slept == []
    assert one(model).text == "fine"


def test_the_words_of_a_server_are_cut_and_cleaned(server: Server) -> None:
    server.otherwise = failure(400, f"bad\n\x1b[31mheader Bearer {KEY}\u202e " + "x" * 1000)
    error = one(chat(server)).error
    assert "400: bad [31mheader Bearer [key] xxx" in error
    assert error.isprintable()
    assert len(error) < 300


def test_the_key_stands_in_no_error_no_log_and_no_cache(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = [failure(500, f"you sent {KEY}"), failure(418, KEY), Scripted(200, KEY.encode()), completion()]
    model = chat(server, cache_folder=tmp_path)
    replies = [one(model) for _ in range(3)]
    assert replies[-1].text == "fine"
    seen = repr((replies, model.name, model.usage)) + caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert "418" in seen and "httpcore" in caplog.text
    assert KEY not in seen
    assert all(KEY.encode() not in path.read_bytes() for path in files)


# Costs and limits


def test_tokens_and_money_add_up_over_requests_and_threads(server: Server) -> None:
    server.otherwise = completion(tokens=(1000, 200))
    model = chat(server, price_in=2.0, price_out=10.0)
    threads = [threading.Thread(target=model.complete, args=([ask(str(i)) for i in range(5)],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    cost = model.usage.cost
    assert cost == pytest.approx(20 * (1000 * 2 + 200 * 10) / 1e6)
    assert model.usage == Usage(requests=20, tokens_in=20_000, tokens_out=4_000, cost=cost)


def test_an_answer_that_cannot_be_used_is_paid_for_all_the_same(server: Server) -> None:
    server.script = [failure(500), completion("so", finish="length", tokens=(10, 20))]
    model = chat(server, price_out=1.0)
    one(model)
    assert model.usage == Usage(requests=1, tokens_in=10, tokens_out=20, cost=20 / 1e6)


def test_a_server_that_counts_no_tokens_is_noted(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    body = {name: value for name, value in completion().body.items() if name != "usage"}
    server.otherwise = Scripted(200, body)
    model = chat(server)
    assert one(model).text == "fine"
    assert model.usage == Usage(requests=1)
    assert "does not say how many tokens" in caplog.text


def test_requests_are_spread_over_the_minute(server: Server) -> None:
    model = chat(server, requests_per_minute=60, concurrency=1)
    model.complete([ask(str(i)) for i in range(10)])
    assert model.slept == pytest.approx([1] * 4)  # six at once, then one a second


def test_tokens_are_spread_over_the_minute(server: Server) -> None:
    server.otherwise = completion(tokens=(250, 250))
    model = chat(server, tokens_per_minute=6000, concurrency=1)
    requests = [
        ask("x" * 1985, max_tokens=0) for _ in range(3)
    ]  # (1985 + 15 characters of the system) / 4 = 500 tokens
    model.complete(requests)
    assert model.slept == pytest.approx([4, 5])  # 600 at once, then 100 a second


def test_tokens_that_were_not_spent_are_given_back(server: Server) -> None:
    server.otherwise = completion(tokens=(5, 5))
    server.script = [failure(500), failure(400)]
    model = chat(server, tokens_per_minute=6000, concurrency=1, retries=0)
    model.complete([ask(max_tokens=500) for _ in range(10)])  # each is taken for 505
    assert model.slept == []


# The cache


def test_the_same_question_is_asked_once(server: Server, tmp_path: Path) -> None:
    server.script = [completion("first", tokens=(10, 20))]
    assert one(chat(server, cache_folder=tmp_path)).text == "first"
    again = chat(server, cache_folder=tmp_path)
    assert one(again).text == "first"
    assert again.usage == Usage(requests=1, cached=1)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"text": "bye"},
        {"schema": SCHEMA},
        {"temperature": 0.1},
        {"max_tokens": 511},
        {"seed": 1},
        {"options": {"extra": {"top_p": 0.5}}},
        {"options": {"structured": "none"}},
    ],
    ids=str,
)
def test_another_question_is_asked_anew(server: Server, tmp_path: Path, change: dict[str, Any]) -> None:
    one(chat(server, cache_folder=tmp_path))
    options = change.pop("options", {}) if "options" in change else {}
    server.extra = options.get("extra", {})
    model = chat(server, cache_folder=tmp_path, **options)
    one(model, **change)
    assert (len(server.bodies), model.usage.cached) == (2, 0)


def test_other_models_and_endpoints_have_answers_of_their_own(server: Server, tmp_path: Path) -> None:
    models = [
        chat(server),
        chat(server, model="other"),
        chat(server, base_url=server.url + "/beta"),
    ]
    assert len({key_of(model._question(ask())) for model in models}) == 3


def test_a_server_that_was_asked_for_less_finds_its_answers_again(server: Server, tmp_path: Path) -> None:
    server.otherwise = refuse("json_schema")
    model = chat(server, cache_folder=tmp_path)
    for asked in (model, model, chat(server, cache_folder=tmp_path)):
        assert one(asked, schema=SCHEMA).text == "fine"
    assert len(server.bodies) == 2


def test_errors_are_not_kept(server: Server, tmp_path: Path) -> None:
    server.script = [failure(400), completion("so", finish="length"), completion("good")]
    model = chat(server, cache_folder=tmp_path)
    assert [one(model).text for _ in range(4)] == [None, None, "good", "good"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"text":"bad"}', None], ids=["empty", "cut", "foreign", "one letter"])
def test_a_damaged_entry_is_removed_and_asked_again(tmp_path: Path, damage: bytes | None) -> None:
    responses, key = Responses(tmp_path), key_of({"a": 1})
    responses.put(key, "good")
    (path,) = tmp_path.glob("*/*")
    assert path.relative_to(tmp_path).as_posix() == f"{key[:2]}/{key}.json"
    path.write_bytes(path.read_bytes().replace(b"good", b"goof") if damage is None else damage)
    assert responses.get(key) is None
    assert not path.exists()


def test_the_cache_stays_within_its_bounds_and_the_oldest_go_first(tmp_path: Path) -> None:
    keys = [key_of({"i": i}) for i in range(20)]
    (tmp_path / "ab").mkdir()
    foreign = tmp_path / "ab" / "notes.json"
    foreign.write_text("mine")
    os.utime(foreign, (1, 1))
    responses = Responses(tmp_path, limit_bytes=5_000)
    for i, key in enumerate(keys):
        responses.put(key, "x" * 900)  # about 1000 bytes as an entry
        os.utime(tmp_path / key[:2] / f"{key}.json", (100 + i, 100 + i))
    kept = [i for i, key in enumerate(keys) if responses.get(key)]
    assert kept == list(range(20 - len(kept), 20))
    assert 3 <= len(kept) <= 5
    assert foreign.read_text() == "mine"
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 5_000


def test_a_write_that_fails_leaves_nothing_behind_and_costs_no_answer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert one(chat(server, cache_folder=tmp_path)).text == "fine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "could not be kept" in caplog.text


def test_a_key_does_not_depend_on_the_order_of_names() -> None:
    assert key_of({"a": 1, "b": {"c": 2, "d": 3}}) == key_of({"b": {"d": 3, "c": 2}, "a": 1})
    with pytest.raises(WinnowError, match="cannot be written as JSON"):
        key_of({"a": float("nan")})


# Options


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"base_url": "https://api.example.com/v1"}, "not an allowed endpoint"),
        ({"base_url": "file:///etc/passwd"}, "scheme"),
        ({"base_url": None}, "base_url"),
        ({"model": 5}, "model"),
        ({"model": " "}, "model"),
        ({"cache_folder": "/etc"}, "cache_folder"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 2.5}, "concurrency.*whole number"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"timeout_s": "60"}, "timeout_s"),
        ({"retries": -1}, "retries"),
        ({"retries": True}, "retries"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"tokens_per_minute": -5}, "tokens_per_minute"),
        ({"price_in": -1.0}, "price_in"),
        ({"price_out": float("nan")}, "price_out"),
        ({"structured": "yaml"}, "json_schema, json_object, none"),
        ({"extra": {"stream": True}}, "stream"),
        ({"extra": {"model": "other", "n": 5}}, "model, n"),
        ({"extra": {"x": object()}}, "JSON"),
        ({"api_key_env": "AWS_SECRET_ACCESS_KEY"}, "api_key_env"),
        ({"api_key_env": "sk-pasted-by-mistake"}, "api_key_env"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_options_that_make_no_sense_are_refused(server: Server, options: dict[str, Any], why: str) -> None:
    with pytest.raises(WinnowError, match=why):
        chat(server, **options)


@pytest.mark.parametrize("name", ["api_key", "verify", "environment", "proxy"])
def test_there_are_no_other_options(server: Server, name: str) -> None:
    options: dict[str, Any] = {name: "x"}
    with pytest.raises(TypeError, match=name):
        OpenAIChat(base_url=server.url, model=MODEL, **options)


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}\r\nX-Evil: 1", f"{KEY}é"])
def test_a_key_that_would_break_the_header_is_refused_without_being_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(WinnowError, match="OPENAI_API_KEY") as caught:
        chat(server)
    assert KEY not in str(caught.value)


def test_the_endpoint_is_looked_up_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def look_up(host: str, _: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    monkeypatch.setattr("engine.outbound.resolve", look_up)
    server.host = f"localhost:{server.server_port}"
    local = f"http://{server.host}/v1"
    monkeypatch.setenv("WINNOW_ENDPOINTS", local)
    model = chat(server, base_url=local)
    model.complete([ask("1"), ask("2")])
    assert len(server.bodies) == 2
    assert asked == ["localhost"]

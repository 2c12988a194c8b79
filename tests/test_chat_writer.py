"""The chat writers over a scripted chat: stages, batches, checks, retries, and where the pairs of N3 come from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
from conftest import leased

from db.errors import NotFound, WinnowError
from db.records import Dataset, Decision, Kind, NewCandidate, NewVerdict
from db.store import Store
from engine.backends.chat_writer import ChatWriter, OpenAIWriter
from engine.chat import ChatReply, ChatRequest, Usage
from engine.examples import accepted_pairs
from engine.prompts import SCHEMAS, Pair, load, save
from engine.roles import Context, Foil, WriteTask

TEXT = "a red mug left of a blue ball"
Script = Callable[[ChatRequest], str | ChatReply]


class ScriptedChat:
    """Answers by a function of the request; keeps what it was asked, call by call."""

    name = "scripted@1"

    def __init__(self, script: Script) -> None:
        self.usage = Usage()
        self.calls: list[list[ChatRequest]] = []
        self._script = script

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        self.calls.append(list(requests))
        self.usage += Usage(requests=len(requests), tokens_in=10 * len(requests))
        answers = [self._script(request) for request in requests]
        return [answer if isinstance(answer, ChatReply) else ChatReply(text=answer) for answer in answers]

    @property
    def asked(self) -> list[ChatRequest]:
        return [request for call in self.calls for request in call]


def negative(text: str, edit_type: str = "colour", was: str = "red", now: str = "green") -> dict[str, str]:
    return {"text": text, "edit_type": edit_type, "changed_from": was, "changed_to": now}


def answer(*negatives: Any) -> str:
    return json.dumps({"negatives": negatives})


GREEN = negative("a green mug left of a blue ball")
PINK = negative("a pink mug left of a blue ball", now="pink")
RIGHT = negative("a red mug right of a blue ball", "position", "left", "right")
CUBE = negative("a red mug left of a blue cube", "object", "ball", "cube")
OBJECTS = '{"objects": [{"name": "mug", "attributes": ["red"], "relations": ["left of the ball"]}, '
OBJECTS += '{"name": "ball", "attributes": ["blue"], "relations": []}]}'


def by_schema(*negatives: Any) -> Script:
    """Each stage gets an answer of its kind."""
    answers = {"negatives": answer(*negatives), "objects": OBJECTS, "summary": '{"summary": "One word is exchanged."}'}
    known = {json.dumps(SCHEMAS[kind]): text for kind, text in answers.items()}
    return lambda request: known[json.dumps(request.schema)]


def in_turn(*answers: str | ChatReply) -> Script:
    waiting = list(answers)
    return lambda request: waiting.pop(0)


@pytest.fixture
def context(store: Store, dataset: Dataset) -> Context:
    return Context(store, dataset.id)


@pytest.fixture
def writer_of(context: Context) -> Callable[..., tuple[ChatWriter, ScriptedChat]]:
    def make(script: Script, *names: str, **options: Any) -> tuple[ChatWriter, ScriptedChat]:
        chat = ScriptedChat(script)
        prompts = [load(name, context.store.home) for name in names or ("n1_foil",)]
        return ChatWriter(chat, prompts, **options), chat

    return make


def task(n: int = 2, seed: int = 0, **changes: Any) -> WriteTask:
    return WriteTask(**{"text": TEXT, "n": n, "seed": seed} | changes)


def foils(result: list[Foil] | str) -> list[Foil]:
    assert not isinstance(result, str), result
    return result


def said_to(request: ChatRequest) -> str:
    return "\n".join(message.content for message in request.messages)


# One stage


def test_foils_carry_spans_and_provenance(writer_of: Any, context: Context) -> None:
    writer, chat = writer_of(by_schema(GREEN, RIGHT), temperature=0.4)
    first, second = foils(writer.write([task()])[0])
    assert (first.text, first.edit_type, first.changed_from, first.changed_to) == tuple(GREEN.values())
    assert [first.text[a:b] for a, b in first.spans] == ["green"]
    assert [second.text[a:b] for a, b in second.spans] == ["right"]
    assert first.strategy == "n1_foil"
    (request,) = chat.asked
    assert (request.temperature, request.max_tokens, request.schema) == (0.4, 700, SCHEMAS["negatives"])
    prompt = load("n1_foil", context.store.home)
    assert first.detail == {
        "prompt": "n1_foil",
        "prompt_version": 1,
        "prompt_digest": prompt.digest,
        "temperature": 0.4,
        "seed": request.seed,
        "model": "scripted@1",
        "attempt": 1,
    }
    assert writer.usage == chat.usage == Usage(requests=1, tokens_in=10)


def test_everything_known_is_said(writer_of: Any) -> None:
    writer, chat = writer_of(by_schema(GREEN, RIGHT))
    writer.write(
        [task(facts=("a yellow cup", "two keys"), siblings=("mug", "ball"), avoid=("“a green mug”: hard to see",))]
    )
    said = said_to(chat.asked[0])
    assert f"Description: {TEXT}\n" in said
    for known in ("a yellow cup; two keys", "mug, ball", "- “a green mug”: hard to see", "Write 3 negatives"):
        assert known in said


@pytest.mark.parametrize(
    "shape",
    [
        "{}",
        "Sure! Here they are:\n```json\n{}\n```\nAnything else?",
        "<think>Perhaps {{not this}}?</think>\n\n{}",
        "  {} {}",
    ],
)
def test_json_is_found_among_words(writer_of: Any, shape: str) -> None:
    given = shape.replace("{{", "{").replace("}}", "}").replace("{}", answer(GREEN, RIGHT))
    writer, chat = writer_of(in_turn(given))
    assert len(foils(writer.write([task()])[0])) == 2
    assert len(chat.calls) == 1


@pytest.mark.parametrize(
    ("junk", "fault"),
    [
        ("I cannot do that.", "there is no JSON object"),
        ("", "there is no JSON object"),
        ('{"negatives": [', "not valid JSON"),
        ('{"negatives": []}', "2 more usable negative(s) needed"),
        ('{"negatives": {}}', "does not follow the schema"),
        ('{"negatives": [], "note": "x"}', "does not follow the schema"),
        ('{"a":' * 100000, "nested without end"),
        (answer({"text": "a green mug"}), "missing required field"),
        (answer({**GREEN, "why": "x"}), "unknown field"),
        (answer(negative("a green mug", "color")), "“color” is no edit_type; known: object, colour"),
        (answer(negative(" ")), "one line that is not empty"),
        (answer(negative("a green mug\nleft of a blue ball")), "one line that is not empty"),
        (answer(negative("A red mug  left of a blue ball.")), "is the description itself"),
        (answer(negative("a mug left of a blue ball")), "only leaves words out"),
    ],
)
def test_an_unusable_answer_is_asked_for_again_with_its_fault(writer_of: Any, junk: str, fault: str) -> None:
    writer, chat = writer_of(in_turn(junk, answer(GREEN, RIGHT)))
    made = foils(writer.write([task()])[0])
    assert [foil.detail["attempt"] for foil in made] == [2, 2]
    (first,), (second,) = chat.calls
    assert first.seed != second.seed
    assert second.messages[: len(first.messages)] == first.messages
    quoted, complaint = second.messages[len(first.messages) :]
    assert (quoted.role, complaint.role) == ("assistant", "user")
    assert quoted.content and junk.strip().startswith(quoted.content[:20]) or quoted.content == "(nothing)"
    assert fault in complaint.content


def test_usable_negatives_of_a_faulty_answer_are_kept(writer_of: Any) -> None:
    writer, chat = writer_of(in_turn(answer(GREEN, negative("x", "color")), answer(GREEN, RIGHT)))
    made = foils(writer.write([task()])[0])
    assert [(foil.text, foil.detail["attempt"]) for foil in made] == [(GREEN["text"], 1), (RIGHT["text"], 2)]
    assert "1 more usable" in said_to(chat.calls[1][0])


def test_a_task_fails_in_a_sentence_and_alone(writer_of: Any) -> None:
    def script(request: ChatRequest) -> str:
        return "no" if "a broken" in said_to(request) else answer(GREEN, RIGHT)

    writer, chat = writer_of(script, attempts=3)
    failed, made = writer.write([task(text="a broken chair"), task()])
    assert len(foils(made)) == 2
    assert failed == "no usable negative for “a broken chair”: n1_foil, foil: there is no JSON object in it"
    assert [len(call) for call in chat.calls] == [2, 1, 1]


def test_an_error_of_the_chat_is_not_retried(writer_of: Any) -> None:
    writer, chat = writer_of(in_turn(ChatReply(text=None, error="the budget is spent")))
    assert writer.write([task()]) == [f"no usable negative for “{TEXT}”: n1_foil, foil: the budget is spent"]
    assert len(chat.calls) == 1


def test_duplicates_count_once_and_types_take_turns(writer_of: Any) -> None:
    doubled = negative("A green mug left of a blue ball.")
    writer, _ = writer_of(by_schema(GREEN, doubled, PINK, RIGHT, CUBE))
    made = foils(writer.write([task(n=3)])[0])
    assert [foil.edit_type for foil in made] == ["colour", "position", "object"]
    assert [foil.text for foil in foils(writer.write([task(n=4)])[0])][3] == PINK["text"]


def test_what_changed_is_found_when_the_model_is_wrong(writer_of: Any) -> None:
    swapped = negative("a blue mug left of a red ball", was="the colours", now="")
    writer, _ = writer_of(by_schema(swapped, GREEN))
    other, right = sorted(foils(writer.write([task()])[0]), key=lambda foil: foil.text)
    assert (other.changed_from, other.changed_to) == ("red mug left of a blue", "blue mug left of a red")
    assert other.detail["changes"] == "found by comparing the words"
    assert "changes" not in right.detail


# Two stages


def test_second_stage_sees_the_objects(writer_of: Any) -> None:
    writer, chat = writer_of(by_schema(GREEN, RIGHT), "n2_recombination")
    results = writer.write([task(seed=seed, text=f"{TEXT} {seed}") for seed in range(5)])
    assert all(foils(result) for result in results)
    assert [len(call) for call in chat.calls] == [5, 5]  # all first stages at once, then all second ones
    assert {json.dumps(request.schema) for request in chat.calls[0]} == {json.dumps(SCHEMAS["objects"])}
    assert "- mug: red; left of the ball\n- ball: blue\n" in said_to(chat.calls[1][0])


def test_first_stage_is_retried_and_its_failure_ends_the_strategy(writer_of: Any) -> None:
    writer, chat = writer_of(in_turn('{"objects": []}', OBJECTS, answer(GREEN, RIGHT)), "n2_recombination")
    assert len(foils(writer.write([task()])[0])) == 2
    assert "it lists no object" in said_to(chat.calls[1][0])
    writer, chat = writer_of(in_turn("no", "no"), "n2_recombination")
    assert "n2_recombination, objects: there is no JSON" in str(writer.write([task()])[0])


def by_strategy(request: ChatRequest) -> str:
    """Every strategy has its own negatives, first of all two of one edit type."""
    said = said_to(request)
    place = "on" if "Its objects:" in said else "under" if "summarised from pairs" in said else "behind"
    own = [negative(f"a {colour} mug {place} a blue ball", now=colour) for colour in ("green", "pink")]
    own += [negative(f"a red {thing} {place} a blue ball", "object", "mug", thing) for thing in ("cup", "jar", "hat")]
    return by_schema(*own)(request)


STRATEGIES = ("n1_foil", "n2_recombination", "n3_summary")


def test_strategies_run_side_by_side(writer_of: Any) -> None:
    writer, chat = writer_of(by_strategy, *STRATEGIES, ask=1)
    made = foils(writer.write([task(n=3)])[0])
    assert writer.strategies == STRATEGIES
    assert len(made) == 3 and {foil.strategy for foil in made} == set(STRATEGIES)
    assert [len(call) for call in chat.calls] == [3, 2]


def test_every_strategy_has_its_turn(writer_of: Any) -> None:
    writer, _ = writer_of(by_strategy, *STRATEGIES)
    results = writer.write([task(n=2, seed=seed) for seed in range(6)])
    assert [foils(result)[0].strategy for result in results] == list(STRATEGIES) * 2
    five = foils(writer.write([task(n=5)])[0])
    assert [foil.strategy for foil in five].count("n1_foil") == 3
    assert {foil.edit_type for foil in five[:2]} == {"colour", "object"}
    (only,) = {foil.strategy for foil in foils(writer.write([task(n=4, strategies=("n3_summary",))])[0])}
    assert only == "n3_summary"


def test_an_unknown_strategy_is_refused_before_anything_is_asked(writer_of: Any) -> None:
    writer, chat = writer_of(by_schema(GREEN), "n1_foil", "n2_recombination")
    with pytest.raises(NotFound, match=r"'n9'.* Known: n1_foil, n2_recombination"):
        writer.write([task(), task(strategies=("n1_foil", "n9"))])
    assert chat.calls == []


def test_results_do_not_depend_on_other_tasks(writer_of: Any) -> None:
    def script(request: ChatRequest) -> str:  # another colour for every seed
        colour = ("green", "pink", "black", "white")[request.seed % 4]
        return answer(*(negative(f"a {colour} mug {i}", now=colour) for i in range(4)))

    tasks = [task(seed=seed) for seed in range(8)]
    writer, _ = writer_of(script)
    together = writer.write(tasks)
    assert together == [writer_of(script)[0].write([one])[0] for one in tasks]
    assert len({foils(result)[0].text for result in together}) > 1


# Small models


def test_a_single_prompt_is_asked_again_with_other_seeds(writer_of: Any) -> None:
    given = in_turn(answer(GREEN), answer(GREEN), "junk", answer(RIGHT), answer(CUBE))
    writer, chat = writer_of(given, "pocket_foil")
    made = foils(writer.write([task(n=3, facts=("a cup",))])[0])
    assert [foil.text for foil in made] == [GREEN["text"], RIGHT["text"], CUBE["text"]]
    assert [len(call) for call in chat.calls] == [3, 2]
    assert {said_to(request) for request in chat.asked} == {f"foil: {TEXT}\nfacts: a cup"}
    assert len({request.seed for request in chat.asked}) == 5


# Pairs of N3


def accept(store: Store, dataset: Dataset, count: int, *, edit: bool = False) -> None:
    """So many negative texts that a person accepted, and one that was rejected."""
    shard = leased(store, dataset.id)
    image = store.datasets.images(dataset.id)[0]
    made = [
        NewCandidate(
            target=f"phrase:{i}/text",
            variant=0,
            kind=Kind.NEGATIVE_TEXT,
            image_id=image.id,
            seed=i,
            text_before="a red mug",
            text_after=f"{i} red mugs" if i < count else "a rejected mug",
            detail={"edit_type": "count"},
        )
        for i in range(count + 1)
    ]
    store.review.add_candidates(shard, made, dataset.id)
    for i, candidate_id in enumerate(store.review.candidate_ids(shard.run_id)):
        decision = Decision.REJECT if i == count else Decision.EDIT if edit else Decision.ACCEPT
        changes = {"text_after": f"{i} mended mugs"} if decision is Decision.EDIT else None
        verdict = NewVerdict(op_id=f"{shard.run_id}/{i}", candidate_id=candidate_id, decision=decision, edit=changes)
        assert store.review.decide([verdict])[0].status == "saved"


@pytest.mark.parametrize(("count", "source"), [(7, "shipped"), (8, "accepted")])
def test_pairs_are_the_accepted_ones_when_there_are_enough(
    store: Store, dataset: Dataset, writer_of: Any, count: int, source: str
) -> None:
    accept(store, dataset, count)
    writer, chat = writer_of(by_schema(GREEN, RIGHT), "n3_summary")
    pairs = accepted_pairs(store, dataset.id)
    results = writer.write([task(seed=seed, pairs=pairs) for seed in range(3)])
    assert all(foil.detail["pairs"] == source for result in results for foil in foils(result))
    assert [len(call) for call in chat.calls] == [1, 3]  # one summary for all
    shown = re.findall(r'^- "(.+)" -> "(.+)" \((.+)\)$', said_to(chat.calls[0][0]), re.MULTILINE)
    own = {("a red mug", f"{i} red mugs", "count") for i in range(count)}
    assert (set(shown) == own) == (source == "accepted")
    assert "a rejected mug" not in said_to(chat.calls[0][0])
    for request in chat.calls[1]:
        assert "One word is exchanged." in said_to(request)
        assert len(re.findall(r'^- ".+" -> ', said_to(request), re.MULTILINE)) == 4
    writer.write([task(seed=9, pairs=pairs)])
    assert [len(call) for call in chat.calls] == [1, 3, 1]  # the summary is kept
    writer.write([task(seed=9, pairs=(Pair(positive="a cup", negative="a jug", edit_type="object"),) * 4)])
    assert [len(call) for call in chat.calls] == [1, 3, 1, 1, 1]  # other pairs, another summary


def test_edited_texts_count_as_edited(store: Store, dataset: Dataset, context: Context) -> None:
    accept(store, dataset, 5, edit=True)
    accept(store, dataset, 5)
    accept(store, dataset, 5)  # the same texts again
    pairs = accepted_pairs(store, dataset.id)
    assert sorted(pair.negative for pair in pairs) == sorted(
        f"{i} {w} mugs" for i in range(5) for w in ("mended", "red")
    )
    assert accepted_pairs(store, dataset.id) == pairs
    assert accepted_pairs(store, dataset.id + 1) == ()


# Making one


@pytest.mark.parametrize("options", [{"attempts": 0}, {"ask": 0}])
def test_impossible_options(writer_of: Any, options: dict[str, int]) -> None:
    with pytest.raises(WinnowError, match="at least 1"):
        writer_of(by_schema(GREEN), **options)


def test_a_writer_needs_a_prompt() -> None:
    with pytest.raises(WinnowError, match="needs prompts"):
        ChatWriter(ScriptedChat(by_schema()), [])


def test_the_endpoint_writer_uses_edited_prompts_and_a_cache(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    class OpenAIChat(ScriptedChat):
        def __init__(self, *, base_url: str, model: str, cache_folder: Any) -> None:
            super().__init__(by_schema(GREEN, RIGHT))
            self.name, self.cache_folder = f"{model}@{base_url}", cache_folder

    module: Any = ModuleType("engine.backends.openai_chat")
    module.OpenAIChat = OpenAIChat
    monkeypatch.setitem(sys.modules, module.__name__, module)
    home = context.store.home
    save(home, load("n1_foil", home).text.replace("Write $n", "Give $n"))
    writer = OpenAIWriter(context, prompts=["n1_foil"], base_url="u", model="m", temperature=0.1, max_tokens=99)
    (foil, _) = foils(writer.write([task()])[0])
    assert (foil.detail["model"], foil.detail["prompt_version"], foil.detail["temperature"]) == ("m@u", 2, 0.1)
    assert writer._chat.cache_folder == home / "cache" / "chat"
    assert writer._chat.asked[0].max_tokens == 99
    with pytest.raises(TypeError, match="colour"):
        OpenAIWriter(context, base_url="u", model="m", colour="red")
    with pytest.raises(NotFound, match="prompt"):
        OpenAIWriter(context, prompts=["n0"], base_url="u", model="m")


def test_it_is_imported_without_torch() -> None:
    code = "import sys, engine.backends.chat_writer; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

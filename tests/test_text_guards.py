"""Each text guard on obviously good and bad negatives, and all of them on statements whose truth is known exactly."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from db.records import Box, Kind, Phrase
from engine.filters import FILTERS, Judgement
from engine.filters.edits import edits
from engine.filters.fluency import faults
from engine.filters.language import evidence, function_words, languages
from engine.filters.meaning import difference, entails, meaning, stem
from engine.filters.profanity import digest, is_profane, normalised, profane
from engine.filters.texts import likeness
from engine.subject import Subject
from engine.tabletop import KINDS, PRESETS, Truth, holds, paint
from engine.tabletop.language import parse
from engine.tabletop.relations import OPPOSITE
from tests.test_filters import BOXES, judge, passes, subject

CASES = [
    ("text_duplicate", "a red mug", "a blue mug", (), True),
    ("text_duplicate", "a red mug", "the red mugs", (), False),
    ("text_duplicate", "a red mug", "a blue mug", ("the blue mug",), False),
    ("text_duplicate", "a man on a sofa", "a man on the couch", (), False),
    ("text_duplicate", "a dog behind a cat", "a cat behind a dog", (), True),
    ("paraphrase", "a dog left of a cat", "a cat right of a dog", (), False),
    ("paraphrase", "a dog left of a cat", "a cat left of a dog", (), True),
    ("paraphrase", "a red mug", "a green lamp", ("two green lamps", "the lamp is green"), False),
    ("paraphrase", "a red mug", "a green lamp", ("two green lamps", "a red lamp"), True),
    ("hypernym", "a man on a bench", "a person on a bench", (), False),
    ("hypernym", "a dog", "an animal", (), False),
    ("hypernym", "a dog", "a thing", (), False),
    ("hypernym", "a sofa", "a couch", (), False),
    ("hypernym", "a dog", "a cat", (), True),
    ("hypernym", "a person", "a man", (), True),
    ("hypernym", "a red mug", "a cup", (), True),
    ("hypernym", "a red mug", "a red animal", ("a brown dog",), True),
    ("hypernym", "a red mug", "an animal", ("a brown dog",), False),
    ("hypernym", "a man", "three people", (), True),
    ("hypernym", "a red person", "a blue person", (), True),
    ("still_true", "a red mug", "a blue mug", (), True),
    ("still_true", "a red mug", "a blue mug", ("a big blue mug near a ball",), False),
    ("still_true", "a man", "a person", (), False),
    ("still_true", "a mug", "a ball", (), False),
    ("still_true", "a mug", "a red ball", (), False),
    ("still_true", "a mug", "a cup", (), True),
    ("still_true", "a dog left of a cat", "a dog", (), False),
    ("still_true", "a red dog on a table", "a dog on a table", (), False),
    ("still_true", "a dog behind a cat", "a cat behind a dog", (), True),
    ("still_true", "a table with no dog", "a table with a dog", (), True),
    ("still_true", "a mug on a table", "a table on a mug", (), True),
    ("text_length", "a red mug", "a blue mug", (), True),
    ("text_length", "a red mug", "a red mug that stands on a table near two old books", (), False),
    ("text_length", "a red mug on a wooden table near the door", "a mug", (), False),
    ("text_length", "RBC", "Platelets", (), True),
    ("single_edit", "a red mug", "a blue mug", (), True),
    ("single_edit", "a red mug", "a blue ball", (), False),
    ("single_edit", "a red mug", "the red mug", (), False),
    ("fluency", "a red mug", "an red mug", (), False),
    ("fluency", "a red mug", "an orange mug", (), True),
    ("language", "a red mug", "a blue mug", (), True),
    ("language", "a red mug", "ein blauer Becher", (), False),
    ("profanity", "a red mug", "a blue mug", (), True),
    ("profanity", "a red mug", "a damn red mug", (), False),
]


@pytest.mark.parametrize(("name", "before", "after", "phrases", "good"), CASES)
def test_guards(name: str, before: str, after: str, phrases: tuple[str, ...], good: bool) -> None:
    one = subject(texts=(before, after), phrases=(before, *phrases), kind=Kind.NEGATIVE_TEXT)
    assert passes(name, one) is good, judge(name, one).reason


@pytest.mark.parametrize("name", sorted({case[0] for case in CASES}))
def test_without_texts_there_is_a_reason(name: str) -> None:
    judgement = judge(name, subject(kind=Kind.NEGATIVE_TEXT))
    assert judgement.value is None and "no text" in judgement.reason


def test_a_verified_negative_is_no_positive() -> None:
    denied = Phrase(id=9, image_id=1, text="a lamp that is green", holds=False)
    one = subject(texts=("a red mug", "a green lamp"), phrases=(denied,), kind=Kind.NEGATIVE_TEXT)
    assert passes("paraphrase", one) is passes("still_true", one) is True


# The same words


def test_a_long_text_with_one_other_word_is_no_duplicate() -> None:
    words = (
        "a tall man with a grey hat stands near the open door of an old brick house and waits for the bus in the rain"
    )
    assert likeness(words, words.replace("grey", "red")) < 0.95
    assert likeness(words, words) == 1


@given(st.text(max_size=30), st.text(max_size=30))
def test_likeness_is_a_share(one: str, other: str) -> None:
    assert 0 <= likeness(one, other) <= 1
    assert likeness(one, one) == 1


# The same meaning

SAME = [
    ("a dog left of a cat", "the cat is to the right of the dog"),
    ("a dog on the left of a cat", "a cat right of a dog"),
    ("a mug on a table", "a table under a mug"),
    ("a mug on top of a table", "a mug on a table"),
    ("a cat inside a box", "a cat in a box"),
    ("a red striped mug", "a striped red mug"),
    ("a red and white mug", "a white and red mug"),
    ("the mug is red", "a mug that is red"),
    ("a running dog", "a dog running"),
    ("a dog chases a cat", "a cat is chased by a dog"),
    ("a dog is chasing a cat", "a cat chased by a dog"),
    ("a person riding a horse", "a horse ridden by a person"),
    ("a dog behind a tree and near a cat", "a dog near a cat and behind a tree"),
    ("a mug, a ball and a lamp", "a lamp, a mug and a ball"),
    ("a photo of a dog", "there is a dog"),
    ("one pink pair of scissors", "a pink pair of scissors"),
    ("an orange glossy hat behind a fork", "a fork in front of a glossy orange hat"),
]
OTHER = [
    ("a dog chases a cat", "a cat chases a dog"),
    ("a red mug left of a blue mug", "a blue mug left of a red mug"),
    ("a glorp left of a blorp", "a blorp left of a glorp"),
    ("glorp left of blorp", "blorp left of glorp"),
    ("two mugs", "three mugs"),
    ("a mug", "mugs"),
    ("a dog with a hat", "a dog without a hat"),
    ("the dog is not red", "the dog is red"),
    ("a man walking a dog", "a man walks by a dog"),
    ("an orange", "an orange hat"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_meaning_in_two_wordings(one: str, other: str) -> None:
    assert difference(meaning(one), meaning(other)) == 0


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_words_alike_with_another_meaning(one: str, other: str) -> None:
    assert difference(meaning(one), meaning(other)) > 0


@given(st.text(max_size=40), st.text(max_size=40))
def test_difference_is_symmetric(one: str, other: str) -> None:
    a, b = meaning(one), meaning(other)
    assert difference(a, b) == difference(b, a)
    assert difference(a, a) == 0 and entails(a, a)


def test_more_that_is_different_is_less_of_a_paraphrase() -> None:
    texts = ("a big red mug", "a red big mug", "a big blue mug", "a small blue mug")
    values = [judge("paraphrase", subject(texts=(texts[0], text))).value for text in texts[1:]]
    assert values == [1, 1 / 2, 1 / 3]


@pytest.mark.parametrize(
    "forms", ["chase chases chased chasing", "run runs running", "eat eats ate eaten eating", "carry carries carried"]
)
def test_forms_of_a_verb_share_their_stem(forms: str) -> None:
    assert len({stem(form) for form in forms.split()}) == 1


ENTAILED = [
    ("a red dog on a table", "an animal on a table", True),
    ("three dogs", "two dogs", True),
    ("a dog near a man", "a dog and a person", True),
    ("a dog", "two dogs", False),
    ("a dog on a table", "a dog under a table", False),
    ("an animal", "a dog", False),
    ("a man without a hat", "a hat", False),
]


@pytest.mark.parametrize(("fact", "claim", "entailed"), ENTAILED)
def test_what_a_text_entails(fact: str, claim: str, entailed: bool) -> None:
    assert entails(meaning(fact), meaning(claim)) is entailed


# Still true


def test_still_true_names_the_fact() -> None:
    one = subject(texts=("a red mug", "a blue mug"), phrases=("a blue mug on a book",), kind=Kind.NEGATIVE_TEXT)
    assert "a blue mug on a book" in judge("still_true", one).reason


def test_other_instances_of_unknown_colour_raise_the_alarm() -> None:
    two = (*BOXES, Box(id=3, image_id=1, xyxy=(0, 70, 30, 110), category_id=1))
    texts = ("a red mug", "a blue mug")
    assert passes("still_true", subject(texts=texts, boxes=BOXES, kind=Kind.NEGATIVE_TEXT)) is True
    assert passes("still_true", subject(texts=texts, boxes=two, kind=Kind.NEGATIVE_TEXT)) is False


# Wider words


def test_a_wider_word_names_the_pair() -> None:
    assert judge("hypernym", subject(texts=("a man", "a person"))) == Judgement(1.0, "a man may be called a person")
    other = judge("hypernym", subject(texts=("a red mug", "an animal"), phrases=("a brown dog",)))
    assert other.value == 0.6 and "a brown dog" in other.reason and "animal" in other.reason


def test_a_class_name_is_a_kind_of_its_last_word() -> None:
    cells = {1: "white cell", 2: "red cell", 3: "cell"}
    wide = subject(texts=("a white cell", "a cell"), boxes=(), categories=cells)
    rival = subject(texts=("a white cell", "a red cell"), boxes=(), categories=cells)
    assert judge("hypernym", wide).value == 1 and judge("hypernym", rival).value == 0


# Edits

EDITS = [
    ("a red striped mug", "a blue striped mug", ["red → blue"]),
    ("a red striped mug", "a blue dotted mug", ["red → blue", "striped → dotted"]),
    ("a dog left of a cat", "a dog right of a cat", ["left of → right of"]),
    ("a dog in front of a cat", "a dog behind a cat", ["in front of → behind"]),
    ("a mug", "two mugs", ["1 → 2"]),
    ("two dogs are here", "three dogs are here", ["2 → 3"]),
    ("a mug on a table", "two balls on a table", ["1 → 2", "mug → balls"]),
    ("a red mug", "a red mug with a big hat", ["nothing → with big hat"]),
    ("a red mug with a hat", "a red mug", ["with hat → nothing"]),
    ("a dog behind a cat", "a cat behind a dog", ["the same words in other roles"]),
    ("a medium green speckled cactus", "a medium plain green cactus", ["speckled → plain"]),
    ("a pair of scissors", "a key", ["scissors → key"]),
    ("an apple", "a banana", ["apple → banana"]),
    ("the mug is red", "the mugs are red", ["1 → some"]),
    ("a red mug", "the red mug", []),
    ("a dog left of a cat", "a cat right of a dog", None),
]


@pytest.mark.parametrize(("before", "after", "expected"), EDITS)
def test_edits(before: str, after: str, expected: list[str] | None) -> None:
    found = edits(before, after)
    assert found == expected if expected is not None else found


@given(st.text(max_size=40), st.text(max_size=40))
def test_edits_are_none_only_where_nothing_is_said_otherwise(one: str, other: str) -> None:
    assert edits(one, one) == []
    assert bool(edits(one, other)) == bool(edits(other, one))


# Form

FAULTS = [
    ("the the mug", "the"),
    ("a orange mug", "an orange"),
    ("an blue mug", "a blue"),
    ("a mug (red", "("),
    ('a "red mug', '"'),
    ('{"text": "a red mug"}', "JSON"),
    ('text": a mug', "JSON"),
    ("**a red mug**", "markdown"),
    ("- a red mug", "markdown"),
    ("1. a red mug", "markdown"),
    ("<b>a mug</b>", "markup"),
    ("a red mug</s>", "markup"),
    ("a mug<|im_end|>", "markup"),
    ("Sure, here you are: a red mug", "preamble"),
    ("Negative: a red mug", "preamble"),
    ("a red mug\nand a ball", "line break"),
    ("a red mug on a", "ends with"),
    ("a red mug on the wooden tab", "cut off"),
    ("a red mug on the...", "breaks off"),
    ("a red mug , and a ball", "punctuation"),
    ("...", "no words"),
]
SOUND = [
    "a red mug on a wooden table",
    "An hour ago, a unicorn ate an apple.",
    'A sign that says "stop" (in red)',
    "he had had enough",
    "a t-shirt and a 3-year-old's toy: blue",
    "a man's hat",
    "Ein Hund läuft an einer Mauer vorbei",
    "O gato vê a uva e a árvore",
]


@pytest.mark.parametrize(("text", "word"), FAULTS)
def test_faults_of_form_are_named(text: str, word: str) -> None:
    found = faults(text, "a red mug on the wooden table")
    assert [fault for fault in found if word in fault]


@pytest.mark.parametrize("text", SOUND)
def test_sound_texts_have_no_fault(text: str) -> None:
    assert faults(text) == []


def test_a_fault_of_the_source_is_not_held_against_the_negative() -> None:
    assert faults("a a blue mug", "a a red mug") == []
    assert len(faults("a a blue mug mug", "a a red mug")) == 1


@given(st.text(max_size=60))
def test_every_fault_is_inherited_from_oneself(text: str) -> None:
    assert faults(text, text) == []


# Language

SPOKEN = [
    ("a dog near a cat on the grass", "a dog near a bird on the grass", True),
    ("a dog near a cat on the grass", "ein Hund neben einer Katze auf dem Gras", False),
    ("a dog near a cat on the grass", "un chien près d'un chat sur l'herbe", False),
    ("a dog near a cat on the grass", "un perro junto a un gato en la hierba", False),
    ("a dog near a cat on the grass", "собака рядом с кошкой на траве", False),
    ("a dog near a cat on the grass", "草の上の犬", False),
    ("ein Hund neben einer Katze auf dem Gras", "ein Hund neben einem Vogel auf dem Gras", True),
    ("ein Hund neben einer Katze auf dem Gras", "a dog near the bird on the grass", False),
    ("собака рядом с кошкой на траве", "собака рядом с птицей на траве", True),
    ("草の上の犬", "草の上の猫", True),
    ("草の上の犬", "a dog on the grass", False),
    ("RBC", "WBC", None),
]


@pytest.mark.parametrize(("before", "after", "good"), SPOKEN)
def test_language(before: str, after: str, good: bool | None) -> None:
    one = subject(texts=(before, after), boxes=(), categories={}, kind=Kind.NEGATIVE_TEXT)
    assert passes("language", one) is good, judge("language", one).reason


def test_class_names_may_stand_in_any_text() -> None:
    one = subject(texts=("RBC", "WBC"), categories={1: "RBC", 2: "WBC"}, kind=Kind.NEGATIVE_TEXT)
    assert passes("language", one) is True


def test_each_list_of_small_words_tells_its_language() -> None:
    known = function_words()
    assert len(known) == 19
    for code, listed in known.items():
        assert len(listed) >= 20 and code in languages(" ".join(sorted(listed))), code


@given(st.text(max_size=40), st.text(max_size=40))
def test_evidence_is_a_share_or_none(text: str, known: str) -> None:
    share = evidence(text, [known]).share
    assert share is None or 0 <= share <= 1


# Profanity


@pytest.mark.parametrize("word", ["damn", "DAMN", "d4mn", "dàmn", "damned", "craps", "crapping", "craaaap"])
def test_listed_words_are_found_in_every_guise(word: str) -> None:
    assert is_profane(word)


@pytest.mark.parametrize(
    "word", ["grass", "class", "assassin", "cocktail", "raccoon", "spices", "Scunthorpe", "rapper", "tit", "mug"]
)
def test_innocent_words_are_not(word: str) -> None:
    assert not is_profane(word)


def test_a_profane_word_is_counted_but_not_repeated() -> None:
    judgement = judge("profanity", subject(texts=("a red mug", "a damn red mug"), kind=Kind.NEGATIVE_TEXT))
    assert judgement.value == 1 / 4 and "damn" not in judgement.reason and "d***" in judgement.reason
    assert profane("a damn mug", allowed=frozenset({"damn"})) == ([], 3)


def test_the_list_holds_no_word_in_clear() -> None:
    lines = (Path(engine.__path__[0]) / "wordlists" / "profanity.txt").read_text().splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    assert 60 <= len(listed) == len(set(listed)) and listed == sorted(listed)
    assert all(re.fullmatch("[0-9a-f]{16}", line) for line in listed)
    assert digest(normalised("Dámn")) in listed


# What is known exactly

CATEGORIES = {i: kind.name for i, kind in enumerate(KINDS, 1)}
PIXEL = np.zeros((1, 1, 3), np.uint8)
NUMBER = {name: i for i, name in CATEGORIES.items()}


@pytest.fixture(scope="module")
def scenes() -> list[Truth]:
    return [paint(3, i, PRESETS["standard"]).truth for i in range(12)]


def negative(truth: Truth, before: str, after: str) -> Subject:
    """The negative with what an import of the scene knows: its boxes, its caption, and the caption's phrases."""
    boxes = [
        Box(id=i, image_id=1, xyxy=thing.box, category_id=NUMBER[thing.kind])
        for i, thing in enumerate(truth.objects, 1)
    ]
    parts = [
        Phrase(id=i, image_id=1, text=part.text, parent_id=0, box_ids=tuple(index + 1 for index in part.objects))
        for i, part in enumerate(truth.phrases, 1)
    ]
    caption = Phrase(id=0, image_id=1, text=truth.caption)
    texts, kind = (before, after), Kind.NEGATIVE_TEXT
    return subject(PIXEL, PIXEL, texts=texts, phrases=(caption, *parts), boxes=boxes, categories=CATEGORIES, kind=kind)


def flagged(name: str, subjects: list[Subject]) -> float:
    """The share that does not pass the default rule."""
    assert len(subjects) > 30
    judged = FILTERS[name].score(subjects, None)  # type: ignore[arg-type]
    return sum(FILTERS[name].default.passes(one.value) is not True for one in judged) / len(subjects)


ALARMS = {"paraphrase": 0.02, "hypernym": 0.02, "single_edit": 0.02, "fluency": 0, "language": 0, "profanity": 0}


@pytest.mark.parametrize("name", ALARMS)
def test_false_statements_pass(scenes: list[Truth], name: str) -> None:
    false = [negative(truth, one.source, one.text) for truth in scenes for one in truth.false]
    assert flagged(name, false) <= ALARMS[name]


def test_true_statements_are_caught(scenes: list[Truth]) -> None:
    rng = random.Random(0)
    true = [negative(truth, rng.choice(truth.true).text, one.text) for truth in scenes for one in truth.true]
    assert flagged("still_true", true) >= 0.9


def restated(truth: Truth) -> Iterator[Subject]:
    """True statements of a relation, told from the other side."""
    for one in truth.true:
        said = parse(one.text)
        assert said is not None
        if said.relation and said.anchor and said.count is None:
            relation = said.relation if said.relation in ("near", "far from") else OPPOSITE[said.relation]
            bare = msgspec.structs.replace(said, relation=None, anchor=None)
            told = msgspec.structs.replace(said.anchor, relation=relation, anchor=bare).text
            if holds(truth, told):
                yield negative(truth, one.text, told)


def test_statements_told_from_the_other_side_are_caught(scenes: list[Truth]) -> None:
    assert flagged("paraphrase", [one for truth in scenes for one in restated(truth)]) == 1

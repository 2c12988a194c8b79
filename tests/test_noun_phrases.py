"""Noun phrases of captions, by the chunker that needs nothing installed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.errors import WinnowError
from engine import noun_phrases as module
from engine.noun_phrases import bare, noun_phrases, unmeasured
from engine.tabletop import Difficulty, paint

SAID = [
    ("A man rides a horse on the beach.", ["A man", "a horse", "the beach"]),
    ("a small red ball to the left of two mugs", ["a small red ball", "two mugs"]),
    ("A woman holding a wine glass, and her brown dog", ["A woman", "a wine glass", "her brown dog"]),
    ("three dogs sitting next to a fire hydrant", ["three dogs", "a fire hydrant"]),
    ("it is on the left", []),
    ("a sleeping cat", ["a sleeping cat"]),
    ("People are walking slowly across the busy street", ["People", "the busy street"]),
    ("a quokka near a zamboni", ["a quokka", "a zamboni"]),
    ("the glass on the glass table", ["the glass", "the glass table"]),
    ("A stop sign with graffiti on it", ["A stop sign", "graffiti"]),
    ("a pair of scissors and two sheets of paper", ["a pair of scissors", "two sheets of paper"]),
    ("there are no chairs", ["no chairs"]),
    ("", []),
]


@pytest.mark.parametrize(("text", "expected"), SAID, ids=[text or "empty" for text, _ in SAID])
def test_captions(text: str, expected: list[str]) -> None:
    assert [text[a:b] for a, b in noun_phrases(text, "own")] == expected


@given(st.text(alphabet=st.sampled_from("ab dogthe redin,.-'é \n"), max_size=80))
def test_spans_are_in_order_inside_the_text_and_never_overlap(text: str) -> None:
    spans = noun_phrases(text, "own")
    assert all(0 <= a < b <= len(text) for a, b in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert all(text[a:b].strip() == text[a:b] for a, b in spans)


def test_a_phrase_without_its_determiner_is_what_a_dictionary_lists() -> None:
    assert [bare(text) for text in ("A red Ball", "two of", "the", "no 3 mugs")] == ["red ball", "of", "the", "mugs"]


def test_adjectives_stand_by_the_thing_when_its_measure_is_left_out() -> None:
    said = ("a green pair of scissors", "two Pairs of red scissors", "a mug", "a pair of the scissors")
    assert [unmeasured(text) for text in said] == ["a green scissors", "two red scissors", *said[2:]]


def test_asking_for_a_missing_spacy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "spacy_model", lambda: None)
    module._pipeline.cache_clear()
    with pytest.raises(WinnowError, match="en_core_web_sm"):
        noun_phrases("a dog", "spacy")


def test_every_phrase_of_tabletop_captions_is_found() -> None:
    level = Difficulty(width=64, height=64)
    truths = [paint(5, number, level, "x.png").truth for number in range(30)]
    missed = [
        (truth.caption, phrase.text)
        for truth in truths
        for phrase in truth.phrases
        if (phrase.start, phrase.end) not in noun_phrases(truth.caption, "own")
    ]
    assert sum(len(truth.phrases) for truth in truths) > 60
    assert missed == []


def test_spacys_own_chunks_are_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    spacy = pytest.importorskip("spacy")
    from spacy.tokens import Doc

    parsed = Doc(
        spacy.blank("en").vocab,
        words=["A", "red", "mug", "is", "near", "two", "plates", "and", "it"],
        heads=[2, 2, 3, 3, 3, 6, 4, 6, 6],
        deps=["det", "amod", "nsubj", "ROOT", "prep", "nummod", "pobj", "cc", "conj"],
        pos=["DET", "ADJ", "NOUN", "AUX", "ADP", "NUM", "NOUN", "CCONJ", "PRON"],
    )
    monkeypatch.setattr(module, "spacy_model", lambda: "en_of_one_sentence")
    monkeypatch.setattr(module, "_pipeline", lambda: lambda text: parsed)
    assert [parsed.text[slice(*span)] for span in noun_phrases(parsed.text)] == ["A red mug", "two plates"]

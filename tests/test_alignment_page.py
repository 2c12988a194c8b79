"""The Alignment page: what it draws, and what it says where there is nothing to draw."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from db.errors import WinnowError
from db.store import Store
from engine.alignments import Aligned, Region, Word
from studio import aligning
from studio.context import Studio
from studio.pages import alignment


def found() -> Aligned:
    caption = "a red mug & a bowl"
    words = [
        Word(caption, 0, 18, [Region((0, 0, 50, 40), 0.4)]),
        Word("a red mug", 0, 9, [Region((5, 6, 20, 30), 0.6), Region((1, 2, 3, 4), 0.5)]),
        Word("a bowl", 12, 18, [Region((30, 5, 48, 20), -0.01)]),
    ]
    return Aligned(1, "d", 60, 48, caption, words)


def test_each_phrase_has_its_regions_a_row_and_one_number_for_both() -> None:
    shown = aligning.picture(found())
    assert "a red mug &amp; a bowl" in shown and shown.count("<rect") == 3, "the whole caption has a row alone"
    for number, text, best in (("1", "a red mug", "+0.60"), ("2", "a bowl", "-0.01")):
        assert (
            f'data-box="{number}"' in shown and f'<tr data-boxes="{number}"><td>{number}</td><td>{text}</td>' in shown
        )
        assert best in shown
    assert shown.count("not seen") == 1 and "Alignment +0.33" in shown


def test_a_caption_without_phrases_is_its_own_row() -> None:
    whole = found()
    shown = aligning.picture(Aligned(1, "d", 60, 48, whole.caption, whole.words[:1]))
    assert shown.count("<rect") == 1 and '<tr data-boxes="1"><td>1</td>' in shown


def test_without_a_detector_the_page_says_what_to_train(store: Store) -> None:
    studio = Studio(store=store, home=store.home)
    request: Any = SimpleNamespace(query_params={})
    assert "tiny_detclip" in alignment.opened(studio, request)[-1]
    with pytest.raises(WinnowError, match="Choose a detector"):
        alignment.question(studio, None, None, None)

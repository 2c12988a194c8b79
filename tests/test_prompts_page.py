"""The Prompts page: what it shows of a prompt, and what saving and going back do."""

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

import studio.app  # noqa: F401  keeps gradio from looking up its servers
from db.errors import WinnowError
from db.store import Store
from engine import prompts
from studio.context import Studio
from studio.pages import prompts as page

pytestmark = pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")
TRIED = (page.TEXT, page.FACTS)


@pytest.fixture
def studio_(store: Store, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setattr(gr, "Info", lambda message: None)  # a toast needs a request
    return Studio(store=store, home=store.home)


def asked(**query: str) -> Any:
    return SimpleNamespace(query_params=query)


def test_the_page_shows_the_prompt_and_what_a_model_would_read(studio_: Studio) -> None:
    name, version, text, shown = page.opened(studio_, asked(prompt="n1_foil"))
    assert (name.value, version.value, text) == ("n1_foil", 1, prompts.load("n1_foil", studio_.home).text)
    assert f"Description: {page.TEXT}" in shown and page.FACTS in shown and "mug, book, ball" in shown
    assert "$text" in shown and "Used by" in shown  # what can be filled in
    assert page.opened(studio_, asked(prompt="<no such>"))[0].value == prompts.prompts(studio_.home)[0].name


def test_two_stages_are_shown_and_a_text_is_no_markup(studio_: Studio) -> None:
    text = prompts.load("n2_recombination", studio_.home).text
    shown = page.tried(studio_, text, "<b>a mug</b>", "")
    assert shown.count("what the model reads") == 2 and "[what the stage before answered" in shown
    assert "&lt;b&gt;a mug&lt;/b&gt;" in shown and "<b>a mug" not in shown


def test_a_faulty_prompt_shows_every_fault_and_cannot_be_saved(studio_: Studio) -> None:
    text = prompts.load("n1_foil", studio_.home).text
    faulty = text.replace("$text", "$words").replace("temperature: 0.9", "temperature: 9")
    shown = page.tried(studio_, faulty.replace("temperature: 9", "temperature: 1"), *TRIED)
    assert "$words is unknown" in shown and "$text is missing" in shown
    assert "temperature" in page.tried(studio_, faulty, *TRIED)
    with pytest.raises(WinnowError, match="temperature"):
        page.saved(studio_, faulty, *TRIED)
    assert prompts.load("n1_foil", studio_.home).version == 1


def test_save_look_at_the_old_version_and_go_back(studio_: Studio) -> None:
    shipped = prompts.load("n1_foil", studio_.home).text
    edited = shipped.replace("Write $n negatives", "Please write $n negatives")
    _, version, text, shown = page.saved(studio_, edited, *TRIED)
    assert version.value == 2 and [number for _, number in version.choices] == [2, 1]
    assert "Please write 3 negatives" in shown and "version: 2" in text
    assert page.older(studio_, "n1_foil", 1, *TRIED)[0] == shipped
    with pytest.raises(WinnowError, match="no version 7; there are 1, 2"):
        page.older(studio_, "n1_foil", 7, *TRIED)
    assert page.saved(studio_, text, *TRIED)[1].value == 2  # nothing changed, no third version
    assert page.reverted(studio_, "n1_foil", *TRIED)[1].value == 1
    assert prompts.load("n1_foil", studio_.home).text == shipped

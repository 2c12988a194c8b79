"""The Help page: every topic under assets/help can be read in the studio, and pages link to topics that there are."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import studio.app  # noqa: F401  keeps gradio from looking up its servers
from db.store import Store
from studio.context import Studio
from studio.pages import help as page

PAGES = Path(page.__file__).parent


@pytest.fixture
def studio_(store: Store) -> Studio:
    return Studio(store=store, home=store.home)


def asked(**query: str) -> Any:
    return SimpleNamespace(query_params=query)


def test_every_topic_is_shown(studio_: Studio) -> None:
    for slug, name in page.topics().items():
        radio, text = page.opened(studio_, asked(topic=slug))
        assert radio.value == slug and text.startswith(f"## {name}") and len(text) > 200


def test_an_unknown_topic_or_a_path_gives_the_first(studio_: Studio) -> None:
    first = next(iter(page.topics()))
    assert page.opened(studio_, asked(topic="../../README"))[0].value == first
    assert page.told(studio_, "../../README") == ""


def test_pages_link_to_topics_that_there_are() -> None:
    named = {slug for file in PAGES.glob("*.py") for slug in re.findall(r'help="(\w+)"', file.read_text())}
    assert named and named <= set(page.topics())

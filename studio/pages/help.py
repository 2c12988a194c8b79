"""Help: the pages under `assets/help`, in the studio."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gradio as gr

from studio.context import Studio
from studio.pages.common import QUIET, asked, bound, heading, on_load

title, path = "Help", "help"
FOLDER = Path(__file__).parents[2] / "assets" / "help"


def page(studio: Studio) -> None:
    """A list of topics, and the one that was chosen."""
    heading(
        "Help",
        "How to review, how to find thresholds, what an audit proves, what a learned filter knows, what each format holds, how to train "
        "and compare.",
    )
    known = topics()
    topic = gr.Radio([(name, slug) for slug, name in known.items()], value=next(iter(known)), show_label=False)
    text = gr.Markdown(elem_classes=["w", "w-note"])
    topic.input(bound(studio, told), topic, text, **QUIET)
    on_load(studio, opened, [topic, text])


def opened(studio: Studio, request: gr.Request) -> tuple[Any, str]:
    """The topic named in the address (`/help?topic=lab`), else the first."""
    wanted = asked(request, "topic")
    slug = wanted if wanted in topics() else next(iter(topics()))
    return gr.Radio(value=slug), told(studio, slug)


def told(studio: Studio, slug: str) -> str:
    """The topic as Markdown, one level down: the page has a heading of its own."""
    text = (FOLDER / f"{slug}.md").read_text(encoding="utf-8") if slug in topics() else ""
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


def topics() -> dict[str, str]:
    """File name without ending -> heading, in the order of the names."""
    return {
        file.stem: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for file in sorted(FOLDER.glob("*.md"))
    }

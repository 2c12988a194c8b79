"""Prompts: read, try and change what the writers are asked, and go back to how it was."""

from __future__ import annotations

from string import Template
from typing import Any

import gradio as gr

from db.errors import WinnowError
from engine import prompts
from engine.packs import packs
from engine.prompts import PLACEHOLDERS, Prompt, Stage
from studio.context import Studio
from studio.markup import Html, facts, join, section, table, tag
from studio.pages.common import LOUD, QUIET, asked, bound, heading, html, on_load

title, path = "Prompts", "prompts"
TEXT = "a red mug left of a green book"
FACTS = "a red mug; a green book; a blue striped ball; the ball is behind the book"
CLASSES = ("mug", "book", "ball", "lamp")


def page(studio: Studio) -> None:
    """The file at the left; at the right its faults or what a model would read, and where the prompt is used."""
    heading(
        "Prompts",
        "How a model is asked for negative texts. A changed prompt gets the next version number; every candidate says "
        "which version made it, and no earlier version is lost.",
    )
    with gr.Row():
        with gr.Column(scale=6):
            with gr.Row(elem_classes=["w-line"]):
                name = gr.Dropdown(label="Prompt", choices=[], interactive=True, scale=3)
                version = gr.Dropdown(label="Version", choices=[], interactive=True, scale=2)
            text = gr.Code(language="yaml", interactive=True, label="The file", lines=20, max_lines=26, wrap_lines=True)
            with gr.Row():
                save = gr.Button("Save as the next version", variant="primary", min_width=160)
                back = gr.Button("Back to the version before", min_width=160)
        with gr.Column(scale=6):
            said = gr.Textbox(TEXT, label="Try it on a text that is true", max_lines=2)
            known = gr.Textbox(FACTS, label="What else is known of the image", max_lines=2)
            shown = html()
    form = [text, said, known]
    name.input(bound(studio, chosen), [name, said, known], [version, text, shown], **QUIET)
    version.input(bound(studio, older), [name, version, said, known], [text, shown], **QUIET)
    for change in (text.change, said.change, known.change):
        change(bound(studio, tried), form, shown, trigger_mode="always_last", **QUIET)
    outputs = [name, version, text, shown]
    save.click(bound(studio, saved), form, outputs, **LOUD)
    back.click(bound(studio, reverted), [name, said, known], outputs, **LOUD)
    on_load(studio, opened, outputs)


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    known = prompts.prompts(studio.home)
    wanted = asked(request, "prompt")
    return _all(studio, wanted if wanted in {prompt.name for prompt in known} else known[0].name, TEXT, FACTS)


def chosen(studio: Studio, name: str, said: str, known: str) -> tuple[Any, str, Html]:
    """The versions of a prompt, and the one in force."""
    return _all(studio, name, said, known)[1:]


def older(studio: Studio, name: str, version: int, said: str, known: str) -> tuple[str, Html]:
    """One version of a prompt, to look at or to save anew."""
    kept = {prompt.version: prompt.text for prompt in prompts.history(studio.home, name)}
    if version not in kept:
        raise WinnowError(f"The prompt {name!r} has no version {version}; there are {', '.join(map(str, kept))}.")
    return kept[version], tried(studio, kept[version], said, known)


def tried(studio: Studio, text: str, said: str, known: str) -> Html:
    """What a model would read of the prompt as it stands in the editor, or everything that is wrong with it."""
    try:
        prompt = prompts.parse(text)
    except WinnowError as error:
        return join(tag("div", tag("pre", str(error)), class_="w-banner bad"), _placeholders())
    values = prompts.fields(
        text=said,
        facts=[known] if known else [],
        classes=CLASSES,
        n=3,
        pairs=prompts.shipped_pairs()[::8],
        concepts=CLASSES,
        examples=[said],
    )
    values |= {name: f"[what the stage before answered: {PLACEHOLDERS[name]}]" for name in ("objects", "summary")}
    return join(_about(studio, prompt), [_stage(stage, values) for stage in prompt.stages], _placeholders())


def saved(studio: Studio, text: str, said: str, known: str) -> tuple[Any, ...]:
    """Put the text in force under the next version number."""
    before = {prompt.name: prompt.digest for prompt in prompts.prompts(studio.home)}
    prompt = prompts.save(studio.home, text)
    if before.get(prompt.name) == prompt.digest:
        gr.Info(f"Nothing has changed: {prompt.name} stays at version {prompt.version}.")
    else:
        gr.Info(f"{prompt.name} is now at version {prompt.version}; runs that start from now on use it.")
    return _all(studio, prompt.name, said, known)


def reverted(studio: Studio, name: str, said: str, known: str) -> tuple[Any, ...]:
    prompt = prompts.revert(studio.home, name)
    gr.Info(f"{name} is back at version {prompt.version}.")
    return _all(studio, name, said, known)


def _all(studio: Studio, name: str, said: str, known: str) -> tuple[Any, ...]:
    """The values of the whole page for the prompt of that name as it is in force."""
    now = prompts.load(name, studio.home)
    versions = [
        (f"{one.version}{' (in force)' if one.version == now.version else ''}", one.version)
        for one in reversed(prompts.history(studio.home, name))
    ]
    names = [(f"{prompt.title} ({prompt.name})", prompt.name) for prompt in prompts.prompts(studio.home)]
    return (
        gr.Dropdown(choices=names, value=name),
        gr.Dropdown(choices=versions, value=now.version),
        now.text,
        tried(studio, now.text, said, known),
    )


ASKED = {"phrases": "the phrases of one description a request", "description": "one description a request"}
USED = dict.fromkeys(ASKED, "recipes that make whole images, with packs that have a chat model")


def _about(studio: Studio, prompt: Prompt) -> Html:
    users = [pack.title for pack in packs(studio.home) if prompt.name in pack.strategies]
    return facts(
        [
            ("Does", prompt.summary),
            (
                "Asked",
                ASKED.get(prompt.purpose, "one negative a request" if prompt.single else "several negatives a request"),
            ),
            ("Temperature", f"{prompt.temperature:g}, answers of up to {prompt.max_tokens:,} tokens"),
            (
                "Used by",
                "; ".join(users)
                or USED.get(prompt.purpose)
                or "no model pack yet: name it under strategies of a pack or a recipe",
            ),
        ]
    )


def _stage(stage: Stage, values: dict[str, str]) -> Html:
    read = [(role, template) for role, template in (("system", stage.system), ("user", stage.user)) if template]
    filled = [
        join(
            tag("div", f"{role} message", class_="w-quiet"),
            tag("pre", Template(text).substitute(values), class_="w-prompt"),
        )
        for role, text in read
    ]
    return section(f"Stage {stage.name}: what the model reads, to answer as {stage.answer}", filled)


def _placeholders() -> Html:
    rows = [(tag("code", f"${name}"), meaning) for name, meaning in PLACEHOLDERS.items()]
    return tag("details", tag("summary", "What can be filled in"), table(("Word", "Stands for"), rows))

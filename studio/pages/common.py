"""What the pages share: headings, tables and grids as escaped HTML, and errors as toasts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, TypeVar

import gradio as gr

from db.errors import WinnowError
from db.records import Box, Image, Run

F = TypeVar("F", bound=Callable[..., Any])
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
LOUD: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
COLOURS = ("#f59e0b", "#0ea5e9", "#22c55e", "#ef4444", "#a855f7", "#14b8a6", "#ec4899", "#84cc16")


def heading(title: str, lead: str) -> None:
    gr.HTML(f'<h1 class="page">{escape(title)}</h1><p class="lead">{escape(lead)}</p>')


def told(action: F) -> F:
    """An error meant for the person becomes a toast with its message."""

    @functools.wraps(action)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except WinnowError as error:
            raise gr.Error(escape(str(error)).replace("\n", "<br>"), duration=15, title="Not done") from error

    return guarded  # type: ignore[return-value]


def on_load(action: Callable[..., Any], outputs: Sequence[Any], inputs: Sequence[Any] | None = None) -> None:
    """Run when the page that is being built is opened."""
    root = gr.context.Context.root_block
    assert root is not None, "on_load belongs inside a page"
    root.load(action, inputs, outputs, **QUIET)


def empty(text: str) -> str:
    return f'<div class="empty">{escape(text)}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, classes: Sequence[str] = ()) -> str:
    """An HTML table; numbers are set right. A cell of type `Html` is taken as it is, everything else is escaped."""
    body = [[_cell(value) for value in row] for row in rows]
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    names = [*classes, *[""] * (len(body) - len(classes))]
    lines = "".join(f'<tr class="{name}">{"".join(row)}</tr>' for row, name in zip(body, names, strict=True))
    return f'<table class="winnow"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


class Html(str):
    """Text that is markup already."""


def _cell(value: Any) -> str:
    if isinstance(value, Html):
        return f"<td>{value}</td>"
    if isinstance(value, float):
        return f'<td class="n">{value:.3f}</td>'
    kind = ' class="n"' if isinstance(value, int) else ""
    return f"<td{kind}>{escape('' if value is None else str(value))}</td>"


def progress_bar(run: Run) -> Html:
    share = 100 * run.done / run.total if run.total else 0
    return Html(f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}"><i style="width:{share:.0f}%"></i></div>')


def state(run: Run) -> Html:
    return Html(f'<span class="state {run.state}">{run.state}</span>')


def figure(image: Image, boxes: Sequence[Box], colour_of: Callable[[Box], str], caption: str) -> str:
    """A thumbnail with its boxes drawn over it; a click opens the whole image."""
    shapes = "".join(_rectangle(box, colour_of(box), image.width) for box in boxes)
    if image.digest is None:
        picture = '<text x="50%" y="50%" text-anchor="middle" fill="currentColor" font-size="20">no file</text>'
    else:
        picture = f'<image href="/media/thumb/{image.digest}?size=320" width="{image.width}" height="{image.height}"/>'
    drawn = f'<svg viewBox="0 0 {image.width} {image.height}" role="img" aria-label="{escape(caption)}">{picture}{shapes}</svg>'
    opened = f'<a href="/media/blob/{image.digest}" target="_blank">{drawn}</a>' if image.digest else drawn
    return f'<figure>{opened}<figcaption title="{escape(caption)}">{escape(caption)}</figcaption></figure>'


def _rectangle(box: Box, colour: str, width: int) -> str:
    x1, y1, x2, y2 = box.xyxy
    return f'<rect x="{x1}" y="{y1}" width="{x2 - x1}" height="{y2 - y1}" fill="none" stroke="{colour}" stroke-width="{max(1.2, width / 200):.1f}"/>'

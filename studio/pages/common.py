"""What the pages share: how a function becomes the answer to a click, and how its errors reach the person."""

from __future__ import annotations

import functools
import inspect
import logging
import uuid
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from db.errors import WinnowError
from db.records import Dataset
from studio import logs, markup
from studio.context import Studio

# A refresh is answered at once and in silence; an act goes through the queue, since only there a toast can be shown.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
LOUD: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
FIRST_STEP = "Import one, or load the demo, on the Datasets page."

logger = logging.getLogger(__name__)


def bound(studio: Studio, action: Callable[..., Any]) -> Callable[..., Any]:
    """`action` with the studio as its first argument. Its WinnowErrors become a toast with their message, anything else a
    toast with a number under which the server's log has the details."""

    @functools.wraps(action)
    def answer(*args: Any, **kwargs: Any) -> Any:
        with logs.within(logs.request() or uuid.uuid4().hex[:12]) as number:  # a click comes out of Gradio's queue
            try:
                return action(studio, *args, **kwargs)
            except WinnowError as error:
                raise toast(str(error)) from error
            except Exception as error:
                logger.exception("bug %s in %s", number, action.__qualname__)
                raise toast(
                    f"Something went wrong here (report {number}; the server's log has the details)."
                ) from error

    signature = inspect.signature(action)
    answer.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return answer


def toast(message: str) -> gr.Error:
    return gr.Error(escape(message).replace("\n", "<br>"), duration=20, title="Not done", print_exception=False)


def html(value: Any = "", **options: Any) -> gr.HTML:
    """A place for markup of ours."""
    return gr.HTML(value, apply_default_css=False, elem_classes=["w"], **options)


def heading(title: str, lead: str, *, help: str | None = None, style: str | None = None) -> None:
    """The top of a page; `help` is the topic of the Help page that explains it, `style` what the page adds to the head."""
    more = markup.tag("a", "How this works", href=f"/help?topic={help}") if help else None
    html(markup.heading(title, markup.join(lead, " ", more)), head=style)


def on_load(studio: Studio, action: Callable[..., Any], outputs: Sequence[Any]) -> None:
    """Run when the page that is being built is opened."""
    root = gr.context.Context.root_block
    assert root is not None, "on_load belongs inside a page"
    root.load(bound(studio, action), None, outputs, **QUIET)


def dataset_choice(studio: Studio, wanted: str | None = None) -> Any:
    """The data sets to choose from, for a dropdown."""
    known = studio.store.datasets.list()
    return gr.Dropdown(choices=[one.name for one in known], value=chosen_dataset(studio, known, wanted))


def chosen_dataset(studio: Studio, known: Sequence[Dataset], wanted: str | None) -> str | None:
    """The wanted data set, else the one worked on last, else the newest."""
    if wanted in {one.name for one in known}:
        return wanted
    worked_on = next((run.dataset_id for run in studio.store.ledger.runs(limit=1)), None)
    return next((one.name for one in known if one.id == worked_on), known[-1].name if known else None)


def required_dataset(name: str | None) -> str:
    if not name:
        raise WinnowError(f"There is no data set yet. {FIRST_STEP}")
    return name


def asked(request: gr.Request, name: str) -> str | None:
    """A value from the address of the page, such as 5 in `/jobs?run=5`."""
    return dict(request.query_params).get(name)


def asked_number(request: gr.Request, name: str) -> int | None:
    value = asked(request, name)
    return int(value) if value and value.isascii() and value.isdigit() else None

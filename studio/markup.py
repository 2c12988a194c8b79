"""HTML and SVG from values. Whatever is not `Html` already is escaped, so nothing that came from a file can become markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element. Children are text, `Html`, numbers, or iterables of these; None is left out. In names of attributes an
    underscore stands for a hyphen and one at the end is dropped (`class_`); a value of None or False leaves it out."""
    return Html(f"<{name}{''.join(_attributes(attributes))}>{_inner(children)}</{name}>")


def join(*parts: Any) -> Html:
    """Several pieces, one after the other."""
    return Html(_inner(parts))


def _attributes(attributes: dict[str, Any]) -> Iterable[str]:
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        known = name.rstrip("_").replace("_", "-")
        yield f' {known}="{"" if value is True else escape(_text(value))}"'


def _inner(children: Iterable[Any]) -> str:
    return "".join(_child(child) for child in children)


def _child(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int | float):
        return escape(_text(child))
    return _inner(child)


def _text(value: Any) -> str:
    """Coordinates need two decimals at most; shorter pages arrive sooner."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


# The pieces of every page


def heading(title: str, lead: Any) -> Html:
    return tag("header", tag("h1", title), tag("p", lead), class_="w-head")


def empty(title: str, text: Any) -> Html:
    """What is shown where there is nothing yet: what is missing, and the next act."""
    return tag("div", tag("h2", title), tag("p", text), class_="w-empty")


def section(title: str, *content: Any) -> Html:
    return tag("section", tag("h2", title), *content, class_="w-section")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    classes: Sequence[str] = (),
    picks: Sequence[Any] = (),
    picked: Any = None,
) -> Html:
    """A table; numbers stand at the right. `classes` and `picks` go with the rows: a row with a pick can be chosen (see
    `components/grid`), and `picked` is the one that is."""
    body = list(rows)
    lines = [
        tag("tr", [_cell(value) for value in row], class_=_at(classes, i), **_pickable(_at(picks, i), picked))
        for i, row in enumerate(body)
    ]
    sample = next(iter(body), ())
    kinds = ["n" if isinstance(value, int | float) else None for value in sample] or [None] * len(columns)
    head = tag("tr", [tag("th", column, scope="col", class_=kind) for column, kind in zip(columns, kinds, strict=True)])
    shown = tag("thead", head) if any(columns) else None
    return tag("div", tag("table", shown, tag("tbody", lines)), class_="w-table")


def facts(pairs: Iterable[tuple[str, Any]], *, small: bool = False) -> Html:
    """Names with values; pairs without a value are left out."""
    known = [(name, value) for name, value in pairs if value not in (None, "")]
    shown = [tag("div", tag("dt", name), tag("dd", value)) for name, value in known]
    return tag("dl", shown, class_="w-facts small" if small else "w-facts")


def _at(values: Sequence[Any], index: int) -> Any:
    return values[index] if index < len(values) else None


def _pickable(pick: Any, picked: Any) -> dict[str, Any]:
    if pick is None:
        return {}
    return {"data_pick": pick, "tabindex": 0, "aria_selected": "true" if pick == picked else "false"}


def _cell(value: Any) -> Html:
    if isinstance(value, float):
        return tag("td", f"{value:.3f}", class_="n")
    if isinstance(value, int):
        return tag("td", f"{value:,}", class_="n")
    return tag("td", value)

"""Plots as SVG that follows the page's colours, light and dark. Pure functions of numbers; every mark says its value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from studio.markup import Html, join, tag

WIDTH, HEIGHT = 620, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 8, 24
COLOURS = 8
POINTS = 240  # of a curve; more cannot be told apart
LABELS = 40  # bars that still get a name below them
SLANTED = 9  # from here on the names stand aslant
Curve = Sequence[tuple[float, float]]


class Scale(NamedTuple):
    """Maps values between `low` and `high` to pixels between `start` and `end`; by their logarithm when `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log10(v) for v in (self.low, self.high, max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (self.end - self.start) * (at - low) / ((high - low) or 1.0)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within `low..high`, about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def thinned(curve: Curve, limit: int = POINTS) -> list[tuple[float, float]]:
    """At most `limit` points, evenly chosen, with the first and the last."""
    if len(curve) <= limit:
        return list(curve)
    return [curve[round(i * (len(curve) - 1) / (limit - 1))] for i in range(limit)]


def smoothed(curve: Curve, weight: float = 0.9) -> list[tuple[float, float]]:
    """Exponential moving average, corrected for its start: the average of a constant is that constant."""
    average, mass, found = 0.0, 0.0, []
    for x, y in curve:
        average, mass = weight * average + (1 - weight) * y, weight * mass + (1 - weight)
        found.append((x, average / mass))
    return found


def lines(
    title: str,
    curves: Mapping[str, Curve],
    *,
    y_range: tuple[float, float] | None = None,
    smooth: bool = False,
    x_end: float | None = None,
    x_name: str = "step",
    latest: bool = True,
    width: int = WIDTH,
) -> Html:
    """Curves over steps, or over what `x_name` says. With `smooth`, the raw values stand faint behind their moving
    average. The legend gives the last value of each curve, or the names alone (`latest` False). `width` is that of the
    drawing, in units of its letters: about as many as the pixels it will take."""
    known = {name: thinned(curve) for name, curve in curves.items() if curve}
    if not known:
        return frame(title, [], _message("nothing measured yet", width), width=width)
    xs = [x for curve in known.values() for x, _ in curve]
    ys = [y for curve in known.values() for _, y in curve]
    low, high = y_range or (min(0.0, *ys), max(ys) * 1.05 or 1.0)
    x = Scale(min(0.0, *xs), max([*xs, x_end or 0]) or 1.0, LEFT, width - RIGHT)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    drawn = [_curve(number, name, curve, x, y, smooth, x_name) for number, (name, curve) in enumerate(known.items())]
    legend = [f"{name} {curve[-1][1]:.3g}" if latest else name for name, curve in known.items()]
    return frame(title, legend, join(y_axis(y, width), _x_axis(x), drawn), width=width)


def _curve(number: int, name: str, curve: Curve, x: Scale, y: Scale, smooth: bool, x_name: str) -> Html:
    shown = smoothed(curve) if smooth else curve
    raw = _path(curve, x, y, "curve faint") if smooth else None
    dots = [
        tag(
            "circle",
            tag("title", f"{name}: {value:.4g} at {x_name} {step:g}"),
            cx=x(step),
            cy=y(value),
            r=2.5 if len(shown) < 40 else 1,
        )
        for step, value in shown
    ]
    return tag("g", raw, _path(shown, x, y, "curve"), dots, class_=f"c{number % COLOURS}")


def _path(curve: Curve, x: Scale, y: Scale, kind: str) -> Html:
    points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in curve)
    return tag("polyline", points=points, class_=kind)


def histogram(title: str, bars: Sequence[tuple[str, int, str]]) -> Html:
    """Bars of (name, count, group), in the order given, one colour a group. Counts that span more than a factor of 50 are
    drawn on a logarithmic scale, and the title says so."""
    counts = [count for _, count, _ in bars if count]
    if not counts:
        return frame(title, [], _message("no boxes"))
    log = max(counts) > 50 * min(counts)
    y = Scale(0.7 if log else 0.0, max(counts) * 1.05, HEIGHT - BOTTOM, TOP, log)
    groups = list(dict.fromkeys(group for _, _, group in bars))
    step = (WIDTH - LEFT - RIGHT) / len(bars)
    drawn = [
        _bar(f"{name}: {count:,}", LEFT + i * step, step, y(y.low), y(count or y.low), groups.index(group))
        for i, (name, count, group) in enumerate(bars)
    ]
    sizes = [f"{group} ({sum(g == group for _, _, g in bars)})" for group in groups]
    named = _names([name for name, _, _ in bars], step)
    return frame(f"{title}, logarithmic" if log else title, sizes, join(y_axis(y), drawn, named), room=_room(len(bars)))


def grouped(
    title: str, names: Sequence[str], series: Mapping[str, Sequence[float | None]], *, high: float = 1.0
) -> Html:
    """Bars side by side: for every name one of each series; None leaves a gap."""
    if not names or not series:
        return frame(title, [], _message("nothing to compare"))
    y = Scale(0.0, high, HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(names)
    thin = step * 0.84 / len(series)
    drawn = [
        _bar(
            f"{name}, {run}: {value:.3f}", LEFT + i * step + step * 0.08 + j * thin, thin, y(0.0), y(max(value, 0.0)), j
        )
        for j, (run, values) in enumerate(series.items())
        for i, (name, value) in enumerate(zip(names, values, strict=True))
        if value is not None
    ]
    return frame(title, list(series), join(y_axis(y), drawn, _names(names, step)), room=_room(len(names)))


def _bar(title: str, left: float, width: float, bottom: float, top: float, colour: int) -> Html:
    gap = min(2.0, width * 0.15)
    shape = tag(
        "rect",
        x=left + gap / 2,
        y=top,
        width=max(width - gap, 0.4),
        height=max(bottom - top, 0.0),
        rx=min(2.0, width / 6),
    )
    return tag("g", tag("title", title), shape, class_=f"c{colour % COLOURS}")


def _room(bars: int) -> int:
    """Pixels that slanted names need below the frame."""
    return 36 if SLANTED < bars <= LABELS else 0


def _names(names: Sequence[str], step: float) -> Html | None:
    """Names below the bars, cut to the room there is; slanted when they are many, none when they are too many."""
    if len(names) > LABELS:
        return None
    slanted = len(names) > SLANTED
    room = 12 if slanted else max(3, int(step / 6.2))
    return join(*(_name(name, LEFT + (i + 0.5) * step, slanted, room) for i, name in enumerate(names)))


def _name(name: str, x: float, slanted: bool, room: int) -> Html:
    short = name if len(name) <= room else f"{name[: room - 1]}…"
    y = HEIGHT - BOTTOM + 14
    turned = f"rotate(-38 {x:.1f} {y})" if slanted else None
    return tag(
        "text", short, tag("title", name), x=x, y=y, text_anchor="end" if slanted else "middle", transform=turned
    )


def y_axis(y: Scale, width: int = WIDTH) -> Html:
    """Horizontal lines at round values."""
    values = (
        [10.0**k for k in range(math.ceil(math.log10(y.high)) + 1) if 10.0**k <= y.high]
        if y.log
        else ticks(y.low, y.high, 4)
    )
    return join(
        *(
            (
                tag("line", x1=LEFT, x2=width - RIGHT, y1=y(value), y2=y(value), class_="axis"),
                tag("text", short(value), x=LEFT - 6, y=y(value) + 4, text_anchor="end"),
            )
            for value in values
        )
    )


def _x_axis(x: Scale) -> Html:
    return join(
        *(
            tag("text", short(value), x=x(value), y=HEIGHT - 6, text_anchor="middle")
            for value in ticks(x.low, x.high, 6)
        )
    )


def short(value: float) -> str:
    """A number as an axis shows it: 0.25, 40, 1.5k, 2M."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def _message(text: str, width: int = WIDTH) -> Html:
    return tag("text", text, x=width / 2, y=HEIGHT / 2, text_anchor="middle")


def frame(title: str, legend: Sequence[str], marks: Html, *, room: int = 0, width: int = WIDTH) -> Html:
    """A plot with its title and legend around its marks; `room` is what it needs below, in units of its letters."""
    keys = [tag("span", tag("i"), name, class_=f"c{number % COLOURS}") for number, name in enumerate(legend)]
    drawn = tag("svg", marks, viewBox=f"0 0 {width} {HEIGHT + room}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", title, keys), drawn, class_="w-plot")

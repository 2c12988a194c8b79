"""What Compare shows of evaluations, as HTML and SVG: matrices, histograms, intervals, and boxes on their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.ablation import Ablation, Effect
from engine.comparison import BINS, Confusion, Tally
from engine.evaluation.matching import RECALLS
from studio import plots, tables
from studio.markup import Html, join, section, table, tag
from studio.plots import BOTTOM, HEIGHT, LABELS, LEFT, RIGHT, TOP, WIDTH, Scale, frame, y_axis

XYWH = Sequence[float]
SHOWN_CLASSES = 20  # of a matrix
FREQUENT = 12  # confusions
MARGIN = 0.6  # of a box, around it
SMALLEST = 72.0  # pixels of a crop
NOTHING, NOT_FOUND = "nothing there", "not found"
KEYS = {"truth": "there", "right": "found", "wrong": "wrong", "missed": "not found"}
CUTS = {
    "size": "by size of the box",
    "frequency": "by frequency of the class",
    "words": "by words",
    "edit": "by type of edit",
}

# Numbers


def slices(labels: Sequence[str], found: Sequence[Mapping[str, Mapping[str, float]]]) -> Html | None:
    """AP by slice, a table for each way to cut; of all runs, with the differences from the first."""
    cuts = dict.fromkeys(cut for known in found for cut in known)
    if not cuts:
        return None
    parts = [section(f"AP {CUTS.get(cut, cut)}", _cut(labels, [known.get(cut, {}) for known in found])) for cut in cuts]
    return tag("div", parts, class_="w-two")


def _cut(labels: Sequence[str], values: Sequence[Mapping[str, float]]) -> Html:
    names = dict.fromkeys(name for known in values for name in known)
    return by_run(list(names), labels, values)


def by_run(names: Sequence[Any], labels: Sequence[str], values: Sequence[Mapping[str, float]], what: str = "") -> Html:
    """A row for each name, a column for each run, with the differences from the first."""
    rows = [(name, *_changes([known.get(str(name), -1.0) for known in values])) for name in names]
    return table((what, *labels), rows)


def _changes(values: Sequence[float]) -> list[Html | str]:
    return [tables.with_change(value, values[0], at == 0) for at, value in enumerate(values)]


def tallies(labels: Sequence[str], found: Sequence[Tally]) -> Html:
    """What a threshold leaves of each run."""
    return table(("", "Found", "Wrong", "Not found", "Precision", "Recall"), map(_tally, labels, found))


def _tally(label: str, told: Tally) -> tuple[Any, ...]:
    precision, recall = (_share(told.right, whole) for whole in (told.right + told.wrong, told.right + told.missed))
    return label, f"{told.right:,}", f"{told.wrong:,}", f"{told.missed:,}", precision, recall


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "–"


# Plots


def precision_recall(what: str, curves: Mapping[str, np.ndarray | None]) -> Html:
    """Interpolated precision over recall, at an IoU of 0.5."""
    known = {
        f"{name}: AP50 {curve.mean():.3f}": list(zip(RECALLS.tolist(), curve.tolist(), strict=True))
        for name, curve in curves.items()
        if curve is not None
    }
    title = f"Precision over recall, {what}"
    return plots.lines(title, known, y_range=(0.0, 1.0), x_end=1.0, x_name="recall", latest=False)


def scores(title: str, right: np.ndarray, wrong: np.ndarray, threshold: float) -> Html:
    """Right and wrong predictions side by side in bins of their score; logarithmic where they differ much."""
    counts = np.concatenate([right, wrong])
    there = counts[counts > 0]
    if not len(there):
        return frame(title, [], tag("text", "no predictions", x=WIDTH / 2, y=HEIGHT / 2, text_anchor="middle"))
    log = bool(there.max() > 50 * there.min())
    y = Scale(0.7 if log else 0.0, float(there.max()) * 1.05, HEIGHT - BOTTOM, TOP, log)
    x = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT)
    drawn = [
        _column(name, counted, x, y, place)
        for place, (name, counted) in enumerate((("right", right), ("wrong", wrong)))
    ]
    line = tag("line", x1=x(threshold), x2=x(threshold), y1=TOP, y2=HEIGHT - BOTTOM, class_="threshold")
    named = [tag("text", f"{v:g}", x=x(v), y=HEIGHT - 6, text_anchor="middle") for v in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    return frame(f"{title}, logarithmic" if log else title, ["right", "wrong"], join(y_axis(y), drawn, line, named))


def _column(name: str, counts: np.ndarray, x: Scale, y: Scale, place: int) -> Html:
    """The bars of one outcome, beside those of the other."""
    bars = []
    for at, count in enumerate(counts.tolist()):
        if not count:
            continue
        low, high = at / BINS, (at + 1) / BINS
        width = (x(high) - x(low)) * 0.42
        left = x(low) + (x(high) - x(low)) * (0.06 + 0.46 * place)
        shape = tag("rect", x=left, y=y(count), width=width, height=max(y(y.low) - y(count), 0.6), rx=1)
        bars.append(tag("g", tag("title", f"{name}, score {low:.2f} to {high:.2f}: {count:,}"), shape))
    return tag("g", bars, class_=f"c{place}")


def intervals(title: str, effects: Mapping[str, Effect]) -> Html:
    """The mean paired difference of each name as a bar with its 95 % interval; the largest first."""
    ranked = sorted(effects.items(), key=lambda item: -abs(item[1].difference.mean))
    shown = ranked[:LABELS]
    if not shown:
        return frame(title, [], tag("text", "nothing measured yet", x=WIDTH / 2, y=HEIGHT / 2, text_anchor="middle"))
    ends = [v for _, e in shown for v in (e.difference.low, e.difference.high, e.difference.mean) if v is not None]
    reach = max(0.01, *(abs(v) for v in ends)) * 1.1
    y = Scale(-reach, reach, HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(shown)
    drawn = [_interval(name, effect, LEFT + (at + 0.5) * step, step, y) for at, (name, effect) in enumerate(shown)]
    zero = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(0), y2=y(0), class_="zero")
    more = f", {len(shown)} of {len(ranked)}" if len(ranked) > len(shown) else ""
    return frame(f"{title}{more}", [], join(y_axis(y), drawn, zero, _under(shown, step)), room=50)


def _interval(name: str, effect: Effect, x: float, step: float, y: Scale) -> Html:
    told = effect.difference
    width = min(step * 0.62, 34)
    top, bottom = sorted((y(told.mean), y(0)))
    bar = tag("rect", x=x - width / 2, y=top, width=width, height=max(bottom - top, 0.6), rx=1.5)
    whisker = None
    colour = "c7"
    if told.low is not None and told.high is not None:
        whisker = tag("line", x1=x, x2=x, y1=y(told.low), y2=y(told.high), class_="whisker")
        colour = "c2" if told.low > 0 else "c5" if told.high < 0 else "c7"
    return tag("g", tag("title", f"{name}: {difference(effect)}"), bar, whisker, class_=colour)


def _under(shown: Sequence[tuple[str, Effect]], step: float) -> list[Html]:
    y = HEIGHT - BOTTOM + 12
    return [
        tag(
            "text",
            name if len(name) <= 14 else f"{name[:13]}…",
            tag("title", name),
            x=(x := LEFT + (at + 0.5) * step),
            y=y,
            text_anchor="end",
            transform=f"rotate(-38 {x:.1f} {y})",
        )
        for at, (name, _) in enumerate(shown)
    ]


def difference(effect: Effect) -> str:
    """A difference with its interval: "+0.012 (-0.003 to +0.027, n = 5)"."""
    told = effect.difference
    mean = f"{told.mean + 0.0:+.3f}"
    if told.low is None or told.high is None:
        return f"{mean} (n = {told.n}, no interval)"
    return f"{mean} ({told.low:+.3f} to {told.high:+.3f}, n = {told.n})"


# Confusion


def matrix(title: str, run_id: int, found: Confusion, names: Sequence[str], picked: str) -> Html:
    """What is there (rows) against what was said (columns); a cell with boxes can be chosen, as `RUN:ROW:COLUMN`. Of many
    classes, those with most errors."""
    chosen = _most_confused(found.counts)
    end = len(names)
    more = f"the {len(chosen)} classes with most errors of {end}" if len(chosen) < _used(found.counts) else ""
    heads = [tag("th", tag("span", name, title=name), scope="col") for name in (*(names[i] for i in chosen), NOT_FOUND)]
    rows = [
        tag(
            "tr",
            tag("th", names[row] if row < end else NOTHING, scope="row", title=names[row] if row < end else NOTHING),
            [_cell(found.counts, row, column, f"{run_id}:{row}:{column}", picked, names) for column in (*chosen, end)],
        )
        for row in (*chosen, end)
    ]
    caption = tag("caption", f"{title}: rows are what is there, columns what was said", f"; {more}" if more else "")
    grid = tag("table", caption, tag("thead", tag("tr", tag("th"), heads)), tag("tbody", rows))
    return tag("div", grid, class_="w-matrix")


def _used(counts: np.ndarray) -> int:
    return int((counts.sum(0) + counts.sum(1))[:-1].astype(bool).sum())


def _most_confused(counts: np.ndarray) -> list[int]:
    """The places of the labels to show, in order; those without any box are left out."""
    whole = (counts.sum(0) + counts.sum(1))[:-1]
    errors = whole - 2 * np.diag(counts)[:-1]
    ranked = sorted(np.flatnonzero(whole).tolist(), key=lambda at: (-errors[at], at))
    return sorted(ranked[:SHOWN_CLASSES])


def _cell(counts: np.ndarray, row: int, column: int, pick: str, picked: str, names: Sequence[str]) -> Html:
    count = int(counts[row, column])
    if not count:
        return tag("td")
    share = count / max(int(counts[row].sum()), 1)
    kind = "right" if row == column else None
    chosen = "true" if pick == picked else "false"
    return tag(
        "td",
        f"{count:,}" if count < 10_000 else plots.short(count),
        title=f"{count:,}: {described(row, column, names)}",
        class_=kind,
        data_pick=pick,
        tabindex=0,
        aria_selected=chosen,
        style=f"--share: {share:.2f}",
    )


def described(row: int, column: int, names: Sequence[str]) -> str:
    """A cell in words."""
    end = len(names)
    if row == end:
        return f"“{names[column]}” where nothing like it is"
    if column == end:
        return f"{names[row]} not found"
    return f"{names[row]} found" if row == column else f"{names[row]} taken for {names[column]}"


def confusions(run_id: int, found: Confusion, names: Sequence[str], picked: str) -> Html:
    """The most frequent cases of one class taken for another."""
    pairs = found.counts[:-1, :-1] - np.diag(np.diag(found.counts[:-1, :-1]))
    ranked = [divmod(int(at), len(names)) for at in np.argsort(-pairs, axis=None)[:FREQUENT] if pairs.flat[at]]
    if not ranked:
        return tag("p", "No class is taken for another at this score.", class_="w-quiet")
    rows = [(names[row], names[column], int(pairs[row, column])) for row, column in ranked]
    picks = [f"{run_id}:{row}:{column}" for row, column in ranked]
    return tag("div", table(("There", "Said", "Boxes"), rows, picks=picks, picked=picked), class_="w-scroll")


# Boxes on images


class Mark(NamedTuple):
    """A box xywh in pixels; `kind` is truth, right, wrong or missed."""

    xywh: XYWH
    kind: str
    label: str


class Shot(NamedTuple):
    """An image, or the part of it around `focus` (xywh in pixels), with its boxes."""

    digest: str
    width: int
    height: int
    marks: Sequence[Mark]
    caption: Html | str
    focus: XYWH | None = None
    pick: str | None = None


def shots(found: Sequence[Shot], *, large: bool = False) -> Html:
    return tag("div", [_shot(one, large) for one in found], class_="w-shots large" if large else "w-shots")


def _shot(one: Shot, large: bool) -> Html:
    x, y, width, height = crop(one.focus, one.width, one.height) if one.focus else (0, 0, one.width, one.height)
    whole = one.focus is None and not large
    address = f"/media/thumb/{one.digest}?size=320" if whole else f"/media/blob/{one.digest}"
    letters = width / (34 if large else 17)
    drawn = tag(
        "svg",
        tag("image", href=address, width=one.width, height=one.height),
        [_mark(mark, letters if one.focus or large else 0.0, (x, y)) for mark in one.marks],
        viewBox=f"{x:.1f} {y:.1f} {width:.1f} {height:.1f}",
        preserveAspectRatio="xMidYMid slice" if one.focus else "xMidYMid meet",
        role="img",
        aria_label="; ".join(f"{mark.label} {KEYS[mark.kind]}" for mark in one.marks),
        class_="w-picture",
    )
    picked = {} if one.pick is None else {"data_pick": one.pick, "tabindex": 0, "aria_selected": "false"}
    return tag("figure", drawn, tag("figcaption", one.caption), **picked)


def _mark(mark: Mark, letters: float, corner: tuple[float, float]) -> Html:
    x, y, width, height = mark.xywh
    shape = tag("rect", x=x, y=y, width=width, height=height, class_=mark.kind)
    if not letters or mark.kind == "truth":
        return shape
    at = max(x, corner[0]) + letters / 5, max(y, corner[1]) + letters
    return tag("g", shape, tag("text", mark.label, x=at[0], y=at[1], font_size=letters))


def crop(focus: XYWH, width: int, height: int) -> tuple[float, float, float, float]:
    """The part x, y, width, height of an image to show a box in: 4 to 3, with the box in the middle where there is room."""
    x, y, w, h = focus
    wide = max(w * (1 + 2 * MARGIN), h * (1 + 2 * MARGIN) * 4 / 3, SMALLEST)
    wide = min(wide, float(width), height * 4 / 3)
    high = min(wide * 3 / 4, float(height))
    left, top = (x + w / 2 - wide / 2, y + h / 2 - high / 2)
    return min(max(left, 0.0), width - wide), min(max(top, 0.0), height - high), wide, high


def keys(*kinds: str) -> Html:
    """What the colours of boxes mean."""
    return tag("div", [tag("span", tag("i"), KEYS[kind], class_=kind) for kind in kinds], class_="w-keys")


def picks(found: Sequence[tuple[str, int, str]], picked: str) -> Html:
    """Counts that can be chosen: (pick, count, what)."""
    shown = [
        tag(
            "div",
            tag("b", f"{count:,}"),
            tag("span", what),
            data_pick=pick,
            tabindex=0,
            aria_selected=str(pick == picked).lower(),
        )
        for pick, count, what in found
    ]
    return tag("div", shown, class_="w-picks")


def turn(page: int, pages: int) -> Html | None:
    """The way to the pages before and after; none for a single page."""
    if pages <= 1:
        return None
    before, after = page - 1 if page > 1 else None, page + 1 if page < pages else None
    middle = tag("span", f"page {page} of {pages}")
    return tag("div", _turn("Previous", before), middle, _turn("Next", after), class_="w-turn")


def _turn(name: str, to: int | None) -> Html:
    return tag("button", name, type="button", disabled=to is None, data_turn=to)


# Ablations


def ablations(found: Sequence[Ablation], picked: str) -> Html:
    rows = [
        (
            f"{one.with_.name} against {one.without.name}",
            one.preset,
            one.split,
            f"{one.pairs} of {len(one.legs)}",
            _headline(one),
        )
        for one in found
    ]
    columns = ("What", "Detector", "Judged on", "Seeds done", "Change of the AP")
    return table(columns, rows, picks=[one.key for one in found], picked=picked)


def _headline(one: Ablation) -> str:
    effect = next(iter(one.metrics.values()), None)
    return difference(effect) if effect else "not yet"


def effects(found: Mapping[str, Effect], without: str, with_: str) -> Html:
    """The mean of each number without and with the slice, and the paired difference."""
    rows = [
        (name, f"{e.without:.3f}", f"{e.with_:.3f}", _coloured(e), f"{e.better} of {e.difference.n}")
        for name, e in found.items()
    ]
    return table(("", without, with_, "Difference, 95 % interval", "Better"), rows)


def _coloured(effect: Effect) -> Html:
    told = effect.difference
    sure = told.low is not None and told.high is not None and (told.low > 0 or told.high < 0)
    word = "w-quiet" if not sure else "w-up" if told.mean > 0 else "w-down"
    return tag("span", difference(effect), class_=word)


def legs(one: Ablation) -> Html:
    """The runs of an ablation by seed, with how far they are and why they failed."""
    rows = [
        (str(seed), arm, _run(leg.training), "–" if leg.evaluation is None else _run(leg.evaluation))
        for seed, by_arm in one.legs.items()
        for arm, leg in by_arm.items()
    ]
    return tag("div", table(("Seed", "Arm", "Training", "Evaluation"), rows), class_="w-scroll")


def _run(run: Any) -> Html:
    part = f" {run.done / run.total:.0%}" if not run.state.ended and run.done and run.total else ""
    wrong = tag("div", run.error.strip().rsplit("\n", 1)[-1], class_="w-quiet") if run.error else None
    return join(tag("a", f"run {run.id}", href=f"/jobs?run={run.id}"), " ", tables.state(run), part, wrong)

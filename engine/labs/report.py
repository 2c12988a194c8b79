"""A lab's result as files: `results.json` with everything, `table.md` to read, `differences.png` to look at."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engine.labs.paired import Difference, Estimate, Result

RESULTS, TABLE, PLOT = "results.json", "table.md", "differences.png"
STAR = " *"
READING = (
    "Mean over the seeds, and the difference within each seed with its 95 % interval (Student's t), in points; **bold** "
    "where the interval leaves 0 out. No correction for looking at several differences."
)


def write(result: Result, folder: Path) -> None:
    """Write the three files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    (folder / TABLE).write_text(table(result), "utf-8")
    plot(result, folder / PLOT)


def table(result: Result) -> str:
    """Means and paired differences as Markdown, with what a reader must know."""
    head = [f"# {result.title}", "", f"{len(result.seeds)} paired seeds. Made by `{result.command}`.", ""]
    means, gaps = (_markdown(cells) for cells in tables(result))
    told = [
        READING,
        "",
        *(f"- **{arm.name}**: {arm.says}" for arm in result.arms),
        "",
        *(f"- {name}: {what}" for name, what in result.metrics.items()),
        *(["", *(f"- {note}" for note in result.notes)] if result.notes else []),
        "",
        f"{result.seconds / 60:.0f} minutes of measuring; "
        + ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    ]
    return "\n".join([*head, *means, "", *gaps, "", *told, ""])


def tables(result: Result) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Means and paired differences as cells, each with its line of names first; what is shown carries a star."""
    means = [("arm", *result.metrics), *((name, *map(mean, of.values())) for name, of in result.means.items())]
    pairs = by_pair(result).items()
    gaps = [("difference", *result.metrics), *((f"{arm} vs {other}", *map(gap, of)) for (arm, other), of in pairs)]
    return means, gaps


def _markdown(cells: list[tuple[str, ...]]) -> list[str]:
    """Numbers to the right, what is shown in bold."""
    ruler = ("---", *["---:"] * (len(cells[0]) - 1))
    set_in = [tuple(f"**{cell[:-2]}**" if cell.endswith(STAR) else cell for cell in row) for row in cells]
    return ["| " + " | ".join(row) + " |" for row in (set_in[0], ruler, *set_in[1:])]


def mean(estimate: Estimate) -> str:
    """A metric as a cell."""
    return f"{100 * estimate.mean:.1f}"


def gap(difference: Difference) -> str:
    """A difference as a cell: its mean, and the interval if there is one."""
    found = difference.estimate
    if found.low is None or found.high is None:
        return f"{100 * found.mean:+.1f}"
    text = f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return text + STAR if difference.shown else text


def by_pair(result: Result) -> dict[tuple[str, str], list[Difference]]:
    """The differences of each pair of arms, in the order of the metrics."""
    found: dict[tuple[str, str], list[Difference]] = {}
    for one in result.differences:
        found.setdefault((one.arm, one.against), []).append(one)
    return found


def plot(result: Result, path: Path) -> None:
    """Paired differences with their intervals, one panel a metric, in points; a PNG."""
    from matplotlib.figure import Figure

    pairs = by_pair(result)
    names = list(result.metrics)
    figure = Figure(figsize=(2.4 + 1.9 * len(names), 0.9 + 0.42 * max(len(pairs), 1)), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for number, (panel, metric) in enumerate(zip(panels, names, strict=True)):
        panel.axvline(0, color="0.6", linewidth=0.8)
        for height, found in enumerate(pairs.values()):
            _draw(panel, height, found[number])
        panel.set_title(metric, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(range(len(pairs)), [f"{arm} vs {other}" for arm, other in pairs])
    panels[0].set_ylim(len(pairs) - 0.5, -0.5)
    figure.supxlabel(f"difference in points, 95 % interval, {len(result.seeds)} paired seeds", fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def _draw(panel, height: int, difference: Difference) -> None:  # type: ignore[no-untyped-def]
    found = difference.estimate
    colour = "0.45" if not difference.shown else "tab:green" if found.mean > 0 else "tab:red"
    if found.low is not None and found.high is not None:
        panel.plot([100 * found.low, 100 * found.high], [height, height], color=colour, linewidth=2)
    panel.plot([100 * found.mean], [height], "o", color=colour, markersize=4)

"""From records to what the pages show as tables and cards. Pure functions; the time of day comes in as `now`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from db.records import Category, Dataset, Fault, LogLine, Run, Shard, Snapshot, State, Worker
from engine.evaluation.suite import numbers
from engine.filters import FILTERS
from engine.packs import Pack
from engine.presets import PRESETS, Preset
from engine.recipe import Alternatives, Recipe, Threshold
from engine.semantic_options import SemanticOptions
from studio.markup import Html, facts, join, table, tag
from studio.views import bounds

PRESENT = 60  # seconds after which a silent worker counts as gone
SHOWN = 500  # faults; a longer list helps nobody
METRICS = {
    "mAP": "mAP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_s": "AP small",
    "AP_m": "AP medium",
    "AP_l": "AP large",
    "AR100": "AR100",
}
BANDS = {"r": "rare", "c": "common", "f": "frequent"}
NOTABLE = 0.005  # change of an AP that is coloured; the next seed may undo a smaller one
RARE, COMMON = 10, 100  # images with the class, as LVIS counts them

# Data sets


def datasets(known: Sequence[Dataset], splits: Mapping[int, Mapping[str, int]], picked: int | None = None) -> Html:
    rows = [
        (one.name, one.format, one.images, one.boxes, one.phrases, _splits(splits[one.id]), _day(one.created_at))
        for one in known
    ]
    columns = ("Data set", "Format", "Images", "Boxes", "Texts", "Splits", "Imported")
    return table(columns, rows, picks=[one.id for one in known], picked=picked)


def _splits(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split or 'no split'} {count:,}" for split, count in counts.items())


def _day(at: float) -> str:
    return time.strftime("%d %b %Y, %H:%M", time.localtime(at))


def faults(found: Sequence[Fault], title: str, text: str) -> Html:
    """All faults of an import together: which file, which item, what was seen, what would be right."""
    rows = [(Path(fault.file).name, fault.item, fault.seen, fault.expected) for fault in found[:SHOWN]]
    more = tag("p", f"and {len(found) - SHOWN:,} more", class_="w-quiet") if len(found) > SHOWN else None
    shown = table(("File", "Item", "Seen", "Expected"), rows)
    return join(
        tag("div", tag("b", title), " ", text, class_="w-banner bad"), tag("div", shown, class_="w-scroll"), more
    )


def bars(counted: Sequence[tuple[Category, int, int]]) -> list[tuple[str, int, str]]:
    """(class, boxes, band) for the histogram. The band is that of the data set, or follows from the images with the class:
    rare up to 10, common up to 100, frequent beyond."""
    return [
        (category.name, boxes, BANDS.get(category.frequency or "", band(images))) for category, boxes, images in counted
    ]


def band(images: int) -> str:
    return "rare" if images <= RARE else "common" if images <= COMMON else "frequent"


def classes(counted: Sequence[tuple[Category, int, int]]) -> Html:
    rows = [(category.name, boxes, images, boxes / images if images else 0.0) for category, boxes, images in counted]
    return tag("div", table(("Class", "Boxes", "Images", "Boxes an image"), rows), class_="w-scroll")


# Recipes


def recipe(chosen: Recipe, pack: Pack) -> Html:
    titles = [FILTERS[name].title for name in chosen.filters]
    rules = [" or ".join(map(_threshold, _rules(term))) for term in chosen.policy]
    return join(
        tag("h2", chosen.title),
        facts(
            [
                ("Makes", chosen.summary),
                ("Needs", chosen.needs),
                ("Costs", chosen.cost),
                (
                    "Works on",
                    f"{chosen.targets.of}{f' of the split {_list(chosen.targets.splits)}' if chosen.targets.splits else ''}",
                ),
                ("Scores", _list(titles)),
                ("Accepts when", _list(rules)),
                ("Pack", pack.summary),
            ]
        ),
    )


def _list(values: Sequence[str]) -> str:
    return ", ".join(values)


def _rules(term: Threshold | Alternatives) -> Sequence[Threshold]:
    return term.any if isinstance(term, Alternatives) else (term,)


def _threshold(rule: Threshold) -> str:
    classes = f" for {_list(rule.classes)}" if rule.classes else ""
    return f"{FILTERS[rule.filter].title} {bounds(rule.rule())}{classes}"


# Runs


def state(run: Run | Shard) -> Html:
    wish = getattr(run, "pause_requested", False) and run.state is State.RUNNING
    ending = getattr(run, "cancel_requested", False) and not run.state.ended
    return tag("span", "stopping" if wish or ending else str(run.state), class_=f"w-state {run.state}")


def bar(run: Run) -> Html:
    share = 100 * run.done / run.total if run.total else 0
    filled = tag("i", style=f"width: {share:.1f}%")
    return tag(
        "span",
        filled,
        class_=f"w-bar {run.state}",
        role="progressbar",
        aria_valuenow=round(share),
        aria_label="progress",
    )


def runs(found: Sequence[Run], now: float, picked: int | None = None) -> Html:
    rows = [(str(run.id), str(run.kind), run.title, state(run), bar(run), _done(run), pace(run, now)) for run in found]
    columns = ("Run", "Kind", "What", "State", "Progress", "Done", "Time")
    return table(columns, rows, picks=[run.id for run in found], picked=picked)


def _done(run: Run | Shard) -> str:
    return f"{run.done:,} / {run.total:,}" if run.total else "–"


def pace(run: Run, now: float) -> str:
    """How long it took, or takes; while it runs, also what is left at its pace so far."""
    if run.started_at is None:
        return "waits for run " + str(run.after_id) if run.after_id and not run.state.ended else ""
    spent = clock((run.ended_at or now) - run.started_at)
    left = remaining(run, now)
    return f"{spent}, about {clock(left)} left" if left is not None else spent


def remaining(run: Run, now: float) -> float | None:
    """Seconds that are left at the pace so far, None when that cannot be said."""
    if run.state is not State.RUNNING or run.started_at is None or not 0 < run.done < run.total:
        return None
    return (now - run.started_at) / run.done * (run.total - run.done)


def clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def presence(workers: Sequence[Worker], waiting: int, now: float) -> Html:
    """Who works, or how to start someone who does."""
    here = [worker for worker in workers if now - worker.seen_at < PRESENT]
    if here:
        busy = sum(worker.run_id is not None for worker in here)
        number = "1 worker is" if len(here) == 1 else f"{len(here)} workers are"
        return tag(
            "p",
            f"{number} here, {busy} at work, {waiting} {'run' if waiting == 1 else 'runs'} waiting.",
            class_="w-quiet",
        )
    seen = f"none was seen since {_day(workers[0].seen_at)}" if workers else "none was seen yet"
    lead = "Waiting for a worker" if waiting else "No worker is here"
    return tag(
        "div", tag("b", lead), f" ({seen}). Start one with ", tag("code", "winnow worker"), ".", class_="w-banner"
    )


def shards(found: Sequence[Shard]) -> Html:
    rows = [(str(one.number), state(one), one.attempt, _done(one), _last_line(one.error)) for one in found]
    return tag("div", table(("Shard", "State", "Attempts", "Done", "Error"), rows), class_="w-scroll")


def _last_line(error: str | None) -> str:
    return error.strip().rsplit("\n", 1)[-1] if error else ""


def log(lines: Sequence[LogLine]) -> Html:
    if not lines:
        return tag("p", "No log lines yet.", class_="w-quiet")
    return tag("div", tag("pre", [_line(line) for line in lines]), class_="w-log", tabindex=0)


def _line(line: LogLine) -> list[Any]:
    at = time.strftime("%H:%M:%S", time.localtime(line.at))
    level = tag("b", line.level.upper(), class_=line.level) if line.level != "info" else None
    return [f"{at}  ", level, " " if level else "", line.text, "\n"]


def settings(run: Run, dataset: str) -> Html:
    """What is on record about how the run was started."""
    told = dict(run.options)
    if "ablation" in told:
        told["ablation"] = f"{told['ablation']['arm']} the slice"
    if "train" in told:
        told |= {"train": training_options(run)}
    return facts([("data set", dataset), ("seed", str(run.seed)), *_flat(told)], small=True)


def training_options(run: Run) -> dict[str, Any]:
    """The options of a training, without those of methods that are for other kinds of detector or that it does not use."""
    preset = PRESETS[run.options["preset"]]
    idle = {
        "language": preset.kind != "grounding",
        "pairs": not preset.pairs,
        "semantic": preset.kind != "closed"
        or run.options["train"].get("semantic") == SemanticOptions().model_dump(mode="json"),
        "attention": preset.kind != "attention",
    }
    return {name: value for name, value in run.options["train"].items() if not idle.get(name, False)}


def flat(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as people read them, those within options too; what is not set is left out."""
    return dict(_flat(options))


def _flat(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        elif value is not None:
            yield name.replace("_", " "), _said(value)


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# Snapshots, trainings, evaluations


def snapshot(one: Snapshot) -> str:
    """A snapshot in a line, for a list to choose from."""
    made = one.counts.get("synthetic", 0)
    real = one.counts.get("images", 0) - made
    return f"{one.name}: {real:,} real images{f' + {made:,} generated' if made else ''}"


def frozen(one: Snapshot) -> Html:
    counts = ", ".join(f"{count:,} {what}" for what, count in one.counts.items())
    return tag("div", "Frozen ", tag("b", one.name), f": {counts}. Digest {one.digest[:12]}.", class_="w-banner good")


def tally(dataset: Dataset, counts: Mapping[str, Mapping[str, int]], accepted: bool) -> Html:
    """What a snapshot would hold, before it is made: real data, and candidates by state."""
    figures = [("real images", dataset.images), ("boxes", dataset.boxes)]
    if not accepted:
        return _figures(figures)
    human, effective = counts["human"], counts["effective"]
    mine = human.get("accept", 0) + human.get("edit", 0)
    by_policy = effective.get("accept", 0) - mine
    left = [("rejected", effective.get("reject", 0)), ("pending", effective.get("pending", 0))]
    return _figures([*figures, ("accepted by people", mine), ("accepted by policy", by_policy), *left])


def _figures(pairs: Sequence[tuple[str, Any]]) -> Html:
    shown = [
        tag("div", tag("b", f"{value:,}" if isinstance(value, int) else value), tag("span", name))
        for name, value in pairs
    ]
    return tag("div", shown, class_="w-figures")


def preset(chosen: Preset) -> Html:
    return tag("p", chosen.summary, class_="w-quiet")


def training(run: Run, latest: Mapping[str, float], now: float) -> Html:
    """How far a training is; `latest` holds the last value of each curve."""
    left = remaining(run, now)
    shown = [
        ("state", state(run)),
        ("steps", _done(run)),
        ("time", pace(run, now).split(",")[0]),
        ("left", f"about {clock(left)}" if left is not None else ""),
        ("images a second", f"{latest['images_per_s']:.1f}" if "images_per_s" in latest else ""),
        ("learning rate", f"{latest['lr']:.2g}" if "lr" in latest else ""),
    ]
    wrong = tag("div", run.error, class_="w-banner bad") if run.error else None
    return join(_figures([pair for pair in shown if pair[1]]), bar(run), wrong)


def result(run: Run) -> Html:
    """The official metrics of a training or an evaluation, and AP by class; of a detector that reads those of OmniLabel."""
    boxes = "mAP" in run.result
    whole = [
        (METRICS.get(name, name), f"{value:.3f}")
        for name, value in numbers(run.result).items()
        if value >= 0 and (name in METRICS or not boxes)
    ]
    found = sorted(run.result.get("per_class", {}).items(), key=lambda entry: -entry[1])
    rows = [(name, f"{ap:.3f}" if ap >= 0 else "none in this split") for name, ap in found]
    return join(_figures(whole), tag("div", table(("Class", "AP"), rows), class_="w-scroll") if rows else None)


def losses(folder: Path, found: Sequence[str], format: str) -> Html:
    """What became of an export."""
    lost = (
        tag("ul", [tag("li", f"{format} cannot hold: {what}") for what in found])
        if found
        else tag("span", "Nothing was lost.")
    )
    return tag("div", "Written to ", tag("code", str(folder)), ". ", lost, class_="w-banner good")


# Comparisons


def metrics(found: Sequence[Run], labels: Sequence[str]) -> Html:
    """A row for each run, with the differences from the first beside its values."""
    names = [name for name in METRICS if any(run.result.get(name, -1) >= 0 for run in found)]
    first = found[0]
    rows = [
        (label, *(with_change(run.result.get(name, -1), first.result.get(name, -1), run is first) for name in names))
        for run, label in zip(found, labels, strict=True)
    ]
    return table(("", *(METRICS[name] for name in names)), rows)


def with_change(value: float, base: float, is_base: bool) -> Html | str:
    """A value and its difference from that of the first run; "–" for -1, nothing to find."""
    if value < 0:
        return "–"
    if is_base or base < 0:
        return f"{value:.3f}"
    change = round(value - base, 3) + 0.0  # no "-0.000"
    word = "w-quiet" if abs(change) < NOTABLE else "w-up" if change > 0 else "w-down"
    return join(f"{value:.3f} ", tag("span", f"{change:+.3f}", class_=word))


def by_class(found: Sequence[Run]) -> list[tuple[str, list[float | None]]]:
    """(class, AP of each run), the classes that changed most between the first and the last run first."""
    names = sorted(set().union(*(run.result["per_class"] for run in found)))
    rows = [(name, [_known(run.result["per_class"].get(name, -1.0)) for run in found]) for name in names]
    return sorted(rows, key=lambda row: -abs((row[1][-1] or 0.0) - (row[1][0] or 0.0)))


def _known(ap: float) -> float | None:
    return ap if ap >= 0 else None


def class_changes(found: Sequence[Run], labels: Sequence[str]) -> Html:
    """AP by class, with the differences from the first run."""
    rows = [
        (name, *(with_change(_or(ap), _or(aps[0]), i == 0) for i, ap in enumerate(aps)))
        for name, aps in by_class(found)
    ]
    return tag("div", table(("Class", *labels), rows), class_="w-scroll")


def _or(ap: float | None) -> float:
    return -1.0 if ap is None else ap


def differences(labels: Sequence[str], told: Sequence[Mapping[str, str]]) -> Html:
    """The facts of each run in columns: those that differ, and, folded away, those that do not."""
    names = list(dict.fromkeys(name for known in told for name in known))
    rows = [(name, *(known.get(name, "") for known in told)) for name in names]
    other = [row for row in rows if len(set(row[1:])) > 1]
    same = [row for row in rows if len(set(row[1:])) == 1]
    heads = ("", *labels)
    if not other:
        return table(heads, same)
    summary = tag("summary", f"{len(same)} settings are the same")
    return join(table(heads, other), tag("details", summary, table(heads, same)) if same else None)

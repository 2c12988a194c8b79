"""The answers of `studio.why_api` as plain sentences, for a terminal."""

from __future__ import annotations

from typing import Any

from studio.views import Json

SHOWN = 24  # candidate ids


def candidate(told: Json) -> list[str]:
    """What led to a candidate, and what used it."""
    card, made = told["card"], told["made_by"]
    policy = f" (policy {told['policy']['name']} v{told['policy']['version']})" if told["policy"] else ""
    model = ", ".join(f"{name} {value}" for name, value in made["model"].items())
    verdicts = told["verdicts"]
    where = f"target {made['target']}, variant {made['variant']}, seed {made['seed']}"
    return [
        f"Candidate {card['id']}, {card['title'].lower()}{_texts(card['texts'])}",
        f"Made by run {made['run']} ({made['title']}), recipe {made['recipe']}: {where}",
        f"Model: {model or 'not on record'}",
        *(f"  prompt {name} {digest[:12]}" for name, digest in made["prompts"].items()),
        f"Policy says {card['policy']['says']}{policy}. {card['policy']['by']}",
        *map(_score, card["scores"]),
        "Nobody has decided on it." if not verdicts else "Verdicts, newest first:",
        *map(_verdict, verdicts),
        *_used(told["used_by"]),
    ]


def _texts(texts: Any) -> str:
    if texts is None:
        return ""
    before, after = ("".join(text for text, _ in texts[side]) for side in ("before", "after"))
    return f": {before} -> {after}"


def _score(row: Json) -> str:
    asked = f" (asked {row['rule']}: {row['state']})" if row["rule"] else ""
    return f"  {row['title']}: {row['value'] or 'no value'}{asked} {row['reason']}".rstrip()


def _verdict(given: Json) -> str:
    reason = f": {given['reason']}" if given["reason"] else ""
    return f"  {given['decision']} by {given['reviewer']}{reason}"


def _used(used: list[Json]) -> list[str]:
    if not used:
        return ["It is in no snapshot."]
    told = []
    for use in used:
        told.append(f"In snapshot {use['snapshot']} ({use['digest'][:12]}), image {use['image']}")
        for run in use["trainings"]:
            told.append(f"  training {run['run']}, {run['preset']}, seed {run['seed']}: {run['state']}")
            told += [f"    evaluation {one['run']} on {one['split']}: {_quality(one)}" for one in run["evaluations"]]
    return told


def _quality(evaluation: Json) -> str:
    return evaluation["state"] if evaluation["mAP"] is None else f"mAP {evaluation['mAP']:.3f}"


def box(told: Json) -> list[str]:
    """Where an annotation comes from."""
    what = f"Annotation {told['annotation']} of snapshot {told['snapshot']}: {told['class']} in {told['image']['file']}"
    if told["candidate"] is not None:
        return [what, *candidate(told["candidate"])]
    if told["generated"]:
        beside = ", ".join(map(str, told["beside"]))
        return [f"{what}, as annotated in {told['source_image']}. Candidate {beside} was painted beside it."]
    return [f"{what}, an annotation of the data set itself."]


def change(told: Json) -> list[str]:
    """What an AP rests on."""
    what = f"the class {told['class']}" if told["class"] else "all classes"
    found = [f"Evaluation {told['evaluation']}, {what}: AP {_number(told['ap'])}", *_behind(told)]
    if "against" in told:
        other = told["against"]
        found += [f"Against evaluation {other['evaluation']}: AP {_number(other['ap'])}", *_behind(other)]
        found.append(f"Candidates more: {_ids(told['more'])}; less: {_ids(told['less'])}")
    return found


def _behind(told: Json) -> list[str]:
    lead = f"  training {told['training']} ({told['preset']}, seed {told['seed']}) on snapshot {told['snapshot']}"
    made = [
        f"    {one['candidates']} {one['kind']} of run {one['run']} ({one['title']}), {one['by_people']} accepted by people"
        for one in told["sources"]
    ]
    return [lead, *(made or ["    no generated data"])]


def _number(ap: float | None) -> str:
    return "nothing to find" if ap is None else f"{ap:.3f}"


def _ids(ids: list[int]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return (", ".join(map(str, ids[:SHOWN])) + more) or "none"

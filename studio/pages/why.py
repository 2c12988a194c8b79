"""Why: from a box of an export or an AP back to the candidates, and from a candidate to all that used it."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import gradio as gr

from db.errors import WinnowError
from studio import pictures, why_api
from studio.components.compare import STYLE
from studio.context import Studio
from studio.markup import Html, empty, facts, join, section, table, tag
from studio.pages.common import LOUD, asked, asked_number, bound, heading, html, on_load
from studio.views import Json

title, path = "Why", "why"
SHOWN = 24  # candidates


def page(studio: Studio) -> None:
    """One answer at a time; what is asked stands in the address, so that other pages can point here."""
    lead = "Why is this in my training set? From what was trained on back to its making, and forward again."
    heading("Why", lead, help="train", style=STYLE)
    with gr.Row(elem_classes="w-line"):
        candidate = gr.Number(label="Candidate", precision=0, minimum=1, scale=2, min_width=120)
        look = gr.Button("Look", scale=1, min_width=80)
        snapshot = gr.Dropdown(label="Snapshot", choices=[], interactive=True, scale=3, min_width=160)
        annotation = gr.Textbox(label="Annotation id in its export", scale=2, min_width=140)
        trace = gr.Button("Trace back", scale=1, min_width=100)
    shown = html()
    look.click(bound(studio, of_candidate), [candidate], [shown], **LOUD)
    candidate.submit(bound(studio, of_candidate), [candidate], [shown], **LOUD)
    trace.click(bound(studio, of_box), [snapshot, annotation], [shown], **LOUD)
    annotation.submit(bound(studio, of_box), [snapshot, annotation], [shown], **LOUD)
    on_load(studio, opened, [candidate, snapshot, annotation, shown])


def opened(studio: Studio, request: gr.Request) -> tuple[Any, ...]:
    """The page as it is opened: on `?candidate=`, on `?snapshot=&box=`, or on `?evaluation=&class=&against=`."""
    candidate, evaluation = asked_number(request, "candidate"), asked_number(request, "evaluation")
    snapshot, box = asked(request, "snapshot"), asked(request, "box")
    known = [one.name for one in studio.store.snapshots.list()]
    named = snapshot if snapshot in known else None
    choice = gr.Dropdown(choices=known, value=named or (known[0] if known else None))
    try:
        shown = _answer(studio, candidate, snapshot, box, evaluation, request)
    except WinnowError as error:
        shown = tag("div", str(error), class_="w-banner bad")
    return candidate, choice, box or "", shown


def _answer(
    studio: Studio,
    candidate: int | None,
    snapshot: str | None,
    box: str | None,
    evaluation: int | None,
    request: gr.Request,
) -> Html:
    if candidate:
        return of_candidate(studio, candidate)
    if snapshot and box:
        return of_box(studio, snapshot, box)
    if evaluation:
        told = why_api.change(studio.store, evaluation, asked(request, "class"), asked_number(request, "against"))
        return change(studio, told)
    return empty(
        "Ask about a candidate or a box",
        "Give the id of a candidate (Review shows it), or a snapshot and the id of an annotation in its export. Compare "
        "points here from the AP of a class.",
    )


def of_candidate(studio: Studio, candidate: float | None) -> Html:
    if not candidate:
        raise WinnowError("Give the id of a candidate, as Review shows it.")
    return story(why_api.candidate(studio.store, int(candidate)))


def of_box(studio: Studio, snapshot: str | None, annotation: str) -> Html:
    if not snapshot or not annotation.strip():
        raise WinnowError("Choose a snapshot, and give the id of an annotation as it stands in its export.")
    told = why_api.box(studio.store, snapshot, annotation.strip())
    lead = section(f"Annotation {told['annotation']} of {told['snapshot']}", _traced(told))
    return join(lead, story(told["candidate"])) if told["candidate"] else lead


def _traced(told: Json) -> Html:
    image = told["image"]
    width, height = image["size"]
    x1, y1, x2, y2 = told["xyxy"]
    drawn = tag(
        "svg",
        tag("image", href=f"/media/thumb/{image['digest']}?size=320", width=width, height=height),
        tag("rect", x=x1, y=y1, width=x2 - x1, height=y2 - y1, class_="b6"),
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=image["file"],
        class_="w-picture",
    )
    about = facts(
        [("class", told["class"]), ("image", image["file"]), ("split", image["split"]), ("from", _from(told))]
    )
    return tag("div", tag("div", drawn, class_="w-why-picture"), tag("div", about), class_="w-why")


def _from(told: Json) -> Html:
    if told["candidate"]:
        return join("painted by ", _candidate_link(told["candidate"]["card"]["id"]))
    if told["generated"]:
        around = [join(_candidate_link(one), " ") for one in told["beside"]]
        return join(f"the annotations of {told['source_image']}, as they were; painted beside it: ", *around)
    return join("the data set itself")


def story(told: Json) -> Html:
    """All of a candidate: what it is, what was said of it, how it was made, and where it went."""
    card, made = told["card"], told["made_by"]
    return join(
        section(
            f"Candidate {card['id']}: {card['title'].lower()}",
            tag("div", tag("div", pictures.candidate(card), class_="w-why-card"), _judged(told), class_="w-why"),
        ),
        section("Where it went", _used(told["used_by"])),
        section("How it was made", _made(made)),
    )


def _judged(told: Json) -> Html:
    card, policy = told["card"], told["policy"]
    rows = [(r["title"], r["value"] or "–", r["rule"] or "no rule", r["state"], r["reason"]) for r in card["scores"]]
    scores = table(("Filter", "Value", "Asked", "", "Why"), rows) if rows else tag("p", "No filter has scored it.")
    named = f"{policy['name']} v{policy['version']}" if policy else "none"
    says = facts([("policy", named), ("it says", f"{card['policy']['says']}. {card['policy']['by']}")])
    given = [
        (v["decision"], v["reviewer"], v["reason"] or "", time.strftime("%d %b %Y, %H:%M", time.localtime(v["at"])))
        for v in told["verdicts"]
    ]
    people = (
        table(("Verdict", "By", "Reason", "When"), given)
        if given
        else tag("p", "Nobody has decided on it.", class_="w-quiet")
    )
    return tag("div", says, people, tag("h2", "Scores"), scores)


def _made(made: Json) -> Html:
    run = tag("a", f"run {made['run']}: {made['title']}", href=f"/jobs?run={made['run']}")
    model = [(name, str(value)) for name, value in made["model"].items()]
    prompts = [(f"prompt {name}", digest) for name, digest in made["prompts"].items()]
    told = facts(
        [
            ("run", run),
            ("recipe", made["recipe"]),
            ("target", f"{made['target']}, variant {made['variant']}"),
            ("seed", f"{made['seed']} (of the run: {made['run_seed']})"),
            *model,
            *prompts,
        ]
    )
    detail = [(name, str(value)) for name, value in made["detail"].items()]
    return join(
        told,
        _folded("The recipe, as it was", tag("pre", made["recipe_text"], class_="w-prompt")),
        _folded("What else is on record", facts(detail, small=True)) if detail else None,
        _folded("Versions", facts(made["versions"].items(), small=True)),
    )


def _folded(name: str, content: Html) -> Html:
    return tag("details", tag("summary", name), content)


def _used(used: list[Json]) -> Html:
    if not used:
        return tag("p", "It is in no snapshot.", class_="w-quiet")
    return join(*map(_use, used))


def _use(use: Json) -> Html:
    where = f"{use['image']} ({use['split']})" if use["split"] else use["image"]
    said = f", with the text “{use['texts'][0]}”" if use["texts"] else ""
    lead = tag("p", "In snapshot ", tag("b", use["snapshot"]), f": {where}{said}. ", tag("code", use["digest"][:12]))
    rows = [_training(run) for run in use["trainings"]]
    if not rows:
        return join(lead, tag("p", "Nothing was trained on it yet.", class_="w-quiet"))
    return join(lead, table(("Training", "Detector", "Seed", "State", "Evaluations"), rows))


def _training(run: Json) -> tuple[Any, ...]:
    link = tag("a", f"run {run['run']}", href=f"/train?run={run['run']}")
    judged = [join(_evaluation(one), " ") for one in run["evaluations"]]
    return link, run["preset"], run["seed"], run["state"], join(*judged) or "none"


def _evaluation(one: Json) -> Html:
    said = one["state"] if one["mAP"] is None else f"mAP {one['mAP']:.3f}"
    return tag("a", f"run {one['run']} on {one['split']}: {said}", href=f"/compare?runs={one['run']}")


def change(studio: Studio, told: Json) -> Html:
    """What an AP rests on, and what differs from another evaluation."""
    what = told["class"] or "all classes"
    both = [told, *([told["against"]] if "against" in told else [])]
    rows = [_behind(one) for one in both]
    columns = ("Evaluation", f"AP of {what}", "Training", "Seed", "Trained on", "Generated data in it")
    parts = [section(f"What the AP of {what} rests on", table(columns, rows))]
    if "against" in told:
        for name, ids in (("More than the other", told["more"]), ("Less than the other", told["less"])):
            parts.append(section(f"{name}: {len(ids):,} candidates", _candidates(studio, ids)))
    else:
        parts.append(section(f"Candidates: {len(told['candidates']):,}", _candidates(studio, told["candidates"])))
    return join(*parts)


def _behind(one: Json) -> tuple[Any, ...]:
    made = [
        tag(
            "div",
            f"{s['candidates']:,} {s['kind'].replace('_', ' ')} of ",
            _run_link(s),
            f", {s['by_people']:,} by people",
        )
        for s in one["sources"]
    ]
    return (
        tag("a", f"run {one['evaluation']}", href=f"/compare?runs={one['evaluation']}"),
        "nothing to find" if one["ap"] is None else f"{one['ap']:.3f}",
        tag("a", f"run {one['training']}, {one['preset']}", href=f"/train?run={one['training']}"),
        one["seed"],
        one["snapshot"],
        join(*made) or "none",
    )


def _run_link(source: Json) -> Html:
    return tag("a", f"run {source['run']}", href=f"/jobs?run={source['run']}", title=source["title"])


def _candidates(studio: Studio, ids: list[int]) -> Html:
    if not ids:
        return tag("p", "None.", class_="w-quiet")
    found = studio.store.review.candidates(ids[:SHOWN])
    more = tag("p", f"and {len(ids) - SHOWN:,} more", class_="w-quiet") if len(ids) > SHOWN else None
    return join(tag("div", [_thumbnail(one.id, one.digest, one.text_after) for one in found], class_="w-grid"), more)


def _thumbnail(candidate_id: int, digest: str | None, text: str | None) -> Html:
    drawn = tag("img", src=f"/media/thumb/{digest}?size=160", alt="", loading="lazy") if digest else None
    said = f"{candidate_id}: {text}" if text else f"candidate {candidate_id}"
    return tag("a", tag("figure", drawn, tag("figcaption", said, title=said)), href=f"/why?candidate={candidate_id}")


def _candidate_link(candidate_id: int) -> Html:
    return tag("a", f"candidate {candidate_id}", href=f"/why?candidate={candidate_id}")


def address(evaluation: int, category: str | None = None, against: int | None = None) -> str:
    """Where this page says what an AP rests on."""
    named = f"&class={quote(category)}" if category else ""
    other = f"&against={against}" if against else ""
    return f"/why?evaluation={evaluation}{named}{other}"

"""From records to what the pages show: JSON-ready values, computed by pure functions.

Integers that may exceed 2**53 (seeds) leave as text, since a browser would round them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from msgspec import to_builtins

from db.records import WHOLE, Box, Candidate, Decided, Image, Kind, Policy, Rule, Run, Score, Term
from db.store import Store
from engine.diversity import Diversity, Share
from engine.filters import FILTERS, LEAST_ABOVE
from engine.runs import outlook
from engine.spending import Estimate

Json = dict[str, Any]
Segments = list[tuple[str, bool]]  # (piece of text, whether it changed)

KINDS = {
    Kind.NEGATIVE_TEXT: ("Negative text", "Is the new text false of this image?"),
    Kind.NEGATIVE_IMAGE: ("Negative image", "Does the new image show what the new text says?"),
    Kind.INSTANCE: ("New instance", "Does the new object look real, and does the box fit it?"),
    Kind.TRIPLET: ("Image from words", "Does each phrase name what its boxes show?"),
    Kind.CLASS_IMAGE: ("Class image", "Does the image show this class?"),
    Kind.PAIR: ("Image and caption", "Does the caption describe the image?"),
}
REASONS = {
    "change": ("wrong object", "looks fake", "bad box", "still true", "destroys other object", "other"),
    "whole": ("wrong object", "looks fake", "bad box", "wrong phrase", "wrong caption", "other"),
}  # to reject a changed image or text, and a whole new one
NOT_SCORED = "not scored yet"
_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")

# Runs


def outcome(store: Store, run: Run) -> list[str]:
    """What a generate run has made and spent, sentence by sentence; of a preview also what the whole would take."""
    result = run.result
    if "candidates" not in result:
        return [f"Run {run.id}: {run.state}."]
    told = [f"Run {run.id}: {result['candidates']:,} candidates in {span(result['seconds'])}."]
    if result["loading"] > 1:
        told.append(f"Loading the models took {span(result['loading'])}.")
    if result["failures"]:
        told.append(f"{result['failures']:,.0f} could not be made{_first_reason(store, run)}.")
    usage = result["usage"]
    if usage["tokens_out"]:
        told.append(f"The writer read {usage['tokens_in']:,} tokens and wrote {usage['tokens_out']:,}.")
    if usage["cost"]:
        told.append(f"That cost {usage['cost']:.4g}.")
    for name, tally in result.get("quota", {}).items():
        told.append(f"{name}: {tally['accepted']} of {tally['wanted']} accepted after {tally['attempts']} attempts.")
    if "stopped_by" in result:
        told.append(f"It ended because {result['stopped_by']}.")
    if run.options.get("preview") and (guess := outlook(store, run)):
        told.append(forecast(guess))
    return told


def _first_reason(store: Store, run: Run) -> str:
    found = store.ledger.logs(run.id, level="warning", limit=1)
    return f"; the first: {found[0].text.rstrip('.')}" if found else ""


def forecast(guess: Estimate) -> str:
    """What a run will take, in a sentence."""
    money = f", and cost {guess.cost:.3g}" if guess.cost else ""
    return (
        f"All {guess.targets:,} targets would give about {guess.candidates:,.0f} candidates, take {span(guess.seconds)} "
        f"with one worker, scoring included{money}."
    )


def variety(found: Diversity) -> list[str]:
    """The diversity report of a run's negative texts, line by line."""
    if not found.negatives:
        return ["The run has made no negative text."]
    grams = ", ".join(
        f"{value:.2f}" for value in (found.distinct_1, found.distinct_2, found.distinct_3) if value is not None
    )
    told = [
        f"{found.negatives:,} negative texts, {found.distinct_texts:,} different; {found.concepts:,} concepts changed.",
        f"distinct-1, 2, 3: {grams}; self-BLEU {found.self_bleu:.2f} (1 is all alike)."
        if found.self_bleu is not None
        else f"distinct-1, 2, 3: {grams}.",
        f"Accepted: {rate(found.overall)}.",
        *(
            f"Strategy {share.name or 'unknown'}: {share.made:,} made, accepted {rate(share)}."
            for share in found.strategies
        ),
        *(
            f"Edit {share.name or 'unknown'}: {share.made:,} made, accepted {rate(share)}."
            for share in found.edit_types
        ),
    ]
    if found.seconds_per_accepted is not None:
        money = f" and {found.cost_per_accepted:.3g}" if found.cost_per_accepted else ""
        told.append(f"An accepted text took {span(found.seconds_per_accepted)}{money}.")
    return told


def rate(share: Share) -> str:
    """A share with its 95 % interval, of those that are decided."""
    if share.rate is None or share.low is None or share.high is None:
        return "none decided yet"
    return f"{share.rate:.0%} of {share.decided:,} decided ({share.low:.0%} to {share.high:.0%})"


def span(seconds: float) -> str:
    """A length of time as people say it: "8 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# Cards


def cards(store: Store, candidates: Sequence[Candidate]) -> list[Json]:
    """The review cards of candidates of one data set, in order, with everything a person needs to judge them."""
    if not candidates:
        return []
    dataset_id = candidates[0].dataset_id
    image_ids = list({candidate.image_id for candidate in candidates})
    images = store.datasets.images_of(image_ids)
    editions = store.edits.corrected(image_ids)
    boxes = store.datasets.boxes_of([i for i in image_ids if i not in editions])
    boxes |= {image_id: list(version.annotations.boxes) for image_id, version in editions.items()}
    corrections = store.review.corrections([candidate.id for candidate in candidates if candidate.human == "edit"])
    scores = store.review.scores_of([candidate.id for candidate in candidates])
    names = {category.id: category.name for category in store.datasets.categories(dataset_id)}
    runs = {run_id: store.ledger.run(run_id) for run_id in {candidate.run_id for candidate in candidates}}
    policies = store.review.policies(dataset_id, list(runs))
    return [
        card(
            candidate,
            image=images[candidate.image_id],
            boxes=boxes[candidate.image_id],
            names=names,
            scores=scores[candidate.id],
            policy=policies.get(candidate.run_id),
            run=runs[candidate.run_id],
            edition=editions[candidate.image_id].number if candidate.image_id in editions else 0,
            correction=corrections.get(candidate.id, {}),
        )
        for candidate in candidates
    ]


def card(
    candidate: Candidate,
    *,
    image: Image,
    boxes: Sequence[Box],
    names: Mapping[int, str],
    scores: Sequence[Score],
    policy: Policy | None,
    run: Run,
    edition: int = 0,
    correction: Json | None = None,
) -> Json:
    """One candidate for the review card. Boxes are xyxy pixels of the image; `names` maps category ids; `edition` is the
    version of the image's annotations, `correction` what the standing verdict changed in the candidate."""
    title, question = KINDS[candidate.kind]
    own = next((box for box in boxes if box.id == candidate.box_id), None)
    before_xyxy = own.xyxy if own else candidate.xyxy if candidate.digest is None else None
    before_label = names.get(own.category_id or 0, "") if own else ""
    category = names.get(candidate.category_id or 0)
    rules = [rule for term in policy.terms(candidate.kind, category) for rule in term] if policy else []
    changed = correction or {}
    made = candidate.content if candidate.kind in WHOLE else image
    size = [made.width, made.height]
    now = names.get(changed.get("category_id", candidate.category_id) or 0, "")
    return {
        "id": candidate.id,
        "image": image.id,
        "dataset": candidate.dataset_id,
        "whole": whole(candidate, image, names, changed) if candidate.kind in WHOLE else None,
        "edition": edition,
        "box": candidate.box_id,
        "category": candidate.category_id,
        "correction": changed,
        "made": {"xyxy": candidate.xyxy, "label": names.get(candidate.category_id or 0, "")},
        "kind": str(candidate.kind),
        "title": title,
        "question": question,
        "human": candidate.human,
        "size": size,
        "before": None if _from_nothing(candidate) else _picture(image.digest, before_xyxy, before_label, own),
        "after": _picture(candidate.digest, changed.get("xyxy", candidate.xyxy), now),
        "others": [] if candidate.kind in WHOLE else [_other(box, names) for box in boxes if box is not own],
        "texts": None if candidate.kind in WHOLE else texts(candidate, changed.get("text_after")),
        "alarm": alarm(scores, rules),
        "scores": score_rows(scores, rules),
        "policy": decision(candidate.kind, scores, policy, category),
        "provenance": provenance(candidate, image, run),
        "why": f"/why?candidate={candidate.id}",
    }


def _from_nothing(candidate: Candidate) -> bool:
    """Whether no image of the data set stands beside the new one: only one that was captioned does."""
    return candidate.kind in WHOLE and candidate.digest is not None and candidate.detail.get("strategy") != "image2text"


def whole(candidate: Candidate, image: Image, names: Mapping[int, str], correction: Json) -> Json:
    """What is said of a whole image: as it stands (`content`) and as it was made, the class and soft labels if it has them, and the
    size of the image of the data set that it was made from."""
    made = to_builtins(candidate.content)
    return {
        "content": correction.get("content", made),
        "made": made,
        "labels": {i: names.get(i, "") for i in {box.category_id for box in candidate.content.boxes} if i is not None},
        "class": names.get(candidate.category_id or 0),
        "soft": candidate.detail.get("soft"),
        "source": [image.width, image.height],
    }


def blind(shown: Json) -> Json:
    """The card without what filters and policy say, without earlier verdicts, and without the way to them."""
    hidden = {"says": "pending", "by": "Hidden while this audit goes on.", "name": ""}
    return unjudged(shown) | {"scores": [], "policy": hidden, "alarm": None, "by": None, "why": None}


def unjudged(shown: Json) -> Json:
    """The card as it was made: without the verdict and what it corrected."""
    after, said, whole_ = shown["after"] and shown["after"] | shown["made"], shown["texts"], shown["whole"]
    unmade = {"human": None, "correction": {}, "after": after, "texts": said and said | {"corrected": None}}
    return shown | unmade | {"whole": whole_ and whole_ | {"content": whole_["made"]}}


def _picture(digest: str | None, xyxy: Sequence[float] | None, label: str, box: Box | None = None) -> Json | None:
    if digest is None:
        return None
    address = {"url": f"/media/blob/{digest}", "thumb": f"/media/thumb/{digest}"}
    return address | {"xyxy": xyxy, "label": label, "mask": _mask(box) if box else None}


def _other(box: Box, names: Mapping[int, str]) -> Json:
    return {"id": box.id, "xyxy": box.xyxy, "label": names.get(box.category_id or 0, ""), "mask": _mask(box)}


def _mask(box: Box) -> str | None:
    return None if box.segmentation is None else f"/media/mask/{box.id}"


def alarm(scores: Sequence[Score], rules: Sequence[Rule]) -> str | None:
    """Why the negative text may be true of the image after all, None when nothing speaks for that."""
    found = next((score for score in scores if score.filter == "still_true" and score.value is not None), None)
    default = FILTERS["still_true"].default
    rule = next((rule for rule in rules if rule.filter == "still_true"), default)
    if found is None or rule is None or rule.passes(found.value):
        return None
    return f"{found.reason[:1].upper()}{found.reason[1:]} ({number(found.value or 0)}, asked {bounds(rule)})."


def texts(candidate: Candidate, corrected: str | None = None) -> Json | None:
    """The texts before and after in segments, with the changed words marked, and what a person wrote instead of the latter;
    None for a candidate without a text."""
    if candidate.text_before is None and candidate.text_after is None:
        return None
    before, after = word_diff(candidate.text_before or "", candidate.text_after or "")
    return {"before": before, "after": after, "edit_type": candidate.detail.get("edit_type"), "corrected": corrected}


def word_diff(before: str, after: str) -> tuple[Segments, Segments]:
    """Both texts cut into segments that are the same and segments that changed. Joined, the segments are the text."""
    a, b = _TOKEN.findall(before), _TOKEN.findall(after)
    was: Segments = []
    now: Segments = []
    for code, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        was += [("".join(a[i:j]), code != "equal")] if j > i else []
        now += [("".join(b[k:m]), code != "equal")] if m > k else []
    return was, now


def score_rows(scores: Sequence[Score], rules: Sequence[Rule]) -> list[Json]:
    """A row for every rule, in the policy's order, then for the scores of which no rule speaks.

    `state` is pass, fail, missing (a rule without a value) or free (no rule).
    """
    known = {score.filter: score for score in scores}
    ruled = {rule.filter for rule in rules}
    rows = [_score_row(rule.filter, known.get(rule.filter), rule) for rule in rules]
    return rows + [_score_row(score.filter, score, None) for score in scores if score.filter not in ruled]


def _score_row(name: str, score: Score | None, rule: Rule | None) -> Json:
    value = score.value if score else None
    known = FILTERS.get(name)
    return {
        "filter": name,
        "title": known.title if known else name,
        "help": known.help if known else "",
        "value": None if value is None else number(value),
        "rule": bounds(rule) if rule else "",
        "state": {True: "pass", False: "fail", None: "missing"}[rule.passes(value)] if rule else "free",
        "reason": score.reason if score else NOT_SCORED,
    }


def bounds(rule: Rule) -> str:
    """A rule as people write it: `≥ 0.5`, `0.5 – 2`, `> 0`, `any`."""
    if _keeps_zero_out(rule):
        return "> 0" if rule.at_most is None else f"> 0, ≤ {number(rule.at_most)}"
    low, high = (None if v is None else number(v) for v in (rule.at_least, rule.at_most))
    if low is not None and high is not None:
        return f"{low} – {high}"
    return f"≥ {low}" if low is not None else f"≤ {high}" if high is not None else "any"


def _keeps_zero_out(rule: Rule) -> bool:
    """Whether the lower bound is only there to refuse 0 itself: a rule knows no "more than"."""
    return rule.at_least is not None and 0 < rule.at_least <= LEAST_ABOVE


def number(value: float) -> str:
    """Three significant digits, without exponents for ordinary sizes: 0.0213, 1.42, 188."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def decision(kind: Kind, scores: Sequence[Score], policy: Policy | None, category: str | None = None) -> Json:
    """What the policy says, and by which rule: `{"says": accept | reject | pending, "by": sentence, "name"}`."""
    if policy is None:
        return {"says": "pending", "by": "This run has no policy.", "name": ""}
    values = {score.filter: score.value for score in scores}
    decided = policy.explain(kind, values, category)
    says = {True: "accept", False: "reject", None: "pending"}[decided.says]
    by = _by(decided, policy.terms(kind, category), values)
    return {"says": says, "by": by, "name": f"{policy.name} v{policy.version}"}


def _by(decided: Decided, terms: Sequence[Term], values: Mapping[str, float | None]) -> str:
    """Which rules decided, in a sentence: "Fails: Seam 4.2 > 3." """
    if not terms:
        return "No rule speaks of this kind."
    if decided.says and all(len(term) == 1 for term in terms):
        return "The one rule passes." if len(terms) == 1 else f"All {len(terms)} rules pass."
    if decided.says is None:
        return f"No value for: {', '.join(_title(rule.filter) for rule in decided.because)}."
    lead = "Passes" if decided.says else "Fails"
    return f"{lead}: {', '.join(_comparison(rule, values[rule.filter]) for rule in decided.because)}."


def _comparison(rule: Rule, value: float | None) -> str:
    """A value beside the bound that it violates, or beside those that it keeps: `Seam 4.2 > 3`, `Seam 2, asked ≤ 3`."""
    assert value is not None
    own = f" for {', '.join(rule.classes)}" if rule.classes else ""
    said = f"{_title(rule.filter)} {number(value)}"
    if rule.at_most is not None and value > rule.at_most:
        return f"{said} > {number(rule.at_most)}{own}"
    if rule.at_least is not None and value < rule.at_least:
        asked = ", must be above 0" if _keeps_zero_out(rule) else f" < {number(rule.at_least)}"
        return f"{said}{asked}{own}"
    return f"{said}, asked {bounds(rule)}{own}"


def _title(name: str) -> str:
    return FILTERS[name].title if name in FILTERS else name


def provenance(candidate: Candidate, image: Image, run: Run) -> list[tuple[str, str]]:
    """Where the candidate comes from, as (what, value) pairs."""
    backend = "/".join(str(candidate.detail[key]) for key in ("pack", "backend") if key in candidate.detail)
    source = f"{image.file_name} ({image.split})" if image.split else image.file_name
    known = (
        ("Candidate", str(candidate.id)),
        ("Recipe", str(run.options.get("recipe", run.title))),
        ("Pack", backend),
        ("Model", str(candidate.detail.get("model", ""))),
        ("Writer", str(candidate.detail.get("writer", {}).get("model", ""))),
        ("Strategy", str(candidate.detail.get("strategy", ""))),
        ("Synthetic", ", ".join(part for part, made in candidate.detail.get("synthetic", {}).items() if made)),
        ("Prompt", str(candidate.detail.get("model_prompt") or candidate.detail.get("prompt") or "")),
        ("Run", str(run.id)),
        ("Seed", str(candidate.seed)),
        ("Source", source),
    )
    return [(what, value) for what, value in known if value]


# Queues


def orders(policies: Sequence[Policy]) -> list[Json]:
    """The orders of review that make sense under these policies, as `{"value", "title"}`."""
    found = [
        {"value": "oldest", "title": "As they were made"},
        {"value": "random", "title": "Random (a fair sample)"},
        {"value": "class", "title": "By class"},
        {"value": "quota", "title": "Class with fewest accepted"},
    ]
    if policies:
        found.append({"value": "disagree", "title": "Filters disagree"})
        found.append({"value": "value", "title": "Highest value of a look"})
    rules = {rule.filter: rule for policy in policies for rule in policy.rules}
    for name, rule in sorted(rules.items()):
        title = _title(name).lower()
        edge = rule.at_most if rule.at_most is not None else rule.at_least
        if edge is not None:
            found.append({"value": f"uncertain:{name}:{edge:g}", "title": f"Uncertain: {title}"})
        found.append({"value": f"score:{name}", "title": f"Lowest {title}"})
        found.append({"value": f"-score:{name}", "title": f"Highest {title}"})
    return found

"""One door to all protocols: which of them fit a ground truth, and the numbers of each as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from db.errors import NotFound
from engine.evaluation import coco, d3, flickr, lvis, omnilabel, pointing, refcoco
from engine.evaluation.boxes import Row, read_document
from engine.evaluation.truth import is_federated

Result = dict[str, Any]


def evaluate(kind: str, truth: Row, predictions: Sequence[Row]) -> Result:
    """The official numbers of a protocol, in 0..1 (-1: nothing to find), with `kind` beside them.

    | kind | truth | predictions | result |
    | --- | --- | --- | --- |
    | `coco` | a COCO document | COCO results | the twelve numbers, `per_class` |
    | `lvis` | the same with `frequency` of classes and the federated lists of images | COCO results | those of `coco`,
      and apart from them `lvis` (the official ones) and `lvis_fixed` (fixed AP: not comparable with the other) |
    | `omnilabel` | an OmniLabel document | its results | micro-AP over pairs, by words and type of edit |
    | `d3` | a COCO document, a sentence a class with `absent` (bool), images with `sentence_ids` asked of them, and perhaps
      `scenario` and `prompting` | COCO results | FULL, PRES, ABS, by words |
    | `refcoco` | `expressions`: id, bbox, perhaps split | phrase_id, bbox, score | P@k, by split |
    | `flickr30k` | `phrases`: id, boxes, perhaps types | phrase_id, bbox, score | `ANY-BOX` and `MERGED-BOXES`, and their
      recalls as `ANY-BOX R@1` |

    Boxes are xywh in pixels. Raises NotFound for another kind, and WinnowError with each fault of truth and predictions.
    """
    if kind not in KINDS:
        raise NotFound("evaluation", kind, list(KINDS))
    return {"kind": kind, **KINDS[kind](truth, predictions)}


def fitting(truth: Row) -> str:
    """The protocol of boxes with classes that fits a document: `lvis` where it has what LVIS judges by, else `coco`."""
    return "lvis" if is_federated(truth) else "coco"


def _coco(truth: Row, predictions: Sequence[Row]) -> Result:
    return coco.evaluate(truth, predictions).as_dict()


def _lvis(truth: Row, predictions: Sequence[Row]) -> Result:
    official, fixed = lvis.evaluate(truth, predictions), lvis.evaluate_fixed(truth, predictions)
    return {**_coco(truth, predictions), "lvis": official.as_dict(), "lvis_fixed": fixed.as_dict()}


def _omnilabel(truth: Row, predictions: Sequence[Row]) -> Result:
    return omnilabel.evaluate(truth, predictions).as_dict()


def _d3(truth: Row, predictions: Sequence[Row]) -> Result:
    document = read_document(truth, "images", "categories", "annotations")
    sentences = d3.Sentences(
        texts={kind["id"]: kind["name"] for kind in document["categories"]},
        absent={kind["id"] for kind in document["categories"] if kind.get("absent")},
        groups={image["id"]: image["sentence_ids"] for image in document["images"] if "sentence_ids" in image},
    )
    asked = {name: document[name] for name in ("scenario", "prompting") if name in document}
    found = d3.evaluate(document, predictions, sentences, **asked)
    named = {str(sentence): ap for sentence, ap in found.per_sentence.items()}
    return {**found.as_dict(), "per_sentence": named}


def _refcoco(truth: Row, predictions: Sequence[Row]) -> Result:
    found = refcoco.evaluate(read_document(truth, "expressions")["expressions"], predictions)
    return {
        "expressions": found.expressions,
        **_at_k(found.P),
        "splits": {split: _at_k(own) for split, own in found.splits.items()},
    }


def _at_k(precision: dict[int, float]) -> dict[str, float]:
    return {f"P@{k}": value for k, value in precision.items()}


def _flickr30k(truth: Row, predictions: Sequence[Row]) -> Result:
    phrases = read_document(truth, "phrases")["phrases"]
    protocols: tuple[flickr.Protocol, ...] = ("ANY-BOX", "MERGED-BOXES")
    found = {protocol: flickr.evaluate(phrases, predictions, protocol) for protocol in protocols}
    recalls = {f"{name} R@{k}": value for name, one in found.items() for k, value in one.recall.items()}
    return {**recalls, **{name: one.as_dict() for name, one in found.items()}}


def _pointing(truth: Row, predictions: Sequence[Row]) -> Result:
    return pointing.evaluate(read_document(truth, "phrases")["phrases"], predictions)


KINDS: dict[str, Callable[[Row, Sequence[Row]], Result]] = {
    "coco": _coco,
    "lvis": _lvis,
    "omnilabel": _omnilabel,
    "d3": _d3,
    "refcoco": _refcoco,
    "flickr30k": _flickr30k,
    "pointing": _pointing,
}
PARTS = {
    "lvis": "LVIS ",
    "lvis_fixed": "",
    "omnilabel": "OmniLabel ",
    "d3": "D3 ",
    "refcoco": "RefCOCO ",
    "flickr30k": "Flickr30k ",
}
"""Results that stand beside those of COCO, and how the names of their numbers begin."""
NO_QUALITY = {"seconds"}
"""What the result of a training says besides."""


def numbers(result: Result) -> dict[str, float]:
    """The single numbers of the result of a training or an evaluation by name, those of other protocols under names of
    their own: `LVIS AP_r`, `fixed_AP_r`, `OmniLabel AP_descr`."""
    found = _floats(result)
    for part, prefix in PARTS.items():
        found |= {prefix + name: value for name, value in _floats(result.get(part, {})).items()}
    return found


def _floats(part: Result) -> dict[str, float]:
    return {name: value for name, value in part.items() if isinstance(value, float) and name not in NO_QUALITY}


def slices(result: Result) -> dict[str, dict[str, float]]:
    """AP by size of the boxes, by words of the descriptions and by type of edit, as far as a result has them (-1: nothing
    to find)."""
    spoken = result.get("omnilabel", result)
    told = {"size": _named(result, small="AP_s", medium="AP_m", large="AP_l")}
    told["words"] = _named(spoken, short="AP_descr_s", medium="AP_descr_m", long="AP_descr_l")
    told["words"] |= result.get("d3", result).get("lengths", {}) | result.get("words", {})
    return told | {"edit": spoken.get("edit_types", {})}


def _named(result: Result, **keys: str) -> dict[str, float]:
    return {name: result.get(key, -1.0) for name, key in keys.items()}

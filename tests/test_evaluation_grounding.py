"""RefCOCO, Flickr30k and the pointing game, by hand and against a plain loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask

from db.errors import WinnowError
from engine.evaluation import flickr, refcoco
from engine.evaluation.boxes import BadBoxes
from engine.evaluation.pointing import accuracy, peak
from engine.evaluation.ranking import best_overlaps

A, B, FAR = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 10.0, 10.0], [80.0, 80.0, 5.0, 5.0]
AROUND = [0.0, 0.0, 30.0, 10.0]


def said(phrase: Any, box: list[float], score: float) -> dict[str, Any]:
    return {"phrase_id": phrase, "bbox": box, "score": score}


BOXES = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2).map(lambda box: [float(v) for v in box])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(BOXES, min_size=1, max_size=3), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), BOXES, st.sampled_from([0.1, 0.5, 0.9])), max_size=15),
)
def test_the_best_overlap_is_that_of_a_plain_loop(targets: list[Any], rows: list[Any]) -> None:
    found = [said(f"p{k % len(targets)}", box, score) for k, box, score in rows]
    ours = best_overlaps({f"p{k}": own for k, own in enumerate(targets)}, found, [1, 2, None])
    for k, own in enumerate(targets):
        ranked = [r["bbox"] for r in sorted(found, key=lambda r: -r["score"]) if r["phrase_id"] == f"p{k}"]
        for column, most in enumerate((1, 2, len(ranked))):
            tops = ranked[:most]
            best = mask.iou(np.array(tops), np.array(own), [0] * len(own)).max() if tops else 0.0
            assert ours[k, column] == pytest.approx(best)


def test_precision_at_k_counts_expressions_whose_box_is_among_the_surest() -> None:
    expressions = [
        {"id": 1, "bbox": A, "split": "testA"},
        {"id": 2, "bbox": A, "split": "testA"},
        {"id": 3, "bbox": A, "split": "testB"},
        {"id": 4, "bbox": A},
    ]
    found = [said(1, A, 0.9), said(1, FAR, 0.1), said(2, FAR, 0.9), said(2, A, 0.5), said(3, FAR, 0.2)]
    result = refcoco.evaluate(expressions, found)
    assert result.P == {1: 0.25, 5: 0.5, 10: 0.5} and result.expressions == 4
    assert result.splits == {"testA": {1: 0.5, 5: 1.0, 10: 1.0}, "testB": {1: 0.0, 5: 0.0, 10: 0.0}}


@pytest.mark.parametrize(("width", "found"), [(5.0, 1.0), (4.99, 0.0)])
def test_an_overlap_of_exactly_a_half_is_enough(width: float, found: float) -> None:
    assert refcoco.evaluate([{"id": 1, "bbox": A}], [said(1, [0.0, 0.0, width, 10.0], 0.5)]).P[1] == found


def test_of_equal_scores_the_earlier_is_surer() -> None:
    both = [said(1, A, 0.5), said(1, FAR, 0.5)]
    assert refcoco.evaluate([{"id": 1, "bbox": A}], both).P[1] == 1
    assert refcoco.evaluate([{"id": 1, "bbox": A}], both[::-1]).P[1] == 0


PHRASES = [
    {"id": "c1.1", "boxes": [A, B], "types": ["people"]},
    {"id": "c1.2", "boxes": [FAR], "types": ["other", "people"]},
    {"id": "c1.3", "boxes": []},
]


def test_any_box_takes_one_of_the_boxes_and_merged_boxes_the_box_around_all() -> None:
    one, around = [said("c1.1", B, 0.9)], [said("c1.1", AROUND, 0.9)]
    assert flickr.evaluate(PHRASES, one, "ANY-BOX").recall == {"1": 0.5, "5": 0.5, "10": 0.5, "all": 0.5}
    assert flickr.evaluate(PHRASES, around, "ANY-BOX").recall["all"] == 0
    assert flickr.evaluate(PHRASES, one, "MERGED-BOXES").recall["all"] == 0
    assert flickr.evaluate(PHRASES, around, "MERGED-BOXES").recall["1"] == 0.5


def test_recall_by_k_and_type_and_phrases_without_a_box() -> None:
    late = [said("c1.1", FAR, 0.9 - 0.01 * k) for k in range(6)] + [said("c1.1", A, 0.1), said("c1.3", A, 0.9)]
    result = flickr.evaluate(PHRASES, [*late, said("c1.2", FAR, 0.3)], "ANY-BOX")
    assert result.recall == {"1": 0.5, "5": 0.5, "10": 1.0, "all": 1.0}
    assert result.types["other"]["1"] == 1 and result.types["people"] == result.recall
    assert (result.phrases, result.without_box, result.protocol) == (2, 1, "ANY-BOX")


def test_bad_phrases_and_predictions_are_all_named() -> None:
    bad = [said("c1.1", A, math.nan), said("nobody", A, 0.5), said("c1.1", [0, 0, -1, 1], 0.5), {"phrase_id": "c1.1"}]
    with pytest.raises(BadBoxes) as caught:
        flickr.evaluate(PHRASES, [*bad, said("c1.1", A, 0.5)], "ANY-BOX")
    assert len(caught.value.faults) == 4 and "is of phrase 'nobody'" in str(caught.value)
    with pytest.raises(WinnowError, match="id of another"):
        flickr.evaluate([*PHRASES, PHRASES[0]], [], "ANY-BOX")
    with pytest.raises(WinnowError, match="1 expressions have the id"):
        refcoco.evaluate([{"id": 1, "bbox": A}] * 2, [])
    with pytest.raises(BadBoxes, match="Phrase 1 has the bbox"):
        refcoco.evaluate([{"id": 1, "bbox": [0, 0, math.inf, 1]}], [])
    with pytest.raises(WinnowError, match="no phrases"):
        refcoco.evaluate([], [])


def test_the_peak_is_the_first_maximum_in_reading_order() -> None:
    heat = np.zeros((4, 6))
    heat[1, 5] = heat[2, 0] = 3.0
    assert peak(heat) == (5, 1)
    with pytest.raises(ValueError, match="heat map"):
        peak(np.full((2, 2), np.nan))


@pytest.mark.parametrize(
    ("point", "hit"), [((5, 5), 1), ((0, 5), 0), ((10, 5), 0), ((25, 9.9), 1), ((15, 5), 0), ((5, 10), 0)]
)
def test_a_point_must_lie_strictly_inside_any_of_the_boxes(point: tuple[float, float], hit: int) -> None:
    assert accuracy([{"id": 1, "boxes": [A, B]}], {1: point}) == hit


def test_pointing_accuracy_is_a_share_and_faults_are_all_named() -> None:
    phrases = [{"id": k, "boxes": [A]} for k in range(4)]
    assert accuracy(phrases, {0: (5, 5), 1: (50, 50), 2: (5, 6), 3: (1, 1)}) == 0.75
    with pytest.raises(BadBoxes) as caught:
        accuracy([*phrases, {"id": 9, "boxes": []}], {0: (math.nan, 5), 1: (5, 5), 2: (5, 5), 9: (1, 1), "who": (1, 1)})
    assert len(caught.value.faults) == 4

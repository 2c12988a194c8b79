"""One door to all protocols: which fits, and that each gives the numbers of its own evaluator."""

from typing import Any

import pytest

from db.errors import NotFound
from db.records import Category, Dataset, Image
from db.store import Store
from engine.evaluation import coco, d3, lvis, omnilabel, suite, truth

BOX = [10.0, 10.0, 20.0, 20.0]
FOUND = {"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.9}


def document(**image: Any) -> dict[str, Any]:
    frequency = {"frequency": "r"} if image else {}
    return {
        "images": [{"id": 1, "width": 100, "height": 100, **image}],
        "categories": [
            {"id": 1, "name": "red mug", **frequency},
            {"id": 2, "name": "no mug", "absent": True, **frequency},
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 400.0, "iscrowd": 0}],
    }


FEDERATED = {"neg_category_ids": [2], "not_exhaustive_category_ids": []}


def test_lvis_is_chosen_where_the_data_says_what_it_needs() -> None:
    assert suite.fitting(document()) == "coco"
    assert suite.fitting(document(**FEDERATED)) == "lvis"
    assert suite.fitting(document(neg_category_ids=[2])) == "coco"


def test_lvis_and_fixed_ap_stand_apart_from_coco() -> None:
    known = document(**FEDERATED)
    told = suite.evaluate("lvis", known, [FOUND])
    assert told["mAP"] == coco.evaluate(known, [FOUND]).mAP
    assert told["lvis"] == lvis.evaluate(known, [FOUND]).as_dict()
    assert told["lvis_fixed"] == lvis.evaluate_fixed(known, [FOUND]).as_dict()
    named = suite.numbers(told)
    assert [named[name] for name in ("LVIS AP_r", "fixed_AP_r", "mAP")] == pytest.approx([1.0] * 3)


def test_d3_reads_sentences_and_scenario_from_the_truth() -> None:
    known = document() | {"scenario": "intra", "prompting": "concatenated"}
    known["images"][0]["sentence_ids"] = [1, 2]
    told = suite.evaluate("d3", known, [FOUND])
    sentences = d3.Sentences({1: "red mug", 2: "no mug"}, {2}, {1: [1, 2]})
    assert told["FULL"] == d3.evaluate(known, [FOUND], sentences).FULL
    assert (told["ABS"], told["prompting"]) == (-1.0, "concatenated") and told["PRES"] == pytest.approx(1.0)
    assert suite.slices(told)["words"]["short"] == pytest.approx(1.0)


def spoken(*false: tuple[str, str]) -> dict[str, Any]:
    """An OmniLabel document: a red mug, and descriptions that are false of the image by an edit of some type."""
    kind = {"type": "object_description"}
    texts = [("a red mug", None), *false]
    return {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "descriptions": [
            {"id": n, "text": text, "image_ids": [1], "anno_info": {**kind, **({"edit_type": edit} if edit else {})}}
            for n, (text, edit) in enumerate(texts, 1)
        ],
        "annotations": [{"id": 1, "image_id": 1, "bbox": BOX, "description_ids": [1]}],
    }


def test_an_edit_that_fools_the_detector_has_a_low_ap() -> None:
    known = spoken(("a blue mug", "colour"), ("a red ball", "object"))
    fooled = {"image_id": 1, "bbox": BOX, "description_ids": [1, 2, 3], "scores": [0.6, 0.9, 0.1]}
    told = suite.evaluate("omnilabel", known, [fooled])
    assert told["AP_descr"] == omnilabel.evaluate(known, [fooled]).AP_descr == pytest.approx(0.5)
    assert suite.slices(told)["edit"] == {"colour": pytest.approx(0.5), "object": pytest.approx(1.0)}


def test_grounding_of_phrases() -> None:
    row = {"phrase_id": 5, "bbox": BOX, "score": 0.5}
    assert suite.evaluate("refcoco", {"expressions": [{"id": 5, "bbox": BOX, "split": "testA"}]}, [row])["P@1"] == 1.0
    told = suite.evaluate("flickr30k", {"phrases": [{"id": 5, "boxes": [BOX]}]}, [row])
    assert {told[protocol]["recall"]["1"] for protocol in ("ANY-BOX", "MERGED-BOXES")} == {1.0}


def test_an_unknown_kind_lists_the_known() -> None:
    with pytest.raises(NotFound, match="omnilabel"):
        suite.evaluate("voc", {}, [])


def test_the_truth_of_a_snapshot_speaks_of_classes_by_their_ids_here(store: Store, dataset: Dataset) -> None:
    """Ids in the lists of LVIS are those of the files; the classes 1 and 2 of the file are others in the store."""
    from dataclasses import replace

    import msgspec

    whole = store.datasets.document(dataset.id)
    extra = {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]}
    first = min(category.id for category in whole.categories)

    def kind(number: int, category: Category) -> Category:
        return msgspec.structs.replace(category, id=number, frequency="c")

    def picture(image: Image) -> Image:
        return msgspec.structs.replace(image, id=image.id - 1, extra=extra)

    made = replace(
        whole,
        categories=[kind(n, category) for n, category in enumerate(whole.categories)],
        images=lambda: [picture(image) for image in whole.images()],
        boxes=list,
        phrases=list,
        file_of=lambda image: whole.file_of(msgspec.structs.replace(image, id=image.id + 1)),
    )
    federated = store.datasets.import_document(made, "federated")
    document = truth.detection(store, store.snapshots.freeze("lvis", federated.id), "test")
    mug, ball = (category["id"] for category in document["categories"])
    assert first != mug and suite.fitting(document) == "lvis"
    assert document["images"][0]["neg_category_ids"] == [ball]
    assert document["images"][0]["not_exhaustive_category_ids"] == [mug]

"""Whole images on the review card: what it says of them, what the server takes as a correction, and both in a browser."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from conftest import leased
from test_review_browser import address, browser, home, kept, page, saved, see  # noqa: F401  fixtures

from db.edits import content_faults
from db.records import Content, Dataset, Decision, Kind, Named, NewCandidate, NewVerdict, Placed
from db.store import Store
from studio import pictures, views

CAPTION = "a red mug left of a blue ball"
CONTENT = Content(
    width=160,
    height=120,
    caption=CAPTION,
    phrases=(Named(text="a red mug", spans=((0, 9),), boxes=(0,)), Named(text="a blue ball", spans=((18, 29),))),
    boxes=(Placed(xyxy=(10.0, 10.0, 50.0, 60.0), score=0.8), Placed(xyxy=(80.0, 40.0, 140.0, 100.0), score=0.6)),
)


def wholes(store: Store, dataset: Dataset, kind: Kind = Kind.TRIPLET, count: int = 2, **values: Any) -> list[int]:
    """Candidates whose picture is the first image of the data set."""
    image = store.datasets.images(dataset.id)[0]
    shard = leased(store, dataset.id)
    content = values.pop("content", CONTENT)
    detail = {
        "content": msgspec.to_builtins(content),
        "strategy": "image2text",
        "suffix": "jpg",
        **values.pop("detail", {}),
    }
    made = [
        NewCandidate(
            target=f"image:{i}/{kind}", variant=0, kind=kind, image_id=image.id, seed=i,
            **{"digest": image.digest, "detail": detail, **values},
        )
        for i in range(count)
    ]  # fmt: skip
    store.review.add_candidates(shard, made, dataset.id)
    return store.review.candidate_ids(shard.run_id)


def card_of(store: Store, candidate: int) -> dict[str, Any]:
    return views.cards(store, store.review.candidates([candidate]))[0]


def test_a_card_says_what_is_in_the_image(store: Store, dataset: Dataset) -> None:
    shown = card_of(store, wholes(store, dataset)[0])
    assert shown["whole"]["content"] == msgspec.to_builtins(CONTENT) and shown["size"] == [160, 120]
    assert shown["before"] and shown["after"] and shown["others"] == [] and shown["texts"] is None
    drawn = str(pictures.candidate(shown))
    assert drawn.count("<rect") == 2 and "<mark>a red mug</mark>" in drawn and "<mark>a blue ball" not in drawn


def test_only_a_captioned_image_stands_beside_the_new_one(store: Store, dataset: Dataset) -> None:
    (one,) = wholes(store, dataset, count=1, detail={"strategy": "concept2text"})
    assert card_of(store, one)["before"] is None
    (judged,) = wholes(store, dataset, Kind.PAIR, count=1, digest=None)
    shown = card_of(store, judged)
    assert shown["before"] and shown["after"] is None


def test_a_class_image_shows_its_class_and_its_soft_labels(store: Store, dataset: Dataset) -> None:
    mug = store.datasets.categories(dataset.id)[0]
    box = Placed(xyxy=(0.0, 0.0, 160.0, 120.0), category_id=mug.id, origin="whole_image")
    soft = [["mug", 0.7], ["ball", 0.3]]
    content = Content(width=160, height=120, boxes=(box,))
    (one,) = wholes(store, dataset, Kind.CLASS_IMAGE, 1, content=content, category_id=mug.id, detail={"soft": soft})
    whole = card_of(store, one)["whole"]
    assert (whole["class"], whole["soft"], whole["labels"]) == ("mug", soft, {mug.id: "mug"})


def test_a_correction_is_shown_and_hidden_from_who_must_not_know(store: Store, dataset: Dataset) -> None:
    (one,) = wholes(store, dataset, count=1)
    left = msgspec.to_builtins(msgspec.structs.replace(CONTENT, phrases=CONTENT.phrases[:1]))
    edit = NewVerdict(op_id="e", candidate_id=one, decision=Decision.EDIT, edit={"content": left})
    store.review.decide([edit])
    shown = card_of(store, one)
    stands, made = (msgspec.convert(shown["whole"][name], Content) for name in ("content", "made"))
    assert stands == msgspec.convert(left, Content) != made == CONTENT
    assert msgspec.convert(views.unjudged(shown)["whole"]["content"], Content) == CONTENT


def test_every_fault_of_a_correction_is_named() -> None:
    wrong = Content(
        width=161,
        height=120,
        caption=CAPTION,
        phrases=(Named(text=" ", spans=((20, 99),), boxes=(2,)), Named(text="a mug", spans=((5, 5),), boxes=(0, 0))),
        boxes=(Placed(xyxy=(10.0, 10.0, 900.0, 60.0)), Placed(xyxy=(1.0, 1.0, 2.0, 2.0), category_id=77)),
    )
    assert content_faults(wrong, CONTENT, {1}) == [
        "the image is 160x120, and the correction speaks of one of 161x120",
        "box 0, (10, 10, 900, 60), has no positive size inside the image of 160x120",
        "box 1: the data set has no class 77",
        "phrase 0 is empty",
        "phrase 0: characters 20 to 99 do not lie in the caption of 29",
        "phrase 0 names box 2, and there are 2",
        "phrase 1: characters 5 to 5 do not lie in the caption of 29",
        "phrase 1 names a box twice",
    ]
    assert content_faults(CONTENT, CONTENT, {1}) == []
    assert content_faults(CONTENT, CONTENT, {1}, boxed_whole=True) == ["a class image has one box, not 2"]


# In a browser


def test_a_triplet_is_accepted_and_its_box_and_phrase_are_mended(page, address, kept, tmp_path) -> None:  # noqa: F811
    from conftest import small_document

    dataset = kept.datasets.import_document(small_document(tmp_path / "files"), "whole images")
    first, second, third = wholes(kept, dataset, count=3)
    page.goto(f"{address}/review?dataset={dataset.id}")
    see(page, first)
    assert page.locator(".review .sheet:not(.behind) .boxes.whole rect").count() == 2
    described = page.locator(".review .sheet:not(.behind) .frames .frame")
    assert described.count() == 2  # the image that was described stands beside the new one
    assert "wrong phrase" in page.locator(".review .why").inner_text()
    assert page.locator(".review .sheet:not(.behind) .words mark").all_inner_texts() == ["a red mug", "a blue ball"]
    page.locator(".review .sheet:not(.behind) .words mark").first.focus()
    assert page.locator(".review .sheet:not(.behind) .boxes.whole rect.lit").count() == 1
    page.keyboard.press("a")
    see(page, second)
    page.keyboard.press("e")
    editor = page.locator(".review dialog.editor.whole[open]")
    editor.wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+ArrowRight")  # the first box, ten pixels to the right
    editor.locator(".caption li .link").nth(1).click()  # the boxes of the second phrase
    box = editor.locator(".surface rect[data-box='2']").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    editor.locator("textarea").first.fill("a green mug left of a blue ball")
    page.keyboard.press("Control+Enter")
    see(page, third)
    saved(page)
    accepted, mended, _ = kept.review.candidates([first, second, third])
    assert (accepted.human, mended.human) == ("accept", "edit")
    content = msgspec.convert(kept.review.standing(second).edit["content"], Content)
    assert content.caption == "a green mug left of a blue ball"
    assert [(one.text, one.boxes) for one in content.phrases] == [("a green mug", (0,)), ("a blue ball", (1,))]
    assert content.boxes[0] == Placed(xyxy=(20.0, 10.0, 60.0, 60.0), origin="person")
    assert content.boxes[1] == CONTENT.boxes[1]


@pytest.mark.parametrize("kind", ["instance", "triplet"])
def test_what_cannot_be_kept_is_refused_with_all_faults(address, kept, tmp_path, kind) -> None:  # noqa: F811
    import json
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from conftest import small_document

    dataset = kept.datasets.import_document(small_document(tmp_path / "files"), f"refused {kind}")
    (one,) = wholes(kept, dataset, Kind(kind), 1)
    content = {"width": 160, "height": 120, "caption": "", "phrases": [], "boxes": [{"xyxy": [9, 9, 1, 1]}]}
    body = [{"op_id": f"refused {kind}", "candidate_id": one, "decision": "edit", "edit": {"content": content}}]
    headers = {"X-Winnow": "1", "Content-Type": "application/json"}
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"{address}/api/review/verdicts", json.dumps(body).encode(), headers))
    told = json.loads(refused.value.read())["error"]
    assert refused.value.code == 400 and kept.review.candidate(one).human is None
    expected = "it is no whole image" if kind == "instance" else "the caption is empty; "
    assert expected in told and ("box 0, (9, 9, 1, 1)" in told) == (kind == "triplet")

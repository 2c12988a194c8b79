"""Reading AMC's lists of images, texts and boxes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from db import formats, spool
from db.errors import BadDataset
from db.formats import jsonstream
from db.store import Store

Row = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        file = io.BytesIO()
        Picture.new("RGB", (40, 30), "red").save(file, "PNG")
        (tmp_path / "images" / f"{name}.png").write_bytes(file.getvalue())
    return tmp_path


def write(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps(entries), encoding="utf-8-sig")
    return path


def test_each_text_names_the_boxes_of_its_entry_and_entries_share_images_and_boxes(folder: Path) -> None:
    entries: list[Row] = [
        {"image": "a.png", "caption": ["red mug", "a mug"], "bbox": [[1, 2, 11, 12], [20, 2.5, 30, 12]]},
        {"image": "b.png", "caption": "a plate on a table", "image_id": 7},
        {"image": "a.png", "caption": "the left mug", "bbox": [[1, 2, 11, 12]]},
    ]
    document = formats.read(write(folder / "train.json", entries))
    assert document.format == "amc" and document.faults == []
    found = [
        (
            image.file_name,
            image.split,
            [[boxes[i].xyxy for i in map(ids.get, p.box_ids) if i is not None] for p in said],
        )
        for image, boxes, said in document.samples()
        for ids in [{box.id: place for place, box in enumerate(boxes)}]
    ]
    left, right = (1, 2, 11, 12), (20, 2.5, 30, 12)
    assert found == [
        ("a.png", "train", [[left, right], [left, right], [left]]),
        ("b.png", "train", [[]]),
    ]
    assert [phrase.extra for phrase in document.phrases() if phrase.text.startswith("a plate")] == [{"image_id": 7}]


def test_a_box_that_comes_again_much_later_is_the_same_box(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonstream, "CHUNK", 64)
    monkeypatch.setattr(spool, "BLOCK", 2)
    monkeypatch.setattr(spool, "BUCKET", 4)
    named = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 1), ("b", 3), ("b", 1), ("a", 2), ("a", 3)]
    entries = [{"image": f"{name}.png", "caption": "x", "bbox": [[x, 1, 9, 9], [x, 1, 9, 9]]} for name, x in named]
    document = formats.read(write(folder / "train.json", entries), format="amc")
    assert document.faults == []
    boxes = [(box.id, "ab"[box.image_id], box.xyxy[0]) for box in document.boxes()]
    assert boxes == [(number, *box) for number, box in enumerate(dict.fromkeys(named))]
    assert [phrase.box_ids for phrase in document.phrases()] == [(list(dict.fromkeys(named)).index(n),) for n in named]


WRONG: list[tuple[Any, str, str]] = [
    ({"image": "../a.png", "caption": "x"}, "'../a.png'", "inside the folder"),
    ({"image": "gone.png", "caption": "x"}, "no file", "an image file"),
    ({"image": "a.png", "caption": " "}, "caption ' '", "a text"),
    ({"image": "a.png", "caption": []}, "caption []", "a text"),
    ({"image": "a.png", "caption": ["x", 3]}, "caption ['x', 3]", "a text"),
    ({"image": "a.png", "caption": "x", "bbox": [1, 2, 3, 4]}, "bbox [1, 2, 3, 4]", "a list of boxes"),
    ({"image": "a.png", "caption": "x", "bbox": None}, "bbox None", "a list of boxes"),
    ({"image": "a.png", "caption": "x", "bbox": [[5, 5, 4, 9]]}, "-1 wide", "positive"),
    ({"image": "a.png", "caption": "x", "bbox": [[5, 5, 90, 9]]}, "to (90, 9)", "40 x 30"),
    ("a.png", "'a.png'", "an object"),
]


@pytest.mark.parametrize(("entry", "seen", "expected"), WRONG)
def test_a_bad_entry_is_told_and_the_others_go_on(folder: Path, entry: Any, seen: str, expected: str) -> None:
    good = {"image": "a.png", "caption": "a mug", "bbox": [[1, 2, 11, 12]]}
    document = formats.read(write(folder / "list.json", [good, entry]), format="amc")
    (fault,) = document.faults
    assert seen in fault.seen and expected in fault.expected and fault.item == "entry #1"
    assert [phrase.text for phrase in document.phrases()] == ["a mug"]


def test_what_is_no_list_cannot_be_read(folder: Path) -> None:
    with pytest.raises(BadDataset, match="a dict at the top"):
        formats.read(write(folder / "list.json", {"image": "a.png"}), format="amc")


def test_a_folder_of_lists_is_imported_split_by_split(folder: Path, store: Store) -> None:
    for split in ("train", "val"):
        write(folder / f"{split}.json", [{"image": "a.png", "caption": split, "bbox": [[1, 2, 11, 12]]}])
    assert formats.sniff(folder) == "amc"
    dataset = store.datasets.import_document(formats.read(folder), "grounding")
    assert (dataset.images, dataset.boxes, dataset.phrases) == (2, 2, 2)
    assert store.datasets.splits(dataset.id) == {"train": 1, "val": 1}

"""Folders of images by class: what is read, what is quarantined, and which folders are somebody else's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from db import formats
from db.errors import BadDataset, NotFound, WinnowError
from db.store import Store


def picture(path: Path, width: int = 20, height: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 255, (height, width, 3), np.uint8)
    Picture.fromarray(noise).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "web"
    for name in ("n1/b.png", "n1/a.jpg", "n2/c.png"):
        picture(root / name)
    return root


def boxes_of(path: Path) -> dict[str, tuple[str, tuple[float, ...], bool]]:
    document = formats.read(path)
    names = {category.id: category.name for category in document.categories}
    return {
        image.file_name: (names[box.category_id or 0], box.xyxy, box.extra["whole_image"])
        for image, (box,), _ in document.samples()
    }


def test_every_image_is_one_box_of_its_class(folder: Path) -> None:
    assert formats.sniff(folder) == "classfolder"
    whole = (0.0, 0.0, 20.0, 12.0)
    assert boxes_of(folder) == {
        "n1/a.jpg": ("n1", whole, True), "n1/b.png": ("n1", whole, True), "n2/c.png": ("n2", whole, True)
    }  # fmt: skip


@pytest.mark.parametrize("mapping", ["csv", "json"])
def test_a_mapping_names_the_classes(folder: Path, mapping: str) -> None:
    text = "folder,class\nn1,cat\nn2,cat\n" if mapping == "csv" else json.dumps({"n1": "cat", "n2": "cat"})
    (folder / f"classes.{mapping}").write_text(text)
    assert {name for name, _, _ in boxes_of(folder).values()} == {"cat"}
    assert [category.name for category in formats.read(folder).categories] == ["cat"]


def test_splits_may_stand_above_the_classes(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "val/cat/b.png", "val/dog/c.png"):
        picture(tmp_path / "set" / name)
    document = formats.read(tmp_path / "set")
    assert {image.file_name: image.split for image in document.images()} == {
        "train/cat/a.png": "train", "val/cat/b.png": "val", "val/dog/c.png": "val"
    }  # fmt: skip
    assert [category.name for category in document.categories] == ["cat", "dog"]


def test_what_is_wrong_goes_to_the_quarantine_list(store: Store, folder: Path) -> None:
    (folder / "classes.csv").write_text("n1,cat\n")
    (folder / "n1" / "torn.png").write_bytes((folder / "n1" / "b.png").read_bytes()[:60])
    (folder / "n1" / "song.mp3").write_bytes(b"la")
    with pytest.raises(BadDataset, match="n2"):
        store.datasets.import_document(formats.read(folder), "web")
    made = store.datasets.import_document(formats.read(folder), "web", skip_bad=True)
    assert (made.images, made.boxes, made.format) == (2, 2, "classfolder")
    faults = {fault.item: fault.expected for fault in store.datasets.faults(made.id)}
    assert "a line n2,CLASS there" in faults["folder 'n2'"]
    assert "intact" in faults["image 'n1/torn.png'"] and "only images" in faults["image 'n1/song.mp3'"]
    (box,) = store.datasets.boxes_of([store.datasets.images(made.id)[0].id])[store.datasets.images(made.id)[0].id]
    assert box.extra == {"whole_image": True}


@pytest.mark.parametrize("line", ["n1", "n1,", "n1,cat\nn1,dog"])
def test_a_mapping_that_says_nothing_clear_is_refused(folder: Path, line: str) -> None:
    (folder / "classes.csv").write_text(line)
    with pytest.raises(BadDataset, match=r"line \d"):
        formats.read(folder)


@pytest.mark.parametrize(
    "files",
    [
        ["images/train/a.png", "labels/train/a.txt"],
        ["train2017/a.png", "val2017/b.png"],
        ["train/a.png", "val/b.png"],
        ["cat/a.png", "cat/a.txt", "dog/b.png", "dog/b.txt"],
        ["JPEGImages/a.png", "more/b.png"],
        ["one/a.png"],
        ["cat/a.png", "empty/readme.md"],
    ],
)
def test_folders_of_other_formats_are_not_taken(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        if name.endswith(".png"):
            picture(tmp_path / name)
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("0 0.5 0.5 1 1\n")
    with pytest.raises(WinnowError, match="a folder of images for each class"):
        formats.sniff(tmp_path)


def test_annotation_files_beside_folders_of_images_come_first(folder: Path) -> None:
    (folder / "instances.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert formats.sniff(folder) == "coco"
    (folder / "data.yaml").write_text("names: [a]\ntrain: n1\n")
    assert formats.sniff(folder) == "yolo"


def test_the_format_can_be_named_and_not_written(folder: Path, tmp_path: Path) -> None:
    document = formats.read(folder, format="classfolder")
    with pytest.raises(NotFound, match="coco"):
        formats.write(document, tmp_path / "out", "classfolder")
    assert formats.write(document, tmp_path / "out", "coco") == []
    again = formats.read(tmp_path / "out")
    assert [box.extra for box in again.boxes()] == [{"whole_image": True}] * 3

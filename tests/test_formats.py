"""Formats: nothing is lost in a round trip, and every fault is named."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db import formats
from db.document import Document
from db.errors import BadDataset, DiskFull, WinnowError
from db.records import Box
from db.store import Store

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def content(document: Document) -> tuple[Any, ...]:
    return (
        document.categories,
        list(document.images()),
        list(document.boxes()),
        list(document.phrases()),
        document.info,
    )


def through_the_store(store: Store, document: Document, folder: Path, format: str) -> Document:
    """Import, export from the store, read again."""
    dataset = store.datasets.import_document(document, f"{format}{len(store.datasets.list())}")
    formats.write(store.datasets.document(dataset.id), folder, format, with_images=False)
    return formats.read(folder, format=format, annotations_only=True)


# COCO

number = st.integers(0, 80) | st.floats(0, 80, allow_nan=False).map(lambda v: round(v, 2))
size = st.floats(0.5, 19, allow_nan=False)
segmentation = st.sampled_from(
    [None, [[1.5, 2, 3.25, 4, 5, 6.125]], {"size": [120, 160], "counts": "abc"}, {"size": [2, 2], "counts": [1, 3]}]
)


@st.composite
def coco_files(draw: st.DrawFn) -> dict[str, Any]:
    ids = st.lists(st.integers(0, 10**12) | st.text(min_size=1, max_size=5), unique=True, min_size=1, max_size=4)
    images = [{"id": i, "file_name": f"folder/{n}.jpg", "width": 160, "height": 120} for n, i in enumerate(draw(ids))]
    for image in images:
        image |= draw(st.sampled_from([{}, {"license": 3, "flickr_url": "u"}, {"neg_category_ids": [1, 2]}]))
    categories = [
        {"id": i, "name": f"class {n}"} | draw(st.sampled_from([{}, {"supercategory": "s"}, {"frequency": "r"}]))
        for n, i in enumerate(draw(ids))
    ]
    annotations = []
    for i in draw(ids):
        box = [draw(number), draw(number), draw(size), draw(size)]
        annotation: dict[str, Any] = {
            "id": i,
            "image_id": draw(st.sampled_from(images))["id"],
            "category_id": draw(st.sampled_from(categories))["id"],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": draw(st.sampled_from([0, 1])),
        }
        polygons = draw(segmentation)
        annotation |= {} if polygons is None else {"segmentation": polygons}
        annotations.append(annotation | draw(st.sampled_from([{}, {"note": {"by": "someone"}}])))
    top = draw(st.sampled_from([{}, {"info": {"year": 2017}, "licenses": [{"id": 3}], "mine": None}]))
    return {**top, "images": images, "annotations": annotations, "categories": categories}


@quick
@given(coco_files())
def test_a_coco_file_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, store: Store, source: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("coco")
    (folder / "train.json").write_text(json.dumps(source))
    document = formats.read(folder / "train.json", annotations_only=True)
    assert document.faults == []
    again = through_the_store(store, document, folder / "out", "coco")
    assert content(again) == content(document)
    assert json.loads((folder / "out" / "train.json").read_text()) == source


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_two_coco_splits_stay_apart(tmp_path: Path, store: Store, name: str) -> None:
    sources = {}
    for split, first in (("train", 1), ("val", 7)):
        images = [{"id": first, "file_name": f"{split}.jpg", "width": 20, "height": 20}]
        boxes = [{"id": first, "image_id": first, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}]
        sources[split] = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
        (tmp_path / f"instances_{split}2017.json").write_text(json.dumps(sources[split]))
    document = formats.read(tmp_path, annotations_only=True)
    assert {image.split for image in document.images()} == {"train", "val"}
    through_the_store(store, document, tmp_path / "out", "coco")
    for split, source in sources.items():
        assert json.loads((tmp_path / "out" / f"{split}.json").read_text())[name] == source[name]


# VOC


def voc_folder(folder: Path, boxes: list[tuple[str, tuple[float, ...]]], **more: str) -> Path:
    (folder / "Annotations").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    (folder / "ImageSets/Main").mkdir(parents=True)
    picture(folder / "JPEGImages/one.jpg", seed=1)
    objects = "".join(
        f"<object><name>{name}</name><pose>Left</pose><occluded>1</occluded><bndbox>"
        + "".join(
            f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        + "</bndbox></object>"
        for name, corners in boxes
    )
    text = (
        f"<annotation><folder>JPEGImages</folder><filename>{more.get('filename', 'one.jpg')}</filename>"
        f"<source><database>mine</database></source><size><width>160</width><height>120</height><depth>3</depth></size>"
        f"<segmented>0</segmented>{objects}</annotation>"
    )
    (folder / "Annotations/one.xml").write_text(more.get("prefix", "") + text)
    (folder / "ImageSets/Main/test.txt").write_text("one\n")
    (folder / "ImageSets/Main/trainval.txt").write_text("one\n")
    return folder


corner = st.integers(1, 60) | st.floats(1, 60, allow_nan=False).map(lambda v: round(v, 3))
voc_boxes = st.lists(
    st.tuples(
        st.sampled_from(["cell", "a & b"]).map(lambda s: s.replace("&", "&amp;")),
        st.tuples(corner, corner, corner, corner),
    ),
    max_size=4,
)


@quick
@given(voc_boxes)
def test_a_voc_folder_comes_back_tag_for_tag(
    tmp_path_factory: pytest.TempPathFactory, store: Store, boxes: list[Any]
) -> None:
    moved = [(name, (x, y, x + 30, y + 40)) for name, (x, y, _, _) in boxes]
    folder = voc_folder(tmp_path_factory.mktemp("voc") / "in", moved)
    document = formats.read(folder)
    assert document.faults == []
    again = through_the_store(store, document, folder.parent / "out", "voc")
    assert content(again) == content(document)
    before, after = (ElementTree.parse(f / "Annotations/one.xml") for f in (folder, folder.parent / "out"))
    assert [(e.tag, (e.text or "").strip()) for e in after.iter()] == [
        (e.tag, (e.text or "").strip()) for e in before.iter()
    ]
    assert (folder.parent / "out/ImageSets/Main/test.txt").read_text() == "one\n"


def test_voc_corners_are_whole_pixels_inclusive(tmp_path: Path) -> None:
    document = formats.read(voc_folder(tmp_path / "v", [("cell", (1, 1, 160, 120))]))
    assert [box.xyxy for box in document.boxes()] == [(0.0, 0.0, 160.0, 120.0)]


# ODVG

grounding = {
    "filename": "one.jpg",
    "height": 120,
    "width": 160,
    "mine": 1,
    "grounding": {
        "caption": "a red mug and two blue balls",
        "source": "x",
        "regions": [
            {"bbox": [1.5, 2, 30, 40], "phrase": "a red mug", "tokens_positive": [[0, 9]], "score": 0.5},
            {"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "phrase": "two blue balls", "tokens_positive": [[14, 17], [18, 28]]},
            {"bbox": [], "phrase": "balls", "tokens_positive": [[23, 28]]},
        ],
        "negatives": ["a green mug"],
    },
}
detection = {
    "filename": "one.jpg",
    "height": 120,
    "width": 160,
    "detection": {
        "instances": [
            {"bbox": [1, 2, 30, 40.25], "label": 3, "category": "mug"},
            {"bbox": [0, 0, 9, 9], "label": 0, "category": "ball", "id": 4},
        ]
    },
}
empty = {"filename": "one.jpg", "height": 120, "width": 160, "grounding": {"caption": "an empty table", "regions": []}}


@pytest.mark.parametrize(
    "lines", [[grounding], [detection], [empty], [detection, grounding, empty, detection]], ids=["g", "d", "e", "mixed"]
)
def test_odvg_comes_back_line_for_line(tmp_path: Path, store: Store, lines: list[dict[str, Any]]) -> None:
    source = tmp_path / "odvg_train.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = formats.read(source, annotations_only=True)
    assert document.faults == []
    again = through_the_store(store, document, tmp_path / "out", "odvg")
    assert content(again) == content(document)
    assert [json.loads(line) for line in (tmp_path / "out/train.jsonl").read_text().splitlines()] == lines


# Faults


def coco_with(**change: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "one.jpg", "width": 160, "height": 120}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "mug"}],
    }
    for key, value in change.items():
        base[key] = [{**base[key][0], **value}] if isinstance(value, dict) else value(base[key])
    return base


twice = lambda items: items * 2
COCO_FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "box outside": (
        coco_with(annotations={"bbox": [150, 1, 20, 20]}),
        "annotation id 1",
        "inside its image, which is 160 x 120",
    ),
    "negative size": (coco_with(annotations={"bbox": [1, 1, -5, 20]}), "annotation id 1", "positive width"),
    "zero size": (coco_with(annotations={"bbox": [1, 1, 5, 0]}), "annotation id 1", "positive width"),
    "NaN": (coco_with(annotations={"bbox": [float("nan"), 1, 5, 5]}), "annotation id 1", "finite"),
    "infinite": (coco_with(annotations={"area": float("inf")}), "annotation id 1", "finite"),
    "text as number": (coco_with(annotations={"bbox": ["1", 1, 5, 5]}), "annotation id 1", "finite"),
    "true as id": (coco_with(annotations={"id": True}), "annotation #0", "an id"),
    "unknown category": (coco_with(annotations={"category_id": 9}), "annotation id 1", "category of this file"),
    "unknown image": (coco_with(annotations={"image_id": 9}), "annotation id 1", "image of this file"),
    "annotation id twice": (coco_with(annotations=twice), "annotation id 1 (#1)", "every annotation id once"),
    "image id twice": (coco_with(images=twice), "image id 1 (#1)", "every image id once"),
    "category id twice": (coco_with(categories=twice), "category #1", "every category id once"),
    "climbing path": (coco_with(images={"file_name": "../one.jpg"}), "image id 1", "inside the folder"),
    "absolute path": (coco_with(images={"file_name": "/etc/passwd"}), "image id 1", "inside the folder"),
    "drive letter": (coco_with(images={"file_name": "C:\\one.jpg"}), "image id 1", "inside the folder"),
    "no width": (coco_with(images={"width": None}), "image id 1", "whole pixels"),
    "missing image": (coco_with(images={"file_name": "two.jpg"}), "two.jpg", "an image file"),
    "empty": (coco_with(images=lambda _: [], annotations=lambda _: []), "the data set", "at least one image"),
}


@pytest.mark.parametrize("case", COCO_FAULTS)
def test_a_fault_names_file_and_item_and_nothing_is_imported(tmp_path: Path, store: Store, case: str) -> None:
    source, item, expected = COCO_FAULTS[case]
    picture(tmp_path / "one.jpg", seed=1)
    (tmp_path / "bad.json").write_text(json.dumps(source))
    document = formats.read(tmp_path / "bad.json")
    with pytest.raises(BadDataset) as caught:
        store.datasets.import_document(document, "bad")
    fault = caught.value.faults[0]
    assert item in fault.item and expected in fault.expected and str(tmp_path) in fault.file
    assert store.datasets.list() == []


def test_all_faults_are_told_together_and_the_good_items_can_be_had(tmp_path: Path, store: Store) -> None:
    source = coco_with(annotations=lambda items: [{**items[0], "id": i} for i in range(9)])
    source["annotations"][2]["bbox"] = [0, 0, 999, 9]
    source["annotations"][5]["category_id"] = 77
    source["annotations"].append({**source["annotations"][0], "note": "also fine", "id": 99})
    (tmp_path / "some.json").write_text(json.dumps(source))
    document = formats.read(tmp_path / "some.json", annotations_only=True)
    assert [fault.item for fault in document.faults] == ["annotation id 2 (#2)", "annotation id 5 (#5)"]
    dataset = store.datasets.import_document(document, "good part", skip_bad=True)
    assert dataset.boxes == 8
    assert store.datasets.faults(dataset.id) == document.faults


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_text(path: Path) -> None:
    path.write_text("<svg onload=alert(1)></svg>")


def damage_png(path: Path) -> None:
    picture(path.with_suffix(".png"), seed=2)
    path.with_suffix(".png").replace(path)


def damage_size(path: Path) -> None:
    picture(path, seed=2, width=64, height=64)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (damage_truncated, "intact"),
        (damage_empty, "intact"),
        (damage_text, "intact"),
        (damage_png, "suffix .png"),
        (damage_size, "160 x 120, as annotated"),
    ],
)
def test_an_unsound_image_is_named(tmp_path: Path, damage: Callable[[Path], None], expected: str) -> None:
    picture(tmp_path / "one.jpg", seed=1)
    damage(tmp_path / "one.jpg")
    (tmp_path / "a.json").write_text(json.dumps(coco_with()))
    document = formats.read(tmp_path / "a.json")
    (fault,) = document.faults
    assert "one.jpg" in fault.item and expected in fault.expected
    assert list(document.images()) == [] and list(document.boxes()) == []


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "secret.jpg", seed=1)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/one.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "set/a.json").write_text(json.dumps(coco_with()))
    (fault,) = formats.read(tmp_path / "set/a.json").faults
    assert "link" in fault.seen


@pytest.mark.parametrize(
    "text", ['{"images": [{"id": 1', "[]", "{}", "", '{"images": [], "annotations": {}}', "[" * 100_000]
)
def test_a_file_that_is_no_coco_is_one_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "cut.json").write_text(text)
    with pytest.raises(BadDataset) as caught:
        formats.read(tmp_path / "cut.json")
    (fault,) = caught.value.faults
    assert fault.file.endswith("cut.json") and fault.item == "the whole file"


@pytest.mark.parametrize(
    ("boxes", "more", "expected"),
    [
        ([("cell", (10, 10, 400, 20))], {}, "inside its image"),
        ([("cell", (10, 10, 5, 20))], {}, "positive width"),
        ([("cell", ("nan", 10, 50, 20))], {}, "finite"),
        ([("cell", ("x", 10, 50, 20))], {}, "finite"),
        ([("", (10, 10, 50, 20))], {}, "name of a class"),
        ([], {"filename": "../../x.jpg"}, "file in JPEGImages"),
        ([], {"prefix": '<!DOCTYPE a [<!ENTITY b "c">]>'}, "plain XML"),
        ([], {"prefix": "<"}, "complete <annotation>"),
    ],
)
def test_voc_faults_are_named(tmp_path: Path, boxes: list[Any], more: dict[str, str], expected: str) -> None:
    document = formats.read(voc_folder(tmp_path / "v", boxes, **more))
    fault = document.faults[0]
    assert fault.file.endswith("one.xml") and expected in fault.expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda line: line["grounding"]["regions"][0].update(tokens_positive=[[0, 99]]), "inside the caption"),
        (lambda line: line["grounding"]["regions"][0].update(bbox=[1, 1, 500, 9]), "inside its image"),
        (lambda line: line["grounding"]["regions"][0].update(bbox=[1, 1, "9", 9]), "one box or a list"),
        (lambda line: line["grounding"].update(caption=7), "a text"),
        (lambda line: line.update(filename="../a.jpg"), "inside the folder"),
        (lambda line: line.update(width=0), "whole pixels"),
    ],
)
def test_odvg_faults_name_the_line(tmp_path: Path, change: Callable[[Any], None], expected: str) -> None:
    bad = json.loads(json.dumps(grounding))
    change(bad)
    (tmp_path / "a.jsonl").write_text(json.dumps(empty) + "\n" + json.dumps(bad) + "\n{broken\n")
    first, last = (formats.read(tmp_path / "a.jsonl", annotations_only=True).faults[i] for i in (0, -1))
    assert first.item.startswith("line 2") and expected in first.expected
    assert last.item == "line 3" and "JSON" in last.expected


def test_an_unknown_layout_says_what_is_understood(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(WinnowError, match="readme.txt.*COCO"):
        formats.read(tmp_path)


# Writing


def test_an_export_never_overwrites_and_leaves_no_half_file(tmp_path: Path, store: Store, dataset: Any) -> None:
    document = store.datasets.document(dataset.id)
    formats.write(document, tmp_path / "out", "coco")
    with pytest.raises(WinnowError, match="not empty"):
        formats.write(document, tmp_path / "out", "coco")

    def broken() -> Any:
        yield from list(document.boxes())[:3]
        raise OSError(errno.ENOSPC, "no space left")

    half = Document(format="coco", categories=document.categories, images=document.images, boxes=broken)
    with pytest.raises(DiskFull, match="no space left"):
        formats.write(half, tmp_path / "half", "coco")
    assert not [path for path in tmp_path.iterdir() if "half" in path.name]


@pytest.mark.parametrize(
    ("format", "lost"),
    [
        ("coco", ["12 captions and phrases"]),
        ("voc", ["12 captions and phrases", "18 ids of images and boxes"]),
        ("odvg", ["18 ids of images and boxes"]),
    ],
)
def test_an_export_has_the_images_and_says_what_is_lost(
    tmp_path: Path, store: Store, dataset: Any, format: str, lost: list[str]
) -> None:
    assert formats.write(store.datasets.document(dataset.id), tmp_path / "out", format) == lost
    again = formats.read(tmp_path / "out")
    assert again.faults == []
    assert [box.xyxy for box in again.boxes()][:2] == [(10.0, 10.0, 50.0, 60.0), (80.0, 40.0, 140.0, 100.0)]


def test_the_same_data_give_the_same_bytes(tmp_path: Path, store: Store, dataset: Any) -> None:
    for format in formats.FORMATS:
        for name in ("a", "b"):
            formats.write(store.datasets.document(dataset.id), tmp_path / format / name, format)
        one, two = (
            {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()}
            for f in ((tmp_path / format / n) for n in "ab")
        )
        assert one == two and one


def test_boxes_without_ids_get_free_ones(tmp_path: Path, dataset: Any, store: Store) -> None:
    document = store.datasets.document(dataset.id)
    extra = Box(
        id=999,
        image_id=next(iter(document.images())).id,
        xyxy=(1.0, 1.0, 5.0, 5.0),
        category_id=document.categories[0].id,
    )
    more = Document(
        format="coco", categories=document.categories, images=document.images, boxes=lambda: [*document.boxes(), extra]
    )
    formats.write(more, tmp_path / "out", "coco", with_images=False)
    ids = [a["id"] for p in (tmp_path / "out").glob("*.json") for a in json.loads(p.read_text())["annotations"]]
    assert len(ids) == len(set(ids)) == 13

"""Importing: hostile and odd input of every format, one transaction, and what can be asked of a stored data set."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import picture, small_document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from db import formats
from db.document import Document
from db.errors import BadDataset, NotFound, WinnowError
from db.records import Box, Category, Dataset, Fault, Image, Phrase
from db.store import Store

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def coco(**change: Any) -> dict[str, Any]:
    """A sound COCO file of one image with one box; `image`, `category` and `annotation` change fields."""
    return {
        "images": [{"id": 1, "file_name": "one.jpg", "width": 160, "height": 120} | change.pop("image", {})],
        "categories": [{"id": 1, "name": "mug"} | change.pop("category", {})],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]} | change.pop("annotation", {})
        ],
    } | change


def line(**change: Any) -> dict[str, Any]:
    """A sound ODVG line with both halves."""
    region = {"bbox": [1, 2, 30, 40], "phrase": "a red mug", "tokens_positive": [[0, 9]]} | change.pop("region", {})
    instance = {"bbox": [1, 2, 30, 40], "label": 0, "category": "mug"} | change.pop("instance", {})
    halves = {
        "detection": {"instances": [instance]},
        "grounding": {"caption": "a red mug and a ball", "regions": [region]},
    }
    return {"filename": "one.jpg", "height": 120, "width": 160} | halves | change


XML = """<annotation verified="yes">
<folder>JPEGImages</folder><path>/old/one.jpg</path><filename>one.jpg</filename>
<size><width>160</width><height>120</height><depth>1</depth></size>
<object id="7"><name>mug</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>
<bndbox><ymin>2</ymin><xmin>1.50</xmin><ymax>40</ymax><xmax>30</xmax></bndbox>
<part><name>handle</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></part></object>
</annotation>"""


def voc(folder: Path, text: str = XML, **lists: str) -> Path:
    (folder / "Annotations").mkdir(parents=True)
    (folder / "Annotations/one.xml").write_text(text)
    for name, content in lists.items():
        (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (folder / f"ImageSets/Main/{name}.txt").write_text(content)
    return folder


def written(path: Path, value: Any) -> Path:
    path.write_text(
        "".join(json.dumps(item) + "\n" for item in value) if isinstance(value, list) else json.dumps(value)
    )
    return path


def told(path: Path) -> str:
    """The faults of an input as text, whether it can be read in part or not at all."""
    try:
        return "\n".join(map(str, formats.read(path, annotations_only=True).faults))
    except BadDataset as error:
        return str(error)


# Bad input

COCO_FAULTS: dict[str, tuple[Any, str]] = {
    "a number too large to calculate with": (coco(annotation={"bbox": [10**400, 1, 5, 5]}), "annotation id 1 (#0)"),
    "an area too large": (coco(annotation={"area": 10**40}), "a finite number"),
    "an id beyond 64 bits": (coco(annotation={"id": 2**63}), "an object with an id"),
    "an image id beyond 64 bits": (coco(image={"id": -(2**63) - 1}), "image #0"),
    "iscrowd is true": (coco(annotation={"iscrowd": True}), "iscrowd True; expected 0 or 1"),
    "iscrowd is two": (coco(annotation={"iscrowd": 2}), "iscrowd 2; expected 0 or 1"),
    "iscrowd is null": (coco(annotation={"iscrowd": None}), "iscrowd None; expected 0 or 1"),
    "NaN in an unknown field": (coco(annotation={"weight": float("nan")}), "the number nan"),
    "infinity in a polygon": (coco(annotation={"segmentation": [[1, 2, float("inf"), 4, 5, 6]]}), "the number inf"),
    "NaN in a field of an image": (coco(image={"gain": float("nan")}), "image id 1 (#0): the number nan"),
    "NaN beside the lists": (coco(info={"mean": float("nan")}), "the fields info: the number nan"),
    "a whole number beyond 64 bits in a field": (coco(image={"hash": 2**70}), "more than 64 bits"),
    "half a surrogate pair in a field": (coco(image={"by": "\ud800"}), "surrogate"),
    "half a surrogate pair in a list": (coco(image={"by": ["a", "\ud800"]}), "surrogate"),
    "a whole number beyond 64 bits in a list": (coco(image={"by": [1, 2**70]}), "more than 64 bits"),
    "NaN in a list in a list": (coco(image={"by": [[1], [float("nan")]]}), "the number nan"),
    "half a surrogate pair in a name": (coco(category={"name": "\ud800"}), "category #0"),
    "a NUL character in a name": (coco(category={"name": "a\0b"}), "category #0"),
    "a category without a name": (coco(category={"name": "  "}), "category #0"),
    "a file name with a zero": (coco(image={"file_name": "a\0b.jpg"}), "inside the folder"),
    "a path to another machine": (coco(image={"file_name": "\\\\host\\share\\a.jpg"}), "inside the folder"),
    "a path up, Windows style": (coco(image={"file_name": "..\\a.jpg"}), "inside the folder"),
    "half a pixel too far": (coco(annotation={"bbox": [150, 1, 10.6, 5]}), "inside its image, which is 160 x 120"),
    "a bbox of three numbers": (coco(annotation={"bbox": [1, 2, 3]}), "four finite numbers"),
    "an annotation that is a number": (coco(annotations=[7]), "annotation #0: 7"),
    "an image that is null": (coco(images=[None]), "image #0: None"),
    "fractional pixels": (coco(image={"width": 160.5}), "whole pixels"),
}


@pytest.mark.parametrize("case", COCO_FAULTS)
def test_a_coco_fault_is_told(tmp_path: Path, case: str) -> None:
    source, expected = COCO_FAULTS[case]
    assert expected in told(written(tmp_path / "a.json", source))


RAW_FAULTS = {
    "cut off": (b'{"images": [{"id": 1, "file', "at byte 22 of 27"),
    "another encoding": (json.dumps(coco()).encode("utf-16"), "is no UTF-8"),
    "a half character": (b'{"images": [], "annotations": [], "a": "\xc3"}', "byte 40 of 43 is no UTF-8"),
    "a list at the top": (b"[]", "a list at the top"),
    "nested without end": (b'{"images": [], "annotations": [], "a": ' + b"[" * 200_000, "a.json: the whole file"),
    "nested far too deep": (
        b'{"images": [], "annotations": [], "a": ' + b"[" * 9000 + b"]" * 9000 + b"}",
        "a.json: the ",
    ),
    "a half character in a mask": (
        json.dumps(coco()).encode()[:-3] + b', "segmentation": {"counts": "\xff"}}]}',
        "no UTF-8",
    ),
    "a number of 5000 digits": (b'{"images": [], "annotations": [' + b"1" * 5000 + b"]}", "a.json: "),
    "1e999": (json.dumps(coco()).replace("[1,", "[1e999,").encode(), "bbox [inf"),
}


@pytest.mark.parametrize("case", RAW_FAULTS)
def test_an_unreadable_file_is_one_fault_with_its_place(tmp_path: Path, case: str) -> None:
    data, expected = RAW_FAULTS[case]
    (tmp_path / "a.json").write_bytes(data)
    assert expected in told(tmp_path / "a.json")


ODVG_FAULTS: dict[str, tuple[Any, str]] = {
    "a phrase that is not at its span": (line(region={"tokens_positive": [[2, 9]]}), "'red mug' at tokens_positive"),
    "a span out of order": (line(region={"tokens_positive": [[9, 2]]}), "offsets inside the caption"),
    "true as an offset": (line(region={"tokens_positive": [[False, 9]]}), "tokens_positive"),
    "a bbox of null": (line(region={"bbox": None}), "one box or a list of boxes"),
    "an instance that is no object": (line(detection={"instances": [3]}), "line 1, instance #0: 3"),
    "instances that are no list": (line(detection={"instances": 3}), "line 1: instances 3; expected a list"),
    "a half that is no object": (line(grounding=[]), "line 1: grounding []; expected an object"),
    "true as a label": (line(instance={"label": True}), "a whole number and a name"),
    "a negative that is a number": (line(grounding={"caption": "a", "negatives": [1]}), "negative #0"),
    "NaN in an unknown field": (line(weight=float("nan")), "line 1: the number nan"),
    "a line that is a number": (5, "line 1: 5"),
}


@pytest.mark.parametrize("case", ODVG_FAULTS)
def test_an_odvg_fault_is_told(tmp_path: Path, case: str) -> None:
    source, expected = ODVG_FAULTS[case]
    assert expected in told(written(tmp_path / "a.jsonl", [source]))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([line(), line(instance={"category": "cup"})], "category 'cup' for label 0; expected 'mug', as elsewhere"),
        ([line(), line(instance={"label": 1})], "label 1 for category 'mug'"),
    ],
)
def test_labels_and_names_must_agree(tmp_path: Path, lines: list[Any], expected: str) -> None:
    assert expected in told(written(tmp_path / "a.jsonl", lines))


@pytest.mark.parametrize("labels", ['{"x": "mug"}', '{"0": 5}', '{"0": "mug", "1": "mug"}', "[1]", "{", '{"0": ""}'])
def test_a_bad_label_map_is_told(tmp_path: Path, labels: str) -> None:
    (tmp_path / "label_map.json").write_text(labels)
    assert "label_map.json" in told(written(tmp_path / "a.jsonl", [line()]))


def test_a_region_with_one_bad_box_is_left_out_whole(tmp_path: Path) -> None:
    source = line(region={"bbox": [[1, 2, 30, 40], [1, 2, 999, 40]]}, detection={"instances": []})
    document = formats.read(written(tmp_path / "a.jsonl", [source]), annotations_only=True)
    assert [phrase.text for phrase in document.phrases()] == ["a red mug and a ball"]
    assert list(document.boxes()) == [] and len(document.faults) == 1


def test_an_endless_line_does_not_fill_the_memory_and_the_next_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "' + b"x" * 40_000_000 + b'"}\n' + json.dumps(line()).encode())
    document = formats.read(tmp_path / "a.jsonl", annotations_only=True)
    assert [fault.item for fault in document.faults] == ["line 1"]
    assert len(list(document.images())) == 1


VOC_FAULTS = {
    "corners as a text": (
        XML.replace("<ymin>2</ymin><xmin>1.50</xmin><ymax>40</ymax><xmax>30</xmax>", "1 2"),
        "bndbox",
    ),
    "a corner twice": (XML.replace("<xmin>1.50</xmin>", "<xmin>1</xmin><xmin>2</xmin>"), "each once"),
    "digits with an underscore": (XML.replace("<xmin>1.50</xmin>", "<xmin>1_0</xmin>"), "finite numbers"),
    "a size as a text": (XML.replace("<width>160</width><height>120</height><depth>1</depth>", "x"), "None x None"),
    "another encoding": (XML.encode("utf-16").decode("latin-1"), "zero byte"),
    "an unknown encoding": ('<?xml version="1.0" encoding="x-none"?>' + XML, "not readable as XML"),
    "nested without end": ("<annotation>" + "<a>" * 5000 + "</a>" * 5000 + "</annotation>", "not readable as XML"),
    "entities": ('<!DOCTYPE x [<!ENTITY a "aaa">]>' + XML, "plain XML"),
    "cut off": (XML[:200], "a complete <annotation>"),
}


@pytest.mark.parametrize("case", VOC_FAULTS)
def test_a_voc_fault_is_told(tmp_path: Path, case: str) -> None:
    text, expected = VOC_FAULTS[case]
    assert expected in told(voc(tmp_path / "v", text)) and "one.xml" in told(tmp_path / "v")


def test_a_list_that_names_what_is_not_there_is_told(tmp_path: Path) -> None:
    folder = voc(tmp_path / "v", train="one\nghost\n", trainval="one\nghost\n")
    assert told(folder).count("ghost") == 2 and "Annotations/ghost.xml" in told(folder)  # once, with what is expected


# Whatever comes, a message or a document


SOURCES = {
    "a.json": json.dumps(coco(info={"x": [1.5]})).encode(),
    "a.jsonl": json.dumps(line()).encode(),
    "v": XML.encode(),
}
PIECES = [
    b"{",
    b"]",
    b'"',
    b"-",
    b"1e999",
    b"NaN",
    b"null",
    b"\xff",
    b"\\ud800",
    b"<a>",
    b"&x;",
    b"99999999999999999999",
    b"true",
    b"",
]


@quick
@given(
    st.sampled_from(sorted(SOURCES)),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 9), st.sampled_from(PIECES)), max_size=3),
)
def test_damaged_annotations_give_a_message_or_a_sound_document(
    tmp_path_factory: pytest.TempPathFactory, store: Store, name: str, damages: list[tuple[int, int, bytes]]
) -> None:
    data = SOURCES[name]
    for place, length, piece in damages:
        data = data[: place % len(data)] + piece + data[place % len(data) + length :] if data else piece
    folder = tmp_path_factory.mktemp("damaged")
    target = folder / name if name != "v" else voc(folder / "v") / "Annotations/one.xml"
    target.write_bytes(data)
    try:
        document = formats.read(folder / name, annotations_only=True)
        dataset = store.datasets.import_document(document, str(folder), skip_bad=True)
    except WinnowError as error:
        assert str(error)
        return
    formats.write(store.datasets.document(dataset.id), folder / "out", document.format)
    assert formats.read(folder / "out", annotations_only=True).faults == []


@quick
@given(st.sampled_from(["jpg", "png", "webp"]), st.integers(0, 10_000), st.binary(max_size=12))
def test_a_damaged_picture_is_a_fault_or_sound(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, place: int, piece: bytes
) -> None:
    folder = tmp_path_factory.mktemp("picture")
    picture(folder / f"one.{suffix}", seed=1)
    data = (folder / f"one.{suffix}").read_bytes()
    at = place % len(data)
    (folder / f"one.{suffix}").write_bytes(data[:at] + piece + data[at + len(piece) :] if piece else data[:at])
    document = formats.read(written(folder / "a.json", coco(image={"file_name": f"one.{suffix}"})))
    assert bool(document.faults) != bool(list(document.images()))


def test_a_picture_turned_by_its_exif_data_says_so(tmp_path: Path) -> None:
    exif = Picture.Exif()
    exif[0x0112] = 6
    Picture.new("RGB", (120, 160)).save(tmp_path / "one.jpg", exif=exif)
    (fault,) = formats.read(written(tmp_path / "a.json", coco())).faults
    assert fault.seen == "one.jpg is 120 x 160, and its EXIF data ask for a rotation"


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    Picture.new("1", (9000, 8000)).save(tmp_path / "one.png")
    source = coco(image={"file_name": "one.png", "width": 9000, "height": 8000})
    (fault,) = formats.read(written(tmp_path / "a.json", source)).faults
    assert "64 megapixels" in fault.expected


def test_a_name_that_the_file_system_refuses_is_a_missing_file(tmp_path: Path) -> None:
    source = coco(image={"file_name": "x" * 300 + ".jpg"})
    (fault,) = formats.read(written(tmp_path / "a.json", source)).faults
    assert "no file" in fault.seen


# What comes back


@pytest.mark.parametrize(
    "source",
    [
        coco(annotation={"segmentation": None, "area": None}),
        coco(annotation={"segmentation": None}),
        coco(annotation={"area": 7}),
        coco(annotation={"iscrowd": 1, "segmentation": {"size": [120, 160], "counts": "PQ`1"}}),
        coco(category={"frequency": 3}),
        coco(category={"frequency": None}),
        coco(annotation={"tags": ["mine"], "list": 1}, image={"stem": "../../x", "odvg": 1, "tags": 5}),
        coco(annotation={"id": "a"}, image={"note": "\u202e\u0000 zero, right to left, \U0001f9a9"}),
    ],
)
def test_unusual_coco_comes_back_as_it_was(tmp_path: Path, store: Store, source: dict[str, Any]) -> None:
    document = formats.read(written(tmp_path / "train.json", source), annotations_only=True)
    dataset = store.datasets.import_document(document, "odd")
    formats.write(store.datasets.document(dataset.id), tmp_path / "out", "coco")
    assert json.loads((tmp_path / "out/train.json").read_text()) == source


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(coco()).encode())
    assert told(tmp_path / "a.json") == ""


def canonical(element: ElementTree.Element) -> Any:
    return element.tag, element.attrib, (element.text or "").strip(), [canonical(child) for child in element]


def test_unusual_voc_comes_back_tag_for_tag(tmp_path: Path, store: Store) -> None:
    folder = voc(tmp_path / "v", train="one\n", trainval="one\n", mug_train="one 1\n")
    document = formats.read(folder, annotations_only=True)
    (box,) = document.boxes()
    assert document.faults == [] and box.xyxy == (0.5, 1.0, 30.0, 40.0)
    dataset = store.datasets.import_document(document, "voc")
    formats.write(store.datasets.document(dataset.id), tmp_path / "out", "voc")
    after = ElementTree.parse(tmp_path / "out/Annotations/one.xml").getroot()
    assert canonical(after) == canonical(ElementTree.fromstring(XML))
    lists = {path.name: path.read_text() for path in (tmp_path / "out/ImageSets/Main").iterdir()}
    assert lists == {"train.txt": "one\n", "trainval.txt": "one\n"}


def test_an_image_in_trainval_alone_has_that_split(tmp_path: Path) -> None:
    (image,) = formats.read(voc(tmp_path / "v", trainval="one\n"), annotations_only=True).images()
    assert image.split == "trainval"


def test_corners_follow_a_box_that_was_moved(tmp_path: Path) -> None:
    document = formats.read(voc(tmp_path / "v"), annotations_only=True)
    (old,) = document.boxes()
    moved = Box(id=0, image_id=0, category_id=0, xyxy=(9.0, 9.0, 20.0, 20.0), extra=old.extra)
    changed = Document(format="voc", categories=document.categories, images=document.images, boxes=lambda: [moved])
    formats.write(changed, tmp_path / "out", "voc")
    (again,) = formats.read(tmp_path / "out", annotations_only=True).boxes()
    assert again.xyxy == moved.xyxy


def test_every_caption_gets_a_line_and_a_phrase_without_caption_keeps_its_box(tmp_path: Path) -> None:
    image = Image(id=0, file_name="one.jpg", width=160, height=120)
    box = Box(id=0, image_id=0, xyxy=(1.0, 2.0, 30.0, 40.0))
    texts = [Phrase(id=0, image_id=0, text="a table"), Phrase(id=1, image_id=0, text="a red mug", box_ids=(0,))]
    document = Document(format="x", categories=[], images=lambda: [image], boxes=lambda: [box], phrases=lambda: texts)
    assert formats.write(document, tmp_path / "out", "odvg") == []
    again = formats.read(tmp_path / "out", annotations_only=True)
    assert [p.text for p in again.phrases() if p.parent_id is None] == ["a table", "a red mug"]
    assert [b.xyxy for b in again.boxes()] == [box.xyxy] and again.faults == []


# From one format to another


def test_fields_of_a_source_cannot_lead_an_export_out_of_its_folder(tmp_path: Path) -> None:
    source = coco(
        image={"stem": "../../../stolen", "tags": [["x", "y"]], "attributes": {"a": 1}}, annotation={"tags": 5}
    )
    document = formats.read(written(tmp_path / "a.json", source), annotations_only=True)
    losses = formats.write(document, tmp_path / "deep/er/out", "voc")
    assert not list(tmp_path.rglob("stolen*"))
    assert (tmp_path / "deep/er/out/Annotations/one.xml").is_file()
    assert "2 records with unknown fields" in losses


def test_what_only_the_source_can_hold_is_counted_and_not_written(tmp_path: Path) -> None:
    document = formats.read(voc(tmp_path / "v", test="one\n"), annotations_only=True)
    assert formats.write(document, tmp_path / "out", "coco") == ["1 boxes with fields that only voc has"]
    (annotation,) = json.loads((tmp_path / "out/test.json").read_text())["annotations"]
    assert set(annotation) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}


def test_names_that_would_meet_in_one_file_are_kept_apart(tmp_path: Path) -> None:
    images = [
        Image(id=i, file_name=name, width=9, height=9) for i, name in enumerate(("a/b.jpg", "a_b.jpg", "a_b.png"))
    ]
    document = Document(format="x", categories=[], images=lambda: images, boxes=list)
    formats.write(document, tmp_path / "out", "voc")
    again = formats.read(tmp_path / "out", annotations_only=True)
    assert {image.file_name for image in again.images()} == {image.file_name for image in images}


@pytest.mark.parametrize("name", [" mug", "a\x0bb", "two\nlines"])
def test_a_class_name_that_xml_would_change_is_refused(tmp_path: Path, name: str) -> None:
    image = Image(id=0, file_name="a.jpg", width=9, height=9)
    document = Document(format="x", categories=[Category(id=0, name=name)], images=lambda: [image], boxes=list)
    with pytest.raises(WinnowError, match="VOC cannot hold"):
        formats.write(document, tmp_path / "out", "voc")


def test_two_pictures_of_one_name_are_not_written_over_each_other(tmp_path: Path) -> None:
    images = [
        Image(id=i, file_name="a.jpg", width=9, height=9, split=split) for i, split in enumerate(("train", "val"))
    ]
    files = {image.id: tmp_path / image.split / "a.jpg" for image in images}
    document = Document("x", [], lambda: images, list, file_of=lambda image: files[image.id])
    with pytest.raises(WinnowError, match="Two different images"):
        formats.write(document, tmp_path / "out", "coco")


# Layouts


def test_the_layout_of_coco_itself_is_understood(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for number, split in enumerate(("train", "val")):
        (tmp_path / f"{split}2017").mkdir()
        picture(tmp_path / f"{split}2017/one.jpg", seed=number)
        for kind in ("instances", "captions", "person_keypoints"):
            written(tmp_path / f"annotations/{kind}_{split}2017.json", coco())
    document = formats.read(tmp_path)
    assert document.faults == []
    places = {image.split: document.file_of(image) for image in document.images()}
    assert places == {split: tmp_path / f"{split}2017/one.jpg" for split in ("train", "val")}


def test_a_split_with_other_categories_is_left_out_and_never_relabelled(tmp_path: Path, store: Store) -> None:
    written(tmp_path / "train.json", coco())
    written(tmp_path / "val.json", coco(category={"name": "dog"}))
    document = formats.read(tmp_path, annotations_only=True)
    assert [fault.item for fault in document.faults] == ["categories"]
    dataset = store.datasets.import_document(document, "train only", skip_bad=True)
    assert store.datasets.splits(dataset.id) == {"train": 1} and dataset.boxes == 1


# One transaction


def rows(store: Store) -> dict[str, int]:
    tables = ("dataset", "image", "category", "box", "phrase", "phrase_box", "quarantine")
    with store._database.read() as connection:
        return {t: connection.exec_driver_sql(f"SELECT count(*) FROM {t}").scalar() or 0 for t in tables}


def test_a_source_that_breaks_in_the_middle_leaves_nothing_behind(tmp_path: Path, store: Store) -> None:
    sound = small_document(tmp_path / "files")

    def broken() -> Any:
        yield from list(sound.boxes())[:5]
        raise OSError("the disk went away")

    half = Document("coco", sound.categories, sound.images, broken, file_of=sound.file_of)
    with pytest.raises(OSError):
        store.datasets.import_document(half, "half")
    assert set(rows(store).values()) == {0}
    assert store.datasets.import_document(sound, "half").boxes == 12


def test_a_name_is_taken_once(store: Store, dataset: Dataset, tmp_path: Path) -> None:
    before = rows(store)
    for name, words in ((dataset.name, "exists already"), ("  ", "needs a name")):
        with pytest.raises(WinnowError, match=words):
            store.datasets.import_document(small_document(tmp_path / "again"), name)
    assert rows(store) == before


def test_skipping_the_bad_imports_the_good_and_remembers_the_rest(tmp_path: Path, store: Store) -> None:
    good, bad = ({"id": i, "file_name": f"{i}.jpg", "width": 160, "height": 120} for i in (1, 2))
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4]} for i in (1, 2)]
    picture(tmp_path / "1.jpg", seed=1)
    source = written(tmp_path / "a.json", coco(images=[good, bad], annotations=boxes))
    document = formats.read(source)
    with pytest.raises(BadDataset, match="2.jpg"):
        store.datasets.import_document(document, "part")
    assert set(rows(store).values()) == {0}
    dataset = store.datasets.import_document(document, "part", skip_bad=True)
    assert (dataset.images, dataset.boxes) == (1, 1)  # the box of the missing image went with it
    assert store.datasets.faults(dataset.id) == document.faults
    (image,) = store.datasets.images(dataset.id)
    assert image.digest in store.blobs


def test_with_nothing_good_nothing_is_imported(tmp_path: Path, store: Store) -> None:
    document = formats.read(written(tmp_path / "a.json", coco()))
    with pytest.raises(BadDataset):
        store.datasets.import_document(document, "none", skip_bad=True)
    assert set(rows(store).values()) == {0}


def test_progress_reaches_the_number_of_images(tmp_path: Path, store: Store) -> None:
    seen: list[tuple[int, int]] = []
    store.datasets.import_document(small_document(tmp_path / "f"), "counted", progress=lambda *step: seen.append(step))
    assert seen[-1] == (6, 6)


# Asking


@pytest.fixture
def two(store: Store, tmp_path: Path, dataset: Dataset) -> tuple[Dataset, Dataset]:
    return dataset, store.datasets.import_document(small_document(tmp_path / "more", images=3), "second")


def test_two_data_sets_do_not_mix(store: Store, two: tuple[Dataset, Dataset]) -> None:
    first, second = ({image.id for image in store.datasets.document(d.id).images()} for d in two)
    assert (len(first), len(second)) == (6, 3) and not first & second
    assert {b.image_id for b in store.datasets.document(two[1].id).boxes()} == second
    assert {p.image_id for p in store.datasets.document(two[1].id).phrases()} == second
    assert store.datasets.image_ids(two[1].id) == sorted(second)


def test_a_split_can_be_had_alone(store: Store, dataset: Dataset) -> None:
    document = store.datasets.document(dataset.id, split="test")
    images = [image.id for image in document.images()]
    assert images == store.datasets.image_ids(dataset.id, "test") and len(images) == 2
    assert (
        {box.image_id for box in document.boxes()} == {phrase.image_id for phrase in document.phrases()} == set(images)
    )
    assert list(store.datasets.document(dataset.id, split="none").boxes()) == []


def test_pages_of_images_follow_each_other(store: Store, dataset: Dataset) -> None:
    seen: list[int] = []
    while page := store.datasets.images(dataset.id, after=seen[-1] if seen else 0, limit=4):
        seen += [image.id for image in page]
    assert seen == store.datasets.image_ids(dataset.id)


def test_classes_are_counted(store: Store, tmp_path: Path) -> None:
    images = [Image(id=i, file_name=f"{i}.jpg", width=99, height=99, split="ab"[i % 2]) for i in range(4)]
    boxes = [Box(id=i, image_id=i % 3, category_id=0, xyxy=(1.0, 1.0, 5.0, 5.0)) for i in range(6)]
    names = [Category(id=0, name="often"), Category(id=1, name="never")]
    dataset = store.datasets.import_document(Document("x", names, lambda: images, lambda: boxes), "counted")
    counted = [(c.name, n, of) for c, n, of in store.datasets.class_histogram(dataset.id)]
    assert counted == [("often", 6, 3), ("never", 0, 0)]
    assert [n for _, n, _ in store.datasets.class_histogram(dataset.id, "b")] == [2, 0]
    often = store.datasets.categories(dataset.id)[0]
    assert [i.file_name for i in store.datasets.images(dataset.id, category_id=often.id)] == ["0.jpg", "1.jpg", "2.jpg"]


def test_boxes_come_in_file_order_though_their_images_alternate(store: Store) -> None:
    images = [Image(id=i, file_name=f"{i}.jpg", width=99, height=99) for i in range(2)]
    boxes = [Box(id=i, image_id=i % 2, xyxy=(1.0, 1.0, 5.0 + i, 5.0), source_id=90 - i) for i in range(5)]
    dataset = store.datasets.import_document(Document("x", [], lambda: images, lambda: boxes), "alternating")
    assert [box.source_id for box in store.datasets.document(dataset.id).boxes()] == [90, 89, 88, 87, 86]


def test_a_deleted_data_set_leaves_no_row_and_the_other_alone(store: Store, two: tuple[Dataset, Dataset]) -> None:
    before = rows(store)
    store.datasets.delete(two[0].id)
    after = rows(store)
    assert (before["box"], after["box"], after["dataset"], after["image"]) == (18, 6, 1, 3)
    with pytest.raises(NotFound, match="second"):
        store.datasets.get(two[0].name)


def test_asking_for_what_is_not_there_says_so(store: Store, dataset: Dataset) -> None:
    calls: list[Callable[[int], Any]] = [
        store.datasets.image,
        store.datasets.box,
        store.datasets.phrase,
        store.datasets.get,
    ]
    for ask in calls:
        with pytest.raises(NotFound):
            ask(10**6)
    assert store.datasets.boxes_of([10**6]) == {10**6: []}


def test_more_ids_than_a_query_takes_can_be_asked_for(store: Store, dataset: Dataset) -> None:
    ids = [*store.datasets.image_ids(dataset.id), *range(10**6, 10**6 + 40_000)]
    assert sum(map(len, store.datasets.boxes_of(ids).values())) == 12
    assert sum(map(len, store.datasets.phrases_of(ids).values())) == 12


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_images_beside_a_link_to_the_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    picture(tmp_path / "real/one.jpg", seed=1)
    written(tmp_path / "real/a.json", coco())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert formats.read(tmp_path / "link/a.json").faults == []


def test_a_fault_reads_as_a_sentence() -> None:
    fault = Fault(file="a.json", item="image id 1 (#0)", seen="size 0 x 1", expected="whole pixels")
    assert str(fault) == "a.json: image id 1 (#0): size 0 x 1; expected whole pixels"

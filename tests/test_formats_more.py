"""LVIS, YOLO, OmniLabel, D3, Flickr30k Entities, RefCOCO and zips: round trips, faults, the official readers."""

from __future__ import annotations

import json
import pickle
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
import yaml
from conftest import picture, small_document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_formats import content, through_the_store

from db import formats
from db.errors import BadDataset, WinnowError
from db.formats import flickr30k, jsonstream, yolo
from db.records import Box
from db.store import Store

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZE = (160, 120)  # of every picture here
RLE = {"size": [120, 160], "counts": "abc"}


def lvis() -> dict[str, Any]:
    v1 = {"id": 5, "coco_url": "http://images.example/val2017/x.jpg", "width": 160, "height": 120}
    marks = {"neg_category_ids": [3], "not_exhaustive_category_ids": [2]}
    words = {"synset": "mug.n.01", "synonyms": ["mug", "cup"], "def": "a vessel", "image_count": 1}
    return {
        "info": {"year": 2026},
        "images": [{**v1, **marks}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 2, "bbox": [1, 2, 30.5, 40], "area": 9.5}],
        "categories": [
            {"id": 2, "name": "mug", "frequency": "r", **words},
            {"id": 3, "name": "ball", "frequency": "f"},
        ],
    }


def omnilabel(own: Callable[[int], int | str] = int) -> dict[str, Any]:
    """A file whose ids are what `own` makes of numbers."""
    kind = {"anno_info": {"type": "object_description"}}
    sized = {"file_name": "y.jpg", "width": 160, "height": 120}
    whole = {"id": own(1), "text": "mug", "image_ids": [own(6), own(5)], "anno_info": {"type": "object_category"}}
    return {
        "info": {"version": "1"},
        "images": [{"id": own(5), "file_name": "x.jpg"}, {"id": own(6), **sized}],
        "descriptions": [
            whole,
            {"id": own(2), "text": "a red mug", "image_ids": [own(5)], **kind},
            {"id": own(7), "text": "asked of nothing", "image_ids": [], **kind},
        ],
        "annotations": [
            {"id": own(9), "image_id": own(5), "bbox": [1, 2, 30.5, 40], "description_ids": [own(2), own(1)]},
            {"id": own(10), "image_id": own(5), "bbox": [1, 2, 3, 4], "description_ids": [], "note": "n"},
        ],
    }


def instances() -> dict[str, Any]:
    box = {"bbox": [1, 2, 30.5, 40], "area": 10, "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    return {
        "info": {"year": 2014},
        "images": [{"id": 5, "file_name": "x.jpg", "width": 160, "height": 120}],
        "annotations": [{"id": 9, "image_id": 5, "category_id": 3, **box}],
        "categories": [{"id": 3, "name": "mug", "supercategory": "kitchen"}],
    }


def references() -> list[dict[str, Any]]:
    sentences = [
        {"tokens": ["the", "mug"], "raw": "The mug!", "sent_id": 0, "sent": "the mug"},
        {"tokens": ["left"], "raw": "left", "sent_id": 1, "sent": "left"},
    ]
    known = {"sent_ids": [0, 1], "file_name": "x_9.jpg", "ann_id": 9, "ref_id": 0, "image_id": 5, "category_id": 3}
    return [{**known, "split": "testA", "sentences": sentences}]


def d3() -> dict[str, Any]:
    image = {"id": 0, "file_name": "x.jpg", "width": 160, "height": 120, "anno_id": [1], "group_id": 4, "license": "by"}
    mask = {"segmentation": [{**RLE, "counts": b"abc"}], "area": 7, "iscrowd": 0}
    box = {"id": 1, "sent_id": [11], "image_id": 0, "bbox": [[1, 2, 30, 40]], "group_id": 4, **mask}
    texts = {11: "a dog", 12: "a dog without a leash"}
    lists = {"pos_sent_id": [11], "inner_sent_id": [11, 12], "outer_sent_id": [], "img_id": [0], "scene": ["park"]}
    return {
        "sentences": {
            key: {
                "id": key,
                "anno_id": [1] if key == 11 else [],
                "group_id": [4],
                "is_negative": key == 12,
                "raw_sent": t,
            }
            for key, t in texts.items()
        },
        "annotations": {1: box},
        "images": {0: image},
        "groups": {4: {"id": 4, **lists, "group_name": "dogs"}},
    }


def d3_folder(folder: Path, tables: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(table))
    return folder


XML = (
    "<annotation><filename>7.jpg</filename><size><width>160</width><height>120</height><depth>3</depth></size>"
    "<object><name>1</name><name>2</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
    "<object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object></annotation>"
)
SENTENCES = (
    "[/EN#1/people Two men] see [/EN#3/scene the  park] .\nA [/EN#2/people/other man] , [/EN#0/notvisual who] .\n"
)


def flickr_folder(folder: Path, xml: str = XML, sentences: str = SENTENCES) -> Path:
    for kind, text in (("Annotations/7.xml", xml), ("Sentences/7.txt", sentences), ("test.txt", "7\n")):
        (folder / kind).parent.mkdir(parents=True, exist_ok=True)
        (folder / kind).write_text(text)
    return folder


def yolo_folder(folder: Path, rows: str = "0 0.5 0.5 0.25 0.123456789\n", **fields: Any) -> Path:
    for place in ("images/train", "labels/train"):
        (folder / place).mkdir(parents=True)
    picture(folder / "images/train/a.jpg", seed=1)
    picture(folder / "images/train/b.jpg", seed=2)
    (folder / "labels/train/a.txt").write_text(rows)
    known = {"train": "images/train", "val": "images/train", "names": {0: "mug", 1: "ball"}, "nc": 2}
    (folder / "data.yaml").write_text(yaml.safe_dump({**known, **fields}))
    return folder


# Round trips


def test_lvis_comes_back_as_it_was(tmp_path: Path, store: Store) -> None:
    (tmp_path / "val.json").write_text(json.dumps(lvis()))
    document = formats.read(tmp_path / "val.json", annotations_only=True)
    assert (document.format, document.faults) == ("lvis", [])
    assert [image.file_name for image in document.images()] == ["val2017/x.jpg"]
    again = through_the_store(store, document, tmp_path / "out", "lvis")
    assert content(again) == content(document)
    assert json.loads((tmp_path / "out/val.json").read_text()) == lvis()


REAL = Path(__file__).parents[2] / "shared/data/lvis/lvis_val_100.json"


@pytest.mark.skipif(not REAL.exists(), reason="the LVIS sample is not here")
def test_a_real_lvis_file_comes_back_as_it_was(tmp_path: Path, store: Store) -> None:
    document = formats.read(REAL, annotations_only=True)
    assert (document.format, document.faults) == ("lvis", [])
    through_the_store(store, document, tmp_path / "out", "lvis")
    assert json.loads((tmp_path / "out/val.json").read_text()) == json.loads(REAL.read_text())


def test_omnilabel_comes_back_as_it_was(tmp_path: Path, store: Store) -> None:
    for seed, name in enumerate("xy"):
        picture(tmp_path / f"{name}.jpg", seed=seed)
    (tmp_path / "val.json").write_text(json.dumps(omnilabel()))
    document = formats.read(tmp_path / "val.json")
    assert (document.format, document.faults) == ("omnilabel", [])
    assert [(p.text, p.holds) for p in document.phrases()] == [("mug", False), ("mug", True), ("a red mug", True)]
    dataset = store.datasets.import_document(document, "ol")
    assert formats.write(store.datasets.document(dataset.id), tmp_path / "out", "omnilabel") == []
    assert json.loads((tmp_path / "out/val.json").read_text()) == omnilabel()
    assert content(formats.read(tmp_path / "out")) == content(document)


@pytest.mark.parametrize("own", [int, "t{}".format, lambda number: number if number % 2 else str(number)])
@pytest.mark.parametrize("keys", list(permutations(("images", "descriptions", "annotations"))))
def test_omnilabel_may_have_its_lists_in_any_order_and_texts_as_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Callable[[int], int | str], keys: tuple[str, ...]
) -> None:
    monkeypatch.setattr(jsonstream, "CHUNK", 64)
    picture(tmp_path / "x.jpg", seed=1)
    source = omnilabel(own)
    turned = {**{key: source[key] for key in keys}, "info": source["info"]}
    document = formats.read(write_json(tmp_path, turned), format="omnilabel", annotations_only=True)
    assert document.faults == []
    asked = [("mug", 1, ()), ("mug", 0, (0,)), ("a red mug", 0, (0,))]
    assert [(phrase.text, phrase.image_id, phrase.box_ids) for phrase in document.phrases()] == asked
    formats.write(document, tmp_path / "out", "omnilabel", with_images=False)
    assert json.loads((tmp_path / "out/annotations.json").read_text()) == source


def test_boxes_drawn_in_an_omnilabel_file_without_any_are_written(tmp_path: Path) -> None:
    picture(tmp_path / "x.jpg", seed=1)
    source = {key: value for key, value in omnilabel().items() if key != "annotations"}
    document = formats.read(write_json(tmp_path, source), format="omnilabel", annotations_only=True)
    formats.write(document, tmp_path / "same", "omnilabel", with_images=False)
    assert json.loads((tmp_path / "same/annotations.json").read_text()) == source
    drawn = Box(id=0, image_id=1, xyxy=(1.0, 2.0, 4.0, 6.0))
    formats.write(replace(document, boxes=lambda: [drawn]), tmp_path / "more", "omnilabel", with_images=False)
    added = {"id": 1, "image_id": 6, "bbox": [1.0, 2.0, 3.0, 4.0], "description_ids": []}
    assert json.loads((tmp_path / "more/annotations.json").read_text()) == {**source, "annotations": [added]}


@pytest.mark.parametrize("missing", ["images", "descriptions"])
def test_omnilabel_without_images_or_descriptions_cannot_be_read(tmp_path: Path, missing: str) -> None:
    source = {key: value for key, value in omnilabel().items() if key != missing}
    with pytest.raises(BadDataset, match=f"no {missing}"):
        formats.read(write_json(tmp_path, source), format="omnilabel")


@pytest.mark.parametrize("name", ["refs(unc).p", "refs(unc).json"])
def test_refcoco_comes_back_as_it_was(tmp_path: Path, store: Store, name: str) -> None:
    (tmp_path / "instances.json").write_text(json.dumps(instances()))
    dumped = pickle.dumps(references(), protocol=2) if name.endswith("p") else json.dumps(references()).encode()
    (tmp_path / name).write_bytes(dumped)
    document = formats.read(tmp_path, annotations_only=True)
    assert (document.format, document.faults) == ("refcoco", [])
    again = through_the_store(store, document, tmp_path / "out", "refcoco")
    assert content(again) == content(document)
    assert json.loads((tmp_path / "out/refs(winnow).json").read_text()) == references()
    assert json.loads((tmp_path / "out/instances.json").read_text()) == instances()


def test_a_reference_whose_phrases_got_different_boxes_is_written_as_several(tmp_path: Path) -> None:
    whole = instances()
    whole["annotations"].append(whole["annotations"][0] | {"id": 10})
    (tmp_path / "instances.json").write_text(json.dumps(whole))
    (tmp_path / "refs(unc).json").write_text(json.dumps(references()))
    document = formats.read(tmp_path, annotations_only=True)
    first, second = document.phrases()
    moved = [first, msgspec.structs.replace(second, box_ids=(1,))]
    formats.write(replace(document, phrases=lambda: moved), tmp_path / "out", "refcoco")
    again = formats.read(tmp_path / "out", annotations_only=True)
    assert again.faults == [] and [phrase.box_ids for phrase in again.phrases()] == [(0,), (1,)]
    written = json.loads((tmp_path / "out/refs(winnow).json").read_text())
    assert [(ref["ref_id"], ref["ann_id"]) for ref in written] == [(0, 9), (1, 10)]


def test_d3_comes_back_as_it_was_with_arrays_as_lists(tmp_path: Path, store: Store) -> None:
    arrays = d3()
    arrays["annotations"][1]["bbox"] = np.array(arrays["annotations"][1]["bbox"])
    document = formats.read(d3_folder(tmp_path / "in", arrays), annotations_only=True)
    assert (document.format, document.faults) == ("d3", [])
    assert [(p.text, p.holds) for p in document.phrases()] == [("a dog", True), ("a dog without a leash", False)]
    again = through_the_store(store, document, tmp_path / "out", "d3")
    assert content(again) == content(document)
    written = {name: (tmp_path / f"out/{name}.pkl").read_bytes() for name in d3()}
    assert {name: pickle.loads(data) for name, data in written.items()} == d3()  # noqa: S301 (our own)


def test_flickr30k_comes_back_tag_for_tag(tmp_path: Path, store: Store) -> None:
    document = formats.read(flickr_folder(tmp_path / "in"), annotations_only=True)
    assert (document.format, document.faults) == ("flickr30k", [])
    assert [box.xyxy for box in document.boxes()] == [(0.0, 1.0, 30.0, 40.0)]
    assert [(p.text, p.spans, p.box_ids) for p in document.phrases()][:2] == [
        ("Two men see the  park .", (), ()),
        ("Two men", ((0, 7),), (0,)),
    ]
    again = through_the_store(store, document, tmp_path / "out", "flickr30k")
    assert content(again) == content(document)
    assert (tmp_path / "out/Sentences/7.txt").read_text() == SENTENCES
    assert (tmp_path / "out/test.txt").read_text() == "7\n"
    tags = [(e.tag, (e.text or "").strip()) for e in ElementTree.parse(tmp_path / "out/Annotations/7.xml").iter()]
    assert tags == [(e.tag, e.text or "") for e in ElementTree.fromstring(XML).iter()]


fraction = st.floats(0.2, 0.8).map(lambda v: round(v, 6))
small = st.floats(0.01, 0.3).map(lambda v: round(v, 6))
boxes = st.lists(st.tuples(fraction, fraction, small, small), max_size=4)
polygons = st.lists(
    st.tuples(*[fraction] * 2, small, small).map(lambda p: (*p[:2], p[0] + p[2] / 2, p[1], p[0], p[1] + p[3] / 2)),
    max_size=3,
)


@quick
@given(boxes | polygons)
def test_yolo_comes_back_row_for_row(
    tmp_path_factory: pytest.TempPathFactory, store: Store, values: list[tuple[float, ...]]
) -> None:
    rows = "".join(f"{n % 2} {' '.join(map(str, row))}\n" for n, row in enumerate(values))
    folder = yolo_folder(tmp_path_factory.mktemp("yolo") / "in", rows, path="/gone/elsewhere")
    document = formats.read(folder)
    assert (document.format, document.faults) == ("yolo", [])
    assert len(list(document.images())) == 2
    dataset = store.datasets.import_document(document, str(folder))
    assert formats.write(store.datasets.document(dataset.id), folder.parent / "out", "yolo") == []
    assert (folder.parent / "out/labels/train/a.txt").read_text() == rows
    assert not (folder.parent / "out/labels/train/b.txt").exists()
    again = formats.read((folder.parent / "out").rename(folder.parent / "moved"))
    assert content(again) == content(document)


words = st.lists(st.text("ab,.'é", min_size=1, max_size=4), min_size=1, max_size=8)


@quick
@given(words, st.data())
def test_marks_of_a_sentence_are_taken_off_and_put_back(tokens: list[str], data: st.DataObject) -> None:
    text = " ".join(tokens)
    starts = [sum(len(token) + 1 for token in tokens[:n]) for n in range(len(tokens))]
    chosen = data.draw(st.lists(st.sampled_from(range(len(tokens))), unique=True).map(sorted))
    marks = [((starts[n], starts[n] + len(tokens[n])), str(n), ["people"]) for n in chosen]
    line = flickr30k.marked(text, marks)
    assert flickr30k.unmarked(line) == (text, marks)


# Layouts


@pytest.mark.parametrize(
    ("value", "base", "found"),
    [
        ("images/train", "", "images/train"),
        ("images/train", "/old/place/set", "images/train"),
        ("/old/place/set/images/train", "", "images/train"),
        ("C:\\old\\images\\train", "", "images/train"),
        ("../images/train", "", "images/train"),
        ("images/test", "", None),
        ("../../../etc", "", None),
    ],
)
def test_paths_of_a_moved_folder_are_followed(tmp_path: Path, value: str, base: str, found: str | None) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    assert yolo.inside(tmp_path, value, base) == (tmp_path / found if found else None)


def test_yolo_lists_and_neighbouring_folders_are_read(tmp_path: Path) -> None:
    for place in ("valid/images", "valid/labels"):
        (tmp_path / place).mkdir(parents=True)
    picture(tmp_path / "valid/images/a.jpg", seed=1)
    (tmp_path / "valid/labels/a.txt").write_text("0 0.5 0.5 1 1\n")
    (tmp_path / "some.txt").write_text("./valid/images/a.jpg\n")
    for value in ("../valid/images", "some.txt"):
        (tmp_path / "data.yaml").write_text(f"names: [mug]\nval: {value}\n")
        document = formats.read(tmp_path)
        assert document.faults == [] and [box.xyxy for box in document.boxes()] == [(0.0, 0.0, 160.0, 120.0)]
        assert [image.split for image in document.images()] == ["val"]


@pytest.mark.parametrize("format", formats.FORMATS)
def test_every_format_is_detected_and_read_from_a_zip(tmp_path: Path, format: str) -> None:
    formats.write(small_document(tmp_path / "files"), tmp_path / "out", format)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted((tmp_path / "out").rglob("*")):
            archive.write(path, f"set/{path.relative_to(tmp_path / 'out')}")
    assert formats.sniff(tmp_path / "out") == format
    document = formats.read(tmp_path / "all.zip")
    assert (document.format, document.faults) == (format, [])
    files = [document.file_of(image) for image in document.images()]
    assert len(files) == 6 and all(file is not None and file.is_file() for file in files)


# What is lost is told


@pytest.mark.parametrize(
    ("format", "lost"),
    [
        ("lvis", ["12 captions and phrases"]),
        ("yolo", ["12 captions and phrases", "18 ids of images and boxes", "2 class ids, which YOLO counts from 0"]),
        ("omnilabel", ["6 captions and phrases that hold but name no box"]),
        ("d3", ["6 captions and phrases that hold but name no box", "6 images of a split"]),
        ("refcoco", ["6 captions and phrases that do not name one box"]),
        ("flickr30k", ["18 ids of images and boxes", "6 boxes that no phrase names"]),
    ],
)
def test_an_export_says_what_is_lost(tmp_path: Path, store: Store, dataset: Any, format: str, lost: list[str]) -> None:
    assert formats.write(store.datasets.document(dataset.id), tmp_path / "out", format) == lost
    again = formats.read(tmp_path / "out")
    assert again.faults == []
    assert next(box.xyxy for box in again.boxes()) == pytest.approx((10.0, 10.0, 50.0, 60.0))


# Faults


def test_what_is_lost_is_written_beside_the_annotations_and_nothing_where_nothing_is(
    tmp_path: Path, store: Store, dataset: Any
) -> None:
    document = store.datasets.document(dataset.id)
    losses = formats.write(document, tmp_path / "coco", "coco")
    report = (tmp_path / "coco" / formats.REPORT).read_text()
    assert losses and all(f"- {loss}\n" in report for loss in losses)
    again = formats.read(tmp_path / "coco")
    assert not again.faults and formats.write(again, tmp_path / "again", "coco") == []
    assert not (tmp_path / "again" / formats.REPORT).exists()


def write_json(folder: Path, source: Any) -> Path:
    (folder / "x.json").write_text(json.dumps(source))
    return folder / "x.json"


def changed(source: Any, change: Callable[[Any], None]) -> Any:
    change(source)
    return source


LVIS_FAULTS: list[tuple[Callable[[Any], None], str]] = [
    (lambda s: s["images"][0].update(neg_category_ids=[99]), "ids of categories"),
    (lambda s: s["images"][0].update(neg_category_ids=None), "ids of categories"),
    (lambda s: s["images"][0].update(not_exhaustive_category_ids=[3]), "either absent or not boxed in full"),
    (lambda s: s["annotations"][0].update(category_id=3), "no box of a class that is verified to be absent"),
    (lambda s: s["categories"][0].update(frequency="x"), "r, c or f"),
    (lambda s: s["categories"][0].update(synonyms="mug"), "a list of texts"),
    (lambda s: s["images"][0].update(coco_url="http://a/../x.jpg"), "inside the folder"),
]


@pytest.mark.parametrize(("change", "expected"), LVIS_FAULTS)
def test_lvis_faults_are_named(tmp_path: Path, store: Store, change: Callable[[Any], None], expected: str) -> None:
    document = formats.read(write_json(tmp_path, changed(lvis(), change)), annotations_only=True)
    assert expected in document.faults[0].expected
    with pytest.raises(BadDataset):
        store.datasets.import_document(document, "bad")
    assert store.datasets.list() == []


OMNILABEL_FAULTS: list[tuple[Callable[[Any], None], str]] = [
    (lambda s: s["annotations"][0].update(description_ids=[77]), "descriptions asked of its image"),
    (lambda s: s["annotations"][1].update(description_ids=["x"]), "descriptions asked of its image"),
    (lambda s: s["descriptions"][1].update(image_ids=[6]), "descriptions asked of its image"),
    (lambda s: s["descriptions"].append(s["descriptions"][0]), "no other description"),
    (lambda s: s["annotations"].append(3), "an object"),
    (lambda s: s.update(annotations={}), "a list"),
    (lambda s: s["annotations"][0].update(bbox=[1, 1, 999, 9]), "inside its image"),
    (lambda s: s["annotations"][0].update(image_id=77), "id of a sound image"),
    (lambda s: s["annotations"][1].update(id=9), "no other annotation"),
    (lambda s: s["descriptions"][0].update(text=" "), "a text"),
    (lambda s: s["descriptions"][0].update(image_ids=[5, 77]), "ids of sound images"),
    (lambda s: s["images"][1].update(file_name="../y.jpg"), "inside the folder"),
]


@pytest.mark.parametrize(("change", "expected"), OMNILABEL_FAULTS)
def test_omnilabel_faults_are_named(tmp_path: Path, change: Callable[[Any], None], expected: str) -> None:
    picture(tmp_path / "x.jpg", seed=1)
    document = formats.read(write_json(tmp_path, changed(omnilabel(), change)), annotations_only=True)
    assert any(expected in fault.expected for fault in document.faults)


REFCOCO_FAULTS: list[tuple[Callable[[Any], None], str]] = [
    (lambda s: s[0].update(ann_id=77), "sound annotation"),
    (lambda s: s[0].update(image_id=77), "image of its annotation"),
    (lambda s: s[0].update(category_id=77), "category of its annotation"),
    (lambda s: s[0].update(split="../../x"), "train or testA"),
    (lambda s: s[0].update(sentences=[]), "at least one sentence"),
    (lambda s: s.append(s[0]), "no other reference"),
]


@pytest.mark.parametrize(("change", "expected"), REFCOCO_FAULTS)
def test_refcoco_faults_are_named(tmp_path: Path, change: Callable[[Any], None], expected: str) -> None:
    (tmp_path / "instances.json").write_text(json.dumps(instances()))
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(changed(references(), change)))
    assert expected in formats.read(tmp_path, annotations_only=True).faults[0].expected


D3_FAULTS: list[tuple[Callable[[Any], None], str]] = [
    (lambda s: s["annotations"][1].update(sent_id=[77]), "sound sentences"),
    (lambda s: s["annotations"][1].update(bbox=[1, 2, 3]), "four finite numbers"),
    (lambda s: s["images"][0].update(group_id=77), "sound group"),
    (lambda s: s["images"][0].update(file_name="/etc/passwd"), "inside the folder"),
    (lambda s: s["sentences"][11].update(raw_sent=5), "a text"),
    (lambda s: s["groups"][4].update(id=5), "its own id"),
]


@pytest.mark.parametrize(("change", "expected"), D3_FAULTS)
def test_d3_faults_are_named(tmp_path: Path, change: Callable[[Any], None], expected: str) -> None:
    document = formats.read(d3_folder(tmp_path / "in", changed(d3(), change)), annotations_only=True)
    assert any(expected in fault.expected for fault in document.faults)


@pytest.mark.parametrize(
    ("rows", "fields", "expected"),
    [
        ("9 0.5 0.5 0.1 0.1", {}, "one of the 2 classes"),
        ("0 0.5 0.5 0.1", {}, "three points"),
        ("0 50 50 10 10", {}, "fractions"),
        ("0 nan 0.5 0.1 0.1", {}, "three points"),
        ("0 0.5 0.5 0 0.1", {}, "positive width"),
        ("0 0.9 0.5 0.9 0.1", {}, "inside its image"),
        ("0 0.1 0.1 0.5 0.1 0.1 0.5\n0 0.5 0.5 0.1 0.1", {}, "either boxes or polygons"),
        ("", {"names": []}, "list of class names"),
        ("", {"nc": 7}, "as many as there are names"),
        ("", {"test": "images/test"}, "inside of it"),
        ("", {"test": "images"}, "every image in one split"),
    ],
)
def test_yolo_faults_are_named(tmp_path: Path, rows: str, fields: dict[str, Any], expected: str) -> None:
    document = formats.read(yolo_folder(tmp_path / "in", rows, **fields))
    assert any(expected in fault.expected for fault in document.faults)


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x", "!!python/object/apply:os.system [echo]", "names: [", "[1]", ""])
def test_yaml_with_more_than_plain_values_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(BadDataset, match=r"data\.yaml"):
        formats.read(tmp_path)


@pytest.mark.parametrize(
    ("xml", "sentences", "expected"),
    [
        (XML.replace("<xmax>30", "<xmax>999"), SENTENCES, "inside its image"),
        (XML.replace("<xmax>30", "<xmax>x"), SENTENCES, "finite numbers"),
        (XML.replace("7.jpg", "../7.jpg"), SENTENCES, "image file"),
        ("<!DOCTYPE a>" + XML, SENTENCES, "plain XML"),
        (XML, "A [/EN#1/people man [/EN#2/x with] hat] .", "none within another"),
    ],
)
def test_flickr30k_faults_are_named(tmp_path: Path, xml: str, sentences: str, expected: str) -> None:
    document = formats.read(flickr_folder(tmp_path / "in", xml, sentences), annotations_only=True)
    assert any(expected in fault.expected for fault in document.faults)


# Zips


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([("../a.json", b"{}")], "a path inside"),
        ([("/etc/a.json", b"{}")], "a path inside"),
        ([("C:\\a.json", b"{}")], "a path inside"),
        ([(link("a.json"), b"/etc/passwd")], "a plain file"),
        ([("a.json", b"{}"), ("A.json", b"{}")], "every name once"),
        ([("a.sh", b"")], "images and annotations only"),
        ([("inner.zip", b"")], "images and annotations only"),
        ([("a.json", b" " * 5_000_000)], "times as many"),
        ([], "1 to 200000 files"),
    ],
)
def test_a_hostile_zip_is_refused_before_anything_is_unpacked(
    tmp_path: Path, entries: list[tuple[Any, bytes]], expected: str
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data, zipfile.ZIP_DEFLATED)
    with pytest.raises(BadDataset) as caught:
        formats.read(tmp_path / "a.zip")
    assert expected in caught.value.faults[0].expected
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_a_zip_that_is_none_is_one_fault(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(BadDataset, match="intact zip"):
        formats.read(tmp_path / "a.zip")


# Official readers


def test_the_official_lvis_reader_takes_what_is_written(tmp_path: Path, store: Store, dataset: Any) -> None:
    official = pytest.importorskip("lvis").LVIS
    formats.write(store.datasets.document(dataset.id), tmp_path / "out", "lvis", with_images=False)
    read = official(str(tmp_path / "out/train.json"))
    assert len(read.get_ann_ids()) == 8 and {cat["frequency"] for cat in read.cats.values()} == {"r"}
    assert all(image["neg_category_ids"] == [] for image in read.imgs.values())


def test_the_official_d3_reader_takes_what_is_written(tmp_path: Path, store: Store, dataset: Any) -> None:
    official = pytest.importorskip("d_cube").D3
    formats.write(store.datasets.document(dataset.id), tmp_path / "out", "d3")
    read = official(str(tmp_path / "out/images"), str(tmp_path / "out"))
    (group,) = read.get_group_ids()
    asked = [sentence["raw_sent"] for sentence in read.load_sents(read.get_sent_ids(group_ids=[group]))]
    assert (len(read.get_img_ids()), len(read.get_anno_ids()), sorted(asked)) == (6, 12, ["a red mug", "ball", "mug"])


def test_pycocotools_takes_the_instances_of_refcoco(tmp_path: Path, store: Store, dataset: Any) -> None:
    official = pytest.importorskip("pycocotools.coco").COCO
    formats.write(store.datasets.document(dataset.id), tmp_path / "out", "refcoco", with_images=False)
    assert len(official(str(tmp_path / "out/instances.json")).getAnnIds()) == 12


def test_two_files_of_references_are_not_chosen_between(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text(json.dumps(instances()))
    for name in ("refs(unc).json", "refs(google).json"):
        (tmp_path / name).write_text(json.dumps(references()))
    with pytest.raises(WinnowError, match="import one"):
        formats.read(tmp_path)
    assert formats.read(tmp_path / "refs(unc).json", annotations_only=True).faults == []

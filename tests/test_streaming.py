"""Files that are longer than memory: read in chunks, with nothing lost at the seams, and faults told as of a whole file."""

from __future__ import annotations

import errno
import json
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from db import datasets, formats, spool
from db import document as documents
from db.codec import Firsts, box_of
from db.document import Document
from db.errors import BadDataset, DiskFull
from db.formats import annotations as noted
from db.formats import coco, ids, jsonstream, pickles, refcoco, writing
from db.formats.annotations import Annotation, Columns, _loose
from db.formats.jsonstream import Chunk, JsonFile
from db.records import Box, Category, Image, Phrase
from db.spool import Spool, in_order
from db.store import Store

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.sampled_from('ab{}[],:"\\é日 \n'), max_size=8)
scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
objects = st.dictionaries(texts, values, max_size=4)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonstream, "CHUNK", 48)
    monkeypatch.setattr(jsonstream, "SHORT", 8)
    monkeypatch.setattr(spool, "BLOCK", 4)
    monkeypatch.setattr(spool, "BUCKET", 10)
    monkeypatch.setattr(ids, "BUCKET", 3)


def together(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    file = JsonFile(path, "an object")
    for key, value in file.scan({"long": Any, "typed": Annotation}):
        if isinstance(value, Chunk):
            found.setdefault(key, []).extend(value.items)
            assert file.again(value.start, value.end, Any) == value.items
        else:
            found[key] = value
    return found


@quick
@given(
    st.lists(objects | scalars, max_size=9), st.dictionaries(texts, values, max_size=3), st.booleans(), st.booleans()
)
def test_chunks_together_are_the_list(
    tmp_path: Path, items: list[Any], others: dict[str, Any], plain: bool, indented: bool
) -> None:
    whole = {**others, "long": items, "last": 1}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(whole, ensure_ascii=plain, indent=1 if indented else None))
    assert together(path) == whole


@quick
@given(st.lists(objects, max_size=5), st.integers(0, 400), st.sampled_from([b"", b"}", b"\xff", b","]))
def test_a_broken_file_is_refused_where_python_refuses_it(
    tmp_path: Path, items: list[Any], place: int, wedge: bytes
) -> None:
    data = json.dumps({"long": items, "last": 1}).encode()
    broken = data[:place] + wedge + (data[place:] if wedge else b"")
    path = tmp_path / "a.json"
    path.write_bytes(broken)
    try:
        expected = json.loads(broken.decode())
    except ValueError:
        with pytest.raises(BadDataset, match=r"of \d+"):
            together(path)
    else:
        assert together(path) == expected


@quick
@given(st.lists(objects | scalars, max_size=9), st.booleans(), st.booleans())
def test_chunks_of_a_list_at_the_top_are_the_list(
    tmp_path: Path, items: list[Any], plain: bool, indented: bool
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(items, ensure_ascii=plain, indent=1 if indented else None), encoding="utf-8-sig")
    file = JsonFile(path, "a list")
    chunks = list(file.items(Any))
    assert [item for chunk in chunks for item in chunk.items] == items
    assert [item for chunk in chunks for item in file.again(chunk.start, chunk.end, Any)] == items


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ('{"a": []}', "a dict at the top"),
        ('"a"', "a str at the top"),
        ('[{"a": 1}] []', "Extra data at byte 11"),
        ('[{"a": 1}', r"delimiter at byte 9 of 9"),
        ('[{"a": 1} {"a": 2}]', "delimiter at byte 10"),
        ("", "at byte 0 of 0"),
    ],
)
def test_what_is_no_list_at_the_top_is_refused(tmp_path: Path, text: str, seen: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadDataset, match=seen):
        list(JsonFile(tmp_path / "a.json", "a list").items(Any))


def test_a_key_a_second_time_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"long": [], "long": [1]}')
    with pytest.raises(BadDataset, match="'long' a second time"):
        together(tmp_path / "a.json")


def test_a_broken_member_of_a_zip_is_told_by_its_name_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("annotations.json", '{"images": [')
    with pytest.raises(BadDataset) as caught:
        formats.read(tmp_path / "set.zip", annotations_only=True)
    assert [fault.file for fault in caught.value.faults] == [f"{tmp_path}/set.zip/annotations.json"]


def test_a_file_that_is_written_while_it_is_read_is_refused(tmp_path: Path, store: Store) -> None:
    document = formats.read(annotated(tmp_path / "a.json"), annotations_only=True)
    annotated(tmp_path / "a.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(BadDataset, match="changed while it was read"):
        store.datasets.import_document(document, "new", skip_bad=True)
    assert store.datasets.list() == []


def test_a_fault_with_a_character_that_cannot_be_stored_is_stored(tmp_path: Path, store: Store) -> None:
    whole = json.loads(annotated(tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({"\ud800": 1, "\0": "\ud800", **whole}))
    document = formats.read(tmp_path / "a.json", annotations_only=True)
    dataset = store.datasets.import_document(document, "odd", skip_bad=True)
    assert document.faults[0].item.startswith("the fields \\ud800, \\0") and dataset.images == 1


def test_without_room_for_what_is_put_aside_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = annotated(tmp_path / "a.json")
    monkeypatch.setattr(jsonstream, "CHUNK", 400)
    monkeypatch.setattr(os, "pwrite", raises(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(DiskFull, match="temporary file in .* the disk is full"):
        formats.read(path, annotations_only=True)


def raises(error: Exception) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise error

    return call


def image(number: int) -> Image:
    return Image(id=number, file_name=f"{number}.jpg", width=3, height=2, extra={"a": [None, "b"]})


@quick
@given(st.lists(st.integers(0, 60), max_size=60))
def test_a_spool_gives_back_what_it_got_in_any_order_asked_for(numbers: list[int]) -> None:
    kept: Spool[Image] = Spool(Image)
    for number in numbers:
        kept.append(image(number))
    assert [one.id for one in kept] == [one.id for one in kept] == numbers and len(kept) == len(numbers)
    assert [kept[place] for place in range(len(kept))] == [image(number) for number in numbers]
    assert [one.id for one in in_order(lambda: kept, Image, lambda one: one.id)] == sorted(numbers)


@quick
@given(
    st.lists(
        st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9) | texts | st.none(), max_size=5), max_size=9
    ),
    st.booleans(),
)
def test_ids_that_came_before_are_found_however_many_there_are(
    tmp_path: Path, blocks: list[list[Any]], numbers: bool
) -> None:
    kept = ids.IdList()
    given = [[own for own in block if isinstance(own, int) or not numbers] for block in blocks]
    for block in given:
        kept.extend(block)
    whole = list(chain.from_iterable(given))
    again = [place for place, own in enumerate(whole) if own is not None and own in whole[:place]]
    assert kept.repeated().tolist() == again and len(kept) == len(whole)
    place_of = ids.places_of(kept.arrays())
    assert all(place_of(own) == whole.index(own) for own in whole if own is not None)
    assert place_of("none of them") == -1


ODD: list[dict[str, Any]] = [
    {},
    {"id": "7"},
    {"iscrowd": None},
    {"segmentation": None},
    {"segmentation": [[1.5, 2, 3, 4, 5, 6]], "iscrowd": 1},
    {"area": None},
    {"note": {"by": "someone"}},
    {"bbox": [1, 1, 0, 4]},
    {"image_id": 9},
    {"id": 1},
]


def annotated(path: Path) -> Path:
    """A COCO file over several lines, with annotations of every kind, unsound ones among them."""
    known = {"image_id": 1, "category_id": 1, "bbox": [1.25, 2, 3, 4], "area": 12.0, "iscrowd": 0}
    items = [{"id": number, **known, **odd} for number, odd in enumerate(ODD * 3, 1)]
    for item in items:
        if item["iscrowd"] is None:
            del item["iscrowd"]
    image = {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}
    whole = {"images": [image], "annotations": items, "categories": [{"id": 1, "name": "cup"}]}
    path.write_text(json.dumps(whole, indent=1))
    return path


def test_annotations_are_the_same_rows_however_they_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, found = annotated(tmp_path / "a.json"), []
    for chunk, rows in ((48, 1), (400, 2), (10**6, 512)):
        monkeypatch.setattr(jsonstream, "CHUNK", chunk)
        monkeypatch.setattr(noted, "SLICE", rows)
        document = formats.read(path, annotations_only=True)
        found.append((list(document.box_rows(Firsts(5, 3, 2))), document.faults))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) == 3 * 7 - 2 and len(found[0][1]) == 3 * 3 + 2  # the id "7" is there once


sizes = st.floats(-9, 9).map(lambda size: round(size, 2))
usual = st.fixed_dictionaries(
    {
        "id": st.integers(0, 9) | texts,
        "image_id": st.just(1),
        "category_id": st.just(1),
        "bbox": st.tuples(*[sizes] * 4),
    },
    optional={"area": sizes, "iscrowd": st.integers(0, 1), "segmentation": st.none() | st.lists(sizes, max_size=3)},
)


@quick
@given(st.lists(st.tuples(usual, st.booleans()), min_size=1, max_size=9))
def test_a_row_made_by_columns_is_that_of_its_box_alone(chosen: list[tuple[dict[str, Any], bool]]) -> None:
    items = msgspec.json.decode(orjson.dumps([raw for raw, _ in chosen]), type=list[Annotation])
    some = [raw for raw, sound in chosen if sound]
    kept = msgspec.msgpack.encode(Columns.of(items))
    columns = msgspec.msgpack.decode(kept, type=Columns).only(np.array([sound for _, sound in chosen]))
    rows = chain.from_iterable(columns.rows(5, [3] * len(some), [2] * len(some)))
    assert list(map(box_of, rows)) == [_loose(number, raw, 3, 2) for number, raw in enumerate(some, 5)]


def test_a_mask_over_several_lines_is_written_as_it_was_read(tmp_path: Path, store: Store) -> None:
    document = formats.read(annotated(tmp_path / "a.json"), annotations_only=True)
    imported = store.datasets.import_document(document, "lines", skip_bad=True)
    formats.write(store.datasets.document(imported.id), tmp_path / "out", "coco")
    again = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]
    first, bad = json.loads((tmp_path / "a.json").read_text())["annotations"], {9, 10, 20, 30}
    kept = {one["id"]: one for one in first[:10] if one["bbox"][2] and one["image_id"] == 1}
    assert not bad & {one["id"] for one in again}
    assert {one["id"]: one for one in again if one["id"] in kept} == kept


def made(images: int, boxes: int = 4) -> Document:
    """Images with some boxes each, and a phrase for every fourth of these; both go round all images again and again."""
    pictures = [Image(id=i, file_name=f"{i}.jpg", width=90, height=90, source_id=i) for i in range(images)]
    classes = [Category(id=i, name=f"class {i}") for i in range(20)]
    shape = (1.0, 2.0, 30.0, 40.0)
    drawn = [Box(id=i, image_id=i % images, category_id=i % 20, xyxy=shape, source_id=i) for i in range(boxes * images)]
    said = [
        Phrase(id=i, image_id=i % images, text=f"cup {i // images}", box_ids=(i,)) for i in range(boxes // 4 * images)
    ]
    return Document("coco", classes, lambda: pictures, lambda: drawn, lambda: said)


def of_data_set(store: Store, dataset_id: int) -> Document:
    return store.datasets.document(dataset_id)


def of_snapshot(store: Store, dataset_id: int) -> Document:
    return store.snapshots.document(store.snapshots.freeze(f"snapshot {dataset_id}", dataset_id))


@pytest.mark.parametrize("source", [of_data_set, of_snapshot])
def test_samples_from_the_store_are_those_of_its_streams(
    store: Store, source: Callable[[Store, int], Document]
) -> None:
    document = source(store, store.datasets.import_document(made(7), "seven").id)
    plain = Document(
        document.format, document.categories, document.images, lambda: document.boxes(), lambda: document.phrases()
    )
    assert list(document.samples()) == list(plain.samples())
    assert [len(boxes) for _, boxes, _ in document.samples()] == [4] * 7


def peak(action: Callable[..., object], *args: Any, **named: Any) -> int:
    """The most memory, in bytes, that an action takes."""
    tracemalloc.start()
    try:
        action(*args, **named)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Bytes that may be kept of a box, and of an image with four boxes and a phrase; as records they take about 900 and 4000
OF_BOX, OF_IMAGE = 100, 1500


@pytest.mark.parametrize(
    ("format", "kept"), [("coco", 10), ("lvis", 10), *((format, OF_BOX) for format in ("odvg", "omnilabel", "d3"))]
)
def test_an_import_keeps_a_few_bytes_of_every_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, kept: int
) -> None:
    monkeypatch.setattr(jsonstream, "CHUNK", 2**13)
    monkeypatch.setattr(spool, "BLOCK", 64)
    monkeypatch.setattr(pickles, "ENTRIES", 10)
    peaks = []
    for boxes in (4, 20, 100):  # the first fills what Python keeps
        formats.write(made(40, boxes), tmp_path / f"{boxes}", format)
        peaks.append(peak(formats.read, tmp_path / f"{boxes}", format=format, annotations_only=True))
    assert peaks[2] - peaks[1] < kept * 40 * (100 - 20)


@pytest.mark.parametrize("format", ["voc", "yolo", "flickr30k"])
def test_an_import_of_a_file_for_each_image_keeps_some_bytes_of_every_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setattr(spool, "BLOCK", 64)
    peaks = []
    for images in (20, 100, 400):
        folder = tmp_path / f"{images}"
        formats.write(made(images, 20), folder, format)
        (folder / "images").mkdir(exist_ok=True)
        for number in range(images):
            Picture.new("RGB", (90, 90)).save(folder / f"images/{number}.jpg")
        peaks.append(peak(formats.read, folder, format=format, annotations_only=format != "yolo"))
    assert peaks[2] - peaks[1] < OF_IMAGE * (400 - 100)


@pytest.mark.parametrize("protocol", [None, 0, 2, 4])
def test_of_expressions_refcoco_keeps_a_few_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int | None
) -> None:
    """`protocol`: of the pickle; None for JSON."""
    monkeypatch.setattr(jsonstream, "CHUNK", 2**13)
    monkeypatch.setattr(spool, "BLOCK", 64)
    monkeypatch.setattr(pickles, "ENTRIES", 10)
    monkeypatch.setattr(refcoco, "BATCH", 10)
    peaks = []
    for boxes in (4, 20, 100):
        formats.write(made(40, boxes), tmp_path / f"{boxes}", "refcoco")
        if protocol is not None:
            path = tmp_path / f"{boxes}/refs(winnow).json"
            with path.with_suffix(".p").open("wb") as file:
                pickler = pickle._Pickler(file, protocol=protocol)  # type: ignore[attr-defined]
                pickler._BATCHSIZE = 10
                pickler.dump(json.loads(path.read_text()))
            path.unlink()
        peaks.append(peak(formats.read, tmp_path / f"{boxes}", annotations_only=True))
    assert peaks[2] - peaks[1] < OF_BOX * 40 * (100 - 20)


def test_of_boxes_that_no_expression_names_refcoco_keeps_a_few_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonstream, "CHUNK", 2**13)
    monkeypatch.setattr(spool, "BLOCK", 64)
    peaks = []
    for boxes in (4, 20, 100):
        document = made(40, boxes)
        named = replace(document, phrases=lambda document=document: islice(document.phrases(), 10))
        formats.write(named, tmp_path / f"{boxes}", "refcoco")
        peaks.append(peak(formats.read, tmp_path / f"{boxes}", annotations_only=True))
        assert len(list(formats.read(tmp_path / f"{boxes}", annotations_only=True).phrases())) == 10
    assert peaks[2] - peaks[1] < OF_BOX * 40 * (100 - 20)


def test_an_import_of_texts_with_boxes_keeps_a_few_bytes_of_every_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonstream, "CHUNK", 2**13)
    monkeypatch.setattr(spool, "BLOCK", 32)
    monkeypatch.setattr(spool, "BUCKET", 400)
    for number in range(40):
        Picture.new("RGB", (90, 90)).save(tmp_path / f"{number}.png")
    peaks = []
    for boxes in (4, 20, 100):
        places = [(f"{i % 40}.png", [1, 2, 3 + i / 99, 40]) for i in range(40 * boxes)]
        entries = [{"image": name, "caption": "a cup", "bbox": [box]} for name, box in places]
        path = tmp_path / f"{boxes}.json"
        path.write_text(json.dumps(entries))
        peaks.append(peak(formats.read, path, format="amc", annotations_only=True))
    assert peaks[2] - peaks[1] < OF_BOX * 40 * (100 - 20)


@pytest.mark.parametrize(
    ("source", "format"),
    [
        *((of_data_set, format) for format in formats.FORMATS),
        (of_snapshot, "odvg"),
        (of_snapshot, "omnilabel"),
    ],
)
def test_an_export_keeps_a_few_bytes_of_every_image(
    tmp_path: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    source: Callable[[Store, int], Document],
    format: str,
) -> None:
    for module in (datasets, coco):
        monkeypatch.setattr(module, "PAGE", 20)
    for module in (coco, writing):
        monkeypatch.setattr(module, "BUFFER", 512)
    monkeypatch.setattr(datasets, "CHUNK", 20)
    monkeypatch.setattr(documents, "TOGETHER", 20)
    monkeypatch.setattr(spool, "BUCKET", 100)
    peaks = []
    for images in (20, 100, 400):  # the first fills what Python and the database keep
        document = source(store, store.datasets.import_document(made(images), f"of {images}").id)
        peaks.append(peak(formats.write, document, tmp_path / f"{images}", format, with_images=False))
    assert peaks[2] - peaks[1] < OF_IMAGE * (400 - 100)

"""Reading images with captions: folders, JSON lines, parquet and tars."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image as Picture

from db import formats
from db.document import Document
from db.errors import WinnowError
from db.formats import pairs


def png(width: int = 12, height: int = 8) -> bytes:
    file = io.BytesIO()
    Picture.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def told(document: Document) -> list[tuple[str, tuple[int, int], list[str]]]:
    return [(i.file_name, (i.width, i.height), [p.text for p in said]) for i, _, said in document.samples()]


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_has_a_caption_for_each_line_of_the_text_beside_an_image(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.png").write_bytes(png())
    (tmp_path / "train" / "a.txt").write_text("a red mug\na mug on a table\n")
    (tmp_path / "b.png").write_bytes(png())
    assert formats.sniff(tmp_path) == "pairs"
    document = formats.read(tmp_path)
    assert told(document) == [("train/a.png", (12, 8), ["a red mug", "a mug on a table"])]
    assert [image.split for image in document.images()] == ["train"]
    assert [(fault.item, fault.seen) for fault in document.faults] == [("image 'b.png'", "no b.txt")]


def test_labels_of_yolo_are_no_captions(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(WinnowError, match="no format"):
        formats.sniff(tmp_path)


LINES = [
    ({"image": "a.png", "caption": "a red mug"}, None),
    ({"file_name": "a.png", "text": "another word for it", "similarity": 0.3}, None),
    ({"url": "https://example.org/a.png", "caption": "far away"}, "a URL"),
    ({"image": "http://example.org/a.png", "caption": "far away"}, "a URL"),
    ({"image": "../a.png", "caption": "outside"}, "'../a.png'"),
    ({"image": "gone.png", "caption": "gone"}, "no file"),
    ({"image": "a.png", "caption": " "}, "caption"),
    ({"image": "a.png", "caption": ["good", 3]}, "caption"),
    ({"caption": "of nothing"}, "image None"),
    ({"image": "b.png", "caption": "said to be larger", "width": 99, "height": 8}, "12 x 8"),
]


def test_every_bad_line_is_told_and_the_good_ones_go_on(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "pairs.jsonl").write_text("\n".join([*(json.dumps(line) for line, _ in LINES), "{"]))
    assert formats.sniff(tmp_path) == formats.sniff(tmp_path / "pairs.jsonl") == "pairs"
    document = formats.read(tmp_path / "pairs.jsonl")
    assert told(document) == [("a.png", (12, 8), ["a red mug", "another word for it"])]
    wanted = [seen for _, seen in LINES if seen]
    assert len(document.faults) == len(wanted) + 1
    for seen in wanted:
        assert any(seen in fault.seen for fault in document.faults), seen


def test_jsonl_of_odvg_stays_odvg(tmp_path: Path) -> None:
    line = {"filename": "a.png", "width": 1, "height": 1, "grounding": {"caption": "a", "regions": []}}
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    assert formats.sniff(tmp_path / "train.jsonl") == formats.sniff(tmp_path) == "odvg"


def test_a_tar_of_webdataset_is_read_by_the_names_of_its_members(tmp_path: Path) -> None:
    members = {
        "0001.png": png(),
        "0001.txt": b"a red mug",
        "x/0002.json": b'{"caption": "a bottle", "id": 7}',
        "x/0002.png": png(16, 9),
        "0003.txt": b"of nothing",
        "0004.cls": b"3",
        "../0005.png": png(),
        "../0005.txt": b"outside",
        "0006.png": b"no image",
        "0006.txt": b"broken",
    }
    document = formats.read(tar(tmp_path / "shard-0.tar", members))
    assert told(document) == [
        ("shard-0/0001.png", (12, 8), ["a red mug"]),
        ("shard-0/x/0002.png", (16, 9), ["a bottle"]),
    ]
    assert [image.extra for image in document.images()] == [{}, {"pair": {"id": 7}}]
    files = [document.file_of(image) for image in document.images()]
    assert all(file is not None and file.is_file() for file in files)
    seen = " ".join(f"{fault.item} {fault.seen}" for fault in document.faults)
    assert "out of the folder" in seen and "no image" in seen and "decoded" in seen
    assert not (tmp_path / "0005.png").exists() and not list(tmp_path.parent.glob("0005.*"))


def test_a_folder_of_tars_is_one_data_set_and_links_are_refused(tmp_path: Path) -> None:
    for shard in (0, 1):
        tar(tmp_path / f"{shard}.tar", {"a.png": png(), "a.txt": b"a red mug"})
    with tarfile.open(tmp_path / "2.tar", "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    document = formats.read(tmp_path)
    assert [name for name, _, _ in told(document)] == ["0/a.png", "1/a.png"]
    assert [fault.seen for fault in document.faults] == ["a link or a device"]


def test_a_broken_tar_is_one_fault(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"not a tar" * 100)
    assert ["not readable as a tar" in fault.seen for fault in formats.read(tmp_path / "a.tar").faults] == [True]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "find_spec", lambda name: None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(WinnowError, match="pip install pyarrow"):
        formats.read(tmp_path / "a.parquet")


def test_rows_of_parquet_hold_bytes_or_paths(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "b.png").write_bytes(png(5, 4))
    images = [{"bytes": png(), "path": None}, {"bytes": None, "path": "b.png"}, {"bytes": None, "path": None}]
    table = pyarrow.table({"image": images, "caption": ["a mug", "a bottle", "nothing"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    document = formats.read(tmp_path / "a.parquet")
    assert told(document) == [("a/00000000.png", (12, 8), ["a mug"]), ("b.png", (5, 4), ["a bottle"])]
    assert len(document.faults) == 1


def test_rows_are_understood_without_pyarrow_too(tmp_path: Path) -> None:
    reader = pairs.Reader([tmp_path])
    faults = formats.Faults("a.parquet")
    reader._row(faults, "row 0", "a/0", {"image": {"bytes": png(), "path": "x"}, "caption": "a mug", "score": 1})
    reader._row(faults, "row 1", "a/1", {"image": "https://example.org/a.png", "caption": "far"})
    assert told(reader.document()) == [("a/0.png", (12, 8), ["a mug"])]
    assert len(faults) == 1

"""What an export looks like, byte for byte. `python tests/test_golden.py` writes the files anew, to be read before a commit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from db import formats
from db.document import Document
from db.records import Box, Category, Image, Phrase

GOLDEN = Path(__file__).parent / "golden"


def document() -> Document:
    """Two splits, a mask, a crowd, a box without a class, a caption with phrases, a verified negative, unknown fields."""
    images = [
        Image(id=0, file_name="a.jpg", width=160, height=120, split="train", source_id=7, extra={"license": 2}),
        Image(id=1, file_name="b.jpg", width=64, height=48, split="test"),
    ]
    boxes = [
        Box(
            id=0,
            image_id=0,
            xyxy=(1.5, 2.0, 31.6, 42.25),
            wh=(30.1, 40.25),
            category_id=0,
            source_id=11,
            area=900.5,
            segmentation=b"[[1,2,3,4,5,6]]",
        ),
        Box(id=1, image_id=0, xyxy=(0.0, 0.0, 160.0, 120.0), category_id=1, crowd=True, extra={"note": "all of it"}),
        Box(id=2, image_id=0, xyxy=(5.0, 5.0, 25.0, 35.0)),
        Box(id=3, image_id=1, xyxy=(10.0, 10.0, 20.0, 30.0), category_id=1),
    ]
    phrases = [
        Phrase(id=0, image_id=0, text="a red mug and two balls"),
        Phrase(id=1, image_id=0, text="a red mug", parent_id=0, spans=((0, 9),), box_ids=(2,)),
        Phrase(id=2, image_id=0, text="a green mug", holds=False),
    ]
    return Document(
        format="coco",
        categories=[Category(id=0, name="mug", source_id=3, frequency="r"), Category(id=1, name="ball")],
        info={"splits": {"train": {"info": {"year": 2026}}}},
        images=lambda: images,
        boxes=lambda: boxes,
        phrases=lambda: phrases,
    )


def written(folder: Path, format: str) -> dict[str, bytes]:
    formats.write(document(), folder / "out", format, with_images=False)
    return {
        p.relative_to(folder / "out").as_posix(): p.read_bytes()
        for p in sorted((folder / "out").rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("format", formats.FORMATS)
def test_an_export_is_as_it_was(tmp_path: Path, format: str) -> None:
    folder = GOLDEN / format
    expected = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    assert expected and written(tmp_path, format) == expected


if __name__ == "__main__":
    for name in formats.FORMATS:
        with tempfile.TemporaryDirectory() as place:
            for file, data in written(Path(place), name).items():
                target = GOLDEN / name / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)

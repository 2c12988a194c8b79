"""Decoding in a limited child: what is hostile ends the child, and the next order is answered as if nothing had been."""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from db.blobs import Blobs
from db.errors import WinnowError
from db.formats import checks
from db.formats.checks import Faults
from db.limited import Limited
from studio.thumbs import Thumbs


@pytest.fixture(scope="module")
def child() -> Iterator[Limited]:
    environment = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    limited = Limited("limited_acts", "act", children=1)
    assert limited.ask("ready") == "ready"
    yield limited
    limited.close()
    os.environ.pop("PYTHONPATH") if environment is None else os.environ.update(PYTHONPATH=environment)


@pytest.mark.parametrize("order", [0, "text", b"\0\xff" * 40_000, [1, 2.5, None], {"a": [b""]}])
def test_orders_are_answered(child: Limited, order: Any) -> None:
    assert child.ask(order) == order


@pytest.mark.parametrize(
    ("order", "told"),
    [("die", "broke down"), ("crash", "broke down"), ("fill", "more memory")],
)
def test_what_ends_the_child_ends_nothing_else(child: Limited, order: str, told: str) -> None:
    with pytest.raises(WinnowError, match=told):
        child.ask(order)
    assert child.ask("next") == "next"


def test_words_for_people_come_through(child: Limited) -> None:
    with pytest.raises(WinnowError, match="^that is no image$"):
        child.ask("refuse")


def test_the_child_knows_no_secret_and_may_print(child: Limited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_TEST_KEY", "key")
    child.close()
    assert child.ask("secret") == "none"
    assert child.ask("print") == "print"


def test_what_takes_too_long_is_ended(child: Limited, monkeypatch: pytest.MonkeyPatch) -> None:
    child.ask("warm")
    monkeypatch.setattr(child, "_seconds", 0.2)
    with pytest.raises(WinnowError, match="longer than 0.2 s"):
        child.ask("hang")


# The images themselves


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG that claims a size, whatever it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


HOSTILE = {
    "bomb": png(60_000, 60_000, b"\0" * 10**6),
    "long": png(2**31 - 1, 1, b"\0"),
    "cut": png(100, 100, b"\0" * 30),
    "empty": b"",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "gif": b"GIF89a<script>alert(1)</script>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_are_faults_and_have_no_thumbnail(tmp_path: Path, name: str) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(HOSTILE[name])
    faults = Faults("a.json")
    assert not checks.check_picture(faults, "image 1", path, 100, 100)
    assert len(faults) == 1
    blobs = Blobs(tmp_path / "blobs")
    with pytest.raises(WinnowError):
        Thumbs(blobs, tmp_path / "thumbs").path(blobs.put(HOSTILE[name]), 160)
    assert not list((tmp_path / "thumbs").rglob("*.jpg"))


def test_a_sound_image_passes(tmp_path: Path) -> None:
    Picture.new("RGB", (100, 80)).save(tmp_path / "one.png")
    faults = Faults("a.json")
    assert checks.check_picture(faults, "image 1", tmp_path / "one.png", 100, 80)
    assert not faults

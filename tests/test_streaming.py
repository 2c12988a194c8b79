"""Files that are longer than memory: read in chunks, with nothing lost at the seams, and faults told as of a whole file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db import formats, spool
from db.errors import BadDataset
from db.formats import jsonstream
from db.formats.annotations import Annotation
from db.formats.jsonstream import Chunk, JsonFile
from db.records import Image
from db.spool import Spool, in_order

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

"""Vectors on disk: what was computed once is never computed again, whatever happened to the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.errors import WinnowError
from engine.backends.openclip import OpenCLIPEmbedder
from engine.embeddings import Embeddings, Region, Vectors
from tests.test_openclip import model_folder, some_images


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> OpenCLIPEmbedder:
    place = model_folder(tmp_path_factory.mktemp("openclip") / "model")
    return OpenCLIPEmbedder(model=str(place), device="cpu", batch_size=4)


class Counted:
    """An embedder that counts what it is asked for, and may give numbers that are none."""

    def __init__(self, inner: OpenCLIPEmbedder, spoil: int | None = None) -> None:
        self.inner, self.spoil = inner, spoil
        self.name, self.precision, self.width, self.batch_size = inner.name, inner.precision, inner.width, 4
        self.seen, self.read = 0, 0

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.seen += len(images)
        made = self.inner.images(images).copy()
        if self.spoil is not None:
            made[self.spoil] = np.nan
        return made

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        self.read += len(texts)
        return self.inner.texts(texts)


class Library:
    """Pictures by name that count how often each is read."""

    def __init__(self) -> None:
        self.pictures = dict(zip("abc", some_images((60, 80), (40, 50), (90, 33)), strict=True))
        self.loads: list[str] = []

    def load(self, digest: str) -> np.ndarray:
        self.loads.append(digest)
        if digest not in self.pictures:
            raise WinnowError(f"blob {digest} cannot be read")
        return self.pictures[digest]


REGIONS = [Region("a"), Region("a", (5, 5, 40, 30)), Region("b"), Region("a", (0, 0, 9, 9)), Region("c"), Region("b")]


def test_a_second_pass_asks_nothing_and_gives_the_same(tmp_path: Path, embedder: OpenCLIPEmbedder) -> None:
    library, counted = Library(), Counted(embedder)
    first = Embeddings(tmp_path, counted).images(REGIONS, library.load)
    assert counted.seen == 5 and sorted(library.loads) == ["a", "b", "c"]
    cuts = [library.pictures[r.digest] for r in REGIONS]
    cuts = [
        c if r.area is None else c[r.area[1] : r.area[3], r.area[0] : r.area[2]]
        for c, r in zip(cuts, REGIONS, strict=True)
    ]
    np.testing.assert_allclose(np.array(first), embedder.images(cuts), atol=1e-5)
    again = Embeddings(tmp_path, counted)
    assert np.array_equal(np.array(again.images(REGIONS, library.load)), np.array(first))
    assert counted.seen == 5 and len(library.loads) == 3


def test_texts_are_read_once(tmp_path: Path, embedder: OpenCLIPEmbedder) -> None:
    counted = Counted(embedder)
    first = Embeddings(tmp_path, counted).texts(["a mug", "a ball", "a mug"])
    again = Embeddings(tmp_path, counted).texts(["a ball", "a lamp", "a mug"])
    assert counted.read == 3 and np.array_equal(first[0], first[2]) and np.array_equal(again[0], first[1])
    assert Embeddings(tmp_path, counted).texts([]).shape == (0, embedder.width)


def test_fitting_in_threads_changes_nothing(embedder: OpenCLIPEmbedder) -> None:
    pictures = some_images((60, 80), (40, 50), (32, 32))
    np.testing.assert_allclose(
        embedder.images([embedder.fit(p) for p in pictures]), embedder.images(pictures), atol=1e-6
    )


def test_another_model_or_precision_has_its_own_vectors(tmp_path: Path, embedder: OpenCLIPEmbedder) -> None:
    one, other = Counted(embedder), Counted(embedder)
    other.precision = "fp16"
    for counted in (one, other):
        Embeddings(tmp_path, counted).images(REGIONS, Library().load)
    assert one.seen == other.seen == 5


def test_an_unreadable_picture_is_a_sentence_and_does_not_stop_the_others(
    tmp_path: Path, embedder: OpenCLIPEmbedder
) -> None:
    regions = [Region("gone"), Region("b"), Region("c", (500, 500, 510, 510)), Region("gone", (0, 0, 5, 5))]
    found = Embeddings(tmp_path, embedder).images(regions, Library().load)
    assert found[0] == found[3] == "blob gone cannot be read" and "outside the image" in found[2]
    assert isinstance(found[1], np.ndarray)


def test_a_number_that_is_none_is_refused_and_not_kept(tmp_path: Path, embedder: OpenCLIPEmbedder) -> None:
    with pytest.raises(WinnowError, match="number that is none for Region.*'b'"):
        Embeddings(tmp_path, Counted(embedder, spoil=1)).images([Region("a"), Region("b")], Library().load)
    sound = Counted(embedder)
    found = Embeddings(tmp_path, sound).images([Region("a"), Region("b")], Library().load)
    assert sound.seen == 2 and np.isfinite(np.array(found)).all()


def test_an_interrupted_pass_goes_on_where_it_was(tmp_path: Path, embedder: OpenCLIPEmbedder) -> None:
    regions = [Region("a", (0, 0, 10 + i, 20)) for i in range(10)]
    failing = Counted(embedder)

    def stops(images: Sequence[np.ndarray]) -> np.ndarray:
        if failing.seen >= 8:
            raise KeyboardInterrupt
        return Counted.images(failing, images)

    failing.images = stops  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        Embeddings(tmp_path, failing).images(regions, Library().load)
    counted = Counted(embedder)
    Embeddings(tmp_path, counted).images(regions, Library().load)
    assert counted.seen == 2


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def rows(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.float32)[:, None] * np.ones(3, np.float32)


@settings(deadline=None, max_examples=60)
@given(cut=st.tuples(st.integers(0, 200), st.integers(0, 80)), more=st.integers(1, 4))
def test_a_torn_tail_is_ignored_and_overwritten(
    tmp_path_factory: pytest.TempPathFactory, cut: tuple[int, int], more: int
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    Vectors(folder, 3).keep([key(i) for i in range(5)], rows(0, 5))
    for file, lost in zip(("keys", "vectors"), cut, strict=True):
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: max(len(data) - lost, 0)])
    left = min((folder / "keys").stat().st_size // 36, (folder / "vectors").stat().st_size // 12)
    vectors = Vectors(folder, 3)
    assert set(vectors.find([key(i) for i in range(5)])) == {key(i) for i in range(left)}
    vectors.keep([key(i) for i in range(10, 10 + more)], rows(10, more))
    for reader in (vectors, Vectors(folder, 3)):
        found = reader.find([key(i) for i in range(20)])
        assert set(found) == {key(i) for i in (*range(left), *range(10, 10 + more))}
        assert all((row == int.from_bytes(name, "big")).all() for name, row in found.items())


def test_a_damaged_vector_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    Vectors(tmp_path, 3).keep([key(0), key(1)], rows(0, 2))
    data = bytearray((tmp_path / "vectors").read_bytes())
    data[13] ^= 1
    (tmp_path / "vectors").write_bytes(data)
    vectors = Vectors(tmp_path, 3)
    assert set(vectors.find([key(0), key(1)])) == {key(0)}
    vectors.keep([key(1)], rows(1, 1))
    assert set(vectors.find([key(0), key(1)])) == {key(0), key(1)}


def test_two_writers_see_each_other(tmp_path: Path) -> None:
    one, other = Vectors(tmp_path, 3), Vectors(tmp_path, 3)
    one.keep([key(0)], rows(0, 1))
    other.keep([key(1)], rows(1, 1))
    one.keep([key(2)], rows(2, 1))
    assert (
        set(one.find([key(i) for i in range(3)]))
        == set(other.find([key(i) for i in range(3)]))
        == {key(0), key(1), key(2)}
    )

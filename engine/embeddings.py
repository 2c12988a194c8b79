"""Vectors of pictures and texts, kept on disk: a picture is shown to a model once, however often it is scored.

A cache is two files that only grow, one pair for each model and precision: `keys` (which vector this is, and a checksum of
it) and `vectors`. A record counts when it is whole in both; what a crash left behind it is cut off before the next is
written, and a vector that does not fit its checksum is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from db.errors import WinnowError
from engine.pixels import Rectangle, crop
from engine.roles import Embedder, PictureEmbedder

READERS = max(2, min(8, os.cpu_count() or 2))  # threads that decode and cut ahead of the model
T = TypeVar("T")
P = TypeVar("P")
R = TypeVar("R")
Load = Callable[[str], np.ndarray]  # the pixels of a blob
Fit = Callable[[np.ndarray], np.ndarray]
KEY = np.dtype([("key", "V32"), ("check", "<u4")])


class Region(NamedTuple):
    """What a vector is of: a rectangle of a blob's pixels, or all of them."""

    digest: str
    area: Rectangle | None = None


class Vectors:
    """Float32 vectors of one width by 32-byte key, in a folder that several processes may write to."""

    def __init__(self, folder: Path, width: int) -> None:
        self.width = width
        self._folder, self._keys, self._vectors = folder, folder / "keys", folder / "vectors"
        self._places: dict[bytes, int] = {}
        self._checks: np.ndarray = np.empty(0, "<u4")
        self._rows: np.ndarray = np.empty((0, width), "<f4")

    def find(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The vectors of those keys that are there."""
        if any(key not in self._places for key in keys):
            self._catch_up()
        found = {key: np.array(self._rows[place]) for key in keys if (place := self._places.get(key)) is not None}
        for key in [key for key, row in found.items() if zlib.crc32(row.tobytes()) != self._checks[self._places[key]]]:
            del found[key], self._places[key]
        return found

    def keep(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Append (n, width) vectors. Of two with one key, the later counts."""
        rows = np.ascontiguousarray(vectors, "<f4").reshape(len(keys), self.width)
        heads = np.array([(key, zlib.crc32(row.tobytes())) for key, row in zip(keys, rows, strict=True)], KEY)
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            whole = self._whole()
            for path, part in ((self._vectors, rows), (self._keys, heads)):
                size = whole * part.dtype.itemsize * (part.shape[1] if part.ndim > 1 else 1)
                with path.open("ab") as file:
                    file.truncate(size)
                    file.write(part.tobytes())

    def _catch_up(self) -> None:
        """Read what was written since, by whomever."""
        whole, known = self._whole(), len(self._checks)
        if whole == known:
            return
        if whole < known:  # somebody emptied the cache
            self._places, self._checks, known = {}, self._checks[:0], 0
        heads = np.fromfile(self._keys, KEY, whole - known, offset=known * KEY.itemsize)
        self._places.update((bytes(key), known + i) for i, key in enumerate(heads["key"]))
        self._checks = np.concatenate((self._checks, heads["check"]))
        self._rows = np.memmap(self._vectors, "<f4", "r", shape=(whole, self.width))

    def _whole(self) -> int:
        """Records that are complete in both files."""
        sizes = ((self._keys, KEY.itemsize), (self._vectors, 4 * self.width))
        return min(path.stat().st_size // size if path.exists() else 0 for path, size in sizes)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Pictures:
    """A model of pictures that remembers, under `folder` (`home/cache/embeddings`)."""

    def __init__(self, folder: Path, embedder: PictureEmbedder) -> None:
        self.embedder = embedder
        name = hashlib.sha256(f"{embedder.name}\0{embedder.precision}".encode()).hexdigest()[:16]
        self._kept = Vectors(folder / name, embedder.width)

    def images(self, regions: Sequence[Region], load: Load) -> list[np.ndarray | str]:
        """The unit vector (width,) of each region, in order; a sentence instead where it could not be read.

        `load` gives the pixels of a blob; it is called from several threads, once for each blob with a region that is not
        known yet. Raises WinnowError when the model gives a number that is none."""
        known: dict[Region, np.ndarray | str] = dict(self._known({region: key_of(region) for region in regions}))
        missing = [region for region in dict.fromkeys(regions) if region not in known]
        fit = getattr(self.embedder, "fit", None) or (lambda image: image)
        cut = _cut_ahead(missing, load, fit)
        while some := list(islice(cut, self.embedder.batch_size)):
            seen = {region: pixels for region, pixels in some if not isinstance(pixels, str)}
            known |= {region: told for region, told in some if isinstance(told, str)}
            known |= self._new(seen, {region: key_of(region) for region in seen}, self.embedder.images)
        return [known[region] for region in regions]

    def _known(self, keys: dict[T, bytes]) -> dict[T, np.ndarray]:
        found = self._kept.find(list(keys.values()))
        return {item: found[key] for item, key in keys.items() if key in found}

    def _new(
        self, items: dict[T, P], keys: dict[T, bytes], make: Callable[[list[P]], np.ndarray]
    ) -> dict[T, np.ndarray]:
        if not items:
            return {}
        vectors = make(list(items.values()))
        if not np.isfinite(vectors).all():
            worst = list(items)[int(np.argmin(np.isfinite(vectors).all(1)))]
            raise WinnowError(f"The model {self.embedder.name} gave a vector with a number that is none for {worst}.")
        self._kept.keep([keys[item] for item in items], vectors)
        return dict(zip(items, vectors, strict=True))


class Embeddings(Pictures):
    """An embedder of pictures and texts that remembers both."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        super().__init__(folder, embedder)
        self._read = embedder.texts

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, width) unit vectors. Raises WinnowError when the model gives a number that is none."""
        keys = {text: hashlib.sha256(f"text\0{text}".encode()).digest() for text in texts}
        known = self._known(keys)
        missing = {text: text for text in keys if text not in known}
        known |= self._new(missing, keys, self._read)
        return np.array([known[text] for text in texts], np.float32).reshape(-1, self.embedder.width)


def key_of(region: Region) -> bytes:
    """The key under which the vector of a region is kept."""
    return hashlib.sha256(f"{region.digest}\0{region.area}".encode()).digest()


def _cut_ahead(regions: Iterable[Region], load: Load, fit: Fit) -> Iterator[tuple[Region, np.ndarray | str]]:
    """Each region with its pixels, or why there are none; threads work ahead of whoever takes them."""
    of_blob: dict[str, list[Region]] = {}
    for region in regions:
        of_blob.setdefault(region.digest, []).append(region)
    with ThreadPoolExecutor(READERS) as pool:
        yield from chain.from_iterable(_ahead(pool, partial(_cut, load=load, fit=fit), of_blob.values()))


def _ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results in order, never more than a few dozen in memory."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 16 * READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _cut(regions: Sequence[Region], load: Load, fit: Fit) -> list[tuple[Region, np.ndarray | str]]:
    """The regions of one blob, decoded once."""
    try:
        image = load(regions[0].digest)
    except WinnowError as error:
        return [(region, str(error)) for region in regions]
    parts = [image if region.area is None else crop(image, region.area) for region in regions]
    return [
        (region, fit(part) if part.size else f"the rectangle {region.area} lies outside the image")
        for region, part in zip(regions, parts, strict=True)
    ]

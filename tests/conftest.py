"""Shared builders: a store in a temporary folder, and a small data set with real image files in it.

The store is a SQLite file, or, with WINNOW_TEST_DATABASE=postgresql, a database of a PostgreSQL server of the tests' own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image as Picture
from servers import Databases, postgres_server

from db.document import Document
from db.migrate import migrate
from db.records import Box, Category, Dataset, Image, Kind, NewCandidate, Phrase, RunKind, Shard
from db.shared import Shared
from db.store import Store

settings.register_profile("without a clock", settings.default, deadline=None)
settings.load_profile("without a clock")


@pytest.fixture(autouse=True, scope="module")
def own_training_log(request: pytest.FixtureRequest) -> None:
    """uvicorn closes the log files of its whole process when it starts; mmengine, where tests before have loaded it, would still
    write to the latest of them."""
    if loaded := sys.modules.get("mmengine.logging"):
        loaded.MMLogger.get_instance(request.module.__name__)


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """A PostgreSQL server with a database of the current schema, `template`. Skips the test where none is installed."""
    with postgres_server() as server:
        found = Databases(server)
        found.run("CREATE DATABASE template")
        migrate(found.url("template"))
        yield found


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """Of a new database on the server; "" where tests are run on files."""
    if os.environ.get("WINNOW_TEST_DATABASE") != "postgresql":
        return ""
    url: str = request.getfixturevalue("databases").fresh("template")
    return url


@pytest.fixture
def store(tmp_path: Path, database_url: str) -> Iterator[Store]:
    opened = Store(tmp_path / "home", Shared(database_url=database_url))
    yield opened
    opened.close()


def picture(path: Path, seed: int, *, width: int = 160, height: int = 120) -> None:
    """A smooth random image: compresses and pastes like a photo, not like noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 200, (6, 8, 3), dtype=np.uint8)
    Picture.fromarray(small).resize((width, height), Picture.Resampling.BICUBIC).save(path, quality=95)


def small_document(folder: Path, *, images: int = 6) -> Document:
    """Two classes, two boxes and a captioned phrase on every image; the last third of the images is the split `test`."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, boxes, phrases = [], [], []
    for i in range(images):
        name = f"image{i}.jpg"
        picture(folder / name, seed=i)
        split = "train" if i < images - images // 3 else "test"
        pictures.append(Image(id=i, file_name=name, width=160, height=120, split=split, source_id=i + 1))
        for j, xyxy in enumerate(((10.0, 10.0, 50.0, 60.0), (80.0, 40.0, 140.0, 100.0))):
            boxes.append(Box(id=2 * i + j, image_id=i, category_id=j, xyxy=xyxy, source_id=2 * i + j + 1))
        text = "a red mug left of a blue ball"
        phrases.append(Phrase(id=2 * i, image_id=i, text=text))
        phrases.append(
            Phrase(id=2 * i + 1, image_id=i, text="a red mug", parent_id=2 * i, spans=((0, 9),), box_ids=(2 * i,))
        )
    return Document(
        format="coco",
        categories=[Category(id=0, name="mug", source_id=1), Category(id=1, name="ball", source_id=2)],
        images=lambda: pictures,
        boxes=lambda: boxes,
        phrases=lambda: phrases,
        file_of=lambda image: folder / image.file_name,
    )


@pytest.fixture
def dataset(store: Store, tmp_path: Path) -> Dataset:
    return store.datasets.import_document(small_document(tmp_path / "files"), "small")


def leased(store: Store, dataset_id: int, **options: object) -> Shard:
    """A claimed shard of a fresh generate run."""
    run = store.ledger.create_run(
        RunKind.GENERATE, "test", dataset_id=dataset_id, recipe="", options=dict(options), seed=0, versions={}
    )
    store.ledger.plan(run.id, [({}, 1)])
    shard = store.ledger.claim(run.id, "tester")
    assert shard is not None
    return shard


def candidates(store: Store, dataset_id: int, shard: Shard, count: int, *, kind: Kind = Kind.INSTANCE) -> list[int]:
    """Store `count` candidates under the shard and return their ids."""
    image = store.datasets.images(dataset_id)[0]
    box = store.datasets.boxes_of([image.id])[image.id][0]
    made = [
        NewCandidate(
            target=f"box:{i}",
            variant=0,
            kind=kind,
            image_id=image.id,
            seed=i,
            category_id=box.category_id,
            box_id=box.id,
            xyxy=(12.0, 12.0, 48.0, 58.0),
            text_before="a red mug",
            text_after="a blue mug",
            digest=image.digest,
            detail={"suffix": "jpg"},
        )
        for i in range(count)
    ]
    store.review.add_candidates(shard, made, dataset_id)
    return store.review.candidate_ids(shard.run_id)


class Quiet:
    """A control that keeps what it hears and asks to stop after so many looks."""

    def __init__(self, looks: int = 10**9) -> None:
        self.looks, self.lines = looks, []

    def stop_requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def progress(self, done: int, total: int | None = None) -> None:
        self.done = done

    def log(self, text: str, level: str = "info") -> None:
        self.lines.append(text)

"""The paste painter: what is pasted, where, and that nothing else changes. On a real store with real files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from db.document import Document
from db.errors import NotFound, WinnowError
from db.records import Box, Category, Image
from db.store import Store
from engine.backends.cutouts import Instances, ellipse, outline, segmentation_mask
from engine.backends.paste import PastePainter, fill
from engine.pixels import decode, encode_png, rectangle
from engine.roles import Context, Painted, PaintTask

WIDTH, HEIGHT = 160, 120
GROUND = (200, 196, 186)
COLOURS = {"cell": (150, 40, 160), "disc": (30, 140, 60)}
PLACES = {"cell": (20.0, 30.0, 60.0, 66.0), "disc": (90.0, 40.0, 140.0, 90.0)}


def scene(seed: int) -> np.ndarray:
    """Two ellipses on a light, slightly grainy ground."""
    rng = np.random.default_rng(seed)
    image = np.full((HEIGHT, WIDTH, 3), GROUND, np.float32)
    for name, xyxy in PLACES.items():
        image[ellipse(xyxy, image.shape[:2]) > 0] = COLOURS[name]
    return np.clip(cv2.GaussianBlur(image, (0, 0), 0.7) + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def imported(
    store: Store, folder: Path, *, images: int = 4, splits: Callable[[int], str] = lambda i: "train", **box: object
) -> Context:
    folder.mkdir()
    pictures, boxes = [], []
    for i in range(images):
        Picture.fromarray(scene(i)).save(folder / f"{i}.png")
        pictures.append(Image(id=i, file_name=f"{i}.png", width=WIDTH, height=HEIGHT, split=splits(i)))
        for j, xyxy in enumerate(PLACES.values()):
            boxes.append(Box(id=2 * i + j, image_id=i, category_id=j, xyxy=xyxy, **box))  # type: ignore[arg-type]
    document = Document(
        format="coco",
        categories=[Category(id=i, name=name) for i, name in enumerate((*PLACES, "unicorn"))],
        images=lambda: pictures,
        boxes=lambda: boxes,
        phrases=lambda: (),
        file_of=lambda image: folder / image.file_name,
    )
    return Context(store, store.datasets.import_document(document, folder.name).id)


@pytest.fixture
def context(store: Store, tmp_path: Path) -> Context:
    return imported(store, tmp_path / "cells")


@pytest.fixture
def painter(context: Context) -> PastePainter:
    return PastePainter(context)


def task(context: Context, number: int = 0, *, category: str | None = None, seed: int = 0) -> PaintTask:
    """Repaint box `number` of the first image, by default with its own class."""
    datasets = context.store.datasets
    image = datasets.images(context.dataset_id)[0]
    boxes = datasets.boxes_of([image.id])[image.id]
    name = list(PLACES)[number] if category is None else category
    keep = tuple(box.xyxy for box in boxes if box.id != boxes[number].id)
    pixels = decode(context.store.blobs.get(image.digest or ""))
    return PaintTask(
        image=pixels, xyxy=boxes[number].xyxy, prompt=name, category=name, seed=seed, keep=keep, box_id=boxes[number].id
    )


def painted(context: Context, wanted: PaintTask) -> Painted:
    result = PastePainter(context).paint([wanted])[0]
    assert isinstance(result, Painted), result
    return result


def mean_in(image: np.ndarray, xyxy: tuple[float, ...]) -> np.ndarray:
    x1, y1, x2, y2 = (round(value) for value in xyxy)
    return image[(y1 + y2) // 2 - 4 : (y1 + y2) // 2 + 4, (x1 + x2) // 2 - 4 : (x1 + x2) // 2 + 4].mean((0, 1))


def test_another_class_takes_the_place(context: Context) -> None:
    result = painted(context, task(context, 0, category="disc"))
    assert np.abs(mean_in(result.image, result.xyxy) - COLOURS["disc"]).max() < 25
    purple = np.abs(result.image[:, :80].astype(int) - COLOURS["cell"]).max(-1) < 40
    assert purple.sum() < 10, "remains of the old instance are visible"


def test_the_box_is_fitted_to_what_was_pasted(context: Context) -> None:
    result = painted(context, task(context, 0, category="disc"))
    green = np.abs(result.image[:, :80].astype(int) - COLOURS["disc"]).max(-1) < 60
    ys, xs = np.nonzero(green)
    assert np.allclose(result.xyxy, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), atol=2.5)


def test_the_source_is_another_instance(context: Context) -> None:
    wanted = task(context)
    used = {painted(context, replace(wanted, seed=seed)).detail["source_box"] for seed in range(8)}
    assert wanted.box_id not in used and len(used) > 1


def test_the_same_seed_paints_the_same_picture(context: Context) -> None:
    one, again, other = (painted(context, task(context, seed=seed)) for seed in (3, 3, 4))
    assert (one.image == again.image).all() and one.detail == again.detail and one.xyxy == again.xyxy
    assert (one.image != other.image).any()


def test_an_addition_leaves_what_is_around_it(context: Context) -> None:
    wanted = replace(task(context), xyxy=(60.0, 80.0, 90.0, 110.0), box_id=None)
    result = painted(context, wanted)
    assert np.abs(mean_in(result.image, result.xyxy) - COLOURS["cell"]).max() < 25


def test_pixels_never_wander_between_splits(store: Store, tmp_path: Path) -> None:
    context = imported(store, tmp_path / "split", images=3, splits=lambda i: "train" if i == 0 else "test")
    result = PastePainter(context).paint([task(context)])[0]
    assert isinstance(result, str) and "no other usable instance" in result


REFUSED = [({"category": "unicorn"}, "unicorn"), ({"category": None}, "no class")]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_cannot_be_done_is_said(context: Context, changes: dict[str, object], words: str) -> None:
    result = PastePainter(context).paint([replace(task(context), **changes)])[0]
    assert isinstance(result, str) and words in result


def test_crowds_are_no_sources(store: Store, tmp_path: Path) -> None:
    context = imported(store, tmp_path / "crowd", crowd=True)
    assert isinstance(PastePainter(context).paint([task(context)])[0], str)


def test_another_data_set_lends_its_instances(context: Context, store: Store, tmp_path: Path) -> None:
    other = imported(store, tmp_path / "others", splits=lambda i: "")
    lent = {image.id for image in store.datasets.images(other.dataset_id)}
    result = PastePainter(context, donors="others").paint([task(context)])[0]
    assert isinstance(result, Painted) and result.detail["source_image"] in lent
    with pytest.raises(NotFound, match="data set"):
        PastePainter(context, donors="nobody")


corner = st.tuples(st.floats(-0.0, 0.9), st.floats(0.0, 0.9), st.floats(0.05, 1.0), st.floats(0.05, 1.0))


@given(corner, st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_outside_the_touched_rectangle_changes(
    context: Context, painter: PastePainter, at: tuple[float, float, float, float], seed: int, replaced: bool
) -> None:
    x, y, w, h = at
    xyxy = (x * WIDTH, y * HEIGHT, min((x + w), 1.0) * WIDTH, min((y + h), 1.0) * HEIGHT)
    original = task(context)
    wanted = replace(original, xyxy=xyxy, seed=seed, box_id=original.box_id if replaced else None)
    before = wanted.image.copy()
    result = painter.paint([wanted])[0]
    assert (wanted.image == before).all(), "the task's own image was written to"
    if isinstance(result, str):
        assert "vanishes" in result
        return
    ((x1, y1, x2, y2),) = result.touched
    assert 0 <= x1 < x2 <= WIDTH and 0 <= y1 < y2 <= HEIGHT
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[y1:y2, x1:x2] = False
    assert (result.image[outside] == before[outside]).all()
    assert x1 <= result.xyxy[0] < result.xyxy[2] <= x2 and y1 <= result.xyxy[1] < result.xyxy[3] <= y2


def test_grabcut_finds_the_cell(context: Context) -> None:
    instances = Instances(context.store, context.dataset_id)
    found = [instances.cutout(source) for source in instances.sources("cell", "train")]
    assert len(found) == 4
    for cutout in found:
        local = tuple(value - cutout.area[i % 2] for i, value in enumerate(PLACES["cell"]))
        truth = ellipse(local, cutout.mask.shape) > 0  # type: ignore[arg-type]
        mask = cutout.mask > 0.5
        assert cutout.method == "grabcut" and (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_a_mask_is_used_where_there_is_one() -> None:
    polygon = [[20.0, 10.0, 40.0, 10.0, 40.0, 30.0, 20.0, 30.0]]
    box = Box(id=1, image_id=1, xyxy=(20.0, 10.0, 40.0, 30.0), segmentation=msgspec.json.encode(polygon))
    mask, method = outline(scene(0), box, (15, 5, 45, 35))
    assert method == "segmentation" and mask.shape == (30, 30) and mask.sum() == 400 and mask[6, 6] == 1
    assert (
        outline(np.full((40, 50, 3), 9, np.uint8), Box(id=1, image_id=1, xyxy=(5, 5, 30, 30)), (0, 0, 40, 40))[1]
        == "ellipse"
    )


def test_polygons_and_run_lengths_say_the_same() -> None:
    whole = segmentation_mask(b"[[2,1,6,1,6,4,2,4]]", 8, 10)
    assert whole is not None and whole.sum() == 12 and whole.shape == (8, 10)
    runs = np.flatnonzero(np.diff(np.concatenate([[0], whole.T.ravel().astype(int), [0]])))
    counts = np.diff(np.concatenate([[0], runs, [80]])).tolist()
    again = segmentation_mask(msgspec.json.encode({"size": [8, 10], "counts": counts}), 8, 10)
    assert again is not None and (again == whole).all()
    assert segmentation_mask(b"[]", 8, 10) is None


def test_a_hole_is_closed_with_its_surroundings() -> None:
    ground = np.full((60, 60, 3), GROUND, np.uint8)
    with_hole = ground.copy()
    hole = ellipse((20, 20, 40, 40), (60, 60)) > 0
    with_hole[hole] = (0, 0, 0)
    closed = fill(with_hole, hole, np.zeros_like(hole))
    assert np.abs(closed.astype(int) - ground).max() <= 2


def test_foreign_things_are_neither_changed_nor_copied() -> None:
    image = np.full((60, 60, 3), GROUND, np.uint8)
    image[:, 45:] = (255, 0, 0)
    foreign = np.zeros((60, 60), bool)
    foreign[:, 45:] = True
    hole = ellipse((20, 20, 46, 40), (60, 60)) > 0
    closed = fill(image, hole & ~foreign, foreign)
    assert (closed[:, 45:] == image[:, 45:]).all()
    assert np.abs(closed[:, :44].astype(int) - GROUND).max() <= 2


def test_png_keeps_every_pixel() -> None:
    image = scene(5)
    assert (decode(encode_png(image)) == image).all()
    with pytest.raises(WinnowError, match="no readable image"):
        decode(b"not an image")
    assert rectangle((-3.5, 2.2, 9.1, 300), image.shape, margin=1) == (0, 1, 11, HEIGHT)

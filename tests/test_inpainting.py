"""Crops, masks, pasting and re-fitted boxes: nothing outside the touched rectangle changes, whatever the box."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.errors import WinnowError
from db.records import XYXY
from engine.detections import Detections
from engine.inpainting import Form, Plan, changed, detected, overlap, plan, whole
from engine.pixels import crop, rectangle
from engine.targets import iou


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, XYXY, int, Form]:
    """An image, a box that touches it (also at or beyond its border, tiny, or the whole), a model's size, shares."""
    width, height = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    x1, y1 = draw(st.floats(-3, width - 2)), draw(st.floats(-3, height - 2))
    x2, y2 = draw(st.floats(max(x1, 0) + 1, width + 3)), draw(st.floats(max(y1, 0) + 1, height + 3))
    form = Form(draw(st.floats(0, 1)), draw(st.floats(0, 0.5)), draw(st.floats(0, 0.5)))
    return noise(height, width, draw(st.integers(0, 9))), (x1, y1, x2, y2), draw(st.integers(8, 64)), form


def outside(image: np.ndarray, area: tuple[int, int, int, int]) -> np.ndarray:
    far = np.ones(image.shape[:2], bool)
    crop(far, area)[:] = False
    return far


@given(scenes(), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_only_touched_pixels_change(scene: tuple[np.ndarray, XYXY, int, Form], value: int) -> None:
    image, xyxy, size, form = scene
    original = image.copy()
    for made in (plan(image.shape, xyxy, size, form), whole(image.shape, xyxy, size, form)):
        after = made.paste(image, np.full((size, size, 3), value, np.uint8))
        far = outside(image, made.touched)
        assert np.array_equal(after[far], image[far])
        assert np.array_equal(image, original)
        assert made.crop(image).shape == (size, size, 3)
        assert made.hole().any()


@given(scenes())
@settings(max_examples=150, deadline=None)
def test_the_window_is_a_square_around_the_touched_pixels(scene: tuple[np.ndarray, XYXY, int, Form]) -> None:
    image, xyxy, size, form = scene
    made = plan(image.shape, xyxy, size, form)
    x1, y1, x2, y2 = made.window
    assert x2 - x1 == y2 - y1
    assert x1 <= made.touched[0] and y1 <= made.touched[1] and x2 >= made.touched[2] and y2 >= made.touched[3]
    height, width = image.shape[:2]
    if max(made.touched[2] - made.touched[0], made.touched[3] - made.touched[1]) <= min(height, width):
        assert x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height, "there is room, yet it reaches beyond the image"


@given(scenes())
@settings(max_examples=100, deadline=None)
def test_at_scale_one_an_identity_painter_changes_nothing(scene: tuple[np.ndarray, XYXY, int, Form]) -> None:
    image, xyxy, size, form = scene
    window = plan(image.shape, xyxy, size, form).window
    made = plan(image.shape, xyxy, window[2] - window[0], form)
    if made.window == window:
        assert np.array_equal(made.paste(image, made.crop(image)), image)


@given(scenes(), st.floats(0, 60), st.floats(0, 60), st.floats(1, 30), st.floats(1, 30))
@settings(max_examples=150, deadline=None)
def test_kept_boxes_stay_to_the_byte(
    scene: tuple[np.ndarray, XYXY, int, Form], x: float, y: float, wide: float, high: float
) -> None:
    image, xyxy, size, form = scene
    other = (x, y, x + wide, y + high)
    middle = (xyxy[0] + xyxy[2]) / 2, (xyxy[1] + xyxy[3]) / 2
    try:
        made = plan(image.shape, xyxy, size, form, [other])
    except WinnowError as error:
        assert "cover" in str(error)
        return
    after = made.paste(image, ~made.crop(image))
    if other[0] <= middle[0] <= other[2] and other[1] <= middle[1] <= other[3]:
        assert made.mask.all(), "what contains the middle of the box cannot be kept"
    else:
        area = rectangle(other, image.shape)
        assert np.array_equal(crop(after, area), crop(image, area))


def test_the_middle_of_the_box_is_all_new_and_the_rim_is_soft() -> None:
    image = np.zeros((80, 100, 3), np.uint8)
    made = plan(image.shape, (40, 30, 60, 50), 32, Form(0.35, 0.2, 0.2))
    after = made.paste(image, np.full((32, 32, 3), 200, np.uint8))[..., 0]
    assert made.touched == (36, 26, 64, 54)
    assert (after[30:50, 40:60] == 200).all(), "the feather is as wide as the margin, so the box itself is new"
    assert 0 < after[26, 50] < after[28, 50] < 200


def test_the_border_of_the_image_is_no_seam() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    made = plan(image.shape, (0, 0, 40, 40), 16, Form(0.3, 0.1, 0.4))
    assert (made.paste(image, np.full((16, 16, 3), 90, np.uint8)) == 90).all()


def test_small_boxes_are_not_blown_up_beyond_measure() -> None:
    made = plan((300, 300), (100, 100, 104, 104), 256, Form())
    assert made.window[2] - made.window[0] == 32


def test_a_long_box_of_a_flat_image_is_padded_with_its_mirror_image() -> None:
    image = noise(10, 50)
    made = plan(image.shape, (1, 2, 49, 8), 48, Form(0.1, 0, 0))
    shown = made.crop(image)
    assert made.window[3] - made.window[1] > 10
    assert shown.std() > 30, "no bars of one colour"


@pytest.mark.parametrize(
    ("xyxy", "keep"), [((50, 50, 60, 60), ()), ((5, 5, 15, 15), ((4, 4, 9.9, 16), (10.1, 4, 16, 16)))]
)
def test_boxes_that_cannot_be_painted_say_why(xyxy: XYXY, keep: tuple[XYXY, ...]) -> None:
    with pytest.raises(WinnowError, match="no pixel in its image of 40x30" if not keep else "must stay, cover"):
        plan((30, 40), xyxy, 16, Form(), keep)


@given(st.tuples(*[st.integers(0, 9)] * 8))
def test_overlap_agrees_with_pixels(v: tuple[int, ...]) -> None:
    a, b = (v[0], v[1], v[0] + v[2], v[1] + v[3]), (v[4], v[5], v[4] + v[6], v[5] + v[7])
    canvas = np.zeros((2, 20, 20), bool)
    for layer, area in zip(canvas, (a, b), strict=True):
        crop(layer, area)[:] = True
    assert overlap(a, b) == bool(canvas.all(0).any())


# Re-fitting


ASKED: XYXY = (30, 20, 80, 70)


def painted(area: tuple[int, int, int, int], *, shift: int = 0) -> tuple[Plan, np.ndarray, np.ndarray]:
    """Before and after painting a disc-like thing over `area`, where the background moved by `shift` grey levels."""
    before = np.full((100, 120, 3), 120, np.uint8)
    made = plan(before.shape, ASKED, 64, Form())
    after = before.copy()
    crop(after, made.touched)[:] += np.uint8(shift)
    crop(after, area)[:] = (200, 40, 40)
    return made, before, after


@pytest.mark.parametrize("shift", [0, 4])
def test_the_box_is_fitted_to_what_changed(shift: int) -> None:
    made, before, after = painted((38, 30, 70, 66), shift=shift)
    assert changed(before, after, made, ASKED) == (38.0, 30.0, 70.0, 66.0)


def test_specks_beside_the_object_do_not_count_and_gaps_in_it_do_not_split_it() -> None:
    made, before, after = painted((38, 30, 70, 66))
    after[40:42, 38:70] = before[40:42, 38:70]
    after[68, 76] = 255
    assert changed(before, after, made, ASKED) == (38.0, 30.0, 70.0, 66.0)


@pytest.mark.parametrize("area", [(0, 0, 120, 100), (50, 40, 54, 44), (0, 0, 1, 1)])
def test_no_box_where_all_nearly_nothing_or_nothing_changed(area: tuple[int, int, int, int]) -> None:
    made, before, after = painted(area)
    assert changed(before, after, made, ASKED) is None


def test_of_detections_the_surest_of_the_class_that_overlaps_enough_is_taken() -> None:
    boxes = [(0, 0, 20, 20), (32, 22, 78, 70), (30, 20, 80, 69), (30, 20, 80, 70), (34, 20, 80, 70)]
    found = Detections(
        np.array(boxes, np.float32),
        np.array([0.9, 0.7, 0.5, 0.95, 0.05], np.float32),
        np.array([0, 0, 0, 1, 0]),
        ("mug", "ball"),
    )
    assert detected(found, "mug", ASKED) == (32.0, 22.0, 78.0, 70.0)
    assert detected(found, "plate", ASKED) is None
    assert detected(found[np.array([0, 4])], "mug", ASKED) is None
    assert iou(ASKED, (32.0, 22.0, 78.0, 70.0)) > 0.3

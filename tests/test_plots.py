"""Markup, plots and pictures: pure functions from values to HTML and SVG."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.records import Box, Image, Phrase
from studio import pictures, plots
from studio.markup import Html, facts, join, table, tag

finite = st.floats(-1e6, 1e6, allow_nan=False)


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html)


# Markup


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))))
def test_text_stays_text(text: str) -> None:
    element = parsed(tag("p", text, title=text))
    assert (element.text or "", element.get("title"), list(element)) == (text, text, [])


def test_children_and_attributes() -> None:
    made = tag("b", "a<", [tag("i", 1), None], 2.5, class_="x", data_pick=3, disabled=True, hidden=None, open=False)
    assert made == '<b class="x" data-pick="3" disabled="">a&lt;<i>1</i>2.5</b>'
    assert isinstance(join("<", made), Html)


def test_numbers_stand_at_the_right_with_their_heads() -> None:
    made = parsed(table(("Name", "Boxes", "AP"), [("a", 12345, 0.5)], picks=[7], picked=7))
    cells = [(cell.text, cell.get("class")) for cell in made.iter("td")]
    assert cells == [("a", None), ("12,345", "n"), ("0.500", "n")]
    assert [head.get("class") for head in made.iter("th")] == [None, "n", "n"]
    row = next(row for row in made.iter("tr") if row.get("data-pick"))
    assert (row.get("data-pick"), row.get("aria-selected"), row.get("tabindex")) == ("7", "true", "0")


def test_an_empty_table_has_its_heads() -> None:
    assert [head.text for head in parsed(table(("A", "B"), [])).iter("th")] == ["A", "B"]


def test_facts_leave_out_the_unknown() -> None:
    assert re.findall("<dt>(.*?)</dt>", facts([("a", "1"), ("b", None), ("c", "")])) == ["a"]


# Scales and ticks


@given(low=finite, span=st.floats(1e-3, 1e6), count=st.integers(2, 10))
def test_ticks_are_round_within_and_even(low: float, span: float, count: int) -> None:
    high = low + span
    found = plots.ticks(low, high, count)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert all(low - 1e-6 * span <= value <= high + 1e-6 * span for value in found)
    assert 1 <= len(found) <= count + 1
    assert all(math.isclose(step, steps[0], rel_tol=1e-3, abs_tol=1e-6 * span) for step in steps)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 3000, [0, 1000, 2000, 3000]), (5, 5, [5])]
)
def test_ticks_of_usual_ranges(low: float, high: float, expected: list[float]) -> None:
    assert plots.ticks(low, high, 5 if high <= 1 else 4) == pytest.approx(expected)


@given(st.floats(1, 1e6), st.floats(1, 1e6))
def test_a_logarithmic_scale_keeps_the_order(a: float, b: float) -> None:
    scale = plots.Scale(0.7, 2e6, 200, 0, log=True)
    assert (a <= b) == (scale(a) >= scale(b)) or math.isclose(scale(a), scale(b))
    assert 0 <= scale(a) <= 200


# Curves


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=600), st.integers(2, 50))
def test_thinning_keeps_the_ends(curve: list[tuple[float, float]], limit: int) -> None:
    thin = plots.thinned(curve, limit)
    assert len(thin) == min(len(curve), limit)
    assert (thin[0], thin[-1]) == (curve[0], curve[-1])


@given(st.floats(-100, 100), st.integers(1, 50))
def test_the_average_of_a_constant_is_that_constant(value: float, length: int) -> None:
    smooth = plots.smoothed([(float(x), value) for x in range(length)])
    assert [y for _, y in smooth] == pytest.approx([value] * length)


def test_lines_stay_in_the_frame_and_say_their_values() -> None:
    curve = [(float(step), 2 / (1 + step)) for step in range(0, 1000, 10)]
    drawn = parsed(plots.lines("Loss", {"loss": curve, "none": []}, smooth=True, x_end=3000))
    points = [point.split(",") for line in drawn.iter("polyline") for point in line.get("points", "").split()]
    assert len(points) == 200
    assert all(plots.LEFT <= float(x) <= plots.WIDTH and 0 <= float(y) <= plots.HEIGHT for x, y in points)
    assert max(float(x) for x, _ in points) < plots.WIDTH / 2  # room for the steps to come
    assert sum(1 for _ in drawn.iter("circle")) == 100
    assert "loss" in "".join(drawn.itertext())


def test_nothing_measured_is_said() -> None:
    assert "nothing measured yet" in plots.lines("Loss", {})


# Bars


def test_a_histogram_shows_every_class() -> None:
    bars = [("a", 50, "frequent"), ("b", 20, "rare"), ("c", 0, "rare")]
    drawn = parsed(plots.histogram("Boxes", bars))
    titles = [title.text for group in drawn.iter("g") for title in group.iter("title")]
    assert titles == ["a: 50", "b: 20", "c: 0"]
    heights = [float(rect.get("height", "nan")) for rect in drawn.iter("rect")]
    assert heights[0] == pytest.approx(2.5 * heights[1], rel=0.01)
    assert heights[2] == 0
    assert "logarithmic" not in "".join(drawn.itertext())
    assert "rare (2)" in "".join(drawn.itertext())


def test_a_long_tail_is_drawn_logarithmically() -> None:
    drawn = parsed(plots.histogram("Boxes", [("a", 10_000, "frequent"), ("b", 100, "common"), ("c", 1, "rare")]))
    heights = [float(rect.get("height", "nan")) for rect in drawn.iter("rect")]
    assert "Boxes, logarithmic" in "".join(drawn.itertext())
    assert heights[0] > heights[1] > heights[2] > 1


def test_a_thousand_classes_have_no_names_below() -> None:
    drawn = plots.histogram("Boxes", [(f"class {i}", 1000 - i, "common") for i in range(1000)])
    assert drawn.count("<rect") == 1000
    assert "rotate" not in drawn


def test_grouped_bars_leave_gaps() -> None:
    drawn = parsed(plots.grouped("AP", ["cup", "hat"], {"run 1": [0.5, None], "run 2": [0.25, 0.75]}))
    titles = [title.text for group in drawn.iter("g") for title in group.iter("title")]
    assert titles == ["cup, run 1: 0.500", "cup, run 2: 0.250", "hat, run 2: 0.750"]


@pytest.mark.parametrize(("value", "text"), [(0.25, "0.25"), (40, "40"), (1500, "1.5k"), (2e6, "2M"), (0, "0")])
def test_short_numbers(value: float, text: str) -> None:
    assert plots.short(value) == text


# Pictures

IMAGE = Image(id=3, file_name="<b>.jpg", width=160, height=120, split="train", digest="ab" * 32)
BOXES = [
    Box(id=8, image_id=3, category_id=1, xyxy=(10, 20, 50, 60)),
    Box(id=9, image_id=3, category_id=2, xyxy=(0, 0, 9, 9)),
]
TEXTS = [
    Phrase(id=1, image_id=3, text="a mug & a ball"),
    Phrase(id=2, image_id=3, text="a mug", parent_id=1, box_ids=(8,)),
    Phrase(id=3, image_id=3, text="a hat", holds=False),
]
NAMES = {1: "mug", 2: "ball"}


def test_a_thumbnail_has_its_boxes_in_place() -> None:
    page = parsed(f"<div>{pictures.grid([IMAGE], {3: BOXES}, {3: TEXTS}, NAMES, trail=[0], more=True)}</div>")
    figure = next(page.iter("figure"))
    rects = [[float(r.get(side, "nan")) for side in ("x", "y", "width", "height")] for r in figure.iter("rect")]
    assert rects == [[10, 20, 40, 40], [0, 0, 9, 9]]
    assert [r.get("class") for r in figure.iter("rect")] == ["b0", "b1"]
    assert (figure.get("data-pick"), next(figure.iter("figcaption")).text) == ("3", "a mug & a ball")
    assert next(figure.iter("image")).get("href") == f"/media/thumb/{IMAGE.digest}?size=320"


@pytest.mark.parametrize(
    ("trail", "more", "before", "after"),
    [([0], True, None, "0,3"), ([0, 24], False, "0", None), ([0, 24, 48], True, "0,24", "0,24,48,3")],
)
def test_the_way_to_other_pages(trail: list[int], more: bool, before: str | None, after: str | None) -> None:
    page = parsed(f"<div>{pictures.grid([IMAGE], {3: []}, {3: []}, NAMES, trail=trail, more=more)}</div>")
    buttons = list(page.iter("button"))
    assert [button.get("data-turn") for button in buttons] == [before, after]
    assert [button.get("disabled") is None for button in buttons] == [before is not None, after is not None]


def test_the_whole_image_links_texts_to_boxes() -> None:
    whole = parsed(pictures.detail(IMAGE, BOXES, TEXTS, NAMES))
    assert [group.get("data-box") for group in whole.iter("g")] == ["8", "9"]
    items = [(item.text, item.get("data-boxes"), item.get("class")) for item in whole.iter("li")]
    assert items == [("a mug & a ball", None, None), ("a mug", "8", None), ("a hat", None, "false")]
    assert next(whole.iter("b")).text == "<b>.jpg"


def test_an_image_without_a_file_says_so() -> None:
    bare = Image(id=1, file_name="a.jpg", width=10, height=10)
    assert "no file" in pictures.detail(bare, [], [], NAMES)
    assert "/media/" not in pictures.detail(bare, [], [], NAMES)

"""Images with their boxes drawn over them: thumbnails, one in full with its texts, candidates before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from db.records import Box, Image, Phrase
from studio.markup import Html, join, tag

COLOURS = 8
Names = Mapping[int, str]  # category id -> name, in the order of the data set


def grid(
    images: Sequence[Image],
    boxes: Mapping[int, Sequence[Box]],
    texts: Mapping[int, Sequence[Phrase]],
    names: Names,
    *,
    trail: Sequence[int],
    more: bool,
) -> Html:
    """A page of thumbnails that can be picked, with the way to the pages before and after.

    `trail` holds the last image id before each page so far, the page shown included: keyset paging without a memory on
    the server. `more` says whether there is a page after this one.
    """
    shapes = [_thumbnail(image, boxes[image.id], texts[image.id], names) for image in images]
    return join(tag("div", shapes, class_="w-grid"), _turn(trail, images[-1].id if more else None))


def _thumbnail(image: Image, boxes: Sequence[Box], texts: Sequence[Phrase], names: Names) -> Html:
    caption = next((text.text for text in texts if text.parent_id is None), image.file_name)
    drawn = _picture(image, f"/media/thumb/{image.digest}?size=320", [_rectangle(box, names) for box in boxes])
    return tag(
        "figure",
        drawn,
        tag("figcaption", caption, title=caption),
        data_pick=image.id,
        tabindex=0,
        aria_selected="false",
    )


def _turn(trail: Sequence[int], following: int | None) -> Html:
    before = trail[:-1] or None
    after = None if following is None else (*trail, following)
    return tag(
        "div", _button("Previous", before), tag("span", f"page {len(trail)}"), _button("Next", after), class_="w-turn"
    )


def _button(name: str, trail: Sequence[int] | None) -> Html:
    to = None if trail is None else ",".join(map(str, trail))
    return tag("button", name, type="button", disabled=trail is None, data_turn=to)


def detail(image: Image, boxes: Sequence[Box], texts: Sequence[Phrase], names: Names) -> Html:
    """One image in full: its boxes with their classes, its captions and phrases, and a link to the file. Pointing at a
    text lights up the boxes it names."""
    letters = image.width / 30
    drawn = _picture(image, f"/media/blob/{image.digest}", [_labelled(box, names, letters) for box in boxes])
    size = f"{image.width} x {image.height}, {len(boxes)} {'box' if len(boxes) == 1 else 'boxes'}"
    where = f"{image.split}, {size}" if image.split else size
    opened = tag("a", "open the file", href=f"/media/blob/{image.digest}", target="_blank") if image.digest else None
    said = tag("ul", [_text(text) for text in texts], class_="w-texts") if texts else None
    about = tag(
        "div", tag("b", image.file_name), tag("div", where, " ", opened, class_="w-quiet"), _classes(boxes, names), said
    )
    return tag("div", drawn, about, class_="w-detail")


def _classes(boxes: Sequence[Box], names: Names) -> Html | None:
    found = [names[known] for box in boxes if (known := box.category_id) is not None and known in names]
    counted = {name: found.count(name) for name in found}
    return (
        tag("div", [tag("span", f"{name} {n}" if n > 1 else name) for name, n in counted.items()], class_="w-chips")
        if found
        else None
    )


def _text(text: Phrase) -> Html:
    named = " ".join(map(str, text.box_ids)) or None
    return tag("li", text.text, class_=None if text.holds else "false", data_boxes=named)


def _picture(image: Image, address: str, shapes: Sequence[Html]) -> Html:
    size = {"width": image.width, "height": image.height}
    pixels = (
        tag("image", href=address, **size)
        if image.digest
        else tag("text", "no file", x=image.width / 2, y=image.height / 2)
    )
    return tag(
        "svg",
        pixels,
        shapes,
        viewBox=f"0 0 {image.width} {image.height}",
        role="img",
        aria_label=image.file_name,
        class_="w-picture",
    )


def _labelled(box: Box, names: Names, letters: float) -> Html:
    """The class stands inside the box at its top, where it is not cut off; `letters` is their size in image pixels."""
    x1, y1, _, _ = box.xyxy
    name = tag("text", names.get(box.category_id or 0, ""), x=x1 + letters / 4, y=y1 + letters, font_size=letters)
    return tag("g", _rectangle(box, names), name, data_box=box.id)


def _rectangle(box: Box, names: Names) -> Html:
    x1, y1, x2, y2 = box.xyxy
    position = next((place for place, key in enumerate(names) if key == box.category_id), 0)
    return tag("rect", x=x1, y=y1, width=x2 - x1, height=y2 - y1, class_=f"b{position % COLOURS}")


# Candidates

SAYS = {"accept": "The policy accepts it.", "reject": "The policy rejects it.", "pending": "Not decided yet."}


def candidate(card: Mapping[str, Any]) -> Html:
    """A small version of a review card (`views.card`): before and after, texts with the changed words, scores."""
    if card["whole"]:
        return _whole(card)
    sides = [_side(card[side], card["size"]) for side in ("before", "after") if card[side]]
    texts = card["texts"]
    said = tag("p", _marked(texts["before"]), " → ", _marked(texts["after"])) if texts else None
    pair = tag("div", sides, class_="pair" if len(sides) > 1 else "pair single")
    return tag("article", pair, tag("div", said, _judged(card)), class_="w-card")


def _judged(card: Mapping[str, Any]) -> Html:
    """What the policy says, and the scores."""
    policy = card["policy"]
    chips = [
        tag("span", f"{row['title']} {row['value'] or '–'}", class_=row["state"], title=row["reason"])
        for row in card["scores"]
    ]
    word = tag("p", tag("span", SAYS[policy["says"]], class_=f"says {policy['says']}"), " ", policy["by"])
    return join(word, tag("div", chips, class_="w-chips"))


def _whole(card: Mapping[str, Any]) -> Html:
    """A whole image with its boxes; its caption, the phrases that name boxes marked; or its class."""
    said, (width, height) = card["whole"], card["size"]
    picture = card["after"] or card["before"]
    content = said["content"]
    pixels = tag("image", href=f"{picture['thumb']}?size=320", width=width, height=height) if picture else None
    boxes = [
        tag("rect", x=x1, y=y1, width=x2 - x1, height=y2 - y1, class_=f"b{number % COLOURS}")
        for number, (x1, y1, x2, y2) in enumerate(box["xyxy"] for box in content["boxes"])
    ]
    drawn = tag("svg", pixels, boxes, viewBox=f"0 0 {width} {height}", role="img", class_="w-picture")
    words = tag("p", _marked(_cut(content))) if content["caption"] else tag("p", tag("b", said["class"] or ""))
    return tag("article", tag("div", drawn, class_="pair single"), tag("div", words, _judged(card)), class_="w-card")


def _cut(content: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """The caption in segments, those of phrases with a box marked."""
    caption = content["caption"]
    inside = {i for named in content["phrases"] if named["boxes"] for a, b in named["spans"] for i in range(a, b)}
    return [
        ("".join(caption[i] for i in part), marked)
        for marked, part in groupby(range(len(caption)), inside.__contains__)
    ]


def _side(picture: Mapping[str, Any], size: Sequence[int]) -> Html:
    width, height = size
    x1, y1, x2, y2 = picture["xyxy"] or (0, 0, 0, 0)
    pixels = tag("image", href=f"{picture['thumb']}?size=320", width=width, height=height)
    box = tag("rect", x=x1, y=y1, width=x2 - x1, height=y2 - y1) if picture["xyxy"] else None
    return tag(
        "svg", pixels, box, viewBox=f"0 0 {width} {height}", role="img", aria_label=picture["label"], class_="w-picture"
    )


def _marked(segments: Sequence[tuple[str, bool]]) -> list[Html | str]:
    return [tag("mark", text) if changed else text for text, changed in segments]

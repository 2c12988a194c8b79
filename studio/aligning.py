"""What the Alignment page and `winnow align` show: a caption on its image, and where the model sees each of its phrases."""

from __future__ import annotations

from pathlib import Path

from db.errors import WinnowError
from db.records import Image, Run
from engine import alignments
from engine.alignments import Aligned, Ask, Word
from engine.heatmaps import png
from engine.pixels import decode
from studio import actions
from studio.context import Studio
from studio.markup import Html, join, tag

WEAK = 0.0  # a phrase whose best region has a cosine below this is not seen


def picture(found: Aligned) -> Html:
    """The image with the best region of each phrase, and beside it the phrases with their figures."""
    size = {"width": found.width, "height": found.height}
    phrases = found.words[1:] or found.words
    drawing = tag(
        "svg",
        tag("image", href=f"/media/blob/{found.digest}", preserveAspectRatio="none", **size),
        [_boxes(place, word, found.height) for place, word in enumerate(phrases)],
        viewBox=f"0 0 {found.width} {found.height}",
        preserveAspectRatio="xMidYMid meet",
        role="img",
        aria_label=f"{found.caption}: the region of each phrase",
        class_="w-picture",
    )
    shown = tag("div", tag("figure", drawing, tag("figcaption", found.caption)), class_="w-shots large")
    return tag("div", tag("div", shown), tag("div", _table(found)), class_="w-two")


def _boxes(place: int, word: Word, height: int) -> Html:
    """The best region thick, the others thin; the number stands for the phrase, so that no colour is needed. Its row of the
    table lights them up."""
    drawn = []
    for rank, region in enumerate(word.regions):
        x1, y1, x2, y2 = region.xyxy
        shape = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
        drawn.append(
            tag(
                "rect", tag("title", f"{word.text}: {region.similarity:+.2f}"), opacity=1 if not rank else 0.35, **shape
            )
        )
        if not rank:
            drawn.append(tag("text", str(place + 1), x=x1 + 2, y=y1 + height / 16, font_size=height / 16))
    return tag("g", drawn, class_=f"b{place % 8}", data_box=place + 1)


def _table(found: Aligned) -> Html:
    rows = [_row("", found.words[0])] if len(found.words) > 1 else []
    rows += [_row(str(place), word) for place, word in enumerate(found.words[1:] or found.words, 1)]
    head = tag("tr", *(tag("th", name) for name in ("", "Phrase", "Best region", "Others")))
    note = f"Alignment {found.similarity:+.2f}: the mean of the best regions, from -1 (opposite) to 1 (the same)."
    table = tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="w-table")
    return join(table, tag("p", note, class_="w-quiet"))


def _row(number: str, word: Word) -> Html:
    others = ", ".join(f"{region.similarity:+.2f}" for region in word.regions[1:])
    weak = tag("span", " not seen", class_="w-quiet") if word.best < WEAK else ""
    cells = (number, word.text, join(f"{word.best:+.2f}", weak), others)
    return tag("tr", [tag("td", cell) for cell in cells], data_boxes=number or None)


def captions_of(studio: Studio, snapshot: str | int, file_name: str) -> tuple[Image, list[str]]:
    """An image of a snapshot by its file name, and what is said of it. Raises WinnowError for one that is not there."""
    found = studio.store.snapshots.get(snapshot)
    _, samples = studio.store.snapshots.samples(found)
    sample = next((one for one in samples if one.image.file_name == file_name), None)
    if sample is None:
        near = ", ".join(one.image.file_name for one in samples[:3])
        raise WinnowError(f"Snapshot {found.name!r} has no image {file_name!r}. Its first ones are {near}.")
    return sample.image, [one.text for one in sample.phrases if one.parent_id is None and one.holds]


def align(studio: Studio, *, train_run: int, snapshot: str | int, file_name: str, caption: str | None) -> Run:
    """The run that answers where a caption is on an image: one that has answered it already, else one that is queued. Without
    a caption, the image's own is taken. Raises WinnowError for an image without one."""
    image, said = captions_of(studio, snapshot, file_name)
    text = (caption or next(iter(said), "")).strip()
    if not text:
        raise WinnowError(f"Image {file_name!r} has no caption. Say what to look for.")
    found = studio.store.snapshots.get(snapshot)
    known = alignments.known(studio.store, train_run, found.id, Ask(image.id, text))
    return known or actions.start_align(studio, train_run=train_run, snapshot=found.id, image_id=image.id, caption=text)


def written(studio: Studio, run: Run, out: Path) -> Aligned:
    """Writes the answer as a PNG file. Raises WinnowError for a run that has none."""
    (found,) = alignments.kept(studio.store, run)
    image = decode(studio.store.blobs.get(found.digest))
    out.write_bytes(png(alignments.over(image, found)))
    return found

"""What the Attention page shows: heat maps over their images, the point where a model looks most, and whether it hits."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from db.errors import WinnowError
from db.records import Run
from engine import heatmaps
from engine.heatmaps import Asked, Heatmaps, png, tinted
from engine.pixels import decode
from studio import actions
from studio.context import Studio
from studio.markup import Html, tag

LAYER = 96  # pixels of the longer side of a map; the browser smooths it


class Look(NamedTuple):
    """One phrase by one run: `label` says which run."""

    label: str
    asked: Asked
    heat: np.ndarray


def look(label: str, maps: Heatmaps, place: int) -> Look:
    return Look(label, maps.asked[place], maps.maps[place])


def outcome(asked: Asked) -> str:
    """Hit, miss, or that nobody knows."""
    return {True: "hit", False: "miss", None: "no box known"}[asked.hit]


def thumbnails(found: Sequence[tuple[int, Look]]) -> Html:
    """Phrases to choose from, each with its place."""
    shown = [
        tag(
            "figure",
            _picture(one, f"/media/thumb/{one.asked.digest}?size=320"),
            tag("figcaption", tag("b", outcome(one.asked)), f" {one.asked.text}", title=one.asked.text),
            data_pick=place,
            tabindex=0,
            aria_selected="false",
        )
        for place, one in found
    ]
    return tag("div", shown, class_="w-shots")


def side_by_side(looks: Sequence[Look]) -> Html:
    """The same phrase on the same image by one run or more, large."""
    shown = [
        tag(
            "figure",
            _picture(one, f"/media/blob/{one.asked.digest}"),
            tag("figcaption", tag("b", f"{one.label}: {outcome(one.asked)}"), f" “{one.asked.text}”"),
        )
        for one in looks
    ]
    return tag("div", shown, class_="w-shots large")


def _picture(one: Look, address: str) -> Html:
    asked = one.asked
    size = {"width": asked.width, "height": asked.height}
    boxes = [tag("rect", x=x, y=y, width=w, height=h, class_="truth") for x, y, w, h in asked.boxes]
    return tag(
        "svg",
        tag("image", href=address, preserveAspectRatio="none", **size),
        tag("image", href=_layer(one), preserveAspectRatio="none", **size),
        boxes,
        _point(asked),
        viewBox=f"0 0 {asked.width} {asked.height}",
        preserveAspectRatio="xMidYMid meet",
        role="img",
        aria_label=f"{one.label} looks for {asked.text} at {asked.point[0]:.0f}, {asked.point[1]:.0f}: {outcome(asked)}",
        class_="w-picture",
    )


def _layer(one: Look) -> str:
    factor = LAYER / max(one.asked.width, one.asked.height)
    size = max(1, round(one.asked.width * factor)), max(1, round(one.asked.height * factor))
    return f"data:image/png;base64,{base64.b64encode(png(tinted(one.heat, size))).decode()}"


def _point(asked: Asked) -> Html:
    """A ring where the phrase is hit, a cross where it is missed, so that no colour is needed to tell them apart."""
    (x, y), r = asked.point, max(asked.width, asked.height) / 30
    if asked.hit is not False:
        return tag("circle", cx=x, cy=y, r=r, fill="none", class_="right")
    path = f"M {x - r:.1f} {y - r:.1f} L {x + r:.1f} {y + r:.1f} M {x - r:.1f} {y + r:.1f} L {x + r:.1f} {y - r:.1f}"
    return tag("path", d=path, fill="none", class_="wrong")


def changed(first: Heatmaps, second: Heatmaps) -> dict[str, list[int]]:
    """The places of the phrases that both asked, by what became of them."""
    places: dict[str, list[int]] = {"won": [], "lost": [], "hit by both": [], "missed by both": []}
    for place, (one, other) in enumerate(zip(first.asked, second.asked, strict=True)):
        name = {(False, True): "won", (True, False): "lost", (True, True): "hit by both"}.get(
            (bool(one.hit), bool(other.hit)), "missed by both"
        )
        places[name].append(place)
    return places


def alone(maps: Heatmaps) -> dict[str, list[int]]:
    """The places of the phrases of one run by hit and miss."""
    places: dict[str, list[int]] = {"hit": [], "miss": []}
    for place, one in enumerate(maps.asked):
        places["hit" if one.hit else "miss"].append(place)
    return places


# On the command line


def attend(studio: Studio, *, train_run: int, snapshot: str, file_name: str, text: str) -> Run:
    """Queue a question about an image by its file name. Raises WinnowError for one that the snapshot does not have."""
    found = studio.store.snapshots.get(snapshot)
    _, samples = studio.store.snapshots.samples(found)
    image = next((sample.image for sample in samples if sample.image.file_name == file_name), None)
    if image is None:
        near = ", ".join(sample.image.file_name for sample in samples[:3])
        raise WinnowError(f"Snapshot {snapshot!r} has no image {file_name!r}. Its first ones are {near}.")
    return actions.start_attend(studio, train_run=train_run, snapshot=snapshot, image_id=image.id, text=text)


def written(studio: Studio, run: Run, out: Path) -> Asked:
    """Writes the answer to a question as a PNG file. Raises WinnowError for a run that has none."""
    maps = heatmaps.kept(studio.store, run)
    asked = maps.asked[0]
    image = decode(studio.store.blobs.get(asked.digest))
    out.write_bytes(png(heatmaps.over(image, maps.maps[0], asked)))
    return asked

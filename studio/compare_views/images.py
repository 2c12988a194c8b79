"""Image after image with what was found in it."""

from __future__ import annotations

import numpy as np

from db.records import Run
from engine import comparison
from studio import comparing
from studio.compare_views.asked import Asked, View, judged_of, label_names, label_of, paged
from studio.comparing import Mark, Shot
from studio.context import Studio
from studio.markup import Html, join, section, tag

THUMBNAILS = 18  # a page


def _first_image(studio: Studio, told: Asked, pick: str) -> str:
    judged = comparison.judged(studio.store, judged_of(studio, told)[0])
    return pick if pick.isdigit() and int(pick) < len(judged.images) else "0"


def _images(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    """Thumbnails with the boxes of the last run."""
    run = judged_of(studio, told)[-1]
    judged = comparison.judged(studio.store, run)
    part, pages = paged(list(range(len(judged.images))), page, THUMBNAILS)
    found = [_image(studio, told, run, at, f"{at}", large=False) for at in part]
    lead = tag("p", f"Boxes of {label_of(studio, run)}; choose an image to see it large.", class_="w-quiet")
    kinds = comparing.keys("right", "wrong", "missed")
    return join(lead, kinds, comparing.shots(found), comparing.turn(page, pages))


def _image(studio: Studio, told: Asked, run: Run, at: int, pick: str | None, *, large: bool) -> Shot:
    """One image with what the run found in it from the threshold on, and what it did not find."""
    judged = comparison.judged(studio.store, run)
    names = label_names(studio, run, judged)
    image = studio.store.datasets.image(int(judged.images[at]))
    known, found = comparison.on_image(judged, at, told.threshold)
    verdict = judged.verdict[found]
    hit = set(judged.partner[found[verdict == comparison.HIT]].tolist())
    marks = [
        Mark(judged.box_xywh[box].tolist(), "missed", names[int(judged.label(judged.box_pair[box]))])
        for box in known.tolist()
        if box not in hit and not judged.ignored[box]
    ]
    marks += [
        Mark(
            judged.xywh[one].tolist(),
            "right" if what == comparison.HIT else "wrong",
            f"{names[int(judged.label(judged.pair[one]))]} {judged.score[one]:.2f}",
        )
        for one, what in zip(found.tolist(), verdict.tolist(), strict=True)
        if what != comparison.IGNORED
    ]
    counts = {kind: sum(mark.kind == kind for mark in marks) for kind in ("right", "wrong", "missed")}
    said = f"{counts['right']} found, {counts['wrong']} wrong, {counts['missed']} not found"
    caption = join(tag("b", label_of(studio, run) if large else image.file_name), tag("div", said))
    return Shot(image.digest or "", image.width, image.height, marks, caption, pick=pick)


def _one_image(studio: Studio, told: Asked, pick: str, page: int) -> Html:
    runs = judged_of(studio, told)
    known = [comparison.judged(studio.store, run).images for run in runs]
    image_id = known[0][int(pick)]
    shown = [
        _image(studio, told, run, int(np.searchsorted(images, image_id)), None, large=True)
        for run, images in zip(runs, known, strict=True)
        if image_id in images
    ]
    name = studio.store.datasets.image(int(image_id)).file_name
    return section(name, comparing.shots(shown, large=True))


IMAGES = View("Images", _images, _one_image, _first_image, by_box=True)

"""One candidate by its id (`/api/candidates/...`), with the other attempts at its target and its verdicts; and masks of boxes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Annotated, Any

import msgspec
import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from PIL import Image as Picture
from PIL import ImageDraw

from db.errors import WinnowError
from db.records import Candidate, Verdict
from db.store import Store
from studio import views
from studio.api import MEDIA_HEADERS, Refused, Route, RowId, answer

MOST_SIBLINGS = 24
Id = Annotated[RowId, Path()]


def router(store: Store) -> APIRouter:
    """The routes on one store."""
    routes = APIRouter(route_class=Route)

    @routes.get("/api/candidates/{candidate_id}")
    def candidate(
        candidate_id: Id,
        reviewer: Annotated[str, Query(min_length=1, max_length=200)] = "local",
        audit: Annotated[RowId | None, Query()] = None,
    ) -> Response:
        """Its card, its siblings and its verdicts; without what others said where this person is to decide unseen."""
        found = store.review.candidate(candidate_id)
        if audit is not None and store.audits.audit(audit).hide:
            return answer(_untold(store, found, views.blind))
        if candidate_id in store.people.unseen([candidate_id], reviewer):
            return answer(_untold(store, found, views.unjudged))
        return answer(_told(store, found))

    @routes.get("/media/mask/{box_id}")
    def mask(box_id: Id, request: Request) -> Response:
        """The mask of a box as a white PNG, see-through where it is not."""
        box = store.datasets.box(box_id)
        if box.segmentation is None:
            raise Refused(404, f"Box {box_id} has no mask.")
        image = store.datasets.image(box.image_id)
        headers = MEDIA_HEADERS | {"ETag": f'"mask-{box_id}"'}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(_png(box.segmentation, image.width, image.height), headers=headers, media_type="image/png")

    return routes


def _told(store: Store, found: Candidate) -> dict[str, Any]:
    (card,) = views.cards(store, [found])
    version, by = store.people.versions([found.id]).get(found.id, (0, None))
    return {
        "card": card | {"version": version, "by": by},
        "siblings": [_sibling(one, one.human) for one in _siblings(store, found)],
        "verdicts": [_verdict(one) for one in store.review.verdicts(found.id)],
    }


def _untold(store: Store, found: Candidate, less: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The same for somebody who must not know what was said of it: `less` is what they may see of a card."""
    (card,) = views.cards(store, [found])
    siblings = [_sibling(one, None) for one in _siblings(store, found)]
    return {"card": less(card) | {"version": 0}, "siblings": siblings, "verdicts": []}


def _siblings(store: Store, found: Candidate) -> list[Candidate]:
    return [one for one in store.review.siblings(found) if one.id != found.id][:MOST_SIBLINGS]


def _sibling(one: Candidate, human: str | None) -> dict[str, Any]:
    return {"id": one.id, "human": human, "thumb": one.digest and f"/media/thumb/{one.digest}", "text": one.text_after}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in ("decision", "reviewer", "reason", "at")}


# Masks


@lru_cache(maxsize=256)
def _png(segmentation: bytes, width: int, height: int) -> bytes:
    inside = rasterised(msgspec.json.decode(segmentation), width, height)
    pixels = np.full((height, width, 4), 255, np.uint8)
    pixels[..., 3] = np.where(inside, 255, 0)
    out = BytesIO()
    Picture.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def rasterised(segmentation: Any, width: int, height: int) -> np.ndarray:
    """bool[height, width] of a COCO segmentation: polygons, or run lengths as numbers or as COCO's text.

    Raises WinnowError when the run lengths are of another size than the image.
    """
    if isinstance(segmentation, list):
        canvas = Picture.new("1", (width, height))
        for polygon in segmentation:
            ImageDraw.Draw(canvas).polygon([(x, y) for x, y in zip(polygon[::2], polygon[1::2], strict=True)], fill=1)
        return np.asarray(canvas, bool)
    counts = segmentation["counts"]
    lengths = run_lengths(counts) if isinstance(counts, str) else counts
    if list(segmentation["size"]) != [height, width] or sum(lengths) != width * height:
        raise WinnowError(
            f"The mask is of size {segmentation['size']}, its image of {[height, width]} (height, width)."
        )
    runs = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return runs.reshape(width, height).T


def run_lengths(text: str) -> list[int]:
    """COCO's compressed run lengths: numbers of 5 bits a letter, lowest first; from the third on, the difference to the one
    two places before (`rleFrString` of the COCO API)."""
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths

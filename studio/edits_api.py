"""The routes of the editor (`/api/edits/...`): the annotations of an image, their versions, and corrections of them.

A correction answers like a verdict: what became of each, in order; sending one twice is harmless. A conflict with what
somebody else made is answered with status 409, their version in it, and changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from db.edits import Annotations, Draft, Edit, Kept, Version, presence
from db.errors import NotFound
from db.formats.coco import numbered
from db.formats.lvis import NEGATIVE, PARTIAL
from db.records import Box, Category, Phrase
from db.store import Store
from studio.api import Refused, Route, RowId, answer, from_our_pages

MAX_BODY = 8 * 2**20
MAX_EDITS = 50
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Id = Annotated[RowId, Path()]


class Delivered(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A correction as a browser sends it."""

    op_id: Annotated[str, msgspec.Meta(min_length=8, max_length=80)]
    image_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    base: Annotated[int, msgspec.Meta(ge=0)]
    draft: Draft
    reviewer: Text = "local"

    def edit(self) -> Edit:
        return Edit(**{name: getattr(self, name) for name in self.__struct_fields__})


def router(store: Store) -> APIRouter:
    """The routes on one store."""
    routes = APIRouter(route_class=Route, prefix="/api/edits")

    @routes.get("/image/{image_id}")
    def image(image_id: Id) -> Response:
        """What the editor shows of an image: its newest version, what the imported files say of its classes, and who made which version."""
        return answer(_shown(store, image_id))

    @routes.get("/image/{image_id}/{number}")
    def version(image_id: Id, number: Annotated[int, Path(ge=0)]) -> Response:
        """An older version, to go back to it."""
        found = next((one for one in store.edits.versions(image_id) if one.number == number), None)
        if found is None:
            raise NotFound(f"version of image {image_id}", number)
        return answer(_annotations(found.annotations))

    @routes.get("/classes/{dataset_id}")
    def classes(dataset_id: Id) -> Response:
        """All classes of a data set, for typing ahead."""
        store.datasets.get(dataset_id)
        return answer([_class(category) for category in store.datasets.categories(dataset_id)])

    @routes.post("", dependencies=[Depends(from_our_pages)])
    async def save(request: Request) -> Response:
        """Add corrections."""
        delivered = _delivered(await request.body())
        kept = await run_in_threadpool(store.edits.save, [one.edit() for one in delivered])
        beaten = any(one.status == "conflict" for one in kept)
        return answer([_told(one) for one in kept], 409 if beaten else 200)

    return routes


def _delivered(body: bytes) -> list[Delivered]:
    if len(body) > MAX_BODY:
        raise Refused(413, f"The request has {len(body)} bytes; at most {MAX_BODY} are taken.")
    try:
        delivered = msgspec.json.decode(body, type=list[Delivered])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Refused(422, f"Not a list of corrections: {error}.") from error
    if len(delivered) > MAX_EDITS:
        raise Refused(413, f"{len(delivered)} corrections at once; send at most {MAX_EDITS}.")
    return delivered


def _shown(store: Store, image_id: int) -> dict[str, Any]:
    found, versions = store.datasets.image(image_id), store.edits.versions(image_id)
    numbers = numbered((one.id, one.source_id) for one in store.datasets.categories(found.dataset_id))
    newest = versions[0]
    return {
        "image": {
            "id": found.id,
            "dataset": found.dataset_id,
            "name": found.file_name,
            "size": [found.width, found.height],
        },
        "url": found.digest and f"/media/blob/{found.digest}",
        "number": newest.number,
        **_annotations(newest.annotations),
        "known": presence(found, Annotations(), numbers, (NEGATIVE, PARTIAL)),
        "versions": [_headline(version) for version in versions],
    }


def _annotations(annotations: Annotations) -> dict[str, Any]:
    return {
        "boxes": [_box(box) for box in annotations.boxes],
        "phrases": [_phrase(phrase) for phrase in annotations.phrases],
        "classes": annotations.classes,
    }


def _box(box: Box) -> dict[str, Any]:
    return {"id": box.id, "xyxy": box.xyxy, "category_id": box.category_id, "masked": box.segmentation is not None}


def _phrase(phrase: Phrase) -> dict[str, Any]:
    copied = ("id", "text", "parent_id", "spans", "box_ids", "holds")
    return {name: getattr(phrase, name) for name in copied}


def _class(category: Category) -> dict[str, Any]:
    synonyms = category.extra.get("synonyms")
    return {"id": category.id, "name": category.name, "synonyms": synonyms if isinstance(synonyms, list) else []}


def _headline(version: Version) -> dict[str, Any]:
    said = version.annotations
    counts = {"boxes": len(said.boxes), "phrases": len(said.phrases)}
    return {"number": version.number, "reviewer": version.reviewer, "at": version.at, **counts}


def _told(kept: Kept) -> dict[str, Any]:
    theirs = kept.theirs and {**_headline(kept.theirs), **_annotations(kept.theirs.annotations)}
    return {
        "op_id": kept.op_id,
        "status": kept.status,
        "message": kept.message,
        "number": kept.number,
        "theirs": theirs,
    }

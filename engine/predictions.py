"""Predictions as files: COCO results, with the ids that a COCO export of the snapshot has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from db.errors import WinnowError
from db.formats.coco import numbered
from db.records import Run, RunKind, State
from db.store import Store
from engine.evaluation.coco import CocoResult, evaluate
from engine.folder import split_coco

Ids = tuple[Mapping[int, Any], Mapping[int, Any]]


def coco_results(store: Store, run: Run) -> list[dict[str, Any]]:
    """What a finished evaluation predicted, as rows of image_id, category_id, bbox and score."""
    if run.kind is not RunKind.EVALUATE or run.state is not State.DONE:
        raise WinnowError(f"Run {run.id} is no finished evaluation ({run.kind}, {run.state}).")
    images, categories = exported_ids(store, run.options["snapshot_id"])
    rows = msgspec.json.decode(store.blobs.get(run.result["predictions"]))
    return [{**row, "image_id": images[row["image_id"]], "category_id": categories[row["category_id"]]} for row in rows]


def found_document(store: Store, run: Run) -> dict[str, Any]:
    """What a look for a vocabulary found, as a COCO document whose annotations have scores: the images by the ids of a COCO
    export, the vocabulary as categories. Raises WinnowError for a run that looked for none."""
    if run.state is not State.DONE or "vocabulary" not in run.result:
        raise WinnowError(f"Run {run.id} is no finished look for a vocabulary ({run.kind}, {run.state}).")
    numbers, _ = exported_ids(store, run.options["snapshot_id"])
    rows = msgspec.json.decode(store.blobs.get(run.result["found"]))
    _, samples = store.snapshots.samples(store.snapshots.get(run.options["snapshot_id"]))
    images = [s.image for s in samples if s.image.split == run.options["split"] and s.image.digest]
    return {
        "images": [
            {"id": numbers[i.id], "file_name": i.file_name, "width": i.width, "height": i.height}
            for i in images
            if not i.extra.get("synthetic")
        ],
        "categories": [{"id": place, "name": name} for place, name in enumerate(run.result["vocabulary"], 1)],
        "annotations": [
            {**row, "id": place, "image_id": numbers[row["image_id"]]} for place, row in enumerate(rows, 1)
        ],
    }


def judge(store: Store, snapshot_id: int, split: str, path: Path) -> CocoResult:
    """The official metrics of a file of COCO results on the real images of a split. Raises WinnowError for a file that
    is not one, and for images and classes that the split does not have."""
    truth = split_coco(store, store.snapshots.get(snapshot_id), split)
    images, categories = exported_ids(store, snapshot_id)
    truth["images"] = [{**image, "id": images[image["id"]]} for image in truth["images"]]
    truth["categories"] = [{**category, "id": categories[category["id"]]} for category in truth["categories"]]
    truth["annotations"] = [
        {**note, "image_id": images[note["image_id"]], "category_id": categories[note["category_id"]]}
        for note in truth["annotations"]
    ]
    return evaluate(truth, _rows(path))


def exported_ids(store: Store, snapshot_id: int) -> Ids:
    """(ids of the images, ids of the categories) in a COCO export, by the ids of the store."""
    document = store.snapshots.document(store.snapshots.get(snapshot_id))
    images = numbered((image.id, image.source_id) for image in document.images())
    return images, numbered((category.id, category.source_id) for category in document.categories)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except (OSError, msgspec.MsgspecError) as error:
        raise WinnowError(f"{path} is not a file of COCO results, a list of boxes with scores. ({error})") from error

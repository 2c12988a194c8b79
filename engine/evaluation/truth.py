"""What an evaluation judges by, from a snapshot: the real images of one split as the document of a protocol."""

from __future__ import annotations

from typing import Any

from db.records import Snapshot
from db.store import Store
from engine.evaluation.boxes import Row
from engine.folder import split_coco

RARE, COMMON = 10, 100
"""Training images with a class, at most; the bounds of LVIS."""

BANDS = {"r": "rare", "c": "common", "f": "frequent"}
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


def detection(store: Store, snapshot: Snapshot, split: str) -> dict[str, Any]:
    """`engine.folder.split_coco`, and what LVIS judges by where the data set has it: the frequency of each class, and for
    each image the classes that were looked for in vain or not boxed in full, by the ids of the store.

    Raises WinnowError when the split has no images.
    """
    document = split_coco(store, snapshot, split)
    header, samples = store.snapshots.samples(snapshot)
    if not header.categories or not all(category.frequency in BANDS for category in header.categories):
        return document
    extra = {sample.image.id: sample.image.extra for sample in samples}
    ids = {category.source_id: category.id for category in header.categories}
    frequency = {category.id: category.frequency for category in header.categories}
    if not all(isinstance(extra[image["id"]].get(key), list) for image in document["images"] for key in FEDERATED):
        return document
    for image in document["images"]:
        image |= {key: [ids[one] for one in extra[image["id"]][key]] for key in FEDERATED}
    for category in document["categories"]:
        category["frequency"] = frequency[category["id"]]
    return document


def is_federated(document: Row) -> bool:
    """Whether a COCO document can be judged as LVIS."""
    images, categories = document["images"], document["categories"]
    return (
        bool(images and categories)
        and all(key in image for image in images for key in FEDERATED)
        and all(category.get("frequency") in BANDS for category in categories)
    )


def bands(store: Store, dataset_id: int) -> dict[str, str]:
    """rare, common or frequent, by the name of the class: as the data set says, else by the images that show it, those of
    the split `train` if there is one."""
    split = "train" if "train" in store.datasets.splits(dataset_id) else None
    return {
        category.name: BANDS.get(category.frequency or "", _band(images))
        for category, _, images in store.datasets.class_histogram(dataset_id, split)
    }


def _band(images: int) -> str:
    return "rare" if images <= RARE else "common" if images <= COMMON else "frequent"

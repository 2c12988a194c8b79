"""A snapshot as a plain COCO folder, for programs that read files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from db.errors import WinnowError
from db.records import Snapshot
from db.snapshots import Header, Sample
from db.store import Store
from engine.seeds import seed_of

WHOLE_IMAGE = "whole_image"  # origin of the box of a class image, and its mark where it was imported
HELD_OUT = 10  # without a validation split, one image in this many is held out


def training_folder(store: Store, snapshot: Snapshot, folder: Path, masks: bool = False) -> dict[str, int]:
    """Write `train.json` and `val.json` (COCO; image files by absolute path, `"synthetic": true` on generated ones and
    `"whole_image": true` on those that show one class and are boxed as a whole; with `masks`, the masks of the source).

    Training uses the split `train`, or everything outside `val` and `test`. Validation uses `val`, else real images held
    out by their id; what was generated from a held-out image is left out of training. Returns the images of each.
    Raises WinnowError when the snapshot has no box to learn from.
    """
    header, samples = store.snapshots.samples(snapshot)
    samples = [sample for sample in samples if sample.image.digest]
    splits = {sample.image.split for sample in samples}
    train = (
        [s for s in samples if s.image.split == "train"]
        if "train" in splits
        else [s for s in samples if s.image.split not in ("val", "test")]
    )
    val = [s for s in samples if s.image.split == "val" and _judges(s)]
    if not val:
        held = {s.image.id for s in train if _judges(s) and seed_of("held out", s.image.id) % HELD_OUT == 0}
        val = [s for s in train if s.image.id in held]
        train = [s for s in train if s.image.id not in held and s.image.extra.get("source_image") not in held]
    if not any(box.category_id is not None for sample in train for box in sample.boxes):
        raise WinnowError(f"Snapshot {snapshot.name!r} has no annotated image with its file to train on.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("val", val)):
        (folder / f"{name}.json").write_bytes(orjson.dumps(coco(store, header, part, masks)))
    return {"train": len(train), "val": len(val), "synthetic": sum(map(_synthetic, train))}


def split_coco(store: Store, snapshot: Snapshot, split: str) -> dict[str, Any]:
    """The real images of one split as a COCO dictionary. Raises WinnowError when there are none."""
    return coco(store, *real_samples(store, snapshot, split))


def real_samples(store: Store, snapshot: Snapshot, split: str) -> tuple[Header, list[Sample]]:
    """The real images of one split. Raises WinnowError when there are none."""
    header, samples = store.snapshots.samples(snapshot)
    real = [s for s in samples if s.image.digest and not _synthetic(s)]
    chosen = [sample for sample in real if sample.image.split == split]
    if not chosen:
        known = ", ".join(sorted({repr(sample.image.split) for sample in real}))
        raise WinnowError(f"Snapshot {snapshot.name!r} has no images of split {split!r}; it has {known or 'none'}.")
    return header, chosen


def coco(store: Store, header: Header, samples: Iterable[Sample], masks: bool = False) -> dict[str, Any]:
    """Samples as COCO with the ids of the store; class ids are those of the store's categories. Masks stay the JSON of
    the source, which `orjson` writes as it is."""
    images, annotations = [], []
    for sample in samples:
        image = sample.image
        path = store.blobs.path(image.digest or "")
        images.append(
            {
                "id": image.id,
                "file_name": str(path),
                "width": image.width,
                "height": image.height,
                "synthetic": _synthetic(sample),
                "whole_image": _whole(sample),
            }
        )
        for box in sample.boxes:
            if box.category_id is None:
                continue
            x1, y1, x2, y2 = box.xyxy
            width, height = x2 - x1, y2 - y1
            note = {
                "id": box.id,
                "image_id": image.id,
                "category_id": box.category_id,
                "bbox": [x1, y1, width, height],
                "area": width * height if box.area is None else box.area,
                "iscrowd": int(box.crowd),
            }
            if masks and box.segmentation:
                note["segmentation"] = orjson.Fragment(box.segmentation)
            annotations.append(note)
    categories = [{"id": category.id, "name": category.name} for category in header.categories]
    return {"images": images, "annotations": annotations, "categories": categories}


def _judges(sample: Sample) -> bool:
    """Whether a detector can be judged by it: a real image whose objects are boxed."""
    return not _synthetic(sample) and not _whole(sample)


def _whole(sample: Sample) -> bool:
    """Whether its box is all of it: an image of a class (RichSem)."""
    return any(box.extra.get(WHOLE_IMAGE) or box.extra.get("origin") == WHOLE_IMAGE for box in sample.boxes)


def _synthetic(sample: Sample) -> bool:
    return bool(sample.image.extra.get("synthetic"))

"""A snapshot as training data for models that are taught where to look: AMC's list of images, texts and boxes.

`train.json` is the layout of AMC's training code (METHODS 2.2): a list of `{"image": path, "caption": text or texts, "bbox":
[[x1, y1, x2, y2], ...]}`. Without `bbox` it is a pair of an image and its texts. `"synthetic": true`, Winnow's own, marks
generated images. `val.json` holds the phrases of the validation images for the pointing game. Files are named by absolute path.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from db.errors import WinnowError
from db.records import XYXY, Snapshot
from db.snapshots import Header, Sample
from db.store import Store
from engine.folder import HELD_OUT
from engine.seeds import seed_of

Row = dict[str, Any]
TRAIN, VAL = "train.json", "val.json"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image with a text that names its boxes [x1, y1, x2, y2], or, without boxes, with what is said of all of it. Of several
    texts each visit draws one."""

    image: str
    caption: str | list[str]
    bbox: list[XYXY] = []
    synthetic: bool = False

    @property
    def texts(self) -> list[str]:
        return [self.caption] if isinstance(self.caption, str) else self.caption


def write_entries(path: Path, entries: Sequence[Entry]) -> None:
    """The entries as a file."""
    path.write_bytes(msgspec.json.encode(entries))


def read_entries(path: Path) -> list[Entry]:
    """The entries of a file. Raises WinnowError for one that is missing or is none, and lists entries that make no sense."""
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[Entry])
    except (OSError, msgspec.MsgspecError) as error:
        raise WinnowError(
            f"{path} should be a list of image, caption and bbox, as AMC's training reads: {error}"
        ) from error
    faults = [f"entry {place}: {fault}" for place, entry in enumerate(entries, 1) if (fault := _fault(entry))]
    if faults:
        raise WinnowError(f"{path}: {len(faults)} entries make no sense. {'; '.join(faults[:5])}.")
    return entries


def _fault(entry: Entry) -> str:
    if not any(text.strip() for text in entry.texts):
        return "it has no caption"
    odd = [box for box in entry.bbox if not (box[0] < box[2] and box[1] < box[3])]
    return f"the box {list(odd[0])} should be [x1, y1, x2, y2] with x1 < x2 and y1 < y2" if odd else ""


def attention_folder(store: Store, snapshot: Snapshot, folder: Path) -> dict[str, int]:
    """Write the snapshot's phrases with their boxes, and its captions as pairs; returns what there is, counted.

    Training uses the split `train`, or everything outside `val` and `test`, the generated images among it. Validation uses the
    real images of `val`, else some that are held out by their id; what was painted from those is then left out. An image whose
    boxes no text names has the names of its classes for phrases. Raises WinnowError when there is nothing to learn from.
    """
    header, samples = store.snapshots.samples(snapshot)
    train, val = _parts([sample for sample in samples if sample.image.digest])
    entries = [entry for sample in train for entry in _entries(store, header, sample)]
    if not entries:
        raise WinnowError(f"Snapshot {snapshot.name!r} has no image with a text to learn from.")
    folder.mkdir(parents=True, exist_ok=True)
    write_entries(folder / TRAIN, entries)
    (folder / VAL).write_bytes(orjson.dumps({"phrases": list(_asked(store, header, val))}))
    boxed = sum(bool(entry.bbox) for entry in entries)
    generated = sum(_synthetic(sample) for sample in train)
    return {
        "train": len(train),
        "val": len(val),
        "synthetic": generated,
        "phrases with boxes": boxed,
        "pairs": len(entries) - boxed,
    }


def split_phrases(store: Store, snapshot: Snapshot, split: str) -> list[Row]:
    """The phrases of the real images of one split: id, image (its file), image_id, digest, width, height, text, boxes (xywh), and
    as `proposals` all boxes of the image. Raises WinnowError when there are none."""
    header, samples = store.snapshots.samples(snapshot)
    real = [s for s in samples if s.image.digest and not _synthetic(s)]
    found = list(_asked(store, header, [sample for sample in real if sample.image.split == split]))
    if not found:
        known = sorted({sample.image.split for sample in real})
        raise WinnowError(
            f"Snapshot {snapshot.name!r} has no phrase with a box on the images of split {split!r}; it has the splits "
            f"{', '.join(known) or 'none'}."
        )
    return found


def asked_phrases(store: Store, snapshot: Snapshot, asks: Sequence[Row]) -> list[Row]:
    """Any phrases (image_id, text) as those of `split_phrases`, with their boxes where the snapshot knows the phrase. Raises
    WinnowError for an image that the snapshot does not have, or has no file of."""
    header, samples = store.snapshots.samples(snapshot)
    known = {sample.image.id: sample for sample in samples if sample.image.digest}
    missing = [str(ask["image_id"]) for ask in asks if ask["image_id"] not in known]
    if missing:
        raise WinnowError(f"Snapshot {snapshot.name!r} has no image {', '.join(missing)} with its file.")
    return [
        _row(
            store,
            known[ask["image_id"]],
            number,
            ask["text"],
            _named(header, known[ask["image_id"]]).get(ask["text"], []),
        )
        for number, ask in enumerate(asks, 1)
    ]


def _parts(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """(images to train on, real images to validate on)."""
    splits = {sample.image.split for sample in samples if not _synthetic(sample)}
    left_out = ("val", "test", "testA", "testB")
    train = [
        s for s in samples if s.image.split == "train" or ("train" not in splits and s.image.split not in left_out)
    ]
    val = [sample for sample in samples if sample.image.split == "val" and not _synthetic(sample)]
    if val:
        return train, val
    held = {s.image.id for s in train if not _synthetic(s) and seed_of("held out", s.image.id) % HELD_OUT == 0}
    kept = [s for s in train if s.image.id not in held and s.image.extra.get("source_image") not in held]
    return kept, [sample for sample in train if sample.image.id in held]


def _entries(store: Store, header: Header, sample: Sample) -> Iterator[Entry]:
    path, synthetic = str(store.blobs.path(sample.image.digest or "")), _synthetic(sample)
    for text, boxes in _named(header, sample).items():
        yield Entry(path, text, boxes, synthetic)
    whole = [p.text for p in sample.phrases if p.holds and p.parent_id is None and not p.box_ids and p.text.strip()]
    if whole:
        yield Entry(path, whole, [], synthetic)


def _named(header: Header, sample: Sample) -> dict[str, list[XYXY]]:
    """Each text that names boxes with these: the phrases, or the classes where there are none."""
    boxes = {box.id: box for box in sample.boxes if not box.crowd}
    found: dict[str, list[XYXY]] = defaultdict(list)
    for phrase in sample.phrases:
        named = [boxes[i].xyxy for i in phrase.box_ids if i in boxes]
        if phrase.holds and named and phrase.text.strip():
            found[phrase.text] += [box for box in named if box not in found[phrase.text]]
    if found:
        return found
    names = {category.id: category.name for category in header.categories}
    for box in boxes.values():
        if box.category_id in names:
            found[names[box.category_id]].append(box.xyxy)
    return found


def _asked(store: Store, header: Header, samples: Iterable[Sample]) -> Iterator[Row]:
    named = ((sample, text, boxes) for sample in samples for text, boxes in _named(header, sample).items())
    for number, (sample, text, boxes) in enumerate(named, 1):
        yield _row(store, sample, number, text, boxes)


def _row(store: Store, sample: Sample, number: int, text: str, boxes: Sequence[XYXY]) -> Row:
    image = sample.image
    return {
        "id": number,
        "image": str(store.blobs.path(image.digest or "")),
        "image_id": image.id,
        "digest": image.digest,
        "width": image.width,
        "height": image.height,
        "text": text,
        "boxes": [_xywh(box) for box in boxes],
        "proposals": [_xywh(box.xyxy) for box in sample.boxes if not box.crowd],
    }


def _xywh(box: XYXY) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _synthetic(sample: Sample) -> bool:
    return bool(sample.image.extra.get("synthetic"))

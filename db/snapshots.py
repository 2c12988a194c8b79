"""Frozen selections: the annotations of a data set plus what was accepted, written once and named by their digest.

The manifest is a blob of JSON lines: a header with the categories, then one line per image with its boxes and phrases.
Nothing in it depends on a clock, so freezing the same selection twice gives the same digest.
"""

from __future__ import annotations

import builtins
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
from sqlalchemy import Row, select

from db import schema
from db.blobs import Blobs
from db.codec import pack, unpack
from db.database import Database
from db.datasets import Datasets
from db.document import Document, Stored
from db.edits import Annotations, Edits, with_presence
from db.errors import NotFound, WinnowError, not_written
from db.formats.coco import numbered
from db.formats.lvis import NEGATIVE, PARTIAL
from db.queries import Policies
from db.records import WHOLE, Box, Candidate, Category, Content, Image, Kind, Phrase, Record, Snapshot
from db.review import Review
from db.spool import in_order

R = TypeVar("R", bound=Record)


class Header(Record, frozen=True, kw_only=True):
    dataset: str
    format: str
    categories: tuple[Category, ...]
    info: dict[str, Any] = msgspec.field(default_factory=dict)


class Sample(Record, frozen=True, kw_only=True):
    """An image of the snapshot. `candidate_ids` are the accepted candidates that made or changed it."""

    image: Image
    boxes: tuple[Box, ...] = ()
    phrases: tuple[Phrase, ...] = ()
    candidate_ids: tuple[int, ...] = ()


class Snapshots:
    def __init__(self, database: Database, blobs: Blobs, datasets: Datasets, review: Review, edits: Edits) -> None:
        self._db, self._blobs, self._datasets, self._review, self._edits = database, blobs, datasets, review, edits

    def freeze(self, name: str, dataset_id: int, policies: Policies | None = None) -> Snapshot:
        """Freeze a data set as people corrected it, under a new name; with `policies` given, together with its accepted
        candidates.

        Raises WinnowError when the name is taken.
        """
        if any(snapshot.name == name for snapshot in self.list()):
            raise WinnowError(f"A snapshot named {name!r} exists already. Choose another name; snapshots never change.")
        dataset = self._datasets.get(dataset_id)
        header = Header(
            dataset=dataset.name,
            format=dataset.format,
            categories=tuple(self._datasets.categories(dataset_id)),
            info=dataset.info,
        )
        accepted = None if policies is None else list(self._review.accepted(dataset_id, policies))
        policy_ids = {policy.id for policy in (policies or {}).values()}
        digest, counts = self._put(header, self._samples(dataset_id, accepted))
        return self._save(name, dataset_id, digest, counts, max(policy_ids, default=None))

    def _put(self, header: Header, samples: Iterable[Sample]) -> tuple[str, dict[str, int]]:
        """Store the manifest; no more than one sample is an object at a time. Returns its digest and what it counts."""
        try:
            with tempfile.TemporaryFile(prefix="winnow-") as file:
                counts = _write(file, header, samples)
                file.seek(0)
                return self._blobs.put(file.read()), counts
        except OSError as error:
            raise not_written(error, "The snapshot was not frozen") from error

    def list(self, dataset_id: int | None = None) -> builtins.list[Snapshot]:
        """Newest first."""
        query = select(schema.snapshot).order_by(schema.snapshot.c.id.desc())
        if dataset_id is not None:
            query = query.where(schema.snapshot.c.dataset_id == dataset_id)
        with self._db.read() as connection:
            return [_snapshot(row) for row in connection.execute(query)]

    def get(self, name_or_id: str | int) -> Snapshot:
        column = schema.snapshot.c.id if isinstance(name_or_id, int) else schema.snapshot.c.name
        with self._db.read() as connection:
            row = connection.execute(select(schema.snapshot).where(column == name_or_id)).one_or_none()
        if row is None:
            raise NotFound("snapshot", name_or_id, [snapshot.name for snapshot in self.list()])
        return _snapshot(row)

    def samples(self, snapshot: Snapshot) -> tuple[Header, builtins.list[Sample]]:
        manifest = _Manifest(self._blobs.path(snapshot.digest))
        return manifest.header, list(manifest.read(Sample))

    def document(self, snapshot: Snapshot, split: str | None = None) -> Document:
        """The snapshot as something a format can write; of one split only when it is named. Read line by line: memory
        does not grow with its size."""
        manifest = _Manifest(self._blobs.path(snapshot.digest), split)
        return Document(
            format=manifest.header.format,
            categories=list(manifest.header.categories),
            info=manifest.header.info,
            images=lambda: (sample.image for sample in manifest.read(_Pictured)),
            boxes=Stored(lambda: in_order(manifest.boxes, Box, attrgetter("id")), manifest.boxes_of),
            phrases=Stored(lambda: in_order(manifest.phrases, Phrase, attrgetter("id")), manifest.phrases_of),
            file_of=lambda image: self._blobs.path(image.digest) if image.digest else None,
        )

    def _samples(self, dataset_id: int, accepted: builtins.list[Candidate] | None) -> Iterator[Sample]:
        """The real images, with accepted negative texts, without those that were judged and not accepted; then one synthetic
        image per accepted painting, and those that were made from words. Of None every real image as it is."""
        document = self._datasets.document(dataset_id)
        ids = Ordinals(self._datasets.last_ids(dataset_id))
        numbers = numbered((category.id, category.source_id) for category in document.categories)
        corrected = {
            image_id: corrected_sample(self._real(image_id), version.annotations, numbers, ids)
            for image_id, version in self._edits.corrected_in(dataset_id).items()
        }
        real = (
            corrected.get(image.id) or Sample(image=image, boxes=tuple(boxes), phrases=tuple(phrases))
            for image, boxes, phrases in document.samples()
        )
        if accepted is None:
            yield from real
            return
        texts: dict[int, builtins.list[Candidate]] = {}
        for candidate in accepted:
            if candidate.kind is Kind.NEGATIVE_TEXT:
                texts.setdefault(candidate.image_id, []).append(candidate)
        whole = [candidate for candidate in accepted if candidate.kind in WHOLE]
        kept = {candidate.image_id: candidate for candidate in whole if candidate.digest is None}
        refused = self._review.images_judged(dataset_id) - kept.keys()
        for sample in real:
            image_id = sample.image.id
            if image_id in kept:
                yield stated_sample(sample, kept[image_id], self._edit(kept[image_id]), ids)
            elif image_id not in refused:
                yield with_negatives(sample, [(c, self._edit(c)) for c in texts.get(image_id, [])], ids)
        for group in _pictures(accepted):
            source = corrected.get(group[0].image_id) or self._real(group[0].image_id)
            yield painted_sample(source, [(c, self._edit(c)) for c in group], numbers, ids)
        for candidate in whole:
            if candidate.digest is not None:
                origin = self._datasets.image(candidate.image_id)
                yield made_sample(origin, candidate, self._edit(candidate), ids)

    def _real(self, image_id: int) -> Sample:
        """An image of the data set as it was imported."""
        return Sample(
            image=self._datasets.image(image_id),
            boxes=tuple(self._datasets.boxes_of([image_id])[image_id]),
            phrases=tuple(self._datasets.phrases_of([image_id])[image_id]),
        )

    def _edit(self, candidate: Candidate) -> dict[str, Any]:
        """The corrections of the person who accepted it with changes."""
        standing = self._review.standing(candidate.id) if candidate.human == "edit" else None
        return (standing.edit if standing else None) or {}

    def _save(self, name: str, dataset_id: int, digest: str, counts: dict[str, int], policy_id: int | None) -> Snapshot:
        values = {
            "name": name,
            "dataset_id": dataset_id,
            "digest": digest,
            "policy_id": policy_id,
            "created_at": time.time(),
        }
        with self._db.write() as connection:
            statement = schema.snapshot.insert().values(**values, counts=pack(counts) or b"{}")
            connection.execute(statement)
        return self.get(name)


class Ordinals:
    """Fresh ids for what a snapshot adds; they follow the last ids of the data set."""

    def __init__(self, last: dict[str, int]) -> None:
        self._last = dict(last)

    def next(self, kind: str) -> int:
        self._last[kind] += 1
        return self._last[kind]


def corrected_sample(sample: Sample, annotations: Annotations, numbers: dict[int, Any], ids: Ordinals) -> Sample:
    """The sample as people corrected it. What they added gets real ids; what they said of classes goes into the lists of
    LVIS, by the ids (`numbers`) that the classes have in the files."""
    box_ids = {box.id: box.id if box.id >= 0 else ids.next("box") for box in annotations.boxes}
    phrase_ids = {one.id: one.id if one.id >= 0 else ids.next("phrase") for one in annotations.phrases}
    phrases = (
        msgspec.structs.replace(
            phrase,
            id=phrase_ids[phrase.id],
            parent_id=None if phrase.parent_id is None else phrase_ids[phrase.parent_id],
            box_ids=tuple(box_ids[i] for i in phrase.box_ids),
        )
        for phrase in annotations.phrases
    )
    return Sample(
        image=with_presence(sample.image, annotations, numbers, (NEGATIVE, PARTIAL)),
        boxes=tuple(msgspec.structs.replace(box, id=box_ids[box.id]) for box in annotations.boxes),
        phrases=tuple(phrases),
    )


def _pictures(accepted: Iterable[Candidate]) -> builtins.list[builtins.list[Candidate]]:
    """Accepted paintings by the picture that shows them: those of one scene share theirs."""
    groups: dict[tuple[int, str | None], builtins.list[Candidate]] = {}
    for candidate in accepted:
        if candidate.kind is not Kind.NEGATIVE_TEXT and candidate.kind not in WHOLE:
            scene = candidate.detail.get("scene") or f"candidate {candidate.id}"
            groups.setdefault((candidate.run_id, scene), []).append(candidate)
    return list(groups.values())


def painted_sample(
    source: Sample, painted: builtins.list[tuple[Candidate, dict[str, Any]]], numbers: dict[int, Any], ids: Ordinals
) -> Sample:
    """The synthetic image of accepted paintings in one picture: its boxes are those of the source image, the painted ones
    replaced (or added when nothing was replaced). What else was painted into the picture and is not accepted loses its
    box; the pixels stay (Gen2Det, section 3.2). Painted boxes have no mask. The second of each pair holds a person's
    corrections: `xyxy`, `category_id`, `text_after`. `numbers` are the ids that the classes have in the files."""
    first = painted[0][0]
    assert first.digest
    image_id = ids.next("image")
    extra: dict[str, Any] = {"synthetic": True, "candidate": first.id, "source_image": source.image.id}
    new = [(candidate, edit, _painted_box(candidate, edit, image_id, ids)) for candidate, edit in painted]
    extra |= _class_lists(source.image, {numbers[box.category_id] for _, _, box in new if box.category_id in numbers})
    image = msgspec.structs.replace(
        source.image,
        id=image_id,
        file_name=f"winnow/{first.id:08d}.{first.detail.get('suffix', 'png')}",
        digest=first.digest,
        source_id=None,
        extra=extra,
    )
    gone = {candidate.box_id for candidate, _ in painted} | set(first.detail.get("scene_boxes", ()))
    kept = [other for other in source.boxes if other.id not in gone]
    boxes = [msgspec.structs.replace(b, id=ids.next("box"), image_id=image_id, source_id=None) for b in kept]
    phrases = [phrase for candidate, edit, box in new for phrase in _phrases_of(candidate, edit, image_id, box.id, ids)]
    return Sample(
        image=image,
        boxes=(*(box for _, _, box in new), *boxes),
        phrases=tuple(phrases),
        candidate_ids=tuple(candidate.id for candidate, _ in painted),
    )


def made_sample(origin: Image, candidate: Candidate, edit: dict[str, Any], ids: Ordinals) -> Sample:
    """The image that was made from words. It goes to the split of the image that lent them (`origin`)."""
    content = _content(candidate, edit)
    image = Image(
        id=ids.next("image"),
        dataset_id=origin.dataset_id,
        file_name=f"winnow/{candidate.id:08d}.{candidate.detail.get('suffix', 'png')}",
        width=content.width,
        height=content.height,
        split=origin.split,
        digest=candidate.digest,
        extra={"synthetic": True, "candidate": candidate.id, "kind": str(candidate.kind)},
    )
    return _with_content(Sample(image=image), candidate, content, ids)


def stated_sample(sample: Sample, candidate: Candidate, edit: dict[str, Any], ids: Ordinals) -> Sample:
    """An image of the data set that was itself a candidate, as it was imported or as a person corrected it."""
    if "content" in edit:
        return _with_content(sample, candidate, _content(candidate, edit), ids)
    return msgspec.structs.replace(sample, candidate_ids=(candidate.id,))


def _content(candidate: Candidate, edit: dict[str, Any]) -> Content:
    return msgspec.convert(edit["content"], Content) if "content" in edit else candidate.content


def _with_content(sample: Sample, candidate: Candidate, content: Content, ids: Ordinals) -> Sample:
    """The sample with the content's boxes and texts in the place of its own."""
    image_id, caption_id = sample.image.id, ids.next("phrase")
    boxes = tuple(
        Box(
            id=ids.next("box"),
            image_id=image_id,
            xyxy=one.xyxy,
            category_id=one.category_id,
            extra={"origin": one.origin} | ({} if one.score is None else {"score": one.score}),
        )
        for one in content.boxes
    )
    caption = (Phrase(id=caption_id, image_id=image_id, text=content.caption),) if content.caption else ()
    phrases = tuple(
        Phrase(
            id=ids.next("phrase"),
            image_id=image_id,
            text=one.text,
            parent_id=caption_id if caption else None,
            spans=one.spans if caption else (),
            box_ids=tuple(boxes[i].id for i in one.boxes),
        )
        for one in content.phrases
    )
    return Sample(image=sample.image, boxes=boxes, phrases=(*caption, *phrases), candidate_ids=(candidate.id,))


def _class_lists(image: Image, painted: set[Any]) -> dict[str, Any]:
    """What the source image says of its classes, by LVIS's lists: a class that was painted in is absent no longer."""
    found = {name: image.extra[name] for name in (NEGATIVE, PARTIAL) if name in image.extra}
    return found | {NEGATIVE: [n for n in found[NEGATIVE] if n not in painted]} if NEGATIVE in found else found


def _painted_box(candidate: Candidate, edit: dict[str, Any], image_id: int, ids: Ordinals) -> Box:
    assert candidate.xyxy
    return Box(
        id=ids.next("box"),
        image_id=image_id,
        xyxy=tuple(edit.get("xyxy", candidate.xyxy)),
        category_id=edit.get("category_id", candidate.category_id),
    )


def _phrases_of(
    candidate: Candidate, edit: dict[str, Any], image_id: int, box_id: int, ids: Ordinals
) -> tuple[Phrase, ...]:
    """On a negative image the negative text has become true of the box, and the original text false."""
    if candidate.kind is not Kind.NEGATIVE_IMAGE or not candidate.text_after:
        return ()
    true_text = edit.get("text_after", candidate.text_after)
    phrases = [Phrase(id=ids.next("phrase"), image_id=image_id, text=true_text, box_ids=(box_id,))]
    if candidate.text_before:
        phrases.append(Phrase(id=ids.next("phrase"), image_id=image_id, text=candidate.text_before, holds=False))
    return tuple(phrases)


def with_negatives(sample: Sample, negatives: list[tuple[Candidate, dict[str, Any]]], ids: Ordinals) -> Sample:
    """The sample with its accepted negative texts as phrases that do not hold."""
    if not negatives:
        return sample
    phrases = [
        Phrase(
            id=ids.next("phrase"),
            image_id=sample.image.id,
            text=edit.get("text_after") or candidate.text_after or "",
            holds=False,
            extra={"candidate": candidate.id, **_edit_type(candidate, edit)},
        )
        for candidate, edit in negatives
    ]
    used = tuple(candidate.id for candidate, _ in negatives)
    return msgspec.structs.replace(sample, phrases=(*sample.phrases, *phrases), candidate_ids=used)


def _edit_type(candidate: Candidate, edit: dict[str, Any]) -> dict[str, str]:
    """What the writer changed; of a text that a person wrote anew nobody said it."""
    known = candidate.detail.get("edit_type")
    return {"edit_type": known} if known and not edit.get("text_after") else {}


def _write(file: IO[bytes], header: Header, samples: Iterable[Sample]) -> dict[str, int]:
    counts = dict.fromkeys(("images", "synthetic", "boxes", "negatives"), 0)
    encode = msgspec.json.Encoder().encode
    file.write(encode(header))
    for sample in samples:
        file.write(b"\n" + encode(sample))
        counts["images"] += 1
        counts["synthetic"] += bool(sample.image.extra.get("synthetic"))
        counts["boxes"] += len(sample.boxes)
        counts["negatives"] += sum(not phrase.holds for phrase in sample.phrases)
    return counts


class _Pictured(Record, frozen=True, kw_only=True):
    image: Image


class _Boxed(Record, frozen=True, kw_only=True):
    boxes: tuple[Box, ...] = ()


class _Told(Record, frozen=True, kw_only=True):
    phrases: tuple[Phrase, ...] = ()


class _Manifest:
    """The lines of a snapshot, or of a split of it, found by image. Of a line only what is asked for becomes objects."""

    def __init__(self, path: Path, split: str | None = None) -> None:
        self._path = path
        self._places: dict[int, int] = {}  # of lines, in order
        with path.open("rb") as file:
            self.header = msgspec.json.decode(file.readline(), type=Header)
            at = file.tell()
            for line in file:
                image = msgspec.json.decode(line, type=_Pictured).image
                if split is None or image.split == split:
                    self._places[image.id] = at
                at += len(line)

    def read(self, kind: type[R], image_ids: Iterable[int] | None = None) -> Iterator[R]:
        """A part of every line, or of those of some images."""
        decode = msgspec.json.Decoder(kind).decode
        with self._path.open("rb") as file:
            for place in self._places.values() if image_ids is None else map(self._places.__getitem__, image_ids):
                file.seek(place)
                yield decode(file.readline())

    def boxes(self) -> Iterator[Box]:
        return chain.from_iterable(sample.boxes for sample in self.read(_Boxed))

    def phrases(self) -> Iterator[Phrase]:
        return chain.from_iterable(sample.phrases for sample in self.read(_Told))

    def boxes_of(self, image_ids: list[int]) -> dict[int, list[Box]]:
        return {i: list(sample.boxes) for i, sample in zip(image_ids, self.read(_Boxed, image_ids), strict=True)}

    def phrases_of(self, image_ids: list[int]) -> dict[int, list[Phrase]]:
        return {i: list(sample.phrases) for i, sample in zip(image_ids, self.read(_Told, image_ids), strict=True)}


def _snapshot(row: Row[Any]) -> Snapshot:
    values = dict(row._mapping)
    values["counts"] = unpack(values["counts"], {})
    return Snapshot(**values)

"""What people corrected in the annotations of images, version by version.

Version 0 of an image is what was imported. Every correction adds a whole new version, and none is ever changed or removed:
taking one back adds a version with the content of an earlier one. A box or phrase that a person added has a negative id,
which means something within its image only; a snapshot gives it a real one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, select

from db import schema
from db.bulk import batched
from db.database import Database
from db.datasets import Datasets
from db.errors import NotFound
from db.records import XYXY, Box, Content, Image, Named, Phrase, Record

MAX_TEXT = 20_000
SLACK = 0.5  # pixels that a corrected box may stick out of its image, for rounding
CHUNK = 500
t = schema.image_edit.c


class Presence(StrEnum):
    """What is known of a class in an image, as LVIS has it. Without a word from a person: present where it has a box."""

    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class Annotations(Record, frozen=True, kw_only=True):
    """All that is said of one image. `classes` holds what people said of a class by its id, and nothing else."""

    boxes: tuple[Box, ...] = ()
    phrases: tuple[Phrase, ...] = ()
    classes: dict[int, Presence] = msgspec.field(default_factory=dict)


class Version(Record, frozen=True, kw_only=True):
    """One state of an image. Number 0, which nobody made, is as imported."""

    image_id: int
    number: int
    annotations: Annotations
    reviewer: str = ""
    at: float = 0.0


class DraftBox(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: int
    xyxy: XYXY
    category_id: int | None = None


class DraftPhrase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: int
    text: str
    parent_id: int | None = None
    spans: tuple[tuple[int, int], ...] = ()
    box_ids: tuple[int, ...] = ()
    holds: bool = True


class Draft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The annotations of an image as an editor leaves them: what it does not show, such as masks, is not in it."""

    boxes: tuple[DraftBox, ...]
    phrases: tuple[DraftPhrase, ...]
    classes: dict[int, Presence] = msgspec.field(default_factory=dict)


class Edit(Record, frozen=True, kw_only=True):
    """A correction as it arrives, made on version `base`. `op_id` makes a repeated delivery a no-op."""

    op_id: str
    image_id: int
    base: int
    draft: Draft
    reviewer: str = "local"


class Kept(Record, frozen=True, kw_only=True):
    """What became of a correction: saved (as version `number`), repeated, refused with the reason, or conflict, when
    somebody else had made `theirs` on the same base."""

    op_id: str
    status: str
    message: str = ""
    number: int | None = None
    theirs: Version | None = None


class Edits:
    def __init__(self, database: Database, datasets: Datasets) -> None:
        self._db, self._datasets = database, datasets

    def current(self, image_id: int) -> Version:
        """The newest version. Raises NotFound for an image that is not there."""
        return next(iter(self._newest([image_id]).values()), None) or self._imported(self._datasets.image(image_id).id)

    def versions(self, image_id: int) -> list[Version]:
        """All versions, the newest first, the imported one last."""
        imported = self._imported(self._datasets.image(image_id).id)
        query = select(schema.image_edit).where(t.image_id == image_id).order_by(t.number.desc())
        with self._db.read() as connection:
            return [*(_version(row) for row in connection.execute(query)), imported]

    def standing(self, dataset_id: int, reviewer: str, *, limit: int = 20) -> list[tuple[Version, Annotations]]:
        """A person's corrections that they can take back, newest first, each with what stood before it: those that were not
        taken back yet, and upon which nobody else has built."""
        mine = select(t.image_id).join(schema.image, schema.image.c.id == t.image_id)
        mine = mine.where(schema.image.c.dataset_id == dataset_id, t.reviewer == reviewer).group_by(t.image_id)
        with self._db.read() as connection:
            ids = connection.execute(mine.order_by(func.max(t.at).desc()).limit(limit)).scalars().all()
        found = [one for image_id in ids for one in _standing(self.versions(image_id), reviewer)]
        return sorted(found, key=lambda one: -one[0].at)[:limit]

    def corrected(self, image_ids: Iterable[int]) -> dict[int, Version]:
        """The newest versions of those of the images that were corrected."""
        return self._newest(image_ids)

    def corrected_in(self, dataset_id: int) -> dict[int, Version]:
        """The newest version of every corrected image of a data set."""
        query = select(t.image_id).distinct().join(schema.image, schema.image.c.id == t.image_id)
        with self._db.read() as connection:
            ids = connection.execute(query.where(schema.image.c.dataset_id == dataset_id)).scalars().all()
        return self._newest(ids)

    def boxes_of(self, image_ids: Sequence[int]) -> dict[int, list[Box]]:
        """Boxes by image id as they stand now, corrections included."""
        corrected = self._newest(image_ids)
        boxes = self._datasets.boxes_of([i for i in image_ids if i not in corrected])
        return boxes | {i: list(version.annotations.boxes) for i, version in corrected.items()}

    def save(self, edits: Sequence[Edit]) -> list[Kept]:
        """Add corrections, all in one transaction; answers in order. A repeated `op_id` changes nothing."""
        known = {edit.image_id: self._scene(edit.image_id) for edit in edits}
        with self._db.write() as connection:
            return [self._append(connection, edit, known[edit.image_id]) for edit in edits]

    def _append(self, connection: Connection, edit: Edit, scene: _Scene | None) -> Kept:
        known = connection.execute(select(t.number).where(t.op_id == edit.op_id)).scalar_one_or_none()
        if known is not None:
            return Kept(op_id=edit.op_id, status="repeated", number=known)
        if scene is None:
            gone = f"Image {edit.image_id} no longer exists; the correction was not needed."
            return Kept(op_id=edit.op_id, status="refused", message=gone)
        said = [scene.imported, *_later(connection, edit.image_id)]
        newest = said[-1]
        if newest.number != edit.base:
            return Kept(op_id=edit.op_id, status="conflict", message=_beaten(edit, newest), theirs=newest)
        versions = [version.annotations for version in said]
        problems = list(_faults(edit.draft, versions, scene))
        if problems:
            listed = "; ".join(problems[:5])
            return Kept(op_id=edit.op_id, status="refused", message=f"The correction was not saved: {listed}.")
        _insert(connection, edit, merged(versions, edit.draft, edit.image_id))
        return Kept(op_id=edit.op_id, status="saved", number=newest.number + 1)

    def _scene(self, image_id: int) -> _Scene | None:
        try:
            image = self._datasets.image(image_id)
        except NotFound:
            return None
        names = {category.id: category.name for category in self._datasets.categories(image.dataset_id)}
        return _Scene(image=image, names=names, imported=self._imported(image_id))

    def _imported(self, image_id: int) -> Version:
        boxes = self._datasets.boxes_of([image_id])[image_id]
        phrases = self._datasets.phrases_of([image_id])[image_id]
        return Version(image_id=image_id, number=0, annotations=Annotations(boxes=tuple(boxes), phrases=tuple(phrases)))

    def _newest(self, image_ids: Iterable[int]) -> dict[int, Version]:
        found: dict[int, Version] = {}
        with self._db.read() as connection:
            for part in batched(image_ids, CHUNK):
                newest = select(t.image_id, func.max(t.number).label("number")).where(t.image_id.in_(part))
                last = newest.group_by(t.image_id).subquery()
                both = (t.image_id == last.c.image_id) & (t.number == last.c.number)
                for row in connection.execute(select(schema.image_edit).join(last, both)):
                    found[row.image_id] = _version(row)
        return found


class _Scene(Record, frozen=True, kw_only=True):
    """What a correction is checked against."""

    image: Image
    names: dict[int, str]
    imported: Version


def _later(connection: Connection, image_id: int) -> list[Version]:
    """All versions but the imported one, the newest last."""
    query = select(schema.image_edit).where(t.image_id == image_id).order_by(t.number)
    return [_version(row) for row in connection.execute(query)]


def _standing(versions: Sequence[Version], reviewer: str) -> Iterator[tuple[Version, Annotations]]:
    """Of the versions of an image, newest first, those at the top that are this person's, each with what stood before. One with
    the content of the last but one took the last back."""
    kept: list[Version] = []
    for version in reversed(versions):
        if len(kept) > 1 and version.annotations == kept[-2].annotations:
            kept.pop()
        else:
            kept.append(version)
    while len(kept) > 1 and kept[-1].reviewer == reviewer:
        yield kept.pop(), kept[-1].annotations


def _insert(connection: Connection, edit: Edit, annotations: Annotations) -> None:
    row = {"op_id": edit.op_id, "image_id": edit.image_id, "number": edit.base + 1, "reviewer": edit.reviewer}
    content = {"annotations": msgspec.json.encode(annotations), "at": time.time()}
    connection.execute(schema.image_edit.insert().values(row | content))


def _version(row: Row[Any]) -> Version:
    return Version(
        image_id=row.image_id,
        number=row.number,
        annotations=msgspec.json.decode(row.annotations, type=Annotations),
        reviewer=row.reviewer,
        at=row.at,
    )


def _beaten(edit: Edit, newest: Version) -> str:
    who = newest.reviewer or "somebody"
    return (
        f"{who} corrected image {edit.image_id} in the meantime: yours was made on version {edit.base}, "
        f"and it stands at {newest.number}. Nothing was overwritten."
    )


# From a draft to annotations


def draft_of(annotations: Annotations) -> Draft:
    """The draft that asks for these annotations."""
    phrases = (
        DraftPhrase(one.id, one.text, one.parent_id, one.spans, one.box_ids, one.holds) for one in annotations.phrases
    )
    boxes = (DraftBox(box.id, box.xyxy, box.category_id) for box in annotations.boxes)
    return Draft(tuple(boxes), tuple(phrases), annotations.classes)


def merged(versions: Sequence[Annotations], draft: Draft, image_id: int) -> Annotations:
    """The annotations that a draft asks for, made on the last of the versions (oldest first). What it leaves alone keeps every
    field; a box that moved loses the mask and the area, which no longer fit it, and has them again where it stood before."""
    boxes = {box.id: box for said in versions for box in said.boxes}
    drawn = {(box.id, box.xyxy): box for said in versions for box in said.boxes}
    phrases = {phrase.id: phrase for said in versions for phrase in said.phrases}
    return Annotations(
        boxes=tuple(_box(drawn.get((one.id, one.xyxy), boxes.get(one.id)), one, image_id) for one in draft.boxes),
        phrases=tuple(_phrase(phrases.get(one.id), one, image_id) for one in draft.phrases),
        classes=dict(sorted(draft.classes.items())),
    )


def _box(known: Box | None, draft: DraftBox, image_id: int) -> Box:
    if known is None:
        return Box(id=draft.id, image_id=image_id, xyxy=draft.xyxy, category_id=draft.category_id)
    if known.xyxy == draft.xyxy:
        return msgspec.structs.replace(known, category_id=draft.category_id)
    return msgspec.structs.replace(
        known, xyxy=draft.xyxy, category_id=draft.category_id, wh=None, area=None, segmentation=None
    )


def _phrase(known: Phrase | None, draft: DraftPhrase, image_id: int) -> Phrase:
    values = msgspec.structs.asdict(draft)
    return msgspec.structs.replace(known or Phrase(id=draft.id, image_id=image_id, text=draft.text), **values)


def _faults(draft: Draft, versions: Sequence[Annotations], scene: _Scene) -> Iterator[str]:
    known = {(box.id, box.xyxy) for said in versions for box in said.boxes}
    phrases = {phrase.id for said in versions for phrase in said.phrases}
    yield from _id_faults("box", [box.id for box in draft.boxes], {box_id for box_id, _ in known})
    yield from _id_faults("phrase", [one.id for one in draft.phrases], phrases)
    for box in draft.boxes:
        if (box.id, box.xyxy) not in known and not fits(box.xyxy, scene.image.width, scene.image.height):
            size = f"{scene.image.width} x {scene.image.height}"
            yield f"box {box.id} at {_shown(box.xyxy)} does not lie inside the image of {size} with a size of its own"
        if box.category_id is not None and box.category_id not in scene.names:
            yield f"box {box.id} has the class {box.category_id}, which the data set does not have"
    yield from _phrase_faults(draft)
    yield from _class_faults(draft, scene)


def _id_faults(what: str, ids: Sequence[int], known: Iterable[int]) -> Iterator[str]:
    allowed = set(known)
    if len(set(ids)) < len(ids):
        yield f"a {what} is there twice"
    for one in ids:
        if one >= 0 and one not in allowed:
            yield f"{what} {one} does not belong to this image"


def _phrase_faults(draft: Draft) -> Iterator[str]:
    texts, boxes = {one.id: one.text for one in draft.phrases}, {box.id for box in draft.boxes}
    for one in draft.phrases:
        problem = text_fault(one.text)
        if problem:
            yield f"the text of phrase {one.id} {problem}"
        if one.parent_id is not None and one.parent_id not in texts:
            yield f"phrase {one.id} belongs to caption {one.parent_id}, which is not there"
        length = len(texts.get(one.parent_id, "")) if one.parent_id is not None else 0
        if any(not 0 <= start < end <= length for start, end in one.spans):
            yield f"phrase {one.id} stands at {list(one.spans)} of a caption of {length} characters"
        if missing := set(one.box_ids) - boxes:
            yield f"phrase {one.id} names the boxes {sorted(missing)}, which are not there"


def _class_faults(draft: Draft, scene: _Scene) -> Iterator[str]:
    for category_id, presence in draft.classes.items():
        drawn = sum(box.category_id == category_id for box in draft.boxes)
        name = scene.names.get(category_id)
        if name is None:
            yield f"the data set has no class {category_id}"
        elif presence is not Presence.PRESENT and drawn:
            yield f"{name!r} cannot be {presence} while {drawn} of its boxes are drawn"


def fits(xyxy: Sequence[float], width: float, height: float) -> bool:
    """Whether a box is finite, has a positive size and lies inside a picture, up to rounding."""
    x1, y1, x2, y2 = xyxy
    inside = -SLACK <= x1 < x2 <= width + SLACK and -SLACK <= y1 < y2 <= height + SLACK
    return inside and all(map(math.isfinite, xyxy))


def text_fault(text: str) -> str | None:
    """Why a person's text cannot be kept, as the end of a sentence; None when it can."""
    if not text.strip():
        return "is empty"
    if len(text) > MAX_TEXT:
        return f"has {len(text)} characters; at most {MAX_TEXT} are kept"
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        return "holds a character that no file can keep (U+0000 or half of a pair)"
    return None


def _shown(xyxy: XYXY) -> str:
    return f"({', '.join(f'{value:g}' for value in xyxy)})"


# Corrections of a candidate, which travel with the verdict


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a person changed in a candidate while accepting it: its own box, the class of that box, its negative text; of a whole
    image all that is said of it, which `content_faults` checks.

    Raises ValueError for a box without a positive size, and for a text that cannot be kept."""

    xyxy: XYXY | None = None
    category_id: int | None = None
    text_after: str | None = None
    content: Content | None = None

    def __post_init__(self) -> None:
        if self.xyxy is not None and not fits(self.xyxy, math.inf, math.inf):
            raise ValueError(f"the corrected box {_shown(self.xyxy)} has no positive size inside the image")
        fault = None if self.text_after is None else text_fault(self.text_after)
        if fault:
            raise ValueError(f"the corrected text {fault}")


def content_faults(
    content: Content, made: Content, classes: Collection[int], *, boxed_whole: bool = False
) -> list[str]:
    """Everything that is wrong with a person's correction of a whole image, in sentences without their ends. `made` is what it
    corrects, `classes` are the ids of the data set's classes; `boxed_whole` is for an image of one class, which has one box."""
    return list(_content_faults(content, made, classes, boxed_whole))


def _content_faults(content: Content, made: Content, classes: Collection[int], boxed_whole: bool) -> Iterator[str]:
    size = (made.width, made.height)
    if (content.width, content.height) != size:
        yield f"the image is {size[0]}x{size[1]}, and the correction speaks of one of {content.width}x{content.height}"
    if made.caption and (fault := text_fault(content.caption)):
        yield f"the caption {fault}"
    if boxed_whole and len(content.boxes) != 1:
        yield f"a class image has one box, not {len(content.boxes)}"
    for number, box in enumerate(content.boxes):
        if not fits(box.xyxy, *size):
            yield f"box {number}, {_shown(box.xyxy)}, has no positive size inside the image of {size[0]}x{size[1]}"
        if box.category_id is not None and box.category_id not in classes:
            yield f"box {number}: the data set has no class {box.category_id}"
    for number, named in enumerate(content.phrases):
        yield from _named_faults(number, named, len(content.caption), len(content.boxes))


def _named_faults(number: int, named: Named, letters: int, boxes: int) -> Iterator[str]:
    if fault := text_fault(named.text):
        yield f"phrase {number} {fault}"
    for start, end in named.spans:
        if not 0 <= start < end <= letters:
            yield f"phrase {number}: characters {start} to {end} do not lie in the caption of {letters}"
    wrong = [i for i in named.boxes if not 0 <= i < boxes]
    if wrong or len(set(named.boxes)) < len(named.boxes):
        said = f"names box {wrong[0]}, and there are {boxes}" if wrong else "names a box twice"
        yield f"phrase {number} {said}"


# LVIS's three states


def presence(
    image: Image, annotations: Annotations, numbers: dict[int, Any], lists: tuple[str, str]
) -> dict[int, Presence]:
    """What is known of each class in the image: what people said, else what boxes and the two lists of the source say.

    `numbers` gives the id that a class has in those lists; `lists` names them: absent classes, classes not boxed in full.
    """
    absent, partial = (set(image.extra.get(name) or ()) for name in lists)
    boxed = {box.category_id for box in annotations.boxes}
    found = {}
    for category_id, number in numbers.items():
        if category_id in boxed or number in partial:
            found[category_id] = Presence.PRESENT
        elif number in absent:
            found[category_id] = Presence.ABSENT
    return {i: state for i, state in (found | annotations.classes).items() if state is not Presence.UNKNOWN}


def with_presence(image: Image, annotations: Annotations, numbers: dict[int, Any], lists: tuple[str, str]) -> Image:
    """The image with what people said of its classes in the two lists of LVIS.

    A class that is there but has no box counts as not boxed in full, so that finding it is no mistake.
    """
    if not annotations.classes:
        return image
    boxed = {box.category_id for box in annotations.boxes}
    said = {numbers[i]: (state, i in boxed) for i, state in annotations.classes.items()}
    absent, partial = ([n for n in image.extra.get(name) or () if n not in said] for name in lists)
    before = set(image.extra.get(lists[1]) or ())
    absent += [n for n, (state, _) in said.items() if state is Presence.ABSENT]
    partial += [n for n, (state, has) in said.items() if state is Presence.PRESENT and (n in before or not has)]
    extra = {lists[0]: sorted(absent, key=str), lists[1]: sorted(partial, key=str)}
    return msgspec.structs.replace(image, extra=image.extra | extra)

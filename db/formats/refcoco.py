"""RefCOCO, RefCOCO+, RefCOCOg: instances as in COCO, and expressions that each refer to one of them.

`instances.json` lies beside `refs(unc).p`, a Python pickle (read as plain data, see `pickles`), or the same list as
`refs(...).json`, which is what Winnow writes. Every expression becomes a phrase; what its reference and its sentence
hold besides is in `Phrase.extra`. An image belongs to the split of its first reference; the references keep their own.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from db.bulk import batched
from db.codec import Firsts, source_id_in
from db.document import Document
from db.errors import WinnowError
from db.formats import coco, pickles
from db.formats.checks import Faults, check_storable, is_split, is_text, short
from db.formats.ids import IdList, Next, Numbers, is_id, places_of
from db.formats.jsonstream import JsonFile
from db.formats.reading import entries, objects, without
from db.formats.writing import side_by_side, with_unique_ids
from db.records import Box, Image, Phrase
from db.spool import Spool, in_order

INSTANCES, WRITTEN = "instances.json", "refs(winnow).json"
BATCH = 1000  # references that are looked at together
SPLIT = "train"  # of an expression of an image without one: the official reader needs one
EXPECTED = "a list of references with ref_id, ann_id, image_id, category_id and sentences"
REF_KEYS = {"ann_id", "image_id", "category_id", "sentences"}


def reference_files(folder: Path) -> list[Path]:
    """The files of references in a folder with instances.json."""
    found = [*folder.glob("refs(*).p"), *folder.glob("refs(*).json")] if (folder / INSTANCES).is_file() else []
    return sorted(found)


def read(path: Path) -> Document:
    """A folder with instances.json and one file of references, or such a file. Faults are collected.

    Raises WinnowError where a folder has several files of references, BadDataset for a file that cannot be read.
    """
    refs = _file_of_references(path)
    document = coco.read({"": refs.parent / INSTANCES}, format="refcoco")
    reader = _Reader(document, refs)
    reader.read()
    return replace(
        document,
        images=lambda: (msgspec.structs.replace(image, split=reader.split(image.id)) for image in document.images()),
        phrases=lambda: reader.phrases,
        faults=[*document.faults, *reader.faults],
    )


def _file_of_references(path: Path) -> Path:
    found = [path] if path.is_file() else reference_files(path)
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise WinnowError(f"{path} has {names}, which refer to the same images; import one of these files.")
    if not found or not (found[0].parent / INSTANCES).is_file():
        raise WinnowError(f"{path} has not both {INSTANCES} and a file such as refs(unc).p.")
    return found[0]


def _references(path: Path) -> Callable[[], Iterator[Any]]:
    """All of a file, from the first to the last, as often as one likes."""
    if path.suffix == ".p":
        entries = pickles.read(path, list, EXPECTED)
        return lambda: iter(entries)
    file = JsonFile(path, EXPECTED)
    return lambda: chain.from_iterable(chunk.items for chunk in file.items(Any))


class _Place(NamedTuple):
    """What an expression needs to know of its box."""

    id: int
    image_id: int
    category_id: int


class _Boxes:
    """The boxes of a document that some ids name, of which there may be many more."""

    def __init__(self, document: Document, named: IdList) -> None:
        self._place_of = places_of(named.arrays())
        self._table = np.full((len(named), 3), -1)
        for row in document.box_rows(Firsts()):
            own = source_id_in(row[3])
            place = -1 if own is None else self._place_of(own)
            if place >= 0:
                self._table[place] = row[:3]

    def get(self, own: Any) -> _Place | None:
        """That with an id."""
        place = self._place_of(own) if is_id(own) else -1
        return _Place(*self._table[place].tolist()) if place >= 0 and self._table[place, 0] >= 0 else None


class _Reader:
    """Gathers the phrases of references to the boxes of a document."""

    def __init__(self, document: Document, path: Path) -> None:
        self.faults = Faults(str(path))
        self.phrases: Spool[Phrase] = Spool(Phrase)
        self._references = _references(path)
        named, own = self._ids()
        self._boxes, self._repeated = _Boxes(document, named), set(own.repeated().tolist())
        self._images = Numbers(Next(lambda: ()))
        self._splits = array("I")  # by image, places in `_names`
        self._names = [""]
        for image in document.images():
            self._images.append(image.id, image.source_id)
            self._splits.append(0)
        self._categories: dict[int, Any] = {c.id: c.source_id for c in document.categories}

    def split(self, image: int) -> str:
        """That of the first reference to something in an image."""
        return self._names[self._splits[image]]

    def _ids(self) -> tuple[IdList, IdList]:
        """Of every reference, the id of its annotation and its own."""
        found = (IdList(), IdList())
        for some in batched(self._references(), BATCH):
            for key, into in zip(("ann_id", "ref_id"), found, strict=True):
                ids = (ref.get(key) if isinstance(ref, dict) else None for ref in some)
                into.extend([own if is_id(own) else None for own in ids])
        return found

    def read(self) -> None:
        for number, ref in objects(self.faults, self._references(), "reference"):
            if not is_id(ref.get("ref_id")) or number in self._repeated:
                seen = f"ref_id {short(ref.get('ref_id'))}"
                self.faults.add(f"reference #{number}", seen, "an id that no other reference has")
            else:
                self._reference(f"reference {short(ref['ref_id'])}", ref)

    def _reference(self, item: str, ref: dict[str, Any]) -> None:
        box = self._boxes.get(ref.get("ann_id"))
        if box is None:
            self.faults.add(item, f"ann_id {short(ref.get('ann_id'))}", f"the id of a sound annotation of {INSTANCES}")
        elif ref.get("image_id") != self._images[box.image_id]:
            seen = f"image_id {short(ref.get('image_id'))}"
            self.faults.add(item, seen, f"{self._images[box.image_id]!r}, the image of its annotation")
        elif ref.get("category_id") != self._categories[box.category_id]:
            seen = f"category_id {short(ref.get('category_id'))}"
            self.faults.add(item, seen, f"{self._categories[box.category_id]!r}, the category of its annotation")
        elif not is_split(ref.get("split")):
            self.faults.add(item, f"split {short(ref.get('split'))}", "a text such as train or testA")
        elif check_storable(self.faults, item, ref):
            self._sentences(item, ref, box)

    def _sentences(self, item: str, ref: dict[str, Any], box: _Place) -> None:
        found = entries(self.faults, ref.get("sentences"), f"{item}, sentence")
        if not found:
            self.faults.add(item, f"sentences {short(ref.get('sentences'))}", "at least one sentence")
            return
        kept = without(ref, REF_KEYS)
        if kept.get("sent_ids") == [sentence.get("sent_id") for _, sentence in found]:
            del kept["sent_ids"]
        for where, sentence in found:
            text = sentence.get("sent")
            if not is_text(text) or not text.strip():
                self.faults.add(where, f"sent {short(text)}", "a text")
                continue
            extra = {"ref": kept, "sentence": without(sentence, {"sent"})}
            phrase = Phrase(id=len(self.phrases), image_id=box.image_id, text=text, box_ids=(box.id,), extra=extra)
            self.phrases.append(phrase)
            self._splits[box.image_id] = self._splits[box.image_id] or self._number(ref["split"])

    def _number(self, split: str) -> int:
        if split not in self._names:
            self._names.append(split)
        return self._names.index(split)


# Writing


def write(document: Document, folder: Path) -> list[str]:
    """`instances.json` and `refs(winnow).json`. Returns what RefCOCO cannot hold: texts that name no box, or several, or
    are false."""
    unique, losses = with_unique_ids(document)
    info: dict[str, Any] = {}
    for fields in document.info.get("splits", {}).values():
        info |= fields
    whole = replace(
        unique,
        info={"splits": {"": info}},
        images=lambda: (msgspec.structs.replace(image, split="") for image in unique.images()),
        phrases=lambda: (),
    )
    losses += coco.write(whole, folder, coco.Dialect(file=lambda _: INSTANCES))
    refs = _References(unique)
    with side_by_side() as file_of:
        file = file_of(folder / WRITTEN)
        for number, ref in enumerate(refs.all()):
            file.write((b"," if number else b"[") + orjson.dumps(ref))
        file.write(b"]\n" if refs.held else b"[]\n")
    return losses + ([f"{refs.unheld} captions and phrases that do not name one box"] if refs.unheld else [])


class _References:
    """The references of a document: those it was read with, and one for every further phrase that names one box."""

    def __init__(self, document: Document) -> None:
        self._own = document.format == "refcoco"
        self._ids = coco.Ids(document)
        self._kept: Spool[Phrase] = Spool(Phrase)
        self.unheld = 0
        for image, boxes, phrases in document.samples():
            self._keep(image, {box.id: box for box in boxes}, phrases)
            self.unheld += len(phrases)
        self.held = len(self._kept)
        self.unheld -= self.held
        self._ref_id = Next(lambda: (phrase.extra["ref"].get("ref_id") for phrase in self._kept))
        self._sent_id = Next(lambda: (phrase.extra["sentence"].get("sent_id") for phrase in self._kept))

    def _keep(self, image: Image, boxes: dict[int, Box], phrases: list[Phrase]) -> None:
        """The phrases of an image that name one box, with all that a reference says."""
        for phrase in phrases:
            box = boxes.get(phrase.box_ids[0]) if phrase.holds and len(phrase.box_ids) == 1 else None
            if box is not None and box.category_id is not None:
                extra = phrase.extra if self._own else {}
                told = {"split": image.split or SPLIT, "file_name": image.file_name}
                known = {
                    "ann_id": self._ids.box(box.id),
                    "image_id": self._ids.image(image.id),
                    "category_id": self._ids.category(box.category_id),
                }
                fields = {"ref": extra.get("ref") or told, "sentence": extra.get("sentence", {}), "known": known}
                self._kept.append(msgspec.structs.replace(phrase, extra=fields))

    def all(self) -> Iterator[dict[str, Any]]:
        taken: set[Any] = set()
        kept = in_order(lambda: self._kept, Phrase, attrgetter("id"))
        for (own, _), phrases in groupby(kept, self._reference):
            found = list(phrases)
            ref_id = self._ref_id() if own is None or own in taken else own  # of one, a phrase may have got another box
            taken.add(ref_id)
            sentences = [self._sentence(phrase) for phrase in found]
            ids = {"sent_ids": [sentence["sent_id"] for sentence in sentences]} if "sent_id" in sentences[0] else {}
            extra = found[0].extra
            yield {**ids, **extra["ref"], "ref_id": ref_id, **extra["known"], "sentences": sentences}

    def _reference(self, phrase: Phrase) -> tuple[Any, Any]:
        """What the phrases of one reference have in common; each without one is alone."""
        own = phrase.extra["ref"].get("ref_id")
        return own, phrase.id if own is None else phrase.extra["known"]["ann_id"]

    def _sentence(self, phrase: Phrase) -> dict[str, Any]:
        kept = phrase.extra["sentence"]
        told = kept or {"sent_id": self._sent_id(), "raw": phrase.text, "tokens": phrase.text.split()}
        return {**told, "sent": phrase.text}

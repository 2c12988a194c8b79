"""RefCOCO, RefCOCO+, RefCOCOg: instances as in COCO, and expressions that each refer to one of them.

`instances.json` lies beside `refs(unc).p`, a Python pickle (read as plain data, see `pickles`), or the same list as
`refs(...).json`, which is what Winnow writes. Every expression becomes a phrase; what its reference and its sentence
hold besides is in `Phrase.extra`. An image belongs to the split of its first reference; the references keep their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson

from db.codec import Firsts, source_id_in
from db.document import Document
from db.errors import WinnowError
from db.formats import coco, pickles
from db.formats.annotations import is_id
from db.formats.checks import Faults, check_storable, is_split, is_text, short
from db.formats.reading import broken, entries, load_json, without
from db.formats.writing import replaced, with_unique_ids
from db.records import Phrase
from db.spool import Spool

INSTANCES, WRITTEN = "instances.json", "refs(winnow).json"
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
    refs = _references(path)
    document = coco.read({"": refs.parent / INSTANCES}, format="refcoco")
    value = pickles.load(refs) if refs.suffix == ".p" else load_json(refs, EXPECTED)
    if not isinstance(value, list):
        raise broken(refs, f"a {type(value).__name__} at the top", EXPECTED)
    faults = Faults(str(refs))
    found = entries(faults, value, "reference")
    reader = _Reader(document, faults, {ref["ann_id"] for _, ref in found if is_id(ref.get("ann_id"))})
    for item, ref in found:
        reader.read(item, ref)
    return replace(
        document,
        images=lambda: (
            msgspec.structs.replace(image, split=reader.splits.get(image.id, "")) for image in document.images()
        ),
        phrases=lambda: reader.phrases,
        faults=[*document.faults, *reader.faults],
    )


def _references(path: Path) -> Path:
    found = [path] if path.is_file() else reference_files(path)
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise WinnowError(f"{path} has {names}, which refer to the same images; import one of these files.")
    if not found or not (found[0].parent / INSTANCES).is_file():
        raise WinnowError(f"{path} has not both {INSTANCES} and a file such as refs(unc).p.")
    return found[0]


class _Place(NamedTuple):
    """What an expression needs to know of its box. There may be many boxes that no expression names."""

    id: int
    image_id: int
    category_id: int | None


class _Reader:
    """Gathers the phrases of references to the boxes of a document, of which those with the ids `named` are known."""

    def __init__(self, document: Document, faults: Faults, named: set[Any]) -> None:
        self.faults = faults
        self.phrases: Spool[Phrase] = Spool(Phrase)
        self.splits: dict[int, str] = {}
        rows = ((source_id_in(row[3]), _Place(*row[:3])) for row in document.box_rows(Firsts()))
        self._boxes = {own: place for own, place in rows if own in named}
        self._images: dict[int, Any] = {image.id: image.source_id for image in document.images()}
        self._categories: dict[int | None, Any] = {c.id: c.source_id for c in document.categories}
        self._seen: set[Any] = set()

    def read(self, item: str, ref: dict[str, Any]) -> None:
        ref_id, ann_id = ref.get("ref_id"), ref.get("ann_id")
        if not is_id(ref_id) or ref_id in self._seen:
            self.faults.add(item, f"ref_id {short(ref_id)}", "an id that no other reference has")
            return
        self._seen.add(ref_id)
        item = f"reference {short(ref_id)}"
        box = self._boxes.get(ann_id) if is_id(ann_id) else None
        if box is None:
            self.faults.add(item, f"ann_id {short(ann_id)}", f"the id of a sound annotation of {INSTANCES}")
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
            self.splits.setdefault(box.image_id, ref["split"])


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
    replaced(folder / WRITTEN, orjson.dumps(list(refs.all()), option=orjson.OPT_APPEND_NEWLINE))
    return losses + ([f"{refs.unheld} captions and phrases that do not name one box"] if refs.unheld else [])


class _References:
    """The references of a document: those it was read with, and one for every further phrase that names one box."""

    def __init__(self, document: Document) -> None:
        self._own = document.format == "refcoco"
        self._ids = coco.Ids(document)
        found = sorted(document.phrases(), key=lambda phrase: phrase.id)
        held = [phrase for phrase in found if phrase.holds and len(phrase.box_ids) == 1]
        named = {phrase.box_ids[0] for phrase in held}
        places = (_Place(*row[:3]) for row in document.box_rows(Firsts()))
        self._boxes = {place.id: place for place in places if place.id in named and place.category_id is not None}
        shown = {place.image_id for place in self._boxes.values()}
        self._images = {image.id: image for image in document.images() if image.id in shown}
        held = [phrase for phrase in held if phrase.box_ids[0] in self._boxes]
        self.unheld = len(found) - len(held)
        self._refs = coco.numbered((phrase.id, self._kept(phrase, "ref").get("ref_id")) for phrase in held)
        self._sentences = coco.numbered((phrase.id, self._kept(phrase, "sentence").get("sent_id")) for phrase in held)
        self._groups: dict[tuple[Any, int], list[Phrase]] = {}
        for phrase in held:
            self._groups.setdefault((self._refs[phrase.id], phrase.box_ids[0]), []).append(phrase)

    def _kept(self, phrase: Phrase, part: str) -> dict[str, Any]:
        return phrase.extra.get(part, {}) if self._own else {}

    def all(self) -> Iterator[dict[str, Any]]:
        for (ref_id, box_id), phrases in self._groups.items():
            box = self._boxes[box_id]
            image = self._images[box.image_id]
            sentences = [self._sentence(phrase) for phrase in phrases]
            known = {
                "ref_id": ref_id,
                "ann_id": self._ids.box(box_id),
                "image_id": self._ids.image(image.id),
                "category_id": self._ids.category(box.category_id or 0),
            }
            told = {"split": image.split or SPLIT, "file_name": image.file_name}
            kept = self._kept(phrases[0], "ref") or told
            ids = {"sent_ids": [sentence["sent_id"] for sentence in sentences]} if "sent_id" in sentences[0] else {}
            yield {**ids, **kept, **known, "sentences": sentences}

    def _sentence(self, phrase: Phrase) -> dict[str, Any]:
        words = phrase.text.split()
        kept = self._kept(phrase, "sentence")
        told = {"sent_id": self._sentences[phrase.id], "raw": phrase.text, "tokens": words}
        return {**(kept or told), "sent": phrase.text}

"""LVIS: COCO with federated annotations. An image says which classes were looked for in vain (`neg_category_ids`) and
which are not boxed in full (`not_exhaustive_category_ids`); of all others nothing is known. Classes have a frequency (r,
c, f), synonyms and a definition.

The two lists stay in `Image.extra`, and what a class has besides its frequency in `Category.extra`, all by the ids of the
source. Version 1 names its files only by `coco_url`, whose last two parts then are the file name.
"""

from __future__ import annotations

from array import array
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from db.document import Document
from db.formats import coco
from db.formats.annotations import Annotations
from db.formats.checks import is_text, short
from db.formats.ids import is_id
from db.records import Category, Image

NEGATIVE, PARTIAL = "neg_category_ids", "not_exhaustive_category_ids"
FREQUENCIES = ("r", "c", "f")
RARE, COMMON = 10, 100  # images of a class, at most; the bounds of the benchmark


class Split(coco.Split):
    """One LVIS file, with what COCO does not ask for checked as well."""

    def make_annotations(self) -> Annotations:
        self._absent = array("q")  # pairs of image and category, as single numbers
        objection = (f"which its image has in {NEGATIVE}", "no box of a class that is verified to be absent")
        return Annotations(self._file, self.faults, self._forbidden, objection)

    def _forbidden(self, images: NDArray[np.int32], categories: NDArray[np.int32]) -> NDArray[np.bool_]:
        pairs = images.astype(np.int64) * len(self._known) + categories
        return self._ordered[np.searchsorted(self._ordered, pairs)] == pairs

    @cached_property
    def _ordered(self) -> NDArray[np.int64]:
        """The pairs that may not go together, once all images were read, and one that is larger than any."""
        return np.append(np.unique(np.array(self._absent, np.int64)), np.iinfo(np.int64).max)

    def categories(self) -> list[Category]:
        found = [category for category in super().categories() if self._sound_category(category)]
        self._known = {category.source_id: number for number, category in enumerate(found)}
        return [msgspec.structs.replace(category, id=number) for number, category in enumerate(found)]

    def _sound_category(self, category: Category) -> bool:
        item, synonyms = f"category {short(category.name)}", category.extra.get("synonyms", [])
        if category.frequency not in FREQUENCIES:
            seen = category.extra.get("frequency", category.frequency)
            self.faults.add(item, f"frequency {short(seen)}", "r, c or f")
        elif not isinstance(synonyms, list) or not all(map(is_text, synonyms)):
            self.faults.add(item, f"synonyms {short(synonyms)}", "a list of texts")
        elif not is_text(category.extra.get("def", "")):
            self.faults.add(item, f"def {short(category.extra['def'])}", "a text")
        else:
            return True
        return False

    def file_name(self, raw: dict[str, Any]) -> Any:
        url = raw.get("coco_url")
        return "/".join(url.split("/")[-2:]) if "file_name" not in raw and is_text(url) else raw.get("file_name")

    def sound_image(self, image: Image) -> bool:
        item = f"image id {image.source_id!r:.40}"
        for key in (NEGATIVE, PARTIAL):
            ids = image.extra.get(key)
            if not isinstance(ids, list) or not all(is_id(value) and value in self._known for value in ids):
                self.faults.add(item, f"{key} {short(ids)}", "a list of ids of categories of this file")
                return False
        both = set(image.extra[NEGATIVE]) & set(image.extra[PARTIAL])
        if both:
            seen = f"the categories {short(sorted(both, key=str))} in {NEGATIVE} and in {PARTIAL}"
            self.faults.add(item, seen, "a class that is either absent or not boxed in full")
            return False
        self._absent.extend(image.id * len(self._known) + self._known[own] for own in set(image.extra[NEGATIVE]))
        return True


def read(files: dict[str, Path]) -> Document:
    """One document from `{split: file}`; as `coco.read`."""
    return coco.read(files, format="lvis", kind=Split)


def write(document: Document, folder: Path) -> list[str]:
    """One file per split. Images of another format get empty lists: nothing is known of the classes without a box there.
    Classes without a frequency get that of the images which show them. Returns what LVIS cannot hold."""
    shown = _images_by_category(document)

    def category_out(category: Category, ids: coco.Ids) -> dict[str, Any]:
        if category.frequency is not None:
            return coco.category_out(category, ids)
        images = shown[category.id]
        frequency = "r" if images <= RARE else "c" if images <= COMMON else "f"
        counted = {"frequency": frequency, "image_count": images, "synonyms": [category.name]}
        return counted | coco.category_out(category, ids)

    return coco.write(document, folder, coco.Dialect(_image_out, category_out))


def _images_by_category(document: Document) -> Counter[int]:
    """Images that show a class, by its id; empty where every class has a frequency already."""
    if all(category.frequency is not None for category in document.categories):
        return Counter()
    pairs = {(box.category_id, box.image_id) for box in document.boxes() if box.category_id is not None}
    return Counter(category_id for category_id, _ in pairs)


def _image_out(image: Image, ids: coco.Ids, source: str) -> dict[str, Any]:
    return {NEGATIVE: [], PARTIAL: []} | coco.image_out(image, ids, source)

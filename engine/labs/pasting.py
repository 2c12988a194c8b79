"""The negative images of the Enhanced Negatives lab: instances pasted over others, with a known share of failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np

from db.errors import WinnowError
from engine.grounding_folder import Edited
from engine.labs.wordings import true
from engine.seeds import seed_of
from engine.tabletop import TrueObject, Truth
from engine.tabletop.descriptions import bare
from engine.tabletop.language import ATTRIBUTES, Description, fits, parse

MOST_HIDDEN = 0.05  # share of an object that may be out of sight
CONTEXT = 0.1  # of the longer side of a box, around what the filter looks at
RAISED = 0.02  # how much likelier the edit must have made its text (METHODS 1.2, F2)
SHOWN = frozenset(("kind", "colour", "pattern"))  # what pasting can change


def read(path: Path) -> np.ndarray:
    """HxWx3 BGR. Raises WinnowError for a file that is no image."""
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise WinnowError(f"{path} cannot be read as an image.")
    return picture


class Pasted(msgspec.Struct, frozen=True):
    """A negative image. `right`: it shows its text. `passed`: the filter believes so."""

    edited: Edited
    right: bool
    passed: bool = False


class Cut(msgspec.Struct, frozen=True, eq=False):
    """The pixels of an instance (h, w, 3) BGR, and which of them are its own (h, w)."""

    pixels: np.ndarray
    mask: np.ndarray


class Donors:
    """The whole instances of some scenes."""

    def __init__(self, folder: Path, scenes: Sequence[Truth]) -> None:
        self._folder = folder
        self._all = [(truth, thing) for truth in scenes for thing in truth.objects if thing.hidden <= MOST_HIDDEN]

    def of(self, said: Description, true_of_it: bool, rng: np.random.Generator) -> Cut | None:
        """One that the description fits, or one that it does not fit; None when there is none."""
        found = [one for one in self._all if fits(one[1], said) == true_of_it]
        if not found:
            return None
        truth, thing = found[int(rng.integers(len(found)))]
        x1, y1, x2, y2 = map(int, thing.box)
        picture = read(self._folder / truth.file_name)
        return Cut(picture[y1:y2, x1:x2], thing.mask.array()[y1:y2, x1:x2])


def paste(
    folder: Path,
    scenes: Sequence[Truth],
    negatives: Sequence[Sequence[str]],
    donors: Donors,
    wrong: float,
    most: int,
    rng: np.random.Generator,
) -> list[list[Pasted]]:
    """Up to `most` negative images of each scene, made from its negative texts; the share `wrong` of them fails: either
    nothing is changed, or something that the text does not fit is pasted. Written to `folder`/pasted."""
    (folder / "pasted").mkdir(exist_ok=True)
    made: list[list[Pasted]] = []
    for truth, texts in zip(scenes, negatives, strict=True):
        chosen = list(_possible(truth, texts))
        order = rng.permutation(len(chosen))[:most]
        found = [_pasted(folder, truth, chosen[i], donors, wrong, rng) for i in order]
        made.append([one for one in found if one is not None])
    return _filtered(folder, scenes, made)


class Wish(msgspec.Struct, frozen=True):
    """An object, what is true of it alone, and what could be painted instead."""

    thing: TrueObject
    positive: str
    negative: str


def _possible(truth: Truth, texts: Sequence[str]) -> Iterator[Wish]:
    """Texts that differ from a true one in one word that pasting shows."""
    for one in true(truth):
        before = parse(one.text)
        thing = truth.objects[one.objects[0]]
        if before is None or len(one.objects) > 1 or thing.hidden > MOST_HIDDEN:
            continue
        for text in texts:
            after = parse(text)
            if after is not None and len(changed := _changes(before, after)) == 1 and changed <= SHOWN:
                yield Wish(thing, bare(one.text), text)


def _changes(before: Description, after: Description) -> set[str]:
    return {slot for slot in ("kind", *ATTRIBUTES) if getattr(before, slot) != getattr(after, slot)}


def _pasted(
    folder: Path, truth: Truth, wish: Wish, donors: Donors, wrong: float, rng: np.random.Generator
) -> Pasted | None:
    said = parse(wish.negative)
    assert said is not None
    said = msgspec.structs.replace(said, size=None)  # it takes the place of the other, and so its size
    fails, nothing = rng.random() < wrong, rng.random() < 0.5
    cut = donors.of(said, not fails, rng)
    if cut is None:
        return None
    picture = read(folder / truth.file_name)
    if not (fails and nothing):
        picture = _exchanged(picture, wish.thing, cut)
    path = folder / "pasted" / f"{truth.index}-{seed_of(wish.positive, wish.negative):08x}.png"
    cv2.imwrite(str(path), picture)
    return Pasted(Edited(str(path), wish.thing.box, wish.positive, wish.negative), not fails)


def _exchanged(picture: np.ndarray, thing: TrueObject, cut: Cut) -> np.ndarray:
    """The picture with the object removed and the other in its box."""
    grown = cv2.dilate(thing.mask.array().astype(np.uint8), np.ones((5, 5), np.uint8))
    empty = cv2.inpaint(picture, grown, 3, cv2.INPAINT_TELEA)
    x1, y1, x2, y2 = map(int, thing.box)
    pixels = cv2.resize(cut.pixels, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(cut.mask.astype(np.float32), (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)[..., None]
    empty[y1:y2, x1:x2] = (empty[y1:y2, x1:x2] * (1 - alpha) + pixels * alpha + 0.5).astype(np.uint8)
    return empty


def _filtered(folder: Path, scenes: Sequence[Truth], made: list[list[Pasted]]) -> list[list[Pasted]]:
    """With the verdict of the filter: the new picture fits the new text better than the old one, and fits it better than
    the old picture did."""
    from engine.backends.openclip import OpenCLIPEmbedder

    embedder = OpenCLIPEmbedder(model="assets/pocket/embedder", device="cpu")
    edits = [(truth, one.edited) for truth, own in zip(scenes, made, strict=True) for one in own]
    new = embedder.images([_crop(Path(edit.img_path), edit.box) for _, edit in edits])
    old = embedder.images([_crop(folder / truth.file_name, edit.box) for truth, edit in edits])
    positive = embedder.texts([edit.positive for _, edit in edits])
    negative = embedder.texts([edit.negative for _, edit in edits])
    now = (new * negative).sum(1)
    passes = iter((now > (new * positive).sum(1)) & (now > (old * negative).sum(1) + RAISED))
    return [[msgspec.structs.replace(one, passed=bool(next(passes))) for one in own] for own in made]


def _crop(path: Path, box: tuple[float, float, float, float]) -> np.ndarray:
    """The box with some context, RGB."""
    picture = read(path)
    x1, y1, x2, y2 = box
    margin = CONTEXT * max(x2 - x1, y2 - y1)
    left, top = int(max(x1 - margin, 0)), int(max(y1 - margin, 0))
    return picture[top : int(y2 + margin) + 1, left : int(x2 + margin) + 1, ::-1].copy()

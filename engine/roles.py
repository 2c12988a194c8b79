"""The roles a model pack fills, as values in and values out. A backend implements one batch method.

Images are HxWx3 uint8 RGB arrays; boxes are absolute float xyxy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from db.records import XYXY, Record, RunKind, State
from db.store import Store
from engine.chat import Usage
from engine.detections import Detections
from engine.pixels import Rectangle
from engine.presets import PRESETS
from engine.prompts import Pair

TRAININGS = 1000  # the newest, among which the detector of a data set is looked for


@dataclass(frozen=True)
class Context:
    """What a backend may look at while it works: the store, the data set of the run, where to compute. `prompts` are
    names and digests of the versions that the run began with; those in force when it is empty. `pack` names the model
    pack whose embedder, aesthetics and detector the filters use; none of them is there without it."""

    store: Store
    dataset_id: int
    device: str = "cpu"
    prompts: tuple[tuple[str, str], ...] = ()
    pack: str | None = None

    def embedder(self) -> Embedder | None:
        """The pack's embedder, None when it has none. Raises WinnowError when it cannot be loaded."""
        return self._role("embedder")

    def aesthetics(self) -> Aesthetics | None:
        """The pack's judge of looks, None when it has none. Raises WinnowError when it cannot be loaded."""
        return self._role("aesthetics")

    def detector(self) -> Detector | None:
        """The pack's detector, else the newest of fixed classes that was trained here on this data set, None when there is
        none yet.
        Raises WinnowError when it cannot be loaded."""
        named = self._role("detector")
        return named if named is not None else self._trained()

    def _trained(self) -> Detector | None:
        done = self.store.ledger.runs(kind=RunKind.TRAIN, state=State.DONE, dataset_id=self.dataset_id, limit=TRAININGS)
        newest = next((run for run in done if PRESETS[run.options["preset"]].kind == "closed"), None)
        folder = model_folder(self.store.home, newest.id) if newest else None
        return _load_detector(folder, self.device) if folder and folder.is_dir() else None

    def _role(self, role: str) -> Any:
        from engine.packs import load_pack  # packs know contexts

        pack = load_pack(self.pack, self.store.home) if self.pack else None
        if pack is None or getattr(pack, role) is None:
            return None
        return kept(Context(self.store, self.dataset_id, self.device), pack.model_dump_json(), role)


def model_folder(home: Path, run_id: int) -> Path:
    """Where the model of a finished train run lies."""
    return home / "models" / f"run-{run_id}"


@cache
def _load_detector(folder: Path, device: str) -> Detector:
    from engine.backends.mmdet_detector import MMDetDetector

    return MMDetDetector(folder, device)


def detector_in(context: Context, model: str) -> Detector:
    """The detector in a folder of the kind that a train run leaves. Raises WinnowError when there is none in it."""
    return _load_detector(Path(model).expanduser(), context.device)


@lru_cache(maxsize=8)
def kept(context: Context, pack: str, role: str) -> Any:
    """The backend of a role of a pack (given as JSON), kept between the runs of one process: loading a model may take longer
    than using it. Raises WinnowError as `engine.packs.backend` does."""
    from engine.packs import Pack, backend

    return backend(Pack.model_validate_json(pack), role, context)


class Foil(Record, frozen=True, kw_only=True):
    """A negative text: `text` differs from the original in one concept, `changed_from` -> `changed_to`.

    `edit_type` is one of object, colour, material, pattern, size, count, relation, position, action, attribute.
    `strategy` is how it was made: "rules" (N0), or the name of a prompt (n1_foil, ...). `spans` are the character ranges
    of `text` that differ from the original. `detail` is provenance for the record (prompt version, temperature, model).
    """

    text: str
    edit_type: str
    changed_from: str
    changed_to: str
    strategy: str = "rules"
    spans: tuple[tuple[int, int], ...] = ()
    detail: dict[str, Any] = msgspec.field(default_factory=dict)


class WriteTask(Record, frozen=True, kw_only=True):
    """Ask for up to `n` texts that are false of the image although `text` is true of it.

    `facts` is everything else known to be true (category names, other captions and phrases): a foil that one of them
    makes true is wrong. `siblings` are the other category names of the data set. `strategies` are the prompts to take
    in turn, all that the writer has when empty. `avoid` are sentences on earlier attempts (texts made, reasons of
    rejection) that a new attempt should heed. `pairs` are examples to learn from, those that came with Winnow when empty.
    """

    text: str
    n: int
    seed: int
    facts: tuple[str, ...] = ()
    siblings: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()


class Writer(Protocol):
    """`usage` counts what was spent so far, over all tasks."""

    usage: Usage

    def write(self, tasks: Sequence[WriteTask]) -> list[list[Foil] | str]:
        """One list per task, in order, possibly shorter than `n` or empty; a sentence instead where a task failed."""
        ...


@dataclass(frozen=True)
class PaintTask:
    """Repaint the content of `xyxy` in `image` so that it shows `prompt`.

    `category` is the class the result shows, None when the prompt names none of the data set's. `keep` are boxes of
    other annotations that must stay recognisable. `box_id` is the annotation that is replaced, None for an addition.
    `caption` describes the whole image, "" when nothing is known. `avoid` is what the result should not show (reasons of
    rejection of earlier attempts). Tasks that name the same `scene` have the same image and are painted into it together:
    each result then shows all of them.
    """

    image: np.ndarray
    xyxy: XYXY
    prompt: str
    seed: int
    category: str | None = None
    keep: tuple[XYXY, ...] = ()
    box_id: int | None = None
    caption: str = ""
    avoid: str = ""
    scene: str | None = None


@dataclass(frozen=True)
class Painted:
    """`image` equals the task's outside the `touched` rectangles (integer xyxy), to the byte. `xyxy` is the box re-fitted
    to what was painted. `detail` is provenance for the record (source instance, steps, ...)."""

    image: np.ndarray
    xyxy: XYXY
    touched: tuple[Rectangle, ...]
    detail: dict[str, Any] = field(default_factory=dict)


class Painter(Protocol):
    def paint(self, tasks: Sequence[PaintTask]) -> list[Painted | str]:
        """One result per task, in order; a sentence instead where the task cannot be done."""
        ...


@dataclass(frozen=True)
class CaptionTask:
    """Describe `image` as `instruction` asks; a model that takes no instructions leaves it aside. `image_id` is the image in
    the data set, for a captioner that goes by its annotations."""

    image: np.ndarray
    instruction: str
    seed: int
    image_id: int | None = None


@dataclass(frozen=True)
class Captioned:
    """What is to be seen. `detail` is provenance for the record (model, temperature, ...)."""

    text: str
    detail: dict[str, Any] = field(default_factory=dict)


class Captioner(Protocol):
    def caption(self, tasks: Sequence[CaptionTask]) -> list[Captioned | str]:
        """One caption per task, in order; a sentence instead where the image could not be described."""
        ...


@dataclass(frozen=True)
class DrawTask:
    """Make an image that shows `prompt`, without what `avoid` names. `size` is (width, height) in pixels, the model's own when
    None. `layout` are phrases and the boxes where their things should be, for an illustrator that heeds boxes. `split` is
    the part of the data set that the image is for."""

    prompt: str
    seed: int
    size: tuple[int, int] | None = None
    avoid: str = ""
    layout: tuple[tuple[str, XYXY], ...] = ()
    split: str = ""


@dataclass(frozen=True)
class Drawn:
    """`boxes` says for each entry of the task's layout where its thing is now, None where it was not drawn. `detail` is provenance
    for the record."""

    image: np.ndarray
    boxes: tuple[XYXY | None, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)


class Illustrator(Protocol):
    """`heeds_layout` is whether it puts things where the task's layout says, `size` what it draws when it is not told."""

    heeds_layout: bool
    size: tuple[int, int]

    def shows(self, phrase: str, split: str) -> bool:
        """Whether it has what it takes to draw that thing into an image of the split."""
        ...

    def draw(self, tasks: Sequence[DrawTask]) -> list[Drawn | str]:
        """One image per task, in order; a sentence instead where it could not be drawn."""
        ...


class Detector(Protocol):
    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Boxes, scores in [0, 1] and classes for each image."""
        ...


class PhraseDetector(Detector, Protocol):
    """A detector that looks for any words."""

    def find(self, images: Sequence[np.ndarray], phrases: Sequence[Sequence[str]]) -> list[Detections]:
        """For each image the boxes of its phrases, each phrase looked for by itself; labels number the phrases."""
        ...


class PictureEmbedder(Protocol):
    """`name` is the model with its revision or digest, `precision` how it computes, `width` the length of its vectors.
    One that also has `fit(image)` gives by it an image of the size that it looks at, of which its vector is the same."""

    name: str
    precision: str
    width: int
    batch_size: int

    def __hash__(self) -> int: ...

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(n, width) float32 unit vectors."""
        ...


class Embedder(PictureEmbedder, Protocol):
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, width) float32 unit vectors in the same space: products are cosine similarities."""
        ...


class Aesthetics(Protocol):
    name: str
    width: int

    def __hash__(self) -> int: ...

    def rate(self, vectors: np.ndarray) -> np.ndarray:
        """(n,) float32 of (n, width) unit vectors of whole images: about 1, ugly, to 10, beautiful."""
        ...

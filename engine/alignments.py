"""Where the words of a caption are in its image, as a model that learnt from pairs sees it (DetCLIPv2's best-matching regions):
made by a worker, kept with its run, drawn for whoever looks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import msgspec
import numpy as np

from db.errors import WinnowError
from db.records import XYXY, Run, RunKind, State
from db.store import Store
from engine.noun_phrases import noun_phrases
from engine.presets import PRESETS

SHOWN = 3  # regions of a word
COLOURS = ((56, 189, 248), (255, 176, 32), (52, 211, 153), (244, 114, 182), (167, 139, 250), (251, 113, 133))
"""Of words, RGB; the pages have the same."""
STRIP = 26  # pixels of a line of the legend


class Region(msgspec.Struct, frozen=True):
    """A box that the model may mean, in the image's pixels, and the cosine of its feature with that of the word."""

    xyxy: XYXY
    similarity: float


class Word(msgspec.Struct, frozen=True):
    """A part of the caption, [start, end), with its regions, the best first. The first word is the whole caption."""

    text: str
    start: int
    end: int
    regions: list[Region]

    @property
    def best(self) -> float:
        return self.regions[0].similarity if self.regions else 0.0


class Aligned(msgspec.Struct, frozen=True):
    """A caption on an image. `digest` is of the image's file."""

    image_id: int
    digest: str
    width: int
    height: int
    caption: str
    words: list[Word]

    @property
    def similarity(self) -> float:
        """The mean over the words of how well their best region fits, s_T (METHODS 4.4)."""
        return float(np.mean([word.best for word in self.words])) if self.words else 0.0


class Ask(msgspec.Struct, frozen=True):
    """A caption to be found on an image of a snapshot."""

    image_id: int
    caption: str


def spans_of(caption: str) -> list[tuple[int, int]]:
    """What is looked for: the whole caption, then its noun phrases."""
    whole = (0, len(caption))
    return [whole, *(span for span in noun_phrases(caption) if span != whole)]


def keep(store: Store, found: Sequence[Aligned]) -> str:
    """The digest of a blob with what was found."""
    return store.blobs.put(msgspec.json.encode(list(found)))


def kept(store: Store, run: Run) -> list[Aligned]:
    """What a finished look found. Raises WinnowError for a run that looked for nothing."""
    digest = run.result.get("alignments")
    if digest is None:
        raise WinnowError(
            f"Run {run.id} aligned no captions: `winnow align` and the Alignment page start runs that do."
        )
    return msgspec.json.decode(store.blobs.get(digest), type=list[Aligned])


def aligners(store: Store, dataset_id: int | None = None, limit: int = 200) -> list[Run]:
    """The finished trainings whose detectors can align captions, newest first."""
    done = store.ledger.runs(kind=RunKind.TRAIN, state=State.DONE, dataset_id=dataset_id, limit=limit)
    return [run for run in done if PRESETS[run.options["preset"]].pairs]


def known(store: Store, train_run_id: int, snapshot_id: int, ask: Ask, limit: int = 200) -> Run | None:
    """A finished run that has answered this already."""
    for run in store.ledger.runs(kind=RunKind.EVALUATE, state=State.DONE, limit=limit):
        asked = run.options.get("align")
        same = (run.options["train_run_id"], run.options["snapshot_id"]) == (train_run_id, snapshot_id)
        if same and asked == [msgspec.to_builtins(ask)] and "alignments" in run.result:
            return run
    return None


def over(image: np.ndarray, aligned: Aligned) -> np.ndarray:
    """The image RGB with the best region of every phrase, and below it what each colour means; at least 480 pixels wide."""
    factor = max(1.0, 480 / image.shape[1])
    drawn = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    phrases = aligned.words[1:] or aligned.words
    legend = np.full((STRIP * (len(phrases) + 1), drawn.shape[1], 3), 20, np.uint8)
    _write(legend, 0, f"{aligned.similarity:+.2f}  {aligned.caption}", (230, 230, 230))
    for place, word in enumerate(phrases):
        colour = COLOURS[place % len(COLOURS)]
        for region in word.regions[:1]:
            x1, y1, x2, y2 = (round(value * factor) for value in region.xyxy)
            cv2.rectangle(drawn, (x1, y1), (x2, y2), (0, 0, 0), 4)
            cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, 2)
        _write(legend, place + 1, f"{word.best:+.2f}  {word.text}", colour)
    return np.concatenate([drawn, legend])


def _write(legend: np.ndarray, line: int, text: str, colour: tuple[int, int, int]) -> None:
    plain = text.encode("ascii", "replace").decode()  # all that the font has
    cv2.putText(legend, plain, (8, STRIP * line + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)

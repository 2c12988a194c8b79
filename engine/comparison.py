"""Evaluations box by box: what every prediction was, which classes are taken for which, and what two runs find differently.

All of it comes from arrays that are made once from the predictions of a run (`judged`) and kept in a file under the
digest of these predictions, so that a page that shows them only reads them. Predictions and true boxes are matched at an
IoU of 0.5, as for the AP50 of COCO; a threshold of the score leaves these matches as they are, since the surer choose first.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from db.errors import WinnowError
from db.records import Run, RunKind
from db.store import Store
from engine.evaluation import suite
from engine.evaluation import truth as truths
from engine.evaluation.boxes import Predictions, Row, Space, Truth, read_predictions, read_truth
from engine.evaluation.coco import MOST
from engine.evaluation.matching import FALSE, HIT, IGNORED, Curves, Matches, curves, partners

LAYOUT = 1  # of the files; a change of `Judged` needs the next number
IN_MEMORY = 4  # evaluations
BINS = 20


@dataclass(frozen=True, eq=False)
class Judged:
    """An evaluation as columns. `images` int64 [I] and `labels` int64 [L] hold ids; a pair is image * L + label.

    True boxes: `box` int64 [m] their ids, `box_pair` int64 [m], `box_xywh` float32 [m,4], `ignored` bool [m]. Predictions
    by pair, the surest first: `pair` int64 [n], `xywh` float32 [n,4] in pixels, `score` float64 [n], `partner` int64 [n] the
    place of the true box that it took (-1: none), `open` bool [n]: whether its class was looked for in the image at all,
    as LVIS does not always do.
    """

    images: np.ndarray
    labels: np.ndarray
    box: np.ndarray
    box_pair: np.ndarray
    box_xywh: np.ndarray
    ignored: np.ndarray
    pair: np.ndarray
    xywh: np.ndarray
    score: np.ndarray
    partner: np.ndarray
    open: np.ndarray

    @property
    def verdict(self) -> np.ndarray:
        """int8 [n]: HIT, FALSE or IGNORED."""
        alone = self.partner < 0
        pardoned = np.where(alone, ~self.open, np.append(self.ignored, False)[self.partner])
        return np.where(pardoned, IGNORED, np.where(alone, FALSE, HIT)).astype(np.int8)

    def label(self, pair: np.ndarray) -> np.ndarray:
        """int64 [n], the places of the labels of pairs."""
        return pair % len(self.labels)

    def image(self, pair: np.ndarray) -> np.ndarray:
        """int64 [n], the places of the images of pairs."""
        return pair // len(self.labels)


# Making


def judged(store: Store, run: Run) -> Judged:
    """An evaluation box by box, from its file, which is made when it is not there yet.

    Raises WinnowError for a run without stored predictions of boxes.
    """
    if run.kind is not RunKind.EVALUATE or "predictions" not in run.result:
        raise WinnowError(
            f"Run {run.id} has no predictions on record ({run.kind}, {run.state}): choose a finished evaluation."
        )
    snapshot = store.snapshots.get(int(run.options["snapshot_id"]))
    named = f"{LAYOUT} {run.result['predictions']} {snapshot.digest} {run.options['split']}"
    path = store.home / "cache" / "judged" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.npz"
    if not path.is_file():
        predictions = msgspec.json.decode(store.blobs.get(run.result["predictions"]))
        _write(path, judge(truths.detection(store, snapshot, run.options["split"]), predictions))
    return _read(path)


def judge(truth: Row, predictions: Sequence[Row]) -> Judged:
    """Predictions (COCO results) against a COCO document, or one with the lists of LVIS. Raises BadBoxes."""
    space = Space((i["id"] for i in truth["images"]), (c["id"] for c in truth["categories"]))
    known, found = read_truth(truth["annotations"], space, crowds=True), read_predictions(predictions, space)
    order = np.lexsort((-found.score, found.pair))
    return Judged(
        images=np.array(space.images, np.int64),
        labels=np.array(space.labels, np.int64),
        box=np.array([note["id"] for note in truth["annotations"]], np.int64),
        box_pair=known.pair,
        box_xywh=known.xywh.astype(np.float32),
        ignored=known.ignore,
        pair=found.pair[order],
        xywh=found.xywh[order].astype(np.float32),
        score=found.score[order],
        partner=partners(known, found)[order],
        open=_looked_for(truth, space, known)(found.pair[order]),
    )


def _looked_for(truth: Row, space: Space, known: Truth) -> Any:
    """Whether unmatched predictions of a pair are wrong: always, but for LVIS, which says so of every image."""
    if not truths.is_federated(truth):
        return lambda pair: np.ones(len(pair), bool)

    def listed(key: str) -> np.ndarray:
        found = [(image["id"], label) for image in truth["images"] for label in image[key]]
        return space.pairs([i for i, _ in found], [k for _, k in found])

    whole = np.concatenate([known.pair, listed("neg_category_ids")])
    partial = listed("not_exhaustive_category_ids")
    return lambda pair: np.isin(pair, whole) & ~np.isin(pair, partial)


def _write(path: Path, made: Judged) -> None:
    """Under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.savez(file, **{field.name: getattr(made, field.name) for field in fields(Judged)})
    os.replace(file.name, path)


@lru_cache(maxsize=IN_MEMORY)
def _read(path: Path) -> Judged:
    with np.load(path, allow_pickle=False) as file:
        return Judged(**{field.name: file[field.name] for field in fields(Judged)})


# Looking


def curves_of(run: Judged) -> Curves:
    """Precision and recall of each label at an IoU of 0.5; their mean is the AP50 of COCO."""
    rank = np.arange(len(run.pair)) - np.searchsorted(run.pair, run.pair, "left")
    matches = Matches(run.pair, rank, run.score, run.verdict[:, None, None], run.box_pair, ~run.ignored[:, None])
    return curves(matches, run.label(run.pair), run.label(run.box_pair), len(run.labels), most=MOST[-1])


def precision_at_recalls(run: Judged, label: int | None = None) -> np.ndarray | None:
    """float64 [101], the interpolated precision at the recalls 0, .01 ... 1: of the label at a place, or the mean over all
    labels with something to find. None when there is nothing to find."""
    found = curves_of(run).precision[:, 0, 0]
    chosen = found if label is None else found[label : label + 1]
    chosen = chosen[chosen[:, 0] >= 0]
    return chosen.mean(0) if len(chosen) else None


@dataclass(frozen=True)
class Tally:
    """What a threshold of the score leaves: boxes found, false ones, and true boxes that were not found."""

    right: int
    wrong: int
    missed: int


def tally(run: Judged, threshold: float, label: int | None = None) -> Tally:
    """Counts over all images, of one label or of all."""
    mine = _of(run.label(run.pair), label) & (run.score >= threshold)
    right = int((run.verdict[mine] == HIT).sum())
    wanted = int((_of(run.label(run.box_pair), label) & ~run.ignored).sum())
    return Tally(right, int((run.verdict[mine] == FALSE).sum()), wanted - right)


def score_histogram(run: Judged, label: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """int64 [20] each: right and wrong predictions by score, in twenty equal bins from 0 to 1."""
    mine = _of(run.label(run.pair), label)
    at = np.minimum((np.clip(run.score, 0, 1) * BINS).astype(int), BINS - 1)
    right, wrong = (np.bincount(at[mine & (run.verdict == what)], minlength=BINS) for what in (HIT, FALSE))
    return right, wrong


def _of(labels: np.ndarray, label: int | None) -> np.ndarray:
    return np.ones(len(labels), bool) if label is None else labels == label


@dataclass(frozen=True, eq=False)
class Confusion:
    """Every true box and every prediction above a threshold, side by side: `box` int64 [k] and `found` int64 [k] are
    their places in the evaluation, -1 for none. `counts` int64 [L+1,L+1]: rows are what there is, columns what was said;
    the last row is "nothing there", the last column "not found"."""

    box: np.ndarray
    found: np.ndarray
    counts: np.ndarray
    cell: np.ndarray

    def at(self, row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
        """The true boxes and predictions of a cell, the surest first."""
        chosen = self.cell == row * len(self.counts) + column
        return self.box[chosen], self.found[chosen]


def confusion(run: Judged, threshold: float) -> Confusion:
    """First every prediction finds a box of its own class, as for AP; of the boxes that are left, those that wrong
    predictions overlap by an IoU of 0.5 count as taken for another class. A second box on a found object finds nothing."""
    verdict = run.verdict
    sure = np.flatnonzero(run.score >= threshold)
    sure = sure[np.argsort(-run.score[sure], kind="stable")]
    hit, false = sure[verdict[sure] == HIT], sure[verdict[sure] == FALSE]
    free = np.flatnonzero(~run.ignored & ~np.isin(np.arange(len(run.box)), run.partner[hit]))
    other = _across(run, free, false)
    taken = np.where(other < 0, -1, np.append(free, -1)[other])
    left = np.setdiff1d(free, taken)
    box = np.concatenate([run.partner[hit], taken, left])
    found = np.concatenate([hit, false, np.full(len(left), -1)])
    return _counted(run, box, found)


def _across(run: Judged, boxes: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """int64 [n], which of some true boxes each of some predictions takes, whatever the classes; -1 for none."""
    no = np.zeros(len(boxes), bool)
    area = np.zeros(len(boxes))
    known = Truth(run.image(run.box_pair[boxes]), run.box_xywh[boxes].astype(np.float64), area, no, no, no)
    return partners(known, _chosen(run, predictions, run.image(run.pair[predictions])))


def _chosen(run: Judged, places: np.ndarray, group: np.ndarray) -> Predictions:
    return Predictions(group, run.xywh[places].astype(np.float64), run.score[places])


def _counted(run: Judged, box: np.ndarray, found: np.ndarray) -> Confusion:
    size = len(run.labels) + 1
    row = np.where(box < 0, size - 1, run.label(np.append(run.box_pair, 0)[box]))
    column = np.where(found < 0, size - 1, run.label(np.append(run.pair, 0)[found]))
    cell = row * size + column
    return Confusion(box, found, np.bincount(cell, minlength=size * size).reshape(size, size), cell)


@dataclass(frozen=True, eq=False)
class Changes:
    """What the second of two evaluations finds and the first does not (`won`), and the other way round (`lost`): places of
    true boxes in the first and in the second, int64 [k,2]. `came` int64 [k]: wrong predictions of the second that the
    first does not make; `went` int64 [k]: those of the first that the second does not make; the surest first."""

    won: np.ndarray
    lost: np.ndarray
    came: np.ndarray
    went: np.ndarray


def changes(first: Judged, second: Judged, threshold: float) -> Changes:
    """What changed at one threshold of the score. Two wrong predictions are the same when they are of one class and
    overlap by an IoU of 0.5. Raises WinnowError when the two were judged on different images or classes."""
    if not (np.array_equal(first.images, second.images) and np.array_equal(first.labels, second.labels)):
        raise WinnowError(
            "The two evaluations are of different images or classes: what changed can be said of one split of one data set."
        )
    _, a, b = np.intersect1d(first.box, second.box, return_indices=True)
    was, now = _found(first, threshold)[a], _found(second, threshold)[b]
    counts = ~first.ignored[a] & ~second.ignored[b]
    both = np.stack([a, b], 1)
    came, went = _wrong(second, threshold), _wrong(first, threshold)
    return Changes(
        won=both[~was & now & counts],
        lost=both[was & ~now & counts],
        came=came[~_repeated(second, came, first, went)],
        went=went[~_repeated(first, went, second, came)],
    )


def _found(run: Judged, threshold: float) -> np.ndarray:
    """bool [m]: whether a true box was found."""
    found = np.zeros(len(run.box), bool)
    found[run.partner[(run.score >= threshold) & (run.partner >= 0)]] = True
    return found


def _wrong(run: Judged, threshold: float) -> np.ndarray:
    """int64 [k], the wrong predictions, the surest first."""
    wrong = np.flatnonzero((run.score >= threshold) & (run.verdict == FALSE))
    return wrong[np.argsort(-run.score[wrong], kind="stable")]


def _repeated(run: Judged, places: np.ndarray, other: Judged, others: np.ndarray) -> np.ndarray:
    """bool [k]: whether a prediction of `run` is made by `other` as well."""
    no = np.zeros(len(others), bool)
    area = np.zeros(len(others))
    known = Truth(other.pair[others], other.xywh[others].astype(np.float64), area, no, no, no)
    return partners(known, _chosen(run, places, run.pair[places])) >= 0


def on_image(run: Judged, image: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The places of the true boxes and of the predictions above a threshold on the image at a place."""
    known = np.flatnonzero(run.image(run.box_pair) == image)
    start, stop = np.searchsorted(run.pair, [image * len(run.labels), (image + 1) * len(run.labels)])
    found = np.arange(start, stop)
    return known, found[run.score[found] >= threshold]


def finder_of(run: Judged, box: int, threshold: float) -> int | None:
    """The place of the prediction that found the true box at a place, if any."""
    found = np.flatnonzero((run.partner == box) & (run.score >= threshold))
    return int(found[0]) if len(found) else None


# Slices


def slices(store: Store, run: Run) -> dict[str, dict[str, float]]:
    """AP by slice, of what the evaluation can be cut into: `{"size": {"small": 0.2, ...}, "frequency": ..., "words": ...,
    "edit": ...}`. A slice without anything to find is left out; so is a cut with one slice only."""
    cuts = {**suite.slices(run.result), "frequency": _frequencies(store, run)}
    known = {cut: {name: ap for name, ap in values.items() if ap >= 0} for cut, values in cuts.items()}
    return {cut: values for cut, values in known.items() if len(values) > 1}


def _frequencies(store: Store, run: Run) -> dict[str, float]:
    """Mean AP of the rare, common and frequent classes."""
    aps = run.result.get("per_class", {})
    bands = truths.bands(store, run.dataset_id) if run.dataset_id is not None and aps else {}
    known: dict[str, list[float]] = {"rare": [], "common": [], "frequent": []}
    for name, ap in aps.items():
        if ap >= 0 and name in bands:
            known[bands[name]].append(ap)
    return {band: float(np.mean(found)) if found else -1.0 for band, found in known.items()}

"""Enhanced Negatives for detectors that read: samples whose prompt also says what is not there.

A prompt is a row of descriptions; `tokens_positive` gives, for each box label, the characters that name it, as mmdet's
GLIP and Grounding DINO expect it. Every token outside of these has target 0 for every box, so a negative description
needs no loss of its own: it is enough that it stands in the prompt without a box. Three routes put it there:

- text: accepted negative descriptions join the caption of the same image;
- image: the picture repainted to show the negative; now that is true, and the original description is false;
- pair: both pictures in one, where each description is true in one half only.

The order of descriptions is random, or a model would learn that the last one is false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import BaseBoxes

SEPARATOR = ". "  # also what keeps mmdet's text encoder from mixing the descriptions
Spans = dict[int, list[list[int]]]
Length = Callable[[str], int]


class Description(msgspec.Struct, frozen=True):
    """A part of a prompt. `spans[label]` are the [start, end) characters of `text` that name the boxes of that label;
    a negative has none."""

    text: str
    spans: Spans = {}

    @classmethod
    def naming(cls, text: str, label: int) -> Description:
        """All of the text names the boxes of this label."""
        return cls(text, {label: [[0, len(text.rstrip(" ."))]]})


class NegativeImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A picture like the sample's own, repainted inside `box` (xyxy, its pixels): it showed `positive`, now it shows
    `negative`."""

    img_path: str
    box: tuple[float, float, float, float]
    positive: str
    negative: str


def prompt(descriptions: Sequence[Description]) -> tuple[str, Spans]:
    """(the descriptions in one text, each ended by a full stop; where the text names which label)."""
    text = ""
    spans: Spans = {}
    for description in descriptions:
        words = description.text.rstrip(" .")
        for label, ranges in description.spans.items():
            inside = [[start, min(end, len(words))] for start, end in ranges]
            spans.setdefault(label, []).extend([[len(text) + start, len(text) + end] for start, end in inside])
        text += words + SEPARATOR
    return text.rstrip(), spans


def fitting(
    positives: Sequence[Description], negatives: Iterable[str], length: Length, limit: int, name: str
) -> list[Description]:
    """The positives and as many negatives, from the first on, as `limit` tokens hold together. `length` counts the
    tokens of a text with those that mark its ends.

    Raises WinnowError, which names the sample, when the positives alone are too long.
    """
    chosen = list(positives)
    seen = length(prompt(chosen)[0])
    if seen > limit:
        raise WinnowError(
            f"{name}: the text has {seen} tokens, but the text encoder takes {limit}. Shorten it, split it into "
            f"several samples, or leave the sample out. It begins: {prompt(chosen)[0][:80]!r}"
        )
    for negative in negatives:
        longer = [*chosen, Description(negative)]
        if length(prompt(longer)[0]) > limit:
            break
        chosen = longer
    return chosen


def too_long(texts: Iterable[str], length: Length, limit: int) -> list[tuple[int, int]]:
    """(index, tokens) of the texts that the encoder cannot take; to be asked before a training."""
    return [(index, count) for index, count in enumerate(map(length, texts)) if count > limit]


def token_length(tokenizer: Any) -> Length:
    """The function that counts tokens as mmdet's text encoder sees them; `tokenizer` or the folder of one."""
    if isinstance(tokenizer, (str, Path)):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(tokenizer))
    return lambda text: len(tokenizer(text)["input_ids"])


class _PromptTransform(BaseTransform):
    """What both kinds of samples share: a random generator, and a prompt of limited length in random order.

    With `draw` in the sample, its randomness is a function of `seed` and the draw; else it comes from numpy's global
    state, which mmengine seeds in every worker.
    """

    def __init__(self, tokenizer: Any, max_tokens: int = 256, seed: int = 0) -> None:
        self._length, self._limit, self._seed = token_length(tokenizer), max_tokens, seed

    def _rng(self, results: dict[str, Any]) -> np.random.Generator:
        if "draw" in results:
            return np.random.default_rng((self._seed, results["draw"]))
        return np.random.default_rng(np.random.randint(2**31))

    def _say(
        self,
        results: dict[str, Any],
        positives: Sequence[Description],
        negatives: Iterable[str],
        rng: np.random.Generator,
    ) -> None:
        name = str(results.get("img_path", f"image {results.get('img_id')}"))
        chosen = fitting(positives, negatives, self._length, self._limit, name)
        order = rng.permutation(len(chosen))
        results["text"], results["tokens_positive"] = prompt([chosen[index] for index in order])


@TRANSFORMS.register_module()
class EnhancedNegatives(_PromptTransform):
    """Sends a grounding sample down the route text, image or pair with these probabilities; else it stays as it is.

    Comes after the image and its boxes are loaded and before anything moves them. The sample holds `text` and
    `tokens_positive`, and may hold `negatives` (accepted descriptions) and `negative_images` (as `NegativeImage`). A
    sample that lacks what its route needs stays unmodified too. `per_caption` are the least and the most negatives a
    text gets; the encoder's length bounds them. By default half of the samples stay as they are.

    Raises WinnowError for impossible options, a caption longer than the encoder, and a missing or different image.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_tokens: int = 256,
        per_caption: tuple[int, int] = (1, 2),
        text: float = 1 / 6,
        image: float = 1 / 6,
        pair: float = 1 / 6,
        seed: int = 0,
    ) -> None:
        super().__init__(tokenizer, max_tokens, seed)
        if min(text, image, pair) < 0 or text + image + pair > 1 + 1e-9:
            raise WinnowError(f"Route probabilities should add up to at most 1; seen: {text}, {image}, {pair}.")
        if not 1 <= per_caption[0] <= per_caption[1]:
            raise WinnowError(f"per_caption should be (least, most) with 1 <= least <= most; seen: {per_caption}.")
        self._bounds, self._count = np.cumsum([text, image, pair]), per_caption

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """The sample for this draw; the given one is not changed."""
        rng, results = self._rng(results), dict(results)
        route = int(np.searchsorted(self._bounds, rng.random(), side="right"))
        needed = ("negatives", "negative_images", "negative_images")
        if route < 3 and results.get(needed[route]):
            (self._add_text, self._swap_image, self._pair_images)[route](results, rng)
        else:
            self._say(results, [_caption(results)], (), rng)
        return results

    def _add_text(self, results: dict[str, Any], rng: np.random.Generator) -> None:
        wanted = int(rng.integers(self._count[0], self._count[1] + 1))
        order = rng.permutation(len(results["negatives"]))[:wanted]
        self._say(results, [_caption(results)], [results["negatives"][index] for index in order], rng)

    def _swap_image(self, results: dict[str, Any], rng: np.random.Generator) -> None:
        edit, image = _one_edit(results, rng)
        _show(results, image, [edit.box])
        results["img_path"] = edit.img_path
        self._say(results, [Description.naming(edit.negative, 0), Description(edit.positive)], (), rng)

    def _pair_images(self, results: dict[str, Any], rng: np.random.Generator) -> None:
        edit, image = _one_edit(results, rng)
        axis, negative_first = int(rng.integers(2)), bool(rng.integers(2))
        halves = [image, results["img"]] if negative_first else [results["img"], image]
        height, width = image.shape[:2]
        second = np.array(edit.box) + ((0, height, 0, height) if axis == 0 else (width, 0, width, 0))
        boxes = [second, edit.box] if negative_first else [edit.box, second]  # of the positive, of the negative
        _show(results, np.concatenate(halves, axis), boxes)
        both = [Description.naming(edit.positive, 0), Description.naming(edit.negative, 1)]
        self._say(results, both, (), rng)


@TRANSFORMS.register_module()
class ClassPrompt(_PromptTransform):
    """Detection data for the same training: the classes of the image and up to `max_absent` others make the prompt.

    `names[label]` are the words. Labels stay as they are. Raises WinnowError when the classes of one image do not fit.
    """

    def __init__(
        self, tokenizer: Any, names: Sequence[str], max_tokens: int = 256, max_absent: int = 85, seed: int = 0
    ) -> None:
        super().__init__(tokenizer, max_tokens, seed)
        self._names, self._absent = list(names), max_absent

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """The sample with a prompt; the given one is not changed."""
        rng, results = self._rng(results), dict(results)
        present = np.unique(results["gt_bboxes_labels"]).tolist()
        absent = [name for label, name in enumerate(self._names) if label not in present]
        negatives = rng.permutation(np.array(absent, object))[: self._absent]
        self._say(results, [Description.naming(self._names[label], label) for label in present], negatives, rng)
        return results


def _caption(results: dict[str, Any]) -> Description:
    return Description(results["text"], dict(results["tokens_positive"]))


def _one_edit(results: dict[str, Any], rng: np.random.Generator) -> tuple[NegativeImage, np.ndarray]:
    """(a negative image of the sample, its pixels)."""
    edits = results["negative_images"]
    edit = msgspec.convert(edits[rng.integers(len(edits))], NegativeImage)
    image = cv2.imread(edit.img_path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise WinnowError(f"The negative image {edit.img_path} is missing or cannot be read.")
    if image.shape != results["img"].shape:
        raise WinnowError(
            f"The negative image {edit.img_path} has shape {image.shape}, its original {results['img'].shape}. They "
            "should be equal, for the box is the same in both."
        )
    return edit, image


def _show(results: dict[str, Any], image: np.ndarray, boxes: Sequence[Any]) -> None:
    """Makes this the sample's image, with the box of label i in place i."""
    stack = np.asarray(boxes, np.float32)
    known = results["gt_bboxes"]
    as_known: Callable[[np.ndarray], Any] = np.asarray
    if isinstance(known, BaseBoxes):
        as_known = partial(_as_boxes, type(known))
    results.update(
        img=image,
        img_shape=image.shape[:2],
        ori_shape=image.shape[:2],
        gt_bboxes=as_known(stack),
        gt_bboxes_labels=np.arange(len(stack)),
        gt_ignore_flags=np.zeros(len(stack), bool),
    )


def _as_boxes(kind: type[BaseBoxes], boxes: np.ndarray) -> BaseBoxes:
    return kind(torch.from_numpy(boxes))

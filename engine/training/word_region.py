"""Words and regions (DetCLIPv2, Yao et al. 2023, section 3.3): how well an image fits a text, and what is learnt from pairs.

Region and word features have length 1, so that a similarity is a cosine. Regions of all images and words of all texts are
compared at once; several texts may have the same word, which is one word then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, distributed
from torch.nn import functional as F

from engine.pair_options import Matching, PairOptions, Selection

LEAST = -2.0  # below every cosine, and harmless to a softmax


def text_similarity(
    regions: Tensor,
    words: Tensor,
    said: Tensor,
    matching: Matching = "best",
    temperature: float = 0.1,
    shown: Tensor | None = None,
) -> Tensor:
    """How much of each text an image shows, [images, texts]: the mean over the words of a text of how well the image's
    regions fit the word.

    `regions` is [images, k, d] and `words` [words, d], both of unit length; `said` [texts, words] which text has which word,
    at least one; `shown` [images, k] tells regions from padding. "best" takes the best region of each word,
    s_T = 1/M sum_j max_k f_Tj . f_Pk (METHODS 4.4; DetCLIPv2, section 3.3), "soft" the mean of all regions weighted by a
    softmax at `temperature` (its softer alternative). The order of regions and of words changes nothing.
    """
    similar = _compared(regions, words, shown)
    fits = similar.amax(1) if matching == "best" else ((similar / temperature).softmax(1) * similar).sum(1)
    return fits @ (said / said.sum(1, keepdim=True)).T.to(fits.dtype)


def image_similarity(regions: Tensor, words: Tensor, said: Tensor, shown: Tensor | None = None) -> Tensor:
    """How much of each image a text names, [images, texts]: the mean over regions of their best word, s_I. DetCLIPv2 does
    without it, as most regions have no word (METHODS 4.4). Arguments as of `text_similarity`."""
    similar = torch.einsum("ikd,wd->ikw", regions, words)
    there = torch.ones_like(regions[..., 0]) if shown is None else shown.to(regions.dtype)
    fits = torch.stack([similar[..., one].amax(-1) for one in said], dim=1)
    return (fits * there[:, None]).sum(-1) / there.sum(1, keepdim=True).clamp(min=1)


def _compared(regions: Tensor, words: Tensor, shown: Tensor | None) -> Tensor:
    """Cosines [images, k, words]; padding fits less than anything."""
    similar = torch.einsum("ikd,wd->ikw", regions, words)
    return similar if shown is None else similar.masked_fill(~shown[..., None], LEAST)


def contrastive(similar: Tensor, temperature: float = 0.5, smoothing: float = 0.1) -> Tensor:
    """The mean over texts of how hard it is to tell the image of a text from the others (METHODS 4.4; DetCLIPv2 equation 4).

    `similar` is [images, texts], the i-th text is that of the i-th image; the softmax is over images. Its transpose gives the
    other direction. 0 for a single pair without smoothing.
    """
    target = torch.arange(similar.shape[1], device=similar.device)
    return F.cross_entropy(similar.T / temperature, target, label_smoothing=smoothing)


def pair_loss(
    regions: Tensor, words: Tensor, said: Tensor, options: PairOptions, shown: Tensor | None = None
) -> Tensor:
    """The contrastive loss of the pairs of all processes, unweighted. `regions` are of this process, `words` and `said` of
    all, their texts in the order of the processes; gradients reach both."""
    seen = text_similarity(regions, words, said, options.matching, options.soft_temperature, shown)
    named = None if options.direction == "text-to-image" else image_similarity(regions, words, said, shown)
    return directed(gathered(seen), None if named is None else gathered(named), options)


def directed(seen: Tensor, named: Tensor | None, options: PairOptions) -> Tensor:
    """The loss in the direction of the options, from s_T and s_I over all images and texts."""

    def told_apart(similar: Tensor) -> Tensor:
        return contrastive(similar, options.temperature, options.smoothing)

    if named is None or options.direction == "text-to-image":
        return told_apart(seen)
    if options.direction == "image-to-text":
        return told_apart(named.T)
    return (told_apart(seen) + told_apart(named.T)) / 2


# Which regions may be chosen


def proposal_scores(
    similar: Tensor, own: Sequence[Sequence[int]], selection: Selection, objectness: Tensor, centerness: Tensor
) -> Tensor:
    """What the regions of each image are ranked by, [images, anchors] (METHODS 4.5; DetCLIPv2, table 4).

    `similar` [images, anchors, concepts] are the cosines with all concepts of the batch, `own[i]` the concepts of image i.
    "batch": the best of all concepts, so that regions that fit other captions stay as hard negatives; "sample": the best of
    the image's own; "classification": `objectness`, the best score as something that the detector knows; "centerness".
    """
    if selection == "batch":
        return similar.amax(-1)
    if selection == "sample":
        return torch.stack([image[:, list(mine)].amax(-1) for image, mine in zip(similar, own, strict=True)])
    return objectness if selection == "classification" else centerness


def chosen_regions(boxes: Tensor, scores: Tensor, k: int, iou: float) -> tuple[Tensor, Tensor]:
    """(the k best regions of each image after suppression, [images, k]; which of these are none, for want of enough).

    `boxes` is [images, anchors, 4] xyxy, `scores` [images, anchors]. Regions that are none point to region 0.
    """
    images, anchors = scores.shape
    image_of = torch.arange(images, device=scores.device).repeat_interleave(anchors)
    kept = torchvision.ops.batched_nms(boxes.reshape(-1, 4).float(), scores.reshape(-1).float(), image_of, iou)
    place = torch.zeros(images, k, dtype=torch.long, device=scores.device)
    shown = torch.zeros(images, k, dtype=torch.bool, device=scores.device)
    for image in range(images):
        best = kept[image_of[kept] == image][:k] - image * anchors
        place[image, : len(best)], shown[image, : len(best)] = best, True
    return place, shown


# Over several processes


class _Gather(torch.autograd.Function):
    """Equal tensors of all processes in one, whose gradient goes back to the process that each part came from, summed over
    the processes. torch's own needs a reduction that gloo lacks."""

    @staticmethod
    def forward(context: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> Tensor:
        whole = grads[0].contiguous()
        distributed.all_reduce(whole)
        return whole.chunk(distributed.get_world_size())[distributed.get_rank()]


def gathered(mine: Tensor) -> Tensor:
    """The tensors of all processes, of one shape, along the first dimension, with gradients. In a lone process, as it is."""
    alone = not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1
    return mine if alone else cast(Tensor, _Gather.apply(mine))


def of_all_processes(mine: Any) -> list[Any]:
    """The value of every process, in their order."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, mine)
    return found

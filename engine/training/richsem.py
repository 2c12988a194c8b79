"""RichSem (METHODS 3; Meng et al. 2023): a detector learns what CLIP sees in its boxes, in a branch that only the
training has.

`detector_of` makes the detector of the options, and `lesson_of` the configuration of its training. The soft labels are
made of the very picture that it is trained on, so they describe what a box shows after all cropping, which its class
may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from engine.semantic_options import SemanticOptions
from engine.training.gen2det import RealMasksRoIHead
from engine.training.text_classifier import (
    Clip,
    TextDINOHead,
    load,
    texts_of,
    with_federated_loss,
    with_prompts,
    with_texts,
)

STRIDE = 32  # pixels of a cell of the map that a ResNet CLIP makes of an image
View = Literal["auto", "map", "crops"]


def soft_loss(soft: Tensor, logits: Tensor) -> Tensor:
    """L_sem = (1/n) Σ KL(softmax(q) ‖ softmax(z)) over n boxes (METHODS 3.3), of logits q and z [n,classes] that CLIP's
    scale is in already. 0, with a gradient of 0, without boxes."""
    if not len(logits):
        return logits.sum()
    return F.kl_div(logits.log_softmax(-1), soft.log_softmax(-1), reduction="batchmean", log_target=True)


# What CLIP sees


class BoxReader:
    """Soft logits of boxes on images that are at hand, by a frozen CLIP (METHODS 3.2.4).

    "map" runs the visual trunk of a ResNet CLIP over the whole image and pools the part of each box by its attention;
    "crops" encodes each box as an image of its own, which every CLIP can. "auto" takes the map where there is one.
    Raises WinnowError for a map of a CLIP that makes none.
    """

    def __init__(self, clip: Clip, texts: Tensor, view: View = "auto") -> None:
        pooled = hasattr(clip.network.visual, "attnpool") and hasattr(clip.network.visual, "stem")
        if view == "map" and not pooled:
            raise WinnowError(
                "The option view: map needs a ResNet CLIP, such as RN50, whose map of an image can be pooled by boxes. "
                "Choose view: crops for this one."
            )
        self._clip, self._texts, self._by_map = clip, texts, pooled and view != "crops"

    def __deepcopy__(self, memo: dict[int, Any]) -> BoxReader:
        return self

    @torch.no_grad()
    def logits(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """For each uint8 RGB image [3,h,w] the logits q [n,classes] of its boxes [n,4], xyxy in pixels."""
        device = images[0].device
        self._clip.network.to(device)
        batch = self._stacked(images)
        placed = [one.to(device, torch.float32) for one in boxes]
        seen = self._mapped(batch, placed) if self._by_map else self._cropped(batch, placed)
        shares = self._clip.scale * F.normalize(seen.float(), dim=-1) @ self._texts.to(device).T
        return list(shares.split([len(one) for one in placed]))

    def _stacked(self, images: Sequence[Tensor]) -> Tensor:
        """The images in CLIP's colours [b,3,H,W], padded to a multiple of the stride with its mean."""
        mean, std = (images[0].new_tensor(self._clip.form[name], dtype=torch.float32) for name in ("mean", "std"))
        sides = [-(-max(image.shape[axis] for image in images) // STRIDE) * STRIDE for axis in (1, 2)]
        batch = mean.new_zeros(len(images), 3, *sides)
        for place, image in zip(batch, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = (image / 255 - mean[:, None, None]) / std[:, None, None]
        return batch

    def _mapped(self, batch: Tensor, boxes: list[Tensor]) -> Tensor:
        visual = self._clip.network.visual
        cells = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(batch)))))
        side = visual.image_size // STRIDE  # 7 of RN50; the places that the attention knows
        parts = roi_align(cells, boxes, side, 1 / STRIDE, -1, aligned=True)
        return visual.attnpool(parts) if len(parts) else parts.new_zeros(0, self._texts.shape[1])

    def _cropped(self, batch: Tensor, boxes: list[Tensor]) -> Tensor:
        """roi_align of the image itself: every crop at CLIP's size, its pixels averaged where they are more than
        that."""
        size = self._clip.form["size"]
        height, width = (size, size) if isinstance(size, int) else size
        crops = roi_align(batch, boxes, (height, width), 1.0, -1, aligned=True)
        return self._clip.network.encode_image(crops) if len(crops) else crops.new_zeros(0, self._texts.shape[1])


@MODELS.register_module()
class SoftLabels(nn.Module):
    """A data preprocessor before another one: in training every box gets its soft logits, `gt_instances.soft`
    [n,classes]."""

    def __init__(self, then: dict[str, Any], prompts: dict[str, Any], view: View = "auto") -> None:
        super().__init__()
        self.then: DetDataPreprocessor = MODELS.build(then)
        self._reader = BoxReader(load(prompts["model"], prompts["pretrained"]), texts_of(prompts), view)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """What `then` makes of images in RGB and their samples."""
        data = self.then.cast_data(data)
        if training:
            truths = [sample.gt_instances for sample in data["data_samples"]]
            soft = self._reader.logits(data["inputs"], [truth.bboxes for truth in truths])
            for truth, logits in zip(truths, soft, strict=True):
                truth.soft = logits
        return self.then(data, training)

    def __getattr__(self, name: str) -> Any:
        """What else is asked of a preprocessor, such as its device, the other one knows."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("then"), name)


# Where it teaches


class SemanticBranch(nn.Module):
    """z = exp(s) · cos(W x, text): a second projection of the features of the classifier (METHODS 3.2.3). It is left
    out of the trained detector."""

    training_only = True
    texts: Tensor

    def __init__(self, in_features: int, prompts: Mapping[str, Any]) -> None:
        super().__init__()
        self.register_buffer("texts", texts_of(prompts), persistent=False)
        self.project = nn.Linear(in_features, self.texts.shape[1], bias=False)
        self.scale = load(prompts["model"], prompts["pretrained"]).scale

    def forward(self, features: Tensor) -> Tensor:
        """[n,in_features] -> z [n,classes]."""
        return self.scale * F.normalize(self.project(features), dim=-1) @ self.texts.T


class _Taught:
    """A head that learns soft labels. `semantic` says how much, and, for a branch of its own, `prompts` of which texts;
    without them the classifier itself learns."""

    semantic: SemanticBranch | None
    weight: float

    def _learn_from(self, semantic: Mapping[str, Any], in_features: int) -> None:
        prompts = semantic.get("prompts")
        self.weight = float(semantic["weight"])
        self.semantic = None if prompts is None else SemanticBranch(in_features, prompts)

    def _soft_loss(self, soft: Tensor, features: Tensor, logits: Tensor) -> Tensor:
        """Of boxes with their features [n,in_features] and the logits of the classifier [n,classes]."""
        return self.weight * soft_loss(soft, logits if self.semantic is None else self.semantic(features))


class _TaughtQueries(_Taught):
    """For DINO: the last layer's matched queries, and its positive denoising queries (METHODS 3.3)."""

    def loss(
        self,
        hidden_states: Tensor,
        references: list[Tensor],
        enc_outputs_class: Tensor,
        enc_outputs_coord: Tensor,
        batch_data_samples: Sequence[Any],
        dn_meta: dict[str, int],
    ) -> dict[str, Tensor]:
        """DINO's losses, loss_sem and dn_loss_sem."""
        head: Any = self
        truths = [sample.gt_instances for sample in batch_data_samples]
        metas = [sample.metainfo for sample in batch_data_samples]
        scores, boxes = head(hidden_states, references)
        found = head.loss_by_feat(scores, boxes, enc_outputs_class, enc_outputs_coord, truths, metas, dn_meta)
        first = dn_meta["num_denoising_queries"]
        with torch.no_grad():
            matched = self._matched(scores[-1, :, first:], boxes[-1, :, first:], truths, metas)
        denoised = [denoising(len(truth), dn_meta) for truth in truths]
        places = {"loss_sem": [(first + q, t) for q, t in matched], "dn_loss_sem": denoised}
        return found | {
            name: self._loss_at(chosen, hidden_states[-1], scores[-1], truths) for name, chosen in places.items()
        }

    def _matched(
        self, scores: Tensor, boxes: Tensor, truths: Sequence[Any], metas: Sequence[dict[str, Any]]
    ) -> list[tuple[Tensor, Tensor]]:
        """(queries, truths they are matched with) of each image, as DETR's loss matches them."""
        from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
        from mmengine.structures import InstanceData

        assigner: Any = self.assigner  # type: ignore[attr-defined]
        matched = []
        for score, box, truth, meta in zip(scores, boxes, truths, metas, strict=True):
            height, width = meta["img_shape"]
            absolute = bbox_cxcywh_to_xyxy(box) * box.new_tensor([width, height, width, height])
            given = assigner.assign(InstanceData(scores=score, bboxes=absolute), truth, img_meta=meta).gt_inds
            queries = torch.nonzero(given > 0).flatten()
            matched.append((queries, given[queries] - 1))
        return matched

    def _loss_at(
        self, places: Sequence[tuple[Tensor, Tensor]], hidden: Tensor, scores: Tensor, truths: Sequence[Any]
    ) -> Tensor:
        """Of (queries, truths) of each image."""
        soft = [truth.soft[which.to(truth.soft.device)] for truth, (_, which) in zip(truths, places, strict=True)]
        features, logits = (
            torch.cat([one[queries.to(one.device)] for one, (queries, _) in zip(of, places, strict=True)])
            for of in (hidden, scores)
        )
        return self._soft_loss(torch.cat(soft), features, logits)


def denoising(truths: int, dn_meta: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    """(positive denoising queries of an image, truths they were made of): the first of each group of DINO's."""
    groups = dn_meta["num_denoising_groups"]
    starts = torch.arange(groups)[:, None] * (dn_meta["num_denoising_queries"] // groups)
    each = torch.arange(truths)
    return (starts + each).flatten(), each.repeat(groups)


@MODELS.register_module()
class SemanticDINOHead(_TaughtQueries, TextDINOHead):
    """DINO's head, by texts where it has a `classifier`, that learns soft labels."""

    def __init__(
        self, *arguments: Any, semantic: dict[str, Any], classifier: dict[str, Any] | None = None, **more: Any
    ):
        super().__init__(*arguments, classifier=classifier, **more)
        self._learn_from(semantic, self.embed_dims)


@MODELS.register_module()
class SemanticRoIHead(_Taught, RealMasksRoIHead):
    """A RoI head whose foreground proposals learn soft labels, each those of the box it was assigned to."""

    def __init__(self, *arguments: Any, semantic: dict[str, Any], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._learn_from(semantic, self.bbox_head.fc_cls.in_features)

    def loss(self, x: Any, rpn_results_list: Any, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """The head's losses and loss_sem."""
        self._soft = [sample.gt_instances.soft for sample in batch_data_samples]
        return super().loss(x, rpn_results_list, batch_data_samples)

    def bbox_loss(self, x: Any, sampling_results: Sequence[Any]) -> dict[str, Any]:
        with _inputs_of(self.bbox_head.fc_cls) as seen:
            found = super().bbox_loss(x, sampling_results)
        sizes = [len(result.priors) for result in sampling_results]
        first = [
            part[: len(result.pos_priors)] for part, result in zip(seen[0].split(sizes), sampling_results, strict=True)
        ]
        scores = found["cls_score"][:, : self.bbox_head.num_classes].split(sizes)
        logits = [part[: len(own)] for part, own in zip(scores, first, strict=True)]
        pairs = zip(self._soft, sampling_results, strict=True)
        soft = [of[result.pos_assigned_gt_inds] for of, result in pairs]
        found["loss_bbox"]["loss_sem"] = self._soft_loss(torch.cat(soft), torch.cat(first), torch.cat(logits))
        return found


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What the module is given meanwhile."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        handle.remove()


# Detectors that learn this way


def detector_of(
    model: dict[str, Any], options: SemanticOptions, names: Sequence[str], counts: Sequence[int]
) -> ConfigDict:
    """The configuration of the detector that the options make of a preset's, as it is kept; `counts` are the images of
    each class. Raises WinnowError for a detector that cannot be changed so, and for a CLIP that is missing."""
    made = ConfigDict(deepcopy(model))
    if options.text_classifier:
        clip = load(options.clip, options.pretrained)
        made = with_texts(made, texts_of(prompts_of(options, names)).shape[1], clip.scale, options.prior)
    return made if options.federated is None else with_federated_loss(made, options.federated, counts)


def lesson_of(detector: dict[str, Any], options: SemanticOptions, names: Sequence[str]) -> ConfigDict:
    """The configuration for the training of what `detector_of` made: with CLIP's texts, and with what learns soft
    labels. Raises WinnowError for a head that cannot."""
    prompts = prompts_of(options, names)
    made = with_prompts(detector, prompts) if options.text_classifier else ConfigDict(detector)
    if options.soft == "none":
        return made
    return soft_taught(made, prompts, options.weight, branch=options.soft == "semantic", view=options.view)


def prompts_of(options: SemanticOptions, names: Sequence[str]) -> dict[str, Any]:
    """What `texts_of` asks for."""
    return {
        "model": options.clip,
        "pretrained": options.pretrained,
        "names": list(names),
        "templates": list(options.templates),
    }


def soft_taught(
    model: dict[str, Any], prompts: dict[str, Any], weight: float, branch: bool, view: View = "auto"
) -> ConfigDict:
    """The configuration of a detector that learns soft labels, in a `branch` of its own or in its classifier. The
    weights of everything else have the same names and shapes. Raises WinnowError for a head that cannot."""
    taught = ConfigDict(deepcopy(model))
    semantic = {"weight": weight, **({"prompts": prompts} if branch else {})}
    kind = next((name for name in ("roi_head", "bbox_head") if taught.get(name)), "")
    known = {**dict.fromkeys(ROI_HEADS, "SemanticRoIHead"), **dict.fromkeys(QUERY_HEADS, "SemanticDINOHead")}
    if not kind or taught[kind].type not in known:
        seen = taught[kind].type if kind else taught.get("type")
        raise WinnowError(
            f"It is not known how {seen} learns soft labels. Known heads: {', '.join((*QUERY_HEADS, *ROI_HEADS))}."
        )
    taught[kind].update(type=known[taught[kind].type], semantic=semantic)
    taught.data_preprocessor = {
        "type": "SoftLabels",
        "then": taught.data_preprocessor,
        "prompts": prompts,
        "view": view,
    }
    return taught


QUERY_HEADS = ("DINOHead", "TextDINOHead")
ROI_HEADS = ("StandardRoIHead", "RealMasksRoIHead")

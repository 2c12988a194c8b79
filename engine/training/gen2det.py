"""Gen2Det's tolerant training: what is not labelled in a generated image is not taken for background.

A generated image may show objects whose labels a filter deleted, and objects nobody asked for. So a sample flagged
`synthetic` in its metainfo gives no loss for background and none for masks; its foreground teaches as usual. A loss is
averaged over what counts in it, so batches of real images have exactly mmdet's loss.

`tolerate_background` turns a plain mmdet configuration into a tolerant one; `real_masks_only` does nothing but leave the
masks of generated images out. Which images make up a batch is up to `engine.training.samplers.Gen2DetSampler`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

from mmdet.models.dense_heads import (
    ATSSHead,
    ATSSVLFusionHead,
    DeformableDETRHead,
    DETRHead,
    DINOHead,
    GroundingDINOHead,
    RetinaHead,
    RPNHead,
    RTMDetHead,
    RTMDetSepBNHead,
)
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict


def kept_only(samples: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """mmdet samples whose rejected `instances` (`"kept": False`) are deleted, and without the synthetic samples that
    have none left. The pixels stay: the tolerant training is what makes that harmless. Real samples stay as they
    are."""
    filtered = []
    for sample in samples:
        if not sample.get("synthetic", False):
            filtered.append(sample)
            continue
        instances = [instance for instance in sample["instances"] if instance.get("kept", True)]
        if instances:
            filtered.append({**sample, "instances": instances})
    return filtered


def _synthetic(arguments: tuple[Any, ...]) -> bool:
    """The metainfo is the one dict among the arguments of every `_get_*targets_single` of mmdet."""
    return any(argument.get("synthetic", False) for argument in arguments if isinstance(argument, dict))


class _PriorTargets:
    """For heads over anchors or points. `FIRST` is where the labels are in the targets; the weights follow, and the
    sampling result is the one with an `avg_factor`."""

    FIRST = 1
    num_classes: int

    def _get_targets_single(self, *arguments: Any, **options: Any) -> tuple[Any, ...]:
        targets = super()._get_targets_single(*arguments, **options)  # type: ignore[misc]
        if not _synthetic(arguments):
            return targets
        for part in targets:
            if hasattr(part, "avg_factor"):
                part.avg_factor = part.num_pos
        return _without_background(targets, self.FIRST, self.num_classes)


class _QueryTargets:
    """For DETR and its kin, where negatives are counted by their indices. Denoising queries too."""

    num_classes: int

    def _get_targets_single(self, *arguments: Any, **options: Any) -> tuple[Any, ...]:
        return self._tolerant(super()._get_targets_single(*arguments, **options), arguments)  # type: ignore[misc]

    def _get_dn_targets_single(self, *arguments: Any, **options: Any) -> tuple[Any, ...]:
        return self._tolerant(super()._get_dn_targets_single(*arguments, **options), arguments)  # type: ignore[misc]

    def _tolerant(self, targets: tuple[Any, ...], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if not _synthetic(arguments):
            return targets
        *others, negatives = _without_background(targets, 0, self.num_classes)
        return (*others, negatives[:0])


def _without_background(targets: tuple[Any, ...], first: int, classes: int) -> tuple[Any, ...]:
    """The targets with the weights of background set to 0. Labels are class numbers [n] or token targets [n,t]."""
    labels, weights = targets[first : first + 2]
    foreground = labels.any(-1) if labels.dim() == 2 else (labels >= 0) & (labels < classes)
    return (*targets[: first + 1], weights * foreground, *targets[first + 2 :])


@MODELS.register_module()
class TolerantRetinaHead(_PriorTargets, RetinaHead):
    """RetinaHead without background loss on synthetic images."""

    FIRST = 0


@MODELS.register_module()
class TolerantRPNHead(_PriorTargets, RPNHead):
    """RPNHead without background loss on synthetic images."""

    FIRST = 0


@MODELS.register_module()
class TolerantATSSHead(_PriorTargets, ATSSHead):
    """ATSSHead without background loss on synthetic images."""


@MODELS.register_module()
class TolerantATSSVLFusionHead(_PriorTargets, ATSSVLFusionHead):
    """GLIP's head without background loss on synthetic images."""


@MODELS.register_module()
class TolerantRTMDetHead(_PriorTargets, RTMDetHead):
    """RTMDetHead without background loss on synthetic images."""


@MODELS.register_module()
class TolerantRTMDetSepBNHead(_PriorTargets, RTMDetSepBNHead):
    """RTMDetSepBNHead without background loss on synthetic images."""


@MODELS.register_module()
class TolerantDETRHead(_QueryTargets, DETRHead):
    """DETRHead without loss for unmatched queries of synthetic images."""


@MODELS.register_module()
class TolerantDeformableDETRHead(_QueryTargets, DeformableDETRHead):
    """DeformableDETRHead without loss for unmatched queries of synthetic images."""


@MODELS.register_module()
class TolerantDINOHead(_QueryTargets, DINOHead):
    """DINOHead without loss for unmatched and negative denoising queries of synthetic images."""


@MODELS.register_module()
class TolerantGroundingDINOHead(_QueryTargets, GroundingDINOHead):
    """GroundingDINOHead without loss for unmatched and negative denoising queries of synthetic images."""


@MODELS.register_module()
class RealMasksRoIHead(StandardRoIHead):
    """StandardRoIHead without mask loss on synthetic images, whose repainted objects have no masks, and on images of whole
    classes."""

    def loss(self, x: Any, rpn_results_list: Any, batch_data_samples: Any) -> dict[str, Tensor]:
        self._real = [not sample.metainfo.get("synthetic", False) for sample in batch_data_samples]
        whole = [sample.metainfo.get("whole_image", False) for sample in batch_data_samples]
        self._masked = [real and not flag for real, flag in zip(self._real, whole, strict=True)]
        return super().loss(x, rpn_results_list, batch_data_samples)

    def mask_loss(self, x: Any, sampling_results: Any, bbox_feats: Tensor, batch_gt_instances: Any) -> dict[str, Any]:
        if all(self._masked):
            return super().mask_loss(x, sampling_results, bbox_feats, batch_gt_instances)
        real = [index for index, flag in enumerate(self._masked) if flag]
        if not real:
            return {"loss_mask": {"loss_mask": _nothing(self.mask_head)}}
        parts = bbox_feats.split([len(result.priors) for result in sampling_results])
        return super().mask_loss(
            tuple(level[real] for level in x),
            [sampling_results[index] for index in real],
            torch.cat([parts[index] for index in real]),
            [batch_gt_instances[index] for index in real],
        )


@MODELS.register_module()
class TolerantRoIHead(RealMasksRoIHead):
    """A RoI head where synthetic images give foreground proposals only, and no masks.

    Background proposals are left out, rather than weighted 0, because the box loss is averaged over all proposals.
    """

    def bbox_loss(self, x: Any, sampling_results: Sequence[Any]) -> dict[str, Any]:
        for real, result in zip(self._real, sampling_results, strict=True):
            if not real:
                result.neg_inds, result.neg_priors = result.neg_inds[:0], result.neg_priors[:0]
        found = super().bbox_loss(x, sampling_results)
        # mmdet leaves this loss out when there are no proposals at all; other processes would wait for its gradient.
        found["loss_bbox"].setdefault("loss_cls", found["cls_score"].sum())
        return found


def _nothing(module: torch.nn.Module) -> Tensor:
    """A loss of 0 that gives every parameter a gradient of 0, which distributed training waits for."""
    return torch.stack([parameter.sum() * 0 for parameter in module.parameters()]).sum()


TOLERANT = {
    "RetinaHead": "TolerantRetinaHead",
    "RPNHead": "TolerantRPNHead",
    "ATSSHead": "TolerantATSSHead",
    "ATSSVLFusionHead": "TolerantATSSVLFusionHead",
    "RTMDetHead": "TolerantRTMDetHead",
    "RTMDetSepBNHead": "TolerantRTMDetSepBNHead",
    "DETRHead": "TolerantDETRHead",
    "DeformableDETRHead": "TolerantDeformableDETRHead",
    "DINOHead": "TolerantDINOHead",
    "GroundingDINOHead": "TolerantGroundingDINOHead",
    "StandardRoIHead": "TolerantRoIHead",
}


def tolerate_background(config: dict[str, Any]) -> ConfigDict:
    """The configuration of a detector, its heads replaced by tolerant ones. The weights have the same names and
    shapes. Raises WinnowError for a head that has no tolerant kind."""
    tolerant = ConfigDict(deepcopy(config))
    heads = [name for name in ("rpn_head", "bbox_head", "roi_head") if tolerant.get(name)]
    if not heads:
        raise WinnowError(f"The configuration of {tolerant.get('type')} has no rpn_head, roi_head or bbox_head.")
    for name in heads:
        kind = tolerant[name]["type"]
        if kind in TOLERANT.values():
            continue
        if kind not in TOLERANT:
            raise WinnowError(
                f"Gen2Det cannot train {name} {kind!r}: it is not known how to leave background out of its loss. "
                f"Known heads: {', '.join(TOLERANT)}."
            )
        tolerant[name]["type"] = TOLERANT[kind]
    return tolerant


def real_masks_only(config: dict[str, Any]) -> ConfigDict:
    """The configuration of a detector that learns no masks from synthetic images. Raises WinnowError for a mask head
    whose kind is not known."""
    chosen = ConfigDict(deepcopy(config))
    head = chosen.get("roi_head") or {}
    if not learns_masks(chosen) or head.get("type") in ("RealMasksRoIHead", "TolerantRoIHead"):
        return chosen
    if head.get("type") != "StandardRoIHead":
        raise WinnowError(
            f"It is not known how to leave the masks of generated images out of {head.get('type')!r}, only out of "
            "'StandardRoIHead'."
        )
    chosen.roi_head.type = "RealMasksRoIHead"
    return chosen


def learns_masks(config: dict[str, Any]) -> bool:
    """Whether the detector of this configuration learns masks too."""
    return bool(config.get("mask_head") or (config.get("roi_head") or {}).get("mask_head"))

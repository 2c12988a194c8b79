"""Gen2Det's training: no gradient from the background of synthetic images in any family of heads, mmdet's own loss for
real images, and batches of one source in every process."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.registry import DATA_SAMPLERS
from mmengine.structures import InstanceData

from engine.training import samplers
from engine.training.gen2det import TOLERANT, kept_only, tolerate_background
from engine.training.samplers import Gen2DetSampler, SourceSampler

SIZE, CLASSES, TOKENS = 64, 3, 256
BOXES = [[[8.0, 8.0, 40.0, 48.0], [30.0, 4.0, 60.0, 30.0]], [[20.0, 16.0, 52.0, 40.0]]]
LABELS = [[1, 0], [2]]

ASSIGNER = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.4, "neg_iou_thr": 0.3, "min_pos_iou": 0.1}
ONE_STAGE = {"allowed_border": -1, "pos_weight": -1, "debug": False}
CODER = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4}
FOCAL = {"type": "FocalLoss", "use_sigmoid": True}
ANCHORS = {"type": "AnchorGenerator", "ratios": [1.0], "scales": [4], "strides": [8, 16]}
SAMPLER = {"type": "RandomSampler", "num": 1000, "pos_fraction": 0.5, "add_gt_as_proposals": False}
DENSE: dict[str, dict[str, Any]] = {
    "ATSSHead": {
        "num_classes": CLASSES,
        "anchor_generator": ANCHORS,
        "bbox_coder": CODER,
        "loss_cls": FOCAL,
        "loss_bbox": {"type": "GIoULoss"},
        "train_cfg": {"assigner": {"type": "ATSSAssigner", "topk": 9}, **ONE_STAGE},
    },
    "RetinaHead": {
        "num_classes": CLASSES,
        "anchor_generator": ANCHORS,
        "bbox_coder": CODER,
        "loss_cls": FOCAL,
        "loss_bbox": {"type": "L1Loss"},
        "train_cfg": {"assigner": ASSIGNER, **ONE_STAGE},
    },
    "RTMDetHead": {
        "num_classes": CLASSES,
        "anchor_generator": {"type": "MlvlPointGenerator", "offset": 0, "strides": [8, 16]},
        "bbox_coder": {"type": "DistancePointBBoxCoder"},
        "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0},
        "loss_bbox": {"type": "GIoULoss"},
        "with_objectness": False,
        "train_cfg": {"assigner": {"type": "DynamicSoftLabelAssigner", "topk": 5}, **ONE_STAGE},
    },
    "RPNHead": {
        "anchor_generator": ANCHORS,
        "bbox_coder": CODER,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        "loss_bbox": {"type": "L1Loss"},
        "train_cfg": {"assigner": ASSIGNER, "sampler": SAMPLER, **ONE_STAGE},
    },
}
DENSE["RTMDetSepBNHead"] = {**DENSE["RTMDetHead"], "share_conv": False, "use_depthwise": False}
QUERIES = ["DETRHead", "DeformableDETRHead", "DINOHead", "GroundingDINOHead"]
FAMILIES = [*DENSE, "ATSSVLFusionHead", *QUERIES]


def truth(token_targets: bool = False) -> list[InstanceData]:
    instances = [
        InstanceData(bboxes=torch.tensor(boxes), labels=torch.tensor(labels))
        for boxes, labels in zip(BOXES, LABELS, strict=True)
    ]
    for found in instances if token_targets else []:
        found.positive_maps = torch.nn.functional.one_hot(found.labels + 1, TOKENS).float()
        found.text_token_mask = (torch.arange(TOKENS) < 6).expand(len(found), -1)
    return instances


def metas(flags: tuple[bool, bool]) -> list[dict[str, Any]]:
    shape = {"img_shape": (SIZE, SIZE), "batch_input_shape": (SIZE, SIZE), "pad_shape": (SIZE, SIZE)}
    return [{**shape, "synthetic": flag} for flag in flags]


Outcome = tuple[dict[str, Any], Tensor, Tensor]
"""Losses; gradients of the class logits [images,rows,channels] and of the boxes [images,rows,4]."""


def rows(levels: list[Tensor], channels: int) -> Tensor:
    """The gradients of maps as rows, one for each prior of each level."""
    return torch.cat([level.grad.permute(0, 2, 3, 1).reshape(len(level), -1, channels) for level in levels], 1)


def total(losses: dict[str, Any]) -> Tensor:
    return sum(
        torch.stack(list(value)).sum() if isinstance(value, (list, tuple)) else value for value in losses.values()
    )


def dense_outcome(kind: str, flags: tuple[bool, bool], tolerant: bool = True) -> Outcome:
    name = TOLERANT[kind] if tolerant else kind
    torch.manual_seed(1)
    head = MODELS.build({"type": name, "in_channels": 16, "feat_channels": 32, **deepcopy(DENSE[kind])})
    features = [torch.randn(2, 16, SIZE // stride, SIZE // stride) for stride in (8, 16)]
    outputs = [[level.detach().requires_grad_() for level in part] for part in head(features)]
    found = truth()
    for instances in found if kind == "RPNHead" else []:
        instances.labels.zero_()  # as two-stage detectors hand them to it
    losses = head.loss_by_feat(*outputs, found, metas(flags))
    total(losses).backward()
    return losses, rows(outputs[0], head.cls_out_channels), rows(outputs[1], 4)


def query_outcome(kind: str, flags: tuple[bool, bool], tolerant: bool = True) -> Outcome:
    tokens = kind == "GroundingDINOHead"
    channels = TOKENS if tokens else CLASSES
    torch.manual_seed(1)
    cost = {"type": "BinaryFocalLossCost" if tokens else "FocalLossCost"}
    assigner = {"type": "HungarianAssigner", "match_costs": [cost, {"type": "BBoxL1Cost", "weight": 5.0}]}
    config = {
        "type": TOLERANT[kind] if tolerant else kind,
        "num_classes": CLASSES,
        "embed_dims": 16,
        "loss_cls": FOCAL,
        "loss_bbox": {"type": "L1Loss"},
        "loss_iou": {"type": "GIoULoss"},
        "train_cfg": {"assigner": assigner},
    }
    head = MODELS.build(config)
    logits = torch.randn(2, 2, 20, channels).requires_grad_()
    boxes = (torch.rand(2, 2, 20, 4) * 0.5 + 0.2).requires_grad_()
    extra: tuple[Any, ...] = {"DETRHead": (), "DeformableDETRHead": (None, None)}.get(kind, (None, None))
    arguments = (truth(tokens), metas(flags))
    if tokens:
        head.text_masks = torch.arange(6).expand(2, -1) < 6
    if kind in ("DINOHead", "GroundingDINOHead"):
        arguments = (*arguments, {"num_denoising_queries": 8, "num_denoising_groups": 2})
    losses = head.loss_by_feat(logits, boxes, *extra, *arguments)
    total(losses).backward()
    gradients = (tensor.grad.transpose(0, 1).flatten(1, 2) for tensor in (logits, boxes))
    return (losses, *gradients)


def glip_outcome(kind: str, flags: tuple[bool, bool], tolerant: bool = True) -> Outcome:
    """On the logits that the head would have made of image and text."""
    torch.manual_seed(1)
    config = {**deepcopy(DENSE["ATSSHead"]), "type": TOLERANT[kind] if tolerant else kind, "num_dyhead_blocks": 0}
    head = MODELS.build({**config, "in_channels": 16, "feat_channels": TOKENS, "lang_model_name": str(bert_folder())})
    sides = [SIZE // stride for stride in (8, 16)]
    logits = [torch.randn(2, side * side, TOKENS).requires_grad_() for side in sides]
    boxes = [torch.randn(2, 4, side, side).requires_grad_() for side in sides]
    centres = [torch.randn(2, 1, side, side) for side in sides]
    head.text_masks = (torch.arange(TOKENS) < 6).long().expand(2, -1)
    losses = head.loss_by_feat(logits, boxes, centres, truth(token_targets=True), metas(flags))
    total(losses).backward()
    return losses, torch.cat([level.grad for level in logits], 1), rows(boxes, 4)


FOLDERS: list[Path] = []


def bert_folder() -> Path:
    return FOLDERS[0]


@pytest.fixture(scope="module", autouse=True)
def bert(tmp_path_factory: pytest.TempPathFactory) -> None:
    from transformers import BertConfig

    FOLDERS[:] = [tmp_path_factory.mktemp("bert")]
    BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=16).save_pretrained(FOLDERS[0])


def outcome(kind: str, flags: tuple[bool, bool], tolerant: bool = True) -> Outcome:
    run: Callable[..., Outcome] = dense_outcome
    if kind in QUERIES:
        run = query_outcome
    elif kind == "ATSSVLFusionHead":
        run = glip_outcome
    return run(kind, flags, tolerant)


@pytest.mark.parametrize("kind", FAMILIES)
def test_background_of_synthetic_images_gives_no_gradient(kind: str) -> None:
    """Boxes are learnt on foreground only, so their gradients tell where it is."""
    _, logits, boxes = outcome(kind, (False, True))
    taught, foreground = logits.abs().sum(-1) > 0, boxes.abs().sum(-1) > 0
    assert foreground[1].any()
    assert torch.equal(taught[1], foreground[1]), "on the synthetic image just the foreground teaches"
    assert (taught[0] & ~foreground[0]).any(), "on the real image background teaches too"
    assert not (logits[1][~foreground[1]] != 0).any()


@pytest.mark.parametrize("kind", FAMILIES)
def test_without_synthetic_images_the_loss_is_that_of_mmdet(kind: str) -> None:
    ours, plain = outcome(kind, (False, False)), outcome(kind, (True, True), tolerant=False)
    torch.testing.assert_close(total(ours[0]), total(plain[0]), rtol=0, atol=1e-6)
    for mine, theirs in zip(ours[1:], plain[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_the_objectness_loss_is_averaged_over_what_counts() -> None:
    """On synthetic images over foreground anchors alone, where mmdet counts background too."""
    _, plain, boxes = dense_outcome("RPNHead", (False, False))
    _, tolerant, _ = dense_outcome("RPNHead", (True, True))
    foreground = boxes.abs().sum(-1) > 0
    counted = int((plain.abs().sum(-1) > 0).sum())
    ratio = tolerant[foreground] / plain[foreground]
    assert counted > foreground.sum() > 0
    torch.testing.assert_close(ratio, torch.full_like(ratio, counted / int(foreground.sum())))


# Two stages


def mask_rcnn() -> ConfigDict:
    extractor = {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": 4, "sampling_ratio": 0},
        "out_channels": 16,
        "featmap_strides": [8, 16],
    }
    return ConfigDict(
        {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": extractor,
            "bbox_head": {
                "type": "Shared2FCBBoxHead",
                "in_channels": 16,
                "fc_out_channels": 16,
                "roi_feat_size": 4,
                "num_classes": CLASSES,
                "bbox_coder": CODER,
                "loss_cls": {"type": "CrossEntropyLoss"},
                "loss_bbox": {"type": "L1Loss"},
            },
            "mask_roi_extractor": extractor,
            "mask_head": {
                "type": "FCNMaskHead",
                "num_convs": 1,
                "roi_feat_size": 4,
                "in_channels": 16,
                "conv_out_channels": 8,
                "num_classes": CLASSES,
                "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
            },
            "train_cfg": {
                "assigner": {**ASSIGNER, "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "match_low_quality": False},
                "sampler": {**SAMPLER, "add_gt_as_proposals": True},
                "mask_size": 8,
                "pos_weight": -1,
                "debug": False,
            },
        }
    )


BACKGROUND = torch.tensor([[0.0, 40.0, 16.0, 60.0], [40.0, 44.0, 62.0, 62.0]])


def roi_losses(
    flags: tuple[bool, bool], *, tolerant: bool = True, background: tuple[bool, bool] = (True, True), images: int = 2
) -> tuple[dict[str, Tensor], Any]:
    """The losses of the RoI head, on proposals at the boxes and, where wanted, in the background."""
    torch.manual_seed(2)
    head = MODELS.build(ConfigDict(mask_rcnn(), type="TolerantRoIHead" if tolerant else "StandardRoIHead"))
    features = tuple(torch.randn(2, 16, SIZE // stride, SIZE // stride)[:images] for stride in (8, 16))
    samples, proposals = [], []
    for found, meta, wanted in zip(truth(), metas(flags), background, strict=True):
        if not meta["synthetic"]:
            found.masks = BitmapMasks(np.ones((len(found), SIZE, SIZE), np.uint8), SIZE, SIZE)
        boxes = torch.cat([found.bboxes + 1, BACKGROUND]) if wanted else found.bboxes + 1
        proposals.append(InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long)))
        samples.append(DetDataSample(gt_instances=found, metainfo=meta))
    losses = head.loss(features, proposals[:images], samples[:images])
    total({name: value for name, value in losses.items() if "loss" in name}).backward()
    return losses, head


def test_background_proposals_of_synthetic_images_count_nowhere() -> None:
    with_background, _ = roi_losses((False, True))
    without, _ = roi_losses((False, True), background=(True, False))
    for name in ("loss_cls", "loss_bbox", "loss_mask"):
        torch.testing.assert_close(with_background[name], without[name], rtol=0, atol=0)
    real, _ = roi_losses((False, True), background=(False, True))
    assert not torch.allclose(with_background["loss_cls"], real["loss_cls"]), "background of the real image counts"


def test_masks_are_learnt_on_real_images_only() -> None:
    mixed, _ = roi_losses((False, True))
    real_alone, _ = roi_losses((False, True), images=1)
    torch.testing.assert_close(mixed["loss_mask"], real_alone["loss_mask"], rtol=0, atol=1e-6)
    losses, head = roi_losses((True, True))
    assert losses["loss_mask"] == 0 and losses["loss_cls"] > 0
    assert all((parameter.grad == 0).all() for parameter in head.mask_head.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.bbox_head.fc_cls.parameters())


def test_a_roi_head_on_real_images_is_that_of_mmdet() -> None:
    for mine, theirs in zip(
        roi_losses((False, False))[0].items(), roi_losses((False, False), tolerant=False)[0].items(), strict=True
    ):
        assert mine[0] == theirs[0]
        torch.testing.assert_close(mine[1], theirs[1], rtol=0, atol=1e-6)


def test_a_synthetic_batch_without_foreground_has_a_loss_of_zero_for_every_parameter() -> None:
    torch.manual_seed(0)
    head = MODELS.build(ConfigDict(mask_rcnn(), type="TolerantRoIHead"))
    empty = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    proposals = InstanceData(bboxes=BACKGROUND.clone(), labels=torch.zeros(2, dtype=torch.long))
    samples = [DetDataSample(gt_instances=empty, metainfo=metas((True, True))[0])]
    features = tuple(torch.randn(1, 16, SIZE // stride, SIZE // stride) for stride in (8, 16))
    losses = head.loss(features, [proposals], samples)
    total({name: value for name, value in losses.items() if "loss" in name}).backward()
    assert losses["loss_cls"] == losses["loss_bbox"] == losses["loss_mask"] == 0
    assert all(parameter.grad is not None and (parameter.grad == 0).all() for parameter in head.parameters())


# The configuration


def test_a_configuration_becomes_tolerant_and_keeps_its_weights() -> None:
    from engine.training.presets import tiny_atss

    plain = tiny_atss(CLASSES)
    tolerant = tolerate_background(plain)
    assert plain["bbox_head"]["type"] == "ATSSHead"
    assert tolerant["bbox_head"]["type"] == "TolerantATSSHead"
    assert tolerate_background(tolerant) == tolerant
    weights = MODELS.build(plain).state_dict()
    MODELS.build(tolerant).load_state_dict(weights, strict=True)


def test_heads_of_two_stages_become_tolerant_together() -> None:
    tolerant = tolerate_background({"type": "MaskRCNN", "rpn_head": {"type": "RPNHead"}, "roi_head": mask_rcnn()})
    assert (tolerant["rpn_head"]["type"], tolerant["roi_head"]["type"]) == ("TolerantRPNHead", "TolerantRoIHead")


def test_a_head_without_a_tolerant_kind_is_refused() -> None:
    with pytest.raises(WinnowError, match="bbox_head 'FCOSHead'.*ATSSHead"):
        tolerate_background({"type": "FCOS", "bbox_head": {"type": "FCOSHead"}})
    with pytest.raises(WinnowError, match="SOLO"):
        tolerate_background({"type": "SOLO", "mask_head": {}})


def test_rejected_annotations_of_synthetic_images_are_deleted() -> None:
    box = {"bbox": [0, 0, 9, 9], "bbox_label": 0}
    samples = [
        {"img_id": 0, "instances": []},
        {"img_id": 1, "synthetic": True, "instances": [{**box, "kept": False}, {**box, "kept": True}, box]},
        {"img_id": 2, "synthetic": True, "instances": [{**box, "kept": False}]},
        {"img_id": 3, "instances": [{**box, "kept": False}]},
    ]
    kept = kept_only(samples)
    assert [(sample["img_id"], len(sample["instances"])) for sample in kept] == [(0, 0), (1, 2), (3, 1)]
    assert len(samples[1]["instances"]) == 3


# Batches


FLAGS = [False] * 30 + [True] * 7


def sampler(**changes: Any) -> Gen2DetSampler:
    options = {"batch_size": 4, "synthetic": FLAGS, "probability": 0.2, "seed": 5} | changes
    return DATA_SAMPLERS.build({"type": "Gen2DetSampler", "dataset": range(len(FLAGS)), **options})


def batches(source: SourceSampler, count: int, size: int = 4) -> list[list[int]]:
    drawn = list(islice(source, count * size))
    return [drawn[start : start + size] for start in range(0, len(drawn), size)]


def test_a_batch_has_one_source_and_the_wanted_share_is_synthetic() -> None:
    seen = [{FLAGS[position] for position in batch} for batch in batches(sampler(), 5000)]
    assert all(len(sources) == 1 for sources in seen)
    share = sum(True in sources for sources in seen) / len(seen)
    assert share == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 5000) ** 0.5)


def test_every_sample_of_a_source_comes_before_any_comes_again() -> None:
    drawn = [position for batch in batches(sampler(), 400) for position in batch]
    for members in (range(30), range(30, 37)):
        own = [position for position in drawn if position in members]
        laps = [own[start : start + len(members)] for start in range(0, len(own) - len(members), len(members))]
        assert len(laps) > 2 and all(sorted(lap) == list(members) for lap in laps)
        assert laps[0] != laps[1]


@settings(max_examples=20, deadline=None)
@given(world=st.integers(1, 4), seed=st.integers(0, 99), probability=st.floats(0.05, 0.95))
def test_all_processes_choose_the_same_source_and_share_its_samples(world: int, seed: int, probability: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        ranks = []
        for rank in range(world):
            patch.setattr(samplers, "get_dist_info", lambda rank=rank: (rank, world))
            ranks.append(batches(sampler(batch_size=2, seed=seed, probability=probability), 30, 2))
        patch.setattr(samplers, "get_dist_info", lambda: (0, 1))
        whole = batches(sampler(batch_size=2 * world, seed=seed, probability=probability), 30, 2 * world)
    together = [[position for batch in parts for position in batch] for parts in zip(*ranks, strict=True)]
    assert together == whole, "the batches of all processes are those that one process would have made"
    assert all(len({FLAGS[position] for position in batch}) == 1 for batch in together)


def test_processes_together_draw_what_one_would_have_drawn() -> None:
    """The draw seeds the augmentation, so that two processes should not see the same."""
    with pytest.MonkeyPatch.context() as patch:
        ranks = []
        for rank in range(2):
            patch.setattr(samplers, "get_dist_info", lambda rank=rank: (rank, 2))
            ranks.append(batches(sampler(batch_size=2, numbered=True), 30, 2))
        patch.setattr(samplers, "get_dist_info", lambda: (0, 1))
        whole = batches(sampler(batch_size=4, numbered=True), 30, 4)
    assert [one + other for one, other in zip(*ranks, strict=True)] == whole


@pytest.mark.parametrize("count", [0, 3, 16, 4 * samplers.BLOCK + 6])
def test_the_sampler_resumes_at_any_draw(count: int) -> None:
    whole = list(islice(sampler(numbered=True), count + 20))
    resumed = sampler(numbered=True)
    resumed.skip(count)
    assert list(islice(resumed, 20)) == whole[count:]
    assert [draw for draw, _ in whole[:20]] == list(range(20))


def test_epochs_end_and_go_on_where_the_last_one_ended() -> None:
    finite, endless = sampler(by_epoch=True), batches(sampler(), 30)
    first, again = list(finite), list(finite)
    finite.set_epoch(2)
    assert len(first) == len(finite) == 40 and first == again
    flat = [position for batch in endless for position in batch]
    assert first == flat[:40] and list(finite) == flat[80:120]


def test_without_a_flag_for_each_sample_there_are_no_batches() -> None:
    class Flagged(list):
        synthetic = (False, True)

    drawn = islice(Gen2DetSampler(Flagged(["real", "fake"]), 1, probability=1.0), 3)
    assert list(drawn) == [1, 1, 1]
    with pytest.raises(WinnowError, match="range does not say"):
        Gen2DetSampler(range(2), 1)
    with pytest.raises(WinnowError, match="3 samples.*for 2"):
        Gen2DetSampler(range(3), 1, synthetic=[False, True])
    with pytest.raises(WinnowError, match="Source 1 should give 20% .* no sample"):
        Gen2DetSampler(range(2), 1, synthetic=[False, False])
    with pytest.raises(WinnowError, match="add up to 1"):
        SourceSampler(range(2), 1, [0, 1], [0.5, 0.6])
    with pytest.raises(WinnowError, match="numbered 0 to 1.*2"):
        SourceSampler(range(2), 1, [0, 2], [0.5, 0.5])

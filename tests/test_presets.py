"""Every preset: small ones train on painted scenes, with and without generated images; public ones are what mmdet
ships; weights, own configurations and options are taken or refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from db.errors import WinnowError
from engine.backends.mmdet_detector import MMDetDetector
from engine.presets import OWN, PRESETS, TrainOptions
from engine.training import checkpoint
from engine.training.checkpoint import DetectorCard, build, load_model, plain, shapes, start_from, write_whole
from engine.training.closed import task
from engine.training.data import SceneDataset, read_split
from engine.training.launch import TrainJob, train
from engine.training.presets import TINY, blueprint, for_classes, read_config, shipped_folder, without_sync
from tests.test_training import OPTIONS, Recorder, change, weights_of, write_folder

SHORT = {**OPTIONS, "iterations": 2, "eval_interval": 2}
GEN2DET = {"generated_probability": 0.5, "ignore_background": True}
PUBLIC = [name for name, preset in PRESETS.items() if preset.config and preset.kind == "closed"]


def with_masks(folder: Path) -> Path:
    """The boxes of the real images, cut at one corner, as polygons."""
    for name in ("train", "val"):
        change(folder / f"{name}.json", _outline)
    return folder


def _outline(document: dict[str, Any]) -> None:
    synthetic = {image["id"] for image in document["images"] if image["synthetic"]}
    for note in document["annotations"]:
        x, y, w, h = note["bbox"]
        if note["image_id"] not in synthetic:
            note["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h / 2]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_masks(write_folder(tmp_path_factory.mktemp("rectangles")))


# Training


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.slow), GEN2DET], ids=["mixed", "gen2det"])
@pytest.mark.parametrize("preset", TINY)
def test_a_small_preset_trains_and_its_detector_is_loaded_again(
    folder: Path, tmp_path: Path, preset: str, options: dict[str, Any]
) -> None:
    recorder = Recorder()
    result = train(TrainJob(folder, tmp_path, preset, {**SHORT, **options}), recorder)
    losses = recorder.points[0][1]
    assert losses["loss"] > 0 and ("loss_mask" in losses) == (preset == "tiny_mask_rcnn")
    assert 1e6 < result["parameters"] < 5e6
    found = MMDetDetector(Path(result["model"])).detect([np.zeros((48, 64, 3), np.uint8)])[0]
    assert found.names == ("red", "blue")


@pytest.mark.slow
def test_gen2det_resumes_to_the_same_losses(folder: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "iterations": 12, "eval_interval": 12, **GEN2DET}
    whole, second = Recorder(), Recorder()
    reference = train(TrainJob(folder, tmp_path / "whole", "tiny_atss", options, seed=4), whole)
    job = TrainJob(folder, tmp_path / "parts", "tiny_atss", options, seed=4)
    assert train(job, Recorder(stop_after=10))["stopped"]
    resumed = train(job, second)
    last, again = (r.points[-2][1] for r in (whole, second))
    assert {n: v for n, v in last.items() if "loss" in n} == pytest.approx(
        {n: v for n, v in again.items() if "loss" in n}, rel=1e-3
    )
    for name, tensor in weights_of(reference).items():
        torch.testing.assert_close(weights_of(resumed)[name], tensor, rtol=1e-4, atol=1e-5)


def test_generated_images_without_a_chance_are_never_seen(folder: Path, tmp_path: Path) -> None:
    def drawn(probability: float) -> set[bool]:
        options = TrainOptions(**{**OPTIONS, "generated_probability": probability})
        loading = task(TrainJob(folder, tmp_path, "tiny_atss"), options).train_loader
        sampler = loading["sampler"].copy()
        positions = sampler.pop("type")(loading["dataset"], **sampler)
        return {loading["dataset"].synthetic[position] for (_, position), _ in zip(positions, range(24), strict=False)}

    assert (drawn(0.0), drawn(1.0)) == ({False}, {True})


def test_gen2det_without_generated_images_is_refused(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    change(data / "train.json", lambda d: [image.update(synthetic=False) for image in d["images"]])
    with pytest.raises(WinnowError, match="Add samples .generated images"):
        train(TrainJob(data, tmp_path / "work", "tiny_atss", {**SHORT, "generated_probability": 0.2}), Recorder())


def test_generated_images_never_teach_masks(folder: Path, tmp_path: Path) -> None:
    """Also when they are mixed plainly: a batch of them has a mask loss of 0."""
    recorder = Recorder()
    options = {**SHORT, "generated_probability": 1.0}
    train(TrainJob(folder, tmp_path, "tiny_mask_rcnn", options), recorder)
    assert recorder.points[0][1]["loss_mask"] == 0 and recorder.points[0][1]["loss_rpn_cls"] > 0


def test_masks_that_are_missing_are_refused(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    with pytest.raises(WinnowError, match="boxes on 3 real images .* have none, the first on 0.png"):
        train(TrainJob(data, tmp_path / "work", "tiny_mask_rcnn", SHORT), Recorder())


def test_masks_move_with_their_boxes(folder: Path) -> None:
    split = read_split(folder, "train")
    for draw in range(12):
        sample = SceneDataset(split, (128, 96), augment=True, masks=True)[(draw, 0)]["data_samples"]
        for mask, box in zip(sample.gt_instances.masks.masks, sample.gt_instances.bboxes.tolist(), strict=True):
            x, y, w, h = cv2.boundingRect(mask)
            assert np.abs(np.array([x, y, x + w, y + h]) - box).max() <= 3


def test_run_lengths_are_the_mask_of_their_polygon(folder: Path, tmp_path: Path) -> None:
    from pycocotools import mask as coco_mask

    shutil.copytree(folder, tmp_path / "runs")
    for name in ("compressed", "plain"):
        shutil.copytree(folder, tmp_path / name)

    def runs(note: dict[str, Any], compressed: bool) -> None:
        merged = coco_mask.merge(coco_mask.frPyObjects(note["segmentation"], 48, 64))
        if compressed:
            note["segmentation"] = {"size": [48, 64], "counts": merged["counts"].decode()}
        else:
            flat = coco_mask.decode(merged).flatten(order="F")
            edges = np.flatnonzero(np.diff(np.r_[0, flat])).tolist()
            note["segmentation"] = {"size": [48, 64], "counts": np.diff([0, *edges, flat.size]).tolist()}

    for name in ("compressed", "plain"):
        change(
            tmp_path / name / "train.json",
            lambda d, name=name: [runs(n, name == "compressed") for n in d["annotations"] if "segmentation" in n],
        )
    drawn = [
        SceneDataset(read_split(place, "train"), (64, 48), masks=True)[0]["data_samples"].gt_instances.masks.masks
        for place in (folder, tmp_path / "compressed", tmp_path / "plain")
    ]
    assert drawn[0].any()
    assert (drawn[0] == drawn[1]).all() and (drawn[0] == drawn[2]).all()


# Public configurations


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_preset_is_the_shipped_model_for_these_classes(name: str) -> None:
    assert len(PUBLIC) == 5
    options = PRESETS[name].defaults
    plan = blueprint(name, 3, options)
    shipped = read_config(shipped_folder() / (PRESETS[name].config or "")).model
    for size, model in ((3, plan.model), (80, blueprint(name, 80, options).model)):
        found = shapes(without_sync(model))
        assert (found == shapes(without_sync(_bare(shipped)))) == (size == 80)
    assert plan.optimizer["optimizer"]["lr"] == options.lr
    assert "Pretrained" not in str(plan.model) and "checkpoint" not in str(plan.model.backbone)


def _bare(model: Any) -> Any:
    model = model.copy()
    model.backbone.pop("init_cfg", None)
    return model


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_model_sees_the_colours_it_was_trained_on(name: str) -> None:
    """Its own preprocessing of a BGR image, and ours of the same image in RGB."""
    from mmdet.registry import MODELS

    shipped = read_config(shipped_folder() / (PRESETS[name].config or "")).model.data_preprocessor
    ours = blueprint(name, 3, PRESETS[name].defaults).model.data_preprocessor
    image = torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8)
    seen = [
        MODELS.build({**config, "pad_mask": False})({"inputs": [picture]})["inputs"]
        for config, picture in ((shipped, image.flip(0)), (ours, image))
    ]
    assert torch.equal(*seen)


# Weights


def test_weights_of_other_classes_start_all_but_the_heads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, ours = build(TINY["tiny_faster_rcnn"](7)), build(TINY["tiny_faster_rcnn"](2))
    torch.save({"state_dict": theirs.state_dict(), "meta": {"epoch": 12}}, tmp_path / "their.pth")
    by_class = frozenset(n for n, s in shapes(TINY["tiny_faster_rcnn"](3)).items() if ours.state_dict()[n].shape != s)
    assert all("roi_head.bbox_head.fc_" in name for name in by_class) and len(by_class) == 4
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    assert "new for these classes: roi_head.bbox_head.fc_cls" in start_from(ours, tmp_path / "their.pth", by_class)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, before[name] if name in by_class else theirs.state_dict()[name]), name


def test_a_training_starts_from_weights(folder: Path, tmp_path: Path) -> None:
    first = train(TrainJob(folder, tmp_path / "a", "tiny_atss", SHORT), Recorder())
    start = Path(first["model"]) / "model.safetensors"
    recorder = Recorder()
    still = {**SHORT, "iterations": 1, "lr": 1e-12, "weights": str(start), "ema": False}
    second = train(TrainJob(folder, tmp_path / "b", "tiny_atss", still, seed=9), recorder)
    assert any("started from model.safetensors" in line for line in recorder.lines)
    for name, tensor in weights_of(second).items():
        if name.endswith(("weight", "bias")):
            torch.testing.assert_close(tensor, load_file(start)[name], rtol=0, atol=1e-6)


def test_a_backbone_alone_is_enough(tmp_path: Path) -> None:
    model, other = build(TINY["tiny_atss"](2)), build(TINY["tiny_atss"](2))
    weights = {name: tensor + 1 for name, tensor in other.backbone.state_dict().items()}
    save_file({**weights, "fc.weight": torch.zeros(9, 9), "fc.bias": torch.zeros(9)}, tmp_path / "resnet.safetensors")
    assert "backbone" in start_from(model, tmp_path / "resnet.safetensors")
    assert torch.equal(model.backbone.conv1.weight, weights["conv1.weight"])


def test_the_checkpoint_of_another_model_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    torch.save(build(TINY["tiny_rtmdet"](2)).state_dict(), tmp_path / "x.pth")
    options = {**SHORT, "weights": str(tmp_path / "x.pth")}
    with pytest.raises(
        WinnowError, match=r"x.pth holds the weights of another model: \d+ names do not fit.*is missing"
    ):
        train(TrainJob(folder, tmp_path / "work", "tiny_atss", options), Recorder())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "are missing"),
        (lambda path: path.write_bytes(b"no weights"), "was refused"),
        (lambda path: torch.save({"epoch": 3}, path), "no state dict"),
        (lambda path: torch.save({"state_dict": {"a": os.system}}, path), "was refused"),
    ],
    ids=["missing", "damaged", "no weights", "with code"],
)
def test_unusable_weights_are_refused(tmp_path: Path, write: Any, message: str) -> None:
    write(tmp_path / "x.pth")
    with pytest.raises(WinnowError, match=message):
        start_from(build(TINY["tiny_atss"](2)), tmp_path / "x.pth")


# Configurations of one's own

CONFIG = """
_base_ = "{base}"
width = 32
model = dict(
    backbone=dict(_delete_=True, type="ResNet", depth=18, base_channels=width, stem_channels=16, out_indices=(1, 2, 3)),
    neck=dict(_delete_=True, type="FPN", in_channels=[width * 2, width * 4, width * 8], out_channels=64, num_outs=3),
    bbox_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(strides=[8, 16, 32])),
)
"""


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    base = shipped_folder() / "atss" / "atss_r50_fpn_1x_coco.py"
    (folder / "small.py").write_text(CONFIG.format(base=base.as_posix()))
    (tmp_path / "outside.py").write_text("raise SystemExit('executed')")
    return folder


def test_a_configuration_of_ones_own_trains_and_its_model_stands_alone(
    folder: Path, configs: Path, tmp_path: Path
) -> None:
    options = {**SHORT, "config": "small.py"}
    result = train(TrainJob(folder, tmp_path / "work", OWN, options, configs=configs), Recorder())
    (configs / "small.py").unlink()
    model, card = load_model(Path(result["model"]))
    assert model.bbox_head.num_classes == 2 and card.config is not None


@pytest.mark.parametrize("name", ["../outside.py", "missing.py", "/etc/passwd", ""])
def test_a_configuration_elsewhere_is_not_executed(folder: Path, configs: Path, tmp_path: Path, name: str) -> None:
    job = TrainJob(folder, tmp_path / "work", OWN, {**SHORT, "config": name}, configs=configs)
    with pytest.raises(WinnowError, match="the only folder .* There: small.py"):
        train(job, Recorder())


@pytest.mark.parametrize(
    ("text", "message"),
    [("model = ", "cannot be read"), ("model = dict(type='ATSS')", "has no optim_wrapper"), ("1 / 0", "ZeroDivision")],
)
def test_a_bad_configuration_is_refused(folder: Path, configs: Path, tmp_path: Path, text: str, message: str) -> None:
    (configs / "bad.py").write_text(text)
    job = TrainJob(folder, tmp_path / "work", OWN, {**SHORT, "config": "bad.py"}, configs=configs)
    with pytest.raises(WinnowError, match=message):
        train(job, Recorder())


def test_a_configuration_belongs_to_its_preset(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WinnowError, match="own_config"):
        train(TrainJob(folder, tmp_path, "tiny_atss", {**SHORT, "config": "small.py"}), Recorder())
    with pytest.raises(WinnowError, match="cannot do without"):
        train(TrainJob(folder, tmp_path, OWN, SHORT), Recorder())


def test_a_model_folder_cannot_name_code(tmp_path: Path) -> None:
    card = DetectorCard(OWN, ("a",), (64, 48), {"type": "os.system", "command": "true"})
    checkpoint.save_model(tmp_path, torch.nn.Linear(1, 1), card)
    with pytest.raises(WinnowError, match="os.system.* plain name"):
        load_model(tmp_path)
    with pytest.raises(WinnowError, match="plain numbers"):
        plain({"type": "X", "value": object()})


# Options


def test_accumulation_stops_and_saves_between_steps_only(folder: Path, tmp_path: Path) -> None:
    job = TrainJob(folder, tmp_path, "tiny_atss", {**OPTIONS, "iterations": 8, "accumulate": 3})
    assert train(job, Recorder(stop_after=1)) == {"stopped": True, "iterations": 3}
    assert train(job, Recorder())["iterations"] == 8


def test_two_batches_accumulated_are_one_of_twice_the_size(folder: Path) -> None:
    """The very step that mmengine makes, on a model without normalisation over the batch."""
    from mmengine.optim import build_optim_wrapper

    from engine.training.launch import _optimizer

    def stepped(parts: list[torch.Tensor], accumulate: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        options = TrainOptions(accumulate=accumulate, lr=0.1)
        wrapper = build_optim_wrapper(model, _optimizer(task(TrainJob(folder, folder, "tiny_atss"), options), options))
        wrapper.initialize_count_status(model, 0, len(parts))
        for part in parts:
            wrapper.update_params(model(part).mean())
        return model.weight.detach()

    images = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(stepped([images[:2], images[2:]], 2), stepped([images], 1))


def test_patience_ends_a_training_that_does_not_improve(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.training.hooks import CocoMetric

    values = iter([0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(CocoMetric, "compute_metrics", lambda self, results: {"mAP": next(values)})
    recorder = Recorder()
    options = {**OPTIONS, "iterations": 8, "eval_interval": 1, "patience": 2}
    result = train(TrainJob(folder, tmp_path, "tiny_atss", options), recorder)
    assert (result["iterations"], result["best_iteration"], result["mAP"]) == (3, 1, 0.5)
    assert any("no better model in 2 evaluations" in line for line in recorder.lines)


def test_without_a_mean_the_weights_themselves_are_kept(folder: Path, tmp_path: Path) -> None:
    kept = [
        weights_of(train(TrainJob(folder, tmp_path / str(ema), "tiny_atss", {**OPTIONS, "ema": ema}), Recorder()))
        for ema in (True, False)
    ]
    assert any(not torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_checkpointing_changes_no_gradient(folder: Path, tmp_path: Path) -> None:
    losses = []
    for wanted in (False, True):
        recorder = Recorder()
        options = {**SHORT, "lr": 1e-3, "gradient_checkpointing": wanted}
        train(TrainJob(folder, tmp_path / str(wanted), "tiny_faster_rcnn", options), recorder)
        losses.append(recorder.points[0][1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.raises(WinnowError, match="CSPNeXt; it is with ResNet"):
        train(TrainJob(folder, tmp_path / "r", "tiny_rtmdet", {**SHORT, "gradient_checkpointing": True}), Recorder())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amp": True}, "needs a GPU"),
        ({"patience": 9}, "could not end early"),
    ],
)
def test_impossible_options_are_refused(folder: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    if "amp" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(WinnowError, match=message):
        train(TrainJob(folder, tmp_path, "tiny_atss", {**SHORT, **options}), Recorder())


def test_classes_without_a_box_are_named(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    for name in ("train", "val"):
        change(data / f"{name}.json", lambda d: d["categories"].append({"id": 99, "name": "unicorn"}))
    recorder = Recorder()
    train(TrainJob(data, tmp_path / "work", "tiny_atss", {**SHORT, "iterations": 1}), recorder)
    assert "1 of 3 classes have no box to learn from: unicorn." in recorder.lines


# Disks


def full(path: Path) -> None:
    path.write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_state_whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = TrainJob(folder, tmp_path, "tiny_atss", OPTIONS)
    train(job, Recorder(stop_after=2))
    before = (tmp_path / "last.pth").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("mmengine.runner.Runner.save_checkpoint", lambda _, where, name, **__: full(Path(where) / name))
        with pytest.raises(WinnowError, match="full.*make room, then resume"):
            train(job, Recorder(stop_after=2))
    assert (tmp_path / "last.pth").read_bytes() == before
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert train(job, Recorder())["iterations"] == OPTIONS["iterations"]


def test_other_errors_of_writing_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        write_whole(tmp_path / "x", broken)


def test_a_disk_that_is_too_small_is_refused_before_the_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=5_000_000))
    with pytest.raises(WinnowError, match="needs 13. MB .* 5 MB are free"):
        train(TrainJob(folder, tmp_path, "tiny_atss", SHORT), Recorder())


def test_preprocessing_of_images_in_bgr_and_rgb() -> None:
    bgr = for_classes({"data_preprocessor": {"bgr_to_rgb": False}, "head": [{"num_classes": 80}]}, 3)
    rgb = for_classes({"data_preprocessor": {"bgr_to_rgb": True}}, 3)
    assert bgr.data_preprocessor == {"rgb_to_bgr": True} and rgb.data_preprocessor == {}
    assert bgr.head[0].num_classes == 3
    assert json.loads(json.dumps(plain(bgr))) == plain(bgr)

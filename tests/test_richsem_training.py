"""RichSem's parts: soft labels of boxes, the branch that teaches them, text classifiers, the federated loss,
long-tailed sampling and mosaics; and whole trainings of tiny detectors."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from db.errors import WinnowError
from engine.presets import TrainOptions
from engine.semantic_options import SemanticOptions
from engine.tabletop import Difficulty
from engine.tabletop import build as build_tabletop
from engine.training import closed, text_classifier
from engine.training.checkpoint import build, load_model, save_model, shapes, start_from, training_only
from engine.training.data import SceneDataset, read_split
from engine.training.launch import TrainJob, train
from engine.training.longtail import LongTailSampler, images_by_class, repeat_factors
from engine.training.mosaic import GREY, MosaicDataset, Tile, cropped, flipped, mosaic, random_crop
from engine.training.presets import blueprint
from engine.training.richsem import (
    BoxReader,
    SemanticBranch,
    denoising,
    detector_of,
    lesson_of,
    prompts_of,
    soft_loss,
)
from engine.training.text_classifier import Clip, FederatedLoss, TextClassifier
from tests.conftest import Quiet

NAMES = ("mug", "bottle", "apple", "book")
SIZE = (96, 64)
ALL: dict[str, Any] = {"text_classifier": True, "soft": "semantic", "federated": 2, "repeat_threshold": 0.5}
ALL |= {"class_images": "alternate", "mosaic": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes to learn from, of which the last three are class images, and two to look at."""
    place = tmp_path_factory.mktemp("tabletop")
    level = Difficulty(width=SIZE[0], height=SIZE[1], kinds=len(NAMES), objects=(1, 3))
    build_tabletop(place, level, {"train": 6, "val": 2}, seed=1)
    made = json.loads((place / "coco_train.json").read_bytes())
    notes = [note for note in made["annotations"] if note["image_id"] <= 3]
    for image in made["images"][3:]:
        image["whole_image"] = True
        note = {"id": 100 + image["id"], "image_id": image["id"], "category_id": image["id"] % 4 + 1, "iscrowd": 0}
        notes.append({**note, "bbox": [0, 0, *SIZE], "area": SIZE[0] * SIZE[1]})
    (place / "train.json").write_text(json.dumps({**made, "annotations": notes}))
    (place / "val.json").write_bytes((place / "coco_val.json").read_bytes())
    return place


# Soft labels


def tiny_clip(image_size: int = 96, width: int = 8) -> Clip:
    """A random CLIP with a ResNet of open_clip's own class, whose batch statistics are not trivial."""
    torch.manual_seed(0)
    vision = open_clip.model.CLIPVisionCfg(layers=(1, 1, 1, 1), width=width, head_width=32, image_size=image_size)
    text = open_clip.model.CLIPTextCfg(context_length=8, vocab_size=64, width=32, heads=2, layers=1)
    network = open_clip.model.CLIP(16, vision, text).eval().requires_grad_(False)
    form = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25), "size": (image_size, image_size)}

    def tokens(texts: list[str]) -> torch.Tensor:
        numbers = [[1 + sum(map(ord, word)) % 60 for word in text.split()][:7] for text in texts]
        return torch.tensor([[*row, 63, *[0] * (7 - len(row))] for row in numbers])

    return Clip(network, tokens, form)


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (1, 3, height // 8, width // 8)).astype("f4")
    )
    return F.interpolate(coarse, (height, width), mode="bilinear")[0].to(torch.uint8)


def encoded(clip: Clip, image: torch.Tensor) -> torch.Tensor:
    """q of an image of CLIP's own size, by open_clip alone."""
    mean, std = (torch.tensor(clip.form[name])[:, None, None] for name in ("mean", "std"))
    vector = F.normalize(clip.network.encode_image(((image / 255 - mean) / std)[None]), dim=-1)
    return clip.scale * vector @ clip.texts(NAMES, ("a {}",)).T


@pytest.mark.parametrize("view", ["map", "crops"])
def test_a_box_that_is_the_image_is_seen_as_the_image(view: Any) -> None:
    clip = tiny_clip()
    image, box = noise(96, 96), torch.tensor([[0.0, 0, 96, 96]])
    (soft,) = BoxReader(clip, clip.texts(NAMES, ("a {}",)), view).logits([image], [box])
    assert torch.allclose(soft, encoded(clip, image), atol=1e-3)


@pytest.mark.parametrize("view", ["map", "crops"])
def test_boxes_of_several_images_keep_their_places(view: Any) -> None:
    """Each box is a tile of a larger image, aligned with CLIP's cells; the map sees it with its surroundings."""
    clip = tiny_clip(64)
    tiles = [noise(64, 64, seed) for seed in range(3)]
    wide = torch.cat(tiles[:2], 2)
    boxes = [torch.tensor([[0.0, 0, 64, 64], [64, 0, 128, 64]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 64, 64]])]
    reader = BoxReader(clip, clip.texts(NAMES, ("a {}",)), view)
    found = reader.logits([wide, tiles[0], tiles[2]], boxes)
    assert [len(one) for one in found] == [2, 0, 1]
    wanted = torch.cat([encoded(clip, tile) for tile in tiles])
    near = 1e-3 if view == "crops" else 0.35 * clip.scale  # cells look beyond their box
    assert torch.allclose(torch.cat([found[0], found[2]]), wanted, atol=near)
    if view == "map":
        assert torch.allclose(found[2], wanted[2:], atol=1e-2), "nothing stands beside this one but the padding"


def test_a_transformer_has_no_map(tmp_path: Path) -> None:
    text = open_clip.model.CLIPTextCfg(context_length=8, vocab_size=64, width=32, heads=2, layers=1)
    vision = open_clip.model.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32)
    clip = tiny_clip()
    other = Clip(open_clip.model.CLIP(16, vision, text).eval(), clip.tokenizer, {**clip.form, "size": 32})
    with pytest.raises(WinnowError, match="view: crops"):
        BoxReader(other, other.texts(NAMES, ("a {}",)), "map")
    (soft,) = BoxReader(other, other.texts(NAMES, ("a {}",))).logits(
        [noise(40, 48)], [torch.tensor([[0.0, 0, 32, 32]])]
    )
    assert soft.shape == (1, 4) and torch.isfinite(soft).all()


def test_texts_are_the_mean_of_raw_vectors() -> None:
    clip = tiny_clip()
    both = clip.texts(("mug", ""), ("a {}", "one red {} there"))
    raw = [
        clip.network.encode_text(clip.tokenizer([t.format(n) for n in ("mug", "none")]))
        for t in ("a {}", "one red {} there")
    ]
    assert torch.allclose(both, F.normalize(raw[0] + raw[1], dim=-1), atol=1e-6)
    assert copy.deepcopy(clip) is clip


def test_the_loss_is_zero_where_both_agree_and_has_kl_otherwise() -> None:
    soft = torch.randn(5, 4) * 9
    assert soft_loss(soft, soft + 3).item() == pytest.approx(0, abs=1e-5), "a constant changes no distribution"
    logits = torch.randn(5, 4, requires_grad=True)
    p, log_q = soft.softmax(-1), logits.log_softmax(-1)
    assert soft_loss(soft, logits).item() == pytest.approx((p * (p.log() - log_q)).sum().item() / 5, rel=1e-4)
    nothing = soft_loss(torch.zeros(0, 4), logits[:0])
    nothing.backward()
    assert nothing.item() == 0 and logits.grad is not None and not logits.grad.any()


# Classifiers


def prompts(**options: Any) -> dict[str, Any]:
    return prompts_of(SemanticOptions(**options), NAMES)


def test_a_text_classifier_is_a_scaled_cosine() -> None:
    head = TextClassifier(6, 4, width=128, scale=20.0, prior=0.01, prompts=prompts())
    features = torch.randn(3, 6)
    wanted = 20 * F.cosine_similarity(head.project(features)[:, None], head.texts[None], dim=-1)
    assert torch.allclose(head(features), wanted + np.log(0.01 / 0.99), atol=1e-4)
    assert not head.texts.requires_grad and head.project.bias is None and head.texts.norm(dim=1).allclose(torch.ones(4))


def test_texts_are_kept_with_the_weights_and_those_of_a_start_passed_over() -> None:
    trained = TextClassifier(6, 4, width=128, scale=20.0, prompts=prompts())
    bare = TextClassifier(6, 4, width=128, scale=20.0)
    bare.load_state_dict(trained.state_dict())
    assert bare.texts.equal(trained.texts)
    other = prompts_of(SemanticOptions(), ("star", "hat", "duck", "car"))
    start = TextClassifier(6, 4, width=128, scale=20.0, prompts=other)
    trained.load_state_dict(start.state_dict())
    assert trained.project.weight.equal(start.project.weight) and trained.texts.equal(bare.texts)


def test_the_federated_loss_looks_at_present_and_drawn_classes_only() -> None:
    loss = FederatedLoss(classes=3, counts=[1, 100, 0, 9, 9], gamma=2.0, alpha=0.25)
    logits, labels = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 5, 0, 5])
    loss(logits, labels, torch.ones(4), avg_factor=2).backward()
    assert logits.grad is not None
    touched = logits.grad.any(0)
    assert touched.sum() == 3 and touched[0] and not touched[2], "class 2 is on no image"
    present = torch.tensor([True] + [False] * 4)
    drawn = torch.stack([loss.chosen(present) for _ in range(600)]).float().mean(0)
    assert drawn[0] == 1 and drawn[2] == 0 and drawn[1] > drawn[3] + 0.2
    assert loss.chosen(torch.ones(5, dtype=torch.bool)).all()


def test_without_a_limit_it_is_plain_cross_entropy() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 3, 0])
    wanted = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 4)[:, :3].float(), reduction="sum") / 6
    assert FederatedLoss()(logits, labels).item() == pytest.approx(wanted.item(), rel=1e-5)
    scores = FederatedLoss().get_activation(logits)
    assert scores.shape == (6, 4) and not scores[:, 3].any()


def test_a_detector_of_another_sort_is_refused() -> None:
    model = blueprint("tiny_atss", 4, TrainOptions()).model
    for options in (SemanticOptions(text_classifier=True), SemanticOptions(federated=2)):
        with pytest.raises(WinnowError, match="DINO"):
            detector_of(model, options, NAMES, [1] * 4)
    with pytest.raises(WinnowError, match="ATSSHead learns soft labels"):
        lesson_of(model, SemanticOptions(soft="semantic"), NAMES)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"soft": "label"}, "text_classifier"),
        ({"prior": 0.1}, "text_classifier"),
        ({"templates": ["a mug"]}, "a photo of"),
        ({"mosaic": True, "class_images": "none"}, "class_images"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str) -> None:
    with pytest.raises(WinnowError, match=said):
        SemanticOptions(**options)


# Where soft labels teach


def test_denoising_queries_are_the_first_of_each_group() -> None:
    queries, truths = denoising(2, {"num_denoising_queries": 18, "num_denoising_groups": 3})
    assert queries.tolist() == [0, 1, 6, 7, 12, 13] and truths.tolist() == [0, 1, 0, 1, 0, 1]


def batch_of(folder: Path, positions: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    scenes = SceneDataset(read_split(folder, "train"), SIZE)
    items = [scenes[position] for position in positions]
    return {"inputs": [item["inputs"] for item in items], "data_samples": [item["data_samples"] for item in items]}


def losses_of(model: Any, data: dict[str, Any]) -> dict[str, Any]:
    ready = model.data_preprocessor(data, True)
    return model.loss(ready["inputs"], ready["data_samples"])


def taught(preset: str, **options: Any) -> Any:
    torch.manual_seed(0)
    wish = SemanticOptions(**{"text_classifier": True, "soft": "semantic", **options})
    detector = detector_of(blueprint(preset, 4, TrainOptions()).model, wish, NAMES, [9, 5, 2, 1])
    model = build(lesson_of(detector, wish, NAMES))
    model.init_weights()
    return model.train()


@pytest.mark.parametrize(
    "preset, terms", [("tiny_dino", ["loss_sem", "dn_loss_sem"]), ("tiny_faster_rcnn", ["loss_sem"])]
)
def test_only_what_is_matched_with_an_object_learns_soft_labels(preset: str, terms: list[str], folder: Path) -> None:
    model = taught(preset)
    data = model.data_preprocessor(batch_of(folder), True)
    branch = next(part for part in model.modules() if isinstance(part, SemanticBranch))
    seen: list[torch.Tensor] = []
    branch.register_forward_pre_hook(lambda _, given: (given[0].retain_grad(), seen.append(given[0]))[0])
    losses = model.loss(data["inputs"], data["data_samples"])
    soft = sum(losses[name] for name in terms)
    assert set(terms) <= set(losses) and torch.isfinite(soft) and soft > 0
    soft.backward()
    objects = sum(len(sample.gt_instances) for sample in data["data_samples"])
    assert all(one.grad is not None and one.grad.abs().sum(1).gt(0).all() for one in seen)
    if preset == "tiny_dino":
        assert len(seen[0]) == objects and len(seen[1]) % objects == 0
        others = [part.project.weight.grad for part in model.bbox_head.cls_branches]
    else:
        assert 0 < len(seen[0]) < 2 * 128
        others = [model.roi_head.bbox_head.fc_cls.project.weight.grad]
    assert all(grad is None or not grad.any() for grad in others), "the classifier is not taught by the branch's loss"


def test_a_batch_without_objects_has_a_loss_of_zero(folder: Path) -> None:
    for preset in ("tiny_dino", "tiny_faster_rcnn"):
        model, data = taught(preset), batch_of(folder)
        for sample in data["data_samples"]:
            sample.gt_instances = sample.gt_instances[:0]
        losses = losses_of(model, data)
        assert losses["loss_sem"].item() == 0
        losses["loss_sem"].backward()


def test_on_the_label_branch_the_classifier_learns(folder: Path) -> None:
    model = taught("tiny_faster_rcnn", soft="label")
    assert not training_only(model)
    losses = losses_of(model, batch_of(folder))
    losses["loss_sem"].backward()
    assert model.roi_head.bbox_head.fc_cls.project.weight.grad.any()


@pytest.mark.parametrize("preset", ["tiny_dino", "tiny_faster_rcnn", "tiny_mask_rcnn"])
def test_the_trained_detector_has_no_trace_of_the_branch(preset: str, folder: Path, tmp_path: Path) -> None:
    model = taught(preset, federated=2).eval()
    (prefix,) = training_only(model)
    wish = SemanticOptions(text_classifier=True, federated=2)
    detector = detector_of(blueprint(preset, 4, TrainOptions()).model, wish, NAMES, [9, 5, 2, 1])
    card = closed.DetectorCard(preset, NAMES, SIZE, closed.plain(detector))  # before mmdet changes what it builds
    kept = {name for name in model.state_dict() if not name.startswith(prefix)}
    assert kept == set(shapes(detector)) and len(kept) < len(model.state_dict())
    save_model(tmp_path / "model", model, card)
    again, _ = load_model(tmp_path / "model")
    for one in (model, again):
        if preset != "tiny_dino":
            one.roi_head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        before, after = ([found.pred_instances for found in one.test_step(batch_of(folder))] for one in (model, again))
    assert any(len(found) for found in before)
    for one, other in zip(before, after, strict=True):
        assert one.bboxes.equal(other.bboxes) and one.scores.equal(other.scores) and one.labels.equal(other.labels)


def test_where_texts_tell_the_classes_one_regression_fits_all_boxes() -> None:
    plain = build(blueprint("tiny_faster_rcnn", 4, TrainOptions()).model)
    assert plain.roi_head.bbox_head.fc_reg.out_features == 4 * 4
    assert taught("tiny_faster_rcnn").roi_head.bbox_head.fc_reg.out_features == 4


def test_a_plain_detector_can_be_the_start(tmp_path: Path) -> None:
    for preset in ("tiny_dino", "tiny_faster_rcnn"):
        options = TrainOptions(semantic=SemanticOptions(text_classifier=True, soft="semantic"))
        plain = build(blueprint(preset, 6, TrainOptions()).model)
        save_model(tmp_path / preset, plain, closed.DetectorCard(preset, NAMES, SIZE))
        by_class = closed._by_class(TrainJob(tmp_path, tmp_path, preset), options, NAMES)
        model = taught(preset)
        told = start_from(model, tmp_path / preset / "model.safetensors", by_class)
        assert "new for these classes" in told and "project" in told
        assert model.backbone.conv1.weight.equal(plain.backbone.conv1.weight)
        with pytest.raises(WinnowError, match="another model"):
            start_from(model, tmp_path / preset / "model.safetensors")


# Which images


def test_rare_classes_are_repeated() -> None:
    labels = [np.array([0, 0, 1]), np.array([0]), np.array([0]), np.array([], int)]
    assert images_by_class(labels, 3).tolist() == [3, 1, 0]
    assert repeat_factors(labels, 3, 0.5) == pytest.approx([np.sqrt(0.5 / 0.25), 1, 1, 1])


@given(st.lists(st.floats(1, 4), min_size=1, max_size=12), st.integers(1, 5), st.booleans(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_lap_visits_each_image_as_often_as_it_should(
    repeats: list[float], batch: int, alternate: bool, skipped: int
) -> None:
    whole = [place % 2 for place in range(2 * len(repeats))] if alternate else [0] * len(repeats)
    each = [repeats[place // 2] for place in range(2 * len(repeats))] if alternate else repeats
    sampler = LongTailSampler(range(len(whole)), batch, whole, each, alternate=alternate, seed=3)
    steps = iter(sampler)
    drawn = [next(steps) for _ in range(12 * batch * max(1, int(np.ceil(sum(repeats)))))]
    if alternate:
        assert all(whole[position] == (place // batch) % 2 for place, position in enumerate(drawn))
    lap = int(np.ceil(sum(repeats)))
    own = [position for position in drawn if whole[position] == 0][:lap]
    counts = np.bincount(own, minlength=len(whole))
    members = np.flatnonzero(np.array(whole) == 0)
    assert (counts[members] >= 1).all() and (counts[members] <= np.ceil(np.array(repeats) * lap / sum(repeats))).all()
    later = LongTailSampler(range(len(whole)), batch, whole, each, alternate=alternate, seed=3)
    later.skip(skipped)
    resumed = iter(later)
    assert [next(resumed) for _ in range(5)] == (drawn + [next(steps) for _ in range(skipped + 5)])[
        skipped : skipped + 5
    ]


# Mosaics


def tile(rng: np.random.Generator, width: int, height: int, boxes: int) -> Tile:
    corners = np.sort(rng.uniform(0, 1, (boxes, 2, 2)), axis=1) * np.array([width, height])
    found = corners.reshape(-1, 4) if boxes else np.zeros((0, 4))
    whole = np.array([[0, 0, width, height]], float)
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Tile(picture, np.concatenate([whole, found]), np.arange(boxes + 1))


@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(16, 90), st.integers(16, 90)),
    st.floats(0.25, 0.75),
    st.floats(0.25, 0.75),
)
@settings(max_examples=60, deadline=None)
def test_boxes_of_a_mosaic_stay_on_the_canvas(seed: int, size: tuple[int, int], x: float, y: float) -> None:
    rng = np.random.default_rng(seed)
    tiles = [tile(rng, *map(int, rng.integers(8, 120, 2)), boxes=int(rng.integers(0, 4))) for _ in range(4)]
    centre = (round(x * size[0]), round(y * size[1]))
    made = mosaic(tiles, size, centre)
    assert made.image.shape == (size[1], size[0], 3) and len(made.boxes) == len(made.labels)
    assert (made.boxes >= 0).all() and (made.boxes <= np.array([*size, *size])).all()
    assert (made.boxes[:, 2:] - made.boxes[:, :2] >= 1).all()
    whole = made.boxes[made.labels == 0]
    touching = np.stack([np.isin(whole[:, [0, 2]], centre[0]).any(1), np.isin(whole[:, [1, 3]], centre[1]).any(1)])
    assert touching.all(), "tiles are anchored at the centre"


def test_a_mosaic_shows_its_tiles_where_their_boxes_are() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    sizes = ((30, 20), (20, 20), (10, 30), (60, 10))
    tiles = [
        Tile(np.full((h, w, 3), colour, np.uint8), np.array([[0.0, 0, w, h]]), np.array([number]))
        for number, (colour, (w, h)) in enumerate(zip(colours, sizes, strict=True))
    ]
    made = mosaic(tiles, (64, 48), (20, 30))
    assert made.labels.tolist() == [0, 1, 2, 3]
    covered = np.zeros((48, 64), bool)
    for (x1, y1, x2, y2), colour in zip(made.boxes.astype(int), colours, strict=True):
        assert (made.image[y1:y2, x1:x2] == colour).all()
        covered[y1:y2, x1:x2] = True
    assert (made.image[~covered] == GREY).all() and not covered.all()


@given(st.integers(0, 10**6), st.integers(20, 200), st.integers(20, 200))
@settings(max_examples=40, deadline=None)
def test_crops_and_flips_keep_boxes_inside(seed: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    one = tile(rng, width, height, 3)
    x1, y1, x2, y2 = area = random_crop(height, width, rng)
    assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    cut = cropped(one, area)
    assert cut.image.shape == (y2 - y1, x2 - x1, 3) and (cut.boxes >= 0).all()
    assert (cut.boxes <= np.array([x2 - x1, y2 - y1] * 2)).all() and cut.labels[0] == 0
    assert cut.boxes[0].tolist() == [0, 0, x2 - x1, y2 - y1], "the whole image is still the whole tile"
    back = flipped(flipped(one))
    assert np.array_equal(back.image, one.image) and np.allclose(back.boxes, one.boxes)


def test_class_images_come_in_mosaics_and_the_others_as_ever(folder: Path) -> None:
    split = read_split(folder, "train")
    plain, mixed = SceneDataset(split, SIZE, augment=True), MosaicDataset(split, SIZE)
    assert [scene.whole for scene in split.scenes] == [False] * 3 + [True] * 3
    assert mixed[(5, 0)]["inputs"].equal(plain[(5, 0)]["inputs"])
    sample = mixed[(5, 4)]
    assert sample["inputs"].shape == (3, SIZE[1], SIZE[0]) and 1 < len(sample["data_samples"].gt_instances) <= 4
    assert sample["data_samples"].metainfo["whole_image"] and mixed[(5, 4)]["inputs"].equal(sample["inputs"])
    assert not mixed[(6, 4)]["inputs"].equal(sample["inputs"])


# Whole trainings


class Reporter(Quiet):
    def metrics(self, step: int, values: dict[str, float]) -> None: ...


def trained(folder: Path, work: Path, preset: str, semantic: dict[str, Any], **options: Any) -> dict[str, Any]:
    chosen = {"iterations": 2, "batch_size": 2, "image_size": SIZE, "eval_interval": 2, "semantic": semantic, **options}
    return train(TrainJob(folder, work, preset, chosen), Reporter())


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny_dino", "tiny_faster_rcnn"])
def test_richsem_trains_and_goes_on(preset: str, folder: Path, tmp_path: Path) -> None:
    done = trained(folder, tmp_path, preset, ALL)
    model, card = load_model(Path(done["model"]))
    assert done["iterations"] == 2 and card.config is not None and not training_only(model)
    again = trained(folder, tmp_path / "next", preset, ALL, weights=f"{done['model']}/model.safetensors")
    assert again["iterations"] == 2


@pytest.mark.slow
def test_soft_labels_beside_a_plain_classifier(folder: Path, tmp_path: Path) -> None:
    done = trained(folder, tmp_path, "tiny_mask_rcnn", {"soft": "semantic", "class_images": "mixed", "mosaic": True})
    _, card = load_model(Path(done["model"]))
    assert card.config is None, "the detector is the preset's own"


@pytest.mark.parametrize(
    "options, said",
    [
        ({"generated_probability": 0.2, "semantic": {"class_images": "alternate"}}, "generated_probability"),
        ({"ignore_background": True, "semantic": {"soft": "semantic"}}, "TolerantRoIHead learns soft labels"),
    ],
)
def test_what_cannot_go_together_is_refused_before_it_trains(
    options: dict[str, Any], said: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(WinnowError, match=said):
        closed.task(TrainJob(folder, tmp_path, "tiny_faster_rcnn"), TrainOptions(image_size=SIZE, **options))


def test_alternating_wants_both_sorts(folder: Path, tmp_path: Path) -> None:
    made = json.loads((folder / "train.json").read_bytes())
    images = [
        {**image, "whole_image": False, "file_name": str(folder / image["file_name"])} for image in made["images"]
    ]
    for name in ("train", "val"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**made, "images": images}))
    options = TrainOptions(image_size=SIZE, semantic=SemanticOptions(class_images="alternate"))
    with pytest.raises(WinnowError, match="0 are images of whole classes"):
        closed.task(TrainJob(tmp_path, tmp_path, "tiny_faster_rcnn"), options)


@pytest.mark.parametrize("name", ["dino-4scale_r50_8xb2-12e_coco", "mask-rcnn_r50_fpn_1x_coco"])
def test_the_public_configurations_can_be_taught(name: str) -> None:
    wish = SemanticOptions(text_classifier=True, soft="semantic", federated=3)
    detector = detector_of(blueprint(name, 4, TrainOptions()).model, wish, NAMES, [1] * 4)
    lesson = lesson_of(detector, wish, NAMES)
    text_classifier.texts_of(prompts())  # CLIP is loaded outside of the meta device
    kept, more = set(shapes(detector)), set(shapes(lesson))
    assert kept < more and all("semantic" in tensor for tensor in more - kept)

"""Detectors that read: what a snapshot teaches them, what they are asked, and the public configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
from conftest import candidates, leased, picture

from db.errors import NotFound, WinnowError
from db.records import Dataset, Decision, Kind, NewVerdict
from db.store import Store
from engine.evaluation.omnilabel import evaluate
from engine.evaluation.spoken import Asked
from engine.grounding_folder import (
    TRAIN,
    VAL,
    Detection,
    Instance,
    Line,
    described,
    grounding_folder,
    read_lines,
    write_lines,
)
from engine.language_options import LanguageOptions
from engine.presets import PRESETS, TrainOptions
from engine.training import mmlab

mmlab.install()

from mmengine.config import Config

from engine.backends.mmdet_reader import MMDetReader
from engine.training.checkpoint import build
from engine.training.grounding import PromptDataset, asked_about, task
from engine.training.language_presets import LanguageCard, blueprint, load_reader, public, tiny_grounding, tokenizer_of
from engine.training.launch import TrainJob, train
from engine.training.negatives import token_length
from engine.training.presets import shipped_folder
from engine.training.queries import Query, ask, omnilabel_queries, query, spoken_queries

CARD = LanguageCard("tiny_grounding", (96, 72))
READING = [preset for preset in PRESETS.values() if preset.kind == "grounding" and not preset.pairs]
TINY = {"iterations": 2, "batch_size": 2, "image_size": (96, 72), "eval_interval": 2}


class Heard:
    """A reporter that keeps the lines it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def metrics(self, step: int, values: dict[str, float]) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def stop_requested(self) -> bool:
        return False

    def log(self, text: str) -> None:
        self.lines.append(text)


def accepted(store: Store, dataset: Dataset, *kinds: Kind) -> None:
    for kind in kinds:
        for one in candidates(store, dataset.id, leased(store, dataset.id), 1, kind=kind):
            store.review.decide([NewVerdict(op_id=f"op{one}", candidate_id=one, decision=Decision.ACCEPT)])


def frozen(store: Store, dataset: Dataset, folder: Path) -> dict[str, int]:
    snapshot = store.snapshots.freeze("s", dataset.id, store.review.policies(dataset.id))
    return grounding_folder(store, snapshot, folder)


def folder_of(path: Path, *lines: Line) -> Path:
    path.mkdir(exist_ok=True)
    write_lines(path / TRAIN, lines)
    (path / VAL).write_text(json.dumps({"images": [], "descriptions": [], "annotations": []}))
    return path


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """A picture with two described boxes, of which one has two names, and two classes."""
    picture(tmp_path / "a.jpg", seed=1)
    mug, ball = (10.0, 10.0, 50.0, 60.0), (80.0, 40.0, 140.0, 100.0)
    texts = [("red mug", [mug]), ("small mug", [mug]), ("blue ball", [ball])]
    grounding = msgspec.structs.replace(described(texts), negatives=["green mug", "blue hat"])
    instances = [Instance(mug, "mug"), Instance(ball, "ball")]
    return Line(str(tmp_path / "a.jpg"), 160, 120, Detection(instances), grounding)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    made = build(tiny_grounding())
    made.init_weights()
    return made.eval()


# From a snapshot


def test_a_snapshot_becomes_captions_with_negatives_and_negative_images(
    store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    accepted(store, dataset, Kind.NEGATIVE_TEXT, Kind.NEGATIVE_IMAGE)
    counts = frozen(store, dataset, tmp_path / "data")
    lines = read_lines(tmp_path / "data" / TRAIN)
    assert counts["negatives"] == counts["synthetic"] == 1
    assert len(lines) == counts["train"] == 4 - counts["val"]
    assert all(line.detection and [i.category for i in line.detection.instances] == ["mug", "ball"] for line in lines)
    told = [line.grounding for line in lines if line.grounding]
    assert all(one.caption == "a red mug left of a blue ball" for one in told)
    assert all(
        [(r.bbox, r.tokens_positive) for r in g.regions] == [([(10.0, 10.0, 50.0, 60.0)], [(0, 9)])] for g in told
    )
    assert [one.negatives for one in told].count(["a blue mug"]) == 1
    ((edit,),) = [one.negative_images for one in told if one.negative_images]
    assert (edit.box, edit.positive, edit.negative) == ((12.0, 12.0, 48.0, 58.0), "a red mug", "a blue mug")
    assert Path(edit.img_path).is_file()


def test_validation_asks_for_classes_descriptions_and_known_negatives(
    store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    accepted(store, dataset, Kind.NEGATIVE_TEXT)
    snapshot = store.snapshots.freeze("s", dataset.id, store.review.policies(dataset.id))
    frozen_folder = tmp_path / "data"
    grounding_folder(store, snapshot, frozen_folder)
    document = json.loads((frozen_folder / VAL).read_bytes())
    images = {image["id"] for image in document["images"]}
    asked = {row["text"]: row for row in document["descriptions"]}
    assert {"mug", "ball"} <= asked.keys() and all(set(asked[name]["image_ids"]) == images for name in ("mug", "ball"))
    perfect = [
        {"image_id": n["image_id"], "bbox": n["bbox"], "description_ids": n["description_ids"], "scores": [1.0] * len(n["description_ids"])}
        for n in document["annotations"]
    ]  # fmt: skip
    assert evaluate(document, perfect).AP_categ == (1 if images else -1)


def test_a_snapshot_with_nothing_to_name_is_refused(store: Store, tmp_path: Path) -> None:
    from dataclasses import replace

    from conftest import small_document

    bare = replace(small_document(tmp_path / "files"), boxes=list, phrases=list)
    dataset = store.datasets.import_document(bare, "bare")
    with pytest.raises(WinnowError, match="no image with a box that a class or a text names"):
        frozen(store, dataset, tmp_path / "data")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / TRAIN).write_text('{"filename": "a.png", "width": 1, "height": 1}\n{"filename": 3}\n')
    with pytest.raises(WinnowError, match=r"train.jsonl, line 2: not a line of ODVG"):
        read_lines(tmp_path / TRAIN)


# Samples


def samples(line: Line, count: int = 40, size_wh: tuple[int, int] = (96, 72), **language: Any) -> list[Any]:
    options = TrainOptions(image_size=size_wh, language=LanguageOptions(**language))
    dataset = PromptDataset([line], options, tokenizer_of(CARD), 256, seed=0)
    return [dataset[draw, 0]["data_samples"] for draw in range(count)]


def names(sample: Any) -> list[list[str]]:
    """The words that name each box of a sample."""
    spans = [sample.tokens_positive[int(label)] for label in sample.gt_instances.labels]
    return [[sample.text[start:end] for start, end in of_box] for of_box in spans]


def test_a_box_is_named_by_all_descriptions_that_have_it_and_by_no_negative(line: Line) -> None:
    texts = set()
    for sample in samples(line, classes=0.0, negative_text=1.0, negative_image=0.0, negative_pair=0.0):
        texts.add(sample.text)
        assert all(found in (["red mug", "small mug"], ["blue ball"]) for found in names(sample))
    assert any("green mug" in text for text in texts) and any("blue hat" in text for text in texts)
    assert all("red mug. small mug. blue ball" in text for text in texts)


def test_classes_are_asked_as_often_as_wanted(line: Line) -> None:
    by_class = [
        sample for sample in samples(line, 200, classes=0.3) if "red" not in sample.text and "green" not in sample.text
    ]
    assert 35 <= len(by_class) <= 90
    assert {sample.text for sample in by_class} <= {"mug. ball.", "ball. mug."}
    assert all(found in (["mug"], ["ball"]) for sample in by_class for found in names(sample))


def test_a_text_about_sides_is_not_flipped(line: Line) -> None:
    mug = line.grounding.regions[0].bbox  # type: ignore[union-attr]
    ball = line.grounding.regions[2].bbox  # type: ignore[union-attr]

    def in_order(text: str) -> set[bool]:
        told = msgspec.structs.replace(line, detection=None, grounding=described([(text, mug), ("ball", ball)]))
        found = [sample.gt_instances.bboxes[:, 0] for sample in samples(told)]
        return {bool(x[0] < x[1]) for x in found if len(x) == 2}

    assert in_order("mug left of the ball") == {True}
    assert in_order("mug beside the ball") == {True, False}


def test_impossible_options_are_refused() -> None:
    with pytest.raises(WinnowError, match="add up to at most 1"):
        LanguageOptions(negative_text=0.7, negative_image=0.4)
    with pytest.raises(WinnowError, match="1 <= least <= most"):
        LanguageOptions(per_caption=(2, 1))


def test_captions_longer_than_the_encoder_are_all_named_before_the_training(line: Line, tmp_path: Path) -> None:
    long = msgspec.structs.replace(line, grounding=described([("red mug " * 150, [])]))
    job = TrainJob(folder_of(tmp_path / "data", line, long, long), tmp_path / "work", "tiny_grounding", TINY)
    with pytest.raises(WinnowError, match=r"2 captions are longer than the 256 tokens.*line 2: 303 tokens.*line 3"):
        task(job, TrainOptions.model_validate(TINY))


# The tiny detector


def lost(model: Any, sample: Any) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """The losses of a sample, and the samples as the head saw them."""
    inputs = [torch.zeros(3, *sample.img_shape, dtype=torch.uint8)]
    batch = model.data_preprocessor({"inputs": inputs, "data_samples": [sample]}, True)
    return model(**batch, mode="loss"), batch["data_samples"]


def targets(model: Any, line: Line) -> list[list[str]]:
    """What the head is taught for each box of a sample: boxes x tokens."""
    (sample,) = samples(line, 1, classes=0.0, negative_text=1.0, negative_image=0.0, negative_pair=0.0)
    losses, (seen,) = lost(model, sample)
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    tokens = tokenizer_of(CARD)(sample.text)
    taught = seen.gt_instances.positive_maps
    assert taught.shape[1] == len(tokens["input_ids"])
    return [[sample.text[slice(*tokens.token_to_chars(int(i)))] for i in row.nonzero()] for row in taught]


def test_the_head_is_taught_the_words_of_each_box_and_zero_for_negatives(model: Any, line: Line) -> None:
    assert targets(model, line) == [["red", "mug", "small", "mug"], ["blue", "ball"]]


def test_an_image_without_boxes_gives_a_finite_loss(model: Any, line: Line) -> None:
    empty = msgspec.structs.replace(line, detection=None, grounding=described([("red mug", [])]))
    (sample,) = samples(empty, 1)
    losses, _ = lost(model, sample)
    assert all(bool(torch.isfinite(value)) for value in losses.values())


def test_no_description_changes_the_answer_to_another(model: Any, line: Line) -> None:
    path = Path(line.filename)
    alone = ask(model, [query(path, 1, {5: "red mug"})], (96, 72))
    together = ask(model, [query(path, 1, {4: "a blue ball", 5: "red mug", 6: "hat"})], (96, 72))
    mine = [row for row in together if row["description_ids"] == [5]]
    assert len(alone) == len(mine) > 0
    assert [row["scores"][0] for row in alone] == pytest.approx([row["scores"][0] for row in mine], abs=1e-5)
    np.testing.assert_allclose([row["bbox"] for row in alone], [row["bbox"] for row in mine], atol=1e-3)


def test_a_training_on_a_snapshot_leaves_a_detector_that_answers(
    store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    accepted(store, dataset, Kind.NEGATIVE_TEXT, Kind.NEGATIVE_IMAGE)
    frozen(store, dataset, tmp_path / "data")
    heard = Heard()
    result = train(TrainJob(tmp_path / "data", tmp_path / "work", "tiny_grounding", TINY), heard)
    assert "3 prompts, 1 negative descriptions, 1 negative images" in heard.lines
    assert {"AP", "AP_categ", "AP_descr", "AP_descr_pos"} <= result.keys() and result["iterations"] == 2
    reader, card = load_reader(Path(result["model"]))
    assert card == CARD and card.isolated
    path = Path(read_lines(tmp_path / "data" / TRAIN)[0].filename)
    rows = ask(reader, [query(path, 7, {1: "mug", 2: "blue ball"})], card.image_size)
    assert rows and {row["image_id"] for row in rows} == {7} and {row["description_ids"][0] for row in rows} <= {1, 2}
    with pytest.raises(WinnowError, match="not a trained detector that reads"):
        load_reader(tmp_path)
    detector = MMDetReader(Path(result["model"]), ["mug", "ball"])
    (found,) = detector.detect([cv2.imread(str(path))[..., ::-1]])
    assert found.names == ("mug", "ball") and len(found) and (np.diff(found.scores) <= 0).all()
    best = max(row["scores"][0] for row in rows if row["description_ids"] == [1])
    assert best == pytest.approx(found.scores[found.labels == 0].max(), abs=1e-4)
    told = asked_about(
        Path(result["model"]), json.loads((tmp_path / "data" / VAL).read_bytes()), lambda done, all: None
    )
    assert told["AP_categ"] == pytest.approx(result["AP_categ"], abs=1e-6)


# Questions

DOCUMENT = {
    "images": [{"id": 3, "file_name": "x.png"}],
    "descriptions": [
        {"id": number, "text": text, "image_ids": [3]}
        for number, text in enumerate(["mug", "red mug.", "a red striped mug", "ball", "the mug left of the ball"])
    ],
}


def test_omnilabel_asks_long_descriptions_one_at_a_time_and_short_ones_together() -> None:
    length = token_length(tokenizer_of(CARD))
    official = omnilabel_queries(DOCUMENT, Path("f"), length, 256)
    assert [(q.text, q.ids) for q in official] == [
        ("a red striped mug.", (2,)),
        ("the mug left of the ball.", (4,)),
        ("mug. red mug. ball.", (0, 1, 3)),
    ]
    (whole,) = omnilabel_queries(DOCUMENT, Path("f"), length, 256, together=True)
    assert whole == Query(Path("f/x.png"), 3, whole.text, (0, 1, 2, 3, 4), whole.spans)
    assert [whole.text[start:end] for start, end in whole.spans] == [
        row["text"].rstrip(".") for row in DOCUMENT["descriptions"]
    ]
    parts = omnilabel_queries(DOCUMENT, Path("f"), length, 12, together=True)
    assert sum((q.ids for q in parts), ()) == whole.ids and all(length(q.text) <= 12 for q in parts)


def test_texts_are_asked_one_at_a_time_or_as_many_as_fit() -> None:
    length = token_length(tokenizer_of(CARD))
    asked = [Asked(Path("x.png"), 3, {1: "red mug.", 2: "mug that is not red"})]
    assert [(q.text, q.ids) for q in spoken_queries(asked, length, 256)] == [
        ("red mug.", (1,)),
        ("mug that is not red.", (2,)),
    ]
    (one,) = spoken_queries(asked, length, 256, together=True)
    assert one.ids == (1, 2)
    assert [one.text[start:end] for start, end in one.spans] == ["red mug", "mug that is not red"]


# Public configurations


def test_the_presets_that_read_are_known() -> None:
    assert len(READING) == 4
    with pytest.raises(NotFound, match="tiny_atss"):
        public("tiny_atss")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder as wide as bert-base-uncased, of one layer."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "red", "small", "mug", "blue", "ball", "hat")
    (folder / "vocab.txt").write_text("\n".join(words))
    small = BertConfig(vocab_size=len(words), hidden_size=768, num_hidden_layers=1, intermediate_size=16)
    BertModel(small, add_pooling_layer=True).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


PUBLIC = [one for one in READING if one.config]


@pytest.mark.parametrize("preset", PUBLIC, ids=lambda one: one.title)
def test_public_configurations_are_those_of_mmdet(preset: Any, encoder: Path) -> None:
    own = Config.fromfile(shipped_folder() / preset.config)
    assert public(preset.name).model.to_dict() == own.model.to_dict()
    with pytest.raises(WinnowError, match="whose folder is needed as language_model"):
        blueprint(LanguageCard(preset.name, (800, 1333)))
    plan = blueprint(LanguageCard(preset.name, (800, 1333), str(encoder)), lr=3e-5)
    assert plan.optimizer["optimizer"]["lr"] == 3e-5
    names = shapes_of(plan.model)
    assert "language_model.language_backbone.body.model.embeddings.word_embeddings.weight" in names
    assert names == shapes_of(with_encoder(own.model, encoder)), "published weights fit"


def test_offsets_of_a_larger_map_count_from_their_first_number_as_in_mmcv() -> None:
    from mmcv.ops import modulated_deform_conv2d

    torch.manual_seed(0)
    image, weight = torch.randn(2, 4, 3, 5), torch.randn(6, 4, 3, 3)
    offset, mask = torch.randn(2, 18, 6, 10, requires_grad=True), torch.rand(2, 9, 6, 10)
    found = modulated_deform_conv2d(image, offset, mask, weight, None, 1, 1)
    cut = [part.flatten(1)[:, : 15 * part.shape[1]].reshape(2, -1, 3, 5) for part in (offset.detach(), mask)]
    torch.testing.assert_close(found, modulated_deform_conv2d(image, *cut, weight, None, 1, 1))
    found.sum().backward()
    assert offset.grad is not None and not offset.grad.flatten(1)[:, 15 * 18 :].any()
    assert offset.grad.flatten(1)[:, : 15 * 18].abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("preset", PUBLIC, ids=lambda one: one.title)
def test_public_configurations_learn_from_descriptions_and_answer(preset: Any, encoder: Path, line: Line) -> None:
    made = build(blueprint(LanguageCard(preset.name, (96, 72), str(encoder))).model)
    size = (320, 240)  # Grounding DINO chooses 900 places
    (sample,) = samples(line, 1, size, classes=0.0)
    losses, (seen,) = lost(made, sample)
    total = sum(value if isinstance(value, torch.Tensor) else sum(value) for value in losses.values())
    assert bool(torch.isfinite(total)) and seen.gt_instances.positive_maps.sum(1).tolist() == [4, 2]
    total.backward()
    assert made.language_model.language_backbone.body.model.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    made.bbox_head.test_cfg["score_thr"] = 0.0  # without training, nothing is likely
    rows = ask(made.eval(), [query(Path(line.filename), 1, {1: "red mug", 2: "hat"})], size)
    assert rows and {row["description_ids"][0] for row in rows} <= {1, 2}


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in build(config).state_dict().items()}


def with_encoder(model: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration as it is, but for what this machine cannot fetch."""
    head = {"lang_model_name": str(folder)} if model["type"] == "GLIP" else {}
    encoder = {"encoder": {**model["encoder"], "num_cp": 0}} if "encoder" in model else {}
    return {
        **model,
        **encoder,
        "language_model": {**model["language_model"], "name": str(folder)},
        "bbox_head": {**model["bbox_head"], **head},
    }

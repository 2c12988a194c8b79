"""DetCLIPv2: what the sources teach, batches of one source, the detector, and a training from end to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import Quiet, leased

from db.errors import WinnowError
from db.records import Dataset, Run, RunKind, Snapshot
from db.store import Store
from engine.alignments import Aligned, Ask, aligners, kept, known, over
from engine.backends.mmdet_reader import MMDetReader
from engine.concepts import build
from engine.filters import FILTERS
from engine.grounding_folder import DEFINITIONS, TRAIN, VAL, Detection, Grounding, Instance, Line, Region, write_lines
from engine.pair_options import SOURCES
from engine.pair_review import propose
from engine.predictions import found_document
from engine.presets import train_options
from engine.roles import Context, model_folder
from engine.runs import start_align, start_evaluate
from engine.subject import subjects
from engine.training import mmlab

mmlab.install()

from mmcv.ops import ModulatedDeformConv2d

from engine.training.align import Aligner
from engine.training.checkpoint import build as build_model
from engine.training.checkpoint import save_model
from engine.training.detclip import ConceptEncoder, DeformableConvolution
from engine.training.language_presets import READER, LanguageCard, blueprint, load_reader
from engine.training.launch import TrainJob, train
from engine.training.pairs import SourceBatches, SourceDataset, shares_of, task
from engine.training.run import evaluate

BOX = (10.0, 8.0, 40.0, 38.0)
TINY = {"iterations": 4, "batch_size": 2, "image_size": (64, 48), "eval_interval": 4, "lr": 1e-4}


def lines_in(folder: Path) -> list[Line]:
    """Two lines of each source."""
    found = []
    for number in range(6):
        image = np.full((48, 64, 3), 200, np.uint8)
        image[8:38, 10:40] = (0, 0, 255) if number % 2 else (255, 0, 0)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        name = "mug" if number % 2 else "hat"
        caption = f"a red {name} on a table"
        detection = Detection([Instance(BOX, name)])
        grounding = Grounding(caption, [Region([BOX], f"a red {name}", [(0, 9)])], negatives=["a blue car"])
        place = Line(str(folder / f"{number}.png"), 64, 48)
        kinds: Sequence[dict[str, Any]] = (
            {"detection": detection},
            {"grounding": grounding},
            {"grounding": Grounding(caption)},
        )
        found.append(Line(place.filename, 64, 48, **kinds[number // 2]))
    return found


def dataset_in(folder: Path, **pairs: Any) -> SourceDataset:
    lines = lines_in(folder)
    return SourceDataset(lines, train_options("tiny_detclip", {**TINY, "pairs": pairs}), build(lines, 1), 0)


def model() -> Any:
    torch.manual_seed(0)
    made = build_model(blueprint(LanguageCard("tiny_detclip", (64, 48))).model)
    made.init_weights()
    return made


def losses(detector: Any, dataset: SourceDataset, source: int) -> dict[str, torch.Tensor]:
    items = [dataset[i, place] for i, place in enumerate(p for p, s in enumerate(dataset.sources) if s == source)]
    batch = detector.data_preprocessor({key: [item[key] for item in items] for key in items[0]}, True)
    return detector.loss(batch["inputs"], batch["data_samples"])


def test_the_deformable_convolution_is_that_of_mmcv() -> None:
    torch.manual_seed(0)
    own, other = DeformableConvolution(4, 3).double(), ModulatedDeformConv2d(4, 3, 3, padding=1, bias=False).double()
    other.weight.data.copy_(own.weight.data)
    inputs = [torch.randn(2, 4, 5, 6), torch.randn(2, 18, 5, 6), torch.rand(2, 9, 5, 6)]
    told = [[one.double().requires_grad_() for one in inputs] for _ in range(2)]
    results = [convolution(*told[place]) for place, convolution in enumerate((own, other))]
    torch.testing.assert_close(results[0], results[1])
    weights = torch.randn_like(results[0])
    for result in results:
        (result * weights).sum().backward()
    for mine, theirs in zip([*told[0], own.weight], [*told[1], other.weight], strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_what_each_source_asks_for(tmp_path: Path) -> None:
    dataset = dataset_in(tmp_path, grounding_concepts=4)
    assert [SOURCES[source] for source in dataset.sources] == ["detection"] * 2 + ["grounding"] * 2 + ["pairs"] * 2
    boxed, phrased, paired = (dataset[0, place]["data_samples"] for place in (0, 2, 4))
    assert (boxed.concepts, boxed.named) == (["hat", "mug"], [[0]])
    assert phrased.concepts[:2] == ["red hat", "blue car"] and phrased.named == [[0]]
    assert not {"table", "red mug"} & set(phrased.concepts), "words of the caption are no negatives"
    assert paired.concepts == ["a red hat on a table", "red hat", "table"] and not len(paired.gt_instances)
    assert dataset_in(tmp_path, whole_captions=False)[0, 4]["data_samples"].concepts == ["red hat", "table"]


def test_every_batch_is_of_one_source_and_of_its_size() -> None:
    sources, sizes = [0] * 5 + [1] * 4 + [2] * 9, (2, 2, 4)
    batches = SourceBatches(SimpleNamespace(dataset=sources), 2, sources, (0.4, 0.2, 0.4), sizes, draws=3)
    seen = list(islice(batches, 60))
    assert [len(batch) for batch in seen] == [sizes[sources[batch[0][1]]] for batch in seen]
    assert all(len({sources[place] for _, place in batch}) == 1 for batch in seen)
    assert {sources[batch[0][1]] for batch in seen} == {0, 1, 2}
    draws = [draw for batch in seen for draw, _ in batch]
    assert len(set(draws)) == len(draws)
    pairs = [place for batch in seen for _, place in batch if sources[place] == 2]
    assert set(pairs[:9]) == set(range(9, 18)), "all come before any comes again"
    assert seen == list(islice(batches, 60))


def test_a_source_without_images_leaves_its_share() -> None:
    assert shares_of([0, 2, 2], (0.4, 0.3, 0.3)) == pytest.approx((4 / 7, 0, 3 / 7))
    assert shares_of([1], (1.0, 0.0, 0.0)) == (0.0, 0.0, 0.0)


def test_each_source_teaches_by_its_own_losses(tmp_path: Path) -> None:
    detector, dataset = model(), dataset_in(tmp_path)
    names = [set(losses(detector, dataset, source)) - {"loss_unused"} for source in range(3)]
    assert names == [{"loss_align", "loss_bbox", "loss_centerness"}, {"loss_align"}, {"loss_pairs"}]


def test_captions_teach_the_regression_branch_by_the_offsets(tmp_path: Path) -> None:
    detector, dataset = model(), dataset_in(tmp_path)
    torch.nn.init.normal_(detector.bbox_head.offsets.weight, std=0.1)
    found = losses(detector, dataset, 2)
    torch.stack(list(found.values())).sum().backward()
    head = detector.bbox_head
    assert float(head.reg_convs[0].conv.weight.grad.abs().sum()) > 0
    assert float(head.scale.grad) == float(head.bias.grad) == 0.0, "the scale is for L_align only"
    assert all(parameter.grad is not None for parameter in detector.parameters() if parameter.requires_grad)


def test_an_image_without_boxes_has_a_finite_loss(tmp_path: Path) -> None:
    lines = [Line(line.filename, 64, 48, Detection([])) for line in lines_in(tmp_path)[:2]]
    lines.append(lines_in(tmp_path)[0])
    dataset = SourceDataset(lines, train_options("tiny_detclip", TINY), build(lines, 1), 0)
    detector = model()
    items = [dataset[i, i] for i in range(2)]
    batch = detector.data_preprocessor({key: [item[key] for item in items] for key in items[0]}, True)
    found = detector.loss(batch["inputs"], batch["data_samples"])
    assert all(torch.isfinite(loss) for loss in found.values()) and float(found["loss_bbox"]) == 0.0


def test_the_same_text_of_two_images_is_one_concept() -> None:
    detector = model()
    words, places = detector.concepts([["red mug", "hat"], ["hat", "ball"]])
    assert words.shape == (3, 64) and places == [[0, 1], [1, 2]]
    torch.testing.assert_close(words.norm(dim=-1), torch.ones(3))


def test_texts_are_read_once_in_evaluation_and_anew_after_training() -> None:
    encoder = ConceptEncoder(str(READER), 8).eval()
    with torch.inference_mode():
        first = encoder(["mug", "hat", "mug"])
        encoder.projection.bias.data += 1
        torch.testing.assert_close(encoder(["hat", "mug"]), first[[1, 0]])
        changed = encoder.train().eval()(["mug"])
    assert not torch.allclose(changed[0], first[0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that has seen all three sources."""
    folder = tmp_path_factory.mktemp("detclip")
    write_lines(folder / TRAIN, lines_in(folder))
    (folder / DEFINITIONS).write_text(json.dumps({"mug": "a cup with a handle", "boat": "of no box"}))
    image = {"id": 1, "file_name": str(folder / "0.png"), "width": 64, "height": 48}
    description = {"id": 1, "text": "hat", "image_ids": [1], "anno_info": {"type": "object_category"}}
    note = {"id": 1, "image_id": 1, "bbox": [10, 8, 30, 30], "description_ids": [1]}
    document = {"images": [image], "descriptions": [description], "annotations": [note]}
    (folder / VAL).write_text(json.dumps(document))
    heard: list[str] = []
    reporter = SimpleNamespace(
        metrics=lambda step, values: None,
        progress=lambda done, total: None,
        stop_requested=lambda: False,
        log=heard.append,
    )
    result = train(TrainJob(folder, folder / "work", "tiny_detclip", {**TINY, "pairs": {"batch_size": 3}}), reporter)
    assert any("2 detection (40%), 2 grounding (30%), 2 pairs (30%)" in line for line in heard)
    assert 0 <= result["AP_categ"] <= 1
    return Path(result["model"])


@pytest.mark.slow
def test_two_processes_train_it_together(trained: Path, tmp_path: Path) -> None:
    folder = trained.parents[1]
    heard: dict[str, float] = {}
    reporter = SimpleNamespace(
        metrics=lambda step, values: heard.update(values),
        progress=lambda done, total: None,
        stop_requested=lambda: False,
        log=lambda text: None,
    )
    options = {**TINY, "pairs": {"batch_size": 3}, "processes": 2}
    result = train(TrainJob(folder, tmp_path / "work", "tiny_detclip", options), reporter)
    assert result["iterations"] == 4 and {"loss", "AP_categ"} <= heard.keys()


def test_a_trained_detector_keeps_its_definitions_and_finds_any_vocabulary(trained: Path) -> None:
    card = load_reader(trained)[1]
    assert card.definitions == {"mug": "a cup with a handle"} and card.pairs == {"batch_size": 3}
    image = cv2.imread(str(trained.parents[1] / "0.png"))[..., ::-1]  # type: ignore[index]
    (alone,) = MMDetReader(trained, ["zebra"]).detect([image])
    (among,) = MMDetReader(trained, ["mug", "zebra", "red ball"]).detect([image])
    same = among.labels == 1
    np.testing.assert_allclose(among.scores[same], alone.scores, atol=1e-5)
    np.testing.assert_allclose(among.xyxy[same], alone.xyxy, atol=1e-3)


def test_words_are_aligned_with_regions_inside_the_image(trained: Path) -> None:
    image = cv2.imread(str(trained.parents[1] / "0.png"))[..., ::-1]  # type: ignore[index]
    caption = "a red hat on a table"
    words = Aligner(trained).align(image, caption)
    assert [(word.text, caption[word.start : word.end]) for word in words] == [
        (caption, caption),
        ("a red hat", "a red hat"),
        ("a table", "a table"),
    ]
    for word in words:
        found = [region.similarity for region in word.regions]
        assert found == sorted(found, reverse=True) and all(-1 <= value <= 1 for value in found)
        boxes = np.array([region.xyxy for region in word.regions])
        assert (boxes[:, :2] >= -1e-3).all() and (boxes[:, 2] <= 64.01).all() and (boxes[:, 3] <= 48.01).all()
    drawn = over(image, Aligned(1, "", 64, 48, caption, words))
    assert drawn.shape[1] == 480 and drawn.dtype == np.uint8


def test_data_and_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / TRAIN, lines_in(tmp_path)[4:])
    (tmp_path / VAL).write_text(json.dumps({"images": [], "descriptions": [], "annotations": []}))
    job = TrainJob(tmp_path, tmp_path, "tiny_detclip")
    with pytest.raises(WinnowError, match="it holds 0 detection, 0 grounding, 2 pairs"):
        task(job, train_options("tiny_detclip", {**TINY, "pairs": {"shares": (1.0, 0.0, 0.0)}}))
    with pytest.raises(WinnowError, match="no boxes of classes"):
        task(job, train_options("tiny_detclip", {**TINY, "pairs": {"selection": "classification"}}))
    with pytest.raises(WinnowError, match="whose folder is needed"):
        task(TrainJob(tmp_path, tmp_path, "detclip_r50"), train_options("detclip_r50", TINY))
    told = task(job, train_options("tiny_detclip", {**TINY, "pairs": {"batch_size": 1}})).notes
    assert any("nothing to tell it from" in note for note in told)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["detclip_r50", "detclip_swin_t"])
@pytest.mark.parametrize("folder", ["reader", "embedder"])
def test_the_large_presets_read_with_a_bert_or_a_clip(preset: str, folder: str) -> None:
    card = LanguageCard(preset, (64, 64), str(READER.parent / folder))
    detector = build_model(blueprint(card).model).eval()
    with torch.inference_mode():
        found = detector.bbox_head.regions(detector.extract_feat(torch.zeros(1, 3, 64, 64)))
        words = detector.text_encoder(["a red mug", "a hat"])
    assert found.features.shape[-1] == words.shape[-1] == 256
    assert not any("visual" in name for name in detector.text_encoder.state_dict())


# With the store


def ended(store: Store, run: Run) -> Run:
    """The run with its only shard done."""
    shard = store.ledger.claim(run.id, "tester")
    assert shard is not None
    store.ledger.finish_shard(shard)
    store.ledger.conclude(run.id)
    return store.ledger.run(run.id)


@pytest.fixture
def trained_run(store: Store, dataset: Dataset) -> tuple[Run, Snapshot]:
    """A finished training whose detector is as it was made."""
    snapshot = store.snapshots.freeze("all", dataset.id)
    options = {"preset": "tiny_detclip", "snapshot_id": snapshot.id, "train": {}}
    run = store.ledger.create_run(
        RunKind.TRAIN, "test", dataset_id=dataset.id, recipe="", options=options, seed=0, versions={}
    )
    store.ledger.plan(run.id, [({}, 1)])
    run = ended(store, run)
    save_model(model_folder(store.home, run.id), model(), LanguageCard("tiny_detclip", (64, 48)))
    return run, snapshot


def test_a_worker_aligns_captions_and_is_not_asked_twice(store: Store, trained_run: tuple[Run, Snapshot]) -> None:
    run, snapshot = trained_run
    image = store.datasets.images(snapshot.dataset_id)[0]
    ask = Ask(image.id, "a red mug left of a blue ball")
    look = start_align(store, train_run_id=run.id, snapshot_id=snapshot.id, asks=[ask])
    evaluate(store, look, Quiet())
    (found,) = kept(store, store.ledger.run(look.id))
    assert (found.digest, found.caption) == (image.digest, ask.caption)
    assert [word.text for word in found.words] == [ask.caption, "a red mug", "a blue ball"]
    assert known(store, run.id, snapshot.id, ask) is None, "the run has not ended"
    ended(store, look)
    again = known(store, run.id, snapshot.id, ask)
    assert again is not None and again.id == look.id
    assert [one.id for one in aligners(store, snapshot.dataset_id)] == [run.id]
    with pytest.raises(WinnowError, match="no image 999"):
        odd = start_align(store, train_run_id=run.id, snapshot_id=snapshot.id, asks=[Ask(999, "a mug")])
        evaluate(store, odd, Quiet())


def test_a_vocabulary_is_looked_for_on_a_split(store: Store, trained_run: tuple[Run, Snapshot]) -> None:
    run, snapshot = trained_run
    words = {"mug": "mug, a cup with a handle", "zebra": "zebra"}
    look = start_evaluate(store, train_run_id=run.id, snapshot_id=snapshot.id, split="test", vocabulary=words)
    evaluate(store, look, Quiet())
    with pytest.raises(WinnowError, match="no finished look"):
        found_document(store, store.ledger.run(look.id))
    result = ended(store, look).result
    assert result["vocabulary"] == ["mug", "zebra"] and result["images"] == 2 and "mAP" not in result
    document = found_document(store, store.ledger.run(look.id))
    assert document["categories"] == [{"id": 1, "name": "mug"}, {"id": 2, "name": "zebra"}]
    assert (
        {note["image_id"] for note in document["annotations"]}
        <= {image["id"] for image in document["images"]}
        == {5, 6}
    )


def test_pairs_are_scored_by_the_detector_that_was_trained_here(
    store: Store, trained_run: tuple[Run, Snapshot]
) -> None:
    run, _ = trained_run
    dataset_id = run.dataset_id or 0
    context = Context(store, dataset_id)
    shard = leased(store, dataset_id)
    image_id = store.datasets.images(dataset_id)[0].id
    store.review.add_candidates(shard, propose(context, [image_id], 0), dataset_id)
    (judged,) = FILTERS["pair_alignment"].score(subjects(context, store.review.candidate_ids(shard.run_id)), context)
    assert judged.value is not None and -1 <= judged.value <= 1 and "fits its best region least" in judged.reason

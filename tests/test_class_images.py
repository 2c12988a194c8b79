"""Class images as candidates: of an imported folder, of images that are already there, what CLIP says, and what is
frozen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from db import formats
from db.errors import BadDataset, WinnowError
from db.records import Dataset, Decision, Kind, NewVerdict, Run
from db.store import Store
from engine import class_folders, class_images, runs
from engine.class_folders import add_class_images
from engine.filters import FILTERS
from engine.folder import training_folder
from engine.roles import Context
from engine.score import score
from engine.soft_labels import SCALE, class_texts, soft_labels, softmax, top
from engine.tabletop import Difficulty, paint
from tests.conftest import Quiet, leased

LEVEL = Difficulty(width=96, height=72, kinds=6, objects=(1, 1), sizes=(0, 0, 1), clutter=(0, 1), tail=0.0)


@pytest.fixture(scope="module")
def pictures() -> dict[str, list[np.ndarray]]:
    """Close views of mugs and balls."""
    found: dict[str, list[np.ndarray]] = {"mug": [], "ball": []}
    index = 0
    while min(map(len, found.values())) < 2:
        scene = paint(3, index, LEVEL)
        thing, index = scene.truth.objects[0], index + 1
        if thing.kind in found:
            x1, y1, x2, y2 = map(int, thing.box)
            found[thing.kind].append(scene.image[max(y1 - 4, 0) : y2 + 4, max(x1 - 4, 0) : x2 + 4])
    return found


@pytest.fixture
def folder(tmp_path: Path, pictures: dict[str, list[np.ndarray]]) -> Path:
    """Two mugs and two balls; the second ball lies among the mugs."""
    root = tmp_path / "web"
    for name, images in (("n1", [*pictures["mug"][:2], pictures["ball"][1]]), ("n2", pictures["ball"][:1])):
        (root / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Picture.fromarray(image).save(root / name / f"{number}.png")
    (root / "classes.csv").write_text("n1,mug\nn2,ball\n")
    return root


def worked(store: Store, run: Run) -> list[int]:
    """The candidates of the run, made and scored in this process."""
    for one in (run, *store.ledger.followers(run.id)):
        if not store.ledger.shards(one.id):
            store.ledger.plan(one.id, runs.plan(store, one))
        while shard := store.ledger.claim(one.id, "tester"):
            runs.execute(store, store.ledger.run(one.id), shard, Quiet())
            store.ledger.finish_shard(shard)
        store.ledger.conclude(one.id)
    return store.review.candidate_ids(run.id)


def test_a_folder_becomes_candidates_with_soft_labels(store: Store, dataset: Dataset, folder: Path) -> None:
    added = add_class_images(store, formats.read(folder), dataset.id, pack="pocket")
    made = store.review.candidates(worked(store, added.run))
    names = {category.id: category.name for category in store.datasets.categories(dataset.id)}
    assert added.images == len(made) == 4 and not added.faults
    for one in made:
        image = store.datasets.image(one.image_id)
        assert one.kind is Kind.CLASS_IMAGE and one.digest and image.split == "train"
        (box,) = one.content.boxes
        assert box.origin == "whole_image" and box.xyxy == (0, 0, one.content.width, one.content.height) == one.xyxy
        assert names[box.category_id or 0] == ("mug" if one.detail["file"].startswith("n1") else "ball")
        assert sum(share for _, share in one.detail["soft"]) == pytest.approx(1, abs=1e-3)
    by_file = {one.detail["file"]: one for one in made}
    values = {
        file: scores[0].value
        for file, one in by_file.items()
        if (scores := [s for s in store.review.scores_of([one.id])[one.id] if s.filter == "soft_agreement"])
    }
    assert values["n1/0.png"] > 0.9 and values["n2/0.png"] > 0.9 and values["n1/2.png"] < 0.5
    assert by_file["n1/2.png"].detail["soft"][0][0] == "ball"
    assert store.review.policies(dataset.id)[added.run.id].decide("class_image", {"soft_agreement": 0.05}) is False, (
        "the rule of the run"
    )


def test_the_same_files_are_not_added_twice_by_one_run(store: Store, dataset: Dataset, folder: Path) -> None:
    (folder / "n2" / "copy.png").write_bytes((folder / "n2" / "0.png").read_bytes())
    added = add_class_images(store, formats.read(folder), dataset.id, pack="pocket")
    assert added.images == 5 and len(worked(store, added.run)) == 4


def test_only_accepted_ones_are_trained_on(store: Store, dataset: Dataset, folder: Path, tmp_path: Path) -> None:
    added = add_class_images(store, formats.read(folder), dataset.id, pack="pocket")
    ids = worked(store, added.run)
    store.review.decide([NewVerdict(op_id="1", candidate_id=ids[0], decision=Decision.REJECT)])
    snapshot = store.snapshots.freeze("with", dataset.id, store.review.policies(dataset.id))
    training_folder(store, snapshot, tmp_path / "data")
    images = json.loads((tmp_path / "data" / "train.json").read_bytes())["images"]
    assert sum(image["whole_image"] for image in images) == 3, "one of four was rejected"
    held = json.loads((tmp_path / "data" / "val.json").read_bytes())["images"]
    assert not any(image["whole_image"] for image in held)


def test_classes_that_the_data_set_lacks_are_told(store: Store, dataset: Dataset, folder: Path) -> None:
    (folder / "classes.csv").write_text("n1,mug\nn2,zebra\n")
    with pytest.raises(BadDataset, match="'zebra'.*no class of small"):
        add_class_images(store, formats.read(folder), dataset.id, pack="pocket")
    added = add_class_images(store, formats.read(folder), dataset.id, pack="pocket", skip_bad=True)
    assert added.images == 3 and [fault.item for fault in added.faults] == ["class 'zebra'"]


def test_images_of_the_data_set_are_proposed_themselves(store: Store, folder: Path, dataset: Dataset) -> None:
    web = store.datasets.import_document(formats.read(folder), "web")
    context = Context(store, web.id, pack="pocket")
    ids = store.datasets.image_ids(web.id)
    made = class_images.propose(context, ids, seed=4)
    assert [one.image_id for one in made] == ids and all(one.digest is None for one in made)
    assert made == class_images.propose(context, ids, seed=4)
    assert made[0].detail["soft"][0][0] == "mug" and len(made[0].detail["soft"]) == 2
    shard = leased(store, web.id)
    store.review.add_candidates(shard, made, web.id)
    judged = score(context, store.review.candidate_ids(shard.run_id), ["soft_agreement"])
    assert [round(one.value or 0) for one in judged] == [1, 1, 0, 1]
    with pytest.raises(WinnowError, match="is no class image"):
        class_images.propose(Context(store, dataset.id), [store.datasets.image_ids(dataset.id)[0]], seed=0)


def test_without_an_embedder_there_is_no_soft_label(store: Store, folder: Path) -> None:
    web = store.datasets.import_document(formats.read(folder), "web")
    context = Context(store, web.id)
    made = class_images.propose(context, store.datasets.image_ids(web.id), seed=0)
    assert all("soft" not in one.detail for one in made)
    shard = leased(store, web.id)
    store.review.add_candidates(shard, made, web.id)
    judged = score(context, store.review.candidate_ids(shard.run_id), ["soft_agreement"])
    assert all(one.value is None and "no embedder" in one.reason for one in judged)
    assert FILTERS["soft_agreement"].roles == ("embedder",)


class Told:
    """An embedder of two dimensions: pictures by their mean red and green, texts by their first word."""

    name, precision, width, batch_size = "told", "fp32", 2, 4

    def images(self, images: list[np.ndarray]) -> np.ndarray:
        means = np.array([image[..., :2].mean((0, 1)) for image in images], np.float32)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def texts(self, texts: list[str]) -> np.ndarray:
        return np.array([[1.0, 0.0] if "red" in text else [0.6, 0.8] for text in texts], np.float32)


def test_the_formula_of_a_soft_label(tmp_path: Path) -> None:
    from engine.embeddings import Embeddings, Region

    remembered = Embeddings(tmp_path, Told())
    names = ["red_thing", "green"]
    texts = class_texts(remembered, names, ("a {}", "the {}"))
    assert np.allclose(texts, [[1, 0], [0.6, 0.8]])

    def load(digest: str) -> np.ndarray:
        if digest == "lost":
            raise WinnowError("the blob is lost")
        return np.full((4, 4, 3), (30, 40, 0), np.uint8)

    found = soft_labels(remembered, [Region("a"), Region("lost")], texts, load, scale=10)
    assert np.allclose(found.shares[0], softmax(np.array([10 * 0.6, 10 * (0.36 + 0.64)])), atol=1e-5)
    assert found.unread == {1: "the blob is lost"} and SCALE == 100
    assert top(found.shares[0], names, 1) == [["green", round(float(found.shares[0, 1]), 4)]]


def test_the_recipe_of_the_run_can_be_read() -> None:
    from engine.recipe import parse

    recipe = parse(class_folders.RECIPE, "here")
    assert recipe.filters == ("soft_agreement", "near_duplicate"), "of the first also what is in the data set already"

"""Class images from a folder of classes, added to a data set as candidates: what is wrong among them is rejected like
anything else, and the data set itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from db.document import Document
from db.errors import BadDataset
from db.records import Category, Fault, Run, RunKind
from db.store import Store
from engine import runs
from engine.class_images import Given
from engine.packs import load_pack
from engine.provenance import versions
from engine.recipe import parse

PER_SHARD = 256
TRAIN = "train"
RECIPE = """\
name: class_images
title: Class images from a folder
summary: Imported images of one class each, boxed as a whole.
needs: a folder of images for each class
cost: nothing but reading them
targets: {of: images}
steps: [{kind: class_image}]
images: {describe: as_is, boxes: whole_image}
filters: [soft_agreement, near_duplicate]
policy: [{filter: soft_agreement, at_least: 0.1}, {filter: near_duplicate, at_most: 0.98}]
"""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Added:
    """The run whose candidates the images become, how many there are, and what was left out."""

    run: Run
    images: int
    faults: tuple[Fault, ...]


def add_class_images(
    store: Store,
    document: Document,
    dataset_id: int,
    *,
    pack: str,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Added:
    """Store the images of a document of the format "classfolder", and queue the run that makes candidates of them and
    the one that scores these.

    Its classes must be classes of the data set, by name. Raises BadDataset with every fault, unless `skip_bad`, and
    when nothing is left; WinnowError for a pack that cannot run here."""
    recipe = parse(RECIPE, "the recipe of class images")
    load_pack(pack, store.home)
    known = {category.name: category for category in store.datasets.categories(dataset_id)}
    faults = [*document.faults, *_unknown(document, known, store.datasets.get(dataset_id).name)]
    if faults and not skip_bad:
        raise BadDataset(faults)
    total = sum(1 for _ in document.images())
    files = []
    for number, file in enumerate(_stored(store, document, known, _lenders(store, dataset_id)), 1):
        files.append(file)
        if progress is not None:
            progress(number, total)
    if not files:
        raise BadDataset(faults)
    policy = store.review.save_policy(recipe.name, recipe.rules())
    run = store.ledger.create_run(
        RunKind.GENERATE,
        recipe.title,
        dataset_id=dataset_id,
        recipe=recipe.text,
        options={"recipe": recipe.name, "pack": pack, "policy_id": policy.id, "amount": None, "preview": False},
        seed=seed,
        versions=versions(),
    )
    parts = [files[start : start + PER_SHARD] for start in range(0, len(files), PER_SHARD)]
    store.ledger.plan(run.id, [({"class_images": msgspec.to_builtins(part)}, len(part)) for part in parts])
    runs.start_filter(store, dataset_id=dataset_id, filters=recipe.filters, of_run=run)
    return Added(store.ledger.run(run.id), len(files), tuple(faults))


def _unknown(document: Document, known: dict[str, Category], dataset: str) -> Iterator[Fault]:
    """The classes that the data set does not have."""
    for category in document.categories:
        if category.name not in known:
            yield Fault(
                file=document.format,
                item=f"class {category.name!r}",
                seen=f"no class of {dataset}",
                expected="one of its classes, named by a line folder,class in classes.csv",
            )


def _stored(
    store: Store, document: Document, known: dict[str, Category], lenders: dict[int | None, int]
) -> Iterator[Given]:
    """The images whose class is known, their files stored."""
    names = {category.id: category.name for category in document.categories}
    for image, boxes, _ in document.samples():
        category = known.get(names[boxes[0].category_id or 0])
        path = document.file_of(image)
        if category is None or path is None:
            continue
        yield Given(
            digest=store.blobs.put(path.read_bytes()),
            category_id=category.id,
            width=image.width,
            height=image.height,
            image_id=lenders.get(category.id, lenders[None]),
            name=image.file_name,
            suffix=Path(image.file_name).suffix.lstrip(".").lower(),
        )


def _lenders(store: Store, dataset_id: int) -> dict[int | None, int]:
    """By class, an image of the training split that has it; of None any image of that split, else of the data set."""
    trained = TRAIN if TRAIN in store.datasets.splits(dataset_id) else None
    document = store.datasets.document(dataset_id, trained)
    found: dict[int | None, int] = {}
    for image, boxes, _ in document.samples():
        found.setdefault(None, image.id)
        for box in boxes:
            found.setdefault(box.category_id, image.id)
    return found

"""What a recipe works on: boxes, scenes or phrases, chosen by eligibility, then ordered by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

from db.records import XYXY, Box, Image, Phrase
from db.store import Store
from engine.recipe import Targets
from engine.seeds import seed_of

CHUNK = 500


def choose(
    store: Store, dataset_id: int, rules: Targets, *, seed: int, amount: int | None, boxed: bool = False
) -> list[str]:
    """Target keys, `box:ID`, `image:ID` or `phrase:ID`, in the order of work; at most `amount`. Of concepts they are
    `words:NUMBER`, of classes `class:ID:NUMBER`, with `boxed` only of those of which there is a box.

    The order depends on the seed alone, so a smaller amount is a prefix of a larger one: a preview shows what the
    whole run begins with.
    """
    if rules.of == "concepts":
        return [f"words:{number}" for number in range(rules.count if amount is None else amount)]
    if rules.of == "classes":
        return [key for row in _of_classes(store, dataset_id, rules, seed, boxed) for key in row][:amount]
    groups: dict[int | None, list[str]] = {}
    for key, category_id in _eligible(store, dataset_id, rules):
        groups.setdefault(category_id if rules.balance else None, []).append(key)
    shuffled = [
        sorted(keys, key=lambda key: seed_of(seed, key))
        for _, keys in sorted(groups.items(), key=lambda item: item[0] or 0)
    ]
    taking_turns = [key for row in zip_longest(*shuffled) for key in row if key is not None]
    return taking_turns if amount is None else taking_turns[:amount]


def choose_by_class(
    store: Store, dataset_id: int, rules: Targets, *, seed: int, classes: Mapping[int, str]
) -> dict[str, list[str]]:
    """Target keys by class name, each list in the order of work. A phrase counts for the class of the one box it names."""
    found: dict[str, list[str]] = {name: [] for name in classes.values()}
    if rules.of == "classes":
        return {name: [f"class:{i}:{number}" for number in range(rules.count)] for i, name in classes.items()}
    for key, category_id in _eligible(store, dataset_id, rules):
        if category_id is not None and category_id in classes:
            found[classes[category_id]].append(key)
    return {name: sorted(keys, key=lambda key: seed_of(seed, key)) for name, keys in found.items()}


def _of_classes(store: Store, dataset_id: int, rules: Targets, seed: int, boxed: bool) -> Iterator[list[str]]:
    """The classes again and again: with `balance` those of the fewest images first, else in an order of the seed."""
    ids = [category.id for category in store.datasets.categories(dataset_id)]
    ids.sort(key=lambda i: seed_of(seed, f"class:{i}"))
    if rules.balance or boxed:
        images = _images_by_class(store, dataset_id, rules.splits)
        ids = [i for i in ids if images[i] or not boxed]
        ids.sort(key=lambda i: images[i] if rules.balance else 0)
    for number in range(rules.count):
        yield [f"class:{i}:{number}" for i in ids]


def _images_by_class(store: Store, dataset_id: int, splits: Sequence[str]) -> Counter[int]:
    """In how many images each class has a box."""
    found: Counter[int] = Counter()
    for images in _chunks(store, dataset_id, splits):
        for boxes in store.datasets.boxes_of([image.id for image in images]).values():
            found.update({box.category_id for box in boxes if box.category_id is not None})
    return found


def _eligible(store: Store, dataset_id: int, rules: Targets) -> Iterator[tuple[str, int | None]]:
    for images in _chunks(store, dataset_id, rules.splits):
        ids = [image.id for image in images]
        boxes, phrases = store.datasets.boxes_of(ids), store.datasets.phrases_of(ids)
        for image in images:
            here = boxes.get(image.id, [])
            texts = [phrase for phrase in phrases.get(image.id, []) if phrase.holds]
            if rules.of == "images":
                yield f"image:{image.id}", None
            elif rules.of == "phrases" and texts:
                classes = {box.id: box.category_id for box in here}
                yield from (
                    (f"phrase:{p.id}", classes.get(p.box_ids[0]) if len(p.box_ids) == 1 else None) for p in texts
                )
            elif rules.of == "scenes":
                if any(paintable(box, image, here, rules) for box in here):
                    yield f"image:{image.id}", None
            else:
                yield from ((f"box:{box.id}", box.category_id) for box in here if paintable(box, image, here, rules))


def _chunks(store: Store, dataset_id: int, splits: Sequence[str]) -> Iterator[list[Image]]:
    present = store.datasets.splits(dataset_id)
    wanted: Iterable[str | None] = [split for split in splits if split in present] or [None]
    for split in wanted:
        after = 0
        while images := store.datasets.images(dataset_id, split=split, after=after, limit=CHUNK):
            yield [image for image in images if image.digest]
            after = images[-1].id


def paintable(box: Box, image: Image, others: Iterable[Box], rules: Targets) -> bool:
    """Whether repainting this box is likely to work and destroys no other annotation (METHODS 1.2 F1)."""
    x1, y1, x2, y2 = box.xyxy
    width, height = x2 - x1, y2 - y1
    if box.crowd or box.category_id is None or min(width, height) < max(rules.min_side, 1e-6):
        return False
    share = width * height / (image.width * image.height)
    if not rules.min_area <= share <= rules.max_area or max(width, height) > rules.max_aspect * min(width, height):
        return False
    return all(iou(box.xyxy, other.xyxy) <= rules.max_overlap for other in others if other.id != box.id)


def iou(a: XYXY, b: XYXY) -> float:
    """Intersection over union of two boxes, in [0, 1]; 0 for boxes without area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


class Scene:
    """An image of the store with everything annotated on it."""

    def __init__(self, store: Store, image_id: int) -> None:
        self.image = store.datasets.image(image_id)
        self.boxes: list[Box] = store.datasets.boxes_of([image_id]).get(image_id, [])
        self.phrases: list[Phrase] = store.datasets.phrases_of([image_id]).get(image_id, [])

    def box(self, box_id: int) -> Box:
        return next(box for box in self.boxes if box.id == box_id)

    def phrase(self, phrase_id: int) -> Phrase:
        return next(phrase for phrase in self.phrases if phrase.id == phrase_id)

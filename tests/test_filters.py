"""Each filter on an obviously good and an obviously bad candidate, and what it says when it cannot judge."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from db.document import Document
from db.errors import WinnowError
from db.records import Box, Candidate, Category, Dataset, Image, Kind, Phrase
from db.store import Store
from engine.detections import Detections
from engine.filters import FILTERS, Filter, Judgement
from engine.roles import Context
from engine.subject import Subject, subjects
from tests.conftest import candidates, leased

WIDTH, HEIGHT = 160, 120
CATEGORIES = {1: "mug", 2: "ball"}
BOXES = (
    Box(id=1, image_id=1, xyxy=(10, 10, 50, 60), category_id=1),
    Box(id=2, image_id=1, xyxy=(80, 40, 140, 100), category_id=2),
)
PICTURE = Image(id=1, file_name="one.png", width=WIDTH, height=HEIGHT, digest="before")


def scene(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 200, (6, 8, 3), dtype=np.uint8)
    smooth = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.clip(smooth + rng.normal(0, 3, smooth.shape), 5, 245).astype(np.uint8)


def subject(
    before: np.ndarray | None = None,
    after: np.ndarray | None = None,
    *,
    texts: tuple[str | None, str | None] = (None, None),
    phrases: Sequence[str | Phrase] = (),
    boxes: Sequence[Box] = BOXES,
    categories: dict[int, str] = CATEGORIES,
    **changes: object,
) -> Subject:
    images = {"before": scene() if before is None else before, "after": scene() if after is None else after}
    values = {
        "id": 1,
        "run_id": 1,
        "dataset_id": 1,
        "created_at": 0.0,
        "target": "box:1/instance",
        "variant": 0,
        "kind": Kind.INSTANCE,
        "image_id": 1,
        "seed": 0,
        "category_id": 1,
        "box_id": 1,
        "xyxy": (10.0, 10.0, 50.0, 60.0),
        "digest": "after",
        "detail": {"touched": [[6, 6, 54, 64]]},
    }
    candidate = Candidate(**{**values, "text_before": texts[0], "text_after": texts[1], **changes})
    said = (one if isinstance(one, Phrase) else Phrase(id=i, image_id=1, text=one) for i, one in enumerate(phrases))
    return Subject(candidate, PICTURE, tuple(boxes), tuple(said), categories, images.__getitem__)


def judge(name: str, one: Subject, context: Context | None = None) -> Judgement:
    return FILTERS[name].score([one], context)[0]  # type: ignore[arg-type]


def passes(name: str, one: Subject, context: Context | None = None) -> bool | None:
    judgement = judge(name, one, context)
    assert judgement.reason and len(judgement.reason) < 200
    return FILTERS[name].default.passes(judgement.value)


def edited(inside: np.ndarray | int, seed: int = 0) -> np.ndarray:
    image = scene(seed)
    image[10:60, 10:50] = inside
    return image


def blended() -> np.ndarray:
    """Another content that fades into the image at its rim."""
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.float32)
    alpha[18:52, 18:42] = 1
    alpha = cv2.GaussianBlur(alpha, (0, 0), 2)[..., None]
    return np.rint(scene() * (1 - alpha) + scene(1) * alpha).astype(np.uint8)


def damaged() -> np.ndarray:
    image = edited(0)
    image[110, 150, 1] += 1
    return image


SMALL_FLAT = np.full((50, 40, 3), 128, np.uint8)
IMAGE_CASES = [
    ("outside_change", edited(0), True, "nothing outside has changed"),
    ("outside_change", damaged(), False, "one pixel by one"),
    ("seam", blended(), True, "fades in"),
    ("seam", edited(0), False, "a black rectangle"),
    ("sharpness", scene(), True, "as sharp as the rest"),
    ("sharpness", edited(SMALL_FLAT), False, "no detail at all"),
    ("exposure", scene(), True, "ordinary"),
    ("exposure", edited(255), False, "white"),
    ("exposure", edited(0), False, "black"),
]


@pytest.mark.parametrize(("name", "after", "good", "why"), IMAGE_CASES)
def test_pixels(name: str, after: np.ndarray, good: bool, why: str) -> None:
    assert passes(name, subject(scene(), after)) is good, why


def test_a_harder_edge_gives_a_larger_seam() -> None:
    contrast = [
        judge("seam", subject(scene(), edited(np.clip(scene()[10:60, 10:50] + np.uint8(step), 0, 255)))).value
        for step in (0, 8, 24, 50)
    ]
    assert contrast == sorted(contrast) and contrast[0] == 0  # type: ignore[type-var]


def test_more_blur_gives_less_sharpness() -> None:
    values = [
        judge("sharpness", subject(after=edited(cv2.GaussianBlur(scene(), (0, 0), s)[10:60, 10:50]))).value
        for s in (0.3, 1, 3)
    ]
    assert values == sorted(values, reverse=True) and len(set(values)) == 3  # type: ignore[type-var]


OVERLAPS = [((10.0, 10.0, 50.0, 60.0), 0.0), ((80.0, 40.0, 110.0, 100.0), 0.5), ((70.0, 30.0, 150.0, 110.0), 1.0)]


@pytest.mark.parametrize(("xyxy", "share"), OVERLAPS)
def test_overlap_is_the_covered_share_of_another_box(xyxy: tuple[float, ...], share: float) -> None:
    assert judge("overlap", subject(xyxy=xyxy)).value == pytest.approx(share)


UNJUDGED = [
    ("text_duplicate", subject(), "no text"),
    ("overlap", subject(xyxy=None), "no box"),
    ("outside_change", subject(detail={}), "touched"),
    ("outside_change", subject(scene(), scene()[:100]), "size"),
    ("seam", subject(digest=None), "no image"),
    ("sharpness", subject(xyxy=(500.0, 500.0, 510.0, 510.0)), "outside its image"),
    ("sharpness", subject(after=np.zeros((HEIGHT, WIDTH, 3), np.uint8)), "no detail"),
]


@pytest.mark.parametrize(("name", "one", "words"), UNJUDGED)
def test_what_cannot_be_judged_has_no_value_but_a_reason(name: str, one: Subject, words: str) -> None:
    judgement = judge(name, one)
    assert judgement.value is None and words in judgement.reason


def unreadable(digest: str) -> np.ndarray:
    raise WinnowError(f"blob {digest} cannot be read")


def test_an_unreadable_image_names_its_blob() -> None:
    judgement = judge("seam", replace(subject(), load=unreadable))
    assert judgement.value is None and "blob before" in judgement.reason


def test_a_value_that_is_no_number_is_a_bug() -> None:
    broken = replace(FILTERS["seam"], judge=lambda subjects, context: [Judgement(float("nan"), "oops")])
    with pytest.raises(ValueError, match="oops"):
        broken.score([subject()], None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Trained(Context):
    """A context with a detector that sees what it is told."""

    sees: Detections | None = None

    def detector(self) -> "Trained | None":
        return None if self.sees is None else self

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        assert self.sees is not None
        return [self.sees] * len(images)


def seen(*rows: tuple[tuple[float, ...], float, int], names: tuple[str, ...] = ("mug", "ball")) -> Detections:
    return Detections(
        xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.array([row[2] for row in rows], np.int64),
        names=names,
    )


MATCH, OFF = (12.0, 12.0, 50.0, 60.0), (60.0, 60.0, 90.0, 90.0)
DETECTIONS = [
    (seen((MATCH, 0.9, 0)), True, "it agrees"),
    (seen((MATCH, 0.9, 1)), False, "another class"),
    (seen((MATCH, 0.05, 0)), False, "not sure enough"),
    (seen((OFF, 0.9, 0)), False, "elsewhere"),
    (seen((OFF, 0.9, 0), (MATCH, 0.2, 0)), True, "the best one counts"),
    (seen(), False, "nothing seen"),
    (seen((MATCH, 0.9, 0), names=("cup",)), None, "class unknown to it"),
    (None, None, "no detector yet"),
]


@pytest.mark.parametrize(("sees", "good", "why"), DETECTIONS)
def test_detector_agreement(store: Store, sees: Detections | None, good: bool | None, why: str) -> None:
    assert passes("detector_agreement", subject(), Trained(store, 1, sees=sees)) is good, why


def test_usual_sizes_are_learnt_from_the_data_set(store: Store) -> None:
    rng = np.random.default_rng(0)
    pictures = [Image(id=i, file_name=f"{i}.jpg", width=WIDTH, height=HEIGHT) for i in range(20)]
    places = [(x, y, x + 40 + d, y + 50 - d) for x, y, d in rng.uniform(0, 60, (20, 3)) * (1, 1, 0.1)]
    boxes = [Box(id=i, image_id=i, xyxy=xyxy, category_id=0) for i, xyxy in enumerate(places)]
    kinds = [Category(id=0, name="mug"), Category(id=1, name="ball")]
    made = Document(format="coco", categories=kinds, images=lambda: pictures, boxes=lambda: boxes, phrases=lambda: ())
    context = Context(store, store.datasets.import_document(made, "sizes").id)
    mug, ball = (category.id for category in store.datasets.categories(context.dataset_id))
    assert passes("plausible_size", subject(category_id=mug, xyxy=(30.0, 30.0, 72.0, 78.0)), context) is True
    for xyxy in (
        (30.0, 30.0, 34.0, 35.0),
        (0.0, 50.0, 160.0, 60.0),
        (0.0, 0.0, 160.0, 120.0),
        (30.0, 30.0, 30.0, 40.0),
    ):
        assert passes("plausible_size", subject(category_id=mug, xyxy=xyxy), context) is False
    assert passes("plausible_size", subject(category_id=ball), context) is None


@pytest.mark.parametrize("chosen", FILTERS.values(), ids=FILTERS)
def test_every_filter_introduces_itself(chosen: Filter) -> None:
    assert FILTERS[chosen.name] is chosen and chosen.default.filter == chosen.name
    assert chosen.kinds and chosen.title and chosen.help.endswith(".")
    rule = chosen.default
    assert (rule.at_least if chosen.better == "higher" else rule.at_most) is not None


def test_stored_candidates_become_subjects(store: Store, dataset: Dataset, tmp_path: Path) -> None:
    ids = candidates(store, dataset.id, leased(store, dataset.id), 3)
    found = subjects(Context(store, dataset.id), list(reversed(ids)))
    assert [one.candidate.id for one in found] == list(reversed(ids))
    assert found[0].category == "mug" and len(found[0].boxes) == 2 and found[0].phrases
    assert (
        found[0].before.shape == (120, 160, 3)
        and found[0].after is not None
        and (found[0].after == found[0].before).all()
    )
    assert judge("seam", found[0]) == Judgement(0.0, "nothing was changed")

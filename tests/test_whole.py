"""Whole images: what recipes make of a data set without any model, with a chat model and a detector that are played."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from conftest import Quiet, small_document
from hypothesis import given, settings
from hypothesis import strategies as st

from db.errors import WinnowError
from db.records import WHOLE, Candidate, Category, Dataset, Decision, NewVerdict
from db.store import Store
from engine import phrases
from engine.chat import Usage
from engine.detections import Detections
from engine.layout import CELLS, MOST_SHARED, lay_out, place_of, place_said
from engine.packs import Pack, Role
from engine.pixels import decode
from engine.prompts import Prompt
from engine.recipe import Recipe, load, parse
from engine.roles import Context, Drawn, DrawTask
from engine.run_report import lines, report
from engine.runs import conclude, execute, plan, start_again, start_generate
from engine.targets import choose, iou
from engine.whole import WholeImages, prompts_of, refusal

RECIPES = ("synground", "richsem", "detclip_pairs")


def finish(store: Store, run_id: int) -> Quiet:
    """Work through a run and its scoring as a worker does; what it says."""
    control = Quiet()
    for run in (store.ledger.run(run_id), *store.ledger.followers(run_id)):
        if not store.ledger.shards(run.id):
            store.ledger.plan(run.id, plan(store, run))
        while shard := store.ledger.claim(run.id, "tester"):
            execute(store, store.ledger.run(run.id), shard, control)
            store.ledger.finish_shard(shard)
        conclude(store, store.ledger.run(run.id))
        store.ledger.conclude(run.id)
    return control


def made(store: Store, dataset: Dataset, recipe: Recipe, **options: object) -> list[Candidate]:
    run = start_generate(store, dataset_id=dataset.id, recipe=recipe, **{"pack": "classic", "amount": 4, **options})
    finish(store, run.id)
    return store.review.candidates(store.review.candidate_ids(run.id))


def changed(name: str, **values: object) -> Recipe:
    """A shipped recipe with other values of `images`, `targets` or anything else."""
    known = yaml.safe_load(load(name).text)
    for key, value in values.items():
        known[key] = {**known[key], **value} if isinstance(value, dict) else value
    return parse(yaml.safe_dump(known))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_make_images_without_a_model(store: Store, dataset: Dataset, name: str) -> None:
    candidates = made(store, dataset, load(name))
    assert len(candidates) == 4
    for one in candidates:
        assert one.kind in WHOLE and one.digest is not None
        content = one.content
        assert decode(store.blobs.get(one.digest)).shape == (content.height, content.width, 3)
        assert all(content.caption[a:b] for named in content.phrases for a, b in named.spans)
        assert all(i < len(content.boxes) for named in content.phrases for i in named.boxes)
        for box in content.boxes:
            x1, y1, x2, y2 = box.xyxy
            assert 0 <= x1 < x2 <= content.width and 0 <= y1 < y2 <= content.height


def test_a_triplet_has_the_boxes_of_the_collage(store: Store, dataset: Dataset) -> None:
    (one,) = made(store, dataset, load("synground"), amount=1)
    content = one.content
    assert content.caption.lower().startswith(("a red mug", "a ball"))
    assert [(named.text.lower(), len(named.boxes)) for named in content.phrases] in (
        [("a red mug", 1), ("a ball", 1)],
        [("a ball", 1), ("a red mug", 1)],
    )
    assert {box.origin for box in content.boxes} == {"layout"} and one.detail["strategy"] == "image2text"
    assert one.detail["synthetic"] == {"image": False, "words": False, "boxes": True} and one.detail["purity"] == 0.3333


def test_class_images_begin_with_the_rarest(store: Store, dataset: Dataset) -> None:
    candidates = made(store, dataset, load("richsem"), amount=3)
    names = {category.id: category.name for category in store.datasets.categories(dataset.id)}
    assert sorted(names[one.category_id or 0] for one in candidates[:2]) == ["ball", "mug"]
    for one in candidates:
        (box,) = one.content.boxes
        assert box.xyxy == (0, 0, one.content.width, one.content.height)
        assert (box.origin, box.category_id, one.content.caption) == ("whole_image", one.category_id, "")


def test_pairs_have_no_boxes(store: Store, dataset: Dataset) -> None:
    for one in made(store, dataset, load("detclip_pairs")):
        assert one.content.boxes == () and one.content.phrases and one.target.startswith("words:")


def test_the_same_seed_makes_the_same_and_another_does_not(store: Store, dataset: Dataset) -> None:
    one, same, other = (made(store, dataset, load("detclip_pairs"), seed=seed) for seed in (1, 1, 2))
    assert [c.digest for c in one] == [c.digest for c in same] != [c.digest for c in other]
    assert [c.detail["content"] for c in one] == [c.detail["content"] for c in same]


def test_again_makes_another_one_in_own_words(store: Store, dataset: Dataset) -> None:
    (first,) = made(store, dataset, load("synground"), amount=1)
    run = start_again(store, first.id, wording="A ball in the middle.")
    finish(store, run.id)
    (second,) = store.review.candidates(store.review.candidate_ids(run.id))
    assert (second.target, second.variant, second.content.caption) == (first.target, 1, "A ball in the middle.")
    assert second.detail["words"] == {"by": "person"} and second.digest != first.digest


def test_captions_are_joined_for_the_control(store: Store, dataset: Dataset) -> None:
    (one,) = made(store, dataset, changed("synground", images={"describe": "concatenation"}), amount=1)
    assert one.content.caption == "a red mug left of a blue ball."


def test_they_are_scored_and_kept_by_the_policy(store: Store, dataset: Dataset) -> None:
    run = start_generate(store, dataset_id=dataset.id, recipe=load("synground"), pack="classic", amount=2)
    finish(store, run.id)
    for values in store.review.scores_of(store.review.candidate_ids(run.id)).values():
        scores = {score.filter: score for score in values}
        assert scores["phrase_coverage"].value == 1.0
        assert scores["least_score"].value is None and "no detector" in scores["least_score"].reason


def test_the_report_counts_phrases_without_boxes_and_boxes_without_phrases(store: Store, dataset: Dataset) -> None:
    one, *_ = made(store, dataset, load("synground"), amount=2)
    (red, ball) = one.content.phrases
    left = msgspec.structs.replace(one.content, phrases=(red, msgspec.structs.replace(ball, boxes=())))
    edit = {"content": msgspec.to_builtins(left)}
    store.review.decide([NewVerdict(op_id="e", candidate_id=one.id, decision=Decision.EDIT, edit=edit)])
    found = report(store, one.run_id)
    assert found.coverage is not None and found.purity is not None
    assert (found.coverage.images, found.coverage.phrases, found.coverage.boxes) == (2, 4, 4)
    assert (found.coverage.unboxed, found.coverage.unnamed) == (1, 1)
    assert found.coverage.missed == ((ball.text.lower(), 1),)
    assert (found.purity.synthetic, found.purity.real) == (found.whole.accepted, 6)
    told = " ".join(lines(found))
    assert "1 of 4 phrases have no box, 1 of 4 boxes are named by no phrase" in told and "Synthetic purity 33%" in told


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("synground", {"targets": {"of": "classes"}}, "works on targets of `images`"),
        ("synground", {"images": {"boxes": "none"}}, "takes boxes from detector or layout"),
        ("synground", {"steps": [{"kind": "instance"}]}, "one step: triplet, class_image or pair"),
        ("richsem", {"steps": [{"kind": "pair"}]}, "takes boxes from none"),
        ("richsem", {"images": {"template": "a photo"}}, "must name [$]name"),
        ("detclip_pairs", {"images": {"colour": 1}}, "Extra inputs"),
    ],
)
def test_recipes_that_do_not_agree_are_refused(name: str, values: dict[str, object], said: str) -> None:
    with pytest.raises(WinnowError, match=said):
        changed(name, **values)


def test_what_the_pack_cannot_do_is_said_before_anything_is_queued(store: Store, dataset: Dataset) -> None:
    with pytest.raises(WinnowError, match="needs a chat model"):
        made(store, dataset, changed("synground", images={"describe": "text2text"}))
    assert store.ledger.runs() == []


def test_rare_classes_come_first_and_all_in_turn(store: Store, dataset: Dataset) -> None:
    rules = load("richsem").targets
    keys = choose(store, dataset.id, rules, seed=0, amount=None)
    assert len(keys) == 2 * rules.count and keys[:4:2] == [keys[0], keys[0][:-1] + "1"]
    assert choose(store, dataset.id, rules, seed=0, amount=5) == keys[:5]


def test_what_a_collage_cannot_show_is_not_asked_of_it(store: Store, tmp_path: Path) -> None:
    document = small_document(tmp_path / "document")
    kite = Category(id=2, name="kite", source_id=3)
    dataset = store.datasets.import_document(replace(document, categories=[*document.categories, kite]), "kites")
    drawn = made(store, dataset, load("detclip_pairs"), amount=8)
    assert len(drawn) == 8 and not any("kite" in one.content.caption for one in drawn)
    names = {category.id: category.name for category in store.datasets.categories(dataset.id)}
    assert {names[one.category_id or 0] for one in made(store, dataset, load("richsem"), amount=6)} == {"mug", "ball"}
    rules = load("richsem").targets
    first, *_ = choose(store, dataset.id, rules, seed=0, amount=1)
    assert names[int(first.split(":")[1])] == "kite", "an illustrator that is a model draws it, and it is the rarest"


# Places and phrases


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from([None, *(words for words, _, _ in CELLS)]), max_size=9),
    st.tuples(st.integers(48, 700), st.integers(48, 700)),
    st.integers(0, 2**32 - 1),
)
def test_things_lie_apart_inside_and_where_it_was_said(
    places: list[str | None], size: tuple[int, int], seed: int
) -> None:
    boxes = lay_out(places, size, seed)
    assert boxes == lay_out(places, size, seed) and len(boxes) == len(places)
    there = [box for box in boxes if box is not None]
    for box in there:
        assert 0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]
    assert all(iou(a, b) <= MOST_SHARED for i, a in enumerate(there) for b in there[:i])


@given(st.integers(0, 90), st.integers(0, 90), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_places_are_said_and_understood(x: int, y: int, size: tuple[int, int]) -> None:
    said = place_of((x, y, x + size[0], y + size[1]), (100, 100))
    text = f"a mug {said} and a ball"
    assert place_said(text, 5, len(text)) == said
    assert place_said("a mug and a ball", 5, 16) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A red mug on the left and a lamp at the top.", ["A red mug", "a lamp"]),
        ("A scene with a dog in the background.", ["a dog"]),
        ("a mug beside a mug", ["a mug"]),
        ("a very old and rusty big long red metal fire truck", []),
    ],
)
def test_phrases_are_short_and_name_things(text: str, said: list[str]) -> None:
    assert [named.text for named in phrases.chunks(text)] == said


def test_what_is_said_twice_has_two_places() -> None:
    (mug,) = phrases.chunks("a mug beside a mug")
    assert mug.spans == ((0, 5), (13, 18))


def test_listed_phrases_are_found_in_the_text_or_named_as_missing() -> None:
    named, missing = phrases.found("A dog and a red ball.", ["a Dog", "red ball", "cat", " "])
    assert [(one.text, one.spans) for one in named] == [("A dog", ((0, 5),)), ("red ball", ((12, 20),))]
    assert missing == ["cat"]


# With models: a chat model, a detector and an illustrator that are played


class Chat:
    """Says the concepts it was given as a description, and two phrases of which one does not stand in it."""

    usage = Usage()

    def answer(self, prompt: Prompt, asked: list[tuple[dict[str, str], int]]) -> list[object]:
        if prompt.purpose == "phrases":
            return [["a red mug", "a unicorn"] for _ in asked]
        return [f"Here is a red mug with {known['concepts']}." for known, _ in asked]


class Sees:
    """Finds each phrase twice, surely and hardly."""

    def find(self, images: list[np.ndarray], phrases: list[list[str]]) -> list[Detections]:
        boxes = np.array([[1, 2, 30, 40], [50, 50, 90, 80]], np.float32)
        scores, labels = np.array([0.9, 0.2], np.float32), np.zeros(2, np.int64)
        return [Detections(boxes, scores, labels, tuple(some)) for some in phrases]


class Draws:
    heeds_layout, size = False, (96, 96)

    def draw(self, tasks: list[DrawTask]) -> list[Drawn | str]:
        self.tasks = tasks
        plain = np.zeros((96, 96, 3), np.uint8)
        return ["withheld" if task.seed % 2 else Drawn(plain, detail={"model": "played"}) for task in tasks]


def with_models(store: Store, dataset: Dataset, recipe: Recipe) -> tuple[WholeImages, Draws]:
    roles = {
        "writer": Role(backend="hf_text"),
        "detector": Role(backend="hf_detector"),
        "illustrator": Role(backend="hf_illustrator"),
    }
    pack = Pack(name="played", title="", summary="", needs="", **roles)
    maker, draws = WholeImages(Context(store, dataset.id), recipe, pack, seed=3), Draws()
    maker._spent_before = Usage()
    maker._loaded = {"writer": Chat(), "detector": Sees(), "illustrator": draws}
    return maker, draws


def test_concepts_become_a_description_with_phrases_and_sure_boxes(store: Store, dataset: Dataset) -> None:
    recipe = changed("synground", targets={"of": "concepts"}, images={"describe": "concept2text", "concepts": ["kite"]})
    maker, draws = with_models(store, dataset, recipe)
    results = maker.make([f"words:{i}" for i in range(8)])
    done = [one for result in results for one in result.candidates]
    assert done and len(done) + sum(len(result.failures) for result in results) == 8
    assert {text for result in results for text in result.failures} <= {f"words:{i}: withheld" for i in range(8)}
    for one in done:
        content = one.content
        assert content.caption == "Here is a red mug with kite."
        assert [(named.text, named.boxes) for named in content.phrases] == [("a red mug", (0,))]
        assert [(box.xyxy, box.origin) for box in content.boxes] == [((1.0, 2.0, 30.0, 40.0), "detector")]
        assert one.detail["phrases"]["not_in_text"] == ["a unicorn"] and one.detail["purity"] == 1.0
        assert one.detail["words"]["prompt"] == "concept2text" and one.detail["words"]["concepts"] == ["kite"]
    assert all(task.layout == () for task in draws.tasks)


def test_prompts_are_those_of_the_way_it_is_described() -> None:
    pack = Pack(name="played", title="", summary="", needs="", writer=Role(backend="hf_text"))
    quiet = pack.model_copy(update={"converses": False})
    summed = changed("synground", images={"describe": "text2text"})
    assert prompts_of(summed, pack) == ["text2text", "phrases"] and prompts_of(summed, quiet) == []
    assert prompts_of(load("richsem"), pack) == []
    assert refusal(summed.images, quiet) == (
        "`describe: text2text` needs a chat model, and the writer of the pack 'played' is none."
    )

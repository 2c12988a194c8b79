"""Whole images: described, drawn, taken apart into phrases and boxed (METHODS 2.2, 3.2 point 5, 4.2).

Each new image goes through the same five steps, many together so that models can batch: words, phrases, layout, picture,
boxes. Everything that decides what is made is a function of (run seed, target, variant).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from string import Template
from typing import Any

import numpy as np
from msgspec import to_builtins

from db.errors import WinnowError
from db.records import XYXY, Candidate, Category, Content, Image, Kind, Named, NewCandidate, Phrase, Placed
from engine import phrases, prompts
from engine.claims import plain_name
from engine.detections import Detections
from engine.layout import CELLS, lay_out, place_said
from engine.lexicon import article
from engine.maker import Made, Maker
from engine.noun_phrases import bare
from engine.packs import Pack
from engine.pixels import decode, encode_png
from engine.recipe import NewImages, Recipe, Step
from engine.roles import Captioned, CaptionTask, Drawn, DrawTask
from engine.seeds import seed_of
from engine.targets import iou

MOST_BOXES = 5  # of one phrase
SAME = 0.7  # IoU of two boxes of a phrase of which the less sure one is dropped
CONCEPTS_FROM = 500  # images of which the phrases make up the vocabulary
PROMPTS = {
    "concept2text": "concept2text",
    "text2text": "text2text",
}  # how images are described -> the prompt of a chat model
# what proposes images of the data set itself: kind -> module with propose(context, image_ids, seed)
PROPOSING = {Kind.CLASS_IMAGE: "engine.class_images", Kind.PAIR: "engine.pair_review"}


def prompts_of(recipe: Recipe, pack: Pack) -> list[str]:
    """The prompts that a recipe for whole images puts to the chat model of the pack; none without one."""
    images = recipe.images
    if images is None or not pack.chats:
        return []
    describing = [PROMPTS[images.describe]] if images.describe in PROMPTS else []
    return [*describing, *(["phrases"] if recipe.steps[0].kind is not Kind.CLASS_IMAGE else [])]


def refusal(images: NewImages, pack: Pack) -> str | None:
    """Why this pack cannot make these images although it fills the roles, None when it can."""
    if images.describe == "text2text" and not pack.chats:
        return f"`describe: text2text` needs a chat model, and the writer of the pack {pack.name!r} is none."
    laid_out = pack.illustrator is not None and _heeds_layout(pack)
    if images.boxes == "layout" and not laid_out:
        return (
            f"`boxes: layout` needs an illustrator that puts things where it is told (collage, or hf_illustrator with a GLIGEN "
            f"model); that of the pack {pack.name!r} does not."
        )
    if images.boxes == "detector" and not pack.finds_phrases and not laid_out:
        return (
            f"The boxes come from a detector of phrases, and the pack {pack.name!r} has none: name one as its detector."
        )
    return None


def _heeds_layout(pack: Pack) -> bool:
    """As far as can be seen without loading the model."""
    role = pack.illustrator
    return pack.draws_from_data or (role is not None and "gligen" in str(role.options.get("model", "")).lower())


def purity(images: NewImages, pack: Pack) -> dict[str, bool]:
    """Which parts of an image and of what is said of it are synthetic: made without a real counterpart. A collage's pixels are
    real ones, and a caption is of a real image."""
    return {
        "image": pack.illustrator is not None and not pack.draws_from_data,
        "words": images.describe in ("concept2text", "class_name"),
    } | ({"boxes": True} if images.boxes != "none" else {})


@dataclass
class _New:
    """An image on its way. `origin` is the image of the data set that lends its words, or stands for where they came from."""

    target: str
    variant: int
    seed: int
    origin: Image
    category: Category | None = None
    text: str = ""
    named: tuple[Named, ...] = ()
    layout: list[tuple[int, XYXY]] = field(default_factory=list)  # number of the phrase, box
    image: np.ndarray | None = None
    boxes: list[tuple[int | None, Placed]] = field(default_factory=list)  # number of the phrase, box
    detail: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


class WholeImages(Maker):
    """Makes triplets, class images and pairs."""

    def make(self, targets: Sequence[str], first: int = 0) -> list[Made]:
        """What each target gives, in order. `first` is the number of the first variant: later rounds begin higher."""
        if self._how.describe == "as_is":
            return self._proposed(targets)
        variants = range(first, first + self._step.variants)
        return self._made(targets, {target: [self._new(target, v) for v in variants] for target in targets}, ())

    def again(
        self, candidate: Candidate, *, wording: str | None, first: int, amount: int, avoid: Sequence[str]
    ) -> Made:
        """More images of a candidate's target, with other seeds. `wording` is what to draw, in your own words; what is in `avoid`
        was the matter with earlier ones."""
        target, _, _ = candidate.target.rpartition("/")
        news = [self._new(target, variant) for variant in range(first, first + amount)]
        for new in news if wording else ():
            new.text, new.detail = wording or "", {"words": {"by": "person"}}
        return self._made([target], {target: news}, tuple(avoid))[0]

    @property
    def _how(self) -> NewImages:
        assert self.recipe.images is not None
        return self.recipe.images

    @property
    def _step(self) -> Step:
        return self.recipe.steps[0]

    @property
    def _detects(self) -> bool:
        return self._how.boxes == "detector" and self.pack.finds_phrases

    def _proposed(self, targets: Sequence[str]) -> list[Made]:
        """Images of the data set, to be judged themselves; the modules that propose them know the formats they came from."""
        propose = import_module(PROPOSING[self._step.kind]).propose
        ids = [int(target.partition(":")[2]) for target in targets]
        try:
            return [Made(t, [one]) for t, one in zip(targets, propose(self.context, ids, self.seed), strict=True)]
        except WinnowError as error:
            if len(targets) == 1:
                return [Made(targets[0], failures=[f"{targets[0]}: {error}"])]
        return [made for target in targets for made in self._proposed([target])]

    def _made(self, targets: Sequence[str], news: dict[str, list[_New]], avoid: tuple[str, ...]) -> list[Made]:
        everything = [new for some in news.values() for new in some]
        self._each(self._describe, [new for new in everything if not new.text])
        self._each(self._name, everything)
        self._each(self._lay_out, everything)
        self._each(lambda some: self._draw(some, avoid), everything)
        self._each(self._box, everything)
        return [
            Made(
                target,
                [self._candidate(new) for new in news[target] if not new.failure],
                [f"{target}: {new.failure}" for new in news[target] if new.failure],
            )
            for target in targets
        ]

    def _each(self, step: Callable[[Sequence[_New]], None], news: Sequence[_New]) -> None:
        """A step for those that have not failed before it."""
        left = [new for new in news if not new.failure]
        if left:
            step(left)

    # What it is about

    def _new(self, target: str, variant: int) -> _New:
        seed = seed_of(self.seed, target, self._step.kind, variant)
        sort, _, rest = target.partition(":")
        if sort == "image":
            return _New(target, variant, seed, self.context.store.datasets.image(int(rest)))
        if sort == "class":
            category = self.categories[int(rest.partition(":")[0])]
            return _New(target, variant, seed, self._with_class(category), category)
        return _New(target, variant, seed, self._examples(seed)[0][0])

    def _with_class(self, category: Category) -> Image:
        """Any image that has the class, else the first of the data set: the new one goes to its split."""
        datasets, wanted = self.context.store.datasets, self._splits
        for split in wanted or (None,):
            found = datasets.images(self.context.dataset_id, split=split, category_id=category.id, limit=1)
            if found:
                return found[0]
        return datasets.image(self._image_ids[0])

    @property
    def _splits(self) -> list[str]:
        present = self.context.store.datasets.splits(self.context.dataset_id)
        return [split for split in self.recipe.targets.splits if split in present]

    @cached_property
    def _image_ids(self) -> list[int]:
        datasets = self.context.store.datasets
        found = [i for split in self._splits or (None,) for i in datasets.image_ids(self.context.dataset_id, split)]
        if not found:
            raise WinnowError("The data set has no images, so there is nothing that new ones could go with.")
        return found

    def _examples(self, seed: int) -> list[tuple[Image, str]]:
        """A few images of the data set with their captions, "" where there is none; others for every seed."""
        chance = random.Random(seed_of(seed, "examples"))
        ids = chance.sample(self._image_ids, min(4 * self._how.examples, len(self._image_ids)))
        texts = self.context.store.datasets.phrases_of(ids)
        said = [(i, next(iter(_captions(texts.get(i, []))), "")) for i in ids]
        chosen = [one for one in said if one[1]][: self._how.examples] or said[:1]
        return [(self.context.store.datasets.image(i), text) for i, text in chosen]

    # Words

    def _describe(self, news: Sequence[_New]) -> None:
        ways: dict[str, Callable[[Sequence[_New]], None]] = {
            "image2text": self._captioned,
            "concept2text": self._from_concepts,
            "concatenation": self._concatenated,
            "text2text": self._summed_up,
            "class_name": self._of_class,
        }
        ways[self._how.describe](news)

    def _captioned(self, news: Sequence[_New]) -> None:
        """Image2Text: a captioner looks at the real image."""
        load = self.context.store.blobs.get
        tasks = [
            CaptionTask(
                image=decode(load(new.origin.digest or "")),
                instruction=self._how.instruction,
                seed=seed_of(new.seed, "words"),
                image_id=new.origin.id,
            )
            for new in news
        ]
        for new, said in zip(news, self.backend("captioner").caption(tasks), strict=True):
            if isinstance(said, Captioned):
                new.text, new.detail = said.text, {"words": {"by": "captioner", **said.detail}}
            else:
                new.failure = said

    def _from_concepts(self, news: Sequence[_New]) -> None:
        """Concept2Text: by the chat model from concepts and examples, else joined by a grammar."""
        drawn = [self._drawn_concepts(new) for new in news]
        if not self.pack.chats:
            for new, concepts in zip(news, drawn, strict=True):
                new.text = joined(concepts, new.seed)
                new.detail = {"words": {"by": "grammar", "concepts": list(concepts)}}
            return
        examples = [self._examples(new.seed) for new in news]
        known = [
            prompts.fields(concepts=concepts, examples=[text for _, text in shown if text])
            for concepts, shown in zip(drawn, examples, strict=True)
        ]
        self._answered("concept2text", news, known)
        for new, concepts in zip(news, drawn, strict=True):
            new.detail.setdefault("words", {})["concepts"] = list(concepts)

    def _drawn_concepts(self, new: _New) -> list[str]:
        known = self._how.concepts or self._shown(new.origin.split)
        if not known:
            raise WinnowError(
                "There are no concepts to describe: the data set has neither classes nor phrases of which the illustrator of the "
                f"pack {self.pack.name!r} can show anything."
            )
        return random.Random(seed_of(new.seed, "concepts")).sample(known, min(self._how.concepts_each, len(known)))

    def _shown(self, split: str) -> tuple[str, ...]:
        """The words of the vocabulary that the illustrator can draw into images of a split."""
        if split not in self._words:
            shows = self.backend("illustrator").shows
            self._words[split] = tuple(word for word in self._vocabulary if shows(word, split))
        return self._words[split]

    @cached_property
    def _words(self) -> dict[str, tuple[str, ...]]:
        return {}

    @cached_property
    def _vocabulary(self) -> tuple[str, ...]:
        """The classes of the data set and the short phrases that name one box, without their articles."""
        ids = self._image_ids[:CONCEPTS_FROM]
        texts = self.context.store.datasets.phrases_of(ids)
        named = [one.text for i in ids for one in texts.get(i, []) if one.holds and len(one.box_ids) == 1]
        short = [bare(text) for text in named if len(phrases.chunks(text)) == 1]
        classes = [plain_name(category.name).lower() for category in self.categories.values()]
        return tuple(sorted({*classes, *(text for text in short if len(text.split()) <= self._how.phrase_words)}))

    def _concatenated(self, news: Sequence[_New]) -> None:
        """The control that joins what people wrote of the image."""
        for new, captions in zip(news, self._captions_of(news), strict=True):
            new.text = " ".join(f"{text.rstrip('. ')}." for text in captions)
            new.detail = {"words": {"by": "people", "captions": len(captions)}}
            new.failure = "" if captions else "the image has no caption"

    def _summed_up(self, news: Sequence[_New]) -> None:
        """The control that has the chat model sum up what people wrote of the image."""
        captions = self._captions_of(news)
        for new, texts in zip(news, captions, strict=True):
            new.failure = "" if texts else "the image has no caption"
        left = [(new, texts) for new, texts in zip(news, captions, strict=True) if texts]
        self._answered("text2text", [new for new, _ in left], [prompts.fields(text=" / ".join(t)) for _, t in left])

    def _captions_of(self, news: Sequence[_New]) -> list[list[str]]:
        texts = self.context.store.datasets.phrases_of([new.origin.id for new in news])
        return [_captions(texts.get(new.origin.id, [])) for new in news]

    def _answered(self, name: str, news: Sequence[_New], known: Sequence[dict[str, str]]) -> None:
        prompt = self._prompt(name)
        asked = [(values, seed_of(new.seed, "words")) for new, values in zip(news, known, strict=True)]
        for new, said in zip(news, self.backend("writer").answer(prompt, asked), strict=True):
            if isinstance(said, str):
                new.text, new.detail = said, {"words": {"by": "writer", **_origin(prompt)}}
            else:
                new.failure = f"no description: {said.why}"

    def _prompt(self, name: str) -> prompts.Prompt:
        """In the version that the run began with."""
        return prompts.load(name, self.context.store.home, dict(self.context.prompts).get(name))

    def _of_class(self, news: Sequence[_New]) -> None:
        for new in news:
            assert new.category is not None
            extra = new.category.extra
            definition = str(extra.get("def") or extra.get("definition") or "")
            text = Template(self._how.template).substitute(name=plain_name(new.category.name), definition=definition)
            new.text, new.detail = text.strip(" ,"), {"words": {"by": "class name"}}

    # Phrases

    def _name(self, news: Sequence[_New]) -> None:
        if self._step.kind is Kind.CLASS_IMAGE:
            return
        listed = self._listed(news) if self.pack.chats else [None] * len(news)
        for new, said in zip(news, listed, strict=True):
            if said is None:
                new.named = phrases.chunks(new.text, self._how.phrase_words)
                how: dict[str, Any] = {"by": "noun phrases"}
            else:
                new.named, missing = phrases.found(new.text, said, self._how.phrase_words)
                how = {"by": "writer", **_origin(self._prompt("phrases")), "not_in_text": missing}
            new.detail["phrases"] = how
            if not new.named and self._step.kind is Kind.TRIPLET:
                new.failure = f"no phrase of “{new.text}” names a thing"

    def _listed(self, news: Sequence[_New]) -> list[list[str] | None]:
        """What the chat model says are the phrases, None where it said nothing usable: noun phrases are taken instead."""
        asked = [(prompts.fields(text=new.text), seed_of(new.seed, "phrases")) for new in news]
        said = self.backend("writer").answer(self._prompt("phrases"), asked)
        return [one if isinstance(one, list) else None for one in said]

    # Pictures

    def _lay_out(self, news: Sequence[_New]) -> None:
        illustrator = self.backend("illustrator")
        if not illustrator.heeds_layout:
            return
        for new in news:
            size = self._how.size or illustrator.size
            spans = [(number, span) for number, named in enumerate(new.named) for span in named.spans]
            if new.category is not None:
                spans = [(0, (0, 0))]
            starts = sorted(start for _, (start, _) in spans)
            said = [place_said(new.text, end, _next(starts, end, len(new.text))) for _, (_, end) in spans]
            boxes = lay_out(said, size, seed_of(new.seed, "layout"))
            new.layout = [(number, box) for (number, _), box in zip(spans, boxes, strict=True) if box is not None]

    def _draw(self, news: Sequence[_New], avoid: tuple[str, ...]) -> None:
        tasks = [self._draw_task(new, avoid) for new in news]
        for new, drawn in zip(news, self.backend("illustrator").draw(tasks), strict=True):
            if not isinstance(drawn, Drawn):
                new.failure = drawn
                continue
            new.image = drawn.image
            new.detail |= {"prompt": new.text, **drawn.detail}
            new.detail |= {"asked_layout": [list(box) for _, box in new.layout]} if new.layout else {}
            laid = zip(new.layout, drawn.boxes, strict=True) if drawn.boxes else ()
            new.boxes = [(n, Placed(xyxy=box, origin="layout")) for (n, _), box in laid if box is not None]
            absent = _absent(new) if drawn.boxes and self._how.boxes == "none" else ""
            new.failure = f"the image does not show {absent}" if absent else ""

    def _draw_task(self, new: _New, avoid: tuple[str, ...]) -> DrawTask:
        names = [named.text for named in new.named] or [plain_name(new.category.name) if new.category else ""]
        return DrawTask(
            prompt=new.text,
            seed=seed_of(new.seed, "image"),
            size=self._how.size,
            avoid=", ".join(text for text in (self._how.avoid, *avoid) if text),
            layout=tuple((names[number], box) for number, box in new.layout),
            split=new.origin.split,
        )

    # Boxes

    def _box(self, news: Sequence[_New]) -> None:
        if self._how.boxes == "none":
            for new in news:
                new.boxes = []
        elif self._how.boxes == "whole_image":
            for new in news:
                new.boxes = [(None, _whole(new))]
        elif self._detects:
            self._detected(news)

    def _detected(self, news: Sequence[_New]) -> None:
        """Each phrase is looked for by itself; what is less sure than the threshold is no box (METHODS 2.2, point 4)."""
        images = [new.image for new in news if new.image is not None]
        found = self.backend("detector").find(images, [[named.text for named in new.named] for new in news])
        for new, seen in zip(news, found, strict=True):
            new.boxes = list(_sure(seen, self._how.threshold))

    # What comes of it

    def _candidate(self, new: _New) -> NewCandidate:
        assert new.image is not None
        origin = self._how.boxes if self._how.boxes != "detector" or self._detects else "layout"
        parts = purity(self._how, self.pack)
        detail = {
            "pack": self.pack.name,
            "backend": self.pack.illustrator.backend if self.pack.illustrator else "",
            "strategy": self._how.describe,
            **new.detail,
            "boxes": {"by": origin, **({"threshold": self._how.threshold} if origin == "detector" else {})},
            "synthetic": parts,
            "purity": round(sum(parts.values()) / len(parts), 4),
            "content": to_builtins(self._content(new)),
            "suffix": "png",
        }
        return NewCandidate(
            target=f"{new.target}/{self._step.kind}",
            variant=new.variant,
            kind=self._step.kind,
            image_id=new.origin.id,
            seed=new.seed,
            category_id=new.category.id if new.category else None,
            digest=self.context.store.blobs.put(encode_png(new.image)),
            detail=detail,
        )

    def _content(self, new: _New) -> Content:
        assert new.image is not None
        height, width = new.image.shape[:2]
        named = tuple(
            Named(text=one.text, spans=one.spans, boxes=tuple(i for i, (n, _) in enumerate(new.boxes) if n == number))
            for number, one in enumerate(new.named)
        )
        caption = "" if self._step.kind is Kind.CLASS_IMAGE else new.text
        boxes = tuple(placed for _, placed in new.boxes)
        return Content(width=width, height=height, caption=caption, phrases=named, boxes=boxes)


def joined(concepts: Sequence[str], seed: int) -> str:
    """A description of things side by side, each in a place of its own: "A red mug at the top left and a lamp on the right."

    The grammar of packs without a chat model."""
    cells = random.Random(seed_of(seed, "places")).sample([words for words, _, _ in CELLS], len(concepts))
    said = [f"{_with_article(one)} {cell}" for one, cell in zip(concepts, cells, strict=True)]
    text = " and ".join((", ".join(said[:-1]), said[-1])) if len(said) > 1 else said[0]
    return f"{text[:1].upper()}{text[1:]}."


def _with_article(name: str) -> str:
    return name if name.split(" ", 1)[0] in ("a", "an", "the", "some") else f"{article(name)} {name}"


def _captions(texts: Sequence[Phrase]) -> list[str]:
    """What is said of a whole image."""
    return [one.text for one in texts if one.holds and one.parent_id is None and not one.box_ids and one.text.strip()]


def _next(starts: Sequence[int], after: int, end: int) -> int:
    return next((start for start in starts if start >= after), end)


def _absent(new: _New) -> str:
    """The phrases of which the illustrator, which knows, has not drawn each thing: no box would show that they are missing."""
    there = [number for number, _ in new.boxes]
    missing = [named.text for number, named in enumerate(new.named) if there.count(number) < len(named.spans)]
    return ", ".join(f"“{text}”" for text in missing)


def _origin(prompt: prompts.Prompt) -> dict[str, Any]:
    return {"prompt": prompt.name, "prompt_version": prompt.version, "prompt_digest": prompt.digest}


def _whole(new: _New) -> Placed:
    assert new.image is not None and new.category is not None
    height, width = new.image.shape[:2]
    return Placed(xyxy=(0.0, 0.0, float(width), float(height)), category_id=new.category.id, origin="whole_image")


def _sure(seen: Detections, threshold: float) -> list[tuple[int, Placed]]:
    """The detections of at least that score, of each phrase the surest few that do not lie on each other."""
    kept: list[tuple[int, Placed]] = []
    rows = zip(seen.xyxy.tolist(), seen.scores.tolist(), seen.labels.tolist(), strict=True)
    for box, score, label in sorted(rows, key=lambda row: -row[1]):
        own = [placed.xyxy for number, placed in kept if number == label]
        xyxy: XYXY = (box[0], box[1], box[2], box[3])
        empty = xyxy[2] <= xyxy[0] or xyxy[3] <= xyxy[1]
        if score < threshold or empty or len(own) == MOST_BOXES or any(iou(xyxy, one) > SAME for one in own):
            continue
        kept.append((label, Placed(xyxy=xyxy, score=round(score, 6), origin="detector")))
    return sorted(kept, key=lambda one: one[0])

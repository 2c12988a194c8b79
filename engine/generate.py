"""From targets to candidates. Everything that decides what is made is a function of (run seed, target, variant)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from db.records import Box, Candidate, Category, Kind, NewCandidate, Phrase
from engine.claims import facts_of, mentions, plain_name, tokens
from engine.maker import Made, Maker
from engine.packs import Pack
from engine.pixels import decode, encode_png
from engine.prompts import Pair
from engine.recipe import Recipe, Step
from engine.roles import Context, Foil, Painted, PaintTask, WriteTask
from engine.seeds import seed_of
from engine.targets import Scene, paintable


@dataclass(frozen=True)
class _Work:
    """A target looked up: its scene, the boxes to work on, the phrase to work on. `first` is the number of its first
    variant, `avoid` what earlier attempts were rejected for."""

    target: str
    scene: Scene
    boxes: tuple[Box, ...]
    phrase: Phrase | None
    first: int = 0
    avoid: tuple[str, ...] = ()

    @property
    def box(self) -> Box | None:
        """The box that the target's text names, if it is exactly one."""
        return self.boxes[0] if len(self.boxes) == 1 else None


class Generator(Maker):
    """Makes texts and paintings. `pairs` are examples for the writer."""

    def __init__(self, context: Context, recipe: Recipe, pack: Pack, *, seed: int, pairs: Sequence[Pair] = ()) -> None:
        super().__init__(context, recipe, pack, seed=seed)
        self.pairs = tuple(pairs)

    def make(self, targets: Sequence[str], first: int = 0) -> list[Made]:
        """What each target gives, in order. `first` is the number of the first variant: later rounds begin higher."""
        works = [self._look_up(target, first) for target in targets]
        return self._made(works, self.recipe.steps)

    def again(
        self, candidate: Candidate, *, wording: str | None, first: int, amount: int, avoid: Sequence[str]
    ) -> Made:
        """More variants of a candidate's target, with other seeds. `wording` is what to paint, or the negative text
        itself; what is in `avoid` was the matter with earlier ones."""
        scene = Scene(self.context.store, candidate.image_id)
        boxes = (scene.box(candidate.box_id),) if candidate.box_id is not None else ()
        phrase = scene.phrase(candidate.phrase_id) if candidate.phrase_id is not None else None
        target, _, _ = candidate.target.rpartition("/")
        work = _Work(target, scene, boxes, phrase, first, tuple(avoid))
        step = Step(kind=candidate.kind, variants=amount)
        foils = self._repeated(candidate, work, wording, amount)
        made = Made(target)
        if candidate.kind is Kind.NEGATIVE_TEXT:
            made.candidates += self._texts(work, foils)
        else:
            prompt = wording or str(candidate.detail.get("prompt", "")) or None
            self._paint([(made, wish) for wish in self._wishes(work, step, foils, prompt)])
        return made

    def _made(self, works: Sequence[_Work], steps: Sequence[Step]) -> list[Made]:
        results = [Made(work.target) for work in works]
        written = self._written(works, results) if self.recipe.writes else [[] for _ in works]
        wishes: list[tuple[Made, tuple[PaintTask, NewCandidate]]] = []
        for work, made, foils in zip(works, results, written, strict=True):
            for step in steps:
                if step.kind is Kind.NEGATIVE_TEXT:
                    made.candidates += self._texts(work, foils[: step.variants])
                else:
                    wishes += [(made, wish) for wish in self._wishes(work, step, foils)]
        self._paint(wishes)
        return results

    def _look_up(self, target: str, first: int) -> _Work:
        kind, _, number = target.partition(":")
        store = self.context.store
        if kind == "image":
            scene = Scene(store, int(number))
            boxes = [box for box in scene.boxes if self._paintable(box, scene)]
            return _Work(target, scene, tuple(boxes), None, first)
        if kind == "box":
            scene = Scene(store, store.datasets.box(int(number)).image_id)
            return _Work(target, scene, (scene.box(int(number)),), None, first)
        scene = Scene(store, store.datasets.phrase(int(number)).image_id)
        phrase = scene.phrase(int(number))
        boxes = [scene.box(phrase.box_ids[0])] if len(phrase.box_ids) == 1 else []
        return _Work(target, scene, tuple(boxes), phrase, first)

    def _paintable(self, box: Box, scene: Scene) -> bool:
        return paintable(box, scene.image, scene.boxes, self.recipe.targets)

    # Texts

    def _written(self, works: Sequence[_Work], results: Sequence[Made]) -> list[list[Foil]]:
        """The foils of each target; what the writer says of those it could not do becomes a failure."""
        wanted = sum(step.variants for step in self.recipe.steps)
        written = self.backend("writer").write([self._write_task(work, wanted) for work in works])
        for made, foils in zip(results, written, strict=True):
            if isinstance(foils, str):
                made.failures.append(f"{made.target}: {foils}")
        return [[] if isinstance(foils, str) else foils for foils in written]

    def _write_task(self, work: _Work, n: int) -> WriteTask:
        names = {category.id: category.name for category in self.categories.values()}
        return WriteTask(
            text=self._text(work),
            n=n,
            seed=seed_of(self.seed, work.target, "text", work.first),
            facts=tuple(facts_of(work.scene.boxes, work.scene.phrases, names)),
            siblings=tuple(names.values()),
            strategies=self.recipe.strategies,
            avoid=work.avoid,
            pairs=self.pairs,
        )

    def _repeated(self, candidate: Candidate, work: _Work, wording: str | None, amount: int) -> list[Foil]:
        """The foils for another attempt: new ones for a text, the same one for a picture; your own words if there are any."""
        if candidate.kind is Kind.INSTANCE:
            return []
        old = candidate.detail
        if wording or candidate.kind is Kind.NEGATIVE_IMAGE:
            words = {"changed_from": old.get("changed_from", ""), "changed_to": old.get("changed_to", "")}
            text = wording or candidate.text_after or ""
            return [
                Foil(
                    text=text,
                    edit_type=old.get("edit_type", "object"),
                    strategy="person" if wording else old.get("strategy", ""),
                    **words,
                )
            ]
        written = self.backend("writer").write([self._write_task(work, amount)])[0]
        return [] if isinstance(written, str) else written

    def _texts(self, work: _Work, foils: Sequence[Foil]) -> list[NewCandidate]:
        box = work.box
        return [
            NewCandidate(
                target=f"{work.target}/text",
                variant=variant,
                kind=Kind.NEGATIVE_TEXT,
                image_id=work.scene.image.id,
                seed=seed_of(self.seed, work.target, "text", work.first),
                category_id=box.category_id if box else None,
                box_id=box.id if box else None,
                phrase_id=work.phrase.id if work.phrase else None,
                xyxy=box.xyxy if box else None,
                text_before=self._text(work),
                text_after=foil.text,
                detail=self._detail("writer", foil),
            )
            for variant, foil in enumerate(foils, work.first)
        ]

    # Paintings

    def _wishes(
        self, work: _Work, step: Step, foils: Sequence[Foil], prompt: str | None = None
    ) -> Iterator[tuple[PaintTask, NewCandidate]]:
        """What to paint: another instance of the class, or the class that a foil names."""
        boxes = [box for box in work.boxes if self._paintable(box, work.scene)]
        if not boxes:
            return
        pixels = decode(self.context.store.blobs.get(work.scene.image.digest or ""))
        together = self.recipe.targets.of == "scenes" and work.phrase is None and work.target.startswith("image:")
        for box in boxes:
            place = f"{work.target}/box:{box.id}" if together else work.target
            for variant, (category, foil) in enumerate(self._subjects(box, step, foils), work.first):
                seed = seed_of(self.seed, place, step.kind, variant)
                task = PaintTask(
                    image=pixels,
                    xyxy=box.xyxy,
                    prompt=prompt or (foil.text if foil else plain_name(category.name)),
                    category=category.name,
                    seed=seed,
                    keep=tuple(other.xyxy for other in work.scene.boxes if other not in (boxes if together else [box])),
                    box_id=box.id,
                    caption=_caption(work.scene),
                    avoid=", ".join(work.avoid),
                    scene=f"{work.target}/{variant}" if together else None,
                )
                yield task, self._draft(work, place, step.kind, variant, seed, box, category, foil)

    def _draft(
        self,
        work: _Work,
        place: str,
        kind: Kind,
        variant: int,
        seed: int,
        box: Box,
        category: Category,
        foil: Foil | None,
    ) -> NewCandidate:
        return NewCandidate(
            target=f"{place}/{kind}",
            variant=variant,
            kind=kind,
            image_id=work.scene.image.id,
            seed=seed,
            category_id=category.id,
            box_id=box.id,
            phrase_id=work.phrase.id if work.phrase else None,
            text_before=self._text(work) if foil else None,
            text_after=foil.text if foil else None,
            detail=self._detail("painter", foil),
        )

    def _subjects(self, box: Box, step: Step, foils: Sequence[Foil]) -> list[tuple[Category, Foil | None]]:
        if step.kind is Kind.INSTANCE:
            return [(self.categories[box.category_id or 0], None)] * step.variants
        own = self.categories[box.category_id or 0]
        by_name = {plain_name(category.name).lower(): category for category in self.categories.values()}
        found: list[tuple[Category, Foil | None]] = []
        for foil in foils:
            changed = by_name.get(plain_name(foil.changed_to).lower())
            if not _of_the_box(foil):
                continue
            if foil.edit_type == "object" and changed is not None:
                found.append((changed, foil))
            elif foil.edit_type in LOOKS and self._paints_looks:
                found.append((own, foil))
        if len(found) == 1:
            found *= step.variants
        return found[: step.variants]

    @property
    def _paints_looks(self) -> bool:
        """Whether the painter heeds adjectives; one that pastes instances knows classes only."""
        return self.pack.painter is not None and self.pack.painter.backend != "paste"

    def _paint(self, wishes: Sequence[tuple[Made, tuple[PaintTask, NewCandidate]]]) -> None:
        """Paint everything that is wished for in one call, so that the painter can batch."""
        if not wishes:
            return
        results = self.backend("painter").paint([task for _, (task, _) in wishes])
        together: dict[str, list[int]] = {}  # the annotations that were painted over in a scene
        for (_, (task, _)), result in zip(wishes, results, strict=True):
            if task.scene and isinstance(result, Painted):
                together.setdefault(task.scene, []).append(task.box_id or 0)
        for (made, (task, draft)), result in zip(wishes, results, strict=True):
            if isinstance(result, Painted):
                scene = {"scene": task.scene, "scene_boxes": together[task.scene]} if task.scene else {}
                made.candidates.append(self._painted(task, draft, result, scene))
            else:
                made.failures.append(f"{made.target}: {result}")

    def _painted(self, task: PaintTask, draft: NewCandidate, result: Painted, scene: dict[str, Any]) -> NewCandidate:
        digest = self.context.store.blobs.put(encode_png(result.image))
        detail = {
            **draft.detail,
            **result.detail,
            "prompt": task.prompt,
            "asked": list(task.xyxy),
            "touched": [list(area) for area in result.touched],
            "suffix": "png",
            **scene,
        }
        values = {name: getattr(draft, name) for name in draft.__struct_fields__}
        return NewCandidate(**{**values, "xyxy": result.xyxy, "digest": digest, "detail": detail})

    def _detail(self, role: str, foil: Foil | None) -> dict[str, Any]:
        detail = {"pack": self.pack.name, "backend": getattr(self.pack, role).backend}
        if foil is not None:
            detail |= {"writer": foil.detail} if foil.detail else {}
            detail |= {"edit_type": foil.edit_type, "changed_from": foil.changed_from, "changed_to": foil.changed_to}
            detail |= {"strategy": foil.strategy}
            if role == "writer":
                detail |= {"spans": [list(span) for span in foil.spans]}
        return detail

    def _text(self, work: _Work) -> str:
        """The true text of the target: its phrase, else the name of its class."""
        if work.phrase is not None:
            return work.phrase.text
        box = work.box
        return self.categories[box.category_id].name if box and box.category_id is not None else ""


LOOKS = ("colour", "pattern", "material")
"""Edits of a single thing's look, which repainting its box can make true."""


def _of_the_box(foil: Foil) -> bool:
    """Whether the change is in the words for the thing itself, not for what it stands beside."""
    found = mentions(foil.text)
    if not found or not foil.spans:
        return True
    return foil.spans[0][0] < tokens(foil.text)[found[0].last - 1].end


def _caption(scene: Scene) -> str:
    """What is said of the whole image, "" when nothing is."""
    return next(
        (phrase.text for phrase in scene.phrases if phrase.holds and phrase.parent_id is None and not phrase.box_ids),
        "",
    )

"""From targets to candidates. Everything that decides what is made is a function of (run seed, target, variant)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from db.records import Box, Category, Kind, NewCandidate, Phrase
from engine.claims import facts_of, plain_name
from engine.packs import Pack, backend
from engine.pixels import decode, encode_png
from engine.recipe import Recipe, Step
from engine.roles import Context, Foil, Painted, PaintTask, WriteTask
from engine.seeds import seed_of
from engine.targets import Scene, paintable


class Generator:
    """Makes the candidates of one run. Backends are loaded on first use and kept."""

    def __init__(self, context: Context, recipe: Recipe, pack: Pack, *, seed: int) -> None:
        self.context, self.recipe, self.pack, self.seed = context, recipe, pack, seed

    def make(self, target: str) -> tuple[list[NewCandidate], list[str]]:
        """The candidates of one target, and a sentence for each that could not be made."""
        scene, box, phrase = self._look_up(target)
        made: list[NewCandidate] = []
        failures: list[str] = []
        foils = self._foils(target, scene, box, phrase) if self.recipe.writes else []
        for step in self.recipe.steps:
            if step.kind is Kind.NEGATIVE_TEXT:
                made += self._texts(target, scene, box, phrase, foils[: step.variants])
            else:
                painted, sentences = self._paintings(target, scene, box, phrase, step, foils)
                made += painted
                failures += sentences
        return made, failures

    @cached_property
    def _categories(self) -> dict[int, Category]:
        return {category.id: category for category in self.context.store.datasets.categories(self.context.dataset_id)}

    @cached_property
    def _writer(self) -> Any:
        return backend(self.pack, "writer", self.context)

    @cached_property
    def _painter(self) -> Any:
        return backend(self.pack, "painter", self.context)

    def _look_up(self, target: str) -> tuple[Scene, Box | None, Phrase | None]:
        """The scene of a target; of a phrase that names exactly one box, that box too."""
        kind, _, number = target.partition(":")
        if kind == "box":
            scene = Scene(self.context.store, self.context.store.datasets.box(int(number)).image_id)
            return scene, scene.box(int(number)), None
        scene = Scene(self.context.store, self.context.store.datasets.phrase(int(number)).image_id)
        phrase = scene.phrase(int(number))
        box = scene.box(phrase.box_ids[0]) if len(phrase.box_ids) == 1 else None
        return scene, box, phrase

    # Texts

    def _foils(self, target: str, scene: Scene, box: Box | None, phrase: Phrase | None) -> list[Foil]:
        text = phrase.text if phrase else self._name(box)
        names = {category.id: category.name for category in self._categories.values()}
        task = WriteTask(
            text=text,
            n=sum(step.variants for step in self.recipe.steps),
            seed=seed_of(self.seed, target, "text"),
            facts=tuple(facts_of(scene.boxes, scene.phrases, names)),
            siblings=tuple(category.name for category in self._categories.values()),
        )
        return self._writer.write([task])[0]

    def _texts(
        self, target: str, scene: Scene, box: Box | None, phrase: Phrase | None, foils: Sequence[Foil]
    ) -> list[NewCandidate]:
        before = phrase.text if phrase else self._name(box)
        return [
            NewCandidate(
                target=f"{target}/text",
                variant=variant,
                kind=Kind.NEGATIVE_TEXT,
                image_id=scene.image.id,
                seed=seed_of(self.seed, target, "text"),
                category_id=box.category_id if box else None,
                box_id=box.id if box else None,
                phrase_id=phrase.id if phrase else None,
                xyxy=box.xyxy if box else None,
                text_before=before,
                text_after=foil.text,
                detail=self._detail("writer", foil),
            )
            for variant, foil in enumerate(foils)
        ]

    # Paintings

    def _paintings(
        self, target: str, scene: Scene, box: Box | None, phrase: Phrase | None, step: Step, foils: Sequence[Foil]
    ) -> tuple[list[NewCandidate], list[str]]:
        wishes = list(self._wishes(target, scene, box, phrase, step, foils))
        results = self._painter.paint([task for task, _ in wishes]) if wishes else []
        made = [
            self._painted(task, draft, result)
            for (task, draft), result in zip(wishes, results, strict=True)
            if isinstance(result, Painted)
        ]
        return made, [f"{target}: {result}" for result in results if isinstance(result, str)]

    def _wishes(
        self, target: str, scene: Scene, box: Box | None, phrase: Phrase | None, step: Step, foils: Sequence[Foil]
    ) -> Iterator[tuple[PaintTask, NewCandidate]]:
        """What to paint: another instance of the class, or the class that a foil names."""
        if box is None or not paintable(box, scene.image, scene.boxes, self.recipe.targets):
            return
        pixels = decode(self.context.store.blobs.get(scene.image.digest or ""))
        keep = tuple(other.xyxy for other in scene.boxes if other.id != box.id)
        for variant, (category, foil) in enumerate(self._subjects(box, step, foils)):
            seed = seed_of(self.seed, target, step.kind, variant)
            task = PaintTask(
                image=pixels,
                xyxy=box.xyxy,
                prompt=foil.text if foil else category.name,
                category=category.name,
                seed=seed,
                keep=keep,
                box_id=box.id,
            )
            yield (
                task,
                NewCandidate(
                    target=f"{target}/{step.kind}",
                    variant=variant,
                    kind=step.kind,
                    image_id=scene.image.id,
                    seed=seed,
                    category_id=category.id,
                    box_id=box.id,
                    phrase_id=phrase.id if phrase else None,
                    text_before=(phrase.text if phrase else self._name(box)) if foil else None,
                    text_after=foil.text if foil else None,
                    detail=self._detail("painter", foil),
                ),
            )

    def _subjects(self, box: Box, step: Step, foils: Sequence[Foil]) -> list[tuple[Category, Foil | None]]:
        if step.kind is Kind.INSTANCE:
            return [(self._categories[box.category_id or 0], None)] * step.variants
        by_name = {plain_name(category.name).lower(): category for category in self._categories.values()}
        found: list[tuple[Category, Foil | None]] = []
        for foil in foils:
            category = by_name.get(plain_name(foil.changed_to).lower()) if foil.edit_type == "object" else None
            if category is not None:
                found.append((category, foil))
        return found[: step.variants]

    def _painted(self, task: PaintTask, draft: NewCandidate, result: Painted) -> NewCandidate:
        digest = self.context.store.blobs.put(encode_png(result.image))
        detail = {
            **draft.detail,
            **result.detail,
            "prompt": task.prompt,
            "touched": [list(area) for area in result.touched],
            "suffix": "png",
        }
        values = {name: getattr(draft, name) for name in draft.__struct_fields__}
        return NewCandidate(**{**values, "xyxy": result.xyxy, "digest": digest, "detail": detail})

    def _detail(self, role: str, foil: Foil | None) -> dict[str, Any]:
        detail = {"pack": self.pack.name, "backend": getattr(self.pack, role).backend}
        if foil is not None:
            detail |= {"edit_type": foil.edit_type, "changed_from": foil.changed_from, "changed_to": foil.changed_to}
        return detail

    def _name(self, box: Box | None) -> str:
        if box is None or box.category_id is None:
            return ""
        return self._categories[box.category_id].name

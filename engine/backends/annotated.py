"""The captioner without a model: says what the annotations of an image say, thing by thing, with where each is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from db.errors import WinnowError
from db.records import Box, Phrase
from engine.claims import mentions, plain_name, tokens
from engine.layout import place_of
from engine.lexicon import article
from engine.phrases import MOST_WORDS
from engine.roles import Captioned, CaptionTask, Context
from engine.targets import Scene

MOST_THINGS = 5  # the largest; a caption of more is a list that nobody would write


class AnnotatedCaptioner:
    """ "A red mug on the left and a lamp at the top." `things` bounds how many are named. Raises WinnowError for a bad option."""

    def __init__(self, context: Context, things: int = MOST_THINGS) -> None:
        if not 1 <= things <= 20:
            raise WinnowError(f"The option `things` of the captioner 'annotated' is {things}; it should be 1 to 20.")
        self._context, self._things = context, things

    def caption(self, tasks: Sequence[CaptionTask]) -> list[Captioned | str]:
        """One caption per task, in order; a sentence for an image without boxes of known classes."""
        categories = self._context.store.datasets.categories(self._context.dataset_id)
        names = {category.id: category.name for category in categories}
        return [self._caption(task, names) for task in tasks]

    def _caption(self, task: CaptionTask, names: Mapping[int, str]) -> Captioned | str:
        if task.image_id is None:
            return "the captioner 'annotated' describes images of the data set only"
        scene = Scene(self._context.store, task.image_id)
        known = [box for box in scene.boxes if not box.crowd and box.category_id in names]
        if not known:
            return f"image {scene.image.file_name} has no boxes with a class, so there is nothing to say of it"
        largest = sorted(known, key=lambda box: (-_area(box), box.id))[: self._things]
        size = (scene.image.width, scene.image.height)
        said = [f"{_called(box, scene.phrases, names)} {place_of(box.xyxy, size)}" for box in largest]
        detail: dict[str, Any] = {"backend": "annotated", "boxes": [box.id for box in largest]}
        return Captioned(sentence(said), detail)


def sentence(things: Sequence[str]) -> str:
    """ "A mug on the left, a ball and a lamp." of its parts."""
    text = " and ".join((", ".join(things[:-1]), things[-1])) if len(things) > 1 else things[0]
    return f"{text[:1].upper()}{text[1:]}."


def _area(box: Box) -> float:
    return (box.xyxy[2] - box.xyxy[0]) * (box.xyxy[3] - box.xyxy[1])


def _called(box: Box, phrases: Sequence[Phrase], names: Mapping[int, str]) -> str:
    """The shortest phrase that names this box and nothing else, else its class, with an article."""
    own = [phrase.text for phrase in phrases if phrase.holds and phrase.box_ids == (box.id,)]
    short = [
        text for text in own if len(tokens(text)) <= MOST_WORDS + 1 and len(mentions(text, tuple(names.values()))) == 1
    ]
    said = min(short, key=lambda text: (len(text), text), default=plain_name(names[box.category_id or 0]).lower())
    first = tokens(said)[0].word if tokens(said) else ""
    said = said[:1].lower() + said[1:]
    return said if first in ("a", "an", "the", "some") else f"{article(said)} {said}"

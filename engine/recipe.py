"""Recipes: readable files that say what to generate, how to judge it and what to keep."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from string import Template
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from db.errors import NotFound, WinnowError
from db.records import WHOLE, Kind, Rule
from engine.filters import FILTERS

FOLDER = Path(__file__).parent / "recipes"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Targets(_Strict):
    """What is worked on, and which boxes are left alone (METHODS 1.2 F1, 5.2 point 1)."""

    of: Literal["boxes", "scenes", "phrases", "images", "concepts", "classes"] = Field(
        description="annotated boxes, all the boxes of an image together, captions and phrases (class names if there are none); "
        "for recipes that make whole images: images, combinations of concepts, or classes"
    )
    count: int = Field(
        1000,
        ge=1,
        description="of `concepts` how many combinations there are, of `classes` how many targets each class has",
    )
    splits: tuple[str, ...] = Field(
        (), description="only images of these splits; all when empty or when the data set has none"
    )
    min_side: float = Field(16, ge=0, description="pixels; smaller boxes are not painted")
    min_area: float = Field(0.0, ge=0, le=1, description="share of the image")
    max_area: float = Field(0.5, gt=0, le=1, description="share of the image")
    max_aspect: float = Field(4.0, ge=1, description="longer side over shorter side")
    max_overlap: float = Field(0.3, ge=0, le=1, description="IoU with another annotation")
    balance: bool = Field(
        False, description="visit the classes in turn, so that rare ones get as many targets as frequent ones"
    )


class Step(_Strict):
    """One kind of candidate made for each target."""

    kind: Kind
    variants: int = Field(1, ge=1, le=64, description="how many different ones for each target")


INSTRUCTION = "Describe this image in detail in two sentences. Name the objects, how they look and where they are."
Describe = Literal["image2text", "concept2text", "concatenation", "text2text", "class_name", "as_is"]

# how an image is described -> the targets that this needs
DESCRIBES: dict[str, str] = {
    "image2text": "images",
    "concept2text": "concepts",
    "concatenation": "images",
    "text2text": "images",
    "class_name": "classes",
    "as_is": "images",
}


class NewImages(_Strict):
    """How whole images come about (METHODS 2.2, 3.2): who describes them, and where their boxes are from."""

    describe: Describe = Field(
        description="image2text: a captioner describes a real image; concept2text: from a few concepts; concatenation: all "
        "captions of an image; text2text: their summary; class_name: one class; as_is: images of the data set are judged themselves"
    )
    instruction: str = Field(INSTRUCTION, description="what the captioner is asked, if it takes instructions")
    template: str = Field(
        "a photo of a $name", description="what is drawn for a class; $definition is its definition, if it has one"
    )
    concepts: tuple[str, ...] = Field(
        (), description="the vocabulary of concept2text; phrases and classes of the data set when empty"
    )
    concepts_each: int = Field(3, ge=1, le=9, description="concepts of one description")
    examples: int = Field(
        4, ge=1, le=20, description="captions of real images that a chat model is shown for concept2text"
    )
    phrase_words: int = Field(5, ge=1, le=20, description="phrases of more words, articles aside, are left out")
    boxes: Literal["detector", "layout", "whole_image", "none"] = "detector"
    threshold: float = Field(
        0.5, ge=0, le=1, description="of the detector's score; phrases without a surer box stay without"
    )
    size: tuple[int, int] | None = Field(
        None, description="width and height in pixels; the illustrator's own when empty"
    )
    avoid: str = Field("", description="what no image should show, for illustrators that take it")

    @model_validator(mode="after")
    def _named(self) -> NewImages:
        template = Template(self.template)
        if not template.is_valid() or not {"name"} <= set(template.get_identifiers()) <= {"name", "definition"}:
            raise ValueError(f"template {self.template!r} must name $name, may name $definition, and nothing else")
        if self.size is not None and min(self.size) < 16:
            raise ValueError(
                f"size {self.size[0]}x{self.size[1]} is too small; both sides should be at least 16 pixels"
            )
        return self


class Threshold(_Strict):
    """A rule of the policy. With `classes`, it takes the place of the filter's other rules for candidates of those classes."""

    filter: str
    at_least: float | None = Field(None, allow_inf_nan=False)
    at_most: float | None = Field(None, allow_inf_nan=False)
    classes: tuple[str, ...] = ()
    optional: bool = Field(False, description="left out when the model pack has no model for the filter")

    @model_validator(mode="after")
    def _known(self) -> Threshold:
        if self.filter not in FILTERS:
            raise ValueError(f"unknown filter {self.filter!r}; known: {', '.join(FILTERS)}")
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"filter {self.filter!r} needs at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"nothing is both at least {self.at_least:g} and at most {self.at_most:g}")
        return self

    def rule(self, group: str = "") -> Rule:
        kinds = tuple(sorted(FILTERS[self.filter].kinds))
        return Rule(
            filter=self.filter,
            at_least=self.at_least,
            at_most=self.at_most,
            kinds=kinds,
            group=group,
            classes=self.classes,
        )


class Alternatives(_Strict):
    """Rules of which one has to pass."""

    any: tuple[Threshold, ...] = Field(min_length=2)


def _sort(entry: object) -> str:
    """Which of the two an entry of the policy is; a mapping that has `any` is meant to be alternatives."""
    return "any" if isinstance(entry, Alternatives) or (isinstance(entry, dict) and "any" in entry) else "rule"


Term = Annotated[Annotated[Threshold, Tag("rule")] | Annotated[Alternatives, Tag("any")], Discriminator(_sort)]


WHOLES = frozenset(DESCRIBES.values())
_BOXES = {Kind.TRIPLET: ("detector", "layout"), Kind.CLASS_IMAGE: ("whole_image",), Kind.PAIR: ("none",)}


class Recipe(_Strict):
    """A recipe file. `text` is the file as written, kept with every run."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    summary: str = Field(description="what it makes, in a sentence or two")
    needs: str
    cost: str
    targets: Targets
    steps: tuple[Step, ...] = Field(min_length=1)
    images: NewImages | None = Field(None, description="for recipes that make whole images")
    strategies: tuple[str, ...] = Field(
        (), description="prompts of the writer to take in turn; all that the model pack has when empty"
    )
    filters: tuple[str, ...] = Field(
        description="scored for every candidate they apply to, whether or not the policy uses them"
    )
    policy: tuple[Term, ...] = Field(description="all of them must pass; of the rules under `any`, one")
    text: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        unknown = [name for name in self.filters if name not in FILTERS]
        if unknown:
            raise ValueError(f"unknown filters {unknown}; known: {', '.join(FILTERS)}")
        unscored = [rule.filter for rule in self.rules() if rule.filter not in self.filters]
        if unscored:
            raise ValueError(f"the policy uses {unscored}, which `filters` does not score")
        if self.images is not None or any(step.kind in WHOLE for step in self.steps) or self.targets.of in WHOLES:
            return self._whole()
        paints_boxes = any(step.kind is Kind.INSTANCE for step in self.steps)
        if paints_boxes != (self.targets.of != "phrases"):
            raise ValueError("steps of kind `instance` work on targets of `boxes` or `scenes`, all others on `phrases`")
        if self.strategies and self.targets.of != "phrases":
            raise ValueError("`strategies` are ways to write texts, and this recipe writes none")
        return self

    def _whole(self) -> Recipe:
        """What has to agree in a recipe that makes whole images."""
        if self.images is None or len(self.steps) != 1 or self.steps[0].kind not in WHOLE:
            raise ValueError("a recipe for whole images has `images` and one step: triplet, class_image or pair")
        kind, images = self.steps[0].kind, self.images
        needed = DESCRIBES[images.describe]
        if self.targets.of != needed:
            raise ValueError(
                f"`describe: {images.describe}` works on targets of `{needed}`, not of `{self.targets.of}`"
            )
        fitting = _BOXES[kind]
        if images.boxes not in fitting:
            raise ValueError(f"step {kind} takes boxes from {' or '.join(fitting)}, not from {images.boxes}")
        if (images.describe == "class_name") != (kind is Kind.CLASS_IMAGE) and images.describe != "as_is":
            raise ValueError("`describe: class_name` goes with the step class_image, and no other does")
        if images.describe == "as_is" and kind is Kind.TRIPLET:
            raise ValueError("`describe: as_is` goes with the steps class_image and pair")
        if self.strategies:
            raise ValueError("`strategies` are ways to write negative texts, and this recipe writes none")
        return self

    @property
    def paints(self) -> bool:
        return self.images is None and any(step.kind is not Kind.NEGATIVE_TEXT for step in self.steps)

    @property
    def writes(self) -> bool:
        return self.targets.of == "phrases"

    @property
    def roles(self) -> tuple[str, ...]:
        """What a model pack has to fill for it."""
        if self.images is None:
            return tuple(role for role, needed in (("writer", self.writes), ("painter", self.paints)) if needed)
        if self.images.describe == "as_is":
            return ()
        describes = {"image2text": ("captioner",), "text2text": ("writer",)}.get(self.images.describe, ())
        return (*describes, "illustrator")

    def fitted(self, roles: Collection[str]) -> Recipe:
        """The recipe for a model pack that fills these roles: filters without a model, and optional rules on them, are
        left out. Raises WinnowError when a rule that is not optional would lose its filter."""
        without = {name for name in self.filters if not set(FILTERS[name].roles) <= set(roles)}
        terms = [fitted for term in self.policy if (fitted := self._fitted(term, without)) is not None]
        filters = tuple(name for name in self.filters if name not in without)
        return self.model_copy(update={"filters": filters, "policy": tuple(terms)})

    def _fitted(self, term: Threshold | Alternatives, without: Collection[str]) -> Threshold | Alternatives | None:
        """The term as far as its filters have models."""
        every = term.any if isinstance(term, Alternatives) else (term,)
        for rule in every:
            if rule.filter in without and not rule.optional:
                roles = " and ".join(FILTERS[rule.filter].roles)
                raise WinnowError(
                    f"Recipe {self.name!r} judges by {rule.filter}, which needs the {roles} of a model pack, and this pack "
                    "lacks one. Choose another pack, take the rule out of the policy, or mark it `optional: true`."
                )
        rest = tuple(rule for rule in every if rule.filter not in without)
        if len(rest) == len(every):
            return term
        return Alternatives(any=rest) if len(rest) > 1 else next(iter(rest), None)

    def rules(self) -> list[Rule]:
        """The policy as the store keeps it."""
        rules: list[Rule] = []
        for number, term in enumerate(self.policy, 1):
            if isinstance(term, Alternatives):
                rules += [threshold.rule(f"any {number}") for threshold in term.any]
            else:
                rules.append(term.rule())
        return rules


def recipes() -> list[Recipe]:
    """The shipped recipes, by name; those that make whole images come last."""
    found = [parse(path.read_text(), str(path.name)) for path in sorted(FOLDER.glob("*.yaml"))]
    return sorted(found, key=lambda recipe: recipe.images is not None)


def names() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or one of your own by path.

    Raises NotFound, or WinnowError with every fault of the file.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise WinnowError(f"There is no recipe file {path}.")
        return parse(path.read_text(), str(path))
    if name_or_path not in names():
        raise NotFound("recipe", name_or_path, names())
    file = FOLDER / f"{name_or_path}.yaml"
    return parse(file.read_text(), file.name)


def parse(text: str, origin: str = "recipe") -> Recipe:
    """A recipe from YAML. Raises WinnowError that names each unknown key, bad value and impossible combination."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WinnowError(f"{origin} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise WinnowError(
            f"{origin} must be a mapping with name, targets, steps, filters, policy; got {type(values).__name__}."
        )
    try:
        return Recipe.model_validate({**values, "text": text})
    except ValidationError as error:
        faults = "\n".join(f"  {'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
        raise WinnowError(f"{origin} has {error.error_count()} fault(s):\n{faults}") from error

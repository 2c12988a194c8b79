"""Prompt templates: named, versioned YAML files. The shipped ones lie in `assets/prompts`, edited ones in `home/prompts`.

A template is filled as `string.Template` does it: `$text` is replaced, `$$` is a dollar sign, braces are just braces.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, Literal

import msgspec
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from db.errors import NotFound, WinnowError
from db.records import Record
from engine.chat import Message

SHIPPED = Path(__file__).parents[1] / "assets" / "prompts"
PAIRS = "pairs.yaml"  # beside the prompts: examples, no prompt
EDIT_TYPES = (
    "object",
    "colour",
    "material",
    "pattern",
    "size",
    "count",
    "relation",
    "position",
    "action",
    "attribute",
)
PLACEHOLDERS = {
    "text": "the text to contradict",
    "facts": "everything else known to be true of the image, separated by semicolons; nothing when nothing is known",
    "classes": "the class names of the data set, separated by commas",
    "n": "how many negatives are asked for",
    "pairs": "examples of (positive, negative), one a line",
    "avoid": "earlier attempts and reasons of rejection, one a line",
    "objects": "what the first stage listed: objects with attributes and relations, one a line",
    "summary": "what the first stage summarised",
    "concepts": "the things that a description should contain, separated by commas",
    "examples": "descriptions of other images, one a line",
}
_VERSION = re.compile(r"^version:.*$", re.MULTILINE)
_NAME = r"^[a-z][a-z0-9_]*$"  # also a file name


def _object(**properties: Any) -> dict[str, Any]:
    """A JSON schema in which every property is required and no other allowed, as strict endpoints ask for it."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


_STRING = {"type": "string"}
_NEGATIVE = _object(
    text=_STRING,
    edit_type={"type": "string", "enum": list(EDIT_TYPES)},
    changed_from=_STRING,
    changed_to=_STRING,
)
SCHEMAS: dict[str, dict[str, Any]] = {
    "negatives": _object(negatives=_list(_NEGATIVE)),
    "objects": _object(objects=_list(_object(name=_STRING, attributes=_list(_STRING), relations=_list(_STRING)))),
    "summary": _object(summary=_STRING),
    "phrases": _object(phrases=_list(_STRING)),
    "description": _object(description=_STRING),
}
"""What a stage answers, as JSON schemas."""
ENDS = ("negatives", "phrases", "description")
"""What the last stage of a prompt may answer: the prompt's purpose."""


class _Use(Record, frozen=True, kw_only=True):
    allowed: frozenset[str]
    needed: frozenset[str]


_USES = {
    "negatives": _Use(
        allowed=frozenset(("text", "facts", "classes", "n", "pairs", "avoid")), needed=frozenset(("text",))
    ),
    "objects": _Use(allowed=frozenset(("text", "facts", "classes")), needed=frozenset(("text",))),
    "summary": _Use(allowed=frozenset(("pairs",)), needed=frozenset(("pairs",))),
    "phrases": _Use(allowed=frozenset(("text", "n", "avoid")), needed=frozenset(("text",))),
    "description": _Use(allowed=frozenset(("text", "concepts", "examples", "avoid")), needed=frozenset()),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Strict):
    """One question to the model. `answer` (`schema` in the file) names the JSON schema of what it says."""

    name: str = Field(pattern=_NAME)
    answer: Literal["negatives", "objects", "summary", "phrases", "description"] = Field(alias="schema")
    system: str = Field("", description="who the model is and what it does; no system message when empty")
    user: str = Field(min_length=1)

    def messages(self, fields: Mapping[str, str]) -> tuple[Message, ...]:
        """The conversation so far, with the placeholders filled from `fields` (see `fields`)."""
        system = Template(self.system).substitute(fields)
        user = Message(role="user", content=Template(self.user).substitute(fields))
        return (Message(role="system", content=system), user) if system else (user,)

    def faults(self, needed: frozenset[str], more: frozenset[str]) -> list[str]:
        """What is wrong with the templates: `needed` must occur, `more` may, besides what its kind of answer allows."""
        allowed = _USES[self.answer].allowed | more
        used: set[str] = set()
        found: list[str] = []
        for part, template in (("system", Template(self.system)), ("user", Template(self.user))):
            used |= set(template.get_identifiers())
            if not template.is_valid():
                found.append(f"stage {self.name!r}, {part}: a lone $; write $$ for a dollar sign")
        listed = ", ".join(f"${name}" for name in PLACEHOLDERS if name in allowed)
        found += [f"stage {self.name!r}: ${name} is unknown here; allowed: {listed}" for name in sorted(used - allowed)]
        wanted = (_USES[self.answer].needed | needed) - used
        return found + [f"stage {self.name!r}: ${name} is missing: {PLACEHOLDERS[name]}" for name in sorted(wanted)]


class Prompt(_Strict):
    """How a chat model is asked for negative texts, for the phrases of a description, or for a description. `text` is the file as
    written.

    `single`: one negative per request, asked again with other seeds for more, and never told what was wrong; for small
    models that know one exchange only.
    """

    name: str = Field(pattern=_NAME)
    version: int = Field(ge=1)
    title: str
    summary: str = Field(description="what it does, in a sentence or two")
    temperature: float = Field(0.8, ge=0, le=2)
    max_tokens: int = Field(512, ge=1, description="of one answer")
    single: bool = False
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=2)
    text: str = ""

    @property
    def digest(self) -> str:
        """Twelve hex digits of the file: tells edited versions of the same number apart."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def shows_pairs(self) -> bool:
        """Whether it shows pairs of positive and negative texts."""
        return any("$pairs" in stage.system + stage.user for stage in self.stages)

    def faults(self) -> list[str]:
        """Everything that is wrong with stages and placeholders."""
        *before, last = self.stages
        ends = f"{', '.join(ENDS[:-1])} or {ENDS[-1]}"
        found = [] if last.answer in ENDS else [f"the last stage must have schema {ends}, not {last.answer}"]
        found += [
            f"stage {stage.name!r}: before the last one, the schema must be objects or summary"
            for stage in before
            if stage.answer in ENDS
        ]
        if last.answer != "negatives" and before:
            found.append(f"a prompt for {last.answer} has one stage")
        first = frozenset(stage.answer for stage in before if stage.answer not in ENDS)
        for stage in before:
            found += stage.faults(frozenset(), frozenset())
        counted = last.answer == "negatives" and not self.single
        return found + last.faults(first | ({"n"} if counted else frozenset()), first)

    @property
    def purpose(self) -> str:
        """What it asks for: negatives, phrases or description."""
        return self.stages[-1].answer


class Pair(Record, frozen=True, kw_only=True):
    """A text that is true of an image and one, close to it, that is false."""

    positive: str
    negative: str
    edit_type: str


def fields(
    *,
    text: str = "",
    facts: Sequence[str] = (),
    classes: Sequence[str] = (),
    n: int = 1,
    pairs: Sequence[Pair] = (),
    avoid: Sequence[str] = (),
    concepts: Sequence[str] = (),
    examples: Sequence[str] = (),
) -> dict[str, str]:
    """The values of the placeholders that are known before the first stage, as they are written into a template."""
    shown = [f'- "{pair.positive}" -> "{pair.negative}" ({pair.edit_type})' for pair in pairs]
    return {
        "text": text,
        "facts": "; ".join(facts),  # the pocket writer was trained on exactly this
        "classes": ", ".join(classes) or "not given",
        "n": str(n),
        "pairs": "\n".join(shown) or "none",
        "avoid": "\n".join(f"- {sentence}" for sentence in avoid) or "none",
        "concepts": ", ".join(concepts) or "not given",
        "examples": "\n".join(f"- {sentence}" for sentence in examples) or "none",
    }


# Files


def prompts(home: Path) -> list[Prompt]:
    """The prompts in force, by name: an edited one instead of the shipped one of its name."""
    return [_read(path) for _, path in sorted(_files(home).items())]


def load(name: str, home: Path, digest: str | None = None) -> Prompt:
    """The prompt in force, or its version of that digest.

    Raises NotFound, listing the known prompts, or WinnowError with every fault of the file or for a version that is gone.
    """
    known = _files(home)
    if name not in known:
        raise NotFound("prompt", name, sorted(known))
    now = _read(known[name])
    if digest in (None, now.digest):
        return now
    kept = [prompt for prompt in history(home, name) if prompt.digest == digest]
    if not kept:
        raise WinnowError(
            f"The prompt {name!r} of digest {digest}, with which this began, is gone; in force is version {now.version} "
            f"of digest {now.digest}. Start anew."
        )
    return kept[0]


def save(home: Path, prompt_text: str) -> Prompt:
    """Put an edited or new prompt in force under the next version number, whatever number its text gives.

    The version before it is kept; a text that changes nothing is not saved again. Raises WinnowError for a faulty text.
    """
    draft = parse(prompt_text)
    now = load(draft.name, home) if draft.name in _files(home) else None
    if now is not None and _unnumbered(now.text) == _unnumbered(prompt_text):
        return now
    version = 1 + max((kept.version for kept in history(home, draft.name)), default=0)
    saved = parse(_VERSION.sub(f"version: {version}", prompt_text, count=1))
    if saved.version != version:
        raise WinnowError(f"The prompt {draft.name!r} needs its version on a line of its own, such as version: 1.")
    _keep(home, draft.name)
    _write(_own(home, saved.name), saved.text)
    return saved


def history(home: Path, name: str) -> list[Prompt]:
    """Every version of a prompt that there is, shipped, kept or in force, by number."""
    kept = sorted((home / "prompts").glob(f"{name}.v*.yaml"))
    paths = [path for path in (SHIPPED / f"{name}.yaml", *kept, _own(home, name)) if path.is_file()]
    return sorted({prompt.version: prompt for prompt in map(_read, paths)}.values(), key=lambda prompt: prompt.version)


def revert(home: Path, name: str) -> Prompt:
    """Put the version before the one in force back; returns it. The one in force is kept, and its number not used again.

    Raises NotFound, and WinnowError when there is no earlier version.
    """
    now = load(name, home)
    earlier = [prompt for prompt in history(home, name) if prompt.version < now.version]
    if not earlier:
        raise WinnowError(f"The prompt {name!r} is at its first version ({now.version}); there is none to go back to.")
    _keep(home, name)
    shipped = SHIPPED / f"{name}.yaml"
    if shipped.is_file() and shipped.read_text() == earlier[-1].text:
        _own(home, name).unlink()
    else:
        _write(_own(home, name), earlier[-1].text)
    return earlier[-1]


def parse(text: str, origin: str = "prompt") -> Prompt:
    """A prompt from YAML. Raises WinnowError that names each unknown key, bad value and wrong placeholder."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WinnowError(f"{origin} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise WinnowError(f"{origin} must be a mapping with name, version, title, stages; got {type(values).__name__}.")
    try:
        prompt = Prompt.model_validate({**values, "text": text})
    except ValidationError as error:
        raise _faulty(origin, [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]) from error
    if faults := prompt.faults():
        raise _faulty(origin, faults)
    return prompt


@cache
def shipped_pairs() -> tuple[Pair, ...]:
    """Examples that came with Winnow, of every edit type."""
    return msgspec.convert(yaml.safe_load((SHIPPED / PAIRS).read_text()), tuple[Pair, ...])


def _faulty(origin: str, faults: Sequence[str]) -> WinnowError:
    return WinnowError(f"{origin} has {len(faults)} fault(s):\n" + "\n".join(f"  {fault}" for fault in faults))


def _files(home: Path) -> dict[str, Path]:
    """Name -> the file in force. Kept versions have a dot in their stem."""
    shipped = [path for path in SHIPPED.glob("*.yaml") if path.name != PAIRS]
    own = [path for path in (home / "prompts").glob("*.yaml") if "." not in path.stem]
    return {path.stem: path for path in (*shipped, *own)}


def _own(home: Path, name: str) -> Path:
    return home / "prompts" / f"{name}.yaml"


def _read(path: Path) -> Prompt:
    prompt = parse(path.read_text(), str(path))
    if prompt.name != path.stem.partition(".")[0]:
        raise WinnowError(f"{path} holds a prompt named {prompt.name!r}; the file must be named after it.")
    return prompt


def _keep(home: Path, name: str) -> None:
    """Put the edited version in force, if there is one, aside under its number."""
    own = _own(home, name)
    if own.is_file():
        _write(own.with_name(f"{name}.v{_read(own).version}.yaml"), own.read_text())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text)
    os.replace(unfinished, path)


def _unnumbered(text: str) -> str:
    return _VERSION.sub("", text, count=1)

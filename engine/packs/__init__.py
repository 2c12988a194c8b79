"""Model packs: YAML files that name a backend and its options for each role."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from db.errors import NotFound, WinnowError
from engine.roles import Context

FOLDER = Path(__file__).parent
DEFAULT_PACK = "pocket"

# name: (module, class, what it is). A backend's module is imported when the backend is loaded, never before.
BACKENDS = {
    "rules": ("engine.backends.rules", "RulesWriter", "writer: changes one concept of a text by rules and a lexicon"),
    "hf_text": ("engine.backends.hf_text", "HFTextWriter", "writer: a chat model on this machine, by transformers"),
    "vllm": ("engine.backends.vllm_text", "VLLMWriter", "writer: a chat model on this machine, by vLLM"),
    "openai_chat": ("engine.backends.chat_writer", "OpenAIWriter", "writer: any OpenAI-compatible endpoint"),
    "paste": ("engine.backends.paste", "PastePainter", "painter: pastes an instance of the data set itself"),
    "careless": ("engine.labs.careless", "CarelessPainter", "painter: paste that errs at a known rate, for the lab"),
    "hf_diffusers": ("engine.backends.hf_diffusers", "DiffusersPainter", "painter: an inpainting model, by diffusers"),
    "annotated": ("engine.backends.annotated", "AnnotatedCaptioner", "captioner: says what the annotations say"),
    "hf_captioner": (
        "engine.backends.hf_captioner",
        "HFCaptioner",
        "captioner: BLIP, LLaVA, Qwen-VL, ..., by transformers",
    ),
    "collage": (
        "engine.backends.collage",
        "CollageIllustrator",
        "illustrator: lays out cut-outs of the data set itself",
    ),
    "hf_illustrator": (
        "engine.backends.hf_illustrator",
        "DiffusersIllustrator",
        "illustrator: a text-to-image model or GLIGEN, by diffusers",
    ),
    "openclip": ("engine.backends.openclip", "OpenCLIPEmbedder", "embedder: a CLIP model, by open_clip"),
    "aesthetic_head": ("engine.backends.aesthetic", "AestheticHead", "aesthetics: an MLP on the embedder's vectors"),
    "hf_detector": (
        "engine.backends.hf_detector",
        "ZeroShotDetector",
        "detector: Grounding DINO, OWLv2, ... by class name",
    ),
    "trained_detector": ("engine.roles", "detector_in", "detector: the folder of a model trained by Winnow"),
}
ROLES = ("writer", "painter", "captioner", "illustrator", "embedder", "aesthetics", "detector")
CHATS = ("hf_text", "vllm", "openai_chat")  # writers that are chat models
FINDS_PHRASES = ("hf_detector",)  # detectors that look for any words


class Role(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    backend: str
    options: dict[str, Any] = {}


class Pack(BaseModel):
    """`device` is what the pack cannot do without: "cuda", or "cpu" when it runs anywhere. `converses` is False when its writer is a
    chat model that knows the exchanges of its own prompts only."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    title: str
    summary: str
    needs: str
    device: str = "cpu"
    converses: bool = True
    writer: Role | None = None
    painter: Role | None = None
    captioner: Role | None = None
    illustrator: Role | None = None
    embedder: Role | None = None
    aesthetics: Role | None = None
    detector: Role | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles it fills."""
        return tuple(name for name in ROLES if getattr(self, name) is not None)

    @property
    def strategies(self) -> tuple[str, ...]:
        """How its writer can make negatives: "rules", or the names of its prompts."""
        if self.writer is None:
            return ()
        return tuple(self.writer.options.get("prompts", ())) if self.writer.backend != "rules" else ("rules",)

    @property
    def chats(self) -> bool:
        """Whether its writer follows any prompt."""
        return self.converses and self.writer is not None and self.writer.backend in CHATS

    @property
    def finds_phrases(self) -> bool:
        """Whether its detector looks for any words."""
        return self.detector is not None and self.detector.backend in FINDS_PHRASES

    @property
    def draws_from_data(self) -> bool:
        """Whether its illustrator shows only what the data set has boxes of."""
        return self.illustrator is not None and self.illustrator.backend == "collage"

    def lacks(self) -> list[str]:
        """What keeps this pack from running here, as far as can be seen without loading a model."""
        roles = [getattr(self, name) for name in ROLES]
        found = [sentence for role in roles if role is not None for sentence in _lacks(role)]
        if self.device == "cuda" and not Path("/dev/nvidiactl").exists():
            found.append("it needs a CUDA GPU, and there is none here")
        return list(dict.fromkeys(found))


def packs(home: Path | None = None) -> list[Pack]:
    """The shipped packs, the default first, then those of the data folder (`home/packs/*.yaml`), by name.

    Raises WinnowError that names each fault of a file.
    """
    shipped = sorted(
        (_read(path) for path in FOLDER.glob("*.yaml")), key=lambda pack: (pack.name != DEFAULT_PACK, pack.name)
    )
    own = [_read(path) for path in sorted((home / "packs").glob("*.yaml"))] if home else []
    return list({pack.name: pack for pack in (*shipped, *own)}.values())


def load_pack(name: str, home: Path | None = None) -> Pack:
    """Raises NotFound, listing the known packs."""
    known = {pack.name: pack for pack in packs(home)}
    if name not in known:
        raise NotFound("model pack", name, list(known))
    return known[name]


def prompt_digests(pack: Pack, home: Path) -> dict[str, str]:
    """The prompts of the pack's writer as they are in force, name -> digest. Raises NotFound for one that there is not."""
    from engine.prompts import load

    return {name: load(name, home).digest for name in pack.strategies if name != "rules"}


def backend(pack: Pack, role: str, context: Context) -> Any:
    """The loaded backend of a role. Raises WinnowError when the pack leaves that role empty, and for a wrong option."""
    chosen: Role | None = getattr(pack, role)
    if chosen is None:
        raise WinnowError(f"The pack {pack.name!r} has no {role}. Choose another pack or recipe.")
    module, name, _ = BACKENDS[chosen.backend]
    made = getattr(import_module(module), name)
    try:
        return made(context=context, **chosen.options)
    except TypeError as error:
        raise WinnowError(f"The pack {pack.name!r}, {role} {chosen.backend!r}: {error}") from error


def _read(path: Path) -> Pack:
    try:
        pack = Pack.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise WinnowError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        faults = "\n".join(f"  {'.'.join(map(str, e['loc'])) or 'pack'}: {e['msg']}" for e in error.errors())
        raise WinnowError(f"{path} has {error.error_count()} fault(s):\n{faults}") from error
    for name in ROLES:
        role: Role | None = getattr(pack, name)
        if role is not None and role.backend not in BACKENDS:
            raise NotFound(f"backend ({path}, {name})", role.backend, list(BACKENDS))
    return pack


def _lacks(role: Role) -> Iterator[str]:
    from engine.backends.hub import SHIPPED, downloads_allowed, locate
    from engine.outbound import allowed_endpoints, endpoint_of

    model, url, file = (role.options.get(option) for option in ("model", "base_url", "file"))
    if file is not None and not file.startswith(SHIPPED) and not Path(file).expanduser().is_file():
        yield f"the file {file} is not there"
    if url is not None:
        if endpoint_of(url).origin not in {endpoint.origin for endpoint in allowed_endpoints()}:
            yield f"the endpoint {endpoint_of(url).origin} is not among those allowed by WINNOW_ENDPOINTS"
        return
    if model is None:
        return
    try:
        remote = not Path(locate(model)).is_dir()
    except WinnowError as error:
        yield str(error)
        return
    if remote and not model.startswith(SHIPPED) and not downloads_allowed():
        yield f"the model {model} is fetched from a hub: allow it by WINNOW_DOWNLOADS=1, or name a local folder"

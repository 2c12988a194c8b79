"""MMDetection on today's PyTorch without a compiler.

Call `install()` before anything of `mmcv.ops`, `mmdet` or `mmengine.runner` is imported. It gives mmcv its operators
(`engine.training.operators`), registers mmdet's modules, and fits mmdet and mmengine to transformers 5 and to loading
without unpickling.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache, wraps
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch

from db.errors import WinnowError
from engine.training.operators import OPERATORS

NAME = "mmcv._ext"


class MissingOperator(WinnowError):
    """A model asked for an mmcv operator that is neither compiled nor supplied here."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"This model needs the mmcv operator {name!r}, which Winnow does not supply. Supplied: "
            f"{', '.join(sorted(OPERATORS))}. Choose a model without it, or install an mmcv compiled for torch "
            f"{torch.__version__}; Winnow then uses the compiled operators."
        )


@cache
def install() -> None:
    """Makes `mmcv.ops`, `mmdet` and mmengine's checkpoint loading work here. Calling it again changes nothing."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    _supply_operators()
    _load_without_unpickling()
    _fit_language_model()
    _fit_fusion()
    _fit_dino()
    from mmdet.utils import register_all_modules

    register_all_modules()


def _supply_operators() -> None:
    if NAME in sys.modules or importlib.util.find_spec(NAME) is not None:
        return
    import mmcv

    extension = ModuleType(NAME, "mmcv operators supplied by Winnow")
    extension.__spec__ = ModuleSpec(NAME, loader=None)
    extension.__dict__.update(OPERATORS, __getattr__=_missing)
    sys.modules[NAME] = mmcv._ext = extension


def _missing(name: str) -> Callable[..., NoReturn]:
    """mmcv looks every operator up when it is imported, so only the call may fail."""
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise MissingOperator(name)

    return refuse


def _load_without_unpickling() -> None:
    """mmengine falls back to full unpickling, which runs code out of the file, when the safe loader refuses; this
    does not."""
    from mmengine.runner import checkpoint

    def load(file: Any, map_location: Any = None, weights_only: bool | None = True) -> Any:
        with torch.serialization.safe_globals(_safe_globals()):
            try:
                return torch.load(file, map_location=map_location, weights_only=True)
            except Exception as error:
                raise WinnowError(
                    f"The checkpoint {file} was refused: it holds more than weights and plain values, or is damaged. "
                    f"Save it again as safetensors or with its state_dict only. ({error})"
                ) from error

    checkpoint._safe_torch_load = load


def _safe_globals() -> list[Any]:
    """mmengine's own list (histories, numpy scalars), with its `getattr`, a door to anything, narrowed to what
    histories need."""
    from mmengine.runner.checkpoint import get_torch_safe_globals

    return [known for known in get_torch_safe_globals() if known is not getattr] + [
        (_history_method, "builtins.getattr")
    ]


def _history_method(owner: type, name: str) -> Callable[..., Any]:
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise WinnowError(f"it asks for the attribute {name!r} of {owner!r}")
    return getattr(HistoryBuffer, name)


def _fit_language_model() -> None:
    """transformers 5 moved a function that mmdet's fusion imports, has no `batch_encode_plus`, and wants a mask of token
    pairs as [batch, 1, tokens, tokens]."""
    from transformers import modeling_utils, pytorch_utils

    known: Any = modeling_utils
    known.apply_chunking_to_forward = pytorch_utils.apply_chunking_to_forward
    from mmdet.models.language_models.bert import BertEncoder
    from transformers import PreTrainedTokenizerBase

    tokenizer: Any = PreTrainedTokenizerBase
    if not hasattr(tokenizer, "batch_encode_plus"):
        tokenizer.batch_encode_plus = tokenizer.__call__
    BertEncoder.forward = _with_pair_mask(BertEncoder.forward)


def _with_pair_mask(forward: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @wraps(forward)
    def adapted(self: torch.nn.Module, x: dict[str, Any]) -> dict[str, Any]:
        mask = x["attention_mask"]
        if mask.dim() == 2:
            return forward(self, x)
        return {**forward(self, {**x, "attention_mask": mask[:, None]}), "masks": mask}

    return adapted


def _fit_fusion() -> None:
    """GLIP's layer of BERT between fusions calls transformers with arguments that version 5 does not take."""
    from mmdet.models.utils.vlfuse_helper import BertEncoderLayer

    BertEncoderLayer.forward = _between_fusions


def _between_fusions(self: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    lang = inputs["lang"]
    hidden = lang["hidden"]
    hide = (1 - lang["masks"][:, None, None].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
    attended = self.attention.output(self.attention.self(hidden, hide)[0], hidden)
    return {"visual": inputs["visual"], "lang": {**lang, "hidden": self.feed_forward_chunk(attended)}}


def _fit_dino() -> None:
    """This mmdet codes a reference box by twice as many numbers as DINO (Zhang et al. 2023), published weights, and its own
    Grounding DINO have, which then does not run."""
    from mmdet.models.layers.transformer import dino_layers

    encode, make = dino_layers.coordinate_to_encoding, dino_layers.DinoTransformerDecoder._init_layers

    def narrow(points: torch.Tensor, num_feats: int) -> torch.Tensor:
        return encode(points, num_feats=num_feats // 2)

    def with_narrow(self: Any) -> None:
        make(self)
        self.ref_point_head = dino_layers.MLP(self.embed_dims * 2, self.embed_dims, self.embed_dims, 2)

    dino_layers.coordinate_to_encoding = narrow
    dino_layers.DinoTransformerDecoder._init_layers = with_narrow

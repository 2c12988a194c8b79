"""Classifiers that compare a feature with CLIP's texts of the class names (RichSem, METHODS 3.2.2), and the federated
loss.

The texts are kept with the weights, so a trained detector needs no CLIP. While it is trained they come from CLIP,
whatever weights it starts from: a projection that was learnt with other classes fits these as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

from mmdet.models.dense_heads import DINOHead
from mmdet.models.detectors import DINO
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from engine.soft_labels import named

NONE = "none"  # what a class without a name is called


class Clip:
    """A frozen CLIP that is no part of the model that looks at it: neither its weights nor its copies are the
    model's."""

    def __init__(self, network: Any, tokenizer: Any, form: Mapping[str, Any]) -> None:
        self.network, self.tokenizer, self.form = network, tokenizer, form
        self.scale = float(self.network.logit_scale.detach().exp())
        self._texts: dict[tuple[str, ...], Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Clip:
        return self

    @torch.no_grad()
    def texts(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """(classes, width) unit vectors on the CPU: the mean of CLIP's raw vectors over the templates, then normalised
        (METHODS 3.2.2). A class without a name is "none"."""
        known = (*names, "\0", *templates)
        if known not in self._texts:
            each = [self._raw([t.format(named(name) or NONE) for name in names]) for t in templates]
            self._texts[known] = F.normalize(torch.stack(each).mean(0), dim=-1)
        return self._texts[known]

    def _raw(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(texts))
        device = next(self.network.parameters()).device
        return self.network.encode_text(tokens.to(device)).float().cpu()


@lru_cache(maxsize=2)
def load(model: str, pretrained: str | None = None) -> Clip:
    """A CLIP by the names of `engine.backends.openclip`. Raises WinnowError for one that is missing or unknown."""
    from engine.backends.openclip import load_clip

    return Clip(*load_clip(model, pretrained))


def texts_of(prompts: Mapping[str, Any]) -> Tensor:
    """(classes, width) unit vectors of the classes that `prompts` names: {model, pretrained, names, templates}."""
    return load(prompts["model"], prompts["pretrained"]).texts(prompts["names"], prompts["templates"])


class _Texts(nn.Module):
    """Frozen unit vectors (classes, width). With `prompts` they are CLIP's, and those of loaded weights are passed
    over."""

    texts: Tensor

    def __init__(self, classes: int, width: int, prompts: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._own = prompts is not None
        self.register_buffer("texts", torch.zeros(classes, width) if prompts is None else texts_of(prompts).clone())

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        if self._own and f"{prefix}texts" in state_dict:
            state_dict[f"{prefix}texts"] = self.texts
        super()._load_from_state_dict(state_dict, prefix, *arguments)


@MODELS.register_module()
class TextClassifier(_Texts):
    """Logits exp(s) · cos(W x, text) + offset, W without bias, s and the texts frozen. `scale` is exp(s); the offset,
    one number, is what `prior` asks for."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int,
        scale: float,
        prior: float | None = None,
        prompts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(out_features, width, prompts)
        self.project = nn.Linear(in_features, width, bias=False)
        self.in_features, self.out_features, self.scale = in_features, out_features, scale
        self.offset = 0.0 if prior is None else math.log(prior / (1 - prior))

    def forward(self, features: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return self.scale * F.normalize(self.project(features), dim=-1) @ self.texts.T + self.offset


class TextLabels(_Texts):
    """Queries [..., size] of class numbers: a linear map of their texts (METHODS 3.2.2), in the place of an embedding
    for each class."""

    def __init__(self, classes: int, width: int, size: int, prompts: Mapping[str, Any] | None = None) -> None:
        super().__init__(classes, width, prompts)
        self.project = nn.Linear(width, size)

    def forward(self, labels: Tensor) -> Tensor:
        """Class numbers [...] -> [..., size]."""
        return self.project(self.texts[labels])

    @property
    def weight(self) -> Tensor:
        """What mmdet gives a gradient of 0 to when a batch has no objects."""
        return self.project.weight


@MODELS.register_module()
class TextDINO(DINO):
    """DINO whose denoising queries begin as texts of the classes; `labels` holds what TextLabels takes beyond the
    sizes."""

    def __init__(self, *arguments: Any, labels: dict[str, Any], **options: Any) -> None:
        super().__init__(*arguments, **options)
        made = TextLabels(self.bbox_head.num_classes, size=self.embed_dims, **labels)
        self.dn_query_generator.label_embedding = made


@MODELS.register_module()
class TextDINOHead(DINOHead):
    """DINOHead with a text classifier on every layer; `classifier` holds what TextClassifier takes beyond the sizes.
    None leaves DINOHead as it is."""

    def __init__(self, *arguments: Any, classifier: dict[str, Any] | None = None, **options: Any) -> None:
        self._classifier = classifier
        super().__init__(*arguments, **options)

    def _init_layers(self) -> None:
        super()._init_layers()
        if self._classifier is None:
            return
        one = TextClassifier(self.embed_dims, self.cls_out_channels, **self._classifier)
        each = (one if self.share_pred_layer else deepcopy(one) for _ in range(self.num_pred_layer))
        self.cls_branches = nn.ModuleList(each)


@MODELS.register_module()
class FederatedLoss(nn.Module):
    """Binary cross-entropy over the classes of the batch and some others only: a class that is not labelled everywhere
    is seldom taken for absent (METHODS 3.3, after Zhou et al. 2021).

    The others are drawn anew for each loss, in proportion to the root of `counts`, the images of each class, until
    there are `classes` in all; without `classes` all classes count. With `gamma` the loss is focal (RichSem: alpha
    0.25, gamma 2). The labels are class numbers; that of background is the number of classes.
    """

    use_sigmoid = custom_cls_channels = custom_activation = custom_accuracy = True

    def __init__(
        self,
        classes: int | None = None,
        counts: Sequence[int] = (),
        gamma: float = 0.0,
        alpha: float | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self._classes, self._gamma, self._alpha, self.loss_weight = classes, gamma, alpha, loss_weight
        self._chances = [math.sqrt(count) for count in counts]

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The sum over logits [n,classes] by labels [n] and weights [n], divided by `avg_factor` (n without)."""
        wanted = F.one_hot(labels, logits.shape[1] + 1)[:, :-1]
        if self._classes is not None:
            chosen = self.chosen(wanted.any(0))
            logits, wanted = logits[:, chosen], wanted[:, chosen]
        loss = _binary(logits, wanted.to(logits.dtype), self._gamma, self._alpha).sum(1)
        total = (loss if weight is None else loss * weight).sum()
        return self.loss_weight * total / (len(labels) if avg_factor is None else avg_factor)

    def chosen(self, present: Tensor) -> Tensor:
        """Which classes count [classes]: those present [classes], and drawn ones; all when there are no more than
        asked."""
        chances = torch.tensor(self._chances, device=present.device) * ~present
        missing = min(int(self._classes or 0) - int(present.sum()), int((chances > 0).sum()))
        if missing <= 0:
            return present
        drawn = present.clone()
        drawn[torch.multinomial(chances, missing)] = True
        return drawn

    def get_cls_channels(self, num_classes: int) -> int:
        """Logits of a head: none for background."""
        return num_classes

    def get_activation(self, logits: Tensor) -> Tensor:
        """Scores [n,classes+1], those of background 0, which mmdet passes over."""
        return torch.cat([logits.sigmoid(), logits.new_zeros(len(logits), 1)], 1)

    def get_accuracy(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Per cent of the labelled objects whose best class is theirs."""
        objects = labels < logits.shape[1]
        right = (logits.argmax(1) == labels)[objects].float()
        return {"acc": 100 * right.sum() / max(len(right), 1)}


def _binary(logits: Tensor, wanted: Tensor, gamma: float, alpha: float | None) -> Tensor:
    """Binary cross-entropy of each logit, focal (Lin et al. 2017) with a gamma."""
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    if gamma:
        missed = torch.where(wanted > 0, 1 - logits.sigmoid(), logits.sigmoid())
        loss = loss * missed**gamma
    if alpha is not None:
        loss = loss * torch.where(wanted > 0, alpha, 1 - alpha)
    return loss


# Detectors with them


def with_texts(model: dict[str, Any], width: int, scale: float, prior: float | None = None) -> ConfigDict:
    """The configuration of a detector whose classifier compares with texts, and whose boxes are fitted by one regression for
    all classes: one of its own would learn from the few boxes of its class alone, and, of an image that shows a whole class,
    from nothing but the image's border. Raises WinnowError for a head that cannot."""
    changed = ConfigDict(deepcopy(model))
    settings: dict[str, Any] = {"width": width, "scale": scale, "prior": prior}
    if changed.type == "DINO" and changed.bbox_head.type == "DINOHead":
        changed.bbox_head.update(type="TextDINOHead", classifier=settings)
        changed.update(type="TextDINO", labels={"width": width})
        return changed
    head = _box_head(changed, "A classifier by texts")
    head.update(cls_predictor_cfg={"type": "TextClassifier", **settings}, reg_class_agnostic=True)
    if head.loss_cls.type != "FederatedLoss":
        head.loss_cls = {"type": "FederatedLoss", "loss_weight": head.loss_cls.get("loss_weight", 1.0)}
    return changed


def with_federated_loss(model: dict[str, Any], classes: int, counts: Sequence[int]) -> ConfigDict:
    """The configuration of a detector whose loss of classes is federated; `counts` are images by class. Raises
    WinnowError for a head that cannot."""
    changed = ConfigDict(deepcopy(model))
    federated: dict[str, Any] = {"type": "FederatedLoss", "classes": classes, "counts": list(counts)}
    if (changed.get("bbox_head") or {}).get("type") in ("DINOHead", "TextDINOHead"):
        before = changed.bbox_head.loss_cls
        focal = {
            name: before.get(name, usual) for name, usual in (("gamma", 2.0), ("alpha", 0.25), ("loss_weight", 1.0))
        }
        changed.bbox_head.loss_cls = {**federated, **focal}
        return changed
    head = _box_head(changed, "A federated loss")
    head.loss_cls = {**federated, "loss_weight": head.loss_cls.get("loss_weight", 1.0)}
    return changed


def with_prompts(model: dict[str, Any], prompts: dict[str, Any]) -> ConfigDict:
    """The configuration `with_texts` for its training: the texts are CLIP's."""
    changed = ConfigDict(deepcopy(model))
    if changed.type == "TextDINO":
        changed.bbox_head.classifier.prompts = changed.labels.prompts = prompts
    else:
        changed.roi_head.bbox_head.cls_predictor_cfg.prompts = prompts
    return changed


def _box_head(model: ConfigDict, wish: str) -> ConfigDict:
    """The second stage of a two-stage detector, all whose boxes are classified at once."""
    head = (model.get("roi_head") or {}).get("bbox_head")
    if not isinstance(head, dict) or "loss_cls" not in head:
        seen = next((model[part].type for part in ("bbox_head", "roi_head") if model.get(part)), model.get("type"))
        raise WinnowError(
            f"{wish} is possible with DINO (DINOHead) and with detectors of two stages (StandardRoIHead); this one has "
            f"{seen}."
        )
    return head

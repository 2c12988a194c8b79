"""DetCLIPv2 (Yao et al. 2023; METHODS 4): ATSS whose regions are compared with separately encoded texts.

There is no fusion: a text is encoded by itself, so that any vocabulary can be asked for, and no text changes the answer to
another one. A sample says what it teaches by its `source` (see `engine.pair_options.SOURCES`) and which `concepts` it is
asked for; `named[i]` are the places of the concepts that name its i-th box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from db.errors import WinnowError
from engine.concepts import prompt
from engine.pair_options import PairOptions
from engine.training import mmlab

mmlab.install()

from mmdet.models.dense_heads.atss_head import ATSSHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.utils import filter_scores_and_topk
from mmdet.registry import MODELS as BUILDERS
from mmdet.utils import reduce_mean
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.structures import InstanceData

from engine.training.word_region import chosen_regions, gathered, pair_loss, proposal_scores

NOTHING = 1 << 20
"""The label of an anchor that shows no box; others are the place of their box in the image."""
MOST_CACHED = 20_000


class Regions(NamedTuple):
    """What the head says of every anchor: unit features [images, anchors, d], boxes as deltas [images, anchors, 4] and how
    central they are, as logits [images, anchors]. `sizes` are (height, width) of each level."""

    features: Tensor
    deltas: Tensor
    centerness: Tensor
    sizes: list[tuple[int, int]]


@BUILDERS.register_module()
class ConceptEncoder(nn.Module):
    """Texts as unit vectors of `width` numbers, each text read by itself, its first `max_tokens` tokens.

    `folder` holds a BERT for transformers, whose tokens are averaged, or a model of open_clip, of which the text tower is
    kept. Raises WinnowError for a folder that holds neither.
    """

    def __init__(self, folder: str, width: int, max_tokens: int = 16) -> None:
        super().__init__()
        kind = OpenClipTower if (Path(folder) / "open_clip_config.json").is_file() else BertTower
        self.tower = kind(Path(folder), max_tokens)
        self.projection = nn.Linear(self.tower.width, width)
        self._known: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> ConceptEncoder:
        """Also forgets the vectors, which a training changes."""
        self._known.clear()
        return super().train(mode)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """[texts, width]; in evaluation, a text that was asked before is not read again."""
        if self.training or torch.is_grad_enabled():
            return F.normalize(self.projection(self.tower(texts)), dim=-1)
        fresh = list(dict.fromkeys(text for text in texts if text not in self._known))
        if len(self._known) + len(fresh) > MOST_CACHED:
            self._known.clear()
            fresh = list(dict.fromkeys(texts))
        if fresh:
            self._known.update(zip(fresh, F.normalize(self.projection(self.tower(fresh)), dim=-1), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def _apply(self, *args: Any, **options: Any) -> Any:
        self._known.clear()  # they would stay on the device they are on
        return super()._apply(*args, **options)


class BertTower(nn.Module):
    """The mean of a BERT's last hidden states over the tokens of a text."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        from transformers import AutoTokenizer, BertModel

        super().__init__()
        try:
            self.bert = BertModel.from_pretrained(str(folder), add_pooling_layer=False, local_files_only=True)
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError) as error:
            raise WinnowError(f"{folder} is no folder of a BERT or of a model of open_clip: {error}") from error
        self.width, self._most = int(self.bert.config.hidden_size), max_tokens

    def forward(self, texts: Sequence[str]) -> Tensor:
        options = {"padding": True, "truncation": True, "max_length": self._most}
        tokens = self._tokenizer(list(texts), return_tensors="pt", **options).to(self.bert.device)
        states = self.bert(tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        shown = tokens["attention_mask"][..., None].to(states.dtype)
        return (states * shown).sum(1) / shown.sum(1)


class OpenClipTower(nn.Module):
    """The text side of a model of open_clip, which reads as many tokens as it was made for, whatever `max_tokens` is."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        import open_clip

        super().__init__()
        place = f"{open_clip.factory.LOCAL_DIR_PREFIX}{folder}"
        try:
            self.clip = open_clip.create_model(place)
            self._tokenizer = open_clip.get_tokenizer(place)
        except (OSError, ValueError, RuntimeError, LookupError) as error:
            raise WinnowError(f"{folder} is no model of open_clip: {error}") from error
        del self.clip.visual
        for name in ("logit_scale", "logit_bias"):  # of comparing with whole images, which nothing does here
            if getattr(self.clip, name, None) is not None:
                getattr(self.clip, name).requires_grad_(False)
        with torch.no_grad():
            self.width = int(self(["a"]).shape[-1])

    def forward(self, texts: Sequence[str]) -> Tensor:
        device = next(self.clip.parameters()).device
        return self.clip.encode_text(self._tokenizer(list(texts)).to(device))


class DeformableConvolution(nn.Module):
    """A modulated deformable convolution of 3x3 (DCNv2, Zhu et al. 2019, equation 1) without bias, by torch's own sampling of
    images: the numbers of mmcv's operator, in a fifth of its time on a CPU."""

    taps: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        near = torch.arange(-1.0, 2.0)
        self.register_buffer("taps", torch.stack(torch.meshgrid(near, near, indexing="ij"), -1).view(9, 2), False)

    def forward(self, x: Tensor, offsets: Tensor, modulation: Tensor) -> Tensor:
        """[n, c, h, w], the (y, x) offsets of nine taps [n, 18, h, w] in pixels, their weights [n, 9, h, w] -> [n, c', h, w]."""
        n, channels, height, width = x.shape
        rows, columns = (torch.arange(size, device=x.device, dtype=x.dtype) for size in (height, width))
        here = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        at = here + self.taps[..., None, None] + offsets.view(n, 9, 2, height, width)
        size = x.new_tensor([width, height])
        grid = (at.flip(2).movedim(2, -1) + 0.5) * 2 / size - 1
        taken = F.grid_sample(x, grid.reshape(n, 9 * height, width, 2), align_corners=False)
        weighted = taken.view(n, channels, 9, height, width) * modulation[:, None]
        return torch.einsum("ncthw,oct->nohw", weighted, self.weight.flatten(2))


@BUILDERS.register_module()
class AlignedHead(ATSSHead):
    """ATSS's head with a feature of every anchor in the place of its class scores (METHODS 4.3).

    The classification branch begins with a modulated deformable convolution over the pyramid's features whose offsets and
    modulation are told by the regression branch: so what is learnt of words reaches the regression branch too, for which
    image-text pairs have no boxes. It starts as a convolution without offsets.
    """

    def __init__(self, embed_dims: int, in_channels: int, feat_channels: int = 256, **options: Any) -> None:
        init = {"type": "Normal", "layer": "Conv2d", "std": 0.01}
        super().__init__(embed_dims, in_channels, feat_channels=feat_channels, init_cfg=init, **options)
        self.num_classes = NOTHING
        self.offsets = nn.Conv2d(feat_channels, 27, 3, padding=1)
        self.deform = DeformableConvolution(in_channels, in_channels)
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-math.log((1 - 0.01) / 0.01)))

    def init_weights(self) -> None:
        super().init_weights()
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)

    def forward_single(self, x: Tensor, scale: Any) -> Any:
        """(features [n, d, h, w], deltas [n, 4, h, w], centerness [n, 1, h, w]) of a level."""
        where = x
        for convolution in self.reg_convs:
            where = convolution(where)
        moved = self.offsets(where)
        what = F.relu(self.deform(x, moved[:, :18], moved[:, 18:].sigmoid()))
        for convolution in self.cls_convs:
            what = convolution(what)
        return self.atss_cls(what), scale(self.atss_reg(where)).float(), self.atss_centerness(where)

    def regions(self, x: Sequence[Tensor]) -> Regions:
        """All levels in one, the anchors in their order."""
        features, deltas, centerness = self(tuple(x))
        sizes = [tuple(level.shape[-2:]) for level in deltas]
        found = F.normalize(_flat(features).float(), dim=-1)
        return Regions(found, _flat(deltas), _flat(centerness)[..., 0], sizes)

    def logits(self, features: Tensor, words: Tensor) -> Tensor:
        """How surely each anchor is each concept: cosines with a learnt scale and bias, [..., concepts]. Only L_align learns
        these; pairs compare plain cosines (METHODS 4.4)."""
        return self.scale.exp() * (features @ words.T) + self.bias

    def align_loss(
        self, found: Regions, words: Tensor, named: Sequence[Tensor], samples: Sequence[Any], options: PairOptions
    ) -> dict[str, Tensor]:
        """L_align = focal(S, G) over all concepts of the batch, with ATSS's assignment, and for detection data alpha times
        GIoU and beta times centerness (METHODS 4.4, "Total"). `named[i]` [boxes, concepts] says what names which box."""
        metas = [sample.metainfo for sample in samples]
        anchors, valid = self.get_anchors(found.sizes, metas, device=words.device)
        boxes = [sample.gt_instances.bboxes.to(words.device) for sample in samples]
        truth = [InstanceData(bboxes=own, labels=torch.arange(len(own), device=words.device)) for own in boxes]
        targets = self.get_targets(anchors, valid, truth, metas)
        assert targets is not None
        places, labels, weights, goals = (torch.cat(list(levels), 1) for levels in targets[:4])
        positives = reduce_mean(words.new_tensor(float(targets[5]))).clamp(min=1).item()
        shown = labels != NOTHING
        wanted = torch.zeros(*labels.shape, len(words), device=words.device)
        for image, names in enumerate(named):
            wanted[image, shown[image]] = names.to(words.device)[labels[image, shown[image]]]
        logits = self.logits(found.features, words).flatten(0, 1)
        losses = {"loss_align": self.loss_cls(logits, wanted.flatten(0, 1), weights.flatten(), avg_factor=positives)}
        boxed = samples[0].source == "detection"
        return losses | (self._box_losses(found, places, goals, shown, positives, options) if boxed else {})

    def _box_losses(
        self, found: Regions, places: Tensor, goals: Tensor, shown: Tensor, positives: float, options: PairOptions
    ) -> dict[str, Tensor]:
        """As ATSS has them: GIoU weighted by how central an anchor lies, and that as something to learn."""
        if not shown.any():
            reduce_mean(places.new_zeros(()))  # every process takes part
            return {"loss_bbox": found.deltas.sum() * 0, "loss_centerness": found.centerness.sum() * 0}
        decoded = self.bbox_coder.decode(places[shown], found.deltas[shown])
        central = self.centerness_target(places[shown], goals[shown])
        total = reduce_mean(central.sum().detach()).clamp(min=1).item()
        loss_bbox = self.loss_bbox(decoded, goals[shown], weight=central, avg_factor=1.0) / total
        loss_centerness = self.loss_centerness(found.centerness[shown], central, avg_factor=positives)
        return {
            "loss_bbox": options.regression_weight * loss_bbox,
            "loss_centerness": options.centerness_weight * options.centerness * loss_centerness,
        }

    def boxes(self, found: Regions, metas: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """(boxes of all anchors xyxy [images, anchors, 4], cut at the border; which anchors lie in the picture and not in its
        padding, [images, anchors])."""
        priors = torch.cat(self.prior_generator.grid_priors(found.sizes, device=found.deltas.device))
        height_width = found.deltas.new_tensor([meta["img_shape"][:2] for meta in metas])
        centers = (priors[:, :2] + priors[:, 2:]) / 2
        inside = (centers[None] < height_width[:, None].flip(-1)).all(-1)
        boxes = [
            self.bbox_coder.decode(priors, deltas.detach(), max_shape=meta["img_shape"][:2])
            for deltas, meta in zip(found.deltas, metas, strict=True)
        ]
        return torch.stack(boxes), inside

    def found(
        self, regions: Regions, image: int, words: Tensor, meta: dict[str, Any], *, centerness: bool, rescale: bool
    ) -> InstanceData:
        """The detections of one image; the label of each is the place of its text."""
        priors = torch.cat(self.prior_generator.grid_priors(regions.sizes, device=words.device))
        scores = self.logits(regions.features[image], words).sigmoid()
        if centerness:
            scores = scores * regions.centerness[image].sigmoid()[:, None]
        kept = {"deltas": regions.deltas[image], "priors": priors}
        scores, labels, _, kept = filter_scores_and_topk(scores, self.test_cfg.score_thr, self.test_cfg.nms_pre, kept)
        boxes = self.bbox_coder.decode(kept["priors"], kept["deltas"], max_shape=meta["img_shape"][:2])
        results = InstanceData(bboxes=boxes, scores=scores, labels=labels)
        return self._bbox_post_process(results, self.test_cfg, rescale=rescale, with_nms=True, img_meta=meta)


@BUILDERS.register_module()
class DetCLIP(SingleStageDetector):
    """The detector: backbone, pyramid, head, and a text encoder beside them.

    `pairs` are the `PairOptions` as plain values, `known` the classes of the detection data, for the selection by class.
    With `definitions`, a class is asked for as "name, definition".
    """

    def __init__(
        self,
        text_encoder: dict[str, Any],
        pairs: dict[str, Any] | None = None,
        known: Sequence[str] = (),
        definitions: dict[str, str] | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self.text_encoder = BUILDERS.build(text_encoder)
        self.options, self.known = PairOptions.model_validate(pairs or {}), tuple(known)
        self.definitions = dict(definitions or {})

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[Any]) -> dict[str, Tensor]:
        """The losses of a batch, all of whose samples are of one source."""
        found = self.bbox_head.regions(self.extract_feat(batch_inputs))
        words, places = self.concepts([sample.concepts for sample in batch_data_samples])
        if batch_data_samples[0].source == "pairs":
            losses = {"loss_pairs": self.options.weight * self._pair_loss(found, words, places, batch_data_samples)}
        else:
            named = [_named(*one, len(words)) for one in zip(batch_data_samples, _own(places, found), strict=True)]
            losses = self.bbox_head.align_loss(found, words, named, batch_data_samples, self.options)
        return losses | {"loss_unused": self._nothing(found)}

    def predict(self, batch_inputs: Tensor, batch_data_samples: list[Any], rescale: bool = True) -> list[Any]:
        """Finds what each sample's `text` says at its `tokens_positive`, a list of [start, end) for each thing."""
        found = self.bbox_head.regions(self.extract_feat(batch_inputs))
        results = [
            self.bbox_head.found(
                found,
                place,
                self.text_encoder([prompt(text, self.definitions) for text in asked_of(sample)]),
                sample.metainfo,
                centerness=self.options.centerness,
                rescale=rescale,
            )
            for place, sample in enumerate(batch_data_samples)
        ]
        return self.add_pred_to_datasample(batch_data_samples, results)

    def concepts(self, own: Sequence[Sequence[str]]) -> tuple[Tensor, list[list[int]]]:
        """(the different texts of all samples of all processes as unit vectors [concepts, d]; the places of the texts of each
        sample, those of the first process first). Every process encodes its part of the texts (METHODS 4.2)."""
        samples = [list(texts) for process in all_gather_object([list(texts) for texts in own]) for texts in process]
        listed = list(dict.fromkeys(text for texts in samples for text in texts))
        place = {text: number for number, text in enumerate(listed)}
        rank, processes = get_dist_info()
        share = math.ceil(len(listed) / processes)
        mine = [listed[number % len(listed)] for number in range(rank * share, (rank + 1) * share)]
        return gathered(self.text_encoder(mine))[: len(listed)], [[place[text] for text in texts] for texts in samples]

    def proposals(
        self, found: Regions, words: Tensor, own: Sequence[Sequence[int]], metas: Any
    ) -> tuple[Tensor, Tensor]:
        """(features of the regions that the texts may choose from [images, k, d], which of them are some)."""
        place, shown, _ = self.places(found, words, own, metas)
        return found.features.gather(1, place[..., None].expand(-1, -1, found.features.shape[-1])), shown

    @torch.no_grad()
    def places(
        self, found: Regions, words: Tensor, own: Sequence[Sequence[int]], metas: Sequence[dict[str, Any]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(anchors of the regions [images, k], which of them are some, the boxes of all anchors [images, anchors, 4])."""
        boxes, inside = self.bbox_head.boxes(found, metas)
        sure = self._surely_known(found) if self.options.selection == "classification" else found.centerness
        scores = proposal_scores(found.features @ words.T, own, self.options.selection, sure, found.centerness)
        scores = scores.masked_fill(~inside, -torch.inf)
        place, shown = chosen_regions(boxes, scores, self.options.proposals, self.options.nms_iou)
        return place, shown & inside.gather(1, place), boxes

    def _surely_known(self, found: Regions) -> Tensor:
        return (found.features @ self.text_encoder(self.known).T).amax(-1)

    def _pair_loss(self, found: Regions, words: Tensor, places: list[list[int]], samples: Sequence[Any]) -> Tensor:
        regions, shown = self.proposals(found, words, _own(places, found), [sample.metainfo for sample in samples])
        said = torch.zeros(len(places), len(words), dtype=torch.bool, device=words.device)
        for text, concepts in enumerate(places):
            said[text, concepts] = True
        return pair_loss(regions, words, said, self.options, shown)

    def _nothing(self, found: Regions) -> Tensor:
        """Zero, in which everything takes part: a distributed training waits for the gradient of every weight."""
        return 0 * (found.deltas.sum() + found.centerness.sum() + self.bbox_head.scale + self.bbox_head.bias)


def asked_of(sample: Any) -> list[str]:
    """The texts that a sample is asked for."""
    return [sample.text[spans[0][0] : spans[-1][1]] for spans in sample.tokens_positive]


def _own(places: list[list[int]], found: Regions) -> list[list[int]]:
    """The concepts of this process's samples among those of all."""
    rank, count = get_dist_info()[0], len(found.features)
    return places[rank * count : (rank + 1) * count]


def _named(sample: Any, places: Sequence[int], concepts: int) -> Tensor:
    """What names which box of a sample, [boxes, concepts]."""
    named = torch.zeros(len(sample.named), concepts)
    for box, own in enumerate(sample.named):
        named[box, [places[one] for one in own]] = 1
    return named


def _flat(levels: Sequence[Tensor]) -> Tensor:
    """[n, c, h, w] of every level -> [n, anchors, c]."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)

"""BLIP, or ALBEF, as a model that trains on where it looks: ALBEF's three losses, and AMC's on the maps.

Sources: Li et al. 2021, "Align before Fuse" (ALBEF), section 3, for ITC, ITM and MLM with a momentum model; Li et al. 2022
(BLIP) for the network, which is transformers' own class. BLIP's public checkpoints for retrieval have no head that guesses
words, so that MLM is left out for them; ALBEF's have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import BlipConfig, BlipForImageTextRetrieval
from transformers.models.blip.modeling_blip_text import BlipTextOnlyMLMHead

from db.errors import WinnowError
from engine.backends.hub import from_pretrained_options, locate, missing
from engine.training import mmlab
from engine.training.albef import is_albef, read_albef

mmlab.install()

from mmengine.dist import all_gather
from mmengine.model import BaseModel
from mmengine.registry import MODELS

from engine.training.attention import Margins, amc_loss, enlarged, explanation_maps

Samples = Mapping[str, Sequence[Any]]

MATCH = 1  # of the two logits
COLDEST, HOTTEST, WARM = 0.001, 0.5, 0.07
HIDDEN, MASKED, RANDOM = 0.15, 0.8, 0.1  # share of words to guess; of these, shown as [MASK], or as any word
IGNORED = -100


class Unseeing(nn.Module):
    """In the place of the cross-attention of a text layer: the text stays as it is."""

    def forward(self, hidden_states: Tensor, **others: Any) -> tuple[Tensor, None]:
        return hidden_states, None


class Matcher(nn.Module):
    """Transformers' BLIP and, with `guesses`, a head that guesses hidden words. With `fusion`, ALBEF: only text layers from that
    one on see the image, and texts are read by those before it alone. Images are float [b,3,h,w], normalised; texts are token ids
    [b,t] with `tokens` [b,t], 1 where there is no padding."""

    def __init__(self, config: BlipConfig, guesses: bool, fusion: int = 0) -> None:
        super().__init__()
        self._fusion = fusion
        self.blip = BlipForImageTextRetrieval(config)
        layers: Any = self.blip.text_encoder.encoder.layer
        for layer in layers[:fusion]:
            layer.crossattention = Unseeing()
        self.words = BlipTextOnlyMLMHead(config.text_config) if guesses else None
        if self.words is not None:
            self.words.predictions.decoder.weight = self.blip.get_input_embeddings().weight
            self.words.predictions.decoder.bias = self.words.predictions.bias

    def seen(self, images: Tensor) -> Tensor:
        """[b,1+patches,d]."""
        return self.blip.vision_model(pixel_values=images, interpolate_pos_encoding=True).last_hidden_state

    def image_features(self, seen: Tensor) -> Tensor:
        """Unit vectors [b,d]."""
        return normalize(self.blip.vision_proj(seen[:, 0]), dim=-1)

    def text_features(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """Unit vectors [b,d] of texts read without an image."""
        told = self.blip.text_encoder(input_ids=ids, attention_mask=tokens, output_hidden_states=bool(self._fusion))
        read = told.hidden_states[self._fusion] if self._fusion else told.last_hidden_state
        return normalize(self.blip.text_proj(read[:, 0]), dim=-1)

    def read(self, ids: Tensor, tokens: Tensor, seen: Tensor) -> Tensor:
        """Texts read with their images: [b,t,d]."""
        return self.blip.text_encoder(
            input_ids=ids, attention_mask=tokens, encoder_hidden_states=seen
        ).last_hidden_state

    @contextmanager
    def watched(self, layer: int) -> Iterator[list[Tensor]]:
        """Fills the list with the cross-attention [b,heads,t,1+patches] of a text layer at every reading."""
        kept: list[Tensor] = []
        read: Any = self.blip.text_encoder.encoder.layer[layer]
        handle = read.crossattention.self.register_forward_hook(lambda module, inputs, output: kept.append(output[1]))
        try:
            yield kept
        finally:
            handle.remove()

    def matches(self, read: Tensor) -> Tensor:
        """Logits [b,2] of a false and of a true pair."""
        return self.blip.itm_head(read[:, 0])


def usual_layer(layers: int) -> int:
    """The layer whose cross-attention is the map: index 8 of 12, as deep in smaller models (METHODS 2.3)."""
    return layers * 8 // 12


class Memory(nn.Module):
    """What only a training needs: how many batches it saw, and, where there are soft targets or a queue, a `twin` that
    follows the learner slowly and the features it gave to the latest images and texts."""

    training_only = True
    images: Tensor
    texts: Tensor
    queued: Tensor
    steps: Tensor

    def __init__(self, learner: Matcher, momentum: float, soft: float, ramp: int, queue: int) -> None:
        super().__init__()
        self._momentum, self._soft, self._ramp = momentum, soft, ramp
        self.twin = deepcopy(learner).requires_grad_(False) if soft or queue else None
        for name in ("images", "texts"):
            self.register_buffer(name, torch.zeros(queue, learner.blip.config.image_text_hidden_size))
        self.register_buffer("queued", torch.tensor(0))
        self.register_buffer("steps", torch.tensor(0))

    @property
    def share(self) -> float:
        """Of the soft targets: grows to its value over the first epoch."""
        return self._soft * min(1.0, int(self.steps) / self._ramp)

    @torch.no_grad()
    def follow(self, learner: Matcher) -> None:
        """The twin is the learner at first, then its running mean (ALBEF, section 3.2; m = 0.995)."""
        if self.twin is None:
            return
        keep = self._momentum if self.steps else 0.0
        for mean, value in zip(self.twin.parameters(), learner.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)

    def remembered(self) -> tuple[Tensor, Tensor]:
        """(image features [q,d], text features [q,d]) of earlier batches."""
        used = min(int(self.queued), len(self.images))
        return self.images[:used], self.texts[:used]

    @torch.no_grad()
    def remember(self, images: Tensor, texts: Tensor) -> None:
        """The features of all processes take the place of the oldest."""
        size = len(self.images)
        if not size:
            return
        images, texts = torch.cat(all_gather(images))[-size:], torch.cat(all_gather(texts))[-size:]
        places = (self.queued + torch.arange(len(images), device=images.device)) % size
        self.images[places], self.texts[places] = images.float(), texts.float()
        self.queued += len(images)


@MODELS.register_module()
class AttentionModel(BaseModel):
    """A `Matcher` that learns, on the three losses of ALBEF and that of AMC.

    `blip` is a BlipConfig as a dict, `fusion` as of `Matcher`, `start` a folder or hub id of a BLIP's weights, or the file of an
    ALBEF's. `weights` are those of amc, itc, itm and mlm; `ramp` is in how many batches the share `soft` of soft
    targets is reached. Without soft targets and queue there is no second model, and ITC contrasts with the batch alone.
    """

    def __init__(
        self,
        blip: dict[str, Any],
        *,
        guesses: bool = False,
        fusion: int = 0,
        start: str | None = None,
        layer: int | None = None,
        weights: Mapping[str, float] | None = None,
        margins: Sequence[float] = Margins(),
        pool: Any = "batch",
        momentum: float = 0.995,
        soft: float = 0.4,
        ramp: int = 1,
        queue: int = 0,
        mask_token: int = 0,
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        config: Any = BlipConfig.from_dict(deepcopy(dict(blip)))
        layers = config.text_config.num_hidden_layers
        self.layer = usual_layer(layers) if layer is None else layer
        self._patch, self._start, self._mask_token = config.vision_config.patch_size, start, mask_token
        self._vocabulary = config.text_config.vocab_size
        self._weights = {"amc": 1.0, "itc": 1.0, "itm": 1.0, "mlm": 1.0, **(weights or {})}
        self._margins, self._pool = Margins(*margins), pool
        self.learner = Matcher(config, guesses, fusion)
        if self.learner.words is not None and not self._weights["mlm"]:
            self.learner.words.predictions.transform.requires_grad_(False)  # several processes wait for each gradient
            self.learner.words.predictions.bias.requires_grad_(False)
        self.memory = Memory(self.learner, momentum, soft, ramp, queue)
        self.temperature = nn.Parameter(torch.tensor(WARM))

    def init_weights(self) -> None:
        """Loads the weights to start from. Raises WinnowError when there are none."""
        if self._start is None:
            return
        if is_albef(self._start):
            return self._start_from_albef(self._start)
        model = locate(self._start)
        options: dict[str, Any] = from_pretrained_options(model)
        try:
            loaded = BlipForImageTextRetrieval.from_pretrained(model, **options)
        except (OSError, ValueError) as error:
            raise missing(model, error) from error
        self.learner.blip.load_state_dict(loaded.state_dict())

    def _start_from_albef(self, file: str) -> None:
        """Strictly: all that the checkpoint says has a place, and every weight is told."""
        albef = read_albef(file)
        try:
            self.learner.load_state_dict(albef.weights)
        except RuntimeError as error:
            raise WinnowError(f"{file} holds no ALBEF that tells whether a text matches an image: {error}") from error
        with torch.no_grad():
            self.temperature.copy_(albef.temperature)

    def forward(self, inputs: Tensor, data_samples: Samples, mode: str = "tensor") -> Any:
        """`loss`: the parts of the loss by name. `predict`: a dict with `map` [rows,columns] for each sample, and what else
        the sample says. `tensor`: the maps [b,rows,columns]."""
        if mode == "loss":
            return self._losses(inputs, data_samples)
        maps = self.maps(inputs, *_texts(data_samples, inputs.device))
        if mode == "tensor":
            return maps
        told = [name for name in data_samples if name not in ("ids", "mask")]
        return [{"map": one, **{k: data_samples[k][i] for k in told}} for i, one in enumerate(maps.cpu())]

    def maps(self, images: Tensor, ids: Tensor, tokens: Tensor) -> Tensor:
        """The explanation maps of texts and their images, [b,rows,columns] in 0..1, without gradients. Also in torch's inference
        mode, and of frozen weights."""
        with torch.inference_mode(False):
            images, ids, tokens = images.clone(), ids.clone(), tokens.clone()
            with torch.no_grad():
                seen = self.learner.seen(images)
            with torch.enable_grad(), self.learner.watched(self.layer) as attention:
                match = self.learner.matches(self.learner.read(ids, tokens, seen.requires_grad_()))[:, MATCH]
                maps = explanation_maps(attention[0], match, tokens, self._grid(images), differentiable=False)
            return maps.detach()

    def _grid(self, images: Tensor) -> tuple[int, int]:
        return images.shape[2] // self._patch, images.shape[3] // self._patch

    # Training

    def _losses(self, images: Tensor, samples: Samples) -> dict[str, Tensor]:
        ids, tokens = _texts(samples, images.device)
        with torch.no_grad():
            self.temperature.clamp_(COLDEST, HOTTEST)
        self.memory.follow(self.learner)
        seen = self.learner.seen(images)
        with torch.no_grad():
            twin_seen = None if self.memory.twin is None else self.memory.twin.seen(images)
        contrast, likeness = self._contrast(seen, twin_seen, ids, tokens)
        with self.learner.watched(self.layer) as attention:
            logits = self.learner.matches(self.learner.read(ids, tokens, seen))
        losses = {"itc": contrast, "itm": self._matching(logits, likeness, seen, ids, tokens, samples)}
        if self.learner.words is not None and self._weights["mlm"]:
            losses["mlm"] = self._guessing(self.learner.words, seen, twin_seen, ids, tokens)
        if self._weights["amc"]:
            losses["amc"] = self._consistency(attention[0], logits[:, MATCH], tokens, images, samples)
        self.memory.steps += 1
        return {f"loss_{name}": loss * self._weights[name] for name, loss in losses.items()}

    def _contrast(self, seen: Tensor, twin_seen: Tensor | None, ids: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(L_itc of ALBEF, equations 1, 2 and 6; likeness [b,b] of each image to each text)."""
        images, texts = self.learner.image_features(seen), self.learner.text_features(ids, tokens)
        likeness = images @ texts.T / self.temperature
        if self.memory.twin is None or twin_seen is None:
            own = torch.arange(len(images), device=images.device)
            return (cross_entropy(likeness, own) + cross_entropy(likeness.T, own)) / 2, likeness.detach()
        with torch.no_grad():
            twin_images = self.memory.twin.image_features(twin_seen)
            twin_texts = self.memory.twin.text_features(ids, tokens)
            old_images, old_texts = self.memory.remembered()
            all_images = torch.cat([twin_images, old_images.to(twin_images.dtype)])
            all_texts = torch.cat([twin_texts, old_texts.to(twin_texts.dtype)])
            to_texts, to_images = self._soft(twin_images @ all_texts.T), self._soft(twin_texts @ all_images.T)
        image_loss = -(log_softmax(images @ all_texts.T / self.temperature, 1) * to_texts).sum(1).mean()
        text_loss = -(log_softmax(texts @ all_images.T / self.temperature, 1) * to_images).sum(1).mean()
        self.memory.remember(twin_images, twin_texts)
        return (image_loss + text_loss) / 2, likeness.detach()

    def _soft(self, similarity: Tensor) -> Tensor:
        """Targets [b,n] of which the first b are the batch: its own, and in part what the twin finds alike."""
        own = torch.eye(*similarity.shape, device=similarity.device)
        share = self.memory.share
        return share * (similarity / self.temperature).softmax(1) + (1 - share) * own

    def _matching(
        self, logits: Tensor, likeness: Tensor, seen: Tensor, ids: Tensor, tokens: Tensor, samples: Samples
    ) -> Tensor:
        """L_itm of ALBEF, equation 4: true pairs, and for each text a false image and for each image a false text, drawn
        the sooner the more alike. A text of the same words, or another text of the same image, is no false one."""
        same = _same(samples["image"], likeness.device) | (ids[:, None] == ids[None]).all(2)
        chances = likeness.softmax(1).masked_fill(same, 0), likeness.T.softmax(1).masked_fill(same, 0)
        texts, images = (_drawn(chance) for chance in chances)
        false = self.learner.matches(
            self.learner.read(
                torch.cat([ids[texts[1]], ids[images[0]]]),
                torch.cat([tokens[texts[1]], tokens[images[0]]]),
                torch.cat([seen[texts[0]], seen[images[1]]]),
            )
        )
        truth = torch.cat([torch.ones(len(logits)), torch.zeros(len(false))]).long().to(logits.device)
        return cross_entropy(torch.cat([logits, false]), truth)

    def _guessing(
        self, words: nn.Module, seen: Tensor, twin_seen: Tensor | None, ids: Tensor, tokens: Tensor
    ) -> Tensor:
        """L_mlm of ALBEF, equations 3 and 7: hidden words guessed from the others and the image."""
        shown, wanted = self._hidden(ids, tokens)
        guessed = words(self.learner.read(shown, tokens, seen))[wanted]
        loss, share, twin = cross_entropy(guessed, ids[wanted]), self.memory.share, self.memory.twin
        if twin is None or twin.words is None or twin_seen is None or not share:
            return loss
        with torch.no_grad():
            soft = twin.words(twin.read(shown, tokens, twin_seen))[wanted].softmax(1)
        return (1 - share) * loss - share * (log_softmax(guessed, 1) * soft).sum(1).mean()

    def _hidden(self, ids: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(the ids as shown, which of them are to be guessed): at least one word, never the ends of the text."""
        last = tokens.sum(1, keepdim=True) - 1
        place = torch.arange(ids.shape[1], device=ids.device)
        inner = (place > 0) & (place < last)
        chance = torch.rand(ids.shape, device=ids.device).masked_fill(~inner, 2.0)
        wanted = (chance < HIDDEN) | (chance == chance.min())
        how, words = torch.rand_like(chance), torch.randint_like(ids, self._vocabulary)
        shown = torch.where(how < MASKED, torch.full_like(ids, self._mask_token), ids)
        shown = torch.where((how >= MASKED) & (how < MASKED + RANDOM), words, shown)
        return torch.where(wanted, shown, ids), wanted

    def _consistency(
        self, attention: Tensor, match: Tensor, tokens: Tensor, images: Tensor, samples: Samples
    ) -> Tensor:
        """L_amc of those samples that have a box."""
        boxed = [i for i, mask in enumerate(samples["mask"]) if mask is not None]
        if not boxed:
            return match.sum() * 0
        maps = explanation_maps(attention, match, tokens, self._grid(images))[boxed]
        masks = torch.stack([samples["mask"][i] for i in boxed]).to(images.device)
        height, width = images.shape[2:]
        return amc_loss(enlarged(maps, (height, width)), masks, self._margins, self._pool)


def _texts(samples: Samples, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, tokens) of the samples, padded to the longest."""
    ids = [one.to(device) for one in samples["ids"]]
    return pad_sequence(ids, batch_first=True), pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)


def _same(images: Sequence[Any], device: torch.device) -> Tensor:
    """Which samples show the same image, [b,b]."""
    numbers = {image: number for number, image in enumerate(dict.fromkeys(images))}
    known = torch.tensor([numbers[image] for image in images], device=device)
    return known[:, None] == known[None]


def _drawn(chances: Tensor) -> tuple[Tensor, Tensor]:
    """(rows of [b,b] where anything can be drawn, what was drawn there)."""
    rows = (chances.sum(1) > 0).nonzero()[:, 0]
    drawn = torch.multinomial(chances[rows].float(), 1)[:, 0] if len(rows) else rows
    return rows, drawn


def tiny_config(vocabulary: int, side: int = 64, patch: int = 8, layers: int = 3, width: int = 96) -> dict[str, Any]:
    """A BLIP that learns from scratch on one CPU core, as a dict."""
    shape = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_attention_heads": 4,
    }
    text = {**shape, "vocab_size": vocabulary, "max_position_embeddings": 64, "bos_token_id": 2, "sep_token_id": 3}
    vision = {**shape, "image_size": side, "patch_size": patch, "initializer_range": 0.02}
    whole = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=64)
    return whole.to_dict()


def config_of(model: str) -> dict[str, Any]:
    """The configuration of a BLIP in a folder or on the hub. Raises WinnowError when there is none."""
    folder = locate(model)
    try:
        options: dict[str, Any] = {k: v for k, v in from_pretrained_options(folder).items() if k != "use_safetensors"}
        return BlipConfig.from_pretrained(folder, **options).to_dict()
    except (OSError, ValueError) as error:
        raise missing(folder, error) from error

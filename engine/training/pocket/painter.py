"""The pocket painter: a latent diffusion inpainter that `StableDiffusionInpaintPipeline.from_pretrained` loads.

First a small VAE is trained on crops of Tabletop scenes, then a nine-channel UNet and a text encoder together, on its
latents: v-prediction (Salimans & Ho, 2022), zero terminal SNR and trailing timesteps (Lin et al., 2024), classifier-free
guidance by dropped texts (Ho & Salimans, 2022).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.training.pocket.contexts import Contexts, contexts
from engine.training.pocket.sitting import Sitting

SIZE = 64  # pixels of a crop
FACTOR = 4  # pixels of a crop per latent
WORDS = 24  # tokens of a text
WIDTH = 128  # of the text encoder
DROPPED = 0.1  # share of texts left out, for classifier-free guidance
OUTSIDE = 0.15  # weight of the loss outside the mask, where the picture is given
KL = 1e-6
CHROMA = 2.0
LOOK = {"vae": 8, "unet": 32}  # batch sizes
Progress = Callable[[str, int, float], None]


class Plan(NamedTuple):
    """How long to train."""

    scenes: int = 3600
    vae_steps: int = 4600
    unet_steps: int = 9000


def train(work: Path, out: Path, plan: Plan | None = None, *, seed: int = 0, progress: Progress | None = None) -> None:
    """Train, or go on training, in the folder `work`, and write the pipeline in half precision to the folder `out`."""
    plan = plan or Plan()
    work.mkdir(parents=True, exist_ok=True)
    data = contexts(work, scenes=plan.scenes, size=SIZE, seed=seed + 1)
    vae = _train_vae(work, data, plan.vae_steps, seed, progress)
    latents = _latents(work, vae, data, plan)
    tokenizer = tokenizer_of(data.texts)
    networks = _train_unet(work, data, latents, tokenizer, plan.unet_steps, seed, progress)
    _export(out, vae, latents.scale, tokenizer, networks)


# The autoencoder


def new_vae() -> AutoencoderKL:
    """Four latent channels at a quarter of the resolution; 0.8 M parameters."""
    return AutoencoderKL(
        block_out_channels=(24, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=8,
        layers_per_block=1,
        sample_size=SIZE,
    )


def _train_vae(work: Path, data: Contexts, steps: int, seed: int, progress: Progress | None) -> AutoencoderKL:
    torch.manual_seed(seed)
    vae: Any = new_vae()
    images = torch.from_numpy(data.images)

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        x = _pixels(images[torch.randint(len(images), (LOOK["vae"],), generator=generator)])
        found = vae.encode(x).latent_dist
        y = vae.decode(found.sample(generator)).sample
        edges = sum(((x - y).diff(dim=axis)).abs().mean() for axis in (2, 3))
        return (x - y).abs().mean() + 0.5 * edges + CHROMA * _colour(x - y).abs().mean() + KL * found.kl().mean()

    vae.to(memory_format=torch.channels_last)  # a fifth faster on CPUs
    sitting = Sitting(work, "vae", vae, steps=steps, lr=2e-3, seed=seed)
    sitting.run(loss_of, _heard("vae", progress))
    return cast(AutoencoderKL, sitting.ema)


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) float in -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def _colour(difference: torch.Tensor) -> torch.Tensor:
    """What is not brightness in a difference of pictures, on a coarse grid: without a weight of its own, one of the two
    directions of colour is learnt only after thousands of steps."""
    coarse = functional.avg_pool2d(difference, 4)
    return coarse - coarse.mean(dim=1, keepdim=True)


class Latents(NamedTuple):
    """Of every crop: `whole` and `masked` (n, 4, s, s), scaled to unit deviation, and `mask` (n, 1, s, s), 1 to repaint."""

    whole: torch.Tensor
    masked: torch.Tensor
    mask: torch.Tensor
    scale: float


def _latents(work: Path, vae: AutoencoderKL, data: Contexts, plan: Plan) -> Latents:
    path = work / f"latents_{plan.scenes}_{plan.vae_steps}.pt"
    if path.is_file():
        return Latents(*torch.load(path, weights_only=True))
    parts = [_encoded(vae, data, slice(at, at + 64)) for at in range(0, len(data.images), 64)]
    whole, masked, mask = (torch.cat(column) for column in zip(*parts, strict=True))
    scale = 1 / float(whole.std())
    made = Latents(whole * scale, masked * scale, mask, scale)
    torch.save(tuple(made), path)
    return made


@torch.inference_mode()
def _encoded(vae: Any, data: Contexts, part: slice) -> tuple[torch.Tensor, ...]:
    x = _pixels(torch.from_numpy(data.images[part]))
    mask = _masks(data.boxes[part])
    masked = x * (mask < 0.5)  # as the pipeline does it: grey where it shall paint
    small = functional.interpolate(mask, size=(SIZE // FACTOR,) * 2)
    return vae.encode(x).latent_dist.mean, vae.encode(masked).latent_dist.mean, small


def _masks(boxes: np.ndarray) -> torch.Tensor:
    """(n, 1, size, size): 1 in the box and up to four pixels around it; the margin differs from crop to crop."""
    masks = torch.zeros(len(boxes), 1, SIZE, SIZE)
    for mask, box in zip(masks, boxes, strict=True):
        margin = 4 * float(box.sum()) % 1 * 4  # as good as random, and the same whenever it is asked for
        x1, y1 = (max(int(np.floor(value - margin)), 0) for value in box[:2])
        x2, y2 = (int(np.ceil(value + margin)) for value in box[2:])
        mask[:, y1:y2, x1:x2] = 1
    return masks


# Text


def tokenizer_of(texts: list[list[str]]) -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's kind with the words of the world as its tokens."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(_each(texts), trainer)
    model = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=WORDS)


def _each(texts: list[list[str]]) -> Iterator[str]:
    for some in texts:
        yield from some


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of 128 channels."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WORDS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=WIDTH,
    )
    return CLIPTextModel(config)


# The denoiser


class Networks(torch.nn.Module):
    """The UNet with its text encoder; they are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text = new_text_encoder(tokenizer)
        self.unet: Any = UNet2DConditionModel(
            sample_size=SIZE // FACTOR,
            in_channels=9,
            out_channels=4,
            block_out_channels=(32, 64, 128),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,  # heads, in spite of its name
            norm_num_groups=16,
        )

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, times, self.text(tokens).last_hidden_state).sample


def new_scheduler() -> DDIMScheduler:
    """`clip_sample` must be off: latents exceed 1, and clipping them ruins the colours."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def _train_unet(
    work: Path,
    data: Contexts,
    latents: Latents,
    tokenizer: CLIPTokenizer,
    steps: int,
    seed: int,
    progress: Progress | None,
) -> Networks:
    torch.manual_seed(seed)
    networks: Any = Networks(tokenizer)
    scheduler: Any = new_scheduler()
    tokens, first = _tokens(tokenizer, data.texts)
    weight = OUTSIDE + (1 - OUTSIDE) * latents.mask

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(latents.whole), (LOOK["unet"],), generator=generator)
        z = latents.whole[chosen]
        noise = torch.randn(z.shape, generator=generator)
        times = torch.randint(1000, (len(z),), generator=generator)
        said = first[chosen] + (torch.rand(len(z), generator=generator) * (first[chosen + 1] - first[chosen])).long()
        words = torch.where(torch.rand(len(z), 1, generator=generator) < DROPPED, tokens[-1], tokens[said])
        noisy = torch.cat([scheduler.add_noise(z, noise, times), latents.mask[chosen], latents.masked[chosen]], 1)
        error = networks(noisy, times, words) - scheduler.get_velocity(z, noise, times)
        return (weight[chosen] * error.square()).sum() / (4 * weight[chosen].sum())

    sitting = Sitting(work, "unet", networks, steps=steps, lr=8e-4, seed=seed)
    sitting.run(loss_of, _heard("unet", progress))
    return cast(Networks, sitting.ema)


def _tokens(tokenizer: CLIPTokenizer, texts: list[list[str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of all texts, the empty text last, and where each crop's texts begin (one more than there are crops)."""
    flat = [text for some in texts for text in some]
    found = tokenizer([*flat, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    return found, torch.tensor([0, *np.cumsum([len(some) for some in texts])])


def _heard(name: str, progress: Progress | None) -> Callable[[int, float], None] | None:
    return None if progress is None else lambda step, loss: progress(name, step, loss)


# The pipeline


def _export(out: Path, vae: Any, scale: float, tokenizer: CLIPTokenizer, networks: Networks) -> None:
    vae.register_to_config(scaling_factor=scale)
    pipeline: Any = StableDiffusionInpaintPipeline(
        vae=vae,
        text_encoder=networks.text,
        tokenizer=tokenizer,
        unet=networks.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)

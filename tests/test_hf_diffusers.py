"""The diffusion painter on tiny random pipelines of the real classes, loaded from folders."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxTransformer2DModel,
    StableDiffusionGLIGENPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from db.errors import WinnowError
from db.records import XYXY
from db.store import Store
from engine.backends import hf_diffusers
from engine.backends.hf_diffusers import DiffusersPainter
from engine.detections import Detections
from engine.inpainting import Form, plan
from engine.pixels import crop
from engine.roles import Context, Painted, PaintTask

SIZE = 32


# Tiny models


def tokenizer() -> CLIPTokenizer:
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=16)


def text_config(**changes: Any) -> CLIPTextConfig:
    small = {
        "vocab_size": 514,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "projection_dim": 16,
        "bos_token_id": 512,
        "eos_token_id": 513,
    }
    return CLIPTextConfig(**small | changes)


def vae(**changes: Any) -> AutoencoderKL:
    """Four latent channels at a quarter of the side."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=SIZE,
        **changes,
    )


def unet(**changes: Any) -> UNet2DConditionModel:
    small: dict[str, Any] = {
        "sample_size": SIZE // 4,
        "in_channels": 9,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**small | changes)


def stable_diffusion(kind: Any, **changes: Any) -> Any:
    return kind(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        unet=unet(**changes),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    return StableDiffusionXLInpaintPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config()),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8,
        ),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
    )


def flux_fill() -> Any:
    words = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"),
    ]
    return FluxFillPipeline(
        vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
        ),
        tokenizer_2=T5Tokenizer(vocab=words, model_max_length=16, extra_ids=0),
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16 + 16 + 4 * 16,  # packed latents, masked latents, and the mask's 4x4 pixels in 2x2 cells
            out_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(2, 2, 4),
            guidance_embeds=True,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


MODELS: dict[str, Callable[[], Any]] = {
    "sd": lambda: stable_diffusion(StableDiffusionInpaintPipeline),
    "text-to-image": lambda: stable_diffusion(StableDiffusionImg2ImgPipeline, in_channels=4),
    "sdxl": sdxl,
    "flux": flux_fill,
    "gligen": lambda: stable_diffusion(StableDiffusionGLIGENPipeline, attention_type="gated"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, build in MODELS.items():
        torch.manual_seed(0)
        found[name] = tmp_path_factory.mktemp(name)
        build().save_pretrained(found[name])
    return found


@pytest.fixture
def context(store: Store) -> Context:
    return Context(store, dataset_id=1)


@pytest.fixture
def make(folders: dict[str, Path], context: Context) -> Callable[..., DiffusersPainter]:
    """A painter by the name of its tiny model."""
    cheap = {"device": "cpu", "steps": 2, "guidance": 3.0}

    def made(name: str, **options: Any) -> DiffusersPainter:
        size = {"size": SIZE} if name == "flux" else {}
        return DiffusersPainter(context, model=str(folders[name]), **cheap | size | options)

    return made


def task(seed: int = 0, xyxy: XYXY = (30, 20, 60, 50), **changes: Any) -> PaintTask:
    image = np.random.default_rng(5).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    return replace(PaintTask(image=image, xyxy=xyxy, prompt="a red mug", seed=seed, category="mug"), **changes)


def painted(result: Painted | str) -> Painted:
    assert isinstance(result, Painted), result
    return result


def unchanged_outside(before: np.ndarray, result: Painted) -> bool:
    far = np.ones(before.shape[:2], bool)
    for area in result.touched:
        crop(far, area)[:] = False
    return bool(far.any()) and np.array_equal(before[far], result.image[far])


# Every pipeline


@pytest.mark.parametrize("name", MODELS)
def test_it_paints_inside_the_box_only_and_the_same_again_for_the_same_seed(name: str, make: Any) -> None:
    painter = make(name, batch_size=2)
    asked = [task(1), task(2, xyxy=(0, 40, 20, 80)), task(3, xyxy=(70, 0, 96, 24))]
    first = [painted(result) for result in painter.paint(asked)]
    alone = [painted(painter.paint([one])[0]) for one in reversed(asked)][::-1]
    for one, result, again in zip(asked, first, alone, strict=True):
        assert unchanged_outside(one.image, result)
        x1, y1, x2, y2 = map(int, one.xyxy)
        inner = np.abs(result.image[y1:y2, x1:x2].astype(int) - one.image[y1:y2, x1:x2])
        assert (inner > 8).mean() > 0.5, "the box was not repainted"
        assert np.abs(result.image.astype(int) - again.image).max() <= 1, "the picture depends on its neighbours"
    other = painted(painter.paint([task(9)])[0])
    assert not np.array_equal(other.image, first[0].image), "the seed has no effect"


@pytest.mark.parametrize("name", MODELS)
def test_the_prompt_and_what_to_avoid_reach_the_model(name: str, make: Any) -> None:
    painter = make(name, guidance=7.0)
    asked = [task(), task(prompt="a blue ball"), task(avoid="rust")]
    plain, other, avoiding = (painted(result) for result in painter.paint(asked))
    assert not np.array_equal(plain.image, other.image)
    takes_negative = name != "flux"
    assert np.array_equal(plain.image, avoiding.image) != takes_negative
    assert ("negative_prompt" in avoiding.detail) == takes_negative


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sd", "StableDiffusionInpaintPipeline"),
        ("text-to-image", "StableDiffusionInpaintPipeline"),
        ("sdxl", "StableDiffusionXLInpaintPipeline"),
        ("flux", "FluxFillPipeline"),
        ("gligen", "StableDiffusionGLIGENPipeline"),
    ],
)
def test_the_record_names_model_pipeline_and_settings(name: str, kind: str, make: Any) -> None:
    detail = painted(make(name, strength=1.0).paint([task()])[0]).detail
    folder, _, digest = detail["model"].partition("@")
    assert Path(folder).is_dir() and len(digest) == 12
    assert detail["pipeline"] == kind
    assert (detail["steps"], detail["guidance"], detail["size"], detail["batch"]) == (2, 3.0, SIZE, 1)
    assert len(detail["crop"]) == 4 and 0 <= detail["box_iou"] <= 1
    assert detail["refit"] in ("asked", "changed pixels")
    assert json.loads(json.dumps(detail)) == detail


# Prompts


def spy(monkeypatch: pytest.MonkeyPatch, kind: Any, method: str) -> list[dict[str, Any]]:
    """Record the bound arguments of every call of a pipeline's method."""
    original, calls = getattr(kind, method), []

    @functools.wraps(original)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(dict(inspect.signature(original).bind(self, *args, **kwargs).arguments))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(kind, method, recorded)
    return calls


@pytest.mark.parametrize(
    ("name", "kind"), [("sd", StableDiffusionInpaintPipeline), ("sdxl", StableDiffusionXLInpaintPipeline)]
)
def test_a_prompt_is_encoded_once(name: str, kind: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    painter = make(name, batch_size=3)
    calls = spy(monkeypatch, kind, "encode_prompt")
    painter.paint([task(i, prompt="a cup" if i % 2 else "a jar") for i in range(6)])
    painter.paint([task(7, prompt="a cup")])
    assert [call["prompt"][0] for call in calls if call.get("prompt")] == ["a jar", "a cup"]


def test_embeddings_make_the_same_picture_as_prompts(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = painted(make("sdxl").paint([task(avoid="rust")])[0])
    monkeypatch.delitem(hf_diffusers.EMBEDDINGS, "StableDiffusionXLInpaintPipeline")
    direct = painted(make("sdxl").paint([task(avoid="rust")])[0])
    assert np.abs(cached.image.astype(int) - direct.image).max() <= 1


def test_the_template_fills_prompt_and_caption(make: Any) -> None:
    painter = make("sd", prompt_template="a photo of $prompt, $caption")
    full, bare = painter.paint([task(caption="a kitchen"), task()])
    assert painted(full).detail["model_prompt"] == "a photo of a red mug, a kitchen"
    assert painted(bare).detail["model_prompt"] == "a photo of a red mug"


# Batches and memory


def test_batches_hold_as_many_as_asked_and_every_result_finds_its_task(make: Any) -> None:
    boxes: list[XYXY] = [(2, 2, 30, 30), (40, 2, 90, 30), (2, 40, 30, 78), (40, 40, 90, 78), (30, 30, 60, 60)]
    results = [
        painted(result) for result in make("sd", batch_size=2).paint([task(i, box) for i, box in enumerate(boxes)])
    ]
    assert [result.detail["batch"] for result in results] == [2, 2, 2, 2, 1]
    for box, result in zip(boxes, results, strict=True):
        assert result.touched[0][0] <= box[0] and box[2] <= result.touched[0][2]


def hungry(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let the SD pipeline run out of memory above `most` pictures; returns the sizes of the batches tried."""
    original, tried = StableDiffusionInpaintPipeline.__call__, []

    @functools.wraps(original)
    def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
        tried.append(len(kwargs["image"]))
        if tried[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee more")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(StableDiffusionInpaintPipeline, "__call__", limited)
    return tried


def test_out_of_memory_halves_the_batch_and_goes_on(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [task(i) for i in range(5)]
    expected = [painted(result).image for result in make("sd", batch_size=1).paint(tasks)]
    tried = hungry(monkeypatch, 2)
    painter = make("sd", batch_size=8)
    for image, result in zip(expected, painter.paint(tasks), strict=True):
        assert np.abs(image.astype(int) - painted(result).image).max() <= 1
    assert tried == [5, 2, 2, 1]
    painter.paint(tasks[:2])
    assert tried[-1] == 2, "the smaller batch is remembered"


def test_a_picture_that_never_fits_is_a_sentence_and_the_painter_lives_on(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    painter = make("sd")
    with monkeypatch.context() as short:
        hungry(short, 0)
        for result in painter.paint([task(1), task(2)]):
            assert isinstance(result, str) and "does not fit into the memory" in result and "See more" not in result
    assert isinstance(painter.paint([task(1)])[0], Painted)


def test_numbers_that_overflow_are_a_sentence(make: Any) -> None:
    painter = make("sd")
    painter.pipe.vae.decoder.conv_out.weight.data.fill_(float("nan"))
    (result,) = painter.paint([task()])
    assert isinstance(result, str) and "overflowed" in result


# Scenes


def calls_of(
    painter: Any, tasks: list[PaintTask], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Painted], list[dict[str, Any]]]:
    calls = spy(monkeypatch, type(painter.pipe), "__call__")
    return [painted(result) for result in painter.paint(tasks)], calls


FAR: tuple[XYXY, ...] = ((4, 4, 28, 28), (60, 44, 90, 76))
NEAR: tuple[XYXY, ...] = ((20, 20, 48, 48), (44, 24, 76, 56))


@pytest.mark.parametrize(
    ("name", "boxes", "mode", "batches"),
    [
        ("sd", FAR, "together", 1),
        ("sd", FAR, "one by one", 2),
        ("sd", NEAR, "together", 2),
        ("gligen", NEAR, "together", 1),
        ("gligen", NEAR, "one by one", 2),
    ],
)
def test_the_boxes_of_a_scene_end_in_one_picture(
    name: str, boxes: tuple[XYXY, ...], mode: str, batches: int, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # each names the other's box as one to keep, which cannot be meant of a box that is painted too
    tasks = [task(i, box, scene="s", prompt=f"mug {i}", keep=boxes) for i, box in enumerate(boxes)]
    results, calls = calls_of(make(name, scene_mode=mode), tasks, monkeypatch)
    assert len(calls) == batches
    assert all(np.array_equal(result.image, results[0].image) for result in results)
    assert all(result.touched == results[0].touched and len(result.touched) == 2 for result in results)
    assert unchanged_outside(tasks[0].image, results[0])
    for x1, y1, x2, y2 in boxes:
        new, old = results[0].image[y1:y2, x1:x2], tasks[0].image[y1:y2, x1:x2]
        assert (np.abs(new.astype(int) - old) > 8).mean() > 0.5


def test_later_boxes_of_a_scene_see_the_earlier_ones(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [task(i, box, scene="s") for i, box in enumerate(NEAR)]
    painter = make("sd")
    alone = painted(painter.paint([tasks[0]])[0]).image
    _, calls = calls_of(painter, tasks, monkeypatch)
    window = tuple(painted(painter.paint([tasks[1]])[0]).detail["crop"])
    seen = plan(alone.shape, NEAR[1], SIZE, Form()).crop(alone)
    assert window == plan(alone.shape, NEAR[1], SIZE, Form()).window
    assert np.array_equal(np.asarray(calls[1]["image"][0]), seen)


def test_gligen_gets_every_box_as_shares_of_the_whole_image(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [task(i, box, scene="s", prompt=f"mug {i}") for i, box in enumerate(FAR)]
    _, (call,) = calls_of(make("gligen"), tasks, monkeypatch)
    assert call["gligen_phrases"] == ["mug 0", "mug 1"]
    assert call["gligen_inpaint_image"].size == (SIZE, SIZE)
    for (x1, y1, x2, y2), box in zip(FAR, call["gligen_boxes"], strict=True):
        assert box[0] <= x1 / 96 and box[1] <= y1 / 80 and box[2] >= x2 / 96 and box[3] >= y2 / 80
        assert all(value * 8 == int(value * 8) for value in box), "whole cells of the 8x8 latents"


def test_gligen_splits_scenes_of_more_than_thirty_boxes(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[XYXY] = [(8 * (i % 12), 8 * (i // 12), 8 * (i % 12) + 7, 8 * (i // 12) + 7) for i in range(32)]
    tasks = [task(i, box, scene="s") for i, box in enumerate(boxes)]
    results, calls = calls_of(make("gligen", steps=1), tasks, monkeypatch)
    assert [len(call["gligen_boxes"]) for call in calls] == [30, 2]
    assert len(results[0].touched) == 32


def test_one_bad_box_of_a_scene_does_not_spoil_the_others(make: Any) -> None:
    good, bad = make("sd").paint([task(0, scene="s"), task(1, (200, 0, 220, 20), scene="s")])
    assert len(painted(good).touched) == 1
    assert isinstance(bad, str) and "no pixel in its image" in bad


def test_kept_boxes_are_kept(make: Any) -> None:
    asked = task(keep=((50, 10, 90, 60),))
    result = painted(make("sd").paint([asked])[0])
    assert np.array_equal(result.image[10:60, 50:90], asked.image[10:60, 50:90])
    assert not np.array_equal(result.image, asked.image)


# Boxes


class Seer:
    """A detector that always sees one mug."""

    def __init__(self, xyxy: XYXY) -> None:
        self.xyxy = xyxy

    def detect(self, images: Any) -> list[Detections]:
        one = Detections(np.array([self.xyxy], np.float32), np.array([0.8], np.float32), np.array([0]), ("mug",))
        return [one for _ in images]


def test_a_detector_refits_the_box(make: Any, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "detector", lambda self: Seer((32.0, 22.0, 60.0, 50.0)))
    result = painted(make("sd").paint([task()])[0])
    assert (result.xyxy, result.detail["refit"]) == ((32.0, 22.0, 60.0, 50.0), "detector")
    assert result.detail["box_iou"] == pytest.approx(28 * 28 / 900, abs=1e-4)
    monkeypatch.setattr(Context, "detector", lambda self: Seer((0.0, 0.0, 9.0, 9.0)))
    assert painted(make("sd").paint([task()])[0]).detail["refit"] != "detector"


# Refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"strength": 0.0}, "strength 0.0"),
        ({"strength": 0.1}, "leaves none of 2 steps"),
        ({"offload": "disk"}, "one of auto, none, model, sequential"),
        ({"scene_mode": "all"}, "one of together, one by one"),
        ({"prompt_template": "a $colour mug"}, "must name \\$prompt"),
        ({"prompt_template": "$"}, "must name \\$prompt"),
        ({"feather": -1.0}, "feather is -1.0"),
        ({"size": 33}, "no multiple of 4"),
        ({"compile": True}, "compile needs a CUDA device"),
        ({"offload": "model"}, "needs a CUDA device"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], words: str, make: Any) -> None:
    with pytest.raises(WinnowError, match=words):
        make("sd", **options)


def test_unknown_options_are_refused(make: Any) -> None:
    with pytest.raises(TypeError, match="colour"):
        make("sd", colour="red")


def test_a_model_that_cannot_inpaint_is_named(tmp_path: Path, context: Context) -> None:
    network = UNet2DModel(sample_size=8, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=4)  # fmt: skip
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(WinnowError, match="DDPMPipeline cannot inpaint"):
        DiffusersPainter(context, model=str(tmp_path), device="cpu")


@pytest.mark.parametrize("name", ["NoSuchPipeline", ["pipeline", "Mine"], None, "utils"])
def test_a_class_that_diffusers_lacks_is_named(name: object, tmp_path: Path, context: Context) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, "_diffusers_version": "0.42.0"}))
    with pytest.raises(WinnowError, match="has no pipeline"):
        DiffusersPainter(context, model=str(tmp_path), device="cpu")


def test_code_in_a_model_folder_is_not_run(folders: dict[str, Path], tmp_path: Path, context: Context) -> None:
    for file in folders["sd"].rglob("*"):
        if file.is_file():
            copy = tmp_path / file.relative_to(folders["sd"])
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["scheduler"] = ["trap", "Trap"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    marker = tmp_path / "ran"
    (tmp_path / "scheduler" / "trap.py").write_text(f"open({str(marker)!r}, 'w')\nclass Trap: pass\n")
    with pytest.raises(WinnowError, match="could not be loaded"):
        DiffusersPainter(context, model=str(tmp_path), device="cpu")
    assert not marker.exists()


def test_a_gligen_model_without_an_inpainting_network_is_refused(tmp_path: Path, context: Context) -> None:
    stable_diffusion(StableDiffusionGLIGENPipeline, attention_type="gated", in_channels=4).save_pretrained(tmp_path)
    with pytest.raises(WinnowError, match="cannot inpaint: its UNet takes 4 channels"):
        DiffusersPainter(context, model=str(tmp_path), device="cpu")


def test_a_missing_model_says_how_to_get_it(context: Context) -> None:
    with pytest.raises(WinnowError, match="someone/nothing.*WINNOW_DOWNLOADS"):
        DiffusersPainter(context, model="someone/nothing", device="cpu")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"),
        ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"),
        ("StableDiffusion3Pipeline", "StableDiffusion3InpaintPipeline"),
        ("FluxPipeline", "FluxInpaintPipeline"),
        ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
        ("QwenImagePipeline", "QwenImageInpaintPipeline"),
        ("QwenImageEditPipeline", "QwenImageEditInpaintPipeline"),
        ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
        ("ZImagePipeline", "ZImageInpaintPipeline"),
        ("FluxFillPipeline", "FluxFillPipeline"),
        ("StableDiffusionGLIGENPipeline", "StableDiffusionGLIGENPipeline"),
    ],
)
def test_the_class_follows_from_the_class_of_the_model(name: str, expected: str) -> None:
    assert hf_diffusers.inpainting_class(name).__name__ == expected


@pytest.mark.parametrize("name", ["StableDiffusionControlNetInpaintPipeline", "DDPMPipeline", "StableAudioPipeline"])
def test_classes_that_need_more_than_image_and_mask_are_refused(name: str) -> None:
    with pytest.raises(WinnowError, match=f"{name} cannot inpaint"):
        hf_diffusers.inpainting_class(name)

"""The open_clip adapter, on tiny models of open_clip's own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image as Picture
from safetensors.torch import save_file

from db.errors import WinnowError
from engine.backends import hub
from engine.backends.openclip import OpenCLIPEmbedder, fitted

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION: dict[str, dict[str, Any]] = {
    "transformer": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
}


def model_folder(folder: Path, vision: str = "transformer", **preprocess: Any) -> Path:
    """A random model, saved as open_clip saves one."""
    torch.manual_seed(0)
    parts = {"embed_dim": 24, "vision_cfg": VISION[vision], "text_cfg": TEXT}
    folder.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in open_clip.CLIP(**parts).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    config = {"model_cfg": parts, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def some_images(*shapes: tuple[int, int]) -> list[np.ndarray]:
    """Smooth random images, as photos are, of these (height, width)."""
    rng = np.random.default_rng(0)
    small = [Picture.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)) for _ in shapes]
    return [np.asarray(p.resize((w, h), Picture.Resampling.BICUBIC)) for p, (h, w) in zip(small, shapes, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("openclip") / "model")


@pytest.fixture(scope="module")
def embedder(folder: Path) -> OpenCLIPEmbedder:
    return OpenCLIPEmbedder(None, str(folder), device="cpu", batch_size=2)


@pytest.mark.parametrize("vision", VISION)
def test_the_vectors_are_those_of_open_clip(tmp_path: Path, vision: str) -> None:
    place = model_folder(tmp_path / "model", vision, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{place}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{place}")
    images, texts = some_images((40, 40), (32, 50), (90, 33)), ["a red mug", "two pears on a lawn", "a red mug"]
    with torch.inference_mode():
        ready = torch.stack([transform(Picture.fromarray(image)) for image in images])
        seen, read = model.eval().encode_image(ready, True), model.encode_text(tokenizer(texts), True)
    embedder = OpenCLIPEmbedder(model=str(place), device="cpu")
    np.testing.assert_allclose(embedder.images(images), seen, atol=2e-2)
    np.testing.assert_allclose(embedder.texts(texts), read, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(8, 120),
    width=st.integers(8, 120),
    size=st.sampled_from([24, 32, (24, 32)]),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill_color=st.sampled_from([0, 128]),
)
def test_images_are_fitted_as_open_clip_fits_them(height: int, width: int, **form: Any) -> None:
    if form["resize_mode"] == "shortest" and not isinstance(form["size"], int):
        form["interpolation"] = "bicubic"  # open_clip forgets the other one there
    (image,) = some_images((height, width))
    plain = PreprocessCfg(**form, mean=(0.0,) * 3, std=(1.0,) * 3)
    expected = 255 * image_transform_v2(plain, is_train=False)(Picture.fromarray(image))
    result = fitted(torch.from_numpy(image).permute(2, 0, 1), form)
    assert result.shape == expected.shape
    off = (result.float() - expected).abs()  # both round, once after each axis: seldom a grey level more
    assert off.max() <= 2.01 and off.mean() <= 0.5


def test_vectors_are_unit_float32_and_do_not_depend_on_the_batch(folder: Path, embedder: OpenCLIPEmbedder) -> None:
    images = some_images((40, 40), (32, 50), (90, 33), (20, 20), (32, 32))
    found = embedder.images(images)
    assert found.shape == (5, 24) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found, OpenCLIPEmbedder(model=str(folder), batch_size=64).images(images), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_nothing_gives_no_vectors(embedder: OpenCLIPEmbedder) -> None:
    assert embedder.images([]).shape == embedder.texts([]).shape == (0, 24)


def test_long_and_empty_texts_have_vectors(embedder: OpenCLIPEmbedder) -> None:
    found = embedder.texts(["", "a mug " * 200])
    assert np.isfinite(found).all() and found.shape == (2, 24)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
)
def test_what_is_no_image_is_named(embedder: OpenCLIPEmbedder, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Image 1 is"):
        embedder.images([np.zeros((8, 8, 3), np.uint8), image])


def test_half_precision_is_close(folder: Path, embedder: OpenCLIPEmbedder) -> None:
    images = some_images((40, 40), (32, 50))
    half = OpenCLIPEmbedder(model=str(folder), device="cpu", dtype="bfloat16")
    assert (half.images(images) * embedder.images(images)).sum(1).min() > 0.99
    assert (half.texts(["a mug"]) * embedder.texts(["a mug"])).sum() > 0.99


def test_the_batch_is_halved_when_memory_is_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder, sizes = OpenCLIPEmbedder(model=str(folder), batch_size=8), []
    images = some_images(*[(32, 32)] * 7)
    expected, encode = embedder.images(images), embedder._encode_images

    def with_room_for_three(batch: list[np.ndarray]) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.\nmuch more text")
        return encode(batch)

    monkeypatch.setattr(embedder, "_encode_images", with_room_for_three)
    np.testing.assert_allclose(embedder.images(images), expected, atol=1e-5)
    assert sizes == [7, 3, 3, 1]


def test_a_model_that_does_not_fit_at_all_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = OpenCLIPEmbedder(model=str(folder))

    def no_room(batch: list[np.ndarray]) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmuch more text")

    monkeypatch.setattr(embedder, "_encode_images", no_room)
    with pytest.raises(WinnowError, match="Not even one item .* CUDA out of memory.$"):
        embedder.images(some_images((32, 32), (32, 32)))


def test_the_name_changes_with_the_weights(tmp_path: Path, embedder: OpenCLIPEmbedder, folder: Path) -> None:
    other = OpenCLIPEmbedder(model=str(model_folder(tmp_path / "model", "resnet"))).name
    assert embedder.name.startswith(f"{folder}@") and other.rpartition("@")[2] != embedder.name.rpartition("@")[2]


WRONG = {
    "a missing folder": ({"model": "./nowhere"}, "no model folder"),
    "a missing shipped model": ({"model": "assets/pocket/nothing"}, "missing from this installation"),
    "an unknown name": ({"model": "VIT-9000"}, "no name of open_clip"),
    "a name without weights": ({"model": "ViT-L-14"}, "which weights.*openai"),
    "unknown weights": ({"model": "ViT-L-14", "pretrained": "mine"}, "no weights 'mine'. Known: .*openai"),
    "no downloads": ({"model": "ViT-L-14", "pretrained": "openai"}, "WINNOW_DOWNLOADS=1"),
    "no downloads of a hub id": ({"model": "someone/some-clip"}, "WINNOW_DOWNLOADS=1"),
    "an empty batch": ({"batch_size": 0}, "batch_size is 0"),
}


@pytest.mark.parametrize("options, told", WRONG.values(), ids=WRONG)
def test_what_cannot_be_loaded_says_why(
    options: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WINNOW_DOWNLOADS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WinnowError, match=told):
        OpenCLIPEmbedder(**options)


def test_a_damaged_folder_says_so(tmp_path: Path) -> None:
    place = model_folder(tmp_path / "model")
    config = json.loads((place / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 12
    (place / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WinnowError, match="could not be loaded"):
        OpenCLIPEmbedder(model=str(place))
    (place / "open_clip_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WinnowError, match="could not be loaded"):
        OpenCLIPEmbedder(model=str(place))
    (place / "open_clip_model.safetensors").unlink()
    with pytest.raises(WinnowError, match="holds no open_clip_model.safetensors"):
        OpenCLIPEmbedder(model=str(place))


def test_a_folder_has_no_revision(folder: Path) -> None:
    with pytest.raises(WinnowError, match="is a folder"):
        OpenCLIPEmbedder(model=str(folder), revision="main")


def test_a_name_of_open_clip_is_found_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WINNOW_DOWNLOADS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--timm--vit_large_patch14_clip_224.openai"
    snapshot = model_folder(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    by_name = OpenCLIPEmbedder(model="ViT-L-14", pretrained="openai")
    by_id = OpenCLIPEmbedder(model="timm/vit_large_patch14_clip_224.openai", revision=commit)
    assert by_name.name == "ViT-L-14/openai@0123456789ab"
    assert by_id.name == "timm/vit_large_patch14_clip_224.openai@0123456789ab"
    images = some_images((40, 40))
    np.testing.assert_array_equal(by_id.images(images), OpenCLIPEmbedder(model=str(snapshot)).images(images))
    assert np.abs(by_id.images(images) - by_name.images(images)).max() > 1e-6, "the weights of OpenAI want QuickGELU"


def test_a_configuration_cannot_reach_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WINNOW_DOWNLOADS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    place = model_folder(tmp_path / "model")
    config = json.loads((place / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": "someone/some-text-model"}
    (place / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WinnowError, match="could not be loaded"):
        OpenCLIPEmbedder(model=str(place))
    assert constants.HF_HUB_OFFLINE is False


def test_the_digest_is_that_of_the_folder(folder: Path, embedder: OpenCLIPEmbedder) -> None:
    assert embedder.name == f"{folder}@{hub.digest(str(folder))}"

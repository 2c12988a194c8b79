"""ALBEF's checkpoints: a tiny random one of the public layout, against the network written out from its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from db.errors import WinnowError
from engine.attention_options import AttentionOptions
from engine.presets import PRESETS, TrainOptions
from engine.training import mmlab

mmlab.install()

from test_attending import READER, TINY, Heard, folder_of

from engine.training.albef import is_albef, read_albef
from engine.training.attending import ask, card_of, load_attending, model_of, tokenizer_of
from engine.training.checkpoint import build
from engine.training.launch import TrainJob, train

WIDTH, HEADS, JOINT, PATCH, GRID = 128, 2, 16, 8, 4
BLOCKS, LAYERS, FUSION = 2, 4, 2
State = dict[str, Tensor]


def layer(name: str, out: int, into: int) -> State:
    return {f"{name}.weight": torch.randn(out, into) / into**0.5, f"{name}.bias": torch.randn(out) / 10}


def norm(name: str) -> State:
    return {f"{name}.weight": 1 + torch.randn(WIDTH) / 10, f"{name}.bias": torch.randn(WIDTH) / 10}


def attention(name: str) -> State:
    parts = [layer(f"{name}.self.{part}", WIDTH, WIDTH) for part in ("query", "key", "value")]
    parts += [layer(f"{name}.output.dense", WIDTH, WIDTH), norm(f"{name}.output.LayerNorm")]
    return {key: tensor for part in parts for key, tensor in part.items()}


def weights(vocabulary: int, bert: str) -> State:
    """The names and shapes of the public checkpoint, at other sizes."""
    state = {
        "visual_encoder.cls_token": torch.randn(1, 1, WIDTH),
        "visual_encoder.pos_embed": torch.randn(1, 1 + GRID * GRID, WIDTH) / 2,
        "visual_encoder.patch_embed.proj.weight": torch.randn(WIDTH, 3, PATCH, PATCH) / 14,
        "visual_encoder.patch_embed.proj.bias": torch.randn(WIDTH) / 10,
    }
    for number in range(BLOCKS):
        block = f"visual_encoder.blocks.{number}"
        state |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        state |= layer(f"{block}.attn.qkv", 3 * WIDTH, WIDTH) | layer(f"{block}.attn.proj", WIDTH, WIDTH)
        state |= layer(f"{block}.mlp.fc1", 96, WIDTH) | layer(f"{block}.mlp.fc2", WIDTH, 96)
    state |= norm("visual_encoder.norm")
    for name, rows in (("word", vocabulary), ("position", 40), ("token_type", 2)):
        state[f"{bert}embeddings.{name}_embeddings.weight"] = torch.randn(rows, WIDTH) / 2
    state |= norm(f"{bert}embeddings.LayerNorm") | {f"{bert}embeddings.position_ids": torch.arange(40)[None]}
    for number in range(LAYERS):
        name = f"{bert}encoder.layer.{number}"
        state |= attention(f"{name}.attention") | (attention(f"{name}.crossattention") if number >= FUSION else {})
        state |= layer(f"{name}.intermediate.dense", 96, WIDTH) | layer(f"{name}.output.dense", WIDTH, 96)
        state |= norm(f"{name}.output.LayerNorm")
    state |= layer("vision_proj", JOINT, WIDTH) | layer("text_proj", JOINT, WIDTH) | layer("itm_head", 2, WIDTH)
    return state | {"temp": torch.tensor(0.05)}


def guessing(state: State) -> State:
    """The head of the first training, and what of it nobody needs any more."""
    head = "text_encoder.cls.predictions"
    words = state["text_encoder.bert.embeddings.word_embeddings.weight"]
    added = layer(f"{head}.transform.dense", WIDTH, WIDTH) | norm(f"{head}.transform.LayerNorm")
    added |= {f"{head}.bias": torch.randn(len(words)), f"{head}.decoder.weight": words}
    added[f"{head}.decoder.bias"] = added[f"{head}.bias"]
    twin = {name.replace("_encoder.", "_encoder_m."): tensor for name, tensor in state.items() if "_encoder." in name}
    queues = {"image_queue": torch.randn(JOINT, 4), "text_queue": torch.randn(JOINT, 4), "queue_ptr": torch.zeros(1)}
    return added | twin | queues | layer("vision_proj_m", JOINT, WIDTH) | layer("text_proj_m", JOINT, WIDTH)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_of(READER)


@pytest.fixture(scope="module")
def state(tokenizer: Any) -> State:
    torch.manual_seed(0)
    return weights(len(tokenizer), "text_encoder.bert.")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, state: State) -> Path:
    path = tmp_path_factory.mktemp("albef") / "ALBEF.pth"
    torch.manual_seed(1)
    torch.save(
        {"model": state | guessing(state), "optimizer": {"state": {}}, "config": {"queue": 4}, "epoch": 29}, path
    )
    return path


# The network as the paper and its code define it


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def normed(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps)


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (query, key, value))
    scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
    return ((scores if mask is None else scores + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)


def seen_by(state: State, images: Tensor) -> Tensor:
    name = "visual_encoder.patch_embed.proj"
    patches = F.conv2d(images, state[f"{name}.weight"], state[f"{name}.bias"], PATCH).flatten(2).transpose(1, 2)
    first = state["visual_encoder.cls_token"].expand(len(images), -1, -1)
    x = torch.cat([first, patches], 1) + state["visual_encoder.pos_embed"]
    for number in range(BLOCKS):
        block = f"visual_encoder.blocks.{number}"
        parts = linear(state, f"{block}.attn.qkv", normed(state, f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(state, f"{block}.attn.proj", attended(*parts))
        inner = linear(state, f"{block}.mlp.fc1", normed(state, f"{block}.norm2", x, 1e-6))
        x = x + linear(state, f"{block}.mlp.fc2", F.gelu(inner))
    return normed(state, "visual_encoder.norm", x, 1e-6)


def looked(state: State, name: str, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
    query, keys, values = (
        linear(state, f"{name}.self.{part}", of) for part, of in (("query", x), ("key", other), ("value", other))
    )
    out = linear(state, f"{name}.output.dense", attended(query, keys, values, mask))
    return normed(state, f"{name}.output.LayerNorm", out + x, 1e-12)


def embedded(state: State, bert: str, ids: Tensor) -> Tensor:
    words, places, sorts = (
        state[f"{bert}embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
    )
    return normed(state, f"{bert}embeddings.LayerNorm", words[ids] + places[: ids.shape[1]] + sorts[0], 1e-12)


def through(state: State, bert: str, x: Tensor, tokens: Tensor, layers: range, image: Tensor | None = None) -> Tensor:
    mask = (1 - tokens[:, None, None].float()) * -1e4
    for number in layers:
        name = f"{bert}encoder.layer.{number}"
        x = looked(state, f"{name}.attention", x, x, mask)
        x = looked(state, f"{name}.crossattention", x, image, None) if image is not None else x
        inner = F.gelu(linear(state, f"{name}.intermediate.dense", x))
        x = normed(state, f"{name}.output.LayerNorm", linear(state, f"{name}.output.dense", inner) + x, 1e-12)
    return x


def asked(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    ids, tokens = torch.tensor([[2, 9, 8, 7, 3], [2, 7, 3, 0, 0]]), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    return torch.randn(batch, 3, GRID * PATCH, GRID * PATCH), ids, tokens


def options(file: Path, **more: Any) -> TrainOptions:
    attention = AttentionOptions(model=str(file), tokenizer=READER, queue=0, **more)
    return TrainOptions.model_validate({**TINY, "attention": attention.model_dump()})


@pytest.mark.parametrize("finetuned", [False, True])
def test_the_loaded_network_computes_what_albef_defines(
    tmp_path: Path, file: Path, state: State, finetuned: bool
) -> None:
    """Both layouts: that of the first training, and that of retrieval and grounding, which has no head for words."""
    bert = "text_encoder." if finetuned else "text_encoder.bert."
    plain = {name.replace("text_encoder.bert.", bert): tensor for name, tensor in state.items()}
    if finetuned:
        file = tmp_path / "refcoco.pth"
        torch.save(plain, file)
    model = build(model_of(card_of("albef", options(file)), start=str(file), soft=0.0)).eval()
    model.init_weights()
    images, ids, tokens = asked()
    with torch.no_grad():
        image = seen_by(state, images)
        text = through(plain, bert, embedded(plain, bert, ids), tokens, range(FUSION))
        fused = through(plain, bert, text, tokens, range(FUSION, LAYERS), image)
        seen = model.learner.seen(images)
        torch.testing.assert_close(seen, image, atol=1e-4, rtol=1e-4)
        wanted = F.normalize(linear(state, "text_proj", text[:, 0]), dim=-1)
        torch.testing.assert_close(model.learner.text_features(ids, tokens), wanted, atol=1e-4, rtol=1e-4)
        wanted = F.normalize(linear(state, "vision_proj", image[:, 0]), dim=-1)
        torch.testing.assert_close(model.learner.image_features(seen), wanted, atol=1e-4, rtol=1e-4)
        found = model.learner.matches(model.learner.read(ids, tokens, seen))
    torch.testing.assert_close(found, linear(state, "itm_head", fused[:, 0]), atol=1e-4, rtol=1e-4)
    assert model.maps(images, ids, tokens).shape == (2, GRID, GRID)
    assert float(model.temperature) == pytest.approx(0.05) and (model.learner.words is None) == finetuned


def test_every_weight_finds_its_place_and_comes_back_out_as_it_was(file: Path, state: State) -> None:
    model = build(model_of(card_of("albef", options(file)), start=str(file), soft=0.0))
    model.init_weights()
    loaded, read = model.learner.state_dict(), read_albef(str(file))
    assert read.guesses and read.fusion == FUSION and loaded.keys() == read.weights.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in read.weights.items())
    used = [name for name in state if name != "temp" and "position_ids" not in name and "token_type" not in name]
    assert len(read.weights) == len(used) + 7  # and the head that guesses words


def test_a_training_starts_from_the_checkpoint_and_is_asked_without_it(tmp_path: Path, file: Path) -> None:
    folder, heard = folder_of(tmp_path), Heard()
    mine = tmp_path / "ALBEF.pth"
    mine.write_bytes(file.read_bytes())
    job = TrainJob(folder, tmp_path / "work", "albef", {**options(mine).model_dump(), "iterations": 2, "lr": 1e-5})
    result = train(job, heard)
    assert {"loss_itc", "loss_itm", "loss_mlm", "loss_amc"} <= heard.curves.keys()
    mine.unlink()
    _, card = load_attending(Path(result["model"]))
    assert (card.fusion, card.layer, card.tokenizer, card.guesses) == (FUSION, 2, READER, True)
    maps = ask(Path(result["model"]), [{"id": 1, "image": str(folder / "1.png"), "text": "a red mug"}])
    assert maps[0].shape == (GRID, GRID) and 0 <= maps[0].min() <= maps[0].max() <= 1


def test_what_is_no_albef_is_refused(tmp_path: Path, file: Path, state: State) -> None:
    assert is_albef("weights/ALBEF.pth") and not is_albef("Salesforce/blip-itm-base-coco") and not is_albef(None)
    assert PRESETS["albef"].defaults.attention.tokenizer == "google-bert/bert-base-uncased"
    with pytest.raises(WinnowError, match="see the image: use 2 to 3"):
        card_of("albef", options(file, layer=1))
    with pytest.raises(WinnowError, match=r"no file .*Download ALBEF.pth"):
        read_albef(str(tmp_path / "gone.pth"))
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(WinnowError, match="cannot be read"):
        read_albef(str(tmp_path / "text.pth"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WinnowError, match="holds no ALBEF"):
        read_albef(str(tmp_path / "other.pth"))
    torch.save({name: t for name, t in state.items() if not name.startswith("itm_head")}, tmp_path / "headless.pth")
    model = build(model_of(card_of("albef", options(file)), start=str(tmp_path / "headless.pth"), soft=0.0))
    with pytest.raises(WinnowError, match="itm_head"):
        model.init_weights()
    without = TrainOptions(attention=AttentionOptions(model=str(file)))
    with pytest.raises(WinnowError, match=r"attention\.tokenizer"):
        card_of("albef", without)

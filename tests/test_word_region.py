"""Similarities of texts and images, the contrastive loss, and which regions may be chosen."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn.functional import normalize

from engine.pair_options import Direction, Matching, PairOptions
from engine.training.word_region import (
    chosen_regions,
    contrastive,
    directed,
    image_similarity,
    pair_loss,
    proposal_scores,
    text_similarity,
)


def data(images: int = 3, k: int = 5, words: int = 7, texts: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    regions = normalize(torch.randn(images, k, 8, generator=random), dim=-1)
    said = torch.rand(texts, words, generator=random) < 0.5
    said[:, 0] = True
    return regions, normalize(torch.randn(words, 8, generator=random), dim=-1), said


@pytest.mark.parametrize("matching", ["best", "soft"])
def test_the_order_of_regions_and_of_words_changes_nothing(matching: Matching) -> None:
    regions, words, said = data()
    similar = text_similarity(regions, words, said, matching)
    other = torch.randperm(words.shape[0])
    mixed = text_similarity(regions[:, torch.randperm(regions.shape[1])], words[other], said[:, other], matching)
    torch.testing.assert_close(mixed, similar)
    named = image_similarity(regions, words, said)
    torch.testing.assert_close(image_similarity(regions.flip(1), words[other], said[:, other]), named)


def test_a_text_is_the_mean_of_the_best_regions_of_its_words() -> None:
    regions = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    words = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    said = torch.tensor([[True, True, False], [False, False, True]])
    torch.testing.assert_close(text_similarity(regions, words, said), torch.tensor([[0.9, 0.0]]))
    torch.testing.assert_close(image_similarity(regions, words, said), torch.tensor([[0.9, -0.5]]))
    soft = text_similarity(regions, words, said, "soft", 1e-3)
    torch.testing.assert_close(soft, torch.tensor([[0.9, 0.0]]), atol=1e-4, rtol=0)
    assert (text_similarity(regions, words, said, "soft", 1.0) < torch.tensor([[0.9, 0.0]]) + 1e-6).all()


def test_padding_is_no_region() -> None:
    regions, words, said = data()
    shown = torch.ones(3, 5, dtype=torch.bool)
    shown[:, 3:] = False
    torch.testing.assert_close(
        text_similarity(regions, words, said, shown=shown), text_similarity(regions[:, :3], words, said)
    )
    torch.testing.assert_close(
        image_similarity(regions, words, said, shown), image_similarity(regions[:, :3], words, said)
    )


def test_one_pair_alone_has_nothing_to_be_told_from() -> None:
    assert float(contrastive(torch.tensor([[0.3]]), smoothing=0.0)) == 0.0


def test_removing_another_image_makes_a_text_easier() -> None:
    similar = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0])
    whole = torch.nn.functional.cross_entropy(similar[:, :1].T / 0.5, target)
    for other in (1, 2, 3):
        left = similar[[i for i in range(4) if i != other]]
        assert float(torch.nn.functional.cross_entropy(left[:, :1].T / 0.5, target)) < float(whole)
        assert float(contrastive(left[:, :1], 0.5, 0.0)) < float(whole)


def test_the_softmax_is_over_images() -> None:
    similar = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = math.log(1 + math.exp(-2))
    torch.testing.assert_close(contrastive(similar, 0.5, 0.0), torch.tensor(expected))
    # both texts fit the first image better: told apart by text one is wrong, by image (the transpose) both are undecided
    lopsided = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    by_text = float(contrastive(lopsided, 0.5, 0.0))
    by_image = float(contrastive(lopsided.T, 0.5, 0.0))
    assert by_text == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2)
    assert by_image == pytest.approx(math.log(2))
    options = [PairOptions(smoothing=0.0, direction=d) for d in ("text-to-image", "image-to-text", "both")]
    found = [float(directed(lopsided, lopsided, one)) for one in options]
    assert found == pytest.approx([by_text, by_image, (by_text + by_image) / 2])


def test_what_regions_are_ranked_by() -> None:
    similar = torch.tensor([[[0.1, 0.9], [0.5, 0.2]], [[0.3, 0.4], [0.6, 0.1]]])
    sure, central = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    own = [[0], [1]]
    found = {name: proposal_scores(similar, own, name, sure, central).tolist() for name in ("batch", "sample")}
    assert found["batch"] == [pytest.approx([0.9, 0.5]), pytest.approx([0.4, 0.6])]
    assert found["sample"] == [pytest.approx([0.1, 0.5]), pytest.approx([0.4, 0.1])]
    assert proposal_scores(similar, own, "classification", sure, central) is sure
    assert proposal_scores(similar, own, "centerness", sure, central) is central


def test_the_best_regions_are_chosen_after_suppression() -> None:
    near, far = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]
    boxes = torch.tensor([[near, near, far], [far, near, near]])
    scores = torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.3, 0.4]])
    place, shown = chosen_regions(boxes, scores, k=3, iou=0.7)
    assert [p[s].tolist() for p, s in zip(place, shown, strict=True)] == [[1, 2], [2, 0]]
    assert chosen_regions(boxes, scores, k=1, iou=0.7)[0].tolist() == [[1], [2]]


def _process(rank: int, place: str, direction: Direction) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    regions, words, said = data(images=4, texts=4)
    mine, all_words = regions[rank * 2 : rank * 2 + 2].clone().requires_grad_(), words.clone().requires_grad_()
    loss = pair_loss(mine, all_words, said, PairOptions(direction=direction))
    loss.backward()
    assert mine.grad is not None and all_words.grad is not None
    distributed.all_reduce(all_words.grad)
    torch.save((float(loss.detach()), mine.grad / 2, all_words.grad / 2), f"{place}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["text-to-image", "both"])
def test_two_processes_learn_what_one_would(tmp_path: Path, direction: Direction) -> None:
    """Gradients as a distributed training takes them: the mean over the processes."""
    multiprocessing.spawn(_process, (str(tmp_path), direction), nprocs=2)
    regions, words, said = data(images=4, texts=4)
    whole, words = regions.clone().requires_grad_(), words.clone().requires_grad_()
    loss = pair_loss(whole, words, said, PairOptions(direction=direction))
    loss.backward()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first[0] == pytest.approx(float(loss.detach())) == pytest.approx(second[0])
    assert whole.grad is not None and words.grad is not None
    torch.testing.assert_close(torch.cat([first[1], second[1]]), whole.grad)
    torch.testing.assert_close(first[2], words.grad)

"""Explanation maps and the loss that moves them into boxes (METHODS 2.3, 8)."""

from __future__ import annotations

import pytest
import torch

from engine.training.attention import Margins, amc_loss, enlarged, explanation_maps


def map_of(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows)[None]


def test_a_map_inside_of_its_box_costs_no_maximum_and_a_uniform_map_what_the_paper_says() -> None:
    mask = torch.zeros(1, 4, 4)
    mask[:, 1:3, 1:3] = 1
    assert amc_loss(mask.clone(), mask) == 0
    # everywhere the same: L_mean = 0.1, L_max = 0.5, 0.8 * 0.5 + 0.2 * 0.1
    assert amc_loss(torch.full((1, 4, 4), 0.3), mask).item() == pytest.approx(0.42)
    assert amc_loss(torch.full((1, 4, 4), 0.3), mask, Margins(mean=0.0, max=0.5)).item() == pytest.approx(0.4)


def test_a_map_outside_of_its_box_costs_most() -> None:
    mask = torch.zeros(1, 2, 2)
    mask[0, 0, 0] = 1
    # mean_out = 1, mean_in = 0; max_out = 1, max_in = 0
    assert amc_loss(1 - mask, mask).item() == pytest.approx(0.8 * 1.5 + 0.2 * 1.1)


@pytest.mark.parametrize(
    ("pool", "wanted"),
    [
        # inside: (1 + 0.2 * 3) / 4 of all; outside: (0 * 3 + 0.8) / 4 of all
        pytest.param("batch", max(0.0, 0.2 - 0.4 + 0.1), id="pixels of the batch together"),
        # of each: max(0, 0 - 1 + 0.1) and max(0, 0.8 - 0.2 + 0.1)
        pytest.param("sample", (0.0 + 0.7) / 2, id="each sample for itself"),
    ],
)
def test_the_mean_term_pools_as_it_is_told(pool: str, wanted: float) -> None:
    maps = torch.cat([map_of([[1.0, 0.0], [0.0, 0.0]]), map_of([[0.8, 0.2], [0.2, 0.2]])])
    masks = torch.cat([map_of([[1.0, 0.0], [0.0, 0.0]]), map_of([[0.0, 1.0], [1.0, 1.0]])])
    maximum = (max(0.0, 0 - 1 + 0.5) + (0.8 - 0.2 + 0.5)) / 2
    assert amc_loss(maps, masks, pool=pool).item() == pytest.approx(0.8 * maximum + 0.2 * wanted)


def test_a_box_over_the_whole_image_and_no_map_at_all_cost_nothing() -> None:
    assert amc_loss(torch.rand(2, 3, 3).clamp(min=0.6), torch.ones(2, 3, 3)) == 0
    assert amc_loss(torch.zeros(0, 3, 3), torch.zeros(0, 3, 3)) == 0


def test_a_map_is_attention_times_positive_gradient_from_its_least_to_its_greatest() -> None:
    attention = torch.tensor([[0.9, 0.1, 0.2, 0.3, 0.4]]).reshape(1, 1, 1, 5).requires_grad_()
    slopes = torch.tensor([5.0, 1.0, 2.0, -1.0, 1.0])  # of the match by each patch, the first is [CLS]
    maps = explanation_maps(attention, (attention * slopes).sum((1, 2, 3)), torch.ones(1, 1), (2, 2))
    # 0.1, 0.4, 0 (a negative gradient), 0.4
    assert torch.allclose(maps, torch.tensor([[[0.25, 1.0], [0.0, 1.0]]]))


def test_padding_has_no_say_in_a_map() -> None:
    attention = torch.rand(1, 2, 3, 5, requires_grad=True)
    match = (attention**2).sum((1, 2, 3))
    alone = explanation_maps(attention, match, torch.tensor([[1, 0, 0]]), (2, 2))
    match = (attention**2).sum((1, 2, 3))
    first = attention[:, :, :1]
    by_hand = (first * 2 * first)[..., 1:].mean(1).mean(1)
    by_hand = (by_hand - by_hand.min()) / (by_hand.max() - by_hand.min())
    assert torch.allclose(alone.flatten(1), by_hand, atol=1e-6)


def test_a_map_without_contrast_is_zero_and_not_nan() -> None:
    attention = torch.ones(1, 1, 1, 5, requires_grad=True)
    assert explanation_maps(attention, attention.sum((1, 2, 3)), torch.ones(1, 1), (2, 2)).abs().max() == 0


def test_the_loss_reaches_the_weights_through_the_gradient_of_the_match() -> None:
    weight = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0], requires_grad=True)
    attention = torch.full((1, 1, 1, 5), 0.2, requires_grad=True)  # itself no function of the weights
    maps = explanation_maps(attention, (attention * weight).sum((1, 2, 3)), torch.ones(1, 1), (2, 2))
    mask = torch.zeros(1, 8, 8)
    mask[:, :4, :4] = 1  # where the map is lowest
    amc_loss(enlarged(maps, (8, 8)), mask).backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0

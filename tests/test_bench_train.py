"""The bench of trainings: both sides run, and its straightforward operators are the operators."""

from __future__ import annotations

import pytest
import torch

from engine.training import bench
from studio.benches.train import run


def test_the_plain_operators_compute_the_same() -> None:
    torch.manual_seed(0)
    for name, ours, plain in (bench._nms(), bench._roi_align(), bench._attention()):
        mine, other = ours(), plain()
        if name == "nms":
            assert torch.equal(mine[1], other)
        else:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_bench_says_how_both_sides_did() -> None:
    result = run(0.01)
    figures = result["figures"]
    assert result["bench"] == "train" and figures["images_per_s"] > 0
    assert figures["train_ratio_to_plain"] > 0.1 and figures["nms_times_plain"] > 0

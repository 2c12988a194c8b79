"""A training that may be interrupted: it goes on from its last checkpoint with the same random numbers."""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

logger = logging.getLogger(__name__)
SAVE_SECONDS = 120
Loss = Callable[[torch.Generator], torch.Tensor]


class Sitting:
    """Trains `module` for `steps` steps of AdamW with warm-up and cosine decay; `ema` holds the averaged weights.

    The state lies in `folder/NAME.pt` and is saved every two minutes and at the end. Each step draws its random numbers
    from a generator seeded by (seed, step), so that an interrupted training ends as an uninterrupted one.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        module: torch.nn.Module,
        *,
        steps: int,
        lr: float,
        seed: int = 0,
        warm_up: int = 100,
    ) -> None:
        self.module, self.steps, self.seed, self._lr, self._warm_up = module, steps, seed, lr, warm_up
        self._path, self._name = folder / f"{name}.pt", name
        self._optimizer = torch.optim.AdamW(module.parameters(), lr, weight_decay=1e-2, betas=(0.9, 0.99), fused=True)
        self.ema = copy.deepcopy(module).requires_grad_(False).eval()
        self.step, self.loss = 0, math.nan
        if self._path.is_file():
            self._load()

    def run(self, loss_of: Loss, each: Callable[[int, float], None] | None = None) -> None:
        """Do the steps that are left. `loss_of` gets the generator of its step; `each` hears (step, mean loss)."""
        self.module.train()
        saved = time.monotonic()
        while self.step < self.steps:
            loss = self._one(loss_of)
            self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
            if each is not None and self.step % 50 == 0:
                each(self.step, self.loss)
            if time.monotonic() - saved > SAVE_SECONDS or self.step == self.steps:
                self._save()
                saved = time.monotonic()
        self.module.eval()

    def _one(self, loss_of: Loss) -> float:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        torch.manual_seed(self.seed * 1_000_003 + self.step)  # dropout and the like
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        loss = loss_of(generator)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self._optimizer.step()
        self.step += 1
        self._average()
        return float(loss.detach())

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / self._warm_up)
        return self._lr * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * self.step / self.steps)))

    @torch.no_grad()
    def _average(self) -> None:
        share = 1 - min(0.999, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.ema.parameters(), self.module.parameters(), strict=True):
            mean.lerp_(now, share)
        for kept, buffer in zip(self.ema.buffers(), self.module.buffers(), strict=True):
            kept.copy_(buffer)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "loss": self.loss,
            "module": self.module.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        unfinished = self._path.with_suffix(".part")
        torch.save(state, unfinished)
        os.replace(unfinished, self._path)

    def _load(self) -> None:
        state = torch.load(self._path, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.ema.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.loss = state["step"], state["loss"]
        logger.info("%s goes on from step %s", self._name, self.step)

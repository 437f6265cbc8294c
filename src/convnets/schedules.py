"""Courses of the learning rate that torch does not have."""

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupDecay(LRScheduler):
    """Up to the rate in equal steps, a while at it, then down to a share of it, by a line or half a cosine.

    Args:
        num_steps: of the whole training.
        warmup: the share of the steps that lead up.
        hold: the share of the steps at the full rate.
        decay: "linear" or "cosine".
        final: the share of the rate that the last steps approach.

    Raises:
        ValueError: the shares are more than the whole, or there is no such decay.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        num_steps: int,
        warmup: float = 0.1,
        hold: float = 0.0,
        decay: str = "cosine",
        final: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if decay not in ("linear", "cosine"):
            raise ValueError(f"decay must be linear or cosine, got {decay!r}.")
        if warmup + hold > 1:
            raise ValueError(f"warmup and hold are shares of the steps, together at most 1, got {warmup} + {hold}.")
        self.decay = decay
        self.final = final
        self.num_up = round(warmup * num_steps)
        self.num_held = round(hold * num_steps)
        self.num_down = num_steps - self.num_up - self.num_held
        super().__init__(optimizer, last_epoch)

    def share(self, step: int) -> float:
        """The step's share of the full rate; the first step is 0. No step of the training has a rate of 0."""
        if step < self.num_up:
            return (step + 1) / (self.num_up + 1)
        step -= self.num_up + self.num_held
        if step < 0:
            return 1.0
        done = min((step + 1) / (self.num_down + 1), 1.0)
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final + (1 - self.final) * left

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each parameter group."""
        return [rate * self.share(self.last_epoch) for rate in self.base_lrs]

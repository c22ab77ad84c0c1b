"""The learning rate as a function of the step alone, so that resuming needs no state of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codetr.engine.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """The factor on every learning rate.

    steps_per_epoch: optimizer steps in one epoch.
    """

    config: TrainConfig
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    def factor(self, step: int) -> float:
        """Factor of optimizer step `step` (the first is 0): decay by milestones or cosine, times linear warm-up."""
        warmup = min(1.0, (step + 1) / self.config.warmup_steps) if self.config.warmup_steps else 1.0
        if self.config.schedule == "cosine":
            return warmup * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / self.total_steps)))
        passed = sum(step >= milestone * self.steps_per_epoch for milestone in self.config.milestones)
        return float(warmup * self.config.decay**passed)

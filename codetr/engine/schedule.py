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

    def lr(self, step: int) -> float:
        """The base learning rate of optimizer step `step`."""
        return scaled_lr(self.config) * self.factor(step)

    def notes(self) -> list[str]:
        """What was set and has no effect, a sentence each. Milestones of the published recipe were not set."""
        config, default = self.config, TrainConfig.model_fields["milestones"].default
        late = [milestone for milestone in config.milestones if milestone >= config.epochs]
        notes = []
        if config.schedule == "cosine" and config.milestones not in ((), default):
            notes.append(f"train.milestones={list(config.milestones)} has no effect with train.schedule=cosine")
        elif config.schedule == "step" and late and config.milestones != default:
            notes.append(
                f"train.milestones: the rate would fall after epoch {late[0]}, but training ends with epoch "
                f"{config.epochs}"
            )
        if config.warmup_steps > self.total_steps:
            notes.append(
                f"train.warmup_steps={config.warmup_steps}: training has {self.total_steps} steps and never reaches "
                "the full rate"
            )
        if config.lr_scaling != "linear" and config.lr_batch_size is None:
            notes.append(f"train.lr_scaling={config.lr_scaling} has no effect without train.lr_batch_size")
        return notes


def scaled_lr(config: TrainConfig) -> float:
    """The base learning rate for the batch at hand: `lr` is meant for `lr_batch_size` images, or for any number."""
    if config.lr_batch_size is None:
        return config.lr
    ratio = config.batch_size / config.lr_batch_size
    return config.lr * (ratio if config.lr_scaling == "linear" else math.sqrt(ratio))


def lr_line(config: TrainConfig) -> str:
    """For people: the base learning rate, and where it comes from."""
    if config.lr_batch_size is None or config.lr_batch_size == config.batch_size:
        return f"{config.lr:g}"
    law = "in proportion" if config.lr_scaling == "linear" else "by the square root"
    return f"{scaled_lr(config):.4g} ({config.lr:g} for {config.lr_batch_size} images, scaled {law})"

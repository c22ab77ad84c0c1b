"""Settings of a training run; the defaults are those of the published 12-epoch recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from codetr.config import Section

Positive = Annotated[int, Field(ge=1)]


class LearningRateGroup(Section):
    """Parameters with their own learning rate.

    match: a piece of the dotted parameter name. factor: their learning rate over the base one.
    optional: if False, it is an error that no parameter of the model is matched.
    """

    match: str = Field(min_length=1)
    factor: float = Field(ge=0.0)
    optional: bool = False


class EmaConfig(Section):
    """Exponential moving average of the weights; if given, the averaged weights are evaluated and shipped."""

    decay: float = Field(default=0.9997, gt=0.0, lt=1.0)


PUBLISHED_GROUPS = (
    LearningRateGroup(match="backbone", factor=0.1),
    LearningRateGroup(match="sampling_offsets", factor=0.1, optional=True),
    LearningRateGroup(match="reference_points", factor=0.1, optional=True),
)


class TrainConfig(Section):
    """How a detector is trained.

    batch_size: images in one optimizer step, over all ranks and accumulated pieces; `lr` is meant for it.
    accumulate: pieces, one after the other, in which a rank computes its share of the batch.
    lr_groups: the first group that matches a parameter sets its factor; the others have factor 1.
    schedule: `step` multiplies the learning rate by `decay` after each of the `milestones` (in epochs: 11 means that
        epochs 1 to 11 have the full rate); `cosine` falls to 0 at the end of the last epoch.
    warmup_steps: steps over which the rate rises linearly from 0.
    clip_norm: largest L2 norm of the gradient over all parameters, or null.
    precision: `bf16` runs the forward pass under autocast. device: `auto` takes a GPU if there is one.
    threads: threads of a CPU operation, or null for PyTorch's choice.
    eval_every: epochs between evaluations; 0 evaluates at the end only, null never.
    checkpoint_every: steps between additional checkpoints, or null. log_every: steps between lines of the log.

    Source: arXiv:2211.12860, section 4.1, and the authors' published configurations.
    """

    epochs: Positive = 12
    batch_size: Positive = 16
    accumulate: Positive = 1
    lr: float = Field(default=2e-4, gt=0.0)
    weight_decay: float = Field(default=1e-4, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.999)
    lr_groups: tuple[LearningRateGroup, ...] = PUBLISHED_GROUPS
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Positive, ...] = (11,)
    decay: float = Field(default=0.1, gt=0.0)
    warmup_steps: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=0.1, gt=0.0)
    seed: int = Field(default=0, ge=0)
    ema: EmaConfig | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "auto"
    threads: Positive | None = None
    eval_every: Annotated[int, Field(ge=0)] | None = 1
    checkpoint_every: Positive | None = None
    log_every: Positive = 20

"""Settings of a training run; the defaults are those of the published 12-epoch recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from codetr.config import Section

Positive = Annotated[int, Field(ge=1)]
Pattern = Annotated[str, Field(min_length=1)]


class ParameterGroup(Section):
    """Parameters with a learning rate, or a weight decay, of their own.

    match: a piece of the dotted parameter name; `norm` also means every parameter of a norm layer. factor: their
    learning rate over the base one. weight_decay: theirs instead of `train.weight_decay`. What is null is left to the
    groups after this one. optional: if False, it is an error that no parameter of the model is matched.
    """

    match: Pattern
    factor: float | None = Field(default=None, ge=0.0)
    weight_decay: float | None = Field(default=None, ge=0.0)
    optional: bool = False


class EmaConfig(Section):
    """Exponential moving average of the weights; if given, the averaged weights are evaluated and shipped."""

    decay: float = Field(default=0.9997, gt=0.0, lt=1.0)


class EarlyStopping(Section):
    """Stop when `patience` evaluations in a row have not raised the best AP by more than `min_delta`."""

    patience: Positive = 5
    min_delta: float = Field(default=0.0, ge=0.0)


PUBLISHED_GROUPS = (
    ParameterGroup(match="backbone", factor=0.1),
    ParameterGroup(match="sampling_offsets", factor=0.1, optional=True),
    ParameterGroup(match="reference_points", factor=0.1, optional=True),
)


class TrainConfig(Section):
    """How a detector is trained.

    Batch
    batch_size: images in one optimizer step, over all ranks and accumulated pieces; `lr` is meant for it.
    accumulate: pieces, one after the other, in which a rank computes its share of the batch.

    Optimization
    init_from: a run, checkpoint or .safetensors file whose weights training starts from. Rows that belong to classes
        are copied by the class's name; classes that it does not know start afresh.
    freeze: parameters with one of these pieces in their dotted names are not trained (`norm`: those of norm layers
        too); the statistics of batch norms in modules without any other parameter stand still.
    lr_batch_size: the batch that `lr` is meant for; with another `batch_size`, `lr_scaling` (linear, or by the square
        root) adapts it. null takes `lr` as it is.
    lr_groups: of the groups that match a parameter, the first with a factor sets its factor, the first with a weight
        decay its weight decay; otherwise these are 1 and `weight_decay`.
    layer_decay: factor on the learning rate from each layer of the backbone to the one below it, and from the rest of
        the model to the last of them, beside the factors of `lr_groups`; or null.
    schedule: `step` multiplies the learning rate by `decay` after each of the `milestones` (in epochs: 11 means that
        epochs 1 to 11 have the full rate); `cosine` falls to 0 at the end of the last epoch.
    warmup_steps: steps over which the rate rises linearly from 0.
    clip_norm: largest L2 norm of the gradient over all parameters, or null.
    average_last: epochs at the end of training whose weights are averaged into one more checkpoint, or null.

    Machine
    precision: `bf16` runs the forward pass under autocast. compile: compile backbone, encoder and decoder.
    recompute: modules with one of these pieces in their dotted names, such as `encoder.layers`, compute their
        activations again in the backward pass instead of keeping them.
    parallel: several ranks each hold the whole model (`ddp`), or a share of its weights and optimizer (`fsdp`).
    deterministic: only operations that give the same bits every time; slower.
    device: `auto` takes a GPU if there is one. threads: threads of a CPU operation, or null for PyTorch's choice.
    preflight: before the first step, check that the largest batch fits, that there is room for checkpoints, and that
        the loader keeps up.

    Output
    eval_every: epochs between evaluations; 0 evaluates at the end only, null never.
    checkpoint_every: steps between checkpoints beside those at the end of each epoch, or null.
    keep_last: so many of the newest checkpoints are kept, and the best.
    log_every: steps between lines of the log. tensorboard: write event files too. conflict_every: steps between
        measurements of the gradients that each branch sends into the encoder, and of the angles between them, or null.

    Source: arXiv:2211.12860, section 4.1, and the authors' published configurations.
    """

    epochs: Positive = 12
    batch_size: Positive = 16
    accumulate: Positive = 1
    init_from: Path | None = None
    freeze: tuple[Pattern, ...] = ()
    lr: float = Field(default=2e-4, gt=0.0)
    lr_batch_size: Positive | None = None
    lr_scaling: Literal["linear", "sqrt"] = "linear"
    weight_decay: float = Field(default=1e-4, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.999)
    lr_groups: tuple[ParameterGroup, ...] = PUBLISHED_GROUPS
    layer_decay: float | None = Field(default=None, gt=0.0, le=1.0)
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Positive, ...] = (11,)
    decay: float = Field(default=0.1, gt=0.0)
    warmup_steps: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=0.1, gt=0.0)
    seed: int = Field(default=0, ge=0)
    ema: EmaConfig | None = None
    average_last: Annotated[int, Field(ge=2)] | None = None
    early_stopping: EarlyStopping | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    recompute: tuple[Pattern, ...] = ()
    parallel: Literal["ddp", "fsdp"] = "ddp"
    deterministic: bool = False
    device: str = "auto"
    threads: Positive | None = None
    preflight: bool = True
    eval_every: Annotated[int, Field(ge=0)] | None = 1
    checkpoint_every: Positive | None = None
    keep_last: Positive = 2
    log_every: Positive = 20
    tensorboard: bool = False
    conflict_every: Positive | None = None

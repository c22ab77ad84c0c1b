"""Parts of a model that are not trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from codetr.engine.patterns import hint, matching
from codetr.errors import UserError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def freeze(model: nn.Module, patterns: Sequence[str]) -> int:
    """Take the parameters that the patterns match out of training; returns how many numbers that is.

    To be called before the optimizer and the copies of the model on further ranks are made: both leave out what does
    not train. `start_training` is then to be called in place of `model.train()`.
    Raises: UserError if a pattern matches no parameter, or nothing is left to train.
    """
    frozen: set[nn.Parameter] = set()
    for position, pattern in enumerate(patterns):
        found = matching(model, pattern)
        if not found:
            raise UserError(
                f"train.freeze[{position}]: no parameter of the model has {pattern!r} in its name. "
                f"{hint(model, pattern)}"
            )
        frozen |= found
    for parameter in frozen:
        parameter.requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            f"train.freeze: {', '.join(patterns)} leaves nothing to train. Freeze a part of the model only."
        )
    return sum(parameter.numel() for parameter in frozen)


def start_training(model: nn.Module) -> None:
    """`model.train()`, but batch norms within a module that is frozen as a whole keep their running statistics.

    In training mode these would follow the batches, although no gradient does.
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            for part in module.modules():
                if isinstance(part, BATCH_NORMS):
                    part.eval()

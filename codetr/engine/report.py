"""What one step reports, read back from the device without making it wait."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from codetr.engine.distributed import World
from codetr.errors import UserError


class NonFinite(UserError):
    """A loss or a gradient that is not a number, or infinite."""


@dataclass(frozen=True)
class Pending:
    """A step whose numbers are on their way to the host.

    names: the loss terms. figures: names of what else was measured. values: (2, terms + figures + 2) on the host: own
    and mean over ranks, of the terms, of the gradient's norm, of the figures, and of whether the rank was asked to
    stop; complete once `event` has happened. files: images of the batch.
    """

    step: int
    lr: float
    names: tuple[str, ...]
    figures: tuple[str, ...]
    values: Tensor
    event: torch.cuda.Event | None
    files: tuple[str, ...]

    @classmethod
    def launch(
        cls,
        *,
        step: int,
        lr: float,
        losses: Mapping[str, Tensor],
        norm: Tensor,
        stop: bool,
        files: Sequence[str],
        world: World,
        figures: Mapping[str, Tensor] | None = None,
    ) -> Pending:
        """figures: further scalars, of the same names on every rank; they do not stop the run."""
        figures = figures or {}
        numbers = [*losses.values(), norm, *figures.values()]
        own = torch.stack([number.detach().float() for number in numbers])
        own = torch.cat([own, torch.full((1,), float(stop), device=own.device)])
        values = torch.stack([own, world.mean(own)])
        event = None
        if values.is_cuda:
            host = torch.empty(values.shape, pin_memory=True)
            host.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            values = host
        return cls(step, lr, tuple(losses), tuple(figures), values, event, tuple(files))


@dataclass(frozen=True)
class Report:
    """Numbers of a step, averaged over ranks. stop: True if any rank was asked to stop. figures: see `Pending`."""

    step: int
    lr: float
    losses: Mapping[str, float]
    grad_norm: float
    stop: bool
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        return sum(self.losses.values())


class Reports:
    """Hands out the report of each step: at once on a CPU, one step later on a GPU, whose queue stays filled."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._late: Pending | None = None

    def push(self, pending: Pending) -> Report | None:
        """The report that is due now. Raises: NonFinite."""
        if pending.event is None:
            return self._read(pending)
        due, self._late = self._late, pending
        return None if due is None else self._read(due)

    def flush(self) -> Report | None:
        """The report still on its way. Raises: NonFinite."""
        due, self._late = self._late, None
        return None if due is None else self._read(due)

    def _read(self, pending: Pending) -> Report:
        if pending.event is not None:
            pending.event.synchronize()
        own, mean = pending.values.tolist()
        terms = len(pending.names)
        if not all(math.isfinite(value) for value in mean[: terms + 1]):
            self._stop(pending, own)
        return Report(
            step=pending.step,
            lr=pending.lr,
            losses=dict(zip(pending.names, mean, strict=False)),
            grad_norm=mean[terms],
            stop=mean[-1] > 0,
            figures=dict(zip(pending.figures, mean[terms + 1 :], strict=False)),
        )

    def _stop(self, pending: Pending, own: Sequence[float]) -> NoReturn:
        """Every rank comes here at the same step, because the mean over ranks is not finite on any of them."""
        names = (*pending.names, "grad_norm")
        bad = {name: value for name, value in zip(names, own, strict=False) if not math.isfinite(value)}
        culprits = {name: value for name, value in bad.items() if name != "grad_norm"} or bad
        lines = [
            f"step {pending.step}: training stopped, because the loss or the gradient is no longer a finite number."
        ]
        for rank, (terms, files) in enumerate(self._world.gather((culprits, pending.files))):
            if terms:
                where = f" on rank {rank}" if self._world.size > 1 else ""
                lines.append(f"  terms{where}: " + ", ".join(f"{name} = {value}" for name, value in terms.items()))
                lines.append("  images: " + ", ".join(files))
        lines.append(
            "  Look at these images (`codetr data check`), or lower train.lr. What the run has saved is untouched."
        )
        raise NonFinite("\n".join(lines))

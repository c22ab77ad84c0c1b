"""What a person wants to know before the first step, and after the last."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World
from codetr.engine.launch import resume_command
from codetr.engine.schedule import lr_line

if TYPE_CHECKING:
    from torch import nn

    from codetr.engine.trainer import Outcome

SHOWN_CLASSES = 8


def listed(names: tuple[str, ...]) -> str:
    """The first names of a list."""
    return ", ".join(names[:SHOWN_CLASSES]) + (", ..." if len(names) > SHOWN_CLASSES else "")


def parameters_line(model: nn.Module) -> str:
    """How many parameters are trained, and how many the detector has once the heads are left out."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    shipped = sum(parameter.numel() for parameter in model.get_submodule("base").parameters())
    return f"{trained / 1e6:.2f} M trained, {shipped / 1e6:.2f} M shipped"


def batch_line(config: TrainConfig, world: World) -> str:
    """Where the images of one optimizer step are computed."""
    piece = config.batch_size // (world.size * config.accumulate)
    factors = [f"{piece} image" + ("s" if piece != 1 else "")]
    if world.size > 1:
        factors.append(f"{world.size} ranks")
    if config.accumulate > 1:
        factors.append(f"{config.accumulate} pieces")
    return f"{config.batch_size} = {' x '.join(factors)}" if len(factors) > 1 else factors[0]


def schedule_line(config: TrainConfig) -> str:
    """Learning rate and how it changes."""
    parts = [lr_line(config)]
    if config.warmup_steps:
        parts.append(f"warm-up over {config.warmup_steps} steps")
    if config.schedule == "cosine":
        parts.append("cosine to 0")
    reached = [str(epoch) for epoch in config.milestones if epoch < config.epochs]
    if config.schedule == "step" and reached:
        parts.append(f"times {config.decay:g} after epoch {', '.join(reached)}")
    return ", ".join(parts)


def device_line(world: World) -> str:
    import torch

    if world.device.type == "cuda":
        return torch.cuda.get_device_name(world.device)
    return f"CPU, {torch.get_num_threads()} threads"


def print_rows(console: Console, title: str, rows: Mapping[str, str]) -> None:
    """Names and values: framed on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        width = max(map(len, rows))
        for name, value in rows.items():
            console.print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)
        return
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value))
    console.print(Panel(table, title=title, title_align="left", expand=False))


def print_outcome(console: Console, outcome: Outcome, run: Path) -> None:
    """The best figures, where everything lies, and what to do next."""
    place = shlex.quote(str(run))
    rows = {
        name: f"{outcome.figures[name]:.4f}" for name in ("AP", "AP50", "APr", "segm/AP") if name in outcome.figures
    }
    rows["run"] = str(run)
    if outcome.signal is not None:
        rows["stopped"] = f"by signal {outcome.signal} after step {outcome.step}; everything is saved"
    if not outcome.finished:
        rows["resume"] = resume_command(run)
    if outcome.figures:
        rows["evaluate"] = f"codetr eval {place}"
        rows["predict"] = f"codetr predict IMAGE --checkpoint {place}"
    print_rows(console, "stopped" if outcome.signal is not None else "done", rows)

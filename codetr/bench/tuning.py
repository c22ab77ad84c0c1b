"""Launch configurations measured on the present GPU, for the user's own table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from codetr.bench.candidates import OURS, Candidate, find_candidates
from codetr.bench.correctness import Truth, check, find_truth
from codetr.bench.measuring import calls
from codetr.bench.problems import Inputs, Problem, image_levels, make_inputs
from codetr.bench.timing import measure
from codetr.errors import UserError

if TYPE_CHECKING:
    from codetr_kernels.deform_attention.triton.configs import Config, Direction

SMALLEST_GAIN = 0.02
"""A configuration must be this much faster than the present one: less is within the noise of timing."""


@dataclass(frozen=True)
class Choice:
    """What was found for one shape class. Milliseconds under the present and the best configuration."""

    key: str
    present: Config
    present_time: float
    best: Config
    best_time: float
    tried: int
    refused: int

    @property
    def is_better(self) -> bool:
        """Whether it is worth writing down."""
        return self.best_time < (1 - SMALLEST_GAIN) * self.present_time


def tune(device: torch.device, *, quick: bool) -> Iterator[Choice]:
    """Measure all configurations on a problem of each shape class of head dimension 32: fp32, bf16; many queries, few.

    A configuration that does not compute the operation, or does not fit the GPU, is not considered.

    Raises:
        UserError: there is no GPU that runs the kernels.
    """
    from codetr_kernels.backend import which_backend

    backend = which_backend(device)
    if device.type != "cuda" or backend.name != "triton":
        raise UserError(f"--tune measures on a GPU that runs the kernels, and here is none ({backend.reason})")
    ours = find_candidates(device)[0][0]
    assert ours.name == OURS
    for problem in _problems():
        inputs = make_inputs(problem, device)
        yield from _tune(problem, inputs, ours, find_truth(inputs, "whole"), device, quick=quick)


def save(choices: Sequence[Choice], device: torch.device) -> Path:
    """Write what is better into the user's table, and return where that is."""
    from codetr_kernels.deform_attention.triton import configs, launch

    return configs.save({launch.architecture(device): {c.key: c.best for c in choices if c.is_better}})


def grid(*, many_queries: bool, quick: bool = False) -> list[Config]:
    """The configurations that are tried."""
    from codetr_kernels.deform_attention.triton.configs import Config

    blocks = (8, 32) if quick else (4, 8, 16, 32, 64)
    warps = (1, 4) if quick else (1, 2, 4)
    tiles = (0, 4, 8) if many_queries else (0,)
    tried = [Config(*numbers) for numbers in itertools.product(blocks, warps, (1, 2), tiles)]
    return [config for config in tried if not config.tile_w or config.block_q % config.tile_w == 0]


def _problems() -> list[Problem]:
    levels = image_levels((8, 16, 32, 64))
    return [
        Problem(f"tune-{name}", levels, 2, queries, dtype)
        for name, queries in (("encoder", None), ("decoder", 900))
        for dtype in (torch.float32, torch.bfloat16)
    ]


def _tune(
    problem: Problem, inputs: Inputs, ours: Candidate, truth: Truth, device: torch.device, *, quick: bool
) -> Iterator[Choice]:
    from codetr_kernels.deform_attention.triton import configs, launch

    many = problem.batch * problem.rows >= configs.MANY_QUERIES
    directions: tuple[Direction, ...] = ("forward", "backward")
    present = {}
    for direction in directions:
        class_ = configs.ShapeClass(
            launch.architecture(device), direction, problem.dtype.itemsize, launch.block_d(problem.channels), many
        )
        present[direction] = (class_.key(), configs.choose(class_))
    measured, refused = _measure_all(
        [*{config for _, config in present.values()}, *grid(many_queries=many, quick=quick)],
        inputs, ours, truth, device, quick=quick,
    )  # fmt: skip
    for direction in directions:
        key, config = present[direction]
        times = {tried: both[direction] for tried, both in measured.items()}
        best = min(times, key=lambda tried: times[tried])
        yield Choice(key, config, times[config], best, times[best], len(measured), refused)


def _measure_all(
    tried: Sequence[Config], inputs: Inputs, ours: Candidate, truth: Truth, device: torch.device, *, quick: bool
) -> tuple[dict[Config, dict[Direction, float]], int]:
    """Milliseconds of each direction by configuration, and how many could not run."""
    from codetr_kernels.deform_attention.triton import configs
    from triton.runtime.errors import OutOfResources

    forward, step = calls(ours, inputs, "whole")
    seconds = 0.02 if quick else 0.05
    measured: dict[Config, dict[Direction, float]] = {}
    refused = 0
    for config in dict.fromkeys(tried):
        with configs.override(config):
            try:
                is_right = not check(ours, inputs, "whole", truth).faults
            except OutOfResources:
                is_right = False
            if not is_right:
                refused += 1
                continue
            times = measure(forward, device, seconds=seconds), measure(step, device, seconds=seconds)
        measured[config] = {"forward": times[0].median, "backward": times[1].median - times[0].median}
    return measured, refused

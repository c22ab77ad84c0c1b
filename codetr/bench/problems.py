"""What is measured: problems of the papers' sizes, and seeded inputs with their locality.

Dimension key: B batch, S tokens of all levels, H heads, D channels of a head, Q queries, L levels, P points.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from codetr_kernels.deform_attention.reference import sampling_locations
from torch import Tensor

from codetr.errors import UserError, nearest

IMAGE = (800, 1333)
"""Height and width in pixels: the usual size of COCO images in training and evaluation."""

STRIDES = {4: (8, 16, 32, 64), 5: (4, 8, 16, 32, 64)}
DECODERS = (300, 900, 1500)
BATCHES = (1, 2, 4, 8)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Problem:
    """One size of multi-scale deformable attention.

    levels: (height, width) of each. queries: None for an encoder, whose queries are the cells of the levels.
    """

    name: str
    levels: tuple[tuple[int, int], ...]
    batch: int
    queries: int | None
    dtype: torch.dtype
    heads: int = 8
    channels: int = 32
    points: int = 4

    @property
    def tokens(self) -> int:
        """S."""
        return sum(height * width for height, width in self.levels)

    @property
    def rows(self) -> int:
        """Q."""
        return self.tokens if self.queries is None else self.queries

    @property
    def samples(self) -> int:
        """Points of all images, queries, heads and levels."""
        return self.batch * self.rows * self.heads * len(self.levels) * self.points


@dataclass(frozen=True)
class Inputs:
    """Tensors of a problem. value, offsets, logits, weights, grad: in its dtype; references, locations: float32.

    value: (B, S, H, D). references: (B, Q, L, 2). offsets: (B, Q, H, L, P, 2), in cells. logits: (B, Q, H, L * P).
    padding: (B, S). grad: (B, Q, H * D), what the backward pass starts from.
    """

    shapes: tuple[tuple[int, int], ...]
    value: Tensor
    references: Tensor
    offsets: Tensor
    logits: Tensor
    padding: Tensor
    grad: Tensor

    @cached_property
    def locations(self) -> Tensor:
        """(B, Q, H, L, P, 2), for the operation alone."""
        return sampling_locations(self.offsets.float(), self.references, self.shapes)

    @cached_property
    def weights(self) -> Tensor:
        """(B, Q, H, L, P), for the operation alone, rounded to the problem's dtype."""
        return self.logits.float().softmax(-1).view(self.offsets.shape[:-1]).to(self.value.dtype)


def paper_problems() -> list[Problem]:
    """Encoders and decoders at 800 x 1333, of 4 and 5 levels, in every batch size and dtype."""
    return [
        Problem(f"{stem}-l{count}-b{batch}-{short}", image_levels(strides), batch, queries, dtype)
        for count, strides in STRIDES.items()
        for stem, queries in [("encoder", None), *((f"decoder{number}", number) for number in DECODERS)]
        for batch in BATCHES
        for short, dtype in DTYPES.items()
    ]


def small_problems() -> list[Problem]:
    """What a CPU does in a second, with odd sizes."""
    levels = ((25, 42), (13, 21), (7, 11))
    return [
        Problem(f"{stem}-{short}", levels, 2, queries, dtype)
        for stem, queries in (("small-encoder", None), ("small-decoder", 100))
        for short, dtype in DTYPES.items()
    ]


def image_levels(strides: Sequence[int], image: tuple[int, int] = IMAGE) -> tuple[tuple[int, int], ...]:
    """(height, width) of the levels of an image, as a backbone that rounds up makes them."""
    return tuple((-(-image[0] // stride), -(-image[1] // stride)) for stride in strides)


def select(patterns: Sequence[str], *, device: torch.device, quick: bool) -> list[Problem]:
    """The problems that are called so; `*` stands for anything. Without patterns: what suits the device.

    That is the small ones on a CPU, else the papers' at batch 2. quick: only two small ones without patterns.

    Raises:
        UserError: no problem is called so.
    """
    known = [*small_problems(), *paper_problems()]
    if not patterns:
        if quick:
            return [problem for problem in known if problem.name in ("small-encoder-fp32", "small-decoder-bf16")]
        return small_problems() if device.type == "cpu" else [p for p in paper_problems() if p.batch == 2]
    for pattern in patterns:
        if not fnmatch.filter([problem.name for problem in known], pattern):
            close = nearest(pattern, [problem.name for problem in known])
            hint = f"did you mean {close!r}?" if close else "`codetr bench kernels --list` names them all"
            raise UserError(f"--problem {pattern}: no problem is called so; {hint}")
    return [p for p in known if any(fnmatch.fnmatchcase(p.name, pattern) for pattern in patterns)]


def make_inputs(problem: Problem, device: torch.device, *, seed: int = 0) -> Inputs:
    """Seeded inputs, the same on every device.

    Encoder references are the centres of the cells; those of a decoder lie anywhere. Offsets are normal with two cells
    of deviation on every level, the reach of a trained model's points. The last tenth of the second image, and of every
    other one after it, is padding.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    batch, rows, heads, count = problem.batch, problem.rows, problem.heads, len(problem.levels)
    if problem.queries is None:
        centres = _cell_centres(problem.levels).expand(batch, -1, -1)
    else:
        centres = torch.rand(batch, rows, 2, generator=generator)
    value = normal(batch, problem.tokens, heads, problem.channels)
    offsets = 2 * normal(batch, rows, heads, count, problem.points, 2)
    logits = normal(batch, rows, heads, count * problem.points)
    grad = normal(batch, rows, heads * problem.channels)
    return Inputs(
        shapes=problem.levels,
        value=value.to(device, problem.dtype),
        references=centres[:, :, None].expand(-1, -1, count, -1).contiguous().to(device),
        offsets=offsets.to(device, problem.dtype),
        logits=logits.to(device, problem.dtype),
        padding=_right_padding(problem).to(device),
        grad=grad.to(device, problem.dtype),
    )


def _cell_centres(levels: Sequence[tuple[int, int]]) -> Tensor:
    """(S, 2), x then y, in units of the image."""
    centres = []
    for height, width in levels:
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append(torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=-1).flatten(0, 1))
    return torch.cat(centres)


def _right_padding(problem: Problem) -> Tensor:
    """(B, S): the right tenth of every second image."""
    rows = []
    for height, width in problem.levels:
        rows.append((torch.arange(width) >= width - width // 10).expand(height, -1).flatten())
    padded = torch.arange(problem.batch) % 2 == 1
    return padded[:, None] & torch.cat(rows)

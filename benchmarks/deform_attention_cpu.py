"""Forms of multi-scale deformable attention on a CPU: how many times as fast as one grid_sample a level.

    python benchmarks/deform_attention_cpu.py [--threads 2] [--repeats 15] [--compiled]

Forms take turns in one process, and each ratio is that of two medians, so that other load meets all of them alike.
With one thread it is processor time that is compared, which other processes change little. Writes
benchmarks/results/deform_attention_cpu.{json,md}.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _common import environment, write
from codetr_kernels.deform_attention.cpu import _corners, _table, deform_attention_cpu
from codetr_kernels.deform_attention.reference import deform_attention_reference
from torch import Tensor

Shapes = list[tuple[int, int]]
Form = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]
SMALL: Shapes = [(16, 16), (8, 8), (4, 4), (2, 2)]
LARGE: Shapes = [(100, 134), (50, 67), (25, 34), (13, 17)]
# Level shapes, batch, heads, channels of a head, queries (None: the encoder's, one a token).
PROBLEMS: dict[str, tuple[Shapes, int, int, int, int | None]] = {
    "small encoder, 10 x 4 x 24": (SMALL, 10, 4, 24, None),
    "small encoder, 10 x 8 x 32": (SMALL, 10, 8, 32, None),
    "large encoder, 1 x 8 x 32": (LARGE, 1, 8, 32, None),
    "decoder of 300, 1 x 8 x 32": (LARGE, 1, 8, 32, 300),
}
POINTS = 4


def channels_last(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The reference on planes whose channels lie together."""
    batch, _, heads, channels = value.shape
    queries, output = locations.shape[1], 0
    for index, (shape, level) in enumerate(zip(shapes, value.split([h * w for h, w in shapes], 1), strict=True)):
        plane = level.transpose(1, 2).reshape(batch * heads, *shape, channels).permute(0, 3, 1, 2)
        grid = (2 * locations[:, :, :, index] - 1).transpose(1, 2).reshape(batch * heads, queries, POINTS, 2)
        weight = weights[:, :, :, index].transpose(1, 2).reshape(batch * heads, 1, queries, POINTS)
        output = output + (F.grid_sample(plane, grid, align_corners=False) * weight).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2)


def rows_and_shares(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """The table, and the rows and shares of the four corners of every sample of a query and head."""
    table = _bordered(value, shapes)
    corners = _corners(locations, shapes, table.shape[1])
    rows = torch.cat([index + shift for index, shift in corners.rows()], -1)
    return table.view(-1, value.shape[-1]), rows, torch.cat(corners.shares(weights.reshape(corners.x.shape)), -1)


def _bordered(value: Tensor, shapes: Shapes) -> Tensor:
    if not value.requires_grad:
        return _table(value, shapes)
    levels = value.flatten(2).split([h * w for h, w in shapes], 1)
    padded = [F.pad(x.unflatten(1, s), (0, 0, 1, 1, 1, 1)).flatten(1, 2) for x, s in zip(levels, shapes, strict=True)]
    return torch.cat(padded, 1).unflatten(2, value.shape[2:])


def gather(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """All corners' rows in memory, and one product with their shares."""
    table, rows, shares = rows_and_shares(value, shapes, locations, weights)
    picked = table.index_select(0, rows.flatten()).view(*rows.shape, -1)
    return torch.bmm(shares[:, None], picked).view(*locations.shape[:2], -1)


def embedding_bag(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """One bag of all corners for each query and head, differentiated by autograd."""
    table, rows, shares = rows_and_shares(value, shapes, locations, weights)
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares).view(*locations.shape[:2], -1)


def forms(*, compiled: bool) -> dict[str, Form]:
    """The reference first; compiled ones need a C++ compiler."""
    found: dict[str, Form] = {
        "reference": deform_attention_reference,
        "channels last": channels_last,
        "gather": gather,
        "embedding_bag": embedding_bag,
        "deform_attention_cpu": deform_attention_cpu,
    }
    if compiled:
        for form in (deform_attention_reference, gather):
            found[f"{form.__name__}, compiled"] = torch.compile(form, dynamic=False)
    return found


def problem(name: str) -> tuple[Tensor, Shapes, Tensor, Tensor]:
    """Encoder samples lie about their own token, two cells away; decoder samples anywhere."""
    shapes, batch, heads, channels, queries = PROBLEMS[name]
    tokens = sum(height * width for height, width in shapes)
    centres = torch.cat(
        [
            torch.cartesian_prod(torch.arange(h) + 0.5, torch.arange(w) + 0.5).div(torch.tensor([h, w]))
            for h, w in shapes
        ]
    )
    spread = 2 / torch.tensor([(width, height) for height, width in shapes])[:, None]
    around = torch.randn(batch, queries or tokens, heads, len(shapes), POINTS, 2) * spread
    locations = torch.rand_like(around) if queries else centres.flip(-1).view(1, tokens, 1, 1, 1, 2) + around
    weights = torch.randn(*around.shape[:3], len(shapes) * POINTS).softmax(-1).view(around.shape[:-1])
    return torch.randn(batch, tokens, heads, channels), shapes, locations, weights


def run(form: Form, given: tuple[Any, ...], clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of a forward pass without gradients, and of one with its backward pass."""
    value, shapes, locations, weights = given
    start = clock()
    with torch.no_grad():
        form(value, shapes, locations, weights)
    middle = clock()
    leaves = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    form(leaves[0], shapes, *leaves[1:]).sum().backward()
    return middle - start, clock() - middle


def compare(name: str, candidates: dict[str, Form], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians over the repeats, after one call of each that is not counted."""
    torch.manual_seed(0)
    given = problem(name)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    times: dict[str, list[tuple[float, float]]] = {form: [] for form in candidates}
    for repeat in range(options.repeats + 1):
        for form, function in candidates.items():
            taken = run(function, given, clock)
            if repeat:
                times[form].append(taken)
    medians = {
        form: [statistics.median(column) for column in zip(*taken, strict=True)] for form, taken in times.items()
    }
    return [
        {"problem": name, "form": form, "forward_s": forward, "forward_backward_s": both}
        for form, (forward, both) in medians.items()
    ]


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Forward / forward and backward, each as times as fast as the reference."""
    names = list(dict.fromkeys(row["form"] for row in rows))
    clock = "processor time" if options.threads == 1 else "wall time"
    lines = [
        "# Multi-scale deformable attention on a CPU\n",
        f"Speed over the reference, forward / forward and backward; float32, {options.threads} threads, {clock}, "
        f"{options.repeats} repeats. The reference's own column: milliseconds.\n",
        f"| problem (B x H x D) | {' | '.join(names)} |",
        "|" + "---|" * (len(names) + 1),
    ]
    for name in PROBLEMS:
        own = {row["form"]: row for row in rows if row["problem"] == name}
        base = own[names[0]]
        cells = [f"{1e3 * base['forward_s']:.0f} / {1e3 * base['forward_backward_s']:.0f} ms"]
        ratio = functools.partial(lambda row, key, base: f"{base[key] / row[key]:.2f}", base=base)
        cells += [f"{ratio(own[form], 'forward_s')} / {ratio(own[form], 'forward_backward_s')}" for form in names[1:]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    candidates = forms(compiled=options.compiled)
    rows = [row for name in PROBLEMS for row in compare(name, candidates, options)]
    record = {"environment": environment(), "threads": options.threads, "repeats": options.repeats, "rows": rows}
    write("deform_attention_cpu", record, table(rows, options))


if __name__ == "__main__":
    main()
